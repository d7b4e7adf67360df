"""Optimiser updates on flat arrays, with the rounding of `torch_engine.update`."""

from typing import no_type_check

import numpy as np
from numba import njit

from tms_hooks.fused.kernels.lanes import compiled

SGD, RMSPROP, ADAM = 0, 1, 2


@njit(cache=True, inline="always")
@no_type_check
def _eight(c):
    return c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]


@compiled(error_model="numpy")  # a branch on division by zero would keep it from vectorising
@no_type_check
def update(kind, w, g, first, second, constants):
    """`torch_engine.update` on flat arrays, in place: the same rounded operations. False if a weight is not finite."""
    if kind == ADAM:
        decay, beta1, rest1, beta2, rest2, correction, eps, rate = _eight(constants)
        for j in range(len(w)):
            first[j] = first[j] * beta1 + g[j] * rest1
            second[j] = second[j] * beta2 + g[j] * g[j] * rest2
            w[j] = w[j] * decay - first[j] / (np.sqrt(second[j]) / correction + eps) * rate
    elif kind == SGD:
        _, momentum, _, _, _, _, _, rate = _eight(constants)
        for j in range(len(w)):
            first[j] = first[j] * momentum + g[j]
            w[j] = w[j] - first[j] * rate
    else:
        _, _, _, alpha, rest, _, eps, rate = _eight(constants)
        for j in range(len(w)):
            second[j] = second[j] * alpha + g[j] * g[j] * rest
            w[j] = w[j] - g[j] / (np.sqrt(second[j]) + eps) * rate
    finite = True
    for j in range(len(w)):
        finite &= np.isfinite(w[j])
    return finite
