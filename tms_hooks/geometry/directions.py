"""Which features are represented, which of them share a direction, and which interfere."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tms_hooks.geometry.measures import check_weights, feature_norms


def represented(W: Float[Tensor, "*model feature hidden"], min_norm: float = 0.5) -> Bool[Tensor, "*model feature"]:
    """Features whose norm exceeds `min_norm`; the others are dead.

    >>> represented(torch.tensor([[1.0, 0.0], [0.0, 0.1]]))
    tensor([ True, False])
    """
    return feature_norms(W) > min_norm


def directions(
    W: Float[Tensor, "feature hidden"], min_norm: float = 0.5, within_degrees: float = 5.0
) -> list[list[int]]:
    """Represented features of one model, grouped by direction; groups in order of their first feature.

    Complete-linkage clustering: two features of a group are never further apart than `within_degrees`, so a dense
    ring of features is cut into arcs and not chained into one direction.

    >>> directions(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.1, 0.0]]))
    [[0, 2], [1]]
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    check_single(W)
    alive = represented(W, min_norm).nonzero()[:, 0].tolist()
    if len(alive) < 2:
        return [alive] if alive else []
    unit = torch.nn.functional.normalize(W[alive].detach().double().cpu(), dim=-1)
    chord = torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")
    degrees = torch.rad2deg(2 * (chord / 2).clamp(max=1).asin())  # asin keeps the precision that acos loses near 0
    labels = fcluster(linkage(squareform(degrees.numpy(), checks=False), "complete"), within_degrees, "distance")
    return _groups(alive, labels.tolist())


def count_directions(
    W: Float[Tensor, "*model feature hidden"], min_norm: float = 0.5, within_degrees: float = 5.0
) -> Int64[Tensor, "*model"]:
    """Distinct directions among the represented features of each model.

    >>> pair = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-0.9, 0.0]])
    >>> count_directions(torch.stack([pair, 0 * pair]))
    tensor([2, 0])
    """
    check_weights(W)
    models = W.reshape(-1, *W.shape[-2:])
    counts = [len(directions(w, min_norm, within_degrees)) for w in models]
    return torch.tensor(counts, dtype=torch.int64).reshape(W.shape[:-2])


def tegum_factors(
    W: Float[Tensor, "feature hidden"], min_norm: float = 0.5, min_cosine: float = 0.1
) -> list[list[int]]:
    """Represented features of one model, grouped so that features of different groups are orthogonal.

    The factors are the connected components of the graph of interfering features, two features being joined if their
    absolute cosine exceeds `min_cosine` (0.1: more than 5.7 degrees from orthogonal). A model is the tegum product
    of its factors, and its D_i are those of the factors alone (Elhage et al. 2022, "Toy Models of Superposition").

    >>> tegum_factors(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))  # a digon and a dedicated dimension
    [[0, 2], [1]]
    """
    from scipy.sparse.csgraph import connected_components

    check_single(W)
    alive = represented(W, min_norm).nonzero()[:, 0].tolist()
    unit = torch.nn.functional.normalize(W[alive].detach().double().cpu(), dim=-1)
    interfering = (unit @ unit.mT).abs() > min_cosine
    return _groups(alive, connected_components(interfering.numpy(), directed=False)[1].tolist()) if alive else []


def check_single(W: Float[Tensor, "feature hidden"]) -> None:
    """Refuse stacked weights where the answer has another shape for every model."""
    check_weights(W)
    if W.ndim != 2:
        raise ValueError(f"W of shape {tuple(W.shape)}: one model at a time, (feature, hidden); loop over the stack")


def _groups(features: list[int], labels: list[int]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for feature, label in zip(features, labels, strict=True):
        groups.setdefault(label, []).append(feature)
    return list(groups.values())
