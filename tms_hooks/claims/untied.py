"""Claims of "Superposition and bottlenecks" about untied weights: features written in one direction, read in another.

Without bias. One-hot features: 5 in two dimensions, 9 in three, all gradients exact. Sparse ones as in Toy Models of
Superposition: 5 in two dimensions, p = 0.05. The usual recipe, 10,000 steps: untied losses go on falling for long.
Untied norms have no scale of their own, so "learned" here means that a feature alone in the input, at 1, is
reconstructed above 0.5.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tms_hooks import linalg, plots, theory
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.lab import LEARNED
from tms_hooks.config import ToyConfig
from tms_hooks.data import OneHot, SparseUniform

STEPS = 10_000
SETTINGS = {"2-D": (5, 2), "3-D": (9, 3)}
"""One-hot features and dimensions."""
MEASUREMENTS = ("matched filter", "dual frame", "pretty good measurement", "one-sided dual frame")
CLEARLY = 0.01
"""Cosines nearer to each other than this count as equal."""


class Directions(NamedTuple):
    """What stacked toys write and what they read, directions as rows."""

    write: Float[Tensor, "model feature hidden"]
    read: Float[Tensor, "model feature hidden"]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> "Directions":
        """From a run's weights; tied ones read where they write. A learned scale is left out."""
        return cls(weights["W_E"], weights["W_U"].mT if "W_U" in weights else weights["W_E"])

    def learned(self, above: float = LEARNED) -> Bool[Tensor, "model feature"]:
        """Features that are reconstructed."""
        return (self.write * self.read).sum(-1) > above

    @property
    def cosines(self) -> Float[Tensor, "model written read"]:
        """Of every written direction with every read one."""
        return linalg.cosines(self.write, self.read)


def toy(n_features: int, d_hidden: int, **architecture: Any) -> ToyConfig:
    """Without bias; untied if `architecture`, which is `ToyConfig`'s, does not say otherwise."""
    return ToyConfig(n_features=n_features, d_hidden=d_hidden, output_bias=False, **{"tied": False} | architecture)


def train_onehot(n_models: int, *, steps: int = STEPS, **architecture: Any) -> dict[str, Directions]:
    """One-hot toys of both settings."""
    runs = {
        name: lab.train_toys(toy(n, m, **architecture), OneHot(n_features=n), n_models, steps=steps)
        for name, (n, m) in SETTINGS.items()
    }
    return {name: Directions.of(run.weights) for name, run in runs.items()}


def untrained(n_models: int) -> dict[str, Directions]:
    """What the untied models of both settings start from."""
    return {name: Directions.of(lab.untrained(toy(*size), n_models)) for name, size in SETTINGS.items()}


@claim("untied-is-better", "B", quick=12, full=60)
def untied_is_better(n_models: int) -> Verdict:
    """Untied models reach a lower loss than tied ones, but no longer if their writes or their reads have unit norm.

    Statistic: the smallest of six shares of seeds, three for one-hot and three for sparse data, 5 features in two
    dimensions: the untied loss is below 95 % of the tied loss; with unit-norm writes (and one learned scale) it is not;
    with unit-norm reads it is not.
    Threshold: above 1/2, for each.
    Size: 12 seeds (quick), 60 (full), for each arm and data.
    Controls: the median loss of every arm, the tied one's = 1; the smallest share at 99 % and at 80 % of the tied loss.
    """
    arms: dict[str, dict[str, Any]] = {
        "tied": {"tied": True},
        "untied": {},
        "unit-norm writes": {"unit_norm": "write"},
        "unit-norm reads": {"unit_norm": "read"},
    }
    sources = {"one-hot": OneHot(n_features=5), "sparse": SparseUniform(n_features=5, feature_probability=0.05)}
    runs = {
        name: {arm: lab.train_toys(toy(5, 2, **how), data, n_models, steps=STEPS) for arm, how in arms.items()}
        for name, data in sources.items()
    }
    return judge_untied(
        {data: {arm: run.final_loss.numpy() for arm, run in by_arm.items()} for data, by_arm in runs.items()},
        {arm: Directions.of(run.weights) for arm, run in runs["one-hot"].items()},
    )


def judge_untied(losses: Mapping[str, Mapping[str, np.ndarray]], pictures: Mapping[str, Directions]) -> Verdict:
    """Seed by seed: is each arm better than the tied one? `pictures`: of each arm, the first model is drawn."""

    def parts(margin: float) -> dict[str, np.ndarray]:
        found = {}
        for data, arms in losses.items():
            better = {arm: loss < margin * arms["tied"] for arm, loss in arms.items()}
            found[f"{data}, untied better"] = better["untied"]
            found[f"{data}, unit-norm writes no better"] = ~better["unit-norm writes"]
            found[f"{data}, unit-norm reads no better"] = ~better["unit-norm reads"]
        return found

    relative = {
        f"{data}, {arm}": loss / np.median(arms["tied"]) for data, arms in losses.items() for arm, loss in arms.items()
    }
    medians = {name: np.median(loss) for name, loss in relative.items()}
    written, read = (np.stack([models[side][0].numpy() for models in pictures.values()]) for side in (0, 1))
    return Verdict.of_shares(
        "The smallest of six shares of seeds",
        parts(0.95),
        n_models=lab.total(relative),
        controls={f"median loss, tied = 1: {name}": value for name, value in medians.items()}
        | {f"smallest share at {margin:.0%} of the tied loss": lab.weakest(parts(margin)) for margin in (0.99, 0.8)},
        detail=lab.listing("Median loss, the tied one's = 1", medians, ".3g"),
        figures={
            "Final loss of every model.": plots.strips(relative, "loss / median tied loss", log_y=True),
            "One-hot features, seed 0: written directions (solid), read directions (dotted), at unit length.": (
                plots.write_and_read(written, read, list(pictures))
            ),
        },
    )


@claim("write-is-not-read", "B", quick=12, full=60)
def write_is_not_read(n_models: int) -> Verdict:
    """Pairing written with read directions by maximum cosine fails: some are most similar to another feature's.

    Statistic: share of untied models in which the written direction of at least one learned feature has a cosine with
    another learned feature's read direction that exceeds that with its own by more than 0.01; the smaller of 5 features
    in two dimensions and 9 in three, one-hot.
    Threshold: above 1/2, for each.
    Size: 12 models (quick), 60 (full), for each.
    Controls: the same with learned > 0.3 and > 0.7; tied; GELU; after 2,000 steps; untrained (all features count as
    learned); among models that learned all features; pairing one to one by the largest sum of cosines; pairing by
    inner product; the share of features mispaired.
    """
    return judge_pairing(
        train_onehot(n_models),
        {
            "tied": train_onehot(n_models, tied=True),
            "GELU": train_onehot(n_models, output_act="gelu"),
            "after 2,000 steps": train_onehot(n_models, steps=2_000),
            "untrained": untrained(n_models),
        },
    )


def mispaired(models: Directions, above: float = LEARNED) -> Bool[Tensor, "model feature"]:
    """Learned features whose written direction is clearly nearer to another learned one's read direction."""
    learned = models.learned(above)
    cosines = models.cosines.masked_fill(~learned[:, None, :], -2)
    own = cosines.diagonal(dim1=-2, dim2=-1)
    return learned & (cosines.amax(-1) > own + CLEARLY)


def judge_pairing(untied: Mapping[str, Directions], others: Mapping[str, Mapping[str, Directions]]) -> Verdict:
    """How often does maximum cosine mispair what untied models write and read? `others`: controls."""

    def wrong(arm: Mapping[str, Directions], above: float = LEARNED) -> dict[str, np.ndarray]:
        return {name: mispaired(models, above).any(-1).numpy() for name, models in arm.items()}

    features = {name: int(mispaired(m).sum()) / max(int(m.learned().sum()), 1) for name, m in untied.items()}
    controls = lab.at_cuts(lambda cut: lab.weakest(wrong(untied, cut)))
    for name, arm in others.items():
        controls[name] = lab.weakest(wrong(arm, -np.inf if name == "untrained" else LEARNED))
    for name, models in untied.items():
        complete = models.learned().all(-1)
        anothers = models.learned() & ~lab.own_is_largest(models.write @ models.read.mT)
        controls |= {
            f"models that learned all features, {name}": lab.mean(mispaired(models).any(-1)[complete]),
            f"one to one, {name}": _share_misassigned(models),
            f"by inner product, {name}": lab.mean(anothers.any(-1)),
            f"features mispaired, {name}": features[name],
            f"features learned, {name}": lab.mean(models.learned().sum(-1)),
        }
    return Verdict.of_shares(
        "The smaller share of models in which maximum cosine mispairs a feature",
        wrong(untied),
        n_models=lab.total(wrong(untied)),
        controls=controls,
        detail=lab.listing(
            "Mispaired by maximum cosine",
            {n: f"{bad.mean():.0%} of models, {features[n]:.0%} of features" for n, bad in wrong(untied).items()},
        ),
        figures={
            f"{name}, seed 0: cosine of every written with every read direction; own pairs on the diagonal.": (
                plots.signed_heatmap(m.cosines[0].numpy(), "read direction of feature", "written direction", "cosine")
            )
            for name, m in untied.items()
        },
    )


def _share_misassigned(models: Directions) -> float:
    """Share of models in which the one-to-one pairing of largest total cosine mispairs a learned feature."""
    from scipy.optimize import linear_sum_assignment

    wrong = []
    for cosines, learned in zip(models.cosines.numpy(), models.learned().numpy(), strict=True):
        own = cosines[np.ix_(learned, learned)]
        rows, columns = linear_sum_assignment(own, maximize=True)
        wrong.append(own[rows, columns].sum() > np.trace(own) + CLEARLY)
    return lab.mean(wrong)


@claim("readout-is-a-measurement", "B", quick=20, full=60)
def readout_is_a_measurement(n_models: int) -> Verdict:
    """A trained readout is nearest to unambiguous discrimination: the dual frame of the written directions.

    Statistic: share of untied models whose read directions have a larger mean cosine, over learned features, with the
    dual frame than with the matched filter and with the pretty good measurement, by more than 0.01; the smaller of 5
    features in two dimensions and 9 in three, one-hot.
    Threshold: above 1/2, for each.
    Size: 20 models (quick), 60 (full), for each.
    Controls: both shares; the mean cosine with each measurement, and with the one-sided dual frame, the best readout
    behind a ReLU, with its loss, the trained one's = 1; the same of models with a linear output, where the dual frame
    is optimal, and of untrained ones; |cosine| with the neighbors (written within 84 degrees, cosine > 0.1) of what is
    written and of what is read: perpendicular would be 0.
    """
    return judge_readouts(
        train_onehot(n_models),
        {"linear output": train_onehot(n_models, output_act="identity"), "untrained": untrained(n_models)},
    )


def resemblance(models: Directions, above: float) -> Float[Tensor, "model measurement"]:
    """Mean cosine, over learned features, of the read directions with each of `MEASUREMENTS`."""
    rows = []
    for write, read, learned in zip(*models, models.learned(above), strict=True):
        cosines = theory.readout_cosines(write, read.mT)
        cosines["one-sided dual frame"] = torch.cosine_similarity(theory.one_sided_dual_frame(write), read, dim=-1)
        rows.append(torch.stack([cosines[name][learned].mean() for name in MEASUREMENTS]))
    return torch.stack(rows)


def judge_readouts(relu: Mapping[str, Directions], others: Mapping[str, Mapping[str, Directions]]) -> Verdict:
    """Which measurement do the readouts of ReLU models resemble most? `others`: controls."""
    found = {name: resemblance(models, LEARNED) for name, models in relu.items()}
    nearest = {}
    for name, cosines in found.items():
        matched, dual, pretty_good, _ = cosines.unbind(1)
        nearest[name] = (dual > torch.maximum(matched, pretty_good) + CLEARLY).numpy()
    columns = {f"{m}, {name}": cosines[:, i] for i, m in enumerate(MEASUREMENTS) for name, cosines in found.items()}
    means = {name: float(cosines.nanmean()) for name, cosines in columns.items()}
    controls = means | {f"nearest to the dual frame, {name}": share for name, share in lab.shares(nearest).items()}
    for name, models in relu.items():
        written, read = _beside_neighbors(models)
        controls |= {
            f"loss of the one-sided dual frame, {name}": _one_sided_loss(models),
            f"|cosine| with neighbors, written, {name}": written,
            f"|cosine| with neighbors, read, {name}": read,
        }
    for arm, by_setting in others.items():
        for name, models in by_setting.items():
            cosines = resemblance(models, -np.inf)
            controls |= {f"{m}, {name}, {arm}": float(cosines[:, i].mean()) for i, m in enumerate(MEASUREMENTS[:3])}
    return Verdict.of_shares(
        "The smaller share of models whose readout is nearest to the dual frame",
        nearest,
        n_models=lab.total(nearest),
        controls=controls,
        detail=lab.listing("Mean cosine with", means, ".3f"),
        figures={
            "Mean cosine of each model's readout with four measurements of what it writes.": plots.strips(
                {name: cosines.numpy() for name, cosines in columns.items()}, "cosine with the trained readout"
            )
        },
    )


def _one_sided_loss(models: Directions) -> float:
    """One-hot loss with the best readouts behind a ReLU in place of the trained ones, the trained loss = 1; summed."""

    def loss(read: Tensor) -> Tensor:
        return ((models.write @ read.mT).relu() - torch.eye(read.shape[1])).square().sum()

    return float(loss(theory.one_sided_dual_frame(models.write)).double() / loss(models.read))


def _beside_neighbors(models: Directions) -> tuple[float, float]:
    """Mean |cosine| with the written directions near a learned feature's: of what it writes, and of what it reads."""
    written = linalg.cosines(models.write)
    read = models.cosines.mT  # read feature, written feature
    near = (written > 0.1) & models.learned()[..., None] & ~torch.eye(written.shape[-1], dtype=torch.bool)
    return float(written[near].abs().mean()), float(read[near].abs().mean())
