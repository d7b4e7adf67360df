"""Claims about D_i and D*: the values they prefer, how they jump in training, what they cost under attack.

Sparse uniform features of importance 1, ReLU, tied, output bias (Elhage et al. 2022); the usual recipe, 2,000 steps,
batch 256, and one model at each of many densities.
"""

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.lab import LEARNED, ByDensity, Stacked
from tms_hooks.linalg import random_directions
from tms_hooks.run import Run

NARROW, WIDE = (200, 20), (400, 30)
"""Numbers of features and of hidden units: of the paper's models (wide), and of those that a quick look affords."""
SMALL = (80, 8)
STICKY = (1.0, 1 / 2)
WINDOW = 0.05
WIDTHS = {"3/4": 0.02, "2/3": 0.02, "1/2": 0.02, "2/5": 0.006, "3/8": 0.006}
"""Named values of D_i, each with half the width of its window: a quarter of the way to its neighbor, at most 0.02."""
EPSILON = 0.1
"""L2 norm of the perturbations that decide."""


def train_by_density(n_densities: int, n_features: int, d_hidden: int) -> dict[float, Run]:
    """One toy of equally important features at each density, every one of another seed."""
    return {
        p: lab.train_sparse(n_features, d_hidden, p, range(seed, seed + 1), steps=2_000, batch_size=256)
        for seed, p in enumerate(lab.densities(n_densities))
    }


@claim("sticky-dimensionality", "N", quick=5, full=72, counts="densities")
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
    runs = train_by_density(n_densities, *(WIDE if n_densities > 8 else NARROW))
    return judge_sticky({p: run.W_E for p, run in runs.items()})


def judge_sticky(trained: ByDensity) -> Verdict:
    """Do D* and D_i prefer the named values?"""
    W = torch.cat(list(trained.values())).double()
    counts = window_counts(W)
    of_random = {name: part for name, part in window_counts(random_directions(W)).items() if name.startswith("D_i")}
    star = {1 / p: geometry.dimensions_per_feature(w.double()).mean() for p, w in trained.items()}
    mean_D = {1 / p: lab.mean(_learned(w)) for p, w in trained.items()}
    lowest, highest = float(min(star.values())), float(max(star.values()))
    some = list(trained.items())[:: max(len(trained) // 12, 1)]
    return Verdict.of_shares(
        "The smallest of seven shares",
        counts,
        n_models=len(W),
        controls={name: inside / near if near else np.nan for name, (inside, near) in counts.items()}
        | {f"models near, {name}": near for name, (_, near) in counts.items()}
        | {f"smallest, windows times {k:g}": lab.weakest(window_counts(W, scale=k)) for k in (0.5, 2.0)}
        | lab.at_cuts(lambda cut: lab.weakest(window_counts(W, cut)), prefix="smallest, ")
        | {
            "smallest of D_i, random directions": lab.weakest(of_random),
            "largest sum of D_i": geometry.dimensionality(W).sum(1).max(),
            "largest D*": highest,
        },
        detail=lab.listing("Inside / near", {name: f"{inside}/{near}" for name, (inside, near) in counts.items()})
        + f" D* falls from {highest:.2f} to {lowest:.2f}.",
        figures={
            "D* of each density's models against 1/(1-S) = 1/p.": lab.curves(
                {"D* = m / ||W||^2": star, "sum of D_i / features learned": mean_D},
                "1 / (1 - S)",
                "dimensions per feature",
                log_x=True,
            ),
            "D_i of the learned features of models of some densities; the named values are dotted.": plots.strips(
                {f"{1 / p:.3g}": _learned(w) for p, w in some},
                "D_i",
                "1 / (1 - S)",
                {name: float(Fraction(name)) for name in ("1", *WIDTHS)},
            ),
        },
    )


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
    for name, w in WIDTHS.items():
        inside, near = (((D - float(Fraction(name))).abs() < scale * width).sum(1) for width in (w, 2 * w))
        counts[f"D_i at {name}"] = int((2 * inside > near).sum()), int((near > 0).sum())
    return counts


def _learned(W: Stacked) -> np.ndarray:
    """D_i of all learned features."""
    return geometry.dimensionality(W)[geometry.represented(W)].numpy()


@claim("adversarial-vulnerability", "N", quick=8, full=72, counts="densities")
def adversarial_vulnerability(n_densities: int) -> Verdict:
    """Vulnerability to small adversarial perturbations follows superposition, the number of features per dimension.

    Statistic: rank correlation, over models of many densities, between 1/D* = ||W||^2 / m and vulnerability: by how
    much a perturbation of the input of L2 norm 0.1 raises sum_i (x_i - x'_i)^2 at worst (ten steps of normalized
    gradient ascent), mean over 128 inputs of the model's own density; n = 80, m = 8, importance 1.
    Threshold: above 0.9.
    Size: one model at each of 8 densities (quick), 72 (full), p from 1 to 0.05, evenly spaced on a log scale.
    Controls: norms 0.03 and 0.3; a random perturbation of the same norm; how many times more vulnerable the tenth of
    models that superpose most are than the tenth that superpose least, and how many times 1/D* is larger; the same
    attack on all models at the same inputs of p = 0.05, which leaves the models as the only difference; rank
    correlation with (0.1 s)^2, the closed form for a linear output, s the largest singular value of W_E W_E^T.
    """
    runs = list(train_by_density(n_densities, *SMALL).values())
    own = [lab.fresh_samples(run, 128) for run in runs]

    def rises(epsilon: float, steps: int = 10) -> np.ndarray:
        return np.array([attack(run, x, epsilon, steps) for run, x in zip(runs, own, strict=True)])

    return judge_vulnerability(
        torch.cat([run.W_E for run in runs]),
        rises(EPSILON),
        {
            "random perturbation": rises(EPSILON, steps=0),
            "all models on the same inputs": np.array([attack(run, own[-1], EPSILON) for run in runs]),
            "perturbation of norm 0.03": rises(0.03),
            "perturbation of norm 0.3": rises(0.3),
        },
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


def judge_vulnerability(W: Stacked, rise: np.ndarray, others: Mapping[str, np.ndarray]) -> Verdict:
    """Does vulnerability rank models as features per dimension do?

    The models are in the order of their densities. `rise` is by how much the loss of each rises at worst; `others`, the
    same under other attacks, has a random one and the one on the same inputs.
    """
    load = (1 / geometry.dimensions_per_feature(W)).numpy()
    linear = (EPSILON * torch.linalg.matrix_norm(W, ord=2).square()).square().numpy()
    order = load.argsort()
    same_inputs = others["all models on the same inputs"]
    most, least = load >= np.quantile(load, 0.9), load <= np.quantile(load, 0.1)

    def times(values: np.ndarray) -> float:
        return float(values[most].mean() / values[least].mean())

    pairs = np.stack([load, rise], axis=1)
    ranked = min(len(set(load)), len(set(rise))) > 2  # or there is nothing to rank
    return Verdict.of_statistic(
        "The rank correlation of vulnerability with features per dimension",
        lambda rows: rank_correlation(*rows.T),
        pairs if ranked else pairs[:0],
        n_models=len(W),
        controls={name: rank_correlation(load, values) for name, values in others.items()}
        | {
            "worst / random perturbation, median rise": np.median(rise) / np.median(others["random perturbation"]),
            "most / least superposed, rise": times(rise),
            "most / least superposed, 1/D*": times(load),
            "most / least superposed, rise on the same inputs": times(same_inputs),
            "rank correlation with the linear closed form": rank_correlation(linear, rise),
        },
        detail=f"The loss rises by {rise[least].mean():.3g} in the tenth of models that superpose least and by "
        f"{rise[most].mean():.3g} in the tenth that superpose most, which hold {times(load):.1f} times as many "
        "features per dimension.",
        figures={
            f"Rise of the loss at the worst perturbation of norm {EPSILON} against features per dimension.": (
                plots.curves(
                    {
                        "the model's own inputs": (load[order], rise[order]),
                        "the same inputs for all": (load[order], same_inputs[order]),
                        "(0.1 s)^2, linear output": (load[order], linear[order]),
                    },
                    "features per dimension 1 / D*",
                    "rise of the loss",
                )
            )
        },
    )


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation; 0 if either is constant."""
    from scipy.stats import rankdata

    ranks = rankdata([first, second], axis=1)
    return float(np.corrcoef(ranks)[0, 1]) if ranks.std(axis=1).all() else 0.0
