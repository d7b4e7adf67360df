"""Claims of the notes on "Toy Models of Superposition" (Elhage et al. 2022): sparse uniform features, ReLU, tied, bias.

Adam at 0.01 with cosine decay over 3,000 steps, batch 1,024, seeds from 0.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, stats, theory
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import UNKNOWN, Verdict
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.models.forward import init_weights
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

LEARNED = 0.5
INTERFERES = 0.1
"""Absolute cosine above which two directions count as interfering, as in `geometry.tegum_factors`."""
DENSITIES = tuple(20 ** -np.linspace(0, 1, 10))
Stacked = Float[Tensor, "model feature hidden"]


@cache
def train_sparse(
    n_features: int,
    d_hidden: int,
    p: float,
    n_models: int,
    decay: float = 1.0,
    output_act: Literal["relu", "identity"] = "relu",
) -> Stacked:
    """Trained directions; feature i has importance decay^i. Kept: several claims look at the same models."""
    return train(
        ToyConfig(n_features=n_features, d_hidden=d_hidden, output_act=output_act),
        SparseUniform(n_features=n_features, feature_probability=p),
        seeds=range(n_models),
        steps=3_000,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        importance=[decay**i for i in range(n_features)],
        record_every=3_000,
    ).W_E


@claim("superposition-emerges", "N", quick=6, full=40)
def superposition_emerges(n_models: int) -> Verdict:
    """Dense features: only the most important get dimensions, orthogonal; sparser: antipodal pairs, then a pentagon.

    Statistic: the smallest of three shares, n = 5, m = 2, importance 0.9^i: models at p = 1 that have learned (norm >
    0.5) the first two features and no other, with |cosine| below 0.1; models that are two antipodal pairs (a square) at
    the density in between where most are, chosen on the first half of the models and judged on the second; models at
    p = 0.05 that are a pentagon.
    Threshold: above 1/2, for each.
    Size: 6 models (quick), 40 (full) at each of ten densities p from 1 to 0.05, evenly spaced on a log scale.
    Controls: the same at learned > 0.3 and > 0.7; untrained weights; a linear output, which should never superpose.
    """
    cfg = ToyConfig(n_features=5, d_hidden=2)
    start = torch.stack([init_weights(cfg, seed)["W_E"] for seed in range(n_models)])
    return judge_emergence(
        {p: train_sparse(5, 2, p, n_models, decay=0.9) for p in DENSITIES},
        {p: train_sparse(5, 2, p, n_models, decay=0.9, output_act="identity") for p in DENSITIES},
        dict.fromkeys(DENSITIES, start),
    )


def judge_emergence(
    trained: Mapping[float, Stacked], linear: Mapping[float, Stacked], untrained: Mapping[float, Stacked]
) -> Verdict:
    """Two orthogonal features, then antipodal pairs, then a pentagon, as features grow sparser?"""

    def weakest(weights: Mapping[float, Stacked], learned: float = LEARNED) -> stats.Weakest:
        dense, *between, sparse = sorted(weights, reverse=True)
        square = {p: np.array([geometry.name_polytope(w, learned) == "square" for w in weights[p]]) for p in between}
        half = len(weights[dense]) // 2
        best = max(between, key=lambda p: square[p][:half].mean())
        judged = square[best][half:]
        top = [_only_top_two(w, learned) for w in weights[dense]]
        five = [geometry.name_polytope(w, learned) == "pentagon" for w in weights[sparse]]
        return stats.weakest_share(
            {
                "dense, the first two": (sum(top), len(top)),
                f"in between, a square at p = {best:.2g}": (int(judged.sum()), len(judged)),
                "sparse, a pentagon": (sum(five), len(five)),
            }
        )

    found = weakest(trained)
    shapes = {
        p: stats.census([geometry.name_polytope(w) for w in W], np.zeros(len(W)), "_") for p, W in trained.items()
    }
    learned = {
        name: np.array([float(geometry.represented(W).sum(1).double().mean()) for W in weights.values()])
        for name, weights in (("ReLU", trained), ("linear", linear))
    }
    return Verdict(
        measured=f"The smallest of three shares ({found.part})",
        statistic=found.share,
        interval=found.interval,
        threshold=0.5,
        n_models=sum(map(len, trained.values())),
        controls={f"learned > {cut}": weakest(trained, cut).share for cut in (0.3, 0.7)}
        | {"linear output": weakest(linear).share, "untrained": weakest(untrained).share},
        detail="Most frequent shapes: "
        + "; ".join(f"p = {p:.2g}: {t.share.iloc[0]:.0%} {t.index[0]}" for p, t in shapes.items())
        + ".",
        figures=[
            (
                "Mean number of features learned against the feature probability.",
                plots.curves(
                    {name: (np.array(list(trained)), counts) for name, counts in learned.items()},
                    "feature probability",
                    "features learned",
                    log_x=True,
                ),
            ),
            (
                "Dimensionality D_i of every feature, learned or not; dotted: features of ideal shapes.",
                plots.level_strips(
                    {f"{p:.2g}": geometry.dimensionality(W).flatten().numpy() for p, W in trained.items()},
                    {"1": 1.0, "digon": 1 / 2, "pentagon": 2 / 5},
                    "feature probability",
                    "D_i",
                ),
            ),
            *(
                (
                    f"Seed 0 at p = {ps[0]:.2g} to {ps[-1]:.2g}: feature 0 is the most important.",
                    plots.feature_arrows(np.stack([trained[p][0].numpy() for p in ps]), [f"p = {p:.2g}" for p in ps]),
                )
                for ps in (list(trained)[:5], list(trained)[5:])
                if ps
            ),
        ],
    )


@claim("cosine-misleads", "N", quick=10, full=50)
def cosine_misleads(n_models: int) -> Verdict:
    """Under superposition hidden states of inputs that share no feature have cosine similarities far from 0.

    Statistic: mean over models of the mean |cosine| between the hidden states of all pairs of inputs that hold one
    learned feature each (norm > 0.5), not the same; n = 20, m = 5, importance 1, p = 0.01.
    Threshold: above 0.1, from where this library counts directions as interfering.
    Size: 10 models (quick), 50 (full), at each density.
    Controls: the same at p = 0.1 and 0.3; with a linear output (no superposition); in untrained models; random
    directions in five dimensions (closed form); learned > 0.3 and > 0.7.
    """
    cfg = ToyConfig(n_features=20, d_hidden=5)
    return judge_cosines(
        train_sparse(20, 5, 0.01, n_models),
        {f"p = {p}": train_sparse(20, 5, p, n_models) for p in (0.1, 0.3)}
        | {
            "linear output": train_sparse(20, 5, 0.01, n_models, output_act="identity"),
            "untrained": torch.stack([init_weights(cfg, seed)["W_E"] for seed in range(n_models)]),
        },
    )


def judge_cosines(W: Stacked, others: Mapping[str, Stacked]) -> Verdict:
    """How far from orthogonal are hidden states that have no feature in common?"""
    means = mean_cosines(W)
    measurable = len(means) > 1
    return Verdict(
        measured="The mean |cosine| of hidden states with no feature in common",
        statistic=float(means.mean()) if measurable else float("nan"),
        interval=stats.bootstrap(lambda m: float(m.mean()), means) if measurable else UNKNOWN,
        threshold=INTERFERES,
        n_models=len(means),
        controls={
            name: float(values.mean()) if len(values := mean_cosines(other, cut)) else float("nan")
            for name, other, cut in _cosine_controls(W, others)
        }
        | {"random directions": theory.sphere_mean_interference(W.shape[-1])},
        detail=f"Between models it ranges from {means.min():.3g} to {means.max():.3g}." if measurable else "",
        figures=[
            ("Mean |cosine| of each model.", plots.distributions({"models": means}, "|cosine|", {"models": plots.TOY})),
            (
                "Inner products of all features in the first model of each kind.",
                plots.matrices(
                    np.stack([(w[0] @ w[0].mT).numpy() for w in (W, *others.values())]), ["p = 0.01", *others]
                ),
            ),
        ]
        if measurable
        else (),
    )


def mean_cosines(W: Stacked, learned: float = LEARNED) -> np.ndarray:
    """Mean |cosine| over pairs of learned features, of each model that has learned at least two."""
    found = []
    for w in W:
        unit = torch.nn.functional.normalize(w[geometry.represented(w, learned)].double(), dim=-1)
        if len(unit) > 1:
            rows, columns = torch.triu_indices(len(unit), len(unit), 1)
            found.append(float((unit @ unit.mT).abs()[rows, columns].mean()))
    return np.array(found)


def _cosine_controls(W: Stacked, others: Mapping[str, Stacked]) -> Sequence[tuple[str, Stacked, float]]:
    # Untrained features are short: all of them count.
    rows = [(name, other, 0.0 if name == "untrained" else LEARNED) for name, other in others.items()]
    return [*rows, *((f"learned > {cut}", W, cut) for cut in (0.3, 0.7))]


def _only_top_two(W: Float[Tensor, "feature hidden"], learned: float) -> bool:
    alive = geometry.represented(W, learned).nonzero()[:, 0].tolist()
    return alive == [0, 1] and abs(float(torch.cosine_similarity(W[0], W[1], dim=0))) < INTERFERES
