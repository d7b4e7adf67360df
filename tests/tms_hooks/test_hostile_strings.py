"""Tokens, labels, titles and notes that look like code: in a real browser, on every kind of page, none of them runs."""

import shutil

import pandas as pd
import planned
import plotly.graph_objects as go
import pytest
import torch

from probes.render import attention, bundle, cosine_figure, spectrum_figure, token_values
from tms_hooks.claims import reproduce as runner
from tms_hooks.pages import claims_page, report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
HOSTILE = (
    "-->",  # before what it would close
    "<!--<script>",
    "</script><script>window.ran = 1</script>",
    "</textarea></title></style><img src=x onerror='window.ran = 2'>",
    "\"' onmouseover=window.ran=3 `${window.ran = 4}`",
    "{{ 7 * 7 }}{% raw %}",
    "<a href='javascript:window.ran = 5'>link</a>",
    "\u2028\u2029",
    "a\0b",
    "<|endoftext|>",
    "\ud800",
    "&lt;b&gt;",
    "]]>\\u003cb\\",
)
ALL = " ".join(HOSTILE)


def figure():
    n = len(HOSTILE)
    bars = go.Bar(x=list(HOSTILE), y=[1.0] * n, name=ALL, text=list(HOSTILE), hovertext=list(HOSTILE))
    drawn = go.Figure(bars).update_layout(title=ALL, xaxis_title=ALL, showlegend=True)
    return drawn.add_annotation(text=ALL, x=0, y=0)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Each page there is, with every string in every place that takes one."""
    folder, n = tmp_path_factory.mktemp("pages"), len(HOSTILE)
    cells = [text for text in HOSTILE if text.isprintable() or text == "a\0b"]  # pandas itself refuses half a character
    table = pd.DataFrame({text: range(len(cells)) for text in cells}, index=pd.Index(cells, name=" ".join(cells)))
    scores = torch.linspace(-1, 1, n * n).reshape(1, n, n)
    visuals = {
        f"one {ALL}": attention(HOSTILE, scores).html(),
        f"heads {ALL}": attention(HOSTILE, scores.repeat(n, 1, 1), heads=HOSTILE).html(),
        f"values {ALL}": token_values(HOSTILE, scores[0], labels=HOSTILE).html(),
    }
    figures = {
        ALL: figure(),
        f"cosines {ALL}": cosine_figure(torch.eye(2), title=ALL),
        f"spectra {ALL}": spectrum_figure({text: torch.ones(2) for text in HOSTILE}, title=ALL),
    }
    sections = [
        report.Section(short=ALL, title=ALL, text=ALL, finding=ALL, table=None, figures=figures, visuals=visuals),
        report.Section(short="last", title="last", text=ALL, finding="after all of it", table=table),
    ]
    verdict = planned.decided(
        planned.verdict(measured=ALL, detail=ALL, controls=dict.fromkeys(HOSTILE, 0.1), figures=((ALL, figure()),))
    )
    results = [
        runner.Result(planned.planned(planned.holds), verdict),
        runner.Result(planned.planned(planned.dies, "last"), None, failed=ALL),
    ]
    return {
        "report": report.write(folder / "report.html", ALL, ALL, sections, f"{ALL} the end", bundle()),
        "claims": claims_page.write_page(results, folder, quick=True),
        "figure": report.write_figure(folder / "figure.html", figure()),
        "visual": _notebook(folder / "visual.html", attention(HOSTILE, scores)._repr_html_()),
    }


def _notebook(path, html):
    path.write_text(f"<!doctype html><meta charset=utf-8>{html}<p>after all of it</p>", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as browsers:
        opened = browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; CI installs it")
@pytest.mark.parametrize("name", ["report", "claims", "figure", "visual"])
def test_no_string_runs_and_none_blanks_what_follows(pages, browser, name):
    page, wrong = browser.new_page(), []
    page.on("pageerror", lambda error: wrong.append(error))
    page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:", "blob:")) else wrong.append(asked))
    page.goto(pages[name].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((closed) => { closed.open = true; })")
    wanted = {"report": 3, "claims": 1, "figure": 1, "visual": 0}[name]
    page.wait_for_function(f"document.querySelectorAll('.plot-container').length === {wanted}")
    if name in ("report", "visual"):
        elements = "[...document.querySelectorAll('[id^=circuitsvis-]')]"
        page.wait_for_function(f"{elements}.length && {elements}.every((element) => element.childElementCount)")
        assert page.locator("[id^=circuitsvis-]").count() == {"report": 3, "visual": 1}[name]
    text = page.locator("body").inner_text()
    assert {"report": "the end", "claims": "quick size", "figure": "", "visual": "after all of it"}[name] in text
    if name in ("report", "claims"):  # shown as it is written; a browser shows NUL and half a character as unknown
        assert ALL.split("\u2028")[0].strip() in text.replace("\u00a0", " ")
        assert "<|endoftext|>" in text and "&lt;b&gt;" in text
    page.locator("svg, canvas, button, span").evaluate_all(
        "found => found.slice(0, 400).forEach((e) => e.dispatchEvent(new MouseEvent('mouseover', {bubbles: true})))"
    )
    assert page.evaluate("window.ran") is None
    assert page.locator("img[onerror], [onmouseover], a[href^='javascript']").count() == 0
    assert wrong == []
    page.close()


def test_what_a_visual_is_given_is_what_its_script_holds():
    """Escaping changes how a string is written and not what it says."""
    import json
    import re

    visual = attention(HOSTILE, torch.zeros(1, len(HOSTILE), len(HOSTILE)))
    (props,) = re.findall(r"CircuitsVis\.AttentionPattern, (.+)\)</script>", visual.html())
    assert json.loads(props)["tokens"] == list(HOSTILE)
    assert "<" not in props and props.isascii()
