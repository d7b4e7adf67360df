"""Claims of `tms_hooks.claims.bottlenecks`, each in a world where it holds and in one where it is false."""

import numpy as np
import torch
from worlds import MODELS, outcome_of, random_directions, ring

from tms_hooks.claims import bottlenecks
from tms_hooks.geometry.polytopes import ideal_polytopes


def test_pentagon_one_hot():
    outcome = outcome_of("pentagon-one-hot")

    def shared(directions: int, features: int) -> torch.Tensor:
        W = ring(directions, features)
        return W[:, torch.arange(features) % directions] * (directions / features) ** 0.5

    def judge(W):
        losses = {n: np.ones(MODELS) for n in W}
        return bottlenecks.judge_directions(W, losses, {"untrained": {n: 0 * w for n, w in W.items()}})

    right = {n: shared(5, n) for n in (5, 20)}
    assert outcome(judge(right)) == "supported"
    assert judge(right).controls["untrained"] == 0
    assert outcome(judge(right | {20: shared(8, 20)})) == "refuted"
    assert outcome(judge({n: random_directions(W, n) for n, W in right.items() if n > 5})) == "refuted"


def test_relu_degenerate_gelu_not():
    outcome = outcome_of("relu-degenerate-gelu-not")
    crowded, single = ring(5, 10)[:, torch.arange(10) % 5] * 0.6, ring(5, 10)
    slow, fast = np.full(MODELS, 300.0), np.full(MODELS, 100.0)

    def judge(relu, gelu, relu_steps=slow, gelu_steps=fast):
        return bottlenecks.judge_degeneracy({"relu": relu, "gelu": gelu}, {"relu": relu_steps, "gelu": gelu_steps})

    assert outcome(judge(crowded, single)) == "supported"
    assert outcome(judge(single, crowded)) == "refuted"
    assert outcome(judge(crowded, single, fast, slow)) == "refuted"
    assert outcome(judge(random_directions(crowded), single)) == "supported"  # ten random ones share within 5 degrees
    assert outcome(judge(0 * crowded, 0 * single)) == "refuted"


def test_nine_in_three_d():
    outcome = outcome_of("nine-in-three-d")

    def solid(vertices: int, features: int) -> torch.Tensor:
        W = torch.zeros(2 * MODELS, features, 3)
        W[:, :vertices] = next(V for V in ideal_polytopes(vertices).values() if V.shape[1] == 3).float()
        return W

    nine, eight, few = {10: solid(9, 10)}, {10: solid(8, 10)}, {10: solid(6, 10)}
    assert outcome(bottlenecks.judge_nine(nine, few, few)) == "supported"
    assert outcome(bottlenecks.judge_nine(nine | {12: solid(6, 12)}, few, few)) == "refuted"  # one n is enough
    assert outcome(bottlenecks.judge_nine(eight, few, few)) == "refuted"
