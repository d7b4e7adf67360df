"""`Run`: trained models, their history and where they came from.

A run is saved as a directory of three safetensors files, weights, history and the state that training goes on from, and
a JSON file that says what they are, with their checksums: nothing in it is code, and reading it executes nothing.
"""

import math
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from tms_hooks import files, geometry, own
from tms_hooks.config import ToyConfig
from tms_hooks.errors import did_you_mean, explained, plain
from tms_hooks.files import DamagedRun
from tms_hooks.geometry.polytopes import named_polytope
from tms_hooks.models import forward
from tms_hooks.training import history
from tms_hooks.training.recipe import Recipe, Setting
from tms_hooks.training.state import Losses, State

if TYPE_CHECKING:
    import pandas as pd

    from tms_hooks.models.toy import ToyModel

FORMAT = "tms-hooks run, version 3"
RECIPE_FILE, WEIGHTS, STATE, HISTORY = "run.json", "weights", "state", "history"
WEIGHTS_FILE, STATE_FILE, HISTORY_FILE = (f"{name}.safetensors" for name in (WEIGHTS, STATE, HISTORY))
INTERRUPTED = "interrupted_at"
FINAL_FEATURE, FINAL_HEAD = "final.feature_loss", "final.head_loss"


ELSEWHERE = {name: f"recipe.{name}" for name in ("cfg", "data", "seeds", "task", "optimizer", "importance")} | {
    "W": "W_E, whose rows are directions; the paper's W is W_E.mT",
    "W_U": "models[i].W_U",
    "loss": "final_loss, or history.loss through training",
    "losses": "history.loss",
    "model": "models[0]",
    "steps": "completed_steps",
}
"""What people look for in a run, and where it is."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """Many toy models trained by one recipe.

    Attributes:
        recipe: everything that decided the result.
        weights: stacked trained weights, named as in `ToyModel.state_dict()`, each with a leading model axis.
        state: what training goes on from: weights (with `unit_norm` as they are before it), moments, and who stopped.
        history: xarray Dataset over (step, model, feature): `loss`, `grad_norm`, `feature_norm`, over (step, model,
            head): `head_loss`, `omega` snapshots, and snapshots of the parameters that `recipe.record` names.
        final_feature_loss: (model, feature), on held-out data; after training on a whole data set, on that. Where
            outputs are not the features it is (model, output), and the axis of `history.loss` is "output".
        final_head_loss: (model, head), likewise.
        diverged: the step at which a model stopped because its loss or next weights were not finite, by the model's
            number, as in `models`. Its weights are its last finite ones; its final loss need not be finite.
        completed_steps: updates made; fewer than `recipe.total_steps` if training was interrupted.
        provenance: versions, device, engine and seconds of the training, and `interrupted_at`, the step at which Ctrl-C
            was pressed, if it was.
    """

    recipe: Recipe
    weights: dict[str, Tensor]
    state: State
    history: xr.Dataset
    final_feature_loss: Float[Tensor, "model output"]
    final_head_loss: Float[Tensor, "model head"]
    diverged: dict[int, int]
    completed_steps: int
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        cfg, loss = self.recipe.cfg, self.final_loss
        toys = f"{len(loss)} toy{'s' * (len(loss) > 1)}"
        return (
            f"<Run: {toys}, {cfg.n_features} features in {cfg.d_hidden} dimensions, step "
            f"{self.completed_steps:,} of {self.recipe.total_steps:,}, final loss {loss.min():.4g} to {loss.max():.4g}>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: config, data and optimizer, how far it came, and a table of the first models."""
        recipe, cfg = self.recipe, self.recipe.cfg
        changed = [f"{f.name}={value!r}" for f in fields(cfg) if (value := getattr(cfg, f.name)) != f.default]
        parts = [recipe.data, recipe.task, recipe.optimizer]
        each = [f"{part[0]!r}, ..., one per model" if isinstance(part, tuple) else repr(part) for part in parts]
        rows = [f"ToyConfig({', '.join(changed)})", *each]
        columns = {"seed": list(recipe.seeds)} | self._differences | {"final_loss": self.final_loss.tolist()}
        table = pd.DataFrame(columns).head(5)
        lines = "".join(f"<div><code>{escape(row[:200])}</code></div>" for row in rows)
        return f"<div><b>{escape(repr(self))}</b>{lines}{table.to_html(index=False)}</div>"

    def __getattr__(self, name: str) -> Any:
        """Say where it is what people look for here."""
        if name.startswith("_"):
            raise AttributeError(name)
        where = ELSEWHERE.get(name)
        known = [*(field.name for field in fields(self)), *(n for n in vars(Run) if not n.startswith("_"))]
        hint = f"use run.{where}" if where else did_you_mean(name, known)
        raise AttributeError(f"a run has no attribute {name!r}; {hint}")

    @property
    def W_E(self) -> Float[Tensor, "model feature hidden"]:
        """Feature directions of every model: a row per feature."""
        return self.weights["W_E"]

    @property
    def final_loss(self) -> Float[Tensor, " model"]:
        """L1, plus lambda L2 with heads, on held-out data: 65,536 rows, or key tokens, or fewer that have 2^24 entries.

        Of independent features that are active in less than a row of 16 it is exact but for the loss of rows with
        several: see `Independent.strata`. After Ctrl-C the rows are as few as can be judged at once.
        """
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
        columns = {"seed": list(self.recipe.seeds)} | self._differences | {"final_loss": self.final_loss.tolist()}
        if finite:
            columns["represented"] = geometry.represented(W).sum(-1).tolist()
            columns["dimensions_per_feature"] = geometry.dimensions_per_feature(W).tolist()
            columns["polytope"] = [named_polytope(w) for w in W]
        if self.diverged:
            columns["diverged_at"] = [self.diverged.get(i, -1) for i in range(len(W))]
        return pd.DataFrame(columns).rename_axis("model")

    @property
    def labels(self) -> list[str]:
        """What differs between the models, for the panels and lines of a figure; their seeds if nothing else does."""
        columns: dict[str, list[Any]] = self._differences or {"seed": list(self.recipe.seeds)}
        return [
            ", ".join(
                f"{name}={_short(value)}"
                for name, value in zip(columns, row, strict=True)
                if value is not None or name in Setting._fields  # a field that this model's class does not have
            )
            for row in zip(*columns.values(), strict=True)
        ]

    @property
    def _differences(self) -> dict[str, list[Any]]:
        """What differs between the models, as a person reads it."""
        return {name: [_readable(value) for value in values] for name, values in self.recipe.differences.items()}

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C was pressed: it has fewer updates than the recipe, or its losses may be of fewer rows."""
        return self.completed_steps < self.recipe.total_steps or INTERRUPTED in self.provenance

    @property
    def models(self) -> "Models":
        """The trained models, each made when asked for."""
        return Models(self.recipe.cfg, self.weights)

    def models_at(self, step: int) -> "Models":
        """The models as they were before the update of a recorded step.

        Raises:
            ValueError: a step without a record, or a history that lacks a parameter.
        """
        step, steps = plain(step), self.history.step.values
        if step not in steps:
            nearest = steps[np.abs(steps - step).argmin()]
            raise ValueError(f"step={step}: the history has no record of it; the nearest is {nearest}")
        if missing := self.weights.keys() - set(self.recipe.record):
            raise ValueError(f"the history has no {', '.join(sorted(missing))}: leave record= out to keep them all")
        record = self.history.sel(step=step)
        return Models(self.recipe.cfg, {name: torch.tensor(record[name].values) for name in self.weights})

    def resume(self, steps: int | None = None, **how: Any) -> "Run":
        """Go on with the training: the same optimizer moments, the next batches, one history.

        The result is, to the bit, the run that would have been trained in one go, if the learning rate is constant. Any
        other schedule is restated: from here on the learning rate is that of a training of `completed_steps + steps`
        steps (`provenance["schedule_restated_at"]` says where that happened).

        Args:
            steps: how many more; by default those that an interrupted training has left, which may be none but to judge
                its models on all held-out rows.
            how: `engine` (by default the run's), `device`, `checkpoint`, `checkpoint_every` and `progress`, as in
                `train`.

        Raises:
            ValueError: no `steps` for a finished run, or steps for one that stopped before its last stage.
        """
        from tms_hooks.train import resume

        return resume(self, steps, **how)

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
            "diverged_at": [self.diverged.get(i, -1) for i in range(len(self.models))],
            "completed_steps": self.completed_steps,
            "provenance": self.provenance,
        }
        recorded = {str(name): torch.from_numpy(v.values) for name, v in self.history.data_vars.items()}
        parts = {WEIGHTS: self.weights | final, STATE: self.state.tensors(), HISTORY: recorded}
        files.write_sealed(path / RECIPE_FILE, FORMAT, about, parts)


@explained()
def load(path: str | Path, *, using: Iterable[Any] = ()) -> Run:
    """Read a run directory that `Run.save` wrote, or a folder of checkpoints: the newest, as a run.

    `using` holds the classes and functions of your own that the run was trained with, such as `using=[MyTask]`: they
    are found there by name, never imported.

    Raises:
        FileNotFoundError: no run directory there.
        LookupError: `using` lacks a part that the run was trained with.
        TypeError: `using` is no list, or holds a name or an object in place of a class or function.
        DamagedRun: a ValueError: a torn, changed or foreign one, or of another version, saying what is wrong with which
            file.
    """
    path, using = Path(path), own.parts(using)
    if not (path / RECIPE_FILE).exists():
        from tms_hooks.train import load_checkpoint

        if (run := load_checkpoint(path, using)) is not None:
            return run
        toy = (path / "config.json").exists()
        one = "a single toy's is read by `ToyModel.from_pretrained`" if toy else "`Run.save` and `tms train` write one"
        raise FileNotFoundError(f"{path} is no run directory: it has no {RECIPE_FILE}; {one}")
    about, parts = files.read_sealed(path / RECIPE_FILE, FORMAT)
    try:
        recipe = Recipe.from_dict(about["recipe"], using)
        steps, completed, origin = about["history_steps"], about["completed_steps"], dict(about["provenance"])
        _check_progress(recipe, steps, about["diverged_at"], completed)
        diverged = {i: step for i, step in enumerate(about["diverged_at"]) if step >= 0}
        weights, arrays, state = parts[WEIGHTS], parts[HISTORY], State.of_tensors(parts[STATE])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedRun(f"{path / RECIPE_FILE} describes no run: {type(error).__name__}: {error}") from error
    _check_tensors(path / WEIGHTS_FILE, weights, _weight_shapes(recipe), recipe)
    _check_tensors(path / HISTORY_FILE, arrays, history.shapes(recipe, len(steps)), recipe)
    _check_tensors(path / STATE_FILE, state.weights | state.moments, _state_shapes(recipe, state), recipe)
    return Run(
        recipe=recipe,
        final_feature_loss=weights.pop(FINAL_FEATURE),
        final_head_loss=weights.pop(FINAL_HEAD),
        weights=weights,
        state=state,
        history=history.label({name: array.numpy() for name, array in arrays.items()}, steps, recipe),
        diverged=diverged,
        completed_steps=completed,
        provenance=origin,
    )


class Models(Sequence["ToyModel"]):
    """The models of a run, in the order of its seeds: `run.models[3]`, `for model in run.models`."""

    def __init__(self, cfg: ToyConfig, weights: dict[str, Tensor]) -> None:
        self._cfg, self._weights = cfg, weights

    def __len__(self) -> int:
        return len(self._weights["W_E"])

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

        return ToyModel.from_weights(self._cfg, {name: w[index] for name, w in self._weights.items()})

    def __repr__(self) -> str:
        return f"<{len(self)} toy models>"


def assemble(
    recipe: Recipe, state: State, completed: int, records: xr.Dataset, losses: Losses, origin: dict[str, Any]
) -> Run:
    """The run of a state that training has reached."""
    return Run(
        recipe=recipe,
        weights={name: w.cpu() for name, w in state.snapshot(recipe.cfg).weights.items()},
        state=State.of_tensors(state.tensors()),
        history=records,
        final_feature_loss=losses[0],
        final_head_loss=losses[1],
        diverged={i: step for i, step in enumerate(state.diverged_at.tolist()) if step >= 0},
        completed_steps=completed,
        provenance=origin,
    )


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
    part = re.compile(rf"{re.escape(files.SCRATCH)}.*|({WEIGHTS}|{STATE}|{HISTORY})(\.[0-9a-f]{{8}})?\.safetensors")
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
    """Bytes of a saved run of this recipe, but for its JSON file: with weights, two moments of each, and history."""
    shapes = [*_weight_shapes(recipe).values()] * 4
    shapes += history.shapes(recipe, len(recipe.record_steps())).values()
    return sum(math.prod(shape) for shape in shapes) * recipe.torch_dtype.itemsize


def _readable(value: Any) -> Any:
    """Numbers by name as a mapping, and of a table no more than its size; anything else as it is."""
    match value:
        case ((str(), _), *_):
            return dict(value)
        case (tuple(row), *_):
            return f"{len(value)} x {len(row)}"
    return value


def _short(value: Any) -> str:
    """Numbers to three digits, of many the first and the last; anything else as it is written."""
    match value:
        case float():
            return f"{value:.3g}"
        case (first, second, _, _, *_, last):
            return f"({_short(first)}, {_short(second)}, ..., {_short(last)})"
        case tuple():
            return f"({', '.join(map(_short, value))})"
        case dict():
            return ", ".join(f"{name}: {_short(entry)}" for name, entry in value.items())
    return str(value)


def _weight_shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the weights' file."""
    k, cfg = len(recipe.seeds), recipe.cfg
    shapes = {name: (k, *shape) for name, shape in forward.weight_shapes(cfg).items()}
    return shapes | {FINAL_FEATURE: (k, cfg.n_outputs), FINAL_HEAD: (k, cfg.n_heads)}


def _state_shapes(recipe: Recipe, state: State) -> dict[str, tuple[int, ...]]:
    """Shape of every weight, and of those moments that a state has."""
    shapes = {name: (len(recipe.seeds), *shape) for name, shape in forward.weight_shapes(recipe.cfg).items()}
    return shapes | {name: shapes.get(name.partition(".")[2], ()) for name in state.moments}


def _check_progress(recipe: Recipe, steps: Any, diverged_at: Any, completed: Any) -> None:
    """What a run says of its steps must be possible."""
    last = recipe.total_steps
    if type(completed) is not int or not 0 <= completed <= last:
        raise ValueError(f"completed_steps={completed!r}: must be a step from 0 to {last}")
    if len(diverged_at) != len(recipe.seeds) or any(type(s) is not int or not -1 <= s <= last for s in diverged_at):
        raise ValueError(f"diverged_at={diverged_at}: must be -1 or a step from 0 to {last}, one per model")
    if not steps or steps != sorted({int(step) for step in steps}) or not 0 <= steps[0] <= steps[-1] <= last:
        raise ValueError(f"history_steps={steps}: must be steps from 0 to {last}, one after another")


def _check_tensors(path: Path, tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], recipe: Recipe) -> None:
    """The tensors of one file must be those of `shapes`."""
    if (found := {name: tuple(tensor.shape) for name, tensor in tensors.items()}) != shapes:
        raise DamagedRun(f"{path} holds {found}, {RECIPE_FILE} beside it asks for {shapes}; they are not of one run")
    if strange := {str(tensor.dtype) for tensor in tensors.values()} - {str(recipe.torch_dtype)}:
        raise DamagedRun(f"{path} holds {strange}, {RECIPE_FILE} beside it asks for {recipe.dtype}")
