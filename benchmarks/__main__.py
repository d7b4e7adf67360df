"""`python -m benchmarks [SETTING ...]`: our engines beside the field's plain loop: tables, a JSON, a chart."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.equal_loss import compare_at_equal_loss
from benchmarks.equal_work import compare, compare_one_call
from benchmarks.memory import compare_memory
from benchmarks.settings import SETTINGS, Setting
from tms_hooks.plots import PALETTE

TITLES = {
    "equal_work": "Equal work: times faster than the plain loop (median and range of pairs timed in alternation)",
    "one_call": "One call: models of different settings together, against a call for each setting",
    "equal_loss": "Equal held-out loss: plain loop at a constant 1e-3, ours at 1e-2 with cosine decay",
    "memory": "Memory: by how much training raises the peak of a process, one thread",
}


ISAS = {
    "avx2": {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}
"""What makes torch, MKL and numba use the instructions of other processors."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [setting.name for setting in SETTINGS]
    cores = os.cpu_count() or 1
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=", ".join(names))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2][:cores])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=TITLES, nargs="+", default=list(TITLES), help="which comparisons")
    parser.add_argument("--out", type=Path, default=Path("report/bench"))
    parser.add_argument("--isa", choices=ISAS, help="instructions that both sides may use; else all of the processor's")
    given = parser.parse_args()
    if given.isa and not ISAS[given.isa].items() <= os.environ.items():  # libraries read these when they are loaded
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]], os.environ | ISAS[given.isa])
    if unknown := set(given.settings) - set(names):
        parser.error(f"no setting {sorted(unknown)}; choose from {', '.join(names)}")
    if max(given.threads) > cores:
        parser.error(f"--threads {max(given.threads)}: this machine has {cores}")
    chosen = [setting for setting in SETTINGS if not given.settings or setting.name in given.settings]
    console = Console()
    results: dict[str, list[dict[str, Any]]] = {}
    for what in given.only:
        results[what] = []
        for threads in given.threads if what in ("equal_work", "one_call") else [1]:
            for setting in [s for s in chosen if is_for(s, what)]:
                with console.status(f"{what}: {setting.name}, {threads} thread(s)"):
                    results[what].append(
                        compare(setting, threads, given.repeats)
                        if what == "equal_work"
                        else compare_one_call(setting, threads, given.repeats)
                        if what == "one_call"
                        else compare_at_equal_loss(setting, threads)
                        if what == "equal_loss"
                        else compare_memory(setting)
                    )
        console.print(shown(TITLES[what], readable(what, results[what])))
    given.out.mkdir(parents=True, exist_ok=True)
    load = f"{os.getloadavg()[0]:.0f}" if hasattr(os, "getloadavg") else "unknown"
    machine = {"cores": cores, "load": load, "instructions": torch.backends.cpu.get_cpu_capability()}
    machine |= {"python": platform.python_version(), "torch": torch.__version__}
    (given.out / "bench.json").write_text(json.dumps({"machine": machine} | results, indent=1))
    (given.out / "bench.md").write_text(markdown(machine, results))
    if "equal_work" in results:
        chart(results["equal_work"], given.out / "bench.html")
    console.print(f"Wrote {given.out}: {', '.join(sorted(path.name for path in given.out.iterdir()))}")


def is_for(setting: Setting, what: str) -> bool:
    """Whether a comparison is made of a setting: many settings in one call, and only equal work of what torch does."""
    needed = {"one_call": len(setting.recipes()) > 1, "equal_loss": setting.loss_steps > 0}
    return what == "equal_work" or (not setting.part and needed.get(what, True))


def readable(what: str, rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A table for people: what each comparison is about, rounded."""
    if what == "equal_work":
        return pd.DataFrame(
            {
                "setting": r["setting"],
                "engine": r["engine"].removesuffix("_engine"),
                "threads": r["threads"],
                "plain, us": f"{r['plain_us']:,.1f}",
                "ours, us": f"{r['ours_us']:,.2f}",
                "ratio": f"{r['ratio']:.1f}",
                "range": f"{r['ratio_low']:.1f} to {r['ratio_high']:.1f}",
                "to reach": "" if r["target"] is None or r["threads"] > 1 else f"{r['target']:g}",
            }
            for r in rows
        )
    if what == "one_call":
        return pd.DataFrame(
            {
                "setting": r["setting"],
                "threads": r["threads"],
                "a call each, us": f"{r['apart_us']:,.2f}",
                "one call, us": f"{r['together_us']:,.2f}",
                "ratio": f"{r['ratio']:.2f}",
                "range": f"{r['ratio_low']:.2f} to {r['ratio_high']:.2f}",
            }
            for r in rows
        )
    if what == "equal_loss":
        return pd.DataFrame(
            {
                "setting": r["setting"],
                "models": r["models"],
                "plain": f"{r['plain_steps']:,} steps, {r['plain_seconds']:.2f} s",
                "ours": f"{r['ours_steps']:,} steps, {r['ours_seconds']:.3f} s",
                "plain loss": f"{r['plain_loss']:.4g}",
                "our loss": f"{r['ours_loss']:.4g}",
                "ratio": f"{r['ratio']:.0f}" if r["reached"] else "not reached",
            }
            for r in rows
        )
    return pd.DataFrame(
        {
            "setting": r["setting"],
            "models": r["models"],
            "plain, MB": f"{r['plain_mb']:.1f}",
            "ours, MB": f"{r['ours_mb']:.1f}",
        }
        for r in rows
        if "plain_mb" in r
    )


def shown(title: str, frame: pd.DataFrame) -> Table:
    out = Table(title=title)
    for name in frame.columns:
        out.add_column(str(name), no_wrap=name == "setting")
    for row in frame.astype(str).to_numpy().tolist():
        out.add_row(*row)
    return out


def markdown(machine: dict[str, Any], results: dict[str, list[dict[str, Any]]]) -> str:
    """The tables for the docs."""
    lines = [f"Measured by `python -m benchmarks` on: {', '.join(f'{k} {v}' for k, v in machine.items())}."]
    for what, rows in results.items():
        frame = readable(what, rows).astype(str)
        cells = [list(map(str, frame.columns)), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
        lines += ["", f"**{TITLES[what]}**", "", *(f"| {' | '.join(row)} |" for row in cells)]
    return "\n".join(lines) + "\n"


def chart(results: Sequence[dict[str, Any]], path: Path) -> None:
    import plotly.graph_objects as go

    figure = go.Figure()
    for threads in sorted({r["threads"] for r in results}):
        part = [r for r in results if r["threads"] == threads]
        figure.add_bar(
            x=[r["setting"] for r in part],
            y=[r["ratio"] for r in part],
            error_y={
                "symmetric": False,
                "array": [r["ratio_high"] - r["ratio"] for r in part],
                "arrayminus": [r["ratio"] - r["ratio_low"] for r in part],
            },
            name=f"{threads} thread{'s' * (threads > 1)}",
            marker_color=PALETTE[4 if threads > 1 else 0],
        )
    wanted = {r["setting"]: r["target"] for r in results if r["target"]}
    figure.add_scatter(
        x=list(wanted),
        y=list(wanted.values()),
        mode="markers",
        name="to reach, one thread",
        marker={"symbol": "line-ew-open", "size": 26, "color": PALETTE[5]},
    )
    figure.update_layout(title="Our engines beside the field's plain loop, equal work", barmode="group")
    figure.update_yaxes(type="log", title="times faster")
    figure.update_xaxes(title="setting")
    figure.write_html(path, include_plotlyjs="cdn")
    with suppress(ValueError, RuntimeError):  # without kaleido, or the browser it needs
        figure.write_image(path.with_suffix(".svg"), width=900, height=450)


if __name__ == "__main__":
    main()
