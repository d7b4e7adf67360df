"""Toy models of superposition that can be hooked, trained and compared with real transformers.

>>> import torch, tms_hooks as tms
>>> cfg = tms.ToyConfig(6, 2)
>>> run = tms.train(cfg, tms.SparseUniform(6, 0.057), seeds=range(2), steps=10)
>>> out, cache = run.models[0].run_with_cache(torch.eye(6))
"""

from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING

from tms_hooks import geometry
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
from tms_hooks.errors import explained
from tms_hooks.files import DamagedRun
from tms_hooks.run import Run, load
from tms_hooks.sweep import sweep, sweep_toml
from tms_hooks.tasks import Absolute, And, LinearThenReLU, Project, Reconstruct, Residual, Task
from tms_hooks.train import train
from tms_hooks.training.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from tms_hooks.training.penalties import Lasso, Penalty

if TYPE_CHECKING:
    from tms_hooks import landscape, plots, theory
    from tms_hooks.models.toy import ToyModel, ToyOutput

__all__ = [
    "SGD", "Absolute", "Adam", "AdamW", "And", "AnticorrelatedGroups", "Copula", "CorrelatedGroups",
    "DamagedRun", "Distribution", "KHot", "Lasso", "LinearThenReLU", "OnManifold", "OneHot", "Optimizer", "Penalty",
    "Project", "RMSprop", "RandomPoints", "Reconstruct", "Residual", "Run", "Samples", "SparseGaussian",
    "SparseUniform", "Task", "ToyConfig", "ToyModel", "ToyOutput", "Tree", "geometry", "landscape", "load", "plots",
    "sweep", "sweep_toml", "theory", "train",
]  # fmt: skip

_ALSO_CALLED = {
    "weight_decay": "decay=...",
    "p": "feature_probability=...",
    "sparsity": "feature_probability=1 - sparsity",
}
for _described in [value for name, value in globals().items() if name in __all__ and isinstance(value, type)]:
    if not issubclass(_described, Exception):
        _taken = signature(_described).parameters
        explained(**{typed: hint for typed, hint in _ALSO_CALLED.items() if hint.split("=")[0] in _taken})(_described)


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    """Import when asked for what takes seconds (transformer_lens, for the models) or what the path does without."""
    if name in ("ToyModel", "ToyOutput"):
        return getattr(import_module("tms_hooks.models.toy"), name)
    if name in ("landscape", "plots", "theory"):
        return import_module(f"tms_hooks.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
