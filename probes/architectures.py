"""Where families of transformers keep their weights, and what they do around them.

With grouped queries several heads share one key and value head. Rotary models turn queries and keys by an angle that
grows with the position, so that Omega depends on the distance of the two. A norm in front of weights scales each
coordinate by a gain, which can be folded into them. Nobody needs this file to understand the tools: read it when a
family of models is to be added.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.hooked import HookedModel, blocks


def block(model: Any, layer: int) -> Any:
    """One of the model's blocks; IndexError if there is no such layer."""
    found = blocks(model)
    if not 0 <= layer < len(found):
        has = f"layers 0 to {len(found) - 1}" if found else "no layers"
        raise IndexError(f"layer {layer}: this {type(model).__name__} has {has}")
    return found[layer]


def attention(model: Any, layer: int) -> Any:
    """The attention of one of the model's blocks; IndexError if there is no such layer, or none with heads."""
    found = getattr(block(model, layer), "attn", None)
    if found is None:
        raise IndexError(f"layer {layer} of this {type(model).__name__} has no attention heads")
    return found


def head_weights(model: Any, layer: int, head: int, which: str) -> tuple[Tensor, Tensor]:
    """`W_Q`, `W_K` or `W_V` of a head, "d_model d_head", and its bias, zero if there is none; in float64."""
    heads = attention(model, layer)
    n_heads = heads.W_Q.shape[0]
    if not 0 <= head < n_heads:
        raise IndexError(f"head {head}: layer {layer} of this {type(model).__name__} has heads 0 to {n_heads - 1}")
    if getattr(heads, "q_norm", None) is not None and which != "V":
        raise ValueError(f"layer {layer} normalizes queries and keys: its scores are not bilinear, it has no Omega")
    weights = getattr(heads, f"W_{which}", None)
    if weights is None:
        raise ValueError(f"layer {layer} of this {type(model).__name__} has no W_{which}: its heads only score pairs")
    group = head * weights.shape[0] // n_heads  # grouped queries: several heads share one key and value head
    weight = weights[group].detach().double()
    biases = getattr(heads, f"b_{which}", None)
    return weight, weight.new_zeros(weight.shape[-1]) if biases is None else biases[group].detach().double()


def rotate(
    model: HookedModel, layer: int, vectors: Float[Tensor, "*row d_head"], position: int | Int[Tensor, "..."]
) -> Float[Tensor, "*row d_head"]:
    """Head vectors turned as the model's rotary embedding turns a query or key at `position` (one, or one per row).

    The score of positions (q, k) is (M_q query) . (M_k key) = (M_{q-k} query) . key with M orthogonal (Su et al. 2021).
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
    sin = getattr(attention(model, layer), "rotary_sin", None)
    if sin is None:
        return None
    # a HookedTransformer keeps tables "pos coordinate" with each pair's angle twice
    angles = torch.atan2(sin[1].double(), model.blocks[layer].attn.rotary_cos[1].double())
    return angles[0::2] if _adjacent_pairs(model) else angles[: len(angles) // 2]


def _adjacent_pairs(model: Any) -> bool:
    return bool(getattr(getattr(model, "cfg", None), "rotary_adjacent_pairs", False))


def fold_ln1(model: Any, layer: int, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a head on the input of its layer's norm, before the gain."""
    return fold_norm_into(model, getattr(model.blocks[layer], "ln1", None), weight, bias)


def fold_norm_into(
    model: Any, norm: Any, weight: Float[Tensor, "d_model d_out"], bias: Float[Tensor, " d_out"]
) -> tuple[Float[Tensor, "d_model d_out"], Float[Tensor, " d_out"]]:
    """Weight and bias that act on the normalized input, before `norm`'s gain and shift (centered for a LayerNorm)."""
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


def gained(model: Any, layer: int, normalized: Tensor) -> Tensor:
    """What the heads of a `HookedTransformer` read: it has a hook only before the norm's gain and shift."""
    norm = model.blocks[layer].ln1
    gain, shift = getattr(norm, "w", None), getattr(norm, "b", None)
    normalized = normalized if gain is None else normalized * gain.detach().double()
    return normalized if shift is None else normalized + shift.detach().double()
