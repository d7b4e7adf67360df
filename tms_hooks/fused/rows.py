"""Batches for the torch engine, drawn in compiled code: the bits that torch would give them, many steps at once."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.data import Distribution, SparseUniform
from tms_hooks.fused.kernels.draws import sparse_uniform_as_torch


def draw(
    data: Distribution, rows: int, seeds: Sequence[int], steps: range, occupied: bool, dtype: torch.dtype
) -> Float[Tensor, "step model batch feature"] | None:
    """`data.sample` of each step, or with `occupied` `data.sample_occupied`; None where that has no loop here.

    In memory rows are the last axis.
    """
    if type(data) is not SparseUniform:
        return None
    out = torch.empty(len(steps), len(seeds), data.n_features, rows, dtype=dtype)
    thresholds, low, span = data.thresholds.numpy(), float(data.low), float(data.high - data.low)
    sparse_uniform_as_torch(out.numpy(), np.array(seeds), steps.start, thresholds, low, span, occupied)
    return out.mT
