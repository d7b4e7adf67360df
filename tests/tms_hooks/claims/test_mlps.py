"""Claims about MLPs beside a bottleneck in worlds where they hold and where they are false."""

import numpy as np
import pytest
import torch
from worlds import MODELS, UNDECIDED, outcome_of

from tms_hooks.claims import mlps


def world(share: float, width: int) -> torch.Tensor:
    """Outputs of models that get this share of 4 f features through, and nothing of the rest."""
    n = 4 * width
    return torch.diag((torch.arange(n) < share * n).float()).expand(MODELS, n, n)


def test_mlp_bottlenecks():
    outcome = outcome_of("mlp-bottlenecks")
    others = {"linear": world(0.25, 4), "embed to MLP, n = 8 f": world(0.5, 4)}

    def judge(first, second):
        trained = {"one": {f: world(first, f) for f in (2, 4)}, "two": {f: world(second, f) for f in (2, 4)}}
        return mlps.judge_bottlenecks(trained, others)

    found = judge(1.0, 1.0)
    assert (outcome(found), found.statistic, found.controls["linear"]) == ("supported", 1.0, 0.25)
    assert "one, f = 2: 1" in found.detail
    assert found.controls["loss at n = 8 f over the least possible, less 1"] == pytest.approx(8 / 7 - 1)  # 8 lost
    assert outcome(judge(1.0, 0.5)) == "refuted"  # one of the two is enough
    assert outcome(judge(0.0, 1.0)) == "refuted"
    half = torch.cat([world(1.0, 2), world(0.75, 2)])  # seven eighths, give or take
    assert outcome(mlps.judge_bottlenecks({"one": {2: half}}, others)) in UNDECIDED


def test_learned_needs_the_own_output_high_and_highest():
    outputs = torch.tensor([[[0.6, 0.7, 0.0], [0.0, 0.4, 0.1], [0.3, 0.2, 0.8]]])
    assert mlps.learned(outputs).tolist() == [[False, False, True]]
    assert mlps.learned(outputs, 0.3).tolist() == [[False, True, True]]


def test_what_a_linear_output_cannot_reach():
    # The best reconstruction of the identity with rank n/2 and a bias: project on a space that holds the ones.
    n = 8
    ones = torch.ones(n, 1)
    basis = torch.linalg.qr(torch.cat([ones, torch.eye(n)[:, : n // 2]], dim=1)).Q
    assert mlps.excess_over_rank((basis @ basis.mT)[None]) == pytest.approx(0, abs=1e-6)
    assert mlps.excess_over_rank(torch.zeros(2, n, n)) == pytest.approx(n / (n / 2 - 1) - 1)


def test_the_best_linear_readout_is_a_projection():
    cfg = mlps.embed_to_mlp(2, 8)
    P = mlps.best_linear_readout(cfg, 3)
    torch.testing.assert_close(P @ P, P)
    assert ((P.diagonal(dim1=-2, dim2=-1).sum(-1) - P.diagonal(dim1=-2, dim2=-1).sum(-1).round()).abs() < 1e-6).all()
    wide = mlps.best_linear_readout(mlps.embed_to_mlp(2, 4), 3)  # fewer features than neurons: usually all come back
    assert np.mean(mlps.learned(wide).numpy()) > np.mean(mlps.learned(P).numpy())
