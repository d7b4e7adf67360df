"""Claims of `tms_hooks.claims.toy_models`, each in a world where it holds and in one where it is false."""

from math import pi

import numpy as np
from worlds import random_directions, ring

from tms_hooks.claims import toy_models


def test_superposition_emerges():
    two = ring(4, 5)
    two[:, 2:] = 0
    right = {1.0: two, 0.3: ring(4, 5), 0.1: ring(5, 5), 0.05: ring(5, 5)}

    def judge(trained):
        return toy_models.judge_emergence(trained, dict.fromkeys(right, two), dict.fromkeys(right, 0 * two))

    found = judge(right)
    assert found.verdict == "supported"
    assert found.controls["linear output"] == found.controls["untrained"] == 0
    assert judge(dict.fromkeys(right, two)).verdict == "refuted"  # a linear model, at every density
    assert judge({p: random_directions(W) for p, W in right.items()}).verdict == "refuted"
    assert judge(dict(zip(right, reversed(right.values()), strict=True))).verdict == "refuted"  # the wrong way round


def test_cosine_misleads():
    orthogonal = ring(4, 5)
    orthogonal[:, 2:] = 0
    found = toy_models.judge_cosines(ring(5, 5), {})
    assert found.verdict == "supported"
    np.testing.assert_allclose(found.statistic, (np.cos(2 * pi / 5) + np.cos(pi / 5)) / 2, rtol=1e-5)  # a pentagon's
    assert toy_models.judge_cosines(orthogonal, {}).verdict == "refuted"  # no superposition
    assert toy_models.judge_cosines(0 * orthogonal, {}).verdict == "inconclusive"  # nothing learned
