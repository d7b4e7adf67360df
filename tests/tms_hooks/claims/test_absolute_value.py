"""The claim of `tms_hooks.claims.absolute_value`, in a world where it holds and in worlds where it is false."""

import numpy as np
import torch
from worlds import MODELS, outcomes_of

from tms_hooks.claims.absolute_value import DENSE, SPARSE, judge_absolute


def test_absolute_value():
    outcomes = outcomes_of("absolute-value")
    sides = torch.cat([torch.eye(3), -torch.eye(3)], dim=1).expand(MODELS, 3, 6)
    ones = torch.ones_like(sides)
    write = torch.zeros(MODELS, 20, 8)
    noise = 1 + 0.5 * torch.rand(MODELS, 8, generator=torch.Generator().manual_seed(0))
    for q in range(8):
        write[:, q, q], write[:, q + 8, q] = 2 * noise[:, q], -0.5
    reciprocal = torch.where(write != 0, 1 / write, 0.0)
    like = torch.where(write != 0, write / 2, 0.0)
    rng = np.random.default_rng(0)

    def judge(three, read=reciprocal, sparse=9, start=0.1 * sides):
        counts = {DENSE: rng.integers(3, 5, MODELS), SPARSE: rng.integers(sparse, sparse + 3, MODELS)}
        many = {DENSE: (write, read), SPARSE: (write, read)}
        return outcomes(judge_absolute((three, ones), 0, (start, ones), many, counts))

    found = judge(sides)
    assert (found["two sides"], found["superposition"], found["more than two neurons allow"]) == ("supported",) * 3
    assert found["asymmetric"] == "supported"
    assert judge(sides.abs())["two sides"] == "refuted"  # two neurons for one side
    assert judge(sides.roll(1, dims=1) + sides)["two sides"] == "refuted"  # neurons that serve two
    assert judge(sides, read=like)["asymmetric"] == "refuted"  # read as they are written
    assert judge(sides, sparse=5)["superposition"] == "refuted"
    assert judge(sides, sparse=1)["more than two neurons allow"] == "refuted"
    assert judge(sides, start=sides)["two sides"] == "does not distinguish"
