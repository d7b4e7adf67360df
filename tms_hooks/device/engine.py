"""Training where the host is far from the numbers, on a GPU: step by step nothing is asked of it, nothing sent."""

from typing import Any

import torch

from tms_hooks import losses, tasks
from tms_hooks.device.updates import Updates
from tms_hooks.training import batches, torch_engine
from tms_hooks.training.recipe import Recipe, Stage
from tms_hooks.training.state import Measurement, State
from tms_hooks.training.torch_engine import evaluate as evaluate


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
        state.made = (recipe, stage), [(some, updates(part, stage, state.of(some))) for some, part in stacks(recipe)]
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


def updates(recipe: Recipe, stage: Stage, state: State) -> Updates:
    """Updates of a stack: in Triton's kernels what they can do, where Triton is there."""
    if state.diverged_at.device.type == "cuda":
        try:
            from tms_hooks.device import plain
        except ImportError:
            pass
        else:
            return plain.updates(recipe, stage, state)
    return Updates(recipe, stage, state)


def _blame(recipe: Recipe, state: State, model: int, step: int) -> None:
    """Raise ValueError if a function of the user's own made a model diverge: on the CPU, where each is asked."""
    if tasks.is_own(recipe.task) or isinstance(recipe.loss, losses.Loss) or recipe.penalty is not None:
        weights = {name: w[model : model + 1].cpu() for name, w in state.weights.items()}
        torch_engine.advance(recipe.alone(model), State(weights, {}, torch.tensor([-1])), step, step)
