"""Claims of the notes on "Toy Models of Superposition" (Elhage et al. 2022): sparse uniform features, ReLU, tied, bias.

The usual recipe, 3,000 steps.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, stats, theory
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.lab import LEARNED, ByDensity, Stacked
from tms_hooks.config import Activation

DENSITIES = lab.densities(10)
STEPS = 3_000


@claim("superposition-emerges", "N", quick=6, full=40)
def superposition_emerges(n_models: int) -> Verdict:
    """Dense features: only the most important get dimensions, orthogonal; sparser: antipodal pairs, then a pentagon.

    Statistic: the smallest of three shares, n = 5, m = 2, importance 0.9^i: models at p = 1 that have learned (norm >
    0.5) the first two features and no other, with |cosine| below 0.1; models that are two antipodal pairs (a square) at
    the density in between where most are, chosen on the first half of the models and judged on the second; models at
    p = 0.05 that are a pentagon.
    Threshold: above 1/2, for each.
    Size: 6 models (quick), 40 (full) at each of ten densities p from 1 to 0.05, evenly spaced on a log scale.
    Controls: the same at learned > 0.3 and > 0.7; untrained weights; a linear output, which should never superpose.
    """

    def trained(act: Activation) -> dict[float, Stacked]:
        return {p: lab.train_sparse(5, 2, p, n_models, steps=STEPS, output_act=act, decay=0.9).W_E for p in DENSITIES}

    start = dict.fromkeys(DENSITIES, lab.untrained_directions(5, 2, n_models))
    return judge_emergence(trained("relu"), trained("identity"), start)


def is_top_of_pca(W: Float[Tensor, "feature hidden"], learned: float = LEARNED) -> bool:
    """Whether the first features are learned, one per hidden dimension, orthogonal, and no other is."""
    m = W.shape[1]
    alive = geometry.represented(W, learned).nonzero()[:, 0].tolist()
    return alive == list(range(m)) and float(lab.pair_overlaps(W[:m]).max()) < geometry.ORTHOGONAL


def judge_emergence(trained: ByDensity, linear: ByDensity, untrained: ByDensity) -> Verdict:
    """Two orthogonal features, then antipodal pairs, then a pentagon, as features grow sparser?"""

    def parts(weights: ByDensity, learned: float = LEARNED) -> dict[str, np.ndarray]:
        def named(name: str, W: Stacked) -> np.ndarray:
            return np.array([geometry.name_polytope(w, learned) == name for w in W])

        dense, *between, sparse = sorted(weights, reverse=True)
        square = {p: named("square", weights[p]) for p in between}
        half = len(weights[dense]) // 2
        best = max(between, key=lambda p: square[p][:half].mean())
        return {
            "dense, the first two": np.array([is_top_of_pca(w, learned) for w in weights[dense]]),
            f"in between, a square at p = {best:.2g}": square[best][half:],
            "sparse, a pentagon": named("pentagon", weights[sparse]),
        }

    shapes = {
        p: stats.census([geometry.name_polytope(w) for w in W], np.zeros(len(W)), "_") for p, W in trained.items()
    }
    learned = {
        name: {p: geometry.represented(W).sum(1).double().mean() for p, W in weights.items()}
        for name, weights in (("ReLU", trained), ("linear", linear))
    }
    return Verdict.of_shares(
        "The smallest of three shares",
        parts(trained),
        n_models=lab.total(trained),
        controls=lab.at_cuts(lambda cut: lab.weakest(parts(trained, cut)))
        | {"linear output": lab.weakest(parts(linear)), "untrained": lab.weakest(parts(untrained))},
        detail=lab.listing(
            "Most frequent shapes", {f"p = {p:.2g}": f"{t.share.iloc[0]:.0%} {t.index[0]}" for p, t in shapes.items()}
        ),
        figures={
            "Mean number of features learned against the feature probability.": lab.curves(
                learned, "feature probability", "features learned", log_x=True
            ),
            "Dimensionality D_i of every feature, learned or not; dotted: features of ideal shapes.": (
                plots.strips(
                    {f"{p:.2g}": geometry.dimensionality(W).flatten().numpy() for p, W in trained.items()},
                    "D_i",
                    "feature probability",
                    {"1": 1.0, "digon": 1 / 2, "pentagon": 2 / 5},
                )
            ),
            **{
                f"Seed 0 at p = {ps[0]:.2g} to {ps[-1]:.2g}: feature 0 is the most important.": lab.arrows(
                    {f"p = {p:.2g}": trained[p][0] for p in ps}
                )
                for ps in (list(trained)[:5], list(trained)[5:])
                if ps
            },
        },
    )


@claim("cosine-misleads", "N", quick=10, full=50)
def cosine_misleads(n_models: int) -> Verdict:
    """Under superposition hidden states of inputs that share no feature have cosine similarities far from 0.

    Statistic: mean over models of the mean |cosine| between the hidden states of all pairs of inputs that hold one
    learned feature each (norm > 0.5), not the same; n = 20, m = 5, importance 1, p = 0.01.
    Threshold: above 0.1, from where this library counts directions as overlapping.
    Size: 10 models (quick), 50 (full), at each density.
    Controls: the same at p = 0.1 and 0.3; with a linear output (no superposition); in untrained models; random
    directions in five dimensions (closed form); learned > 0.3 and > 0.7.
    """
    dense, medium, sparse = (lab.train_sparse(20, 5, p, n_models, steps=STEPS).W_E for p in (0.3, 0.1, 0.01))
    linear = lab.train_sparse(20, 5, 0.01, n_models, steps=STEPS, output_act="identity").W_E
    start = lab.untrained_directions(20, 5, n_models)
    return judge_cosines(sparse, {"p = 0.1": medium, "p = 0.3": dense, "linear output": linear, "untrained": start})


def judge_cosines(W: Stacked, others: Mapping[str, Stacked]) -> Verdict:
    """How far from orthogonal are hidden states that have no feature in common?"""
    means = mean_cosines(W)
    return Verdict.of_statistic(
        "The mean |cosine| of hidden states with no feature in common",
        np.mean,
        means,
        n_models=len(means),
        # Untrained features are short: all of them count.
        controls={n: lab.mean(mean_cosines(w, 0.0 if n == "untrained" else LEARNED)) for n, w in others.items()}
        | lab.at_cuts(lambda cut: lab.mean(mean_cosines(W, cut)))
        | {"random directions": theory.sphere_mean_overlap(W.shape[-1])},
        detail=f"Between models it ranges from {means.min():.3g} to {means.max():.3g}." if len(means) else "",
        figures=lambda: {
            "Mean |cosine| of each model.": plots.distributions({"models": means}, "|cosine|", {"models": plots.TOY}),
            "Inner products of all features in the first model of each kind.": lab.grams(
                {name: w[0] for name, w in {"p = 0.01": W, **others}.items()}
            ),
        },
    )


def mean_cosines(W: Stacked, learned: float = LEARNED) -> np.ndarray:
    """Mean |cosine| over pairs of learned features, of each model that has learned at least two."""
    alive = [w[geometry.represented(w, learned)].double() for w in W]
    return np.array([float(lab.pair_overlaps(w).mean()) for w in alive if len(w) > 1])
