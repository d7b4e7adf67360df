"""What figures are drawn on and with: one pair of axes or a row of panels, and one set of colors for all of them."""

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from probes.style import NEGATIVE, PALETTE, POSITIVE, template
from tms_hooks.errors import explained
from tms_hooks.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go


TOY, REAL = POSITIVE, NEGATIVE
"""A toy's measurement and a real model's: the same colors in every figure, beside the null's `NULL`."""
WRAP = 4
"""Panels in a row."""
MOST_PANELS = 40
"""Panels in a figure."""
LINE, LONG_LINE = 20, 34
"""Characters for which a panel's title has room: before settings are put on lines of their own, and at all."""


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
    """A decorator: the function, which is one of numpy arrays, takes tensors and labeled arrays in their place.

    A function that draws models says in its signature that it takes a run; any other refuses one.
    """
    checked = explained()(function)
    parameters = inspect.signature(function).parameters.values()
    draws_models = any("Run" in str(parameter.annotation) for parameter in parameters)

    @wraps(function)
    def outer(*args: Any, **named: Any) -> Any:
        if not draws_models and any(isinstance(value, Run) for value in (*args, *named.values())):
            first = next(iter(parameters)).name
            raise TypeError(
                f"{function.__name__} draws numbers, not a run: give {first} from it, such as arrays of run.table, "
                "run.W_E or run.history; feature_arrows, matrices and norm_bars take a run"
            )
        return checked(*map(as_array, args), **{name: as_array(value) for name, value in named.items()})

    return cast(Function, outer)


def models_to_draw(
    models: Any,
    titles: Sequence[str] | None = None,
    axes: str = "feature hidden",
    of: Callable[[Any], Any] = lambda W: W,
    most: int = MOST_PANELS,
) -> tuple[list[np.ndarray], list[str]]:
    """What is drawn of each model, an array with these axes, and a title for each.

    Args:
        models: a run, of whose `W_E` the function `of` makes what is drawn; or that itself: a stack of arrays with a
            leading model axis, one model's, or title -> one model's.
        titles: by default those of a mapping, what differs between the models of a run, or their numbers.

    Raises:
        ValueError: arrays with other axes, another number of titles, more models than a figure can show, or none.
    """
    if isinstance(models, Run):
        titles, models = models.labels if titles is None else titles, of(models.W_E)
    if isinstance(models, Mapping):
        titles, stack = (
            list(models) if titles is None else titles,
            [np.asarray(as_array(each)) for each in models.values()],
        )
    else:
        whole = np.asarray(as_array(models))
        stack = list(whole[None] if whole.ndim == len(axes.split()) else np.atleast_1d(whole))
    for array in stack:
        if np.ndim(array) != len(axes.split()) or not np.size(array):
            shown, given = axes.replace(" ", ", "), array if isinstance(models, Mapping) else whole
            what = f"a {type(models).__name__}" if given.dtype == object else f"an array of shape {given.shape}"
            raise ValueError(
                f"{what}: must be an array (model, {shown}), or ({shown}) of one model, and not empty; or give a run"
            )
    if not 0 < len(stack) <= most:
        raise ValueError(f"{len(stack)} models: a figure shows 1 to {most}; give some of them, such as `run.W_E[:8]`")
    if titles is None:
        titles = [f"model {i}" for i in range(len(stack))] if len(stack) > 1 else [""]
    if isinstance(titles, str) or len(titles) != len(stack):
        raise ValueError(
            f"titles={titles!r} for {len(stack)} model{'s' * (len(stack) > 1)}: give a list of one per model"
        )
    return stack, list(titles)


def color(number: int) -> str:
    """The color of the feature, line or group of this number; they come round again."""
    return PALETTE[number % len(PALETTE)]


def color_steps(n: int) -> list[tuple[float, str]]:
    """A color scale of n flat steps, one per number from 0 to n - 1."""
    return [(edge / n, color(i)) for i in range(n) for edge in (i, i + 1)]


def row_of_panels(
    titles: Sequence[str], xlabel: str, ylabel: str, spacing: float = 0.03, height: int = 240, square: bool = True
) -> "go.Figure":
    """Empty panels; a new row begins after `WRAP` of them. In square ones a step right is as long as a step upwards.

    Others share one y axis. Only the first of a row names its y axis, and only the last row its x axes. `height` is a
    panel's, in pixels.
    """
    from plotly.subplots import make_subplots

    columns = min(WRAP, len(titles))
    rows = -(-len(titles) // columns)
    left_out: list[dict[str, str] | None] = [None] * (rows * columns - len(titles))
    cells = [*({} for _ in titles), *left_out]
    fig = make_subplots(
        rows,
        columns,
        subplot_titles=[title_lines(title) for title in titles],
        horizontal_spacing=spacing,
        vertical_spacing=0.25 / rows,
        specs=[cells[row * columns : (row + 1) * columns] for row in range(rows)],
    )
    fig.update_xaxes(title_text=xlabel, row=rows).update_yaxes(title_text=ylabel, col=1)
    if square:
        fig.update_xaxes(constrain="domain").update_yaxes(constrain="domain")
        for i in range(len(titles)):
            fig.update_yaxes(scaleanchor=f"x{i + 1}" if i else "x", **panel(i))
    else:
        fig.update_yaxes(matches="y", showticklabels=False).update_yaxes(showticklabels=True, col=1)
    lines = max((title_lines(title).count("<br>") for title in titles), default=0)
    fig.update_annotations(font_size=12)
    return fig.update_layout(
        template=template(), margin={"t": 60 + 16 * lines, "b": 50}, height=110 + (height + 16 * lines) * rows
    )


def title_lines(title: str) -> str:
    """A panel's title with every setting on a line of its own, or on two if it is long; other long titles by words.

    >>> title_lines("lr=0.1, feature_probability=0.5")
    'lr=0.1<br>feature_probability<br>= 0.5'
    """
    if len(title) <= LINE or "<br>" in title:
        return title
    settings = re.split(r", (?=\w+=)", title)
    if "=" in title:
        return "<br>".join(each if len(each) <= LINE else each.replace("=", "<br>= ", 1) for each in settings)
    return "<br>".join(textwrap.wrap(title, LONG_LINE))


def panel(i: int) -> dict[str, int]:
    """Row and column, from 1, of panel number i, from 0."""
    return {"row": i // WRAP + 1, "col": i % WRAP + 1}


def center(fig: "go.Figure", reach: float, **place: int) -> None:
    """Both axes of a panel, or of all panels, run from -reach to reach."""
    fig.update_xaxes(range=[-reach, reach], **place).update_yaxes(range=[-reach, reach], **place)


def make_square(fig: "go.Figure", matrix: np.ndarray) -> "go.Figure":
    """Cells as wide as high, if the matrix is square: its diagonal is one."""
    if matrix.shape[0] == matrix.shape[1]:
        fig.update_xaxes(constrain="domain").update_yaxes(scaleanchor="x", constrain="domain")
    return fig
