"""The site as its readers meet it: built strictly, opened from its folder in a browser that has no network."""

import os
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


@pytest.fixture(scope="module")
def visit():
    """What is wrong with each of these pages in one browser: errors, requests, and what is wider than the screen."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

        def faults(pages: list[Path], scheme: str, width: int) -> dict[str, list[str]]:
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
            found: dict[str, list[str]] = {}
            for file in pages:
                wrong: list[str] = []
                page = context.new_page()
                page.on("pageerror", lambda error, wrong=wrong: wrong.append(f"error: {error}"))
                page.on("console", lambda m, wrong=wrong: wrong.append(m.text) if m.type == "error" else None)
                page.on("request", lambda r, wrong=wrong: wrong.append(r.url) if r.url.startswith("http") else None)
                page.route("http*://**", lambda route: route.abort())
                page.goto(file.as_uri())
                page.wait_for_load_state()
                wide = page.evaluate("document.documentElement.scrollWidth")
                if wide > width:
                    wrong.append(f"{wide} pixels wide on a screen of {width}")
                if len(page.locator("main, body").first.inner_text().split()) < 2:
                    wrong.append("blank")
                if wrong:
                    found[file.name] = wrong
                page.close()
            context.close()
            return found

        yield faults
        browser.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
def test_every_page_opens_from_its_folder(site, visit, scheme, width):
    pages = sorted(set(site.rglob("*.html")) - {site / "404.html"})  # servers show that one, from any depth
    assert len(pages) > 20
    assert visit(pages, scheme, width) == {}


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<script>throw new Error('torn')</script>two words", "torn"),
        ("<script src='https://example.org/x.js'></script>two words", "https://example.org/x.js"),
        ("<div style='width: 2000px'>two words</div>", "pixels wide"),
        ("", "blank"),
    ],
)
def test_the_check_of_pages_can_fail(tmp_path, visit, body, fault):
    (tmp_path / "bad.html").write_text(f"<body style='margin: 0'>{body}</body>")
    [faults] = visit([tmp_path / "bad.html"], "light", 390).values()
    assert any(fault in each for each in faults)


def test_the_search_index_and_the_reference_hold_what_is_public(site):
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert "tms_hooks.train.train" in index
    assert "probes.alignment.align" in index
    page = (site / "reference" / "training.html").read_text(encoding="utf-8")
    assert "Examples that use this" in page
    assert "<p>&gt;&gt;&gt;" not in page  # doctests stand in fences
