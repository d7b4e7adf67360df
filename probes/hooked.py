"""What every tool asks of a model: named hook points. Check names, audit liveness."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from difflib import get_close_matches
from typing import Any, Protocol, cast, runtime_checkable

import pandas as pd
import torch
from torch import Tensor

HookFn = Callable[..., Tensor | None]
"""`fn(value, hook)` returns the value to go on with, or None to leave it; `hook` must be called just that."""


@runtime_checkable
class HookedModel(Protocol):
    """Whatever has these methods: a toy, a `TransformerBridge`, any `HookedRootModule`."""

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Hook points by name. A bridge lists one point under several names (aliases)."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        ...

    def hooks(self, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        """Context with extra hooks, removed at its end."""
        ...

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any:
        """Run once with extra hooks."""
        ...

    def run_with_cache(self, *args: Any, **kwargs: Any) -> Any:
        """Run once and keep the activations."""
        ...


def nearest(name: object, known: Iterable[object]) -> str:
    """The hint at the end of an error: the closest known name, or all of them if none is close.

    >>> nearest("hook_hiden", ["hook_embed", "hook_hidden"])
    "did you mean 'hook_hidden'?"
    >>> nearest("x", ["hook_embed", "hook_hidden"])
    'choose from hook_embed, hook_hidden'
    """
    names = [str(k) for k in known]
    close = get_close_matches(str(name), names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose from {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"


def check_hooks(model: HookedModel, hooks: str | Iterable[str]) -> list[str]:
    """The names asked for, as a list, once each is known to exist; aliases are names like any other.

    Raises:
        KeyError: an unknown name, with the nearest known one.
        ValueError: no name at all.
        TypeError: `model` has no hook points.
    """
    points = _points(model)
    names = [hooks] if isinstance(hooks, str) else list(hooks)
    if not names:
        raise ValueError("hooks is empty: name at least one hook point of model.hook_dict")
    for name in names:
        if name not in points:
            raise KeyError(f"no hook {name!r}; {nearest(name, points)}")
    return names


def temporary_hooks(model: HookedModel, fwd_hooks: Iterable[tuple[str, HookFn]]) -> AbstractContextManager[Any]:
    """`model.hooks(...)` with names checked and each function called once, by whichever name.

    A bridge in compatibility mode calls a function added under an alias twice, once a name: so points are
    addressed by their own name here.
    """
    fwd_hooks = list(fwd_hooks)
    names = check_hooks(model, [name for name, _ in fwd_hooks])
    points = _points(model)
    return model.hooks(fwd_hooks=[(points[name].name, fn) for name, (_, fn) in zip(names, fwd_hooks, strict=True)])


def output_tensors(output: Any) -> list[Tensor]:
    """Every tensor of a model's output: a tensor, a tuple, a mapping such as Hugging Face's, nested or not.

    Raises:
        TypeError: there is none.
    """
    tensors = list(_tensors(output))
    if not tensors:
        kind = type(output).__name__
        raise TypeError(f"the model returned {kind} without a tensor: return a tensor, a tuple or a mapping of them")
    return tensors


def audit_hooks(model: HookedModel, inputs: Any, hooks: str | Iterable[str] | None = None) -> pd.DataFrame:
    """Which hook points fire on `inputs`, and which are live: does changing them change the output?

    >>> from probes.transformers import load_transformer
    >>> hooks = ["blocks.0.attn.hook_q", "blocks.0.attn.hook_attn_scores"]
    >>> audit_hooks(load_transformer("tiny"), torch.tensor([[1, 2, 3]]), hooks)
                                    fires   live         shape
    hook
    blocks.0.attn.hook_q             True   True  (1, 3, 4, 16)
    blocks.0.attn.hook_attn_scores   True  False  (1, 4, 3, 3)

    A point is live if the output has a non-zero gradient there or, failing that, if another value there
    changes any bit of the output. That is relative to the inputs: a gate that they leave shut hides what is
    behind it.

    Args:
        model: any hooked model, in eval mode.
        inputs: what the model takes: a few examples will do.
        hooks: names to audit; all of them if not given.

    Returns:
        One row a name: `fires`, `live` and the `shape` of the value that a hook sees (None if no tensor).

    Raises:
        ValueError: two runs on the same inputs differ (dropout is on).
    """
    with warnings.catch_warnings():
        # a bridge warns of edits that it discards or takes a slower path for: the table tells which are in vain
        warnings.filterwarnings("ignore", category=UserWarning, module="transformer_lens")
        return _audit(model, inputs, list(_points(model)) if hooks is None else check_hooks(model, hooks))


def _audit(model: HookedModel, inputs: Any, names: list[str]) -> pd.DataFrame:
    points = _points(model)
    own_names = {points[name].name for name in names}
    with torch.no_grad():
        fired = _fired(model, inputs, {point.name: point for point in points.values() if point.name in own_names})
        shapes = _shapes(model, inputs, fired)
        reference = output_tensors(model(inputs))
        if _differ(reference, output_tensors(model(inputs))):
            raise ValueError("two runs on the same inputs differ: liveness needs determinism; call model.eval()")
    live = _with_gradient(model, inputs, list(shapes))
    with torch.no_grad():
        live |= {name for name in shapes if name not in live and _noise_shows(model, inputs, name, reference)}
    rows = [(points[n].name in fired, points[n].name in live, shapes.get(points[n].name)) for n in names]
    return pd.DataFrame(rows, columns=["fires", "live", "shape"], index=pd.Index(names, name="hook"))


def require_live(model: HookedModel, inputs: Any, hooks: str | Iterable[str]) -> list[str]:
    """The names asked for, once each is known to change the output; every patching tool calls this first.

    Raises:
        KeyError: an unknown name.
        ValueError: a hook that does not fire, or fires in vain; the message names the live hooks around it.
    """
    names = check_hooks(model, hooks)
    audit = audit_hooks(model, inputs, names)
    for name, row in audit.iterrows():
        if not row["live"]:
            what = "fires in vain: changing it does not change the output" if row["fires"] else "does not fire"
            around = ", ".join(_live_neighbours(model, inputs, str(name)))
            raise ValueError(f"hook {name!r} {what} on these inputs; live hooks around it: {around}")
    return names


def _points(model: HookedModel) -> Mapping[str, Any]:
    points = getattr(model, "hook_dict", None)
    if not points:
        raise TypeError(f"{type(model).__name__} has no hook points: end its __init__ with self.setup()")
    return cast(Mapping[str, Any], points)


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from _tensors(tuple(output.values()))
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)


def _fired(model: HookedModel, inputs: Any, points: Mapping[str, Any]) -> set[str]:
    """Points that are called. By plain torch hooks: a bridge refuses its own where they are switched off."""
    fired: set[str] = set()
    handles = [p.register_forward_hook(lambda *_, name=name: fired.add(name)) for name, p in points.items()]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return fired


def _shapes(model: HookedModel, inputs: Any, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Shape of the value at each point that holds a tensor."""
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(name: str) -> HookFn:
        def hook_fn(value: Any, hook: Any) -> None:
            if isinstance(value, Tensor):
                shapes[name] = tuple(value.shape)

        return hook_fn

    with model.hooks(fwd_hooks=[(name, keep(name)) for name in names]):
        model(inputs)
    return shapes


def _with_gradient(model: HookedModel, inputs: Any, names: Iterable[str]) -> set[str]:
    """Points where a random combination of outputs has a gradient: one run with a zero added at each."""
    zeros: dict[str, Tensor] = {}

    def add_zero(name: str) -> HookFn:
        def hook_fn(value: Tensor, hook: Any) -> Tensor | None:
            if not value.is_floating_point():
                return None
            zeros[name] = torch.zeros_like(value, requires_grad=True)
            return value + zeros[name]

        return hook_fn

    with torch.enable_grad(), model.hooks(fwd_hooks=[(name, add_zero(name)) for name in names]):
        outputs = [out for out in output_tensors(model(inputs)) if out.requires_grad]
    if not outputs or not zeros:
        return set()
    weights = [_noise(out.detach()) for out in outputs]
    gradients = torch.autograd.grad(outputs, list(zeros.values()), weights, allow_unused=True)
    return {name for name, g in zip(zeros, gradients, strict=True) if g is not None and g.isfinite().all() and g.any()}


def _noise_shows(model: HookedModel, inputs: Any, name: str, reference: list[Tensor]) -> bool:
    with model.hooks(fwd_hooks=[(name, lambda value, hook: _other_value(value))]):
        return _differ(reference, output_tensors(model(inputs)))


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


def _live_neighbours(model: HookedModel, inputs: Any, name: str) -> list[str]:
    """Up to five live hooks of the same block, or of the whole model, nearest in name first."""
    block = ".".join(name.split(".")[:2]) + "."
    everything = list(_points(model))
    near = [n for n in everything if n.startswith(block)] or everything
    audit = audit_hooks(model, inputs, near)
    live = [str(n) for n in audit.index[audit["live"]]]
    return get_close_matches(name, live, n=5, cutoff=0.0) or ["none"]
