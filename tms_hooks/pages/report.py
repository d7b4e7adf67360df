"""Sections with findings, tables and figures -> one self-contained HTML page that works offline, light and dark."""

import json
import math
import re
import textwrap
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probes import style
from probes.render import script_json
from tms_hooks import files
from tms_hooks.errors import check_installed

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a report.

    Attributes:
        short: its name in the contents.
        title: what was asked or claimed.
        text: how it was measured, for a stranger. Here and in findings and captions, `$W^T W x$` is a formula.
        finding: what came out, made from the numbers.
        table: labeled results.
        figures: caption -> plotly figure.
        visuals: caption -> HTML that needs `write`'s visual bundle, such as a render of circuitsvis.
        beside: whether figures and visuals stand side by side where a screen has room, as of a toy and a real model.
    """

    short: str
    title: str
    text: str
    finding: str
    table: pd.DataFrame | None = None
    figures: "Mapping[str, go.Figure]" = field(default_factory=dict)
    visuals: Mapping[str, str] = field(default_factory=dict)
    beside: bool = False


def write(
    path: str | Path,
    title: str,
    lead: str,
    sections: Sequence[Section],
    footer: str,
    visual_bundle: str = "",
    template: str = "report.html.j2",
    **values: Any,
) -> Path:
    """Write the page, whole or not at all.

    Args:
        path: of the HTML file.
        title, lead: heading and first sentence.
        sections: in order.
        footer: where the numbers come from.
        visual_bundle: a `<script>` element that the sections' visuals need, once for the page.
        template: that of sections, or one that extends it.
        values: what else the template shows.
    """
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    themes = {name: style.template(name) for name in style.THEMES}
    page = render(
        template,
        plotly_js=Markup(get_plotlyjs()),
        visual_bundle=Markup(visual_bundle),
        themes=Markup(script_json(themes)),
        title=title,
        lead=lead,
        sections=sections,
        footer=footer,
        **values,
    )
    return files.keep(Path(path), page.encode("utf-8", "xmlcharrefreplace"))  # half a character is shown as unknown


GENERATOR = b'<meta name="generator" content="tms-hooks">'
"""What is near the beginning of every page."""


def check_replaceable(path: Path) -> None:
    """Refuse a place for a page where a file is that is no such page.

    Raises:
        OSError: what is there.
    """
    if not path.exists():
        return
    if not path.is_file():
        raise IsADirectoryError(f"{path} is no file, so no page can be written there; use another path")
    with open(path, "rb") as file:
        ours = GENERATOR in file.read(1000)
    if not ours:
        raise FileExistsError(f"{path} is no page that this version of tms has written; use another path, or move it")


def render(template: str, **values: Any) -> str:
    """A template of this folder, filled in; one in HTML escapes what it is given.

    Filters: `plotly`, a figure as JSON for a script element; `cells`, a DataFrame as a table; `number`; `typeset`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("tms_hooks.pages", "."),
        autoescape=lambda name: name is None or name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "plotly": lambda figure: Markup(_figure_json(figure)),
        "cells": lambda table: Markup(table.to_html(border=0, float_format=_cell, index_names=False, na_rep=NONE)),
        "number": number,
        "typeset": lambda text: Markup(typeset(text)),
    }
    return environment.get_template(template).render(**values)


def typeset(text: str) -> str:
    """Text as HTML: what stands between two `$` is a formula, with slanted letters, indices and powers.

    >>> typeset("a < b: $x' = ReLU(W^T W_E x)$")
    'a &lt; b: <span class="formula"><i>x</i>′ = ReLU(<i>W</i><sup>T</sup> <i>W</i><sub>E</sub> <i>x</i>)</span>'
    """
    plain, *rest = re.split(r"\$(.+?)\$", text)
    parts = [escape(plain)]
    for formula, plain in zip(rest[::2], rest[1::2], strict=True):
        shown = escape(formula.replace("'", "′"), quote=False)
        shown = re.sub(r"(?<![\w&^_])([A-Za-z])(?![A-Za-z;])", r"<i>\1</i>", shown)
        shown = re.sub(r"\^(\w)", r"<sup>\1</sup>", re.sub(r"_(\w)", r"<sub>\1</sub>", shown))
        parts += [f'<span class="formula">{shown}</span>', escape(plain)]
    return "".join(parts)


def turns(figure: "go.Figure") -> bool:
    """Whether it is seen from somewhere in space."""
    return any(trace.type in ("mesh3d", "scatter3d", "surface") for trace in figure.data)


def write_figure(path: str | Path, figure: "go.Figure", title: str = "", caption: str = "") -> Path:
    """One figure alone, under its title and over its caption: a self-contained page to turn and read, or a picture.

    Raises:
        ValueError: a suffix other than .html, .svg, .png and .pdf.
        RuntimeError: a picture without kaleido or without Chrome or Chromium; the message names what to install.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("html", "svg", "png", "pdf"):
        raise ValueError(f"{path.name}: a figure is written as .html, .svg, .png or .pdf; give one of these suffixes")
    if kind == "html":
        return write(path, title, "", [], "", template="figure.html.j2", figures={caption: figure})
    above, below = ("<br>".join(textwrap.wrap(text, 110)) for text in (title, caption))
    margin = {"t": 70 + 18 * above.count("<br>") + (figure.layout.margin.t or 0) // 2, "b": 110}
    shown = type(figure)(figure).update_layout(
        template=style.template(),
        title=above,
        margin=margin,
        height=(figure.layout.height or 380) + 90,
        updatemenus=[],
        sliders=[],
    )
    shown.add_annotation(
        text=below,
        showarrow=False,
        align="left",
        x=0,
        xref="paper",
        xanchor="left",
        y=0,
        yref="paper",
        yanchor="top",
        yshift=-70,  # pixels, below the axis and its title
    )
    try:
        check_installed("kaleido", "report")
        content = shown.to_image(format=kind, width=1000, scale=2)
    except (ImportError, RuntimeError, ValueError) as error:
        raise RuntimeError(f"{path.name}: {' '.join(str(error).split())} Or give a name in .html.") from error
    return files.keep(path, content)


NONE = "none"
"""What a page says where a number could not be measured: the mean of nothing, a multiple of zero."""


def number(value: float, form: str = "") -> str:
    """A number as pages show it, or the word for none.

    >>> number(1234567.0), number(0.123456), number(0.123456, ".2f"), number(float("nan"), ".2f")
    ('1,234,567', '0.1235', '0.12', 'none')
    """
    if math.isnan(value):
        return NONE
    return format(value, form or (",.0f" if math.isfinite(value) and value == round(value) else ",.4g"))


def _cell(value: Any) -> str:
    return number(float(value))  # pandas gives numpy's numbers in single precision as they are


def _figure_json(figure: "go.Figure") -> str:
    plain = json.loads(figure.to_json(), object_hook=_in_single_precision)
    plain["layout"].pop("template", None)  # the page brings its own, light or dark
    return script_json(plain)


def _in_single_precision(value: dict[str, Any]) -> dict[str, Any]:
    """A long array, as plotly writes it, in half the bytes: no screen shows more than seven digits."""
    if value.get("dtype") != "f8" or len(value["bdata"]) <= 2**14:
        return value
    numbers = np.frombuffer(b64decode(value["bdata"]), "<f8").astype("<f4")
    return value | {"dtype": "f4", "bdata": b64encode(numbers.tobytes()).decode()}
