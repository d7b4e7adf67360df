"""The random bits of `tms_hooks.rng` in compiled code, and batches of `SparseUniform` drawn from them in vectors.

`entry`, `in_unit` and `to_normal` are the functions of that name in `rng`, for the loops of other distributions.
"""

import math
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
    counters,
    either,
    first_lanes,
    fma,
    following,
    mul,
    random_bits,
    real,
    real_31,
    splat,
    store,
    where,
)

assert LANES == STRIP, "a vector of rows shares its hashes"
GAMMA, MIX_1, MIX_2 = np.uint64(rng.GAMMA), np.uint64(rng.MIX_1), np.uint64(rng.MIX_2)
ONE, S27, S30, S31, S32 = np.uint64(1), np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
LOW = np.uint64(0xFFFFFFFF)
HASHES = np.uint64(LANES // 2)
HALF = np.uint32(2**31)


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


# Numerators and denominators of Wichura 1988, algorithm AS 241 (PPND16), the constant first: quantiles of the normal
# distribution to 16 digits, in the middle and in a tail of less than .075 and more than exp(-25).
MIDDLE = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
     2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)  # fmt: skip
TAIL = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
     1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip


@njit(cache=True, inline="always")
@no_type_check
def ratio(parts, r):
    """A numerator at `r` over its denominator."""
    above, below = parts
    a, b = above[7], below[7]
    a, b = a * r + above[6], b * r + below[6]
    a, b = a * r + above[5], b * r + below[5]
    a, b = a * r + above[4], b * r + below[4]
    a, b = a * r + above[3], b * r + below[3]
    a, b = a * r + above[2], b * r + below[2]
    a, b = a * r + above[1], b * r + below[1]
    return (a * r + above[0]) / (b * r + below[0])


@compiled(error_model="numpy", fastmath={"contract"})
@no_type_check
def to_normal(u):
    """`rng.to_normal`, for numbers that 32 bits give: the tails one by one, then all others in vectors."""
    for r in range(len(u)):
        if abs(u[r] - 0.5) > 0.425:
            tail = ratio(TAIL, math.sqrt(-math.log(min(u[r], 1 - u[r]))) - 1.6)
            u[r] = -tail if u[r] < 0.5 else tail  # beyond 1.4 on either side: not to be taken for one of the others
    for r in range(len(u)):
        q = u[r] - 0.5
        u[r] = q * ratio(MIDDLE, 0.180625 - q * q) if abs(q) <= 0.425 else u[r]


@njit(cache=True, nogil=True)
@no_type_check
def sparse_uniform_as_torch(out, seeds, start, thresholds, low, span, occupied):
    """Batches of `SparseUniform` into `out[step, model, feature, row]`, with the bits that torch gives them.

    `draw_sparse_uniform` for the torch engine: it rounds once, from double precision, where that rounds as it goes.
    """
    steps, models, n, rows = out.shape
    inverse = 1 / thresholds.astype(np.float64)
    hashes, bits = np.empty(LANES // 2, np.uint64), np.empty(LANES, np.int64)
    now, strip = np.empty(LANES, np.bool_), np.empty(LANES, out.dtype)
    for step in range(steps):
        for model in range(models):
            z = batch_key(seeds[model], start + step)
            for top in range(0, rows, LANES):
                now[:] = not occupied
                for i in range(n):  # in loops so small and plain that they vectorize
                    for pair in range(LANES // 2):
                        hashes[pair] = mix(z + GAMMA * np.uint64(pair + 1))
                    z += GAMMA * HASHES
                    for pair in range(LANES // 2):
                        bits[2 * pair], bits[2 * pair + 1] = hashes[pair] & LOW, hashes[pair] >> S32
                    for r in range(LANES):
                        active = bits[r] < (thresholds[1, i] if now[r] else thresholds[0, i])
                        scale = inverse[1, i] if now[r] else inverse[0, i]
                        value = (np.float64(bits[r]) + 0.5) * scale * span + low
                        strip[r] = value if active else 0.0
                        now[r] |= active
                    for r in range(min(LANES, rows - top)):
                        out[step, model, i, top + r] = strip[r]


@compiled()
@no_type_check
def draw_sparse_uniform(x, key, first_row, rows, largest, scale, span, low, occupied):
    """Rows `first_row`, ... of a `SparseUniform` batch into `x[:, :rows]`, zeros up to a whole number of strips.

    A feature is active where its bits are at most `largest[1]`. With `occupied` only rows are drawn that have an active
    feature: it is `largest[0]` as long as no feature of the row is. `scale` turns the bits into a number in (0, 1): the
    value is `low` plus `span` times that.
    """
    n, zero, half = len(x), splat(x.dtype.type(0)), splat(x.dtype.type(0.5))
    z = counters(key + GAMMA * (np.uint64(first_row // LANES * n) * HASHES))
    # A loop each: masks that come from two branches are packed and unpacked where they are no registers.
    if occupied:
        for r in range(0, rows, LANES):
            seen = first_lanes(0)
            for i in range(n):
                bits = random_bits(z)
                z = following(z)
                whole = real_31(bits, low) if largest[0, i] < HALF else real(bits, low)  # no more of it counts
                active = at_most(bits, where(seen, splat(largest[1, i]), splat(largest[0, i])))
                value = mul(add(whole, half), where(seen, splat(scale[1, i]), splat(scale[0, i])))
                seen = either(seen, active)
                store(x, i, r, where(active, fma(value, splat(span), splat(low)), zero))
    else:
        for r in range(0, rows, LANES):
            for i in range(n):
                bits = random_bits(z)
                z = following(z)
                whole = real_31(bits, low) if largest[1, i] < HALF else real(bits, low)
                value = mul(add(whole, half), splat(scale[1, i]))
                active = at_most(bits, splat(largest[1, i]))
                store(x, i, r, where(active, fma(value, splat(span), splat(low)), zero))
    for i in range(n):
        for r in range(rows, -(-rows // LANES) * LANES):
            x[i, r] = 0
