"""Losses of pseudo-attention heads: how far their scores are from the pairs of features that they are to attend to.

A row of the input is a query token, at position 0, and key tokens behind it. A head is to score a query and a key high
if they hold its pair. Every model and head keeps a loss of its own, so models that are trained together never meet.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Pair = tuple[int, int]


def qk_pairs_present(
    x: Float[Tensor, "*model batch pos feature"], pairs: Sequence[Sequence[Pair]]
) -> Float[Tensor, "*model batch head key"]:
    """How many of a head's attended pairs the query token (position 0) forms with each key token (all others).

    Head `h` attends to pair (i, j) if feature i is active in the query and j in the key.

    >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]])  # feature 0, then nothing, then feature 1
    >>> qk_pairs_present(tokens, [[(0, 1)], [(1, 0)]])
    tensor([[[0., 1.],
             [0., 0.]]])
    """
    active = (x != 0).to(x.dtype)
    heads = []
    for head_pairs in pairs:
        query, key = torch.tensor(head_pairs, device=x.device).T
        heads.append((active[..., :1, query] * active[..., 1:, key]).sum(-1))
    return torch.stack(heads, dim=-2)


def qk_error(
    scores: Float[Tensor, "*model batch head query_pos key_pos"], present: Float[Tensor, "*model batch head 1"]
) -> Float[Tensor, "*model head"]:
    """Squared error of a head's score for the one key, which is to be the number of pairs; mean over the batch.

    With one pair per head, that number is the indicator s(h, g) of the pseudo-attention study, and this its L2.
    """
    return (scores[..., 0, 1] - present[..., 0]).square().mean(-2)


def qk_cross_entropy(
    scores: Float[Tensor, "*model batch head query_pos key_pos"], present: Float[Tensor, "*model batch head key"]
) -> Float[Tensor, "*model head"]:
    """Cross-entropy in nats of the pattern of position 0, the softmax of its scores over the other positions.

    The keys are to share it in proportion to their pairs, and equally where none forms any.

    >>> scores = torch.tensor([[[[9.0, 3.0, 1.0]]]]).log()  # 3/4 and 1/4; a query is no key of its own
    >>> qk_cross_entropy(scores, torch.tensor([[[2.0, 0.0]]]))  # log(4/3)
    tensor([0.2877])
    """
    total = present.sum(-1, keepdim=True)
    target = torch.where(total > 0, present / total.clamp(min=1), 1 / present.shape[-1])
    return -(target * scores[..., 0, 1:].log_softmax(-1)).sum(-1).mean(-2)
