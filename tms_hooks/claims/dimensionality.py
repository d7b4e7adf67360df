"""Claims about D_i and D*: the values they prefer, how they jump in training, what they cost under attack.

Sparse uniform features of importance 1, ReLU, tied (Elhage et al. 2022); seeds from 0.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, stats
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import UNKNOWN, Verdict, above
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.linalg import random_directions
from tms_hooks.run import Run
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

LEARNED = 0.5
NARROW, WIDE = (200, 20), (400, 30)
"""Numbers of features and of hidden units: of the paper's models (wide), and of those that a quick look affords."""
SMALL = (80, 8)
STICKY = (1.0, 1 / 2)
WINDOW = 0.05
LEVELS = {
    "3/4": (3 / 4, 0.02),
    "2/3": (2 / 3, 0.02),
    "1/2": (1 / 2, 0.02),
    "2/5": (2 / 5, 0.006),
    "3/8": (3 / 8, 0.006),
}
"""Named values of D_i, each with half the width of its window: a quarter of the way to its neighbour, at most 0.02."""
EPSILON = 0.1
Stacked = Float[Tensor, "model feature hidden"]


def densities(count: int) -> list[float]:
    """Feature probabilities from 1 to 0.05, evenly spaced on a log scale."""
    return [float(p) for p in 20 ** -np.linspace(0, 1, count)]


def train_uniform(p: float, seed: int, n_features: int, d_hidden: int) -> Run:
    """One toy of equally important features."""
    return train(
        ToyConfig(n_features=n_features, d_hidden=d_hidden),
        SparseUniform(n_features=n_features, feature_probability=p),
        seeds=[seed],
        steps=2_000,
        batch_size=256,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        record_every=2_000,
        progress=False,
    )


@claim("sticky-dimensionality", "N", quick=5, full=72, needs=above(0.5))
def sticky_dimensionality(n_densities: int) -> Verdict:
    """As features grow sparser D* lingers at 1 and 1/2, and the D_i of features cluster at 3/4, 2/3, 1/2, 2/5 and 3/8.

    Statistic: the smallest of seven shares, n = 400, m = 30 (quick: 200, 20), importance 1, over models of many
    densities: of models with D* within 10 % of 1, those within 5 %; likewise of 1/2; of models with learned features
    (norm > 0.5) whose D_i is within 2w of a named value, those with more than half of these within w, for each of the
    five (w = 0.02; 0.006 for 2/5 and 3/8, which are near each other).
    Threshold: above 1/2, what values that drift evenly past the point would give, for each.
    Size: one model at each of 5 densities (quick), 72 (full), p from 1 to 0.05, evenly spaced on a log scale. Adam at
    0.01 with cosine decay, 2,000 steps, batch 256.
    Controls: the seven shares; the smallest at half and at twice the windows; of the D_i of the same norms in random
    directions; at learned > 0.3 and > 0.7; the largest sum of D_i, which cannot exceed m, and the largest D*.
    """
    shape = WIDE if n_densities > 8 else NARROW
    return judge_sticky({p: train_uniform(p, i, *shape).W_E for i, p in enumerate(densities(n_densities))})


def judge_sticky(trained: Mapping[float, Stacked]) -> Verdict:
    """Do D* and D_i prefer the named values?"""
    W = torch.cat(list(trained.values())).double()
    random = random_directions(W)
    counts = window_counts(W)
    found = stats.weakest_share(counts)
    star = {p: geometry.dimensions_per_feature(w.double()).numpy() for p, w in trained.items()}
    some = list(trained.items())[:: max(len(trained) // 12, 1)]
    shown = {f"{1 / p:.3g}": geometry.dimensionality(w)[geometry.represented(w)].numpy() for p, w in some}
    lowest, highest = (float(pick([v.mean() for v in star.values()])) for pick in (min, max))
    return Verdict(
        measured=f"The smallest of seven shares ({found.part})",
        statistic=found.share,
        interval=found.interval,
        n_models=len(W),
        controls={name: inner / outer if outer else float("nan") for name, (inner, outer) in counts.items()}
        | {f"models near, {name}": float(outer) for name, (_, outer) in counts.items()}
        | {f"smallest, windows times {k:g}": stats.weakest_share(window_counts(W, scale=k)).share for k in (0.5, 2.0)}
        | {f"smallest, learned > {cut}": stats.weakest_share(window_counts(W, cut)).share for cut in (0.3, 0.7)}
        | {
            "smallest of D_i, random directions": stats.weakest_share(
                {name: count for name, count in window_counts(random).items() if name.startswith("D_i")}
            ).share,
            "largest sum of D_i": float(geometry.dimensionality(W).sum(1).max()),
            "largest D*": highest,
        },
        detail="Inside / near: "
        + ", ".join(f"{name} {inner}/{outer}" for name, (inner, outer) in counts.items())
        + f". D* falls from {highest:.2f} to {lowest:.2f}.",
        figures=[
            (
                "D* of each density's models against 1/(1-S) = 1/p.",
                plots.curves(
                    {
                        "D* = m / ||W||^2": (1 / np.array(list(star)), np.array([v.mean() for v in star.values()])),
                        "sum of D_i / features learned": (
                            1 / np.array(list(trained)),
                            np.array([_mean_dimensionality(w) for w in trained.values()]),
                        ),
                    },
                    "1 / (1 - S)",
                    "dimensions per feature",
                    log_x=True,
                ),
            ),
            (
                "D_i of the learned features of models of some densities; the named values are dotted.",
                plots.level_strips(
                    shown, {"1": 1.0} | {name: v for name, (v, _) in LEVELS.items()}, "1 / (1 - S)", "D_i"
                ),
            ),
        ],
    )  # fmt: skip


def window_counts(W: Stacked, learned: float = LEARNED, scale: float = 1.0) -> dict[str, tuple[int, int]]:
    """Models inside each window of D* or D_i, and models near it, in twice the window.

    With D_i a model is near if a learned feature is, and inside if more than half of these features are.
    """
    star = geometry.dimensions_per_feature(W)
    D = geometry.dimensionality(W).masked_fill(~geometry.represented(W, learned), torch.nan)
    counts = {}
    for v in STICKY:
        inside, near = ((star / v - 1).abs() < scale * width for width in (WINDOW, 2 * WINDOW))
        counts[f"D* at {v:g}"] = int(inside.sum()), int(near.sum())
    for name, (v, w) in LEVELS.items():
        inside, near = (((D - v).abs() < scale * width).sum(1) for width in (w, 2 * w))
        counts[f"D_i at {name}"] = int((2 * inside > near).sum()), int((near > 0).sum())
    return counts


def _mean_dimensionality(W: Stacked) -> float:
    alive = geometry.represented(W)
    return float(geometry.dimensionality(W)[alive].mean()) if alive.any() else float("nan")


@claim("adversarial-vulnerability", "N", quick=8, full=72, needs=above(0.9))
def adversarial_vulnerability(n_densities: int) -> Verdict:
    """Vulnerability to small adversarial perturbations follows superposition, the number of features per dimension.

    Statistic: rank correlation, over models of many densities, between 1/D* = ||W||^2 / m and vulnerability: by how
    much a perturbation of the input of L2 norm 0.1 raises sum_i (x_i - x'_i)^2 at worst (ten steps of normalised
    gradient ascent), mean over 128 inputs of the model's own density; n = 80, m = 8, importance 1.
    Threshold: above 0.9.
    Size: one model at each of 8 densities (quick), 72 (full), p from 1 to 0.05, evenly spaced on a log scale.
    Controls: norms 0.03 and 0.3; a random perturbation of the same norm; how many times more vulnerable the tenth of
    models that superpose most are than the tenth that superpose least, and how many times 1/D* is larger; the same
    attack on all models at the same inputs of p = 0.05, which leaves the models as the only difference; rank
    correlation with (0.1 s)^2, the closed form for a linear output, s the largest singular value of W_E W_E^T.
    """
    runs = [train_uniform(p, i, *SMALL) for i, p in enumerate(densities(n_densities))]
    own = [run.recipe.data.sample(128, seed=2**62) for run in runs]

    def rises(epsilon: float, steps: int = 10) -> np.ndarray:
        return np.array([attack(run, x, epsilon, steps) for run, x in zip(runs, own, strict=True)])

    return judge_vulnerability(
        torch.cat([run.W_E for run in runs]),
        {epsilon: rises(epsilon) for epsilon in (0.03, EPSILON, 0.3)},
        rises(EPSILON, steps=0),
        np.array([attack(run, own[-1], EPSILON) for run in runs]),
    )


def attack(run: Run, x: Float[Tensor, "batch feature"], epsilon: float, steps: int = 10) -> float:
    """Mean rise of the squared error of a run's only model at the worst perturbation found of this L2 norm.

    With `steps=0` the perturbation is random.
    """
    [W], [b] = run.W_E, run.weights["b_U"]

    def error(delta: Tensor) -> Tensor:
        return ((x + delta) @ W @ W.mT + b).relu().sub(x).square().sum(-1)

    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    delta = epsilon * torch.nn.functional.normalize(delta, dim=-1)
    clean, worst = error(torch.zeros_like(delta)), error(delta)
    for _ in range(steps):
        delta.requires_grad_(True)
        (gradient,) = torch.autograd.grad(error(delta).sum(), delta)
        step = torch.nn.functional.normalize(gradient, dim=-1)
        delta = epsilon * torch.nn.functional.normalize(delta.detach() + epsilon / 2 * step, dim=-1)
        worst = torch.maximum(worst, error(delta))
    return float((worst - clean).mean())


def judge_vulnerability(
    W: Stacked, rises: Mapping[float, np.ndarray], random: np.ndarray, same_inputs: np.ndarray
) -> Verdict:
    """Does vulnerability rank models as features per dimension do?

    Args:
        W: models, in the order of their densities.
        rises: for each norm of the perturbation, of each model, how much its loss rises at worst.
        random: likewise for a random perturbation of norm `EPSILON`.
        same_inputs: likewise, all models on the same inputs.
    """
    load = (1 / geometry.dimensions_per_feature(W)).numpy()
    linear = (EPSILON * torch.linalg.matrix_norm(W, ord=2).square()).square().numpy()
    rise = rises[EPSILON]
    measurable = len(set(load.tolist())) > 2 and len(set(rise.tolist())) > 2
    most, least = load >= np.quantile(load, 0.9), load <= np.quantile(load, 0.1)
    return Verdict(
        measured="The rank correlation of vulnerability with features per dimension",
        statistic=rank_correlation(np.stack([load, rise], axis=1)) if measurable else float("nan"),
        interval=stats.bootstrap(rank_correlation, np.stack([load, rise], axis=1)) if measurable else UNKNOWN,
        n_models=len(W),
        controls={
            f"perturbation of norm {eps:g}": rank_correlation(np.stack([load, values], axis=1))
            for eps, values in rises.items()
            if eps != EPSILON
        }
        | {
            "random perturbation": rank_correlation(np.stack([load, random], axis=1)),
            "worst / random perturbation, median rise": float(np.median(rise) / np.median(random)),
            "all models on the same inputs": rank_correlation(np.stack([load, same_inputs], axis=1)),
            "most / least superposed, rise": float(rise[most].mean() / rise[least].mean()),
            "most / least superposed, 1/D*": float(load[most].mean() / load[least].mean()),
            "most / least superposed, rise on the same inputs": float(
                same_inputs[most].mean() / same_inputs[least].mean()
            ),
            "rank correlation with the linear closed form": rank_correlation(np.stack([linear, rise], axis=1)),
        },
        detail=f"The loss rises by {rise[least].mean():.3g} in the tenth of models that superpose least and by "
        f"{rise[most].mean():.3g} in the tenth that superpose most, which hold "
        f"{load[most].mean() / load[least].mean():.1f} times as many features per dimension.",
        figures=[
            (
                f"Rise of the loss at the worst perturbation of norm {EPSILON} against features per dimension.",
                plots.curves(
                    {
                        "the model's own inputs": (np.sort(load), rise[load.argsort()]),
                        "the same inputs for all": (np.sort(load), same_inputs[load.argsort()]),
                        "(0.1 s)^2, linear output": (np.sort(load), linear[load.argsort()]),
                    },
                    "features per dimension 1 / D*",
                    "rise of the loss",
                ),
            )
        ],
    )


def rank_correlation(pairs: np.ndarray) -> float:
    """Spearman's rank correlation of the two columns; 0 if either is constant."""
    from scipy.stats import rankdata

    first, second = rankdata(pairs, axis=0).T
    if not first.std() or not second.std():
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
