"""Maps: matrices, shares over two settings, phase diagrams with closed-form boundaries, loss landscapes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.style import NULL, PALETTE, blank, signed
from tms_hooks import geometry
from tms_hooks.plots.layout import color, color_steps, make_square, models_to_draw, panel, row_of_panels
from tms_hooks.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go


def signed_heatmap(matrix: np.ndarray, xlabel: str, ylabel: str, colorbar: str) -> "go.Figure":
    """A matrix with entries of either sign, red to blue through white at zero."""
    limit = float(np.abs(matrix).max()) or 1.0
    fig = blank(height=380).add_heatmap(z=matrix, colorbar={"title": {"text": colorbar}}, **signed(limit))
    fig.update_yaxes(autorange="reversed", title_text=ylabel).update_xaxes(title_text=xlabel)
    return make_square(fig, matrix)


def matrices(
    values: "np.ndarray | Mapping[str, np.ndarray] | Run",
    titles: Sequence[str] | None = None,
    xlabel: str = "feature",
    ylabel: str = "feature",
    colorbar: str = "<i>W<sub>i</sub></i> · <i>W<sub>j</sub></i>",
) -> "go.Figure":
    """Matrices side by side, one per model, on one scale symmetric about zero; by default Gram matrices W_E W_E^T.

    Args:
        values: (model, y, x), or (y, x) of one model, or title -> (y, x); or a run, whose Gram matrices are drawn.
        titles: one per model; by default what differs between the models of a run, or their numbers.
        xlabel, ylabel, colorbar: what the axes and the colors are.
    """
    drawn, titles = models_to_draw(values, titles, "y x", geometry.gram)
    fig = row_of_panels(titles, xlabel, ylabel, spacing=0.04)
    limit = float(max(np.abs(matrix).max() for matrix in drawn)) or 1.0
    for i, matrix in enumerate(drawn):
        fig.add_heatmap(z=matrix, coloraxis="coloraxis", **panel(i))
    fig.update_yaxes(autorange="reversed")
    bar = {"title": {"text": colorbar}}
    return fig.update_layout(coloraxis={"autocolorscale": True, "cmin": -limit, "cmax": limit, "colorbar": bar})


def counts_map(
    counts: np.ndarray, x: Sequence[str], y: Sequence[str], xlabel: str, ylabel: str, unit: str
) -> "go.Figure":
    """A small whole number in each cell (y, x), with a color of its own; `unit` is what the numbers count."""
    low, n = int(counts.min()), int(counts.max() - counts.min()) + 1
    scale = {"zmin": low - 0.5, "zmax": low + n - 0.5, "colorscale": color_steps(n), "showscale": False}
    hover = f"{xlabel} %{{x}}, {ylabel} %{{y}}: %{{z}} {unit}<extra></extra>"
    fig = _named_cells(counts, x, y, **scale, texttemplate="%{z}", hovertemplate=hover)
    return fig.update_layout(xaxis_title=xlabel, yaxis_title=ylabel, height=380)


def share_map(shares: np.ndarray, x: Sequence[str], y: Sequence[str], xlabel: str) -> "go.Figure":
    """A share of models in each cell (y, x), as color and as number; cells of NaN were not tried."""
    bar = {"tickformat": ".0%", "title": {"text": "share of models"}}
    scale = {"zmin": 0, "zmax": 1, "colorscale": "Cividis", "colorbar": bar}
    fig = _named_cells(shares, x, y, **scale, texttemplate="%{z:.0%}", hoverongaps=False)
    return fig.update_layout(xaxis_title=xlabel, height=320)


def _named_cells(z: np.ndarray, x: Sequence[str], y: Sequence[str], **how: Any) -> "go.Figure":
    fig = blank().add_heatmap(z=z, x=list(x), y=list(y), xgap=2, ygap=2, **how)
    return fig.update_xaxes(type="category").update_yaxes(type="category", autorange="reversed")


def phase_map(
    trained: np.ndarray,
    costs: np.ndarray,
    x: Sequence[np.ndarray],
    y: Sequence[np.ndarray],
    names: Sequence[str],
    xlabel: str,
    ylabel: str,
) -> "go.Figure":
    """Trained outcomes as colored squares, on log axes; lines where theory's cheapest outcome changes.

    Args:
        trained: (y, x), each an index of `names`, on the axes `x[0]` and `y[0]`.
        costs: (outcome, y, x), what each of the first names costs in theory, on the axes `x[1]` and `y[1]`.
        names: one per outcome.
    """
    fig = blank().add_heatmap(
        z=trained,
        x=_log_edges(x[0]),
        y=_log_edges(y[0]),
        zmin=-0.5,
        zmax=len(names) - 0.5,
        colorscale=color_steps(len(names)),
        showscale=False,
        text=np.array(names)[trained],
        hovertemplate=f"%{{text}}<br>{xlabel} %{{x:.3g}}<br>{ylabel} %{{y:.3g}}<extra></extra>",
    )
    for i, name in enumerate(names):
        marker = {"symbol": "square", "size": 12, "color": color(i)}
        fig.add_scatter(x=[None], y=[None], mode="markers", name=f"trained: {name}", marker=marker)
    for i, cost in enumerate(costs):
        fig.add_contour(
            z=_log_ratio(np.delete(costs, i, axis=0).min(0), cost).round(4),
            x=x[1],
            y=y[1],
            contours={"start": 0, "end": 0, "size": 1, "coloring": "none"},
            line={"width": 2},
            showscale=False,
            showlegend=i == 0,
            name="boundaries in closed form",
            hoverinfo="skip",
        )
    fig.update_xaxes(title_text=xlabel, type="log").update_yaxes(title_text=ylabel, type="log")
    return fig.update_layout(legend={"orientation": "h", "y": -0.25}, height=480)


def _log_ratio(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """log(one / other) of costs, which may be zero: two equal ones have 0, also where both are zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(one == other, 0.0, np.log(one / other))


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
    """Contours of the loss over one feature's direction, one panel per model, on one color scale.

    Args:
        losses: (model, y, x).
        x, y: where the feature is.
        centers: (model, 2), where it is in the model itself: a cross.
        others: (model, feature, 2), the features that stay: dots.
        titles: one per model.
        ceiling: losses above it share the last color.
    """
    fig = row_of_panels(titles, xlabel, ylabel, spacing=0.1, height=370)
    low = float(losses.min())
    step = (ceiling - low) / 15 or 1.0  # a flat landscape has no contours
    for i, (loss, center, rest) in enumerate(zip(losses, centers, others, strict=True)):
        fig.add_contour(
            z=np.minimum(loss, ceiling),
            customdata=loss,
            x=x,
            y=y,
            coloraxis="coloraxis",
            contours={"start": low, "end": ceiling, "size": step},
            line={"width": 0.5, "color": NULL},
            hovertemplate="(%{x:.2f}, %{y:.2f}): loss %{customdata:.5f}<extra></extra>",
            **panel(i),
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
                showlegend=i == 0,
                hovertemplate=f"{name}: (%{{x:.2f}}, %{{y:.2f}})<extra></extra>",
                **panel(i),
            )
    fig.update_xaxes(range=[x[0], x[-1]]).update_yaxes(range=[y[0], y[-1]])
    return fig.update_layout(
        coloraxis={"colorscale": "Cividis", "cmin": low, "cmax": ceiling, "colorbar": {"title": {"text": "loss"}}},
        legend={"orientation": "h", "y": -0.2},
    )
