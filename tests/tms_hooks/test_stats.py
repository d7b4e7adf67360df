import math

import numpy as np
import pytest

from tms_hooks.stats import census, wilson


def test_wilson_by_hand():
    """Centre (p + z^2/2n)/(1 + z^2/n) and half-width z sqrt(p(1-p)/n + z^2/4n^2)/(1 + z^2/n), at 8 of 10."""
    n, p, z = 10, 0.8, 1.959963984540054
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert wilson(8, 10) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_wilson_covers_a_rate_as_often_as_it_says():
    rng = np.random.default_rng(0)
    counts = rng.binomial(50, 0.3, size=2000)
    intervals = {k: wilson(int(k), 50) for k in set(counts)}
    covered = np.mean([intervals[k][0] <= 0.3 <= intervals[k][1] for k in counts])
    assert abs(covered - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 2000) + 0.01  # discreteness of 50 trials


def test_census_counts_every_model_once_and_averages_within_a_name():
    table = census(["a", "b", "a", "a"], np.array([1.0, 5.0, 2.0, 3.0]), "loss")
    assert list(table.index) == ["a", "b"]
    assert table.models.sum() == 4 and table.share.sum() == 1
    assert table.loss.to_dict() == {"a": 2.0, "b": 5.0}
    assert (table.share_low < table.share).all() and (table.share < table.share_high).all()


def test_census_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no models"):
        census([], np.array([]), "loss")
