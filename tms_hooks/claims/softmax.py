"""Claims of "Superposition and bottlenecks" about one-hot features read out by a softmax, in two dimensions.

Cross-entropy, full batch, seeds from 0; n = 10 and 40, the document's two numbers of features; by its schedule, which
is that of `tms_hooks.claims.biases`. It names no optimizer; plain gradient descent is the one for which a rate of 2
makes sense. Tied models have 30,000 steps, as there. Untied ones have 3,000 for n = 10 and 10,000 for n = 40: after
3,000 steps those were still learning. Both of their ends are recorded after about 50 numbers of steps, evenly spaced on
a log scale.
"""

from collections.abc import Mapping
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, theory
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.biases import documented
from tms_hooks.claims.bottlenecks import shares_a_direction, train_onehot
from tms_hooks.claims.lab import Stacked
from tms_hooks.config import ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.training.optimizers import SGD

if TYPE_CHECKING:
    import plotly.graph_objects as go

SIZES = (10, 40)
DOCUMENT = documented(2.0)
ON_CIRCLE, AT_ZERO = 0.8, 0.1
"""Shares of the largest norm: above the first a feature is on the circle, below the second it is at zero."""
CUTS = ((0.7, 0.2), (0.9, 0.05))
UNTIED_STEPS = {10: 3_000, 40: 10_000}
GAP = 0.1
"""Norms further apart than this share of the largest belong to different circles."""
ByN = Mapping[int, Stacked]
"""Directions by the number of features."""


class Tied(NamedTuple):
    """Trained tied models, their biases zero if they have none."""

    W: Float[Tensor, "model feature 2"]
    bias: Float[Tensor, "model feature"]


def train_softmax(n_features: int, n_models: int, bias: bool = False, adam: bool = False) -> Tied:
    """Tied one-hot toys with a softmax, by the document's schedule or by the usual recipe."""
    cfg = ToyConfig(n_features=n_features, d_hidden=2, output_bias=bias, output_act="softmax")
    steps, optimizer = (3_000, lab.USUAL) if adam else (30_000, DOCUMENT)
    data = OneHot(n_features=n_features)
    run = lab.train_toys(cfg, data, n_models, steps=steps, optimizer=optimizer, loss="cross_entropy")
    return Tied(run.W_E, run.weights.get("b_U", torch.zeros(run.W_E.shape[:2])))


def relative_norms(W: Stacked) -> Float[Tensor, "model _"]:
    """Norms in units of each model's largest."""
    norms = geometry.feature_norms(W)
    return norms / norms.amax(-1, keepdim=True)


def circle_and_zero(W: Stacked, on: float = ON_CIRCLE, zero: float = AT_ZERO) -> np.ndarray:
    """Models whose features are all on one circle or at zero, with some at zero."""
    norms = relative_norms(W)
    return (((norms > on) | (norms < zero)).all(-1) & (norms < zero).any(-1)).numpy()


def told_apart(logits: Float[Tensor, "*axis feature feature"]) -> np.ndarray:
    """Whether a model gives every input its own feature the largest logit, and so the largest probability."""
    return lab.own_is_largest(logits).all(-1).numpy()


def separable(trained: Tied) -> np.ndarray:
    """Tied models that tell all features apart."""
    return told_apart(geometry.gram(trained.W) + trained.bias[:, None, :])


@claim("softmax-circle", "B", quick=4, full=30)
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
        {n: train_softmax(n, n_models).W for n in SIZES},
        {n: train_onehot(n, 2, n_models, "relu").W_E for n in SIZES},
        {
            "Adam": {n: train_softmax(n, n_models, adam=True).W for n in SIZES},
            "untrained": {n: lab.untrained_directions(n, 2, n_models) for n in SIZES},
        },
    )


def judge_circle(softmax: ByN, mse: ByN, others: Mapping[str, ByN]) -> Verdict:
    """One circle and zero, and nothing shared?"""

    def pictures(W: ByN, on: float = ON_CIRCLE, zero: float = AT_ZERO) -> dict[str, np.ndarray]:
        return {f"circle and zero, n = {n}": circle_and_zero(w, on, zero) for n, w in W.items()}

    def apart(W: ByN) -> dict[str, np.ndarray]:
        return {f"no ray shared, n = {n}": ~shares_a_direction(w, 0.5) for n, w in W.items()}

    parts = pictures(softmax) | apart(softmax)
    parts |= {f"MSE shares a ray, n = {n}": shares_a_direction(w, 0.1) for n, w in mse.items()}
    zeros = {n: lab.mean((relative_norms(w) < AT_ZERO).sum(-1)) for n, w in softmax.items()}
    controls = lab.shares(parts)
    for on, zero in CUTS:
        controls[f"circle and zero at {on} and {zero}"] = lab.weakest(pictures(softmax, on, zero))
    for name, other in others.items():
        controls[f"circle and zero, {name}"] = lab.weakest(pictures(other))
        controls[f"no ray shared, {name}"] = lab.weakest(apart(other))
    for n, w in softmax.items():
        controls |= {
            f"all on one circle, n = {n}": lab.mean((relative_norms(w) > ON_CIRCLE).all(-1)),
            f"features at zero, n = {n}": zeros[n],
            f"radius, n = {n}": float(geometry.feature_norms(w).amax(-1).mean()),
            f"radius beyond which zero traps, n = {n}": theory.softmax_trap_radius(n, n - 1),
        }
    return Verdict.of_shares(
        "The smallest of the shares",
        parts,
        n_models=lab.total(softmax, mse),
        controls=controls,
        detail=lab.listing("Mean number of features at zero, by n", zeros, ".3g"),
        figures={
            f"Three softmax models, n = {n}; the dotted circle has the mean radius of the features on it.": _arrows(w)
            for n, w in softmax.items()
        },
    )


def _arrows(W: Stacked) -> "go.Figure":
    """The first three models, with the mean radius of each of their circles."""
    radii = [[float(geometry.feature_norms(w)[circle].mean()) for circle in circles(w)] for w in W[:3]]
    return plots.feature_arrows(W[:3].numpy(), lab.seed_names(W[:3]), radii)


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


@claim("softmax-bias-concentric", "B", quick=4, full=30)
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
        {n: train_softmax(n, n_models, bias=True) for n in SIZES},
        {n: train_softmax(n, n_models) for n in SIZES},
        {n: train_softmax(n, n_models, bias=True, adam=True) for n in SIZES},
    )


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

    def concentric(models: Tied, gap: float = GAP) -> np.ndarray:
        return np.array([sum(len(circle) > 1 for circle in circles(w, gap)) > 1 for w in models.W])

    parts: dict[str, np.ndarray] = {}
    controls: dict[str, float] = {}
    shuffle = np.random.default_rng(0).permutation
    for n, models in trained.items():
        W, bias = models
        rays = rays_allowed(models)
        shuffled = torch.stack([b[shuffle(len(b))] for b in bias])
        parts |= {
            f"all told apart, n = {n}": separable(models),
            f"concentric, n = {n}": concentric(models),
            f"biases rise inwards, n = {n}": np.array(list(map(biases_rise_inwards, W, bias))),
        }
        controls |= {
            **{f"concentric at gap {gap}, n = {n}": concentric(models, gap).mean() for gap in (0.05, 0.2)},
            f"told apart, trained without bias, n = {n}": separable(unbiased[n]).mean(),
            f"told apart, biases set to zero, n = {n}": separable(Tied(W, 0 * bias)).mean(),
            f"told apart, biases shuffled, n = {n}": separable(Tied(W, shuffled)).mean(),
            f"told apart, Adam, n = {n}": separable(adam[n]).mean(),
            f"concentric, Adam, n = {n}": concentric(adam[n]).mean(),
            f"pairs on one ray, n = {n}": len(rays),
            f"of them allowed, n = {n}": lab.mean(rays),
            f"slope of bias on squared norm, n = {n}": _slope(models),
        }
    return Verdict.of_shares(
        "The smallest of the shares",
        parts,
        n_models=sum(len(models.W) for models in trained.values()),
        controls=lab.shares(parts) | controls,
        detail=lab.listing("Shares", lab.shares(parts), ".0%"),
        figures={
            f"Three models, n = {n}; each dotted circle has the mean radius of the features on it.": _arrows(models.W)
            for n, models in trained.items()
        }
        | {
            "Bias against norm, every feature, beside what would tell it from the longest feature of its model if they "
            "were on one ray (form 10: between the lines).": _bias_figure(trained)
        },
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
    total = UNTIED_STEPS[n_features]
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


def unembed_first(growth: Growth, share: float = 0.5) -> np.ndarray:
    """(model, feature): did the unembed reach this share of its final norm at an earlier record than the embed did?"""
    norms = growth.W_U.norm(dim=-2).numpy(), growth.W_E.norm(dim=-1).numpy()
    unembed, embed = ((norm > share * norm[-1]).argmax(0) for norm in norms)
    return np.less(unembed, embed)


@claim("softmax-untied-unembed-first", "B", quick=4, full=24)
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
        {n: grow_untied(n, n_models) for n in SIZES},
        {10: grow_untied(10, n_models, init_scale=0.1)},
        {n: train_softmax(n, n_models) for n in SIZES},
    )


def judge_order(growth: Mapping[int, Growth], small: Mapping[int, Growth], tied: Mapping[int, Tied]) -> Verdict:
    """All learned, and the unembed first?"""

    def learned(grown: Mapping[int, Growth]) -> dict[str, np.ndarray]:
        return {f"all learned, n = {n}": told_apart(g.W_E[-1] @ g.W_U[-1]) for n, g in grown.items()}

    def in_order(grown: Mapping[int, Growth], share: float = 0.5) -> dict[str, np.ndarray]:
        return {f"unembed first, n = {n}": unembed_first(g, share).mean(1) > 0.5 for n, g in grown.items()}

    parts = learned(growth) | in_order(growth)
    controls = lab.shares(parts) | lab.shares(learned(small) | in_order(small), ", small start")
    for share in (0.25, 0.75):
        controls |= lab.shares(in_order(growth, share), f" at {share} of the norm")
    for n, g in growth.items():
        controls |= {
            f"features, unembed first, n = {n}": unembed_first(g).mean(),
            f"features, embed first, n = {n}": unembed_first(Growth(g.steps, g.W_U.mT, g.W_E.mT)).mean(),
            f"unembed separates first, n = {n}": _separates_first(g).mean(),
            f"tied, all learned, n = {n}": separable(tied[n]).mean(),
            f"drift of |W_E|^2 - |W_U|^2, n = {n}": _drift(g),
        }
    return Verdict.of_shares(
        "The smallest of the shares",
        parts,
        n_models=sum(g.W_E.shape[1] for g in growth.values()),
        controls=controls,
        detail=lab.listing("Shares", lab.shares(parts), ".0%"),
        figures={
            f"Norms of each end of the features, n = {n}: mean over features and models.": _norms(g)
            for n, g in growth.items()
        },
    )


def _norms(growth: Growth) -> "go.Figure":
    norms = {"embed, W_E": growth.W_E.norm(dim=-1), "unembed, W_U": growth.W_U.norm(dim=-2)}
    means = {name: (growth.steps[1:], norm[1:].mean((1, 2)).numpy()) for name, norm in norms.items()}
    return plots.curves(means, "step", "norm", log_x=True)


def _separates_first(growth: Growth) -> np.ndarray:
    """Does W_U separate all inputs with the final W_E, for good, before W_E does with the final W_U?"""
    unembed = told_apart(growth.W_E[-1:] @ growth.W_U)
    embed = told_apart(growth.W_E @ growth.W_U[-1:])
    first, second = (len(ok) - np.logical_and.accumulate(ok[::-1]).sum(0) for ok in (unembed, embed))
    return np.less(first, second)


def _drift(growth: Growth) -> float:
    """How far |W_E|^2 - |W_U|^2 moved from start to end, relative to their final sum."""
    embed, unembed = (W.square().sum((-2, -1)) for W in (growth.W_E, growth.W_U))
    difference = embed - unembed
    return float(((difference[-1] - difference[0]).abs() / (embed + unembed)[-1]).mean())
