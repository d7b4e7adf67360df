"""Which parts of claims come out differently on other models: `python docs/_site/other_seeds.py ONE.json OTHER.json`.

The files are those of `tms reproduce all --json ONE.json` and `tms reproduce all --seed 100000 --json OTHER.json`; what
differs is written to docs/findings/other_seeds.md.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tms_hooks.claims.present import differences

PAGE = Path(__file__).parents[1] / "findings" / "other_seeds.md"
TEXT = """# The same claims on other models

All claims were measured twice at full size, by the same code (commit {commit}): once with models, data and random
directions of the seeds from {first}, which is the record of [every claim](../claims.md), and once from {second}. Of
{parts} parts {same} came out the same; of the {stated} that sources state, {same_stated}. {opposite}

Written by `python docs/_site/other_seeds.py` from the files of `tms reproduce all --json`.

| claim | part | seeds from {first} | seeds from {second} |
| --- | --- | --- | --- |
{rows}
"""


def number(part: dict[str, Any]) -> str:
    """Outcome, statistic and interval of a part."""
    if part["statistic"] is None:
        return str(part["outcome"])
    (low, high), (side, threshold) = part["interval"], part["needs"]
    return f"{part['outcome']}: {part['statistic']:.3g} [{low:.3g}, {high:.3g}], needed {side} {threshold:.3g}"


def page(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> str:
    """The page of what differs between two runs."""
    found = differences(one, other)
    parts = [part for entry in one for part in entry["parts"].values()]
    stated = [part for part in parts if not part["beyond the source"]]
    turned = [row for row in found if {row["one"]["outcome"], row["other"]["outcome"]} == {"supported", "refuted"}]
    rows = "\n".join(
        f"| {row['claim']} | {row['part']}{' (beyond the source)' * row['one']['beyond the source']} "
        f"| {number(row['one'])} | {number(row['other'])} |"
        for row in found
    )
    counts = Counter(row["one"]["beyond the source"] for row in found)
    opposite = ", ".join(f"{row['claim']} ({row['part']})" for row in turned)
    return TEXT.format(
        commit=" and ".join(sorted({entry["commit"] for entry in (*one, *other)})),
        first=one[0]["seed"],
        second=other[0]["seed"],
        parts=len(parts),
        same=len(parts) - len(found),
        stated=len(stated),
        same_stated=len(stated) - counts[False],
        opposite=f"From supported to refuted or back went {opposite}."
        if turned
        else "None went from supported to refuted or back.",
        rows=rows,
    )


if __name__ == "__main__":
    PAGE.write_text(page(*(json.loads(Path(file).read_text()) for file in sys.argv[1:3])))
    print(PAGE)
