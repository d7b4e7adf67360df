"""Where a model sits on the landscape of its exact expected loss: in a minimum, on a saddle, or on neither.

`exact` has the loss without sampling, `critical` decides between minimum and saddle, and `basins` looks around: at the
loss on a plane through a model, and at how far one can be pushed and still trains back.
"""

from tms_hooks.errors import explain_all
from tms_hooks.landscape.basins import basin_shares, loss_plane
from tms_hooks.landscape.critical import CriticalPoint, critical_point, symmetry_directions, unflatten
from tms_hooks.landscape.exact import exact_loss

__all__ = [
    "CriticalPoint",
    "basin_shares",
    "critical_point",
    "exact_loss",
    "loss_plane",
    "symmetry_directions",
    "unflatten",
]

explain_all(__name__)
