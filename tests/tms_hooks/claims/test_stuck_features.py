"""Claims of `tms_hooks.claims.stuck_features`, each in a world where it holds and in one where it is false."""

import numpy as np
import pandas as pd
import torch
from worlds import MODELS, outcomes_of

from tms_hooks import ToyConfig
from tms_hooks.claims import stuck_features
from tms_hooks.data import SparseUniform
from tms_hooks.landscape import critical_point
from tms_hooks.landscape.exact import exact_losses
from tms_hooks.models.toy import ToyModel
from tms_hooks.train import train


def test_stuck_feature():
    # Two features in one dimension: nothing learned, with the best constant output p/2, is critical and no minimum.
    outcomes = outcomes_of("stuck-feature")
    cfg, data = ToyConfig(n_features=2, d_hidden=1), SparseUniform(n_features=2, feature_probability=0.1)

    def place(W_E: list[list[float]], bias: list[float]):
        weights = {"W_E": torch.tensor(W_E, dtype=torch.float64), "b_U": torch.tensor(bias, dtype=torch.float64)}
        return critical_point(ToyModel.from_weights(cfg, weights), data)

    nothing = place([[1e-3], [1e-3]], [0.05, 0.05])
    digon = place([[1.0], [-1.0]], [0.0, 0.0])
    far = place([[2.0], [0.5]], [0.5, -0.5])
    assert (nothing.kind, digon.kind, far.kind) == ("saddle", "minimum", "not critical")

    def course(loss: float, gradient: float, models: int = MODELS) -> np.ndarray:
        """Feature 0 has these, the others 1, up to some noise."""
        noise = np.random.default_rng(0).uniform(0.95, 1.05, (models, 4, 2, 6))
        noise[..., 0] *= [loss, gradient]
        return noise

    def judge(places, pentagons, hexagons):
        found = stuck_features.judge_stuck(
            places, [digon] * 10, (np.arange(4), pentagons, hexagons), [0] * len(pentagons), {}
        )
        return outcomes(found)

    assert set(judge([nothing] * MODELS, course(3, 0.3), course(1, 1)).values()) == {"supported"}
    assert set(judge([digon] * MODELS, course(0.5, 2), course(1, 1)).values()) == {"refuted"}
    assert judge([nothing] * MODELS, course(3, 0.3), course(3, 1))["starts with a high loss"] == "does not distinguish"
    assert judge([far] * MODELS, course(3, 0.3), course(1, 1))["saddle"] == "refuted"
    assert set(judge([], course(1, 1, 0), course(1, 1, 0)).values()) == {"not measurable"}


def test_courses_are_those_of_the_exact_loss():
    run = train(ToyConfig(n_features=2, d_hidden=1), SparseUniform(n_features=2, feature_probability=0.1), seeds=2,
                steps=30, record_every=10, progress=False)  # fmt: skip
    steps, found = stuck_features.courses_of(run, [1], count=2)
    assert steps.tolist() == [0, 30]
    weights = {name: w[1].double() for name, w in run.weights.items()}
    exact = exact_losses(weights, run.recipe.cfg, run.recipe.setting.data)
    np.testing.assert_allclose(found[0, -1, 0], exact.numpy())


def test_hexagon_patching():
    outcomes = outcomes_of("hexagon-patching")

    def judge(patched: float, redraw: float, rerun: float):
        shares = {"unpatched": 0.0, "self": 0.0, "patched": patched, "redraw": redraw, "rerun": rerun}
        rows = [
            (recipient, condition, float(recipient < round(share * MODELS)))
            for condition, share in shares.items()
            for recipient in range(MODELS)
        ]
        return stuck_features.judge_patching(pd.DataFrame(rows, columns=["recipient", "condition", "outcome"]))

    assert outcomes(judge(1.0, 0.1, 0.1)) == {"patched": "supported", "rather than other data": "supported"}
    assert outcomes(judge(0.1, 0.1, 0.1))["patched"] == "refuted"  # patches that do nothing
    assert outcomes(judge(1.0, 1.0, 0.1))["patched"] == "does not distinguish"  # any new weights would have done
    assert outcomes(judge(0.0, 0.0, 1.0)) == {"patched": "refuted", "rather than other data": "refuted"}
    empty = pd.DataFrame(columns=["recipient", "condition", "outcome"])
    assert set(outcomes(stuck_features.judge_patching(empty)).values()) == {"not measurable"}


def test_whole_start():
    outcomes = outcomes_of("whole-start")
    rng = np.random.default_rng(0)

    def judge(hexagons: float, pentagons: float, starts: int = 30):
        again = [rng.random((starts, 3)) < share for share in (hexagons, pentagons)]
        return outcomes(stuck_features.judge_starts(*again, 0.1))

    assert set(judge(0.9, 0.1).values()) == {"supported"}
    assert set(judge(0.01, 0.01).values()) == {"refuted"}
    assert set(judge(0.9, 0.9).values()) == {"does not distinguish"}  # so do all starts
    assert set(judge(0.9, 0.1, starts=0).values()) == {"not measurable"}


def test_the_figure_of_starts_counts_their_hexagons():
    hexagons = np.array([[1, 1, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1]], dtype=bool)
    [(_, drawn)] = stuck_features.judge_starts(hexagons, ~hexagons[:2], 0.1).figures
    bars = {(bar.name, x): y for bar in drawn.data for x, y in zip(bar.x, bar.y, strict=True)}
    all_three, two, none = (f"{count} of 3 are hexagons" for count in (3, 2, 0))
    assert bars == {(all_three, "a hexagon"): 0.75, (two, "a hexagon"): 0.25, (none, "a pentagon"): 1.0}
    assert not stuck_features.judge_starts(hexagons[:0], hexagons[:0], 0.1).figures
