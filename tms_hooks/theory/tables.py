"""The polygons of theory as tables: what `tms theory` prints."""

from collections.abc import Iterable

import pandas as pd

from tms_hooks.theory.polygons import best_polygon, polygon, polygon_gain_nearest


def polygon_table(corners: Iterable[int] = range(3, 11)) -> pd.DataFrame:
    """Each polygon in the one-active limit: the textbook argument, without a bias, and with one. Gains are per unit p.

    >>> polygon_table([5])[["gain, textbook", "gain, no bias", "gain, bias"]].round(4)
       gain, textbook  gain, no bias  gain, bias
    F
    5         -1.3484        -1.3994     -1.5875
    """
    rows = []
    for F in corners:
        without, best = polygon(F, bias=False), polygon(F)
        rows.append((F, polygon_gain_nearest(F), without.gain, without.norm, best.gain, best.norm, best.bias))
    columns = ["F", "gain, textbook", "gain, no bias", "norm, no bias", "gain, bias", "norm, bias", "bias"]
    return pd.DataFrame(rows, columns=columns).set_index("F").round(9)  # norms are found to 1e-10


def best_polygon_table(
    features: Iterable[int] = range(4, 11), densities: Iterable[float] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
) -> pd.DataFrame:
    """Corners of the best regular polygon for n features (rows) at feature probability p (columns); exact sums.

    >>> best_polygon_table([5], [0.1, 0.3])
    p  0.1  0.3
    n
    5    5    4
    """
    densities = list(densities)
    table = {n: [best_polygon(n, p) for p in densities] for n in features}
    return pd.DataFrame.from_dict(table, orient="index", columns=pd.Index(densities, name="p")).rename_axis("n")
