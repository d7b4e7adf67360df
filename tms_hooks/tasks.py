"""Tasks: what is asked of a toy. The data say what goes in; the task says what is to come out.

Toys of superposition reconstruct their input, so the usual target is the input itself. A toy may as well be asked to
compute something, such as the absolute value of every feature, or which pairs of features are active together. A task
of your own is a function of the input, or a subclass with one method:

>>> import torch
>>> class Square(Task):
...     def target(self, x):
...         return x.square()
>>> Square().target(torch.tensor([-1.0, 2.0]))
tensor([1., 4.])
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks import own, rng
from tms_hooks.errors import check_not_negative, check_whole, make_plain
from tms_hooks.linalg import placed, stacked_matmul


@dataclass(frozen=True)
class Task(ABC):
    """Base of all tasks: frozen descriptions. A subclass with settings of its own is a frozen dataclass too.

    One whose outputs are not one per feature says how many there are in `d_out`. One that the compiled engine is to
    know gives `fill`, and in `numbers` what its `fill` must know.
    """

    fill: ClassVar[Callable[..., None] | None] = None
    """`target` as a loop for the compiled engine: a static method `fill(y, x, numbers, rows)`.

    It puts the targets of the inputs `x[feature, :rows]` into `y[output, :rows]`, and uses only numbers and arrays.
    """

    @abstractmethod
    def target(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch output"]:
        """The output that belongs to each input: a pure function of that input alone, on whatever device it is."""

    def d_out(self, n_features: int) -> int:
        """How many outputs it asks for, of a toy with that many features: one per feature.

        Raises:
            ValueError: it cannot be asked of that many features.
        """
        return n_features

    @classmethod
    def loop(cls) -> Callable[..., None] | None:
        """`fill`, unless a subclass of the class that has it asks for another target."""
        own = next(vars(c) for c in cls.__mro__ if "target" in vars(c))
        return cls.fill if "fill" in own else None

    def numbers(self, n_features: int) -> Sequence[float | int]:
        """What `fill` must know of this task."""
        return ()


@dataclass(frozen=True)
class Reconstruct(Task):
    """The output is to be the input: what every feature costs is how badly it survives the bottleneck."""

    def target(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        """The input."""
        return x

    @staticmethod
    @no_type_check
    def fill(y, x, numbers, rows):
        """`target` as a loop."""
        for i in range(len(y)):
            for r in range(rows):
                y[i, r] = x[i, r]


@dataclass(frozen=True)
class Absolute(Task):
    """The absolute value of every feature, for data of both signs: `SparseUniform(..., low=-1)`.

    |x| = relu(x) + relu(-x), so two ReLU units per feature compute it, and with fewer they are to be shared (Elhage et
    al. 2022, "Toy Models of Superposition", on computation in superposition).
    """

    def target(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        """|x_i|."""
        return x.abs()

    @staticmethod
    @no_type_check
    def fill(y, x, numbers, rows):
        """`target` as a loop."""
        for i in range(len(y)):
            for r in range(rows):
                y[i, r] = abs(x[i, r])


@dataclass(frozen=True)
class And(Task):
    """An output per pair of features: 1 if both are active (not 0), else 0 (Haenni et al. 2024, arXiv 2408.05451).

    >>> import torch
    >>> And([(0, 1), (1, 2)]).target(torch.tensor([1.0, 0.3, 0.0]))
    tensor([1., 0.])
    """

    pairs: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        """Validate."""
        pairs = tuple((int(i), int(j)) for i, j in self.pairs)
        object.__setattr__(self, "pairs", pairs)
        if not pairs:
            raise ValueError("pairs is empty: give at least one pair of features, such as And([(0, 1)])")
        for i, j in pairs:
            if i == j or min(i, j) < 0:
                raise ValueError(f"pair ({i}, {j}): must be two different features, numbered from 0")

    def d_out(self, n_features: int) -> int:
        """One per pair."""
        if (last := max(map(max, self.pairs))) >= n_features:
            raise ValueError(f"And: pair with feature {last}: features are numbered 0 to {n_features - 1}")
        return len(self.pairs)

    def target(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch output"]:
        """1(x_i != 0 and x_j != 0)."""
        first, second = placed(self._columns, x.device)
        active = (x != 0).to(x.dtype)
        return active[..., first] * active[..., second]

    @cached_property
    def _columns(self) -> Int64[Tensor, "2 output"]:
        return torch.tensor(self.pairs).T

    def numbers(self, n_features: int) -> Sequence[float | int]:
        """The pairs, one after another."""
        return [feature for pair in self.pairs for feature in pair]

    @staticmethod
    @no_type_check
    def fill(y, x, numbers, rows):
        """`target` as a loop."""
        for k in range(len(y)):
            i, j = int(numbers[2 * k]), int(numbers[2 * k + 1])
            for r in range(rows):
                y[k, r] = 1.0 if x[i, r] != 0 and x[j, r] != 0 else 0.0


@dataclass(frozen=True, repr=False)
class Project(Task):
    """A linear map: y = A x, with an output per row of `A`."""

    A: Sequence[Any] | np.ndarray | Tensor

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "A", _rows("A", self.A))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(A of shape {tuple(self.matrix.shape)})"

    def d_out(self, n_features: int) -> int:
        """One per row."""
        if len(self.A[0]) != n_features:
            raise ValueError(
                f"{type(self).__name__}: A has {len(self.A[0])} columns for {n_features} features: give one per feature"
            )
        return len(self.A)

    @cached_property
    def matrix(self) -> Float[Tensor, "output feature"]:
        """`A`, float64."""
        return torch.tensor(self.A, dtype=torch.float64)

    def target(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch output"]:
        """A x."""
        return _product(x, self.matrix)

    def numbers(self, n_features: int) -> Sequence[float | int]:
        """The lowest value of an output, what is added to each, then the rows of `A`."""
        return (-math.inf, *[0.0] * len(self.A), *self.matrix.flatten().tolist())

    @staticmethod
    @no_type_check
    def fill(y, x, numbers, rows):
        """`target` as a loop."""
        n, at = len(x), 1 + len(y)
        for i in range(len(y)):
            for r in range(rows):
                y[i, r] = numbers[1 + i]
            for j in range(n):
                a = numbers[at + i * n + j]
                if a != 0:
                    for r in range(rows):
                        y[i, r] += a * x[j, r]
            for r in range(rows):
                y[i, r] = max(y[i, r], numbers[0])


@dataclass(frozen=True, repr=False)
class LinearThenReLU(Project):
    """A linear map, then a ReLU: y = relu(A x + v), with an output per row of `A`.

    What a layer of a larger network computes from features to features, whose ideal weights are known: `A` (Olah et al.
    2025, "A Toy Model of Interference Weights"). `v` is 0 if not given. A row (1, 1) with v = -1 is the AND of two
    binary features; rows I and -I give the two halves of the absolute value.
    """

    v: Sequence[Any] | np.ndarray | Tensor | None = None

    def __post_init__(self) -> None:
        """Validate."""
        super().__post_init__()
        v = (0.0,) * len(self.A) if self.v is None else _rows("v", torch.as_tensor(self.v)[None])[0]
        if len(v) != len(self.A):
            raise ValueError(f"v has {len(v)} entries for {len(self.A)} rows of A: give one per row")
        object.__setattr__(self, "v", v)

    def target(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch output"]:
        """relu(A x + v)."""
        return (super().target(x) + placed(self._shift, x.device).to(x.dtype)).relu()

    @cached_property
    def _shift(self) -> Float[Tensor, " output"]:
        return torch.tensor(self.v, dtype=torch.float64)

    def numbers(self, n_features: int) -> Sequence[float | int]:
        """The lowest value of an output, `v`, then the rows of `A`."""
        assert self.v is not None  # it is filled in
        return (0.0, *self.v, *self.matrix.flatten().tolist())

    fill = Project.fill


@dataclass(frozen=True)
class Residual(Task):
    """A residual stream with one ReLU per feature, and a linear mixture as noise: y = x + relu(x) + noise G x.

    G is a fixed matrix of standard normal entries, drawn once from `matrix_seed`: not noise that is drawn anew. Braun
    et al. 2025 ask it of a residual MLP with fewer neurons than features ("compressed computation"); there the mixture
    comes in through an embedding that is not orthonormal, and Bhagat et al. 2026 (arXiv 2606.14673) find that what
    looks like computation in superposition is gone without it: compare `noise` 0 and, say, 0.03.
    """

    noise: float | int = 0.0
    matrix_seed: int = 0

    def __post_init__(self) -> None:
        """Validate."""
        make_plain(self)
        check_not_negative(noise=self.noise)
        check_whole(matrix_seed=self.matrix_seed)
        object.__setattr__(self, "noise", float(self.noise))

    def mixture(self, n_features: int) -> Float[Tensor, "output feature"]:
        """noise G, float64."""
        return self.noise * _normals(n_features, self.matrix_seed)

    def target(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        """x + relu(x) + noise G x."""
        if not self.noise:
            return x + x.relu()
        return x + x.relu() + _product(x, self.noise * placed(_normals(x.shape[-1], self.matrix_seed), x.device))

    def numbers(self, n_features: int) -> Sequence[float | int]:
        """noise G, row by row; nothing without noise."""
        found: list[float] = self.mixture(n_features).flatten().tolist()
        return found if self.noise else ()

    @staticmethod
    @no_type_check
    def fill(y, x, numbers, rows):
        """`target` as a loop."""
        n, noisy = len(x), len(numbers) > 0
        for i in range(n):
            for r in range(rows):
                y[i, r] = x[i, r] + max(x[i, r], 0.0)
            if noisy:
                for j in range(n):
                    for r in range(rows):
                        y[i, r] += numbers[i * n + j] * x[j, r]


@dataclass(frozen=True, repr=False)
class TaskFunction(Task):
    """A task of your own from a function: `train(cfg, data, task=function)` makes it."""

    function: Callable[[Tensor], Tensor]

    def __repr__(self) -> str:
        return own.name_of(self.function)

    def d_out(self, n_features: int) -> int:
        """As many as the function has for an empty input.

        Raises:
            ValueError: it does not give a row of outputs per sample.
        """
        found = self.function(torch.zeros(1, n_features))
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 1:
            given = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f'task={self} of (1, {n_features}) gives {given}: must be a tensor, "batch output"; of one output per '
                "sample, keep the axis: x.sum(-1, keepdim=True)"
            )
        return int(found.shape[-1])

    def target(self, x: Float[Tensor, "*batch feature"]) -> Any:
        """What the function gives: it is tried before training."""
        return self.function(x)


TASKS: dict[str, type[Task]] = {
    cls.__name__: cls for cls in (Reconstruct, Absolute, And, Project, LinearThenReLU, Residual, TaskFunction)
}


def is_own(task: Task) -> bool:
    """Whether the library does not know the task."""
    return type(task) is TaskFunction or TASKS.get(type(task).__name__) is not type(task)


def targets(task: Task, x: Float[Tensor, "model batch feature"]) -> Float[Tensor, "model batch output"]:
    """The targets of a stack of batches; a task of the user's own is asked model by model.

    Raises:
        ValueError: the user's own gives a NaN or an infinity.
    """
    if not is_own(task):
        return task.target(x)
    y = own.model_by_model(task.target, x)
    if y.device.type == "cpu" and not y.isfinite().all():  # a device is not asked: `torch_engine` asks for it later
        at = int((~y.isfinite()).any(-1).flatten().nonzero()[0])
        raise ValueError(f"{task}: target of {x.flatten(0, 1)[at].tolist()} has a NaN or an infinity: must be finite")
    return y


def _rows(name: str, given: Any) -> tuple[tuple[float, ...], ...]:
    """Rows of numbers, from a tensor, an array or nested sequences."""
    values = torch.as_tensor(given, dtype=torch.float64)
    if values.ndim != 2 or not values.numel():
        raise ValueError(f"{name} of shape {tuple(values.shape)}: must have one row per output, one column per feature")
    if not values.isfinite().all():
        raise ValueError(f"{name} has a NaN or an infinity: its entries must be finite")
    return tuple(tuple(row) for row in values.tolist())


def _product(x: Tensor, A: Tensor) -> Tensor:
    """`A x` of each input; of stacked batches model by model, so that none depends on what stands beside it."""
    rows = placed(A, x.device).mT.to(x.dtype)
    return stacked_matmul(x, rows.expand(len(x), -1, -1) if x.ndim == 3 else rows)


@lru_cache(maxsize=4)
def _normals(n: int, seed: int) -> Tensor:
    """A matrix of standard normal entries, float64, that is the same for each call: read it, never write to it."""
    return torch.special.ndtri(rng.uniforms(rng.keys([seed], 0), n, n)[0])
