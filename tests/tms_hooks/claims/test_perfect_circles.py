"""The claim of `tms_hooks.claims.perfect_circles`, in a world where it holds and in ones where it is false."""

import numpy as np
import pytest
import torch
from worlds import MODELS, outcome_of, ring

from tms_hooks import theory
from tms_hooks.claims.biases import Outcome
from tms_hooks.claims.perfect_circles import (
    documented,
    judge_perfect,
    perfect_starts,
    stable_learning_rate,
    train_perfect,
)
from tms_hooks.training.optimizers import SGD


def ended(corners: int, loss: float, features: int = 10) -> Outcome:
    W = ring(corners, features, theory.perfect_circle(corners).norm)
    bias = torch.full((MODELS, features), theory.perfect_circle(corners).bias)
    weights = {"W_E": W, "b_U": bias}
    return Outcome(weights, weights, np.full(MODELS, loss), W[None].numpy())


def test_bias_perfect_not_found():
    outcome = outcome_of("bias-perfect-not-found")
    perfect, lost = np.zeros(MODELS), np.full(MODELS, 0.4)

    def judge(kept, found, loss: float, diverged: bool = False):
        outcomes = {f"n = 10, {name}": ended(found, np.nan if diverged else loss) for name in ("SGD", "Adam")}
        outcomes["n = 10, SGD, summed loss"] = ended(4, 1.0)
        kept = {10: {0.01: kept, 0.3: lost}}
        return judge_perfect(outcomes, kept, {10: perfect}, {"with warmup": {0.1: ended(found, loss)}})

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
