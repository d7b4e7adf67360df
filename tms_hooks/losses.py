"""Losses: what an output costs beside its target, as a mean over the batch.

Every model and every feature (or head) keeps a loss of its own, so that models which are trained together never meet.
L1 is the loss of the features, L2 that of pseudo-attention heads.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Pair = tuple[int, int]


def squared_error(
    out: Float[Tensor, "*model batch feature"],
    target: Float[Tensor, "*model batch feature"],
    importance: Float[Tensor, " feature"],
) -> Float[Tensor, "*model feature"]:
    """`I_i (target_i - out_i)^2`, mean over the batch. Its sum over features is the loss of Elhage et al. 2022."""
    return importance * (out - target).square().mean(-2)


def cross_entropy(
    logits: Float[Tensor, "*model batch feature"],
    target: Float[Tensor, "*model batch feature"],
    importance: Float[Tensor, " feature"],
) -> Float[Tensor, "*model feature"]:
    """`-I_i target_i log softmax(logits)_i` in nats, mean over the batch: the target is a distribution."""
    return -importance * (target * logits.log_softmax(-1)).mean(-2)


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


def qk_attention_target(
    x: Float[Tensor, "*model batch pos feature"], pairs: Sequence[Sequence[Pair]]
) -> Float[Tensor, "*model batch head key"]:
    """Share of its attention that the query token (position 0) is to give to each key token (all others).

    In proportion to `qk_target` of query and key; the same to every key where none forms an attended pair.

    >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]])  # feature 0, then nothing, then feature 1
    >>> qk_attention_target(tokens, [[(0, 1)], [(1, 0)]])
    tensor([[[0.0000, 1.0000],
             [0.5000, 0.5000]]])
    """
    keys = [qk_target(x[..., [0, k], :], pairs) for k in range(1, x.shape[-2])]
    counts = torch.stack(keys, dim=-1)
    total = counts.sum(-1, keepdim=True)
    return torch.where(total > 0, counts / total.clamp(min=1), 1 / len(keys))


def qk_cross_entropy(
    scores: Float[Tensor, "*model batch head query_pos key_pos"], target: Float[Tensor, "*model batch head key"]
) -> Float[Tensor, "*model head"]:
    """Cross-entropy in nats of the attention of position 0, a softmax of its scores over the other positions.

    >>> scores = torch.tensor([[[[9.0, 3.0, 1.0]]]]).log()  # attention 3/4 and 1/4; no token is a key of its own
    >>> qk_cross_entropy(scores, torch.tensor([[[1.0, 0.0]]]))  # log(4/3)
    tensor([0.2877])
    """
    return -(target * scores[..., 0, 1:].log_softmax(-1)).sum(-1).mean(-2)
