"""A claim about attended features in different tegum factors: do singular vectors span them, and split between them?

Six features in four dimensions, p = 0.05, trained from starts near a product of two triangles (features 0 to 2, and 3
to 5); only models that are such a product in the end count.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, stats
from tms_hooks.claims.heads import (
    SPARSE as P,
)
from tms_hooks.claims.heads import (
    TRIANGLES,
    Heads,
    are_triangles,
    best_heads,
    each,
    largest_angle,
    mean,
    random_heads,
    representation,
    singular_ratio,
    singular_vectors,
    train_heads,
    triangle,
    untrained,
)
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import UNKNOWN, Verdict, above
from tms_hooks.data import SparseUniform
from tms_hooks.linalg import unit
from tms_hooks.losses import Pair

if TYPE_CHECKING:
    import plotly.graph_objects as go

APART: list[Pair] = [(0, 1), (3, 4)]
"""One pair in each triangle."""
UNEQUAL: list[Pair] = [(0, 1), (0, 1), (3, 4)]
INSIDE = 0.9
"""Share of a singular vector's square above which it lies in one factor."""
SPANNED = 18.0
"""Degrees, a fifth of a right angle, within which one span counts as lying in another."""
Omegas = Float[Tensor, "model hidden hidden"]
Stacked = Float[Tensor, "model feature hidden"]


@claim("qk-subspaces", "A", quick=20, full=100, needs=above(0.5))
def qk_subspaces(n_models: int) -> Verdict:
    """Attending to features in two tegum factors, singular vectors span them and split between them, one factor each.

    Statistic: the smallest of three shares, one attended pair in each of two triangles, (0, 1) and (3, 4), of equal
    weight: models whose two leading left singular vectors span the two query features within 18 degrees (largest
    principal angle), and the right ones the key features; models at r = 4 of whose two leading slices each has more
    than 90 % of its squared length, left and right, in one triangle, each in another; models at r = 1 whose only slice
    has that.
    Threshold: above 1/2, for each.
    Size: 20 models (quick), 100 (full).
    Controls: the optimal heads; untrained heads; random rotations; weights 2 to 1, which tell the singular values
    apart; features that are not attended to, 2 and 5, in the place of the query features; four digons (n = 8, m = 4,
    random starts, pairs (0, 0) and (1, 1)) where features 0 and 1 are orthogonal.
    """
    toys = representation(6, 4, P, n_models, start="two triangles")
    digons = representation(8, 4, P, n_models)
    full, unequal = train_heads(toys, [APART, UNEQUAL], 4)
    single = train_heads(toys, [APART], 1)[0]
    data, W = toys.recipe.data, toys.W_E
    return judge_split(
        W,
        {4: full, 1: single},
        {4: best_heads(W, data, APART), 1: best_heads(W, data, APART, 1)},
        others={"weights 2 to 1": unequal, "untrained": untrained(toys, 1, 4)[0]},
        digons=Heads(train_heads(digons, [[(0, 0), (1, 1)]], 4)[0], digons.W_E),
    )


def judge_split(
    W_E: Stacked,
    trained: Mapping[int, Omegas],
    best: Mapping[int, Omegas],
    others: Mapping[str, Omegas],
    digons: Heads,
) -> Verdict:
    """Do the leading singular vectors span the attended features, and does each lie in one triangle?"""
    kept = are_triangles(W_E)
    W = W_E[kept]

    def parts(omegas: Mapping[int, Omegas], query: Sequence[int] = (0, 3)) -> dict[str, tuple[int, int]]:
        found = {
            "span": [span_angle(o, w, query, (1, 4)) < SPANNED for o, w in each(omegas[4][kept], W)],
            "split at r = 4": [splits(o, w, TRIANGLES, 2) for o, w in each(omegas[4][kept], W)],
            "split at r = 1": [splits(o, w, TRIANGLES, 1) for o, w in each(omegas[1][kept], W)],
        }
        return {name: (sum(held), len(held)) for name, held in found.items()}

    measurable = len(W) > 1
    shares = parts(trained)
    found = stats.weakest_share(shares)
    turned = {rank: random_heads(len(W_E), 4, rank) for rank in (4, 1)}
    exact, data = torch.block_diag(triangle(), triangle()), SparseUniform(n_features=6, feature_probability=P)
    ideal = best_heads(exact[None], data, APART)[0]
    controls = {
        **{name: k / n if n else np.nan for name, (k, n) in shares.items()},
        **{f"{name}, optimal": k / n if n else np.nan for name, (k, n) in parts(best).items()},
        **{f"{name}, random rotations": k / n if n else np.nan for name, (k, n) in parts(turned).items()},
        "span, features not attended to": stats.weakest_share({"span": parts(trained, (2, 5))["span"]}).share,
        **{
            f"{name}, split": mean(splits(o, w, TRIANGLES, 2) for o, w in each(omega[kept], W))
            for name, omega in others.items()
        },
        "largest share of the first slice in one triangle": mean(_most(o, w) for o, w in each(trained[4][kept], W)),
        "largest share of the first slice in one triangle, optimal": mean(
            _most(o, w) for o, w in each(best[4][kept], W)
        ),
        "largest share of the first slice in one triangle, random rotations": mean(
            _most(o, w) for o, w in each(turned[4][kept], W)
        ),
        "second singular value over first": mean(singular_ratio(o) for o in trained[4][kept]),
        "second singular value over first, exact triangles, optimal": singular_ratio(ideal),
        **_digon_controls(*digons),
        "models that count": float(kept.sum()),
    }
    return Verdict(
        measured=f"The smallest of three shares ({found.part})",
        statistic=found.share if measurable else float("nan"),
        interval=found.interval if measurable else UNKNOWN,
        n_models=len(W),
        controls={name: float(value) for name, value in controls.items()},
        theory=stats.weakest_share(parts(best)).share if measurable else None,
        detail=f"{int(kept.sum())} of {len(kept)} models are two triangles. Shares: "
        + ", ".join(f"{name} {k} of {n}" for name, (k, n) in shares.items())
        + ".",
        figures=[
            (
                "The largest share of the first left singular vector that lies in one triangle: 1 if it keeps to one, "
                "1/2 if it serves both alike.",
                plots.distributions(
                    {
                        "trained": np.array([_most(o, w) for o, w in each(trained[4][kept], W)]),
                        "optimal": np.array([_most(o, w) for o, w in each(best[4][kept], W)]),
                        "random rotations": np.array([_most(o, w) for o, w in each(turned[4][kept], W)]),
                    },
                    "share",
                    {"trained": plots.TOY, "optimal": plots.PALETTE[1], "random rotations": plots.NULL},
                ),
            ),
            _map(trained[4][kept][0], W[0]),
        ]
        if measurable
        else (),
    )


def factor_shares(
    vectors: Float[Tensor, "k hidden"], W_E: Float[Tensor, "feature hidden"], factors: Sequence[Sequence[int]]
) -> Float[Tensor, "k factor"]:
    """Share of each unit vector's square that lies in the span of each factor's features."""
    found = []
    for factor in factors:
        U, S, _ = torch.linalg.svd(W_E[list(factor)].double().mT, full_matrices=False)
        basis = U[:, 0.1 * S[0] < S]
        found.append((vectors @ basis).square().sum(-1))
    return torch.stack(found, dim=-1)


def splits(
    omega: Float[Tensor, "hidden hidden"],
    W_E: Float[Tensor, "feature hidden"],
    factors: Sequence[Sequence[int]],
    slices: int,
) -> bool:
    """Whether each of the leading slices lies in one factor, left and right, and each in another."""
    U, _, V = singular_vectors(omega)
    left, right = factor_shares(U[:slices], W_E, factors), factor_shares(V[:slices], W_E, factors)
    own = [int(i) for i in left.argmax(-1)]
    inside = bool((torch.minimum(left, right).amax(-1) > INSIDE).all())
    return inside and len(set(own)) == len(own) == slices


def span_angle(
    omega: Float[Tensor, "hidden hidden"],
    W_E: Float[Tensor, "feature hidden"],
    query: Sequence[int],
    key: Sequence[int],
) -> float:
    """The larger, of both sides, angle between the leading singular vectors' span and the features', in degrees."""
    U, _, V = singular_vectors(omega)
    k = len(query)
    return max(largest_angle(U[:k], W_E[list(query)]), largest_angle(V[:k], W_E[list(key)]))


def _digon_controls(omegas: Omegas, W_E: Stacked) -> dict[str, float]:
    held = []
    for o, w in each(omegas, W_E):
        factors = geometry.tegum_factors(w)
        if sorted(len(factor) for factor in factors) == [2, 2, 2, 2] and not any({0, 1} <= set(f) for f in factors):
            held.append((span_angle(o, w, (0, 1), (0, 1)) < SPANNED, splits(o, w, factors, 2)))
    return {
        "digons: span": mean(span for span, _ in held),
        "digons: split": mean(split for _, split in held),
        "digons: models that count": float(len(held)),
    }


def _most(omega: Tensor, W_E: Tensor) -> float:
    return float(factor_shares(singular_vectors(omega)[0][:1], W_E, TRIANGLES).max())


def _map(omega: Tensor, W_E: Tensor) -> "tuple[str, go.Figure]":
    cosines = singular_vectors(omega)[0] @ unit(W_E).mT
    return (
        "Cosines of the left singular vectors of one head with the six features: one that keeps to one triangle "
        "would be white in the other. The attended query features, 0 and 3, would have "
        f"{1 / sqrt(2):.2f} each if the first slice served them alike.",
        plots.signed_heatmap(cosines.numpy(), "feature", "left singular vector", "cosine"),
    )
