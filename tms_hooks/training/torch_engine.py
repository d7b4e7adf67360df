"""The reference engine: plain torch on stacked weights, with gradients by hand; `device` has it for other devices.

Model `i` gets the same bits whoever is stacked beside it. That holds because the loss is summed over models and
nothing is shared between them; because optimizers' rules are single elementwise operations, whose results do not
depend on where in memory an entry stands; and because on the CPU matrix products are made model by model
(`models/forward.py`) on one thread.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import repeat
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks import losses, tasks
from tms_hooks.models import forward
from tms_hooks.training import batches, by_hand
from tms_hooks.training.optimizers import Optimizer
from tms_hooks.training.penalties import PenaltyLike, stacked, with_gradients
from tms_hooks.training.recipe import Recipe, Stage
from tms_hooks.training.state import Losses, Measurement, State

Part = TypeVar("Part")
LossesAt = Callable[[Recipe, forward.Weights, int], Losses]
"""Losses of stacked models of one setting at a step, which can be differentiated."""
SMALLEST = 1e-12
"""Norms below it are taken for it, as in `torch.nn.functional.normalize`: a direction of norm 0 is pulled nowhere."""


def obstacle(recipe: Recipe, device: str) -> str | None:
    """Why not, as `Engine.obstacle`; this engine trains all that is sampled."""
    if device != "cpu":
        return f"device={device!r}: it runs on the CPU only"
    return "batch_size='exact': it draws its batches" if recipe.batch_size == "exact" else None


def advance(recipe: Recipe, state: State, start: int, stop: int) -> Measurement:
    """As `Engine.advance`."""
    return descend(recipe, state, start, stop)


def descend(recipe: Recipe, state: State, start: int, stop: int, losses_at: LossesAt | None = None) -> Measurement:
    """`Engine.advance` down the losses of batches, or down others; models of one setting are stacked."""
    return in_parts(state, recipe.parts, lambda part, models: _descend(part, models, start, stop, losses_at))


def in_parts(
    state: State, parts: Sequence[tuple[list[int], Part]], work: Callable[[Part, State], Measurement]
) -> Measurement:
    """Do work on the state of each part, whose models are given by their numbers, and put it together again."""
    models = [i for some, _ in parts for i in some]
    if len(parts) == 1 and models == sorted(models):
        return work(parts[0][1], state)
    states = [state.of(models) for models, _ in parts]
    measured = [work(part, own) for (_, part), own in zip(parts, states, strict=True)]
    order = torch.tensor(models, device=state.diverged_at.device).argsort()
    state.join(states, order)
    return Measurement(*(torch.cat(columns)[order] for columns in zip(*measured, strict=True)))


def _descend(recipe: Recipe, state: State, start: int, stop: int, losses_at: LossesAt | None) -> Measurement:
    """`descend` for models of one setting."""
    stage, count, _ = recipe.stage_at(start)
    if count == 0:
        state.moments = {}
    device = state.diverged_at.device
    with one_thread(device):
        training, steps = Training(state, trained_names(state.weights, stage)), range(start, max(stop, start + 1))
        drawn = repeat(None) if losses_at else batches.ahead(recipe, start, steps.stop, device)
        for step, x in zip(steps, drawn, strict=False):
            parts, total, gradients = _gradients(recipe, training.weights, step, stage, x, losses_at, step == start)
            if step == start:
                assert parts is not None
                measured = measurement(recipe, parts, gradients)
            if step < stop:
                training.update(recipe, gradients, total, step)
    if start < stop:
        training.keep_in(state)
    return measured


def evaluate(recipe: Recipe, weights: forward.Weights, x: Float[Tensor, "batch *pos feature"]) -> Losses:
    """As `Engine.evaluate`; one model at a time, because the batch may be a large one."""
    with torch.no_grad(), one_thread(x.device):
        each = [
            loss_parts(recipe, {name: w[i : i + 1] for name, w in weights.items()}, x[None])
            for i in range(len(weights["W_E"]))
        ]
    return torch.cat([feature for feature, _ in each]), torch.cat([head for _, head in each])


def loss_parts(recipe: Recipe, weights: forward.Weights, x: Float[Tensor, "model batch *pos feature"]) -> Losses:
    """Loss of each feature and of each head, means over a batch. Without heads the second has no columns.

    Feature `i` costs `I_i (target_i - out_i)^2`, whose sum is the loss of Elhage et al. 2022, or, of a softmax,
    the cross-entropy `-I_i target_i log out_i` in nats, or what a `losses.Loss` says.
    """
    cfg = recipe.cfg
    importance = _constant(recipe.importance, x.dtype, x.device)
    rows = x.flatten(1, 2) if cfg.n_heads else x
    hidden, logits, out = forward.reconstruct(weights, rows, cfg)
    target = tasks.targets(recipe.task, rows)
    if isinstance(recipe.loss, losses.Loss):
        feature_loss = importance * losses.costs(recipe.loss, out, target).mean(-2)
    elif recipe.loss == "mse":
        feature_loss = importance * (out - target).square().mean(-2)
    else:
        feature_loss = -importance * (target * logits.log_softmax(-1)).mean(-2)
    if not cfg.n_heads:
        return feature_loss, feature_loss.new_zeros(len(x), 0)
    scores = forward.attention_scores(weights, hidden.unflatten(1, x.shape[1:3]), queries=1)
    head_loss = losses.qk_error if recipe.head_objective == "scores" else losses.qk_cross_entropy
    return feature_loss, head_loss(scores, losses.qk_pairs_present(x, recipe.qk_pairs))


def objective(recipe: Recipe, parts: Losses, stage: Stage = "joint") -> Float[Tensor, " model"]:
    """What a stage minimizes: L1, L2, or L1 + lambda L2."""
    l1, l2 = (part.sum(-1) for part in parts)
    given = recipe.qk_weight
    weight = _constant(given, l2.dtype, l2.device) if isinstance(given, tuple) else given
    return {"representation": l1, "heads": l2, "joint": l1 + weight * l2}[stage]


@lru_cache(maxsize=64)
def _constant(numbers: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A setting as a tensor, which is read and never written to: of one for all models, or of one per model."""
    return torch.tensor(numbers, dtype=dtype, device=device)


def trained_names(weights: Iterable[str], stage: Stage) -> list[str]:
    """Parameters that a stage trains: those of the heads, or the representation, which is everything else."""
    return [name for name in weights if stage == "joint" or (name in forward.HEADS) == (stage == "heads")]


def sampled_losses(recipe: Recipe, weights: forward.Weights, x: Float[Tensor, "model batch *pos feature"]) -> Losses:
    """Losses on a batch, and on the empty row where only others are drawn."""
    feature_loss, head_loss = loss_parts(recipe, weights, x)
    if recipe.empty_rows == "exact":
        _, share = batches.rows(recipe)
        empty_loss, _ = loss_parts(recipe, weights, torch.zeros_like(x[:, :1]))
        feature_loss = share * feature_loss + (1 - share) * empty_loss
    return feature_loss, head_loss


def _gradients(
    recipe: Recipe,
    weights: forward.Weights,
    step: int,
    stage: Stage,
    x: Tensor | None,
    losses_at: LossesAt | None = None,
    asked: bool = True,
) -> tuple[Losses | None, Float[Tensor, " model"] | None, dict[str, Tensor]]:
    """Losses at a step, what the stage minimizes, and its gradients in what the stage trains.

    What is not asked for is None where it is known to be finite.
    """
    if x is not None:
        return penalized(recipe, weights, stage, *by_hand.loss_and_gradients(recipe, weights, x, stage, asked))
    assert losses_at is not None
    return by_autograd(recipe, weights, stage, lambda own: losses_at(recipe, own, step), recipe.setting.penalty)


def by_autograd(
    recipe: Recipe,
    weights: forward.Weights,
    stage: Stage,
    losses_of: Callable[[forward.Weights], Losses],
    penalty: PenaltyLike | None = None,
) -> tuple[Losses, Float[Tensor, " model"], dict[str, Tensor]]:
    """Losses, what the stage minimizes, and its gradients in what it trains."""
    names = trained_names(weights, stage)
    weights = {name: w.detach().requires_grad_(name in names) for name, w in weights.items()}
    feature_loss, head_loss = losses_of(weights)
    total = objective(recipe, (feature_loss, head_loss), stage)
    if penalty is not None:
        total = total + stacked(penalty, weights)
    found = torch.autograd.grad(total.sum(), [weights[name] for name in names])
    return (feature_loss.detach(), head_loss.detach()), total.detach(), dict(zip(names, found, strict=True))


def penalized(
    recipe: Recipe, weights: forward.Weights, stage: Stage, parts: Losses | None, gradients: dict[str, Tensor]
) -> tuple[Losses | None, Float[Tensor, " model"] | None, dict[str, Tensor]]:
    """Losses as they are, with what the stage minimizes and its gradients: those of the losses and of the penalty."""
    total, penalty = None if parts is None else objective(recipe, parts, stage), recipe.penalty
    if penalty is not None:
        assert not isinstance(penalty, tuple)  # it is the same for all models that are trained together
        cost, slopes = with_gradients(penalty, weights)
        total = cost if total is None else total + cost
        gradients |= {name: gradients[name] + slope for name, slope in slopes.items() if name in gradients}
    return parts, total, gradients


def measurement(recipe: Recipe, parts: Losses, gradients: dict[str, Tensor]) -> Measurement:
    """What to remember of a step, from its losses and the gradients of the parameters that it trains."""
    (feature_loss, head_loss), cfg = parts, recipe.cfg
    square = feature_loss.new_zeros(len(feature_loss), cfg.n_features)
    for name, hidden in {"W_E": -1, "W_U": -2}.items():
        if name in gradients and (name == "W_E" or cfg.n_outputs == cfg.n_features):
            square = square + gradients[name].square().sum(hidden)
    return Measurement(feature_loss, square.sqrt(), head_loss)


class Training:
    """Models of one setting in training. What is trained lies in one line, so that a rule is called once per update.

    Rules are elementwise: they give an entry the same bits wherever it lies.
    """

    def __init__(self, state: State, names: list[str]) -> None:
        trained = {name: state.weights[name] for name in names}
        self.line = _line(trained)
        self.moments = [
            _line({name: state.moments.get(f"{kind}.{name}", torch.zeros_like(w)) for name, w in trained.items()})
            for kind in ("first", "second")
        ]
        self.trained = _views(self.line, trained)
        self.weights = state.weights | self.trained
        self.diverged_at = state.diverged_at
        self.all_go = state.diverged_at.device.type == "cpu" and bool((state.diverged_at < 0).all())

    def update(self, recipe: Recipe, gradients: dict[str, Tensor], loss: Tensor | None, step: int) -> None:
        """One update of every model; one whose loss or next weights are not finite stays where it is, for good."""
        _, count, steps = recipe.stage_at(step)
        optimizer = recipe.setting.optimizer
        lr = optimizer.learning_rate(count, steps)
        shrinks = bool(optimizer.decay or optimizer.pull)
        pairs = {name: optimizer.kept(name, lr) for name in self.trained} if shrinks else {}
        kept = {name: pair for name, pair in pairs.items() if pair != (1, 0)}
        w, *moments = self.next(optimizer, gradients, kept, optimizer.scalars(count, lr))
        # One number that is finite says that all are; what is not is looked for only then.
        if not math.isfinite((w.sum() if loss is None else loss.sum() + w.sum()).item()):
            self.diverged_at = self.diverged(w, loss, step)
            self.all_go = False
        if not self.all_go:
            w, *moments = self.of_the_going(w, moments)
        self.moments = moments
        self.line.copy_(w)

    def next(
        self,
        optimizer: Optimizer,
        gradients: dict[str, Tensor],
        kept: Mapping[str, tuple[Any, Any]],
        scalars: Sequence[Any],
    ) -> Sequence[Tensor]:
        """What the rule makes of the line and its moments; numbers may be tensors. `kept` is by parameter."""
        line, like = self.line, self.trained
        if kept:
            line = _line({name: _kept(w, name, kept[name]) if name in kept else w for name, w in like.items()})
        gradient = _line({name: gradients[name] for name in like})
        made: Sequence[Tensor] = optimizer.rule(line, gradient, *self.moments, *scalars)
        return made

    def diverged(self, w: Tensor, loss: Tensor | None, step: int | Int64[Tensor, ""]) -> Int64[Tensor, " model"]:
        """`State.diverged_at` after an update to the line `w`."""
        every = torch.cat([part.reshape(len(part), -1) for part in _views(w, self.trained).values()], dim=1)
        finite = every.isfinite().all(-1) if loss is None else loss.isfinite() & every.isfinite().all(-1)
        return torch.where(~finite & (self.diverged_at < 0), step, self.diverged_at)

    def of_the_going(self, w: Tensor, moments: Iterable[Tensor]) -> Iterator[Tensor]:
        """The next line and moments, but where models have diverged the line of now and moments of 0."""
        pairs = ((w, self.line), *((m, torch.zeros_like(m)) for m in moments))
        return (self._of_the_going(*pair) for pair in pairs)

    def _of_the_going(self, new: Tensor, old: Tensor) -> Tensor:
        """A line with what is new of models that have not diverged, and what is old of the others."""
        going = self.diverged_at < 0
        both = zip(_views(new, self.trained).values(), _views(old, self.trained).values(), strict=True)
        return torch.cat([torch.where(going.view(-1, *[1] * (a.ndim - 1)), a, b).reshape(-1) for a, b in both])

    def views(self, line: Tensor) -> dict[str, Tensor]:
        """The tensors of a line, by the names of what is trained."""
        return _views(line, self.trained)

    def keep_in(self, state: State) -> None:
        """Put new tensors in the place of the state's old ones."""
        state.weights.update({name: w.clone() for name, w in self.trained.items()})
        for kind, line in zip(("first", "second"), self.moments, strict=True):
            state.moments |= {f"{kind}.{name}": m.clone() for name, m in _views(line, self.trained).items()}
        state.diverged_at = self.diverged_at


def _line(tensors: dict[str, Tensor]) -> Tensor:
    """All entries in one line, tensor by tensor."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


def _views(line: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a line: inverse of `_line`."""
    parts = line.split([tensor.numel() for tensor in like.values()])
    return {name: part.view(like[name].shape) for name, part in zip(like, parts, strict=True)}


def _kept(w: Tensor, name: str, kept: tuple[Any, Any]) -> Tensor:
    """What is left of a parameter before an update; see `Optimizer.kept`. No sum here depends on a place in memory."""
    share, pull = kept
    if isinstance(pull, float) and pull == 0:  # a tensor is not asked
        return w * share
    hidden = -2 if name == "W_U" else -1
    norm = sum((column.square() for column in w.unbind(hidden)), start=w.new_zeros(())).sqrt().clamp(min=SMALLEST)
    return w * (share + norm.reciprocal().unsqueeze(hidden) * pull)


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On the CPU, one thread: with more, a sum may be split by how many models there are."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
