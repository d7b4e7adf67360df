"""Claims of "Pentagon vs Hexagon": polygons that features of equal importance take in two hidden dimensions.

Each claim trains, then hands plain arrays to a `judge_...` function: the deciding middle, which can be fed any world.
Settings of the document: importance 1, feature probability p = 0.057 (its "sparsity"; its norms only fit that way),
ReLU, tied weights, output bias; Adam at a constant 1e-3, batch 1,024, 10,000 steps, seeds from 0.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, landscape, plots, stats, theory
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import UNKNOWN, Interval, Verdict, above, below
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.models.forward import init_weights
from tms_hooks.run import Run
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

if TYPE_CHECKING:
    import plotly.graph_objects as go

P = 0.057
STEPS = 10_000
LEARNED = 0.5
POLYGONS = {4: "square", 5: "pentagon", 6: "pentagon", 7: "pentagon"}
"""What the document sees for each number of features."""
Stacked = Float[Tensor, "model _ hidden"]  # the number of features differs within one claim


@cache
def train_polygons(n_features: int, n_models: int, output_act: str = "relu", output_bias: bool = True) -> Run:
    """Models of the document's setting. Kept: several claims look at the same ones."""
    return train(
        ToyConfig(n_features=n_features, d_hidden=2, output_act=output_act, output_bias=output_bias),  # type: ignore[arg-type]
        SparseUniform(n_features=n_features, feature_probability=P),
        seeds=range(n_models),
        steps=STEPS,
        optimizer=Adam(lr=1e-3),
        record_every=STEPS // 100,
    )


def polygon_names(W: Stacked, learned: float = LEARNED) -> np.ndarray:
    """The polytope of each model."""
    return np.array([geometry.name_polytope(w, min_norm=learned) for w in W])


def typical_arrows(W: Stacked, names: np.ndarray) -> "go.Figure":
    """Feature directions of the first model of each of the most frequent shapes."""
    typical = plots.typical(W.numpy(), names.tolist())
    return plots.feature_arrows(np.stack(list(typical.values())), list(typical))


def exact_losses(run: Run) -> np.ndarray:
    """Expected loss of each model, without sampling."""
    weights = {name: w.double() for name, w in run.weights.items()}
    return np.array(
        [
            float(landscape.exact_loss({k: w[i] for k, w in weights.items()}, run.recipe.cfg, run.recipe.data))
            for i in range(len(run.W_E))
        ]
    )


@claim("polygons-by-n", "H", quick=30, full=100, needs=above(0.5))
def polygons_by_n(n_models: int) -> Verdict:
    """Four features make a square, five a pentagon, six and seven a pentagon with the rest ignored or overlapping.

    Statistic: share of models with the stated polygon; the smallest of the four n. The polygon is named from the
    distinct directions of the learned features (norm > 0.5), so features that overlap make one corner.
    Threshold: above 1/2, for each n ("most models").
    Size: 30 models for each n (quick), 100 (full).
    Controls: the same at learned > 0.3 and > 0.7; untrained weights; a linear output (n = 6), which cannot superpose.
    """
    runs = {n: train_polygons(n, n_models) for n in POLYGONS}
    untrained = {
        n: torch.stack([init_weights(run.recipe.cfg, seed)["W_E"] for seed in range(n_models)])
        for n, run in runs.items()
    }
    linear = train_polygons(6, n_models, output_act="identity").W_E
    return judge_polygons({n: run.W_E for n, run in runs.items()}, untrained, linear)


def judge_polygons(trained: Mapping[int, Stacked], untrained: Mapping[int, Stacked], linear: Stacked) -> Verdict:
    """The stated polygon's share for each number of features, and the smallest of them."""

    def weakest(weights: Mapping[int, Stacked], learned: float = LEARNED) -> stats.Weakest:
        counts = {
            f"n = {n}": (int((polygon_names(W, learned) == POLYGONS[n]).sum()), len(W)) for n, W in weights.items()
        }
        return stats.weakest_share(counts)

    found, names = weakest(trained), {n: polygon_names(W) for n, W in trained.items()}
    tables = {n: stats.census(list(names[n]), np.zeros(len(W)), "_") for n, W in trained.items()}
    seen = "; ".join(
        f"n = {n}: " + ", ".join(f"{row.share:.0%} {row.name}" for _, row in table.head(3).iterrows())
        for n, table in tables.items()
    )
    best = ", ".join(f"{theory.best_polygon(n, P)} for n = {n}" for n in trained)
    return Verdict(
        measured=f"The smallest share of models with the stated polygon ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=sum(len(W) for W in trained.values()),
        controls={
            "learned > 0.3": weakest(trained, 0.3).share,
            "learned > 0.7": weakest(trained, 0.7).share,
            "untrained": weakest(untrained).share,
            "linear output, n = 6": float((polygon_names(linear) == POLYGONS[6]).mean()),
        },
        detail=f"Seen: {seen}. Corners of the regular polygon of lowest expected loss at p = {P}: {best}.",
        figures=[
            (
                "Share of models in each geometry.",
                plots.grouped_shares({str(n): table for n, table in tables.items()}, "features n"),
            )
        ]
        + [
            (f"{n} features: the first model of each of the most frequent shapes.", typical_arrows(W, names[n]))
            for n, W in trained.items()
        ],
    )


@claim("pentagon-by-theory", "H", quick=50, full=200, needs=above(0.0))
def pentagon_by_theory(n_models: int) -> Verdict:
    """Five is the best polygon, however many features there are.

    Statistic: mean exact expected loss of trained hexagons, relative to that of trained pentagons, less 1, at n = 6.
    Threshold: above 0 (pentagons are better).
    Size: 50 models (quick), 200 (full).
    Controls: the corners of the best polygon by each closed form (the textbook argument; one active feature without and
    with bias; exact at this p for n = 6, 7, 8), the p where pentagon and hexagon cost the same, models trained without
    bias.
    """
    run = train_polygons(6, n_models)
    bare = train_polygons(6, n_models, output_bias=False)
    return judge_theory(polygon_names(run.W_E), exact_losses(run), polygon_names(bare.W_E))


def judge_theory(names: np.ndarray, losses: np.ndarray, names_without_bias: np.ndarray) -> Verdict:
    """How much more hexagons cost than pentagons, trained and in theory."""
    pentagons, hexagons = losses[names == "pentagon"], losses[names == "hexagon"]

    def difference(five: np.ndarray, six: np.ndarray) -> float:
        return float(six.mean() / five.mean() - 1)

    statistic, interval = _measure(difference, pentagons, hexagons)
    crossing = theory.polygon_crossing(6, 5, 6)
    corners = range(2, 11)
    arguments: dict[str, Callable[[int], float]] = {
        "textbook argument": theory.polygon_gain_nearest,
        "one active feature, no bias": lambda F: theory.polygon(F, bias=False).gain,
        "one active feature, bias": lambda F: theory.polygon(F).gain,
    }
    return Verdict(
        measured="The loss of trained hexagons, relative to trained pentagons, less 1,",
        statistic=statistic,
        interval=interval,
        n_models=len(pentagons) + len(hexagons),
        controls={
            **{f"best corners, {argument}": float(min(corners, key=gain)) for argument, gain in arguments.items()},
            **{f"best corners at p = {P}, n = {n}": float(theory.best_polygon(n, P)) for n in (6, 7, 8)},
            "p where pentagon and hexagon cost the same": crossing,
            "share of hexagons, trained with bias": float((names == "hexagon").mean()),
            "share of hexagons, trained without bias": float((names_without_bias == "hexagon").mean()),
            "share of pentagons, trained without bias": float((names_without_bias == "pentagon").mean()),
        },
        theory=theory.polygon_loss(6, P, 6) / theory.polygon_loss(6, P, 5) - 1,
        detail=f"{len(pentagons)} models are pentagons and {len(hexagons)} hexagons. The exact losses of the two "
        f"regular polygons cross at p = {crossing:.3g}: sparser than that the hexagon costs less, denser the pentagon.",
        figures=[
            (
                "Exact expected loss of trained models.",
                plots.distributions(
                    {"pentagon": pentagons, "hexagon": hexagons},
                    "expected loss",
                    {"pentagon": plots.PALETTE[0], "hexagon": plots.PALETTE[1]},
                ),
            )
        ]
        if len(pentagons) and len(hexagons)
        else (),
    )


@claim("hexagon-norms", "H", quick=50, full=200, needs=below(0.05))
def hexagon_norms(n_models: int) -> Verdict:
    """The Frobenius norm of W is near 3 in hexagons and near 2.5 in pentagons.

    Statistic: relative deviation of the mean norm of hexagons from 3, or of pentagons from 2.5, the larger.
    Threshold: below 0.05 ("near").
    Size: 50 models (quick), 200 (full).
    Controls: the share of models beyond sqrt(5), which the document calls the theoretical limit; the norms of the best
    regular polygons at this p, and how far the trained means are from them; learned > 0.3 and > 0.7.
    """
    return judge_norms(train_polygons(6, n_models).W_E)


def judge_norms(W: Stacked) -> Verdict:
    """Mean norms of pentagons and hexagons against the document's and the theory's."""
    norms = W.double().norm(dim=(-2, -1)).numpy()
    claimed, ideal = {"pentagon": 2.5, "hexagon": 3.0}, {"pentagon": _ideal_norm(5), "hexagon": _ideal_norm(6)}

    def deviation(five: np.ndarray, six: np.ndarray, norm: Mapping[str, float] = claimed) -> float:
        return float(max(abs(five.mean() / norm["pentagon"] - 1), abs(six.mean() / norm["hexagon"] - 1)))

    def split(learned: float = LEARNED) -> list[np.ndarray]:
        names = polygon_names(W, learned)
        return [norms[names == "pentagon"], norms[names == "hexagon"]]

    five, six = split()
    statistic, interval = _measure(deviation, five, six)
    at = {f"learned > {cut}": _measure(deviation, *split(cut))[0] for cut in (0.3, 0.7)}
    means = {"mean norm of pentagons": _mean(five), "mean norm of hexagons": _mean(six)}
    return Verdict(
        measured="The larger relative deviation of the mean norms",
        statistic=statistic,
        interval=interval,
        n_models=len(five) + len(six),
        controls=at
        | means
        | {
            "norm of the best regular pentagon": ideal["pentagon"],
            "norm of the best regular hexagon": ideal["hexagon"],
            "deviation from the best regular polygons": _measure(lambda a, b: deviation(a, b, ideal), five, six)[0],
            "share of models beyond sqrt(5)": float((norms > 5**0.5).mean()),
        },
        theory=max(abs(ideal[name] / claimed[name] - 1) for name in claimed),
        detail=f"Pentagons have {_mean(five):.3f} (best regular one {ideal['pentagon']:.3f}), hexagons "
        f"{_mean(six):.3f} ({ideal['hexagon']:.3f}); {(norms > 5**0.5).mean():.0%} of all models exceed sqrt(5).",
        figures=[
            (
                "Frobenius norm of trained models.",
                plots.distributions(
                    {"pentagon": five, "hexagon": six},
                    "||W||",
                    {"pentagon": plots.PALETTE[0], "hexagon": plots.PALETTE[1]},
                ),
            ),
            ("The first model of each of the most frequent shapes.", typical_arrows(W, polygon_names(W))),
        ]
        if len(five) and len(six)
        else (),
    )


def _ideal_norm(F: int) -> float:
    return float(F**0.5 * theory.polygons.finite_polygon(F, P)[0])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _measure(statistic: Callable[..., float], *samples: np.ndarray) -> tuple[float, Interval]:
    """A statistic with its bootstrap interval; unknown where a sample has fewer than two models."""
    if min(map(len, samples)) < 2:
        return float("nan"), UNKNOWN
    return statistic(*samples), stats.bootstrap(statistic, *samples)
