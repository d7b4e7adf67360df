"""Drawing only rows with an active feature, the others in closed form: same expectation, no more variance."""

from dataclasses import replace
from itertools import product

import pytest
import torch

import tms_hooks as tms
from tms_hooks.training import torch_engine
from tms_hooks.training.recipe import Recipe
from tms_hooks.training.state import State

SCALAR = tms.SparseUniform(n_features=4, feature_probability=0.1)
UNEVEN = tms.SparseUniform(n_features=4, feature_probability=(0.3, 0.001, 0.1, 0.02))


def make(data, **more):
    settings = {"steps": 100_000, "importance": (1.0, 0.7, 0.5, 2.0), "dtype": "float64", "empty_rows": "exact"}
    return Recipe.of(tms.ToyConfig(n_features=4, d_hidden=2), data, **settings | more)


@pytest.mark.parametrize("data", [SCALAR, UNEVEN], ids=["scalar", "uneven"])
def test_every_pattern_of_active_features_has_its_probability(data):
    rows = 200_000
    x = data.sample_occupied(rows, seed=0)
    assert (x > 0).any(-1).all()
    p = data.active_probability()
    for pattern in product((0.0, 1.0), repeat=4):
        active = torch.tensor(pattern, dtype=torch.float64)
        wanted = float((p * active + (1 - p) * (1 - active)).prod()) / (1 - data.empty_probability)
        if any(pattern):
            seen = float(((x > 0) == active.bool()).all(-1).double().mean())
            assert abs(seen - wanted) < 4.5 * (wanted * (1 - wanted) / rows) ** 0.5 + 1e-9


@pytest.mark.parametrize("data", [SCALAR, UNEVEN], ids=["scalar", "uneven"])
def test_values_are_uniform_and_second_moments_those_of_the_distribution(data):
    x = data.sample_occupied(400_000, seed=1, dtype=torch.float64)
    occupied = 1 - data.empty_probability
    products = x[:, :, None] * x[:, None, :]
    error = products.std(0) / len(x) ** 0.5 * occupied + 1e-9
    assert ((products.mean(0) * occupied - data.second_moment()).abs() < 4.5 * error).all()
    values = x[x > 0].sort().values
    ranks = (torch.arange(len(values), dtype=torch.float64) + 0.5) / len(values)
    assert (values - ranks).abs().max() < 1.95 / len(values) ** 0.5  # Kolmogorov-Smirnov at 0.001


def test_thresholds_worked_by_hand():
    # p = 1/2, 1/4: P(occupied) = 5/8. The first feature is active in 1/2 / (5/8) = 4/5 of them; if not, the second is.
    data = tms.SparseUniform(n_features=2, feature_probability=(0.5, 0.25))
    wanted = torch.tensor([[4 / 5, 1], [1 / 2, 1 / 4]], dtype=torch.float64)
    torch.testing.assert_close(data.thresholds.double() / 2**32, wanted, rtol=0, atol=1e-9)


def test_samples_depend_on_seed_step_and_nothing_else():
    together = SCALAR.sample_occupied(50, seed=[3, 4], step=5)
    assert SCALAR.sample_occupied(50, seed=4, step=5).equal(together[1])
    assert not SCALAR.sample_occupied(50, seed=4, step=6).equal(together[1])


def losses_and_gradients(recipe, steps):
    """Loss and the gradients of W_E and b_U on many batches, for one fixed model, a row per batch."""
    weights = State.initial(recipe, None, "cpu").weights
    weights["b_U"] += torch.tensor([0.1, 0.02, -0.05, 0.2], dtype=torch.float64)
    rows = []
    for step in range(steps):
        state = State({name: w.clone() for name, w in weights.items()}, {}, torch.tensor([-1]))
        measured = torch_engine.advance(replace(recipe, optimizer=tms.SGD(lr=1.0)), state, step, step + 1)
        parts = [weights[name] - state.weights[name] for name in ("W_E", "b_U")]
        rows.append(torch.cat([measured.loss.flatten(), *(part.flatten() for part in parts)]))
    return torch.stack(rows)


@pytest.mark.parametrize("data", [SCALAR, UNEVEN], ids=["scalar", "uneven"])
def test_loss_and_gradient_have_the_same_mean_and_no_more_variance(data):
    steps = 600
    exact = losses_and_gradients(make(data), steps)
    drawn = losses_and_gradients(make(data, empty_rows="drawn"), steps)
    error = ((exact.var(0) + drawn.var(0)) / steps).sqrt()
    assert ((exact.mean(0) - drawn.mean(0)).abs() < 4.5 * error + 1e-12).all()
    # The standard error of a ratio of variances is about (4 / steps)^(1/2), or twice that for heavy tails.
    assert (exact.var(0) <= drawn.var(0) * (1 + 4.5 * 2 * (4 / steps) ** 0.5)).all()


def test_auto_leaves_empty_rows_out_only_where_most_are_empty():
    cfg = tms.ToyConfig(n_features=4, d_hidden=2)
    dense = tms.SparseUniform(n_features=4, feature_probability=0.3)
    for data, wanted in ((SCALAR, "exact"), (dense, "drawn"), (tms.OneHot(n_features=4), "drawn")):
        assert tms.train(cfg, data, steps=1).recipe.empty_rows == wanted
    with pytest.raises(ValueError, match=r"empty_rows='exact' is for independent features .* of which at least half"):
        tms.train(cfg, dense, steps=1, empty_rows="exact")
