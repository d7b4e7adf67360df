"""The mathematics of a toy model, once, for one model or a stack of them.

`weights` are named as in `ToyModel.state_dict()`; any leading axes they share are model axes. `hook` is called on
every named activation with (name, value) and returns the value to go on with: a `ToyModel` passes its hook
points, training passes nothing.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from tms_hooks.config import Activation, OwnActivation, ToyConfig
from tms_hooks.linalg import stacked_matmul as _matmul
from tms_hooks.own import model_by_model

Weights = Mapping[str, Tensor]
Hook = Callable[[str, Tensor], Tensor]

W_Q, W_K = "blocks.0.attn.W_Q", "blocks.0.attn.W_K"
B_Q, B_K = "blocks.0.attn.b_Q", "blocks.0.attn.b_K"
HEADS = (W_Q, W_K, B_Q, B_K)
"""Parameters of the heads; all others are the representation."""
W_IN, W_OUT = "blocks.0.mlp.W_in", "blocks.0.mlp.W_out"


def no_hook(name: str, value: Tensor) -> Tensor:
    """Go on with the value as it is."""
    return value


def weight_shapes(cfg: ToyConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of one model, in the order in which they are initialized."""
    n, m, outputs = cfg.n_features, cfg.d_hidden, cfg.n_outputs
    shapes: dict[str, tuple[int, ...]] = {"W_E": (n, m)}
    if not cfg.tied and cfg.bottleneck != "embed->mlp.in":
        shapes["W_U"] = (m, outputs)
    if cfg.d_mlp:
        for layer in range(cfg.n_mlps):
            shapes[in_block(layer, W_IN)] = (m, cfg.d_mlp)
            shapes[in_block(layer, W_OUT)] = (cfg.d_mlp, outputs if cfg.bottleneck == "embed->mlp.in" else m)
    if cfg.n_heads:
        assert cfg.d_head is not None  # ToyConfig fills it in
        shapes[W_Q] = shapes[W_K] = (cfg.n_heads, m, cfg.d_head)
        if cfg.head_bias:
            shapes[B_Q] = shapes[B_K] = (cfg.n_heads, cfg.d_head)
    if cfg.hidden_bias:
        shapes["b_hidden"] = (m,)
    if cfg.output_bias:
        shapes["b_U"] = (outputs,)
    if cfg.unit_norm:
        shapes["scale"] = ()
    return shapes


def init_weights(cfg: ToyConfig, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Initial weights of one model, as `ToyConfig.init` says; drawn in float32 whatever the default type is.

    Each matrix uses its own fan-in and fan-out, whatever else is stacked beside it; heads are initialized one by one.
    They are drawn in single precision, whatever torch's default is.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in weight_shapes(cfg).items():
        if name == "scale":
            weights[name] = torch.ones((), dtype=torch.float32)
        elif cfg.init == "linear":
            unit = torch.rand(shape, generator=generator, dtype=torch.float32)
            weights[name] = (2 * unit - 1) / _fan_in(name, shape, cfg) ** 0.5
        elif name.rpartition(".")[2].startswith("b_"):
            weights[name] = torch.zeros(shape, dtype=torch.float32)
        else:
            std = (2 / (shape[-1] + shape[-2])) ** 0.5 if cfg.init_std is None else cfg.init_std
            weights[name] = torch.randn(shape, generator=generator, dtype=torch.float32) * std
    return {name: w.to(dtype) for name, w in normalize_weights(weights, cfg).items()}


def _fan_in(name: str, shape: tuple[int, ...], cfg: ToyConfig) -> int:
    """How many numbers a matrix reads, or the matrix in front of a bias."""
    behind_mlp = {"b_hidden": "mlp.out->unembed", "b_U": "embed->mlp.in"}
    if name in behind_mlp and cfg.bottleneck == behind_mlp[name]:
        assert cfg.d_mlp is not None  # ToyConfig sees to it
        return cfg.d_mlp
    if name == "b_hidden":
        return cfg.n_features
    return cfg.d_hidden if name in ("b_U", B_Q, B_K) else shape[-2]


def normalize_weights(weights: Weights, cfg: ToyConfig) -> dict[str, Tensor]:
    """Bring the directions that `unit_norm` names to norm 1; what the model computes stays the same."""
    weights = dict(weights)
    if cfg.unit_norm in (True, "write"):
        weights["W_E"] = torch.nn.functional.normalize(weights["W_E"], dim=-1)
    if cfg.unit_norm in (True, "read") and "W_U" in weights:
        weights["W_U"] = torch.nn.functional.normalize(weights["W_U"], dim=-2)
    return weights


class Reconstruction(NamedTuple):
    """What a toy makes of its input, layer by layer."""

    hidden: Float[Tensor, "*batch hidden"]
    """The hidden layer, as heads read it."""
    logits: Float[Tensor, "*batch output"]
    """The output before its activation."""
    out: Float[Tensor, "*batch output"]


def reconstruct(
    weights: Weights, x: Float[Tensor, "*batch feature"], cfg: ToyConfig, hook: Hook = no_hook
) -> Reconstruction:
    """The forward pass, from features to outputs, which are a toy's features again if its config says no other.

    With stacked weights `x` is "model batch feature"; without, any number of batch axes may stand before the features.
    """
    weights = normalize_weights(weights, cfg) if cfg.unit_norm else weights
    embed = hook("hook_embed", _matmul(x, weights["W_E"]))
    if cfg.bottleneck == "mlp.out->unembed":
        embed = _mlp(weights, embed, hook)
    act = _model_by_model if weights["W_E"].ndim == 3 else activation
    hidden = hook("hook_hidden", act(_add(embed, weights.get("b_hidden")), cfg.hidden_act))
    if cfg.bottleneck == "embed->mlp.in":
        logits = _mlp(weights, hidden, hook)
    else:
        hidden, stream = _residual(weights, hidden, cfg, hook) if cfg.bottleneck == "residual" else (hidden, hidden)
        logits = _matmul(stream, weights["W_E"].mT if cfg.tied else weights["W_U"])
    if cfg.unit_norm and cfg.scale == "before":
        logits = _scaled(logits, weights["scale"])
    logits = hook("hook_unembed", _add(logits, weights.get("b_U")))
    out = act(logits, cfg.output_act)
    if cfg.unit_norm and cfg.scale == "after":
        out = _scaled(out, weights["scale"])
    return Reconstruction(hidden, logits, hook("hook_out", out))


def _residual(
    weights: Weights, stream: Float[Tensor, "*batch hidden"], cfg: ToyConfig, hook: Hook
) -> tuple[Float[Tensor, "*batch hidden"], Float[Tensor, "*batch hidden"]]:
    """A residual stream as block 0 reads it, and at its end: each block's MLP adds to it."""
    read = []
    for layer in range(cfg.n_mlps):
        read.append(hook(f"blocks.{layer}.hook_resid_pre", stream))
        out = hook(f"blocks.{layer}.hook_mlp_out", _mlp(weights, read[-1], hook, layer))
        stream = hook(f"blocks.{layer}.hook_resid_post", read[-1] + out)
    return read[0], stream


def _scaled(x: Float[Tensor, "*batch output"], scale: Float[Tensor, "*model"]) -> Float[Tensor, "*batch output"]:
    return x * (scale[..., None, None] if scale.ndim else scale)


def attention_scores(
    weights: Weights, hidden: Float[Tensor, "*model batch pos hidden"], hook: Hook = no_hook, queries: int | None = None
) -> Float[Tensor, "*model batch head query_pos key_pos"]:
    """Pseudo-attention: `(h_query W_Q + b_Q) . (h_key W_K + b_K)` for every pair of positions.

    Without `head_bias` there are no b_Q and b_K. The scores are not scaled, masked or normalized. `queries` limits it
    to those of so many first positions.
    """
    q = hook("blocks.0.attn.hook_q", _heads(hidden[..., :queries, :], weights[W_Q], weights.get(B_Q)))
    k = hook("blocks.0.attn.hook_k", _heads(hidden, weights[W_K], weights.get(B_K)))
    pairs = rearrange(q, "... q h d -> ... h q 1 d") * rearrange(k, "... k h d -> ... h 1 k d")
    return hook("blocks.0.attn.hook_attn_scores", pairs.sum(-1))


def _heads(
    hidden: Float[Tensor, "*model batch pos hidden"],
    W: Float[Tensor, "*model head hidden d_head"],
    b: Float[Tensor, "*model head d_head"] | None,
) -> Float[Tensor, "*model batch pos head d_head"]:
    """Every head's queries or keys."""
    rows = rearrange(hidden, "... batch pos hidden -> ... (batch pos) hidden")
    out = _matmul(rows, rearrange(W, "... head hidden d -> ... hidden (head d)"))
    out = rearrange(out, "... (batch pos) (head d) -> ... batch pos head d", pos=hidden.shape[-2], head=W.shape[-3])
    return out if b is None else out + b[..., None, None, :, :]


def activation(x: Float[Tensor, "*shape"], kind: Activation | OwnActivation) -> Float[Tensor, "*shape"]:
    """The activation called `kind`, softmax over the last axis; or the function that it is."""
    if callable(kind):
        return kind(x)
    match kind:
        case "identity":
            return x
        case "relu":
            return x.relu()
        case "gelu":
            return torch.nn.functional.gelu(x)
        case "softmax":
            return x.softmax(-1)


def _model_by_model(
    x: Float[Tensor, "model batch d"], kind: Activation | OwnActivation
) -> Float[Tensor, "model batch d"]:
    """`activation` of a stack. On the CPU, GELU rounds an entry by where it stands: each model has it to itself."""
    if callable(kind):
        return model_by_model(kind, x)
    apart = kind == "gelu" and x.device.type == "cpu"
    return torch.stack([activation(each, kind) for each in x]) if apart else activation(x, kind)


def _mlp(
    weights: Weights, x: Float[Tensor, "*batch hidden"], hook: Hook, layer: int = 0
) -> Float[Tensor, "*batch d_out"]:
    pre = hook(f"blocks.{layer}.mlp.hook_pre", _matmul(x, weights[in_block(layer, W_IN)]))
    return _matmul(hook(f"blocks.{layer}.mlp.hook_post", pre.relu()), weights[in_block(layer, W_OUT)])


def in_block(layer: int, name: str) -> str:
    """Another block's parameter of this name of block 0."""
    return name.replace("blocks.0.", f"blocks.{layer}.")


def _add(x: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return x
    return x + (bias[..., None, :] if bias.ndim > 1 else bias)
