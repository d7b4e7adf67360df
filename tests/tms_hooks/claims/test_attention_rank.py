"""The claim of `tms_hooks.claims.attention_rank`, in a world where it holds and in some where it is false."""

import numpy as np
import pytest
import torch
from worlds import MODELS, UNDECIDED, outcomes_of

from tms_hooks.claims import attention_rank
from tms_hooks.claims.heads import Heads
from tms_hooks.linalg import random_rotations

W = torch.eye(5, dtype=torch.float64).expand(MODELS, 5, 5)
VALUES = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0], dtype=torch.float64)


def head(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Omega of every model, with these rows as its singular vectors."""
    return ((left.mT * VALUES[: left.shape[-2]]) @ right).expand(MODELS, 5, 5)


def judge(full: torch.Tensor, low: torch.Tensor, W_E: torch.Tensor = W, single: torch.Tensor | None = None):
    ones = torch.ones(1, 5, dtype=torch.float64)
    single = head(ones, ones) if single is None else single
    by_count = dict.fromkeys(attention_rank.COUNTS, full)
    wide = torch.eye(12, dtype=torch.float64).expand(MODELS, 12, 12)
    pairs = sum(weight * wide[0, i].outer(wide[0, j]) for (i, j), weight in attention_rank.WIDE.items())
    beyond = attention_rank.Beyond(full, full, Heads(pairs.expand(MODELS, 12, 12), wide))
    return attention_rank.judge_rank(W_E, by_count, {1: single, 2: low}, full, beyond)


def test_qk_rank():
    outcomes = outcomes_of("qk-rank")
    features = torch.eye(5, dtype=torch.float64)
    attended = features.roll(-1, 0)  # feature i as the query's, i + 1 as the key's
    own, own_low = head(features, attended), head(features[:2], attended[:2])
    turned = random_rotations(5, 1, seed=1)[0]
    shared = torch.stack([features[0] + features[1], features[0] - features[1]]) / 2**0.5
    low_shared = head(shared, torch.stack([attended[0] + attended[1], attended[0] - attended[1]]) / 2**0.5)
    found = judge(own, own_low)
    assert set(outcomes(found).values()) == {"supported"}
    assert (found.parts["r = m"].statistic, found.parts["r = m"].null, found.n_models) == (1.0, 0.0, MODELS)
    assert found.parts["r < m, one slice for several"].statistic == pytest.approx(5)  # all ones: shared by all
    assert found.parts["n = 100, m = 50"].statistic == 1
    assert outcomes(judge(own, low_shared))["r < m, one slice for each"] == "refuted"
    one = head(features[:1], attended[:1])
    assert outcomes(judge(own, own_low, single=one))["r < m, one slice for several"] == "refuted"

    def full(omega, W_E=W):
        return outcomes(judge(omega, own_low, W_E))["r = m"]

    assert full(head(turned, attended @ turned)) == "refuted"
    assert full(head(features, features)) == "refuted"  # queries right, keys wrong
    mixed = torch.stack([features[3] + features[4], features[3] - features[4]]) / 2**0.5
    three = torch.cat([features[:3], mixed])
    assert full(head(three, three.roll(1, 1))) == "refuted"  # three of five are not all
    assert full(torch.cat([own[:10], head(turned, turned)[:10]])) in UNDECIDED
    superposed = W.clone()
    superposed[:, 4] = -superposed[:, 0]
    assert full(own, superposed) == "not measurable"  # no models with m orthogonal features


def test_contributions_add_up_to_the_score():
    omega = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = attention_rank.contributions(omega, W[0]).sum(0)
    np.testing.assert_allclose(scores, [omega[i, j] for i, j in attention_rank.RING], rtol=1e-10)


def test_one_slice_for_one_pair_serves_one_pair():
    one = torch.zeros(5, 5, dtype=torch.float64)
    one[0, 1] = 1
    assert attention_rank.pairs_served(one, W[0]) == 1
