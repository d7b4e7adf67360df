import math

import numpy as np
import pytest

from tms_hooks.stats import bootstrap, census, newcombe, wilson


def test_wilson_by_hand():
    """Center (p + z^2/2n)/(1 + z^2/n) and half-width z sqrt(p(1-p)/n + z^2/4n^2)/(1 + z^2/n), at 8 of 10."""
    n, p, z = 10, 0.8, 1.959963984540054
    center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert wilson(8, 10) == pytest.approx((center - half, center + half), abs=1e-12)


def test_wilson_covers_a_rate_as_often_as_it_says():
    rng = np.random.default_rng(0)
    counts = rng.binomial(50, 0.3, size=2000)
    intervals = {k: wilson(int(k), 50) for k in set(counts)}
    covered = np.mean([intervals[k][0] <= 0.3 <= intervals[k][1] for k in counts])
    assert abs(covered - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 2000) + 0.01  # discreteness of 50 trials


def test_census_counts_every_model_once_and_averages_within_a_name():
    table = census(["a", "b", "a", "a"], np.array([1.0, 5.0, 2.0, 3.0]), "loss")
    assert list(table.index) == ["a", "b"]
    assert list(table.columns) == ["models", "share", "share_low", "share_high", "loss"]
    assert table.models.sum() == 4 and table.share.sum() == 1
    assert table.loss.to_dict() == {"a": 2.0, "b": 5.0}
    assert (table.share_low < table.share).all() and (table.share < table.share_high).all()


def test_census_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no models"):
        census([], np.array([]), "loss")


def test_the_bootstrap_covers_a_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = [
        low <= 0 <= high
        for low, high in (bootstrap(lambda m: float(m.mean()), rng.normal(size=60), resamples=400) for _ in range(200))
    ]
    assert 0.90 <= np.mean(hits) <= 0.99  # nominal 0.95; 200 draws have a standard error of 0.015


def test_the_bootstrap_refuses_a_small_sample():
    with pytest.raises(ValueError, match="a sample of 7: a bootstrap needs at least 8 rows"):
        bootstrap(lambda a, b: float(a.mean() - b.mean()), np.ones(20), np.ones(7))


def test_a_sample_without_spread_has_its_value_as_interval():
    assert bootstrap(lambda m: float(m.mean()), np.full(9, 0.7)) == (0.7, 0.7)


def test_where_the_correction_does_not_exist_the_interval_is_that_of_percentiles():
    low, high = bootstrap(lambda m: float(m.max()), np.arange(20.0))  # no resample is above the largest value
    assert 15 <= low < high == 19


def test_the_bootstrap_is_that_of_scipy():
    from scipy.stats import bootstrap as resample

    x, y = np.random.default_rng(3).exponential(size=30), np.random.default_rng(4).normal(size=12)
    ours = bootstrap(lambda a, b: float(a.mean() - b.mean()), x, y, resamples=4000)
    theirs = resample((x, y), lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=4000, rng=1)
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=0.05)


def test_a_difference_of_proportions_has_newcombe_s_interval():
    """Newcombe 1998, table II, method 10: 9/10 and 3/10; 10/10 and 0/20."""
    np.testing.assert_allclose(newcombe((9, 10), (3, 10)), (0.1705, 0.8090), atol=1e-4)
    np.testing.assert_allclose(newcombe((10, 10), (0, 20)), (0.6791, 1.0), atol=1e-4)


def test_the_ends_of_an_interval_are_in_order_where_all_rows_are_alike():
    for parts in np.random.default_rng(0).random((20, 2)):
        low, high = bootstrap(lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum()), np.tile(parts, (12, 1)))
        assert low <= high
