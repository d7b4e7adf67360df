"""Claims on the terminal: those being measured while they are, and the table of verdicts, readable at 80 columns."""

import time
from collections.abc import Sequence

from rich import get_console
from rich.console import Group
from rich.table import Table

from tms_hooks.claims.present import SYMBOLS, number
from tms_hooks.claims.registry import Claim
from tms_hooks.claims.reproduce import Result

COLORS = {"supported": "green", "refuted": "red", "inconclusive": "yellow", "not run": "dim", "failed": "bold red"}


class Watch:
    """What `rich.live.Live` shows while claims are measured: as many finished ones as fit, and those that run."""

    def __init__(self, total: int):
        self.total = total
        self.began = time.perf_counter()
        self.running: dict[str, float] = {}
        self.results: list[Result] = []

    def started(self, claim: Claim) -> None:
        """A worker has begun this claim."""
        self.running[claim.name] = time.perf_counter()

    def finished(self, result: Result) -> None:
        """This claim is done, or was kept."""
        self.running.pop(result.claim.name, None)
        self.results.append(result)

    def __rich__(self) -> Group:
        """Rich asks for this several times a second."""
        now = time.perf_counter()
        room = max(get_console().height - len(self.running) - 5, 0)
        shown = verdicts(self.results[max(len(self.results) - room, 0) :])
        for name, began in self.running.items():
            shown.add_row(name, "[dim]measuring[/dim]", "", f"{now - began:.0f}")
        done = f"{len(self.results)} of {self.total} claims in {now - self.began:.0f} seconds; Ctrl-C keeps them."
        return Group(shown, done)


def verdicts(results: Sequence[Result]) -> Table:
    """One row a claim: its verdict, its statistic with the 95 % interval, and the seconds it took."""
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("claim", no_wrap=True)
    shown.add_column("verdict", no_wrap=True)
    shown.add_column("number [95 %]", overflow="fold")  # the one that may break
    shown.add_column("seconds", no_wrap=True, justify="right")
    for result in results:
        outcome = f"[{COLORS[result.outcome]}]{SYMBOLS[result.outcome]} {result.outcome}[/]"
        verdict = result.verdict
        seconds = "" if verdict is None else "kept" if result.kept else f"{verdict.seconds:.1f}"
        shown.add_row(result.claim.name, outcome, number(verdict).replace("[", r"\[") if verdict else "", seconds)
    return shown
