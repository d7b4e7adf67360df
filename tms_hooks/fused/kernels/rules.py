"""What optimizers, distributions and tasks say of themselves, compiled: rules of one update, loops that draw a batch.

`compiled_from` compiles a function that was written for torch or for plain Python, with numpy where it says `torch` and
the compiled `draws` where it says `rng`. A `choice` of the functions of all classes in a table calls one by its number.
"""

import inspect
import math
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any, NamedTuple, no_type_check

import numpy as np
import torch
from numba.np.unsafe.ndarray import to_fixed_tuple

from tms_hooks import rng
from tms_hooks.data import DISTRIBUTIONS
from tms_hooks.fused.kernels import draws
from tms_hooks.fused.kernels.lanes import choice, compiled, inner
from tms_hooks.fused.kernels.unit_norm import SMALLEST
from tms_hooks.tasks import TASKS
from tms_hooks.training.optimizers import OPTIMIZERS

UPDATED = tuple(OPTIMIZERS.values())
DRAWN = tuple(cls for cls in DISTRIBUTIONS.values() if cls.loop())
ASKED = tuple(cls for cls in TASKS.values() if cls.loop())
"""Classes whose functions are compiled here, as the tables have them on import; their places are their numbers."""

MOMENTS = 4
"""Arguments of a rule before its scalars: a parameter, its gradient and two moments."""


class Drawn(NamedTuple):
    """Which distribution draws a batch, and what its loop must know."""

    number: int
    numbers: Any


class Asked(NamedTuple):
    """Which task says what the targets are, and what its loop must know."""

    number: int
    """Its place in `ASKED`; -1 where the targets are given."""
    numbers: Any
    """What its loop must know; of targets that are given, those of an empty row."""


@lru_cache
def compiled_from(function: Callable[..., Any]) -> Any:
    """The function compiled, to be inlined where it is called."""
    function = inspect.unwrap(function)  # a run-time type checker's wrapper
    assert isinstance(function, FunctionType)
    scope = {
        name: np if value is torch else draws if value is rng else value for name, value in function.__globals__.items()
    }
    twin = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    return inner(twin)


@lru_cache
def _over_entries(rule: Callable[..., Any]) -> Any:
    """A rule of one update as a loop over flat arrays, in place."""
    count = len(inspect.signature(rule).parameters) - MOMENTS
    compiled_rule = compiled_from(rule)

    @inner
    @no_type_check
    def loop(w, gradient, first, second, row):
        scalars = to_fixed_tuple(row, count)
        for j in range(len(w)):
            w[j], first[j], second[j] = compiled_rule(w[j], gradient[j], first[j], second[j], *scalars)

    return loop


_update = choice([_over_entries(cls.rule) for cls in UPDATED])
_fill = choice([compiled_from(cls.loop()) for cls in DRAWN])
_target = choice([compiled_from(cls.loop()) for cls in ASKED])


@compiled()
@no_type_check
def update(optimizer, w, gradient, first, second, scalars):
    """One update of flat arrays in place, by the rule of that number. False if a weight is not finite."""
    _update(optimizer, (w, gradient, first, second, scalars))
    finite = True
    for j in range(len(w)):
        finite &= np.isfinite(w[j])
    return finite


@compiled()
@no_type_check
def shrink(w, parts, kept):
    """Before an update, in place: what `Optimizer.kept` says of each row. Parts are (start, rows, entries of a row)."""
    for part in range(len(parts)):
        at, width = parts[part, 0], parts[part, 2]
        for _ in range(parts[part, 1]):
            share, square = kept[part, 0], w.dtype.type(0)
            if kept[part, 1] != 0:
                for j in range(at, at + width):
                    square += w[j] * w[j]
                share += kept[part, 1] / max(w.dtype.type(math.sqrt(square)), w.dtype.type(SMALLEST))
            for j in range(at, at + width):
                w[j] *= share
            at += width


@compiled()
@no_type_check
def draw(x, drawn, key, first_row, rows, batch, room):
    """Rows `first_row`, ... of a batch of `batch` rows into `x[:, :rows]`."""
    for i in range(len(x)):
        for r in range(rows):
            x[i, r] = 0
    _fill(drawn.number, (x, drawn.numbers, key, first_row, rows, batch, room))


@compiled()
@no_type_check
def target(y, x, asked, rows):
    """The targets of the rows `x[:, :rows]` into `y[:, :rows]`."""
    _target(asked.number, (y, x, asked.numbers, rows))
