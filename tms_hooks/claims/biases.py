"""Claims of "Superposition and bottlenecks" about biases: output biases, hidden ones, and unit norm with a scale.

One-hot toys, all gradients and losses exact, from `torch.nn.Linear`'s initialization, biases too.

The document's schedule is SGD of the whole data set for 30,000 steps, the learning rate rising from 0.005 to 2 over the
first 5 % and then falling exponentially to 0.1. It does not say of which loss: here of the mean over inputs *and*
features, as `torch.nn.MSELoss` has it, which in units of this library's loss (summed over features) divides it by n. A
control takes it as it stands.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tms_hooks import geometry, landscape, plots, theory
from tms_hooks.claims import Part, Verdict, claim, lab, seeds, share, statistic
from tms_hooks.claims.lab import CUTS, LEARNED
from tms_hooks.config import ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.models.forward import Weights
from tms_hooks.run import Run
from tms_hooks.training.optimizers import SGD, Adam, Optimizer

PERFECT = 1e-3
"""Squared error of one input, all features together, below which a model counts as perfect; 1 if nothing is learned."""
SCALES = (0.3, 10.0)
"""What the learned scale starts from beside 1; the perfect circle of 10 needs 1 / (1 - cos 36) = 5.24."""
EVEN = 0.1
"""Coefficient of variation of the gaps below which directions count as evenly spread."""
CENTERED = 0.05
"""Share of the root-mean-square hidden activation below which an offset counts as none."""
SIZES = (10, 40)
STEPS = 30_000
NOISE = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Of the perfect starts, in units of the spacing of neighbors; the least decides."""
MARGIN = 1.05
"""Norm of a perfect start, the least perfect norm = 1: neighbors stand a little below their kinks."""
EXACT = 0.02
"""Relative difference from the perfect circle's norm within which a norm is the theoretical one."""
FLAT = 1e-6
"""Curvatures below this are none."""


class Outcome(NamedTuple):
    """Trained models: where they started, what became of them, their loss per input, and the way of their weights."""

    start: Weights
    weights: Weights
    loss: Float[np.ndarray, " model"]
    path: Float[np.ndarray, "step model feature hidden"]

    @classmethod
    def of(cls, run: Run) -> "Outcome":
        """Of a run that has recorded its start."""
        history = run.history
        start = {name: torch.from_numpy(history[name].values[0]) for name in run.weights if name in history}
        return cls(start, run.weights, run.final_loss.numpy(), history.W_E.values)

    @property
    def perfect(self) -> np.ndarray:
        """Which models reconstruct every input."""
        return np.less(self.loss, PERFECT)

    def directions(self, learned: float = LEARNED) -> np.ndarray:
        """How many directions each model has learned."""
        return geometry.count_directions(self.weights["W_E"], learned).numpy()

    @property
    def logits(self) -> Float[Tensor, "model feature feature"]:
        """Before the ReLU, one row per one-hot input; of tied toys with free norms."""
        return geometry.gram(self.weights["W_E"]) + self.weights["b_U"][:, None, :]

    @property
    def reconstructed(self) -> Bool[Tensor, "model feature"]:
        """Features whose output exceeds 0.5 when they are alone in the input."""
        return self.logits.diagonal(dim1=-2, dim2=-1) > 0.5

    @property
    def dead(self) -> Bool[Tensor, "model feature"]:
        """Features that no input lifts above the kink: neither their bias nor their readout has a gradient."""
        return (self.logits <= 0).all(-2)


def biased(n_features: int, **architecture: Any) -> ToyConfig:
    """Two dimensions, everything as `torch.nn.Linear` initializes it."""
    return ToyConfig(n_features=n_features, d_hidden=2, init="linear", **architecture)


def documented(peak: float) -> SGD:
    """The document's schedule, from a 400th of the peak learning rate to the peak and down to a 20th."""
    return SGD(lr=peak, schedule="exponential", warmup=0.05, initial_lr=peak / 400, final_lr=peak / 20)


def train_biased(cfg: ToyConfig, n_models: int, steps: int, optimizer: Optimizer = lab.USUAL) -> Outcome:
    """One-hot toys from random starts."""
    data = OneHot(n_features=cfg.n_features)
    return Outcome.of(
        lab.train_toys(cfg, data, n_models, steps=steps, optimizer=optimizer, record_every=max(steps // 50, 1))
    )


def perfect_starts(n_features: int, n_models: int, noise: float) -> list[dict[str, Tensor]]:
    """Perfect circles, 5 % longer than they must be, with Gaussian noise in units of the spacing of neighbors."""
    norm = MARGIN * theory.perfect_circle(n_features).norm
    spacing = 2 * torch.pi / n_features
    turns = spacing * torch.arange(n_features)
    circle = torch.stack([turns.cos(), turns.sin()], dim=1)
    starts = []
    for seed in range(n_models):
        drawn = torch.randn(n_features, 2, generator=seeds.generator(seed))
        W = norm * (circle + noise * spacing / 2**0.5 * drawn)
        starts.append({"W_E": W, "b_U": torch.full((n_features,), 1 - norm**2)})
    return starts


def train_perfect(
    n_features: int, n_models: int, noise: float, optimizer: Optimizer = lab.USUAL, steps: int = 3_000
) -> np.ndarray:
    """Final losses from near the perfect circle."""
    starts, cfg = perfect_starts(n_features, n_models, noise), biased(n_features)
    run = lab.train_from(cfg, OneHot(n_features=n_features), starts, steps=steps, optimizer=optimizer)
    return run.final_loss.numpy()


@claim("bias-perfect-not-found", "B", quick=8, full=40)
def bias_perfect_not_found(n_models: int) -> Verdict:
    """With an output bias all one-hot features fit perfectly on a circle, stably, but random starts do not find it.

    Part "exists": "The model should be able to reconstruct all the features without loss when a bias is added. Simply
    put them on a circle and subtract the same bias from each".
    Statistic: the share of models that start on the perfect circle, with noise of 1 % of the spacing between neighbors,
    and end perfect (squared error of an input below 0.001), n = 10 and 40, by the document's schedule.
    Threshold: above 1/2.
    Null: models that start at random.

    Part "not found": "Empirically I am unable to get this to happen!"
    Statistic: the share of models that start at random and end perfect, n = 10 and 40, by the document's schedule.
    Threshold: below 0.1.
    Null: models that start on the perfect circle.

    Part "often six": "A small number of features are learned. Often 6, maybe extremely briefly going through 5."
    Statistic: the share of models, n = 10, that reconstruct six features (output above 0.5), less the largest share of
    those that reconstruct any other number.
    Threshold: above 0.
    Null: none, since the statistic is a difference from the next most frequent.

    Part "exact": "When the initial learning rate is high, the model learns this exact algorithm up to exactly the
    theoretical weight magnitudes (eg. f=10, seed200, max_lr = 2 initial_lr = 0.005 warmup_frac = 0.05 final_lr = 0.1)".
    Statistic: the share of models, n = 10, that reconstruct three features or more, all at the norm of the perfect
    circle of as many, within 2 %.
    Threshold: above 1/2.
    Null: untrained models.

    Part "positive biases": "The features learned are always ones with bias initialised above zero."
    Statistic: the share of all reconstructed features, n = 10 and 40, whose bias started above zero; models are drawn.
    Threshold: above 0.9 ("always").
    Null: all features.

    Part "low rate": "When initial learning rate is low, the model learns this messy complicated thing ... But, then the
    model seems to decide it has learned too many, and it starts to send some inside the polygon."
    Statistic: the share of models, n = 40, that at some time have more directions (of features longer than 0.5) than in
    the end; a tenth of the rate, 90,000 steps.
    Threshold: above 1/2.
    Null: models at the document's high rate.

    Beyond the source "low rate, ten": the document does not say how many features this was.
    Statistic: the same, n = 10.
    Threshold: above 1/2.
    Null: models at the document's high rate.

    Beyond the source "Adam":
    Statistic: the share of models that start at random and end perfect, n = 10 and 40, after 10,000 steps of the usual
    recipe.
    Threshold: below 0.1.
    Null: models that start on the perfect circle.

    Size: 8 models (quick), 40 (full), for each n.
    Controls: features reconstructed and directions learned by each arm; the same at n = 40, on the summed loss (peak 2
    instead of 2 / n), and of Xavier weights with zero biases, with the share of positive biases; the noise that half
    the perfect starts survive under Adam, and the largest learning rate at which SGD can stay there.
    """
    cfgs = {n: biased(n) for n in SIZES}
    found = {}
    for n, cfg in cfgs.items():
        found[f"n = {n}"] = train_biased(cfg, n_models, STEPS, documented(2 / n))
        found[f"n = {n}, Adam"] = train_biased(cfg, n_models, 10_000)
        found[f"n = {n}, low rate"] = train_biased(cfg, n_models, 3 * STEPS, documented(0.2 / n))
    found["n = 10, summed loss"] = train_biased(cfgs[10], n_models, STEPS, documented(2))
    found["n = 10, from Xavier"] = train_biased(
        ToyConfig(n_features=10, d_hidden=2), n_models, STEPS, documented(2 / 10)
    )
    return judge_perfect(
        found,
        {n: {noise: train_perfect(n, n_models, noise) for noise in NOISE} for n in SIZES},
        {n: train_perfect(n, n_models, NOISE[0], documented(2 / n), STEPS) for n in SIZES},
    )


def judge_perfect(
    found: Mapping[str, Outcome], kept: Mapping[int, Mapping[float, np.ndarray]], kept_sgd: Mapping[int, np.ndarray]
) -> Verdict:
    """Are perfect starts kept, and random starts not perfect?

    Args:
        found: outcomes of random starts; those of names without a comma are the document's.
        kept: losses from perfect starts under Adam, by number of features and noise.
        kept_sgd: losses from perfect starts with the least noise under the document's schedule.
    """
    source = {name: o for name, o in found.items() if "," not in name}
    adam = [o for name, o in found.items() if name.endswith("Adam")]
    ten = source["n = 10"]
    stays = np.concatenate([losses < PERFECT for losses in kept_sgd.values()])
    stays_adam = np.concatenate([losses[min(losses)] < PERFECT for losses in kept.values()])
    lost = np.concatenate([o.perfect for o in source.values()])
    numbers = ten.reconstructed.sum(1).numpy()
    positive = [np.stack(positive_biases(o)) for o in source.values()]
    learned, every = (np.concatenate([p[i] for p in positive]) for i in (0, 1))
    stay = {
        f"n = {n}": {noise: (loss < PERFECT).mean() for noise, loss in losses.items()} for n, losses in kept.items()
    }
    controls = {f"{what}, {name}": value for name, o in found.items() for what, value in _describe(o).items()}
    for n in kept:
        survived = [noise for noise, held in stay[f"n = {n}"].items() if held >= 0.5]
        controls |= {
            f"noise that half survive, n = {n}": max(survived, default=0.0),
            f"largest stable learning rate, n = {n}": stable_learning_rate(n),
        }
    return Verdict(
        parts={
            "exists": share("The share of perfect starts that end perfect", stays, null=lost),
            "not found": share(
                "The share of random starts that end perfect",
                lost,
                null=stays,
                best=float(any(o.perfect[lab.lowest(o.loss)] for o in source.values())),
            ),
            "often six": statistic(
                "The share of models with six features less that with the next most frequent number",
                more_often_than_others,
                numbers,
            ),
            "exact": share(
                "The share of models at the theoretical norm",
                at_theoretical_norm(ten),
                null=at_theoretical_norm(ten._replace(weights=ten.start)),
                best=float(at_theoretical_norm(ten)[lab.lowest(ten.loss)]),
            ),
            "positive biases": statistic(
                "The share of reconstructed features whose bias started positive", share_of_rows, learned, null=(every,)
            ),
            **{
                name: share(
                    f"The share of models that lose directions again, n = {n},",
                    loses_directions(found[f"n = {n}, low rate"]),
                    null=loses_directions(found[f"n = {n}"]),
                )
                for name, n in (("low rate", 40), ("low rate, ten", 10))
            },
            "Adam": share(
                "The share of random starts that end perfect under Adam",
                np.concatenate([o.perfect for o in adam]),
                null=stays_adam,
            ),
        },
        n_models=sum(len(o.loss) for o in source.values()),
        controls=controls,
        detail=lab.listing(
            "Directions learned from random starts, and features reconstructed",
            {n: f"{lab.tally(o.directions())}, and {lab.tally(o.reconstructed.sum(1))}" for n, o in found.items()},
        ),
        figures={
            "From random starts to the end, n = 10: every line is a feature's path, the dot its end.": (
                plots.trajectories(ten.path[:, :3].swapaxes(0, 1), lab.seed_names(ten.loss[:3]))
            ),
            "At a tenth of the rate, n = 40.": plots.trajectories(
                found["n = 40, low rate"].path[:, :3].swapaxes(0, 1), lab.seed_names(ten.loss[:3])
            ),
            "The perfect circle of ten: each feature is read above its own dotted line, where no other reaches.": (
                plots.perfect_circle(10)
            ),
            "Share of perfect starts that end perfect, under Adam, against the noise at their start.": (
                lab.curves(stay, "noise / spacing of neighbors", "share of models", log_x=True)
            ),
        },
    )


def more_often_than_others(numbers: np.ndarray, wanted: int = 6) -> float:
    """Share of the wanted number, less that of the most frequent other one.

    >>> more_often_than_others(np.array([6, 6, 5, 4]))
    0.25
    """
    counts = np.bincount(numbers, minlength=wanted + 1) / len(numbers)
    return float(counts[wanted] - np.delete(counts, wanted).max())


def share_of_rows(rows: Int[np.ndarray, "model 2"]) -> float:
    """Share of successes in trials, which the two columns count, over all rows."""
    return float(rows[:, 0].sum() / rows[:, 1].sum()) if rows[:, 1].sum() else float("nan")


def positive_biases(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Per model: how many of the reconstructed features had a positive bias at the start, and of all: of how many."""
    positive, learned = outcome.start["b_U"] > 0, outcome.reconstructed
    of_learned = torch.stack([(positive & learned).sum(1), learned.sum(1)], dim=1)
    of_all = torch.stack([positive.sum(1), torch.full((len(positive),), positive.shape[1])], dim=1)
    return of_learned.numpy(), of_all.numpy()


def at_theoretical_norm(outcome: Outcome) -> np.ndarray:
    """Models that reconstruct three features or more, each at the least norm of the perfect circle of as many."""
    norms, held = geometry.feature_norms(outcome.weights["W_E"]), []
    for norm, learned in zip(norms, outcome.reconstructed, strict=True):
        k = int(learned.sum())
        ideal = theory.perfect_circle(k).norm if k > 2 else float("nan")
        held.append(bool(((norm[learned] / ideal - 1).abs() < EXACT).all()) and k > 2)
    return np.array(held)


def loses_directions(outcome: Outcome) -> np.ndarray:
    """Models that at some recorded time had more directions than in the end."""
    counts = geometry.count_directions(torch.from_numpy(outcome.path), LEARNED).numpy()
    return np.greater(counts.max(0), counts[-1])


def stable_learning_rate(n_features: int) -> float:
    """Largest learning rate at which gradient descent can stay on the perfect circle of least norm.

    There each feature's own error e = 1 - (|w|^2 + b) is all that has a gradient: the loss is the sum of e^2 / n, the
    largest eigenvalue of its Hessian 2 (4 |w|^2 + 1) / n, and descent is stable below 2 / eigenvalue.
    """
    return n_features / (4 * theory.perfect_circle(n_features).norm ** 2 + 1)


def _describe(outcome: Outcome) -> dict[str, float]:
    numbers = outcome.reconstructed.sum(1).numpy()
    of_learned, of_all = positive_biases(outcome)
    return {
        "mean directions": outcome.directions().mean(),
        "share with six directions": (outcome.directions() == 6).mean(),
        **{f"mean directions at learned > {cut}": outcome.directions(cut).mean() for cut in CUTS},
        "features reconstructed": numbers.mean(),
        "six less the next most frequent": more_often_than_others(numbers),
        "reconstructed whose bias started positive": share_of_rows(of_learned),
        "features whose bias started positive": share_of_rows(of_all),
        "at the theoretical norm": at_theoretical_norm(outcome).mean(),
        "perfect": outcome.perfect.mean(),
        "median loss": float(np.median(outcome.loss)),
    }


@claim("after-six-nothing", "B", quick=24, full=60)
def after_six_nothing(n_models: int) -> Verdict:
    """With an output bias, once six features are learned nothing else is: the others are caught in a minimum.

    Part "nothing else": "Can I explain why this doesn't happen? Show that once 6 features are learned, nothing else
    is?"
    Statistic: of the models that reconstruct six features (output above 0.5), the share in which every other feature is
    dead: no input lifts it above the kink, so that neither its bias nor its readout has a gradient. n = 10, by the
    document's schedule.
    Threshold: above 1/2.
    Null: untrained models.

    Part "positive definite": "escaping a positive definite Hessian in the tied bias relu mse case??"
    Statistic: the share of the end points of all models (at most 12) whose exact Hessian, without the symmetries, has
    all its eigenvalues above 1e-6.
    Threshold: above 1/2.
    Null: none, since untrained models are not at rest.

    Beyond the source "nothing else after five":
    Statistic: the share of models with every other feature dead among those that reconstruct five or fewer.
    Threshold: above 1/2.
    Null: untrained models.

    Beyond the source "no way down":
    Statistic: the share of the same end points at which no eigenvalue of the Hessian is below -1e-6.
    Threshold: above 1/2.
    Null: none, since untrained models are not at rest.

    Size: 24 models (quick), 60 (full).
    Controls: the share with every other feature dead by the number reconstructed; flat directions; kinds of end points;
    the gradient norm where the others are dead and where not.
    """
    cfg, data = biased(10), OneHot(n_features=10)
    run = lab.train_toys(cfg, data, n_models, steps=STEPS, optimizer=documented(2 / 10), record_every=STEPS // 50)
    points = [landscape.critical_point(model, data) for model in run.models[:12]]
    return judge_caught(Outcome.of(run), points)


def judge_caught(outcome: Outcome, points: "list[landscape.CriticalPoint]") -> Verdict:
    """Are the features that were not learned caught? `points`: the end points of the first models."""
    numbers = outcome.reconstructed.sum(1).numpy()
    caught = (outcome.dead | outcome.reconstructed).all(-1).numpy()
    before = outcome._replace(weights=outcome.start)
    start = (before.dead | before.reconstructed).all(-1).numpy()
    lowest = np.array([float(point.eigenvalues.min()) for point in points])
    flat = [int((point.eigenvalues.abs() < FLAT).sum()) for point in points]
    kinds = [point.kind for point in points]
    slopes = np.array([point.gradient_norm for point in points])
    by_number = {
        f"every other dead, {k} reconstructed": caught[numbers == k].mean() for k in range(11) if (numbers == k).any()
    }
    return Verdict(
        parts={
            "nothing else": share(
                "The share of models with six features whose others are dead", caught[numbers == 6], null=start
            ),
            "positive definite": share("The share of positive definite Hessians", lowest > FLAT, unit="end points"),
            "nothing else after five": share(
                "The share of models with five features or fewer whose others are dead",
                caught[numbers <= 5],
                null=start,
            ),
            "no way down": share(
                "The share of Hessians without negative curvature", lowest >= -FLAT, unit="end points"
            ),
        },
        n_models=len(numbers),
        controls=by_number
        | {f"end points, {kind}": kinds.count(kind) / len(kinds) for kind in dict.fromkeys(kinds)}
        | {
            "flat directions": lab.mean(flat),
            "gradient norm, others dead": lab.mean(slopes[caught[: len(points)]]),
            "gradient norm, others alive": lab.mean(slopes[~caught[: len(points)]]),
        },
        detail=lab.listing("Every other feature dead", by_number, ".0%"),
        figures={
            "Features at the end, n = 10; the dotted circle has radius 1.": plots.feature_arrows(
                outcome.weights["W_E"][:4].numpy(), [f"{k} reconstructed" for k in numbers[:4]]
            )
        },
    )


@claim("unit-norm-with-scale", "B", quick=8, full=24)
def unit_norm_with_scale(n_models: int) -> Verdict:
    """Unit-norm features with a learned scale from 1 spread evenly on a circle, in fewer directions than features.

    Part "uniform": "When it's initialised to one, the features get learned uniformly on a circle".
    Statistic: the share of models whose gaps between neighboring directions have a coefficient of variation below 0.1;
    10 features in two dimensions, tied, with an output bias; the scale multiplies what the ReLU gives and starts at 1;
    by the document's schedule with a third of its steps (the check of convergence trains for all 30,000).
    Threshold: above 1/2.
    Null: untrained models.

    Part "fewer": "but less than one direction per feature. Why?"
    Statistic: the share of models with fewer distinct directions than features whose largest gap is below 72 degrees,
    so that they surround the circle as a polygon does.
    Threshold: above 1/2.
    Null: models that are trained with the scale in front of the bias, from the same start.

    Beyond the source "the scale's start": "How does the initialisation of the scale factor affect the number of
    features learned?" is asked, and not answered.
    Statistic: the mean number of directions from a scale of 10 less that from 0.3, the scale in front of the bias.
    Threshold: above 0.
    Null: none, since the statistic is a difference.

    Beyond the source "given time": 2,000 steps of Adam at a constant 0.1, the scale in front of the bias.
    Statistic: the share of models that end with ten directions, evenly spread, at the perfect circle (squared error of
    an input below 0.001).
    Threshold: above 1/2.
    Null: free norms, by the document's schedule.

    Size: 8 models (quick), 24 (full), for each arm.
    Controls: directions, evenness, scale, loss and perfect models of each arm; untrained directions.
    """
    behind = biased(10, unit_norm=True, scale="after")
    front = biased(10, unit_norm=True)

    starts = lab.each(lab.untrained(front, n_models))
    scaled = {scale: [start | {"scale": torch.tensor(scale)} for start in starts] for scale in SCALES}
    return judge_scale(
        {
            "from 1": Outcome.of(_train_scaled(behind, lab.each(lab.untrained(behind, n_models)))),
            "in front": Outcome.of(_train_scaled(front, starts)),
            **{f"from {scale:g}": Outcome.of(_train_scaled(front, each)) for scale, each in scaled.items()},
            "given time": train_biased(front, n_models, 2_000, Adam(lr=0.1)),
            "free norms": train_biased(biased(10), n_models, STEPS, documented(2 / 10)),
        }
    )


def _train_scaled(cfg: ToyConfig, starts: "list[dict[str, Tensor]]") -> Run:
    steps = STEPS // 3
    return lab.train_from(
        cfg,
        OneHot(n_features=cfg.n_features),
        starts,
        steps=steps,
        optimizer=documented(2 / cfg.n_features),
        record_every=steps // 50,
    )


def gaps(W: Float[Tensor, "feature hidden"]) -> np.ndarray:
    """Angles between neighboring directions, in radians; one of infinity if there are no two."""
    groups = geometry.directions(W, LEARNED)
    if len(groups) < 2:
        return np.array([np.inf])
    centers = torch.stack([W[group].mean(0) for group in groups])
    turns = torch.atan2(centers[:, 1], centers[:, 0]).double().sort().values
    return torch.diff(torch.cat([turns, turns[:1] + 2 * torch.pi])).numpy()


def gap_variation(W: Float[Tensor, "feature hidden"]) -> float:
    """Coefficient of variation of the gaps: 0 for a regular polygon; infinite if there are no two directions."""
    found = gaps(W)
    return float(found.std() / found.mean()) if np.isfinite(found).all() else float("inf")


def judge_scale(outcomes: Mapping[str, Outcome]) -> Verdict:
    """Of models "from 1": fewer directions than features, evenly spread? Other starts and recipes are controls."""

    def even(W: Tensor) -> np.ndarray:
        return np.array([gap_variation(w) for w in W]) < EVEN

    def fewer(o: Outcome) -> np.ndarray:
        around = np.array([gaps(w).max() < 2 * np.pi / 5 for w in o.weights["W_E"]])
        return around & (o.directions() < o.weights["W_E"].shape[1])

    one, timed = outcomes["from 1"], outcomes["given time"]
    starts = {scale: outcomes[f"from {scale:g}"].directions() for scale in SCALES}
    controls = {"untrained directions": lab.mean(geometry.count_directions(one.start["W_E"], LEARNED))}
    through = {}
    for name, o in outcomes.items():
        counts = geometry.count_directions(torch.from_numpy(o.path), LEARNED).double().mean(1).numpy()
        through[name] = (np.linspace(0, 1, len(counts)), counts)
        controls |= {
            f"mean directions, {name}": o.directions().mean(),
            f"evenly spread, {name}": even(o.weights["W_E"]).mean(),
            f"perfect, {name}": o.perfect.mean(),
            f"median loss, {name}": float(np.median(o.loss)),
        }
        if "scale" in o.weights:
            controls[f"median scale, {name}"] = float(o.weights["scale"].median())
    uniform = even(one.weights["W_E"])
    best = lab.lowest(one.loss)
    return Verdict(
        parts={
            "uniform": share(
                "The share of models evenly spread", uniform, null=even(one.start["W_E"]), best=float(uniform[best])
            ),
            "fewer": share(
                "The share of models in fewer directions than features, all around",
                fewer(one),
                null=fewer(outcomes["in front"]),
                best=float(fewer(one)[best]),
            ),
            "the scale's start": statistic(
                "Directions from a scale of 10 less those from 0.3",
                lambda high, low: float(high.mean() - low.mean()),
                starts[10.0],
                starts[0.3],
            ),
            "given time": share(
                "The share of models at the perfect circle",
                timed.perfect & even(timed.weights["W_E"]),
                null=outcomes["free norms"].perfect,
            ),
        },
        n_models=len(one.loss),
        controls=controls,
        detail=lab.listing("Directions", {n: lab.tally(o.directions()) for n, o in outcomes.items()}),
        figures={
            "Unit-norm features at the end, the first model.": plots.feature_arrows(
                np.stack([o.weights["W_E"][0].numpy() for o in outcomes.values()]), list(outcomes)
            ),
            "Directions over training (means over models).": (
                plots.curves(through, "share of the training", "directions")
            ),
        },
    )


@claim("hidden-bias-goes-to-zero", "B", quick=8, full=60, seconds=31)
def hidden_bias_goes_to_zero(n_models: int) -> Verdict:
    """A hidden bias alone goes to zero if tied; untied it only re-centers: the activations stay centered on zero.

    Part "tied": "When there is only a bias in the hidden layer and untied, bias goes to zero with relu and gelu. When
    untied, there is a new d.o.f" (read as of tied models, since the next sentence turns to untied ones; as printed it
    is an arm below).
    Statistic: the share of tied models whose hidden bias ends below 0.05 of the root-mean-square norm of the hidden
    activations; five one-hot features in two dimensions, ReLU and GELU together, 10,000 steps of the usual recipe.
    Threshold: above 1/2.
    Null: untrained models.

    Part "untied": "there is a new d.o.f in the pentagon solution, with the centre of the pentagram allowed to drift
    away from the origin to coordinates (x,y) with the bias taking on the value (-x,-y). The activations are always
    centred on zero."
    Statistic: the share of untied models, ReLU and GELU together, whose mean hidden activation, over inputs, ends below
    0.05 of the same.
    Threshold: above 1/2.
    Null: untrained models.

    Part "both biases": "It seems possible that the centre shifts away from zero in that case."
    Statistic: the share of tied models with both biases whose mean hidden activation ends above 0.05 of the same; ReLU.
    Threshold: above 1/2.
    Null: tied models with the hidden bias alone.

    Beyond the source "as printed":
    Statistic: the share of untied models whose hidden bias ends below 0.05 of the same.
    Threshold: above 1/2.
    Null: untrained models.

    Beyond the source "shift": the degree of freedom that the document names, held against models without a hidden bias.
    Statistic: the difference in median final loss between untied ReLU models with a hidden bias and without, relative
    to the larger of the two.
    Threshold: below 0.1.
    Null: none, since the statistic is a difference.

    Size: 8 models (quick), 60 (full), for each of four arms.
    Controls: the medians of both ratios, in every arm and before training; the same untied models without a hidden
    bias; by the document's schedule; median losses.
    """

    def trained(document: bool = False, **changes: Any) -> Outcome:
        cfg = biased(5, **({"hidden_bias": True, "output_bias": False} | changes))
        if document:
            return train_biased(cfg, n_models, STEPS, documented(2 / 5))
        return train_biased(cfg, n_models, 10_000)

    arms, others = {}, {"tied with both biases, ReLU": trained(output_bias=True)}
    for name, act in (("ReLU", "relu"), ("GELU", "gelu")):
        arms[f"tied, {name}"] = trained(output_act=act)
        arms[f"untied, {name}"] = trained(output_act=act, tied=False)
        others[f"untied without, {name}"] = trained(output_act=act, tied=False, hidden_bias=False)
        others[f"document's schedule, tied, {name}"] = trained(True, output_act=act)
        others[f"document's schedule, untied, {name}"] = trained(True, output_act=act, tied=False)
    return judge_hidden(arms, others)


def offsets(weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Norm of the hidden bias, and of the mean hidden activation, in units of the root-mean-square activation."""
    bias = weights.get("b_hidden", torch.zeros_like(weights["W_E"][:, 0]))
    hidden = weights["W_E"] + bias[:, None]
    size = hidden.square().sum(-1).mean(-1).sqrt()
    return (bias.norm(dim=-1) / size).numpy(), (hidden.mean(1).norm(dim=-1) / size).numpy()


def judge_hidden(arms: Mapping[str, Outcome], others: Mapping[str, Outcome]) -> Verdict:
    """Tied: does the bias vanish? Untied: are the activations centered? `others`: both biases, and controls."""
    controls: dict[str, float] = {}
    biases, means = {}, {}
    for name, o in {**arms, **others}.items():
        for when, weights in (("before training, ", o.start), ("", o.weights)):
            bias, mean = offsets(weights)
            biases[when + name], means[when + name] = bias, mean
            controls[f"bias, {when}{name}"] = float(np.median(bias))
            controls[f"mean activation, {when}{name}"] = float(np.median(mean))
        controls[f"median loss, {name}"] = float(np.median(o.loss))

    def small(values: Mapping[str, np.ndarray], kind: str, when: str = "") -> np.ndarray:
        return np.concatenate([values[when + name] for name in arms if name.startswith(kind)]) < CENTERED

    def part(measured: str, values: Mapping[str, np.ndarray], kind: str) -> Part:
        return share(measured, small(values, kind), null=small(values, kind, "before training, "))

    losses = [float(np.median(o.loss)) for o in (arms["untied, ReLU"], others["untied without, ReLU"])]
    return Verdict(
        parts={
            "tied": part("The share of tied models whose hidden bias is gone", biases, "tied"),
            "untied": part("The share of untied models with centered activations", means, "untied"),
            "both biases": share(
                "The share of tied models with both biases whose center has shifted",
                means["tied with both biases, ReLU"] > CENTERED,
                null=means["tied, ReLU"] > CENTERED,
            ),
            "as printed": part("The share of untied models whose hidden bias is gone", biases, "untied"),
            "shift": statistic(
                "The relative difference in median loss",
                lambda a, b: abs(float(np.median(a) - np.median(b))) / max(float(np.median(a)), float(np.median(b))),
                arms["untied, ReLU"].loss,
                others["untied without, ReLU"].loss,
            ),
        },
        n_models=lab.total({name: o.loss for name, o in arms.items()}),
        controls=controls,
        detail=f"Median loss of untied ReLU models: {losses[0]:.3g} with a hidden bias, {losses[1]:.3g} without.",
        figures={
            f"Norm of the {what} of every model, in units of the root-mean-square activation.": plots.strips(
                {name: values for name, values in norms.items() if name in arms or name in others}, label
            )
            for what, label, norms in (
                ("hidden bias", "|b| / rms", biases),
                ("mean hidden activation", "|mean h| / rms", means),
            )
        },
    )
