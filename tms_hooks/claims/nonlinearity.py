"""Claims about what a nonlinearity does: on the output it filters interference, on the hidden layer it makes neurons.

Here interference is the source's word for what active features add to the outputs of absent ones. Sparse uniform
features, tied, output bias (Elhage et al. 2022); the usual recipe.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.lab import LEARNED, ByDensity, Stacked
from tms_hooks.config import Activation
from tms_hooks.linalg import random_directions, random_rotations, unit
from tms_hooks.run import Run

ROWS = 8_192
DENSITIES = (1.0, 0.1)
N_ROTATIONS = 200
Readouts = Mapping[str, np.ndarray]
READOUTS = (
    "removed",
    "removed of negative interference",
    "removed of positive interference",
    "share of interference that is negative",
    "loss of the linear readout / ReLU's",
    "loss of the best affine readout / ReLU's",
)
"""What is measured on every model: the share of squared outputs at absent features that ReLU, with the trained bias,
removes from a linear readout, also where what active features add is negative or positive; how much of that is
negative; losses of a linear readout and of the best one, without ReLU."""


@claim("relu-filters-interference", "N", quick=10, full=50)
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
    run = lab.train_sparse(20, 5, 0.01, n_models, steps=3_000)
    x, no_bias = lab.fresh_samples(run, ROWS), torch.zeros(n_models, 20)
    others = {
        "trained with a linear output": lab.train_sparse(20, 5, 0.01, n_models, steps=3_000, output_act="identity"),
        "pentagons": lab.train_sparse(5, 2, 0.05, n_models, steps=3_000),
        "p = 0.1": lab.train_sparse(20, 5, 0.1, n_models, steps=3_000),
    }
    return judge_filter(
        readouts(run.W_E, run.weights["b_U"], x),
        {
            "random directions": readouts(random_directions(run.W_E), no_bias, x),
            "untrained": readouts(lab.untrained_directions(20, 5, n_models), no_bias, x),
        }
        | {name: readouts(r.W_E, r.weights["b_U"], lab.fresh_samples(r, ROWS)) for name, r in others.items()},
        added_to_absent(run.W_E, x),
    )


def added_to_absent(W: Stacked, x: Float[Tensor, "batch feature"]) -> np.ndarray:
    """What the active features add to absent ones, before bias and ReLU: some thousands of values, of all models."""
    some = x[(x > 0).any(1)]
    values = torch.cat([(some @ w @ w.mT)[some == 0] for w in W])
    return values[:: max(len(values) // 5_000, 1)].numpy()


def readouts(W: Stacked, b: Float[Tensor, "model feature"], x: Float[Tensor, "batch feature"]) -> Readouts:
    """Both readouts of each model, on inputs of which some are not empty."""
    x = x.double()
    absent = x == 0
    found = []
    for w, bias in zip(W.double(), b.double(), strict=True):
        hidden = x @ w
        added = hidden @ w.mT
        linear = added + (x - added).mean(0)
        relu = (added + bias).relu()
        affine = torch.cat([hidden, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
        best = affine @ torch.linalg.lstsq(affine, x, driver="gelsd").solution
        negative, positive = absent & (added < 0), absent & (added > 0)
        removed = [
            1 - float(relu[where].square().sum() / linear[where].square().sum())
            for where in (absent, negative, positive)
        ]
        share_negative = float(added[negative].square().sum() / added[absent].square().sum())
        loss, *without = (float((x - out).square().sum(1).mean()) for out in (relu, linear, best))
        found.append([*removed, share_negative, *(other / loss for other in without)])
    return dict(zip(READOUTS, np.array(found).T, strict=True))


def judge_filter(main: Readouts, others: Mapping[str, Readouts], added: np.ndarray) -> Verdict:
    """Does ReLU remove most of the interference that a linear readout leaves?"""
    means = {name: _mean(values) for name, values in main.items()}
    removed = {"trained": main["removed"]} | {name: other["removed"] for name, other in others.items()}
    _, of_negative, of_positive, negative, linear_loss, affine_loss = means.values()
    return Verdict.of_statistic(
        "The share of squared interference that the ReLU readout removes",
        np.mean,
        main["removed"],
        n_models=len(main["removed"]),
        controls={name: value for name, value in means.items() if name != "removed"}
        | {name: _mean(values) for name, values in removed.items() if name != "trained"},
        detail=f"It removes {of_negative:.1%} of the negative and {of_positive:.1%} of the positive interference; "
        f"{negative:.0%} of it is negative. Without the ReLU the same weights lose {linear_loss:.3g} times as much, "
        f"and the best affine readout {affine_loss:.3g} times.",
        figures=lambda: {
            "What active features add to the outputs of absent ones: ReLU cuts all that is left of zero.": (
                plots.distributions({"absent features": added}, "added output", {"absent features": plots.TOY})
            ),
            "Share of squared interference removed, by setting.": plots.distributions(
                removed, "share removed", lab.colors(removed)
            ),
        },
    )


@claim("privileged-basis", "N", quick=2, full=20)
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
    importance = lab.decaying(0.75, 10)

    def trained(hidden_act: Activation) -> dict[float, Run]:
        settings: dict[str, Any] = {"steps": 2_500, "batch_size": 256, "importance": importance}
        return {p: lab.train_sparse(10, 5, p, n_models, hidden_act=hidden_act, **settings) for p in DENSITIES}

    relu = trained("relu")
    dedicated = {p: sum(importance[5:]) * (p / 3 - p**2 / 4) for p in DENSITIES}
    return judge_basis(
        {p: run.W_E for p, run in relu.items()},
        {p: run.final_loss.numpy() / dedicated[p] for p, run in relu.items()},
        {p: run.W_E for p, run in trained("identity").items()},
        lab.untrained_directions(10, 5, n_models),
    )


def judge_basis(relu: ByDensity, losses: Mapping[float, np.ndarray], linear: ByDensity, start: Stacked) -> Verdict:
    """How far are features from a random rotation, on the way to one neuron each?

    `relu` and `linear` are models by density, with a ReLU on the hidden layer and without. `losses` are those of the
    former, relative to the loss of one dedicated neuron for each of the first features. `start` are untrained models.
    """

    def smallest(*scores: np.ndarray) -> float:
        return min(_mean(score) for score in scores)

    scores = {p: alignment(W) for p, W in relu.items()}
    alone = {p: _mean(np.array([monosemantic(w) for w in W])) for p, W in relu.items()}
    plain = np.concatenate([alignment(W) for W in linear.values()])
    best = {p: int(loss.argmin()) for p, loss in losses.items()}
    shown = {f"ReLU, p = {p:g}": score for p, score in scores.items()}
    return Verdict.of_statistic(
        "The alignment of features with neurons at the density where it is smallest",
        smallest,
        *scores.values(),
        n_models=lab.total(relu),
        controls={f"at p = {p:g}": _mean(score) for p, score in scores.items()}
        | {"linear hidden layer": _mean(plain), "untrained": _mean(alignment(start, 0.0))}
        | lab.at_cuts(lambda cut: smallest(*(alignment(W, cut) for W in relu.values())))
        | {f"neurons with one feature at p = {p:g}": share for p, share in alone.items()}
        | {f"lowest loss at p = {p:g}, alignment": _mean(alignment(relu[p][best[p], None])) for p in relu}
        | {f"lowest loss at p = {p:g} / dedicated neurons": loss.min() for p, loss in losses.items()},
        detail=lab.listing(
            "Share of neurons that serve one learned feature", {f"p = {p:g}": f"{s:.0%}" for p, s in alone.items()}
        ),
        figures=lambda: {
            "Alignment of each model: 0 is a random rotation, 1 every feature on one neuron.": plots.distributions(
                shown | {"linear hidden layer": plain},
                "alignment",
                lab.colors(shown) | {"linear hidden layer": plots.NULL},
            ),
            "W_E of the model of lowest loss at each density: one row per feature, one column per neuron.": (
                plots.matrices(
                    np.stack([W[best[p]].numpy() for p, W in relu.items()]),
                    [f"p = {p:g}" for p in relu],
                    xlabel="neuron",
                    colorbar="weight",
                )
            ),
        },
    )


def alignment(W: Stacked, learned: float = LEARNED) -> np.ndarray:
    """0 for a random rotation, 1 for one neuron per feature, of each model that has learned a feature."""
    rotations = random_rotations(W.shape[-1], N_ROTATIONS)
    found = []
    for w in W:
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
    return lab.mean(values[np.isfinite(values)])
