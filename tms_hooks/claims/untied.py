"""Claims of "Superposition and bottlenecks" about untied weights without bias: features written in one direction and
read in another.

One-hot features: 5 in two dimensions, 9 in three, all gradients exact. Sparse ones as in Toy Models of Superposition: 5
in two dimensions, p = 0.05. Adam at 0.01 with cosine decay over 10,000 steps, seeds from 0: untied losses go on falling
for long. Untied norms have no scale of their own, so "learned" here means that a feature alone in the input, at 1, is
reconstructed above 0.5.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tms_hooks import linalg, plots, stats, theory
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import Verdict, above
from tms_hooks.config import Activation, ToyConfig, UnitNorm
from tms_hooks.data import OneHot, SparseUniform
from tms_hooks.models.forward import init_weights
from tms_hooks.run import Run
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

LEARNED = 0.5
CUTS = (0.3, 0.7)
SETTINGS = {"2-D": (5, 2), "3-D": (9, 3)}
"""One-hot features and dimensions."""
CLEARLY = 0.01
"""Cosines nearer to each other than this count as equal."""


class Bottleneck(NamedTuple):
    """What stacked toys write and read, directions as rows."""

    write: Float[Tensor, "model feature hidden"]
    read: Float[Tensor, "model feature hidden"]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> "Bottleneck":
        """From a run's weights; tied ones read where they write. A learned scale is left out."""
        return cls(weights["W_E"], weights["W_U"].mT if "W_U" in weights else weights["W_E"])

    def learned(self, above: float = LEARNED) -> Bool[Tensor, "model feature"]:
        """Features that are reconstructed."""
        return (self.write * self.read).sum(-1) > above

    @property
    def cosines(self) -> Float[Tensor, "model written read"]:
        """Of every written direction with every read one."""
        return linalg.cosines(self.write, self.read)


@cache
def train_bottleneck(
    n_features: int,
    d_hidden: int,
    n_models: int,
    *,
    tied: bool = False,
    unit_norm: bool | UnitNorm = False,
    output_act: Activation = "relu",
    sparse: bool = False,
    steps: int = 10_000,
) -> Run:
    """Toys without bias. Kept: several claims look at the same ones."""
    data = SparseUniform(n_features=n_features, feature_probability=0.05) if sparse else OneHot(n_features=n_features)
    return train(
        ToyConfig(
            n_features=n_features,
            d_hidden=d_hidden,
            tied=tied,
            unit_norm=unit_norm,
            output_bias=False,
            output_act=output_act,
        ),
        data,
        seeds=range(n_models),
        steps=steps,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        record_every=steps,
    )


def untrained(n_features: int, d_hidden: int, n_models: int) -> Bottleneck:
    """What the same untied models start from."""
    cfg = ToyConfig(n_features=n_features, d_hidden=d_hidden, tied=False, output_bias=False)
    each = [init_weights(cfg, seed) for seed in range(n_models)]
    return Bottleneck.of({name: torch.stack([w[name] for w in each]) for name in ("W_E", "W_U")})


@claim("untied-is-better", "B", quick=12, full=60, needs=above(0.5))
def untied_is_better(n_models: int) -> Verdict:
    """Untied models reach a lower loss than tied ones, but no longer if their writes or their reads have unit norm.

    Statistic: the smallest of six shares of seeds, three for one-hot and three for sparse data, 5 features in two
    dimensions: the untied loss is below 95 % of the tied loss; with unit-norm writes (and one learned scale) it is not;
    with unit-norm reads it is not.
    Threshold: above 1/2, for each.
    Size: 12 seeds (quick), 60 (full), for each arm and data.
    Controls: the median loss of every arm, the tied one's = 1; the smallest share at 99 % and at 80 % of the tied loss.
    """
    arms: dict[str, dict[str, bool | UnitNorm]] = {
        "tied": {"tied": True},
        "untied": {},
        "unit-norm writes": {"unit_norm": "write"},
        "unit-norm reads": {"unit_norm": "read"},
    }
    runs = {
        data: {arm: train_bottleneck(5, 2, n_models, sparse=data == "sparse", **how) for arm, how in arms.items()}
        for data in ("one-hot", "sparse")
    }
    return judge_untied(
        {data: {arm: run.final_loss.numpy() for arm, run in arms.items()} for data, arms in runs.items()},
        {arm: Bottleneck.of(run.weights) for arm, run in runs["one-hot"].items()},
    )


def judge_untied(losses: Mapping[str, Mapping[str, np.ndarray]], pictures: Mapping[str, Bottleneck]) -> Verdict:
    """Seed by seed: is each arm better than the tied one? `pictures`: of each arm, the first model is drawn."""

    def weakest(margin: float) -> stats.Weakest:
        counts = {}
        for data, arms in losses.items():
            better = {arm: (loss < margin * arms["tied"]) for arm, loss in arms.items()}
            for arm, wanted in (("untied", True), ("unit-norm writes", False), ("unit-norm reads", False)):
                part = f"{data}, {arm} {'better' if wanted else 'no better'}"
                counts[part] = (int((better[arm] == wanted).sum()), len(better[arm]))
        return stats.weakest_share(counts)

    found = weakest(0.95)
    relative = {
        f"{data}, {arm}": loss / np.median(arms["tied"]) for data, arms in losses.items() for arm, loss in arms.items()
    }
    medians = {name: float(np.median(loss)) for name, loss in relative.items()}
    return Verdict(
        measured=f"The smallest of six shares of seeds ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=sum(len(loss) for arms in losses.values() for loss in arms.values()),
        controls={f"median loss, tied = 1: {name}": value for name, value in medians.items()}
        | {f"smallest share at {margin:.0%} of the tied loss": weakest(margin).share for margin in (0.99, 0.8)},
        detail="Median loss, the tied one's = 1: " + ", ".join(f"{n} {v:.3g}" for n, v in medians.items()) + ".",
        figures=[
            (
                "Final loss of every model, in units of the median tied one.",
                plots.strips(relative, "loss / median tied loss", log_y=True),
            ),
            (
                "One-hot features, seed 0: written directions (solid) and read directions (dotted), at unit length.",
                plots.write_and_read(
                    np.stack([b.write[0].numpy() for b in pictures.values()]),
                    np.stack([b.read[0].numpy() for b in pictures.values()]),
                    list(pictures),
                ),
            ),
        ],
    )


@claim("write-is-not-read", "B", quick=12, full=60, needs=above(0.5))
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
        {
            name: {s: Bottleneck.of(train_bottleneck(n, m, n_models, **how).weights) for s, (n, m) in SETTINGS.items()}
            for name, how in _PAIRING_ARMS.items()
        }
        | {"untrained": {s: untrained(n, m, n_models) for s, (n, m) in SETTINGS.items()}}
    )


_PAIRING_ARMS: dict[str, dict[str, Any]] = {
    "untied": {},
    "tied": {"tied": True},
    "GELU": {"output_act": "gelu"},
    "after 2,000 steps": {"steps": 2_000},
}


def mispaired(models: Bottleneck, above: float = LEARNED) -> Bool[Tensor, "model feature"]:
    """Learned features whose written direction is clearly nearer to another learned one's read direction."""
    learned = models.learned(above)
    cosines = models.cosines.masked_fill(~learned[:, None, :], -2)
    own = cosines.diagonal(dim1=-2, dim2=-1)
    return learned & (cosines.amax(-1) > own + CLEARLY)


def judge_pairing(arms: Mapping[str, Mapping[str, Bottleneck]]) -> Verdict:
    """How often does maximum cosine mispair what "untied" models write and read? Other arms are controls."""
    untied = arms["untied"]

    def weakest(models: Mapping[str, Bottleneck], above: float = LEARNED) -> stats.Weakest:
        wrong = {name: mispaired(b, above).any(-1) for name, b in models.items()}
        return stats.weakest_share({name: (int(bad.sum()), len(bad)) for name, bad in wrong.items()})

    found = weakest(untied)
    features = {name: float(mispaired(b).sum()) / max(int(b.learned().sum()), 1) for name, b in untied.items()}
    share = {name: mispaired(b).any(-1).double().mean().item() for name, b in untied.items()}
    text = "; ".join(f"{name}: {share[name]:.0%} of models, {features[name]:.0%} of features" for name in untied)
    return Verdict(
        measured=f"The smaller share of models in which maximum cosine mispairs a feature ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=sum(len(b.write) for b in untied.values()),
        controls={f"learned > {cut}": weakest(untied, cut).share for cut in CUTS}
        | {
            name: weakest(models, -np.inf if name == "untrained" else LEARNED).share
            for name, models in arms.items()
            if name != "untied"
        }
        | {f"models that learned all features, {name}": _share_where_all(b) for name, b in untied.items()}
        | {f"one to one, {name}": _share_misassigned(b) for name, b in untied.items()}
        | {f"by inner product, {name}": _share_wrong_product(b) for name, b in untied.items()}
        | {f"features mispaired, {name}": value for name, value in features.items()}
        | {f"features learned, {name}": float(b.learned().double().sum(-1).mean()) for name, b in untied.items()},
        detail=f"Mispaired by maximum cosine: {text}.",
        figures=[
            (
                f"{name}, seed 0: cosine of every written with every read direction; own pairs on the diagonal.",
                plots.signed_heatmap(b.cosines[0].numpy(), "read direction of feature", "written direction", "cosine"),
            )
            for name, b in untied.items()
        ],
    )


def _share_where_all(models: Bottleneck) -> float:
    """Share of mispairing models among those that learned all features."""
    complete = models.learned().all(-1)
    return float(mispaired(models).any(-1)[complete].double().mean())


def _share_misassigned(models: Bottleneck) -> float:
    """Share of models in which the one-to-one pairing of largest total cosine mispairs a learned feature."""
    from scipy.optimize import linear_sum_assignment

    wrong = []
    for cosines, learned in zip(models.cosines.numpy(), models.learned().numpy(), strict=True):
        own = cosines[np.ix_(learned, learned)]
        rows, columns = linear_sum_assignment(own, maximize=True)
        wrong.append(own[rows, columns].sum() > np.trace(own) + CLEARLY)
    return float(np.mean(wrong))


def _share_wrong_product(models: Bottleneck) -> float:
    """Share of models in which some learned feature's largest logit is another's."""
    logits = models.write @ models.read.mT
    own = torch.arange(logits.shape[-1])
    return float(((logits.argmax(-1) != own) & models.learned()).any(-1).double().mean())


@claim("readout-is-a-measurement", "B", quick=20, full=60, needs=above(0.5))
def readout_is_a_measurement(n_models: int) -> Verdict:
    """A trained readout is nearest to unambiguous discrimination: the dual frame of the written directions.

    Statistic: share of untied models whose read directions have a larger mean cosine, over learned features, with the
    dual frame than with the matched filter and with the pretty good measurement, by more than 0.01; the smaller of 5
    features in two dimensions and 9 in three, one-hot.
    Threshold: above 1/2, for each.
    Size: 20 models (quick), 60 (full), for each.
    Controls: both shares; the mean cosine with each measurement, and with the one-sided dual frame, the best readout
    behind a ReLU, with its loss, the trained one's = 1; the same of models with a linear output, where the dual frame
    is optimal, and of untrained ones; |cosine| with the neighbours (written within 84 degrees, cosine > 0.1) of what
    is written and of what is read: perpendicular would be 0.
    """

    def models(output_act: Activation) -> dict[str, Bottleneck]:
        return {
            s: Bottleneck.of(train_bottleneck(n, m, n_models, output_act=output_act).weights)
            for s, (n, m) in SETTINGS.items()
        }

    return judge_readouts(
        models("relu"),
        {"linear output": models("identity"), "untrained": {s: untrained(*at, n_models) for s, at in SETTINGS.items()}},
    )


MEASUREMENTS = ("matched filter", "dual frame", "pretty good measurement", "one-sided dual frame")


def resemblance(models: Bottleneck, above: float) -> Float[Tensor, "model measurement"]:
    """Mean cosine, over learned features, of the read directions with each of `MEASUREMENTS`."""
    rows = []
    for write, read, learned in zip(*models, models.learned(above), strict=True):
        cosines = theory.readout_cosines(write, read.mT)
        cosines["one-sided dual frame"] = torch.cosine_similarity(theory.one_sided_dual_frame(write), read, dim=-1)
        rows.append(torch.stack([cosines[name][learned].mean() for name in MEASUREMENTS]))
    return torch.stack(rows)


def judge_readouts(relu: Mapping[str, Bottleneck], others: Mapping[str, Mapping[str, Bottleneck]]) -> Verdict:
    """Which measurement do the readouts of ReLU models resemble most? `others`: controls."""
    found_in = {name: resemblance(b, LEARNED) for name, b in relu.items()}
    nearest = {n: c[:, 1] > c[:, [0, 2]].amax(1) + CLEARLY for n, c in found_in.items()}
    found = stats.weakest_share({name: (int(is_dual.sum()), len(is_dual)) for name, is_dual in nearest.items()})
    means = {
        f"{measurement}, {name}": float(c[:, i].nanmean())
        for name, c in found_in.items()
        for i, measurement in enumerate(MEASUREMENTS)
    }
    other_means = {
        f"{measurement}, {name}, {arm}": float(resemblance(b, -np.inf)[:, i].mean())
        for arm, models in others.items()
        for name, b in models.items()
        for i, measurement in enumerate(MEASUREMENTS[:3])
    }
    losses = {f"loss of the one-sided dual frame, {name}": _one_sided_loss(b) for name, b in relu.items()}
    near = {
        f"|cosine| with neighbours, {what}, {name}": value
        for name, b in relu.items()
        for what, value in zip(("written", "read"), _beside_neighbours(b), strict=True)
    }
    return Verdict(
        measured=f"The smaller share of models whose readout is nearest to the dual frame ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=sum(map(len, found_in.values())),
        controls={f"nearest to the dual frame, {n}": float(is_dual.double().mean()) for n, is_dual in nearest.items()}
        | means
        | losses
        | near
        | other_means,
        detail="Mean cosine with " + ", ".join(f"{name}: {value:.3f}" for name, value in means.items()) + ".",
        figures=[
            (
                "Mean cosine of each model's readout with four measurements of what it writes.",
                plots.strips(
                    {
                        f"{measurement}, {name}": c[:, i].numpy()
                        for i, measurement in enumerate(MEASUREMENTS)
                        for name, c in found_in.items()
                    },
                    "cosine with the trained readout",
                ),
            )
        ],
    )


def _one_sided_loss(models: Bottleneck) -> float:
    """One-hot loss with the best readouts behind a ReLU in place of the trained ones, the trained loss = 1; summed."""
    best = models._replace(read=theory.one_sided_dual_frame(models.write))
    losses = [
        float(((b.write @ b.read.mT).relu() - torch.eye(b.write.shape[1])).square().sum()) for b in (best, models)
    ]
    return losses[0] / losses[1] if losses[1] else float("nan")


def _beside_neighbours(models: Bottleneck) -> tuple[float, float]:
    """Mean |cosine| with the written directions near a learned feature's: of what it writes, and of what it reads."""
    written = linalg.cosines(models.write)
    read = models.cosines.mT  # read feature, written feature
    near = (written > 0.1) & models.learned()[..., None] & ~torch.eye(written.shape[-1], dtype=torch.bool)
    return float(written[near].abs().mean()), float(read[near].abs().mean())
