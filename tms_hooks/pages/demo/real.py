"""The demo's real transformer beside its toys: singular slices of attention scores, the embed -> unembed bottleneck."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import probes
from tms_hooks import plots
from tms_hooks.pages import report
from tms_hooks.pages.demo.prompts import FIRES, Prompts, firing, indirect_object_prompts, patterns, repeated_prompts
from tms_hooks.pages.demo.toys import ATTENDED
from tms_hooks.run import Run

SLICED_TOYS = 12
HEADS_A_KIND = 3
NULL_ROTATIONS = 20
SAMPLED_TOKENS = 1_500


class Head(NamedTuple):
    """A real head, its scores on some pairs split into slices, and on which share of pairs it fires."""

    layer: int
    head: int
    share: float
    splits: list[probes.AttentionSlices]


def slices(run: Run, real: Any, real_name: str) -> tuple[report.Section, pd.DataFrame]:
    """How many singular slices carry the score of a pair on which a head fires.

    Raises:
        RuntimeError: no head of the real model fires on either kind of prompt.
    """
    kinds = {"indirect object": indirect_object_prompts(real), "repeated sequence": repeated_prompts(real)}
    heads = {kind: heads_that_fire(real, prompts) for kind, prompts in kinds.items()}
    if not any(heads.values()):
        raise RuntimeError(f"no head of {real_name} fires (pattern >= {FIRES}) on any pair of either kind of prompt")
    splits = {"toy heads": [_toy_slices(run, i) for i in range(min(SLICED_TOYS, len(run.models)))]}
    rows = {"toy heads": _summary(splits["toy heads"], 1.0)}
    for kind, found in heads.items():
        for entry in found:
            name = f"L{entry.layer}H{entry.head}, {kind if entry.share else f'control for {kind}'}"
            splits[name] = entry.splits
            rows[name] = _summary(entry.splits, entry.share)
    table = pd.DataFrame(rows).T.rename_axis("head")
    ratio = table["needed / null"]
    fire, control = ratio[table["share of pairs that fire"] > 0].iloc[1:], ratio[table["share of pairs that fire"] == 0]
    strongest = max((entry for found in heads.values() for entry in found), key=lambda entry: entry.share)
    batch = next(kinds[kind][0] for kind, found in heads.items() if strongest in found)
    section = report.Section(
        short="Singular slices",
        title="How many singular slices carry a head's score?",
        text="A score is a sum over the singular pairs of Omega, its slices. A head fires on a pair of tokens if its "
        f"pattern is at least {FIRES}. In {real_name}'s prompts the last token attends to the indirect object, or each "
        "repeated token to the one after its first occurrence. Counted are the fewest slices, taken by size, "
        f"that reach the score; the null splits the same scores along {NULL_ROTATIONS} random rotations of the head. "
        "Control: a head of the same layer that fires on none of these pairs, on the same pairs.",
        finding=f"The toys' heads need {rows['toy heads']['slices needed']:.1f} of 5 slices, "
        f"{ratio.iloc[0]:.0%} of what random rotations need. {real_name}'s heads that fire need "
        f"{fire.min():.0%} to {fire.max():.0%} of theirs, the controls {control.min():.0%} to {control.max():.0%}: "
        + (
            "firing heads are sparser than the controls."
            if fire.max() < control.min()
            else "few slices alone do not tell a firing head."
        ),
        table=table,
        figures=[
            (
                "Cumulative share of the score, largest slices first; mean over the pairs.",
                plots.cumulative(
                    {name: _cumulative_share(split) for name, split in splits.items()},
                    {
                        name: plots.NULL if "control" in name else plots.PALETTE[i % (len(plots.PALETTE) - 1)]
                        for i, name in enumerate(splits)
                    },
                    "share of the score",
                    "slices",
                ),
            )
        ],
        visuals=[_toy_attention(run), _real_attention(real, real_name, batch, strongest)],
    )
    short = {
        f"slices needed, {name}": f"{row['slices needed']:.1f} of {row['of']:.0f} (null {row['null']:.1f})"
        for name, row in table.iterrows()
    }
    return section, pd.DataFrame({"value": short})


def heads_that_fire(real: Any, batches: Sequence[Prompts]) -> list[Head]:
    """The heads that fire most often; last, with share 0, one of the first one's layer that never does: a control."""
    fired = firing(real, batches)
    counts = fired.groupby(["layer", "head"]).size().sort_values(ascending=False, kind="stable")
    pairs = sum(len(batch.pairs) for batch in batches)
    found = []
    for (layer, head), count in counts.head(HEADS_A_KIND).items():
        here = fired[(fired["layer"] == layer) & (fired["head"] == head)]
        found.append(Head(layer, head, count / pairs, _real_slices(real, batches, here, layer, head)))
    if found:
        layer, head = found[0].layer, found[0].head
        silent = sorted(set(range(real.cfg.n_heads)) - set(fired.loc[fired["layer"] == layer, "head"]))
        here = fired[(fired["layer"] == layer) & (fired["head"] == head)]
        found += [Head(layer, other, 0.0, _real_slices(real, batches, here, layer, other)) for other in silent[:1]]
    return found


def bottlenecks(run: Run, real: Any, real_name: str) -> tuple[report.Section, pd.DataFrame]:
    """Norms and interference of the embed -> unembed bottleneck, by the same calls on both."""
    both = {
        "toys": [_represented(probes.bottleneck(model, "embed->unembed")) for model in run.models],
        real_name: [_represented(probes.bottleneck(real, "embed->unembed"))],
    }
    colors = {"toys": plots.TOY, real_name: plots.REAL}
    crowding, norms, nearest = {}, {}, {}
    for name, parts in both.items():
        cosines = [_cosines(part) for part in parts]
        measured = [_crowding(part, table) for part, table in zip(parts, cosines, strict=True)]
        crowding[name] = pd.DataFrame(measured).mean()
        norms[name] = np.concatenate([_relative_norms(part) for part in parts])
        nearest[name] = np.concatenate([table["largest"].abs() for table in cosines])
    table = pd.DataFrame(crowding).T.rename_axis("model")
    toy, other = table.loc["toys"], table.loc[real_name]
    section = report.Section(
        short="Bottlenecks",
        title="How crowded is the way from embedding to unembedding?",
        text="Each feature (token) is written along its row of W_E and read along its column of W_U. Interference is "
        "the root-mean-square cosine between one feature's write and another's read. Directions of equal norm cannot "
        "have less than the Welch bound on average; random ones have 1/sqrt(d). Features below a tenth of the largest "
        f"norm are left out. For {real_name}: {SAMPLED_TOKENS:,} tokens drawn at random, against the whole vocabulary.",
        finding=f"The toys hold {toy['features per dimension']:.1f} features in each dimension at "
        f"{toy['interference / Welch']:.2f} times the least possible interference; {real_name} holds "
        f"{other['features per dimension']:.0f} at {other['interference / Welch']:.1f} times the least, and at "
        f"{other['interference / Welch, mean removed']:.1f} times once the mean of all its tokens is removed.",
        table=table.T,
        figures=[
            (
                "Norms of the write directions, relative to their mean in each model.",
                plots.distributions(norms, "norm / mean norm", colors),
            ),
            (
                "For each feature, the largest |cosine| between its write and another feature's read.",
                plots.distributions(nearest, "largest |cosine| with another feature", colors),
            ),
        ],
    )
    rows = {
        f"interference / Welch bound, {name} (mean removed)": f"{row['interference / Welch']:.2f} "
        f"({row['interference / Welch, mean removed']:.2f})"
        for name, row in table.iterrows()
    }
    return section, pd.DataFrame({"value": rows})


def _represented(part: probes.Bottleneck) -> probes.Bottleneck:
    """Without the features that are as good as ignored."""
    norms = part.write.norm(dim=-1)
    keep = norms > norms.max() / 10
    return probes.Bottleneck(part.path, part.write[keep], part.read[keep])


def _relative_norms(part: probes.Bottleneck) -> np.ndarray:
    norms = part.write.norm(dim=-1).numpy()
    return norms / norms.mean()


def _cosines(part: probes.Bottleneck) -> pd.DataFrame:
    """Between writes and others' reads: for every feature, or for a sample of a vocabulary."""
    return part.unit().summary(sample=min(SAMPLED_TOKENS, len(part.write)))


def _centred(part: probes.Bottleneck) -> probes.Bottleneck:
    """Without the direction that all features share."""
    return probes.Bottleneck(part.path, part.write - part.write.mean(0), part.read - part.read.mean(0))


def _rms(cosines: pd.DataFrame, n: int) -> float:
    return float(np.sqrt((cosines["spill"] ** 2).mean() / (n - 1)))


def _crowding(part: probes.Bottleneck, cosines: pd.DataFrame) -> dict[str, float]:
    n, d = part.write.shape
    rms, centred = _rms(cosines, n), _rms(_cosines(_centred(part)), n)
    welch = float(np.sqrt((n - d) / (d * (n - 1))))
    return {
        "features": float(n),
        "dimensions": float(d),
        "features per dimension": n / d,
        "sd of norm / mean": float(_relative_norms(part).std()),
        "interference": rms,
        "interference, mean removed": centred,
        "interference of random directions": d**-0.5,
        "Welch bound": welch,
        "interference / Welch": rms / welch,
        "interference / Welch, mean removed": centred / welch,
    }


def _toy_slices(run: Run, index: int) -> probes.AttentionSlices:
    """The toy's head on held-out pairs of tokens that hold its two features."""
    tokens = run.recipe.data.sample(2_048, seed=run.recipe.seeds[index], step=run.recipe.total_steps)
    x = tokens.unflatten(0, (1_024, 2))
    query, key = ATTENDED
    x = x[(x[:, 0, query] > 0) & (x[:, 1, key] > 0)]
    pairs = torch.tensor([[example, 0, 1] for example in range(len(x))])
    return probes.attention_slices(run.models[index], x, 0, 0, pairs=pairs, n_null=NULL_ROTATIONS)


def _real_slices(
    real: Any, batches: Sequence[Prompts], fired: pd.DataFrame, layer: int, head: int
) -> list[probes.AttentionSlices]:
    """A head's scores on the pairs in `fired`, batch by batch."""
    return [
        probes.attention_slices(
            real,
            batches[int(str(number))].tokens,
            layer,
            head,
            pairs=batches[int(str(number))].pairs[rows["pair"].tolist()],
            n_null=NULL_ROTATIONS,
        )
        for number, rows in fired.groupby("batch")
    ]


def _summary(splits: Sequence[probes.AttentionSlices], share: float) -> dict[str, float]:
    needed = torch.cat([split.needed for split in splits]).double()
    null = torch.cat([split.null_needed.flatten() for split in splits]).double()
    return {
        "pairs": float(len(needed)),
        "share of pairs that fire": share,
        "slices needed": float(needed.mean()),
        "null": float(null.mean()),
        "needed / null": float(needed.mean() / null.mean()),
        "of": float(splits[0].slices.shape[1]),
    }


def _cumulative_share(splits: Sequence[probes.AttentionSlices]) -> np.ndarray:
    """Mean running sum of the slices, largest first, as a share of the score."""
    parts = torch.cat([split.slices for split in splits])
    running = parts.sort(dim=-1, descending=True).values.cumsum(-1)
    return (running / parts.sum(-1, keepdim=True)).mean(0).numpy()


def _toy_attention(run: Run) -> tuple[str, str]:
    """The first toy's pseudo-attention between single features, as circuitsvis draws it."""
    model, n = run.models[0], run.recipe.cfg.n_features
    with torch.no_grad():
        scores = model(torch.eye(n, dtype=model.W_E.dtype)[None]).attn_scores[0]
    query, key = ATTENDED
    caption = (
        "A toy's head: the score of every pair of tokens that hold one feature each. It was trained to respond "
        f"to query f{query}, key f{key}. Blue is positive, vermilion negative."
    )
    return caption, probes.render.attention([f"f{i}" for i in range(n)], scores).html()


def _real_attention(real: Any, real_name: str, batch: Prompts, entry: Head) -> tuple[str, str]:
    """The pattern of the real head that fires most often, on the first prompt of its kind."""
    tokens = batch.tokens[:1]
    pattern = patterns(real, tokens)[entry.layer, 0, entry.head]
    caption = f"{real_name}, layer {entry.layer}, head {entry.head}: attention pattern on one of the prompts."
    return caption, probes.render.attention(real.to_str_tokens(tokens[0]), pattern[None]).html()
