"""Charts: shares with intervals, one dot per model, curves."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.style import NULL, blank
from tms_hooks.plots.layout import TOY, color

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


SHARE_AXIS = {"title": "share of models (95 % interval)", "tickformat": ".0%"}
LEGEND_ABOVE = {"orientation": "h", "y": 1.02, "yanchor": "bottom"}


def shares(names: Sequence[str], share: np.ndarray, low: np.ndarray, high: np.ndarray) -> "go.Figure":
    """Shares of models with their 95 % intervals, one bar per name, in [0, 1]."""
    hover = "%{x}: %{y:.1%}<extra></extra>"
    fig = blank().add_bar(**_share_bars(names, share, low, high), marker_color=TOY, hovertemplate=hover)
    return fig.update_layout(yaxis=SHARE_AXIS, height=340)


def grouped_shares(tables: "Mapping[str, pd.DataFrame]", xlabel: str) -> "go.Figure":
    """Shares of models in each shape, side by side for groups of models, each with its `tms_hooks.stats.census`."""
    shapes = list(dict.fromkeys(shape for table in tables.values() for shape in table.index))
    fig = blank()
    for i, shape in enumerate(shapes):
        groups = [group for group, table in tables.items() if shape in table.index]
        rows = np.array([tables[group].loc[shape, ["share", "share_low", "share_high"]] for group in groups], float)
        hover = f"{shape}: %{{y:.1%}}<extra></extra>"
        fig.add_bar(**_share_bars(groups, *rows.T), name=shape, marker_color=color(i), hovertemplate=hover)
    fig.update_xaxes(title_text=xlabel, type="category", categoryorder="array", categoryarray=list(tables))
    return fig.update_layout(barmode="group", yaxis=SHARE_AXIS, legend=LEGEND_ABOVE, height=360)


def _share_bars(names: Iterable[str], share: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    return {"x": list(names), "y": share, "error_y": {"type": "data", "array": high - share, "arrayminus": share - low}}


def distributions(
    values: Mapping[str, np.ndarray], xlabel: str, colors: Mapping[str, str], nbins: int = 40
) -> "go.Figure":
    """Overlaid histograms on common bins, one per name; a name without a value is still named, with n = 0."""
    finite = np.concatenate([np.empty(0), *(v[np.isfinite(v)] for v in values.values())])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    size = (high - low) / nbins or 1.0
    fig = blank()
    for name, v in values.items():
        fig.add_histogram(
            x=v,
            name=f"{name} (n = {len(v):,})",
            marker_color=colors[name],
            opacity=0.6,
            histnorm="probability",
            xbins={"start": low, "end": high + size, "size": size},
        )
    fig.update_layout(xaxis_title=xlabel, yaxis_title="share")
    return fig.update_layout(barmode="overlay", legend=LEGEND_ABOVE, height=340)


def strips(
    values: Mapping[str, np.ndarray],
    ylabel: str,
    xlabel: str = "",
    levels: Mapping[str, float] | None = None,
    log_y: bool = False,
) -> "go.Figure":
    """Every value as a dot, one strip per name, with a bar at the median; named levels as dotted lines."""
    fig = blank()
    for name, v in values.items():
        fig.add_box(
            y=v,
            name=name,
            boxpoints="all",
            jitter=0.6,
            pointpos=0,
            line={"color": NULL, "width": 1},
            fillcolor="rgba(0,0,0,0)",
            marker={"color": TOY, "size": 5, "opacity": 0.6},
        )
    for name, level in (levels or {}).items():
        fig.add_hline(y=level, line_dash="dot", line_color=NULL, annotation_text=name, annotation_position="top right")
    fig.update_xaxes(title_text=xlabel, type="category")
    fig.update_yaxes(title_text=ylabel, type="log" if log_y else "linear")
    return fig.update_layout(showlegend=False, height=440)


def cumulative(curves: Mapping[str, np.ndarray], colors: Mapping[str, str], ylabel: str, xlabel: str) -> "go.Figure":
    """Cumulative curves against their rank (from 1), with a line at 1; names of one color differ in dash."""
    fig = blank()
    seen: Counter[str] = Counter()
    for name, y in curves.items():
        line = {"color": colors[name], "dash": ("solid", "dash", "dot")[seen[colors[name]] % 3]}
        seen[colors[name]] += 1
        fig.add_scatter(x=np.arange(1, len(y) + 1), y=y, name=name, mode="lines+markers", line=line, marker_size=4)
    fig.add_hline(y=1, line_dash="dot", line_color=NULL)
    return fig.update_layout(
        xaxis={"title": xlabel, "type": "log", "tickvals": [1, 2, 5, 10, 20, 50, 100]},
        yaxis_title=ylabel,
        legend=LEGEND_ABOVE,
        height=380,
    )


def curves(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]], xlabel: str, ylabel: str, log_x: bool = False
) -> "go.Figure":
    """Lines through (x, y), one per name, told apart by color and by marker."""
    fig = blank()
    for i, (name, (x, y)) in enumerate(lines.items()):
        marker = {"size": 8, "symbol": ("circle", "square", "diamond", "cross", "x")[i % 5]}
        fig.add_scatter(x=x, y=y, name=name, mode="lines+markers", line_color=color(i), marker=marker)
    fig.update_xaxes(title_text=xlabel, type="log" if log_x else "linear")
    return fig.update_layout(yaxis_title=ylabel, legend=LEGEND_ABOVE, height=380)


def points_in_band(
    points: Mapping[str, tuple[np.ndarray, np.ndarray]],
    x: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    xlabel: str,
    ylabel: str,
) -> "go.Figure":
    """Scattered (x, y), one color per name, over the band that theory allows: y from `low` to `high` at each `x`."""
    fig = blank()
    line = {"color": NULL, "width": 1}
    fig.add_scatter(x=x, y=low, mode="lines", line=line, showlegend=False, hoverinfo="skip")
    fig.add_scatter(x=x, y=high, mode="lines", line=line, fill="tonexty", name="allowed", hoverinfo="skip")
    for i, (name, (at, value)) in enumerate(points.items()):
        marker = {"color": color(i), "size": 6, "symbol": ("circle", "square", "diamond")[i % 3]}
        fig.add_scatter(x=at, y=value, mode="markers", marker=marker, name=name)
    return fig.update_layout(xaxis_title=xlabel, yaxis_title=ylabel, legend=LEGEND_ABOVE, height=380)
