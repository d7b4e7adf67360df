"""What errors of bad values say, where many settings share a rule: what was given, what is allowed, what was meant.

Numbers are taken in whatever type they come, and kept as Python's own (`make_plain`).
"""

import inspect
import logging
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from difflib import get_close_matches
from functools import cache, wraps
from importlib.util import find_spec
from numbers import Integral
from typing import Any, TypeVar, cast

log = logging.getLogger(__name__)

Call = TypeVar("Call", bound=Callable[..., Any])


MANY = 30
"""Names that are too many to be listed in an error."""


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Suggestion for a misspelled name, or the names there are; of many, those that are nearest.

    >>> did_you_mean("rellu", ["identity", "relu"])
    "did you mean 'relu'?"
    """
    names = [str(k) for k in known]
    if close := get_close_matches(str(name), names, n=1):
        return f"did you mean {close[0]!r}?"
    if len(names) > MANY:
        return f"nearest of {len(names)} are {', '.join(get_close_matches(str(name), names, n=5, cutoff=0.0))}"
    return f"choose from {', '.join(names)}"


def choice_error(what: str, value: object, known: Iterable[object]) -> ValueError:
    """Error for a value that is none of the known ones."""
    return ValueError(f"{what}={value!r} is not known; {did_you_mean(value, known)}")


def check_at_least_one(**settings: int) -> None:
    """Raise ValueError for the first setting that is below 1."""
    for name, value in settings.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")


def check_not_negative(**settings: float | int) -> None:
    """Raise ValueError for the first setting that is negative, infinite or NaN."""
    for name, value in settings.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value}: must be finite and not negative")


@cache
def say_once(hint: str) -> None:
    """Log a hint as a warning, the first time that it is to be given."""
    log.warning(hint)


def check_whole(**settings: object) -> None:
    """Raise ValueError for the first setting that is no whole number; a truth value is none."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{name}={value!r}: must be a whole number")


def plain(value: Any) -> Any:
    """A number of numpy or torch as Python's own, an array of them as nested tuples; anything else as it is.

    >>> import numpy, torch
    >>> plain(numpy.int64(3)), plain(torch.tensor(0.5)), plain([numpy.float32(2), "mse"])
    (3, 0.5, (2.0, 'mse'))
    """
    for method in ("to_numpy", "tolist"):  # the first of labeled arrays
        value = getattr(value, method)() if hasattr(value, method) and not isinstance(value, type) else value
    return tuple(plain(entry) for entry in value) if isinstance(value, list | tuple) else value


def make_plain(description: Any) -> None:
    """Make every field of a frozen dataclass `plain`, so that it compares, hashes and is saved as it is.

    Raises:
        ValueError: a field of type int that is no whole number, or one of type float that is no number.
    """
    for field in fields(description):
        value = plain(getattr(description, field.name))
        if field.type is int:
            check_whole(**{field.name: value})
        if field.type in (float, float | int) and isinstance(value, bool | str | None):
            raise ValueError(f"{field.name}={value!r}: must be a number")
        object.__setattr__(description, field.name, value)


def explained(**elsewhere: str) -> Callable[[Call], Call]:
    """A decorator: the function, or the class, says what was meant when it is given arguments that it does not take.

    Args:
        elsewhere: argument -> where that one belongs, for those that people look for here.

    >>> @explained(lr="optimizer=tms.Adam(lr=...)")
    ... def train(steps=1): ...
    >>> train(lr=0.1)
    Traceback (most recent call last):
    TypeError: train has no argument 'lr'; use optimizer=tms.Adam(lr=...)
    """

    def decorate(call: Call) -> Call:
        is_class = isinstance(call, type)
        if isinstance(call, type) and "__init__" not in vars(call) and issubclass(call, tuple):
            return call  # a named tuple is made by `__new__`
        inner = call.__init__ if is_class else call
        parameters = list(inspect.signature(inner).parameters.values())[is_class:]
        kinds = {p.kind for p in parameters}
        names = [p.name for p in parameters]
        in_order = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]

        @wraps(inner)
        def outer(*args: Any, **named: Any) -> Any:
            for name in named:
                if name not in names and inspect.Parameter.VAR_KEYWORD not in kinds:
                    hint = f"use {elsewhere[name]}" if name in elsewhere else did_you_mean(name, names)
                    raise TypeError(f"{call.__name__} has no argument {name!r}; {hint}")
            if len(args) - is_class > len(in_order) and inspect.Parameter.VAR_POSITIONAL not in kinds:
                raise TypeError(
                    f"{call.__name__} takes {len(in_order)} arguments without a name ({', '.join(in_order)}), and "
                    f"{len(args) - is_class} were given; name the others: {', '.join(names[len(in_order) :])}"
                )
            return inner(*args, **named)

        if is_class:
            setattr(call, "__init__", outer)  # noqa: B010 (the class itself stays: it is what `isinstance` asks for)
        return call if is_class else cast(Call, outer)

    return decorate


def explain_all(package: str) -> None:
    """Make every function that a package offers by name `explained`, in the module too that defines it."""
    face = sys.modules[package]
    for name in face.__all__:
        if callable(function := getattr(face, name)) and not isinstance(function, type):
            outer = explained()(function)
            setattr(face, name, outer)
            setattr(sys.modules[function.__module__], name, outer)  # where pickle looks for it


def check_finite(**settings: float | int) -> None:
    """Raise ValueError for the first setting that is infinite or NaN."""
    for name, value in settings.items():
        if not math.isfinite(value):
            raise ValueError(f"{name}={value}: must be finite")


def check_installed(module: str, extra: str) -> None:
    """Raise ImportError, with the line that installs the extra, if a library that it has is not there."""
    if find_spec(module) is None:
        raise ImportError(f"{module} is not installed; run: pip install 'tms-hooks[{extra}]'")
