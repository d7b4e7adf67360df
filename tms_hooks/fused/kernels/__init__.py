"""The fused engine's inner loops, in numba: draw, forward, hand-derived backward and update of one model, all in cache.

A batch is worked on in blocks of rows, features on the outer axis (`x[feature, row]`), so that every inner loop runs
over rows with unit stride and vectorizes. A model's arithmetic depends on nothing but the model: threads only share
models out. `no_type_check` keeps numba from being handed the wrappers of a run-time type checker.
"""

import hashlib
import inspect
import os
from pathlib import Path
from typing import Any

import numba

from tms_hooks import rng
from tms_hooks.data import DISTRIBUTIONS
from tms_hooks.fused import codes
from tms_hooks.tasks import TASKS
from tms_hooks.training.optimizers import OPTIMIZERS


def _fingerprint() -> str:
    """Of all that is compiled here: numba itself would notice a change of the caller's file only, not of what it calls.

    What classes in the tables bring along is known by its instructions and by the values that they refer to.
    """
    digest = hashlib.sha256()
    for path in (*sorted(Path(__file__).parent.glob("*.py")), Path(codes.__file__), Path(rng.__file__)):
        digest.update(path.read_bytes())
    functions = [cls.rule for cls in OPTIMIZERS.values()] + [cls.loop() for cls in DISTRIBUTIONS.values()]
    functions += [cls.loop() for cls in TASKS.values()]
    for function in map(inspect.unwrap, filter(None, functions)):
        code, refers = function.__code__, inspect.getclosurevars(function)
        known = (code.co_code, code.co_consts, code.co_names, function.__defaults__, refers.globals, refers.nonlocals)
        digest.update(repr(known).encode())
    return digest.hexdigest()[:12]


config: Any = numba.config
_before = config.CACHE_DIR
if not _before:
    _home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    config.CACHE_DIR = str(_home / "tms-hooks" / "kernels" / _fingerprint())
from tms_hooks.fused.kernels.general import General, Outside  # noqa: E402  where numba caches is settled on import
from tms_hooks.fused.kernels.lanes import LANES  # noqa: E402
from tms_hooks.fused.kernels.loop import Batch, Room, Updates, advance, make_room  # noqa: E402
from tms_hooks.fused.kernels.mlps import Mlps  # noqa: E402
from tms_hooks.fused.kernels.plain import Toy, narrow  # noqa: E402
from tms_hooks.fused.kernels.rules import ASKED, DRAWN, UPDATED, Asked, Drawn  # noqa: E402

config.CACHE_DIR = _before

__all__ = [
    "ASKED",
    "DRAWN",
    "LANES",
    "UPDATED",
    "Asked",
    "Batch",
    "Drawn",
    "General",
    "Mlps",
    "Outside",
    "Room",
    "Toy",
    "Updates",
    "advance",
    "make_room",
    "narrow",
]
