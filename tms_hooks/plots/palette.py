"""One set of colours for all figures, colour-blind safe."""

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B2A500", "#808080")
"""Okabe & Ito 2008, with its yellow and black made visible on white and on dark."""

TOY, REAL, NULL = PALETTE[0], PALETTE[5], PALETTE[7]
"""A toy's measurement, a real model's, and the null's: the same colours in every figure."""

SIGNED = "RdBu"
"""For values whose sign matters, in a range symmetric about zero."""
