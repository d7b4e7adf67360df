"""The claim of "Pentagon vs Hexagon" about optimizers. Setting and names are those of `tms_hooks.claims.hexagons`."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tms_hooks import geometry, plots
from tms_hooks.claims import lab
from tms_hooks.claims.hexagons import STEPS, polygon_names, train_polygons
from tms_hooks.claims.lab import CUTS, LEARNED
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import Verdict, above
from tms_hooks.training.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop

if TYPE_CHECKING:
    import plotly.graph_objects as go

ADAPTIVE = (Adam, AdamW, RMSprop)


def settings() -> list[Optimizer]:
    """Each optimizer at five learning rates over four decades; SGD, of another scale, with and without momentum."""
    adaptive = [kind(lr=lr) for kind in ADAPTIVE for lr in np.logspace(-5, -1, 5).tolist()]
    return [*adaptive, *(SGD(lr=lr, momentum=m) for m in (0.0, 0.9) for lr in np.logspace(-3, 1, 5).tolist())]


@claim("optimizer-geometry", "H", quick=6, full=20, needs=above(0.5))
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
    return judge_optimizers(pd.concat([outcomes(optimizer, n_models) for optimizer in settings()], ignore_index=True))


def outcomes(optimizer: Optimizer, n_models: int) -> pd.DataFrame:
    """What becomes of the document's models under this optimizer, one row per model."""
    run = train_polygons(6, n_models, optimizer=optimizer, record_every=STEPS)
    diverged = np.array([seed in run.diverged for seed in run.recipe.seeds])
    learned = {cut: geometry.represented(run.W_E, cut).sum(1).numpy() for cut in (LEARNED, *CUTS)}
    return pd.DataFrame(
        {
            "optimizer": type(optimizer).__name__,
            "lr": optimizer.lr,
            "momentum": getattr(optimizer, "momentum", 0.0),
            "model": range(n_models),
            "loss": np.where(diverged, np.inf, run.final_loss.numpy()),
            "geometry": polygon_names(run.W_E),
        }
        | {f"superposes {cut}": (count > 2) & ~diverged for cut, count in learned.items()}
    )


def judge_optimizers(table: pd.DataFrame) -> Verdict:
    """Choose each optimizer's setting on the first half of the models and judge it on the second."""
    half = table.model.max() // 2
    best = {str(name): _best_setting(group) for name, group in table[table.model <= half].groupby("optimizer")}
    judged = {
        name: table.query(f"model > {half} and optimizer == @name and lr == @lr and momentum == @momentum")
        for name, (lr, momentum) in best.items()
    }

    def parts(cut: float) -> dict[str, np.ndarray]:
        superposes = {name: group[f"superposes {cut}"].to_numpy(dtype=bool) for name, group in judged.items()}
        sgd = superposes.pop("SGD")
        return {"SGD fails": ~sgd} | {f"{name} succeeds": held for name, held in superposes.items()}

    shares = {name: lab.mean(group[f"superposes {LEARNED}"]) for name, group in judged.items()}
    controls = {f"smallest share at learned > {cut}": lab.weakest(parts(cut)) for cut in CUTS}
    controls["best momentum, SGD"] = best["SGD"][1]
    for name, group in judged.items():
        controls |= {
            f"superpose, {name}": shares[name],
            f"best learning rate, {name}": best[name][0],
            f"pentagons, {name}": lab.mean(group.geometry == "pentagon"),
            f"hexagons, {name}": lab.mean(group.geometry == "hexagon"),
        }
    shapes = {shape: table.assign(shape=table.geometry == shape) for shape in ("pentagon", "hexagon")}
    return Verdict.of_shares(
        "The smallest of four shares",
        parts(LEARNED),
        n_models=lab.total(judged),
        controls=controls,
        detail="Models that superpose, at each optimizer's best setting: "
        + ", ".join(
            f"{name} {shares[name]:.0%} at learning rate {lr:.3g}" + (f" with momentum {momentum}" if momentum else "")
            for name, (lr, momentum) in best.items()
        )
        + ".",
        figures={
            "Share of models that superpose: learned more than two features.": _map(table, f"superposes {LEARNED}")
        }
        | {f"Share of models that end as a {shape}.": _map(named, "shape") for shape, named in shapes.items()},
    )


def _best_setting(group: pd.DataFrame) -> tuple[float, float]:
    """Learning rate and momentum with which most models superpose, among equals with the lowest mean loss."""
    scores = group.groupby(["lr", "momentum"]).agg(share=(f"superposes {LEARNED}", "mean"), loss=("loss", "mean"))
    lr, momentum = scores.sort_values(["share", "loss"], ascending=[False, True]).index[0]
    return float(lr), float(momentum)


def _map(table: pd.DataFrame, what: str) -> "go.Figure":
    """Optimizers by learning rates: where `what` is true of which share of models."""
    momentum = table.momentum.map(lambda value: f", momentum {value}" if value else "")
    share = table.assign(row=table.optimizer + momentum).groupby(["row", "lr"])[what].mean().unstack()
    return plots.share_map(
        share.to_numpy(), [f"{lr:.0e}" for lr in share.columns], [str(row) for row in share.index], "learning rate"
    )
