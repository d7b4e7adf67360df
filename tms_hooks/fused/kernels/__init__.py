"""The fused engine's inner loops, in numba: draw, forward, hand-derived backward and update of one model, all in cache.

A batch is worked on in blocks of rows, features on the outer axis (`x[feature, row]`), so that every inner loop runs
over rows with unit stride and vectorises. A model's arithmetic depends on nothing but the model: threads only share
models out. `no_type_check` keeps numba from being handed the wrappers of a run-time type checker.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numba


def _fingerprint() -> str:
    """Of all sources here: numba itself would notice a change of the caller's file only, not of what it calls."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


config: Any = numba.config
_before = config.CACHE_DIR
if not _before:
    _home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    config.CACHE_DIR = str(_home / "tms-hooks" / "kernels" / _fingerprint())
from tms_hooks.fused.kernels.general import General  # noqa: E402  where numba caches is settled on import
from tms_hooks.fused.kernels.loop import Batch, Toy, Updates, advance  # noqa: E402
from tms_hooks.fused.kernels.patterns import Pattern  # noqa: E402

config.CACHE_DIR = _before

__all__ = ["Batch", "General", "Pattern", "Toy", "Updates", "advance"]
