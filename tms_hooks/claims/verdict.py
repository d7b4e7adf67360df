"""`Verdict`: what became of a claim, part by part, decided by intervals, thresholds and nulls and by nothing else.

A claim says before it is measured which parts it has and what each needs (`tms_hooks.claims.design`). Its judge turns
trained models into a `Verdict` of `Part`s: `share` where a share of models decides, `statistic` where any other
function of samples does. Outcomes are not stored: they follow from the numbers and from what the claim needs, which the
registry fills in.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, cast, get_args

import numpy as np

from tms_hooks import stats
from tms_hooks.claims.convergence import Convergence
from tms_hooks.claims.design import Needs, Side, Statement

if TYPE_CHECKING:
    import plotly.graph_objects as go

    Figures = Mapping[str, go.Figure] | Sequence[tuple[str, go.Figure]]

Outcome = Literal[
    "supported",
    "refuted",
    "too few models",
    "at the threshold",
    "not measurable",
    "not converged",
    "does not distinguish",
]
OUTCOMES = get_args(Outcome)
IN_PART = "in part"
"""The headline of a claim whose parts have different outcomes."""
RESOLUTION = 0.05
"""What is known to lie within so much of a threshold is at it; shares and cosines are of size 1, and where a threshold
is larger than 1, so much of it counts."""
Interval = tuple[float, float]

UNKNOWN: Interval = (-math.inf, math.inf)
"""The interval of a statistic that could not be measured: no threshold is outside it."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that a claim says, measured.

    Attributes:
        measured: the statistic in words.
        statistic, interval: its value and 95 % interval: what single models typically do. NaN and `UNKNOWN` if it could
            not be measured.
        n, unit: what was sampled, and how many of it.
        null: the statistic of what must be beaten; None where there is nothing to beat.
        margin: 95 % interval of the statistic less the null's.
        optimum: the statistic of the model of lowest exact loss.
        why: why it could not be measured.
        convergence: the statistic of models trained for longer; None where nothing is trained, or it was not tried.
        statement: what the claim promised of this part; filled in by the claim.
    """

    measured: str
    statistic: float
    interval: Interval
    n: int
    unit: str = "models"
    null: float | None = None
    margin: Interval | None = None
    optimum: float | None = None
    why: str = ""
    convergence: Convergence | None = None
    statement: Statement | None = None

    @property
    def needs(self) -> Needs:
        """What its claim needs of it.

        Raises:
            ValueError: no claim has decided it.
        """
        if self.statement is None:
            raise ValueError(
                "no claim has decided this part: hand its verdict to `Claim.decide`, which knows the threshold"
            )
        return self.statement.needs

    @property
    def beyond(self) -> bool:
        """Whether it is an arm that no source has."""
        return self.statement is not None and self.statement.beyond

    @property
    def outcome(self) -> Outcome:
        """What the numbers decide.

        Raises:
            ValueError: no claim has decided it, or an interval whose ends are not in order.
        """
        needs = self.needs
        where = side_of(self.interval, needs.threshold)
        if where is None and math.isnan(self.statistic):
            return "not measurable"
        if self.convergence and not self.convergence.holds(needs.threshold):
            return "not converged"
        if where is None:
            return "at the threshold" if self._reach <= self._resolution else "too few models"
        if where != needs.side:
            return "refuted"
        beaten = self.margin is None or side_of(self.margin, 0.0) == needs.side
        return "supported" if beaten else "does not distinguish"

    @property
    def n_to_decide(self) -> float:
        """How many of its unit would end "too few models", were the statistic the same.

        An interval shrinks with the square root of the sample: until the threshold is outside, or until all of it is at
        the threshold. So with more of a kind an outcome goes from too few, by way of the threshold or not, to one of
        the sides, and never back.
        """
        low, high = (abs(end - self.statistic) for end in self.interval)
        off = self.statistic - self.needs.threshold
        near, far = (low, high) if off > 0 else (high, low)
        shrunk = [near / abs(off)] if off else []
        if (room := self._resolution - abs(off)) > 0:
            shrunk.append(max(far / room, near / (self._resolution + abs(off))))
        return self.n * min(shrunk) ** 2

    @property
    def _reach(self) -> float:
        """The distance from the threshold to the end of the interval that is farther from it."""
        return max(abs(end - self.needs.threshold) for end in self.interval)

    @property
    def _resolution(self) -> float:
        return RESOLUTION * max(1.0, abs(self.needs.threshold))

    @property
    def p(self) -> float:
        """Two-sided p-value of the statistic against the threshold, read off the interval as if it were normal."""
        from scipy.stats import norm

        distance = self.statistic - self.needs.threshold
        half = self.statistic - self.interval[0] if distance > 0 else self.interval[1] - self.statistic
        if math.isnan(half) or math.isinf(half):
            return math.nan
        return (
            1.0 if distance == 0 else 0.0 if half == 0 else float(2 * norm.sf(abs(distance) / half * norm.ppf(0.975)))
        )

    @property
    def paragraph(self) -> str:
        """The outcome in words, every number of it measured."""
        (low, high), (side, threshold) = self.interval, self.needs
        needs = f"needed: {side} {threshold:.3g}"
        if math.isfinite(self.statistic):
            found = f"{self.measured} is {self.statistic:.3g} (95 % interval {low:.3g} to {high:.3g}; {needs})"
        elif math.isfinite(low) and math.isfinite(high):  # a share without trials, beside others that have some
            found = f"{self.measured} could not be measured, but it lies between {low:.3g} and {high:.3g} ({needs})"
        else:
            found = f"{self.measured} could not be measured{f', since {self.why}' if self.why else ''}"
        text = f"{self.outcome.capitalize()}: {found}, on {self.n:,} {self.unit}."
        if self.statement and self.null is not None:
            margin = "" if self.margin is None else f" (difference {self.margin[0]:.3g} to {self.margin[1]:.3g})"
            text += f" Null, {self.statement.null.rstrip('.')}: {self.null:.3g}{margin}."
        if self.optimum is not None:
            text += f" The model of lowest loss: {self.optimum:.3g}."
        if self.outcome == "too few models":
            text += f" About {self.n_to_decide:,.0f} {self.unit} would decide."
        if self.convergence:
            before, after = self.convergence.statistic, self.convergence.longer
            text += f" Trained three times as long: {after:.3g} for {before:.3g}, on {self.convergence.n_models}."
        return text

    def record(self) -> dict[str, Any]:
        """The entry of `tms reproduce --json`; a number that is not finite becomes null."""
        assert self.statement is not None, "`outcome` is asked first"
        return {
            "quote": self.statement.quote,
            "beyond the source": self.beyond,
            "outcome": self.outcome,
            "measured": self.measured,
            "statistic": _finite(self.statistic),
            "interval": [_finite(end) for end in self.interval],
            "needs": list(self.needs),
            "null": None if self.null is None else _finite(self.null),
            "margin": None if self.margin is None else [_finite(end) for end in self.margin],
            "optimum": None if self.optimum is None else _finite(self.optimum),
            "n": self.n,
            "unit": self.unit,
            "p": _finite(self.p),
            "convergence": None if self.convergence is None else self.convergence._asdict(),
        }


def side_of(interval: Interval, threshold: float) -> Side | None:
    """On which side of a threshold the whole interval lies, None if it holds the threshold.

    >>> side_of((0.6, 0.8), 0.5), side_of((0.4, 0.8), 0.5), side_of((0.5, 0.8), 0.5)
    ('above', None, None)

    Raises:
        ValueError: an interval whose ends are not in order.
    """
    low, high = interval
    if not low <= high:
        raise ValueError(f"interval=({low}, {high}): needs low <= high")
    return "above" if low > threshold else "below" if high < threshold else None


def share(
    measured: str,
    held: "tuple[int, int] | np.ndarray | list[bool]",
    *,
    null: "tuple[int, int] | np.ndarray | list[bool] | float | None" = None,
    best: float | None = None,
    unit: str = "models",
) -> Part:
    """A share of models, with Wilson's interval.

    >>> share("The share", (9, 10), null=(1, 10)).statistic
    0.9

    Args:
        measured: the statistic in words.
        held: (successes, trials), or what succeeded as an array or a list of booleans, one per model.
        null: the same of what must be beaten, or its share, where that is known.
        best: whether it holds for the model of lowest exact loss.
        unit: what the trials are.
    """
    successes, trials = counted(held)
    if not trials:
        return unmeasurable(measured, f"there are no {unit} to count", unit)

    def less(null: Any) -> tuple[float, Interval]:
        others, of = counted(null)
        return (others / of, stats.newcombe((successes, trials), (others, of))) if of else (math.nan, UNKNOWN)

    interval = stats.wilson(successes, trials)
    return _part_of(measured, successes / trials, interval, trials, unit, null, less, best)


def statistic(
    measured: str,
    function: Callable[..., float],
    *samples: np.ndarray,
    null: Sequence[np.ndarray] | float | None = None,
    best: float | None = None,
    unit: str = "models",
) -> Part:
    """A function of independent samples, with its bootstrap interval.

    >>> statistic("The mean", np.mean, np.ones(3)).why
    'a bootstrap needs 8 models, and there are 3'

    Args:
        measured: the statistic in words.
        function: of the samples, each resampled along its first axis: a row per model.
        null: the samples of what must be beaten, for the same function; or its value, where that is known.
        best: the value of the model of lowest exact loss.
        unit: what the rows are.
    """
    fewest = min(map(len, samples)) if samples else 0
    if fewest < stats.FEWEST:
        return unmeasurable(measured, f"a bootstrap needs {stats.FEWEST} {unit}, and there are {fewest}", unit)
    value, interval = float(function(*samples)), UNKNOWN
    if not math.isnan(value):
        interval = stats.bootstrap(function, *samples)
    if math.isnan(value) or any(map(math.isnan, interval)):
        return unmeasurable(measured, "it is not a number, for these or for some resampled ones", unit)

    def less(null: Sequence[np.ndarray]) -> tuple[float, Interval]:
        if min(map(len, null)) < stats.FEWEST or math.isnan(known := float(function(*null))):
            return math.nan, UNKNOWN
        margin = stats.bootstrap(difference, *samples, *null)
        return known, UNKNOWN if any(map(math.isnan, margin)) else margin

    def difference(*both: np.ndarray) -> float:
        return float(function(*both[: len(samples)])) - float(function(*both[len(samples) :]))

    return _part_of(measured, value, interval, fewest, unit, null, less, best)


def _part_of(
    measured: str,
    value: float,
    interval: Interval,
    n: int,
    unit: str,
    null: Any,
    less: Callable[[Any], tuple[float, Interval]],
    best: float | None,
) -> Part:
    """With its null: a known number, or samples, of which `less` gives the statistic and the margin to it."""
    known: float | None = None
    margin: Interval | None = None
    if isinstance(null, (int, float)):
        known, margin = float(null), (interval[0] - null, interval[1] - null)
    elif null is not None:
        known, margin = less(null)
    return Part(
        measured=measured,
        statistic=value,
        interval=interval,
        n=n,
        unit=unit,
        null=known,
        margin=margin,
        optimum=None if best is None else float(best),
    )


def unmeasurable(measured: str, why: str, unit: str = "models") -> Part:
    """A part for which there is nothing to measure."""
    return Part(measured=measured, statistic=math.nan, interval=UNKNOWN, n=0, unit=unit, why=why)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim's measurement.

    Attributes:
        parts: name -> what was measured, in the order in which they are shown.
        n_models: trained models that the verdict rests on, those of the controls not counted; or so many of `unit`.
        controls: named results: the same without the cause, a random cause, another cut-off, what theory gives.
        theory: the closed form's value of the statistic, where there is one.
        detail: what else the numbers say, made from them.
        figures: (caption, plotly figure) pairs; or caption -> figure.
        claim, seconds: filled in by the claim.
        seed: the first model's.
        commit: that of the code, and with it of what the claim promised; filled in by `reproduce`.
    """

    parts: Mapping[str, Part]
    n_models: int
    unit: str = "models"
    controls: Mapping[str, SupportsFloat]
    theory: SupportsFloat | None = None
    detail: str
    figures: "Figures" = field(default=(), compare=False)
    claim: str = ""
    seconds: float = 0.0
    seed: int = 0
    commit: str = ""

    def __post_init__(self) -> None:
        """Numbers are plain floats, figures are pairs."""
        given = self.figures
        plain = {
            "controls": {name: float(value) for name, value in self.controls.items()},
            "theory": None if self.theory is None or math.isnan(float(self.theory)) else float(self.theory),
            "figures": tuple(given.items()) if isinstance(given, Mapping) else tuple(given),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @property
    def sole(self) -> Part:
        """The only part of a claim that has one.

        Raises:
            ValueError: a claim of several parts.
        """
        if len(self.parts) > 1:
            raise ValueError(f"the verdict has parts: ask one of {', '.join(map(repr, self.parts))} of `parts`")
        [part] = self.parts.values()
        return part

    @property
    def pictures(self) -> "Sequence[tuple[str, go.Figure]]":
        """`figures` as pairs, which they are once the verdict is made."""
        return cast("Sequence[tuple[str, go.Figure]]", self.figures)

    @property
    def verdict(self) -> str:
        """What became of all that the source states: their outcome if they agree, else "in part"."""
        stated = {part.outcome for part in self.parts.values() if not part.beyond}
        return stated.pop() if len(stated) == 1 else IN_PART

    @property
    def paragraph(self) -> str:
        """The verdict in words, every number of it measured."""
        told = [part.paragraph for part in self.parts.values()]
        if len(told) > 1:
            places = [" (beyond the source)" if part.beyond else "" for part in self.parts.values()]
            told = [f"{name}{place}: {text}" for name, place, text in zip(self.parts, places, told, strict=True)]
        theory = [] if self.theory is None else [f"Theory: {self.theory:.3g}."]
        return " ".join([*told, *theory, self.detail]).rstrip()

    def record(self) -> dict[str, Any]:
        """The entry of `tms reproduce --json`; a number that is not finite becomes null."""
        return {
            "claim": self.claim,
            "verdict": self.verdict,
            "parts": {name: part.record() for name, part in self.parts.items()},
            "n_models": self.n_models,
            "unit": self.unit,
            "seconds": round(self.seconds, 3),
            "seed": self.seed,
            "commit": self.commit,
            "controls": {name: _finite(value) for name, value in self.controls.items()},
        }

    def to_json(self) -> str:
        """All of it, figures included, as text that `from_json` reads."""
        plain = {name: value for name, value in vars(self).items() if name not in ("figures", "parts")}
        parts = {
            name: vars(part)
            | {"convergence": part.convergence and part.convergence._asdict()}
            | {"statement": part.statement and part.statement._asdict() | {"needs": tuple(part.statement.needs)}}
            for name, part in self.parts.items()
        }
        figures = [(caption, figure.to_json()) for caption, figure in self.pictures]
        return json.dumps(plain | {"parts": parts, "controls": dict(self.controls), "figures": figures}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Verdict":
        """Read what `to_json` wrote."""
        import plotly.io as pio

        plain = json.loads(text)
        figures = tuple((caption, pio.from_json(figure)) for caption, figure in plain.pop("figures"))
        parts = {name: _part(part) for name, part in plain.pop("parts").items()}
        return cls(parts=parts, figures=figures, **plain)


def _part(plain: dict[str, Any]) -> Part:
    made = plain | {name: plain[name] and tuple(plain[name]) for name in ("interval", "margin")}
    if tried := plain["convergence"]:
        made["convergence"] = Convergence(**tried | {"interval": tuple(tried["interval"])})
    if promised := plain["statement"]:
        made["statement"] = Statement(**promised | {"needs": Needs(*promised["needs"])})
    return Part(**made)


def checked(part: Part, before: Part, after: Part) -> Part:
    """A part with the statistic of some of its models, and of the same ones trained for longer."""
    if math.isnan(before.statistic):
        return part
    return replace(part, convergence=Convergence(before.statistic, before.interval, after.statistic, before.n))


def counted(held: "tuple[int, int] | np.ndarray | list[bool]") -> tuple[int, int]:
    """Successes and trials; of an array or a list of booleans, those that are true and all."""
    held = np.array(held, bool) if isinstance(held, list) else held
    return held if isinstance(held, tuple) else (int(held.sum()), len(held))


def _finite(value: SupportsFloat) -> float | None:
    return float(value) if math.isfinite(float(value)) else None
