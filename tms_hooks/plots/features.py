"""Figures with a mark for each feature: bars of norms, graphs of interference, lines through training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from probes.style import NULL, template
from tms_hooks.plots.layout import color

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_EDGES = 400
"""Of a graph, the strongest."""


def norm_bars(norms: np.ndarray, interference: np.ndarray, titles: Sequence[str]) -> "go.Figure":
    """Norms of features (model, feature) as bars, one panel per model; the color is interference, up to 1.

    Dark features are orthogonal to all others, light ones share their direction with as much as themselves (Elhage et
    al. 2022, "Toy Models of Superposition").
    """
    from plotly.subplots import make_subplots

    fig = make_subplots(1, len(norms), shared_yaxes=True, subplot_titles=list(titles), horizontal_spacing=0.03)
    for col, (norm, spread) in enumerate(zip(norms, interference, strict=True), start=1):
        hover = "feature %{x}: norm %{y:.2f}, interference %{marker.color:.2f}<extra></extra>"
        bars = {"color": spread, "coloraxis": "coloraxis"}
        fig.add_bar(x=np.arange(len(norm)), y=norm, marker=bars, hovertemplate=hover, row=1, col=col)
    axis = {"colorscale": "Viridis", "cmin": 0, "cmax": 1, "colorbar": {"title": {"text": "interference"}}}
    fig.update_xaxes(title_text="feature").update_yaxes(title_text="norm", col=1)
    return fig.update_layout(template=template(), coloraxis=axis, showlegend=False, height=300)


def interference_graphs(W: Mapping[str, np.ndarray], learned: float = 0.5) -> "go.Figure":
    """Learned features (feature, hidden) as nodes and |W_i . W_j| as edges, one panel per title.

    Each tegum factor, features that interfere with one another, is a ring with the name of its shape.
    """
    import torch
    from plotly.subplots import make_subplots

    from tms_hooks import geometry
    from tms_hooks.geometry.polytopes import named_polytope

    fig = make_subplots(1, len(W), subplot_titles=list(W), horizontal_spacing=0.04)
    for col, model in enumerate(W.values(), start=1):
        directions = torch.as_tensor(model)
        factors = sorted(geometry.tegum_factors(directions, learned), key=len, reverse=True)
        place, centers = rings(factors)
        dots = np.abs(model @ model.T)
        edges = sorted(
            ((dots[i, j], i, j) for f in factors for i in f for j in f if i < j and dots[i, j] > 0.1), reverse=True
        )
        for strength, i, j in edges[:MOST_EDGES]:
            (x, y), line = np.stack([place[i], place[j]]).T, {"color": NULL, "width": 4 * min(float(strength), 1.0)}
            fig.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", row=1, col=col)
        for number, (factor, (x, y)) in enumerate(zip(factors, centers, strict=True)):
            points = np.stack([place[i] for i in factor])
            fig.add_scatter(
                x=points[:, 0],
                y=points[:, 1],
                mode="markers+text",
                text=[str(i) for i in factor],
                textposition="top center",
                marker={"size": 9, "color": color(number)},
                hoverinfo="text",
                row=1,
                col=col,
            )
            name = named_polytope(directions[factor], learned)
            fig.add_scatter(x=[x], y=[y - 1.7], mode="text", text=[name], hoverinfo="skip", row=1, col=col)
    fig.update_xaxes(visible=False).update_yaxes(visible=False)
    return fig.update_layout(template=template(), showlegend=False, height=420)


def rings(groups: Sequence[Sequence[int]]) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Where each member of each group stands, on a ring of its own, and where the rings' centers are.

    >>> place, centers = rings([[0, 1], [2]])
    >>> place[0].round(2).tolist(), place[2].round(2).tolist(), centers.tolist()
    ([1.0, 0.0], [4.0, 0.0], [[0.0, 0.0], [4.0, 0.0]])
    """
    wide = max(int(np.ceil(len(groups) ** 0.5)), 1)
    centers = np.array([[4.0 * (k % wide), -4.5 * (k // wide)] for k in range(len(groups))]).reshape(-1, 2)
    place: dict[int, np.ndarray] = {}
    for group, center in zip(groups, centers, strict=True):
        turn = 2 * np.pi * np.arange(len(group)) / len(group)
        ring = (len(group) > 1) * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        place |= dict(zip(group, center + ring, strict=True))
    return place, centers + 0.0


def feature_lines(
    steps: np.ndarray, values: Mapping[str, np.ndarray], ylabel: str, marked: Mapping[str, int] | None = None
) -> "go.Figure":
    """A line per feature through training (step, feature), one panel per title, on a log scale; one may be marked."""
    from plotly.subplots import make_subplots

    fig = make_subplots(1, len(values), shared_yaxes=True, subplot_titles=list(values), horizontal_spacing=0.03)
    for col, (title, lines) in enumerate(values.items(), start=1):
        for i, line in enumerate(lines.T):
            heavy = (marked or {}).get(title) == i
            fig.add_scatter(
                x=steps,
                y=line,
                mode="lines",
                line={"color": color(i), "width": 4 if heavy else 1.5, "dash": "dash" if heavy else "solid"},
                name=f"feature {i}",
                legendgroup=str(i),
                showlegend=col == 1,
                row=1,
                col=col,
            )
    fig.update_xaxes(title_text="training step").update_yaxes(type="log").update_yaxes(title_text=ylabel, col=1)
    return fig.update_layout(template=template(), height=360)
