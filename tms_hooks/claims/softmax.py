"""Claims of "Superposition and bottlenecks" about one-hot features read out by a softmax, in two dimensions.

Cross-entropy, full batch, from `torch.nn.Linear`'s initialization, n = 40 features; by the document's schedule, which
is that of `tms_hooks.claims.biases`, 30,000 steps. It names no optimizer; plain gradient descent is the one for which a
rate of 2 makes sense. Ten features, the document's other number, are an arm.
"""

from collections.abc import Mapping
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tms_hooks import geometry, plots, theory
from tms_hooks.claims import Verdict, claim, lab, seeds, share, statistic
from tms_hooks.claims.biases import EVEN, documented, gap_variation
from tms_hooks.claims.bottlenecks import shares_a_direction, train_documented
from tms_hooks.claims.lab import Stacked
from tms_hooks.config import Initialization, ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

SIZES = (10, 40)
PEAK, STEPS = 2.0, 30_000
ON_CIRCLE, AT_ZERO = 0.8, 0.1
"""Shares of the largest norm: above the first a feature is on the circle, below the second it is at zero."""
CUTS = ((0.7, 0.2), (0.9, 0.05))
GAP = 0.1
"""Norms further apart than this share of the largest belong to different circles."""
SHORT = 0.01
"""To what share of its length an end of a feature is cut to see whether growing it helps."""


class Tied(NamedTuple):
    """Trained tied models, their biases zero if they have none, and their exact losses."""

    W: Float[Tensor, "model feature 2"]
    bias: Float[Tensor, "model feature"]
    loss: np.ndarray


def train_softmax(n_features: int, n_models: int, bias: bool = False, adam: bool = False, peak: float = PEAK) -> Tied:
    """Tied one-hot toys with a softmax, by the document's schedule or by the usual recipe."""
    cfg = ToyConfig(n_features=n_features, d_hidden=2, output_bias=bias, output_act="softmax", init="linear")
    steps, optimizer = (3_000, lab.USUAL) if adam else (STEPS, documented(peak))
    data = OneHot(n_features=n_features)
    run = lab.train_toys(cfg, data, n_models, steps=steps, optimizer=optimizer, loss="cross_entropy")
    return Tied(run.W_E, run.weights.get("b_U", torch.zeros(run.W_E.shape[:2])), run.final_loss.numpy())


def relative_norms(W: Stacked) -> Float[Tensor, "model _"]:
    """Norms in units of each model's largest; zero of models of norm zero."""
    norms = geometry.feature_norms(W)
    return norms / norms.amax(-1, keepdim=True).clamp(min=1e-30)


def circle_and_zero(W: Stacked, on: float = ON_CIRCLE, zero: float = AT_ZERO) -> np.ndarray:
    """Models whose features are all on one circle or at zero, some or all on the circle."""
    norms = relative_norms(W)
    return (((norms > on) | (norms < zero)).all(-1) & (norms > on).any(-1)).numpy()


def on_circle(W: Stacked) -> np.ndarray:
    """How many features of each model are on the circle."""
    return (relative_norms(W) > ON_CIRCLE).sum(-1).numpy()


def evenly_spaced(W: Stacked) -> np.ndarray:
    """Models whose features on the circle are evenly spaced."""
    circles = zip(W, relative_norms(W) > ON_CIRCLE, strict=True)
    return np.array([bool(on.any()) and gap_variation(w[on]) < EVEN for w, on in circles])


def told_apart(logits: Float[Tensor, "*axis feature feature"]) -> np.ndarray:
    """Whether a model gives every input its own feature the largest logit, and so the largest probability."""
    return lab.own_is_largest(logits).all(-1).numpy()


def separable(trained: Tied) -> np.ndarray:
    """Tied models that tell all features apart."""
    return told_apart(geometry.gram(trained.W) + trained.bias[:, None, :])


@claim("softmax-circle", "B", quick=2, full=24, seconds=65)
def softmax_circle(n_models: int) -> Verdict:
    """A tied softmax puts some features on one circle and the rest at zero, never two on one ray, unlike MSE.

    Part "circle": "the model learns some number of features by chance on a circle, and sends the others to zero."
    Statistic: the share of models whose features all lie on one circle (norm above 0.8 of the largest) or at zero
    (below 0.1 of it), n = 40; a full circle sends none to zero and counts.
    Threshold: above 1/2.
    Null: untrained models.

    Part "by chance": "the model learns some number of features by chance on a circle".
    Statistic: the share of models with another number on the circle than the most frequent one.
    Threshold: above 1/4.
    Null: models trained by Adam.

    Part "even": "The optimum circle has evenly spaced features in a circle."
    Statistic: the share of models whose features on the circle have gaps with a coefficient of variation below 0.1; the
    model of lowest loss is what the document speaks of.
    Threshold: above 1/2.
    Null: untrained models.

    Part "learning rate": "if the learning rate is too high, the model may only be able to put a subset of all features
    on the circle."
    Statistic: the mean number of features on the circle at a tenth of the rate, less that at the document's.
    Threshold: above 0.
    Null: none, since the statistic is a difference.

    Part "no shared ray": "sharing two features in the same direction is disfavoured by softmax unlike MSE."
    Statistic: the share of ReLU models under MSE with two learned features (norm > 0.1) within 5 degrees, less that of
    softmax models (norm > 0.5; on a full circle features are 9 degrees apart).
    Threshold: above 1/2.
    Null: none, since the statistic is a difference.

    Beyond the source "a setup that learns all": "Hard to find a setup where all features are learned".
    Statistic: the share of models trained by Adam (the usual recipe, 3,000 steps) that tell all features apart.
    Threshold: above 1/2.
    Null: the document's schedule.

    Beyond the source "ten features":
    Statistic: the share of models on a circle or at zero, n = 10.
    Threshold: above 1/2.
    Null: untrained models.

    Size: 2 models for each arm (quick), 24 (full).
    Controls: the circle at the cuts 0.7 and 0.2, 0.9 and 0.05; models that have every feature on it; features at zero,
    and between; the radius beyond which zero is a trap (closed form) against the mean trained one.
    """
    return judge_circle(
        {n: train_softmax(n, n_models) for n in SIZES},
        train_documented(40, 2, n_models).W_E,
        {n: lab.untrained(ToyConfig(n_features=n, d_hidden=2, init="linear"), n_models)["W_E"] for n in SIZES},
        train_softmax(40, n_models, adam=True),
        train_softmax(40, n_models, peak=PEAK / 10),
    )


def judge_circle(
    softmax: Mapping[int, Tied], mse: Stacked, start: Mapping[int, Stacked], adam: Tied, slow: Tied
) -> Verdict:
    """One circle and zero, and nothing shared?

    Args:
        softmax: by number of features; the largest number decides.
        mse: ReLU models under MSE.
        start: untrained, by number of features.
        adam, slow: softmax models trained by Adam, and at a lower rate.
    """
    n, few = max(softmax), min(softmax)
    W = softmax[n].W
    circle = circle_and_zero(W)
    best = lab.lowest(softmax[n].loss)

    def rarer(W: Stacked) -> np.ndarray:
        counts = on_circle(W)
        return counts != np.bincount(counts).argmax()

    controls = {f"circle at {on} and {zero}": circle_and_zero(W, on, zero).mean() for on, zero in CUTS}
    for name, models in {f"n = {n}": w for n, (w, _, _) in softmax.items()}.items():
        norms = relative_norms(models)
        zeros, between = (norms < AT_ZERO), (norms >= AT_ZERO) & (norms <= ON_CIRCLE)
        controls |= {
            f"all on one circle, {name}": lab.mean((norms > ON_CIRCLE).all(-1)),
            f"features at zero, {name}": lab.mean(zeros.sum(-1)),
            f"features between, {name}": lab.mean(between.sum(-1)),
            f"radius, {name}": float(geometry.feature_norms(models).amax(-1).mean()),
            f"radius beyond which zero traps, {name}": theory.softmax_trap_radius(models.shape[1], models.shape[1] - 1),
        }
    controls |= {f"all told apart, n = {n}": separable(models).mean() for n, models in softmax.items()}
    return Verdict(
        parts={
            "circle": share(
                "The share of models on a circle or at zero",
                circle,
                null=circle_and_zero(start[n]),
                best=float(circle[best]),
            ),
            "by chance": share(
                "The share of models with another than the most frequent number on the circle",
                rarer(W),
                null=rarer(adam.W),
            ),
            "even": share(
                "The share of models evenly spaced",
                evenly_spaced(W),
                null=evenly_spaced(start[n]),
                best=float(evenly_spaced(W)[best]),
            ),
            "learning rate": statistic(
                "Features on the circle at a tenth of the rate, less those at the document's",
                lambda low, high: float(low.mean() - high.mean()),
                on_circle(slow.W),
                on_circle(W),
            ),
            "no shared ray": statistic(
                "The share of models with two features on one ray, MSE less softmax,",
                lambda a, b: float(a.mean() - b.mean()),
                shares_a_direction(mse, 0.1),
                shares_a_direction(W, 0.5),
            ),
            "a setup that learns all": share(
                "The share of models trained by Adam that tell all apart", separable(adam), null=separable(softmax[n])
            ),
            "ten features": share(
                f"The share of models on a circle or at zero, n = {few},",
                circle_and_zero(softmax[few].W),
                null=circle_and_zero(start[few]),
            ),
        },
        n_models=len(W),
        controls=controls,
        detail=lab.listing(
            "Number on the circle", {f"n = {n}": lab.tally(on_circle(w)) for n, (w, _, _) in softmax.items()}
        ),
        figures={
            f"Three softmax models, n = {n}; the dotted circle has the mean radius of the features on it.": _arrows(w)
            for n, (w, _, _) in softmax.items()
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


@claim("softmax-bias-concentric", "B", quick=2, full=24, seconds=35)
def softmax_bias_concentric(n_models: int) -> Verdict:
    """A tied softmax with a bias tells all features apart on concentric circles, the smaller ones with larger biases.

    Part "told apart": "If tied and bias, then there is an easier way to get perfect performance than squeezing
    everything onto a single circle."
    Statistic: the share of models that give every input its own feature the largest logit, n = 40.
    Threshold: above 1/2.
    Null: models without a bias.

    Part "concentric": "Learn concentric circles."
    Statistic: the share of models with at least two circles of two or more features each (circles are parted where
    norms differ by more than 0.1 of the largest; norms below 0.1 of it are no circle).
    Threshold: above 1/2.
    Null: models without a bias.

    Part "larger inside": "Larger bias associated with points on smaller circles."
    Statistic: the mean over models of the rank correlation of norm and bias.
    Threshold: below -0.5.
    Null: the same with each model's biases shuffled among its features.

    Part "one ray": "This allows us to perfectly distinguish even features in the same direction."
    Statistic: of the models with two features on one ray (within 5 degrees, norms that differ by 0.1 of the largest),
    the share in which all such pairs have a bias difference b with w2 (w1 - w2) < b < w1 (w1 - w2).
    Threshold: above 1/2.
    Null: biases shuffled.

    Beyond the source "ten features":
    Statistic: the share of models that are concentric, n = 10.
    Threshold: above 1/2.
    Null: models without a bias.

    Beyond the source "Adam":
    Statistic: the share of models that are concentric, n = 40, by the usual recipe with 3,000 steps.
    Threshold: above 1/2.
    Null: models without a bias.

    Size: 2 models for each arm (quick), 24 (full).
    Controls: concentric at gaps of 0.05 and 0.2; told apart with the trained biases set to zero, and shuffled; pairs on
    one ray; mean bias rising from each circle to the next smaller one; the slope of bias on squared norm, which is -1/2
    in the middle of what a ray allows; all for n = 10 as well.
    """
    return judge_concentric(
        {n: train_softmax(n, n_models, bias=True) for n in SIZES},
        {n: train_softmax(n, n_models) for n in SIZES},
        train_softmax(40, n_models, bias=True, adam=True),
    )


def biases_rise_inwards(W: Float[Tensor, "_ 2"], bias: Float[Tensor, " _"]) -> bool:
    """At least two circles, and each has a larger mean bias than the next larger one."""
    means = [float(bias[circle].mean()) for circle in circles(W)]
    return len(means) > 1 and all(inner > outer for inner, outer in pairwise(means))


def rays_allowed(W: Float[Tensor, "_ 2"], bias: Float[Tensor, " _"]) -> list[bool]:
    """Pairs of one model's features on one ray, with norms that differ: does form 10 allow their bias difference?"""
    found = []
    norms = geometry.feature_norms(W).tolist()
    for group in geometry.directions(W):
        for i, j in combinations(sorted(group, key=lambda k: norms[k]), 2):
            if norms[j] - norms[i] > GAP * max(norms):
                low, high = theory.ray_bias_interval(norms[j], norms[i])
                found.append(low < float(bias[i] - bias[j]) < high)
    return found


def concentric(W: Stacked, gap: float = GAP) -> np.ndarray:
    """Models with two circles or more of two features or more."""
    return np.array([sum(len(circle) > 1 for circle in circles(w, gap)) > 1 for w in W])


def shuffled(bias: Float[Tensor, "model feature"]) -> Float[Tensor, "model feature"]:
    """Each model's biases in another order."""
    shuffle = np.random.default_rng(seeds.first()).permutation
    return torch.stack([b[shuffle(len(b))] for b in bias])


def norm_and_bias(trained: Tied) -> np.ndarray:
    """Each model's rank correlation of norm and bias; 0 where either is constant."""
    from scipy.stats import spearmanr

    norms = geometry.feature_norms(trained.W).numpy()
    return np.array(
        [
            spearmanr(norm, bias).statistic if np.ptp(norm) > 0 and np.ptp(bias) > 0 else 0.0
            for norm, bias in zip(norms, trained.bias.numpy(), strict=True)
        ]
    )


def judge_concentric(trained: Mapping[int, Tied], unbiased: Mapping[int, Tied], adam: Tied) -> Verdict:
    """All told apart, on circles in circles, with larger biases inside? The largest number of features decides."""
    n, few = max(trained), min(trained)
    controls: dict[str, float] = {}
    for size, models in trained.items():
        W, bias, _ = models
        rays = [allowed for w, b in zip(W, bias, strict=True) for allowed in rays_allowed(w, b)]
        controls |= {
            f"told apart, n = {size}": separable(models).mean(),
            f"told apart, biases set to zero, n = {size}": separable(models._replace(bias=0 * bias)).mean(),
            f"told apart, biases shuffled, n = {size}": separable(models._replace(bias=shuffled(bias))).mean(),
            **{f"concentric at gap {gap}, n = {size}": concentric(W, gap).mean() for gap in (0.05, 0.2)},
            f"biases rise inwards, n = {size}": lab.mean(map(biases_rise_inwards, W, bias)),
            f"pairs on one ray, n = {size}": len(rays),
            f"of them allowed, n = {size}": lab.mean(rays),
            f"rank correlation of norm and bias, n = {size}": norm_and_bias(models).mean(),
            f"slope of bias on squared norm, n = {size}": _slope(models),
        }
    models = trained[n]
    by_model = [rays_allowed(w, b) for w, b in zip(models.W, models.bias, strict=True)]
    by_shuffled = [rays_allowed(w, b) for w, b in zip(models.W, shuffled(models.bias), strict=True)]
    shares = {f"n = {size}": concentric(m.W).mean() for size, m in trained.items()}
    best = lab.lowest(models.loss)
    return Verdict(
        parts={
            "told apart": share(
                "The share of models that tell all features apart",
                separable(models),
                null=separable(unbiased[n]),
                best=float(separable(models)[best]),
            ),
            "concentric": share(
                "The share of models that are concentric",
                concentric(models.W),
                null=concentric(unbiased[n].W),
                best=float(concentric(models.W)[best]),
            ),
            "larger inside": statistic(
                "The mean rank correlation of norm and bias",
                lab.mean,
                norm_and_bias(models),
                null=(norm_and_bias(models._replace(bias=shuffled(models.bias))),),
            ),
            "one ray": share(
                "The share of models whose pairs on one ray are told apart",
                np.array([all(pairs) for pairs in by_model if pairs], dtype=bool),
                null=np.array([all(pairs) for pairs in by_shuffled if pairs], dtype=bool),
            ),
            "ten features": share(
                f"The share of models that are concentric, n = {few},",
                concentric(trained[few].W),
                null=concentric(unbiased[few].W),
            ),
            "Adam": share(
                "The share of models that are concentric, trained by Adam,",
                concentric(adam.W),
                null=concentric(unbiased[n].W),
            ),
        },
        n_models=len(models.W),
        controls=controls,
        detail=lab.listing("Concentric", shares, ".0%"),
        figures={
            f"Three models, n = {size}; each dotted circle has the mean radius of the features on it.": _arrows(m.W)
            for size, m in trained.items()
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
    for n, (W, bias, _) in trained.items():
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

    @classmethod
    def of(cls, run: Run) -> "Growth":
        """Of a run that has recorded both ends."""
        ends = (torch.from_numpy(run.history[name].values) for name in ("W_E", "W_U"))
        return cls(run.history.step.values, *ends)


def untied(n_features: int, init: Initialization = "linear") -> ToyConfig:
    """Two dimensions, a softmax, no bias."""
    return ToyConfig(n_features=n_features, d_hidden=2, tied=False, output_bias=False, output_act="softmax", init=init)


def grow_untied(n_features: int, n_models: int, init: Initialization = "linear") -> Growth:
    """Train untied toys without bias and record both ends along the way."""
    cfg = untied(n_features, init)
    return Growth.of(lab.train_toys(cfg, OneHot(n_features=n_features), n_models, steps=STEPS, **recorded()))


def grow_exchanged(n_features: int, n_models: int) -> Growth:
    """The same from starts whose two ends have changed places: a long embed and a short unembed."""
    cfg = untied(n_features)
    exchanged = [
        {"W_E": W["W_U"].mT.clone(), "W_U": W["W_E"].mT.clone()} for W in lab.each(lab.untrained(cfg, n_models))
    ]
    return Growth.of(lab.train_from(cfg, OneHot(n_features=n_features), exchanged, steps=STEPS, **recorded()))


def recorded() -> dict[str, Any]:
    """By the document's schedule, with 500 records."""
    return {"optimizer": documented(PEAK), "loss": "cross_entropy", "record_every": STEPS // 500}


def when_told_apart(growth: Growth) -> Int[np.ndarray, "model feature"]:
    """Record from which on each feature, alone in the input, has the largest logit; the last where it never has."""
    own = np.stack([lab.own_is_largest(W_E @ W_U).numpy() for W_E, W_U in zip(growth.W_E, growth.W_U, strict=True)])
    last = len(own) - 1
    at = lab.settled(own.reshape(len(own), -1), range(len(own))).reshape(own.shape[1:])
    return np.minimum(at, last).astype(int)


def unembed_first(growth: Growth, share: float = 0.5, final: bool = False) -> np.ndarray:
    """(model, feature): did the unembed reach this share of its norm at an earlier record than the embed did?

    Its norm is that when the feature is told apart. The final one would be another with each length of training: under
    a softmax norms grow with the logarithm of the steps for ever.
    """
    norms = growth.W_U.norm(dim=-2).numpy(), growth.W_E.norm(dim=-1).numpy()
    at = np.full(norms[0].shape[1:], -1) if final else when_told_apart(growth)
    unembed, embed = ((norm > share * np.take_along_axis(norm, at[None], 0)).argmax(0) for norm in norms)
    return np.less(unembed, embed)


@claim("softmax-untied-unembed-first", "B", quick=1, full=24, seconds=140)
def softmax_untied_unembed_first(n_models: int) -> Verdict:
    """An untied softmax without bias learns all features, the unembed of each before its embed.

    Part "all learned": "If no bias but untied, now all features are learned."
    Statistic: the share of models that give every input its own feature the largest probability, n = 40.
    Threshold: above 1/2.
    Null: tied models.

    Part "unembed first": "Learn the unembed before the embed".
    Statistic: the share of models in which more than half of the features reach half of their norm in W_U at an earlier
    record than in W_E (500 records; a tie counts as not earlier). The norm is that at the record from which on the
    feature is told apart. (Of the final norm, which was asked for before, half is no moment that training converges to:
    norms grow with its logarithm. Of 8 models 25, 62, 88 and 0 % had the unembed first after 10,000, 30,000, 90,000 and
    270,000 steps.)
    Threshold: above 1/2.
    Null: models whose start has the two ends exchanged (`torch.nn.Linear` starts with a W_U 4.5 times as long as W_E).

    Part "unembed helps": "Increasing the magnitude of $(W_U)_i$ so that $p_1\\sim10^{-6}$ now causes a significant drop
    in loss, when the correct label is $i$."
    Statistic: the share of trained models whose exact loss falls as the unembed of feature 0 grows, both its ends cut
    to 1 % of their length; all else is as trained.
    Threshold: above 1/2.
    Null: the embed grows in the unembed's place.

    Part "embed harms": "if $(W_E)_i$ and $(W_U)_i$ are small, then increasing $(W_E)_i$ is harmful."
    Statistic: the share of trained models whose exact loss rises as the embed of feature 0 grows, both its ends cut to
    1 % of their length.
    Threshold: above 1/2.
    Null: the unembed is as trained.

    Beyond the source "equal start": both ends of one length at the start (Xavier).
    Statistic: the share of models in which more than half of the features have their unembed first.
    Threshold: above 1/2.
    Null: none, since nothing tells the ends apart.

    Beyond the source "ten features":
    Statistic: the share of models in which more than half of the features have their unembed first, n = 10.
    Threshold: above 1/2.
    Null: models whose start has the two ends exchanged.

    Size: 1 model for each arm (quick), 24 (full).
    Controls: at a quarter and three quarters of the norm, and at half of the final one; features whose unembed, and
    whose embed, came first;
    models whose W_U separates all inputs with the final W_E before W_E does with the final W_U; how far |W_E|^2 -
    |W_U|^2 moved, relative to their sum: gradient flow conserves it.
    """
    return judge_order(
        {n: grow_untied(n, n_models) for n in SIZES},
        {n: grow_exchanged(n, n_models) for n in SIZES},
        grow_untied(40, n_models, "xavier"),
        train_softmax(40, n_models),
    )


def slopes(growth: Growth, end: str, cut: tuple[str, ...], feature: int = 0) -> np.ndarray:
    """Slope of each model's exact loss in the relative length of one end of a feature, at the end of training.

    Args:
        growth: trained models.
        end: "W_E" or "W_U", the end that grows.
        cut: ends of the feature that are cut to `SHORT` of their length beforehand.
        feature: which.
    """
    W_E, W_U = growth.W_E[-1].double().clone(), growth.W_U[-1].double().clone()
    for name in cut:
        (W_E[:, feature] if name == "W_E" else W_U[:, :, feature]).mul_(SHORT)
    length = torch.ones(len(W_E), dtype=torch.float64, requires_grad=True)
    own = torch.nn.functional.one_hot(torch.tensor(feature), W_E.shape[1]).double()
    scaled = 1 + (length[:, None] - 1) * own
    if end == "W_E":
        W_E = W_E * scaled[:, :, None]
    else:
        W_U = W_U * scaled[:, None, :]
    loss = -(W_E @ W_U).log_softmax(-1).diagonal(dim1=-2, dim2=-1).mean(-1)
    return torch.autograd.grad(loss.sum(), length)[0].numpy()


def judge_order(growth: Mapping[int, Growth], exchanged: Mapping[int, Growth], equal: Growth, tied: Tied) -> Verdict:
    """All learned, and the unembed first? The largest number of features decides."""
    n, few = max(growth), min(growth)

    def in_order(grown: Growth, share: float = 0.5) -> np.ndarray:
        return unembed_first(grown, share).mean(1) > 0.5

    main = growth[n]
    controls: dict[str, float] = {}
    for size, g in growth.items():
        controls |= {
            f"all learned, n = {size}": told_apart(g.W_E[-1] @ g.W_U[-1]).mean(),
            **{f"unembed first at {part} of the norm, n = {size}": in_order(g, part).mean() for part in (0.25, 0.75)},
            f"unembed first at half of the final norm, n = {size}": (unembed_first(g, final=True).mean(1) > 0.5).mean(),
            f"features, unembed first, n = {size}": unembed_first(g).mean(),
            f"features, embed first, n = {size}": unembed_first(Growth(g.steps, g.W_U.mT, g.W_E.mT)).mean(),
            f"unembed separates first, n = {size}": _separates_first(g).mean(),
            f"drift of |W_E|^2 - |W_U|^2, n = {size}": _drift(g),
        }
    controls |= {
        "features, unembed first, exchanged": unembed_first(exchanged[n]).mean(),
        "features, unembed first, equal start": unembed_first(equal).mean(),
        "features, embed first, equal start": unembed_first(Growth(equal.steps, equal.W_U.mT, equal.W_E.mT)).mean(),
    }
    shares = {
        "the document's start": in_order(main).mean(),
        "ends exchanged": in_order(exchanged[n]).mean(),
        "equal start": in_order(equal).mean(),
    }
    return Verdict(
        parts={
            "all learned": share(
                "The share of models that learn all features",
                told_apart(main.W_E[-1] @ main.W_U[-1]),
                null=separable(tied),
            ),
            "unembed first": share(
                "The share of models with the unembed first", in_order(main), null=in_order(exchanged[n])
            ),
            "unembed helps": share(
                "The share of models that gain by a longer unembed",
                slopes(main, "W_U", ("W_U", "W_E")) < 0,
                null=slopes(main, "W_E", ("W_U", "W_E")) < 0,
            ),
            "embed harms": share(
                "The share of models that lose by a longer embed",
                slopes(main, "W_E", ("W_U", "W_E")) > 0,
                null=slopes(main, "W_E", ("W_E",)) > 0,
            ),
            "equal start": share("The share of models with the unembed first, from an equal start,", in_order(equal)),
            "ten features": share(
                f"The share of models with the unembed first, n = {few},",
                in_order(growth[few]),
                null=in_order(exchanged[few]),
            ),
        },
        n_models=main.W_E.shape[1],
        controls=controls,
        detail=lab.listing("Unembed first", shares, ".0%"),
        figures={
            f"Norms of each end of the features, n = {size}: mean over features and models.": _norms(g)
            for size, g in growth.items()
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
