"""A claim of "Superposition and bottlenecks" about untied one-hot features read out by a softmax, in two dimensions.

Cross-entropy, full batch, no bias, seeds from 0, the document's schedule; 3,000 steps for n = 10 and 10,000 for n = 40:
after 3,000 steps models with n = 40 were still learning. Both ends are recorded after about 50 numbers of steps, evenly
spaced on a log scale.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tms_hooks import plots
from tms_hooks.claims import Verdict, above, claim, lab
from tms_hooks.claims.softmax import DOCUMENT, Tied, separable, train_softmax
from tms_hooks.config import ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.training.optimizers import SGD

STEPS = {10: 3_000, 40: 10_000}


class Growth(NamedTuple):
    """Untied models while they train, at recorded steps, the start first."""

    steps: np.ndarray
    W_E: Float[Tensor, "step model feature hidden"]
    W_U: Float[Tensor, "step model hidden feature"]


def grow_untied(n_features: int, n_models: int, init_scale: float = 1.0) -> Growth:
    """Train untied toys without bias and record both ends along the way.

    Gradient descent without momentum remembers nothing, so training in pieces is training in one go.
    """
    cfg = ToyConfig(n_features=n_features, d_hidden=2, tied=False, output_bias=False, output_act="softmax")
    total = STEPS[n_features]
    steps = sorted({0, round(DOCUMENT.warmup * total)} | {round(step) for step in np.geomspace(1, total, 60)})
    recorded = [{name: init_scale * W for name, W in lab.untrained(cfg, n_models).items()}]
    for first, end in pairwise(steps):
        starts = [{name: W[i] for name, W in recorded[-1].items()} for i in range(n_models)]
        optimizer = part_of_schedule(first, end, total)
        data = OneHot(n_features=n_features)
        run = lab.train_from(cfg, data, starts, steps=end - first, optimizer=optimizer, loss="cross_entropy")
        recorded.append(run.weights)
    return Growth(np.array(steps), *(torch.stack([weights[name] for weights in recorded]) for name in ("W_E", "W_U")))


def part_of_schedule(first: int, end: int, total: int) -> SGD:
    """The document's schedule from step `first` to before `end` of `total`, on one side of the end of its warm-up."""
    rates = [DOCUMENT.learning_rate(step, total) for step in (first, end - 1)]
    return SGD(lr=rates[0], final_lr=rates[1], schedule="linear" if first < DOCUMENT.warmup * total else "exponential")


def all_learned(W_E: Float[Tensor, "*#axis feature hidden"], W_U: Float[Tensor, "*#axis hidden feature"]) -> np.ndarray:
    """Whether every input is given its own feature as the likeliest."""
    return lab.own_is_largest(W_E @ W_U).all(-1).numpy()


def unembed_first(growth: Growth, share: float = 0.5) -> Bool[Tensor, "model feature"]:
    """Did the unembed reach this share of its final norm at an earlier record than the embed did?"""
    unembed, embed = (
        (norms > share * norms[-1]).to(torch.uint8).argmax(0)
        for norms in (growth.W_U.norm(dim=-2), growth.W_E.norm(dim=-1))
    )
    return unembed < embed


@claim("softmax-untied-unembed-first", "B", quick=4, full=24, needs=above(0.5))
def softmax_untied_unembed_first(n_models: int) -> Verdict:
    """An untied softmax without bias learns all features, the unembed of each before its embed.

    Statistic: the smallest of two shares, at n = 10 and n = 40: models that give every input its own feature the
    largest probability; models in which more than half of the features reach half of their final norm in W_U earlier
    than in W_E. A tie counts as not earlier.
    Threshold: above 1/2, for each.
    Size: 4 models for each n (quick), 24 (full).
    Controls: each share; the second at a quarter and three quarters of the final norm; features whose unembed, and
    whose embed, came first; both shares from an initialization ten times smaller, n = 10; models whose W_U separates
    all inputs with the final W_E before W_E does with the final W_U; tied models that learn all; how far |W_E|^2 -
    |W_U|^2 moved, relative to their sum: gradient flow conserves it.
    """
    return judge_order(
        {n: grow_untied(n, n_models) for n in STEPS},
        {10: grow_untied(10, n_models, init_scale=0.1)},
        {n: train_softmax(n, n_models) for n in STEPS},
    )


def judge_order(growth: Mapping[int, Growth], small: Mapping[int, Growth], tied: Mapping[int, Tied]) -> Verdict:
    """All learned, and the unembed first?"""

    def learned(grown: Mapping[int, Growth]) -> dict[str, np.ndarray]:
        return {f"all learned, n = {n}": all_learned(g.W_E[-1], g.W_U[-1]) for n, g in grown.items()}

    def in_order(grown: Mapping[int, Growth], share: float = 0.5) -> dict[str, np.ndarray]:
        return {
            f"unembed first, n = {n}": unembed_first(g, share).double().mean(1).numpy() > 0.5 for n, g in grown.items()
        }

    parts = learned(growth) | in_order(growth)
    shares = {part: held.mean() for part, held in parts.items()}
    controls = shares | {
        f"{part}, small start": held.mean() for part, held in (learned(small) | in_order(small)).items()
    }
    for share in (0.25, 0.75):
        controls |= {f"{part} at {share} of the norm": held.mean() for part, held in in_order(growth, share).items()}
    for n, g in growth.items():
        controls |= {
            f"features, unembed first, n = {n}": lab.mean(unembed_first(g).flatten()),
            f"features, embed first, n = {n}": lab.mean(unembed_first(Growth(g.steps, g.W_U.mT, g.W_E.mT)).flatten()),
            f"unembed separates first, n = {n}": _separates_first(g).mean(),
            f"tied, all learned, n = {n}": lab.mean(separable(tied[n])),
            f"drift of |W_E|^2 - |W_U|^2, n = {n}": _drift(g),
        }
    return Verdict.of_shares(
        "The smallest of the shares",
        parts,
        n_models=sum(g.W_E.shape[1] for g in growth.values()),
        controls=controls,
        detail="; ".join(f"{part}: {share:.0%}" for part, share in shares.items()) + ".",
        figures={
            f"Norms of each end of the features, n = {n}: mean over features and models.": plots.curves(
                {
                    "embed, W_E": (g.steps[1:], g.W_E.norm(dim=-1).mean((1, 2)).numpy()[1:]),
                    "unembed, W_U": (g.steps[1:], g.W_U.norm(dim=-2).mean((1, 2)).numpy()[1:]),
                },
                "step",
                "norm",
                log_x=True,
            )
            for n, g in growth.items()
        },
    )


def _separates_first(growth: Growth) -> np.ndarray:
    """Does W_U separate all inputs with the final W_E, for good, before W_E does with the final W_U?"""
    unembed = all_learned(growth.W_E[-1:], growth.W_U)
    embed = all_learned(growth.W_E, growth.W_U[-1:])
    first, second = (len(ok) - np.logical_and.accumulate(ok[::-1]).sum(0) for ok in (unembed, embed))
    return np.less(first, second)


def _drift(growth: Growth) -> float:
    """How far |W_E|^2 - |W_U|^2 moved from start to end, relative to their final sum."""
    embed, unembed = (W.square().sum((-2, -1)) for W in (growth.W_E, growth.W_U))
    difference = embed - unembed
    return float(((difference[-1] - difference[0]).abs() / (embed + unembed)[-1]).mean())
