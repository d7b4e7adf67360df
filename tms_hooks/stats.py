"""Rates and statistics with their uncertainty.

A claim about trained models is a statement about all seeds, and only some of them were trained. Every number therefore
comes with a 95 % interval, which holds the value of all seeds in 95 of 100 repetitions of the experiment. For a share
of models it is Wilson's interval; for the smallest of several shares, Wilson's intervals widened so that all hold at
once; for any other statistic, the bootstrap: draw as many models from the sample, with replacement, again and again,
and see how far the statistic scatters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927): it stays inside [0, 1], and works at 0 and at n successes.

    >>> low, high = wilson(5, 10)
    >>> round(low, 4), round(high, 4)
    (0.2366, 0.7634)
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


class Weakest(NamedTuple):
    """The smallest of several shares."""

    part: str
    share: float
    interval: tuple[float, float]


def weakest_share(counts: Mapping[str, tuple[int, int]]) -> Weakest:
    """The smallest of several proportions, with a 95 % interval that allows for having picked it.

    It serves a claim of several parts, all of which must hold. Each proportion gets a Wilson interval at the level
    1 - 0.05 / (number of proportions), so that all hold together (Bonferroni). The smallest true share then lies
    between the smallest lower and the smallest upper end.

    >>> weakest_share({"square": (90, 100), "pentagon": (30, 100)})[:2]
    ('pentagon', 0.3)

    Args:
        counts: successes and trials of each part. A part with no trials has the interval (0, 1).
    """
    if not counts:
        raise ValueError("no parts: give at least one (successes, trials)")
    confidence = 1 - 0.05 / len(counts)
    shares = {part: k / n if n else np.nan for part, (k, n) in counts.items()}
    intervals = [wilson(k, n, confidence) if n else (0.0, 1.0) for k, n in counts.values()]
    part = min(shares, key=lambda name: shares[name] if counts[name][1] else -1.0)
    return Weakest(part, shares[part], (min(low for low, _ in intervals), min(high for _, high in intervals)))


def bootstrap(statistic: Callable[..., float], *samples: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """95 % percentile interval of a statistic of independent samples, each resampled along its first axis.

    Values measured on one model belong in one row of one sample, so that they are drawn together. (Efron 1979.)

    >>> low, high = bootstrap(lambda a, b: a.mean() - b.mean(), np.arange(50.0), np.arange(50.0) + 10)
    >>> low < -10 < high < 0
    True

    Raises:
        ValueError: fewer than two rows in a sample.
    """
    if small := [len(sample) for sample in samples if len(sample) < 2]:
        raise ValueError(f"a sample of {small[0]}: a bootstrap needs at least 2 rows")
    rng = np.random.default_rng(0)
    values = [statistic(*(s[rng.integers(len(s), size=len(s))] for s in samples)) for _ in range(resamples)]
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def census(names: Sequence[str], values: np.ndarray, value_name: str) -> pd.DataFrame:
    """How often each geometry occurs among models, most frequent first, and the mean of a value over its models.

    >>> census(["pentagon", "hexagon", "pentagon"], np.array([1.0, 2.0, 3.0]), "loss")[["models", "loss"]]
              models  loss
    geometry
    pentagon       2   2.0
    hexagon        1   2.0

    Returns:
        one row per name: "models", "share" and its 95 % interval "share_low", "share_high" (Wilson), and `value_name`.
    """
    if not len(names):
        raise ValueError("no models to count: give at least one name")
    values_by_name = pd.Series(values, index=pd.Index(names, name="geometry")).groupby(level=0)
    table = pd.DataFrame({"models": values_by_name.size(), value_name: values_by_name.mean()})
    table = table.sort_values("models", ascending=False, kind="stable")
    intervals = np.array([wilson(int(k), len(names)) for k in table["models"]])
    table.insert(1, "share", table["models"] / len(names))
    table.insert(2, "share_low", intervals[:, 0])
    table.insert(3, "share_high", intervals[:, 1])
    return table
