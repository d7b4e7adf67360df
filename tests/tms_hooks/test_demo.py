"""The main job on real weights, looked at in a real browser."""

import re
import shutil

import numpy as np
import pytest
import torch

import probes
import tms_hooks as tms
from tms_hooks.pages.demo import prompts, real, run_demo, toys

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
def smollm2():
    return probes.load_transformer("smollm2")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toys, "HEAD_TOYS", 6)
        return run_demo(tmp_path_factory.mktemp("report"), n_models=40)


def trained_heads(seeds, steps):
    return tms.train(
        tms.ToyConfig(n_features=10, d_hidden=5, n_heads=1),
        tms.SparseUniform(n_features=10, feature_probability=0.2),
        seeds=seeds,
        steps=steps,
        stages=("representation", "heads"),
        batch_size=128,
        optimizer=tms.Adam(lr=1e-2, schedule="cosine"),
        qk_pairs=[toys.ATTENDED],
        importance=[0.8**i for i in range(10)],
    )


def test_alignment_is_found_for_trained_heads_and_not_for_untrained_ones():
    found = toys.alignment(trained_heads(range(4), (600, 400)))[1].value.iloc[0]
    assert found.startswith("100%")
    untrained = toys.alignment(trained_heads(range(8), (1, 1)))[1].value.iloc[0]
    assert float(untrained.split("%")[0]) < 50


def test_bottleneck_interference_of_a_tight_frame_is_the_welch_bound():
    angles = torch.arange(5) * 2 * torch.pi / 5
    pentagon = torch.stack([angles.cos(), angles.sin()], dim=1)
    part = probes.Bottleneck("embed->unembed", pentagon, pentagon)
    crowding = real._crowding(part, real._cosines(part))
    assert crowding["interference / Welch"] == pytest.approx(1, abs=1e-6)
    assert crowding["interference, mean removed"] == pytest.approx(crowding["interference"], abs=1e-6)
    assert crowding["features per dimension"] == 2.5


@pytest.mark.real_weights
def test_prompts_point_at_the_names_and_repetitions(smollm2):
    for batch in prompts.indirect_object_prompts(smollm2):
        for example, query, key in batch.pairs.tolist():
            words = smollm2.to_str_tokens(batch.tokens[example])
            assert query == len(words) - 1
            assert words.count(words[key]) == 1  # the indirect object is named once, the giver twice
    for batch in prompts.repeated_prompts(smollm2):
        example, query, key = batch.pairs.T
        assert batch.tokens[example, query].equal(batch.tokens[example, key - 1])


@pytest.mark.real_weights
def test_indirect_objects_are_what_the_model_says_next(smollm2):
    right, asked = 0, 0
    for batch in prompts.indirect_object_prompts(smollm2):
        example, query, key = batch.pairs.T
        with torch.no_grad():
            said = smollm2(batch.tokens)[example, query].argmax(-1)
        right, asked = right + int((said == batch.tokens[example, key]).sum()), asked + len(said)
    assert asked == 20
    assert right / asked > 0.5  # chance is one in 49,152


@pytest.mark.real_weights
def test_heads_fire_where_their_pattern_says(smollm2):
    batches = prompts.repeated_prompts(smollm2)
    fired = prompts.firing(smollm2, batches)
    for layer, head, number, pair in fired.sample(5, random_state=0).itertuples(index=False):
        example, query, key = batches[number].pairs[pair].tolist()
        _, cache = smollm2.run_with_cache(batches[number].tokens[example : example + 1])
        assert cache[f"blocks.{layer}.attn.hook_pattern"][0, head, query, key] >= 0.5


@pytest.mark.slow
@pytest.mark.real_weights
def test_demo_prints_what_it_shows(demo):
    page, table = demo
    html = page.read_text()
    assert {"Geometries", "Singular slices", "Bottlenecks"} <= set(re.findall(r'<a href="#s\d">([^<]+)</a>', html))
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
