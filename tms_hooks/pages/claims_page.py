"""The page of `tms reproduce`: a row per claim, which opens to its figures, its controls and how it was decided.

`write_markdown` has the same as plain text, without the figures, for `docs/claims.md`.
"""

from collections.abc import Sequence
from pathlib import Path

from tms_hooks import files
from tms_hooks.claims.present import MEANINGS, RULE, SYMBOLS, chance, counts, number, part_counts
from tms_hooks.claims.registry import SOURCES
from tms_hooks.claims.reproduce import Result, code_version, commit
from tms_hooks.claims.verdict import OUTCOMES
from tms_hooks.pages import report


def write_page(results: Sequence[Result], out: Path, quick: bool) -> Path:
    """Write `index.html`, self-contained."""
    outcomes = [outcome for outcome in SYMBOLS if any(result.outcome == outcome for result in results)]
    return report.write(
        out / "index.html",
        "Claims, measured",
        "Statements about toy models of superposition, each measured over many models.",
        sections=(),
        footer=f"tms reproduce, {_version(results, quick)}.",
        template="claims.html.j2",
        rule=RULE,
        chance=chance(results),
        counts=counts(results),
        part_counts=part_counts(results),
        by_outcome={outcome: [result for result in results if result.outcome == outcome] for outcome in outcomes},
        sources={key: name for key, name in SOURCES.items() if any(result.claim.source == key for result in results)},
        symbols=SYMBOLS,
        meanings=MEANINGS,
        number=number,
        results=results,
    )


def write_markdown(results: Sequence[Result], out: Path, quick: bool) -> Path:
    """Write `claims.md`: the table, then each claim's paragraph and controls."""
    values = {
        "results": results,
        "quick": quick,
        "version": _version(results, quick),
        "rule": RULE,
        "meanings": {outcome: MEANINGS[outcome] for outcome in OUTCOMES},
        "chance": chance(results),
        "counts": counts(results),
        "part_counts": part_counts(results),
        "beyond_counts": part_counts(results, beyond=True),
        "sources": "; ".join(f"{key}, {name}" for key, name in SOURCES.items()),
        "number_of": number,
    }
    return files.keep(out / "claims.md", report.render("claims.md.j2", **values))


def _version(results: Sequence[Result], quick: bool) -> str:
    size = "quick size, not checked for convergence" if quick else "full size"
    seeds = sorted({result.verdict.seed for result in results if result.verdict} - {0})
    where = f", seeds from {' and '.join(map(str, seeds))}" if seeds else ""
    return f"{size}{where}, code {code_version()}" + (f", commit {commit()}" if commit() else "")
