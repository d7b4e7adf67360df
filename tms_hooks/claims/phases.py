"""Claims about sparsity and importance: how many features are represented, and the phase diagram of one of them.

Sparse uniform features, ReLU, tied, output bias (Elhage et al. 2022); the usual recipe.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, theory
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.lab import LEARNED, ByDensity, Stacked
from tms_hooks.claims.toy_models import is_top_of_pca
from tms_hooks.config import Activation

if TYPE_CHECKING:
    import plotly.graph_objects as go

OFF_BOUNDARY = 1.1
"""A point of the phase diagram is away from boundaries if the second best arrangement costs this times the best."""
WIDE = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


@claim("superposition-wide", "N", quick=5, full=32)
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

    def trained(output_act: Activation) -> dict[float, Stacked]:
        return {
            p: lab.train_sparse(20, 5, p, n_models, steps=2_000, batch_size=512, output_act=output_act, decay=0.7).W_E
            for p in WIDE
        }

    return judge_rise(trained("relu"), trained("identity"), lab.untrained_directions(20, 5, n_models))


def judge_rise(relu: ByDensity, linear: ByDensity, untrained: Stacked) -> Verdict:
    """Do sparser features get more directions, and linear models only those of PCA?"""
    densities = sorted(relu, reverse=True)

    def rises(weights: ByDensity, learned: float, order: Sequence[float] = densities) -> np.ndarray:
        counts = np.stack([geometry.represented(weights[p], learned).sum(1).numpy() for p in order])
        return (np.diff(counts, axis=0) >= 0).all(0) & (counts[-1] > counts[0])

    def parts(nonlinear: ByDensity, plain: ByDensity, learned: float = LEARNED) -> dict[str, np.ndarray]:
        pca = np.array([is_top_of_pca(w, learned) for W in plain.values() for w in W])
        return {"never falls": rises(nonlinear, learned), "linear is PCA": pca}

    shuffled = np.random.default_rng(0).permutation(densities).tolist()
    counts, flat = (
        {p: lab.mean(geometry.represented(weights[p]).sum(1)) for p in densities} for weights in (relu, linear)
    )
    still = dict.fromkeys(densities, untrained)
    return Verdict.of_shares(
        "The smaller share",
        parts(relu, linear),
        n_models=lab.total(relu, linear),
        controls=lab.at_cuts(lambda cut: lab.weakest(parts(relu, linear, cut)))
        | {
            "untrained": lab.weakest(parts(still, still)),
            "never falls, densities shuffled": rises(relu, LEARNED, shuffled).mean(),
        }
        | {f"features learned at p = {p:g}": count for p, count in counts.items()},
        detail=f"From p = {densities[0]:g} to {densities[-1]:g} the ReLU models learn {counts[densities[0]]:.1f} to "
        f"{counts[densities[-1]]:.1f} features on average, the linear ones {min(flat.values()):.1f} to "
        f"{max(flat.values()):.1f}.",
        figures={
            "Mean number of features learned against the feature probability.": lab.curves(
                {"ReLU": counts, "linear": flat}, "feature probability p = 1 - S", "features learned", log_x=True
            ),
            "Gram matrices of the first ReLU model at four densities, features by falling importance.": lab.grams(
                {f"p = {p:g}": relu[p][0] for p in densities[::2]}
            ),
        },
    )


@claim("phase-change", "N", quick=7, full=13, counts="points per side")
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


def train_diagram(
    n: int, densities: np.ndarray, importances: np.ndarray, output_act: Activation = "relu"
) -> np.ndarray:
    """Name of the arrangement of the best of four models at each point, (importance, density)."""
    names = []
    for importance in importances.tolist():
        for density in densities.tolist():
            weights = (*(1.0,) * (n - 1), importance)
            run = lab.train_sparse(n, n - 1, density, 4, steps=1_000, output_act=output_act, importance=weights)
            names.append(arrangement(run.W_E[int(run.final_loss.argmin())]))
    return np.array(names).reshape(len(importances), len(densities))


def arrangement(W: Float[Tensor, "feature hidden"]) -> str:
    """A trained model's place in the phase diagram, in the words of `theory.phase_losses`, or "neither"."""
    extra = len(W) - 1
    alive = set(geometry.represented(W).nonzero()[:, 0].tolist())
    pairs = [factor for factor in geometry.tegum_factors(W) if len(factor) == 2]
    if len(alive) == extra:
        return "first ignored" if extra in alive else "extra ignored"
    if len(alive) > extra and len(pairs) == 1:
        return "antipodal" if extra in pairs[0] else "others antipodal"
    return "neither"


def theory_costs(n: int, densities: np.ndarray, importances: np.ndarray) -> tuple[list[str], np.ndarray]:
    """All arrangements, and what each costs in closed form, (arrangement, importance, density)."""
    density, relative_importance = np.meshgrid(densities, importances)
    costs = theory.phase_losses(density, relative_importance, n)
    return list(costs), np.stack(list(costs.values()))


def theory_diagram(n: int, densities: np.ndarray, importances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Best arrangement in closed form and how many times its cost the second best costs, (importance, density)."""
    names, costs = theory_costs(n, densities, importances)
    best, second = np.sort(costs, axis=0)[:2]
    return np.array(names)[costs.argmin(0)], second / best


def judge_phases(
    trained: Mapping[int, np.ndarray], linear: np.ndarray, densities: np.ndarray, importances: np.ndarray
) -> Verdict:
    """Do trained arrangements, given as names by (importance, density), lie in theory's regions?

    `linear` is for n = 2 and a linear output.
    """
    on_paper = {n: theory_diagram(n, densities, importances) for n in trained}
    away = {n: margin >= OFF_BOUNDARY for n, (_, margin) in on_paper.items()}

    def parts(diagrams: Mapping[int, np.ndarray]) -> dict[str, np.ndarray]:
        return {f"n = {n}": (names == on_paper[n][0])[away[n]] for n, names in diagrams.items()}

    rng = np.random.default_rng(0)
    shuffled = {n: rng.permutation(names.ravel()).reshape(names.shape) for n, names in trained.items()}
    elsewhere = [
        f"n = {n}, p = {densities[j]:.2g}, importance {importances[i]:.2g}: {names[i, j]} instead of {best[i, j]} "
        f"({margin[i, j] - 1:.0%} apart)"
        for (n, names), (best, margin) in zip(trained.items(), on_paper.values(), strict=True)
        for i, j in np.argwhere((names != best) & away[n])
    ]
    return Verdict.of_shares(
        "The smaller share of points in theory's region",
        parts(trained),
        n_models=4 * sum(names.size for names in trained.values()),
        controls={
            "all points": lab.weakest({f"n = {n}": (names == on_paper[n][0]).ravel() for n, names in trained.items()}),
            "shuffled": lab.weakest(parts(shuffled)),
            "linear output, n = 2": lab.weakest(parts({2: linear})),
            "points away from boundaries": sum(mask.sum() for mask in away.values()),
        },
        theory=1.0,
        detail=f"Elsewhere: {'; '.join(elsewhere[:6])}{' ...' * (len(elsewhere) > 6)}."
        if elsewhere
        else "No point is elsewhere.",
        figures={
            f"{n} features in {n - 1} dimension{'s' * (n > 2)}: what the best of four trained models does, and the "
            "closed-form boundaries.": _phase_map(n, names, densities, importances)
            for n, names in trained.items()
        },
    )


def _phase_map(n: int, names: np.ndarray, densities: np.ndarray, importances: np.ndarray) -> "go.Figure":
    """Arrangements of trained models over the boundaries that theory draws between them."""
    fine = np.geomspace(densities[0], densities[-1], 60), np.geomspace(importances[0], importances[-1], 60)
    arrangements, costs = theory_costs(n, *fine)
    regions = [*arrangements, "neither"]
    return plots.phase_map(
        np.vectorize(regions.index)(names),
        costs,
        (densities, fine[0]),
        (importances, fine[1]),
        regions,
        "feature probability p = 1 - S",
        "relative importance of the last feature",
    )
