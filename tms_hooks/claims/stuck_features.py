"""Claims of "Pentagon vs Hexagon" about the feature that a pentagon leaves out: is it stuck, did its start decide?

Setting, models and names are those of `tms_hooks.claims.hexagons`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

import probes
from tms_hooks import geometry, landscape, plots, stats
from tms_hooks.claims import Part, Verdict, claim, lab, seeds, share, statistic
from tms_hooks.claims.hexagons import STEPS, train_polygons
from tms_hooks.claims.lab import LEARNED
from tms_hooks.landscape.exact import exact_losses
from tms_hooks.models.forward import init_weights
from tms_hooks.run import Run

CONDITIONS = ["unpatched", "self", "patched", "redraw", "rerun"]
Places = Sequence[landscape.CriticalPoint]


def stuck_features(run: Run, learned: float = LEARNED) -> list[tuple[int, int]]:
    """The pentagons of a run with exactly one unlearned feature: (model, feature)."""
    dead = ~geometry.represented(run.W_E, learned)
    pentagons = (lab.shape_names(run.W_E, learned) == "pentagon") & (dead.sum(1) == 1).numpy()
    return [(int(i), int(dead[i].nonzero()[0, 0])) for i in pentagons.nonzero()[0]]


def hexagons_of(run: Run) -> list[int]:
    """The models of a run that are hexagons."""
    return [*map(int, np.flatnonzero(lab.shape_names(run.W_E) == "hexagon"))]


@claim("stuck-feature", "H", quick=3, full=16, counts="pentagons", seconds=50)
def stuck_feature(n_models: int) -> Verdict:
    """The feature that a pentagon has not learned, high in loss and low in gradient, is stuck on a saddle point.

    Pentagons with exactly one unlearned feature (norm up to 0.5), the first among ten times as many models with n = 6.
    Losses and gradients are those of the exact expected loss, at 6 recorded steps from start to end, evenly spaced on a
    log scale. A feature's gradient is that of the whole loss with respect to its direction.

    Part "starts with a high loss": "the other one is starting from a very high loss (very far from the optimal point)".
    Statistic: the unlearned feature's loss at the start in units of the mean of the others'.
    Threshold: above 1.
    Null: the feature of the same number in hexagons, half as many.

    Part "starts low": "the gradient updates for two features (dark blue and red) start at a very low point".
    Statistic: the norm of its gradient at the start in units of the mean of the others'.
    Threshold: below 1.
    Null: none, since the statistic compares with the other features already.

    Part "stays low": "still has low gradient updates".
    Statistic: the same over training: the geometric mean over the recorded steps.
    Threshold: below 1.
    Null: none, since the statistic compares with the other features already.

    Part "saddle": "indicating that its stuck in a saddle point and is unable to escape".
    Statistic: the share of these pentagons that lie on a saddle of the exact expected loss: polished by Newton steps to
    the critical point they are near, its Hessian, symmetries set aside, has a negative eigenvalue. A model that is near
    no critical point counts as not on a saddle.
    Threshold: above 1/2.
    Null: hexagons, half as many.

    Size: 3 such pentagons (quick), 16 (full).
    Controls: models in a minimum and near no critical point; the unlearned feature's loss and gradient at the end,
    relative to the others'; how many pentagons have one unlearned feature at cut-offs 0.3, 0.5 and 0.7.
    """
    run = train_polygons(6, 10 * n_models)
    stuck = stuck_features(run)[:n_models]
    hexagons = hexagons_of(run)[: max(n_models // 2, 1)]
    steps, courses = courses_of(run, [model for model, _ in stuck] + hexagons)
    features = [feature for _, feature in stuck]
    return judge_stuck(
        places(run, [model for model, _ in stuck]),
        places(run, hexagons),
        (steps, courses[: len(stuck)], courses[len(stuck) :]),
        features,
        {f"pentagons with one feature up to {cut}": len(stuck_features(run, cut)) for cut in (0.3, 0.5, 0.7)},
    )


Course = Float[np.ndarray, "model record 2 feature"]
"""Exact loss of each feature and norm of its gradient, through training."""


def courses_of(run: Run, models: Sequence[int], count: int = 6) -> tuple[np.ndarray, Course]:
    """Recorded steps from start to end, and the course of these models there."""
    steps = run.history.step.values
    at = np.unique(np.geomspace(1, len(steps), count).round().astype(int)) - 1
    found = np.empty((len(models), len(at), 2, run.recipe.cfg.n_features))
    for m, model in enumerate(models):
        for r, record in enumerate(at):
            weights = {
                name: torch.from_numpy(run.history[name].values[record, model]).double() for name in ("W_E", "b_U")
            }
            weights["W_E"].requires_grad_()
            losses = exact_losses(weights, run.recipe.cfg, run.recipe.setting.data)
            (gradient,) = torch.autograd.grad(losses.sum(), weights["W_E"])
            found[m, r] = np.stack([losses.detach().numpy(), gradient.norm(dim=1).numpy()])
    return steps[at], found


def relative(course: Course, features: Sequence[int]) -> Float[np.ndarray, "model record 2"]:
    """One feature's loss and gradient in units of the mean of the others', for a feature of each model."""
    own = (
        np.stack([course[m, :, :, feature] for m, feature in enumerate(features)]) if len(features) else course[..., 0]
    )
    others = (course.sum(-1) - own) / (course.shape[-1] - 1)
    return own / others


def places(run: Run, models: Iterable[int]) -> Places:
    """Where these models sit on the landscape of the exact expected loss."""
    return [landscape.critical_point(run.models[i], run.recipe.setting.data) for i in models]


def judge_stuck(
    pentagons: Places,
    hexagons: Places,
    courses: tuple[np.ndarray, Course, Course],
    features: Sequence[int],
    counts: Mapping[str, int],
) -> Verdict:
    """Are pentagons on saddles, and had their unlearned `features` high losses and low gradients?

    `courses` are recorded steps, and how pentagons and hexagons came there.
    """
    five, six = (np.array([point.kind for point in points], dtype=str) for points in (pentagons, hexagons))
    steps, of_pentagons, of_hexagons = courses
    found = relative(of_pentagons, features)
    null = relative(of_hexagons, [features[i % len(features)] for i in range(len(of_hexagons))] if features else [])
    eigenvalues = {
        name: np.concatenate([point.eigenvalues.numpy() for point in points])
        for name, points in (("pentagons", pentagons), ("hexagons", hexagons))
        if points
    }

    def over_training(ratios: np.ndarray) -> float:
        return float(np.exp(np.log(ratios).mean(1)).mean())

    def part(what: str, function: "Callable[..., float]", *samples: np.ndarray, **more: Any) -> Part:
        return statistic(
            f"The unlearned feature's {what}, the others' being 1,", function, *samples, unit="pentagons", **more
        )

    lines = {
        name: course[0] for name, course in (("a pentagon", of_pentagons), ("a hexagon", of_hexagons)) if len(course)
    }
    marked = {"a pentagon": features[0]} if features else {}
    return Verdict(
        parts={
            "starts with a high loss": part("loss at the start", np.mean, found[:, 0, 0], null=(null[:, 0, 0],)),
            "starts low": part("gradient at the start", np.mean, found[:, 0, 1]),
            "stays low": part("gradient over training", over_training, found[:, :, 1]),
            "saddle": share(
                "The share of pentagons with one unlearned feature that lie on a saddle",
                five == "saddle",
                null=six == "saddle",
                unit="pentagons",
            ),
        },
        n_models=len(five),
        controls={
            "hexagons": len(six),
            "pentagons in a minimum": lab.mean(five == "minimum"),
            "pentagons near no critical point": lab.mean(five == "not critical"),
            "loss at the end, others' = 1": lab.mean(found[:, -1, 0]),
            "gradient at the end, others' = 1": lab.mean(found[:, -1, 1]),
            "steps at which the unlearned feature has the least gradient": lab.mean(
                of_pentagons[m, :, 1].argmin(1) == feature for m, feature in enumerate(features)
            ),
            **counts,
        },
        detail=f"{lab.listing('Pentagons', Counter(five))} {lab.listing('Hexagons', Counter(six))}",
        figures={
            "Eigenvalues of the Hessian of the exact loss, symmetries set aside: one below 0 makes a saddle.": (
                plots.strips(eigenvalues, "eigenvalue", levels={"0": 0.0})
            ),
            "Exact loss of every feature through training; dashed: the unlearned one.": plots.feature_lines(
                steps, {name: course[:, 0] for name, course in lines.items()}, "loss", marked
            ),
            "Norm of every feature's exact gradient through training; dashed: the unlearned one.": plots.feature_lines(
                steps, {name: course[:, 1] for name, course in lines.items()}, "gradient norm", marked
            ),
        }
        if lines
        else {},
    )


@claim("hexagon-patching", "H", quick=8, full=40, counts="recipients")
def hexagon_patching(n_models: int) -> Verdict:
    """Giving a pentagon's unlearned feature the initial weights that it has in a hexagon's start yields a hexagon.

    Recipients are pentagons with exactly one unlearned feature among 5 times as many models with n = 6, each with one
    hexagon donor, in turn, and trained on its own data.

    Part "patched": "When the model is trained with this modified initial weight matrix, the resulting geometry
    showcases features arranged in a hexagon geometry after weight patching".
    Statistic: the share of patched models that end as a hexagon.
    Threshold: above 1/2.
    Null: random initial weights of the donor's norm.

    Beyond the source "rather than other data":
    Statistic: of the recipients where patched and re-run (unpatched, other data) differ, the share where the patched
    one is the hexagon.
    Threshold: above 1/2.
    Null: none, since the statistic compares pairs already.

    Size: 8 recipients (quick), 40 (full), fewer if there are not as many.
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
        data, optimizer = recipe.setting.data, recipe.setting.optimizer
        return lab.train_from(recipe.cfg, data, models, steps=STEPS, optimizer=optimizer, seeds=seeds).models

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
    return Verdict(
        parts={
            "patched": share(
                "The share of patched models that end as a hexagon",
                hexagons["patched"],
                null=hexagons["redraw"] if len(outcomes) else None,
                unit="recipients",
            ),
            "rather than other data": share(
                "Of recipients whose patched and re-run models differ, the share where the patched is the hexagon",
                against("rerun"),
                unit="recipients that differ",
            ),
        },
        n_models=2 * len(outcomes),
        controls={f"hexagons, {name}": part for name, part in shares.items()} | {"recipients": len(outcomes)},
        detail=lab.listing(f"Hexagons among {len(outcomes)}", shares, ".0%"),
        figures={
            "Share of recipients that end as a hexagon, by what its unlearned feature started from.": plots.shares(
                list(shares),
                np.array(list(shares.values())),
                *np.array([stats.wilson(*counts) for counts in hexagons.values()]).T,
            )
        }
        if len(outcomes)
        else {},
    )


@claim("whole-start", "H", quick=100, full=300)
def whole_start(n_models: int) -> Verdict:
    """A hexagon's whole start gives a hexagon again, on other data.

    The document's models with n = 6; hexagons, and as many pentagons, begin anew from the weights they began with, on
    three other sets of training data each.

    Part "again": "This analysis indicates the effect of initialization on the starting point of features in the
    coordinate space and how it affects the resulting feature geometry."
    Statistic: the share of hexagons' starts of which at least two of three re-runs end as a hexagon.
    Threshold: above 1/2.
    Null: pentagons' starts.

    Beyond the source "more than at any start":
    Statistic: the mean share of re-runs from a hexagon's start that end as a hexagon, less the share of hexagons among
    all models; starts are resampled.
    Threshold: above 0.
    Null: re-runs from a pentagon's start.

    Size: the hexagons among 100 models (quick), 300 (full).
    Controls: the share of hexagons among all models; of re-runs from pentagons' starts.
    """
    run = train_polygons(6, n_models)
    names = lab.shape_names(run.W_E)
    hexagons = [*np.flatnonzero(names == "hexagon")]
    pentagons = [*np.flatnonzero(names == "pentagon")][: len(hexagons)]
    return judge_starts(rerun(run, hexagons), rerun(run, pentagons), float((names == "hexagon").mean()))


def rerun(run: Run, models: Sequence[int], times: int = 3) -> Bool[np.ndarray, "model time"]:
    """Which of these models, from their own starts and on other data, become hexagons."""
    if not len(models):
        return np.empty((0, times), dtype=bool)
    recipe = run.recipe
    starts = [init_weights(recipe.cfg, recipe.seeds[model]) for model in models]
    data, optimizer = recipe.setting.data, recipe.setting.optimizer
    ends = [
        lab.train_from(
            recipe.cfg,
            data,
            starts,
            steps=STEPS,
            optimizer=optimizer,
            seeds=seeds.of(range(first, first + len(models))),
        )
        for first in range(10**6, 10**6 + times * len(models), len(models))
    ]
    return np.stack([lab.shape_names(end.W_E) == "hexagon" for end in ends], axis=1)


def judge_starts(hexagons: np.ndarray, pentagons: np.ndarray, rate: float) -> Verdict:
    """Do starts of hexagons become hexagons again? Which re-runs do, of (model, time), and the share at any start."""
    return Verdict(
        parts={
            "again": share(
                "The share of hexagons' starts that give a hexagon again in two of three re-runs",
                hexagons.sum(1) >= 2,
                null=pentagons.sum(1) >= 2,
                unit="starts",
            ),
            "more than at any start": statistic(
                "The share of re-runs from a hexagon's start that end as a hexagon, less that at any start,",
                lambda rows: float(rows.mean() - rate),
                hexagons,
                null=(pentagons,),
                unit="starts",
            ),
        },
        n_models=hexagons.size,
        controls={
            "hexagons among all models": rate,
            "hexagons from a hexagon's start": lab.mean(hexagons.ravel()),
            "hexagons from a pentagon's start": lab.mean(pentagons.ravel()),
            "starts of hexagons": len(hexagons),
        },
        detail=f"Of all starts {rate:.1%} become hexagons.",
        figures={
            "Of three re-runs on other data, from a model's whole start, how many end as a hexagon: share of starts.": (
                plots.grouped_shares(
                    {name: again_counts(ends) for name, ends in starts.items()}, "the start was that of"
                )
            )
        }
        if (starts := {name: ends for name, ends in (("a hexagon", hexagons), ("a pentagon", pentagons)) if len(ends)})
        else {},
    )


def again_counts(ends: Bool[np.ndarray, "model time"]) -> pd.DataFrame:
    """`stats.census` of starts by how many of their re-runs are hexagons."""
    counts = ends.sum(1)
    return stats.census([f"{count} of {ends.shape[1]} are hexagons" for count in counts], counts, "hexagons")
