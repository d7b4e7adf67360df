"""Where a model sits on the landscape of its exact expected loss: in a minimum, on a saddle, or nowhere in particular."""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.config import ToyConfig
from tms_hooks.data import Distribution, KHot, SparseUniform
from tms_hooks.geometry import rotate_onto
from tms_hooks.models import forward
from tms_hooks.theory.expected import expected_loss

if TYPE_CHECKING:
    from tms_hooks.models.toy import ToyModel

MAX_FEATURES = 8
"""All 2^n patterns of activity are summed, and twice differentiated."""

Weights = Mapping[str, Tensor]


class CriticalPoint(NamedTuple):
    """A model's place on the landscape; all but `moved` at the polished weights (the given ones if "not critical")."""

    kind: Literal["minimum", "saddle", "not critical"]
    loss: float
    gradient_norm: float
    eigenvalues: Float[Tensor, " mode"]
    """Of the Hessian, ascending, without the directions along which symmetry keeps the loss constant."""
    escape: int | None
    """At a saddle, the feature that moves most along the direction of most negative curvature."""
    moved: float
    """Distance from the given weights to the critical point."""
    weights: dict[str, Tensor]


class LossEstimate(NamedTuple):
    """A sampled loss and its standard error."""

    loss: Tensor
    standard_error: float


def exact_loss(
    weights: Weights, cfg: ToyConfig, data: Distribution, importance: Float[Tensor, " feature"] | None = None
) -> Float[Tensor, ""]:
    """Expected sum_i I_i (x_i - x'_i)^2 without sampling; differentiable twice in the weights.

    Sparse uniform features and k-hot ones with uniform values: a sum over all patterns of activity, for a linear hidden layer and a
    ReLU output. One-hot and binary k-hot ones: a sum over the data set, for any toy without heads.

    Raises:
        ValueError: a distribution or a model whose loss has no such sum, or more than 8 features in a sum over patterns.
    """
    if cfg.n_heads:
        raise ValueError(f"n_heads={cfg.n_heads}: the landscape is that of the reconstruction alone; use a toy without heads")
    dtype = weights["W_E"].dtype
    I = torch.ones(cfg.n_features, dtype=dtype) if importance is None else importance.to(dtype)
    x = data.dataset(dtype)
    if x is not None:
        return (I * (forward.reconstruct(weights, x, cfg)[2] - x).square().mean(0)).sum()
    if not isinstance(data, SparseUniform | KHot):
        raise ValueError(
            f"{type(data).__name__}: exact sums are known for SparseUniform, OneHot and KHot; compare held-out losses instead"
        )
    if cfg.n_features > MAX_FEATURES:
        raise ValueError(
            f"n_features={cfg.n_features}: the sum over all patterns stops at {MAX_FEATURES}; "
            "use estimate_loss, or one-hot data, which is exact for any number"
        )
    logits, bias = affine_logits(weights, cfg)
    if isinstance(data, SparseUniform):
        return expected_loss(logits, bias, data.active_probability().to(dtype), I)
    subsets = torch.tensor(list(combinations(range(data.n_features), data.k)))
    active = torch.zeros(len(subsets), data.n_features, dtype=dtype).scatter_(1, subsets, 1)
    return torch.stack([expected_loss(logits, bias, p, I) for p in active]).mean()


def affine_logits(weights: Weights, cfg: ToyConfig) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, " feature"]]:
    """What each feature adds to the logits, and the logits of an empty input.

    Raises:
        ValueError: the toy is not `relu(x A + b)`.
    """
    if cfg.hidden_act != "identity" or cfg.output_act != "relu" or cfg.d_mlp:
        raise ValueError(
            f"hidden_act={cfg.hidden_act!r}, output_act={cfg.output_act!r}, d_mlp={cfg.d_mlp}: exact expectations over continuous "
            "features need a linear hidden layer, a ReLU output and no MLP; use OneHot or binary KHot data"
        )
    n, dtype = cfg.n_features, weights["W_E"].dtype
    bias = forward.reconstruct(weights, torch.zeros(1, n, dtype=dtype), cfg)[1]
    return forward.reconstruct(weights, torch.eye(n, dtype=dtype), cfg)[1] - bias, bias[0]


def estimate_loss(
    weights: Weights, cfg: ToyConfig, data: SparseUniform, n_samples: int = 2**16, seed: int = 0
) -> LossEstimate:
    """Low-noise loss for any number of sparse uniform features: inputs with none or one active exactly, the others sampled.

    The noise has the weight of two or more active features: it vanishes as p^2. Once differentiable; a second derivative
    would lack the term of the moving kinks.

    Raises:
        ValueError: no sample has two active features; ask for more of them.
    """
    logits, bias = affine_logits(weights, cfg)
    p = data.active_probability().to(bias.dtype)
    none = (1 - p).prod()
    odds = none * p / (1 - p).clamp(min=torch.finfo(p.dtype).tiny)  # chance that this feature alone is active
    one = _one_active(logits, bias) @ odds
    x = data.sample(n_samples, seed=seed, dtype=bias.dtype)
    x = x[(x > 0).sum(1) >= 2]
    more = 1 - none - odds.sum()
    if len(x) < 2:
        raise ValueError(f"n_samples={n_samples}: {len(x)} of them have two active features; draw about {100 / more:.0f}")
    losses = (x - (x @ logits + bias).relu()).square().sum(1)
    loss = none * bias.relu().square().sum() + one + more * losses.mean()
    return LossEstimate(loss, float(more * losses.detach().std() / len(x) ** 0.5))


def critical_point(
    model: "ToyModel",
    data: Distribution,
    importance: Float[Tensor, " feature"] | None = None,
    tolerance: float = 1e-7,
    reach: float = 0.5,
) -> CriticalPoint:
    """Is a trained model in a minimum of the exact expected loss, or on a saddle?

    The weights are polished by Newton steps, in double precision, to the critical point they are near. Directions that no
    loss can see are set aside: rotations of the hidden layer (any invertible map, if untied) and shifts between the biases.
    Flat directions that are left count as those of a minimum. ReLU kinks count as they do in the expectation, which is
    smooth for sparse uniform data unless a feature has no direction and no bias; for one-hot data it is piecewise
    quadratic, and the answer holds within the piece.

    Args:
        model: a toy without heads.
        data: what it was trained on.
        importance: weight of each feature's loss; 1 by default.
        tolerance: gradient norm below which a point is critical.
        reach: a critical point further away than this (in weight space) is not the model's own.

    Raises:
        ValueError: no exact loss for this model and data; see `exact_loss`.
    """
    given = {name: w.detach().double().cpu() for name, w in model.named_parameters()}
    shapes = {name: w.shape for name, w in given.items()}
    start = torch.cat([w.flatten() for w in given.values()])

    def loss(theta: Tensor) -> Tensor:
        return exact_loss(unflatten(theta, shapes), model.cfg, data, importance)

    theta = polish(loss, start, tolerance)
    moved = float((theta - start).norm())
    gradient = _gradient(loss, theta)
    critical = moved <= reach and float(gradient.norm()) <= tolerance
    if not critical:
        theta, gradient = start, _gradient(loss, start)
    weights = unflatten(theta, shapes)
    values, vectors = spectrum(_hessian(loss, theta), symmetry_directions(weights, model.cfg))
    saddle = bool(values[0] < -1e-6 * values.abs().max())
    escape = None
    if critical and saddle:
        escape = int(_feature_share(unflatten(vectors[:, 0], shapes), model.cfg).argmax())
    kind: Literal["minimum", "saddle", "not critical"] = (
        "not critical" if not critical else "saddle" if saddle else "minimum"
    )
    return CriticalPoint(kind, float(loss(theta)), float(gradient.norm()), values, escape, moved, weights)


def polish(
    loss: Callable[[Tensor], Tensor], theta: Float[Tensor, " parameter"], tolerance: float, steps: int = 30
) -> Float[Tensor, " parameter"]:
    """Newton's method for a zero of the gradient, be it a minimum or a saddle; stops where the gradient shrinks no more.

    Directions of no curvature are left alone.
    """
    gradient = _gradient(loss, theta)
    for _ in range(steps):
        if gradient.norm() <= tolerance:
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


def spectrum(
    hessian: Float[Tensor, "parameter parameter"], symmetries: Float[Tensor, "parameter symmetry"]
) -> tuple[Float[Tensor, " mode"], Float[Tensor, "parameter mode"]]:
    """Eigenvalues, ascending, and eigenvectors of a Hessian on the complement of the symmetry directions."""
    U, S, _ = torch.linalg.svd(symmetries, full_matrices=True)
    rank = int((S > 1e-9 * S.amax()).sum()) if S.numel() else 0
    rest = U[:, rank:]
    values, vectors = torch.linalg.eigh(rest.mT @ hessian @ rest)
    return values, rest @ vectors


def symmetry_directions(weights: Weights, cfg: ToyConfig) -> Float[Tensor, "parameter symmetry"]:
    """Tangents, in flattened weights, of the changes of a toy that change no output.

    With a linear hidden layer and free norms: W_E -> W_E M, W_U -> M^-1 W_U, b_hidden -> b_hidden M, M a rotation if tied, any invertible
    matrix if not; and b_hidden -> b_hidden + v, b_U -> b_U - v W_U.
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


def linear_path(
    a: Weights,
    b: Weights,
    cfg: ToyConfig,
    data: Distribution,
    points: int = 21,
    via: Weights | None = None,
    importance: Float[Tensor, " feature"] | None = None,
) -> Float[Tensor, " point"]:
    """Exact loss on the straight way from one solution to the other, or on the curve bent towards `via`.

    Tied models: `b` is first rotated onto `a`, as no loss sees the difference. The curve is the quadratic Bezier curve
    (1-t)^2 a + 2t(1-t) via + t^2 b (Garipov et al. 2018); without `via` its middle is halfway, a straight line.
    """
    start, end = _laid_over(a, b, cfg)
    middle = via or {name: (start[name] + end[name]) / 2 for name in start}
    times = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
    return torch.stack(
        [exact_loss(_bezier(start, middle, end, t), cfg, data, importance).detach() for t in times]
    )


def bend_path(
    a: Weights, b: Weights, cfg: ToyConfig, data: Distribution, points: int = 7, steps: int = 20
) -> dict[str, Tensor]:
    """The middle of a Bezier curve between two solutions that minimises the mean loss along it: what `linear_path` calls `via`.

    A barrier that stays although the path may bend separates the two; one that goes was the straight line's.
    """
    start, end = _laid_over(a, b, cfg)
    middle = {name: ((start[name] + end[name]) / 2).requires_grad_() for name in start}
    times = [(i + 0.5) / points for i in range(points)]
    solver = torch.optim.LBFGS(list(middle.values()), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        mean = torch.stack([exact_loss(_bezier(start, middle, end, t), cfg, data) for t in times]).mean()
        mean.backward()
        return mean

    solver.step(closure)  # type: ignore[arg-type]
    return {name: w.detach() for name, w in middle.items()}


def unflatten(theta: Float[Tensor, " parameter"], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Named weights from one vector."""
    parts = theta.split([shape.numel() for shape in shapes.values()])
    return {name: part.reshape(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}


def _gradient(loss: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(loss(theta), theta)[0]


def _hessian(loss: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    hessian: Tensor = torch.autograd.functional.hessian(loss, theta.detach())  # type: ignore[no-untyped-call, assignment]
    return (hessian + hessian.mT) / 2


def _feature_share(direction: Weights, cfg: ToyConfig) -> Float[Tensor, " feature"]:
    """How much of a direction in weight space is change of each feature's own weights."""
    share = direction["W_E"].square().sum(1)
    for name in ("W_U", "b_U"):
        if name in direction and direction[name].shape[-1] == cfg.n_features:
            share = share + direction[name].square().reshape(-1, cfg.n_features).sum(0)
    return share


def _one_active(
    logits: Float[Tensor, "feature feature"], bias: Float[Tensor, " feature"]
) -> Float[Tensor, " feature"]:
    """Summed loss of all outputs when one feature, uniform on [0, 1], is active: for each feature.

    Where a x + b > 0 on [lo, hi], with m_k = int x^(k-1): E relu^2 = a^2 m3 + 2 a b m2 + b^2 m1 and E x relu = a m3 + b m2.
    """
    kink = (-bias / torch.where(logits == 0, 1.0, logits)).clamp(0, 1)
    lo = torch.where(logits > 0, kink, torch.where((logits == 0) & (bias <= 0), 1.0, 0.0))
    hi = torch.where(logits < 0, kink, 1.0)
    m1, m2, m3 = hi - lo, (hi**2 - lo**2) / 2, (hi**3 - lo**3) / 3
    square = (logits**2 * m3 + 2 * logits * bias * m2 + bias**2 * m1).sum(1)
    return square - 2 * (logits * m3 + bias * m2).diagonal() + 1 / 3


def _laid_over(a: Weights, b: Weights, cfg: ToyConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    start, end = ({name: w.detach().double() for name, w in weights.items()} for weights in (a, b))
    if cfg.tied and "b_hidden" not in end:
        end["W_E"] = rotate_onto(end["W_E"], start["W_E"])
    return start, end


def _bezier(a: Weights, middle: Weights, b: Weights, t: float) -> dict[str, Tensor]:
    return {name: (1 - t) ** 2 * a[name] + 2 * t * (1 - t) * middle[name] + t**2 * b[name] for name in a}
