"""Claims of `tms_hooks.claims.bottlenecks`, each part in a world where it holds and in one where it is false."""

import numpy as np
import pytest
import torch
from worlds import MODELS, outcomes_of, random_directions, ring

from tms_hooks.claims import bottlenecks
from tms_hooks.claims.lab import Trained
from tms_hooks.geometry.polytopes import ideal_polytopes

SOLIDS = {
    6: "octahedron",
    7: "pentagonal bipyramid",
    8: "square antiprism",
    9: "tricapped triangular prism",
}
LOSS = np.linspace(0.8, 0.9, MODELS)


def shared(directions: int, features: int) -> torch.Tensor:
    W = ring(directions, directions)
    return W[:, torch.arange(features) % directions] * (directions / features) ** 0.5


def test_pentagon_one_hot():
    outcomes = outcomes_of("pentagon-one-hot")
    five, eight = ({n: Trained(shared(k, n), LOSS) for n in (5, 8, 12, 20, 40)} for k in (5, 8))

    def judge(source, usual):
        few = {n: models for n, models in usual.items() if n < 40}
        start = {n: random_directions(W, n) for n, (W, _) in usual.items()}
        return bottlenecks.judge_directions(source, few, start, start[40])

    found = judge(five[40], five)
    assert outcomes(found) == {"pentagon": "supported", "fewer features": "supported"}
    assert found.parts["pentagon"].optimum == 1
    assert (found.controls["d of the least sum, as printed"], found.controls["d of the least sum / d"]) == (3, 5)
    assert outcomes(judge(eight[40], five))["pentagon"] == "refuted"
    assert outcomes(judge(five[40], five | {n: eight[n] for n in (8, 12, 20)}))["fewer features"] == "refuted"
    one_better = Trained(torch.cat([eight[40].W[:1], five[40].W[1:]]), LOSS)
    assert judge(one_better, five).parts["pentagon"].optimum == 0  # most have five, and the best has not


def test_relu_degenerate_gelu_not():
    outcomes = outcomes_of("relu-degenerate-gelu-not")
    crowded, single = ring(5, 10)[:, torch.arange(10) % 5] * 0.6, ring(5, 10)
    slow, fast = np.full(MODELS, 300.0), np.full(MODELS, 100.0)

    def judge(relu, gelu, relu_steps=slow, gelu_steps=fast):
        steps = {"relu": relu_steps, "gelu": gelu_steps}
        W = {"relu": relu, "gelu": gelu}
        return bottlenecks.judge_degeneracy(W, steps, {"Adam": steps}, random_directions(relu), W)

    assert set(outcomes(judge(crowded, single)).values()) == {"supported"}
    found = outcomes(judge(single, crowded, fast, slow))
    assert set(found.values()) == {"refuted"}
    assert outcomes(judge(single, single))["one per direction"] == "does not distinguish"  # ReLU does it as well
    assert outcomes(judge(0 * crowded, 0 * single))["degenerate"] == "not measurable"


def test_crowding_by_hand():
    W = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 0.05]]])  # two share a direction, one is not learned
    assert bottlenecks.crowded(W) == pytest.approx([2 / 3])


def test_nine_in_three_d():
    outcomes = outcomes_of("nine-in-three-d")

    def solid(vertices: int, features: int, models: int = 2 * MODELS) -> torch.Tensor:
        W = torch.zeros(models, features, 3)
        W[:, :vertices] = ideal_polytopes(vertices)[SOLIDS[vertices]].float()
        return W

    def trained(W):
        return Trained(W, np.linspace(0.3, 0.4, len(W)))

    def judge(relu, gelu, few=None):
        few = {n: trained(solid(9, n) if few is None else few) for n in (10, 12)}
        start = {n: random_directions(solid(6, n, models=10)) for n in (8, 10, 12, 40)}
        return bottlenecks.judge_nine(trained(relu), few, {n: trained(gelu) for n in (8, 10, 40)}, start, relu)

    mixed = torch.cat([solid(8, 40, models=14), solid(7, 40, models=6)])
    assert outcomes(judge(solid(9, 40), mixed)) == dict.fromkeys(
        ("nine", "variety", "antiprism or dipyramid", "few features"), "supported"
    )
    one_shape = outcomes(judge(solid(9, 40), solid(9, 40, models=20)))
    assert one_shape["variety"] == "refuted"
    assert one_shape["antiprism or dipyramid"] == "refuted"
    assert outcomes(judge(solid(8, 40), mixed))["nine"] == "refuted"
    assert outcomes(judge(solid(9, 40), mixed, few=solid(8, 12)))["few features"] == "refuted"
