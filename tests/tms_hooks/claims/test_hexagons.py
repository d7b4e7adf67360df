"""Claims of `tms_hooks.claims.hexagons`, each in a world where it holds and in one where it is false."""

import numpy as np
import pandas as pd
import torch
from worlds import MODELS, UNDECIDED, outcome_of, random_directions, ring

from tms_hooks.claims import hexagons


def test_polygons_by_n():
    outcome = outcome_of("polygons-by-n")
    right = {4: ring(4, 4), 5: ring(5, 5), 6: ring(5, 6), 7: ring(5, 7)}
    linear = ring(5, 6) * torch.tensor([1.0, 0.0])  # all on one line

    def judge(trained):
        return hexagons.judge_polygons(trained, {n: 0.1 * W for n, W in right.items()}, linear)

    found = judge(right)
    assert (outcome(found), found.statistic, found.n_models) == ("supported", 1.0, 4 * MODELS)
    assert found.controls["untrained"] == found.controls["linear output, n = 6"] == 0
    assert outcome(judge({n: random_directions(W, n) for n, W in right.items()})) == "refuted"
    assert outcome(judge(right | {7: ring(6, 7)})) == "refuted"  # one n is enough
    half = torch.cat([ring(5, 6, models=10), ring(6, 6, models=10)])
    assert outcome(judge(right | {6: half})) in UNDECIDED


def test_pentagon_by_theory():
    outcome = outcome_of("pentagon-by-theory")
    names = np.repeat(["pentagon", "hexagon"], MODELS)
    noise = np.random.default_rng(0).normal(scale=0.01, size=2 * MODELS)

    def judge(hexagon: float, names=names):
        losses = np.repeat([1.0, hexagon], MODELS) + noise
        return hexagons.judge_theory(names, losses, names)

    assert outcome(judge(1.1)) == "supported"
    assert outcome(judge(0.9)) == "refuted"
    shuffled = names[np.random.default_rng(1).permutation(2 * MODELS)]
    assert outcome(judge(1.1, shuffled)) in UNDECIDED
    assert outcome(judge(1.1, np.full(2 * MODELS, "pentagon"))) in UNDECIDED  # nothing to compare


def test_hexagon_norms():
    outcome = outcome_of("hexagon-norms")

    def world(pentagon: float, hexagon: float) -> torch.Tensor:
        return torch.cat([ring(5, 6, pentagon / 5**0.5), ring(6, 6, hexagon / 6**0.5)])

    assert outcome(hexagons.judge_norms(world(2.51, 2.95))) == "supported"
    assert outcome(hexagons.judge_norms(world(2.51, 2.5))) == "refuted"
    assert outcome(hexagons.judge_norms(random_directions(world(2.51, 2.95)))) in UNDECIDED  # no polygons there
    assert outcome(hexagons.judge_norms(ring(5, 6))) in UNDECIDED


def test_optimizer_geometry():
    outcome = outcome_of("optimizer-geometry")

    def judge(shares: dict[str, float], best_lr: float = 0.1):
        rows = [
            (name, lr, 0.0, model, 1.0, True, False, *(lr == best_lr and model % 10 < 10 * share,) * 3)
            for name, share in shares.items()
            for lr in (0.01, 0.1)
            for model in range(2 * MODELS)
        ]
        columns = ["optimizer", "lr", "momentum", "model", "loss", "pentagon", "hexagon"]
        table = pd.DataFrame(rows, columns=[*columns, *(f"superposes {cut}" for cut in (0.3, 0.5, 0.7))])
        return hexagons.judge_optimizers(table)

    adaptive = {kind.__name__: 1.0 for kind in hexagons.ADAPTIVE}
    found = judge(adaptive | {"SGD": 0.0})
    assert outcome(found) == "supported"
    assert found.controls["best learning rate, Adam"] == 0.1
    assert outcome(judge(adaptive | {"SGD": 1.0})) == "refuted"
    assert outcome(judge(adaptive | {"SGD": 0.0, "RMSprop": 0.0})) == "refuted"
    assert outcome(judge(adaptive | {"SGD": 0.5})) in UNDECIDED
