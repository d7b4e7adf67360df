"""Trained weights, drawn: polyhedra to turn, paths through training, Gram matrices, strips of dimensionalities."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from tms_hooks.plots import NULL, PALETTE, TOY

if TYPE_CHECKING:
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
        for lines, width, color in ((_broken(V[edges]), 5, TOY), (_broken(np.stack([0 * V, V], axis=1)), 2, NULL)):
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
    axis = {"title": "", "showticklabels": False, "showbackground": False, "range": [-1.1, 1.1]}
    fig.update_scenes(xaxis=axis, yaxis=axis, zaxis=axis, aspectmode="cube")
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


def trajectories(W: Mapping[str, np.ndarray], steps: Sequence[int]) -> "go.Figure":
    """Paths of two-dimensional features through training, one panel a model; the dotted circle has radius 1.

    Args:
        W: title -> (step, feature, 2).
        steps: that the snapshots were taken at.
    """
    from plotly.subplots import make_subplots

    fig = make_subplots(1, len(W), subplot_titles=list(W), horizontal_spacing=0.05)
    reach = 1.1 * max(1.0, *(float(np.linalg.norm(w, axis=-1).max()) for w in W.values()))
    turn = np.linspace(0, 2 * np.pi, 100)
    for col, w in enumerate(W.values(), start=1):
        circle = {"color": NULL, "dash": "dot", "width": 1}
        fig.add_scatter(x=np.cos(turn), y=np.sin(turn), mode="lines", line=circle, hoverinfo="skip", row=1, col=col)
        for i, path in enumerate(np.moveaxis(w, 1, 0)):
            fig.add_scatter(
                x=path[:, 0],
                y=path[:, 1],
                mode="lines+markers",
                line={"color": PALETTE[i % len(PALETTE)], "width": 1.5},
                marker={"size": [3] * (len(path) - 1) + [11]},
                customdata=list(steps),
                hovertemplate=f"feature {i}, step %{{customdata:,}}<extra></extra>",
                row=1,
                col=col,
            )
        axis = {"range": [-reach, reach], "constrain": "domain", "row": 1, "col": col}
        fig.update_xaxes(title_text="hidden 0", **axis)
        anchor = "x" if col == 1 else f"x{col}"
        fig.update_yaxes(title_text="hidden 1" if col == 1 else None, scaleanchor=anchor, **axis)
    return fig.update_layout(showlegend=False, height=380)


def gram_matrices(W: Mapping[str, np.ndarray]) -> "go.Figure":
    """Inner products of all features with each other, one panel a model, red to blue through white at zero.

    Args:
        W: title -> (feature, hidden).
    """
    from plotly.subplots import make_subplots

    grams = {title: w @ w.T for title, w in W.items()}
    limit = max(float(np.abs(gram).max()) for gram in grams.values()) or 1.0
    fig = make_subplots(1, len(W), subplot_titles=list(W), horizontal_spacing=0.05)
    for col, gram in enumerate(grams.values(), start=1):
        shown = "features %{x} and %{y}: %{z:.3f}<extra></extra>"
        fig.add_heatmap(z=gram, coloraxis="coloraxis", hovertemplate=shown, row=1, col=col)
        anchor = "x" if col == 1 else f"x{col}"
        fig.update_xaxes(constrain="domain", title_text="feature", row=1, col=col)
        fig.update_yaxes(autorange="reversed", scaleanchor=anchor, constrain="domain", row=1, col=col)
    scale = {"colorscale": "RdBu", "cmin": -limit, "cmax": limit, "colorbar": {"title": {"text": "W W^T"}}}
    return fig.update_layout(coloraxis=scale, height=360)


def strips(
    values: Mapping[str, np.ndarray], xlabel: str, ylabel: str, marks: Mapping[str, float] | None = None
) -> "go.Figure":
    """Every value as a point, one strip a name; `marks` are named lines across, such as the D_i of ideal shapes."""
    import plotly.graph_objects as go

    fig = go.Figure()
    for name, v in values.items():
        invisible = {"fillcolor": "rgba(0,0,0,0)", "line": {"color": "rgba(0,0,0,0)"}}
        dots = {"boxpoints": "all", "pointpos": 0, "jitter": 0.8, "marker": {"color": TOY, "size": 4, "opacity": 0.6}}
        fig.add_box(y=v, name=name, **invisible, **dots)
    for name, height in (marks or {}).items():
        fig.add_hline(y=height, line_dash="dot", line_color=NULL, annotation_text=name)
    fig.update_xaxes(title_text=xlabel, type="category")
    return fig.update_layout(yaxis_title=ylabel, showlegend=False, height=380)


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
