"""What a run remembers of its training: a record per recorded step, and all of them together as labeled arrays.

A record holds the weights before the update of its step, and the losses and gradients on the batch of that step.
"""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from tms_hooks.models import forward
from tms_hooks.training.recipe import Recipe
from tms_hooks.training.state import Measurement, State

VARIABLES = {
    "loss": (("output",), "importance-weighted loss of the feature or output on the training batch"),
    "grad_norm": (("feature",), "norm of the gradient with respect to the feature's directions"),
    "feature_norm": (("feature",), "norm of the feature's row of W_E"),
    "head_loss": (("head",), "loss of the head on the training batch"),
    "omega": (("head", "hidden", "key_hidden"), "QK circuit of the head, query on its rows, biases left out"),
}
"""Name -> axes beside step and model, and meaning: what is recorded of every toy."""
PARAMETERS: dict[str, tuple[str, ...]] = {
    "W_E": ("feature", "hidden"),
    "W_U": ("hidden", "output"),
    "b_hidden": ("hidden",),
    "b_U": ("output",),
    "scale": (),
    forward.W_Q: ("head", "hidden", "d_head"),
    forward.W_K: ("head", "hidden", "d_head"),
    forward.B_Q: ("head", "d_head"),
    forward.B_K: ("head", "d_head"),
}
"""Parameter -> axes of its snapshots; those of any other have its name and a number.

In both tables an output that is a feature is called so.
"""


class Recorder:
    """Collects one record after another, behind those of an earlier history; `dataset` labels them."""

    def __init__(self, recipe: Recipe, earlier: xr.Dataset | None = None) -> None:
        self.recipe = recipe
        self.records: list[tuple[int, dict[str, Tensor]]] = []
        if earlier is not None:
            kept = [step for step in earlier.step.values.tolist() if step in recipe.record_steps()]
            arrays = {name: torch.from_numpy(earlier[name].sel(step=kept).values) for name in shapes(recipe, 1)}
            self.records = [(step, {name: arrays[name][i] for name in arrays}) for i, step in enumerate(kept)]

    def add(self, step: int, before: State, measured: Measurement) -> None:
        """Record the models before the update of `step` and what was measured on its batch."""
        W_E = before.weights["W_E"]
        omega = W_E.new_zeros(len(W_E), 0, W_E.shape[-1], W_E.shape[-1])
        if self.recipe.cfg.n_heads:
            omega = before.weights[forward.W_Q] @ before.weights[forward.W_K].mT
        record = {**measured._asdict(), "feature_norm": W_E.norm(dim=-1), "omega": omega}
        record |= {name: before.weights[name] for name in self.recipe.record}
        self.records.append((step, {name: value.detach().cpu().clone() for name, value in record.items()}))

    def arrays(self) -> dict[str, Tensor]:
        """Everything recorded, each stacked over the steps."""
        return {name: torch.stack([record[name] for _, record in self.records]) for name in shapes(self.recipe, 1)}

    def dataset(self) -> xr.Dataset:
        """Everything recorded, over step, model, feature, head and hidden."""
        arrays = {name: array.numpy() for name, array in self.arrays().items()}
        return label(arrays, [step for step, _ in self.records], self.recipe)


def shapes(recipe: Recipe, records: int) -> dict[str, tuple[int, ...]]:
    """Shape of every array of a history with this many records."""
    cfg, first = recipe.cfg, (records, len(recipe.seeds))
    sizes = {"feature": cfg.n_features, "hidden": cfg.d_hidden, "key_hidden": cfg.d_hidden, "head": cfg.n_heads}
    sizes["output"] = cfg.n_outputs
    parameters = forward.weight_shapes(cfg)
    measured = {name: first + tuple(sizes[axis] for axis in axes) for name, (axes, _) in VARIABLES.items()}
    return measured | {name: first + parameters[name] for name in recipe.record}


def label(arrays: dict[str, np.ndarray], steps: list[int], recipe: Recipe) -> xr.Dataset:
    """The history as a Dataset, from bare arrays."""
    called, described = {"output": recipe.cfg.loss_axis}, dict(VARIABLES)
    for name in recipe.record:
        numbered = tuple(f"{name}.{i}" for i in range(arrays[name].ndim - 2))
        described[name] = (PARAMETERS.get(name, numbered), "snapshots of the parameter")
    variables = {
        name: (("step", "model", *(called.get(axis, axis) for axis in axes)), arrays[name], {"long_name": meaning})
        for name, (axes, meaning) in described.items()
    }
    return xr.Dataset(variables, coords={"step": steps, "seed": ("model", list(recipe.seeds))})
