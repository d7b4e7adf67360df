"""One-hot features on circles in two dimensions: an output bias makes them exact under ReLU, separable under softmax.

Of one-hot features exactly one is active, with value 1, so a tied toy sees only its Gram matrix and its biases. On a
circle every feature overlaps its neighbors most; a negative bias pushes their logits below the ReLU's kink, or below
the own logit under a softmax, whatever the number of features.
"""

from math import cos, exp, pi
from typing import NamedTuple


class PerfectCircle(NamedTuple):
    """The perfect solution of least norm."""

    norm: float
    bias: float


def perfect_circle(n: int) -> PerfectCircle:
    """Norm and common bias with which n features, evenly on a circle, reconstruct all n one-hot inputs exactly.

    relu(l^2 + b) = 1 on itself and l^2 c + b <= 0 on the neighbors, c = cos(2 pi/n): b = 1 - l^2 and l^2 >= 1/(1 -
    c). This is the least norm; any longer one with b = 1 - l^2 is perfect too, and a flat minimum: every logit but
    one is below its kink. At the least norm the neighbors sit on their kinks. Tied weights, ReLU, values of
    exactly 1: with uniform values the same bias loses the small ones (see `polygon`). The norm grows as n /
    (sqrt(2) pi).

    >>> perfect_circle(4).norm
    1.0
    """
    if n < 2:
        raise ValueError(f"n={n}: needs at least 2 features")
    c = cos(2 * pi / n)
    return PerfectCircle((1 / (1 - c)) ** 0.5, 1 - 1 / (1 - c))


def ray_bias_interval(outer: float, inner: float) -> tuple[float, float]:
    """Biases of the inner of two features on one ray that let a tied softmax tell them apart.

    With norms w2 < w1, bias 0 on the outer and b on the inner feature, each one-hot input's own logit is the
    largest iff w2 (w1 - w2) < b < w1 (w1 - w2): never empty, and never containing 0. Other features are not
    considered.

    >>> ray_bias_interval(2.0, 1.0)
    (1.0, 2.0)

    Raises:
        ValueError: not 0 < inner < outer.
    """
    if not 0 < inner < outer:
        raise ValueError(f"outer={outer}, inner={inner}: needs 0 < inner < outer")
    return inner * (outer - inner), outer * (outer - inner)


def softmax_trap_radius(n: int, learned: int) -> float:
    """Radius of a circle of `learned` features, evenly spaced, beyond which the other n - learned are stuck at zero.

    Tied softmax without bias, cross-entropy over all n one-hot inputs, the circle held where it is. To second order
    small w for the features at zero change the loss by sum |w|^2 (N R^2 (1/n + q)/4 - 1) if they sum to zero, and for a
    single one by |w|^2 (N R^2 (1/n + q (1 - q))/4 - (1 - 1/n)); N = learned, q the probability that an input on the
    circle gives a feature at zero. So gradient flow is trapped at zero from about R = 2 sqrt(n / N) on; steps that
    overshoot may get out.

    >>> round(softmax_trap_radius(10, 8), 3)
    2.174

    Raises:
        ValueError: not 3 <= learned < n (two features have no circle).
    """
    from scipy.optimize import brentq

    if not 3 <= learned < n:
        raise ValueError(f"n={n}, learned={learned}: needs at least 3 on the circle and at least one at zero")

    def curvature(radius: float) -> float:
        square = radius**2
        q = exp(-square) / (
            sum(exp(square * (cos(2 * pi * r / learned) - 1)) for r in range(learned)) + (n - learned) * exp(-square)
        )
        if learned == n - 1:
            return learned * square * (1 / n + q * (1 - q)) / 4 - (1 - 1 / n)
        return learned * square * (1 / n + q) / 4 - 1

    return float(brentq(curvature, 0.0, 2 * (n / learned) ** 0.5))
