"""Optimizers and learning-rate schedules: frozen descriptions, each with its rule of one update, written once.

A rule is elementwise arithmetic on a parameter, its gradient and two moments. The torch engine calls it with tensors;
the compiled engine compiles the same lines for single numbers, with numpy where they say `torch`. An optimizer of your
own is one class with `scalars` and `rule`; a line in `OPTIMIZERS` lets saved runs, sweeps and the compiled engine find
it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, no_type_check

import torch

from tms_hooks.errors import check_not_negative, choice_error, did_you_mean, make_plain, plain

Schedule = Literal["constant", "linear", "cosine", "exponential"]
PerParameter = float | Mapping[str, float] | tuple[tuple[str, float], ...]
"""One number, or a number by the name of a parameter, "W_E" or "blocks.0.attn.W_Q" or in short "W_Q"; kept as pairs."""
DIRECTIONS = ("W_E", "W_U")
"""Parameters with a direction per feature: what `pull` acts on."""


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """What all optimizers share: a peak learning rate and its schedule. A subclass gives `scalars` and `rule`.

    The learning rate rises linearly from `initial_lr` to `lr` over the first `warmup` fraction of the steps, then
    follows `schedule` to `final_lr` at the last step ("exponential": geometrically, so `final_lr` must be positive).

    Before each update weights may shrink, apart from the gradient (decoupled: Loshchilov & Hutter 2019). `decay` takes
    `lr decay W` off: of all weight matrices if it is one number, never of biases and `scale` unless it names them, as
    `decay={"b_U": 1.0}` does. `pull` takes `lr pull W_i (1 - 1 / |W_i|)` off the direction W_i of a feature, in `W_E`
    and `W_U`: it pulls all norms to 1 (the negative weight decay of Liu et al. 2025, arXiv 2505.10465).

    Raises:
        ValueError: a value outside its range.
    """

    lr: float = field(default=1e-3, kw_only=False)
    schedule: Schedule = "constant"
    warmup: float = 0.0
    initial_lr: float = 0.0
    final_lr: float = 0.0
    decay: PerParameter = 0.0
    pull: PerParameter = 0.0

    def __post_init__(self) -> None:
        """Validate."""
        make_plain(self)
        for name in ("decay", "pull"):
            object.__setattr__(self, name, per_parameter(name, getattr(self, name)))
        if self.schedule not in get_args(Schedule):
            raise choice_error("schedule", self.schedule, get_args(Schedule))
        given: Any = self.lr
        if isinstance(given, tuple):
            kind = type(self).__name__
            raise ValueError(f"lr={self.lr}: must be one number; for one per model use optimizer=[{kind}(lr=...), ...]")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr={self.lr}: must be positive and finite")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup}: the fraction of steps to warm up over must be in [0, 1)")
        check_not_negative(initial_lr=self.initial_lr, final_lr=self.final_lr)
        if self.schedule == "exponential" and self.final_lr == 0:
            raise ValueError(
                "final_lr=0.0 with schedule='exponential': a geometric decay never reaches 0; give a positive final_lr"
            )

    def learning_rate(self, step: int, steps: int) -> float:
        """Learning rate of update number `step` (from 0) of `steps`.

        >>> [SGD(lr=1.0, schedule="linear").learning_rate(t, 5) for t in range(5)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
        """
        rising = self.warmup * steps
        if step < rising:
            return self.initial_lr + (self.lr - self.initial_lr) * step / rising
        t = min((step - rising) / max(steps - 1 - rising, 1), 1.0)
        match self.schedule:
            case "constant":
                return self.lr
            case "linear":
                return self.lr + (self.final_lr - self.lr) * t
            case "cosine":
                return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * t)) / 2
            case "exponential":
                return self.lr * (self.final_lr / self.lr) ** t

    def check_parameters(self, parameters: Iterable[str]) -> None:
        """Raise ValueError if `decay` or `pull` names a parameter that is none of these, or one without directions."""
        names = list(parameters)
        check_names("decay", self.decay, names)
        check_names("pull", self.pull, [name for name in names if name in DIRECTIONS])

    def kept(self, parameter: str, lr: Any) -> tuple[Any, Any]:
        """What is left of each row of a parameter before an update: `a + b / norm` of it, as (a, b).

        >>> SGD(decay={"W_E": 0.5}, pull=1.0).kept("W_E", 0.1), SGD(decay=0.5).kept("b_U", 0.1)
        ((0.85, 0.1), (1.0, 0.0))
        """
        decay = of_parameter(self.decay, parameter, is_matrix(parameter))
        pull = of_parameter(self.pull, parameter, parameter in DIRECTIONS)
        return 1.0 - lr * (decay + pull), lr * pull

    @abstractmethod
    def scalars(self, count: Any, lr: Any) -> tuple[Any, ...]:
        """The numbers that `rule` needs for update number `count` (from 0) at this learning rate, in double precision.

        Both may be arrays with one entry per update, so there is only arithmetic in it.
        """

    @staticmethod
    @abstractmethod
    @no_type_check
    def rule(w, gradient, first, second, *scalars):
        """One update: next values of a parameter and of its two moments, which begin at 0.

        Elementwise arithmetic, and functions that torch and numpy have alike (`torch.sqrt`, `torch.sign`). Subclasses
        name the scalars one by one, so that it is known how many there are.
        """


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """`torch.optim.SGD`: momentum without dampening."""

    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_decay("momentum", self.momentum)

    def scalars(self, count: Any, lr: Any) -> tuple[Any, ...]:
        """The momentum and the learning rate."""
        return self.momentum, lr

    @staticmethod
    @no_type_check
    def rule(w, gradient, first, second, momentum, rate):
        """Along a sum of gradients that decays; the second moment is not used."""
        first = first * momentum + gradient
        return w - first * rate, first, second


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """`torch.optim.RMSprop`, uncentered."""

    alpha: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_decay("alpha", self.alpha)
        check_not_negative(eps=self.eps)

    def scalars(self, count: Any, lr: Any) -> tuple[Any, ...]:
        """The decay of the mean square, its complement, eps and the learning rate."""
        return self.alpha, 1 - self.alpha, self.eps, lr

    @staticmethod
    @no_type_check
    def rule(w, gradient, first, second, alpha, rest, eps, rate):
        """The gradient over its root mean square; the first moment is not used."""
        second = second * alpha + gradient * gradient * rest
        return w - gradient / (torch.sqrt(second) + eps) * rate, first, second


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """`torch.optim.Adam` (Kingma & Ba 2015)."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "betas", tuple(self.betas))
        for beta in self.betas:
            _check_decay("beta", beta)
        check_not_negative(eps=self.eps)

    def scalars(self, count: Any, lr: Any) -> tuple[Any, ...]:
        """The decays of both moments, eps, and what corrects for moments that begin at 0."""
        beta1, beta2 = self.betas
        correction, rate = (1 - beta2 ** (count + 1)) ** 0.5, lr / (1 - beta1 ** (count + 1))
        return beta1, 1 - beta1, beta2, 1 - beta2, correction, self.eps, rate

    @staticmethod
    @no_type_check
    def rule(w, gradient, first, second, beta1, rest1, beta2, rest2, correction, eps, rate):
        """The mean gradient over its root mean square."""
        first = first * beta1 + gradient * rest1
        second = second * beta2 + gradient * gradient * rest2
        return w - first / (torch.sqrt(second) / correction + eps) * rate, first, second


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with `torch.optim.AdamW`'s decay as the default, which here leaves biases alone."""

    decay: PerParameter = 1e-2


OPTIMIZERS: dict[str, type[Optimizer]] = {cls.__name__: cls for cls in (Adam, AdamW, SGD, RMSprop)}


def _check_decay(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value}: must be in [0, 1)")


def per_parameter(setting: str, given: PerParameter) -> PerParameter:
    """A number as it is, numbers by name as pairs, which can be hashed.

    Raises:
        ValueError: a negative number, or one that is not finite.
    """
    given = plain(given)
    if isinstance(given, int | float):
        check_not_negative(**{setting: given})
        return given
    pairs = tuple((str(name), float(value)) for name, value in dict(given).items())
    for name, value in pairs:
        check_not_negative(**{f"{setting}[{name!r}]": value})
    return pairs


def of_parameter(given: PerParameter, parameter: str, usual: bool) -> float:
    """The number for a parameter: one number is for the usual parameters alone."""
    if isinstance(given, int | float):
        return given if usual else 0.0
    return {_short(name): value for name, value in dict(given).items()}.get(_short(parameter), 0.0)


def is_matrix(parameter: str) -> bool:
    """Whether a parameter is a weight matrix, neither a bias nor a scale."""
    return _short(parameter).startswith("W_")


def check_names(setting: str, given: PerParameter, parameters: Iterable[str]) -> None:
    """Raise ValueError if `given` has a name that is none of these."""
    known, by_name = [_short(name) for name in parameters], {} if isinstance(given, int | float) else dict(given)
    for name in by_name:
        if _short(name) not in known:
            raise ValueError(
                f"{setting}={by_name}: this model has no {name!r} that it could act on; {did_you_mean(name, known)}"
            )


def _short(parameter: str) -> str:
    return parameter.rpartition(".")[2]
