"""The best pseudo-attention head for given feature directions: minimizing E (s - h^T Omega g)^2 is linear regression.

A head scores a query token with hidden state h and a key token with hidden state g by h^T Omega g, Omega = W_Q W_K^T.
It should give s, the number of attended pairs (i, j) with feature i active in the query and feature j in the key. The
score is linear in the products of h and g, so the best Omega is a least-squares solution: it needs only second moments
of the features, which most distributions know in closed form. A head of low rank is the same regression with the
smallest singular values cut off, in coordinates in which hidden states are isotropic (reduced-rank regression).

C = E[h h^T], uncentered, is the hidden states' second moment; h = W_E^T x without bias or activation.

A head with biases b_Q and b_K scores [h; 1]^T Omega' [g; 1], and the same regression in one dimension more is its
optimum. In coordinates from the mean, C' is the covariance beside 1, and the mean that every hidden state shares, which
turns the readers of a head without biases away from the features, drops out: the reader of feature i is
Cov(h)^-1 Cov(h, 1(x_i > 0)).
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.data import Distribution, known_moments
from tms_hooks.geometry import check_weights
from tms_hooks.linalg import inverse_root
from tms_hooks.losses import Pairs


def qk_optimum(
    W_E: Float[Tensor, "feature hidden"],
    data: Distribution,
    pairs: Pairs,
    rank: int | None = None,
    biases: bool = False,
) -> Float[Tensor, "hidden hidden"]:
    """The Omega, of at most that rank, that minimizes the expected squared error of the attention score exactly.

    Omega* = C^-1 E[s h g^T] C^-1, for independent tokens that are both from `data`. At rank r the SVD of C^(1/2) Omega*
    C^(1/2) is cut after r values and mapped back. Singular vectors of Omega* are whitened feature directions: equal to
    feature directions only if C is isotropic.

    Where the cut falls between equal singular values (two pairs of equal weight, rank 1) the optimum is not unique:
    one is returned. If C is singular, as with fewer represented features than dimensions, Omega* is the one of
    least norm.

    >>> from tms_hooks import SparseUniform
    >>> omega = qk_optimum(torch.eye(2), SparseUniform(n_features=2, feature_probability=0.5), [(0, 1)], rank=1)
    >>> omega.shape, int(torch.linalg.matrix_rank(omega))
    (torch.Size([2, 2]), 1)

    Args:
        W_E: feature directions.
        data: distribution of one token.
        pairs: (query feature, key feature), with the score that it is worth if that is not 1. A pair that is listed
            twice is worth 2.
        rank: highest rank; d_head of a head. None: no limit.
        biases: whether the head has b_Q and b_K. Its Omega is W_Q W_K^T all the same; biases take a rank of their own
            where there are fewer than pairs.

    Raises:
        ValueError: no pairs, a pair that names no feature, a rank below 1, another number of features in `data`,
            weights that are not finite, data without exact moments.
    """
    if rank is not None and rank < 1:
        raise ValueError(f"rank={rank}: must be at least 1, or None for no limit")
    whiten, target = _whitening_and_target(W_E, data, pairs, biases)
    U, S, Vh = torch.linalg.svd(target)
    found = whiten @ (U[:, :rank] * S[:rank]) @ Vh[:rank] @ whiten
    return found[: W_E.shape[1], : W_E.shape[1]]


def qk_excess_loss(
    omega: Float[Tensor, "hidden hidden"],
    W_E: Float[Tensor, "feature hidden"],
    data: Distribution,
    pairs: Pairs,
) -> Float[Tensor, ""]:
    """Expected squared error above that of the best head of full rank: ||C^(1/2) (Omega - Omega*) C^(1/2)||_F^2.

    Of heads without biases.
    """
    check_weights(omega)
    whiten, target = _whitening_and_target(W_E, data, pairs)
    root = torch.linalg.pinv(whiten, hermitian=True)
    return (root @ omega.double() @ root - target).square().sum()


def qk_orthonormal_cosine(p: float, d_hidden: int) -> float:
    """|Cosine| of the best head's first singular vectors with the attended features, for d orthonormal features.

    One attended pair, sparse uniform features, nothing else represented. The head reads feature i along e_i + rho 1,
    rho = p / ((1 - p)(4 + 3 (d - 1) p)), hence (1 + rho) / sqrt((1 + rho)^2 + (d - 1) rho^2): 1 for sparse features,
    falling to 1 / sqrt(d) as p goes to 1, where the score to predict is constant.

    >>> round(qk_orthonormal_cosine(0.5, 5), 4)
    0.9839

    Raises:
        ValueError: p outside (0, 1], or fewer than one dimension.
    """
    if not 0 < p <= 1 or d_hidden < 1:
        raise ValueError(f"p={p}, d_hidden={d_hidden}: needs 0 < p <= 1 and at least 1 dimension")
    share = p / (p + (1 - p) * (4 + 3 * (d_hidden - 1) * p))  # rho / (1 + rho)
    return float((1 + (d_hidden - 1) * share**2) ** -0.5)


def _whitening_and_target(
    W_E: Float[Tensor, "feature hidden"], data: Distribution, pairs: Pairs, biases: bool = False
) -> tuple[Float[Tensor, "side side"], Float[Tensor, "side side"]]:
    """C^(-1/2), and C^(-1/2) E[s h g^T] C^(-1/2); with biases, of [h - E h; 1], one dimension more."""
    check_weights(W_E)
    if data.n_features != len(W_E):
        raise ValueError(f"data has {data.n_features} features and W_E has {len(W_E)}")
    if not pairs:
        raise ValueError("no pairs: give at least one (query feature, key feature)")
    weighed = [(*pair[:2], pair[2] if len(pair) > 2 else 1.0) for pair in pairs]
    if isinstance(pairs, Mapping):
        weighed = [(*pair, weight) for pair, weight in pairs.items()]
    for i, j, _ in weighed:
        if not (0 <= i < len(W_E) and 0 <= j < len(W_E)):
            raise ValueError(f"pair {(i, j)}: features are 0 ... {len(W_E) - 1}")
    W = W_E.detach().double().cpu()
    second, active = known_moments(data)
    if biases:
        # E x_i is E[1(x_i > 0) x_i], the diagonal: of features that are never negative.
        mean, often = active.diagonal(), data.active_probability()
        assert often is not None, "data with moments have it"
        second, active = second - torch.outer(mean, mean), active - torch.outer(often, mean)
        W = torch.block_diag(W, torch.ones(1, 1, dtype=W.dtype))
        second = torch.block_diag(second, torch.ones(1, 1, dtype=W.dtype))
        active = torch.cat([active, often[:, None]], dim=1)
    moment = W.mT @ second @ W
    if not moment.isfinite().all():
        raise ValueError(f"largest weight {W.abs().max().item():.3g}: its square overflows; divide W_E by it")
    whiten = inverse_root(moment)
    mean_hidden_if_active = active @ W
    query, key, worth = map(list, zip(*weighed, strict=True))
    target = (W.new_tensor(worth)[:, None] * mean_hidden_if_active[query]).mT @ mean_hidden_if_active[key]
    return whiten, whiten @ target @ whiten
