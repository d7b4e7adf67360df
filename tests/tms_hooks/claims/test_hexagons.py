"""Claims of `tms_hooks.claims.hexagons`, each in a world where it holds and in one where it is false."""

import numpy as np
import pandas as pd
import torch
from worlds import MODELS, outcomes_of, random_directions, ring

from tms_hooks.claims import hexagons


def test_polygons_by_n():
    outcomes = outcomes_of("polygons-by-n")
    beside = ring(5, 6)
    beside[:, 5] = 0.3 * beside[:, 0]
    right = {4: ring(4, 4), 5: ring(5, 5), 6: beside, 7: ring(5, 7)}
    linear = ring(5, 6) * torch.tensor([1.0, 0.0])  # all on one line
    none = {n: 0.1 * W for n, W in right.items()}

    def judge(trained, untrained=none):
        return outcomes(hexagons.judge_polygons(trained, dict.fromkeys(trained, 0), untrained, linear))

    assert set(judge(right).values()) == {"supported"}
    off = judge({n: random_directions(W, n) for n, W in right.items()})
    assert {off[f"n = {n}"] for n in right} == {"refuted"}
    hexagon = judge(right | {6: ring(6, 6)})
    assert (hexagon["n = 6"], hexagon["n = 7"]) == ("refuted", "supported")
    assert hexagon["the rest overlap"] == "not measurable"  # there is no pentagon
    between = ring(5, 6)
    between[:, 5] = 0.3 * (between[:, 0] + between[:, 1])
    assert judge(right | {6: between})["the rest overlap"] == "refuted"
    half = torch.cat([ring(5, 6, models=10), ring(6, 6, models=10)])
    assert judge(right | {6: half})["n = 6"] == "too few models"
    assert judge(right, untrained=right)["n = 5"] == "does not distinguish"


def test_pentagon_by_theory():
    outcomes = outcomes_of("pentagon-by-theory")
    names = np.repeat(["pentagon", "hexagon"], MODELS)
    noise = np.random.default_rng(0).normal(scale=0.01, size=2 * MODELS)
    five, none = np.full(MODELS, "pentagon"), np.full(MODELS, "empty")

    def judge(hexagon: float, names=names, bare=five):
        losses = np.repeat([1.0, hexagon], MODELS) + noise
        return outcomes(hexagons.judge_theory(names, losses, bare, none))

    assert set(judge(1.1).values()) == {"supported"}
    assert set(judge(0.9, bare=none).values()) == {"refuted"}
    shuffled = names[np.random.default_rng(1).permutation(2 * MODELS)]
    assert judge(1.1, shuffled)["lowest loss"] in ("too few models", "at the threshold")
    assert judge(1.1, np.full(2 * MODELS, "pentagon"))["lowest loss"] == "not measurable"  # nothing to compare


def test_hexagon_norms():
    outcomes = outcomes_of("hexagon-norms")

    def judge(pentagon: float, hexagon: float):
        W = torch.cat([ring(5, 6, pentagon / 5**0.5), ring(6, 6, hexagon / 6**0.5)])
        return outcomes(hexagons.judge_norms(W, 0.9 * ring(5, 6)))

    assert judge(2.51, 2.95) == {"hexagons": "supported", "pentagons": "supported", "limit": "refuted"}
    assert judge(2.2, 2.5) == {"hexagons": "refuted", "pentagons": "refuted", "limit": "does not distinguish"}
    nothing = outcomes(hexagons.judge_norms(random_directions(ring(6, 6)), ring(5, 6)))
    assert set(nothing.values()) == {"not measurable"}  # no polygons there


def test_what_superposes():
    turned = torch.linalg.qr(torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(0)))[0]
    assert hexagons.superpose(turned, 0.3).tolist() == [False] * 3, "as linear models are, however turned"
    assert (turned.norm(dim=-1) > 0.3).sum(1).min() > 2
    assert (
        hexagons.superpose(torch.cat([1.2 * ring(6, 6), 0.4 * ring(6, 6)])).tolist()
        == [True] * MODELS + [False] * MODELS
    )


def test_optimizer_geometry():
    outcomes = outcomes_of("optimizer-geometry")

    def judge(shares: dict[str, float], slow: float = 0.0):
        rows = [
            (name, lr, 0.0, model, 1.0, True, False, *(model % 10 < 10 * (share if lr == 0.1 else slow),) * 3)
            for name, share in shares.items()
            for lr in (0.001, 0.1)
            for model in range(2 * MODELS)
        ]
        columns = ["optimizer", "lr", "momentum", "model", "loss", "pentagon", "hexagon"]
        table = pd.DataFrame(rows, columns=[*columns, *(f"superposes {cut}" for cut in (0.3, 0.5, 0.7))])
        return hexagons.judge_optimizers(table, np.zeros(MODELS, bool))

    adaptive = {kind.__name__: 1.0 for kind in hexagons.ADAPTIVE}
    found = judge(adaptive | {"SGD": 0.0})
    assert set(outcomes(found).values()) == {"supported"}
    assert found.controls["best learning rate, Adam"] == 0.1
    assert outcomes(judge(adaptive | {"SGD": 1.0}))["SGD"] == "refuted"
    assert outcomes(judge(adaptive | {"SGD": 1.0}))["SGD at the others' learning rate"] == "supported"
    assert outcomes(judge(adaptive | {"SGD": 1.0}, slow=1.0))["SGD at the others' learning rate"] == "refuted"
    assert outcomes(judge(adaptive | {"SGD": 0.0, "RMSprop": 0.0}))["RMSprop"] == "refuted"
    assert outcomes(judge(adaptive | {"SGD": 0.5}))["SGD"] == "too few models"


def test_seed_and_optimizer():
    outcomes = outcomes_of("seed-and-optimizer")
    rng = np.random.default_rng(0)

    def judge(six: np.ndarray, again: np.ndarray):
        """Which of (seed, run) are hexagons."""
        names = [*np.where(six, "hexagon", "pentagon").T]
        named = dict(zip("abc", names, strict=True))
        return outcomes(hexagons.judge_seeds(named, [*np.where(again, "hexagon", "pentagon").T]))

    seed = rng.random((200, 1)) < 0.3
    always = np.repeat(seed, 3, axis=1)
    often = seed & (rng.random((200, 3)) < 0.5)
    assert judge(often, always) == {"not all at one seed": "supported", "a matter of the seed": "supported"}
    assert judge(often, often)["not all at one seed"] == "does not distinguish"  # data alone do it
    assert judge(always, always)["not all at one seed"] == "refuted"
    unrelated = rng.random((200, 3)) < 0.3
    assert judge(unrelated, always)["a matter of the seed"] in ("too few models", "at the threshold")
