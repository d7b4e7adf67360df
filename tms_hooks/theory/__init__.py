"""Closed forms to hold trained models against, each with its assumptions, its source and its range of validity.

`polygons` (with `expected`, the exact loss it rests on) says which regular polygon costs least in two dimensions,
`phases` when an extra feature is worth a shared dimension, `circles` what an output bias does for one-hot features,
`packing` how little directions can overlap, `readouts` how non-orthogonal directions are best read, `computation` what
absolute values take, and `qk` what the best attention head does. All losses are expectations over the data, summed over
features and not over samples.
"""

from tms_hooks.errors import explain_all
from tms_hooks.theory.circles import perfect_circle, ray_bias_interval, softmax_trap_radius
from tms_hooks.theory.computation import absolute_value_loss
from tms_hooks.theory.expected import expected_loss, output_loss, output_losses
from tms_hooks.theory.packing import johnson_lindenstrauss, sphere_mean_overlap, tegum_overlaps, welch_bound
from tms_hooks.theory.phases import phase_losses
from tms_hooks.theory.polygons import (
    best_polygon,
    best_polygon_table,
    finite_polygon,
    onehot_polygon_loss,
    polygon,
    polygon_crossing,
    polygon_gain_nearest,
    polygon_loss,
    polygon_table,
)
from tms_hooks.theory.qk import qk_excess_loss, qk_optimum, qk_orthonormal_cosine
from tms_hooks.theory.readouts import dual_frame, one_sided_dual_frame, pretty_good_measurement, readout_cosines

__all__ = [
    "absolute_value_loss",
    "best_polygon",
    "best_polygon_table",
    "dual_frame",
    "expected_loss",
    "finite_polygon",
    "johnson_lindenstrauss",
    "one_sided_dual_frame",
    "onehot_polygon_loss",
    "output_loss",
    "output_losses",
    "perfect_circle",
    "phase_losses",
    "polygon",
    "polygon_crossing",
    "polygon_gain_nearest",
    "polygon_loss",
    "polygon_table",
    "pretty_good_measurement",
    "qk_excess_loss",
    "qk_optimum",
    "qk_orthonormal_cosine",
    "ray_bias_interval",
    "readout_cosines",
    "softmax_trap_radius",
    "sphere_mean_overlap",
    "tegum_overlaps",
    "welch_bound",
]

explain_all(__name__)
