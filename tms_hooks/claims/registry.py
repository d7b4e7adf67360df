"""The registry: a claim is one function whose docstring states, before any result, what is decided and how.

The docstring's first line is the claim; `PARTS` follow. The function trains its models by the calls of `lab` and hands
them to a judge, which returns a `Verdict`. The docstring's threshold must be the decorator's: what a reader is promised
decides.

Claims of this library stand in families, the modules of this folder that `FAMILIES` names: a new family is a file and a
line there, and each claim needs a test in which it holds and one in which it fails. A claim of your own may stand in
any file. Once that file is imported `claims()` has it, after the families', and `claims()[name].run(quick=True)`
measures it. `reproduce` measures it too, if another process can import its function: from a module on the path, or from
a script that calls `reproduce` under `if __name__ == "__main__"`, not from a notebook. The command `tms reproduce`
imports the families only.
"""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib import import_module
from inspect import cleandoc

from tms_hooks.claims.verdict import Needs, Verdict
from tms_hooks.errors import did_you_mean

SOURCES = {
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
    "biases",
    "softmax",
    "interference",
    "mlps",
    "memorisation",
    "hexagons",
    "stuck_features",
    "tangents",
    "transformers",
    "attention",
    "attention_rank",
    "attention_subspaces",
    "attention_simplices",
    "attention_training",
)
"""The modules that hold this library's claims, in the order in which claims are listed."""
PARTS = ("Statistic:", "Threshold:", "Size:", "Controls:")
"""What a claim's docstring states after its first line, the claim itself."""
Measure = Callable[[int], Verdict]


@dataclass(frozen=True)
class Claim:
    """One statement to decide.

    Attributes:
        name: as in `tms reproduce NAME`.
        source: the document it comes from, a key of `SOURCES`, or in words where it is none of them.
        quick, full: its size, as stated in the docstring.
        needs: the side of which threshold its statistic must be on, as stated in the docstring.
        measure: size -> verdict. The same code at either size.
        counts: what the size counts.
    """

    name: str
    source: str
    quick: int
    full: int
    needs: Needs
    measure: Measure
    counts: str = "models"

    @property
    def statement(self) -> str:
        """What is claimed, in one line."""
        return self.design.splitlines()[0]

    @property
    def design(self) -> str:
        """The whole docstring: statement, statistic, threshold, size, controls."""
        return cleandoc(self.measure.__doc__ or "")

    def size(self, quick: bool = False) -> int:
        """How many of what it counts it measures."""
        return self.quick if quick else self.full

    def run(self, quick: bool = False) -> Verdict:
        """Measure and decide."""
        began = time.perf_counter()
        verdict = self.decide(self.measure(self.size(quick)))
        return replace(verdict, seconds=time.perf_counter() - began)

    def decide(self, verdict: Verdict) -> Verdict:
        """A judge's verdict held against this claim's threshold."""
        side, threshold = self.needs
        return replace(verdict, claim=self.name, side=side, threshold=threshold)


_claims: dict[str, Claim] = {}


def claim(
    name: str, source: str, *, quick: int, full: int, needs: Needs, counts: str = "models"
) -> Callable[[Measure], Measure]:
    """Register the function below, unchanged, as a claim; run again, in a notebook, it takes its own place.

    Raises:
        ValueError: a name that is taken, a docstring that leaves out one of `PARTS`, or states another threshold.
    """

    def register(measure: Measure) -> Measure:
        made = Claim(name, source, quick, full, needs, measure, counts)
        if name in _claims and _place(_claims[name].measure) != _place(measure):
            raise ValueError(f"claim {name!r} is registered twice: choose another name")
        if missing := [part for part in PARTS if part not in made.design]:
            raise ValueError(
                f"the docstring of claim {name!r} lacks {', '.join(missing)}: state them before any result"
            )
        if (stated := stated_needs(made.design)) != needs:
            found = "none that can be read, such as 'above 0.5'" if stated is None else "{} {:g}".format(*stated)
            raise ValueError(
                f"claim {name!r} needs its statistic {needs.side} {needs.threshold:g}, and the threshold that its "
                f"docstring states is {found}: make them one"
            )
        _claims[name] = made
        return measure

    return register


def stated_needs(design: str) -> Needs | None:
    """The side and threshold that a design states, None if it states none.

    >>> stated_needs("It holds. Statistic: a share. Threshold: above 1/2, for each.")
    Needs(side='above', threshold=0.5)
    """
    found = re.search(r"Threshold:\s+(above|below)\s+(-?\d+(?:\.\d+|/\d+)?)", design)
    return Needs(found[1], float(Fraction(found[2]))) if found else None  # type: ignore[arg-type]


def claims() -> dict[str, Claim]:
    """All claims by name, in the order of their families; those of other files come last."""
    families = [import_module(f"tms_hooks.claims.{family}").__name__ for family in FAMILIES]
    place = {family: i for i, family in enumerate(families)}
    return dict(sorted(_claims.items(), key=lambda item: place.get(item[1].measure.__module__, len(place))))


def _place(measure: Measure) -> tuple[str, str]:
    return measure.__module__, measure.__qualname__


def find(names: Iterable[str]) -> list[Claim]:
    """The claims of these names, in the order of `claims()`; "all" is every one.

    Raises:
        KeyError: a name that no claim has.
    """
    known, asked = claims(), set(names)
    for name in asked - known.keys() - {"all"}:
        raise KeyError(f"no claim {name!r}; {did_you_mean(name, known)}")
    return [claim for name, claim in known.items() if name in asked or "all" in asked]
