"""What lies around a solution: the loss on a plane through it, and how wide its basin is.

The Hessian of a minimum says how steep its walls are and not how far they reach. A plane shows the loss itself, in two
chosen directions. The basin is measured by experiment: push the model away in random directions, train again, and count
how often it comes back, for several lengths of the push.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.config import ToyConfig
from tms_hooks.data import Distribution
from tms_hooks.geometry import rotate_onto
from tms_hooks.landscape.exact import Weights, exact_loss
from tms_hooks.stats import wilson
from tms_hooks.train import train
from tms_hooks.training.optimizers import Optimizer

if TYPE_CHECKING:
    from tms_hooks.models.toy import ToyModel

BACK = 0.05
"""A model is back if its feature directions are this near to the given ones, relative to their norm."""


def loss_plane(
    center: Weights, first: Weights, second: Weights, cfg: ToyConfig, data: Distribution, steps: Sequence[float]
) -> Float[Tensor, "second first"]:
    """Exact loss at `center + s first + t second` for all s and t of `steps`: the plane spanned by two directions.

    Args:
        center: weights, such as a `CriticalPoint`'s.
        first, second: directions; weights that one lacks stay.
        steps: in units of the directions' own length; rows of the result are steps along `second`.
    """

    def at(s: float, t: float) -> dict[str, Tensor]:
        return {name: w + s * first.get(name, 0 * w) + t * second.get(name, 0 * w) for name, w in center.items()}

    rows = [[exact_loss(at(s, t), cfg, data).detach() for s in steps] for t in steps]
    return torch.stack([torch.stack(row) for row in rows])


def basin_shares(
    model: "ToyModel",
    data: Distribution,
    radii: Sequence[float],
    trials: int = 20,
    steps: int = 1_000,
    optimizer: Optimizer | None = None,
) -> pd.DataFrame:
    """How often a tied model, pushed away and trained again, comes back.

    A push has a random direction in the space of all weights and a length of `radius`. Models are compared after their
    best rotation onto the given one. A share of one says that the basin reaches that far in most directions; it can be
    narrow in a few.

    Args:
        radii: lengths of a push, in weight space.
        trials: pushes per radius.
        steps, optimizer: of the training after the push.

    Returns:
        one row per radius: "share" and its 95 % interval "share_low", "share_high" (Wilson).

    Raises:
        ValueError: an untied model, whose directions are not fixed up to a rotation.
    """
    from tms_hooks.models.toy import ToyModel  # imports TransformerLens, which takes seconds

    if not model.cfg.tied:
        raise ValueError("tied=False: only a tied model's directions can be compared up to a rotation")
    g = torch.Generator().manual_seed(0)
    home = {name: w.detach().clone() for name, w in model.named_parameters()}
    pushed = []
    for radius in radii:
        for _ in range(trials):
            push = {name: torch.randn(w.shape, generator=g, dtype=torch.float32) for name, w in home.items()}
            scale = radius / torch.cat([w.flatten() for w in push.values()]).norm()
            weights = {name: w + scale * push[name] for name, w in home.items()}
            pushed.append(ToyModel.from_weights(model.cfg, weights))
    run = train(
        model.cfg, data, seeds=range(len(pushed)), steps=steps, optimizer=optimizer, init=pushed,
        record_every=steps, progress=False,
    )  # fmt: skip
    W = home["W_E"]
    distance = torch.linalg.matrix_norm(rotate_onto(run.W_E.to(W), W.expand_as(run.W_E)) - W) / W.norm()
    back = (distance < BACK).reshape(len(radii), trials).sum(1).tolist()
    rows = [(radius, n / trials, *wilson(n, trials)) for radius, n in zip(radii, back, strict=True)]
    return pd.DataFrame(rows, columns=["radius", "share", "share_low", "share_high"]).set_index("radius")
