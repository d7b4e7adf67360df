"""Peak memory of a training step, each in a fresh process: how far the resident set grows beyond what is loaded."""

import multiprocessing
import re
from pathlib import Path
from typing import Any

from benchmarks.equal_work import engine_of, use_threads
from benchmarks.settings import SETTINGS, Setting

STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def compare_memory(setting: Setting) -> dict[str, Any]:
    """MB of both at one thread; nothing where the system does not tell (Linux does)."""
    if not PEAK.exists():
        return {"setting": setting.name}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        plain = pool.apply(_grown_by, (setting.name, "plain"))
        ours = pool.apply(_grown_by, (setting.name, "ours"))
    return {"setting": setting.name, "models": setting.models, "plain_mb": plain, "ours_mb": ours}


def _grown_by(name: str, who: str) -> float:
    """MB by which a few steps of training raise the peak of this process."""
    use_threads(1)
    setting = next(setting for setting in SETTINGS if setting.name == name)
    small = setting.fewer(1)  # loads everything: torch's pools, compiled kernels
    train, larger = _steps(small, who), setting
    train(1)
    PEAK.write_text("5")  # the peak starts anew from what is resident now
    before = _resident("VmRSS")
    _steps(larger, who)(2)
    return _resident("VmHWM") - before


def _steps(setting: Setting, who: str) -> Any:
    return setting.plain().train if who == "plain" else engine_of([setting.together()], threads=1)[1]


def _resident(what: str) -> float:
    found = re.search(rf"{what}:\s+(\d+) kB", STATUS.read_text())
    assert found  # Linux
    return int(found[1]) / 1024
