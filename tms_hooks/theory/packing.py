"""How little a number of directions can overlap: bounds that hold for any directions, and what two constructions reach.

The overlap of two directions is |cosine|; n directions are in d dimensions. Orthogonal directions do not overlap, but
only d of them fit. Beyond that there are two ways out. Random directions on the sphere all overlap a little, by about
1/sqrt(d), and exponentially many fit. A tegum product, many copies of one small polytope in orthogonal subspaces, has
no overlap between copies and much within each: its mean falls as 1/d, its maximum does not fall at all.
"""

from math import exp, lgamma, pi, sqrt
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from tms_hooks.geometry import gram


class Overlaps(NamedTuple):
    """|Cosine| over all pairs of different directions."""

    mean: float
    maximum: float


def welch_bound(n: int, d: int) -> float:
    """Least possible maximum overlap, and least root-mean-square one: sqrt((n - d) / (d (n - 1))), 0 if n <= d.

    Every set of directions obeys it. The root mean square reaches it in any tight frame of equal norms, the maximum
    only in an equiangular one, so only if n <= d (d + 1)/2. Source: Welch 1974.

    >>> welch_bound(3, 2)  # the triangle: cosines of -1/2
    0.5
    """
    _check(n, d)
    return sqrt((n - d) / (d * (n - 1))) if n > d else 0.0


def sphere_mean_overlap(d: int) -> float:
    """E |cos| of two random directions: Gamma(d/2) / (sqrt(pi) Gamma((d + 1)/2)), about sqrt(2 / (pi d)).

    >>> round(sphere_mean_overlap(2) * pi / 2, 12)
    1.0
    """
    _check(2, d)
    return exp(lgamma(d / 2) - lgamma((d + 1) / 2)) / sqrt(pi)


def tegum_overlaps(V: Float[Tensor, "vertex axis"], d: int) -> Overlaps:
    """Overlaps in d dimensions that hold d / axis orthogonal copies of one polytope.

    The maximum is the polytope's own and does not fall with d; the mean falls as 1/d, against 1/sqrt(d) on the sphere.

    Raises:
        ValueError: the polytope's dimension does not divide d.
    """
    k, axis = V.shape
    if d % axis:
        raise ValueError(f"d={d}: must be a multiple of the polytope's {axis} dimensions")
    norms = V.norm(dim=1)
    within = (gram(V) / (norms[:, None] * norms)).abs().fill_diagonal_(0)
    return Overlaps(float(within.sum()) / (k * (k * (d // axis) - 1)), float(within.max()))


def johnson_lindenstrauss(d: int, overlap: float) -> float:
    """So many directions fit in d dimensions with no overlap above the given one, at least: exp(d overlap^2 / 4).

    A random pair overlaps by more with probability below 2 exp(-d overlap^2 / 2), and of n directions there are fewer
    than n^2 / 2 pairs; so random ones do it with a chance above 0. It grows exponentially, if late: at an overlap of
    1/2 it passes the 2 d of antipodal pairs at 82 dimensions. Source: Johnson & Lindenstrauss 1984, by a union bound.

    >>> round(johnson_lindenstrauss(100, 0.5))
    518
    """
    _check(2, d)
    return exp(d * overlap**2 / 4)


def _check(n: int, d: int) -> None:
    if n < 2 or d < 1:
        raise ValueError(f"n={n}, d={d}: needs at least two directions in at least one dimension")
