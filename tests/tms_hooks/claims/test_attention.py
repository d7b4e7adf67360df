"""Claims of `tms_hooks.claims.attention`, each in a world where it holds and in one where it is false."""

import pytest
import torch
from worlds import MODELS, outcome_of

from tms_hooks import SparseUniform, theory
from tms_hooks.claims import attention
from tms_hooks.claims.heads import Heads


def test_qk_recovers_features():
    outcome = outcome_of("qk-recovers-features")
    W = torch.eye(5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def noise(scale: float) -> torch.Tensor:
        return scale * torch.randn(MODELS, 5, 5, generator=generator, dtype=torch.float64)

    right, untrained = torch.outer(W[0], W[1]) + noise(0.03), noise(1.0)

    def judge(omega: torch.Tensor, W_E: torch.Tensor = W):
        return attention.judge_heads(Heads(omega, W_E.expand(MODELS, 5, 5)), untrained, {}, {})

    assert outcome(judge(right)) == "supported"
    assert outcome(judge(untrained)) == "refuted"
    assert outcome(judge(right, W.roll(1, 0))) == "refuted"  # recovered are features that are not attended to
    none = judge(right, W[[0, 1, 2, 3, 1]])  # in no model are the attended features orthogonal to the others
    assert (outcome(none), none.n_models, none.theory, none.figures) == ("not measurable", 0, None, ())


def test_three_yardsticks_of_the_best_head():
    """Orthonormal features, p = 1/2, m = 5, worked by hand along the mean direction u and across it.

    a = E[1(x_i > 0) x_i] - p E x_i = 1/8, b = p E x_i = 1/8; C is 1/6 - 1/16 across u and that plus 5/16 along it.
    """
    data, W = SparseUniform(n_features=5, feature_probability=0.5), torch.eye(5, dtype=torch.float64)
    best = theory.qk_optimum(W, data, [(0, 1)])
    assert attention.recovery(best[None], W[None])[0] == pytest.approx(theory.qk_orthonormal_cosine(0.5, 5))
    assert attention.agreement(best[None], best[None])[0] == pytest.approx(1)
    across, along = 1 / 6 - 1 / 16, 1 / 6 - 1 / 16 + 5 / 16
    feature = torch.tensor([0.2**0.5 / along**0.5, 0.8**0.5 / across**0.5])
    reader = torch.tensor([(1 / 8 + 5 / 8) * 0.2**0.5 / along**0.5, 1 / 8 * 0.8**0.5 / across**0.5])
    by_hand = torch.cosine_similarity(feature, reader, dim=0).item()
    assert attention.whitened(best, W, data) == pytest.approx(by_hand, abs=1e-6)


def test_the_grid_tells_trained_heads_from_the_best():
    data, W = SparseUniform(n_features=5, feature_probability=0.5), torch.eye(5, dtype=torch.float64)
    both = W.expand(2, 5, 5)
    best = Heads(theory.qk_optimum(W, data, [(0, 1)]).expand(2, 5, 5), both)
    raw = Heads(torch.outer(W[0], W[1]).expand(2, 5, 5), both)  # the features themselves: too well to be the optimum
    study = attention.Study(0.5, raw, best)
    found = attention.judge_heads(raw, best.omega, {0.5: study, 0.9: attention.Study(0.9, raw)}, {5.0: study})
    assert found.controls["p = 0.5: trained"] == pytest.approx(1)
    assert found.controls["p = 0.5: optimal"] == pytest.approx(
        found.controls["m = 5: orthonormal features, closed form"]
    )
    assert found.controls["p = 0.5: with the closed form's directions"] < 0.99
    assert found.controls["p = 0.5: softmax target, key"] == pytest.approx(found.controls["p = 0.5: optimal"])
    assert len(found.figures) == 3
    lines = {line.name: list(line.x) for line in found.figures[1][1].data}
    assert lines["trained"] == [0.5, 0.9]
    assert lines["softmax target, key"] == [0.5]  # the only setting that has such heads
