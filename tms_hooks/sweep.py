"""`sweep`: a grid of training runs, on this machine or a cluster, resumable, as one labeled Dataset.

Every combination of settings is one shard: its seeds are trained together, stacked; shards are shared out by joblib.
A finished shard is a run directory in the store, named by its settings, so a sweep that is started again does only
what is left, and two sweeps share what they have in common.
"""

import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import uuid4

import numpy as np
import xarray as xr

from tms_hooks import clusters, files, own
from tms_hooks.config import ToyConfig
from tms_hooks.errors import check_at_least_one, did_you_mean, explained, plain
from tms_hooks.progress import watched
from tms_hooks.run import RECIPE_FILE, Run, load, size
from tms_hooks.train import choose_engine, train
from tms_hooks.training.recipe import KINDS, Recipe, kind_of

log = logging.getLogger(__name__)

USUAL = {"data": "SparseUniform", "task": "Reconstruct", "optimizer": "Adam"}
"""The kind of each part of a recipe that has kinds, where a grid names none."""
SETTINGS = {field.name for field in fields(Recipe)} - {"cfg", "seeds", *KINDS}
"""Arguments of `train` that a grid may set, beside the engine."""


@explained()
def sweep(
    base: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    *,
    seeds: int | Iterable[int] = (0,),
    store: str | Path,
    backend: str = "loky",
    n_jobs: int = -1,
    address: str | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Train every combination of a grid with every seed.

    >>> import tempfile
    >>> base = {"n_features": 5, "d_hidden": 2, "feature_probability": 0.1, "steps": 5}
    >>> with tempfile.TemporaryDirectory() as store:
    ...     found = sweep(base, {"lr": [0.01, 0.1], "tied": [True, False]}, seeds=range(3), store=store, n_jobs=1)
    >>> dict(found.final_loss.sizes)
    {'lr': 2, 'tied': 2, 'seed': 3}

    Settings are named as in `ToyConfig`, the data distribution (`SparseUniform` unless `data` names another), the task
    (`Reconstruct`), the optimizer (`Adam`) and `train`; an axis may be any of them.

    Args:
        base: settings that all runs share.
        grid: axis -> its values.
        seeds: of the models, or how many; all of them in every shard.
        store: folder of the finished shards. What it already has is not trained again.
        backend: where shards run: processes of this machine ("loky"), or a "dask" or "ray" cluster.
        n_jobs: shards at a time; -1: as many as the backend has workers.
        address: of the cluster's scheduler; workers must see `store` under the same path.
        progress: show how many shards are finished; by default if standard error is a terminal.

    Returns:
        Held-out `final_loss` and `final_feature_loss`, `W_E`, and the step at which a model `diverged_at` (-1: never),
        along the grid's axes and `seed`. Where an axis changes a shape, smaller arrays are filled up with NaN. `shard`,
        along the axes, names the run directory of each combination in the store: `load` gives its models and history.
        The attribute `recipe` is JSON: what all shards have in common, defaults too.

    Raises:
        ValueError: an unknown setting or one of another type, an empty axis, one that `base` sets too, a seed twice, or
            settings that `train` refuses: all before any work.
        OSError: nothing can be written to the store, or it has no room, likewise.
        ConnectionError: the cluster does not answer.
    """
    seeds = _seeds(seeds)
    shards = [_shard(dict(base) | point, seeds) for point in _points(base, grid)]
    store = Path(store).resolve()
    todo = [(arguments, store / name) for name, arguments in shards if _finished(store / name) is None]
    log.info("%d of %d shards to train", len(todo), len(shards))
    if todo:
        files.check_writable(store, sum(size(_recipe(arguments)) for arguments, _ in todo))
        store.mkdir(parents=True, exist_ok=True)
        show = sys.stderr.isatty() if progress is None else progress
        what = f"training {len(todo)} of {len(shards)} shards"
        stale = {folder for _, folder in todo if (folder / RECIPE_FILE).exists()}  # damaged ones

        def finished() -> int:
            return sum((folder / RECIPE_FILE).exists() for _, folder in todo if folder not in stale)

        with watched(finished, len(todo), what, show):
            clusters.run(_train, todo, backend, n_jobs, address)
    runs = [load(store / name) for name, _ in shards]
    shared = json.dumps(_shared([run.recipe.to_dict() for run in runs]))
    return _label(grid, [name for name, _ in shards], runs).assign_attrs(recipe=shared)


def sweep_toml(text: str, **how: Any) -> xr.Dataset:
    """`sweep` as a TOML document says: a table `[base]`, a table `[grid]`, and `seeds`: a count, or a list.

    Raises:
        ValueError: no TOML, a key that is none of these, or what `sweep` refuses.
    """
    import tomllib

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"the grid is not TOML: {error}") from error
    known = ("base", "grid", "seeds")
    for name in document.keys() - set(known):
        raise ValueError(f"key {name!r} of the grid file is not known; {did_you_mean(name, known)}")
    for name in ("base", "grid"):
        if not isinstance(table := document.get(name, {}), dict):
            raise ValueError(f"{name}={table!r} in the grid file: must be a table, [{name}] and its settings below")
    return sweep(document.get("base", {}), document.get("grid", {}), seeds=document.get("seeds", 1), **how)


def _shard(settings: Mapping[str, Any], seeds: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    """The name of a shard in the store, and what to call `train` with.

    The same settings, written in any order or left to their defaults, have one name.

    Raises:
        ValueError: a setting that nothing in a run knows, or that `train` would refuse.
    """
    left = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    classes = {"cfg": ToyConfig} | {part: kind_of(part, left.pop(part, usual)) for part, usual in USUAL.items()}
    names = {part: {field.name for field in fields(cls)} for part, cls in classes.items()}
    known = SETTINGS.union({"engine"}, *names.values())
    for name in left.keys() - known:
        raise ValueError(f"setting {name!r} is not known; {did_you_mean(name, sorted(known))}")
    for cls in classes.values():
        needed = {field.name for field in fields(cls) if field.default is field.default_factory is MISSING}
        if absent := ", ".join(sorted(needed - left.keys())):
            raise ValueError(f"settings {dict(settings)}: {cls.__name__} needs {absent}; add it to base, or as an axis")
    hints = _hints(*classes.values())
    for name, value in left.items():
        if not _is_of(value, hints[name]):
            raise ValueError(f"{name}={value!r}: must be {_words(hints[name])}")
    try:
        made = {part: cls(**{n: left[n] for n in left.keys() & names[part]}) for part, cls in classes.items()}
        arguments = made | {name: left[name] for name in left.keys() & SETTINGS} | {"seeds": seeds}
        recipe = Recipe.of(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings {dict(settings)}: {error}") from error
    engine, _ = choose_engine(left.get("engine", "auto"), recipe, "cpu")
    if lone := own.names_in(recipe.to_dict()):
        raise ValueError(
            f"settings {dict(settings)}: {', '.join(lone)} is the user's own, and any process may read a shard: must "
            "be in one of the library's tables; or use `train` and `save`"
        )
    return _name(recipe, engine), arguments | {"engine": engine}


def _name(recipe: Recipe, engine: str) -> str:
    """The name of a shard: a fingerprint of all that decides its bits."""
    return files.fingerprint(json.dumps(recipe.to_dict() | {"engine": engine}, sort_keys=True))[:20]


def _recipe(arguments: Mapping[str, Any]) -> Recipe:
    return Recipe.of(**{name: value for name, value in arguments.items() if name != "engine"})


def _train(arguments: dict[str, Any], folder: Path) -> None:
    """Train and store a shard. One that someone else has finished meanwhile is left alone: it holds the same bits."""
    run = train(progress=False, **arguments)
    if run.stopped:
        raise KeyboardInterrupt
    if _finished(folder) is None:
        if _is_taken(folder):
            folder.rename(folder.with_name(f"{folder.name}.damaged-{uuid4().hex[:8]}"))
        run.save(folder)


def _seeds(seeds: Any) -> tuple[int, ...]:
    """The seeds of every shard: whole numbers, each once, since they are labels of the result; or how many."""
    seeds = plain(seeds)
    if type(seeds) is int:
        check_at_least_one(seeds=seeds)
        seeds = range(seeds)
    if not isinstance(seeds, Iterable) or isinstance(seeds, str):
        raise ValueError(f"seeds={seeds!r}: must be a count, or a list of whole numbers, such as range(10)")
    given = list(seeds)
    for seed in given:
        if not _is_of(seed, int):
            raise ValueError(f"seeds has {seed!r}: must be whole numbers, such as range(10), or a count in a file")
    if len(set(given)) < len(given):
        raise ValueError(f"seeds={given} has a seed twice: give each once")
    return tuple(int(seed) for seed in given)


def _hints(*classes: type) -> dict[str, Any]:
    """The type of every setting, by its name."""
    hints = get_type_hints(train) | {"engine": str}
    for cls in classes:
        hints |= get_type_hints(cls)
    return hints


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a plain value, as TOML or a notebook gives it, is of a setting's type; what no file can hold passes.

    >>> _is_of(1, float), _is_of(True, int), _is_of(2.5, int), _is_of([0.1, 1], float | tuple[float, ...])
    (True, False, False, True)
    """
    if isinstance(value, np.generic):
        value = value.item()
    if get_origin(hint) in (Union, UnionType):
        return any(_is_of(value, each) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return type(value) in {type(choice) for choice in get_args(hint)}  # which one it is is checked elsewhere
    if hint is Any or not (isinstance(value, bool | int | float | str | list | tuple) or value is None):
        return True
    if isinstance(value, list | tuple):
        inner = [each for each in get_args(hint) if each is not Ellipsis]
        return bool(inner) and all(any(_is_of(entry, each) for each in inner) for entry in value)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint or (value is None and hint is type(None))


WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}


def _words(hint: Any) -> str:
    """A setting's type in words.

    >>> _words(int | Sequence[float] | None)
    'a whole number or a list'
    """
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(dict.fromkeys(_words(each) for each in get_args(hint) if each is not type(None)))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return WORDS.get(hint, "a list")


def _points(base: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination, in the order of the axes."""
    for axis, values in grid.items():
        if axis in base:
            raise ValueError(f"axis {axis!r} is set in base too ({base[axis]!r}); set it in one place")
        if axis in ("seed", "seeds"):
            raise ValueError(f"axis {axis!r}: every shard has all seeds; give them as seeds=")
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ValueError(f"axis {axis!r} is {values!r}: give a list of values")
        if len(values) == 0:
            raise ValueError(f"axis {axis!r} is empty: give it at least one value")
        if len({value if isinstance(value, int | float) else repr(value) for value in values}) < len(values):
            raise ValueError(f"axis {axis!r} has a value twice: {list(values)}")
    return [dict(zip(grid, point, strict=True)) for point in product(*grid.values())]


def _finished(folder: Path) -> Run | None:
    """The shard of this name, if the store has it whole."""
    try:
        run = load(folder)
        if _name(run.recipe, run.provenance["engine"]) != folder.name:
            raise files.DamagedRun(f"{folder} holds the run of other settings")
        if run.stopped:
            raise files.DamagedRun(f"{folder} holds a run that was stopped at step {run.completed_steps}")
    except (OSError, ValueError, KeyError) as error:
        if not _is_taken(folder):
            return None
        log.warning("shard %s is damaged (%s): it is set aside and trained again", folder.name, error)
        return None
    return run


def _shared(recipes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is the same in all of these, within their parts too.

    >>> _shared([{"cfg": {"tied": tied, "d_hidden": 2}, "steps": 5} for tied in (True, False)])
    {'cfg': {'d_hidden': 2}, 'steps': 5}
    """
    found = {}
    for name in set.intersection(*map(set, recipes)):
        values = [recipe[name] for recipe in recipes]
        if all(isinstance(value, dict) for value in values):
            found[name] = _shared(values)
        elif all(value == values[0] for value in values):
            found[name] = values[0]
    return dict(sorted(found.items()))


def _is_taken(folder: Path) -> bool:
    """Whether something stands there other than what a killed save has left."""
    return os.path.lexists(folder) and not files.is_left_over(folder / RECIPE_FILE)


def _label(grid: Mapping[str, Sequence[Any]], names: Sequence[str], runs: Sequence[Run]) -> xr.Dataset:
    """One Dataset along the grid's axes and the seeds."""
    shape = tuple(len(values) for values in grid.values())
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    axis = max(run.recipe.cfg.loss_axis for run in runs)  # "output" if it is any's
    for name, dims in (("final_loss", ()), ("final_feature_loss", (axis,)), ("W_E", ("feature", "hidden"))):
        parts = [getattr(run, name).numpy() for run in runs]
        largest = np.max([part.shape for part in parts], axis=0)
        filled = np.full((len(runs), *largest), np.nan, dtype=np.result_type(*parts))
        for whole, part in zip(filled, parts, strict=True):
            whole[tuple(slice(size) for size in part.shape)] = part
        variables[name] = ((*grid, "seed", *dims), filled.reshape(*shape, *largest))
    stopped = [[run.diverged.get(i, -1) for i in range(len(run.models))] for run in runs]
    variables["diverged_at"] = ((*grid, "seed"), np.array(stopped).reshape(*shape, -1))
    variables["shard"] = (tuple(grid), np.array(names).reshape(shape))
    coords: dict[str, Any] = {"seed": list(runs[0].recipe.seeds)}
    for axis, values in grid.items():
        coords[axis] = [v if isinstance(v, int | float | str | np.generic) else str(v) for v in values]
    return xr.Dataset(variables, coords=coords)
