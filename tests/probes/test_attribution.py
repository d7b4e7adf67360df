"""Attribution patching and its corrections: equal to what is computed by hand, one run after the other."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.hook_points import HookPoint

from probes.activation_patching import patch_sweep, path_patch
from probes.activations import collect_activations
from probes.attribution import attribution_sweep
from probes.hooked import adding_zeros, temporary_hooks
from probes.sites import Site
from tests.probes import zoo
from tms_hooks.models.hooks import HookedRootModule


def last(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 3] - logits[:, -1, 4]


@pytest.fixture
def tokens(tiny: Any) -> tuple[Any, torch.Tensor, torch.Tensor]:
    clean, corrupted = tiny.draw(4, 1).chunk(2)
    return tiny.model.to(torch.float64), clean, corrupted


def gradient(model: Any, inputs: Any, hook: str, metric: Any, *edits: Any) -> torch.Tensor:
    with temporary_hooks(model, edits), adding_zeros(model, [hook]) as zeros:
        return torch.autograd.grad(metric(model(inputs)).sum(), zeros[hook])[0]


def at(model: Any, inputs: Any, hook: str) -> torch.Tensor:
    return collect_activations(model, inputs, hook)[hook]


def fixed(value: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda now, hook: value


def test_two_runs_and_a_gradient(tokens: Any) -> None:
    model, clean, corrupted = tokens
    runs: list[int] = []
    handle = model.register_forward_pre_hook(lambda *_: runs.append(1))
    attribution_sweep(model, clean, corrupted, last)
    assert len(runs) == 2
    attribution_sweep(model, clean, corrupted, last, steps=3)
    assert len(runs) == 2 + 2 + 2 + 3  # the clean embedding, a look whether it is all, three gradients
    handle.remove()


def test_steps_average_the_gradients_along_the_way(tokens: Any, toy: Any) -> None:
    model, clean, corrupted = tokens
    hook, embed = "blocks.1.hook_resid_pre", "hook_embed"
    table = attribution_sweep(model, clean, corrupted, last, Site(hook, pos="each"), steps=3)
    start, end = at(model, corrupted, embed), at(model, clean, embed)
    mean = sum(
        gradient(model, corrupted, hook, last, (embed, fixed(start + share * (end - start)))) / 3
        for share in (1 / 6, 1 / 2, 5 / 6)
    )
    moved = at(model, clean, hook) - at(model, corrupted, hook)
    expected = (moved * mean).sum(-1).mean(0).detach()
    np.testing.assert_allclose(table.metric - table.attrs["corrupted"], expected, rtol=1e-9)
    # along the whole way the parts add up to the whole, which one gradient misses
    whole = table.attrs["clean"] - table.attrs["corrupted"]
    for steps, off in ((0, 0.3), (16, 0.003)):
        parts = attribution_sweep(model, clean, corrupted, last, Site(embed, pos="each"), steps=steps)
        assert (abs((parts.metric - parts.attrs["corrupted"]).sum() / whole - 1) < off) == (steps > 0)
    x, y = toy.draw(4, 1).chunk(2)  # floats have no embedding to step through
    parts = attribution_sweep(toy.model, x, y, toy.metric, toy.early, steps=256)  # kinks: the error falls as 1 / steps
    assert parts.recovered[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.bridge
@pytest.mark.parametrize("name", ["tiny", "llama"])
def test_recomputed_softmax_is_one_run_a_site_up_to_the_pattern(tokens: Any, name: str) -> None:
    model, clean, corrupted = tokens
    if name == "llama":  # rotary, and two heads to a key
        model = zoo.build("llama")
        clean, corrupted = torch.randint(0, 50, (4, 5), generator=torch.Generator().manual_seed(3)).chunk(2)
    sites = [
        Site("blocks.0.attn.hook_q", head=1, pos=2),
        Site("blocks.1.attn.hook_q", head=1),
        Site("blocks.1.attn.q.hook_out", unit=3, pos=-1),
        Site("blocks.0.attn.hook_k", head=1, pos=1),
        Site("blocks.1.attn.hook_k", directions=torch.eye(8)[:2] if name == "llama" else torch.eye(16)[:2]),
    ]
    table = attribution_sweep(model, clean, corrupted, last, sites, recompute_softmax=True)
    plain = attribution_sweep(model, clean, corrupted, last, sites)
    for i, site in enumerate(sites):
        pattern = site.hook.split("attn")[0] + "attn.hook_pattern"
        new, found = at(model, clean, site.hook), []

        def patch(value: torch.Tensor, hook: Any, site: Site = site, new: torch.Tensor = new) -> torch.Tensor:
            value = value.clone()
            part = site.index(4)
            value[part] = new[part]
            return value

        def patch_plane(value: torch.Tensor, hook: Any, new: torch.Tensor = new) -> torch.Tensor:
            return torch.cat([new[..., :2], value[..., 2:]], -1)

        edit = patch if site.directions is None else patch_plane
        with (
            torch.no_grad(),
            temporary_hooks(model, [(site.hook, edit), (pattern, lambda v, hook, found=found: found.append(v))]),
        ):
            model(corrupted)
        moved = found[0] - at(model, corrupted, pattern)
        expected = (moved * gradient(model, corrupted, pattern, last)).flatten(1).sum(1).mean()
        assert table.metric[i] - table.attrs["corrupted"] == pytest.approx(float(expected), rel=1e-3, abs=1e-7)
    assert not np.allclose(table.metric, plain.metric, rtol=1e-3)


def test_dropped_gradients_are_mean_sizes_over_closed_blocks(tokens: Any) -> None:
    model, clean, corrupted = tokens
    hook = "blocks.0.hook_resid_pre"
    table = attribution_sweep(model, clean, corrupted, last, Site(hook, pos="each"), drop_gradients=True)
    moved = at(model, clean, hook) - at(model, corrupted, hook)
    sizes = []
    for block in (0, 1):
        closed = [(f"blocks.{block}.hook_{n}_out", lambda value, hook: value.detach()) for n in ("attn", "mlp")]
        sizes.append((moved * gradient(model, corrupted, hook, last, *closed)).sum(-1).abs())
    expected = sum(sizes).mean(0)  # divided by the two blocks less one
    gap = table.attrs["clean"] - table.attrs["corrupted"]
    np.testing.assert_allclose(table.recovered, expected.detach() / abs(gap), rtol=1e-9)
    assert (table.recovered >= 0).all()


@pytest.mark.bridge
def test_edges_between_heads_and_mlps_by_hand(tokens: Any) -> None:
    """What a head writes into the residual stream, times the gradient where block 1's heads read it."""
    model, clean, corrupted = tokens
    z, reads = "blocks.0.attn.hook_z", "blocks.1.ln1.hook_in"
    senders = [Site(z, head="each"), Site("blocks.0.hook_mlp_out"), Site("blocks.1.attn.hook_z")]
    receivers = [reads, Site("blocks.1.attn.hook_q", head=2), "ln_final.hook_in"]
    table = attribution_sweep(model, clean, corrupted, last, senders, receivers)
    assert len(table) == 5 + 5 + 6
    pull = gradient(model, corrupted, reads, last)
    moved = at(model, clean, z) - at(model, corrupted, z)
    written = torch.einsum("bphd,hdm->bphm", moved, model.blocks[0].attn.W_O)
    expected = (written * pull[:, :, None]).sum((1, 3)).mean(0).detach()
    rows = table[table.receiver == reads]
    np.testing.assert_allclose(rows.metric[:4] - table.attrs["corrupted"], expected, rtol=1e-8)


def test_edges_are_paths_past_all_other_senders(toy: Any) -> None:
    model, (clean, corrupted) = toy.model.to(torch.float64), toy.draw(4, 1).double().chunk(2)
    near = corrupted + 1e-5 * (clean - corrupted)
    senders = [Site("hook_embed", pos="each"), Site("blocks.0.mlp.hook_post", unit=2)]
    for receiver in ("hook_hidden", Site("hook_unembed", unit=1)):
        table = attribution_sweep(model, near, corrupted, toy.metric, senders, receiver, steps=2)
        for i, (sender, other) in enumerate(zip([0, 0, 0, 1], [1, 1, 1, 0], strict=True)):
            site = senders[sender] if sender else Site("hook_embed", pos=i)
            frozen = [senders[other].hook]
            if receiver == "hook_hidden" and not model_order(model, clean, frozen[0], "hook_hidden"):
                frozen = []
            exact = path_patch(model, near, corrupted, toy.metric, site, receiver, frozen=frozen)
            assert table.recovered[i] == pytest.approx(exact.recovered[0], abs=1e-4), (receiver, i)


def model_order(model: Any, inputs: Any, first: str, second: str) -> bool:
    seen: list[str] = []
    with temporary_hooks(model, [(n, lambda v, hook, n=n: seen.append(n)) for n in (first, second)]):
        model(inputs)
    return seen == [first, second]


def test_edges_take_the_senders_before_each_receiver(tokens: Any) -> None:
    model, clean, corrupted = tokens
    parts = [f"blocks.{i}.hook_{n}_out" for i in (0, 1) for n in ("attn", "mlp")]
    table = attribution_sweep(model, clean, corrupted, last, parts, parts)
    assert list(zip(table.site, table.receiver, strict=True)) == [
        (parts[i], parts[j]) for j in range(4) for i in range(j)
    ]
    with pytest.raises(ValueError, match="no receiver lies behind a sender"):
        attribution_sweep(model, clean, corrupted, last, parts[2], parts[0])


class Twice(HookedRootModule):
    """Its tokens act through the embedding, and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(4, 3, dtype=torch.float64)
        self.hook_embed = HookPoint()
        self.setup()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.hook_embed(self.embed(tokens)) + tokens[..., None]


def test_corrections_are_refused_where_they_do_not_hold(tokens: Any, toy: Any) -> None:
    model, clean, corrupted = tokens

    def sweep(*sites: Any, **options: Any) -> None:
        attribution_sweep(model, clean, corrupted, last, *sites, **options)

    with pytest.raises(ValueError, match="steps=-1: must be a whole number, at least 0"):
        sweep(steps=-1)
    with pytest.raises(ValueError, match="without a site at hook_q or hook_k"):
        sweep(recompute_softmax=True)
    with pytest.raises(ValueError, match="leave them out with receivers"):
        sweep(None, "blocks.1.hook_mlp_out", drop_gradients=True)
    x, y = toy.draw(4, 1).chunk(2)
    with pytest.raises(ValueError, match="ToyModel has 1 blocks; it takes two or more"):
        attribution_sweep(toy.model, x, y, toy.metric, toy.early, drop_gradients=True)
    with pytest.raises(KeyError, match="hook_pattern"):
        attribution_sweep(toy.model, x, y, toy.metric, "blocks.0.attn.hook_q", recompute_softmax=True)
    tokens = torch.tensor([[1, 2], [3, 0]])
    with pytest.raises(ValueError, match="its inputs also act elsewhere; take steps=0"):
        attribution_sweep(Twice(), tokens, tokens.flip(0), lambda out: out[:, -1, 0] * tokens[:, 0], steps=4)


def test_half_precision_sweeps_are_the_single_precision_ones_up_to_rounding(tiny: Any) -> None:
    clean, corrupted = tiny.draw(4, 1).chunk(2)
    sites = [Site("blocks.0.hook_mlp_out", directions=torch.eye(64)[:4]), Site("blocks.1.hook_resid_pre", pos="each")]
    models = [tiny.model, tiny.make(0).to(torch.bfloat16)]
    for sweep in (patch_sweep, attribution_sweep):
        single, rounded = (sweep(model, clean, corrupted, last, sites).recovered for model in models)
        assert abs(rounded - single).max() < 0.1
