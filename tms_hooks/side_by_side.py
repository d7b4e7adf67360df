"""What is measured on toys and on real transformers alike: how crowded a bottleneck is, and what a firing head needs.

A bottleneck is crowded if the direction along which a feature is written overlaps those along which other features are
read. An *overlap* is the cosine of two such directions. Its root mean square over pairs of features is the rms overlap:
directions of equal norm cannot have less than the Welch bound, random ones have 1/sqrt(d). Times sqrt(d) it is the
relative overlap, in which random directions have 1, whatever the width.

A head *fires* on a pair of tokens if its pattern is at least one half. The pair's score is a sum over singular slices
of the head's Omega (`probes.attention_slices`); how many of them it takes to reach the score is compared with random
rotations of the head, and with silent heads: those of the same layer that fire on no pair of that kind.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

import probes
from tms_hooks import theory
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.models.toy import ToyModel
from tms_hooks.prompts import Prompts
from tms_hooks.run import Run
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

FIRES = 0.5
"""A head fires on a pair of tokens if its pattern is at least this (Franco & Crovella 2024)."""
ATTENDED = (0, 1)
"""The pair of features that the toys' heads are trained to respond to: query feature, key feature."""


class Overlaps(NamedTuple):
    """Cosines between the writes of features and the reads of other features."""

    mean_square: float
    """NaN if no feature has another one beside it."""
    dimensions: int
    largest: Float[np.ndarray, " feature"]
    """In size, signed, of each feature that was drawn."""

    @property
    def rms(self) -> float:
        """The rms overlap."""
        return float(np.sqrt(self.mean_square))

    @property
    def relative(self) -> float:
        """The relative overlap: 1 for random directions."""
        return float(np.sqrt(self.mean_square * self.dimensions))


class Crowding(NamedTuple):
    """How crowded a bottleneck is. What cannot be measured is NaN: the overlaps of fewer than two features."""

    features: int
    dimensions: int
    norms: Float[Tensor, " feature"]
    """Of the writes."""
    overlaps: Overlaps
    centered: Overlaps
    """Once the mean of all writes and that of all reads are removed."""

    @property
    def welch_bound(self) -> float:
        """The least possible rms overlap of as many directions of equal norm: 0 if they can be orthogonal."""
        return theory.welch_bound(self.features, self.dimensions) if self.features > 1 else float("nan")

    def spread(self, correction: int = 1) -> float:
        """Standard deviation of the norms over their mean; `correction` is subtracted from the number of features."""
        if self.features <= correction or not self.norms.any():
            return float("nan")
        return float(self.norms.std(correction=correction) / self.norms.mean())


def crowding(part: probes.Bottleneck, sample: int) -> Crowding:
    """Measure a bottleneck, with the overlaps of at most `sample` features, drawn at random.

    >>> angles = torch.arange(3) * 2 * torch.pi / 3
    >>> triangle = torch.stack([angles.cos(), angles.sin()], dim=1)
    >>> found = crowding(probes.Bottleneck("embed->unembed", triangle, triangle), sample=3)
    >>> round(found.overlaps.rms, 6), found.welch_bound
    (0.5, 0.5)
    """
    n, d = part.write.shape
    return Crowding(n, d, part.write.norm(dim=-1), overlaps(part, sample), overlaps(centered(part), sample))


def overlaps(part: probes.Bottleneck, sample: int) -> Overlaps:
    """Cosines of the writes of at most `sample` features with all reads but their own."""
    (n, d), others = part.write.shape, len(part.read) - part.paired
    if n == 0 or others < 1:
        return Overlaps(float("nan"), d, np.empty(0))
    table = part.unit().summary(sample=min(sample, n))
    return Overlaps((table["spill"] ** 2).mean() / others, d, table["largest"].to_numpy())


def centered(part: probes.Bottleneck) -> probes.Bottleneck:
    """Without the direction that all writes share, and that which all reads share."""
    return probes.Bottleneck(part.path, part.write - part.write.mean(0), part.read - part.read.mean(0))


def represented(part: probes.Bottleneck, least_norm: float) -> probes.Bottleneck:
    """Without the features whose writes are not longer than `least_norm`: a toy ignores them.

    Raises:
        ValueError: the reads are those of outputs that are not the features.
    """
    if not part.paired:
        n = len(part.write)
        raise ValueError(f"{len(part.read)} outputs for {n} features: no read is a feature's; use toys with d_out=None")
    keep = part.write.norm(dim=-1) > least_norm
    return probes.Bottleneck(part.path, part.write[keep], part.read[keep])


class FiringHead(NamedTuple):
    """A head that fires on pairs of one kind of prompts."""

    batches: Sequence[Prompts]
    layer: int
    head: int
    share: float
    """Of the pairs: on how many it fires."""
    fires_on: pd.DataFrame
    """The pairs on which it fires: `batch`, and `pair`, the row in that batch's `pairs`."""
    silent: list[int]
    """Heads of its layer that fire on no pair."""


def firing_heads(model: Any, batches: Sequence[Prompts]) -> list[FiringHead]:
    """The heads that fire on these pairs, the most frequent first."""
    found = []
    for number, batch in enumerate(batches):
        example, query, key = batch.pairs.T
        at_pairs = patterns(model, batch.tokens)[:, example, :, query, key]  # pair first: the indices are not adjacent
        found += [(layer, head, number, pair) for pair, layer, head in (at_pairs >= FIRES).nonzero().tolist()]
    fired = pd.DataFrame(found, columns=["layer", "head", "batch", "pair"])
    n_pairs = sum(len(batch.pairs) for batch in batches)
    heads = []
    for (layer, head), rows in fired.groupby(["layer", "head"]):
        silent = sorted(set(range(model.cfg.n_heads)) - set(fired.loc[fired["layer"] == layer, "head"]))
        heads.append(FiringHead(batches, layer, head, len(rows) / n_pairs, rows[["batch", "pair"]], silent))
    return sorted(heads, key=lambda entry: -entry.share)


def patterns(model: Any, tokens: Int[Tensor, "example pos"]) -> Float[Tensor, "layer example head query_pos key_pos"]:
    """Attention of every head on texts of one length."""
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("attn.hook_pattern"))
    return torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(model.cfg.n_layers)])


def slices_where_fired(
    model: Any, fired: FiringHead, n_null: int, head: int | None = None, relative: bool = False
) -> list[probes.AttentionSlices]:
    """The scores of a head on the pairs on which it fires, batch by batch; of another head of its layer, if given."""
    head = fired.head if head is None else head
    found = []
    for number, rows in fired.fires_on.groupby("batch"):
        tokens, pairs = fired.batches[int(str(number))]
        pairs = pairs[rows["pair"].tolist()]
        split = probes.attention_slices(model, tokens, fired.layer, head, pairs=pairs, relative=relative, n_null=n_null)
        found.append(split)
    return found


def needed_fraction(splits: Sequence[probes.AttentionSlices]) -> float:
    """Mean number of slices needed, over the mean that random rotations of the head need; NaN without a pair."""
    needed = torch.cat([split.needed for split in splits]).double()
    return float(needed.mean() / torch.cat([split.null_needed.flatten() for split in splits]).double().mean())


def train_head_toys(n: int, steps: tuple[int, int], seed: int = 0) -> Run:
    """Ten features of falling importance in five dimensions, then a head that is to respond to one pair of them.

    Args:
        n: how many toys.
        steps: for the representation, and for the head.
        seed: the first toy's; the others follow.
    """
    return train(
        ToyConfig(n_features=10, d_hidden=5, n_heads=1),
        SparseUniform(n_features=10, feature_probability=0.2),
        seeds=range(seed, seed + n),
        steps=steps,
        stages=("representation", "heads"),
        batch_size=256,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        importance=[0.8**i for i in range(10)],
        qk_pairs=[ATTENDED],
        record_every=500,
    )


def toy_slices(run: Run, model: ToyModel, seed: int, n_null: int, relative: bool = False) -> probes.AttentionSlices:
    """A toy head's scores on pairs of tokens that hold the attended features, drawn at the step after the last."""
    query, key = ATTENDED
    x = run.recipe.setting.data.sample(2_048, seed=seed, step=run.recipe.total_steps).unflatten(0, (1_024, 2))
    x = x[(x[:, 0, query] != 0) & (x[:, 1, key] != 0)]
    pairs = torch.stack([torch.arange(len(x)), torch.zeros(len(x)), torch.ones(len(x))], dim=1).long()
    return probes.attention_slices(model, x, 0, 0, pairs=pairs, relative=relative, n_null=n_null)
