"""Sections with findings, tables and figures -> one self-contained HTML page that works offline, light and dark."""

import json
import math
import os
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a report.

    Attributes:
        short: its name in the contents.
        title: what was asked or claimed.
        text: how it was measured, for a stranger.
        finding: what came out, made from the numbers.
        table: labelled results.
        figures: (caption, plotly figure) pairs.
        visuals: (caption, HTML) pairs that need `write`'s visual bundle, such as circuitsvis renders.
    """

    short: str
    title: str
    text: str
    finding: str
    table: pd.DataFrame | None = None
    figures: "Sequence[tuple[str, go.Figure]]" = field(default=())
    visuals: Sequence[tuple[str, str]] = field(default=())


def write(
    path: str | Path, title: str, lead: str, sections: Sequence[Section], footer: str, visual_bundle: str = ""
) -> Path:
    """Write the page, whole or not at all.

    Args:
        path: of the HTML file.
        title, lead: heading and first sentence.
        sections: in order.
        footer: where the numbers come from.
        visual_bundle: a `<script>` element that the sections' visuals need, once for the page.
    """
    return render(
        "report.html.j2",
        path,
        title=title,
        lead=lead,
        sections=sections,
        footer=footer,
        visual_bundle=visual_bundle,
    )


def render(template: str, path: str | Path, *, visual_bundle: str = "", **values: Any) -> Path:
    """Write a page of this look, whole or not at all.

    Args:
        template: that of `write`, or one that extends it. Its filters: `plotly`, a figure as JSON for a script element;
            `cells`, a DataFrame as a table.
        path: of the HTML file.
        visual_bundle: a `<script>` element, once for the page.
        values: what the template shows: `title`, `lead`, `footer` and its own.
    """
    import plotly.io as pio
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    themes = {}
    for name, style in (("light", "plotly_white"), ("dark", "plotly_dark")):
        theme = pio.templates[style].to_plotly_json()
        theme["layout"] |= {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
        themes[name] = theme
    environment = Environment(loader=PackageLoader("tms_hooks.pages", "."), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {
        "plotly": lambda figure: Markup(_figure_json(figure)),
        "cells": lambda table: Markup(table.to_html(border=0, float_format=_number, index_names=False)),
    }
    page = environment.get_template(template).render(
        plotly_js=Markup(get_plotlyjs()),
        visual_bundle=Markup(visual_bundle),
        themes=Markup(_in_script(themes)),
        **values,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text(page, encoding="utf-8")
    os.replace(scratch, path)
    return path


def write_figure(path: str | Path, figure: "go.Figure") -> Path:
    """One figure alone: a self-contained HTML page to turn and read values off, or a picture.

    Raises:
        ValueError: a suffix other than .html, .svg, .png and .pdf.
        RuntimeError: a picture without kaleido or without Chrome or Chromium; the message names what to install.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("html", "svg", "png", "pdf"):
        raise ValueError(f"{path.name}: a figure is written as .html, .svg, .png or .pdf; give one of these suffixes")
    shown = type(figure)(figure).update_layout(template="plotly_white")
    if kind == "html":
        content = shown.to_html(include_plotlyjs=True).encode()
    else:
        try:
            content = shown.to_image(format=kind, width=1000, scale=2)
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(f"{path.name}: {' '.join(str(error).split())} Or give a name in .html.") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _number(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) and value == round(value) else f"{value:,.4g}"


def _figure_json(figure: "go.Figure") -> str:
    plain = json.loads(figure.to_json())
    plain["layout"].pop("template", None)  # the page brings its own, light or dark
    return _in_script(_in_single_precision(plain))


def _in_single_precision(value: Any) -> Any:
    """Long arrays, as plotly writes them, in half the bytes: no screen shows more than seven digits."""
    if isinstance(value, list):
        return [_in_single_precision(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.get("dtype") == "f8" and len(value["bdata"]) > 2**14:
        numbers = np.frombuffer(b64decode(value["bdata"]), "<f8").astype("<f4")
        return value | {"dtype": "f4", "bdata": b64encode(numbers.tobytes()).decode()}
    return {name: _in_single_precision(entry) for name, entry in value.items()}


def _in_script(value: Any) -> str:
    """JSON that cannot end the script element around it."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
