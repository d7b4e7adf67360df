"""Directions of norm 1 with a learned scale: the matrix that a batch works with, and gradients back through it."""

import math
from typing import no_type_check

from tms_hooks.fused.kernels.lanes import compiled

SMALLEST = 1e-12  # as in torch.nn.functional.normalize


@compiled()
@no_type_check
def normalize(to, w, unit, scale):
    """`to` becomes `scale` times `w`; with `unit`, each row of `w` is divided by its norm first."""
    for i in range(len(w)):
        square = w.dtype.type(0)
        for k in range(w.shape[1]):
            square += w[i, k] * w[i, k]
        norm = max(w.dtype.type(math.sqrt(square)), w.dtype.type(SMALLEST)) if unit else w.dtype.type(1)
        for k in range(w.shape[1]):
            to[i, k] = scale * (w[i, k] / norm)


@compiled()
@no_type_check
def add_gradients(g, d, w, unit, scale):
    """The backward pass of `normalize`: from the gradients `d` in its result to those in `w` and in `scale`.

    Those in `w` are added to `g`; the one in `scale` is returned.
    """
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
