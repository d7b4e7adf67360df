"""The claim about memorized points in worlds where it holds and where it is false."""

import numpy as np
from worlds import UNDECIDED, outcomes_of

from tms_hooks.claims import memorisation
from tms_hooks.claims.memorisation import Memory

MODELS = 10
SIZES = (24, 48, 96)  # of n = 32, m = 2: 96 parameters


def world(capacity: int, unseen: float = 0.0, spread: int = 0, n: int = 32) -> Memory:
    """Models that store as many points of a set as they can hold, and this share of unseen points."""
    errors = {}
    for size in SIZES:
        holds = capacity + spread * (np.arange(MODELS) % 2)
        seen = np.where(np.arange(size) < holds[:, None], 0.01, 0.9)
        rest = np.where(np.arange(100) < 100 * unseen, 0.01, 0.9) * np.ones((MODELS, 1))
        errors[size] = np.hstack([seen, rest])
    return Memory(n, 2, errors)


def test_memorisation():
    outcomes = outcomes_of("memorisation")

    def judge(*memories):
        return memorisation.judge_memory(list(memories), [world(18, n=8)])

    found = judge(world(80, spread=1))
    assert outcomes(found)["one per parameter"] == "supported"
    np.testing.assert_allclose(found.parts["one per parameter"].statistic, 80.5 / 96)
    np.testing.assert_allclose(found.controls["numbers per parameter, n = 32, m = 2"], 32 * 80.5 / 96)
    np.testing.assert_allclose(found.controls["points per hidden dimension, n = 32, m = 2"], 40.25)
    assert outcomes(found)["not by parameters"] == "refuted"  # four times the parameters, four times the points
    alike = outcomes(judge(world(20, spread=1)))
    assert (alike["one per parameter"], alike["not by parameters"]) == ("refuted", "supported")
    assert outcomes(judge(world(90, unseen=0.9)))["one per parameter"] == "refuted"  # it has learned the features
    assert outcomes(judge(world(40, spread=20)))["one per parameter"] in UNDECIDED
    assert outcomes(judge(world(5), world(80)))["one per parameter"] == "supported"  # "can": one kind is enough
    assert outcomes(memorisation.judge_memory([world(5)], []))["not by parameters"] == "not measurable"


def test_a_trained_model_stores_what_it_saw():
    memory = memorisation.memorize(8, 2, 2)
    assert list(memory.errors) == [1, 2, 3, 6, 12, 24, 48]
    assert memory.parameters == 24
    assert memory.errors[1].shape == (2, 1 + memorisation.UNSEEN)
    assert memory.errors[1][:, 0].min() < 1e-6
    assert memory.errors[6][:, :6].mean() < memory.errors[6][:, 6:].mean()
