"""Claims of `tms_hooks.claims.rays`, each part in a world where it holds and in one where it is false."""

import numpy as np
import pytest
import torch
from worlds import MODELS, outcomes_of, random_directions, ring

from tms_hooks.claims.rays import exchange_curvature, judge_frames, judge_rays, takeover, tightness


def shared(lengths: tuple[float, float], models: int = 8) -> torch.Tensor:
    """Pentagons of ten features, two on each direction, of these lengths."""
    W = ring(5, 5, models=models)
    return torch.cat([lengths[0] * W, lengths[1] * W], dim=1)


def test_exchanging_length_costs_nothing_behind_a_relu_only():
    s = 0.97  # not the norm of least loss: the three lines need none
    for a, b in ((0.6, 0.8), (0.9, 0.3)):
        W = shared((s * a, s * b), models=1)[0]
        n = 10
        h = 1e-4
        turned = W.double().clone()
        angle, size = np.arctan2(b, a) + h, s * np.hypot(a, b)
        turned[:5] = size * np.cos(angle) * W[:5].double() / (s * a)
        turned[5:] = size * np.sin(angle) * W[5:].double() / (s * b)
        before, after = (
            ((V @ V.T).relu() - torch.eye(n, dtype=torch.float64)).square().sum() for V in (W.double(), turned)
        )
        assert float(after - before) == pytest.approx(0, abs=1e-6)
        assert takeover(W, "relu", (0, 5)) == pytest.approx(0, abs=1e-6)
        assert takeover(W, "gelu", (0, 5)) < -0.01


def test_shared_ray_is_flat():
    outcomes = outcomes_of("shared-ray-is-flat")
    single = torch.cat([ring(5, 5, models=8), 0 * ring(5, 5, models=8)], dim=1)

    # The norm at which a pentagon of shared directions rests: curvature along an exchange is 0 only where the slope is.
    pentagon = ring(5, 5, models=1)[0]
    gram = (pentagon @ pentagon.T).relu().square().sum(1)[0]
    rest = float(1 / gram) ** 0.5
    trained = shared((rest * 0.6**0.5, rest * 0.4**0.5))
    assert (
        abs(exchange_curvature(trained[0], "relu", (0, 5))) < 1e-3 < abs(exchange_curvature(trained[0], "gelu", (0, 5)))
    )
    found = judge_rays(trained, single)
    assert set(outcomes(found).values()) == {"supported"}
    assert found.controls["pairs"] == 5 * 8
    turned = trained + 0.02 * torch.randn(trained.shape, generator=torch.Generator().manual_seed(0))
    worse = outcomes(judge_rays(turned, turned))  # not at rest, and nothing changes behind a GELU
    assert worse["no gradient"] == "refuted"
    assert worse["trained on"] == "refuted"
    assert outcomes(judge_rays(single, single))["GELU"] == "not measurable"  # no pairs


def test_tight_frames():
    outcomes = outcomes_of("tight-frames")
    tight, loose = ring(5, 5), random_directions(ring(5, 5))
    solid = torch.cat([torch.eye(3), -torch.eye(3)]).expand(MODELS, -1, -1)

    def judge(plane, more, sparse):
        return judge_frames(plane, {3: more}, {0.01: sparse, 0.3: sparse})

    assert set(outcomes(judge(tight, solid, tight)).values()) == {"supported"}
    assert set(outcomes(judge(loose, solid[:, :4], loose)).values()) == {"refuted"}
    assert tightness(0 * tight).tolist() == [1.0] * MODELS
