"""Claims of "Superposition and bottlenecks" about biases, on one-hot features: exact gradients, the identity as data.

Random starts are those of `torch.nn.Linear` where the library's own biases would be zero: uniform in +-1/sqrt(fan-in).
The document's schedule is SGD of the whole data set for 30,000 steps, the learning rate rising from 0.005 to 2 over the
first 5 % and then falling exponentially to 0.1. It does not say of which loss: here of the mean over inputs *and*
features, as `torch.nn.MSELoss` has it, which in units of this library's loss (summed over features) divides it by n. A
control takes it as it stands. "Learned": norm > 0.5.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tms_hooks import geometry, plots, plots_bottlenecks, stats, theory
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import Verdict
from tms_hooks.config import Activation, ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.models.forward import init_weights
from tms_hooks.training.loop import train
from tms_hooks.training.optimizers import SGD, Adam, Optimizer

LEARNED = 0.5
CUTS = (0.3, 0.7)
PERFECT = 1e-3
"""Squared error of one input, all features together, below which a model counts as perfect; 1 if nothing is learned."""
ADAM = Adam(lr=1e-2, schedule="cosine")
MARGIN = 1.05
"""Norm of a perfect start, the least perfect norm = 1: neighbours stand a little below their kinks."""
Stacked = Float[Tensor, "model feature hidden"]
Weights = dict[str, Tensor]


def documented(divided_by: float) -> SGD:
    """The document's schedule, its learning rates divided by this."""
    rates = {"lr": 2 / divided_by, "initial_lr": 0.005 / divided_by, "final_lr": 0.1 / divided_by}
    return SGD(schedule="exponential", warmup=0.05, **rates)


class Outcome(NamedTuple):
    """Trained models: where they started, what became of them, and the way there."""

    start: Weights
    weights: Weights
    loss: np.ndarray
    """Squared error of one input, all features together: (model,)."""
    path: np.ndarray
    """`W_E` over training, (step, model, feature, hidden)."""


def random_starts(cfg: ToyConfig, n_models: int) -> list[Weights]:
    """The library's matrices, and biases as `torch.nn.Linear` draws them."""
    starts = []
    for seed in range(n_models):
        weights, generator = init_weights(cfg, seed), torch.Generator().manual_seed(10**6 + seed)
        for name, fan_in in (("b_hidden", cfg.n_features), ("b_U", cfg.d_hidden)):
            if name in weights:
                draw = 2 * torch.rand(weights[name].shape, generator=generator) - 1
                weights[name] = draw / fan_in**0.5
        starts.append(weights)
    return starts


def perfect_starts(n_features: int, n_models: int, noise: float) -> list[Weights]:
    """Perfect circles, 5 % longer than they must be, with Gaussian noise in units of the spacing of neighbours."""
    norm = MARGIN * theory.perfect_circle(n_features).norm
    spacing = 2 * torch.pi / n_features
    starts = []
    for seed in range(n_models):
        generator = torch.Generator().manual_seed(seed)
        turns = spacing * torch.arange(n_features)
        circle = torch.stack([turns.cos(), turns.sin()], dim=1)
        W = norm * (circle + noise * spacing / 2**0.5 * torch.randn(n_features, 2, generator=generator))
        starts.append({"W_E": W, "b_U": torch.full((n_features,), 1 - norm**2)})
    return starts


def train_from(cfg: ToyConfig, starts: Sequence[Weights], optimizer: Optimizer, steps: int) -> Outcome:
    """Train one-hot toys from given weights."""
    init = [nn.ParameterDict({name: nn.Parameter(w) for name, w in weights.items()}) for weights in starts]
    run = train(
        cfg,
        OneHot(n_features=cfg.n_features),
        seeds=range(len(starts)),
        init=init,
        steps=steps,
        optimizer=optimizer,
        record_every=max(steps // 50, 1),
    )
    stacked = {name: torch.stack([weights[name] for weights in starts]) for name in starts[0]}
    return Outcome(stacked, run.weights, run.final_loss.numpy(), run.history.W_E.values)


def train_biased(n_features: int, n_models: int, optimizer: Optimizer) -> Outcome:
    """Tied toys with an output bias, from random starts."""
    cfg = ToyConfig(n_features=n_features, d_hidden=2)
    return train_from(cfg, random_starts(cfg, n_models), optimizer, 30_000 if isinstance(optimizer, SGD) else 10_000)


def train_perfect(n_features: int, n_models: int, noise: float, optimizer: Optimizer = ADAM) -> np.ndarray:
    """Final losses from near the perfect circle."""
    cfg, starts = ToyConfig(n_features=n_features, d_hidden=2), perfect_starts(n_features, n_models, noise)
    return train_from(cfg, starts, optimizer, 3_000).loss


@claim("bias-perfect-not-found", "B", quick=8, full=40)
def bias_perfect_not_found(n_models: int) -> Verdict:
    """With an output bias all one-hot features fit perfectly on a circle, stably, but random starts do not find it.

    Statistic: the smallest of six shares, 10 and 40 features in two dimensions, tied: models that start on the perfect
    circle, with noise of 1 % of the spacing between neighbours, and end perfect under Adam (squared error of an input
    below 0.001), for each n; models that start at random and do not, for each n, under the document's schedule and
    under Adam.
    Threshold: above 1/2, for each.
    Size: 8 models (quick), 40 (full), for each.
    Controls: directions learned from random starts and features reconstructed (output > 0.5), with the share of models
    with six, which the document often sees; directions at learned > 0.3 and > 0.7; the share of learned features, and
    of all, whose bias started positive; the norm of learned features in units of the perfect circle of as many; median
    loss; the document's schedule on the summed loss, n = 10; perfect starts under the document's schedule, and the
    largest learning rate at which SGD can stay there; the noise that half the perfect starts survive; directions
    against the learning rate, with and without warmup.
    """
    sizes = (10, 40)
    peaks = np.logspace(-2, 0.5, 5).tolist()
    cfg = ToyConfig(n_features=10, d_hidden=2)
    few = random_starts(cfg, max(n_models // 4, 2))
    ways: dict[str, dict[str, float]] = {"with warmup": {"warmup": 0.05, "initial_lr": 5e-4}, "without": {}}
    return judge_perfect(
        {
            f"n = {n}, {name}": train_biased(n, n_models, optimizer)
            for n in sizes
            for name, optimizer in (("SGD", documented(n)), ("Adam", ADAM))
        }
        | {"n = 10, SGD, summed loss": train_biased(10, n_models, documented(1))},
        {n: {noise: train_perfect(n, n_models, noise) for noise in (0.01, 0.03, 0.1, 0.3, 1.0)} for n in sizes},
        {n: train_perfect(n, n_models, 0.01, documented(n)) for n in sizes},
        {
            name: {
                lr: train_from(cfg, few, SGD(lr=lr, schedule="exponential", final_lr=lr / 20, **how), 10_000)
                for lr in peaks
            }
            for name, how in ways.items()
        },
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
    perfect = {n: {noise: loss < PERFECT for noise, loss in losses.items()} for n, losses in kept.items()}
    least = {n: shares[min(shares)] for n, shares in perfect.items()}
    counts = {f"n = {n} stays perfect": (int(stays.sum()), len(stays)) for n, stays in least.items()}
    counts |= {
        f"{name} not found": (int((~(o.loss < PERFECT)).sum()), len(o.loss))
        for name, o in found.items()
        if "summed" not in name
    }
    weakest = stats.weakest_share(counts)
    controls: dict[str, float] = {}
    for name, o in found.items():
        controls |= {f"{what}, {name}": value for what, value in _describe(o).items()}
    for n, shares in perfect.items():
        survived = [noise for noise, stays in shares.items() if stays.mean() >= 0.5]
        controls |= {
            f"noise that half survive, n = {n}": max(survived, default=0.0),
            f"perfect starts kept by the document's schedule, n = {n}": float((kept_sgd[n] < PERFECT).mean()),
            f"largest stable learning rate, n = {n}": stable_learning_rate(n),
        }
    text = "; ".join(
        f"{name}: {_tally(count(o))} directions, {_tally(reconstructed(o))} features reconstructed"
        for name, o in found.items()
    )
    example, path = next(iter(found.items()))
    return Verdict(
        measured=f"The smallest of six shares ({weakest.part})",
        statistic=weakest.share,
        interval=weakest.interval,
        threshold=0.5,
        n_models=sum(n for _, n in counts.values()),
        controls=controls,
        detail=f"Learned from random starts: {text}.",
        figures=[
            (
                f"From random starts to the end, {example}: every line is a feature's path, the dot its end.",
                plots_bottlenecks.trajectories(path.path[:, :3].swapaxes(0, 1), [f"seed {i}" for i in range(3)]),
            ),
            (
                "Directions learned from random starts, n = 10, against SGD's peak learning rate on the summed loss.",
                plots.curves(
                    {
                        name: (np.array(list(arm)), np.array([count(o).mean() for o in arm.values()]))
                        for name, arm in swept.items()
                    },
                    "peak learning rate",
                    "mean directions learned",
                    log_x=True,
                ),
            ),
            (
                "Share of perfect starts that end perfect, under Adam, against the noise at their start.",
                plots.curves(
                    {
                        f"n = {n}": (np.array(list(shares)), np.array([stays.mean() for stays in shares.values()]))
                        for n, shares in perfect.items()
                    },
                    "noise / spacing of neighbours",
                    "share of models",
                    log_x=True,
                ),
            ),
        ],
    )


def count(outcome: Outcome, learned: float = LEARNED) -> np.ndarray:
    """Directions learned by each model."""
    return geometry.count_directions(outcome.weights["W_E"], learned).numpy()


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
    first, directions = outcome.start["b_U"], count(outcome)
    norms = geometry.feature_norms(outcome.weights["W_E"])
    learned = norms > LEARNED
    ideal = torch.tensor([theory.perfect_circle(int(d)).norm if d >= 2 else torch.nan for d in directions])
    return {
        "mean directions": float(directions.mean()),
        "share with six directions": float((directions == 6).mean()),
        **{f"mean directions at learned > {cut}": float(count(outcome, cut).mean()) for cut in CUTS},
        "features reconstructed": float(reconstructed(outcome).mean()),
        "share with six features reconstructed": float((reconstructed(outcome) == 6).mean()),
        "learned features whose bias started positive": float((first[learned] > 0).double().mean()),
        "features whose bias started positive": float((first > 0).double().mean()),
        "norm, perfect circle of as many = 1": float((norms / ideal[:, None])[learned].nanmean()),
        "median loss": float(np.median(outcome.loss)),
    }


def _tally(values: np.ndarray) -> str:
    return ", ".join(f"{share:.0%} {d}" for d, share in enumerate(np.bincount(values) / len(values)) if share)


SCALES = (1.0, 0.3, 3.0, 10.0)


@claim("unit-norm-with-scale", "B", quick=6, full=40)
def unit_norm_with_scale(n_models: int) -> Verdict:
    """Unit-norm features with a learned scale that starts at 1 spread evenly on a circle, in fewer directions than
    features.

    Statistic: the smaller of two shares, 10 features in two dimensions, tied, with an output bias: models with fewer
    distinct directions than features; models whose gaps between neighbouring directions have a coefficient of variation
    below 0.1.
    Threshold: above 1/2, for each.
    Size: 6 models (quick), 40 (full), for each scale.
    Controls: directions, evenness and perfect models (squared error of an input < 0.001) with the scale started at 0.3,
    3 and 10, where the perfect circle needs at least 1 / (1 - cos 36) = 5.24; final scales; untrained directions.
    """
    cfg = ToyConfig(n_features=10, d_hidden=2, unit_norm=True)
    starts = random_starts(cfg, n_models)
    every = [start | {"scale": torch.tensor(scale)} for scale in SCALES for start in starts]
    together = train_from(cfg, every, ADAM, 1_500)  # one run, whose models do not meet
    return judge_scale({s: _some(together, slice(i * n_models, (i + 1) * n_models)) for i, s in enumerate(SCALES)})


def _some(outcome: Outcome, models: slice) -> Outcome:
    start, weights = ({name: w[models] for name, w in stacked.items()} for stacked in outcome[:2])
    return Outcome(start, weights, outcome.loss[models], outcome.path[:, models])


def gap_variation(W: Float[Tensor, "feature hidden"]) -> float:
    """Coefficient of variation of the gaps between neighbouring directions: 0 for a regular polygon."""
    groups = geometry.directions(W, LEARNED)
    centres = torch.stack([W[group].mean(0) for group in groups])
    turns = torch.atan2(centres[:, 1], centres[:, 0]).double().sort().values
    gaps = torch.diff(torch.cat([turns, turns[:1] + 2 * torch.pi]))
    return float(gaps.std(correction=0) / gaps.mean())


def judge_scale(outcomes: Mapping[float, Outcome]) -> Verdict:
    """Of models started at scale 1: fewer directions than features, evenly spread? Other scales are controls."""
    n = outcomes[1.0].weights["W_E"].shape[1]
    directions = {scale: count(o) for scale, o in outcomes.items()}
    variation = {scale: np.array([gap_variation(w) for w in o.weights["W_E"]]) for scale, o in outcomes.items()}
    counts = {
        "fewer directions than features": (int((directions[1.0] < n).sum()), len(directions[1.0])),
        "evenly spread": (int((variation[1.0] < 0.1).sum()), len(variation[1.0])),
    }
    found = stats.weakest_share(counts)
    controls = {name: k / total for name, (k, total) in counts.items()}
    start = outcomes[1.0].start["W_E"]
    controls["untrained directions"] = float(geometry.count_directions(start, LEARNED).double().mean())
    controls["untrained gap variation"] = float(np.mean([gap_variation(w) for w in start]))
    for scale, o in sorted(outcomes.items()):
        controls |= {
            f"mean directions, scale from {scale:g}": float(directions[scale].mean()),
            f"median gap variation, scale from {scale:g}": float(np.median(variation[scale])),
            f"median final scale, from {scale:g}": float(o.weights["scale"].median()),
            f"perfect, scale from {scale:g}": float((o.loss < PERFECT).mean()),
            f"median loss, scale from {scale:g}": float(np.median(o.loss)),
        }
    text = "; ".join(f"from {scale:g}: {_tally(directions[scale])}" for scale in sorted(directions))
    return Verdict(
        measured=f"The smaller of two shares ({found.part})",
        statistic=found.share,
        interval=found.interval,
        threshold=0.5,
        n_models=len(outcomes[1.0].loss),
        controls=controls,
        detail=f"Directions learned, by the scale at the start: {text}.",
        figures=[
            (
                "Unit-norm features, seed 0, by the scale that training starts from.",
                plots.feature_arrows(
                    np.stack([o.weights["W_E"][0].numpy() for _, o in sorted(outcomes.items())]),
                    [f"scale from {scale:g}" for scale in sorted(outcomes)],
                ),
            ),
            (
                "Directions learned by every model, by the scale that training starts from.",
                plots_bottlenecks.strips(
                    {f"from {scale:g}": directions[scale].astype(float) for scale in sorted(outcomes)}, "directions"
                ),
            ),
        ],
    )


CENTRED = 0.05


@claim("hidden-bias-goes-to-zero", "B", quick=6, full=40)
def hidden_bias_goes_to_zero(n_models: int) -> Verdict:
    """A hidden bias alone goes to zero if tied; untied it only re-centres: the activations stay centred on zero.

    Statistic: the smallest of four shares, 5 one-hot features in two dimensions, no output bias, ReLU and GELU: tied
    models whose hidden bias ends below 0.05 of the root-mean-square norm of the hidden activations; untied models whose
    mean hidden activation, over inputs, does.
    Threshold: above 1/2, for each.
    Size: 6 models (quick), 40 (full), for each of four arms.
    Controls: the medians of both ratios, in every arm and before training; the same untied models without a hidden
    bias; tied models with both biases; median losses.
    """
    arms = {
        f"{'tied' if tied else 'untied'}, {name}": train_hidden(n_models, tied, act)
        for tied in (True, False)
        for name, act in _ACTS.items()
    }
    return judge_hidden(
        arms,
        {f"untied without, {name}": train_hidden(n_models, False, act, hidden=False) for name, act in _ACTS.items()}
        | {"tied with both biases, ReLU": train_hidden(n_models, True, "relu", output=True)},
    )


_ACTS: dict[str, Activation] = {"ReLU": "relu", "GELU": "gelu"}


def train_hidden(
    n_models: int, tied: bool, output_act: Activation, hidden: bool = True, output: bool = False
) -> Outcome:
    """Five one-hot features in two dimensions, by default with a hidden bias only."""
    cfg = ToyConfig(n_features=5, d_hidden=2, tied=tied, hidden_bias=hidden, output_bias=output, output_act=output_act)
    return train_from(cfg, random_starts(cfg, n_models), ADAM, 1_500)


def offsets(weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Norm of the hidden bias, and of the mean hidden activation, in units of the root-mean-square activation."""
    bias = weights.get("b_hidden", torch.zeros_like(weights["W_E"][:, 0]))
    hidden = weights["W_E"] + bias[:, None]
    size = hidden.square().sum(-1).mean(-1).sqrt()
    return (bias.norm(dim=-1) / size).numpy(), (hidden.mean(1).norm(dim=-1) / size).numpy()


def judge_hidden(arms: Mapping[str, Outcome], others: Mapping[str, Outcome]) -> Verdict:
    """Tied: does the bias vanish? Untied: are the activations centred? `others`: controls."""
    counts = {}
    for name, o in arms.items():
        bias, centre = offsets(o.weights)
        small = (bias if name.startswith("tied") else centre) < CENTRED
        counts[name] = (int(small.sum()), len(small))
    found = stats.weakest_share(counts)
    everything = {**arms, **others}
    controls: dict[str, float] = {}
    for name, o in everything.items():
        for when, weights in (("", o.weights), (" before training", o.start)):
            bias, centre = offsets(weights)
            controls |= {f"bias{when}, {name}": float(np.median(bias))}
            controls |= {f"mean activation{when}, {name}": float(np.median(centre))}
        controls[f"median loss, {name}"] = float(np.median(o.loss))
    text = ", ".join(f"{name} {k / n:.0%}" for name, (k, n) in counts.items())
    return Verdict(
        measured=f"The smallest of four shares ({found.part})",
        statistic=found.share,
        interval=found.interval,
        threshold=0.5,
        n_models=sum(n for _, n in counts.values()),
        controls=controls,
        detail=f"Bias gone (tied) or activations centred (untied): {text}.",
        figures=[
            (
                f"{what} of every model, in units of the root-mean-square activation.",
                plots_bottlenecks.strips({name: offsets(o.weights)[i] for name, o in everything.items()}, ylabel),
            )
            for i, (what, ylabel) in enumerate(
                [("Norm of the hidden bias", "|b| / rms"), ("Norm of the mean hidden activation", "|mean h| / rms")]
            )
        ],
    )
