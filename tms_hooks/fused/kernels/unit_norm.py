"""Directions of norm 1 with a learned scale: the matrices that a batch works with, and back to the parameters."""

import math
from typing import no_type_check

from tms_hooks.fused.kernels.lanes import compiled

SMALLEST = 1e-12  # as in torch.nn.functional.normalize


@compiled()
@no_type_check
def normalise(to, w, unit, scale):
    """`to` is `scale` times `w`, or times its rows divided by their norms."""
    for i in range(len(w)):
        square = w.dtype.type(0)
        for k in range(w.shape[1]):
            square += w[i, k] * w[i, k]
        norm = max(w.dtype.type(math.sqrt(square)), w.dtype.type(SMALLEST)) if unit else w.dtype.type(1)
        for k in range(w.shape[1]):
            to[i, k] = scale * (w[i, k] / norm)


@compiled()
@no_type_check
def add_slopes(g, d, w, unit, scale):
    """Add to `g`, of `w`, what follows from the slopes `d` in what `normalise` makes of `w`; the slope in `scale`."""
    in_scale = w.dtype.type(0)
    for i in range(len(w)):
        square, along = w.dtype.type(0), w.dtype.type(0)
        for k in range(w.shape[1]):
            square += w[i, k] * w[i, k]
            along += d[i, k] * w[i, k]
        norm = max(w.dtype.type(math.sqrt(square)), w.dtype.type(SMALLEST)) if unit else w.dtype.type(1)
        in_scale += along / norm
        # Only a row whose norm is divided by loses what points along it.
        along = along / (norm * norm) if unit and norm > w.dtype.type(SMALLEST) else w.dtype.type(0)
        for k in range(w.shape[1]):
            g[i, k] += scale * ((d[i, k] - along * w[i, k]) / norm)
    return in_scale
