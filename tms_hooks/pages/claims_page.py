"""The page of `tms reproduce`: a row per claim, which opens to its figures, its controls and how it was decided.

`write_markdown` has the same as plain text, without the figures, for `docs/claims.md`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tms_hooks import files
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
        statistic=number,
        results=[(result, design_parts(result.claim.design)) for result in results],
    )


def write_markdown(results: Sequence[Result], out: Path, quick: bool) -> Path:
    """Write `claims.md`: the table, then each claim's paragraph and controls."""
    path = out / "claims.md"
    sources = "; ".join(f"{key}, {name}" for key, name in SOURCES.items())
    values = {"results": results, "quick": quick, "code": code_version(), "rule": RULE, "sources": sources}
    return files.keep(path, report.render("claims.md.j2", **values))


def design_parts(design: str) -> dict[str, str]:
    """What a claim's docstring states, part by part.

    >>> design_parts("It holds.\\n\\nStatistic: a share.\\nThreshold: above\\n1/2. Size: 3. Controls: none.")
    {'Statistic': 'a share.', 'Threshold': 'above 1/2.', 'Size': '3.', 'Controls': 'none.'}
    """
    _, *found = re.split(f"({'|'.join(PARTS)})", " ".join(design.split()))
    return {name.rstrip(":"): text.strip() for name, text in zip(found[::2], found[1::2], strict=True)}
