"""`sweep`: a grid of training runs, on this machine or a cluster, resumable, as one labelled Dataset.

Every combination of settings is one shard: its seeds are trained together, stacked; shards are shared out by joblib.
A finished shard is a run directory in the store, named by its settings, so a sweep that is started again does only
what is left, and two sweeps share what they have in common.
"""

import hashlib
import json
import logging
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from inspect import signature
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tms_hooks.config import ToyConfig
from tms_hooks.data import DISTRIBUTIONS, Distribution
from tms_hooks.errors import choice_error, did_you_mean
from tms_hooks.run import Run, load
from tms_hooks.train import choose_engine, make_recipe, train
from tms_hooks.training.optimizers import OPTIMIZERS, Optimizer

log = logging.getLogger(__name__)

BACKENDS = ("loky", "dask", "ray")
DEFAULTS = {
    name: parameter.default
    for name, parameter in signature(train).parameters.items()
    if name not in ("cfg", "data", "seeds", "init", "checkpoint", "checkpoint_every", "progress", "device")
}
"""Arguments of `train` that a grid may set."""
SCALARS = (int, float, str, bool, np.generic, type(None))


def sweep(
    base: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    *,
    seeds: Iterable[int] = (0,),
    store: str | Path,
    backend: str = "loky",
    n_jobs: int = -1,
    address: str | None = None,
) -> xr.Dataset:
    """Train every combination of a grid with every seed.

    >>> import tempfile
    >>> base = {"n_features": 5, "d_hidden": 2, "feature_probability": 0.1, "steps": 5}
    >>> with tempfile.TemporaryDirectory() as store:
    ...     found = sweep(base, {"lr": [0.01, 0.1], "tied": [True, False]}, seeds=range(3), store=store, n_jobs=1)
    >>> dict(found.final_loss.sizes)
    {'lr': 2, 'tied': 2, 'seed': 3}

    Settings are named as in `ToyConfig`, the data distribution (`SparseUniform` unless `data` names another), the
    optimizer (`Adam` unless `optimizer` names another) and `train`; an axis may be any of them.

    Args:
        base: settings that all runs share.
        grid: axis -> its values.
        seeds: of the models; all of them in every shard.
        store: folder of the finished shards. What it already has is not trained again.
        backend: where shards run: processes of this machine ("loky"), or a "dask" or "ray" cluster.
        n_jobs: shards at a time; -1: as many as the backend has workers.
        address: of the cluster's scheduler; workers must see `store` under the same path.

    Returns:
        Held-out `final_loss` and `final_feature_loss`, `W_E`, and the step at which a model `diverged_at` (-1: never),
        along the grid's axes and `seed`. Where an axis changes a shape, smaller arrays are filled up with NaN.

    Raises:
        ValueError: an unknown setting, an empty axis, one that `base` sets too, or settings that `train` refuses: all
            before any work.
        ConnectionError: the cluster does not answer.
    """
    seeds = tuple(int(seed) for seed in seeds)
    shards = [_Shard(dict(base) | point, seeds) for point in _points(base, grid)]
    folders = [Path(store) / shard.name() for shard in shards]
    todo = [(shard, folder) for shard, folder in zip(shards, folders, strict=True) if not _finished(folder)]
    log.info("%d of %d shards to train", len(todo), len(shards))
    if todo:
        Path(store).mkdir(parents=True, exist_ok=True)
        _share_out(todo, backend, n_jobs, address)
    runs = [load(folder) for folder in folders]
    return _label(grid, runs)


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
    seeds = document.get("seeds", 1)
    return sweep(
        document.get("base", {}),
        document.get("grid", {}),
        seeds=range(seeds) if isinstance(seeds, int) else seeds,
        **how,
    )


class _Shard:
    """Settings of one run, and what they make."""

    def __init__(self, settings: Mapping[str, Any], seeds: tuple[int, ...]) -> None:
        self.settings = {name: v.item() if isinstance(v, np.generic) else v for name, v in settings.items()}
        self.seeds = seeds

    def parts(self) -> tuple[ToyConfig, Distribution, dict[str, Any]]:
        """Config, data, and the arguments of `train`.

        Raises:
            ValueError: a setting that none of them knows, or an impossible value.
        """
        left = dict(self.settings)
        data = _choose("data", left.pop("data", "SparseUniform"), DISTRIBUTIONS)
        optimizer = _choose("optimizer", left.pop("optimizer", "Adam"), OPTIMIZERS)
        names = [{f.name for f in fields(kind)} for kind in (ToyConfig, data, optimizer)] + [set(DEFAULTS)]
        known = set().union(*names)
        for name in left.keys() - known:
            raise ValueError(f"setting {name!r} is not known; {did_you_mean(name, sorted(known))}")
        cfg, distribution, rates, training = ({k: v for k, v in left.items() if k in part} for part in names)
        try:
            made: Optimizer = optimizer(**rates)
            return ToyConfig(**cfg), data(**distribution), training | {"optimizer": made}
        except (TypeError, ValueError) as error:
            raise ValueError(f"settings {self.settings}: {error}") from error

    def name(self) -> str:
        """Where the store keeps it: the same settings, written in any order or left to their defaults, have one name.

        Raises:
            ValueError: settings that `train` would refuse.
        """
        cfg, data, training = self.parts()
        said = DEFAULTS | training
        engine = said.pop("engine")
        try:
            recipe = make_recipe(cfg, data, seeds=self.seeds, **said)
        except (TypeError, ValueError) as error:
            raise ValueError(f"settings {self.settings}: {error}") from error
        plain = recipe.to_dict() | {"engine": choose_engine(engine, recipe, "cpu")}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:20]

    def train(self, folder: Path) -> None:
        """Train and store. A shard that someone else has finished meanwhile is left alone: it holds the same bits."""
        cfg, data, training = self.parts()
        run = train(cfg, data, seeds=self.seeds, progress=False, **training)
        if run.completed_steps < run.recipe.total_steps:
            raise KeyboardInterrupt
        if not _finished(folder):
            run.save(folder)


def _choose(what: str, name: Any, kinds: Mapping[str, Any]) -> Any:
    if name not in kinds:
        raise choice_error(what, name, kinds)
    return kinds[name]


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
        if len({repr(value) for value in values}) < len(values):
            raise ValueError(f"axis {axis!r} has a value twice: {list(values)}")
    return [dict(zip(grid, point, strict=True)) for point in product(*grid.values())]


def _finished(folder: Path) -> bool:
    """Whether the store has this shard, whole."""
    try:
        load(folder)
    except FileNotFoundError:
        return False
    except ValueError as error:
        log.warning("shard %s is damaged (%s): training it again", folder.name, error)
        return False
    return True


def _share_out(todo: Sequence[tuple[Any, Path]], backend: str, n_jobs: int, address: str | None) -> None:
    """Train shards on a joblib backend."""
    import joblib

    if backend not in BACKENDS:
        raise choice_error("backend", backend, BACKENDS)
    if address is not None and backend == "loky":
        raise ValueError(f"address={address!r} with backend='loky': only a dask or ray cluster has one")
    jobs = [joblib.delayed(_Shard.train)(shard, folder.resolve()) for shard, folder in todo]
    if backend == "dask":
        with _dask_client(address), joblib.parallel_config("dask"):
            joblib.Parallel(n_jobs=n_jobs)(jobs)
    elif backend == "ray":
        with _ray(address), joblib.parallel_config("ray", n_jobs=n_jobs):
            joblib.Parallel()(jobs)
    else:
        joblib.Parallel(n_jobs=n_jobs)(jobs)


def _dask_client(address: str | None) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("backend='dask' needs dask: pip install 'tms-hooks[sweep]'") from None
    if address is None:
        return Client(processes=True, threads_per_worker=1, dashboard_address=None)
    try:
        return Client(address, timeout="10s")
    except OSError as error:
        raise ConnectionError(
            f"no dask scheduler answers at {address} ({error}); is it running, is the port open, is the address right?"
        ) from error


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """A Ray cluster as a joblib backend: the one this process has joined, or one joined (or started) for the sweep."""
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError:
        raise ValueError("backend='ray' needs ray: pip install 'ray[default]'") from None
    register_ray()
    if ray.is_initialized():
        if address is not None:
            raise ValueError(
                f"address={address!r}, but this process has joined a ray cluster already: leave address out, "
                "or call ray.shutdown() first"
            )
        yield
        return
    if address is not None:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if not (host and port.isdigit()):
            raise ValueError(f"address={address!r}: write host:port, or ray://host:port for a ray client")
        try:  # ray itself goes on trying for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConnectionError(
                f"no ray cluster answers at {address} ({error}); is it running, is the port open, is the address right?"
            ) from error
    ray.init(address=address)
    try:
        yield
    finally:
        ray.shutdown()


def _label(grid: Mapping[str, Sequence[Any]], runs: Sequence[Run]) -> xr.Dataset:
    """One Dataset along the grid's axes and the seeds."""
    shape = tuple(len(values) for values in grid.values())
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for name, dims in (
        ("final_loss", ()),
        ("final_feature_loss", ("feature",)),
        ("W_E", ("feature", "hidden")),
    ):
        parts = [getattr(run, name).numpy() for run in runs]
        largest = np.max([part.shape for part in parts], axis=0)
        filled = np.full((len(runs), *largest), np.nan, dtype=np.result_type(*parts))
        for whole, part in zip(filled, parts, strict=True):
            whole[tuple(slice(size) for size in part.shape)] = part
        variables[name] = ((*grid, "seed", *dims), filled.reshape(*shape, *largest))
    stopped = [[run.diverged.get(seed, -1) for seed in run.recipe.seeds] for run in runs]
    variables["diverged_at"] = ((*grid, "seed"), np.array(stopped).reshape(*shape, -1))
    coords: dict[str, Any] = {"seed": list(runs[0].recipe.seeds)}
    for axis, values in grid.items():
        coords[axis] = [v if isinstance(v, SCALARS) and v is not None else str(v) for v in values]
    return xr.Dataset(variables, coords=coords)
