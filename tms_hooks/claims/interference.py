"""Claims of "Superposition and bottlenecks" about interference: in many dimensions, and with two active features.

Tied weights, ReLU, no bias, the whole data set in every step: Adam at 0.01 with cosine decay over 5,000 steps, seeds
from 0. As for one-hot features "learned" means a norm above 0.1, and features within 5 degrees are one direction.
"""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, stats, theory
from tms_hooks.claims import lab
from tms_hooks.claims.bottlenecks import CUTS, LEARNED, STEPS, train_onehot, untrained, with_directions
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import UNKNOWN, Verdict, above, below
from tms_hooks.config import ToyConfig
from tms_hooks.data import KHot, SparseUniform
from tms_hooks.linalg import unit
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

if TYPE_CHECKING:
    import plotly.graph_objects as go

WIDTHS = (2, 4, 8, 16)
FEATURES_A_DIMENSION = 4
Stacked = Float[Tensor, "_ _ _"]  # (model, feature, hidden), of any sizes within one claim


class Interferences(NamedTuple):
    """Of all pairs of directions, one entry a model with at least two."""

    mean: np.ndarray
    rms: np.ndarray
    maximum: np.ndarray


def unit_directions(W: Float[Tensor, "_ _"], learned: float = LEARNED) -> Float[Tensor, "_ _"]:
    """One unit vector for each distinct direction of a model, the mean one of its features."""
    features, groups = unit(W), geometry.directions(W, learned)
    return unit(torch.stack([features[group].mean(0) for group in groups]) if groups else features[:0])


def interferences(W: Stacked, learned: float = LEARNED) -> Interferences:
    """Mean, root mean square and maximum |cosine| between the distinct directions of each model."""
    found = []
    for own in (unit_directions(w, learned) for w in W):
        if len(own) > 1:
            rows, columns = torch.triu_indices(len(own), len(own), 1)
            pairs = (own @ own.mT).abs()[rows, columns]
            found.append((float(pairs.mean()), float(pairs.square().mean().sqrt()), float(pairs.max())))
    return Interferences(*np.array(found).reshape(-1, 3).T)


@cache
def train_sparse_like(d_hidden: int, n_models: int) -> Stacked:
    """The setting of Elhage et al. 2022: sparse uniform features, p = 0.01, with an output bias."""
    n = FEATURES_A_DIMENSION * d_hidden
    return train(
        ToyConfig(n_features=n, d_hidden=d_hidden),
        SparseUniform(n_features=n, feature_probability=0.01),
        seeds=range(n_models),
        steps=2_000,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        record_every=2_000,
    ).W_E


@claim("interference-mean-vs-max", "B", quick=3, full=12, needs=below(-0.75))
def interference_mean_vs_max(n_models: int) -> Verdict:
    """Trained features form tegum products, where mean interference falls as 1/m, not as the 1/sqrt(m) of a sphere.

    Statistic: slope of log mean interference on log m, m = 2, 4, 8 and 16, n = 4 m one-hot features; interference is
    the |cosine| of two distinct directions of a model. The document gives -1 for a long tegum product of polytopes of
    fixed size and -1/2 for directions spread over the sphere, and takes it that features go for sparse interference.
    Threshold: below -3/4, half-way.
    Size: 3 models for each m (quick), 12 (full).
    Controls: the slope of as many random directions, of a tegum product of pentagons (closed form), and of the root
    mean square of either kind of number; the maximum at m = 16 of trained, random and tegum directions and the least
    one possible (Welch); factors and directions of a trained model at m = 16; learned > 0.05 and > 0.2; the slope for
    sparse uniform features (p = 0.01, bias, m = 2, 4 and 8, norm > 0.5).
    """
    return judge_interference(
        {m: train_onehot(FEATURES_A_DIMENSION * m, m, n_models, "relu").W_E for m in WIDTHS},
        {m: train_sparse_like(m, n_models) for m in WIDTHS[:-1]},
    )


def slope(values: Mapping[int, np.ndarray]) -> float:
    """Least-squares slope of log mean value on log m; NaN where an m has no values."""
    return float(np.polyfit(np.log(list(values)), np.log([_mean(v) for v in values.values()]), 1)[0])


def random_like(W: Stacked) -> Stacked:
    """As many random directions as each model has learned; the others are zero."""
    made = torch.zeros_like(W)
    for i, count in enumerate(geometry.count_directions(W, LEARNED).tolist()):
        generator = torch.Generator().manual_seed(i)
        made[i, :count] = unit(torch.randn(count, W.shape[-1], generator=generator, dtype=torch.float64))
    return made


def judge_interference(trained: Mapping[int, Stacked], sparse: Mapping[int, Stacked]) -> Verdict:
    """Does the mean interference of trained directions fall like a tegum product's or like a sphere's?"""
    found = {m: interferences(W) for m, W in trained.items()}
    chance = {m: interferences(random_like(W)) for m, W in trained.items()}
    pentagons = {m: theory.tegum_overlaps(geometry.ideal_polytopes(5)["pentagon"], m) for m in trained}
    counts = {m: float(geometry.count_directions(W, LEARNED).double().mean()) for m, W in trained.items()}
    measurable = all(len(f.mean) > 1 for f in found.values())
    widest = max(trained)
    factors = [len(geometry.tegum_factors(w, LEARNED)) for w in trained[widest]]
    means = {
        "trained": {m: f.mean for m, f in found.items()},
        "random directions": {m: f.mean for m, f in chance.items()},
        "tegum product of pentagons": {m: np.array([p.mean]) for m, p in pentagons.items()},
    }
    maxima = {
        "trained": {m: f.maximum for m, f in found.items()},
        "random directions": {m: f.maximum for m, f in chance.items()},
        "tegum product of pentagons": {m: np.array([p.maximum]) for m, p in pentagons.items()},
        "least possible": {m: np.array([theory.welch_bound(max(round(n), 2), m)]) for m, n in counts.items()},
    }
    return Verdict(
        measured="The slope of log mean interference on log m",
        statistic=slope(means["trained"]) if measurable else float("nan"),
        interval=stats.bootstrap(lambda *s: slope(dict(zip(found, s, strict=True))), *means["trained"].values())
        if measurable
        else UNKNOWN,
        n_models=sum(map(len, trained.values())),
        controls={f"slope, {name}": slope(by_m) for name, by_m in means.items() if name != "trained"}
        | {
            "slope of root mean square, trained": slope({m: f.rms for m, f in found.items()}),
            "slope of root mean square, random directions": slope({m: f.rms for m, f in chance.items()}),
        }
        | {f"maximum at m = {widest}, {name}": _mean(by_m[widest]) for name, by_m in maxima.items()}
        | {f"directions at m = {widest}": counts[widest], f"tegum factors at m = {widest}": float(np.mean(factors))}
        | {f"slope at learned > {c}": slope({m: interferences(W, c).mean for m, W in trained.items()}) for c in CUTS}
        | {"slope, sparse uniform features": slope({m: interferences(W, 0.5).mean for m, W in sparse.items()})},
        detail="Directions learned: " + ", ".join(f"{n:.3g} at m = {m}" for m, n in counts.items()) + ".",
        figures=[
            (
                f"{name} interference between directions against the number of dimensions.",
                _against_width(lines, f"{name.lower()} |cosine|"),
            )
            for name, lines in (("Mean", means), ("Maximum", maxima))
        ],
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _against_width(lines: Mapping[str, Mapping[int, np.ndarray]], ylabel: str) -> "go.Figure":
    fig = plots.curves(
        {name: (np.array(list(by_m)), np.array([_mean(v) for v in by_m.values()])) for name, by_m in lines.items()},
        "hidden dimensions m",
        ylabel,
        log_x=True,
    )
    return fig.update_xaxes(tickvals=list(next(iter(lines.values())))).update_yaxes(type="log")


@cache
def train_active(k: int, n_features: int, d_hidden: int, n_models: int) -> Stacked:
    """As `train_onehot`, with k active features, all n choose k sets of them."""
    return train(
        ToyConfig(n_features=n_features, d_hidden=d_hidden, output_bias=False),
        KHot(n_features=n_features, k=k),
        seeds=range(n_models),
        steps=STEPS,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        record_every=STEPS,
    ).W_E


@claim("two-active", "B", quick=10, full=40, needs=above(0.5))
def two_active(n_models: int) -> Verdict:
    """The five directions of one-hot features in two dimensions survive when two features are active at once.

    Statistic: share of models with five distinct directions among learned features (norm > 0.1) when all pairs of
    features are the data set; the smallest over n = 5, 8, 12 and 20.
    Threshold: above 1/2, for each n.
    Size: 10 models for each n (quick), 40 (full).
    Controls: one active feature, the same seeds; the share at each n; three active at n = 8; untrained weights; learned
    > 0.05 and > 0.2; the mean number of directions and of learned features, with one and with two active; nine
    directions in three dimensions, n = 12, with one and with two active.
    """
    sizes = (5, 8, 12, 20)
    return judge_active(
        {n: train_active(2, n, 2, n_models) for n in sizes},
        {n: train_onehot(n, 2, n_models, "relu").W_E for n in sizes},
        {
            "three active": {8: train_active(3, 8, 2, n_models)},
            "untrained": {n: untrained(n, 2, n_models) for n in sizes},
        },
        {"one": train_onehot(12, 3, n_models, "relu").W_E, "two": train_active(2, 12, 3, n_models)},
    )


def judge_active(
    two: Mapping[int, Stacked],
    one: Mapping[int, Stacked],
    others: Mapping[str, Mapping[int, Stacked]],
    solids: Mapping[str, Stacked],
) -> Verdict:
    """Do models still learn five directions?"""
    counts = {
        name: {n: geometry.count_directions(W, LEARNED) for n, W in weights.items()}
        for name, weights in (("one", one), ("two", two))
    }
    learned = {n: geometry.represented(W, LEARNED).sum(1).double() for n, W in two.items()}
    return Verdict.of_shares(
        "The smallest share of models with five directions",
        with_directions(two, 5),
        n_models=lab.total(two),
        controls={"one active": lab.weakest(with_directions(one, 5))}
        | {f"n = {n}": float(d.eq(5).double().mean()) for n, d in counts["two"].items()}
        | {name: lab.weakest(with_directions(weights, 5)) for name, weights in others.items()}
        | lab.at_cuts(lambda cut: lab.weakest(with_directions(two, 5, cut)), CUTS)
        | {
            f"directions, {k} active, n = {n}": float(d.double().mean())
            for k, by in counts.items()
            for n, d in by.items()
        }
        | {f"learned features, two active, n = {n}": float(value.mean()) for n, value in learned.items()}
        | {
            f"nine directions in three dimensions, {k} active": float(
                geometry.count_directions(W, LEARNED).eq(9).double().mean()
            )
            for k, W in solids.items()
        },
        detail="Number of directions learned with two active: "
        + "; ".join(
            f"n = {n}: " + ", ".join(f"{share:.0%} {k}" for k, share in enumerate(np.bincount(d) / len(d)) if share)
            for n, d in counts["two"].items()
        )
        + ".",
        figures=[
            (
                "Mean number of directions learned against the number of features.",
                plots.curves(
                    {
                        f"{k} active": (np.array(list(by)), np.array([float(d.double().mean()) for d in by.values()]))
                        for k, by in counts.items()
                    },
                    "features",
                    "directions",
                ),
            ),
            (
                "The first model of each n, two active features; the dotted circle has radius 1.",
                plots.feature_arrows(_padded([W[0] for W in two.values()]), [f"n = {n}" for n in two]),
            ),
        ],
    )


def _padded(models: list[Float[Tensor, "_ 2"]]) -> np.ndarray:
    """Models of different numbers of features in one array, zeros where there are none."""
    return torch.nn.utils.rnn.pad_sequence(models, batch_first=True).numpy()
