"""Results of claims on the terminal and as JSON; `pages.claims_page` has them as a page and as plain text."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from tms_hooks import files
from tms_hooks.claims.reproduce import Result
from tms_hooks.claims.verdict import Verdict

SYMBOLS = {"supported": "✓", "refuted": "✗", "inconclusive": "?", "not run": "–", "failed": "!"}
"""Beside the word and its color, for whom the colors look alike."""
COLORS = {"supported": "green", "refuted": "red", "inconclusive": "yellow", "not run": "dim", "failed": "bold red"}
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


def verdicts(results: Sequence[Result]) -> Table:
    """One row per claim, whole at 80 columns: its verdict, its statistic with the 95 % interval, its seconds."""
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("claim", no_wrap=True)
    shown.add_column("verdict", no_wrap=True)
    shown.add_column("number [95 %]", overflow="fold")  # the one that may break
    shown.add_column("seconds", no_wrap=True, justify="right")
    for result in results:
        outcome = f"[{COLORS[result.outcome]}]{SYMBOLS[result.outcome]} {result.outcome}[/]"
        verdict = result.verdict
        seconds = "" if verdict is None else "stored" if result.stored else f"{verdict.seconds:.1f}"
        shown.add_row(result.claim.name, outcome, number(verdict).replace("[", r"\[") if verdict else "", seconds)
    return shown


def write_json(results: Sequence[Result], path: Path) -> None:
    """The verdicts as a list of objects; claims without one are not in it."""
    files.keep(path, json.dumps([result.verdict.record() for result in results if result.verdict], indent=1))
