"""Claims of "Superposition and bottlenecks" about binary one-hot features: the identity matrix is the whole data set.

Tied weights, no bias, all gradients and losses exact. Two recipes: the document's (`train_documented`), which decides
what the document says, and the usual one, 5,000 steps. "Learned" means a norm above 0.1, since features that share a
direction share its norm.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, stats, theory
from tms_hooks.claims import Verdict, claim, lab, share, statistic
from tms_hooks.claims.biases import documented
from tms_hooks.claims.lab import Stacked, Trained
from tms_hooks.config import Activation, ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.run import Run

LEARNED, CUTS = lab.ONE_HOT_LEARNED, lab.ONE_HOT_CUTS
STEPS = 5_000
SOURCE = (10, 40)
"""The document's two numbers of features."""


def train_onehot(
    n_features: int, d_hidden: int, n_models: int, output_act: Activation, steps: int = STEPS, **settings: Any
) -> Run:
    """One-hot toys, tied and without bias."""
    cfg = ToyConfig(n_features=n_features, d_hidden=d_hidden, output_bias=False, output_act=output_act)
    return lab.train_toys(cfg, OneHot(n_features=n_features), n_models, steps=steps, **settings)


def train_documented(
    n_features: int, d_hidden: int, n_models: int, output_act: Activation = "relu", **settings: Any
) -> Run:
    """The same from `torch.nn.Linear`'s initialization, by the document's schedule on `torch.nn.MSELoss`."""
    cfg = ToyConfig(n_features=n_features, d_hidden=d_hidden, output_bias=False, output_act=output_act, init="linear")
    optimizer = documented(2 / n_features)
    return lab.train_toys(cfg, OneHot(n_features=n_features), n_models, steps=30_000, optimizer=optimizer, **settings)


def has_directions(W: Stacked, wanted: int, learned: float = LEARNED) -> np.ndarray:
    """Which models learn this many directions."""
    return geometry.count_directions(W, learned).eq(wanted).numpy()


def mean_directions(W: Mapping[int, Stacked], learned: float = LEARNED) -> dict[int, float]:
    """Mean number of directions learned, by whatever the models are sorted by."""
    return {key: lab.mean(geometry.count_directions(w, learned)) for key, w in W.items()}


def shares_a_direction(W: Stacked, learned: float) -> np.ndarray:
    """Models with two learned features within 5 degrees of each other."""
    return np.array([any(len(group) > 1 for group in geometry.directions(w, learned)) for w in W])


def crowded(W: Stacked, learned: float = LEARNED) -> np.ndarray:
    """Share of each model's learned features that have another one within 5 degrees; NaN of none learned."""
    groups = [[len(group) for group in geometry.directions(w, learned)] for w in W]
    return np.array([sum(k for k in sizes if k > 1) / sum(sizes) if sizes else np.nan for sizes in groups])


@claim("pentagon-one-hot", "B", quick=8, full=60)
def pentagon_one_hot(n_models: int) -> Verdict:
    """One-hot features in two dimensions are learned in five directions, however many features there are.

    Part "pentagon": "In 2d, models learn a pentagon, as demonstrated in TMS."
    Statistic: the share of models with five distinct directions (5 degrees) among learned features (norm > 0.1), n =
    40, by the document's schedule.
    Threshold: above 1/2.
    Null: untrained models.

    Beyond the source "fewer features":
    Statistic: the share of models with five directions, n = 8, 12 and 20 together, by the usual recipe.
    Threshold: above 1/2.
    Null: untrained models.

    Size: 8 models for each n (quick), 60 (full).
    Controls: learned > 0.05 and > 0.2; a linear output; n = 5 by the usual recipe; how far the median loss of
    five-direction models is from the closed form n - 5 / sum cos^2, relatively, where it is furthest; and for which d
    the document's sum of squared cosines is least as printed, and with the factor 1/d that it lacks.
    """
    return judge_directions(
        Trained.of(train_documented(40, 2, n_models)),
        {n: Trained.of(train_onehot(n, 2, n_models, "relu")) for n in (5, 8, 12, 20)},
        {n: lab.untrained_directions(n, 2, n_models) for n in (8, 12, 20, 40)},
        train_onehot(40, 2, n_models, "identity").W_E,
    )


def printed_sum(d: int) -> float:
    """The document's sum of squared cosines over the directions at most a quarter turn away.

    >>> round(printed_sum(4), 12), round(printed_sum(5), 2)
    (1.0, 1.19)
    """
    turns = 2 * np.pi / d * np.arange(-(d // 4), d // 4 + 1)
    return float(np.square(np.cos(turns)).sum())


def judge_directions(
    source: Trained, usual: Mapping[int, Trained], start: Mapping[int, Stacked], linear: Stacked
) -> Verdict:
    """Do models learn five directions whatever the number of features, and at the closed form's loss?"""
    every = {n: models for n, models in usual.items() if n > 5} | {source.W.shape[1]: source}
    excess = [
        n * float(np.median(loss[five])) / theory.onehot_polygon_loss(n, 5) - 1  # trained: mean over inputs
        for n, (W, loss) in every.items()
        if (five := has_directions(W, 5)).any()
    ]
    fewer = {n: models.W for n, models in usual.items() if n > 5}
    five = has_directions(source.W, 5)
    counts = {f"n = {n}": lab.tally(geometry.count_directions(W, LEARNED)) for n, (W, _) in {**usual, **every}.items()}
    sums = {d: printed_sum(d) for d in range(3, 41)}
    return Verdict(
        parts={
            "pentagon": share(
                "The share of models with five directions, n = 40,",
                five,
                null=has_directions(start[source.W.shape[1]], 5),
                best=source.best(five),
            ),
            "fewer features": share(
                "The share of models with five directions, n = 8, 12 and 20,",
                np.concatenate([has_directions(W, 5) for W in fewer.values()]),
                null=np.concatenate([has_directions(start[n], 5) for n in fewer]),
            ),
        },
        n_models=len(source.W) + lab.total(fewer),
        controls=lab.at_cuts(lambda cut: has_directions(source.W, 5, cut).mean(), CUTS)
        | {
            "linear output": has_directions(linear, 5).mean(),
            "n = 5": has_directions(usual[5].W, 5).mean(),
            "loss relative to the closed form, less 1": max(excess, key=abs, default=np.nan),
            "d of the least sum, as printed": min(sums, key=lambda d: round(sums[d], 9)),
            "d of the least sum / d": max(sums, key=lambda d: d / sums[d]),
        },
        detail=lab.listing("Number of directions learned", counts),
        figures={
            "Mean number of directions learned against the number of features.": lab.curves(
                {"ReLU": mean_directions({n: W for n, (W, _) in sorted({**usual, **every}.items())})},
                "features",
                "directions",
            ),
            "40 features: the first four models.": plots.feature_arrows(
                source.W[:4].numpy(), lab.seed_names(source.W[:4])
            ),
        },
    )


@claim("relu-degenerate-gelu-not", "B", quick=8, full=60, seconds=27)
def relu_degenerate_gelu_not(n_models: int) -> Verdict:
    """ReLU puts several features on one direction; GELU only one, with norms nearer to 1, and learns faster.

    Part "degenerate": "With ReLU, there is a lot of degeneracy in the solution".
    Statistic: the mean share of a ReLU model's learned features (norm > 0.1) that have another one within 5 degrees.
    Threshold: above 1/2.
    Null: untrained models.

    Part "one per direction": "With GELU, models learn a pentagon that has closer to unit norm and only one feature per
    direction."
    Statistic: the share of GELU models with five directions and no two learned features on one of them.
    Threshold: above 1/2.
    Null: ReLU models.

    Part "unit norm": "With GELU, models learn a pentagon that has closer to unit norm and only one feature per
    direction."
    Statistic: the mean over seeds of the mean |norm - 1| of learned features under ReLU, less that under GELU.
    Threshold: above 0.
    Null: none, since the statistic is a difference from the control.

    Part "faster": "Features are also learned faster".
    Statistic: the mean over seeds of log2 of the steps that ReLU takes to come, for good, within 1 % of its final loss,
    over those that GELU takes to its own.
    Threshold: above 0.
    Null: none, since the statistic is a difference from the control.

    Beyond the source "faster under Adam":
    Statistic: the same by the usual recipe (the loss is recorded every 5 steps).
    Threshold: above 0.
    Null: none, since the statistic is a difference from the control.

    Size: 8 seeds (quick), 60 (full), for each activation: n = 10 in two dimensions by the document's schedule (the
    loss is recorded every 30 steps).
    Controls: features per direction, mean norm and median steps of each; steps until the loss has fallen half-way; "one
    per direction" and "unit norm" at learned > 0.05 and > 0.2, and n = 40 (8 models).
    """
    source = {act: train_documented(10, 2, n_models, act, record_every=30) for act in ("relu", "gelu")}
    adam = {act: train_onehot(10, 2, n_models, act, record_every=5) for act in ("relu", "gelu")}
    return judge_degeneracy(
        {act: run.W_E for act, run in source.items()},
        {act: learning_steps(run) for act, run in source.items()},
        {
            "Adam": {act: learning_steps(run) for act, run in adam.items()},
            "half-way": {act: learning_steps(run, half_way=True) for act, run in source.items()},
        },
        lab.untrained(source["relu"].recipe.cfg, n_models)["W_E"],
        {act: train_documented(40, 2, min(n_models, 8), act).W_E for act in ("relu", "gelu")},
    )


def learning_steps(run: Run, half_way: bool = False) -> np.ndarray:
    """First recorded step from which each model stays within 1 % of its final loss, or at half the way down to it."""
    loss, final = run.history.loss.sum("feature").values, run.final_loss.numpy()
    near = loss <= ((loss[0] + final) / 2 if half_way else 1.01 * final)
    return lab.settled(near, run.history.step.values)


def one_each(W: Stacked, learned: float = LEARNED) -> np.ndarray:
    """Models with five directions and one feature on each."""
    return has_directions(W, 5, learned) & ~shares_a_direction(W, learned)


def judge_degeneracy(
    W: Mapping[str, Stacked],
    steps: Mapping[str, np.ndarray],
    others: Mapping[str, Mapping[str, np.ndarray]],
    start: Stacked,
    many: Mapping[str, Stacked],
) -> Verdict:
    """ReLU against GELU, seed by seed.

    Args:
        W, steps: directions and learning steps by activation.
        others: learning steps of other recipes or measures, by activation.
        start: untrained directions.
        many: directions with more features.
    """
    off = {act: _off_unit(weights, LEARNED) for act, weights in W.items()}
    alive = {act: geometry.represented(w, LEARNED) for act, w in W.items()}
    norms = {act: geometry.feature_norms(w)[alive[act]] for act, w in W.items()}
    per_direction = {
        act: float((alive[act].sum(1) / geometry.count_directions(w, LEARNED).clamp(min=1)).double().mean())
        for act, w in W.items()
    }
    taken = {"document's schedule": steps} | dict(others)
    medians = {f"{act}, {name}": np.median(by_act[act]) for name, by_act in taken.items() for act in W}

    def ratio(by_act: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.log2(by_act["relu"]) - np.log2(by_act["gelu"])

    return Verdict(
        parts={
            "degenerate": statistic(
                "The mean share of ReLU's features that share a direction",
                lab.mean_of_known,
                crowded(W["relu"]),
                null=(crowded(start),),
            ),
            "one per direction": share(
                "The share of GELU models with one feature on each of five directions",
                one_each(W["gelu"]),
                null=one_each(W["relu"]),
            ),
            "unit norm": statistic("ReLU's distance from unit norm less GELU's", lab.mean, off["relu"] - off["gelu"]),
            "faster": statistic("log2 of ReLU's steps over GELU's", lab.mean, ratio(steps)),
            "faster under Adam": statistic("log2 of ReLU's steps over GELU's", lab.mean, ratio(others["Adam"])),
        },
        n_models=lab.total(W),
        controls={f"features per direction, {act}": value for act, value in per_direction.items()}
        | {f"mean norm, {act}": float(values.mean()) for act, values in norms.items()}
        | {f"median steps, {name}": value for name, value in medians.items()}
        | lab.at_cuts(lambda cut: one_each(W["gelu"], cut).mean(), CUTS, "one per direction, ")
        | lab.at_cuts(lambda cut: (_off_unit(W["relu"], cut) - _off_unit(W["gelu"], cut)).mean(), CUTS, "unit norm, ")
        | {
            "one per direction, n = 40": one_each(many["gelu"]).mean(),
            "unit norm, n = 40": (_off_unit(many["relu"], LEARNED) - _off_unit(many["gelu"], LEARNED)).mean(),
        },
        detail=lab.listing("Median steps to within 1 % of the final loss, or half-way", medians, ".0f"),
        figures={
            "Norms of the learned features.": plots.distributions(
                {act: values.numpy() for act, values in norms.items()}, "feature norm", lab.colors(W)
            ),
            **{
                f"{act}: the first four models.": plots.feature_arrows(w[:4].numpy(), lab.seed_names(w[:4]))
                for act, w in W.items()
            },
        },
    )


@claim("nine-in-three-d", "B", quick=8, full=40)
def nine_in_three_d(n_models: int) -> Verdict:
    """One-hot features in three dimensions are always learned in nine directions by ReLU, and in various by GELU.

    Part "nine": "In 3d, ReLU always learns the 9 sided shape."
    Statistic: the share of ReLU models with nine distinct directions among learned features (norm > 0.1), n = 40 by the
    usual recipe (under the document's schedule features drift apart along flat directions: a control).
    Threshold: above 0.9 ("always").
    Null: untrained models.

    Part "variety": "GELU on the other hand learns a variety of shapes (square antiprism and pentagonal dipyramid)."
    Statistic: the share of GELU models whose shape is not the most frequent one, n = 10 and 40, each by the document's
    schedule.
    Threshold: above 0.1.
    Null: ReLU models, n = 40.

    Part "antiprism or dipyramid": "GELU on the other hand learns a variety of shapes (square antiprism and pentagonal
    dipyramid)."
    Statistic: the share of the same GELU models that are one of those two.
    Threshold: above 1/2.
    Null: untrained models of eight features.

    Beyond the source "few features":
    Statistic: the share of ReLU models with nine directions at n = 10 and 12 (the other arms stay).
    Threshold: above 0.9.
    Null: untrained models.

    Size: 8 models for each n (quick), 40 (full), half as many under GELU.
    Controls: learned > 0.05 and > 0.2; nine by the document's schedule; the loss that nine and that eight directions
    prevent at n = 10; "antiprism or dipyramid" at n = 8, where no ninth feature is in the way; the shapes.
    """
    few = {n: Trained.of(train_onehot(n, 3, n_models, "relu")) for n in (10, 12)}
    return judge_nine(
        Trained.of(train_onehot(40, 3, n_models, "relu")),
        few,
        {n: Trained.of(train_documented(n, 3, n_models // 2, "gelu")) for n in (8, *SOURCE)},
        {n: lab.untrained_directions(n, 3, n_models) for n in (8, 10, 12, 40)},
        train_documented(40, 3, n_models).W_E,
    )


TWO_SHAPES = ("square antiprism", "pentagonal bipyramid")


def shape_names(W: Stacked) -> list[str]:
    """Number of directions and nearest polytope of each model."""
    return [f"{len(geometry.directions(w, LEARNED))}: {geometry.name_polytope(w, LEARNED)}" for w in W]


def judge_nine(
    relu: Trained, few: Mapping[int, Trained], gelu: Mapping[int, Trained], start: Mapping[int, Stacked], drift: Stacked
) -> Verdict:
    """Do ReLU models always learn nine directions, and GELU models one of several shapes?

    Args:
        relu: ReLU models of many features.
        few, gelu: ReLU models of few features; GELU models; by number of features.
        start: untrained directions by number of features.
        drift: ReLU models by the document's schedule.
    """
    nine = has_directions(relu.W, 9)
    names = {"ReLU": shape_names(relu.W)} | {f"GELU, n = {n}": shape_names(models.W) for n, models in gelu.items()}
    at_source = {name: found for name, found in names.items() if name not in ("ReLU", "GELU, n = 8")}

    def rarer(found: list[str]) -> np.ndarray:
        return np.array(found) != max(found, key=found.count)

    def one_of_two(found: list[str]) -> np.ndarray:
        return np.array([name.split(": ")[1] in TWO_SHAPES for name in found])

    shapes = {name: stats.census(found, np.zeros(len(found)), "_") for name, found in names.items()}
    text = "; ".join(
        f"{name}: " + ", ".join(f"{row.share:.0%} {row.name}" for _, row in table.head(4).iterrows())
        for name, table in shapes.items()
    )
    prevented = {
        f"loss prevented by {k} directions, n = 10": 10 * (1 - few[10].loss[has_directions(few[10].W, k)].mean())
        for k in (8, 9)
        if 10 in few and has_directions(few[10].W, k).any()
    }
    drawn = {"ReLU": relu.W} | {f"GELU, n = {n}": models.W for n, models in gelu.items()}
    return Verdict(
        parts={
            "nine": share(
                "The share of ReLU models with nine directions",
                nine,
                null=has_directions(start[relu.W.shape[1]], 9),
                best=relu.best(nine),
            ),
            "variety": share(
                "The share of GELU models with another than the most frequent shape",
                np.concatenate([rarer(found) for found in at_source.values()]),
                null=rarer(names["ReLU"]),
            ),
            "antiprism or dipyramid": share(
                "The share of GELU models that are a square antiprism or a pentagonal bipyramid",
                np.concatenate([one_of_two(found) for found in at_source.values()]),
                null=one_of_two(shape_names(start[8])),
            ),
            "few features": share(
                "The share of ReLU models with nine directions, n = 10 and 12,",
                np.concatenate([has_directions(models.W, 9) for models in few.values()]),
                null=np.concatenate([has_directions(start[n], 9) for n in few]),
            ),
        },
        n_models=len(relu.W) + sum(len(models.W) for n, models in gelu.items() if n != 8),
        controls=lab.at_cuts(lambda cut: has_directions(relu.W, 9, cut).mean(), CUTS)
        | {"nine, document's schedule": has_directions(drift, 9).mean()}
        | prevented
        | {f"antiprism or dipyramid, {name}": one_of_two(found).mean() for name, found in names.items()}
        | {f"shapes, {name}": len(table) for name, table in shapes.items()},
        detail=f"Directions and nearest polytope: {text}.",
        figures={
            f"{name}: directions and nearest polytope.": plots.shares(
                list(t.index), *(t[c].to_numpy() for c in ("share", "share_low", "share_high"))
            )
            for name, t in shapes.items()
        }
        | {
            f"{name}: the first model of each of the most frequent shapes, to be turned.": plots.polyhedra(
                {
                    title: _vertices(torch.from_numpy(W))
                    for title, W in plots.typical(each.numpy(), names[name], 3).items()
                }
            )
            for name, each in drawn.items()
        },
    )


def _vertices(W: Float[Tensor, "feature hidden"]) -> np.ndarray:
    """The distinct directions of one model, at unit length."""
    mean = torch.stack([W[group].mean(0) for group in geometry.directions(W, LEARNED)])
    return torch.nn.functional.normalize(mean, dim=-1).numpy()


def _off_unit(W: Stacked, learned: float) -> np.ndarray:
    """Mean absolute difference of the learned features' norms from 1; 1 where nothing is learned."""
    norms = geometry.feature_norms(W)
    return np.array([float((n[n > learned] - 1).abs().mean()) if (n > learned).any() else 1.0 for n in norms])
