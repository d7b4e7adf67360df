"""Losses and gradients of toys with more than the plain ones: hidden layers, softmax, unit norm, pseudo-attention.

Compiled apart from the plain toys, and only when such a toy is trained. Queries and keys are read from the hidden layer
as logits are, so the readers of a token are the rows of `W_U^T`, then of its position's `W_Q^T` or `W_K^T`.
"""

import math
from typing import Any, NamedTuple, no_type_check

import numpy as np
from numba import njit

from tms_hooks.fused.kernels.attention import attention_errors, score_errors
from tms_hooks.fused.kernels.lanes import LANES, compiled
from tms_hooks.fused.kernels.model import GELU, RELU, SUMS, output_errors
from tms_hooks.fused.kernels.products import add_outer, product
from tms_hooks.fused.kernels.softmax import log_softmax, softmax_errors, softmax_slopes
from tms_hooks.fused.kernels.unit_norm import add_slopes, normalise

SOFTMAX = 3


class General(NamedTuple):
    """Sizes and switches beyond those of a plain toy, and what a stage minimises."""

    positions: int
    """Tokens a row: with heads, one query and its keys."""
    hidden_biased: bool
    hidden_act: int
    cross_entropy: bool
    """The loss; else the squared error."""
    scaled: bool
    """Whether the unembed has a scale, as it does if directions have norm 1:"""
    unit_write: bool
    """those of `W_E`,"""
    unit_read: bool
    """those of `W_U`."""
    n_heads: int
    d_head: int
    pairs: Any
    """Pair, (head, query feature, key feature)."""
    share: Any
    """What a row counts in a head's loss."""
    slope: Any
    """What it counts in the objective."""
    attention: bool
    """Whether a head's loss is the cross-entropy of its attention; else the squared error of its scores."""
    reconstructs: bool
    """Whether the stage minimises L1."""
    attends: bool
    """Whether the stage minimises L2."""


class Parameters(NamedTuple):
    """Views on a model's flat parameters or gradients."""

    w_e: Any
    w_u: Any
    b_u: Any
    b: Any
    scale: Any
    w_q: Any
    w_k: Any


class Space(NamedTuple):
    """Room to work in. A token's readers are features, then the head's units."""

    write: Any
    """Feature, hidden: `W_E` as it is used."""
    write_t: Any
    d_write: Any
    readers: Any
    """Token and reader, hidden: `W_U` and `W_Q` or `W_K` as they are used."""
    readers_t: Any
    d_readers: Any
    start: Any
    """Reader: `b_U`, then zeros."""
    d_start: Any
    b: Any
    d_b: Any
    zeros: Any
    h: Any
    dh: Any
    before: Any
    """Hidden layer before its activation."""
    out: Any
    """Token and reader, row: logits, queries and keys; then the slopes in them."""
    p: Any
    scores: Any
    target: Any
    s: Any
    t: Any


@njit(cache=True)
@no_type_check
def views(flat, n, m, tied, biased, general):
    """`Parameters` in the order of `engine.ORDER`."""
    width = general.n_heads * general.d_head
    u = 0 if tied else n * m
    b_u = u + n * m
    b = b_u + (n if biased else 0)
    scale = b + (m if general.hidden_biased else 0)
    q = scale + (1 if general.scaled else 0)
    k = q + width * m
    return Parameters(
        flat[: n * m].reshape((n, m)),
        flat[u:b_u].reshape((n, m)),
        flat[b_u:b],
        flat[b:scale],
        flat[scale:q],
        flat[q:k].reshape((width, m)),
        flat[k:].reshape((width, m)),
    )


@njit(cache=True)
@no_type_check
def make_space(like, n, m, block, general):
    """`Space` for blocks of so many rows."""
    tokens, readers, rows = general.positions, n + general.n_heads * general.d_head, block + LANES
    return Space(
        np.zeros((n, m), like.dtype),
        np.zeros((m, n), like.dtype),
        np.zeros((n, m), like.dtype),
        np.zeros((tokens * readers, m), like.dtype),
        np.zeros((tokens * m, readers), like.dtype),
        np.zeros((tokens * readers, m), like.dtype),
        np.zeros(readers, like.dtype),
        np.zeros(readers, like.dtype),
        np.zeros(m, like.dtype),
        np.zeros(m, like.dtype),
        np.zeros(m, like.dtype),
        np.zeros((tokens * m, rows), like.dtype),
        np.zeros((tokens * m, rows), like.dtype),
        np.zeros((tokens * m, rows), like.dtype),
        np.zeros((tokens * readers, rows), like.dtype),
        np.zeros((n, rows), like.dtype),
        np.zeros((tokens - 1, rows), like.dtype),
        np.zeros((tokens - 1, rows), like.dtype),
        np.zeros(rows, like.dtype),
        np.zeros(rows, like.dtype),
    )


@compiled()
@no_type_check
def clear(matrix):
    """All zero."""
    for i in range(len(matrix)):
        for k in range(matrix.shape[1]):
            matrix[i, k] = 0


@compiled()
@no_type_check
def prepare(w, space, general):
    """Before a batch: the matrices in use from the parameters, and no slopes yet."""
    n, m = w.w_e.shape
    one, readers = w.w_e.dtype.type(1), len(space.start)
    clear(space.d_write)
    clear(space.d_readers)
    for i in range(readers):
        space.start[i] = w.b_u[i] if i < len(w.b_u) else 0
        space.d_start[i] = 0
    for k in range(m):
        space.b[k] = w.b[k] if k < len(w.b) else 0
        space.d_b[k] = 0
    normalise(space.write, w.w_e, general.unit_write, one)
    for i in range(n):
        for k in range(m):
            space.write_t[k, i] = space.write[i, k]
    for t in range(general.positions):
        top = t * readers
        normalise(space.readers[top : top + n], w.w_u, general.unit_read, w.scale[0] if general.scaled else one)
        normalise(space.readers[top + n : top + readers], w.w_q if t == 0 else w.w_k, False, one)
        for i in range(readers):
            for k in range(m):
                space.readers_t[t * m + k, i] = space.readers[top + i, k]


@compiled()
@no_type_check
def finish(g, w, space, general):
    """After a batch: from the slopes in the matrices in use to those in the parameters, which are added to `g`."""
    n, one, readers = len(w.w_e), w.w_e.dtype.type(1), len(space.start)
    for i in range(len(g.b_u)):
        g.b_u[i] += space.d_start[i]
    for k in range(len(g.b)):
        g.b[k] += space.d_b[k]
    add_slopes(g.w_e, space.d_write, w.w_e, general.unit_write, one)
    for t in range(general.positions):
        d = space.d_readers[t * readers : (t + 1) * readers]
        scale = w.scale[0] if general.scaled else one
        in_scale = add_slopes(g.w_u, d[:n], w.w_u, general.unit_read, scale)
        if general.scaled:
            g.scale[0] += in_scale
        if t == 0:
            add_slopes(g.w_q, d[n:], w.w_q, False, one)
        else:
            add_slopes(g.w_k, d[n:], w.w_k, False, one)


@compiled()
@no_type_check
def activate(h, before, rows, act, s, t):
    """`h`, the embedded block, becomes the hidden layer; `before` is kept where its slope needs it."""
    zero, one, half = h.dtype.type(0), h.dtype.type(1), h.dtype.type(0.5)
    root_half = h.dtype.type(math.sqrt(0.5))
    if act == SOFTMAX:
        log_softmax(h, rows, s, t)
    for i in range(len(h)):
        if act == RELU:
            for r in range(rows):
                h[i, r] = zero if h[i, r] < zero else h[i, r]
        elif act == GELU:
            for r in range(rows):
                before[i, r] = h[i, r]
                h[i, r] *= half * (one + math.erf(h[i, r] * root_half))
        elif act == SOFTMAX:
            for r in range(rows):
                h[i, r] = math.exp(h[i, r])


@compiled(fastmath=SUMS)
@no_type_check
def activate_backward(dh, h, before, rows, d_b, act, s):
    """`dh` becomes the loss's slope in the embedded block."""
    zero, one, half = h.dtype.type(0), h.dtype.type(1), h.dtype.type(0.5)
    root_half, density = h.dtype.type(math.sqrt(0.5)), h.dtype.type(1 / math.sqrt(2 * math.pi))
    if act == SOFTMAX:
        softmax_slopes(dh, h, rows, s)
    for i in range(len(h)):
        if act == RELU:
            for r in range(rows):
                dh[i, r] = dh[i, r] if h[i, r] > zero else zero
        elif act == GELU:
            for r in range(rows):
                u = before[i, r]
                dh[i, r] *= half * (one + math.erf(u * root_half)) + u * density * math.exp(-half * u * u)
        summed = zero
        for r in range(rows):
            summed += dh[i, r]
        d_b[i] += summed


@compiled()
@no_type_check
def general_forward_backward(x, rows, space, loss, weight, act, qk_loss, measured, general, sums):
    """Add one block's losses and slopes. `measured`: all losses are wanted, minimised or not."""
    n, m = space.write.shape
    readers = len(space.start)
    begin = 0 if general.reconstructs or measured else n  # readers that are needed
    end = readers if general.attends or measured else n
    for t in range(general.positions):
        x_t, h = x[t * n : (t + 1) * n], space.h[t * m : (t + 1) * m]
        out, reads = space.out[t * readers : (t + 1) * readers], space.readers[t * readers : (t + 1) * readers]
        product(h, space.b, space.write_t, x_t, rows)
        activate(h, space.before[t * m :], rows, general.hidden_act, space.s, space.t)
        product(out[begin:end], space.start[begin:end], reads[begin:end], h, rows)
        if begin < n:
            if act == SOFTMAX:
                softmax_errors(
                    out[:n], x_t, weight, general.cross_entropy, loss, space.d_start, rows, space.s, space.t, space.p
                )
            else:
                output_errors(out[:n], x_t, weight, act, loss, space.d_start, rows)
    if end > n and general.attention:
        attention_errors(
            x, rows, space.out, n, space.scores, space.target, space.s, space.t, general.pairs, qk_loss, general.share,
            general.slope,
        )  # fmt: skip
    elif end > n:
        queries, keys = space.out[n:readers], space.out[readers + n :]
        score_errors(x, rows, queries, keys, space.s, general.pairs, qk_loss, general.share, general.slope)
    begin, end = 0 if general.reconstructs else n, readers if general.attends else n  # readers that have slopes
    for t in range(general.positions):
        h, dh = space.h[t * m : (t + 1) * m], space.dh[t * m : (t + 1) * m]
        out, slopes = space.out[t * readers : (t + 1) * readers], space.d_readers[t * readers : (t + 1) * readers]
        for i in range(begin, end):
            for r in range(rows, -(-rows // LANES) * LANES):
                out[i, r] = 0
        add_outer(slopes[begin:end], out[begin:end], h, rows, sums)
        if general.reconstructs:
            product(dh, space.zeros, space.readers_t[t * m : (t + 1) * m], out[:end], rows)
            activate_backward(dh, h, space.before[t * m :], rows, space.d_b, general.hidden_act, space.s)
            add_outer(space.d_write, x[t * n : (t + 1) * n], dh, rows, sums)
