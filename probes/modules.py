"""Hook points for a module that has none, without a change of its code."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import nn

from probes.hooked import nearest

if TYPE_CHECKING:
    from probes.hooked_module import HookedModule


def hook_modules(module: nn.Module, names: str | Iterable[str] | Mapping[str, str] | None = None) -> "HookedModule":
    """A plain `torch.nn.Module` as a hooked model: a hook point on the output of each of these submodules.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 6)).eval()
    >>> model = hook_modules(net, ["0", "1"])
    >>> list(model.hook_dict)
    ['0.hook_out', '1.hook_out']
    >>> model.run_with_cache(torch.ones(2, 6))[1]["1.hook_out"].shape
    torch.Size([2, 3])
    >>> list(hook_modules(net, {"1": "hook_hidden"}).hook_dict)
    ['hook_hidden']

    The result has the methods of a `HookedRootModule`, and the module's own attributes: `model.W_E` is the module's,
    and so are the parameters, not copies. Where a submodule returns a tuple, its first tensor passes the point. A point
    is silent if its submodule is never called, or only its weights are read: `probes.audit_hooks` tells. Tools that go
    by axes read an activation as batch (pos) (head) unit: where channels come before positions, as behind a
    convolution, hook a submodule that flattens or transposes.

    Args:
        module: the module, which keeps its code, its weights and its mode. Tools want `module.eval()`.
        names: submodules as in `module.named_modules()`, "" for the module itself; all of them if not given. A mapping
            names the points too, so that a tool knows TransformerLens's names: `{"encoder": "hook_hidden"}`.

    Raises:
        TypeError: a module that has hook points.
        KeyError: a submodule that does not exist.
        ValueError: no submodules, or two points of one name.
    """
    if getattr(module, "hook_dict", None):
        raise TypeError(f"{type(module).__name__} has hook points already: give it to the tools as it is")
    known = dict(module.named_modules())
    if names is None:
        names = [name for name in known if name]
    if not isinstance(names, Mapping):
        each = [names] if isinstance(names, str) else names
        names = {name: f"{name}.hook_out" if name else "hook_out" for name in each}
    if not names:
        raise ValueError(f"no submodules to hook in {type(module).__name__}: name some, or '' for the module itself")
    for name in names:
        if name not in known:
            raise KeyError(f"no submodule {name!r}; {nearest(name, [one for one in known if one])}")
    hook, times = Counter(names.values()).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{times} submodules are to have the hook {hook!r}: give each point a name of its own")
    from probes.hooked_module import HookedModule

    return HookedModule(module, names)
