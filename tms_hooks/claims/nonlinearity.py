"""Claims about what a nonlinearity does: on the output it filters interference, on the hidden layer it makes neurons.

Here interference is the source's word for what active features add to the outputs of absent ones. Sparse uniform
features, tied, output bias (Elhage et al. 2022); the usual recipe.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots
from tms_hooks.claims import Part, Verdict, claim, lab, seeds, share, statistic
from tms_hooks.claims.lab import LEARNED, ByDensity, Stacked
from tms_hooks.config import Activation
from tms_hooks.linalg import random_directions, random_rotations, unit
from tms_hooks.run import Run

ROWS = 8_192
DENSITIES = (1.0, 0.1, 0.04)
"""Of the models with a hidden ReLU: those of the paper's first regime and of its last, and one between."""
N_ROTATIONS = 200
Readouts = Mapping[str, np.ndarray]
READOUTS = (
    "removed",
    "removed of negative interference",
    "removed of positive interference",
    "share of interference that is negative",
    "loss of the linear readout / ReLU's",
    "loss of the best affine readout / ReLU's",
)
"""What is measured on every model: the share of squared outputs at absent features that ReLU, with the trained bias,
removes from a linear readout, also where what active features add is negative or positive; how much of that is
negative; losses of a linear readout and of the best one, without ReLU."""


@claim("relu-filters-interference", "N", quick=8, full=50)
def relu_filters_interference(n_models: int) -> Verdict:
    """The output nonlinearity removes interference, which a linear readout of the same model keeps.

    n = 20, m = 5, importance 1, p = 0.01, on 8,192 held-out inputs.

    Part "cleans up noise": "relu cleans up noise in autoencoder (which retrieves original input after compressing)".
    Statistic: the share of squared output at absent features that the ReLU readout relu(W_E h + b) removes, relative to
    the linear readout W_E h of the same weights with its own best bias; mean over models.
    Threshold: above 1/2, what ReLU removes from interference of either sign alike.
    Null: random directions of the same norms, no bias.

    Part "positive interference too": "using a negative bias can convert small positive interferences into essentially
    being negative interferences" (Elhage et al. 2022).
    Statistic: the share of squared output that it removes where what active features add is positive; mean over models.
    Threshold: above 1/2.
    Null: random directions of the same norms, no bias.

    Size: 8 models (quick), 50 (full).
    Controls: the share removed of negative interference, and the share that is negative; the share removed in untrained
    models, in models trained with a linear output, in pentagons (n = 5, m = 2, p = 0.05), and at p = 0.1; losses of the
    linear and of the best affine readout relative to ReLU's.
    """
    run = lab.train_sparse(20, 5, 0.01, n_models, steps=3_000)
    x, no_bias = lab.fresh_samples(run, ROWS), torch.zeros(n_models, 20)
    others = {
        "trained with a linear output": lab.train_sparse(20, 5, 0.01, n_models, steps=3_000, output_act="identity"),
        "pentagons": lab.train_sparse(5, 2, 0.05, n_models, steps=3_000),
        "p = 0.1": lab.train_sparse(20, 5, 0.1, n_models, steps=3_000),
    }
    return judge_filter(
        readouts(run.W_E, run.weights["b_U"], x),
        readouts(random_directions(run.W_E, seeds.first()), no_bias, x),
        {"untrained": readouts(lab.untrained_directions(20, 5, n_models), no_bias, x)}
        | {name: readouts(r.W_E, r.weights["b_U"], lab.fresh_samples(r, ROWS)) for name, r in others.items()},
        added_to_absent(run.W_E, x),
    )


def added_to_absent(W: Stacked, x: Float[Tensor, "batch feature"]) -> np.ndarray:
    """What the active features add to absent ones, before bias and ReLU: some thousands of values, of all models."""
    some = x[(x > 0).any(1)]
    values = torch.cat([(some @ w @ w.mT)[some == 0] for w in W])
    return values[:: max(len(values) // 5_000, 1)].numpy()


def readouts(W: Stacked, b: Float[Tensor, "model feature"], x: Float[Tensor, "batch feature"]) -> Readouts:
    """Both readouts of each model, on inputs of which some are not empty."""
    x = x.double()
    absent = x == 0
    found = []
    for w, bias in zip(W.double(), b.double(), strict=True):
        hidden = x @ w
        added = hidden @ w.mT
        linear = added + (x - added).mean(0)
        relu = (added + bias).relu()
        affine = torch.cat([hidden, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
        best = affine @ torch.linalg.lstsq(affine, x, driver="gelsd").solution
        negative, positive = absent & (added < 0), absent & (added > 0)
        removed = [
            1 - float(relu[where].square().sum() / linear[where].square().sum())
            for where in (absent, negative, positive)
        ]
        share_negative = float(added[negative].square().sum() / added[absent].square().sum())
        loss, *without = (float((x - out).square().sum(1).mean()) for out in (relu, linear, best))
        found.append([*removed, share_negative, *(other / loss for other in without)])
    return dict(zip(READOUTS, np.array(found).T, strict=True))


def judge_filter(main: Readouts, at_random: Readouts, others: Mapping[str, Readouts], added: np.ndarray) -> Verdict:
    """Does ReLU remove most of the interference that a linear readout leaves?"""
    means = {name: _mean(values) for name, values in main.items()}
    removed = {"trained": main["removed"]} | {name: other["removed"] for name, other in others.items()}
    _, of_negative, of_positive, negative, linear_loss, affine_loss = means.values()

    def part(what: str, name: str) -> Part:
        return statistic(
            f"The share of squared {what} that the ReLU readout removes", np.mean, main[name], null=(at_random[name],)
        )

    return Verdict(
        parts={
            "cleans up noise": part("interference", "removed"),
            "positive interference too": part("positive interference", "removed of positive interference"),
        },
        n_models=len(main["removed"]),
        controls={name: value for name, value in means.items() if name != "removed"}
        | {name: _mean(values) for name, values in removed.items() if name != "trained"},
        detail=f"It removes {of_negative:.1%} of the negative and {of_positive:.1%} of the positive interference; "
        f"{negative:.0%} of it is negative. Without the ReLU the same weights lose {linear_loss:.3g} times as much, "
        f"and the best affine readout {affine_loss:.3g} times.",
        figures={
            "What active features add to the outputs of absent ones: ReLU cuts all that is left of zero.": (
                plots.distributions({"absent features": added}, "added output", {"absent features": plots.TOY})
            ),
            "Share of squared interference removed, by setting.": plots.distributions(
                removed, "share removed", lab.colors(removed)
            ),
        },
    )


@claim("nonlinearity-magnifies", "N", quick=8, full=24, seconds=32)
def nonlinearity_magnifies(n_models: int) -> Verdict:
    """A nonlinear activation function magnifies interference.

    n = 20, m = 5, importance 0.7^i, p = 0.1. The notes do not say which interference: the outputs', or the weights'.

    Part "outputs": "nonlinear actv fn magnifies interference".
    Statistic: the squared output at absent features of the ReLU readout relu(W_E h + b) relative to that of the linear
    readout W_E h of the same weights with its own best bias, on 8,192 held-out inputs; mean over models.
    Threshold: above 1.
    Null: none, since the statistic compares with a linear readout already.

    Beyond the source "weights":
    Statistic: the mean interference sum_{j != i} (W_i / |W_i| . W_j)^2 of the learned features (norm > 0.5) of a model
    trained with a ReLU less that of models trained with a linear output.
    Threshold: above 0.
    Null: none, since the statistic is a difference from one.

    Beyond the source "hidden layer":
    Statistic: the same of models with a ReLU on the hidden layer less that of models without, both with a ReLU output.
    Threshold: above 0.
    Null: none, since the statistic is a difference from one.

    Size: 8 models (quick), 24 (full), of each kind.
    Controls: the mean interference of each kind; GELU outputs; the first ratio at p = 0.01, importance 1.
    """

    def trained(**acts: Any) -> Run:
        return lab.train_sparse(20, 5, 0.1, n_models, steps=3_000, decay=0.7, **acts)

    runs = {
        "ReLU output": trained(),
        "linear output": trained(output_act="identity"),
        "hidden ReLU": trained(hidden_act="relu"),
        "GELU output": trained(output_act="gelu"),
    }
    relu, sparse = runs["ReLU output"], lab.train_sparse(20, 5, 0.01, n_models, steps=3_000)
    ratios, at_sparse = (
        1 - readouts(run.W_E, run.weights["b_U"], lab.fresh_samples(run, ROWS))["removed"] for run in (relu, sparse)
    )
    return judge_magnified(ratios, {name: run.W_E for name, run in runs.items()}, at_sparse)


def judge_magnified(ratios: np.ndarray, models: Mapping[str, Stacked], at_sparse: np.ndarray) -> Verdict:
    """Is there more interference with a nonlinearity? `ratios` are of outputs with and without, of each model."""
    spread = {name: mean_interference(W) for name, W in models.items()}

    def more(name: str, base: str) -> Part:
        return statistic(
            f"The interference between directions with {name} less that with {base}",
            lambda with_it, without: float(with_it.mean() - without.mean()),
            spread[name],
            spread[base],
        )

    return Verdict(
        parts={
            "outputs": statistic(
                "The squared output at absent features, ReLU's relative to a linear readout's,", np.mean, ratios
            ),
            "weights": more("ReLU output", "linear output"),
            "hidden layer": more("hidden ReLU", "ReLU output"),
        },
        n_models=lab.total(models),
        controls={f"interference, {name}": _mean(values) for name, values in spread.items()}
        | {"the same ratio at p = 0.01": _mean(at_sparse)},
        detail="",
        figures={
            "Mean interference between the learned directions of each model.": plots.distributions(
                spread, "interference", lab.colors(spread)
            )
        },
    )


def mean_interference(W: Stacked, learned: float = LEARNED) -> np.ndarray:
    """Mean interference of the learned features, of each model that has any."""
    spread, alive = geometry.interference(W.double()), geometry.represented(W, learned)
    return np.array([float(s[a].mean()) for s, a in zip(spread, alive, strict=True) if a.any()])


@claim("privileged-basis", "N", quick=8, full=48, seconds=28)
def privileged_basis(n_models: int) -> Verdict:
    """A ReLU on the hidden layer makes features align with neurons.

    The paper's setting: n = 10, m = 5, importance 0.75^i, no hidden bias. A feature is learned above a norm of 0.5, and
    a neuron monosemantic if a single learned feature has an entry above half of the neuron's largest. Features align
    with neurons as codes if each has entries of one size on some neurons and none on the others: the squared cosine
    with the nearest such vector, on a scale from 0 (its mean under random rotations of the same directions) to 1.

    Part "dedicated neurons": "every feature gets a dedicated neuron. That is, the model consists entirely of
    monosemantic neurons." (Elhage et al. 2022)
    Statistic: the share of models at p = 1 with five monosemantic neurons.
    Threshold: above 1/2.
    Null: models with a linear hidden layer.

    Part "structured": "features are aligning with neurons in a structured way" (Elhage et al. 2022).
    Statistic: the mean alignment with codes at p = 0.1.
    Threshold: above 0.
    Null: models with a linear hidden layer.

    Part "monosemantic to polysemantic": "As feature sparsity increases, we see neurons shift from being monosemantic to
    being polysemantic" (Elhage et al. 2022).
    Statistic: the mean number of monosemantic neurons at p = 1 less that at p = 0.04.
    Threshold: above 0.
    Null: models with a linear hidden layer.

    Beyond the source "one neuron each":
    Statistic: the largest squared coordinate of the unit direction, mean over learned features, on a scale from 0 (its
    mean under random rotations) to 1 (one neuron per feature), at p = 0.1; mean over models.
    Threshold: above 1/2.
    Null: models with a linear hidden layer.

    Size: 8 models (quick), 48 (full), at each of p = 1, 0.1 and 0.04. 10,000 steps, batch 512, 200 rotations.
    Controls: alignment with codes and with single neurons, and monosemantic neurons, at each density; how many neurons
    the features of the model of lowest loss (stratified by the number of active features) sit in; its loss relative to
    that of five dedicated neurons, sum_{i >= 5} I_i (p/3 - p^2/4).
    """
    importance = lab.decaying(0.75, 10)

    def trained(hidden_act: Activation) -> dict[float, Run]:
        settings: dict[str, Any] = {"steps": 10_000, "batch_size": 512, "importance": importance}
        return {p: lab.train_sparse(10, 5, p, n_models, hidden_act=hidden_act, **settings) for p in DENSITIES}

    relu = trained("relu")
    dedicated = {p: sum(importance[5:]) * (p / 3 - p**2 / 4) for p in DENSITIES}
    return judge_basis(
        {p: run.W_E for p, run in relu.items()},
        {p: lab.stratified_losses(run) / dedicated[p] for p, run in relu.items()},
        {p: run.W_E for p, run in trained("identity").items()},
    )


def judge_basis(relu: ByDensity, losses: Mapping[float, np.ndarray], linear: ByDensity) -> Verdict:
    """Do features sit on neurons, one each where they are dense, in codes where they are sparse?

    `relu` and `linear` are models by density, with a ReLU on the hidden layer and without. `losses` are those of the
    former, relative to the loss of one dedicated neuron for each of the first features.
    """
    dense, middle, sparse = sorted(relu, reverse=True)
    best = {p: int(loss.argmin()) for p, loss in losses.items()}
    alone, plain_alone = ({p: monosemantic(W) for p, W in weights.items()} for weights in (relu, linear))
    coded, plain_coded = (alignment(weights[middle], codes=True) for weights in (relu, linear))
    single, plain_single = (alignment(weights[middle]) for weights in (relu, linear))
    codes = {p: code_sizes(relu[p][best[p]]) for p in relu}

    def fewer(first: np.ndarray, last: np.ndarray) -> float:
        return float(first.mean() - last.mean())

    return Verdict(
        parts={
            "dedicated neurons": share(
                f"The share of models at p = {dense:g} with monosemantic neurons only",
                alone[dense] == relu[dense].shape[-1],
                null=plain_alone[dense] == relu[dense].shape[-1],
                best=float(alone[dense][best[dense]] == relu[dense].shape[-1]),
            ),
            "structured": statistic(
                f"The alignment with codes at p = {middle:g}",
                np.mean,
                coded,
                null=(plain_coded,),
                best=_mean(alignment(relu[middle][best[middle], None], codes=True)),
            ),
            "monosemantic to polysemantic": statistic(
                f"The number of monosemantic neurons at p = {dense:g} less that at p = {sparse:g}",
                fewer,
                alone[dense],
                alone[sparse],
                null=(plain_alone[dense], plain_alone[sparse]),
                best=float(alone[dense][best[dense]] - alone[sparse][best[sparse]]),
            ),
            "one neuron each": statistic(
                f"The alignment with single neurons at p = {middle:g}",
                np.mean,
                single,
                null=(plain_single,),
                best=_mean(alignment(relu[middle][best[middle], None])),
            ),
        },
        n_models=lab.total(relu),
        controls={
            f"{what} at p = {p:g}": _mean(of(relu[p]))
            for p in relu
            for what, of in (
                ("alignment with codes", lambda W: alignment(W, codes=True)),
                ("alignment with neurons", alignment),
                ("monosemantic neurons", monosemantic),
            )
        }
        | {f"lowest loss at p = {p:g} / dedicated neurons": loss.min() for p, loss in losses.items()},
        detail=lab.listing(
            "Neurons that the learned features of the model of lowest loss sit in",
            {f"p = {p:g}": ", ".join(map(str, sizes)) for p, sizes in codes.items()},
        ),
        figures={
            "Alignment of each model: 0 is a random rotation, 1 every feature in some neurons at equal size.": (
                plots.distributions(
                    {f"ReLU, p = {middle:g}": coded, "linear hidden layer": plain_coded},
                    "alignment with codes",
                    {f"ReLU, p = {middle:g}": plots.TOY, "linear hidden layer": plots.NULL},
                )
            ),
            "W_E of the model of lowest loss at each density: one row per feature, one column per neuron.": (
                plots.matrices(
                    np.stack([W[best[p]].numpy() for p, W in relu.items()]),
                    [f"p = {p:g}" for p in relu],
                    xlabel="neuron",
                    colorbar="weight",
                )
            ),
        },
    )


def nearest_code(directions: Float[Tensor, "*row neuron"]) -> Float[Tensor, "*row neuron"]:
    """Squared cosine of unit directions with the nearest vector on 1, 2, ... neurons of equal size, one column each."""
    sizes = torch.arange(1, directions.shape[-1] + 1)
    return directions.abs().sort(dim=-1, descending=True).values.cumsum(-1).square() / sizes


def code_sizes(W: Float[Tensor, "feature neuron"]) -> list[int]:
    """On how many neurons the nearest code of each learned feature is."""
    return (nearest_code(unit(W[geometry.represented(W)])).argmax(-1) + 1).tolist()


def alignment(W: Stacked, learned: float = LEARNED, codes: bool = False) -> np.ndarray:
    """0 for a random rotation, 1 for one neuron (or a code) per feature, of each model that has learned a feature."""
    rotations = random_rotations(W.shape[-1], N_ROTATIONS, seeds.first())

    def score(directions: Float[Tensor, "*row neuron"]) -> Float[Tensor, ""]:
        return (nearest_code(directions).amax(-1) if codes else directions.square().amax(-1)).mean()

    found = []
    for w in W:
        directions = unit(w[geometry.represented(w, learned)]).double()
        if len(directions):
            null = score(directions @ rotations)
            found.append(float((score(directions) - null) / (1 - null)))
    return np.array(found)


def monosemantic(W: Stacked) -> np.ndarray:
    """Neurons of each model with one large entry (above half of the largest) among those of learned features."""
    size = W.abs() * geometry.represented(W)[..., None]
    large = (size > size.amax(1, keepdim=True) / 2) & (size > LEARNED / 2)
    return (large.sum(1) == 1).sum(1).numpy()


def _mean(values: np.ndarray) -> float:
    """Mean of what could be measured, NaN if nothing could."""
    return lab.mean(values[np.isfinite(values)])
