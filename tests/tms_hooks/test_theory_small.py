"""Phase diagram, readouts, circles and packing: each against samples or brute force, by hand, and an invariance."""

from math import cos, pi, sqrt

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from tms_hooks import SparseUniform, theory
from tms_hooks.geometry import ideal_polytopes

F64 = torch.float64


@pytest.mark.parametrize(
    ("n", "name", "W", "ignored"),
    [
        (2, "extra ignored", [[1.0], [0.0]], 1),
        (2, "first ignored", [[0.0], [1.0]], 0),
        (2, "antipodal", [[1.0], [-1.0]], None),
        (3, "extra ignored", [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], 2),
        (3, "first ignored", [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]], 0),
        (3, "antipodal", [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], None),
        (3, "others antipodal", [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], None),
    ],
)
def test_phase_losses_are_those_of_the_model(n: int, name: str, W: list[list[float]], ignored: int | None) -> None:
    d, r = 0.35, 1.7
    weights, p = torch.tensor(W, dtype=F64), torch.full((n,), d, dtype=F64)
    b, importance = torch.zeros(n, dtype=F64), torch.ones(n, dtype=F64)
    importance[-1] = r
    if ignored is not None:
        b[ignored] = d / 2
    exact = theory.expected_loss(weights @ weights.mT, b, p, importance)
    assert theory.phase_losses(d, r, n)[name] == pytest.approx(float(exact), abs=1e-12)


def test_phase_losses_by_hand_and_on_a_grid() -> None:
    # d = 1, r = 1: ignored 1/3 - 1/4 = 1/12, antipodal 2/6.
    assert theory.phase_losses(1, 1) == pytest.approx(
        {"extra ignored": 1 / 12, "first ignored": 1 / 12, "antipodal": 1 / 3}
    )
    # Antipodal and ignoring cost the same where (1 + r) d/6 = r (1/3 - d/4): at r = 1, d = 4/7.
    at = theory.phase_losses(4 / 7, 1.0)
    assert at["antipodal"] == pytest.approx(at["extra ignored"])
    grid = theory.phase_losses(np.array([[0.1], [0.5]]), np.array([0.5, 1.0, 2.0]), n=3)
    assert np.broadcast_shapes(*(np.shape(v) for v in grid.values())) == (2, 3)
    for bad in ((0.0, 1.0, 2), (1.1, 1.0, 2), (0.5, 0.0, 2), (0.5, 1.0, 4)):
        with pytest.raises(ValueError, match="="):
            theory.phase_losses(*bad)


def directions(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_dual_frame_is_unambiguous_where_it_can_be() -> None:
    few = directions(3, 5)
    torch.testing.assert_close(theory.dual_frame(few) @ few.mT, torch.eye(3, dtype=F64))
    many = directions(7, 3)
    torch.testing.assert_close(theory.dual_frame(many).mT @ many, torch.eye(3, dtype=F64))  # reconstructs every h
    torch.testing.assert_close(theory.dual_frame(torch.stack([many, 2 * many]))[1], theory.dual_frame(many) / 2)


def test_pretty_good_measurement_is_halfway_and_resolves_the_identity() -> None:
    for V in (directions(7, 3), directions(3, 5)):
        pgm = theory.pretty_good_measurement(V)
        gram = V @ V.mT
        values, vectors = torch.linalg.eigh(gram)
        keep = values > 1e-10
        by_definition = (vectors[:, keep] / values[keep].sqrt()) @ vectors[:, keep].mT @ V
        torch.testing.assert_close(pgm, by_definition)
        projection = torch.linalg.pinv(V) @ V
        torch.testing.assert_close(pgm.mT @ pgm, projection)
        torch.testing.assert_close(theory.pretty_good_measurement(3 * V), pgm)


def test_one_sided_dual_frame_is_the_best_readout_behind_a_relu() -> None:
    V = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    U = theory.one_sided_dual_frame(V)

    def loss(u: np.ndarray, v: np.ndarray, i: int) -> float:
        logits = v @ u
        hidden = np.maximum(np.delete(logits, i), 0)
        return float((1 - logits[i]) ** 2 + hidden @ hidden)

    for u, v in zip(U.numpy(), V.numpy(), strict=True):
        for i in range(6):
            best = minimize(loss, v[i] / (v[i] @ v[i]), (v, i), tol=1e-12).fun
            np.testing.assert_allclose(loss(u[i], v, i), best, atol=1e-9)
    few = V[0, :3]  # independent: nothing to hide
    torch.testing.assert_close(theory.one_sided_dual_frame(few), theory.dual_frame(few))
    rotation = torch.linalg.qr(V[1, :3]).Q
    torch.testing.assert_close(theory.one_sided_dual_frame(V @ rotation), U @ rotation)
    torch.testing.assert_close(theory.one_sided_dual_frame(2 * V), U / 2)


def test_readouts_agree_on_a_tight_frame_and_differ_elsewhere() -> None:
    V = ideal_polytopes(5)["pentagon"]  # V^T V = 5/2: dual frame V * 2/5, pretty good measurement V * sqrt(2/5)
    torch.testing.assert_close(theory.dual_frame(V), 0.4 * V)
    torch.testing.assert_close(theory.pretty_good_measurement(V), sqrt(0.4) * V)
    for cosines in theory.readout_cosines(V, V.mT).values():
        torch.testing.assert_close(cosines, torch.ones(5, dtype=F64))
    V = directions(3, 3)
    cosines = theory.readout_cosines(V, theory.dual_frame(V).mT)
    torch.testing.assert_close(cosines["dual frame"], torch.ones(3, dtype=F64))
    assert cosines["matched filter"].min() < 0.99


def test_readouts_refuse_what_is_not_finite() -> None:
    good, bad = directions(3, 2), directions(3, 2)
    bad[1, 0] = float("nan")
    for call in (theory.dual_frame, theory.pretty_good_measurement, theory.one_sided_dual_frame):
        with pytest.raises(ValueError, match="nan: weights must be finite"):
            call(bad)
    with pytest.raises(ValueError, match="nan: weights must be finite"):
        theory.readout_cosines(good, bad.mT)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10, 40])
def test_perfect_circle_reconstructs_and_is_the_shortest(n: int) -> None:
    norm, bias = theory.perfect_circle(n)
    circle = torch.stack(
        [torch.arange(n, dtype=F64).mul(2 * pi / n).cos(), torch.arange(n, dtype=F64).mul(2 * pi / n).sin()], 1
    )

    def loss(length: float, b: float) -> float:
        return float(((length**2 * circle @ circle.mT + b).relu() - torch.eye(n)).square().sum())

    assert loss(norm, bias) < 1e-20
    assert loss(1.2 * norm, 1 - (1.2 * norm) ** 2) < 1e-20
    assert loss(0.99 * norm, 1 - (0.99 * norm) ** 2) > 1e-6


def test_perfect_circle_by_hand() -> None:
    assert theory.perfect_circle(3) == pytest.approx((sqrt(2 / 3), 1 / 3))  # 1/(1 + 1/2)
    assert theory.perfect_circle(6) == pytest.approx((sqrt(2), -1))  # 1/(1 - 1/2)
    assert theory.perfect_circle(1000).norm == pytest.approx(1000 / (sqrt(2) * pi), rel=1e-5)
    with pytest.raises(ValueError, match="n=1"):
        theory.perfect_circle(1)


def test_ray_bias_interval_is_where_argmax_is_right() -> None:
    outer, inner = 1.7, 0.6
    low, high = theory.ray_bias_interval(outer, inner)
    W = torch.tensor([outer, inner], dtype=F64)
    for b in np.linspace(-1, 4, 500):
        logits = torch.outer(W, W) + torch.tensor([0.0, b], dtype=F64)
        assert (logits.argmax(1).tolist() == [0, 1]) == (low < b < high)
    with pytest.raises(ValueError, match="inner=2"):
        theory.ray_bias_interval(1.0, 2.0)


@pytest.mark.parametrize(("n", "learned"), [(10, 9), (10, 7), (12, 5), (5, 3)])
def test_softmax_traps_features_at_zero_from_the_trap_radius_on(n: int, learned: int) -> None:
    turns = 2 * pi / learned * torch.arange(learned, dtype=F64)
    unit = torch.stack([turns.cos(), turns.sin()], 1)

    def lowest_curvature(radius: float) -> float:
        def loss(rest: torch.Tensor) -> torch.Tensor:
            W = torch.cat([radius * unit, rest.reshape(-1, 2)])
            return torch.nn.functional.cross_entropy(W @ W.mT, torch.arange(n), reduction="sum")

        nothing = torch.zeros(2 * (n - learned), dtype=F64)
        assert (
            float(torch.autograd.functional.jacobian(loss, nothing).abs().max()) < 1e-12
        )  # zero is critical at any radius
        return float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, nothing))[0])

    trap = theory.softmax_trap_radius(n, learned)
    assert lowest_curvature(trap) == pytest.approx(0, abs=1e-9)
    assert lowest_curvature(0.95 * trap) < 0 < lowest_curvature(1.05 * trap)
    assert trap == pytest.approx(2 * (n / learned) ** 0.5, rel=0.12)


def test_a_circle_needs_three_features_and_a_rest() -> None:
    for n, learned in ((10, 2), (10, 10)):
        with pytest.raises(ValueError, match=f"learned={learned}"):
            theory.softmax_trap_radius(n, learned)


def test_overlaps_need_two_directions_in_one_dimension() -> None:
    assert theory.welch_bound(2, 1) == 1  # on a line any two overlap whole
    assert theory.sphere_mean_overlap(1) == pytest.approx(1)
    for refused in (lambda: theory.welch_bound(1, 1), lambda: theory.welch_bound(2, 0)):
        with pytest.raises(ValueError, match="needs at least two directions in at least one dimension"):
            refused()


def test_welch_bound_holds_and_is_reached() -> None:
    for n, d, V in ((3, 2, ideal_polytopes(3)["triangle"]), (4, 3, ideal_polytopes(4)["tetrahedron"])):
        off = (V @ V.mT).abs().fill_diagonal_(0)
        assert float(off.max()) == pytest.approx(theory.welch_bound(n, d))
    pentagon = ideal_polytopes(5)["pentagon"]
    off = (pentagon @ pentagon.mT).square().fill_diagonal_(0)
    assert float(off.sum() / 20) == pytest.approx(theory.welch_bound(5, 2) ** 2)
    random = torch.nn.functional.normalize(directions(40, 6), dim=1)
    off = (random @ random.mT).square().fill_diagonal_(0)
    assert float(off.sum() / (40 * 39)) > theory.welch_bound(40, 6) ** 2
    assert theory.welch_bound(3, 5) == 0


@pytest.mark.parametrize("d", [2, 3, 10, 100])
def test_random_directions_overlap_as_predicted(d: int) -> None:
    V = torch.nn.functional.normalize(directions(1000, d, seed=d), dim=1)
    cosines = (V[:500] * V[500:]).sum(1).abs()
    error = float(cosines.std()) / sqrt(500)
    assert abs(float(cosines.mean()) - theory.sphere_mean_overlap(d)) < 3 * error


def test_overlaps_by_hand() -> None:
    assert theory.sphere_mean_overlap(3) == pytest.approx(1 / 2)  # |cos| is uniform on the sphere
    assert theory.sphere_mean_overlap(1000) == pytest.approx(sqrt(2 / (pi * 1000)), rel=1e-3)


def test_tegum_products_of_pentagons() -> None:
    pentagon = ideal_polytopes(5)["pentagon"]
    W = torch.block_diag(pentagon, pentagon, pentagon)
    off = (W @ W.mT).abs().fill_diagonal_(0)
    found = theory.tegum_overlaps(3 * pentagon, 6)
    assert found.mean == pytest.approx(float(off.sum()) / (15 * 14))
    assert found.maximum == pytest.approx(float(off.max())) == pytest.approx(-cos(4 * pi / 5))
    assert theory.tegum_overlaps(pentagon, 12).mean == pytest.approx(found.mean / 2, rel=0.05)
    with pytest.raises(ValueError, match="d=5"):
        theory.tegum_overlaps(pentagon, 5)


def test_phase_losses_agree_with_samples() -> None:
    x = SparseUniform(n_features=2, feature_probability=0.3).sample(200_000, seed=0, dtype=F64)
    W = torch.tensor([[1.0], [-1.0]], dtype=F64)
    losses = ((x - (x @ W @ W.mT).relu()).square() * torch.tensor([1.0, 2.0])).sum(1)
    error = float(losses.std()) / len(x) ** 0.5
    assert abs(theory.phase_losses(0.3, 2.0)["antipodal"] - float(losses.mean())) < 3 * error


def test_the_pretty_good_measurement_of_stacked_models_is_that_of_each() -> None:
    V = torch.stack([directions(7, 3), 1e3 * directions(7, 3, seed=1)])
    for found, alone in zip(theory.pretty_good_measurement(V), V, strict=True):
        torch.testing.assert_close(found, theory.pretty_good_measurement(alone))
