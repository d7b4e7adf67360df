"""A claim about the rank of a head: how many attended pairs do its singular vectors recover, one each or shared?"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from tms_hooks import plots
from tms_hooks.claims import Verdict, claim, heads, lab
from tms_hooks.claims.heads import ALIGNED, Directions, Omega, Omegas
from tms_hooks.data import SparseUniform
from tms_hooks.losses import Pair

N, M, P = 10, 5, 0.5
RING: list[Pair] = [(i, (i + 1) % M) for i in range(M)]
"""One pair for each of the m features: a query of each, a key of each."""
PAIRS: list[Pair] = [*RING, *((i, (i + 2) % M) for i in range(M))]
COUNTS = (1, 2, 5, 10)
UNEQUAL: list[Pair] = [pair for weight, pair in zip((5, 4, 3, 2, 1), RING, strict=True) for _ in range(weight)]
LOW = 2


@claim("qk-rank", "A", quick=12, full=100)
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
    toys = heads.representation(N, M, P, n_models, decay=0.8)
    *equal, unequal = heads.train(toys, [*(PAIRS[:count] for count in COUNTS), UNEQUAL], M)
    return judge_rank(
        toys.W_E,
        dict(zip(COUNTS, equal, strict=True)),
        {rank: heads.train(toys, [RING], rank)[0] for rank in (1, LOW)},
        {"unequal weights": unequal, "untrained": heads.untrained(toys.W_E, M)},
    )


def judge_rank(
    W_E: lab.Stacked, by_count: Mapping[int, Omegas], low: Mapping[int, Omegas], others: Mapping[str, Omegas]
) -> Verdict:
    """Does each slice of a head recover one of five pairs, at full rank and at low rank?"""
    data = SparseUniform(n_features=W_E.shape[1], feature_probability=P)
    trained = {**low, M: by_count[M]}
    best = {rank: heads.optimal(W_E, data, RING, rank) for rank in range(1, M + 1)}
    best_by_count = {count: heads.optimal(W_E, data, PAIRS[:count]) for count in COUNTS}
    null = {rank: heads.at_random(len(W_E), M, rank) for rank in best}
    counts = torch.tensor([heads.is_orthogonal(w[:M], range(M)) for w in W_E])
    each = heads.measuring(W_E, counts)
    explained = {rank: lab.mean(heads.explained(w, data, RING, rank) for w in W_E[counts]) for rank in best}

    def parts(omegas: Mapping[int, Omegas], cut: float = ALIGNED) -> dict[str, np.ndarray]:
        return {f"r = {rank}": each(lambda o, w: recovered(o, w, cut), omegas[rank]) >= rank for rank in (M, LOW)}

    shares = parts(trained)
    best_share = lab.weakest(parts(best))
    unequal = heads.optimal(W_E, data, UNEQUAL)
    kinds = {
        "trained": (by_count, trained),
        "optimal": (best_by_count, best),
        "random rotations": (dict.fromkeys(COUNTS, null[M]), null),
    }
    lines_by_count = {
        name: {count: lab.mean(each(partial(mean_cosine, count=count), omegas[count])) for count in COUNTS}
        for name, (omegas, _) in kinds.items()
    }
    lines_by_rank = {
        name: {rank: lab.mean(each(mean_cosine, omegas[rank])) for rank in sorted(omegas)}
        for name, (_, omegas) in kinds.items()
    }
    return Verdict.of_shares(
        "The smaller of two shares",
        shares,
        n_models=int(counts.sum()),
        controls={
            "r = 5: models with all five recovered": lab.mean(shares["r = 5"]),
            "r = 2: models with two recovered": lab.mean(shares["r = 2"]),
            "r = 5: pairs recovered, of 5": lab.mean(each(recovered, trained[M])),
            "optimal heads": best_share,
            **{
                f"{name}, r = 5: pairs recovered, of 5": lab.mean(each(recovered, omega))
                for name, omega in {"optimal": best[M], "unequal weights, optimal": unequal, **others}.items()
            },
            **{
                f"orthonormal features, p = 0.05, {name} weights, optimal: pairs recovered, of 5": recovered(
                    heads.optimal(torch.eye(M)[None], SparseUniform(n_features=M, feature_probability=0.05), pairs)[0],
                    torch.eye(M),
                )
                for name, pairs in (("equal", RING), ("unequal", UNEQUAL))
            },
            "random rotations": lab.weakest(parts(null)),
            "|cosine| > 0.8": lab.weakest(parts(trained, 0.8)),
            "r = 1: pairs that the slice serves, of 5": lab.mean(each(pairs_served, trained[1])),
            "r = 1, optimal: pairs that the slice serves, of 5": lab.mean(each(pairs_served, best[1])),
            "two pairs: angle of the two spans (degrees)": lab.mean(each(heads.query_angle, by_count[2])),
            "models that count": counts.sum(),
        },
        theory=best_share,
        detail="Of the score's mean square the best head explains "
        + ", ".join(f"{share:.1%} at r = {rank}" for rank, share in explained.items())
        + ".",
        figures=lambda: {
            "A head of rank 5 for five pairs: what each of its slices adds to the score of each attended pair of "
            "features. A slice of one pair would be one dark cell in its row.": plots.signed_heatmap(
                contributions(trained[M][counts][0], W_E[counts][0]), "attended pair", "singular slice", "score"
            ),
            "Mean |cosine| of attended pairs with the singular pairs matched to them (the best five, where there are "
            "more), against the number of pairs at r = m = 5.": lab.curves(
                lines_by_count, "attended pairs", "mean |cosine|"
            ),
            "The same against the rank r for five pairs, of the r pairs that are matched best.": lab.curves(
                lines_by_rank, "rank r", "mean |cosine|"
            ),
            "Share of the mean square of the score for five pairs that the best head of each rank explains.": (
                lab.curves({"optimal": explained}, "rank r", "share explained")
            ),
        },
    )


def pair_cosines(omega: Omega, W_E: Directions, count: int = M) -> Float[np.ndarray, " pair"]:
    """|Cosine| of each of the first attended pairs with the singular pair matched to it; 0 if none is left for it."""
    query, key = torch.tensor(PAIRS[:count]).T
    return heads.matched_cosines(omega, W_E[query], W_E[key])


def mean_cosine(omega: Omega, W_E: Directions, count: int = M) -> float:
    """Mean over those of the first attended pairs that have a singular pair."""
    return lab.mean(cosine for cosine in pair_cosines(omega, W_E, count) if cosine)


def recovered(omega: Omega, W_E: Directions, cut: float = ALIGNED) -> int:
    """How many pairs of the ring have a singular pair of their own."""
    return int((pair_cosines(omega, W_E) > cut).sum())


def contributions(omega: Omega, W_E: Directions) -> Float[np.ndarray, "k pair"]:
    """What each slice adds to the score of each attended pair of features; the sum over slices is W_i Omega W_j."""
    U, S, V = heads.singular_vectors(omega)
    query, key = torch.tensor(RING).T
    W = W_E.double()
    return (S[:, None] * (U @ W[query].mT) * (V @ W[key].mT)).numpy()


def pairs_served(omega: Omega, W_E: Directions) -> float:
    """How many pairs share the first slice: participation ratio (sum |c|)^2 / sum c^2 of contributions."""
    first = np.abs(contributions(omega, W_E)[0])
    return float(first.sum() ** 2 / (first**2).sum()) if first.any() else 0.0
