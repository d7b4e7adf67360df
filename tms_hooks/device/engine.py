"""Training where the host is far from the numbers, on a GPU: nothing is asked of it step by step, nothing sent to it.

An update is a function of tensors that stay where they are: weights, moments, the number of the step, and a table of
what optimizer and schedule have for each step, filled before. So it can be captured in a CUDA graph and replayed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tms_hooks import losses, tasks
from tms_hooks.device.graphs import captured
from tms_hooks.training import batches, torch_engine
from tms_hooks.training.recipe import Recipe, Stage
from tms_hooks.training.state import Losses, Measurement, State
from tms_hooks.training.torch_engine import evaluate as evaluate

SPAN = 1024
"""Steps whose numbers are on the device at once."""


def obstacle(recipe: Recipe, device: str) -> str | None:
    """Why not, as `Engine.obstacle`: only a device that is not there."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        return f"device={device!r} is not on this machine ({str(error).splitlines()[0]}); use device='cpu'"
    return None


def advance(recipe: Recipe, state: State, start: int, stop: int) -> Measurement:
    """As `Engine.advance`. Nothing of one model reaches another, but what is one product is rounded as one."""
    stage, count, _ = recipe.stage_at(start)
    if state.made is None or state.made[0] != (recipe, stage):
        state.made = (recipe, stage), [(some, Updates(part, stage, state.of(some))) for some, part in stacks(recipe)]
    if count == 0:
        state.moments = {}
    before = state.diverged_at
    measured = torch_engine.in_parts(state, state.made[1], lambda updates, own: updates.advance(own, start, stop))
    for model, (was, now) in enumerate(zip(before.tolist(), state.diverged_at.tolist(), strict=True)):
        if was < 0 <= now:
            _blame(recipe, state, model, now)
    return measured


def stacks(recipe: Recipe) -> list[tuple[list[int], Recipe]]:
    """Numbers and recipe of models that are one product: their data may differ, and what multiplies their losses."""

    def alike(part: tuple[list[int], Recipe]) -> Any:
        _, own = part
        drawn = own.empty_rows == "drawn" and batches.whole_dataset(own) is None
        return own.optimizer, own.penalty, None if drawn else own.setting

    if len(recipe.parts) == 1:
        return recipe.parts
    together: dict[Any, list[int]] = {}
    for part in recipe.parts:
        together.setdefault(alike(part), []).extend(part[0])
    return [(some, recipe.alone(*some)) for some in together.values()]


class Updates:
    """The updates of a stack, one after another: each is `update`, which is not told which one it is."""

    def __init__(self, recipe: Recipe, stage: Stage, state: State) -> None:
        device = state.diverged_at.device
        self.recipe, self.stage, self.optimizer = recipe, stage, recipe.settings[0].optimizer
        self.training = torch_engine.Training(state, torch_engine.trained_names(state.weights, stage))
        self.draw = batches.at_steps(recipe, device)
        shrinking = {name: self.optimizer.kept(name, 1.0) for name in self.training.trained}
        self.shrinking = {name: pull != 0 for name, (share, pull) in shrinking.items() if (share, pull) != (1, 0)}
        self.table = torch.zeros(SPAN, len(self._numbers(0)), dtype=torch.float64, device=device)
        self.row, self.step = (torch.zeros(shape, dtype=torch.int64, device=device) for shape in (1, ()))
        self.repeat: Callable[[], None] | None = None

    def advance(self, state: State, start: int, stop: int) -> Measurement:
        """As `Engine.advance`; measured apart from the updates."""
        with torch_engine.one_thread(self.row.device):
            self._load(state)
            self.step.fill_(start)
            parts, _, gradients = self._gradients()
            assert parts is not None
            measured = torch_engine.measurement(self.recipe, parts, gradients)
            if start == stop:
                return measured
            if self.repeat is None:
                self.repeat = captured(self.update, self.row.device)
                self._load(state)
                self.step.fill_(start)
            for first in range(start, stop, SPAN):
                rows = [self._numbers(step) for step in range(first, min(first + SPAN, stop))]
                self.table[: len(rows)].copy_(torch.tensor(rows, dtype=torch.float64))
                self.row.zero_()
                for _ in rows:
                    self.repeat()
        self.training.keep_in(state)
        state.diverged_at = state.diverged_at.clone()
        return measured

    @property
    def captured(self) -> bool:
        """Whether a CUDA graph repeats the update."""
        return self.repeat not in (None, self.update)

    def update(self) -> None:
        """One update of every model; those that have diverged stay where they are."""
        training, numbers = self.training, iter(self.table.index_select(0, self.row)[0].unbind())
        pairs = {name: (next(numbers), next(numbers)) for name in self.shrinking}
        kept = {name: (share, pull if self.shrinking[name] else 0.0) for name, (share, pull) in pairs.items()}
        _, loss, gradients = self._gradients()
        w, *moments = training.next(self.optimizer, gradients, kept, list(numbers))
        training.diverged_at.copy_(training.diverged(w, loss, self.step))
        lines = (training.line, *training.moments)
        for line, new in zip(lines, list(training.of_the_going(w, moments)), strict=True):
            line.copy_(new)
        self.row.add_(1)
        self.step.add_(1)

    def _gradients(self) -> tuple[Losses | None, Tensor | None, dict[str, Tensor]]:
        """Losses on the batch of `step`, what the stage minimizes, and its gradients."""
        recipe, weights, x = self.recipe, self.training.weights, self.draw(self.step)
        parts, _, gradients = torch_engine.by_autograd(
            recipe, weights, self.stage, lambda leaves: torch_engine.sampled_losses(recipe, leaves, x)
        )
        return torch_engine.penalized(recipe, weights, self.stage, parts, gradients)

    def _numbers(self, step: int) -> list[float]:
        """What the optimizer has for a step: how parameters shrink, then the scalars of its rule."""
        _, count, steps = self.recipe.stage_at(step)
        lr = self.optimizer.learning_rate(count, steps)
        kept = [number for name in self.shrinking for number in self.optimizer.kept(name, lr)]
        return [*kept, *self.optimizer.scalars(count, lr)]

    def _load(self, state: State) -> None:
        """Put a state into the tensors that stay where they are."""
        for name, w in self.training.weights.items():
            w.copy_(state.weights[name])
        for kind, line in zip(("first", "second"), self.training.moments, strict=True):
            for name, moment in self.training.views(line).items():
                moment.copy_(state.moments.get(f"{kind}.{name}", torch.zeros_like(moment)))
        self.training.diverged_at.copy_(state.diverged_at)


def _blame(recipe: Recipe, state: State, model: int, step: int) -> None:
    """Raise ValueError if a function of the user's own made a model diverge: on the CPU, where each is asked."""
    if tasks.is_own(recipe.task) or isinstance(recipe.loss, losses.Loss) or recipe.penalty is not None:
        weights = {name: w[model : model + 1].cpu() for name, w in state.weights.items()}
        torch_engine.advance(recipe.alone(model), State(weights, {}, torch.tensor([-1])), step, step)
