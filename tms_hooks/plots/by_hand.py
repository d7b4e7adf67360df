"""Drawings of arrangements that are known in closed form."""

from typing import TYPE_CHECKING

import numpy as np

from tms_hooks import theory
from tms_hooks.plots.directions import feature_arrows
from tms_hooks.plots.layout import color

if TYPE_CHECKING:
    import plotly.graph_objects as go


def perfect_circle(n: int) -> "go.Figure":
    """The circle on which an output bias makes n one-hot features exact, with the line beyond which each is read.

    On a feature's dotted line its output leaves zero: it goes through both of its neighbors, whose own outputs it just
    leaves at zero, and only the feature itself is beyond it. At the feature the output is 1.
    """
    ideal = theory.perfect_circle(n)
    turns = 2 * np.pi / n * np.arange(n)
    W = ideal.norm * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    fig = feature_arrows(W[None], [f"norm {ideal.norm:.2f}, bias {ideal.bias:.2f}"], [[ideal.norm]])
    for i in range(n):
        ends = np.stack([W[i - 1], W[(i + 1) % n]])
        line = {"color": color(i), "dash": "dot", "width": 1}
        fig.add_scatter(x=ends[:, 0], y=ends[:, 1], mode="lines", line=line, showlegend=False, hoverinfo="skip")
    return fig
