"""Claims of `tms_hooks.claims.attention`, each in a world where it holds and in one where it is false."""

import numpy as np
import pytest
import torch
from worlds import MODELS, outcomes_of

from tms_hooks import SparseUniform, theory
from tms_hooks.claims import attention
from tms_hooks.claims.heads import Heads

W = torch.eye(5, dtype=torch.float64)


def noise(scale: float) -> torch.Tensor:
    return scale * torch.randn(MODELS, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def beyond(biased: torch.Tensor, W: torch.Tensor = W, dense: torch.Tensor | None = None) -> attention.Beyond:
    """Arms that recover the features with biases, at both densities, and both pairs."""
    features = torch.eye(5, dtype=torch.float64).repeat(2, 1)[[0, 1, 0, 3, 1, 2, 0, 3, 3, 4]].expand(MODELS, 10, 5)
    pairs = sum(w * features[0][i].outer(features[0][j]) for (i, j), w in attention.WORTH.items())
    own = Heads(torch.outer(W[0], W[1]).expand(MODELS, 5, 5), W.expand(MODELS, 5, 5))
    dense_heads = own if dense is None else Heads(dense, own.W_E)
    alone = {biases: dict(zip(attention.ENDS, (own, dense_heads), strict=True)) for biases in (False, True)}
    return attention.Beyond(biased, alone, Heads(pairs.expand(MODELS, 5, 5), features))


def test_qk_recovers_features():
    outcomes = outcomes_of("qk-recovers-features")
    right, untrained = torch.outer(W[0], W[1]) + noise(0.03), noise(1.0)

    def judge(omega: torch.Tensor, W_E: torch.Tensor = W, biased: torch.Tensor = right, dense=None):
        return attention.judge_heads(
            Heads(omega, W_E.expand(MODELS, 5, 5)), untrained, {}, {}, beyond(biased, dense=dense)
        )

    found = judge(right)
    assert outcomes(found)["one pair"] == outcomes(found)["with biases"] == "supported"
    assert outcomes(found)["two pairs, one worth twice the other"] == "supported"
    assert found.parts["two pairs, one worth twice the other"].statistic == 1
    assert found.parts["low sparsity alone"].statistic == 0  # alike at both densities
    assert outcomes(judge(right, dense=untrained))["low sparsity alone"] == "refuted"
    assert outcomes(judge(untrained))["one pair"] == "refuted"
    assert outcomes(judge(right, biased=untrained))["with biases"] == "refuted"
    assert outcomes(judge(right, W.roll(1, 0)))["one pair"] == "refuted"  # recovered are others than those attended to
    none = judge(right, W[[0, 1, 2, 3, 1]])  # in no model are the attended features orthogonal to the others
    assert (outcomes(none)["one pair"], none.n_models, none.theory, none.figures) == ("not measurable", 0, None, ())


def test_heads_that_are_no_better_than_their_start_do_not_distinguish():
    right = torch.outer(W[0], W[1]) + noise(0.03)
    found = attention.judge_heads(Heads(right, W.expand(MODELS, 5, 5)), right, {}, {}, beyond(right))
    assert outcomes_of("qk-recovers-features")(found)["one pair"] == "does not distinguish"


def test_of_two_pairs_both_must_be_found():
    W_E = beyond(noise(1.0)).worth.W_E
    one = torch.outer(W_E[0, 2], W_E[0, 4]).expand(MODELS, 5, 5)
    assert attention.both_recovered(Heads(one, W_E)).statistic == 0


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
    both = W.expand(MODELS, 5, 5)
    best = Heads(theory.qk_optimum(W, data, [(0, 1)]).expand(MODELS, 5, 5), both)
    raw = Heads(
        torch.outer(W[0], W[1]).expand(MODELS, 5, 5), both
    )  # the features themselves: too well to be the optimum
    study = attention.Study(0.5, raw, best)
    found = attention.judge_heads(
        raw, best.omega, {0.5: study, 0.9: attention.Study(0.9, raw)}, {5.0: study}, beyond(raw.omega)
    )
    [left] = [figure for caption, figure in found.figures if caption.startswith("W U")]
    np.testing.assert_allclose(np.abs(np.array(left.data[0].z)[:, 0]), [1, 0, 0, 0, 0], atol=1e-6)
    assert len(left.data) == 2  # a panel for each p
    assert found.controls["p = 0.5: trained"] == pytest.approx(1)
    assert found.controls["p = 0.5: optimal"] == pytest.approx(
        found.controls["m = 5: orthonormal features, closed form"]
    )
    assert found.controls["p = 0.5: with the closed form's directions"] < 0.99
    assert found.controls["p = 0.5: softmax target, key"] == pytest.approx(found.controls["p = 0.5: optimal"])
    assert len(found.figures) == 6
    lines = {line.name: list(line.x) for line in found.figures[1][1].data}
    assert lines["trained"] == [0.5, 0.9]
    assert lines["softmax target, key"] == [0.5]  # the only setting that has such heads
