"""Claims on real heads and bottlenecks, in worlds where they hold and in worlds where they are false."""

import numpy as np
import torch
from worlds import UNDECIDED, outcomes_of

import probes
from tms_hooks import ToyConfig, side_by_side
from tms_hooks.claims import transformers
from tms_hooks.claims.transformers import Sparsity
from tms_hooks.models.toy import ToyModel

HEADS = 20


def test_heads_are_sparse():
    outcomes = outcomes_of("heads-are-sparse")

    def judge(fires: float, silent: float, toys: float = 0.5):
        heads = [Sparsity(fires + 0.001 * i, fires, (Sparsity(silent, silent),) * 2) for i in range(HEADS)]
        return transformers.judge_heads(heads, [Sparsity(toys, toys)], [Sparsity(1.0, 1.0)])

    found = judge(0.5, 0.9)
    assert set(outcomes(found).values()) == {"supported"}
    assert (found.parts["than rotations"].statistic, found.n_models) == (1.0, HEADS)
    assert found.controls["needed / null, silent heads"] == 0.9
    alike = judge(0.5, 0.5)  # sparser than rotations, and so are heads that never fire
    assert outcomes(alike) == {"than silent heads": "refuted", "than rotations": "supported"}
    assert "do not say that a head fires" in alike.detail
    assert outcomes(judge(1.1, 1.3)) == {"than silent heads": "supported", "than rotations": "refuted"}
    assert outcomes(judge(0.5, 0.51))["than silent heads"] in UNDECIDED
    alone = [Sparsity(0.5, 0.5)] * HEADS  # no silent head in any layer
    assert outcomes(transformers.judge_heads(alone, [], []))["than silent heads"] == "not measurable"
    assert set(outcomes(transformers.judge_heads([], [], [])).values()) == {"not measurable"}


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
