"""Pseudo-attention heads: losses of the scores query . key, and gradients in queries and keys."""

import math
from typing import no_type_check

from tms_hooks.fused.kernels.lanes import compiled
from tms_hooks.fused.kernels.plain import SUMS
from tms_hooks.fused.kernels.softmax import log_softmax


@compiled(fastmath=SUMS)
@no_type_check
def score_errors(x, rows, q, k, loss, general, space):
    """Add one block's losses of every head; queries `q` and keys `k` become the objective's gradients in them.

    The first half of `x` are the query tokens' features, the second the key tokens'.
    """
    n, width, pairs, s = len(x) // 2, len(q) // len(loss), general.pairs, space.s
    zero = x.dtype.type(0)
    twice = general.objective_weight + general.objective_weight
    for head in range(len(loss)):
        units = range(head * width, (head + 1) * width)
        for r in range(rows):
            s[r] = zero
        for c in units:
            for r in range(rows):
                s[r] += q[c, r] * k[c, r]
        for pair in range(len(pairs)):
            if pairs[pair, 0] == head:
                i, j, weight = pairs[pair, 1], n + pairs[pair, 2], general.pair_weights[pair]
                for r in range(rows):
                    s[r] -= weight if (x[i, r] != zero) & (x[j, r] != zero) else zero
        square = zero
        for r in range(rows):
            square += s[r] * s[r]
            s[r] *= twice
        loss[head] += general.loss_weight * square
        for c in units:
            for r in range(rows):
                query = q[c, r]
                q[c, r] = s[r] * k[c, r]
                k[c, r] = s[r] * query


@compiled(fastmath=SUMS)
@no_type_check
def attention_errors(x, rows, n, o, loss, general, space):
    """The same for the cross-entropy of attention over several keys, a softmax of their scores.

    `space.out` holds, token by token, logits of `o` outputs and then queries (of the first token) or keys.
    """
    out, scores, target, s, pairs = space.out, space.scores, space.target, space.s, general.pairs
    keys, zero, one = len(scores), x.dtype.type(0), x.dtype.type(1)
    readers = len(out) // (keys + 1)
    width = (readers - o) // len(loss)
    for head in range(len(loss)):
        first, last = o + head * width, o + (head + 1) * width
        for r in range(rows):
            s[r] = zero
        for key in range(keys):
            top = (key + 1) * readers
            for r in range(rows):
                scores[key, r], target[key, r] = zero, zero
            for c in range(first, last):
                for r in range(rows):
                    scores[key, r] += out[c, r] * out[top + c, r]
            for pair in range(len(pairs)):
                if pairs[pair, 0] == head:
                    i, j, weight = pairs[pair, 1], (key + 1) * n + pairs[pair, 2], general.pair_weights[pair]
                    for r in range(rows):
                        target[key, r] += weight if (x[i, r] != zero) & (x[j, r] != zero) else zero
            for r in range(rows):
                s[r] += target[key, r]
        for key in range(keys):
            for r in range(rows):
                target[key, r] = target[key, r] / s[r] if s[r] > zero else one / x.dtype.type(keys)
        log_softmax(scores, rows, s, space.t)
        for key in range(keys):
            summed = zero
            for r in range(rows):
                summed -= target[key, r] * scores[key, r]
                scores[key, r] = general.objective_weight * (math.exp(scores[key, r]) - target[key, r])
            loss[head] += general.loss_weight * summed
        for c in range(first, last):
            for r in range(rows):
                s[r] = zero
            for key in range(keys):
                row = (key + 1) * readers + c
                for r in range(rows):
                    s[r] += scores[key, r] * out[row, r]
                    out[row, r] = scores[key, r] * out[c, r]
            for r in range(rows):
                out[c, r] = s[r]
