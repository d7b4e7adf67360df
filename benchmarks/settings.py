"""What is compared: the plain loop and our engine on the same task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

import tms_hooks as tms
from benchmarks import plain_loop as loops
from tms_hooks.data import Distribution
from tms_hooks.training.optimizers import Optimizer
from tms_hooks.training.recipe import Recipe


def squared_error(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss of one's own, the squared error once more."""
    return (out - target).square()


def squares(x: torch.Tensor) -> torch.Tensor:
    """The task of `PlainSquares`."""
    return x.square()


def swish(x: torch.Tensor) -> torch.Tensor:
    """The activation of `PlainSwish`."""
    return torch.nn.functional.silu(x)


def ridge(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """The penalty of `PlainRidge`."""
    return loops.PlainRidge.STRENGTH * weights["W_E"].square().sum()


@dataclass(frozen=True, kw_only=True)
class Signs(Optimizer):
    """The optimizer of `PlainSigns`, which stands in no table."""

    lr: float = 1e-3

    def scalars(self, count: Any, lr: Any) -> tuple[Any, ...]:
        """The learning rate."""
        return (lr,)

    @staticmethod
    def rule(w: Any, gradient: Any, first: Any, second: Any, rate: Any) -> Any:
        """No moment is used."""
        return w - torch.sign(gradient) * rate, first, second


class Part(NamedTuple):
    """What toys have that the settings above do not have; and the plain loop that has it too."""

    plain: type[loops.PlainToys] = loops.PlainToys
    cfg: Mapping[str, Any] = MappingProxyType({})
    data: type[Distribution] = tms.SparseUniform
    of_data: Mapping[str, Any] = MappingProxyType({})
    given: Mapping[str, Any] = MappingProxyType({})
    """Arguments of `train`."""


RESIDUAL = {"d_mlp": loops.PlainResidual.WIDTH, "bottleneck": "residual"}
HEADS = {"n_heads": 1, "d_head": 2}
PARTS = {
    "task": Part(loops.PlainSquares, given={"task": squares}),
    "gaussian": Part(loops.PlainGaussian, data=tms.SparseGaussian),
    "copula": Part(loops.PlainCopula, data=tms.Copula, of_data={"rho": loops.PlainCopula.RHO}),
    "residual": Part(loops.PlainResidual, RESIDUAL),
    "scale": Part(loops.PlainScaled, {"unit_norm": True, "scale": "after"}),
    "lasso": Part(loops.PlainLasso, given={"penalty": tms.Lasso(loops.PlainLasso.STRENGTH)}),
    "mlp-heads": Part(loops.PlainResidualHeads, RESIDUAL | HEADS),
    "power": Part(loops.PlainPower, given={"loss": tms.losses.Lp(4)}),
    "loss": Part(given={"loss": squared_error}),
    "activation": Part(loops.PlainSwish, {"output_act": swish}),
    "hidden": Part(loops.PlainHiddenSwish, {"hidden_act": swish}),
    "penalty": Part(loops.PlainRidge, given={"penalty": ridge}),
    "optimizer": Part(loops.PlainSigns, given={"optimizer": Signs()}),
    "gelu-loss": Part(loops.PlainGelu, {"output_act": "gelu"}, given={"loss": squared_error}),
    "residual-loss": Part(loops.PlainResidual, RESIDUAL, given={"loss": squared_error}),
    "outputs": Part(
        loops.PlainOutputs,
        HEADS | {"d_out": loops.PlainOutputs.OUTPUTS, "tied": False},
        given={"task": tms.Project(torch.eye(6)[: loops.PlainOutputs.OUTPUTS])},
    ),
    "heads-loss": Part(loops.PlainHeads, HEADS, given={"loss": squared_error}),
}
"""Parts of one's own, other data, parts of the model: all that the settings below do not have."""


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
    part: str = ""
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

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """What a head attends to."""
        return [(i, (i + 1) % self.n) for i in range(self.rank)]

    def plain(self) -> loops.PlainToys:
        """The loop, ready to train."""
        heads = (self.rank, self.pairs) if self.rank else ()
        if self.part:
            return PARTS[self.part].plain(self.n, self.m, self.probabilities, *heads)
        kind = loops.PlainOneHot if self.one_hot else loops.PlainHeads if self.rank else loops.PlainToys
        return kind(self.n, self.m, self.probabilities, *heads)

    def recipes(self) -> list[Recipe]:
        """The same models in a recipe for each feature probability."""
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
        part = PARTS[self.part]
        return Recipe.of(
            tms.ToyConfig(self.n, self.m, **part.cfg),
            part.data(n_features=self.n, feature_probability=self.p, **part.of_data),
            seeds=range(self.models),
            steps=10**9,
            qk_pairs=self.pairs,
            **part.given,
        )

    def together(self) -> Recipe:
        """The same models for our engines, in one recipe: the plain loop too has them side by side."""
        recipes = self.recipes()
        if len(recipes) == 1:
            return recipes[0]
        data = [setting.data for recipe in recipes for setting in recipe.settings]
        one = recipes[0]
        return Recipe.of(one.cfg, data, seeds=range(self.models), steps=one.steps, qk_pairs=one.qk_pairs)

    def _recipe(self, cfg: tms.ToyConfig, data: Distribution, seeds: Sequence[int]) -> Recipe:
        return Recipe.of(cfg, data, seeds=seeds, steps=10**9, qk_pairs=self.pairs)


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
        Setting(
            name=f"{name}-{k}",
            n=6,
            m=2,
            models=k,
            p=0.057,
            p_last=0.057,
            plain_steps=max(300 // k, 10),
            rank=part.cfg.get("d_head", 0),
            part=name,
        )
        for name, part in PARTS.items()
        for k in (1, 8, 64)
    ),
)
