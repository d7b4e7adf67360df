"""Polygons against direct quadrature of the model, brute-force minimization, and numbers worked by hand."""

import inspect
import itertools
from math import cos, pi, sqrt

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brute, fmin

from tms_hooks import SparseUniform, theory


def one_active_loss(F: int, l2: float, b: float) -> float:
    """What the F outputs lose when feature 0 is active and uniform, by quadrature of the model itself."""
    W = sqrt(l2) * np.array([[cos(2 * pi * r / F), np.sin(2 * pi * r / F)] for r in range(F)])
    gram = W @ W.T

    def squared_error(x: float) -> float:
        inputs = np.zeros(F)
        inputs[0] = x
        return float(((np.maximum(gram @ inputs + b, 0) - inputs) ** 2).sum())

    kinks = [-b / g for g in gram[0] if abs(g) > 1e-12 and 0 < -b / g < 1]
    edges = [0.0, *sorted(kinks), 1.0]
    nodes, weights = np.polynomial.legendre.leggauss(3)  # exact: quadratic between kinks
    return sum(
        (hi - lo) / 2 * w * squared_error((lo + hi) / 2 + (hi - lo) / 2 * x)
        for lo, hi in itertools.pairwise(edges)
        for x, w in zip(nodes, weights, strict=True)
    )


@pytest.mark.parametrize("F", [2, 3, 4, 5, 6, 7, 9, 12])
def test_polygon_is_the_minimum_of_the_integral(F: int) -> None:
    best = theory.polygon(F)
    assert best.loss == pytest.approx(one_active_loss(F, best.norm**2, best.bias), abs=1e-9)
    assert best.gain == pytest.approx(F * (best.loss - 1 / 3), abs=1e-9)
    found = brute(
        lambda z: one_active_loss(F, z[0], -abs(z[1])), ((0.5, 3.0), (0.0, 2.0)), Ns=12, full_output=True, finish=None
    )
    assert best.loss <= found[1] + 1e-9
    polished = fmin(
        lambda z: one_active_loss(F, z[0], -abs(z[1])), (best.norm**2, best.bias), full_output=True, disp=False
    )
    assert polished[1] == pytest.approx(best.loss, abs=1e-6)
    without = theory.polygon(F, bias=False)
    assert without.loss == pytest.approx(one_active_loss(F, without.norm**2, 0.0), abs=1e-9)
    assert without.bias == 0


def test_polygons_by_hand() -> None:
    # Square: neighbors at right angles or behind the ReLU: perfect. Hexagon, no bias: C = 3/2, l^2 = 2/3, gain -6/4.5.
    assert theory.polygon(4) == (1.0, 0.0, 0.0, pytest.approx(-4 / 3))
    assert theory.polygon(6, bias=False) == pytest.approx((sqrt(2 / 3), 0, 1 / 9, -4 / 3))
    # Pentagon, no bias: C = 1 + 2 cos^2 72 = 1.190983
    assert theory.polygon(5, bias=False).gain == pytest.approx(-5 / 3 / 1.1909830056)


def test_who_wins_in_the_one_active_limit() -> None:
    assert min(range(2, 20), key=lambda F: theory.polygon(F, bias=False).gain) == 5
    assert min(range(2, 20), key=lambda F: theory.polygon(F).gain) == 7
    assert theory.polygon(7).gain == pytest.approx(-1.750434972, abs=1e-8)


def test_textbook_argument() -> None:
    assert [theory.polygon_gain_nearest(F) for F in (3, 4, 6)] == pytest.approx([-1, -4 / 3, -1])
    assert theory.polygon_gain_nearest(3, literal=True) == pytest.approx(-1 / 2)  # c^2 = 1/4: counts what ReLU clips
    assert min(range(2, 40), key=theory.polygon_gain_nearest) == 5
    # Quadrature of the same model: unit norm, no bias, itself and its two nearest neighbors.
    for F in (5, 6, 8):
        c = cos(2 * pi / F)
        integral = quad(lambda x, c=c: 2 * max(c * x, 0.0) ** 2, 0, 1)[0]
        assert theory.polygon_gain_nearest(F) == pytest.approx(F * (integral - 1 / 3), abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(5, 5), (7, 5), (12, 6), (10, 4), (9, 3), (40, 5)])
def test_onehot_polygon_loss_is_reached_and_is_least(n: int, d: int) -> None:
    """Deal n features to d directions unevenly, with the best squared norm on each; then search around it."""
    direction = torch.arange(n) % d
    angle = 2 * pi / d * direction.double()
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    counts = torch.bincount(direction)[direction].double()

    def loss(log_norms: torch.Tensor) -> torch.Tensor:
        W = log_norms.exp()[:, None] * circle
        return ((W @ W.T).relu() - torch.eye(n)).square().sum()

    C = sum(max(cos(2 * pi * r / d), 0.0) ** 2 for r in range(d))
    best = (1 / (counts * C)).log() / 2
    exact = theory.onehot_polygon_loss(n, d)
    assert exact == pytest.approx(float(loss(best)), abs=1e-9)
    gradient = torch.autograd.functional.jacobian(loss, best)
    assert gradient.abs().max() < 1e-9
    g = torch.Generator().manual_seed(0)
    for _ in range(50):
        assert loss(best + 0.1 * torch.randn(n, generator=g)) > exact - 1e-12


def test_onehot_pentagon_wins_for_any_n() -> None:
    for n in (5, 8, 20):
        assert min(range(2, n + 1), key=lambda d: theory.onehot_polygon_loss(n, d)) == 5
    assert theory.onehot_polygon_loss(5, 4) == pytest.approx(1)
    with pytest.raises(ValueError, match="d <= n"):
        theory.onehot_polygon_loss(4, 5)


def test_polygon_loss_at_finite_density_against_samples() -> None:
    F, n, p = 5, 6, 0.2
    norm, bias, _ = theory.finite_polygon(F, p)
    x = SparseUniform(n_features=n, feature_probability=p).sample(400_000, seed=0, dtype=torch.float64)
    angle = 2 * pi / F * torch.arange(F, dtype=torch.float64)
    W = torch.zeros(n, 2, dtype=torch.float64)
    W[:F] = norm * torch.stack([angle.cos(), angle.sin()], dim=1)
    b = torch.tensor([bias] * F + [p / 2], dtype=torch.float64)
    losses = ((x @ W @ W.T + b).relu() - x).square().sum(1)
    error = losses.std() / len(x) ** 0.5
    assert abs(float(losses.mean()) - theory.polygon_loss(n, p, F)) < 3 * error


@pytest.mark.parametrize("F", [4, 5])
def test_finite_polygon_is_a_minimum(F: int) -> None:
    p = 0.15
    norm, bias, loss = theory.finite_polygon(F, p)
    cosines = torch.tensor([cos(2 * pi * r / F) for r in range(F)], dtype=torch.float64)
    density = torch.full((F,), p, dtype=torch.float64)

    def at(s: float, b: float) -> float:
        return float(theory.output_loss(s * cosines, torch.tensor(b, dtype=torch.float64), density, 0))

    found = brute(lambda z: at(z[0], z[1]), ((0.2, 2.0), (-0.8, 0.4)), Ns=14, full_output=True, finish=None)
    assert loss <= found[1] + 1e-9
    for ds, db in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert at(norm**2 + ds, bias + db) > loss - 1e-10


def test_small_p_tends_to_the_one_active_limit() -> None:
    p = 1e-4
    for F in (5, 6):
        limit = theory.polygon(F)
        norm, bias, loss = theory.finite_polygon(F, p)
        assert (norm, bias) == pytest.approx((limit.norm, limit.bias), rel=0.01)
        assert F * (loss / p - 1 / 3) == pytest.approx(limit.gain, rel=0.001)


def test_best_polygon_and_crossings() -> None:
    assert theory.best_polygon(6, 0.3) == 4
    assert theory.best_polygon(6, 0.1) == 5
    assert theory.best_polygon(6, 0.057) == 6
    assert theory.best_polygon(5, 0.01) == 5  # it cannot have more corners than features
    crossing = theory.polygon_crossing(6, 4, 5)
    assert crossing == pytest.approx(0.22488, rel=1e-3)
    for p, better in ((0.99 * crossing, 5), (1.01 * crossing, 4)):
        assert theory.polygon_loss(6, p, better) < theory.polygon_loss(6, p, 9 - better)


def test_bad_input() -> None:
    for call in (
        lambda: theory.polygon(1),
        lambda: theory.polygon_gain_nearest(1),
        lambda: theory.best_polygon(5, 0.0),
        lambda: theory.best_polygon(5, 1.5),
        lambda: theory.best_polygon(13, 0.1),
        lambda: theory.polygon_loss(4, 0.1, 5),
        lambda: theory.polygon_crossing(5, 2, 3),
        lambda: theory.finite_polygon(4, 0.0),
        lambda: theory.finite_polygon(4, float("nan")),
        lambda: theory.finite_polygon(0, 0.1),
        lambda: theory.finite_polygon(14, 0.1),
    ):
        with pytest.raises(ValueError, match="="):
            call()


def test_too_many_features_are_told_what_to_use_instead() -> None:
    with pytest.raises(ValueError, match=r"use n=12 .*, or polygon\(F\)"):
        theory.best_polygon(13, 0.1)
    with pytest.raises(ValueError, match=r"use polygon\(F\), the limit p -> 0"):
        theory.polygon_loss(13, 0.1, 13)


def test_tables_hold_the_functions_they_name() -> None:
    assert list(theory.polygon_table().index) == list(range(3, 11))
    table = theory.polygon_table([4, 7])
    assert table.loc[7, "gain, bias"] == pytest.approx(theory.polygon(7).gain, abs=1e-9)
    assert theory.polygon_table([8]).loc[8, "gain, textbook"] == 0  # 2 cos^2 45 - 1, not its rounding error
    assert table.loc[4].tolist() == pytest.approx([-4 / 3, -4 / 3, 1, -4 / 3, 1, 0])
    assert theory.best_polygon_table([4, 6], [0.057, 0.3]).to_numpy().tolist() == [[4, 4], [6, 4]]


def test_the_map_that_the_documents_show_is_the_default() -> None:
    """4 to 10 features at the densities of the page that `tms theory` writes; to sum them all takes half a minute."""
    default = {name: p.default for name, p in inspect.signature(theory.best_polygon_table).parameters.items()}
    assert default == {"features": range(4, 11), "densities": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)}


def test_two_features_make_a_digon_and_twelve_corners_are_still_summed() -> None:
    assert theory.best_polygon(2, 0.3) == 2
    assert theory.polygon_loss(2, 0.3, 2) < 2 * (0.3 / 3 - 0.3**2 / 4)  # the variance of each
    norm, bias, loss = theory.finite_polygon(12, 1e-4)
    limit = theory.polygon(12)
    assert (norm, bias) == pytest.approx((limit.norm, limit.bias), rel=0.01)
    assert loss / 1e-4 == pytest.approx(limit.loss, rel=0.01)


@pytest.mark.parametrize("corners", [(2, 3), (3, 2)])
def test_polygons_that_never_cost_the_same_say_which_costs_less(corners: tuple[int, int]) -> None:
    assert theory.polygon_loss(5, 0.1, 3) < theory.polygon_loss(5, 0.1, 2)
    with pytest.raises(ValueError, match=r"no crossing for p in \[0.001, 1\]; the 3-gon costs less throughout"):
        theory.polygon_crossing(5, *corners)


def test_a_table_has_nine_digits() -> None:
    best = theory.polygon(7)
    assert theory.polygon_table([7]).loc[7, "gain, bias"] == round(best.gain, 9) != best.gain
