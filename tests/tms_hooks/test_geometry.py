"""Geometry: every fixture worked by hand, and invariances."""

import math

import pytest
import torch

from tms_hooks import errors, geometry
from tms_hooks.geometry import ideal_polytopes
from tms_hooks.linalg import random_rotations

# D_i of an equal-norm tight frame is d_hidden / n_features; a tegum product has the D_i of its factors.
EXACT = {
    "digon": [1 / 2] * 2,
    "triangle": [2 / 3] * 3,
    "square": [1 / 2] * 4,
    "pentagon": [2 / 5] * 5,
    "hexagon": [1 / 3] * 6,
    "heptagon": [2 / 7] * 7,
    "tetrahedron": [3 / 4] * 4,
    "octahedron": [1 / 2] * 6,
    "icosahedron": [1 / 4] * 12,
    "square antiprism": [3 / 8] * 8,
    "triangular bipyramid": [2 / 3] * 3 + [1 / 2] * 2,
    "pentagonal bipyramid": [2 / 5] * 5 + [1 / 2] * 2,
}


def shape(name: str) -> torch.Tensor:
    return next(V for k in range(1, 21) for ideal, V in ideal_polytopes(k).items() if ideal == name)


def random_rotation(d: int, seed: int) -> torch.Tensor:
    return random_rotations(d, 1, seed)[0]


def noise(shape: torch.Size, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", EXACT)
def test_dimensionality_of_ideal_shapes(name: str) -> None:
    W = shape(name)
    expected = torch.tensor(EXACT[name], dtype=torch.float64)
    torch.testing.assert_close(geometry.dimensionality(W), expected)
    torch.testing.assert_close(geometry.dimensionality(1e-60 * W @ random_rotation(W.shape[1], 0)), expected)


def test_dimensionality_by_hand() -> None:
    # Features of norm 1 and 2, 60 degrees apart: (W_0 . W_1)^2 = 1, so D_0 = 1 / (1 + 1), D_1 = 4 / (4 + 1/4).
    W = torch.tensor([[1.0, 0.0], [1.0, math.sqrt(3)], [0.0, 0.0]])
    torch.testing.assert_close(geometry.dimensionality(W), torch.tensor([1 / 2, 16 / 17, 0.0]))
    torch.testing.assert_close(geometry.interference(W), torch.tensor([1.0, 1 / 4, 0.0]))
    torch.testing.assert_close(geometry.dimensions_per_feature(W), torch.tensor(2 / 5))
    torch.testing.assert_close(geometry.dimensions_per_feature(torch.stack([W, 2 * W])), torch.tensor([2 / 5, 1 / 10]))


@pytest.mark.parametrize("function", [geometry.dimensionality, geometry.interference, geometry.feature_norms])
def test_measures_see_no_rotation_follow_permutations_and_keep_models_apart(function) -> None:
    W = noise(torch.Size([3, 7, 4]), seed=1)
    perm = torch.tensor([4, 1, 0, 6, 5, 2, 3])
    torch.testing.assert_close(function(W @ random_rotation(4, 2)), function(W))
    torch.testing.assert_close(function(W[:, perm]), function(W)[:, perm])
    torch.testing.assert_close(function(W)[1], function(W[1]))
    torch.testing.assert_close(function(W[:, None].expand(3, 2, 7, 4))[:, 1], function(W))
    flipped = W * torch.tensor([1.0, -1, 1, 1, -1, 1, 1])[:, None]
    torch.testing.assert_close(function(flipped), function(W))


def test_interference_is_the_off_diagonal_gram() -> None:
    W = noise(torch.Size([6, 3]), seed=3)
    loop = [sum((float(W[i] @ W[j]) / float(W[i].norm())) ** 2 for j in range(6) if j != i) for i in range(6)]
    torch.testing.assert_close(geometry.interference(W), torch.tensor(loop, dtype=torch.float64))
    torch.testing.assert_close(geometry.gram(W).diagonal(), geometry.feature_norms(W).square())
    own = geometry.feature_norms(W).square()
    torch.testing.assert_close(geometry.dimensionality(W), own / (own + geometry.interference(W)))


def test_sum_of_dimensionalities_is_at_most_the_rank() -> None:
    W = noise(torch.Size([50, 9, 4]), seed=4)
    assert (geometry.dimensionality(W).sum(-1) <= 4 + 1e-12).all()


def test_directions_shared_dead_and_stacked() -> None:
    five = shape("pentagon")
    W = torch.cat([five, 0.8 * five[:2], 0.01 * five])
    assert geometry.directions(W) == [[0, 5], [1, 6], [2], [3], [4]]
    assert geometry.count_directions(torch.stack([W, 0.6 * W, 0 * W])).tolist() == [5, 5, 0]
    assert geometry.count_directions(W, min_norm=0.001).item() == 5
    assert geometry.count_directions(W[None, None]).shape == (1, 1)
    assert geometry.represented(W).sum() == 7


@pytest.mark.parametrize(("degrees", "count"), [(0.0, 1), (4.99, 1), (5.01, 2), (90.0, 2), (180.0, 2)])
def test_two_features_share_a_direction_up_to_five_degrees(degrees: float, count: int) -> None:
    angle = math.radians(degrees)
    W = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    assert geometry.directions(W) == ([[0, 1]] if count == 1 else [[0], [1]])


def test_a_stack_of_no_models_has_no_answers() -> None:
    assert geometry.dimensionality(torch.zeros(0, 3, 2)).shape == (0, 3)
    assert geometry.count_directions(torch.zeros(0, 3, 2)).shape == (0,)


def test_direction_tolerance_does_not_chain_a_ring() -> None:
    """Neighbors 3 degrees apart: single linkage would call it one direction."""
    assert 60 <= geometry.count_directions(shape("triangle").new_tensor(_ring(120))).item() <= 120


def _ring(k: int) -> list[list[float]]:
    return [[math.cos(2 * math.pi * i / k), math.sin(2 * math.pi * i / k)] for i in range(k)]


def test_tegum_factors_of_a_product() -> None:
    W = torch.block_diag(shape("triangle"), shape("digon"), shape("tetrahedron"), torch.zeros(1, 1))
    perm = torch.randperm(len(W), generator=torch.Generator().manual_seed(5))
    rotated = W[perm] @ random_rotation(W.shape[1], 6)
    label = torch.tensor([0] * 3 + [1] * 2 + [2] * 4 + [3])[perm]
    factors = geometry.tegum_factors(rotated)
    assert sorted(map(len, factors)) == [2, 3, 4]
    assert all(len(label[factor].unique()) == 1 for factor in factors)
    assert geometry.tegum_factors(0 * W) == []


def test_rotate_onto_undoes_a_rotation_and_is_the_best_one() -> None:
    W = noise(torch.Size([4, 6, 3]), seed=7)
    torch.testing.assert_close(geometry.rotate_onto(W @ random_rotation(3, 8), W), W)
    target = noise(torch.Size([6, 3]), seed=9)
    best = (geometry.rotate_onto(W[0], target) - target).norm()
    others = torch.stack([(W[0] @ random_rotation(3, s) - target).norm() for s in range(200)])
    assert best < others.min()


def test_bad_weights_are_refused() -> None:
    bad = torch.ones(2, 3)
    bad[1, 2] = math.nan
    for function in (geometry.gram, geometry.dimensionality, geometry.count_directions, geometry.name_polytope):
        with pytest.raises(ValueError, match=r"W\[1, 2\] = nan"):
            function(bad)
    with pytest.raises((ValueError, TypeError), match=r"(feature hidden|rows of)"):
        geometry.gram(torch.ones(3))
    with pytest.raises((ValueError, TypeError)):
        geometry.tegum_factors(torch.ones(2, 3, 4))


def test_a_feature_of_exactly_the_cut_off_is_not_represented() -> None:
    W = torch.tensor([[0.5, 0.0], [0.0, 0.5000001]])
    assert geometry.represented(W).tolist() == [False, True]
    assert geometry.represented(W, min_norm=0.0).tolist() == [True, True]


def test_only_more_dimensions_than_features_raise_the_question_of_columns(caplog) -> None:
    for shape, asked in (((41, 41), False), ((41, 42), True), ((42, 41), False)):
        errors.say_once.cache_clear()
        caplog.clear()
        geometry.dimensionality(noise(torch.Size(shape), seed=0))
        assert ("W.mT here" in caplog.text) == asked


@pytest.mark.parametrize(("cosine", "joined"), [(0.05, False), (0.1, False), (0.11, True), (-0.11, True), (0.19, True)])
def test_features_are_orthogonal_up_to_a_cosine_of_a_tenth(cosine: float, joined: bool) -> None:
    W = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]], dtype=torch.float64)
    assert geometry.tegum_factors(W) == ([[0, 1]] if joined else [[0], [1]])


def test_opposite_features_have_two_directions_though_they_are_apart_by_more_than_two_for_rounding() -> None:
    for dtype in (torch.float32, torch.float64):
        for v in noise(torch.Size([100, 5]), seed=10).to(dtype):
            assert geometry.directions(torch.stack([v, -v]), min_norm=0.0) == [[0], [1]]


def test_the_gradient_of_dimensionality_is_finite_where_a_feature_is_dead() -> None:
    W = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    [gradient] = torch.autograd.grad(geometry.dimensionality(W)[0], W)
    # D_0 = |W_0|^2 / (|W_0|^2 + (W_0/|W_0| . W_2)^2) = a^2 / (a^2 + 1) for W_0 = (a, 0): its slope at a = 1 is 1/2
    torch.testing.assert_close(gradient[:2, 0], torch.tensor([0.5, 0.0], dtype=torch.float64))
    assert gradient.isfinite().all()


def test_features_above_one_half_are_represented_by_default() -> None:
    W = torch.tensor([[0.51, 0.0], [-0.51, 0.0], [0.0, 0.49]])
    assert geometry.represented(W).tolist() == [True, True, False]
    assert geometry.directions(W) == [[0], [1]]
    assert geometry.tegum_factors(W) == [[0, 1]]
    assert geometry.count_directions(W).item() == 2
