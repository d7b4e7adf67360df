"""Claims of `tms_hooks.claims.dynamics`, each in a world where it holds and in one where it is false."""

import numpy as np
import torch
from worlds import MODELS, outcomes_of, random_directions

from tms_hooks.claims.dynamics import Course, judge_steps, judge_transformations
from tms_hooks.linalg import random_rotations


def course(jumps_at: int, falls_at: int | None, models: int = MODELS, steps: int = 201) -> Course:
    """One feature jumps from 1/2 to 2/3 at some record; the loss falls at another, or evenly if None."""
    time = np.arange(steps)
    D = np.where(time < jumps_at, 1 / 2, 2 / 3)
    fall = np.linspace(0, 1, steps) if falls_at is None else (time >= falls_at).astype(float)
    wobble = 1e-4 * np.random.default_rng(0).normal(size=(models, steps, 2))
    D = np.stack([np.broadcast_to(D, (models, steps)), np.full((models, steps), 0.5)], axis=2) + wobble
    return Course(np.broadcast_to(2 - fall, (models, steps)) + 0.1 * wobble[..., 0], D)


def test_energy_levels_of_learning():
    outcomes = outcomes_of("energy-levels-of-learning")
    jumps, smooth = course(100, 100), course(100, None)

    def judge(found, sparse=jumps):
        return outcomes(judge_steps(found, sparse, {}))

    assert set(judge(jumps).values()) == {"supported"}
    assert judge(smooth, smooth)["jumps"] == "refuted"  # the loss falls evenly
    assert judge(course(100, 150))["jumps"] == "refuted"  # it falls elsewhere
    assert judge(course(25, 25))["jumps"] == "does not distinguish"  # it falls at the start only, where it levels off
    assert judge(course(100, 100, models=1))["jumps"] == "not measurable"


def test_learning_as_transformations():
    outcomes = outcomes_of("learning-as-transformations")
    across = torch.cat([torch.eye(3), -torch.eye(3)])
    within = across[[0, 3, 1, 4, 2, 5]]  # two of its antipodal pairs are inside the halves
    together = torch.eye(3)[[0, 0, 0, 1, 1, 1]]
    turns = random_rotations(3, MODELS).float()
    start = random_directions(torch.ones(MODELS, 6, 3))

    def course(*shapes: torch.Tensor) -> torch.Tensor:
        return torch.stack([start, *(W @ turns for W in shapes)])

    through, straight, else_ = course(together, across), course(across, across), course(within, within)

    def judge(found, small=through, null=else_):
        return outcomes(judge_transformations(found, null, small, else_))

    assert set(judge(through).values()) == {"supported"}
    assert judge(straight) == {
        "octahedron": "supported",
        "PCA first": "refuted",
        "PCA first, from a small start": "supported",
    }
    assert set(judge(else_, small=else_).values()) == {"refuted"}
    assert judge(course(together, together))["octahedron"] == "refuted"  # they stay there
    assert judge(through, null=through)["octahedron"] == "does not distinguish"
