"""Results of claims on the terminal and as JSON; `pages.claims_page` has them as a page and as plain text."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from tms_hooks.claims.reproduce import Result
from tms_hooks.claims.verdict import Part, Verdict

SYMBOLS = {
    "supported": "✓",
    "in part": "◐",
    "refuted": "✗",
    "does not distinguish": "≈",
    "at the threshold": "=",
    "too few models": "?",
    "not converged": "…",
    "not measurable": "∅",
    "not run": "–",
    "failed": "!",
}
"""Beside the word and its color, for whom the colors look alike."""
COLORS = {"supported": "green", "refuted": "red", "not run": "dim", "failed": "bold red"}
"""All others are yellow."""
FEWEST = 20
"""Intervals of which one is expected to miss."""
RULE = (
    "A part is supported if the whole 95 % interval of its statistic lies on the stated side of the threshold and its "
    "null is beaten (else it does not distinguish), refuted if the interval lies on the other side. If the interval "
    "holds the threshold there were too few models, unless all of it lies within 0.05 of the threshold (5 % of one "
    "beyond 1): then the statistic is at the threshold. A part is not converged if three times the training moves its "
    "statistic out of its interval, by more than 1 % of its distance from the threshold. The outcome of a claim is "
    "that of the parts that its source states, or 'in part' if they differ."
)


def number(part: Part) -> str:
    """The statistic with its interval; a dash where it could not be measured.

    >>> number(Part(measured="", statistic=0.8, interval=(0.7, 0.9), n=9))
    '0.8 [0.7, 0.9]'
    """
    if not math.isfinite(part.statistic):
        return "–"
    return f"{part.statistic:.3g} [{part.interval[0]:.3g}, {part.interval[1]:.3g}]"


def counts(results: Sequence[Result]) -> str:
    """How many claims had each outcome, in words."""
    return _tally(result.outcome for result in results)


def part_counts(results: Sequence[Result], beyond: bool = False) -> str:
    """How many parts had each outcome, in words: those that sources state, or those beyond."""
    return _tally(part.outcome for part in _parts(results) if part.beyond == beyond)


def chance(results: Sequence[Result]) -> str:
    """How many intervals miss by chance, and which decided parts a false-discovery control would not let pass.

    Nothing of fewer intervals than one is expected to miss of.
    """
    from scipy.stats import false_discovery_control

    decided = [
        (f"{result.claim.name} ({name})" if len(result.verdict.parts) > 1 else result.claim.name, part.p)
        for result in results
        if result.verdict
        for name, part in result.verdict.parts.items()
        if part.outcome in ("supported", "refuted") and math.isfinite(part.p)
    ]
    measured = sum(math.isfinite(part.statistic) for part in _parts(results))
    if measured < FEWEST:
        return ""
    text = f"Of {measured} intervals at 95 %, about {0.05 * measured:.0f} miss what they are to hold by chance."
    if not decided:
        return text
    adjusted = false_discovery_control([p for _, p in decided])
    weak = [f"{name}, p = {p:.2g}" for (name, p), q in zip(decided, adjusted, strict=True) if q > 0.05]
    verdict = f"do not survive: {'; '.join(weak)}" if weak else "all survive"
    return (
        f"{text} Under a false-discovery control at 5 % (Benjamini and Hochberg) of {len(decided)} outcomes {verdict}."
    )


def _parts(results: Sequence[Result]) -> list[Part]:
    return [part for result in results if result.verdict for part in result.verdict.parts.values()]


def _tally(outcomes: Iterable[str]) -> str:
    seen = Counter(outcomes)
    return ", ".join(f"{seen[outcome]} {outcome}" for outcome in SYMBOLS if seen[outcome])


def verdicts(results: Sequence[Result]) -> Table:
    """One row per claim, whole at 80 columns: its outcome, its statistic or how its parts came out, its seconds."""
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("claim", no_wrap=True)
    shown.add_column("outcome", no_wrap=True)
    shown.add_column("number [95 %], or parts", overflow="fold")  # the one that may break
    shown.add_column("seconds", no_wrap=True, justify="right")
    for result in results:
        color = COLORS.get(result.outcome, "yellow")
        outcome = f"[{color}]{SYMBOLS[result.outcome]} {result.outcome}[/]"
        verdict = result.verdict
        seconds = "" if verdict is None else "stored" if result.stored else f"{verdict.seconds:.1f}"
        shown.add_row(result.claim.name, outcome, escape(_found(verdict)) if verdict else "", seconds)
    return shown


def _found(verdict: Verdict) -> str:
    if len(verdict.parts) == 1:
        return number(verdict.sole)
    return ", ".join(f"{SYMBOLS[part.outcome]} {name}" for name, part in verdict.parts.items() if not part.beyond)


def differences(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Parts that came out differently in two runs, each as `records` has it: claim, part, what either found.

    >>> differences(*([{"claim": "a", "parts": {"b": {"outcome": outcome}}}] for outcome in ("supported", "refuted")))
    [{'claim': 'a', 'part': 'b', 'one': {'outcome': 'supported'}, 'other': {'outcome': 'refuted'}}]

    Raises:
        ValueError: runs of different claims or parts.
    """
    first, second = (
        {(entry["claim"], part): found for entry in run for part, found in entry["parts"].items()}
        for run in (one, other)
    )
    if apart := first.keys() ^ second.keys():
        raise ValueError(f"{', '.join(map(' '.join, sorted(apart)))}: in one run only; compare runs of the same claims")
    return [
        {"claim": claim, "part": part, "one": found, "other": second[claim, part]}
        for (claim, part), found in first.items()
        if found["outcome"] != second[claim, part]["outcome"]
    ]


def records(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The verdicts as `tms reproduce --json` writes them; claims without one are not in it."""
    return [result.verdict.record() for result in results if result.verdict]
