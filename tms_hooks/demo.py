"""`tms demo`: the main job. Toys beside a real transformer, through the same calls, on one page."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import probes
from tms_hooks import geometry, plots, report, stats, theory
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.run import Run
from tms_hooks.training.loop import train
from tms_hooks.training.optimizers import Adam

INDIRECT_OBJECT = (
    ("When Mary and John went to the store, John gave a drink to", " Mary"),
    ("When Tom and Anna went to the park, Tom gave a ball to", " Anna"),
    ("After Sarah and Paul arrived at the office, Paul handed a letter to", " Sarah"),
    ("While James and Emma were at the beach, Emma threw a ball to", " James"),
    ("When Kate and Mark sat in the garden, Mark passed a plate to", " Kate"),
    ("Then Lucy and Peter had a long argument, and Peter said sorry to", " Lucy"),
)
REPEATED = (
    " red fish seven moon table green river stone",
    " window paper cloud eight horse yellow bread lamp",
    " music four garden silver train apple winter door",
)
SEEDS_OF_HEADS = 60
FIRES = 0.5
"""A head fires on a pair of tokens if its pattern is at least this (Franco & Crovella 2024)."""


def run_demo(out: Path, real_model: str, n_models: int, say: Callable[[str], None]) -> tuple[Path, pd.DataFrame]:
    """Do all of it; returns the page and the short table.

    Args:
        out: folder for `index.html`.
        real_model: what `probes.load_transformer` takes.
        n_models: toys in the first section.
        say: told what is being done.
    """
