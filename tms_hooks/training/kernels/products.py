"""Matrix products over a block of rows, written out so that weights and sums stay in registers."""

from typing import Any, no_type_check

from numba import njit

# Sums over a batch may be reassociated, and products fused into them: without that they do not vectorise.
# NaN and infinity keep their meaning, because divergence is detected by them.
SUMS = {"reassoc", "contract", "nsz"}

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
features_1, features_2, features_3, features_4, features_5, features_6 = (_features(m) for m in range(1, 7))
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
