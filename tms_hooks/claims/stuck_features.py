"""Claims of "Pentagon vs Hexagon" about the feature that a pentagon leaves out: is it stuck, did its start decide?

Setting, models and names are those of `tms_hooks.claims.hexagons`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import probes
from tms_hooks import geometry, landscape, plots, stats
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.hexagons import polygon_names, train_polygons
from tms_hooks.claims.lab import LEARNED
from tms_hooks.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go


CONDITIONS = ["unpatched", "self", "patched", "redraw", "rerun"]
Places = Sequence[landscape.CriticalPoint]


def stuck_features(run: Run, learned: float = LEARNED) -> list[tuple[int, int]]:
    """The pentagons of a run with exactly one unlearned feature: (model, feature)."""
    dead = ~geometry.represented(run.W_E, learned)
    pentagons = (polygon_names(run.W_E, learned) == "pentagon") & (dead.sum(1) == 1).numpy()
    return [(int(i), int(dead[i].nonzero()[0, 0])) for i in pentagons.nonzero()[0]]


def hexagons_of(run: Run) -> list[int]:
    """The models of a run that are hexagons."""
    return [*map(int, np.flatnonzero(polygon_names(run.W_E) == "hexagon"))]


@claim("stuck-feature", "H", quick=5, full=20, counts="pentagons")
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
    gradients = run.history.grad_norm.mean("step").values
    symptoms = {
        "loss of the unlearned feature, others' = 1": _relative(run.final_feature_loss.numpy(), stuck),
        "gradient norm of the unlearned feature, others' = 1": _relative(gradients, stuck),
        **{f"pentagons with one feature up to {cut}": float(len(stuck_features(run, cut))) for cut in (0.3, 0.5, 0.7)},
    }
    hexagons = places(run, hexagons_of(run)[: n_models // 2])
    pentagons = places(run, [model for model, _ in stuck])
    return judge_stuck(pentagons, hexagons, symptoms, lambda: training_figures(run, stuck))


def _relative(values: np.ndarray, stuck: Sequence[tuple[int, int]]) -> float:
    """Mean over models of the stuck feature's value in units of the others' mean."""
    return float(np.mean([values[i, j] / np.delete(values[i], j).mean() for i, j in stuck] or np.nan))


def training_figures(run: Run, stuck: Sequence[tuple[int, int]]) -> dict[str, "go.Figure"]:
    """The unlearned feature beside the others through training, and paths of three models."""
    steps = run.history.step.values
    models, features = (list(index) for index in zip(*stuck, strict=True))
    figures = {}
    for name, label in (("loss", "loss"), ("grad_norm", "gradient norm")):
        values = run.history[name].values[:, models]
        unlearned = values[:, np.arange(len(stuck)), features]
        others = (values.sum(-1) - unlearned) / (values.shape[-1] - 1)
        lines = {"the unlearned feature": (steps, unlearned.mean(1)), "each other feature": (steps, others.mean(1))}
        figures[f"Mean {label} of a feature through training."] = plots.curves(lines, "step", label)
    paths = run.history.W_E.values[:, models[:3]].swapaxes(0, 1)
    titles = [f"seed {run.recipe.seeds[model]}, feature {feature} unlearned" for model, feature in stuck[:3]]
    return figures | {"Feature directions through training.": plots.trajectories(paths, titles)}


def places(run: Run, models: Iterable[int]) -> Places:
    """Where these models sit on the landscape of the exact expected loss."""
    return [landscape.critical_point(run.models[i], run.recipe.setting.data) for i in models]


def judge_stuck(
    pentagons: Places, hexagons: Places, symptoms: Mapping[str, float], training: "Callable[[], dict[str, go.Figure]]"
) -> Verdict:
    """Share of pentagons on a saddle; `training`: makes figures of how they came there."""
    five, six = (np.array([point.kind for point in points], dtype=str) for points in (pentagons, hexagons))
    eigenvalues = {
        name: np.concatenate([point.eigenvalues.numpy() for point in points])
        for name, points in (("pentagons", pentagons), ("hexagons", hexagons))
        if points
    }
    return Verdict.of_shares(
        "The share of pentagons with one unlearned feature that lie on a saddle",
        {"": five == "saddle"},
        n_models=len(five),
        controls={
            "hexagons on a saddle": lab.mean(six == "saddle"),
            "hexagons": len(six),
            "pentagons in a minimum": lab.mean(five == "minimum"),
            "pentagons near no critical point": lab.mean(five == "not critical"),
            **symptoms,
        },
        detail=f"{lab.listing('Pentagons', Counter(five))} {lab.listing('Hexagons', Counter(six))} "
        + lab.listing("Symptoms", symptoms, ".3g"),
        figures=lambda: {
            "Eigenvalues of the Hessian of the exact loss, symmetries set aside: one below 0 makes a saddle.": (
                plots.strips(eigenvalues, "eigenvalue", levels={"0": 0.0})
            ),
            **training(),
        },
    )


@claim("hexagon-patching", "H", quick=10, full=40, counts="recipients")
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

    recipe, donors = run.recipe, hexagons_of(run)

    def start(model: int) -> ToyModel:
        return ToyModel(recipe.cfg, seed=recipe.seeds[model])

    def retrain(models: list[ToyModel], seeds: list[int]) -> Sequence[ToyModel]:
        data, steps, optimizer = recipe.setting.data, recipe.total_steps, recipe.setting.optimizer
        return lab.train_from(recipe.cfg, data, models, steps=steps, optimizer=optimizer, seeds=seeds).models

    tables = []
    for i, (model, feature) in enumerate(stuck_features(run)[:n_recipients] if donors else []):
        table = probes.init_patching(
            start(model),
            start(donors[i % len(donors)]),
            {"W_E": feature},
            retrain,
            compare=lambda trained: geometry.name_polytope(trained.W_E.detach()) == "hexagon",
            seed=recipe.seeds[model],
        )
        tables.append(table.assign(recipient=model))
    return pd.concat(tables) if tables else pd.DataFrame(columns=["recipient", "condition", "outcome"])


def judge_patching(table: pd.DataFrame) -> Verdict:
    """Does the donor's start make hexagons, where random starts and new data do not?"""
    outcomes = table.pivot_table(index="recipient", columns="condition", values="outcome").reindex(columns=CONDITIONS)
    hexagons = {str(condition): (int(count), len(outcomes)) for condition, count in outcomes.sum().items()}

    def against(control: str) -> tuple[int, int]:
        differ = outcomes["patched"] != outcomes[control]
        return int(outcomes["patched"][differ].sum()), int(differ.sum())

    shares = {condition: lab.mean(outcomes[condition]) for condition in hexagons}
    return Verdict.of_shares(
        "The smallest of three shares",
        {
            "patched that end as a hexagon": hexagons["patched"],
            "patched rather than redrawn, where they differ": against("redraw"),
            "patched rather than re-run, where they differ": against("rerun"),
        },
        n_models=2 * len(outcomes),
        controls={f"hexagons, {name}": share for name, share in shares.items()} | {"recipients": len(outcomes)},
        detail=lab.listing(f"Hexagons among {len(outcomes)}", shares, ".0%"),
        figures=lambda: {
            "Share of recipients that end as a hexagon, by what its unlearned feature started from.": plots.shares(
                list(shares),
                np.array(list(shares.values())),
                *np.array([stats.wilson(*counts) for counts in hexagons.values()]).T,
            )
        },
    )
