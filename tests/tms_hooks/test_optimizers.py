"""Optimizers against `torch.optim`, schedules by hand."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import tms_hooks as tms
from tms_hooks.training.optimizers import OPTIMIZERS

PAIRS = [
    (tms.Adam(lr=0.03), lambda p: torch.optim.Adam(p, lr=0.03)),
    (
        tms.Adam(lr=0.03, betas=(0.5, 0.9), eps=1e-3),
        lambda p: torch.optim.Adam(p, lr=0.03, betas=(0.5, 0.9), eps=1e-3),
    ),
    (tms.AdamW(lr=0.03, decay=0.3), lambda p: torch.optim.AdamW(p, lr=0.03, weight_decay=0.3)),
    (tms.AdamW(lr=0.03), lambda p: torch.optim.AdamW(p, lr=0.03)),
    (tms.SGD(lr=0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
    (tms.SGD(lr=0.05, decay=0.3), lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.3)),
    (tms.SGD(lr=0.05, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    (tms.RMSprop(lr=0.01), lambda p: torch.optim.RMSprop(p, lr=0.01)),
    (tms.RMSprop(lr=0.01, alpha=0.9, eps=1e-4), lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, eps=1e-4)),
]


def test_every_optimizer_is_compared():
    assert {type(ours) for ours, _ in PAIRS} == set(OPTIMIZERS.values())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=[str(pair[0]) for pair in PAIRS])
def test_update_is_torch_optim(ours, theirs, dtype, tolerance):
    """500 steps down a curved valley with a moving target, so that no moment settles."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, generator=generator, dtype=dtype)
    targets = torch.randn(500, 3, 4, generator=generator, dtype=dtype)

    def gradient(w, step):
        return (w - targets[step]).detach() + 0.1 * w.detach() ** 3

    reference = start.clone().requires_grad_()
    optimizer = theirs([reference])
    w, first, second = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step in range(500):
        g = gradient(reference, step)  # the same gradients for both: rounding then cannot be amplified by the valley
        reference.grad = g
        optimizer.step()
        share, _ = ours.kept("W_E", ours.lr)
        w, first, second = ours.rule(w * share, g, first, second, *ours.scalars(step, ours.lr))
        assert_close(w, reference.detach(), rtol=tolerance, atol=tolerance)
    assert (w - start).abs().min() > 1e-3  # they moved


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=[str(pair[0]) for pair in PAIRS])
def test_scalars_of_many_updates_are_those_of_each(ours, theirs):
    counts, rates = np.arange(50), np.linspace(0.1, 0.2, 50)
    together = [np.broadcast_to(column, 50) for column in ours.scalars(counts, rates)]
    apart = [ours.scalars(count, rate) for count, rate in zip(counts.tolist(), rates.tolist(), strict=True)]
    # 1 - 0.999^k loses three digits, and numpy's powers differ from Python's in their last.
    np.testing.assert_allclose(np.transpose(together), apart, rtol=1e-12)


def rates(steps=5, **settings):
    optimizer = tms.SGD(lr=1.0, **settings)
    return [optimizer.learning_rate(step, steps) for step in range(steps)]


def test_schedules_by_hand():
    assert rates() == [1, 1, 1, 1, 1]
    assert rates(schedule="linear") == [1, 0.75, 0.5, 0.25, 0]
    assert rates(schedule="linear", final_lr=0.5) == [1, 0.875, 0.75, 0.625, 0.5]
    # (1 + cos(pi t)) / 2 at t = 0, 1/4, 1/2, 3/4, 1
    root = math.sqrt(0.5)
    assert rates(schedule="cosine") == pytest.approx([1, (1 + root) / 2, 0.5, (1 - root) / 2, 0])
    assert rates(schedule="cosine", final_lr=0.2)[2] == pytest.approx(0.6)
    assert rates(schedule="exponential", final_lr=0.0001) == pytest.approx([1, 0.1, 0.01, 0.001, 0.0001])


def test_warmup_then_exponential_by_hand():
    """The schedule of the bias study: linear from .05 to 2, then geometrically to .1."""
    optimizer = tms.Adam(lr=2.0, schedule="exponential", warmup=0.4, initial_lr=0.05, final_lr=0.1)
    found = [optimizer.learning_rate(step, 10) for step in range(10)]
    assert found[:4] == pytest.approx([0.05, 0.05 + 1.95 / 4, 0.05 + 1.95 / 2, 0.05 + 1.95 * 3 / 4])
    assert found[4:] == pytest.approx([2 * 0.05 ** (t / 5) for t in range(6)])
    assert found[9] == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "exponential"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.333, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000])
def test_rates_stay_between_their_ends_and_rise_then_fall(schedule, warmup, steps):
    optimizer = tms.Adam(lr=0.5, schedule=schedule, warmup=warmup, initial_lr=0.1, final_lr=0.2)
    found = [optimizer.learning_rate(step, steps) for step in range(steps)]
    assert all(0.1 <= rate <= 0.5 for rate in found)
    peak = found.index(max(found))
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    if not warmup:
        assert found[0] == 0.5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tms.Adam(lr=0.0), "lr=0.0: must be positive and finite"),
        (lambda: tms.Adam(lr=-1.0), "lr=-1.0: must be positive"),
        (lambda: tms.Adam(lr=math.nan), "lr=nan: must be positive"),
        (lambda: tms.Adam(lr=math.inf), "lr=inf: must be positive"),
        (lambda: tms.Adam(betas=(0.9, 1.0)), r"beta=1.0: must be in \[0, 1\)"),
        (lambda: tms.Adam(eps=-1e-8), "eps=-1e-08: must be finite and not negative"),
        (lambda: tms.AdamW(decay=math.nan), "decay=nan: must be finite and not negative"),
        (lambda: tms.SGD(decay={"W_E": -1.0}), r"decay\['W_E'\]=-1.0: must be finite and not negative"),
        (lambda: tms.Adam(pull=-1.0), "pull=-1.0: must be finite and not negative"),
        (lambda: tms.SGD(momentum=1.0), r"momentum=1.0: must be in \[0, 1\)"),
        (lambda: tms.SGD(momentum=-0.1), "momentum=-0.1"),
        (lambda: tms.RMSprop(alpha=1.5), "alpha=1.5"),
        (lambda: tms.RMSprop(eps=math.inf), "eps=inf"),
        (lambda: tms.SGD(warmup=1.0), r"warmup=1.0: .*in \[0, 1\)"),
        (lambda: tms.SGD(initial_lr=-0.1), "initial_lr=-0.1: must be finite and not negative"),
        (lambda: tms.SGD(initial_lr=math.nan), "initial_lr=nan"),
        (lambda: tms.SGD(final_lr=-0.1), "final_lr=-0.1"),
        (lambda: tms.SGD(schedule="exponential"), "geometric decay never reaches 0; give a positive final_lr"),
    ],
)
def test_impossible_values_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
