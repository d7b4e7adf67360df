"""The fused engine's inner loops, in numba: draw, forward, hand-derived backward and update of one model, all in cache.

A batch is worked on in blocks of rows, features on the outer axis (`x[feature, row]`), so that every inner loop runs
over rows with unit stride and vectorises. A model's arithmetic depends on nothing but the model: threads only share
models out. `no_type_check` keeps numba from being handed the wrappers of a run-time type checker.
"""

import math
from typing import no_type_check

import numpy as np
from numba import njit, prange

from tms_hooks import rng

# Sums over a batch may be reassociated, and products fused into them: without that they do not vectorise.
# NaN and infinity keep their meaning, because divergence is detected by them.
SUMS = {"reassoc", "contract", "nsz"}

BLOCK = 256
GAMMA, MIX_1, MIX_2 = np.uint64(rng.GAMMA), np.uint64(rng.MIX_1), np.uint64(rng.MIX_2)
S27, S30, S31, S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
LOW = np.uint64(0xFFFFFFFF)

IDENTITY, RELU, GELU = 0, 1, 2
SGD, RMSPROP, ADAM = 0, 1, 2


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
def draw_occupied(x, low, high, key, begin, rows, batch, jumps):
    """Rows `begin`, ... of `SparseUniform.sample_occupied` into `x[:, :rows]`."""
    n, unit = len(x), 2.0**-32
    x[:, :rows] = 0
    for r in range(rows):
        bits = _mix(key + np.uint64(begin + r + 1) * GAMMA)
        low[r] = bits & LOW
        high[r] = bits >> S32
    for r in range(rows):
        feature, at, bits, value = 0, 0, low[r], high[r]
        turn = 0
        while bits >= jumps[at, n - 1]:
            feature = at
            while bits < jumps[at, feature]:
                feature += 1
            x[feature, r] = x.dtype.type((np.float64(value) + 0.5) * unit)
            at = feature + 1
            turn += 1
            bits = _mix(key + np.uint64(turn * batch + begin + r + 1) * GAMMA)
            value = bits >> S32
            bits = bits & LOW


def _combination(count):
    """`to[:rows] += sum_j w[j] * source[j, :rows]` for a fixed count of sources, written out so that it is one pass."""
    each = range(count)
    body = f"""
def add(to, w, source, first, rows):
    {"; ".join(f"w{j} = w[first + {j}]" for j in each)}
    {"; ".join(f"s{j} = source[first + {j}]" for j in each)}
    for r in range(rows):
        to[r] += {" + ".join(f"w{j} * s{j}[r]" for j in each)}
"""
    scope: dict = {}
    exec(body, scope)
    return njit(fastmath=SUMS)(scope["add"])


def _tile(height, width):
    """`to[i, j] += left[i, :rows] . right[j, :rows]` for a fixed tile of sums, all kept in registers."""
    tile = [(i, j) for i in range(height) for j in range(width)]
    body = f"""
def add(to, left, right, top, side, rows, zero):
    {"; ".join(f"a{i} = left[top + {i}]" for i in range(height))}
    {"; ".join(f"b{j} = right[side + {j}]" for j in range(width))}
    {" = ".join(f"t{i}_{j}" for i, j in tile)} = zero
    for r in range(rows):
        {"; ".join(f"t{i}_{j} += a{i}[r] * b{j}[r]" for i, j in tile)}
    {"; ".join(f"to[top + {i}, side + {j}] += t{i}_{j}" for i, j in tile)}
"""
    scope: dict = {}
    exec(body, scope)
    return njit(fastmath=SUMS)(scope["add"])


_add_1, _add_2, _add_3, _add_4, _add_8 = (_combination(count) for count in (1, 2, 3, 4, 8))
_tile_1_1, _tile_1_2, _tile_1_4 = (_tile(1, width) for width in (1, 2, 4))
_tile_4_1, _tile_4_2, _tile_4_4 = (_tile(4, width) for width in (1, 2, 4))


@njit(cache=True)
@no_type_check
def add_product(to, w, source, rows):
    """`to[:, :rows] += w @ source[:, :rows]`."""
    for i in range(len(to)):
        out, weights, j, left = to[i], w[i], 0, len(source)
        while left >= 8:
            _add_8(out, weights, source, j, rows)
            j, left = j + 8, left - 8
        if left >= 4:
            _add_4(out, weights, source, j, rows)
            j, left = j + 4, left - 4
        if left == 3:
            _add_3(out, weights, source, j, rows)
        elif left == 2:
            _add_2(out, weights, source, j, rows)
        elif left == 1:
            _add_1(out, weights, source, j, rows)


@njit(cache=True)
@no_type_check
def add_outer(to, left, right, rows):
    """`to += left[:, :rows] @ right[:, :rows].T`."""
    zero = to.dtype.type(0)
    height, width = to.shape
    i = 0
    while i < height:
        j = 0
        if height - i >= 4:
            while width - j >= 4:
                _tile_4_4(to, left, right, i, j, rows, zero)
                j += 4
            if width - j >= 2:
                _tile_4_2(to, left, right, i, j, rows, zero)
                j += 2
            if width - j == 1:
                _tile_4_1(to, left, right, i, j, rows, zero)
            i += 4
        else:
            while width - j >= 4:
                _tile_1_4(to, left, right, i, j, rows, zero)
                j += 4
            if width - j >= 2:
                _tile_1_2(to, left, right, i, j, rows, zero)
                j += 2
            if width - j == 1:
                _tile_1_1(to, left, right, i, j, rows, zero)
            i += 1


def _feature(m):
    """Logit, error and sums of one feature over a block, for a fixed width and a piecewise linear output: one pass.

    `out` receives the loss's slope in the logits.
    """
    each = range(m)
    body = f"""
def feature(out, x, h, w, bias, weight, floor, g_w, rows, zero):
    slope, loss, g_bias = weight + weight, zero, zero
    {"; ".join(f"w{k} = w[{k}]; h{k} = h[{k}]; g{k} = zero" for k in each)}
    for r in range(rows):
        {"; ".join(f"x{k} = h{k}[r]" for k in each)}
        logit = bias + {" + ".join(f"w{k} * x{k}" for k in each)}
        clipped = logit <= floor
        error = (floor if clipped else logit) - x[r]
        loss += error * error
        g = zero if clipped else slope * error
        out[r] = g
        g_bias += g
        {"; ".join(f"g{k} += g * x{k}" for k in each)}
    {"; ".join(f"g_w[{k}] += g{k}" for k in each)}
    return weight * loss, g_bias
"""
    scope: dict = {}
    exec(body, scope)
    return njit(fastmath=SUMS)(scope["feature"])


_feature_1, _feature_2, _feature_3, _feature_4, _feature_5, _feature_6 = (_feature(m) for m in range(1, 7))
WIDEST = 6


@njit(cache=True)
@no_type_check
def feature_pass(out, x, h, w, bias, weight, floor, g_w, rows):
    """Choose the pass by the model's width."""
    m, zero = len(w), weight * 0
    if m == 1:
        return _feature_1(out, x, h, w, bias, weight, floor, g_w, rows, zero)
    if m == 2:
        return _feature_2(out, x, h, w, bias, weight, floor, g_w, rows, zero)
    if m == 3:
        return _feature_3(out, x, h, w, bias, weight, floor, g_w, rows, zero)
    if m == 4:
        return _feature_4(out, x, h, w, bias, weight, floor, g_w, rows, zero)
    if m == 5:
        return _feature_5(out, x, h, w, bias, weight, floor, g_w, rows, zero)
    return _feature_6(out, x, h, w, bias, weight, floor, g_w, rows, zero)


@njit(cache=True, fastmath=SUMS)
@no_type_check
def output_error(out, x, weight, act, rows):
    """Loss of one feature in one block and its slope in the bias; `out`, logits, becomes its slope in them."""
    zero, one, half = weight * 0, x.dtype.type(1), x.dtype.type(0.5)
    root_half, density = x.dtype.type(math.sqrt(0.5)), x.dtype.type(1 / math.sqrt(2 * math.pi))
    loss, g_bias, slope = zero, zero, weight + weight
    if act == RELU:
        for r in range(rows):
            clipped = out[r] <= zero
            error = (zero if clipped else out[r]) - x[r]
            loss += error * error
            g = zero if clipped else slope * error
            out[r] = g
            g_bias += g
    elif act == GELU:
        for r in range(rows):
            below = half * (one + math.erf(out[r] * root_half))
            error = out[r] * below - x[r]
            loss += error * error
            g = slope * error * (below + out[r] * density * math.exp(-half * out[r] * out[r]))
            out[r] = g
            g_bias += g
    else:
        for r in range(rows):
            error = out[r] - x[r]
            loss += error * error
            g = slope * error
            out[r] = g
            g_bias += g
    return weight * loss, g_bias


@njit(cache=True)
@no_type_check
def forward_backward(x, rows, w_e, w_e_t, w_u, w_u_t, b, g_e, g_u, g_b, loss, weight, act, biased, h, g, dh):
    """Add one block's losses and gradients. `weight` is each feature's importance over the batch size."""
    n, m = w_e.shape
    h[:, :rows] = 0
    dh[:, :rows] = 0
    add_product(h, w_e_t, x, rows)
    in_one = m <= WIDEST and act != GELU
    if not in_one:
        for i in range(n):
            g[i, :rows] = b[i]
        add_product(g, w_u, h, rows)
    floor = x.dtype.type(0 if act == RELU else -np.inf)
    for i in range(n):
        if in_one:
            feature_loss, g_bias = feature_pass(g[i], x[i], h, w_u[i], b[i], weight[i], floor, g_u[i], rows)
        else:
            feature_loss, g_bias = output_error(g[i], x[i], weight[i], act, rows)
        loss[i] += feature_loss
        if biased:
            g_b[i] += g_bias
    if not in_one:
        add_outer(g_u, g, h, rows)
    add_product(dh, w_u_t, g, rows)
    add_outer(g_e, x, dh, rows)


@njit(cache=True, inline="always")
@no_type_check
def _eight(c):
    return c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]


@njit(cache=True)
@no_type_check
def update(kind, w, g, first, second, constants):
    """`torch_engine.update` on flat arrays, in place: the same rounded operations. False if a weight is not finite."""
    finite = True
    if kind == ADAM:
        decay, beta1, rest1, beta2, rest2, correction, eps, rate = _eight(constants)
        for j in range(len(w)):
            first[j] = first[j] * beta1 + g[j] * rest1
            second[j] = second[j] * beta2 + g[j] * g[j] * rest2
            w[j] = w[j] * decay - first[j] / (np.sqrt(second[j]) / correction + eps) * rate
            finite &= np.isfinite(w[j])
    elif kind == SGD:
        _, momentum, _, _, _, _, _, rate = _eight(constants)
        for j in range(len(w)):
            first[j] = first[j] * momentum + g[j]
            w[j] = w[j] - first[j] * rate
            finite &= np.isfinite(w[j])
    else:
        _, _, _, alpha, rest, _, eps, rate = _eight(constants)
        for j in range(len(w)):
            second[j] = second[j] * alpha + g[j] * g[j] * rest
            w[j] = w[j] - g[j] / (np.sqrt(second[j]) + eps) * rate
            finite &= np.isfinite(w[j])
    return finite


@njit(cache=True)
@no_type_check
def copy(to, source):
    """`to[:] = source` for flat arrays."""
    for j in range(len(to)):
        to[j] = source[j]


@njit(cache=True)
@no_type_check
def transpose(to, source):
    """`to[:] = source.T`."""
    for i in range(len(source)):
        for k in range(len(to)):
            to[k, i] = source[i, k]


@njit(cache=True)
@no_type_check
def train_one(
    w,
    first,
    second,
    diverged_at,
    seed,
    n,
    m,
    tied,
    biased,
    act,
    start,
    stop,
    kind,
    constants,
    weight,
    empty_weight,
    rows,
    dataset,
    threshold,
    scale,
    jumps,
    loss_out,
    gradient_out,
):
    """`advance` for one model."""
    size, dtype, block = len(w), w.dtype, min(BLOCK, rows + rows % 2)
    g, matrix, at = np.empty(size, dtype), n * m, 0 if tied else n * m
    w_e, g_e = w[:matrix].reshape((n, m)), g[:matrix].reshape((n, m))
    w_u, g_u = w[at : at + matrix].reshape((n, m)), g[at : at + matrix].reshape((n, m))
    w_e_t = np.empty((m, n), dtype)
    w_u_t = w_e_t if tied else np.empty((m, n), dtype)
    at += matrix
    b, g_b = (w[at:], g[at:]) if biased else (np.zeros(n, dtype), g)
    x, logits = np.empty((n, block), dtype), np.empty((n, block), dtype)
    h, dh, loss = np.empty((m, block), dtype), np.empty((m, block), dtype), np.empty(n, dtype)
    low, high = np.empty(block, np.uint64), np.empty(block, np.uint64)
    old = np.empty(size, dtype)
    for step in range(start, max(stop, start + 1)):
        if step > start and diverged_at[0] >= 0:
            break
        for j in range(size):
            g[j] = 0
        for i in range(n):
            loss[i] = 0
        transpose(w_e_t, w_e)
        if not tied:
            transpose(w_u_t, w_u)
        key = batch_key(seed, step)
        for begin in range(0, rows, block):
            count = min(block, rows - begin)
            if dataset.shape[1]:
                x[:, :count] = dataset[:, begin : begin + count]
            elif len(jumps):
                draw_occupied(x, low, high, key, begin, count, rows, jumps)
            else:
                draw_sparse_uniform(x, key, begin, count, threshold, scale)
            forward_backward(
                x, count, w_e, w_e_t, w_u, w_u_t, b, g_e, g_u, g_b, loss, weight, act, biased, h, logits, dh
            )
        if len(jumps):
            x[:, :1] = 0
            forward_backward(
                x, 1, w_e, w_e_t, w_u, w_u_t, b, g_e, g_u, g_b, loss, empty_weight, act, biased, h, logits, dh
            )
        if step == start:
            copy(loss_out, loss)
            copy(gradient_out, g)
        if step == stop or diverged_at[0] >= 0:
            break
        copy(old, w)
        finite = update(kind, w, g, first, second, constants[step - start])
        if not (finite and np.isfinite(loss.sum())):
            diverged_at[0] = step
            copy(w, old)
            for j in range(size):
                first[j] = second[j] = 0


@njit(cache=True, parallel=True)
@no_type_check
def advance(
    weights,  # model, parameter: W_E, then untied W_U transposed, then b_U
    first,
    second,
    diverged_at,
    seeds,
    n,
    m,
    tied,
    biased,
    act,
    start,
    stop,
    kind,
    constants,  # step, what `update` unpacks
    weight,
    empty_weight,
    rows,
    dataset,  # feature, row: the whole data set; without rows, draw
    threshold,
    scale,
    jumps,  # last, feature: as in `SparseUniform.jumps`; without rows, draw empty rows too
    loss_out,  # model, feature
    gradient_out,  # model, parameter
):
    """Updates `start` to `stop - 1` of every model; `loss_out` and `gradient_out` are those before the first."""
    for i in prange(len(weights)):
        train_one(
            weights[i],
            first[i],
            second[i],
            diverged_at[i : i + 1],
            seeds[i],
            n,
            m,
            tied,
            biased,
            act,
            start,
            stop,
            kind,
            constants,
            weight,
            empty_weight,
            rows,
            dataset,
            threshold,
            scale,
            jumps,
            loss_out[i],
            gradient_out[i],
        )
