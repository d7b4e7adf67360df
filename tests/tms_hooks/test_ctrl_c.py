"""Ctrl-C in every command that takes a while: exit code 130, no process left, and what is finished kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import planned
import pytest

import tms_hooks as tms

ROOT = Path(__file__).parents[2]
COMMAND = f"""
import sys
from tms_hooks import progress
progress.PLAIN = 0.1  # seconds between two lines, where no bar can be drawn
sys.path.insert(0, {str(Path(planned.__file__).parent)!r})
from tms_hooks.cli import main
if __name__ == "__main__":
    if sys.argv[1] == "reproduce":
        import planned
        from tms_hooks.claims import registry
        for measure in (planned.holds, planned.never_ends):
            registry.claim(measure.__name__, "H", quick=3, full=30)(measure)
    main()
"""
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


def hears_ctrl_c():
    """What a shell starts in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(holds, what: str):
    end = time.monotonic() + LONGEST
    while not (answer := holds()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
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
        ("sweep grid.toml --store store --n-jobs 1", "store/*/run.json", "Stopped. What is finished is in", "store/*"),
        ("reproduce holds never_ends -j 2", "never_ends:", "1 of 2 claims are stored", "out/verdicts/holds.json"),
        pytest.param("demo --n-models 20", "training 20 toys", None, None, marks=pytest.mark.real_weights),
        ("compare trained --model tiny", "loading tiny", None, "trained"),
        ("theory", "One active feature", None, None),
    ],
    ids=["train", "sweep", "reproduce", "demo", "compare", "theory"],
)
def test_ctrl_c_ends_a_command_with_130_and_keeps_what_is_finished(tmp_path, arguments, ready, told, kept):
    command, *options = arguments.split()
    (tmp_path / "command.py").write_text(COMMAND)
    (tmp_path / "grid.toml").write_text(GRID)
    if command == "compare":
        toy, data = tms.ToyConfig(n_features=4, d_hidden=2), tms.SparseUniform(n_features=4, feature_probability=0.3)
        tms.train(toy, data, steps=2, batch_size=16).save(tmp_path / "trained")
    if command not in ("train", "sweep"):
        options += ["--out", "out"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", planned.NOTES: str(tmp_path / "notes")}
    log = tmp_path / "log"

    def begun() -> bool:
        notes = tmp_path / "notes"
        said = log.read_text() + (notes.read_text() if notes.exists() else "")
        there = ready in said or ("*" in ready and any(tmp_path.glob(ready)))
        return process.poll() is not None or (there and (command != "reproduce" or "holds: supported" in said))

    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "command.py", command, *options],
            cwd=tmp_path, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=hears_ctrl_c,
        )  # fmt: skip
    try:
        wait_until(begun, f"{command} has not begun")
        assert process.poll() is None, log.read_text()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
        assert process.wait(LONGEST) == 130, log.read_text()
        wait_until(lambda: not living(process.pid), f"{command} leaves {living(process.pid)}")
    finally:
        if living(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    said = log.read_text()
    assert "Traceback" not in said
    assert (told or "") in said
    if command == "reproduce":
        assert [path.name for path in (tmp_path / "out/verdicts").iterdir()] == ["holds.json"]
    elif kept is not None:
        [run] = [tms.load(path) for path in tmp_path.glob(kept) if (path / "run.json").exists()]
        assert run.stopped == (command == "train")
        assert run.completed_steps > 0
    else:
        assert not list((tmp_path / "out").glob("*.html"))
