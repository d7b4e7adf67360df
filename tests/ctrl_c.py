"""How long after Ctrl-C does each command end? `python -m tests.ctrl_c` strikes each at moments all along its way.

    python -m tests.ctrl_c --strikes 8 train sweep        some commands; all without a name

A command runs once to its end, which says how long it takes; then again and again, each time struck a bit later: while
libraries load, kernels compile, models train or are judged, pages are written. Printed are the seconds from the signal
to the end of the last process, and of them the processor's, since others may use the machine; the exit code, and what
the command had last said. Anything but exit code 130 (or 0, of a command that had ended), a traceback, or a process
that is left counts as bad.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
GRID = """
seeds = 200
[base]
n_features = 40
d_hidden = 10
feature_probability = 0.3
[grid]
steps = [200, 201, 202, 203]
"""
COMMANDS = {
    "train": "train run -n 40 -m 10 -p 0.3 --seeds 400 --steps 1500",
    "sweep": "sweep grid.toml --store store --n-jobs 1",
    "sweep on two": "sweep grid.toml --store store --n-jobs 2",
    "reproduce": "reproduce hexagon-norms phase-change --quick -j 2 --out out",
    "figure": "figure hexagon-norms --quick --store out --out figure.html",
    "theory": "theory --out out",
    "compare": "compare trained --model tiny --out out",
    "demo": "demo --out out",
}


ENDED = (0, 130, -signal.SIGINT)
"""Exit codes: it had ended, was struck, or was struck while Python itself ended."""


class End(NamedTuple):
    """How a command ended that was struck."""

    seconds: float
    busy: float
    """Seconds of processor time that the command itself took meanwhile."""
    code: int
    said: str
    left: int


def living(group: int) -> list[str]:
    """What still runs in a process group; an ended child that nobody has asked for yet is none."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = stat.read_text().rsplit(")", 1)
        except OSError:
            continue
        state, _, pgrp = rest.split()[:3]
        if int(pgrp) == group and state != "Z":
            found.append(name)
    return found


def hears_ctrl_c() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def started(command: list[str], folder: Path, log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process group of its own, as a terminal gives a command; it is gone afterwards."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=hears_ctrl_c,
        )  # fmt: skip
    try:
        yield process
    finally:
        if living(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def strike(process: subprocess.Popen[bytes], log: Path, patience: float = 60.0) -> End:
    """Ctrl-C, to every process of the command, and how it ends."""
    began, before = time.monotonic(), _busy(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    ended = None
    while time.monotonic() < began + patience and (ended is None or living(process.pid)):
        if ended is None and os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            ended = _busy(process.pid)
        time.sleep(0.01)
    seconds, left = time.monotonic() - began, len(living(process.pid))
    return End(seconds, (ended or before) - before, process.poll() or 0, log.read_text(), left)


def _busy(pid: int) -> float:
    """Processor time of a process, also of one that has ended and that nobody has asked for yet."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def run(command: str, after: float | None) -> tuple[float, End | None]:
    """A command in a folder of its own; struck after so many seconds, or else how many it takes."""
    import tms_hooks as tms

    words = [sys.executable, "-c", "from tms_hooks.cli import main; main()", *COMMANDS[command].split()]
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name, "log")
        (folder / "grid.toml").write_text(GRID)
        if command == "compare":
            tms.train(tms.ToyConfig(6, 2), tms.SparseUniform(6, 0.1), steps=5, progress=False).save(folder / "trained")
        with started(words, folder, log) as process:
            began = time.monotonic()
            try:
                if process.wait(after) != 0:
                    raise SystemExit(f"{command}: {log.read_text()}")
            except subprocess.TimeoutExpired:
                return time.monotonic() - began, strike(process, log)
            return time.monotonic() - began, None


def main() -> None:
    """Strike the commands that are named; exit 1 if one ended badly. Seconds are printed and not judged."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", choices=[*COMMANDS, []])  # an empty list has to be among them
    parser.add_argument("--strikes", type=int, default=8)
    asked, bad = parser.parse_args(), 0
    for command in asked.commands or COMMANDS:
        run(command, None)  # compiles what is to be compiled
        whole, _ = run(command, None)
        ends = []
        for number in range(asked.strikes):
            after = whole * (number + 0.5) / asked.strikes
            _, end = run(command, after)
            if end is None:
                continue
            ends.append(end)
            last = (end.said.split("\n")[:-1] or [""])[-1][:60]
            wrong = end.code not in ENDED or "Traceback" in end.said or end.left > 0
            bad += wrong
            how = f"exit {end.code}{', BAD' * wrong}"
            print(f"  {command} at {after:.1f} s: {end.seconds:.2f} s ({end.busy:.2f}), {how}; {last}", flush=True)
        most, busy = (max(getattr(end, name) for end in ends) for name in ("seconds", "busy"))
        median = statistics.median(end.seconds for end in ends)
        print(
            f"{command} ({whole:.1f} s), struck {len(ends)} times: ended in {median:.2f} s (median), {most:.2f} s "
            f"(most), {busy:.2f} s of its own (most); load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
