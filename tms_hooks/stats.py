"""Rates with their uncertainty."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion, 95 % by default (Wilson 1927): it keeps inside [0, 1] and works at 0 and n.

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

    Each proportion gets a Wilson interval at the level 1 - 0.05 / (number of proportions), so that all hold together
    (Bonferroni); the smallest true share then lies between the smallest lower and the smallest upper end. For a claim
    of several parts, all of which must hold.

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


def bootstrap(
    statistic: Callable[..., float], *samples: np.ndarray, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of independent samples, each resampled along its first axis.

    Values measured on one model belong in one row of one sample. (Efron 1979.)

    >>> low, high = bootstrap(lambda a, b: a.mean() - b.mean(), np.arange(50.0), np.arange(50.0) + 10)
    >>> low < -10 < high < 0
    True

    Raises:
        ValueError: fewer than two rows in a sample.
    """
    if small := [len(sample) for sample in samples if len(sample) < 2]:
        raise ValueError(f"a sample of {small[0]}: a bootstrap needs at least 2 rows")
    rng = np.random.default_rng(seed)
    values = [statistic(*(s[rng.integers(len(s), size=len(s))] for s in samples)) for _ in range(resamples)]
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def census(names: Sequence[str], values: np.ndarray, value_name: str) -> pd.DataFrame:
    """How often each name occurs, most frequent first, with 95 % intervals and the mean of a value over its models.

    >>> census(["pentagon", "hexagon", "pentagon"], np.array([1.0, 2.0, 3.0]), "loss")[["models", "loss"]]
              models  loss
    geometry
    pentagon       2   2.0
    hexagon        1   2.0
    """
    if not len(names):
        raise ValueError("no models to count: give at least one name")
    table = pd.DataFrame({"geometry": list(names), value_name: values})
    counted = table.groupby("geometry")[value_name].agg(["size", "mean"])
    counted = counted.sort_values("size", ascending=False, kind="stable")
    rows = [
        (name, size, size / len(names), *wilson(int(size), len(names)), mean)
        for name, size, mean in counted.itertuples(index=True)
    ]
    columns = ["geometry", "models", "share", "share_low", "share_high", value_name]
    return pd.DataFrame(rows, columns=columns).set_index("geometry")
