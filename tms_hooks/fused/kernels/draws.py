"""Batches drawn inside the compiled loop, from the random bits that `tms_hooks.data` uses in torch."""

from typing import no_type_check

import numpy as np
from numba import njit

from tms_hooks import rng
from tms_hooks.data import STRIP
from tms_hooks.fused.kernels.lanes import (
    LANES,
    add,
    at_most,
    compiled,
    either,
    first_lanes,
    mul,
    random_bits,
    real,
    splat,
    store,
    where,
)

assert LANES == STRIP, "a vector of rows shares its hashes"
GAMMA, MIX_1, MIX_2 = np.uint64(rng.GAMMA), np.uint64(rng.MIX_1), np.uint64(rng.MIX_2)
S27, S30, S31 = np.uint64(27), np.uint64(30), np.uint64(31)
HASHES = np.uint64(LANES // 2)


@njit(cache=True, inline="always")
@no_type_check
def mix(z):
    """The output function of SplitMix64."""
    z = (z ^ (z >> S30)) * MIX_1
    z = (z ^ (z >> S27)) * MIX_2
    return z ^ (z >> S31)


@compiled()
@no_type_check
def batch_key(seed, step):
    """`rng.key` in 64-bit arithmetic."""
    z = mix(np.uint64(seed) + GAMMA)
    return mix(mix(z + np.uint64(step) + GAMMA) + GAMMA)


@compiled()
@no_type_check
def draw_sparse_uniform(x, key, first_row, rows, largest, scale):
    """Rows `first_row`, ... of a `SparseUniform` batch into `x[:, :rows]`, zeros up to a whole number of strips.

    A feature is active where its bits are at most `largest[0]`, or `largest[1]`, if there is one, where an earlier
    feature of the row is active too.
    """
    n, zero, half = len(x), splat(x.dtype.type(0)), splat(x.dtype.type(0.5))
    z = key + GAMMA * (np.uint64(first_row // LANES * n) * HASHES)
    for r in range(0, rows, LANES):
        seen = first_lanes(0)
        for i in range(n):
            bits = random_bits(z)
            z += GAMMA * HASHES
            value = add(real(bits, x.dtype.type(0)), half)
            if len(largest) == 1:
                active = at_most(bits, splat(largest[0, i]))
                value = mul(value, splat(scale[0, i]))
            else:
                active = at_most(bits, where(seen, splat(largest[1, i]), splat(largest[0, i])))
                value = mul(value, where(seen, splat(scale[1, i]), splat(scale[0, i])))
                seen = either(seen, active)
            store(x, i, r, where(active, value, zero))
    for i in range(n):
        for r in range(rows, -(-rows // LANES) * LANES):
            x[i, r] = 0
