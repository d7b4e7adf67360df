"""Claims about sparsity and importance: how many features are represented, and the phase diagram of one of them.

Sparse uniform features, ReLU, tied, output bias (Elhage et al. 2022); Adam at 0.01 with cosine decay, seeds from 0.
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
from tms_hooks.claims.verdict import Verdict, above
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.linalg import overlaps
from tms_hooks.models.forward import init_weights
from tms_hooks.run import Run
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

LEARNED = 0.5
ORTHOGONAL = 0.1
OFF_BOUNDARY = 1.1
"""A point of the phase diagram is away from boundaries if the second best arrangement costs this times the best."""
WIDE = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
Stacked = Float[Tensor, "model feature hidden"]
Output = Literal["relu", "identity"]


@cache
def train_uneven(
    n_features: int,
    d_hidden: int,
    p: float | tuple[float, ...],
    importance: tuple[float, ...],
    n_models: int,
    steps: int,
    batch_size: int = 1024,
    output_act: Output = "relu",
) -> Run:
    """Toys whose features differ in importance or in frequency."""
    return train(
        ToyConfig(n_features=n_features, d_hidden=d_hidden, output_act=output_act),
        SparseUniform(n_features=n_features, feature_probability=p),
        seeds=range(n_models),
        steps=steps,
        batch_size=batch_size,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        importance=importance,
        record_every=steps,
        progress=False,
    )


@claim("superposition-wide", "N", quick=5, full=32, needs=above(0.5))
def superposition_wide(n_models: int) -> Verdict:
    """The sparser the features, the more of them are represented; a linear model never represents more than PCA does.

    Statistic: the smaller of two shares, n = 20, m = 5, importance 0.7^i: seeds for which the number of learned
    features (norm > 0.5) never falls from a density to the next sparser one, and is larger at the last than at the
    first; models with a linear output, over all densities, that have learned the five most important features and no
    other, with all |cosines| below 0.1 (the five principal components of the weighted loss).
    Threshold: above 1/2, for each.
    Size: 5 seeds (quick), 32 (full), at each of seven densities p from 1 to 0.001. 2,000 steps, batch 512.
    Controls: the same at learned > 0.3 and > 0.7; untrained weights; the first share alone if the densities are
    shuffled; features learned at each density.
    """
    importance = tuple(0.7**i for i in range(20))
    outputs: tuple[Output, Output] = ("relu", "identity")
    relu, linear = (
        {p: train_uneven(20, 5, p, importance, n_models, 2_000, 512, output).W_E for p in WIDE} for output in outputs
    )
    cfg = ToyConfig(n_features=20, d_hidden=5)
    start = torch.stack([init_weights(cfg, seed)["W_E"] for seed in range(n_models)])
    return judge_rise(relu, linear, start)


def judge_rise(relu: Mapping[float, Stacked], linear: Mapping[float, Stacked], untrained: Stacked) -> Verdict:
    """Do sparser features get more directions, and linear models only those of PCA?"""
    densities = sorted(relu, reverse=True)

    def rises(weights: Mapping[float, Stacked], cut: float, order: Sequence[float] = densities) -> np.ndarray:
        counts = np.stack([geometry.represented(weights[p], cut).sum(1).numpy() for p in order])
        return (np.diff(counts, axis=0) >= 0).all(0) & (counts[-1] > counts[0])

    def weakest(weights: Mapping[float, Stacked], plain: Mapping[float, Stacked], cut: float) -> stats.Weakest:
        up = rises(weights, cut)
        pca = np.array([is_top_of_pca(w, cut) for W in plain.values() for w in W])
        return stats.weakest_share(
            {"never falls": (int(up.sum()), len(up)), "linear is PCA": (int(pca.sum()), len(pca))}
        )

    found = weakest(relu, linear, LEARNED)
    shuffled = np.random.default_rng(0).permutation(densities).tolist()
    counts = {p: float(geometry.represented(relu[p]).sum(1).double().mean()) for p in densities}
    flat = [float(geometry.represented(linear[p]).sum(1).double().mean()) for p in densities]
    still = dict.fromkeys(densities, untrained)
    return Verdict(
        measured=f"The smaller share ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=sum(map(len, relu.values())) + sum(map(len, linear.values())),
        controls={f"learned > {cut}": weakest(relu, linear, cut).share for cut in (0.3, 0.7)}
        | {
            "untrained": weakest(still, still, LEARNED).share,
            "never falls, densities shuffled": float(rises(relu, LEARNED, shuffled).mean()),
        }
        | {f"features learned at p = {p:g}": count for p, count in counts.items()},
        detail=f"From p = {densities[0]:g} to {densities[-1]:g} the ReLU models learn {counts[densities[0]]:.1f} to "
        f"{counts[densities[-1]]:.1f} features on average, the linear ones {min(flat):.1f} to {max(flat):.1f}.",
        figures=[
            (
                "Mean number of features learned against the feature probability.",
                plots.curves(
                    {
                        "ReLU": (np.array(densities), np.array(list(counts.values()))),
                        "linear": (np.array(densities), np.array(flat)),
                    },
                    "feature probability p = 1 - S",
                    "features learned",
                    log_x=True,
                ),
            ),
            (
                "Gram matrices of the first ReLU model at four densities, features by falling importance.",
                plots.matrices(
                    np.stack([geometry.gram(relu[p][0]).numpy() for p in densities[::2]]),
                    [f"p = {p:g}" for p in densities[::2]],
                ),
            ),
        ],
    )


def is_top_of_pca(W: Float[Tensor, "feature hidden"], learned: float = LEARNED) -> bool:
    """Whether the first d_hidden features are learned, orthogonal, and the only ones."""
    m = W.shape[1]
    alive = geometry.represented(W, learned).nonzero().flatten().tolist()
    return alive == list(range(m)) and float(overlaps(W[:m]).max()) < ORTHOGONAL


@claim("phase-change", "N", quick=7, full=13, needs=above(0.9))
def phase_change(side: int) -> Verdict:
    """An extra feature is ignored, dedicated or superposed, in regions that meet at the closed-form boundaries.

    Statistic: share of points of the phase diagram (density, relative importance of the last feature) at which the
    trained model has the arrangement of lowest closed-form loss (`theory.phase_losses`), among points where the second
    best costs at least 10 % more; the smaller of two diagrams, n = 2 in one dimension and n = 3 in two.
    Threshold: above 0.9, for each.
    Size: a grid of 7 x 7 points (quick), 13 x 13 (full), densities 0.01 to 1 and importances 0.1 to 10, evenly spaced
    on log scales; at each the model of lowest held-out loss among 4. 1,000 steps, batch 1,024.
    Controls: all points, also those near boundaries; the trained arrangements shuffled among the points; a linear
    output (n = 2), which cannot superpose.
    """
    axes = np.geomspace(0.01, 1, side), np.geomspace(0.1, 10, side)
    diagrams = {n: train_diagram(n, *axes) for n in (2, 3)}
    return judge_phases(diagrams, train_diagram(2, *axes, "identity"), *axes)


def train_diagram(n: int, densities: np.ndarray, importances: np.ndarray, output_act: Output = "relu") -> np.ndarray:
    """Name of the arrangement of the best of four models at each point, (importance, density)."""
    names = []
    for importance in importances.tolist():
        for density in densities.tolist():
            weights = (*(1.0,) * (n - 1), importance)
            run = train_uneven(n, n - 1, density, weights, 4, 1_000, output_act=output_act)
            names.append(arrangement(run.W_E[int(run.final_loss.argmin())]))
    return np.array(names).reshape(len(importances), len(densities))


def arrangement(W: Float[Tensor, "feature hidden"]) -> str:
    """A trained model's place in the phase diagram, in the words of `theory.phase_losses`, or "neither"."""
    extra = len(W) - 1
    alive = set(geometry.represented(W).nonzero().flatten().tolist())
    pairs = [factor for factor in geometry.tegum_factors(W) if len(factor) == 2]
    if len(alive) == extra:
        return "first ignored" if extra in alive else "extra ignored"
    if len(alive) > extra and len(pairs) == 1:
        return "antipodal" if extra in pairs[0] else "others antipodal"
    return "neither"


def theory_diagram(n: int, densities: np.ndarray, importances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best arrangement in closed form and how many times its cost the second best costs, (importance, density)."""
    d, r = np.meshgrid(densities, importances)
    costs = theory.phase_losses(d, r, n)
    ranked = np.sort(np.stack(list(costs.values())), axis=0)
    names = np.array(list(costs))
    return names[np.stack(list(costs.values())).argmin(0)], ranked[1] / ranked[0]


def judge_phases(
    trained: Mapping[int, np.ndarray], linear: np.ndarray, densities: np.ndarray, importances: np.ndarray
) -> Verdict:
    """Do trained arrangements lie in theory's regions?

    Args:
        trained: for n = 2 and n = 3, names of arrangements, (importance, density).
        linear: likewise for linear outputs, n = 2.
        densities, importances: the axes.
    """
    rng = np.random.default_rng(0)
    on_paper = {n: theory_diagram(n, densities, importances) for n in trained}

    def weakest(diagrams: Mapping[int, np.ndarray], off_boundary: float = OFF_BOUNDARY) -> stats.Weakest:
        counts = {}
        for n, names in diagrams.items():
            best, margin = on_paper[n]
            away = margin >= off_boundary
            counts[f"n = {n}"] = (int((names == best)[away].sum()), int(away.sum()))
        return stats.weakest_share(counts)

    found = weakest(trained)
    everywhere = weakest(trained, 1.0)
    shuffled = {n: rng.permutation(names.ravel()).reshape(names.shape) for n, names in trained.items()}
    wrong = {n: (names != on_paper[n][0]) & (on_paper[n][1] >= OFF_BOUNDARY) for n, names in trained.items()}
    where = [
        f"n = {n}, p = {densities[j]:.2g}, importance {importances[i]:.2g}: {trained[n][i, j]} instead of "
        f"{on_paper[n][0][i, j]} ({on_paper[n][1][i, j] - 1:.0%} apart)"
        for n, mask in wrong.items()
        for i, j in zip(*mask.nonzero(), strict=True)
    ]
    fine = np.geomspace(densities[0], densities[-1], 60), np.geomspace(importances[0], importances[-1], 60)
    figures = []
    for n, names in trained.items():
        regions = [*theory.phase_losses(0.5, 1.0, n), "neither"]
        index = {name: i for i, name in enumerate(regions)}
        figures.append(
            (
                f"{n} features in {n - 1} dimension{'s' * (n > 2)}: what the best of four trained models does, and the "
                "closed-form boundaries.",
                plots.phase_map(
                    np.vectorize(index.__getitem__)(names),
                    np.stack(list(theory.phase_losses(*np.meshgrid(*fine), n).values())),
                    (densities, fine[0]),
                    (importances, fine[1]),
                    regions,
                    "feature probability p = 1 - S",
                    "relative importance of the last feature",
                ),
            )
        )
    return Verdict(
        measured=f"The smaller share of points in theory's region ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=4 * sum(names.size for names in trained.values()),
        controls={
            "all points": everywhere.share,
            "shuffled": weakest(shuffled).share,
            "linear output, n = 2": weakest({2: linear}).share,
            "points away from boundaries": float(sum((m >= OFF_BOUNDARY).sum() for _, m in on_paper.values())),
        },
        theory=1.0,
        detail=f"Elsewhere: {'; '.join(where[:6])}{' ...' * (len(where) > 6)}." if where else "No point is elsewhere.",
        figures=figures,
    )
