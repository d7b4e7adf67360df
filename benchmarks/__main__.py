"""`python -m benchmarks [SETTING ...] [--threads 1 2] [--repeats 7] [--out FOLDER]`: a table, a JSON and a chart."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.settings import SETTINGS, Setting
from tms_hooks.training import fused_engine, torch_engine
from tms_hooks.training.state import State


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [setting.name for setting in SETTINGS]
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=", ".join(names))
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("report/bench"))
    given = parser.parse_args()
    if unknown := set(given.settings) - set(names):
        parser.error(f"no setting {sorted(unknown)}; choose from {', '.join(names)}")
    chosen = [setting for setting in SETTINGS if not given.settings or setting.name in given.settings]
    console = Console()
    results = []
    for threads in given.threads:
        for setting in chosen:
            with console.status(f"{setting.name}, {threads} thread(s)"):
                results.append(compare(setting, threads, given.repeats))
    console.print(table(results))
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "bench.json").write_text(json.dumps(results, indent=1))
    chart(results, given.out / "bench.html")
    console.print(f"Wrote {given.out / 'bench.json'} and {given.out / 'bench.html'}")


def compare(setting: Setting, threads: int, repeats: int) -> dict[str, Any]:
    """Seconds a model step of the plain loop and of our engine, in alternation; the ratio is the median over pairs."""
    use_threads(threads)
    plain, (engine, advance, ours_steps) = setting.plain(), engine_of(setting)
    steps = setting.plain_steps
    plain.train(1)
    advance(1)
    # Enough of our steps for a tenth of a second, so that the clock does not decide.
    count = max(int(0.1 / (seconds(lambda: advance(ours_steps)) / ours_steps)), 1)
    pairs = []
    for _ in range(repeats):
        slow = seconds(lambda: plain.train(steps)) / steps
        fast = seconds(lambda: advance(count)) / count
        pairs.append((slow, fast))
    ratios = [slow / fast for slow, fast in pairs]
    return {
        "setting": setting.name,
        "engine": engine,
        "threads": threads,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "target": setting.target,
        "plain_us": statistics.median(slow for slow, _ in pairs) / setting.models * 1e6,
        "ours_us": statistics.median(fast for _, fast in pairs) / setting.models * 1e6,
        "repeats": repeats,
    }


def engine_of(setting: Setting) -> tuple[str, Callable[[int], None], int]:
    """Name of the engine that "auto" picks, a function that makes so many more steps, and a first number of steps."""
    recipes = setting.recipes()
    engine = fused_engine if fused_engine.obstacle(recipes[0]) is None else torch_engine
    states = [State.initial(recipe, None, "cpu") for recipe in recipes]
    done = 0

    def advance(steps: int) -> None:
        nonlocal done
        for begin in range(done, done + steps, 100):  # the plain loop too stops every 100 steps to look at its loss
            for recipe, state in zip(recipes, states, strict=True):
                engine.advance(recipe, state, begin, min(begin + 100, done + steps))
        done += steps

    return engine.__name__.rpartition(".")[2], advance, 100 if engine is fused_engine else 2


def use_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        import numba
    except ImportError:
        return
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def table(results: list[dict[str, Any]]) -> Table:
    out = Table(title="times faster than the plain loop, equal work (median of pairs run in alternation)")
    for name in ("setting", "engine", "threads", "plain us", "ours us", "ratio", "range", "to reach"):
        out.add_column(name, justify="left" if name in ("setting", "engine") else "right")
    for r in results:
        out.add_row(
            r["setting"],
            r["engine"].removesuffix("_engine"),
            str(r["threads"]),
            f"{r['plain_us']:,.1f}",
            f"{r['ours_us']:,.2f}",
            f"{r['ratio']:.1f}",
            f"{r['ratio_low']:.1f} to {r['ratio_high']:.1f}",
            "" if r["target"] is None else f"{r['target']:g}",
        )
    return out


def chart(results: list[dict[str, Any]], path: Path) -> None:
    import plotly.graph_objects as go

    figure = go.Figure()
    for threads in sorted({r["threads"] for r in results}):
        part = [r for r in results if r["threads"] == threads]
        figure.add_bar(x=[r["setting"] for r in part], y=[r["ratio"] for r in part], name=f"{threads} thread(s)")
    wanted = {r["setting"]: r["target"] for r in results if r["target"]}
    figure.add_scatter(x=list(wanted), y=list(wanted.values()), mode="markers", name="to reach")
    figure.update_yaxes(type="log", title="times faster than the plain loop")
    figure.write_html(path, include_plotlyjs="cdn")


if __name__ == "__main__":
    main()
