"""Sections with findings, tables and figures -> one self-contained HTML page that works offline, light and dark."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

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
    import plotly.io as pio
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    themes = {}
    for name, template in (("light", "plotly_white"), ("dark", "plotly_dark")):
        theme = pio.templates[template].to_plotly_json()
        theme["layout"] |= {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
        themes[name] = theme
    plain = [
        {
            "short": s.short,
            "title": s.title,
            "text": s.text,
            "finding": s.finding,
            "table": s.table,
            "figures": [(caption, _figure_json(figure)) for caption, figure in s.figures],
            "visuals": [(caption, Markup(html)) for caption, html in s.visuals],
        }
        for s in sections
    ]
    environment = Environment(loader=PackageLoader("tms_hooks", "."), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        number=_number,
        title=title,
        lead=lead,
        sections=plain,
        footer=footer,
        plotly_js=Markup(get_plotlyjs()),
        visual_bundle=Markup(visual_bundle),
        themes=Markup(json.dumps(themes).replace("</", "<\\/")),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text(page, encoding="utf-8")
    os.replace(scratch, path)
    return path


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"


def _figure_json(figure: "go.Figure") -> str:
    plain = json.loads(figure.to_json())
    plain["layout"].pop("template", None)  # the page brings its own, light or dark
    return json.dumps(plain)
