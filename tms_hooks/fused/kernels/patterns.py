"""Batches of distributions whose features are not independent: the numbers that `tms_hooks.data` draws in torch."""

from typing import NamedTuple, no_type_check

import numpy as np
from numba import njit

from tms_hooks.fused.kernels.draws import GAMMA, mix
from tms_hooks.fused.kernels.lanes import compiled

ONE_HOT, K_HOT, CORRELATED, ANTICORRELATED = 0, 1, 2, 3
ONE, S32, LOW, HIGHEST = np.uint64(1), np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(2**64 - 1)


class Pattern(NamedTuple):
    """Which distribution, and its numbers."""

    kind: int
    together: int
    """Active features of a k-hot row, or size of a group."""
    binary: bool
    probability: float
    """Feature probability of groups."""


@njit(cache=True, inline="always")
@no_type_check
def entry(key, at):
    """`rng.uniform_bits`, one of them; without a branch, so that loops over it vectorise."""
    at = np.uint64(at)
    return (mix(key + GAMMA * ((at >> ONE) + ONE)) >> ((at & ONE) * S32)) & LOW


@njit(cache=True, inline="always")
@no_type_check
def in_unit(bits):
    """32 bits as a number strictly inside (0, 1)."""
    return (np.float64(bits) + 0.5) * 2.0**-32


@njit(cache=True, inline="always")
@no_type_check
def uniform(key, at):
    """`rng.uniforms`, one of them."""
    return in_unit(entry(key, at))


@compiled()
@no_type_check
def draw_pattern(x, key, first_row, rows, batch, pattern, room):
    """Rows `first_row`, ... of a batch of `batch` rows into `x[:, :rows]`.

    `room`: a whole number for each feature, and one more, of every row.
    """
    n = len(x)
    for i in range(n):
        for r in range(rows):
            x[i, r] = 0
    if pattern.kind == ONE_HOT:
        for r in range(rows):
            x[(entry(key, first_row + r) * np.uint64(n)) >> S32, r] = 1
    elif pattern.kind == K_HOT:
        draw_k_hot(x, key, first_row, rows, batch, pattern.together, pattern.binary, room)
    else:
        draw_groups(x, key, first_row, rows, pattern, room)


@compiled()
@no_type_check
def draw_k_hot(x, key, first_row, rows, batch, size, binary, room):
    """The `size` features of lowest number in each row of `x`, the first of equals."""
    n = len(x)
    for i in range(n):
        for r in range(rows):
            room[i, r] = entry(key, (first_row + r) * n + i) << S32 | np.uint64(i)
    for _ in range(size):
        for r in range(rows):
            room[n, r] = HIGHEST
        for i in range(n):
            for r in range(rows):
                room[n, r] = min(room[n, r], room[i, r])
        for r in range(rows):
            i = np.int64(room[n, r] & LOW)
            room[i, r] = HIGHEST
            x[i, r] = 1.0 if binary else uniform(key, (batch + first_row + r) * n + i)


@compiled()
@no_type_check
def draw_groups(x, key, first_row, rows, pattern, room):
    """Values of features, where their group's own draw lets them be."""
    n, size, p = len(x), pattern.together, pattern.probability
    columns = n + n // size
    for i in range(n):
        if i % size == 0:
            for r in range(rows):
                room[n, r] = entry(key, (first_row + r) * columns + n + i // size)
        if pattern.kind == CORRELATED:
            for r in range(rows):
                active = in_unit(room[n, r]) < p
                x[i, r] = uniform(key, (first_row + r) * columns + i) if active else 0.0
        else:
            for r in range(rows):
                active = np.floor(in_unit(room[n, r]) / p) == i % size
                x[i, r] = uniform(key, (first_row + r) * columns + i) if active else 0.0
