"""The claim of `tms_hooks.claims.attention_subspaces`, in a world where it holds and in some where it is false."""

import pytest
import torch
from worlds import MODELS, UNDECIDED, outcome_of

from tms_hooks.claims import attention_subspaces
from tms_hooks.claims.heads import TRIANGLES as FEATURES
from tms_hooks.claims.heads import Heads, two_triangles
from tms_hooks.linalg import random_rotations

TRIANGLES = two_triangles().double()
W = TRIANGLES.expand(MODELS, 6, 4)
DIGONS = torch.cat([torch.eye(4), -torch.eye(4)]).double().expand(MODELS, 8, 4)


def head(*slices: tuple[float, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Omega of every model, as a sum of slices."""
    return sum(value * torch.outer(left, right) for value, left, right in slices).expand(MODELS, 4, 4)


def test_qk_subspaces():
    outcome = outcome_of("qk-subspaces")
    a, b, c, d = TRIANGLES[[0, 3, 1, 4]]  # attended: (a, c) in one triangle, (b, d) in the other
    split, one = head((2, a, c), (1, b, d)), head((1, a, c))
    mixed, both = head((2, a + b, c + d), (1, a - b, c - d)), head((1, a + b, c + d))

    def judge(full, single, W_E=W):
        digons = head((2, DIGONS[0, 0], DIGONS[0, 0]), (1, DIGONS[0, 1], DIGONS[0, 1]))
        return attention_subspaces.judge_split(W_E, {4: full, 1: single}, {"untrained": mixed}, Heads(digons, DIGONS))

    found = judge(split, one)
    assert (outcome(found), found.statistic, found.n_models) == ("supported", 1.0, MODELS)
    assert found.controls["digons: split"] == found.controls["digons: span"] == 1
    assert found.controls["untrained, split"] == 0
    assert found.controls["second singular value over first, exact triangles, optimal"] == pytest.approx(1)
    assert outcome(judge(mixed, one)) == "refuted"  # spanned, and not split
    assert outcome(judge(split, both)) == "refuted"  # one part is enough
    assert judge(mixed, one).controls["span"] == 1
    crossed = head((2, a, d), (1, b, c))  # split, and the query's triangle is not the key's
    assert judge(crossed, one).controls["split at r = 4"] == 0
    plane = torch.eye(4, dtype=torch.float64)
    assert (
        judge(head((2, plane[0], plane[0]), (1, plane[1], plane[1])), one).controls["split at r = 4"] == 0
    )  # both in one
    turned = random_rotations(4, 1)[0]
    assert outcome(judge(turned @ split, turned @ one)) == "refuted"
    assert outcome(judge(head((2, a, c), (1, TRIANGLES[1], TRIANGLES[0])), one)) == "refuted"  # both in one triangle
    assert outcome(judge(split, torch.cat([one[:10], both[:10]]))) in UNDECIDED
    assert outcome(judge(split, one, W.roll(1, 1))) in UNDECIDED  # other triangles than those that were asked for


def test_shares_of_factors_by_hand():
    vectors = torch.tensor([[0.6, 0.0, 0.8, 0.0]], dtype=torch.float64)
    found = attention_subspaces.factor_shares(vectors, TRIANGLES, FEATURES)
    torch.testing.assert_close(found, torch.tensor([[0.36, 0.64]], dtype=torch.float64))
