"""Claims about softmax read-outs in worlds where they hold and where they are false."""

from math import pi

import numpy as np
import torch
from worlds import MODELS, outcome_of

from tms_hooks.claims import softmax
from tms_hooks.claims.softmax import Tied


def spokes(norms: list[float], models: int = MODELS) -> torch.Tensor:
    """Features evenly in all directions with these norms, each model turned another way."""
    turns = torch.arange(models)[:, None] + 2 * pi / len(norms) * torch.arange(len(norms))
    return torch.stack([turns.cos(), turns.sin()], dim=-1) * torch.tensor(norms)[:, None]


def test_softmax_circle():
    outcome = outcome_of("softmax-circle")
    circle = spokes([3.0] * 8 + [0.0] * 2)
    crowded = circle[:, [0, 0, 2, 3, 4, 5, 6, 7, 8, 9]]
    everything = spokes([3.0] * 10)
    spiral = spokes([0.3 * i for i in range(10)])
    shared = spokes([0.7] * 5)[:, torch.arange(10) % 5]

    def judge(trained, mse=shared):
        return softmax.judge_circle({10: trained}, {10: mse}, {"untrained": {10: spiral}})

    found = judge(circle)
    assert (outcome(found), found.statistic) == ("supported", 1.0)
    assert found.controls["features at zero, n = 10"] == 2
    assert found.controls["circle and zero, untrained"] == 0
    np.testing.assert_allclose(found.controls["radius, n = 10"], 3.0, rtol=1e-6)
    assert outcome(judge(everything)) == "refuted"  # nothing is left at zero
    assert judge(everything).controls["all on one circle, n = 10"] == 1
    assert outcome(judge(spiral)) == "refuted"
    assert outcome(judge(crowded)) == "refuted"  # two on one ray
    assert outcome(judge(circle, everything)) == "refuted"  # and none under MSE
    assert outcome(judge(0 * circle)) == "refuted"


def test_softmax_bias_concentric():
    outcome = outcome_of("softmax-bias-concentric")
    norms = [4.0] * 6 + [2.0] * 6
    W = spokes(norms)[:, [0, 2, 4, 6, 8, 10, 0, 2, 4, 6, 8, 10]]  # every other direction ...
    W[:, 6:] /= 2  # ... twice
    middle = -W.square().sum(-1) / 2

    def judge(W, bias, unbiased=None):
        models = {12: Tied(W, bias)}
        return softmax.judge_concentric(models, {12: Tied(W, 0 * bias)} if unbiased is None else unbiased, models)

    found = judge(W, middle)
    assert (outcome(found), found.statistic) == ("supported", 1.0)
    assert found.controls["pairs on one ray, n = 12"] == 6 * MODELS
    assert found.controls["of them allowed, n = 12"] == 1
    assert found.controls["told apart, trained without bias, n = 12"] == 0
    assert found.controls["told apart, biases set to zero, n = 12"] == 0
    assert found.controls["told apart, biases shuffled, n = 12"] < 0.2
    np.testing.assert_allclose(found.controls["slope of bias on squared norm, n = 12"], -0.5, rtol=1e-5)
    assert outcome(judge(W, -middle)) == "refuted"  # larger biases outside
    assert judge(W, -middle).controls["of them allowed, n = 12"] == 0
    assert outcome(judge(W, 0.1 * middle)) == "refuted"  # in order, but too weak to tell the features on a ray apart
    one = spokes([4.0] * 12)
    assert outcome(judge(one, torch.zeros(MODELS, 12))) == "refuted"  # all told apart, but on one circle
    spiral = spokes([1.0 + 0.2 * i for i in range(12)])
    assert outcome(judge(spiral, -spiral.square().sum(-1) / 2)) == "refuted"  # no gaps: no circles


def test_circles_are_counted_from_inside():
    W = spokes([4.0, 0.0, 2.0, 4.1, 1.9, 0.1], models=1)[0]
    assert softmax.circles(W) == [[4, 2], [0, 3]]
    assert softmax.circles(0 * W) == []
