"""The claim of "Pentagon vs Hexagon" on how much data a model has: few points are memorized, many are generalized.

After Henighan et al. 2023, "Superposition, Memorization, and Double Descent": a fixed set of random points of unit norm
is the whole data set. There n = 10,000 and m = 2; here n = 64, in one arm n = 1,000, with two active features for each
point. Tied, ReLU, output bias, the usual recipe, 3,000 steps; model i has seed i and its own points.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots
from tms_hooks.claims import Part, Verdict, claim, lab, seeds, share, statistic
from tms_hooks.claims.lab import Stacked
from tms_hooks.config import ToyConfig
from tms_hooks.data import RandomPoints
from tms_hooks.models import forward

POINTS = (5, 16, 64, 256, 1_024, 4_096)
N, ACTIVE, UNSEEN = 64, 2, 500
MANY, WIDE_POINTS, WIDE_MODELS = 1_000, (3, 30, 100, 300, 3_000), 8


class Regime(NamedTuple):
    """Models of one number of points."""

    W: Stacked
    hidden: Float[Tensor, "model point hidden"]
    """Hidden states of the first points."""
    unseen: np.ndarray
    """Mean squared error of each model on points that it has not seen."""


def train_regime(n_points: int, n_models: int, n_features: int = N, steps: int = 3_000) -> Regime:
    """Models on sets of so many points, each on its own."""
    cfg = ToyConfig(n_features=n_features, d_hidden=2)
    W, hidden, unseen = [], [], []
    for seed in range(n_models):
        kind = {"n_features": n_features, "k": ACTIVE, "points_seed": seeds.first() + seed}
        run = lab.train_toys(cfg, RandomPoints(n_points=n_points, **kind), range(seed, seed + 1), steps=steps)
        x = RandomPoints(n_points=n_points + UNSEEN, **kind).dataset()  # the same points, and others
        made = forward.reconstruct(run.weights, x[None], cfg)
        W.append(run.W_E[0])
        hidden.append(made.hidden[0, : POINTS[0]])
        unseen.append(float((made.out[0] - x)[n_points:].square().sum(1).mean()))
    return Regime(torch.stack(W), torch.stack(hidden), np.array(unseen))


@claim("data-regimes", "H", quick=8, full=24)
def data_regimes(n_models: int) -> Verdict:
    """Few data points are learned as directions; many give features, fewer of them, and the geometry of a pentagon.

    Part "memorizing": "the model memorizes the dataset as features in low data regimes".
    Statistic: the share of models of 5 points whose hidden layer holds these in five directions, longer than 0.5.
    Threshold: above 1/2.
    Null: untrained models.

    Part "more when there are few": "in lower data regimes, the number of features represented was much higher due to
    the model memorizing the dataset".
    Statistic: the mean number of features learned (norm > 0.5) from 16 points less that from 4,096.
    Threshold: above 0.
    Null: none, since the statistic is a difference between regimes.

    Part "double descent": "Superposition, Memorization, and Double Descent showcase the impact of data regimes".
    Statistic: the share of seeds whose squared error on unseen points is larger at 16, 64 or 256 points than at both 5
    and 4,096.
    Threshold: above 1/2.
    Null: 0.6, what five errors in random order would give.

    Part "pentagon": "With the increase in data size, the feature geometry transitions towards the pentagon geometry".
    Statistic: the share of models of 4,096 points whose learned features make a pentagon.
    Threshold: above 1/2.
    Null: models of 5 points.

    Beyond the source "a thousand features": n = 1,000, after 1,000 steps.
    Statistic: the share of seeds whose squared error on unseen points is larger at 30, 100 or 300 points than at both 3
    and 3,000.
    Threshold: above 1/2.
    Null: 0.6, what five errors in random order would give.

    Size: 8 models (quick), 24 (full), at each of 5, 16, 64, 256, 1,024 and 4,096 points; 8 of a thousand features.
    Controls: features learned, directions and error on unseen points for each number of points; shapes at the largest.
    """
    start = lab.untrained_directions(N, 2, n_models)
    points = [
        RandomPoints(n_features=N, n_points=POINTS[0], k=ACTIVE, points_seed=seed).dataset()
        for seed in seeds.of(n_models)
    ]
    wide = {n: train_regime(n, WIDE_MODELS, MANY, steps=1_000) for n in WIDE_POINTS}
    return judge_regimes({n: train_regime(n, n_models) for n in POINTS}, torch.stack(points) @ start, wide)


def judge_regimes(
    regimes: Mapping[int, Regime], untrained: Float[Tensor, "model point hidden"], wide: Mapping[int, Regime]
) -> Verdict:
    """Are points learned where they are few, and features where they are many? By number of points, `wide` too."""
    few, *middle, many = sorted(regimes)
    learned = {n: geometry.represented(regime.W).sum(1).numpy() for n, regime in regimes.items()}

    def apart(hidden: Float[Tensor, "model point hidden"]) -> np.ndarray:
        return (geometry.count_directions(hidden) == hidden.shape[1]).numpy()

    shapes = lab.shape_names(regimes[many].W)
    return Verdict(
        parts={
            "memorizing": share(
                f"The share of models of {few} points with a direction for each",
                apart(regimes[few].hidden),
                null=apart(untrained),
            ),
            "more when there are few": statistic(
                f"Features learned from {middle[0]} points less those from {many:,}",
                lambda some, all_of_them: float(some.mean() - all_of_them.mean()),
                learned[middle[0]],
                learned[many],
            ),
            "double descent": _double_descent(regimes),
            "pentagon": share(
                f"The share of models of {many:,} points that are a pentagon",
                shapes == "pentagon",
                null=lab.shape_names(regimes[few].W) == "pentagon",
            ),
            "a thousand features": _double_descent(wide),
        },
        n_models=sum(len(regime.W) for regime in (*regimes.values(), *wide.values())),
        controls={f"features learned, {n} points": counts.mean() for n, counts in learned.items()}
        | {f"directions, {n} points": geometry.count_directions(r.W).double().mean() for n, r in regimes.items()}
        | {f"error on unseen points, {n} points": regime.unseen.mean() for n, regime in regimes.items()}
        | {f"the same, a thousand features, {n} points": regime.unseen.mean() for n, regime in wide.items()}
        | {f"{shape}, {many} points": (shapes == shape).mean() for shape in ("square", "pentagon", "hexagon")},
        detail=lab.listing("Features learned", {f"{n:,} points": c.mean() for n, c in learned.items()}, ".1f"),
        figures={
            "Error on unseen points, and features learned, against the number of points.": lab.curves(
                {
                    "error on unseen points": {n: regime.unseen.mean() for n, regime in regimes.items()},
                    "features learned / 10": {n: counts.mean() / 10 for n, counts in learned.items()},
                },
                "points",
                "error; features / 10",
                log_x=True,
            ),
            "Features of the first model of each number of points.": lab.arrows(
                {f"{n:,} points": regime.W[0] for n, regime in regimes.items()}
            ),
            "Hidden states of the points of the first models of 5 points.": plots.feature_arrows(
                regimes[few].hidden[:4].numpy(), lab.seed_names(regimes[few].hidden[:4])
            ),
        },
    )


def _double_descent(regimes: Mapping[int, Regime]) -> Part:
    """Is the error larger at the second to the fourth number of points than at the first and the last?"""
    errors = np.stack([regimes[n].unseen for n in sorted(regimes)], axis=1)
    return share(
        "The share of seeds whose error on unseen points is larger in between than at both ends",
        errors[:, 1:4].max(1) > errors[:, [0, -1]].max(1),
        null=0.6,
    )
