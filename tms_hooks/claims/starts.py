"""One-hot toys from given starts, random or placed: what claims about biases share.

Random starts are those of `torch.nn.Linear` where the library's own biases would be zero: uniform in +-1/sqrt(fan-in).
All gradients are exact. "Learned": norm > 0.5.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tms_hooks import geometry
from tms_hooks.config import ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.models.forward import init_weights
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam, Optimizer

LEARNED = 0.5
PERFECT = 1e-3
"""Squared error of one input, all features together, below which a model counts as perfect; 1 if nothing is learned."""
ADAM = Adam(lr=1e-2, schedule="cosine")
Weights = dict[str, Tensor]


class Outcome(NamedTuple):
    """Trained models: where they started, what became of them, and the way there."""

    start: Weights
    weights: Weights
    loss: np.ndarray
    """Squared error of one input, all features together: (model,)."""
    path: np.ndarray
    """`W_E` over training, (step, model, feature, hidden)."""


def random_starts(cfg: ToyConfig, n_models: int) -> list[Weights]:
    """The library's matrices, and biases as `torch.nn.Linear` draws them."""
    starts = []
    for seed in range(n_models):
        weights, generator = init_weights(cfg, seed), torch.Generator().manual_seed(10**6 + seed)
        for name, fan_in in (("b_hidden", cfg.n_features), ("b_U", cfg.d_hidden)):
            if name in weights:
                draw = 2 * torch.rand(weights[name].shape, generator=generator) - 1
                weights[name] = draw / fan_in**0.5
        starts.append(weights)
    return starts


def some(outcome: Outcome, models: slice) -> Outcome:
    """The outcome of some of the models."""
    start, weights = ({name: w[models] for name, w in stacked.items()} for stacked in outcome[:2])
    return Outcome(start, weights, outcome.loss[models], outcome.path[:, models])


def train_from(cfg: ToyConfig, starts: Sequence[Weights], optimizer: Optimizer, steps: int) -> Outcome:
    """Train one-hot toys from given weights."""
    init = [nn.ParameterDict({name: nn.Parameter(w) for name, w in weights.items()}) for weights in starts]
    run = train(
        cfg,
        OneHot(n_features=cfg.n_features),
        seeds=range(len(starts)),
        init=init,
        steps=steps,
        optimizer=optimizer,
        record_every=max(steps // 50, 1),
    )
    stacked = {name: torch.stack([weights[name] for weights in starts]) for name in starts[0]}
    return Outcome(stacked, run.weights, run.final_loss.numpy(), run.history.W_E.values)


def count(outcome: Outcome, learned: float = LEARNED) -> np.ndarray:
    """Directions learned by each model."""
    return geometry.count_directions(outcome.weights["W_E"], learned).numpy()


def tally(values: np.ndarray) -> str:
    """How often each whole number occurs, in words."""
    return ", ".join(f"{share:.0%} {d}" for d, share in enumerate(np.bincount(values) / len(values)) if share)
