"""`python -m benchmarks.generators`: the generator of `tms_hooks.rng` beside others of 32-bit products.

Numbers of 32 bits per nanosecond on one thread, in vectors, and p-values of tests of each generator's streams: bytes
are uniform; neighbors in a stream, and the same entries of neighboring seeds and steps, are not correlated; a bit of a
seed, a step or an entry's number flips half of all bits; spacings of birthdays collide as often as they should.

    Philox 4x32 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), of 10 rounds and of 7.
    pcg4d (Jarzynski & Olano 2020, "Hash functions for GPU rendering"), whose four words are seed, step and number.
"""

import time
from collections.abc import Callable
from typing import Any, no_type_check

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit
from numba.core import types
from numba.extending import intrinsic
from rich.console import Console
from rich.table import Table
from scipy import stats

from tms_hooks import rng
from tms_hooks.fused.kernels import lanes

Words = np.ndarray
M_0, M_1, W_0, W_1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
LOW = 0xFFFFFFFF


def splitmix(seed: int, step: int, count: int) -> Words:
    """The stream of `tms_hooks.rng`."""
    with np.errstate(over="ignore"):
        z = np.uint64(rng.key(seed, step)) + np.arange(1, count // 2 + 1, dtype=np.uint64) * np.uint64(rng.GAMMA)
        for shift, factor in ((30, rng.MIX_1), (27, rng.MIX_2)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        return (z ^ (z >> np.uint64(31))).view(np.uint32)


def philox(rounds: int) -> Callable[[int, int, int], Words]:
    """Key: seed and step; counter: an entry's number."""

    def stream(seed: int, step: int, count: int) -> Words:
        a = np.arange(count // 4, dtype=np.uint64)
        b, c, d = (np.zeros_like(a) for _ in range(3))
        for k in range(rounds):
            p, q = a * np.uint64(M_0), c * np.uint64(M_1)
            key_0, key_1 = np.uint64((seed + k * W_0) & LOW), np.uint64((step + k * W_1) & LOW)
            a, c = (q >> np.uint64(32)) ^ b ^ key_0, (p >> np.uint64(32)) ^ d ^ key_1
            b, d = q & np.uint64(LOW), p & np.uint64(LOW)
        return np.stack([a, b, c, d], axis=1).astype(np.uint32).ravel()

    return stream


def pcg4d(seed: int, step: int, count: int) -> Words:
    """Words: seed, step, an entry's number, 0."""
    number = np.arange(count // 4, dtype=np.uint32)
    v = [np.full_like(number, seed), np.full_like(number, step), number, np.zeros_like(number)]
    with np.errstate(over="ignore"):
        v = [word * np.uint32(1664525) + np.uint32(1013904223) for word in v]
        for again in (False, True):
            v[0], v[1] = v[0] + v[1] * v[3], v[1]
            v[1] = v[1] + v[2] * v[0]
            v[2] = v[2] + v[0] * v[1]
            v[3] = v[3] + v[1] * v[2]
            if not again:
                v = [word ^ (word >> np.uint32(16)) for word in v]
    return np.stack(v, axis=1).ravel()


STREAMS = {"SplitMix64": splitmix, "Philox 4x32-10": philox(10), "Philox 4x32-7": philox(7), "pcg4d": pcg4d}


def correlation(a: Words, b: Words) -> float:
    """p-value of the hypothesis that two streams are independent: the bits that they share."""
    same = int(np.bitwise_count(~(a ^ b)).sum())
    return float(2 * stats.norm.sf(abs(same - 16 * a.size) / np.sqrt(8 * a.size)))


def p_values(stream: Callable[[int, int, int], Words], count: int = 2**20) -> dict[str, float]:
    """Of each test; below 1e-4 it has failed."""
    words = stream(3, 17, count)
    flips = [stream(3 ^ (1 << bit), 17, 4096) ^ words[:4096] for bit in range(31)]
    flips += [stream(3, 17 ^ (1 << bit), 4096) ^ words[:4096] for bit in range(31)]
    blocks = words.reshape(-1, 4)
    flips += [(blocks[: 2**11] ^ blocks[2**bit : 2**bit + 2**11]).ravel() for bit in range(11, 17)]
    each_bit = np.array([((flip[:, None] >> np.arange(32, dtype=np.uint32)) & 1).mean(0) for flip in flips])
    z = (each_bit - 0.5) * 2 * np.sqrt([[flip.size] for flip in flips])
    collisions = sum(
        int((np.diff(np.sort(np.diff(np.sort(part.astype(np.int64))))) == 0).sum())
        for part in words[: 2**20].reshape(-1, 4096)
    )
    expected = len(words[: 2**20]) / 4096 * 4096**3 / 2**34
    return {
        "bytes": float(stats.chisquare(np.bincount(words.view(np.uint8), minlength=256)).pvalue),
        "neighbors": min(correlation(words[:-lag], words[lag:]) * 8 for lag in (1, 2, 3, 4, 8, 16, 64, 1024)),
        "seeds": min(correlation(stream(seed, 17, 2**16), stream(seed + 1, 17, 2**16)) * 16 for seed in range(16)),
        "steps": min(correlation(stream(3, step, 2**16), stream(3, step + 1, 2**16)) * 16 for step in range(16)),
        "avalanche": float(min(2 * stats.norm.sf(np.abs(z).max()) * z.size, 1)),
        "birthdays": float(2 * stats.norm.sf(abs(collisions - expected) / np.sqrt(expected))),
    }


def _vectors(name: str) -> Any:
    """An intrinsic: the words of `LANES / 2` (Philox) or `LANES` (pcg4d) numbers from `z` on, folded by xor."""
    half = lanes.LANES // 2

    def wide(value: int, count: int = half, bits: int = 64) -> Any:
        return lanes._constant([value] * count, bits)

    def philox_code(builder: Any, z: Any, rounds: int) -> Any:
        a, b, c, d = z, wide(1), wide(2), z
        for k in range(rounds):
            p, q = (builder.mul(builder.and_(v, wide(LOW)), wide(m)) for v, m in ((a, M_0), (c, M_1)))
            a = builder.xor(builder.xor(builder.lshr(q, wide(32)), b), wide((7 + k * W_0) & LOW))
            c = builder.xor(builder.xor(builder.lshr(p, wide(32)), d), wide((9 + k * W_1) & LOW))
            b, d = q, p
        first, second = (builder.or_(builder.and_(v, wide(LOW)), builder.shl(w, wide(32))) for v, w in ((a, b), (c, d)))
        return builder.bitcast(builder.xor(first, second), ir.VectorType(ir.IntType(32), lanes.LANES))

    def pcg_code(builder: Any, z: Any) -> Any:
        number = lanes._splat(builder, builder.trunc(z, ir.IntType(32)), lanes.LANES)
        number = builder.add(number, lanes._constant(list(range(lanes.LANES)), 32))
        v = [number, wide(9, lanes.LANES, 32), builder.xor(number, wide(5, lanes.LANES, 32)), wide(1, lanes.LANES, 32)]
        v = [builder.add(builder.mul(w, wide(1664525, lanes.LANES, 32)), wide(1013904223, lanes.LANES, 32)) for w in v]
        for again in (False, True):
            for to, left, right in ((0, 1, 3), (1, 2, 0), (2, 0, 1), (3, 1, 2)):
                v[to] = builder.add(v[to], builder.mul(v[left], v[right]))
            if not again:
                v = [builder.xor(w, builder.lshr(w, wide(16, lanes.LANES, 32))) for w in v]
        return builder.xor(builder.xor(v[0], v[1]), builder.xor(v[2], v[3]))

    @intrinsic
    @no_type_check
    def words(typing, z):
        def code(context, builder, sig, args):
            if name == "pcg4d":
                return pcg_code(builder, args[0])
            several = builder.add(lanes._splat(builder, args[0], half), lanes._constant(list(range(half)), 64))
            return philox_code(builder, several, int(name.rpartition("-")[2]))

        return lanes.Vector(types.uint32)(types.uint64), code

    return words


@njit
@no_type_check
def _splitmix(z):
    return lanes.random_bits(lanes.counters(z))


def per_nanosecond(name: str) -> float:
    """Numbers of 32 bits, best of five tries."""
    words = _splitmix if name == "SplitMix64" else _vectors(name)
    each = {"SplitMix64": 1, "pcg4d": 4}.get(name, 2) * lanes.LANES

    @njit
    @no_type_check
    def many(times, out):
        z, seen = np.uint64(0), lanes.splat(np.uint32(0))
        for _ in range(times):
            z += np.uint64(16)
            seen = lanes.either(seen, words(z))
        lanes.store(out, 0, 0, lanes.real(seen, np.float32(0)))

    out, best = np.zeros((1, lanes.LANES), np.float32), float("inf")
    for times in (1, *[100_000] * 5):
        began = time.process_time()
        many(times, out)
        best = min(best, time.process_time() - began) if times > 1 else best
    return 100_000 * each / best / 1e9


def main() -> None:
    table = Table(title=f"Generators, {lanes.REGISTERS} registers of {lanes.PART} floats: p-values, and speed")
    for column in ("generator", "per ns", *p_values(splitmix, 2**20)):
        table.add_column(column, justify="right")
    for name, stream in STREAMS.items():
        found = [f"{min(p, 1):.2g}" for p in p_values(stream).values()]
        table.add_row(name, f"{per_nanosecond(name):.2f}", *found)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
