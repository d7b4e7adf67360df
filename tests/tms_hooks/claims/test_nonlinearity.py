"""Claims of `tms_hooks.claims.nonlinearity`, each in a world where it holds and in one where it is false."""

import numpy as np
import torch
from worlds import MODELS, UNDECIDED, outcome_of, random_directions, ring

from tms_hooks.claims import nonlinearity
from tms_hooks.data import SparseUniform


def test_relu_filters_interference():
    outcome = outcome_of("relu-filters-interference")
    x = SparseUniform(n_features=4, feature_probability=0.05).sample(4_096, seed=0)
    square, none = ring(4, 4), torch.zeros(MODELS, 4)

    def judge(W, b=none):
        found = nonlinearity.readouts(W, b, x)
        return nonlinearity.judge_filter(found, {}, nonlinearity.added_to_absent(W, x))

    found = judge(square)  # all interference is negative
    assert outcome(found) == "supported"
    assert found.controls["share of interference that is negative"] > 0.999
    np.testing.assert_allclose(found.controls["removed of negative interference"], 1)
    assert outcome(judge(square.abs())) == "refuted"  # all interference is positive
    assert outcome(judge(square, none + 1)) == "refuted"  # a bias that ReLU never cuts
    together = judge(ring(1, 4).expand(-1, -1, 2)[:, [0, 0, 0, 0]])  # all features on one ray
    assert outcome(together) == "refuted"
    np.testing.assert_allclose(together.controls["share of interference that is negative"], 0)


def test_random_directions_interfere_with_either_sign():
    x = SparseUniform(n_features=40, feature_probability=0.02).sample(2_048, seed=0)
    W = random_directions(torch.ones(MODELS, 40, 10))
    removed = nonlinearity.readouts(W, torch.zeros(MODELS, 40), x)["removed"]
    np.testing.assert_allclose(removed.mean(), 0.5, atol=0.03)


def test_privileged_basis():
    outcome = outcome_of("privileged-basis")
    aligned = torch.eye(5).repeat(2, 1).repeat(MODELS, 1, 1) * torch.linspace(1, 2, 10)[:, None]
    turns = torch.linalg.qr(torch.randn(MODELS, 5, 5, generator=torch.Generator().manual_seed(1))).Q
    losses = dict.fromkeys((1.0, 0.1), np.linspace(1, 2, MODELS))

    def judge(dense, sparse):
        relu = {1.0: dense, 0.1: sparse}
        return nonlinearity.judge_basis(relu, losses, {1.0: aligned @ turns}, 0.1 * aligned @ turns)

    found = judge(aligned, aligned)
    assert outcome(found) == "supported"
    np.testing.assert_allclose(found.statistic, 1, rtol=1e-5)
    assert abs(found.controls["linear hidden layer"]) < 0.15
    assert found.controls["neurons with one feature at p = 1"] == 0  # two features per neuron
    assert outcome(judge(aligned @ turns, aligned @ turns)) == "refuted"
    assert outcome(judge(aligned, aligned @ turns)) == "refuted"  # one density is enough
    assert outcome(judge(aligned, 0 * aligned)) in UNDECIDED  # nothing learned
