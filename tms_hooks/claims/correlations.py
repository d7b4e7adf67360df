"""Claims about features that fire together, or never together, in pairs (Elhage et al. 2022, "correlated features").

Features 0 and 1 are a pair, 2 and 3, and so on; importance 1, two hidden dimensions, ReLU, tied, output bias. The usual
recipe, 800 steps, batch 256.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tms_hooks import geometry, plots
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.lab import LEARNED, ByDensity, Stacked
from tms_hooks.config import Activation, ToyConfig
from tms_hooks.data import AnticorrelatedGroups, CorrelatedGroups, SparseUniform
from tms_hooks.run import Run

WITHIN_DEGREES = 6.0
"""Tolerance of "orthogonal" and "antipodal"."""
COLLAPSED_DEGREES = 15.0
"""Two features nearer than this are one direction."""
DENSITIES = (0.5, 0.1, 0.02)
KINDS = {"correlated": CorrelatedGroups, "independent": SparseUniform, "anticorrelated": AnticorrelatedGroups}


def train_pairs(kind: str, n_features: int, p: float, n_models: int, output_act: Activation = "relu") -> Run:
    """Toys in two dimensions."""
    cfg = ToyConfig(n_features=n_features, d_hidden=2, output_act=output_act)
    data = KINDS[kind](n_features=n_features, feature_probability=p)
    return lab.train_toys(cfg, data, n_models, steps=800, batch_size=256)


def pair_degrees(W: Stacked) -> Float[Tensor, "model pair"]:
    """Angle between the two features of every pair."""
    first, second = W[:, ::2].double(), W[:, 1::2].double()
    return torch.rad2deg(torch.cosine_similarity(first, second, dim=-1).clamp(-1, 1).acos())


def learned_pairs(W: Stacked, learned: float = LEARNED) -> Bool[Tensor, "model pair"]:
    """Pairs of which both features are learned."""
    alive = geometry.represented(W, learned)
    return alive[:, ::2] & alive[:, 1::2]


@claim("correlated-orthogonal", "N", quick=12, full=100)
def correlated_orthogonal(n_models: int) -> Verdict:
    """Features that fire together are put at right angles.

    Statistic: share of models, n = 4 in two pairs that are active together or not at all (p = 0.1), that have learned
    all four (norm > 0.5), with both pairs within 6 degrees of orthogonal.
    Threshold: above 2/3, the share that squares of independent features give: a pair's partner is one of three.
    Size: 12 models (quick), 100 (full).
    Controls: the same share of models of independent and of anticorrelated pairs, of untrained ones, and of ones with a
    linear output; learned > 0.3 and > 0.7; the share of squares; the same share of the tenth of models of lowest
    held-out loss, and the mean loss of all others relative to those with orthogonal pairs.
    """
    return measure_angle("correlated", n_models)


@claim("anticorrelated-antipodal", "N", quick=12, full=100)
def anticorrelated_antipodal(n_models: int) -> Verdict:
    """Features that never fire together are put opposite each other.

    Statistic: share of models, n = 4 in two pairs of which at most one is active (p = 0.1 each), that have learned all
    four (norm > 0.5), with both pairs within 6 degrees of antipodal.
    Threshold: above 1/3, the share that squares of independent features give: a pair's partner is one of three.
    Size: 12 models (quick), 100 (full).
    Controls: the same share of models of independent and of correlated pairs, of untrained ones, and of ones with a
    linear output; learned > 0.3 and > 0.7; the share of squares; the same share of the tenth of models of lowest
    held-out loss, and the mean loss of all others relative to those with antipodal pairs.
    """
    return measure_angle("anticorrelated", n_models)


def measure_angle(kind: str, n_models: int) -> Verdict:
    """Train two pairs of every kind, and judge this one."""
    runs = {each: train_pairs(each, 4, 0.1, n_models) for each in KINDS}
    others = {
        "untrained": lab.untrained_directions(4, 2, n_models),
        "linear output": train_pairs(kind, 4, 0.1, max(n_models // 4, 2), "identity").W_E,
    }
    return judge_angle(kind, {each: run.W_E for each, run in runs.items()}, runs[kind].final_loss.numpy(), others)


def judge_angle(kind: str, W: Mapping[str, Stacked], losses: np.ndarray, others: Mapping[str, Stacked]) -> Verdict:
    """Are pairs of this kind orthogonal (correlated ones) or antipodal (anticorrelated ones) more often than by chance?

    `W` are models of every kind, and `losses` the held-out losses of those of this kind.
    """
    word, degrees = ("orthogonal", 90.0) if kind == "correlated" else ("antipodal", 180.0)

    def hits(models: Stacked, learned: float = LEARNED) -> np.ndarray:
        """Models that have learned all features and hold every pair at this angle."""
        right = (pair_degrees(models) - degrees).abs() < WITHIN_DEGREES
        return (right & learned_pairs(models, learned)).all(1).numpy()

    found = hits(W[kind])
    right, wrong = losses[found], losses[~found]
    square = np.mean([geometry.name_polytope(w) == "square" for w in W[kind]])
    angles = {each: pair_degrees(w).flatten().numpy() for each, w in W.items()}
    return Verdict.of_shares(
        f"The share of models of which all {kind} pairs are {word}",
        {"": found},
        n_models=len(found),
        controls={each: hits(w).mean() for each, w in W.items() if each != kind}
        | {other: hits(w, 0.0).mean() for other, w in others.items()}
        | lab.at_cuts(lambda cut: hits(W[kind], cut).mean())
        | {
            "share of squares": square,
            "tenth of lowest loss": found[losses.argsort()[: max(len(losses) // 10, 1)]].mean(),
            "loss of the others / of these": wrong.mean() / right.mean() if len(right) and len(wrong) else np.nan,
        },
        detail=f"The median angle within a pair is {np.median(angles[kind]):.1f} degrees, of independent features "
        f"{np.median(angles['independent']):.1f}; {square:.0%} of the models are squares.",
        figures={
            "Angle between the two features of a pair.": plots.distributions(
                angles, "angle (degrees)", lab.colors(angles), nbins=36
            ),
            "The first model of each kind; features 0 and 1 are a pair (blue, orange), and 2 and 3 (green, pink).": (
                lab.arrows({each: w[0] for each, w in W.items()})
            ),
        },
    )


@claim("correlated-collapse", "N", quick=8, full=40)
def correlated_collapse(n_models: int) -> Verdict:
    """Correlated pairs too many to be orthogonal: dense ones collapse to their mean (PCA), sparse ones lie near.

    Statistic: the smallest of three shares, n = 6 in three pairs that are active together or not at all: models at
    p = 0.5 whose learned pairs (both norms > 0.5) are all collapsed, their features less than 15 degrees apart; models
    at p = 0.02 with no collapsed pair; models at p = 0.02 with all pairs less than 90 degrees apart ("near": side by
    side, not opposite).
    Threshold: above 1/2, for each.
    Size: 8 models (quick), 40 (full), at each of p = 0.5, 0.1 and 0.02.
    Controls: each share, also at p = 0.1; the same of independent features; learned > 0.3 and > 0.7; untrained weights.
    """
    return judge_collapse(
        {p: train_pairs("correlated", 6, p, n_models).W_E for p in DENSITIES},
        {p: train_pairs("independent", 6, p, n_models).W_E for p in DENSITIES},
        lab.untrained_directions(6, 2, n_models),
    )


RULES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "collapsed": lambda degrees: degrees < COLLAPSED_DEGREES,
    "apart": lambda degrees: degrees >= COLLAPSED_DEGREES,
    "side by side": lambda degrees: degrees < 90,
}
"""What the angle within a pair may be."""


def obeys(W: Stacked, rule: str, learned: float = LEARNED) -> np.ndarray:
    """Models with a learned pair of which all learned pairs obey one of `RULES`."""
    pairs = learned_pairs(W, learned)
    return ((RULES[rule](pair_degrees(W)) | ~pairs).all(1) & pairs.any(1)).numpy()


def judge_collapse(correlated: ByDensity, independent: ByDensity, start: Stacked) -> Verdict:
    """Do dense pairs share a direction, and sparse ones not, though they stay near?"""
    dense, *_, sparse = sorted(correlated, reverse=True)

    def parts(weights: ByDensity, learned: float = LEARNED) -> dict[str, np.ndarray]:
        asked = (("collapsed", dense), ("apart", sparse), ("side by side", sparse))
        return {f"{rule} at p = {p:g}": obeys(weights[p], rule, learned) for rule, p in asked}

    angles = {f"p = {p:g}": pair_degrees(W)[learned_pairs(W)].numpy() for p, W in correlated.items()}
    angles = {name: values for name, values in angles.items() if len(values)}
    return Verdict.of_shares(
        "The smallest of three shares",
        parts(correlated),
        n_models=lab.total(correlated),
        controls={f"{rule} at p = {p:g}": obeys(W, rule).mean() for rule in RULES for p, W in correlated.items()}
        | {"independent features": lab.weakest(parts(independent))}
        | lab.at_cuts(lambda cut: lab.weakest(parts(correlated, cut)))
        | {"untrained": lab.weakest(parts(dict.fromkeys(correlated, start), 0.0))},
        detail=lab.listing(
            "Median angle within learned pairs, in degrees", {name: f"{np.median(v):.1f}" for name, v in angles.items()}
        ),
        figures={
            "Angle within the learned correlated pairs.": plots.distributions(
                angles, "angle (degrees)", lab.colors(angles), nbins=36
            ),
            "Gram matrices of the first model at each density; features 0 and 1 are a pair, and so on.": lab.grams(
                {f"p = {p:g}": W[0] for p, W in correlated.items()}
            ),
        },
    )
