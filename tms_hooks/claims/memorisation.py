"""A claim of "Superposition and bottlenecks" about how much a model can memorize.

Tied weights, ReLU, output bias, MSE; a fixed set of random points of unit norm, four active features each, is the whole
data set. The usual recipe, 2,000 steps; model i has seed i and its own points.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tms_hooks import plots
from tms_hooks.claims import Verdict, claim, lab, seeds, statistic, unmeasurable
from tms_hooks.config import ToyConfig
from tms_hooks.data import RandomPoints
from tms_hooks.models import forward

ACTIVE = 4
UNSEEN = 500
STORED, CUTS = 0.1, (0.03, 0.3)
"""A point, of unit norm, is stored if its squared error is below this."""
PER_PARAMETER = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2)
"""Sizes of the growing sets, in points per parameter."""


class Memory(NamedTuple):
    """Squared errors of models trained on sets of points, by size of the set: at its points, then at unseen ones."""

    n_features: int
    d_hidden: int
    errors: Mapping[int, Float[np.ndarray, "model point"]]

    @property
    def parameters(self) -> int:
        """Of one model: tied weights and an output bias."""
        return self.n_features * (self.d_hidden + 1)

    def shares(self, cut: float = STORED) -> tuple[np.ndarray, np.ndarray]:
        """(model, set): share of the points that are stored, of those seen and of those not."""
        both = [((e[:, :n] < cut).mean(1), (e[:, n:] < cut).mean(1)) for n, e in self.errors.items()]
        seen, unseen = np.array(both).transpose(1, 2, 0)
        return seen, unseen

    def memorized(self, cut: float = STORED) -> np.ndarray:
        """(model, set): points per parameter that are stored, less as many as would be without having been seen."""
        seen, unseen = self.shares(cut)
        return np.array(list(self.errors)) * (seen - unseen).clip(min=0) / self.parameters


def memorize(n_features: int, d_hidden: int, n_models: int) -> Memory:
    """Train models on growing sets of points."""
    cfg = ToyConfig(n_features=n_features, d_hidden=d_hidden)

    def errors(size: int, seed: int) -> np.ndarray:
        kind = {"n_features": n_features, "k": ACTIVE, "points_seed": seeds.first() + seed}
        run = lab.train_toys(cfg, RandomPoints(n_points=size, **kind), range(seed, seed + 1), steps=2_000)
        more = RandomPoints(n_points=size + UNSEEN, **kind).dataset()  # the same points, and others
        return (forward.reconstruct(run.weights, more[None], cfg)[2] - more).square().sum(-1)[0].numpy()

    sizes = [round(share * n_features * (d_hidden + 1)) for share in PER_PARAMETER]
    return Memory(n_features, d_hidden, {n: np.stack([errors(n, seed) for seed in range(n_models)]) for n in sizes})


@claim("memorisation", "B", quick=8, full=12)
def memorisation(n_models: int) -> Verdict:
    """Models can store about one random data point for each of their parameters.

    Part "one per parameter": "how is it that models can approximately store one datapoint per parameter?"
    Statistic: the largest mean number of points memorized for each parameter, over m = 2, 4 and 8 (n = 32) and sets of
    1/32, 1/16, ... 2 points for each parameter. A point is stored if its squared error is below 0.1 of its squared
    norm; memorized are the stored points less the share of unseen points that would count as stored, because a model
    that learned the features reconstructs points that it never saw.
    Threshold: above 1/2 ("approximately one").
    Null: none, since what unseen points have is taken off.

    Beyond the source "not by parameters": if points went by parameters, as many would be stored for each in a model of
    four times as many features and parameters.
    Statistic: points memorized for each parameter at their best set, n = 32 relative to n = 8, both with m = 2.
    Threshold: below 1/2.
    Null: 1, points that go by parameters.

    Size: 8 models for each m and set (quick), 12 (full), each with its own points.
    Controls: errors below 0.03 and 0.3; each m; the share of seen and of unseen points stored in the largest sets; n =
    16 with m = 4; for each (n, m), at its best set, numbers (n per point) for each parameter and points for each hidden
    dimension.
    """
    return judge_memory(
        [memorize(32, m, n_models) for m in (2, 4, 8)], [memorize(8, 2, n_models), memorize(16, 4, n_models)]
    )


def judge_memory(memories: list[Memory], others: list[Memory]) -> Verdict:
    """How many points for each parameter?"""

    def best(*sets: np.ndarray) -> float:
        return max(float(s.mean(0).max()) for s in sets)

    named = {f"n = {memory.n_features}, m = {memory.d_hidden}": memory for memory in [*memories, *others]}
    controls = {f"error below {cut}": best(*(memory.memorized(cut) for memory in memories)) for cut in CUTS}
    points, stored, kept = {}, {}, {}
    for name, memory in named.items():
        rate = best(memory.memorized())
        points[name] = rate * memory.parameters
        seen, unseen = memory.shares()
        sizes = np.array(list(memory.errors)) / memory.parameters
        stored[name], kept[name] = (sizes, seen.mean(0)), (sizes, memory.memorized().mean(0))
        controls |= {
            f"points per parameter, {name}": rate,
            f"numbers per parameter, {name}": rate * memory.n_features,
            f"points per hidden dimension, {name}": points[name] / memory.d_hidden,
            f"share of seen points stored, largest set, {name}": seen[:, -1].mean(),
            f"share of unseen points stored, largest set, {name}": unseen[:, -1].mean(),
        }
    memorized = [memory.memorized() for memory in memories]
    small = next((memory for memory in others if memory.d_hidden == memories[0].d_hidden), None)
    return Verdict(
        parts={
            "one per parameter": statistic(
                "The largest number of points memorized for each parameter", best, *memorized
            ),
            "not by parameters": statistic(
                "Points memorized for each parameter, n = 32 relative to n = 8,",
                lambda many, few: best(many) / best(few),
                memorized[0],
                small.memorized(),
                null=1.0,
            )
            if small
            else unmeasurable("Points for each parameter at fewer features", "no such models were trained"),
        },
        n_models=sum(rate.size for rate in memorized),
        controls=controls,
        detail=lab.listing(
            "Most points memorized", {n: f"{points[n]:.3g} by {m.parameters} parameters" for n, m in named.items()}
        ),
        figures={
            f"Share of seen points stored (squared error below {STORED}) against the number of points per parameter.": (
                plots.curves(stored, "points per parameter", "share of points stored", log_x=True)
            ),
            "Points memorized per parameter: stored, less what unseen points would be. The claim says 1.": (
                plots.curves(kept, "points per parameter", "points memorized, per parameter", log_x=True)
            ),
        },
    )
