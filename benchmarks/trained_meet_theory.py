"""Trained models beside closed forms, as one table: `python -m benchmarks.trained_meet_theory > table.md`.

Every setting trains 16 models and compares the one of lowest held-out loss with theory, by the expected loss without
sampling, at the critical point that the model is near.
"""

from collections.abc import Iterator

import pandas as pd

import tms_hooks as tms
from tms_hooks import geometry, landscape, theory

SEEDS = range(16)
OPTIMIZER = tms.Adam(lr=1e-2, schedule="cosine")
SPARSE = ((4, 0.3), (5, 0.3), (5, 0.1), (5, 0.03), (6, 0.1), (6, 0.057), (6, 0.03), (7, 0.03), (7, 0.005))
ONE_HOT = (5, 6, 8, 12)
HEADS = ((6, 3, 1), (6, 3, 2), (6, 3, 3), (8, 4, 2))


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


def main() -> None:
    """Print the table."""
    rows = [*sparse_rows(), *one_hot_rows(), *head_rows()]
    table = pd.DataFrame(rows, columns=["setting", "quantity", "theory", "trained"])
    table["difference"] = table["trained"] / table["theory"] - 1
    print("| " + " | ".join(table.columns) + " |\n" + "|---" * len(table.columns) + "|")
    for setting, quantity, expected, trained, difference in table.itertuples(index=False):
        print(f"| {setting} | {quantity} | {expected:.5g} | {trained:.5g} | {difference:+.2%} |")


if __name__ == "__main__":
    main()
