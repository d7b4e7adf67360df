"""The page of `tms reproduce`: a row per claim, which opens to its figures, its controls and how it was decided."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tms_hooks.claims.present import RULE, SYMBOLS, counts, number
from tms_hooks.claims.registry import PARTS, SOURCES
from tms_hooks.claims.reproduce import Result, code_version
from tms_hooks.pages import report


def write_page(results: Sequence[Result], out: Path, quick: bool) -> Path:
    """Write `index.html`, self-contained."""
    return report.write(
        out / "index.html",
        "Claims, measured",
        f"Statements about toy models of superposition, each measured over many models. {RULE}",
        sections=(),
        footer=f"tms reproduce, {'quick' if quick else 'full'} size, code {code_version()}.",
        template="claims.html.j2",
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


def _controls(result: Result) -> pd.DataFrame | None:
    if not (result.verdict and result.verdict.controls):
        return None
    return pd.Series(dict(result.verdict.controls), name="value").to_frame()
