"""Batches drawn inside the compiled loop: the same bits as `tms_hooks.data` draws in torch."""

from typing import no_type_check

import numpy as np
from numba import njit

from tms_hooks import rng

GAMMA, MIX_1, MIX_2 = np.uint64(rng.GAMMA), np.uint64(rng.MIX_1), np.uint64(rng.MIX_2)
S27, S30, S31, S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
LOW = np.uint64(0xFFFFFFFF)


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


@njit(cache=True)
@no_type_check
def draw_occupied(x, low, value, feature, going, key, begin, rows, batch, jumps):
    """Rows `begin`, ... of `SparseUniform.sample_occupied` into `x[:, :rows]`.

    All rows get their first active feature in vectorised loops, the others are found row by row.
    """
    n, unit = len(x), 2.0**-32
    for i in range(n):
        for r in range(rows):
            x[i, r] = 0
    for r in range(rows):
        bits = _mix(key + np.uint64(begin + r + 1) * GAMMA)
        low[r] = bits & LOW
        value[r] = x.dtype.type((np.float64(bits >> S32) + 0.5) * unit)
        feature[r] = 0
    for j in range(n - 1):
        threshold = jumps[0, j]
        for r in range(rows):
            feature[r] += low[r] < threshold
    for r in range(rows):
        low[r] = _mix(key + np.uint64(batch + begin + r + 1) * GAMMA)
        x[feature[r], r] = value[r]
    turn, count = 1, 0
    for r in range(rows):
        going[count] = r
        count += low[r] & LOW >= jumps[feature[r] + 1, n - 1]
    while count:
        turn, left = turn + 1, 0
        for c in range(count):
            r, bits = going[c], low[going[c]]
            at, j = feature[r] + 1, feature[r] + 1
            while bits & LOW < jumps[at, j]:
                j += 1
            x[j, r] = x.dtype.type((np.float64(bits >> S32) + 0.5) * unit)
            low[r] = _mix(key + np.uint64(turn * batch + begin + r + 1) * GAMMA)
            feature[r] = j
            going[left] = r
            left += low[r] & LOW >= jumps[j + 1, n - 1]
        count = left
