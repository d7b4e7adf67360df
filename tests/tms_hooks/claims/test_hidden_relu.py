"""The claim about a ReLU in the bottleneck, each part in a world where it holds and in one where it is false."""

import numpy as np
from worlds import MODELS, outcomes_of, ring

from tms_hooks.claims.hidden_relu import Hidden, judge_hidden_relu, train_hidden


def test_relu_in_the_bottleneck():
    outcomes = outcomes_of("relu-in-the-bottleneck")

    def models(prevented: float) -> Hidden:
        spread = np.linspace(-0.1, 0.1, MODELS)
        return Hidden(prevented + spread, np.full(MODELS, 2), ring(5, 5))

    def judge(original: float, marius: float):
        both = {"identity": models(original), "relu": models(marius)}
        return judge_hidden_relu(dict.fromkeys(("tied, n = 40", "untied, n = 40"), both))

    found = outcomes(judge(4.2, 2.0))
    assert found == {"better description": "not measurable", "replication": "supported", "untied": "supported"}
    less = outcomes(judge(4.2, 4.0))
    assert (less["replication"], less["untied"]) == ("refuted", "refuted")


def test_a_relu_leaves_no_opposite_directions():
    found = train_hidden(3, 2, "relu", output_bias=False)
    assert found.prevented.max() < 2 + 1e-3  # two axes; a linear bottleneck has room for a triangle as well
    assert found.learned.max() <= 2
