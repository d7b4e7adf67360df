"""What the options of commands take: how they are read, and what is refused before any work."""

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tms_hooks.cli.printing import console, say

# Restated from the library, which takes seconds to import; a test holds them against it.
Activation = Literal["identity", "relu", "gelu", "softmax"]
Schedule = Literal["constant", "linear", "cosine", "exponential"]
OptimizerName = Literal["Adam", "AdamW", "SGD", "RMSprop"]


def number(*, whole: bool = False, least: float | int = -math.inf, such_as: str = "") -> dict[str, Any]:
    """How an option reads a number: its error says what was typed, what it must be, and one that would do."""

    def read(text: str | float | int) -> float | int:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            kind = "a whole number" if whole else "a number"
            raise typer.BadParameter(f"{text!r}: must be {kind}" + f", such as {such_as}" * bool(such_as)) from None
        if not value >= least:
            raise typer.BadParameter(f"{text}: must be at least {least:g}" + f", such as {such_as}" * bool(such_as))
        return value

    return {"parser": read, "metavar": "INTEGER" if whole else "FLOAT"}


COUNT = {"whole": True, "least": 1}
FirstSeed = Annotated[
    int, typer.Option(help="The first model's seed; the others follow.", **number(whole=True, least=0))
]
Model = Annotated[str, typer.Option(help="Real transformer: smollm2, gpt2, any name of the hub, a folder.")]


def print_version(wanted: bool) -> bool:
    """Print what is installed and end, if that is wanted."""
    if not wanted:
        return False
    from importlib.metadata import version

    found = (f"{library} {version(library)}" for library in ("torch", "transformer-lens"))
    print(f"tms-hooks {version('tms-hooks')} ({', '.join(found)}, Python {sys.version.split()[0]})")
    raise typer.Exit


def results_alone(file: Path | None) -> Path | None:
    """Where JSON goes to standard output, all that is for people goes to standard error."""
    console.stderr = file == Path("-")
    return file


Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        callback=results_alone,
        help="Write the results to this file as JSON too; - prints them alone.",
    ),
]


def speak_up(verbose: bool) -> bool:
    """What the library says of its own accord is told too, if that is wanted."""
    logging.getLogger("tms_hooks").setLevel(logging.INFO if verbose else logging.NOTSET)
    return verbose


Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", callback=speak_up, help="Say which engine trains, and why no other.")
]
Out = Annotated[Path, typer.Option(help="Folder of the finished claims and the page.")]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer models, wider intervals, the same code.")]


def check_places(*folders: Path | None, size: int = 0) -> None:
    """Refuse, before any work, folders in which nothing could be written, and say which there are not yet."""
    from tms_hooks.files import check_writable

    wanted = dict.fromkeys(folder for folder in folders if folder is not None)
    with usage_errors(OSError):
        for folder in wanted:
            check_writable(folder, size)
    for folder in wanted:
        if not folder.exists():
            say(f"{folder} is a new folder: it is made when there is something to keep in it.")


def check_page(page: Path) -> None:
    """Refuse, before any work, to write a page over a file that is no page of ours."""
    from tms_hooks.pages.report import check_replaceable

    with usage_errors(OSError, option="--out"):
        check_replaceable(page)


def folder_of(file: Path | None) -> Path | None:
    """Where a file of results is to be; none if there is none, or it is standard output."""
    return None if file is None or file == Path("-") else file.parent


def check_extras(**extras: str) -> None:
    """Refuse, before any work, a command whose extra is not installed: library -> the extra that has it."""
    from tms_hooks.errors import check_installed

    try:
        for library, extra in extras.items():
            check_installed(library, extra)
    except ImportError as error:
        raise typer.BadParameter(str(error)) from error


@contextmanager
def usage_errors(*kinds: type[Exception], option: str | None = None) -> Iterator[None]:
    """Errors of these kinds are the user's: one line and exit code 2, no traceback."""
    try:
        yield
    except kinds as error:
        plain = error.args[0] if isinstance(error, KeyError) else error  # the text of a KeyError has quotes around it
        raise typer.BadParameter(str(plain), param_hint=option) from error
