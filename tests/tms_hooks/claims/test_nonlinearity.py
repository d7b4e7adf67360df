"""Claims of `tms_hooks.claims.nonlinearity`, each in a world where it holds and in one where it is false."""

from itertools import combinations

import numpy as np
import torch
from worlds import MODELS, outcomes_of, random_directions, ring

from tms_hooks.claims import nonlinearity
from tms_hooks.data import SparseUniform


def test_relu_filters_interference():
    outcomes = outcomes_of("relu-filters-interference")
    x = SparseUniform(n_features=4, feature_probability=0.05).sample(4_096, seed=0)
    square, none = ring(4, 4), torch.zeros(MODELS, 4)

    at_random = nonlinearity.readouts(random_directions(square), none, x)

    def judge(W, b=none, null=at_random):
        found = nonlinearity.readouts(W, b, x)
        return nonlinearity.judge_filter(found, null, {}, nonlinearity.added_to_absent(W, x))

    found = judge(square)  # all interference is negative
    assert outcomes(found)["cleans up noise"] == "supported"
    assert found.controls["share of interference that is negative"] > 0.999
    np.testing.assert_allclose(found.controls["removed of negative interference"], 1)
    positive = judge(square.abs())  # all interference is positive
    assert set(outcomes(positive).values()) == {"refuted"}
    cut = judge(0.9 * ring(5, 5)[:, :4], none - 0.3)  # a pentagon, whose bias cuts what is positive
    assert set(outcomes(cut).values()) == {"supported"}
    same = nonlinearity.readouts(square, none, x)
    assert outcomes(judge(square, null=same))["cleans up noise"] == "does not distinguish"
    assert outcomes(judge(square, none + 1))["cleans up noise"] == "refuted"  # a bias that ReLU never cuts
    together = judge(ring(1, 4).expand(-1, -1, 2)[:, [0, 0, 0, 0]])  # all features on one ray
    assert set(outcomes(together).values()) == {"refuted"}
    np.testing.assert_allclose(together.controls["share of interference that is negative"], 0)


def test_nonlinearity_magnifies():
    outcomes = outcomes_of("nonlinearity-magnifies")
    more = 1 + 0.1 * np.random.default_rng(0).random(MODELS)
    crowd, room = ring(5, 5), ring(4, 5) * torch.tensor([1.0, 1, 0, 0, 0])[:, None]

    def judge(ratios, relu, linear, hidden):
        models = {"ReLU output": relu, "linear output": linear, "hidden ReLU": hidden}
        return outcomes(nonlinearity.judge_magnified(ratios, models, ratios))

    assert set(judge(more, crowd, room, 2 * crowd).values()) == {"supported"}
    assert set(judge(1 / (more + 0.1), room, crowd, room).values()) == {"refuted", "at the threshold"}


def test_random_directions_interfere_with_either_sign():
    x = SparseUniform(n_features=40, feature_probability=0.02).sample(2_048, seed=0)
    W = random_directions(torch.ones(MODELS, 40, 10))
    removed = nonlinearity.readouts(W, torch.zeros(MODELS, 40), x)["removed"]
    np.testing.assert_allclose(removed.mean(), 0.5, atol=0.03)


def test_privileged_basis():
    outcomes = outcomes_of("privileged-basis")
    alone = torch.eye(5).repeat(2, 1) * torch.tensor([1.0] * 5 + [0.1] * 5)[:, None]
    pairs = torch.zeros(10, 5)
    for row, (i, j) in enumerate(combinations(range(5), 2)):  # every feature on two neurons
        pairs[row, i] = pairs[row, j] = 0.8
    alone, pairs = alone.repeat(MODELS, 1, 1), pairs.repeat(MODELS, 1, 1)
    turns = torch.linalg.qr(torch.randn(MODELS, 5, 5, generator=torch.Generator().manual_seed(1))).Q

    def judge(dense, middle, sparse):
        relu = {1.0: dense, 0.1: middle, 0.04: sparse}
        losses = dict.fromkeys(relu, np.linspace(1, 2, MODELS))
        return nonlinearity.judge_basis(relu, losses, {p: W @ turns for p, W in relu.items()})

    found = judge(alone, pairs, pairs)
    assert outcomes(found) == {
        "dedicated neurons": "supported",
        "structured": "supported",
        "monosemantic to polysemantic": "supported",
        "one neuron each": "refuted",  # pairs are no single neurons
    }
    assert found.parts["structured"].statistic > 0.999
    assert "p = 0.04: 2, 2, 2" in found.detail
    turned = outcomes(judge(alone @ turns, pairs @ turns, pairs @ turns))
    assert turned["dedicated neurons"] == "refuted"
    assert turned["structured"] != "supported"
    assert outcomes(judge(pairs, pairs, alone))["monosemantic to polysemantic"] == "refuted"  # the wrong way round
    assert outcomes(judge(alone, 0 * pairs, pairs))["structured"] == "not measurable"  # nothing learned


def test_the_nearest_code_of_a_direction():
    rows = torch.tensor([[1.0, 0, 0], [0.5**0.5, -(0.5**0.5), 0], [-(3**-0.5)] * 3])
    torch.testing.assert_close(nonlinearity.nearest_code(rows).amax(-1), torch.ones(3))
    assert nonlinearity.code_sizes(rows) == [1, 2, 3]
