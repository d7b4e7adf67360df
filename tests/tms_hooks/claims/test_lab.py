"""What claims share: the usual recipe, given starts, and shares as controls."""

import math

import numpy as np
import pytest
import torch

from tms_hooks import SparseUniform, ToyConfig
from tms_hooks.claims import Verdict, lab
from tms_hooks.models.forward import init_weights

CFG, DATA = ToyConfig(n_features=3, d_hidden=2), SparseUniform(n_features=3, feature_probability=0.5)
RECIPE = {"steps": 4, "batch_size": 8}


def test_the_usual_recipe_is_remembered_and_can_be_departed_from():
    usual = lab.train_toys(CFG, DATA, 2, **RECIPE)
    assert lab.train_toys(CFG, DATA, 2, **RECIPE) is usual
    assert usual.recipe.optimizer == lab.USUAL
    assert usual.history.step.values.tolist() == [0, 4]  # the start and the end
    torch.testing.assert_close(torch.tensor(usual.history.W_E.values[0]), lab.untrained(CFG, 2)["W_E"])
    other = lab.train_toys(CFG, DATA, range(1, 2), **RECIPE, record_every=2)
    assert other.history.step.values.tolist() == [0, 2, 4]
    assert torch.equal(other.W_E[0], usual.W_E[1])  # its seed decides, not its place


def test_given_starts_are_trained_on_the_batches_of_the_given_seeds():
    starts = [init_weights(CFG, seed) for seed in range(2)]
    own = lab.train_from(CFG, DATA, starts, **RECIPE)
    assert torch.equal(own.W_E, lab.train_toys(CFG, DATA, 2, **RECIPE).W_E)
    others = lab.train_from(CFG, DATA, starts, seeds=range(2, 4), **RECIPE)
    assert np.array_equal(others.history.W_E.values[0], own.history.W_E.values[0])
    assert not torch.equal(others.W_E, own.W_E)


@pytest.mark.parametrize(
    "parts",
    [
        {"": (3, 4)},
        {"a": (9, 10), "b": np.array([True, False, False])},
        {"a": (9, 10), "b": (0, 0)},
        {"": np.array([])},
    ],
)
def test_the_weakest_share_is_the_statistic_of_the_verdict(parts):
    found = Verdict.of_shares("", parts, n_models=1, controls={}, detail="")
    np.testing.assert_equal(lab.weakest(parts), found.statistic)


def test_the_mean_of_nothing_is_nan():
    assert lab.mean(x for x in (1, 2, True)) == pytest.approx(4 / 3)
    assert math.isnan(lab.mean([]))
