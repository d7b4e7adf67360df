"""A claim about attended features in different tegum factors: do singular vectors span them, and split between them?

Features are put near a product of two triangles (`heads.triangles`), and heads trained on them.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots
from tms_hooks.claims import Verdict, claim, heads, lab, share
from tms_hooks.claims.heads import TRIANGLES, Directions, Heads, Omega, Omegas
from tms_hooks.data import SparseUniform
from tms_hooks.linalg import unit
from tms_hooks.losses import Pair

if TYPE_CHECKING:
    import plotly.graph_objects as go

APART: list[Pair] = [(0, 1), (3, 4)]
"""One pair in each triangle."""
UNEQUAL = {(0, 1): 2.0, (3, 4): 1.0}
INSIDE = 0.9
"""Share of a singular vector's square above which it lies in one factor."""
SPANNED = 18.0
"""Degrees, a fifth of a right angle, within which one span counts as lying in another."""


class Beyond(NamedTuple):
    """Arms that the document does not have."""

    unequal: Omegas
    """Heads of rank 4 of pairs worth 2 and 1, which tells the singular values apart."""
    biased: Omegas
    """Heads of rank 1 with b_Q and b_K."""


@claim("qk-subspaces", "A", quick=20, full=100)
def qk_subspaces(n_models: int) -> Verdict:
    """Attending to features in two tegum factors, singular vectors span them and split between them, one factor each.

    One attended pair in each of two triangles, (0, 1) and (3, 4), of equal weight. A slice lies in one triangle if more
    than 90 % of its squared length, left and right, does. Models that are two triangles count.

    Part "span": "When the head attends to features in different subspaces, do SVs span the subspaces?".
    Statistic: the share of models at r = 4 whose two leading left singular vectors span the two query features within
    18 degrees (largest principal angle), and the right ones the key features.
    Threshold: above 1/2.
    Null: random rotations.

    Part "too few": "If there are not enough SVs, do they allocate themselves to separate subspaces?".
    Statistic: the share of models at r = 1 whose only slice lies in one triangle.
    Threshold: above 1/2.
    Null: random rotations.

    Beyond the source "enough":
    Statistic: the share of models at r = 4 of whose two leading slices each lies in one triangle, each in another.
    Threshold: above 1/2.
    Null: random rotations.

    Beyond the source "enough, unequal weights":
    Statistic: the same, of pairs worth 2 and 1, which tells the singular values apart.
    Threshold: above 1/2.
    Null: random rotations.

    Beyond the source "too few, with biases":
    Statistic: the share at r = 1 of heads with b_Q and b_K.
    Threshold: above 1/2.
    Null: random rotations.

    Size: 20 models (quick), 100 (full).
    Controls: the optimal heads; untrained heads; features that are not attended to, 2 and 5, in the place of the query
    features; four digons (n = 8, m = 4, random starts, pairs (0, 0) and (1, 1)) where features 0 and 1 are orthogonal.
    """
    toys = heads.triangles(n_models)
    digons = heads.representation(8, 4, heads.SPARSE, n_models)
    full, unequal = heads.train(toys, [APART, UNEQUAL], 4)
    return judge_split(
        toys.W_E,
        {4: full, 1: heads.train(toys, [APART], 1)[0]},
        heads.untrained(toys.W_E, 4),
        Beyond(unequal, heads.train(toys, [APART], 1, biases=True)[0]),
        Heads(heads.train(digons, [[(0, 0), (1, 1)]], 4)[0], digons.W_E),
    )


def judge_split(
    W_E: lab.Stacked, trained: Mapping[int, Omegas], untrained: Omegas, beyond: Beyond, digons: Heads
) -> Verdict:
    """Do the leading singular vectors span the attended features, and does each lie in one triangle?"""
    data = SparseUniform(n_features=6, feature_probability=heads.SPARSE)
    counts = heads.are_triangles(W_E)
    each = heads.measuring(W_E, counts)

    def spans(omega: Omegas, query: Sequence[int] = (0, 3)) -> np.ndarray:
        return np.asarray(each(lambda o, w: span_angle(o, w, query, (1, 4)) < SPANNED, omega))

    def split(omega: Omegas, slices: int) -> np.ndarray:
        return np.asarray(each(lambda o, w: splits(o, w, TRIANGLES, slices), omega))

    kinds = {
        "": trained,
        ", optimal": {rank: heads.optimal(W_E, data, APART, rank) for rank in (4, 1)},
        ", random rotations": {rank: heads.at_random(len(W_E), 4, rank) for rank in (4, 1)},
    }
    (_, best, null), most = kinds.values(), {kind: each(largest_share, omegas[4]) for kind, omegas in kinds.items()}
    both = "The share of models whose two leading slices lie in one triangle each"
    one = "The share of models whose only slice lies in one triangle"
    alone = split(null[1], 1)
    return Verdict(
        parts={
            "span": share(
                "The share of models whose leading singular vectors span the attended features",
                spans(trained[4]),
                null=spans(null[4]),
                best=lab.mean(spans(best[4])),
            ),
            "too few": share(one, split(trained[1], 1), null=alone, best=lab.mean(split(best[1], 1))),
            "enough": share(both, split(trained[4], 2), null=split(null[4], 2), best=lab.mean(split(best[4], 2))),
            "enough, unequal weights": share(
                both,
                split(beyond.unequal, 2),
                null=split(null[4], 2),
                best=lab.mean(split(heads.optimal(W_E, data, UNEQUAL, 4), 2)),
            ),
            "too few, with biases": share(
                one,
                split(beyond.biased, 1),
                null=alone,
                best=lab.mean(split(heads.optimal(W_E, data, APART, 1, biases=True), 1)),
            ),
        },
        n_models=int(counts.sum()),
        controls={
            "span, features not attended to": lab.mean(spans(trained[4], (2, 5))),
            "untrained, split": lab.mean(split(untrained, 2)),
            **{f"largest share of the first slice in one triangle{kind}": lab.mean(m) for kind, m in most.items()},
            "second singular value over first": lab.mean(map(heads.singular_ratio, trained[4][counts])),
            "second singular value over first, exact triangles, optimal": heads.singular_ratio(
                heads.optimal(heads.two_triangles()[None], data, APART)[0]
            ),
            **digon_controls(*digons),
            "models that count": counts.sum(),
        },
        detail=f"{counts.sum()} of {len(counts)} models are two triangles.",
        figures=_figures(W_E[counts], trained[4][counts], most) if counts.any() else (),
    )


def _figures(W_E: lab.Stacked, omegas: Omegas, most: Mapping[str, np.ndarray]) -> "dict[str, go.Figure]":
    return {
        "The largest share of the first left singular vector that lies in one triangle: 1 if it keeps to one, 1/2 "
        "if it serves both alike.": plots.distributions(
            {kind.removeprefix(", ") or "trained": shares for kind, shares in most.items()},
            "share",
            {"trained": plots.TOY, "optimal": plots.PALETTE[1], "random rotations": plots.NULL},
        ),
        "Cosines of the left singular vectors of one head with the six features: one that keeps to one triangle "
        "would be white in the other. The attended query features, 0 and 3, would have "
        f"{1 / sqrt(2):.2f} each if the first slice served them alike.": plots.signed_heatmap(
            (heads.singular_vectors(omegas[0])[0] @ unit(W_E[0]).mT).numpy(),
            "feature",
            "left singular vector",
            "cosine",
        ),
    }


def factor_shares(
    vectors: Float[Tensor, "k hidden"], W_E: Directions, factors: Sequence[Sequence[int]]
) -> Float[Tensor, "k factor"]:
    """Share of each unit vector's square that lies in the span of each factor's features."""
    found = []
    for factor in factors:
        U, S, _ = torch.linalg.svd(W_E[list(factor)].double().mT, full_matrices=False)
        basis = U[:, 0.1 * S[0] < S]
        found.append((vectors @ basis).square().sum(-1))
    return torch.stack(found, dim=-1)


def largest_share(omega: Omega, W_E: Directions) -> float:
    """The largest share of the first left singular vector that lies in one triangle."""
    return float(factor_shares(heads.singular_vectors(omega)[0][:1], W_E, TRIANGLES).max())


def splits(omega: Omega, W_E: Directions, factors: Sequence[Sequence[int]], slices: int) -> bool:
    """Whether each of the leading slices lies in one factor, left and right, and each in another."""
    U, _, V = heads.singular_vectors(omega)
    left, right = factor_shares(U[:slices], W_E, factors), factor_shares(V[:slices], W_E, factors)
    inside = bool((torch.minimum(left, right).amax(-1) > INSIDE).all())
    return inside and len(set(left.argmax(-1).tolist())) == slices


def span_angle(omega: Omega, W_E: Directions, query: Sequence[int], key: Sequence[int]) -> float:
    """The larger, of both sides, angle between the leading singular vectors' span and the features', in degrees."""
    U, _, V = heads.singular_vectors(omega)
    k = len(query)
    return max(heads.largest_angle(U[:k], W_E[list(query)]), heads.largest_angle(V[:k], W_E[list(key)]))


def digon_controls(omegas: Omegas, W_E: lab.Stacked) -> dict[str, float]:
    """The same where factors are four antipodal pairs, in models where features 0 and 1 are in different ones."""
    held = []
    for omega, w in zip(omegas, W_E, strict=True):
        factors = geometry.tegum_factors(w)
        if sorted(len(factor) for factor in factors) == [2, 2, 2, 2] and not any({0, 1} <= set(f) for f in factors):
            held.append((span_angle(omega, w, (0, 1), (0, 1)) < SPANNED, splits(omega, w, factors, 2)))
    return {
        "digons: span": lab.mean(span for span, _ in held),
        "digons: split": lab.mean(split for _, split in held),
        "digons: models that count": len(held),
    }
