"""Edges of numbers in geometry and theory: weights of no rank and of any size are measured right, or refused."""

import pytest
import torch

from tms_hooks import SparseUniform, geometry, linalg, theory

F64 = torch.float64


def some(n: int = 5, d: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=F64).to(dtype)


SCALES = [(2.0**100, torch.float32), (2.0**-100, torch.float32), (2.0**700, F64), (2.0**-700, F64)]


@pytest.mark.parametrize(("scale", "dtype"), SCALES)
def test_what_has_no_scale_is_the_same_to_the_bit_however_large_or_small_the_weights(scale, dtype) -> None:
    W, R = some(dtype=dtype), some(dtype=dtype).flip(0)
    same = torch.testing.assert_close
    for f in (geometry.dimensionality, theory.pretty_good_measurement, linalg.unit, linalg.cosines, linalg.overlaps):
        assert f(scale * W).equal(f(W)), f
    assert geometry.rotate_onto(scale * W, scale * R).equal(scale * geometry.rotate_onto(W, R))
    assert geometry.directions(scale * W, scale / 2) == geometry.directions(W, 0.5)
    assert geometry.tegum_factors(scale * W, scale / 2) == geometry.tegum_factors(W, 0.5)
    assert geometry.polytopes(scale * W, scale / 2) == geometry.polytopes(W, 0.5)
    for (name, found), wanted in zip(
        theory.readout_cosines(scale * W, scale * W.mT).items(), theory.readout_cosines(W, W.mT).values(), strict=True
    ):
        same(found, wanted, msg=name)


@pytest.mark.parametrize(("scale", "dtype"), SCALES)
def test_what_has_a_scale_takes_it_exactly(scale, dtype) -> None:
    W = some(dtype=dtype)
    assert geometry.feature_norms(scale * W).equal(scale * geometry.feature_norms(W))
    assert theory.dual_frame(scale * W).equal(theory.dual_frame(W) / scale)


def test_an_antipodal_pair_has_half_a_dimension_each_up_to_the_largest_number() -> None:
    pair = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    for size in (1e20, 3e38, 1e-20, 1e-42):
        torch.testing.assert_close(geometry.dimensionality(size * pair), torch.tensor([0.5, 0.5]))


def test_numbers_that_do_not_fit_are_refused_or_infinite_and_never_nan() -> None:
    W = 1e20 * some()
    with pytest.raises(ValueError, match=r"largest weight .*e\+20: its square overflows torch.float32; divide W"):
        geometry.gram(W)
    assert geometry.interference(W).equal(torch.full((5,), torch.inf))
    for readers in (theory.dual_frame, theory.one_sided_dual_frame):
        with pytest.raises(ValueError, match=r"its inverse overflows torch.float32; use V.double\(\)"):
            readers(1e-42 * some())
        assert readers(1e-42 * some().double()).isfinite().all()
    with pytest.raises(ValueError, match=r"its square overflows; divide W_E by it"):
        theory.qk_optimum(1e200 * some().double(), SparseUniform(n_features=5, feature_probability=0.5), [(0, 1)])
    for shape in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="at least one of each"):
            geometry.dimensionality(torch.zeros(shape))


def test_nothing_learned_and_copies_of_one_direction() -> None:
    zeros, copies = torch.zeros(4, 3), torch.ones(4, 3)
    assert geometry.name_polytope(zeros) == "empty" and geometry.name_polytope(copies) == "point"
    assert geometry.dimensionality(zeros).equal(zeros[:, 0])
    torch.testing.assert_close(geometry.dimensionality(copies), torch.full((4,), 0.25))
    assert geometry.dimensions_per_feature(zeros) == torch.inf
    assert geometry.interference(zeros).equal(zeros[:, 0])
    torch.testing.assert_close(geometry.interference(copies), torch.full((4,), 9.0))
    assert geometry.rotate_onto(zeros, copies).equal(zeros)
    for readers in (theory.dual_frame, theory.one_sided_dual_frame, theory.pretty_good_measurement):
        assert readers(zeros).equal(zeros)  # of all least-squares readers the shortest
    # u = pinv(V)^T: each copy is read at 1/4, and together they read 1
    torch.testing.assert_close(theory.dual_frame(copies), torch.full((4, 3), 1 / 12))
    assert all(c.equal(zeros[:, 0]) for c in theory.readout_cosines(zeros, zeros.mT).values())
    data = SparseUniform(n_features=4, feature_probability=0.5)
    assert theory.qk_optimum(zeros, data, [(0, 1)], rank=2).equal(torch.zeros(3, 3, dtype=F64))
    assert torch.linalg.matrix_rank(theory.qk_optimum(copies, data, [(0, 1)])) == 1


R = 0.5**0.5
DEGENERATE = {  # what each function gives for weights without rank, worked by hand
    "zeros": (torch.zeros(3, 2), {
        "gram": torch.zeros(3, 3), "feature_norms": [0, 0, 0], "interference": [0, 0, 0], "dimensionality": [0, 0, 0],
        "dimensions_per_feature": torch.inf, "represented": [False] * 3, "directions": [], "count_directions": 0,
        "tegum_factors": [], "polytopes": [], "name_polytope": "empty",
    }),
    "copies": (torch.ones(3, 2), {
        "gram": torch.full((3, 3), 2.0), "feature_norms": [2**0.5] * 3, "interference": [4, 4, 4],
        "dimensionality": [1 / 3] * 3, "dimensions_per_feature": 1 / 3, "represented": [True] * 3,
        "directions": [[0, 1, 2]], "count_directions": 1, "tegum_factors": [[0, 1, 2]],
        "polytopes": [("point", [[0, 1, 2]])], "name_polytope": "point",
    }),
    "opposite copies": (torch.tensor([[R, R], [R, R], [-R, -R]]), {
        "gram": torch.tensor([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]]), "feature_norms": [1, 1, 1],
        "interference": [2, 2, 2], "dimensionality": [1 / 3] * 3, "dimensions_per_feature": 2 / 3,
        "represented": [True] * 3, "directions": [[0, 1], [2]], "count_directions": 2, "tegum_factors": [[0, 1, 2]],
        "polytopes": [("digon", [[0, 1], [2]])], "name_polytope": "digon",
    }),
    "one feature": (torch.tensor([[0.0, 3.0]]), {
        "gram": torch.tensor([[9.0]]), "feature_norms": [3], "interference": [0], "dimensionality": [1],
        "dimensions_per_feature": 2 / 9, "represented": [True], "directions": [[0]], "count_directions": 1,
        "tegum_factors": [[0]], "polytopes": [("point", [[0]])], "name_polytope": "point",
    }),
    "one dimension": (torch.tensor([[2.0], [-1.0], [0.0]]), {
        "gram": torch.tensor([[4.0, -2, 0], [-2, 1, 0], [0, 0, 0]]), "feature_norms": [2, 1, 0],
        "interference": [1, 4, 0], "dimensionality": [4 / 5, 1 / 5, 0], "dimensions_per_feature": 1 / 5,
        "represented": [True, True, False], "directions": [[0], [1]], "count_directions": 2,
        "tegum_factors": [[0, 1]], "polytopes": [("digon", [[0], [1]])], "name_polytope": "digon",
    }),
    "one feature in one dimension": (torch.tensor([[-1.0]]), {
        "gram": torch.ones(1, 1), "feature_norms": [1], "interference": [0], "dimensionality": [1],
        "dimensions_per_feature": 1, "represented": [True], "directions": [[0]], "count_directions": 1,
        "tegum_factors": [[0]], "polytopes": [("point", [[0]])], "name_polytope": "point",
    }),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kind", DEGENERATE)
def test_every_function_of_geometry_on_weights_without_rank(kind: str, dtype: torch.dtype) -> None:
    W, expected = DEGENERATE[kind]
    rest = {"ORTHOGONAL", "Polytope", "check_weights", "ideal_polytopes", "rotate_onto"}
    assert set(geometry.__all__) - rest == set(expected)
    for name, wanted in expected.items():
        found = getattr(geometry, name)(W.to(dtype))
        if name == "polytopes":
            assert [(shape.name, shape.vertices) for shape in found] == wanted
            assert all(shape.distance < 1e-6 for shape in found)
        elif isinstance(found, torch.Tensor):
            torch.testing.assert_close(found, torch.as_tensor(wanted, dtype=found.dtype), msg=name)
        else:
            assert found == wanted, name
    for target in (W, -W, 0 * W):  # a rotation keeps lengths and angles whatever it is to reach
        turned = geometry.rotate_onto(W.to(dtype), target.to(dtype))
        torch.testing.assert_close(turned @ turned.mT, (W @ W.mT).to(dtype))
    torch.testing.assert_close(geometry.rotate_onto(W.to(dtype), -W.to(dtype)), -W.to(dtype))


def test_what_rounding_adds_to_a_direction_is_no_dimension_to_read_along() -> None:
    """Opposite features are read without error behind a ReLU; the second column is the last digit of the first."""
    V = torch.tensor([[1.0, 3e-16], [-1.0, 3e-16]], dtype=F64)
    torch.testing.assert_close(theory.one_sided_dual_frame(V), torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=F64))
