"""Claims of the pseudo-attention document: do singular vectors of a head recover the features that it attends to?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import probes
from tms_hooks import plots, theory
from tms_hooks.claims import Part, Verdict, claim, heads, lab, share, statistic
from tms_hooks.claims.heads import Heads, Omega, Omegas
from tms_hooks.data import Distribution, SparseUniform, known_moments
from tms_hooks.linalg import unit

if TYPE_CHECKING:
    import plotly.graph_objects as go

PAIR, OTHERS = (0, 1), (2, 3)
WORTH = {(2, 4): 1.0, (5, 8): 2.0}
ENDS = (0.05, 0.9)
M, P = 5, 0.5
PROBABILITIES, WIDTHS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9), (2, 5, 8)


class Study(NamedTuple):
    """Toys of one feature probability and one width, each with a head."""

    p: float
    heads: Heads
    pattern: Heads | None = None
    """Heads trained on attention as a softmax over keys."""


class Beyond(NamedTuple):
    """Arms that the document does not have."""

    biased: Omegas
    """Heads with b_Q and b_K, of the same toys as those without."""
    alone: Mapping[bool, Mapping[float, Heads]]
    """With biases? -> feature probability -> heads of toys with as many features as dimensions."""
    worth: Heads
    """Heads of two pairs, one worth twice the other."""


@claim("qk-recovers-features", "A", quick=8, full=40, seconds=40)
def qk_recovers_features(n_models: int) -> Verdict:
    """The first singular vectors of Omega recover the attended pair of features when features are orthogonal.

    Part "one pair": "when sparsity is low, such that top m features are orthogonally represented, singular vectors can
    recover representations of features from the top m group".
    Statistic: mean over models of the smaller |cosine| of the two: first left singular vector with the query feature,
    first right one with the key feature; n = 10, m = 5, importance 0.8^i, p = 0.5, pair (0, 1). Only models whose
    attended features are within 5.7 degrees of orthogonal to every other learned one count (|cosine| < 0.1).
    Threshold: above 0.9.
    Null: untrained heads.

    Beyond the source "with biases":
    Statistic: the same, of heads with b_Q and b_K on the same toys.
    Threshold: above 0.9.
    Null: untrained heads.

    Beyond the source "low sparsity alone":
    Statistic: the same mean at p = 0.9 less that at p = 0.05, n = m = 5, where features are orthogonal at either.
    Threshold: above 0, if low sparsity itself helped.
    Null: none, since it is a difference.

    Beyond the source "low sparsity alone, with biases":
    Statistic: the same difference of heads with b_Q and b_K.
    Threshold: above 0.
    Null: none, since it is a difference.

    Beyond the source "two pairs, one worth twice the other":
    Statistic: the share of models of whose two leading singular pairs each has |cosine| > 0.9 with one attended pair,
    query and key (matched): (2, 4) worth 1 and (5, 8) worth 2, n = 10, m = 5, importance 1, p = 0.05, with biases, so
    features in superposition. All models count.
    Threshold: above 1/2.
    Null: random rotations.

    Size: 8 models (quick), 40 (full); a quarter of them at each other p (0.05 to 0.9) and m (2, 8; n = 2m).
    Controls: the optimal head by the closed form (whitened feature directions); features that are not attended to,
    (2, 3); random directions in five dimensions; how many models count; the |cosine| with the closed form's directions
    in place of the features, without and with biases; the relative difference between trained and optimal head; at each
    p and m all models, trained and optimal, the closed form for orthonormal features, and the |cosine| with the
    features in whitened coordinates; heads trained on attention as a softmax over keys, query and key side apart, at
    p = 0.5 and 0.9.
    """
    quarter = max(n_models // 4, 1)
    toys = heads.representation(2 * M, M, P, n_models, decay=0.8)
    center = study(P, M, n_models, quarter)
    crowded = heads.representation(2 * M, M, heads.SPARSE, n_models)
    return judge_heads(
        center.heads,
        heads.untrained(center.heads.W_E),
        {p: center if p == P else study(p, M, quarter, quarter if p == 0.9 else 0) for p in PROBABILITIES},
        {float(m): center if m == M else study(P, m, quarter) for m in WIDTHS},
        Beyond(
            heads.train(toys, [[PAIR]], biases=True)[0],
            {biases: {p: as_many(p, n_models, biases) for p in ENDS} for biases in (False, True)},
            Heads(heads.train(crowded, [WORTH], biases=True)[0], crowded.W_E),
        ),
    )


def as_many(p: float, n_models: int, biases: bool) -> Heads:
    """Heads of toys with as many features as dimensions, which are orthogonal whatever p."""
    toys = heads.representation(M, M, p, n_models, decay=0.8)
    steps = 9_000 if biases else 3_000  # biases are slow to take up the mean
    return Heads(heads.train(toys, [[PAIR]], steps=steps, biases=biases)[0], toys.W_E)


def study(p: float, m: int, n_models: int, n_pattern: int = 0) -> Study:
    """Toys with one head each, `n_pattern` of them with another one that is trained on its attention pattern."""
    toys = heads.representation(2 * m, m, p, n_models, decay=0.8)
    by_scores = Heads(heads.train(toys, [[PAIR]])[0], toys.W_E)
    if not n_pattern:
        return Study(p, by_scores)
    omega = heads.train(toys, [[PAIR]], n_models=n_pattern, steps=400, head_objective="pattern")[0]
    return Study(p, by_scores, Heads(omega, toys.W_E[:n_pattern]))


def judge_heads(
    trained: Heads, untrained: Omegas, by_p: Mapping[float, Study], by_m: Mapping[float, Study], beyond: Beyond
) -> Verdict:
    """How near do first singular vectors come to the attended features?"""
    omega, W_E = trained
    data = SparseUniform(n_features=W_E.shape[1], feature_probability=P)
    optimal, best_biased = (heads.optimal(W_E, data, [PAIR], biases=biases) for biases in (False, True))
    counts = np.array([heads.is_orthogonal(w) for w in W_E])
    found, start = recovery(omega, W_E)[counts], recovery(untrained, W_E)[counts]
    others = {
        "optimal head": recovery(optimal, W_E)[counts],
        "untrained heads": start,
        "features not attended to": recovery(omega, W_E, OTHERS)[counts],
        "with biases": recovery(beyond.biased, W_E)[counts],
    }
    best = lab.mean(others["optimal head"])
    best_of_biased = lab.mean(recovery(best_biased, W_E)[counts])
    what = "The mean of the smaller |cosine| with the attended pair"
    parts = {
        "one pair": statistic(what, np.mean, found, null=(start,), best=best),
        "with biases": statistic(
            f"{what}, with biases,", np.mean, others["with biases"], null=(start,), best=best_of_biased
        ),
    }
    for biases, by_density in beyond.alone.items():
        sparse, dense = (recovery(*by_density[p])[[heads.is_orthogonal(w) for w in by_density[p].W_E]] for p in ENDS)
        parts[f"low sparsity alone{', with biases' if biases else ''}"] = statistic(
            "That mean at p = 0.9 less that at 0.05", lambda a, b: float(a.mean() - b.mean()), dense, sparse
        )
    parts["two pairs, one worth twice the other"] = both_recovered(beyond.worth)
    grids = {
        letter: {value: averages(study) for value, study in studies.items()}
        for letter, studies in (("p", by_p), ("m", by_m))
    }

    def lines(grid: Mapping[float, Mapping[str, float]]) -> dict[str, dict[float, float]]:
        names = max(grid.values(), key=len)  # only some settings have heads trained on patterns
        return {name: {x: means[name] for x, means in grid.items() if name in means} for name in names}

    drawn = {
        "The smaller |cosine| of the first singular pair with the attended features.": plots.distributions(
            {"trained": found} | others, "|cosine|", lab.colors(("trained", *others))
        ),
        **{
            f"The smaller |cosine| of the first singular pair with the attended features against {letter}: trained "
            "heads, the best head for the same W, and the closed form for orthonormal features. With the closed form's "
            "directions in place of the features the |cosine| is 1 where the formula explains all; whitened "
            "coordinates alone do not make features of singular vectors.": lab.curves(
                lines(grids[letter]), meaning, "|cosine|"
            )
            for letter, meaning in (("p", "feature probability p"), ("m", "hidden dimensions m"))
            if grids[letter]
        },
        **(_maps(by_p) if by_p else {}),
    }
    return Verdict(
        parts=parts,
        n_models=len(found),
        controls={name: lab.mean(values) for name, values in others.items()}
        | {
            "random directions": theory.sphere_mean_overlap(W_E.shape[-1]),
            "models that count": counts.sum(),
            "all models, orthogonal or not": recovery(omega, W_E).mean(),
            "with the closed form's directions": lab.mean(agreement(omega, optimal)[counts]),
            "with the closed form's directions, with biases": lab.mean(agreement(beyond.biased, best_biased)[counts]),
            "relative difference of Omega from the optimum": (
                (omega.double() - optimal).norm(dim=(-2, -1)) / optimal.norm(dim=(-2, -1))
            ).mean(),
        }
        | {
            f"{letter} = {value:g}: {name}": mean
            for letter, grid in grids.items()
            for value, means in grid.items()
            for name, mean in means.items()
        },
        theory=best,
        detail=f"{counts.sum()} of {len(counts)} models have orthogonal attended features. The best possible head has "
        f"{best:.3g}.",
        figures=drawn if len(found) else (),
    )


def _maps(by_p: Mapping[float, Study]) -> "dict[str, go.Figure]":
    """Omega of the first toy's head at each p, and how features lie to its singular vectors."""
    found: dict[str, list[np.ndarray]] = {"omega": [], "left": [], "right": []}
    for study in by_p.values():
        omega, W = study.heads.omega[0].double(), unit(study.heads.W_E[0].double())
        U, S, Vh = torch.linalg.svd(omega)
        for name, matrix in (("omega", omega / S[0]), ("left", W @ U), ("right", W @ Vh.mT)):
            found[name].append(matrix.numpy())
    titles = [f"p = {p:g}" for p in by_p]
    query, key = PAIR
    return {
        "Omega of the first toy's head at each p, over its largest singular value.": plots.matrices(
            np.stack(found["omega"]), titles, "key dimension", "query dimension", "Omega / sigma<sub>1</sub>"
        ),
        f"W U: cosines of the features with the left singular vectors; feature {query} is attended to by the query. "
        "Where the head recovers it, it alone is dark in the first column.": plots.matrices(
            np.stack(found["left"]), titles, "singular vector", "feature", "cosine"
        ),
        f"W V: the same of the right singular vectors, for feature {key} of the key.": plots.matrices(
            np.stack(found["right"]), titles, "singular vector", "feature", "cosine"
        ),
    }


def both_recovered(trained: Heads) -> Part:
    """Whether the two leading singular pairs are the two attended pairs, one each."""
    query, key = torch.tensor(list(WORTH)).T

    def held(omegas: Omegas) -> np.ndarray:
        return np.array(
            [
                bool((heads.matched_cosines(leading(o, 2), w[query], w[key]) > heads.ALIGNED).all())
                for o, w in zip(omegas, trained.W_E, strict=True)
            ]
        )

    models, m = len(trained.W_E), trained.W_E.shape[-1]
    data = SparseUniform(n_features=trained.W_E.shape[1], feature_probability=heads.SPARSE)
    return share(
        "The share of models that recover both pairs",
        held(trained.omega),
        null=held(heads.at_random(models, m, m)),
        best=lab.mean(held(heads.optimal(trained.W_E, data, WORTH, biases=True))),
    )


def leading(omega: Omega, count: int) -> Omega:
    """The leading slices of a head."""
    U, S, V = heads.singular_vectors(omega)
    return (U[:count].mT * S[:count]) @ V[:count]


def averages(study: Study) -> dict[str, float]:
    """Mean |cosines| of all models of one setting."""
    omega, W_E = study.heads
    n, m = W_E.shape[1:]
    data = SparseUniform(n_features=n, feature_probability=study.p)
    best = heads.optimal(W_E, data, [PAIR])
    found = {
        "trained": recovery(omega, W_E),
        "optimal": recovery(best, W_E),
        "orthonormal features, closed form": np.array([theory.qk_orthonormal_cosine(study.p, m)]),
        "with the closed form's directions": agreement(omega, best),
        "whitened coordinates": np.array([whitened(o, w, data) for o, w in zip(omega, W_E, strict=True)]),
        "features not attended to": recovery(omega, W_E, OTHERS),
    }
    if study.pattern:
        both = np.array([sides(o, *w[list(PAIR)]) for o, w in zip(*study.pattern, strict=True)])
        found |= {"softmax target, query": both[:, 0], "softmax target, key": both[:, 1]}
    return {name: lab.mean(cosines) for name, cosines in found.items()}


def sides(omega: Omega, query: Float[Tensor, " hidden"], key: Float[Tensor, " hidden"]) -> tuple[float, float]:
    """|Cosine| of the first left singular vector with one direction, and of the first right one with another."""
    U, _, Vh = torch.linalg.svd(omega.double())
    return float((U[:, 0] @ unit(query)).abs()), float((Vh[0] @ unit(key)).abs())


def recovery(omega: Omegas, W_E: lab.Stacked, pair: tuple[int, int] = PAIR) -> np.ndarray:
    """The smaller |cosine| of each head's first singular vectors with a pair of features."""
    return np.array([min(sides(o, *w[list(pair)])) for o, w in zip(omega, W_E, strict=True)])


def agreement(omega: Omegas, others: Omegas) -> np.ndarray:
    """The smaller |cosine| of each head's first singular vectors with those of another head."""
    U, _, Vh = torch.linalg.svd(others.double())
    return np.array([min(sides(o, left, right)) for o, left, right in zip(omega, U[..., 0], Vh[:, 0], strict=True)])


def whitened(omega: Omega, W_E: Float[Tensor, "feature hidden"], data: Distribution) -> float:
    """The smaller |cosine| of the first singular pair with the attended features, all in whitened coordinates."""
    W = W_E.double()
    query, key = (W[i : i + 1] for i in PAIR)
    found = probes.align(omega, query, key, n_null=1, covariance=W.mT @ known_moments(data)[0] @ W)
    return float(torch.minimum(found.left_cosines[0].abs(), found.right_cosines[0].abs()))
