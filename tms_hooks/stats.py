"""Rates with their uncertainty."""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): it keeps inside [0, 1] and works at 0 and n.

    >>> low, high = wilson(5, 10)
    >>> round(low, 4), round(high, 4)
    (0.2366, 0.7634)
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


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
