"""Claims of `tms_hooks.claims.toy_models`, each in a world where it holds and in one where it is false."""

import numpy as np
import torch
from worlds import MODELS, outcomes_of, random_directions, ring

from tms_hooks.claims import toy_models


def test_superposition_emerges():
    outcomes = outcomes_of("superposition-emerges")
    two = ring(4, 5)
    two[:, 2:] = 0
    right = {1.0: two, 0.2: ring(4, 5), 0.1: ring(5, 5)}

    def judge(trained, linear=dict.fromkeys(right, two)):  # noqa: B008
        return outcomes(toy_models.judge_emergence(trained, dict.fromkeys(trained, 0), linear, 0 * two))

    assert set(judge(right).values()) == {"supported"}
    assert judge(dict.fromkeys(right, two)) == {  # a linear model, at every density
        "dense": "supported",
        "antipodal pairs": "refuted",
        "pentagon": "refuted",
    }
    assert set(judge({p: random_directions(W) for p, W in right.items()}).values()) == {"refuted"}
    assert judge(right, linear=right)["pentagon"] == "does not distinguish"


def test_cosine_misleads():
    outcomes = outcomes_of("cosine-misleads")
    roomy = torch.eye(8).expand(MODELS, 8, 8)
    crowded = random_directions(torch.ones(MODELS, 8, 2))

    def judge(W, sparse=crowded):
        return outcomes(toy_models.judge_cosines(W, roomy, {"p = 0.01": (sparse, 0.01)}))

    found = judge(crowded)
    assert (found["false alarms"], found["positive dot products"]) == ("supported", "supported")
    none = judge(roomy, sparse=roomy)
    assert set(none.values()) == {"refuted"}  # no superposition: not even random directions' share of positive pairs
    nothing = judge(0 * crowded, sparse=0 * crowded)
    assert (nothing["false alarms"], nothing["positive dot products"]) == ("not measurable", "not measurable")


def test_a_dimension_per_feature_raises_no_false_alarm():
    assert not toy_models.false_alarms(torch.eye(8)[None], 0.1).any()
    together = torch.ones(1, 8, 2)  # all on one ray: whatever is active has the cosine of the example
    np.testing.assert_allclose(toy_models.false_alarms(together, 0.1), 1)
