"""Reading non-orthogonal directions: the measurements of quantum state discrimination, for real vectors of any norm.

A hidden state h = sum_j x_j v_j is the sum of the written directions, the rows of V. A reader u_i is a direction too,
and answers u_i . h. The matched filter reads each direction along itself (u_i = v_i), as tied weights do: it is best
against isotropic noise, and blind to what other directions add. The dual frame cancels what they add as far as a linear
answer can. The pretty good measurement lies halfway. A ReLU behind the answer lets a trained readout do better than all
three, at best as well as `one_sided_dual_frame`.

Rows go in and rows come out: a toy's `W_U` holds its readers as columns, so compare with `W_U.mT`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.geometry import check_weights
from tms_hooks.linalg import inverse_root, scale_of


def dual_frame(V: Float[Tensor, "*model feature hidden"]) -> Float[Tensor, "*model feature hidden"]:
    """Readers U with U V^T the projection nearest to the identity: pinv(V)^T.

    With linearly independent directions each reader is orthogonal to every other direction, and reads 1 on its own
    (unambiguous discrimination). With more directions than dimensions that cannot be, and this is the canonical
    dual frame.

    >>> V = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> torch.allclose(dual_frame(V) @ V.mT, torch.eye(2), atol=1e-6)
    True

    Raises:
        ValueError: weights that are not finite, or so small that their readers are not.
    """
    check_weights(V)
    scale = scale_of(V, (-2, -1))
    readers = torch.linalg.pinv(V / scale).mT / scale
    return _readable(readers, V)


def pretty_good_measurement(V: Float[Tensor, "*model feature hidden"]) -> Float[Tensor, "*model feature hidden"]:
    """(V V^T)^(-1/2) V: the tight frame nearest to the directions, between the matched filter and the dual frame.

    Its readers resolve the identity on the span of V, sum_i u_i u_i^T = 1, as a measurement's must. Source: Hausladen &
    Wootters 1994, "A 'pretty good' measurement for distinguishing quantum states".

    >>> pretty_good_measurement(torch.tensor([[2.0], [2.0]])).square().sum()
    tensor(1.0000)
    """
    check_weights(V)
    V = V / scale_of(V, (-2, -1))  # the answer has no scale, and squares of V would overflow or vanish
    return V @ inverse_root(V.mT @ V)


def readout_cosines(
    W_E: Float[Tensor, "feature hidden"], W_U: Float[Tensor, "hidden feature"]
) -> dict[str, Float[Tensor, " feature"]]:
    """Cosine of each trained readout with each of the three linear measurements of the written directions."""
    check_weights(W_U.mT)
    readouts = {
        "matched filter": W_E,
        "dual frame": dual_frame(W_E),
        "pretty good measurement": pretty_good_measurement(W_E),
    }
    trained = W_U.mT / scale_of(W_U.mT)
    return {name: torch.cosine_similarity(U / scale_of(U), trained, dim=-1) for name, U in readouts.items()}


def one_sided_dual_frame(V: Float[Tensor, "*model feature hidden"]) -> Float[Tensor, "*model feature hidden"]:
    """Readers that are best for one-hot inputs if a ReLU stands behind them, so that negative answers cost nothing.

    u_i minimizes (1 - u.v_i)^2 + sum_{j != i} relu(u.v_j)^2. This is convex, and as relu(z)^2 = min_{s >= 0} (z + s)^2,
    it is non-negative least squares: u_i = pinv(V) (e_i - s), where s >= 0 is the part of the answers that the ReLU
    hides; at s = 0 this is the dual frame. Where several readers are as good, one of them is returned.

    >>> V = torch.tensor([[1.0], [-1.0]])  # opposite features: perfect behind a ReLU, though dependent
    >>> one_sided_dual_frame(V), dual_frame(V)
    (tensor([[ 1.],
            [-1.]]), tensor([[ 0.5000],
            [-0.5000]]))
    """
    check_weights(V)
    models = V.detach().double().cpu().reshape(-1, *V.shape[-2:])
    readers = torch.stack([_one_sided(v) for v in models])
    return _readable(readers.reshape(V.shape).to(V), V)


def _readable(readers: Tensor, V: Tensor) -> Tensor:
    if not readers.isfinite().all():
        raise ValueError(f"largest weight {V.abs().max().item():.3g}: its inverse overflows {V.dtype}; use V.double()")
    return readers


def _one_sided(V: Float[Tensor, "feature hidden"]) -> Float[Tensor, "feature hidden"]:
    import numpy as np
    from scipy.optimize import nnls

    rank = int(torch.linalg.matrix_rank(V))
    blind = torch.linalg.svd(V).U[:, rank:].mT.numpy()  # the parts of a wish V u = w that no u can fulfill
    wishes = np.eye(len(V))
    for i in range(len(V) if len(blind) else 0):
        others = np.arange(len(V)) != i
        wishes[others, i] = -nnls(blind[:, others], blind[:, i])[0]
    return (torch.linalg.pinv(V) @ torch.from_numpy(wishes)).mT
