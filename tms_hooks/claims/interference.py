"""Claims of "Superposition and bottlenecks" about crowded directions: in many dimensions, and with two active features.

What the document calls the interference of two directions is their |cosine|; here it is their overlap. The models are
those of `tms_hooks.claims.bottlenecks`: "learned" means a norm above 0.1, and features within 5 degrees of each other
are one direction.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from tms_hooks import geometry, theory
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.bottlenecks import CUTS, LEARNED, STEPS, mean_directions, train_onehot, with_directions
from tms_hooks.claims.lab import Stacked
from tms_hooks.config import ToyConfig
from tms_hooks.data import KHot
from tms_hooks.linalg import unit

WIDTHS = (2, 4, 8, 16)
FEATURES_PER_DIMENSION = 4


@claim("interference-mean-vs-max", "B", quick=3, full=12)
def interference_mean_vs_max(n_models: int) -> Verdict:
    """Trained features form tegum products, where mean interference falls as 1/m, not as the 1/sqrt(m) of a sphere.

    Statistic: slope of log mean interference on log m, m = 2, 4, 8 and 16, n = 4 m one-hot features; interference is
    the |cosine| of two distinct directions of a model. The document gives -1 for a long tegum product of polytopes of
    fixed size and -1/2 for directions spread over the sphere, and takes it that features go for sparse interference.
    Threshold: below -3/4, half-way.
    Size: 3 models for each m (quick), 12 (full).
    Controls: the slope of as many random directions, of a tegum product of pentagons (closed form), and of the root
    mean square of either kind of number; the maximum at m = 16 of trained, random and tegum directions and the least
    one possible (Welch); factors and directions of a trained model at m = 16; learned > 0.05 and > 0.2; the slope for
    sparse uniform features (p = 0.01, bias, m = 2, 4 and 8, norm > 0.5).
    """
    return judge_overlaps(
        {m: train_onehot(FEATURES_PER_DIMENSION * m, m, n_models, "relu").W_E for m in WIDTHS},
        {m: lab.train_sparse(FEATURES_PER_DIMENSION * m, m, 0.01, n_models, steps=2_000).W_E for m in WIDTHS[:-1]},
    )


class Overlaps(NamedTuple):
    """|Cosines| of all pairs of directions of each model that has at least two, put together."""

    mean: np.ndarray
    rms: np.ndarray
    maximum: np.ndarray


def direction_overlaps(W: Stacked, learned: float = LEARNED) -> Overlaps:
    """Overlaps of the distinct directions of each model, a direction being the mean of its features' unit vectors."""
    found = []
    for w in W:
        features, groups = unit(w), geometry.directions(w, learned)
        if len(groups) > 1:
            pairs = lab.pair_overlaps(torch.stack([features[group].mean(0) for group in groups]))
            found.append((float(pairs.mean()), float(pairs.square().mean().sqrt()), float(pairs.max())))
    return Overlaps(*np.array(found).reshape(-1, 3).T)


def random_like(W: Stacked) -> Stacked:
    """As many random directions as each model has learned; the others are zero."""
    made = torch.zeros_like(W)
    for i, count in enumerate(geometry.count_directions(W, LEARNED).tolist()):
        generator = torch.Generator().manual_seed(i)
        made[i, :count] = unit(torch.randn(count, W.shape[-1], generator=generator, dtype=torch.float64))
    return made


def judge_overlaps(trained: Mapping[int, Stacked], sparse: Mapping[int, Stacked]) -> Verdict:
    """Does the mean overlap of trained directions fall like a tegum product's or like a sphere's?"""
    found = {
        "trained": {m: direction_overlaps(W) for m, W in trained.items()},
        "random directions": {m: direction_overlaps(random_like(W)) for m, W in trained.items()},
    }
    pentagons = {m: theory.tegum_overlaps(geometry.ideal_polytopes(5)["pentagon"], m) for m in trained}
    counts = mean_directions(trained)
    means = {kind: {m: lab.mean(at_m.mean) for m, at_m in by_m.items()} for kind, by_m in found.items()} | {
        "tegum product of pentagons": {m: at_m.mean for m, at_m in pentagons.items()}
    }
    maxima = {kind: {m: lab.mean(at_m.maximum) for m, at_m in by_m.items()} for kind, by_m in found.items()} | {
        "tegum product of pentagons": {m: at_m.maximum for m, at_m in pentagons.items()},
        "least possible": {m: theory.welch_bound(max(round(n), 2), m) for m, n in counts.items()},
    }
    widest = max(trained)
    factors = [len(geometry.tegum_factors(w, LEARNED)) for w in trained[widest]]

    def slope_of_means(models: Mapping[int, Stacked], learned: float) -> float:
        return lab.log_slope({m: lab.mean(direction_overlaps(W, learned).mean) for m, W in models.items()})

    return Verdict.of_statistic(
        "The slope of log mean interference on log m",
        lambda *samples: lab.log_slope(dict(zip(trained, map(lab.mean, samples), strict=True))),
        *(at_m.mean for at_m in found["trained"].values()),
        n_models=lab.total(trained),
        controls={f"slope, {kind}": lab.log_slope(by_m) for kind, by_m in means.items() if kind != "trained"}
        | {
            f"slope of root mean square, {kind}": lab.log_slope({m: lab.mean(at_m.rms) for m, at_m in by_m.items()})
            for kind, by_m in found.items()
        }
        | {f"maximum at m = {widest}, {kind}": by_m[widest] for kind, by_m in maxima.items()}
        | {f"directions at m = {widest}": counts[widest], f"tegum factors at m = {widest}": np.mean(factors)}
        | lab.at_cuts(lambda cut: slope_of_means(trained, cut), CUTS, "slope at ")
        | {"slope, sparse uniform features": slope_of_means(sparse, lab.LEARNED)},
        detail=lab.listing("Directions learned", {f"m = {m}": f"{n:.3g}" for m, n in counts.items()}),
        figures=lambda: {
            f"{name} overlap of directions against the number of dimensions.": lab.curves(
                by_kind, "hidden dimensions m", f"{name.lower()} |cosine|", log_x=True
            )
            .update_xaxes(tickvals=list(trained))
            .update_yaxes(type="log")
            for name, by_kind in (("Mean", means), ("Maximum", maxima))
        },
    )


def train_active(k: int, n_features: int, d_hidden: int, n_models: int) -> Stacked:
    """As `train_onehot`, with k active features, all n choose k sets of them."""
    cfg = ToyConfig(n_features=n_features, d_hidden=d_hidden, output_bias=False)
    return lab.train_toys(cfg, KHot(n_features=n_features, k=k), n_models, steps=STEPS).W_E


@claim("two-active", "B", quick=10, full=40)
def two_active(n_models: int) -> Verdict:
    """The five directions of one-hot features in two dimensions survive when two features are active at once.

    Statistic: share of models with five distinct directions among learned features (norm > 0.1) when all pairs of
    features are the data set; the smallest over n = 5, 8, 12 and 20.
    Threshold: above 1/2, for each n.
    Size: 10 models for each n (quick), 40 (full).
    Controls: one active feature, the same seeds; the share at each n; three active at n = 8; untrained weights; learned
    > 0.05 and > 0.2; the mean number of directions and of learned features, with one and with two active; nine
    directions in three dimensions, n = 12, with one and with two active.
    """
    sizes = (5, 8, 12, 20)
    return judge_active(
        {n: train_active(2, n, 2, n_models) for n in sizes},
        {n: train_onehot(n, 2, n_models, "relu").W_E for n in sizes},
        {
            "three active": {8: train_active(3, 8, 2, n_models)},
            "untrained": {n: lab.untrained_directions(n, 2, n_models) for n in sizes},
        },
        {"one": train_onehot(12, 3, n_models, "relu").W_E, "two": train_active(2, 12, 3, n_models)},
    )


def judge_active(
    two: Mapping[int, Stacked],
    one: Mapping[int, Stacked],
    others: Mapping[str, Mapping[int, Stacked]],
    solids: Mapping[str, Stacked],
) -> Verdict:
    """Do models still learn five directions?"""
    directions = {"one": mean_directions(one), "two": mean_directions(two)}
    five = with_directions(two, 5)
    return Verdict.of_shares(
        "The smallest share of models with five directions",
        five,
        n_models=lab.total(two),
        controls=lab.shares(five)
        | {"one active": lab.weakest(with_directions(one, 5))}
        | {name: lab.weakest(with_directions(weights, 5)) for name, weights in others.items()}
        | lab.at_cuts(lambda cut: lab.weakest(with_directions(two, 5, cut)), CUTS)
        | {f"directions, {k} active, n = {n}": mean for k, by_n in directions.items() for n, mean in by_n.items()}
        | {
            f"learned features, two active, n = {n}": lab.mean(geometry.represented(W, LEARNED).sum(1))
            for n, W in two.items()
        }
        | {
            f"nine directions in three dimensions, {k} active": lab.mean(geometry.count_directions(W, LEARNED) == 9)
            for k, W in solids.items()
        },
        detail=lab.listing(
            "Number of directions learned with two active",
            {f"n = {n}": lab.tally(geometry.count_directions(W, LEARNED)) for n, W in two.items()},
        ),
        figures={
            "Mean number of directions learned against the number of features.": lab.curves(
                {f"{k} active": by_n for k, by_n in directions.items()}, "features", "directions"
            ),
            "The first model of each n, two active features; the dotted circle has radius 1.": lab.arrows(
                {f"n = {n}": W[0] for n, W in two.items()}
            ),
        },
    )
