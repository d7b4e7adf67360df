"""Whole training runs of one model: draw, forward, backward, update, all in cache."""

from typing import Any, NamedTuple, no_type_check

import numpy as np
from numba import njit

from tms_hooks.training.kernels.draws import batch_key, draw_occupied, draw_sparse_uniform
from tms_hooks.training.kernels.general import general_forward_backward, make_space
from tms_hooks.training.kernels.model import empty_row, forward_backward
from tms_hooks.training.kernels.updates import update

BLOCK = 256


class Toy(NamedTuple):
    """Sizes and switches that all toys have."""

    n: int
    m: int
    tied: bool
    biased: bool
    act: int


class Batch(NamedTuple):
    """Where a step's rows come from, and what they count. A row holds all its tokens' features."""

    rows: int
    weight: Any
    """Feature: importance over the number of tokens."""
    empty_weight: Any
    """Feature: importance of a row without active features."""
    dataset: Any
    """Feature, row: the whole data set; without rows, draw."""
    threshold: Any
    scale: Any
    jumps: Any
    """Last, feature: as in `SparseUniform.jumps`; without rows, draw empty rows too."""


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


@njit(cache=True)
@no_type_check
def copy(to, source):
    """`to[:] = source` for flat arrays."""
    for j in range(len(to)):
        to[j] = source[j]


@njit(cache=True)
@no_type_check
def fill(to, value):
    """`to[:] = value` for flat arrays."""
    for j in range(len(to)):
        to[j] = value


@njit(cache=True)
@no_type_check
def transpose(to, source):
    """`to[:] = source.T`."""
    for i in range(len(source)):
        for k in range(len(to)):
            to[k, i] = source[i, k]


@njit(cache=True)
@no_type_check
def train_one(w, first, second, diverged_at, seed, toy, batch, updates, general, loss_out, qk_out, gradient_out):
    """`advance` for one model."""
    n, m, tied, biased, act = toy
    rows, weight, empty_weight, dataset, threshold, scale, jumps = batch
    start, stop, kind, constants, begin, end = updates
    positions = 1 if general is None else general.positions
    size, dtype, block = len(w), w.dtype, min(BLOCK, rows + rows % 2)

    g, matrix, at = np.empty(size, dtype), n * m, 0 if tied else n * m
    w_e, g_e = w[:matrix].reshape((n, m)), g[:matrix].reshape((n, m))
    w_u, g_u = w[at : at + matrix].reshape((n, m)), g[at : at + matrix].reshape((n, m))
    w_e_t = np.empty((m, n), dtype)
    w_u_t = w_e_t if tied else np.empty((m, n), dtype)
    at += matrix
    b, g_b = (w[at : at + n], g[at : at + n]) if biased else (np.zeros(n, dtype), np.zeros(n, dtype))
    x, logits = np.empty((positions * n, block), dtype), np.empty((n, block), dtype)
    h, dh = np.empty((positions * m, block), dtype), np.empty((positions * m, block), dtype)
    low, value = np.empty(block, np.uint64), np.empty(block, dtype)
    feature, going = np.empty(block, np.int64), np.empty(block + 1, np.int64)
    loss, qk_loss = np.empty(n, dtype), np.empty(len(qk_out), dtype)
    if general is not None:
        space = make_space(w, g, at + n if biased else at, m, block, general)
    trained, slope, first, second = w[begin:end], g[begin:end], first[begin:end], second[begin:end]
    old = np.empty(end - begin, dtype)

    for step in range(start, max(stop, start + 1)):
        fill(g, 0)
        fill(loss, 0)
        transpose(w_e_t, w_e)
        if not tied:
            transpose(w_u_t, w_u)
        if general is not None:
            fill(qk_loss, 0)
            transpose(space.w_q_t, space.w_q)
            transpose(space.w_k_t, space.w_k)
        key = batch_key(seed, step)
        for top in range(0, rows, block):
            count = min(block, rows - top)
            if dataset.shape[1]:
                for i in range(len(x)):
                    for r in range(count):
                        x[i, r] = dataset[i, top + r]
            elif len(jumps):
                draw_occupied(x, low, value, feature, going, key, top, count, rows, jumps)
            else:
                draw_sparse_uniform(x, key, top, count, threshold, scale)
            if general is None:
                forward_backward(x, count, w_e, w_e_t, w_u, w_u_t, b, g_e, g_u, g_b, loss, weight, act, h, logits, dh)
            else:
                general_forward_backward(
                    x, count, w_e_t, w_u, w_u_t, b, g_e, g_u, g_b, loss, weight, act, h, logits, dh,
                    general, space, qk_loss, step == start,
                )  # fmt: skip
        if len(jumps):
            if general is None:
                empty_row(x, b, g_b, loss, empty_weight, act, logits)
            else:
                for i in range(n):
                    x[i, 0] = 0
                one = np.int64(1)  # a literal would be compiled for
                general_forward_backward(
                    x, one, w_e_t, w_u, w_u_t, b, g_e, g_u, g_b, loss, empty_weight, act, h, logits, dh,
                    general, space, qk_loss, step == start,
                )  # fmt: skip
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
    weights,  # model, parameter: in the order of `fused_engine.order`
    first,
    second,
    diverged_at,
    seeds,
    toy,
    batch,
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
            updates,
            general,
            loss_out[i],
            qk_out[i],
            gradient_out[i],
        )
