"""What becomes of saved work that is damaged, whose writer is killed, whose disk is full, or that two processes share.

    python -m tests.trust          prints the table of docs/trust.md
    python -m tests.trust write    writes it there

*Lost* is work that was finished and cannot be had any more, or what is left lying about. *Silent* is a result that
differs from what was saved without a word. *Crashed* is an error that is not ours: it does not say what is wrong with
which file.
"""

import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

import tms_hooks as tms
from tms_hooks import files
from tms_hooks.claims import Claim, Verdict, share
from tms_hooks.claims import reproduce as runner

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "trust.md"
CFG, DATA = tms.ToyConfig(n_features=4, d_hidden=2), tms.SparseUniform(n_features=4, feature_probability=0.3)
GRID = {"n_features": 4, "d_hidden": 2, "steps": 4, "batch_size": 8, "engine": "torch"}


class Row(NamedTuple):
    """One kind of mishap: how often it was tried, and how often it ended badly."""

    what: str
    tried: int
    lost: int = 0
    silent: int = 0
    crashed: int = 0


def train(seed: int = 0, **more: Any) -> tms.Run:
    settings = {"seeds": (seed, seed + 1), "steps": 30, "batch_size": 16, "record_every": 5, "engine": "torch"}
    return tms.train(CFG, DATA, progress=False, **settings | more)


def content(run: tms.Run) -> tuple[Any, ...]:
    """All that a run says, but for how long it took."""
    arrays = [run.weights[name].numpy().tobytes() for name in sorted(run.weights)]
    arrays += [run.history.variables[name].values.tobytes() for name in sorted(run.history.variables)]
    arrays.append(run.final_feature_loss.numpy().tobytes())
    return (run.recipe, run.diverged, run.completed_steps, run.provenance["engine"], *arrays)


# Damage


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    place = chance.randrange(8 * len(data))
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)


def shorten(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def lengthen(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randint(1, 64)))


def zero(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = chance.randrange(len(data))
    data[start : start + 512] = bytes(len(data[start : start + 512]))
    path.write_bytes(data)


def change_digit(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()] or [0]
    place = chance.choice(digits)
    data[place] = ord("0") + (data[place] + 1) % 10
    path.write_bytes(data)


def remove(path: Path, chance: random.Random) -> None:
    path.unlink()


def link(path: Path, chance: random.Random) -> None:
    outside = path.parent.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def pipe(path: Path, chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def swap(path: Path, chance: random.Random) -> None:
    """The file of another run, checkpoint or claim in its place."""
    others = sorted((path.parent.parent / "other").iterdir())
    shutil.copy(next(f for f in others if (f.name[:8], f.suffix) == (path.name[:8], path.suffix)), path)


DAMAGE: dict[str, tuple[Callable[[Path, random.Random], None], ...]] = {
    "one bit flipped": (flip,),
    "one digit changed": (change_digit,),
    "cut off, or longer": (shorten, lengthen),
    "512 bytes zero": (zero,),
    "missing, a link, a pipe": (remove, link, pipe),
    "swapped with another's": (swap,),
}


def damaged(
    what: str, saved: Path, other: Path, read: Callable[[Path], Any], chance: random.Random, tries: int
) -> Iterator[Row]:
    """`read` a folder's copy after each kind of damage to one of its files, `tries` times for each file."""
    wanted = read(saved)
    for kind, ways in DAMAGE.items():
        ends: Counter[str] = Counter()
        for name in sorted(file.name for file in saved.iterdir()):
            for number in range(tries):
                with tempfile.TemporaryDirectory() as folder:
                    copy = Path(folder, saved.name)
                    shutil.copytree(saved, copy)
                    shutil.copytree(other, Path(folder, "other"))
                    before = (copy / name).read_bytes()
                    ways[number % len(ways)](copy / name, chance)
                    untouched = (copy / name).is_file() and (copy / name).read_bytes() == before
                    ends["tried"] += not untouched or link in ways
                    try:
                        found = read(copy)
                    except (files.DamagedRun, FileNotFoundError):
                        continue
                    except Exception:
                        ends["crashed"] += 1
                    else:
                        ends["silent"] += found != wanted
        yield Row(f"{what}: {kind}", ends["tried"], silent=ends["silent"], crashed=ends["crashed"])


# Kinds


def of_runs(folder: Path, chance: random.Random, tries: int) -> Iterator[Row]:
    saved, other = train(0).save(folder / "run"), train(7).save(folder / "other-run")
    yield from damaged("run", saved, other, lambda path: content(tms.load(path)), chance, tries)


def of_checkpoints(folder: Path, chance: random.Random, tries: int) -> Iterator[Row]:
    """Training goes on from a damaged folder; whatever it makes of it, the result must be the uninterrupted one."""
    train(0, checkpoint=folder / "kept", checkpoint_every=0.0)
    train(7, checkpoint=folder / "other-kept", checkpoint_every=0.0)
    kept, other = folder / "kept", folder / "other-kept"
    yield from damaged("checkpoints", kept, other, lambda path: content(train(0, checkpoint=path)), chance, tries)


def of_sweeps(folder: Path, chance: random.Random, tries: int) -> Iterator[Row]:
    """A damaged shard is trained again: the sweep ends with the same numbers, and says so."""
    grid = {"feature_probability": [0.1, 0.5]}
    wanted = tms.sweep(GRID, grid, store=folder / "store", n_jobs=1)
    first, second = sorted((folder / "store").iterdir())
    for kind, ways in DAMAGE.items():
        ends: Counter[str] = Counter()
        for number in range(tries):
            with tempfile.TemporaryDirectory() as copy, said() as words:
                store = Path(copy, "store")
                shutil.copytree(folder / "store", store)
                (Path(copy) / "store" / "other").symlink_to(store / second.name)
                hurt = chance.choice(sorted((store / first.name).iterdir()))
                ways[number % len(ways)](hurt, chance)
                ends["tried"] += 1
                try:
                    same = tms.sweep(GRID, grid, store=store, n_jobs=1).identical(wanted)
                except Exception:
                    ends["crashed"] += 1
                    continue
                ends["lost"] += not same
                ends["silent"] += not any("trained again" in word for word in words)
        yield Row(f"sweep: {kind}", ends["tried"], ends["lost"], ends["silent"], ends["crashed"])


def of_claims(folder: Path, chance: random.Random, tries: int) -> Iterator[Row]:
    """A damaged verdict counts as none, so that it is measured again."""

    def measure(n_models: int) -> Verdict:
        """It holds. Statistic: a share. Threshold: above 1/2. Null: none. Size: 3 or 30. Controls: none."""
        return Verdict(parts={"all": share("The share", (8, 10))}, n_models=10, controls={}, detail="")

    claims = [Claim(name, "H", 3, 30, measure) for name in ("claim", "stranger")]
    for claim, place in zip(claims, ("kept", "other-kept"), strict=True):
        runner.settle(claim, folder / place, quick=True)
    wanted, others = folder / "kept" / runner.RESULTS, folder / "other-kept" / runner.RESULTS
    (others / "stranger.json").rename(others / "claim.json")

    def read(path: Path) -> Any:
        with tempfile.TemporaryDirectory() as place:
            shutil.copytree(path, Path(place, runner.RESULTS), symlinks=True, copy_function=_copy)
            found = runner.last(claims[0], Path(place))
        if found is None:
            raise files.DamagedRun("measured again")
        return found

    yield from damaged("claim", wanted, others, read, chance, tries)


def _copy(source: str, target: str) -> None:
    """A pipe is copied as a pipe: reading it would wait for ever."""
    if Path(source).is_fifo():
        os.mkfifo(target)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


@contextmanager
def forked(work: Callable[[], Any]) -> Iterator[int]:
    """A process that does this work, if it is not killed before; at the latest it is at the end."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def save_again_and_again(path: Path, runs: list[tms.Run]) -> None:
    while True:
        for run in runs:
            run.save(path)


def train_long(folder: Path | None, steps: int = 1000) -> tms.Run:
    return train(0, steps=steps, record_every=10, checkpoint=folder, checkpoint_every=0.0)


@contextmanager
def said() -> Iterator[list[str]]:
    """What the library warns of meanwhile."""
    words: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: words.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("tms_hooks").addHandler(handler)
    try:
        yield words
    finally:
        logging.getLogger("tms_hooks").removeHandler(handler)


def kills(folder: Path, chance: random.Random, tries: int) -> Iterator[Row]:
    """SIGKILL while a run is saved, at first and over another, and while a run is trained."""
    runs = [train(seed) for seed in (0, 7)]
    wanted, ends = [content(run) for run in runs], Counter[str]()
    for number in range(tries):
        path = folder / f"run-{number}"
        if number % 2:
            runs[0].save(path)
        with forked(lambda path=path: save_again_and_again(path, runs)):  # type: ignore[misc]
            time.sleep(chance.uniform(0.0, 0.1))
        try:
            ends["silent"] += content(tms.load(path)) not in wanted
        except FileNotFoundError:
            ends["lost"] += number % 2  # else it may have been killed before it had saved anything
        except ValueError:
            ends["lost"] += 1
        runs[0].save(path)
        ends["lost"] += len(list(path.iterdir())) != 4
    yield Row("killed while saving", tries, ends["lost"], ends["silent"])

    whole, ends = content(train_long(None)), Counter()
    for number in range(0, tries, 4):
        kept = folder / f"kept-{number}"
        for _ in range(4):
            with forked(lambda kept=kept: train_long(kept)):  # type: ignore[misc]
                time.sleep(chance.uniform(0.0, 0.4))
            ends["tried"] += 1
        ends["silent"] += content(train_long(kept)) != whole
        ends["lost"] += len(list(kept.iterdir())) != 4
    yield Row("killed while training, then gone on", ends["tried"], ends["lost"], ends["silent"])


def full_disks(folder: Path, chance: random.Random, tries: int) -> Iterator[Row]:
    """No file may grow beyond a size that is too small for the run: the earlier one stays, with nothing beside it."""
    old, new = train(0), train(7)
    path = old.save(folder / "full")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = max(file.stat().st_size for file in path.iterdir())
    ends: Counter[str] = Counter()
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for _ in range(tries):
        resource.setrlimit(resource.RLIMIT_FSIZE, (chance.randrange(most), limit[1]))
        try:
            new.save(path)
        except OSError as error:
            ends["crashed"] += "could not be written" not in str(error)
        else:
            ends["silent"] += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        ends["lost"] += content(tms.load(path)) != content(old) or len(list(path.iterdir())) != 4
    signal.signal(signal.SIGXFSZ, before)
    yield Row("disk full while saving over a run", tries, ends["lost"], ends["silent"], ends["crashed"])


def two_processes(folder: Path, chance: random.Random, tries: int) -> Iterator[Row]:
    """Two processes save to one place while this one reads; two train with one folder of checkpoints."""
    runs = [train(seed) for seed in (0, 7)]
    wanted, path, ends = [content(run) for run in runs], runs[0].save(folder / "shared"), Counter[str]()
    with forked(lambda: save_again_and_again(path, runs)), forked(lambda: save_again_and_again(path, runs)):
        for _ in range(10 * tries):
            try:
                ends["silent"] += content(tms.load(path)) not in wanted
            except (FileNotFoundError, ValueError):
                ends["lost"] += 1
    yield Row("read while two processes save there", 10 * tries, ends["lost"], ends["silent"])

    kept, ends = folder / "kept", Counter()
    with forked(lambda: train_long(kept, steps=10**6)) as owner:
        while not list(kept.glob("*.json")):
            time.sleep(0.05)
        for _ in range(tries):
            try:
                train_long(kept, steps=10**6)
            except TimeoutError as error:
                ends["crashed"] += f"process {owner} on" not in str(error)
    yield Row("trained with the checkpoints that another trains with", tries, crashed=ends["crashed"])


KINDS = (of_runs, of_checkpoints, of_sweeps, of_claims, kills, full_disks, two_processes)


def rows(tries: int = 20, seed: int = 0) -> Iterator[Row]:
    """The rows of the table, kind by kind."""
    torch.set_num_threads(1)  # a process with threads is not to be forked
    logging.getLogger("tms_hooks").addHandler(logging.NullHandler())
    logging.getLogger("tms_hooks").propagate = False
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            yield from kind(Path(folder), random.Random(seed), tries)


def markdown(found: list[Row]) -> str:
    """The table, with a line for all of it."""
    total = Row("all", *(sum(column) for column in list(zip(*found, strict=True))[1:]))
    lines = ["| what was done | tried | lost | silent | crashed |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in (*found, total))])


def main(*arguments: str) -> int:
    """Print the table or write it to its page; 1 if anything went wrong."""
    found = []
    for row in rows():
        print(*row, sep="\t", flush=True)
        found.append(row)
    if arguments == ("write",):
        before, _, after = PAGE.read_text(encoding="utf-8").partition("| what was done")
        rest = after.split("\n\n", 1)[1]
        PAGE.write_text(f"{before}{markdown(found)}\n\n{rest}", encoding="utf-8")
    return int(any(row.lost or row.silent or row.crashed for row in found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
