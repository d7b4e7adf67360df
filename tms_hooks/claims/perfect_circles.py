"""The claim of "Superposition and bottlenecks" that an output bias makes one-hot features perfect, but none gets there.

The document's schedule is SGD of the whole data set for 30,000 steps, the learning rate rising from 0.005 to 2 over the
first 5 % and then falling exponentially to 0.1. It does not say of which loss: here of the mean over inputs *and*
features, as `torch.nn.MSELoss` has it, which in units of this library's loss (summed over features) divides it by n. A
control takes it as it stands.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from tms_hooks import geometry, plots, theory
from tms_hooks.claims import lab
from tms_hooks.claims.biases import PERFECT, Outcome, train_biased
from tms_hooks.claims.lab import CUTS, LEARNED
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import Verdict, above
from tms_hooks.config import ToyConfig
from tms_hooks.training.optimizers import SGD, Adam, Optimizer

SIZES = (10, 40)
NOISE = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Of the perfect starts, in units of the spacing of neighbors; the least decides."""
PEAKS = tuple(np.logspace(-2, 0, 5).tolist())
MARGIN = 1.05
"""Norm of a perfect start, the least perfect norm = 1: neighbors stand a little below their kinks."""


def documented(peak: float) -> SGD:
    """The document's schedule, from a 400th of the peak learning rate to the peak and down to a 20th."""
    return SGD(lr=peak, schedule="exponential", warmup=0.05, initial_lr=peak / 400, final_lr=peak / 20)


def perfect_starts(n_features: int, n_models: int, noise: float) -> list[dict[str, Tensor]]:
    """Perfect circles, 5 % longer than they must be, with Gaussian noise in units of the spacing of neighbors."""
    norm = MARGIN * theory.perfect_circle(n_features).norm
    spacing = 2 * torch.pi / n_features
    turns = spacing * torch.arange(n_features)
    circle = torch.stack([turns.cos(), turns.sin()], dim=1)
    starts = []
    for seed in range(n_models):
        drawn = torch.randn(n_features, 2, generator=torch.Generator().manual_seed(seed))
        W = norm * (circle + noise * spacing / 2**0.5 * drawn)
        starts.append({"W_E": W, "b_U": torch.full((n_features,), 1 - norm**2)})
    return starts


def train_random(n_features: int, n_models: int, optimizer: Optimizer, steps: int) -> Outcome:
    """Tied toys with an output bias, from random starts."""
    cfg = ToyConfig(n_features=n_features, d_hidden=2)
    return train_biased(cfg, lab.linear_starts(cfg, n_models), steps, optimizer)


def train_perfect(n_features: int, n_models: int, noise: float, optimizer: Optimizer = lab.USUAL) -> np.ndarray:
    """Final losses from near the perfect circle."""
    cfg, starts = ToyConfig(n_features=n_features, d_hidden=2), perfect_starts(n_features, n_models, noise)
    return train_biased(cfg, starts, 3_000, optimizer).loss


@claim("bias-perfect-not-found", "B", quick=8, full=40, needs=above(0.5))
def bias_perfect_not_found(n_models: int) -> Verdict:
    """With an output bias all one-hot features fit perfectly on a circle, stably, but random starts do not find it.

    Statistic: the smallest of six shares, 10 and 40 features in two dimensions, tied: models that start on the perfect
    circle, with noise of 1 % of the spacing between neighbors, and end perfect under Adam (squared error of an input
    below 0.001), for each n; models that start at random and do not, for each n, under the document's schedule and
    under Adam.
    Threshold: above 1/2, for each.
    Size: 8 models (quick), 40 (full), for each.
    Controls: directions learned from random starts and features reconstructed (output > 0.5), with the share of models
    with six, which the document often sees; directions at learned > 0.3 and > 0.7; the share of learned features, and
    of all, whose bias started positive; the norm of learned features in units of the perfect circle of as many; median
    loss; the document's schedule on the summed loss, n = 10; perfect starts under the document's schedule, and the
    largest learning rate at which SGD can stay there; the noise that half the perfect starts survive; the largest
    share of perfect models at any learning rate from 0.01 to 1, SGD with and without warmup and Adam, n = 10.
    """
    ways: dict[str, Callable[[float], Optimizer]] = {
        "SGD, warmup": documented,
        "SGD": lambda lr: SGD(lr=lr, schedule="exponential", final_lr=lr / 20),
        "Adam, constant": lambda lr: Adam(lr=lr),
    }
    found, few = {}, max(n_models // 4, 2)
    for n in SIZES:
        found[f"n = {n}, SGD"] = train_random(n, n_models, documented(2 / n), 30_000)
        found[f"n = {n}, Adam"] = train_random(n, n_models, lab.USUAL, 10_000)
    return judge_perfect(
        found | {"n = 10, SGD, summed loss": train_random(10, n_models, documented(2), 30_000)},
        {n: {noise: train_perfect(n, n_models, noise) for noise in NOISE} for n in SIZES},
        {n: train_perfect(n, n_models, NOISE[0], documented(2 / n)) for n in SIZES},
        {name: {lr: train_random(10, few, make(lr), 10_000) for lr in PEAKS} for name, make in ways.items()},
    )


def judge_perfect(
    found: Mapping[str, Outcome],
    kept: Mapping[int, Mapping[float, np.ndarray]],
    kept_sgd: Mapping[int, np.ndarray],
    swept: Mapping[str, Mapping[float, Outcome]],
) -> Verdict:
    """Are perfect starts kept, and random starts not perfect?

    Args:
        found: outcomes of random starts; those on the summed loss are controls.
        kept: losses from perfect starts with noise, by number of features and noise; the least noise decides.
        kept_sgd: the same under the document's schedule.
        swept: outcomes of random starts by learning rate.
    """
    stays = {n: {noise: loss < PERFECT for noise, loss in losses.items()} for n, losses in kept.items()}
    parts = {f"n = {n} stays perfect": by_noise[min(by_noise)] for n, by_noise in stays.items()}
    parts |= {f"{name} not found": ~o.perfect for name, o in found.items() if "summed" not in name}
    controls = {f"{what}, {name}": value for name, o in found.items() for what, value in _describe(o).items()}
    for n, by_noise in stays.items():
        survived = [noise for noise, stay in by_noise.items() if stay.mean() >= 0.5]
        controls |= {
            f"noise that half survive, n = {n}": max(survived, default=0.0),
            f"perfect starts kept by the document's schedule, n = {n}": (kept_sgd[n] < PERFECT).mean(),
            f"largest stable learning rate, n = {n}": stable_learning_rate(n),
        }
    controls["largest share of perfect models at any learning rate"] = max(
        o.perfect.mean() for arm in swept.values() for o in arm.values()
    )
    example, outcome = next(iter(found.items()))
    swept_means = {name: {lr: reconstructed(o).mean() for lr, o in arm.items()} for name, arm in swept.items()}
    stay_means = {f"n = {n}": {x: stay.mean() for x, stay in by_noise.items()} for n, by_noise in stays.items()}
    return Verdict.of_shares(
        "The smallest of six shares",
        parts,
        n_models=lab.total(parts),
        controls=controls,
        detail="Learned from random starts: "
        + "; ".join(
            f"{name}: {lab.tally(o.directions())} directions, {lab.tally(reconstructed(o))} features reconstructed"
            for name, o in found.items()
        )
        + ".",
        figures={
            f"From random starts to the end, {example}: every line is a feature's path, the dot its end.": (
                plots.trajectories(outcome.path[:, :3].swapaxes(0, 1), lab.seed_names(outcome.loss[:3]))
            ),
            "Features reconstructed from random starts, n = 10, against the peak learning rate on the summed loss.": (
                plots.curves(lab.lines(swept_means), "peak learning rate", "mean features reconstructed", log_x=True)
            ),
            "Share of perfect starts that end perfect, under Adam, against the noise at their start.": (
                plots.curves(lab.lines(stay_means), "noise / spacing of neighbors", "share of models", log_x=True)
            ),
        },
    )


def reconstructed(outcome: Outcome) -> np.ndarray:
    """Features, of each model, whose output exceeds 0.5 when they are alone in the input."""
    outputs = geometry.feature_norms(outcome.weights["W_E"]).square() + outcome.weights["b_U"]
    return (outputs > 0.5).sum(1).numpy()


def stable_learning_rate(n_features: int) -> float:
    """Largest learning rate at which gradient descent can stay on the perfect circle of least norm.

    There each feature's own error e = 1 - (|w|^2 + b) is all that has a gradient: the loss is the sum of e^2 / n, the
    largest eigenvalue of its Hessian 2 (4 |w|^2 + 1) / n, and descent is stable below 2 / eigenvalue.
    """
    return n_features / (4 * theory.perfect_circle(n_features).norm ** 2 + 1)


def _describe(outcome: Outcome) -> dict[str, float]:
    positive, directions = outcome.start["b_U"] > 0, outcome.directions()
    norms = geometry.feature_norms(outcome.weights["W_E"])
    learned = norms > LEARNED
    ideal = torch.tensor([theory.perfect_circle(int(d)).norm if d >= 2 else torch.nan for d in directions])
    return {
        "mean directions": directions.mean(),
        "share with six directions": (directions == 6).mean(),
        **{f"mean directions at learned > {cut}": outcome.directions(cut).mean() for cut in CUTS},
        "features reconstructed": reconstructed(outcome).mean(),
        "share with six features reconstructed": (reconstructed(outcome) == 6).mean(),
        "learned features whose bias started positive": positive[learned].double().mean(),
        "features whose bias started positive": positive.double().mean(),
        "norm, perfect circle of as many = 1": (norms / ideal[:, None])[learned].nanmean(),
        "median loss": np.median(outcome.loss),
    }
