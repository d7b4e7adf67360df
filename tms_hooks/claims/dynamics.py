"""Claims about how training goes: in jumps of D_i or smoothly, and by which shapes features pass.

The paper's setting: sparse features of importance 1, ReLU, tied, output bias; Adam at a constant 0.001, batch 1,024.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tms_hooks import geometry, plots
from tms_hooks.claims import Part, Verdict, claim, lab, seeds, share, statistic
from tms_hooks.claims.lab import Stacked
from tms_hooks.config import Activation, ToyConfig
from tms_hooks.data import CorrelatedGroups, SparseUniform
from tms_hooks.linalg import cosines
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

STEPS, EVERY = 6_000, 30
"""Length of the course that is looked at, and between its records."""
WARM = 0.1
"""Share of the training that is left out: from any start all D_i move there, and the loss falls."""
TOP = 0.1
SLOW = Adam(lr=1e-3)
COLLAPSED, OPPOSITE = 0.9, -0.95
"""Cosines of features that share a direction, and of antipodal ones."""
SMALL = 0.01
"""Standard deviation of small initial weights."""


class Course(NamedTuple):
    """How models changed in training, record by record."""

    loss: np.ndarray
    """(model, step), on the same held-out inputs at every step."""
    D: np.ndarray
    """D_i, (model, step, feature)."""


def train_watched(n_models: int, p: float, output_act: Activation = "relu") -> Course:
    """Models with losses of every record.

    They are not trained by `lab`, which would note them for the check of convergence: what is looked at is a course of
    fixed length, and longer training would not change it.
    """
    cfg, data = ToyConfig(n_features=20, d_hidden=5, output_act=output_act), SparseUniform(20, p)
    models = seeds.of(n_models)
    run = train(cfg, data, seeds=models, steps=STEPS, record_every=EVERY, optimizer=SLOW, progress=False)
    x = lab.fresh_samples(run, 2_048)
    x = x[(x > 0).any(1)]
    W, b = (torch.from_numpy(run.history[name].values) for name in ("W_E", "b_U"))

    def loss(w: Stacked, c: Float[Tensor, "model feature"]) -> Float[Tensor, " model"]:
        out = x @ w @ w.mT + c[:, None]
        return ((out.relu() if output_act == "relu" else out) - x).square().sum(-1).mean(-1)

    losses = torch.stack([loss(w, c) for w, c in zip(W, b, strict=True)], dim=1)
    return Course(losses.numpy(), geometry.dimensionality(W).transpose(0, 1).numpy())


@claim("energy-levels-of-learning", "N", quick=8, full=30)
def energy_levels_of_learning(n_models: int) -> Verdict:
    """The loss falls in discrete steps, at which single features jump from one D_i to another.

    n = 20, m = 5, loss on 2,048 held-out inputs; records every 30 steps, the first tenth of training left out. Of all
    the loss that models lose after it, some share is lost in the tenth of intervals in which some feature's D_i changes
    most. No choice of a tenth holds more than the one in which the loss falls most; coincidence is the same with the
    changes of D_i shifted in time by half of the training. The statistic is how far the share is from coincidence, 0,
    to the most that can be, 1. How learning goes is asked, not where it ends: the course looked at is steps 600 to
    6,000, which longer training would not change, so there is no check of convergence; with other ends the numbers are
    others.

    Part "jumps": "the dimensionality of some features "jump" between different values and swap places. As this happens,
    the loss curve also undergoes a sudden drop" (Elhage et al. 2022).
    Statistic: this share of the attainable at p = 0.28, where, as in the paper's figure, features converge into digons.
    Threshold: above 1/2.
    Null: the tenth of intervals that comes first: a loss that merely levels off.

    Beyond the source "p = 0.05":
    Statistic: the same at p = 0.05, where D_i are spread out.
    Threshold: above 1/2.
    Null: the tenth of intervals that comes first.

    Size: 8 models (quick), 30 (full), at either density. Adam at a constant 0.001, 6,000 steps, batch 1,024.
    Controls: the shares themselves; a linear output; the first half or none of training left out; the share of features
    that end within 0.02 of D_i = 1/2.
    """
    return judge_steps(
        train_watched(n_models, 0.28),
        train_watched(n_models, 0.05),
        {"linear output": train_watched(max(n_models // 4, 2), 0.28, "identity")},
    )


def judge_steps(course: Course, sparse: Course, others: Mapping[str, Course]) -> Verdict:
    """Is the loss lost when features jump?"""
    example = int((course.loss[:, 0] - course.loss[:, -1]).argmax())
    steps = np.arange(course.loss.shape[1]) * EVERY
    after_warm = int(WARM * len(steps))
    jump = np.abs(np.diff(course.D[example], axis=0)).max(1)

    def part(found: Course, p: float) -> Part:
        return statistic(
            f"How much of the loss that could be is lost while D_i jump, at p = {p:g},",
            attained,
            falls(found),
            null=(falls(found, choice="first"),),
        )

    return Verdict(
        parts={"jumps": part(course, 0.28), "p = 0.05": part(sparse, 0.05)},
        n_models=len(course.loss) + len(sparse.loss),
        controls={
            f"share lost, {name}": share_lost(falls(course), column)
            for column, name in enumerate(("while D_i jump", "shifted in time", "the most that can be"))
        }
        | {"share lost in the first tenth": share_lost(falls(course, choice="first"), 0)}
        | {name: attained(falls(other)) for name, other in others.items()}
        | {
            "first half left out": attained(falls(course, warm=0.5)),
            "nothing left out": attained(falls(course, warm=0.0)),
            "loss at the end / after the first tenth": course.loss[:, -1].mean() / course.loss[:, after_warm].mean(),
            "features that end at 1/2": (np.abs(course.D[:, -1] - 0.5) < 0.02).mean(),
        },
        detail="",
        figures={
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
    course: Course, warm: float = WARM, choice: Literal["jumps", "first"] = "jumps"
) -> Float[np.ndarray, "model 4"]:
    """The loss each model loses in the chosen tenth of intervals, by coincidence, at most, and in all.

    The tenth is where D_i change most, or the first; `warm` of the training is left out.
    """
    start = int(warm * course.loss.shape[1])
    lost = -np.diff(course.loss[:, start:], axis=1)
    change = np.abs(np.diff(course.D[:, start:], axis=1)).max(2)
    count = max(round(TOP * lost.shape[1]), 1)
    first = -np.broadcast_to(np.arange(lost.shape[1]), lost.shape)

    def within(order: np.ndarray) -> np.ndarray:
        top = np.argsort(-order, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(lost, top, axis=1).sum(1)

    shifted = np.roll(change, change.shape[1] // 2, axis=1)
    chosen = within(change if choice == "jumps" else first)
    return np.stack([chosen, within(shifted), within(lost), lost.sum(1)], axis=1)


def attained(fallen: np.ndarray) -> float:
    """How far the loss lost in the chosen intervals is from coincidence, 0, to the most that can be, 1."""
    chosen, shifted, most, _ = fallen.sum(0)
    return float((chosen - shifted) / (most - shifted)) if most > shifted else float("nan")


def share_lost(fallen: np.ndarray, column: int) -> float:
    """Loss lost in the intervals of this column, of that lost in all."""
    everything = fallen[:, -1].sum()
    return float(fallen[:, column].sum() / everything) if everything > 0 else float("nan")


@claim("learning-as-transformations", "N", quick=8, full=40)
def learning_as_transformations(n_models: int) -> Verdict:
    """Two sets of three correlated features in three dimensions: first PCA, and at last an octahedron.

    The paper's setting: n = 6, m = 3, p = 0.1. A set is collapsed if all cosines within it are above 0.9.

    Part "octahedron": "the last solution - an octahedron with features from different correlated sets arranged in
    antipodal pairs - seems to be a strong attractor" (Elhage et al. 2022).
    Statistic: the share of models that end as an octahedron with three antipodal pairs (cosine below -0.95) of features
    from different sets.
    Threshold: above 1/2.
    Null: models of independent features.

    Part "PCA first": "the toy network learns a linear PCA solution before moving to a better nonlinear solution"
    (Elhage et al. 2022).
    Statistic: the share of models with a record at which both sets are collapsed, and an octahedron at the end.
    Threshold: above 1/2.
    Null: models of independent features.

    Beyond the source "PCA first, from a small start":
    Statistic: the same share of models whose initial weights have a standard deviation of 0.01; the usual one is 0.47.
    Threshold: above 1/2.
    Null: models of independent features.

    Size: 8 models (quick), 40 (full), of each kind. Adam at a constant 0.001, 18,000 steps, 300 records.
    Controls: octahedra of any kind; models that pass both sets collapsed, whatever they end as.
    """
    kinds = {"correlated": CorrelatedGroups(n_features=6, feature_probability=0.1, group_size=3),
             "independent": SparseUniform(n_features=6, feature_probability=0.1)}  # fmt: skip

    def course(kind: str, **init: Any) -> Float[Tensor, "record model feature hidden"]:
        cfg = ToyConfig(n_features=6, d_hidden=3, **init)
        run = lab.train_toys(cfg, kinds[kind], n_models, steps=18_000, optimizer=SLOW, record_every=60)
        return torch.from_numpy(run.history["W_E"].values)

    return judge_transformations(
        *(course(kind) for kind in kinds), *(course(kind, init="normal", init_std=SMALL) for kind in kinds)
    )


Records = Float[Tensor, "_ _ 6 3"]
"""Directions through training: record, model, feature, hidden."""


def judge_transformations(correlated: Records, independent: Records, small: Records, small_null: Records) -> Verdict:
    """Do models pass PCA, and end as an octahedron? The last two began from small weights."""
    passed, null = (passes_pca(each) for each in (correlated, independent))
    small_passed = passes_pca(small)
    ends, other = (crossed_octahedra(each[-1]) for each in (correlated, independent))
    octahedra = {
        name: (lab.shape_names(each[-1]) == "octahedron").mean()
        for name, each in (("correlated", correlated), ("independent", independent), ("small start", small))
    }
    return Verdict(
        parts={
            "octahedron": share("The share of models that end as an octahedron across sets", ends, null=other),
            "PCA first": share("The share of models that pass PCA on the way there", passed & ends, null=null & other),
            "PCA first, from a small start": share(
                "The share of models that pass PCA on the way there, from a small start",
                small_passed & crossed_octahedra(small[-1]),
                null=passes_pca(small_null) & crossed_octahedra(small_null[-1]),
            ),
        },
        n_models=correlated.shape[1] + small.shape[1],
        controls={f"octahedra, {name}": rate for name, rate in octahedra.items()}
        | {
            "pass PCA": passed.mean(),
            "pass PCA, small start": small_passed.mean(),
            "pass PCA, independent, small start": passes_pca(small_null).mean(),
        },
        detail="",
        figures={
            "The first model from a small start, through training.": plots.polyhedra(
                {
                    f"record {at}": torch.nn.functional.normalize(small[at, 0], dim=-1).numpy()
                    for at in (np.linspace(0, 1, 5) ** 2 * (len(small) - 1)).astype(int).tolist()
                }
            )
        },
    )


def passes_pca(records: Records) -> Bool[np.ndarray, " model"]:
    """Models with a record at which all features of each half share a direction."""
    C = cosines(records.double())
    half = records.shape[2] // 2
    within = torch.stack([C[..., :half, :half].amin((-2, -1)), C[..., half:, half:].amin((-2, -1))])
    return (within > COLLAPSED).all(0).any(0).numpy()


def crossed_octahedra(W: Stacked) -> Bool[np.ndarray, " model"]:
    """Octahedra whose antipodal pairs are of features from different halves."""
    half = W.shape[1] // 2
    across = (cosines(W.double())[:, :half, half:] < OPPOSITE).sum((1, 2)) == half
    return (lab.shape_names(W) == "octahedron") & across.numpy()
