"""What a claim's docstring promises before anything is measured: parts, each with a quote, a threshold and a null.

The docstring is the preregistration, and it is what decides: names, quotes, thresholds and nulls are read from it and
stand nowhere else. Its first line is the claim. A part that the source states follows as

    Part "on a circle": "the model learns some number of features by chance on a circle".
    Statistic: the share of models that ...
    Threshold: above 1/2.
    Null: untrained models.

`Beyond the source "n = 10":` begins an arm that no source has: it is measured, shown and decides nothing. A docstring
without either has one part, "all". Size and controls end the docstring, for all parts.
"""

import re
from fractions import Fraction
from typing import Literal, NamedTuple

Side = Literal["above", "below"]
SOLE = "all"
"""The name of the part of a claim that has only one."""
HEADS = r'(?:Part|Beyond the source) "[^"]+":'
WORDS = ("Statistic:", "Threshold:", "Null:")
"""What each part states."""
ENDS = ("Size:", "Controls:")
"""What the docstring states once, after its parts."""


class Needs(NamedTuple):
    """Where a statistic must lie for its part of a claim to hold."""

    side: Side
    threshold: float


def above(threshold: float) -> Needs:
    """The part holds if its statistic is above the threshold."""
    return Needs("above", threshold)


def below(threshold: float) -> Needs:
    """The part holds if its statistic is below the threshold."""
    return Needs("below", threshold)


class Statement(NamedTuple):
    """A part of a claim as it is promised."""

    name: str
    quote: str
    """The source's words; empty beyond the source, and where a claim is one part."""
    beyond: bool
    statistic: str
    needs: Needs
    null: str
    """The name of what must be beaten; "none, since ..." where there is none to beat."""

    @property
    def has_null(self) -> bool:
        """Whether something must be beaten."""
        return not re.match("none\\b", self.null, re.IGNORECASE)


def statements(design: str) -> dict[str, Statement]:
    """The parts that a docstring states, by name.

    >>> text = '''It holds. Part "one": "all that is". Statistic: a share. Threshold: above
    ... 1/2. Null: untrained models. Size: 3. Controls: none.'''
    >>> statements(text)["one"].needs, statements(text)["one"].quote
    (Needs(side='above', threshold=0.5), 'all that is')

    Raises:
        ValueError: a part that lacks a word of `WORDS`, a threshold that cannot be read, a source's part without a
            quote, two parts of one name, none from the source, or a docstring without one of `ENDS`.
    """
    flat = " ".join(design.split())
    if missing := [word for word in ENDS if word not in flat]:
        raise ValueError(f"the docstring lacks {_quoted(missing)}; state that before any result")
    body = flat[: min(flat.index(word) for word in ENDS)]
    heads = list(re.finditer(HEADS, body))
    if not heads:
        return {SOLE: _statement(SOLE, body, beyond=False, quoted=False)}
    ends = [head.start() for head in heads[1:]] + [len(body)]
    found: dict[str, Statement] = {}
    for head, end in zip(heads, ends, strict=True):
        name, beyond = head[0].split('"')[1], head[0].startswith("Beyond")
        if name in found:
            raise ValueError(f'two parts are named "{name}": give each its own name')
        found[name] = _statement(name, body[head.end() : end], beyond, quoted=not beyond)
    if all(part.beyond for part in found.values()):
        raise ValueError("all parts are beyond the source: a claim has a part that its source states")
    return found


def _quoted(words: list[str]) -> str:
    return " and ".join(f'"{word}"' for word in words)


def _statement(name: str, text: str, beyond: bool, quoted: bool) -> Statement:
    if missing := [word for word in WORDS if word not in text]:
        raise ValueError(f'part "{name}" lacks {_quoted(missing)}; state that before any result')
    lead, statistic, threshold, null = re.split("|".join(WORDS), text, maxsplit=3)
    quote = re.search(r'"(.+)"', lead)
    if quoted and not quote:
        raise ValueError(f'part "{name}" quotes no source: put its words in quotation marks after the name')
    return Statement(
        name, quote[1] if quoted and quote else "", beyond, statistic.strip(), _needs(name, threshold), null.strip()
    )


def _needs(name: str, text: str) -> Needs:
    found = re.match(r"\s*(above|below)\s+(-?\d+(?:\.\d+|/\d+)?)", text)
    if not found:
        raise ValueError(f'part "{name}": threshold "{text.strip()}" cannot be read; begin it as in "above 0.5"')
    return Needs(found[1], float(Fraction(found[2])))  # type: ignore[arg-type]
