"""The claim of `tms_hooks.claims.data_regimes`, in a world where it holds and in worlds where it is false."""

import numpy as np
import torch
from worlds import MODELS, outcomes_of, ring

from tms_hooks.claims.data_regimes import POINTS, WIDE_POINTS, Regime, judge_regimes


def test_data_regimes():
    outcomes = outcomes_of("data-regimes")
    rng = np.random.default_rng(0)

    def regime(features: int, corners: int, error: float, points: int = 5) -> Regime:
        W = ring(corners, 40)
        W[:, corners:features] = W[:, :1]
        return Regime(W, ring(points, 5), error + 0.01 * rng.random(MODELS))

    worlds = ((9, 7, 0.9), (20, 12, 1.0), (30, 20, 1.2), (20, 12, 0.95), (9, 6, 0.9), (6, 5, 0.85))
    right = {n: regime(*world) for n, world in zip(POINTS, worlds, strict=True)}
    errors = (0.9, 1.0, 1.2, 0.95, 0.85)
    wide = {n: regime(9, 7, error) for n, error in zip(WIDE_POINTS, errors, strict=True)}
    untrained = 0.1 * ring(5, 5)

    def judge(found, null=untrained, many=wide):
        return outcomes(judge_regimes(found, null, many))

    assert set(judge(right).values()) == {"supported"}
    assert judge(right, null=ring(5, 5))["memorizing"] == "does not distinguish"
    assert judge(right | {5: regime(9, 7, 0.9, points=3)})["memorizing"] == "refuted"
    assert judge(right | {16: regime(5, 5, 1.0)})["more when there are few"] == "refuted"
    assert (
        judge({n: r._replace(unseen=1 / n + 0.01 * rng.random(MODELS)) for n, r in right.items()})["double descent"]
        == "refuted"
    )  # ever more data, ever less error
    level = {n: r._replace(unseen=1 - n / 10_000 + 0 * r.unseen) for n, r in wide.items()}
    assert judge(right, many=level)["a thousand features"] == "refuted"
    assert judge(right | {4_096: regime(12, 6, 0.85)})["pentagon"] == "refuted"
    assert torch.equal(right[5].W[0, 7], right[5].W[0, 0])
