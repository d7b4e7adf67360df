import json
import re
import shutil
from base64 import b64decode

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

import probes
from probes import style
from tms_hooks import plots
from tms_hooks.pages import report
from tms_hooks.pages.demo import Story


@pytest.fixture
def section():
    figure = plots.shares(["pentagon", "</script>"], np.array([0.9, 0.1]), np.array([0.8, 0.05]), np.array([0.95, 0.2]))
    return report.Section(
        short="shares",
        title="Is <b> escaped?",
        text="a & b",
        finding="90% of them",
        table=pd.DataFrame({"n": [1234567.0, 0.123456]}, index=["x", "<i>y</i>"]),
        figures={"a figure's caption": figure},
        visuals={"a visual": "<em id='mine'>kept as it is</em>"},
    )


def test_page_has_everything_once_and_asks_for_nothing(tmp_path, section):
    path = report.write(
        tmp_path / "deep" / "index.html", "Title", "Lead", [section], "Footer", "<script>BUNDLE</script>"
    )
    page = path.read_text()
    assert page.count("BUNDLE") == 1
    assert "<em id='mine'>kept as it is</em>" in page
    assert "Is &lt;b&gt; escaped?" in page
    assert "1,234,567" in page
    assert "0.1235" in page
    assert "&lt;i&gt;y" in page
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=", page)
    assert loaded == []  # nothing is fetched: it works offline


def test_tables_in_single_precision_are_written(tmp_path):
    table = pd.DataFrame({"loss": np.array([0.25, 0.123456], np.float32)})
    section = report.Section(short="s", title="t", text="x", finding="f", table=table)
    page = report.write(tmp_path / "index.html", "T", "L", [section], "F").read_text()
    assert "<td>0.25</td>" in page and "<td>0.1235</td>" in page


def test_figures_are_whole_and_carry_no_theme_of_their_own(tmp_path, section):
    page = report.write(tmp_path / "index.html", "T", "L", [section], "F").read_text()
    (encoded,) = re.findall(r'<script type="application/json">(.+?)</script>', page)
    figure = json.loads(encoded)
    assert figure["data"][0]["x"] == ["pentagon", "</script>"]
    assert "template" not in figure["layout"]


def test_long_arrays_are_in_single_precision_and_short_ones_as_they_are(tmp_path):
    x = np.linspace(0, 1, 5000)
    figure = go.Figure([go.Scatter(x=x, y=x[:3]), go.Heatmap(z=x.reshape(50, 100))])
    section = report.Section(short="s", title="t", text="x", finding="f", figures={"c": figure})
    page = report.write(tmp_path / "index.html", "T", "L", [section], "F").read_text()
    (encoded,) = re.findall(r'<script type="application/json">(.+?)</script>', page)
    line, heatmap = json.loads(encoded)["data"]
    for found, wanted in ((line["x"], x), (heatmap["z"], x), (line["y"], x[:3])):
        numbers = np.frombuffer(b64decode(found["bdata"]), {"f4": "<f4", "f8": "<f8"}[found["dtype"]])
        np.testing.assert_allclose(numbers, wanted, rtol=1e-7)
    assert [line["x"]["dtype"], line["y"]["dtype"], heatmap["z"]["dtype"], heatmap["z"]["shape"]] == [
        "f4",
        "f8",
        "f4",
        "50, 100",
    ]


def test_a_failed_write_leaves_the_page_before_it(tmp_path, section, monkeypatch):
    path = report.write(tmp_path / "index.html", "Old", "L", [section], "F")
    broken = report.Section(short="s", title="t", text="x", finding="f", figures={"c": object()})
    with pytest.raises(AttributeError):
        report.write(path, "New", "L", [broken], "F")
    assert "<title>Old</title>" in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"]


def test_signed_heatmap_is_symmetric_about_zero():
    (heatmap,) = plots.signed_heatmap(np.array([[0.5, -2.0], [1.0, 0.0]]), "x", "y", "c").data
    assert (heatmap.zmin, heatmap.zmax) == (-2.0, 2.0)


def test_distributions_share_their_bins():
    values = {"a": np.array([0.0, 1.0]), "b": np.array([5.0, 10.0])}
    first, second = plots.distributions(values, "x", {"a": "#000", "b": "#111"}).data
    assert first.xbins == second.xbins
    assert first.xbins.start == 0
    assert first.xbins.end > 10


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_feature_arrows_run_from_the_origin_to_each_feature(dtype):
    W = np.array([[[1.0, 0.0], [0.0, 2.0]]], dtype)
    arrows = [t for t in plots.feature_arrows(W, ["m"]).data if t.name]
    assert [(t.x[1], t.y[1]) for t in arrows] == [(1.0, 0.0), (0.0, 2.0)]
    assert all((t.x[0], t.y[0]) == (0, 0) for t in arrows)


def test_a_figure_alone_has_its_title_and_its_caption(tmp_path):
    solid = plots.polyhedra({"a": np.eye(3)})
    page = report.write_figure(tmp_path / "f.html", solid, "Nine <in> three", "to be $W_E$").read_text()
    assert "<h1>Nine &lt;in&gt; three</h1>" in page
    assert '<figcaption>to be <span class="formula"><i>W</i><sub>E</sub></span></figcaption>' in page
    assert report.turns(solid)
    assert not report.turns(plots.curves({"a": (np.arange(2), np.arange(2))}, "x", "y"))


# In a browser

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; CI installs it")
def test_a_page_on_a_dark_phone_by_keyboard_and_in_print(tmp_path):
    from playwright.sync_api import sync_playwright

    W = np.linspace(1, 2, 6).reshape(3, 1, 1, 2)
    section = report.Section(
        short="s",
        title="t",
        text="$W^T W x$",
        finding="f",
        table=pd.DataFrame({f"a long name of column {i}": [1.5] for i in range(3)}, index=["a long name of a row"]),
        figures={
            "m": plots.signed_heatmap(np.array([[1.0, 0.0], [0.0, -1.0]]), "x", "y", "c"),
            "c": plots.curves(
                {f"a long name of curve {i}": (np.arange(3), i * np.arange(3)) for i in range(5)}, "x", "y"
            ),
            "p": plots.norm_bars(np.ones((5, 3)), np.zeros((5, 3)), [f"panel number {i}" for i in range(5)]),
            "s": plots.feature_arrows(np.stack([np.eye(2)] * 5), [f"n = {i}" for i in range(5)]),
        },
        visuals={"v": probes.render.attention(["a", "b"], torch.eye(2)[None]).html()},
        beside=True,
    )
    story = Story(plots.movie(W), "caption", [("1", "one"), ("2", "two"), ("3", "three")], "meaning")
    page_of = report.write(tmp_path / "i.html", "T", "L", [section], "F", probes.render.bundle(), story=story)
    complaints = []
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(color_scheme="dark", viewport={"width": 390, "height": 844}).new_page()
        page.on("pageerror", lambda error: complaints.append(error))
        page.goto(page_of.as_uri())
        page.wait_for_function("document.querySelectorAll('.plot .main-svg').length >= 5")
        width = page.evaluate("document.documentElement.scrollWidth")
        scrolls = page.evaluate(
            "[...document.querySelectorAll('figure, .light, .light div')].filter(box => box.scrollWidth >"
            " box.clientWidth && getComputedStyle(box).overflowX !== 'visible').map(box => box.outerHTML.slice(0, 99))"
        )
        panels = "[...document.querySelectorAll('.plot')].slice(3).map(plot => "
        boxes = page.evaluate(
            f"{panels}[...plot.querySelectorAll('.annotation-text')].map(title => title.getBoundingClientRect())"
            ".map(({left, right, top}) => [left, right, top]))"
        )
        named = page.evaluate(
            f"{panels}['x', 'y'].map(axis => plot.querySelectorAll(`[class^=g-${{axis}}] text`).length))"
        )
        middle = page.evaluate("document.querySelectorAll('.plot')[1]._fullData[0].colorscale[1][1]")
        under = page.evaluate(  # the curves' legend begins below their axes
            "(() => { const plot = document.querySelectorAll('.plot')[2];"
            " return plot.querySelector('.legend').getBoundingClientRect().top"
            " - plot.querySelector('.xaxislayer-above').getBoundingClientRect().bottom; })()"
        )
        slab = page.evaluate("getComputedStyle(document.querySelector('.light')).filter")
        end = "document.querySelector('.plot')._fullData.find((trace) => trace.name === 'feature 0').x[1]"
        shown = [page.evaluate(end)]
        page.locator("input[type=range]").focus()
        for key in ("Home", "ArrowRight"):
            page.keyboard.press(key)
            page.wait_for_timeout(200)
            shown.append(page.evaluate(end))
        said = page.locator("output").inner_text()
        page.emulate_media(media="print")
        printed = page.evaluate("getComputedStyle(document.querySelector('.controls')).display")
        page.emulate_media(media="screen")
        page.set_viewport_size({"width": 1100, "height": 390})  # as after it is turned
        page.wait_for_function(
            "new Set([...document.querySelectorAll('.plot')].at(-1).querySelectorAll('.annotation-text').values()"
            ".map(title => Math.round(title.getBoundingClientRect().top))).size === 2"
        )
        browser.close()
    assert complaints == []
    assert width == 390
    assert scrolls == []
    for titles, in_rows in zip(boxes, ([1, 1, 1, 1, 1], [2, 2, 1]), strict=True):
        rows = {round(top): [] for _, _, top in titles}
        for left, right, top in sorted(titles):
            rows[round(top)].append((left, right))
        assert [len(row) for row in rows.values()] == in_rows
        assert all(0 < left < right < 390 for row in rows.values() for left, right in row)
        assert all(row[0][1] < row[1][0] for row in rows.values() if len(row) == 2)
    assert named == [[1, 5], [2, 3]]  # axes are named below and at the left
    assert middle == style.THEMES["dark"].paper
    assert under > 0
    assert "invert" in slab
    np.testing.assert_allclose(shown, [W[2, 0, 0, 0], W[0, 0, 0, 0], W[1, 0, 0, 0]], rtol=1e-6)
    assert said == "step 1"
    assert printed == "none"
