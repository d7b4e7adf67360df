"""The landscape: exact sums against samples, symmetry modes against finite motions, spectra worked by hand."""

from math import pi

import pytest
import torch

from tms_hooks import Adam, Copula, KHot, OneHot, SparseUniform, ToyConfig, landscape, theory
from tms_hooks.landscape.critical import KINK_STEP, _feature_share, _has_kink
from tms_hooks.landscape.exact import exact_losses, no_exact_loss
from tms_hooks.models import forward
from tms_hooks.models.toy import ToyModel

F64 = torch.float64


def random_weights(cfg: ToyConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {k: 0.6 * torch.randn(s, generator=g, dtype=F64) for k, s in forward.weight_shapes(cfg).items()}


def polygon(F: int, n: int, norm: float, bias: float, rest: float) -> dict[str, torch.Tensor]:
    angle = 2 * pi / F * torch.arange(F, dtype=F64)
    W = torch.zeros(n, 2, dtype=F64)
    W[:F] = norm * torch.stack([angle.cos(), angle.sin()], dim=1)
    b = torch.full((n,), rest, dtype=F64)
    b[:F] = bias
    return {"W_E": W, "b_U": b}


def sampled(weights: dict[str, torch.Tensor], cfg: ToyConfig, data, n: int = 200_000) -> tuple[float, float]:
    x = data.sample(n, seed=1, dtype=F64)
    losses = (forward.reconstruct(weights, x, cfg)[2] - x).square().sum(1)
    return float(losses.mean()), float(losses.std()) / n**0.5


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "data",
    [
        SparseUniform(n_features=4, feature_probability=0.4),
        SparseUniform(n_features=4, feature_probability=(0.1, 0.4, 0.9, 1.0)),
        KHot(n_features=4, k=2),
        KHot(n_features=4, k=2, values="uniform"),
        OneHot(n_features=4),
    ],
)
def test_exact_loss_agrees_with_samples(data, tied: bool) -> None:
    cfg = ToyConfig(n_features=4, d_hidden=2, tied=tied, hidden_bias=True)
    weights = random_weights(cfg)
    mean, error = sampled(weights, cfg, data)
    assert abs(float(landscape.exact_loss(weights, cfg, data)) - mean) < 3 * error


def test_a_penalty_is_added_to_the_exact_loss() -> None:
    cfg, data = ToyConfig(n_features=4, d_hidden=2), OneHot(n_features=4)
    weights = random_weights(cfg)
    found = landscape.exact_loss(weights, cfg, data, penalty=lambda w: w["W_E"].abs().sum())
    torch.testing.assert_close(found, landscape.exact_loss(weights, cfg, data) + weights["W_E"].abs().sum())


def test_exact_loss_of_a_scaled_unit_norm_toy() -> None:
    cfg, data = (
        ToyConfig(n_features=4, d_hidden=2, unit_norm=True),
        SparseUniform(n_features=4, feature_probability=0.4),
    )
    weights = random_weights(cfg)
    mean, error = sampled(weights, cfg, data)
    assert abs(float(landscape.exact_loss(weights, cfg, data)) - mean) < 3 * error


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({"tied": True}, 1),
        ({"tied": False}, 4),
        ({"tied": True, "hidden_bias": True}, 3),
        ({"tied": False, "hidden_bias": True}, 6),
        ({"tied": True, "hidden_act": "relu"}, 0),
        ({"tied": False, "hidden_bias": True, "output_bias": False}, 4),
        ({"tied": True, "unit_norm": True, "hidden_bias": True}, 1),
        ({"tied": False, "unit_norm": True}, 1),
    ],
)
def test_symmetries_leave_every_output_alone(switches: dict, expected: int) -> None:
    cfg = ToyConfig(n_features=5, d_hidden=2, **switches)
    weights = random_weights(cfg)
    tangents = landscape.symmetry_directions(weights, cfg)
    assert tangents.shape[1] == expected == (torch.linalg.matrix_rank(tangents) if expected else 0)
    shapes = {k: w.shape for k, w in weights.items()}
    theta, x = torch.cat([w.flatten() for w in weights.values()]), torch.rand(20, 5, dtype=F64)

    def out(step: torch.Tensor) -> torch.Tensor:
        return forward.reconstruct(landscape.unflatten(theta + step, shapes), x, cfg)[2]

    for tangent in tangents.unbind(1):
        h = 1e-6
        assert ((out(h * tangent) - out(-h * tangent)) / (2 * h)).abs().max() < 1e-8


def test_an_empty_model_is_a_saddle_with_a_spectrum_by_hand() -> None:
    # At W = 0, b = p/2, L = const - 2 v sum_i I_i |W_i|^2 + sum_i I_i (b_i - p/2)^2, with v = Var x = p/3 - p^2/4.
    p, cfg = 0.2, ToyConfig(n_features=3, d_hidden=2)
    v = p / 3 - p**2 / 4
    model = ToyModel.from_weights(cfg, {"W_E": torch.zeros(3, 2), "b_U": torch.full((3,), p / 2)})
    data, importance = SparseUniform(n_features=3, feature_probability=p), torch.tensor([1.0, 1.0, 3.0])
    point = landscape.critical_point(model, data, importance)
    assert (point.kind, point.escape) == ("saddle", 2)
    assert point.loss == pytest.approx(5 * v)
    expected = torch.tensor([-12 * v] * 2 + [-4 * v] * 4 + [2.0] * 2 + [6.0], dtype=F64)
    torch.testing.assert_close(point.eigenvalues, expected, rtol=1e-5, atol=1e-7)


def test_the_feature_that_escapes_changes_most_in_all_its_weights() -> None:
    cfg = ToyConfig(n_features=2, d_hidden=2, tied=False)
    direction = {"W_E": torch.tensor([[2.0, 0.0], [0.0, 1.0]]), "W_U": torch.tensor([[0.0, 1.0], [0.0, 1.0]])}
    assert _feature_share(direction | {"b_U": torch.tensor([0.0, 2.0])}, cfg).tolist() == [4, 7]


def test_an_empty_untied_model_escapes_along_both_matrices() -> None:
    # Near W = 0, b = p/2, L = const - 2 v sum_i I_i W_E_i . W_U_i + ...: each product has the eigenvalues -2vI and 2vI.
    p, cfg = 0.2, ToyConfig(n_features=3, d_hidden=2, tied=False)
    v = p / 3 - p**2 / 4
    model = ToyModel.from_weights(
        cfg, {"W_E": torch.zeros(3, 2), "W_U": torch.zeros(2, 3), "b_U": torch.full((3,), p / 2)}
    )
    data, importance = SparseUniform(n_features=3, feature_probability=p), torch.tensor([1.0, 1.0, 3.0])
    point = landscape.critical_point(model, data, importance)
    assert (point.kind, point.escape) == ("saddle", 2)
    expected = [-6 * v] * 2 + [-2 * v] * 4 + [2 * v] * 4 + [6 * v] * 2 + [2.0, 2.0, 6.0]
    torch.testing.assert_close(point.eigenvalues, torch.tensor(expected, dtype=F64), rtol=1e-5, atol=1e-7)


def test_pentagon_beside_an_ignored_feature_is_a_true_minimum() -> None:
    """n = 6, p = 0.057: the stuck feature of the pentagon-and-hexagon study."""
    p, cfg = 0.057, ToyConfig(n_features=6, d_hidden=2)
    norm, bias, _ = theory.finite_polygon(5, p)
    data = SparseUniform(n_features=6, feature_probability=p)
    point = landscape.critical_point(ToyModel.from_weights(cfg, polygon(5, 6, norm, bias, p / 2)), data)
    assert point.kind == "minimum"
    assert point.gradient_norm < 1e-7
    assert len(point.eigenvalues) == 18 - 1
    assert point.loss == pytest.approx(theory.polygon_loss(6, p, 5), abs=1e-12)
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        nearby = {k: w + 0.01 * torch.randn(w.shape, generator=g, dtype=F64) for k, w in point.weights.items()}
        assert landscape.exact_loss(nearby, cfg, data) > point.loss


def test_onehot_pentagon_is_a_minimum_of_known_loss() -> None:
    cfg = ToyConfig(n_features=5, d_hidden=2, output_bias=False)
    W = polygon(5, 5, 0.93, 0, 0)["W_E"]
    point = landscape.critical_point(ToyModel.from_weights(cfg, {"W_E": W}), OneHot(n_features=5))
    assert point.kind == "minimum"
    assert point.loss == pytest.approx(theory.onehot_polygon_loss(5, 5) / 5, abs=1e-12)


def test_an_untrained_model_is_not_critical() -> None:
    model = ToyModel(ToyConfig(n_features=3, d_hidden=2), seed=0)
    point = landscape.critical_point(model, SparseUniform(n_features=3, feature_probability=0.1))
    assert (point.kind, point.escape) == ("not critical", None)
    assert point.gradient_norm > 1e-3
    assert point.weights["W_E"].equal(model.W_E.detach().double())


@pytest.mark.parametrize(
    ("cfg", "data", "message"),
    [
        (ToyConfig(n_features=9, d_hidden=2), SparseUniform(n_features=9, feature_probability=0.1), "stops at 8"),
        (ToyConfig(n_features=4, d_hidden=2), Copula(n_features=4, feature_probability=0.1, rho=0.2), "Copula"),
        (
            ToyConfig(n_features=4, d_hidden=2, output_act="gelu"),
            SparseUniform(n_features=4, feature_probability=0.1),
            "gelu",
        ),
        (ToyConfig(n_features=4, d_hidden=2, n_heads=1), OneHot(n_features=4), "n_heads=1"),
        (ToyConfig(n_features=4, d_hidden=2, d_out=3, tied=False), OneHot(n_features=4), "d_out=3"),
        (
            ToyConfig(n_features=4, d_hidden=2, unit_norm=True, scale="after"),
            SparseUniform(n_features=4, feature_probability=0.1),
            "scale='after'",
        ),
    ],
)
def test_what_has_no_exact_loss_is_refused(cfg: ToyConfig, data, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        landscape.critical_point(ToyModel(cfg), data)


def test_weights_that_are_not_finite_are_refused() -> None:
    cfg, data = ToyConfig(n_features=3, d_hidden=2), SparseUniform(n_features=3, feature_probability=0.1)
    bad = random_weights(cfg)
    bad["W_E"][1, 0] = float("nan")
    for call in (
        lambda: landscape.exact_loss(bad, cfg, data),
        lambda: landscape.exact_loss(bad, cfg, OneHot(n_features=3)),
        lambda: landscape.critical_point(ToyModel.from_weights(cfg, bad), data),
        lambda: landscape.loss_plane(bad, {}, {}, cfg, data, steps=(0.0,)),
    ):
        with pytest.raises(ValueError, match="weights must be finite; did the training diverge"):
            call()


def test_loss_plane_is_the_loss_and_curves_as_the_hessian_does() -> None:
    cfg, data = ToyConfig(n_features=3, d_hidden=2), SparseUniform(n_features=3, feature_probability=0.3)
    center = random_weights(cfg)
    theta = torch.cat([w.flatten() for w in center.values()])
    shapes = {name: w.shape for name, w in center.items()}
    along = torch.randn(2, len(theta), generator=torch.Generator().manual_seed(3), dtype=F64)
    first, second = (landscape.unflatten(v, shapes) for v in along)
    h = 1e-3
    plane = landscape.loss_plane(center, first, second, cfg, data, steps=(-h, 0.0, h))
    torch.testing.assert_close(plane[1, 1], landscape.exact_loss(center, cfg, data))
    hessian = torch.autograd.functional.hessian(
        lambda t: landscape.exact_loss(landscape.unflatten(t, shapes), cfg, data), theta
    )
    curvature = torch.stack([plane[1, 0] + plane[1, 2], plane[0, 1] + plane[2, 1]]) - 2 * plane[1, 1]
    mixed = (plane[2, 2] - plane[2, 0] - plane[0, 2] + plane[0, 0]) / 4
    expected = along @ hessian @ along.mT
    torch.testing.assert_close(curvature / h**2, expected.diagonal(), rtol=1e-3, atol=1e-4)  # differences err by h^2
    torch.testing.assert_close(mixed / h**2, expected[0, 1], rtol=1e-3, atol=1e-4)
    lifted = landscape.loss_plane(center, {"b_U": torch.ones(3, dtype=F64)}, {}, cfg, data, steps=(0.0, 0.5))
    up = landscape.exact_loss(center | {"b_U": center["b_U"] + 0.5}, cfg, data)
    torch.testing.assert_close(lifted[:, 1], up.expand(2))  # rows are steps along the second direction


def test_basin_of_a_square_is_wide_but_not_endless() -> None:
    p, cfg = 0.1, ToyConfig(n_features=4, d_hidden=2)
    data = SparseUniform(n_features=4, feature_probability=p)
    square = {k: w.float() for k, w in polygon(4, 4, *theory.finite_polygon(4, p)[:2], rest=0).items()}
    shares = landscape.basin_shares(
        ToyModel.from_weights(cfg, square), data, radii=(0.1, 30.0), trials=6, steps=300, optimizer=Adam(lr=0.01)
    )
    assert shares.loc[0.1, "share"] == 1
    assert shares.loc[30.0, "share"] < 1
    with pytest.raises(ValueError, match="tied=False"):
        landscape.basin_shares(ToyModel(ToyConfig(n_features=4, d_hidden=2, tied=False)), data, radii=(0.1,))


@pytest.mark.parametrize(
    ("W", "data", "kind"),
    [
        # the lost feature's logits are 0 for every input, but no longer once it turns a little to its right
        ([[1.0, 0.0], [0.0, 0.0]], SparseUniform(n_features=2, feature_probability=0.1), "kink"),
        ([[0.0, 0.0], [0.0, 0.0]], SparseUniform(n_features=2, feature_probability=0.1), "kink"),
        # at right angles, one active feature leaves the other's logit at 0
        ([[1.0, 0.0], [0.0, 1.0]], KHot(n_features=2, k=1, values="uniform"), "kink"),
        ([[1.0, 0.0], [0.0, 1.0]], OneHot(n_features=2), "kink"),
        ([[1.0, 0.0], [-1.0, 0.0]], OneHot(n_features=2), "minimum"),  # -1 is off the kink, and so are both near it
    ],
)
def test_where_second_derivatives_do_not_tell_the_answer_is_a_kink(W, data, kind: str) -> None:
    cfg = ToyConfig(n_features=2, d_hidden=2, output_bias=False)
    point = landscape.critical_point(ToyModel.from_weights(cfg, {"W_E": torch.tensor(W)}), data)
    assert (point.kind, point.escape) == (kind, None)


def test_beside_the_kink_of_a_lost_feature_the_loss_is_lower() -> None:
    cfg, data = (
        ToyConfig(n_features=2, d_hidden=2, output_bias=False),
        SparseUniform(n_features=2, feature_probability=0.1),
    )
    kink, beside = ({"W_E": torch.tensor([[1.0, 0.0], [0.0, x]], dtype=F64)} for x in (0.0, 0.1))
    assert landscape.exact_loss(beside, cfg, data) < landscape.exact_loss(kink, cfg, data) == pytest.approx(1 / 30)


def test_a_toy_without_symmetries_keeps_all_its_modes() -> None:
    """One hidden dimension cannot be rotated: 3 weights with the curvature -4v of an empty model, 3 biases with 2."""
    p, cfg = 0.2, ToyConfig(n_features=3, d_hidden=1)
    v = p / 3 - p**2 / 4
    model = ToyModel.from_weights(cfg, {"W_E": torch.zeros(3, 1), "b_U": torch.full((3,), p / 2)})
    point = landscape.critical_point(model, SparseUniform(n_features=3, feature_probability=p))
    torch.testing.assert_close(point.eigenvalues, torch.tensor([-4 * v] * 3 + [2.0] * 3, dtype=F64), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("curvature", "said", "kink"),
    [  # half of the sum of curvature x^2, whose Hessian is said to be `said`: missed is the difference of the two
        (1 + 1.5e-4, 1.0, True), (1 + 0.5e-4, 1.0, False), (100 + 0.5e-2, 100.0, False), (1.5e-8, 0.0, True),
        (0.5e-8, 0.0, False),
    ],
)  # fmt: skip
def test_what_the_hessian_misses_is_a_kink_above_a_ten_thousandth_of_it(curvature, said, kink) -> None:
    zero, eye = torch.zeros(5, dtype=F64), torch.eye(5, dtype=F64)
    assert _has_kink(lambda theta: curvature * theta.square().sum() / 2, zero, zero, said * eye) == kink


def test_a_kink_is_looked_for_at_one_distance_on_both_sides() -> None:
    """Half of relu(x_0)^2 has the curvature 1 on one side and 0 on the other."""
    seen = []

    def loss(theta: torch.Tensor) -> torch.Tensor:
        seen.append(theta.detach().clone())
        return theta[0].relu().square() / 2

    start = torch.zeros(5, dtype=F64)
    for said in (0.0, 1.0):  # right to one side of it
        hessian = torch.zeros(5, 5, dtype=F64)
        hessian[0, 0] = said
        assert _has_kink(loss, start, start, hessian)
    steps = torch.stack(seen)
    torch.testing.assert_close(steps.norm(dim=1), torch.full((len(seen),), KINK_STEP, dtype=F64), rtol=1e-9, atol=0)
    assert any(torch.equal(step, -steps[0]) for step in steps)


@pytest.mark.parametrize(
    "data",
    [SparseUniform(4, 0.3), KHot(n_features=4, k=2, values="uniform"), KHot(n_features=4, k=2), OneHot(n_features=4)],
)
def test_importance_weighs_what_each_feature_adds(data) -> None:
    cfg, importance = ToyConfig(n_features=4, d_hidden=2), torch.tensor([0.5, 1.0, 2.0, 4.0])
    weights = random_weights(cfg)
    each = exact_losses(weights, cfg, data)
    torch.testing.assert_close(exact_losses(weights, cfg, data, importance), importance * each)
    torch.testing.assert_close(landscape.exact_loss(weights, cfg, data, importance), (importance * each).sum())


def test_which_sums_over_patterns_are_known() -> None:
    eight = ToyConfig(n_features=8, d_hidden=2)
    assert no_exact_loss(eight, SparseUniform(8, 0.1)) is None
    for low, high in ((0.5, 1.0), (-1.0, 1.0), (0.0, 2.0)):
        reason = no_exact_loss(eight, SparseUniform(8, 0.1, low=low, high=high))
        assert f"low={low}, high={high}" in str(reason)


@pytest.mark.parametrize(("start", "kind"), [(1.4, "minimum"), (1.6, "not critical"), (0.7, "minimum")])
def test_a_critical_point_out_of_reach_is_not_the_model_s_own(start: float, kind: str) -> None:
    """One feature that is always 1: (1 - w^2)^2 has its minimum at w = 1, and what is more than 1/2 away is not it."""
    cfg = ToyConfig(n_features=1, d_hidden=1, output_bias=False)
    point = landscape.critical_point(ToyModel.from_weights(cfg, {"W_E": torch.tensor([[start]])}), OneHot(n_features=1))
    assert (point.kind, point.moved) == (kind, pytest.approx(abs(start - 1), abs=1e-6))


def test_one_direction_down_is_enough_for_a_saddle_and_the_steepest_names_the_feature() -> None:
    """As at every empty model: -4 v I_i along each feature's only weight, and here a step beside it."""
    p, importance = 0.2, torch.tensor([1.0, 3.0])
    v = p / 3 - p**2 / 4
    for n, escape in ((1, 0), (2, 1)):
        model = ToyModel.from_weights(
            ToyConfig(n_features=n, d_hidden=1), {"W_E": torch.full((n, 1), 0.02), "b_U": torch.full((n,), p / 2)}
        )
        point = landscape.critical_point(model, SparseUniform(n_features=n, feature_probability=p), importance[:n])
        assert (point.kind, point.escape) == ("saddle", escape)
        assert point.moved == pytest.approx(0.02 * n**0.5, abs=1e-3)
        assert point.eigenvalues[0] == pytest.approx(-4 * v * float(importance[n - 1]), rel=1e-3)


def test_flat_directions_that_are_left_count_as_those_of_a_minimum() -> None:
    """One-hot features on a circle that is longer than it need be: no neighbor's logit is above its kink."""
    n, norm = 5, 1.2 * theory.perfect_circle(5).norm
    weights = {k: w.float() for k, w in polygon(n, n, norm, 1 - norm**2, 0).items()}
    point = landscape.critical_point(ToyModel.from_weights(ToyConfig(n_features=n, d_hidden=2), weights), OneHot(n))
    assert point.kind == "minimum"
    assert int((point.eigenvalues.abs() < 1e-9).sum()) == 15 - 1 - 5  # the loss sees norm^2 + bias of each, no more


def test_a_rotation_that_moves_nothing_is_no_symmetry_to_set_aside() -> None:
    """A pair on one line in three dimensions: turns of the line are two, the one about it is none."""
    line = torch.tensor([[2.0, -1.0, 2.0]], dtype=F64) / 3
    W = torch.cat([line, -line])
    cfg, data = ToyConfig(n_features=2, d_hidden=3), OneHot(n_features=2)
    point = landscape.critical_point(ToyModel.from_weights(cfg, {"W_E": W.float(), "b_U": torch.zeros(2)}), data)
    assert len(point.eigenvalues) == 8 - 2


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_a_saddle_is_one_in_any_unit_of_the_loss(unit: float) -> None:
    """Of an empty model the spectrum is known; here one feature's weight goes down and the other's is held up."""
    p, cfg = 0.2, ToyConfig(n_features=2, d_hidden=1)
    v = p / 3 - p**2 / 4
    model = ToyModel.from_weights(cfg, {"W_E": torch.zeros(2, 1), "b_U": torch.full((2,), p / 2)})
    point = landscape.critical_point(model, SparseUniform(2, p), unit * torch.tensor([1.0, 3.0]))
    assert (point.kind, point.escape) == ("saddle", 1)
    expected = unit * torch.tensor([-12 * v, -4 * v, 2.0, 6.0], dtype=F64)
    torch.testing.assert_close(point.eigenvalues, expected, rtol=1e-5, atol=0)
