"""`Run`: trained models, their history and where they came from.

A run is saved as a directory of two safetensors files, weights and history, and a JSON file that says what they are,
with their checksums: nothing in it is code, and reading it executes nothing.
"""

import math
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from tms_hooks import files
from tms_hooks.files import DamagedRun
from tms_hooks.models import forward
from tms_hooks.training import history
from tms_hooks.training.recipe import Recipe

if TYPE_CHECKING:
    from tms_hooks.models.toy import ToyModel

FORMAT = "tms-hooks run, version 3"
RECIPE_FILE, WEIGHTS, HISTORY = "run.json", "weights", "history"
WEIGHTS_FILE, HISTORY_FILE = f"{WEIGHTS}.safetensors", f"{HISTORY}.safetensors"
FINAL_FEATURE, FINAL_HEAD = "final.feature_loss", "final.head_loss"


@dataclass(frozen=True, kw_only=True)
class Run:
    """Many toy models trained by one recipe.

    Attributes:
        recipe: everything that decided the result.
        weights: stacked trained weights, named as in `ToyModel.state_dict()`, each with a leading model axis.
        history: xarray Dataset over (step, model, feature): `loss`, `grad_norm`, `feature_norm`, `W_E` snapshots, and
            over (step, model, head): `head_loss`, `omega` snapshots.
        final_feature_loss: (model, feature), on held-out data; after training on a whole data set, on that.
        final_head_loss: (model, head), likewise.
        diverged: the step at which a model stopped because its loss or next weights were not finite, by the model's
            seed. Its weights are its last finite ones; its final loss need not be finite.
        completed_steps: updates made; fewer than `recipe.total_steps` if training was interrupted.
        provenance: versions, device, engine and seconds of the training.
    """

    recipe: Recipe
    weights: dict[str, Tensor]
    history: xr.Dataset
    final_feature_loss: Float[Tensor, "model feature"]
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
        return self.final_feature_loss.sum(-1) + self.recipe.qk_weight * self.final_head_loss.sum(-1)

    @property
    def stopped(self) -> bool:
        """Whether training was interrupted: fewer updates than the recipe has."""
        return self.completed_steps < self.recipe.total_steps

    @property
    def models(self) -> "Models":
        """The trained models, each made when asked for."""
        return Models(self)

    def save(self, path: str | Path) -> Path:
        """Write the run directory: all of it or nothing, over an earlier run but over nothing else.

        Raises:
            OSError: it could not be written; the message says in which folder the run is instead. A FileExistsError,
                if something that is not a run, a run with other files beside it, or the current folder is at `path`.
        """
        path = Path(path)
        files.rescue(path, self._write)
        return path

    def _write(self, path: Path) -> None:
        check_replaceable(path)
        final = {FINAL_FEATURE: self.final_feature_loss, FINAL_HEAD: self.final_head_loss}
        about = {
            "recipe": self.recipe.to_dict(),
            "history_steps": [int(s) for s in self.history.step.values],
            "diverged": {str(seed): step for seed, step in self.diverged.items()},
            "completed_steps": self.completed_steps,
            "provenance": self.provenance,
        }
        recorded = {str(name): torch.from_numpy(v.values) for name, v in self.history.data_vars.items()}
        files.write_sealed(path / RECIPE_FILE, FORMAT, about, {WEIGHTS: self.weights | final, HISTORY: recorded})


def load(path: str | Path) -> Run:
    """Read a run directory that `Run.save` wrote.

    Raises:
        FileNotFoundError: no run directory there.
        DamagedRun: a ValueError: a torn, changed or foreign one, or of another version, saying what is wrong with which
            file.
    """
    path = Path(path)
    if not (path / RECIPE_FILE).exists():
        raise FileNotFoundError(
            f"{path} is no run directory: it has no {RECIPE_FILE}; `Run.save` and `tms train` write one"
        )
    about, parts = files.read_sealed(path / RECIPE_FILE, FORMAT)
    try:
        recipe = Recipe.from_dict(about["recipe"])
        steps, diverged = about["history_steps"], {int(seed): step for seed, step in about["diverged"].items()}
        completed, origin = about["completed_steps"], dict(about["provenance"])
        _check_progress(recipe, steps, diverged, completed)
        weights, arrays = parts[WEIGHTS], parts[HISTORY]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedRun(f"{path / RECIPE_FILE} describes no run: {type(error).__name__}: {error}") from error
    _check_tensors(path / WEIGHTS_FILE, weights, _weight_shapes(recipe), recipe)
    _check_tensors(path / HISTORY_FILE, arrays, history.shapes(recipe, len(steps)), recipe)
    return Run(
        recipe=recipe,
        final_feature_loss=weights.pop(FINAL_FEATURE),
        final_head_loss=weights.pop(FINAL_HEAD),
        weights=weights,
        history=history.label({name: array.numpy() for name, array in arrays.items()}, steps, recipe.seeds),
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


def check_replaceable(path: Path) -> None:
    """Saving at `path` must destroy nothing but an earlier run.

    Raises:
        FileExistsError: something else is there, or a person stands there.
    """
    if path.resolve() in (here := Path.cwd().resolve(), *here.parents):
        raise FileExistsError(f"{path} is the current folder, or one above it; give the run one of its own: {path}/run")
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / RECIPE_FILE).is_file() and not files.is_left_over(path / RECIPE_FILE):
        raise FileExistsError(f"{path} is there and is no run directory (it has no {RECIPE_FILE}); choose another path")
    part = re.compile(rf"{re.escape(files.SCRATCH)}.*|({WEIGHTS}|{HISTORY})(\.[0-9a-f]{{8}})?\.safetensors")
    if others := {n for file in path.iterdir() if (n := file.name) != RECIPE_FILE and not part.fullmatch(n)}:
        raise FileExistsError(
            f"{path} also holds {', '.join(sorted(others))}, which no run wrote; move that or choose another path"
        )
    if (path / RECIPE_FILE).exists():
        try:
            files.read_sealed(path / RECIPE_FILE, FORMAT)
        except DamagedRun as error:
            raise FileExistsError(f"{error}; move it, or choose another path") from error


def size(recipe: Recipe) -> int:
    """Bytes of a saved run of this recipe, but for its JSON file."""
    shapes = [*_weight_shapes(recipe).values(), *history.shapes(recipe, len(recipe.record_steps())).values()]
    return sum(math.prod(shape) for shape in shapes) * recipe.torch_dtype.itemsize


def _weight_shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the weights' file."""
    k, cfg = len(recipe.seeds), recipe.cfg
    shapes = {name: (k, *shape) for name, shape in forward.weight_shapes(cfg).items()}
    return shapes | {FINAL_FEATURE: (k, cfg.n_features), FINAL_HEAD: (k, cfg.n_heads)}


def _check_progress(recipe: Recipe, steps: Any, diverged: dict[int, Any], completed: Any) -> None:
    """What a run says of its steps must be possible."""
    last = recipe.total_steps
    for name, step in [("completed_steps", completed), *(("diverged", step) for step in diverged.values())]:
        if type(step) is not int or not 0 <= step <= last:
            raise ValueError(f"{name}={step!r}: must be a step from 0 to {last}")
    if not steps or steps != sorted({int(step) for step in steps}) or not 0 <= steps[0] <= steps[-1] <= last:
        raise ValueError(f"history_steps={steps}: must be steps from 0 to {last}, one after another")
    if strangers := diverged.keys() - set(recipe.seeds):
        raise ValueError(f"diverged has the seeds {sorted(strangers)}, of which no model is")


def _check_tensors(path: Path, tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], recipe: Recipe) -> None:
    """The tensors of one file must be those of `shapes`."""
    if (found := {name: tuple(tensor.shape) for name, tensor in tensors.items()}) != shapes:
        raise DamagedRun(f"{path} holds {found}, {RECIPE_FILE} beside it asks for {shapes}; they are not of one run")
    if strange := {str(tensor.dtype) for tensor in tensors.values()} - {str(recipe.torch_dtype)}:
        raise DamagedRun(f"{path} holds {strange}, {RECIPE_FILE} beside it asks for {recipe.dtype}")
