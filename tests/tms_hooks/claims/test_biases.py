"""Claims of `tms_hooks.claims.biases`, each in a world where it holds and in ones where it is false."""

import numpy as np
import torch
from worlds import MODELS, outcome_of, random_directions, ring

from tms_hooks.claims.biases import Outcome, judge_hidden, judge_scale


def ended(weights: dict[str, torch.Tensor], start: dict[str, torch.Tensor] | None = None) -> Outcome:
    return Outcome(start or weights, weights, np.full(MODELS, 0.4), weights["W_E"][None].numpy())


def test_unit_norm_with_scale():
    outcome = outcome_of("unit-norm-with-scale")

    def judge(W: torch.Tensor):
        world = ended({"W_E": W, "scale": torch.full((MODELS,), 1.2)})
        return judge_scale({"from 1": world, "from 3": world})

    shared = ring(6, 10)[:, torch.arange(10) % 6]
    found = judge(shared)
    assert (outcome(found), found.statistic) == ("supported", 1.0)
    assert found.controls["mean directions, from 1"] == 6
    assert found.controls["mean directions after half of the training"] == 6
    assert outcome(judge(ring(10, 10))) == "refuted"  # one direction per feature
    assert outcome(judge(random_directions(shared))) == "refuted"  # uneven
    assert outcome(judge(0 * shared)) == "refuted"  # nothing learned


def test_hidden_bias_goes_to_zero():
    outcome = outcome_of("hidden-bias-goes-to-zero")
    pentagon, zero = ring(5, 5), torch.zeros(MODELS, 2)
    drift = torch.tensor([0.3, -0.4]).expand(MODELS, 2)

    def arm(W: torch.Tensor, bias: torch.Tensor) -> Outcome:
        return ended({"W_E": W, "b_hidden": bias}, {"W_E": W, "b_hidden": bias + drift})

    gone, recentred, off = arm(pentagon, zero), arm(pentagon - drift[:, None], drift), arm(pentagon, drift)
    lopsided = arm(pentagon + drift[:, None], zero)  # no bias, and not centred

    def judge(tied: Outcome, untied: Outcome, gelu: Outcome = recentred):
        arms = {"tied, ReLU": tied, "tied, GELU": gone, "untied, ReLU": untied, "untied, GELU": gelu}
        return judge_hidden(arms, {"untied without, ReLU": ended({"W_E": pentagon})})

    found = judge(gone, recentred)
    assert (outcome(found), found.statistic) == ("supported", 1.0)
    np.testing.assert_allclose(found.controls["bias, untied, ReLU"], 0.5, rtol=1e-5)  # a drift that costs nothing
    np.testing.assert_allclose(found.controls["mean activation, untied, ReLU"], 0, atol=1e-6)
    assert outcome(judge(off, recentred)) == "refuted"  # the tied bias stays
    assert outcome(judge(recentred, recentred)) == "refuted"  # and though centred, it has not gone
    assert outcome(judge(gone, off)) == "refuted"  # untied, and off centre
    assert outcome(judge(gone, lopsided)) == "refuted"
    assert outcome(judge(gone, recentred, gelu=off)) == "refuted"  # one activation is enough
