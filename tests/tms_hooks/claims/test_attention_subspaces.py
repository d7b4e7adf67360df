"""The claim of `tms_hooks.claims.attention_subspaces`, in a world where it holds and in some where it is false."""

import pytest
import torch
from worlds import MODELS, UNDECIDED, outcomes_of

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
    outcomes = outcomes_of("qk-subspaces")
    a, b, c, d = TRIANGLES[[0, 3, 1, 4]]  # attended: (a, c) in one triangle, (b, d) in the other
    split, one = head((2, a, c), (1, b, d)), head((1, a, c))
    mixed, both = head((2, a + b, c + d), (1, a - b, c - d)), head((1, a + b, c + d))

    def judge(full, single, W_E=W):
        digons = head((2, DIGONS[0, 0], DIGONS[0, 0]), (1, DIGONS[0, 1], DIGONS[0, 1]))
        beyond = attention_subspaces.Beyond(full, single)
        return attention_subspaces.judge_split(W_E, {4: full, 1: single}, mixed, beyond, Heads(digons, DIGONS))

    found = judge(split, one)
    assert set(outcomes(found).values()) == {"supported"}
    assert (found.parts["span"].statistic, found.parts["enough"].statistic, found.n_models) == (1.0, 1.0, MODELS)
    assert found.controls["digons: split"] == found.controls["digons: span"] == 1
    assert found.controls["untrained, split"] == 0
    assert found.controls["second singular value over first, exact triangles, optimal"] == pytest.approx(1)
    spanned = outcomes(judge(mixed, both))
    assert (spanned["span"], spanned["enough"], spanned["too few"]) == ("supported", "refuted", "refuted")
    assert (spanned["enough, unequal weights"], spanned["too few, with biases"]) == ("refuted", "refuted")
    crossed = head((2, a, d), (1, b, c))  # split, and the query's triangle is not the key's
    assert judge(crossed, one).parts["enough"].statistic == 0
    plane = torch.eye(4, dtype=torch.float64)  # two slices in one triangle
    assert judge(head((2, plane[0], plane[0]), (1, plane[1], plane[1])), one).parts["enough"].statistic == 0
    turned = random_rotations(4, 1)[0]
    assert set(outcomes(judge(turned @ split, turned @ one)).values()) == {"refuted"}
    within = judge(head((2, a, c), (1, TRIANGLES[1], TRIANGLES[0])), one)
    assert outcomes(within)["span"] == outcomes(within)["enough"] == "refuted"  # both in one triangle
    assert outcomes(judge(split, torch.cat([one[:10], both[:10]])))["too few"] in UNDECIDED
    others = judge(split, one, W.roll(1, 1))  # other triangles than those that were asked for
    assert (outcomes(others)["span"], others.figures) == ("not measurable", ())


def test_shares_of_factors_by_hand():
    vectors = torch.tensor([[0.6, 0.0, 0.8, 0.0]], dtype=torch.float64)
    found = attention_subspaces.factor_shares(vectors, TRIANGLES, FEATURES)
    torch.testing.assert_close(found, torch.tensor([[0.36, 0.64]], dtype=torch.float64))
