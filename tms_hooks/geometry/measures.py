"""Numbers for each feature or each model, from weights alone; models may be stacked on leading axes.

Lengths are in the units of W, whose rows have norm about 1 where a feature of value 1 is reconstructed as 1.
Dimensionality, and dimensions per feature, are counts of hidden dimensions.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def check_weights(W: Float[Tensor, "*model feature hidden"]) -> None:
    """Refuse what has no feature and hidden axis, or is not finite.

    Raises:
        ValueError: fewer than two axes, or a NaN or an infinity in `W`.
    """
    if W.ndim < 2:
        raise ValueError(f"W of shape {tuple(W.shape)}: feature directions are rows of (..., feature, hidden)")
    if not W.isfinite().all():
        at = tuple((~W.isfinite()).nonzero()[0].tolist())
        raise ValueError(
            f"W[{', '.join(map(str, at))}] = {W[at].item()}: weights must be finite; did the training diverge?"
        )


def check_single(W: Float[Tensor, "feature hidden"]) -> None:
    """Refuse stacked weights where the answer has another shape for each model."""
    check_weights(W)
    if W.ndim != 2:
        raise ValueError(f"W of shape {tuple(W.shape)}: one model at a time, (feature, hidden); loop over the stack")


def gram(W: Float[Tensor, "*model feature hidden"]) -> Float[Tensor, "*model feature feature"]:
    """Inner products of all pairs of feature directions, `W_E W_E^T` (the paper's `W^T W`).

    >>> gram(torch.tensor([[1.0], [-1.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    check_weights(W)
    return W @ W.mT


def feature_norms(W: Float[Tensor, "*model feature hidden"]) -> Float[Tensor, "*model feature"]:
    """|W_i|, the length of each feature direction.

    >>> feature_norms(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([5., 0.])
    """
    check_weights(W)
    return torch.linalg.vector_norm(W, dim=-1)


def interference(W: Float[Tensor, "*model feature hidden"]) -> Float[Tensor, "*model feature"]:
    """How much of the other features lies along each feature's direction.

    sum_{j != i} (W_i/|W_i| . W_j)^2   (Elhage et al. 2022, "Toy Models of Superposition"); 0 for a dead feature.

    >>> interference(torch.tensor([[1.0], [-2.0]]))
    tensor([4., 1.])
    """
    check_weights(W)
    along = (torch.nn.functional.normalize(W, dim=-1, eps=torch.finfo(W.dtype).tiny) @ W.mT).square()
    return along.masked_fill(torch.eye(W.shape[-2], dtype=torch.bool, device=W.device), 0).sum(-1)


def dimensionality(W: Float[Tensor, "*model feature hidden"]) -> Float[Tensor, "*model feature"]:
    """Fraction of a hidden dimension that each feature has to itself.

    D_i = |W_i|^2 / sum_j (W_i/|W_i| . W_j)^2   (Elhage et al. 2022, "Toy Models of Superposition").
    0 <= D_i <= 1; 0 for a dead feature; 1/2 in an antipodal pair, 2/5 in a pentagon. The sum over features is at
    most the rank of W, and equal to it if all directions of a tegum factor share a norm and form a tight frame.

    >>> dimensionality(torch.tensor([[1.0], [-1.0]]))
    tensor([0.5000, 0.5000])
    """
    check_weights(W)
    # Each model in units of its longest direction: D_i has no scale, and fourth powers of small ones would underflow.
    longest = torch.linalg.vector_norm(W, dim=-1).amax(-1)[..., None, None]
    W = W / longest.clamp(min=torch.finfo(W.dtype).tiny)
    own = W.square().sum(-1)
    return torch.where(own > 0, own / (own + interference(W)).where(own > 0, 1), 0)


def dimensions_per_feature(W: Float[Tensor, "*model feature hidden"]) -> Float[Tensor, "*model"]:
    """D* = d_hidden / ||W||_F^2: hidden dimensions per learned feature, if learned features have norm 1.

    A feature whose norm exceeds 1, as with an output bias, counts as more than one: look at `dimensionality(W).sum(-1)`
    too. D* is infinite for a model that has learned nothing. Source: Elhage et al. 2022.

    >>> dimensions_per_feature(torch.eye(3)[:, :2])
    tensor(1.)
    """
    check_weights(W)
    return W.shape[-1] / W.square().sum((-2, -1))
