"""Every claim in a world where it holds and in one where it is false: the verdict must tell them apart."""

from math import pi

import numpy as np
import pandas as pd
import torch

from tms_hooks import ToyConfig
from tms_hooks.claims import attention, bottlenecks, claims, hexagons, optimizers, stuck_features, toy_models
from tms_hooks.data import SparseUniform
from tms_hooks.geometry.polytopes import ideal_polytopes
from tms_hooks.landscape import critical_point
from tms_hooks.models.toy import ToyModel

MODELS = 20


def worlds() -> set[str]:
    return {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}


def ring(corners: int, features: int, norm: float = 1.0, models: int = MODELS) -> torch.Tensor:
    """A regular polygon, each model turned another way; features beyond the corners are zero."""
    turns = torch.arange(models)[:, None] + 2 * pi / corners * torch.arange(corners)
    W = torch.zeros(models, features, 2)
    W[:, :corners] = norm * torch.stack([turns.cos(), turns.sin()], dim=-1)
    return W


def random_directions(W: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """The same norms, in random directions."""
    noise = torch.randn(W.shape, generator=torch.Generator().manual_seed(seed))
    return W.norm(dim=-1, keepdim=True) * torch.nn.functional.normalize(noise, dim=-1)


def test_every_claim_has_its_worlds():
    assert set(claims()) <= worlds()


def test_polygons_by_n():
    right = {4: ring(4, 4), 5: ring(5, 5), 6: ring(5, 6), 7: ring(5, 7)}
    linear = ring(5, 6) * torch.tensor([1.0, 0.0])  # all on one line

    def judge(trained):
        return hexagons.judge_polygons(trained, {n: 0.1 * W for n, W in right.items()}, linear)

    found = judge(right)
    assert (found.verdict, found.statistic, found.n_models) == ("supported", 1.0, 4 * MODELS)
    assert found.controls["untrained"] == found.controls["linear output, n = 6"] == 0
    assert judge({n: random_directions(W, n) for n, W in right.items()}).verdict == "refuted"
    assert judge(right | {7: ring(6, 7)}).verdict == "refuted"  # one n is enough
    half = torch.cat([ring(5, 6, models=10), ring(6, 6, models=10)])
    assert judge(right | {6: half}).verdict == "inconclusive"


def test_pentagon_by_theory():
    names = np.repeat(["pentagon", "hexagon"], MODELS)
    noise = np.random.default_rng(0).normal(scale=0.01, size=2 * MODELS)

    def judge(hexagon: float, names=names):
        losses = np.repeat([1.0, hexagon], MODELS) + noise
        return hexagons.judge_theory(names, losses, names)

    assert judge(1.1).verdict == "supported"
    assert judge(0.9).verdict == "refuted"
    shuffled = names[np.random.default_rng(1).permutation(2 * MODELS)]
    assert judge(1.1, shuffled).verdict == "inconclusive"
    assert judge(1.1, np.full(2 * MODELS, "pentagon")).verdict == "inconclusive"  # nothing to compare


def test_hexagon_norms():
    def world(pentagon: float, hexagon: float) -> torch.Tensor:
        return torch.cat([ring(5, 6, pentagon / 5**0.5), ring(6, 6, hexagon / 6**0.5)])

    assert hexagons.judge_norms(world(2.51, 2.95)).verdict == "supported"
    assert hexagons.judge_norms(world(2.51, 2.5)).verdict == "refuted"
    assert hexagons.judge_norms(random_directions(world(2.51, 2.95))).verdict == "inconclusive"  # no polygons there
    assert hexagons.judge_norms(ring(5, 6)).verdict == "inconclusive"


def test_stuck_feature():
    # Two features in one dimension: nothing learned, with the best constant output p/2, is critical and no minimum.
    cfg, data = ToyConfig(n_features=2, d_hidden=1), SparseUniform(n_features=2, feature_probability=0.1)

    def place(W_E: list[list[float]], bias: list[float]):
        weights = {"W_E": torch.tensor(W_E, dtype=torch.float64), "b_U": torch.tensor(bias, dtype=torch.float64)}
        return critical_point(ToyModel.from_weights(cfg, weights), data)

    nothing = place([[1e-3], [1e-3]], [0.05, 0.05])
    digon = place([[1.0], [-1.0]], [0.0, 0.0])
    far = place([[2.0], [0.5]], [0.5, -0.5])
    assert (nothing.kind, digon.kind, far.kind) == ("saddle", "minimum", "not critical")
    assert stuck_features.judge_stuck([nothing] * MODELS, [digon], {}).verdict == "supported"
    assert stuck_features.judge_stuck([digon] * MODELS, [digon], {}).verdict == "refuted"
    assert stuck_features.judge_stuck([far] * MODELS, [digon], {}).verdict == "refuted"
    assert stuck_features.judge_stuck([], [], {}).verdict == "inconclusive"


def test_hexagon_patching():
    def judge(patched: float, redraw: float, rerun: float):
        shares = {"unpatched": 0.0, "self": 0.0, "patched": patched, "redraw": redraw, "rerun": rerun}
        rows = [
            (recipient, condition, float(recipient < round(share * MODELS)))
            for condition, share in shares.items()
            for recipient in range(MODELS)
        ]
        return stuck_features.judge_patching(pd.DataFrame(rows, columns=["recipient", "condition", "outcome"]))

    assert judge(1.0, 0.1, 0.1).verdict == "supported"
    assert judge(0.1, 0.1, 0.1).verdict == "refuted"  # patches that do nothing
    assert judge(1.0, 1.0, 0.1).verdict == "inconclusive"  # any new weights would have done
    assert judge(0.05, 1.0, 0.1).verdict == "refuted"  # random patches do better
    empty = pd.DataFrame(columns=["recipient", "condition", "outcome"])
    assert stuck_features.judge_patching(empty).verdict == "inconclusive"


def test_optimizer_geometry():
    def judge(shares: dict[str, float], best_lr: float = 0.1):
        rows = [
            (name, lr, 0.0, model, 1.0, "pentagon", *(lr == best_lr and model % 10 < 10 * share,) * 3)
            for name, share in shares.items()
            for lr in (0.01, 0.1)
            for model in range(2 * MODELS)
        ]
        columns = ["optimizer", "lr", "momentum", "model", "loss", "geometry"]
        table = pd.DataFrame(rows, columns=[*columns, *(f"superposes {cut}" for cut in (0.3, 0.5, 0.7))])
        return optimizers.judge_optimizers(table)

    adaptive = dict.fromkeys(optimizers.ADAPTIVE, 1.0)
    found = judge(adaptive | {"SGD": 0.0})
    assert found.verdict == "supported"
    assert found.controls["best learning rate, Adam"] == 0.1
    assert judge(adaptive | {"SGD": 1.0}).verdict == "refuted"
    assert judge(adaptive | {"SGD": 0.0, "RMSprop": 0.0}).verdict == "refuted"
    assert judge(adaptive | {"SGD": 0.5}).verdict == "inconclusive"


def test_pentagon_one_hot():
    def shared(directions: int, features: int) -> torch.Tensor:
        W = ring(directions, features)
        return W[:, torch.arange(features) % directions] * (directions / features) ** 0.5

    def judge(W):
        losses = {n: np.ones(MODELS) for n in W}
        return bottlenecks.judge_directions(W, losses, {"untrained": {n: 0 * w for n, w in W.items()}})

    right = {n: shared(5, n) for n in (5, 20)}
    assert judge(right).verdict == "supported"
    assert judge(right).controls["untrained"] == 0
    assert judge(right | {20: shared(8, 20)}).verdict == "refuted"
    assert judge({n: random_directions(W, n) for n, W in right.items() if n > 5}).verdict == "refuted"


def test_relu_degenerate_gelu_not():
    crowded, single = ring(5, 10)[:, torch.arange(10) % 5] * 0.6, ring(5, 10)
    slow, fast = np.full(MODELS, 300.0), np.full(MODELS, 100.0)

    def judge(relu, gelu, relu_steps=slow, gelu_steps=fast):
        return bottlenecks.judge_degeneracy({"relu": relu, "gelu": gelu}, {"relu": relu_steps, "gelu": gelu_steps})

    assert judge(crowded, single).verdict == "supported"
    assert judge(single, crowded).verdict == "refuted"
    assert judge(crowded, single, fast, slow).verdict == "refuted"
    assert judge(random_directions(crowded), single).verdict == "supported"  # ten random ones do share within 5 degrees
    assert judge(0 * crowded, 0 * single).verdict == "refuted"


def test_nine_in_three_d():
    def solid(vertices: int, features: int) -> torch.Tensor:
        W = torch.zeros(2 * MODELS, features, 3)
        W[:, :vertices] = next(V for V in ideal_polytopes(vertices).values() if V.shape[1] == 3).float()
        return W

    nine, eight, few = {10: solid(9, 10)}, {10: solid(8, 10)}, {10: solid(6, 10)}
    assert bottlenecks.judge_nine(nine, few, few).verdict == "supported"
    assert bottlenecks.judge_nine(nine | {12: solid(6, 12)}, few, few).verdict == "refuted"  # one n is enough
    assert bottlenecks.judge_nine(eight, few, few).verdict == "refuted"


def test_superposition_emerges():
    two = ring(4, 5)
    two[:, 2:] = 0
    right = {1.0: two, 0.3: ring(4, 5), 0.1: ring(5, 5), 0.05: ring(5, 5)}

    def judge(trained):
        return toy_models.judge_emergence(trained, dict.fromkeys(right, two), dict.fromkeys(right, 0 * two))

    found = judge(right)
    assert found.verdict == "supported"
    assert found.controls["linear output"] == found.controls["untrained"] == 0
    assert judge(dict.fromkeys(right, two)).verdict == "refuted"  # a linear model, at every density
    assert judge({p: random_directions(W) for p, W in right.items()}).verdict == "refuted"
    assert judge(dict(zip(right, reversed(right.values()), strict=True))).verdict == "refuted"  # the wrong way round


def test_cosine_misleads():
    orthogonal = ring(4, 5)
    orthogonal[:, 2:] = 0
    found = toy_models.judge_cosines(ring(5, 5), {})
    assert found.verdict == "supported"
    np.testing.assert_allclose(found.statistic, (np.cos(2 * pi / 5) + np.cos(pi / 5)) / 2, rtol=1e-5)  # a pentagon's
    assert toy_models.judge_cosines(orthogonal, {}).verdict == "refuted"  # no superposition
    assert toy_models.judge_cosines(0 * orthogonal, {}).verdict == "inconclusive"  # nothing learned


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
