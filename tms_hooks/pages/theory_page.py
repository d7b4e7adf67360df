"""`tms theory --out`: the closed forms and the landscapes around a pentagon and a hexagon, on one page."""

from collections.abc import Callable
from math import pi
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tms_hooks import landscape, plots, theory
from tms_hooks.config import ToyConfig
from tms_hooks.data import SparseUniform
from tms_hooks.models.toy import ToyModel
from tms_hooks.pages import report

DENSITY = 0.057
"""Of the pentagon-and-hexagon study: six features, two dimensions."""
REACH = 1.6


def write_page(
    out: Path,
    polygons: pd.DataFrame,
    best: pd.DataFrame,
    resolution: int = 25,
    say: Callable[[str], None] = lambda what: None,
) -> Path:
    """Write `index.html`.

    Args:
        out: folder.
        polygons: `theory.polygon_table`.
        best: `theory.best_polygon_table`.
        resolution: points per side of each loss landscape.
        say: called with what is done next.
    """
    return report.write(
        out / "index.html",
        "Polygons on paper",
        "Which regular polygon should a toy model of superposition learn in two dimensions, and can it get there?",
        [one_active(polygons), finite_density(best), landscapes(resolution, say)],
        "tms theory: closed forms and exact expected losses; nothing on this page is trained or sampled.",
    )


def one_active(polygons: pd.DataFrame) -> report.Section:
    """Gain against number of corners, in the limit of one active feature."""
    literal = np.array([theory.polygon_gain_nearest(F, literal=True) for F in polygons.index])
    gains = {
        "with a bias": polygons["gain, bias"].to_numpy(),
        "no bias": polygons["gain, no bias"].to_numpy(),
        "textbook: unit norm, nearest neighbors": polygons["gain, textbook"].to_numpy(),
        "textbook, as printed": literal,
    }
    best = {name: polygons.index[gain.argmin()] for name, gain in gains.items()}
    return report.Section(
        short="One active feature",
        title="Which polygon is best when at most one feature is active?",
        text="Change of the expected loss, per unit of feature probability, when F features form a regular polygon "
        "instead of being ignored: the lower, the better. Norm and bias are the best ones, except in the textbook "
        "argument. As printed, that argument squares the cosine before the ReLU, so the ReLU never acts and F = 3 is "
        "charged for negative overlaps that the model does not see.",
        finding="Lowest: " + "; ".join(f"{name}, F = {F}" for name, F in best.items()) + ".",
        table=polygons,
        figures={
            "Gain against the number of corners.": plots.curves(
                {name: (polygons.index.to_numpy(), gain) for name, gain in gains.items()},
                "corners F",
                "change of loss / feature probability",
            )
        },
    )


def finite_density(best: pd.DataFrame) -> report.Section:
    """The map of the best polygon over number of features and density."""
    last = best.iloc[-1]
    return report.Section(
        short="Any density",
        title="Which polygon is best at finite density?",
        text="Exact expected loss over all patterns of activity, with the best norm and bias at each feature "
        "probability p. The n - F features outside the polygon are ignored at the best constant output.",
        finding=f"For n = {best.index[-1]}: "
        + ", ".join(f"{F} corners at p = {p:g}" for p, F in last.items())
        + ". Fewer features than that: all n of them, if the best polygon has more corners.",
        figures={
            "Corners of the best regular polygon for n features, two hidden dimensions.": plots.counts_map(
                best.to_numpy(),
                [f"{p:g}" for p in best.columns],
                [str(n) for n in best.index],
                "feature probability p",
                "features n",
                "corners",
            )
        },
    )


def landscapes(resolution: int, say: Callable[[str], None] = lambda what: None) -> report.Section:
    """Exact loss on the plane of the sixth feature's two coordinates, around a pentagon and around a hexagon."""
    data, cfg = SparseUniform(n_features=6, feature_probability=DENSITY), ToyConfig(n_features=6, d_hidden=2)
    steps = np.linspace(-REACH, REACH, resolution)
    points, losses = {}, []
    for F, name in ((5, "pentagon"), (6, "hexagon")):
        say(f"summing the exact loss around a {name}, on {resolution} x {resolution} points")
        point = landscape.critical_point(ToyModel.from_weights(cfg, polygon_weights(F)), data)
        origin = point.weights["W_E"].clone()
        origin[5] = 0
        x, y = torch.zeros(2, 6, 2, dtype=torch.float64)
        x[5, 0] = y[5, 1] = 1
        plane = landscape.loss_plane(point.weights | {"W_E": origin}, {"W_E": x}, {"W_E": y}, cfg, data, steps.tolist())
        points[name] = point
        losses.append(plane.numpy())
    W = np.stack([point.weights["W_E"].numpy() for point in points.values()])
    ceiling = 2 * max(point.loss for point in points.values())
    titles = [f"around a {name}" for name in points]
    contours = plots.loss_landscapes(
        np.stack(losses), steps, steps, W[:, 5], W[:, :5], titles, "hidden 0", "hidden 1", ceiling
    )
    return report.Section(
        short="Landscapes",
        title="Can a feature that was not learned still find its place?",
        text=f"Six features at p = {DENSITY}. The sixth feature moves over the plane, all other weights stay those of "
        "the critical point (polished by Newton steps on the exact loss; the kind is read off all eigenvalues of the "
        "Hessian, not off this plane). Losses above twice the pentagon's share the last color.",
        finding="; ".join(
            f"{name} (sixth feature {'ignored' if norm < 0.5 else 'learned'}): loss {point.loss:.5f}, a {point.kind}, "
            f"least curvature {float(point.eigenvalues[0]):.2g}"
            for (name, point), norm in zip(points.items(), np.linalg.norm(W[:, 5], axis=-1), strict=True)
        )
        + ".",
        figures={
            "Loss over the sixth feature's two coordinates. Dots: the other five. Cross: the critical point.": contours
        },
    )


def polygon_weights(F: int) -> dict[str, torch.Tensor]:
    """Six features of which F form the best polygon at this density; the rest are ignored at their best constant."""
    norm, bias, _ = theory.finite_polygon(F, DENSITY)
    angle = 2 * pi / F * torch.arange(F, dtype=torch.float64)
    W = torch.zeros(6, 2, dtype=torch.float64)
    W[:F] = norm * torch.stack([angle.cos(), angle.sin()], dim=1)
    b = torch.full((6,), DENSITY / 2, dtype=torch.float64)
    b[:F] = bias
    return {"W_E": W, "b_U": b}
