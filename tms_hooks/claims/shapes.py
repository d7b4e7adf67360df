"""What "Superposition and bottlenecks" asks of more dimensions than three: how many directions are learned?

Binary one-hot features, tied, no bias, as in `tms_hooks.claims.bottlenecks`; Adam at 0.01 with cosine decay over 1,500
steps, seeds from 0. "Learned": norm > 0.1, since features that share a direction share its norm.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, stats, theory
from tms_hooks.claims.bottlenecks import CUTS, LEARNED, untrained
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import Verdict, above
from tms_hooks.config import ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.run import Run
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

SIZES = {2: 20, 3: 40, 4: 60, 5: 80, 6: 100, 7: 150, 8: 200, 9: 250}
"""Hidden dimensions -> features, many times as many as directions are learned."""
Stacked = Float[Tensor, "model _ hidden"]


def train_shapes(n_features: int, d_hidden: int, n_models: int, output_act: Literal["relu", "gelu"] = "relu") -> Run:
    """One-hot toys, tied and without bias."""
    return train(
        ToyConfig(n_features=n_features, d_hidden=d_hidden, output_bias=False, output_act=output_act),
        OneHot(n_features=n_features),
        seeds=range(n_models),
        steps=1_500,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        record_every=1_500,
    )


@claim("shape-by-dimension", "B", quick=3, full=30, needs=above(1.0))
def shape_by_dimension(n_models: int) -> Verdict:
    """The number of directions learned grows faster than in proportion to the hidden dimension.

    Statistic: the exponent of the mean number of distinct directions among learned features (norm > 0.1) as a power of
    the hidden dimension m = 2 ... 9, by least squares on logarithms; 20 features at m = 2 up to 250 at m = 9. A tegum
    product of pentagons, one every two dimensions, has exponent 1.
    Threshold: above 1.
    Size: 3 models at each m (quick), 30 (full).
    Controls: the exponent at learned > 0.05 and > 0.2, over m = 2 ... 5 and 6 ... 9 alone, with half as many features
    (half as many models), and of untrained models; mean directions, and the share of the most frequent number of them,
    at each m; under GELU at m = 2 ... 4; how far the summed loss falls below n, a tegum product of pentagons = 1, at
    each m.
    """
    some = max(n_models // 2, 2)
    trained = {m: train_shapes(n, m, n_models) for m, n in SIZES.items()}
    return judge_shapes(
        {m: run.W_E for m, run in trained.items()},
        {m: SIZES[m] * (1 - run.final_loss.numpy()) for m, run in trained.items()},
        {
            "half as many features": {m: train_shapes(n // 2, m, some).W_E for m, n in SIZES.items()},
            "untrained": {m: untrained(n, m, some) for m, n in SIZES.items()},
            "GELU": {m: train_shapes(SIZES[m], m, some, "gelu").W_E for m in (2, 3, 4)},
        },
    )


def direction_counts(W: Mapping[int, Stacked], learned: float = LEARNED) -> Float[np.ndarray, "model dimension"]:
    """Directions learned by every model, a column a hidden dimension."""
    return np.stack([geometry.count_directions(w, learned).double().numpy() for w in W.values()], axis=1)


def exponent(counts: Float[np.ndarray, "model dimension"], dimensions: Sequence[int]) -> float:
    """Power of the hidden dimension that the mean number of directions grows with."""
    return float(np.polyfit(np.log(dimensions), np.log(counts.mean(0)), 1)[0])


def _halves(dimensions: list[int]) -> list[tuple[slice, list[int]]]:
    """The lower and the upper half of them, with where they stand."""
    middle = len(dimensions) // 2
    return [(at, dimensions[at]) for at in (slice(middle), slice(middle, None))]


def judge_shapes(
    W: Mapping[int, Stacked], drops: Mapping[int, np.ndarray], others: Mapping[str, Mapping[int, Stacked]]
) -> Verdict:
    """Do the directions of these models, by hidden dimension, grow faster than the dimension?

    Args:
        W: trained models, equally many at each hidden dimension; each has learned something.
        drops: how far their summed loss lies below the number of features.
        others: controls, at any hidden dimensions.
    """
    m, counts = list(W), direction_counts(W)
    means = dict(zip(m, counts.mean(0).tolist(), strict=True))
    pentagon = 5 - theory.onehot_polygon_loss(5, 5)
    ratio = {d: float(np.mean(drop)) / (pentagon * d / 2) for d, drop in drops.items()}
    usual = {
        d: float((column == np.bincount(column.astype(int)).argmax()).mean())
        for d, column in zip(m, counts.T, strict=True)
    }
    other = {
        name: {d: float(column.mean()) for d, column in zip(w, direction_counts(w).T, strict=True)}
        for name, w in others.items()
    }
    text = "; ".join(f"m = {d}: {mean:.3g}" for d, mean in means.items())
    return Verdict(
        measured="The exponent of the number of directions as a power of the hidden dimension",
        statistic=exponent(counts, m),
        interval=stats.bootstrap(lambda rows: exponent(rows, m), counts),
        n_models=counts.size,
        controls={f"learned > {cut}": exponent(direction_counts(W, cut), m) for cut in CUTS}
        | {f"m = {part[0]} ... {part[-1]}": exponent(counts[:, at], part) for at, part in _halves(m)}
        | {name: exponent(direction_counts(others[name]), list(others[name])) for name in others if name != "GELU"}
        | {f"directions, m = {d}": mean for d, mean in means.items()}
        | {f"most frequent number, m = {d}": share for d, share in usual.items()}
        | {f"directions, GELU, m = {d}": mean for d, mean in other.get("GELU", {}).items()}
        | {f"drop of the loss, pentagons = 1, m = {d}": value for d, value in ratio.items()},
        detail=f"Mean number of directions learned: {text}.",
        figures=[
            (
                "Directions learned against hidden dimensions (means over models).",
                plots.curves(
                    {"ReLU": (np.array(m), np.array(list(means.values())))}
                    | {
                        name: (np.array(list(found)), np.array(list(found.values())))
                        for name, found in other.items()
                        if name != "untrained"
                    }
                    | {"tegum product of pentagons": (np.array(m), 2.5 * np.array(m))},
                    "hidden dimensions",
                    "directions",
                ),
            ),
            (
                "Loss prevented, in units of a tegum product of pentagons.",
                plots.curves(
                    {"ReLU": (np.array(list(ratio)), np.array(list(ratio.values())))},
                    "hidden dimensions",
                    "(n - summed loss) / that of pentagons",
                ),
            ),
        ],
    )
