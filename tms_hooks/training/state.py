"""What training changes: stacked weights and optimiser moments, and which models have stopped."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks.models import forward
from tms_hooks.training.recipe import Recipe


class Measurement(NamedTuple):
    """What an engine saw on the batch of one step, before that step's update."""

    loss: Float[Tensor, "model feature"]
    """Importance-weighted loss of each feature, mean over the batch."""
    grad_norm: Float[Tensor, "model feature"]
    """Norm of the gradient of the feature's own directions: its row of `W_E` and, untied, its column of `W_U`."""
    head_loss: Float[Tensor, "model head"]
    """Squared error of each head's logit."""


@dataclass
class State:
    """Stacked weights and moments, named as in `ToyModel.state_dict()`, every tensor with a leading model axis."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor] = field(default_factory=dict)
    """Optimiser moments "first.<name>", "second.<name>"; absent means zero. Emptied between stages."""
    diverged_at: Int64[Tensor, " model"] = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """Step at which a model's loss or next weights stopped being finite; -1 while all is well."""

    @classmethod
    def initial(cls, recipe: Recipe, weights: dict[str, Tensor] | None, device: torch.device | str) -> "State":
        """Fresh state, from these stacked weights or from each seed's own initialisation."""
        if weights is None:
            each = [forward.init_weights(recipe.cfg, seed, recipe.torch_dtype) for seed in recipe.seeds]
            weights = {name: torch.stack([w[name] for w in each]) for name in each[0]}
        moved = {name: w.to(device, recipe.torch_dtype, copy=True) for name, w in weights.items()}
        return cls(moved, {}, torch.full((len(recipe.seeds),), -1, dtype=torch.int64, device=device))

    def copy(self) -> "State":
        """A state that later training does not touch."""
        return State(
            {name: w.clone() for name, w in self.weights.items()},
            {name: m.clone() for name, m in self.moments.items()},
            self.diverged_at.clone(),
        )
