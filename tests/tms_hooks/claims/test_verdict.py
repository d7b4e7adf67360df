"""Verdicts: what decides, and how shares and other statistics become one."""

import math

import numpy as np
import planned
import plotly.graph_objects as go
import pytest
import torch
from planned import verdict

from tms_hooks.claims import UNKNOWN, Verdict, below, decide
from tms_hooks.claims.verdict import Needs

REST = {"n_models": 10, "controls": {}, "detail": ""}


def decided(found: Verdict) -> Verdict:
    """Held against a claim that needs a statistic above 1/2."""
    return planned.planned(planned.holds).decide(found)


# Deciding


@pytest.mark.parametrize(
    ("interval", "side", "outcome"),
    [
        ((0.6, 0.8), "above", "supported"),
        ((0.2, 0.4), "above", "refuted"),
        ((0.4, 0.6), "above", "inconclusive"),
        ((0.5, 0.8), "above", "inconclusive"),  # touching is not beyond
        ((0.2, 0.5), "above", "inconclusive"),
        ((0.6, 0.8), "below", "refuted"),
        ((0.2, 0.4), "below", "supported"),
        (UNKNOWN, "above", "inconclusive"),
        (UNKNOWN, "below", "inconclusive"),
    ],
)
def test_only_the_interval_and_the_threshold_decide(interval, side, outcome):
    assert decide(interval, 0.5, side) == outcome
    assert verdict(interval=interval, side=side, statistic=123.0).verdict == outcome


@pytest.mark.parametrize("interval", [(0.6, 0.4), (math.nan, 1.0), (0.0, math.nan)])
def test_what_is_no_interval_decides_nothing(interval):
    with pytest.raises(ValueError, match="low <= high"):
        decide(interval, 0.5)


def test_the_outcome_cannot_be_typed_in():
    with pytest.raises(TypeError):
        verdict(verdict="supported")
    with pytest.raises(AttributeError):
        verdict().verdict = "supported"


@pytest.mark.parametrize("shares", [(9, 10), (0, 0)])
@pytest.mark.parametrize("asked", [lambda v: v.verdict, lambda v: v.paragraph, Verdict.record])
def test_a_verdict_that_no_claim_has_decided_has_no_outcome(shares, asked):
    found = Verdict.of_shares("The share", {"": shares}, **REST)
    with pytest.raises(ValueError, match=r"no claim has decided.*Claim\.decide"):
        asked(found)
    asked(decided(found))


def test_a_claim_decides_by_what_it_needs():
    found = Verdict.of_shares("The share", {"": (100, 100)}, **REST)
    claim = planned.planned(planned.holds, "named")
    held = claim.decide(found)
    assert (held.claim, held.side, held.threshold, held.verdict) == ("named", "above", 0.5, "supported")
    assert (held.statistic, held.interval, held.measured) == (found.statistic, found.interval, found.measured)
    other = planned.planned(planned.holds, needs=below(0.05)).decide(held)  # not what was decided before
    assert (other.side, other.threshold, other.verdict) == ("below", 0.05, "refuted")


def test_the_paragraph_is_made_of_the_numbers():
    text = verdict(theory=0.75).paragraph
    for part in ("Supported", "0.8", "0.7 to 0.9", "above 0.5", "40 models", "Theory: 0.75", "More."):
        assert part in text
    assert "could not be measured, on 40" in verdict(statistic=math.nan, interval=UNKNOWN).paragraph
    # A refutation says what refutes: a part that could be measured.
    assert "lies between 0 and 0.3 (" in verdict(statistic=math.nan, interval=(0.0, 0.3)).paragraph


# Shares


def test_one_share_has_the_interval_of_wilson():
    found = Verdict.of_shares("The share", {"any": (5, 10)}, **REST)
    assert (found.measured, found.statistic) == ("The share", 0.5)
    # By hand: z = 1.96; centre 1/2; half-width z / (1 + z^2/10) sqrt(0.025 + z^2/400) = 1.4160 x 0.1860
    np.testing.assert_allclose(found.interval, (0.2366, 0.7634), atol=1e-4)


def test_of_several_shares_the_smallest_is_the_statistic_and_named():
    found = Verdict.of_shares("The smaller share", {"a": (9, 10), "b": (5, 10)}, **REST)
    assert (found.measured, found.statistic) == ("The smaller share (b)", 0.5)
    np.testing.assert_allclose(found.interval, (0.2109, 0.7891), atol=1e-4)  # by hand in test_stats: wider than alone


def test_booleans_are_counted():
    held = np.array([True, True, False, True])
    found, counted = (decided(Verdict.of_shares("The share", {"": part}, **REST)) for part in (held, (3, 4)))
    assert found == counted
    assert found.statistic == 0.75


@pytest.mark.parametrize("parts", [{"": (0, 0)}, {"": np.array([])}, {"a": (0, 0), "b": (0, 0)}])
def test_shares_without_trials_are_unknown(parts):
    found = decided(Verdict.of_shares("The share", parts, **REST))
    assert math.isnan(found.statistic)
    assert (found.interval, found.verdict) == (UNKNOWN, "inconclusive")


def test_beside_a_part_without_trials_another_can_refute_but_not_support():
    def beside(*other: int) -> Verdict:
        return decided(Verdict.of_shares("The share", {"tried": other, "never": (0, 0)}, **REST))

    assert math.isnan(beside(0, 100).statistic)
    assert beside(0, 100).verdict == "refuted"
    assert beside(100, 100).verdict == "inconclusive"


# Other statistics


def test_a_mean_of_two_by_hand():
    """Resamples of 0 and 1 have the means 0, 1/2, 1/2 and 1: a quarter of them lies at either end."""
    found = Verdict.of_statistic("The mean", np.mean, np.array([0.0, 1.0]), **REST)
    assert (found.statistic, found.interval) == (0.5, (0.0, 1.0))


def test_samples_are_resampled_apart():
    """The first as above, with means from 0 to 3; the second is constant, whatever rows are drawn for the first."""
    found = Verdict.of_statistic(
        "The difference",
        lambda a, b: float(a.mean() - b.mean()),
        np.array([0.0, 3.0]),
        np.array([1.0, 1.0, 1.0]),
        **REST,
    )
    assert (found.statistic, found.interval) == (0.5, (-1.0, 2.0))


@pytest.mark.parametrize("samples", [(), (np.ones(0),), (np.ones(1),), (np.ones(9), np.ones(1))])
def test_a_sample_of_fewer_than_two_is_not_measured(samples):
    def never(*given):
        pytest.fail("there is nothing to measure")

    found = decided(Verdict.of_statistic("The mean", never, *samples, **REST))
    assert math.isnan(found.statistic)
    assert (found.interval, found.verdict) == (UNKNOWN, "inconclusive")


@pytest.mark.parametrize(
    "statistic",
    [lambda m: math.nan, lambda m: math.nan if m.min() == m.max() else 9.0],  # of resamples, some are constant
)
def test_a_statistic_that_is_nan_is_not_measured(statistic):
    found = decided(Verdict.of_statistic("The mean", statistic, np.array([0.0, 1.0]), **REST))
    assert math.isnan(found.statistic)
    assert (found.interval, found.verdict) == (UNKNOWN, "inconclusive")


# What both have in common


def drawn() -> go.Figure:
    return go.Figure(go.Bar(x=["a"], y=[1.0]))


MEASURED = {
    "shares": lambda **given: Verdict.of_shares("", {"": (1, 2)}, **REST | given),
    "statistic": lambda **given: Verdict.of_statistic("", np.mean, np.ones(2), **REST | given),
}
NOT_MEASURED = {
    "shares": lambda **given: Verdict.of_shares("", {"": (0, 0)}, **REST | given),
    "statistic": lambda **given: Verdict.of_statistic("", np.mean, np.ones(1), **REST | given),
}


@pytest.mark.parametrize("kind", MEASURED)
def test_figures_are_made_only_of_what_was_measured(kind):
    def never():
        pytest.fail("there is nothing to draw")

    pairs = (("A caption.", drawn()),)
    assert NOT_MEASURED[kind](figures=never).figures == ()
    assert NOT_MEASURED[kind](figures=pairs).figures == ()
    assert MEASURED[kind](figures=pairs).figures == pairs
    for figures in (dict(pairs), lambda: dict(pairs), lambda: pairs):
        assert MEASURED[kind](figures=figures).figures == pairs


@pytest.mark.parametrize("kind", MEASURED)
def test_controls_and_theory_are_plain_numbers(kind):
    given = {"a": torch.tensor(3), "b": np.float32(0.5), "c": True}
    found = decided(MEASURED[kind](controls=given, theory=np.float64(0.25)))
    assert found.controls == {"a": 3.0, "b": 0.5, "c": 1.0}
    assert {type(value) for value in (*found.controls.values(), found.theory)} == {float}
    assert Verdict.from_json(found.to_json()) == found
    assert MEASURED[kind](theory=math.nan).theory is None  # a closed form that there was nothing to compare with
    assert MEASURED[kind]().theory is None


def test_above_and_below_say_what_is_needed():
    assert below(0.05) == Needs(side="below", threshold=0.05)
