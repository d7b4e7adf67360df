"""Claims of "Superposition and bottlenecks" about unit-norm features with a scale, and about hidden biases."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, stats
from tms_hooks.claims.registry import claim
from tms_hooks.claims.starts import (
    ADAM,
    LEARNED,
    PERFECT,
    Outcome,
    Weights,
    count,
    random_starts,
    some,
    tally,
    train_from,
)
from tms_hooks.claims.verdict import Verdict, above
from tms_hooks.config import Activation, ToyConfig
from tms_hooks.training.optimizers import Adam

SCALES = (1.0, 0.3, 10.0)
"""What the learned scale starts from; the perfect circle of 10 needs 1 / (1 - cos 36) = 5.24."""
FAST = Adam(lr=0.1)


@claim("unit-norm-with-scale", "B", quick=12, full=60, needs=above(0.5))
def unit_norm_with_scale(n_models: int) -> Verdict:
    """Unit-norm features with a learned scale from 1 spread evenly on a circle, in fewer directions than features.

    Statistic: the smaller of two shares, 10 one-hot features in two dimensions, tied, with an output bias, after 2,000
    steps of Adam at a constant 0.1, long enough for losses to settle: models with fewer distinct directions than
    features; models whose gaps between neighbouring directions have a coefficient of variation below 0.1.
    Threshold: above 1/2, for each.
    Size: 12 models (quick), 60 (full), for each scale.
    Controls: both shares; untrained directions; directions, evenness, scale, loss and perfect models (squared error of
    an input below 0.001) from scales 0.3 and 10, and from 1 more gently, with 1,000 steps of Adam from 0.01 on cosine
    decay; directions after a tenth, a quarter and half of the training.
    """
    cfg = ToyConfig(n_features=10, d_hidden=2, unit_norm=True)
    starts = random_starts(cfg, n_models)
    every = [start | {"scale": torch.tensor(scale)} for scale in SCALES for start in starts]
    together = train_from(cfg, every, FAST, 2_000)  # one run, whose models do not meet
    parts = {f"from {s:g}": some(together, slice(i * n_models, (i + 1) * n_models)) for i, s in enumerate(SCALES)}
    return judge_scale(parts | {"from 1, gently": train_from(cfg, starts, ADAM, 1_000)})


def gap_variation(W: Float[Tensor, "feature hidden"]) -> float:
    """Coefficient of variation of the gaps between neighbouring directions: 0 for a regular polygon; infinite if there
    are no two."""
    groups = geometry.directions(W, LEARNED)
    if len(groups) < 2:
        return float("inf")
    centres = torch.stack([W[group].mean(0) for group in groups])
    turns = torch.atan2(centres[:, 1], centres[:, 0]).double().sort().values
    gaps = torch.diff(torch.cat([turns, turns[:1] + 2 * torch.pi]))
    return float(gaps.std(correction=0) / gaps.mean())


def judge_scale(outcomes: Mapping[str, Outcome]) -> Verdict:
    """Of models "from 1": fewer directions than features, evenly spread? Other starts and recipes are controls."""
    one = outcomes["from 1"]
    n = one.weights["W_E"].shape[1]
    directions = {name: count(o) for name, o in outcomes.items()}
    variation = {name: np.array([gap_variation(w) for w in o.weights["W_E"]]) for name, o in outcomes.items()}
    counts = {
        "fewer directions than features": (int((directions["from 1"] < n).sum()), len(one.loss)),
        "evenly spread": (int((variation["from 1"] < 0.1).sum()), len(one.loss)),
    }
    found = stats.weakest_share(counts)
    way = {
        name: geometry.count_directions(torch.from_numpy(o.path), LEARNED).double().mean(1).numpy()
        for name, o in outcomes.items()
    }
    controls = {name: k / total for name, (k, total) in counts.items()}
    controls["untrained directions"] = float(geometry.count_directions(one.start["W_E"], LEARNED).double().mean())
    controls["untrained gap variation"] = float(np.mean([gap_variation(w) for w in one.start["W_E"]]))
    for name, o in outcomes.items():
        controls |= {
            f"mean directions, {name}": float(directions[name].mean()),
            f"evenly spread, {name}": float((variation[name] < 0.1).mean()),
            f"median scale, {name}": float(o.weights["scale"].median()),
            f"perfect, {name}": float((o.loss < PERFECT).mean()),
            f"median loss, {name}": float(np.median(o.loss)),
        }
    for part, share in (("a tenth", 0.1), ("a quarter", 0.25), ("half", 0.5)):
        controls[f"mean directions after {part} of the training"] = float(
            way["from 1"][int(share * (len(one.path) - 1))]
        )
    text = "; ".join(f"{name}: {tally(d)}" for name, d in directions.items())
    return Verdict(
        measured=f"The smaller of two shares ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=len(one.loss),
        controls=controls,
        detail=f"Directions learned, by the scale at the start: {text}.",
        figures=[
            (
                "Unit-norm features at the end, seed 0, by the scale that training starts from.",
                plots.feature_arrows(
                    np.stack([o.weights["W_E"][0].numpy() for o in outcomes.values()]), list(outcomes)
                ),
            ),
            (
                "Directions over training (means over models), by the scale that training starts from.",
                plots.curves(
                    {name: (np.linspace(0, 1, len(mean)), mean) for name, mean in way.items()},
                    "share of the training",
                    "directions",
                ),
            ),
        ],
    )


CENTRED = 0.05


@claim("hidden-bias-goes-to-zero", "B", quick=12, full=60, needs=above(0.5))
def hidden_bias_goes_to_zero(n_models: int) -> Verdict:
    """A hidden bias alone goes to zero if tied; untied it only re-centres: the activations stay centred on zero.

    Statistic: the smallest of four shares, 5 one-hot features in two dimensions, no output bias, ReLU and GELU, after
    10,000 steps of Adam from 0.01 on cosine decay: tied models whose hidden bias ends below 0.05 of the
    root-mean-square norm of the hidden activations; untied models whose mean hidden activation, over inputs, does.
    Threshold: above 1/2, for each.
    Size: 12 models (quick), 60 (full), for each of four arms.
    Controls: the medians of both ratios, in every arm and before training; the same untied models without a hidden
    bias; tied models with both biases; median losses.
    """
    arms = {
        f"{'tied' if tied else 'untied'}, {name}": train_hidden(n_models, tied, act)
        for tied in (True, False)
        for name, act in _ACTS.items()
    }
    return judge_hidden(
        arms,
        {f"untied without, {name}": train_hidden(n_models, False, act, hidden=False) for name, act in _ACTS.items()}
        | {"tied with both biases, ReLU": train_hidden(n_models, True, "relu", output=True)},
    )


_ACTS: dict[str, Activation] = {"ReLU": "relu", "GELU": "gelu"}


def train_hidden(
    n_models: int, tied: bool, output_act: Activation, hidden: bool = True, output: bool = False
) -> Outcome:
    """Five one-hot features in two dimensions, by default with a hidden bias only."""
    cfg = ToyConfig(n_features=5, d_hidden=2, tied=tied, hidden_bias=hidden, output_bias=output, output_act=output_act)
    return train_from(cfg, random_starts(cfg, n_models), ADAM, 10_000)


def offsets(weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Norm of the hidden bias, and of the mean hidden activation, in units of the root-mean-square activation."""
    bias = weights.get("b_hidden", torch.zeros_like(weights["W_E"][:, 0]))
    hidden = weights["W_E"] + bias[:, None]
    size = hidden.square().sum(-1).mean(-1).sqrt()
    return (bias.norm(dim=-1) / size).numpy(), (hidden.mean(1).norm(dim=-1) / size).numpy()


def judge_hidden(arms: Mapping[str, Outcome], others: Mapping[str, Outcome]) -> Verdict:
    """Tied: does the bias vanish? Untied: are the activations centred? `others`: controls."""
    counts = {}
    for name, o in arms.items():
        bias, centre = offsets(o.weights)
        small = (bias if name.startswith("tied") else centre) < CENTRED
        counts[name] = (int(small.sum()), len(small))
    found = stats.weakest_share(counts)
    everything = {**arms, **others}
    controls: dict[str, float] = {}
    for name, o in everything.items():
        for when, weights in (("", o.weights), (" before training", o.start)):
            bias, centre = offsets(weights)
            controls |= {f"bias{when}, {name}": float(np.median(bias))}
            controls |= {f"mean activation{when}, {name}": float(np.median(centre))}
        controls[f"median loss, {name}"] = float(np.median(o.loss))
    text = ", ".join(f"{name} {k / n:.0%}" for name, (k, n) in counts.items())
    return Verdict(
        measured=f"The smallest of four shares ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=sum(n for _, n in counts.values()),
        controls=controls,
        detail=f"Bias gone (tied) or activations centred (untied): {text}.",
        figures=[
            (
                f"{what} of every model, in units of the root-mean-square activation.",
                plots.strips({name: offsets(o.weights)[i] for name, o in everything.items()}, ylabel),
            )
            for i, (what, ylabel) in enumerate(
                [("Norm of the hidden bias", "|b| / rms"), ("Norm of the mean hidden activation", "|mean h| / rms")]
            )
        ],
    )
