"""Losses and hand-derived gradients of one block of rows."""

import math
from typing import no_type_check

import numpy as np
from numba import njit

from tms_hooks.training.kernels.products import (
    SUMS,
    WIDEST,
    add_outer,
    add_product,
    features_1,
    features_2,
    features_3,
    features_4,
    features_5,
    features_6,
)

IDENTITY, RELU, GELU = 0, 1, 2


@njit(cache=True, fastmath=SUMS)
@no_type_check
def output_errors(out, x, weight, act, loss, g_b, rows):
    """Losses of one block and their slopes in the biases; `out`, logits, becomes their slope in the logits."""
    zero, one, half = x.dtype.type(0), x.dtype.type(1), x.dtype.type(0.5)
    root_half, density = x.dtype.type(math.sqrt(0.5)), x.dtype.type(1 / math.sqrt(2 * math.pi))
    floor = x.dtype.type(0 if act == RELU else -np.inf)
    for i in range(len(x)):
        square, g_bias, slope = zero, zero, weight[i] + weight[i]
        if act == GELU:
            for r in range(rows):
                logit = out[i, r]
                below = half * (one + math.erf(logit * root_half))
                error = logit * below - x[i, r]
                square += error * error
                g = slope * error * (below + logit * density * math.exp(-half * logit * logit))
                out[i, r] = g
                g_bias += g
        else:
            for r in range(rows):
                logit = out[i, r]
                clipped = logit <= floor
                error = (floor if clipped else logit) - x[i, r]
                square += error * error
                g = zero if clipped else slope * error
                out[i, r] = g
                g_bias += g
        loss[i] += weight[i] * square
        g_b[i] += g_bias


@njit(cache=True)
@no_type_check
def decode(x, rows, w_u, w_u_t, b, g_u, g_b, loss, weight, act, h, g, dh):
    """From a block's hidden layer on: its losses, the gradients of the unembed, and `dh` of the hidden layer."""
    n, m = w_u.shape
    zero = x.dtype.type(0)
    floor = x.dtype.type(0 if act == RELU else -np.inf)
    if m > WIDEST or act == GELU:
        for i in range(n):
            for r in range(rows):
                g[i, r] = b[i]
        add_product(g, w_u, h, rows)
        output_errors(g, x, weight, act, loss, g_b, rows)
        add_outer(g_u, g, h, rows)
    elif m == 1:
        features_1(g, x, h, w_u, b, weight, floor, loss, g_u, g_b, rows, zero)
    elif m == 2:
        features_2(g, x, h, w_u, b, weight, floor, loss, g_u, g_b, rows, zero)
    elif m == 3:
        features_3(g, x, h, w_u, b, weight, floor, loss, g_u, g_b, rows, zero)
    elif m == 4:
        features_4(g, x, h, w_u, b, weight, floor, loss, g_u, g_b, rows, zero)
    elif m == 5:
        features_5(g, x, h, w_u, b, weight, floor, loss, g_u, g_b, rows, zero)
    else:
        features_6(g, x, h, w_u, b, weight, floor, loss, g_u, g_b, rows, zero)
    add_product(dh, w_u_t, g, rows)


@njit(cache=True)
@no_type_check
def forward_backward(x, rows, w_e, w_e_t, w_u, w_u_t, b, g_e, g_u, g_b, loss, weight, act, h, g, dh):
    """Add one block's losses and gradients. `weight` is each feature's importance over the batch size."""
    m, zero = len(h), x.dtype.type(0)
    for k in range(m):
        for r in range(rows):
            h[k, r] = zero
            dh[k, r] = zero
    add_product(h, w_e_t, x, rows)
    decode(x, rows, w_u, w_u_t, b, g_u, g_b, loss, weight, act, h, g, dh)
    add_outer(g_e, x, dh, rows)


@njit(cache=True)
@no_type_check
def empty_row(x, b, g_b, loss, weight, act, g):
    """`forward_backward` for a row without active features: only the biases matter."""
    for i in range(len(b)):
        x[i, 0], g[i, 0] = 0, b[i]
    output_errors(g, x, weight, act, loss, g_b, 1)
