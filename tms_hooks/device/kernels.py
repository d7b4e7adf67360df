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
def hashes(key, pair, feature, n):
    """The bits of pairs of rows, [pair, feature]: those of the even row below, those of the odd row above."""
    place = ((pair // HASHES)[:, None] * n + feature[None, :]) * HASHES + (pair % HASHES)[:, None]
    return mixed(key + (place + 1).to(tl.uint64) * GAMMA)


@triton.jit
@no_type_check
def row_of(pair, half):
    """The number of a row of a pair."""
    return pair // HASHES * (2 * HASHES) + pair % HASHES * 2 + half


@triton.jit
@no_type_check
def values(z, half, feature, inside, thresholds, interval, n, OCCUPIED: tl.constexpr, REAL: tl.constexpr):
    """`Independent._draw`, or with OCCUPIED `draw_occupied`, of one row of each pair: [pair, feature]."""
    bits = (z >> (32 * half)).to(tl.uint32)
    threshold = tl.load(thresholds + n + feature, feature < n, 1)[None, :]
    if OCCUPIED:
        alone = tl.load(thresholds + feature, feature < n, 1)[None, :]
        hits = (bits.to(tl.int64) < alone) & (feature < n)[None, :]
        first = tl.min(tl.where(hits, feature[None, :], n), axis=1)
        threshold = tl.where(feature[None, :] > first[:, None], threshold, alone)
    low, high = tl.load(interval).to(REAL), tl.load(interval + 1).to(REAL)
    u = (bits.to(REAL) + 0.5) * (1.0 / threshold.to(REAL))
    active = (bits.to(tl.int64) < threshold) & inside
    return tl.where(active, u * (high - low) + low, 0.0).to(tl.float32 if tl.float32 == REAL else tl.float64)


@triton.jit
@no_type_check
def draw(
    x, keys, thresholds, interval, rows, n, OCCUPIED: tl.constexpr, PAIRS: tl.constexpr, N: tl.constexpr
):  # fmt: skip
    """Batches of all models into x[model, row, feature], with the bits that torch gives them.

    Grid: models, tiles of PAIRS pairs of rows, tiles of N features; with OCCUPIED one of all features.
    """
    model = tl.program_id(0).to(tl.int64)
    pair, feature = tl.program_id(1) * PAIRS + tl.arange(0, PAIRS), tl.program_id(2) * N + tl.arange(0, N)
    z = hashes(tl.load(keys + model).to(tl.uint64), pair, feature, n)
    for half in tl.static_range(2):
        row = row_of(pair, half)
        inside = (row < rows)[:, None] & (feature < n)[None, :]
        made = values(z, half, feature, inside, thresholds + model * 2 * n, interval, n, OCCUPIED, tl.float64)
        tl.store(x + (model * rows + row[:, None]) * n + feature[None, :], made, inside)


@triton.jit
@no_type_check
def product(a, b, DOT: tl.constexpr):
    """a b, in single precision: by tensor cores, which need three products for it, or written out."""
    if DOT:
        return tl.dot(a, b, input_precision="tf32x3")
    return tl.sum(a[:, :, None] * b[None, :, :], axis=1)


@triton.jit
@no_type_check
def folded(a, b, DOT: tl.constexpr):
    """a^T b, a sum over rows."""
    if DOT:
        return tl.dot(tl.trans(a), b, input_precision="tf32x3")
    return tl.sum(a[:, :, None] * b[:, None, :], axis=0)


@triton.jit
@no_type_check
def gradients(
    W_E, W_U, b_U, found, total, counters, streams, thresholds, interval, importance, diverged_at, bad,
    n, m, rows, share, splits,
    TIED: tl.constexpr, BIAS: tl.constexpr, RELU: tl.constexpr, OCCUPIED: tl.constexpr, DOT: tl.constexpr,
    PAIRS: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Gradients of the mean squared error in some of the rows of a model, into found[split], laid out as the weights.

    Grid: models, splits. With OCCUPIED the rows stand for `share` of all, and the others are empty.
    """
    model, split = tl.program_id(0), tl.program_id(1)
    if (model == 0) & (split == 0):  # `apply` alone reads the second counter, so it is moved on while nobody does
        tl.store(counters + 1, tl.load(counters + 1) + 1)
    if tl.load(diverged_at + model) >= 0:
        return
    models = tl.num_programs(0)
    feature, hidden = tl.arange(0, N), tl.arange(0, M)
    at = model * n * m + feature[:, None] * m + hidden[None, :]
    fits = (feature < n)[:, None] & (hidden < m)[None, :]
    E = tl.load(W_E + at, fits, 0.0)
    U = tl.trans(E)
    if not TIED:
        across = model * n * m + hidden[:, None] * n + feature[None, :]
        U = tl.load(W_U + across, tl.trans(fits), 0.0)
    bias = tl.zeros((N,), tl.float32)
    if BIAS:
        bias = tl.load(b_U + model * n + feature, feature < n, 0.0)
    weight = 2 * tl.load(importance + model * n + feature, feature < n, 0.0)
    sum_E, sum_U, sum_b = tl.zeros((N, M), tl.float32), tl.zeros((M, N), tl.float32), tl.zeros((N,), tl.float32)
    cost = tl.zeros((N,), tl.float32)
    if OCCUPIED & (split == 0):
        out = tl.maximum(bias, 0.0) if RELU else bias
        sum_b = weight * out * (1 - share)
        cost = sum_b * out
    key = key_at(streams, model, tl.load(counters))
    pairs = tl.cdiv(rows, 2 * HASHES) * HASHES
    top = split * PAIRS
    while top < pairs:  # the interpreter's `range` takes no tensor
        pair = top + tl.arange(0, PAIRS)
        z = hashes(key, pair, feature, n)
        for half in tl.static_range(2):
            inside = (row_of(pair, half) < rows)[:, None] & (feature < n)[None, :]
            x = values(z, half, feature, inside, thresholds + model * 2 * n, interval, n, OCCUPIED, tl.float32)
            h = product(x, E, DOT)
            out = product(h, U, DOT) + bias[None, :]
            slope = weight[None, :] * (share / rows)
            if RELU:
                slope = tl.where(out > 0, slope, 0.0)
                out = tl.maximum(out, 0.0)
            error = tl.where(inside, out - x, 0.0)
            d = error * slope
            cost += tl.sum(d * error, axis=0)
            sum_b += tl.sum(d, axis=0)
            dh = product(d, tl.trans(U), DOT)
            sum_E += folded(x, dh, DOT)
            if TIED:
                sum_E += folded(d, h, DOT)
            else:
                sum_U += folded(h, d, DOT)
        top += splits * PAIRS
    if not (tl.sum(cost, axis=0) <= LARGEST):  # nor is NaN
        tl.store(bad + model, 1)
    found += split.to(tl.int64) * total
    tl.store(found + at, sum_E, fits)
    ends = models * n * m
    if not TIED:
        tl.store(found + ends + model * n * m + hidden[:, None] * n + feature[None, :], sum_U, tl.trans(fits))
        ends *= 2
    if BIAS:
        tl.store(found + ends + model * n + feature, sum_b, feature < n)


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
    lines = kind.rule.__code__  # type: ignore[attr-defined]
    return triton.jit(FunctionType(lines, {"torch": tl, "__name__": kind.__module__}, "rule"))
