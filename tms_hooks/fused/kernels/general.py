"""Losses and gradients of toys with more than the plain ones: hidden layers, softmax, unit norm, pseudo-attention.

Compiled apart from the plain toys, and only when such a toy is trained. Queries and keys are read from the hidden layer
as logits are, so the readers of a token are the rows of `W_U^T`, then of its position's `W_Q^T` or `W_K^T`.
"""

import math
from typing import Any, NamedTuple, no_type_check

import numpy as np

from tms_hooks.fused.codes import GELU, RELU, SOFTMAX
from tms_hooks.fused.kernels.attention import attention_errors, score_errors
from tms_hooks.fused.kernels.lanes import LANES, add, compiled, first_lanes, load, splat, store, total, where
from tms_hooks.fused.kernels.plain import SUMS, Toy, aligned, clear_rest, output_errors
from tms_hooks.fused.kernels.products import add_outer, padded, product, turn
from tms_hooks.fused.kernels.softmax import log_softmax, softmax_backward, softmax_errors
from tms_hooks.fused.kernels.unit_norm import add_gradients, normalize


class General(NamedTuple):
    """Switches beyond those of `Toy`, and what a stage minimizes."""

    positions: int
    """Tokens per row: with heads, one query and its keys."""
    hidden_act: int
    cross_entropy: bool
    """Whether the loss of the features is the cross-entropy; else it is the squared error."""
    unit_write: bool
    """Whether the rows of `W_E` are used with norm 1."""
    unit_read: bool
    """Whether the columns of `W_U` are."""
    pairs: Any
    """Per pair: head, query feature, key feature."""
    pair_weights: Any
    """Per pair: what it adds to the target of a score."""
    loss_weight: Any
    """Weight of a row in a head's loss."""
    objective_weight: Any
    """Weight of a row's head loss in the objective."""
    attention: bool
    """Whether a head's loss is the cross-entropy of its attention; else it is the squared error of its scores."""
    reconstructs: bool
    """Whether the stage minimizes the losses of the features."""
    attends: bool
    """Whether the stage minimizes the losses of the heads."""


class Outside(NamedTuple):
    """What torch computes of a step: costs of outputs that have no loop here, and penalties.

    Such costs take two calls: one that makes logits and targets, and one that goes on from the gradients in the logits.
    """

    outs: Any
    """Model, output, row: logits, then the objective's gradients in them; of one model without outputs, if not needed.

    Rows are those of all tokens in turn, then the empty row, and room for a strip that is read too far.
    """
    targets: Any
    """The same rows of the targets."""
    forward: bool
    """Whether this call is the first of the two."""
    costs: Any
    """Model: what it costs besides what is known here; none, or one that is not finite ends the model's training."""
    slopes: Any
    """Model, parameter: what is added to the gradients; or none."""


class Space(NamedTuple):
    """Room for a block of a general toy. A token's readers are the features, then the units of the heads."""

    write: Any
    """Feature, hidden: `W_E` as it is used."""
    write_t: Any
    d_write: Any
    """Gradients in `write`."""
    readers: Any
    """Token and reader, hidden: `W_U` and `W_Q` or `W_K` as they are used."""
    readers_t: Any
    d_readers: Any
    start: Any
    """Token and reader: `b_U`, then `b_Q` or `b_K`, zeros where there are none."""
    zeros: Any
    h: Any
    dh: Any
    before: Any
    """Hidden layer before its activation."""
    out: Any
    """Token and reader, row: logits, queries and keys; then the gradients in them."""
    p: Any
    scores: Any
    target: Any
    s: Any
    t: Any
    sums: Any
    across: Any
    """Row, hidden: room for a transpose."""


def make_space(like: np.ndarray, toy: Toy, block: int, general: General) -> Space:
    """`Space` for blocks of so many rows."""
    n, m, tokens, readers, rows = toy.n, toy.m, general.positions, toy.o + toy.units, block + LANES
    return Space(
        np.zeros((n, m), like.dtype),
        np.zeros((m, n), like.dtype),
        aligned(n, m, like),
        np.zeros((tokens * readers, toy.read), like.dtype),
        np.zeros((tokens * toy.read, readers), like.dtype),
        aligned(tokens * readers, toy.read, like),
        np.zeros(tokens * readers, like.dtype),
        np.zeros(m, like.dtype),
        np.zeros((tokens * m, rows), like.dtype),
        np.zeros((tokens * m, rows), like.dtype),
        np.zeros((tokens * m, rows), like.dtype),
        np.zeros((tokens * readers, rows), like.dtype),
        np.zeros((toy.o, rows), like.dtype),
        np.zeros((tokens - 1, rows), like.dtype),
        np.zeros((tokens - 1, rows), like.dtype),
        np.zeros(rows, like.dtype),
        np.zeros(rows, like.dtype),
        aligned(LANES, LANES, like),
        aligned(block, padded(max(m, toy.read)), like),
    )


@compiled()
@no_type_check
def clear(matrix):
    """All zero."""
    for i in range(len(matrix)):
        for k in range(matrix.shape[1]):
            matrix[i, k] = 0


@compiled()
@no_type_check
def prepare(w, space, general):
    """Before a batch: the matrices in use from the parameters, and no gradients yet."""
    (n, m), (o, read) = w.w_e.shape, w.w_u.shape
    one, readers = w.w_e.dtype.type(1), o + len(w.w_q)
    clear(space.d_write)
    clear(space.d_readers)
    normalize(space.write, w.w_e, general.unit_write, one)
    for i in range(n):
        for k in range(m):
            space.write_t[k, i] = space.write[i, k]
    for t in range(general.positions):
        top = t * readers
        for i in range(o):
            space.start[top + i] = w.b_u[i]
        for i in range(readers - o):
            space.start[top + o + i] = w.b_q[i] if t == 0 else w.b_k[i]
        normalize(space.readers[top : top + o], w.w_u, general.unit_read, w.scale[0])
        normalize(space.readers[top + o : top + readers], w.w_q if t == 0 else w.w_k, False, one)
        for i in range(readers):
            for k in range(read):
                space.readers_t[t * read + k, i] = space.readers[top + i, k]


@compiled()
@no_type_check
def finish(g, w, space, general):
    """After a batch: from the gradients in the matrices in use to those in the parameters, which are added to `g`."""
    o, one, readers = len(w.w_u), w.w_e.dtype.type(1), len(w.w_u) + len(w.w_q)
    add_gradients(g.w_e, space.d_write, w.w_e, general.unit_write, one)
    for t in range(general.positions):
        d = space.d_readers[t * readers : (t + 1) * readers]
        g.scale[0] += add_gradients(g.w_u, d[:o], w.w_u, general.unit_read, w.scale[0])
        add_gradients(g.w_q if t == 0 else g.w_k, d[o:], w.w_q if t == 0 else w.w_k, False, one)


@compiled()
@no_type_check
def activate(h, before, rows, act, s, t):
    """`h`, the embedded block, becomes the hidden layer; `before` keeps the block where the gradient needs it."""
    zero, one, half = h.dtype.type(0), h.dtype.type(1), h.dtype.type(0.5)
    root_half = h.dtype.type(math.sqrt(0.5))
    if act == SOFTMAX:
        log_softmax(h, rows, s, t)
    for i in range(len(h)):
        if act == RELU:
            for r in range(rows):
                h[i, r] = zero if h[i, r] < zero else h[i, r]
        elif act == GELU:
            for r in range(rows):
                before[i, r] = h[i, r]
                h[i, r] *= half * (one + math.erf(h[i, r] * root_half))
        elif act == SOFTMAX:
            for r in range(rows):
                h[i, r] = math.exp(h[i, r])


@compiled(fastmath=SUMS)
@no_type_check
def activate_backward(dh, h, before, rows, g_b, act, s):
    """`dh`, the gradient in the hidden layer, becomes that in the embedded block."""
    zero, one, half = h.dtype.type(0), h.dtype.type(1), h.dtype.type(0.5)
    root_half, density = h.dtype.type(math.sqrt(0.5)), h.dtype.type(1 / math.sqrt(2 * math.pi))
    if act == SOFTMAX:
        softmax_backward(dh, h, rows, s)
    for i in range(len(h)):
        if act == RELU:
            for r in range(rows):
                dh[i, r] = dh[i, r] if h[i, r] > zero else zero
        elif act == GELU:
            for r in range(rows):
                u = before[i, r]
                dh[i, r] *= half * (one + math.erf(u * root_half)) + u * density * math.exp(-half * u * u)
        summed = zero
        for r in range(rows):
            summed += dh[i, r]
        g_b[i] += summed


@compiled(fastmath=SUMS)
@no_type_check
def add_sums(g_b, d, rows):
    """Gradients in biases from those in what they are added to: their sums over a block."""
    for i in range(len(d)):
        summed = d.dtype.type(0)
        for r in range(rows):
            summed += d[i, r]
        g_b[i] += summed


@compiled()
@no_type_check
def hand_over(out, y, outs, targets, top, forward, g_b, rows):
    """Logits and targets of a block to torch, or the gradients in its logits from there, whose sums are in biases.

    The order of the sums is written out: the compiler's depends on where in memory the arrays lie.
    """
    nought = splat(out.dtype.type(0))
    for i in range(len(y)):
        if forward:
            for r in range(rows):
                outs[i, top + r] = out[i, r]
                targets[i, top + r] = y[i, r]
        else:
            sums = nought
            for r in range(0, rows, LANES):
                slopes = where(first_lanes(rows - r), load(outs, i, top + r), nought)
                store(out, i, r, slopes)
                sums = add(sums, slopes)
            g_b[i] += total(sums)


@compiled()
@no_type_check
def general_forward_backward(
    x, y, rows, w, g, loss, head_loss, weight, toy, general, space, measured, outs, targets, top, forward
):
    """Add one block's losses and gradients. `measured`: all losses are wanted, minimized or not."""
    n, m, o, readers, handed = toy.n, toy.m, toy.o, toy.o + toy.units, len(outs) > 0
    begin = 0 if (general.reconstructs or measured) and (forward or not handed) else o  # readers that are needed
    end = readers if (general.attends or measured) and not forward else o
    for t in range(general.positions):
        x_t, y_t, h = x[t * n : (t + 1) * n], y[t * o : (t + 1) * o], space.h[t * m : (t + 1) * m]
        out, reads = space.out[t * readers : (t + 1) * readers], space.readers[t * readers : (t + 1) * readers]
        product(h, w.b, space.write_t, x_t, rows)
        activate(h, space.before[t * m :], rows, general.hidden_act, space.s, space.t)
        product(out[begin:end], space.start[t * readers + begin : t * readers + end], reads[begin:end], h, rows)
        if handed:
            if forward or general.reconstructs:
                begins = t * ((outs.shape[1] - LANES) // general.positions) + top
                hand_over(out[:o], y_t, outs, targets, begins, forward, g.b_u, rows)
        elif begin < o:
            if toy.act == SOFTMAX:
                softmax_errors(out[:o], y_t, weight, general.cross_entropy, loss, g.b_u, rows, space)
            else:
                output_errors(out[:o], y_t, weight, toy.act, loss, g.b_u, rows)
    if forward:
        return
    if end > o and general.attention:
        attention_errors(x, rows, n, o, head_loss, general, space)
    elif end > o:
        score_errors(x, rows, space.out[o:readers], space.out[readers + o :], head_loss, general, space)
    begin, end = 0 if general.reconstructs else o, readers if general.attends else o  # readers that have gradients
    for t in range(general.positions):
        h, dh = space.h[t * m : (t + 1) * m], space.dh[t * m : (t + 1) * m]
        out, d = space.out[t * readers : (t + 1) * readers], space.d_readers[t * readers : (t + 1) * readers]
        if toy.head_biased and end > o:
            add_sums(g.b_q if t == 0 else g.b_k, out[o:end], rows)
        clear_rest(out[begin:end], rows)
        turn(space.across, h, rows)
        add_outer(d[begin:end], out[begin:end], h, space.across, rows, space.sums)
        if general.reconstructs:
            product(dh, space.zeros, space.readers_t[t * m : (t + 1) * m], out[:end], rows)
            activate_backward(dh, h, space.before[t * m :], rows, g.b, general.hidden_act, space.s)
            turn(space.across, dh, rows)
            add_outer(space.d_write, x[t * n : (t + 1) * n], dh, space.across, rows, space.sums)
