"""The claim of `tms_hooks.claims.attention_simplices`, in a world where it holds and in some where it is false."""

import torch
from worlds import MODELS, UNDECIDED, outcomes_of, ring

from tms_hooks.claims import attention_simplices
from tms_hooks.claims.heads import Heads, two_triangles

TRIANGLES = two_triangles().double()
W = TRIANGLES.expand(MODELS, 6, 4)


def head(*slices: tuple[float, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Omega of every model, as a sum of slices."""
    return sum(value * torch.outer(left, right) for value, left, right in slices).expand(MODELS, 4, 4)


def test_qk_same_subspace():
    outcomes = outcomes_of("qk-same-subspace")
    a, b, c = TRIANGLES[[0, 1, 2]]  # attended: (a, b) and (b, c)
    sums = head((2, a - b, b - c), (1, a + b, b + c))
    square = torch.eye(2, dtype=torch.float64).expand(MODELS, 2, 2)

    def judge(trained, W_E=W):
        untrained, pentagons = 0 * sums + torch.eye(4), Heads(square, ring(5, 5).double())
        beyond = attention_simplices.Beyond(trained, trained)
        return attention_simplices.judge_sum_and_difference(Heads(trained, W_E), untrained, pentagons, beyond)

    found = judge(sums)
    assert set(outcomes(found).values()) == {"supported"}
    assert (found.parts["sum and difference"].statistic, found.n_models) == (1.0, MODELS)
    assert found.parts["sum and difference"].null < 0.5
    a_up, b_up = torch.stack([-a[1], a[0], *a[2:]]), torch.stack([-b[1], b[0], *b[2:]])  # at right angles, in the plane
    one_feature = head((2, a, b), (1, a_up, b_up))  # and what is left
    assert set(outcomes(judge(one_feature)).values()) == {"refuted"}
    elsewhere = head((2, a, TRIANGLES[4]), (1, TRIANGLES[3], b))  # another triangle
    assert outcomes(judge(elsewhere))["sum and difference"] == "refuted"
    assert outcomes(judge(torch.cat([sums[:10], one_feature[:10]])))["sum and difference"] in UNDECIDED
    others = judge(sums, W.roll(1, 1))
    assert (outcomes(others)["sum and difference"], others.figures) == ("not measurable", ())
