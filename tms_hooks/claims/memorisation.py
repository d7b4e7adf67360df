"""A claim of "Superposition and bottlenecks" about how much a model can memorise.

Tied weights, ReLU, output bias, MSE; a fixed set of random points of unit norm, four active features each, is the whole
data set. Adam at 0.01 with cosine decay over 2,000 steps; model i has seed i and its own points.
"""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

from tms_hooks import plots, stats
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import Verdict, above
from tms_hooks.config import ToyConfig
from tms_hooks.data import RandomPoints
from tms_hooks.models import forward
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

ACTIVE = 4
STEPS = 2_000
UNSEEN = 500
STORED = 0.1
"""A point, of unit norm, is stored if its squared error is below this."""
CUTS = (0.03, 0.3)
PER_PARAMETER = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2)
"""Sizes of the growing sets, in points per parameter."""


class Memory(NamedTuple):
    """Squared errors of models that were trained on sets of growing size.

    Attributes:
        n_features, d_hidden: of the models.
        seen: size of the set -> (model, point), on the set itself.
        unseen: size of the set -> (model, point), on other points of the same kind.
    """

    n_features: int
    d_hidden: int
    seen: Mapping[int, np.ndarray]
    unseen: Mapping[int, np.ndarray]

    @property
    def parameters(self) -> int:
        """Of one model: tied weights and an output bias."""
        return self.n_features * (self.d_hidden + 1)

    def shares(self, cut: float = STORED) -> tuple[np.ndarray, np.ndarray]:
        """(model, set): share of the points that are stored, of those seen and of those not."""
        seen, unseen = (np.stack([(e < cut).mean(1) for e in es.values()], 1) for es in (self.seen, self.unseen))
        return seen, unseen

    def memorised(self, cut: float = STORED) -> np.ndarray:
        """(model, set): points stored, less as many as would be without having been seen."""
        seen, unseen = self.shares(cut)
        counts: np.ndarray = np.array(list(self.seen)) * (seen - unseen).clip(min=0)
        return counts


@cache
def memorise(n_features: int, d_hidden: int, n_models: int) -> Memory:
    """Train models on growing sets of points."""
    cfg = ToyConfig(n_features=n_features, d_hidden=d_hidden)
    seen: dict[int, np.ndarray] = {}
    unseen: dict[int, np.ndarray] = {}
    for size in (round(share * n_features * (d_hidden + 1)) for share in PER_PARAMETER):
        errors = []
        for seed in range(n_models):
            points = RandomPoints(n_features=n_features, n_points=size, k=ACTIVE, points_seed=seed)
            run = train(
                cfg, points, seeds=(seed,), steps=STEPS, optimizer=Adam(lr=1e-2, schedule="cosine"), record_every=STEPS
            )
            more = RandomPoints(n_features=n_features, n_points=size + UNSEEN, k=ACTIVE, points_seed=seed).dataset()
            out = forward.reconstruct(run.weights, more[None], cfg)[2]
            errors.append((out - more).square().sum(-1)[0].numpy())
        both = np.stack(errors)
        seen[size], unseen[size] = both[:, :size], both[:, size:]
    return Memory(n_features, d_hidden, seen, unseen)


@claim("memorisation", "B", quick=3, full=12, needs=above(0.5))
def memorisation(n_models: int) -> Verdict:
    """Models can store about one random data point for each of their parameters.

    Statistic: the largest mean number of points memorised for each parameter, over m = 2, 4 and 8 (n = 32) and sets of
    1/32, 1/16, ... 2 points for each parameter. A point is stored if its squared error is below 0.1 of its squared
    norm; memorised are the stored points less the share of unseen points that would count as stored, because a model
    that learned the features reconstructs points that it never saw.
    Threshold: above 1/2 ("about one").
    Size: 3 models for each m and set (quick), 12 (full), each with its own points.
    Controls: errors below 0.03 and 0.3; each m; the share of seen and of unseen points stored in the largest sets;
    n = 8 with m = 2 and n = 16 with m = 4; for each (n, m), at its best set, numbers (n a point) for each parameter and
    points for each hidden dimension.
    """
    return judge_memory(
        [memorise(32, m, n_models) for m in (2, 4, 8)], [memorise(8, 2, n_models), memorise(16, 4, n_models)]
    )


def judge_memory(memories: list[Memory], others: list[Memory]) -> Verdict:
    """How many points for each parameter?"""

    def per_parameter(memory: Memory, cut: float = STORED) -> np.ndarray:
        return memory.memorised(cut) / memory.parameters

    def best(*sets: np.ndarray) -> float:
        return max(float(s.mean(0).max()) for s in sets)

    found = [per_parameter(memory) for memory in memories]
    named = {f"n = {memory.n_features}, m = {memory.d_hidden}": memory for memory in [*memories, *others]}
    rates = {name: best(per_parameter(memory)) for name, memory in named.items()}
    points = {name: rates[name] * memory.parameters for name, memory in named.items()}
    return Verdict(
        measured="The largest number of points memorised for each parameter",
        statistic=best(*found),
        interval=stats.bootstrap(best, *found),
        n_models=sum(rate.size for rate in found),
        controls={f"error below {cut}": best(*(per_parameter(memory, cut) for memory in memories)) for cut in CUTS}
        | {f"points per parameter, {name}": rate for name, rate in rates.items()}
        | {f"numbers per parameter, {name}": rate * named[name].n_features for name, rate in rates.items()}
        | {f"points per hidden dimension, {name}": points[name] / memory.d_hidden for name, memory in named.items()}
        | {
            f"share of {what} points stored, largest set, {name}": float(shares[:, -1].mean())
            for name, memory in named.items()
            for what, shares in zip(("seen", "unseen"), memory.shares(), strict=True)
        },
        detail="Most points memorised: "
        + ", ".join(f"{points[name]:.3g} by {m.parameters} parameters ({name})" for name, m in named.items())
        + ".",
        figures=[
            (
                "Share of the seen points that are stored against the number of points for each parameter.",
                plots.curves(
                    {name: (_sizes(memory), memory.shares()[0].mean(0)) for name, memory in named.items()},
                    "points in the set, per parameter",
                    f"share of points with squared error below {STORED}",
                    log_x=True,
                ),
            ),
            (
                "Points memorised for each parameter: stored, less what unseen points would be. The claim says 1.",
                plots.curves(
                    {name: (_sizes(memory), per_parameter(memory).mean(0)) for name, memory in named.items()},
                    "points in the set, per parameter",
                    "points memorised, per parameter",
                    log_x=True,
                ),
            ),
        ],
    )


def _sizes(memory: Memory) -> np.ndarray:
    return np.array(list(memory.seen)) / memory.parameters
