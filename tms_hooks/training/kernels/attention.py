"""Pseudo-attention heads: errors of the logits `h_query W_Q W_K^T h_key`, and their hand-derived gradients."""

from typing import no_type_check

from numba import njit

from tms_hooks.training.kernels.products import SUMS, add_outer, add_product


@njit(cache=True, fastmath=SUMS)
@no_type_check
def score_errors(x, rows, q, k, s, head, width, pairs, slope):
    """Sum of the squared errors of one head's logits; its queries and keys become the loss's slopes in them."""
    n, zero, one = len(x) // 2, x.dtype.type(0), x.dtype.type(1)
    square = zero
    for r in range(rows):
        s[r] = zero
    for c in range(head * width, (head + 1) * width):
        for r in range(rows):
            s[r] += q[c, r] * k[c, r]
    for pair in range(len(pairs)):
        if pairs[pair, 0] == head:
            i, j = pairs[pair, 1], n + pairs[pair, 2]
            for r in range(rows):
                s[r] -= one if (x[i, r] > zero) & (x[j, r] > zero) else zero
    for r in range(rows):
        square += s[r] * s[r]
        s[r] *= slope
    for c in range(head * width, (head + 1) * width):
        for r in range(rows):
            query = q[c, r]
            q[c, r] = s[r] * k[c, r]
            k[c, r] = s[r] * query
    return square


@njit(cache=True)
@no_type_check
def attend(x, rows, h, dh, w_q, w_k, w_q_t, w_k_t, g_q, g_k, q, k, s, loss, pairs, share, slope, reaches_hidden):
    """Add one block's losses of every head, and their gradients where `slope`, twice the weight of a row, is not zero.

    Query tokens are the first half of `x`, `h` and `dh`, key tokens the second. `share` is what a row counts in the
    losses. `reaches_hidden`: whether `dh` is wanted.
    """
    m, zero = len(h) // 2, x.dtype.type(0)
    for c in range(len(q)):
        for r in range(rows):
            q[c, r] = zero
            k[c, r] = zero
    add_product(q, w_q, h[:m], rows)
    add_product(k, w_k, h[m:], rows)
    for head in range(len(loss)):
        loss[head] += share * score_errors(x, rows, q, k, s, head, len(q) // len(loss), pairs, slope)
    if slope == zero:
        return
    add_outer(g_q, q, h[:m], rows)
    add_outer(g_k, k, h[m:], rows)
    if reaches_hidden:
        add_product(dh[:m], w_q_t, q, rows)
        add_product(dh[m:], w_k_t, k, rows)
