"""Claims of "Superposition and bottlenecks" about unit-norm features with a scale, and about hidden biases.

One-hot toys from given starts, all gradients exact. Biases start as those of `torch.nn.Linear`, not at zero.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots
from tms_hooks.claims import lab
from tms_hooks.claims.lab import LEARNED
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import Verdict, above
from tms_hooks.config import ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.models.forward import Weights
from tms_hooks.training.optimizers import Adam, Optimizer

PERFECT = 1e-3
"""Squared error of one input, all features together, below which a model counts as perfect; 1 if nothing is learned."""
SCALES = (1.0, 0.3, 10.0)
"""What the learned scale starts from; the perfect circle of 10 needs 1 / (1 - cos 36) = 5.24."""
EVEN = 0.1
"""Coefficient of variation of the gaps below which directions count as evenly spread."""
CENTERED = 0.05
"""Share of the root-mean-square hidden activation below which an offset counts as none."""


class Outcome(NamedTuple):
    """Trained models: where they started, what became of them, and the way there.

    Attributes:
        start, weights: stacked, at the start and at the end.
        loss: (model,), squared error of one input, all features together.
        path: (step, model, feature, hidden), `W_E` through training.
    """

    start: Weights
    weights: Weights
    loss: np.ndarray
    path: np.ndarray

    @property
    def perfect(self) -> np.ndarray:
        """Which models reconstruct every input."""
        return np.less(self.loss, PERFECT)

    def directions(self, learned: float = LEARNED) -> np.ndarray:
        """How many directions each model has learned."""
        return geometry.count_directions(self.weights["W_E"], learned).numpy()


def train_biased(cfg: ToyConfig, starts: Sequence[Weights], steps: int, optimizer: Optimizer = lab.USUAL) -> Outcome:
    """One-hot toys trained from given weights."""
    data = OneHot(n_features=cfg.n_features)
    run = lab.train_from(cfg, data, starts, steps=steps, optimizer=optimizer, record_every=max(steps // 50, 1))
    return Outcome(lab.stack(starts), run.weights, run.final_loss.numpy(), run.history.W_E.values)


@claim("unit-norm-with-scale", "B", quick=12, full=60, needs=above(0.5))
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
    outcomes = {
        f"from {scale:g}": train_biased(
            cfg, [start | {"scale": torch.tensor(scale)} for start in starts], 2_000, Adam(lr=0.1)
        )
        for scale in SCALES
    }
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
    way = {
        name: geometry.count_directions(torch.from_numpy(o.path), LEARNED).double().mean(1).numpy()
        for name, o in outcomes.items()
    }
    controls = {name: held.mean() for name, held in parts.items()}
    controls["untrained directions"] = lab.mean(geometry.count_directions(one.start["W_E"], LEARNED))
    controls["untrained gap variation"] = lab.mean(gap_variation(w) for w in one.start["W_E"])
    for name, o in outcomes.items():
        controls |= {
            f"mean directions, {name}": o.directions().mean(),
            f"evenly spread, {name}": even[name].mean(),
            f"median scale, {name}": o.weights["scale"].median(),
            f"perfect, {name}": o.perfect.mean(),
            f"median loss, {name}": np.median(o.loss),
        }
    for part, share in (("a tenth", 0.1), ("a quarter", 0.25), ("half", 0.5)):
        controls[f"mean directions after {part} of the training"] = way["from 1"][int(share * (len(one.path) - 1))]
    return Verdict.of_shares(
        "The smaller of two shares",
        parts,
        n_models=len(one.loss),
        controls=controls,
        detail="Directions learned, by the scale at the start: "
        + "; ".join(f"{name}: {lab.tally(o.directions())}" for name, o in outcomes.items())
        + ".",
        figures={
            "Unit-norm features at the end, seed 0, by the scale that training starts from.": plots.feature_arrows(
                np.stack([o.weights["W_E"][0].numpy() for o in outcomes.values()]), list(outcomes)
            ),
            "Directions over training (means over models), by the scale that training starts from.": plots.curves(
                {name: (np.linspace(0, 1, len(mean)), mean) for name, mean in way.items()},
                "share of the training",
                "directions",
            ),
        },
    )


@claim("hidden-bias-goes-to-zero", "B", quick=12, full=60, needs=above(0.5))
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
        cfg = ToyConfig(**architecture)
        return train_biased(cfg, lab.linear_starts(cfg, n_models), 10_000)

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
    parts = {}
    for name, o in arms.items():
        bias, center = offsets(o.weights)
        parts[name] = (bias if name.startswith("tied") else center) < CENTERED
    everything = {**arms, **others}
    controls: dict[str, float] = {}
    for name, o in everything.items():
        for when, weights in (("", o.weights), (" before training", o.start)):
            bias, center = offsets(weights)
            controls[f"bias{when}, {name}"] = np.median(bias)
            controls[f"mean activation{when}, {name}"] = np.median(center)
        controls[f"median loss, {name}"] = np.median(o.loss)
    return Verdict.of_shares(
        "The smallest of four shares",
        parts,
        n_models=lab.total(parts),
        controls=controls,
        detail="Bias gone (tied) or activations centered (untied): "
        + ", ".join(f"{name} {held.mean():.0%}" for name, held in parts.items())
        + ".",
        figures={
            f"Norm of the {what} of every model, in units of the root-mean-square activation.": plots.strips(
                {name: offsets(o.weights)[i] for name, o in everything.items()}, ylabel
            )
            for i, (what, ylabel) in enumerate(
                [("hidden bias", "|b| / rms"), ("mean hidden activation", "|mean h| / rms")]
            )
        },
    )
