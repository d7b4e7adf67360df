"""The claim of "Superposition and bottlenecks" about MLPs beside a bottleneck.

One-hot features, full batch, the usual recipe, 1,000 steps.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.lab import CUTS, LEARNED
from tms_hooks.config import ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.models import forward

Outputs = Float[Tensor, "_ _ _"]
"""(model, input, feature), of any sizes within one claim."""
WIDTHS = (2, 4, 8)
EXPANSION = 4
"""Neurons for each dimension of the bottleneck."""


def embed_to_mlp(f: int, n: int) -> ToyConfig:
    """n -> f -> 4 f neurons -> n, linear at the end: can a linear map read the features off the neurons?"""
    return ToyConfig(n_features=n, d_hidden=f, d_mlp=EXPANSION * f, output_act="identity")


def mlp_to_unembed(f: int, n: int) -> ToyConfig:
    """n -> 4 f neurons -> f -> softmax over n; the neurons are fed through an embedding of width f."""
    return ToyConfig(
        n_features=n, d_hidden=f, d_mlp=EXPANSION * f, bottleneck="mlp.out->unembed", tied=False, output_act="softmax"
    )


def train_outputs(cfg: ToyConfig, n_models: int) -> Outputs:
    """What trained models make of every one-hot input: reconstructions, or probabilities."""
    loss = "cross_entropy" if cfg.output_act == "softmax" else "mse"
    run = lab.train_toys(cfg, OneHot(n_features=cfg.n_features), n_models, steps=1_000, loss=loss)
    inputs = torch.eye(cfg.n_features).repeat(n_models, 1, 1)
    return forward.reconstruct(run.weights, inputs, cfg)[2]


def best_linear_readout(cfg: ToyConfig, n_models: int) -> Outputs:
    """What the best linear map makes of the neurons of untrained models: H pinv(H), H the neurons' activations."""
    outputs = []
    for seed in range(n_models):
        weights = forward.init_weights(cfg, seed, torch.float64)
        H = (weights["W_E"] @ weights[forward.W_IN]).relu()
        outputs.append(H @ torch.linalg.pinv(H))
    return torch.stack(outputs)


def learned(outputs: Outputs, cut: float = LEARNED) -> Bool[Tensor, "model feature"]:
    """Is a feature's own output above `cut` and the largest for its input?"""
    return (outputs.diagonal(dim1=-2, dim2=-1) > cut) & lab.own_is_largest(outputs)


@claim("mlp-bottlenecks", "B", quick=3, full=16)
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
    linear = ToyConfig(n_features=16, d_hidden=4, tied=False, output_act="identity")
    others = {
        "without MLP": train_outputs(linear, n_models),
        "ReLU on the bottleneck": train_outputs(replace(linear, hidden_act="relu", output_act="softmax"), n_models),
    }
    for f in WIDTHS:
        readout = best_linear_readout(embed_to_mlp(f, EXPANSION * f), n_models)
        others[f"untrained, best linear readout, f = {f}"] = readout
    return judge_bottlenecks(
        {name: {f: train_outputs(make(f, EXPANSION * f), n_models) for f in WIDTHS} for name, make in models.items()},
        others | {f"{name}, n = 8 f": train_outputs(make(4, 32), n_models) for name, make in models.items()},
    )


def judge_bottlenecks(trained: Mapping[str, Mapping[int, Outputs]], others: Mapping[str, Outputs]) -> Verdict:
    """Do all features get through?"""
    parts = {f"{name}, f = {f}": outputs for name, by_width in trained.items() for f, outputs in by_width.items()}

    def shares(cut: float = LEARNED) -> list[np.ndarray]:
        return [learned(outputs, cut).double().mean(1).numpy() for outputs in parts.values()]

    def smallest(*each: np.ndarray) -> float:
        return min(float(share.mean()) for share in each)

    means = {name: lab.mean(learned(outputs).flatten()) for name, outputs in {**parts, **others}.items()}
    numbers = {name: {f: EXPANSION * f * means[f"{name}, f = {f}"] for f in widths} for name, widths in trained.items()}
    numbers |= {f"{k} f": {f: float(k * f) for f in WIDTHS} for k in (1, EXPANSION)}
    controls = means | {f"smallest at {cut}": smallest(*shares(cut)) for cut in CUTS}
    controls["loss at n = 8 f over the least possible, less 1"] = excess_over_rank(others["embed to MLP, n = 8 f"])
    return Verdict.of_statistic(
        f"The smallest mean share of features learned ({min(parts, key=lambda part: means[part])})",
        smallest,
        *shares(),
        n_models=lab.total(parts),
        controls=controls,
        detail=lab.listing("Mean share learned", means, ".3g"),
        figures={
            "Mean number of features learned against the width of the bottleneck.": (
                lab.curves(numbers, "bottleneck width f", "features learned")
            )
        },
    )


def excess_over_rank(outputs: Outputs) -> float:
    """Mean loss relative to the least of any linear readout of n/2 neurons with a bias, less 1.

    Reconstructions of n one-hot inputs are then a matrix of rank n/2 plus one more row for the bias: n/2 - 1 of the
    identity's n units of squared error are out of reach.
    """
    n = outputs.shape[-1]
    loss = (outputs - torch.eye(n)).square().sum((-2, -1))
    return float(loss.mean()) / (n / 2 - 1) - 1
