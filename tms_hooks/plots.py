"""Arrays in, plotly figures out. Colours are colour-blind safe; signed scales are symmetric about zero."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import plotly.graph_objects as go

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B2A500", "#808080")
"""Okabe & Ito 2008, with its yellow and black made visible on white and on dark."""

TOY, REAL, NULL = PALETTE[0], PALETTE[5], PALETTE[7]
"""A toy's measurement, a real model's, and the null's: the same colours in every figure."""


def feature_arrows(W: np.ndarray, titles: Sequence[str], radii: Sequence[Sequence[float]] | None = None) -> "go.Figure":
    """Feature directions of two-dimensional models, one panel a model, with dotted circles.

    Args:
        W: (model, feature, 2).
        titles: one a model.
        radii: of the circles, any number a model; one of radius 1 by default.
    """
    from plotly.subplots import make_subplots

    fig = make_subplots(1, len(W), subplot_titles=titles, horizontal_spacing=0.03)
    reach = 1.1 * max(1.0, float(np.linalg.norm(W, axis=-1).max()))
    turn = np.linspace(0, 2 * np.pi, 100)
    for col, model in enumerate(W, start=1):
        circle = {"color": NULL, "dash": "dot", "width": 1}
        for r in (1.0,) if radii is None else radii[col - 1]:
            x, y = r * np.cos(turn), r * np.sin(turn)
            fig.add_scatter(x=x, y=y, mode="lines", line=circle, hoverinfo="skip", row=1, col=col)
        for i, (x, y) in enumerate(model):
            fig.add_scatter(
                x=[0, x],
                y=[0, y],
                mode="lines+markers",
                line={"color": PALETTE[i % len(PALETTE)], "width": 3},
                marker={"size": [0, 9]},
                name=f"feature {i}",
                hovertemplate=f"feature {i}: norm {np.hypot(x, y):.2f}<extra></extra>",
                row=1,
                col=col,
            )
        anchor = "x" if col == 1 else f"x{col}"
        axis = {"range": [-reach, reach], "constrain": "domain", "row": 1, "col": col}
        fig.update_xaxes(title_text="hidden 0", **axis)
        fig.update_yaxes(title_text="hidden 1" if col == 1 else None, scaleanchor=anchor, **axis)
    return fig.update_layout(showlegend=False, height=340)


def shares(names: Sequence[str], share: np.ndarray, low: np.ndarray, high: np.ndarray) -> "go.Figure":
    """Shares of models with their 95 % intervals, one bar a name, in [0, 1]."""
    import plotly.graph_objects as go

    bars = go.Bar(
        x=list(names),
        y=share,
        marker_color=TOY,
        error_y={"type": "data", "array": high - share, "arrayminus": share - low},
        hovertemplate="%{x}: %{y:.1%}<extra></extra>",
    )
    fig = go.Figure(bars)
    return fig.update_layout(yaxis={"title": "share of models (95 % interval)", "tickformat": ".0%"}, height=340)


def distributions(
    values: Mapping[str, np.ndarray], xlabel: str, colors: Mapping[str, str], nbins: int = 40, density: bool = True
) -> "go.Figure":
    """Overlaid histograms on common bins, one a name."""
    import plotly.graph_objects as go

    finite = np.concatenate([v[np.isfinite(v)] for v in values.values()])
    low, high = float(finite.min()), float(finite.max())
    size = (high - low) / nbins or 1.0
    fig = go.Figure()
    for name, v in values.items():
        fig.add_histogram(
            x=v,
            name=f"{name} (n = {len(v):,})",
            marker_color=colors[name],
            opacity=0.6,
            histnorm="probability" if density else "",
            xbins={"start": low, "end": high + size, "size": size},
        )
    return fig.update_layout(
        barmode="overlay",
        xaxis_title=xlabel,
        yaxis_title="share" if density else "count",
        legend={"orientation": "h", "y": 1.15},
        height=340,
    )


def cumulative(curves: Mapping[str, np.ndarray], colors: Mapping[str, str], ylabel: str, xlabel: str) -> "go.Figure":
    """Cumulative curves against their rank (from 1), with a line at 1; names of one colour differ in dash."""
    import plotly.graph_objects as go

    fig = go.Figure()
    seen: Counter[str] = Counter()
    for name, y in curves.items():
        line = {"color": colors[name], "dash": ("solid", "dash", "dot")[seen[colors[name]] % 3]}
        seen[colors[name]] += 1
        fig.add_scatter(x=np.arange(1, len(y) + 1), y=y, name=name, mode="lines+markers", line=line, marker_size=4)
    fig.add_hline(y=1, line_dash="dot", line_color=NULL)
    return fig.update_layout(
        xaxis={"title": xlabel, "type": "log", "tickvals": [1, 2, 5, 10, 20, 50, 100]},
        yaxis_title=ylabel,
        legend={"orientation": "h", "y": 1.2},
        height=380,
    )


def signed_heatmap(matrix: np.ndarray, xlabel: str, ylabel: str, colorbar: str) -> "go.Figure":
    """A matrix with entries of either sign, red to blue through white at zero."""
    import plotly.graph_objects as go

    limit = float(np.abs(matrix).max()) or 1.0
    fig = go.Figure(
        go.Heatmap(z=matrix, zmin=-limit, zmax=limit, colorscale="RdBu", colorbar={"title": {"text": colorbar}})
    )
    fig.update_yaxes(autorange="reversed", title_text=ylabel)
    return fig.update_xaxes(title_text=xlabel).update_layout(height=380)


def curves(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]], xlabel: str, ylabel: str, log_x: bool = False
) -> "go.Figure":
    """Lines through (x, y), one a name, told apart by colour and by marker."""
    import plotly.graph_objects as go

    fig = go.Figure()
    for i, (name, (x, y)) in enumerate(lines.items()):
        marker = {"size": 8, "symbol": ("circle", "square", "diamond", "cross", "x")[i % 5]}
        fig.add_scatter(x=x, y=y, name=name, mode="lines+markers", line_color=PALETTE[i % len(PALETTE)], marker=marker)
    fig.update_xaxes(title_text=xlabel, type="log" if log_x else "linear")
    return fig.update_layout(yaxis_title=ylabel, legend={"orientation": "h", "y": 1.15}, height=380)


def counts_map(
    counts: np.ndarray, x: Sequence[str], y: Sequence[str], xlabel: str, ylabel: str, unit: str
) -> "go.Figure":
    """A small whole number in each cell: one colour a number, and the number itself.

    Args:
        counts: (y, x).
        unit: what the numbers count, for the hover text.
    """
    import plotly.graph_objects as go

    low, n = int(counts.min()), int(counts.max() - counts.min()) + 1
    colors = [PALETTE[i % len(PALETTE)] for i in range(n)]
    steps = [(edge / n, color) for i, color in enumerate(colors) for edge in (i, i + 1)]
    heatmap = go.Heatmap(
        z=counts,
        x=list(x),
        y=list(y),
        zmin=low - 0.5,
        zmax=low + n - 0.5,
        colorscale=steps,
        showscale=False,
        texttemplate="%{z}",
        hovertemplate=f"{xlabel} %{{x}}, {ylabel} %{{y}}: %{{z}} {unit}<extra></extra>",
        xgap=2,
        ygap=2,
    )
    axis = {"type": "category"}
    return go.Figure(heatmap).update_layout(
        xaxis=axis | {"title": xlabel}, yaxis=axis | {"title": ylabel, "autorange": "reversed"}, height=380
    )


def loss_landscapes(
    losses: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    centers: np.ndarray,
    others: np.ndarray,
    titles: Sequence[str],
    xlabel: str,
    ylabel: str,
    ceiling: float,
) -> "go.Figure":
    """Contours of the loss over one feature's direction, one panel a model, on one colour scale.

    Args:
        losses: (model, y, x).
        x, y: where the feature is.
        centers: (model, 2), where it is in the model itself: a cross.
        others: (model, feature, 2), the features that stay: dots.
        titles: one a model.
        ceiling: losses above it share the last colour.
    """
    from plotly.subplots import make_subplots

    fig = make_subplots(1, len(losses), subplot_titles=titles, horizontal_spacing=0.1)
    low = float(losses.min())
    for col, (loss, center, rest) in enumerate(zip(losses, centers, others, strict=True), start=1):
        fig.add_contour(
            z=np.minimum(loss, ceiling),
            customdata=loss,
            x=x,
            y=y,
            coloraxis="coloraxis",
            contours={"start": low, "end": ceiling, "size": (ceiling - low) / 15},
            line={"width": 0.5, "color": NULL},
            hovertemplate="(%{x:.2f}, %{y:.2f}): loss %{customdata:.5f}<extra></extra>",
            row=1,
            col=col,
        )
        for points, name, marker in (
            (rest, "the other features", {"color": PALETTE[1], "size": 11}),
            (center[None], "the feature itself", {"color": PALETTE[5], "size": 13, "symbol": "x"}),
        ):
            fig.add_scatter(
                x=points[:, 0],
                y=points[:, 1],
                mode="markers",
                marker=marker | {"line": {"color": "white", "width": 1.5}},
                name=name,
                showlegend=col == 1,
                hovertemplate=f"{name}: (%{{x:.2f}}, %{{y:.2f}})<extra></extra>",
                row=1,
                col=col,
            )
        fig.update_xaxes(title_text=xlabel, range=[x[0], x[-1]], constrain="domain", row=1, col=col)
        anchor = "x" if col == 1 else f"x{col}"
        fig.update_yaxes(title_text=ylabel, range=[y[0], y[-1]], scaleanchor=anchor, constrain="domain", row=1, col=col)
    return fig.update_layout(
        coloraxis={"colorscale": "Cividis", "cmin": low, "cmax": ceiling, "colorbar": {"title": {"text": "loss"}}},
        legend={"orientation": "h", "y": -0.2},
        height=480,
    )


def points_in_band(
    points: Mapping[str, tuple[np.ndarray, np.ndarray]],
    x: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    xlabel: str,
    ylabel: str,
) -> "go.Figure":
    """Scattered (x, y), one colour a name, over the band that theory allows: y from `low` to `high` at each `x`."""
    import plotly.graph_objects as go

    fig = go.Figure()
    line = {"color": NULL, "width": 1}
    fig.add_scatter(x=x, y=low, mode="lines", line=line, showlegend=False, hoverinfo="skip")
    fig.add_scatter(x=x, y=high, mode="lines", line=line, fill="tonexty", name="allowed", hoverinfo="skip")
    for i, (name, (at, value)) in enumerate(points.items()):
        marker = {"color": PALETTE[i % len(PALETTE)], "size": 6, "symbol": ("circle", "square", "diamond")[i % 3]}
        fig.add_scatter(x=at, y=value, mode="markers", marker=marker, name=name)
    return fig.update_layout(xaxis_title=xlabel, yaxis_title=ylabel, legend={"orientation": "h", "y": 1.15}, height=380)
