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
    "W_E": (("feature", "hidden"), "embedding directions"),
    "omega": (("head", "hidden", "key_hidden"), "QK circuit of the head, query on its rows, biases left out"),
}
"""Name -> axes beside step and model, and meaning. An output that is a feature is called so."""


class Recorder:
    """Collects one record after another; `dataset` labels them."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.records: list[tuple[int, dict[str, Tensor]]] = []

    def add(self, step: int, before: State, measured: Measurement) -> None:
        """Record the models before the update of `step` and what was measured on its batch."""
        W_E = before.weights["W_E"]
        omega = W_E.new_zeros(len(W_E), 0, W_E.shape[-1], W_E.shape[-1])
        if self.recipe.cfg.n_heads:
            omega = before.weights[forward.W_Q] @ before.weights[forward.W_K].mT
        record = {**measured._asdict(), "feature_norm": W_E.norm(dim=-1), "W_E": W_E, "omega": omega}
        self.records.append((step, {name: value.detach().cpu().clone() for name, value in record.items()}))

    def dataset(self, last: int) -> xr.Dataset:
        """Everything recorded up to step `last`, over step, model, feature, head and hidden."""
        records = [(step, record) for step, record in self.records if step <= last]
        arrays = {name: torch.stack([record[name] for _, record in records]).numpy() for name in VARIABLES}
        return label(arrays, [step for step, _ in records], self.recipe)


def shapes(recipe: Recipe, records: int) -> dict[str, tuple[int, ...]]:
    """Shape of every array of a history with this many records."""
    cfg = recipe.cfg
    sizes = {"feature": cfg.n_features, "hidden": cfg.d_hidden, "key_hidden": cfg.d_hidden, "head": cfg.n_heads}
    sizes["output"] = cfg.n_outputs
    first = (records, len(recipe.seeds))
    return {name: first + tuple(sizes[axis] for axis in axes) for name, (axes, _) in VARIABLES.items()}


def label(arrays: dict[str, np.ndarray], steps: list[int], recipe: Recipe) -> xr.Dataset:
    """The history as a Dataset, from bare arrays."""
    called = {"output": recipe.cfg.loss_axis}
    variables = {
        name: (("step", "model", *(called.get(axis, axis) for axis in axes)), arrays[name], {"long_name": meaning})
        for name, (axes, meaning) in VARIABLES.items()
    }
    return xr.Dataset(variables, coords={"step": steps, "seed": ("model", list(recipe.seeds))})
