"""Losses and gradients of toys with MLPs: between embed and hidden layer, behind it, or beside a residual stream.

They are general toys whose unembed reads something else: `prepare` and `finish` of `general` do the rest. `W_in` is
kept as its transpose, and so is the `W_out` that is the unembed; of several blocks, one stands below the other.
"""

from typing import Any, NamedTuple, no_type_check

import numpy as np

from tms_hooks.fused.codes import BEFORE, BEHIND, SOFTMAX
from tms_hooks.fused.kernels.general import activate, activate_backward, hand_over
from tms_hooks.fused.kernels.lanes import LANES, compiled
from tms_hooks.fused.kernels.plain import Toy, aligned, clear_rest, output_errors
from tms_hooks.fused.kernels.products import add_outer, product, transpose, turn
from tms_hooks.fused.kernels.softmax import softmax_errors


class Mlps(NamedTuple):
    """Where the MLPs of a toy stand, and their sizes."""

    place: int
    """In `codes.MLP_PLACES`."""
    layers: int
    width: int


class MlpSpace(NamedTuple):
    """Room for a block of a toy with MLPs."""

    w_in_t: Any
    """Layer and hidden, unit: `W_in` as it reads gradients; and `W_out` as it writes."""
    w_out_t: Any
    stream: Any
    """Layer and hidden, row: what each MLP reads, and behind the last what the unembed reads."""
    post: Any
    """Layer and unit, row."""
    d_post: Any
    d_stream: Any
    added: Any
    zeros: Any
    """For products that begin at 0."""


def make_mlp_space(like: np.ndarray, toy: Toy, block: int, mlps: Mlps) -> MlpSpace:
    """`MlpSpace` for blocks of so many rows."""
    m, d, layers, rows = toy.m, mlps.width, mlps.layers, block + LANES
    return MlpSpace(
        aligned(layers * m, d, like),
        aligned(layers * m, d, like),
        aligned((layers + 1) * m, rows, like),
        aligned(layers * d, rows, like),
        aligned(d, rows, like),
        aligned(m, rows, like),
        aligned(m, rows, like),
        aligned(1, max(m, d), like)[0],
    )


@compiled()
@no_type_check
def prepare_mlps(w, toy, mlps, room):
    """Before a batch: the transposes of the parameters."""
    m, d = toy.m, mlps.width
    for layer in range(mlps.layers):
        transpose(room.w_in_t[layer * m : (layer + 1) * m], w.w_in[layer * d : (layer + 1) * d])
        if mlps.place != BEHIND:
            transpose(room.w_out_t[layer * m : (layer + 1) * m], w.w_out[layer * d : (layer + 1) * d])


@compiled()
@no_type_check
def mlp_forward_backward(
    x, y, rows, w, g, loss, weight, toy, general, space, mlps, room, outs, targets, top, forward
):  # fmt: skip
    """Add one block's losses and gradients. `y` are the targets, `weight` importances over the batch size."""
    m, d, layers, out = toy.m, mlps.width, mlps.layers, space.out
    h, dh = space.h, space.dh
    first, last = room.stream[:m], room.stream[layers * m :]
    if mlps.place == BEFORE:
        product(first, room.zeros, space.write_t, x, rows)
        _units(room.post, w.w_in, first, rows, room)
        product(h, w.b, room.w_out_t, room.post, rows)
        activate(h, space.before, rows, general.hidden_act, space.s, space.t)
        _read(out, y, h, rows, g, loss, weight, toy, general, space, outs, targets, top, forward)
        if forward:
            return
        product(dh, room.zeros, space.readers_t, out, rows)
        activate_backward(dh, h, space.before, rows, g.b, general.hidden_act, space.s)
        _back(g, 0, first, dh, rows, w, toy, mlps, room, space)
        turn(space.across, room.added, rows)
        add_outer(space.d_write, x, room.added, space.across, rows, space.sums)
        return
    product(first, w.b, space.write_t, x, rows)
    activate(first, space.before, rows, general.hidden_act, space.s, space.t)
    if mlps.place == BEHIND:
        _units(room.post, w.w_in, first, rows, room)
        _read(out, y, room.post, rows, g, loss, weight, toy, general, space, outs, targets, top, forward)
        if forward:
            return
        product(room.d_post, room.zeros, space.readers_t, out, rows)
        _through_units(g.w_in, first, room.post, rows, room, space)
        product(room.d_stream, room.zeros, room.w_in_t, room.d_post, rows)
    else:
        for layer in range(layers):
            now, post = room.stream[layer * m : (layer + 1) * m], room.post[layer * d : (layer + 1) * d]
            then = room.stream[(layer + 1) * m : (layer + 2) * m]
            _units(post, w.w_in[layer * d : (layer + 1) * d], now, rows, room)
            product(then, room.zeros, room.w_out_t[layer * m : (layer + 1) * m], post, rows)
            _add(then, now, rows)
        _read(out, y, last, rows, g, loss, weight, toy, general, space, outs, targets, top, forward)
        if forward:
            return
        product(room.d_stream, room.zeros, space.readers_t, out, rows)
        for layer in range(layers - 1, -1, -1):
            _back(g, layer, room.stream[layer * m :][:m], room.d_stream, rows, w, toy, mlps, room, space)
            _add(room.d_stream, room.added, rows)
    activate_backward(room.d_stream, first, space.before, rows, g.b, general.hidden_act, space.s)
    turn(space.across, room.d_stream, rows)
    add_outer(space.d_write, x, room.d_stream, space.across, rows, space.sums)


@compiled()
@no_type_check
def _units(post, w_in, stream, rows, room):
    """The units of one MLP, a ReLU of what they read."""
    zero = post.dtype.type(0)
    product(post, room.zeros, w_in, stream, rows)
    for i in range(len(post)):
        for r in range(-(-rows // LANES) * LANES):
            post[i, r] = zero if post[i, r] < zero else post[i, r]


@compiled()
@no_type_check
def _through_units(g_w_in, stream, post, rows, room, space):
    """`d_post`, the gradient in the units, becomes that in what they read; and adds that in `W_in`."""
    d_post, zero = room.d_post, post.dtype.type(0)
    for i in range(len(post)):
        for r in range(-(-rows // LANES) * LANES):
            d_post[i, r] = d_post[i, r] if post[i, r] > zero else zero
    turn(space.across, stream, rows)
    add_outer(g_w_in, d_post, stream, space.across, rows, space.sums)


@compiled()
@no_type_check
def _back(g, layer, stream, d_out, rows, w, toy, mlps, room, space):
    """From the gradient in the output of one MLP to that in its input, `added`; and adds those in its weights."""
    m, d = toy.m, mlps.width
    units = slice(layer * d, (layer + 1) * d)
    post = room.post[units]
    product(room.d_post, room.zeros, w.w_out[units], d_out, rows)
    turn(space.across, d_out, rows)
    add_outer(g.w_out[units], post, d_out, space.across, rows, space.sums)
    _through_units(g.w_in[units], stream, post, rows, room, space)
    product(room.added, room.zeros, room.w_in_t[layer * m : (layer + 1) * m], room.d_post, rows)


@compiled()
@no_type_check
def _add(to, other, rows):
    """`to += other`, up to a whole number of strips."""
    for i in range(len(to)):
        for r in range(-(-rows // LANES) * LANES):
            to[i, r] += other[i, r]


@compiled()
@no_type_check
def _read(out, y, source, rows, g, loss, weight, toy, general, space, outs, targets, top, forward):
    """Logits from what the unembed reads; then their losses, gradients in them, and those in the unembed."""
    if forward or len(outs) == 0:
        product(out, space.start, space.readers, source, rows)
    if len(outs) > 0:
        hand_over(out, y, outs, targets, top, forward, g.b_u, rows)
        if forward:
            return
    elif toy.act == SOFTMAX:
        softmax_errors(out, y, weight, general.cross_entropy, loss, g.b_u, rows, space)
    else:
        output_errors(out, y, weight, toy.act, loss, g.b_u, rows)
    clear_rest(out, rows)
    turn(space.across, source, rows)
    add_outer(space.d_readers, out, source, space.across, rows, space.sums)
