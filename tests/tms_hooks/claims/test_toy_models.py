"""Claims of `tms_hooks.claims.toy_models`, each in a world where it holds and in one where it is false."""

from math import pi

import numpy as np
from worlds import UNDECIDED, outcome_of, random_directions, ring

from tms_hooks.claims import toy_models


def test_superposition_emerges():
    outcome = outcome_of("superposition-emerges")
    two = ring(4, 5)
    two[:, 2:] = 0
    right = {1.0: two, 0.3: ring(4, 5), 0.1: ring(5, 5), 0.05: ring(5, 5)}

    def judge(trained):
        return toy_models.judge_emergence(trained, dict.fromkeys(right, two), dict.fromkeys(right, 0 * two))

    found = judge(right)
    assert outcome(found) == "supported"
    assert found.controls["linear output"] == found.controls["untrained"] == 0
    assert outcome(judge(dict.fromkeys(right, two))) == "refuted"  # a linear model, at every density
    assert outcome(judge({p: random_directions(W) for p, W in right.items()})) == "refuted"
    assert outcome(judge(dict(zip(right, reversed(right.values()), strict=True)))) == "refuted"  # the wrong way round


def test_cosine_misleads():
    outcome = outcome_of("cosine-misleads")
    orthogonal = ring(4, 5)
    orthogonal[:, 2:] = 0
    found = toy_models.judge_cosines(ring(5, 5), {})
    assert outcome(found) == "supported"
    np.testing.assert_allclose(found.statistic, (np.cos(2 * pi / 5) + np.cos(pi / 5)) / 2, rtol=1e-5)  # a pentagon's
    assert outcome(toy_models.judge_cosines(orthogonal, {})) == "refuted"  # no superposition
    assert outcome(toy_models.judge_cosines(0 * orthogonal, {})) in UNDECIDED  # nothing learned
