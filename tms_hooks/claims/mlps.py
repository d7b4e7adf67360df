"""The claim of "Superposition and bottlenecks" about MLPs beside a bottleneck.

One-hot features, full batch, the usual recipe.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tms_hooks import plots
from tms_hooks.claims import Verdict, claim, lab, seeds, share, statistic
from tms_hooks.claims.lab import CUTS, LEARNED
from tms_hooks.config import Activation, ToyConfig
from tms_hooks.data import OneHot
from tms_hooks.models import forward

Outputs = Float[Tensor, "_ _ _"]
"""(model, input, feature), of any sizes within one claim."""
WIDTHS = (2, 4)
EXPANSION = 4
"""Neurons for each dimension of the bottleneck."""
CROWD = 8
"""Features for each dimension of the bottleneck: the document's n > 4 f."""


def embed_to_mlp(f: int, n: int) -> ToyConfig:
    """n -> f -> 4 f neurons -> n, linear at the end: can a linear map read the features off the neurons?"""
    return ToyConfig(n_features=n, d_hidden=f, d_mlp=EXPANSION * f, output_act="identity")


def mlp_to_unembed(f: int, n: int) -> ToyConfig:
    """n -> 4 f neurons -> f -> softmax over n; the neurons are fed through an embedding of width f."""
    return ToyConfig(
        n_features=n, d_hidden=f, d_mlp=EXPANSION * f, bottleneck="mlp.out->unembed", tied=False, output_act="softmax"
    )


def through_bottleneck(f: int, n: int, act: Activation) -> ToyConfig:
    """n -> f -> activation -> softmax over n: what follows the neurons, with "relu" as the document writes it."""
    return ToyConfig(n_features=n, d_hidden=f, tied=False, hidden_act=act, output_act="softmax")


def outputs_of(weights: Mapping[str, Tensor], cfg: ToyConfig) -> Outputs:
    """What stacked models make of every one-hot input: reconstructions, or probabilities."""
    n_models = len(weights["W_E"])
    inputs = torch.eye(cfg.n_features).to(weights["W_E"]).repeat(n_models, 1, 1)
    return forward.reconstruct(weights, inputs, cfg)[2]


def train_outputs(cfg: ToyConfig, n_models: int, steps: int = 1_000) -> Outputs:
    """The same of trained models."""
    loss = "cross_entropy" if cfg.output_act == "softmax" else "mse"
    run = lab.train_toys(cfg, OneHot(n_features=cfg.n_features), n_models, steps=steps, loss=loss)
    return outputs_of(run.weights, cfg)


def best_linear_readout(cfg: ToyConfig, n_models: int) -> Outputs:
    """What the best linear map with a bias makes of the neurons of untrained models, H their activations: H pinv(H)."""
    outputs = []
    for seed in seeds.of(n_models):
        weights = forward.init_weights(cfg, seed, torch.float64)
        H = (weights["W_E"] @ weights[forward.W_IN]).relu()
        H = torch.cat([H, torch.ones(len(H), 1)], dim=1)
        outputs.append(H @ torch.linalg.pinv(H))
    return torch.stack(outputs)


def learned(outputs: Outputs, cut: float = LEARNED) -> Bool[Tensor, "model feature"]:
    """Is a feature's own output above `cut` and the largest for its input?"""
    return (outputs.diagonal(dim1=-2, dim2=-1) > cut) & lab.own_is_largest(outputs)


def share_learned(outputs: Outputs, cut: float = LEARNED) -> np.ndarray:
    """Share of each model's features that are learned."""
    return learned(outputs, cut).double().mean(1).numpy()


def false_alarms(outputs: Outputs) -> np.ndarray:
    """Each model's mean share of other inputs at which a feature's output is no less than at its own: a detector that
    never misses it would fire there.

    >>> false_alarms(torch.tensor([[[1.0, 0.0], [2.0, 1.0]]]))
    array([0.5])
    """
    own = outputs.diagonal(dim1=-2, dim2=-1)[:, None, :]
    n = outputs.shape[-1]
    return ((outputs >= own).double().sum(-2).sub(1) / (n - 1)).mean(-1).numpy()


@claim("mlp-bottlenecks", "B", quick=8, full=24)
def mlp_bottlenecks(n_models: int) -> Verdict:
    """Beside a bottleneck of f dimensions an MLP of 4 f neurons learns more than 4 f features.

    Part "learned by the MLP": "we check if the MLP has learned the real features by insisting that it's just a linear
    map away from reconstruction." (n -> f -> 4 f -> ReLU -> n with MSE)
    Statistic: false alarms of the linear readout (inputs without a feature at which a detector that never misses it
    fires), f = 2 and n = 8 f, in the mean over trained models, relative to those of the best linear readout of
    untrained neurons.
    Threshold: below 1/2.
    Null: 1, an MLP that has learned nothing.

    Part "more than 4 f": "we assume that they encode $n>4f$ features in superposition."
    Statistic: the mean number of features learned (own output above 1/2 and the largest for its input) in the same
    models, relative to their 4 f neurons.
    Threshold: above 1.
    Null: untrained neurons under the best linear readout.

    Part "before the unembed": "maybe a suitable model of ($A\\rightarrow 2$) is like $4f\\rightarrow f \\rightarrow
    \\text{Relu} \\rightarrow n$ with CrossEntropy."
    Statistic: the share of models that learn all features, f = 4 and n = 8 f, as the document writes it, with the ReLU
    on the bottleneck; 3,000 steps.
    Threshold: above 1/2.
    Null: untrained models.

    Beyond the source "ReLU on the neurons": where a transformer has it (n -> 4 f -> ReLU -> f -> n), f = 4, n = 8 f.
    Statistic: the share of models that learn all features.
    Threshold: above 1/2.
    Null: no MLP and no ReLU (n -> f -> n).

    Size: 8 models for each (quick), 24 (full).
    Controls: both numbers of the first model at f = 4, and at n = 4 f; shares learned at 0.3 and 0.7 instead of 1/2.
    """
    first = {f"f = {f}, n = {k * f}": embed_to_mlp(f, k * f) for f in WIDTHS for k in (CROWD, EXPANSION)}
    softmax = {act: through_bottleneck(4, 4 * CROWD, act) for act in ("relu", "identity")}
    return judge_bottlenecks(
        {name: train_outputs(cfg, n_models) for name, cfg in first.items()},
        {name: best_linear_readout(cfg, n_models) for name, cfg in first.items()},
        {
            "as written": train_outputs(softmax["relu"], n_models, 3_000),
            "as written, untrained": outputs_of(lab.untrained(softmax["relu"], n_models), softmax["relu"]),
            "ReLU on the neurons": train_outputs(mlp_to_unembed(4, 4 * CROWD), n_models),
            "no MLP": train_outputs(softmax["identity"], n_models),
        },
    )


def judge_bottlenecks(
    trained: Mapping[str, Outputs], untrained: Mapping[str, Outputs], softmax: Mapping[str, Outputs]
) -> Verdict:
    """Does the MLP know the features, and do they get through?

    Args:
        trained, untrained: outputs of the model before an MLP, by setting, of which the first decides; and those of the
            best linear readout of untrained neurons.
        softmax: outputs of the models before the unembed.
    """
    decides = next(iter(trained))
    neurons = trained[decides].shape[-1] * EXPANSION / CROWD

    def relative(some: np.ndarray, others: np.ndarray) -> float:
        return float(some.mean() / others.mean()) if others.mean() else float("nan")

    def number(outputs: Outputs) -> np.ndarray:
        return learned(outputs).double().sum(1).numpy() / neurons

    def all_learned(name: str) -> np.ndarray:
        return learned(softmax[name]).all(1).numpy()

    controls: dict[str, float] = {}
    for kind, by_setting in (("trained", trained), ("untrained", untrained)):
        for name, outputs in by_setting.items():
            controls |= {
                f"false alarms, {name}, {kind}": false_alarms(outputs).mean(),
                f"share learned, {name}, {kind}": share_learned(outputs).mean(),
                **{f"share learned at {cut}, {name}, {kind}": share_learned(outputs, cut).mean() for cut in CUTS},
            }
    controls |= {f"share learned, {name}": share_learned(outputs).mean() for name, outputs in softmax.items()}
    return Verdict(
        parts={
            "learned by the MLP": statistic(
                "False alarms relative to those of untrained neurons",
                relative,
                false_alarms(trained[decides]),
                false_alarms(untrained[decides]),
                null=1.0,
            ),
            "more than 4 f": statistic(
                "Features learned, relative to the neurons,",
                lab.mean,
                number(trained[decides]),
                null=(number(untrained[decides]),),
            ),
            "before the unembed": share(
                "The share of models that learn all features",
                all_learned("as written"),
                null=all_learned("as written, untrained"),
            ),
            "ReLU on the neurons": share(
                "The share of models that learn all features, ReLU on the neurons,",
                all_learned("ReLU on the neurons"),
                null=all_learned("no MLP"),
            ),
        },
        n_models=len(trained[decides]) + len(softmax["as written"]),
        controls=controls,
        detail=lab.listing(
            "Mean share learned before the unembed",
            {name: share_learned(o).mean() for name, o in softmax.items()},
            ".0%",
        ),
        figures={
            "False alarms of every model, at full recall.": plots.strips(
                {
                    f"{name}, {kind}": false_alarms(outputs)
                    for kind, by_setting in (("trained", trained), ("untrained", untrained))
                    for name, outputs in by_setting.items()
                },
                "false alarms",
            )
        },
    )
