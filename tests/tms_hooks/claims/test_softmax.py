"""Claims about softmax read-outs in worlds where they hold and where they are false."""

from math import pi

import numpy as np
import torch
from worlds import MODELS, UNDECIDED, outcome_of

from tms_hooks import OneHot, ToyConfig, train
from tms_hooks.claims import softmax
from tms_hooks.claims.softmax import DOCUMENT, Growth, Tied


def spokes(norms: list[float], models: int = MODELS) -> torch.Tensor:
    """Features evenly in all directions with these norms, each model turned another way."""
    turns = torch.arange(models)[:, None] + 2 * pi / len(norms) * torch.arange(len(norms))
    return torch.stack([turns.cos(), turns.sin()], dim=-1) * torch.tensor(norms)[:, None]


def test_softmax_circle():
    outcome = outcome_of("softmax-circle")
    circle = spokes([3.0] * 8 + [0.0] * 2)
    crowded = circle[:, [0, 0, 2, 3, 4, 5, 6, 7, 8, 9]]
    everything = spokes([3.0] * 10)
    spiral = spokes([0.3 * i for i in range(10)])
    shared = spokes([0.7] * 5)[:, torch.arange(10) % 5]

    def judge(trained, mse=shared):
        return softmax.judge_circle({10: trained}, {10: mse}, {"untrained": {10: spiral}})

    found = judge(circle)
    assert (outcome(found), found.statistic) == ("supported", 1.0)
    assert found.controls["features at zero, n = 10"] == 2
    assert found.controls["circle and zero, untrained"] == 0
    np.testing.assert_allclose(found.controls["radius, n = 10"], 3.0, rtol=1e-6)
    assert outcome(judge(everything)) == "refuted"  # nothing is left at zero
    assert judge(everything).controls["all on one circle, n = 10"] == 1
    assert outcome(judge(spiral)) == "refuted"
    assert outcome(judge(crowded)) == "refuted"  # two on one ray
    assert outcome(judge(circle, everything)) == "refuted"  # and none under MSE
    assert outcome(judge(0 * circle)) == "refuted"


def test_softmax_bias_concentric():
    outcome = outcome_of("softmax-bias-concentric")
    norms = [4.0] * 6 + [2.0] * 6
    W = spokes(norms)[:, [0, 2, 4, 6, 8, 10, 0, 2, 4, 6, 8, 10]]  # every other direction ...
    W[:, 6:] /= 2  # ... twice
    middle = -W.square().sum(-1) / 2

    def judge(W, bias, unbiased=None):
        models = {12: Tied(W, bias)}
        return softmax.judge_concentric(models, {12: Tied(W, 0 * bias)} if unbiased is None else unbiased, models)

    found = judge(W, middle)
    assert (outcome(found), found.statistic) == ("supported", 1.0)
    assert found.controls["pairs on one ray, n = 12"] == 6 * MODELS
    assert found.controls["of them allowed, n = 12"] == 1
    assert found.controls["told apart, trained without bias, n = 12"] == 0
    assert found.controls["told apart, biases set to zero, n = 12"] == 0
    assert found.controls["told apart, biases shuffled, n = 12"] < 0.2
    np.testing.assert_allclose(found.controls["slope of bias on squared norm, n = 12"], -0.5, rtol=1e-5)
    assert outcome(judge(W, -middle)) == "refuted"  # larger biases outside
    assert judge(W, -middle).controls["of them allowed, n = 12"] == 0
    assert outcome(judge(W, 0.1 * middle)) == "refuted"  # in order, but too weak to tell the features on a ray apart
    one = spokes([4.0] * 12)
    assert outcome(judge(one, torch.zeros(MODELS, 12))) == "refuted"  # all told apart, but on one circle
    spiral = spokes([1.0 + 0.2 * i for i in range(12)])
    assert outcome(judge(spiral, -spiral.square().sum(-1) / 2)) == "refuted"  # no gaps: no circles


def test_circles_are_counted_from_inside():
    W = spokes([4.0, 0.0, 2.0, 4.1, 1.9, 0.1], models=1)[0]
    assert softmax.circles(W) == [[4, 2], [0, 3]]
    assert softmax.circles(0 * W) == []


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
        return softmax.judge_order({N: growth}, {N: small or growth}, {N: tied})

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
    assert outcome(judge(Growth(np.arange(30), *half))) in UNDECIDED


def test_which_end_separates_first():
    # An end that is turned by one feature until some step separates nothing before it, whatever its norm.
    right = grown(0, 0)
    late = Growth(right.steps, torch.cat([right.W_E[:9].roll(1, dims=2), right.W_E[9:]]), right.W_U)
    assert softmax._separates_first(late).all()
    assert not softmax._separates_first(Growth(late.steps, late.W_U.mT, late.W_E.mT)).any()


def test_training_in_pieces_is_training_in_one_go():
    growth = softmax.grow_untied(10, 2)
    cfg = ToyConfig(n_features=10, d_hidden=2, tied=False, output_bias=False, output_act="softmax")
    steps = int(growth.steps[-1])
    whole = train(cfg, OneHot(n_features=10), seeds=range(2), steps=steps, optimizer=DOCUMENT, loss="cross_entropy")
    torch.testing.assert_close(whole.W_E, growth.W_E[-1], rtol=0, atol=1e-3)  # the last bits of learning rates differ
    torch.testing.assert_close(whole.weights["W_U"], growth.W_U[-1], rtol=0, atol=1e-3)
    assert softmax._drift(growth) < 0.05  # gradient flow conserves |W_E|^2 - |W_U|^2


def test_the_parts_of_the_schedule_are_the_schedule():
    for first, end in ((0, 1), (3, 10), (149, 150), (150, 151), (150, 700), (2_000, 3_000)):
        part = softmax.part_of_schedule(first, end, 3_000)
        for step in range(first, end):
            whole = DOCUMENT.learning_rate(step, 3_000)
            np.testing.assert_allclose(part.learning_rate(step - first, end - first), whole, rtol=1e-12)
