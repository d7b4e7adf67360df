"""Names of polytopes: every ideal shape, moved and shaken, keeps its name; what is near none is unknown."""

import math
from itertools import permutations

import pytest
import torch

from tms_hooks.geometry import ideal_polytopes, name_polytope, polytopes
from tms_hooks.geometry.measures import rotate_onto
from tms_hooks.geometry.polytopes import MAX_DISTANCE, _distance, named_polytope
from tms_hooks.linalg import unit

IDEALS = {name: V for k in range(1, 13) for name, V in ideal_polytopes(k).items()} | {
    "dodecahedron": ideal_polytopes(20)["dodecahedron"]
}


def moved(V: torch.Tensor, seed: int, noise: float = 0.0, spare_dims: int = 0) -> torch.Tensor:
    """Rotated or reflected, permuted, rescaled row by row, shaken, put into a wider space."""
    g = torch.Generator().manual_seed(seed)
    V = torch.nn.functional.pad(V, (0, spare_dims))
    rotation = torch.linalg.qr(torch.randn(V.shape[1], V.shape[1], generator=g, dtype=torch.float64)).Q
    scale = 0.7 + torch.rand(len(V), 1, generator=g, dtype=torch.float64)
    shaken = V + noise * torch.randn(V.shape, generator=g, dtype=torch.float64)
    return (scale * shaken @ rotation)[torch.randperm(len(V), generator=g)]


@pytest.mark.parametrize("name", IDEALS)
def test_ideal_shapes_are_recognized(name: str) -> None:
    V = IDEALS[name]
    torch.testing.assert_close(V.norm(dim=1), torch.ones(len(V), dtype=torch.float64))
    [exact] = polytopes(moved(V, seed=0))
    assert exact.name == name
    assert exact.distance < 1e-6
    for seed in range(3):
        assert name_polytope(moved(V, seed)) == name
        assert name_polytope(moved(V, seed, spare_dims=2)) == name
        assert name_polytope(moved(V, seed, noise=0.03)) == name


def test_a_shape_in_single_precision() -> None:
    assert name_polytope(IDEALS["square antiprism"].float()) == "square antiprism"


@pytest.mark.parametrize("name", ["tricapped triangular prism", "icosahedron", "nonagon", "5-orthoplex", "5-simplex"])
def test_distance_is_the_size_of_the_noise(name: str) -> None:
    # Noise s in each coordinate moves a unit vector by s in each of its d - 1 tangent directions; fitting the rotation
    # takes away d (d - 1) / 2 of those k (d - 1) degrees of freedom.
    V, s = IDEALS[name], 0.01
    k, d = V.shape
    found = [polytopes(moved(V, seed, noise=s))[0].distance ** 2 for seed in range(40)]
    expected = s**2 * (d - 1) * (1 - d / (2 * k))
    assert sum(found) / 40 == pytest.approx(expected, rel=0.15)  # 40 x k (d - 1) squares: three standard errors


@pytest.mark.parametrize("name", ["square", "pentagon", "tetrahedron"])
def test_distance_is_the_least_over_all_ways_to_match_the_vertices(name: str) -> None:
    """Also where the shape is hardly one any more, and the first vertex that is tried is not the best to begin with."""
    V = IDEALS[name]
    for seed in range(12):
        shaken = unit(moved(V, seed, noise=0.45))
        copies = shaken[torch.tensor(list(permutations(range(len(V)))))]
        least = (rotate_onto(copies, V) - V).square().sum(-1).mean(-1).sqrt().min()
        assert _distance(shaken, V) == pytest.approx(float(least), abs=1e-9)


def test_heights_make_tight_frames() -> None:
    for name in (
        "triangular prism",
        "square antiprism",
        "tricapped triangular prism",
        "gyroelongated square bipyramid",
    ):
        V = IDEALS[name]
        torch.testing.assert_close(V.mT @ V, len(V) / 3 * torch.eye(3, dtype=torch.float64))


def test_features_that_share_a_direction_make_one_vertex() -> None:
    pentagon = IDEALS["pentagon"]
    W = torch.cat([pentagon, 0.9 * pentagon[:2], 0.1 * pentagon])
    [shape] = polytopes(W)
    assert (shape.name, shape.vertices) == ("pentagon", [[0, 5], [1, 6], [2], [3], [4]])


def test_tegum_products() -> None:
    digon, triangle, tetrahedron, point = (IDEALS[n] for n in ("digon", "triangle", "tetrahedron", "point"))
    assert name_polytope(torch.block_diag(digon, digon)) == "square"
    assert name_polytope(torch.block_diag(digon, triangle)) == "triangular bipyramid"
    assert name_polytope(torch.block_diag(digon, digon, digon, digon)) == "16-cell"
    assert name_polytope(torch.block_diag(triangle, tetrahedron, triangle)) == "tetrahedron + 2 x triangle"
    assert name_polytope(torch.block_diag(point, point, point)) == "3 x point"
    assert name_polytope(torch.block_diag(point, digon, IDEALS["pentagon"])) == "pentagon + digon + point"


def test_unknown_and_empty() -> None:
    right_angle_and_half = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    assert name_polytope(right_angle_and_half) == "unknown"
    [shape] = polytopes(right_angle_and_half)
    # Two unit vectors at an angle t are each (pi - t) / 2 from the nearest antipodal pair.
    t = math.acos(0.8)
    assert shape.distance == pytest.approx(2 * math.sin((math.pi - t) / 4), abs=1e-6)
    assert name_polytope(torch.zeros(3, 2)) == "empty"
    for shape_of_W in ((13, 4), (400, 30)):
        random = torch.randn(*shape_of_W, generator=torch.Generator().manual_seed(0))
        assert name_polytope(10 * random) == "unknown"


def test_irregular_pentagon_is_named_within_tolerance_only() -> None:
    def stretched(by: float) -> torch.Tensor:
        return IDEALS["pentagon"] * torch.tensor([1.0, by], dtype=torch.float64)

    assert name_polytope(stretched(1.1)) == "pentagon"
    assert name_polytope(stretched(2.5)) == "unknown"
    assert MAX_DISTANCE < polytopes(stretched(2.5))[0].distance < 0.5


@pytest.mark.parametrize(
    ("name", "cosines"),
    [
        # nearest neighbors by hand: rings of radius r at heights h and -h, turned against each other by half a side
        ("square antiprism", {1 / 3: 8, 2 / 3 * 0.5**0.5 - 1 / 3: 8}),  # r^2 = 2/3; 1/3 is within a ring
        ("gyroelongated square bipyramid", {5 / 6 * 0.5**0.5 - 1 / 6: 8}),  # r^2 = 5/6
        ("tricapped triangular prism", {0.5 * 0.5**0.5: 12}),  # a cap sees four corners, 60 degrees beside each
    ],
)
def test_rings_are_turned_against_each_other(name: str, cosines: dict[float, int]) -> None:
    V = IDEALS[name]
    found = (V @ V.mT)[tuple(torch.triu_indices(len(V), len(V), 1))]
    for cosine, edges in cosines.items():
        assert int(((found - cosine).abs() < 1e-12).sum()) == edges


FAMILIES = {
    1: ["point"], 2: ["digon"], 3: ["triangle"], 4: ["square", "tetrahedron"],
    5: ["pentagon", "5-cell", "triangular bipyramid"], 6: ["hexagon", "5-simplex", "octahedron", "triangular prism"],
    7: ["heptagon", "6-simplex", "pentagonal bipyramid"],
    8: ["octagon", "7-simplex", "16-cell", "hexagonal bipyramid", "square antiprism", "cube"],
    9: ["nonagon", "8-simplex", "heptagonal bipyramid", "tricapped triangular prism"],
    10: ["decagon", "9-simplex", "5-orthoplex", "octagonal bipyramid", "gyroelongated square bipyramid"],
    11: ["11-gon", "10-simplex", "nonagonal bipyramid"],
    12: ["12-gon", "11-simplex", "6-orthoplex", "decagonal bipyramid", "icosahedron", "cuboctahedron"],
    13: ["13-gon", "12-simplex"], 14: ["14-gon", "13-simplex", "7-orthoplex"],
}  # fmt: skip


@pytest.mark.parametrize("k", FAMILIES)
def test_every_number_of_vertices_has_these_ideals(k: int) -> None:
    """Simplices have one dimension less than vertices, orthoplexes half as many, all the rest but polygons three."""
    ideals = ideal_polytopes(k)
    assert list(ideals) == FAMILIES[k]
    for name, V in ideals.items():
        spanned = int(torch.linalg.matrix_rank(V))
        flat = name in (f"{k}-gon", FAMILIES[k][0]) and k > 2
        simplex = "simplex" in name or name in ("tetrahedron", "5-cell", "digon")
        orthoplex = "orthoplex" in name or name in ("octahedron", "16-cell")
        wanted = 2 if flat else k - 1 if simplex else k // 2 if orthoplex else min(k, 3)
        assert V.shape[1] == spanned == wanted
    with pytest.raises(ValueError, match="n_vertices=0: must be at least 1"):
        ideal_polytopes(0)


@pytest.mark.parametrize(("distance", "name"), [(0.14, "digon"), (0.16, "unknown")])
def test_a_shape_has_its_name_up_to_the_largest_distance(distance: float, name: str) -> None:
    """Two directions at the angle t are 2 sin((pi - t) / 4) from a digon."""
    t = math.pi - 4 * math.asin(distance / 2)
    W = torch.tensor([[1.0, 0.0], [math.cos(t), math.sin(t)]], dtype=torch.float64)
    assert polytopes(W)[0].distance == pytest.approx(distance)
    assert name_polytope(W) == name


def test_features_above_one_half_are_represented_by_default() -> None:
    for function in (name_polytope, named_polytope):
        assert function(0.51 * IDEALS["pentagon"]) == "pentagon" and function(0.49 * IDEALS["pentagon"]) == "empty"
    assert [shape.name for shape in polytopes(0.51 * IDEALS["pentagon"])] == ["pentagon"]
