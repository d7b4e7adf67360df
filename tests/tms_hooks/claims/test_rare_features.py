"""Claims of `tms_hooks.claims.rare_features`, each in a world where it holds and in one where it is false."""

import numpy as np
import torch
from worlds import outcomes_of, random_directions, ring

from tms_hooks.claims import rare_features


def test_importance_and_frequency():
    outcomes = outcomes_of("importance-and-frequency")
    pentagon, digons = ring(5, 5), ring(4, 5).roll(1, dims=1)  # the first feature is zero

    def world(turn: float, steep: float = 1.0) -> tuple[torch.Tensor, np.ndarray]:
        """Both shapes at every factor; the pentagon costs less up to one of them."""
        gain = steep * np.log(turn / rare_features.FACTORS)
        one = np.concatenate([np.exp(-gain / 2)[:, None].repeat(8, 1), np.exp(gain / 2)[:, None].repeat(8, 1)], axis=1)
        W = torch.cat([pentagon[:8], digons[:8]])[[i // 2 + 8 * (i % 2) for i in range(16)]]
        return W.repeat(4, 1, 1).expand(11, 64, 5, 2), one[:, [i // 2 + 8 * (i % 2) for i in range(16)]].repeat(
            4, axis=0
        ).reshape(11, 64)

    def judge(rare, linear=0 * digons):
        return rare_features.judge_factor({0.05: rare, 0.02: world(2.5), 0.1: world(2.5)}, rare, linear)

    found = judge(world(2.5))
    assert set(outcomes(found).values()) == {"supported"}
    np.testing.assert_allclose(found.controls["factor at p = 0.05"], 2.5, rtol=1e-6)
    assert outcomes(judge(world(1.2)))["about 2.5"] == "refuted"  # too early
    assert outcomes(judge(world(6)))["about 2.5"] == "refuted"  # too late
    never = outcomes(judge(world(99)))
    assert set(never.values()) == {"refuted", "supported"}
    assert (never["about 2.5"], never["crossing"], never["sparser point at zero"]) == ("refuted",) * 3
    assert outcomes(judge(world(2.5), linear=digons))["sparser point at zero"] == "does not distinguish"


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
