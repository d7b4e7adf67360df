"""Claims of `tms_hooks.claims.rare_features`, each in a world where it holds and in one where it is false."""

import numpy as np
import torch
from worlds import MODELS, outcome_of, random_directions, ring

from tms_hooks.claims import rare_features


def test_importance_and_frequency():
    outcome = outcome_of("importance-and-frequency")
    pentagon, digons = ring(5, 5), ring(4, 5).roll(1, dims=1)  # the first feature is zero

    def world(turn: float) -> torch.Tensor:
        return torch.stack([pentagon if factor < turn else digons for factor in rare_features.FACTORS])

    def judge(W):
        return rare_features.judge_factor(W, np.ones((len(W), MODELS)), W, {})

    found = judge(world(2.5))
    assert outcome(found) == "supported"
    np.testing.assert_allclose(found.controls["factor, rarer"], 2.5, rtol=0.13)  # half a step of the grid
    assert outcome(judge(world(1.2))) == "refuted"  # too early
    assert outcome(judge(world(6))) == "refuted"  # too late
    assert outcome(judge(world(99))) == "refuted"  # never
    shuffled = torch.randperm(11 * MODELS, generator=torch.Generator().manual_seed(0))
    assert outcome(judge(world(2.5).flatten(0, 1)[shuffled].unflatten(0, (11, MODELS)))) == "refuted"


def test_pentagons_and_digons_are_told_apart():
    digons = ring(4, 5)[:, [4, 0, 1, 2, 3]]
    digons[:, 0] = torch.tensor([0.6, 0.0])  # learned, beside one of the others
    rows = torch.stack([ring(5, 5), digons, 0.3 * ring(5, 5), random_directions(ring(5, 5))[:, [0, 0, 1, 2, 3]]])
    assert rare_features.pentagon_or_digons(rows)[:, 0].tolist() == [1, -1, 0, 0]


def test_losses_cross_where_the_cheaper_shape_changes():
    codes = np.tile([1, -1], (11, 1))
    losses = np.stack([np.full(11, 1.0), np.geomspace(2, 0.5, 11)], axis=1)
    np.testing.assert_allclose(rare_features.loss_crossing(codes, losses), 10**0.5)
    assert np.isnan(rare_features.loss_crossing(np.ones((11, 2), int), losses))
