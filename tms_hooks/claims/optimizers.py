"""The claim of "Pentagon vs Hexagon" about optimizers. Setting and names are those of `tms_hooks.claims.hexagons`."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tms_hooks import geometry, plots, stats
from tms_hooks.claims.hexagons import LEARNED, STEPS, P, polygon_names
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import Verdict, above
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.train import train
from tms_hooks.training.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop

if TYPE_CHECKING:
    import plotly.graph_objects as go

ADAPTIVE = ("Adam", "AdamW", "RMSprop")


def settings() -> list[tuple[str, Optimizer]]:
    """Each optimizer at five learning rates over four decades; SGD, of another scale, with and without momentum."""
    low, high = np.logspace(-5, -1, 5).tolist(), np.logspace(-3, 1, 5).tolist()
    adaptive: list[tuple[str, Optimizer]] = [(c.__name__, c(lr=lr)) for c in (Adam, AdamW, RMSprop) for lr in low]
    return adaptive + [("SGD", SGD(lr=lr, momentum=momentum)) for momentum in (0.0, 0.9) for lr in high]


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
    rows = []
    for name, optimizer in settings():
        run = train(
            ToyConfig(n_features=6, d_hidden=2),
            SparseUniform(n_features=6, feature_probability=P),
            seeds=range(n_models),
            steps=STEPS,
            optimizer=optimizer,
            record_every=STEPS,
        )
        diverged = np.array([seed in run.diverged for seed in run.recipe.seeds])
        learned = {cut: geometry.represented(run.W_E, cut).sum(1).numpy() * ~diverged for cut in (0.3, LEARNED, 0.7)}
        momentum = getattr(optimizer, "momentum", 0.0)
        rows.append(
            pd.DataFrame(
                {
                    "optimizer": name,
                    "lr": optimizer.lr,
                    "momentum": momentum,
                    "model": range(n_models),
                    "loss": np.where(diverged, np.inf, run.final_loss.numpy()),
                    "geometry": polygon_names(run.W_E),
                }
                | {f"superposes {cut}": count > 2 for cut, count in learned.items()}
            )
        )
    return judge_optimizers(pd.concat(rows, ignore_index=True))


def judge_optimizers(table: pd.DataFrame) -> Verdict:
    """Choose each optimizer's setting on the first half of the models and judge it on the second."""
    half = table.model.max() // 2
    chosen, judged = table[table.model <= half], table[table.model > half]
    best = {name: _best_setting(group) for name, group in chosen.groupby("optimizer")}
    judged = {
        name: judged[(judged.optimizer == name) & (judged.lr == lr) & (judged.momentum == momentum)]
        for name, (lr, momentum) in best.items()
    }

    def weakest(cut: float) -> stats.Weakest:
        counts = {name: int(group[f"superposes {cut}"].sum()) for name, group in judged.items()}
        parts = {f"{name} succeeds": (counts[name], len(judged[name])) for name in ADAPTIVE}
        return stats.weakest_share({"SGD fails": (len(judged["SGD"]) - counts["SGD"], len(judged["SGD"]))} | parts)

    found = weakest(LEARNED)
    at_best = {name: float(group[f"superposes {LEARNED}"].mean()) for name, group in judged.items()}
    described = ", ".join(
        f"{name} {at_best[name]:.0%} at learning rate {lr:.3g}" + (f" with momentum {momentum}" if momentum else "")
        for name, (lr, momentum) in best.items()
    )
    return Verdict(
        measured=f"The smallest of four shares ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=sum(map(len, judged.values())),
        controls={f"superpose, {name}": share for name, share in at_best.items()}
        | {f"best learning rate, {name}": lr for name, (lr, _) in best.items()}
        | {"best momentum, SGD": best["SGD"][1]}
        | {f"smallest share at learned > {cut}": weakest(cut).share for cut in (0.3, 0.7)}
        | {
            f"{shape}s, {name}": float((group.geometry == shape).mean())
            for name, group in judged.items()
            for shape in ("pentagon", "hexagon")
        },
        detail=f"Models that superpose, at each optimizer's best setting: {described}.",
        figures=[
            (
                "Share of models that superpose: learned more than two features.",
                _map(table, f"superposes {LEARNED}"),
            ),
            (
                "Share of models that end as a pentagon.",
                _map(table.assign(shape=table.geometry == "pentagon"), "shape"),
            ),
            ("Share of models that end as a hexagon.", _map(table.assign(shape=table.geometry == "hexagon"), "shape")),
        ],
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
