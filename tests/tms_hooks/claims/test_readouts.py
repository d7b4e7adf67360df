"""The claim about measurements, each part in a world where it holds and in one where it is false."""

import torch
from worlds import outcomes_of, ring

from tms_hooks import theory
from tms_hooks.claims.readouts import certainty, confusion, error, judge_measurement, least_error
from tms_hooks.claims.untied import Directions, the_five_feature_algorithm

MODELS = 8


def arranged(long: float) -> Directions:
    """Each model written a little longer than the last."""
    models = [the_five_feature_algorithm(long + 0.1 * seed) for seed in range(MODELS)]
    return Directions(*(torch.cat(side) for side in zip(*models, strict=True)))


def test_certainty_by_hand():
    pentagon = ring(5, 5, models=1)[0]
    assert certainty(pentagon, pentagon) == 0.0  # neighbors answer 0.31
    assert certainty(pentagon[:2], theory.dual_frame(pentagon[:2])) == 1.0


def test_errors_by_hand():
    far = 100 * torch.eye(2, dtype=torch.float64)
    assert error(confusion(far, torch.eye(2, dtype=torch.float64))) < 1e-3
    same = torch.ones(2, 2, dtype=torch.float64)
    assert abs(error(confusion(same, same)) - 0.5) < 1e-6  # a tie is answered by the first
    write = torch.tensor([[1.0, 0.0], [0.2, 0.0]], dtype=torch.float64)
    assert error(least_error(write)) <= error(confusion(write, write))


def test_readout_with_certainty():
    outcomes = outcomes_of("readout-with-certainty")
    pentagon = Directions(ring(5, 5, models=MODELS), ring(5, 5, models=MODELS))
    certain = judge_measurement(arranged(12.0), pentagon, pentagon)
    assert outcomes(certain)["certainty"] == outcomes(certain)["certainty of tied readers"] == "supported"
    assert certain.controls["certainty, one-sided dual frame"] > 0.9
    vague = judge_measurement(pentagon, pentagon, pentagon)
    assert outcomes(vague)["certainty"] == outcomes(vague)["certainty of tied readers"] == "refuted"
    assert vague.parts["information"].statistic > 0.99  # of equal lengths the largest overlap is the nearest
    assert outcomes(certain)["information"] == "refuted"  # a short feature's answer drowns in the others' noise
