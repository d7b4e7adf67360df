"""A claim about the rank of a head: how many attended pairs do its singular vectors recover, one each or shared?"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import plots, stats
from tms_hooks.claims.heads import (
    ALIGNED,
    best_heads,
    each,
    explained,
    is_orthogonal,
    largest_angle,
    matched_cosines,
    mean,
    random_heads,
    representation,
    singular_vectors,
    train_heads,
    untrained,
)
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import UNKNOWN, Verdict, above
from tms_hooks.data import SparseUniform
from tms_hooks.losses import Pair

if TYPE_CHECKING:
    import plotly.graph_objects as go

N, M, P = 10, 5, 0.5
RING: list[Pair] = [(i, (i + 1) % M) for i in range(M)]
"""One pair for each of the m features: a query of each, a key of each."""
PAIRS: list[Pair] = [*RING, *((i, (i + 2) % M) for i in range(M))]
COUNTS = (1, 2, 5, 10)
UNEQUAL: list[Pair] = [pair for weight, pair in zip((5, 4, 3, 2, 1), RING, strict=True) for _ in range(weight)]
LOW = 2
Omegas = Float[Tensor, "model hidden hidden"]
Stacked = Float[Tensor, "model feature hidden"]


@claim("qk-rank", "A", quick=12, full=100, needs=above(0.5))
def qk_rank(n_models: int) -> Verdict:
    """With r = m the singular vectors of a head recover all m attended features; with r < m, r of them, one each.

    Statistic: the smaller of two shares, n = 10, m = 5, importance 0.8^i, p = 0.5, five attended pairs (i, i + 1 mod 5)
    of equal weight: models whose five singular pairs, at r = 5, each have |cosine| > 0.9 with one attended pair, query
    and key (matched); models whose two singular pairs, at r = 2, do. Only models whose first five features are
    learned and orthogonal to each other (|cosine| < 0.1) count.
    Threshold: above 1/2, for both.
    Size: 12 models (quick), 100 (full).
    Controls: the optimal heads by the closed form; unequal weights 5, 4, 3, 2, 1, which tell singular values apart, on
    these toys and (closed form) on five orthonormal features at p = 0.05; untrained heads; random rotations in place of
    the singular vectors; the same at |cosine| > 0.8; how many of the five pairs the only slice serves at r = 1
    (participation ratio); two pairs: the largest angle between the span of the two leading left singular vectors and
    that of the two query features.
    """
    toys = representation(N, M, P, n_models, decay=0.8)
    lists = [*(PAIRS[:count] for count in COUNTS), UNEQUAL]
    full = dict(zip((*map(str, COUNTS), "unequal"), train_heads(toys, lists, M), strict=True))
    low = {rank: train_heads(toys, [RING], rank)[0] for rank in (1, LOW)}
    data, W = toys.recipe.data, toys.W_E
    best = {rank: best_heads(W, data, RING, rank) for rank in range(1, M + 1)}
    assert isinstance(data, SparseUniform)
    return judge_rank(
        {M: full[str(M)], **low},
        best,
        W,
        others={
            "unequal weights": full["unequal"],
            "unequal weights, optimal": best_heads(W, data, UNEQUAL),
            "untrained": untrained(toys, 1, M)[0],
        },
        by_count={count: full[str(count)] for count in COUNTS},
        best_by_count={count: best_heads(W, data, PAIRS[:count]) for count in COUNTS},
        explained_by_rank={rank: np.array([explained(w, data, RING, rank) for w in W]) for rank in range(1, M + 1)},
    )


def judge_rank(
    trained: Mapping[int, Omegas],
    best: Mapping[int, Omegas],
    W_E: Stacked,
    others: Mapping[str, Omegas],
    by_count: Mapping[int, Omegas],
    best_by_count: Mapping[int, Omegas],
    explained_by_rank: Mapping[int, np.ndarray],
) -> Verdict:
    """Does each slice of a head recover one of five pairs, at full rank and at low rank?"""
    counts = np.array([top_is_orthogonal(w) for w in W_E])
    kept = torch.from_numpy(counts)
    W = W_E[kept]

    def share(omegas: Mapping[int, Omegas], cut: float = ALIGNED) -> stats.Weakest:
        parts = {f"r = {rank}": one_each(omegas[rank][kept], W, rank, cut) for rank in (M, LOW)}
        return stats.weakest_share({name: (int(own.sum()), len(own)) for name, own in parts.items()})

    measurable = len(W) > 1
    found = share(trained)
    chance = share({rank: random_heads(len(W_E), M, rank) for rank in (M, LOW)})
    controls = {
        "r = 5: models with all five recovered": one_each(trained[M][kept], W, M).mean() if measurable else np.nan,
        "r = 2: models with two recovered": one_each(trained[LOW][kept], W, LOW).mean() if measurable else np.nan,
        "r = 5: pairs recovered, of 5": _recovered(trained[M][kept], W),
        "optimal heads": share(best).share,
        **{
            f"{name}, r = 5: pairs recovered, of 5": _recovered(omega[kept], W)
            for name, omega in (("optimal", best[M]), *others.items())
        },
        **{
            f"orthonormal features, p = 0.05, {name} weights, optimal: pairs recovered, of 5": _recovered(
                _orthonormal(pairs), torch.eye(M)[None]
            )
            for name, pairs in (("equal", RING), ("unequal", UNEQUAL))
        },
        "random rotations": chance.share,
        "|cosine| > 0.8": share(trained, 0.8).share,
        "r = 1: pairs that the slice serves, of 5": mean(pairs_served(o, w) for o, w in each(trained[1][kept], W)),
        "r = 1, optimal: pairs that the slice serves, of 5": mean(
            pairs_served(o, w) for o, w in each(best[1][kept], W)
        ),
        "two pairs: angle of the two spans (degrees)": mean(
            largest_angle(singular_vectors(o)[0][:2], w[:2]) for o, w in each(by_count[2][kept], W)
        ),
        "models that count": float(counts.sum()),
    }
    return Verdict(
        measured=f"The smaller of two shares ({found.part})",
        statistic=found.share if measurable else float("nan"),
        interval=found.interval if measurable else UNKNOWN,
        n_models=len(W),
        controls={name: float(value) for name, value in controls.items()},
        theory=controls["optimal heads"] if measurable else None,
        detail="Of the score's mean square the best head explains "
        + ", ".join(f"{mean(value[counts]):.1%} at r = {rank}" for rank, value in explained_by_rank.items())
        + ".",
        figures=_figures(trained, best, W, by_count, best_by_count, kept, explained_by_rank, counts)
        if measurable
        else (),
    )


def top_is_orthogonal(W_E: Float[Tensor, "feature hidden"]) -> bool:
    """Whether the first m features are learned, and orthogonal to each other."""
    return is_orthogonal(W_E[:M], range(M))


def one_each(omegas: Omegas, W_E: Stacked, rank: int, cut: float = ALIGNED) -> np.ndarray:
    """Of each model, whether `rank` pairs of the ring have a singular pair of their own."""
    return np.array([(_cosines(o, w) > cut).sum() >= rank for o, w in each(omegas, W_E)], dtype=bool)


def contributions(
    omega: Float[Tensor, "hidden hidden"], W_E: Float[Tensor, "feature hidden"], pairs: Sequence[Pair] = tuple(RING)
) -> np.ndarray:
    """What each slice adds to the score of each attended pair of features: (slice, pair); its sum is W_i Omega W_j."""
    U, S, V = singular_vectors(omega)
    query, key = torch.tensor(pairs).T
    W = W_E.double()
    found: np.ndarray = (S[:, None] * (U @ W[query].mT) * (V @ W[key].mT)).numpy()
    return found


def pairs_served(omega: Float[Tensor, "hidden hidden"], W_E: Float[Tensor, "feature hidden"]) -> float:
    """How many pairs share the first slice: participation ratio (sum |c|)^2 / sum c^2 of contributions."""
    first = np.abs(contributions(omega, W_E)[0])
    return float(first.sum() ** 2 / (first**2).sum()) if first.any() else 0.0


def _cosines(omega: Tensor, W_E: Tensor, pairs: Sequence[Pair] = tuple(RING)) -> np.ndarray:
    query, key = torch.tensor(pairs).T
    return matched_cosines(omega, W_E[query], W_E[key])


def _recovered(omegas: Omegas, W_E: Stacked) -> float:
    return mean((_cosines(o, w) > ALIGNED).sum() for o, w in each(omegas, W_E))


def _orthonormal(pairs: Sequence[Pair]) -> Omegas:
    return best_heads(torch.eye(M)[None], SparseUniform(n_features=M, feature_probability=0.05), pairs)


def _figures(
    trained: Mapping[int, Omegas],
    best: Mapping[int, Omegas],
    W: Stacked,
    by_count: Mapping[int, Omegas],
    best_by_count: Mapping[int, Omegas],
    kept: Tensor,
    explained_by_rank: Mapping[int, np.ndarray],
    counts: np.ndarray,
) -> "list[tuple[str, go.Figure]]":
    def cosine(omegas: Omegas, count: int, slices: int) -> float:
        """Mean over the pairs that have a slice."""
        sorted_ = (np.sort(_cosines(o, w, PAIRS[:count])) for o, w in each(omegas[kept], W))
        return mean(cosines[-min(count, slices) :].mean() for cosines in sorted_)

    def line(values: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
        return np.array(sorted(values)), np.array([values[x] for x in sorted(values)])

    null = {rank: random_heads(len(kept), M, rank) for rank in best}
    return [
        (
            "A head of rank 5 for five pairs: what each of its slices adds to the score of each attended pair of "
            "features. A slice of one pair would be one dark cell in its row.",
            plots.signed_heatmap(contributions(trained[M][kept][0], W[0]), "attended pair", "singular slice", "score"),
        ),
        (
            "Mean |cosine| of attended pairs with the singular pairs matched to them (the best five, where there are "
            "more), against the number of pairs at r = m = 5.",
            plots.curves(
                {
                    "trained": line({count: cosine(omega, count, M) for count, omega in by_count.items()}),
                    "optimal": line({count: cosine(omega, count, M) for count, omega in best_by_count.items()}),
                    "random rotations": line({count: cosine(null[M], count, M) for count in by_count}),
                },
                "attended pairs",
                "mean |cosine|",
            ),
        ),
        (
            "The same against the rank r for five pairs, of the r pairs that are matched best.",
            plots.curves(
                {
                    "trained": line({rank: cosine(omega, M, rank) for rank, omega in trained.items()}),
                    "optimal": line({rank: cosine(omega, M, rank) for rank, omega in best.items()}),
                    "random rotations": line({rank: cosine(omega, M, rank) for rank, omega in null.items()}),
                },
                "rank r",
                "mean |cosine|",
            ),
        ),
        (
            "Share of the mean square of the score for five pairs that the best head of each rank explains.",
            plots.curves(
                {"optimal": line({rank: mean(values[counts]) for rank, values in explained_by_rank.items()})},
                "rank r",
                "share explained",
            ),
        ),
    ]
