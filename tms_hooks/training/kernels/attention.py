"""Pseudo-attention heads: errors of the logits `h_query W_Q W_K^T h_key`, and their slopes in queries and keys."""

from typing import no_type_check

from tms_hooks.training.kernels.lanes import compiled
from tms_hooks.training.kernels.model import SUMS


@compiled(fastmath=SUMS)
@no_type_check
def score_errors(x, rows, q, k, s, pairs, loss, share, slope):
    """Add one block's losses of every head; queries `q` and keys `k` become the objective's slopes in them.

    The first half of `x` are the query tokens' features, the second the key tokens'. `share` is what a row counts in
    the losses, `slope` twice that in the objective.
    """
    n, width = len(x) // 2, len(q) // len(loss)
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for head in range(len(loss)):
        units = range(head * width, (head + 1) * width)
        for r in range(rows):
            s[r] = zero
        for c in units:
            for r in range(rows):
                s[r] += q[c, r] * k[c, r]
        for pair in range(len(pairs)):
            if pairs[pair, 0] == head:
                i, j = pairs[pair, 1], n + pairs[pair, 2]
                for r in range(rows):
                    s[r] -= one if (x[i, r] > zero) & (x[j, r] > zero) else zero
        square = zero
        for r in range(rows):
            square += s[r] * s[r]
            s[r] *= slope
        loss[head] += share * square
        for c in units:
            for r in range(rows):
                query = q[c, r]
                q[c, r] = s[r] * k[c, r]
                k[c, r] = s[r] * query
