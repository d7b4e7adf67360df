"""Whether what a tool reads off the weights is what the model does with them.

The tools believe things of a model: that its queries meet its keys in x_query Omega x_key, turned as a rotary embedding
turns them; that what an MLP writes reaches the residual stream as it is. On another architecture a clip, a cap, a norm
or a multiplier stands between, and nothing in the weights says so. So each belief is tried on a few random inputs: the
model runs, its own activations are compared with what the weights give, and what they do not reproduce is refused. A
constant factor (a scale, a multiplier) and a constant (a bias) are found on the way.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.activations import stop_after
from probes.given import as_batch
from probes.hooked import HookedModel, output_tensors, recording, require_examples
from probes.liveness import require_repeatable

TOLERANCE = 1e-4
"""Largest difference from the model's own activations, relative to them; arithmetic in half precision has more."""

_EXAMPLES, _POSITIONS = 4, 7
_STEPS = 50  # of Gauss-Newton: with a cap the scores are not linear in the scale
_SMALLEST = 1e-30  # probabilities below this are not compared: their logarithms have lost their digits


class Observed(NamedTuple):
    """One run of a model on random or given inputs."""

    inputs: Any
    at: dict[str, Tensor]
    """Activations, in float64, of those hooks that exist and fired."""
    out: Tensor
    precision: float
    """What two correct computations may differ by, relative to what they compute."""


def observe(model: HookedModel, hooks: Iterable[str], inputs: Any = None) -> Observed:
    """Run the model, on random tokens or features if no inputs are given.

    Raises:
        ValueError: the model takes neither, no inputs, an output that is NaN, or one that differs from run to run
            (dropout): nothing can be compared with it.
    """
    inputs = as_batch(model, inputs)
    require_examples(inputs, model)
    names = [name for name in hooks if name in model.hook_dict]
    failed: Exception | None = None
    for given in [inputs] if inputs is not None else _random_inputs(model):
        try:
            with torch.no_grad(), recording(model, names) as found:
                out = output_tensors(model(given, **stop_after(model, names)))[0]
        except Exception as error:
            if inputs is not None:
                raise
            failed = error
            continue
        require_repeatable(model, given)
        if out.isnan().any():
            what = "random inputs" if inputs is None else "these inputs"
            raise ValueError(f"the {type(model).__name__} gives NaN on {what}: are its weights finite?")
        at = {name: value.double() for name, value in found.items()}
        return Observed(given, at, out.detach().double(), max(map(precision, found.values()), default=TOLERANCE))
    kind = type(model).__name__
    raise ValueError(f"{kind} takes neither random tokens nor random features ({failed}): give inputs=") from failed


def precision(value: Tensor) -> float:
    """What two correct computations of an activation may differ by, relative to it: more in half precision."""
    return max(TOLERANCE, 8 * torch.finfo(value.dtype).eps) if value.is_floating_point() else TOLERANCE


def _random_inputs(model: Any) -> list[Tensor]:
    """Tokens of the model's vocabulary, and features for a toy."""
    W_E = getattr(model, "W_E", None)
    if W_E is None:
        raise ValueError(f"{type(model).__name__} has no W_E to say which inputs it takes: give inputs=")
    n, device = len(W_E), W_E.device
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(min(3, n - 1), n, (_EXAMPLES, _POSITIONS), generator=generator)  # no padding among them
    features = torch.rand(_EXAMPLES, _POSITIONS, n, generator=generator)
    return [tokens.to(device), features.to(W_E), features.flatten(0, 1).to(W_E)]


class Fit(NamedTuple):
    """A head's own scores as `scale * form + bias`, or a soft cap of the product plus bias."""

    scale: float
    """NaN if every score is the same."""
    bias: Float[Tensor, "query key"]
    """What depends on the positions alone; minus each query's mean where only the pattern is known; 0 if there is no
    need of it."""
    error: float
    """What is left over, relative to the scores; infinite where fewer than two numbers were compared, of which a scale
    fits one."""


def fit_scores(
    form: Float[Tensor, "batch query key"],
    judged: Float[Tensor, "batch query key"],
    seen: Bool[Tensor, "batch query key"],
    is_pattern: bool,
    cap: float | None,
    biased: bool,
) -> Fit:
    """How scores come of the bilinear form: `judged` are the scores, or the pattern that is their softmax.

    A softmax does not feel what all keys of a query have in common, so of a pattern only differences within a query
    count. A bias of the positions is what all examples have in common.
    """
    seen = seen & (judged > _SMALLEST) if is_pattern else seen

    def comparable(values: Tensor) -> Tensor:
        return centered(values, seen) if is_pattern else torch.where(seen, values, 0.0)

    def common(values: Tensor) -> Tensor:
        mean = torch.where(seen, values, 0.0).sum(0) / seen.sum(0).clamp_min(1)
        return mean if biased else torch.zeros_like(mean)

    def varying(values: Tensor) -> Tensor:
        return torch.where(seen, values - common(values), 0.0)

    own = comparable(judged.clamp_min(_SMALLEST).log() if is_pattern else judged)
    target, ours = varying(own), varying(comparable(form))
    scale = float((target * ours).sum() / (ours * ours).sum()) if ours.any() else math.nan
    scores = scale * form if ours.any() else torch.zeros_like(form)
    if cap is not None and ours.any():
        for _ in range(_STEPS):
            ratio = (scale * form / cap).tanh()
            scores = cap * ratio
            tangent = varying(comparable(form * (1 - ratio**2)))
            scale += float((tangent * (target - varying(comparable(scores)))).sum() / (tangent * tangent).sum())
    left = own - comparable(scores)
    # what float32 makes of differences below the last digit of a logarithm near 1 is no difference
    error = varying(left).norm() / (target.norm() + 1e-6 * seen.sum().sqrt())
    if form.any() and not _telling(ours, form, seen, is_pattern, biased):
        error = torch.tensor(math.inf)
    return Fit(scale, common(left), float(error))


def _telling(ours: Tensor, form: Tensor, seen: Tensor, is_pattern: bool, biased: bool) -> bool:
    """Whether two numbers or more are compared, of a pattern one less for each query, and the form shows in them."""
    numbers = float((seen.sum(-1) - int(is_pattern)).clamp_min(0).sum())
    numbers *= (len(seen) - 1) / len(seen) if biased else 1
    return numbers >= 2 and bool(ours.abs().max() > 1e-5 * form.abs().max())


def centered(values: Tensor, where: Tensor) -> Tensor:
    """Minus the row's mean over `where`; zero elsewhere."""
    values = torch.where(where, values, 0.0)
    return torch.where(where, values - values.sum(-1, keepdim=True) / where.sum(-1, keepdim=True).clamp_min(1), 0.0)


def multiplier(made: Float[Tensor, "row width"], own: Float[Tensor, "row width"], precision: float) -> float | None:
    """The factor m with which `own = m * made + constant` in every row; None if there is none.

    >>> made = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    >>> multiplier(made, 3 * made + 5, precision=1e-3)
    3.0
    >>> multiplier(made, made**2, precision=1e-3) is None
    True
    """
    if not made.any():
        return None if (own - own.mean(0)).any() else 1.0
    if (made != made[0]).any():  # of rows that are all the same no constant can be told apart
        made, own = made - made.mean(0), own - own.mean(0)
    factor = float((made * own).sum() / (made * made).sum())
    if factor == 0 or not (own - factor * made).norm() <= precision * own.norm():
        return None
    return 1.0 if abs(factor - 1) <= 0.1 * precision else factor
