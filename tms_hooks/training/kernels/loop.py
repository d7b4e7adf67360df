"""Whole training runs of one model: draw, forward, backward, update, all in cache."""

from typing import no_type_check

import numpy as np
from numba import njit

from tms_hooks.training.kernels.draws import batch_key, draw_sparse_uniform
from tms_hooks.training.kernels.lanes import LANES, compiled
from tms_hooks.training.kernels.model import empty_row, forward_backward
from tms_hooks.training.kernels.updates import update

BLOCK = 256  # rows worked on together, or more,
LINE = 64
SMALL = 8192  # if that leaves no more entries than this


@compiled()
@no_type_check
def copy(to, source):
    """`to[:] = source` for flat arrays."""
    for j in range(len(to)):
        to[j] = source[j]


@compiled()
@no_type_check
def transpose(to, source):
    """`to[:] = source.T`."""
    for i in range(len(source)):
        for k in range(len(to)):
            to[k, i] = source[i, k]


@njit(cache=True)
@no_type_check
def aligned(rows, columns, like):
    """Zeros of shape (rows, columns) from a cache line's start on, so that no vector straddles two."""
    flat = np.zeros(rows * columns + LINE, like.dtype)
    skip = -flat.ctypes.data % LINE // flat.itemsize
    return flat[skip : skip + rows * columns].reshape((rows, columns))


@njit(cache=True)
@no_type_check
def train_one(
    w,
    first,
    second,
    diverged_at,
    seed,
    n,
    m,
    tied,
    biased,
    act,
    start,
    stop,
    kind,
    constants,
    weight,
    empty_weight,
    rows,
    dataset,
    largest,
    scale,
    loss_out,
    gradient_out,
):
    """`advance` for one model."""
    size, dtype = len(w), w.dtype
    block = -(-min(max(SMALL // n, BLOCK), rows) // (2 * LANES)) * 2 * LANES
    g, matrix, at = np.empty(size, dtype), n * m, 0 if tied else n * m
    w_e, g_e = w[:matrix].reshape((n, m)), g[:matrix].reshape((n, m))
    w_u, g_u = w[at : at + matrix].reshape((n, m)), g[at : at + matrix].reshape((n, m))
    w_e_t = np.empty((m, n), dtype)
    w_u_t = w_e_t if tied else np.empty((m, n), dtype)
    at += matrix
    b, g_b = (w[at:], g[at:]) if biased else (np.zeros(n, dtype), np.zeros(n, dtype))
    x, logits, sums = (
        aligned(n, block + LANES, w),
        aligned(n, block + LANES, w),
        aligned(-(-n * (2 * m + 2) // LANES) * LANES, LANES, w),
    )
    h, dh, loss = aligned(m, block + LANES, w), aligned(m, block + LANES, w), np.empty(n, dtype)
    old, zeros = np.empty(size, dtype), np.zeros(m, dtype)
    for step in range(start, max(stop, start + 1)):
        if step > start and diverged_at[0] >= 0:
            break
        for j in range(size):
            g[j] = 0
        for i in range(n):
            loss[i] = 0
        transpose(w_e_t, w_e)
        if not tied:
            transpose(w_u_t, w_u)
        key = batch_key(seed, step)
        for begin in range(0, rows, block):
            count = min(block, rows - begin)
            if dataset.shape[1]:
                if step == start or count < rows:
                    for i in range(n):
                        copy(x[i, :count], dataset[i, begin : begin + count])
            else:
                draw_sparse_uniform(x, key, begin, count, largest, scale)
            forward_backward(
                x, count, w_e, w_e_t, w_u, w_u_t, tied, b, g_e, g_u, g_b, loss, weight, act, h, logits, dh, sums, zeros
            )
        if len(largest) == 2:
            empty_row(x, b, g_b, loss, empty_weight, act, logits)
        if step == start:
            copy(loss_out, loss)
            copy(gradient_out, g)
        if step == stop or diverged_at[0] >= 0:
            break
        copy(old, w)
        finite = update(kind, w, g, first, second, constants[step - start])
        if not (finite and np.isfinite(loss.sum())):
            diverged_at[0] = step
            copy(w, old)
            for j in range(size):
                first[j] = second[j] = 0


@njit(cache=True, nogil=True)
@no_type_check
def advance(
    weights,  # model, parameter: W_E, then untied W_U transposed, then b_U
    first,
    second,
    diverged_at,
    seeds,
    n,
    m,
    tied,
    biased,
    act,
    start,
    stop,
    kind,
    constants,  # step, what `update` unpacks
    weight,
    empty_weight,
    rows,
    dataset,  # feature, row: the whole data set; without rows, draw
    largest,
    scale,
    loss_out,  # model, feature
    gradient_out,  # model, parameter
):
    """Updates `start` to `stop - 1` of every model; `loss_out` and `gradient_out` are those before the first."""
    for i in range(len(weights)):
        train_one(
            weights[i],
            first[i],
            second[i],
            diverged_at[i : i + 1],
            seeds[i],
            n,
            m,
            tied,
            biased,
            act,
            start,
            stop,
            kind,
            constants,
            weight,
            empty_weight,
            rows,
            dataset,
            largest,
            scale,
            loss_out[i],
            gradient_out[i],
        )
