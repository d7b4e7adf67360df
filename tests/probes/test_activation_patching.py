"""Activation patching: equal to one plain run per site, to TransformerLens, and to what is known by hand."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformer_lens.hook_points import HookPoint

from probes.activation_patching import patch_sweep, path_patch, recovered_fraction
from probes.activations import collect_activations
from probes.attribution import attribution_sweep
from probes.base_run import BaseRun
from probes.hooked import temporary_hooks
from probes.sites import Site
from tests.probes import zoo
from tms_hooks.models.hooks import HookedRootModule


class Case(NamedTuple):
    """A pair of runs in float64."""

    model: Any
    clean: torch.Tensor
    corrupted: torch.Tensor
    metric: Callable[[Any], torch.Tensor]
    sites: list[Site]
    early: str
    waist: str
    late: str


def of(subject: Any) -> Case:
    clean, corrupted = subject.draw(6, 1).chunk(2)
    clean, corrupted = (x.double() if x.is_floating_point() else x for x in (clean, corrupted))
    model = subject.model.to(torch.float64)  # a HookedTransformer also notes it in its config
    return Case(model, clean, corrupted, subject.metric, subject.sites, subject.early, subject.waist, subject.late)


@pytest.fixture
def case(subject: Any) -> Case:
    return of(subject)


@pytest.fixture
def bridge(tiny: Any) -> Case:
    return of(tiny)


@pytest.fixture
def gpt2(as_bridge: Any) -> Any:
    """A small random GPT-2 from Hugging Face, whose attention TransformerLens can split by input."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        hf = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=4, vocab_size=101, n_positions=8))
    return as_bridge(hf.double()).eval()


def one_run(case: Case, inputs: torch.Tensor, values: torch.Tensor, row: Any, subspace: torch.Tensor | None) -> float:
    """The plain way: one whole run with one hook, indexed by hand."""

    def patch(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value = value.clone()
        pos, head, unit = (
            slice(None) if np.isscalar(i) and i < 0 else int(i) for i in row[["pos", "head", "unit"]].fillna(-1)
        )
        attention = "scores" in row.hook or "pattern" in row.hook
        index = {2: (unit,), 3: (pos, unit), 4: (head, pos, unit) if attention else (pos, head, unit)}[value.ndim]
        index = (slice(None), *index)
        new = values[index]
        if subspace is not None:
            projector = torch.linalg.qr(subspace.T).Q
            new = value[index] + (new - value[index]) @ projector @ projector.T
        value[index] = new
        return value

    with torch.no_grad(), temporary_hooks(case.model, [(row.hook, patch)]):
        return case.metric(case.model(inputs)).mean().item()


@pytest.mark.parametrize("patch", ["clean->corrupted", "corrupted->clean", "zero", "mean"])
@pytest.mark.parametrize("batch_size", [1, 8, 500])
def test_stacked_is_one_run_a_site(case: Case, patch: str, batch_size: int) -> None:
    model, clean, corrupted, metric, sites, *_ = case
    table = patch_sweep(model, clean, corrupted, metric, sites, patch=patch, batch_size=batch_size)
    base, other = (corrupted, clean) if patch == "clean->corrupted" else (clean, corrupted)
    for _, row in table.iterrows():
        values = collect_activations(model, other, row.hook)[row.hook]
        if patch == "zero":
            values = torch.zeros_like(values)
        elif patch == "mean":
            values = values.mean(0, keepdim=True).expand_as(values)
        subspace = next((s.directions for s in sites if s.hook == row.hook and s.name == row.site), None)
        assert row.metric == pytest.approx(one_run(case, base, values, row, subspace), rel=1e-10, abs=1e-10), row.site
    m_clean, m_corrupted = (metric(model(x)).mean().item() for x in (clean, corrupted))
    expected = (table.metric - m_corrupted) / (m_clean - m_corrupted)
    np.testing.assert_allclose(table.recovered, expected, rtol=1e-9, atol=1e-12)
    assert table.attrs == {"clean": pytest.approx(m_clean), "corrupted": pytest.approx(m_corrupted), "patch": patch}


def test_a_whole_early_activation_recovers_all(case: Case) -> None:
    model, clean, corrupted, metric, _, hook, *_ = case
    for patch, recovered in (("clean->corrupted", 1.0), ("corrupted->clean", 0.0)):
        table = patch_sweep(model, clean, corrupted, metric, hook, patch=patch)
        row = table.iloc[0]
        assert (row.recovered, row.low, row.high) == pytest.approx((recovered,) * 3, abs=1e-10)


def test_all_directions_are_the_whole_activation(case: Case) -> None:
    model, clean, corrupted, metric, *_, late = case
    width = collect_activations(model, clean, late)[late].shape[-1]
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(width, width, generator=generator, dtype=torch.float64)
    subspace = Site(hook=late, directions=basis)
    table = patch_sweep(model, clean, corrupted, metric, [late, subspace, Site(hook=late, directions=basis[:1])])
    assert table.site.tolist() == [late, f"{late}[directions={width}]", f"{late}[directions=1]"]
    assert table.recovered[0] == pytest.approx(table.recovered[1], abs=1e-9)
    assert table.recovered[0] != pytest.approx(table.recovered[2], abs=1e-6)


def test_resampling_takes_another_corrupted_example(case: Case) -> None:
    model, clean, corrupted, metric, _, hook, *_ = case
    same = torch.stack([corrupted[0]] * 3)  # whatever example is taken, it is this one
    table = patch_sweep(model, clean, same, metric, hook, patch="resample")
    assert table.metric[0] == pytest.approx(metric(model(same)).mean().item())
    seeds = [0, 1, 2, 3, 0]
    part = Site(hook=hook, pos=0)  # not the whole: a mean over examples would not notice
    found = [patch_sweep(model, clean, corrupted, metric, part, patch="resample", seed=s).metric[0] for s in seeds]
    assert len({round(m, 9) for m in found}) == 2  # three examples can be passed on in two ways
    assert found[0] == found[-1]
    with pytest.raises(ValueError, match="at least 2"):
        patch_sweep(model, clean[:1], corrupted[:1], metric, hook, patch="resample")


def test_default_sites(case: Case) -> None:
    model, clean, corrupted, metric, *_ = case
    table = patch_sweep(model, clean, corrupted, metric)
    if clean.is_floating_point():
        assert set(table.hook) == set(model.hook_dict)
    else:
        assert len(table) == 2 * 3 * 7
        assert set(table.hook) == {f"blocks.{i}.hook_{n}" for i in (0, 1) for n in ("resid_pre", "attn_out", "mlp_out")}


def test_model_is_left_as_it_was(case: Case) -> None:
    model, clean, corrupted, metric, sites, *_ = case
    before = deepcopy(model.state_dict())
    output = model(clean)

    def breaks(out: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("inside")
        return metric(out)

    calls: list[int] = []
    with pytest.raises(RuntimeError, match="inside"):
        patch_sweep(model, clean, corrupted, breaks, sites)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())
    assert all("forward" not in vars(module) for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in getattr(model, "blocks", ()))
    for a, b in zip(output, model(clean), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_blocks_are_skipped_and_only_read_positions_unembedded(bridge: Case) -> None:
    model, _, corrupted, metric, *_ = bridge
    ran: list[int] = []
    widths: list[int] = []
    base = BaseRun(model, corrupted, ["hook_embed", "blocks.1.attn.hook_z", "ln_final.hook_normalized"], metric)
    assert [base.start(hook) for hook in base.activations] == [0, 1, 2]
    handles = [model.blocks[i].attn.register_forward_hook(lambda *_, i=i: ran.append(i)) for i in (0, 1)]
    handles.append(model.unembed.register_forward_hook(lambda *run: widths.append(run[-1].shape[1])))
    for hook, expected in (("hook_embed", [0, 1]), ("blocks.1.attn.hook_z", [1]), ("ln_final.hook_normalized", [])):
        ran.clear()
        base.rerun(2, [(hook, lambda value, hook: None)])
        assert ran == expected
    assert widths == [1, 1, 1]
    for handle in handles:
        handle.remove()


@pytest.mark.bridge
def test_only_positions_from_the_patch_on_are_computed(gpt2: Any) -> None:
    """Of the last block's MLP only those that the metric reads; the numbers are those of whole runs."""
    clean, corrupted = torch.randint(0, 101, (2, 3, 6), generator=torch.Generator().manual_seed(0))
    case = Case(gpt2, clean, corrupted, lambda logits: logits[:, 4, 0] - logits[:, 4, 1], [], "", "", "")
    parts = ("hook_resid_pre", "attn.hook_q", "attn.hook_pattern", "attn.hook_z", "mlp.hook_post", "hook_resid_post")
    names = [f"blocks.{layer}.{part}" for layer in range(2) for part in parts]
    table = patch_sweep(gpt2, clean, corrupted, case.metric, [Site(name, pos="each") for name in names], batch_size=9)
    values = collect_activations(gpt2, clean, names)
    expected = [one_run(case, corrupted, values[row.hook], row, None) for _, row in table.iterrows()]
    np.testing.assert_allclose(table.metric, expected, rtol=0, atol=1e-9)

    heard: dict[str, list[int]] = {"block": [], "mlp": []}
    for kind, module in (("block", gpt2.blocks[1]), ("mlp", gpt2.blocks[1].mlp.out)):
        module.register_forward_pre_hook(lambda _, args, kind=kind: heard[kind].append(args[0].shape[1]))
    patch_sweep(gpt2, clean, corrupted, case.metric, Site("blocks.1.hook_resid_pre", pos=3))
    assert (heard["block"][-1], heard["mlp"][-1]) == (3, 1)  # positions 3, 4 and 5; and 4
    patch_sweep(gpt2, clean, corrupted, case.metric, Site("blocks.1.mlp.hook_post", pos=3))
    assert (heard["block"][-1], heard["mlp"][-1]) == (3, 3)  # what is patched inside of it hears all of them


@pytest.mark.bridge
def test_a_model_in_which_positions_hear_of_later_ones_is_run_whole(gpt2: Any) -> None:
    """Here block 0 adds to the stream what stands at the last position, whatever it is."""
    clean, corrupted = torch.randint(0, 101, (2, 3, 6), generator=torch.Generator().manual_seed(0))
    gpt2.blocks[0].register_forward_hook(lambda _, args, out: out + out[:, -1:])
    case = Case(gpt2, clean, corrupted, lambda logits: logits[:, 2, 0] - logits[:, 2, 1], [], "", "", "")
    name = "blocks.0.hook_resid_pre"
    table = patch_sweep(gpt2, clean, corrupted, case.metric, Site(name, pos="each"))
    values = collect_activations(gpt2, clean, name)[name]
    expected = [one_run(case, corrupted, values, row, None) for _, row in table.iterrows()]
    np.testing.assert_allclose(table.metric, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("metric", "positions"),
    [
        (lambda logits: logits[:, -1, 3], 1),
        (lambda logits: logits[torch.arange(3), torch.tensor([1, 4, 1]), 0], 2),
        (lambda logits: logits[:, 1:3].log_softmax(-1)[..., 0].sum(-1), 2),
        (lambda logits: logits.log_softmax(-1)[:, -1, 3], 7),  # every position is read first
        (lambda logits: (logits.argmax(-1) == 3).float().mean(-1) + logits[:, -1, 0], 7),
        (lambda logits: torch.stack([logits, logits])[0, :, 0, 0], 7),
    ],
)
def test_positions_that_a_metric_reads(bridge: Case, metric: Any, positions: int) -> None:
    model, clean, corrupted, *_ = bridge
    base = BaseRun(model, corrupted, ["blocks.0.hook_resid_pre"], metric)
    assert base.start("blocks.0.hook_resid_pre") == 0  # by now it has tried out what may be left out
    widths: list[int] = []
    value = collect_activations(model, clean, "blocks.0.hook_resid_pre")["blocks.0.hook_resid_pre"]
    handle = model.unembed.register_forward_hook(lambda *run: widths.append(run[-1].shape[1]))
    patched = base.rerun(1, [("blocks.0.hook_resid_pre", lambda _, hook: value)])[0]
    handle.remove()
    assert widths == [positions]
    torch.testing.assert_close(patched, metric(model(clean)).detach().double())


def test_a_model_whose_blocks_talk_past_the_residual_stream_is_run_whole(bridge: Case) -> None:
    model, clean, corrupted, metric, *_ = bridge
    said: list[torch.Tensor] = []

    def say(module: Any, args: Any, out: torch.Tensor) -> None:
        said.append(out)

    def hear(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        return out + said.pop() if said else out

    handles = [model.blocks[0].mlp.register_forward_hook(say), model.blocks[1].mlp.register_forward_hook(hear)]
    hook = "blocks.1.hook_resid_pre"
    base = BaseRun(model, corrupted, [hook], metric)
    assert base.start(hook) == 0
    table = patch_sweep(model, clean, corrupted, metric, hook)
    value = collect_activations(model, clean, hook)[hook]
    with temporary_hooks(model, [(hook, lambda _, hook: value)]):
        assert table.metric[0] == pytest.approx(metric(model(corrupted)).mean().item())
    for handle in handles:
        handle.remove()
    assert BaseRun(model, corrupted, [hook], metric).start(hook) == 1


@pytest.mark.parametrize("architecture", ["native", "gpt2"])
def test_equals_generic_activation_patch(bridge: Case, architecture: str, request: pytest.FixtureRequest) -> None:
    from transformer_lens import patching

    model, clean, corrupted, metric, *_ = bridge
    model = request.getfixturevalue("gpt2") if architecture == "gpt2" else model
    _, cache = model.run_with_cache(clean)
    with torch.no_grad():
        theirs = patching.get_act_patch_attn_head_out_by_pos(model, corrupted, cache, lambda out: metric(out).mean())
    sites = [Site(hook=f"blocks.{i}.attn.hook_z", pos="each", head="each") for i in (0, 1)]
    ours = patch_sweep(model, clean, corrupted, metric, sites)
    torch.testing.assert_close(torch.tensor(ours.metric).view(2, 7, 4).float(), theirs.float())


@pytest.mark.bridge
def test_where_a_bridge_has_its_positions_elsewhere_only_whole_activations_are_patched() -> None:
    """Qwen3 normalizes queries as "batch head pos unit"."""
    model, tokens, hook = zoo.build("qwen3"), zoo.tokens(), "blocks.0.attn.q_norm.hook_out"
    pair = (model, tokens, tokens.flip(1), lambda logits: logits[:, -1, 3])
    assert patch_sweep(*pair, hook).site.tolist() == [hook]
    with pytest.raises(ValueError, match=r"has the axes .'batch', 'head', 'pos', 'unit'. there; patch the whole"):
        patch_sweep(*pair, Site(hook, pos=1))


def test_interval_by_hand_and_its_coverage() -> None:
    # equal gaps: a bootstrap of a mean; two examples, 0 and 1, average 0, 1/2 or 1
    found = recovered_fraction(np.array([[0.0, 1.0]]), np.ones(2), np.zeros(2))
    assert [float(found[k][0]) for k in ("recovered", "low", "high")] == [0.5, 0.0, 1.0]
    # gaps of 3 and -1: drawn twice, the first recovers 2/3 and the second 0; together 2 of a gap of 2
    found = recovered_fraction(np.array([[2.0, 0.0]]), np.array([3.0, -1.0]), np.zeros(2))
    assert [float(found[k][0]) for k in ("recovered", "low", "high")] == pytest.approx([1, 0, 1])
    # where all is recovered, draws of a gap of zero (-2, 1, 1) say nothing, and every other draw says 1
    gaps = np.array([3.0, -2.0, 1.0])
    found = recovered_fraction(gaps[None], gaps, np.zeros(3))
    assert [float(found[k][0]) for k in ("recovered", "low", "high")] == pytest.approx([1, 1, 1])
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        clean = 2 + rng.normal(size=40)
        found = recovered_fraction((0.3 * clean + rng.normal(size=40))[None], clean, np.zeros(40), seed)
        inside += bool(found["low"][0] <= 0.3 <= found["high"][0])
    assert 0.88 <= inside / 200 <= 0.98
    assert set(recovered_fraction(np.ones((1, 1)), np.ones(1), np.zeros(1))) == {"recovered"}


def test_path_through_everything(case: Case) -> None:
    model, clean, corrupted, metric, _, early, waist, _ = case
    whole = patch_sweep(model, clean, corrupted, metric, early).recovered[0]
    table = path_patch(model, clean, corrupted, metric, early, waist)
    assert table.recovered[0] == pytest.approx(whole, abs=1e-9)
    assert table.attrs["receiver"] == waist


def test_path_to_a_receiver_behind_the_unembedding(bridge: Case) -> None:
    """All effects pass through it. The metric reads one position of it, and a run that only reads computes no other."""
    model, clean, corrupted, metric, *_ = bridge
    whole = patch_sweep(model, clean, corrupted, metric, "blocks.0.hook_mlp_out").recovered[0]
    table = path_patch(model, clean, corrupted, metric, "blocks.0.hook_mlp_out", "unembed.hook_out")
    assert table.recovered[0] == pytest.approx(whole, abs=1e-9)


class Looped(HookedRootModule):
    """Its two blocks run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(3, 3, dtype=torch.float64) for _ in range(2)])
        self.hook_end = HookPoint()
        self.setup()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in [*self.blocks, *self.blocks]:
            x = x + block(x)
        return self.hook_end(x)


def test_a_model_whose_blocks_run_twice_is_run_whole() -> None:
    clean, corrupted = torch.eye(3, dtype=torch.float64)[:2], torch.zeros(2, 3, dtype=torch.float64)
    table = patch_sweep(Looped(), clean, corrupted, lambda out: out[:, 0], "hook_end")
    assert table.recovered[0] == 1


def test_path_through_nothing(bridge: Case) -> None:
    model, clean, corrupted, metric, *_ = bridge
    sender, receiver = "blocks.0.attn.hook_z", "blocks.1.attn.hook_q"
    frozen = ["blocks.0.hook_attn_out", "blocks.0.hook_mlp_out"]
    closed = path_patch(model, clean, corrupted, metric, sender, receiver, frozen=frozen)
    assert closed.recovered[0] == pytest.approx(0.0, abs=1e-10)
    opened = path_patch(model, clean, corrupted, metric, sender, receiver)
    assert opened.recovered[0] != pytest.approx(0.0, abs=1e-6)


def test_direct_path_equals_transformer_lens(bridge: Case, gpt2: Any) -> None:
    from transformer_lens import patching

    _, clean, corrupted, metric, *_ = bridge
    model = gpt2
    caches = [model.run_with_cache(tokens)[1] for tokens in (clean, corrupted)]
    with torch.no_grad():
        theirs = patching.get_act_patch_direct_path_all_sources(
            model, corrupted, *caches, lambda out: metric(out).mean(), component="v", verbose=False
        )
    for head in range(4):
        sender, receiver = Site(hook="blocks.0.attn.hook_z", head="each"), Site(hook="blocks.1.attn.hook_v", head=head)
        ours = path_patch(model, clean, corrupted, metric, sender, receiver, frozen=["blocks.0.hook_mlp_out"])
        torch.testing.assert_close(torch.tensor(ours.metric).float(), theirs[0, :, 1, head].float())


def test_attribution_is_the_exact_sweep_in_the_small(case: Case) -> None:
    model, clean, corrupted, metric, sites, *_ = case
    if clean.is_floating_point():
        near = corrupted + 1e-6 * (clean - corrupted)
        exact = patch_sweep(model, near, corrupted, metric, sites)
        estimate = attribution_sweep(model, near, corrupted, metric, sites)
        np.testing.assert_allclose(estimate.recovered, exact.recovered, atol=1e-4)
    exact = patch_sweep(model, clean, corrupted, metric, sites)
    estimate = attribution_sweep(model, clean, corrupted, metric, sites)
    assert estimate.site.tolist() == exact.site.tolist()
    # Clean and corrupted tokens are far apart: how well a line does depends on the random weights, which
    # TransformerLens 3 draws otherwise (0.72 there).
    assert estimate.recovered.corr(exact.recovered) > (0.6 if type(model).__name__ == "HookedTransformer" else 0.8)


@pytest.mark.bridge
def test_attribution_equals_transformer_lens(bridge: Case) -> None:
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch

    model, clean, corrupted, metric, *_ = bridge
    theirs = attribution_patch(model, clean, corrupted, lambda out: metric(out).sum()).node_scores
    sites = [Site(hook=f"blocks.{i}.attn.hook_z", pos="each", head="each") for i in (0, 1)]
    ours = attribution_sweep(model, clean, corrupted, metric, sites)
    effects = {(n.layer, n.position, n.head): score for n, score in theirs.items() if n.kind == "attn_head_out"}
    assert len(effects) == len(ours) == 56
    for _, row in ours.iterrows():
        expected = effects[int(row.hook.split(".")[1]), row.pos, row["head"]]
        assert row.metric - ours.attrs["corrupted"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.bridge
def test_dead_silent_and_unknown_hooks(bridge: Case) -> None:
    model, clean, corrupted, metric, *_ = bridge
    with pytest.raises(ValueError, match=r"fires in vain.*live hooks around it: blocks\.0\."):
        patch_sweep(model, clean, corrupted, metric, "blocks.0.attn.hook_attn_scores")
    with pytest.raises(ValueError, match="does not fire"):
        patch_sweep(model, clean, corrupted, metric, ["blocks.0.hook_resid_pre", "blocks.0.attn.hook_result"])
    with pytest.raises(KeyError, match="did you mean"):
        patch_sweep(model, clean, corrupted, metric, "blocks.0.hook_resid_prr")


def test_bad_input(case: Case) -> None:
    model, clean, corrupted, metric, _, early, _, late = case

    def sweep(sites: Any, clean: Any = clean, metric: Any = metric, **options: Any) -> None:
        patch_sweep(model, clean, corrupted, metric, sites, **options)

    with pytest.raises(ValueError, match="pos=9 is outside 0 to"):
        sweep(Site(hook=early, pos=9))
    with pytest.raises(ValueError, match="drop one of them"):
        Site(hook=early, unit=1, directions=torch.eye(2))
    with pytest.raises(ValueError, match="2 directions of rank 1"):
        Site(hook=early, directions=torch.ones(2, 3))
    with pytest.raises(ValueError, match="directions have width 3"):
        sweep(Site(hook=early, directions=torch.eye(3)))
    with pytest.raises(ValueError, match="give clean and corrupted inputs of one shape"):
        sweep(early, clean=clean[:2])
    with pytest.raises(ValueError, match="nothing to recover"):
        sweep(early, clean=corrupted)
    with pytest.raises(ValueError, match=r"shape \(\), not \(3,\)"):
        sweep(early, metric=lambda out: metric(out).mean())
    with pytest.raises(ValueError, match="not finite"):
        sweep(early, metric=lambda out: metric(out) * torch.nan)
    with pytest.raises(ValueError, match="did you mean 'zero'"):
        sweep(early, patch="zeros")
    with pytest.raises(ValueError, match="does not come before the receiver"):
        path_patch(model, clean, corrupted, metric, late, early)
    with pytest.raises(ValueError, match="nothing reaches it"):
        path_patch(model, clean, corrupted, metric, early, late, frozen=[late])


def test_indices_from_numpy_and_torch_are_indices(bridge: Case) -> None:
    model, clean, corrupted, metric, *_ = bridge
    hook = "blocks.0.hook_resid_pre"
    expected = patch_sweep(model, clean, corrupted, metric, Site(hook, pos=3)).recovered[0]
    assert expected != 1
    for index in (np.int64(3), torch.tensor(3), torch.tensor([3])):
        site = Site(hook, pos=index)
        assert (site.pos, site.name) == (3, f"{hook}[pos=3]")
        for tool in (patch_sweep, attribution_sweep):
            table = tool(model, clean, corrupted, metric, site)
            assert table.pos[0] == 3
        assert patch_sweep(model, clean, corrupted, metric, site).recovered[0] == expected
        path = path_patch(model, clean, corrupted, metric, site, Site("blocks.1.hook_resid_pre", pos=np.int32(-1)))
        assert path.attrs["receiver"] == "blocks.1.hook_resid_pre[pos=6]"
    for index in (1.0, np.array([1, 2]), torch.tensor(1.5), True, "last"):
        with pytest.raises(TypeError, match="must be a whole number, 'each' or None; for several entries"):
            Site(hook, pos=index)


def test_one_vector_is_one_direction(case: Case) -> None:
    model, clean, corrupted, metric, *_, late = case
    width = collect_activations(model, clean, late)[late].shape[-1]
    vector = torch.randn(width, generator=torch.Generator().manual_seed(0))
    sites = [Site(late, directions=v) for v in (vector, vector[None], vector.numpy(), vector.bfloat16())]
    table = patch_sweep(model, clean, corrupted, metric, sites)
    assert table.recovered[:3].nunique() == 1
    assert table.recovered[3] == pytest.approx(table.recovered[0], abs=0.05)
    with pytest.raises(ValueError, match="1 entries of directions are NaN or infinite"):
        Site(late, directions=torch.tensor([1.0, torch.nan]))


def test_prompts_in_lists_have_one_length(case: Case) -> None:
    model, clean, corrupted, metric, *_, late = case
    listed = patch_sweep(model, list(clean), list(corrupted), metric, late)
    assert listed.recovered[0] == patch_sweep(model, clean, corrupted, metric, late).recovered[0]
    with pytest.raises(ValueError, match=r"prompts of \d to \d tokens: .* give prompts of one length"):
        patch_sweep(model, [clean[0], clean[1][:-1]], corrupted[:2], metric, late)


def test_a_sender_at_the_receivers_own_hook_does_not_come_before_it(case: Case) -> None:
    model, clean, corrupted, metric, _, hook, *_ = case
    with pytest.raises(ValueError, match="does not come before the receiver"):
        path_patch(model, clean, corrupted, metric, [Site(hook=hook)], Site(hook=hook))


@pytest.mark.bridge
@pytest.mark.parametrize("kind", ["dynamic", "long"])
def test_no_beginning_is_kept_where_angles_depend_on_the_length(kind: str) -> None:
    model, hook = zoo.stretching(kind), "blocks.0.hook_resid_pre"
    clean, corrupted = (zoo.tokens(2, 80, seed=seed) for seed in (1, 2))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, -1, 3] - logits[:, -1, 4]

    positions = [5, 10, 20, 30, 50, 79]  # a prompt that ends before position 32 turns by other angles
    table = patch_sweep(model, clean, corrupted, metric, [Site(hook, pos=pos) for pos in positions])
    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
        for pos, found in zip(positions, table.metric, strict=True):

            def patch(value: torch.Tensor, hook: Any, pos: int = pos) -> torch.Tensor:
                value = value.clone()
                value[:, pos] = cache["blocks.0.hook_resid_pre"][:, pos]
                return value

            expected = metric(model.run_with_hooks(corrupted, fwd_hooks=[(hook, patch)])).mean()
            assert found == pytest.approx(float(expected), abs=1e-4)


def test_two_runs_of_the_same_examples_differ_by_no_more_than_rounding(toy: Any) -> None:
    """Sums of equal numbers in another order: their difference is what everything would be divided by."""
    case, inputs = of(toy), toy.draw(7, 1).double()
    runs = [inputs.roll(shift, 0) for shift in range(7)]
    with torch.no_grad():
        values = [case.metric(case.model(run)) for run in runs]
    assert any((values[0] - other).mean() != 0 for other in values)
    for other in runs:
        with pytest.raises(ValueError, match="in both runs: nothing to recover"):
            patch_sweep(case.model, runs[0], other, case.metric, case.early)


def test_a_metric_may_fall_be_negative_and_be_read_from_either_run(case: Case) -> None:
    model, clean, corrupted, metric, _, early, _, late = case
    table = patch_sweep(model, clean, corrupted, metric, [early, late])
    for pair, of in (((corrupted, clean), metric), ((clean, corrupted), lambda out: -metric(out))):
        other = patch_sweep(model, *pair, of, [early, late])
        assert other.recovered[0] == pytest.approx(1) == pytest.approx(table.recovered[0])
    lower = patch_sweep(model, clean, corrupted, lambda out: metric(out) - 1e3, [early, late])
    np.testing.assert_allclose(lower.recovered, table.recovered, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_metric_that_is_the_same_in_both_runs_has_nothing_to_recover(case: Case, value: float) -> None:
    model, clean, corrupted, metric, _, early, *_ = case
    with pytest.raises(ValueError, match=f"the metric is {value:g} in both runs"):
        patch_sweep(model, clean, corrupted, lambda out: 0 * metric(out) + value, early)


class Mixing(zoo.OwnModel):
    """Each example is seen beside the mean of its batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.hook_hidden(x @ self.W_E)
        return (hidden - hidden.mean(0) / 2) @ self.W_U


@pytest.mark.parametrize("batch_size", [3, 6, 500, None])
@pytest.mark.parametrize("n_sites", [1, 2, 3])
def test_copies_that_would_change_each_other_are_run_apart(batch_size: int | None, n_sites: int) -> None:
    model = Mixing()
    zoo.draw_anew(model)
    clean, corrupted = torch.rand(2, 3, 6, generator=torch.Generator().manual_seed(0))
    case = Case(model, clean, corrupted, lambda out: out[:, 0] + out.square().sum(1), [], "", "", "")
    sites = [Site("hook_hidden", unit=unit) for unit in range(n_sites)]
    table = patch_sweep(model, clean, corrupted, case.metric, sites, batch_size=batch_size)
    values = (clean @ model.W_E).detach()
    expected = [one_run(case, corrupted, values, row, None) for _, row in table.iterrows()]
    np.testing.assert_allclose(table.metric, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("n_examples", "n_sites", "batch_size", "rows"),
    [
        (3, 7, 6, [6, 6, 6, 3]), (3, 7, 8, [6, 6, 6, 3]), (3, 7, 2, [3] * 7), (3, 2, 3, [3, 3]), (3, 7, 500, [21]),
        (1, 66, None, [64, 2]), (3, 1, 500, [3]),
    ],
)  # fmt: skip
def test_as_many_sites_share_a_run_as_fit(
    toy: Any, n_examples: int, n_sites: int, batch_size: int | None, rows: list[int]
) -> None:
    clean, corrupted = toy.draw(2 * n_examples, 1).chunk(2)
    ran: list[int] = []

    def edited(module: Any, inputs: Any) -> None:
        if module.hook_hidden.fwd_hooks and torch.is_grad_enabled() is False:
            ran.append(len(inputs[0]))

    handle = toy.model.register_forward_pre_hook(edited)
    sites = [Site("hook_hidden", pos=i % 3, unit=i % 4) for i in range(n_sites)]
    patch_sweep(toy.model, clean, corrupted, toy.metric, sites, batch_size=batch_size)
    handle.remove()
    assert ran[-len(rows) :] == rows
    assert sum(ran[-len(rows) :]) == n_examples * n_sites
