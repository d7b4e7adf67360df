"""What figures are drawn on: one pair of axes, or a row of panels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go


def empty_figure() -> "go.Figure":
    """One pair of axes; plotly is loaded when the first figure is drawn."""
    import plotly.graph_objects as go

    return go.Figure()


def row_of_panels(titles: Sequence[str], xlabel: str, ylabel: str, spacing: float = 0.03) -> "go.Figure":
    """Empty panels in which a step to the right is as long as a step upwards; only the first names its y axis."""
    from plotly.subplots import make_subplots

    fig = make_subplots(1, len(titles), subplot_titles=titles, horizontal_spacing=spacing)
    fig.update_xaxes(title_text=xlabel, constrain="domain").update_yaxes(constrain="domain")
    fig.update_yaxes(title_text=ylabel, col=1)
    for col in range(1, len(titles) + 1):
        fig.update_yaxes(scaleanchor="x" if col == 1 else f"x{col}", col=col)
    return fig


def center(fig: "go.Figure", reach: float, col: int | None = None) -> None:
    """Both axes of a panel, or of all panels, run from -reach to reach."""
    fig.update_xaxes(range=[-reach, reach], col=col).update_yaxes(range=[-reach, reach], col=col)
