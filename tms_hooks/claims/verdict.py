"""`Verdict`: what became of a claim, decided by an interval and a threshold and by nothing else."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import plotly.graph_objects as go

Side = Literal["above", "below"]
Outcome = Literal["supported", "refuted", "inconclusive"]
Interval = tuple[float, float]

UNKNOWN: Interval = (-math.inf, math.inf)
"""The interval of a statistic that could not be measured: no threshold is outside it."""


def decide(interval: Interval, threshold: float, side: Side = "above") -> Outcome:
    """Supported if the interval lies on the claim's side of the threshold, refuted if on the other, else inconclusive.

    >>> decide((0.6, 0.8), 0.5), decide((0.4, 0.8), 0.5), decide((0.6, 0.8), 0.5, side="below")
    ('supported', 'inconclusive', 'refuted')
    """
    low, high = interval
    if not low <= high:
        raise ValueError(f"interval=({low}, {high}): needs low <= high, and numbers")
    where = "above" if low > threshold else "below" if high < threshold else None
    return "inconclusive" if where is None else "supported" if where == side else "refuted"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim's measurement. The outcome is not stored: it follows from interval, threshold and side.

    Attributes:
        measured: the statistic in words.
        statistic, interval: its value and 95 % interval; NaN and `UNKNOWN` if it could not be measured.
        threshold, side: the claim holds if the statistic is on this side of the threshold.
        n_models: trained models that the verdict rests on, those of the controls not counted.
        controls: named results: the same without the cause, a random cause, another cut-off, what theory gives.
        theory: the closed form's value of the statistic, where there is one.
        detail: what else the numbers say, made from them.
        figures: (caption, plotly figure) pairs.
        claim, seconds: filled in by the registry.
    """

    measured: str
    statistic: float
    interval: Interval
    threshold: float
    side: Side = "above"
    n_models: int
    controls: Mapping[str, float]
    theory: float | None = None
    detail: str
    figures: "Sequence[tuple[str, go.Figure]]" = field(default=(), compare=False)
    claim: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> Outcome:
        """What the numbers decide."""
        return decide(self.interval, self.threshold, self.side)

    @property
    def paragraph(self) -> str:
        """The verdict in words, every number of it measured."""
        low, high = self.interval
        theory = "" if self.theory is None else f" Theory: {self.theory:.3g}."
        found = (
            f"{self.measured} is {self.statistic:.3g} (95 % interval {low:.3g} to {high:.3g}; the claim needs it "
            f"{self.side} {self.threshold:.3g})"
            if math.isfinite(self.statistic)
            else f"{self.measured} could not be measured"
        )
        return f"{self.verdict.capitalize()}: {found}, on {self.n_models:,} models.{theory} {self.detail}"

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


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
