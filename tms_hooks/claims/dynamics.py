"""Claims about how training goes: in jumps of D_i or smoothly."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.lab import Stacked
from tms_hooks.config import Activation
from tms_hooks.training.optimizers import Adam

EVERY = 30
WARM = 0.1
"""Share of the training that is left out: from any start all D_i move there, and the loss falls."""
TOP = 0.1


class Course(NamedTuple):
    """How models changed in training, record by record."""

    loss: np.ndarray
    """(model, step), on the same held-out inputs at every step."""
    D: np.ndarray
    """D_i, (model, step, feature)."""


def train_watched(n_models: int, p: float = 0.05, output_act: Activation = "relu") -> Course:
    """Models without bias, so that the directions alone give the loss at every record."""
    settings: dict[str, Any] = {"optimizer": Adam(lr=1e-3), "record_every": EVERY, "output_bias": False}
    run = lab.train_sparse(20, 5, p, n_models, steps=6_000, output_act=output_act, **settings)
    x = lab.fresh_samples(run, 2_048)
    x = x[(x > 0).any(1)]

    def loss(W: Stacked) -> Float[Tensor, " model"]:
        out = x @ W @ W.mT
        return ((out.relu() if output_act == "relu" else out) - x).square().sum(-1).mean(-1)

    records = torch.from_numpy(run.history.W_E.values)
    D = geometry.dimensionality(records).transpose(0, 1)
    return Course(torch.stack([loss(W) for W in records], dim=1).numpy(), D.numpy())


@claim("energy-levels-of-learning", "N", quick=6, full=60)
def energy_levels_of_learning(n_models: int) -> Verdict:
    """The loss falls in discrete steps, at which single features jump from one D_i to another.

    Statistic: of all the loss that models lose after the first tenth of training, the share lost in the tenth of
    intervals (of 30 steps) in which some feature's D_i changes most; n = 20, m = 5, p = 0.05, importance 1, no bias,
    loss on 2,048 held-out inputs.
    Threshold: above 1/2: most of it in a tenth of the time.
    Size: 6 models (quick), 60 (full). Adam at a constant 0.001, 6,000 steps, batch 1,024, 200 intervals.
    Controls: the same with the changes of D_i shifted in time by half of the training (no more than coincidence); the
    first tenth of the remaining intervals instead of those with jumps (a loss that merely levels off); the tenth in
    which the loss falls most (no choice can do better); a linear output; p = 0.3, where D_i of 1/2 are common; the
    first half or none of training left out.
    """
    few = max(n_models // 4, 2)
    return judge_steps(
        train_watched(n_models),
        {"linear output": train_watched(few, output_act="identity"), "p = 0.3": train_watched(few, p=0.3)},
    )


def judge_steps(course: Course, others: Mapping[str, Course]) -> Verdict:
    """Is the loss lost when features jump?"""
    found = falls(course)
    lost = {name: share(falls(course, by=name)) for name in ("shifted", "first", "loss")}
    example = int((-found[:, 1]).argmin())
    steps = np.arange(course.loss.shape[1]) * EVERY
    after_warm = int(WARM * len(steps))
    jump = np.abs(np.diff(course.D[example], axis=0)).max(1)
    return Verdict.of_statistic(
        "The share of loss that is lost while D_i jump",
        share,
        found,
        n_models=len(found),
        controls={
            "changes of D_i shifted in time": lost["shifted"],
            "the first tenth": lost["first"],
            "the tenth in which the loss falls most": lost["loss"],
            **{name: share(falls(other)) for name, other in others.items()},
            "first half left out": share(falls(course, warm=0.5)),
            "nothing left out": share(falls(course, warm=0.0)),
            "loss at the end / after the first tenth": course.loss[:, -1].mean() / course.loss[:, after_warm].mean(),
        },
        detail=f"Chance is {TOP:g}; the tenth in which the loss falls most holds {lost['loss']:.0%} of the fall.",
        figures=lambda: {
            "One model: D_i of its features in training, one line per feature.": plots.curves(
                {f"feature {i}": (steps, d) for i, d in enumerate(course.D[example].T)}, "training step", "D_i"
            ),
            "The same model: its loss, and the largest change of a D_i within 30 steps.": plots.curves(
                {"loss": (steps, course.loss[example]), "largest change of D_i": (steps[1:], jump)},
                "training step",
                "held-out loss; change of D_i",
            ),
        },
    )


def falls(
    course: Course, warm: float = WARM, by: Literal["jumps", "shifted", "first", "loss"] = "jumps"
) -> Float[np.ndarray, "model 2"]:
    """The loss lost in the chosen tenth of intervals, and in all, of every model; `warm` of the training is left out.

    The tenth is where D_i change most, where they do if their changes are shifted in time, the first, or where most is
    lost.
    """
    start = int(warm * course.loss.shape[1])
    lost = -np.diff(course.loss[:, start:], axis=1)
    change = np.abs(np.diff(course.D[:, start:], axis=1)).max(2)
    count = max(round(TOP * lost.shape[1]), 1)
    order: Mapping[str, np.ndarray] = {
        "jumps": change,
        "shifted": np.roll(change, change.shape[1] // 2, axis=1),
        "first": -np.broadcast_to(np.arange(lost.shape[1]), lost.shape),
        "loss": lost,
    }
    top = np.argsort(-order[by], axis=1, kind="stable")[:, :count]
    return np.stack([np.take_along_axis(lost, top, axis=1).sum(1), lost.sum(1)], axis=1)


def share(fallen: np.ndarray) -> float:
    """Loss lost in the chosen intervals, of that lost in all, over all models together; NaN if none is lost."""
    some, all_of_it = fallen.sum(0)
    return float(some / all_of_it) if all_of_it > 0 else float("nan")
