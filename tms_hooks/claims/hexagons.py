"""Claims of "Pentagon vs Hexagon": polygons that features of equal importance take in two hidden dimensions, and with
which optimizers they take any.

Settings of the document: importance 1, feature probability p = 0.057 (its "sparsity"; its norms only fit that way),
ReLU, tied weights, output bias; Adam at a constant 1e-3, batch 1,024, 10,000 steps, seeds from 0.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool

from tms_hooks import geometry, plots, stats, theory
from tms_hooks.claims import Part, Verdict, claim, lab, seeds, share, statistic
from tms_hooks.claims.lab import CUTS, LEARNED, Stacked
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.geometry.measures import SAME_DIRECTION
from tms_hooks.landscape import exact_loss
from tms_hooks.linalg import cosines
from tms_hooks.models.forward import init_weights
from tms_hooks.run import Run
from tms_hooks.training.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop

if TYPE_CHECKING:
    import plotly.graph_objects as go

P = 0.057
STEPS = 10_000
SHARED = 0.8
"""A model with a linear output has D* = 1, whichever features it holds; below this D* dimensions are shared."""
DOCUMENT = Adam(lr=1e-3)
POLYGONS = {4: "square", 5: "pentagon", 6: "pentagon", 7: "pentagon"}
"""What the document sees for each number of features."""
ADAPTIVE = (Adam, AdamW, RMSprop)
SLOW = 1e-3
"""Learning rate of the document's Adam."""
CLAIMED_NORMS = (2.5, 3.0)
"""Of pentagons and of hexagons."""


def train_polygons(n_features: int, n_models: int, **changes: Any) -> Run:
    """Models of the document's setting, but for `changes`, which are those of `lab.train_sparse`."""
    usual: dict[str, Any] = {"optimizer": DOCUMENT, "record_every": 100} | changes
    return lab.train_sparse(n_features, 2, P, n_models, steps=STEPS, **usual)


def typical_arrows(W: Stacked) -> "go.Figure":
    """Feature directions of the first model of each of the most frequent shapes."""
    typical = plots.typical(W.numpy(), lab.shape_names(W).tolist())
    return plots.feature_arrows(np.stack(list(typical.values())), list(typical))


@claim("polygons-by-n", "H", quick=12, full=100)
def polygons_by_n(n_models: int) -> Verdict:
    """Four features make a square, five a pentagon, six and seven a pentagon with the rest ignored or overlapping.

    The polygon is named from the distinct directions of the learned features (norm > 0.5), so features that overlap
    make one corner.

    Part "n = 4": "Given the observations of a quadrilateral with $n=4$".
    Statistic: the share of models that are a square.
    Threshold: above 1/2.
    Null: untrained models.

    Part "n = 5": "a pentagon with $n=5$".
    Statistic: the share of models that are a pentagon.
    Threshold: above 1/2.
    Null: untrained models.

    Part "n = 6": "the features restrict themselves to a pentagon geometry".
    Statistic: the share of models that are a pentagon.
    Threshold: above 1/2.
    Null: untrained models.

    Part "n = 7": "the features restrict themselves to a pentagon geometry".
    Statistic: the share of models that are a pentagon.
    Threshold: above 1/2.
    Null: untrained models.

    Part "the rest overlap": "with balance of the features (if they are learned by the model), overlapping with the
    existing 5 directions".
    Statistic: the share of pentagons with six features whose shortest feature lies within 5 degrees of another.
    Threshold: above 1/2.
    Null: 0.139, what a random direction has with five others.

    Size: 12 models for each n (quick), 100 (full).
    Controls: the four shares at learned > 0.3 and > 0.7; a linear output (n = 6), which cannot superpose; the norm of
    the shortest feature of pentagons with six.
    """
    runs = {n: train_polygons(n, n_models) for n in POLYGONS}
    return judge_polygons(
        {n: run.W_E for n, run in runs.items()},
        {n: int(lab.stratified_losses(run).argmin()) for n, run in runs.items()},
        {n: lab.untrained_directions(n, 2, n_models) for n in POLYGONS},
        train_polygons(6, n_models, output_act="identity").W_E,
    )


def judge_polygons(
    trained: Mapping[int, Stacked], best: Mapping[int, int], untrained: Mapping[int, Stacked], linear: Stacked
) -> Verdict:
    """The stated polygon's share for each number of features; `best` is the model of lowest loss."""

    def as_stated(n: int, W: Stacked, learned: float = LEARNED) -> np.ndarray:
        return lab.shape_names(W, learned) == POLYGONS[n]

    held = {n: as_stated(n, W) for n, W in trained.items()}
    tables = {str(n): stats.census(lab.shape_names(W).tolist(), np.zeros(len(W)), "_") for n, W in trained.items()}
    seen = "; ".join(
        f"n = {n}: " + ", ".join(f"{row.share:.0%} {row.name}" for _, row in table.head(3).iterrows())
        for n, table in tables.items()
    )
    lowest = ", ".join(f"{theory.best_polygon(n, P)} for n = {n}" for n in trained)
    norm, beside = rest(trained[6][torch.from_numpy(held[6])])
    return Verdict(
        parts={
            f"n = {n}": share(
                f"The share of models with {n} features that are a {POLYGONS[n]}",
                held[n],
                null=as_stated(n, untrained[n]),
                best=float(held[n][best[n]]),
            )
            for n in trained
        }
        | {
            "the rest overlap": share(
                "The share of pentagons with six features whose shortest lies beside another",
                beside < SAME_DIRECTION,
                null=10 * SAME_DIRECTION / 360,
                unit="pentagons",
            )
        },
        n_models=lab.total(trained),
        controls={
            name: value
            for n, W in trained.items()
            for name, value in lab.at_cuts(partial(as_stated, n, W), prefix=f"n = {n}, ").items()
        }
        | {
            "linear output, n = 6": as_stated(6, linear).mean(),
            "norm of the shortest feature": lab.mean(norm),
        },
        detail=f"Seen: {seen}. Corners of the regular polygon of lowest expected loss at p = {P}: {lowest}.",
        figures={
            "Share of models in each geometry.": plots.grouped_shares(tables, "features n"),
            **{f"{n} features: the first model of each frequent shape.": typical_arrows(W) for n, W in trained.items()},
        },
    )


def rest(W: Stacked) -> tuple[np.ndarray, np.ndarray]:
    """Norm of each model's shortest feature, and its angle with the nearest other, in degrees."""
    norms, angles = geometry.feature_norms(W), torch.rad2deg(cosines(W.double()).clamp(-1, 1).acos())
    shortest = norms.argmin(1)
    at = torch.arange(len(W))
    beside = angles[at, shortest].scatter(1, shortest[:, None], torch.inf).amin(1)
    return norms[at, shortest].numpy(), beside.numpy()


@claim("pentagon-by-theory", "H", quick=150, full=450)
def pentagon_by_theory(n_models: int) -> Verdict:
    """Five is the best polygon, however many features there are.

    Part "lowest loss": "the optimal point of lowest loss is reached at $F=5$".
    Statistic: the mean exact expected loss of trained hexagons, relative to that of trained pentagons, less 1, at n = 6
    and the document's p = 0.057.
    Threshold: above 0 (pentagons are better).
    Null: none, since the statistic is a difference between shapes.

    Beyond the source "without bias":
    Statistic: the share of models trained without bias that are a pentagon; the argument leaves the bias out.
    Threshold: above 1/2.
    Null: untrained models.

    Size: 150 models (quick), 450 (full); of pentagons, the first 50.
    Controls: the corners of the best polygon by each closed form (the textbook argument; one active feature without and
    with bias; exact at this p for n = 6, 7, 8), the p where pentagon and hexagon cost the same.
    """
    run = train_polygons(6, n_models)
    bare = train_polygons(6, n_models, output_bias=False)
    start = lab.shape_names(lab.untrained_directions(6, 2, n_models))
    return judge_theory(lab.shape_names(run.W_E), exact_losses(run), lab.shape_names(bare.W_E), start)


def exact_losses(run: Run, most: int = 50) -> np.ndarray:
    """Exact loss of all hexagons of a run, and of the first pentagons; NaN of others."""
    names, losses = lab.shape_names(run.W_E), np.full(len(run.W_E), np.nan)
    for shape in ("pentagon", "hexagon"):
        for i in np.flatnonzero(names == shape)[:most]:
            weights = {name: w[i].double() for name, w in run.weights.items()}
            losses[i] = float(exact_loss(weights, run.recipe.cfg, run.recipe.setting.data))
    return losses


def judge_theory(names: np.ndarray, losses: np.ndarray, without_bias: np.ndarray, untrained: np.ndarray) -> Verdict:
    """How much more hexagons cost than pentagons, trained and in theory; all but the losses are names of shapes."""
    pentagons, hexagons = (
        each[np.isfinite(each)] for each in (losses[names == "pentagon"], losses[names == "hexagon"])
    )
    crossing = theory.polygon_crossing(6, 5, 6)
    gains: dict[str, Callable[[int], float]] = {
        "textbook argument": theory.polygon_gain_nearest,
        "one active feature, no bias": lambda F: theory.polygon(F, bias=False).gain,
        "one active feature, bias": lambda F: theory.polygon(F).gain,
    }
    lowest = [float(each.min()) if len(each) else np.nan for each in (pentagons, hexagons)]
    return Verdict(
        parts={
            "lowest loss": statistic(
                "The loss of trained hexagons, relative to trained pentagons, less 1,",
                lambda five, six: float(six.mean() / five.mean() - 1),
                pentagons,
                hexagons,
                best=lowest[1] / lowest[0] - 1,
                unit="models of either shape",
            ),
            "without bias": share(
                "The share of models without bias that are a pentagon",
                without_bias == "pentagon",
                null=untrained == "pentagon",
            ),
        },
        n_models=len(pentagons) + len(hexagons),
        controls={f"best corners, {argument}": min(range(2, 11), key=gain) for argument, gain in gains.items()}
        | {f"best corners at p = {P}, n = {n}": theory.best_polygon(n, P) for n in (6, 7, 8)}
        | {
            "p where pentagon and hexagon cost the same": crossing,
            "share of hexagons, trained with bias": (names == "hexagon").mean(),
            "share of hexagons, trained without bias": (without_bias == "hexagon").mean(),
        },
        theory=theory.polygon_loss(6, P, 6) / theory.polygon_loss(6, P, 5) - 1,
        detail=f"{len(pentagons)} models are pentagons and {len(hexagons)} hexagons. The exact losses of the two "
        f"regular polygons cross at p = {crossing:.3g}: sparser than that the hexagon costs less, denser the pentagon.",
        figures={"Exact expected loss of trained models.": _both(pentagons, hexagons, "expected loss")},
    )


@claim("hexagon-norms", "H", quick=150, full=500)
def hexagon_norms(n_models: int) -> Verdict:
    """The Frobenius norm of W is near 3 in hexagons, beyond a limit of sqrt(5), and near 2.5 in pentagons.

    Part "hexagons": "The overall norm in the hexagon geometry crosses the theoretical limit of $\\sqrt{5}$ and
    stretches to 3".
    Statistic: the relative deviation of the mean norm of hexagons from 3.
    Threshold: below 0.05.
    Null: none, since the statistic is a distance from the stated number.

    Part "pentagons": "the one for pentagon plateaus at 2.5".
    Statistic: the relative deviation of the mean norm of pentagons from 2.5.
    Threshold: below 0.05.
    Null: none, since the statistic is a distance from the stated number.

    Part "limit": "the theoretical limit of $\\sqrt{5}$".
    Statistic: the share of pentagons, for which it would be a limit, whose norm is at most sqrt(5).
    Threshold: above 1/2.
    Null: untrained models.

    Size: 150 models (quick), 500 (full), n = 6.
    Controls: the norms of the best regular polygons at this p, and how far the trained means are from them; learned >
    0.3 and > 0.7.
    """
    return judge_norms(train_polygons(6, n_models).W_E, lab.untrained_directions(6, 2, n_models))


def judge_norms(W: Stacked, untrained: Stacked) -> Verdict:
    """Mean norms of pentagons and hexagons against the document's and the theory's."""
    norms, start = (w.double().norm(dim=(-2, -1)).numpy() for w in (W, untrained))
    ideal = [float(F**0.5 * theory.finite_polygon(F, P)[0]) for F in (5, 6)]

    def split(learned: float = LEARNED) -> list[np.ndarray]:
        names = lab.shape_names(W, learned)
        return [norms[names == shape] for shape in ("pentagon", "hexagon")]

    def near(shape: int, found: np.ndarray, norm: float) -> Part:
        name = ("pentagons", "hexagons")[shape]
        return statistic(
            f"The relative deviation of the mean norm of {name} from {norm:g}",
            lambda each: abs(float(each.mean()) / norm - 1),
            found,
            unit=name,
        )

    five, six = split()
    limit = 5**0.5
    return Verdict(
        parts={
            "hexagons": near(1, six, CLAIMED_NORMS[1]),
            "pentagons": near(0, five, CLAIMED_NORMS[0]),
            "limit": share(
                "The share of pentagons whose norm is at most sqrt(5)",
                five <= limit,
                null=start <= limit,
                unit="pentagons",
            ),
        },
        n_models=len(five) + len(six),
        controls={
            f"mean norm of {name}, learned > {cut}": lab.mean(found)
            for cut in CUTS
            for name, found in zip(("pentagons", "hexagons"), split(cut), strict=True)
        }
        | {
            "mean norm of pentagons": lab.mean(five),
            "mean norm of hexagons": lab.mean(six),
            "norm of the best regular pentagon": ideal[0],
            "norm of the best regular hexagon": ideal[1],
            "share of all models beyond sqrt(5)": (norms > limit).mean(),
        },
        detail=f"Pentagons have {lab.mean(five):.3f} (best regular one {ideal[0]:.3f}), hexagons "
        f"{lab.mean(six):.3f} ({ideal[1]:.3f}); {(norms > limit).mean():.0%} of all models exceed sqrt(5).",
        figures={
            "Frobenius norm of trained models.": _both(five, six, "||W||"),
            "The first model of each of the most frequent shapes.": typical_arrows(W),
        },
    )


def _both(pentagons: np.ndarray, hexagons: np.ndarray, what: str) -> "go.Figure":
    """A number of each trained model, pentagons beside hexagons."""
    groups = {"pentagon": pentagons, "hexagon": hexagons}
    return plots.distributions(groups, what, lab.colors(groups))


@claim("optimizer-geometry", "H", quick=8, full=32)
def optimizer_geometry(n_models: int) -> Verdict:
    """SGD fails to superpose whatever its settings; RMSprop, Adam and AdamW succeed.

    A model superposes if it has learned more than two features (norm > 0.5, n = 6, m = 2) and its squared norms sum to
    more than 2.5; one that diverged does not. Those of a linear model sum to 2 but may be shared by several features.
    Each optimizer is judged at its own best setting (most models superpose; among equals the lowest mean loss), chosen
    on the first half of the models and judged on the second.

    Part "SGD": "SGD underperformed in all cases leading to non-superimposed and unlearned features irrespective of
    hyperparameters."
    Statistic: the share of models that do not superpose under SGD.
    Threshold: above 1/2.
    Null: none, since the statistic is a share of failures, which a null would raise.

    Part "RMSprop": "For RMSProp, Adam & AdamW, all of them exhibit superposition".
    Statistic: the share of models that superpose under it.
    Threshold: above 1/2.
    Null: models with a linear output.

    Part "Adam": "For RMSProp, Adam & AdamW, all of them exhibit superposition".
    Statistic: the share of models that superpose under it.
    Threshold: above 1/2.
    Null: models with a linear output.

    Part "AdamW": "For RMSProp, Adam & AdamW, all of them exhibit superposition".
    Statistic: the share of models that superpose under it.
    Threshold: above 1/2.
    Null: models with a linear output.

    Beyond the source "SGD at the others' learning rate":
    Statistic: the share of models that do not superpose under SGD without momentum at 0.001, Adam's usual rate.
    Threshold: above 1/2.
    Null: none, since the statistic is a share of failures.

    Size: 8 models for each of 25 settings (quick), 32 (full): learning rates over four decades, 1e-5 to 0.1 for the
    adaptive optimizers, 1e-3 to 10 for SGD, without momentum and with 0.9; constant; 10,000 steps.
    Controls: which setting is best, the shares at learned > 0.3 and > 0.7, and pentagons and hexagons there.
    """
    settings: list[Optimizer] = [kind(lr=lr) for kind in ADAPTIVE for lr in np.logspace(-5, -1, 5).tolist()]
    settings += [SGD(lr=lr, momentum=m) for m in (0.0, 0.9) for lr in np.logspace(-3, 1, 5).tolist()]
    linear = superpose(train_polygons(6, n_models, output_act="identity").W_E)
    return judge_optimizers(pd.concat([outcomes(each, n_models) for each in settings], ignore_index=True), linear)


def superpose(W: Stacked, learned: float = LEARNED) -> Bool[np.ndarray, " model"]:
    """Which models hold more features than dimensions, by their number and by the sum of their squared norms."""
    many = geometry.represented(W, learned).sum(1) > W.shape[-1]
    return (many & (geometry.dimensions_per_feature(W) < SHARED)).numpy()


def outcomes(optimizer: Optimizer, n_models: int) -> pd.DataFrame:
    """What becomes of the document's models under this optimizer, one row per model."""
    run = train_polygons(6, n_models, optimizer=optimizer, record_every=STEPS)
    diverged = np.array([i in run.diverged for i in range(len(run.models))])
    return pd.DataFrame(
        {
            "optimizer": type(optimizer).__name__,
            "lr": optimizer.lr,
            "momentum": getattr(optimizer, "momentum", 0.0),
            "model": range(n_models),
            "loss": np.where(diverged, np.inf, lab.stratified_losses(run)),
            "pentagon": lab.shape_names(run.W_E) == "pentagon",
            "hexagon": lab.shape_names(run.W_E) == "hexagon",
        }
        | {f"superposes {cut}": superpose(run.W_E, cut) & ~diverged for cut in (LEARNED, *CUTS)}
    )


def judge_optimizers(table: pd.DataFrame, linear: np.ndarray) -> Verdict:
    """Choose each optimizer's setting on the first half of the models and judge it on the second.

    `linear`: which models with a linear output superpose.
    """
    half = table.model.max() // 2
    settings = table[table.model <= half].groupby(["optimizer", "lr", "momentum"], as_index=False)
    scores = settings.agg(share=(f"superposes {LEARNED}", "mean"), loss=("loss", "mean"))
    best = scores.sort_values(["share", "loss"], ascending=[False, True]).drop_duplicates("optimizer")
    chosen = table[table.model > half].merge(best[["optimizer", "lr", "momentum"]])
    lr, momentum = (best.set_index("optimizer")[setting] for setting in ("lr", "momentum"))
    judged = {str(name): group for name, group in chosen.groupby("optimizer")}
    shares = {name: lab.mean(group[f"superposes {LEARNED}"]) for name, group in judged.items()}
    plain = table[(table.optimizer == "SGD") & (table.momentum == 0) & np.isclose(table.lr, SLOW)]

    def superposes(group: pd.DataFrame, learned: float = LEARNED) -> np.ndarray:
        return group[f"superposes {learned}"].to_numpy(dtype=bool)

    controls = {"best momentum, SGD": momentum["SGD"]}
    for name, group in judged.items():
        controls |= lab.at_cuts(partial(superposes, group), prefix=f"{name}, ") | {
            f"best learning rate, {name}": lr[name],
            f"pentagons, {name}": lab.mean(group.pentagon),
            f"hexagons, {name}": lab.mean(group.hexagon),
        }
    return Verdict(
        parts={"SGD": share("The share of models that do not superpose under SGD", ~superposes(judged["SGD"]))}
        | {
            name: share(f"The share of models that superpose under {name}", superposes(judged[name]), null=linear)
            for name in ("RMSprop", "Adam", "AdamW")
        }
        | {
            "SGD at the others' learning rate": share(
                f"The share of models that do not superpose under SGD at {SLOW:g}", ~superposes(plain)
            )
        },
        n_models=lab.total(judged),
        controls=controls,
        detail=lab.listing(
            "Models that superpose, at each optimizer's best setting",
            {n: f"{shares[n]:.0%} at learning rate {lr[n]:.3g}, momentum {momentum[n]:.3g}" for n in judged},
        ),
        figures={
            "Share of models that superpose.": _map(table, f"superposes {LEARNED}"),
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


@claim("seed-and-optimizer", "H", quick=60, full=240)
def seed_and_optimizer(n_models: int) -> Verdict:
    """At one seed not all optimizers give a hexagon: the geometry is a matter of both.

    The document's models with n = 6, from the same start and on the same data under Adam, AdamW and RMSprop at 0.001.

    Part "not all at one seed": "Not all optimizers will give hexagon geometries at the same seed".
    Statistic: the share of seeds, of those with a hexagon under some optimizer, without one under all three.
    Threshold: above 1/2.
    Null: Adam three times, with other training data: what data alone do.

    Part "a matter of the seed": "the combination of the right seed and right optimizer will lead to the hexagon
    geometry".
    Statistic: the share of pairs of optimizers and seeds with a hexagon under the first that have one under the second,
    less the share of hexagons among all models; seeds are resampled.
    Threshold: above 0.
    Null: none, since the statistic is a difference from unrelated seeds.

    Size: 60 seeds (quick), 240 (full).
    Controls: the share of hexagons under each optimizer; the share under all three; the same of Adam three times.
    """
    starts = [init_weights(ToyConfig(n_features=6, d_hidden=2), seed) for seed in seeds.of(n_models)]
    by_optimizer = [train_polygons(6, n_models, optimizer=kind(lr=SLOW), record_every=STEPS).W_E for kind in ADAPTIVE]
    again = [
        lab.train_from(
            ToyConfig(n_features=6, d_hidden=2),
            SparseUniform(n_features=6, feature_probability=P),
            starts,
            steps=STEPS,
            optimizer=DOCUMENT,
            seeds=seeds.of(range(offset, offset + n_models)),
        ).W_E
        for offset in (10**6, 2 * 10**6)
    ]
    names = {kind.__name__: lab.shape_names(W) for kind, W in zip(ADAPTIVE, by_optimizer, strict=True)}
    return judge_seeds(names, [lab.shape_names(W) for W in (by_optimizer[0], *again)])


def judge_seeds(names: Mapping[str, np.ndarray], adam: Sequence[np.ndarray]) -> Verdict:
    """Do optimizers agree on hexagons, seed by seed? Names of shapes, by optimizer; `adam` with other data."""
    six, again = (np.stack(each, axis=1) == "hexagon" for each in (list(names.values()), adam))

    def not_all(hexagons: np.ndarray) -> np.ndarray:
        return np.asarray(~hexagons[hexagons.any(1)].all(1))

    def agreement(hexagons: np.ndarray) -> float:
        count, k = hexagons.sum(1), hexagons.shape[1]
        pairs = (count * (count - 1)).sum()
        return float(pairs / max((k - 1) * count.sum(), 1) - hexagons.mean())

    rates = {name: column.mean() for name, column in zip(names, six.T, strict=True)}
    return Verdict(
        parts={
            "not all at one seed": share(
                "The share of seeds with a hexagon under some optimizer and not under all",
                not_all(six),
                null=not_all(again),
                unit="seeds",
            ),
            "a matter of the seed": statistic(
                "How much more often than at any seed another optimizer gives a hexagon too",
                agreement,
                six,
                unit="seeds",
            ),
        },
        n_models=six.size,
        controls={f"hexagons, {name}": rate for name, rate in rates.items()}
        | {
            "seeds with a hexagon under some optimizer": six.any(1).sum(),
            "seeds with a hexagon under all": six.all(1).sum(),
            "agreement, Adam with other data": agreement(again),
        },
        detail=lab.listing("Hexagons", rates, ".1%"),
        figures={
            "Share of seeds that end as a hexagon under so many of three optimizers.": plots.curves(
                {
                    name: (np.arange(4), np.bincount(each.sum(1), minlength=4) / len(each))
                    for name, each in (("three optimizers", six), ("Adam, three sets of data", again))
                },
                "runs with a hexagon",
                "share of seeds",
            )
        },
    )
