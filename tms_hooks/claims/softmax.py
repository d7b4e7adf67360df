"""Claims of "Superposition and bottlenecks" about tied one-hot features read out by a softmax, in two dimensions.

Tied weights, cross-entropy, full batch. The document gives one schedule, used here: the learning rate rises from 0.005
to 2 over the first 5 % of the steps, then falls geometrically to 0.1. It names no optimiser; plain gradient descent is
the one for which a rate of 2 makes sense. 30,000 steps, as there; seeds from 0; n = 10 and 40, the document's two
numbers of features.
"""

from collections.abc import Mapping
from functools import cache
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tms_hooks import geometry, plots, stats, theory
from tms_hooks.claims.bottlenecks import train_onehot, untrained
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import Verdict, above
from tms_hooks.config import ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.run import Run
from tms_hooks.train import train
from tms_hooks.training.optimizers import SGD, Adam, Optimizer

if TYPE_CHECKING:
    import plotly.graph_objects as go

SIZES = (10, 40)
STEPS = {"SGD": 30_000, "Adam": 3_000}
DOCUMENT = SGD(lr=2.0, schedule="exponential", warmup=0.05, initial_lr=0.005, final_lr=0.1)
ADAM = Adam(lr=1e-2, schedule="cosine")
ON_CIRCLE, AT_ZERO = 0.8, 0.1
"""Shares of the largest norm: above the first a feature is on the circle, below the second it is at zero."""
CUTS = ((0.7, 0.2), (0.9, 0.05))
GAP = 0.1
"""Norms further apart than this share of the largest belong to different circles."""
Stacked = Float[Tensor, "model _ 2"]  # the number of features differs within one claim
Biases = Float[Tensor, "model _"]


@cache
def train_softmax(n_features: int, n_models: int, bias: bool = False, optimizer: Optimizer = DOCUMENT) -> Run:
    """Tied one-hot toys with a softmax. Kept: several claims look at the same ones."""
    return train(
        ToyConfig(n_features=n_features, d_hidden=2, output_bias=bias, output_act="softmax"),
        OneHot(n_features=n_features),
        seeds=range(n_models),
        steps=STEPS[type(optimizer).__name__],
        optimizer=optimizer,
        loss="cross_entropy",
        record_every=30_000,
    )


def relative_norms(W: Stacked) -> Float[Tensor, "model _"]:
    """Norms in units of each model's largest."""
    norms = geometry.feature_norms(W)
    return norms / norms.amax(-1, keepdim=True)


def circle_and_zero(W: Stacked, on: float = ON_CIRCLE, zero: float = AT_ZERO) -> Bool[Tensor, " model"]:
    """Models whose features are all on one circle or at zero, with some of either."""
    norms = relative_norms(W)
    return ((norms > on) | (norms < zero)).all(-1) & (norms < zero).any(-1)


def sharing(W: Stacked, learned: float) -> np.ndarray:
    """Models with two learned features within 5 degrees of each other."""
    return np.array([any(len(group) > 1 for group in geometry.directions(w, learned)) for w in W])


def separable(W: Stacked, bias: Biases | None = None) -> Bool[Tensor, " model"]:
    """Models that give every input its own feature the largest logit."""
    logits = geometry.gram(W) + (0 if bias is None else bias[:, None, :])
    own = logits.diagonal(dim1=-2, dim2=-1)
    others = logits.masked_fill(torch.eye(W.shape[-2], dtype=torch.bool), -torch.inf).amax(-1)
    return (own > others).all(-1)


@claim("softmax-circle", "B", quick=4, full=30, needs=above(0.5))
def softmax_circle(n_models: int) -> Verdict:
    """A tied softmax puts some features on one circle and the rest at zero, never two on one ray, unlike MSE.

    Statistic: the smallest of three shares, at n = 10 and n = 40: softmax models whose features all lie on one circle
    (norm above 0.8 of the largest) or at zero (below 0.1 of it), with at least one at zero; softmax models with no two
    learned features (norm > 0.5) within 5 degrees; ReLU models under MSE with two such features (norm > 0.1 there).
    Threshold: above 1/2, for each. At n = 40 on one circle features are 9 degrees apart.
    Size: 4 models for each n and loss (quick), 30 (full).
    Controls: each share; the picture at the cuts 0.7 and 0.2, 0.9 and 0.05; the first two shares under Adam (0.01,
    cosine decay, 3,000 steps) and in untrained models; models that have every feature on the circle; features at zero;
    the radius beyond which zero is a trap (closed form), smallest of all circles, against the mean trained one.
    """
    return judge_circle(
        {n: train_softmax(n, n_models).W_E for n in SIZES},
        {n: train_onehot(n, 2, n_models, "relu").W_E for n in SIZES},
        {
            "Adam": {n: train_softmax(n, n_models, optimizer=ADAM).W_E for n in SIZES},
            "untrained": {n: untrained(n, 2, n_models) for n in SIZES},
        },
    )


def judge_circle(
    softmax: Mapping[int, Stacked], mse: Mapping[int, Stacked], others: Mapping[str, Mapping[int, Stacked]]
) -> Verdict:
    """One circle and zero, and nothing shared?"""

    def picture(weights: Mapping[int, Stacked], on: float = ON_CIRCLE, zero: float = AT_ZERO) -> stats.Weakest:
        return stats.weakest_share(
            {f"n = {n}": (int(circle_and_zero(w, on, zero).sum()), len(w)) for n, w in weights.items()}
        )

    def apart(weights: Mapping[int, Stacked]) -> dict[str, tuple[int, int]]:
        return {f"no ray shared, n = {n}": (int((~sharing(w, 0.5)).sum()), len(w)) for n, w in weights.items()}

    parts = {f"circle and zero, n = {n}": (int(circle_and_zero(w).sum()), len(w)) for n, w in softmax.items()}
    parts |= apart(softmax)
    parts |= {f"MSE shares a ray, n = {n}": (int(sharing(w, 0.1).sum()), len(w)) for n, w in mse.items()}
    found = stats.weakest_share(parts)
    norms = {n: relative_norms(w) for n, w in softmax.items()}
    zeros = {n: float((r < AT_ZERO).double().sum(-1).mean()) for n, r in norms.items()}
    return Verdict(
        measured=f"The smallest of the shares ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=sum(map(len, [*softmax.values(), *mse.values()])),
        controls={part: k / n for part, (k, n) in parts.items()}
        | {f"circle and zero at {on} and {zero}": picture(softmax, on, zero).share for on, zero in CUTS}
        | {f"circle and zero, {name}": picture(w).share for name, w in others.items()}
        | {f"no ray shared, {name}": stats.weakest_share(apart(w)).share for name, w in others.items()}
        | {f"all on one circle, n = {n}": float((r > ON_CIRCLE).all(-1).double().mean()) for n, r in norms.items()}
        | {f"features at zero, n = {n}": value for n, value in zeros.items()}
        | {f"radius, n = {n}": float(geometry.feature_norms(w).amax(-1).mean()) for n, w in softmax.items()}
        | {f"radius beyond which zero traps, n = {n}": theory.softmax_trap_radius(n, n - 1) for n in softmax},
        detail="Mean number of features at zero: " + ", ".join(f"{z:.3g} of {n}" for n, z in zeros.items()) + ".",
        figures=[
            (
                f"Three softmax models, n = {n}; the dotted circle has the mean radius of the features on it.",
                plots.feature_arrows(w[:3].numpy(), [f"seed {seed}" for seed in range(len(w[:3]))], _radii(w[:3])),
            )
            for n, w in softmax.items()
        ],
    )


def _radii(W: Stacked) -> list[list[float]]:
    """Mean radius of each circle of each model."""
    norms = geometry.feature_norms(W)
    return [[float(r[circle].mean()) for circle in circles(w)] for r, w in zip(norms, W, strict=True)]


def circles(W: Float[Tensor, "_ 2"], gap: float = GAP) -> list[list[int]]:
    """Features of one model by the circle that they lie on, from the inside out; zero is no circle.

    Circles are parted where norms next to each other in order differ by more than `gap` times the largest.
    """
    norms = geometry.feature_norms(W)
    order = norms.argsort().tolist()
    found = [[order[0]]]
    for inner, outer in pairwise(order):
        if norms[outer] - norms[inner] > gap * norms.max():
            found.append([])
        found[-1].append(outer)
    return [circle for circle in found if norms[circle].mean() > AT_ZERO * norms.max()]


@claim("softmax-bias-concentric", "B", quick=4, full=30, needs=above(0.5))
def softmax_bias_concentric(n_models: int) -> Verdict:
    """A tied softmax with a bias tells all features apart on concentric circles, the smaller ones with larger biases.

    Statistic: the smallest of three shares, at n = 10 and n = 40: models that give every input its own feature the
    largest logit; models with at least two circles of two or more features each (circles are parted where norms differ
    by more than 0.1 of the largest; norms below 0.1 of it are no circle); models with two or more circles whose mean
    bias rises from each circle to the next smaller one.
    Threshold: above 1/2, for each.
    Size: 4 models for each n (quick), 30 (full).
    Controls: each share; concentric at gaps of 0.05 and 0.2; separable without bias (trained so), with the trained
    biases set to zero, and with them shuffled among the features; concentric and told apart under Adam;
    pairs on one ray (within 5 degrees, norms that differ) and the share of them that form 10 allows; the slope of bias
    on squared norm, -1/2 in the middle of form 10.
    """
    return judge_concentric(
        {n: _tied(train_softmax(n, n_models, bias=True)) for n in SIZES},
        {n: _tied(train_softmax(n, n_models)) for n in SIZES},
        {n: _tied(train_softmax(n, n_models, bias=True, optimizer=ADAM)) for n in SIZES},
    )


class Tied(NamedTuple):
    """Trained tied models: (model, feature, 2), and (model, feature) or no bias."""

    W: Tensor
    bias: Tensor


def _tied(run: Run) -> Tied:
    return Tied(run.W_E, run.weights.get("b_U", torch.zeros(run.W_E.shape[:2])))


def is_concentric(W: Float[Tensor, "_ 2"], gap: float = GAP) -> bool:
    """At least two circles with at least two features each."""
    return sum(len(circle) > 1 for circle in circles(W, gap)) > 1


def biases_rise_inwards(W: Float[Tensor, "_ 2"], bias: Float[Tensor, " _"]) -> bool:
    """At least two circles, and each has a larger mean bias than the next larger one."""
    means = [float(bias[circle].mean()) for circle in circles(W)]
    return len(means) > 1 and all(inner > outer for inner, outer in pairwise(means))


def rays_allowed(trained: Tied) -> list[bool]:
    """All pairs of features on one ray, with norms that differ: is their bias difference one that form 10 allows?"""
    found = []
    for W, bias in zip(*trained, strict=True):
        norms = geometry.feature_norms(W).tolist()
        for group in geometry.directions(W):
            for i, j in combinations(sorted(group, key=lambda k: norms[k]), 2):
                if norms[j] - norms[i] > GAP * max(norms):
                    low, high = theory.ray_bias_interval(norms[j], norms[i])
                    found.append(low < float(bias[i] - bias[j]) < high)
    return found


def judge_concentric(trained: Mapping[int, Tied], unbiased: Mapping[int, Tied], adam: Mapping[int, Tied]) -> Verdict:
    """All told apart, on circles in circles, with larger biases inside?"""

    def concentric(models: Tied, gap: float = GAP) -> float:
        return float(np.mean([is_concentric(w, gap) for w in models.W]))

    def told_apart(models: Mapping[int, Tied], name: str) -> dict[str, float]:
        return {f"{name}, n = {n}": float(separable(*m).double().mean()) for n, m in models.items()}

    parts = {}
    for n, (W, bias) in trained.items():
        parts[f"all told apart, n = {n}"] = int(separable(W, bias).sum()), len(W)
        parts[f"concentric, n = {n}"] = sum(map(is_concentric, W)), len(W)
        parts[f"biases rise inwards, n = {n}"] = sum(map(biases_rise_inwards, W, bias)), len(W)
    found = stats.weakest_share(parts)
    rays = {n: rays_allowed(models) for n, models in trained.items()}
    shuffle = np.random.default_rng(0).permutation
    shuffled = {n: Tied(W, torch.stack([b[shuffle(len(b))] for b in bias])) for n, (W, bias) in trained.items()}
    return Verdict(
        measured=f"The smallest of the shares ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=sum(len(W) for W, _ in trained.values()),
        controls={part: k / n for part, (k, n) in parts.items()}
        | {f"concentric at gap {gap}, n = {n}": concentric(m, gap) for gap in (0.05, 0.2) for n, m in trained.items()}
        | told_apart(unbiased, "told apart, trained without bias")
        | told_apart({n: Tied(W, 0 * bias) for n, (W, bias) in trained.items()}, "told apart, biases set to zero")
        | told_apart(shuffled, "told apart, biases shuffled")
        | told_apart(adam, "told apart, Adam")
        | {f"concentric, Adam, n = {n}": concentric(models) for n, models in adam.items()}
        | {f"pairs on one ray, n = {n}": float(len(pairs)) for n, pairs in rays.items()}
        | {f"of them allowed, n = {n}": float(np.mean(pairs)) if pairs else float("nan") for n, pairs in rays.items()}
        | {f"slope of bias on squared norm, n = {n}": _slope(models) for n, models in trained.items()},
        detail="; ".join(f"{part}: {k / n:.0%}" for part, (k, n) in parts.items()) + ".",
        figures=[
            *(
                (
                    f"Three models, n = {n}; each dotted circle has the mean radius of the features on it.",
                    plots.feature_arrows(
                        models.W[:3].numpy(), [f"seed {i}" for i in range(len(models.W[:3]))], _radii(models.W[:3])
                    ),
                )
                for n, models in trained.items()
            ),
            (
                "Bias against norm, every feature, beside what would tell it from the longest feature of its model "
                "if they were on one ray (form 10: between the lines).",
                _bias_figure(trained),
            ),
        ],
    )


def _slope(trained: Tied) -> float:
    """Slope of bias on squared norm within models."""
    squares = trained.W.square().sum(-1)
    x, y = (v - v.mean(-1, keepdim=True) for v in (squares, trained.bias))
    return float((x * y).sum() / x.square().sum())


def _bias_figure(trained: Mapping[int, Tied]) -> "go.Figure":
    """In units of the longest feature's norm w: rho = norm / w, and (bias - its bias) / w^2."""
    points = {}
    for n, (W, bias) in trained.items():
        norms = geometry.feature_norms(W)
        top, longest = norms.max(-1)
        above = (bias - bias.gather(-1, longest[:, None])) / top[:, None] ** 2
        points[f"n = {n}"] = (norms / top[:, None]).flatten().numpy(), above.flatten().numpy()
    rho = np.linspace(0, 1, 101)
    return plots.points_in_band(
        points, rho, rho * (1 - rho), 1 - rho, "norm / longest norm w", "(bias - bias of the longest) / w<sup>2</sup>"
    )
