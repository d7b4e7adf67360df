"""Updates of a stack of models, in which nothing is asked of the device and nothing copied to it.

An update is a function of tensors that stay where they are: weights, moments, the number of the step, and a table of
what optimizer and schedule have for each step, filled before. So it can be captured in a CUDA graph and replayed.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks.device.graphs import captured
from tms_hooks.training import batches, torch_engine
from tms_hooks.training.recipe import Recipe, Stage
from tms_hooks.training.state import Losses, Measurement, State

RowsAt = Callable[[Int64[Tensor, ""]], Float[Tensor, "model batch *pos feature"]]
"""Batches of all models at a step."""
SPAN = 1024
"""Steps whose numbers are on the device at once."""


class Updates:
    """The updates of a stack, one after another: each is `update`, which is not told which one it is."""

    def __init__(self, recipe: Recipe, stage: Stage, state: State, draw: RowsAt | None = None) -> None:
        device = state.diverged_at.device
        self.recipe, self.stage, self.optimizer = recipe, stage, recipe.settings[0].optimizer
        self.training = torch_engine.Training(state, torch_engine.trained_names(state.weights, stage))
        self.draw = draw or batches.at_steps(recipe, device)
        shrinking = {name: self.optimizer.kept(name, 1.0) for name in self.training.trained}
        self.shrinking = {name: pull != 0 for name, (share, pull) in shrinking.items() if (share, pull) != (1, 0)}
        self.table = torch.zeros(SPAN, self.numbers(range(1)).shape[1], dtype=torch.float64, device=device)
        self.counters = torch.zeros(2, dtype=torch.int64, device=device)
        self.step, self.row = self.counters[0], self.counters[1:]
        self.measured: Measurement | None = None
        self.look: Callable[[], None] | None = None
        self.repeat: Callable[[int], None] | None = None
        self.captured = False
        """Whether CUDA graphs repeat the updates."""

    def advance(self, state: State, start: int, stop: int) -> Measurement:
        """As `Engine.advance`; measured apart from the updates."""
        with torch_engine.one_thread(self.step.device):
            self._load(state, start)
            if self.look is None:
                self._look()  # makes what stays
                self.look = captured(self._look, self.step.device)
            self.look()
            assert self.measured is not None
            measured = Measurement(*(found.clone() for found in self.measured))
            if start == stop:
                return measured
            if self.repeat is None:
                self.repeat = self._repeated()
                self._load(state, start)
            for first in range(start, stop, SPAN):
                numbers = self.numbers(range(first, min(first + SPAN, stop)))
                self.table[: len(numbers)].copy_(numbers)
                self.row.fill_(-1)
                self.repeat(len(numbers))
        self.training.keep_in(state)
        state.diverged_at = state.diverged_at.clone()
        return measured

    def _repeated(self) -> Callable[[int], None]:
        """So many updates."""
        once = captured(self.update, self.step.device)
        self.captured = once != self.update

        def repeat(steps: int) -> None:
            for _ in range(steps):
                once()

        return repeat

    def update(self) -> None:
        """One update of every model; those that have diverged stay where they are."""
        self.row.add_(1)
        training, numbers = self.training, iter(self.table.index_select(0, self.row)[0].unbind())
        pairs = {name: (next(numbers), next(numbers)) for name in self.shrinking}
        kept = {name: (share, pull if self.shrinking[name] else 0.0) for name, (share, pull) in pairs.items()}
        _, loss, gradients = self._gradients()
        w, *moments = training.next(self.optimizer, gradients, kept, list(numbers))
        training.diverged_at.copy_(training.diverged(w, loss, self.step))
        lines = (training.line, *training.moments)
        for line, new in zip(lines, list(training.of_the_going(w, moments)), strict=True):
            line.copy_(new)
        self.step.add_(1)

    def _gradients(self) -> tuple[Losses | None, Tensor | None, dict[str, Tensor]]:
        """Losses on the batch of `step`, what the stage minimizes, and its gradients."""
        recipe, weights, x = self.recipe, self.training.weights, self.draw(self.step)
        parts, _, gradients = torch_engine.by_autograd(
            recipe, weights, self.stage, lambda leaves: torch_engine.sampled_losses(recipe, leaves, x)
        )
        return torch_engine.penalized(recipe, weights, self.stage, parts, gradients)

    def numbers(self, steps: range) -> Float[Tensor, "step number"]:
        """What the optimizer has for each step: how parameters shrink, then the scalars of its rule."""
        return torch.tensor([self._numbers(step) for step in steps], dtype=torch.float64)

    def _numbers(self, step: int) -> list[float]:
        _, count, steps = self.recipe.stage_at(step)
        lr = self.optimizer.learning_rate(count, steps)
        kept = [number for name in self.shrinking for number in self.optimizer.kept(name, lr)]
        return [*kept, *self.optimizer.scalars(count, lr)]

    def _look(self) -> None:
        """Measure losses and gradients on the batch of `step`."""
        parts, _, gradients = self._gradients()
        assert parts is not None
        found = torch_engine.measurement(self.recipe, parts, gradients)
        if self.measured is None:
            self.measured = Measurement(*map(torch.empty_like, found))
        for place, new in zip(self.measured, found, strict=True):
            place.copy_(new)

    def _load(self, state: State, step: int) -> None:
        """Put a state, and the number of its step, into the tensors that stay where they are."""
        self.step.fill_(step)
        for name, w in self.training.weights.items():
            w.copy_(state.weights[name])
        for kind, line in zip(("first", "second"), self.training.moments, strict=True):
            for name, moment in self.training.views(line).items():
                moment.copy_(state.moments.get(f"{kind}.{name}", torch.zeros_like(moment)))
        self.training.diverged_at.copy_(state.diverged_at)
