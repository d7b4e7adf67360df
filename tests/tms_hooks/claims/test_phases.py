"""Claims of `tms_hooks.claims.phases`, each in a world where it holds and in one where it is false."""

import numpy as np
import torch
from worlds import MODELS, outcome_of, random_directions

from tms_hooks.claims import phases


def axes(learned: int, features: int = 6, hidden: int = 2) -> torch.Tensor:
    """The first features on axes of their own, further ones along them the other way."""
    W = torch.zeros(MODELS, features, hidden)
    for i in range(learned):
        W[:, i, i % hidden] = 1 if i < hidden else -1
    return W


def test_superposition_wide():
    outcome = outcome_of("superposition-wide")
    right = {1.0: axes(2), 0.1: axes(3), 0.01: axes(4)}
    linear = dict.fromkeys(right, axes(2))

    def judge(relu, linear=linear):
        return phases.judge_rise(relu, linear, 0.1 * axes(2))

    found = judge(right)
    assert outcome(found) == "supported"
    assert found.controls["untrained"] == 0
    assert outcome(judge(linear)) == "refuted"  # the ReLU models do as linear ones
    assert outcome(judge(right | {0.01: axes(2)})) == "refuted"  # up and down again
    assert outcome(judge(right, right)) == "refuted"  # linear models superpose
    assert outcome(judge(right, {p: W.roll(1, dims=1) for p, W in linear.items()})) == "refuted"  # not the first two
    assert outcome(judge(right, {p: random_directions(W) for p, W in linear.items()})) == "refuted"  # not orthogonal


def test_phase_change():
    outcome = outcome_of("phase-change")
    density, importance = np.geomspace(0.01, 1, 13), np.geomspace(0.1, 10, 13)
    right = {n: phases.theory_diagram(n, density, importance)[0] for n in (2, 3)}

    def judge(trained):
        return phases.judge_phases(trained, np.full((13, 13), "first ignored"), density, importance)

    found = judge(right)
    assert (outcome(found), found.statistic, found.theory) == ("supported", 1.0, 1.0)
    assert found.controls["shuffled"] < 0.7
    rng = np.random.default_rng(0)
    assert (
        outcome(judge({n: rng.permutation(names.ravel()).reshape(13, 13) for n, names in right.items()})) == "refuted"
    )
    assert outcome(judge({n: names[::-1] for n, names in right.items()})) == "refuted"  # importance the wrong way round
    assert outcome(judge(right | {3: np.full((13, 13), "antipodal")})) == "refuted"  # one diagram is enough


def test_arrangements_have_the_names_of_theory():
    def named(rows):
        return phases.arrangement(torch.tensor(rows))

    assert named([[1.0], [-1.0]]) == "antipodal"
    assert named([[1.0], [0.1]]) == "extra ignored"
    assert named([[0.1], [1.0]]) == "first ignored"
    assert named([[0.1], [0.1]]) == "neither"
    assert named([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]) == "others antipodal"
    assert named([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) == "antipodal"
