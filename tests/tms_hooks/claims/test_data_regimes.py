"""The claim of `tms_hooks.claims.data_regimes`, in a world where it holds and in worlds where it is false."""

import numpy as np
import torch
from worlds import MODELS, outcomes_of, ring

from tms_hooks.claims.data_regimes import SMALL, SOURCE, Regime, judge_regimes, longest, train_regime


def test_data_regimes():
    outcomes = outcomes_of("data-regimes")
    rng = np.random.default_rng(0)

    def regime(features: int, corners: int, error: float, points: int = 3) -> Regime:
        W = ring(corners, 40)
        W[:, corners:features] = W[:, :1]
        return Regime(W, ring(points, 3), error + 0.01 * rng.random(MODELS))

    worlds = ((9, 7, 0.9), (20, 12, 1.0), (30, 20, 1.2), (20, 12, 0.95), (6, 5, 0.85))
    right, small = (dict(zip(w.steps, (regime(*world) for world in worlds), strict=True)) for w in (SOURCE, SMALL))
    untrained = 0.1 * ring(3, 3)

    def judge(found, small=small, null=untrained):
        return outcomes(judge_regimes(found, small, null))

    assert set(judge(right).values()) == {"supported"}
    assert judge(right, null=ring(3, 3))["memorizing"] == "does not distinguish"
    two = right[3]._replace(hidden=ring(2, 3))
    assert judge(right | {3: two})["memorizing"] == "refuted"
    assert judge(right | {30: regime(5, 5, 1.0)})["more when there are few"] == "refuted"
    assert judge(right | {30: regime(5, 5, 1.0)})["pentagon"] == "does not distinguish"
    descent = {n: r._replace(unseen=1 / n + 0.01 * rng.random(MODELS)) for n, r in right.items()}
    assert judge(descent)["double descent"] == "refuted"  # ever more data, ever less error
    level = {n: r._replace(unseen=1 - n / 10_000 + 0 * r.unseen) for n, r in small.items()}
    assert judge(right, level)["double descent, n = 64"] == "refuted"
    found = judge(right | {3_000: regime(12, 6, 0.85)})
    assert (found["pentagon"], found["pentagon, n = 64"]) == ("refuted", "supported")


def test_models_keep_their_points_as_there_are_more():
    short = SMALL._replace(steps={5: 2})
    one, two = (train_regime(short, 5, n) for n in (1, 2))
    assert torch.equal(one.W[0], two.W[0]) and one.unseen[0] == two.unseen[0]
    assert not torch.equal(two.hidden[0], two.hidden[1])
    assert torch.equal(SMALL.data(9, 1).dataset()[:5], SMALL.data(5, 1).dataset())


def test_the_longest_features_are_drawn():
    assert longest(torch.tensor([[0.1, 0.0], [3.0, 0.0], [0.0, 2.0]]), 2).tolist() == [[3.0, 0.0], [0.0, 2.0]]
