"""Results of claims for people and programs: a page, plain text, JSON, and rows for the terminal."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tms_hooks.claims.registry import PARTS, SOURCES
from tms_hooks.claims.reproduce import Result, code_version, write_whole
from tms_hooks.claims.verdict import Verdict
from tms_hooks.pages import report

SYMBOLS = {"supported": "✓", "refuted": "✗", "inconclusive": "?", "not run": "–", "failed": "!"}
"""Beside the word and its colour, for whom the colours look alike."""
RULE = (
    "A claim is supported if the whole 95 % interval of its statistic lies on the stated side of the threshold, "
    "refuted if it lies on the other, else inconclusive."
)


def number(verdict: Verdict) -> str:
    """The statistic with its interval; a dash where it could not be measured.

    >>> found = {"statistic": 0.8, "interval": (0.7, 0.9), "threshold": 0.5}
    >>> number(Verdict(measured="", n_models=9, controls={}, detail="", **found))
    '0.8 [0.7, 0.9]'
    """
    if not math.isfinite(verdict.statistic):
        return "–"
    return f"{verdict.statistic:.3g} [{verdict.interval[0]:.3g}, {verdict.interval[1]:.3g}]"


def counts(results: Sequence[Result]) -> str:
    """How many claims had each outcome, in words."""
    seen = Counter(result.outcome for result in results)
    return ", ".join(f"{seen[outcome]} {outcome}" for outcome in SYMBOLS if seen[outcome])


def write_json(results: Sequence[Result], path: Path) -> None:
    """The verdicts as a list of objects; claims without one are not in it."""
    write_whole(path, json.dumps([result.verdict.record() for result in results if result.verdict], indent=1))


def table(results: Sequence[Result]) -> pd.DataFrame:
    """One row a claim: source, statement, verdict, number, interval, threshold, models, seconds."""
    rows = []
    for claim, verdict, *_ in results:
        row: dict[str, str] = {"claim": claim.name, "source": claim.source, "statement": claim.statement}
        if verdict:
            low, high = verdict.interval
            row |= {
                "verdict": verdict.verdict,
                "statistic": f"{verdict.statistic:.3g}",
                "95 % interval": f"{low:.3g} to {high:.3g}",
                "needs": f"{verdict.side} {verdict.threshold:.3g}",
                "models": f"{verdict.n_models:,}",
                "seconds": f"{verdict.seconds:.1f}",
            }
        rows.append(row)
    shown = pd.DataFrame(rows)
    shown["verdict"] = [result.outcome for result in results]
    return shown.fillna("").set_index("claim")


def write_page(results: Sequence[Result], out: Path, quick: bool) -> Path:
    """One self-contained page: a row a claim, which opens to its figures, its controls and how it was decided."""
    return report.render(
        "claims.html.j2",
        out / "index.html",
        title="Claims, measured",
        lead=f"Statements about toy models of superposition, each measured over many models. {RULE}",
        footer=f"tms reproduce, {'quick' if quick else 'full'} size, code {code_version()}.",
        counts=counts(results),
        outcomes=[outcome for outcome in SYMBOLS if any(result.outcome == outcome for result in results)],
        sources={key: name for key, name in SOURCES.items() if any(result.claim.source == key for result in results)},
        symbols=SYMBOLS,
        number=number,
        results=[(result, design_parts(result.claim.design), _controls(result)) for result in results],
    )


def design_parts(design: str) -> dict[str, str]:
    """What a claim's docstring states, part by part.

    >>> design_parts("It holds.\\n\\nStatistic: a share.\\nThreshold: above\\n1/2. Size: 3. Controls: none.")
    {'Statistic': 'a share.', 'Threshold': 'above 1/2.', 'Size': '3.', 'Controls': 'none.'}
    """
    text = " ".join(design.split())
    starts = sorted((text.index(part), part) for part in PARTS)
    ends = [start for start, _ in starts[1:]] + [len(text)]
    return {
        part.rstrip(":"): text[start + len(part) : end].strip() for (start, part), end in zip(starts, ends, strict=True)
    }


def write_markdown(results: Sequence[Result], out: Path, quick: bool) -> Path:
    """The same in plain text: the table, then each claim's paragraph and controls, for `docs/claims.md`."""
    rows = table(results).reset_index()
    rows["claim"] = [f"[{name}](#{name})" for name in rows["claim"]]
    cells = [list(rows.columns), ["---"] * len(rows.columns), *rows.to_numpy().tolist()]
    lines = [
        "# Claims, measured",
        "",
        f"Written by `tms reproduce all{' --quick' if quick else ''}`, which leaves it in its output folder as "
        f"`claims.md`; code {code_version()}. Every number is that run's. {RULE} Sources: "
        + "; ".join(f"{key}, {name}" for key, name in SOURCES.items())
        + ".",
        "",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]
    for result in results:
        lines += ["", f"## {result.claim.name}", "", result.claim.design, "", f"**{result.told}**"]
        if result.verdict:
            named = {name.replace("|", "\\|"): value for name, value in result.verdict.controls.items()}
            controls = (f"| {name} | {value:.4g} |" for name, value in named.items())
            lines += ["", "| control | value |", "|---|---|", *controls]
    path = out / "claims.md"
    write_whole(path, "\n".join(lines) + "\n")
    return path


def _controls(result: Result) -> pd.DataFrame | None:
    if not (result.verdict and result.verdict.controls):
        return None
    return pd.Series(dict(result.verdict.controls), name="value").to_frame()
