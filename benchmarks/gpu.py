"""`python -m benchmarks.gpu`: the plain loop on a GPU, our updates there, and our engine on the CPU, in one run."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from benchmarks.__main__ import shown
from benchmarks.equal_work import engine_of
from benchmarks.plain_loop import PlainToys
from benchmarks.settings import SETTINGS, Setting
from tms_hooks.device import engine as on_device
from tms_hooks.training.state import State

SETTINGS_HERE = (
    *(setting for setting in SETTINGS if setting.name in ("b5", "d6", "a20", "a100", "c400")),
    Setting(name="w4096", n=4096, m=256, models=64, p=0.01, p_last=0.01, plain_steps=1),
)
LEAST = 0.3
"""Seconds that each timing takes at least, unless one step takes longer."""
RECORD = 100
"""Steps between two looks at the losses, in all three."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    names = [setting.name for setting in SETTINGS_HERE]
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=", ".join(names))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("report/bench/gpu"))
    given = parser.parse_args()
    if unknown := set(given.settings) - set(names):
        parser.error(f"no setting {sorted(unknown)}; choose from {', '.join(names)}")
    if why := on_device.obstacle(SETTINGS_HERE[0].together(), given.device):
        parser.error(f"{why.partition(';')[0]}; there is nothing to measure, and python -m benchmarks measures the CPU")
    device, console = torch.device(given.device), Console()
    rows = []
    for setting in [s for s in SETTINGS_HERE if not given.settings or s.name in given.settings]:
        with console.status(setting.name):
            rows.append(compare(setting, device, given.repeats))
    machine = {"device": name_of(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    title = f"On {machine['device']}, and on {machine['threads']} threads of the CPU: microseconds per model step"
    console.print(shown(title, readable(rows)))
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "gpu.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    console.print(f"Wrote {given.out / 'gpu.json'}")


def compare(setting: Setting, device: torch.device, repeats: int) -> dict[str, Any]:
    """Microseconds per model step of each of the three, medians of rounds in which they take turns; None: no memory."""
    ours, captured = updates(setting, device)
    loops = {
        "plain": plain_loop(setting, device),
        "ours": ours,
        "cpu": engine_of([setting.together()], torch.get_num_threads())[1],
    }
    counts = {what: steps_of(loop, device) for what, loop in loops.items()}
    found: dict[str, list[float]] = {what: [] for what, count in counts.items() if count}
    for _ in range(repeats):
        for what, times in found.items():
            times.append(seconds(partial(loops[what], counts[what]), device) / counts[what])
    us = {what: statistics.median(times) / setting.models * 1e6 for what, times in found.items()}
    return {
        "setting": setting.name,
        "models": setting.models,
        **{f"{what}_us": us.get(what) for what in loops},
        "captured": captured(),
        "repeats": repeats,
    }


def plain_loop(setting: Setting, device: torch.device) -> Callable[[int], None]:
    """So many steps of the plain loop on a device."""
    return PlainToys(setting.n, setting.m, setting.probabilities, device=device).train


def updates(setting: Setting, device: torch.device) -> tuple[Callable[[int], None], Callable[[], bool]]:
    """So many more of our steps on a device, and whether they are those of CUDA graphs."""
    recipe, done = setting.together(), 0
    state = State.initial(recipe, None, device)

    def advance(steps: int) -> None:
        nonlocal done
        for begin in range(done, done + steps, RECORD):
            on_device.advance(recipe, state, begin, min(begin + RECORD, done + steps))
        done += steps

    return advance, lambda: state.made is not None and all(own.captured for _, own in state.made[1])


def steps_of(loop: Callable[[int], None], device: torch.device) -> int:
    """How many steps take `LEAST` seconds; 0 if one takes more memory than there is."""
    try:
        loop(1)
        once = seconds(partial(loop, 1), device)
        count = min(max(int(LEAST / once), 1), RECORD)
        return max(int(LEAST / seconds(partial(loop, count), device) * count), 1)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return 0


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Time on the wall, until the device has done all."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def readable(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The table for people."""

    def us(row: dict[str, Any], what: str) -> str:
        return "out of memory" if row[f"{what}_us"] is None else f"{row[f'{what}_us']:,.2f}"

    def ratio(row: dict[str, Any], what: str) -> str:
        both = row[f"{what}_us"], row["ours_us"]
        return "" if None in both else f"{both[0] / both[1]:.1f}"

    return pd.DataFrame(
        {
            "setting": r["setting"],
            "models": r["models"],
            "plain, device": us(r, "plain"),
            "ours, device": us(r, "ours"),
            "ratio": ratio(r, "plain"),
            "ours, CPU": us(r, "cpu"),
            "CPU / device": ratio(r, "cpu"),
            "CUDA graph": "yes" if r["captured"] else "no",
        }
        for r in rows
    )


if __name__ == "__main__":
    main()
