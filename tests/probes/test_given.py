"""Arrays, DataArrays, lists of tokens and single prompts mean to every tool what the tensor means."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray

import probes
from probes import Site
from probes.given import as_prompts, whole

HOOK = "blocks.0.hook_resid_pre"


def last(output: Any) -> torch.Tensor:
    return (output.reconstruction if hasattr(output, "reconstruction") else output)[:, -1].square().sum(-1)


TOOLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "audit": lambda s, x, y: probes.audit_hooks(s.model, x, [s.early, s.late]),
    "collect": lambda s, x, y: probes.collect_activations(s.model, x, s.early)[s.early],
    "probe": lambda s, x, y: (
        probes.linear_probe(s.model, x, np.arange(3.0), s.early, control=False, cv=3, pos=-1).score
    ),
    "sweep": lambda s, x, y: probes.patch_sweep(s.model, x, y, last, Site(s.early, pos="each")),
    "path": lambda s, x, y: probes.path_patch(s.model, x, y, last, s.early, s.late),
    "attribution": lambda s, x, y: probes.attribution_sweep(s.model, x, y, last, Site(s.early, pos="each")),
    "tangent": lambda s, x, y: probes.tangent_space(s.model, x, s.early, s.late).jacobian,
    "slices": lambda s, x, y: probes.attention_slices(s.model, x, 0, 0, n_null=1).scores,
    "ablate": lambda s, x, y: probes.ablate_slices(s.model, x, last, 0, 0, [0], n_random=1),
    "qk": lambda s, x, y: probes.qk_circuit(s.model, 0, 0, inputs=x).S,
    "bottleneck": lambda s, x, y: probes.bottleneck(s.model, "blocks.0.mlp.out->unembed", inputs=x).write.detach(),
}


@pytest.mark.parametrize("kind", [np.asarray, lambda x: xarray.DataArray(np.asarray(x)), torch.Tensor.tolist])
@pytest.mark.parametrize("tool", TOOLS)
def test_inputs_of_any_kind(subject: Any, tool: str, kind: Callable[[torch.Tensor], Any]) -> None:
    x, y = subject.draw(3, 1), subject.draw(3, 2)
    expected, found = (TOOLS[tool](subject, of(x), of(y)) for of in (torch.clone, kind))
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    else:
        same = pd.testing.assert_series_equal if isinstance(expected, pd.Series) else pd.testing.assert_frame_equal
        same(found, expected)


def test_one_prompt_is_a_batch_of_one(tiny: Any) -> None:
    tokens = tiny.draw(1, 3)
    for one in (tokens[0], tokens[0].numpy(), tokens[0].tolist(), tokens):
        assert torch.equal(as_prompts(tiny.model, one), tokens)
        assert probes.collect_activations(tiny.model, one, tiny.early)[tiny.early].shape[:2] == tokens.shape


def test_doubles_become_what_the_model_computes_in(toy: Any) -> None:
    x = np.random.default_rng(0).random((4, 3, 6))
    assert as_prompts(toy.model, x).dtype == torch.float32
    assert as_prompts(toy.model.double(), x).dtype == torch.float64


def test_text_needs_a_tokenizer(tiny: Any) -> None:
    for text in ("a word", ["a word", "two"], np.array(["a word"])):
        with pytest.raises(ValueError, match=r"'a word': this \w+ has no tokenizer; give tokens, batch x pos"):
            probes.collect_activations(tiny.model, text, tiny.early)


def test_directions_weights_and_pairs_of_any_kind(toy: Any) -> None:
    model, rng = toy.model, np.random.default_rng(0)
    omega, rows = rng.normal(size=(4, 4)), rng.normal(size=(2, 4))
    found = [probes.align(of(omega), of(rows), n_null=3).table() for of in (np.asarray, torch.tensor)]
    pd.testing.assert_frame_equal(*found)
    jacobian = rng.normal(size=(2, 3, 4))
    angles = [probes.TangentSpace.of(of(jacobian)).angles(of(rows), 2) for of in (np.asarray, torch.tensor)]
    torch.testing.assert_close(*angles, rtol=0, atol=0)
    assert torch.equal(probes.TangentSpace.of(jacobian).angles(rows[0], 2), angles[0][:, :1])
    assert probes.slices_needed(np.array([[1.0, 5.0, -2.0]])).tolist() == [1]
    whole = probes.attention_slices(model, toy.inputs, 0, 0, n_null=1)
    for pairs in ([[4, 2, 1]], np.array([[4, 2, 1]]), [4, 2, 1], torch.tensor([[4, 2, 1]], dtype=torch.int32)):
        some = probes.attention_slices(model, toy.inputs, 0, 0, n_null=1, pairs=pairs)
        assert torch.equal(some.scores, whole.scores[(whole.pairs == torch.tensor([4, 2, 1])).all(1)])
    weight = rng.normal(size=(6, 4))
    with probes.patch_weights(model, {"W_E": weight}, {"W_E": 3}):
        torch.testing.assert_close(model.W_E[3].detach(), torch.tensor(weight[3], dtype=torch.float32))


NUMBERS: dict[str, Callable[[Any, Any], Any]] = {
    "layer": lambda s, n: probes.qk_circuit(s.model, n, 0),
    "head": lambda s, n: probes.qk_circuit(s.model, 0, n),
    "offset": lambda s, n: probes.qk_circuit(s.model, 0, 0, offset=n),
    "pos": lambda s, n: probes.tangent_space(s.model, s.inputs, s.early, pos=n),
    "out_pos": lambda s, n: probes.tangent_space(s.model, s.inputs, s.early, out_pos=n),
    "slices": lambda s, n: probes.ablate_slices(s.model, s.inputs, last, 0, 0, [n]),
}
COUNTS: dict[str, Callable[[Any, Any], Any]] = {
    "steps": lambda s, n: probes.attribution_sweep(s.model, s.inputs[:2], s.inputs[2:4], last, s.early, steps=n),
    "n_null": lambda s, n: probes.attention_slices(s.model, s.inputs, 0, 0, n_null=n),
    "n_random": lambda s, n: probes.ablate_slices(s.model, s.inputs, last, 0, 0, [0], n_random=n),
}
SIZES: dict[str, Callable[[Any, Any], Any]] = {
    "n_null": lambda s, n: probes.align(torch.eye(4), torch.eye(4), n_null=n),
    "batch_size of a sweep": lambda s, n: probes.patch_sweep(
        s.model, s.inputs[:2], s.inputs[2:4], last, s.early, batch_size=n
    ),
    "batch_size": lambda s, n: probes.collect_activations(s.model, s.inputs, s.early, batch_size=n),
    "batch_size of rows": lambda s, n: probes.tangent_space(s.model, s.inputs, s.early, batch_size=n),
}


@pytest.mark.parametrize(
    ("name", "call", "least"),
    [
        *((name, call, "") for name, call in NUMBERS.items()),
        *((name, call, ", at least 0") for name, call in COUNTS.items()),
        *((name.split(" ")[0], call, ", at least 1") for name, call in SIZES.items()),
    ],
)
def test_numbers_are_whole_and_counts_large_enough(toy: Any, name: str, call: Any, least: str) -> None:
    outside = {"": (), ", at least 0": (-1,), ", at least 1": (0, -1)}[least]
    for number in (True, *outside):  # what is not even a number of the annotated type, beartype refuses here
        with pytest.raises(ValueError, match=f"^{name}={number}: must be a whole number{least}$"):
            call(toy, number)


def test_a_whole_number_of_any_type() -> None:
    assert [whole("n", n, 0) for n in (3, np.int32(3), torch.tensor(3), np.array(3))] == [3] * 4
    for bad in (1.5, "2", None, np.array([1, 2]), torch.tensor([1, 2]), True, -1):
        with pytest.raises(ValueError, match="must be a whole number, at least 0"):
            whole("n", bad, 0)


def test_a_slice_may_stand_alone_and_a_metric_is_finite(toy: Any) -> None:
    one, listed, array = (
        probes.ablate_slices(toy.model, toy.inputs, last, 0, 0, taken, n_random=1) for taken in (1, [1], np.array([1]))
    )
    pd.testing.assert_frame_equal(one, listed)
    pd.testing.assert_frame_equal(array, listed)
    with pytest.raises(ValueError, match=r"the metric is not finite: \[nan"):
        probes.ablate_slices(toy.model, toy.inputs, lambda out: last(out) * torch.nan, 0, 0, [0])


def test_a_tokenizers_mask_of_ones_and_zeros(tiny: Any) -> None:
    tokens, mask = tiny.draw(12, 1), torch.ones(12, 7, dtype=torch.bool)
    mask[::2, :3] = False
    scores = [
        probes.linear_probe(tiny.model, tokens, torch.arange(12.0), tiny.late, pos="mean", mask=of(mask), control=False)
        for of in (torch.clone, torch.Tensor.long, np.asarray, torch.Tensor.tolist)
    ]
    for found in scores[1:]:
        pd.testing.assert_series_equal(found.score, scores[0].score)
    with pytest.raises(ValueError, match=r"mask of torch.int64, \(12, 7\): must be boolean \(or 0 and 1\)"):
        probes.linear_probe(tiny.model, tokens, torch.arange(12.0), tiny.late, mask=2 * mask.long())
