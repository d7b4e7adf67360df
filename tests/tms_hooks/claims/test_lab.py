"""What claims share: the usual recipe, given starts, and shares as controls."""

import math

import numpy as np
import pytest
import torch

from tms_hooks import SGD, OneHot, SparseUniform, ToyConfig
from tms_hooks.claims import lab
from tms_hooks.data import AnticorrelatedGroups, CorrelatedGroups
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


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (DATA, {}),
        (DATA, {"importance": (1.0, 0.5, 0.1), "output_act": "identity"}),
        (OneHot(n_features=3), {"batch_size": None, "optimizer": SGD(lr=0.5, schedule="exponential", final_lr=0.1)}),
        (OneHot(n_features=3), {"output_act": "softmax", "loss": "cross_entropy", "tied": False}),
    ],
)
def test_the_first_models_of_many_are_what_fewer_would_be(data, how, monkeypatch):
    cfg = ToyConfig(n_features=3, d_hidden=2, **{name: how.pop(name) for name in ("output_act", "tied") if name in how})
    how = {**RECIPE, "steps": 5, "record_every": 2} | how
    alone = lab.train_toys(cfg, data, 2, **how)
    crowd = lab.train_toys(cfg, data, 5, **how)  # more than are known: trained anew
    assert crowd is not alone and len(crowd.W_E) == 5
    monkeypatch.setattr(lab, "train", None)  # nothing is trained any more
    first = lab.train_toys(cfg, data, 2, **how)
    assert first.recipe == alone.recipe and first.diverged == alone.diverged
    assert first.history.identical(alone.history)
    assert torch.equal(first.final_loss, alone.final_loss)
    for name, tensor in (alone.weights | alone.state.tensors()).items():
        assert torch.equal((first.weights | first.state.tensors())[name], tensor), name


def test_given_starts_are_trained_on_the_batches_of_the_given_seeds():
    starts = [init_weights(CFG, seed) for seed in range(2)]
    own = lab.train_from(CFG, DATA, starts, **RECIPE)
    assert torch.equal(own.W_E, lab.train_toys(CFG, DATA, 2, **RECIPE).W_E)
    others = lab.train_from(CFG, DATA, starts, seeds=range(2, 4), **RECIPE)
    assert np.array_equal(others.history.W_E.values[0], own.history.W_E.values[0])
    assert not torch.equal(others.W_E, own.W_E)


def test_the_mean_of_nothing_is_nan():
    assert lab.mean(x for x in (1, 2, True)) == pytest.approx(4 / 3)
    assert math.isnan(lab.mean([]))


def test_settled_is_for_good():
    holds = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 0]], dtype=bool)
    assert lab.settled(holds, range(4)).tolist() == [2, 1, np.inf]
    assert lab.settled(np.ones((3, 1), dtype=bool), range(3)).tolist() == [0]


@pytest.mark.parametrize("p", [0.3, (0.02, 0.1, 0.3, 0.3)])
def test_stratified_losses_are_the_exact_ones(p):
    run = lab.train_sparse(4, 2, p, 3, steps=200)
    np.testing.assert_allclose(lab.stratified_losses(run), lab.expected_losses(run), rtol=0.01)


@pytest.mark.parametrize("kind", [CorrelatedGroups, AnticorrelatedGroups])
def test_strata_of_groups_are_what_is_drawn(kind):
    data = kind(n_features=4, feature_probability=0.2)
    strata = lab.by_active_count(data, 4_096)
    np.testing.assert_allclose(sum(weight for weight, _ in strata), 1)
    second = sum(weight * (x.double().mT @ x.double() / len(x)) for weight, x in strata)
    np.testing.assert_allclose(second, data.second_moment(), atol=0.005)


def test_rank_correlation():
    assert lab.rank_correlation(np.array([3.0, 1.0, 2.0]), np.array([-3.0, -1.0, -2.0])) == -1
    assert lab.rank_correlation(np.ones(3), np.arange(3.0)) == 0
