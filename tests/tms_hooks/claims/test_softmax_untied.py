"""The claim about untied softmax models in worlds where it holds and where it is false."""

from math import pi

import numpy as np
import torch
from worlds import MODELS, outcome_of

from tms_hooks import OneHot, ToyConfig, train
from tms_hooks.claims import softmax_untied
from tms_hooks.claims.softmax import DOCUMENT, Tied
from tms_hooks.claims.softmax_untied import Growth

N = 10


def grown(embed_at: int, unembed_at: int, learned: bool = True) -> Growth:
    """A circle whose two ends reach norm 3 at these of 30 steps."""
    turns = 2 * pi / N * torch.arange(N)
    unit = torch.stack([turns.cos(), turns.sin()], dim=-1).expand(MODELS, N, 2)
    step = torch.arange(30)[:, None, None, None]
    W_E, W_U = (0.1 + 2.9 * (step >= at) for at in (embed_at, unembed_at))
    other = unit if learned else unit.roll(1, dims=1)
    return Growth(np.arange(30), W_E * unit, W_U * other.mT)


def test_softmax_untied_unembed_first():
    outcome = outcome_of("softmax-untied-unembed-first")
    tied = Tied(grown(1, 1).W_E[-1], torch.zeros(MODELS, N))

    def judge(growth, small=None):
        return softmax_untied.judge_order({N: growth}, {N: small or growth}, {N: tied})

    found = judge(grown(20, 10))
    assert (outcome(found), found.statistic) == ("supported", 1.0)
    assert found.controls["features, unembed first, n = 10"] == 1
    assert found.controls["features, embed first, n = 10"] == 0
    assert found.controls["tied, all learned, n = 10"] == 1
    assert outcome(judge(grown(10, 20))) == "refuted"
    assert judge(grown(10, 20)).controls["features, embed first, n = 10"] == 1
    assert outcome(judge(grown(10, 10))) == "refuted"  # both at once
    assert outcome(judge(grown(20, 10, learned=False))) == "refuted"  # in the right order, but nothing is told apart
    half = [torch.cat([a[:, :10], b[:, :10]], dim=1) for a, b in zip(grown(20, 10)[1:], grown(10, 20)[1:], strict=True)]
    assert outcome(judge(Growth(np.arange(30), *half))) == "inconclusive"


def test_which_end_separates_first():
    # An end that is turned by one feature until some step separates nothing before it, whatever its norm.
    right = grown(0, 0)
    late = Growth(right.steps, torch.cat([right.W_E[:9].roll(1, dims=2), right.W_E[9:]]), right.W_U)
    assert softmax_untied._separates_first(late).all()
    assert not softmax_untied._separates_first(Growth(late.steps, late.W_U.mT, late.W_E.mT)).any()


def test_training_in_pieces_is_training_in_one_go():
    growth = softmax_untied.grow_untied(10, 2)
    cfg = ToyConfig(n_features=10, d_hidden=2, tied=False, output_bias=False, output_act="softmax")
    steps = int(growth.steps[-1])
    whole = train(cfg, OneHot(n_features=10), seeds=range(2), steps=steps, optimizer=DOCUMENT, loss="cross_entropy")
    torch.testing.assert_close(whole.W_E, growth.W_E[-1], rtol=0, atol=1e-3)  # the last bits of learning rates differ
    torch.testing.assert_close(whole.weights["W_U"], growth.W_U[-1], rtol=0, atol=1e-3)
    assert softmax_untied._drift(growth) < 0.05  # gradient flow conserves |W_E|^2 - |W_U|^2


def test_the_parts_of_the_schedule_are_the_schedule():
    for first, end in ((0, 1), (3, 10), (149, 150), (150, 151), (150, 700), (2_000, 3_000)):
        part = softmax_untied.part_of_schedule(first, end, 3_000)
        for step in range(first, end):
            whole = DOCUMENT.learning_rate(step, 3_000)
            np.testing.assert_allclose(part.learning_rate(step - first, end - first), whole, rtol=1e-12)
