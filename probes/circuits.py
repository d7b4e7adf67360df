"""QK and OV circuits of any head: what it compares, and what it moves (Elhage et al. 2021, "A Mathematical Framework").

A head's queries and keys enter its scores only as x_query W_Q W_K^T x_key, and its values and outputs only as
x_key W_V W_O. Both products are d_model x d_model matrices of rank d_head at most, held here as their two factors: the
singular value decomposition of `left @ right.T` needs a QR of each factor and one small matrix, never the product.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.architectures import Rotation, attention, block, fold_ln1, gained, head_weights, rotations, setting
from probes.calls import brief
from probes.given import whole
from probes.hooked import HookedModel, check_hooks
from probes.names import BEFORE_GAIN, heads_read_at, heads_score_at
from probes.verification import Fit, fit_scores, multiplier, observe


class Circuit(NamedTuple):
    """A head's bilinear form or map as `left @ right.T`, with its singular value decomposition, in float64."""

    left: Float[Tensor, "d_left rank"]
    right: Float[Tensor, "d_right rank"]
    U: Float[Tensor, "d_left k"]
    S: Float[Tensor, " k"]
    Vh: Float[Tensor, "k d_right"]

    def __repr__(self) -> str:
        return brief(self)

    @property
    def matrix(self) -> Float[Tensor, "d_left d_right"]:
        """The product in full."""
        return self.left @ self.right.mT


class Scoring(NamedTuple):
    """How the scores of a head come of x_query Omega x_key, as comparing with the model's own has shown."""

    fit: Fit
    cap: float | None
    """The scores are cap * tanh(score / cap), as in Gemma 2."""
    rotation: Rotation | None
    seen: Bool[Tensor, "batch query key"]
    """The pairs that the mask allows."""


def qk_circuit(
    model: HookedModel,
    layer: int,
    head: int,
    *,
    bias: bool = False,
    fold_norm: bool = False,
    offset: int = 0,
    inputs: Any = None,
    hook: str | None = None,
) -> Circuit:
    """Omega of a head: query on its rows, `x_query @ Omega @ x_key` is the score before scaling and masking.

    Omega = W_Q W_K^T; in the pseudo-attention literature A^T B. It is verified: on a few inputs a constant times
    x_query Omega x_key must be the model's own scores, up to a soft cap and a bias of the positions alone (ALiBi).

    >>> from probes.transformers import load_transformer
    >>> omega = qk_circuit(load_transformer("tiny"), layer=0, head=2)
    >>> omega.matrix.shape, omega.S.shape
    (torch.Size([64, 64]), torch.Size([16]))

    Args:
        model: anything with `blocks[layer].attn.W_Q` (head, d_model, d_head) and `W_K` (with grouped queries, fewer).
        layer, head: which, counted from 0.
        bias: append a row and a column, for inputs that end in a constant 1. The column W_Q b_K is what a query adds to
            its scores of all keys alike, the row b_Q W_K^T what a key adds to those by all queries, the corner
            b_Q . b_K a constant; zeros where there are no biases. Without it they are left out of Omega.
        fold_norm: take inputs after normalization but before its gain: `blocks.i.ln1.hook_normalized` of a bridge.
            Without it inputs are what the head reads (`blocks.i.attn.hook_in`).
        offset: query position minus key position, for rotary models (at the length of `inputs`, where it matters).
        inputs: what to verify on, examples of one length; random tokens or features if not given.
        hook: the one whose activation the head reads; not needed for a bridge, a `HookedTransformer` or a toy.

    Raises:
        IndexError: no such layer or head.
        ValueError: the scores are no such form of what the head reads (clipped or normalized queries, positions that
            turn them in an unknown way); a norm or rotary positions that this model does not have.
    """
    offset = whole("offset", offset)
    read_by(model, layer, head, fold_norm)  # an unknown layer or head first
    found = scoring(model, layer, head, fold_norm, *observed_scores(model, layer, head, fold_norm, inputs, hook))
    if offset and found.rotation is None:
        kind = type(model).__name__
        raise ValueError(
            f"offset={offset}: layer {layer} of this {kind} has no rotary embedding that turns its heads; use offset=0"
        )
    return omega(model, layer, head, bias=bias, fold_norm=fold_norm, offset=offset, rotation=found.rotation)


def omega(
    model: Any, layer: int, head: int, *, bias: bool, fold_norm: bool, offset: int, rotation: Rotation | None
) -> Circuit:
    """`qk_circuit` with a rotation that is known to be the head's own."""
    (W_Q, b_Q), (W_K, b_K) = (head_weights(model, layer, head, which) for which in "QK")
    if offset and rotation is not None:
        W_Q, b_Q = rotation.turn(W_Q, offset), rotation.turn(b_Q, offset)
    if fold_norm:
        (W_Q, b_Q), (W_K, b_K) = fold_ln1(model, layer, W_Q, b_Q), fold_ln1(model, layer, W_K, b_K)
    if bias:
        W_Q, W_K = torch.cat([W_Q, b_Q[None]]), torch.cat([W_K, b_K[None]])
    return Circuit(W_Q, W_K, *factored_svd(W_Q, W_K))


def observed_scores(
    model: HookedModel, layer: int, head: int, fold_norm: bool, inputs: Any, hook: str | None
) -> tuple[Tensor, Tensor, bool, float]:
    """What a head reads in one run, its scores or its pattern, which of the two, and the precision of both."""
    reads = hook or heads_read_at(model, layer, before_gain=fold_norm)
    judge, is_pattern = heads_score_at(model, layer)
    run = observe(model, check_hooks(model, [reads, judge]), inputs)
    if missing := {reads, judge} - run.at.keys():
        raise ValueError(f"hook {missing.pop()!r} does not fire: what layer {layer}'s heads do cannot be verified")
    x = run.at[reads]
    if reads.endswith(BEFORE_GAIN) and not fold_norm:
        x = gained(block(model, layer).ln1, x)
    return x, run.at[judge][:, head], is_pattern, run.precision


def scoring(
    model: Any,
    layer: int,
    head: int,
    fold_norm: bool,
    x: Float[Tensor, "batch pos d_model"],
    judged: Float[Tensor, "batch pos pos"],
    is_pattern: bool,
    precision: float,
) -> Scoring:
    """How a head's scores come of what it reads: every rotation that it might use is tried, and none.

    Raises:
        ValueError: nothing that was tried makes the model's own scores.
    """
    queries, keys = (x @ weight + bias for weight, bias in read_by(model, layer, head, fold_norm))
    seen = judged > 0 if is_pattern else judged > torch.finfo(torch.float32).min / 2
    cap = setting(model, "attn_scores_soft_cap", "attn_logit_softcapping")
    positions = torch.arange(x.shape[1], device=x.device)
    tried: list[Scoring] = []
    for biased in (False, True)[: len(x)]:  # in a single example anything might be a bias of its positions
        for rotation in (*rotations(model, layer), None):
            q, k = (queries, keys) if rotation is None else (rotation.turn(v, positions) for v in (queries, keys))
            fit = fit_scores(q @ k.mT, judged, seen, is_pattern, cap, biased)
            tried.append(Scoring(fit, cap, rotation, seen))
        best = min(tried, key=lambda found: found.fit.error)
        if best.fit.error <= precision:
            return best
    if math.isinf(best.fit.error):
        raise ValueError(
            f"inputs of shape {tuple(x.shape[:2])} give too few scores, or too much alike, to verify layer {layer}'s "
            "heads by: give two examples of three positions or more"
        )
    if fold_norm:
        raise ValueError(
            f"fold_norm=True: no norm in front of layer {layer}'s heads reproduces the model's scores "
            f"(relative error {best.fit.error:.1e}); use fold_norm=False"
        )
    raise ValueError(
        f"layer {layer}, head {head}: the model's scores are not x_query Omega x_key times a constant "
        f"(relative error {best.fit.error:.1e}): {_what_stands_between(model, *x.shape[:2])}"
    )


def read_by(model: Any, layer: int, head: int, fold_norm: bool) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of a head's queries and of its keys."""
    weights = [head_weights(model, layer, head, which) for which in "QK"]
    return [fold_ln1(model, layer, *each) for each in weights] if fold_norm else weights


def _what_stands_between(model: Any, n_examples: int, n_positions: int) -> str:
    if clip := setting(model, "clip_qkv"):
        return f"queries and keys are clipped at {clip:g}"
    if n_examples == 1 or n_positions < 3:
        return "a position bias can be told apart on several examples of three positions or more, all of one length"
    return "queries or keys are clipped, normalized or turned by positions in a way that is not known here"


def ov_circuit(
    model: HookedModel, layer: int, head: int, *, bias: bool = False, fold_norm: bool = False, inputs: Any = None
) -> Circuit:
    """What a head moves: `x_key @ matrix` is what it adds to the residual stream if it attends to `x_key` alone.

    Matrix = W_V W_O, times the multiplier of models that have one (Granite). It is verified: on a few inputs the sum
    over the heads must be what attention adds.

    >>> from probes.transformers import load_transformer
    >>> ov_circuit(load_transformer("tiny"), layer=0, head=2).matrix.shape
    torch.Size([64, 64])

    Args are those of `qk_circuit`; `bias` appends only a row, for b_V (the output bias is no head's own).

    Raises:
        IndexError: no such layer or head.
        ValueError: values are clipped, or the same for all inputs; or a norm stands between the heads and the stream,
            or not before them.
    """
    W_V, b_V = head_weights(model, layer, head, "V")
    if fold_norm:
        W_V, b_V = fold_ln1(model, layer, W_V, b_V)
    W_O = attention(model, layer).W_O[head].detach().double().mT
    if (factor := _multiplier_of_heads(model, layer, fold_norm, inputs)) != 1:
        W_O = factor * W_O
    if bias:
        W_V = torch.cat([W_V, b_V[None]])
    return Circuit(W_V, W_O, *factored_svd(W_V, W_O))


def _multiplier_of_heads(model: HookedModel, layer: int, fold_norm: bool, inputs: Any) -> float:
    """What the sum over the heads is multiplied by on its way into the residual stream."""
    reads, (pattern, is_pattern) = heads_read_at(model, layer, before_gain=fold_norm), heads_score_at(model, layer)
    before, *after = (f"blocks.{layer}.{part}" for part in ("hook_resid_pre", "hook_resid_mid", "ln1.hook_in"))
    end, others = f"blocks.{layer}.hook_resid_post", f"blocks.{layer}.hook_mlp_out"
    run = observe(model, [reads, pattern, before, *after, end, others], inputs)
    at, heads = run.at, attention(model, layer)
    if is_pattern and {reads, pattern, before} <= at.keys():
        x = at[reads]
        if reads.endswith(BEFORE_GAIN) and not fold_norm:
            x = gained(block(model, layer).ln1, x)
        made = torch.zeros_like(at[before])
        for head in range(len(heads.W_Q)):
            weight, bias = head_weights(model, layer, head, "V")
            weight, bias = fold_ln1(model, layer, weight, bias) if fold_norm else (weight, bias)
            made += at[pattern][:, head] @ (x @ weight + bias) @ heads.W_O[head].detach().double()
        added = [at[name] - at[before] for name in after if name in at]
        if end in at:  # where attention and MLP stand side by side, or there is no MLP
            added.append(at[end] - at[before] - (at[others].reshape(made.shape) if others in at else 0))
        for own in added:
            if (factor := multiplier(made.flatten(0, 1), own.flatten(0, 1), run.precision)) is not None:
                return factor
        rows = made.flatten(0, 1)
        if (rows - rows.mean(0)).norm() <= run.precision * rows.norm():
            raise ValueError(
                f"layer {layer}'s heads write the same whatever they read: a multiplier cannot be told from the "
                "output's bias; are all of W_V zero?"
            )
    clip = setting(model, "clip_qkv")
    why = f"values are clipped at {clip:g}" if clip else "a norm or something else stands between"
    where = ", or not before the heads (fold_norm=True)" if fold_norm else ""
    raise ValueError(f"what layer {layer} adds to the residual stream is no multiple of W_V W_O: {why}{where}")


def factored_svd(
    left: Float[Tensor, "*head d_left rank"], right: Float[Tensor, "*head d_right rank"]
) -> tuple[Float[Tensor, "*head d_left k"], Float[Tensor, "*head k"], Float[Tensor, "*head k d_right"]]:
    """Singular value decomposition of `left @ right.mT` without forming it: QR of each, then a rank x rank SVD.

    >>> U, S, Vh = factored_svd(torch.tensor([[2.0], [0.0]]), torch.tensor([[0.0], [3.0]]))
    >>> S
    tensor([6.])

    Half precision is computed, and given back, in float32.

    Raises:
        ArithmeticError: factors that are not finite, or a product of the results that does not give back
            `left @ right.mT`: LAPACK can fail silently.
    """
    if left.dtype not in (torch.float32, torch.float64):  # half precision knows no decompositions
        left, right = left.float(), right.float()
    if not (left.isfinite().all() and right.isfinite().all()):
        raise ArithmeticError("the factors are not finite: are the weights?")
    Q_left, R_left = torch.linalg.qr(left)
    Q_right, R_right = torch.linalg.qr(right)
    core = R_left @ R_right.mT
    U, S, Vh = torch.linalg.svd(core, full_matrices=False)
    U, Vh = Q_left @ U, Vh @ Q_right.mT
    # checked on the factors: (U S Vh) R = left (right.mT R) for the orthonormal basis R of right's columns
    error = (U * S[..., None, :]) @ (Vh @ Q_right) - left @ (right.mT @ Q_right)
    scale = left.norm(dim=(-2, -1)) * right.norm(dim=(-2, -1))
    if not (error.norm(dim=(-2, -1)) <= 1e3 * torch.finfo(left.dtype).eps * scale).all():
        raise ArithmeticError("the SVD does not reconstruct its matrix: are the weights finite?")
    return U, S, Vh
