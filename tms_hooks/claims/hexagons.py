"""Claims of "Pentagon vs Hexagon": polygons that features of equal importance take in two hidden dimensions, and with
which optimizers they take any.

Settings of the document: importance 1, feature probability p = 0.057 (its "sparsity"; its norms only fit that way),
ReLU, tied weights, output bias; Adam at a constant 1e-3, batch 1,024, 10,000 steps, seeds from 0.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tms_hooks import geometry, landscape, plots, stats, theory
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.lab import CUTS, LEARNED, Stacked
from tms_hooks.config import ToyConfig
from tms_hooks.run import Run
from tms_hooks.training.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop

if TYPE_CHECKING:
    import plotly.graph_objects as go

P = 0.057
STEPS = 10_000
DOCUMENT = Adam(lr=1e-3)
POLYGONS = {4: "square", 5: "pentagon", 6: "pentagon", 7: "pentagon"}
"""What the document sees for each number of features."""
ADAPTIVE = (Adam, AdamW, RMSprop)
CLAIMED_NORMS = (2.5, 3.0)
"""Of pentagons and of hexagons."""


def train_polygons(n_features: int, n_models: int, **changes: Any) -> Run:
    """Models of the document's setting, but for `changes`, which are those of `lab.train_sparse`."""
    usual: dict[str, Any] = {"optimizer": DOCUMENT, "record_every": 100} | changes
    return lab.train_sparse(n_features, 2, P, n_models, steps=STEPS, **usual)


def polygon_names(W: Stacked, learned: float = LEARNED) -> np.ndarray:
    """The polytope of each model."""
    return np.array([geometry.name_polytope(w, min_norm=learned) for w in W])


def typical_arrows(W: Stacked) -> "go.Figure":
    """Feature directions of the first model of each of the most frequent shapes."""
    typical = plots.typical(W.numpy(), polygon_names(W).tolist())
    return plots.feature_arrows(np.stack(list(typical.values())), list(typical))


def exact_losses(run: Run) -> np.ndarray:
    """Expected loss of each model, without sampling."""
    each = [{name: w[i].double() for name, w in run.weights.items()} for i in range(len(run.W_E))]
    return np.array([float(landscape.exact_loss(one, run.recipe.cfg, run.recipe.setting.data)) for one in each])


@claim("polygons-by-n", "H", quick=30, full=100)
def polygons_by_n(n_models: int) -> Verdict:
    """Four features make a square, five a pentagon, six and seven a pentagon with the rest ignored or overlapping.

    Statistic: share of models with the stated polygon; the smallest of the four n. The polygon is named from the
    distinct directions of the learned features (norm > 0.5), so features that overlap make one corner.
    Threshold: above 1/2, for each n ("most models").
    Size: 30 models for each n (quick), 100 (full).
    Controls: the same at learned > 0.3 and > 0.7; untrained weights; a linear output (n = 6), which cannot superpose.
    """
    return judge_polygons(
        {n: train_polygons(n, n_models).W_E for n in POLYGONS},
        {n: lab.untrained(ToyConfig(n_features=n, d_hidden=2), n_models)["W_E"] for n in POLYGONS},
        train_polygons(6, n_models, output_act="identity").W_E,
    )


def judge_polygons(trained: Mapping[int, Stacked], untrained: Mapping[int, Stacked], linear: Stacked) -> Verdict:
    """The stated polygon's share for each number of features, and the smallest of them."""

    def as_stated(weights: Mapping[int, Stacked], learned: float = LEARNED) -> dict[str, np.ndarray]:
        return {f"n = {n}": polygon_names(W, learned) == POLYGONS[n] for n, W in weights.items()}

    tables = {str(n): stats.census(polygon_names(W).tolist(), np.zeros(len(W)), "_") for n, W in trained.items()}
    seen = "; ".join(
        f"n = {n}: " + ", ".join(f"{row.share:.0%} {row.name}" for _, row in table.head(3).iterrows())
        for n, table in tables.items()
    )
    best = ", ".join(f"{theory.best_polygon(n, P)} for n = {n}" for n in trained)
    return Verdict.of_shares(
        "The smallest share of models with the stated polygon",
        as_stated(trained),
        n_models=lab.total(trained),
        controls=lab.at_cuts(lambda cut: lab.weakest(as_stated(trained, cut)))
        | {"untrained": lab.weakest(as_stated(untrained)), "linear output, n = 6": lab.weakest(as_stated({6: linear}))},
        detail=f"Seen: {seen}. Corners of the regular polygon of lowest expected loss at p = {P}: {best}.",
        figures={
            "Share of models in each geometry.": plots.grouped_shares(tables, "features n"),
            **{f"{n} features: the first model of each frequent shape.": typical_arrows(W) for n, W in trained.items()},
        },
    )


@claim("pentagon-by-theory", "H", quick=50, full=200)
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
    crossing = theory.polygon_crossing(6, 5, 6)
    gains: dict[str, Callable[[int], float]] = {
        "textbook argument": theory.polygon_gain_nearest,
        "one active feature, no bias": lambda F: theory.polygon(F, bias=False).gain,
        "one active feature, bias": lambda F: theory.polygon(F).gain,
    }
    return Verdict.of_statistic(
        "The loss of trained hexagons, relative to trained pentagons, less 1,",
        lambda five, six: float(six.mean() / five.mean() - 1),
        pentagons,
        hexagons,
        n_models=len(pentagons) + len(hexagons),
        controls={f"best corners, {argument}": min(range(2, 11), key=gain) for argument, gain in gains.items()}
        | {f"best corners at p = {P}, n = {n}": theory.best_polygon(n, P) for n in (6, 7, 8)}
        | {
            "p where pentagon and hexagon cost the same": crossing,
            "share of hexagons, trained with bias": (names == "hexagon").mean(),
            "share of hexagons, trained without bias": (names_without_bias == "hexagon").mean(),
            "share of pentagons, trained without bias": (names_without_bias == "pentagon").mean(),
        },
        theory=theory.polygon_loss(6, P, 6) / theory.polygon_loss(6, P, 5) - 1,
        detail=f"{len(pentagons)} models are pentagons and {len(hexagons)} hexagons. The exact losses of the two "
        f"regular polygons cross at p = {crossing:.3g}: sparser than that the hexagon costs less, denser the pentagon.",
        figures=lambda: {"Exact expected loss of trained models.": _both(pentagons, hexagons, "expected loss")},
    )


@claim("hexagon-norms", "H", quick=50, full=200)
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
    ideal = [float(F**0.5 * theory.finite_polygon(F, P)[0]) for F in (5, 6)]

    def split(learned: float = LEARNED) -> list[np.ndarray]:
        names = polygon_names(W, learned)
        return [norms[names == "pentagon"], norms[names == "hexagon"]]

    def deviation(*found: np.ndarray, near: Sequence[float] = CLAIMED_NORMS) -> float:
        if min(map(len, found)) < 2:
            return float("nan")
        return max(abs(float(each.mean()) / norm - 1) for each, norm in zip(found, near, strict=True))

    five, six = split()
    beyond = (norms > 5**0.5).mean()
    return Verdict.of_statistic(
        "The larger relative deviation of the mean norms",
        deviation,
        five,
        six,
        n_models=len(five) + len(six),
        controls=lab.at_cuts(lambda cut: deviation(*split(cut)))
        | {
            "mean norm of pentagons": lab.mean(five),
            "mean norm of hexagons": lab.mean(six),
            "norm of the best regular pentagon": ideal[0],
            "norm of the best regular hexagon": ideal[1],
            "deviation from the best regular polygons": deviation(five, six, near=ideal),
            "share of models beyond sqrt(5)": beyond,
        },
        theory=max(abs(best / norm - 1) for best, norm in zip(ideal, CLAIMED_NORMS, strict=True)),
        detail=f"Pentagons have {lab.mean(five):.3f} (best regular one {ideal[0]:.3f}), hexagons "
        f"{lab.mean(six):.3f} ({ideal[1]:.3f}); {beyond:.0%} of all models exceed sqrt(5).",
        figures=lambda: {
            "Frobenius norm of trained models.": _both(five, six, "||W||"),
            "The first model of each of the most frequent shapes.": typical_arrows(W),
        },
    )


def _both(pentagons: np.ndarray, hexagons: np.ndarray, what: str) -> "go.Figure":
    """A number of each trained model, pentagons beside hexagons."""
    groups = {"pentagon": pentagons, "hexagon": hexagons}
    return plots.distributions(groups, what, lab.colors(groups))


@claim("optimizer-geometry", "H", quick=6, full=20)
def optimizer_geometry(n_models: int) -> Verdict:
    """SGD fails to superpose whatever its settings; RMSprop, Adam and AdamW succeed.

    Statistic: the smallest of four shares: models that do not superpose under SGD, and models that do under each of the
    others. A model superposes if it has learned more than two features (norm > 0.5, n = 6, m = 2). Each optimizer is
    judged at its own best setting (most models superpose; among equals the lowest mean loss), chosen on the first half
    of the models and judged on the second.
    Threshold: above 1/2, for each.
    Size: 6 models for each of 25 settings (quick), 20 (full): learning rates over four decades, 1e-5 to 0.1 for the
    adaptive optimizers, 1e-3 to 10 for SGD, without momentum and with 0.9; constant; 10,000 steps. A model that
    diverged does not superpose.
    Controls: the share at every optimizer's best setting, which setting that is, the same at learned > 0.3 and > 0.7,
    and pentagons and hexagons there.
    """
    settings: list[Optimizer] = [kind(lr=lr) for kind in ADAPTIVE for lr in np.logspace(-5, -1, 5).tolist()]
    settings += [SGD(lr=lr, momentum=m) for m in (0.0, 0.9) for lr in np.logspace(-3, 1, 5).tolist()]
    return judge_optimizers(pd.concat([outcomes(optimizer, n_models) for optimizer in settings], ignore_index=True))


def outcomes(optimizer: Optimizer, n_models: int) -> pd.DataFrame:
    """What becomes of the document's models under this optimizer, one row per model."""
    run = train_polygons(6, n_models, optimizer=optimizer, record_every=STEPS)
    diverged = np.array([i in run.diverged for i in range(len(run.models))])
    learned = {cut: geometry.represented(run.W_E, cut).sum(1).numpy() for cut in (LEARNED, *CUTS)}
    return pd.DataFrame(
        {
            "optimizer": type(optimizer).__name__,
            "lr": optimizer.lr,
            "momentum": getattr(optimizer, "momentum", 0.0),
            "model": range(n_models),
            "loss": np.where(diverged, np.inf, run.final_loss.numpy()),
            "pentagon": polygon_names(run.W_E) == "pentagon",
            "hexagon": polygon_names(run.W_E) == "hexagon",
        }
        | {f"superposes {cut}": (count > 2) & ~diverged for cut, count in learned.items()}
    )


def judge_optimizers(table: pd.DataFrame) -> Verdict:
    """Choose each optimizer's setting on the first half of the models and judge it on the second."""
    half = table.model.max() // 2
    settings = table[table.model <= half].groupby(["optimizer", "lr", "momentum"], as_index=False)
    scores = settings.agg(share=(f"superposes {LEARNED}", "mean"), loss=("loss", "mean"))
    best = scores.sort_values(["share", "loss"], ascending=[False, True]).drop_duplicates("optimizer")
    chosen = table[table.model > half].merge(best[["optimizer", "lr", "momentum"]])
    lr, momentum = (best.set_index("optimizer")[setting] for setting in ("lr", "momentum"))
    judged = {str(name): group for name, group in chosen.groupby("optimizer")}

    def parts(cut: float) -> dict[str, np.ndarray]:
        superposes = {name: group[f"superposes {cut}"].to_numpy(dtype=bool) for name, group in judged.items()}
        sgd = superposes.pop("SGD")
        return {"SGD fails": ~sgd} | {f"{name} succeeds": held for name, held in superposes.items()}

    shares = {name: lab.mean(group[f"superposes {LEARNED}"]) for name, group in judged.items()}
    controls = {f"smallest share at learned > {cut}": lab.weakest(parts(cut)) for cut in CUTS}
    controls["best momentum, SGD"] = momentum["SGD"]
    for name, group in judged.items():
        controls |= {
            f"superpose, {name}": shares[name],
            f"best learning rate, {name}": lr[name],
            f"pentagons, {name}": lab.mean(group.pentagon),
            f"hexagons, {name}": lab.mean(group.hexagon),
        }
    return Verdict.of_shares(
        "The smallest of four shares",
        parts(LEARNED),
        n_models=lab.total(judged),
        controls=controls,
        detail=lab.listing(
            "Models that superpose, at each optimizer's best setting",
            {n: f"{shares[n]:.0%} at learning rate {lr[n]:.3g}, momentum {momentum[n]:.3g}" for n in judged},
        ),
        figures={
            "Share of models that superpose: learned more than two features.": _map(table, f"superposes {LEARNED}"),
            "Share of models that end as a pentagon.": _map(table, "pentagon"),
            "Share of models that end as a hexagon.": _map(table, "hexagon"),
        },
    )


def _map(table: pd.DataFrame, what: str) -> "go.Figure":
    """Optimizers by learning rates: where `what` is true of which share of models."""
    momentum = table.momentum.map(lambda value: f", momentum {value}" if value else "")
    share = table.assign(row=table.optimizer + momentum).groupby(["row", "lr"])[what].mean().unstack()
    return plots.share_map(
        share.to_numpy(), [f"{lr:.0e}" for lr in share.columns], [str(row) for row in share.index], "learning rate"
    )
