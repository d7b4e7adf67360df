"""QK and OV circuits of any head: what it compares, and what it moves (Elhage et al. 2021, "A Mathematical Framework").

A head's queries and keys enter its scores only as x_query W_Q W_K^T x_key, and its values and outputs only as
x_key W_V W_O. Both products are d_model x d_model matrices of rank d_head at most, held here as their two factors: the
singular value decomposition of `left @ right.T` needs a QR of each factor and one small matrix, never the product.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probes.architectures import attention, fold_ln1, head_weights, rotate
from probes.hooked import HookedModel


class Circuit(NamedTuple):
    """A head's bilinear form or map as `left @ right.T`, with its singular value decomposition, in float64."""

    left: Float[Tensor, "d_left rank"]
    right: Float[Tensor, "d_right rank"]
    U: Float[Tensor, "d_left k"]
    S: Float[Tensor, " k"]
    Vh: Float[Tensor, "k d_right"]

    @property
    def matrix(self) -> Float[Tensor, "d_left d_right"]:
        """The product in full."""
        return self.left @ self.right.mT


def qk_circuit(
    model: HookedModel, layer: int, head: int, *, bias: bool = False, fold_norm: bool = False, offset: int = 0
) -> Circuit:
    """Omega of a head: query on its rows, `x_query @ Omega @ x_key` is the score before scaling and masking.

    Omega = W_Q W_K^T; in the pseudo-attention literature A^T B.

    >>> from probes.transformers import load_transformer
    >>> omega = qk_circuit(load_transformer("tiny"), layer=0, head=2)
    >>> omega.matrix.shape, omega.S.shape
    (torch.Size([64, 64]), torch.Size([16]))

    Args:
        model: anything with `blocks[layer].attn.W_Q` (head, d_model, d_head) and `W_K` (with grouped queries, fewer).
        layer, head: which, counted from 0.
        bias: append a row and a column, for inputs that end in a constant 1; zeros where there are no biases.
        fold_norm: take inputs after normalization but before its gain: `blocks.i.ln1.hook_normalized` of a bridge.
            Without it inputs are what the head reads (`blocks.i.attn.hook_in`).
        offset: query position minus key position, for rotary models.

    Raises:
        IndexError: no such layer or head.
        ValueError: a norm or rotary positions that this model does not have, or whose form is not known.
    """
    W_Q, b_Q = head_weights(model, layer, head, "Q")
    W_K, b_K = head_weights(model, layer, head, "K")
    if offset:
        W_Q, b_Q = rotate(model, layer, W_Q, offset), rotate(model, layer, b_Q, offset)
    if fold_norm:
        (W_Q, b_Q), (W_K, b_K) = fold_ln1(model, layer, W_Q, b_Q), fold_ln1(model, layer, W_K, b_K)
    if bias:
        W_Q, W_K = torch.cat([W_Q, b_Q[None]]), torch.cat([W_K, b_K[None]])
    return Circuit(W_Q, W_K, *factored_svd(W_Q, W_K))


def ov_circuit(model: HookedModel, layer: int, head: int, *, bias: bool = False, fold_norm: bool = False) -> Circuit:
    """What a head moves: `x_key @ matrix` is what it writes if it attends to `x_key` alone. Matrix = W_V W_O.

    >>> from probes.transformers import load_transformer
    >>> ov_circuit(load_transformer("tiny"), layer=0, head=2).matrix.shape
    torch.Size([64, 64])

    Args and errors are those of `qk_circuit`; `bias` appends only a row, for b_V (the output bias is no head's own).
    """
    W_V, b_V = head_weights(model, layer, head, "V")
    W_O = attention(model, layer).W_O[head].detach().double().mT
    if fold_norm:
        W_V, b_V = fold_ln1(model, layer, W_V, b_V)
    if bias:
        W_V = torch.cat([W_V, b_V[None]])
    return Circuit(W_V, W_O, *factored_svd(W_V, W_O))


def factored_svd(
    left: Float[Tensor, "*head d_left rank"], right: Float[Tensor, "*head d_right rank"]
) -> tuple[Float[Tensor, "*head d_left k"], Float[Tensor, "*head k"], Float[Tensor, "*head k d_right"]]:
    """Singular value decomposition of `left @ right.mT` without forming it: QR of each, then a rank x rank SVD.

    >>> U, S, Vh = factored_svd(torch.tensor([[2.0], [0.0]]), torch.tensor([[0.0], [3.0]]))
    >>> S
    tensor([6.])

    Raises:
        ArithmeticError: the product of the factors does not give back `left @ right.mT`: LAPACK can fail silently.
    """
    Q_left, R_left = torch.linalg.qr(left)
    Q_right, R_right = torch.linalg.qr(right)
    core = R_left @ R_right.mT
    U, S, Vh = torch.linalg.svd(core, full_matrices=False)
    U, Vh = Q_left @ U, Vh @ Q_right.mT
    # checked on the factors: (U S Vh) R = left (right.mT R) for the orthonormal basis R of right's columns
    error = (U * S[..., None, :]) @ (Vh @ Q_right) - left @ (right.mT @ Q_right)
    scale = left.norm(dim=(-2, -1)) * right.norm(dim=(-2, -1))
    if not (error.norm(dim=(-2, -1)) <= 1e3 * torch.finfo(left.dtype).eps * scale).all():
        raise ArithmeticError("the SVD does not reconstruct its matrix: are the weights finite?")
    return U, S, Vh
