"""Claims of "Superposition and bottlenecks" about binary one-hot features: the identity matrix is the whole data set.

Tied weights, no bias, all gradients exact; the usual recipe, 5,000 steps; "learned" means a norm above 0.1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, stats, theory
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.lab import Stacked
from tms_hooks.config import Activation, ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.run import Run

LEARNED, CUTS = lab.ONE_HOT_LEARNED, lab.ONE_HOT_CUTS
STEPS = 5_000


def train_onehot(
    n_features: int, d_hidden: int, n_models: int, output_act: Activation, steps: int = STEPS, **settings: Any
) -> Run:
    """One-hot toys, tied and without bias."""
    cfg = ToyConfig(n_features=n_features, d_hidden=d_hidden, output_bias=False, output_act=output_act)
    return lab.train_toys(cfg, OneHot(n_features=n_features), n_models, steps=steps, **settings)


def with_directions(W: Mapping[int, Stacked], wanted: int, learned: float = LEARNED) -> dict[str, np.ndarray]:
    """Which models learn this many directions, for each number of features."""
    return {f"n = {n}": geometry.count_directions(w, learned).eq(wanted).numpy() for n, w in W.items()}


def mean_directions(W: Mapping[int, Stacked], learned: float = LEARNED) -> dict[int, float]:
    """Mean number of directions learned, by whatever the models are sorted by."""
    return {key: lab.mean(geometry.count_directions(w, learned)) for key, w in W.items()}


def shares_a_direction(W: Stacked, learned: float) -> np.ndarray:
    """Models with two learned features within 5 degrees of each other."""
    return np.array([any(len(group) > 1 for group in geometry.directions(w, learned)) for w in W])


@claim("pentagon-one-hot", "B", quick=20, full=60)
def pentagon_one_hot(n_models: int) -> Verdict:
    """One-hot features in two dimensions are learned in five directions, however many features there are.

    Statistic: share of models with five distinct directions among learned features (norm > 0.1); the smallest over
    n = 5, 8, 12, 20 and 40.
    Threshold: above 1/2, for each n.
    Size: 20 models for each n (quick), 60 (full).
    Controls: learned > 0.05 and > 0.2; untrained weights; a linear output; the median loss of five-direction models
    relative to the closed form n - 5 / sum cos^2, less 1, where it is furthest from it.
    """
    runs = {n: train_onehot(n, 2, n_models, "relu") for n in (5, 8, 12, 20, 40)}
    return judge_directions(
        {n: run.W_E for n, run in runs.items()},
        {n: run.final_loss.numpy() for n, run in runs.items()},
        {
            "untrained": {n: lab.untrained_directions(n, 2, n_models) for n in runs},
            "linear output": {n: train_onehot(n, 2, n_models, "identity").W_E for n in runs},
        },
    )


def judge_directions(
    W: Mapping[int, Stacked], losses: Mapping[int, np.ndarray], others: Mapping[str, Mapping[int, Stacked]]
) -> Verdict:
    """Do models learn five directions whatever the number of features, and at the closed form's loss?"""
    counts = {n: geometry.count_directions(w, LEARNED) for n, w in W.items()}
    five = with_directions(W, 5)
    excess = [
        float(n * np.median(losses[n][held]) / theory.onehot_polygon_loss(n, 5) - 1)  # trained: mean over inputs
        for n, held in zip(W, five.values(), strict=True)
        if held.any()
    ]
    return Verdict.of_shares(
        "The smallest share of models with five directions",
        five,
        n_models=lab.total(W),
        controls=lab.at_cuts(lambda cut: lab.weakest(with_directions(W, 5, cut)), CUTS)
        | {name: lab.weakest(with_directions(other, 5)) for name, other in others.items()}
        | {"loss relative to the closed form, less 1": max(excess, key=abs, default=float("nan"))},
        detail=lab.listing("Number of directions learned", {f"n = {n}": lab.tally(c) for n, c in counts.items()}),
        figures={
            "Mean number of directions learned against the number of features.": lab.curves(
                {"ReLU": mean_directions(W)}, "features", "directions"
            ),
            **{
                f"{n} features: the first four models.": plots.feature_arrows(w[:4].numpy(), lab.seed_names(w[:4]))
                for n, w in list(W.items())[::2]
            },
        },
    )


@claim("relu-degenerate-gelu-not", "B", quick=20, full=60)
def relu_degenerate_gelu_not(n_models: int) -> Verdict:
    """ReLU puts several features on one direction; GELU only one, with norms nearer to 1, and learns faster.

    Statistic: the smallest of four shares, n = 10 in two dimensions: ReLU models with two learned features (norm > 0.1)
    on one direction; GELU models with none such; seeds for which GELU's norms of learned features are nearer to 1 (mean
    absolute difference); seeds for which GELU comes within 1 % of its final loss in fewer steps than ReLU of its own
    (the loss is recorded every 5 steps).
    Threshold: above 1/2, for each.
    Size: 20 seeds (quick), 60 (full), for each activation.
    Controls: the four shares; features per direction, mean norm and median steps of each; learned > 0.05 and > 0.2.
    """
    runs = {act: train_onehot(10, 2, n_models, act, record_every=5) for act in ("relu", "gelu")}
    return judge_degeneracy(
        {act: run.W_E for act, run in runs.items()}, {a: learning_steps(r) for a, r in runs.items()}
    )


def learning_steps(run: Run) -> np.ndarray:
    """First recorded step from which each model stays within 1 % of its final loss."""
    near = run.history.loss.sum("feature").values <= 1.01 * run.final_loss.numpy()
    return lab.settled(near, run.history.step.values)


def judge_degeneracy(W: Mapping[str, Stacked], steps: Mapping[str, np.ndarray]) -> Verdict:
    """ReLU against GELU, seed by seed."""

    def parts(learned: float) -> dict[str, np.ndarray]:
        shared = {act: shares_a_direction(weights, learned) for act, weights in W.items()}
        off = {act: _off_unit(weights, learned) for act, weights in W.items()}
        return {
            "ReLU shares a direction": shared["relu"],
            "GELU shares none": ~shared["gelu"],
            "GELU's norms are nearer to 1": off["gelu"] < off["relu"],
            "GELU learns faster": steps["gelu"] < steps["relu"],
        }

    asked = parts(LEARNED)
    shares = lab.shares(asked)
    alive = {act: geometry.represented(w, LEARNED) for act, w in W.items()}
    norms = {act: geometry.feature_norms(w)[alive[act]] for act, w in W.items()}
    per_direction = {
        act: (alive[act].sum(1) / geometry.count_directions(w, LEARNED).clamp(min=1)).mean() for act, w in W.items()
    }
    return Verdict.of_shares(
        "The smallest of four shares",
        asked,
        n_models=lab.total(W),
        controls=shares
        | {f"features per direction, {act}": value for act, value in per_direction.items()}
        | {f"mean norm, {act}": values.mean() for act, values in norms.items()}
        | {f"median steps, {act}": np.median(value) for act, value in steps.items()}
        | lab.at_cuts(lambda cut: lab.weakest(parts(cut)), CUTS, "smallest share at "),
        detail="; ".join(f"{name}: {share:.0%}" for name, share in shares.items()) + ".",
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


@claim("nine-in-three-d", "B", quick=12, full=60)
def nine_in_three_d(n_models: int) -> Verdict:
    """One-hot features in three dimensions are learned in nine directions under ReLU, always.

    Statistic: share of ReLU models with nine distinct directions among learned features (norm > 0.1); the smallest over
    n = 10, 12 and 20.
    Threshold: above 0.9, for each n ("always").
    Size: 12 models for each n (quick), 60 (full); half as many under GELU.
    Controls: learned > 0.05 and > 0.2; untrained weights; the same under GELU, which the document says learns a variety
    of shapes: the number of shapes and the share of the most frequent, of both activations.
    """
    sizes = (10, 12, 20)
    return judge_nine(
        {n: train_onehot(n, 3, n_models, "relu").W_E for n in sizes},
        {n: train_onehot(n, 3, n_models // 2, "gelu").W_E for n in sizes},
        {n: lab.untrained_directions(n, 3, n_models) for n in sizes},
    )


def judge_nine(relu: Mapping[int, Stacked], gelu: Mapping[int, Stacked], start: Mapping[int, Stacked]) -> Verdict:
    """Do ReLU models always learn nine directions?"""
    models = {  # with fewer features than the others a model has features of norm 0 as well: unlearned ones
        name: torch.nn.utils.rnn.pad_sequence([w for W in by_n.values() for w in W], batch_first=True)
        for name, by_n in (("ReLU", relu), ("GELU", gelu))
    }
    names = {
        name: [f"{len(geometry.directions(w, LEARNED))}: {geometry.name_polytope(w, LEARNED)}" for w in each]
        for name, each in models.items()
    }
    shapes = {name: stats.census(found, np.zeros(len(found)), "_") for name, found in names.items()}
    text = "; ".join(
        f"{name}: " + ", ".join(f"{row.share:.0%} {row.name}" for _, row in table.head(4).iterrows())
        for name, table in shapes.items()
    )
    return Verdict.of_shares(
        "The smallest share of ReLU models with nine directions",
        with_directions(relu, 9),
        n_models=lab.total(relu),
        controls=lab.at_cuts(lambda cut: lab.weakest(with_directions(relu, 9, cut)), CUTS)
        | {"GELU": lab.weakest(with_directions(gelu, 9)), "untrained": lab.weakest(with_directions(start, 9))}
        | {f"shapes, {name}": len(table) for name, table in shapes.items()}
        | {f"most frequent shape, {name}": table.share.iloc[0] for name, table in shapes.items()},
        detail=f"Directions and nearest polytope, all n: {text}.",
        figures={
            f"{name}: directions and nearest polytope, all n.": plots.shares(
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
            for name, each in models.items()
        },
    )


def _vertices(W: Float[Tensor, "feature hidden"]) -> np.ndarray:
    """The distinct directions of one model, at unit length."""
    mean = torch.stack([W[group].mean(0) for group in geometry.directions(W, LEARNED)])
    return torch.nn.functional.normalize(mean, dim=-1).numpy()


def _off_unit(W: Stacked, learned: float) -> np.ndarray:
    """Mean absolute difference of the learned features' norms from 1; infinite where nothing is learned."""
    norms = geometry.feature_norms(W)
    return np.array([float((n[n > learned] - 1).abs().mean()) if (n > learned).any() else np.inf for n in norms])
