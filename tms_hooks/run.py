"""`Run`: trained models, their history and where they came from.

A run is saved as a directory of two safetensors files, weights and history, and a JSON file that says what they are:
nothing in it is code, and reading it executes nothing.
"""

import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import Tensor

from tms_hooks import files, geometry
from tms_hooks.models import forward
from tms_hooks.training import history
from tms_hooks.training.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

    from tms_hooks.models.toy import ToyModel

FORMAT = "tms-hooks run, version 3"
WEIGHTS_FILE, HISTORY_FILE, RECIPE_FILE = "weights.safetensors", "history.safetensors", "run.json"
FINAL_FEATURE, FINAL_HEAD = "final.feature_loss", "final.head_loss"


@dataclass(frozen=True, kw_only=True)
class Run:
    """Many toy models trained by one recipe.

    Attributes:
        recipe: everything that decided the result.
        weights: stacked trained weights, named as in `ToyModel.state_dict()`, each with a leading model axis.
        history: xarray Dataset over (step, model, feature): `loss`, `grad_norm`, `feature_norm`, `W_E` snapshots, and
            over (step, model, head): `head_loss`, `omega` snapshots.
        final_feature_loss: (model, feature), on held-out data; after training on a whole data set, on that. Where
            outputs are not the features it is (model, output), and the axis of `history.loss` is "output".
        final_head_loss: (model, head), likewise.
        diverged: the step at which a model stopped because its loss or next weights were not finite, by the model's
            number, as in `models`. Its weights are its last finite ones; its final loss need not be finite.
        completed_steps: updates made; fewer than `recipe.total_steps` if training was interrupted.
        provenance: versions, device, engine and seconds of the training.
    """

    recipe: Recipe
    weights: dict[str, Tensor]
    history: xr.Dataset
    final_feature_loss: Float[Tensor, "model output"]
    final_head_loss: Float[Tensor, "model head"]
    diverged: dict[int, int]
    completed_steps: int
    provenance: dict[str, Any]

    @property
    def W_E(self) -> Float[Tensor, "model feature hidden"]:
        """Feature directions of every model: a row per feature."""
        return self.weights["W_E"]

    @property
    def final_loss(self) -> Float[Tensor, " model"]:
        """L1, plus lambda L2 with heads, on held-out data."""
        l1, l2 = self.final_feature_loss.sum(-1), self.final_head_loss.sum(-1)
        return l1 + l2.new_tensor([setting.qk_weight for setting in self.recipe.settings]) * l2

    @property
    def table(self) -> "pd.DataFrame":
        """One row per model: its seed, what differs between the models, its final loss, and what its weights make.

        "represented" counts the features whose norm exceeds 0.5, "dimensions_per_feature" is D*, and "polytope" names
        what the directions of the represented features make. "diverged_at" is there if a model has diverged.
        """
        import pandas as pd

        W = self.W_E
        finite = W.isfinite().all()  # initial weights of a diverged model need not be
        columns = {"seed": list(self.recipe.seeds)} | self.recipe.differences | {"final_loss": self.final_loss.tolist()}
        if finite:
            columns["represented"] = geometry.represented(W).sum(-1).tolist()
            columns["dimensions_per_feature"] = geometry.dimensions_per_feature(W).tolist()
            columns["polytope"] = [geometry.name_polytope(w) for w in W]
        if self.diverged:
            columns["diverged_at"] = [self.diverged.get(i, -1) for i in range(len(W))]
        return pd.DataFrame(columns).rename_axis("model")

    @property
    def labels(self) -> list[str]:
        """What differs between the models, for the panels and lines of a figure; their seeds if nothing else does."""
        columns: dict[str, list[Any]] = self.recipe.differences or {"seed": list(self.recipe.seeds)}
        rows = zip(*columns.values(), strict=True)
        return [", ".join(f"{name}={_short(v)}" for name, v in zip(columns, row, strict=True)) for row in rows]

    @property
    def models(self) -> "Models":
        """The trained models, each made when asked for."""
        return Models(self)

    def save(self, path: str | Path) -> Path:
        """Write the run directory: all of it or nothing, over an earlier run but over nothing else.

        Raises:
            FileExistsError: something that is not a run, or a run with other files beside it, stands at `path`.
        """
        path = Path(path)
        if path.exists():
            _check_replaceable(path)
        with files.whole_folder(path) as folder:
            final = {FINAL_FEATURE: self.final_feature_loss, FINAL_HEAD: self.final_head_loss}
            save_file({name: w.contiguous().cpu() for name, w in (self.weights | final).items()}, folder / WEIGHTS_FILE)
            save_arrays({str(name): v.values for name, v in self.history.data_vars.items()}, folder / HISTORY_FILE)
            about = {
                "format": FORMAT,
                "recipe": self.recipe.to_dict(),
                "history_steps": [int(s) for s in self.history.step.values],
                "diverged_at": [self.diverged.get(i, -1) for i in range(len(self.models))],
                "completed_steps": self.completed_steps,
                "provenance": self.provenance,
            }
            (folder / RECIPE_FILE).write_text(json.dumps(about, indent=1, default=_plain))
        return path


def load(path: str | Path, *, using: Iterable[Any] = ()) -> Run:
    """Read a run directory that `Run.save` wrote.

    `using` holds the classes and functions of your own that the run was trained with, such as `using=[MyTask]`: they
    are found there by name, never imported.

    Raises:
        FileNotFoundError: no run directory there.
        LookupError: `using` lacks a part that the run was trained with.
        ValueError: a torn, foreign or newer one, saying what is wrong with which file.
    """
    path = Path(path)
    if not (path / RECIPE_FILE).is_file():
        raise FileNotFoundError(
            f"{path} is no run directory: it has no {RECIPE_FILE}; `Run.save` and `tms train` write one"
        )
    about = files.read_json(path / RECIPE_FILE, FORMAT)
    try:
        recipe = Recipe.from_dict(about["recipe"], using)
        steps = about["history_steps"]
        diverged = {i: step for i, step in enumerate(about["diverged_at"]) if step >= 0}
        completed, origin = about["completed_steps"], about["provenance"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path / RECIPE_FILE} describes no run: {type(error).__name__}: {error}") from error
    k, n, heads = len(recipe.seeds), recipe.cfg.n_outputs, recipe.cfg.n_heads
    shapes = {name: (k, *shape) for name, shape in forward.weight_shapes(recipe.cfg).items()}
    weights = _read_tensors(path / WEIGHTS_FILE, shapes | {FINAL_FEATURE: (k, n), FINAL_HEAD: (k, heads)})
    arrays = _read_tensors(path / HISTORY_FILE, history.shapes(recipe, len(steps)))
    return Run(
        recipe=recipe,
        final_feature_loss=weights.pop(FINAL_FEATURE),
        final_head_loss=weights.pop(FINAL_HEAD),
        weights=weights,
        history=history.label({name: array.numpy() for name, array in arrays.items()}, steps, recipe),
        diverged=diverged,
        completed_steps=completed,
        provenance=origin,
    )


class Models(Sequence["ToyModel"]):
    """The models of a run, in the order of its seeds: `run.models[3]`, `for model in run.models`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def __len__(self) -> int:
        return len(self._run.recipe.seeds)

    @overload
    def __getitem__(self, index: int) -> "ToyModel": ...
    @overload
    def __getitem__(self, index: slice) -> "list[ToyModel]": ...
    def __getitem__(self, index: int | slice) -> "ToyModel | list[ToyModel]":
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"model {index} of a run with {len(self)} models: they are numbered 0 to {len(self) - 1}")
        from tms_hooks.models.toy import ToyModel

        return ToyModel.from_weights(self._run.recipe.cfg, {name: w[index] for name, w in self._run.weights.items()})

    def __repr__(self) -> str:
        return f"<{len(self)} toy models>"


def provenance(engine: str, device: str, seconds: float) -> dict[str, Any]:
    """Where a result came from."""
    try:
        own = version("tms-hooks")
    except PackageNotFoundError:
        own = "not installed"
    return {
        "tms_hooks": own,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "engine": engine,
        "device": device,
        "seconds": round(seconds, 3),
    }


def _check_replaceable(path: Path) -> None:
    """Saving over `path` must destroy nothing but an earlier run."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if not (path / RECIPE_FILE).is_file():
        raise FileExistsError(f"{path} is there and is no run directory (it has no {RECIPE_FILE}); choose another path")
    try:
        files.read_json(path / RECIPE_FILE, FORMAT)
    except ValueError as error:
        raise FileExistsError(f"{error}; choose another path") from error
    if others := {file.name for file in path.iterdir()} - {WEIGHTS_FILE, HISTORY_FILE, RECIPE_FILE}:
        raise FileExistsError(
            f"{path} also holds {', '.join(sorted(others))}, which no run wrote; move that or choose another path"
        )


def _short(value: Any) -> str:
    """A number to three digits, anything else as it is written."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """A numpy number as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be written as JSON; give a plain number")


def _read_tensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of one file, which must be those of `shapes`."""
    tensors = files.read_tensors(path)
    if (found := {name: tuple(tensor.shape) for name, tensor in tensors.items()}) != shapes:
        raise ValueError(f"{path} holds {found}, {RECIPE_FILE} beside it asks for {shapes}; they are not of one run")
    return tensors
