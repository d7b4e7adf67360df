"""What a toy adds to TransformerLens's `HookedRootModule`: its hooks and caches are like those of a real transformer.

Names are checked before anything runs: a hook that does not exist, or a filter that matches none, would change nothing
without a word. A cache is an `ActivationCache`. And points are found by what they are, not by the name that they carry:
a module that holds the toy gives them names of its own.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities.slice import Slice

from tms_hooks.errors import choice_error, did_you_mean

try:  # its home from transformer-lens 3.x on
    from transformer_lens import HookedRootModule
except ImportError:
    from transformer_lens.hook_points import HookedRootModule  # type: ignore[no-redef]

Direction = Literal["fwd", "bwd"]
Names = str | Iterable[str] | Callable[[str], bool] | None
"""One hook, several, those that a function picks by their names, or all."""
HookFn = Callable[..., Any]
SQUARE = ("hook_attn_scores", "hook_pattern")
"""How names of points end where the query's position is the last axis but one; elsewhere it is the second."""
ReturnType = str | Callable[[Any], Tensor] | None
"""What a call returns: "logits", the output; "loss", the error of the reconstruction; "both"; a function of the output;
or None, nothing.

That error is squared, summed over features, and a mean over samples: a toy does not know what else it was trained on.
"""


class HookedToy(HookedRootModule):
    """Hooks, caches and `return_type` of a toy. A subclass sets `cfg`, defines `forward` and calls `setup()` last."""

    cfg: Any

    def __call__(self, x: Tensor, /, *more: Any, return_type: ReturnType = "logits", **options: Any) -> Any:
        """Run the model; what a subclass's `forward` takes besides `x` is handed on."""
        return _returned(super().__call__(x, *more, **options), x, return_type)

    def run_with_hooks(  # type: ignore[override]  # a toy takes at least its inputs
        self, x: Tensor, *more: Any, return_type: ReturnType = "logits", **options: Any
    ) -> Any:
        """Run the model with `fwd_hooks` and `bwd_hooks`, each a list of (names, function); see `hooks`.

        To have backward hooks act, let them outlive the call: `reset_hooks_end=False`, or the context `hooks`.
        """
        return _returned(super().run_with_hooks(x, *more, **options), x, return_type)

    def run_with_cache(  # type: ignore[override]
        self,
        x: Tensor,
        *more: Any,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        names_filter: Names = None,
        pos_slice: Any = None,
        incl_bwd: bool = False,
        return_type: ReturnType = "logits",
        device: Any = None,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **options: Any,
    ) -> tuple[Any, Any]:
        """Output, and every activation on the way in an `ActivationCache` (or a dictionary).

        Args:
            x, more, options: what `forward` takes.
            return_cache_object: False for a dictionary.
            remove_batch_dim: drop the axis of a single example.
            names_filter: which activations.
            pos_slice: positions to keep: a number (whose axis stays), a range as a tuple, a list.
            incl_bwd: gradients too, as "<name>_grad", of the one number that `return_type` makes: "loss", or a function
                of the output. Like any backward pass it adds to the weights' own `grad`.
            return_type: see `ReturnType`.
            device: of the cache.
            reset_hooks_end, clear_contexts: as in `hooks`.

        Raises:
            KeyError: a name that is none of the hooks'.
            ValueError: a filter that matches nothing; positions of a toy that has none; several examples whose axis
                would be dropped; gradients of an output that is not one number, or with gradients switched off.
        """
        if remove_batch_dim and len(x) != 1:
            raise ValueError(f"remove_batch_dim=True with {len(x)} examples: it drops the axis of a single one")
        if incl_bwd and not torch.is_grad_enabled():
            raise ValueError("incl_bwd=True, and gradients are off: leave torch.no_grad() or torch.inference_mode()")
        cache, fwd, bwd = self.get_caching_hooks(names_filter, incl_bwd, device, remove_batch_dim, None, pos_slice)
        with self.hooks(fwd, bwd, reset_hooks_end=reset_hooks_end, clear_contexts=clear_contexts):
            out = self(x, *more, return_type=return_type, **options)
            if incl_bwd:
                if not isinstance(out, Tensor) or out.numel() != 1:
                    raise ValueError(
                        f"incl_bwd=True with return_type={return_type!r}: gradients are those of one number; use "
                        "return_type='loss' or a function of the output"
                    )
                out.backward()
        return out, ActivationCache(cache, self, has_batch_dim=not remove_batch_dim) if return_cache_object else cache

    def get_caching_hooks(
        self,
        names_filter: Names = None,
        incl_bwd: bool = False,
        device: Any = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
        pos_slice: Any = None,
    ) -> tuple[dict[str, Tensor], list[tuple[str, HookFn]], list[tuple[str, HookFn]]]:
        """A cache that is still empty, and the hooks, forward and backward, that fill it."""
        cache = {} if cache is None else cache

        def save(key: str, name: str, value: Tensor, hook: Any) -> None:
            kept = value.detach().to(device)
            if pos_slice is not None:
                if kept.ndim < 3:
                    what = f"{name!r} of shape {tuple(kept.shape)}"
                    raise ValueError(f"pos_slice={pos_slice!r}: {what} has no positions; leave it out")
                kept = Slice.unwrap(pos_slice).apply(kept, dim=-2 if name.endswith(SQUARE) else 1)
            cache[key] = kept[0] if remove_batch_dim and len(kept) == 1 else kept

        names = self._names(names_filter)
        return (
            cache,
            [(name, partial(save, name, name)) for name in names],
            [(name, partial(save, f"{name}_grad", name)) for name in names if incl_bwd],
        )

    def add_caching_hooks(self, *args: Any, **options: Any) -> dict[str, Tensor]:
        """Hook the model so that each run fills the cache that is returned, until `reset_hooks()`."""
        cache, fwd, bwd = self.get_caching_hooks(*args, **options)
        for name, hook in fwd:
            self.add_hook(name, hook)
        for name, hook in bwd:
            self.add_hook(name, hook, dir="bwd")
        return cache

    def add_hook(
        self,
        name: Names,
        hook: HookFn,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """Hook these points until `reset_hooks()`; `prepend=True` puts the function before those that are there."""
        for each in self._names(name):
            super().add_hook(each, hook, dir, is_permanent, level, prepend)

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Iterable[tuple[Names, HookFn]] = (),
        bwd_hooks: Iterable[tuple[Names, HookFn]] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator["HookedToy"]:
        """Context in which each function acts at its points, on activations (forward) or their gradients (backward).

        Args:
            fwd_hooks, bwd_hooks: (names, function) pairs; names are one, several, or what a function picks.
            reset_hooks_end: whether the functions are gone afterwards. Those that were there before stay in any case.
            clear_contexts: whether the points forget their `ctx`.

        Raises:
            KeyError: a name that is none of the hooks'.
            ValueError: names that match nothing.
        """
        directed: list[tuple[Direction, Iterable[tuple[Names, HookFn]]]] = [("fwd", fwd_hooks), ("bwd", bwd_hooks)]
        wanted = [(name, fn, to) for to, pairs in directed for names, fn in pairs for name in self._names(names)]
        added: list[tuple[HookPoint, str, Any]] = []
        self.context_level += 1
        try:
            for name, fn, to in wanted:
                point = self.hook_dict[name]
                point.add_hook(fn, dir=to, level=self.context_level)
                added.append((point, f"{to}_hooks", getattr(point, f"{to}_hooks")[-1]))
            yield self
        finally:
            self.context_level -= 1
            for point, place, handle in added if reset_hooks_end else ():
                handle.hook.remove()
                setattr(point, place, [other for other in getattr(point, place) if other is not handle])
            if clear_contexts:
                self.clear_contexts()

    def _names(self, names: Names) -> list[str]:
        """The hooks that are meant, each known to exist; at least one."""
        if isinstance(names, str) or not (names is None or callable(names)):
            asked = [names] if isinstance(names, str) else list(names)
            for name in asked:
                if name not in self.hook_dict:
                    raise KeyError(f"no hook {name!r}; {did_you_mean(name, self.hook_dict)}")
        else:
            asked = [name for name in self.hook_dict if names is None or names(name)]
        if not asked:
            raise ValueError(f"the names match no hook: {did_you_mean('', self.hook_dict)}")
        return asked

    def _apply(self, fn: Any, recurse: bool = True) -> "HookedToy":
        """Move or cast the weights, and let `cfg.device` say where they are."""
        super()._apply(fn, recurse)
        self.cfg = copy(self.cfg)  # frozen, and shared with other models
        object.__setattr__(self.cfg, "device", str(next(self.parameters()).device))
        return self


def _returned(out: Any, x: Tensor, return_type: ReturnType) -> Any:
    if return_type is None or return_type == "logits":
        return out if return_type else None
    if callable(return_type):
        return return_type(out)
    if return_type not in ("loss", "both"):
        raise choice_error("return_type", return_type, ("logits", "loss", "both", "None", "a function of the output"))
    made = getattr(out, "reconstruction", out)
    if made.shape != x.shape:
        raise ValueError(
            f"return_type={return_type!r} is the error of a reconstruction, and an output of shape {tuple(made.shape)} "
            f"is none of inputs of shape {tuple(x.shape)}; give a function of the output"
        )
    loss = (made - x).square().sum(-1).mean()
    return loss if return_type == "loss" else (out, loss)
