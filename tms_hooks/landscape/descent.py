"""Training without gradient noise: the torch engine's updates, down the exact expected loss.

It is the engine of recipes with `batch_size="exact"`. The sum over all patterns of activity is made model by model in
double precision, which takes far longer than a batch: some 25 ms per update of five features, 100 ms of eight.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.landscape.exact import exact_losses, no_exact_loss
from tms_hooks.models.forward import Weights
from tms_hooks.tasks import Reconstruct
from tms_hooks.training import torch_engine
from tms_hooks.training.recipe import Recipe
from tms_hooks.training.state import Losses, Measurement, State


def obstacle(recipe: Recipe, device: str) -> str | None:
    """Why not, as `Engine.obstacle`."""
    if device != "cpu":
        return f"device={device!r} with batch_size='exact': exact sums are made on the CPU; use device='cpu'"
    if recipe.loss != "mse" or type(recipe.task) is not Reconstruct:
        return (
            f"loss={recipe.loss!r}, task={recipe.task} with batch_size='exact': exact sums are known for the squared "
            "error of Reconstruct(); leave batch_size out, or give it a number"
        )
    reasons = (no_exact_loss(recipe.cfg, setting.data) for setting in dict.fromkeys(recipe.settings))
    return next((f"batch_size='exact': {reason}" for reason in reasons if reason), None)


def advance(recipe: Recipe, state: State, start: int, stop: int) -> Measurement:
    """As `Engine.advance`."""
    return torch_engine.descend(recipe, state, start, stop, lambda recipe, weights, step: _losses(recipe, weights))


def evaluate(recipe: Recipe, weights: Weights, x: Float[Tensor, "batch *pos feature"]) -> Losses:
    """As `Engine.evaluate`, but exact: the samples are not used."""
    with torch.no_grad():
        return _losses(recipe, weights)


def _losses(recipe: Recipe, weights: Weights) -> Losses:
    """Expected loss of each feature."""
    W_E, setting = weights["W_E"], recipe.setting
    importance = torch.tensor(setting.importance, dtype=torch.float64)
    models = [{name: w[i].double() for name, w in weights.items()} for i in range(len(W_E))]
    each = [exact_losses(model, recipe.cfg, setting.data, importance) for model in models]
    return torch.stack(each).to(W_E.dtype), W_E.new_zeros(len(W_E), 0)
