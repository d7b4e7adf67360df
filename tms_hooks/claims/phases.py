"""Claims about sparsity and importance: how many features are represented, how orthogonal, and the phase diagram.

Sparse uniform features, ReLU, tied, output bias (Elhage et al. 2022); the usual recipe.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tms_hooks import geometry, plots, theory
from tms_hooks.claims import Verdict, claim, lab, seeds, share, statistic
from tms_hooks.claims.lab import LEARNED, ByDensity, Stacked
from tms_hooks.claims.toy_models import is_top_of_pca
from tms_hooks.config import Activation, ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.linalg import random_directions
from tms_hooks.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

OFF_BOUNDARY = 1.1
"""A point of the phase diagram is away from boundaries if the second best arrangement costs this times the best."""
WIDE = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
BETWEEN = (0.3, 0.7)
"""Norms of a feature that is neither ignored nor learned."""
SIDE, FITS = 7, 10
"""Points on a side of the phase diagram, and models at each of which the one of lowest loss counts."""


def train_wide(p: float, n_models: int, output_act: Activation = "relu") -> Run:
    """The paper's models with twenty features in five dimensions, of importance 0.7^i."""
    batch = 512 if p >= 0.1 else 2_048  # rows that hold something are rare at the sparse end
    return lab.train_sparse(20, 5, p, n_models, steps=6_000, batch_size=batch, output_act=output_act, decay=0.7)


@claim("superposition-wide", "N", quick=8, full=32, seconds=31)
def superposition_wide(n_models: int) -> Verdict:
    """The sparser the features, the more of them are represented; a linear model never represents more than PCA does.

    The setting of the paper's figure: n = 20, m = 5, importance 0.7^i. Learned: norm > 0.5.

    Part "linear": "the linear model always learns the top m most important features, analogous to learning the top
    principal components" (Elhage et al. 2022).
    Statistic: the share of models with a linear output, over all densities, that have learned the five most important
    features and no other, with all |cosines| below 0.1.
    Threshold: above 1/2.
    Null: untrained models.

    Part "dense": "The ReLU output model behaves the same on dense features" (Elhage et al. 2022).
    Statistic: the same share of ReLU models at p = 1.
    Threshold: above 1/2.
    Null: untrained models.

    Part "superposition": "the model learns more features than hidden dimensions (neurons). These features are
    presumably sparse".
    Statistic: the mean number of features learned at p = 0.001 less five, the number of dimensions.
    Threshold: above 0.
    Null: models with a linear output.

    Part "sparser, more": "the number of extra features increases as we increase sparsity" (Elhage et al. 2022).
    Statistic: the mean number of features learned at a density less that at the next denser one; the smallest of six.
    Threshold: above 0.
    Null: none, since the statistic is a difference between densities.

    Size: 8 seeds (quick), 32 (full), at each of seven densities p from 1 to 0.001. 6,000 steps, batch 2,048, from p =
    0.1 up 512.
    Controls: features learned at each density, also by the model of lowest loss (stratified by the number of active
    features); the smallest rise at learned > 0.3 and > 0.7.
    """
    relu = {p: train_wide(p, n_models) for p in WIDE}
    return judge_rise(
        {p: run.W_E for p, run in relu.items()},
        {p: int(lab.expected_losses(run).argmin()) for p, run in relu.items()},
        {p: train_wide(p, n_models, "identity").W_E for p in WIDE},
        lab.untrained_directions(20, 5, n_models),
    )


def judge_rise(relu: ByDensity, best: Mapping[float, int], linear: ByDensity, untrained: Stacked) -> Verdict:
    """Do sparser features get more directions, and linear models only those of PCA?

    `best` is the model of lowest loss at each density.
    """
    densities = sorted(relu, reverse=True)
    m = untrained.shape[-1]

    def counts(weights: ByDensity, learned: float = LEARNED) -> Int[np.ndarray, "model density"]:
        return np.stack([geometry.represented(weights[p], learned).sum(1).numpy() for p in densities], axis=1)

    def least_rise(found: np.ndarray) -> float:
        return float(np.diff(found.mean(0)).min())

    pca = np.array([is_top_of_pca(w) for W in linear.values() for w in W])
    dense = np.array([is_top_of_pca(w) for w in relu[densities[0]]])
    null = np.array([is_top_of_pca(w, 0.0) for w in untrained])
    seen, flat = counts(relu), counts(linear)
    optimal = np.array([seen[best[p], j] for j, p in enumerate(densities)])
    return Verdict(
        parts={
            "linear": share("The share of linear models that are the top of PCA", pca, null=null),
            "dense": share(
                "The share of ReLU models at p = 1 that are the top of PCA",
                dense,
                null=null,
                best=float(dense[best[densities[0]]]),
            ),
            "superposition": statistic(
                "The number of features learned beyond the dimensions at the sparsest density",
                lambda last: float(last.mean() - m),
                seen[:, -1],
                null=(flat[:, -1],),
                best=float(optimal[-1] - m),
            ),
            "sparser, more": statistic(
                "The smallest rise of the number of features learned",
                least_rise,
                seen,
                best=float(np.diff(optimal).min()),
            ),
        },
        n_models=lab.total(relu, linear),
        controls={f"features learned at p = {p:g}": seen[:, j].mean() for j, p in enumerate(densities)}
        | {f"the same, lowest loss at p = {p:g}": optimal[j] for j, p in enumerate(densities)}
        | lab.at_cuts(lambda cut: least_rise(counts(relu, cut)), prefix="smallest rise, "),
        detail=f"From p = {densities[0]:g} to {densities[-1]:g} the ReLU models learn {seen[:, 0].mean():.1f} to "
        f"{seen[:, -1].mean():.1f} features on average, the linear ones {flat.mean(0).min():.1f} to "
        f"{flat.mean(0).max():.1f}.",
        figures={
            "Mean number of features learned against the feature probability.": lab.curves(
                {
                    "ReLU": dict(zip(densities, seen.mean(0), strict=True)),
                    "ReLU, the model of lowest loss": dict(zip(densities, optimal, strict=True)),
                    "linear": dict(zip(densities, flat.mean(0), strict=True)),
                },
                "feature probability p = 1 - S",
                "features learned",
                log_x=True,
            ),
            "Gram matrices of the ReLU model of lowest loss at four densities, features by falling importance.": (
                lab.grams({f"p = {p:g}": relu[p][best[p]] for p in densities[::2]})
            ),
        },
    )


@claim("important-and-orthogonal", "N", quick=8, full=32)
def important_and_orthogonal(n_models: int) -> Verdict:
    """The more important a feature is, the more orthogonal it is to all others.

    Models of superposition-wide: n = 20, m = 5, importance 0.7^i. How far a feature is from orthogonal to all others is
    its interference, sum_{j != i} (W_i / |W_i| . W_j)^2, that of the others along its direction.

    Part "more orthogonal": "the more important it is, the more orthogonal they should be to minimize interference?"
    Statistic: the rank correlation of importance with interference over the learned features (norm > 0.5) of a model,
    with its sign turned; the mean over p = 0.3, 0.1 and 0.03 of a seed, then over seeds.
    Threshold: above 0.
    Null: the same norms in random directions, in which a longer feature disturbs others more than they do it.

    Part "it starts with the others": "It starts with less important features, and gradually affects the most important
    ones." (Elhage et al. 2022)
    Statistic: the interference of the five most important features less that of the other learned ones, at p = 0.3,
    where superposition begins; mean over seeds that have learned others.
    Threshold: below 0.
    Null: the same norms in random directions.

    Beyond the source "at every density":
    Statistic: the rank correlation at p = 0.3, 0.1, 0.03 and 0.01, mean over seeds; the smallest of the four.
    Threshold: above 0.
    Null: the same norms in random directions.

    Size: 8 seeds (quick), 32 (full), at each of four densities. 6,000 steps, batch 2,048, from p =
    0.1 up 512.
    Controls: the rank correlation at each density; the same of importance with norm; learned > 0.3 and > 0.7.
    """
    runs = {p: train_wide(p, n_models) for p in (0.3, 0.1, 0.03, 0.01)}
    best = {p: int(lab.expected_losses(run).argmin()) for p, run in runs.items()}
    return judge_importance({p: run.W_E for p, run in runs.items()}, best)


def judge_importance(trained: ByDensity, best: Mapping[float, int]) -> Verdict:
    """Do important features, the first, have less of the others along them?"""
    first, *_ = densities = sorted(trained, reverse=True)
    at_random = {p: random_directions(W, seed=seeds.first() + j) for j, (p, W) in enumerate(trained.items())}
    found, null = (np.stack([orthogonality(weights[p]) for p in densities], axis=1) for weights in (trained, at_random))
    middle = [j for j, p in enumerate(densities) if p >= 0.03]
    gaps, null_gaps = (first_less_rest(weights[first]) for weights in (trained, at_random))
    kept = np.isfinite(gaps)
    best_gap = first_less_rest(trained[first][best[first], None])[0]
    optimal = [orthogonality(trained[p][best[p], None])[0] for p in densities]

    def over(columns: list[int]) -> Callable[[np.ndarray], float]:
        return lambda rows: float(rows[:, columns].mean())

    return Verdict(
        parts={
            "more orthogonal": statistic(
                "The rank correlation of importance with orthogonality",
                over(middle),
                found,
                null=(null,),
                best=float(np.mean([optimal[j] for j in middle])),
            ),
            "it starts with the others": statistic(
                f"The interference of the first five features less that of the others at p = {first:g}",
                np.mean,
                gaps[kept],
                null=(null_gaps[np.isfinite(null_gaps)],),
                best=None if np.isnan(best_gap) else float(best_gap),
            ),
            "at every density": statistic(
                "The rank correlation at the density where it is smallest",
                lambda rows: float(rows.mean(0).min()),
                found,
                null=(null,),
                best=float(min(optimal)),
            ),
        },
        n_models=lab.total(trained),
        controls={f"rank correlation at p = {p:g}": found[:, j].mean() for j, p in enumerate(densities)}
        | {f"the same, random directions, p = {p:g}": null[:, j].mean() for j, p in enumerate(densities)}
        | {f"of importance with norm, p = {p:g}": _norm_ranks(trained[p]).mean() for p in densities}
        | lab.at_cuts(lambda cut: np.mean([orthogonality(trained[p], cut).mean() for p in densities])),
        detail=f"{kept.sum()} of {len(kept)} models have learned more than five features at p = {first:g}.",
        figures={
            "Norms of the features of the model of lowest loss at each density, by falling importance; the color is "
            "interference.": plots.norm_bars(
                np.stack([geometry.feature_norms(trained[p][best[p]]).numpy() for p in densities]),
                np.stack([geometry.interference(trained[p][best[p]]).numpy() for p in densities]),
                [f"p = {p:g}" for p in densities],
            ),
            "Which features of the model of lowest loss interfere: edges are |W_i . W_j|, tegum factors named.": (
                plots.interference_graphs({f"p = {p:g}": trained[p][best[p]].numpy() for p in densities[:3]})
            ),
        },
    )


def orthogonality(W: Stacked, learned: float = LEARNED) -> np.ndarray:
    """Rank correlation of importance with how little interference a learned feature has, of each model."""
    spread, alive = geometry.interference(W.double()), geometry.represented(W, learned)
    return np.array(
        [lab.rank_correlation(np.arange(int(a.sum())), s[a].numpy()) for s, a in zip(spread, alive, strict=True)]
    )


def _norm_ranks(W: Stacked) -> np.ndarray:
    return np.array([lab.rank_correlation(-np.arange(len(w)), w.norm(dim=1).numpy()) for w in W])


def first_less_rest(W: Stacked) -> np.ndarray:
    """Mean interference of the first m features less that of the other learned ones; NaN if there are none."""
    spread, alive = geometry.interference(W.double()), geometry.represented(W)
    first = torch.arange(W.shape[1]) < W.shape[2]
    return np.array([float(s[a & first].mean() - s[a & ~first].mean()) for s, a in zip(spread, alive, strict=True)])


@claim("phase-change", "N", quick=3, full=8, counts="diagrams")
def phase_change(n_diagrams: int) -> Verdict:
    """An extra feature is ignored, dedicated or superposed, in regions that meet at the closed-form boundaries.

    Two phase diagrams (density, relative importance of the last feature), n = 2 in one dimension and n = 3 in two, of 7
    by 7 points: densities 0.01 to 1 and importances 0.1 to 10, evenly spaced on log scales. They are drawn several
    times with other seeds; at each point the model of lowest loss among 10 counts, stratified by the number of active
    features.

    Part "where theory says": "there appears to be a real phase change, observed in both the empirical and theoretical
    diagrams" (Elhage et al. 2022).
    Statistic: the share of points at which the model has the arrangement of lowest closed-form loss
    (`theory.phase_losses`), among those where the second best costs at least 10 % more; the smaller of the two
    diagrams; mean over repetitions.
    Threshold: above 0.9.
    Null: the arrangements of each diagram shuffled among its points.

    Part "sharp": "The transitions between these three outcomes seem sharp." (Elhage et al. 2022)
    Statistic: the share of points, of both diagrams, at which some feature is neither ignored nor learned, its norm
    between 0.3 and 0.7; mean over repetitions.
    Threshold: below 0.1.
    Null: 0.4, what norms that are uniform from 0 to 1 would have for one feature.

    Size: 3 diagrams of either kind (quick), 8 diagrams (full): 7,840 models. 1,000 steps, batch 512.
    Controls: the share of points in theory's region for either diagram, and of all points, also those near boundaries;
    of single models, not the best of ten; with a linear output (n = 2), which cannot superpose.
    """
    axes = np.geomspace(0.01, 1, SIDE), np.geomspace(0.1, 10, SIDE)
    diagrams = {n: train_diagrams(n, *axes, n_diagrams) for n in (2, 3)}
    return judge_phases(diagrams, train_diagrams(2, *axes, 1, "identity"), *axes)


Diagrams = tuple[
    Float[np.ndarray, "diagram fit importance density"], Float[Tensor, "diagram fit importance density _ _"]
]
"""Losses and directions of all models."""


def train_diagrams(
    n: int, densities: np.ndarray, importances: np.ndarray, n_diagrams: int, output_act: Activation = "relu"
) -> Diagrams:
    """Models at each point of several diagrams, a few at each."""
    cfg = ToyConfig(n_features=n, d_hidden=n - 1, output_act=output_act)
    losses, weights = [], []
    for density in densities.tolist():
        data = SparseUniform(n_features=n, feature_probability=density)
        for importance in importances.tolist():
            run = lab.train_toys(
                cfg, data, n_diagrams * FITS, steps=1_000, batch_size=512, importance=(*(1.0,) * (n - 1), importance)
            )
            losses.append(lab.stratified_losses(run, rows=1_024))
            weights.append(run.W_E)
    at = (len(densities), len(importances), n_diagrams, FITS)
    loss = np.stack(losses).reshape(at).transpose(2, 3, 1, 0)
    W = torch.stack(weights).reshape(*at, n, n - 1).permute(2, 3, 1, 0, 4, 5)
    return loss, W


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


def arrangements(W: Float[Tensor, "*point feature hidden"]) -> np.ndarray:
    """That of each model."""
    return np.array([arrangement(w) for w in W.reshape(-1, *W.shape[-2:])]).reshape(W.shape[:-2])


def lowest(diagrams: Diagrams) -> Float[Tensor, "diagram importance density _ _"]:
    """The model of lowest loss at each point."""
    loss, W = diagrams
    chosen = torch.from_numpy(loss.argmin(1))[:, None, ..., None, None].expand(-1, 1, *W.shape[2:])
    return W.gather(1, chosen)[:, 0]


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
    diagrams: Mapping[int, Diagrams], linear: Diagrams, densities: np.ndarray, importances: np.ndarray
) -> Verdict:
    """Do trained arrangements lie in theory's regions, and change abruptly? `linear` is for n = 2."""
    on_paper = {n: theory_diagram(n, densities, importances) for n in diagrams}
    away = {n: margin >= OFF_BOUNDARY for n, (_, margin) in on_paper.items()}
    best = {n: lowest(each) for n, each in diagrams.items()}
    names = {n: arrangements(W) for n, W in best.items()}

    def right(found: Mapping[int, np.ndarray], everywhere: bool = False) -> Float[np.ndarray, "diagram n"]:
        """Share of points in theory's region, of each diagram and n."""
        where = {n: mask | everywhere for n, mask in away.items()}
        return np.stack([(each == on_paper[n][0])[:, where[n]].mean(1) for n, each in found.items()], axis=1)

    rng = np.random.default_rng(seeds.first())
    shuffled = {n: np.stack([rng.permutation(d.ravel()).reshape(d.shape) for d in each]) for n, each in names.items()}
    norms = {n: geometry.feature_norms(W).numpy() for n, W in best.items()}
    unclear = np.stack(
        [((norm > BETWEEN[0]) & (norm < BETWEEN[1])).any(-1).mean((1, 2)) for norm in norms.values()], axis=1
    ).mean(1)
    everything = {
        n: (loss.reshape(1, -1, *loss.shape[2:]), W.reshape(1, -1, *W.shape[2:])) for n, (loss, W) in diagrams.items()
    }
    optimal = right({n: arrangements(lowest(each)) for n, each in everything.items()})
    single = {n: arrangements(W[:, 0]) for n, (_, W) in diagrams.items()}
    plain = arrangements(lowest(linear))
    each = right(names).mean(0)
    elsewhere = [
        f"n = {n}, p = {densities[j]:.2g}, importance {importances[i]:.2g}: {found[0, i, j]} instead of {region[i, j]} "
        f"({margin[i, j] - 1:.0%} apart)"
        for (n, found), (region, margin) in zip(names.items(), on_paper.values(), strict=True)
        for i, j in np.argwhere((found[0] != region) & away[n])
    ]
    return Verdict(
        parts={
            "where theory says": statistic(
                "The share of points in theory's region, of the worse diagram",
                lambda shares: float(shares.mean(0).min()),
                right(names),
                null=(right(shuffled),),
                best=float(optimal.min()),
                unit="diagrams",
            ),
            "sharp": statistic(
                "The share of points with a feature between ignored and learned",
                np.mean,
                unclear,
                null=0.4,
                unit="diagrams",
            ),
        },
        n_models=sum(W[..., 0, 0].numel() for _, W in diagrams.values()),
        controls={f"n = {n}": value for n, value in zip(names, each, strict=True)}
        | {f"n = {n}, all points": v for n, v in zip(names, right(names, everywhere=True).mean(0), strict=True)}
        | {f"n = {n}, single models": v for n, v in zip(names, right(single).mean(0), strict=True)}
        | {
            "linear output, n = 2": (plain == on_paper[2][0])[:, away[2]].mean(),
            "points away from boundaries": sum(mask.sum() for mask in away.values()),
        },
        theory=1.0,
        detail=f"Elsewhere in the first diagrams: {'; '.join(elsewhere[:6])}{' ...' * (len(elsewhere) > 6)}."
        if elsewhere
        else "No point of the first diagrams is elsewhere.",
        figures={
            f"{n} features in {n - 1} dimension{'s' * (n > 2)}: what the best of ten trained models does, and the "
            "closed-form boundaries.": _phase_map(n, found[0], densities, importances)
            for n, found in names.items()
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
