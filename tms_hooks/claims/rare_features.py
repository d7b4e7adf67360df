"""The claim about one feature that is rarer, or less important, than the other four of a pentagon.

Sparse uniform features, ReLU, tied, output bias (Elhage et al. 2022); the usual recipe, 3,000 steps.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.lab import LEARNED
from tms_hooks.linalg import cosines

FACTORS = np.geomspace(1, 10, 11)
CLAIMED_FACTOR = 2.5
SQUARE_DEGREES = 15.0
"""How far the angles of two digons may be from a square's."""
Grid = Float[Tensor, "factor model feature hidden"]


@claim("importance-and-frequency", "N", quick=8, full=60)
def importance_and_frequency(n_models: int) -> Verdict:
    """One feature of a pentagon made rarer: at about 2.5 times, the pentagon turns into two digons.

    Statistic: relative deviation from 2.5 of the factor at which pentagons (all five learned, norm > 0.5, the other
    four no square) no longer outnumber two digons (the other four a square, within 15 degrees), interpolated on a log
    scale; n = 5, m = 2, p = 0.05, the first feature's p divided by the factor. No such factor up to 10 counts as 10.
    Threshold: below 0.25 ("about": 1.9 to 3.1 times).
    Size: 8 seeds (quick), 60 (full), at each of 11 factors from 1 to 10, evenly spaced on a log scale. 3,000 steps.
    Controls: the factor itself; the factor at which the lowest held-out losses of both shapes cross, also at p = 0.02
    and 0.1 (half as many seeds); the factor if the first feature's importance is divided instead of its p; learned >
    0.3 and > 0.7.
    """

    def rarer(p: float, seeds: int) -> tuple[Grid, np.ndarray]:
        runs = [lab.train_sparse(5, 2, (p / f, *(p,) * 4), seeds, steps=3_000) for f in FACTORS.tolist()]
        return torch.stack([run.W_E for run in runs]), np.stack([run.final_loss.numpy() for run in runs])

    lighter = [
        lab.train_sparse(5, 2, 0.05, n_models, steps=3_000, importance=(1 / f, *(1.0,) * 4)) for f in FACTORS.tolist()
    ]
    return judge_factor(
        *rarer(0.05, n_models),
        torch.stack([run.W_E for run in lighter]),
        {p: rarer(p, n_models // 2) for p in (0.02, 0.1)},
    )


def judge_factor(
    rarer: Grid, losses: np.ndarray, lighter: Grid, elsewhere: Mapping[float, tuple[Grid, np.ndarray]]
) -> Verdict:
    """At which of `FACTORS` do pentagons give way to two digons?

    The first feature of the models is that many times rarer, or that many times less important (`lighter`); `losses`
    are of (factor, model), and `elsewhere` has models and losses for other p.
    """
    codes = pentagon_or_digons(rarer)

    def factor(W: Grid, learned: float = LEARNED) -> float:
        return zero_crossing(pentagon_or_digons(W, learned).mean(1))

    five, two = ((codes == code).mean(1) for code in (1, -1))
    at = zero_crossing(codes.mean(1))
    shown = [0, int(np.abs(FACTORS - at).argmin()), len(FACTORS) - 1]
    return Verdict.of_statistic(
        "The relative deviation from 2.5 of the factor at which pentagons give way",
        lambda rows: abs(zero_crossing(rows.mean(0)) / CLAIMED_FACTOR - 1),
        codes.T,
        n_models=codes.size,
        controls={"factor, rarer": at, "factor at which losses cross": loss_crossing(codes, losses)}
        | {f"the same at p = {p:g}": loss_crossing(pentagon_or_digons(W), loss) for p, (W, loss) in elsewhere.items()}
        | lab.at_cuts(lambda cut: factor(rarer, cut), prefix="factor, ")
        | {
            "factor, less important": factor(lighter),
            "share of pentagons at factor 1": five[0],
            "share of two digons at factor 10": two[-1],
        },
        detail=f"Pentagons fall from {five[0]:.0%} to {five[-1]:.0%} as the factor grows from 1 to 10, two digons rise "
        f"from {two[0]:.0%} to {two[-1]:.0%}; they are equal at {at:.2f}.",
        figures={
            "Share of models in each shape against how much rarer the first feature is.": plots.curves(
                {"pentagon": (FACTORS, five), "two digons": (FACTORS, two)},
                "p of the others / p of the first feature",
                "share of models",
                log_x=True,
            ),
            "The model of lowest loss at three factors; feature 0 (blue) is the rarer one.": lab.arrows(
                {f"{FACTORS[i]:.2g} times rarer": rarer[i, losses[i].argmin()] for i in shown}
            ),
        },
    )


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


def loss_crossing(codes: np.ndarray, losses: np.ndarray) -> float:
    """Where the lowest loss of two digons falls below that of pentagons; NaN if no factor has both."""
    two, five = (np.where(codes == code, losses, np.inf).min(1) for code in (-1, 1))
    both = np.isfinite(two) & np.isfinite(five)
    if not both.any():
        return float("nan")
    # Where only one shape was reached, it is the better one.
    gain = np.where((codes == 1).sum(1) >= (codes == -1).sum(1), 1.0, -1.0)
    gain[both] = np.log(two[both] / five[both])
    return zero_crossing(gain)
