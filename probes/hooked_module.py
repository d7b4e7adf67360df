"""A plain torch module as a hooked model: `probes.hook_modules` makes it, and imports this file when it does."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from probes.hooked import check_hooks

try:  # its home from transformer-lens 3.x on
    from transformer_lens import HookedRootModule
except ImportError:
    from transformer_lens.hook_points import HookedRootModule  # type: ignore[no-redef]


class HookedModule(HookedRootModule):
    """Somebody's module with hook points on outputs of its submodules; what else it has is found here too.

    The module itself stays as it was: points are put in the way of the outputs for as long as this one runs.
    """

    def __init__(self, module: nn.Module, hooks: Mapping[str, str]) -> None:
        super().__init__()
        self.module = module
        self.hook_dict = {name: HookPoint() for name in hooks.values()}
        self.points = nn.ModuleList(self.hook_dict.values())
        self.mod_dict = dict(self.hook_dict)
        for name, point in self.hook_dict.items():
            point.name = name
        self.hook_of = dict(hooks)
        self.training = self.points.train(module.training).training

    def forward(self, *args: Any, **options: Any) -> Any:
        """Run the module with each output passing through its point."""
        with ExitStack() as stack:
            for submodule, hook in self.hook_of.items():
                through = partial(_through, self.hook_dict[hook], submodule)
                stack.enter_context(self.module.get_submodule(submodule).register_forward_hook(through))
            return self.module(*args, **options)

    def hooks(
        self,
        fwd_hooks: Iterable[tuple[Any, Any]] = (),
        bwd_hooks: Iterable[tuple[Any, Any]] = (),
        *args: Any,
        **options: Any,
    ) -> Any:
        """TransformerLens's context, once the names are known to exist."""
        fwd_hooks, bwd_hooks = list(fwd_hooks), list(bwd_hooks)
        check_hooks(self, [name for name, _ in fwd_hooks + bwd_hooks if isinstance(name, str)] or self.hook_dict)
        return super().hooks(fwd_hooks, bwd_hooks, *args, **options)

    def get_caching_hooks(self, names_filter: Any = None, *args: Any, **options: Any) -> Any:
        """TransformerLens's caching hooks, once the names are known to exist."""
        if isinstance(names_filter, str | list):
            check_hooks(self, names_filter)
        return super().get_caching_hooks(names_filter, *args, **options)

    def __getattr__(self, name: str) -> Any:
        """Weights, submodules and whatever else the module has."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):  # what Python asks of this object, such as how to copy it
                raise
            return getattr(super().__getattr__("module"), name)


def _through(point: HookPoint, submodule: str, _: Any, args: Any, output: Any) -> Any:
    """The output after its point; of a tuple, as recurrent layers and attention return, its first tensor passes."""
    if isinstance(output, Tensor):
        return point(output)
    if not (isinstance(output, tuple | list) and output and isinstance(output[0], Tensor)):
        kind = type(output).__name__
        raise TypeError(
            f"submodule {submodule!r} returned {kind}: hook those that return a tensor, or a tuple with one first"
        )
    first, rest = point(output[0]), output[1:]
    return type(output)(first, *rest) if hasattr(output, "_fields") else type(output)([first, *rest])
