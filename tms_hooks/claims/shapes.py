"""What "Superposition and bottlenecks" asks of more dimensions than three: how many directions are learned?

The toys are those of `tms_hooks.claims.bottlenecks`, with binary one-hot features, tied and without bias, but trained
for 1,500 steps. "Learned" means a norm above 0.1, since features that share a direction share its norm.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tms_hooks import geometry, theory
from tms_hooks.claims import Verdict, claim, lab, statistic
from tms_hooks.claims.bottlenecks import CUTS, LEARNED, mean_directions, train_onehot
from tms_hooks.claims.lab import Stacked, Trained
from tms_hooks.linalg import cosines

SIZES = {2: 20, 3: 40, 4: 60, 5: 80, 6: 100, 7: 150, 8: 200, 9: 250}
"""Hidden dimensions -> features, many times as many as directions are learned."""
STEPS = 1_500
PENTAGONS = 2.5
"""Directions per dimension of a tegum product of pentagons."""


@claim("shape-by-dimension", "B", quick=8, full=30)
def shape_by_dimension(n_models: int) -> Verdict:
    """The number of directions learned grows faster than in proportion to the hidden dimension.

    Part "more per dimension": "In nd, can we plot shape against number of features learned?" (a question; the figure
    answers it, and this is what it shows).
    Statistic: the mean number of distinct directions among learned features (norm > 0.1) per hidden dimension at m = 9,
    relative to that at m = 2; 20 features at m = 2 up to 250 at m = 9.
    Threshold: above 1.
    Null: a tegum product of pentagons, which has 2.5 per dimension at every m.

    Beyond the source "the dimension decides": not the number of features.
    Statistic: the mean over m = 2 ... 9 of the relative difference in directions to models of half as many features.
    Threshold: below 0.05.
    Null: untrained models.

    Beyond the source "no power law": a single exponent would fit both halves.
    Statistic: the exponent of directions as a power of m, by least squares on logarithms, over m = 6 ... 9, less that
    over m = 2 ... 5.
    Threshold: above 0.
    Null: a power law.

    Size: 8 models at each m (quick), 30 (full).
    Controls: the exponent over all m, and the largest relative misfit of its power law; the exponent at learned > 0.05
    and > 0.2; mean directions, the share of the most frequent number of them, the shape and its overlaps of the model
    of lowest loss, at each m; directions under GELU at m = 2 ... 4; how far the summed loss falls below n, a tegum
    product of pentagons = 1, at each m.
    """
    trained = {m: Trained.of(train_onehot(n, m, n_models, "relu", STEPS)) for m, n in SIZES.items()}
    half = {m: train_onehot(n // 2, m, n_models, "relu", STEPS).W_E for m, n in SIZES.items()}
    return judge_shapes(
        trained,
        half,
        {m: lab.untrained_directions(n, m, n_models) for m, n in SIZES.items()},
        {m: lab.untrained_directions(n // 2, m, n_models) for m, n in SIZES.items()},
        {m: train_onehot(SIZES[m], m, n_models, "gelu", STEPS).W_E for m in (2, 3, 4)},
    )


def counts(W: Mapping[int, Stacked]) -> Int[np.ndarray, "model dimension"]:
    """Directions of each model, a column per hidden dimension."""
    return np.stack([geometry.count_directions(w, LEARNED).numpy() for w in W.values()], axis=1)


def shape_in_words(W: Float[Tensor, "feature hidden"]) -> str:
    """Number of directions of one model, its nearest polytope where one is known, and its cosines, to 0.05, by number.

    >>> shape_in_words(torch.cat([torch.eye(4), -torch.eye(4)]))
    '8 directions (16-cell): -1.00 (4), 0.00 (24)'
    """
    groups = geometry.directions(W, LEARNED)
    name = geometry.name_polytope(W, LEARNED)
    V = torch.stack([W[group].mean(0) for group in groups])
    rows, columns = torch.triu_indices(len(V), len(V), 1)
    found, number = np.unique((cosines(V)[rows, columns] / 0.05).round().numpy() * 0.05 + 0.0, return_counts=True)
    listed = ", ".join(f"{value:.2f} ({k})" for value, k in zip(found, number, strict=True))
    if (W.shape[1], len(V), number.tolist()) == (5, 16, [40, 80]):
        name = "demipenteract"  # cosines of -3/5 and 1/5; not among the shapes of up to three dimensions
    known = "" if name in ("unknown", "none") else f" ({name})"
    return f"{len(groups)} directions{known}: {listed}"


def judge_shapes(
    trained: Mapping[int, Trained],
    half: Mapping[int, Stacked],
    start: Mapping[int, Stacked],
    start_half: Mapping[int, Stacked],
    gelu: Mapping[int, Stacked],
) -> Verdict:
    """Do the directions of these models, by hidden dimension, grow faster than the dimension?

    There are equally many models at each hidden dimension, and each has learned something; `half` are those of half as
    many features, `start` and `start_half` the same untrained.
    """
    W = {m: models.W for m, models in trained.items()}
    m = np.array(list(W))
    found = counts(W)
    means = dict(zip(W, found.mean(0), strict=True))
    usual = {d: max(np.unique(k, return_counts=True)[1]) / len(k) for d, k in zip(W, found.T, strict=True)}
    pentagons = 5 - theory.onehot_polygon_loss(5, 5)  # how far one pentagon, in two dimensions, lowers the loss
    ratio = {
        d: models.W.shape[1] * (1 - float(models.loss.mean())) / (pentagons * d / 2) for d, models in trained.items()
    }
    shapes = {d: shape_in_words(models.W[lab.lowest(models.loss)]) for d, models in trained.items()}
    middle = len(m) // 2
    slope, level = np.polyfit(np.log(m), np.log(found.mean(0)), 1)
    misfit = np.abs(np.exp(level) * m**slope / found.mean(0) - 1).max()

    def exponent(rows: np.ndarray, some: slice) -> float:
        return float(np.polyfit(np.log(m[some]), np.log(rows.mean(0)[some]), 1)[0])

    def difference(all_rows: np.ndarray, half_rows: np.ndarray) -> float:
        return float(np.mean(np.abs(half_rows.mean(0) / all_rows.mean(0) - 1)))

    return Verdict(
        parts={
            "more per dimension": statistic(
                f"Directions per dimension at m = {m[-1]}, relative to those at m = {m[0]},",
                lambda rows: float(rows.mean(0)[-1] / m[-1] / (rows.mean(0)[0] / m[0])),
                found,
                null=1.0,
            ),
            "the dimension decides": statistic(
                "The relative difference of half as many features",
                difference,
                found,
                counts(half),
                null=(counts(start), counts(start_half)),
            ),
            "no power law": statistic(
                "The exponent over the larger m less that over the smaller",
                lambda rows: exponent(rows, slice(middle, None)) - exponent(rows, slice(0, middle)),
                found,
                null=0.0,
            ),
        },
        n_models=found.size,
        controls={"exponent": slope, "largest misfit of the power law": misfit}
        | lab.at_cuts(lambda cut: lab.log_slope(mean_directions(W, cut)), CUTS, "exponent at ")
        | {f"directions, m = {d}": mean for d, mean in means.items()}
        | {f"most frequent number, m = {d}": share for d, share in usual.items()}
        | {f"directions, GELU, m = {d}": mean for d, mean in mean_directions(gelu).items()}
        | {f"drop of the loss, pentagons = 1, m = {d}": value for d, value in ratio.items()},
        detail=lab.listing(
            "The shape of lowest loss and its cosines (pairs)", {f"m = {d}": words for d, words in shapes.items()}
        ),
        figures={
            "Directions learned against hidden dimensions (means over models).": lab.curves(
                {"ReLU": means, "half as many features": mean_directions(half), "GELU": mean_directions(gelu)}
                | {"tegum product of pentagons": {d: PENTAGONS * d for d in W}},
                "hidden dimensions",
                "directions",
            ),
            "Loss prevented, in units of a tegum product of pentagons.": lab.curves(
                {"ReLU": ratio}, "hidden dimensions", "(n - summed loss) / that of pentagons"
            ),
        },
    )
