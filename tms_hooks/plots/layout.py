"""What figures are drawn on and with: one pair of axes or a row of panels, and one set of colors for all of them."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from tms_hooks.errors import explained

if TYPE_CHECKING:
    import plotly.graph_objects as go


PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B2A500", "#808080")
"""Okabe & Ito 2008, with its yellow and black made visible on white and on dark."""

TOY, REAL, NULL = PALETTE[0], PALETTE[5], PALETTE[7]
"""A toy's measurement, a real model's, and the null's: the same colors in every figure."""

SIGNED = "RdBu"
"""For values whose sign matters, in a range symmetric about zero."""


Function = TypeVar("Function", bound=Callable[..., Any])


def as_array(value: Any) -> Any:
    """A tensor or a labeled array as a numpy array, also inside dictionaries, tuples and lists; else as it is.

    >>> import torch
    >>> as_array({"toy": (torch.ones(2, requires_grad=True), "relu")})
    {'toy': (array([1., 1.], dtype=float32), 'relu')}
    """
    if isinstance(value, Mapping):
        return {name: as_array(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(as_array, value))
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        half = value.is_floating_point() and value.element_size() < 4  # numpy has no bfloat16
        return (value.float() if half else value).numpy()
    return np.asarray(value) if hasattr(value, "dims") else value


def takes_tensors(function: Function) -> Function:
    """A decorator: the function, which is one of numpy arrays, takes tensors and labeled arrays in their place."""

    checked = explained()(function)

    @wraps(function)
    def outer(*args: Any, **named: Any) -> Any:
        return checked(*map(as_array, args), **{name: as_array(value) for name, value in named.items()})

    return cast(Function, outer)


def color(number: int) -> str:
    """The color of the feature, line or group of this number; they come round again."""
    return PALETTE[number % len(PALETTE)]


def color_steps(n: int) -> list[tuple[float, str]]:
    """A color scale of n flat steps, one per number from 0 to n - 1."""
    return [(edge / n, color(i)) for i in range(n) for edge in (i, i + 1)]


def empty_figure() -> "go.Figure":
    """One pair of axes; plotly is loaded when the first figure is drawn."""
    import plotly.graph_objects as go

    return go.Figure()


def row_of_panels(
    titles: Sequence[str], xlabel: str, ylabel: str, spacing: float = 0.03, wrap: int | None = None
) -> "go.Figure":
    """Empty panels in which a step to the right is as long as a step upwards; a new row begins after `wrap` of them.

    Only the first of a row names its y axis, and only the last row its x axes.
    """
    from plotly.subplots import make_subplots

    columns = min(wrap or len(titles), len(titles))
    rows = -(-len(titles) // columns)
    left_out: list[dict[str, str] | None] = [None] * (rows * columns - len(titles))
    cells = [*({} for _ in titles), *left_out]
    fig = make_subplots(
        rows,
        columns,
        subplot_titles=titles,
        horizontal_spacing=spacing,
        vertical_spacing=0.25 / rows,
        specs=[cells[row * columns : (row + 1) * columns] for row in range(rows)],
    )
    fig.update_xaxes(constrain="domain").update_yaxes(constrain="domain")
    fig.update_xaxes(title_text=xlabel, row=rows).update_yaxes(title_text=ylabel, col=1)
    for i in range(len(titles)):
        row, col = panel(i, columns)
        fig.update_yaxes(scaleanchor=f"x{i + 1}" if i else "x", row=row, col=col)
    return fig


def panel(i: int, columns: int) -> tuple[int, int]:
    """Row and column, from 1, of panel number i, from 0, if so many stand in a row."""
    return i // columns + 1, i % columns + 1


def center(fig: "go.Figure", reach: float, col: int | None = None) -> None:
    """Both axes of a panel, or of all panels, run from -reach to reach."""
    fig.update_xaxes(range=[-reach, reach], col=col).update_yaxes(range=[-reach, reach], col=col)
