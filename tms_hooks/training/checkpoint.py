"""Checkpoints: what a run needs to go on to the same bits, safe from whatever stops it, at whatever moment.

A checkpoint is a safetensors file and, written after it, a JSON file with its checksum: a JSON file that is there
belongs to a safetensors file that is whole. Two checkpoints stay on disk, so that there is one to go back to if the
newest is damaged, by a lost disk block say.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from tms_hooks import files
from tms_hooks.training.history import Recorder, shapes
from tms_hooks.training.recipe import Recipe
from tms_hooks.training.state import State

log = logging.getLogger(__name__)

FORMAT = "tms-hooks checkpoint, version 2"
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
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: State, recorder: Recorder, last: bool) -> None:
        """Write a checkpoint if it is time for one."""
        if not last and time.monotonic() - self.written_at < self.every:
            return
        data = save(state.tensors() | {f"history.{name}": array for name, array in recorder.arrays().items()})
        about = {
            "format": FORMAT,
            "run": self.run,
            "steps": [step for step, _ in recorder.records],
            "sha256": files.fingerprint(data),
        }
        path = self.folder / f"{len(recorder.records):08}.json"
        files.write_whole(path.with_suffix(".safetensors"), data)
        files.write_whole(path, json.dumps(about, indent=1))
        for old in _newest_first(self.folder)[ON_DISK:]:
            old.unlink()
            old.with_suffix(".safetensors").unlink(missing_ok=True)
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
            about = files.read_json(path, FORMAT)
            tensors = files.read_tensors(path.with_suffix(".safetensors"), about["sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("checkpoint %s is damaged (%s); trying the one before it", path, error)
            continue
        log.info("resuming from %s", path)
        return about, tensors
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
