"""The random bits of `tms_hooks.rng` in compiled code, and batches of `SparseUniform` drawn from them in vectors.

`entry` and `in_unit` are the functions of that name in `rng`, for the loops of other distributions.
"""

from typing import no_type_check

import numpy as np
from numba import njit

from tms_hooks import rng
from tms_hooks.data.independent import STRIP
from tms_hooks.fused.kernels.lanes import (
    LANES,
    add,
    at_most,
    compiled,
    either,
    first_lanes,
    fma,
    mul,
    random_bits,
    real,
    splat,
    store,
    where,
)

assert LANES == STRIP, "a vector of rows shares its hashes"
GAMMA, MIX_1, MIX_2 = np.uint64(rng.GAMMA), np.uint64(rng.MIX_1), np.uint64(rng.MIX_2)
ONE, S27, S30, S31, S32 = np.uint64(1), np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
LOW = np.uint64(0xFFFFFFFF)
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


@njit(cache=True, inline="always")
@no_type_check
def entry(key, at):
    """`rng.entry`; without a branch, so that loops over it vectorize."""
    at = np.uint64(at)
    return np.int64((mix(key + GAMMA * ((at >> ONE) + ONE)) >> ((at & ONE) * S32)) & LOW)


@njit(cache=True, inline="always")
@no_type_check
def in_unit(bits):
    """`rng.in_unit`."""
    return (np.float64(bits) + 0.5) * 2.0**-32


@compiled()
@no_type_check
def draw_sparse_uniform(x, key, first_row, rows, largest, scale, span, low, occupied):
    """Rows `first_row`, ... of a `SparseUniform` batch into `x[:, :rows]`, zeros up to a whole number of strips.

    A feature is active where its bits are at most `largest[1]`. With `occupied` only rows are drawn that have an active
    feature: it is `largest[0]` as long as no feature of the row is. `scale` turns the bits into a number in (0, 1): the
    value is `low` plus `span` times that.
    """
    n, zero, half = len(x), splat(x.dtype.type(0)), splat(x.dtype.type(0.5))
    z = key + GAMMA * (np.uint64(first_row // LANES * n) * HASHES)
    # A loop each: masks that come from two branches are packed and unpacked where they are no registers.
    if occupied:
        for r in range(0, rows, LANES):
            seen = first_lanes(0)
            for i in range(n):
                bits = random_bits(z)
                z += GAMMA * HASHES
                active = at_most(bits, where(seen, splat(largest[1, i]), splat(largest[0, i])))
                value = mul(add(real(bits, low), half), where(seen, splat(scale[1, i]), splat(scale[0, i])))
                seen = either(seen, active)
                store(x, i, r, where(active, fma(value, splat(span), splat(low)), zero))
    else:
        for r in range(0, rows, LANES):
            for i in range(n):
                bits = random_bits(z)
                z += GAMMA * HASHES
                value = mul(add(real(bits, low), half), splat(scale[1, i]))
                active = at_most(bits, splat(largest[1, i]))
                store(x, i, r, where(active, fma(value, splat(span), splat(low)), zero))
    for i in range(n):
        for r in range(rows, -(-rows // LANES) * LANES):
            x[i, r] = 0
