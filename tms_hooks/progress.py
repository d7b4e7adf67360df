"""What a person sees and does while models train: a progress bar, and Ctrl-C that is heard within about a second."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def bar(models: int, steps: int, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar with a rate and the time left, moved by a call with the step that was reached."""
    if not show:
        yield lambda step: None
        return
    from rich import progress
    from rich.console import Console

    columns = (*progress.Progress.get_default_columns(), progress.TextColumn("{task.fields[rate]}"))
    began = time.perf_counter()
    with progress.Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(f"training {models:,} model{'s' * (models > 1)}", total=steps, rate="")

        def move(step: int) -> None:
            rate = models * step / max(time.perf_counter() - began, 1e-9)
            shown.update(task, completed=step, rate=f"step {step:,} of {steps:,}, {rate:,.0f} model steps/s")

        yield move


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

    The first press must not raise: depending on where it strikes, a thread pool may swallow the exception.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals go to the main thread
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
