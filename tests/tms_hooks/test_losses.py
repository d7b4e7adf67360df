"""The loss of attention as a softmax over keys."""

import math

import pytest
import torch
from torch.testing import assert_close

from tms_hooks import losses

PAIRS = [[(0, 1), (2, 0)], [(1, 1)]]


def tokens(rows: int = 50, keys: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(rows, 1 + keys, 3, generator=generator, dtype=torch.float64)
    return x * (torch.rand(x.shape, generator=generator) < 0.4)


def test_pairs_are_counted_for_each_key() -> None:
    x = torch.zeros(1, 4, 3)
    x[0, 0, [0, 2]] = 0.5  # the query holds features 0 and 2: it looks for 1 (once) and 0 (once)
    x[0, 1, 1] = x[0, 3, 0] = x[0, 3, 1] = 0.1  # one pair in the first key, none in the second, two in the third
    assert losses.qk_pairs_present(x, PAIRS).tolist() == [[[1, 0, 2], [0, 0, 0]]]


def test_weights_of_pairs_by_hand() -> None:
    """The query holds 0 and 2 and looks for 1 (weight 0.5) and 0 (1.5); the keys hold 1, neither, both."""
    x = torch.zeros(1, 4, 3)
    x[0, 0, [0, 2]] = x[0, 1, 1] = x[0, 3, 0] = x[0, 3, 1] = 0.1
    target = losses.qk_pairs_present(x, [[(0, 1, 0.5), (2, 0, 1.5)]])
    assert target.tolist() == [[[0.5, 0, 2.0]]]
    assert losses.qk_error(torch.full((1, 1, 4, 4), 2.0), target[..., :1]).tolist() == [2.25]  # (2 - 0.5)^2
    # keys are to share the pattern 0.5 : 0 : 2, so scores of log(0.5), far below, log(2) cost its entropy
    scores = torch.tensor([0.0, 0.5, 1e-30, 2.0]).log().expand(1, 1, 4, 4)
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    assert_close(losses.qk_cross_entropy(scores, target), torch.tensor([entropy]))


def test_the_order_of_the_keys_does_not_matter() -> None:
    x, scores = tokens(), torch.randn(50, 2, 7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    turned = [0, 4, 6, 5, 1, 3, 2]
    present = losses.qk_pairs_present(x, PAIRS)
    assert_close(losses.qk_pairs_present(x[:, turned], PAIRS), present[..., [i - 1 for i in turned[1:]]])
    permuted = losses.qk_cross_entropy(scores[..., turned], losses.qk_pairs_present(x[:, turned], PAIRS))
    assert_close(permuted, losses.qk_cross_entropy(scores, present))


def test_a_score_that_all_keys_share_does_not_matter() -> None:
    x, scores = tokens(), torch.randn(50, 2, 7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    present = losses.qk_pairs_present(x, PAIRS)
    assert_close(losses.qk_cross_entropy(scores + 3, present), losses.qk_cross_entropy(scores, present))


def test_the_loss_is_torch_cross_entropy_and_least_at_the_target() -> None:
    x, scores = tokens(), torch.randn(50, 2, 7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    present = losses.qk_pairs_present(x, PAIRS)
    total = present.sum(-1, keepdim=True)
    target = torch.where(total > 0, present / total, 1 / 6)  # shared by the keys that form pairs, else by all
    reference = [torch.nn.functional.cross_entropy(scores[:, h, 0, 1:], target[:, h]) for h in range(2)]
    assert_close(losses.qk_cross_entropy(scores, present), torch.stack(reference))
    best = torch.zeros_like(scores)
    best[..., 0, 1:] = (target + 1e-12).log()
    assert (losses.qk_cross_entropy(best, present) < losses.qk_cross_entropy(scores, present)).all()


def test_a_cost_per_sample_is_shared_equally_among_its_outputs_and_cannot_be_weighed() -> None:
    whole = losses.LossFunction(lambda out, target: (out - target).abs().sum(-1))
    out, target = torch.ones(2, 3, 4), torch.zeros(2, 3, 4)
    out[1, 0] = 3.0
    assert_close(losses.costs(whole, out, target), out)  # 4 / 4 each, and 12 / 4
    each = losses.LossFunction(lambda out, target: (out - target).abs())
    assert_close(losses.costs(each, out, target), out)
    losses.try_loss(whole, target[0], (2.0, 2.0, 2.0, 2.0))
    losses.try_loss(each, target[0], (1.0, 2.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"one cost per sample, which importance=\(1\.0, 2\.0, 1\.0, 1\.0\) cannot"):
        losses.try_loss(whole, target[0], (1.0, 2.0, 1.0, 1.0))


def test_a_loss_of_outputs_between_0_and_1_is_tried_there() -> None:
    target = torch.tensor([[0.0, 1.0], [0.5, 0.25]])
    own = losses.LossFunction(lambda out, y: torch.nn.functional.binary_cross_entropy(out, y, reduction="none"))
    losses.try_loss(own, target, (1.0, 1.0))
    by_hand = losses.LossFunction(lambda out, y: -y * out.log() - (1 - y) * (1 - out).log())  # NaN at 1
    losses.try_loss(by_hand, target, (1.0, 1.0))


def test_absolute_errors_are_the_least_power() -> None:
    out, target = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.0, 1.0]])
    assert losses.Lp(p=1).cost(out, target).tolist() == [[0.5, 2.0]]
    with pytest.raises(ValueError, match=r"p=0\.9: must be at least 1"):
        losses.Lp(p=0.9)


def test_one_key_s_score_is_read_off_the_query_s_row_and_averaged_over_the_batch() -> None:
    scores = torch.arange(24.0).reshape(3, 2, 2, 2)  # batch head query key: at (query 0, key 1) 1, 5; 9, 13; 17, 21
    present = torch.zeros(3, 2, 1)
    present[:, 0, 0] = torch.tensor([1.0, 8.0, 14.0])  # head 0 is off by 0, 1 and 3
    present[:, 1, 0] = torch.tensor([5.0, 13.0, 27.0])  # head 1 by 0, 0 and 6
    assert_close(losses.qk_error(scores, present), torch.tensor([10 / 3, 12.0]))


def test_weights_below_one_are_shares_too() -> None:
    """One key forms a pair of weight 1/4 and another of 1/4: each is to have half of the pattern."""
    present, scores = torch.tensor([[[0.25, 0.25, 0.0]]]), torch.tensor([0.0, 1.0, 3.0, 4.0]).log().expand(1, 1, 4, 4)
    expected = -(math.log(1 / 8) + math.log(3 / 8)) / 2
    assert_close(losses.qk_cross_entropy(scores, present), torch.tensor([expected]))


def test_costs_that_are_nan_for_finite_outputs_are_refused_and_others_are_passed_on() -> None:
    own = losses.LossFunction(lambda out, target: out.sqrt() * target)
    out = torch.full((1, 2, 3), 4.0)
    assert_close(losses.costs(own, out, torch.ones(1, 2, 3)), torch.full((1, 2, 3), 2.0))
    out[0, 1, 2] = -1.0
    with pytest.raises(ValueError, match="gives NaN for finite outputs"):
        losses.costs(own, out, torch.ones(1, 2, 3))
    out[0, 1, 2] = torch.nan  # of a model that has diverged
    assert losses.costs(own, out, torch.ones(1, 2, 3))[0, 1, 2].isnan()
