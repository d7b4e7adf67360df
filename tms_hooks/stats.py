"""Rates and statistics with their uncertainty.

A claim about trained models is a statement about all seeds, and only some of them were trained. Every number therefore
comes with a 95 % interval, which holds the value of all seeds in 95 of 100 repetitions of the experiment. For a share
of models it is Wilson's interval, for the difference of two shares Newcombe's; for any other statistic the bootstrap:
draw as many models from the sample, with replacement, again and again, and see how far the statistic scatters,
corrected for bias and skew (BCa).
"""

import warnings
from collections.abc import Callable, Sequence

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


FEWEST = 8
"""Rows of a sample below which no bootstrap is trusted."""


def newcombe(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float]:
    """95 % interval of the difference of two independent proportions, from their Wilson intervals (Newcombe 1998, 10).

    >>> low, high = newcombe((56, 70), (48, 80))  # the paper's example
    >>> round(low, 4), round(high, 4)
    (0.0524, 0.3339)

    Args:
        first, second: successes and trials; the difference is the first's share less the second's.
    """
    (p, (low_p, high_p)), (q, (low_q, high_q)) = ((k / n, wilson(k, n)) for k, n in (first, second))
    return (
        p - q - float(np.hypot(p - low_p, high_q - q)),
        p - q + float(np.hypot(high_p - p, q - low_q)),
    )


def bootstrap(statistic: Callable[..., float], *samples: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """95 % BCa interval of a statistic of independent samples, each resampled along its first axis (Efron 1987).

    Values measured on one model belong in one row of one sample, so that they are drawn together. Where every resample
    has the same value the interval is that value; where the correction does not exist, as for the largest value of a
    sample, it is the percentile interval.

    >>> low, high = bootstrap(lambda a, b: a.mean() - b.mean(), np.arange(50.0), np.arange(50.0) + 10)
    >>> low < -10 < high < 0
    True

    Raises:
        ValueError: fewer than `FEWEST` rows in a sample.
    """
    from scipy.stats import DegenerateDataWarning
    from scipy.stats import bootstrap as resample

    if small := [len(sample) for sample in samples if len(sample) < FEWEST]:
        raise ValueError(f"a sample of {small[0]}: a bootstrap needs at least {FEWEST} rows")

    def of_rows(*rows: np.ndarray) -> float:
        return float(statistic(*(sample[row.astype(int)] for sample, row in zip(samples, rows, strict=True))))

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        found = resample(
            [np.arange(len(sample)) for sample in samples],
            of_rows,
            n_resamples=resamples,
            vectorized=False,
            method="BCa",
            rng=np.random.default_rng(0),
        )
    low, high = sorted(map(float, found.confidence_interval))  # equal ends can be out of order by rounding
    if np.isnan([low, high]).any():
        low, high = (float(end) for end in np.quantile(found.bootstrap_distribution, (0.025, 0.975)))
    return low, high


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
