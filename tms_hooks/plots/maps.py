"""Maps: matrices, shares over two settings, phase diagrams with closed-form boundaries, loss landscapes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tms_hooks.plots.palette import NULL, PALETTE, SIGNED

if TYPE_CHECKING:
    import plotly.graph_objects as go


def signed_heatmap(matrix: np.ndarray, xlabel: str, ylabel: str, colorbar: str) -> "go.Figure":
    """A matrix with entries of either sign, red to blue through white at zero."""
    import plotly.graph_objects as go

    limit = float(np.abs(matrix).max()) or 1.0
    fig = go.Figure(
        go.Heatmap(z=matrix, zmin=-limit, zmax=limit, colorscale="RdBu", colorbar={"title": {"text": colorbar}})
    )
    fig.update_yaxes(autorange="reversed", title_text=ylabel)
    return fig.update_xaxes(title_text=xlabel).update_layout(height=380)


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


def share_map(shares: np.ndarray, x: Sequence[str], y: Sequence[str], xlabel: str) -> "go.Figure":
    """A share of models in each cell, as colour and as number; cells of NaN were not tried.

    Args:
        shares: (y, x).
    """
    import plotly.graph_objects as go

    heatmap = go.Heatmap(
        z=shares,
        x=list(x),
        y=list(y),
        zmin=0,
        zmax=1,
        colorscale="Cividis",
        texttemplate="%{z:.0%}",
        hoverongaps=False,
        colorbar={"tickformat": ".0%", "title": {"text": "share of models"}},
        xgap=2,
        ygap=2,
    )
    axis = {"type": "category"}
    return go.Figure(heatmap).update_layout(
        xaxis=axis | {"title": xlabel}, yaxis=axis | {"autorange": "reversed"}, height=320
    )


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
