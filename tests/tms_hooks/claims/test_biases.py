"""Claims of `tms_hooks.claims.biases`, each part in a world where it holds and in one where it is false."""

import numpy as np
import pytest
import torch
from worlds import MODELS, outcomes_of, ring

from tms_hooks import theory
from tms_hooks.claims import biases
from tms_hooks.claims.biases import (
    Outcome,
    documented,
    judge_caught,
    judge_hidden,
    judge_perfect,
    judge_scale,
    perfect_starts,
    stable_learning_rate,
    train_perfect,
)
from tms_hooks.landscape import CriticalPoint
from tms_hooks.linalg import random_directions
from tms_hooks.training.optimizers import SGD


def ended(weights: dict[str, torch.Tensor], start: dict[str, torch.Tensor] | None = None, loss: float = 0.4) -> Outcome:
    path = torch.stack([weights["W_E"]] * 2).numpy()
    return Outcome(start or weights, weights, np.full(len(weights["W_E"]), loss), path)


def circle(corners: int, loss: float = 0.4, positive: bool = True, models: int = MODELS) -> Outcome:
    """A perfect circle of so many of ten features; these, or the others, started with a positive bias."""
    ideal = theory.perfect_circle(corners)
    W, on = ring(corners, 10, ideal.norm, models), (torch.arange(10) < corners).expand(models, 10)
    weights = {"W_E": W, "b_U": torch.where(on, ideal.bias, -1.0)}
    start = {"W_E": 0.1 * W, "b_U": torch.where(on == positive, 0.1, -0.1)}
    return ended(weights, start, loss)


def test_bias_perfect_not_found():
    outcomes = outcomes_of("bias-perfect-not-found")
    perfect, lost = np.zeros(MODELS), np.full(MODELS, 0.4)
    shrinks = circle(5)
    shrinks = shrinks._replace(path=np.stack([circle(6).weights["W_E"].numpy(), shrinks.weights["W_E"].numpy()]))

    def judge(kept, found: Outcome, low: Outcome = shrinks):
        by_arm = {f"n = {n}{arm}": found for n in (10, 40) for arm in ("", ", Adam")}
        by_arm |= {f"n = {n}, low rate": low for n in (10, 40)}
        return judge_perfect(by_arm, {n: {0.01: kept, 0.3: lost} for n in (10, 40)}, dict.fromkeys((10, 40), kept))

    many = circle(6, models=2 * MODELS)  # enough models for an upper bound of 0.1
    found = judge(perfect, many)
    assert set(outcomes(found).values()) == {"supported"}
    assert found.controls["noise that half survive, n = 10"] == 0.01
    all_found = outcomes(judge(lost, circle(10, loss=0.0)))
    assert [all_found[name] for name in ("exists", "not found", "Adam")] == ["refuted"] * 3
    diverged = outcomes(judge(perfect, many._replace(loss=np.full(2 * MODELS, np.nan), start=many.start)))
    assert diverged["not found"] == "supported"  # what diverged has not found it
    five = outcomes(judge(perfect, circle(5, positive=False)))
    assert (five["often six"], five["positive biases"]) == ("refuted", "refuted")
    longer = many._replace(weights=many.weights | {"W_E": 1.1 * many.weights["W_E"]})
    wrong = outcomes(judge(perfect, longer, low=circle(6)))
    assert [wrong[name] for name in ("exact", "low rate", "low rate, ten")] == ["refuted"] * 3
    assert outcomes(judge(perfect, shrinks))["low rate"] == "does not distinguish"  # at the high rate they do it too


def test_after_six_nothing():
    outcomes = outcomes_of("after-six-nothing")

    def point(*eigenvalues: float) -> CriticalPoint:
        return CriticalPoint("minimum", 0.4, 0.0, torch.tensor(eigenvalues), None, 0.0, {})

    def both(six: Outcome, five: Outcome) -> Outcome:
        def joined(a, b):
            return {name: torch.cat([a[name], b[name]]) for name in a}

        return ended(joined(six.weights, five.weights), joined(six.start, five.start))

    def alive(o: Outcome) -> Outcome:
        """The other features' biases are above the kink."""
        b = o.weights["b_U"]
        return o._replace(weights=o.weights | {"b_U": torch.where(b == -1.0, 0.1, b)})

    found = judge_caught(both(circle(6), circle(5)), [point(0.1, 1.0)] * 12)
    assert set(outcomes(found).values()) == {"supported"}
    assert found.controls["every other dead, 6 reconstructed"] == 1
    found = outcomes(judge_caught(both(alive(circle(6)), alive(circle(5))), [point(-0.1, 0.0)] * 12))
    assert set(found.values()) == {"refuted"}
    flat = outcomes(judge_caught(circle(6), [point(0.0, 1.0)] * 12))
    assert (flat["positive definite"], flat["no way down"]) == ("refuted", "supported")
    assert flat["nothing else after five"] == "not measurable"


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


def test_gaps_by_hand():
    square = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, -1.0]])
    np.testing.assert_allclose(biases.gaps(square), np.pi / 2, rtol=1e-6)
    assert biases.gap_variation(square) == pytest.approx(0, abs=1e-6)
    assert biases.gap_variation(square[:1]) == float("inf")


def test_unit_norm_with_scale():
    outcomes = outcomes_of("unit-norm-with-scale")
    start = {"W_E": random_directions(ring(10, 10))}

    def arm(W: torch.Tensor, loss: float = 0.4) -> Outcome:
        return ended({"W_E": W, "scale": torch.full((MODELS,), 1.2)}, start, loss)

    def judge(W: torch.Tensor, high: int = 10, loss: float = 0.0, free: float = 0.4):
        others = {"from 0.3": arm(ring(6, 10)), "from 10": arm(ring(high, 10)), "in front": arm(ring(10, 10))}
        return judge_scale(
            {"from 1": arm(W)} | others | {"given time": arm(ring(10, 10), loss), "free norms": arm(ring(6, 10), free)}
        )

    shared = ring(6, 6)[:, torch.arange(10) % 6]
    found = judge(shared)
    assert set(outcomes(found).values()) == {"supported"}
    assert found.controls["mean directions, from 1"] == 6
    full = outcomes(judge(ring(10, 10), high=6, loss=0.4))
    assert full == {
        "uniform": "supported",
        "fewer": "refuted",  # one direction per feature
        "the scale's start": "at the threshold",
        "given time": "refuted",
    }
    assert outcomes(judge(shared, high=5))["the scale's start"] == "refuted"
    assert outcomes(judge(random_directions(shared)))["uniform"] == "refuted"
    assert outcomes(judge(0 * shared))["uniform"] == "refuted"  # nothing learned
    assert outcomes(judge(shared, free=0.0))["given time"] == "does not distinguish"


def test_hidden_bias_goes_to_zero():
    outcomes = outcomes_of("hidden-bias-goes-to-zero")
    pentagon, zero = ring(5, 5), torch.zeros(MODELS, 2)
    drift = torch.tensor([0.3, -0.4]).expand(MODELS, 2)

    def arm(W: torch.Tensor, bias: torch.Tensor, loss: float = 0.4) -> Outcome:
        start = {"W_E": W + 0.3, "b_hidden": bias + drift}
        made = ended({"W_E": W, "b_hidden": bias}, start, loss)
        return made._replace(loss=loss * np.linspace(0.99, 1.01, MODELS))

    gone, recentered, off = arm(pentagon, zero), arm(pentagon - drift[:, None], drift), arm(pentagon, drift)
    lopsided = arm(pentagon + drift[:, None], zero)  # no bias, and not centered

    def judge(tied: Outcome, untied: Outcome, both: Outcome = off, without: float = 0.4):
        arms = {f"{kind}, {act}": o for kind, o in (("tied", tied), ("untied", untied)) for act in ("ReLU", "GELU")}
        return judge_hidden(
            arms, {"untied without, ReLU": arm(pentagon, zero, without), "tied with both biases, ReLU": both}
        )

    found = judge(gone, recentered)
    named = ("tied", "untied", "both biases", "shift")
    assert [outcomes(found)[name] for name in named] == ["supported"] * 4
    assert outcomes(found)["as printed"] == "refuted"
    np.testing.assert_allclose(found.controls["bias, untied, ReLU"], 0.5, rtol=1e-5)  # a drift that costs nothing
    np.testing.assert_allclose(found.controls["mean activation, untied, ReLU"], 0, atol=1e-6)
    wrong = outcomes(judge(off, lopsided, both=gone, without=0.2))
    assert [wrong[name] for name in named] == ["refuted"] * 4
    assert outcomes(judge(recentered, recentered))["tied"] == "refuted"  # though centered, the bias has not gone
    assert outcomes(judge(gone, off))["untied"] == "refuted"
    assert outcomes(judge(gone, gone))["as printed"] == "supported"
