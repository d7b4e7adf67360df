"""The site as its readers meet it: built strictly, opened from its folder in a browser that has no network."""

import base64
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; CI installs it"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The whole site, made as `make docs` makes it; a link that leads nowhere is an error there."""
    folder = tmp_path_factory.mktemp("site")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it formats signatures with ruff
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


READY = "Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode().catch(() => 0) }))"
NOT_DRAWN = """[...document.querySelectorAll("article img, body > img, svg.flow")].filter(visual => {
  const { width, height } = visual.getBoundingClientRect();
  const empty = visual.tagName === "svg" ? visual.childElementCount === 0 : visual.naturalWidth === 0;
  return empty || width < 2 || height < 2;
}).map(visual => visual.getAttribute("src") || visual.getAttribute("aria-label"))"""
CUT = """[...document.querySelectorAll("article pre, article pre > code")]
  .filter(code => code.scrollWidth > code.clientWidth + 1 && getComputedStyle(code).display !== "inline")
  .map(code => code.innerText.slice(0, 60))"""
OUTSIDE = """[...document.querySelectorAll("article :is(table, img)")].filter(thing => {
  let box = thing;
  while (box && !["auto", "scroll"].includes(getComputedStyle(box).overflowX)) box = box.parentElement;
  return thing.getBoundingClientRect().right > innerWidth && !box;
}).map(thing => thing.outerHTML.slice(0, 60))"""
COLORS = """async png => {
  const image = await createImageBitmap(await (await fetch("data:image/png;base64," + png)).blob());
  const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
  canvas.drawImage(image, 0, 0);
  return new Set(new Uint32Array(canvas.getImageData(0, 0, image.width, image.height).data.buffer)).size;
}"""
SCHEMES = {"light": "default", "dark": "slate"}
LOOKS = [("light", 1280), ("dark", 1280), ("dark", 390), ("light", 390)]
STILL = "* { transition: none !important; animation: none !important }"  # or a drawer is seen on its way


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visit(browser):
    """What is wrong with a page: errors, requests, what is too wide or cut, and visuals that are not drawn.

    It is opened once and then looked at in light and dark, on a wide screen and on a narrow one.
    """

    def faults(file: Path) -> list[str]:
        wrong: list[str] = []
        page = browser.new_page(color_scheme="light", viewport={"width": 1280, "height": 900})
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
        page.route("http*://**", lambda route: route.abort())
        page.goto(file.as_uri())
        page.evaluate(READY)
        page.add_style_tag(content=STILL)
        for scheme, width in LOOKS:
            page.emulate_media(color_scheme=scheme)
            page.evaluate(
                "scheme => { document.body.dataset.mdColorScheme = scheme }", SCHEMES[scheme]
            )  # as its switch
            page.set_viewport_size({"width": width, "height": 900})
            page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
            page.evaluate(READY)  # a screen of another width may show another picture
            if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
                wrong.append(f"{scheme}: {wide} pixels wide on a screen of {width}")
            wrong += [f"{scheme}, {width}: {visual} is not drawn" for visual in page.evaluate(NOT_DRAWN)]
            unseen = page.evaluate(CUT if width == 1280 else OUTSIDE)
            wrong += [f"{width}: {what} is cut at the right" for what in unseen]
        if len(page.locator("main, body").first.inner_text().split()) < 2:
            wrong.append("blank")
        page.close()
        return wrong

    return faults


def pages(site: Path) -> list[Path]:
    return sorted(set(site.rglob("*.html")) - {site / "404.html"})  # servers show that one, from any depth


def test_every_page_opens_from_its_folder_on_any_screen(site, visit):
    """The pages of notebooks are nbconvert's exports of them."""
    there = pages(site)
    assert len(there) > 40
    assert {file.name: wrong for file in there if (wrong := visit(file))} == {}


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<script>throw new Error('torn')</script>two words", "torn"),
        ("<script src='https://example.org/x.js'></script>two words", "https://example.org/x.js"),
        ("<div style='width: 2000px'>two words</div>", "pixels wide"),
        ("<div style='width: 800px'>two words</div>", "light: 800 pixels wide on a screen of 390"),
        ("<img src='nowhere.svg'>two words", "nowhere.svg is not drawn"),
        ("<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw=' style='display: none'>two words", "is not drawn"),
        ("<svg class='flow' aria-label='toy' width='9' height='9'></svg>two words", "toy is not drawn"),
        ("<style>[data-md-color-scheme=slate] b { padding: 0 999px }</style><b>two words</b>", "dark: "),
        (f"<article><pre style='width: 99px; overflow: auto'>{'code' * 99}</pre></article>", "1280: codecode"),
        ("<article style='overflow: hidden'><img width='999'></article>", "390: <img"),
        ("", "blank"),
    ],
)
def test_the_check_of_pages_can_fail(tmp_path, visit, body, fault):
    (tmp_path / "bad.html").write_text(f"<body style='margin: 0'>{body}</body>")
    assert any(fault in each for each in visit(tmp_path / "bad.html"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_and_drawings_have_colors(site, browser, scheme):
    """A blank or a black picture has a handful of colors; a drawn one has the page's, its lines' and those between."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": 390, "height": 900})
    (site / "blank.html").write_text("<body><div style='width: 300px; height: 200px'></div></body>")
    page.goto((site / "blank.html").as_uri())
    (site / "blank.html").unlink()
    assert colors(page, "div") == 1
    for file, what in (
        ("concepts/superposition.html", "img[src*='superposition.svg']"),
        ("kinds/toy.html", "svg.flow"),
        ("claims.html", ".gallery a:nth-child(2) img"),
        ("examples/hexagons.html", ".jp-RenderedImage img"),
    ):
        page.goto((site / file).as_uri())
        page.evaluate(READY)
        assert page.evaluate("document.body.dataset.mdColorScheme") == SCHEMES[scheme]
        assert colors(page, what) > 30, f"{file}: {what}"
    page.close()


def colors(page, what: str) -> int:
    """How many colors a screenshot of an element has."""
    png = page.locator(what).first.screenshot()
    return page.evaluate(COLORS, base64.b64encode(png).decode())


def test_the_gallery_filters_by_outcome_source_and_words(site, browser):
    page = browser.new_page()
    page.goto((site / "claims.html").as_uri())
    cards = page.locator(".gallery a:visible")
    everything = cards.count()
    assert everything > 40
    page.select_option("select[name=outcome]", "refuted")
    refuted = cards.count()
    assert 0 < refuted < everything
    assert set(page.locator(".gallery a:visible .outcome").all_inner_texts()) == {"refuted"}
    page.select_option("select[name=source]", "h")
    assert 0 < cards.count() < refuted
    page.fill("input[name=words]", "no claim has these words")
    assert cards.count() == 0
    page.fill("input[name=words]", "")
    name = cards.first.get_attribute("href")
    cards.first.click()
    assert page.locator(f"h2{name}").is_visible()
    page.close()


def test_formulas_are_typeset_and_what_stands_at_the_root_of_a_repository_is_there(site):
    page = (site / "concepts" / "circuits.html").read_text(encoding="utf-8")
    assert "<i>W</i><sub>Q</sub> <i>W</i><sub>K</sub><sup>T</sup>" in page
    assert "σ<sub>k</sub> <i>u</i><sub>k</sub> <i>v</i><sub>k</sub><sup>T</sup>" in page
    assert "W_Q" not in re.sub(r"<(pre|code)\b.*?</\1>|<[^>]*>", "", page, flags=re.DOTALL)
    claims = (site / "claims.html").read_text(encoding="utf-8").split("<article", 1)[1].split("</article")[0]
    assert "$" not in re.sub(r"<(script|code)\b.*?</\1>", "", claims, flags=re.DOTALL)
    for name, page in (("CHANGELOG", "cite"), ("CONTRIBUTING", "guides/own_claim"), ("SECURITY", "trust")):
        assert f"{name}.html" in (site / f"{page}.html").read_text(encoding="utf-8")
        assert (site / f"{name}.html").is_file()


def test_notebooks_name_their_pictures(site):
    page = (site / "examples" / "quickstart.html").read_text(encoding="utf-8").split("<article", 1)[1]
    said = re.findall(r'<img [^>]*?alt="([^"]*)"', page)
    assert len(said) > 3
    assert said.count("Figure: Which geometries are reached?") == 1
    assert "No description" not in "".join(said)


def test_the_search_index_and_the_reference_hold_what_is_public(site):
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert "tms_hooks.train.train" in index
    assert "probes.alignment.align" in index
    page = (site / "reference" / "training.html").read_text(encoding="utf-8")
    assert "Examples that use this" in page
    assert "../guides/own_data.html" in page  # pages count too
    assert "<p>&gt;&gt;&gt;" not in page  # doctests stand in fences
    assert 'id="tms_hooks.models.toy.ToyModel.from_pretrained"' in page
    assert 'id="tms_hooks.claims.verdict.share"' in (site / "reference" / "claims.html").read_text(encoding="utf-8")
