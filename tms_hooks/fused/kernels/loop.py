"""Whole training runs of one model: draw, forward, backward, update, all in cache."""

from typing import Any, NamedTuple, no_type_check

import numpy as np
from numba import njit

from tms_hooks.fused.kernels.draws import batch_key, draw_sparse_uniform
from tms_hooks.fused.kernels.general import finish, general_forward_backward, make_space, prepare, views
from tms_hooks.fused.kernels.lanes import LANES, compiled
from tms_hooks.fused.kernels.model import empty_row, forward_backward
from tms_hooks.fused.kernels.patterns import draw_pattern
from tms_hooks.fused.kernels.products import WIDEST, WIDTH
from tms_hooks.fused.kernels.updates import update

BLOCK = 256  # rows worked on together, or more,
LINE = 64
SMALL = 8192  # if that leaves no more entries than this


class Toy(NamedTuple):
    """Sizes and switches that all toys have."""

    n: int
    m: int
    tied: bool
    biased: bool
    act: int


class Batch(NamedTuple):
    """Where a step's rows come from, and what they count."""

    rows: int
    weight: Any
    """Feature: importance over the number of tokens."""
    empty_weight: Any
    """Feature: importance of a row without active features."""
    dataset: Any
    """Feature, or with heads token and feature, by row: the whole data set; without rows, draw."""
    largest: Any
    scale: Any
    """As `draw_sparse_uniform` takes them; with two rows, rows that are empty are left to `empty_weight`."""


class Updates(NamedTuple):
    """Steps to make, and how."""

    start: int
    stop: int
    kind: int
    constants: Any
    """Step, what `update` unpacks."""
    first: int
    """The first parameter to train."""
    last: int
    """The one after the last."""


@compiled()
@no_type_check
def copy(to, source):
    """`to[:] = source` for flat arrays."""
    for j in range(len(to)):
        to[j] = source[j]


@compiled()
@no_type_check
def fill(to, value):
    """`to[:] = value` for flat arrays."""
    for j in range(len(to)):
        to[j] = value


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
    w, first, second, diverged_at, seed, toy, batch, pattern, updates, general, loss_out, qk_out, gradient_out
):
    """`advance` for one model."""
    n, m, tied, biased, act = toy
    rows, weight, empty_weight, dataset, largest, scale = batch
    start, stop, kind, constants, begin, end = updates
    positions = 1 if general is None else general.positions
    size, dtype = len(w), w.dtype
    block = -(-min(max(SMALL // n, BLOCK), rows) // (WIDTH * LANES)) * WIDTH * LANES

    g, matrix, at = np.empty(size, dtype), n * m, 0 if tied else n * m
    x = aligned(positions * n, block + LANES, w)
    sums = aligned(-(-n * (2 * m + 2) // LANES) * LANES if m <= WIDEST else 1, LANES, w)
    loss, qk_loss = np.empty(n, dtype), np.empty(len(qk_out), dtype)
    if general is None:
        w_e, g_e = w[:matrix].reshape((n, m)), g[:matrix].reshape((n, m))
        w_u, g_u = w[at : at + matrix].reshape((n, m)), g[at : at + matrix].reshape((n, m))
        at += matrix
        b, g_b = (w[at:], g[at:]) if biased else (np.zeros(n, dtype), np.zeros(n, dtype))
        w_e_t = np.empty((m, n), dtype)
        w_u_t = w_e_t if tied else np.empty((m, n), dtype)
        logits, zeros = aligned(n, block + LANES, w), np.zeros(m, dtype)
        h, dh = aligned(m, block + LANES, w), aligned(m, block + LANES, w)
        sparse = len(largest) == 2 or dataset.shape[1]
        entries = np.empty((n * block // 8 if sparse else 0, 2), np.int64)
    else:
        own, slopes = views(w, n, m, tied, biased, general), views(g, n, m, tied, biased, general)
        space = make_space(w, n, m, block, general)
    if pattern is not None:
        room = np.empty((n + 1, block), np.uint64)
    trained, slope, first, second = w[begin:end], g[begin:end], first[begin:end], second[begin:end]
    old = np.empty(end - begin, dtype)

    for step in range(start, max(stop, start + 1)):
        fill(g, 0)
        fill(loss, 0)
        if general is None:
            transpose(w_e_t, w_e)
            if not tied:
                transpose(w_u_t, w_u)
        else:
            fill(qk_loss, 0)
            prepare(own, space, general)
        for top in range(0, rows, block):
            count = min(block, rows - top)
            if dataset.shape[1]:
                if step == start or count < rows:
                    for i in range(len(x)):
                        copy(x[i, :count], dataset[i, top : top + count])
            else:
                for t in range(positions):
                    key = batch_key(seed, positions * step + t)
                    if pattern is None:
                        draw_sparse_uniform(x[t * n : (t + 1) * n], key, top, count, largest, scale)
                    else:
                        draw_pattern(x[t * n : (t + 1) * n], key, top, count, rows, pattern, room)
            if general is None:
                forward_backward(
                    x, count, w_e, w_e_t, w_u, w_u_t, tied, b, g_e, g_u, g_b, loss, weight, act, h, logits, dh, sums,
                    zeros, entries,
                )  # fmt: skip
            else:
                general_forward_backward(x, count, space, loss, weight, act, qk_loss, step == start, general, sums)
        if len(largest) == 2:
            if general is None:
                empty_row(b, g_b, loss, empty_weight, act)
            else:
                for i in range(n):
                    for r in range(LANES):
                        x[i, r] = 0
                one = np.int64(1)  # a literal would be compiled for
                general_forward_backward(x, one, space, loss, empty_weight, act, qk_loss, step == start, general, sums)
        if general is not None:
            finish(slopes, own, space, general)
        if step == start:
            copy(loss_out, loss)
            copy(qk_out, qk_loss)
            copy(gradient_out, g)
        if step == stop or diverged_at[0] >= 0:
            break
        total = loss.sum()
        if general is not None:
            total = (total if general.reconstructs else 0) + (qk_loss.sum() if general.attends else 0)
        copy(old, trained)
        finite = update(kind, trained, slope, first, second, constants[step - start])
        if not (finite and np.isfinite(total)):
            diverged_at[0] = step
            copy(trained, old)
            fill(first, 0)
            fill(second, 0)
            break


@njit(cache=True, nogil=True)
@no_type_check
def advance(
    weights,  # model, parameter: in the order of `engine.ORDER`
    first,
    second,
    diverged_at,
    seeds,
    toy,
    batch,
    pattern,  # None for independent features
    updates,
    general,  # None for plain toys, which then are compiled without it
    loss_out,  # model, feature
    qk_out,  # model, head
    gradient_out,  # model, parameter
):
    """Updates `start` to `stop - 1` of every model; losses and gradients out are those before the first."""
    for i in range(len(weights)):
        train_one(
            weights[i],
            first[i],
            second[i],
            diverged_at[i : i + 1],
            seeds[i],
            toy,
            batch,
            pattern,
            updates,
            general,
            loss_out[i],
            qk_out[i],
            gradient_out[i],
        )
