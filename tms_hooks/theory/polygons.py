"""Regular polygons in a two-dimensional hidden layer: which number of corners costs least, under which assumptions.

Six features in two dimensions can form a hexagon, or a pentagon with one feature ignored, or two antipodal pairs with
two ignored: more corners represent more features, and put more overlap between neighbors. Which one wins depends on how
often features are active together. Two limits are simple: one active feature at a time (`polygon`, with the textbook
argument `polygon_gain_nearest`), and one-hot data (`onehot_polygon_loss`). At finite density all patterns of activity
are summed exactly (`finite_polygon`, `best_polygon`). The tables at the end are what `tms theory` prints.

Tied weights and a ReLU output throughout. All represented features have the same norm and bias, and the weights of
ignored features are zero. A `gain` is a change of loss: the lower, the better.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from math import cos, pi
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.theory.expected import MAX_FEATURES, ignored_loss, output_loss


class Polygon(NamedTuple):
    """Best regular polygon with a given number of corners, in the limit of one active feature."""

    norm: float
    """Length of each feature direction."""
    bias: float
    """Output bias of each represented feature."""
    loss: float
    """Expected squared error over all represented outputs when one represented feature is active, uniform on [0, 1]."""
    gain: float
    """Change of the expected loss against ignoring all F features, in units of the feature probability."""


def polygon_gain_nearest(F: int, literal: bool = False) -> float:
    """The textbook argument whose optimum is F = 5: change of loss by representing F features, in units of p.

    (F/3) (2 max(0, c)^2 - 1), c = cos(2 pi/F): unit norms, no bias, one active feature, two nearest neighbors. It
    ignores second neighbors, which is wrong from F = 9, where they too have an angle below 90 degrees. At F = 2 the two
    neighbors are one. Source: the notebook of Elhage et al. 2022, as in the pentagon-and-hexagon study. As printed
    there (`literal=True`) the square is taken before the max, which then never acts, so that neighbors behind the ReLU
    count too: wrong for F < 4.

    >>> min(range(2, 9), key=polygon_gain_nearest)
    5
    """
    _check_corners(F)
    c = cos(2 * pi / F)
    return F / 3 * (2 * (c if literal else max(0.0, c)) ** 2 - 1)


@cache
def polygon(F: int, bias: bool = True) -> Polygon:
    """Best norm and bias of a regular F-gon when at most one feature is active: the limit p -> 0.

    With threshold t = -b/l^2 the outputs are l^2 relu(c_r x - t), c_r = cos(2 pi r/F), x uniform on [0, 1]. The
    loss is quadratic in l^2: with A = sum_{c_r > t} (c_r - t)^3 / (3 c_r) and B = (1 - t)^2 (2 + t) / 6 it is 1/3 -
    B^2/A at l^2 = B/A. What is left is one number, t >= 0, found to 1e-10 (a positive bias would cost b^2 when
    nothing is active, which no gain of order p repays); t = 0 without a bias, where gain = -F/(3 sum_r max(0,
    c_r)^2) and F = 5 is best.

    It stops being true where two features are often active together: see `best_polygon`.

    >>> min(range(2, 11), key=lambda F: polygon(F, bias=False).gain)
    5
    >>> min(range(2, 11), key=lambda F: polygon(F).gain)  # a bias silences more neighbors
    7

    Raises:
        ValueError: F < 2.
    """
    from scipy.optimize import minimize_scalar

    _check_corners(F)
    cosines = _cosines(F).numpy()
    c = cosines[cosines > 0]

    def loss_and_norm(t: float) -> tuple[float, float]:
        A = (np.clip(c - t, 0, None) ** 3 / (3 * c)).sum()
        B = (1 - t) ** 2 * (2 + t) / 6
        return float(1 / 3 - B**2 / A), float(B / A) ** 0.5

    t = 0.0
    if bias:
        # Each neighbor that falls silent opens a new valley: scan, then polish the deepest.
        grid = np.linspace(0, 1, 1001)[:-1].tolist()
        deepest = min(range(1000), key=lambda i: loss_and_norm(grid[i])[0])
        bounds = (grid[max(deepest - 1, 0)], grid[min(deepest + 1, 999)])
        polished = minimize_scalar(
            lambda t: loss_and_norm(t)[0], bounds=bounds, method="bounded", options={"xatol": 1e-11}
        )
        # The grid's own point, above all t = 0, unless polishing gains more than rounding.
        t = float(polished.x) if polished.fun < loss_and_norm(grid[deepest])[0] - 1e-15 else grid[deepest]
    loss, norm = loss_and_norm(t)
    return Polygon(norm, 0.0 - t * norm**2, max(loss, 0.0), F * (loss - 1 / 3))


def onehot_polygon_loss(n: int, d: int) -> float:
    """Loss, summed over n binary one-hot inputs, of n features on the d corners of a regular polygon, at best norms.

    n - d / sum_{|r| <= d/4} cos^2(2 pi r/d). No bias. Exact however the features are dealt out to the directions,
    as long as each direction has one: only the sum of |W_i|^2 on a direction counts, and it is the inverse of that
    sum of cosines. The bottleneck document's sum lacks the 1/d. Lowest at d = 5 whatever n >= 5.

    >>> round(onehot_polygon_loss(10, 5), 4)
    5.8018

    Raises:
        ValueError: d < 2, or d > n.
    """
    _check_corners(d)
    if d > n:
        raise ValueError(f"d={d} directions for n={n} features: every direction needs a feature, d <= n")
    return n - d / float(_cosines(d).clamp(min=0).square().sum())


@cache
def polygon_loss(n: int, p: float, F: int) -> float:
    """Exact expected loss of n sparse uniform features of which F form the best regular polygon and n - F are ignored.

    All 2^F patterns of activity are in it; norm and bias are the best ones at this p. Every feature has importance 1.
    """
    if n < F:
        raise ValueError(f"F={F}: every corner needs a feature, F <= n={n}")
    return F * finite_polygon(F, p)[2] + (n - F) * float(ignored_loss(p))


@cache
def finite_polygon(F: int, p: float) -> tuple[float, float, float]:
    """Best norm and bias of a regular F-gon of sparse uniform features at density p, and the loss per feature.

    Raises:
        ValueError: F < 2 or F > 12, p outside (0, 1].
    """
    from scipy.optimize import minimize

    _check_density(p)
    _check_corners(F)
    if F > MAX_FEATURES:
        raise ValueError(
            f"F={F}: the exact sum doubles with every corner and stops at {MAX_FEATURES}; "
            "use polygon(F), the limit p -> 0, for any F"
        )
    cosines, density = _cosines(F), torch.full((F,), p, dtype=torch.float64)

    def loss_and_gradient(z: Sequence[float] | np.ndarray) -> tuple[float, list[float]]:
        s, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in z)
        loss = output_loss(s * cosines, b, density, 0) / p  # of order 1 whatever p, as the solver's tolerances assume
        return float(loss.detach()), [float(g) for g in torch.autograd.grad(loss, (s, b))]

    limit = polygon(F)
    options = {"ftol": 1e-14, "gtol": 1e-9}
    fits = [
        minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=[(1e-4, 9), (-4, 1)], options=options)
        for start in ((limit.norm**2, limit.bias - 0.05), (1.0, p / 4))
    ]
    best = min(fits, key=lambda fit: float(fit.fun))
    return float(best.x[0]) ** 0.5, float(best.x[1]), float(best.fun) * p


def best_polygon(n: int, p: float) -> int:
    """Number of corners F of the regular polygon of lowest exact expected loss, for n sparse uniform features.

    All features have importance 1. The regular polygons with F = 2 ... n corners are compared, the other features
    ignored. Where features are dense, two dedicated dimensions, unequal norms or irregular shapes can cost less still:
    compare a trained model's loss.

    Raises:
        ValueError: p outside (0, 1], n < 2 or n > 12.
    """
    _check_density(p)
    if not 2 <= n <= MAX_FEATURES:
        raise ValueError(
            f"n={n}: must be between 2 and {MAX_FEATURES}, where the exact sum over patterns stops; for more features "
            f"use n={MAX_FEATURES} (an ignored feature costs the same beside every polygon), or polygon(F), the limit "
            "p -> 0, for any F"
        )
    return min(range(2, n + 1), key=lambda F: polygon_loss(n, p, F))


def polygon_crossing(n: int, F: int, G: int) -> float:
    """The p at which n features cost the same as an F-gon and as a G-gon, the others ignored; to a relative 1e-3.

    Ignored features cost the same in both, so n only bounds F and G.

    Raises:
        ValueError: the two never cost the same for p between 0.001 and 1.
    """
    from scipy.optimize import brentq

    def difference(log_p: float) -> float:
        p = float(np.exp(log_p))
        return (polygon_loss(n, p, F) - polygon_loss(n, p, G)) / p

    sparsest, *grid = np.linspace(np.log(1e-3), 0, 8)
    left, before = sparsest, difference(sparsest)
    for right in grid:
        after = difference(right)
        if before * after < 0:
            return float(np.exp(brentq(difference, left, right, xtol=5e-4)))
        left, before = right, after
    better = F if before < 0 else G
    raise ValueError(f"F={F}, G={G}: no crossing for p in [0.001, 1]; the {better}-gon costs less throughout")


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


def _cosines(F: int) -> Float[Tensor, " feature"]:
    """Cosines of all corners with the first, exactly 0 at a right angle."""
    c = (2 * pi / F * torch.arange(F, dtype=torch.float64)).cos()
    return torch.where(c.abs() < 1e-15, 0.0, c)


def _check_corners(F: int) -> None:
    if F < 2:
        raise ValueError(f"F={F}: a polygon has at least 2 corners (2 is the digon)")


def _check_density(p: float) -> None:
    if not 0 < p <= 1:
        raise ValueError(f"p={p}: the feature probability must be in (0, 1]; sparsity S is 1 - p")
