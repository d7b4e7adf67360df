"""Which hook points can tell us anything: those that fire, and those whose activation the output depends on.

A hook on a dead point does nothing, without an error: the model never calls it, or computes an activation there that
nothing reads. A patch there would look like a part of the model that does not matter. So every tool that patches asks
`require_live` first. A point is live if the output has a gradient there other than zero or, where gradients say
nothing (indices, masks, rounding), if another activation changes any bit of the output.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from difflib import get_close_matches
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from probes.given import as_batch
from probes.hooked import (
    HookedModel,
    adding_zeros,
    check_hooks,
    hook_points,
    output_tensors,
    own_name,
    recording,
    require_examples,
    temporary_hooks,
)
from probes.names import block_of

ENTRIES_AT_ONCE = 2**27
"""Of activations to each of which something is added in one run: with their gradients they are two gigabytes or so."""


def audit_hooks(model: HookedModel, inputs: Any, hooks: str | Iterable[str] | None = None) -> pd.DataFrame:
    """Which hook points fire on `inputs`, and which are live: does changing them change the output?

    >>> from probes.transformers import load_transformer
    >>> hooks = ["blocks.0.attn.hook_q", "blocks.0.attn.hook_attn_scores"]
    >>> audit_hooks(load_transformer("tiny"), torch.tensor([[1, 2, 3]]), hooks)
                                    fires   live         shape error
    hook
    blocks.0.attn.hook_q             True   True  (1, 3, 4, 16)  None
    blocks.0.attn.hook_attn_scores   True  False  (1, 4, 3, 3)  None

    One row per name, of all hooks if none are named, with the `shape` of the activation (None if it is no tensor) and
    the `error` that the model raises if something is hooked there (None where it raises none). The answer is about
    these inputs, for which a few examples will do: a gate that they leave shut hides what is behind it.

    Raises:
        ValueError: no inputs; two runs on the same inputs differ (dropout is on); the output is NaN somewhere.
    """
    inputs = as_batch(model, inputs)
    require_examples(inputs, model)
    with warnings.catch_warnings():
        # a bridge warns of edits that it discards or takes a slower path for: the table says which are in vain
        warnings.filterwarnings("ignore", category=UserWarning, module="transformer_lens")
        points = hook_points(model)
        names = list(points) if hooks is None else check_hooks(model, hooks)
        own_names = [own_name(points, name) for name in names]  # a bridge has several names for one point
        with torch.no_grad():
            fires, errors = _fired(model, inputs, set(own_names))
            hookable = [name for name in dict.fromkeys(own_names) if name not in errors]
            passing, failed = _by_halves(partial(_passing, model, inputs), hookable)
            errors |= failed
            reference = output_tensors(model(inputs))  # without hooks, for which a bridge may take another path
            if _differ(reference, output_tensors(model(inputs))):
                raise ValueError(NOT_REPEATABLE)
        _check_no_nan(
            reference, [name for name, own in zip(names, own_names, strict=True) if passing.get(own, (None, False))[1]]
        )
        with_tensors = [name for name, (shape, _) in passing.items() if shape is not None]
        with_gradient: dict[str, bool] = {}
        for some in _that_fit([(name, math.prod(passing[name][0] or ())) for name in with_tensors]):
            with_gradient |= _by_halves(partial(_with_gradient, model, inputs), some)[0]
        live = {name for name, gradient in with_gradient.items() if gradient}

        def changes(name: list[str]) -> dict[str, bool]:
            with torch.no_grad(), temporary_hooks(model, [(name[0], lambda value, hook: _other_value(value))]):
                return {name[0]: _differ(reference, output_tensors(model(inputs)))}

        for name in [name for name in with_tensors if name not in live]:
            changed, failed = _by_halves(changes, [name])
            errors |= failed
            live |= {name for name, differs in changed.items() if differs}
    index = pd.Index(names, name="hook")
    column = partial(pd.Series, index=index, dtype=object)  # of objects, lest pandas turn None into NaN
    columns = {
        "fires": [name in fires or name in passing for name in own_names],
        "live": [name in live for name in own_names],
        "shape": column([passing[name][0] if name in passing else None for name in own_names]),
        "error": column([errors.get(name) for name in own_names]),
    }
    return pd.DataFrame(columns, index=index)


def apart(output: Any, of_fewer: Any) -> bool:
    """Whether the first examples of an output differ from an output on these alone by more than rounding.

    Matrix products of other sizes round otherwise, and deep models amplify it. What has no axis of examples is left
    out.
    """
    for some, alone in zip(output_tensors(output), output_tensors(of_fewer), strict=True):
        if some.shape[1:] != alone.shape[1:] or not alone.ndim or not alone.is_floating_point():
            continue
        limit = max(1e-3, 8 * torch.finfo(alone.dtype).eps)
        some, alone = (value.double().nan_to_num() for value in (some[: len(alone)], alone))
        if not (some - alone).norm() <= limit * alone.norm():
            return True
    return False


NOT_REPEATABLE = "two runs on the same inputs differ, as they do with dropout: call model.eval()"


def require_repeatable(model: HookedModel, inputs: Any) -> None:
    """Raise if the model is in train mode and that matters: what a tool measures would be noise.

    A model whose parts are all in eval mode is taken to repeat itself; `audit_hooks` tries.

    Raises:
        ValueError: no inputs; two runs on them differ (dropout); batch norms that mix the examples of a batch.
    """
    require_examples(inputs, model)
    training = [part for part in model.modules() if part.training] if isinstance(model, nn.Module) else []
    if norms := [type(part).__name__ for part in training if isinstance(part, nn.modules.batchnorm._BatchNorm)]:
        raise ValueError(f"{norms[0]} in train mode mixes the examples of a batch: call model.eval()")
    if training:
        with torch.no_grad():
            if _differ(output_tensors(model(inputs)), output_tensors(model(inputs))):
                raise ValueError(NOT_REPEATABLE)


def require_live(model: HookedModel, inputs: Any, hooks: str | Iterable[str]) -> None:
    """Raise unless changing any of these hooks changes the output.

    Raises:
        KeyError: an unknown name.
        ValueError: a hook that does not fire, or fires in vain; the message names the live hooks around it.
    """
    for name, row in audit_hooks(model, inputs, hooks).iterrows():
        if not row["live"]:
            what = "fires in vain: changing it does not change the output" if row["fires"] else "does not fire"
            if row["error"] is not None:
                what = f"{'breaks the model if hooked' if row['fires'] else 'does not fire'} ({row['error']})"
            block = block_of(str(name))
            near = audit_hooks(model, inputs, [n for n in hook_points(model) if block in (None, block_of(n))])
            around = get_close_matches(str(name), [str(n) for n in near.index[near["live"]]], n=5, cutoff=0.0)
            raise ValueError(
                f"hook {name!r} {what} on these inputs; live hooks around it: {', '.join(around) or 'none'}"
            )


def _that_fit(sizes: Iterable[tuple[str, int]]) -> list[list[str]]:
    """Consecutive names, in groups whose sizes sum to no more than fits; what is larger by itself is alone."""
    groups, room = list[list[str]](), 0
    for name, size in sizes:
        if not groups or size > room:
            groups.append([])
            room = ENTRIES_AT_ONCE
        groups[-1].append(name)
        room -= size
    return groups


def _fired(model: HookedModel, inputs: Any, own_names: set[str]) -> tuple[set[str], dict[str, str]]:
    """Points that are called, found by plain torch hooks, and why others refuse hooks of the model's own."""
    points, fired, refused = hook_points(model), set[str](), dict[str, str]()
    with ExitStack() as stack:
        for name in own_names:
            stack.enter_context(points[name].register_forward_hook(lambda *_, name=name: fired.add(name)))
        model(inputs)
    for name in own_names - fired:
        try:
            with temporary_hooks(model, [(name, lambda value, hook: None)]):
                continue
        except (RuntimeError, ValueError, NotImplementedError) as error:  # a bridge's, where they are switched off
            refused[name] = _told(error)
    return fired, refused


def _by_halves(
    attempt: Callable[[list[str]], Mapping[str, Any]], names: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """`attempt` on all names at once or, where one of them breaks the run, on halves: results, and errors, by name."""
    if not names:
        return {}, {}
    try:
        return dict(attempt(names)), {}
    except Exception as error:  # whatever a model raises when something is hooked is the answer for that hook
        if len(names) == 1:
            return {}, {names[0]: _told(error)}
    found, errors = dict[str, Any](), dict[str, str]()
    for half in (names[: len(names) // 2], names[len(names) // 2 :]):
        some, failed = _by_halves(attempt, half)
        found |= some
        errors |= failed
    return found, errors


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _passing(model: HookedModel, inputs: Any, names: list[str]) -> dict[str, tuple[tuple[int, ...] | None, bool]]:
    """Shape of what passes at each point that fires, in order, and whether it is NaN anywhere; None for no tensor."""

    def keep(value: Any) -> tuple[tuple[int, ...] | None, bool]:
        return (tuple(value.shape), bool(value.isnan().any())) if isinstance(value, Tensor) else (None, False)

    with recording(model, names, keep) as found:
        model(inputs)
    return found


def _check_no_nan(outputs: list[Tensor], nan_at: list[str]) -> None:
    if n_nan := sum(int(out.isnan().sum()) for out in outputs):
        n, where = sum(out.numel() for out in outputs), f"at hooks {', '.join(nan_at[:4])}" if nan_at else "at no hook"
        raise ValueError(f"{n_nan} of the {n} outputs are NaN, {where}: a change would not show; give inputs without")


def _with_gradient(model: HookedModel, inputs: Any, names: list[str]) -> dict[str, bool]:
    """Whether a random combination of outputs has a gradient there: one run with a zero added at each point."""
    with torch.enable_grad(), adding_zeros(model, names) as zeros:
        outputs = [out for out in output_tensors(model(inputs)) if out.requires_grad]
    if not outputs or not zeros:
        return {}
    weights = [_noise(out.detach()) for out in outputs]
    gradients = torch.autograd.grad(outputs, list(zeros.values()), weights, allow_unused=True)
    return {
        name: g is not None and bool(g.isfinite().all() and g.any()) for name, g in zip(zeros, gradients, strict=True)
    }


def _other_value(value: Tensor) -> Tensor:
    """A random value that the model can digest: an index stays in the range seen, a mask is inverted."""
    if value.dtype == torch.bool:
        return ~value
    if not value.is_floating_point():
        largest = int(value.max())
        return torch.where(value == largest, 0 if largest else 1, largest).to(value.dtype)
    return value + (1 + value.abs().median()) * _noise(value)


def _noise(like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(like.shape, generator=generator).to(like.device, like.dtype)


def _differ(a: list[Tensor], b: list[Tensor]) -> bool:
    return not all(torch.allclose(x, y, rtol=0, atol=0, equal_nan=True) for x, y in zip(a, b, strict=True))
