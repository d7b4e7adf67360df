"""The page of `tms reproduce` in a real browser: offline, light, dark and printed."""

import shutil
from pathlib import Path

import numpy as np
import planned
import plotly.graph_objects as go
import pytest

from tms_hooks import plots
from tms_hooks.claims import present
from tms_hooks.claims import reproduce as runner
from tms_hooks.claims.verdict import OUTCOMES
from tms_hooks.pages.claims_page import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; CI installs it")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A page of three claims: one with two figures, one of them to be turned; one with one; one that failed."""
    tetrahedron = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1.0]]) / 3**0.5
    solid = ("A solid.", plots.polyhedra({"tetrahedron": tetrahedron}))
    bar = ("A bar.", go.Figure(go.Bar(x=["</script>"], y=[1.0])))
    results = [
        runner.Result(planned.planned(planned.holds, "two"), planned.decided(planned.verdict(figures=(bar, solid)))),
        runner.Result(
            planned.planned(planned.holds, "one"), planned.decided(planned.verdict(interval=(0.1, 0.2), figures=(bar,)))
        ),
        runner.Result(planned.planned(planned.divides_by_zero, "none"), None, failed="Traceback\nZeroDivisionError: x"),
    ]
    return write_page(results, tmp_path_factory.mktemp("page"), quick=True)


@pytest.fixture
def browse(written):
    """Open the page with the network off; what the page complained of or asked for fails the test."""
    from playwright.sync_api import sync_playwright

    wrong = []

    def offline(route):
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            wrong.append(route.request.url)
            route.abort()

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

        def opened(fragment="", **context):
            page = browser.new_context(**context).new_page()
            page.on("pageerror", lambda error: wrong.append(error))
            page.route("**/*", offline)
            page.goto(written.as_uri() + fragment)
            return page

        yield opened
        browser.close()
    assert wrong == []


def drawn(page):
    return page.locator(".plot .main-svg").evaluate_all("found => new Set(found.map(s => s.closest('.plot'))).size")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_are_drawn_when_their_claim_is_opened(browse, scheme):
    page = browse(color_scheme=scheme)
    assert drawn(page) == 0
    page.locator("#two summary").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('#two .plot .main-svg').length >= 2")
    assert drawn(page) == 2
    page.locator("#two summary").click()
    page.wait_for_function("document.querySelectorAll('.plot .main-svg').length === 0")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}[scheme]


def test_a_link_opens_its_claim(browse):
    page = browse("#one")
    page.wait_for_function("document.querySelectorAll('#one .plot .main-svg').length > 0")
    assert page.locator("details.claim[open]").count() == 1


def test_claims_are_filtered_by_verdict_and_words(browse):
    page = browse()
    shown = page.locator("details.claim:visible")
    page.locator("#verdict").select_option("refuted")
    assert [row.get_attribute("id") for row in shown.all()] == ["one"]
    page.locator("#verdict").select_option("")
    page.locator("#words").fill("it FAILS")
    assert [row.get_attribute("id") for row in shown.all()] == ["none"]
    assert page.locator("#shown").text_content() == "1 of 3 shown"


def test_print_opens_everything_on_white(browse):
    page = browse(color_scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details.claim[open]").count() == 3
    assert drawn(page) == 3
    widths = page.locator(".plot .main-svg").evaluate_all("found => found.map(svg => svg.clientWidth)")
    assert max(widths) <= 680
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.claim[open]").count() == 0
    assert len(page.pdf(format="A4")) > 20_000
    assert page.locator("details.claim[open]").count() == 0


def test_every_outcome_says_what_it_means(written):
    assert present.MEANINGS.keys() == present.SYMBOLS.keys() > set(OUTCOMES)
    page = written.read_text(encoding="utf-8")
    assert page.count(f"<p>{present.MEANINGS['refuted']}</p>") == 1
    assert f'title="{present.MEANINGS["refuted"]}"' in page
    kept = (Path(__file__).parents[2] / "docs" / "claims.md").read_text(encoding="utf-8")
    assert f"*at the threshold*, {present.MEANINGS['at the threshold']};" in kept
