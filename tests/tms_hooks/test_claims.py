"""Claims: how they are kept, measured side by side, written and listed."""

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import planned
import pytest
from rich.console import Console
from typer.testing import CliRunner

from tms_hooks import SparseUniform, ToyConfig, files, train
from tms_hooks.claims import UNKNOWN, Verdict, claims, lab, present, registry
from tms_hooks.claims import reproduce as runner
from tms_hooks.cli import app, write_json
from tms_hooks.pages.claims_page import write_markdown, write_page

KEYS = ["claim", "verdict", "parts", "n_models", "unit", "seconds", "seed", "commit", "controls"]


# Keeping


@pytest.fixture(autouse=True)
def notes(tmp_path, monkeypatch):
    monkeypatch.setenv(planned.NOTES, str(tmp_path / "notes"))


def run(measures, out, **settings):
    return list(runner.reproduce([planned.planned(m, m.__name__) for m in measures], out, **settings))


def test_a_claim_is_measured_again_from_other_seeds(tmp_path):
    zero, other, again = (run([planned.trained], tmp_path, quick=True, seed=seed)[0] for seed in (0, 7, 7))
    assert [result.stored for result in (zero, other, again)] == [False, False, True]
    assert [result.verdict.seed for result in (zero, other, again)] == [0, 7, 7]
    cfg, data = ToyConfig(n_features=3, d_hidden=2), SparseUniform(3, 0.5)
    for found, first in ((zero, 0), (other, 7)):
        alone = train(cfg, data, seeds=range(first, first + 3), steps=5, optimizer=lab.USUAL, record_every=5)
        assert found.verdict.controls == {"norm": float(alone.W_E.norm())}
    assert "full size, seeds from 7, code" in write_markdown([other], tmp_path, quick=False).read_text()


def test_runs_are_compared_part_by_part(tmp_path):
    entry = {"claim": "a", "parts": {name: {"outcome": "supported"} for name in "bc"}}
    turned = {"claim": "a", "parts": entry["parts"] | {"c": {"outcome": "refuted"}}}
    found = present.differences([entry], [turned])
    assert found == [{"claim": "a", "part": "c", "one": {"outcome": "supported"}, "other": {"outcome": "refuted"}}]
    with pytest.raises(ValueError, match=r"a b, a c: in one run only; compare runs of the same claims"):
        present.differences([entry], [])


def test_finished_claims_are_kept(tmp_path):
    first, again = run([planned.holds], tmp_path, quick=True) + run([planned.holds], tmp_path, quick=True)
    assert planned.noted() == ["holds:3"]
    assert (first.stored, again.stored) == (False, True)
    assert again.verdict == first.verdict
    assert again.verdict.figures[0][1] == first.verdict.figures[0][1]
    run([planned.holds], tmp_path, quick=False)
    assert planned.noted() == ["holds:3", "holds:30"]  # another size is another measurement


def test_other_code_makes_them_stale(tmp_path):
    run([planned.holds], tmp_path, quick=True)
    path = tmp_path / "verdicts" / "holds.json"
    plain, _ = files.read_sealed(path, runner.FORMAT)
    files.write_sealed(path, runner.FORMAT, {name: plain[name] for name in ("size", "verdict")} | {"code": "other"})
    [result] = run([planned.holds], tmp_path, quick=True)
    assert not result.stored
    assert len(planned.noted()) == 2


def changed_digit(path, other):
    path.write_text(path.read_text().replace("0.7", "0.4", 1))


def no_verdict(path, other):
    path.write_text("{}")


def of_another_claim(path, other):
    path.write_bytes(other.read_bytes())


def a_pipe(path, other):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [changed_digit, no_verdict, of_another_claim, a_pipe])
def test_a_damaged_verdict_is_none_and_said_so(tmp_path, caplog, damage):
    claim, other = planned.planned(planned.holds, "holds"), planned.planned(planned.holds, "other")
    verdicts = [runner.settle(each, tmp_path, quick=True).verdict for each in (claim, other)]
    damage(*(tmp_path / "verdicts" / f"{each.name}.json" for each in (claim, other)))
    assert runner.last(claim, tmp_path) is None
    assert "the stored verdict on holds cannot be read" in caplog.text
    assert runner.last(other, tmp_path).verdict == verdicts[1]
    again = runner.settle(claim, tmp_path, quick=True)
    assert runner.last(claim, tmp_path).verdict == again.verdict


def test_a_damaged_verdict_stops_no_command(tmp_path):
    (tmp_path / "verdicts").mkdir()
    (tmp_path / "verdicts" / "hexagon-norms.json").write_text("{}")
    listed = CliRunner().invoke(app, ["list", "--out", str(tmp_path)])
    assert listed.exit_code == 0, listed.output
    [result] = run([planned.holds], tmp_path, quick=True)
    changed_digit(tmp_path / "verdicts" / "holds.json", None)
    [again] = run([planned.holds], tmp_path, quick=True)
    assert (result.stored, again.stored) == (False, False)


def test_a_verdict_that_cannot_be_stored_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "out").write_text("a file")
    result = runner.settle(planned.planned(planned.holds), tmp_path / "out", quick=True)
    assert result.outcome == "supported"
    where = re.search("the result is in (.*) instead", result.failed)[1]
    assert Verdict.from_json(files.read_sealed(Path(where), runner.FORMAT)[0]["verdict"]) == result.verdict


# Side by side


def in_family(family: str, seconds: int):
    def measure(n_models: int) -> Verdict:
        raise AssertionError("nobody runs it")

    measure.__module__ = family
    return registry.Claim(f"{family}, {seconds}", "H", 3, 30, measure, seconds=seconds)


def test_a_worker_keeps_to_its_family_and_the_longest_come_first():
    waiting = [in_family(*each) for each in (("a", 1), ("a", 9), ("b", 8), ("b", 7), ("c", 14))]
    seconds = {claim.name: float(claim.seconds) for claim in waiting}
    asked = [(None, ()), ("a", ("b",)), (None, ("b",)), ("d", ("b", "c")), ("d", ("a", "b", "c"))]
    found = [runner.next_claim(waiting, seconds, family, others).name for family, others in asked]
    assert found == ["b, 8", "a, 9", "c, 14", "a, 9", "b, 8"]


@pytest.mark.parametrize("n_jobs", [2, 3, 4])
def test_a_first_run_leaves_no_worker_idle_for_long(n_jobs):
    waiting = list(claims().values())
    seconds = {claim.name: float(claim.seconds) for claim in waiting}
    free_at, families = [0.0] * n_jobs, [None] * n_jobs
    while waiting:
        worker = min(range(n_jobs), key=free_at.__getitem__)
        claim = runner.next_claim(waiting, seconds, families[worker], {*families} - {families[worker], None})
        waiting.remove(claim)
        free_at[worker], families[worker] = free_at[worker] + claim.seconds, claim.family
    assert max(free_at) < 1.03 * sum(free_at) / n_jobs


def test_the_longest_is_begun_first_before_any_was_measured(tmp_path):
    begun = []
    planned_ones = [planned.planned(planned.holds, name) for name in "abc"]
    several = [replace(claim, seconds=s) for claim, s in zip(planned_ones, (5, 20, 10), strict=True)]
    list(runner.reproduce(several, tmp_path, quick=True, started=begun.append))
    assert [claim.name for claim in begun] == ["b", "c", "a"]


def test_an_error_in_one_claim_is_its_result_and_the_others_go_on(tmp_path):
    measures = (planned.divides_by_zero, planned.dies, planned.holds, planned.one_thread, planned.hears_ctrl_c)
    results = run(measures, tmp_path, n_jobs=2)
    found = {result.claim.name: result for result in results}
    assert {name: result.outcome for name, result in found.items()} == {
        "divides_by_zero": "failed",
        "dies": "failed",
        "holds": "supported",
        "one_thread": "supported",
        "hears_ctrl_c": "supported",
    }
    assert "ZeroDivisionError" in found["divides_by_zero"].summary
    assert "exit code 9" in found["dies"].summary
    assert found["one_thread"].verdict.sole.statistic == 1
    assert sorted(path.stem for path in (tmp_path / "verdicts").iterdir()) == ["hears_ctrl_c", "holds", "one_thread"]


def test_stopping_keeps_what_is_finished_and_ends_the_workers(tmp_path):
    claims = [planned.planned(m, m.__name__) for m in (planned.holds, planned.never_ends)]
    results = runner.reproduce(claims, tmp_path, quick=True, n_jobs=2)
    assert next(results).claim.name == "holds"
    while not (begun := [line for line in planned.noted() if line.startswith("never_ends")]):
        time.sleep(0.05)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun[0].split(":")[1]), 0)
    assert [result.stored for result in run([planned.holds], tmp_path, quick=True)] == [True]


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for the process in /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = f"""
import sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [{str(Path(planned.__file__).parent)!r}, {str(Path(__file__).parents[2])!r}]
import planned
from tms_hooks.claims.reproduce import reproduce
if __name__ == "__main__":
    list(reproduce([planned.planned(planned.never_ends)], Path({str(tmp_path)!r})))
"""
    (tmp_path / "script.py").write_text(script)
    with subprocess.Popen([sys.executable, tmp_path / "script.py"]) as parent:
        while not (begun := [line for line in planned.noted() if line.startswith("never_ends")]):
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
    worker = int(begun[0].split(":")[1])
    deadline = time.monotonic() + 30
    while (lives := Path(f"/proc/{worker}").exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not lives


def test_the_longest_go_first(tmp_path):
    for name, seconds in (("short", 1.0), ("long", 9.0)):
        kept = {"code": "old", "size": 3, "verdict": planned.verdict(claim=name, seconds=seconds).to_json()}
        files.write_sealed(tmp_path / "verdicts" / f"{name}.json", runner.FORMAT, kept)
    begun = []
    claims = [planned.planned(planned.holds, name) for name in ("short", "long", "never measured", "nor this")]
    list(runner.reproduce(claims, tmp_path, quick=True, started=lambda claim: begun.append(claim.name)))
    assert begun == ["never measured", "nor this", "long", "short"]


def test_nobody_to_do_the_work(tmp_path):
    with pytest.raises(ValueError, match="at least one process"):
        run([planned.holds], tmp_path, n_jobs=0)


# Writing


def settled(tmp_path, *measures):
    return [runner.settle(planned.planned(m, m.__name__), tmp_path, quick=False) for m in measures]


@pytest.mark.parametrize("measure", [planned.lacks_network, planned.lacks_package])
def test_what_cannot_run_is_listed_as_not_run_and_never_as_passed(tmp_path, measure):
    results = settled(tmp_path, measure, planned.holds)
    assert [result.outcome for result in results] == ["not run", "supported"]
    assert results[0].not_run == "not here"
    write_json(present.records(results), tmp_path / "v.json")
    assert [entry["claim"] for entry in json.loads((tmp_path / "v.json").read_text())] == ["holds"]
    text = write_markdown(results, tmp_path, quick=False).read_text()
    assert re.findall(r"^\| \[.*?\| (not run|supported) \|", text, re.MULTILINE) == ["not run", "supported"]
    page = write_page(results, tmp_path, quick=False).read_text()
    assert "Not run: not here" in page
    assert "1 supported, 1 not run" in page
    assert not list(tmp_path.glob("verdicts/lacks*"))


def test_the_json_is_that_of_the_contract(tmp_path):
    nothing = planned.verdict(claim="b", statistic=math.nan, interval=UNKNOWN, controls={"x": math.inf})
    unmeasured = runner.Result(planned.planned(planned.holds, "b"), planned.decided(nothing))
    write_json(present.records([*settled(tmp_path, planned.holds), unmeasured]), tmp_path / "v.json")
    found = json.loads(
        (tmp_path / "v.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON")
    )
    assert [list(entry) for entry in found] == [KEYS, KEYS]
    [part] = found[0]["parts"].values()
    assert part == part | {"outcome": "supported", "statistic": 0.8, "interval": [0.7, 0.9], "needs": ["above", 0.5]}
    assert found[0] == found[0] | {
        "claim": "holds",
        "verdict": "supported",
        "n_models": 30,
        "commit": runner.commit(),
        "controls": {"untrained": 0.1},
    }
    [part] = found[1]["parts"].values()
    assert part == part | {"outcome": "not measurable", "statistic": None, "interval": [None, None]}
    assert found[1] == found[1] | {"verdict": "not measurable", "controls": {"x": None}}
    assert "could not be measured" in write_page([unmeasured], tmp_path, quick=False).read_text()


def test_the_page_has_the_table_and_every_figure(tmp_path):
    results = settled(tmp_path, planned.holds, planned.divides_by_zero)
    page = write_page(results, tmp_path, quick=False).read_text()
    for part in ("A caption.", "1 supported", "0.8 [0.7, 0.9]", "untrained", "It holds.", "Threshold: above 1/2"):
        assert part in page
    assert "Failed: ZeroDivisionError: division by zero" in page


def test_the_plain_text_has_the_same(tmp_path):
    results = settled(tmp_path, planned.holds, planned.lacks_network)
    text = write_markdown(results, tmp_path, quick=True).read_text()
    assert "| [holds](#holds) | H | It holds." in text
    assert "| untrained | 0.1 |" in text
    assert results[0].verdict.paragraph in text
    assert "Not run: not here" in text


def test_what_could_not_be_measured_is_none_in_the_plain_text(tmp_path):
    found = planned.decided(planned.verdict(statistic=math.nan, interval=(0.0, 1.0), controls={"x": math.nan}))
    text = write_markdown([runner.Result(planned.planned(planned.holds), found)], tmp_path, quick=True).read_text()
    assert "| all | not measurable | – | above 0.5 |" in text
    assert "| x | none |" in text


def test_a_bar_in_a_control_s_name_does_not_break_its_row(tmp_path):
    found = planned.decided(planned.verdict(controls={"|cosine| > 0.8": 0.1}))
    result = runner.Result(planned.planned(planned.holds, "bars"), found)
    assert r"| \|cosine\| > 0.8 | 0.1 |" in write_markdown([result], tmp_path, quick=True).read_text()


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("end", [0.00123, 0.000123])
def test_the_table_is_whole_at_80_columns(tmp_path, width, end):
    longest = max(claims(), key=len)
    found = planned.decided(planned.verdict(statistic=-end, interval=(-end, end)), threshold=0.0)
    results = [runner.Result(planned.planned(planned.holds, longest), found)]
    results += settled(tmp_path, planned.divides_by_zero)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(present.verdicts(results))
    shown = console.export_text()
    for part in (longest, "= at the threshold", f"{-end} [{-end},", f"{end}]", "! failed"):
        assert part in shown
    assert "…" not in shown


def test_chance_is_spoken_of_where_it_is_to_be_expected():
    found = planned.decided(planned.verdict(statistic=0.9, interval=(0.8, 0.95)), threshold=0.5)
    result = runner.Result(planned.planned(planned.holds, "bars"), found)
    assert present.chance([result] * 19) == ""
    assert present.chance([result] * 20).startswith("Of 20 intervals at 95 %, about 1 miss")


# The command line


def test_reproduce_and_list(tmp_path):
    out, verdicts = tmp_path / "out", tmp_path / "verdicts.json"
    arguments = ["reproduce", "hexagon-norms", "--quick", "--json", str(verdicts), "--out", str(out), "--n-jobs", "2"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    [entry] = json.loads(verdicts.read_text())
    assert list(entry) == KEYS
    assert entry["claim"] == "hexagon-norms"
    assert entry["n_models"] > 40
    assert (out / "index.html").is_file()
    again = CliRunner().invoke(app, arguments)
    assert "stored" in again.output
    listed = CliRunner().invoke(app, ["list", "--out", str(out)])
    assert listed.exit_code == 0
    for name in claims():
        assert name in listed.output
    assert listed.output.count(entry["verdict"]) == 1
    told = CliRunner().invoke(app, ["list", "hexagon-norms", "stuck-feature", "--out", str(out)])
    measured = [part["measured"] for part in entry["parts"].values()]
    for part in ("Threshold: below 0.05", *measured, "Not measured yet"):
        assert part in told.output


def test_a_failed_claim_is_told_and_the_exit_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_claims", {"a": planned.planned(planned.divides_by_zero)})
    monkeypatch.setattr(registry, "FAMILIES", ())
    done = CliRunner().invoke(app, ["reproduce", "all", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "1 failed" in done.output
    assert "ZeroDivisionError: division by zero" in done.output


@pytest.mark.parametrize("command", ["reproduce", "list"])
def test_an_unknown_claim_is_a_usage_error(command):
    done = CliRunner().invoke(app, [command, "hexagon-norm"])
    assert done.exit_code == 2
    assert "hexagon-norms" in done.output


def kept_claim(tmp_path):
    """A finished claim on disk, as `tms reproduce` leaves it."""
    plain = {"code": "old", "size": 50, "verdict": planned.verdict(claim="hexagon-norms").to_json()}
    files.write_sealed(tmp_path / "verdicts" / "hexagon-norms.json", runner.FORMAT, plain)
    return ["figure", "hexagon-norms", "--store", str(tmp_path), "--out"]


def test_a_figure_of_a_kept_claim_alone(tmp_path):
    page = tmp_path / "pictures" / "norms.html"
    done = CliRunner().invoke(app, [*kept_claim(tmp_path), str(page)])
    assert done.exit_code == 0, done.output
    assert "1: A caption." in done.output
    assert "Plotly.newPlot" in page.read_text()


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_picture_or_what_it_lacks(tmp_path, kind, monkeypatch):
    picture = tmp_path / f"norms.{kind}"
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chrome")
    refused = CliRunner().invoke(app, [*kept_claim(tmp_path), str(picture)])
    assert refused.exit_code == 2
    told = re.sub(r"[\s│]+", " ", refused.output)
    assert "plotly_get_chrome" in told or "pip install" in told
    assert "give a name in .html" in told
    assert not picture.exists()
    pytest.importorskip("kaleido")
    if not shutil.which("chromium") and not shutil.which("google-chrome"):
        pytest.skip("no chromium on this machine; CI installs it")
    monkeypatch.delenv("BROWSER_PATH")
    drawn = CliRunner().invoke(app, [*kept_claim(tmp_path), str(picture)])
    assert drawn.exit_code == 0, drawn.output
    assert picture.read_bytes().startswith({"svg": b"<svg", "png": b"\x89PNG"}[kind])


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["norms.gif"], "give one of these suffixes"),
        (["norms.html", "--index", "2"], "--index 2: hexagon-norms has 1: 1: A caption."),
    ],
)
def test_a_figure_that_cannot_be_written_is_told(tmp_path, options, rule):
    done = CliRunner().invoke(app, [*kept_claim(tmp_path), *options])
    assert done.exit_code == 2
    assert rule in re.sub(r"[\s│]+", " ", done.output)
