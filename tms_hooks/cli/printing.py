"""What the commands print: results to standard output, what a person reads while waiting to standard error."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

console, aside = Console(highlight=False), Console(stderr=True, highlight=False)
console.soft_wrap = not console.is_terminal  # a pipe has whole statements and lines, for grep


def tell(text: str, style: str | None = None) -> None:
    """A line as it is: what stands in it, such as a path, may look like markup or an emoji, or be long."""
    console.print(text, style=style, markup=False, emoji=False, soft_wrap=True)


def say(what: str) -> None:
    """What is done next."""
    aside.print(what, style="dim", markup=False, emoji=False, soft_wrap=True)


class Aside(logging.Handler):
    """What the library says of its own accord, as a whole line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Called with what is said."""
        say(self.format(record))


def print_table(table: "pd.DataFrame", title: str) -> None:
    """A DataFrame as a table on the terminal, whose names and numbers are never broken: prose alone is folded.

    In a pipe, and where the terminal is too narrow for that, it is whole lines.
    """
    from pandas.api.types import is_numeric_dtype

    from tms_hooks.pages import report

    names = [name if isinstance(name, tuple) else (name,) for name in table.index]
    columns: dict[str, list[str]] = {
        str(name or ""): [str(row[i]) for row in names] for i, name in enumerate(table.index.names)
    }
    for column in table.columns:
        columns[str(column)] = [report.number(v, ".4g") if isinstance(v, float) else str(v) for v in table[column]]
    numeric = [str(column) for column in table.columns if is_numeric_dtype(table[column])]

    def laid_out(**look: Any) -> Table:
        shown = Table(**look)
        for name, cells in columns.items():
            one_word = not any(" " in cell for cell in cells)
            justify: Literal["left", "right"] = "right" if name in numeric else "left"
            shown.add_column(escape(name), justify=justify, no_wrap=one_word, overflow="fold")
        for row in zip(*columns.values(), strict=True):
            shown.add_row(*map(escape, row))
        return shown

    boxed, wide = laid_out(title=escape(title), title_justify="left"), console.options.update(max_width=WIDEST)
    if console.is_terminal and Measurement.get(console, wide, boxed).minimum <= console.width:
        console.print(boxed)
    else:
        tell(title)
        print_lines(laid_out(box=None, pad_edge=False, padding=(0, 2, 0, 0)))


WIDEST = 100_000
"""Characters in a line that nothing breaks."""


def show(shown: Table) -> None:
    """A table that is laid out for a terminal, and is whole lines elsewhere."""
    (console.print if console.is_terminal else print_lines)(shown)


def print_lines(shown: Table) -> None:
    """A table as whole lines, for `grep` and `cut`: without color, without blanks at their ends."""
    text = Console(width=WIDEST, file=StringIO(), no_color=True, highlight=False)
    text.print(shown)
    for line in text.file.getvalue().splitlines():  # type: ignore[attr-defined]
        tell(line.rstrip())


def records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """A table's rows, the index among their entries."""
    rows: list[dict[str, Any]] = json.loads(table.reset_index().to_json(orient="records", double_precision=15))
    return rows


def write_json(results: object, file: Path | None) -> None:
    """The results for programs: in a file, or on standard output; numbers that are missing are null."""
    if file is None:
        return
    text = json.dumps(results, indent=1)
    if file == Path("-"):
        print(text)
    else:
        from tms_hooks import files

        with nothing_lost():
            files.keep(file, text)
        say(f"The results are in {file}, for programs.")


@contextmanager
def nothing_lost() -> Iterator[None]:
    """A result that could not be written where it should is elsewhere: one line says where, no traceback."""
    try:
        yield
    except OSError as error:
        say(str(error))
        raise typer.Exit(1) from error
