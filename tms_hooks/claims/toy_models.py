"""Claims of the notes on "Toy Models of Superposition" (Elhage et al. 2022): sparse uniform features, ReLU, tied, bias.

The usual recipe, 9,000 steps.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, theory
from tms_hooks.claims import Verdict, claim, lab, seeds, share, statistic
from tms_hooks.claims.lab import LEARNED, ByDensity, Stacked
from tms_hooks.config import Activation
from tms_hooks.linalg import random_directions
from tms_hooks.run import Run

DENSITIES = (1.0, 0.5, 0.2, 0.1, 0.05)
SHAPES = {1.0: "the first two", 0.2: "square", 0.1: "pentagon"}
"""What the paper's first figure shows at three densities."""
STEPS = 9_000
RECALL = 0.9
"""Of the detector whose false alarms are counted."""
EXAMPLES = 512


@claim("superposition-emerges", "N", quick=8, full=100, seconds=30)
def superposition_emerges(n_models: int) -> Verdict:
    """Dense features: only the most important get dimensions, orthogonal; sparser: antipodal pairs, then a pentagon.

    The setting of the paper's first figure: n = 5, m = 2, importance 0.9^i, sparsity 0, 80 and 90 %.

    Part "dense": "The two most important features are given dedicated orthogonal dimensions, while other features are
    not embedded." (Elhage et al. 2022)
    Statistic: the share of models at p = 1 that have learned (norm > 0.5) the first two features and no other, with
    |cosine| below 0.1.
    Threshold: above 1/2.
    Null: untrained models.

    Part "antipodal pairs": "we can pack them together as say antipodal pairs, since one often activates without
    needing the other".
    Statistic: the share of models at p = 0.2 that are two antipodal pairs, a square.
    Threshold: above 1/2.
    Null: models with a linear output.

    Part "pentagon": "All five features are embedded as a pentagon" (Elhage et al. 2022).
    Statistic: the share of models at p = 0.1 that are a pentagon.
    Threshold: above 1/2.
    Null: models with a linear output.

    Size: 8 models (quick), 100 (full), at each of p = 1, 0.5, 0.2, 0.1 and 0.05.
    Controls: the three shares at learned > 0.3 and > 0.7; the most frequent shapes at every density.
    """

    def trained(act: Activation) -> dict[float, Run]:
        return {p: lab.train_sparse(5, 2, p, n_models, steps=STEPS, output_act=act, decay=0.9) for p in DENSITIES}

    relu = trained("relu")
    return judge_emergence(
        {p: run.W_E for p, run in relu.items()},
        {p: int(lab.expected_losses(relu[p]).argmin()) for p in SHAPES},
        {p: run.W_E for p, run in trained("identity").items()},
        lab.untrained_directions(5, 2, n_models),
    )


def is_top_of_pca(W: Float[Tensor, "feature hidden"], learned: float = LEARNED) -> bool:
    """Whether the first features are learned, one per hidden dimension, orthogonal, and no other is."""
    m = W.shape[1]
    alive = geometry.represented(W, learned).nonzero()[:, 0].tolist()
    return alive == list(range(m)) and float(lab.pair_overlaps(W[:m]).max()) < geometry.ORTHOGONAL


def has_shape(W: Stacked, shape: str, learned: float = LEARNED) -> np.ndarray:
    """Models of this shape."""
    if shape == SHAPES[1.0]:
        return np.array([is_top_of_pca(w, learned) for w in W])
    return np.array([geometry.name_polytope(w, learned) == shape for w in W])


def judge_emergence(trained: ByDensity, best: Mapping[float, int], linear: ByDensity, untrained: Stacked) -> Verdict:
    """Two orthogonal features, then antipodal pairs, then a pentagon, as features grow sparser?

    `best` is the model of lowest loss at each density of `SHAPES`.
    """
    held = {p: has_shape(trained[p], shape) for p, shape in SHAPES.items()}
    null = {p: has_shape(linear[p] if p < 1 else untrained, shape) for p, shape in SHAPES.items()}
    told = {
        1.0: ("dense", "have the first two features alone"),
        0.2: ("antipodal pairs", "are a square"),
        0.1: ("pentagon", "are a pentagon"),
    }
    learned = {
        name: {p: geometry.represented(W).sum(1).double().mean() for p, W in weights.items()}
        for name, weights in (("ReLU", trained), ("linear", linear))
    }
    frequent = {p: next(iter(plots.typical(W.numpy(), lab.shape_names(W).tolist()))) for p, W in trained.items()}
    return Verdict(
        parts={
            part: share(
                f"The share of models at p = {p:g} that {what}", held[p], null=null[p], best=float(held[p][best[p]])
            )
            for p, (part, what) in told.items()
        },
        n_models=lab.total(trained),
        controls={
            f"{told[p][0]}, {name}": value
            for p, shape in SHAPES.items()
            for name, value in lab.at_cuts(partial(has_shape, trained[p], shape)).items()
        },
        detail=lab.listing("Most frequent shapes", {f"p = {p:g}": shape for p, shape in frequent.items()}),
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
            "The model of lowest loss at three densities: feature 0 is the most important.": lab.arrows(
                {f"p = {p:g}": trained[p][i] for p, i in best.items()}
            ),
        },
    )


@claim("cosine-misleads", "N", quick=8, full=16, seconds=31)
def cosine_misleads(n_models: int) -> Verdict:
    """Under superposition cosine similarity misleads: it takes inputs for similar that share no feature.

    n = 20, m = 5, importance 1, p = 0.1. A detector of a feature compares the hidden state of an input with that of an
    example, the feature alone, by their cosine; its cut-off is such that it finds 90 % of the inputs that hold the
    feature. Beside them stand models without superposition: m = 20, a dimension for each feature.

    Part "false alarms": "superposition means that cosine similarity has the potential to be misleading".
    Statistic: the share of inputs, not empty and without the feature, that the detector takes to hold it; the mean over
    the learned features (norm > 0.5) of a model, then over models.
    Threshold: above 0.1, as many false alarms as misses.
    Null: models without superposition.

    Part "positive dot products": "unrelated features start to be embedded with positive dot products to each other".
    Statistic: the share of pairs of learned features with a cosine above 0.1; mean over models.
    Threshold: above 0.1.
    Null: models without superposition.

    Beyond the source "sparser, p = 0.01":
    Statistic: the share of false alarms of models trained and tried at p = 0.01.
    Threshold: above 0.1.
    Null: none, since the arm asks how far the first part reaches.

    Beyond the source "more than at random":
    Statistic: the second share less the same of random directions of the same norms.
    Threshold: above 0.
    Null: none, since the statistic is a difference from one.

    Size: 8 models (quick), 16 (full), of either kind.
    Controls: both shares in untrained models, with a linear output, and at p = 0.01; the first at learned > 0.3 and
    > 0.7; the mean |cosine| of two learned features, and that of random directions in five dimensions (closed form).
    """

    def trained(m: int, p: float, output_act: Activation = "relu") -> Stacked:
        return lab.train_sparse(20, m, p, n_models, steps=STEPS, output_act=output_act).W_E

    return judge_cosines(
        trained(5, 0.1),
        trained(20, 0.1),
        {
            "linear output": (trained(5, 0.1, "identity"), 0.1),
            "p = 0.01": (trained(5, 0.01), 0.01),
            "untrained": (lab.untrained_directions(20, 5, n_models), 0.1),
        },
    )


def judge_cosines(crowded: Stacked, roomy: Stacked, others: Mapping[str, tuple[Stacked, float]]) -> Verdict:
    """Does a detector by cosine raise more false alarms under superposition than without?

    `others` are models and the feature probability of the inputs that they are tried on.
    """
    alarms, free = (false_alarms(W, 0.1) for W in (crowded, roomy))
    positive, none = (positive_pairs(W) for W in (crowded, roomy))
    at_random = positive_pairs(random_directions(crowded, seeds.first()))
    overlap = lab.mean(mean_overlaps(crowded))
    return Verdict(
        parts={
            "false alarms": statistic(
                f"The share of false alarms at a recall of {RECALL:g}", np.mean, alarms, null=(free,)
            ),
            "positive dot products": statistic(
                "The share of pairs of features with a cosine above 0.1", np.mean, positive, null=(none,)
            ),
            "sparser, p = 0.01": statistic(
                f"The share of false alarms at p = 0.01 and a recall of {RECALL:g}",
                np.mean,
                false_alarms(*others["p = 0.01"]),
            ),
            "more than at random": statistic(
                "The share of such pairs less that of random directions",
                lambda pairs: float((pairs[:, 0] - pairs[:, 1]).mean()),
                np.stack([positive, at_random], axis=1),
            ),
        },
        n_models=len(crowded) + len(roomy),
        # Untrained features are short: all of them count.
        controls={
            f"{what}, {name}": lab.mean(of(W, 0.0 if name == "untrained" else LEARNED))
            for name, (W, p) in others.items()
            for what, of in (
                ("false alarms", lambda W, cut, p=p: false_alarms(W, p, cut)),
                ("positive pairs", positive_pairs),
            )
        }
        | lab.at_cuts(lambda cut: lab.mean(false_alarms(crowded, 0.1, cut)), prefix="false alarms, ")
        | {"mean |cosine|": overlap, "mean |cosine|, random directions": theory.sphere_mean_overlap(crowded.shape[-1])},
        detail=f"Two learned features have a mean |cosine| of {overlap:.3f}, random directions in five dimensions "
        f"{theory.sphere_mean_overlap(crowded.shape[-1]):.3f}.",
        figures={
            "Share of false alarms of each model.": plots.distributions(
                {"superposition": alarms, "a dimension per feature": free},
                "share of false alarms",
                lab.colors(("superposition", "a dimension per feature")),
            ),
            "Inner products of all features in the first model of each kind.": lab.grams(
                {"superposition": crowded[0], "a dimension per feature": roomy[0]}
                | {name: W[0] for name, (W, _) in others.items()}
            ),
        },
    )


def false_alarms(W: Stacked, p: float, learned: float = LEARNED) -> np.ndarray:
    """False alarms of the detector at its recall, mean over the learned features of each model that has any.

    Each feature is tried on the same inputs: those that hold it, and those that hold others.
    """
    n = W.shape[1]
    generator = seeds.generator()
    active = torch.rand(EXAMPLES, n, generator=generator) < p
    x = torch.rand(EXAMPLES, n, generator=generator) * active
    with_it = x + torch.eye(n)[:, None] * (torch.rand(EXAMPLES, 1, generator=generator) - x)
    without = x * (1 - torch.eye(n))[:, None]
    found = []
    for w in W[geometry.represented(W, learned).any(1)]:
        alive = geometry.represented(w, learned)
        similar, other = (
            torch.cosine_similarity((inputs @ w).double(), w[:, None].double(), dim=-1)[alive]
            for inputs in (with_it, without)
        )
        busy = (without > 0).any(-1)[alive]
        cut = similar.quantile(1 - RECALL, dim=1, keepdim=True)
        found.append(float(((other >= cut - 1e-9) & busy).sum(1).div(busy.sum(1)).mean()))
    return np.array(found)


def positive_pairs(W: Stacked, learned: float = LEARNED) -> np.ndarray:
    """Share of pairs of learned features with a positive cosine, not orthogonal; of models that have learned two."""
    alive = [w[geometry.represented(w, learned)].double() for w in W]
    return np.array([float((lab.pair_cosines(w) > geometry.ORTHOGONAL).double().mean()) for w in alive if len(w) > 1])


def mean_overlaps(W: Stacked, learned: float = LEARNED) -> np.ndarray:
    """Mean |cosine| over pairs of learned features, of each model that has learned at least two."""
    alive = [w[geometry.represented(w, learned)].double() for w in W]
    return np.array([float(lab.pair_overlaps(w).mean()) for w in alive if len(w) > 1])
