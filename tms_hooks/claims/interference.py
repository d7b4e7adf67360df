"""Claims of "Superposition and bottlenecks" about crowded directions: in many dimensions, and with two active features.

What the document calls the interference of two directions is their |cosine|; here it is their overlap. The models of
one-hot features are those of `tms_hooks.claims.bottlenecks`: "learned" means a norm above 0.1, and features within 5
degrees of each other are one direction.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from tms_hooks import geometry, theory
from tms_hooks.claims import Verdict, claim, lab, seeds, share, statistic
from tms_hooks.claims.bottlenecks import CUTS, LEARNED, STEPS, has_directions, mean_directions, train_onehot
from tms_hooks.claims.lab import Stacked
from tms_hooks.config import ToyConfig
from tms_hooks.data import KHot
from tms_hooks.linalg import unit

WIDTHS = (2, 4, 8)
FEATURES_PER_DIMENSION = 4
DENSE, SPARSE = 0.3, 0.01
DENSITIES = (0.5, DENSE, 0.2, 0.15, 0.1, 0.03, SPARSE)
"""Feature probabilities, from dense to sparse; two of them decide."""


@claim("interference-mean-vs-max", "B", quick=8, full=16)
def interference_mean_vs_max(n_models: int) -> Verdict:
    """Packing: features form tegum products, of mean interference 1/m, or spread over the sphere, at 1/sqrt(m).

    Part "two ways": "Arranging features uniformly on the sphere gets on average interference $\\frac{1}{\\sqrt{d}}$
    compared to $\\frac{1}{d}$ if we go for a long tegum product of low dimensional polytopes."
    Statistic: the slope of log mean interference, the |cosine| of two distinct directions, on log m, m = 2, 4 and 8, of
    random directions, as many as trained models learn, less that of a tegum product of pentagons (closed form).
    Threshold: above 1/4, half of what the document says.
    Null: none, since the statistic is a difference.

    Part "sparse graphs": "features go for sparse interference graphs so that there is limited high-order interference".
    Statistic: the slope of trained models of one-hot features, which are as sparse as the document's, n = 4 m.
    Threshold: below -3/4, half-way between the two.
    Null: as many random directions.

    Beyond the source "phases": dense features form tegum products, sparse ones spread over the sphere.
    Statistic: the slope at feature probability p = 0.01, less that at p = 0.3; sparse uniform features, n = 4 m, with a
    bias.
    Threshold: above 1/4.
    Null: as many random directions.

    Beyond the source "factors":
    Statistic: the mean number of tegum factors per hidden dimension at p = 0.3, m = 8.
    Threshold: above 1/4, one for every four dimensions.
    Null: p = 0.01.

    Size: 8 models for each m and p (quick), 16 (full).
    Controls: slope, tegum factors and directions at every p; the slope of the root mean square; the maximum at m = 8 of
    trained, random and tegum directions and the least one possible (Welch); learned > 0.05 and > 0.2.
    """
    return judge_overlaps(
        {m: train_onehot(FEATURES_PER_DIMENSION * m, m, n_models, "relu").W_E for m in WIDTHS},
        {
            p: {
                m: lab.train_sparse(FEATURES_PER_DIMENSION * m, m, p, n_models, steps=2_000, batch_size=256).W_E
                for m in WIDTHS
            }
            for p in DENSITIES
        },
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


def random_like(W: Stacked, learned: float = LEARNED) -> Stacked:
    """As many random directions as each model has learned; the others are zero."""
    made = torch.zeros_like(W)
    for i, count in enumerate(geometry.count_directions(W, learned).tolist()):
        generator = seeds.generator(i)
        made[i, :count] = unit(torch.randn(count, W.shape[-1], generator=generator, dtype=torch.float64))
    return made


def slope_of_means(*overlaps: np.ndarray) -> float:
    """Slope of log mean overlap on log m, one sample of models' means for each of `WIDTHS`."""
    return lab.log_slope(dict(zip(WIDTHS, map(lab.mean, overlaps), strict=True)))


def judge_overlaps(onehot: Mapping[int, Stacked], sparse: Mapping[float, Mapping[int, Stacked]]) -> Verdict:
    """Does the mean overlap of trained directions fall like a tegum product's or like a sphere's?

    Args:
        onehot: models of one-hot features by hidden dimension, those of `WIDTHS`.
        sparse: models of sparse uniform features by feature probability and hidden dimension.
    """
    found = {
        "trained": {m: direction_overlaps(W) for m, W in onehot.items()},
        "random directions": {m: direction_overlaps(random_like(W)) for m, W in onehot.items()},
    }
    pentagons = {m: theory.tegum_overlaps(geometry.ideal_polytopes(5)["pentagon"], m) for m in onehot}
    tegum = lab.log_slope({m: at_m.mean for m, at_m in pentagons.items()})
    by_density = {p: [direction_overlaps(W, lab.LEARNED).mean for W in by_m.values()] for p, by_m in sparse.items()}
    random_by_density = {
        p: [direction_overlaps(random_like(W, lab.LEARNED), lab.LEARNED).mean for W in sparse[p].values()]
        for p in (SPARSE, DENSE)
    }
    widest = max(onehot)
    factors = {
        p: np.array([len(geometry.tegum_factors(w, lab.LEARNED)) for w in by_m[widest]]) / widest
        for p, by_m in sparse.items()
    }
    slopes = {p: slope_of_means(*means) for p, means in by_density.items()}
    directions = mean_directions(onehot)
    means = {kind: {m: lab.mean(at_m.mean) for m, at_m in by_m.items()} for kind, by_m in found.items()} | {
        "tegum product of pentagons": {m: at_m.mean for m, at_m in pentagons.items()}
    }
    maxima = {kind: {m: lab.mean(at_m.maximum) for m, at_m in by_m.items()} for kind, by_m in found.items()} | {
        "tegum product of pentagons": {m: at_m.maximum for m, at_m in pentagons.items()},
        "least possible": {m: theory.welch_bound(max(round(n), 2), m) for m, n in directions.items()},
    }
    sampled = {kind: [at_m.mean for at_m in by_m.values()] for kind, by_m in found.items()}
    dimensions = [8, 16, 32, 64, 128, 256]

    def difference(*means: np.ndarray) -> float:
        return slope_of_means(*means[: len(WIDTHS)]) - slope_of_means(*means[len(WIDTHS) :])

    return Verdict(
        parts={
            "two ways": statistic(
                "The slope of random directions less that of a tegum product",
                lambda *samples: slope_of_means(*samples) - tegum,
                *sampled["random directions"],
                unit="sets of directions",
            ),
            "sparse graphs": statistic(
                "The slope of log mean interference on log m",
                slope_of_means,
                *sampled["trained"],
                null=sampled["random directions"],
            ),
            "phases": statistic(
                f"The slope at p = {SPARSE} less that at p = {DENSE}",
                difference,
                *by_density[SPARSE],
                *by_density[DENSE],
                null=[*random_by_density[SPARSE], *random_by_density[DENSE]],
            ),
            "factors": statistic(
                f"Tegum factors per dimension at p = {DENSE}", lab.mean, factors[DENSE], null=(factors[SPARSE],)
            ),
        },
        n_models=lab.total(onehot, *sparse.values()),
        controls={"slope, tegum product of pentagons": tegum}
        | {
            f"slope of root mean square, {kind}": lab.log_slope({m: lab.mean(at_m.rms) for m, at_m in by_m.items()})
            for kind, by_m in found.items()
        }
        | {f"maximum at m = {widest}, {kind}": by_m[widest] for kind, by_m in maxima.items()}
        | {f"directions at m = {widest}": directions[widest]}
        | lab.at_cuts(
            lambda cut: slope_of_means(*(direction_overlaps(W, cut).mean for W in onehot.values())), CUTS, "slope at "
        )
        | {f"slope, p = {p}": slope for p, slope in slopes.items()}
        | {f"tegum factors per dimension, p = {p}": float(number.mean()) for p, number in factors.items()}
        | {
            f"directions at m = {widest}, p = {p}": lab.mean(geometry.count_directions(by_m[widest], lab.LEARNED))
            for p, by_m in sparse.items()
        },
        detail=lab.listing("Slope of mean interference by p", slopes, ".2f"),
        figures={
            "Slope of mean interference on m against the feature probability: -1/2 is the sphere's, -1 a tegum "
            "product's.": lab.curves({"trained": slopes}, "feature probability p", "slope", log_x=True),
            f"Tegum factors per hidden dimension, m = {widest}.": lab.curves(
                {"trained": {p: float(number.mean()) for p, number in factors.items()}},
                "feature probability p",
                "factors / m",
                log_x=True,
            ),
            **{
                f"{name} overlap of directions against the number of dimensions.": lab.curves(
                    by_kind, "hidden dimensions m", f"{name.lower()} |cosine|", log_x=True
                )
                .update_xaxes(tickvals=list(onehot))
                .update_yaxes(type="log")
                for name, by_kind in (("Mean", means), ("Maximum", maxima))
            },
            "Directions that fit with no overlap above 0.8: random ones at least (Johnson & Lindenstrauss), and a "
            "tegum product of pentagons, whose own overlap is 0.81.": lab.curves(
                {
                    "random directions": {d: theory.johnson_lindenstrauss(d, 0.8) for d in dimensions},
                    "tegum product of pentagons": {d: 2.5 * d for d in dimensions},
                },
                "dimensions d",
                "directions",
                log_x=True,
            ).update_yaxes(type="log"),
        },
    )


def train_active(k: int, n_features: int, d_hidden: int, n_models: int) -> Stacked:
    """As `train_onehot`, with k active features, all n choose k sets of them."""
    cfg = ToyConfig(n_features=n_features, d_hidden=d_hidden, output_bias=False)
    return lab.train_toys(cfg, KHot(n_features=n_features, k=k), n_models, steps=STEPS).W_E


@claim("two-active", "B", quick=8, full=30)
def two_active(n_models: int) -> Verdict:
    """The five directions of one-hot features in two dimensions survive when two features are active at once.

    Part "survive": "This allows me to focus on the interference term which is caused by non-zero interference between
    feature directions, and not on interference terms caused by adding features together. See discussion at bottom why
    not relevant in low dim case"
    Statistic: the share of models with five distinct directions among learned features (norm > 0.1) when all pairs of
    40 features are the data set, in two dimensions.
    Threshold: above 1/2.
    Null: untrained models.

    Beyond the source "few features": two of eight, or of five, are as dense as Toy Models of Superposition begins.
    Statistic: the share of models with five directions, n = 5 and 8 together.
    Threshold: above 1/2.
    Null: untrained models of eight features.

    Beyond the source "in three dimensions":
    Statistic: the share of models with nine directions in three dimensions, n = 40.
    Threshold: above 1/2.
    Null: untrained models.

    Size: 8 models for each n (quick), 30 (full).
    Controls: one active feature, the same seeds; the share and the mean number of directions and of learned features at
    each n; three active at n = 8; learned > 0.05 and > 0.2.
    """
    sizes = (5, 8, 12, 20, 40)
    return judge_active(
        {n: train_active(2, n, 2, n_models) for n in sizes},
        {n: train_onehot(n, 2, n_models, "relu").W_E for n in sizes},
        train_active(3, 8, 2, n_models),
        {n: lab.untrained_directions(n, 2, n_models) for n in sizes},
        (train_active(2, 40, 3, n_models), lab.untrained_directions(40, 3, n_models)),
    )


def judge_active(
    two: Mapping[int, Stacked],
    one: Mapping[int, Stacked],
    three: Stacked,
    start: Mapping[int, Stacked],
    solids: tuple[Stacked, Stacked],
) -> Verdict:
    """Do models still learn five directions?

    Args:
        two, one: models of two and of one active feature, by number of features; the largest number decides.
        three: models of three active features.
        start: untrained, by number of features.
        solids: three-dimensional models of two active features, and untrained.
    """
    n = max(two)
    directions = {"one": mean_directions(one), "two": mean_directions(two)}
    few = [size for size in two if size < 10]
    return Verdict(
        parts={
            "survive": share(
                f"The share of models with five directions, n = {n},",
                has_directions(two[n], 5),
                null=has_directions(start[n], 5),
            ),
            "few features": share(
                "The share of models with five directions, n = 5 and 8,",
                np.concatenate([has_directions(two[size], 5) for size in few]),
                null=has_directions(start[max(few)], 5),
            ),
            "in three dimensions": share(
                "The share of models with nine directions",
                has_directions(solids[0], 9),
                null=has_directions(solids[1], 9),
            ),
        },
        n_models=len(two[n]),
        controls={f"five directions, one active, n = {size}": has_directions(W, 5).mean() for size, W in one.items()}
        | {f"five directions, two active, n = {size}": has_directions(W, 5).mean() for size, W in two.items()}
        | {"five directions, three active, n = 8": has_directions(three, 5).mean()}
        | lab.at_cuts(lambda cut: has_directions(two[n], 5, cut).mean(), CUTS)
        | {f"directions, {k} active, n = {size}": mean for k, by_n in directions.items() for size, mean in by_n.items()}
        | {
            f"learned features, two active, n = {size}": lab.mean(geometry.represented(W, LEARNED).sum(1))
            for size, W in two.items()
        },
        detail=lab.listing(
            "Number of directions learned with two active",
            {f"n = {size}": lab.tally(geometry.count_directions(W, LEARNED)) for size, W in two.items()},
        ),
        figures={
            "Mean number of directions learned against the number of features.": lab.curves(
                {f"{k} active": by_n for k, by_n in directions.items()}, "features", "directions"
            ),
            "The first model of each n, two active features; the dotted circle has radius 1.": lab.arrows(
                {f"n = {size}": W[0] for size, W in two.items()}
            ),
        },
    )
