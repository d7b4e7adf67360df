"""Claims: how they are decided, registered, kept, written and listed."""

import json
import math
import re

import numpy as np
import plotly.graph_objects as go
import pytest
from typer.testing import CliRunner

from tms_hooks import stats
from tms_hooks.claims import UNKNOWN, Claim, Verdict, claim, claims, decide, find
from tms_hooks.claims import reproduce as runner
from tms_hooks.cli import app

KEYS = ["claim", "verdict", "statistic", "interval", "n_models", "seconds", "controls"]


def verdict(**changes) -> Verdict:
    plain = {
        "measured": "The share",
        "statistic": 0.8,
        "interval": (0.7, 0.9),
        "threshold": 0.5,
        "n_models": 40,
        "controls": {"untrained": 0.1},
        "detail": "More.",
        "figures": ((("A caption."), go.Figure(go.Bar(x=["a"], y=[1.0]))),),
    }
    return Verdict(**plain | changes)


# Deciding


@pytest.mark.parametrize(
    ("interval", "side", "outcome"),
    [
        ((0.6, 0.8), "above", "supported"),
        ((0.2, 0.4), "above", "refuted"),
        ((0.4, 0.6), "above", "inconclusive"),
        ((0.5, 0.8), "above", "inconclusive"),  # touching is not beyond
        ((0.2, 0.5), "above", "inconclusive"),
        ((0.6, 0.8), "below", "refuted"),
        ((0.2, 0.4), "below", "supported"),
        (UNKNOWN, "above", "inconclusive"),
        (UNKNOWN, "below", "inconclusive"),
    ],
)
def test_only_the_interval_and_the_threshold_decide(interval, side, outcome):
    assert decide(interval, 0.5, side) == outcome
    assert verdict(interval=interval, side=side, statistic=123.0).verdict == outcome


@pytest.mark.parametrize("interval", [(0.6, 0.4), (math.nan, 1.0), (0.0, math.nan)])
def test_what_is_no_interval_decides_nothing(interval):
    with pytest.raises(ValueError, match="low <= high"):
        decide(interval, 0.5)


def test_the_outcome_cannot_be_typed_in():
    with pytest.raises(TypeError):
        verdict(verdict="supported")
    with pytest.raises(AttributeError):
        verdict().verdict = "supported"


def test_the_paragraph_is_made_of_the_numbers():
    text = verdict(theory=0.75).paragraph
    for part in ("Supported", "0.8", "0.7 to 0.9", "above 0.5", "40 models", "Theory: 0.75", "More."):
        assert part in text
    assert "could not be measured" in verdict(statistic=math.nan, interval=UNKNOWN).paragraph


# Intervals of several parts and of anything


def test_the_weakest_share_is_as_wide_as_its_number_of_parts_asks():
    found = stats.weakest_share({"a": (9, 10), "b": (5, 10)})
    assert found[:2] == ("b", 0.5)
    # By hand: z = 2.2414 for 97.5 %; half-width z / (1 + z^2/10) sqrt(0.025 + z^2/400) = 1.4919 x 0.1938
    np.testing.assert_allclose(found.interval, (0.2109, 0.7891), atol=1e-4)
    assert stats.weakest_share({"b": (5, 10)}).interval == stats.wilson(5, 10)


def test_a_part_that_was_never_tried_leaves_all_open():
    part, share, interval = stats.weakest_share({"tried": (100, 100), "never": (0, 0)})
    assert part == "never"
    assert math.isnan(share)
    assert decide(interval, 0.5) == "inconclusive"


def test_the_bootstrap_covers_a_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = [
        low <= 0 <= high
        for low, high in (
            stats.bootstrap(lambda m: float(m.mean()), rng.normal(size=60), resamples=400) for _ in range(200)
        )
    ]
    assert 0.90 <= np.mean(hits) <= 0.99  # nominal 0.95; 200 draws have a standard error of 0.015


def test_the_bootstrap_refuses_a_single_model():
    with pytest.raises(ValueError, match="at least 2"):
        stats.bootstrap(lambda m: float(m.mean()), np.ones(1))


# The registry


def test_every_claim_states_its_size_and_design_first():
    for name, made in claims().items():
        size = made.design.split("Size:")[1].split("Controls:")[0]
        assert re.search(rf"\b{made.quick} .*\(quick\), {made.full} .*\(full\)", " ".join(size.split())), name
        assert made.statement.endswith("."), name


def test_a_claim_without_a_threshold_is_refused():
    def measure(n_models: int) -> Verdict:
        """All is well.

        Statistic: none. Size: 1. Controls: none.
        """

    with pytest.raises(ValueError, match="lacks Threshold:"):
        claim("nameless", "H", quick=1, full=1)(measure)


def test_a_name_is_taken_once():
    existing = claims()["hexagon-norms"]
    with pytest.raises(ValueError, match="registered twice"):
        claim("hexagon-norms", "H", quick=1, full=1)(existing.measure)


def test_finding_claims():
    assert [found.name for found in find(["stuck-feature", "hexagon-norms"])] == ["stuck-feature", "hexagon-norms"]
    assert len(find(["all", "hexagon-norms"])) == len(claims())
    with pytest.raises(KeyError, match="did you mean 'hexagon-norms'"):
        find(["hexagon-norm"])


# Keeping, and writing


class Counted:
    """A claim that says how often it was measured; interrupted if `fails`."""

    def __init__(self, fails: type[BaseException] | None = None):
        self.sizes: list[int] = []
        self.fails = fails

    def __call__(self, n_models: int) -> Verdict:
        """It holds."""
        self.sizes.append(n_models)
        if self.fails:
            raise self.fails("not here")
        return verdict(n_models=n_models)

    def named(self, name: str) -> Claim:
        return Claim(name, "H", 3, 30, self)


def test_finished_claims_are_kept(tmp_path):
    measure = Counted()
    first = list(runner.reproduce([measure.named("a")], tmp_path, quick=True))
    again = list(runner.reproduce([measure.named("a")], tmp_path, quick=True))
    assert measure.sizes == [3]
    assert [result.kept for result in first + again] == [False, True]
    assert again[0].verdict == first[0].verdict
    assert again[0].verdict.figures[0][1] == first[0].verdict.figures[0][1]
    list(runner.reproduce([measure.named("a")], tmp_path, quick=False))
    assert measure.sizes == [3, 30]  # another size is another measurement


def test_other_code_makes_them_stale(tmp_path):
    measure = Counted()
    list(runner.reproduce([measure.named("a")], tmp_path, quick=True))
    path = tmp_path / "verdicts" / "a.json"
    path.write_text(path.read_text().replace(runner.code_version(), "0123456789ab"))
    [result] = runner.reproduce([measure.named("a")], tmp_path, quick=True)
    assert not result.kept
    assert len(measure.sizes) == 2


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    first, second = Counted(), Counted(fails=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        list(runner.reproduce([first.named("a"), second.named("b")], tmp_path))
    second.fails = None
    results = list(runner.reproduce([first.named("a"), second.named("b")], tmp_path))
    assert [result.kept for result in results] == [True, False]
    assert (len(first.sizes), len(second.sizes)) == (1, 2)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "verdicts").mkdir()
    (tmp_path / "verdicts" / "a.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a\.json holds no verdict"):
        list(runner.reproduce([Counted().named("a")], tmp_path))


@pytest.mark.parametrize("error", [ConnectionError, ModuleNotFoundError])
def test_what_cannot_run_is_listed_as_not_run_and_never_as_passed(tmp_path, error):
    results = list(runner.reproduce([Counted(fails=error).named("a"), Counted().named("b")], tmp_path))
    assert [result.outcome for result in results] == ["not run", "supported"]
    assert results[0].not_run == "not here"
    runner.write_json(results, tmp_path / "v.json")
    assert [entry["claim"] for entry in json.loads((tmp_path / "v.json").read_text())] == ["b"]
    assert runner.table(results).verdict.tolist() == ["not run", "supported"]
    page = runner.write_page(results, tmp_path, quick=False).read_text()
    assert "Not run: not here" in page
    assert not list(tmp_path.glob("verdicts/a*"))


def test_other_errors_are_not_hidden(tmp_path):
    with pytest.raises(ZeroDivisionError):
        list(runner.reproduce([Counted(fails=ZeroDivisionError).named("a")], tmp_path))


def test_the_json_is_that_of_the_contract(tmp_path):
    unmeasured = Claim(
        "b", "H", 1, 1, lambda n: verdict(statistic=math.nan, interval=UNKNOWN, controls={"x": math.inf})
    )
    runner.write_json(list(runner.reproduce([Counted().named("a"), unmeasured], tmp_path)), tmp_path / "v.json")
    found = json.loads(
        (tmp_path / "v.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON")
    )
    assert [list(entry) for entry in found] == [KEYS, KEYS]
    assert found[0] | {"seconds": 0} == {
        "claim": "a",
        "verdict": "supported",
        "statistic": 0.8,
        "interval": [0.7, 0.9],
        "n_models": 30,
        "seconds": 0,
        "controls": {"untrained": 0.1},
    }
    assert found[1] | {"seconds": 0} == found[1] | {
        "verdict": "inconclusive",
        "statistic": None,
        "interval": [None, None],
        "controls": {"x": None},
        "seconds": 0,
    }


def test_the_page_has_the_table_and_every_figure(tmp_path):
    results = list(runner.reproduce([Counted().named("a")], tmp_path))
    page = runner.write_page(results, tmp_path, quick=False).read_text()
    for part in ("A caption.", "1 supported", "0.7 to 0.9", "untrained", "A claim that says how often"):
        assert part in page


def test_the_plain_text_has_the_same(tmp_path):
    not_run = Counted(fails=ConnectionError).named("b")
    results = list(runner.reproduce([Counted().named("a"), not_run], tmp_path))
    text = runner.write_markdown(results, tmp_path, quick=True).read_text()
    assert "| [a](#a) | H | A claim that says how often" in text
    assert "| untrained | 0.1 |" in text
    assert results[0].verdict.paragraph in text
    assert "Not run: not here" in text


# The command line


def test_reproduce_and_list(tmp_path):
    out, verdicts = tmp_path / "out", tmp_path / "verdicts.json"
    arguments = ["reproduce", "relu-degenerate-gelu-not", "--quick", "--json", str(verdicts), "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    [entry] = json.loads(verdicts.read_text())
    assert list(entry) == KEYS
    assert entry["claim"] == "relu-degenerate-gelu-not"
    assert entry["n_models"] == 40
    assert (out / "index.html").is_file()
    again = CliRunner().invoke(app, arguments)
    assert "kept" in again.output
    listed = CliRunner().invoke(app, ["list", "--out", str(out)], env={"COLUMNS": "200"})
    assert listed.exit_code == 0
    for name in claims():
        assert name in listed.output
    assert listed.output.count(entry["verdict"]) == 1


def test_an_unknown_claim_is_a_usage_error():
    done = CliRunner().invoke(app, ["reproduce", "hexagon-norm"])
    assert done.exit_code == 2
    assert "hexagon-norms" in done.output
