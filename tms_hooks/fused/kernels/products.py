"""Matrix products over strips of rows, written out so that weights and sums stay in registers.

A processor multiplies fast while its sums stay in registers, and in compiled code a register is a local variable: a
tile of 4 by 4 sums must be sixteen of them, because an array of sums would be written to memory and read back at each
step. numba has no loop that makes variables. So three functions here write the source of a loop for one size of tile,
and `_compile` turns it into a function. Nobody else calls that; the source depends on nothing but the sizes below.
(Measured, on 100 x 20, 20 x 5 and 400 x 30 weights and 256 rows: plain loops that LLVM vectorizes take 2 to 6 times as
long, an array of sums 19 to 32 times; instructions built with llvmlite take as long, in three times the code.)
For example `_product(2, 2)`, two rows of `w` by two strips of `LANES` rows of the batch, writes

    def loop(to, start, w, source, top, r):
        t0_0 = splat(start[top + 0]); t0_1 = splat(start[top + 0]); t1_0 = splat(start[top + 1]); t1_1 = ...
        for k in range(len(source)):
            s0 = load(source, k, r + 0 * LANES); s1 = load(source, k, r + 1 * LANES)
            v = splat(w[top + 0, k]); t0_0 = fma(v, s0, t0_0); t0_1 = fma(v, s1, t0_1); v = splat(w[top + 1, k]); ...
        store(to, top + 0, r + 0 * LANES, t0_0); store(to, top + 0, r + 1 * LANES, t0_1); ...

How to read the templates: each line of one becomes one line like these, a statement for every row `i` of the tile and
every strip `j`; `t0_1` is the sum of row 0 and strip 1. In `_strips`, capitals stand for the numbers: `J` for a strip,
`K` for a hidden unit. The words are those of `lanes`: `splat` puts a number in all lanes, `fma(a, b, c)` is a * b + c.
"""

from typing import Any, no_type_check

import numpy as np
from numba import njit
from numba.extending import overload

from tms_hooks.fused.kernels import lanes
from tms_hooks.fused.kernels.lanes import (
    INNER,
    LANES,
    PART,
    REGISTERS,
    TILE,
    compiled,
    inner,
    load,
    lowest_bit,
    nonzero,
)


def _compile(source: str) -> Any:
    """The function `loop` of a source, to be inlined where it is called."""
    scope: dict[str, Any] = {name: getattr(lanes, name) for name in dir(lanes)}
    exec(source, scope)
    return inner(scope["loop"])


def _product(height: int, width: int) -> Any:
    """`to = start + w[:, at:] @ source` for the tile of `height` rows from `top` on and `width` parts from `r` on.

    It goes on from what is in `to`, unless that is `new`.
    """
    tile, parts = [(i, j) for i in range(height) for j in range(width)], range(width)
    return _compile(f"""
def loop(to, start, w, at, source, top, r, new):
    if new:
        {"; ".join(f"t{i}_{j} = splat_part(start[top + {i}])" for i, j in tile)}
    else:
        {"; ".join(f"t{i}_{j} = load_part(to, top + {i}, r + {j} * PART)" for i, j in tile)}
    for k in range(len(source)):
        {"; ".join(f"s{j} = load_part(source, k, r + {j} * PART)" for j in parts)}
        {
        "; ".join(
            f"v = splat_part(w[top + {i}, at + k]); " + "; ".join(f"t{i}_{j} = fma(v, s{j}, t{i}_{j})" for j in parts)
            for i in range(height)
        )
    }
    {"; ".join(f"store(to, top + {i}, r + {j} * PART, t{i}_{j})" for i, j in tile)}
""")


def _outer(height: int, width: int) -> Any:
    """`to[i, j] += left[i, :rows] . right[j, :rows]` for the tile from (top, at) on, but not before (new_i, new_j).

    `sums` is scratch: the tile's sums of each lane.
    """
    tile = [(i, j) for i in range(height) for j in range(width)]
    sums = [f"t{i}_{j}" for i, j in tile]
    return _compile(f"""
def loop(to, left, right, top, at, new_i, new_j, rows, sums, zero):
    for part in range(0, LANES, PART):
        {" = ".join(sums)} = splat_part(zero)
        for r in range(part, rows, LANES):
            {"; ".join(f"a{i} = load_part(left, top + {i}, r)" for i in range(height))}
            {"; ".join(f"b{j} = load_part(right, at + {j}, r)" for j in range(width))}
            {"; ".join(f"t{i}_{j} = fma(a{i}, b{j}, t{i}_{j})" for i, j in tile)}
        {"; ".join(f"store(sums, {k}, part, {name})" for k, name in enumerate(sums))}
    store(sums, 0, 0, totals(({"".join(f"load(sums, {k}, 0), " for k in range(len(sums)))})))
    for i in range(new_i, top + {height}):
        for j in range(new_j, at + {width}):
            to[i, j] += sums[0, (i - top) * {width} + j - at]
""")


def _outer_by_rows(height: int, width: int) -> Any:
    """`to[i, k] += left[i, :rows] . across[:rows, k]` for the tile of `width` parts from (top, at) on.

    None is added before row `new_i`. Rows of `across` are vectors, so that no sum is over the lanes of one; it may have
    more columns than `to`.
    """
    tile, parts = [(i, j) for i in range(height) for j in range(width)], range(width)
    sums = ["; ".join(f"t{i}_{j} = fma(a, b{j}, t{i}_{j})" for j in parts) for i in range(height)]
    places = [[f"to, top + {i}, at + {j} * PART" for j in parts] for i in range(height)]
    added = [
        "; ".join(f"store({at}, add(load_part({at}), where(first_{j}, t{i}_{j}, nought)))" for j, at in enumerate(row))
        for i, row in enumerate(places)
    ]
    lines = "\n    ".join(f"if top + {i} >= new_i: {line}" for i, line in enumerate(added))
    return _compile(f"""
def loop(to, left, across, top, at, new_i, rows, zero):
    {" = ".join(f"t{i}_{j}" for i, j in tile)} = nought = splat_part(zero)
    for r in range(rows):
        {"; ".join(f"b{j} = load_part(across, r, at + {j} * PART)" for j in parts)}
        {"; ".join(f"a = splat_part(left[top + {i}, r]); {line}" for i, line in enumerate(sums))}
    {"; ".join(f"first_{j} = first_of_part(to.shape[1] - at - {j} * PART)" for j in parts)}
    {lines}
""")


def _strips(m: int, width: int) -> Any:
    """Losses and gradients for hidden width `m` and a piecewise linear output, parts of `width` strips at a time.

    Hidden units stay in registers, and then their gradients, in a loop of their own: there is no room for both. `sums`
    holds, for each feature and lane, the gradient of its `m` weights (of W_U, then of W_E; of both, if they are one)
    and of its bias, halved, and its squared error: `each` vectors; `errors` the gradients in the logits, halved too.
    `live` is a strip of bits that are set before one of zeros.
    """
    units, strips = range(m), range(width)

    def line(text: str) -> str:
        """A statement for every strip `J` and, where it is about one, every hidden unit `K`."""
        lines = [text.replace("K", str(k)) for k in units] if "K" in text else [text]
        return "; ".join(one.replace("J", str(j)) for one in lines for j in strips)

    def adding(column: str, term: str) -> str:
        """`term` of all strips added to a column of `sums`; `REST` in it stands for the sum so far."""
        lines = []
        for k in units if "K" in column else (0,):
            value = f"load_part(sums, at + {column}, part)"
            for j in strips:
                value = term.replace("REST", value).replace("J", str(j))
            lines.append(f"store(sums, at + {column}, part, {value})".replace("K", str(k)))
        return "; ".join(lines)

    return _compile(f"""
def loop(x, y, rows, w_e, w_u, tied, b, weight, floor, errors, sums, each, live, zero):
    lowest, nought = splat_part(floor), splat_part(zero)
    for top in range(0, rows, {width} * LANES):
        for part in range(0, LANES, PART):
            r = top + part
            {line("live_J = load_part(live, 0, LANES - min(max(rows - r - J * LANES, 0), LANES))")}
            {line("hK_J = dK_J = nought")}
            for i in range(len(x)):
                {line("x_J = load_part(x, i, r + J * LANES)")}
                {line("hK_J = fma(x_J, splat_part(w_e[i, K]), hK_J)")}
            for i in range(len(x)):
                at = i * each
                {line("logit_J = splat_part(b[i])")}
                {line("logit_J = fma(hK_J, splat_part(w_u[i, K]), logit_J)")}
                {line("clipped_J = at_most(logit_J, lowest)")}
                {line("error_J = sub(where(clipped_J, lowest, logit_J), load_part(y, i, r + J * LANES))")}
                {line("error_J = both(live_J, error_J)")}
                {line("g_J = where(clipped_J, nought, mul(error_J, splat_part(weight[i])))")}
                {line("store(errors, i, J * LANES, g_J)")}
                {adding("each - 2", "add(g_J, REST)")}
                {adding("each - 1", "fma(error_J, error_J, REST)")}
            for i in range(len(x)):
                {line("g_J = load_part(errors, i, J * LANES)")}
                {line("dK_J = fma(g_J, splat_part(w_u[i, K]), dK_J)")}
            for i in range(len(x)):
                at = i * each
                {line("x_J = load_part(x, i, r + J * LANES); g_J = load_part(errors, i, J * LANES)")}
                if tied:
                    {adding("K", "fma(g_J, hK_J, fma(x_J, dK_J, REST))")}
                else:
                    {adding("K", "fma(g_J, hK_J, REST)")}
                    {adding(f"{m} + K", "fma(x_J, dK_J, REST)")}
""")


WIDEST = 6
_STRIPS = [_strips(m, 4 if 4 * m + 16 <= REGISTERS else 2) for m in range(1, WIDEST + 1)]  # as measured


def strips(narrow: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
    """The loop of `_strips` for as many hidden units as `narrow` has entries: only that is compiled."""
    raise NotImplementedError("in compiled code only")


@overload(strips, jit_options=INNER)
@no_type_check
def _strips_for(narrow, arguments):
    loop = _STRIPS[len(narrow) - 1]

    def chosen(narrow, arguments):
        loop(*arguments)

    return chosen


HEIGHT, HIGH = 4, 6
_product_4, _product_1 = _product(HEIGHT, TILE), _product(1, TILE)
_outer_4, _outer_column, _outer_1 = _outer(TILE, HEIGHT), _outer(TILE * HEIGHT, 1), _outer(1, 1)
_by_rows_3, _by_rows_2 = _outer_by_rows(HEIGHT, 3), _outer_by_rows(HIGH, 2)
_transpose = _compile(f"""
def loop(to, source, i, k):
    turned = transposed(({", ".join(f"load_part(source, i + {j}, k)" for j in range(PART))}))
    {"; ".join(f"store(to, k + {j}, i, turned[{j}])" for j in range(PART))}
""")
_fold = _compile(f"""
def loop(sums, j):
    store(sums, j // LANES, 0, totals(({", ".join(f"load(sums, j + {i}, 0)" for i in range(LANES))})))
""")


@compiled()
@no_type_check
def product(to, start, w, source, rows):
    """`to[:, :rows] = start[:, None] + w @ source[:, :rows]`, and so up to a whole number of `TILE` parts of rows."""
    add_product(to, start, w, np.int64(0), source, rows, True)


@compiled()
@no_type_check
def add_product(to, start, w, at, source, rows, new):
    """The same for some columns of `w`, from `at` on; unless `to` is `new`, it holds what those before them gave."""
    height = len(to)
    for r in range(0, rows, TILE * PART):
        if height < HEIGHT:
            for top in range(height):
                _product_1(to, start, w, at, source, top, r, new)
        else:
            for top in range(0, height, HEIGHT):
                # The last tile reaches back, over rows of the one before, if that pays; none is added to twice.
                if top + HEIGHT <= height or (new and top + 1 < height):
                    _product_4(to, start, w, at, source, min(top, height - HEIGHT), r, new)
                else:
                    for i in range(top, height):
                        _product_1(to, start, w, at, source, i, r, new)


@njit(cache=True, inline="always")
@no_type_check
def padded(width):
    """Columns of `across` for a matrix of so many: whole parts, and two at least."""
    return max(-(-width // PART), 2) * PART


@compiled()
@no_type_check
def add_outer(to, left, right, across, rows, sums):
    """`to += left[:, :rows] @ right[:, :rows].T`; rows that fill up the last strip must be 0 on one side.

    If `right` has as many rows as a strip, `across` must be what `turn` made of it. A vector behind `to` is read and
    written, and is what it was.
    """
    zero = to.dtype.type(0)
    height, width = to.shape
    if width >= LANES and height >= HIGH:
        at, end = 0, padded(width)
        if end // PART % 2:
            at = 3 * PART
            for i in range(0, height, HEIGHT):
                _by_rows_3(to, left, across, min(i, height - HEIGHT), 0, i, rows, zero)
        for k in range(at, end, 2 * PART):
            for i in range(0, height, HIGH):
                _by_rows_2(to, left, across, min(i, height - HIGH), k, i, rows, zero)
    elif height < TILE or width < HEIGHT:
        for i in range(height):
            for j in range(width):
                _outer_1(to, left, right, i, j, i, j, rows, sums, zero)
    else:
        whole = width - 1 if width % HEIGHT == 1 and height >= TILE * HEIGHT else width
        for i in range(0, height, TILE):
            for j in range(0, whole, HEIGHT):
                # The last tile reaches back: what it shares with the one before is not added again.
                top, at = min(i, height - TILE), min(j, whole - HEIGHT)
                _outer_4(to, left, right, top, at, i, j, rows, sums, zero)
        for i in range(0, height if whole < width else 0, TILE * HEIGHT):
            top = min(i, height - TILE * HEIGHT)
            _outer_column(to, left, right, top, whole, i, whole, rows, sums, zero)


@compiled()
@no_type_check
def fold(sums):
    """The sums over the lanes of all vectors, `LANES` to a vector, in place of the first of them."""
    for j in range(0, len(sums), LANES):
        _fold(sums, j)


@compiled()
@no_type_check
def find_entries(entries, x, rows):
    """Fill `entries` with (feature, row) of all that is not 0 in `x[:, :rows]`; their number, or -1 if too many."""
    count = 0
    for r in range(0, rows, LANES):
        for i in range(len(x)):
            bits = nonzero(load(x, i, r))
            while bits:
                if count == len(entries):
                    return -1
                entries[count, 0], entries[count, 1] = i, r + lowest_bit(bits)
                count += 1
                bits &= bits - 1
    return count


@compiled()
@no_type_check
def transpose(to, source):
    """`to[:] = source.T`, or as much of it as there is room for."""
    height, width = min(len(source), to.shape[1]), min(source.shape[1], len(to))
    if height < PART or width < PART:
        for i in range(height):
            for k in range(width):
                to[k, i] = source[i, k]
    else:
        for i in range(0, height, PART):
            for k in range(0, width, PART):
                _transpose(to, source, min(i, height - PART), min(k, width - PART))  # the last one reaches back


@compiled()
@no_type_check
def turn(across, right, rows):
    """`across`, the transpose of `right[:, :rows]` that `add_outer` asks for."""
    if len(right) >= LANES:
        transpose(across[:rows], right)


@compiled()
@no_type_check
def sparse_product(to, w, x, rows, entries, count, across):
    """`to[:, :rows] = w.T @ x[:, :rows]` for the `x` that has so many entries; `across` becomes its transpose."""
    across = across[: -(-rows // LANES) * LANES]
    across[:] = 0
    for c in range(count):
        i, r = entries[c, 0], entries[c, 1]
        for k in range(len(to)):
            across[r, k] += w[i, k] * x[i, r]
    transpose(to, across)


@compiled()
@no_type_check
def add_sparse_outer(to, x, right, rows, entries, count, across):
    """`to += x @ right.T` for the `x` that has so many entries; `across` becomes the transpose of `right`."""
    transpose(across[:rows], right)
    for c in range(count):
        i, r = entries[c, 0], entries[c, 1]
        for k in range(len(right)):
            to[i, k] += x[i, r] * across[r, k]
