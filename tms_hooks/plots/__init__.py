"""Arrays in, plotly figures out. Colors are colorblind safe; signed scales are symmetric about zero."""

from probes.style import NULL, PALETTE
from tms_hooks.errors import check_installed
from tms_hooks.plots.by_hand import perfect_circle
from tms_hooks.plots.charts import cumulative, curves, distributions, grouped_shares, points_in_band, shares, strips
from tms_hooks.plots.directions import feature_arrows, hull, movie, polyhedra, trajectories, typical, write_and_read
from tms_hooks.plots.features import feature_lines, interference_graphs, norm_bars
from tms_hooks.plots.layout import REAL, TOY, takes_tensors
from tms_hooks.plots.maps import counts_map, loss_landscapes, matrices, phase_map, share_map, signed_heatmap

__all__ = [
    "NULL",
    "PALETTE",
    "REAL",
    "TOY",
    "counts_map",
    "cumulative",
    "curves",
    "distributions",
    "feature_arrows",
    "feature_lines",
    "grouped_shares",
    "hull",
    "interference_graphs",
    "loss_landscapes",
    "matrices",
    "movie",
    "norm_bars",
    "perfect_circle",
    "phase_map",
    "points_in_band",
    "polyhedra",
    "share_map",
    "shares",
    "signed_heatmap",
    "strips",
    "trajectories",
    "typical",
    "write_and_read",
]

check_installed("plotly", "plots")

for _name in __all__:
    if callable(globals()[_name]):  # not a color
        globals()[_name] = takes_tensors(globals()[_name])
