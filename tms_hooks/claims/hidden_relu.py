"""The claim of "Superposition and bottlenecks" about Marius' setup, which has a ReLU in the bottleneck.

One-hot features in two dimensions, by the document's schedule: n -> ReLU(2) -> n, with and without a ReLU behind it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from tms_hooks import plots
from tms_hooks.claims import Verdict, claim, lab, statistic, unmeasurable
from tms_hooks.claims.biases import documented
from tms_hooks.claims.lab import Stacked
from tms_hooks.config import Activation, ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.models import forward

LEARNED = 0.5
"""Own output above which a feature counts as learned."""


class Hidden(NamedTuple):
    """Models with one hidden activation."""

    prevented: Float[np.ndarray, " model"]
    """Loss that each prevents, of the n that a model without output has."""
    learned: Int[np.ndarray, " model"]
    """Features whose own output is above 1/2."""
    W: Stacked


def train_hidden(
    n_features: int, n_models: int, hidden_act: Activation, tied: bool = True, output_bias: bool = False
) -> Hidden:
    """One-hot toys by the document's schedule."""
    cfg = ToyConfig(
        n_features=n_features, d_hidden=2, tied=tied, hidden_act=hidden_act, output_bias=output_bias, init="linear"
    )
    data, optimizer = OneHot(n_features=n_features), documented(2 / n_features)
    run = lab.train_toys(cfg, data, n_models, steps=30_000, optimizer=optimizer)
    inputs = torch.eye(n_features).repeat(n_models, 1, 1)
    outputs = forward.reconstruct(run.weights, inputs, cfg)[2]
    learned = (outputs.diagonal(dim1=-2, dim2=-1) > LEARNED).sum(-1).numpy()
    return Hidden(n_features * (1 - run.final_loss.numpy()), learned, run.W_E)


@claim("relu-in-the-bottleneck", "B", quick=8, full=30)
def relu_in_the_bottleneck(n_models: int) -> Verdict:
    """Marius' setup, with a ReLU in the bottleneck, holds less than the original: it cannot use opposite directions.

    Part "better description": "I argue that the original setup is a better description of what we want".
    Statistic: whether it describes what is wanted, which no number of a toy says.
    Threshold: above 0.
    Null: none, since it is a judgment.

    Part "replication": "Replication of Marius' setup with a relu in the bottleneck layer."
    Statistic: the mean loss prevented by the original setup less that prevented with a ReLU in the bottleneck, in units
    of one feature; n = 40, tied, no bias, a ReLU at the output, by the document's schedule.
    Threshold: above 1.
    Null: none, since the statistic is a difference.

    Beyond the source "untied": with an output bias.
    Statistic: the same difference, untied and with an output bias.
    Threshold: above 1.
    Null: none, since the statistic is a difference.

    Size: 8 models for each (quick), 30 (full).
    Controls: loss prevented and features learned (own output above 1/2) by each, and at n = 10.
    """
    kinds: dict[str, dict[str, bool]] = {
        "tied": {"tied": True, "output_bias": False},
        "untied": {"tied": False, "output_bias": True},
    }
    return judge_hidden_relu(
        {
            f"{name}, n = {n}": {act: train_hidden(n, n_models, act, **how) for act in ("identity", "relu")}
            for name, how in kinds.items()
            for n in (40, 10)
        }
    )


def judge_hidden_relu(trained: Mapping[str, Mapping[str, Hidden]]) -> Verdict:
    """How much more does the original setup hold? `trained`: by kind and hidden activation, "identity" or "relu"."""

    def difference(kind: str) -> tuple[np.ndarray, np.ndarray]:
        return trained[kind]["identity"].prevented, trained[kind]["relu"].prevented

    def less(a: np.ndarray, b: np.ndarray) -> float:
        return float(a.mean() - b.mean())

    means = {
        f"{kind}, {act}": float(models.prevented.mean())
        for kind, by_act in trained.items()
        for act, models in by_act.items()
    }
    drawn = trained["tied, n = 40"]
    return Verdict(
        parts={
            "better description": unmeasurable("What is wanted", "a description is judged by what it is for"),
            "replication": statistic(
                "The loss prevented by the original less that of Marius' setup", less, *difference("tied, n = 40")
            ),
            "untied": statistic(
                "The loss prevented by the original less that of Marius' setup, untied,",
                less,
                *difference("untied, n = 40"),
            ),
        },
        n_models=sum(len(models.prevented) for by_act in trained.values() for models in by_act.values()),
        controls={f"loss prevented, {name}": value for name, value in means.items()}
        | {
            f"features learned, {kind}, {act}": models.learned.mean()
            for kind, by_act in trained.items()
            for act, models in by_act.items()
        },
        detail=lab.listing("Mean loss prevented, in units of one feature", means, ".3g"),
        figures={
            "Seed 0, tied, n = 40: with a linear bottleneck, and with a ReLU in it.": plots.feature_arrows(
                np.stack([models.W[0].numpy() for models in drawn.values()]), list(drawn)
            )
        },
    )
