"""What an output costs, beside the two losses that have a name ("mse", "cross_entropy"); and the losses of heads.

A loss of your own is a function of (out, target), or a subclass of `Loss` with one method. It gives the cost of every
output of every sample, or one cost per sample; training takes the mean over samples.

Losses of pseudo-attention heads say how far their scores are from the pairs of features that they are to attend to. A
row of the input is a query token, at position 0, and key tokens behind it. A head is to score a query and a key high if
they hold its pair. Every model and head keeps a loss of its own, so models that are trained together never meet.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import own
from tms_hooks.errors import explained, make_plain

Pair = tuple[int, int]
"""Query feature, key feature."""
WeighedPair = Pair | tuple[int, int, float]
"""A pair, with its weight if that is not 1."""
Pairs = Sequence[WeighedPair] | Mapping[Pair, float]
"""What a head attends to; a mapping says each pair's weight."""


@dataclass(frozen=True)
class Loss(ABC):
    """Base of losses without a name: frozen descriptions. A subclass with settings is a frozen dataclass too."""

    @abstractmethod
    def cost(
        self, out: Float[Tensor, "batch output"], target: Float[Tensor, "batch output"]
    ) -> Float[Tensor, "batch output"] | Float[Tensor, " batch"]:
        """Cost of every output of every sample, which importance weighs, or one cost per sample, which it cannot."""


@explained()
@dataclass(frozen=True)
class Lp(Loss):
    """|out - target|^p: with a high p the worst error decides.

    >>> Lp(4).cost(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
    tensor([[16.,  0.]])
    """

    p: float | int

    def __post_init__(self) -> None:
        """Validate."""
        make_plain(self)
        if not 1 <= self.p < float("inf"):
            raise ValueError(f"p={self.p}: must be at least 1 and finite; below 1 the gradient at 0 is infinite")

    def cost(
        self, out: Float[Tensor, "batch output"], target: Float[Tensor, "batch output"]
    ) -> Float[Tensor, "batch output"]:
        """|out - target|^p."""
        return (out - target).abs() ** self.p


@dataclass(frozen=True, repr=False)
class LossFunction(Loss):
    """A loss of your own from a function of (out, target): `train(cfg, data, loss=function)` makes it."""

    function: Callable[[Tensor, Tensor], Tensor]

    def __repr__(self) -> str:
        return own.name_of(self.function)

    def cost(self, out: Float[Tensor, "batch output"], target: Float[Tensor, "batch output"]) -> Any:
        """What the function gives: it is tried before training."""
        return self.function(out, target)


LOSSES: dict[str, type[Loss]] = {cls.__name__: cls for cls in (Lp, LossFunction)}


def try_loss(loss: Loss, target: Float[Tensor, "batch output"], importance: Sequence[float]) -> None:
    """Try a loss on a few outputs.

    Raises:
        ValueError: costs of another shape, a NaN or an infinity, no gradient, or importance with one cost per sample.
    """
    out = (target / 2 + 0.25).requires_grad_()
    shapes = [tuple(target.shape), (len(target),)]
    cost = own.try_out(f"loss={loss}", loss.cost, (out, target), shapes)
    if not cost.requires_grad:
        raise ValueError(f"loss={loss} has no gradient: must be made of the outputs by torch's functions")
    if cost.ndim == 1 and len(set(importance)) > 1:
        raise ValueError(
            f"loss={loss} gives one cost per sample, which importance={tuple(importance)} cannot weigh: must give one "
            "per output, or leave importance out"
        )


def costs(
    loss: Loss, out: Float[Tensor, "model batch output"], target: Float[Tensor, "model batch output"]
) -> Float[Tensor, "model batch output"]:
    """The costs of stacked outputs, model by model; a cost per sample is shared equally among its outputs.

    Raises:
        ValueError: a NaN for finite outputs.
    """
    found = own.model_by_model(loss.cost, out, target)
    if found.device.type == "cpu" and found.isnan().any() and out.isfinite().all():
        raise ValueError(f"loss={loss} gives NaN for finite outputs: must be a number for every output")
    return found if found.ndim == 3 else (found / out.shape[-1])[..., None].expand_as(out)


def qk_pairs_present(
    x: Float[Tensor, "*model batch pos feature"], pairs: Sequence[Sequence[WeighedPair]]
) -> Float[Tensor, "*model batch head key"]:
    """The weights, in sum, of a head's pairs that the query token (position 0) forms with each key token (all others).

    It forms pair (i, j) if feature i is active in the query and j in the key. Where all weights are 1, this is the
    number of such pairs.

    >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]])  # feature 0, then nothing, then feature 1
    >>> qk_pairs_present(tokens, [[(0, 1)], [(1, 0)]])
    tensor([[[0., 1.],
             [0., 0.]]])
    """
    heads = []
    for head_pairs in pairs:
        formed = [
            ((x[..., :1, pair[0]] != 0) & (x[..., 1:, pair[1]] != 0)).to(x.dtype) * pair_weight(pair)
            for pair in head_pairs
        ]
        heads.append(torch.stack(formed).sum(0))
    return torch.stack(heads, dim=-2)


def pair_weight(pair: WeighedPair) -> float:
    """What a pair adds to the target of a score.

    >>> pair_weight((5, 8, 2.0)), pair_weight((2, 4))
    (2.0, 1.0)
    """
    return pair[2] if len(pair) == 3 else 1.0


def qk_error(
    scores: Float[Tensor, "*model batch head query_pos key_pos"], present: Float[Tensor, "*model batch head 1"]
) -> Float[Tensor, "*model head"]:
    """Squared error of a head's score for the one key, which is to be the weight of its pairs; mean over the batch.

    With one pair per head, of weight 1, that is the indicator s(h, g) of the pseudo-attention study, and this its L2.
    """
    return (scores[..., 0, 1] - present[..., 0]).square().mean(-2)


def qk_cross_entropy(
    scores: Float[Tensor, "*model batch head query_pos key_pos"], present: Float[Tensor, "*model batch head key"]
) -> Float[Tensor, "*model head"]:
    """Cross-entropy in nats of the pattern of position 0, the softmax of its scores over the other positions.

    The keys are to share it in proportion to the weights of their pairs, and equally where none forms any.

    >>> scores = torch.tensor([[[[9.0, 3.0, 1.0]]]]).log()  # 3/4 and 1/4; a query is no key of its own
    >>> qk_cross_entropy(scores, torch.tensor([[[2.0, 0.0]]]))  # log(4/3)
    tensor([0.2877])
    """
    total = present.sum(-1, keepdim=True)
    target = torch.where(total > 0, present / torch.where(total > 0, total, 1), 1 / present.shape[-1])
    return -(target * scores[..., 0, 1:].log_softmax(-1)).sum(-1).mean(-2)
