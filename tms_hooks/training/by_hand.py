"""Gradients of toys without heads and MLPs, by hand: autograd sees only functions of the user's own.

They are those of autograd through `torch_engine.loss_parts`, and take a third of its time: a toy is small, and each of
the hundred operations that autograd keeps account of costs a few microseconds whatever its size.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import losses, tasks
from tms_hooks.config import Activation, OwnActivation, ToyConfig
from tms_hooks.linalg import LINE, aligned, product_of_each, spaced
from tms_hooks.models import forward
from tms_hooks.training import batches
from tms_hooks.training.recipe import Recipe

Pull = Callable[[Tensor], Tensor]
"""Takes the gradient in what a layer gives back to what it is given."""
SAFE = 1e30
"""Where costs are less in sum, no mean of them overflows."""


def knows(cfg: ToyConfig, device: torch.device) -> bool:
    """Whether the gradients of such a toy on such a device are known here, to the bit: GELU's would round otherwise."""
    plain = not cfg.n_heads and cfg.d_mlp is None and "gelu" not in (cfg.hidden_act, cfg.output_act)
    return device.type == "cpu" and plain


def loss_and_gradients(
    recipe: Recipe, weights: Mapping[str, Tensor], x: Float[Tensor, "model batch feature"], asked: bool = True
) -> tuple[Float[Tensor, "model output"] | None, dict[str, Tensor]]:
    """Loss of each output, and the gradients of their sum in all weights: on a batch, or all that it stands for.

    The loss is None if it is not asked for and far from overflow.

    Raises:
        ValueError: a loss of the user's own is NaN for finite outputs.
    """
    cfg, given = recipe.cfg, weights
    alone = len(x) == 1
    if alone:  # matrices take less time than stacks of one
        given, x = {name: w[0] for name, w in given.items()}, x[0]
    weights = given
    if cfg.unit_norm:
        given = {name: w.detach().requires_grad_() for name, w in given.items()}
        normed = forward.normalize_weights(given, cfg)
        weights = {name: w.detach() for name, w in normed.items()}
    if recipe.empty_rows == "drawn":
        loss, found = _on(recipe, weights, x, None, 1.0, asked)
    else:
        rows, share = batches.rows(recipe)
        if cfg.hidden_act == "identity" and not (cfg.hidden_bias or cfg.unit_norm) and _is_exact(cfg.output_act):
            loss, found = _on(recipe, weights, x, rows, share, asked)
        else:
            loss, found = _on(recipe, weights, x, None, share, True)
            empty_loss, of_empty = _on(recipe, weights, torch.zeros_like(x[..., :1, :]), None, 1 - share, True)
            loss = share * loss + (1 - share) * empty_loss
            found = {name: g + of_empty[name] for name, g in found.items()}
    if cfg.unit_norm:
        names = [name for name in given if normed[name] is not given[name]]
        out, inputs, of_out = ([some[name] for name in names] for some in (normed, given, found))
        found |= dict(zip(names, torch.autograd.grad(out, inputs, of_out), strict=True))
    if alone:
        return None if loss is None else loss[None], {name: g[None] for name, g in found.items()}
    return loss, found


def _is_exact(act: Activation | OwnActivation) -> bool:
    """Whether an activation rounds nothing, or is the user's: then an empty row may stand below the others."""
    return callable(act) or act in ("identity", "relu")


def _on(
    recipe: Recipe,
    weights: forward.Weights,
    x: Float[Tensor, "*model batch feature"],
    empty: int | None,
    share: float,
    asked: bool,
) -> tuple[Any, dict[str, Tensor]]:
    """On rows that stand for a share of the distribution; and on empty ones for the rest, if so many stand before."""
    cfg, W_E = recipe.cfg, weights["W_E"]
    W_U, found = W_E.mT if cfg.tied else weights["W_U"], {}
    hidden = product_of_each(x, W_E)
    if cfg.hidden_bias:
        hidden = hidden + weights["b_hidden"][..., None, :]
    hidden, through_hidden = _activated(hidden, cfg.hidden_act)
    raw, target = product_of_each(hidden, W_U), _targets(recipe, x)
    if empty is not None:  # of which all products are 0: up to where the next model begins at the start of a line
        padding = LINE - empty % LINE
        raw = torch.nn.functional.pad(raw, (0, 0, 0, padding))
        target = _targets(recipe, torch.nn.functional.pad(x, (0, 0, 0, padding)))
    scale = weights["scale"][..., None, None] if cfg.unit_norm else None
    logits = raw * scale if scale is not None and cfg.scale == "before" else raw
    if cfg.output_bias:
        logits = logits.add_(weights["b_U"][..., None, :]) if scale is None else logits + weights["b_U"][..., None, :]
    if recipe.loss == "cross_entropy":
        loss, g = _costs(recipe, logits, target, empty, share, asked)
    else:
        act, through_act = _activated(logits, cfg.output_act)
        out = act * scale if scale is not None and cfg.scale == "after" else act
        loss, g = _costs(recipe, out, target, empty, share, asked)
        if scale is not None and cfg.scale == "after":
            found["scale"], g = (g * act).sum((-2, -1)), g * scale
        g = through_act(g)
    if cfg.output_bias:
        found["b_U"] = g.sum(-2) if empty is None else g[..., :empty, :].sum(-2) + g[..., empty, :]
    if scale is not None and cfg.scale == "before":
        found["scale"], g = (g * raw).sum((-2, -1)), g * scale
    g = g if empty is None else g[..., :empty, :].contiguous()
    g_U, g = product_of_each(hidden.mT, g), through_hidden(product_of_each(g, W_U.mT))
    if cfg.hidden_bias:
        found["b_hidden"] = g.sum(-2)
    g_E = product_of_each(x.mT, g)
    return loss, found | ({"W_E": g_E + g_U.mT} if cfg.tied else {"W_E": g_E, "W_U": g_U})


def _targets(recipe: Recipe, x: Float[Tensor, "*model batch feature"]) -> Float[Tensor, "*model batch output"]:
    """`tasks.targets`, of one model too."""
    return tasks.targets(recipe.task, x) if x.ndim == 3 else tasks.targets(recipe.task, x[None])[0]


def _activated(x: Float[Tensor, "*model batch d"], act: Activation | OwnActivation) -> tuple[Tensor, Pull]:
    """An activation, which may be put in the place of what is given, and its pull."""
    if act == "identity":
        return x, lambda g: g
    if act == "relu":
        after = x.relu_()
        return after, lambda g: torch.ops.aten.threshold_backward(g, after, 0)
    return _pulled(lambda z: forward.activation(z, act), callable(act), x)


def _costs(
    recipe: Recipe,
    out: Float[Tensor, "*model batch output"],
    target: Tensor,
    empty: int | None,
    share: float,
    asked: bool,
) -> tuple[Float[Tensor, "*model output"] | None, Float[Tensor, "*model batch output"]]:
    """Loss of each output, and the gradient of the share of their sum in what the loss is a function of."""
    loss, importance = recipe.loss, recipe.setting.importance
    each, weight = _weights(importance, share, out.shape[-2], empty, out.dtype)
    if isinstance(loss, losses.Loss):
        cost, pull = _pulled(loss.cost, True, out, target)
        g = pull((weight if cost.ndim == out.ndim else weight.mean(-1)).expand_as(cost))
        if cost.ndim < out.ndim:
            cost = (cost / out.shape[-1])[..., None].expand_as(out)
    elif loss == "mse":
        error = out - target
        cost, g = error.square(), weight * (2 * error)
    else:
        cost, pull = _pulled(lambda logits, target: -(target * logits.log_softmax(-1)), False, out, target)
        g = pull(weight.expand_as(out))
    if not asked and abs(cost.sum().item()) < SAFE:
        return None, g
    feature_loss = each * cost[..., :empty, :].mean(-2)
    if empty is not None:
        feature_loss = share * feature_loss + (1 - share) * (each * cost[..., empty, :])
    if isinstance(loss, losses.Loss) and not feature_loss.isfinite().all():
        losses.costs(loss, *(y if y.ndim == 3 else y[None] for y in (out, target)))  # raises for a NaN of its own
    return feature_loss, g


@lru_cache(maxsize=64)
def _weights(
    importance: tuple[float, ...], share: float, rows: int, empty: int | None, dtype: torch.dtype
) -> tuple[Float[Tensor, " output"], Float[Tensor, "batch output"]]:
    """Importance, and what each cost weighs: alike in all rows, or in all but the empty ones, of which one counts."""
    each = torch.tensor(importance, dtype=dtype)
    weight = (share * each / (rows if empty is None else empty)).repeat(rows, 1)
    if empty is not None:
        weight[empty:] = 0
        weight[empty] = (1 - share) * each
    return each, weight


def _pulled(function: Callable[..., Tensor], each: bool, x: Tensor, *more: Tensor) -> tuple[Tensor, Pull]:
    """What a function makes of a stack, or of `each` of its models as it would alone, and its pull to `x`."""
    leaf, *others = ((spaced(y) if y.ndim == 3 else aligned(y)) if each else y for y in (x, *more))
    leaf = leaf.detach().requires_grad_()
    if each and x.ndim == 3:
        found = torch.stack(
            [function(*parts) for parts in zip(leaf.unbind(), *(y.unbind() for y in others), strict=True)]
        )
    else:
        found = function(leaf, *others)
    return found.detach(), lambda g: torch.autograd.grad(found, leaf, g)[0]
