"""Claims of `tms_hooks.claims.biases`, each in a world where it holds and in ones where it is false."""

import numpy as np
import pytest
import torch
from worlds import MODELS, outcome_of, random_directions, ring

from tms_hooks import theory
from tms_hooks.claims.biases import (
    Outcome,
    documented,
    judge_hidden,
    judge_perfect,
    judge_scale,
    perfect_starts,
    stable_learning_rate,
    train_perfect,
)
from tms_hooks.training.optimizers import SGD


def ended(weights: dict[str, torch.Tensor], start: dict[str, torch.Tensor] | None = None, loss: float = 0.4) -> Outcome:
    return Outcome(start or weights, weights, np.full(MODELS, loss), weights["W_E"][None].numpy())


def circle(corners: int, loss: float) -> Outcome:
    W = ring(corners, 10, theory.perfect_circle(corners).norm)
    return ended({"W_E": W, "b_U": torch.full((MODELS, 10), theory.perfect_circle(corners).bias)}, loss=loss)


def test_bias_perfect_not_found():
    outcome = outcome_of("bias-perfect-not-found")
    perfect, lost = np.zeros(MODELS), np.full(MODELS, 0.4)

    def judge(kept, found, loss: float, diverged: bool = False):
        outcomes = {f"n = 10, {name}": circle(found, np.nan if diverged else loss) for name in ("SGD", "Adam")}
        outcomes["n = 10, SGD, summed loss"] = circle(4, 1.0)
        kept = {10: {0.01: kept, 0.3: lost}}
        return judge_perfect(outcomes, kept, {10: perfect}, {"with warmup": {0.1: circle(found, loss)}})

    found = judge(perfect, found=6, loss=0.4)
    assert (outcome(found), found.statistic) == ("supported", 1.0)
    assert found.controls["share with six directions, n = 10, Adam"] == 1
    assert found.controls["share with six directions, n = 10, SGD, summed loss"] == 0
    assert found.controls["noise that half survive, n = 10"] == 0.01
    np.testing.assert_allclose(found.controls["norm, perfect circle of as many = 1, n = 10, SGD"], 1, rtol=1e-6)
    assert outcome(judge(lost, found=6, loss=0.4)) == "refuted"  # perfect starts are lost
    assert outcome(judge(perfect, found=10, loss=0.0)) == "refuted"  # random starts find it
    assert outcome(judge(perfect, found=6, loss=0.4, diverged=True)) == "supported"  # what diverged has not found it


def test_perfect_starts_are_perfect_without_noise_and_not_with_much():
    for n in (5, 10):
        [start] = perfect_starts(n, 1, noise=0.0)
        out = (start["W_E"] @ start["W_E"].mT + start["b_U"]).relu()
        torch.testing.assert_close(out, torch.eye(n), atol=1e-5, rtol=0)
    assert (train_perfect(10, 3, noise=1.0) > 0.01).all()


@pytest.mark.parametrize(("share", "stays"), [(0.9, True), (1.1, False)])
def test_gradient_descent_stays_below_the_stable_learning_rate_and_not_above(share, stays):
    loss = train_perfect(10, 3, 1e-4, SGD(lr=share * stable_learning_rate(10) / 1.05**2))  # starts are 5 % longer
    assert ((loss < 1e-3) == stays).all()


def test_the_schedule_of_the_document():
    schedule = documented(peak=0.2)
    assert [round(schedule.learning_rate(step, 1000), 6) for step in (0, 50, 999)] == [0.0005, 0.2, 0.01]


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

    gone, recentered, off = arm(pentagon, zero), arm(pentagon - drift[:, None], drift), arm(pentagon, drift)
    lopsided = arm(pentagon + drift[:, None], zero)  # no bias, and not centered

    def judge(tied: Outcome, untied: Outcome, gelu: Outcome = recentered):
        arms = {"tied, ReLU": tied, "tied, GELU": gone, "untied, ReLU": untied, "untied, GELU": gelu}
        return judge_hidden(arms, {"untied without, ReLU": ended({"W_E": pentagon})})

    found = judge(gone, recentered)
    assert (outcome(found), found.statistic) == ("supported", 1.0)
    np.testing.assert_allclose(found.controls["bias, untied, ReLU"], 0.5, rtol=1e-5)  # a drift that costs nothing
    np.testing.assert_allclose(found.controls["mean activation, untied, ReLU"], 0, atol=1e-6)
    assert outcome(judge(off, recentered)) == "refuted"  # the tied bias stays
    assert outcome(judge(recentered, recentered)) == "refuted"  # and though centered, it has not gone
    assert outcome(judge(gone, off)) == "refuted"  # untied, and off center
    assert outcome(judge(gone, lopsided)) == "refuted"
    assert outcome(judge(gone, recentered, gelu=off)) == "refuted"  # one activation is enough
