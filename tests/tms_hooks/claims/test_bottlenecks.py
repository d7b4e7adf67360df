"""Claims of `tms_hooks.claims.bottlenecks`, each in a world where it holds and in one where it is false."""

import numpy as np
import torch
from worlds import MODELS, random_directions, ring

from tms_hooks.claims import bottlenecks
from tms_hooks.geometry.polytopes import ideal_polytopes


def test_pentagon_one_hot():
    def shared(directions: int, features: int) -> torch.Tensor:
        W = ring(directions, features)
        return W[:, torch.arange(features) % directions] * (directions / features) ** 0.5

    def judge(W):
        losses = {n: np.ones(MODELS) for n in W}
        return bottlenecks.judge_directions(W, losses, {"untrained": {n: 0 * w for n, w in W.items()}})

    right = {n: shared(5, n) for n in (5, 20)}
    assert judge(right).verdict == "supported"
    assert judge(right).controls["untrained"] == 0
    assert judge(right | {20: shared(8, 20)}).verdict == "refuted"
    assert judge({n: random_directions(W, n) for n, W in right.items() if n > 5}).verdict == "refuted"


def test_relu_degenerate_gelu_not():
    crowded, single = ring(5, 10)[:, torch.arange(10) % 5] * 0.6, ring(5, 10)
    slow, fast = np.full(MODELS, 300.0), np.full(MODELS, 100.0)

    def judge(relu, gelu, relu_steps=slow, gelu_steps=fast):
        return bottlenecks.judge_degeneracy({"relu": relu, "gelu": gelu}, {"relu": relu_steps, "gelu": gelu_steps})

    assert judge(crowded, single).verdict == "supported"
    assert judge(single, crowded).verdict == "refuted"
    assert judge(crowded, single, fast, slow).verdict == "refuted"
    assert judge(random_directions(crowded), single).verdict == "supported"  # ten random ones do share within 5 degrees
    assert judge(0 * crowded, 0 * single).verdict == "refuted"


def test_nine_in_three_d():
    def solid(vertices: int, features: int) -> torch.Tensor:
        W = torch.zeros(2 * MODELS, features, 3)
        W[:, :vertices] = next(V for V in ideal_polytopes(vertices).values() if V.shape[1] == 3).float()
        return W

    nine, eight, few = {10: solid(9, 10)}, {10: solid(8, 10)}, {10: solid(6, 10)}
    assert bottlenecks.judge_nine(nine, few, few).verdict == "supported"
    assert bottlenecks.judge_nine(nine | {12: solid(6, 12)}, few, few).verdict == "refuted"  # one n is enough
    assert bottlenecks.judge_nine(eight, few, few).verdict == "refuted"
