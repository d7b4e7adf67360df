"""Checkpoints: what a run needs to go on to the same bits, safe from whatever stops it, at whatever moment.

A checkpoint is a safetensors file and, written after it, a JSON file with its checksum: a JSON file that is there
belongs to a safetensors file that is whole. Two checkpoints stay on disk, so that there is one to go back to if the
newest is damaged, by a lost disk block say. One process at a time trains with a folder.
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from tms_hooks import files
from tms_hooks.training.history import Recorder, shapes
from tms_hooks.training.recipe import Recipe
from tms_hooks.training.state import State

log = logging.getLogger(__name__)

FORMAT = "tms-hooks checkpoint, version 3"
ON_DISK = 2
"""Checkpoints that stay."""


class Checkpoints:
    """The checkpoints of one run in one folder.

    Args:
        folder: made if it is not there.
        recipe, engine, initial: what decides the run's bits. A folder with checkpoints of anything else is refused.
        every: least seconds between two checkpoints. The last is always written.

    Raises:
        ValueError: the folder holds another run's checkpoints; the message shows the difference.
    """

    def __init__(self, folder: str | Path, recipe: Recipe, engine: str, initial: State, every: float) -> None:
        self.folder, self.every = Path(folder), every
        run = recipe.to_dict() | {"engine": engine, "initial_weights": files.fingerprint(save(initial.tensors()))}
        self.run: dict[str, Any] = json.loads(json.dumps(run))
        self.written_at = time.monotonic()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only one that trains with this folder, and sweep up what killed ones left in it.

        Raises:
            TimeoutError: another process does, which the message names.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with files.lock(self.folder / "checkpoints", wait=0.0):
            files.sweep_up(self.folder / "checkpoints")
            for part in self.folder.glob("[0-9]*.safetensors"):
                if not part.with_name(part.name.split(".")[0] + ".json").exists():
                    part.unlink()
            yield

    def save(self, state: State, recorder: Recorder, last: bool) -> None:
        """Write a checkpoint if it is time for one."""
        if not last and time.monotonic() - self.written_at < self.every:
            return
        tensors = state.tensors() | {f"history.{name}": array for name, array in recorder.arrays().items()}
        about = {"run": self.run, "steps": [step for step, _ in recorder.records]}
        path = self.folder / f"{len(recorder.records):08}.json"
        files.write_sealed(path, FORMAT, about, {path.stem: tensors})
        for old in _newest_first(self.folder)[ON_DISK:]:
            old.unlink()
            for part in self.folder.glob(f"{old.stem}.*safetensors"):
                part.unlink()
        self.written_at = time.monotonic()

    def resume(self, state: State, recorder: Recorder) -> int | None:
        """Bring state and history to the newest whole checkpoint; return the step they are at, None without one."""
        found = newest(self.folder)
        if found is None:
            return None
        about, tensors = found
        if about["run"] != self.run:
            raise ValueError(
                f"{self.folder} holds checkpoints of another run: {_difference(about['run'], self.run)}; "
                "use its settings, or another checkpoint folder"
            )
        saved = State.of_tensors(tensors, state.diverged_at.device)
        state.weights, state.moments, state.diverged_at = saved.weights, saved.moments, saved.diverged_at
        recorder.records = records(about, tensors, recorder.recipe)
        return reached(about, recorder.recipe)


def newest(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """What the newest whole checkpoint of a folder says of itself, and its tensors; None without one."""
    for path in _newest_first(folder):
        try:
            about, parts = files.read_sealed(path, FORMAT)
        except (OSError, files.DamagedRun) as error:
            log.warning("checkpoint %s is damaged (%s); trying the one before it", path, error)
            continue
        log.info("resuming from %s", path)
        return about, parts[path.stem]
    return None


def records(about: dict[str, Any], tensors: dict[str, Tensor], recipe: Recipe) -> list[tuple[int, dict[str, Tensor]]]:
    """The records of a checkpoint."""
    names = shapes(recipe, 1)
    return [(step, {name: tensors[f"history.{name}"][i] for name in names}) for i, step in enumerate(about["steps"])]


def reached(about: dict[str, Any], recipe: Recipe) -> int:
    """The step of a checkpoint's weights: the next that is recorded after its last record."""
    return next((step for step in recipe.record_steps() if step > about["steps"][-1]), recipe.total_steps)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.json"), reverse=True)


def _difference(saved: dict[str, Any], given: dict[str, Any], prefix: str = "") -> str:
    """Every setting that differs, as `name=saved there, given here`."""
    parts = []
    for name in sorted(saved.keys() | given.keys()):
        there, here = saved.get(name), given.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            if there != here:
                parts.append(_difference(there, here, f"{prefix}{name}."))
        elif there != here:
            parts.append(f"{prefix}{name}={there!r} there, {here!r} here")
    return "; ".join(parts)
