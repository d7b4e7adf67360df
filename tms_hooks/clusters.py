"""Where a sweep's jobs run: processes of this machine, or a dask or ray cluster, all through joblib."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from tms_hooks.errors import check_installed, choice_error

BACKENDS = ("loky", "dask", "ray")


def run(
    work: Callable[..., None], arguments: Sequence[tuple[Any, ...]], backend: str, n_jobs: int, address: str | None
) -> None:
    """Call `work` with each of these arguments, `n_jobs` calls at a time (-1: as many as there are workers).

    Raises:
        ValueError: an unknown backend, one that is not installed, or an address that it has no use for.
        ConnectionError: the cluster does not answer.
    """
    check_installed("joblib", "sweep")
    import joblib

    if backend not in BACKENDS:
        raise choice_error("backend", backend, BACKENDS)
    if address is not None and backend == "loky":
        raise ValueError(f"address={address!r} with backend='loky': only a dask or ray cluster has one")
    # Only on this machine: a cluster's worker may outlive the shell that started it.
    jobs = [joblib.delayed(_beside)(os.getpid() if backend == "loky" else None, work, *each) for each in arguments]
    clusters: dict[str, Any] = {"loky": nullcontext, "dask": _dask_client, "ray": _ray}
    with clusters[backend](address), joblib.parallel_config(backend, n_jobs=n_jobs):
        joblib.Parallel()(jobs)


def end_with(parent: int) -> None:
    """End this process soon after the one that started it ends, whatever ended that."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _beside(parent: int | None, work: Callable[..., None], *arguments: Any) -> None:
    """Work in a process that ends with its parent."""
    if parent is not None and parent not in (os.getpid(), *_watched):
        end_with(parent)
        _watched.add(parent)
    work(*arguments)


_watched: set[int] = set()


def _dask_client(address: str | None) -> Any:
    check_installed("distributed", "sweep")
    from distributed import Client

    if address is None:
        return Client(processes=True, threads_per_worker=1, dashboard_address=None)
    with _answers("dask scheduler", address):
        return Client(address, timeout="10s")


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
        with _answers("ray cluster", address):  # ray itself goes on trying for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
    ray.init(address=address)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _answers(what: str, address: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConnectionError(
            f"no {what} answers at {address} ({error}); is it running, is the port open, is the address right?"
        ) from error
