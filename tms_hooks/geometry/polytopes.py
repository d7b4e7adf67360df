"""From weights to the name of a polytope: match the feature directions with ideal shapes of as many vertices.

The vertices are the distinct directions of the represented features, at unit length: features that share a direction
make one vertex, and norms play no part. Each ideal shape with as many vertices is laid over them as well as a rotation
can, and the nearest one gives the name if it is near enough. Which vertex belongs to which is found by comparing angles
within the model with angles within the ideal, which no rotation changes; then the rotation has a closed form.
"""

from collections import Counter
from functools import cache, partial
from itertools import permutations, product
from math import pi
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks.geometry.measures import directions, hint_at_columns, rotate_onto, tegum_factors
from tms_hooks.linalg import takes_arrays, unit

MAX_DISTANCE = 0.15
"""Distance up to which directions have the name of an ideal shape: 8.6 degrees from each of its vertices."""

_tensor = partial(torch.tensor, dtype=torch.float64)
_NAMES = ("triangle", "square", "pentagon", "hexagon", "heptagon", "octagon", "nonagon", "decagon")
_GON = dict(enumerate(_NAMES, start=3))


class Polytope(NamedTuple):
    """A shape that some features of a model make."""

    name: str
    """Name of the ideal shape, or "unknown"."""
    distance: float
    """Root-mean-square distance of the unit directions from the ideal's vertices, after the best rotation; infinite if
    no ideal with as many vertices fits into the hidden layer."""
    vertices: list[list[int]]
    """Features at each vertex."""


@takes_arrays
def name_polytope(W: Float[Tensor, "feature hidden"], min_norm: float = 0.5) -> str:
    """Name of the polytope that the represented features of one model make.

    A model whose directions, all together, lie within `MAX_DISTANCE` of an ideal shape has that shape's name, though it
    may be a tegum product: "square" is two digons, "octahedron" three, "triangular bipyramid" a triangle and a digon.
    Otherwise its tegum factors are named one by one, "tetrahedron + 2 x triangle": largest first, with "unknown" where
    no ideal shape is near. A "point" has its dimension to itself. A model that represents nothing is "empty".

    The name does not change under rotation, reflection, permutation, scale (above `min_norm`), or noise well below
    `MAX_DISTANCE`.

    >>> name_polytope(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    'square'
    >>> name_polytope(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))
    'digon + point'
    """
    hint_at_columns(W)
    return named_polytope(W, min_norm)


def named_polytope(W: Float[Tensor, "feature hidden"], min_norm: float = 0.5) -> str:
    """As `name_polytope`, of weights that are known to have directions as rows: it gives no hint."""
    shapes = _polytopes(W, min_norm)
    if not shapes:
        return "empty"
    sizes = {shape.name: len(shape.vertices) for shape in reversed(shapes)}
    counts = Counter(shape.name for shape in shapes)
    largest_first = sorted(counts, key=lambda name: (-sizes[name], name))
    return " + ".join(f"{counts[name]} x {name}" if counts[name] > 1 else name for name in largest_first)


@takes_arrays
def polytopes(W: Float[Tensor, "feature hidden"], min_norm: float = 0.5) -> list[Polytope]:
    """The one shape that all represented features of a model make, or else one shape per tegum factor.

    >>> [shape] = polytopes(torch.tensor([[2.0, 0.0], [-1.0, 0.0], [-1.1, 0.0], [0.0, 0.1]]))
    >>> shape.name, shape.vertices
    ('digon', [[0], [1, 2]])
    """
    hint_at_columns(W)
    return _polytopes(W, min_norm)


def _polytopes(W: Float[Tensor, "feature hidden"], min_norm: float) -> list[Polytope]:
    vertices = directions(W, min_norm)
    if not vertices:
        return []
    whole = _nearest(W, vertices)
    if whole.distance <= MAX_DISTANCE:
        return [whole]
    factors = [set(factor) for factor in tegum_factors(W, min_norm)]
    shapes = [_nearest(W, [v for v in vertices if not factor.isdisjoint(v)]) for factor in factors]
    return [shape if shape.distance <= MAX_DISTANCE else shape._replace(name="unknown") for shape in shapes]


@cache
def ideal_polytopes(n_vertices: int) -> dict[str, Float[Tensor, "vertex hidden"]]:
    """Ideal shapes of that many vertices, as unit vectors in the space they span.

    Where symmetry leaves a free height, it is the one that makes all D_i equal: the vertices are a tight frame.

    >>> sorted(ideal_polytopes(6))
    ['5-simplex', 'hexagon', 'octahedron', 'triangular prism']
    """
    k = n_vertices
    if k < 1:
        raise ValueError(f"n_vertices={k}: must be at least 1")
    digon = _tensor([[1], [-1]])
    if k <= 2:
        return {"point": digon[:1]} if k == 1 else {"digon": digon}
    shapes = {_GON.get(k, f"{k}-gon"): _ring(k)}
    if k > 3:
        shapes[{4: "tetrahedron", 5: "5-cell"}.get(k, f"{k - 1}-simplex")] = _simplex(k)
    if k >= 6 and k % 2 == 0:
        shapes[{6: "octahedron", 8: "16-cell"}.get(k, f"{k // 2}-orthoplex")] = torch.eye(
            k // 2, dtype=torch.float64
        ).kron(digon)
    if k - 2 in _GON and k != 6:  # the square bipyramid is the octahedron
        base = "triangular" if k == 5 else f"{_GON[k - 2]}al"
        shapes[f"{base} bipyramid"] = torch.cat([_ring(k - 2, height=0.0), _POLES])
    return shapes | {name: V for name, V in _polyhedra().items() if len(V) == k}


def _polyhedra() -> dict[str, Float[Tensor, "vertex hidden"]]:
    """Three-dimensional shapes that belong to no family above. Heights follow from sum z^2 = vertices / 3."""
    golden = (1 + 5**0.5) / 2
    corners = _tensor(list(product((1, -1), repeat=3)))
    return {
        "triangular prism": torch.cat([_ring(3, 3**-0.5), _ring(3, -(3**-0.5))]),
        "square antiprism": torch.cat([_ring(4, 3**-0.5), _ring(4, -(3**-0.5), turn=pi / 4)]),
        "cube": corners / 3**0.5,
        "tricapped triangular prism": torch.cat([_ring(3, 2**-0.5), _ring(3, -(2**-0.5)), _ring(3, 0.0, turn=pi / 3)]),
        "gyroelongated square bipyramid": torch.cat([_ring(4, 6**-0.5), _ring(4, -(6**-0.5), turn=pi / 4), _POLES]),
        "icosahedron": _rectangles(1.0, golden),
        "cuboctahedron": _rectangles(1.0, 1.0),
        "dodecahedron": torch.cat([corners / 3**0.5, _rectangles(1 / golden, golden)]),
    }


def _ring(k: int, height: float | None = None, turn: float = 0.0) -> Float[Tensor, "vertex hidden"]:
    """Regular polygon, in the plane or at a height of the unit sphere."""
    angle = turn + 2 * pi / k * torch.arange(k, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    if height is None:
        return circle
    return torch.cat([(1 - height**2) ** 0.5 * circle, torch.full((k, 1), height, dtype=torch.float64)], dim=1)


def _simplex(k: int) -> Float[Tensor, "vertex hidden"]:
    """The k unit vectors of R^k, their mean taken away, in coordinates of the k - 1 dimensions that they span."""
    centered = torch.eye(k, dtype=torch.float64) - 1 / k
    return unit(centered @ torch.linalg.eigh(centered).eigenvectors[:, 1:])


def _rectangles(a: float, b: float) -> Float[Tensor, "vertex hidden"]:
    """(0, +-a, +-b) and its cyclic permutations, at unit length."""
    corners = _tensor([[0, i * a, j * b] for i, j in product((1, -1), repeat=2)])
    return unit(torch.cat([corners.roll(shift, dims=1) for shift in range(3)]))


_POLES = _tensor([[0, 0, 1], [0, 0, -1]])


def _nearest(W: Float[Tensor, "feature hidden"], vertices: list[list[int]]) -> Polytope:
    """The ideal shape nearest to these directions."""
    features = unit(W)
    V = unit(torch.stack([features[group].mean(0) for group in vertices]))
    ideals = {name: ideal for name, ideal in ideal_polytopes(len(V)).items() if ideal.shape[1] <= V.shape[1]}
    distances = {name: _distance(V, ideal) for name, ideal in ideals.items()}
    name = min(distances, key=distances.__getitem__, default="unknown")
    return Polytope(name, distances.get(name, float("inf")), vertices)


def _distance(V: Float[Tensor, "vertex hidden"], ideal: Float[Tensor, "vertex axis"]) -> float:
    """Root-mean-square distance between the rows of `V` and of `ideal`, after the best matching and rotation found."""
    from scipy.optimize import linear_sum_assignment

    spatial = ideal.shape[1] == 3
    ideal = torch.nn.functional.pad(ideal, (0, V.shape[1] - ideal.shape[1]))
    laid_over, rms = _lay_over(V[_matchings(V @ V.mT, ideal @ ideal.mT, every_start=spatial)], ideal)
    best = laid_over[rms.argmin()]
    _, order = linear_sum_assignment(ideal @ best.mT, maximize=True)
    return min(float(rms.min()), float(_lay_over(best[order], ideal)[1]))


def _matchings(
    G: Float[Tensor, "vertex vertex"], ideal: Float[Tensor, "vertex vertex"], every_start: bool
) -> Int64[Tensor, "start vertex"]:
    """Data vertices in the ideal's order, grown greedily by comparing cosines.

    In polygons, simplices and orthoplexes any vertex will do as the first, and the second follows; else try all pairs.
    """
    k = len(G)
    order = torch.tensor(list(permutations(range(k), 2))) if every_start else torch.tensor([[0]])
    while (placed := order.shape[1]) < k:
        misfit = (G[order] - ideal[:placed, placed, None]).square().sum(1)
        order = torch.cat([order, misfit.scatter(1, order, torch.inf).argmin(1, keepdim=True)], dim=1)
    return order


def _lay_over(
    V: Float[Tensor, "*start vertex hidden"], ideal: Float[Tensor, "vertex hidden"]
) -> tuple[Float[Tensor, "*start vertex hidden"], Float[Tensor, "*start"]]:
    """Each copy of `V` rotated onto the ideal, and the root-mean-square distance that is left."""
    laid_over = rotate_onto(V, ideal)
    return laid_over, (laid_over - ideal).square().sum(-1).mean(-1).sqrt()
