"""The claim about memorized points in worlds where it holds and where it is false."""

import numpy as np
from worlds import outcome_of

from tms_hooks.claims import memorisation
from tms_hooks.claims.memorisation import Memory

MODELS = 10
SIZES = (24, 48, 96)  # of n = 32, m = 2: 96 parameters


def world(capacity: int, unseen: float = 0.0, spread: int = 0) -> Memory:
    """Models that store as many points of a set as they can hold, and this share of unseen points."""
    seen, rest = {}, {}
    for size in SIZES:
        holds = capacity + spread * (np.arange(MODELS) % 2)
        seen[size] = np.where(np.arange(size) < holds[:, None], 0.01, 0.9)
        rest[size] = np.where(np.arange(100) < 100 * unseen, 0.01, 0.9) * np.ones((MODELS, 1))
    return Memory(32, 2, seen, rest)


def test_memorisation():
    outcome = outcome_of("memorisation")

    def judge(memory):
        return memorisation.judge_memory([memory], [])

    found = judge(world(80))
    assert outcome(found) == "supported"
    np.testing.assert_allclose(found.statistic, 80 / 96)
    np.testing.assert_allclose(found.controls["numbers per parameter, n = 32, m = 2"], 32 * 80 / 96)
    np.testing.assert_allclose(found.controls["points per hidden dimension, n = 32, m = 2"], 40)
    assert outcome(judge(world(5))) == "refuted"
    assert outcome(judge(world(0))) == "refuted"
    assert outcome(judge(world(90, unseen=0.9))) == "refuted"  # it reconstructs everything: it has learned the features
    assert outcome(judge(world(40, spread=20))) == "inconclusive"
    assert outcome(memorisation.judge_memory([world(5), world(80)], [])) == "supported"  # "can": one kind is enough


def test_a_trained_model_stores_what_it_saw():
    memory = memorisation.memorize(8, 2, 2)
    assert list(memory.seen) == [1, 2, 3, 6, 12, 24, 48]
    assert memory.parameters == 24
    assert memory.seen[1].shape == (2, 1)
    assert memory.seen[1].min() < 1e-6
    assert memory.seen[6].mean() < memory.unseen[6].mean()
