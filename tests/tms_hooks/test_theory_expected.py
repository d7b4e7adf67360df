"""The exact expected loss against nested quadrature, against brute force over patterns, and against samples."""

from itertools import pairwise, product
from math import factorial, prod

import pytest
import torch
from scipy.integrate import quad

from tms_hooks.data import SparseUniform
from tms_hooks.theory.expected import expected_loss, output_loss

F64 = torch.float64


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


def by_quadrature(a: list[float], b: float, p: list[float], target: int) -> float:
    """Sum over patterns; the first active feature exactly between its kinks, the rest by adaptive quadrature."""

    def inside(y: float, active: list[int], x_target: float) -> float:
        if not active:
            return (x_target - max(y, 0.0)) ** 2
        j, *rest = active
        kinks = sorted({min(max(-(y + s) / a[j], 0), 1) for s in sums(rest)}) if a[j] else []
        kinks = [k for k in kinks if 0 < k < 1]
        edges = [0.0, *kinks, 1.0]
        f = lambda u: inside(y + a[j] * u, rest, u if j == target else x_target)  # noqa: E731
        return sum(quad(f, lo, hi, epsabs=1e-11, epsrel=1e-10)[0] for lo, hi in pairwise(edges))

    def sums(rest: list[int]) -> list[float]:
        return [sum(a[j] for j, on in zip(rest, bits, strict=True) if on) for bits in product((0, 1), repeat=len(rest))]

    total = 0.0
    for bits in product((0, 1), repeat=len(a)):
        chance = prod(q if on else 1 - q for q, on in zip(p, bits, strict=True))
        total += chance * inside(b, [j for j, on in enumerate(bits) if on], 0.0)
    return total


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [
        ([1.2, -0.5], -0.1, [0.3, 0.9]),
        ([1.2, 0.4, -0.9], -0.05, [0.3, 0.5, 1.0]),
        ([0.7, -0.7, 0.0], 0.0, [0.3, 0.5, 0.2]),
        ([1.0, 0.015, -0.012], -0.006, [0.4, 0.5, 0.6]),  # small coefficients with a kink among them
        ([0.001, -0.0012, 0.00001], 0.0004, [0.4, 0.5, 0.6]),
        ([1e-9, 2e-9, -1e-9], 0.03, [0.4, 0.5, 0.6]),  # a dead feature
        ([0.0, 0.0, 0.0], 0.15, [0.3, 0.3, 0.3]),
        ([0.0, 0.0, 0.0], -0.15, [0.3, 0.3, 0.3]),
    ],
)
def test_output_loss_equals_quadrature(a: list[float], b: float, p: list[float]) -> None:
    for target in range(len(a)):
        exact = output_loss(t(*a), t(b)[0], t(*p), target).item()
        assert exact == pytest.approx(by_quadrature(a, b, p, target), abs=1e-8)


def test_all_active_square_is_the_printed_sum() -> None:
    """The formula for k active features, written out; the target is an extra feature that is never active."""
    a, b = t(0.9, -0.6, 0.3, 0.8), -0.2
    k = len(a)
    total = 0.0
    for bits in product((0, 1), repeat=k):
        total += (-1) ** (k - sum(bits)) * max(b + float(t(*map(float, bits)) @ a), 0.0) ** (k + 2)
    expected = 2 / (factorial(k + 2) * prod(a.tolist())) * total
    found = output_loss(torch.cat([a, t(0.0)]), t(b)[0], t(1, 1, 1, 1, 0), target=4).item()
    assert found == pytest.approx(expected, abs=1e-12)


def test_by_hand() -> None:
    # x' = relu(x - 1/2), p = 1/2: E (x - x')^2 = 1/2 (int_0^.5 x^2 + int_.5^1 1/4) = 1/2 (1/24 + 1/8) = 1/12.
    assert output_loss(t(1.0), t(-0.5)[0], t(0.5), 0).item() == pytest.approx(1 / 12, abs=1e-14)


def test_samples_agree_within_three_standard_errors() -> None:
    g = torch.Generator().manual_seed(0)
    W_E, W_U = torch.randn(8, 3, generator=g, dtype=F64), torch.randn(3, 8, generator=g, dtype=F64)
    b, p, importance = (
        0.3 * torch.randn(8, generator=g, dtype=F64),
        torch.rand(8, generator=g, dtype=F64),
        t(*range(1, 9)),
    )
    x = SparseUniform(n_features=8, feature_probability=tuple(p.tolist())).sample(400_000, seed=1, dtype=F64)
    losses = (importance * (x - (x @ W_E @ W_U + b).relu()).square()).sum(1)
    error = losses.std() / len(x) ** 0.5
    assert (expected_loss(W_E @ W_U, b, p, importance) - losses.mean()).abs() < 3 * error


def test_permutation_and_scale() -> None:
    a, b, p = t(0.9, -0.6, 0.01, 0.8), t(-0.1)[0], t(0.1, 0.5, 0.9, 0.4)
    perm = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(output_loss(a[perm], b, p[perm], 2), output_loss(a, b, p, 3), rtol=0, atol=1e-12)
    # Without the target, loss is homogeneous of degree 2.
    silent = torch.cat([p[:3], t(0.0)])
    torch.testing.assert_close(output_loss(3 * a, 3 * b, silent, 3), 9 * output_loss(a, b, silent, 3))


def test_derivatives_are_those_of_the_expectation() -> None:
    """First and second derivatives against central differences of the loss: the kink's term is in them."""
    a, p = t(0.9, -0.6, 0.012, 0.5), t(0.5, 0.5, 0.9, 0.4)

    def loss(z: torch.Tensor) -> torch.Tensor:
        return output_loss(z[:-1], z[-1], p, 0)

    z, step = torch.cat([a, t(-0.07)]), 1e-3
    gradient = torch.autograd.functional.jacobian(loss, z)
    hessian = torch.autograd.functional.hessian(loss, z)
    eye = step * torch.eye(5, dtype=F64)
    numeric = torch.stack([(loss(z + e) - loss(z - e)) / (2 * step) for e in eye])
    torch.testing.assert_close(gradient, numeric, rtol=0, atol=2e-6)
    numeric = torch.stack(
        [torch.autograd.functional.jacobian(loss, z + e) - torch.autograd.functional.jacobian(loss, z - e) for e in eye]
    ) / (2 * step)
    torch.testing.assert_close(hessian, numeric, rtol=0, atol=1e-3)


def test_too_many_features() -> None:
    with pytest.raises(ValueError, match="stops at 12"):
        expected_loss(torch.zeros(13, 13, dtype=F64), torch.zeros(13, dtype=F64), torch.ones(13, dtype=F64))


@pytest.mark.parametrize(("at", "value"), [("A", float("nan")), ("b", float("inf")), ("p", 1.5), ("p", -0.1)])
def test_what_has_no_expectation_is_refused(at: str, value: float) -> None:
    given = {"A": torch.eye(3), "b": torch.zeros(3), "p": torch.full((3,), 0.1)}
    given = {name: tensor.double() for name, tensor in given.items()}
    given[at].view(-1)[-1] = value
    rule = "must be between 0 and 1" if at == "p" else "must be finite"
    with pytest.raises(ValueError, match=f"2.* = {value}: .*{rule}"):
        expected_loss(given["A"], given["b"], given["p"])


@pytest.mark.parametrize(("a", "b"), [([0.5, -1.0], -0.4), ([-0.5, -1.0], 0.7), ([0.6, 0.3], -0.9), ([1.0, 0.5], 0.0)])
def test_logits_that_cross_the_kink_end_on_it_or_start_there(a: list[float], b: float) -> None:
    """Whether nodes are exact depends on the sign of the lowest and of the highest logit of a pattern."""
    p = [0.5, 0.7]
    for target in (0, 1):
        found = output_loss(t(*a), t(b)[0], t(*p), target).item()
        assert found == pytest.approx(by_quadrature(a, b, p, target), abs=1e-10)


def test_the_most_features_that_are_summed() -> None:
    """All twelve together, each near its most, are too rare to count: what is left is E x^2 = p / 3 of each."""
    bias, p = torch.full((12,), -11.9, dtype=F64), torch.full((12,), 0.3, dtype=F64)
    found = expected_loss(torch.ones(12, 12, dtype=F64), bias, p)
    torch.testing.assert_close(found, torch.tensor(12 * 0.3 / 3, dtype=F64))


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_a_loss_without_its_target_grows_with_the_square_of_the_weights(unit: float) -> None:
    """Small coefficients are told by the largest, not by 1."""
    a, b, silent = t(0.9, -0.6, 0.012, -0.004, 0.3), t(-0.07)[0], t(0.5, 0.3, 0.9, 0.4, 0.0)
    found = output_loss(unit * a, unit * b, silent, 4)
    torch.testing.assert_close(found, unit**2 * output_loss(a, b, silent, 4), rtol=1e-7, atol=0)


@pytest.mark.parametrize("a", [[-1.0, 1e-5, 1e-5], [-1.0, -1e-5, 0.5], [1e-4, -1.0, 1e-4], [0.013, -1.0, 0.019]])
def test_small_coefficients_beside_a_large_negative_one(a: list[float]) -> None:
    """Differences divided by a small one lose digits, twice as many for the target; nodes across the kink lose others.

    What is 1 to 2 % of the largest is computed by differences, to the last digits.
    """
    p, b = [0.4, 0.5, 0.6], 0.3
    for target, accuracy in ((0, 1e-10), (1, 1e-9), (2, 1e-9)):
        found = output_loss(t(*a), t(b)[0], t(*p), target).item()
        assert found == pytest.approx(by_quadrature(a, b, p, target), abs=accuracy)


def test_every_coefficient_has_a_probability() -> None:
    with pytest.raises((ValueError, TypeError)):
        output_loss(t(1.0, 0.5), t(0.0)[0], t(0.5, 0.5, 0.5), 0)
