"""What weights alone say of their features: numbers for each feature or model, and features grouped by direction.

Lengths are in the units of W, whose rows have norm about 1 where a feature of value 1 is reconstructed as 1;
dimensionality, and dimensions per feature, are counts of hidden dimensions. A feature is *represented* if its row is
longer than a cut-off, usually 1/2; otherwise it is dead. Features that point within five degrees of each other share
one *direction*. Features whose |cosine| is below 0.1 are *orthogonal*: neither disturbs the other, so the model falls
apart into groups (tegum factors) that can be studied one by one.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tms_hooks.errors import say_once
from tms_hooks.linalg import scale_of, takes_arrays, unit

SAME_DIRECTION = 5.0
"""Angle, in degrees, up to which two features share a direction."""
ORTHOGONAL = 0.1
"""|Cosine| up to which two features count as orthogonal: 5.7 degrees from a right angle."""


def check_weights(W: Float[Tensor, "*model feature hidden"]) -> None:
    """Refuse what has no feature and hidden axis, or is not finite.

    Raises:
        ValueError: fewer than two axes, no feature or no dimension, or a NaN or an infinity in `W`.
    """
    if W.ndim < 2 or 0 in W.shape[-2:]:
        raise ValueError(
            f"W of shape {tuple(W.shape)}: feature directions are rows of (..., feature, hidden), at least one of each"
        )
    if not W.isfinite().all():
        at = tuple((~W.isfinite()).nonzero()[0].tolist())
        raise ValueError(
            f"W[{', '.join(map(str, at))}] = {W[at].item()}: weights must be finite; did the training diverge?"
        )


def hint_at_columns(W: Float[Tensor, "*model feature hidden"]) -> None:
    """Say once, of weights with more hidden dimensions than features, that directions are rows."""
    n, m = W.shape[-2:]
    if m > n:
        say_once(
            f"W of shape {tuple(W.shape)} is read as {n} features in {m} hidden dimensions, a row each; the paper's W, "
            "with a column each, is W.mT here"
        )


def check_single(W: Float[Tensor, "feature hidden"]) -> None:
    """Refuse stacked weights where the answer has another shape for each model."""
    check_weights(W)
    if W.ndim != 2:
        raise ValueError(f"W of shape {tuple(W.shape)}: one model at a time, (feature, hidden); loop over the stack")


@takes_arrays
def gram(W: Float[Tensor, "*model feature hidden"]) -> Float[Tensor, "*model feature feature"]:
    """Inner products of all pairs of feature directions, `W_E W_E^T` (the paper's `W^T W`).

    >>> gram(torch.tensor([[1.0], [-1.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]])

    Raises:
        ValueError: weights whose products are too large for their precision.
    """
    check_weights(W)
    products = W @ W.mT
    if not products.isfinite().all():
        raise ValueError(
            f"largest weight {W.abs().max().item():.3g}: its square overflows {W.dtype}; "
            "divide W by it, or use W.double()"
        )
    return products


@takes_arrays
def feature_norms(W: Float[Tensor, "*model feature hidden"]) -> Float[Tensor, "*model feature"]:
    """|W_i|, the length of each feature direction.

    >>> feature_norms(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([5., 0.])
    """
    check_weights(W)
    scale = scale_of(W)
    return torch.linalg.vector_norm(W / scale, dim=-1) * scale[..., 0]


@takes_arrays
def interference(W: Float[Tensor, "*model feature hidden"]) -> Float[Tensor, "*model feature"]:
    """How much of the other features lies along each feature's direction.

    sum_{j != i} (W_i/|W_i| . W_j)^2   (Elhage et al. 2022, "Toy Models of Superposition"); 0 for a dead feature.

    >>> interference(torch.tensor([[1.0], [-2.0]]))
    tensor([4., 1.])
    """
    check_weights(W)
    along = (torch.nn.functional.normalize(W / scale_of(W), dim=-1) @ W.mT).square()
    return along.masked_fill(torch.eye(W.shape[-2], dtype=torch.bool, device=W.device), 0).sum(-1)


@takes_arrays
def dimensionality(W: Float[Tensor, "*model feature hidden"]) -> Float[Tensor, "*model feature"]:
    """Fraction of a hidden dimension that each feature has to itself.

    D_i = |W_i|^2 / sum_j (W_i/|W_i| . W_j)^2   (Elhage et al. 2022, "Toy Models of Superposition").
    0 <= D_i <= 1; 0 for a dead feature; 1/2 in an antipodal pair, 2/5 in a pentagon. The sum over features is at
    most the rank of W, and equal to it if all directions of a tegum factor share a norm and form a tight frame.

    >>> dimensionality(torch.tensor([[1.0], [-1.0]]))
    tensor([0.5000, 0.5000])
    """
    check_weights(W)
    hint_at_columns(W)
    # Each model in units of its longest direction: D_i has no scale, and fourth powers of small ones would underflow.
    W = W / scale_of(W, (-2, -1))
    longest = torch.linalg.vector_norm(W, dim=-1).amax(-1)[..., None, None]
    W = W / longest.clamp(min=torch.finfo(W.dtype).tiny)
    own = W.square().sum(-1)
    return torch.where(own > 0, own / (own + interference(W)).where(own > 0, 1), 0)


@takes_arrays
def dimensions_per_feature(W: Float[Tensor, "*model feature hidden"]) -> Float[Tensor, "*model"]:
    """D* = d_hidden / ||W||_F^2: hidden dimensions per learned feature, if learned features have norm 1.

    A feature whose norm exceeds 1, as with an output bias, counts as more than one: look at `dimensionality(W).sum(-1)`
    too. D* is infinite for a model that has learned nothing. Source: Elhage et al. 2022.

    >>> dimensions_per_feature(torch.eye(3)[:, :2])
    tensor(1.)
    """
    check_weights(W)
    return W.shape[-1] / W.square().sum((-2, -1))


@takes_arrays
def represented(W: Float[Tensor, "*model feature hidden"], min_norm: float = 0.5) -> Bool[Tensor, "*model feature"]:
    """Features whose norm exceeds `min_norm`; the others are dead.

    >>> represented(torch.tensor([[1.0, 0.0], [0.0, 0.1]]))
    tensor([ True, False])
    """
    return feature_norms(W) > min_norm


@takes_arrays
def directions(W: Float[Tensor, "feature hidden"], min_norm: float = 0.5) -> list[list[int]]:
    """Represented features of one model, grouped by direction; groups in order of their first feature.

    Complete-linkage clustering: no two features of a group are more than `SAME_DIRECTION` apart, so a dense ring of
    features is cut into arcs and not chained into one direction.

    >>> directions(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.1, 0.0]]))
    [[0, 2], [1]]
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    check_single(W)
    alive = represented(W, min_norm).nonzero()[:, 0].tolist()
    if len(alive) < 2:
        return [alive] if alive else []
    vectors = unit(W[alive])
    chord = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    degrees = torch.rad2deg(2 * (chord / 2).clamp(max=1).asin())  # asin keeps the precision that acos loses near 0
    labels = fcluster(linkage(squareform(degrees.numpy(), checks=False), "complete"), SAME_DIRECTION, "distance")
    return _groups(alive, labels.tolist())


@takes_arrays
def count_directions(W: Float[Tensor, "*model feature hidden"], min_norm: float = 0.5) -> Int64[Tensor, "*model"]:
    """Number of distinct directions among the represented features of each model.

    >>> pair = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-0.9, 0.0]])
    >>> count_directions(torch.stack([pair, 0 * pair]))
    tensor([2, 0])
    """
    check_weights(W)
    hint_at_columns(W)
    counts = [len(directions(w, min_norm)) for w in W.reshape(-1, *W.shape[-2:])]
    return torch.tensor(counts, dtype=torch.int64).reshape(W.shape[:-2])


@takes_arrays
def tegum_factors(W: Float[Tensor, "feature hidden"], min_norm: float = 0.5) -> list[list[int]]:
    """Represented features of one model, grouped so that features of different groups are orthogonal.

    The factors are the connected components of a graph that joins two features if their |cosine| exceeds `ORTHOGONAL`.
    A model is the tegum product of its factors, and its D_i are those of the factors alone (Elhage et al. 2022, "Toy
    Models of Superposition").

    >>> tegum_factors(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))  # a digon and a dedicated dimension
    [[0, 2], [1]]
    """
    from scipy.sparse.csgraph import connected_components

    check_single(W)
    alive = represented(W, min_norm).nonzero()[:, 0].tolist()
    if not alive:
        return []
    vectors = unit(W[alive])
    joined = (vectors @ vectors.mT).abs() > ORTHOGONAL
    return _groups(alive, connected_components(joined.numpy(), directed=False)[1].tolist())


@takes_arrays
def rotate_onto(
    W: Float[Tensor, "*model feature hidden"], reference: Float[Tensor, "*#model feature hidden"]
) -> Float[Tensor, "*model feature hidden"]:
    """Rotate or reflect each model so that its features lie as near as they can to the same features of `reference`.

    A tied toy whose hidden layer is linear computes the same after a rotation of it (with its hidden bias), so two
    models are compared after this one. It is the orthogonal Procrustes solution: W R with
    R = argmin ||W R - reference||_F = U V^T, from the SVD U S V^T of W^T reference.

    >>> quarter_turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    >>> rotate_onto(torch.eye(2) @ quarter_turn, torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    check_weights(W)
    check_weights(reference)
    U, _, Vh = torch.linalg.svd((W / scale_of(W, (-2, -1))).mT @ (reference / scale_of(reference, (-2, -1))))
    return W @ (U @ Vh)


def _groups(features: list[int], labels: list[int]) -> list[list[int]]:
    labeled = list(zip(features, labels, strict=True))
    return [[feature for feature, other in labeled if other == label] for label in dict.fromkeys(labels)]
