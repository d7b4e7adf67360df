"""The demo's toys: which geometries they reach, and whether a head's singular vectors find its features."""

import numpy as np
import pandas as pd

import probes
from tms_hooks import geometry, plots, stats
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.pages import report
from tms_hooks.run import Run
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

HEAD_TOYS = 32
ATTENDED = (0, 1)
"""The pair of features that the toys' heads are trained to respond to: query feature, key feature."""
NULL_DRAWS = 4_000


def train_toys(n_models: int) -> Run:
    """The pentagon/hexagon setting: six equally important features, active with probability 0.057, two dimensions."""
    return train(
        ToyConfig(n_features=6, d_hidden=2),
        SparseUniform(n_features=6, feature_probability=0.057),
        seeds=range(n_models),
        steps=3_000,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        record_every=1_000,
    )


def train_head_toys() -> Run:
    """Ten features of falling importance in five dimensions, then a head that is to respond to one pair of them."""
    return train(
        ToyConfig(n_features=10, d_hidden=5, n_heads=1),
        SparseUniform(n_features=10, feature_probability=0.2),
        seeds=range(HEAD_TOYS),
        steps=(1_500, 500),
        stages=("representation", "heads"),
        batch_size=256,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        importance=[0.8**i for i in range(10)],
        qk_pairs=[ATTENDED],
        record_every=500,
    )


def geometries(run: Run) -> tuple[report.Section, pd.DataFrame]:
    """Which polytopes the trained toys reach."""
    names = [geometry.name_polytope(W) for W in run.W_E]
    table = stats.census(names, run.final_loss.numpy(), "mean held-out loss")
    table["mean Frobenius norm"] = [
        float(run.W_E[[n == name for n in names]].norm(dim=(-2, -1)).mean()) for name in table.index
    ]
    table = table.rename(columns={"share_low": "95 % from", "share_high": "95 % to"})
    shown = [(name, _best(run, names, name)) for name in table.index[:4]]
    titles = [f"{name}, loss {run.final_loss[i]:.5f}" for name, i in shown]
    first, lowest = table.iloc[0], table["mean held-out loss"].idxmin()
    section = report.Section(
        short="Geometries",
        title="Which geometry do six features take in two dimensions?",
        text=f"{len(names)} toys x' = ReLU(W^T W x + b), features active with probability 0.057, one seed each; Adam, "
        "learning rate 0.01 with cosine decay over 3,000 steps. Names are read from the weights alone.",
        finding=f"{first.share:.0%} of the models end as a {first.name} (95 % interval {first['95 % from']:.0%} to "
        f"{first['95 % to']:.0%}); the lowest mean held-out loss is the {lowest}'s "
        f"({table['mean held-out loss'].min():.5f}, the {first.name}'s {first['mean held-out loss']:.5f}).",
        table=table,
        figures=[
            (
                "The best model of each of the most frequent geometries: one arrow a feature.",
                plots.feature_arrows(run.W_E[[i for _, i in shown]].numpy(), titles),
            ),
            (
                "Share of models in each geometry.",
                plots.shares(list(table.index), *(table[c].to_numpy() for c in ("share", "95 % from", "95 % to"))),
            ),
        ],
    )
    rows = {
        f"toys that end as a {name}": f"{row.share:.0%} ({row['95 % from']:.0%} to {row['95 % to']:.0%})"
        for name, row in table.head(2).iterrows()
    }
    return section, pd.DataFrame({"value": rows})


def alignment(run: Run) -> tuple[report.Section, pd.DataFrame]:
    """Do the singular vectors of a trained head's Omega point at the features it attends to?"""
    query, key = ATTENDED
    rng = np.random.default_rng(0)
    rotated = np.abs([_random_cosines(rng, run.recipe.cfg.d_hidden, NULL_DRAWS) for _ in range(2)])
    attended, others, pvalues = [], [], []
    for model in run.models:
        aligned = probes.align(probes.qk_circuit(model, layer=0, head=0), model.W_E, model.W_E, n_null=1)
        left, right = aligned.left_cosines[0].abs().numpy(), aligned.right_cosines[0].abs().numpy()
        attended += [left[query], right[key]]
        others += [*np.delete(left, query), *np.delete(right, key)]
        pvalues.append((1 + (rotated.prod(0) >= left[query] * right[key]).sum()) / (1 + NULL_DRAWS))
    values = {
        "attended features": np.array(attended),
        "other features": np.array(others),
        "random rotations": rotated.flatten(),
    }
    table = pd.DataFrame(
        [(len(v), np.median(v), *np.quantile(v, (0.05, 0.95))) for v in values.values()],
        columns=["n", "median |cosine|", "5 %", "95 %"],
        index=pd.Index(values, name="first singular vectors against"),
    )
    aligned_models = int(sum(p < 0.05 for p in pvalues))
    share, (low, high) = aligned_models / len(pvalues), stats.wilson(aligned_models, len(pvalues))
    section = report.Section(
        short="A head's singular vectors",
        title="Do the singular vectors of a head recover the features it attends to?",
        text=f"{len(pvalues)} toys with 10 features of importance 0.8^i in 5 dimensions, feature probability 0.2; then "
        f"a pseudo-attention head is trained to respond when the query token holds feature {query} and the key token "
        f"feature {key}. It never sees the features, only the hidden states. Omega = W_Q W_K^T. Null: both sets of "
        f"directions turned at random, {NULL_DRAWS:,} times; the statistic is the product of the two |cosines|. Among "
        "the other features are those antipodal to the attended ones: Omega cannot tell the two apart.",
        finding=f"In {share:.0%} of the toys ({low:.0%} to {high:.0%}) the first singular pair lies nearer "
        f"to the attended pair than 95 % of random rotations do; median |cosine| {np.median(attended):.2f}, under "
        f"rotation {np.median(rotated):.2f}.",
        table=table,
        figures=[
            (
                "|Cosine| between the first left and right singular vectors and feature directions.",
                plots.distributions(
                    values,
                    "|cosine| with the first singular vector",
                    dict(zip(values, (plots.TOY, plots.PALETTE[1], plots.NULL), strict=True)),
                ),
            )
        ],
    )
    row = {"toy heads aligned with their features, p < 0.05": f"{share:.0%} ({low:.0%} to {high:.0%})"}
    return section, pd.DataFrame({"value": row})


def _best(run: Run, names: list[str], name: str) -> int:
    """The model of that name with the lowest loss."""
    return min((i for i, n in enumerate(names) if n == name), key=lambda i: float(run.final_loss[i]))


def _random_cosines(rng: np.random.Generator, dimensions: int, draws: int) -> np.ndarray:
    """Cosine of a fixed direction with uniformly random ones: what a random rotation leaves of an alignment."""
    x = rng.normal(size=(draws, dimensions))
    return x[:, 0] / np.linalg.norm(x, axis=1)
