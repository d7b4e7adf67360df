"""Batches of distributions whose features are not independent: the numbers that `tms_hooks.data` draws in torch."""

from typing import NamedTuple, no_type_check

import numpy as np

from tms_hooks.training.kernels.draws import GAMMA, mix
from tms_hooks.training.kernels.lanes import compiled

ONE_HOT, K_HOT, CORRELATED, ANTICORRELATED = 0, 1, 2, 3
LOW, S32, HIGHEST = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(2**64 - 1)


class Pattern(NamedTuple):
    """Which distribution, and its numbers."""

    kind: int
    together: int
    """Active features of a k-hot row, or size of a group."""
    binary: bool
    probability: float
    """Feature probability of groups."""


@compiled()
@no_type_check
def entry(key, at):
    """`rng.uniform_bits`, one of them."""
    bits = mix(key + GAMMA * np.uint64(at // 2 + 1))
    return bits >> S32 if at % 2 else bits & LOW


@compiled()
@no_type_check
def uniform(key, at):
    """`rng.uniforms`, one of them."""
    return (np.float64(entry(key, at)) + 0.5) * 2.0**-32


@compiled()
@no_type_check
def draw_pattern(x, key, first_row, rows, batch, pattern, ranks):
    """Rows `first_row`, ... of a batch of `batch` rows into `x[:, :rows]`. `ranks`: room for a number a feature."""
    n, size = len(x), pattern.together
    for i in range(n):
        for r in range(rows):
            x[i, r] = 0
    for r in range(rows):
        row = first_row + r
        if pattern.kind == ONE_HOT:
            x[(entry(key, row) * np.uint64(n)) >> S32, r] = 1
        elif pattern.kind == K_HOT:
            for i in range(n):
                ranks[i] = entry(key, row * n + i) * np.uint64(n) + np.uint64(i)
            for _ in range(size):
                lowest = 0
                for i in range(n):
                    if ranks[i] < ranks[lowest]:
                        lowest = i
                ranks[lowest] = HIGHEST
                x[lowest, r] = 1 if pattern.binary else uniform(key, (batch + row) * n + lowest)
        else:
            groups = n // size
            at = row * (n + groups)
            for group in range(groups):
                u = uniform(key, at + n + group)
                if pattern.kind == CORRELATED:
                    if u < pattern.probability:
                        for i in range(group * size, (group + 1) * size):
                            x[i, r] = uniform(key, at + i)
                else:
                    member = np.int64(np.floor(u / pattern.probability))
                    if member < size:
                        i = group * size + member
                        x[i, r] = uniform(key, at + i)
