"""Claims about interference in worlds where they hold and where they are false."""

import numpy as np
import torch
from worlds import MODELS, UNDECIDED, outcome_of, ring

from tms_hooks.claims import interference
from tms_hooks.geometry.polytopes import ideal_polytopes


def pentagons(m: int) -> torch.Tensor:
    """A tegum product of m / 2 pentagons, the same in every model."""
    pentagon = ideal_polytopes(5)["pentagon"].float()
    return torch.block_diag(*[pentagon] * (m // 2)).expand(MODELS, -1, -1)


def spread(m: int, seed: int) -> torch.Tensor:
    noise = torch.randn(MODELS, 4 * m, m, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(noise, dim=-1)


def test_interference_mean_vs_max():
    outcome = outcome_of("interference-mean-vs-max")
    widths = (4, 8, 16, 32)
    sphere = {m: spread(m, m) for m in widths}
    tegum = {m: pentagons(m) for m in widths}

    found = interference.judge_overlaps(tegum, sphere)
    assert outcome(found) == "supported"
    np.testing.assert_allclose(found.statistic, found.controls["slope, tegum product of pentagons"], rtol=1e-6)
    assert abs(found.controls["slope, random directions"] + 0.5) < 0.1
    assert found.controls["tegum factors at m = 32"] == 16
    # The root mean square of any tight frame of as many directions is the same: only the mean can tell.
    rms = [interference.direction_overlaps(tegum[m]).rms.mean() for m in widths]
    np.testing.assert_allclose(rms, [interference.theory.welch_bound(5 * m // 2, m) for m in widths], rtol=1e-6)

    found = interference.judge_overlaps(sphere, tegum)
    assert outcome(found) == "refuted"
    assert found.controls["slope, sparse uniform features"] < -0.75
    assert found.controls["tegum factors at m = 32"] < 2
    assert outcome(interference.judge_overlaps(sphere | {32: 0 * sphere[32]}, tegum)) in UNDECIDED
    mixed = {m: torch.cat([tegum[m][:2, : 4 * m], spread(m, 0)[:2, : tegum[m].shape[1]]]) for m in widths}
    assert outcome(interference.judge_overlaps(mixed, tegum)) in UNDECIDED


def test_overlaps_by_hand():
    W = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 0.01], [3**0.5, 1.0]]])  # the first two are one direction
    found = interference.direction_overlaps(W)  # only one pair left, at 30 degrees
    for value in found:
        np.testing.assert_allclose(value, [3**0.5 / 2], rtol=1e-6)
    assert len(interference.direction_overlaps(W[:, :2]).mean) == 0


def test_two_active():
    outcome = outcome_of("two-active")

    def polygon(corners: int, features: int) -> torch.Tensor:
        return ring(corners, corners)[:, torch.arange(features) % corners]

    five, four, eight = ({n: polygon(corners, n) for n in (8, 20)} for corners in (5, 4, 8))

    def judge(two):
        return interference.judge_active(two, five, {"untrained": four}, {"one": torch.zeros(2, 9, 3)})

    found = judge(five)
    assert (outcome(found), found.statistic) == ("supported", 1.0)
    assert found.controls["untrained"] == 0
    assert outcome(judge(four)) == "refuted"
    assert outcome(judge(eight)) == "refuted"
    assert outcome(judge(five | {20: polygon(4, 20)})) == "refuted"  # one n is enough
    half = torch.cat([polygon(5, 20)[:10], polygon(4, 20)[:10]])
    assert outcome(judge(five | {20: half})) in UNDECIDED
    assert outcome(judge({n: 0 * W for n, W in five.items()})) == "refuted"
