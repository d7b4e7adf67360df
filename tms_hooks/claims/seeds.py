"""From which seed on claims draw.

Model i of a claim has seed i, and whatever else it draws, data or random directions, has a seed of its own. Within
`starting_at(first)` all of these are so many higher, so that the same measurement can be repeated on other models.
What belongs to no sample keeps its seed: points of numerical integration, resamples of a bootstrap.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class _First:
    seed = 0


def first() -> int:
    """The seed of the first model."""
    return _First.seed


def of(seeds: int | range) -> range:
    """The seeds of so many models, or of those that would have these if the first had 0.

    >>> with starting_at(100):
    ...     print(of(3), of(range(5, 7)))
    range(100, 103) range(105, 107)
    """
    asked = range(seeds) if isinstance(seeds, int) else seeds
    return range(first() + asked.start, first() + asked.stop, asked.step)


def generator(seed: int = 0) -> torch.Generator:
    """A source of random numbers that are no model's."""
    return torch.Generator().manual_seed(first() + seed)


def remembered(measured: Callable[..., T]) -> Callable[..., T]:
    """`functools.cache` for what depends on its arguments and the seeds alone, such as a measure of a real model."""

    @cache
    def found(seed: int, *given: Any, **named: Any) -> T:
        return measured(*given, **named)

    @wraps(measured)
    def asked(*given: Any, **named: Any) -> T:
        return found(first(), *given, **named)

    return asked


@contextmanager
def starting_at(seed: int) -> Generator[None, None, None]:
    """Within it, the first model of every claim has this seed."""
    before, _First.seed = _First.seed, seed
    try:
        yield
    finally:
        _First.seed = before
