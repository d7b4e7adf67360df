"""What people give `train`, made uniform: answers to what they type, in the forms that a `Recipe` keeps.

A distribution may be samples, an optimizer a name, seeds a number, pairs of heads a mapping; what has one meaning is
taken, and the errors of the rest say what to give.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tms_hooks.config import ToyConfig
from tms_hooks.data import Distribution, Samples
from tms_hooks.errors import check_whole, choice_error, plain
from tms_hooks.losses import Pairs, WeighedPair
from tms_hooks.models import forward
from tms_hooks.training.optimizers import OPTIMIZERS, Adam, Optimizer


def each_head(given: Any, heads: int) -> Sequence[Pairs]:
    """Pairs of every head, from those given for each or those given for all."""

    given = plain(given)
    if len(given) == 2 and all(isinstance(entry, int) for entry in given):  # one pair, which nothing else could be
        given = (given,)

    def is_pair(entry: Any) -> bool:
        return isinstance(entry, Sequence) and len(entry) > 0 and not isinstance(entry[0], Sequence)

    one_for_all = isinstance(given, Mapping) or any(map(is_pair, given))
    return [given] * max(heads, 1) if one_for_all else given


def weighed(head: Any) -> tuple[WeighedPair, ...]:
    """A head's pairs, each with its weight if that is not 1."""
    found: list[WeighedPair] = []
    for pair in head:
        try:
            query, key, *more = (*pair, head[pair]) if isinstance(head, Mapping) else pair
            (weight,) = map(float, more or [1.0])
            found.append((index(query), index(key)) if weight == 1 else (index(query), index(key), weight))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"qk_pairs has {pair!r}: must be two whole numbers (query feature, key feature), such as (2, 4), in a "
                "list; or, with a weight, in a mapping, such as {(2, 4): 2.0}"
            ) from error
    return tuple(found)


def of_function(name: str, part: Any, kind: Callable[[Any], Any], example: str) -> Any:
    """The task, or the loss, that a function is."""
    if isinstance(part, tuple):
        raise ValueError(f"{name}={part!r}: all models of a run have one {name}; train a run per {name}")
    if isinstance(part, type) or not callable(part):
        raise ValueError(
            f"{name}={part!r} is no {name}: give an object such as {example}, not its class, or a function"
        )
    return kind(part)


def check_no_text(**settings: Any) -> None:
    """Raise ValueError for the first setting that is text, which would be taken apart into its letters."""
    for name, value in settings.items():
        if isinstance(value, str):
            raise ValueError(f"{name}={value!r}: must be a number, or a list of them, and no text")


def first(count: Any) -> tuple[int, ...]:
    """The seeds that a number of models stands for."""
    check_whole(seeds=count)
    return tuple(range(count))


def as_data(given: Any) -> Any:
    """A distribution, or the samples that were given for one; or one per model."""
    if isinstance(given, Distribution):
        return given
    if isinstance(given, list | tuple):
        return tuple(as_data(each) for each in given)
    if isinstance(given, type) or not hasattr(given, "shape"):
        raise TypeError(
            f"data={given!r} is no distribution: give an object such as tms.SparseUniform(6, 0.057), a tensor (sample, "
            "feature), or one of your own: a class(tms.Distribution) with the method _draw(keys, batch)"
        )
    return Samples(given)


def as_optimizer(given: Any) -> Any:
    """An optimizer, or that of the name that was given for one, with its own defaults; or one per model."""
    if given is None or isinstance(given, Optimizer):
        return given or Adam()
    if isinstance(given, list | tuple):
        return tuple(as_optimizer(each) for each in given)
    by_name = {name.lower(): cls for name, cls in OPTIMIZERS.items()}
    if not isinstance(given, str):
        name = (given if isinstance(given, type) else type(given)).__name__
        ours = by_name.get(name.lower(), Adam).__name__
        shown = f"{name}(...)" if isinstance(given, torch.optim.Optimizer) else repr(given)  # of many lines
        raise TypeError(f"optimizer={shown}: models are updated by rules of this library; give tms.{ours}(lr=...)")
    if given.lower() not in by_name:
        raise choice_error("optimizer", given, by_name)
    return by_name[given.lower()]()


def recorded(given: Sequence[str] | None, cfg: ToyConfig) -> tuple[str, ...]:
    """Full names of the parameters whose snapshots a history keeps: all of them, or those given, in full or short."""
    full = list(forward.weight_shapes(cfg))
    short = [name.rpartition(".")[2] for name in full]
    wanted = full if given is None else [given] if isinstance(given, str) else list(given)
    for name in wanted:
        if name not in (*full, *short):
            raise choice_error("record", name, short)
    return tuple(name for name, last in zip(full, short, strict=True) if name in wanted or last in wanted)


def tuples(value: Any) -> Any:
    """Lists, such as JSON's, as tuples."""
    if isinstance(value, dict):
        return {key: tuples(entry) for key, entry in value.items()}
    return tuple(tuples(entry) for entry in value) if isinstance(value, list | tuple) else value


def floats(values: Any) -> tuple[Any, ...]:
    """Numbers, or rows of them, as tuples of Python's own."""
    plain = values.tolist() if isinstance(values, np.ndarray | Tensor) else values
    return tuple(float(value) if not isinstance(value, Iterable) else floats(value) for value in plain)
