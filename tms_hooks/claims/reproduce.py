"""`tms reproduce`: measure claims side by side, one process each, and store every one that is finished."""

import hashlib
import logging
import os
import signal
import subprocess
import traceback
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NamedTuple

from tms_hooks import files
from tms_hooks.claims.registry import Claim
from tms_hooks.claims.verdict import Verdict
from tms_hooks.clusters import end_with

log = logging.getLogger(__name__)

FORMAT = "tms-hooks claim, version 5"
PACKAGES = ("tms_hooks", "probes")
RESULTS = "verdicts"
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
"""One thread per worker, whatever the number of workers: a sum must not depend on how it was shared out."""


class Result(NamedTuple):
    """A claim with its verdict, or with why there is none."""

    claim: Claim
    verdict: Verdict | None
    not_run: str = ""
    """What the claim needs and this machine lacks."""
    failed: str = ""
    """The traceback of an error in the claim's own code, or why its verdict could not be stored."""
    stored: bool = False
    """Whether an earlier run with this code had finished it."""

    @property
    def outcome(self) -> str:
        """What became of the claim, or "not run", or "failed"."""
        return self.verdict.verdict if self.verdict else "failed" if self.failed else "not run"

    @property
    def summary(self) -> str:
        """What came out, in words."""
        if self.verdict:
            return self.verdict.paragraph
        return f"Failed: {self.failed.strip().splitlines()[-1]}" if self.failed else f"Not run: {self.not_run}"


@cache
def code_version() -> str:
    """A fingerprint of the code of both packages: any change of it makes earlier results stale."""
    digest = hashlib.sha256()
    here = Path(__file__).parents[2]
    for path in sorted(path for package in PACKAGES for path in (here / package).rglob("*.py")):
        digest.update(f"{path.relative_to(here)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def commit() -> str:
    """The commit that this code, and with it what every claim promises, is from; empty outside a checkout.

    A checkout in which the code was changed since says so.
    """
    here = Path(__file__).parents[2]
    try:
        found = _git(here, "rev-parse", "--short=12", "HEAD")
        return found + (" with changes" if _git(here, "status", "--porcelain", "--", *PACKAGES) else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *command: str) -> str:
    return subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def reproduce(
    claims: Sequence[Claim],
    out: Path,
    quick: bool = False,
    n_jobs: int = 1,
    seed: int = 0,
    started: Callable[[Claim], None] = lambda claim: None,
) -> Generator[Result, None, None]:
    """Measure claims in `n_jobs` processes, and yield each result when it is finished: first those found in `out`.

    What a claim finds depends neither on `n_jobs` nor on the other claims. Those of a family share trained models and
    compiled kernels, so a worker keeps to its family while that has claims, and families and claims that take longest
    come first: see `next_claim`. How long is what it took the last time, or else what the claim declares. An error in a
    claim is its result, and the others go on. Closing the generator stops the workers at once; what is finished stays
    in `out`.

    Args:
        claims: of functions that another process can import.
        out: folder of the finished claims.
        quick: at the smaller size.
        n_jobs: processes, at least 1.
        seed: the first model's, of every claim.
        started: called with each claim when a worker begins it.
    """
    if n_jobs < 1:
        raise ValueError(f"n_jobs={n_jobs}: at least one process must do the work; give n_jobs=1 or more")
    seconds: dict[str, float] = {}
    for claim in claims:
        earlier = last(claim, out)
        if earlier and (earlier.size, earlier.code, earlier.verdict.seed) == (claim.size(quick), code_version(), seed):
            yield Result(claim, earlier.verdict, stored=True)
        else:
            same_size = earlier and earlier.size == claim.size(quick)
            seconds[claim.name] = earlier.verdict.seconds if earlier and same_size else float(claim.seconds)
    waiting = [claim for claim in claims if claim.name in seconds]
    workers: dict[Connection, SpawnProcess] = {}
    busy: dict[Connection, Claim] = {}
    families: dict[Connection, str] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < n_jobs:
                if len(busy) == len(workers):
                    _hire(workers)
                pipe = next(pipe for pipe in workers if pipe not in busy)
                others = {families[other] for other in busy}
                busy[pipe] = claim = next_claim(waiting, seconds, families.get(pipe), others)
                waiting.remove(claim)
                families[pipe] = claim.family
                pipe.send((claim, out, quick, seed))
                started(claim)
            wait(list(busy))
            for pipe in [pipe for pipe in busy if pipe.poll()]:
                claim = busy.pop(pipe)
                try:
                    yield pipe.recv()
                except EOFError:
                    dead = workers.pop(pipe)
                    dead.join()
                    why = f"its process ended with exit code {dead.exitcode}; was memory short?"
                    yield Result(claim, None, failed=why)
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join()


def next_claim(
    waiting: Sequence[Claim], seconds: Mapping[str, float], family: str | None, others: Collection[str]
) -> Claim:
    """The longest of its family for a worker whose last claim was of `family`; then of what would take longest.

    That is the family with most left to do, first among those that no other worker is at.
    """
    left: dict[str, float] = {}
    for claim in waiting:
        left[claim.family] = left.get(claim.family, 0.0) + seconds[claim.name]
    if family not in left:
        family = max(left, key=lambda name: (name not in others, left[name]))
    return max((claim for claim in waiting if claim.family == family), key=lambda claim: seconds[claim.name])


def settle(claim: Claim, out: Path, quick: bool, seed: int = 0) -> Result:
    """Measure one claim here and store it; without what it needs it is not run, and an error in it is its result."""
    try:
        verdict = replace(claim.run(quick, seed), commit=commit())
    except (ImportError, ConnectionError) as error:
        return Result(claim, None, not_run=str(error))
    except Exception:
        return Result(claim, None, failed=traceback.format_exc())
    plain = {"code": code_version(), "size": claim.size(quick), "verdict": verdict.to_json()}
    try:
        files.rescue(_place(claim, out), lambda path: files.write_sealed(path, FORMAT, plain))
    except OSError as error:
        return Result(claim, verdict, failed=str(error))
    return Result(claim, verdict)


class Stored(NamedTuple):
    """A finished claim on disk."""

    verdict: Verdict
    size: int
    code: str


def last(claim: Claim, out: Path) -> Stored | None:
    """The last verdict on this claim under `out`, of whatever code and size. A damaged one is none, and said so."""
    path = _place(claim, out)
    if not os.path.lexists(path):
        return None
    try:
        plain, _ = files.read_sealed(path, FORMAT)
        found = Stored(Verdict.from_json(plain["verdict"]), int(plain["size"]), str(plain["code"]))
        if found.verdict.claim != claim.name:
            raise files.DamagedRun(f"{path} holds the verdict on {found.verdict.claim}")
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        log.warning("the stored verdict on %s cannot be read (%s): the claim counts as not measured", claim.name, error)
        return None
    return found


def _place(claim: Claim, out: Path) -> Path:
    return out / RESULTS / f"{claim.name}.json"


def _hire(workers: dict[Connection, SpawnProcess]) -> None:
    """One more worker, a fresh process: a fork of one that has threads may hang."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, os.getpid()), daemon=True)
    before = {name: os.environ[name] for name in ONE_THREAD if name in os.environ}
    os.environ |= ONE_THREAD  # read when libraries are loaded
    try:
        process.start()
    finally:
        for name in ONE_THREAD:
            del os.environ[name]
        os.environ |= before
    theirs.close()  # else its end would not be noticed
    workers[ours] = process


def _work(pipe: Connection, employer: int) -> None:
    """Settle one claim after another, until nobody asks for more or the process that asks is gone."""
    end_with(employer)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C would end a training early, and its claim be judged on that
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # progress bars would tear the table of claims
        while True:
            try:
                claim, out, quick, seed = pipe.recv()
            except EOFError:
                return
            pipe.send(settle(claim, out, quick, seed))
