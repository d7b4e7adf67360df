"""The demo's toys: which geometries they reach, and whether a head's singular vectors find its features."""

import numpy as np
import pandas as pd

import probes
from tms_hooks import geometry, plots, report, stats
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.run import Run
from tms_hooks.training.loop import train
from tms_hooks.training.optimizers import Adam

HEAD_TOYS = 48
ATTENDED = (0, 1)
"""The pair of features that the toys' heads are trained to respond to: query feature, key feature."""


def train_toys(n_models: int) -> Run:
    """The pentagon/hexagon setting: six equally important features, active with probability 0.057, two dimensions."""
    return train(
        ToyConfig(n_features=6, d_hidden=2),
        SparseUniform(n_features=6, feature_probability=0.057),
        seeds=range(n_models),
        steps=3_000,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        record_every=1_000,
        progress=None,
    )


def train_head_toys() -> Run:
    """Ten features of falling importance in five dimensions, then a head that is to respond to one pair of them."""
    return train(
        ToyConfig(n_features=10, d_hidden=5, n_heads=1),
        SparseUniform(n_features=10, feature_probability=0.2),
        seeds=range(HEAD_TOYS),
        steps=(2_000, 1_000),
        stages=("representation", "heads"),
        batch_size=512,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        importance=[0.8**i for i in range(10)],
        qk_pairs=[ATTENDED],
        record_every=1_000,
        progress=None,
    )


def geometries(run: Run) -> tuple[report.Section, pd.DataFrame]:
    """Which polytopes the trained toys reach."""
    names = [geometry.name_polytope(W) for W in run.W_E]
    table = stats.census(names, run.final_loss.numpy(), "mean held-out loss")
    table["mean Frobenius norm"] = [
        float(run.W_E[[n == name for n in names]].norm(dim=(-2, -1)).mean()) for name in table.index
    ]
    shown = list(table.index[:4])
    best = [min((i for i, n in enumerate(names) if n == name), key=lambda i: float(run.final_loss[i])) for name in shown]
    top, low, high = table.iloc[0].share, table.iloc[0].share_low, table.iloc[0].share_high
    lowest = table["mean held-out loss"].idxmin()
    section = report.Section(
        short="Geometries",
        title="Which geometry do six features take in two dimensions?",
        text=f"{len(names)} toys x' = ReLU(W^T W x + b), features active with probability 0.057, one seed a model; Adam, "
        "learning rate 0.01 with cosine decay over 3,000 steps. Names are read from the weights alone.",
        finding=f"{top:.0%} of the models end as a {table.index[0]} (95 % interval {low:.0%} to {high:.0%}); the lowest mean "
        f"held-out loss is the {lowest}'s ({table['mean held-out loss'].min():.5f}).",
        table=table,
        figures=[
            (
                "The best model of each of the most frequent geometries: one arrow a feature.",
                plots.feature_arrows(run.W_E[best].numpy(), [f"{name}, loss {run.final_loss[i]:.5f}" for name, i in zip(shown, best, strict=True)]),
            ),
            (
                "Share of models in each geometry.",
                plots.shares(
                    list(table.index), table.share.to_numpy(), table.share_low.to_numpy(), table.share_high.to_numpy()
                ),
            ),
        ],
    )
    rows = {f"toys that end as a {name}": f"{table.share[name]:.0%} ({table.share_low[name]:.0%} to {table.share_high[name]:.0%})" for name in table.index[:2]}
    return section, _rows(rows)


def alignment(run: Run) -> tuple[report.Section, pd.DataFrame]:
    """Do the singular vectors of a trained head's Omega point at the features it attends to?"""
    query, key = ATTENDED
    found, attended, unattended = [], [], []
    for model in run.models:
        aligned = probes.align(probes.qk_circuit(model, layer=0, head=0), model.W_E, model.W_E, n_null=200)
        left, right = aligned.left_cosines[0].abs().numpy(), aligned.right_cosines[0].abs().numpy()
        attended += [left[query], right[key]]
        unattended += [*np.delete(left, ATTENDED), *np.delete(right, ATTENDED)]
        matched = (int(aligned.left_features[0]), int(aligned.right_features[0])) == ATTENDED
        found.append(matched and float(aligned.pvalues[0]) < 0.05)
    rng = np.random.default_rng(0)
    turned = rng.normal(size=(4_000, run.recipe.cfg.d_hidden))
    rotated = np.abs(turned[:, 0]) / np.linalg.norm(turned, axis=1)
    names = ["attended features", "other features", "random rotations"]
    values = [np.array(attended), np.array(unattended), rotated]
    table = pd.DataFrame(
        [(len(v), np.median(v), *np.quantile(v, (0.05, 0.95))) for v in values],
        columns=["n", "median |cosine|", "5 %", "95 %"],
        index=pd.Index(names, name="first singular vector against"),
    )
    share, (low, high) = float(np.mean(found)), stats.wilson(sum(found), len(found))
    section = report.Section(
        short="A head's singular vectors",
        title="Do the singular vectors of a head recover the features it attends to?",
        text=f"{len(found)} toys with 10 features of importance 0.8^i in 5 dimensions, feature probability 0.2; then a "
        f"pseudo-attention head is trained to respond when the query token holds feature {query} and the key token feature {key}. It never "
        "sees the features, only the hidden states. Omega = W_Q W_K^T; p-values from 200 random rotations of the directions.",
        finding=f"In {share:.0%} of the toys ({low:.0%} to {high:.0%}) the first singular pair is matched to exactly the attended pair "
        f"with p < 0.05; median |cosine| {np.median(attended):.2f}, against {np.median(rotated):.2f} under random rotation.",
        table=table,
        figures=[
            (
                "Cosines between the first left and right singular vectors and feature directions.",
                plots.distributions(
                    dict(zip(names, values, strict=True)),
                    "|cosine| with the first singular vector",
                    dict(zip(names, (plots.TOY, plots.PALETTE[1], plots.NULL), strict=True)),
                ),
            )
        ],
    )
    return section, _rows({"toy heads whose first singular pair is the attended pair": f"{share:.0%} ({low:.0%} to {high:.0%})"})
