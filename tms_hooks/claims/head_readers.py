"""Two directions that tell from what a head reads whether it fires: by regression, and by the difference of means.

Both are fitted to some sentences and scored on others, of other frames and other words. An example is a token; a head
fires on it if its pattern is at least one half on one earlier token, neither the token itself nor the first, on which a
head rests that finds nothing. What a head reads is the residual stream after its block's norm.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tms_hooks import prompts
from tms_hooks.claims import seeds
from tms_hooks.side_by_side import FIRES

TRAINED = 24
"""Frames, the first ones, whose sentences readers are fitted to; the others are held out."""
HEADS_PER_FILLING = 3
SHARES = (0.1, 0.5)
"""A head counts if it fires on at least the first and at most the second share of the tokens fitted to."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of the ridge, in units of the mean variance along a dimension."""
FOLDS = 4


class Tokens(NamedTuple):
    """The tokens of some sentences: what each block's heads read there, and which of them fire."""

    read: Float[Tensor, "layer token d_model"]
    fires: Bool[Tensor, "layer head token"]
    frame: Int[Tensor, " token"]


class Scores(NamedTuple):
    """Of each head: how well a direction tells held-out tokens on which it fires, as area under the ROC curve."""

    regression: Float[np.ndarray, " head"]
    means: Float[np.ndarray, " head"]
    """The difference of means."""
    shuffled_regression: Float[np.ndarray, " head"]
    """Fitted to shuffled labels, as the next one."""
    shuffled_means: Float[np.ndarray, " head"]
    strength: Float[np.ndarray, " head"]
    """Of the ridge that was chosen."""


@seeds.remembered
def reader_scores(model: Any, n_heads: int) -> Scores:
    """Of so many heads, drawn at random from those that count; each frame is filled once for three heads.

    Heads that fire on none of the held-out tokens, or on all, have no score and are left out.
    """
    per_frame = max(1, n_heads // HEADS_PER_FILLING)
    fitted = observed(model, prompts.framed_sentences(model, range(TRAINED), per_frame, words=0))
    share = fitted.fires.double().mean(-1)
    counted = ((share >= SHARES[0]) & (share <= SHARES[1])).nonzero()
    drawn = np.random.default_rng(seeds.first()).permutation(len(counted))[:n_heads]
    chosen = counted[sorted(drawn)]
    held = observed(model, prompts.framed_sentences(model, range(TRAINED, len(prompts.FRAMES)), per_frame, words=1))
    found = [
        score(
            fitted.read[layer],
            fitted.fires[layer, head],
            fitted.frame % FOLDS,
            held.read[layer],
            held.fires[layer, head],
            shuffle=number,
        )
        for number, (layer, head) in enumerate(chosen.tolist())
    ]
    rows = [row for row in found if np.isfinite(row).all()]
    return Scores(*np.array(rows).reshape(-1, len(Scores._fields)).T)


def observed(model: Any, batches: Sequence[prompts.Sentences]) -> Tokens:
    """What happens at all tokens but the start and the first word, which has nothing before it to fire on."""
    layers = range(model.cfg.n_layers)
    names = [f"blocks.{layer}.{hook}" for layer in layers for hook in ("attn.hook_in", "attn.hook_pattern")]
    read, fires, frames = [], [], []
    for tokens, frame in batches:
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in names)
        read.append(torch.stack([cache[f"blocks.{layer}.attn.hook_in"][:, 2:].flatten(0, 1) for layer in layers]))
        pattern = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"] for layer in layers]).transpose(1, 2)
        fires.append(fired(pattern).flatten(2))
        frames.append(frame.repeat_interleave(tokens.shape[1] - 2))
    return Tokens(torch.cat(read, dim=1), torch.cat(fires, dim=-1), torch.cat(frames))


def fired(pattern: Float[Tensor, "*head query_pos key_pos"]) -> Bool[Tensor, "*head late_query_pos"]:
    """Whether a head fires at each position from the third on: on one between the start and the position itself."""
    earlier = pattern.tril(-1)[..., 2:, 1:]
    return earlier.amax(-1) >= FIRES


def score(
    x: Float[Tensor, "token d_model"],
    fires: Bool[Tensor, " token"],
    fold: Int[Tensor, " token"],
    held_x: Float[Tensor, "held_token d_model"],
    held_fires: Bool[Tensor, " held_token"],
    shuffle: int,
) -> list[float]:
    """One head's row of `Scores`; the ridge's strength is the best on folds of the sentences that are fitted to."""
    order = torch.randperm(len(fires), generator=seeds.generator(shuffle))
    labels = torch.stack([fires, fires[order]])
    inner = [(fold != k, fold == k) for k in fold.unique()]
    tried = torch.stack([areas(directions(x[fit], labels[:, fit]), x[rest], labels[:, rest]) for fit, rest in inner])
    best = tried[..., :-1].nanmean(0).nan_to_num(0.0).argmax(-1)
    held = areas(directions(x, labels), held_x, held_fires.expand(2, -1))
    [regression, shuffled] = held.gather(1, best[:, None])[:, 0].tolist()
    return [regression, float(held[0, -1]), shuffled, float(held[1, -1]), STRENGTHS[int(best[0])]]


def directions(
    x: Float[Tensor, "token d_model"], labels: Bool[Tensor, "label token"]
) -> Float[Tensor, "label direction d_model"]:
    """Of each labeling: the ridge regression's at each of `STRENGTHS`, then the difference of means, as unit vectors.

    Ridge: (C + s I)^-1 c, with C the covariance of x and c that of x with the label, a multiple of the difference of
    means, to which it turns as s grows.
    """
    x, y = (centered.double() - centered.double().mean(0) for centered in (x, labels.mT))
    covariance, along = x.mT @ x / len(x), x.mT @ y / len(x)
    ridge = torch.tensor(STRENGTHS)[:, None] * covariance.diagonal().mean()
    factors = torch.linalg.cholesky(covariance + torch.diag_embed(ridge.expand(-1, x.shape[1])))
    found = torch.cat([torch.cholesky_solve(along.expand(len(ridge), -1, -1), factors), along[None]]).permute(2, 0, 1)
    return torch.nn.functional.normalize(found, dim=-1)


def areas(
    found: Float[Tensor, "label direction d_model"],
    x: Float[Tensor, "token d_model"],
    labels: Bool[Tensor, "label token"],
) -> Float[Tensor, "label direction"]:
    """The area under the ROC curve of each direction: how often a token with the label has more along it than another.

    NaN where all tokens have the label, or none.
    """
    ranks = (found @ x.double().mT).argsort(-1).argsort(-1).double()
    on = labels.double()[:, None]
    n, others = on.sum(-1), (1 - on).sum(-1)
    return ((ranks * on).sum(-1) - n * (n - 1) / 2) / (n * others)
