"""A claim of "Superposition and bottlenecks" about untied one-hot features read out by a softmax, in two dimensions.

Cross-entropy, full batch, no bias, seeds from 0, the document's schedule; 3,000 steps for n = 10 and 10,000 for n = 40:
after 3,000 steps models with n = 40 were still learning. Both ends are looked at after about 50 numbers of steps,
evenly spaced on a log scale.
"""

from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tms_hooks import plots, stats
from tms_hooks.claims.registry import claim
from tms_hooks.claims.softmax import DOCUMENT, Stacked, separable, train_softmax
from tms_hooks.claims.verdict import Verdict, above
from tms_hooks.config import ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.models.forward import init_weights
from tms_hooks.train import train
from tms_hooks.training.optimizers import SGD

STEPS = {10: 3_000, 40: 10_000}


class Growth(NamedTuple):
    """Untied models while they train.

    Attributes:
        steps: when they were looked at, the start first.
        W_E: (step, model, feature, hidden).
        W_U: (step, model, hidden, feature).
    """

    steps: np.ndarray
    W_E: Tensor
    W_U: Tensor


@cache
def grow_untied(n_features: int, n_models: int, init_scale: float = 1.0) -> Growth:
    """Train untied toys without bias and look at both ends along the way.

    Gradient descent without momentum remembers nothing, so training in pieces is training in one go.
    """
    cfg = ToyConfig(n_features=n_features, d_hidden=2, tied=False, output_bias=False, output_act="softmax")
    start = [init_weights(cfg, seed) for seed in range(n_models)]
    seen = [{name: init_scale * torch.stack([w[name] for w in start]) for name in ("W_E", "W_U")}]
    total = STEPS[n_features]
    looks = {round(step) for step in np.geomspace(1, total, 60)} | {round(DOCUMENT.warmup * total)}
    for first, end in pairwise(sorted(looks | {0})):
        ends = zip(seen[-1]["W_E"], seen[-1]["W_U"], strict=True)
        run = train(
            cfg,
            OneHot(n_features=n_features),
            seeds=range(n_models),
            steps=end - first,
            optimizer=part_of_schedule(first, end, total),
            loss="cross_entropy",
            record_every=end - first,
            init=[torch.nn.ParameterDict({"W_E": W_E, "W_U": W_U}) for W_E, W_U in ends],
        )
        seen.append(run.weights)
    return Growth(np.array(sorted(looks | {0})), *(torch.stack([w[name] for w in seen]) for name in ("W_E", "W_U")))


def part_of_schedule(first: int, end: int, total: int) -> SGD:
    """The document's schedule from step `first` to before `end` of `total`, on one side of the end of its warm-up."""
    rates = [DOCUMENT.learning_rate(step, total) for step in (first, end - 1)]
    return SGD(lr=rates[0], final_lr=rates[1], schedule="linear" if first < DOCUMENT.warmup * total else "exponential")


def all_learned(W_E: Tensor, W_U: Tensor) -> np.ndarray:
    """Whether every input is given its own feature as the likeliest: "*axis feature hidden", "*axis hidden feature"."""
    found: np.ndarray = ((W_E @ W_U).argmax(-1) == torch.arange(W_E.shape[-2])).all(-1).numpy()
    return found


def unembed_first(growth: Growth, share: float = 0.5) -> np.ndarray:
    """(model, feature): did the unembed reach this share of its final norm at an earlier look than the embed did?"""
    reached = [
        (norms > share * norms[-1]).to(torch.uint8).argmax(0)
        for norms in (growth.W_U.norm(dim=-2), growth.W_E.norm(dim=-1))
    ]
    found: np.ndarray = (reached[0] < reached[1]).numpy()
    return found


@claim("softmax-untied-unembed-first", "B", quick=4, full=24, needs=above(0.5))
def softmax_untied_unembed_first(n_models: int) -> Verdict:
    """An untied softmax without bias learns all features, the unembed of each before its embed.

    Statistic: the smallest of two shares, at n = 10 and n = 40: models that give every input its own feature the
    largest probability; models in which more than half of the features reach half of their final norm in W_U earlier
    than in W_E. A tie counts as not earlier.
    Threshold: above 1/2, for each.
    Size: 4 models for each n (quick), 24 (full).
    Controls: each share; the second at a quarter and three quarters of the final norm; features whose unembed, and
    whose embed, came first; both shares from an initialisation ten times smaller, n = 10; models whose W_U separates
    all inputs with the final W_E before W_E does with the final W_U; tied models that learn all; how far |W_E|^2 -
    |W_U|^2 moved, relative to their sum: gradient flow conserves it.
    """
    return judge_order(
        {n: grow_untied(n, n_models) for n in STEPS},
        {10: grow_untied(10, n_models, init_scale=0.1)},
        {n: train_softmax(n, n_models).W_E for n in STEPS},
    )


def judge_order(growth: Mapping[int, Growth], small: Mapping[int, Growth], tied: Mapping[int, Stacked]) -> Verdict:
    """All learned, and the unembed first?"""

    def parts(grown: Mapping[int, Growth], share: float = 0.5) -> dict[str, tuple[int, int]]:
        learned = {n: all_learned(g.W_E[-1], g.W_U[-1]) for n, g in grown.items()}
        first = {n: unembed_first(g, share).mean(1) > 0.5 for n, g in grown.items()}
        return {
            f"{name}, n = {n}": (int(hits.sum()), len(hits))
            for name, by_n in (("all learned", learned), ("unembed first", first))
            for n, hits in by_n.items()
        }

    at = parts(growth)
    found = stats.weakest_share(at)
    swapped = {n: Growth(g.steps, g.W_U.mT, g.W_E.mT) for n, g in growth.items()}
    return Verdict(
        measured=f"The smallest of the shares ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=sum(g.W_E.shape[1] for g in growth.values()),
        controls={part: k / n for part, (k, n) in at.items()}
        | {
            f"{part} at {share} of the norm": k / n
            for share in (0.25, 0.75)
            for part, (k, n) in parts(growth, share).items()
            if part.startswith("unembed")
        }
        | {f"features, unembed first, n = {n}": float(unembed_first(g).mean()) for n, g in growth.items()}
        | {f"features, embed first, n = {n}": float(unembed_first(g).mean()) for n, g in swapped.items()}
        | {f"{part}, small start": k / n for part, (k, n) in parts(small).items()}
        | {f"unembed separates first, n = {n}": float(_separates_first(g).mean()) for n, g in growth.items()}
        | {f"tied, all learned, n = {n}": float(separable(w).double().mean()) for n, w in tied.items()}
        | {f"drift of |W_E|^2 - |W_U|^2, n = {n}": _drift(g) for n, g in growth.items()},
        detail="; ".join(f"{part}: {k / n:.0%}" for part, (k, n) in at.items()) + ".",
        figures=[
            (
                f"Norms of each end of the features, n = {n}: mean over features and models.",
                plots.curves(
                    {
                        "embed, W_E": (g.steps[1:], g.W_E.norm(dim=-1).mean((1, 2)).numpy()[1:]),
                        "unembed, W_U": (g.steps[1:], g.W_U.norm(dim=-2).mean((1, 2)).numpy()[1:]),
                    },
                    "step",
                    "norm",
                    log_x=True,
                ),
            )
            for n, g in growth.items()
        ],
    )


def _separates_first(growth: Growth) -> np.ndarray:
    """Does W_U separate all inputs with the final W_E, for good, before W_E does with the final W_U?"""
    unembed = all_learned(growth.W_E[-1:], growth.W_U)
    embed = all_learned(growth.W_E, growth.W_U[-1:])
    first, second = (len(ok) - np.logical_and.accumulate(ok[::-1]).sum(0) for ok in (unembed, embed))
    earlier: np.ndarray = first < second
    return earlier


def _drift(growth: Growth) -> float:
    squares = [W.square().sum((-2, -1)) for W in (growth.W_E, growth.W_U)]
    difference = squares[0] - squares[1]
    return float(((difference[-1] - difference[0]).abs() / (squares[0] + squares[1])[-1]).mean())
