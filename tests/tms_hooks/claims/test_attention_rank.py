"""The claim of `tms_hooks.claims.attention_rank`, in a world where it holds and in some where it is false."""

import numpy as np
import pytest
import torch
from worlds import MODELS, UNDECIDED, outcome_of

from tms_hooks.claims import attention_rank
from tms_hooks.linalg import random_rotations

W = torch.eye(5, dtype=torch.float64).expand(MODELS, 5, 5)
VALUES = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0], dtype=torch.float64)


def head(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Omega of every model, with these rows as its singular vectors."""
    return ((left.mT * VALUES[: left.shape[-2]]) @ right).expand(MODELS, 5, 5)


def judge(full: torch.Tensor, low: torch.Tensor, W_E: torch.Tensor = W):
    single = head(torch.ones(1, 5).double(), torch.ones(1, 5).double())
    by_count = dict.fromkeys(attention_rank.COUNTS, full)
    return attention_rank.judge_rank(W_E, by_count, {1: single, 2: low}, {"untrained": full})


def test_qk_rank():
    outcome = outcome_of("qk-rank")
    features = torch.eye(5, dtype=torch.float64)
    attended = features.roll(-1, 0)  # feature i as the query's, i + 1 as the key's
    own, own_low = head(features, attended), head(features[:2], attended[:2])
    turned = random_rotations(5, 1, seed=1)[0]
    shared = torch.stack([features[0] + features[1], features[0] - features[1]]) / 2**0.5
    low_shared = head(shared, torch.stack([attended[0] + attended[1], attended[0] - attended[1]]) / 2**0.5)
    found = judge(own, own_low)
    assert (outcome(found), found.statistic, found.n_models) == ("supported", 1.0, MODELS)
    assert found.controls["random rotations"] == 0
    assert found.controls["r = 1: pairs that the slice serves, of 5"] == pytest.approx(5)  # all ones: shared by all
    assert outcome(judge(own, low_shared)) == "refuted"  # one part is enough
    assert outcome(judge(head(turned, attended @ turned), own_low)) == "refuted"
    assert outcome(judge(head(features, features), own_low)) == "refuted"  # queries right, keys wrong
    mixed = torch.stack([features[3] + features[4], features[3] - features[4]]) / 2**0.5
    three = torch.cat([features[:3], mixed])
    assert outcome(judge(head(three, three.roll(1, 1)), own_low)) == "refuted"  # three of five are not all
    half = torch.cat([own[:10], head(turned, turned)[:10]])
    assert outcome(judge(half, own_low)) in UNDECIDED
    superposed = W.clone()
    superposed[:, 4] = -superposed[:, 0]
    assert outcome(judge(own, own_low, superposed)) in UNDECIDED  # no models with m orthogonal features


def test_contributions_add_up_to_the_score():
    omega = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = attention_rank.contributions(omega, W[0]).sum(0)
    np.testing.assert_allclose(scores, [omega[i, j] for i, j in attention_rank.RING], rtol=1e-10)


def test_one_slice_for_one_pair_serves_one_pair():
    one = torch.zeros(5, 5, dtype=torch.float64)
    one[0, 1] = 1
    assert attention_rank.pairs_served(one, W[0]) == 1
