"""Is a trained model in a minimum of its loss, or on a saddle? Polish it to a critical point and read the Hessian.

Training stops near a critical point and not on it, and a sampled loss is too noisy for second derivatives. The exact
expected loss has both cures: Newton steps carry the weights to the nearby zero of the gradient, and the eigenvalues of
the Hessian there tell a minimum (none negative) from a saddle. Directions along which symmetry keeps the loss constant,
such as a rotation of the hidden layer, have eigenvalue zero whatever the point; they are projected out first.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.config import ToyConfig
from tms_hooks.data import Distribution
from tms_hooks.landscape.exact import Weights, exact_loss

if TYPE_CHECKING:
    from tms_hooks.models.toy import ToyModel

TOLERANCE = 1e-7
"""Gradient norm below which a point is critical."""
REACH = 0.5
"""A critical point further away than this, in weight space, is not the model's own."""
NEWTON_STEPS = 30
KINK_STEP = 1e-6
"""Length of the steps that look for a kink."""


class CriticalPoint(NamedTuple):
    """A model's place on the landscape; all but `moved` at the polished weights (the given ones if "not critical")."""

    kind: Literal["minimum", "saddle", "kink", "not critical"]
    loss: float
    gradient_norm: float
    eigenvalues: Float[Tensor, " mode"]
    """Of the Hessian, ascending, without the directions along which symmetry keeps the loss constant."""
    escape: int | None
    """At a saddle, the feature that moves most along the direction of most negative curvature."""
    moved: float
    """Distance from the given weights to the critical point."""
    weights: dict[str, Tensor]


def critical_point(
    model: "ToyModel", data: Distribution, importance: Float[Tensor, " feature"] | None = None
) -> CriticalPoint:
    """Is a trained model in a minimum of the exact expected loss, or on a saddle?

    The weights are polished in double precision. Directions that no loss can see are set aside: rotations of the hidden
    layer (any invertible map, if untied) and shifts between the biases. Flat directions that are left count as those of
    a minimum. Averaged over sparse uniform data the loss is smooth where a ReLU bends, unless some input lies on the
    bend for a whole range of its values: a square without a bias, whose right angles give logits of exactly zero, or a
    feature without direction and bias. There the Hessian misses what the next step finds, and the answer is "kink":
    a minimum or not, second derivatives do not tell. One-hot data give a piecewise quadratic loss, whose borders are
    kinks too.

    Args:
        model: a toy without heads.
        data: what it was trained on.
        importance: weight of each feature's loss; 1 by default.

    Raises:
        ValueError: no exact loss for this model and data; see `exact_loss`.
    """
    given = {name: w.detach().double().cpu() for name, w in model.named_parameters()}
    shapes = {name: w.shape for name, w in given.items()}
    start = torch.cat([w.flatten() for w in given.values()])

    def loss(theta: Tensor) -> Tensor:
        return exact_loss(unflatten(theta, shapes), model.cfg, data, importance)

    theta = _polish(loss, start)
    moved = float((theta - start).norm())
    gradient = _gradient(loss, theta)
    critical = moved <= REACH and float(gradient.norm()) <= TOLERANCE
    if not critical:
        theta, gradient = start, _gradient(loss, start)
    weights = unflatten(theta, shapes)
    hessian = _hessian(loss, theta)
    values, vectors = _spectrum(hessian, symmetry_directions(weights, model.cfg))
    saddle = bool(values[0] < -1e-6 * values.abs().max())
    kink = critical and _has_kink(loss, theta, gradient, hessian)
    escape = None
    if critical and saddle and not kink:
        escape = int(_feature_share(unflatten(vectors[:, 0], shapes), model.cfg).argmax())
    kind: Literal["minimum", "saddle", "kink", "not critical"] = (
        "not critical" if not critical else "kink" if kink else "saddle" if saddle else "minimum"
    )
    return CriticalPoint(kind, float(loss(theta)), float(gradient.norm()), values, escape, moved, weights)


def _polish(loss: Callable[[Tensor], Tensor], theta: Float[Tensor, " parameter"]) -> Float[Tensor, " parameter"]:
    """Newton's method for a zero of the gradient, be it a minimum or a saddle.

    It stops where the gradient shrinks no more, and leaves directions of no curvature alone.
    """
    gradient = _gradient(loss, theta)
    for _ in range(NEWTON_STEPS):
        if gradient.norm() <= TOLERANCE:
            break
        values, vectors = torch.linalg.eigh(_hessian(loss, theta))
        curved = values.abs() > 1e-6 * values.abs().max()
        step = -vectors[:, curved] @ ((vectors[:, curved].mT @ gradient) / values[curved])
        for fraction in (1.0, 0.3, 0.1, 0.03):
            candidate = theta + fraction * step
            new = _gradient(loss, candidate)
            if new.norm() < gradient.norm():
                break
        else:
            break
        theta, gradient = candidate, new
    return theta


def _has_kink(
    loss: Callable[[Tensor], Tensor],
    theta: Float[Tensor, " parameter"],
    gradient: Float[Tensor, " parameter"],
    hessian: Float[Tensor, "parameter parameter"],
) -> bool:
    """Does the gradient, a step to either side in a few random directions, change otherwise than the Hessian says?

    The error per length is of the order of the step where the loss is smooth, and of the Hessian or above at a kink.
    """
    random = torch.Generator().manual_seed(0)
    steps = torch.randn(4, len(theta), generator=random, dtype=theta.dtype)
    steps = KINK_STEP * torch.nn.functional.normalize(steps, dim=-1)
    errors = [_gradient(loss, theta + step) - gradient - hessian @ step for step in (*steps, *-steps)]
    error = max(float(missed.norm()) for missed in errors) / KINK_STEP
    return error > 1e-4 * float(torch.linalg.matrix_norm(hessian, 2)) + 1e-8


def _spectrum(
    hessian: Float[Tensor, "parameter parameter"], symmetries: Float[Tensor, "parameter symmetry"]
) -> tuple[Float[Tensor, " mode"], Float[Tensor, "parameter mode"]]:
    """Eigenvalues, ascending, and eigenvectors of a Hessian on the complement of the symmetry directions."""
    U, S, _ = torch.linalg.svd(symmetries, full_matrices=True)
    rank = int((1e-9 * S.amax() < S).sum()) if S.numel() else 0
    rest = U[:, rank:]
    values, vectors = torch.linalg.eigh(rest.mT @ hessian @ rest)
    return values, rest @ vectors


def symmetry_directions(weights: Weights, cfg: ToyConfig) -> Float[Tensor, "parameter symmetry"]:
    """Tangents, in flattened weights, of the changes of a toy that change no output.

    With a linear hidden layer and free norms: W_E -> W_E M, W_U -> M^-1 W_U, b_hidden -> b_hidden M, M a rotation
    if tied, any invertible matrix if not; and b_hidden -> b_hidden + v, b_U -> b_U - v W_U.
    """
    zero = {name: torch.zeros_like(w) for name, w in weights.items()}
    tangents: list[dict[str, Tensor]] = []
    if cfg.hidden_act == "identity" and cfg.bottleneck == "embed->unembed":
        rotations_only = cfg.tied or bool(cfg.unit_norm)
        eye = torch.eye(cfg.d_hidden, dtype=weights["W_E"].dtype)
        pairs = combinations(eye, 2) if rotations_only else ((i, j) for i in eye for j in eye)
        for i, j in pairs:
            M = torch.outer(i, j) - torch.outer(j, i) if rotations_only else torch.outer(i, j)
            change = {"W_E": weights["W_E"] @ M}
            if "W_U" in weights:
                change["W_U"] = -M @ weights["W_U"]
            if "b_hidden" in weights:
                change["b_hidden"] = weights["b_hidden"] @ M
            tangents.append(zero | change)
        if "b_hidden" in weights and "b_U" in weights:
            W_U = weights["W_E"].mT if cfg.tied else weights["W_U"]
            scale = weights.get("scale", torch.ones((), dtype=W_U.dtype))
            tangents += [zero | {"b_hidden": v, "b_U": -scale * v @ W_U} for v in eye] if not cfg.unit_norm else []
    n_parameters = sum(w.numel() for w in weights.values())
    columns = [torch.cat([t.flatten() for t in tangent.values()]) for tangent in tangents]
    return torch.stack(columns, dim=1) if columns else weights["W_E"].new_zeros(n_parameters, 0)


def unflatten(theta: Float[Tensor, " parameter"], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Named weights from one vector."""
    parts = theta.split([shape.numel() for shape in shapes.values()])
    return {name: part.reshape(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}


def _gradient(loss: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(loss(theta), theta)[0]


def _hessian(loss: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    hessian: Tensor = torch.autograd.functional.hessian(loss, theta.detach(), vectorize=True)  # rows in one pass
    return (hessian + hessian.mT) / 2


def _feature_share(direction: Weights, cfg: ToyConfig) -> Float[Tensor, " feature"]:
    """How much of a direction in weight space is change of each feature's own weights."""
    share = direction["W_E"].square().sum(1)
    for name in ("W_U", "b_U"):
        if name in direction and direction[name].shape[-1] == cfg.n_features:
            share = share + direction[name].square().reshape(-1, cfg.n_features).sum(0)
    return share
