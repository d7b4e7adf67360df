"""Plain toys, linear in the middle: the parameters of any toy, losses and hand-derived gradients of a block of rows."""

import math
from typing import Any, NamedTuple, no_type_check

import numpy as np
from numba.extending import overload

from tms_hooks.fused.codes import GELU, IDENTITY, RELU
from tms_hooks.fused.kernels.lanes import (
    INNER,
    LANES,
    add,
    at_most,
    compiled,
    first_lanes,
    fma,
    load,
    mul,
    rows_apart,
    splat,
    store,
    sub,
    total,
    where,
)
from tms_hooks.fused.kernels.products import (
    WIDEST,
    add_outer,
    add_product,
    add_sparse_outer,
    find_entries,
    fold,
    padded,
    product,
    sparse_product,
    strips,
    turn,
)

# Sums over a batch may be reassociated, and products fused into them: without that they do not vectorize.
# NaN and infinity keep their meaning, because divergence is detected by them.
SUMS = {"reassoc", "contract", "nsz"}
LINE = 64  # bytes of a cache line
SOME = 128  # outputs whose logits stay in a processor's second cache


class Toy(NamedTuple):
    """Sizes and switches that decide which parameters there are, and the output's activation."""

    n: int
    m: int
    o: int
    """Outputs: as many as features, if tied."""
    tied: bool
    biased: bool
    """Whether the output has a bias,"""
    hidden_biased: bool
    """and the hidden layer."""
    scaled: bool
    """Whether the unembed has a scale, as it does where directions have norm 1."""
    units: int
    """Heads times the width of one."""
    head_biased: bool
    """Whether queries and keys have biases."""
    act: int
    read: int
    """Entries of a row of `W_U^T`: hidden units, or those of an MLP in front of it."""
    mlp_in: int
    """Rows of `W_in^T` of all MLPs,"""
    mlp_out: int
    """and of `W_out`, where that is not the unembed."""


class Parameters(NamedTuple):
    """Views on a model's flat parameters or gradients; of what it lacks, an array that nothing else sees."""

    w_e: Any
    w_u: Any
    b_u: Any
    b: Any
    scale: Any
    w_q: Any
    w_k: Any
    b_q: Any
    b_k: Any
    w_in: Any
    w_out: Any


class PlainSpace(NamedTuple):
    """Room for a block of a plain toy."""

    w_e_t: Any
    w_u_t: Any
    h: Any
    dh: Any
    out: Any
    """Output, row: logits, then the gradients in them; of a wide toy, of some outputs."""
    sums: Any
    """Vector, lane: scratch."""
    zeros: Any
    entries: Any
    """Feature and row of single entries of `x`: room for those of a sparse block, none if blocks are not sparse."""
    across: Any
    """Row, hidden: room for a transpose."""
    live: Any
    """A strip of bits that are set, then one of zeros."""


def narrow(m: int, o: int, n: int, act: int) -> tuple[int, ...]:
    """What tells compiled code that `strips` compute a toy, and which: one entry per hidden unit; of others, none."""
    return (0,) * m if m <= WIDEST and o == n and act in (IDENTITY, RELU) else ()


def aligned(rows: int, columns: int, like: np.ndarray) -> np.ndarray:
    """Zeros of shape (rows, columns) from a cache line's start on, so that no vector straddles two."""
    flat = np.zeros(rows * columns + LINE, like.dtype)
    skip = -flat.ctypes.data % LINE // flat.itemsize
    return flat[skip : skip + rows * columns].reshape((rows, columns))


@compiled()
@no_type_check
def views(flat, toy, none, one):
    """`Parameters` in the order of `engine.ORDER`; `none` and `one` stand for biases and a scale that it lacks.

    For functions that count no references either: another would release what it was never given.
    """
    n, m, o, width = toy.n, toy.m, toy.o, toy.units
    u = 0 if toy.tied else n * m
    b_u = u + o * toy.read
    b = b_u + (o if toy.biased else 0)
    scale = b + (m if toy.hidden_biased else 0)
    q = scale + (1 if toy.scaled else 0)
    k = q + width * m
    b_q = k + width * m
    b_k = b_q + (width if toy.head_biased else 0)
    w_in = b_k + (width if toy.head_biased else 0)
    w_out = w_in + toy.mlp_in * m
    return Parameters(
        flat[: n * m].reshape((n, m)),
        flat[u:b_u].reshape((o, toy.read)),
        flat[b_u:b] if toy.biased else none[:o],
        flat[b:scale] if toy.hidden_biased else none[:m],
        flat[scale:q] if toy.scaled else one,
        flat[q:k].reshape((width, m)),
        flat[k:b_q].reshape((width, m)),
        flat[b_q:b_k] if toy.head_biased else none[:width],
        flat[b_k:w_in] if toy.head_biased else none[:width],
        flat[w_in:w_out].reshape((toy.mlp_in, m)),
        flat[w_out:].reshape((toy.mlp_out, m)),
    )


def make_plain_space(like: np.ndarray, toy: Toy, block: int, sparse: bool) -> PlainSpace:
    """`PlainSpace` for blocks of so many rows."""
    n, m, o, rows = toy.n, toy.m, toy.o, block + LANES
    live = aligned(1, 2 * LANES, like)
    live.view(f"i{like.itemsize}")[:, :LANES] = -1
    w_e_t = np.empty((m, n), like.dtype)
    return PlainSpace(
        w_e_t,
        w_e_t if toy.tied else np.empty((m, o), like.dtype),
        aligned(m, rows, like),
        aligned(m, rows, like),
        aligned(o if m <= WIDEST else min(o, SOME), rows, like),
        aligned(-(-n * (2 * m + 2) // LANES) * LANES if m <= WIDEST else LANES, LANES, like),
        np.zeros(m, like.dtype),
        np.empty((n * block // 8 if sparse else 0, 2), np.int64),
        aligned(0 if narrow(m, o, n, toy.act) else block, padded(m), like),
        live,
    )


@compiled(fastmath=SUMS)
@no_type_check
def output_errors(out, y, weight, act, loss, g_b, rows):
    """Losses of one block and their gradients in the biases; `out`, logits, becomes their gradient in the logits.

    `y` are the targets.
    """
    zero, one, half = y.dtype.type(0), y.dtype.type(1), y.dtype.type(0.5)
    root_half, density = y.dtype.type(math.sqrt(0.5)), y.dtype.type(1 / math.sqrt(2 * math.pi))
    floor = y.dtype.type(0 if act == RELU else -np.inf)
    for i in range(len(y)):
        twice = weight[i] + weight[i]
        if act == GELU:
            square, g_bias = zero, zero
            for r in range(rows):
                logit = out[i, r]
                below = half * (one + math.erf(logit * root_half))
                error = logit * below - y[i, r]
                square += error * error
                g = twice * error * (below + logit * density * math.exp(-half * logit * logit))
                out[i, r] = g
                g_bias += g
        else:
            nought, lowest = splat(zero), splat(floor)
            squares, biases = nought, nought
            for r in range(0, rows, LANES):
                logits = load(out, i, r)
                clipped = at_most(logits, lowest)
                errors = sub(where(clipped, lowest, logits), load(y, i, r))
                errors = where(first_lanes(rows - r), errors, nought)
                squares = fma(errors, errors, squares)
                errors = where(clipped, nought, mul(errors, splat(twice)))
                biases = add(biases, errors)
                store(out, i, r, errors)
            square, g_bias = total(squares), total(biases)
        loss[i] += weight[i] * square
        g_b[i] += g_bias


@no_type_check
def forward_backward(x, y, rows, w, g, loss, weight, toy, narrow, space):
    """Add one block's losses and gradients. `y` are the targets, `weight` importances over the batch size."""
    raise NotImplementedError("in compiled code only")


# To be inlined: else a thousand bytes of arrays are passed on for each block.
@overload(forward_backward, jit_options=INNER)
@no_type_check
def _forward_backward(x, y, rows, w, g, loss, weight, toy, narrow, space):
    return narrow_forward_backward if len(narrow) else wide_forward_backward


@no_type_check
def narrow_forward_backward(x, y, rows, w, g, loss, weight, toy, narrow, space):
    """The same with the hidden layer in registers."""
    n, m, each = toy.n, toy.m, (toy.m if toy.tied else 2 * toy.m) + 2
    sums = rows_apart(space.sums[: -(-n * each // LANES) * LANES], LANES)
    out = rows_apart(space.out, x.strides[0] // x.itemsize)
    zero, two = x.dtype.type(0), x.dtype.type(2)
    for j in range(len(sums)):
        store(sums, j, 0, splat(zero))
    floor = x.dtype.type(0 if toy.act == RELU else -np.inf)
    strips(narrow, (x, y, rows, w.w_e, w.w_u, toy.tied, w.b_u, weight, floor, out, sums, each, space.live, zero))
    fold(sums)
    for i in range(n):
        at = i * each
        for k in range(m):
            g.w_u[i, k] += two * sums[(at + k) // LANES, (at + k) % LANES]
        if not toy.tied:
            for k in range(m):
                g.w_e[i, k] += two * sums[(at + m + k) // LANES, (at + m + k) % LANES]
        at += each - 2
        g.b_u[i] += two * sums[at // LANES, at % LANES]
        loss[i] += weight[i] * sums[(at + 1) // LANES, (at + 1) % LANES]


@no_type_check
def wide_forward_backward(x, y, rows, w, g, loss, weight, toy, narrow, space):
    """The same by matrix products, `SOME` outputs at a time.

    The hidden layer comes from single entries of `x`, if there is room for them.
    """
    apart, entries = x.strides[0] // x.itemsize, space.entries
    h, dh, out = rows_apart(space.h, apart), rows_apart(space.dh, apart), rows_apart(space.out, apart)
    count = find_entries(entries, x, rows)
    if count < 0:
        product(h, space.zeros, space.w_e_t, x, rows)
    else:
        sparse_product(h, w.w_e, x, rows, entries, count, space.across)
    turn(space.across, h, rows)
    for top in range(0, toy.o, SOME):
        end = min(top + SOME, toy.o)
        now = out[: end - top]
        product(now, w.b_u[top:end], w.w_u[top:end], h, rows)
        output_errors(now, y[top:end], weight[top:end], toy.act, loss[top:end], g.b_u[top:end], rows)
        clear_rest(now, rows)
        add_outer(g.w_u[top:end], now, h, space.across, rows, space.sums)
        add_product(dh, space.zeros, space.w_u_t, top, now, rows, top == 0)
    if count < 0:
        turn(space.across, dh, rows)
        add_outer(g.w_e, x, dh, space.across, rows, space.sums)
    else:
        add_sparse_outer(g.w_e, x, dh, rows, entries, count, space.across)


@compiled()
@no_type_check
def clear_rest(out, rows):
    """0 from `rows` up to a whole number of strips."""
    for i in range(len(out)):
        for r in range(rows, -(-rows // LANES) * LANES):
            out[i, r] = 0


@compiled()
@no_type_check
def empty_row(b, y, g_b, loss, weight, act):
    """`forward_backward` for a row without active features, whose targets are `y`: only the biases matter."""
    zero, one, half = b.dtype.type(0), b.dtype.type(1), b.dtype.type(0.5)
    root_half, density = b.dtype.type(math.sqrt(0.5)), b.dtype.type(1 / math.sqrt(2 * math.pi))
    for i in range(len(b)):
        out, gradient = b[i], one
        if act == GELU:
            below = half * (one + math.erf(b[i] * root_half))
            out, gradient = b[i] * below, below + b[i] * density * math.exp(-half * b[i] * b[i])
        elif act == RELU and b[i] <= zero:
            out, gradient = zero, zero
        error = out - y[i]
        loss[i] += weight[i] * error * error
        g_b[i] += (weight[i] + weight[i]) * error * gradient
