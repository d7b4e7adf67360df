"""What errors of bad values say, where many settings share a rule: what was given, what is allowed, what was meant."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Suggestion for a misspelled name, or the names there are.

    >>> did_you_mean("rellu", ["identity", "relu"])
    "did you mean 'relu'?"
    """
    names = [str(k) for k in known]
    close = get_close_matches(str(name), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(names)}"


def choice_error(what: str, value: object, known: Iterable[object]) -> ValueError:
    """Error for a value that is none of the known ones."""
    return ValueError(f"{what}={value!r} is not known; {did_you_mean(value, known)}")


def check_at_least_one(**settings: int) -> None:
    """Raise ValueError for the first setting that is below 1."""
    for name, value in settings.items():
        if value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")


def check_not_negative(**settings: float) -> None:
    """Raise ValueError for the first setting that is negative, infinite or NaN."""
    for name, value in settings.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value}: must be finite and not negative")


def check_installed(module: str, extra: str) -> None:
    """Raise ImportError, with the line that installs the extra, if a library that it has is not there."""
    if find_spec(module) is None:
        raise ImportError(f"{module} is not installed; run: pip install 'tms-hooks[{extra}]'")
