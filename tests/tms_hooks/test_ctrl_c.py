"""Ctrl-C in every command that takes a while: exit code 130, no process left, and what is finished kept.

Each command is a fork of this process, which has loaded its libraries already. `tests/ctrl_c.py` starts commands anew,
strikes them all along their way, and measures.
"""

import os
import signal
import sys
import time
from pathlib import Path

import planned
import pytest

import tms_hooks as tms
from tests.ctrl_c import living
from tms_hooks import cli, progress
from tms_hooks.claims import registry

GRID = """
[base]
n_features = 4
d_hidden = 2
feature_probability = 0.3
batch_size = 16
[grid]
steps = [1, 100_000_000]
"""
LONGEST = 240.0
"""Seconds to wait for what a busy machine may take long for; nothing is judged by them."""

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")


def command(arguments: list[str], folder: Path) -> int:
    """Start a command in a process group of its own, as a shell does; what it says is in `log`."""
    if child := os.fork():
        return child
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        with open("log", "w") as log, open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what started the tests may have it ignored
        progress.PLAIN = 0.1  # seconds between two lines, where no bar can be drawn
        for measure in (planned.holds, planned.never_ends):
            registry.claim(measure.__name__, "H", quick=3, full=30)(measure)
        sys.argv = ["tms", *arguments]
        cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_until(holds, what: str):
    end = time.monotonic() + LONGEST
    while not (answer := holds()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return answer


@pytest.mark.parametrize(
    ("arguments", "ready", "told", "kept"),
    [
        (
            "train run -n 4 --seeds 2 --steps 100000000 --batch-size 16",
            "training 2 models",
            "Stopped at step",
            "run",
        ),
        (
            "sweep grid.toml --store store --n-jobs 1",
            "store/*/run.json",
            "what those that were in training had reached is not kept",
            "store/*",
        ),
        ("reproduce holds never_ends -j 1", "never_ends:", "1 of 2 claims are stored", "out/verdicts/holds.json"),
        pytest.param("demo --n-models 20", "training 20 toys", None, None, marks=pytest.mark.real_weights),
        ("compare trained --model tiny", "loading tiny", None, "trained"),
        ("theory", "One active feature", None, None),
    ],
    ids=["train", "sweep", "reproduce", "demo", "compare", "theory"],
)
def test_ctrl_c_ends_a_command_with_130_and_keeps_what_is_finished(tmp_path, monkeypatch, arguments, ready, told, kept):
    name, *options = arguments.split()
    (tmp_path / "grid.toml").write_text(GRID)
    if name == "compare":
        toy, data = tms.ToyConfig(n_features=4, d_hidden=2), tms.SparseUniform(n_features=4, feature_probability=0.3)
        toys = 500  # which it takes seconds to compare, so that it has not ended before it is struck
        tms.train(toy, data, seeds=toys, steps=2, batch_size=16).save(tmp_path / "trained")
    if name not in ("train", "sweep"):
        options += ["--out", "out"]
    log, notes = tmp_path / "log", tmp_path / "notes"
    monkeypatch.setenv(planned.NOTES, str(notes))
    ended: list[int] = []

    def has_ended() -> bool:
        if not ended and (found := os.waitpid(process, os.WNOHANG))[0]:
            ended.append(os.waitstatus_to_exitcode(found[1]))
        return bool(ended)

    def begun() -> bool:
        said = "".join(path.read_text() for path in (log, notes) if path.exists())
        there = ready in said or ("*" in ready and any(tmp_path.glob(ready)))
        return has_ended() or (there and (name != "reproduce" or "holds: supported" in said))

    process = command([name, *options], tmp_path)
    try:
        wait_until(begun, f"{name} has not begun")
        assert not ended, log.read_text()
        os.killpg(process, signal.SIGINT)  # as a terminal does: to every process of the command
        wait_until(has_ended, f"{name} does not end")
        assert ended == [130], log.read_text()
        wait_until(lambda: not living(process), f"{name} leaves {living(process)}")
    finally:
        if living(process):
            os.killpg(process, signal.SIGKILL)
        if not ended:
            os.waitpid(process, 0)
    said = log.read_text()
    assert "Traceback" not in said
    assert (told or "") in said
    if name == "reproduce":
        assert [path.name for path in (tmp_path / "out/verdicts").iterdir()] == ["holds.json"]
    elif kept is not None:
        [run] = [tms.load(path) for path in tmp_path.glob(kept) if (path / "run.json").exists()]
        assert run.stopped == (name == "train")
        assert run.completed_steps > 0
    else:
        assert not list((tmp_path / "out").glob("*.html"))
