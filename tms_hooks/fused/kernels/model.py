"""Losses and hand-derived gradients of one block of rows."""

import math
from typing import no_type_check

import numpy as np

from tms_hooks.fused.kernels.lanes import (
    LANES,
    add,
    at_most,
    compiled,
    first_lanes,
    fma,
    load,
    mul,
    splat,
    store,
    sub,
    total,
    where,
)
from tms_hooks.fused.kernels.products import (
    WIDEST,
    add_outer,
    add_sparse_outer,
    find_entries,
    fold,
    product,
    sparse_product,
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
        slope = weight[i] + weight[i]
        if act == GELU:
            square, g_bias = zero, zero
            for r in range(rows):
                logit = out[i, r]
                below = half * (one + math.erf(logit * root_half))
                error = logit * below - x[i, r]
                square += error * error
                g = slope * error * (below + logit * density * math.exp(-half * logit * logit))
                out[i, r] = g
                g_bias += g
        else:
            nought, lowest = splat(zero), splat(floor)
            squares, slopes = nought, nought
            for r in range(0, rows, LANES):
                logits = load(out, i, r)
                clipped = at_most(logits, lowest)
                errors = sub(where(clipped, lowest, logits), load(x, i, r))
                errors = where(first_lanes(rows - r), errors, nought)
                squares = fma(errors, errors, squares)
                errors = where(clipped, nought, mul(errors, splat(slope)))
                slopes = add(slopes, errors)
                store(out, i, r, errors)
            square, g_bias = total(squares), total(slopes)
        loss[i] += weight[i] * square
        g_b[i] += g_bias


@compiled()
@no_type_check
def forward_backward(
    x, rows, w_e, w_e_t, w_u, w_u_t, tied, b, g_e, g_u, g_b, loss, weight, act, h, g, dh, sums, zeros, entries
):
    """Add one block's losses and gradients. `weight` is each feature's importance over the batch size.

    A wide hidden layer is computed from the single entries of `x`, if there is room for them in `entries`.
    """
    n, m = w_e.shape
    zero = x.dtype.type(0)
    floor = x.dtype.type(0 if act == RELU else -np.inf)
    if m > WIDEST or act == GELU:
        count = find_entries(entries, x, rows)
        if count < 0:
            product(h, zeros, w_e_t, x, rows)
        else:
            sparse_product(h, w_e, x, rows, entries, count)
        product(g, b, w_u, h, rows)
        output_errors(g, x, weight, act, loss, g_b, rows)
        for i in range(n):
            for r in range(rows, -(-rows // LANES) * LANES):
                g[i, r] = zero
        add_outer(g_u, g, h, rows, sums)
        product(dh, zeros, w_u_t, g, rows)
        if count < 0:
            add_outer(g_e, x, dh, rows, sums)
        else:
            add_sparse_outer(g_e, x, dh, entries, count)
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
def empty_row(b, g_b, loss, weight, act):
    """`forward_backward` for a row without active features: only the biases matter."""
    zero, one, half = b.dtype.type(0), b.dtype.type(1), b.dtype.type(0.5)
    root_half, density = b.dtype.type(math.sqrt(0.5)), b.dtype.type(1 / math.sqrt(2 * math.pi))
    for i in range(len(b)):
        out, slope = b[i], one
        if act == GELU:
            below = half * (one + math.erf(b[i] * root_half))
            out, slope = b[i] * below, below + b[i] * density * math.exp(-half * b[i] * b[i])
        elif act == RELU and b[i] <= zero:
            out, slope = zero, zero
        loss[i] += weight[i] * out * out
        g_b[i] += (weight[i] + weight[i]) * out * slope
