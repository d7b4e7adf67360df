"""Claims of "Superposition and bottlenecks" about MLPs beside a bottleneck, and about memorised points.

Full batch, Adam at 0.01 with cosine decay, seeds from 0.
"""

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tms_hooks import plots, stats
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import Verdict, above
from tms_hooks.config import ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.models import forward
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

Outputs = Float[Tensor, "_ _ _"]  # (model, input, feature), of any sizes within one claim
ADAM = Adam(lr=1e-2, schedule="cosine")
WIDTHS = (2, 4, 8)
EXPANSION = 4
"""Neurons for each dimension of the bottleneck."""
PROBABLE = 0.5
"""A feature is learned if its own output is above this and the largest for its input."""


def embed_to_mlp(f: int, n: int) -> ToyConfig:
    """n -> f -> 4 f neurons -> n, linear at the end: can a linear map read the features off the neurons?"""
    return ToyConfig(n_features=n, d_hidden=f, d_mlp=EXPANSION * f, output_act="identity")


def mlp_to_unembed(f: int, n: int) -> ToyConfig:
    """n -> 4 f neurons -> f -> softmax over n; the neurons are fed through an embedding of width f."""
    return ToyConfig(
        n_features=n,
        d_hidden=f,
        d_mlp=EXPANSION * f,
        bottleneck="mlp.out->unembed",
        tied=False,
        output_act="softmax",
    )


def relu_bottleneck(f: int, n: int) -> ToyConfig:
    """n -> f -> ReLU -> softmax over n: the document's second model to the letter, the ReLU on the bottleneck."""
    return ToyConfig(n_features=n, d_hidden=f, tied=False, hidden_act="relu", output_act="softmax")


def no_mlp(f: int, n: int) -> ToyConfig:
    """n -> f -> n, linear."""
    return ToyConfig(n_features=n, d_hidden=f, tied=False, output_act="identity")


@cache
def train_outputs(cfg: ToyConfig, n_models: int, steps: int = 1_000) -> Outputs:
    """What trained models make of every one-hot input: reconstructions, or probabilities."""
    run = train(
        cfg,
        OneHot(n_features=cfg.n_features),
        seeds=range(n_models),
        steps=steps,
        optimizer=ADAM,
        loss="cross_entropy" if cfg.output_act == "softmax" else "mse",
        record_every=steps,
    )
    inputs = torch.eye(cfg.n_features).expand(n_models, -1, -1).contiguous()
    return forward.reconstruct(run.weights, inputs, cfg)[2]


def best_linear_readout(cfg: ToyConfig, n_models: int) -> Outputs:
    """What the best linear map makes of the neurons of untrained models: H pinv(H), H the neurons' activations."""
    outputs = []
    for seed in range(n_models):
        weights = forward.init_weights(cfg, seed, torch.float64)
        H = (weights["W_E"] @ weights[forward.W_IN]).relu()
        outputs.append(H @ torch.linalg.pinv(H))
    return torch.stack(outputs)


def learned(outputs: Outputs, cut: float = PROBABLE) -> Bool[Tensor, "_ _"]:
    """(model, feature): is the own output above `cut` and the largest for its input?"""
    own = outputs.diagonal(dim1=-2, dim2=-1)
    others = outputs.masked_fill(torch.eye(outputs.shape[-1], dtype=torch.bool), -torch.inf).amax(-1)
    return (own > cut) & (own > others)


@claim("mlp-bottlenecks", "B", quick=3, full=16, needs=above(0.9))
def mlp_bottlenecks(n_models: int) -> Verdict:
    """Beside an MLP of 4 f neurons a bottleneck of f dimensions passes the 4 f features that the MLP has room for.

    Statistic: mean share of the n = 4 f features that a model learns (own output above 1/2 and the largest for its
    input), the smallest over f = 2, 4 and 8 and over two models: embed to MLP (n -> f -> 4 f -> ReLU -> n, MSE, linear
    output) and MLP to unembed (4 f neurons -> f -> n, cross-entropy); output bias, 1,000 steps.
    Threshold: above 0.9, for each.
    Size: 3 models for each f and model (quick), 16 (full).
    Controls: each share; at 0.3 and 0.7 instead of 1/2; without MLP (linear), f = 4; the second model with the ReLU on
    the bottleneck, as the document writes it, f = 4; untrained embedding and neurons under the best linear readout;
    twice as many features (n = 8 f), f = 4, and the loss there relative to the least that a linear output can have,
    less 1.
    """
    models = {"embed to MLP": embed_to_mlp, "MLP to unembed": mlp_to_unembed}
    others = {"without MLP": no_mlp, "ReLU on the bottleneck": relu_bottleneck}
    return judge_bottlenecks(
        {name: {f: train_outputs(make(f, EXPANSION * f), n_models) for f in WIDTHS} for name, make in models.items()},
        {name: train_outputs(make(4, 16), n_models) for name, make in others.items()}
        | {
            f"untrained, best linear readout, f = {f}": best_linear_readout(embed_to_mlp(f, EXPANSION * f), n_models)
            for f in WIDTHS
        }
        | {f"{name}, n = 8 f": train_outputs(make(4, 32), n_models) for name, make in models.items()},
    )


def judge_bottlenecks(trained: Mapping[str, Mapping[int, Outputs]], others: Mapping[str, Outputs]) -> Verdict:
    """Do all features get through?"""

    def shares(cut: float) -> dict[str, np.ndarray]:
        return {
            f"{name}, f = {f}": learned(outputs, cut).double().mean(1).numpy()
            for name, by_width in trained.items()
            for f, outputs in by_width.items()
        }

    found = shares(PROBABLE)
    means = {part: float(share.mean()) for part, share in found.items()}
    weakest = min(means, key=lambda part: means[part])
    counts = {
        name: {f: learned(outputs).sum(1).double() for f, outputs in by_width.items()}
        for name, by_width in trained.items()
    }
    crowded = others.get("embed to MLP, n = 8 f")
    return Verdict(
        measured=f"The smallest mean share of features learned ({weakest})",
        statistic=means[weakest],
        interval=stats.bootstrap(lambda *s: min(float(share.mean()) for share in s), *found.values()),
        n_models=sum(map(len, found.values())),
        controls=means
        | {f"smallest at {cut}": min(float(share.mean()) for share in shares(cut).values()) for cut in (0.3, 0.7)}
        | {name: float(learned(outputs).double().mean()) for name, outputs in others.items()}
        | ({} if crowded is None else {"loss at n = 8 f over the least possible, less 1": excess_over_rank(crowded)}),
        detail="Mean number of features learned for each dimension: "
        + "; ".join(
            f"{name}: " + ", ".join(f"{float(c.mean()) / f:.3g} at f = {f}" for f, c in by_width.items())
            for name, by_width in counts.items()
        )
        + "".join(f". {name}: {float(learned(o).double().mean()):.3g} of them" for name, o in others.items())
        + ".",
        figures=[
            (
                "Mean number of features learned against the width of the bottleneck.",
                plots.curves(
                    {
                        name: (np.array(list(by)), np.array([float(c.mean()) for c in by.values()]))
                        for name, by in counts.items()
                    }
                    | {f"{k} f": (np.array(WIDTHS), k * np.array(WIDTHS)) for k in (1, EXPANSION)},
                    "bottleneck width f",
                    "features learned",
                ),
            )
        ],
    )


def excess_over_rank(outputs: Outputs) -> float:
    """Mean loss relative to the least of any linear readout of n/2 neurons with a bias, less 1.

    Reconstructions of n one-hot inputs are then a matrix of rank n/2 plus one more row for the bias: n/2 - 1 of the
    identity's n units of squared error are out of reach.
    """
    n = outputs.shape[-1]
    loss = (outputs - torch.eye(n)).square().sum((-2, -1))
    return float(loss.mean()) / (n / 2 - 1) - 1
