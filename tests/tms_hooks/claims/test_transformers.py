"""Claims on real heads and bottlenecks, in worlds where they hold and in worlds where they are false."""

import numpy as np
import torch
from worlds import UNDECIDED, outcomes_of

import probes
from tms_hooks import ToyConfig, side_by_side
from tms_hooks.claims import head_readers, transformers
from tms_hooks.claims.head_readers import Scores
from tms_hooks.claims.transformers import Sparsity
from tms_hooks.models.toy import ToyModel

HEADS = 20
EVEN = Scores(*(0.9 + 0.01 * np.random.default_rng(0).standard_normal((5, HEADS))))
"""Readers of which none is better."""


def test_heads_are_sparse():
    outcomes = outcomes_of("heads-are-sparse")

    def judge(fires: float, silent: float, toys: float = 0.5):
        heads = [Sparsity(fires + 0.001 * i, fires, (Sparsity(silent, silent),) * 2) for i in range(HEADS)]
        return transformers.judge_heads(heads, [Sparsity(toys, toys)], [Sparsity(1.0, 1.0)], EVEN)

    found = judge(0.5, 0.9)
    assert outcomes(found) == {
        "than silent heads": "supported",
        "than rotations": "supported",
        "regression": "at the threshold",
    }
    assert (found.parts["than rotations"].statistic, found.n_models) == (1.0, HEADS)
    assert found.controls["needed / null, silent heads"] == 0.9
    alike = judge(0.5, 0.5)  # sparser than rotations, and so are heads that never fire
    assert outcomes(alike) | {"regression": ""} == {
        "than silent heads": "refuted",
        "than rotations": "supported",
        "regression": "",
    }
    assert "do not say that a head fires" in alike.detail
    worse = outcomes(judge(1.1, 1.3))
    assert (worse["than silent heads"], worse["than rotations"]) == ("supported", "refuted")
    assert outcomes(judge(0.5, 0.51))["than silent heads"] in UNDECIDED
    alone = [Sparsity(0.5, 0.5)] * HEADS  # no silent head in any layer
    assert outcomes(transformers.judge_heads(alone, [], [], EVEN))["than silent heads"] == "not measurable"
    none = Scores(*np.empty((5, 0)))
    assert set(outcomes(transformers.judge_heads([], [], [], none)).values()) == {"not measurable"}


def test_readers_by_regression_are_judged_against_differences_of_means_and_shuffled_labels():
    outcomes = outcomes_of("heads-are-sparse")

    def judge(gain: float, by_chance: float = 0.0):
        better = EVEN._replace(
            regression=EVEN.means + gain + 0.001 * np.arange(HEADS),
            shuffled_regression=EVEN.shuffled_means + by_chance + 0.001 * np.arange(HEADS),
        )
        return outcomes(transformers.judge_heads([], [], [], better))["regression"]

    assert judge(0.1) == "supported"
    assert judge(-0.1) == "refuted"
    assert judge(0.1, by_chance=0.1) == "does not distinguish"


def sentences(spread: float, seed: int, n: int = 1_200, d: int = 12):
    """A label that adds 2 along the first dimension, which shares noise of the given spread with the second."""
    generator = torch.Generator().manual_seed(seed)
    x, shared = torch.randn(n, d, generator=generator), spread * torch.randn(n, generator=generator)
    fires = torch.rand(n, generator=generator) < 0.3
    x[:, 0] += 2 * fires + shared
    x[:, 1] += shared
    return x, fires


def test_where_noise_is_shared_regression_tells_better_than_the_difference_of_means():
    fold = torch.arange(1_200) % head_readers.FOLDS

    def scored(spread: float):
        return head_readers.score(*sentences(spread, 0), fold, *sentences(spread, 1), shuffle=0)

    regression, means, shuffled, shuffled_means, strength = scored(4.0)
    # the difference of means is along the first dimension: noise 1 + 16, then 1 + 16 / 17 once the second tells it
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = [float(normal.cdf(torch.tensor(2 / (2 * noise) ** 0.5))) for noise in (1 + 16 / 17, 17.0)]
    np.testing.assert_allclose((regression, means), expected, atol=0.03)
    assert abs(shuffled - 0.5) < 0.2 and abs(shuffled_means - 0.5) < 0.2
    assert strength in head_readers.STRENGTHS
    regression, means, *_ = scored(0.0)
    assert abs(regression - means) < 0.01  # nothing to take away


def test_ridge_is_that_of_a_library_and_the_last_direction_is_the_difference_of_means():
    from sklearn.linear_model import Ridge
    from sklearn.metrics import roc_auc_score

    x, fires = sentences(1.0, 2, n=300)
    [found] = head_readers.directions(x, fires[None])
    variance = float(x.double().var(0, correction=0).mean())
    for strength, direction in zip(head_readers.STRENGTHS, found, strict=False):
        theirs = torch.tensor(Ridge(alpha=strength * variance * len(x)).fit(x.double(), fires.double()).coef_)
        torch.testing.assert_close(direction, theirs / theirs.norm())
    apart = x[fires].double().mean(0) - x[~fires].double().mean(0)
    torch.testing.assert_close(found[-1], apart / apart.norm())
    areas = head_readers.areas(found[None], x, fires[None])[0]
    expected = [roc_auc_score(fires, x.double() @ direction) for direction in found]
    np.testing.assert_allclose(areas, expected)
    assert head_readers.areas(found[None], x, torch.ones(1, 300, dtype=torch.bool)).isnan().all()


def test_a_head_fires_on_one_earlier_token_that_is_not_the_first():
    pattern = torch.eye(4)
    assert not head_readers.fired(pattern).any()  # on itself
    start = torch.zeros(4, 4)
    start[:, 0] = 1
    assert not head_readers.fired(start).any()
    before = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [0.4, 0.6, 0, 0], [0.4, 0.3, 0.3, 0]])
    assert head_readers.fired(before).tolist() == [True, False]


def test_a_planted_head_is_sparse_and_a_random_one_is_not():
    cfg = ToyConfig(n_features=10, d_hidden=8, n_heads=2)
    model = ToyModel(cfg, seed=0)
    with torch.no_grad():
        model.W_Q[0, 0], model.W_K[0, 0] = 0.01 * model.W_Q[0, 0], 0.01 * model.W_K[0, 0]
        model.W_Q[0, 0, :, 0] += model.W_E[0]
        model.W_K[0, 0, :, 0] += model.W_E[1]
    x = torch.eye(10)[torch.tensor([[0, 1]])]
    pairs = torch.tensor([[0, 0, 1]])
    planted, random = (
        side_by_side.needed_fraction([probes.attention_slices(model, x, 0, head, pairs=pairs, n_null=50)])
        for head in (0, 1)
    )
    assert planted < 0.5 < random


def test_real_bottlenecks():
    outcomes = outcomes_of("real-bottlenecks")
    generator = torch.Generator().manual_seed(0)

    def path(kind: str) -> probes.Bottleneck:
        write = torch.randn(60, 6, generator=generator)
        if kind == "even":  # an orthonormal basis and its negative, ten times: a tight frame
            write = torch.cat([torch.eye(6), -torch.eye(6)]).repeat(5, 1)
        elif kind == "anisotropic":
            write = write * torch.tensor([5.0, 1, 1, 1, 1, 1])
        elif kind == "shifted":
            write = write + 10
        return probes.Bottleneck("embed->unembed", write, write.clone())

    def judge(kind: str, toy: str = "even"):
        many = [transformers.measure(path(kind)) for _ in range(20)]
        toys = [transformers.measure(path(toy)) for _ in range(20)]
        return transformers.judge_bottlenecks(many, many[0], toys)

    found = judge("even")
    assert outcomes(found) == {"MLP to MLP": "supported", "tokens": "not measurable", "toys": "supported"}
    np.testing.assert_allclose(found.parts["toys"].statistic, found.controls["least, toys"], rtol=1e-5)  # Welch bound
    np.testing.assert_allclose(found.controls["efficiency, MLP to MLP"], 1.0, rtol=1e-5)
    assert outcomes(judge("anisotropic"))["MLP to MLP"] == "refuted"
    assert outcomes(judge("even", "anisotropic"))["toys"] == "refuted"
    shifted = judge("shifted")
    assert shifted.controls["with mean, MLP to MLP"] > 2 > 1.1 > shifted.controls["relative overlap, MLP to MLP"]
    assert outcomes(transformers.judge_bottlenecks([], transformers.measure(path("even")), []))["toys"] in UNDECIDED


def test_pairs_of_blocks():
    assert transformers.block_pairs(3, 9) == [(0, 1), (0, 2), (1, 2)]
    pairs = transformers.block_pairs(30, 12)
    assert len(set(pairs)) == 12 and all(i < j for i, j in pairs)


def test_bottlenecks_without_features_to_compare_are_no_error():
    def part(W):
        return probes.Bottleneck("embed->unembed", W, W)

    none, one, equal = (transformers.measure(part(W)) for W in (torch.ones(0, 6), torch.ones(1, 6), torch.ones(9, 6)))
    assert all(
        np.isnan([row[of] for of in ("relative overlap", "random", "spread", "least")]).all() for row in (none, one)
    )
    assert one["efficiency"] == equal["efficiency"] == 0.0  # a feature at the mean of all has no direction of its own
    found = outcomes_of("real-bottlenecks")(transformers.judge_bottlenecks([one, one], one, [none]))
    assert found["MLP to MLP"] in UNDECIDED
