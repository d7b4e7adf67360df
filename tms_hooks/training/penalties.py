"""Penalties: what weights cost by themselves, beside what they do to the data.

A penalty is a function of the weights of one model, named as in `ToyModel.state_dict()`, that returns one number. A
plain function will do, such as one that returns `weights["b_U"].square().sum()`; a saved run keeps its name, and
whoever loads the run gives the function again (`using=`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import own
from tms_hooks.errors import did_you_mean
from tms_hooks.linalg import spaced
from tms_hooks.training.optimizers import PerParameter, check_names, is_matrix, of_parameter, per_parameter

PenaltyLike = Callable[[Mapping[str, Tensor]], Tensor]
"""A `Penalty`, or any function from the weights of one model to a number."""


@dataclass(frozen=True)
class Penalty(ABC):
    """Base of all penalties: frozen descriptions. A subclass with settings of its own is a frozen dataclass too."""

    @abstractmethod
    def __call__(self, weights: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """What the weights of one model cost, in units of the loss; differentiable."""


@dataclass(frozen=True)
class Lasso(Penalty):
    """The sum of the absolute values of weights, times `strength`: pulls them to exactly 0 (Tibshirani 1996).

    One number is for all weight matrices, never for biases and `scale`; numbers by name are for these parameters alone.

    >>> Lasso(0.5)({"W_E": torch.tensor([[1.0, -2.0]]), "b_U": torch.tensor([7.0])})
    tensor(1.5000)
    """

    strength: PerParameter

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "strength", per_parameter("strength", self.strength))

    def __call__(self, weights: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """Sum over parameters of strength times the sum of absolute values."""
        check_names("strength", self.strength, weights)
        costs = [of_parameter(self.strength, name, is_matrix(name)) * w.abs().sum() for name, w in weights.items()]
        return torch.stack(costs).sum()


PENALTIES: dict[str, type[Penalty]] = {cls.__name__: cls for cls in (Lasso,)}


def stacked(penalty: PenaltyLike, weights: Mapping[str, Tensor]) -> Float[Tensor, " model"]:
    """The penalty of each model of a stack, one by one, so that it is what it is alone.

    Raises:
        ValueError: it is not one number, it is NaN where all weights are finite, or it asks for weights that the model
            does not have.
    """
    apart = zip(*(spaced(w).unbind() for w in weights.values()), strict=True)
    return _of_each(penalty, [dict(zip(weights, parts, strict=True)) for parts in apart])


def with_gradients(
    penalty: PenaltyLike, weights: Mapping[str, Tensor]
) -> tuple[Float[Tensor, " model"], dict[str, Tensor]]:
    """`stacked`, and its gradients in the weights: by hand, or by autograd model by model."""
    if type(penalty) is Lasso:
        check_names("strength", penalty.strength, weights)
        strengths = {name: of_parameter(penalty.strength, name, is_matrix(name)) for name in weights}
        costs = [strengths[name] * w.reshape(len(w), -1).abs().sum(1) for name, w in weights.items()]
        return torch.stack(costs).sum(0), {
            name: strength * weights[name].sign() for name, strength in strengths.items()
        }
    leaves = {name: spaced(w.detach()).requires_grad_() for name, w in weights.items()}
    total = stacked(penalty, leaves)
    if not total.requires_grad:
        return total, {}
    found = torch.autograd.grad(total.sum(), list(leaves.values()), allow_unused=True)
    return total.detach(), {name: slope for name, slope in zip(leaves, found, strict=True) if slope is not None}


def _of_each(penalty: PenaltyLike, models: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, " model"]:
    named = own.name_of(penalty) if not isinstance(penalty, Penalty) else repr(penalty)
    costs = []
    for weights in models:
        try:
            cost = penalty(weights)
        except KeyError as error:
            if (wanted := error.args[0]) in weights:
                raise
            raise ValueError(
                f"penalty={named}: this model has no weights {wanted!r}; {did_you_mean(wanted, weights)}"
            ) from error
        if not isinstance(cost, Tensor) or cost.ndim:
            what = f"a tensor of shape {tuple(cost.shape)}" if isinstance(cost, Tensor) else repr(cost)
            raise ValueError(f"penalty={named} gave {what}: it must give one number as a tensor, such as a sum()")
        costs.append(cost)
    found = torch.stack(costs)
    if found.device.type == "cpu" and found.isnan().any():
        for weights, cost in zip(models, costs, strict=True):
            if cost.isnan() and _finite(weights.values()):
                raise ValueError(f"penalty={named} gave NaN for finite weights: it must be defined for all weights")
    return found


def _finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)
