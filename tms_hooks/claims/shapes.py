"""What "Superposition and bottlenecks" asks of more dimensions than three: how many directions are learned?

The toys are those of `tms_hooks.claims.bottlenecks`, with binary one-hot features, tied and without bias, but trained
for 1,500 steps. "Learned" means a norm above 0.1, since features that share a direction share its norm.
"""

from collections.abc import Mapping

import numpy as np

from tms_hooks import geometry, theory
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.bottlenecks import CUTS, LEARNED, mean_directions, train_onehot
from tms_hooks.claims.lab import Stacked

SIZES = {2: 20, 3: 40, 4: 60, 5: 80, 6: 100, 7: 150, 8: 200, 9: 250}
"""Hidden dimensions -> features, many times as many as directions are learned."""
STEPS = 1_500


@claim("shape-by-dimension", "B", quick=3, full=30)
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
    trained = {m: train_onehot(n, m, n_models, "relu", STEPS) for m, n in SIZES.items()}
    return judge_shapes(
        {m: run.W_E for m, run in trained.items()},
        {m: SIZES[m] * (1 - run.final_loss.numpy()) for m, run in trained.items()},
        {
            "half as many features": {m: train_onehot(n // 2, m, some, "relu", STEPS).W_E for m, n in SIZES.items()},
            "untrained": {m: lab.untrained_directions(n, m, some) for m, n in SIZES.items()},
            "GELU": {m: train_onehot(SIZES[m], m, some, "gelu", STEPS).W_E for m in (2, 3, 4)},
        },
    )


def judge_shapes(
    W: Mapping[int, Stacked], drops: Mapping[int, np.ndarray], others: Mapping[str, Mapping[int, Stacked]]
) -> Verdict:
    """Do the directions of these models, by hidden dimension, grow faster than the dimension?

    There are equally many models at each hidden dimension, and each has learned something; `drops` is how far their
    summed loss lies below the number of features.
    """
    m = list(W)
    counts = np.stack([geometry.count_directions(w, LEARNED).numpy() for w in W.values()], axis=1)  # (model, dimension)
    means = {"ReLU": dict(zip(m, counts.mean(0), strict=True))} | {n: mean_directions(w) for n, w in others.items()}
    usual = {d: max(np.unique(found, return_counts=True)[1]) / len(found) for d, found in zip(m, counts.T, strict=True)}
    pentagons = 5 - theory.onehot_polygon_loss(5, 5)  # how far one pentagon, in two dimensions, lowers the loss
    ratio = {d: float(drop.mean()) / (pentagons * d / 2) for d, drop in drops.items()}
    halves = m[: len(m) // 2], m[len(m) // 2 :]
    return Verdict.of_statistic(
        "The exponent of the number of directions as a power of the hidden dimension",
        lambda rows: lab.log_slope(dict(zip(m, rows.mean(0), strict=True))),
        counts,
        n_models=counts.size,
        controls=lab.at_cuts(lambda cut: lab.log_slope(mean_directions(W, cut)), CUTS)
        | {f"m = {some[0]} ... {some[-1]}": lab.log_slope({d: means["ReLU"][d] for d in some}) for some in halves}
        | {name: lab.log_slope(means[name]) for name in others if name != "GELU"}
        | {f"directions, m = {d}": mean for d, mean in means["ReLU"].items()}
        | {f"most frequent number, m = {d}": share for d, share in usual.items()}
        | {f"directions, GELU, m = {d}": mean for d, mean in means.get("GELU", {}).items()}
        | {f"drop of the loss, pentagons = 1, m = {d}": value for d, value in ratio.items()},
        detail=lab.listing(
            "Mean number of directions learned", {f"m = {d}": f"{mean:.3g}" for d, mean in means["ReLU"].items()}
        ),
        figures={
            "Directions learned against hidden dimensions (means over models).": lab.curves(
                {name: by_m for name, by_m in means.items() if name != "untrained"}
                | {"tegum product of pentagons": {d: 2.5 * d for d in m}},
                "hidden dimensions",
                "directions",
            ),
            "Loss prevented, in units of a tegum product of pentagons.": lab.curves(
                {"ReLU": ratio}, "hidden dimensions", "(n - summed loss) / that of pentagons"
            ),
        },
    )
