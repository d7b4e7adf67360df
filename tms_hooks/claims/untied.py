"""Claims of "Superposition and bottlenecks" about untied weights: features written in one direction, read in another.

Without bias, from `torch.nn.Linear`'s initialization. One-hot features, all gradients and losses exact: 5 in two
dimensions, 9 in three, by the usual recipe, 10,000 steps, since untied losses go on falling for long; and 40 in two by
the document's schedule, which it gives for that many. Untied norms have no scale of their own, so "learned" here means
that a feature alone in the input, at 1, is reconstructed above 0.5.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tms_hooks import linalg, plots, theory
from tms_hooks.claims import Verdict, claim, lab, seeds, share, statistic
from tms_hooks.claims.biases import documented
from tms_hooks.claims.lab import LEARNED
from tms_hooks.config import ToyConfig
from tms_hooks.data import OneHot, SparseUniform
from tms_hooks.run import Run

STEPS = 10_000
SETTINGS = {"2-D": (5, 2), "3-D": (9, 3)}
"""One-hot features and dimensions."""
MEASUREMENTS = ("matched filter", "dual frame", "pretty good measurement", "one-sided dual frame")
CLEARLY = 0.01
"""Cosines nearer to each other than this count as equal."""
NEIGHBOR = 0.1
"""Cosine of written directions from which two features are neighbors: within 84 degrees."""


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
    settings: dict[str, Any] = {"tied": False, "init": "linear"} | architecture
    return ToyConfig(n_features=n_features, d_hidden=d_hidden, output_bias=False, **settings)


def train_five(n_models: int, steps: int = STEPS, **architecture: Any) -> Run:
    """Five one-hot features in two dimensions, by the usual recipe."""
    return lab.train_toys(toy(5, 2, **architecture), OneHot(n_features=5), n_models, steps=steps)


def train_forty(n_models: int, **architecture: Any) -> Run:
    """Forty one-hot features in two dimensions, by the document's schedule."""
    data, optimizer = OneHot(n_features=40), documented(2 / 40)
    return lab.train_toys(toy(40, 2, **architecture), data, n_models, steps=30_000, optimizer=optimizer)


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
    """Untied models do better than tied ones, by writing features along the edges of opposite quadrants.

    Part "better": "Why can we do better when untied?"
    Statistic: the share of seeds whose untied model prevents at least 1 % more loss (of the n that a model without
    output has) than its tied twin, n = 40 in two dimensions, by the document's schedule.
    Threshold: above 1/2.
    Null: the tied models of other seeds in the untied ones' place.

    Part "five features": "My algorithm with 5 features".
    Statistic: the share of untied models of five features in two dimensions that reconstruct all five (own output above
    1/2) at less than half of the least tied loss.
    Threshold: above 1/2.
    Null: tied models.

    Part "opposite quadrants": "Qualitatively, push features to the edges of opposite quadrants".
    Statistic: the share of the same untied models in whose written directions there are two antipodal pairs or more
    (within 10 degrees): four features on two lines, which are the edges of opposite quadrants in oblique axes; untied
    weights have no others.
    Threshold: above 1/2.
    Null: untrained models.

    Beyond the source "not with unit norm": the document does not say where the advantage comes from.
    Statistic: the share of seeds of five features that, with unit-norm writes and one learned scale, do not fall below
    95 % of the tied loss.
    Threshold: above 1/2.
    Null: free untied models.

    Beyond the source "sparse": features as in Toy Models of Superposition, p = 0.05.
    Statistic: the share of seeds whose untied loss is below 95 % of the tied one, five features in two dimensions.
    Threshold: above 1/2.
    Null: the tied models of other seeds in the untied ones' place.

    Size: 12 seeds (quick), 60 (full), for each arm.
    Controls: the median loss of every arm, the tied one's = 1; with unit-norm reads; the share of seeds at 99 % and at
    80 % of the tied loss; features reconstructed; antipodal pairs within 5 and 20 degrees, under GELU and among reads.
    """
    arms: dict[str, dict[str, Any]] = {
        "tied": {"tied": True},
        "untied": {},
        "unit-norm writes": {"unit_norm": "write"},
        "unit-norm reads": {"unit_norm": "read"},
    }
    sparse = SparseUniform(n_features=5, feature_probability=0.05)
    five = {arm: train_five(n_models, **how) for arm, how in arms.items()}
    losses = {
        "n = 40": {arm: train_forty(n_models, **arms[arm]).final_loss.numpy() for arm in ("tied", "untied")},
        "five": {arm: run.final_loss.numpy() for arm, run in five.items()},
        "sparse": {
            arm: lab.stratified_losses(lab.train_toys(toy(5, 2, **arms[arm]), sparse, n_models, steps=STEPS))
            for arm in ("tied", "untied")
        },
    }
    return judge_untied(
        losses,
        {arm: Directions.of(run.weights) for arm, run in five.items()},
        Directions.of(lab.untrained(toy(5, 2), n_models)),
        Directions.of(train_five(n_models, output_act="gelu").weights),
    )


def antipodal_pairs(V: Float[Tensor, "model feature hidden"], degrees: float = 10.0) -> np.ndarray:
    """Pairs of opposite directions in each model.

    >>> antipodal_pairs(torch.tensor([[[2.0, 0.0], [-1.0, 0.1], [0.0, 1.0]]]))
    array([1])
    """
    opposite = linalg.cosines(V) < -np.cos(np.deg2rad(degrees))
    return (opposite.sum((-2, -1)) // 2).numpy()


def the_five_feature_algorithm(long: float = 10.0) -> Directions:
    """An arrangement of five features in two dimensions whose loss falls as 2 / long^2 without end, behind a ReLU.

    Four are written short along two lines, and read long; the fifth is written long between them, and read short.

    >>> write, read = the_five_feature_algorithm()
    >>> outputs = (write[0] @ read[0].T).relu()
    >>> bool((outputs.diagonal() - 1).abs().max() < 1e-6), round(float((outputs - torch.eye(5)).square().sum()), 4)
    (True, 0.03)
    """
    L, s, h = long, 1 / long, 0.5**0.5
    write = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-s, 0.0], [0.0, -s], [L * h, L * h]])
    read = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [-L, 0.0], [0.0, -L], [h / L, h / L]])
    return Directions(write[None], read[None])


def judge_untied(
    losses: Mapping[str, Mapping[str, np.ndarray]],
    five: Mapping[str, Directions],
    start: Directions,
    gelu: Directions,
) -> Verdict:
    """Seed by seed: is each arm better than the tied one, and how does it write?

    Args:
        losses: mean loss of an input by data ("n = 40", "five", "sparse") and arm.
        five: the directions of five one-hot features by arm.
        start, gelu: the same untrained, and under GELU.
    """
    prevented = {arm: 40 * (1 - loss) for arm, loss in losses["n = 40"].items()}
    one_hot, sparse = losses["five"], losses["sparse"]

    def better(loss: np.ndarray, tied: np.ndarray, margin: float = 0.95) -> np.ndarray:
        return np.less(loss, margin * tied)

    def solved(arm: str) -> np.ndarray:
        return five[arm].learned().all(-1).numpy() & (one_hot[arm] < one_hot["tied"].min() / 2)

    relative = {
        f"{data}, {arm}": loss / np.median(arms["tied"]) for data, arms in losses.items() for arm, loss in arms.items()
    }
    medians = {name: float(np.median(loss)) for name, loss in relative.items()}
    pairs = antipodal_pairs(five["untied"].write) >= 2
    best = lab.lowest(one_hot["untied"])
    drawn = {"by hand": the_five_feature_algorithm()} | dict(five)
    written, read = (np.stack([models[side][0].numpy() for models in drawn.values()]) for side in (0, 1))
    return Verdict(
        parts={
            "better": share(
                "The share of seeds whose untied model prevents 1 % more loss, n = 40,",
                prevented["untied"] > 1.01 * prevented["tied"],
                null=np.roll(prevented["tied"], 1) > 1.01 * prevented["tied"],
                best=float(prevented["untied"].max() > 1.01 * prevented["tied"].max()),
            ),
            "five features": share(
                "The share of untied models that reconstruct all five",
                solved("untied"),
                null=solved("tied"),
                best=float(solved("untied")[best]),
            ),
            "opposite quadrants": share(
                "The share of untied models that write on two lines",
                pairs,
                null=antipodal_pairs(start.write) >= 2,
                best=float(pairs[best]),
            ),
            "not with unit norm": share(
                "The share of seeds that are no better with unit-norm writes",
                ~better(one_hot["unit-norm writes"], one_hot["tied"]),
                null=~better(one_hot["untied"], one_hot["tied"]),
            ),
            "sparse": share(
                "The share of seeds whose untied loss is lower, sparse features,",
                better(sparse["untied"], sparse["tied"]),
                null=better(np.roll(sparse["tied"], 1), sparse["tied"]),
            ),
        },
        n_models=lab.total(relative),
        controls={f"median loss, tied = 1: {name}": value for name, value in medians.items()}
        | {"no better with unit-norm reads": (~better(one_hot["unit-norm reads"], one_hot["tied"])).mean()}
        | {
            f"five, untied below {margin:.0%} of the tied loss": better(
                one_hot["untied"], one_hot["tied"], margin
            ).mean()
            for margin in (0.99, 0.8)
        }
        | {f"features reconstructed of five, {arm}": lab.mean(models.learned().sum(-1)) for arm, models in five.items()}
        | {
            f"two antipodal pairs, {what}": (antipodal_pairs(V, degrees) >= 2).mean()
            for what, V, degrees in (
                ("within 5 degrees", five["untied"].write, 5.0),
                ("within 20 degrees", five["untied"].write, 20.0),
                ("GELU", gelu.write, 10.0),
                ("reads", five["untied"].read, 10.0),
                ("tied", five["tied"].write, 10.0),
            )
        },
        detail=lab.listing("Median loss, the tied one's = 1", medians, ".3g"),
        figures={
            "Final loss of every model.": plots.strips(relative, "loss / median tied loss", log_y=True),
            "Five features written (solid) and read (dotted), at unit length: by hand, and in the first model.": (
                plots.write_and_read(written, read, list(drawn))
            ),
        },
    )


@claim("write-is-not-read", "B", quick=12, full=60)
def write_is_not_read(n_models: int) -> Verdict:
    """Pairing written with read directions by maximum cosine fails: some are most similar to another feature's.

    Part "5 in 2-D": "Just finding max cosine similarity or something to pair features up isn't the full story. eg. in
    the 5 features in 2d case, written feature 1 is most similar in direction to reading direction 2."
    Statistic: the share of untied models of five features in two dimensions, after 30,000 steps, in which the written
    direction of at least one learned feature has a cosine with another learned feature's read direction that exceeds
    that with its own by more than 0.01.
    Threshold: above 1/2.
    Null: tied models.

    Beyond the source "9 in 3-D":
    Statistic: the same with nine features in three dimensions.
    Threshold: above 1/2.
    Null: tied models.

    Beyond the source "one to one": the document says "or something".
    Statistic: the share of the models of both settings in which the one-to-one pairing of largest total cosine mispairs
    a learned feature.
    Threshold: below 0.1.
    Null: maximum cosine.

    Size: 12 models (quick), 60 (full), for each.
    Controls: learned > 0.3 and > 0.7; GELU; after 2,000 steps; untrained; among models that learned all features; by
    inner product; the share of features mispaired; n = 40 by the document's schedule, where few are learned.
    """
    return judge_pairing(
        train_onehot(n_models, steps=3 * STEPS),
        train_onehot(n_models, tied=True),
        {
            "GELU": train_onehot(n_models, output_act="gelu"),
            "after 2,000 steps": train_onehot(n_models, steps=2_000),
            "untrained": untrained(n_models),
            "document's schedule": {"n = 40": Directions.of(train_forty(n_models).weights)},
        },
    )


def mispaired(models: Directions, above: float = LEARNED) -> Bool[Tensor, "model feature"]:
    """Learned features whose written direction is clearly nearer to another learned one's read direction."""
    learned = models.learned(above)
    cosines = models.cosines.masked_fill(~learned[:, None, :], -2)
    own = cosines.diagonal(dim1=-2, dim2=-1)
    return learned & (cosines.amax(-1) > own + CLEARLY)


def judge_pairing(
    untied: Mapping[str, Directions], tied: Mapping[str, Directions], others: Mapping[str, Mapping[str, Directions]]
) -> Verdict:
    """How often does maximum cosine mispair what untied models write and read? `others`: controls."""

    def wrong(models: Directions, above: float = LEARNED) -> np.ndarray:
        return mispaired(models, above).any(-1).numpy()

    features = {name: int(mispaired(m).sum()) / max(int(m.learned().sum()), 1) for name, m in untied.items()}
    controls = {
        f"{name}, {arm}": wrong(models).mean()
        for arm, by_setting in others.items()
        for name, models in by_setting.items()
    }
    for name, models in untied.items():
        complete = models.learned().all(-1)
        anothers = models.learned() & ~lab.own_is_largest(models.write @ models.read.mT)
        controls |= {f"{name}, learned > {cut}": wrong(models, cut).mean() for cut in lab.CUTS} | {
            f"models that learned all features, {name}": lab.mean(mispaired(models).any(-1)[complete]),
            f"by inner product, {name}": lab.mean(anothers.any(-1)),
            f"features mispaired, {name}": features[name],
            f"features learned, {name}": lab.mean(models.learned().sum(-1)),
        }
    shares = {name: wrong(models).mean() for name, models in untied.items()}
    return Verdict(
        parts={
            where: share(
                f"The share of models in which maximum cosine mispairs a feature, {name},",
                wrong(untied[name]),
                null=wrong(tied[name]),
            )
            for name, where in (("2-D", "5 in 2-D"), ("3-D", "9 in 3-D"))
        }
        | {
            "one to one": share(
                "The share of models in which one-to-one pairing mispairs a feature",
                np.concatenate([_misassigned(models) for models in untied.values()]),
                null=np.concatenate([wrong(models) for models in untied.values()]),
            )
        },
        n_models=sum(len(models.write) for models in untied.values()),
        controls=controls,
        detail=lab.listing(
            "Mispaired by maximum cosine",
            {name: f"{bad:.0%} of models, {features[name]:.0%} of features" for name, bad in shares.items()},
        ),
        figures={
            f"{name}, the first model: cosine of every written with every read direction; own pairs on the diagonal.": (
                plots.signed_heatmap(m.cosines[0].numpy(), "read direction of feature", "written direction", "cosine")
            )
            for name, m in untied.items()
        },
    )


def _misassigned(models: Directions) -> np.ndarray:
    """Models in which the one-to-one pairing of largest total cosine mispairs a learned feature."""
    from scipy.optimize import linear_sum_assignment

    wrong = []
    for cosines, learned in zip(models.cosines.numpy(), models.learned().numpy(), strict=True):
        own = cosines[np.ix_(learned, learned)]
        rows, columns = linear_sum_assignment(own, maximize=True)
        wrong.append(own[rows, columns].sum() > np.trace(own) + CLEARLY)
    return np.array(wrong)


@claim("readout-is-a-measurement", "B", quick=20, full=60)
def readout_is_a_measurement(n_models: int) -> Verdict:
    """Features written near each other are read perpendicular to each other, as quantum states are discriminated.

    Part "perpendicular": "to separate $v_1$ from $v_2$ with $v_1 \\cdot v_2 > 0$, should use unembed vectors $u_1,u_2$
    with $u_1\\perp v_2$ and $u_2\\perp v_1$."
    Statistic: the mean |cosine| of what is read of a learned feature with what is written of its neighbors (cosine of
    the written directions above 0.1), five features in two dimensions.
    Threshold: below 0.1, six degrees from perpendicular.
    Null: the written directions themselves as readers, which is how tied models read.

    Part "depends on the others": "More generally, the best direction to read from depends on where the interfering
    features are."
    Statistic: the mean cosine of trained readers with the best ones behind a ReLU (one-sided dual frame, closed form)
    of what the model writes, five features in two dimensions.
    Threshold: above 0.9.
    Null: the best readers were the other features written in random directions, at their lengths.

    Beyond the source "dual frame": unambiguous discrimination with two sides, as quantum states have.
    Statistic: the share of models whose readers have a larger mean cosine with the dual frame than with the matched
    filter and with the pretty good measurement, by more than 0.01, five features in two dimensions.
    Threshold: above 1/2.
    Null: models with a linear output.

    Size: 20 models (quick), 60 (full), for each setting.
    Controls: all of it with nine features in three dimensions; the mean cosine with each measurement; the loss of the
    one-sided dual frame, the trained one's = 1; untrained models.
    """
    return judge_readouts(
        train_onehot(n_models),
        {"linear output": train_onehot(n_models, output_act="identity"), "untrained": untrained(n_models)},
    )


def resemblance(models: Directions, above: float) -> Float[Tensor, "model measurement"]:
    """Mean cosine, over learned features, of the read directions with each of `MEASUREMENTS`."""
    rows = []
    for write, read, learned in zip(models.write.double(), models.read.double(), models.learned(above), strict=True):
        cosines = theory.readout_cosines(write, read.mT)
        cosines["one-sided dual frame"] = torch.cosine_similarity(theory.one_sided_dual_frame(write), read, dim=-1)
        rows.append(torch.stack([cosines[name][learned].mean() for name in MEASUREMENTS]))
    return torch.stack(rows)


def with_others_elsewhere(models: Directions, above: float = LEARNED) -> np.ndarray:
    """Each model's mean cosine of its readers with the best for the same feature among others in random directions."""
    found = []
    for seed, (write, read) in enumerate(zip(models.write.double(), models.read.double(), strict=True)):
        generator = seeds.generator(seed)
        elsewhere = linalg.unit(torch.randn(write.shape, generator=generator, dtype=torch.float64))
        elsewhere = elsewhere * write.norm(dim=-1, keepdim=True)
        cosines = [
            torch.cosine_similarity(theory.one_sided_dual_frame(_replaced(elsewhere, i, write[i]))[i], read[i], dim=0)
            for i in range(len(write))
            if write[i] @ read[i] > above
        ]
        found.append(lab.mean(cosines))
    return np.array(found)


def _replaced(rows: Tensor, i: int, row: Tensor) -> Tensor:
    changed = rows.clone()
    changed[i] = row
    return changed


def judge_readouts(relu: Mapping[str, Directions], others: Mapping[str, Mapping[str, Directions]]) -> Verdict:
    """Which measurement do the readouts of ReLU models resemble?

    Args:
        relu: untied models by setting; "2-D" decides.
        others: "linear output" models, and other controls.
    """
    found = {name: resemblance(models, LEARNED) for name, models in relu.items()}
    near = {name: beside_neighbors(models) for name, models in relu.items()}
    means = {
        f"{m}, {name}": float(cosines[:, i].nanmean())
        for i, m in enumerate(MEASUREMENTS)
        for name, cosines in found.items()
    }
    controls = means | {f"nearest to the dual frame, {name}": _dual(cosines).mean() for name, cosines in found.items()}
    for name, models in relu.items():
        written, read = near[name]
        controls |= {
            f"loss of the one-sided dual frame, {name}": _one_sided_loss(models),
            f"|cosine| with neighbors, written, {name}": lab.mean_of_known(written),
            f"|cosine| with neighbors, read, {name}": lab.mean_of_known(read),
        }
    for arm, by_setting in others.items():
        for name, models in by_setting.items():
            cosines = resemblance(models, -np.inf)
            controls |= {f"{m}, {name}, {arm}": float(cosines[:, i].mean()) for i, m in enumerate(MEASUREMENTS[:3])}
    written, read = near["2-D"]
    return Verdict(
        parts={
            "perpendicular": statistic(
                "The mean |cosine| of readers with neighbors", lab.mean_of_known, read, null=(written,)
            ),
            "depends on the others": statistic(
                "The mean cosine with the best readers behind a ReLU",
                lab.mean_of_known,
                found["2-D"][:, 3].numpy(),
                null=(with_others_elsewhere(relu["2-D"]),),
            ),
            "dual frame": share(
                "The share of models whose readers are nearest to the dual frame",
                _dual(found["2-D"]),
                null=_dual(resemblance(others["linear output"]["2-D"], -np.inf)),
            ),
        },
        n_models=sum(len(models.write) for models in relu.values()),
        controls=controls,
        detail=lab.listing("Mean cosine with", means, ".3f"),
        figures={
            "Mean cosine of each model's readout with four measurements of what it writes.": plots.strips(
                {f"{m}, {n}": c[:, i].numpy() for i, m in enumerate(MEASUREMENTS) for n, c in found.items()},
                "cosine with the trained readout",
            )
        },
    )


def _dual(cosines: Float[Tensor, "model measurement"]) -> np.ndarray:
    """Whether the dual frame is the nearest of the three two-sided measurements."""
    matched, dual, pretty_good, _ = cosines.unbind(1)
    return (dual > torch.maximum(matched, pretty_good) + CLEARLY).numpy()


def _one_sided_loss(models: Directions) -> float:
    """One-hot loss with the best readouts behind a ReLU in place of the trained ones, the trained loss = 1; summed."""
    write, read = models.write.double(), models.read.double()

    def loss(read: Tensor) -> Tensor:
        return ((write @ read.mT).relu() - torch.eye(read.shape[1])).square().sum()

    return float(loss(theory.one_sided_dual_frame(write)) / loss(read))


def beside_neighbors(models: Directions) -> tuple[np.ndarray, np.ndarray]:
    """Mean |cosine| with the written directions near a learned feature's, of what it writes, and of what it reads.

    One number per model; NaN where no learned feature has a neighbor.
    """
    written = linalg.cosines(models.write)
    read = models.cosines.mT  # read feature, written feature
    near = (written > NEIGHBOR) & models.learned()[..., None] & ~torch.eye(written.shape[-1], dtype=torch.bool)
    count = near.sum((-2, -1))
    return tuple(((c.abs() * near).sum((-2, -1)) / count).numpy() for c in (written, read))  # type: ignore[return-value]
