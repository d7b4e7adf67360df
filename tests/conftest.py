"""Shared by all tests."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import slow

ROOT = Path(__file__).parents[1]
if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg")):
    # No GPU: Triton's kernels are interpreted. It asks for this when it is first imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job, and so in all its children
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `slow.txt` names: the slowest quarter, without which `make test-fast` runs."""
    listed = set(slow.LIST.read_text(encoding="utf-8").splitlines())
    for item in items:
        if item.nodeid.split("[")[0] in listed:
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Name the tests that take long and are not marked so; nothing fails for it."""
    seconds = Counter[str]()
    for report in (each for group in terminalreporter.stats.values() for each in group):
        if isinstance(report, pytest.TestReport) and "slow" not in report.keywords:
            seconds[report.nodeid.split("[")[0]] += report.duration
    if lines := slow.unlisted(seconds):
        terminalreporter.section("slow, and not in tests/slow.txt: make them cheaper, or run make slow")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture
def run_python() -> Callable[..., str]:
    """Run a script in a fresh interpreter, without pytest's type checker, and return what it printed."""

    def run(script: str, root: Path = ROOT) -> str:
        env = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script], env=env, cwd=root, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
