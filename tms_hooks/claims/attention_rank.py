"""A claim about the rank of a head: how many attended pairs do its singular vectors recover, one each or shared?"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from tms_hooks import plots
from tms_hooks.claims import Part, Verdict, claim, heads, lab, share, statistic
from tms_hooks.claims.heads import ALIGNED, Directions, Heads, Omega, Omegas
from tms_hooks.data import SparseUniform
from tms_hooks.losses import Pair

N, M, P = 10, 5, 0.5
RING: list[Pair] = [(i, (i + 1) % M) for i in range(M)]
"""One pair for each of the m features: a query of each, a key of each."""
PAIRS: list[Pair] = [*RING, *((i, (i + 2) % M) for i in range(M))]
COUNTS = (1, 2, 5, 10)
UNEQUAL = dict(zip(RING, (5.0, 4.0, 3.0, 2.0, 1.0), strict=True))
WIDE = {(i, i + 1): 10.0 - i for i in range(10)}
WIDE_P = 0.1
LOW = 2


class Beyond(NamedTuple):
    """Arms that the document does not have."""

    unequal: Omegas
    """Heads of pairs of unequal worth, of the same toys."""
    biased: Omegas
    """The same with b_Q and b_K."""
    wide: Heads
    """Heads of many pairs in wide toys, with biases."""


@claim("qk-rank", "A", quick=8, full=100, seconds=45)
def qk_rank(n_models: int) -> Verdict:
    """With r = m the singular vectors of a head recover all m attended features; with r < m, one slice serves several.

    n = 10, m = 5, importance 0.8^i, p = 0.5, five attended pairs (i, i + 1 mod 5) of equal weight. Only models whose
    first five features are learned and orthogonal to each other (|cosine| < 0.1) count.

    Part "r = m": "In the m = r regime, with low sparsity, can all m features be recovered by Ω?".
    Statistic: the share of models whose five singular pairs, at r = 5, each have |cosine| > 0.9 with one attended pair,
    query and key (matched).
    Threshold: above 1/2.
    Null: random rotations in place of the singular vectors.

    Part "r < m, one slice for several": "does something more tricky happen, like one slice works for two dimensions?".
    Statistic: mean over models of how many of the five pairs the only slice serves at r = 1, the participation ratio of
    what it adds to the score of each.
    Threshold: above 2.
    Null: random rotations.

    Beyond the source "r < m, one slice for each":
    Statistic: the share of models whose two singular pairs, at r = 2, each have |cosine| > 0.9 with one attended pair.
    Threshold: above 1/2.
    Null: random rotations.

    Beyond the source "unequal weights":
    Statistic: the first share, of pairs worth 5, 4, 3, 2 and 1, which tells singular values apart.
    Threshold: above 1/2.
    Null: random rotations.

    Beyond the source "unequal weights, with biases":
    Statistic: the same of heads with b_Q and b_K.
    Threshold: above 1/2.
    Null: random rotations.

    Beyond the source "n = 100, m = 50":
    Statistic: mean over 8 models of the share of ten pairs, worth 10 to 1, that have a singular pair of their own
    (|cosine| > 0.9); p = 0.1, importance 0.95^i, heads with biases, r = m. All models count.
    Threshold: above 1/2.
    Null: random rotations.

    Size: 8 models (quick), 100 (full).
    Controls: the optimal heads by the closed form, of five orthonormal features at p = 0.05 too; untrained heads; the
    same at |cosine| > 0.8; two pairs: the largest angle between the span of the two leading left singular vectors and
    that of the two query features.
    """
    toys = heads.representation(N, M, P, n_models, decay=0.8)
    *equal, unequal = heads.train(toys, [*(PAIRS[:count] for count in COUNTS), UNEQUAL], M)
    return judge_rank(
        toys.W_E,
        dict(zip(COUNTS, equal, strict=True)),
        {rank: heads.train(toys, [RING], rank)[0] for rank in (1, LOW)},
        heads.untrained(toys.W_E, M),
        Beyond(unequal, heads.train(toys, [UNEQUAL], M, steps=9_000, biases=True)[0], wide_heads()),
    )


def wide_heads() -> Heads:
    """Eight toys of a hundred features in fifty dimensions, each with a head for ten pairs."""
    toys = heads.of_run(lab.train_sparse(100, 50, WIDE_P, 8, steps=1_000, batch_size=256, decay=0.95))
    return Heads(heads.train(toys, [WIDE], biases=True)[0], toys.W_E)


def judge_rank(
    W_E: lab.Stacked, by_count: Mapping[int, Omegas], low: Mapping[int, Omegas], untrained: Omegas, beyond: Beyond
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

    def own(omega: Omegas, rank: int = M, cut: float = ALIGNED) -> np.ndarray:
        """Whether as many pairs as the rank have a singular pair of their own."""
        return np.asarray(each(lambda o, w: recovered(o, w, cut), omega) >= rank)

    def shares(omegas: Mapping[int, Omegas], cut: float = ALIGNED) -> dict[str, np.ndarray]:
        return {f"r = {rank}": own(omegas[rank], rank, cut) for rank in (M, LOW)}

    unequal, unequal_biased = (heads.optimal(W_E, data, UNEQUAL, biases=biases) for biases in (False, True))
    at_random, best_shares = shares(null), {name: lab.mean(held) for name, held in shares(best).items()}
    all_five = "The share of models whose five singular pairs are one attended pair each"
    parts = {
        "r = m": share(all_five, shares(trained)["r = 5"], null=at_random["r = 5"], best=best_shares["r = 5"]),
        "r < m, one slice for several": statistic(
            "The mean number of pairs that the only slice serves, of five,",
            np.mean,
            each(pairs_served, trained[1]),
            null=(each(pairs_served, null[1]),),
            best=lab.mean(each(pairs_served, best[1])),
        ),
        "r < m, one slice for each": share(
            "The share of models whose two singular pairs are one attended pair each",
            shares(trained)["r = 2"],
            null=at_random["r = 2"],
            best=best_shares["r = 2"],
        ),
        **{
            name: share(all_five, own(omegas), null=at_random["r = 5"], best=lab.mean(own(optimum)))
            for name, omegas, optimum in (
                ("unequal weights", beyond.unequal, unequal),
                ("unequal weights, with biases", beyond.biased, unequal_biased),
            )
        },
        "n = 100, m = 50": wide_recovery(beyond.wide),
    }
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
    drawn = {
        "A head of rank 5 for five pairs: what each of its slices adds to the score of each attended pair of features. "
        "A slice of one pair would be one dark cell in its row.": lambda: plots.signed_heatmap(
            contributions(trained[M][counts][0], W_E[counts][0]), "attended pair", "singular slice", "score"
        ),
        "Mean |cosine| of attended pairs with the singular pairs matched to them (the best five, where there are "
        "more), against the number of pairs at r = m = 5.": lambda: lab.curves(
            lines_by_count, "attended pairs", "mean |cosine|"
        ),
        "The same against the rank r for five pairs, of the r pairs that are matched best.": lambda: lab.curves(
            lines_by_rank, "rank r", "mean |cosine|"
        ),
        "Share of the mean square of the score for five pairs that the best head of each rank explains.": lambda: (
            lab.curves({"optimal": explained}, "rank r", "share explained")
        ),
    }
    return Verdict(
        parts=parts,
        n_models=int(counts.sum()),
        controls={
            "r = 5: pairs recovered, of 5": lab.mean(each(recovered, trained[M])),
            **{
                f"{name}, r = 5: pairs recovered, of 5": lab.mean(each(recovered, omega))
                for name, omega in {
                    "optimal": best[M],
                    "unequal weights": beyond.unequal,
                    "unequal weights, optimal": unequal,
                    "unequal weights, with biases": beyond.biased,
                    "unequal weights, with biases, optimal": unequal_biased,
                    "untrained": untrained,
                }.items()
            },
            **{
                f"orthonormal features, p = 0.05, {name} weights, optimal: pairs recovered, of 5": recovered(
                    heads.optimal(torch.eye(M)[None], SparseUniform(n_features=M, feature_probability=0.05), pairs)[0],
                    torch.eye(M),
                )
                for name, pairs in (("equal", RING), ("unequal", UNEQUAL))
            },
            **{f"{name}, |cosine| > 0.8": lab.mean(held) for name, held in shares(trained, 0.8).items()},
            "two pairs: angle of the two spans (degrees)": lab.mean(each(heads.query_angle, by_count[2])),
            "models that count": counts.sum(),
        },
        detail="Of the score's mean square the best head explains "
        + ", ".join(f"{share:.1%} at r = {rank}" for rank, share in explained.items())
        + ".",
        figures={caption: draw() for caption, draw in drawn.items()} if counts.any() else (),
    )


def wide_recovery(wide: Heads) -> Part:
    """The share of many pairs that have a singular pair of their own."""
    query, key = torch.tensor(list(WIDE)).T

    def recovery(omegas: Omegas) -> np.ndarray:
        return np.array(
            [
                (heads.matched_cosines(o, w[query], w[key]) > ALIGNED).mean()
                for o, w in zip(omegas, wide.W_E, strict=True)
            ]
        )

    models, n, m = wide.W_E.shape
    data = SparseUniform(n_features=n, feature_probability=WIDE_P)
    return statistic(
        "The mean share of ten pairs that have a singular pair of their own",
        np.mean,
        recovery(wide.omega),
        null=(recovery(heads.at_random(models, m, m)),),
        best=lab.mean(recovery(heads.optimal(wide.W_E, data, WIDE, biases=True))),
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
