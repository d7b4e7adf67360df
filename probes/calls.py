"""What a tool says when it is given an argument that it does not have."""

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from probes.hooked import nearest


def explained(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which names the nearest of its arguments when it is given one that it does not have.

    >>> explained(lambda model, hooks=None: hooks)(0, hook="hook_hidden")
    Traceback (most recent call last):
    TypeError: <lambda> has no argument 'hook'; did you mean 'hooks'?
    """
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    @wraps(function)
    def outer(*args: Any, **named: Any) -> Any:
        for name in named if not takes_any else ():
            if name not in parameters:
                raise TypeError(f"{function.__name__} has no argument {name!r}; {nearest(name, parameters)}")
        return function(*args, **named)

    return outer


def explain_all(package: str) -> None:
    """Make every function that a package offers by name `explained`, in the module too that defines it."""
    face = sys.modules[package]
    for name in face.__all__:
        if callable(function := getattr(face, name)) and not isinstance(function, type):
            outer = explained(function)
            setattr(face, name, outer)
            setattr(sys.modules[function.__module__], name, outer)  # where pickle looks for it
