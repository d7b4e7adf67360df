"""Parts of the user's own: classes and functions that the library does not know.

They are asked model by model, so that a model is the same alone and in a crowd; they are tried on a few samples before
training begins; and a run that used them is saved with their names. Whoever loads it gives the parts themselves
(`using=`): a name in a file is never imported.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tms_hooks.linalg import aligned


def model_by_model(function: Callable[..., Tensor], *stacks: Tensor) -> Tensor:
    """What a function makes of each model's part of the stacks, stacked again."""
    return torch.stack([function(*map(aligned, parts)) for parts in zip(*stacks, strict=True)])


def try_out(
    what: str, function: Callable[..., Any], samples: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]
) -> Tensor:
    """What a function makes of a few samples, if it is what it must be.

    Args:
        what: the function's name in messages.
        samples: its arguments, each "batch ...".
        shapes: of which its result must have one.

    Raises:
        ValueError: another shape, a NaN or an infinity, or a sample's result that depends on the other samples.
    """
    found = function(*samples)
    given = f"{what} of {' and '.join(str(tuple(x.shape)) for x in samples)}"
    if not isinstance(found, Tensor):
        raise ValueError(f"{given} gives {type(found).__name__}: must be a tensor")
    if tuple(found.shape) not in shapes:
        raise ValueError(f"{given} has shape {tuple(found.shape)}: must be {' or '.join(map(str, shapes))}")
    if not found.is_floating_point():
        raise ValueError(f"{given} has dtype {found.dtype}: must be that of its input; use .to(x.dtype)")
    if not found.isfinite().all():
        raise ValueError(f"{given} has a NaN or an infinity: must be finite for every sample of the data")
    alone = function(*(x[1:2] for x in samples))
    if not torch.allclose(alone, found[1:2], rtol=1e-4, atol=1e-6):
        raise ValueError(f"{what} gives a sample something else alone than among others: must not mix samples")
    return found


def name_of(function: Callable[..., Any]) -> str:
    """The name by which a saved run knows a function.

    Raises:
        ValueError: it has none.
    """
    name = getattr(function, "__name__", None)
    if name is None:
        raise ValueError(
            f"{function!r} has no name that a saved run could find it by: must be a function made by `def`"
        )
    return str(name)


def plain(value: Any) -> Any:
    """Fields of descriptions as what JSON holds: functions by name, numbers and arrays as Python's own.

    Raises:
        ValueError: what cannot be written down.
    """
    match value:
        case None | str() | bool() | int() | float():
            return value
        case dict():
            return {key: plain(entry) for key, entry in value.items()}
        case list() | tuple():
            return tuple(plain(entry) for entry in value)
        case np.generic() | np.ndarray() | Tensor():
            return plain(value.tolist())
    if callable(value) and not isinstance(value, type):
        return {"function": name_of(value)}
    raise ValueError(
        f"{value!r} ({type(value).__name__}) cannot be saved with a run: must be numbers, words or sequences"
    )


def parts(using: Any) -> list[Any]:
    """The parts that whoever loads a run gives, as a list.

    Raises:
        TypeError: no list, or one with something that is neither a class nor a function.
    """
    if isinstance(using, str | type) or not isinstance(using, Iterable):
        raise TypeError(f"using={using!r}: must be a list; use using=[{getattr(using, '__name__', 'MyTask')}]")
    found = list(using)
    for part in found:
        if not hasattr(part, "__name__"):
            kind = "MyTask" if isinstance(part, str) else type(part).__name__
            raise TypeError(f"using= has {part!r}: must be the class or the function itself, such as using=[{kind}]")
    return found


def by_name(using: Iterable[Any]) -> dict[str, Any]:
    """The parts that whoever loads a run gives, by their names.

    Raises:
        ValueError: two of one name.
    """
    found: dict[str, Any] = {}
    for part in using:
        if found.setdefault(name := name_of(part), part) is not part:
            raise ValueError(f"using= has two parts named {name!r}: give one")
    return found


def names_in(value: Any) -> list[str]:
    """The names of the user's own parts in the plain data of a recipe."""
    match value:
        case {"function": str(name), **rest} if not rest:
            return [name]
        case dict():
            own = [value["kind"]] if value.get("own") else []
            return own + [name for entry in value.values() for name in names_in(entry)]
        case list() | tuple():
            return [name for entry in value for name in names_in(entry)]
    return []


def check_given(names: Iterable[str], using: Mapping[str, Any]) -> None:
    """Raise LookupError if a part of the user's own was not given."""
    wanted = list(dict.fromkeys(names))
    if lacking := [name for name in wanted if name not in using]:
        raise LookupError(
            f"this run used {', '.join(lacking)}, which tms_hooks does not have: give the classes and functions "
            f"themselves, tms.load(path, using=[{', '.join(wanted)}])"
        )


def with_functions(value: Any, using: Mapping[str, Any]) -> Any:
    """Inverse of `plain` for functions."""
    match value:
        case {"function": str(name), **rest} if not rest:
            return using[name]
        case dict():
            return {key: with_functions(entry, using) for key, entry in value.items()}
        case tuple():
            return tuple(with_functions(entry, using) for entry in value)
    return value
