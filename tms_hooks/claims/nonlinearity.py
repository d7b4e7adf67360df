"""Claims about what a nonlinearity does: on the output it filters interference, on the hidden layer it makes neurons.

Sparse uniform features, tied, output bias (Elhage et al. 2022); Adam at 0.01 with cosine decay, seeds from 0.
"""

from collections.abc import Mapping
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, stats
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import UNKNOWN, Verdict, above
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.linalg import random_directions, random_rotations, unit
from tms_hooks.models.forward import init_weights
from tms_hooks.run import Run
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

LEARNED = 0.5
ROWS = 8_192
DENSITIES = (1.0, 0.1)
N_ROTATIONS = 200
Stacked = Float[Tensor, "model feature hidden"]
Biases = Float[Tensor, "model feature"]


@cache
def train_act(
    n_features: int,
    d_hidden: int,
    p: float,
    n_models: int,
    *,
    decay: float = 1.0,
    hidden_act: Literal["identity", "relu"] = "identity",
    output_act: Literal["identity", "relu"] = "relu",
    steps: int = 3_000,
    batch_size: int = 1_024,
) -> Run:
    """Toys with these nonlinearities; feature i has importance decay^i."""
    return train(
        ToyConfig(n_features=n_features, d_hidden=d_hidden, hidden_act=hidden_act, output_act=output_act),
        SparseUniform(n_features=n_features, feature_probability=p),
        seeds=range(n_models),
        steps=steps,
        batch_size=batch_size,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        importance=[decay**i for i in range(n_features)],
        record_every=steps,
        progress=False,
    )


class Readout(NamedTuple):
    """What one model's readout makes of absent features, and its loss, with ReLU and without."""

    removed: float
    """Share of squared outputs at absent features that ReLU, with the trained bias, removes from a linear readout."""
    removed_negative: float
    """The same where the interference is negative."""
    removed_positive: float
    """The same where it is positive."""
    negative: float
    """Share of the squared interference that is negative."""
    linear_loss: float
    """Loss of the linear readout, relative to ReLU's."""
    best_linear_loss: float
    """Loss of the best affine readout of the same hidden layer, relative to ReLU's."""


@claim("relu-filters-interference", "N", quick=10, full=50, needs=above(0.5))
def relu_filters_interference(n_models: int) -> Verdict:
    """The output nonlinearity removes small negative interference, which a linear readout of the same model keeps.

    Statistic: mean over models of the share of squared output at absent features that the ReLU readout relu(W_E h + b)
    removes, relative to the linear readout W_E h of the same weights with its own best bias; n = 20, m = 5, importance
    1, p = 0.01, on 8,192 held-out inputs.
    Threshold: above 1/2, what ReLU removes from interference of either sign alike.
    Size: 10 models (quick), 50 (full).
    Controls: the share removed of negative and of positive interference, and the share that is negative; random
    directions of the same norms, no bias; untrained weights; models trained with a linear output; a pentagon's models
    (n = 5, m = 2, p = 0.05) and p = 0.1; losses of the linear and of the best affine readout relative to ReLU's.
    """
    run = train_act(20, 5, 0.01, n_models)
    cfg = run.recipe.cfg
    start = torch.stack([init_weights(cfg, seed)["W_E"] for seed in range(n_models)])
    linear = train_act(20, 5, 0.01, n_models, output_act="identity")
    others = {"pentagons": train_act(5, 2, 0.05, n_models), "p = 0.1": train_act(20, 5, 0.1, n_models)}
    return judge_filter(
        readouts(run.W_E, run.weights["b_U"], _inputs(run)),
        {
            "random directions": readouts(random_directions(run.W_E), torch.zeros(n_models, 20), _inputs(run)),
            "untrained": readouts(start, torch.zeros(n_models, 20), _inputs(run)),
            "trained with a linear output": readouts(linear.W_E, linear.weights["b_U"], _inputs(linear)),
        }
        | {name: readouts(other.W_E, other.weights["b_U"], _inputs(other)) for name, other in others.items()},
        interference_values(run.W_E, _inputs(run)),
    )


def _inputs(run: Run) -> Float[Tensor, "batch feature"]:
    return run.recipe.data.sample(ROWS, seed=2**62)


def interference_values(W: Stacked, x: Float[Tensor, "batch feature"]) -> np.ndarray:
    """What the active features add to absent ones, before bias and ReLU: some thousands of values, of all models."""
    some = x[(x > 0).any(1)]
    values = torch.cat([(some @ w @ w.mT)[some == 0] for w in W])
    return values[:: max(len(values) // 5_000, 1)].numpy()


def readouts(W: Stacked, b: Biases, x: Float[Tensor, "batch feature"]) -> list[Readout]:
    """Both readouts of each model, on inputs of which some are not empty."""
    x = x.double()
    absent = x == 0
    found = []
    for w, bias in zip(W.double(), b.double(), strict=True):
        hidden = x @ w
        cross = hidden @ w.mT
        linear = cross + (x - cross).mean(0)
        relu = (cross + bias).relu()
        negative = absent & (cross < 0)
        positive = absent & (cross > 0)
        loss = float((x - relu).square().sum(1).mean())
        affine = torch.cat([hidden, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
        best = affine @ torch.linalg.lstsq(affine, x, driver="gelsd").solution
        removed, removed_negative, removed_positive = (
            1 - float(relu[where].square().sum() / linear[where].square().sum())
            for where in (absent, negative, positive)
        )
        found.append(
            Readout(
                removed=removed,
                removed_negative=removed_negative,
                removed_positive=removed_positive,
                negative=float(cross[negative].square().sum() / cross[absent].square().sum()),
                linear_loss=float((x - linear).square().sum(1).mean()) / loss,
                best_linear_loss=float((x - best).square().sum(1).mean()) / loss,
            )
        )
    return found


def judge_filter(main: list[Readout], others: Mapping[str, list[Readout]], interference: np.ndarray) -> Verdict:
    """Does ReLU remove most of the interference that a linear readout leaves?"""

    def mean(rows: list[Readout], name: str) -> float:
        return _mean(np.array([getattr(row, name) for row in rows]))

    removed = np.array([row.removed for row in main])
    measurable = len(removed) > 1 and bool(np.isfinite(removed).all())
    return Verdict(
        measured="The share of squared interference that the ReLU readout removes",
        statistic=float(removed.mean()) if measurable else float("nan"),
        interval=stats.bootstrap(lambda share: float(share.mean()), removed) if measurable else UNKNOWN,
        n_models=len(main),
        controls={
            "removed of negative interference": mean(main, "removed_negative"),
            "removed of positive interference": mean(main, "removed_positive"),
            "share of interference that is negative": mean(main, "negative"),
            "loss of the linear readout / ReLU's": mean(main, "linear_loss"),
            "loss of the best affine readout / ReLU's": mean(main, "best_linear_loss"),
        }
        | {name: mean(rows, "removed") for name, rows in others.items()},
        detail=f"It removes {mean(main, 'removed_negative'):.1%} of the negative and "
        f"{mean(main, 'removed_positive'):.1%} of the positive interference; {mean(main, 'negative'):.0%} of it is "
        f"negative. Without the ReLU the same weights lose {mean(main, 'linear_loss'):.3g} times as much, and the best "
        f"affine readout {mean(main, 'best_linear_loss'):.3g} times.",
        figures=[
            (
                "What active features add to the outputs of absent ones: ReLU cuts all that is left of zero.",
                plots.distributions({"absent features": interference}, "interference", {"absent features": plots.TOY}),
            ),
            (
                "Share of squared interference removed, by setting.",
                plots.distributions(
                    {"trained": removed}
                    | {name: np.array([row.removed for row in rows]) for name, rows in others.items()},
                    "share removed",
                    {"trained": plots.TOY} | {name: plots.PALETTE[1 + i % 7] for i, name in enumerate(others)},
                ),
            ),
        ]
        if measurable
        else (),
    )


@claim("privileged-basis", "N", quick=2, full=20, needs=above(0.5))
def privileged_basis(n_models: int) -> Verdict:
    """A ReLU on the hidden layer makes features align with neurons.

    Statistic: for each model the mean over learned features (norm > 0.5) of the largest squared coordinate of the unit
    direction, on a scale from 0 (its mean under random rotations of the same directions) to 1 (every feature on one
    neuron); mean over models, the smaller of two densities; n = 10, m = 5, importance 0.75^i.
    Threshold: above 1/2, more than half-way to perfect alignment.
    Size: 2 models (quick), 20 (full), at each of p = 1 and 0.1. 2,500 steps, batch 256, 200 rotations.
    Controls: the same at each density; a linear hidden layer, which has no basis of its own; untrained weights; learned
    > 0.3 and > 0.7; the share of neurons that serve one learned feature only; the model of lowest loss at each density,
    its alignment and its loss relative to that of five dedicated neurons, sum_{i >= 5} I_i (p/3 - p^2/4).
    """

    def trained(act: Literal["relu", "identity"]) -> dict[float, Run]:
        return {
            p: train_act(10, 5, p, n_models, decay=0.75, hidden_act=act, steps=2_500, batch_size=256) for p in DENSITIES
        }

    relu, cfg = trained("relu"), ToyConfig(n_features=10, d_hidden=5, hidden_act="relu")
    dedicated = {p: sum(0.75**i for i in range(5, 10)) * (p / 3 - p**2 / 4) for p in DENSITIES}
    return judge_basis(
        {p: run.W_E for p, run in relu.items()},
        {p: run.final_loss.numpy() / dedicated[p] for p, run in relu.items()},
        {p: run.W_E for p, run in trained("identity").items()},
        torch.stack([init_weights(cfg, seed)["W_E"] for seed in range(n_models)]),
    )


def judge_basis(
    relu: Mapping[float, Stacked], losses: Mapping[float, np.ndarray], linear: Mapping[float, Stacked], start: Stacked
) -> Verdict:
    """How far are features from a random rotation, on the way to one neuron each?

    Args:
        relu, linear: models by density, with a ReLU on the hidden layer and without.
        losses: those of the former, relative to the loss of one dedicated neuron for each of the first features.
        start: untrained models.
    """

    def smallest(*scores: np.ndarray) -> float:
        return min(_mean(score) for score in scores)

    scores = {p: alignment(W) for p, W in relu.items()}
    measurable = all(len(score) > 1 for score in scores.values())
    alone = {p: _mean(np.array([monosemantic(w) for w in W])) for p, W in relu.items()}
    plain = np.concatenate([alignment(W) for W in linear.values()])
    best = {p: int(loss.argmin()) for p, loss in losses.items()}
    return Verdict(
        measured="The alignment of features with neurons at the density where it is smallest",
        statistic=smallest(*scores.values()) if measurable else float("nan"),
        interval=stats.bootstrap(smallest, *scores.values()) if measurable else UNKNOWN,
        n_models=sum(map(len, relu.values())),
        controls={f"at p = {p:g}": _mean(score) for p, score in scores.items()}
        | {
            "linear hidden layer": _mean(plain),
            "untrained": _mean(alignment(start, 0.0)),
        }
        | {f"learned > {cut}": smallest(*(alignment(W, cut) for W in relu.values())) for cut in (0.3, 0.7)}
        | {f"neurons with one feature at p = {p:g}": share for p, share in alone.items()}
        | {f"lowest loss at p = {p:g}, alignment": _mean(alignment(relu[p][best[p], None])) for p in relu}
        | {f"lowest loss at p = {p:g} / dedicated neurons": float(loss.min()) for p, loss in losses.items()},
        detail="Share of neurons that serve one learned feature: "
        + ", ".join(f"{share:.0%} at p = {p:g}" for p, share in alone.items())
        + ".",
        figures=[
            (
                "Alignment of each model: 0 is a random rotation, 1 every feature on one neuron.",
                plots.distributions(
                    {f"ReLU, p = {p:g}": score for p, score in scores.items()} | {"linear hidden layer": plain},
                    "alignment",
                    {f"ReLU, p = {p:g}": plots.PALETTE[i] for i, p in enumerate(scores)}
                    | {"linear hidden layer": plots.NULL},
                ),
            ),
            (
                "W_E of the model of lowest loss at each density: a row a feature, a column a neuron.",
                plots.matrices(
                    np.stack([W[best[p]].numpy() for p, W in relu.items()]),
                    [f"p = {p:g}" for p in relu],
                    xlabel="neuron",
                    colorbar="weight",
                ),
            ),
        ]
        if measurable
        else (),
    )


def alignment(W: Stacked, learned: float = LEARNED) -> np.ndarray:
    """0 for a random rotation, 1 for one neuron a feature, of each model that has learned a feature."""
    rotations = random_rotations(W.shape[-1], N_ROTATIONS)
    found = []
    for w in W.double():
        directions = unit(w[geometry.represented(w, learned)])
        if len(directions):
            null = (directions @ rotations).square().amax(-1).mean()
            found.append(float((directions.square().amax(-1).mean() - null) / (1 - null)))
    return np.array(found)


def monosemantic(W: Float[Tensor, "feature hidden"]) -> float:
    """Share of neurons with one large entry (above half of the largest) among those of learned features."""
    size = W[geometry.represented(W)].abs()
    if not len(size):
        return float("nan")
    large = (size > size.amax(0, keepdim=True) / 2) & (size > LEARNED / 2)
    return float((large.sum(0) == 1).double().mean())


def _mean(values: np.ndarray) -> float:
    """Mean of what could be measured, NaN if nothing could."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
