"""Claims of `tms_hooks.claims.dynamics`, each in a world where it holds and in one where it is false."""

import numpy as np
from worlds import MODELS, UNDECIDED, outcome_of

from tms_hooks.claims.dynamics import Course, judge_steps


def course(jumps_at: int, falls_at: int | None, models: int = MODELS, steps: int = 201) -> Course:
    """One feature jumps from 1/2 to 2/3 at some record; the loss falls at another, or evenly if None."""
    time = np.arange(steps)
    D = np.where(time < jumps_at, 1 / 2, 2 / 3)
    fall = np.linspace(0, 1, steps) if falls_at is None else (time >= falls_at).astype(float)
    wobble = 1e-4 * np.random.default_rng(0).normal(size=(models, steps, 2))
    D = np.stack([np.broadcast_to(D, (models, steps)), np.full((models, steps), 0.5)], axis=2) + wobble
    return Course(np.broadcast_to(2 - fall, (models, steps)) + 0.1 * wobble[..., 0], D)


def test_energy_levels_of_learning():
    outcome = outcome_of("energy-levels-of-learning")
    smooth = course(100, None)
    found = judge_steps(course(100, 100), {})
    assert outcome(found) == "supported"
    assert found.controls["changes of D_i shifted in time"] < 0.3
    assert outcome(judge_steps(smooth, {"again": smooth})) == "refuted"  # the loss falls evenly
    assert outcome(judge_steps(course(100, 150), {})) == "refuted"  # it falls elsewhere
    assert outcome(judge_steps(course(100, 0), {})) in UNDECIDED  # it falls at the start only
    assert outcome(judge_steps(course(100, 100, models=1), {})) in UNDECIDED
