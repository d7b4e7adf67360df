"""One look for every figure: colors that the color-blind can tell apart, one signed scale, one font, light and dark."""

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B2A500", "#808080")
"""Okabe & Ito 2008, with its yellow and black made visible on white and on dark."""
POSITIVE, NEGATIVE, NULL = PALETTE[0], PALETTE[5], PALETTE[7]
"""Blue is positive and vermilion negative everywhere; gray is what a measurement is held against."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

ThemeName = Literal["light", "dark"]


class Theme(NamedTuple):
    """Colors of what is drawn on."""

    ink: str
    paper: str
    grid: str


THEMES: dict[ThemeName, Theme] = {
    "light": Theme("#1a1a1a", "#ffffff", "#d8dbe0"),
    "dark": Theme("#e8e8e8", "#16181c", "#3a3f47"),
}


def template(name: ThemeName = "light") -> dict[str, Any]:
    """The look of all figures as a template of plotly; pages bring theirs, light or dark."""
    ink, paper, grid = THEMES[name]
    axis = {"gridcolor": grid, "zerolinecolor": grid, "linecolor": grid, "automargin": True, "title": {"standoff": 10}}
    return {
        "layout": {
            "font": {"family": FONT, "size": 13, "color": ink},
            "title": {"x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 12}, "font": {"size": 15}},
            "paper_bgcolor": paper,
            "plot_bgcolor": paper,
            "colorway": PALETTE,
            "colorscale": {"diverging": [[0.0, NEGATIVE], [0.5, paper], [1.0, POSITIVE]]},
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"t": 40, "r": 20, "b": 50, "l": 60},
            "hoverlabel": {"font": {"family": FONT}},
        },
        "data": {"contour": [{"line": {"color": ink}}]},
    }


def blank(**layout: Any) -> "Figure":
    """An empty figure in this look; plotly is loaded when the first one is drawn."""
    from plotly.graph_objects import Figure

    return Figure(layout={"template": template()} | layout)


def signed(limit: float | int) -> dict[str, Any]:
    """The signed scale of a heatmap: from -`limit` to `limit`, blank at zero, in the colors of its theme."""
    return {"zmin": -limit, "zmax": limit, "autocolorscale": True}
