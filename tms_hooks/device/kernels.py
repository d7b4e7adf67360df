"""Triton kernels for toys on a GPU: rows of `SparseUniform`, and an update of plain toys in two launches.

Rows come from the bits of `tms_hooks.rng`, on any device; in an update nothing of a batch is ever in the GPU's memory.
A program of `gradients` has some of the rows of one model; `apply` adds up what these programs found, and updates.

Triton comes with the CUDA builds of torch. Without a GPU its interpreter runs the same kernels, slowly.
"""

from functools import cache
from types import FunctionType
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl

from tms_hooks import rng
from tms_hooks.data.independent import STRIP
from tms_hooks.training.optimizers import Optimizer

GAMMA, MIX_1, MIX_2 = tl.constexpr(rng.GAMMA), tl.constexpr(rng.MIX_1), tl.constexpr(rng.MIX_2)
HASHES = tl.constexpr(STRIP // 2)
"""Hashes per feature of a strip: a hash has the bits of two rows."""
LARGEST = tl.constexpr(torch.finfo(torch.float32).max)


@triton.jit
@no_type_check
def mixed(z):
    """`rng._mixed`, on 64 bits without a sign."""
    z = (z ^ (z >> 30)) * MIX_1
    z = (z ^ (z >> 27)) * MIX_2
    return z ^ (z >> 31)


@triton.jit
@no_type_check
def key_at(streams, model, step):
    """`rng.keys_at` of one model."""
    return mixed(mixed((tl.load(streams + model) + step).to(tl.uint64) + GAMMA) + GAMMA)


@triton.jit
@no_type_check
def bits_at(key, pair, feature, n):
    """The random bits of a feature in a pair of rows: those of the even row below, those of the odd row above."""
    place = (pair // HASHES * n + feature) * HASHES + pair % HASHES
    return mixed(key + (place + 1).to(tl.uint64) * GAMMA)


@triton.jit
@no_type_check
def half_of(z, half):
    """The bits of one row of a pair."""
    return ((z >> (32 * half)) & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
@no_type_check
def row_of(pair, half):
    """The number of a row of a pair."""
    return pair // HASHES * (2 * HASHES) + pair % HASHES * 2 + half


@triton.jit
@no_type_check
def value(bits, threshold, low, span):
    """`Independent._values_below` of `SparseUniform`; one minus a threshold fits into 32 bits, as it may be 2^32."""
    u = (bits.to(low.dtype) + 0.5) * (1.0 / threshold.to(low.dtype))
    return tl.where(bits <= (threshold - 1).to(tl.uint32), u * span + low, 0.0)


@triton.jit
@no_type_check
def draw(
    x, streams, step, thresholds, interval, rows, n, down, across,
    OCCUPIED: tl.constexpr, PAIRS: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Batches of all models into x[model, row, feature], with the bits that torch gives them.

    Grid: of each model `down` tiles of PAIRS pairs of rows by `across` tiles of N features; with OCCUPIED one of all.
    """
    tile, model = tl.program_id(0) % (down * across), (tl.program_id(0) // (down * across)).to(tl.int64)
    pair, feature = tile // across * PAIRS + tl.arange(0, PAIRS), tile % across * N + tl.arange(0, N)
    real = (feature < n)[None, :]
    thresholds += model * 2 * n + feature[None, :]
    alone, after = tl.load(thresholds, real, 1), tl.load(thresholds + n, real, 1)
    low, span = tl.load(interval), tl.load(interval + 1)
    z = bits_at(key_at(streams, model, tl.load(step)), pair[:, None], feature[None, :], n)
    for half in tl.static_range(2):
        bits, threshold = half_of(z, half), after
        if OCCUPIED:
            hits = (bits <= (alone - 1).to(tl.uint32)) & real
            first = tl.min(tl.where(hits, feature[None, :], n), axis=1)
            threshold = tl.where(feature[None, :] > first[:, None], after, alone)
        row = row_of(pair, half)[:, None]
        made = value(bits, threshold, low, span)
        tl.store(x + (model * rows + row) * n + feature[None, :], made, (row < rows) & real)


@triton.jit
@no_type_check
def errors(
    logits, x, importance, diverged_at, bad, entries, n, share, blocks, RELU: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Gradients of the mean squared error in the logits, in their place. Grid: `blocks` of each model's entries."""
    model, at = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = at < tl.where(tl.load(diverged_at + model) < 0, entries, 0)  # none of a model that has diverged
    out = tl.load(logits + model * entries + at, inside, 0.0)
    weight = 2 * share * tl.load(importance + model * n + at % n, inside, 0.0)
    if RELU:
        weight = tl.where(out > 0, weight, 0.0)
        out = tl.maximum(out, 0.0)
    error = out - tl.load(x + model * entries + at, inside, 0.0)
    tl.store(bad + model + 0 * at, tl.full((BLOCK,), 1, tl.int32), inside & ((error * error <= LARGEST) == 0))
    tl.store(logits + model * entries + at, weight * error, inside)


@triton.jit
@no_type_check
def gradients(
    W_E, W_U, b_U, found, total, counters, streams, thresholds, interval, importance, diverged_at, bad,
    rows, share, splits, n: tl.constexpr, m: tl.constexpr,
    TIED: tl.constexpr, BIAS: tl.constexpr, RELU: tl.constexpr, OCCUPIED: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Gradients of the mean squared error in some of the rows of a model, into found[split], laid out as the weights.

    Grid: models, splits. With OCCUPIED the rows stand for `share` of all, and the others are empty. A lane has rows,
    and all that is said of a feature or hidden unit is written out: tuples of numbers, or of vectors of rows.
    """
    model, split = tl.program_id(0), tl.program_id(1)
    if (model == 0) & (split == 0):  # `apply` alone reads the second counter, so it is moved on while nobody does
        tl.store(counters + 1, tl.load(counters + 1) + 1)
    if tl.load(diverged_at + model) >= 0:
        return
    W_E += model * n * m
    W_U += model * n * m
    low, span = tl.load(interval).to(tl.float32), tl.load(interval + 1).to(tl.float32)
    E, U, b, weight, alone, after = (), (), (), (), (), ()
    for i in tl.static_range(n):
        for j in tl.static_range(m):
            E += (tl.load(W_E + i * m + j),)
            U += (tl.load(W_E + i * m + j if TIED else W_U + j * n + i),)
        b += (tl.load(b_U + model * n + i) if BIAS else 0.0,)
        weight += (2 * tl.load(importance + model * n + i),)
        alone += (tl.load(thresholds + (model * 2 + 0) * n + i),)
        after += (tl.load(thresholds + (model * 2 + 1) * n + i),)
    none = tl.zeros((PAIRS,), tl.float32)
    sum_E, sum_U, sum_b = (none,) * (n * m), (none,) * (n * m), (none,) * n
    key, cost = key_at(streams, model, tl.load(counters)), none
    pairs, top = tl.cdiv(rows, 2 * HASHES) * HASHES, split * PAIRS
    while top < pairs:  # the interpreter's `range` takes no tensor
        pair = top + tl.arange(0, PAIRS)
        z = ()
        for i in tl.static_range(n):
            z += (bits_at(key, pair, i, n),)
        for half in tl.static_range(2):
            inside, now = row_of(pair, half) < rows, tl.zeros((PAIRS,), tl.int1)
            x, h = (), (none,) * m
            for i in tl.static_range(n):
                bits = half_of(z[i], half)
                entry = value(bits, after[i], low, span)
                if OCCUPIED:
                    entry = tl.where(now, entry, value(bits, alone[i], low, span))
                    now |= bits <= (tl.where(now, after[i], alone[i]) - 1).to(tl.uint32)
                x += (tl.where(inside, entry, 0.0),)
                kept = ()
                for j in tl.static_range(m):
                    kept += (h[j] + x[i] * E[i * m + j],)
                h = kept
            dh, new_E, new_U, new_b = (none,) * m, (), (), ()
            for i in tl.static_range(n):
                out = none + b[i]
                for j in tl.static_range(m):
                    out += h[j] * U[i * m + j]
                slope = tl.where(inside, weight[i] * (share / rows), 0.0)
                if RELU:
                    slope = tl.where(out > 0, slope, 0.0)
                    out = tl.maximum(out, 0.0)
                error = out - x[i]
                d = error * slope
                cost += d * error
                new_b += (sum_b[i] + d,)
                kept = ()
                for j in tl.static_range(m):
                    kept += (dh[j] + d * U[i * m + j],)
                    new_U += ((sum_E if TIED else sum_U)[i * m + j] + d * h[j],)
                dh = kept
            for i in tl.static_range(n):
                for j in tl.static_range(m):
                    new_E += ((new_U if TIED else sum_E)[i * m + j] + x[i] * dh[j],)
            sum_E, sum_U, sum_b = new_E, (sum_U if TIED else new_U), new_b
        top += splits * PAIRS
    if not (tl.sum(cost, axis=0) <= LARGEST):  # nor is NaN
        tl.store(bad + model, 1)
    found += split.to(tl.int64) * total
    of_U, of_b = found + tl.num_programs(0) * n * m, found + tl.num_programs(0) * n * m * (1 if TIED else 2)
    for i in tl.static_range(n):
        for j in tl.static_range(m):
            tl.store(found + model * n * m + i * m + j, tl.sum(sum_E[i * m + j], axis=0))
            if not TIED:
                tl.store(of_U + model * n * m + j * n + i, tl.sum(sum_U[i * m + j], axis=0))
        if BIAS:
            one = tl.sum(sum_b[i], axis=0)
            if OCCUPIED & (split == 0):
                one += weight[i] * (1 - share) * (tl.maximum(b[i], 0.0) if RELU else b[i])
            tl.store(of_b + model * n + i, one)


@triton.jit
@no_type_check
def apply(
    line, first, second, found, table, counters, diverged_at, bad, total, models, n, m, splits,
    RULE: tl.constexpr, SCALARS: tl.constexpr, MATRICES: tl.constexpr, PARAMETERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One update of all weights, in the row of `table` that the second counter names. Grid: blocks of the line."""
    if tl.program_id(0) == 0:  # `gradients` alone reads the first counter
        tl.store(counters, tl.load(counters) + 1)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, matrix = at < total, models * n * m
    parameter = tl.minimum(at // matrix, MATRICES)
    model = (at - parameter * matrix) // tl.where(parameter < MATRICES, n * m, n)
    inside = inside & (tl.load(diverged_at + model, inside, 0) < 0)
    gradient = tl.zeros((BLOCK,), tl.float32)
    part, split = found + at, 0
    while split < splits:
        gradient += tl.load(part, inside, 0.0)
        part += total
        split += 1
    numbers = table + tl.load(counters + 1) * (2 * PARAMETERS + SCALARS)
    w = tl.load(line + at, inside, 0.0) * tl.load(numbers + 2 * parameter, inside, 1.0).to(tl.float32)
    m1, m2 = tl.load(first + at, inside, 0.0), tl.load(second + at, inside, 0.0)
    numbers += 2 * PARAMETERS
    a, b = tl.load(numbers).to(tl.float32), tl.load(numbers + 1).to(tl.float32)
    if SCALARS == 2:
        w, m1, m2 = RULE(w, gradient, m1, m2, a, b)
    else:
        c, d = tl.load(numbers + 2).to(tl.float32), tl.load(numbers + 3).to(tl.float32)
        if SCALARS == 4:
            w, m1, m2 = RULE(w, gradient, m1, m2, a, b, c, d)
        else:
            e, f = tl.load(numbers + 4).to(tl.float32), tl.load(numbers + 5).to(tl.float32)
            w, m1, m2 = RULE(w, gradient, m1, m2, a, b, c, d, e, f, tl.load(numbers + 6).to(tl.float32))
    finite = tl.abs(w) <= LARGEST
    tl.store(bad + model, tl.full((BLOCK,), 1, tl.int32), inside & (finite == 0))
    tl.store(line + at, w, inside)
    tl.store(first + at, m1, inside)
    tl.store(second + at, m2, inside)


@cache
def rule(kind: type[Optimizer]) -> Any:
    """The rule of an optimizer, as `apply` calls it: the same lines, with Triton's functions where they say `torch`."""
    lines = kind.rule.__code__
    return triton.jit(FunctionType(lines, {"torch": tl, "__name__": kind.__module__}, "rule"))
