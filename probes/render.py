"""Results as pictures: attention and token values by circuitsvis, offline; spectra, cosines and sweeps by plotly."""

import html
import json
import uuid
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probes import style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

WIDTH = 640  # of attention and token values, in pixels
HEIGHT = 380  # of a figure, which would else fill its page


class Visual:
    """One circuitsvis element. In a notebook it shows itself, offline; a page takes `html()` after one `bundle()`."""

    def __init__(self, element: str, **props: Any) -> None:
        self.element, self.props = element, props

    def html(self) -> str:
        """The element without the bundle, in a `div` of fixed width; a fresh id each time, so it can stand twice."""
        name = f"circuitsvis-{uuid.uuid4()}"
        return (
            f'<div style="width: {WIDTH}px; max-width: 100%; overflow-x: auto; background: white; color: black; '
            'padding: 0 15px; box-sizing: border-box">'  # its visuals reach 15 pixels over both edges
            f'<div id="{name}"></div></div>'
            f'<script>CircuitsVis.render("{name}", CircuitsVis.{self.element}, {script_json(self.props)})</script>'
        )

    def _repr_html_(self) -> str:
        return bundle() + self.html()


def script_json(value: Any) -> str:
    """JSON that stands in a script element and cannot leave it, whatever its strings say.

    HTML reads a script only for `<`: `</script>` would end it, `<!--<script>` swallow what follows. Every character
    beyond ASCII is escaped too, so that line separators and lone surrogates are harmless.

    >>> script_json(["</script>", "<!--", "\\u2028"])
    '["\\\\u003c/script>","\\\\u003c!--","\\\\u2028"]'
    """
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


@cache
def bundle() -> str:
    """circuitsvis's JavaScript (1.3 MB) as a script element: once per page, before the first visual.

    A classic script, not a module: `CircuitsVis` becomes global and every later element finds it.
    """
    source = files("circuitsvis").joinpath("dist", "cdn", "iife.js").read_text(encoding="utf-8")
    return "<script>" + source.replace("</script", "<\\/script") + "</script>"


def attention(
    tokens: Sequence[str], scores: Float[Tensor, "head query key"], *, heads: Sequence[str] | None = None
) -> Visual:
    """Attention of some heads over one text: patterns, scores or single slices, signed about zero, nothing masked.

    >>> attention(["a", "b"], torch.tensor([[[0.5, -1.0], [2.0, 0.0]]])).props["minValue"]
    -2.0

    Args:
        tokens: one per position.
        scores: blue where positive, vermilion where negative, white at zero. Masked scores are to be set to zero.
        heads: their names.

    Raises:
        ValueError: shapes that do not fit, or scores that are infinite or masked by a huge number.
    """
    scores = _finite(scores, "scores")
    if scores.shape[1:] != (len(tokens), len(tokens)):
        raise ValueError(f"scores of shape {tuple(scores.shape)} for {len(tokens)} tokens: must be head x query x key")
    names = list(heads) if heads is not None else [f"head {i}" for i in range(len(scores))]
    if len(names) != len(scores):
        raise ValueError(f"{len(names)} names for {len(scores)} heads")
    limit = float(scores.abs().max()) or 1.0
    shared = {
        "tokens": list(tokens),
        "minValue": -limit,
        "maxValue": limit,
        "positiveColor": style.POSITIVE,
        "negativeColor": style.NEGATIVE,
        "maskUpperTri": False,  # by default circuitsvis hides half of a score matrix
    }
    if len(scores) == 1:
        return Visual("AttentionPattern", attention=scores[0].tolist(), showAxisLabels=True, **shared)
    return Visual("AttentionHeads", attention=scores.tolist(), attentionHeadNames=names, **shared)


def token_values(
    tokens: Sequence[str], values: Float[Tensor, "pos feature"], *, labels: Sequence[str] | None = None
) -> Visual:
    """A text colored by the activation of a feature, with a button for each feature.

    >>> token_values(["a", "b"], torch.eye(2)).element
    'ColoredTokensMulti'

    Args:
        tokens: one per position.
        values: activations of features, units or slices.
        labels: names of the features.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """
    values = _finite(values, "values")
    names = list(labels) if labels is not None else [f"feature {i}" for i in range(values.shape[1])]
    if values.shape != (len(tokens), len(names)):
        raise ValueError(f"values of shape {tuple(values.shape)} for {len(tokens)} tokens and {len(names)} labels")
    shown = [html.escape(token) for token in tokens]  # this element takes its tokens for HTML
    return Visual("ColoredTokensMulti", tokens=shown, values=values.tolist(), labels=names)


def cosine_figure(cosines: Float[Tensor, "k feature"], *, title: str = "") -> "Figure":
    """Heatmap of the cosines of singular vectors with directions, from -1 to 1."""
    k, n = cosines.shape
    hover = "singular vector %{y}<br>feature %{x}<br>cosine %{z:.3f}"
    figure = _heatmap(cosines.tolist(), list(range(n)), list(range(k)), 1, "cosine", hover)
    figure.update_xaxes(title="feature", dtick=1 if n <= 20 else None)
    figure.update_yaxes(title="singular vector", dtick=1 if k <= 20 else None)
    if k == n:
        figure.update_xaxes(constrain="domain").update_yaxes(scaleanchor="x", constrain="domain")
    return figure.update_layout(title=title)


def spectrum_figure(spectra: Mapping[str, Float[Tensor, " k"]], *, title: str = "") -> "Figure":
    """Singular values of one or more matrices, each divided by its largest, on a logarithmic axis."""
    # zeros have no place on a logarithmic axis
    shares = {name: [v if v > 1e-12 else None for v in (S / S.max()).tolist()] for name, S in spectra.items()}
    figure = _lines(shares, first=0)
    figure.update_xaxes(title="singular value, by size")
    figure.update_yaxes(title="share of the largest", type="log", dtick=1)
    return figure.update_layout(title=title)


def slices_figure(slices: Mapping[str, Float[Tensor, " k"]], *, title: str = "") -> "Figure":
    """Running sum of a score's slices, largest contribution first, as a share of the score: at 1 they suffice.

    Raises:
        ValueError: slices that sum to zero have no shares.
    """
    running = {}
    for name, parts in slices.items():
        total = parts.sum()
        if total == 0:
            raise ValueError(f"the slices of {name!r} sum to zero: a share of that score is undefined")
        running[name] = (parts / total).sort(descending=True).values.cumsum(0).tolist()
    figure = _lines(running, first=1)
    figure.add_hline(y=1, line={"dash": "dot", "color": style.NULL, "width": 1.5}, opacity=1)
    figure.update_xaxes(title="slices summed, largest contribution first")
    figure.update_yaxes(title="share of the score", rangemode="tozero")
    return figure.update_layout(title=title)


def sweep_figure(table: pd.DataFrame, *, title: str = "") -> "Figure":
    """What `patch_sweep` recovers: one row per hook, one column per position, head or unit; 0 corrupted, 1 clean.

    Sites that differ otherwise, by their directions, have a row each; of edges the columns are the receivers.

    Args:
        table: of `patch_sweep`, `path_patch` or `attribution_sweep`, with sites of one kind of index.
        title: above the figure.

    Raises:
        ValueError: sites indexed by several of position, head and unit: select rows of one value first.
    """
    edges, row = "receiver" in table and table["receiver"].nunique() > 1, "hook"
    kinds = ["receiver"] if edges else [kind for kind in ("pos", "head", "unit") if table[kind].nunique() > 1]
    if len(kinds) > 1:
        raise ValueError(f"sites vary in {' and '.join(kinds)}: select the rows of one value of all but one of them")
    [column] = kinds or ["pos"]
    grid = table.assign(**{column: table[column].astype(object).where(table[column].notna(), "all")})
    if edges or grid.duplicated([row, column]).any():
        row = "site"
        again = grid.groupby([row, column]).cumcount()  # subspaces of as many directions have one name
        grid[row] = grid[row].where(again == 0, grid[row] + " (" + (again + 1).astype(str) + ")")
    rows, columns = grid[row].unique(), grid[column].unique() if edges else None
    grid = grid.pivot(index=row, columns=column, values="recovered").reindex(rows, columns=columns)
    limit = max(1.0, float(grid.abs().max().max()))
    hover = "%{y}<br>" + column + " %{x}<br>recovered %{z:.3f}"
    figure = _heatmap(grid.to_numpy(), [str(x) for x in grid.columns], list(grid.index), limit, "recovered", hover)
    figure.update_xaxes(title="position" if column == "pos" else column, type="category")
    figure.update_yaxes(title=row, automargin=True)
    return figure.update_layout(title=title, height=max(300, 60 + 26 * len(grid)))


def _lines(curves: Mapping[str, Sequence[float | None]], first: int) -> "Figure":
    """One line per name, a marker at each whole number from `first` on."""
    figure = style.blank(showlegend=True, height=HEIGHT)
    for i, (name, y) in enumerate(curves.items()):
        line = {"color": style.PALETTE[i % len(style.PALETTE)]}
        figure.add_scatter(x=list(range(first, first + len(y))), y=y, name=name, mode="lines+markers", line=line)
    return figure


def _heatmap(z: Any, x: list[Any], y: list[Any], limit: int | float, quantity: str, hover: str) -> "Figure":
    """Rows from the top down, in colors from -`limit` to `limit`."""
    how = style.signed(limit) | {"colorbar": {"title": quantity}, "hovertemplate": f"{hover}<extra></extra>"}
    figure = style.blank(height=HEIGHT).add_heatmap(z=z, x=x, y=y, **how)
    return figure.update_yaxes(autorange="reversed")


def _finite(values: Tensor, name: str) -> Tensor:
    values = values.detach().float().cpu()
    # transformers masks with the smallest finite number, whose colors would leave everything else white
    if not (values.abs() < torch.finfo(torch.float32).max / 2).all():
        raise ValueError(f"{name} are masked or not finite somewhere: set those to 0, torch.where(pattern > 0, x, 0)")
    return values
