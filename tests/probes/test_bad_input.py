"""What every tool refuses, on a toy and on a bridge alike; and that a refusal leaves no hook and no changed weight."""

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import pytest
import torch
from sklearn.model_selection import GroupKFold
from torch import Tensor

import probes
from probes import Site
from probes.hooked import hook_points


def last(output: Any) -> Tensor:
    """One number per example, of a toy with heads or of a bridge."""
    return (output.reconstruction if hasattr(output, "reconstruction") else output)[:, -1, 0]


def total(output: Any) -> Tensor:
    """Another, which no two inputs share."""
    return (output.reconstruction if hasattr(output, "reconstruction") else output)[:, -1].square().sum(-1)


def shorter(x: Tensor) -> Tensor:
    return x[:, :-1]


def constant(n: int) -> Tensor:
    return torch.ones(n, dtype=torch.int64)


BAD: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    # an unknown hook
    "audit": (lambda s: probes.audit_hooks(s.model, s.inputs, "hook_emed"), KeyError, "did you mean 'hook_embed'"),
    "collect": (lambda s: probes.collect_activations(s.model, s.inputs, "hook_emed"), KeyError, "did you mean"),
    "probe": (lambda s: probes.linear_probe(s.model, s.inputs, constant(5), "hook_emed"), KeyError, "did you mean"),
    "sweep": (
        lambda s: probes.patch_sweep(s.model, s.inputs, s.inputs.flip(0), last, "hook_emed"),
        KeyError,
        "did you mean",
    ),
    "path": (
        lambda s: probes.path_patch(s.model, s.inputs, s.inputs.flip(0), last, s.early, "hook_emed"),
        KeyError,
        "did you mean",
    ),
    "attribution": (
        lambda s: probes.attribution_sweep(s.model, s.inputs, s.inputs.flip(0), last, "hook_emed"),
        KeyError,
        "did you mean",
    ),
    "tangent": (lambda s: probes.tangent_space(s.model, s.inputs, s.early, "hook_emed"), KeyError, "did you mean"),
    "slices": (lambda s: probes.attention_slices(s.model, s.inputs, 0, 0, hook="hook_emed"), KeyError, "did you mean"),
    # mismatched batches
    "batches": (
        lambda s: probes.patch_sweep(s.model, s.inputs, s.inputs[:3], last, s.early),
        ValueError,
        "as many examples, as many tokens",
    ),
    "positions": (
        lambda s: probes.patch_sweep(s.model, s.inputs, shorter(s.inputs), last, s.early),
        ValueError,
        "as many examples, as many tokens",
    ),
    "batches of a path": (
        lambda s: probes.path_patch(s.model, s.inputs, s.inputs[:3], last, s.early, s.late),
        ValueError,
        "as many examples, as many tokens",
    ),
    "batches of an attribution": (
        lambda s: probes.attribution_sweep(s.model, s.inputs, s.inputs[:3], last, s.early),
        ValueError,
        "as many examples, as many tokens",
    ),
    # targets
    "one class": (
        lambda s: probes.linear_probe(s.model, s.inputs, constant(5), s.early),
        ValueError,
        "one class, 1: give at least two",
    ),
    "NaN": (
        lambda s: probes.linear_probe(s.model, s.inputs, torch.tensor([1.0, 2, 3, 4, torch.nan]), s.early),
        ValueError,
        "1 targets are NaN or infinite: drop",
    ),
    "too few targets": (
        lambda s: probes.linear_probe(s.model, s.inputs, torch.arange(4.0), s.early),
        ValueError,
        "4 targets for 5 inputs: give one",
    ),
    # k larger than the rank
    "k of a tangent space": (
        lambda s: probes.tangent_space(s.model, s.inputs, s.early, s.late).angles(torch.eye(s.width), s.width + 1),
        ValueError,
        r"k=\d+: the Jacobian has rank \d+; choose k",
    ),
    "dependent directions": (
        lambda s: Site(hook=s.early, directions=torch.ones(3, s.width)),
        ValueError,
        "3 directions of rank 1: rows must be linearly independent; drop 2",
    ),
    # a donor of another shape
    "donor": (
        lambda s: probes.patched_copy(s.model, {"W_E": torch.zeros(2, 2)}, {"W_E": 0}),
        ValueError,
        r"W_E: the source has shape \(2, 2\), the model .*; use a like model",
    ),
    "initial donor": (
        lambda s: probes.init_patching(s.model, torch.nn.Linear(2, 2), {"weight": 0}, lambda m, seeds: m, float),
        AttributeError,
        "no parameter 'weight'",
    ),
    # a hook whose shape changes with the prompt
    "ragged prompts": (
        lambda s: probes.collect_activations(s.model, [s.inputs[0], shorter(s.inputs[1:2])[0]], s.early),
        ValueError,
        "give inputs of one length",
    ),
    "ragged patches": (
        lambda s: probes.attribution_sweep(
            s.model, [s.inputs[0], shorter(s.inputs[:1])[0]], s.inputs[:2], last, s.early
        ),
        ValueError,
        "give prompts of one length",
    ),
    # metrics
    "a metric without a gradient": (
        lambda s: probes.attribution_sweep(s.model, *s.pair, lambda out: (100 * total(out)).round().detach(), s.early),
        ValueError,
        "the metric has no gradient: give one that is differentiable",
    ),
    "a metric whose gradient is infinite": (
        lambda s: probes.attribution_sweep(s.model, *s.pair, lambda out: total(out) + (0 * total(out)).sqrt(), s.early),
        ValueError,
        "the metric's gradient at hook '.*' is not finite: use patch_sweep there",
    ),
    # sites and hooks
    "several receivers": (
        lambda s: probes.path_patch(s.model, *s.pair, total, s.early, Site(s.late, unit="each")),
        ValueError,
        r"receiver .* is \d+ sites: give one index instead of 'each'",
    ),
    "an axis that is not there": (
        lambda s: probes.patch_sweep(s.model, *s.pair, total, Site(s.early, head=0)),
        ValueError,
        r"\[head=0\]: the activation has no head axis, only batch, pos, unit",
    ),
    "nothing behind the receiver": (
        lambda s: probes.attribution_sweep(s.model, *s.pair, total, s.late, s.early),
        ValueError,
        "no receiver lies behind a sender",
    ),
    # splits and masks
    "splits of groups that are not given": (
        lambda s: probes.linear_probe(s.model, s.inputs, torch.arange(5.0), s.early, cv=GroupKFold(2)),
        ValueError,
        "GroupKFold splits groups: give groups=",
    ),
    "a mask of everything": (
        lambda s: probes.linear_probe(
            s.model, s.inputs, torch.arange(5.0), s.early, mask=torch.zeros(s.inputs.shape[:2], dtype=torch.bool)
        ),
        ValueError,
        "mask leaves nothing of example 0: drop it",
    ),
    "the same target in what is tested": (
        lambda s: probes.linear_probe(
            s.model, s.inputs, torch.tensor([1.0, 1, 1, 2, 3]), s.early, cv=[([2, 3, 4], [0, 1])]
        ),
        ValueError,
        "the same in all rows that are tested: it has no R",
    ),
    # names
    "more blocks than there are": (
        lambda s: probes.align(probes.qk_circuit(s.model, 0, 0), s.model.W_E[:2], n_null=1).directions(n=1000),
        ValueError,
        r"n=1000: must be 1 to \d+, the number of blocks",
    ),
    "an argument that is none": (
        lambda s: probes.audit_hooks(s.model, s.inputs, hook=s.early),
        TypeError,
        "audit_hooks has no argument 'hook'; did you mean 'hooks'",
    ),
    "too few trained models": (
        lambda s: probes.init_patching(
            s.model, s.model, {"W_E": 0}, lambda models, seeds: models[:1], float, controls=("self",)
        ),
        ValueError,
        "retrain returned 1 models for 3: return one for each, in order",
    ),
}


class Case:
    """A subject with the width of its early hook."""

    def __init__(self, subject: Any) -> None:
        self.model, self.inputs, self.early, self.late = subject.model, subject.inputs, subject.early, subject.late
        self.pair = self.inputs[:2], self.inputs[2:4]
        self.width = probes.collect_activations(self.model, self.inputs, self.early)[self.early].shape[-1]


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_refused_and_leaves_no_trace(subject: Any, bad: str) -> None:
    call, error, match = BAD[bad]
    case = Case(subject)
    weights = [p.detach().clone() for p in case.model.parameters()]
    with pytest.raises(error, match=match):
        call(case)
    assert all(torch.equal(p, w) for p, w in zip(case.model.parameters(), weights, strict=True))
    for point in case.model.hook_dict.values():
        assert not point.fwd_hooks
        assert not point._forward_hooks
    assert not any(vars(module).get("forward") for module in case.model.modules())


ON_INPUTS: dict[str, Callable[[Case, Any], Any]] = {
    "audit": lambda s, x: probes.audit_hooks(s.model, x),
    "collect": lambda s, x: probes.collect_activations(s.model, x, s.early),
    "stream": lambda s, x: list(probes.stream_activations(s.model, x, s.early)),
    "probe": lambda s, x: probes.linear_probe(s.model, x, torch.zeros(len(x)), s.early),
    "sweep": lambda s, x: probes.patch_sweep(s.model, x, x, last, s.early),
    "path": lambda s, x: probes.path_patch(s.model, x, x, last, s.early, s.late),
    "attribution": lambda s, x: probes.attribution_sweep(s.model, x, x, last, s.early),
    "tangent": lambda s, x: probes.tangent_space(s.model, x, s.early),
    "slices": lambda s, x: probes.attention_slices(s.model, x, 0, 0),
    "ablate": lambda s, x: probes.ablate_slices(s.model, x, last, 0, 0, [0]),
    "qk": lambda s, x: probes.qk_circuit(s.model, 0, 0, inputs=x),
    "bottleneck": lambda s, x: probes.bottleneck(s.model, "embed->unembed", inputs=x),
}


@pytest.mark.parametrize("tool", ON_INPUTS)
def test_nothing_to_run_on_is_refused(subject: Any, tool: str) -> None:
    for nothing in (subject.inputs[:0], subject.inputs[:, :0], []):
        with pytest.raises(ValueError, match=r"inputs is empty: .*give at least one example"):
            ON_INPUTS[tool](Case(subject), nothing)


@pytest.mark.parametrize(
    "tool",
    [
        lambda model: probes.qk_circuit(model, 0, 0),
        lambda model: probes.bottleneck(model, "embed->unembed"),
        lambda model: probes.nearest_tokens(model, torch.eye(model.W_E.shape[1])),
    ],
)
def test_weights_that_are_no_numbers_are_named_as_the_reason(subject: Any, tool: Any) -> None:
    model = subject.make(1)
    with torch.no_grad():
        model.W_E.fill_(torch.nan)
    with pytest.raises(ValueError, match="gives NaN on random inputs: are its weights finite"):
        tool(model)
    with pytest.raises(ValueError, match="are on the meta device, without data: load them"):
        tool(subject.make(1).to("meta"))


@pytest.mark.bridge
@pytest.mark.parametrize("name", ["blocks.1.attn.hook_attn_scores", "blocks.1.attn.hook_result"])
@pytest.mark.parametrize("tool", ["sweep", "sender", "receiver", "attribution", "tangent"])
def test_every_patching_tool_refuses_a_dead_or_silent_hook_and_names_live_ones(name: str, tool: str) -> None:
    model = probes.load_transformer("tiny")
    clean = torch.tensor([[1, 2, 3], [4, 5, 6]])
    other = clean + 10
    early, late = "blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"
    calls = {
        "sweep": lambda: probes.patch_sweep(model, clean, other, last, name),
        "sender": lambda: probes.path_patch(model, clean, other, last, name, late),
        "receiver": lambda: probes.path_patch(model, clean, other, last, early, name),
        "attribution": lambda: probes.attribution_sweep(model, clean, other, last, name),
        "tangent": lambda: probes.tangent_space(model, clean, name, late),
    }
    with pytest.raises(ValueError, match=r"(fires in vain|does not fire).*live hooks around it: blocks\.1\."):
        calls[tool]()


def gpt2() -> Any:
    """A tiny random model of the library transformers, as people hold one in hand."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=11, n_positions=8))


MISTAKES: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "tokens": (lambda m: probes.audit_hooks(m, torch.tensor([[1, 101]])), ValueError, "tokens 1 to 101: .* 0 to 100"),
    "below": (lambda m: probes.linear_probe(m, torch.tensor([[-1, 3]]), constant(1)), ValueError, "tokens -1 to 3"),
    "numbers": (
        lambda m: probes.audit_hooks(m, torch.rand(2, 4)),
        TypeError,
        "torch.float32, and this model takes",
    ),
    "no hooks": (
        lambda m: unwrap(hook_points)(gpt2()),
        TypeError,
        "take .*build_bridge_from",
    ),
    "a model": (
        lambda m: probes.load_transformer(gpt2()),
        TypeError,
        "name is a GPT2LMHeadModel: take tr",
    ),
    "no name": (lambda m: probes.load_transformer(3), TypeError, "name is a int: give a name such as 'smollm2'"),
    "device": (lambda m: probes.load_transformer("tiny", device="mps"), ValueError, "device='mps' is not on this mach"),
    "position": (
        lambda m: Site("hook_embed", position=2),
        TypeError,
        "Site has no argument 'position'; did you mean 'p",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_answered_with_what_to_give(mistake: str) -> None:
    call, error, match = MISTAKES[mistake]
    with pytest.raises(error, match=match):
        call(probes.load_transformer("tiny"))


def test_results_show_their_shapes_and_not_their_numbers() -> None:
    model = probes.load_transformer("tiny")
    tokens = torch.arange(12).reshape(2, 6)
    omega = probes.qk_circuit(model, 0, 1)
    shown = {
        "S: (16,)": omega,
        "Vh: (16, 64)": probes.ov_circuit(model, 0, 1),
        "scores: (": probes.attention_slices(model, tokens, 0, 1, n_null=2),
        "write: (101, 64)": probes.bottleneck(model, "embed->unembed"),
        "left_angles: ": probes.align(omega, torch.eye(64)[:3], torch.eye(64)[:3], n_null=5),
        "jacobian: (2, 64, 64)": probes.tangent_space(model, tokens, "hook_embed", "blocks.0.hook_mlp_out"),
        "Site('blocks.0.attn.hook_z[head=3]')": Site("blocks.0.attn.hook_z", head=3),
    }
    for part, result in shown.items():
        assert part in repr(result) and len(repr(result)) < 400, repr(result)
