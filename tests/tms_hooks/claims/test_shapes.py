"""The claim of `tms_hooks.claims.shapes`, in a world where it holds and in ones where it is false."""

import numpy as np
import torch
from worlds import MODELS, outcome_of

from tms_hooks.claims.shapes import judge_shapes

DIMENSIONS = (2, 3, 4, 6, 8)


def sphere(directions: int, d_hidden: int, features: int) -> torch.Tensor:
    """That many directions, features in turn on each."""
    generator = torch.Generator().manual_seed(directions)
    V = torch.nn.functional.normalize(torch.randn(MODELS, directions, d_hidden, generator=generator), dim=-1)
    return V[:, torch.arange(features) % directions]


def orthoplex(d_hidden: int, features: int) -> torch.Tensor:
    """A tegum product of antipodal pairs: two directions per dimension."""
    V = torch.cat([torch.eye(d_hidden), -torch.eye(d_hidden)])
    return V[torch.arange(features) % len(V)].expand(MODELS, -1, -1)


def test_shape_by_dimension():
    outcome = outcome_of("shape-by-dimension")
    drops = {m: np.full(MODELS, 4.2 * m / 2) for m in DIMENSIONS}

    def judge(trained):
        return judge_shapes(trained, drops, {"untrained": {m: 0.01 * w for m, w in trained.items()} | trained})

    # 0.5 m^2 + 3: few enough for random ones to be more than 5 degrees apart from m = 3 on; a square at m = 2
    right = {m: sphere(m * m // 2 + 3, m, 80) for m in DIMENSIONS if m > 2} | {2: orthoplex(2, 80)}
    assert outcome(judge(right)) == "supported"
    product = judge({m: orthoplex(m, 80) for m in DIMENSIONS})
    assert outcome(product) != "supported"
    np.testing.assert_allclose(product.statistic, 1)
    assert product.controls["directions, m = 8"] == 16
    assert outcome(judge({m: sphere(4, m, 80) for m in DIMENSIONS})) == "refuted"  # as many in any dimension
