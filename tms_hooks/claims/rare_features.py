"""The claim about one feature that is rarer, or less important, than the other four of a pentagon.

Sparse uniform features, ReLU, tied, output bias (Elhage et al. 2022); the usual recipe, 3,000 steps.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots
from tms_hooks.claims import Part, Verdict, claim, lab, share, statistic
from tms_hooks.claims.lab import LEARNED, Stacked
from tms_hooks.linalg import cosines

FACTORS = np.geomspace(1, 10, 11)
CLAIMED_FACTOR = 2.5
GROUP = 8
"""Seeds among which the lowest loss of a shape is looked for: a trained model is often not the optimum."""
SQUARE_DEGREES = 15.0
"""How far the angles of two digons may be from a square's."""
Grid = Float[Tensor, "factor model feature hidden"]


@claim("importance-and-frequency", "N", quick=3, full=12, counts="groups of seeds", seconds=45)
def importance_and_frequency(n_groups: int) -> Verdict:
    """One feature of a pentagon made rarer: at about 2.5 times, the pentagon turns into two digons.

    The paper's setting: n = 5, m = 2, importance 1, p = 0.05, the first feature's p divided by a factor. As in the
    paper each model is fitted several times and the solution with the lowest loss taken: of eight seeds, by a loss
    stratified by the set of active features, for each shape. A pentagon has all five features learned (norm > 0.5) in
    five directions; two digons are a square of the other four, within 15 degrees.

    Part "about 2.5": "When the sparsity of the varied point falls below a certain critical threshold (~2.5x less than
    others) the pentagon solution changes to two digons." (Elhage et al. 2022)
    Statistic: the relative deviation from 2.5 of the factor at which the lowest losses of the two shapes cross,
    interpolated on a log scale; mean factor over groups of eight seeds.
    Threshold: below 0.25 ("about": 1.9 to 3.1 times).
    Null: none, since the statistic is a distance from the stated number.

    Part "crossing": "The phase change corresponds to loss curves corresponding to the two different geometries crossing
    over." (Elhage et al. 2022)
    Statistic: the share of groups in which the pentagon costs less at factor 1 and the two digons at factor 10.
    Threshold: above 1/2.
    Null: 1/4, what two shapes of unrelated losses would give.

    Part "sparser point at zero": "it collapses from a pentagon to a pair of digons with the sparser point at zero"
    (Elhage et al. 2022).
    Statistic: the share of groups whose model of lowest loss at factor 10 is two digons with the norm of the rarer
    feature below 0.1.
    Threshold: above 1/2.
    Null: models with a linear output.

    Beyond the source "p = 0.02":
    Statistic: the same relative deviation at p = 0.02.
    Threshold: below 0.25.
    Null: none, since the statistic is a distance from the stated number.

    Beyond the source "p = 0.1":
    Statistic: the same relative deviation at p = 0.1.
    Threshold: below 0.25.
    Null: none, since the statistic is a distance from the stated number.

    Size: 3 groups of eight seeds (quick), 12 (full), at each of 11 factors from 1 to 10, evenly spaced on a log scale,
    and at each of three densities. 3,000 steps.
    Controls: the factors themselves; the factor at which pentagons no longer outnumber two digons among single models;
    that factor if the first feature's importance is divided instead of its p, and where the losses cross then.
    """

    def rarer(p: float) -> tuple[Grid, np.ndarray]:
        runs = [lab.train_sparse(5, 2, (p / f, *(p,) * 4), n_groups * GROUP, steps=3_000) for f in FACTORS.tolist()]
        return torch.stack([run.W_E for run in runs]), np.stack([lab.stratified_losses(run) for run in runs])

    lighter = [
        lab.train_sparse(5, 2, 0.05, 2 * GROUP, steps=3_000, importance=(1 / f, *(1.0,) * 4)) for f in FACTORS.tolist()
    ]
    plain = lab.train_sparse(5, 2, (0.005, *(0.05,) * 4), n_groups, steps=3_000, output_act="identity")
    return judge_factor(
        {p: rarer(p) for p in (0.05, 0.02, 0.1)},
        (torch.stack([run.W_E for run in lighter]), np.stack([lab.stratified_losses(run) for run in lighter])),
        plain.W_E,
    )


def judge_factor(
    rarer: Mapping[float, tuple[Grid, np.ndarray]], lighter: tuple[Grid, np.ndarray], linear: Stacked
) -> Verdict:
    """At which of `FACTORS` does the pentagon cost more than two digons?

    The first feature is that many times rarer, at several p, the source's first, or that many times less important.
    Losses are of (factor, model). `linear` are models with a linear output at the last factor.
    """
    first, *others = rarer
    crossings = {p: group_crossings(W, losses) for p, (W, losses) in rarer.items()}
    W, losses = rarer[first]
    codes = pentagon_or_digons(W)
    last = losses[-1].reshape(-1, GROUP)
    chosen = last.argmin(1) + GROUP * np.arange(len(last))
    at_zero = collapsed(W[-1, chosen])
    ends = group_gains(codes, losses)[:, [0, -1]]
    five, two = ((codes == code).mean(1) for code in (1, -1))
    shown = [0, int(np.abs(FACTORS - crossings[first].mean()).argmin()), len(FACTORS) - 1]

    def about(p: float) -> Part:
        whole = loss_crossing(pentagon_or_digons(rarer[p][0]), rarer[p][1])
        return statistic(
            f"The relative deviation from 2.5 of the factor at which losses cross, at p = {p:g},",
            lambda factors: abs(float(factors.mean()) / CLAIMED_FACTOR - 1),
            crossings[p],
            best=abs(whole / CLAIMED_FACTOR - 1),
            unit="groups of seeds",
        )

    return Verdict(
        parts={
            "about 2.5": about(first),
            "crossing": share(
                "The share of groups in which the shape of lower loss changes",
                (ends[:, 0] > 0) & (ends[:, 1] < 0),
                null=0.25,
                unit="groups of seeds",
            ),
            "sparser point at zero": share(
                "The share of groups that are two digons and a feature at zero at factor 10",
                at_zero,
                null=collapsed(linear),
                best=float(at_zero[last.min(1).argmin()]),
                unit="groups of seeds",
            ),
        }
        | {f"p = {p:g}": about(p) for p in others},
        n_models=sum(loss.size for _, loss in rarer.values()),
        controls={f"factor at p = {p:g}": found.mean() for p, found in crossings.items()}
        | {
            f"the same, of all seeds, p = {p:g}": loss_crossing(pentagon_or_digons(w), loss)
            for p, (w, loss) in rarer.items()
        }
        | {
            "factor at which single models change": zero_crossing(codes.mean(1)),
            "the same, less important": zero_crossing(pentagon_or_digons(lighter[0]).mean(1)),
            "factor at which losses cross, less important": loss_crossing(pentagon_or_digons(lighter[0]), lighter[1]),
            "share of pentagons at factor 1": five[0],
            "share of two digons at factor 10": two[-1],
        },
        detail=lab.listing(
            "Losses cross at factors", {f"p = {p:g}": found.mean() for p, found in crossings.items()}, ".2f"
        )
        + f" Of single models at p = {first:g}, pentagons fall from {five[0]:.0%} to {five[-1]:.0%}.",
        figures={
            "Lowest loss of each shape: the curves cross.": lab.curves(
                {
                    name: {f: low for f, low in zip(FACTORS, _lowest(codes, losses, code), strict=True) if low < np.inf}
                    for name, code in (("pentagon", 1), ("two digons", -1))
                },
                "p of the others / p of the first feature",
                "expected loss",
                log_x=True,
            ),
            "Share of single models in each shape against how much rarer the first feature is.": plots.curves(
                {"pentagon": (FACTORS, five), "two digons": (FACTORS, two)},
                "p of the others / p of the first feature",
                "share of models",
                log_x=True,
            ),
            "The model of lowest loss at three factors; feature 0 (blue) is the rarer one.": lab.arrows(
                {f"{FACTORS[i]:.2g} times rarer": W[i, losses[i].argmin()] for i in shown}
            ),
        },
    )


def collapsed(W: Stacked) -> np.ndarray:
    """Models that are two digons with the first feature at zero."""
    return (pentagon_or_digons(W[None])[0] == -1) & (W[:, 0].norm(dim=-1) < 0.1).numpy()


def pentagon_or_digons(W: Grid, learned: float = LEARNED) -> np.ndarray:
    """1 for a pentagon, -1 for two digons among the features after the first, 0 for neither; (factor, model)."""
    degrees = torch.rad2deg(cosines(W.double()).clamp(-1, 1).acos())
    alive = geometry.represented(W, learned)
    corner = torch.tensor([0.0, 90.0, 90.0, 180.0])  # what each corner of a square sees
    square = ((degrees[..., 1:, 1:].sort(dim=-1).values - corner).abs() < SQUARE_DEGREES).all(-1).all(-1)
    digons = square & alive[..., 1:].all(-1)
    pentagon = (geometry.count_directions(W, learned) == 5) & ~digons
    return (pentagon.int() - digons.int()).numpy()


def zero_crossing(balance: np.ndarray) -> float:
    """The first of `FACTORS`, interpolated on a log scale, at which `balance` is no longer positive; else the last."""
    gone = np.flatnonzero(balance <= 0)
    if not len(gone):
        return float(FACTORS[-1])
    if (i := int(gone[0])) == 0:
        return float(FACTORS[0])
    before, after = balance[i - 1], balance[i]
    step = before / (before - after)
    return float(np.exp(np.log(FACTORS[i - 1]) * (1 - step) + np.log(FACTORS[i]) * step))


def _lowest(codes: np.ndarray, losses: np.ndarray, code: int) -> Float[np.ndarray, " factor"]:
    """Lowest loss of a shape at each factor; infinite where no model has it."""
    return np.where(codes == code, losses, np.inf).min(1)


def loss_gain(codes: np.ndarray, losses: np.ndarray) -> Float[np.ndarray, " factor"]:
    """Logarithm of how many times more two digons cost than a pentagon: positive where the pentagon is better."""
    two, five = (_lowest(codes, losses, code) for code in (-1, 1))
    both = np.isfinite(two) & np.isfinite(five)
    # Where only one shape was reached, it is the better one.
    gain = np.where((codes == 1).sum(1) >= (codes == -1).sum(1), 1.0, -1.0)
    gain[both] = np.log(two[both] / five[both])
    return gain


def loss_crossing(codes: np.ndarray, losses: np.ndarray) -> float:
    """Where the lowest loss of two digons falls below that of pentagons; NaN if no factor has both."""
    both = np.isfinite(_lowest(codes, losses, -1)) & np.isfinite(_lowest(codes, losses, 1))
    return zero_crossing(loss_gain(codes, losses)) if both.any() else float("nan")


def group_gains(codes: np.ndarray, losses: np.ndarray) -> Float[np.ndarray, "group factor"]:
    """`loss_gain` of each group of seeds."""
    groups = range(0, codes.shape[1] - GROUP + 1, GROUP)
    return np.stack([loss_gain(codes[:, i : i + GROUP], losses[:, i : i + GROUP]) for i in groups])


def group_crossings(W: Grid, losses: np.ndarray) -> Float[np.ndarray, " group"]:
    """`loss_crossing` of each group of seeds."""
    return np.array([zero_crossing(gain) for gain in group_gains(pentagon_or_digons(W), losses)])
