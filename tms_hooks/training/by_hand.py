"""Gradients by hand: autograd sees only functions of the user's own, and the losses of heads.

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
from tms_hooks.linalg import LINE, aligned, apart, product_of_each, spaced
from tms_hooks.models import forward
from tms_hooks.models.forward import B_K, B_Q, W_IN, W_K, W_OUT, W_Q, in_block
from tms_hooks.training import batches
from tms_hooks.training.recipe import Recipe, Stage
from tms_hooks.training.state import Losses

Pull = Callable[[Tensor], Tensor]
"""Takes the gradient in what a layer gives back to what it is given."""
SAFE = 1e30
"""Where costs are less in sum, no mean of them overflows."""
SMALLEST = 1e-12
"""Norms below it are taken for it, as in `torch.nn.functional.normalize`."""


def loss_and_gradients(
    recipe: Recipe,
    weights: Mapping[str, Tensor],
    x: Float[Tensor, "model batch *pos feature"],
    stage: Stage = "joint",
    asked: bool = True,
) -> tuple[Losses | None, dict[str, Tensor]]:
    """Losses of each output and head, and the gradients of what a stage minimizes, in all that it trains.

    They are those on a batch, or on all that it stands for. The losses are None if they are not asked for and far
    from overflow.

    Raises:
        ValueError: a loss of the user's own is NaN for finite outputs.
    """
    cfg, k = recipe.cfg, len(x)
    if k == 1:  # matrices take less time than stacks of one
        weights, x = {name: w[0] for name, w in weights.items()}, x[0]
    given, normed = weights, {}
    if cfg.unit_norm:
        unit = {"W_E": (True, "write"), "W_U": (True, "read")}
        names = [name for name, kinds in unit.items() if name in weights and cfg.unit_norm in kinds]
        normed = {name: _normed(weights[name], -1 if name == "W_E" else -2) for name in names}
        weights = {**weights, **{name: w for name, (w, _) in normed.items()}}
    if recipe.empty_rows == "drawn":
        loss, head_loss, found = _on(recipe, weights, x, None, 1.0, stage, asked or cfg.n_heads > 0)
    else:
        rows, share = batches.rows(recipe)
        affine = cfg.hidden_act == "identity" and not (cfg.hidden_bias or cfg.unit_norm)
        if affine and _is_exact(cfg.output_act):
            loss, head_loss, found = _on(recipe, weights, x, rows, share, stage, asked)
        else:
            loss, head_loss, found = _on(recipe, weights, x, None, share, stage, True)
            empty = torch.zeros_like(x[..., :1, :])
            empty_loss, _, of_empty = _on(recipe, weights, empty, None, 1 - share, stage, True)
            loss = share * loss + (1 - share) * empty_loss
            found = {name: g + of_empty[name] for name, g in found.items()}
    found |= {name: pull(found[name]) for name, (_, pull) in normed.items() if name in found}
    if k == 1:
        found = {name: g.view(1, *given[name].shape) for name, g in found.items()}
        return None if loss is None else (loss[None], head_loss[None]), found
    return None if loss is None else (loss, head_loss), found


def _is_exact(act: Activation | OwnActivation) -> bool:
    """Whether an activation rounds nothing, or is the user's: then an empty row may stand below the others."""
    return callable(act) or act in ("identity", "relu")


def _on(
    recipe: Recipe,
    weights: forward.Weights,
    x: Float[Tensor, "*axes feature"],
    empty: int | None,
    share: float,
    stage: Stage,
    asked: bool,
) -> tuple[Any, Any, dict[str, Tensor]]:
    """On rows that stand for a share of the distribution; and on empty ones for the rest, if so many stand before."""
    cfg, W_E, found = recipe.cfg, weights["W_E"], dict[str, Tensor]()
    rows = x.flatten(-3, -2) if cfg.n_heads else x
    hidden, through_mlp, through_scores = product_of_each(rows, W_E), _as_it_is, _as_it_is
    if cfg.bottleneck == "mlp.out->unembed":
        hidden, through_mlp = _mlp(weights, found, hidden)
    if cfg.hidden_bias:
        hidden = hidden + weights["b_hidden"][..., None, :]
    hidden, through_hidden = _activated(hidden, cfg.hidden_act)
    raw, through_unembed = _read(cfg, weights, found, hidden)
    target = _targets(recipe, rows)
    if empty is not None:  # of which all products are 0: up to where the next model begins at the start of a line
        padding = LINE - empty % LINE
        raw = torch.nn.functional.pad(raw, (0, 0, 0, padding))
        target = _targets(recipe, torch.nn.functional.pad(rows, (0, 0, 0, padding)))
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
    head_loss = rows.new_zeros(*rows.shape[:-2], cfg.n_heads)
    if cfg.n_heads:
        head_loss, through_scores = _heads(recipe, weights, found, x, hidden, stage)
        if stage == "heads":
            through_scores(torch.zeros_like(hidden))
            return loss, head_loss, {name: g for name, g in found.items() if name in forward.HEADS}
    if cfg.output_bias:
        found["b_U"] = g.sum(-2) if empty is None else g[..., :empty, :].sum(-2) + g[..., empty, :]
    if scale is not None and cfg.scale == "before":
        found["scale"], g = (g * raw).sum((-2, -1)), g * scale
    g = through_unembed(g if empty is None else g[..., :empty, :].contiguous())
    g = through_hidden(through_scores(g) if stage == "joint" else g)
    if cfg.hidden_bias:
        found["b_hidden"] = g.sum(-2)
    g_E = product_of_each(rows.mT, through_mlp(g))
    found["W_E"] = g_E + found.pop("W_U").mT if cfg.tied and "W_U" in found else g_E
    return loss, head_loss, found


def _as_it_is(g: Tensor) -> Tensor:
    """The pull of what is not there."""
    return g


def _read(
    cfg: ToyConfig, weights: forward.Weights, found: dict[str, Tensor], hidden: Float[Tensor, "*model row hidden"]
) -> tuple[Float[Tensor, "*model row output"], Pull]:
    """What the unembed, and MLPs in front of it, make of the hidden layer; the pull puts gradients into `found`."""
    if cfg.bottleneck == "embed->mlp.in":
        return _mlp(weights, found, hidden)
    W_U, stream, pulls = weights["W_E"].mT if cfg.tied else weights["W_U"], hidden, []
    for layer in range(cfg.n_mlps if cfg.bottleneck == "residual" else 0):
        out, pull = _mlp(weights, found, stream, layer)
        stream, pulls = stream + out, [pull, *pulls]

    def back(g: Tensor) -> Tensor:
        found["W_U"], g = product_of_each(stream.mT, g), product_of_each(g, W_U.mT)
        for pull in pulls:
            g = g + pull(g)
        return g

    return product_of_each(stream, W_U), back


def _mlp(
    weights: forward.Weights, found: dict[str, Tensor], x: Float[Tensor, "*model row d"], layer: int = 0
) -> tuple[Float[Tensor, "*model row d_out"], Pull]:
    """What an MLP makes of what it reads; the pull puts the gradients in its weights into `found`."""
    into, outof = in_block(layer, W_IN), in_block(layer, W_OUT)
    post, through = _activated(product_of_each(x, weights[into]), "relu")

    def back(g: Tensor) -> Tensor:
        found[outof], g = product_of_each(post.mT, g), through(product_of_each(g, weights[outof].mT))
        found[into] = product_of_each(x.mT, g)
        return product_of_each(g, weights[into].mT)

    return product_of_each(post, weights[outof]), back


def _heads(
    recipe: Recipe,
    weights: forward.Weights,
    found: dict[str, Tensor],
    x: Float[Tensor, "*model batch pos feature"],
    hidden: Float[Tensor, "*model row hidden"],
    stage: Stage,
) -> tuple[Float[Tensor, "*model head"], Pull]:
    """Losses of the heads; the pull puts the gradients in their weights into `found`, and adds that in what they read.

    Their scores are few, and go through autograd.
    """
    tokens = hidden.unflatten(-2, x.shape[-3:-1])
    read = {W_Q: tokens[..., :1, :].flatten(-3, -2), W_K: tokens[..., 1:, :].flatten(-3, -2)}
    into = {name: weights[name].transpose(-3, -2).flatten(-2) for name in read}  # hidden, head and d
    made = {name: product_of_each(rows, into[name]) for name, rows in read.items()}
    biases = {W_Q: B_Q, W_K: B_K} if recipe.cfg.head_bias else {}
    for name, bias in biases.items():
        made[name] = made[name] + weights[bias].flatten(-2)[..., None, :]
    leaves = [rows.detach().requires_grad_() for rows in made.values()]
    q, k = (rows.unflatten(-2, (x.shape[-3], -1)).unflatten(-1, weights[W_Q].shape[-3::2]) for rows in leaves)
    scores = torch.nn.functional.pad((q * k).sum(-1).mT, (1, 0))[..., None, :]
    cost = losses.qk_error if recipe.head_objective == "scores" else losses.qk_cross_entropy
    head_loss = cost(scores, losses.qk_pairs_present(x, recipe.qk_pairs))

    def back(g: Tensor) -> Tensor:
        weight = torch.full_like(head_loss, recipe.setting.qk_weight if stage == "joint" else 1.0)
        pulls = []
        for name, pull in zip(read, torch.autograd.grad(head_loss, leaves, weight), strict=True):
            found[name] = product_of_each(read[name].mT, pull).unflatten(-1, weights[name].shape[-3::2])
            found[name] = found[name].transpose(-3, -2)
            if biases:
                found[biases[name]] = pull.sum(-2).unflatten(-1, weights[name].shape[-3::2])
            pulls.append(product_of_each(pull, into[name].mT).unflatten(-2, (x.shape[-3], -1)))
        return g + torch.cat(pulls, dim=-2).flatten(-3, -2)

    return head_loss.detach(), back


def _normed(w: Float[Tensor, "*model a b"], hidden: int) -> tuple[Float[Tensor, "*model a b"], Pull]:
    """Directions of norm 1, as `torch.nn.functional.normalize` makes them, and the pull."""
    norm = w.norm(dim=hidden, keepdim=True)
    safe = norm.clamp_min(SMALLEST)

    def back(g: Tensor) -> Tensor:
        along = torch.where(norm >= SMALLEST, (-g * ((w / safe) / safe)).sum(hidden, keepdim=True), 0)
        return g / safe + torch.where(norm == 0, 0, w * (along / norm))

    return w / safe, back


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
    if act == "gelu":
        return _of_each(torch.nn.functional.gelu, x), lambda g: _of_each(torch.ops.aten.gelu_backward, g, x)
    return _pulled(lambda z: forward.activation(z, act), callable(act), x)


def _of_each(function: Callable[..., Tensor], *stacks: Float[Tensor, "*model row d"]) -> Float[Tensor, "*model row d"]:
    """A function of each model of stacks, which rounds an entry by where in memory it stands; or of one model."""
    if stacks[0].ndim == 2:
        return function(*map(aligned, stacks))
    return torch.stack(list(map(function, *map(apart, stacks))))


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
