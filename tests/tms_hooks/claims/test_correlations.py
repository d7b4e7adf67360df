"""Claims of `tms_hooks.claims.correlations`, each in a world where it holds and in one where it is false."""

from math import pi

import numpy as np
import torch
from worlds import MODELS, UNDECIDED, outcome_of, outcomes_of, random_directions, ring

from tms_hooks.claims import correlations

RIGHT_ANGLES, OPPOSITE = [0, 1, 2, 3], [0, 2, 1, 3]
"""Order of a square's corners in which features 0 and 1, and 2 and 3, are at right angles, or opposite."""


def test_correlated_orthogonal():
    outcome = outcome_of("correlated-orthogonal")
    square = ring(4, 4)

    def judge(W, independent=square[:, OPPOSITE]):
        kinds = {"correlated": W, "independent": independent, "anticorrelated": square[:, OPPOSITE]}
        return correlations.judge_angle("correlated", kinds, np.linspace(1, 2, len(W)), {"untrained": 0.1 * square})

    found = judge(square[:, RIGHT_ANGLES])
    assert outcome(found) == "supported"
    assert found.controls["anticorrelated"] == 0
    assert outcome(judge(square[:, OPPOSITE])) == "refuted"
    assert outcome(judge(random_directions(square))) == "refuted"
    assert outcome(judge(torch.cat([square[:14], square[14:, OPPOSITE]]))) in UNDECIDED  # 70 %, chance is 67 %
    assert outcome(judge(square, independent=square)) == "does not distinguish"
    three = square.clone()
    three[:, 3] = 0
    assert outcome(judge(three)) == "refuted"  # a feature not learned


def test_anticorrelated_antipodal():
    outcome = outcome_of("anticorrelated-antipodal")
    square = ring(4, 4)

    def judge(W):
        losses = np.where(np.arange(len(W)) < 10, 1.0, 3.0)
        kinds = {"correlated": square, "independent": square, "anticorrelated": W}
        return correlations.judge_angle("anticorrelated", kinds, losses, {})

    assert outcome(judge(square[:, OPPOSITE])) == "supported"
    assert outcome(judge(square[:, RIGHT_ANGLES])) == "refuted"
    assert outcome(judge(random_directions(square))) == "refuted"
    half = judge(torch.cat([square[:10, OPPOSITE], square[10:]]))
    assert half.controls["tenth of lowest loss"] == 1
    np.testing.assert_allclose(half.controls["mean loss of the others"], 3)


def test_correlated_collapse():
    outcomes = outcomes_of("correlated-collapse")

    def pairs(within: float) -> torch.Tensor:
        """Three pairs a third of a turn apart, each `within` degrees wide."""
        angle = 2 * pi / 3 * torch.arange(6).div(2, rounding_mode="floor")
        angle = angle + torch.tensor([-0.5, 0.5] * 3) * within * pi / 180
        return torch.stack([angle.cos(), angle.sin()], dim=1).expand(MODELS, 6, 2).clone()

    some = torch.cat([pairs(1)[:, :2], pairs(60)[:, 2:]], dim=1)  # one pair collapsed
    most = torch.cat([pairs(1)[:, :4], pairs(60)[:, 4:]], dim=1)
    right = {0.6: 0.7 * pairs(1), 0.18: most, 0.1: some, 0.02: pairs(60)}

    def judge(trained):
        independent = {p: random_directions(trained[p]) for p in (0.6, 0.02)}
        return outcomes(correlations.judge_collapse(trained, dict.fromkeys(trained, 0), independent))

    assert set(judge(right).values()) == {"supported"}
    assert judge(right | {0.6: pairs(60)})["PCA"] == "refuted"  # never collapsed
    assert judge(right | {0.18: some, 0.1: most})["progressively"] == "refuted"  # up and down
    together = judge(right | {0.02: pairs(1)})
    assert (together["hexagon"], together["side by side"]) == ("refuted", "supported")
    wrong = judge(right | {0.02: pairs(120)})  # the wrong neighbors
    assert (wrong["hexagon"], wrong["side by side"]) == ("refuted", "refuted")
    assert judge(right | {0.6: 0 * pairs(1)})["PCA"] == "refuted"  # nothing learned
