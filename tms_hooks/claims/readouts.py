"""Which of the two studied measurements trained readouts are, in the terms of those who study them.

Five one-hot features in two dimensions, untied, without bias: the models of `tms_hooks.claims.untied`. A readout is
asked which feature is active. Minimum error: it answers the largest output, under noise in the hidden layer.
Unambiguous: it answers only if one output alone is on.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import plots, theory
from tms_hooks.claims import Verdict, claim, lab, seeds, statistic
from tms_hooks.claims.untied import Directions, toy, train_five

NOISE = 0.2
"""Standard deviation of each hidden dimension's noise, the median written norm = 1."""
DRAWS = 1_000
"""Noisy inputs for each feature."""
LONG = 90_000
"""Steps until what readers tell under noise stays where it is; their loss is at rest long before."""
ON, OFF = 0.5, 0.1
"""An output above the first is on, one below the second is off."""
Readers = Float[Tensor, "feature hidden"]


def normalized(read: Readers, write: Readers) -> Readers:
    """Readers scaled so that each answers 1 on its own feature; as they are where the answer is not positive."""
    own = (read * write).sum(-1, keepdim=True)
    return torch.where(own > 0, read / own.clamp(min=1e-12), read)


MEASUREMENTS: Mapping[str, Callable[[Readers], Readers]] = {
    "matched filter": lambda write: write,
    "pretty good measurement": theory.pretty_good_measurement,
    "dual frame": theory.dual_frame,
}


def certainty(write: Readers, read: Readers) -> float:
    """Share of features, alone in the input, whose own output is on and every other one off.

    >>> certainty(torch.eye(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    0.5
    """
    outputs = (write @ read.mT).relu()
    itself = torch.eye(len(write), dtype=torch.bool)
    return float(((outputs > ON) == itself).logical_and((outputs < OFF) == ~itself).all(-1).double().mean())


def confusion(
    write: Readers, read: Readers, offset: Float[Tensor, " feature"] | None = None
) -> Float[Tensor, "feature answer"]:
    """Joint probabilities of the active feature, all equally often, and the largest output, under noise.

    Args:
        write, read: directions.
        offset: added to the outputs.
    """
    n, d = write.shape
    generator = seeds.generator()
    noise = torch.randn(DRAWS, n, d, generator=generator, dtype=write.dtype)
    hidden = write + NOISE * write.norm(dim=-1).median() * noise
    answers = (hidden @ read.mT + (0 if offset is None else offset)).argmax(-1)
    return torch.stack([torch.bincount(column, minlength=n) for column in answers.T]).double() / (DRAWS * n)


def information(joint: Float[Tensor, "feature answer"]) -> float:
    """Bits that the answer says about the feature.

    >>> information(torch.eye(4) / 4), information(torch.ones(4, 4) / 16)
    (2.0, 0.0)
    """
    independent = joint.sum(0) * joint.sum(1, keepdim=True)
    return float((joint * (joint / independent).log2()).nan_to_num(nan=0.0).sum())


def error(joint: Float[Tensor, "feature answer"]) -> float:
    """Probability that the answer is another feature."""
    return 1 - float(joint.diagonal().sum())


def least_error(write: Readers) -> Float[Tensor, "feature answer"]:
    """The same of the best answer to the same inputs: the nearest written direction."""
    return confusion(write, write, -write.square().sum(-1) / 2)


@claim("readout-with-certainty", "B", quick=12, full=40)
def readout_with_certainty(n_models: int) -> Verdict:
    """Trained readouts are unambiguous measurements rather than minimum-error ones: they answer with certainty.

    Part "certainty": "In minimum uncertainty unambiguous state discrimination, we want to maximise the probability that
    we identify the feature with certainty."
    Statistic: the mean share of features, alone in the input, whose own output is above 1/2 and every other below 0.1.
    Threshold: above 1/2.
    Null: the dual frame of what the model writes, the unambiguous measurement of quantum states, behind the same ReLU.

    Part "information": "In Minimum error measurement, we want to maximise the expected information we get from a
    measurement."
    Statistic: the mean information in the largest output about the active feature, under noise in the hidden layer of
    0.2 of the median written norm, as a share of that of the least error (the nearest written direction).
    Threshold: above 0.9.
    Null: the pretty good measurement of what the model writes, which has nearly the least error for quantum states.

    Beyond the source "certainty of tied readers": what untying buys.
    Statistic: the mean share of features identified with certainty, less that of tied models.
    Threshold: above 1/2.
    Null: none, since the statistic is a difference.

    Size: 12 models (quick), 40 (full), trained for 90,000 steps.
    Controls: certainty and information of the matched filter, the pretty good measurement, the dual frame and the
    one-sided dual frame of the same models, each reader scaled to answer 1 on its own feature; certainty of untrained
    and tied models; the probability of a wrong answer of each, and of the nearest written direction.
    """
    return judge_measurement(
        Directions.of(train_five(n_models, LONG).weights),
        Directions.of(train_five(n_models, LONG, tied=True).weights),
        Directions.of(lab.untrained(toy(5, 2), n_models)),
    )


def judge_measurement(trained: Directions, tied: Directions, start: Directions) -> Verdict:
    """Do trained readouts answer with certainty, or with the most information?"""
    models = list(zip(trained.write.double(), trained.read.double(), strict=True))
    readers = {"trained": [read for _, read in models]} | {
        name: [normalized(make(write), write) for write, _ in models]
        for name, make in {**MEASUREMENTS, "one-sided dual frame": theory.one_sided_dual_frame}.items()
    }
    sure = {
        name: np.array([certainty(write, read) for (write, _), read in zip(models, each, strict=True)])
        for name, each in readers.items()
    }
    best = [least_error(write) for write, _ in models]
    joint = {
        name: [confusion(write, read) for (write, _), read in zip(models, each, strict=True)]
        for name, each in readers.items()
    }
    attainable = np.array(list(map(information, best)))
    told = {name: np.array(list(map(information, each))) / attainable for name, each in joint.items()}
    errors = {name: lab.mean(map(error, each)) for name, each in (joint | {"nearest written direction": best}).items()}
    others = {
        name: np.array([certainty(w, r) for w, r in zip(d.write.double(), d.read.double(), strict=True)])
        for name, d in (("tied", tied), ("untrained", start))
    }
    return Verdict(
        parts={
            "certainty": statistic(
                "The share of features identified with certainty", lab.mean, sure["trained"], null=(sure["dual frame"],)
            ),
            "information": statistic(
                "The share of the attainable information",
                lab.mean,
                told["trained"],
                null=(told["pretty good measurement"],),
            ),
            "certainty of tied readers": statistic(
                "Certainty of untied models less that of tied ones",
                lambda a, b: float(a.mean() - b.mean()),
                sure["trained"],
                others["tied"],
            ),
        },
        n_models=len(models),
        controls={f"certainty, {name}": values.mean() for name, values in (sure | others).items()}
        | {f"share of the attainable information, {name}": values.mean() for name, values in told.items()}
        | {f"error probability, {name}": value for name, value in errors.items()}
        | {"attainable information (bits)": attainable.mean()},
        detail=lab.listing("Certainty", {name: values.mean() for name, values in (sure | others).items()}, ".2f"),
        figures={
            "Features identified with certainty, every model.": plots.strips(sure | others, "share of features"),
            "Information in the largest output, as a share of the attainable.": plots.strips(told, "share"),
        },
    )
