"""Where a model sits on the landscape of its exact expected loss: in a minimum, on a saddle, or on a slope."""

from tms_hooks.landscape.critical import (
    CriticalPoint,
    critical_point,
    polish,
    spectrum,
    symmetry_directions,
    unflatten,
)
from tms_hooks.landscape.exact import LossEstimate, affine_logits, estimate_loss, exact_loss
from tms_hooks.landscape.paths import basin_shares, bend_path, linear_path, loss_plane

__all__ = [
    "CriticalPoint",
    "LossEstimate",
    "affine_logits",
    "basin_shares",
    "bend_path",
    "critical_point",
    "estimate_loss",
    "exact_loss",
    "linear_path",
    "loss_plane",
    "polish",
    "spectrum",
    "symmetry_directions",
    "unflatten",
]
