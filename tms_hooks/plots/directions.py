"""Directions of features: arrows in the plane, their paths through training, polyhedra to turn."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch

from tms_hooks.plots.layout import NULL, PALETTE, TOY, as_array, center, color, panel, row_of_panels
from tms_hooks.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

HIDDEN = ("hidden 0", "hidden 1")
"""The axes of a plane of hidden activations."""
WRAP, MOST_PANELS = 4, 40
"""Panels in a row, and in a figure."""
LINE = 20
"""Characters for which a panel's title has room in one line."""


def feature_arrows(
    W: "np.ndarray | torch.Tensor | Run",
    titles: Sequence[str] | None = None,
    radii: Sequence[Sequence[float]] | None = None,
) -> "go.Figure":
    """Feature directions in the plane, one panel per model, with dotted circles: of radius 1, or of `radii`.

    Args:
        W: directions (model, feature, 2), or (feature, 2) of one model; or a run, whose panels say what differs
            between its models.
        titles: one per panel; by default the number of the model.

    Raises:
        ValueError: directions that are not in a plane, another number of titles, or more models than a figure can show.
    """
    if isinstance(W, Run):
        titles, W = W.labels if titles is None else titles, W.W_E
    drawn: np.ndarray = as_array(W)
    W = drawn[None] if drawn.ndim == 2 else drawn
    titles = [f"model {i}" if len(W) > 1 else "" for i in range(len(W))] if titles is None else titles
    if len(titles) != len(W):
        raise ValueError(f"titles={titles} for {len(W)} models: give one per model")
    if W.shape[-1] != 2:
        raise ValueError(f"directions in {W.shape[-1]} dimensions: arrows are drawn in 2; `polyhedra` draws 3")
    if len(W) > MOST_PANELS:
        raise ValueError(f"{len(W)} models: a figure shows {MOST_PANELS}; give some of them, `run.W_E[:8].numpy()`")
    fig = row_of_panels([_lines(title) for title in titles], *HIDDEN, wrap=WRAP)
    turn = np.linspace(0, 2 * np.pi, 100)
    for number, model in enumerate(W):
        row, col = panel(number, WRAP)
        circle = {"color": NULL, "dash": "dot", "width": 1}
        for r in (1.0,) if radii is None else radii[number]:
            x, y = r * np.cos(turn), r * np.sin(turn)
            fig.add_scatter(x=x, y=y, mode="lines", line=circle, hoverinfo="skip", row=row, col=col)
        for i, vector in enumerate(model):
            _add_path(fig, col, i, np.stack([0 * vector, vector]), f"norm {np.hypot(*vector):.2f}", row=row)
    center(fig, 1.1 * max(1.0, float(np.linalg.norm(W, axis=-1).max())))
    fig.update_annotations(font_size=12)
    lines = max(_lines(title).count("<br>") for title in titles)
    margin = {"t": 60 + 16 * lines, "b": 50}
    return fig.update_layout(showlegend=False, margin=margin, height=110 + (200 + 16 * lines) * -(-len(W) // WRAP))


def _lines(title: str) -> str:
    """A panel's title with every setting on a line of its own, or on two if it is long.

    >>> _lines("lr=0.1, feature_probability=0.5")
    'lr=0.1<br>feature_probability<br>= 0.5'
    """
    if len(title) <= LINE:
        return title
    settings = re.split(r", (?=\w+=)", title)
    return "<br>".join(each if len(each) <= LINE else each.replace("=", "<br>= ", 1) for each in settings)


def write_and_read(write: np.ndarray, read: np.ndarray, titles: Sequence[str]) -> "go.Figure":
    """Written (solid) and read (dotted) directions (model, feature, 2), one panel per model, at unit length."""
    fig = row_of_panels(titles, *HIDDEN)
    for col, (written, reads) in enumerate(zip(write, read, strict=True), start=1):
        for vectors, verb, width, dash, symbol in (
            (written, "written", 3.0, "solid", "circle"),
            (reads, "read", 2.0, "dot", "x"),
        ):
            for i, vector in enumerate(vectors):
                norm = float(np.linalg.norm(vector))
                arrow = np.stack([0 * vector, vector / (norm or 1.0)])
                _add_path(fig, col, i, arrow, f"{verb}, norm {norm:.2f}", width, dash, symbol)
    center(fig, 1.15)
    return fig.update_layout(showlegend=False, height=340)


def _add_path(
    fig: "go.Figure",
    col: int,
    feature: int,
    points: np.ndarray,
    hover: str,
    width: float = 3.0,
    dash: str = "solid",
    symbol: str = "circle",
    row: int = 1,
) -> None:
    """A line through points (point, 2) with a mark at its end, in the color of the feature."""
    x, y = points.T
    fig.add_scatter(
        x=x,
        y=y,
        mode="lines+markers",
        line={"color": color(feature), "width": width, "dash": dash},
        marker={"size": [0] * (len(x) - 1) + [9], "symbol": symbol},
        name=f"feature {feature}",
        hovertemplate=f"feature {feature}: {hover}<extra></extra>",
        row=row,
        col=col,
    )


def trajectories(W: np.ndarray, titles: Sequence[str]) -> "go.Figure":
    """Paths of feature directions (model, step, feature, 2) in training, one panel per model; a dot marks each end."""
    fig = row_of_panels(titles, *HIDDEN, spacing=0.06)
    for col, model in enumerate(W, start=1):
        for i in range(model.shape[1]):
            _add_path(fig, col, i, model[:, i], "(%{x:.2f}, %{y:.2f})", width=1.5)
        center(fig, 1.1 * max(1.0, float(np.abs(model).max())), col)
    return fig.update_layout(showlegend=False, height=360)


def typical(W: np.ndarray, names: Sequence[str], most: int = 4) -> dict[str, np.ndarray]:
    """The first model (feature, hidden) of each of the most frequent shapes, titled with the shape and its share.

    >>> found = typical(np.zeros((3, 5, 2)), ["pentagon", "square", "pentagon"])
    >>> {title: w.shape for title, w in found.items()}
    {'pentagon (67%)': (5, 2), 'square (33%)': (5, 2)}
    """
    shapes = Counter(names).most_common(most)
    return {f"{name} ({count / len(W):.0%})": W[list(names).index(name)] for name, count in shapes}


def polyhedra(vertices: Mapping[str, np.ndarray]) -> "go.Figure":
    """Directions in space as polyhedra that can be turned, one panel per title: the convex hull, and an arrow to each
    vertex (vertex, 3). Directions that span no volume are drawn without a hull.

    Browsers show some sixteen such panels at a time, over all figures of a page.
    """
    from plotly.subplots import make_subplots

    scenes = [{"type": "scene"}] * len(vertices)
    fig = make_subplots(1, len(vertices), specs=[scenes], subplot_titles=list(vertices), horizontal_spacing=0.01)
    for col, V in enumerate(vertices.values(), start=1):
        faces, edges = hull(V)
        if len(faces):
            corners = dict(zip("ijk", faces.T, strict=True))
            fig.add_mesh3d(**_xyz(V), **corners, color=TOY, opacity=0.25, hoverinfo="skip", row=1, col=col)
        above = 1.01 * V[edges]  # the faces, which would hide parts of them
        for lines, line in (
            (_broken(above), {"color": TOY, "width": 5}),
            (_broken(np.stack([0 * V, V], axis=1)), {"color": NULL, "width": 2}),
        ):
            fig.add_scatter3d(**lines, mode="lines", line=line, hoverinfo="skip", row=1, col=col)
        fig.add_scatter3d(
            **_xyz(V),
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


def _broken(lines: np.ndarray) -> dict[str, np.ndarray]:
    """Segments (line, 2, 3) as one broken line: x, y and z with gaps."""
    gap = np.full((len(lines), 1, 3), np.nan)
    points = np.concatenate([lines.reshape(len(lines), 2, 3), gap], axis=1).reshape(-1, 3)
    return _xyz(points)


def _xyz(points: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip("xyz", points.T, strict=True))
