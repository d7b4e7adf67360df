"""The fused engine's inner loops, in numba: draw, forward, hand-derived backward and update of one model, all in cache.

A batch is worked on in blocks of rows, features on the outer axis (`x[feature, row]`), so that every inner loop runs
over rows with unit stride and vectorises. A model's arithmetic depends on nothing but the model: threads only share
models out. `no_type_check` keeps numba from being handed the wrappers of a run-time type checker.
"""

import math
from typing import no_type_check

import numpy as np
from numba import njit, prange

from tms_hooks import rng

# Sums over a batch may be reassociated, and products fused into them: without that they do not vectorise.
# NaN and infinity keep their meaning, because divergence is detected by them.
SUMS = {"reassoc", "contract", "nsz"}

BLOCK = 256
GAMMA, MIX_1, MIX_2 = np.uint64(rng.GAMMA), np.uint64(rng.MIX_1), np.uint64(rng.MIX_2)
S27, S30, S31, S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
LOW = np.uint64(0xFFFFFFFF)

IDENTITY, RELU, GELU = 0, 1, 2
SGD, RMSPROP, ADAM = 0, 1, 2


@njit(cache=True, inline="always")
@no_type_check
def _mix(z):
    """The output function of SplitMix64."""
    z = (z ^ (z >> S30)) * MIX_1
    z = (z ^ (z >> S27)) * MIX_2
    return z ^ (z >> S31)


@njit(cache=True)
@no_type_check
def batch_key(seed, step):
    """`rng.key` in 64-bit arithmetic."""
    z = _mix(np.uint64(seed) + GAMMA)
    return _mix(_mix(z + np.uint64(step) + GAMMA) + GAMMA)


@njit(cache=True)
@no_type_check
def draw_sparse_uniform(x, key, first_row, rows, threshold, scale):
    """Rows `first_row`, ... of a `SparseUniform` batch into `x[:, :rows]`: the numbers of `data.values_below`.

    Two features come from one hash. An odd number of features makes two rows share one, so even rows come first.
    """
    n = len(x)
    zero = x.dtype.type(0)
    together = 1 + n % 2  # rows that use a whole number of hashes
    count = (rows + together - 1) // together
    stride = GAMMA * np.uint64(n * together // 2)
    for c in range(n * together // 2):
        a, b = 2 * c, 2 * c + 1
        i, j = a % n, b % n
        to_a, to_b = x[i, (a // n) * count :], x[j, (b // n) * count :]
        below_a, below_b, scale_a, scale_b = threshold[i], threshold[j], scale[i], scale[j]
        z = key + GAMMA * np.uint64(first_row * n // 2 + c + 1)
        for r in range(count):
            bits = _mix(z + np.uint64(r) * stride)
            low, high = bits & LOW, bits >> S32
            to_a[r] = x.dtype.type((np.float64(low) + 0.5) * scale_a) if low < below_a else zero
            to_b[r] = x.dtype.type((np.float64(high) + 0.5) * scale_b) if high < below_b else zero


@njit(cache=True, fastmath=SUMS)
@no_type_check
def forward_backward(x, rows, w_e, w_u, b, g_e, g_u, g_b, loss, weight, act, biased, h, g, dh):
    """Add one block's losses and gradients. `weight` is each feature's importance over the batch size."""
    n, m = w_e.shape
    zero, one, two, half = x.dtype.type(0), x.dtype.type(1), x.dtype.type(2), x.dtype.type(0.5)
    root_half, density = x.dtype.type(math.sqrt(0.5)), x.dtype.type(1 / math.sqrt(2 * math.pi))
    for k in range(m):
        h[k, :rows] = zero
        dh[k, :rows] = zero
        for i in range(n):
            w = w_e[i, k]
            for r in range(rows):
                h[k, r] += w * x[i, r]
    for i in range(n):
        out = g[i]
        out[:rows] = b[i]
        for k in range(m):
            w = w_u[i, k]
            for r in range(rows):
                out[r] += w * h[k, r]
        total, slope = zero, two * weight[i]
        if act == RELU:
            for r in range(rows):
                error = max(out[r], zero) - x[i, r]
                total += error * error
                out[r] = slope * error if out[r] > zero else zero
        elif act == GELU:
            for r in range(rows):
                below = half * (one + math.erf(out[r] * root_half))
                error = out[r] * below - x[i, r]
                total += error * error
                out[r] = slope * error * (below + out[r] * density * math.exp(-half * out[r] * out[r]))
        else:
            for r in range(rows):
                error = out[r] - x[i, r]
                total += error * error
                out[r] = slope * error
        loss[i] += weight[i] * total
        if biased:
            total = zero
            for r in range(rows):
                total += out[r]
            g_b[i] += total
        for k in range(m):
            w, total = w_u[i, k], zero
            for r in range(rows):
                dh[k, r] += w * out[r]
                total += out[r] * h[k, r]
            g_u[i, k] += total
    for i in range(n):
        for k in range(m):
            total = zero
            for r in range(rows):
                total += x[i, r] * dh[k, r]
            g_e[i, k] += total


@njit(cache=True, inline="always")
@no_type_check
def _eight(c):
    return c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]


@njit(cache=True)
@no_type_check
def update(kind, w, g, first, second, constants):
    """`torch_engine.update` on flat arrays, in place: the same rounded operations. False if a weight is not finite."""
    finite = True
    if kind == ADAM:
        decay, beta1, rest1, beta2, rest2, correction, eps, rate = _eight(constants)
        for j in range(len(w)):
            first[j] = first[j] * beta1 + g[j] * rest1
            second[j] = second[j] * beta2 + g[j] * g[j] * rest2
            w[j] = w[j] * decay - first[j] / (np.sqrt(second[j]) / correction + eps) * rate
            finite &= np.isfinite(w[j])
    elif kind == SGD:
        _, momentum, _, _, _, _, _, rate = _eight(constants)
        for j in range(len(w)):
            first[j] = first[j] * momentum + g[j]
            w[j] = w[j] - first[j] * rate
            finite &= np.isfinite(w[j])
    else:
        _, _, _, alpha, rest, _, eps, rate = _eight(constants)
        for j in range(len(w)):
            second[j] = second[j] * alpha + g[j] * g[j] * rest
            w[j] = w[j] - g[j] / (np.sqrt(second[j]) + eps) * rate
            finite &= np.isfinite(w[j])
    return finite


@njit(cache=True, parallel=True)
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
    rows,
    dataset,  # feature, row: the whole data set; without rows, draw
    threshold,
    scale,
    loss_out,  # model, feature
    gradient_out,  # model, parameter
):
    """Updates `start` to `stop - 1` of every model; `loss_out` and `gradient_out` are those before the first."""
    for i in prange(len(weights)):
        size = weights.shape[1]
        w, g = weights[i], np.empty(size, weights.dtype)
        matrix = n * m
        w_e, g_e = w[:matrix].reshape((n, m)), g[:matrix].reshape((n, m))
        at = 0 if tied else matrix
        w_u, g_u = w[at : at + matrix].reshape((n, m)), g[at : at + matrix].reshape((n, m))
        at += matrix
        b, g_b = (w[at:], g[at:]) if biased else (np.zeros(n, weights.dtype), g)
        loss = np.empty(n, weights.dtype)
        x, d_out = np.empty((n, BLOCK + 1), weights.dtype), np.empty((n, BLOCK + 1), weights.dtype)
        h, dh = np.empty((m, BLOCK + 1), weights.dtype), np.empty((m, BLOCK + 1), weights.dtype)
        old = np.empty((3, size), weights.dtype)
        for step in range(start, max(stop, start + 1)):
            if step > start and diverged_at[i] >= 0:
                break
            g[:] = 0
            loss[:] = 0
            key = batch_key(seeds[i], step)
            for begin in range(0, rows, BLOCK):
                count = min(BLOCK, rows - begin)
                if dataset.shape[1]:
                    x[:, :count] = dataset[:, begin : begin + count]
                else:
                    draw_sparse_uniform(x, key, begin, count, threshold, scale)
                forward_backward(x, count, w_e, w_u, b, g_e, g_u, g_b, loss, weight, act, biased, h, d_out, dh)
            if step == start:
                loss_out[i] = loss
                gradient_out[i] = g
            if step == stop or diverged_at[i] >= 0:
                break
            old[0], old[1], old[2] = w, first[i], second[i]
            finite = update(kind, w, g, first[i], second[i], constants[step - start])
            if not (finite and np.isfinite(loss.sum())):
                diverged_at[i] = step
                w[:], first[i], second[i] = old[0], 0, 0
