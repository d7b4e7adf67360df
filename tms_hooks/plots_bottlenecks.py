"""Figures of bottlenecks: what is written beside what is read, the way there, and every model as a dot."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tms_hooks.plots import NULL, PALETTE, TOY

if TYPE_CHECKING:
    import plotly.graph_objects as go


def write_and_read(write: np.ndarray, read: np.ndarray, titles: Sequence[str]) -> "go.Figure":
    """Two-dimensional written (solid) and read (dotted) directions, one panel a model; each at unit length, norms on
    hover.

    Args:
        write, read: (model, feature, 2).
        titles: one a model.
    """
    from plotly.subplots import make_subplots

    fig = make_subplots(1, len(write), subplot_titles=titles, horizontal_spacing=0.03)
    for col, pair in enumerate(zip(write, read, strict=True), start=1):
        for vectors, verb, dash, symbol in zip(
            pair, ("written", "read"), ("solid", "dot"), ("circle", "x"), strict=True
        ):
            for i, vector in enumerate(vectors):
                norm = float(np.linalg.norm(vector))
                x, y = vector / (norm or 1.0)
                fig.add_scatter(
                    x=[0, x],
                    y=[0, y],
                    mode="lines+markers",
                    line={"color": PALETTE[i % len(PALETTE)], "width": 3 if verb == "written" else 2, "dash": dash},
                    marker={"size": [0, 9], "symbol": symbol},
                    name=f"feature {i}, {verb}",
                    hovertemplate=f"feature {i}, {verb}: norm {norm:.2f}<extra></extra>",
                    row=1,
                    col=col,
                )
        axis = {"range": [-1.15, 1.15], "constrain": "domain", "row": 1, "col": col}
        fig.update_xaxes(title_text="hidden 0", **axis)
        anchor = "x" if col == 1 else f"x{col}"
        fig.update_yaxes(title_text="hidden 1" if col == 1 else None, scaleanchor=anchor, **axis)
    return fig.update_layout(showlegend=False, height=340)


def strips(values: Mapping[str, np.ndarray], ylabel: str, log_y: bool = False) -> "go.Figure":
    """Every value as a dot, one strip a name, with a bar at the median."""
    import plotly.graph_objects as go

    fig = go.Figure()
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
    fig.update_yaxes(title_text=ylabel, type="log" if log_y else "linear")
    return fig.update_layout(showlegend=False, height=400)


def trajectories(W: np.ndarray, titles: Sequence[str]) -> "go.Figure":
    """Paths of two-dimensional feature directions over training, one panel a model; a dot marks the end of each.

    Args:
        W: (model, step, feature, 2).
        titles: one a model.
    """
    from plotly.subplots import make_subplots

    fig = make_subplots(1, len(W), subplot_titles=titles, horizontal_spacing=0.06)
    for col, model in enumerate(W, start=1):
        reach = 1.1 * max(1.0, float(np.abs(model).max()))
        for i in range(model.shape[1]):
            x, y = model[:, i].T
            fig.add_scatter(
                x=x,
                y=y,
                mode="lines+markers",
                line={"color": PALETTE[i % len(PALETTE)], "width": 1.5},
                marker={"size": [0] * (len(x) - 1) + [9]},
                name=f"feature {i}",
                hovertemplate=f"feature {i}: (%{{x:.2f}}, %{{y:.2f}})<extra></extra>",
                row=1,
                col=col,
            )
        axis = {"range": [-reach, reach], "constrain": "domain", "row": 1, "col": col}
        fig.update_xaxes(title_text="hidden 0", **axis)
        anchor = "x" if col == 1 else f"x{col}"
        fig.update_yaxes(title_text="hidden 1" if col == 1 else None, scaleanchor=anchor, **axis)
    return fig.update_layout(showlegend=False, height=360)
