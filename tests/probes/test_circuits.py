import pytest
import torch
from transformer_lens import FactoredMatrix

from probes.alignment import align, nearest_tokens
from probes.architectures import rotations
from probes.circuits import factored_svd, ov_circuit, qk_circuit
from probes.slices import attention_slices
from tests.probes import zoo

FAMILIES = ["tiny", "gpt2", "llama", "gemma", "neox"]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_one(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, torch.ones_like(x[..., :1])], -1).double()


@pytest.mark.parametrize("shape", [(64, 64, 8), (5, 9, 3), (3, 5, 4), (5, 3, 4), (2, 2, 6)])
def test_factored_svd_is_the_svd_of_the_product(shape):
    """Independent references: the dense SVD, and TransformerLens's FactoredMatrix."""
    d_left, d_right, rank = shape
    left, right = randn(7, d_left, rank), randn(7, d_right, rank, seed=1)
    U, S, Vh = factored_svd(left, right)
    k = S.shape[-1]
    assert k == min(shape)
    torch.testing.assert_close(U @ torch.diag_embed(S) @ Vh, left @ right.mT)
    torch.testing.assert_close(S, torch.linalg.svdvals(left @ right.mT)[..., :k])
    torch.testing.assert_close(S, FactoredMatrix(left, right.mT).S[..., :k])
    eye = torch.eye(k, dtype=torch.float64).expand(7, k, k)
    torch.testing.assert_close(U.mT @ U, eye)
    torch.testing.assert_close(Vh @ Vh.mT, eye)


def test_factored_svd_by_hand():
    # [[3, 0], [0, 4]] [[0, 1], [1, 0]]^T = [[0, 3], [4, 0]]
    U, S, Vh = factored_svd(torch.diag(torch.tensor([3.0, 4.0])), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    torch.testing.assert_close(S, torch.tensor([4.0, 3.0]))
    torch.testing.assert_close(U[:, 0].abs(), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(Vh[0].abs(), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factored_svd_of_half_precision_is_that_of_its_values(dtype):
    left, right = randn(6, 3).to(dtype), randn(5, 3, seed=1).to(dtype)
    U, S, Vh = factored_svd(left, right)
    torch.testing.assert_close((U * S) @ Vh, left.float() @ right.float().mT)


@pytest.mark.parametrize("kind", ["zero", "repeated", "wide"])
def test_factored_svd_of_degenerate_factors_is_orthonormal(kind):
    left, right = randn(6, 3), randn(9, 3, seed=1)
    if kind == "zero":
        left = left * 0
    elif kind == "repeated":  # three equal singular values, and a basis that is nobody's
        left, right = (torch.linalg.qr(one)[0] for one in (left, right))
    else:
        left, right = randn(2, 7), randn(9, 7, seed=1)
    U, S, Vh = factored_svd(left, right)
    torch.testing.assert_close((U * S) @ Vh, left @ right.mT)
    eye = torch.eye(len(S), dtype=torch.float64)
    torch.testing.assert_close(U.mT @ U, eye)
    torch.testing.assert_close(Vh @ Vh.mT, eye)
    if kind == "repeated":
        torch.testing.assert_close(S, torch.ones(3, dtype=torch.float64))
    for bad in (torch.inf, torch.nan):
        with pytest.raises(ArithmeticError, match="the factors are not finite"):
            factored_svd(left + bad, right)


def test_factored_svd_of_a_rank_deficient_product():
    left = randn(6, 4)
    left[:, 3] = left[:, 2]
    U, S, Vh = factored_svd(left, randn(5, 4, seed=1))
    torch.testing.assert_close((U * S) @ Vh, left @ randn(5, 4, seed=1).mT)
    _, S, _ = factored_svd(torch.zeros(6, 4), torch.zeros(5, 4))
    assert not S.any()


def test_a_decomposition_that_fails_is_not_returned(monkeypatch):
    svd = torch.linalg.svd

    def misconverged(*args, **kwargs):
        U, S, Vh = svd(*args, **kwargs)
        return U, S * torch.tensor([1.0, 1.01, 1.0], dtype=S.dtype), Vh

    monkeypatch.setattr(torch.linalg, "svd", misconverged)
    with pytest.raises(ArithmeticError, match="does not reconstruct"):
        factored_svd(randn(6, 3), randn(5, 3))


def test_omega_of_a_head_is_W_Q_W_K(subject):
    attention = subject.model.blocks[0].attn
    for head in range(attention.W_Q.shape[0]):
        omega = qk_circuit(subject.model, 0, head)
        torch.testing.assert_close(omega.matrix, attention.W_Q[head].double() @ attention.W_K[head].double().mT)
        torch.testing.assert_close((omega.U * omega.S) @ omega.Vh, omega.matrix)


def test_omega_makes_the_scores_of_a_toy(toy):
    (_, scores), cache = toy.model.run_with_cache(toy.inputs)
    h = cache["hook_hidden"].double()
    for head in range(2):
        made = h @ qk_circuit(toy.model, 0, head).matrix @ h.mT
        torch.testing.assert_close(made.float(), scores[:, head])


@pytest.mark.parametrize(
    ("name", "fold_norm"), [(name, fold) for name in FAMILIES for fold in (False, True)] + [("bert", False)]
)
def test_omega_makes_the_pattern_of_a_transformer(make_bridge, name, fold_norm):
    """Biases, both norms (with offset), grouped queries, rotary (partial too): the model's own softmax is the judge."""
    model, tokens = make_bridge(name)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    x = with_one(cache["blocks.1.ln1.hook_normalized" if fold_norm else "blocks.1.attn.hook_in"])
    d_head = model.blocks[1].attn.W_Q.shape[-1]
    for head in (1, 2):  # of grouped queries the second and third share no key head
        pattern = cache["blocks.1.attn.hook_pattern"][:, head].double()
        scores = torch.full_like(pattern, -torch.inf)
        for q in range(tokens.shape[1]):
            for k in range(tokens.shape[1]):
                offset = q - k if hasattr(model, "rotary_emb") else 0
                omega = qk_circuit(model, 1, head, bias=True, fold_norm=fold_norm, offset=offset)
                scores[:, q, k] = torch.einsum("bi,ij,bj->b", x[:, q], omega.matrix, x[:, k])
        scores = (scores / d_head**0.5).masked_fill(pattern == 0, -torch.inf)
        # the model works in float32
        torch.testing.assert_close(scores.softmax(-1), pattern, rtol=1e-5, atol=1e-6)


def test_a_folded_layer_norm_leaves_nothing_along_the_ones(make_bridge):
    """What is normalized is centered, so that part of Omega would never be seen; an RMSNorm does not center."""
    ones = torch.ones(64, dtype=torch.float64)
    folded = qk_circuit(make_bridge("tiny")[0], 1, 0, fold_norm=True).matrix
    assert (ones @ folded).abs().max() < 1e-10
    assert (folded @ ones).abs().max() < 1e-10
    assert (qk_circuit(make_bridge("llama")[0], 1, 0, fold_norm=True).matrix @ ones[:32]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["tiny", "llama"])
def test_ov_makes_what_a_head_writes(make_bridge, name):
    """Independent reference: the head's own output when everything else is ablated."""
    model, tokens = make_bridge(name)
    head, read, z = 3, "blocks.1.attn.hook_in", "blocks.1.attn.hook_z"
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    written = cache[z][:, :, head].double() @ model.blocks[1].attn.W_O[head].double()
    pattern = cache["blocks.1.attn.hook_pattern"][:, head].double()
    made = pattern @ with_one(cache[read]) @ ov_circuit(model, 1, head, bias=True).matrix
    torch.testing.assert_close(made, written, rtol=1e-5, atol=1e-6)
    normalized = with_one(cache["blocks.1.ln1.hook_normalized"])
    made = pattern @ normalized @ ov_circuit(model, 1, head, bias=True, fold_norm=True).matrix
    torch.testing.assert_close(made, written, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "neox"])
def test_rotation_is_a_group(make_bridge, name):
    model, _ = make_bridge(name)
    x = randn(3, 8)
    for rotation in rotations(model, 1):
        torch.testing.assert_close(rotation.turn(x, 0), x)
        torch.testing.assert_close(rotation.turn(rotation.turn(x, 3), -5), rotation.turn(x, -2))
        torch.testing.assert_close(rotation.turn(x, 7).norm(dim=-1), x.norm(dim=-1))


def test_unknown_layer_and_head(subject):
    layers, heads = len(subject.model.blocks), subject.model.blocks[0].attn.W_Q.shape[0]
    with pytest.raises(IndexError, match=f"layer 7: this .* has layers 0 to {layers - 1}"):
        qk_circuit(subject.model, 7, 0)
    with pytest.raises(IndexError, match=f"head {heads}: layer 0 .* has heads 0 to {heads - 1}"):
        qk_circuit(subject.model, 0, heads)
    with pytest.raises(IndexError, match="head -1"):
        qk_circuit(subject.model, 0, -1)


def test_what_a_model_lacks(subject):
    with pytest.raises(ValueError, match=r"offset=2: .* has no rotary embedding .*; use offset=0"):
        qk_circuit(subject.model, 0, 0, offset=2)
    if hasattr(subject.model, "W"):
        with pytest.raises(ValueError, match="no norm in front of these weights; use fold_norm=False"):
            qk_circuit(subject.model, 0, 0, fold_norm=True)
        with pytest.raises(ValueError, match=r"no W_V: its heads only score pairs"):
            ov_circuit(subject.model, 0, 0)


def test_a_norm_behind_the_head_is_not_folded(make_bridge):
    with pytest.raises(ValueError, match="no norm in front"):
        qk_circuit(make_bridge("bert")[0], 0, 0, fold_norm=True)


def test_what_the_biases_of_a_toy_s_head_add():
    from tests.probes import zoo

    model, x = zoo.other("toy with heads, biased"), zoo.features("toy with heads, biased")
    W_Q, W_K, b_Q, b_K = (getattr(model, name)[0, 1].double() for name in ("W_Q", "W_K", "b_Q", "b_K"))
    full = qk_circuit(model, 0, 1, bias=True, inputs=x).matrix
    torch.testing.assert_close(full[:-1, :-1], qk_circuit(model, 0, 1).matrix)  # what both inputs make together
    torch.testing.assert_close(full[:-1, -1], W_Q @ b_K)  # a query, whatever the key
    torch.testing.assert_close(full[-1, :-1], W_K @ b_Q)  # a key, whatever the query
    torch.testing.assert_close(full[-1, -1], b_Q @ b_K)
    out, cache = model.run_with_cache(x)
    hidden = cache["hook_hidden"].double()
    queries, keys = hidden @ full[:-1, -1], hidden @ full[-1, :-1]
    left = out.attn_scores[:, 1].double() - hidden @ full[:-1, :-1] @ hidden.mT
    torch.testing.assert_close(left, queries[:, :, None] + keys[:, None] + full[-1, -1], rtol=0, atol=1e-5)


def test_a_toy_without_heads():
    from tms_hooks.config import ToyConfig
    from tms_hooks.models.toy import ToyModel

    with pytest.raises(IndexError, match="layer 0: this ToyModel has no layers"):
        qk_circuit(ToyModel(ToyConfig(n_features=3, d_hidden=2)), 0, 0)
    with pytest.raises(IndexError, match="layer 0 of this ToyModel has no attention heads"):
        qk_circuit(ToyModel(ToyConfig(n_features=3, d_hidden=2, d_mlp=4)), 0, 0)


@pytest.mark.parametrize("factor", [1.0, 0.01])
def test_an_omega_that_does_not_make_the_scores_is_refused(make_bridge, monkeypatch, factor):
    """Also where scores are so small that every pattern is almost uniform."""
    model, _ = make_bridge("llama")
    with torch.no_grad():
        model.blocks[1].attn.W_Q[:] *= factor
    assert qk_circuit(model, 1, 2, offset=3).S[0] > 0
    monkeypatch.setattr("probes.circuits.rotations", lambda model, layer: [])  # as if nothing turned its queries
    with pytest.raises(ValueError, match=r"layer 1, head 2: the model's scores are not x_query Omega x_key"):
        qk_circuit(model, 1, 2)


def test_values_that_a_norm_follows_are_refused(make_bridge, monkeypatch):
    model, _ = make_bridge("llama")
    ov_circuit(model, 1, 2)
    gain = torch.linspace(0.5, 1.5, 32)
    model.blocks[1].attn.o.register_forward_hook(lambda module, inputs, output: output * gain)
    with pytest.raises(ValueError, match="layer 1 adds to the residual stream is no multiple of W_V W_O"):
        ov_circuit(model, 1, 2)


def test_inputs_to_verify_on(toy):
    """A model whose inputs cannot be guessed is given them, and where its heads read."""
    given = qk_circuit(toy.model, 0, 1, inputs=toy.inputs, hook="hook_hidden")
    torch.testing.assert_close(given.matrix, qk_circuit(toy.model, 0, 1).matrix, rtol=0, atol=0)
    with pytest.raises(ValueError, match="not x_query Omega x_key"):
        qk_circuit(toy.model, 0, 1, hook="hook_embed")  # the MLP stands between


@pytest.mark.bridge
@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_positions_that_stretch_have_the_length_of_the_inputs(kind):
    """Whatever the model read last: Omega is that of `inputs`, or of a few short ones; the model's scores judge."""
    model, long = zoo.stretching(kind), zoo.tokens(2, 60)
    short = qk_circuit(model, 1, 1, offset=2).matrix
    model(long)  # after which the rotary tables are those of this length
    torch.testing.assert_close(qk_circuit(model, 1, 1, offset=2).matrix, short, rtol=0, atol=0)
    stretched = qk_circuit(model, 1, 1, offset=2, inputs=long).matrix
    assert (stretched - short).norm() > 0.01 * short.norm()
    _, cache = model.run_with_cache(long)
    x = cache["blocks.1.attn.hook_in"].double()
    form = torch.einsum("bqi,ij,bqj->bq", x[:, 2:], stretched, x[:, :-2])
    ratio = cache["blocks.1.attn.hook_attn_scores"][:, 1].double().diagonal(-2, 1, 2) / form
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), rtol=1e-3, atol=1e-6)


@pytest.mark.bridge
def test_adjacent_rotary_pairs_at_every_offset():
    """Cohere turns coordinates 2i and 2i + 1: score over form is the model's scale at each distance, 1/sqrt(8)."""
    model, tokens = zoo.build("cohere"), zoo.tokens(3, 6)
    _, cache = model.run_with_cache(tokens)
    x = cache["blocks.1.attn.hook_in"].double()
    for offset in range(4):
        made = torch.einsum("bi,ij,bj->b", x[:, 4], qk_circuit(model, 1, 1, offset=offset).matrix, x[:, 4 - offset])
        scores = cache["blocks.1.attn.hook_attn_scores"][:, 1, 4, 4 - offset].double()
        torch.testing.assert_close(scores, made / 8**0.5, rtol=1e-4, atol=1e-5)


def test_a_dead_head_has_an_omega(toy):
    with torch.no_grad():
        toy.model.blocks[0].attn.W_Q[1] = 0.0
    assert not qk_circuit(toy.model, 0, 1).S.any()


@pytest.mark.parametrize(("adjacent", "pairs"), [(True, [(0, 1), (2, 3)]), (False, [(0, 2), (1, 3)])])
def test_which_coordinates_turn_together_by_hand(adjacent, pairs):
    """Side by side as in GPT-J, or half a head apart as in Llama; the fifth coordinate is left alone."""
    from probes.architectures import Rotation

    turned = Rotation(torch.tensor([torch.pi / 6, torch.pi / 4]), adjacent).turn(torch.eye(5), 2)
    expected = torch.eye(5)
    for (i, j), angle in zip(pairs, (torch.pi / 3, torch.pi / 2), strict=True):  # two positions on
        c, s = torch.tensor(angle).cos(), torch.tensor(angle).sin()
        expected[i, i], expected[i, j], expected[j, i], expected[j, j] = c, s, -s, c
    torch.testing.assert_close(turned, expected)


@pytest.mark.bridge
@pytest.mark.parametrize(("name", "factor"), [("cohere", 1.0), ("granite", 0.3)])
def test_what_heads_write_beside_an_mlp_and_with_a_multiplier(name, factor):
    model, tokens = zoo.build(name), zoo.tokens(3, 6)
    _, cache = model.run_with_cache(tokens)
    written = factor * cache["blocks.1.attn.hook_z"][:, :, 2].double() @ model.blocks[1].attn.W_O[2].double()
    pattern = cache["blocks.1.attn.hook_pattern"][:, 2].double()
    made = pattern @ with_one(cache["blocks.1.attn.hook_in"]) @ ov_circuit(model, 1, 2, bias=True).matrix
    torch.testing.assert_close(made, written, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden", [-torch.inf, torch.finfo(torch.float32).min])
def test_scores_that_a_mask_hides_are_not_compared(toy, hidden):
    """A mask puts minus infinity, or the lowest number of float32, in their place."""
    whole = qk_circuit(toy.model, 0, 1, inputs=toy.inputs).matrix
    later = torch.ones(toy.inputs.shape[1], toy.inputs.shape[1], dtype=torch.bool).triu(1)
    toy.model.blocks[0].attn.hook_attn_scores.add_perma_hook(lambda value, hook: value.masked_fill(later, hidden))
    torch.testing.assert_close(qk_circuit(toy.model, 0, 1, inputs=toy.inputs).matrix, whole, rtol=0, atol=0)


def deficient(weight: torch.Tensor, kind: str) -> torch.Tensor:
    return torch.zeros_like(weight) if kind == "zero" else weight[..., :1].expand_as(weight)


@pytest.mark.parametrize(("kind", "rank"), [("zero", 0), ("copies", 1)])
@pytest.mark.parametrize("name", ["W_Q", "W_K"])
def test_omega_of_weights_without_full_rank(toy, name, kind, rank):
    with torch.no_grad():
        weight = getattr(toy.model.blocks[0].attn, name)
        weight[1] = deficient(weight[1].clone(), kind)
    found = qk_circuit(toy.model, 0, 1, inputs=toy.inputs)
    assert int((found.S > 1e-6).sum()) == rank
    torch.testing.assert_close((found.U * found.S) @ found.Vh, found.matrix)
    assert qk_circuit(toy.model, 0, 0, inputs=toy.inputs).S.min() > 1e-3  # the other head is as it was
    directions = torch.eye(len(found.matrix))
    if rank == 0:
        with pytest.raises(ValueError, match="omega is zero: it has no singular directions"):
            align(found, directions)
    else:
        assert align(found, directions, n_null=20).left_cosines.shape == (1, len(directions))


@pytest.mark.parametrize("fold_norm", [False, True])
@pytest.mark.parametrize(
    ("name", "kind", "rank"), [("W_V", "zero", 0), ("W_V", "copies", 1), ("W_O", "zero", 0), ("W_O", "copies", 1)]
)
def test_ov_of_weights_without_full_rank(make_bridge, name, kind, rank, fold_norm):
    """In one head, and then in all of them; where only biases of the values are left, a multiplier cannot be told."""
    model, _ = make_bridge("tiny")
    weight = getattr(model.blocks[1].attn, name)
    for heads in ([2], range(len(weight))):
        with torch.no_grad():
            for head in heads:
                weight[head] = deficient(weight[head].clone(), kind)
        if len(heads) > 1 and (name, kind) == ("W_V", "zero"):
            with pytest.raises(ValueError, match=r"heads write the same whatever they read: .* all of W_V zero"):
                ov_circuit(model, 1, 2, fold_norm=fold_norm)
            continue
        found = ov_circuit(model, 1, 2, fold_norm=fold_norm)
        assert int((found.S > 1e-6).sum()) == rank
        torch.testing.assert_close((found.U * found.S) @ found.Vh, found.matrix)


@pytest.mark.bridge
@pytest.mark.parametrize(
    "tool",
    [lambda m, x: qk_circuit(m, 0, 2, inputs=x), lambda m, x: attention_slices(m, x, 0, 2, n_null=1)],
    ids=["qk", "slices"],
)
def test_too_few_scores_verify_nothing(tool):
    """A constant fits any one number, so that whatever stands between would pass."""
    clipped, turned, biased = (zoo.build(name) for name in ("olmo, clipped", "gptj", "bloom"))
    for model in (clipped, turned, biased):
        for few in (zoo.tokens(1, 1), zoo.tokens(1, 2), zoo.tokens(2, 1)):
            with pytest.raises(ValueError, match="too few scores, or too much alike, to verify"):
                tool(model, few)
    with pytest.raises(ValueError, match="too few scores, or too much alike, to verify"):
        tool(biased, torch.full((3, 6), 7))
    with pytest.raises(ValueError, match="times a constant"):
        tool(clipped, torch.full((3, 6), 7))


def native(**options):
    """A model of TransformerLens's own."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources import boot_native

    sizes = {"d_model": 32, "d_head": 8, "n_heads": 4, "n_layers": 2, "d_mlp": 48, "n_ctx": 16, "d_vocab": 50}
    kind = {"act_fn": "gelu", "normalization_type": "LN", "architecture": None, "seed": 0} | options
    model = boot_native(TransformerBridgeConfig(**sizes, **kind)).eval()
    zoo.draw_anew(model)
    return model


@pytest.mark.bridge
@pytest.mark.parametrize("turned", [8, 4])
def test_omega_of_a_native_rotary_model(turned):
    model, tokens = native(positional_embedding_type="rotary", rotary_dim=turned), zoo.tokens()
    _, cache = model.run_with_cache(tokens)
    x, pattern = cache["blocks.1.attn.hook_in"].double(), cache["blocks.1.attn.hook_pattern"][:, 1].double()
    x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    scores = [x[:, 4] @ qk_circuit(model, 1, 1, bias=True, offset=4 - key).matrix for key in range(5)]
    scores = torch.stack([(row * x[:, key]).sum(-1) for key, row in enumerate(scores)], -1) / 8**0.5
    torch.testing.assert_close(scores.softmax(-1), pattern[:, 4], atol=1e-5, rtol=1e-4)


@pytest.mark.bridge
def test_ov_of_a_model_of_attention_alone():
    model, tokens = native(attn_only=True), zoo.tokens()
    _, cache = model.run_with_cache(tokens)
    x = cache["blocks.1.attn.hook_in"].double()
    x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    pattern = cache["blocks.1.attn.hook_pattern"].double()
    made = sum(pattern[:, head] @ x @ ov_circuit(model, 1, head, bias=True).matrix for head in range(4))
    added = cache["blocks.1.hook_resid_post"] - cache["blocks.1.hook_resid_pre"] - model.blocks[1].attn.b_O
    torch.testing.assert_close(made.float(), added.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.bridge
def test_tokens_of_a_model_without_norms():
    model = native(normalization_type=None)
    table = nearest_tokens(model, torch.eye(32)[:2], n=50)
    for direction in range(2):
        rows = table[(table.direction == direction) & (table.sign == 1)].set_index("token")["product"]
        torch.testing.assert_close(
            torch.tensor(rows.sort_index().to_numpy()), model.W_U[direction].detach().double(), check_stride=False
        )


@pytest.mark.parametrize(("left_unit", "right_unit"), [(1e6, 1e6), (1e-6, 1e-6), (1e9, 1e-3)])
def test_factored_svd_has_the_scale_of_its_factors(left_unit, right_unit):
    left, right = randn(6, 3), randn(9, 3, seed=1)
    _, S, _ = factored_svd(left, right)
    torch.testing.assert_close(factored_svd(left_unit * left, right_unit * right)[1], left_unit * right_unit * S)
    with pytest.raises(ArithmeticError, match="the factors are not finite"):
        factored_svd(left, right * torch.nan)


@pytest.mark.bridge
def test_heads_that_are_doubled_on_their_way_out_move_twice_as_much(make_bridge):
    model, _ = make_bridge("llama")
    once = ov_circuit(model, 1, 2).matrix
    model.blocks[1].attn.o.register_forward_hook(lambda module, inputs, output: 2 * output)
    torch.testing.assert_close(ov_circuit(model, 1, 2).matrix, 2 * once, rtol=1e-5, atol=1e-6)


def test_which_inputs_would_tell_a_bias_of_the_positions_apart(toy):
    from probes.circuits import _what_stands_between

    for examples, positions, enough in ((1, 3, False), (2, 2, False), (1, 1, False), (2, 3, True), (5, 9, True)):
        said = _what_stands_between(toy.model, examples, positions)
        assert ("not known here" in said) == enough == ("can be told apart on several examples" not in said)
