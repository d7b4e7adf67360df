"""Trained models beside closed forms, as tables: `python -m benchmarks.trained_meet_theory > table.md`.

Every setting trains 16 models and compares the one of lowest held-out loss with theory, by the expected loss without
sampling, at the critical point that the model is near. The phase diagram trains 8 models per cell, takes the one of
lowest exact loss, and counts a cell as away from a boundary if the next best arrangement costs at least 10 % more. The
basins are those of the pentagon and the hexagon of theory, at the density of the pentagon-and-hexagon study.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
import torch

import tms_hooks as tms
from tms_hooks import geometry, landscape, theory
from tms_hooks.claims.phases import arrangement
from tms_hooks.pages.theory_page import DENSITY, polygon_weights

SEEDS = range(16)
OPTIMIZER = tms.Adam(lr=1e-2, schedule="cosine")
SPARSE = ((4, 0.3), (5, 0.3), (5, 0.1), (5, 0.03), (6, 0.1), (6, 0.057), (6, 0.03), (7, 0.03), (7, 0.005))
OCTAHEDRA = (0.3, 0.1)
ONE_HOT = (5, 6, 8, 12)
HEADS = ((6, 3, 1), (6, 3, 2), (6, 3, 3), (8, 4, 2))
DENSITIES = np.geomspace(0.01, 1, 9)
RELATIVE_IMPORTANCES = np.geomspace(0.1, 10, 9)
OFF_BOUNDARY = 1.1
RADII = (0.3, 1.0, 3.0)
ABSOLUTE_DENSITIES, SOLVED = (0.3, 0.1, 0.03), 1e-6
"""Of the absolute-value toys, and the held-out loss below which one has solved the task."""


def sparse_rows() -> Iterator[tuple[object, ...]]:
    """Tied toys with an output bias in two dimensions against the best regular polygon."""
    for n, p in SPARSE:
        data = tms.SparseUniform(n_features=n, feature_probability=p)
        cfg = tms.ToyConfig(n_features=n, d_hidden=2)
        run = tms.train(cfg, data, seeds=SEEDS, steps=4_000, optimizer=OPTIMIZER, record_every=4_000, progress=False)
        point = landscape.critical_point(run.models[int(run.final_loss.argmin())], data)
        W, F = point.weights["W_E"], theory.best_polygon(n, p)
        norm, bias, _ = theory.finite_polygon(F, p)
        alive = geometry.represented(W)
        setting = f"n={n}, p={p}, {F}-gon ({geometry.name_polytope(W)}, {point.kind})"
        yield setting, "loss", theory.polygon_loss(n, p, F), point.loss
        yield setting, "norm", norm, float(W.norm(dim=1)[alive].mean())
        yield setting, "bias", bias, float(point.weights["b_U"][alive].mean())


def octahedron_rows() -> Iterator[tuple[object, ...]]:
    """Six features in three dimensions: three antipodal pairs, each blind to the others, so of three digons' loss."""
    for p in OCTAHEDRA:
        data = tms.SparseUniform(n_features=6, feature_probability=p)
        cfg = tms.ToyConfig(n_features=6, d_hidden=3)
        run = tms.train(cfg, data, seeds=SEEDS, steps=4_000, optimizer=OPTIMIZER, record_every=4_000, progress=False)
        point = landscape.critical_point(run.models[int(run.final_loss.argmin())], data)
        W = point.weights["W_E"]
        norm, bias, _ = theory.finite_polygon(2, p)
        setting = f"n=6, d_hidden=3, p={p}, octahedron ({geometry.name_polytope(W)}, {point.kind})"
        yield setting, "loss", 3 * theory.polygon_loss(2, p, 2), point.loss
        yield setting, "norm", norm, float(W.norm(dim=1).mean())
        yield setting, "bias", bias, float(point.weights["b_U"].mean())


def one_hot_rows() -> Iterator[tuple[object, ...]]:
    """One-hot features, no bias: five directions whatever n."""
    for n in ONE_HOT:
        data, cfg = tms.OneHot(n_features=n), tms.ToyConfig(n_features=n, d_hidden=2, output_bias=False)
        run = tms.train(cfg, data, seeds=SEEDS, steps=4_000, optimizer=OPTIMIZER, record_every=4_000, progress=False)
        best = int(run.final_loss.argmin())
        setting = f"one-hot, n={n}, 5 directions ({geometry.name_polytope(run.W_E[best])})"
        yield setting, "loss", theory.onehot_polygon_loss(n, 5) / n, float(run.final_loss[best])


def head_rows() -> Iterator[tuple[object, ...]]:
    """Heads trained on QK pairs against the best head of their rank, for the representation that they read."""
    for n, d, rank in HEADS:
        data = tms.SparseUniform(n_features=n, feature_probability=0.3)
        cfg = tms.ToyConfig(n_features=n, d_hidden=d, n_heads=1, d_head=rank)
        pairs = [(0, 1), (2, 5), (3, 3)]
        run = tms.train(
            cfg, data, seeds=range(2), steps=4_000, optimizer=OPTIMIZER, record_every=4_000, progress=False,
            qk_pairs=pairs, stages=("representation", "heads"),
        )  # fmt: skip
        model = run.models[0]
        omega = (model.W_Q @ model.W_K.mT)[0, 0].detach().double()
        best = theory.qk_optimum(model.W_E, data, pairs, rank)
        nothing = theory.qk_excess_loss(0 * best, model.W_E, data, pairs)
        explained = [1 - theory.qk_excess_loss(o, model.W_E, data, pairs) / nothing for o in (best, omega)]
        setting = f"head, n={n}, d_hidden={d}, d_head={rank}"
        yield setting, "explained share of what a full-rank head can", float(explained[0]), float(explained[1])
        yield setting, "norm of Omega", float(best.norm()), float(omega.norm())


def phase_diagram(n: int) -> pd.DataFrame:
    """n features in n - 1 dimensions over density and the last one's importance: theory's region and the trained."""
    cfg = tms.ToyConfig(n_features=n, d_hidden=n - 1)
    cells = []
    for density in DENSITIES.tolist():
        data = tms.SparseUniform(n_features=n, feature_probability=density)
        for importance in RELATIVE_IMPORTANCES.tolist():
            weight = torch.tensor([1.0] * (n - 1) + [importance], dtype=torch.float64)
            run = tms.train(
                cfg, data, seeds=range(8), steps=2_000, optimizer=OPTIMIZER, record_every=2_000, progress=False,
                importance=weight.tolist(),
            )  # fmt: skip
            weights = [{k: w.detach().double() for k, w in m.named_parameters()} for m in run.models]
            best = min(weights, key=lambda w: float(landscape.exact_loss(w, cfg, data, weight)))
            costs = theory.phase_losses(density, importance, n)
            ranked = sorted(costs, key=lambda name: float(costs[name]))
            margin = float(costs[ranked[1]] / costs[ranked[0]])
            cells.append((n, density, importance, ranked[0], arrangement(best["W_E"]), margin))
    return pd.DataFrame(cells, columns=["n", "density", "importance", "theory", "trained", "next best / best"])


def phase_rows(cells: pd.DataFrame) -> Iterator[tuple[object, ...]]:
    """How many cells of each diagram lie in the region that theory says."""
    for n, diagram in cells.groupby("n"):
        match = diagram["theory"] == diagram["trained"]
        away = diagram["next best / best"] >= OFF_BOUNDARY
        setting = f"phase diagram, n={n}, d_hidden={int(str(n)) - 1}"
        yield f"{setting}, away from boundaries", "cells in theory's region", int(away.sum()), int(match[away].sum())
        yield f"{setting}, all", "cells in theory's region", len(diagram), int(match.sum())


def basins() -> pd.DataFrame:
    """How often theory's pentagon, beside an ignored feature, and its hexagon come back after a push."""
    data, cfg = tms.SparseUniform(n_features=6, feature_probability=DENSITY), tms.ToyConfig(n_features=6, d_hidden=2)
    found = {}
    for F, name in ((5, "pentagon"), (6, "hexagon")):
        model = tms.ToyModel.from_weights(cfg, {k: w.float() for k, w in polygon_weights(F).items()})
        found[name] = landscape.basin_shares(model, data, radii=RADII, steps=4_000, optimizer=OPTIMIZER)
    return pd.concat(found, names=["from"])


def absolute_table() -> pd.DataFrame:
    """Toys that compute |x| of every feature: below two ReLU units per feature, and from there on."""
    rows = []
    for p, units in product(ABSOLUTE_DENSITIES, (1.0, 1.5, 2.0, 3.0)):
        cfg = tms.ToyConfig(4, int(4 * units), tied=False, hidden_act="relu")
        data = tms.SparseUniform(4, p, low=-1)
        how = {"steps": 4_000, "optimizer": OPTIMIZER, "record_every": 4_000, "progress": False}
        loss = tms.train(cfg, data, task=tms.Absolute(), seeds=SEEDS, **how).final_loss
        expected = theory.absolute_value_loss(4, cfg.d_hidden, p)
        rows.append((p, cfg.d_hidden, expected, loss.min().item(), loss.median().item(), int((loss < SOLVED).sum())))
    return pd.DataFrame(rows, columns=["p", "d_hidden", "closed form", "best", "median", "solved"])


def main() -> None:
    """Print the table, the cells of the phase diagrams that differ, and the basins."""
    cells = pd.concat([phase_diagram(n) for n in (2, 3)])
    rows = [*sparse_rows(), *octahedron_rows(), *one_hot_rows(), *head_rows(), *phase_rows(cells)]
    table = pd.DataFrame(rows, columns=["setting", "quantity", "theory", "trained"])
    table["difference"] = table["trained"] / table["theory"] - 1
    print("| " + " | ".join(table.columns) + " |\n" + "|---" * len(table.columns) + "|")
    for setting, quantity, expected, trained, difference in table.itertuples(index=False):
        print(f"| {setting} | {quantity} | {expected:.5g} | {trained:.5g} | {difference:+.2%} |")
    absolute = absolute_table()
    print("\n| " + " | ".join(absolute.columns) + " |\n" + "|---" * len(absolute.columns) + "|")
    for p, d_hidden, *losses, solved in absolute.itertuples(index=False):
        print(" | ".join([f"| {p} | {d_hidden}", *(f"{loss:.4f}" for loss in losses), f"{solved} of {len(SEEDS)} |"]))
    print("\nCells of the phase diagrams that differ:\n")
    print(cells[cells["theory"] != cells["trained"]].round(4).to_string(index=False))
    print("\nShare of pushed models that come back:\n")
    print(basins().round(2).to_string())


if __name__ == "__main__":
    main()
