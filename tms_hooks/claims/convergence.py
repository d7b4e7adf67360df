"""Whether training for longer would change what was measured.

Claims train through `lab`, which asks `steps` how long. Within `longer(3)` every training takes three times as many, so
that the same measurement, of the same seeds, can be repeated on models that were trained for longer.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple, TypeVar

from tms_hooks.claims import seeds

T = TypeVar("T")

FACTOR = 3
"""How much longer the check trains."""
NEGLIGIBLE = 0.01
"""A move by less than this share of the distance to the threshold changes no outcome, however narrow the interval."""
FEWEST = 8
"""Models that the check measures at least: below them no bootstrap has an interval."""


class Convergence(NamedTuple):
    """A statistic on some of the models, and on the same models trained for longer."""

    statistic: float
    interval: tuple[float, float]
    longer: float
    n_models: int

    def holds(self, threshold: float) -> bool:
        """Whether the statistic stays within its interval, or moves by next to nothing of its way to the threshold."""
        small = abs(self.longer - self.statistic) < NEGLIGIBLE * abs(self.statistic - threshold)
        return small or self.interval[0] <= self.longer <= self.interval[1]


class _Length:
    factor = 1
    asked = False


def steps(count: int) -> int:
    """How many steps to train for, of a claim that asks for so many."""
    _Length.asked = True
    return count * _Length.factor


def remembered(trained: Callable[..., T]) -> Callable[..., T]:
    """`functools.cache` for functions that train: what was trained for longer, or from other seeds, is not the same."""

    @seeds.remembered
    def found(factor: int, *given: Any, **named: Any) -> T:
        return trained(*given, **named)

    @wraps(trained)
    def asked(*given: Any, **named: Any) -> T:
        _Length.asked = True
        return found(_Length.factor, *given, **named)

    return asked


@contextmanager
def longer(times: int) -> Generator[None, None, None]:
    """Within it, all that claims train takes so many times the steps."""
    before = _Length.factor
    _Length.factor = times
    try:
        yield
    finally:
        _Length.factor = before


@contextmanager
def trains() -> Generator[list[bool], None, None]:
    """Notes in its list whether anything was trained within it."""
    noted: list[bool] = []
    before, _Length.asked = _Length.asked, False
    try:
        yield noted
    finally:
        noted.append(_Length.asked)
        _Length.asked = before or _Length.asked
