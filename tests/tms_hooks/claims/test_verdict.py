"""Verdicts: what decides a part, what decides a claim, and how shares and other statistics become a part."""

import math
from dataclasses import replace

import numpy as np
import planned
import plotly.graph_objects as go
import pytest
import torch
from planned import decided, verdict

from tms_hooks.claims import UNKNOWN, Part, Verdict, share, statistic, unmeasurable
from tms_hooks.claims.convergence import Convergence
from tms_hooks.claims.verdict import side_of
from tms_hooks.stats import bootstrap

REST = {"n_models": 10, "controls": {}, "detail": ""}


def outcome(part: Part, side: str = "above", threshold: float = 0.5) -> str:
    null = "none" if part.null is None else "untrained models"
    return decided(Verdict(parts={"all": part}, **REST), side, threshold, null).verdict


def part(**changes) -> Part:
    return Part(**planned.PART | changes)


# Deciding


@pytest.mark.parametrize(
    ("changes", "side", "found"),
    [
        ({"interval": (0.6, 0.9)}, "above", "supported"),
        ({"interval": (0.6, 0.9)}, "below", "refuted"),
        ({"interval": (0.2, 0.4), "statistic": 0.3}, "above", "refuted"),
        ({"interval": (0.2, 0.4), "statistic": 0.3}, "below", "supported"),
        ({"interval": (0.4, 0.9)}, "above", "too few models"),
        ({"interval": (0.5, 0.9)}, "above", "too few models"),  # touching is not beyond
        ({"interval": (0.4, 0.62), "statistic": 0.51}, "above", "too few models"),  # it may as well be 0.6
        ({"interval": (0.45, 0.551), "statistic": 0.5}, "above", "too few models"),
        ({"interval": (0.46, 0.54), "statistic": 0.51}, "above", "at the threshold"),
        ({"interval": (0.5, 0.5), "statistic": 0.5}, "below", "at the threshold"),
        ({"interval": UNKNOWN, "statistic": math.nan, "n": 0}, "above", "not measurable"),
        ({"interval": (0.0, 0.3), "statistic": math.nan}, "above", "refuted"),  # whatever it is, it is below
        ({"interval": (0.0, 0.9), "statistic": math.nan}, "above", "not measurable"),
    ],
)
def test_interval_and_threshold_decide(changes, side, found):
    assert outcome(part(**changes), side) == found


@pytest.mark.parametrize(
    ("margin", "side", "found"),
    [
        ((0.1, 0.3), "above", "supported"),
        ((-0.1, 0.3), "above", "does not distinguish"),
        ((-0.3, -0.1), "above", "does not distinguish"),  # the null does better
        ((0.0, 0.3), "above", "does not distinguish"),
        (UNKNOWN, "above", "does not distinguish"),
    ],
)
def test_a_null_must_be_beaten(margin, side, found):
    assert outcome(part(null=0.6, margin=margin), side) == found


def test_below_the_threshold_the_null_must_be_above():
    low = {"interval": (0.1, 0.3), "statistic": 0.2, "null": 0.4}
    assert outcome(part(**low, margin=(-0.3, -0.1)), "below") == "supported"
    assert outcome(part(**low, margin=(0.1, 0.3)), "below") == "does not distinguish"


def test_a_null_saves_nothing_that_is_refuted():
    assert outcome(part(interval=(0.1, 0.3), statistic=0.2, null=0.0, margin=(0.1, 0.3))) == "refuted"


@pytest.mark.parametrize("longer", [0.69, 0.91])
@pytest.mark.parametrize("interval", [(0.7, 0.9), (0.1, 0.3), (0.4, 0.6)])
def test_what_longer_training_moves_out_of_its_interval_is_not_decided(longer, interval):
    tried = Convergence(0.8, (0.7, 0.9), longer, 12)
    assert outcome(part(interval=interval, convergence=tried)) == "not converged"
    assert outcome(part(interval=interval, convergence=tried._replace(longer=0.75))) != "not converged"


def test_a_move_that_can_change_nothing_is_no_move():
    narrow = part(
        statistic=0.984, interval=(0.9835, 0.9845), convergence=Convergence(0.984, (0.9835, 0.9845), 0.98, 12)
    )
    assert outcome(narrow) == "supported"  # 0.004 of 0.484
    assert outcome(replace(narrow, convergence=narrow.convergence._replace(longer=0.979))) == "not converged"


def test_of_several_parts_none_is_the_sole_one():
    with pytest.raises(ValueError, match="ask one of 'short', 'long' of `parts`"):
        _ = Verdict(parts={"short": part(), "long": part()}, **REST).sole


def test_how_many_models_would_decide_by_hand():
    # 0.2 from the threshold, and the interval reaches 0.3 down: it must shrink to 2/3, so 9/4 of the models.
    found = decided(Verdict(parts={"all": part(statistic=0.7, interval=(0.4, 0.8), n=40)}, **REST)).sole
    np.testing.assert_allclose(found.n_to_decide, 90)
    assert "About 90 models would decide" in found.paragraph


@pytest.mark.parametrize("side", ["above", "below"])
@pytest.mark.parametrize("share_held", [0.375, 0.4375, 0.46875, 0.5, 0.53125, 0.5625, 0.625])
def test_with_more_models_no_outcome_goes_back_to_too_few(share_held, side):
    """Of the same share of 32 ... 131,072 models: too few, perhaps at the threshold, decided; `n_to_decide` agrees."""
    order = {"too few models": 0, "at the threshold": 1, "supported": 2, "refuted": 2}
    sizes = [32 * 2**i for i in range(13)]
    parts = [decided(Verdict(parts={"all": share("", (int(share_held * n), n))}, **REST), side).sole for n in sizes]
    ranks = [order[part.outcome] for part in parts]
    assert ranks == sorted(ranks)
    assert (ranks[0], ranks[-1]) == (0, 1 if share_held == 0.5 else 2)
    enough = sizes[min(i for i, rank in enumerate(ranks) if rank)]
    few = [part.n_to_decide for part, rank in zip(parts, ranks, strict=True) if not rank]
    assert all(enough / 2.2 < n < 1.1 * enough for n in few)  # sizes double, and Wilson's interval is not quite even


def test_what_counts_as_at_the_threshold_grows_with_thresholds_beyond_one():
    near = part(statistic=20.1, interval=(19.2, 20.9))
    assert outcome(near, threshold=20) == "at the threshold"
    assert outcome(replace(near, interval=(18.9, 20.9)), threshold=20) == "too few models"
    assert outcome(part(statistic=0.0, interval=(-0.04, 0.04)), threshold=0) == "at the threshold"
    assert outcome(part(statistic=0.0, interval=(-0.5, 0.5)), threshold=0) == "too few models"


def test_the_p_value_agrees_with_the_interval():
    at_edge = decided(Verdict(parts={"all": part(statistic=0.7, interval=(0.5, 0.8))}, **REST)).sole
    np.testing.assert_allclose(at_edge.p, 0.05, rtol=1e-6)
    twice = decided(Verdict(parts={"all": part(statistic=0.7, interval=(0.6, 0.8))}, **REST)).sole
    np.testing.assert_allclose(twice.p, 8.86e-5, rtol=1e-2)  # z = 3.92
    assert decided(Verdict(parts={"all": part(statistic=0.7, interval=(0.7, 0.7))}, **REST)).sole.p == 0


@pytest.mark.parametrize("interval", [(0.6, 0.4), (math.nan, 1.0), (0.0, math.nan)])
def test_what_is_no_interval_decides_nothing(interval):
    with pytest.raises(ValueError, match="low <= high"):
        side_of(interval, 0.5)


@pytest.mark.parametrize("asked", [lambda v: v.verdict, lambda v: v.paragraph, Verdict.record])
def test_a_verdict_that_no_claim_has_decided_has_no_outcome(asked):
    with pytest.raises(ValueError, match=r"no claim has decided.*Claim\.decide"):
        asked(verdict())
    asked(decided(verdict()))


def test_the_outcome_cannot_be_typed_in():
    with pytest.raises(TypeError):
        Part(**planned.PART, outcome="supported")
    with pytest.raises(AttributeError):
        decided(verdict()).verdict = "supported"


# Claims of several parts


TWO = """Two things.

Part "first": "the one". Statistic: a share. Threshold: above 1/2. Null: none.
Part "second": "the other". Statistic: a share. Threshold: below 1/2. Null: none.
Beyond the source "third": Statistic: a share. Threshold: above 1/2. Null: untrained models.
Size: 3 or 30. Controls: none.
"""


def of_three(*intervals, null=0.1) -> Verdict:
    def measure(n_models: int) -> Verdict:
        raise AssertionError("nobody runs it")

    measure.__doc__ = TWO
    parts = {
        name: part(interval=interval, statistic=sum(interval) / 2)
        for name, interval in zip(("first", "second", "third"), intervals, strict=True)
    }
    parts["third"] = replace(parts["third"], null=null, margin=(0.1, 0.2))
    return planned.planned(measure).decide(Verdict(parts=dict(reversed(parts.items())), **REST))


HIGH, LOW = (0.7, 0.9), (0.1, 0.3)


@pytest.mark.parametrize(
    ("intervals", "headline"),
    [
        ((HIGH, LOW, LOW), "supported"),  # what is beyond the source decides nothing
        ((LOW, HIGH, HIGH), "refuted"),
        ((HIGH, HIGH, HIGH), "in part"),
        ((HIGH, (0.4, 0.8), HIGH), "in part"),
        (((0.4, 0.8), (0.2, 0.6), HIGH), "too few models"),
    ],
)
def test_the_headline_is_that_of_the_source_s_parts(intervals, headline):
    found = of_three(*intervals)
    assert found.verdict == headline
    assert list(found.parts) == ["first", "second", "third"]  # in the order in which they are promised
    assert [part.beyond for part in found.parts.values()] == [False, False, True]
    assert "third (beyond the source): " in found.paragraph
    with pytest.raises(ValueError, match="ask one of 'first', 'second', 'third'"):
        _ = found.sole


def test_a_null_that_is_promised_must_be_measured():
    with pytest.raises(ValueError, match='promises that part "third" beats a null'):
        of_three(HIGH, LOW, HIGH, null=None)


@pytest.mark.parametrize("names", [["first"], ["first", "second", "third", "fourth"], ["a", "b", "c"]])
def test_parts_that_were_not_promised_are_refused(names):
    def measure(n_models: int) -> Verdict:
        raise AssertionError("nobody runs it")

    measure.__doc__ = TWO
    with pytest.raises(ValueError, match="its docstring has first, second, third"):
        planned.planned(measure).decide(Verdict(parts=dict.fromkeys(names, part()), **REST))


def test_the_paragraph_is_made_of_the_numbers():
    text = decided(verdict(theory=0.75, null=0.2, margin=(0.3, 0.7), optimum=1.0), null="untrained models").paragraph
    for found in ("Supported", "0.8", "0.7 to 0.9", "above 0.5", "40 models", "Theory: 0.75", "More."):
        assert found in text
    assert "Null, untrained models: 0.2 (difference 0.3 to 0.7)." in text
    assert "The model of lowest loss: 1." in text
    nothing = decided(Verdict(parts={"all": unmeasurable("The share", "all models diverged")}, **REST)).paragraph
    assert "Not measurable: The share could not be measured, since all models diverged" in nothing
    # A refutation says what refutes: a share that could be measured.
    assert "lies between 0 and 0.3 (" in decided(verdict(statistic=math.nan, interval=(0.0, 0.3))).paragraph


# Shares


def test_a_share_has_the_interval_of_wilson():
    found = share("The share", (5, 10))
    assert (found.measured, found.statistic, found.n) == ("The share", 0.5, 10)
    # By hand: z = 1.96; center 1/2; half-width z / (1 + z^2/10) sqrt(0.025 + z^2/400) = 1.4160 x 0.1860
    np.testing.assert_allclose(found.interval, (0.2366, 0.7634), atol=1e-4)


def test_booleans_are_counted():
    held = np.array([True, True, False, True])
    assert share("The share", held.tolist(), null=(~held).tolist()) == share("The share", held, null=~held)
    assert share("The share", held, null=~held) == share("The share", (3, 4), null=(1, 4))


def test_the_margin_to_a_share_is_newcombe_s():
    found = share("The share", (56, 70), null=(48, 80))
    assert found.null == 0.6
    np.testing.assert_allclose(found.margin, (0.0524, 0.3339), atol=1e-4)  # the paper's example
    np.testing.assert_allclose(share("The share", (56, 70), null=0.6).margin, np.array(found.interval) - 0.6)
    np.testing.assert_allclose(found.interval[0], 0.6918, atol=1e-4)


@pytest.mark.parametrize("held", [(0, 0), np.array([], dtype=bool)])
def test_shares_without_trials_are_not_measurable(held):
    found = share("The share", held, null=(1, 2), unit="heads")
    assert (outcome(found), found.why) == ("not measurable", "there are no heads to count")


def test_a_null_without_trials_is_not_beaten():
    assert outcome(share("The share", (40, 40), null=(0, 0))) == "does not distinguish"


# Other statistics


def test_samples_are_resampled_apart_and_rows_stay_together():
    """The second column follows the first, so that the mean of their difference never varies."""
    rows = np.arange(20.0)[:, None] + np.array([0.0, 3.0])
    found = statistic("The difference", lambda a, b: float((a[:, 1] - a[:, 0]).mean() - b.mean()), rows, np.ones(9))
    assert (found.statistic, found.interval, found.n) == (2.0, (2.0, 2.0), 9)


def test_a_mean_has_the_interval_of_bca():
    x = np.random.default_rng(1).exponential(size=60)
    low, high = found = statistic("The mean", np.mean, x).interval
    assert x.mean() - low < high - x.mean()  # skewed to the right, as the data are
    assert found == bootstrap(np.mean, x)


def test_the_null_of_a_statistic_is_measured_by_the_same_function():
    x = np.random.default_rng(0).normal(size=40)
    apart, same = (statistic("The mean", np.mean, x + 3, null=(x + shift,)) for shift in (0, 3))
    np.testing.assert_allclose((apart.null, same.null), (x.mean(), x.mean() + 3))
    assert apart.margin[0] > 2
    assert (outcome(apart), outcome(same)) == ("supported", "does not distinguish")
    assert outcome(statistic("The mean", np.mean, x + 3, null=0.0)) == "supported"
    assert outcome(statistic("The mean", np.mean, x + 3, null=3.0)) == "does not distinguish"
    assert outcome(statistic("The mean", np.mean, x + 3, null=(x[:3],))) == "does not distinguish"


@pytest.mark.parametrize("samples", [(), (np.ones(0),), (np.ones(7),), (np.ones(9), np.ones(1))])
def test_a_small_sample_is_not_measured(samples):
    def never(*given):
        pytest.fail("there is nothing to measure")

    found = statistic("The mean", never, *samples)
    assert (outcome(found), found.interval) == ("not measurable", UNKNOWN)
    assert "a bootstrap needs 8 models" in found.why


@pytest.mark.parametrize(
    "function",
    [lambda m: math.nan, lambda m: math.nan if len(set(m)) < 4 else 9.0],  # of resamples, some are nearly constant
)
def test_a_statistic_that_is_nan_is_not_measured(function):
    assert outcome(statistic("The mean", function, np.arange(8.0))) == "not measurable"


# A verdict


def drawn() -> go.Figure:
    return go.Figure(go.Bar(x=["a"], y=[1.0]))


def test_numbers_are_plain_and_all_of_it_can_be_stored():
    given = {"a": torch.tensor(3), "b": np.float32(0.5), "c": True}
    made = Part(**planned.PART | {"null": 0.1, "margin": (0.2, 0.3), "optimum": 1.0})
    made = replace(made, convergence=Convergence(0.5, (0.4, 0.6), 0.45, 9))
    found = decided(
        Verdict(
            parts={"all": made}, n_models=9, controls=given, theory=np.float64(0.25), detail="", figures={"x": drawn()}
        ),
        null="untrained",
    )
    assert found.controls == {"a": 3.0, "b": 0.5, "c": 1.0}
    assert {type(value) for value in (*found.controls.values(), found.theory)} == {float}
    again = Verdict.from_json(found.to_json())
    assert again == found
    assert (again.verdict, again.paragraph, again.record()) == (found.verdict, found.paragraph, found.record())
    assert again.figures == (("x", drawn()),)
    assert verdict(theory=math.nan).theory is None  # a closed form that there was nothing to compare with


# Edges, worked by hand


def sole(**changes) -> Part:
    """A part that is decided at the threshold 0, above it."""
    return decided(Verdict(parts={"all": part(**changes)}, **REST), "above", changes.pop("threshold", 0)).sole


def test_what_reaches_exactly_as_far_as_the_resolution_is_at_the_threshold():
    assert outcome(part(statistic=0.0, interval=(-0.05, 0.05)), threshold=0) == "at the threshold"


@pytest.mark.parametrize(
    ("statistic", "interval", "wanted"),
    [
        (0.02, (-0.30, 0.10), 0.32 / 0.07),  # at the threshold once -0.3 has come up to -0.05 and 0.1 down to 0.05
        (0.02, (-0.10, 0.30), 0.12 / 0.02),  # the side by then, before 0.3 is down to 0.05
        (0.02, (-0.30, 0.30), 0.28 / 0.03),
        (0.05, (-0.20, 0.30), 0.25 / 0.05),  # it is at the edge: it can only come to its side
        (-0.02, (-0.10, 0.30), 0.32 / 0.07),
        (0.00, (-0.20, 0.30), 0.30 / 0.05),
    ],
)
def test_how_much_an_interval_must_shrink(statistic, interval, wanted):
    np.testing.assert_allclose(sole(statistic=statistic, interval=interval, n=10).n_to_decide, 10 * wanted**2)


@pytest.mark.parametrize(
    ("statistic", "interval", "p"),
    [
        (-0.2, (-0.9, 0.0), 0.05),  # the end towards the threshold counts
        (0.2, (0.0, 0.9), 0.05),
        (0.0, (-0.1, 0.3), 1.0),
        (0.0, (0.0, 0.0), 1.0),
        (0.2, UNKNOWN, math.nan),
        (math.nan, (-0.1, 0.3), math.nan),
    ],
)
def test_a_p_value_on_either_side(statistic, interval, p):
    np.testing.assert_allclose(sole(statistic=statistic, interval=interval).p, p, rtol=1e-6)


def test_exactly_as_many_rows_as_a_bootstrap_needs_are_measured():
    eight = np.arange(8.0)
    found = statistic("The mean", np.mean, eight, null=(eight - 20,))
    assert (found.statistic, found.null, found.n) == (3.5, -16.5, 8)
    assert found.margin[0] > 0
    two = statistic("The difference", lambda a, b: float(a.mean() - b.mean()), eight, eight, null=(eight, eight[:7]))
    assert math.isnan(two.null) and two.margin == UNKNOWN  # one of the null's samples is too small
    assert "and there are 0" in statistic("The mean", np.mean).why


def test_a_statistic_or_a_null_that_is_nan_says_so():
    found = statistic("The mean", lambda rows: math.nan, np.arange(8.0))
    assert (found.n, found.why) == (0, "it is not a number, for these or for some resampled ones")
    eight = np.arange(8.0)
    null = statistic("The mean", lambda m: m.mean() if m.mean() >= 0 else math.nan, eight, null=(eight - 20,))
    assert math.isnan(null.null) and null.margin == UNKNOWN


def test_a_paragraph_names_parts_where_there_are_several():
    one = decided(verdict())
    assert one.paragraph.startswith("Supported: The share is")

    def measure(n_models: int) -> Verdict:
        raise AssertionError("nobody runs it")

    measure.__doc__ = TWO.replace('Beyond the source "third": Statistic: a share.', "").replace(
        " Threshold: above 1/2. Null: untrained models.\n", ""
    )
    both = planned.planned(measure).decide(Verdict(parts={"first": part(), "second": part()}, **REST))
    assert both.paragraph.startswith("first: Supported: ") and " second: Refuted: " in both.paragraph


def test_what_a_verdict_is_when_nothing_has_run_it_and_how_its_seconds_are_told():
    found = decided(verdict())
    assert (found.seconds, found.seed) == (0.0, 0)
    assert replace(found, seconds=1.23456).record()["seconds"] == 1.235
    assert replace(found, figures=()) == found  # figures are made from the numbers


def test_a_share_that_is_bounded_on_one_side_alone_could_not_be_measured():
    text = decided(verdict(statistic=math.nan, interval=(0.0, math.inf), why="none ended")).paragraph
    assert "The share could not be measured, since none ended" in text
