"""`tms demo`: the main job. Toys beside a real transformer, through the same calls, on one page."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import probes
from tms_hooks import geometry, plots, side_by_side, stats
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.models.toy import ToyModel
from tms_hooks.pages import report
from tms_hooks.prompts import indirect_object_prompts, repeated_prompts
from tms_hooks.run import Run
from tms_hooks.side_by_side import ATTENDED, FIRES, Crowding, FiringHead
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

HEAD_TOYS, HEAD_STEPS = 32, (1_500, 500)
NULL_DRAWS = 4_000
SLICED_TOYS = 12
HEADS_PER_KIND = 3
NULL_ROTATIONS = 20
SAMPLED_TOKENS = 1_500
OVER_WELCH, CENTERED_OVER_WELCH = "rms overlap / Welch bound", "rms overlap / Welch bound, mean removed"

HEADS, BOTTLENECKS = "A head's singular vectors", "Bottlenecks"
"""Sections that the story at the page's top takes numbers from."""

Part = tuple[report.Section, pd.DataFrame]
"""A section of the page, and its rows of the short table that the terminal shows."""


def run_demo(
    out: Path, real_model: str = "smollm2", n_models: int = 400, say: Callable[[str], None] = lambda what: None
) -> tuple[Path, pd.DataFrame]:
    """Do all of it; returns the page and the short table.

    Args:
        out: folder for `index.html`.
        real_model: what `probes.load_transformer` takes.
        n_models: toys in the first section.
        say: called with what is done next.
    """
    began = time.perf_counter()
    say(f"loading {real_model}")
    real = probes.load_transformer(real_model)
    if getattr(real, "tokenizer", None) is None:
        raise ValueError(f"real_model={real_model!r} has no tokenizer, and the page shows it sentences: use 'smollm2'")
    say(f"training {n_models} toys of 6 features in 2 dimensions, naming their geometries")
    run = _to_the_end(train_toys(n_models))
    parts = [geometries(run)]
    say(f"training {HEAD_TOYS} toys with a pseudo-attention head, aligning singular vectors with features")
    head_run = _to_the_end(side_by_side.train_head_toys(HEAD_TOYS, HEAD_STEPS))
    parts.append(alignment(head_run))
    say("splitting attention scores into singular slices")
    parts.append(slices(head_run, real, real_model))
    say("measuring the embed -> unembed bottlenecks")
    parts.append(bottlenecks(run.models, real, real_model))
    page = report.write(
        out / "index.html",
        "Superposition, measured",
        "How a network stores more features than it has dimensions: on toys, and in a real transformer.",
        [section for section, _ in parts],
        f"tms demo: {n_models} + {HEAD_TOYS} toys and {real_model} in {time.perf_counter() - began:.0f} s; "
        f"seeds from 0; tms-hooks {run.provenance['tms_hooks']}, torch {run.provenance['torch']}, "
        f"{run.provenance['engine']} engine.",
        probes.render.bundle(),
        story=story(run, parts, real_model),
    )
    return page, pd.concat([rows for _, rows in parts])


class Story(NamedTuple):
    """The first screen: one picture, three numbers with their meaning, and what they mean together."""

    figure: Any
    caption: str
    numbers: list[tuple[str, str]]
    meaning: str


def story(run: Run, parts: Sequence[Part], real_name: str) -> Story:
    """What a stranger is to take home, from the measured numbers."""
    names = np.array([geometry.name_polytope(W) for W in run.W_E])
    (shape, count), loss = Counter(names.tolist()).most_common(1)[0], run.final_loss.numpy()
    best = min(np.flatnonzero(names == shape).tolist(), key=lambda i: loss[i])
    crowded = next(section.table for section, _ in parts if section.short == BOTTLENECKS)
    assert crowded is not None
    aligned = next(rows.value.iloc[0] for section, rows in parts if section.short == HEADS)
    held = crowded.loc["features per dimension"]
    W = run.history.W_E.isel(model=best).values[:, None]
    return Story(
        figure=plots.movie(W, [f"a {shape}"], run.history.step.values.tolist()).update_layout(height=520),
        caption="Six features share two dimensions, one arrow each: play to see a toy learn where to put them.",
        numbers=[
            (
                f"{count / len(names):.0%}",
                f"of {len(names)} toys end as a {shape}, though every toy starts at random.",
            ),
            (
                aligned.split(" ")[0],
                "of toy heads point at the two features that they were trained to attend to (95 % interval "
                f"{aligned.partition(' ')[2].strip('()')}).",
            ),
            (
                f"{held[real_name]:.0f}",
                f"tokens share each dimension of {real_name}'s bottleneck; in the toys {held['toys']:.1f} features do.",
            ),
        ],
        meaning="A network can hold more features than it has dimensions, if few are active at a time: it gives each a "
        "direction, and lives with the overlap. In a toy one sees which directions, and may check that a tool finds "
        f"what is there; the same calls then read {real_name}. The sections below show both, side by side.",
    )


def train_toys(n_models: int) -> Run:
    """The pentagon/hexagon setting: six equally important features, active with probability 0.057, two dimensions."""
    return train(
        ToyConfig(n_features=6, d_hidden=2),
        SparseUniform(n_features=6, feature_probability=0.057),
        seeds=range(n_models),
        steps=3_000,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        record_every=100,
    )


def _to_the_end(run: Run) -> Run:
    """A run that is not measured half trained: Ctrl-C ends the demo, not only the training."""
    if run.stopped:
        raise KeyboardInterrupt
    return run


def geometries(run: Run) -> Part:
    """Which polytopes the trained toys reach."""
    names = np.array([geometry.name_polytope(W) for W in run.W_E])
    loss, norms = run.final_loss.numpy(), run.W_E.norm(dim=(-2, -1))
    table = stats.census(names.tolist(), loss, "mean held-out loss")
    table["mean Frobenius norm"] = [float(norms[names == name].mean()) for name in table.index]
    table = table.rename(columns={"share_low": "95 % from", "share_high": "95 % to"})
    best = [min(np.flatnonzero(names == name).tolist(), key=lambda i: loss[i]) for name in table.index[:4]]
    arrows = plots.feature_arrows(run.W_E[best].numpy(), [f"{names[i]}, loss {loss[i]:.5f}" for i in best])
    shares = plots.shares(list(table.index), *(table[c].to_numpy() for c in ("share", "95 % from", "95 % to")))
    first, lowest = table.iloc[0], table["mean held-out loss"].idxmin()
    section = report.Section(
        short="Geometries",
        title="Which geometry do six features take in two dimensions?",
        text=f"{len(names)} toys $x' = ReLU(W^T W x + b)$, features active with probability 0.057, one seed each; "
        "Adam, learning rate 0.01 with cosine decay over 3,000 steps. Names are read from the weights alone.",
        finding=f"{first.share:.0%} of the models end as a {first.name} (95 % interval {first['95 % from']:.0%} to "
        f"{first['95 % to']:.0%}); the lowest mean held-out loss is the {lowest}'s "
        f"({table['mean held-out loss'].min():.5f}, the {first.name}'s {first['mean held-out loss']:.5f}).",
        table=table,
        figures={
            "The best model of each of the most frequent geometries: one arrow per feature.": arrows,
            "Share of models in each geometry.": shares,
        },
    )
    rows = {
        f"toys that end as a {name}": f"{row.share:.0%} ({row['95 % from']:.0%} to {row['95 % to']:.0%})"
        for name, row in table.head(2).iterrows()
    }
    return section, pd.DataFrame({"value": rows})


def alignment(run: Run) -> Part:
    """Do the singular vectors of a trained head's Omega point at the features it attends to?"""
    query, key = ATTENDED
    noise = np.random.default_rng(0).normal(size=(2, NULL_DRAWS, run.recipe.cfg.d_hidden))
    rotated = np.abs(noise[..., 0]) / np.linalg.norm(noise, axis=-1)  # what random rotations leave of an alignment
    attended, others, pvalues = [], [], []
    for model in run.models:
        aligned = probes.align(probes.qk_circuit(model, layer=0, head=0), model.W_E, model.W_E, n_null=1)
        left, right = aligned.left_cosines[0].abs().numpy(), aligned.right_cosines[0].abs().numpy()
        attended += [left[query], right[key]]
        others += [*np.delete(left, query), *np.delete(right, key)]
        pvalues.append((1 + (rotated.prod(0) >= left[query] * right[key]).sum()) / (1 + NULL_DRAWS))
    values = {
        "attended features": np.array(attended),
        "other features": np.array(others),
        "random rotations": rotated.flatten(),
    }
    table = pd.DataFrame(
        [(len(v), np.median(v), *np.quantile(v, (0.05, 0.95))) for v in values.values()],
        columns=["n", "median |cosine|", "5 %", "95 %"],
        index=pd.Index(values, name="first singular vectors against"),
    )
    aligned_models = int(sum(p < 0.05 for p in pvalues))
    share, (low, high) = aligned_models / len(pvalues), stats.wilson(aligned_models, len(pvalues))
    colors = dict(zip(values, (plots.TOY, plots.PALETTE[1], plots.NULL), strict=True))
    section = report.Section(
        short=HEADS,
        title="Do the singular vectors of a head recover the features it attends to?",
        text=f"{len(pvalues)} toys with 10 features of importance $0.8^i$ in 5 dimensions, feature probability 0.2; "
        f"then a pseudo-attention head is trained to respond when the query token holds feature {query} and the key "
        f"token feature {key}. It never sees the features, only the hidden states. $Ω = W_Q W_K^T$. Null: both sets of "
        f"directions turned at random, {NULL_DRAWS:,} times; the statistic is the product of the two |cosines|. Among "
        "the other features are those antipodal to the attended ones: Omega cannot tell the two apart.",
        finding=f"In {share:.0%} of the toys ({low:.0%} to {high:.0%}) the first singular pair lies nearer "
        f"to the attended pair than 95 % of random rotations do; median |cosine| {np.median(attended):.2f}, under "
        f"rotation {np.median(rotated):.2f}.",
        table=table,
        figures={
            "|Cosine| between the first left and right singular vectors and feature directions.": plots.distributions(
                values, "|cosine| with the first singular vector", colors
            )
        },
    )
    row = {"toy heads aligned with their features, p < 0.05": f"{share:.0%} ({low:.0%} to {high:.0%})"}
    return section, pd.DataFrame({"value": row})


def slices(run: Run, real: Any, real_name: str) -> Part:
    """How many singular slices carry the score of a pair on which a head fires.

    Raises:
        RuntimeError: no head of the real model fires on either kind of prompt.
    """
    kinds = {"indirect object": indirect_object_prompts(real), "repeated sequence": repeated_prompts(real)}
    heads = {kind: side_by_side.firing_heads(real, prompts)[:HEADS_PER_KIND] for kind, prompts in kinds.items()}
    found = [head for fired in heads.values() for head in fired]
    if not found:
        raise RuntimeError(f"no head of {real_name} fires (pattern >= {FIRES}) on any pair of either kind of prompt")
    toys = zip(run.models[:SLICED_TOYS], run.recipe.seeds, strict=False)
    splits = {"toy heads": [side_by_side.toy_slices(run, model, seed, NULL_ROTATIONS) for model, seed in toys]}
    shares = {"toy heads": 1.0}
    for kind, fired in heads.items():
        for head in fired:
            name = f"L{head.layer}H{head.head}, {kind}"
            splits[name] = side_by_side.slices_where_fired(real, head, NULL_ROTATIONS)
            shares[name] = head.share
        if fired and (silent := fired[0].silent):
            name = f"L{fired[0].layer}H{silent[0]}, control for {kind}"
            splits[name] = side_by_side.slices_where_fired(real, fired[0], NULL_ROTATIONS, silent[0])
            shares[name] = 0.0
    table = pd.DataFrame({name: _slice_counts(split, shares[name]) for name, split in splits.items()})
    table = table.T.rename_axis("head")
    ratio, share = table["needed / null"], table["share of pairs that fire"]
    fires, control = ratio[share > 0].drop("toy heads"), ratio[share == 0]
    kinds_of = {name: _kind_of_head(name) for name in splits}
    groups: dict[str, list[np.ndarray]] = {}
    for name, split in splits.items():
        groups.setdefault(kinds_of[name], []).append(_cumulative_share(split))
    curves = {kind: np.mean(shares_of, axis=0) for kind, shares_of in groups.items()}
    colors = dict(zip(curves, (plots.TOY, plots.REAL, plots.PALETTE[1], plots.NULL), strict=False))
    colors |= {kind: plots.NULL for kind in curves if kind.startswith("control")}
    section = report.Section(
        short="Singular slices",
        title="Is a head's attention made of a few parts?",
        text="How strongly a head attends from one token to another is one number, its score. $Ω = W_Q W_K^T$ splits "
        "that number into a sum, one part per singular vector pair: the slices. If two or three slices make up the "
        "score, the head looks at few directions, which might be features. Counted are the fewest slices, largest "
        "first, that reach the score. Two things keep the count honest: what it would be if the same head were turned "
        f"at random ({NULL_ROTATIONS} times; below 100 % is fewer than that), and a control, a head of the same layer "
        f"that does not attend there. A head is measured where it fires: where its pattern is at least {FIRES}. In "
        f"{real_name}'s prompts that is the last token attending to the indirect object, or each repeated token to the "
        "one after its first occurrence.",
        finding=f"The toys' heads need {table['slices needed'].iloc[0]:.1f} of 5 slices, "
        f"{ratio.iloc[0]:.0%} of what random rotations need. {real_name}'s heads that fire need "
        f"{fires.min():.0%} to {fires.max():.0%} of theirs, " + _beside_controls(fires, control),
        table=table,
        figures={
            "Share of the score that the largest slices make up together; 1 is all of it. Each curve is a mean over "
            "heads and pairs; curves of controls are gray.": plots.cumulative(
                curves, colors, "share of the score", "slices"
            )
        },
        visuals=_toy_attention(run) | _real_attention(real, real_name, max(found, key=lambda head: head.share)),
        beside=True,
    )
    short = {
        f"slices needed, {name}": f"{row['slices needed']:.1f} of {row['of']:.0f} (null {row['null']:.1f})"
        for name, row in table.iterrows()
    }
    return section, pd.DataFrame({"value": short})


def _kind_of_head(name: str) -> str:
    """What a head's name has in common with others of its kind.

    >>> _kind_of_head("L3H1, indirect object"), _kind_of_head("L3H2, control for indirect object")
    ('indirect object', 'control for indirect object')
    """
    return name.partition(", ")[2] or name


def _slice_counts(splits: Sequence[probes.AttentionSlices], share: float) -> dict[str, float]:
    needed = torch.cat([split.needed for split in splits]).double()
    null = torch.cat([split.null_needed.flatten() for split in splits]).double()
    return {
        "pairs": float(len(needed)),
        "share of pairs that fire": share,
        "slices needed": float(needed.mean()),
        "null": float(null.mean()),
        "needed / null": side_by_side.needed_fraction(splits),
        "of": float(splits[0].slices.shape[1]),
    }


def _beside_controls(fires: pd.Series, control: pd.Series) -> str:
    if control.empty:
        return "and there are no controls: every head of their layers fires."
    return f"the controls {control.min():.0%} to {control.max():.0%}: " + (
        "firing heads are sparser than the controls."
        if fires.max() < control.min()
        else "few slices alone do not tell a firing head."
    )


def _cumulative_share(splits: Sequence[probes.AttentionSlices]) -> np.ndarray:
    """Mean running sum of the slices, largest first, as a share of the score; a score of 0 has no shares."""
    parts = torch.cat([split.slices for split in splits])
    total = parts.sum(-1, keepdim=True)
    running = parts.sort(dim=-1, descending=True).values.cumsum(-1)
    return (running / total)[total[:, 0] != 0].mean(0).numpy()


def _toy_attention(run: Run) -> dict[str, str]:
    """The first toy's pseudo-attention between single features, as circuitsvis draws it."""
    model, n = run.models[0], run.recipe.cfg.n_features
    with torch.no_grad():
        scores = model(torch.eye(n, dtype=model.W_E.dtype)[None]).attn_scores[0]
    query, key = ATTENDED
    caption = (
        "A toy's head: the score of every pair of tokens that hold one feature each. It was trained to respond "
        f"to query f{query}, key f{key}. Blue is positive, vermilion negative."
    )
    return {caption: probes.render.attention([f"f{i}" for i in range(n)], scores).html()}


def _real_attention(real: Any, real_name: str, fired: FiringHead) -> dict[str, str]:
    """The pattern of a real head on the first prompt of its kind."""
    tokens = fired.batches[0].tokens[:1]
    pattern = side_by_side.patterns(real, tokens)[fired.layer, 0, fired.head]
    caption = f"{real_name}, layer {fired.layer}, head {fired.head}: attention pattern on one of the prompts."
    return {caption: probes.render.attention(real.to_str_tokens(tokens[0]), pattern[None]).html()}


def bottlenecks(toys: Sequence[ToyModel], real: Any, real_name: str) -> Part:
    """Norms and overlaps of the embed -> unembed bottleneck, by the same calls on both."""
    found = {"toys": [_crowding(toy) for toy in toys], real_name: [_crowding(real)]}
    table = pd.DataFrame({name: pd.DataFrame([_row(part) for part in parts]).mean() for name, parts in found.items()})
    table = table.rename_axis(columns="model")
    colors = {"toys": plots.TOY, real_name: plots.REAL}
    norms = {name: np.concatenate([p.norms / p.norms.mean() for p in parts]) for name, parts in found.items()}
    nearest = {name: np.abs(np.concatenate([p.overlaps.largest for p in parts])) for name, parts in found.items()}
    section = report.Section(
        short=BOTTLENECKS,
        title="How crowded is the way from embedding to unembedding?",
        text="Each feature (token) is written along its row of $W_E$ and read along its column of $W_U$. The rms "
        "overlap is the root-mean-square cosine between one feature's write and another's read. Directions of equal "
        "norm cannot have less than the Welch bound on average; random ones have 1/sqrt(d). Features below a tenth of "
        f"the largest norm are left out. For {real_name}: {SAMPLED_TOKENS:,} tokens drawn at random, against the whole "
        "vocabulary. Each number is a mean over the models that have it. Fewer than two features have no overlap, and "
        "with no more features than dimensions the Welch bound is 0, of which nothing is a multiple: that is none.",
        finding=f"The toys hold {_crowded(table['toys'], '.1f', 'features')}; {real_name} holds "
        f"{_crowded(table[real_name], '.0f', 'tokens')}.",
        table=table,
        figures={
            "Norms of the write directions, relative to their mean in each model.": plots.distributions(
                norms, "norm / mean norm", colors
            ),
            "For each feature, the largest |cosine| between its write and another's read.": plots.distributions(
                nearest, "largest |cosine| with another feature", colors
            ),
        },
        beside=True,
    )
    rows = {
        f"{OVER_WELCH}, {name} (mean removed)": f"{report.number(row[OVER_WELCH], '.2f')} "
        f"({report.number(row[CENTERED_OVER_WELCH], '.2f')})"
        for name, row in table.items()
    }
    return section, pd.DataFrame({"value": rows})


def _crowding(model: Any) -> Crowding:
    part = probes.bottleneck(model, "embed->unembed")
    longest = float(part.write.norm(dim=-1).max())
    return side_by_side.crowding(side_by_side.represented(part, longest / 10), SAMPLED_TOKENS)


def _row(found: Crowding) -> dict[str, float]:
    bound = found.welch_bound or float("nan")  # a bound of 0 has no multiples
    return {
        "features": float(found.features),
        "dimensions": float(found.dimensions),
        "features per dimension": found.features / found.dimensions,
        "sd of norm / mean": found.spread(correction=0),
        "rms overlap": found.overlaps.rms,
        "rms overlap, mean removed": found.centered.rms,
        "rms overlap of random directions": found.dimensions**-0.5,
        "Welch bound": found.welch_bound,
        OVER_WELCH: found.overlaps.rms / bound,
        CENTERED_OVER_WELCH: found.centered.rms / bound,
    }


def _crowded(row: pd.Series, form: str, features: str) -> str:
    held = f"{row['features per dimension']:{form}} {features} in each dimension"
    if not np.isfinite(row[OVER_WELCH]):
        return f"{held}, too few to need any overlap"
    return (
        f"{held} at {row[OVER_WELCH]:.2f} times the least possible overlap, {row[CENTERED_OVER_WELCH]:.2f} times once "
        f"the mean of all {features} is removed"
    )
