"""QK and OV circuits of any head: what it compares, and what it moves (Elhage et al. 2021, "A Mathematical Framework").

A head's queries and keys enter its scores only as x_query W_Q W_K^T x_key, and its values and outputs only as
x_key W_V W_O. Both products are d_model x d_model matrices of rank d_head at most, kept here as their two factors: the
singular value decomposition of `left @ right.T` needs a QR of each factor and one small matrix, never the product.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.hooked import HookedModel, block


class Circuit(NamedTuple):
    """A head's bilinear form or map as `left @ right.T`, with its singular value decomposition, in float64."""

    left: Float[Tensor, "d_left rank"]
    right: Float[Tensor, "d_right rank"]
    U: Float[Tensor, "d_left k"]
    S: Float[Tensor, " k"]
    Vh: Float[Tensor, "k d_right"]

    @property
    def matrix(self) -> Float[Tensor, "d_left d_right"]:
        """The product in full."""
        return self.left @ self.right.mT


def qk_circuit(
    model: HookedModel, layer: int, head: int, *, bias: bool = False, fold_norm: bool = False, offset: int = 0
) -> Circuit:
    """Omega of a head: query on its rows, `x_query @ Omega @ x_key` is the score before scaling and masking.

    Omega = W_Q W_K^T; in the pseudo-attention literature A^T B.

    >>> from probes.transformers import load_transformer
    >>> omega = qk_circuit(load_transformer("tiny"), layer=0, head=2)
    >>> omega.matrix.shape, omega.S.shape
    (torch.Size([64, 64]), torch.Size([16]))

    Args:
        model: anything with `blocks[layer].attn.W_Q` (head, d_model, d_head) and `W_K`; with grouped queries `W_K` has
            fewer heads.
        layer, head: which, counted from 0.
        bias: append a row and a column, for inputs that end in a constant 1; zeros where there are no biases.
        fold_norm: take inputs after normalization but before its gain: `blocks.i.ln1.hook_normalized` of a bridge.
            Without it inputs are what the head reads (`blocks.i.attn.hook_in`).
        offset: query position minus key position, for rotary models.

    Raises:
        IndexError: no such layer or head.
        ValueError: a norm or rotary positions that this model does not have, or whose form is not known.
    """
    W_Q, b_Q = _head_weights(model, layer, head, "Q")
    W_K, b_K = _head_weights(model, layer, head, "K")
    if offset:
        W_Q, b_Q = rotate(model, layer, W_Q, offset), rotate(model, layer, b_Q, offset)
    if fold_norm:
        (W_Q, b_Q), (W_K, b_K) = _fold_ln1(model, layer, W_Q, b_Q), _fold_ln1(model, layer, W_K, b_K)
    if bias:
        W_Q, W_K = torch.cat([W_Q, b_Q[None]]), torch.cat([W_K, b_K[None]])
    return Circuit(W_Q, W_K, *factored_svd(W_Q, W_K))


def ov_circuit(model: HookedModel, layer: int, head: int, *, bias: bool = False, fold_norm: bool = False) -> Circuit:
    """What a head moves: `x_key @ matrix` is what it writes if it attends to `x_key` alone. Matrix = W_V W_O.

    >>> from probes.transformers import load_transformer
    >>> ov_circuit(load_transformer("tiny"), layer=0, head=2).matrix.shape
    torch.Size([64, 64])

    Args and errors are those of `qk_circuit`; `bias` appends only a row, for b_V (the output bias is no head's own).
    """
    W_V, b_V = _head_weights(model, layer, head, "V")
    W_O = _attention(model, layer).W_O[head].detach().double().mT
    if fold_norm:
        W_V, b_V = _fold_ln1(model, layer, W_V, b_V)
    if bias:
        W_V = torch.cat([W_V, b_V[None]])
    return Circuit(W_V, W_O, *factored_svd(W_V, W_O))


def factored_svd(
    left: Float[Tensor, "*head d_left rank"], right: Float[Tensor, "*head d_right rank"]
) -> tuple[Float[Tensor, "*head d_left k"], Float[Tensor, "*head k"], Float[Tensor, "*head k d_right"]]:
    """Singular value decomposition of `left @ right.mT` without forming it: QR of each, then a rank x rank SVD.

    >>> U, S, Vh = factored_svd(torch.tensor([[2.0], [0.0]]), torch.tensor([[0.0], [3.0]]))
    >>> S
    tensor([6.])

    Raises:
        ArithmeticError: the product of the factors does not give back `left @ right.mT`: LAPACK can fail silently.
    """
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


def rotate(
    model: HookedModel, layer: int, vectors: Float[Tensor, "*row d_head"], position: int | Int[Tensor, "..."]
) -> Float[Tensor, "*row d_head"]:
    """Head vectors turned as the model's rotary embedding turns a query or key at `position` (one, or one per row).

    The score of positions (q, k) is (M_q query) . (M_k key) = (M_{q-k} query) . key with M orthogonal (Su et al. 2021).

    Raises:
        ValueError: the model has no rotary embedding, or not one frequency for each pair of coordinates.
    """
    frequencies = rotary_frequencies(model, layer)
    if frequencies is None:
        kind = type(model).__name__
        raise ValueError(f"offset={position}: {kind} has no rotary embedding with frequencies to read; use offset=0")
    angles = torch.as_tensor(position)[..., None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    turned, rest = vectors.tensor_split([2 * len(frequencies)], dim=-1)
    if _adjacent_pairs(model):
        x, y = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack([x * cos - y * sin, y * cos + x * sin], -1).flatten(-2)
    else:
        x, y = turned.chunk(2, dim=-1)
        turned = torch.cat([x * cos - y * sin, y * cos + x * sin], -1)
    return torch.cat([turned, rest], -1)


def rotary_frequencies(model: Any, layer: int) -> Float[Tensor, " pair"] | None:
    """Radians per position for each pair of coordinates that is turned; None for a model without rotary positions."""
    rotary = getattr(model, "rotary_emb", None)
    if rotary is not None:
        found = dict(rotary.named_buffers()).get("_original_component.inv_freq")
        return None if found is None else found.double()
    sin = getattr(_attention(model, layer), "rotary_sin", None)
    if sin is None:
        return None
    # a HookedTransformer keeps tables "pos coordinate" with each pair's angle twice
    angles = torch.atan2(sin[1].double(), model.blocks[layer].attn.rotary_cos[1].double())
    return angles[0::2] if _adjacent_pairs(model) else angles[: len(angles) // 2]


def _adjacent_pairs(model: Any) -> bool:
    return bool(getattr(getattr(model, "cfg", None), "rotary_adjacent_pairs", False))


def _attention(model: Any, layer: int) -> Any:
    attention = getattr(block(model, layer), "attn", None)
    if attention is None:
        raise IndexError(f"layer {layer} of this {type(model).__name__} has no attention heads")
    return attention


def _head_weights(model: Any, layer: int, head: int, which: str) -> tuple[Tensor, Tensor]:
    """`W_Q`, `W_K` or `W_V` of a head, "d_model d_head", and its bias, zero if there is none; in float64."""
    attention = _attention(model, layer)
    n_heads = attention.W_Q.shape[0]
    if not 0 <= head < n_heads:
        raise IndexError(f"head {head}: layer {layer} of this {type(model).__name__} has heads 0 to {n_heads - 1}")
    if getattr(attention, "q_norm", None) is not None and which != "V":
        raise ValueError(f"layer {layer} normalizes queries and keys: its scores are not bilinear, it has no Omega")
    weights = getattr(attention, f"W_{which}", None)
    if weights is None:
        raise ValueError(f"layer {layer} of this {type(model).__name__} has no W_{which}: its heads only score pairs")
    group = head * weights.shape[0] // n_heads  # grouped queries: several heads share one key and value head
    weight = weights[group].detach().double()
    biases = getattr(attention, f"b_{which}", None)
    return weight, weight.new_zeros(weight.shape[-1]) if biases is None else biases[group].detach().double()


def _fold_ln1(model: Any, layer: int, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return fold_norm_into(model, getattr(model.blocks[layer], "ln1", None), weight, bias)


def fold_norm_into(
    model: Any, norm: Any, weight: Float[Tensor, "d_model d_out"], bias: Float[Tensor, " d_out"]
) -> tuple[Float[Tensor, "d_model d_out"], Float[Tensor, " d_out"]]:
    """Weight and bias that act on the normalized input, before `norm`'s gain and shift (centered for a LayerNorm).

    Raises:
        ValueError: there is no norm in front of these weights.
    """
    cfg = getattr(model, "cfg", None)
    # BERT normalizes after each part, not before it
    if norm is None or "bert" in str(getattr(cfg, "architecture", "")).lower():
        kind = type(model).__name__
        raise ValueError(f"fold_norm=True: this {kind} has no norm in front of these weights; use fold_norm=False")
    gain, shift = getattr(norm, "w", None), getattr(norm, "b", None)
    if shift is not None:
        bias = bias + shift.detach().to(weight) @ weight
    if gain is not None:
        gain = gain.detach().to(weight) + bool(getattr(cfg, "rmsnorm_uses_offset", False))
        weight = gain[:, None] * weight
    if "RMS" not in str(getattr(cfg, "normalization_type", "")):
        weight = weight - weight.mean(0)  # a centered input has no part along the ones
    return weight, bias
