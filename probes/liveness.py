"""Which hook points can tell us anything: those that fire, and those whose activation the output depends on.

A hook on a dead point does nothing, without an error: the model never calls it, or computes an activation there that
nothing reads. A patch there would look like a part of the model that does not matter. So every tool that patches asks
`require_live` first. A point is live if the output has a gradient there other than zero or, where gradients say
nothing (indices, masks, rounding), if another activation changes any bit of the output.
"""

import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from difflib import get_close_matches
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from probes.hooked import (
    HookedModel,
    adding_zeros,
    check_hooks,
    hook_points,
    output_tensors,
    recording,
    temporary_hooks,
)
from probes.names import block_of


def audit_hooks(model: HookedModel, inputs: Any, hooks: str | Iterable[str] | None = None) -> pd.DataFrame:
    """Which hook points fire on `inputs`, and which are live: does changing them change the output?

    >>> from probes.transformers import load_transformer
    >>> hooks = ["blocks.0.attn.hook_q", "blocks.0.attn.hook_attn_scores"]
    >>> audit_hooks(load_transformer("tiny"), torch.tensor([[1, 2, 3]]), hooks)
                                    fires   live         shape
    hook
    blocks.0.attn.hook_q             True   True  (1, 3, 4, 16)
    blocks.0.attn.hook_attn_scores   True  False  (1, 4, 3, 3)

    One row per name, of all hooks if none are named, with the `shape` of the activation (None if it is no tensor). The
    answer is about these inputs, for which a few examples will do: a gate that they leave shut hides what is behind it.

    Raises:
        ValueError: two runs on the same inputs differ (dropout is on).
    """
    with warnings.catch_warnings():
        # a bridge warns of edits that it discards or takes a slower path for: the table says which are in vain
        warnings.filterwarnings("ignore", category=UserWarning, module="transformer_lens")
        points = hook_points(model)
        names = list(points) if hooks is None else check_hooks(model, hooks)
        own_names = [points[name].name for name in names]  # a bridge has several names for one point
        with torch.no_grad():
            fired = _fired(model, inputs, set(own_names))
            fired |= _fired_once_hooked(model, inputs, set(own_names) - fired)
            with recording(
                model, fired, lambda value: tuple(value.shape) if isinstance(value, Tensor) else None
            ) as shapes:
                model(inputs)
            reference = output_tensors(model(inputs))  # without hooks, for which a bridge may take another path
            if _differ(reference, output_tensors(model(inputs))):
                raise ValueError("two runs on the same inputs differ: liveness needs determinism; call model.eval()")
        with_tensors = [name for name, shape in shapes.items() if shape is not None]
        live = _with_gradient(model, inputs, with_tensors)
        with torch.no_grad():
            for name in set(with_tensors) - live:
                with temporary_hooks(model, [(name, lambda value, hook: _other_value(value))]):
                    if _differ(reference, output_tensors(model(inputs))):
                        live.add(name)
    rows = [(name in fired, name in live, shapes.get(name)) for name in own_names]
    return pd.DataFrame(rows, columns=["fires", "live", "shape"], index=pd.Index(names, name="hook"))


def require_live(model: HookedModel, inputs: Any, hooks: str | Iterable[str]) -> None:
    """Raise unless changing any of these hooks changes the output.

    Raises:
        KeyError: an unknown name.
        ValueError: a hook that does not fire, or fires in vain; the message names the live hooks around it.
    """
    for name, row in audit_hooks(model, inputs, hooks).iterrows():
        if not row["live"]:
            what = "fires in vain: changing it does not change the output" if row["fires"] else "does not fire"
            block = block_of(str(name))
            near = audit_hooks(model, inputs, [n for n in hook_points(model) if block in (None, block_of(n))])
            around = get_close_matches(str(name), [str(n) for n in near.index[near["live"]]], n=5, cutoff=0.0)
            raise ValueError(
                f"hook {name!r} {what} on these inputs; live hooks around it: {', '.join(around) or 'none'}"
            )


def _fired(model: HookedModel, inputs: Any, own_names: set[str]) -> set[str]:
    """Points that are called, found by plain torch hooks: a bridge refuses its own where they are switched off."""
    fired: set[str] = set()
    points = {point.name: point for point in hook_points(model).values() if point.name in own_names}
    with ExitStack() as stack:
        for name, point in points.items():
            stack.enter_context(point.register_forward_hook(lambda *_, name=name: fired.add(name)))
        model(inputs)
    return fired


def _fired_once_hooked(model: HookedModel, inputs: Any, names: set[str]) -> set[str]:
    """Points that a model calls only where something is hooked, as a bridge of Granite does."""
    with ExitStack() as stack:
        found = []
        for name in names:
            try:
                found.append(stack.enter_context(recording(model, [name], type)))
            except (RuntimeError, ValueError, NotImplementedError):  # switched off: nothing can be hooked there
                continue
        if found:
            model(inputs)
    return {name for each in found for name in each}


def _with_gradient(model: HookedModel, inputs: Any, names: list[str]) -> set[str]:
    """Points where a random combination of outputs has a gradient: one run with a zero added at each."""
    with torch.enable_grad(), adding_zeros(model, names) as zeros:
        outputs = [out for out in output_tensors(model(inputs)) if out.requires_grad]
    if not outputs or not zeros:
        return set()
    weights = [_noise(out.detach()) for out in outputs]
    gradients = torch.autograd.grad(outputs, list(zeros.values()), weights, allow_unused=True)
    return {name for name, g in zip(zeros, gradients, strict=True) if g is not None and g.isfinite().all() and g.any()}


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
