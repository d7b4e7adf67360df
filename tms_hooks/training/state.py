"""What training changes: stacked weights and optimizer moments, and which models have stopped.

An engine is a module of three functions that work on this state, the protocol `Engine`: the compiled one and the
reference one can stand in for each other because nothing else passes between training and an engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks.config import ToyConfig
from tms_hooks.models import forward
from tms_hooks.training.recipe import Recipe

Losses = tuple[Float[Tensor, "model output"], Float[Tensor, "model head"]]
"""Loss of each feature and of each head, mean over a batch. Without heads the second has no columns."""
Init = torch.nn.Module | Mapping[str, Tensor]
"""A model to start from, or its weights, named and shaped as in `ToyModel.state_dict()`."""


class Measurement(NamedTuple):
    """What an engine saw on the batch of one step, before that step's update."""

    loss: Float[Tensor, "model output"]
    """Importance-weighted loss of each feature, or of each output if there are others, mean over the batch."""
    grad_norm: Float[Tensor, "model feature"]
    """Norm of the gradient of the feature's own directions: its row of `W_E` and, untied, its column of `W_U`."""
    head_loss: Float[Tensor, "model head"]
    """Loss of each head, mean over the batch."""


@dataclass
class State:
    """Stacked weights and moments, named as in `ToyModel.state_dict()`, every tensor with a leading model axis."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    """Optimizer moments "first.<name>", "second.<name>"; absent means zero. Emptied between stages."""
    diverged_at: Int64[Tensor, " model"]
    """Step at which a model's loss or next weights stopped being finite; -1 while all is well."""
    made: Any = field(default=None, repr=False, compare=False)
    """What an engine has made for this state and needs again, such as captured updates; no copy has it."""

    @classmethod
    def initial(cls, recipe: Recipe, init: Sequence[Init] | None, device: torch.device | str) -> "State":
        """Fresh state, from these models or from each seed's own initialization.

        Raises:
            ValueError: more or fewer models than seeds, weights of other shapes than the config asks for, or a model
                that computes something else than its config says.
        """
        if isinstance(init, str | Tensor):
            raise ValueError(
                f"init of type {type(init).__name__}: must be a ToyModel, its state_dict(), a run, or one per seed; "
                "of a saved run, use init=tms.load(path)"
            )
        if init is None:
            init = [forward.init_weights(recipe.cfg, seed, recipe.torch_dtype) for seed in recipe.seeds]
        if len(init) != len(recipe.seeds):
            raise ValueError(
                f"init has {len(init)} models for {len(recipe.seeds)} seeds: give one per seed, seeds={len(init)}"
            )
        each = [_weights_of(given) if isinstance(given, torch.nn.Module) else given for given in init]
        shapes = forward.weight_shapes(recipe.cfg)
        for weights in each:
            if (found := {name: tuple(w.shape) for name, w in weights.items()}) != shapes:
                raise ValueError(f"an init model has weights {found}, the config asks for {shapes}")
        stacked = {name: torch.stack([weights[name].detach() for weights in each]) for name in shapes}
        moved = {name: w.to(device, recipe.torch_dtype, copy=True) for name, w in stacked.items()}
        return cls(moved, {}, torch.full((len(each),), -1, dtype=torch.int64, device=device))

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor, by the name that files give it; on the CPU."""
        named = {f"weights.{name}": w for name, w in self.weights.items()}
        named |= {f"moments.{name}": m for name, m in self.moments.items()} | {"diverged_at": self.diverged_at}
        return {name: tensor.cpu().contiguous() for name, tensor in named.items()}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], device: torch.device | str = "cpu") -> "State":
        """Inverse of `tensors`; other tensors beside them are left alone."""
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        weights, moments = (
            {name.removeprefix(part): tensor for name, tensor in moved.items() if name.startswith(part)}
            for part in ("weights.", "moments.")
        )
        return cls(weights, moments, moved["diverged_at"])

    def as_it_is(self) -> "State":
        """The state of now, which stays when training goes on: engines put new tensors in the place of old ones."""
        return State(dict(self.weights), dict(self.moments), self.diverged_at)

    def of(self, models: Sequence[int]) -> "State":
        """A copy of some of the models, by their numbers."""
        weights, moments = (
            {name: tensor[list(models)] for name, tensor in tensors.items()} for tensors in (self.weights, self.moments)
        )
        return State(weights, moments, self.diverged_at[list(models)])

    def join(self, states: Sequence["State"], order: Int64[Tensor, " model"]) -> None:
        """Become what these states are together: model `i` is number `order[i]` of them."""
        for kind in ("weights", "moments"):
            each = [getattr(state, kind) for state in states]
            setattr(self, kind, {name: torch.cat([part[name] for part in each])[order] for name in each[0]})
        self.diverged_at = torch.cat([state.diverged_at for state in states])[order]

    def snapshot(self, cfg: ToyConfig) -> "State":
        """A copy of the models as they are now, in which the directions that `unit_norm` names have norm 1.

        Engines train the weights as they are and leave norms to the forward pass.
        """
        weights = {name: w.clone(memory_format=torch.contiguous_format) for name, w in self.weights.items()}
        return State(forward.normalize_weights(weights, cfg), {}, self.diverged_at.clone())


def _weights_of(model: torch.nn.Module) -> Mapping[str, Tensor]:
    """The weights of a model that is all its config says: training makes the forward pass from that alone."""
    from tms_hooks.models.toy import ToyModel

    its_own = not isinstance(model, ToyModel) or getattr(model.forward, "__func__", None) is not ToyModel.forward
    if its_own or any(point.fwd_hooks for point in cast(ToyModel, model).hook_dict.values()):
        what = "has a forward pass of its own" if its_own else "has hooks on it"
        raise ValueError(
            f"init: {type(model).__name__} {what}, which training would leave out; train it in a loop of your own, as "
            "docs/training.md shows, or give its state_dict() to begin with its weights alone"
        )
    return model.state_dict()


@runtime_checkable
class Engine(Protocol):
    """What training asks of an engine."""

    def obstacle(self, recipe: Recipe, device: str) -> str | None:
        """Why the engine cannot train this recipe on this device; None if it can."""

    def advance(self, recipe: Recipe, state: State, start: int, stop: int) -> Measurement:
        """Run updates `start` to `stop - 1` in place, within one stage, and measure on the batch of step `start`.

        With `start == stop` it only measures.
        """

    def evaluate(self, recipe: Recipe, weights: forward.Weights, x: Float[Tensor, "batch *pos feature"]) -> Losses:
        """Losses per feature and per head of stacked models of one setting, all on the same batch."""
