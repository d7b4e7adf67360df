"""Losses and gradients of toys that have more than the plain ones: a hidden bias or activation, pseudo-attention.

Compiled apart from the plain toys, and only when such a toy is trained.
"""

import math
from typing import Any, NamedTuple, no_type_check

import numpy as np
from numba import njit

from tms_hooks.training.kernels.attention import attend
from tms_hooks.training.kernels.model import GELU, RELU, decode
from tms_hooks.training.kernels.products import SUMS, add_outer, add_product


class General(NamedTuple):
    """Sizes and switches beyond those of a plain toy, and what a stage minimises."""

    positions: int
    """Tokens a row: 2 with heads."""
    hidden_biased: bool
    hidden_act: int
    n_heads: int
    d_head: int
    pairs: Any
    """Pair, (head, query feature, key feature)."""
    share: Any
    """What a row counts in a head's loss."""
    slope: Any
    """Twice the weight of a row in a head's objective; 0 if heads matter to no gradient."""
    reconstructs: bool
    """Whether the stage minimises L1."""
    attends: bool
    """Whether the stage minimises L2."""


class Space(NamedTuple):
    """Views on a model's parameters and gradients, and room to work in."""

    b: Any
    g_b: Any
    w_q: Any
    w_k: Any
    w_q_t: Any
    w_k_t: Any
    g_q: Any
    g_k: Any
    before: Any
    """Hidden layer before its activation."""
    q: Any
    k: Any
    s: Any


@njit(cache=True)
@no_type_check
def make_space(w, g, at, m, block, general):
    """`Space` for parameters that start with `b_hidden` at `at`."""
    dtype, bias = w.dtype, m if general.hidden_biased else 0
    heads, size = at + bias, general.n_heads * general.d_head * m
    width = general.n_heads * general.d_head
    middle, end = heads + size, heads + 2 * size
    return Space(
        w[at:heads],
        g[at:heads],
        w[heads:middle].reshape((width, m)),
        w[middle:end].reshape((width, m)),
        np.empty((m, width), dtype),
        np.empty((m, width), dtype),
        g[heads:middle].reshape((width, m)),
        g[middle:end].reshape((width, m)),
        np.empty((general.positions * m, block), dtype),
        np.empty((width, block), dtype),
        np.empty((width, block), dtype),
        np.empty(block, dtype),
    )


@njit(cache=True)
@no_type_check
def activate(h, before, rows, b, act):
    """`h`, the embedded block, becomes the hidden layer; `before` is kept where its slope needs it."""
    zero, one, half = h.dtype.type(0), h.dtype.type(1), h.dtype.type(0.5)
    root_half = h.dtype.type(math.sqrt(0.5))
    for i in range(len(h)):
        if len(b):
            bias = b[i % len(b)]
            for r in range(rows):
                h[i, r] += bias
        if act == RELU:
            for r in range(rows):
                h[i, r] = max(h[i, r], zero)
        elif act == GELU:
            for r in range(rows):
                before[i, r] = h[i, r]
                h[i, r] *= half * (one + math.erf(h[i, r] * root_half))


@njit(cache=True, fastmath=SUMS)
@no_type_check
def activate_backward(dh, h, before, rows, g_b, act):
    """`dh` becomes the loss's slope in the embedded block."""
    zero, one, half = h.dtype.type(0), h.dtype.type(1), h.dtype.type(0.5)
    root_half, density = h.dtype.type(math.sqrt(0.5)), h.dtype.type(1 / math.sqrt(2 * math.pi))
    for i in range(len(h)):
        if act == RELU:
            for r in range(rows):
                dh[i, r] = dh[i, r] if h[i, r] > zero else zero
        elif act == GELU:
            for r in range(rows):
                u = before[i, r]
                dh[i, r] *= half * (one + math.erf(u * root_half)) + u * density * math.exp(-half * u * u)
        if len(g_b):
            g_bias = zero
            for r in range(rows):
                g_bias += dh[i, r]
            g_b[i % len(g_b)] += g_bias


@njit(cache=True)
@no_type_check
def general_forward_backward(
    x, rows, w_e_t, w_u, w_u_t, b, g_e, g_u, g_b, loss, weight, act, h, out, dh, general, space, qk_loss, measured
):
    """`forward_backward` with everything a toy may have. `measured`: all losses are wanted, minimised or not."""
    n, m, zero = len(w_u), w_u.shape[1], x.dtype.type(0)
    for k in range(len(h)):
        for r in range(rows):
            h[k, r] = zero
            dh[k, r] = zero
    for t in range(general.positions):
        add_product(h[t * m : (t + 1) * m], w_e_t, x[t * n : (t + 1) * n], rows)
    activate(h, space.before, rows, space.b, general.hidden_act)
    if general.reconstructs or measured:
        for t in range(general.positions):
            x_t, h_t, dh_t = x[t * n : (t + 1) * n], h[t * m : (t + 1) * m], dh[t * m : (t + 1) * m]
            decode(x_t, rows, w_u, w_u_t, b, g_u, g_b, loss, weight, act, h_t, out, dh_t)
    if general.attends or measured:
        _, _, w_q, w_k, w_q_t, w_k_t, g_q, g_k, _, q, k, s = space
        attend(
            x,
            rows,
            h,
            dh,
            w_q,
            w_k,
            w_q_t,
            w_k_t,
            g_q,
            g_k,
            q,
            k,
            s,
            qk_loss,
            general.pairs,
            general.share,
            general.slope,
            general.reconstructs,
        )
    if general.reconstructs:
        activate_backward(dh, h, space.before, rows, space.g_b, general.hidden_act)
        for t in range(general.positions):
            add_outer(g_e, x[t * n : (t + 1) * n], dh[t * m : (t + 1) * m], rows)
