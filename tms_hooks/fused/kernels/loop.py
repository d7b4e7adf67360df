"""Whole training runs of one model: draw, forward, backward, update, all in cache."""

from typing import Any, NamedTuple, no_type_check

import numpy as np

from tms_hooks.fused.kernels.draws import batch_key, draw_sparse_uniform
from tms_hooks.fused.kernels.general import General, finish, general_forward_backward, make_space, prepare
from tms_hooks.fused.kernels.lanes import LANES, compiled
from tms_hooks.fused.kernels.mlps import Mlps, make_mlp_space, mlp_forward_backward, prepare_mlps
from tms_hooks.fused.kernels.plain import Toy, aligned, empty_row, forward_backward, make_plain_space, views
from tms_hooks.fused.kernels.products import transpose
from tms_hooks.fused.kernels.rules import draw, shrink, target, update

BLOCK = 256  # rows worked on together, or more,
SMALL = 8192  # if that leaves no more entries than this.
WHOLE = 4 * LANES  # The widest tile of any processor: blocks, and so the order of sums, are the same on all.


class Batch(NamedTuple):
    """Where the rows of a step come from, and what they count."""

    rows: int
    weight: Any
    """Feature: importance over the number of tokens."""
    empty_weight: Any
    """Feature: importance of the row without active features, if only others are drawn."""
    fed: bool
    """Whether the rows are `given`; else they are drawn."""
    given: Any
    """Model and step (or one for all), feature (with heads token and feature), row; below it the targets, if fed."""
    largest: Any
    """Two rows by feature: `SparseUniform` is active at 32 bits up to this; see `draw_sparse_uniform`."""
    scale: Any
    """Two rows by feature: what turns such bits into a number in (0, 1),"""
    span: Any
    """times which"""
    low: Any
    """and with this added it is the value."""
    occupied: bool
    """Whether only rows with an active feature are drawn."""
    sparse: bool
    """Whether wide toys are to look for blocks with few entries that are not 0."""


class Updates(NamedTuple):
    """Steps to make, and how."""

    start: int
    stop: int
    optimizer: int
    """Its number in `rules.UPDATED`."""
    scalars: Any
    """Step, scalar of the optimizer's rule."""
    parts: Any
    """Of the trained parameters, those that shrink before an update: start, rows, entries of a row."""
    kept: Any
    """Step, part: `Optimizer.kept`."""
    first: int
    """The first parameter to train."""
    last: int
    """The one after the last."""


@compiled()
@no_type_check
def copy(to, source):
    """`to[:] = source` for flat arrays."""
    for j in range(len(to)):
        to[j] = source[j]


@compiled()
@no_type_check
def fill(to, value):
    """`to[:] = value` for flat arrays."""
    for j in range(len(to)):
        to[j] = value


@compiled()
@no_type_check
def more_forward_backward(
    x, y, rows, w, g, loss, head_loss, weight, toy, general, space, measured, mlps, mlp_space,
    outs, targets, top, forward,
):  # fmt: skip
    """Add one block's losses and gradients of a toy that is more than a plain one."""
    if mlps is None:
        general_forward_backward(
            x, y, rows, w, g, loss, head_loss, weight, toy, general, space, measured, outs, targets, top, forward
        )
    else:
        mlp_forward_backward(
            x, y, rows, w, g, loss, weight, toy, general, space, mlps, mlp_space, outs, targets, top, forward
        )


class Room(NamedTuple):
    """What is written over at each step, so that steps allocate nothing; None is what a toy has no need of."""

    block: int
    """Rows worked on together."""
    x: Any
    y: Any
    """The targets: `x`, where they are the inputs."""
    if_empty: Any
    """The targets of an empty row."""
    g: Any
    loss: Any
    head_loss: Any
    old: Any
    """The trained parameters before an update."""
    none: Any
    """Zeros, for the biases that a toy lacks,"""
    one: Any
    """and a 1, for its scale;"""
    unseen: Any
    """for the gradients of these."""
    drawing: Any
    plain: Any
    general: Any
    mlps: Any


def make_room(
    like: np.ndarray, heads: int, trained: int, toy: Toy, batch: Batch,
    drawn: Any, asked: Any, narrow: Any, general: General | None, mlps: Mlps | None,
) -> Room:  # fmt: skip
    """Room for models like this one, of which so many parameters are trained; compiled, this would take seconds."""
    o, absent = toy.o, max(toy.o, toy.m, toy.units, 1)
    positions = 1 if general is None else general.positions
    block = -(-min(max(SMALL // max(toy.n, o), BLOCK), batch.rows) // WHOLE) * WHOLE
    x = aligned(positions * toy.n, block + LANES, like)

    def flat(size: int) -> np.ndarray:
        return aligned(1, size, like)[0]

    return Room(
        block=block,
        x=x,
        y=x if asked is None else aligned(positions * o, block + LANES, like),
        if_empty=flat(o),
        g=flat(len(like)),
        loss=flat(o),
        head_loss=flat(heads),
        old=flat(trained),
        none=flat(absent),
        one=np.ones(1, like.dtype),
        unseen=flat(absent),
        drawing=np.empty((0 if drawn is None else toy.n + 1, block), np.int64),
        plain=None if narrow is None else make_plain_space(like, toy, block, batch.sparse),
        general=None if general is None else make_space(like, toy, block, general),
        mlps=None if mlps is None else make_mlp_space(like, toy, block, mlps),
    )


@compiled(nogil=True, no_cpython_wrapper=False)
@no_type_check
def advance(
    w, first, second, diverged_at, seeds, toy, batch, drawn, asked, updates, narrow, general, mlps, outside,
    loss_out, head_out, g_out, room,
):  # fmt: skip
    """Updates `start` to `stop - 1` of every model; losses and gradients out are those before the first.

    Parameters, moments and gradients are "model parameter", in the order of `engine.ORDER`. `drawn` is None for
    `SparseUniform` and rows that are given, `asked` where the targets are the inputs, `general` for plain toys,
    `narrow` for others and `mlps` for toys that have none: what is None is not compiled. Costs of outputs that are from
    `outside` are for toys that are more than plain ones. It counts no references, which took a third of a small toy's
    step, and is one function: each that calls another is optimized together with it once more.
    """
    n, o, rows, start, stop = toy.n, toy.o, batch.rows, updates.start, updates.stop
    positions = 1 if general is None else general.positions
    block, x, if_empty, g, loss, head_loss, old = (
        room.block, room.x, room.if_empty, room.g, room.loss, room.head_loss, room.old,
    )  # fmt: skip
    y = x if asked is None else room.y  # said once more: what is known to be the same is loaded once
    plain, space, mlp_space = room.plain, room.general, room.mlps
    if asked is not None:
        if asked.number >= 0:
            target(y[:o], x[:n], asked, np.int64(1))  # of nothing but zeros
        for i in range(o):
            if_empty[i] = y[i, 0] if asked.number >= 0 else asked.numbers[i]
    gradients = views(g, toy, room.unseen, room.unseen)
    begin, end = updates.first, updates.last
    gradient = g[begin:end]

    for model in range(len(w)):
        own, trained, seed = views(w[model], toy, room.none, room.one), w[model, begin:end], seeds[model]
        moment, square = first[model, begin:end], second[model, begin:end]
        given = batch.given[min(model, len(batch.given) - 1)]
        at = min(model, len(outside.outs) - 1)
        outs, targets = outside.outs[at], outside.targets[at]
        for step in range(start, max(stop, start + 1)):
            fill(g, 0)
            fill(loss, 0)
            fill(head_loss, 0)
            if narrow is not None:  # noqa: SIM102  what is None is cut out before it is compiled
                if len(narrow) == 0:
                    transpose(plain.w_e_t, own.w_e)
                    if not toy.tied:
                        transpose(plain.w_u_t, own.w_u)
            if general is not None:
                prepare(own, space, general)
                if mlps is not None:
                    prepare_mlps(own, toy, mlps, mlp_space)
            for top in range(0, rows, block):
                count = min(block, rows - top)
                if batch.fed:
                    if step == start or count < rows or len(given) > 1:
                        now = given[min(step - start, len(given) - 1)]
                        for i in range(len(x)):
                            copy(x[i, :count], now[i, top : top + count])
                        if asked is not None:  # noqa: SIM102  what is None is cut out before it is compiled
                            if asked.number < 0:
                                for i in range(len(y)):
                                    copy(y[i, :count], now[len(x) + i, top : top + count])
                else:
                    for t in range(positions):
                        key, x_t = batch_key(seed, positions * step + t), x[t * n : (t + 1) * n]
                        if drawn is None:
                            draw_sparse_uniform(
                                x_t, key, top, count, batch.largest, batch.scale, batch.span, batch.low, batch.occupied
                            )
                        else:
                            draw(x_t, drawn, key, top, count, rows, room.drawing)
                if asked is not None:  # noqa: SIM102
                    if asked.number >= 0:
                        for t in range(positions):
                            target(y[t * o : (t + 1) * o], x[t * n : (t + 1) * n], asked, count)
                if narrow is not None:
                    forward_backward(x, y, count, own, gradients, loss, batch.weight, toy, narrow, plain)
                if general is not None:
                    more_forward_backward(
                        x, y, count, own, gradients, loss, head_loss, batch.weight, toy, general, space, step == start,
                        mlps, mlp_space, outs, targets, top, outside.forward,
                    )  # fmt: skip
            if batch.occupied:
                if narrow is not None:
                    empty_row(own.b_u, if_empty, gradients.b_u, loss, batch.empty_weight, toy.act)
                if general is not None:
                    for i in range(n):
                        fill(x[i, :LANES], 0)
                    for i in range(o):
                        y[i, 0] = if_empty[i]
                    one = np.int64(1)  # a literal would be compiled for
                    more_forward_backward(
                        x, y, one, own, gradients, loss, head_loss, batch.empty_weight, toy, general, space,
                        step == start, mlps, mlp_space, outs, targets, rows, outside.forward,
                    )  # fmt: skip
            if outside.forward:
                break
            if general is not None:
                finish(gradients, own, space, general)
            if len(outside.slopes) > 0:
                for j in range(len(g)):
                    g[j] += outside.slopes[model, j]
            if step == start:
                copy(loss_out[model], loss)
                copy(head_out[model], head_loss)
                copy(g_out[model], g)
            if step == stop or diverged_at[model] >= 0:
                break
            total = loss.sum()
            if general is not None:
                total = (total if general.reconstructs else 0) + (head_loss.sum() if general.attends else 0)
            if len(outside.costs) > 0:
                total += outside.costs[model]
            copy(old, trained)
            shrink(trained, updates.parts, updates.kept[step - start])
            finite = update(updates.optimizer, trained, gradient, moment, square, updates.scalars[step - start])
            if not (finite and np.isfinite(total)):
                diverged_at[model] = step
                copy(trained, old)
                fill(moment, 0)
                fill(square, 0)
                break
