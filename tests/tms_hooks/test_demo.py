"""The main job on real weights, looked at in a real browser."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import probes
import tms_hooks as tms
from tms_hooks.models.toy import ToyModel
from tms_hooks.pages import demo as story
from tms_hooks.pages import report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(story, "HEAD_TOYS", 6)
        return story.run_demo(tmp_path_factory.mktemp("report"), n_models=40)


def trained_heads(seeds, steps):
    return tms.train(
        tms.ToyConfig(n_features=10, d_hidden=5, n_heads=1),
        tms.SparseUniform(n_features=10, feature_probability=0.2),
        seeds=seeds,
        steps=steps,
        stages=("representation", "heads"),
        batch_size=128,
        optimizer=tms.Adam(lr=1e-2, schedule="cosine"),
        qk_pairs=[story.ATTENDED],
        importance=[0.8**i for i in range(10)],
    )


def test_alignment_is_found_for_trained_heads_and_not_for_untrained_ones():
    found = story.alignment(trained_heads(range(4), (600, 400)))[1].value.iloc[0]
    assert found.startswith("100%")
    untrained = story.alignment(trained_heads(range(8), (1, 1)))[1].value.iloc[0]
    assert float(untrained.split("%")[0]) < 50


def toy(W):
    W = torch.tensor(W)
    return ToyModel.from_weights(tms.ToyConfig(n_features=len(W), d_hidden=2, output_bias=False), {"W_E": W})


SQUARE = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]


def bottlenecks(*weights):
    """The section, its rows for the terminal, and the column of the toys."""
    section, rows = story.bottlenecks([toy(W) for W in weights], toy(SQUARE), "the square")
    return section, rows.value, section.table["toys"]


@pytest.mark.parametrize(
    ("W", "features", "bound"),
    [
        ([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], 2, 0.0),  # as many features as dimensions: the Welch bound is 0
        ([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], 1, np.nan),
        ([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], 0, np.nan),
    ],
)
def test_toys_that_need_no_overlap_have_no_multiple_of_it(tmp_path, W, features, bound):
    section, rows, toys = bottlenecks(W)
    assert toys["features"] == features
    assert toys[["rms overlap / Welch bound", "rms overlap / Welch bound, mean removed"]].isna().all()
    np.testing.assert_equal(toys["Welch bound"], bound)
    assert (
        f"The toys hold {features / 2:.1f} features in each dimension, too few to need any overlap" in section.finding
    )
    assert rows.filter(like="toys").tolist() == ["none (none)"]
    assert rows.filter(like="the square").tolist() == ["1.00 (1.00)"]
    page = report.write(tmp_path / "index.html", "T", "L", [section], "F").read_text()
    assert "<td>none</td>" in page
    assert "NaN" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_means_are_over_the_toys_that_have_the_number():
    _, rows, toys = bottlenecks(SQUARE, [[1.0, 0.0], [0.0, 1.0]])
    assert toys["features"] == 3
    assert toys["rms overlap"] == pytest.approx(3**-0.5 / 2)
    assert toys["rms overlap / Welch bound"] == pytest.approx(1)
    assert rows.filter(like="toys").tolist() == ["1.00 (1.00)"]


def test_a_score_of_zero_has_no_shares():
    zero, half = torch.zeros(1, 2), torch.tensor([[1.0, 1.0]])
    splits = [
        probes.AttentionSlices(
            pairs=zero,
            scores=zero,
            slices=torch.cat([zero, half]),
            needed=zero,
            null_needed=zero,
            scale=1.0,
            position_bias=zero,
            cap=None,
        )
    ]
    np.testing.assert_allclose(story._cumulative_share(splits), [0.5, 1.0])


def test_heads_without_a_silent_one_beside_them_have_no_control():
    some, none = pd.Series([0.4, 0.5]), pd.Series([], dtype=float)
    assert story._beside_controls(some, none) == "and there are no controls: every head of their layers fires."
    assert story._beside_controls(some, pd.Series([0.6])).startswith(
        "the controls 60% to 60%: firing heads are sparser"
    )
    assert "do not tell" in story._beside_controls(some, some)


@pytest.mark.slow
@pytest.mark.real_weights
def test_demo_prints_what_it_shows(demo):
    page, table = demo
    html = page.read_text()
    assert {"Geometries", "Singular slices", "Bottlenecks"} <= set(re.findall(r'<a href="#s\d">([^<]+)</a>', html))
    assert len(re.findall(r"<dt>(\d+%?)</dt><dd>", html)) == 3
    assert table.value.notna().all()
    assert not re.search(r"\bnan\b", re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL))
    share = table.value.filter(like="toys that end as").str.extract(r"(\d+)%")[0].astype(int)
    assert np.all((share > 0) & (share <= 100))


@pytest.mark.slow
@pytest.mark.real_weights
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_draws_everything_with_the_network_off(demo, scheme):
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine; CI installs it")
    from playwright.sync_api import sync_playwright

    complaints, asked_for = [], []

    def offline(route):
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            asked_for.append(route.request.url)
            route.abort()

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(color_scheme=scheme).new_page()
        page.on("pageerror", lambda error: complaints.append(error))  # playwright cannot wrap a list's own method
        page.route("**/*", offline)
        page.goto(demo[0].as_uri())
        page.wait_for_function("document.querySelectorAll('.plot .main-svg').length > 0")
        plots, drawn = page.locator(".plot").count(), page.locator(".plot .plot-container").count()
        visuals = page.locator("[id^=circuitsvis-] svg, [id^=circuitsvis-] canvas").count()
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        browser.close()
    assert complaints == []
    assert asked_for == []
    assert plots == drawn > 0
    assert visuals >= 2
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 28)"}[scheme]
