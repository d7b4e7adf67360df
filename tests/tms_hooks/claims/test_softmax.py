"""Claims about softmax read-outs, each part in a world where it holds and in one where it is false."""

from math import pi

import numpy as np
import torch
from worlds import MODELS, UNDECIDED, outcomes_of, ring

from tms_hooks.claims import softmax
from tms_hooks.claims.softmax import Growth, Tied

LOSS = np.linspace(0.1, 0.2, MODELS)


def spokes(norms: list[float], models: int = MODELS) -> torch.Tensor:
    """Features evenly in all directions with these norms, each model turned another way."""
    turns = torch.arange(models)[:, None] + 2 * pi / len(norms) * torch.arange(len(norms))
    return torch.stack([turns.cos(), turns.sin()], dim=-1) * torch.tensor(norms)[:, None]


def unbiased(W: torch.Tensor) -> Tied:
    return Tied(W, torch.zeros(W.shape[:2]), LOSS)


def test_softmax_circle():
    outcomes = outcomes_of("softmax-circle")
    everything = spokes([3.0] * 10)

    def subset(k: int) -> torch.Tensor:
        return torch.cat([3 * ring(k, 10)[:MODELS]])

    by_chance = torch.stack([subset(5 + i % 5)[i] for i in range(MODELS)])
    crowded = everything[:, [0, 0, 2, 3, 4, 5, 6, 7, 8, 9]]
    spiral = spokes([0.3 * i for i in range(10)])
    shared = spokes([0.7] * 5)[:, torch.arange(10) % 5]

    def judge(trained, mse=shared, slow=everything, adam=everything):
        models = {8: unbiased(trained[:, :8]), 10: unbiased(trained)}
        start = {8: spiral[:, :8], 10: spiral}
        return softmax.judge_circle(models, mse, start, unbiased(adam), unbiased(slow))

    named = ("circle", "by chance", "even", "learning rate", "no shared ray", "a setup that learns all")
    found = judge(by_chance)
    assert [outcomes(found)[name] for name in named] == ["supported"] * 6
    assert found.parts["even"].optimum == 1
    assert found.controls["features at zero, n = 10"] == 3
    np.testing.assert_allclose(found.controls["radius, n = 10"], 3.0, rtol=1e-6)
    assert outcomes(judge(everything))["circle"] == "supported"  # a full circle sends none to zero
    assert outcomes(judge(everything))["by chance"] == "refuted"
    assert outcomes(judge(everything, slow=by_chance))["learning rate"] == "refuted"
    assert outcomes(judge(everything))["a setup that learns all"] == "does not distinguish"
    wrong = outcomes(judge(spiral, mse=everything, adam=crowded))
    assert [wrong[name] for name in ("circle", "ten features", "a setup that learns all")] == ["refuted"] * 3
    assert outcomes(judge(crowded, mse=everything))["no shared ray"] == "refuted"
    assert outcomes(judge(crowded))["even"] == "refuted"
    assert outcomes(judge(0 * everything))["circle"] == "refuted"


def test_softmax_bias_concentric():
    outcomes = outcomes_of("softmax-bias-concentric")
    norms = [4.0] * 6 + [2.0] * 6
    W = spokes(norms)[:, [0, 2, 4, 6, 8, 10, 0, 2, 4, 6, 8, 10]]  # every other direction ...
    W[:, 6:] /= 2  # ... twice
    middle = -W.square().sum(-1) / 2
    one = spokes([4.0] * 12)

    def judge(W, bias, without=W):
        models = {10: Tied(W, bias, LOSS), 12: Tied(W, bias, LOSS)}
        others = {n: unbiased(one if without is W else without) for n in (10, 12)}
        flat = {n: Tied(W if without is W else without, 0 * bias, LOSS) for n in (10, 12)}
        return softmax.judge_concentric(models, others if without is not W else flat, models[12])

    found = judge(W, middle, without=one[:, [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10]])
    assert set(outcomes(found).values()) == {"supported"}
    assert found.controls["pairs on one ray, n = 12"] == 6 * MODELS
    assert found.controls["of them allowed, n = 12"] == 1
    assert found.controls["told apart, biases set to zero, n = 12"] == 0
    assert found.controls["told apart, biases shuffled, n = 12"] < 0.2
    np.testing.assert_allclose(found.controls["slope of bias on squared norm, n = 12"], -0.5, rtol=1e-5)
    outside = judge(W, -middle)  # larger biases outside
    assert outcomes(outside)["larger inside"] == outcomes(outside)["one ray"] == "refuted"
    assert outside.controls["of them allowed, n = 12"] == 0
    weak = outcomes(judge(W, 0.1 * middle))  # in order, but too weak to tell the features on a ray apart
    assert (weak["told apart"], weak["larger inside"]) == ("refuted", "supported")
    flat = outcomes(judge(one, torch.zeros(MODELS, 12)))  # all told apart, but on one circle
    assert (flat["concentric"], flat["one ray"], flat["Adam"]) == ("refuted", "not measurable", "refuted")
    spiral = spokes([1.0 + 0.2 * i for i in range(12)])
    assert outcomes(judge(spiral, -spiral.square().sum(-1) / 2))["ten features"] == "refuted"  # no gaps: no circles


def test_circles_are_counted_from_inside():
    W = spokes([4.0, 0.0, 2.0, 4.1, 1.9, 0.1], models=1)[0]
    assert softmax.circles(W) == [[4, 2], [0, 3]]
    assert softmax.circles(0 * W) == []


N = 10


def grown(embed_at: int, unembed_at: int, learned: bool = True) -> Growth:
    """A circle whose two ends reach norm 20 at these of 30 steps, mixed up until both have, and on unless learned."""
    turns = 2 * pi / N * torch.arange(N)
    unit = torch.stack([turns.cos(), turns.sin()], dim=-1).expand(MODELS, N, 2)
    step = torch.arange(30)[:, None, None, None]
    W_E, W_U = (0.1 + 19.9 * (step >= at) for at in (embed_at, unembed_at))
    other = torch.where(learned & (step >= max(embed_at, unembed_at)), unit, unit.roll(1, dims=1))
    return Growth(np.arange(30), W_E * unit, W_U * other.mT)


def test_softmax_untied_unembed_first():
    outcomes = outcomes_of("softmax-untied-unembed-first")
    tied = unbiased(3 * ring(8, N))

    def judge(growth, exchanged):
        return softmax.judge_order({8: growth, N: growth}, {8: exchanged, N: exchanged}, growth, tied)

    right, wrong = grown(20, 10), grown(10, 20)
    found = judge(right, wrong)
    assert set(outcomes(found).values()) == {"supported"}
    assert found.controls["features, unembed first, n = 10"] == 1
    assert found.controls["features, embed first, n = 10"] == 0
    order = ("unembed first", "equal start", "ten features")
    assert [outcomes(judge(wrong, right))[name] for name in order] == ["refuted"] * 3
    assert judge(wrong, right).controls["features, embed first, n = 10"] == 1
    assert outcomes(judge(grown(10, 10), wrong))["unembed first"] == "refuted"  # both at once
    assert outcomes(judge(right, right))["unembed first"] == "does not distinguish"
    assert outcomes(judge(grown(20, 10, learned=False), wrong))["all learned"] == "refuted"  # in order, but mixed up
    opposite = Growth(right.steps, right.W_E, right.W_U.roll(5, dims=3))  # it fires on others
    assert outcomes(judge(opposite, wrong))["unembed helps"] == "refuted"
    small = Growth(right.steps, right.W_E / 20, right.W_U / 20)  # nothing is sure yet: a longer embed does no harm
    assert outcomes(judge(small, wrong))["embed harms"] == "refuted"
    half = [torch.cat([a[:, :10], b[:, :10]], dim=1) for a, b in zip(right[1:], wrong[1:], strict=True)]
    assert outcomes(judge(Growth(np.arange(30), *half), wrong))["unembed first"] in UNDECIDED


def test_which_end_is_first_does_not_depend_on_how_long_training_goes_on():
    """The unembed goes on growing after the features are told apart, so that half of its final norm comes later."""
    short = grown(20, 10)
    longer = 10 * short.W_U[-1:] * torch.arange(1, 11)[:, None, None, None]
    long = Growth(
        np.arange(40), torch.cat([short.W_E, short.W_E[-1:].expand(10, -1, -1, -1)]), torch.cat([short.W_U, longer])
    )
    assert (softmax.when_told_apart(short) == 20).all() and (softmax.when_told_apart(long) == 20).all()
    assert softmax.unembed_first(short).all() and softmax.unembed_first(long).all()
    assert softmax.unembed_first(short, final=True).all() and not softmax.unembed_first(long, final=True).any()


def test_slopes_against_differences():
    growth, h = grown(0, 0), 1e-6

    def loss(longer: float) -> torch.Tensor:
        W_E = growth.W_E[-1].double().clone()
        W_E[:, 0] *= softmax.SHORT * longer
        logits = W_E @ growth.W_U[-1].double()
        return -logits.log_softmax(-1).diagonal(dim1=-2, dim2=-1).mean(-1)

    np.testing.assert_allclose(
        softmax.slopes(growth, "W_E", ("W_E",)), (loss(1 + h) - loss(1 - h)) / (2 * h), rtol=1e-5
    )


def test_which_end_separates_first():
    # An end that is turned by one feature until some step separates nothing before it, whatever its norm.
    right = grown(0, 0)
    late = Growth(right.steps, torch.cat([right.W_E[:9].roll(1, dims=2), right.W_E[9:]]), right.W_U)
    assert softmax._separates_first(late).all()
    assert not softmax._separates_first(Growth(late.steps, late.W_U.mT, late.W_E.mT)).any()
