"""Losses and hand-derived gradients of one block of rows."""

import math
from typing import no_type_check

import numpy as np

from tms_hooks.training.kernels.lanes import LANES, compiled, splat, store
from tms_hooks.training.kernels.products import (
    WIDEST,
    add_outer,
    fold,
    product,
    strips_1,
    strips_2,
    strips_3,
    strips_4,
    strips_5,
    strips_6,
)

IDENTITY, RELU, GELU = 0, 1, 2
# Sums over a batch may be reassociated, and products fused into them: without that they do not vectorise.
# NaN and infinity keep their meaning, because divergence is detected by them.
SUMS = {"reassoc", "contract", "nsz"}


@compiled(fastmath=SUMS)
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


@compiled()
@no_type_check
def forward_backward(x, rows, w_e, w_e_t, w_u, w_u_t, tied, b, g_e, g_u, g_b, loss, weight, act, h, g, dh, sums, zeros):
    """Add one block's losses and gradients. `weight` is each feature's importance over the batch size."""
    n, m = w_e.shape
    zero = x.dtype.type(0)
    floor = x.dtype.type(0 if act == RELU else -np.inf)
    if m > WIDEST or act == GELU:
        product(h, zeros, w_e_t, x, rows)
        product(g, b, w_u, h, rows)
        output_errors(g, x, weight, act, loss, g_b, rows)
        for i in range(n):
            for r in range(rows, -(-rows // LANES) * LANES):
                g[i, r] = zero
        add_outer(g_u, g, h, rows, sums)
        product(dh, zeros, w_u_t, g, rows)
        add_outer(g_e, x, dh, rows, sums)
        return
    nought, two = splat(zero), x.dtype.type(2)
    for j in range(len(sums)):
        store(sums, j, 0, nought)
    if m == 1:
        strips_1(x, rows, w_e, w_u, tied, b, weight, floor, g, sums, zero)
    elif m == 2:
        strips_2(x, rows, w_e, w_u, tied, b, weight, floor, g, sums, zero)
    elif m == 3:
        strips_3(x, rows, w_e, w_u, tied, b, weight, floor, g, sums, zero)
    elif m == 4:
        strips_4(x, rows, w_e, w_u, tied, b, weight, floor, g, sums, zero)
    elif m == 5:
        strips_5(x, rows, w_e, w_u, tied, b, weight, floor, g, sums, zero)
    else:
        strips_6(x, rows, w_e, w_u, tied, b, weight, floor, g, sums, zero)
    fold(sums)
    for i in range(n):
        at = i * (2 * m + 2)
        for k in range(m):
            g_u[i, k] += two * sums[(at + k) // LANES, (at + k) % LANES]
        if not tied:
            for k in range(m):
                g_e[i, k] += two * sums[(at + m + k) // LANES, (at + m + k) % LANES]
        at += 2 * m
        g_b[i] += two * sums[at // LANES, at % LANES]
        loss[i] += weight[i] * sums[(at + 1) // LANES, (at + 1) % LANES]


@compiled()
@no_type_check
def empty_row(x, b, g_b, loss, weight, act, g):
    """`forward_backward` for a row without active features: only the biases matter."""
    for i in range(len(b)):
        x[i, 0], g[i, 0] = 0, b[i]
    output_errors(g, x, weight, act, loss, g_b, 1)
