"""Tasks: what is asked of a toy. The data say what goes in; the task says what is to come out.

Toys of superposition reconstruct their input, so the usual target is the input itself. A toy may as well be asked to
compute something, such as the absolute value of every feature. A task of your own is a subclass with one method:

>>> import torch
>>> class Absolute(Task):
...     def target(self, x):
...         return x.abs()
>>> Absolute().target(torch.tensor([-1.0, 2.0]))
tensor([1., 2.])
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Base of all tasks: frozen descriptions. A subclass with settings of its own is a frozen dataclass too."""

    @abstractmethod
    def target(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        """The output that belongs to each input: a pure function of that input alone, on whatever device it is."""


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Task):
    """The output is to be the input: what every feature costs is how badly it survives the bottleneck."""

    def target(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
        """The input."""
        return x


TASKS: dict[str, type[Task]] = {cls.__name__: cls for cls in (Reconstruct,)}
