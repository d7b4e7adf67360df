"""Claims about interference, each part in a world where it holds and in one where it is false."""

import numpy as np
import torch
from worlds import MODELS, UNDECIDED, outcomes_of, ring

from tms_hooks.claims import interference
from tms_hooks.claims.interference import DENSE, SPARSE, WIDTHS
from tms_hooks.geometry.polytopes import ideal_polytopes


def pentagons(m: int) -> torch.Tensor:
    """A tegum product of m / 2 pentagons, the same in every model."""
    pentagon = ideal_polytopes(5)["pentagon"].float()
    return torch.block_diag(*[pentagon] * (m // 2)).expand(MODELS, -1, -1)


def spread(m: int, seed: int) -> torch.Tensor:
    noise = torch.randn(MODELS, 4 * m, m, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(noise, dim=-1)


def test_interference_mean_vs_max():
    outcomes = outcomes_of("interference-mean-vs-max")
    sphere = {m: spread(m, m) for m in WIDTHS}
    tegum = {m: pentagons(m) for m in WIDTHS}

    found = interference.judge_overlaps(tegum, {DENSE: tegum, SPARSE: sphere})
    assert set(outcomes(found).values()) == {"supported"}
    np.testing.assert_allclose(
        found.parts["sparse graphs"].statistic, found.controls["slope, tegum product of pentagons"], rtol=1e-6
    )
    assert found.controls[f"tegum factors per dimension, p = {DENSE}"] == 1 / 2
    # The root mean square of any tight frame of as many directions is the same: only the mean can tell.
    rms = [interference.direction_overlaps(tegum[m]).rms.mean() for m in WIDTHS]
    np.testing.assert_allclose(rms, [interference.theory.welch_bound(5 * m // 2, m) for m in WIDTHS], rtol=1e-6)

    found = outcomes(interference.judge_overlaps(sphere, {DENSE: sphere, SPARSE: tegum}))
    assert (found["sparse graphs"], found["phases"], found["factors"]) == ("refuted",) * 3
    found = outcomes(interference.judge_overlaps(sphere, {DENSE: sphere, SPARSE: sphere}))
    assert found["phases"] == "refuted"  # no two phases
    lost = interference.judge_overlaps(sphere | {8: 0 * sphere[8]}, {DENSE: tegum, SPARSE: sphere})
    assert outcomes(lost)["sparse graphs"] in UNDECIDED


def test_overlaps_by_hand():
    W = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 0.01], [3**0.5, 1.0]]])  # the first two are one direction
    found = interference.direction_overlaps(W)  # only one pair left, at 30 degrees
    for value in found:
        np.testing.assert_allclose(value, [3**0.5 / 2], rtol=1e-6)
    assert len(interference.direction_overlaps(W[:, :2]).mean) == 0


def test_two_active():
    outcomes = outcomes_of("two-active")

    def polygon(corners: int, features: int) -> torch.Tensor:
        return ring(corners, corners)[:, torch.arange(features) % corners]

    sizes = (5, 8, 40)
    five, four = ({n: polygon(corners, n) for n in sizes} for corners in (5, 4))
    nine = ideal_polytopes(9)["tricapped triangular prism"].float().expand(MODELS, -1, -1)

    def judge(two, solid=nine):
        return interference.judge_active(two, five, four[8], four, (solid, 0 * solid))

    assert set(outcomes(judge(five)).values()) == {"supported"}
    assert judge(five).controls["five directions, three active, n = 8"] == 0
    assert set(outcomes(judge(four, 0 * nine)).values()) == {"refuted"}
    half = torch.cat([polygon(5, 40)[:10], polygon(4, 40)[:10]])
    assert outcomes(judge(five | {40: half}))["survive"] in UNDECIDED
    assert outcomes(judge({n: 0 * W for n, W in five.items()}))["survive"] == "refuted"
