"""Every tool on every architecture of the zoo: checked against an independent computation, or refused with a reason.

Nothing else is allowed: a number that is wrong without a word is the worst that a tool can give. `judges` and
`judges_of_toys` hold the tools against what they do not use; here is the table of their cells, `docs/architectures.md`,
which `python -m tests.probes.test_zoo` writes anew.
"""

import re
import traceback
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.probes import zoo
from tests.probes.judges import LIMIT, RUNS, TOOLS, WEIGHTS, relative_error, subject
from tests.probes.judges_of_toys import OF_TOYS

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architectures.md"


class Cell(NamedTuple):
    error: float | None
    """None where the tool refused."""
    reason: str = ""


@cache
def cell(name: str, tool: str) -> Cell:
    if name in zoo.OTHERS:
        return judged(partial(OF_TOYS[tool], name))
    try:
        made = subject(name)
    except ValueError as error:
        if "Unsupported architecture" in str(error):
            return Cell(None, NO_BRIDGE)
        raise
    return judged(partial(TOOLS[tool], made))


def judged(error_of: Callable[[], float]) -> Cell:
    """The error, or the reason, if the tool itself refused."""
    try:
        return Cell(error_of())
    except (ValueError, IndexError, TypeError) as error:
        file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if file.is_relative_to(ROOT / "probes"):
            return Cell(None, str(error))
        raise


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", zoo.ARCHITECTURES + zoo.OTHERS)
def test_checked_or_refused(name, tool):
    found = cell(name, tool)
    if found.error is None:
        assert len(found.reason) > 10
    else:
        assert found.error < LIMIT


@pytest.mark.parametrize("name", [name for name in zoo.ARCHITECTURES if name not in ("modernbert", "t5")])
def test_the_bridge_computes_what_the_original_does(name):
    with torch.no_grad():
        assert relative_error(subject(name).bridge(zoo.tokens()).double(), subject(name).logits) < LIMIT


@pytest.mark.bridge
def test_the_document_is_of_this_run():
    assert DOCUMENT.read_text() == document()


def document() -> str:
    """`docs/architectures.md`, from the cells."""
    reasons: dict[str, int] = {}
    tables = [_table(tools, reasons) for tools in (WEIGHTS, RUNS)]
    why = "\n".join(f"{number}. {reason}" for reason, number in reasons.items())
    titles = ("## Tools that read weights", "## Tools that run the model")
    parts = [f"{title}\n\n{table}" for title, table in zip(titles, tables, strict=True)]
    return "\n\n".join([INTRODUCTION.strip(), *parts, f"## Why a tool refuses\n\n{why}\n"])


def _table(tools: Iterable[str], reasons: dict[str, int]) -> str:
    rows = []
    for name in zoo.ARCHITECTURES + zoo.OTHERS:
        row = []
        for tool in tools:
            found = cell(name, tool)
            if found.error is not None:
                row.append("checked" if found.error < LIMIT else "**wrong**")
            else:
                reason = re.sub(r" \(relative error [^)]*\)", "", found.reason)
                reason = re.sub(r"\blayer \d(, head \d)?\b", "a layer", reason).replace("block 0", "a block")
                reason = re.sub(r"\bthis [A-Z]\w+", "this model", reason)
                row.append(f"refused {reasons.setdefault(reason, len(reasons) + 1)}")
        rows.append([name, *row])
    head = ["architecture", *tools]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


NO_BRIDGE = "TransformerLens makes no bridge of it"
INTRODUCTION = """# Architectures

Tools tried on small random models of many architectures (two layers, 32 dimensions, no gain or bias at its default) as
bridges of TransformerLens, on a transformer written from scratch in such a bridge, on toys, on a `HookedRootModule`
and, by `probes.hook_modules`, on a plain torch module. *Checked* means that the tool's result agrees, to 1e-4, with a
computation that uses neither the tool nor, where the tool reads weights, the weights: the original's attention, logits,
gradients, residual stream and a step of its training, or an edit of the running model. *Refused* means that the tool
raises an error with the reason that has this number below. The tables are written by `python -m tests.probes.test_zoo`,
and `make test` fails if they are not those of the code. A `HookedTransformer`, which TransformerLens has before 4.0, is
held against the GPT-2 that gives it its weights by `make test-compat`: there it is what `gpt2` is here.

*Folded* is `fold_norm=True`. `align` is given a bottleneck, and a head's Omega; `nearest_tokens` asks behind the final
norm, for what is written, or at the embedding. In the columns of bottlenecks, `mlp.out` is block 0's and `mlp.in` block
1's. Bloom, MPT and Falcon with ALiBi add a bias of the positions to the scores, and Gemma 2 caps them: both are told
apart, and Omega is that of the bilinear part. Of T5 the bridge has an encoder and a decoder, and no `blocks`.
"""


if __name__ == "__main__":
    DOCUMENT.write_text(document())
