import pytest
import torch

from probes.circuits import qk_circuit
from probes.slices import ablate_slices, attention_slices, slices_needed


def test_slices_needed_by_hand():
    slices = torch.tensor(
        [
            [3.0, 1.0, 0.0],  # 4 needs both
            [5.0, 1.0, -3.0],  # 3 is reached by 5
            [-5.0, 1.0, -1.0],  # -5 is reached by -5
            [-3.0, -2.0, 1.0],  # -4 by -3 and -2
            [1.0, 1.0, 1.0],
            [0.0, 0.0, 0.0],
        ]
    )
    assert slices_needed(slices).tolist() == [2, 1, 1, 2, 3, 1]
    assert slices_needed(slices[:, [2, 0, 1]]).tolist() == [2, 1, 1, 2, 3, 1]  # the order of the slices is no matter


def test_slices_of_a_toy_sum_to_its_scores(toy):
    _, scores = toy.model(toy.inputs)
    for head in range(2):
        split = attention_slices(toy.model, toy.inputs, 0, head)
        assert split.scale == pytest.approx(1, abs=1e-6)
        assert len(split.pairs) == 5 * 3 * 3
        torch.testing.assert_close(split.scores.float(), scores[:, head][tuple(split.pairs.T)].detach())
        torch.testing.assert_close(split.slices.sum(-1), split.scores)


@pytest.mark.parametrize("fold_norm", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma", "neox"])
def test_slices_of_a_transformer_sum_to_its_scores(make_bridge, name, fold_norm):
    """The model's own `hook_attn_scores`, biases, norms, grouped queries and rotary positions and all."""
    model, tokens = make_bridge(name)
    _, cache = model.run_with_cache(tokens)
    for head in (0, 3):
        split = attention_slices(model, tokens, 1, head, fold_norm=fold_norm)
        assert len(split.pairs) == 2 * 21  # causal: 6 * 7 / 2 pairs each
        scores = cache["blocks.1.attn.hook_attn_scores"][:, head].detach()[tuple(split.pairs.T)]
        torch.testing.assert_close(split.scores, scores.double(), rtol=0, atol=1e-4)
        assert split.scale == pytest.approx(8**-0.5, rel=1e-5)


@pytest.mark.parametrize("name", ["tiny", "bert"])
def test_where_the_scores_hook_holds_no_scores_the_pattern_judges(make_bridge, name):
    model, tokens = make_bridge(name)
    _, cache = model.run_with_cache(tokens)
    split = attention_slices(model, tokens, 1, 2)
    scores = torch.full((2, 6, 6), -torch.inf, dtype=torch.float64)
    scores[tuple(split.pairs.T)] = split.scores
    pattern = cache["blocks.1.attn.hook_pattern"][:, 2].detach()
    torch.testing.assert_close(scores.softmax(-1).float(), pattern, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["toy", "gpt2", "llama", "neox"])
def test_relative_slices_sum_to_what_the_softmax_feels(make_bridge, toy, name):
    """Score minus the mean over the keys that the query sees, from the model's own scores."""
    model, inputs = (toy.model, toy.inputs) if name == "toy" else make_bridge(name)
    layer = 0 if name == "toy" else 1
    _, cache = model.run_with_cache(inputs)
    scores = cache[f"blocks.{layer}.attn.hook_attn_scores"][:, 1].detach().double()
    seen = scores > -1e30
    mean = torch.where(seen, scores, 0).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True)
    for fold_norm in (False, True) if name != "toy" else (False,):
        split = attention_slices(model, inputs, layer, 1, relative=True, fold_norm=fold_norm, n_null=1)
        torch.testing.assert_close(split.slices.sum(-1), (scores - mean)[tuple(split.pairs.T)], rtol=0, atol=1e-5)
    # what is the same for every key is gone: a query that sees one key has nothing to say
    if name != "toy":
        alone = split.pairs[:, 1] == 0
        assert split.slices[alone].abs().max() < 1e-9


def test_slices_are_what_their_names_say(subject):
    """Slice k is the score that Omega would give with singular pair k alone."""
    # a bridge's attention reads what its norm returns; a HookedTransformer's hook there is before gain and shift: 1, 0
    names = ("hook_hidden", "blocks.0.attn.hook_in", "blocks.0.ln1.hook_normalized")
    reads = next(name for name in names if name in subject.model.hook_dict)
    _, cache = subject.model.run_with_cache(subject.inputs)
    x = cache[reads].detach().double()
    x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    omega = qk_circuit(subject.model, 0, 1, bias=True)
    split = attention_slices(subject.model, subject.inputs, 0, 1)
    alone = omega.S[1] * torch.outer(omega.U[:, 1], omega.Vh[1])
    e, q, k = split.pairs.T
    expected = split.scale * torch.einsum("pi,ij,pj->p", x[e, q], alone, x[e, k])
    torch.testing.assert_close(split.slices[:, 1], expected)


def test_chosen_pairs_are_those_of_all_pairs(subject):
    every = attention_slices(subject.model, subject.inputs, 0, 0)
    chosen = torch.tensor([[4, 2, 1], [0, 2, 2], [4, 2, 1]])
    some = attention_slices(subject.model, subject.inputs, 0, 0, pairs=chosen)
    assert torch.equal(some.pairs, chosen)
    rows = [every.pairs.tolist().index(pair) for pair in chosen.tolist()]
    torch.testing.assert_close(some.slices, every.slices[rows])
    assert torch.equal(some.needed, every.needed[rows])


def test_a_planted_direction_is_one_slice_and_not_one_of_the_null(toy):
    """Inputs along one singular pair of a full-rank Omega: one slice says it all, a rotation spreads it."""
    from tms_hooks.config import ToyConfig
    from tms_hooks.models.toy import ToyModel

    m = 16
    model = ToyModel(ToyConfig(n_features=m, d_hidden=m, n_heads=1, d_head=m, tied=True), seed=0)
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(m, m, generator=generator))[0] for _ in range(2))
    with torch.no_grad():
        model.W_E.copy_(torch.eye(m))
        model.blocks[0].attn.W_Q.copy_((U * torch.linspace(2, 1, m))[None])
        model.blocks[0].attn.W_K.copy_(V[None])
    x = torch.stack([U[:, 5], V[:, 5]])[None]  # identity embedding: the hidden layer is the input
    split = attention_slices(model, x, 0, 0, pairs=torch.tensor([[0, 0, 1]]), n_null=200)
    assert split.needed.tolist() == [1]
    # rotated by R the parts are squares R_5j^2 of one sign: none of the sixteen can be left out
    assert (split.null_needed == m).all()


def test_a_position_bias_is_told_apart(make_bridge):
    """ALiBi: -m (query - key) with m = 2^(-8 h / 4) for head h of 4, counted from 1 (Press et al. 2022)."""
    model, tokens = make_bridge("bloom")
    split = attention_slices(model, tokens, 1, 2)
    _, query, key = split.pairs.T
    mean = query / 2.0  # of the distances that a query sees
    torch.testing.assert_close(split.position_bias, (2.0**-6 * (mean - (query - key))).double(), rtol=0, atol=1e-5)
    assert not attention_slices(*make_bridge("llama"), 1, 2).position_bias.any()


def test_half_precision(make_bridge):
    """bfloat16 keeps eight bits: its scores are judged by that, and are those of the same weights to a percent."""
    model, tokens = make_bridge("llama")
    exact = attention_slices(model, tokens, 1, 2, n_null=1)
    found = attention_slices(model.to(torch.bfloat16), tokens, 1, 2, n_null=1)
    assert found.scale == pytest.approx(exact.scale, rel=0.02)
    assert (found.scores - exact.scores).norm() < 0.03 * exact.scores.norm()


def test_scores_that_are_not_bilinear_are_refused(make_bridge):
    model, tokens = make_bridge("bloom")  # ALiBi adds a bias of the distance: one example cannot tell
    with pytest.raises(ValueError, match="a position bias can be told apart on several examples"):
        attention_slices(model, tokens[:1], 1, 0)
    model, tokens = make_bridge("qwen3")
    with pytest.raises(ValueError, match="normalizes queries and keys"):
        attention_slices(model, tokens, 1, 0)


def test_bad_requests(subject):
    with pytest.raises(IndexError, match="head 9"):
        attention_slices(subject.model, subject.inputs, 0, 9)
    with pytest.raises(ValueError, match=r"\(0, 0, 99\) is masked or outside the inputs"):
        attention_slices(subject.model, subject.inputs, 0, 0, pairs=torch.tensor([[0, 0, 99]]))
    with pytest.raises(KeyError, match="no hook 'hook_hid'"):
        attention_slices(subject.model, subject.inputs, 0, 0, hook="hook_hid")
    with pytest.raises(ValueError, match=r"give inputs of at least two positions|give two examples of three positions"):
        attention_slices(subject.model, subject.inputs[:, :1] * 0, 0, 0)


@pytest.mark.parametrize("name", ["toy", "tiny", "gpt2", "llama", "neox"])
def test_an_ablated_slice_is_gone_from_every_score(make_bridge, toy, name):
    """Independent reference: the model's own scores, less what `attention_slices` gives those slices."""
    model, inputs = (toy.model, toy.inputs) if name == "toy" else make_bridge(name)
    layer, offset = (0 if name == "toy" else 1), (2 if name in ("llama", "neox") else 0)

    def scores(head):
        _, cache = model.run_with_cache(inputs)
        if name != "tiny":
            return cache[f"blocks.{layer}.attn.hook_attn_scores"][:, head].detach().double()
        # whose hook holds no scores: by the pattern, as much as the first key, which every query sees
        logs = cache[f"blocks.{layer}.attn.hook_pattern"][:, head].detach().double().clamp_min(1e-30).log()
        return logs - logs[..., :1]

    ran = []

    def metric(out):
        ran.append((scores(1), scores(0)))
        return (out if isinstance(out, torch.Tensor) else out.attn_scores).flatten(1).sum(1)

    (before, others), split = (scores(1), scores(0)), attention_slices(model, inputs, layer, 1)
    table = ablate_slices(model, inputs, metric, layer, 1, [0, 2], offset=offset, n_random=2)
    gone = torch.zeros_like(before)
    gone[tuple(split.pairs.T)] = split.slices[:, [0, 2]].sum(-1)
    gone = gone - gone[..., :1] if name == "tiny" else gone
    _, query, key = split.pairs.T
    visible, judged = split.pairs.T, split.pairs[(query - key == offset) | (offset == 0)].T
    nothing, slices, silent = (run[0] for run in ran[:3])
    torch.testing.assert_close(slices[tuple(judged)], (before - gone)[tuple(judged)], rtol=0, atol=2e-5)
    assert (slices - before)[tuple(judged)].abs().max() > 0.01
    torch.testing.assert_close(silent[tuple(visible)], torch.zeros(len(query)).double(), rtol=0, atol=2e-5)
    torch.testing.assert_close(nothing, before, rtol=0, atol=2e-5)
    torch.testing.assert_close(ran[1][1], others, rtol=0, atol=0)  # the other heads read on as before
    torch.testing.assert_close(scores(1), before, rtol=0, atol=0)  # and so does this one, afterwards
    assert table.index.tolist() == ["nothing", "slices", "head", "random", "random"]
    assert (table.loc["nothing", "change"], table.loc["head", "share"]) == (0, 1)


def test_a_planted_slice_carries_the_metric_and_random_ones_do_not(toy):
    """Feature 2 is compared with feature 4 along one direction, much else along seven others."""
    from tms_hooks.config import ToyConfig
    from tms_hooks.models.toy import ToyModel

    model = ToyModel(ToyConfig(n_features=8, d_hidden=8, n_heads=1, d_head=8, tied=True), seed=0)
    with torch.no_grad():
        model.W_E.copy_(torch.eye(8))
        model.blocks[0].attn.W_Q.copy_(torch.diag(torch.tensor([3.0, 1, 2, 0.9, 0.8, 0.7, 0.6, 0.5]))[None])
        model.blocks[0].attn.W_K.copy_(torch.eye(8).roll(2, 0)[None])  # feature i + 2 is the key of feature i
    x = torch.stack([torch.eye(8)[2], torch.eye(8)[4]])[None]
    metric = lambda out: out.attn_scores[:, 0, 0, 1]  # noqa: E731
    table = ablate_slices(model, x, metric, 0, 0, [1], n_random=50)
    assert table.loc["nothing", "metric"] == pytest.approx(2)
    assert table.loc["slices", "share"] == pytest.approx(1)
    assert table.loc["random", "share"].mean() == pytest.approx(1 / 8, abs=0.08)  # one of eight directions: s.e. .02
    assert ablate_slices(model, x, metric, 0, 0, [0, 2, 3], n_random=0).loc["slices", "change"] == pytest.approx(0)


def test_slices_that_cannot_be_taken_away(subject):
    metric = lambda out: torch.zeros(5)  # noqa: E731
    with pytest.raises(IndexError, match="slice 99: head 1 of layer 0 has slices 0 to"):
        ablate_slices(subject.model, subject.inputs, metric, 0, 1, [99])
    for none in ([], [0, 0]):
        with pytest.raises(ValueError, match="name at least one, each once"):
            ablate_slices(subject.model, subject.inputs, metric, 0, 1, none)
    assert ablate_slices(subject.model, subject.inputs, metric, 0, 1, [0], n_random=1)["share"].isna().all()


def test_a_dead_head_has_nothing_to_lose(toy):
    with torch.no_grad():
        toy.model.blocks[0].attn.W_Q[1] = 0.0
    metric = lambda out: out.attn_scores.flatten(1).sum(1)  # noqa: E731
    table = ablate_slices(toy.model, toy.inputs, metric, 0, 1, [0])
    assert table.index.tolist() == ["nothing", "slices", "head"] + 20 * ["random"]
    assert (table["change"] == 0).all() and table["share"].isna().all()


@pytest.mark.real_weights
def test_slices_of_smollm2():
    """Rotary and grouped queries on real weights: head 0 of layer 23 moves the name."""
    from probes.transformers import load_transformer

    model = load_transformer("smollm2")
    tokens = model.to_tokens("When Mary and John went to the store, John gave a drink to")
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=["blocks.23.attn.hook_attn_scores"])
    split = attention_slices(model, tokens, 23, 0)
    scores = cache["blocks.23.attn.hook_attn_scores"][:, 0][tuple(split.pairs.T)]
    torch.testing.assert_close(split.scores, scores.double(), rtol=0, atol=1e-4)


def test_slices_of_either_sign_reach_their_score_in_spite_of_rounding():
    parts = torch.tensor([[0.1] * 10, [-0.1] * 10, [0.7, 0.1, -0.3] + [0.1] * 7], dtype=torch.float64)
    assert parts[0].cumsum(0)[-1] != 1  # ten tenths are not one
    for order in (torch.arange(10), torch.arange(9, -1, -1)):
        assert slices_needed(parts[:2, order]).tolist() == [10, 10]
    for unit in (1.0, 1e-9, 1e9):
        assert slices_needed(unit * torch.cat([parts, -parts])).tolist() == [10, 10, 6, 10, 10, 6]  # 1.2 = .7 + 5 x .1


def test_a_hundred_rotations_are_the_default_and_none_can_be_asked_for(toy):
    assert attention_slices(toy.model, toy.inputs, 0, 0).null_needed.shape == (100, 45)
    assert attention_slices(toy.model, toy.inputs, 0, 0, n_null=0).null_needed.shape == (0, 45)


def test_the_first_position_behind_the_inputs_is_outside(toy):
    for pair in ([0, 3, 0], [0, 0, 3], [5, 0, 0], [0, -1, 0]):
        with pytest.raises(ValueError, match="is masked or outside the inputs"):
            attention_slices(toy.model, toy.inputs, 0, 0, pairs=torch.tensor([pair]), n_null=0)


def test_slices_can_be_taken_from_scores_of_any_size(toy):
    metric = lambda out: out.attn_scores.flatten(1).sum(1)  # noqa: E731
    small, large = (ablate_slices(toy.model, unit * toy.inputs, metric, 0, 1, [0], n_random=2) for unit in (1.0, 1e4))
    torch.testing.assert_close(large["share"].to_list()[1:], small["share"].to_list()[1:], rtol=1e-3, atol=1e-3)


def test_queries_that_are_not_what_the_weights_make_are_not_ablated(toy):
    """A constant is found in the scores, but what a slice adds to the query is not known any more."""
    toy.model.blocks[0].attn.hook_q.add_perma_hook(lambda value, hook: 1.01 * value)
    with pytest.raises(ValueError, match="layer 0, head 1: hook_q does not hold what W_Q makes"):
        ablate_slices(toy.model, toy.inputs, lambda out: out.attn_scores.flatten(1).sum(1), 0, 1, [0])


def test_the_null_splits_the_score_of_two_oblique_vectors_along_random_axes():
    """Independent rotations of the same two vectors need as many slices on average, in five dimensions."""
    from tms_hooks.config import ToyConfig
    from tms_hooks.models.toy import ToyModel

    m, n = 5, 2000
    model = ToyModel(ToyConfig(n_features=m, d_hidden=m, n_heads=1, d_head=m, tied=True), seed=0)
    with torch.no_grad():
        model.W_E.copy_(torch.eye(m))
        model.blocks[0].attn.W_Q.copy_(torch.eye(m)[None])
        model.blocks[0].attn.W_K.copy_(torch.eye(m)[None])
    query, key = torch.tensor([3.0, 0, 0, 0, 0]), torch.tensor([0.5, 0.8, 0, 0, 0])
    split = attention_slices(model, torch.stack([query, key])[None], 0, 0, pairs=torch.tensor([0, 0, 1]), n_null=n)
    axes = torch.linalg.qr(torch.randn(n, m, m, generator=torch.Generator().manual_seed(9)))[0]
    needed = slices_needed((query @ axes) * (key @ axes)).double()
    found = split.null_needed[:, 0].double()
    assert (found.mean() - needed.mean()).abs() < 4 * ((found.var() + needed.var()) / n) ** 0.5
