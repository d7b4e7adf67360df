"""What a person sees and does while models train: a progress bar, and Ctrl-C that is heard within about a second."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")


PLAIN = 10.0
"""Seconds between two lines of progress where no bar can be drawn: in a pipe, in a file, in a log."""


@contextmanager
def bar(models: int, steps: int, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar with a rate and the time left, moved by a call with the step that was reached."""
    if not show:
        yield lambda step: None
        return
    what, began = f"training {models:,} model{'s' * (models > 1)}", time.perf_counter()

    def rate(step: int) -> str:
        speed = models * step / max(time.perf_counter() - began, 1e-9)
        return f"step {step:,} of {steps:,}, {speed:,.0f} model steps/s"

    with _shown(what, steps) as move:
        yield lambda step: move(step, rate(step))


def each(items: Sequence[Item], what: str) -> Iterator[Item]:
    """The items one by one, with progress on standard error."""
    with _shown(what, len(items)) as move:
        for done, item in enumerate(items):
            yield item
            move(done + 1, f"{done + 1} of {len(items)}")


@contextmanager
def watched(done: Callable[[], int], total: int, what: str, show: bool) -> Iterator[None]:
    """Progress on standard error of work that others do: twice a second `done` says how much of it is finished."""
    if not show:
        yield
        return
    over = threading.Event()
    with _shown(what, total) as move:

        def look() -> None:
            move(count := done(), f"{count} of {total} finished")

        def watch() -> None:
            while not over.wait(0.5):
                look()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            look()


@contextmanager
def _shown(what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar on standard error, moved by a call with what is done and its words; plain lines if that is no terminal."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        said, last = time.perf_counter(), 0

        def say(done: int, words: str) -> None:
            nonlocal said, last
            if done != last and (time.perf_counter() - said >= PLAIN or done == total):
                said, last = time.perf_counter(), done
                print(f"{what}: {words}", file=sys.stderr, flush=True)

        yield say
        return
    columns = (*progress.Progress.get_default_columns(), progress.TextColumn("{task.fields[words]}"))
    with progress.Progress(*columns, console=console) as bars:
        task = bars.add_task(what, total=total, words="")
        yield lambda done, words: bars.update(task, completed=done, words=words)


PIECE = 0.5
"""Seconds that an engine is to compute at a time, about; between two pieces Ctrl-C is heard."""


class Pace:
    """Cuts the steps between two records into pieces of about `PIECE` seconds, from how long earlier ones took."""

    def __init__(self) -> None:
        self.steps = 1

    def cut(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Pieces from `start` to `stop`, one after another; where both are one step, that alone.

        >>> list(Pace().cut(0, 7)), list(Pace().cut(7, 7))
        ([(0, 1), (1, 3), (3, 7)], [(7, 7)])
        """
        while True:
            end, began = min(start + self.steps, stop), time.perf_counter()
            yield start, end
            if (took := time.perf_counter() - began) < PIECE / 2:
                self.steps *= 2
            elif took > PIECE:
                self.steps = max(self.steps // 2, 1)
            if end == stop:
                return
            start = end


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed; pressed twice, it raises at once.

    The first press must not raise: depending on where it strikes, a thread pool may swallow the exception. A process
    that ignores Ctrl-C, as those do that a shell starts in the background, goes on ignoring it.
    """
    main = threading.current_thread() is threading.main_thread()  # signals go there
    if not main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield lambda: False
        return
    pressed: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
