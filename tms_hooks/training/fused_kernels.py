"""The fused engine's inner loops, in numba: draw, forward, hand-derived backward and update of one model, all in cache.

A batch is worked on in blocks of rows, features on the outer axis (`x[feature, row]`), so that every inner loop runs
over rows with unit stride and vectorises. A model's arithmetic depends on nothing but the model: threads only share
models out. `no_type_check` keeps numba from being handed the wrappers of a run-time type checker.
"""

import math
from typing import Any, no_type_check

import numpy as np
from numba import njit

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
def draw_occupied(x, low, value, feature, going, key, begin, rows, batch, jumps):
    """Rows `begin`, ... of `SparseUniform.sample_occupied` into `x[:, :rows]`.

    All rows get their first active feature in vectorised loops, the others are found row by row.
    """
    n, unit = len(x), 2.0**-32
    for i in range(n):
        for r in range(rows):
            x[i, r] = 0
    for r in range(rows):
        bits = _mix(key + np.uint64(begin + r + 1) * GAMMA)
        low[r] = bits & LOW
        value[r] = x.dtype.type((np.float64(bits >> S32) + 0.5) * unit)
        feature[r] = 0
    for j in range(n - 1):
        threshold = jumps[0, j]
        for r in range(rows):
            feature[r] += low[r] < threshold
    for r in range(rows):
        low[r] = _mix(key + np.uint64(batch + begin + r + 1) * GAMMA)
        x[feature[r], r] = value[r]
    turn, count = 1, 0
    for r in range(rows):
        going[count] = r
        count += low[r] & LOW >= jumps[feature[r] + 1, n - 1]
    while count:
        turn, left = turn + 1, 0
        for c in range(count):
            r, bits = going[c], low[going[c]]
            at, j = feature[r] + 1, feature[r] + 1
            while bits & LOW < jumps[at, j]:
                j += 1
            x[j, r] = x.dtype.type((np.float64(bits >> S32) + 0.5) * unit)
            low[r] = _mix(key + np.uint64(turn * batch + begin + r + 1) * GAMMA)
            feature[r] = j
            going[left] = r
            left += low[r] & LOW >= jumps[j + 1, n - 1]
        count = left


# Loops over rows with everything else written out: the compiler keeps weights and sums in registers and vectorises
# over rows. They index whole arrays because taking a row of one costs an atomic reference count.


def _compile(source: str) -> Any:
    """The function `loop` of a source."""
    scope: dict[str, Any] = {}
    exec(source, scope)
    return njit(fastmath=SUMS, forceinline=True)(scope["loop"])


def _combination(count: int) -> Any:
    """`to[:, :rows] += w[:, part] @ source[part, :rows]` for the part of `count` sources from `first` on."""
    each = range(count)
    return _compile(f"""
def loop(to, w, source, first, rows):
    for i in range(len(to)):
        {"; ".join(f"w{j} = w[i, first + {j}]" for j in each)}
        for r in range(rows):
            to[i, r] += {" + ".join(f"w{j} * source[first + {j}, r]" for j in each)}
""")


def _tile(height: int, width: int) -> Any:
    """`to[i, j] += left[i, :rows] . right[j, :rows]` for a tile of sums from (top, side) on."""
    tile = [(i, j) for i in range(height) for j in range(width)]
    return _compile(f"""
def loop(to, left, right, top, side, rows, zero):
    {" = ".join(f"t{i}_{j}" for i, j in tile)} = zero
    for r in range(rows):
        {"; ".join(f"a{i} = left[top + {i}, r]" for i in range(height))}
        {"; ".join(f"b{j} = right[side + {j}, r]" for j in range(width))}
        {"; ".join(f"t{i}_{j} += a{i} * b{j}" for i, j in tile)}
    {"; ".join(f"to[top + {i}, side + {j}] += t{i}_{j}" for i, j in tile)}
""")


def _features(m: int) -> Any:
    """Logits, errors and sums of all features for hidden width `m` and a piecewise linear output, one pass a feature.

    `out` receives the loss's slope in the logits.
    """
    each = range(m)
    return _compile(f"""
def loop(out, x, h, w, b, weight, floor, loss, g_w, g_b, rows, zero):
    for i in range(len(x)):
        bias, slope, square, g_bias = b[i], weight[i] + weight[i], zero, zero
        {"; ".join(f"w{k} = w[i, {k}]; g{k} = zero" for k in each)}
        for r in range(rows):
            {"; ".join(f"x{k} = h[{k}, r]" for k in each)}
            logit = bias + {" + ".join(f"w{k} * x{k}" for k in each)}
            clipped = logit <= floor
            error = (floor if clipped else logit) - x[i, r]
            square += error * error
            g = zero if clipped else slope * error
            out[i, r] = g
            g_bias += g
            {"; ".join(f"g{k} += g * x{k}" for k in each)}
        {"; ".join(f"g_w[i, {k}] += g{k}" for k in each)}
        loss[i] += weight[i] * square
        g_b[i] += g_bias
""")


_add_1, _add_2, _add_3, _add_4, _add_8 = (_combination(count) for count in (1, 2, 3, 4, 8))
_tile_1_1, _tile_1_2, _tile_1_4 = (_tile(1, width) for width in (1, 2, 4))
_tile_4_1, _tile_4_2, _tile_4_4 = (_tile(4, width) for width in (1, 2, 4))
_features_1, _features_2, _features_3, _features_4, _features_5, _features_6 = (_features(m) for m in range(1, 7))
WIDEST = 6


@njit(cache=True)
@no_type_check
def add_product(to, w, source, rows):
    """`to[:, :rows] += w @ source[:, :rows]`."""
    first, left = 0, len(source)
    while left >= 8:
        _add_8(to, w, source, first, rows)
        first, left = first + 8, left - 8
    if left >= 4:
        _add_4(to, w, source, first, rows)
        first, left = first + 4, left - 4
    if left == 3:
        _add_3(to, w, source, first, rows)
    elif left == 2:
        _add_2(to, w, source, first, rows)
    elif left == 1:
        _add_1(to, w, source, first, rows)


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


@njit(cache=True, fastmath=SUMS)
@no_type_check
def output_errors(out, x, weight, act, loss, g_b, rows):
    """Losses of one block and their slopes in the biases; `out`, logits, becomes their slope in the logits."""
    zero, one, half = x.dtype.type(0), x.dtype.type(1), x.dtype.type(0.5)
    root_half, density = x.dtype.type(math.sqrt(0.5)), x.dtype.type(1 / math.sqrt(2 * math.pi))
    floor = x.dtype.type(0 if act == RELU else -np.inf)
    for i in range(len(x)):
        square, g_bias, slope = zero, zero, weight[i] + weight[i]
        if act == GELU:
            for r in range(rows):
                logit = out[i, r]
                below = half * (one + math.erf(logit * root_half))
                error = logit * below - x[i, r]
                square += error * error
                g = slope * error * (below + logit * density * math.exp(-half * logit * logit))
                out[i, r] = g
                g_bias += g
        else:
            for r in range(rows):
                logit = out[i, r]
                clipped = logit <= floor
                error = (floor if clipped else logit) - x[i, r]
                square += error * error
                g = zero if clipped else slope * error
                out[i, r] = g
                g_bias += g
        loss[i] += weight[i] * square
        g_b[i] += g_bias


@njit(cache=True)
@no_type_check
def forward_backward(x, rows, w_e, w_e_t, w_u, w_u_t, b, g_e, g_u, g_b, loss, weight, act, h, g, dh):
    """Add one block's losses and gradients. `weight` is each feature's importance over the batch size."""
    n, m = w_e.shape
    zero = x.dtype.type(0)
    floor = x.dtype.type(0 if act == RELU else -np.inf)
    for k in range(m):
        for r in range(rows):
            h[k, r] = zero
            dh[k, r] = zero
    add_product(h, w_e_t, x, rows)
    if m > WIDEST or act == GELU:
        for i in range(n):
            for r in range(rows):
                g[i, r] = b[i]
        add_product(g, w_u, h, rows)
        output_errors(g, x, weight, act, loss, g_b, rows)
        add_outer(g_u, g, h, rows)
    elif m == 1:
        _features_1(g, x, h, w_u, b, weight, floor, loss, g_u, g_b, rows, zero)
    elif m == 2:
        _features_2(g, x, h, w_u, b, weight, floor, loss, g_u, g_b, rows, zero)
    elif m == 3:
        _features_3(g, x, h, w_u, b, weight, floor, loss, g_u, g_b, rows, zero)
    elif m == 4:
        _features_4(g, x, h, w_u, b, weight, floor, loss, g_u, g_b, rows, zero)
    elif m == 5:
        _features_5(g, x, h, w_u, b, weight, floor, loss, g_u, g_b, rows, zero)
    else:
        _features_6(g, x, h, w_u, b, weight, floor, loss, g_u, g_b, rows, zero)
    add_product(dh, w_u_t, g, rows)
    add_outer(g_e, x, dh, rows)


@njit(cache=True)
@no_type_check
def empty_row(x, b, g_b, loss, weight, act, g):
    """`forward_backward` for a row without active features: only the biases matter."""
    for i in range(len(b)):
        x[i, 0], g[i, 0] = 0, b[i]
    output_errors(g, x, weight, act, loss, g_b, 1)


@njit(cache=True, inline="always")
@no_type_check
def _eight(c):
    return c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]


@njit(cache=True, error_model="numpy")  # a branch on division by zero would keep it from vectorising
@no_type_check
def update(kind, w, g, first, second, constants):
    """`torch_engine.update` on flat arrays, in place: the same rounded operations. False if a weight is not finite."""
    if kind == ADAM:
        decay, beta1, rest1, beta2, rest2, correction, eps, rate = _eight(constants)
        for j in range(len(w)):
            first[j] = first[j] * beta1 + g[j] * rest1
            second[j] = second[j] * beta2 + g[j] * g[j] * rest2
            w[j] = w[j] * decay - first[j] / (np.sqrt(second[j]) / correction + eps) * rate
    elif kind == SGD:
        _, momentum, _, _, _, _, _, rate = _eight(constants)
        for j in range(len(w)):
            first[j] = first[j] * momentum + g[j]
            w[j] = w[j] - first[j] * rate
    else:
        _, _, _, alpha, rest, _, eps, rate = _eight(constants)
        for j in range(len(w)):
            second[j] = second[j] * alpha + g[j] * g[j] * rest
            w[j] = w[j] - g[j] / (np.sqrt(second[j]) + eps) * rate
    finite = True
    for j in range(len(w)):
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
    b, g_b = (w[at:], g[at:]) if biased else (np.zeros(n, dtype), np.zeros(n, dtype))
    x, logits = np.empty((n, block), dtype), np.empty((n, block), dtype)
    h, dh, loss = np.empty((m, block), dtype), np.empty((m, block), dtype), np.empty(n, dtype)
    low, value = np.empty(block, np.uint64), np.empty(block, dtype)
    feature, going = np.empty(block, np.int64), np.empty(block + 1, np.int64)
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
                draw_occupied(x, low, value, feature, going, key, begin, count, rows, jumps)
            else:
                draw_sparse_uniform(x, key, begin, count, threshold, scale)
            forward_backward(x, count, w_e, w_e_t, w_u, w_u_t, b, g_e, g_u, g_b, loss, weight, act, h, logits, dh)
        if len(jumps):
            empty_row(x, b, g_b, loss, empty_weight, act, logits)
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


@njit(cache=True, nogil=True)
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
    for i in range(len(weights)):
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
