"""Toy models of superposition that can be hooked, trained and compared with real transformers.

>>> import torch, tms_hooks as tms
>>> cfg = tms.ToyConfig(6, 2)
>>> run = tms.train(cfg, tms.SparseUniform(6, 0.057), seeds=range(2), steps=10)
>>> out, cache = run.models[0].run_with_cache(torch.eye(6))
"""

import sys
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from inspect import signature
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tms_hooks import geometry, landscape, losses, plots, theory
    from tms_hooks.config import ToyConfig
    from tms_hooks.data import (
        AnticorrelatedGroups,
        Copula,
        CorrelatedGroups,
        Distribution,
        KHot,
        OneHot,
        OnManifold,
        RandomPoints,
        Samples,
        SparseGaussian,
        SparseUniform,
        Tree,
    )
    from tms_hooks.files import DamagedRun
    from tms_hooks.models.toy import ToyModel, ToyOutput
    from tms_hooks.run import Run, load
    from tms_hooks.sweep import sweep, sweep_toml
    from tms_hooks.tasks import Absolute, And, LinearThenReLU, Project, Reconstruct, Residual, Task
    from tms_hooks.train import train
    from tms_hooks.training.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
    from tms_hooks.training.penalties import Lasso, Penalty

__all__ = [
    "SGD", "Absolute", "Adam", "AdamW", "And", "AnticorrelatedGroups", "Copula", "CorrelatedGroups",
    "DamagedRun", "Distribution", "KHot", "Lasso", "LinearThenReLU", "OnManifold", "OneHot", "Optimizer", "Penalty",
    "Project", "RMSprop", "RandomPoints", "Reconstruct", "Residual", "Run", "Samples", "SparseGaussian",
    "SparseUniform", "Task", "ToyConfig", "ToyModel", "ToyOutput", "Tree", "geometry", "landscape", "load", "losses",
    "plots", "sweep", "sweep_toml", "theory", "train",
]  # fmt: skip

_HOMES = {
    "config": "ToyConfig",
    "data": "AnticorrelatedGroups Copula CorrelatedGroups Distribution KHot OneHot OnManifold RandomPoints Samples "
    "SparseGaussian SparseUniform Tree",
    "files": "DamagedRun",
    "models.toy": "ToyModel ToyOutput",
    "run": "Run load",
    "sweep": "sweep sweep_toml",
    "tasks": "Absolute And LinearThenReLU Project Reconstruct Residual Task",
    "train": "train",
    "training.optimizers": "SGD Adam AdamW Optimizer RMSprop",
    "training.penalties": "Lasso Penalty",
}
"""Room -> its public names, imported when they are asked for: torch takes seconds, and `tms --help` does without."""
_ROOM_OF = {name: room for room, names in _HOMES.items() for name in names.split()}
_ALSO_CALLED = {
    "weight_decay": "decay=...",
    "learning_rate": "lr=...",
    "correlation": "rho=...",
    "p": "feature_probability=...",
    "sparsity": "feature_probability=1 - sparsity",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    """Import a public name, or a room, when it is first asked for; classes answer names used elsewhere with ours."""
    if name == "__version__":
        return version("tms-hooks")
    if name not in _ROOM_OF:
        if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
            from tms_hooks.errors import did_you_mean

            raise AttributeError(f"module {__name__!r} has no attribute {name!r}; {did_you_mean(name, __all__)}")
        return import_module(f"{__name__}.{name}")
    value = getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    if isinstance(value, type) and not issubclass(value, Exception):
        from tms_hooks.errors import explained

        taken = signature(value).parameters
        explained(**{typed: hint for typed, hint in _ALSO_CALLED.items() if hint.split("=")[0] in taken})(value)
    globals()[name] = value
    return value


class _Face(ModuleType):
    """This module, on which `train` and `sweep` stay functions once the modules of these names are imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _ROOM_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
