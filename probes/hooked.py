"""What every tool asks of a model, and the three ways in which a tool reaches into it.

A hook point is a named place in a model. A function that is hooked there sees each activation that passes and may
return another in its stead. The tools of this package see a model through that alone, so a toy and a real transformer
are the same to them. They read activations with `recording`, differentiate with respect to them with `adding_zeros`
and replace them with `temporary_hooks`; all three leave the model as it was, also after an exception.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

HookFn = Callable[..., Tensor | None]
"""`fn(value, hook)` returns the value to go on with, or None to leave it; the parameter must be named `hook`."""


@runtime_checkable
class HookedModel(Protocol):
    """A toy, a `TransformerBridge`, any `HookedRootModule`: whatever has these three members.

    A plain `torch.nn.Module` gets them from `probes.hook_modules`.
    """

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Hook points by name, each a module with a `name`. A bridge lists one point under several names (aliases)."""
        ...

    def hooks(self, fwd_hooks: list[Any]) -> AbstractContextManager[Any]:
        """Context in which each `(name, HookFn)` acts."""
        ...

    def __call__(self, inputs: Any, /, **options: Any) -> Any:
        """Run the model."""
        ...


def nearest(name: object, known: Iterable[object]) -> str:
    """The hint at the end of an error: the closest known name, or all of them if none is close.

    >>> nearest("hook_hiden", ["hook_embed", "hook_hidden"])
    "did you mean 'hook_hidden'?"
    >>> nearest("x", ["hook_embed", "hook_hidden"])
    'choose from hook_embed, hook_hidden'
    """
    names = [str(k) for k in known]
    begins = [k for k in names if len(k) > 2 and str(name).startswith(k)]  # "position", of "pos"
    if close := get_close_matches(str(name), names, n=1) or begins:
        return f"did you mean {close[0]!r}?"
    return f"choose from {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"


def hook_points(model: HookedModel) -> Mapping[str, Any]:
    """The model's hook points by name; TypeError if it has none."""
    require_data(model)
    points = getattr(model, "hook_dict", None)
    if not points:
        plain = isinstance(model, nn.Module) and not hasattr(model, "hooks")
        remedy = "take probes.hook_modules(model, names)" if plain else "end its __init__ with self.setup()"
        raise TypeError(f"{type(model).__name__} has no hook points: {bridged(model) or remedy}")
    return cast(Mapping[str, Any], points)


def bridged(model: Any) -> str:
    """How a model of the library transformers becomes a hooked one; empty for any other."""
    if not (isinstance(model, nn.Module) and type(model).__module__.startswith("transformers.")):
        return ""
    name = type(model).__name__
    return (
        "take transformer_lens.model_bridge.sources.build_bridge_from_module("
        f"model, {name!r}, hf_config=model.config), or probes.hook_modules(model, names)"
    )


def require_data(model: Any) -> None:
    """Raise if the model's weights are on the meta device: shapes without numbers."""
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if weight is not None and weight.is_meta:
        raise ValueError(f"the weights of this {type(model).__name__} are on the meta device, without data: load them")


def require_examples(inputs: Any, model: Any = None) -> None:
    """Raise if there is nothing to run on, or tokens that the model does not have."""
    if isinstance(inputs, Tensor) and not inputs.numel():
        raise ValueError(
            f"inputs is empty: its shape is {tuple(inputs.shape)}; give at least one example, of at least one position"
        )
    if isinstance(inputs, list | tuple | str) and not inputs:
        raise ValueError("inputs is empty: give at least one example")
    known = getattr(getattr(model, "cfg", None), "d_vocab", 0)
    if isinstance(inputs, Tensor) and hasattr(model, "to_tokens") and inputs.ndim == 2 and known > 0:
        if inputs.is_floating_point() and not getattr(model.cfg, "is_audio_model", False):
            raise TypeError(
                f"inputs are {inputs.dtype}, and this model takes tokens, whole numbers from 0 to {known - 1}: give "
                "inputs.long() if they are that, or text"
            )
        if not inputs.is_floating_point() and (inputs.min() < 0 or inputs.max() >= known):
            raise ValueError(f"inputs has tokens {inputs.min()} to {inputs.max()}: this model's are 0 to {known - 1}")


def own_name(points: Mapping[str, Any], name: str) -> str:
    """The name by which the model addresses the point that is called `name`, which may be one of several aliases.

    It is the point's own, unless a module that holds the model has given its points names for itself.
    """
    own = points[name].name
    return own if points.get(own) is points[name] else name


def check_hooks(model: HookedModel, hooks: str | Iterable[str]) -> list[str]:
    """The names in `hooks` as a list, once each is known to exist; aliases are names like any other."""
    points = hook_points(model)
    names = [hooks] if isinstance(hooks, str) else list(hooks)
    if not names:
        raise ValueError("hooks is empty: name at least one hook point of model.hook_dict")
    for name in names:
        if name not in points:
            raise KeyError(f"no hook {name!r}; {nearest(name, points)}")
    return names


def temporary_hooks(model: HookedModel, fwd_hooks: Iterable[tuple[str, HookFn]]) -> AbstractContextManager[Any]:
    """`model.hooks(...)` with names checked and each function called once, by whichever name.

    A bridge in compatibility mode calls a function that was added under an alias twice, once per name: so each point
    is addressed by its own name here.
    """
    fwd_hooks, points = list(fwd_hooks), hook_points(model)
    check_hooks(model, [name for name, _ in fwd_hooks] or points)
    return model.hooks(fwd_hooks=[(own_name(points, name), fn) for name, fn in fwd_hooks])


def fires_again(hook: str) -> ValueError:
    """The error where a hook has a second activation in one run."""
    return ValueError(
        f"hook {hook!r} fires more than once in a run, as in a layer that is used again: which of its activations is "
        "meant cannot be said; hook a part that runs once"
    )


@contextmanager
def recording(
    model: HookedModel,
    hooks: Iterable[str],
    keep: Callable[[Any], Any] = lambda value: value.detach().clone(),
    *,
    once: bool = False,
) -> Iterator[dict[str, Any]]:
    """A dictionary that fills as the model runs: hook -> what `keep` makes of the (last) activation there.

    By default that is a copy: a model may go on to change the activation itself in place. With `once` a second
    activation in the same run is refused.
    """
    found: dict[str, Any] = {}

    def record(name: str, value: Any, hook: Any) -> None:
        if once and name in found:
            raise fires_again(name)
        found[name] = keep(value)

    with temporary_hooks(model, [(name, partial(record, name)) for name in dict.fromkeys(hooks)]):
        yield found


@contextmanager
def adding_zeros(model: HookedModel, hooks: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """A dictionary that fills as the model runs: hook -> a zero that is added to the (first) activation there.

    The gradient with respect to that zero is the one with respect to the activation, whichever way the model computes
    it. Hooks without floating-point activations have none. Weights want no gradients meanwhile: for theirs each layer
    would keep what it was given.
    """
    zeros: dict[str, Tensor] = {}

    def add_zero(name: str, value: Any, hook: Any) -> Tensor | None:
        if name in zeros or not value.is_floating_point():
            return None
        zeros[name] = value.new_zeros(()).expand(value.shape).requires_grad_()  # one number, however many there are
        return value + zeros[name]

    weights = [weight for weight in model.parameters() if weight.requires_grad] if isinstance(model, nn.Module) else []
    with temporary_hooks(model, [(name, partial(add_zero, name)) for name in hooks]):
        try:
            for weight in weights:
                weight.requires_grad_(False)
            yield zeros
        finally:
            for weight in weights:
                weight.requires_grad_(True)


def require_gradients(tool: str) -> None:
    """Raise where torch keeps no track of gradients, not even if they are switched on."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            f"{tool} differentiates, and under torch.inference_mode() nothing can be: call it outside, or under "
            "torch.no_grad(), where it switches gradients on itself"
        )


def output_tensors(output: Any) -> list[Tensor]:
    """Every tensor of an output, which may be nested tuples, dicts and the like; TypeError if there is none."""
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    if not tensors:
        kind = type(output).__name__
        raise TypeError(f"the model returned {kind} without a tensor: return a tensor, a tuple or a dict of them")
    return tensors


def blocks(model: Any) -> list[nn.Module]:
    """The model's transformer blocks, in order; none for a model without `blocks`."""
    found = getattr(model, "blocks", None)
    return list(found) if isinstance(found, nn.ModuleList) else []


def bootstrap_draws(n_examples: int, seed: int) -> Int[np.ndarray, "draw example"]:
    """How often each example is in each of 1,000 resamples; percentiles over them make a bootstrap interval."""
    return np.random.default_rng(seed).multinomial(n_examples, np.full(n_examples, 1 / n_examples), size=1000)
