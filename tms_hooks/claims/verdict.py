"""`Verdict`: what became of a claim, decided by an interval and a threshold and by nothing else.

A claim says before it is measured which side of which threshold its statistic needs to be on (`above(0.5)`). Its judge
turns trained models into a `Verdict`: `Verdict.of_shares` where shares of models decide, `Verdict.of_statistic` where
any other function of samples does. Both own the interval and the case that nothing could be measured. The outcome is
not stored: it follows from the interval and the threshold, which the registry fills in.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from tms_hooks import stats

if TYPE_CHECKING:
    import plotly.graph_objects as go

    Figures = Mapping[str, go.Figure] | Sequence[tuple[str, go.Figure]]

Side = Literal["above", "below"]
Outcome = Literal["supported", "refuted", "inconclusive"]
Interval = tuple[float, float]

UNKNOWN: Interval = (-math.inf, math.inf)
"""The interval of a statistic that could not be measured: no threshold is outside it."""


class Needs(NamedTuple):
    """Where a claim's statistic must lie for the claim to hold."""

    side: Side
    threshold: float


def above(threshold: float) -> Needs:
    """The claim holds if its statistic is above the threshold."""
    return Needs("above", threshold)


def below(threshold: float) -> Needs:
    """The claim holds if its statistic is below the threshold."""
    return Needs("below", threshold)


def decide(interval: Interval, threshold: float, side: Side = "above") -> Outcome:
    """Supported if the interval lies on the claim's side of the threshold, refuted if on the other, else inconclusive.

    >>> decide((0.6, 0.8), 0.5), decide((0.4, 0.8), 0.5), decide((0.6, 0.8), 0.5, side="below")
    ('supported', 'inconclusive', 'refuted')

    Raises:
        ValueError: an interval whose ends are not in order, or a threshold that no claim has set.
    """
    low, high = interval
    if not low <= high:
        raise ValueError(f"interval=({low}, {high}): needs low <= high")
    if math.isnan(threshold):
        raise ValueError("threshold=nan: no claim has decided this verdict; hand it to `Claim.decide`")
    where = "above" if low > threshold else "below" if high < threshold else None
    return "inconclusive" if where is None else "supported" if where == side else "refuted"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim's measurement.

    Attributes:
        measured: the statistic in words.
        statistic, interval: its value and 95 % interval; NaN if it could not be measured, and then `UNKNOWN`, or what
            those of its parts leave open that could.
        n_models: trained models that the verdict rests on, those of the controls not counted; or so many of `unit`.
        controls: named results: the same without the cause, a random cause, another cut-off, what theory gives.
        theory: the closed form's value of the statistic, where there is one.
        detail: what else the numbers say, made from them.
        figures: (caption, plotly figure) pairs.
        claim, threshold, side, seconds: filled in by the claim; until then asking for the outcome is an error.
    """

    measured: str
    statistic: float
    interval: Interval
    n_models: int
    unit: str = "models"
    controls: Mapping[str, float]
    theory: float | None = None
    detail: str
    figures: "Sequence[tuple[str, go.Figure]]" = field(default=(), compare=False)
    claim: str = ""
    threshold: float = math.nan
    side: Side = "above"
    seconds: float = 0.0

    @classmethod
    def of_shares(
        cls,
        measured: str,
        parts: Mapping[str, "tuple[int, int] | np.ndarray"],
        *,
        figures: "Figures | Callable[[], Figures]" = (),
        **rest: Any,
    ) -> "Verdict":
        """The smallest of several shares, which all must pass; of several, `measured` also names the smallest.

        A part without trials could lie anywhere from 0 to 1; another that fails decides all the same.

        >>> Verdict.of_shares("The share", {"": (9, 10)}, n_models=10, controls={}, detail="").statistic
        0.9

        Args:
            measured: the statistic in words.
            parts: name -> (successes, trials), or what succeeded as an array of booleans.
            figures: caption -> figure, or a function that makes them, called only if the statistic could be measured.
            rest: other attributes.
        """
        counts = {name: counted(part) for name, part in parts.items()}
        found = stats.weakest_share(counts)
        measured = f"{measured} ({found.part})" if len(parts) > 1 else measured
        # Of several parts, those that could be measured can still refute.
        interval = found.interval if any(trials for _, trials in counts.values()) else UNKNOWN
        return cls._measured(measured, found.share, interval, figures, rest)

    @classmethod
    def of_statistic(
        cls,
        measured: str,
        statistic: Callable[..., float],
        *samples: np.ndarray,
        figures: "Figures | Callable[[], Figures]" = (),
        **rest: Any,
    ) -> "Verdict":
        """A function of independent samples, with its bootstrap interval.

        It could not be measured with a sample of fewer than two, nor if it is NaN, of all samples or when resampled.

        >>> Verdict.of_statistic("The mean", np.mean, np.ones(1), n_models=1, controls={}, detail="").interval
        (-inf, inf)

        Args are those of `of_shares`; `statistic` takes the samples, each resampled along its first axis.
        """
        value, interval = math.nan, UNKNOWN
        if samples and min(map(len, samples)) > 1 and not math.isnan(found := float(statistic(*samples))):
            resampled = stats.bootstrap(statistic, *samples)
            if not any(map(math.isnan, resampled)):
                value, interval = found, resampled
        return cls._measured(measured, value, interval, figures, rest)

    @classmethod
    def _measured(cls, measured: str, statistic: float, interval: Interval, figures: Any, rest: Any) -> "Verdict":
        if math.isnan(statistic):
            figures = ()
        shown = figures() if callable(figures) else figures
        theory = rest.pop("theory", None)
        return cls(
            measured=measured,
            statistic=statistic,
            interval=interval,
            controls={name: float(value) for name, value in rest.pop("controls").items()},
            theory=None if theory is None or math.isnan(theory) else float(theory),
            figures=tuple(shown.items()) if isinstance(shown, Mapping) else shown,
            **rest,
        )

    @property
    def verdict(self) -> Outcome:
        """What the numbers decide."""
        return decide(self.interval, self.threshold, self.side)

    @property
    def paragraph(self) -> str:
        """The verdict in words, every number of it measured."""
        low, high = self.interval
        theory = "" if self.theory is None else f" Theory: {self.theory:.3g}."
        needs = f"the claim needs it {self.side} {self.threshold:.3g}"
        if math.isfinite(self.statistic):
            found = f"{self.measured} is {self.statistic:.3g} (95 % interval {low:.3g} to {high:.3g}; {needs})"
        elif math.isfinite(low) and math.isfinite(high):  # a part without trials, beside others that have some
            found = f"{self.measured} could not be measured, but it lies between {low:.3g} and {high:.3g} ({needs})"
        else:
            found = f"{self.measured} could not be measured"
        return f"{self.verdict.capitalize()}: {found}, on {self.n_models:,} {self.unit}.{theory} {self.detail}"

    def record(self) -> dict[str, Any]:
        """The entry of `tms reproduce --json`; a number that is not finite becomes null."""
        return {
            "claim": self.claim,
            "verdict": self.verdict,
            "statistic": _finite(self.statistic),
            "interval": [_finite(end) for end in self.interval],
            "n_models": self.n_models,
            "seconds": round(self.seconds, 3),
            "controls": {name: _finite(value) for name, value in self.controls.items()},
        }

    def to_json(self) -> str:
        """All of it, figures included, as text that `from_json` reads."""
        plain = {name: value for name, value in vars(self).items() if name != "figures"}
        figures = [(caption, figure.to_json()) for caption, figure in self.figures]
        return json.dumps(plain | {"controls": dict(self.controls), "figures": figures}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Verdict":
        """Read what `to_json` wrote."""
        import plotly.io as pio

        plain = json.loads(text)
        figures = tuple((caption, pio.from_json(figure)) for caption, figure in plain.pop("figures"))
        return cls(**plain | {"interval": tuple(plain["interval"]), "figures": figures})


def counted(part: "tuple[int, int] | np.ndarray") -> tuple[int, int]:
    """Successes and trials; of an array of booleans, those that are true and all."""
    return part if isinstance(part, tuple) else (int(part.sum()), len(part))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
