"""One fixture for every tool: a toy and a real architecture, so that what passes on one is tried on the other."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from probes.models import load_transformer
from tms_hooks.config import ToyConfig
from tms_hooks.models.toy import ToyModel


class Subject(NamedTuple):
    """A hooked model and what a test needs to know of it."""

    model: Any
    inputs: Tensor
    """Five examples, no two alike, with a position axis."""
    early: str
    """A live hook "batch pos d_early" before the heads."""
    late: str
    """A live hook "batch pos d_late" after `early`."""


def make_toy() -> Subject:
    cfg = ToyConfig(n_features=6, d_hidden=4, n_heads=2, d_head=3)
    x = torch.rand(5, 3, 6, generator=torch.Generator().manual_seed(1))
    return Subject(ToyModel(cfg, seed=0), x, "hook_hidden", "hook_unembed")


def make_tiny() -> Subject:
    tokens = torch.randint(0, 101, (5, 7), generator=torch.Generator().manual_seed(1))
    return Subject(load_transformer("tiny", seed=0), tokens, "blocks.0.hook_resid_pre", "blocks.1.hook_resid_post")


@pytest.fixture(params=[make_toy, make_tiny], ids=["toy", "tiny"])
def subject(request: pytest.FixtureRequest) -> Subject:
    return request.param()
