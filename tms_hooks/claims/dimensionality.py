"""Claims about D_i and D*: the values they prefer, and what superposition costs under attack.

Sparse uniform features of importance 1, ReLU, tied, output bias (Elhage et al. 2022); the usual recipe, batch 256,
n = 64, m = 8. The paper has n = 400 and m = 30, of which it says that "the number of features and hidden
dimensions doesn't matter very much": here eight seeds are measured at each density in its place.
"""

from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots
from tms_hooks.claims import Part, Verdict, claim, lab, seeds, share, statistic
from tms_hooks.claims.lab import LEARNED
from tms_hooks.linalg import random_directions

SIZE = (64, 8)
WINDOW = 0.05
SHIFTED = 0.75
"""Where D* is not said to linger."""
WIDTHS = {"3/4": 0.02, "2/3": 0.02, "1/2": 0.02, "2/5": 0.006, "3/8": 0.006}
"""Named values of D_i, each with half the width of its window: a quarter of the way to its neighbor, at most 0.02."""
SLOW = (0.6, 0.9)
"""Between these densities features settle in triangles and tetrahedra, which takes many times as long as elsewhere."""
FEWEST = 0.01
"""Share of the learned features that makes a cluster."""
EPSILON = 0.1
"""Norm of the attack, in units of the mean norm of an input."""
INPUTS = 128
Grid = Float[Tensor, "seed density feature hidden"]


def train_grid(
    n_densities: int, n_seeds: int, steps: int, slow: int = 1
) -> tuple[list[float], Grid, Float[Tensor, "seed density feature"]]:
    """Densities from 1 to 0.05, and directions and output biases of models at each; `slow`: see `SLOW`."""
    densities = lab.densities(n_densities)
    runs = [
        lab.train_sparse(*SIZE, p, n_seeds, steps=steps * (slow if SLOW[0] < p < SLOW[1] else 1), batch_size=256)
        for p in densities
    ]
    W, b = (torch.stack([run.weights[name] for run in runs], dim=1) for name in ("W_E", "b_U"))
    return densities, W, b


@claim("sticky-dimensionality", "N", quick=1, full=12, counts="seeds", seconds=210)
def sticky_dimensionality(n_seeds: int) -> Verdict:
    """As features grow sparser D* lingers at 1 and 1/2, and the D_i of features cluster at 3/4, 2/3, 1/2, 2/5 and 3/8.

    D* lingers at a value if of the densities, on a log scale and interpolated, at which it is within 10 % of the value,
    more than half have it within 5 %, the share of an even drift. A seed has a cluster of D_i at a value if, over all
    densities, at least twice as many learned features (norm > 0.5) lie within w of it as beside it, from w to 2w away,
    and at least 1 % of all; w = 0.02, and 0.006 for 2/5 and 3/8, which are near each other.

    Part "D* at 1": "the number of dimensions per feature is "sticky" at 1" (Elhage et al. 2022).
    Statistic: of the densities at which D* is within 10 % of 1, the share within 5 %, over all seeds.
    Threshold: above 1/2.
    Null: the same at 0.75, of which nothing is said.

    Part "D* at 1/2": "“Sticky” D* for a range of sparsity means stays and “prefers” that level of D*. The 1/2 is an
    antipodal pair, which is effective."
    Statistic: of the densities at which D* is within 10 % of 1/2, the share within 5 %, over all seeds.
    Threshold: above 1/2.
    Null: the same at 0.75, of which nothing is said.

    Part "D_i at 3/4": "distinct lines corresponding to dimensionality of: ¾ (tetrahedron)" (Elhage et al. 2022).
    Statistic: the share of seeds with a cluster there; none at all counts as no cluster.
    Threshold: above 1/2.
    Null: the same norms in random directions.

    Part "D_i at 2/3": "⅔ (triangle)" (Elhage et al. 2022).
    Statistic: the share of seeds with a cluster there.
    Threshold: above 1/2.
    Null: the same norms in random directions.

    Part "D_i at 1/2": "½ (antipodal pair)" (Elhage et al. 2022).
    Statistic: the share of seeds with a cluster there.
    Threshold: above 1/2.
    Null: the same norms in random directions.

    Part "D_i at 2/5": "⅖ (pentagon)" (Elhage et al. 2022).
    Statistic: the share of seeds with a cluster there.
    Threshold: above 1/2.
    Null: the same norms in random directions.

    Part "D_i at 3/8": "⅜ (square antiprism)" (Elhage et al. 2022).
    Statistic: the share of seeds with a cluster there.
    Threshold: above 1/2.
    Null: the same norms in random directions.

    Size: 1 seed (quick), 12 (full), at each of 31 densities p from 1 to 0.05, evenly spaced on a log scale. 8,000
    steps, and 72,000 at the four densities between 0.6 and 0.9: of 4 seeds trained for 8,000, 24,000 and 72,000 steps,
    only there clusters changed. Sixteen densities, which were tried first, jump from 0.67 to 0.55 over the triangles,
    whose place is between: at 0.607 each of 8 seeds has as many after 72,000 steps as after 216,000, two to four. At
    0.67 they cost about as much as two tetrahedra and a triangle, which turn into four triangles now and then: in 1 of
    8 seeds by 72,000 steps and in 4 by 216,000.
    Controls: learned features near each value, inside and beside; the largest sum of D_i, which cannot exceed m, and
    the largest D*; the densities at which D* is within 5 % of 1/2.
    """
    densities, W, _ = train_grid(31, n_seeds, steps=8_000, slow=9)
    return judge_sticky(np.array(densities), W)


def judge_sticky(densities: np.ndarray, W: Grid) -> Verdict:
    """Do D* and D_i prefer the named values, in models of (seed, density)?"""
    W = W.double()
    star = geometry.dimensions_per_feature(W).numpy()
    fine = np.geomspace(densities.max(), densities.min(), 400)
    order = np.argsort(densities)
    drift = np.stack([np.interp(np.log(fine), np.log(densities[order]), row[order]) for row in star])
    D, alive = geometry.dimensionality(W), geometry.represented(W, LEARNED)
    by_chance = geometry.dimensionality(random_directions(W, seeds.first()))

    def lingers(v: float) -> Part:
        def counts(value: float) -> Float[np.ndarray, "seed 2"]:
            away = np.abs(drift / value - 1)
            return np.stack([(away < WINDOW).mean(1), (away < 2 * WINDOW).mean(1)], axis=1)

        return statistic(
            f"Of the densities at which D* is near {v:g}, the share at which it is there",
            lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum()) if rows[:, 1].any() else np.nan,
            counts(v),
            null=(counts(SHIFTED),),
            unit="seeds",
        )

    found = {name: window_counts(D, alive, name) for name in WIDTHS}
    total = alive.sum((1, 2)).numpy()

    def clusters(counts: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        inside, beside = counts
        return (inside >= 2 * beside) & (inside >= FEWEST * total) & (inside > 0)

    mean_D = {1 / p: lab.mean(D[:, j][alive[:, j]].numpy()) for j, p in enumerate(densities)}
    at_half = fine[(np.abs(drift.mean(0) / 0.5 - 1) < WINDOW)]
    return Verdict(
        parts={f"D* at {name}": lingers(v) for name, v in (("1", 1.0), ("1/2", 0.5))}
        | {
            f"D_i at {name}": share(
                f"The share of seeds with a cluster of D_i at {name}",
                clusters(counts),
                null=clusters(window_counts(by_chance, alive, name)),
                unit="seeds",
            )
            for name, counts in found.items()
        },
        n_models=star.size,
        controls={
            f"learned features {where} {name}": counts.sum()
            for name, each in found.items()
            for where, counts in zip(("at", "beside"), each, strict=True)
        }
        | {
            "learned features": total.sum(),
            "largest sum of D_i": D.sum(-1).max(),
            "largest D*": star.max(),
            "largest p with D* at 1/2": at_half.max() if len(at_half) else np.nan,
            "smallest p with D* at 1/2": at_half.min() if len(at_half) else np.nan,
        },
        detail=lab.listing("At / beside", {name: f"{a.sum()}/{b.sum()}" for name, (a, b) in found.items()})
        + f" D* falls from {star.max():.2f} to {star.min():.2f}.",
        figures={
            "D* of each density's models against 1/(1-S) = 1/p.": lab.curves(
                {
                    "D* = m / ||W||^2": dict(zip(1 / densities, star.mean(0), strict=True)),
                    "sum of D_i / features learned": mean_D,
                },
                "1 / (1 - S)",
                "dimensions per feature",
                log_x=True,
            ),
            "D_i of the learned features at each density; the named values are dotted.": plots.strips(
                {f"{1 / p:.3g}": D[:, j][alive[:, j]].numpy() for j, p in enumerate(densities)},
                "D_i",
                "1 / (1 - S)",
                {name: float(Fraction(name)) for name in ("1", *WIDTHS)},
            ),
            "Which features of the first model interfere, at three densities; tegum factors are named.": (
                plots.interference_graphs(
                    {
                        f"p = {densities[j]:.2g}": W[0, j].numpy()
                        for j in np.linspace(0, len(densities) - 1, 5).astype(int)[1:4]
                    }
                )
            ),
        },
    )


def window_counts(D: Float[Tensor, "seed density feature"], alive: Tensor, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Learned features of each seed within the window of a named value, and beside it, up to twice as far."""
    away, w = (D - float(Fraction(name))).abs(), WIDTHS[name]
    near, inside = ((away < width) & alive for width in (2 * w, w))
    return inside.sum((1, 2)).numpy(), (near & ~inside).sum((1, 2)).numpy()


@claim("adversarial-vulnerability", "N", quick=2, full=12, counts="seeds", seconds=36)
def adversarial_vulnerability(n_seeds: int) -> Verdict:
    """Vulnerability to small adversarial perturbations follows superposition, the number of features per dimension.

    The paper's attack: a perturbation of 0.1 of the mean input norm along +-(W W^T)_i, for whichever feature i harms
    the input most; mean over 128 inputs of the model's density. Vulnerability is how much sum_i (x_i - x'_i)^2 rises,
    relative to a model without superposition, which has dedicated dimensions: there it is the square of the norm.

    Part "more than three times": "vulnerability to adversarial examples sharply increases as superposition forms
    (increasing by >3x)" (Elhage et al. 2022).
    Statistic: vulnerability at the sparsest density, p = 0.05, mean over seeds.
    Threshold: above 3.
    Null: 1, a model without superposition.

    Part "tracks": "the level of vulnerability closely tracks the number of features per dimension" (Elhage et al.
    2022).
    Statistic: the rank correlation over densities of vulnerability with 1/D* = ||W||^2 / m of a seed; mean over seeds.
    Threshold: above 0.9.
    Null: a random perturbation of the same norm.

    Beyond the source "on the same inputs":
    Statistic: the same if all models are attacked at the same inputs (p = 0.05) with the same norm, which leaves the
    models as the only difference.
    Threshold: above 0.9.
    Null: a random perturbation of the same norm.

    Size: 2 seeds (quick), 12 (full), at each of 10 densities p from 1 to 0.05, evenly spaced on a log scale. 6,000
    steps.
    Controls: vulnerability at each density; under a random perturbation; of the same norms in random directions.
    """
    densities, W, b = train_grid(10, n_seeds, steps=6_000)
    data = [torch.rand(INPUTS, SIZE[0], generator=seeds.generator(j)) for j in range(len(densities))]
    own = [x * (torch.rand(x.shape, generator=seeds.generator(99)) < p) for x, p in zip(data, densities, strict=True)]
    at_random = random_directions(W, seeds.first())

    def rises(directions: Grid, inputs: list[Tensor], kind: str = "worst") -> np.ndarray:
        return np.array(
            [
                [attack(w, c, x, kind) for w, c, x in zip(ws, cs, inputs, strict=True)]
                for ws, cs in zip(directions, b, strict=True)
            ]
        )

    same = [own[-1]] * len(own)
    return judge_vulnerability(
        np.array(densities),
        (1 / geometry.dimensions_per_feature(W)).numpy(),
        {"worst": rises(W, own), "random": rises(W, own, "random")},
        {"worst": rises(W, same), "random": rises(W, same, "random")},
        rises(at_random, own),
    )


def attack(
    W: Float[Tensor, "feature hidden"],
    b: Float[Tensor, " feature"],
    x: Float[Tensor, "batch feature"],
    kind: str = "worst",
) -> float:
    """Mean rise of the squared error under the paper's attack, or a random one, relative to no superposition."""
    epsilon = EPSILON * float(x.norm(dim=1).mean())
    if kind == "worst":
        along = torch.nn.functional.normalize(W @ W.mT, dim=1)
        directions = torch.cat([along, -along])
    else:
        directions = torch.randn(1, x.shape[1], generator=seeds.generator())
        directions = torch.nn.functional.normalize(directions, dim=1)

    def error(inputs: Tensor) -> Tensor:
        return ((inputs @ W @ W.mT + b).relu() - x[:, None]).square().sum(-1)

    clean, worst = error(x[:, None]), error(x[:, None] + epsilon * directions)
    return float((worst.amax(1) - clean[:, 0]).mean() / epsilon**2)


def judge_vulnerability(
    densities: np.ndarray,
    load: np.ndarray,
    own: dict[str, np.ndarray],
    same: dict[str, np.ndarray],
    at_random: np.ndarray,
) -> Verdict:
    """Does vulnerability rank models as features per dimension, `load`, do? All are of (seed, density), densest first.

    `own` are rises at inputs of each density, `same` at the same inputs, under the worst attack and a random one;
    `at_random` those of random directions.
    """

    def tracks(rises: np.ndarray) -> np.ndarray:
        return np.array([lab.rank_correlation(*row) for row in zip(load, rises, strict=True)])

    def part(what: str, rises: dict[str, np.ndarray]) -> Part:
        return statistic(
            f"The rank correlation of vulnerability with features per dimension{what}",
            np.mean,
            tracks(rises["worst"]),
            null=(tracks(rises["random"]),),
            unit="seeds",
        )

    worst = own["worst"].mean(0)
    return Verdict(
        parts={
            "more than three times": statistic(
                f"Vulnerability at p = {densities[-1]:g}, relative to no superposition,",
                np.mean,
                own["worst"][:, -1],
                null=1.0,
                unit="seeds",
            ),
            "tracks": part("", own),
            "on the same inputs": part(", all attacked at the same inputs,", same),
        },
        n_models=load.size,
        controls={f"vulnerability at p = {p:.2g}": value for p, value in zip(densities, worst, strict=True)}
        | {
            "random perturbation, sparsest": own["random"][:, -1].mean(),
            "random directions, sparsest": at_random[:, -1].mean(),
            "1/D*, sparsest / densest": load[:, -1].mean() / load[:, 0].mean(),
            "vulnerability on the same inputs, sparsest / densest": same["worst"][:, -1].mean()
            / same["worst"][:, 0].mean(),
        },
        detail=f"Vulnerability is {worst[0]:.3g} at p = {densities[0]:g} and {worst[-1]:.3g} at p = {densities[-1]:g}.",
        figures={
            "Vulnerability relative to a model without superposition, and features per dimension.": lab.curves(
                {
                    "own inputs": dict(zip(1 / densities, worst, strict=True)),
                    "the same inputs": dict(zip(1 / densities, same["worst"].mean(0), strict=True)),
                    "features per dimension": dict(zip(1 / densities, load.mean(0), strict=True)),
                },
                "1 / (1 - S)",
                "vulnerability; features per dimension",
                log_x=True,
            )
        },
    )
