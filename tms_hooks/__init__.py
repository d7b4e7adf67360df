"""Toy models of superposition that can be hooked, trained and compared with real transformers.

>>> import torch, tms_hooks as tms
>>> cfg = tms.ToyConfig(n_features=6, d_hidden=2)
>>> run = tms.train(cfg, tms.SparseUniform(n_features=6, feature_probability=0.057), seeds=range(2), steps=10)
>>> out, cache = run.models[0].run_with_cache(torch.eye(6))
"""

from typing import TYPE_CHECKING, Any

from tms_hooks import geometry, landscape, theory
from tms_hooks.config import ToyConfig
from tms_hooks.data import AnticorrelatedGroups, Copula, CorrelatedGroups, KHot, OneHot, RandomPoints, SparseUniform
from tms_hooks.run import Run, load
from tms_hooks.sweep import sweep, sweep_toml
from tms_hooks.tasks import Reconstruct, Task
from tms_hooks.train import train
from tms_hooks.training.optimizers import SGD, Adam, AdamW, RMSprop

if TYPE_CHECKING:
    from tms_hooks.models.toy import ToyModel, ToyOutput

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "AnticorrelatedGroups",
    "Copula",
    "CorrelatedGroups",
    "KHot",
    "OneHot",
    "RMSprop",
    "RandomPoints",
    "Reconstruct",
    "Run",
    "SparseUniform",
    "Task",
    "ToyConfig",
    "ToyModel",
    "ToyOutput",
    "geometry",
    "landscape",
    "load",
    "sweep",
    "sweep_toml",
    "theory",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import the models when they are asked for: transformer_lens takes seconds."""
    if name in ("ToyModel", "ToyOutput"):
        from tms_hooks.models import toy

        return getattr(toy, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
