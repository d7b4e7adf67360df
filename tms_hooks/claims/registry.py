"""The registry: a claim is one function whose docstring states, before any result, what is decided and how.

`tms_hooks.claims.design` reads it. The function trains its models by the calls of `lab` and hands them to a judge,
which returns a `Verdict` with the parts that the docstring promises.

Claims of this library stand in families, the modules of this folder that `FAMILIES` names: a new family is a file and a
line there, and each claim needs a test in which it holds and one in which it fails. A claim of your own may stand in
any file. Once that file is imported `claims()` has it, after the families', and `claims()[name].run(quick=True)`
measures it. `reproduce` measures it too, if another process can import its function: from a module on the path, or from
a script that calls `reproduce` under `if __name__ == "__main__"`, not from a notebook. The command `tms reproduce`
imports the families only.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from inspect import cleandoc

from tms_hooks.claims import convergence, seeds
from tms_hooks.claims.design import Statement, statements
from tms_hooks.claims.verdict import Verdict, checked
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
    "rays",
    "shapes",
    "untied",
    "readouts",
    "biases",
    "softmax",
    "interference",
    "mlps",
    "hidden_relu",
    "memorisation",
    "hexagons",
    "stuck_features",
    "data_regimes",
    "absolute_value",
    "tangents",
    "transformers",
    "vocabularies",
    "attention",
    "attention_rank",
    "attention_subspaces",
    "attention_simplices",
    "attention_training",
)
"""The modules that hold this library's claims, in the order in which claims are listed."""
Measure = Callable[[int], Verdict]


@dataclass(frozen=True)
class Claim:
    """One statement to decide.

    Attributes:
        name: as in `tms reproduce NAME`.
        source: the document it comes from, a key of `SOURCES`, or in words where it is none of them.
        quick, full: its size, as stated in the docstring.
        measure: size -> verdict. The same code at either size.
        counts: what the size counts.
        seconds: about how long the full size takes on one core: work is shared out by it until a run has measured it.
    """

    name: str
    source: str
    quick: int
    full: int
    measure: Measure
    counts: str = "models"
    seconds: int = 15

    @property
    def family(self) -> str:
        """The module that it stands in."""
        return self.measure.__module__

    @property
    def statement(self) -> str:
        """What is claimed, in one line."""
        return self.design.splitlines()[0]

    @property
    def design(self) -> str:
        """The whole docstring: what is claimed, and how it is decided."""
        return cleandoc(self.measure.__doc__ or "")

    @property
    def parts(self) -> dict[str, Statement]:
        """What the docstring promises of each part."""
        return statements(self.design)

    def size(self, quick: bool = False) -> int:
        """How many of what it counts it measures."""
        return self.quick if quick else self.full

    def run(self, quick: bool = False, seed: int = 0) -> Verdict:
        """Measure and decide; at full size, also whether training for longer would change what was found.

        Args:
            quick: at the smaller size.
            seed: the first model's; the others follow.
        """
        began = time.perf_counter()
        with seeds.starting_at(seed):
            with convergence.trains() as trained:
                verdict = self.decide(self.measure(self.size(quick)))
            if trained[0] and not quick:
                verdict = self._converged(verdict)
        return replace(verdict, seed=seed, seconds=time.perf_counter() - began)

    def _converged(self, verdict: Verdict) -> Verdict:
        """With each part's statistic on about a third of the models, and on the same models trained for longer."""
        some = min(max(convergence.FEWEST, self.full // 3), self.full)
        before = self.measure(some)
        with convergence.longer(convergence.FACTOR):
            after = self.measure(some)
        parts = {name: checked(part, before.parts[name], after.parts[name]) for name, part in verdict.parts.items()}
        return replace(verdict, parts=parts)

    def decide(self, verdict: Verdict) -> Verdict:
        """A judge's verdict held against what this claim promises.

        Raises:
            ValueError: parts that are not those of the docstring, or a null that is promised and not measured.
        """
        promised = self.parts
        if set(promised) != set(verdict.parts):
            raise ValueError(
                f"claim {self.name!r} was measured in the parts {', '.join(verdict.parts)}, and its docstring has "
                f"{', '.join(promised)}: give the judge the docstring's names"
            )
        for name, statement in promised.items():
            part = verdict.parts[name]
            if statement.has_null and part.null is None and not math.isnan(part.statistic):
                raise ValueError(
                    f'claim {self.name!r} promises that part "{name}" beats a null ({statement.null}), and none was '
                    "measured: give it as `null=`, or say in the docstring why there is none"
                )
        parts = {name: replace(verdict.parts[name], statement=promised[name]) for name in promised}
        return replace(verdict, claim=self.name, parts=parts)


_claims: dict[str, Claim] = {}


def claim(
    name: str, source: str, *, quick: int, full: int, counts: str = "models", seconds: int = 15
) -> Callable[[Measure], Measure]:
    """Register the function below, unchanged, as a claim; run again, in a notebook, it takes its own place.

    Raises:
        ValueError: a name that is taken, or a docstring that does not state what `tms_hooks.claims.design` asks for.
    """

    def register(measure: Measure) -> Measure:
        made = Claim(name, source, quick, full, measure, counts, seconds)
        if name in _claims and _place(_claims[name].measure) != _place(measure):
            raise ValueError(f"claim {name!r} is registered twice: choose another name")
        try:
            statements(made.design)
        except ValueError as error:
            raise ValueError(f"claim {name!r}: {error}") from None
        _claims[name] = made
        return measure

    return register


def claims() -> dict[str, Claim]:
    """All claims by name, in the order of their families; those of other files come last."""
    families = [import_module(f"tms_hooks.claims.{family}").__name__ for family in FAMILIES]
    place = {family: i for i, family in enumerate(families)}
    return dict(sorted(_claims.items(), key=lambda item: place.get(item[1].family, len(place))))


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
