"""Exact expected loss of a whole toy.

Finite data sets are summed. For sparse uniform features the closed forms of `theory.expected` apply to any toy whose
logits are affine in its input: `relu(x A + b)` with A and b read off the forward pass itself. Losses are summed over
features, weighted by importance, in units of the squared feature value.
"""

from collections.abc import Mapping
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.config import ToyConfig
from tms_hooks.data import Distribution, KHot, SparseUniform
from tms_hooks.models import forward
from tms_hooks.theory.expected import output_losses
from tms_hooks.training.penalties import PenaltyLike

MAX_FEATURES = 8
"""All 2^n patterns of activity are summed, and twice differentiated."""

Weights = Mapping[str, Tensor]


def exact_loss(
    weights: Weights,
    cfg: ToyConfig,
    data: Distribution,
    importance: Float[Tensor, " feature"] | None = None,
    penalty: PenaltyLike | None = None,
) -> Float[Tensor, ""]:
    """Expected sum_i I_i (x_i - x'_i)^2 without sampling, and the penalty; differentiable twice in the weights.

    Sparse uniform features and k-hot ones with uniform values: a sum over all patterns of activity, for a linear
    hidden layer and a ReLU output. One-hot and binary k-hot ones: a sum over the data set, for any toy without
    heads.

    Raises:
        ValueError: a distribution or a model whose loss has no such sum; more than 8 features in a sum over patterns;
            weights that are not finite.
    """
    loss = exact_losses(weights, cfg, data, importance).sum()
    return loss if penalty is None else loss + penalty(weights)


def exact_losses(
    weights: Weights, cfg: ToyConfig, data: Distribution, importance: Float[Tensor, " feature"] | None = None
) -> Float[Tensor, " feature"]:
    """What each feature adds to `exact_loss`."""
    if reason := no_exact_loss(cfg, data):
        raise ValueError(reason)
    for name, w in weights.items():
        if not w.isfinite().all():
            raise ValueError(f"{name} has a NaN or an infinity: weights must be finite; did the training diverge?")
    dtype = weights["W_E"].dtype
    weight = torch.ones(cfg.n_features, dtype=dtype) if importance is None else importance.to(dtype)
    x = data.dataset(dtype)
    if x is not None:
        return weight * (forward.reconstruct(weights, x, cfg)[2] - x).square().mean(0)
    empty, single = torch.zeros(1, cfg.n_features, dtype=dtype), torch.eye(cfg.n_features, dtype=dtype)
    bias = forward.reconstruct(weights, empty, cfg)[1][0]
    logits = forward.reconstruct(weights, single, cfg)[1] - bias  # what each feature adds: the toy is relu(x A + b)
    if isinstance(data, SparseUniform):
        return weight * output_losses(logits, bias, data.active_probability().to(dtype))
    assert isinstance(data, KHot)  # all others are refused
    subsets = torch.tensor(list(combinations(range(data.n_features), data.k)))
    active = torch.zeros(len(subsets), data.n_features, dtype=dtype).scatter_(1, subsets, 1)
    return weight * torch.stack([output_losses(logits, bias, p) for p in active]).mean(0)


def no_exact_loss(cfg: ToyConfig, data: Distribution) -> str | None:
    """Why a model's loss on these data has no sum that is exact; None if it has one."""
    if cfg.n_heads:
        return f"n_heads={cfg.n_heads}: the landscape is that of the reconstruction alone; use a toy without heads"
    if cfg.n_outputs != cfg.n_features:
        return f"d_out={cfg.d_out}: the landscape is that of reconstruction; use a toy with d_out=None"
    if data.dataset() is not None:
        return None
    if isinstance(data, SparseUniform) and (data.low, data.high) != (0, 1):
        return f"low={data.low}, high={data.high}: exact sums are known for values that are uniform on [0, 1]"
    if not isinstance(data, SparseUniform | KHot):
        return (
            f"{type(data).__name__}: exact sums are known for SparseUniform, OneHot and KHot; "
            "compare held-out losses instead"
        )
    if cfg.n_features > MAX_FEATURES:
        return (
            f"n_features={cfg.n_features}: the sum over all patterns stops at {MAX_FEATURES}; "
            "use one-hot data, which is exact for any number, or compare held-out losses (`Run.final_loss`)"
        )
    if cfg.hidden_act != "identity" or cfg.output_act != "relu" or cfg.d_mlp or cfg.scale == "after":
        return (
            f"hidden_act={cfg.hidden_act!r}, output_act={cfg.output_act!r}, d_mlp={cfg.d_mlp}, scale={cfg.scale!r}: "
            "exact expectations over continuous features need a linear hidden layer, a ReLU output with nothing behind "
            "it, and no MLP; use OneHot or binary KHot data"
        )
    return None
