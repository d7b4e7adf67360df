"""Exact expected loss of a ReLU reconstruction of sparse uniform features, and by autograd its derivatives.

With independent `x_j` (0 with probability 1 - p_j, else uniform on [0, 1]) an output is `relu(Y)`, `Y = b + sum_j
a_j x_j`. The average over one active `x_j` of a function f of Y is a difference of its antiderivative I f, `[I f(y + a)
- I f(y)] / a`, and powers of ReLU integrate to powers of ReLU: so an expectation is a sum of ReLU powers, with twice as
many terms for every feature. (Repeated for k active features this is E relu(b + sum a_j u_j)^2 = 2/((k+2)! prod a)
sum_T (-1)^(k-|T|) relu(b + sum_T a)^(k+2).) Where `a` is small beside the largest active one the difference cancels,
and Gauss-Legendre nodes take its place: the function is smooth there.
"""

from math import factorial, isfinite
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

MAX_FEATURES = 12
"""The number of terms doubles with every feature."""

Number = float | int | np.ndarray

_SMALL = 0.01
"""Relative to the largest active coefficient. Seven active features of this size beside one of 1 lose fourteen
digits in the differences, of which 2/10! gives six back; on an interval so short three Gauss nodes are wrong by
less than 1e-8."""
_NODES = (0.5 - 0.15**0.5, 0.5, 0.5 + 0.15**0.5)
_NODE_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)


def ignored_loss(p: Number) -> Number:
    """Expected squared error of a feature of probability p that is ignored, at its best constant output p/2: Var x.

    >>> ignored_loss(1.0) == 1 / 3 - 1 / 4
    True
    """
    return p / 3 - p**2 / 4


def expected_loss(
    logits_of: Float[Tensor, "feature output"],
    bias: Float[Tensor, " output"],
    feature_probability: Float[Tensor, " feature"],
    importance: Float[Tensor, " output"] | None = None,
) -> Float[Tensor, ""]:
    """Exact E sum_i I_i (x_i - relu(b_i + sum_j A_ji x_j))^2 for independent sparse uniform features.

    It holds for any linear encoder and decoder: `A = W_E @ W_U`, `b = b_hidden @ W_U + b_U`. It can be differentiated
    twice, and the derivatives are those of the expectation, with the term from moving kinks that second derivatives of
    a sampled loss lack.

    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> expected_loss(0 * one, one[0] / 4, one[0] / 2)  # an ignored feature at p = 1/2
    tensor(0.1042, dtype=torch.float64)

    Args:
        logits_of: row j is what a feature of value 1 adds to the logits, `W_E @ W_U` ("feature feature").
        bias: what is added to all.
        feature_probability: probability that each feature is active; 0 and 1 are allowed, so a given pattern is too.
        importance: weight of each output's loss; 1 by default.

    Raises:
        ValueError: more than 12 features, a probability outside [0, 1], weights that are not finite.
    """
    weight = torch.ones_like(bias) if importance is None else importance
    return (weight * output_losses(logits_of, bias, feature_probability)).sum()


def output_losses(
    logits_of: Float[Tensor, "feature output"],
    bias: Float[Tensor, " output"],
    feature_probability: Float[Tensor, " feature"],
) -> Float[Tensor, " output"]:
    """`output_loss` of every output, as `expected_loss` adds them up."""
    n = len(bias)
    if n > MAX_FEATURES:
        raise ValueError(
            f"{n} features: the exact sum doubles with every feature and stops at {MAX_FEATURES}; "
            "for more, compare held-out losses (`Run.final_loss`)"
        )
    return torch.stack([output_loss(logits_of[:, i], bias[i], feature_probability, i) for i in range(n)])


def output_loss(
    a: Float[Tensor, " feature"], b: Float[Tensor, ""], p: Float[Tensor, " feature"], target: int
) -> Float[Tensor, ""]:
    """Exact E (x_target - relu(b + a . x))^2 for independent sparse uniform features.

    Raises:
        ValueError: a probability outside [0, 1], a coefficient or a bias that is not finite.
    """
    for i, (coefficient, chance) in enumerate(zip(a.tolist(), p.tolist(), strict=True)):
        if not isfinite(coefficient):
            raise ValueError(
                f"coefficient of feature {i} in output {target} = {coefficient}: weights must be finite; "
                "did the training diverge?"
            )
        if not 0 <= chance <= 1:
            raise ValueError(f"feature_probability[{i}] = {chance}: must be between 0 and 1; sparsity S is 1 - p")
    if not b.isfinite():
        raise ValueError(f"bias of output {target} = {b.item()}: weights must be finite; did the training diverge?")
    order = a.detach().abs().argsort().tolist()
    square = (1 - p).prod() * b.relu().square()  # nothing is active
    cross = torch.zeros_like(b)
    for rank, largest in enumerate(order):
        smaller = order[:rank]
        weight = p[largest] * (1 - p[order[rank + 1 :]]).prod()
        by_nodes = _by_nodes(a.detach(), float(b.detach()), largest, smaller)
        terms = _average(_start(b), a[largest], by_nodes[largest])
        for j in smaller:
            terms = _sometimes(terms, a[j], p[j], by_nodes[j])
        square = square + weight * _sum(terms, power=2)
        if target == largest or target in smaller:
            terms = _average(_start(b), a[target], by_nodes[target], times_u=True)
            for j in [largest, *smaller]:
                if j != target:
                    terms = _sometimes(terms, a[j], p[j] if j != largest else torch.ones_like(b), by_nodes[j])
            cross = cross + weight * (p[target] if target != largest else 1) * _sum(terms, power=1)
    return square - 2 * cross + p[target] / 3


class _Terms(NamedTuple):
    """sum_t sum_r coefficient[t, r] I^r f(shift[t]), with I the antiderivative."""

    shift: Float[Tensor, " term"]
    coefficient: Float[Tensor, "term integral"]


def _by_nodes(a: Float[Tensor, " feature"], b: float, largest: int, smaller: list[int]) -> dict[int, bool]:
    """For each active feature: Gauss nodes (exact where no kink is crossed) or a difference of antiderivatives."""
    active = a[[largest, *smaller]]
    lowest, highest = b + float(active.clamp(max=0).sum()), b + float(active.clamp(min=0).sum())
    no_kink = lowest >= 0 or highest <= 0
    limit = _SMALL * float(a[largest].abs())
    return {j: no_kink or float(a[j].abs()) < limit for j in [largest, *smaller]}


def _start(b: Float[Tensor, ""]) -> _Terms:
    return _Terms(b[None], torch.ones_like(b)[None, None])


def _average(terms: _Terms, a: Float[Tensor, ""], by_nodes: bool, times_u: bool = False) -> _Terms:
    """E f(y + a u), or E u f(y + a u), over u uniform on [0, 1].

    By parts: E u f(y + a u) = I f(y + a) / a - [I^2 f(y + a) - I^2 f(y)] / a^2.
    """
    shift, coefficient = terms
    if by_nodes:
        weights = [w * u if times_u else w for u, w in zip(_NODES, _NODE_WEIGHTS, strict=True)]
        return _Terms(torch.cat([shift + a * u for u in _NODES]), torch.cat([coefficient * w for w in weights]))
    once = _integrate(coefficient, 1) / a
    if times_u:
        twice = _integrate(coefficient, 2) / a**2
        return _Terms(torch.cat([shift + a, shift]), torch.cat([torch.nn.functional.pad(once, (0, 1)) - twice, twice]))
    return _Terms(torch.cat([shift + a, shift]), torch.cat([once, -once]))


def _sometimes(terms: _Terms, a: Float[Tensor, ""], p: Float[Tensor, ""], by_nodes: bool) -> _Terms:
    """(1 - p) f(y) + p E f(y + a u)."""
    on = _average(terms, a, by_nodes)
    off = _integrate(terms.coefficient, 0, on.coefficient.shape[1])
    if by_nodes:
        return _Terms(torch.cat([on.shift, terms.shift]), torch.cat([p * on.coefficient, (1 - p) * off]))
    moved, stayed = (p * on.coefficient).chunk(2)
    return _Terms(on.shift, torch.cat([moved, stayed + (1 - p) * off]))


def _integrate(
    coefficient: Float[Tensor, "term integral"], times: int, width: int | None = None
) -> Float[Tensor, "term more"]:
    """Coefficients of the `times`-th antiderivatives, padded to `width`."""
    missing = (width or coefficient.shape[1] + times) - coefficient.shape[1] - times
    return torch.nn.functional.pad(coefficient, (times, missing))


def _sum(terms: _Terms, power: int) -> Float[Tensor, ""]:
    """Evaluate at f = relu^power, of which the r-th antiderivative is power! / (power + r)! relu^(power + r)."""
    relu, total = terms.shift.relu(), terms.shift.new_zeros(())
    for r, c in enumerate(terms.coefficient.unbind(1)):
        total = total + factorial(power) / factorial(power + r) * (c * relu ** (power + r)).sum()
    return total
