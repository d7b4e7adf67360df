"""Claims of "Pentagon vs Hexagon" about the feature that a pentagon leaves out: is it stuck, did its start decide?

Setting, models and names are those of `tms_hooks.claims.hexagons`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

import probes
from tms_hooks import geometry, landscape, plots, stats
from tms_hooks.claims.hexagons import LEARNED, polygon_names, train_polygons
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import Verdict, above
from tms_hooks.run import Run
from tms_hooks.train import train

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Stuck(NamedTuple):
    """A pentagon that has learned all features but one."""

    model: int
    feature: int


def stuck_features(run: Run, learned: float = LEARNED) -> list[Stuck]:
    """The pentagons of a run with exactly one unlearned feature."""
    dead = ~geometry.represented(run.W_E, learned)
    pentagons = (polygon_names(run.W_E, learned) == "pentagon") & (dead.sum(1) == 1).numpy()
    return [Stuck(int(i), int(dead[i].nonzero()[0, 0])) for i in pentagons.nonzero()[0]]


@claim("stuck-feature", "H", quick=5, full=20, needs=above(0.5))
def stuck_feature(n_models: int) -> Verdict:
    """The feature that a pentagon has not learned, high in loss and low in gradient, is stuck on a saddle point.

    Statistic: share of pentagons with exactly one unlearned feature (norm up to 0.5) that lie on a saddle of the
    exact expected loss: polished by Newton steps to the critical point they are near, its Hessian, symmetries set
    aside, has a negative eigenvalue. A model that is near no critical point counts as not on a saddle.
    Threshold: above 1/2.
    Size: 5 such pentagons (quick), 20 (full), the first among ten times as many models with n = 6.
    Controls: the same share of hexagons, half as many; models near no critical point; the unlearned feature's loss at
    the end, and gradient norm over training, relative to the other features'; how many pentagons have one unlearned
    feature at cut-offs 0.3, 0.5 and 0.7.
    """
    run = train_polygons(6, 10 * n_models)
    stuck = stuck_features(run)[:n_models]
    hexagons = (polygon_names(run.W_E) == "hexagon").nonzero()[0][: n_models // 2]
    symptoms = {
        "loss of the unlearned feature, others' = 1": _relative(run.final_feature_loss.numpy(), stuck),
        "gradient norm of the unlearned feature, others' = 1": _relative(
            run.history.grad_norm.mean("step").values, stuck
        ),
        **{f"pentagons with one feature up to {cut}": float(len(stuck_features(run, cut))) for cut in (0.3, 0.5, 0.7)},
    }
    found = judge_stuck(places(run, [s.model for s in stuck]), places(run, hexagons), symptoms)
    return replace(found, figures=[*found.figures, *training_figures(run, stuck)])


def training_figures(run: Run, stuck: Sequence[Stuck]) -> list[tuple[str, "go.Figure"]]:
    """The unlearned feature beside the others through training, and paths of three models."""
    if not stuck:
        return []
    steps = run.history.step.values
    models, features = (list(index) for index in zip(*stuck, strict=True))
    figures = []
    for name, label in (("loss", "loss"), ("grad_norm", "gradient norm")):
        values = run.history[name].values[:, models]
        own = np.arange(len(stuck)), features
        unlearned = values[:, *own]
        others = (values.sum(-1) - unlearned) / (values.shape[-1] - 1)
        lines = {"the unlearned feature": (steps, unlearned.mean(1)), "each other feature": (steps, others.mean(1))}
        figures.append((f"Mean {label} of a feature through training.", plots.curves(lines, "step", label)))
    paths = run.history.W_E.values[:, models[:3]].swapaxes(0, 1)
    titles = [f"seed {run.recipe.seeds[s.model]}, feature {s.feature} unlearned" for s in stuck[:3]]
    return [*figures, ("Feature directions through training.", plots.trajectories(paths, titles))]


def places(run: Run, models: Sequence[int] | np.ndarray) -> list[landscape.CriticalPoint]:
    """Where these models sit on the landscape of the exact expected loss."""
    return [landscape.critical_point(run.models[int(i)], run.recipe.data) for i in models]


def judge_stuck(
    pentagons: Sequence[landscape.CriticalPoint],
    hexagons: Sequence[landscape.CriticalPoint],
    symptoms: Mapping[str, float],
) -> Verdict:
    """Share of pentagons on a saddle."""

    def count(points: Sequence[landscape.CriticalPoint], kind: str) -> int:
        return sum(point.kind == kind for point in points)

    n = len(pentagons)
    found = stats.weakest_share({"on a saddle": (count(pentagons, "saddle"), n)})
    return Verdict(
        measured="The share of pentagons with one unlearned feature that lie on a saddle",
        statistic=found.share,
        interval=found.interval,
        n_models=n,
        controls={
            "hexagons on a saddle": count(hexagons, "saddle") / len(hexagons) if hexagons else float("nan"),
            "hexagons": float(len(hexagons)),
            "pentagons in a minimum": count(pentagons, "minimum") / n if n else float("nan"),
            "pentagons near no critical point": count(pentagons, "not critical") / n if n else float("nan"),
            **symptoms,
        },
        detail=f"Of {n} pentagons {count(pentagons, 'minimum')} lie in a minimum, {count(pentagons, 'saddle')} on a "
        f"saddle, {count(pentagons, 'not critical')} near no critical point; of {len(hexagons)} hexagons "
        f"{count(hexagons, 'minimum')} lie in a minimum. "
        + "; ".join(f"{name}: {value:.3g}" for name, value in symptoms.items())
        + ".",
        figures=[
            (
                "Eigenvalues of the Hessian of the exact loss, symmetries set aside: one below 0 makes a saddle.",
                plots.level_strips(
                    {
                        name: np.concatenate([point.eigenvalues.numpy() for point in points])
                        for name, points in (("pentagons", pentagons), ("hexagons", hexagons))
                        if points
                    },
                    {"0": 0.0},
                    "",
                    "eigenvalue",
                ),
            )
        ]
        if n
        else (),
    )


@claim("hexagon-patching", "H", quick=10, full=40, needs=above(0.5))
def hexagon_patching(n_models: int) -> Verdict:
    """Giving a pentagon's unlearned feature the initial weights that it has in a hexagon's start yields a hexagon.

    Statistic: the smallest of three shares: patched models that end as a hexagon; of the recipients where patched and
    redrawn differ, those where the patched one is the hexagon; of those where patched and re-run differ, likewise.
    Threshold: above 1/2, for each: the patch works, better than random weights of the same norm, and than new data.
    Size: 10 recipients (quick), 40 (full), fewer if not as many pentagons with exactly one unlearned feature are among
    5 times as many models with n = 6; each with one hexagon donor, in turn, and trained on its own data.
    Controls: unpatched; self (its own weights put back: must change nothing); redraw (random initial weights of the
    donor's norm); rerun (unpatched, other data).
    """
    return judge_patching(patch_hexagons(train_polygons(6, 5 * n_models), n_models))


def patch_hexagons(run: Run, n_recipients: int) -> pd.DataFrame:
    """Patch recipients from hexagons and train again: `recipient`, `condition`, `outcome` (1: a hexagon)."""
    from tms_hooks.models.toy import ToyModel

    recipe = run.recipe
    donors = (polygon_names(run.W_E) == "hexagon").nonzero()[0]
    tables = []
    for i, (model, feature) in enumerate(stuck_features(run)[:n_recipients] if len(donors) else []):
        table = probes.init_patching(
            ToyModel(recipe.cfg, seed=recipe.seeds[model]),
            ToyModel(recipe.cfg, seed=recipe.seeds[donors[i % len(donors)]]),
            {"W_E": feature},
            lambda models, seeds: (
                train(
                    recipe.cfg,
                    recipe.data,
                    init=models,
                    seeds=seeds,
                    steps=recipe.total_steps,
                    optimizer=recipe.optimizer,
                    record_every=recipe.total_steps,
                    progress=False,
                ).models
            ),
            compare=lambda trained: geometry.name_polytope(trained.W_E.detach()) == "hexagon",
            seed=recipe.seeds[model],
        )
        tables.append(table.assign(recipient=model))
    columns = ["recipient", "condition", "outcome"]
    return pd.concat(tables)[columns] if tables else pd.DataFrame(columns=columns)


def judge_patching(table: pd.DataFrame) -> Verdict:
    """Does the donor's start make hexagons, where random starts and new data do not?"""
    outcomes = table.pivot_table(index="recipient", columns="condition", values="outcome").reindex(
        columns=["unpatched", "self", "patched", "redraw", "rerun"]
    )
    patched, n = outcomes["patched"], len(outcomes)

    def against(control: str) -> tuple[int, int]:
        differ = patched != outcomes[control]
        return int(patched[differ].sum()), int(differ.sum())

    found = stats.weakest_share(
        {
            "patched that end as a hexagon": (int(patched.sum()), n),
            "patched rather than redrawn, where they differ": against("redraw"),
            "patched rather than re-run, where they differ": against("rerun"),
        }
    )
    rates = {str(condition): float(share) for condition, share in outcomes.mean().items()}
    intervals = [stats.wilson(int(outcomes[c].sum()), n) if n else (0.0, 1.0) for c in rates]
    low, high = (np.array(ends) for ends in zip(*intervals, strict=True))
    return Verdict(
        measured=f"The smallest of three shares ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=2 * n,
        controls={f"hexagons, {condition}": rate for condition, rate in rates.items()} | {"recipients": float(n)},
        detail=f"Hexagons among {n} recipients: "
        + ", ".join(f"{rate:.0%} {condition}" for condition, rate in rates.items())
        + ".",
        figures=[
            (
                "Share of recipients that end as a hexagon, by what its unlearned feature started from.",
                plots.shares(list(rates), np.array(list(rates.values())), low, high),
            )
        ]
        if n
        else (),
    )


def _relative(values: np.ndarray, stuck: Sequence[Stuck]) -> float:
    """Mean over models of the stuck feature's value in units of the others' mean."""
    ratios = [values[i, j] / np.delete(values[i], j).mean() for i, j in stuck]
    return float(np.mean(ratios)) if ratios else float("nan")
