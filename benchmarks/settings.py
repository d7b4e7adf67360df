"""What is compared: the plain loop and our engine on the same task."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

import tms_hooks as tms
from benchmarks.plain_loop import (
    PlainCopula,
    PlainGaussian,
    PlainHeads,
    PlainOneHot,
    PlainResidual,
    PlainSquares,
    PlainToys,
)
from tms_hooks.data import Distribution
from tms_hooks.training.recipe import Recipe

PARTS = {
    "task": PlainSquares,
    "gaussian": PlainGaussian,
    "copula": PlainCopula,
    "residual": PlainResidual,
    "loss": PlainToys,
}
"""A task of one's own, data that are normal or tied, an MLP; and a loss of one's own, the squared error once more."""


def squared_error(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The loss of one's own."""
    return (out - target).square()


def squares(x: torch.Tensor) -> torch.Tensor:
    """The task of `PlainSquares`."""
    return x.square()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """`models` toys of n features and m hidden units, with feature probabilities from p to p_last, geometrically."""

    name: str
    n: int
    m: int
    models: int
    p: float
    p_last: float
    plain_steps: int
    """How many steps of the plain loop make a timing of a fraction of a second."""
    one_hot: bool = False
    rank: int = 0
    part: Literal["", "task", "gaussian", "copula", "residual", "loss"] = ""
    """Which of `PARTS` it has."""
    target: float | None = None
    """The ratio to reach at equal work, one thread."""
    loss_steps: int = 3_000
    """Steps of the plain loop whose held-out loss our engine has to reach; with 0 that is not measured."""
    loss_models: int = 10
    """Models that are trained for that."""

    @property
    def probabilities(self) -> torch.Tensor:
        return torch.logspace(
            torch.tensor(self.p).log10().item(), torch.tensor(self.p_last).log10().item(), self.models
        )

    def fewer(self, models: int) -> "Setting":
        """The same with at most so many models."""
        return replace(self, models=min(self.models, models))

    def plain(self) -> PlainToys:
        """The loop, ready to train."""
        if self.one_hot:
            return PlainOneHot(self.n, self.m, self.probabilities)
        if self.rank:
            pairs = [(i, (i + 1) % self.n) for i in range(self.rank)]
            return PlainHeads(self.n, self.m, self.rank, self.probabilities, pairs)
        return PARTS.get(self.part, PlainToys)(self.n, self.m, self.probabilities)

    def recipes(self) -> list[Recipe]:
        """The same models for our engines: a recipe for each feature probability."""
        cfg = tms.ToyConfig(n_features=self.n, d_hidden=self.m, n_heads=int(self.rank > 0), d_head=self.rank or None)
        if self.one_hot:
            return [self._recipe(cfg, tms.OneHot(n_features=self.n), range(self.models))]
        if self.part:
            return [self._with_part()]
        if self.p == self.p_last:
            data = tms.SparseUniform(n_features=self.n, feature_probability=self.p)
            return [self._recipe(cfg, data, range(self.models))]
        return [
            self._recipe(cfg, tms.SparseUniform(n_features=self.n, feature_probability=min(p, 1.0)), [seed])
            for seed, p in enumerate(self.probabilities.tolist())
        ]

    def _with_part(self) -> Recipe:
        given = {"n_features": self.n, "feature_probability": self.p}
        data = {"gaussian": tms.SparseGaussian, "copula": tms.Copula}.get(self.part, tms.SparseUniform)
        mlp = {"d_mlp": PlainResidual.WIDTH, "bottleneck": "residual"} if self.part == "residual" else {}
        return Recipe.of(
            tms.ToyConfig(self.n, self.m, **mlp),
            data(**given, **({"rho": PlainCopula.RHO} if self.part == "copula" else {})),
            seeds=range(self.models),
            steps=10**9,
            task=squares if self.part == "task" else None,
            loss=squared_error if self.part == "loss" else "mse",
        )

    def together(self) -> Recipe:
        """All models in one recipe."""
        recipes = self.recipes()
        data = [setting.data for recipe in recipes for setting in recipe.settings]
        one = recipes[0]
        return Recipe.of(one.cfg, data, seeds=range(self.models), steps=one.steps, qk_pairs=one.qk_pairs)

    def _recipe(self, cfg: tms.ToyConfig, data: Distribution, seeds: Sequence[int]) -> Recipe:
        pairs = [(i, (i + 1) % self.n) for i in range(self.rank)]
        return Recipe.of(cfg, data, seeds=seeds, steps=10**9, qk_pairs=pairs)


SETTINGS = (
    Setting(name="b5", n=5, m=2, models=8, p=1.0, p_last=0.02, plain_steps=100, target=60),
    Setting(name="s5", n=5, m=2, models=10, p=0.01, p_last=0.01, plain_steps=100, target=300),
    Setting(name="d6", n=6, m=2, models=1000, p=0.057, p_last=0.057, plain_steps=2, target=120),
    Setting(name="a20", n=20, m=5, models=10, p=1.0, p_last=0.05, plain_steps=40, target=25, loss_steps=1_000),
    Setting(
        name="a100", n=100, m=20, models=20, p=1.0, p_last=0.05, plain_steps=6, target=8, loss_steps=500, loss_models=2
    ),
    Setting(
        name="s100",
        n=100,
        m=20,
        models=20,
        p=0.001,
        p_last=0.001,
        plain_steps=6,
        target=80,
        loss_steps=500,
        loss_models=2,
    ),
    Setting(
        name="c400", n=400, m=30, models=20, p=1.0, p_last=0.01, plain_steps=1, target=7, loss_steps=200, loss_models=1
    ),
    Setting(name="one-hot", n=40, m=2, models=50, p=1.0, p_last=1.0, plain_steps=100, target=15, one_hot=True),
    Setting(name="qk", n=20, m=5, models=10, p=0.1, p_last=0.1, plain_steps=20, rank=5, target=20, loss_steps=500),
    Setting(name="w2048", n=2048, m=128, models=1, p=0.01, p_last=0.01, plain_steps=2, target=4, loss_steps=0),
    Setting(name="w10000", n=10_000, m=64, models=1, p=0.001, p_last=0.001, plain_steps=1, target=4, loss_steps=0),
    *(
        Setting(name=f"{part}-{k}", n=6, m=2, models=k, p=0.057, p_last=0.057, plain_steps=max(300 // k, 10), part=part)
        for part in PARTS
        for k in (1, 8, 64)
    ),
)
