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
    "phases",
    "rare_features",
    "correlations",
    "nonlinearity",
    "dimensionality",
    "dynamics",
    "bottlenecks",
    "shapes",
    "untied",
    "perfect_circles",
    "biases",
    "softmax",
    "softmax_untied",
    "interference",
    "mlps",
    "memorisation",
    "hexagons",
    "stuck_features",
    "optimizers",
    "tangents",
    "transformers",
    "attention",
    "attention_rank",
    "attention_subspaces",
    "attention_simplices",
    "attention_training",
)
"""The modules that hold claims, in the order in which they are told."""
PARTS = ("Statistic:", "Threshold:", "Size:", "Controls:")
"""What a claim's docstring states after its first line, the claim itself."""


Measure = Callable[[int], Verdict]


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
    measure: Measure

    @property
    def statement(self) -> str:
        """What is claimed, in one line."""
        return self.design.splitlines()[0]

    @property
    def design(self) -> str:
        """The whole docstring: statement, statistic, threshold, size, controls."""
        return cleandoc(self.measure.__doc__ or "")

    def size(self, quick: bool = False) -> int:
        """Its number of models, as its docstring counts them."""
        return self.quick if quick else self.full

    def run(self, quick: bool = False) -> Verdict:
        """Measure and decide."""
        began = time.perf_counter()
        verdict = self.measure(self.size(quick))
        return replace(verdict, claim=self.name, seconds=time.perf_counter() - began)


_claims: dict[str, Claim] = {}


def claim(name: str, source: Source, *, quick: int, full: int) -> Callable[[Measure], Measure]:
    """Register the function below, unchanged, as a claim.

    Raises:
        ValueError: a name that is taken, or a docstring that leaves out one of `PARTS`.
    """

    def register(measure: Measure) -> Measure:
        made = Claim(name, source, quick, full, measure)
        if name in _claims:
            raise ValueError(f"claim {name!r} is registered twice: choose another name")
        if missing := [part for part in PARTS if part not in made.design]:
            raise ValueError(
                f"the docstring of claim {name!r} lacks {', '.join(missing)}: state them before any result"
            )
        _claims[name] = made
        return measure

    return register


def claims() -> dict[str, Claim]:
    """All claims by name, in the order of their families."""
    for family in FAMILIES:
        import_module(f"tms_hooks.claims.{family}")
    return dict(_claims)


def find(names: Iterable[str]) -> list[Claim]:
    """The claims of these names, in the order of `claims()`; "all" is every one.

    Raises:
        KeyError: a name that no claim has.
    """
    known, asked = claims(), set(names)
    for name in asked - known.keys() - {"all"}:
        raise KeyError(f"no claim {name!r}; {did_you_mean(name, known)}")
    return [claim for name, claim in known.items() if name in asked or "all" in asked]
