"""Claims about features that fire together, or never together, in pairs (Elhage et al. 2022, "correlated features").

Features 0 and 1 are a pair, 2 and 3, and so on; importance 1, two hidden dimensions, ReLU, tied, output bias. Adam at
0.01 with cosine decay over 800 steps, batch 256, seeds from 0.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tms_hooks import geometry, plots, stats
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import Verdict, above
from tms_hooks.config import ToyConfig
from tms_hooks.data import AnticorrelatedGroups, CorrelatedGroups, SparseUniform
from tms_hooks.models.forward import init_weights
from tms_hooks.run import Run
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

LEARNED = 0.5
P = 0.1
WITHIN_DEGREES = 6.0
"""Tolerance of "orthogonal" and "antipodal"."""
COLLAPSED_DEGREES = 15.0
"""Two features nearer than this are one direction."""
DENSITIES = (0.5, 0.1, 0.02)
KINDS = {"correlated": CorrelatedGroups, "anticorrelated": AnticorrelatedGroups, "independent": SparseUniform}
STEPS = 800
Stacked = Float[Tensor, "model feature hidden"]
Kind = Literal["correlated", "anticorrelated", "independent"]


@cache
def train_pairs(
    kind: Kind, n_features: int, p: float, n_models: int, output_act: Literal["relu", "identity"] = "relu"
) -> Run:
    """Toys in two dimensions. Kept: several claims look at the same models."""
    return train(
        ToyConfig(n_features=n_features, d_hidden=2, output_act=output_act),
        KINDS[kind](n_features=n_features, feature_probability=p),
        seeds=range(n_models),
        steps=STEPS,
        batch_size=256,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        record_every=STEPS,
        progress=False,
    )


def pair_degrees(W: Stacked) -> Float[Tensor, "model pair"]:
    """Angle between the two features of every pair."""
    first, second = W[:, ::2].double(), W[:, 1::2].double()
    return torch.rad2deg(torch.cosine_similarity(first, second, dim=-1).clamp(-1, 1).acos())


def all_at(W: Stacked, degrees: float, learned: float = LEARNED) -> Bool[Tensor, " model"]:
    """Models that have learned all features and hold every pair at this angle."""
    right = (pair_degrees(W) - degrees).abs() < WITHIN_DEGREES
    return right.all(1) & geometry.represented(W, learned).all(1)


@claim("correlated-orthogonal", "N", quick=12, full=100, needs=above(2 / 3))
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
    run = train_pairs("correlated", 4, P, n_models)
    return judge_orthogonal(
        run.W_E,
        run.final_loss.numpy(),
        train_pairs("independent", 4, P, n_models).W_E,
        train_pairs("anticorrelated", 4, P, n_models).W_E,
        {
            "untrained": untrained(4, n_models),
            "linear output": train_pairs("correlated", 4, P, max(n_models // 4, 2), "identity").W_E,
        },
    )


def judge_orthogonal(
    correlated: Stacked,
    losses: np.ndarray,
    independent: Stacked,
    anticorrelated: Stacked,
    others: Mapping[str, Stacked],
) -> Verdict:
    """Are correlated pairs orthogonal more often than chance has it?"""
    return _judge_angle(
        90.0,
        "are orthogonal",
        2 / 3,
        {"correlated": correlated, "independent": independent, "anticorrelated": anticorrelated},
        losses,
        others,
    )


@claim("anticorrelated-antipodal", "N", quick=12, full=100, needs=above(1 / 3))
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
    run = train_pairs("anticorrelated", 4, P, n_models)
    return judge_antipodal(
        run.W_E,
        run.final_loss.numpy(),
        train_pairs("independent", 4, P, n_models).W_E,
        train_pairs("correlated", 4, P, n_models).W_E,
        {
            "untrained": untrained(4, n_models),
            "linear output": train_pairs("anticorrelated", 4, P, max(n_models // 4, 2), "identity").W_E,
        },
    )


def judge_antipodal(
    anticorrelated: Stacked,
    losses: np.ndarray,
    independent: Stacked,
    correlated: Stacked,
    others: Mapping[str, Stacked],
) -> Verdict:
    """Are anticorrelated pairs antipodal more often than chance has it?"""
    return _judge_angle(
        180.0,
        "are antipodal",
        1 / 3,
        {"anticorrelated": anticorrelated, "independent": independent, "correlated": correlated},
        losses,
        others,
    )


def _judge_angle(
    degrees: float,
    what: str,
    chance: float,
    kinds: Mapping[str, Stacked],
    losses: np.ndarray,
    others: Mapping[str, Stacked],
) -> Verdict:
    """The share of models of the first kind with all pairs at an angle, with the other kinds as controls."""
    (name, W), *rest = kinds.items()
    hits = all_at(W, degrees)
    best = losses.argsort()[: max(len(losses) // 10, 1)]
    right, wrong = losses[hits.numpy()], losses[~hits.numpy()]
    square = np.mean([geometry.name_polytope(w) == "square" for w in W])
    angles = {kind: pair_degrees(w).flatten().numpy() for kind, w in kinds.items()}
    return Verdict(
        measured=f"The share of models of which all {name} pairs {what}",
        statistic=float(hits.double().mean()),
        interval=stats.wilson(int(hits.sum()), len(hits)),
        n_models=len(W),
        controls={kind: float(all_at(w, degrees).double().mean()) for kind, w in rest}
        | {other: float(all_at(w, degrees, 0.0).double().mean()) for other, w in others.items()}
        | {f"learned > {cut}": float(all_at(W, degrees, cut).double().mean()) for cut in (0.3, 0.7)}
        | {
            "share of squares": float(square),
            "tenth of lowest loss": float(hits[best].double().mean()),
            "loss of the others / of these": float(wrong.mean() / right.mean())
            if len(right) and len(wrong)
            else float("nan"),
        },
        detail=f"The median angle within a pair is {np.median(angles[name]):.1f} degrees, of independent features "
        f"{np.median(angles['independent']):.1f}; {square:.0%} of the models are squares.",
        figures=[
            (
                "Angle between the two features of a pair.",
                plots.distributions(
                    angles, "angle (degrees)", {kind: plots.PALETTE[i] for i, kind in enumerate(angles)}, nbins=36
                ),
            ),
            (
                "The first model of each kind; features 0 and 1 are a pair (blue, orange), and 2 and 3 (green, pink).",
                plots.feature_arrows(np.stack([w[0].numpy() for w in kinds.values()]), list(kinds)),
            ),
        ],
    )


@claim("correlated-collapse", "N", quick=8, full=40, needs=above(0.5))
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
        untrained(6, n_models),
    )


def judge_collapse(
    correlated: Mapping[float, Stacked], independent: Mapping[float, Stacked], start: Stacked
) -> Verdict:
    """Do dense pairs share a direction, and sparse ones not, though they stay near?"""
    dense, *_, sparse = sorted(correlated, reverse=True)

    def count(W: Stacked, rule: Callable[[Tensor], Tensor], learned: float) -> tuple[int, int]:
        """Models with a learned pair of which all learned pairs obey a rule on their angle."""
        alive = geometry.represented(W, learned)
        both = alive[:, ::2] & alive[:, 1::2]
        obeys = (rule(pair_degrees(W)) | ~both).all(1) & both.any(1)
        return int(obeys.sum()), len(W)

    rules: dict[str, Callable[[Tensor], Tensor]] = {
        "collapsed": lambda degrees: degrees < COLLAPSED_DEGREES,
        "apart": lambda degrees: degrees >= COLLAPSED_DEGREES,
        "side by side": lambda degrees: degrees < 90,
    }
    parts = (("collapsed", dense), ("apart", sparse), ("side by side", sparse))

    def weakest(weights: Mapping[float, Stacked], learned: float = LEARNED) -> stats.Weakest:
        return stats.weakest_share(
            {f"{rule} at p = {p:g}": count(weights[p], rules[rule], learned) for rule, p in parts}
        )

    found = weakest(correlated)
    shares = {
        f"{rule} at p = {p:g}": count(W, rules[rule], LEARNED)[0] / len(W)
        for rule in rules
        for p, W in correlated.items()
    }
    angles = {
        p: pair_degrees(W)[(alive := geometry.represented(W))[:, ::2] & alive[:, 1::2]].numpy()
        for p, W in correlated.items()
    }
    seen = {f"p = {p:g}": values for p, values in angles.items() if len(values)}
    return Verdict(
        measured=f"The smallest of three shares ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=sum(map(len, correlated.values())),
        controls=shares
        | {"independent features": weakest(independent).share}
        | {f"learned > {cut}": weakest(correlated, cut).share for cut in (0.3, 0.7)}
        | {"untrained": weakest(dict.fromkeys(correlated, start), 0.0).share},
        detail="Median angle within learned pairs: "
        + ", ".join(f"{name}: {np.median(values):.1f} degrees" for name, values in seen.items())
        + ".",
        figures=[
            (
                "Angle within the learned correlated pairs.",
                plots.distributions(
                    seen, "angle (degrees)", {name: plots.PALETTE[i] for i, name in enumerate(seen)}, nbins=36
                ),
            ),
            (
                "Gram matrices of the first model at each density; features 0 and 1 are a pair, and so on.",
                plots.matrices(
                    np.stack([geometry.gram(W[0]).numpy() for W in correlated.values()]),
                    [f"p = {p:g}" for p in correlated],
                ),
            ),
        ]
        if seen
        else (),
    )


def untrained(n_features: int, n_models: int) -> Stacked:
    """The weights that the same models start from."""
    cfg = ToyConfig(n_features=n_features, d_hidden=2)
    return torch.stack([init_weights(cfg, seed)["W_E"] for seed in range(n_models)])
