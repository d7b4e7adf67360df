"""Directions of features: arrows in the plane, their paths through training, polyhedra to turn."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probes.style import NULL, PALETTE, template
from tms_hooks.plots.layout import (
    TOY,
    WRAP,
    as_array,
    center,
    color,
    models_to_draw,
    panel,
    row_of_panels,
    title_lines,
)
from tms_hooks.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

HIDDEN = ("hidden 0", "hidden 1")
"""The axes of a plane of hidden activations."""
MOST_SCENES = 16
"""Panels of polyhedra that browsers show at a time."""
DASHES = ("solid", "dash", "dot", "dashdot")
"""How the members of a group are told apart, which have one color."""


def feature_arrows(
    W: "np.ndarray | torch.Tensor | Mapping[str, np.ndarray] | Run",
    titles: Sequence[str] | None = None,
    radii: Sequence[Sequence[float]] | None = None,
) -> "go.Figure":
    """Feature directions in the plane, one panel per model, with dotted circles: of radius 1, or of `radii`.

    The legend says which color is which feature, as long as there are colors for all.

    Args:
        W: directions (model, feature, 2), or (feature, 2) of one model, or title -> (feature, 2); or a run, whose
            panels say what differs between its models, and where features that its data group together have one color.
        titles: one per panel; by default the number of the model.

    Raises:
        ValueError: directions that are not in a plane, another number of titles, or more models than a figure can show.
    """
    return _arrows(W, titles, radii, _group_size(W))


def _group_size(W: object) -> int:
    """How many consecutive features a run's data group together."""
    return getattr(W.recipe.data, "group_size", 1) if isinstance(W, Run) else 1


def _in_plane(models: Any, titles: Sequence[str] | None, axes: str = "feature hidden") -> tuple[Any, list[str]]:
    """Models whose directions are in a plane, as a list, with a title for each.

    Raises:
        ValueError: directions in more or fewer dimensions.
    """
    arrays, titles = models_to_draw(models, titles, axes)
    _check_width(arrays, 2, "arrows are drawn in 2; `polyhedra` draws 3")
    return arrays, titles


def _check_width(models: Sequence[np.ndarray], wanted: int, rule: str) -> None:
    for model in models:
        if model.shape[-1] != wanted:
            raise ValueError(
                f"directions in {model.shape[-1]} dimensions: {rule}, and of any number `matrices(run)` shows how "
                "features overlap and `norm_bars(run)` how long they are"
            )


def _arrows(
    W: Any, titles: Sequence[str] | None, radii: Sequence[Sequence[float]] | None, group_size: int
) -> "go.Figure":
    models, titles = _in_plane(W, titles)
    fig = row_of_panels(titles, *HIDDEN, height=200)
    turn = np.linspace(0, 2 * np.pi, 100)
    for number, model in enumerate(models):
        circle = {"color": NULL, "dash": "dot", "width": 1}
        for r in (1.0,) if radii is None else radii[number]:
            x, y = r * np.cos(turn), r * np.sin(turn)
            fig.add_scatter(x=x, y=y, mode="lines", line=circle, hoverinfo="skip", showlegend=False, **panel(number))
        for i, vector in enumerate(model):
            look = {} if group_size == 1 else _member(i, group_size)
            _add_path(fig, number, i, np.stack([0 * vector, vector]), f"norm {np.hypot(*vector):.2f}", **look)
    center(fig, 1.1 * max(1.0, *(float(np.linalg.norm(model, axis=-1).max()) for model in models)))
    return _with_legend(fig, len(models[0]) // group_size)


def _with_legend(fig: "go.Figure", hues: int) -> "go.Figure":
    """One entry per feature, unless there are more of them, or of their groups, than colors."""
    return fig.update_layout(showlegend=hues <= len(PALETTE))


def _member(feature: int, group_size: int) -> dict[str, Any]:
    """Features of one group have one color and one name; the dash tells them apart."""
    group, member = divmod(feature, group_size)
    return {"hue": group, "dash": DASHES[member % len(DASHES)], "name": f"feature {feature}, group {group}"}


def movie(
    W: "np.ndarray | torch.Tensor | Run", titles: Sequence[str] | None = None, steps: Sequence[int] | None = None
) -> "go.Figure":
    """`feature_arrows` through training: the trained models, and a slider and a button for every recorded step.

    `fig.write_html("movie.html")` keeps it; pages of this library have keys for it too.

    Args:
        W: directions (step, model, feature, 2); or a run, of which the first four models are shown.
        titles, steps: names of the models and of the frames; a run has its own.

    Raises:
        ValueError: directions that are not in a plane, or fewer than three records.
    """
    group_size = _group_size(W)
    if isinstance(W, Run):
        titles = W.labels[:WRAP] if titles is None else titles
        steps = W.history.step.values if steps is None else steps
        W = _recorded(W)[:, :WRAP]
    frames: np.ndarray = as_array(W)
    if frames.ndim != 4:
        raise ValueError(f"directions of shape {frames.shape}: must be (step, model, feature, 2), or a run")
    if len(frames) < 3:
        raise ValueError(f"{len(frames)} records make no movie: train with record_every=steps // 50")
    names = [str(step) for step in (range(len(frames)) if steps is None else steps)]
    fig = _arrows(frames[-1], titles, None, group_size)
    arrows = [i for i, trace in enumerate(fig.data) if trace.name]
    ends = frames.reshape(len(frames), -1, 2)
    fig.frames = [
        {
            "name": name,
            "traces": arrows,
            "data": [{"type": "scatter", "x": [0, float(x)], "y": [0, float(y)]} for x, y in end],
        }
        for name, end in zip(names, ends, strict=True)
    ]
    center(fig, 1.1 * max(1.0, float(np.linalg.norm(frames, axis=-1).max())))
    return _played(fig, "step ")


def _recorded(run: Run) -> np.ndarray:
    """Directions through training (step, model, feature, hidden)."""
    if "W_E" not in run.history:
        raise ValueError("the history has no snapshots of W_E: train with it in record=, or leave record= out")
    found: np.ndarray = run.history.W_E.values
    return found


def _played(fig: "go.Figure", prefix: str) -> "go.Figure":
    """A button and a slider below a figure that shows the last of its frames; pages put keys of their own there."""
    now = {"mode": "immediate", "frame": {"duration": 60, "redraw": True}, "transition": {"duration": 0}}
    play = {"label": "play", "method": "animate", "args": [None, now]}
    pause = {"label": "pause", "method": "animate", "args": [[None], now]}
    steps = [{"label": frame.name, "method": "animate", "args": [[frame.name], now]} for frame in fig.frames]
    below = {"y": 0, "yanchor": "top", "pad": {"t": 55}}
    buttons = {"type": "buttons", "direction": "left", "buttons": [play, pause], "x": 0, "xanchor": "left", **below}
    slider = {
        "steps": steps,
        "active": len(steps) - 1,
        "x": 0.2,
        "len": 0.8,
        "currentvalue": {"prefix": prefix},
        **below,
    }
    return fig.update_layout(
        updatemenus=[buttons], sliders=[slider], margin_b=130, height=(fig.layout.height or 380) + 80
    )


def write_and_read(
    write: "np.ndarray | Mapping[str, np.ndarray] | Run",
    read: "np.ndarray | Mapping[str, np.ndarray] | None" = None,
    titles: Sequence[str] | None = None,
) -> "go.Figure":
    """Written (solid) and read (dotted) directions, one panel per model, at unit length.

    Args:
        write: directions (model, feature, 2), or (feature, 2) of one model; or a run, which has both.
        read: those that the features are read along.
        titles: one per model.
    """
    if isinstance(write, Run) and read is None:
        read = as_array(write.weights["W_U"].mT if "W_U" in write.weights else write.W_E)
    if read is None:
        raise ValueError("read is missing: give the directions that features are read along, or write_and_read(run)")
    written, titles = _in_plane(write, titles)
    reads, _ = _in_plane(read, titles)
    fig = row_of_panels(titles, *HIDDEN)
    for number, models in enumerate(zip(written, reads, strict=True)):
        for vectors, verb, width, dash, symbol in (
            (models[0], "written", 3.0, "solid", "circle"),
            (models[1], "read", 2.0, "dot", "x"),
        ):
            for i, vector in enumerate(vectors):
                norm = float(np.linalg.norm(vector))
                arrow = np.stack([0 * vector, vector / (norm or 1.0)])
                _add_path(
                    fig, number, i, arrow, f"{verb}, norm {norm:.2f}", width, dash, symbol, named=verb == "written"
                )
    center(fig, 1.15)
    return _with_legend(fig, len(written[0]))


def _add_path(
    fig: "go.Figure",
    number: int,
    feature: int,
    points: np.ndarray,
    hover: str,
    width: float = 3.0,
    dash: str = "solid",
    symbol: str = "circle",
    hue: int | None = None,
    name: str = "",
    named: bool = True,
) -> None:
    """A line through points (point, 2) with a mark at its end, in the color of the feature, in one panel.

    The first panel's are in the legend, if they are named there, and stand for those of all.
    """
    x, y = points.T
    name = name or f"feature {feature}"
    fig.add_scatter(
        x=x,
        y=y,
        mode="lines+markers",
        line={"color": color(feature if hue is None else hue), "width": width, "dash": dash},
        marker={"size": [0] * (len(x) - 1) + [9], "symbol": symbol},
        name=name,
        legendgroup=str(feature),
        showlegend=named and number == 0,
        hovertemplate=f"{name}: {hover}<extra></extra>",
        **panel(number),
    )


def trajectories(W: "np.ndarray | Run", titles: Sequence[str] | None = None) -> "go.Figure":
    """Paths of feature directions in training, one panel per model; a dot marks each end.

    Args:
        W: directions (model, step, feature, 2), or (step, feature, 2) of one model; or a run.
        titles: one per model.
    """
    if isinstance(W, Run):
        titles, W = W.labels if titles is None else titles, _recorded(W).swapaxes(0, 1)
    models, titles = _in_plane(W, titles, "step feature hidden")
    fig = row_of_panels(titles, *HIDDEN, spacing=0.06, height=260)
    for number, model in enumerate(models):
        for i in range(model.shape[1]):
            _add_path(fig, number, i, model[:, i], "(%{x:.2f}, %{y:.2f})", width=1.5)
        center(fig, 1.1 * max(1.0, float(np.abs(model).max())), **panel(number))
    return _with_legend(fig, models[0].shape[1])


def typical(W: np.ndarray, names: Sequence[str], most: int = 4) -> dict[str, np.ndarray]:
    """The first model (feature, hidden) of each of the most frequent shapes, titled with the shape and its share.

    >>> found = typical(np.zeros((3, 5, 2)), ["pentagon", "square", "pentagon"])
    >>> {title: w.shape for title, w in found.items()}
    {'pentagon (67%)': (5, 2), 'square (33%)': (5, 2)}
    """
    shapes = Counter(names).most_common(most)
    return {f"{name} ({count / len(W):.0%})": W[list(names).index(name)] for name, count in shapes}


def polyhedra(vertices: "Mapping[str, np.ndarray] | np.ndarray | Run") -> "go.Figure":
    """Directions in space as polyhedra, one panel per model: the convex hull, and an arrow to each vertex.
    Drag one to turn it, or play to see all go round. Directions that span no volume are drawn without a hull.

    Browsers show some sixteen such panels at a time, over all figures of a page.

    Args:
        vertices: title -> directions (vertex, 3); or those of one model, or of several (model, vertex, 3), or a run.

    Raises:
        ValueError: directions in another number of dimensions, or more models than browsers show.
    """
    from plotly.subplots import make_subplots

    models, titles = models_to_draw(vertices, most=MOST_SCENES)
    _check_width(models, 3, "polyhedra are drawn in 3; `feature_arrows` draws 2")
    rows, columns = -(-len(models) // WRAP), min(WRAP, len(models))
    scenes = [[{"type": "scene"}] * columns] * rows
    shown = [title_lines(title) for title in titles]
    fig = make_subplots(rows, columns, specs=scenes, subplot_titles=shown, horizontal_spacing=0.01)
    for number, V in enumerate(models):
        faces, edges = hull(V)
        if len(faces):
            corners = dict(zip("ijk", faces.T, strict=True))
            fig.add_mesh3d(**_xyz(V), **corners, color=TOY, opacity=0.25, hoverinfo="skip", **panel(number))
        above = 1.01 * V[edges]  # the faces, which would hide parts of them
        for lines, line in (
            (_broken(above), {"color": TOY, "width": 5}),
            (_broken(np.stack([0 * V, V], axis=1)), {"color": NULL, "width": 2}),
        ):
            fig.add_scatter3d(**lines, mode="lines", line=line, hoverinfo="skip", **panel(number))
        fig.add_scatter3d(
            **_xyz(V),
            mode="markers+text",
            text=[str(n) for n in range(len(V))],
            marker={"size": 5, "color": PALETTE[1]},
            hovertemplate="vertex %{text}: (%{x:.2f}, %{y:.2f}, %{z:.2f})<extra></extra>",
            **panel(number),
        )
    reach = 1.1 * max(1.0, *(float(np.linalg.norm(V, axis=-1).max()) for V in models))
    axis = {"visible": False, "range": [-reach, reach]}
    fig.update_scenes(xaxis=axis, yaxis=axis, zaxis=axis, aspectmode="cube", camera=_camera(0))
    fig.update_annotations(font_size=12)
    fig.frames = [
        {
            "name": f"{angle}°",
            "layout": {f"scene{i + 1 if i else ''}": {"camera": _camera(angle)} for i in range(len(models))},
        }
        for angle in range(0, 361, 10)
    ]
    fig.update_layout(template=template(), showlegend=False, height=40 + 340 * rows)
    return _played(fig.update_layout(margin={"l": 0, "r": 0, "t": 40}), "turned by ")


def _camera(angle: int) -> dict[str, dict[str, float]]:
    """Where polyhedra are seen from, turned by so many degrees."""
    at = np.deg2rad(angle) + np.arctan2(0.9, 1.2)
    return {"eye": {"x": float(1.5 * np.cos(at)), "y": float(1.5 * np.sin(at)), "z": 0.6}}


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
