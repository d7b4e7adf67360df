"""`ToyModel`: a toy model of superposition as a TransformerLens `HookedRootModule`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from tms_hooks.config import ToyConfig
from tms_hooks.errors import explained, plain
from tms_hooks.models import forward
from tms_hooks.models.hooks import HookedToy
from tms_hooks.models.pretrained import PretrainedToy


class ToyOutput(NamedTuple):
    """What a toy with pseudo-attention heads returns."""

    reconstruction: Float[Tensor, "batch pos output"]
    attn_scores: Float[Tensor, "batch head query_pos key_pos"]


@explained()
class ToyModel(HookedToy, PretrainedToy):
    """A few features squeezed through a bottleneck, with a hook point on every activation.

    >>> import torch
    >>> model = ToyModel(ToyConfig(n_features=6, d_hidden=2), seed=0)
    >>> out, cache = model.run_with_cache(torch.eye(6))
    >>> out.shape, cache["hook_hidden"].shape
    (torch.Size([6, 6]), torch.Size([6, 2]))

    Weights under TransformerLens's names and shapes: `W_E` (feature, hidden), `W_U` (hidden, output), `b_hidden`,
    `b_U`, `W_Q` and `W_K` (1, head, hidden, d_head), `b_Q` and `b_K` (1, head, d_head), `W_in` (layer, hidden, mlp),
    `W_out` (layer, mlp, output or hidden). Tied means that `W_U` is a view of the one Parameter `W_E`; weights of a
    block are views too, with a layer axis. Of several blocks they are a copy: edit `blocks[i].mlp.W_in` itself.

    Args:
        cfg: the architecture.
        seed: of the initial weights. Nothing else is random, and no global state is touched.
    """

    def __init__(self, cfg: ToyConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.cfg = cfg
        self.hook_embed, self.hook_hidden = HookPoint(), HookPoint()
        self.hook_unembed, self.hook_out = HookPoint(), HookPoint()
        self.blocks = nn.ModuleList(_Block(cfg) for _ in range(cfg.n_layers))
        for name, value in forward.init_weights(cfg, plain(seed)).items():
            home, _, attribute = name.rpartition(".")
            self.get_submodule(home).register_parameter(attribute, nn.Parameter(value))
        for bias in {"b_hidden", "b_U"} - self._parameters.keys():
            self.register_parameter(bias, None)
        self.setup()
        self.eval()  # no layer here cares, but TransformerLens's analysis tools refuse a module in training mode

    @classmethod
    def from_weights(cls, cfg: ToyConfig, weights: Mapping[str, Tensor]) -> "ToyModel":
        """A model with these weights (copied), named and shaped as in `state_dict()`."""
        model = cls(cfg).to(weights["W_E"].dtype)
        model.load_state_dict(dict(weights))
        return model

    def forward(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch output"] | ToyOutput:
        """Reconstruct `x`: "batch feature", or "batch pos feature" with heads, which also score each pair of positions.

        Raises:
            ValueError: another number of axes or of features, or another type than the weights'.
        """
        axes = ("batch", "pos", "feature") if self.cfg.n_heads else ("batch", "feature")
        if x.ndim != len(axes) or x.shape[-1] != self.cfg.n_features:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: this model takes {axes} with {self.cfg.n_features} features"
            )
        weights = dict(self.named_parameters())
        if x.dtype != self.W_E.dtype and not torch.is_autocast_enabled(x.device.type):
            kind = str(self.W_E.dtype).removeprefix("torch.")
            raise ValueError(f"input of {x.dtype}: this model's weights are {kind}; use x.to(torch.{kind})")
        hidden, _, out = forward.reconstruct(weights, x, self.cfg, self._hook)
        return ToyOutput(out, forward.attention_scores(weights, hidden, self._hook)) if self.cfg.n_heads else out

    def _hook(self, name: str, value: Tensor) -> Tensor:
        return self.hook_dict[name](value)

    @property
    def W(self) -> Float[Tensor, "hidden feature"]:
        """The paper's `W`: feature directions are its columns."""
        return self.W_E.mT

    def __getattr__(self, name: str) -> Any:
        """Weights that are views of a Parameter: a tied `W_U`, and a block's weights with a layer axis."""
        if name == "W_U" and self.cfg.tied and self.cfg.bottleneck != "embed->mlp.in":
            return self.W_E.mT
        if name in _BLOCK_WEIGHTS:
            part, switch = _BLOCK_WEIGHTS[name]
            if not getattr(self.cfg, switch):
                raise AttributeError(f"this toy has no {name}: {switch}={getattr(self.cfg, switch)}")
            each = [getattr(getattr(block, part), name) for block in self.blocks]
            return each[0][None] if len(each) == 1 else torch.stack(each)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to hide a view behind a tensor that the forward pass would not read."""
        if (name == "W_U" or name in _BLOCK_WEIGHTS) and name not in self._parameters:
            raise AttributeError(f"{name} is a view of a Parameter and cannot be replaced; edit it in place")
        super().__setattr__(name, value)

    def tl_parameters(self) -> dict[str, Tensor]:
        """Weights under the dotted names that TransformerLens's `SVDInterpreter` reads."""
        embeds = {"W_E": "embed.W_E", "W_U": "unembed.W_U", "b_U": "unembed.b_U"}
        named = {embeds.get(name, name): value for name, value in self.named_parameters()}
        return named | ({"unembed.W_U": self.W_U} if hasattr(self, "W_U") else {})


_BLOCK_WEIGHTS = {
    **dict.fromkeys(("W_Q", "W_K"), ("attn", "n_heads")),
    **dict.fromkeys(("b_Q", "b_K"), ("attn", "head_bias")),
    **dict.fromkeys(("W_in", "W_out"), ("mlp", "d_mlp")),
}
"""Name -> the part of a block that has it, and the switch that it needs."""


class _Block(nn.Module):
    """One of `blocks`: the pseudo-attention and the MLP that the config asks for."""

    def __init__(self, cfg: ToyConfig) -> None:
        super().__init__()
        if cfg.n_heads:
            self.attn = nn.ModuleDict({name: HookPoint() for name in ("hook_q", "hook_k", "hook_attn_scores")})
        if cfg.d_mlp:
            self.mlp = nn.ModuleDict({name: HookPoint() for name in ("hook_pre", "hook_post")})
        if cfg.bottleneck == "residual":
            self.hook_resid_pre, self.hook_mlp_out, self.hook_resid_post = HookPoint(), HookPoint(), HookPoint()
