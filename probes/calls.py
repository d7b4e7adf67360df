"""What a tool says when it is given an argument that it does not have, and what its results say of themselves."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any

from probes.hooked import nearest


def explained(function: Callable[..., Any], called: str = "") -> Callable[..., Any]:
    """The function, which names the nearest of its arguments when it is given one that it does not have.

    >>> explained(lambda model, hooks=None: hooks)(0, hook="hook_hidden")
    Traceback (most recent call last):
    TypeError: <lambda> has no argument 'hook'; did you mean 'hooks'?
    """
    called = called or function.__name__
    parameters = {name: each for name, each in inspect.signature(function).parameters.items() if name != "self"}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    @wraps(function)
    def outer(*args: Any, **named: Any) -> Any:
        for name in named if not takes_any else ():
            if name not in parameters:
                raise TypeError(f"{called} has no argument {name!r}; {nearest(name, parameters)}")
        return function(*args, **named)

    return outer


def brief(result: Any) -> str:
    """A result as its fields, with the shapes of its tensors in place of their numbers.

    >>> from probes.circuits import Circuit
    >>> import torch
    >>> brief(Circuit(*torch.zeros(5, 2, 2)))
    'Circuit(left: (2, 2), right: (2, 2), U: (2, 2), S: (2, 2), Vh: (2, 2))'
    """
    names = getattr(result, "_fields", None) or [field.name for field in fields(result)]
    shown = (f"{name}: {_shape(getattr(result, name))}" for name in names)
    return f"{type(result).__name__}({', '.join(shown)})"


def _shape(value: Any) -> str:
    if hasattr(value, "shape"):
        return str(tuple(value.shape))
    nested = isinstance(value, tuple) and any(hasattr(entry, "shape") or isinstance(entry, tuple) for entry in value)
    return f"{len(value)} of them" if nested else repr(value)


def explain_all(package: str) -> None:
    """Make every function that a package offers by name `explained`, in the module too that defines it.

    Of a class, `__init__` is.
    """
    face = sys.modules[package]
    for name in face.__all__:
        function = getattr(face, name)
        if isinstance(function, type):
            if is_dataclass(function):
                setattr(function, "__init__", explained(function.__init__, name))  # noqa: B010
        elif callable(function):
            outer = explained(function)
            setattr(face, name, outer)
            setattr(sys.modules[function.__module__], name, outer)  # where pickle looks for it
