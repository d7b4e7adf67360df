"""Softmax over the features of each row, and the losses of its output, with hand-derived gradients."""

import math
from typing import no_type_check

from tms_hooks.fused.kernels.lanes import compiled
from tms_hooks.fused.kernels.model import SUMS


@compiled()
@no_type_check
def log_softmax(out, rows, top, total):
    """In place, over the first axis. `top` and `total` are room for a number a row."""
    for r in range(rows):
        top[r], total[r] = out[0, r], 0
    for i in range(1, len(out)):
        for r in range(rows):
            top[r] = max(top[r], out[i, r])
    for i in range(len(out)):
        for r in range(rows):
            out[i, r] -= top[r]
            total[r] += math.exp(out[i, r])
    for r in range(rows):
        total[r] = math.log(total[r])
    for i in range(len(out)):
        for r in range(rows):
            out[i, r] -= total[r]


@compiled()
@no_type_check
def softmax_slopes(d, p, rows, dot):
    """From a loss's slopes `d` in `p`, a softmax, to those in what it was taken of, in place."""
    for r in range(rows):
        dot[r] = 0
    for i in range(len(p)):
        for r in range(rows):
            dot[r] += d[i, r] * p[i, r]
    for i in range(len(p)):
        for r in range(rows):
            d[i, r] = p[i, r] * (d[i, r] - dot[r])


@compiled(fastmath=SUMS)
@no_type_check
def softmax_errors(out, x, weight, cross_entropy, loss, g_b, rows, top, total, p):
    """`output_errors` for a softmax, of the squared error or the cross-entropy. `p` is room for the probabilities."""
    zero = x.dtype.type(0)
    log_softmax(out, rows, top, total)
    if cross_entropy:
        for r in range(rows):
            top[r] = zero
        for i in range(len(x)):
            summed = zero
            for r in range(rows):
                target = weight[i] * x[i, r]
                summed -= target * out[i, r]
                top[r] += target
            loss[i] += summed
        for i in range(len(x)):
            for r in range(rows):
                out[i, r] = math.exp(out[i, r]) * top[r] - weight[i] * x[i, r]
    else:
        for i in range(len(x)):
            summed, slope = zero, weight[i] + weight[i]
            for r in range(rows):
                p[i, r] = math.exp(out[i, r])
                error = p[i, r] - x[i, r]
                summed += error * error
                out[i, r] = slope * error
            loss[i] += weight[i] * summed
        softmax_slopes(out, p, rows, top)
    for i in range(len(x)):
        summed = zero
        for r in range(rows):
            summed += out[i, r]
        g_b[i] += summed
