"""The registry: a claim is one function whose docstring states, before any result, what is decided and how."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from inspect import cleandoc
from typing import Literal

from tms_hooks.claims.verdict import Verdict
from tms_hooks.errors import did_you_mean

Source = Literal["N", "B", "H", "A"]
SOURCES: dict[Source, str] = {
    "N": "notes on Toy Models of Superposition",
    "B": "superposition and bottlenecks",
    "H": "pentagon vs hexagon",
    "A": "pseudo-attention",
}
FAMILIES = (
    "toy_models",
    "bottlenecks",
    "hexagons",
    "stuck_features",
    "optimizers",
    "attention",
    "transformers",
    "tangents",
)
PARTS = ("Statistic:", "Threshold:", "Size:", "Controls:")
"""What a claim's docstring states after its first line, the claim itself."""


@dataclass(frozen=True)
class Claim:
    """One statement to decide.

    Attributes:
        name: as in `tms reproduce NAME`.
        source: the document it comes from, a key of `SOURCES`.
        quick, full: its size, as stated in the docstring.
        measure: size -> verdict. The same code at either size.
    """

    name: str
    source: Source
    quick: int
    full: int
    measure: Callable[[int], Verdict]

    @property
    def statement(self) -> str:
        """What is claimed, in one line."""
        return self.design.splitlines()[0]

    @property
    def design(self) -> str:
        """The whole docstring: statement, statistic, threshold, size, controls."""
        return cleandoc(self.measure.__doc__ or "")

    def run(self, quick: bool = False) -> Verdict:
        """Measure and decide."""
        began = time.perf_counter()
        verdict = self.measure(self.quick if quick else self.full)
        return replace(verdict, claim=self.name, seconds=time.perf_counter() - began)


_claims: dict[str, Claim] = {}


def claim(name: str, source: Source, *, quick: int, full: int) -> Callable[[Callable[[int], Verdict]], Claim]:
    """Register the function below as a claim.

    Raises:
        ValueError: a name that is taken, or a docstring that leaves out one of `PARTS`.
    """

    def register(measure: Callable[[int], Verdict]) -> Claim:
        made = Claim(name, source, quick, full, measure)
        if name in _claims:
            raise ValueError(f"claim {name!r} is registered twice: choose another name")
        if missing := [part for part in PARTS if part not in made.design]:
            raise ValueError(
                f"the docstring of claim {name!r} lacks {', '.join(missing)}: state them before any result"
            )
        _claims[name] = made
        return made

    return register


def claims() -> dict[str, Claim]:
    """All claims by name, in the order of their families."""
    for family in FAMILIES:
        import_module(f"tms_hooks.claims.{family}")
    return dict(_claims)


def find(names: Iterable[str]) -> list[Claim]:
    """The claims of these names; "all" is every one.

    Raises:
        KeyError: a name that no claim has.
    """
    known = claims()
    chosen: dict[str, Claim] = {}
    for name in names:
        if name == "all":
            chosen |= known
        elif name in known:
            chosen[name] = known[name]
        else:
            raise KeyError(f"no claim {name!r}; {did_you_mean(name, known)}")
    return list(chosen.values())
