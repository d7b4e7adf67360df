"""The claim of `tms_hooks.claims.shapes`, each part in a world where it holds and in one where it is false."""

import numpy as np
import torch
from worlds import MODELS, outcomes_of

from tms_hooks.claims.lab import Trained
from tms_hooks.claims.shapes import judge_shapes

DIMENSIONS = (2, 3, 4, 6, 8, 9)


def sphere(directions: int, d_hidden: int, features: int) -> torch.Tensor:
    """That many directions, or one fewer or more, features in turn on each; in two dimensions evenly on the circle."""
    models = []
    for seed in range(MODELS):
        k = directions + seed % 3 - 1
        generator = torch.Generator().manual_seed(100 * directions + seed)
        V = torch.nn.functional.normalize(torch.randn(k, d_hidden, generator=generator), dim=-1)
        if d_hidden == 2:
            turns = 2 * torch.pi / k * torch.arange(k)
            V = torch.stack([turns.cos(), turns.sin()], dim=-1)
        models.append(V[torch.arange(features) % k])
    return torch.stack(models)


def test_shape_by_dimension():
    outcomes = outcomes_of("shape-by-dimension")

    def world(number):
        return {m: sphere(round(number(m)), m, 100) for m in DIMENSIONS}

    def judge(trained, half=None):
        loss = np.linspace(0.9, 0.95, MODELS)
        start = {m: W[:, : W.shape[1] // 2] for m, W in trained.items()}
        full = {m: Trained(W, loss) for m, W in trained.items()}
        untrained = world(lambda m: 40), world(lambda m: 20)
        return judge_shapes(full, half or trained, *untrained, {2: start[2]})

    # 0.5 m^2 + 3: few enough for random ones to be more than 5 degrees apart from m = 3 on
    found = judge(world(lambda m: m * m / 2 + 3))
    assert set(outcomes(found).values()) == {"supported"}
    assert "m = 2: " in found.detail
    product = outcomes(judge(world(lambda m: 2 * m)))
    assert product["more per dimension"] != "supported"
    assert product["no power law"] != "supported"
    assert outcomes(judge(world(lambda m: 4)))["more per dimension"] == "refuted"  # as many in any dimension
    doubled = judge(world(lambda m: m * m / 2 + 3), half=world(lambda m: m * m / 4 + 3))
    assert outcomes(doubled)["the dimension decides"] == "refuted"
