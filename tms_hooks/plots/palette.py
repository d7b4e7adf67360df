"""One set of colors for all figures, colorblind safe."""

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B2A500", "#808080")
"""Okabe & Ito 2008, with its yellow and black made visible on white and on dark."""

TOY, REAL, NULL = PALETTE[0], PALETTE[5], PALETTE[7]
"""A toy's measurement, a real model's, and the null's: the same colors in every figure."""

SIGNED = "RdBu"
"""For values whose sign matters, in a range symmetric about zero."""


def color(number: int) -> str:
    """The color of the feature, line or group of this number; they come round again."""
    return PALETTE[number % len(PALETTE)]


def color_steps(n: int) -> list[tuple[float, str]]:
    """A color scale of n flat steps, one per number from 0 to n - 1."""
    return [(edge / n, color(i)) for i in range(n) for edge in (i, i + 1)]
