"""Losses: a mean over the batch, apart for every model and feature, so that models never meet."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Pair = tuple[int, int]


def squared_error(
    out: Float[Tensor, "*model batch feature"],
    x: Float[Tensor, "*model batch feature"],
    importance: Float[Tensor, " feature"],
) -> Float[Tensor, "*model feature"]:
    """`I_i (x_i - x'_i)^2`, mean over the batch. Its sum over features is L1 of Elhage et al. 2022."""
    return importance * (out - x).square().mean(-2)


def cross_entropy(
    logits: Float[Tensor, "*model batch feature"],
    x: Float[Tensor, "*model batch feature"],
    importance: Float[Tensor, " feature"],
) -> Float[Tensor, "*model feature"]:
    """`-I_i x_i log softmax(logits)_i` in nats, mean over the batch: `x` is the distribution to predict."""
    return -importance * (x * logits.log_softmax(-1)).mean(-2)


def qk_target(
    x: Float[Tensor, "*model batch pos feature"], pairs: Sequence[Sequence[Pair]]
) -> Float[Tensor, "*model batch head"]:
    """Target logit of the token pair (0, 1) for each head: how many of its attended pairs of features are present.

    Head `h` attends to pair (i, j) if feature i is active in the query token (position 0) and j in the key token
    (position 1). With one pair this is the indicator s(h, g) of the pseudo-attention study.
    """
    active = (x > 0).to(x.dtype)
    heads = []
    for head_pairs in pairs:
        query, key = torch.tensor(head_pairs, device=x.device).T
        heads.append((active[..., 0, query] * active[..., 1, key]).sum(-1))
    return torch.stack(heads, dim=-1)


def qk_error(
    scores: Float[Tensor, "*model batch head query_pos key_pos"], target: Float[Tensor, "*model batch head"]
) -> Float[Tensor, "*model head"]:
    """L2 of the pseudo-attention study: squared error of the logit for the token pair (0, 1), mean over the batch."""
    return (scores[..., 0, 1] - target).square().mean(-2)
