"""Claims of "Superposition and bottlenecks" about biases: output biases, hidden ones, and unit norm with a scale.

One-hot toys from given starts, all gradients exact. Biases start as those of `torch.nn.Linear`, not at zero.

The document's schedule is SGD of the whole data set for 30,000 steps, the learning rate rising from 0.005 to 2 over the
first 5 % and then falling exponentially to 0.1. It does not say of which loss: here of the mean over inputs *and*
features, as `torch.nn.MSELoss` has it, which in units of this library's loss (summed over features) divides it by n. A
control takes it as it stands.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, theory
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.lab import CUTS, LEARNED
from tms_hooks.config import ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.models.forward import Weights
from tms_hooks.training.optimizers import SGD, Adam, Optimizer

PERFECT = 1e-3
"""Squared error of one input, all features together, below which a model counts as perfect; 1 if nothing is learned."""
SCALES = (1.0, 0.3, 10.0)
"""What the learned scale starts from; the perfect circle of 10 needs 1 / (1 - cos 36) = 5.24."""
EVEN = 0.1
"""Coefficient of variation of the gaps below which directions count as evenly spread."""
CENTERED = 0.05
"""Share of the root-mean-square hidden activation below which an offset counts as none."""
SIZES = (10, 40)
NOISE = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Of the perfect starts, in units of the spacing of neighbors; the least decides."""
PEAKS = tuple(np.logspace(-2, 0, 5).tolist())
MARGIN = 1.05
"""Norm of a perfect start, the least perfect norm = 1: neighbors stand a little below their kinks."""


class Outcome(NamedTuple):
    """Trained models: where they started, what became of them, their loss per input, and the way of `W_E` there."""

    start: Weights
    weights: Weights
    loss: Float[np.ndarray, " model"]
    path: Float[np.ndarray, "step model feature hidden"]

    @property
    def perfect(self) -> np.ndarray:
        """Which models reconstruct every input."""
        return np.less(self.loss, PERFECT)

    def directions(self, learned: float = LEARNED) -> np.ndarray:
        """How many directions each model has learned."""
        return geometry.count_directions(self.weights["W_E"], learned).numpy()


def train_biased(
    cfg: ToyConfig, starts: int | Sequence[Weights], steps: int, optimizer: Optimizer = lab.USUAL
) -> Outcome:
    """One-hot toys trained from given weights, or from so many random starts."""
    starts = lab.linear_starts(cfg, starts) if isinstance(starts, int) else starts
    data = OneHot(n_features=cfg.n_features)
    run = lab.train_from(cfg, data, starts, steps=steps, optimizer=optimizer, record_every=max(steps // 50, 1))
    return Outcome(lab.stack(starts), run.weights, run.final_loss.numpy(), run.history.W_E.values)


def documented(peak: float) -> SGD:
    """The document's schedule, from a 400th of the peak learning rate to the peak and down to a 20th."""
    return SGD(lr=peak, schedule="exponential", warmup=0.05, initial_lr=peak / 400, final_lr=peak / 20)


def perfect_starts(n_features: int, n_models: int, noise: float) -> list[dict[str, Tensor]]:
    """Perfect circles, 5 % longer than they must be, with Gaussian noise in units of the spacing of neighbors."""
    norm = MARGIN * theory.perfect_circle(n_features).norm
    spacing = 2 * torch.pi / n_features
    turns = spacing * torch.arange(n_features)
    circle = torch.stack([turns.cos(), turns.sin()], dim=1)
    starts = []
    for seed in range(n_models):
        drawn = torch.randn(n_features, 2, generator=torch.Generator().manual_seed(seed))
        W = norm * (circle + noise * spacing / 2**0.5 * drawn)
        starts.append({"W_E": W, "b_U": torch.full((n_features,), 1 - norm**2)})
    return starts


def train_perfect(n_features: int, n_models: int, noise: float, optimizer: Optimizer = lab.USUAL) -> np.ndarray:
    """Final losses from near the perfect circle."""
    starts = perfect_starts(n_features, n_models, noise)
    return train_biased(ToyConfig(n_features=n_features, d_hidden=2), starts, 3_000, optimizer).loss


@claim("bias-perfect-not-found", "B", quick=8, full=40)
def bias_perfect_not_found(n_models: int) -> Verdict:
    """With an output bias all one-hot features fit perfectly on a circle, stably, but random starts do not find it.

    Statistic: the smallest of six shares, 10 and 40 features in two dimensions, tied: models that start on the perfect
    circle, with noise of 1 % of the spacing between neighbors, and end perfect under Adam (squared error of an input
    below 0.001), for each n; models that start at random and do not, for each n, under the document's schedule and
    under Adam.
    Threshold: above 1/2, for each.
    Size: 8 models (quick), 40 (full), for each.
    Controls: directions learned from random starts and features reconstructed (output > 0.5), with the share of models
    with six, which the document often sees; directions at learned > 0.3 and > 0.7; the share of learned features, and
    of all, whose bias started positive; the norm of learned features in units of the perfect circle of as many; median
    loss; the document's schedule on the summed loss, n = 10; perfect starts under the document's schedule, and the
    largest learning rate at which SGD can stay there; the noise that half the perfect starts survive; the largest
    share of perfect models at any learning rate from 0.01 to 1, SGD with and without warmup and Adam, n = 10.
    """
    ways: dict[str, Callable[[float], Optimizer]] = {
        "SGD, warmup": documented,
        "SGD": lambda lr: SGD(lr=lr, schedule="exponential", final_lr=lr / 20),
        "Adam, constant": lambda lr: Adam(lr=lr),
    }
    cfgs = {n: ToyConfig(n_features=n, d_hidden=2) for n in SIZES}
    found, few = {}, max(n_models // 4, 2)
    for n, cfg in cfgs.items():
        found[f"n = {n}, SGD"] = train_biased(cfg, n_models, 30_000, documented(2 / n))
        found[f"n = {n}, Adam"] = train_biased(cfg, n_models, 10_000)
    return judge_perfect(
        found | {"n = 10, SGD, summed loss": train_biased(cfgs[10], n_models, 30_000, documented(2))},
        {n: {noise: train_perfect(n, n_models, noise) for noise in NOISE} for n in SIZES},
        {n: train_perfect(n, n_models, NOISE[0], documented(2 / n)) for n in SIZES},
        {name: {lr: train_biased(cfgs[10], few, 10_000, make(lr)) for lr in PEAKS} for name, make in ways.items()},
    )


def judge_perfect(
    found: Mapping[str, Outcome],
    kept: Mapping[int, Mapping[float, np.ndarray]],
    kept_sgd: Mapping[int, np.ndarray],
    swept: Mapping[str, Mapping[float, Outcome]],
) -> Verdict:
    """Are perfect starts kept, and random starts not perfect?

    Args:
        found: outcomes of random starts; those on the summed loss are controls.
        kept: losses from perfect starts with noise, by number of features and noise; the least noise decides.
        kept_sgd: the same under the document's schedule.
        swept: outcomes of random starts by learning rate.
    """
    parts = {f"n = {n} stays perfect": losses[min(losses)] < PERFECT for n, losses in kept.items()}
    parts |= {f"{name} not found": ~o.perfect for name, o in found.items() if "summed" not in name}
    controls = {f"{what}, {name}": value for name, o in found.items() for what, value in _describe(o).items()}
    stay = {}
    for n, losses in kept.items():
        stay[f"n = {n}"] = share = {noise: (loss < PERFECT).mean() for noise, loss in losses.items()}
        controls |= {
            f"noise that half survive, n = {n}": max((noise for noise in share if share[noise] >= 0.5), default=0.0),
            f"perfect starts kept by the document's schedule, n = {n}": (kept_sgd[n] < PERFECT).mean(),
            f"largest stable learning rate, n = {n}": stable_learning_rate(n),
        }
    controls["largest share of perfect models at any learning rate"] = max(
        o.perfect.mean() for arm in swept.values() for o in arm.values()
    )
    example, outcome = next(iter(found.items()))
    swept_means = {name: {lr: reconstructed(o).mean() for lr, o in arm.items()} for name, arm in swept.items()}
    return Verdict.of_shares(
        "The smallest of six shares",
        parts,
        n_models=lab.total(parts),
        controls=controls,
        detail=lab.listing(
            "Directions learned from random starts, and features reconstructed",
            {n: f"{lab.tally(o.directions())}, and {lab.tally(reconstructed(o))}" for n, o in found.items()},
        ),
        figures={
            f"From random starts to the end, {example}: every line is a feature's path, the dot its end.": (
                plots.trajectories(outcome.path[:, :3].swapaxes(0, 1), lab.seed_names(outcome.loss[:3]))
            ),
            "Features reconstructed from random starts, n = 10, against the peak learning rate on the summed loss.": (
                lab.curves(swept_means, "peak learning rate", "mean features reconstructed", log_x=True)
            ),
            "Share of perfect starts that end perfect, under Adam, against the noise at their start.": (
                lab.curves(stay, "noise / spacing of neighbors", "share of models", log_x=True)
            ),
        },
    )


def reconstructed(outcome: Outcome) -> np.ndarray:
    """Features, of each model, whose output exceeds 0.5 when they are alone in the input."""
    outputs = geometry.feature_norms(outcome.weights["W_E"]).square() + outcome.weights["b_U"]
    return (outputs > 0.5).sum(1).numpy()


def stable_learning_rate(n_features: int) -> float:
    """Largest learning rate at which gradient descent can stay on the perfect circle of least norm.

    There each feature's own error e = 1 - (|w|^2 + b) is all that has a gradient: the loss is the sum of e^2 / n, the
    largest eigenvalue of its Hessian 2 (4 |w|^2 + 1) / n, and descent is stable below 2 / eigenvalue.
    """
    return n_features / (4 * theory.perfect_circle(n_features).norm ** 2 + 1)


def _describe(outcome: Outcome) -> dict[str, float]:
    positive, directions = outcome.start["b_U"] > 0, outcome.directions()
    norms = geometry.feature_norms(outcome.weights["W_E"])
    learned = norms > LEARNED
    ideal = torch.tensor([theory.perfect_circle(int(d)).norm if d >= 2 else torch.nan for d in directions])
    return {
        "mean directions": directions.mean(),
        "share with six directions": (directions == 6).mean(),
        **{f"mean directions at learned > {cut}": outcome.directions(cut).mean() for cut in CUTS},
        "features reconstructed": reconstructed(outcome).mean(),
        "share with six features reconstructed": (reconstructed(outcome) == 6).mean(),
        "learned features whose bias started positive": positive[learned].double().mean(),
        "features whose bias started positive": positive.double().mean(),
        "norm, perfect circle of as many = 1": (norms / ideal[:, None])[learned].nanmean(),
        "median loss": np.median(outcome.loss),
    }


@claim("unit-norm-with-scale", "B", quick=12, full=60)
def unit_norm_with_scale(n_models: int) -> Verdict:
    """Unit-norm features with a learned scale from 1 spread evenly on a circle, in fewer directions than features.

    Statistic: the smaller of two shares, 10 one-hot features in two dimensions, tied, with an output bias, after 2,000
    steps of Adam at a constant 0.1, long enough for losses to settle: models with fewer distinct directions than
    features; models whose gaps between neighboring directions have a coefficient of variation below 0.1.
    Threshold: above 1/2, for each.
    Size: 12 models (quick), 60 (full), for each scale.
    Controls: both shares; untrained directions; directions, evenness, scale, loss and perfect models (squared error of
    an input below 0.001) from scales 0.3 and 10, and from 1 more gently, with 1,000 steps of Adam from 0.01 on cosine
    decay; directions after a tenth, a quarter and half of the training.
    """
    cfg = ToyConfig(n_features=10, d_hidden=2, unit_norm=True)
    starts = lab.linear_starts(cfg, n_models)
    scaled = {scale: [start | {"scale": torch.tensor(scale)} for start in starts] for scale in SCALES}
    outcomes = {f"from {scale:g}": train_biased(cfg, start, 2_000, Adam(lr=0.1)) for scale, start in scaled.items()}
    return judge_scale(outcomes | {"from 1, gently": train_biased(cfg, starts, 1_000)})


def gap_variation(W: Float[Tensor, "feature hidden"]) -> float:
    """Coefficient of variation of the gaps between neighboring directions: 0 for a regular polygon; infinite if there
    are no two."""
    groups = geometry.directions(W, LEARNED)
    if len(groups) < 2:
        return float("inf")
    centers = torch.stack([W[group].mean(0) for group in groups])
    turns = torch.atan2(centers[:, 1], centers[:, 0]).double().sort().values
    gaps = torch.diff(torch.cat([turns, turns[:1] + 2 * torch.pi]))
    return float(gaps.std(correction=0) / gaps.mean())


def judge_scale(outcomes: Mapping[str, Outcome]) -> Verdict:
    """Of models "from 1": fewer directions than features, evenly spread? Other starts and recipes are controls."""
    one = outcomes["from 1"]
    even = {name: np.array([gap_variation(w) for w in o.weights["W_E"]]) < EVEN for name, o in outcomes.items()}
    parts = {
        "fewer directions than features": one.directions() < one.weights["W_E"].shape[1],
        "evenly spread": even["from 1"],
    }
    controls = lab.shares(parts) | {
        "untrained directions": lab.mean(geometry.count_directions(one.start["W_E"], LEARNED)),
        "untrained gap variation": lab.mean(gap_variation(w) for w in one.start["W_E"]),
    }
    through = {}
    for name, o in outcomes.items():
        counts = geometry.count_directions(torch.from_numpy(o.path), LEARNED).double().mean(1).numpy()
        through[name] = (np.linspace(0, 1, len(counts)), counts)
        controls |= {
            f"mean directions, {name}": o.directions().mean(),
            f"evenly spread, {name}": even[name].mean(),
            f"median scale, {name}": float(o.weights["scale"].median()),
            f"perfect, {name}": o.perfect.mean(),
            f"median loss, {name}": np.median(o.loss),
        }
    for when, share in (("a tenth", 0.1), ("a quarter", 0.25), ("half", 0.5)):
        controls[f"mean directions after {when} of the training"] = through["from 1"][1][
            int(share * (len(one.path) - 1))
        ]
    return Verdict.of_shares(
        "The smaller of two shares",
        parts,
        n_models=len(one.loss),
        controls=controls,
        detail=lab.listing(
            "Directions, by the first scale", {n: lab.tally(o.directions()) for n, o in outcomes.items()}
        ),
        figures={
            "Unit-norm features at the end, seed 0, by the scale that training starts from.": plots.feature_arrows(
                np.stack([o.weights["W_E"][0].numpy() for o in outcomes.values()]), list(outcomes)
            ),
            "Directions over training (means over models), by the scale that training starts from.": (
                plots.curves(through, "share of the training", "directions")
            ),
        },
    )


@claim("hidden-bias-goes-to-zero", "B", quick=12, full=60)
def hidden_bias_goes_to_zero(n_models: int) -> Verdict:
    """A hidden bias alone goes to zero if tied; untied it only re-centers: the activations stay centered on zero.

    Statistic: the smallest of four shares, 5 one-hot features in two dimensions, no output bias, ReLU and GELU, after
    10,000 steps of Adam from 0.01 on cosine decay: tied models whose hidden bias ends below 0.05 of the
    root-mean-square norm of the hidden activations; untied models whose mean hidden activation, over inputs, does.
    Threshold: above 1/2, for each.
    Size: 12 models (quick), 60 (full), for each of four arms.
    Controls: the medians of both ratios, in every arm and before training; the same untied models without a hidden
    bias; tied models with both biases; median losses.
    """

    def trained(**changes: Any) -> Outcome:
        architecture = {"n_features": 5, "d_hidden": 2, "hidden_bias": True, "output_bias": False} | changes
        return train_biased(ToyConfig(**architecture), n_models, 10_000)

    arms, others = {}, {"tied with both biases, ReLU": trained(output_bias=True)}
    for name, act in (("ReLU", "relu"), ("GELU", "gelu")):
        arms[f"tied, {name}"] = trained(output_act=act)
        arms[f"untied, {name}"] = trained(output_act=act, tied=False)
        others[f"untied without, {name}"] = trained(output_act=act, tied=False, hidden_bias=False)
    return judge_hidden(arms, others)


def offsets(weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Norm of the hidden bias, and of the mean hidden activation, in units of the root-mean-square activation."""
    bias = weights.get("b_hidden", torch.zeros_like(weights["W_E"][:, 0]))
    hidden = weights["W_E"] + bias[:, None]
    size = hidden.square().sum(-1).mean(-1).sqrt()
    return (bias.norm(dim=-1) / size).numpy(), (hidden.mean(1).norm(dim=-1) / size).numpy()


def judge_hidden(arms: Mapping[str, Outcome], others: Mapping[str, Outcome]) -> Verdict:
    """Tied: does the bias vanish? Untied: are the activations centered? `others`: controls."""
    controls: dict[str, float] = {}
    biases, means = {}, {}
    for name, o in {**arms, **others}.items():
        for when, weights in ((" before training", o.start), ("", o.weights)):
            biases[name], means[name] = offsets(weights)
            controls[f"bias{when}, {name}"] = np.median(biases[name])
            controls[f"mean activation{when}, {name}"] = np.median(means[name])
        controls[f"median loss, {name}"] = np.median(o.loss)
    parts = {name: (biases if name.startswith("tied") else means)[name] < CENTERED for name in arms}
    return Verdict.of_shares(
        "The smallest of four shares",
        parts,
        n_models=lab.total(parts),
        controls=controls,
        detail=lab.listing("Bias gone (tied) or centered", lab.shares(parts), ".0%"),
        figures={
            f"Norm of the {what} of every model, in units of the root-mean-square activation.": plots.strips(
                norms, label
            )
            for what, label, norms in (
                ("hidden bias", "|b| / rms", biases),
                ("mean hidden activation", "|mean h| / rms", means),
            )
        },
    )
