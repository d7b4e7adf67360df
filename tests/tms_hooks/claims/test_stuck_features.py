"""Claims of `tms_hooks.claims.stuck_features`, each in a world where it holds and in one where it is false."""

import pandas as pd
import torch
from worlds import MODELS, UNDECIDED, outcome_of

from tms_hooks import ToyConfig
from tms_hooks.claims import stuck_features
from tms_hooks.data import SparseUniform
from tms_hooks.landscape import critical_point
from tms_hooks.models.toy import ToyModel


def test_stuck_feature():
    # Two features in one dimension: nothing learned, with the best constant output p/2, is critical and no minimum.
    outcome = outcome_of("stuck-feature")
    cfg, data = ToyConfig(n_features=2, d_hidden=1), SparseUniform(n_features=2, feature_probability=0.1)

    def place(W_E: list[list[float]], bias: list[float]):
        weights = {"W_E": torch.tensor(W_E, dtype=torch.float64), "b_U": torch.tensor(bias, dtype=torch.float64)}
        return critical_point(ToyModel.from_weights(cfg, weights), data)

    nothing = place([[1e-3], [1e-3]], [0.05, 0.05])
    digon = place([[1.0], [-1.0]], [0.0, 0.0])
    far = place([[2.0], [0.5]], [0.5, -0.5])
    assert (nothing.kind, digon.kind, far.kind) == ("saddle", "minimum", "not critical")
    assert outcome(stuck_features.judge_stuck([nothing] * MODELS, [digon], {}, dict)) == "supported"
    assert outcome(stuck_features.judge_stuck([digon] * MODELS, [digon], {}, dict)) == "refuted"
    assert outcome(stuck_features.judge_stuck([far] * MODELS, [digon], {}, dict)) == "refuted"
    assert outcome(stuck_features.judge_stuck([], [], {}, dict)) in UNDECIDED


def test_hexagon_patching():
    outcome = outcome_of("hexagon-patching")

    def judge(patched: float, redraw: float, rerun: float):
        shares = {"unpatched": 0.0, "self": 0.0, "patched": patched, "redraw": redraw, "rerun": rerun}
        rows = [
            (recipient, condition, float(recipient < round(share * MODELS)))
            for condition, share in shares.items()
            for recipient in range(MODELS)
        ]
        return stuck_features.judge_patching(pd.DataFrame(rows, columns=["recipient", "condition", "outcome"]))

    assert outcome(judge(1.0, 0.1, 0.1)) == "supported"
    assert outcome(judge(0.1, 0.1, 0.1)) == "refuted"  # patches that do nothing
    assert outcome(judge(1.0, 1.0, 0.1)) in UNDECIDED  # any new weights would have done
    assert outcome(judge(0.05, 1.0, 0.1)) == "refuted"  # random patches do better
    empty = pd.DataFrame(columns=["recipient", "condition", "outcome"])
    assert outcome(stuck_features.judge_patching(empty)) in UNDECIDED
