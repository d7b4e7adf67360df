"""What is done in parts, because of long prompts it would not fit, gives what the whole gives.

How much memory the tools take of 1,024 tokens is measured by `python -m benchmarks.probe_memory`.
"""

from typing import Any

import pandas as pd
import pytest
import torch

import probes
from probes import activation_patching, attribution, liveness, slices, tangent
from probes.hooked import adding_zeros
from probes.sites import Site


def test_slices_of_some_pairs_at_a_time(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = probes.attention_slices(subject.model, subject.inputs, 0, 1, n_null=5)
    sizes: list[int] = []
    needed = slices._needed
    monkeypatch.setattr(slices, "CHUNK", 4)
    monkeypatch.setattr(slices, "_needed", lambda part: (sizes.append(len(part)), needed(part))[1])
    parts = probes.attention_slices(subject.model, subject.inputs, 0, 1, n_null=5)
    assert max(sizes) == 4
    assert sum(sizes) == 6 * len(whole.pairs)
    assert torch.equal(parts.needed, whole.needed)
    assert torch.equal(parts.null_needed, whole.null_needed)


def test_pairs_in_any_order_and_those_that_are_none(subject: Any) -> None:
    whole = probes.attention_slices(subject.model, subject.inputs, 0, 0, n_null=1)
    back = probes.attention_slices(subject.model, subject.inputs, 0, 0, n_null=1, pairs=whole.pairs.flip(0))
    assert torch.equal(back.scores, whole.scores.flip(0))
    for pair in ([0, 0, 50], [5, 0, 0], [0, -1, 0]):
        with pytest.raises(ValueError, match=rf"\({pair[0]}, {pair[1]}, {pair[2]}\) is masked or outside"):
            probes.attention_slices(subject.model, subject.inputs, 0, 0, pairs=torch.tensor([[0, 1, 1], pair]))


def test_a_jacobian_of_some_rows_at_a_time(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, passes = subject.model.to(torch.float64), list[int]()
    inputs = subject.inputs.double() if subject.inputs.is_floating_point() else subject.inputs
    whole = probes.tangent_space(model, inputs, subject.early, subject.late)
    grad = torch.autograd.grad

    def counted(*args: Any, **options: Any) -> Any:
        passes.append(len(args[2]) if options.get("is_grads_batched") else 0)
        return grad(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    examples, positions = inputs.shape[:2]
    monkeypatch.setattr(tangent, "ATTENDED_AT_ONCE", 4 * examples * positions**2)
    parts = probes.tangent_space(model, inputs, subject.early, subject.late)
    assert max(passes) == 4
    torch.testing.assert_close(parts.jacobian, whole.jacobian, rtol=0, atol=1e-12)


def test_an_audit_of_some_hooks_at_a_time(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = probes.audit_hooks(subject.model, subject.inputs)
    monkeypatch.setattr(liveness, "ENTRIES_AT_ONCE", 500)
    pd.testing.assert_frame_equal(probes.audit_hooks(subject.model, subject.inputs), whole)
    sizes = [("a", 300), ("b", 200), ("c", 1), ("d", 900), ("e", 2)]
    assert liveness._that_fit(sizes) == [["a", "b"], ["c"], ["d"], ["e"]]


@pytest.mark.bridge
def test_patterns_of_one_run_at_a_time(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys take a run for each position; each closed block has a gradient of its own."""
    clean, corrupted = tiny.draw(4, 1).chunk(2)
    sites = [Site(f"blocks.{i}.attn.hook_{part}", pos="each", head="each") for i in range(2) for part in "kq"]
    asked = {"recompute_softmax": True, "drop_gradients": True}
    whole = probes.attribution_sweep(tiny.model, clean, corrupted, tiny.metric, sites, **asked)
    monkeypatch.setattr(attribution, "ENTRIES_KEPT", 1)
    parts = probes.attribution_sweep(tiny.model, clean, corrupted, tiny.metric, sites, **asked)
    pd.testing.assert_frame_equal(parts, whole)


@pytest.mark.bridge
@pytest.mark.parametrize("tool", ["patch_sweep", "attribution_sweep", "attribution_sweep, softmax recomputed"])
def test_sweeps_of_some_patterns_at_a_time(tiny: Any, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clean, corrupted = tiny.draw(4, 1).chunk(2)
    sites = [Site(f"blocks.{i}.attn.{part}", head="each") for i in (0, 1, 0) for part in ("hook_pattern", "hook_q")]
    sites.insert(3, Site("blocks.1.hook_mlp_out", pos="each"))
    asked = {"recompute_softmax": True} if tool.endswith("recomputed") else {}
    sweep, runs = getattr(probes, tool.partition(",")[0]), list[int]()
    whole = sweep(tiny.model, clean, corrupted, tiny.metric, sites, **asked)
    monkeypatch.setattr(activation_patching, "ENTRIES_AT_ONCE", 2 * 7 * 7 * 4)
    pair = activation_patching.Pair.__init__

    def counted(*args: Any) -> None:
        runs.append(len(args[4]))
        pair(*args)

    monkeypatch.setattr(activation_patching.Pair, "__init__", counted)
    parts = sweep(tiny.model, clean, corrupted, tiny.metric, sites, **asked)
    assert runs == [2, 3, 2]
    pd.testing.assert_frame_equal(parts, whole, rtol=1e-5)
    assert parts.attrs == whole.attrs
    monkeypatch.setattr(activation_patching, "ENTRIES_AT_ONCE", 1)  # not even one fits: one at a time
    runs.clear()
    sweep(tiny.model, clean, corrupted, tiny.metric, sites[:5:2], **asked)
    assert runs == [1, 2]  # block 0's pattern; block 1's, and its queries


def test_gradients_of_activations_ask_for_none_of_weights(subject: Any) -> None:
    model, weights = subject.model, list(subject.model.parameters())
    weights[0].requires_grad_(False)

    def stopped() -> None:
        with adding_zeros(model, [subject.early]) as zeros:
            assert not any(weight.requires_grad for weight in weights)
            model(subject.inputs)
            assert zeros[subject.early].untyped_storage().size() == zeros[subject.early].element_size()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    assert [weight.requires_grad for weight in weights] == [False] + [True] * (len(weights) - 1)
