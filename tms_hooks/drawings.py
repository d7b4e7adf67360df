"""What trained models came to: polyhedra to turn, typical models, shares of shapes and of settings."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from tms_hooks.plots import NULL, PALETTE, TOY

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def typical(W: np.ndarray, names: Sequence[str], most: int = 4) -> dict[str, np.ndarray]:
    """The first model of each of the most frequent shapes, titled with the shape and its share.

    >>> found = typical(np.zeros((3, 5, 2)), ["pentagon", "square", "pentagon"])
    >>> {title: w.shape for title, w in found.items()}
    {'pentagon (67%)': (5, 2), 'square (33%)': (5, 2)}

    Args:
        W: (model, feature, hidden).
        names: one a model.
    """
    shapes = Counter(names).most_common(most)
    return {f"{name} ({count / len(W):.0%})": W[list(names).index(name)] for name, count in shapes}


def polyhedra(vertices: Mapping[str, np.ndarray]) -> "go.Figure":
    """Directions in three dimensions as polyhedra that can be turned: the convex hull and an arrow to each vertex.

    Browsers show some sixteen such panels at a time, over all figures of a page.

    Args:
        vertices: title -> (vertex, 3), one panel each; directions that span no volume are drawn without a hull.
    """
    from plotly.subplots import make_subplots

    scenes = [{"type": "scene"}] * len(vertices)
    fig = make_subplots(1, len(vertices), specs=[scenes], subplot_titles=list(vertices), horizontal_spacing=0.01)
    for col, V in enumerate(vertices.values(), start=1):
        faces, edges = hull(V)
        if len(faces):
            i, j, k = faces.T
            fig.add_mesh3d(
                **dict(zip("xyz", V.T, strict=True)),
                i=i,
                j=j,
                k=k,
                color=TOY,
                opacity=0.25,
                hoverinfo="skip",
                col=col,
                row=1,
            )
        above = 1.01 * V[edges]  # the faces, which would hide parts of them
        for lines, width, color in ((_broken(above), 5, TOY), (_broken(np.stack([0 * V, V], axis=1)), 2, NULL)):
            fig.add_scatter3d(
                **lines, mode="lines", line={"color": color, "width": width}, hoverinfo="skip", row=1, col=col
            )
        fig.add_scatter3d(
            **dict(zip("xyz", V.T, strict=True)),
            mode="markers+text",
            text=[str(n) for n in range(len(V))],
            marker={"size": 5, "color": PALETTE[1]},
            hovertemplate="vertex %{text}: (%{x:.2f}, %{y:.2f}, %{z:.2f})<extra></extra>",
            row=1,
            col=col,
        )
    axis = {"visible": False, "range": [-1.1, 1.1]}
    camera = {"eye": {"x": 1.2, "y": 0.9, "z": 0.6}}
    fig.update_scenes(xaxis=axis, yaxis=axis, zaxis=axis, aspectmode="cube", camera=camera)
    return fig.update_layout(showlegend=False, height=380, margin={"l": 0, "r": 0, "b": 0, "t": 40})


def hull(V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (face, 3) and edges (edge, 2) of the convex hull of points (vertex, 3); none if they span no volume.

    An edge between two triangles that lie in one plane, to 5 degrees, is left out: it is no edge of the polyhedron.

    >>> cube = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    >>> faces, edges = hull(cube)
    >>> len(faces), len(edges)
    (12, 12)
    """
    from scipy.spatial import ConvexHull

    if len(V) < 4 or np.linalg.svd(V - V.mean(0), compute_uv=False)[2] < 1e-3:
        return np.empty((0, 3), int), np.empty((0, 2), int)
    found = ConvexHull(V)
    normals: dict[tuple[int, ...], list[np.ndarray]] = {}
    for face, equation in zip(found.simplices, found.equations, strict=True):
        for edge in combinations(sorted(face.tolist()), 2):
            normals.setdefault(edge, []).append(equation[:3])
    edges = [edge for edge, (a, b) in normals.items() if a @ b < np.cos(np.deg2rad(5))]
    return found.simplices, np.array(edges)


def grouped_shares(tables: "Mapping[str, pd.DataFrame]", xlabel: str) -> "go.Figure":
    """Shares of models in each shape with their 95 % intervals, side by side for several groups of models.

    Args:
        tables: group -> what `tms_hooks.stats.census` returned.
        xlabel: what the groups are.
    """
    import plotly.graph_objects as go

    shapes = list(dict.fromkeys(shape for table in tables.values() for shape in table.index))
    fig = go.Figure()
    for i, shape in enumerate(shapes):
        found = {group: table.loc[shape] for group, table in tables.items() if shape in table.index}
        share, low, high = (
            np.array([row[column] for row in found.values()]) for column in ("share", "share_low", "share_high")
        )
        fig.add_bar(
            x=list(found),
            y=share,
            name=shape,
            marker_color=PALETTE[i % len(PALETTE)],
            error_y={"type": "data", "array": high - share, "arrayminus": share - low},
            hovertemplate=f"{shape}: %{{y:.1%}}<extra></extra>",
        )
    fig.update_xaxes(title_text=xlabel, type="category", categoryorder="array", categoryarray=list(tables))
    axis = {"title": "share of models (95 % interval)", "tickformat": ".0%"}
    return fig.update_layout(barmode="group", yaxis=axis, legend={"orientation": "h", "y": 1.15}, height=360)


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


def _broken(lines: np.ndarray) -> dict[str, np.ndarray]:
    """Segments (line, 2, 3) as one broken line: x, y and z with gaps."""
    gap = np.full((len(lines), 1, 3), np.nan)
    points = np.concatenate([lines.reshape(len(lines), 2, 3), gap], axis=1).reshape(-1, 3)
    return dict(zip("xyz", points.T, strict=True))
