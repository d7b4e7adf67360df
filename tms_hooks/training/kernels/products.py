"""Matrix products over a block of rows, written out so that weights and sums stay in registers."""

from typing import Any, no_type_check

from tms_hooks.training.kernels import lanes
from tms_hooks.training.kernels.lanes import compiled

# Sums over a batch may be reassociated, and products fused into them: without that they do not vectorise.
# NaN and infinity keep their meaning, because divergence is detected by them.
SUMS = {"reassoc", "contract", "nsz"}

# Loops over rows with everything else written out: the compiler keeps weights and sums in registers and vectorises
# over rows. They index whole arrays because taking a row of one costs an atomic reference count.


def _compile(source: str) -> Any:
    """The function `loop` of a source."""
    scope: dict[str, Any] = {name: getattr(lanes, name) for name in dir(lanes)}
    exec(source, scope)
    return compiled(cache=False, fastmath=SUMS, forceinline=True)(scope["loop"])


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


def _strips(m: int) -> Any:
    """Losses and gradients for hidden width `m` and a piecewise linear output, a strip of `LANES` rows at a time.

    Hidden units stay in registers. `sums` holds, for each feature and lane, the gradient of its `m` weights (of W_U,
    then of W_E; of both, if they are one) and of its bias, halved, and its squared error; `errors` the slopes in the
    logits, halved too.
    """
    each = range(m)
    return _compile(f"""
def loop(x, rows, w_e, w_u, tied, b, weight, floor, errors, sums, zero):
    lowest, nought = splat(floor), splat(zero)
    for r in range(0, rows, LANES):
        live = first_lanes(rows - r)
        {" = ".join(f"h{k} = d{k}" for k in each)} = nought
        for i in range(len(x)):
            value = load(x, i, r)
            {"; ".join(f"h{k} = fma(value, splat(w_e[i, {k}]), h{k})" for k in each)}
        for i in range(len(x)):
            logit, at = splat(b[i]), i * {2 * m + 2}
            {"; ".join(f"w{k} = splat(w_u[i, {k}]); logit = fma(h{k}, w{k}, logit)" for k in each)}
            clipped = at_most(logit, lowest)
            error = where(live, sub(where(clipped, lowest, logit), load(x, i, r)), nought)
            slope = where(clipped, nought, mul(error, splat(weight[i])))
            {"; ".join(f"d{k} = fma(slope, w{k}, d{k})" for k in each)}
            store(errors, i, 0, slope)
            store(sums, at + {2 * m}, 0, add(load(sums, at + {2 * m}, 0), slope))
            store(sums, at + {2 * m + 1}, 0, fma(error, error, load(sums, at + {2 * m + 1}, 0)))
        for i in range(len(x)):
            value, slope, at = load(x, i, r), load(errors, i, 0), i * {2 * m + 2}
            if tied:
                {
        "; ".join(
            f"store(sums, at + {k}, 0, fma(slope, h{k}, fma(value, d{k}, load(sums, at + {k}, 0))))" for k in each
        )
    }
            else:
                {"; ".join(f"store(sums, at + {k}, 0, fma(slope, h{k}, load(sums, at + {k}, 0)))" for k in each)}
                {
        "; ".join(f"store(sums, at + {m + k}, 0, fma(value, d{k}, load(sums, at + {m + k}, 0)))" for k in each)
    }
""")


_add_1, _add_2, _add_3, _add_4, _add_8 = (_combination(count) for count in (1, 2, 3, 4, 8))
_tile_1_1, _tile_1_2, _tile_1_4 = (_tile(1, width) for width in (1, 2, 4))
_tile_4_1, _tile_4_2, _tile_4_4 = (_tile(4, width) for width in (1, 2, 4))
strips_1, strips_2, strips_3, strips_4, strips_5, strips_6 = (_strips(m) for m in range(1, 7))
WIDEST = 6


@compiled()
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


@compiled()
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
