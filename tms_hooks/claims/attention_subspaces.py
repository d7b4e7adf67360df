"""Claims about attended features in one tegum factor or in several: where do a head's singular vectors lie?

Six features in four dimensions, p = 0.05, trained from starts near a product of two triangles (features 0 to 2, and 3
to 5); only models that are such a product in the end count.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, stats
from tms_hooks.claims.heads import (
    best_heads,
    explained,
    largest_angle,
    matched_cosines,
    random_rotations,
    representation,
    singular_vectors,
    train_heads,
    triangle,
    unit,
    untrained,
)
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import UNKNOWN, Verdict
from tms_hooks.data import SparseUniform
from tms_hooks.losses import Pair

if TYPE_CHECKING:
    import plotly.graph_objects as go

P = 0.05
TRIANGLES = [[0, 1, 2], [3, 4, 5]]
APART: list[Pair] = [(0, 1), (3, 4)]
"""One pair in each triangle."""
WITHIN: list[Pair] = [(0, 1), (1, 2)]
"""Two pairs in one triangle."""
UNEQUAL: list[Pair] = [(0, 1), (0, 1), (3, 4)]
INSIDE = 0.9
"""Share of a singular vector's square above which it lies in one factor."""
SPANNED = 18.0
"""Degrees, a fifth of a right angle, within which one span counts as lying in another."""
CLOSE = 10.0
Omegas = Float[Tensor, "model hidden hidden"]
Stacked = Float[Tensor, "model feature hidden"]


@claim("qk-subspaces", "A", quick=6, full=24)
def qk_subspaces(n_models: int) -> Verdict:
    """Attending to features in two tegum factors, singular vectors span them and split between them, one factor each.

    Statistic: the smallest of three shares, one attended pair in each of two triangles, (0, 1) and (3, 4), of equal
    weight: models whose two leading left singular vectors span the two query features within 18 degrees (largest
    principal angle), and the right ones the key features; models at r = 4 of whose two leading slices each has more
    than 90 % of its squared length, left and right, in one triangle, each in another; models at r = 1 whose only slice
    has that.
    Threshold: above 1/2, for each.
    Size: 6 models (quick), 24 (full).
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
        digons=(train_heads(digons, [[(0, 0), (1, 1)]], 4)[0], digons.W_E),
    )


def judge_split(
    W_E: Stacked,
    trained: Mapping[int, Omegas],
    best: Mapping[int, Omegas],
    others: Mapping[str, Omegas],
    digons: tuple[Omegas, Stacked],
) -> Verdict:
    """Do the leading singular vectors span the attended features, and does each lie in one triangle?"""
    kept = are_triangles(W_E)
    W = W_E[kept]

    def parts(omegas: Mapping[int, Omegas], query: Sequence[int] = (0, 3)) -> dict[str, tuple[int, int]]:
        found = {
            "span": [span_angle(o, w, query, (1, 4)) < SPANNED for o, w in zip(omegas[4][kept], W, strict=True)],
            "split at r = 4": [splits(o, w, TRIANGLES, 2) for o, w in zip(omegas[4][kept], W, strict=True)],
            "split at r = 1": [splits(o, w, TRIANGLES, 1) for o, w in zip(omegas[1][kept], W, strict=True)],
        }
        return {name: (sum(held), len(held)) for name, held in found.items()}

    measurable = len(W) > 1
    shares = parts(trained)
    found = stats.weakest_share(shares)
    turned = {rank: _turned(len(W_E), 4, rank) for rank in (4, 1)}
    exact, data = torch.block_diag(triangle(), triangle()), SparseUniform(n_features=6, feature_probability=P)
    ideal = best_heads(exact[None], data, APART)[0]
    controls = {
        **{name: k / n if n else np.nan for name, (k, n) in shares.items()},
        **{f"{name}, optimal": k / n if n else np.nan for name, (k, n) in parts(best).items()},
        **{f"{name}, random rotations": k / n if n else np.nan for name, (k, n) in parts(turned).items()},
        "span, features not attended to": stats.weakest_share({"span": parts(trained, (2, 5))["span"]}).share,
        **{
            f"{name}, split": _mean(splits(o, w, TRIANGLES, 2) for o, w in _each(omega[kept], W))
            for name, omega in others.items()
        },
        "largest share of the first slice in one triangle": _mean(_most(o, w) for o, w in _each(trained[4][kept], W)),
        "largest share of the first slice in one triangle, optimal": _mean(
            _most(o, w) for o, w in _each(best[4][kept], W)
        ),
        "largest share of the first slice in one triangle, random rotations": _mean(
            _most(o, w) for o, w in _each(turned[4][kept], W)
        ),
        "second singular value over first": _mean(_ratio(o) for o in trained[4][kept]),
        "second singular value over first, exact triangles, optimal": _ratio(ideal),
        **_digon_controls(*digons),
        "models that count": float(kept.sum()),
    }
    return Verdict(
        measured=f"The smallest of three shares ({found.part})",
        statistic=found.share if measurable else float("nan"),
        interval=found.interval if measurable else UNKNOWN,
        threshold=0.5,
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
                        "trained": np.array([_most(o, w) for o, w in _each(trained[4][kept], W)]),
                        "optimal": np.array([_most(o, w) for o, w in _each(best[4][kept], W)]),
                        "random rotations": np.array([_most(o, w) for o, w in _each(turned[4][kept], W)]),
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


@claim("qk-same-subspace", "A", quick=6, full=24)
def qk_same_subspace(n_models: int) -> Verdict:
    """Attending to features that are not orthogonal, singular vectors are their sum and difference, not the features.

    Statistic: share of models whose two leading singular vectors on either side are within 10 degrees of the sum and
    the difference of the two attended unit features (matched); pairs (0, 1) and (1, 2), of equal weight, in one
    triangle, r = 4.
    Threshold: above 1/2.
    Size: 6 models (quick), 24 (full).
    Controls: the optimal heads; untrained heads; random rotations within the triangle's plane; the same within 5 and 20
    degrees; mean |cosine| of the features themselves with the singular vectors matched to them; the angle between the
    span of the two leading left singular vectors and the triangle's plane; pentagons (n = 5, m = 2, pairs (0, 0) and
    (1, 1)); what share of the score's mean square the best head explains, and how much of it if the two query features
    are an antipodal pair.
    """
    toys = representation(6, 4, P, n_models, start="two triangles")
    pentagons = representation(5, 2, P, n_models)
    pairs: list[Pair] = [(0, 0), (1, 1)]
    data, W = toys.recipe.data, toys.W_E
    assert isinstance(data, SparseUniform)
    digon = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    square = SparseUniform(n_features=4, feature_probability=P)
    return judge_sum_and_difference(
        W,
        train_heads(toys, [WITHIN], 4)[0],
        best_heads(W, data, WITHIN),
        untrained(toys, 1, 4)[0],
        pentagons=(train_heads(pentagons, [pairs], 2)[0], pentagons.W_E),
        shares={
            "share explained, two of a triangle": np.array([explained(w, data, WITHIN, 4) for w in W]),
            "share explained, one of each triangle": np.array([explained(w, data, APART, 4) for w in W]),
            "share explained, an antipodal pair": np.array([explained(digon, square, [(0, 2), (1, 2)], 2)]),
            "share explained, one of that antipodal pair": np.array([explained(digon, square, [(0, 2)], 2)]),
        },
    )


def judge_sum_and_difference(
    W_E: Stacked,
    trained: Omegas,
    best: Omegas,
    start: Omegas,
    pentagons: tuple[Omegas, Stacked],
    shares: Mapping[str, np.ndarray],
) -> Verdict:
    """Are the leading singular vectors the sum and the difference of two features of one triangle?"""
    kept = are_triangles(W_E)
    W = W_E[kept]

    def within(omegas: Omegas, degrees: float = CLOSE) -> list[bool]:
        return [sum_angle(o, w, (0, 1), (1, 2)) < degrees for o, w in _each(omegas[kept], W)]

    held = within(trained)
    angles = {
        name: np.array([sum_angle(o, w, (0, 1), (1, 2)) for o, w in _each(omega[kept], W)])
        for name, omega in (("trained", trained), ("optimal", best), ("in the plane, at random", _in_plane(W_E)))
    }
    measurable = len(W) > 1
    controls = {
        "optimal heads": _mean(within(best)),
        "untrained": _mean(within(start)),
        "random rotations in the plane": _mean(angles["in the plane, at random"] < CLOSE),
        **{f"within {degrees:g} degrees": _mean(within(trained, degrees)) for degrees in (5.0, 20.0)},
        "mean |cosine| of the features themselves": _mean(
            matched_cosines(o, w[[0, 1]], w[[1, 2]]).mean() for o, w in _each(trained[kept], W)
        ),
        "angle between the leading two and the triangle's plane (degrees)": _mean(
            largest_angle(singular_vectors(o)[0][:2], w[:2]) for o, w in _each(trained[kept], W)
        ),
        "second singular value over first": _mean(_ratio(o) for o in trained[kept]),
        "pentagons": _mean(
            sum_angle(o, w, (0, 1), (0, 1)) < CLOSE
            for o, w in _each(*pentagons)
            if geometry.name_polytope(w) == "pentagon"
        ),
        **{name: float(values.mean()) for name, values in shares.items()},
        "models that count": float(kept.sum()),
    }
    return Verdict(
        measured="The share of models whose singular vectors are sum and difference",
        statistic=float(np.mean(held)) if measurable else float("nan"),
        interval=stats.wilson(sum(held), len(held)) if measurable else UNKNOWN,
        threshold=0.5,
        n_models=len(W),
        controls={name: float(value) for name, value in controls.items()},
        theory=_mean(within(best)) if measurable else None,
        detail=f"The largest of the four angles is {np.median(angles['trained']):.1f} degrees in the median model."
        if measurable
        else "",
        figures=[
            (
                "The largest angle between the two leading singular vectors, left and right, and the sum and "
                "difference of the attended features.",
                plots.distributions(
                    angles,
                    "degrees",
                    dict(zip(angles, (plots.TOY, plots.PALETTE[1], plots.NULL), strict=True)),
                ),
            )
        ]
        if measurable
        else (),
    )


def are_triangles(W_E: Stacked) -> Tensor:
    """Models that are the product of the two triangles that they started near."""
    return torch.tensor([geometry.tegum_factors(w) == TRIANGLES for w in W_E])


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


def sum_angle(
    omega: Float[Tensor, "hidden hidden"],
    W_E: Float[Tensor, "feature hidden"],
    query: tuple[int, int],
    key: tuple[int, int],
) -> float:
    """The largest angle, of both sides, between the two leading singular vectors and sum and difference, in degrees."""

    def sides(i: int, j: int) -> Tensor:
        a, b = unit(W_E[i]), unit(W_E[j])
        return torch.stack([a + b, a - b])

    U, S, V = singular_vectors(omega)
    leading = (U[:2].mT * S[:2]) @ V[:2]
    cosine = matched_cosines(leading, sides(*query), sides(*key)).min()
    return float(np.degrees(np.arccos(min(cosine, 1.0))))


def _digon_controls(omegas: Omegas, W_E: Stacked) -> dict[str, float]:
    held = []
    for o, w in _each(omegas, W_E):
        factors = geometry.tegum_factors(w)
        if sorted(len(factor) for factor in factors) == [2, 2, 2, 2] and not any({0, 1} <= set(f) for f in factors):
            held.append((span_angle(o, w, (0, 1), (0, 1)) < SPANNED, splits(o, w, factors, 2)))
    return {
        "digons: span": _mean(span for span, _ in held),
        "digons: split": _mean(split for _, split in held),
        "digons: models that count": float(len(held)),
    }


def _most(omega: Tensor, W_E: Tensor) -> float:
    return float(factor_shares(singular_vectors(omega)[0][:1], W_E, TRIANGLES).max())


def _ratio(omega: Tensor) -> float:
    S = singular_vectors(omega)[1]
    return float(S[1] / S[0])


def _turned(models: int, d: int, rank: int) -> Omegas:
    """Random singular vectors, with singular values that tell them apart."""
    left, right = random_rotations(d, 2 * models, seed=rank).chunk(2)
    values = torch.linspace(2, 1, rank, dtype=torch.float64)
    return (left[..., :rank] * values) @ right[..., :rank].mT


def _in_plane(W_E: Stacked) -> Omegas:
    """Random singular vectors within the plane of the first triangle."""
    left, right = random_rotations(2, 2 * len(W_E)).chunk(2)
    basis = torch.linalg.svd(W_E[:, :3].double())[2][:, :2]
    values = torch.tensor([2.0, 1.0], dtype=torch.float64)
    return basis.mT @ (left * values) @ right.mT @ basis


def _each(omegas: Omegas, W_E: Stacked) -> "zip[tuple[Tensor, Tensor]]":
    return zip(omegas, W_E, strict=True)


def _mean(values: Iterable[float]) -> float:
    array = np.array(list(values), dtype=float)
    return float(array.mean()) if len(array) else float("nan")


def _map(omega: Tensor, W_E: Tensor) -> "tuple[str, go.Figure]":
    cosines = singular_vectors(omega)[0] @ unit(W_E).mT
    return (
        "Cosines of the left singular vectors of one head with the six features: one that keeps to one triangle "
        "would be white in the other. The attended query features, 0 and 3, would have "
        f"{1 / sqrt(2):.2f} each if the first slice served them alike.",
        plots.signed_heatmap(cosines.numpy(), "feature", "left singular vector", "cosine"),
    )
