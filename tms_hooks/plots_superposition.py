"""Figures of superposition: phase diagrams with closed-form boundaries, strips of D_i, Gram matrices side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tms_hooks.plots import NULL, PALETTE, TOY

if TYPE_CHECKING:
    import plotly.graph_objects as go

SIGNED = "RdBu"


def phase_map(
    trained: np.ndarray,
    costs: np.ndarray,
    x: Sequence[np.ndarray],
    y: Sequence[np.ndarray],
    names: Sequence[str],
    xlabel: str,
    ylabel: str,
) -> "go.Figure":
    """Trained outcomes as coloured squares, on log axes; black lines where theory's cheapest outcome changes.

    Args:
        trained: (y, x), each an index of `names`, on the axes `x[0]` and `y[0]`.
        costs: (outcome, y, x), what each of the first names costs in theory, on the axes `x[1]` and `y[1]`.
        names: one an outcome.
    """
    import plotly.graph_objects as go

    colors = [PALETTE[i % len(PALETTE)] for i in range(len(names))]
    cells = go.Heatmap(
        z=trained,
        x=_log_edges(x[0]),
        y=_log_edges(y[0]),
        zmin=-0.5,
        zmax=len(names) - 0.5,
        colorscale=[(edge / len(names), color) for i, color in enumerate(colors) for edge in (i, i + 1)],
        showscale=False,
        text=np.array(names)[trained],
        hovertemplate=f"%{{text}}<br>{xlabel} %{{x:.3g}}<br>{ylabel} %{{y:.3g}}<extra></extra>",
    )
    fig = go.Figure(cells)
    for name, color in zip(names, colors, strict=True):
        marker = {"symbol": "square", "size": 12, "color": color}
        fig.add_scatter(x=[None], y=[None], mode="markers", name=f"trained: {name}", marker=marker)
    for i, cost in enumerate(costs):
        fig.add_contour(
            z=np.log(np.delete(costs, i, axis=0).min(0) / cost).round(4),
            x=x[1],
            y=y[1],
            contours={"start": 0, "end": 0, "size": 1, "coloring": "none"},
            line={"color": "black", "width": 2},
            showscale=False,
            showlegend=i == 0,
            name="boundaries in closed form",
            hoverinfo="skip",
        )
    fig.update_xaxes(title_text=xlabel, type="log").update_yaxes(title_text=ylabel, type="log")
    return fig.update_layout(legend={"orientation": "h", "y": -0.25}, height=480, plot_bgcolor="white")


def _log_edges(centers: np.ndarray) -> np.ndarray:
    """Edges of cells around points that are evenly spaced on a log scale."""
    half = (centers[1] / centers[0]) ** 0.5
    return np.append(centers / half, centers[-1] * half)


def level_strips(
    strips: Mapping[str, np.ndarray], levels: Mapping[str, float], xlabel: str, ylabel: str
) -> "go.Figure":
    """Every value as a dot above its strip's name, scattered sideways, with named levels as dotted lines."""
    import plotly.graph_objects as go

    fig = go.Figure()
    rng = np.random.default_rng(0)
    for i, values in enumerate(strips.values()):
        fig.add_scatter(
            x=i + rng.uniform(-0.35, 0.35, len(values)),
            y=values,
            mode="markers",
            marker={"size": 3, "color": TOY, "opacity": 0.4},
            hovertemplate="%{y:.3f}<extra></extra>",
            showlegend=False,
        )
    for name, level in levels.items():
        fig.add_hline(y=level, line_dash="dot", line_color=NULL, annotation_text=name, annotation_position="right")
    ticks = {"tickvals": list(range(len(strips))), "ticktext": list(strips)}
    return fig.update_layout(xaxis=ticks | {"title": xlabel}, yaxis_title=ylabel, height=480)


def gram_matrices(grams: np.ndarray, titles: Sequence[str]) -> "go.Figure":
    """Gram matrices W_E W_E^T side by side, on one scale symmetric about zero.

    Args:
        grams: (model, feature, feature).
        titles: one a model.
    """
    return _matrices(grams, titles, "feature", "feature", "W_i . W_j")


def weight_matrices(W: np.ndarray, titles: Sequence[str]) -> "go.Figure":
    """W_E side by side, on one scale symmetric about zero.

    Args:
        W: (model, feature, neuron).
        titles: one a model.
    """
    return _matrices(W, titles, "neuron", "feature", "weight")


def _matrices(values: np.ndarray, titles: Sequence[str], xlabel: str, ylabel: str, bar: str) -> "go.Figure":
    from plotly.subplots import make_subplots

    fig = make_subplots(1, len(values), subplot_titles=titles, horizontal_spacing=0.04)
    limit = float(np.abs(values).max()) or 1.0
    for col, matrix in enumerate(values, start=1):
        fig.add_heatmap(z=matrix, coloraxis="coloraxis", row=1, col=col)
        anchor = "x" if col == 1 else f"x{col}"
        fig.update_yaxes(autorange="reversed", scaleanchor=anchor, constrain="domain", row=1, col=col)
        fig.update_xaxes(title_text=xlabel, constrain="domain", row=1, col=col)
    fig.update_yaxes(title_text=ylabel, row=1, col=1)
    return fig.update_layout(
        coloraxis={"colorscale": SIGNED, "cmin": -limit, "cmax": limit, "colorbar": {"title": {"text": bar}}},
        height=320,
    )
