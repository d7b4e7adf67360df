"""Rotations, which no loss of a tied toy can see, taken out: so that models can be laid over each other."""

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.geometry.directions import check_single, represented
from tms_hooks.geometry.measures import check_weights


def rotate_onto(
    W: Float[Tensor, "*model feature hidden"], reference: Float[Tensor, "*#model feature hidden"]
) -> Float[Tensor, "*model feature hidden"]:
    """Rotate or reflect each model so that its features lie as near as they can to the same features of `reference`.

    Orthogonal Procrustes: W R, R = argmin ||W R - reference||_F = U V^T, from the SVD U S V^T of W^T reference.

    >>> quarter_turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    >>> rotate_onto(torch.eye(2) @ quarter_turn, torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    check_weights(W)
    check_weights(reference)
    U, _, Vh = torch.linalg.svd(W.mT @ reference)
    return W @ (U @ Vh)


def canonical(W: Float[Tensor, "feature hidden"], min_norm: float = 0.5) -> Float[Tensor, "feature hidden"]:
    """The copy of a model that all its rotations and reflections share.

    Its first represented feature lies on the first axis; the next one in a clearly new direction lies in the plane
    of the first two axes, with a positive second coordinate; and so on. Nearly parallel, antipodal and dead features
    do not decide.

    >>> canonical(torch.tensor([[0.0, 2.0], [0.0, -2.0], [-3.0, 0.0]]))
    tensor([[ 2.,  0.],
            [-2.,  0.],
            [ 0.,  3.]])
    """
    check_single(W)
    axes = W.new_zeros(0, W.shape[1])
    for w in W[represented(W, min_norm)]:
        rest = w - (axes @ w) @ axes
        if rest.norm() > _CLEARLY_NEW * w.norm():
            axes = torch.cat([axes, rest[None] / rest.norm()])
    # Hidden dimensions that no represented feature needs: any orthonormal completion.
    complete = torch.linalg.qr(axes.mT, mode="complete").Q[:, len(axes) :]
    return W @ torch.cat([axes.mT, complete], dim=1) + 0.0  # -0. + 0. = 0.


_CLEARLY_NEW = 0.3  # sine of the angle to the axes so far: 17 degrees
