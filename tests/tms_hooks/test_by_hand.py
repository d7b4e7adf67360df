"""Gradients by hand: those of autograd; and rows drawn ahead: those of torch."""

from dataclasses import fields
from typing import get_args

import pytest
import torch
from torch.testing import assert_close

import tms_hooks as tms
from tms_hooks import losses
from tms_hooks.training import batches, by_hand, torch_engine
from tms_hooks.training.recipe import Recipe, Stage
from tms_hooks.training.state import State

RARE = tms.SparseUniform(5, 0.05, low=-1.0)
"""Most rows are empty, so that only the others are drawn."""


def bent(out, target):
    """Rounds by where in memory an entry stands, as vectors of exponentials do."""
    return torch.exp((out - target).abs()) - 1


def per_sample(out, target):
    return (out - target).square().sum(-1).sqrt()


def leaky(x):
    return torch.nn.functional.silu(x)


HEADS = {"n_heads": 2, "d_head": 3, "qk_pairs": [[(0, 1)], [(1, 0, 2.0), (2, 2)]], "qk_weight": 0.3}
PARTS = {
    "loss": {"loss": bent, "importance": [1.0, 0.5, 0.0, 2.0, 1.0]},
    "loss per sample": {"loss": per_sample},
    "power": {"loss": losses.Lp(3), "output_act": "identity", "output_bias": False},
    "activations": {"hidden_act": leaky, "output_act": leaky, "hidden_bias": True, "tied": False},
    "both": {"loss": bent, "output_act": leaky, "task": torch.square},
    "hidden": {"hidden_act": "relu", "hidden_bias": True},
    "scale before": {"unit_norm": True, "tied": False, "loss": bent},
    "scale after": {"unit_norm": "write", "scale": "after", "tied": False},
    "norms": {"unit_norm": "read", "tied": False, "loss": bent},
    "gelu": {"hidden_act": "gelu", "output_act": "gelu", "loss": bent},
    "stream": {"d_mlp": 4, "bottleneck": "residual", "n_mlps": 2, "loss": bent, "output_bias": False},
    "mlp in front": {"d_mlp": 4, "bottleneck": "mlp.out->unembed", "hidden_act": "gelu", "loss": bent},
    "mlp behind": {"d_mlp": 4, "bottleneck": "embed->mlp.in", "hidden_bias": True, "tied": False, "unit_norm": True},
    "heads": HEADS | {"head_bias": True, "hidden_act": "gelu", "loss": bent, "d_mlp": 4, "bottleneck": "residual"},
    "pattern": HEADS | {"head_objective": "pattern", "output_act": "softmax", "hidden_act": "relu"},
    "softmax": {"output_act": "softmax", "loss": "cross_entropy", "data": tms.OneHot(5)},
    "penalty": {"penalty": tms.Lasso(0.01), "loss": bent},
}
OF_CFG = {field.name for field in fields(tms.ToyConfig)}


def recipe(seeds=range(3), **given):
    cfg = tms.ToyConfig(5, 2, **{name: value for name, value in given.items() if name in OF_CFG})
    others = {name: value for name, value in given.items() if name not in OF_CFG}
    others = {"data": RARE, "batch_size": 90, "steps": 12, "optimizer": tms.Adam(lr=0.03)} | others
    return Recipe.of(cfg, seeds=seeds, **others)


STAGES = [(name, stage) for name, given in PARTS.items() for stage in get_args(Stage)[: 3 if "n_heads" in given else 1]]


@pytest.mark.parametrize("seeds", [[7], [3, 7]], ids=["alone", "pair"])
@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_gradients_by_hand_are_those_of_autograd(name, stage, seeds):
    given = {key: part for key, part in PARTS[name].items() if key != "penalty"}
    plan = recipe(seeds, dtype="float64", **given)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: w + 0.1 * torch.randn(w.shape, generator=generator, dtype=w.dtype)
        for name, w in State.initial(plan, None, "cpu").weights.items()
    }
    x = batches.batch(plan, plan.seeds, 3)
    leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
    names = torch_engine.trained_names(weights, stage)
    wanted = torch_engine.sampled_losses(plan, leaves, x)
    total = torch_engine.objective(plan, wanted, stage).sum()
    slopes = torch.autograd.grad(total, [leaves[name] for name in names])
    losses, found = by_hand.loss_and_gradients(plan, weights, x, stage)
    for mine, theirs in zip(losses, wanted, strict=True):
        assert_close(mine, theirs.detach(), rtol=1e-12, atol=1e-14)
    assert found.keys() == set(names)
    for name, slope in zip(names, slopes, strict=True):
        assert_close(found[name], slope, rtol=1e-12, atol=1e-14)
    assert by_hand.loss_and_gradients(plan, weights, x, stage, asked=False)[1].keys() == found.keys()


@pytest.mark.parametrize("given", PARTS.values(), ids=PARTS)
def test_own_parts_have_the_same_bits_alone_in_a_crowd_and_in_pieces(given):
    def trained(seeds, *stops):
        plan = recipe(seeds, **given)
        state = State.initial(plan, None, "cpu")
        for start, stop in zip((0, *stops), (*stops, 12), strict=True):
            torch_engine.advance(plan, state, start, stop)
        return state

    alone, crowd, pieces = trained([7]), trained([3, 7, 5]), trained([7], 1, 5)
    for name, w in alone.weights.items():
        assert torch.equal(w[0], crowd.weights[name][1]), name
        assert torch.equal(w, pieces.weights[name]), name
    for name, m in alone.moments.items():
        assert torch.equal(m[0], crowd.moments[name][1]), name


@pytest.mark.parametrize("near", [False, True])
def test_models_in_groups_are_what_they_are_together(near, monkeypatch):
    plan = recipe(range(5), loss=bent)
    x, weights = batches.batch(plan, plan.seeds, 3), State.initial(plan, None, "cpu").weights
    if near:
        weights["b_U"][1] += 80  # of whose exponential no sum is safe
    whole = by_hand.loss_and_gradients(plan, weights, x, asked=False)
    monkeypatch.setattr(batches, "MOST_AHEAD", 2 * x[0].numel())
    parts, found = by_hand.loss_and_gradients(plan, weights, x, asked=False)
    assert (parts is None) == (not near) == (whole[0] is None)
    assert parts is None or torch.equal(parts[0], whole[0][0])
    assert all(torch.equal(found[name], g) for name, g in whole[1].items())


def test_a_loss_that_turns_nan_during_training_is_refused():
    def narrow(out, target):  # NaN where an error is above 9
        return torch.sqrt(9 - (out - target).abs())

    plan = recipe([1, 2], loss=narrow, output_act="identity", optimizer=tms.SGD(lr=30.0))
    state = State.initial(plan, None, "cpu")
    with pytest.raises(ValueError, match="gives NaN for finite outputs"):
        torch_engine.advance(plan, state, 0, 12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("data", "heads"),
    [
        (RARE, 0),
        (tms.SparseUniform(5, [0.1, 0.9, 1.0, 0.3, 0.2], low=0.3, high=0.9), 0),
        (tms.SparseUniform(3, 0.2), 1),
        (tms.KHot(4, k=2), 0),
    ],
    ids=["rare", "uneven", "heads", "no loop"],
)
def test_batches_ahead_are_the_batches_to_the_bit(data, heads, dtype, monkeypatch):
    monkeypatch.setattr(batches, "MOST_AHEAD", 1000)  # a few steps at once, and the last ones fewer
    pytest.importorskip("numba")
    cfg = tms.ToyConfig(data.n_features, 2, n_heads=heads)
    pairs = [(0, 1)] if heads else ()
    plan = Recipe.of(cfg, data, seeds=[3, 2**62 + 5], batch_size=37, dtype=dtype, qk_pairs=pairs)
    found = list(batches.ahead(plan, 4, 15))
    assert len(found) == 11
    for step, x in enumerate(found, start=4):
        assert torch.equal(x, batches.batch(plan, plan.seeds, step))
