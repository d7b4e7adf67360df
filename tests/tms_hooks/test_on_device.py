"""Training on a device, shown without one: its updates on the CPU, where their numbers can be compared, and on "meta".

A tensor on torch's device "meta" has a shape and a place but no numbers: what asks for one, or mixes it with a tensor of
the CPU, fails there. No test here runs on a GPU, unless the machine has one.
"""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

import tms_hooks as tms
from tests.tms_hooks.test_torch_engine import Halves, recipe
from tms_hooks import rng
from tms_hooks.training import batches, graphs, on_device, torch_engine
from tms_hooks.training.state import State


def cubed(out, target):
    return (out - target).abs() ** 3


def per_sample(out, target):
    return (out - target).square().sum(-1)


def swish(x):
    return torch.nn.functional.silu(x)


def ridge(weights):
    return 0.01 * weights["W_E"].square().sum()


def squares(x):
    return x.square()


RARE = tms.SparseUniform(n_features=5, feature_probability=0.05)
HEADS = {"n_heads": 2, "d_head": 1, "qk_pairs": [[(0, 1)], [(1, 0), (4, 3)]]}
ZOO = {
    "plain": {},
    "identity, no bias": {"output_act": "identity", "output_bias": False},
    "untied": {"tied": False, "hidden_bias": True, "hidden_act": "relu"},
    "gelu": {"output_act": "gelu", "hidden_act": "gelu"},
    "softmax": {"output_act": "softmax", "loss": "cross_entropy", "data": tms.OneHot(n_features=5)},
    "one-hot, sampled": {"data": tms.OneHot(n_features=5), "batch_size": 16},
    "empty rows": {"data": RARE, "empty_rows": "exact"},
    "unit norm": {"unit_norm": True, "tied": False},
    "scale": {"unit_norm": True, "scale": "after"},
    "mlp": {"d_mlp": 4},
    "mlp reads": {"d_mlp": 4, "tied": False, "bottleneck": "embed->mlp.in"},
    "residual": {"d_mlp": 4, "n_mlps": 2, "bottleneck": "residual"},
    "heads": HEADS | {"head_bias": True, "qk_weight": 0.5},
    "pattern": HEADS | {"head_objective": "pattern", "d_mlp": 4, "bottleneck": "residual"},
    "stages": HEADS | {"stages": ("representation", "heads"), "steps": (4, 5)},
    "task": {"task": Halves(), "d_out": 2, "tied": False},
    "own task": {"task": squares},
    "and": {"task": tms.And([(0, 1), (2, 4)]), "d_out": 2, "tied": False},
    "matrix": {"task": tms.LinearThenReLU(torch.eye(5)[:3] - 0.1), "d_out": 3, "tied": False},
    "mixture": {"task": tms.Residual(noise=0.1)},
    "absolute": {"task": tms.Absolute(), "data": tms.SparseUniform(5, 0.4, low=-1.0)},
    "own loss": {"loss": cubed, "importance": (1.0, 0.5, 0.2, 0.1, 0.0)},
    "loss per sample": {"loss": per_sample},
    "power": {"loss": tms.losses.Lp(4), "data": RARE, "empty_rows": "exact"},
    "own activation": {"output_act": swish},
    "lasso": {"penalty": tms.Lasso(0.01)},
    "own penalty": {"penalty": ridge, "n_heads": 1, "d_head": 1},
    "adamw, cosine": {"optimizer": tms.AdamW(lr=0.02, schedule="cosine", warmup=0.3, decay={"W_E": 0.1, "b_U": 1.0})},
    "pull, linear": {"optimizer": tms.Adam(lr=0.02, schedule="linear", pull=0.5), "tied": False},
    "momentum": {"optimizer": tms.SGD(lr=0.1, momentum=0.9, schedule="exponential", final_lr=0.01)},
    "rmsprop": {"optimizer": tms.RMSprop(lr=0.01)},
    "double": {"dtype": "float64"},
    "diverges": {"optimizer": tms.SGD(lr=1e30), "steps": (4,)},
    "gaussian": {"data": tms.SparseGaussian(n_features=5, feature_probability=0.4)},
    "k-hot": {"data": tms.KHot(n_features=5, k=2, values="uniform")},
    "groups": {"data": tms.CorrelatedGroups(n_features=6, feature_probability=0.3)},
    "apart": {"data": tms.AnticorrelatedGroups(n_features=6, feature_probability=0.3)},
    "copula": {"data": tms.Copula(n_features=5, feature_probability=0.3, rho=0.2)},
    "matrix copula": {"data": tms.Copula(n_features=2, feature_probability=0.3, rho=[[1, 0.4], [0.4, 1]])},
    "points": {"data": tms.RandomPoints(n_features=5, n_points=7, k=2), "batch_size": 16},
    "samples": {"data": tms.Samples(torch.eye(5)[:3] + 0.1), "batch_size": 16},
    "manifold": {"data": tms.OnManifold(n_features=5)},
    "tree": {"data": tms.Tree(n_features=5, feature_probability=0.5)},
}
"""Every kind of model, data, task, loss, penalty and optimizer that the torch engine trains."""


def updates(plan, device, step=0):
    """The updates of all models of a recipe, ready to make the one of this step."""
    state = State.initial(plan, None, device)
    made = on_device.Updates(plan, plan.stage_at(step)[0], state.of(range(len(plan.seeds))))
    made.advance(state, step, step)
    made.table[0] = torch.tensor(made._numbers(step), dtype=torch.float64)
    return made


@pytest.mark.parametrize("name", ZOO)
def test_an_update_asks_for_no_number_and_copies_none(name):
    """On a device without numbers; for a model of each stage."""
    plan = recipe(**ZOO[name])
    for step in (0, plan.total_steps - 1):
        assert graphs.hindrance(updates(plan, "meta", step).update) is None
