"""Claims of `tms_hooks.claims.attention`, each in a world where it holds and in one where it is false."""

import torch
from worlds import MODELS

from tms_hooks.claims import attention


def test_qk_recovers_features():
    W = torch.eye(5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def noise(scale: float) -> torch.Tensor:
        return scale * torch.randn(5, 5, generator=generator, dtype=torch.float64)

    right = [attention.Head(torch.outer(W[0], W[1]) + noise(0.03), W) for _ in range(MODELS)]
    untrained = [attention.Head(noise(1.0), W) for _ in range(MODELS)]
    shuffled = [attention.Head(head.omega, W.roll(1, 0)) for head in right]
    superposed = [attention.Head(head.omega, W[[0, 1, 2, 3, 1]]) for head in right]
    assert attention.judge_heads(right, right, untrained).verdict == "supported"
    assert attention.judge_heads(untrained, right, untrained).verdict == "refuted"
    assert attention.judge_heads(shuffled, right, untrained).verdict == "refuted"
    assert attention.judge_heads(superposed, right, untrained).verdict == "inconclusive"  # none has orthogonal features
