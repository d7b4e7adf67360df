"""Gradients of toys without heads and MLPs, by hand: autograd sees only functions of the user's own.

They are those of autograd through `torch_engine.loss_parts`, and take a third of its time: a toy is small, and each of
the hundred operations that autograd keeps account of costs a few microseconds whatever its size.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import losses, tasks
from tms_hooks.config import Activation, OwnActivation, ToyConfig
from tms_hooks.linalg import LINE, apart, product_of_each
from tms_hooks.models import forward
from tms_hooks.training import batches
from tms_hooks.training.recipe import Recipe

Pull = Callable[[Tensor], Tensor]
"""Takes the gradient in what a layer gives back to what it is given."""


def knows(cfg: ToyConfig, device: torch.device) -> bool:
    """Whether the gradients of such a toy on such a device are known here."""
    return device.type == "cpu" and not cfg.n_heads and cfg.d_mlp is None


def loss_and_gradients(
    recipe: Recipe, weights: Mapping[str, Tensor], x: Float[Tensor, "model batch feature"]
) -> tuple[Float[Tensor, "model output"], dict[str, Tensor]]:
    """Loss of each output, and the gradients of their sum in all weights: on a batch, or all that it stands for.

    Raises:
        ValueError: a loss of the user's own is NaN for finite outputs.
    """
    cfg, rows, share = recipe.cfg, *batches.rows(recipe)
    given = {name: w.detach().requires_grad_(bool(cfg.unit_norm)) for name, w in weights.items()}
    normed = forward.normalize_weights(given, cfg)
    plain = {name: w.detach() for name, w in normed.items()}
    if recipe.empty_rows == "drawn":
        loss, found = _on(recipe, plain, x, None, 1.0)
    elif cfg.hidden_act == "identity" and not (cfg.hidden_bias or cfg.unit_norm) and _is_exact(cfg.output_act):
        loss, found = _on(recipe, plain, x, rows, share)
    else:
        loss, found = _on(recipe, plain, x, None, share)
        empty_loss, of_empty = _on(recipe, plain, torch.zeros_like(x[:, :1]), None, 1 - share)
        loss = share * loss + (1 - share) * empty_loss
        found = {name: g + of_empty[name] for name, g in found.items()}
    if names := [name for name in given if normed[name] is not given[name]]:
        each = ([some[name] for name in names] for some in (normed, given, found))
        found |= dict(zip(names, torch.autograd.grad(*each), strict=True))
    return loss, found


def _is_exact(act: Activation | OwnActivation) -> bool:
    """Whether an activation rounds nothing, or is the user's: then an empty row may stand below the others."""
    return callable(act) or act in ("identity", "relu")


def _on(
    recipe: Recipe, weights: dict[str, Tensor], x: Float[Tensor, "model batch feature"], empty: int | None, share: float
) -> tuple[Float[Tensor, "model output"], dict[str, Tensor]]:
    """On rows that stand for a share of the distribution; and on empty ones for the rest, if so many stand before."""
    cfg, W_E = recipe.cfg, weights["W_E"]
    W_U, found = W_E.mT if cfg.tied else weights["W_U"], {}
    hidden = product_of_each(x, W_E)
    if cfg.hidden_bias:
        hidden = hidden + weights["b_hidden"][:, None]
    hidden, through_hidden = _activated(hidden, cfg.hidden_act)
    raw, target = product_of_each(hidden, W_U), tasks.targets(recipe.task, x)
    if empty is not None:  # of which all products are 0: up to where the next model begins at the start of a line
        padding = LINE - len(x[0]) % LINE
        raw = torch.nn.functional.pad(raw, (0, 0, 0, padding))
        target = tasks.targets(recipe.task, torch.nn.functional.pad(x, (0, 0, 0, padding)))
    scale = weights["scale"][:, None, None] if cfg.unit_norm else None
    logits = raw * scale if scale is not None and cfg.scale == "before" else raw
    if cfg.output_bias:
        logits = logits + weights["b_U"][:, None]
    if recipe.loss == "cross_entropy":
        loss, g = _costs(recipe, logits, target, empty, share)
    else:
        act, through_act = _activated(logits, cfg.output_act)
        out = act * scale if scale is not None and cfg.scale == "after" else act
        loss, g = _costs(recipe, out, target, empty, share)
        if scale is not None and cfg.scale == "after":
            found["scale"], g = (g * act).sum((1, 2)), g * scale
        g = through_act(g)
    if cfg.output_bias:
        found["b_U"] = g.sum(1) if empty is None else g[:, :empty].sum(1) + g[:, empty]
    if scale is not None and cfg.scale == "before":
        found["scale"], g = (g * raw).sum((1, 2)), g * scale
    g = g[:, :empty]
    g_U, g = product_of_each(hidden.mT, g), through_hidden(product_of_each(g, W_U.mT))
    if cfg.hidden_bias:
        found["b_hidden"] = g.sum(1)
    g_E = product_of_each(x.mT, g)
    return loss, found | ({"W_E": g_E + g_U.mT} if cfg.tied else {"W_E": g_E, "W_U": g_U})


def _activated(x: Float[Tensor, "model batch d"], act: Activation | OwnActivation) -> tuple[Tensor, Pull]:
    """An activation of a stack, and its pull."""
    if act == "identity":
        return x, lambda g: g
    if act == "relu":
        after = x.relu()
        return after, lambda g: torch.ops.aten.threshold_backward(g, after, 0)
    each = callable(act) or act == "gelu"  # which rounds by where an entry stands; see `models.forward`
    found, pull = _pulled(lambda z: forward.activation(z, act), each, x)
    return found, pull


def _costs(
    recipe: Recipe, out: Float[Tensor, "model batch output"], target: Tensor, empty: int | None, share: float
) -> tuple[Float[Tensor, "model output"], Float[Tensor, "model batch output"]]:
    """Loss of each output, and the gradient of the share of their sum in what the loss is a function of."""
    loss, importance = recipe.loss, recipe.setting.importance
    each, weight = _weights(importance, share, out.shape[1], empty, out.dtype)
    if isinstance(loss, losses.Loss):
        cost, pull = _pulled(loss.cost, True, out, target)
        if cost.ndim == 2:
            weight, cost = weight.mean(-1), (cost / out.shape[-1])[..., None].expand_as(out)
        g = pull(weight.expand(len(out), *weight.shape[1:]))
    elif loss == "mse":
        error = out - target
        cost, g = error.square(), weight * (2 * error)
    else:
        cost, pull = _pulled(lambda logits, target: -(target * logits.log_softmax(-1)), False, out, target)
        g = pull(weight.expand_as(out))
    feature_loss = each * cost[:, :empty].mean(-2)
    if empty is not None:
        feature_loss = share * feature_loss + (1 - share) * (each * cost[:, empty])
    if isinstance(loss, losses.Loss) and not feature_loss.sum().isfinite():
        losses.costs(loss, out, target)  # raises for a NaN of its own
    return feature_loss, g


@lru_cache(maxsize=64)
def _weights(
    importance: tuple[float, ...], share: float, rows: int, empty: int | None, dtype: torch.dtype
) -> tuple[Float[Tensor, " output"], Float[Tensor, "1 batch output"]]:
    """Importance; and what each cost weighs: alike in all rows, or in those before the empty ones, of which one does."""
    each = torch.tensor(importance, dtype=dtype)
    weight = (share * each / (rows if empty is None else empty)).repeat(1, rows, 1)
    if empty is not None:
        weight[:, empty:] = 0
        weight[:, empty] = (1 - share) * each
    return each, weight


def _pulled(function: Callable[..., Tensor], each: bool, x: Tensor, *more: Tensor) -> tuple[Tensor, Pull]:
    """What a function makes of a stack, or of `each` of its models as it would alone, and its pull to `x`."""
    leaves = [part.detach().requires_grad_() for part in (apart(x) if each else [x])]
    others = (apart(y) if each else [y] for y in more)
    found = [function(*parts) for parts in zip(leaves, *others, strict=True)]

    def pull(g: Tensor) -> Tensor:
        return _whole(torch.autograd.grad(found, leaves, g.unbind() if each else [g]), each)

    return _whole(found, each).detach(), pull


def _whole(parts: Sequence[Tensor], each: bool) -> Tensor:
    if not each:
        return parts[0]
    return parts[0][None] if len(parts) == 1 else torch.stack(list(parts))
