"""Figures with a mark for each feature: bars of norms, graphs of interference, lines through training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from probes.style import NULL
from tms_hooks import geometry
from tms_hooks.geometry.polytopes import named_polytope
from tms_hooks.plots.layout import color, models_to_draw, panel, row_of_panels
from tms_hooks.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_EDGES = 400
"""Of a graph, the strongest."""


def norm_bars(
    norms: "np.ndarray | Mapping[str, np.ndarray] | Run",
    interference: "np.ndarray | None" = None,
    titles: Sequence[str] | None = None,
) -> "go.Figure":
    """Norms of features as bars, one panel per model; the color is interference, on one scale from 0 to its largest.

    Dark features are orthogonal to all others; one whose interference is its squared norm shares its direction with as
    much as itself (Elhage et al. 2022, "Toy Models of Superposition").

    Args:
        norms: (model, feature), or (feature) of one model; or a run, which has its own interference and titles.
        interference: of the same shape, as `geometry.interference` gives it.
        titles: one per model.

    Raises:
        ValueError: norms without interference, or of another shape.
    """
    if isinstance(norms, Run) and interference is None:
        interference = geometry.interference(norms.W_E).numpy()
    bars, titles = models_to_draw(norms, titles, "feature", geometry.feature_norms)
    if interference is None:
        raise ValueError("interference is missing: give geometry.interference(W) of the same models, or norm_bars(run)")
    spreads, _ = models_to_draw(interference, None, "feature")
    if [spread.shape for spread in spreads] != [bar.shape for bar in bars]:
        raise ValueError(
            f"norms of {len(bars)} models with {len(bars[0])} features, interference of {len(spreads)} with "
            f"{len(spreads[0])}: must be of the same models"
        )
    fig = row_of_panels(titles, "feature", "norm", height=200, square=False)
    for number, (bar, spread) in enumerate(zip(bars, spreads, strict=True)):
        hover = "feature %{x}: norm %{y:.2f}, interference %{marker.color:.2f}<extra></extra>"
        marker = {"color": spread, "coloraxis": "coloraxis"}
        fig.add_bar(x=np.arange(len(bar)), y=bar, marker=marker, hovertemplate=hover, **panel(number))
    largest = float(max(spread.max() for spread in spreads)) or 1.0
    scale = {"colorscale": "Cividis", "cmin": 0, "cmax": largest, "colorbar": {"title": {"text": "interference"}}}
    return fig.update_layout(coloraxis=scale, showlegend=False)


def interference_graphs(W: "Mapping[str, np.ndarray] | np.ndarray | Run", learned: float = 0.5) -> "go.Figure":
    """Learned features as nodes and |W_i . W_j| as edges, one panel per model.

    Each tegum factor, features that interfere with one another, is a ring with the name of its shape.

    Args:
        W: title -> directions (feature, hidden); or those of one model, of several (model, feature, hidden), or a run.
        learned: the norm above which a feature is one.
    """
    models, titles = models_to_draw(W)
    fig = row_of_panels(titles, "", "", spacing=0.04, height=320, square=False)
    for at, model in enumerate(models):
        directions = torch.as_tensor(model)
        factors = sorted(geometry.tegum_factors(directions, learned), key=len, reverse=True)
        place, centers = rings(factors)
        dots = np.abs(model @ model.T)
        edges = sorted(
            ((dots[i, j], i, j) for f in factors for i in f for j in f if i < j and dots[i, j] > 0.1), reverse=True
        )
        for strength, i, j in edges[:MOST_EDGES]:
            (x, y), line = np.stack([place[i], place[j]]).T, {"color": NULL, "width": 4 * min(float(strength), 1.0)}
            fig.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", **panel(at))
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
                **panel(at),
            )
            name = named_polytope(directions[factor], learned)
            fig.add_scatter(x=[x], y=[y - 1.7], mode="text", text=[name], hoverinfo="skip", **panel(at))
    fig.update_xaxes(visible=False).update_yaxes(visible=False, matches=None)
    return fig.update_layout(showlegend=False)


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
    models, titles = models_to_draw(values, None, "step feature")
    fig = row_of_panels(titles, "training step", ylabel, square=False)
    for number, (title, lines) in enumerate(zip(titles, models, strict=True)):
        for i, line in enumerate(lines.T):
            heavy = (marked or {}).get(title) == i
            fig.add_scatter(
                x=steps,
                y=line,
                mode="lines",
                line={"color": color(i), "width": 4 if heavy else 1.5, "dash": "dash" if heavy else "solid"},
                name=f"feature {i}",
                legendgroup=str(i),
                showlegend=number == 0,
                **panel(number),
            )
    return fig.update_yaxes(type="log")
