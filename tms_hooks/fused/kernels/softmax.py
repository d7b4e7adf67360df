"""Softmax over the features of each row, and the losses of its output, with hand-derived gradients."""

import math
from typing import no_type_check

from tms_hooks.fused.kernels.lanes import compiled
from tms_hooks.fused.kernels.plain import SUMS


@compiled()
@no_type_check
def log_softmax(out, rows, top, total):
    """In place, over the first axis. `top` and `total` are room for one number per row."""
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
def softmax_backward(d, p, rows, dot):
    """The backward pass of `p`, a softmax: `d` holds the gradients in `p`, and becomes those in its logits."""
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
def softmax_errors(out, y, weight, cross_entropy, loss, g_b, rows, space):
    """`output_errors` for a softmax, of the squared error or the cross-entropy; `y` are the targets."""
    zero, top, p = y.dtype.type(0), space.s, space.p
    log_softmax(out, rows, top, space.t)
    if cross_entropy:
        for r in range(rows):
            top[r] = zero
        for i in range(len(y)):
            summed = zero
            for r in range(rows):
                target = weight[i] * y[i, r]
                summed -= target * out[i, r]
                top[r] += target
            loss[i] += summed
        for i in range(len(y)):
            for r in range(rows):
                out[i, r] = math.exp(out[i, r]) * top[r] - weight[i] * y[i, r]
    else:
        for i in range(len(y)):
            summed, twice = zero, weight[i] + weight[i]
            for r in range(rows):
                p[i, r] = math.exp(out[i, r])
                error = p[i, r] - y[i, r]
                summed += error * error
                out[i, r] = twice * error
            loss[i] += weight[i] * summed
        softmax_backward(out, p, rows, top)
    for i in range(len(y)):
        summed = zero
        for r in range(rows):
            summed += out[i, r]
        g_b[i] += summed
