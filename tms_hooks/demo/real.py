"""The demo's real transformer beside its toys: singular slices of attention scores, and the embed -> unembed bottleneck."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import probes
from probes.slices import AttentionSlices
from tms_hooks import geometry, plots, report
from tms_hooks.demo.prompts import FIRES, Prompt, firing, indirect_object_prompts, repeated_prompts
from tms_hooks.demo.toys import ATTENDED
from tms_hooks.run import Run

SLICED_TOYS = 12
HEADS_A_KIND = 3
NULL_ROTATIONS = 20


def slices(run: Run, real: Any, real_name: str) -> tuple[report.Section, pd.DataFrame]:
    """How many singular slices carry the score of a pair on which a head fires.

    Raises:
        RuntimeError: no head of the real model fires on either kind of prompt.
    """
    splits = {"toy heads": [_toy_slices(run, i) for i in range(min(SLICED_TOYS, len(run.models)))]}
    kinds = {"indirect object": indirect_object_prompts(real), "repeated sequence": repeated_prompts(real)}
    share = {"toy heads": 1.0}
    strongest = []
    for kind, prompts in kinds.items():
        fired = firing(real, prompts)
        counts = fired.groupby(["layer", "head"]).size().sort_values(ascending=False, kind="stable").head(HEADS_A_KIND)
        for (layer, head), count in counts.items():
            name = f"L{layer}H{head}, {kind}"
            share[name] = count / sum(len(prompt.pairs) for prompt in prompts)
            here = fired[(fired.layer == layer) & (fired["head"] == head)]
            splits[name] = _real_slices(real, prompts, here, layer, head)
            strongest.append((share[name], layer, head, prompts[0]))
    if not strongest:
        raise RuntimeError(f"no head of {real_name} fires (pattern >= {FIRES}) on any pair of either kind of prompt")
    table = pd.DataFrame({name: _summary(split, share[name]) for name, split in splits.items()}).T.rename_axis("head")
    toy, sparsest = table.iloc[0], table.iloc[1:].sort_values("slices needed").iloc[0]
    _, layer, head, prompt = max(strongest, key=lambda entry: entry[0])
    section = report.Section(
        short="Singular slices",
        title="How many singular slices carry a head's score?",
        text="A score is a sum over the singular pairs of Omega, its slices. A head fires on a pair of tokens if its "
        f"pattern is at least {FIRES}. Prompts for {real_name}: the last token attends to the indirect object, and each "
        "repeated token to the one after its first occurrence. Counted is the shortest prefix of slices, largest first, "
        f"that reaches the score; the null splits the same scores along {NULL_ROTATIONS} random rotations of the same head.",
        finding=f"The toys' heads need {toy['slices needed']:.1f} of {toy['of']:.0f} slices (null {toy['null']:.1f}). Of the real "
        f"heads that fire, {sparsest.name} is the sparsest: {sparsest['slices needed']:.1f} of {sparsest['of']:.0f} "
        f"(null {sparsest['null']:.1f}).",
        table=table,
        figures=[
            (
                "Cumulative share of the score, largest slices first; mean over the pairs on which the head fires.",
                plots.cumulative(
                    {name: _cumulative_share(split) for name, split in splits.items()},
                    dict(zip(splits, plots.PALETTE, strict=False)),
                    "share of the score",
                    "slices",
                ),
            )
        ],
        visuals=[_toy_attention(run), _real_attention(real, real_name, prompt, layer, head)],
    )
    rows = {
        f"slices needed, {name}": f"{row['slices needed']:.1f} of {row['of']:.0f} (null {row['null']:.1f})"
        for name, row in table.iterrows()
    }
    return section, pd.DataFrame({"value": rows})


def bottlenecks(run: Run, real: Any, real_name: str) -> tuple[report.Section, pd.DataFrame]:
    """Norms, dimensionality and interference of the embed -> unembed bottleneck, by the same calls on both."""


def _toy_slices(run: Run, index: int) -> AttentionSlices:
    """The toy's head on the pairs of held-out tokens that hold its two features."""
    x = run.recipe.data.sample(2_048, seed=run.recipe.seeds[index], step=run.recipe.total_steps).unflatten(0, (1_024, 2))
    query, key = ATTENDED
    examples = ((x[:, 0, query] > 0) & (x[:, 1, key] > 0)).nonzero()[:, 0]
    pairs = torch.stack([torch.arange(len(examples)), torch.zeros(len(examples)), torch.ones(len(examples))], dim=1).long()
    return probes.attention_slices(run.models[index], x[examples], 0, 0, pairs=pairs, n_null=NULL_ROTATIONS)


def _real_slices(
    real: Any, prompts: Sequence[Prompt], fired: pd.DataFrame, layer: int, head: int
) -> list[AttentionSlices]:
    """A head on the pairs of positions where it fires, prompt by prompt."""
    splits = []
    for number, where in fired.groupby("prompt"):
        pairs = torch.tensor([[0, query, key] for query, key in where[["query", "key"]].to_numpy().tolist()])
        tokens = prompts[int(str(number))].tokens[None]
        splits.append(probes.attention_slices(real, tokens, layer, head, pairs=pairs, n_null=NULL_ROTATIONS))
    return splits


def _summary(splits: Sequence[AttentionSlices], share: float) -> dict[str, float]:
    needed = torch.cat([split.needed for split in splits]).double()
    null = torch.cat([split.null_needed.flatten() for split in splits]).double()
    return {
        "pairs": len(needed),
        "share of pairs that fire": share,
        "slices needed": float(needed.mean()),
        "null": float(null.mean()),
        "of": splits[0].slices.shape[1],
    }


def _cumulative_share(splits: Sequence[AttentionSlices]) -> np.ndarray:
    """Mean running sum of the slices, largest first, as a share of the score."""
    slices = torch.cat([split.slices for split in splits])
    ordered = slices.sort(dim=-1, descending=True).values
    return (ordered.cumsum(-1) / slices.sum(-1, keepdim=True)).mean(0).numpy()
