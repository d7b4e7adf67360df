"""`Run`: trained models, their history and where they came from; saved as safetensors and JSON."""

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tms_hooks.training import history
from tms_hooks.training.recipe import Recipe

if TYPE_CHECKING:
    from tms_hooks.models.toy import ToyModel

FORMAT = "tms-hooks run, version 1"
WEIGHTS_FILE, HISTORY_FILE, RECIPE_FILE = "weights.safetensors", "history.safetensors", "run.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """Many toy models trained by one recipe.

    Attributes:
        recipe: everything that decided the result.
        weights: stacked trained weights, named as in `ToyModel.state_dict()`, each with a leading model axis.
        history: xarray Dataset over (step, model, feature): `loss`, `grad_norm`, `feature_norm`, `W_E` snapshots, and
            over (step, model, head): `qk_loss`.
        final_feature_loss: (model, feature), on held-out data; after training on a whole data set, on that.
        final_qk_loss: (model, head), likewise.
        diverged: seed of each model that stopped because its loss or next weights were not finite -> step of that.
        completed_steps: updates made; fewer than `recipe.total_steps` if training was interrupted.
        provenance: versions, device, engine and seconds of the training.
    """

    recipe: Recipe
    weights: dict[str, Tensor]
    history: xr.Dataset
    final_feature_loss: Float[Tensor, "model feature"]
    final_qk_loss: Float[Tensor, "model head"]
    diverged: dict[int, int]
    completed_steps: int
    provenance: dict[str, Any]

    @property
    def W_E(self) -> Float[Tensor, "model feature hidden"]:
        """Feature directions of every model, one a row."""
        return self.weights["W_E"]

    @property
    def final_loss(self) -> Float[Tensor, " model"]:
        """L1, plus lambda L2 with heads, on held-out data."""
        return self.final_feature_loss.sum(-1) + self.recipe.qk_weight * self.final_qk_loss.sum(-1)

    @property
    def models(self) -> "Models":
        """The trained models, each made when asked for."""
        return Models(self)

    def save(self, path: str | Path) -> Path:
        """Write the run directory: all of it or nothing, over an earlier run but over nothing else.

        Raises:
            FileExistsError: something that is not a run stands at `path`.
        """
        path = Path(path)
        if path.exists() and not (path / RECIPE_FILE).is_file() and (path.is_file() or any(path.iterdir())):
            raise FileExistsError(
                f"{path} is there and is no run directory (it has no {RECIPE_FILE}); choose another path"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            self._write(scratch)
            if path.exists():
                shutil.rmtree(path)
            os.replace(scratch, path)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        return path

    def _write(self, folder: Path) -> None:
        final = {"final.feature_loss": self.final_feature_loss, "final.qk_loss": self.final_qk_loss}
        save_file({name: w.contiguous().cpu() for name, w in (self.weights | final).items()}, folder / WEIGHTS_FILE)
        arrays = {
            str(name): torch.from_numpy(np.ascontiguousarray(v.values)) for name, v in self.history.data_vars.items()
        }
        save_file(arrays, folder / HISTORY_FILE)
        about = {
            "format": FORMAT,
            "recipe": self.recipe.to_json(),
            "history_steps": [int(s) for s in self.history.step.values],
            "diverged": {str(seed): step for seed, step in self.diverged.items()},
            "completed_steps": self.completed_steps,
            "provenance": self.provenance,
        }
        (folder / RECIPE_FILE).write_text(json.dumps(about, indent=1))


def load(path: str | Path) -> Run:
    """Read a run directory that `Run.save` wrote.

    Raises:
        FileNotFoundError: no run directory there.
        ValueError: a torn, foreign or newer one, saying what is wrong with which file.
    """
    path = Path(path)
    if not (path / RECIPE_FILE).is_file():
        raise FileNotFoundError(
            f"{path} is no run directory: it has no {RECIPE_FILE}; `Run.save` and `tms train` write one"
        )
    try:
        about = json.loads((path / RECIPE_FILE).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path / RECIPE_FILE} is not readable JSON ({error}); the run directory is damaged"
        ) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else type(about).__name__
        raise ValueError(
            f"{path / RECIPE_FILE} has format {found!r}, not {FORMAT!r}; "
            "it was written by something else or another version"
        )
    weights, arrays = (_read_tensors(path / name) for name in (WEIGHTS_FILE, HISTORY_FILE))
    recipe = Recipe.from_json(about["recipe"])
    final = {name: weights.pop(f"final.{name}") for name in ("feature_loss", "qk_loss")}
    return Run(
        recipe=recipe,
        weights=weights,
        history=history.label({k: v.numpy() for k, v in arrays.items()}, about["history_steps"], recipe.seeds),
        final_feature_loss=final["feature_loss"],
        final_qk_loss=final["qk_loss"],
        diverged={int(seed): step for seed, step in about["diverged"].items()},
        completed_steps=about["completed_steps"],
        provenance=about["provenance"],
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

    def __iter__(self) -> "Iterator[ToyModel]":
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<{len(self)} toy models>"


def provenance(engine: str, device: str, seconds: float) -> dict[str, Any]:
    """Where a result came from."""
    from importlib.metadata import PackageNotFoundError, version

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


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing from {path.parent}; the run directory is damaged") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); the run directory is damaged") from error
