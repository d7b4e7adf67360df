"""Claims about features that fire together, or never together, in pairs (Elhage et al. 2022, "correlated features").

Features 0 and 1 are a pair, 2 and 3, and so on; importance 1, two hidden dimensions, ReLU, tied, output bias. The usual
recipe, 6,000 steps, batch 512.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tms_hooks import geometry, plots
from tms_hooks.claims import Part, Verdict, claim, lab, share, statistic
from tms_hooks.claims.lab import LEARNED, ByDensity, Stacked
from tms_hooks.config import Activation, ToyConfig
from tms_hooks.data import AnticorrelatedGroups, CorrelatedGroups, SparseUniform
from tms_hooks.run import Run

WITHIN_DEGREES = 6.0
"""Tolerance of "orthogonal" and "antipodal"."""
COLLAPSED_DEGREES = 15.0
"""Two features nearer than this are one direction."""
DENSITIES = (0.6, 0.3, 0.18, 0.1, 0.02)
"""One of each regime of the paper: three sets of features collapsed, two, one, none, and between."""
KINDS = {"correlated": CorrelatedGroups, "independent": SparseUniform, "anticorrelated": AnticorrelatedGroups}


def train_pairs(kind: str, n_features: int, p: float, n_models: int, output_act: Activation = "relu") -> Run:
    """Toys in two dimensions."""
    cfg = ToyConfig(n_features=n_features, d_hidden=2, output_act=output_act)
    data = KINDS[kind](n_features=n_features, feature_probability=p)
    return lab.train_toys(cfg, data, n_models, steps=6_000, batch_size=512)


def pair_degrees(W: Stacked) -> Float[Tensor, "model pair"]:
    """Angle between the two features of every pair."""
    first, second = W[:, ::2].double(), W[:, 1::2].double()
    return torch.rad2deg(torch.cosine_similarity(first, second, dim=-1).clamp(-1, 1).acos())


def learned_pairs(W: Stacked, learned: float = LEARNED) -> Bool[Tensor, "model pair"]:
    """Pairs of which both features are learned."""
    alive = geometry.represented(W, learned)
    return alive[:, ::2] & alive[:, 1::2]


@claim("correlated-orthogonal", "N", quick=12, full=200)
def correlated_orthogonal(n_models: int) -> Verdict:
    """Features that fire together are put at right angles.

    n = 4 in two pairs that are active together or not at all, p = 0.1, m = 2.

    Part "orthogonal": "correlated are orthogonal (90 degrees)".
    Statistic: the share of models that have learned all four (norm > 0.5), with both pairs within 6 degrees of
    orthogonal.
    Threshold: above 2/3, the share that squares of independent features give: a pair's partner is one of three.
    Null: models of independent features.

    Size: 12 models (quick), 200 (full), of each kind.
    Controls: the same share of models of anticorrelated pairs, of untrained ones, and of ones with a linear output;
    learned > 0.3 and > 0.7; the share of squares; the same share of the tenth of models of lowest loss (stratified by
    the number of active pairs), and the mean loss of those with orthogonal pairs and of all others.
    """
    return measure_angle("correlated", n_models)


@claim("anticorrelated-antipodal", "N", quick=12, full=200)
def anticorrelated_antipodal(n_models: int) -> Verdict:
    """Features that never fire together are put opposite each other.

    n = 4 in two pairs of which at most one is active, p = 0.1 each, m = 2.

    Part "antipodal": "anticorrelated are in opposite (180)".
    Statistic: the share of models that have learned all four (norm > 0.5), with both pairs within 6 degrees of
    antipodal.
    Threshold: above 1/3, the share that squares of independent features give: a pair's partner is one of three.
    Null: models of independent features.

    Size: 12 models (quick), 200 (full), of each kind.
    Controls: the same share of models of correlated pairs, of untrained ones, and of ones with a linear output; learned
    > 0.3 and > 0.7; the share of squares; the same share of the tenth of models of lowest loss (stratified by the
    number of active pairs), and the mean loss of those with antipodal pairs and of all others.
    """
    return measure_angle("anticorrelated", n_models)


def measure_angle(kind: str, n_models: int) -> Verdict:
    """Train two pairs of every kind, and judge this one."""
    runs = {each: train_pairs(each, 4, 0.1, n_models) for each in KINDS}
    others = {
        "untrained": lab.untrained_directions(4, 2, n_models),
        "linear output": train_pairs(kind, 4, 0.1, max(n_models // 4, 2), "identity").W_E,
    }
    return judge_angle(kind, {each: run.W_E for each, run in runs.items()}, lab.expected_losses(runs[kind]), others)


def judge_angle(kind: str, W: Mapping[str, Stacked], losses: np.ndarray, others: Mapping[str, Stacked]) -> Verdict:
    """Are pairs of this kind orthogonal (correlated ones) or antipodal (anticorrelated ones) more often than by chance?

    `W` are models of every kind, and `losses` the expected losses of those of this kind.
    """
    word, degrees = ("orthogonal", 90.0) if kind == "correlated" else ("antipodal", 180.0)

    def hits(models: Stacked, learned: float = LEARNED) -> np.ndarray:
        """Models that have learned all features and hold every pair at this angle."""
        right = (pair_degrees(models) - degrees).abs() < WITHIN_DEGREES
        return (right & learned_pairs(models, learned)).all(1).numpy()

    found = hits(W[kind])
    right, wrong = losses[found], losses[~found]
    square = (lab.shape_names(W[kind]) == "square").mean()
    angles = {each: pair_degrees(w).flatten().numpy() for each, w in W.items()}
    return Verdict(
        parts={
            word: share(
                f"The share of models of which all {kind} pairs are {word}",
                found,
                null=hits(W["independent"]),
                best=float(found[losses.argmin()]),
            )
        },
        n_models=len(found),
        controls={each: hits(w).mean() for each, w in W.items() if each not in (kind, "independent")}
        | {other: hits(w, 0.0).mean() for other, w in others.items()}
        | lab.at_cuts(lambda cut: hits(W[kind], cut).mean())
        | {
            "share of squares": square,
            "tenth of lowest loss": found[losses.argsort()[: max(len(losses) // 10, 1)]].mean(),
            f"mean loss of those with {word} pairs": lab.mean(right),
            "mean loss of the others": lab.mean(wrong),
        },
        detail=f"The median angle within a pair is {np.median(angles[kind]):.1f} degrees, of independent features "
        f"{np.median(angles['independent']):.1f}; {square:.0%} of the models are squares.",
        figures={
            "Angle between the two features of a pair.": plots.distributions(
                angles, "angle (degrees)", lab.colors(angles), nbins=36
            ),
            "The first model of each kind; features 0 and 1 are a pair (blue, orange), and 2 and 3 (green, pink).": (
                lab.arrows({each: w[0] for each, w in W.items()})
            ),
        },
    )


@claim("correlated-collapse", "N", quick=8, full=60)
def correlated_collapse(n_models: int) -> Verdict:
    """Correlated pairs too many to be orthogonal: dense ones collapse to their mean (PCA), sparse ones lie near.

    The paper's setting: n = 6 in three pairs that are active together or not at all, m = 2. A pair is collapsed if both
    features are learned (norm > 0.5) and less than 15 degrees apart.

    Part "PCA": "In very dense regimes, the solution becomes equivalent to PCA." (Elhage et al. 2022)
    Statistic: the share of models at p = 0.6 of which all learned pairs are collapsed.
    Threshold: above 1/2.
    Null: models of independent features.

    Part "progressively": "As we decrease sparsity, the features progressively "collapse" into their principal
    components." (Elhage et al. 2022)
    Statistic: the mean number of collapsed pairs at a density less that at the next sparser one; the smallest of the
    four steps from p = 0.02 over 0.1, 0.18 and 0.3 to 0.6.
    Threshold: above 0.
    Null: none, since the statistic is a difference between densities.

    Part "side by side": "Models prefer to arrange correlated features side by side if they can't be orthogonal."
    (Elhage et al. 2022)
    Statistic: the share of models at p = 0.02 with all learned pairs less than 90 degrees apart.
    Threshold: above 1/2.
    Null: models of independent features.

    Part "hexagon": "in the very sparse regime, we observe superposition as expected, with features arranged in a
    hexagon and correlated features side-by-side" (Elhage et al. 2022).
    Statistic: the share of models at p = 0.02 that are a hexagon with all pairs less than 90 degrees apart.
    Threshold: above 1/2.
    Null: models of independent features.

    Size: 8 models (quick), 60 (full), at each of five densities.
    Controls: the share of models with all pairs collapsed, and with none, at each density, and the number of collapsed
    pairs in the model of lowest loss (stratified by the number of active pairs).
    """
    runs = {p: train_pairs("correlated", 6, p, n_models) for p in DENSITIES}
    return judge_collapse(
        {p: run.W_E for p, run in runs.items()},
        {p: int(lab.expected_losses(run).argmin()) for p, run in runs.items()},
        {p: train_pairs("independent", 6, p, n_models).W_E for p in (DENSITIES[0], DENSITIES[-1])},
    )


RULES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "collapsed": lambda degrees: degrees < COLLAPSED_DEGREES,
    "apart": lambda degrees: degrees >= COLLAPSED_DEGREES,
    "side by side": lambda degrees: degrees < 90,
}
"""What the angle within a pair may be."""


def obeys(W: Stacked, rule: str, learned: float = LEARNED) -> np.ndarray:
    """Models with a learned pair of which all learned pairs obey one of `RULES`."""
    pairs = learned_pairs(W, learned)
    return ((RULES[rule](pair_degrees(W)) | ~pairs).all(1) & pairs.any(1)).numpy()


def collapsed_pairs(W: Stacked) -> np.ndarray:
    """How many pairs of each model are collapsed."""
    return (learned_pairs(W) & RULES["collapsed"](pair_degrees(W))).sum(1).numpy()


def judge_collapse(correlated: ByDensity, best: Mapping[float, int], independent: ByDensity) -> Verdict:
    """Do dense pairs share a direction, and sparse ones not, though they stay near?

    `best` is the model of lowest loss at each density, `independent` are models at the first and last.
    """
    densities = sorted(correlated, reverse=True)
    dense, sparse = densities[0], densities[-1]
    counts = np.stack([collapsed_pairs(correlated[p]) for p in densities], axis=1)

    def hexagons(W: Stacked) -> np.ndarray:
        return (lab.shape_names(W) == "hexagon") & obeys(W, "side by side")

    def part(what: str, p: float, rule: Callable[[Stacked], np.ndarray]) -> Part:
        held = rule(correlated[p])
        return share(
            f"The share of models at p = {p:g} {what}", held, null=rule(independent[p]), best=float(held[best[p]])
        )

    def least_fall(found: np.ndarray) -> float:
        return float((-np.diff(found.mean(0))).min())

    optimal = np.array([counts[best[p], j] for j, p in enumerate(densities)])
    angles = {f"p = {p:g}": pair_degrees(W)[learned_pairs(W)].numpy() for p, W in correlated.items()}
    angles = {name: values for name, values in angles.items() if len(values)}
    return Verdict(
        parts={
            "PCA": part("of which all learned pairs are collapsed", dense, lambda W: obeys(W, "collapsed")),
            "progressively": statistic(
                "The smallest rise of the number of collapsed pairs with density",
                least_fall,
                counts,
                best=float((-np.diff(optimal)).min()),
            ),
            "side by side": part("with all learned pairs side by side", sparse, lambda W: obeys(W, "side by side")),
            "hexagon": part("that are a hexagon with pairs side by side", sparse, hexagons),
        },
        n_models=lab.total(correlated),
        controls={
            f"{rule} at p = {p:g}": obeys(W, rule).mean()
            for rule in ("collapsed", "apart")
            for p, W in correlated.items()
        }
        | {f"collapsed pairs at p = {p:g}": counts[:, j].mean() for j, p in enumerate(densities)}
        | {f"the same, lowest loss at p = {p:g}": optimal[j] for j, p in enumerate(densities)},
        detail=lab.listing(
            "Median angle within learned pairs, in degrees", {name: f"{np.median(v):.1f}" for name, v in angles.items()}
        ),
        figures={
            "Angle within the learned correlated pairs.": plots.distributions(
                angles, "angle (degrees)", lab.colors(angles), nbins=36
            ),
            "The model of lowest loss at each density; features 0 and 1 are a pair, and so on.": lab.arrows(
                {f"p = {p:g}": correlated[p][best[p]] for p in densities}
            ),
        },
    )
