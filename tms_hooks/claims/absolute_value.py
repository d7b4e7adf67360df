"""The claim on computation in superposition: absolute values, by ReLU neurons (Elhage et al. 2022).

The paper's model: x' = relu(W_2 relu(W_1 x) + b), untied, no hidden bias, values uniform on [-1, 1]; the usual recipe,
15,000 steps, and 45,000 for dense features. |x| = relu(x) + relu(-x) takes two neurons for each feature. How much
feature i owes to a neuron is |write| times |read|: scale may be moved from one to the other.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import plots
from tms_hooks.claims import Verdict, claim, lab, share, statistic
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.run import Run
from tms_hooks.tasks import Absolute

DENSE, SPARSE = 0.3, 0.01
STEPS = {DENSE: 45_000, SPARSE: 15_000}
"""Dense ones go on with it: of 13 models the slope of "asymmetric" is -0.94, -1.05 and -1.07 (-1.24 to -0.87) after
15,000, 45,000 and 135,000 steps."""
OWED = 0.1
"""Of 1, what a perfect pair of neurons gives: a neuron that a feature owes more than this serves it."""
HALF = 0.5
"""A feature is computed if its loss is below this part of what ignoring it costs."""
Paths = Float[Tensor, "_ _ _"]
"""Weights between features and neurons, of each model: (model, feature, neuron)."""


def train_absolute(
    n_features: int, d_hidden: int, p: float, n_models: int, decay: float = 1.0, steps: int = 15_000
) -> Run:
    """Models that are asked for absolute values; feature i has importance decay^i."""
    cfg = ToyConfig(n_features=n_features, d_hidden=d_hidden, hidden_act="relu", tied=False)
    data = SparseUniform(n_features=n_features, feature_probability=p, low=-1)
    importance = lab.decaying(decay, n_features)
    return lab.train_toys(cfg, data, n_models, steps=steps, task=Absolute(), importance=importance)


@claim("absolute-value", "N", quick=8, full=40, seconds=60)
def absolute_value(n_models: int) -> Verdict:
    """Neurons compute absolute values, one for each side, and in superposition where features are sparse.

    Part "two sides": "For each input feature, it constructs a "positive side" neuron and a "negative side" neuron"
    (Elhage et al. 2022).
    Statistic: the share of models with n = 3, m = 6, p = 0.3 in which every neuron serves one feature, and every
    feature has one neuron that reads it with either sign.
    Threshold: above 1/2.
    Null: untrained models.

    Part "superposition": "once the features become sufficiently sparse, this model, too, uses superposition to
    represent more features than it has neurons" (Elhage et al. 2022).
    Statistic: the mean number of features computed (loss below half of what ignoring costs) at p = 0.01 less the number
    of neurons; n = 20, m = 8, importance 0.8^i. The paper has n = 100, m = 40.
    Threshold: above 0.
    Null: none, since the statistic compares with the number of neurons.

    Part "asymmetric": "one stores the features with different magnitudes (eg. W = [2, -1/2]) and then has reciprocal
    output weights" (Elhage et al. 2022).
    Statistic: the slope, through 0, of the logarithm of the ratio of two features' output weights against that of their
    input weights, over neurons that serve just two; p = 0.3. It is -1 if they are reciprocal.
    Threshold: below -1/2.
    Null: 0, output weights that know nothing of the input weights.

    Beyond the source "more than two neurons allow":
    Statistic: the mean number of features computed at p = 0.01 less half the number of neurons.
    Threshold: above 0.
    Null: models at p = 0.3.

    Size: 8 models (quick), 40 (full), of each kind.
    Controls: the share of models with monosemantic neurons only; features computed, and features served by a neuron, at
    either density; neurons that serve two features.
    """
    three = train_absolute(3, 6, DENSE, n_models)
    many = {p: train_absolute(20, 8, p, n_models, decay=0.8, steps=count) for p, count in STEPS.items()}
    start = lab.untrained(three.recipe.cfg, n_models)
    best = lab.lowest(lab.expected_losses(three))
    return judge_absolute(
        (three.W_E, three.weights["W_U"].mT),
        best,
        (start["W_E"], start["W_U"].mT),
        {p: (run.W_E, run.weights["W_U"].mT) for p, run in many.items()},
        {p: computed(run, p) for p, run in many.items()},
    )


def computed(run: Run, p: float) -> np.ndarray:
    """How many features each model computes."""
    ignored = p / 3 - (p / 2) ** 2  # the variance of |x|, which the best constant output leaves
    importance = torch.tensor(run.recipe.setting.importance)
    return (run.final_feature_loss < HALF * importance * ignored).sum(1).numpy()


def judge_absolute(
    three: tuple[Paths, Paths],
    best: int,
    untrained: tuple[Paths, Paths],
    many: dict[float, tuple[Paths, Paths]],
    counts: dict[float, np.ndarray],
) -> Verdict:
    """Are sides split between neurons, and are shared neurons asymmetric?

    Weights are written and read ones; `many` and the numbers of features computed, `counts`, are by density. `best` is
    the model of lowest loss of `three`.
    """
    held, null = two_sides(*three), two_sides(*untrained)
    neurons = many[DENSE][0].shape[-1]
    pairs = shared(*many[DENSE])

    def slope(rows: np.ndarray) -> float:
        kept = rows[np.isfinite(rows).all(2)]
        return float((kept[:, 0] * kept[:, 1]).sum() / (kept[:, 0] ** 2).sum()) if len(kept) else np.nan

    served = {p: (owed(*weights) > OWED).double().sum(1).mean() for p, weights in many.items()}
    ratios = pairs[np.isfinite(pairs).all(2)]
    return Verdict(
        parts={
            "two sides": share(
                "The share of models with a neuron for each side of each feature",
                held,
                null=null,
                best=float(held[best]),
            ),
            "superposition": statistic(
                "Features computed beyond the number of neurons", lambda c: float(c.mean() - neurons), counts[SPARSE]
            ),
            "asymmetric": statistic("The slope of output ratios against input ratios", slope, pairs, null=0.0),
            "more than two neurons allow": statistic(
                "Features computed beyond half the number of neurons",
                lambda c: float(c.mean() - neurons / 2),
                counts[SPARSE],
                null=(counts[DENSE],),
            ),
        },
        n_models=len(held) + sum(map(len, counts.values())),
        controls={f"features computed at p = {p:g}": found.mean() for p, found in counts.items()}
        | {f"features served by a neuron at p = {p:g}": value for p, value in served.items()}
        | {
            "neurons that serve two": len(ratios),
            "models of monosemantic neurons only": ((owed(*three) > OWED).sum(1) == 1).all(1).double().mean(),
        },
        detail=f"{len(ratios)} neurons serve two features each at p = {DENSE:g}.",
        figures={
            "Neurons that serve two features: ratio of the weights they are read with against that of the weights they "
            "read with, as logarithms; reciprocal ones lie on the falling diagonal.": plots.curves(
                {
                    "neurons": tuple(ratios[np.argsort(ratios[:, 0])].T),
                    "reciprocal": (np.array([0.0, 5]), np.array([0.0, -5])),
                },
                "log of the ratio of input weights",
                "log of the ratio of output weights",
            )
            if len(ratios)
            else plots.matrices(three[0][:1].numpy(), ["no neuron serves two"]),
            "Input weights of the model of lowest loss, n = 3: a row for each feature, a column for each neuron.": (
                plots.matrices(three[0][best, None].numpy(), ["n = 3, m = 6"], xlabel="neuron", colorbar="weight")
            ),
        },
    )


def owed(write: Paths, read: Paths) -> Paths:
    """How much each feature owes to each neuron."""
    return write.abs() * read.abs()


def two_sides(write: Paths, read: Paths) -> np.ndarray:
    """Models in which every neuron serves one feature and every feature has one of either sign."""
    on = owed(write, read) > OWED
    sides = [(on & (write.sign() == sign)).sum(2) == 1 for sign in (1, -1)]
    return ((on.sum(1) == 1).all(1) & sides[0].all(1) & sides[1].all(1)).numpy()


def shared(write: Paths, read: Paths) -> Float[np.ndarray, "model neuron 2"]:
    """Log ratios of input and of output weights of neurons that serve two features, larger input first; else NaN."""
    on = owed(write, read) > OWED
    found = np.full((len(write), write.shape[2], 2), np.nan)
    for i, q in (on.sum(1) == 2).nonzero().tolist():
        features = on[i, :, q].nonzero()[:, 0]
        w, r = (each[i, features, q].abs().log() for each in (write, read))
        sign = 1 if w[0] > w[1] else -1
        found[i, q] = float(sign * (w[0] - w[1])), float(sign * (r[0] - r[1]))
    return found
