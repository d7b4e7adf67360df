"""What a docstring promises, and that training for longer is tried."""

import planned
import pytest

from tms_hooks import OneHot, ToyConfig
from tms_hooks.claims import Claim, Verdict, convergence, lab, share
from tms_hooks.claims.design import Needs, above, below, statements

PART = 'Part "{}": "{}". Statistic: a share. Threshold: {}. Null: {}.'
ENDS = "\nSize: 3. Controls: none."


def test_parts_are_read_in_order():
    design = "It holds.\n\n" + PART.format("a", "the words\n    of it", "above\n 2/3, for each", "untrained models")
    design += '\n\nBeyond the source "n = 10": Statistic: more. Threshold: below -0.5. Null: none, it is exact.' + ENDS
    first, second = statements(design).values()
    assert first == ("a", "the words of it", False, "a share.", above(2 / 3), "untrained models.")
    assert second == ("n = 10", "", True, "more.", below(-0.5), "none, it is exact.")
    assert (first.has_null, second.has_null) == (True, False)


def test_a_docstring_of_one_part_needs_no_name():
    [sole] = statements("It holds. Statistic: a share. Threshold: above 0.5. Null: none of this." + ENDS).values()
    assert (sole.name, sole.quote, sole.needs) == ("all", "", Needs("above", 0.5))


@pytest.mark.parametrize(
    ("design", "rule"),
    [
        (PART.format("a", "b", "above 1/2", "none"), 'lacks "Size:" and "Controls:"'),
        (PART.format("a", "b", "above 1/2", "none").replace("Null", "Nil") + ENDS, 'part "a" lacks "Null:"'),
        (PART.format("a", "b", "half of them", "none") + ENDS, '"half of them." cannot be read'),
        (PART.format("a", "b", "at least above 1/2", "none") + ENDS, "cannot be read"),
        (PART.format("a", "b", "above 1/2", "none").replace('"b"', "b") + ENDS, "quotes no source"),
        (2 * PART.format("a", "b", "above 1/2", "none") + ENDS, 'two parts are named "a"'),
        (
            'Beyond the source "a": Statistic: a share. Threshold: above 1. Null: none.' + ENDS,
            "all parts are beyond the source",
        ),
    ],
)
def test_what_is_not_promised_in_full_is_refused(design, rule):
    with pytest.raises(ValueError, match=rule):
        statements("It holds. " + design)


def learned_within(threshold: float, steps: int) -> Claim:
    def measure(n_models: int) -> Verdict:
        run = lab.train_toys(ToyConfig(1, 1, output_bias=False), OneHot(1), n_models, steps=steps)
        held = (run.W_E.flatten().abs() > threshold).numpy()
        return Verdict(parts={"all": share("The share", held)}, n_models=n_models, controls={}, detail="")

    measure.__doc__ = "It is. Statistic: a share. Threshold: above 1/2. Null: none. Size: 8 or 24. Controls: none."
    return Claim("a", "H", 8, 24, measure)


def test_a_statistic_that_longer_training_moves_is_not_converged():
    short, long = (learned_within(0.97, steps).run().sole for steps in (150, 1_000))
    assert short.convergence.statistic < short.convergence.interval[1] < short.convergence.longer
    assert (short.outcome, long.outcome) == ("not converged", "supported")
    assert long.convergence.n_models == 8
    assert learned_within(0.97, 150).run(quick=True).sole.convergence is None


def test_what_trains_nothing_is_not_checked():
    assert planned.planned(planned.one_thread).run().sole.convergence is None


def test_longer_trainings_are_remembered_apart():
    cfg, data = ToyConfig(2, 1), OneHot(2)
    once = lab.train_toys(cfg, data, 2, steps=5)
    with convergence.longer(3):
        assert lab.train_toys(cfg, data, 2, steps=5).recipe.total_steps == 15
    assert lab.train_toys(cfg, data, 2, steps=5) is once
    assert once.recipe.total_steps == 5
