"""Gradients by hand: autograd sees only functions of the user's own, and cross-entropies.

They are those of autograd through `torch_engine.loss_parts`, and take a third of its time: a toy is small, and each of
the hundred operations that autograd keeps account of costs a few microseconds whatever its size. Features stand first
and rows last, which makes products of such narrow matrices several times faster; functions of the user's own see rows.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import losses, tasks
from tms_hooks.config import Activation, OwnActivation, ToyConfig
from tms_hooks.linalg import LINE, aligned, layer_of_each, outer_of_each, product_of_each, spaced
from tms_hooks.models import forward
from tms_hooks.models.forward import B_K, B_Q, W_IN, W_K, W_OUT, W_Q, in_block
from tms_hooks.training import batches
from tms_hooks.training.recipe import Recipe, Stage
from tms_hooks.training.state import Losses

Pull = Callable[[Tensor], Tensor]
"""Takes the gradient in what a layer gives back to what it is given."""
AS_IT_IS: Pull = lambda g: g  # noqa: E731  a name for its type
"""The pull of what is not there."""
SAFE = 1e30
"""Where costs are less in sum, no mean of them overflows."""
WHOLE = 32
"""Entries that fill whole vectors of every processor, however many of them a loop takes at once."""
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
    cfg = recipe.cfg
    widest = max(cfg.n_features, cfg.n_outputs, cfg.d_hidden, cfg.d_mlp or 0)
    few = max(batches.MOST_AHEAD // (x[0].numel() // cfg.n_features * widest), 1)  # whose layers stay in cache
    if len(x) <= few:
        return _of_few(recipe, weights, x, stage, asked)
    groups = [slice(i, i + few) for i in range(0, len(x), few)]
    each = [_of_few(recipe, {name: w[some] for name, w in weights.items()}, x[some], stage, asked) for some in groups]
    told = [parts for parts, _ in each if parts is not None]
    if told and len(told) < len(each):  # all are asked for if some are near overflow
        return loss_and_gradients(recipe, weights, x, stage)
    found = {name: torch.cat([gradients[name] for _, gradients in each]) for name in each[0][1]}
    return (torch.cat([loss for loss, _ in told]), torch.cat([loss for _, loss in told])) if told else None, found


def _of_few(
    recipe: Recipe,
    weights: Mapping[str, Tensor],
    x: Float[Tensor, "model batch *pos feature"],
    stage: Stage,
    asked: bool,
) -> tuple[Losses | None, dict[str, Tensor]]:
    """`loss_and_gradients` of models that are worked on at once."""
    cfg, k, found = recipe.cfg, len(x), dict[str, Tensor]()
    if k == 1:  # matrices take less time than stacks of one
        weights, x = {name: w[0] for name, w in weights.items()}, x[0]
    shapes, unit = {name: w.shape for name, w in weights.items()}, {"W_E": (True, "write"), "W_U": (True, "read")}
    normed = {
        name: _normed(weights[name], -1 if name == "W_E" else -2)
        for name in weights
        if cfg.unit_norm in unit.get(name, ())
    }
    weights = {**weights, **{name: w for name, (w, _) in normed.items()}}
    inputs = x.transpose(-3, -1).flatten(-2) if cfg.n_heads else x.mT  # query tokens before keys
    empty, share = None, 1.0
    if recipe.empty_rows == "exact":
        empty, share = batches.rows(recipe)
        inputs = torch.nn.functional.pad(inputs, (0, LINE - empty % LINE))
    inputs = inputs.contiguous()
    target = (
        inputs if type(recipe.task) is tasks.Reconstruct else _targets(recipe, inputs.mT.contiguous()).mT.contiguous()
    )

    hidden, through_mlp = product_of_each(weights["W_E"].mT, inputs), AS_IT_IS
    if cfg.bottleneck == "mlp.out->unembed":
        hidden, through_mlp = _mlp(weights, found, hidden)
    if cfg.hidden_bias:
        hidden = hidden + weights["b_hidden"][..., None]
    hidden, through_hidden = _activated(hidden, cfg.hidden_act)
    raw, through_unembed = _read(cfg, weights, found, hidden)
    scale = weights["scale"][..., None, None] if cfg.unit_norm else None
    logits = raw * scale if scale is not None and cfg.scale == "before" else raw
    if cfg.output_bias:
        logits = logits.add_(weights["b_U"][..., None])  # what is in its place is not asked for again
    head_loss, through_scores = inputs.new_zeros(*inputs.shape[:-2], 0), AS_IT_IS
    if cfg.n_heads:
        head_loss, through_scores = _heads(recipe, weights, found, x, hidden, stage)
        asked |= not abs(head_loss.sum().item()) < SAFE
    costs = (target, empty, share, asked)
    if recipe.loss == "cross_entropy":
        loss, g = _costs(recipe, logits, *costs)
    else:
        act, through_act = _activated(logits, cfg.output_act)
        loss, g = _costs(recipe, act * scale if scale is not None and cfg.scale == "after" else act, *costs)
        if scale is not None and cfg.scale == "after":
            found["scale"], g = (g * act).sum((-2, -1)), g * scale
        g = through_act(g)

    if stage == "heads":
        through_scores(torch.zeros_like(hidden))
        found = {name: g for name, g in found.items() if name in forward.HEADS}
    else:
        if cfg.output_bias:
            found["b_U"] = g.sum(-1)
        if scale is not None and cfg.scale == "before":
            found["scale"], g = (g * raw).sum((-2, -1)), g * scale
        g = through_unembed(g)
        g = through_hidden(through_scores(g) if stage == "joint" else g)
        if cfg.hidden_bias:
            found["b_hidden"] = g.sum(-1)
        g_E = outer_of_each(inputs, through_mlp(g))
        found["W_E"] = g_E + found.pop("W_U").mT if cfg.tied and "W_U" in found else g_E
        found |= {name: pull(found[name]) for name, (_, pull) in normed.items()}
    if k == 1:
        found = {name: g.reshape(1, *shapes[name]) for name, g in found.items()}
        return None if loss is None else (loss[None], head_loss[None]), found
    return None if loss is None else (loss, head_loss), found


def _read(
    cfg: ToyConfig, weights: forward.Weights, found: dict[str, Tensor], hidden: Float[Tensor, "*model hidden row"]
) -> tuple[Float[Tensor, "*model output row"], Pull]:
    """What the unembed, and MLPs in front of it, make of the hidden layer; the pull puts gradients into `found`."""
    if cfg.bottleneck == "embed->mlp.in":
        return _mlp(weights, found, hidden)
    W_U, stream, pulls = weights["W_E"].mT if cfg.tied else weights["W_U"], hidden, list[Pull]()
    for layer in range(cfg.n_mlps if cfg.bottleneck == "residual" else 0):
        out, pull = _mlp(weights, found, stream, layer)
        stream, pulls = stream + out, [pull, *pulls]

    logits, through = layer_of_each(W_U, stream)

    def back(g: Tensor) -> Tensor:
        found["W_U"], g = through(g)
        for pull in pulls:
            g = g + pull(g)
        return g

    return logits, back


def _mlp(
    weights: forward.Weights, found: dict[str, Tensor], x: Float[Tensor, "*model d row"], layer: int = 0
) -> tuple[Float[Tensor, "*model d_out row"], Pull]:
    """What an MLP makes of what it reads; the pull puts the gradients in its weights into `found`."""
    into, outof = in_block(layer, W_IN), in_block(layer, W_OUT)
    pre, through_in = layer_of_each(weights[into], x)
    post = pre.relu_()
    out, through_out = layer_of_each(weights[outof], post)

    def back(g: Tensor) -> Tensor:
        found[outof], g = through_out(g)
        torch.ops.aten.threshold_backward.grad_input(g, post, 0, grad_input=g)  # in place: these are the widest layers
        found[into], g = through_in(g)
        return g

    return out, back


def _heads(
    recipe: Recipe,
    weights: forward.Weights,
    found: dict[str, Tensor],
    x: Float[Tensor, "*model batch pos feature"],
    hidden: Float[Tensor, "*model hidden row"],
    stage: Stage,
) -> tuple[Float[Tensor, "*model head"], Pull]:
    """Losses of the heads; the pull puts the gradients in their weights into `found`, and adds that in what they read.

    The cross-entropy of their patterns goes through autograd.
    """
    count, split = x.shape[-3], weights[W_Q].shape[-3::2]  # heads and d_head
    read = {W_Q: hidden[..., :count], W_K: hidden[..., count:]}
    into = {name: weights[name].transpose(-3, -2).flatten(-2) for name in read}
    layers = {name: layer_of_each(into[name], part) for name, part in read.items()}
    made = {name: out for name, (out, _) in layers.items()}
    biases = {W_Q: B_Q, W_K: B_K} if recipe.cfg.head_bias else {}
    for name, bias in biases.items():
        made[name] = made[name] + weights[bias].flatten(-2)[..., None]
    q, k = (made[name].unflatten(-1, (-1, count)).unflatten(-3, split) for name in read)
    scores = (q * k).sum(-3).movedim(-1, -3).contiguous()  # row, head, key
    present = losses.qk_pairs_present(x, recipe.qk_pairs)
    weight = recipe.setting.qk_weight if stage == "joint" else 1.0
    if recipe.head_objective == "scores":
        errors = scores - present
        head_loss, slope = errors[..., 0].square().mean(-2), errors * (2 * weight / count)
    else:
        scores = torch.nn.functional.pad(scores, (1, 0))[..., None, :].requires_grad_()
        head_loss = losses.qk_cross_entropy(scores, present)
        (slope,) = torch.autograd.grad(head_loss, scores, torch.full_like(head_loss, weight))
        slope, head_loss = slope[..., 0, 1:], head_loss.detach()
    by_score = slope.movedim(-3, -1).unsqueeze(-3)  # head, one for all of d_head, key, row

    def back(g: Tensor) -> Tensor:
        pulls = {W_Q: (by_score * k).sum(-2).flatten(-3, -2), W_K: (by_score * q).flatten(-4, -3).flatten(-2)}
        slopes = {name: through(pulls[name]) for name, (_, through) in layers.items()}
        for name, (of_weights, _) in slopes.items():
            found[name] = of_weights.unflatten(-1, split).transpose(-3, -2)
        for name, bias in biases.items():
            found[bias] = pulls[name].sum(-1).unflatten(-1, split)
        return g + torch.cat([of_read for _, of_read in slopes.values()], dim=-1)

    return head_loss, back


def _normed(w: Float[Tensor, "*model a b"], hidden: int) -> tuple[Float[Tensor, "*model a b"], Pull]:
    """Directions of norm 1, as `torch.nn.functional.normalize` makes them, and the pull."""
    norm = w.norm(dim=hidden, keepdim=True)
    safe = norm.clamp_min(SMALLEST)
    directions = w / safe

    def back(g: Tensor) -> Tensor:
        along = torch.where(norm > SMALLEST, (g * directions).sum(hidden, keepdim=True), 0)
        return (g - along * directions) / safe

    return directions, back


def _targets(recipe: Recipe, x: Float[Tensor, "*model batch feature"]) -> Float[Tensor, "*model batch output"]:
    """`tasks.targets`, of one model too."""
    return tasks.targets(recipe.task, x) if x.ndim == 3 else tasks.targets(recipe.task, x[None])[0]


def _activated(x: Float[Tensor, "*model d row"], act: Activation | OwnActivation) -> tuple[Tensor, Pull]:
    """An activation, which may be put in the place of what is given, and its pull."""
    if act == "identity":
        return x, AS_IT_IS
    if act == "relu":
        after = x.relu_()
        return after, lambda g: torch.ops.aten.threshold_backward(g, after, 0)
    if act == "gelu":
        return _in_whole_vectors(torch.nn.functional.gelu, x), lambda g: _in_whole_vectors(
            torch.ops.aten.gelu_backward, g, x
        )
    after, pull = _pulled(lambda z: forward.activation(z, act), callable(act), x)
    return after.mT.contiguous(), lambda g: pull(g.mT)


def _in_whole_vectors(function: Callable[..., Tensor], *stacks: Float[Tensor, "*model d row"]) -> Tensor:
    """A function of entries that rounds those of a vector and those that are left over differently: none are."""
    shape = stacks[0].shape
    size = shape[-2] * shape[-1]
    if size % WHOLE == 0:
        return function(*(s.contiguous() for s in stacks))
    made = function(*(torch.nn.functional.pad(s.reshape(-1, size), (0, -size % WHOLE)) for s in stacks))
    return made[:, :size].reshape(shape)


def costs_of_logits(
    recipe: Recipe,
    logits: Float[Tensor, "model output row"],
    target: Float[Tensor, "model output row"],
    empty: int | None,
    share: float,
    asked: bool,
) -> tuple[Float[Tensor, "model output"] | None, Float[Tensor, "model output row"]]:
    """Loss of each output, unless it is not asked for and far from overflow, and the gradient of their sum in logits.

    Rows are as in `_costs`. What is in the place of the logits may change.

    Raises:
        ValueError: a loss of the user's own is NaN for finite outputs.
    """
    if len(logits) == 1:
        loss, g = _costs_and_pull(recipe, logits[0], target[0], empty, share, asked)
        return None if loss is None else loss[None], g[None]
    return _costs_and_pull(recipe, logits, target, empty, share, asked)


def _costs_and_pull(
    recipe: Recipe, logits: Tensor, target: Tensor, empty: int | None, share: float, asked: bool
) -> tuple[Tensor | None, Tensor]:
    act, through = _activated(logits, recipe.cfg.output_act)
    loss, g = _costs(recipe, act, target, empty, share, asked)
    return loss, through(g)


def _costs(
    recipe: Recipe,
    out: Float[Tensor, "*model output row"],
    target: Tensor,
    empty: int | None,
    share: float,
    asked: bool,
) -> tuple[Float[Tensor, "*model output"] | None, Float[Tensor, "*model output row"]]:
    """Loss of each output, and the gradient of their sum in what the loss is a function of.

    The rows stand for a share of the distribution, those from `empty` on for the rest.
    """
    loss, importance = recipe.loss, recipe.setting.importance
    each, weight, twice = _weights(importance, share, out.shape[-1], empty, out.dtype)
    if loss == "mse":
        error = out - target
        g, flat = twice * error, error.flatten()
        if not asked and torch.dot(flat, flat).item() < SAFE:
            return None, g
        cost = error.square()
    elif type(loss) is losses.Lp:
        error = out - target
        steep = _in_whole_vectors(lambda d: d.abs() ** (loss.p - 1), error)
        cost, g = steep * error.abs(), weight * (loss.p * steep * error.sign())
    elif loss == "cross_entropy":
        cost, pull = _pulled(lambda logits, target: -(target * logits.log_softmax(-1)), False, out, target)
        cost, g = cost.mT, pull(weight.mT.expand_as(cost))
    else:
        cost, pull = _pulled(loss.cost, True, out, target)
        if cost.ndim == out.ndim:
            cost, g = cost.mT, pull(weight.mT.expand_as(cost))
        else:
            g = pull(weight.mean(-2).expand_as(cost))
            cost = (cost / out.shape[-2])[..., None, :].expand_as(out)
    if not asked and abs(cost.sum().item()) < SAFE:
        return None, g
    feature_loss = each * cost[..., :empty].mean(-1)
    if empty is not None:
        feature_loss = share * feature_loss + (1 - share) * (each * cost[..., empty])
    if isinstance(loss, losses.Loss) and not feature_loss.isfinite().all():
        losses.costs(loss, *(y.mT if y.ndim == 3 else y.mT[None] for y in (out, target)))  # raises for a NaN of its own
    return feature_loss, g


@lru_cache(maxsize=64)
def _weights(
    importance: tuple[float, ...], share: float, rows: int, empty: int | None, dtype: torch.dtype
) -> tuple[Float[Tensor, " output"], Float[Tensor, "output row"], Float[Tensor, "output row"]]:
    """Importance, and what each cost weighs: alike in all rows, or in all but the empty ones, of which one counts.

    And twice that.
    """
    each = torch.tensor(importance, dtype=dtype)
    weight = (share * each / (rows if empty is None else empty))[:, None].repeat(1, rows)
    if empty is not None:
        weight[:, empty:] = 0
        weight[:, empty] = (1 - share) * each
    return each, weight, 2 * weight


def _pulled(function: Callable[..., Tensor], each: bool, *given: Float[Tensor, "*model d row"]) -> tuple[Tensor, Pull]:
    """What a function makes of the rows of a stack, or of `each` of its models as it would alone; and its pull.

    The pull takes the gradient in what the function gives, rows first, to that in what it is given first, rows last.
    """
    stacks = [spaced(y.mT) if y.ndim == 3 else aligned(y.mT) for y in given]
    leaf = stacks[0] = stacks[0].detach().requires_grad_()
    if each and leaf.ndim == 3:
        found = torch.stack([function(*parts) for parts in zip(*(y.unbind() for y in stacks), strict=True)])
    else:
        found = function(*stacks)
    return found.detach(), lambda g: torch.autograd.grad(found, leaf, g)[0].mT.contiguous()
