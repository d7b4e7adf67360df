"""Ways between solutions, and how wide the basin around one is."""

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

if TYPE_CHECKING:
    from tms_hooks.models.toy import ToyModel
    from tms_hooks.training.optimizers import Optimizer


def linear_path(
    a: Weights,
    b: Weights,
    cfg: ToyConfig,
    data: Distribution,
    points: int = 21,
    via: Weights | None = None,
    importance: Float[Tensor, " feature"] | None = None,
) -> Float[Tensor, " point"]:
    """Exact loss on the straight way from one solution to the other, or on the curve bent towards `via`.

    Tied models: `b` is first rotated onto `a`, as no loss sees the difference. The curve is the quadratic Bezier curve
    (1-t)^2 a + 2t(1-t) via + t^2 b (Garipov et al. 2018); without `via` its middle is halfway, a straight line.
    """
    start, end = _laid_over(a, b, cfg)
    middle = via or {name: (start[name] + end[name]) / 2 for name in start}
    times = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
    return torch.stack([exact_loss(_bezier(start, middle, end, t), cfg, data, importance).detach() for t in times])


def loss_plane(
    center: Weights,
    first: Weights,
    second: Weights,
    cfg: ToyConfig,
    data: Distribution,
    steps: Sequence[float],
    importance: Float[Tensor, " feature"] | None = None,
) -> Float[Tensor, "second first"]:
    """Exact loss at `center + s first + t second` for all s and t of `steps`: the plane spanned by two directions.

    Args:
        center: weights, such as a `CriticalPoint`'s.
        first, second: directions; weights that one lacks stay.
        steps: in units of the directions' own length; rows of the result are steps along `second`.
    """

    def at(s: float, t: float) -> dict[str, Tensor]:
        return {name: w + s * first.get(name, 0 * w) + t * second.get(name, 0 * w) for name, w in center.items()}

    rows = [[exact_loss(at(s, t), cfg, data, importance).detach() for s in steps] for t in steps]
    return torch.stack([torch.stack(row) for row in rows])


def bend_path(
    a: Weights, b: Weights, cfg: ToyConfig, data: Distribution, points: int = 7, steps: int = 20
) -> dict[str, Tensor]:
    """The middle of a Bezier curve between two solutions, of least mean loss along it: the `via` of `linear_path`.

    A barrier that stays although the path may bend separates the two; one that goes was the straight line's.
    """
    start, end = _laid_over(a, b, cfg)
    middle = {name: ((start[name] + end[name]) / 2).requires_grad_() for name in start}
    times = [(i + 0.5) / points for i in range(points)]
    solver = torch.optim.LBFGS(list(middle.values()), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        mean = torch.stack([exact_loss(_bezier(start, middle, end, t), cfg, data) for t in times]).mean()
        mean.backward()
        return mean

    solver.step(closure)
    return {name: w.detach() for name, w in middle.items()}


def basin_shares(
    model: "ToyModel",
    data: Distribution,
    radii: Sequence[float],
    trials: int = 20,
    steps: int = 1_000,
    optimizer: "Optimizer | None" = None,
    seed: int = 0,
    tolerance: float = 0.05,
) -> pd.DataFrame:
    """How often a tied model, pushed away and trained again, comes back: perturb and retrain.

    A push has a random direction in the space of all weights and a length of `radius`. A model is back if its feature
    directions, rotated onto the given ones, are within `tolerance` of them, relative to their norm. A share of
    one says that the basin reaches that far in most directions; it can be narrow in a few.

    Returns:
        one row a radius: "share" and its 95 % interval "share_low", "share_high" (Wilson).

    Raises:
        ValueError: an untied model, whose directions are not fixed up to a rotation.
    """
    from tms_hooks.models.toy import ToyModel
    from tms_hooks.train import train

    if not model.cfg.tied:
        raise ValueError("tied=False: only a tied model's directions can be compared up to a rotation")
    g = torch.Generator().manual_seed(seed)
    home = {name: w.detach().clone() for name, w in model.named_parameters()}
    pushed = []
    for radius in radii:
        for _ in range(trials):
            push = {name: torch.randn(w.shape, generator=g) for name, w in home.items()}
            scale = radius / torch.cat([w.flatten() for w in push.values()]).norm()
            weights = {name: w + scale * push[name] for name, w in home.items()}
            pushed.append(ToyModel.from_weights(model.cfg, weights))
    run = train(
        model.cfg, data, seeds=range(seed, seed + len(pushed)), steps=steps, optimizer=optimizer, init=pushed,
        record_every=steps, progress=False,
    )  # fmt: skip
    W = home["W_E"]
    distance = torch.linalg.matrix_norm(rotate_onto(run.W_E.to(W), W.expand_as(run.W_E)) - W) / W.norm()
    back = (distance < tolerance).reshape(len(radii), trials).sum(1).tolist()
    rows = [(radius, n / trials, *wilson(n, trials)) for radius, n in zip(radii, back, strict=True)]
    return pd.DataFrame(rows, columns=["radius", "share", "share_low", "share_high"]).set_index("radius")


def _laid_over(a: Weights, b: Weights, cfg: ToyConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    start, end = ({name: w.detach().double() for name, w in weights.items()} for weights in (a, b))
    if cfg.tied and "b_hidden" not in end:
        end["W_E"] = rotate_onto(end["W_E"], start["W_E"])
    return start, end


def _bezier(a: Weights, middle: Weights, b: Weights, t: float) -> dict[str, Tensor]:
    return {name: (1 - t) ** 2 * a[name] + 2 * t * (1 - t) * middle[name] + t**2 * b[name] for name in a}
