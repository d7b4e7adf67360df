"""Where families of transformers keep their weights, and what they do around them.

With grouped queries several heads share one key and value head. Rotary models turn queries and keys by an angle that
grows with the position, so that Omega depends on the distance of the two. A norm in front of weights scales each
coordinate by a gain, which can be folded into them. Nobody needs this file to understand the tools: read it when a
family of models is to be added.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probes.given import whole
from probes.hooked import blocks, require_data


def block(model: Any, layer: int) -> Any:
    """One of the model's blocks; IndexError if there is no such layer."""
    require_data(model)
    found = blocks(model)
    layer = whole("layer", layer)
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
    try:
        n_heads, weights = heads.W_Q.shape[0], getattr(heads, f"W_{which}", None)
    except (AttributeError, NotImplementedError) as error:  # the keys and values of DeepSeek are made of a latent
        kind = type(model).__name__
        raise ValueError(f"layer {layer} of this {kind} keeps no W_Q, W_K and W_V of its heads") from error
    head = whole("head", head)
    if not 0 <= head < n_heads:
        raise IndexError(f"head {head}: layer {layer} of this {type(model).__name__} has heads 0 to {n_heads - 1}")
    if getattr(heads, "q_norm", None) is not None and which != "V":
        raise ValueError(f"layer {layer} normalizes queries and keys: its scores are not bilinear, it has no Omega")
    if weights is None:
        raise ValueError(f"layer {layer} of this {type(model).__name__} has no W_{which}: its heads only score pairs")
    group = head * weights.shape[0] // n_heads  # grouped queries: several heads share one key and value head
    weight = weights[group].detach().double()
    biases = getattr(heads, f"b_{which}", None)
    return weight, weight.new_zeros(weight.shape[-1]) if biases is None else biases[group].detach().double()


class Rotation(NamedTuple):
    """How a rotary embedding turns queries and keys: each pair of coordinates by its own angle per position."""

    frequencies: Float[Tensor, " pair"]
    """Radians per position; coordinates beyond the pairs are left alone."""
    adjacent: bool
    """Whether coordinates 2i and 2i + 1 are a pair, as in GPT-J; else i and i + half, as in Llama."""

    def turn(
        self, vectors: Float[Tensor, "*row d_head"], position: int | Int[Tensor, "..."]
    ) -> Float[Tensor, "*row d_head"]:
        """Vectors turned as queries or keys at `position` (one, or one per row).

        The score of positions (q, k) is (M_q query) . (M_k key) = (M_{q-k} query) . key with M orthogonal (Su et al.
        2021).
        """
        angles = torch.as_tensor(position)[..., None] * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        turned, rest = vectors.tensor_split([2 * len(self.frequencies)], dim=-1)
        if self.adjacent:
            x, y = turned[..., 0::2], turned[..., 1::2]
            turned = torch.stack([x * cos - y * sin, y * cos + x * sin], -1).flatten(-2)
        else:
            x, y = turned.chunk(2, dim=-1)
            turned = torch.cat([x * cos - y * sin, y * cos + x * sin], -1)
        return torch.cat([turned, rest], -1)


def rotations(model: Any, layer: int) -> list[Rotation]:
    """Rotations that the heads of a layer may use, by the tables found in the model; none without rotary positions.

    Which one they use, if any, shows in their scores alone: a model may have a table for its local layers and one for
    the others, or leave some layers unturned, and nothing says in one way for all architectures what a pair is.
    """
    found: list[Tensor] = []
    heads = attention(model, layer)
    for name, table in model.named_buffers():
        what = name.rpartition(".")[2]
        if what.endswith("inv_freq") and "original" not in what:
            found.append(table.double())
    for name, table in heads.named_buffers():
        if name.endswith("embed_positions"):  # GPT-J: "pos coordinate", the sines before the cosines
            sin, cos = table[1].double().chunk(2)
            found.append(torch.atan2(sin, cos))
    if tables := [dict(part.named_buffers()) for part in heads.modules() if hasattr(part, "cos_cached")]:
        # a native bridge: "pos coordinate", each angle twice, side by side
        angles = torch.atan2(tables[0]["sin_cached"][1].double(), tables[0]["cos_cached"][1].double())
        found.append(angles[0::2])
    if getattr(heads, "rotary_sin", None) is not None:
        # a HookedTransformer keeps tables "pos coordinate" with each pair's angle twice
        angles = torch.atan2(heads.rotary_sin[1].double(), heads.rotary_cos[1].double())
        found.append(angles[0::2] if model.cfg.rotary_adjacent_pairs else angles[: len(angles) // 2])
    fit = [frequencies for frequencies in found if 2 * len(frequencies) <= heads.W_Q.shape[-1]]
    return [Rotation(frequencies, adjacent) for frequencies in fit for adjacent in (False, True)]


def turns_by_length(model: Any) -> bool:
    """Whether rotary positions turn by angles that depend on how long a prompt is (LongRoPE, dynamic NTK)."""
    parts = model.modules() if isinstance(model, nn.Module) else ()
    kinds = [kind for part in parts if (kind := getattr(part, "rope_type", None)) is not None]
    kinds = [one for kind in kinds for one in (kind.values() if isinstance(kind, dict) else [kind])]
    return any(kind in ("dynamic", "longrope") for kind in kinds)


def setting(model: Any, *names: str) -> float | None:
    """The first of these settings that the model's config has, if it is above 0."""
    configs = [getattr(model, "cfg", None), getattr(getattr(model, "original_model", None), "config", None)]
    for config in configs:
        for name in names:
            value = getattr(config, name, None)
            if isinstance(value, int | float) and value > 0:
                return float(value)
    return None


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


def gained(norm: Any, normalized: Tensor) -> Tensor:
    """What a norm gives on of a normalized input: times its gain, plus its shift."""
    gain, shift = getattr(norm, "w", None), getattr(norm, "b", None)
    normalized = normalized if gain is None else normalized * gain.detach().double()
    return normalized if shift is None else normalized + shift.detach().double()
