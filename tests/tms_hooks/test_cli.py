import errno
import json
import logging
import os
import re
import tempfile
from dataclasses import replace
from inspect import signature
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

import tms_hooks as tms
from tms_hooks import config, progress
from tms_hooks.claims import claims
from tms_hooks.cli import app, commands, options, printing
from tms_hooks.pages import report
from tms_hooks.training import optimizers

plain = {"TERM": "dumb", "COLUMNS": "200", "NO_COLOR": "1"}


@pytest.fixture(autouse=True)
def to_standard_output(monkeypatch):
    monkeypatch.setattr(printing.console, "stderr", False)  # `--json -` sends what is for people elsewhere, for good


def invoke(*args):
    return CliRunner().invoke(app, [str(a) for a in args], env=plain)


def test_help_teaches_every_command():
    shown = invoke("--help").output
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {"demo", "theory", "train"} <= names
    for name in names:
        assert name in shown
        taught = re.sub(r"[\s│]+", " ", invoke(name, "--help").output)
        assert re.search(rf"Example: .*`tms {name}\b", taught), name


HELP = "from typer.testing import CliRunner; from tms_hooks.cli import app; print(CliRunner().invoke(app, {}).output)"


def test_help_waits_for_no_library_and_the_commands_do(run_python):
    loaded = "; import sys; print('torch' in sys.modules)"
    said = run_python(HELP.format(["train", "--help"]) + loaded)
    assert "--n-features" in said
    assert said.split()[-1] == "False"
    assert run_python(HELP.format(["list", "hexagon-norms"]) + loaded).split()[-1] == "True"


def test_what_the_command_line_restates_is_the_library_s():
    assert options.Activation == config.Activation
    assert options.Schedule == optimizers.Schedule
    assert set(options.OptimizerName.__args__) == set(optimizers.OPTIMIZERS)


def test_version():
    done = invoke("--version")
    assert done.exit_code == 0
    assert re.fullmatch(
        r"tms-hooks \d+\.\d+\S* \(torch \S+, transformer-lens \S+, Python 3\.\d+\.\d+\)", done.output.strip()
    )


@pytest.mark.parametrize("no_color", [{}, {"NO_COLOR": "1"}])
def test_no_color_where_none_is_wanted(run_python, monkeypatch, no_color):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in no_color.items():
        monkeypatch.setenv(name, value)
    shown = run_python("from tms_hooks.cli.printing import tell; tell('told', 'red')")
    colored = re.search(r"\x1b\[(\d+;)*3[0-7]m", shown)
    assert bool(colored) == (not no_color)


def test_train_writes_a_run_that_loads_and_prints_its_geometries(tmp_path):
    done = invoke("train", tmp_path / "run", "--seeds", 5, "--steps", 40, "-n", 4, "--batch-size", 64, "--lr", 0.01)
    assert done.exit_code == 0, done.output
    run = tms.load(tmp_path / "run")
    assert run.W_E.shape == (5, 4, 2)
    assert run.recipe.optimizer == tms.Adam(lr=0.01)
    assert run.recipe.data == tms.SparseUniform(n_features=4, feature_probability=0.057)
    rows = re.findall(r"^\w.*?  +(\d+)  +[\d.]+  +[\d.]+  +[\d.]+  +[\d.e-]+$", done.output, re.MULTILINE)
    assert sum(map(int, rows)) == 5


@pytest.mark.parametrize("wide", [79, 200])
def test_names_and_numbers_of_a_table_are_never_broken(monkeypatch, capsys, wide):
    shard = "567ddbf4897589aaa543"
    table = pd.DataFrame(
        {"mean loss": [0.25, 1.5], "prose": ["word " * 12] * 2, "shard": [shard] * 2},
        index=pd.MultiIndex.from_product([[0.1, 0.5], [True]], names=["feature_probability", "tied"]),
    )
    monkeypatch.setattr(printing, "console", Console(width=wide, force_terminal=True, no_color=True))
    printing.print_table(table, "On a terminal")
    shown = capsys.readouterr().out
    assert "┃" in shown
    for text in (*table.columns, *table.index.names, shard):
        assert text in shown, text
    monkeypatch.setattr(printing, "console", Console(width=40, force_terminal=True, no_color=True, highlight=False))
    printing.print_table(table, "Where it has no room")
    narrow = capsys.readouterr().out
    monkeypatch.setattr(printing, "console", Console(width=80, highlight=False))
    printing.print_table(table, "Where it has no room")
    piped = capsys.readouterr().out.splitlines()
    assert narrow.splitlines() == piped
    assert [len(piped), {line == line.rstrip() for line in piped}] == [4, {True}]
    assert piped[2].split()[:3] == ["0.1", "True", "0.25"] and piped[2].endswith(shard)


def test_train_says_which_engine_it_takes_and_why(tmp_path, caplog):
    library = logging.getLogger("tms_hooks")
    invoke("train", tmp_path / "silent", *QUICK)
    assert library.level == logging.NOTSET
    said = invoke("train", tmp_path / "run", "-v", "--optimizer", "adam", "--schedule", "Cosine", *QUICK)
    assert said.exit_code == 0, said.output
    library.setLevel(logging.NOTSET)
    assert caplog.text.count(" engine trains this: ") == 1
    optimizer = tms.load(tmp_path / "run").recipe.optimizer
    assert (type(optimizer), optimizer.schedule) == (tms.Adam, "cosine")


def test_a_page_is_made_anew_over_a_page_and_nothing_else(tmp_path):
    page = tmp_path / "out" / "index.html"
    page.parent.mkdir()
    page.write_text("<html>mine</html>")
    for command in (["demo"], ["compare", tmp_path], ["reproduce", "hexagon-norms", "--quick"], ["theory"]):
        refused = invoke(*command, "--out", page.parent)
        assert (refused.exit_code, "is no page" in re.sub(r"\s+", " ", refused.output)) == (2, True), command
    assert invoke("figure", "hexagon-norms", "--out", page).exit_code == 2
    assert page.read_text() == "<html>mine</html>"
    page.unlink()
    for _ in range(2):
        report.check_replaceable(page)
        report.write(page, "title", "lead", [], "footer")


def test_train_on_one_hot_data(tmp_path):
    done = invoke("train", tmp_path / "run", "--data", "OneHot", "--seeds", 2, "--steps", 5, "--no-output-bias")
    assert done.exit_code == 0, done.output
    recipe = tms.load(tmp_path / "run").recipe
    assert recipe.data == tms.OneHot(n_features=6)
    assert not recipe.cfg.output_bias


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["-p", 1.5], "must be in (0, 1]"),
        (["-m", 0], "must be at least 1"),
        (["--output-act", "rellu"], "'rellu' is not one of 'identity', 'relu'"),
        (["--lr", -1], "must be positive"),
        (["--schedule", "exponential"], "give a positive final_lr"),
        (["-p", 0], "must be in (0, 1]"),
        (["--data", "OneHot", "-p", 0.1], "one-hot data has none"),
        (["--p", 0.1], "No such option: --p; did you mean -p?"),
        (["--sparsity", 0.9], "did you mean --feature-probability?"),
        (["--lr", "abc"], "'--lr': 'abc': must be a number, such as 0.001"),
        (["--steps", -5], "'--steps': -5: must be at least 1"),
        (["--batch-size", 2.5], "'--batch-size': '2.5': must be a whole number"),
        (["--final-lr", "nan"], "'--final-lr': nan: must be at least 0"),
        (["--lr"], "Option '--lr' requires an argument"),
    ],
)
def test_bad_options_are_told_with_their_rule(tmp_path, options, rule):
    done = invoke("train", tmp_path / "run", "--seeds", 2, "--steps", 2, *options)
    assert done.exit_code == 2
    assert rule in re.sub(r"[\s│]+", " ", done.output)
    assert not (tmp_path / "run").exists()


def test_train_refuses_to_overwrite_what_is_no_run(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    done = invoke("train", tmp_path, "--seeds", 1, "--steps", 1)
    assert done.exit_code == 2
    assert "no run" in re.sub(r"[\s│]+", " ", done.output)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("command", "rule"),
    [
        (["figure", "nonsense"], "no claim 'nonsense'"),
        (["figure", "all"], "name one claim"),
        (["list", "hexagon-norm"], "did you mean 'hexagon-norms'?"),
        (["reproduce", "hexagon-norm"], "did you mean 'hexagon-norms'?"),
        (["trian", "x"], "Did you mean 'train'?"),
        (["sweep", "{folder}/bad.toml", "--store", "{folder}/s"], "the grid is not TOML"),
        (["theory", "--json", "{folder}/bad.toml/x.json"], "nothing can be written"),
    ],
)
def test_a_mistake_is_told_in_a_line_and_ends_with_2(tmp_path, command, rule):
    (tmp_path / "bad.toml").write_text("seeds = = 2")
    done = invoke(*(word.format(folder=tmp_path) for word in command))
    assert done.exit_code == 2
    assert rule in re.sub(r"[\s│]+", " ", done.output)
    assert "Traceback" not in done.output


QUICK = ["--steps", 4, "-n", 4, "--batch-size", 16]


def test_results_for_programs_stand_alone_on_standard_output(tmp_path):
    done = invoke("train", tmp_path / "run", "--seeds", 3, "--seed", 7, *QUICK, "--json", "-")
    assert done.exit_code == 0, done.output
    found, run = json.loads(done.stdout), tms.load(tmp_path / "run")
    assert run.recipe.seeds == (7, 8, 9)
    assert [row["seed"] for row in found["models"]] == [7, 8, 9]
    assert [row["final_loss"] for row in found["models"]] == pytest.approx(run.final_loss.tolist(), rel=1e-12)
    assert (found["run"], found["completed_steps"], found["stopped"]) == (str(tmp_path / "run"), 4, False)
    assert "Saved to" in done.stderr
    again = invoke("train", tmp_path / "run", "--seeds", 3, *QUICK, "--overwrite", "--json", tmp_path / "r.json")
    assert "Saved to" in again.stdout
    assert [row["seed"] for row in json.loads((tmp_path / "r.json").read_text())["models"]] == [0, 1, 2]


def test_progress_is_plain_lines_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(progress, "PLAIN", 0.0)
    with progress.bar(3, 1000, show=True) as move:
        move(400)
        move(1000)
        move(1000)  # a last record and the end
    assert list(progress.each([5, 6], "summing")) == [5, 6]
    with progress.watched(lambda: 3, 3, "training 3 of 4 shards", show=True):
        pass
    shown = capsys.readouterr()
    lines = [re.sub(r"[\d,]+ model steps/s", "_", line) for line in shown.err.splitlines()]
    training = [f"training 3 models: step {step} of 1,000, _" for step in ("400", "1,000")]
    assert lines == [*training, "summing: 1 of 2", "summing: 2 of 2", "training 3 of 4 shards: 3 of 3 finished"]
    assert shown.out == ""


def test_claims_are_listed_a_line_each_by_source(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        for module in (commands, printing):
            patch.setattr(module, "console", Console(width=80, force_terminal=True, no_color=True))
        patch.chdir(tmp_path)  # a long path would be folded
        commands.list_claims(None, Path("out"))
    *lines, legend = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    assert legend.startswith(f"{len(claims())} claims; no mark: not measured in out")
    assert "H: pentagon vs hexagon" in lines
    for claim in claims().values():
        assert sum(line.split()[:1] == [claim.name] for line in lines) == 1
    whole = invoke("list", "--out", tmp_path).output
    assert [line for line in whole.splitlines() if line != line.rstrip()] == []
    assert whole[0] != "\n"
    misspelled = invoke("list", "no-such-claim").output
    assert "nearest of" in misspelled and len(misspelled) < 400
    assert [claim.name for claim in claims().values() if claim.statement not in whole] == []
    found = json.loads(invoke("list", "hexagon-norms", "--out", tmp_path, "--json", "-").stdout)
    assert (found[0]["source"], found[0]["last_verdict"]) == ("H", None)
    assert "Threshold" in found[0]["design"]


def test_train_never_replaces_a_run_unless_told_to(tmp_path):
    assert invoke("train", tmp_path / "run", "--seeds", 3, *QUICK).exit_code == 0
    refused = invoke("train", tmp_path / "run", "--seeds", 2, *QUICK)
    assert refused.exit_code == 2
    assert "holds 3 models of 4 steps" in re.sub(r"[\s│]+", " ", refused.output)
    assert "--overwrite" in refused.output
    assert len(tms.load(tmp_path / "run").models) == 3
    assert invoke("train", tmp_path / "run", "--seeds", 2, *QUICK, "--overwrite").exit_code == 0
    assert len(tms.load(tmp_path / "run").models) == 2


def test_train_goes_on_from_a_checkpoint_over_the_run_that_was_stopped(tmp_path, caplog):
    given = ["--seeds", 2, *QUICK, "--checkpoint", tmp_path / "saved"]
    assert invoke("train", tmp_path / "run", *given).exit_code == 0
    whole = tms.load(tmp_path / "run")
    replace(whole, completed_steps=2).save(tmp_path / "run")  # as after Ctrl-C
    with caplog.at_level("INFO"):
        again = invoke("train", tmp_path / "run", *given)
    assert again.exit_code == 0, again.output
    assert "resuming from" in caplog.text
    assert tms.load(tmp_path / "run").W_E.equal(whole.W_E)


def test_folders_that_are_made_are_named_before_any_work(tmp_path):
    file, listed, store = tmp_path / "kept" / "found.json", tmp_path / "lists" / "claims.json", tmp_path / "store"
    (tmp_path / "grid.toml").write_text("[base]\nn_features = 4\nd_hidden = 2\nsteps = 2\nfeature_probability = 0.5\n")
    training = ["train", tmp_path / "runs" / "a", "--checkpoint", tmp_path / "saved", "--json", file, *QUICK]
    new = "is a new folder: it is made when there is something to keep in it."
    for words, folders in (
        (training, [tmp_path / "runs", tmp_path / "saved", file.parent]),
        (["sweep", tmp_path / "grid.toml", "--store", store, "--n-jobs", 1], [store]),
        (["list", "--json", listed], [listed.parent]),
    ):
        first, again = invoke(*words), invoke(*words, *["--overwrite"] * (words == training))
        told = first.stderr.splitlines()
        assert told[: len(folders)] == [f"{folder} {new}" for folder in folders], first.output
        assert [folder.is_dir() for folder in folders] == [True] * len(folders)
        assert again.exit_code == 0 and new not in again.output, again.output
        for named in {file, listed}.intersection(words):
            assert told[-1] == f"The results are in {named}, for programs."


@pytest.mark.parametrize("command", ["train", "demo", "sweep", "reproduce", "theory", "figure", "compare"])
def test_a_place_that_cannot_be_written_is_told_before_any_work(tmp_path, command):
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file" / "new"
    (tmp_path / "grid.toml").write_text("[base]\nn_features = 4\nd_hidden = 2\nfeature_probability = 0.1\n")
    arguments = {
        "train": [place, "--steps", 10**9],
        "demo": ["--out", place],
        "sweep": [tmp_path / "grid.toml", "--store", place],
        "reproduce": ["all", "--out", place],
        "theory": ["--out", place],
        "figure": ["hexagon-norms", "--out", place / "figure.html", "--store", tmp_path],
        "compare": [tmp_path, "--model", "tiny", "--out", place],
    }[command]
    done = invoke(command, *arguments)
    assert done.exit_code == 2
    assert "is no folder, so nothing can be written" in re.sub(r"[\s│]+", " ", done.output)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "grid.toml"]


def test_train_needs_room_for_its_result(tmp_path):
    done = invoke("train", tmp_path / "run", "--seeds", 10**4, "--steps", 10**9, "-n", 1000, "-m", 100)
    assert done.exit_code == 2
    assert re.search(r"needs about [\d,]+ bytes and its disk has", re.sub(r"[\s│]+", " ", done.output))


def test_what_cannot_be_saved_is_elsewhere_and_the_command_says_where(tmp_path, monkeypatch):
    rename = os.replace

    def full(source, target):
        if Path(target).parent == tmp_path / "run":
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", full)
    (tmp_path / "system").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "system"))
    done = invoke("train", tmp_path / "run", "--seeds", 2, *QUICK)
    assert done.exit_code == 1
    where = re.search(r"No space left on device\); the result is in (\S+) instead", done.output)[1]
    assert len(tms.load(where).models) == 2
    assert not (tmp_path / "run").exists()


def test_the_current_folder_is_no_place_for_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke("train", ".", *QUICK)
    assert done.exit_code == 2
    assert "is the current folder" in done.output


@pytest.mark.parametrize("name", ["[", "[/x]", "[red]", ":smile:", "a" * 200])
def test_paths_are_printed_as_they_are(tmp_path, name):
    path = tmp_path / name / "run"
    done = invoke("train", path, "--seeds", 1, *QUICK)
    assert done.exit_code == 0, done.output
    assert f"Saved to {path}." in done.output
    assert tms.load(path).completed_steps == 4


def test_theory_prints_polygons_and_the_map():
    shown = invoke("theory")
    assert shown.exit_code == 0, shown.output
    rows = [line.split() for line in shown.stdout.splitlines() if line[:1].isdigit()]
    polygons, best = rows[:8], rows[8:]
    assert [row[0] for row in polygons] == [str(F) for F in range(3, 11)]
    assert [float(v) for v in polygons[2]] == [5, -1.348, -1.399, 0.9163, -1.588, 1.17, -0.2823]
    assert [row[0] for row in best] == [str(n) for n in range(4, 11)]
    assert best[0][1:] == ["4"] * 6
    assert best[-1][1:] == ["7", "7", "7", "6", "5", "4"]


def test_demo_names_the_models_there_are(tmp_path):
    done = invoke("demo", "--model", "smollm", "--out", tmp_path)
    assert done.exit_code == 2
    assert "did you mean 'smollm2'?" in re.sub(r"[\s│]+", " ", done.output)


def test_demo_asks_for_a_tokenizer_before_it_trains(tmp_path):
    done = invoke("demo", "--model", "tiny", "--out", tmp_path)
    assert done.exit_code == 2 and "training" not in done.output
    assert "'tiny' has no tokenizer" in re.sub(r"[\s│]+", " ", done.output)


def test_sweep_trains_a_grid_once(tmp_path):
    (tmp_path / "grid.toml").write_text(
        "seeds = 2\n[base]\nn_features = 4\nd_hidden = 2\nsteps = 3\nbatch_size = 16\n"
        "[grid]\nfeature_probability = [0.1, 0.5]\ntied = [true, false]\n"
    )
    done = invoke("sweep", tmp_path / "grid.toml", "--store", tmp_path / "store", "--n-jobs", 1)
    assert done.exit_code == 0, done.output
    assert "training 4 of 4 shards: 4 of 4 finished" in done.stderr
    runs = {folder: folder.stat().st_mtime_ns for folder in (tmp_path / "store").iterdir() if folder.is_dir()}
    assert len(runs) == 4
    again = invoke("sweep", tmp_path / "grid.toml", "--store", tmp_path / "store", "--n-jobs", 1, "--json", "-")
    assert [word in done.stdout for word in ("feature_probability", "tied", "shard")] == [True] * 3
    for row in json.loads(again.stdout):
        run = tms.load(tmp_path / "store" / row["shard"])
        assert (run.recipe.data.feature_probability, run.recipe.cfg.tied) == (row["feature_probability"], row["tied"])
        assert row["mean loss"] == pytest.approx(float(run.final_loss.mean()))
    assert runs == {folder: folder.stat().st_mtime_ns for folder in runs}


def test_a_sweep_of_one_combination_is_a_row(tmp_path):
    (tmp_path / "grid.toml").write_text("[base]\nn_features = 4\nd_hidden = 2\nsteps = 2\nfeature_probability = 0.5\n")
    done = invoke("sweep", tmp_path / "grid.toml", "--store", tmp_path / "store", "--n-jobs", 1, "--json", "-")
    assert done.exit_code == 0, done.output
    assert [row["grid"] for row in json.loads(done.stdout)] == ["base"]


def test_sweep_names_a_value_of_the_wrong_type(tmp_path):
    base = "[base]\nn_features = 4\nd_hidden = 2\nfeature_probability = 0.1\n"
    told = {"steps = true": "steps=True: must be a whole number", "lr = '1'": "lr='1': must be a number"}
    for line, rule in told.items():
        (tmp_path / "grid.toml").write_text(base + line)
        done = invoke("sweep", tmp_path / "grid.toml", "--store", tmp_path / "store")
        assert done.exit_code == 2
        assert rule in re.sub(r"[\s│]+", " ", done.output)


def test_sweep_names_an_unknown_key(tmp_path):
    (tmp_path / "grid.toml").write_text("[grid]\nd_hiden = [1, 2]\n")
    done = invoke("sweep", tmp_path / "grid.toml", "--store", tmp_path / "store")
    assert done.exit_code == 2
    assert "did you mean 'd_hidden'?" in re.sub(r"[\s│]+", " ", done.output)


def test_the_options_of_train_are_the_library_s_arguments():
    theirs = {
        name
        for thing in (tms.ToyConfig, tms.SparseUniform, tms.Adam, tms.train)
        for name in signature(thing).parameters
    }
    own = {"out", "importance_decay", "overwrite", "seed", "json_file", "verbose"}
    ours = set(signature(commands.train).parameters) - own
    assert ours < theirs


def test_a_number_that_is_missing_is_none(capsys):
    printing.print_table(pd.DataFrame({"a": [0.5, float("nan")]}, index=["x", "y"]), "title")
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["title"],
        ["a"],
        ["x", "0.5"],
        ["y", "none"],
    ]


@pytest.mark.real_weights
def test_compare_sets_a_run_beside_a_real_model(tmp_path):
    assert invoke("train", tmp_path / "run", "--seeds", 3, "--steps", 30, "--batch-size", 64).exit_code == 0
    file = tmp_path / "found.json"
    done = invoke("compare", tmp_path / "run", "--model", "smollm2", "--out", tmp_path / "page", "--json", file)
    assert done.exit_code == 0, done.output
    dimensions = {row["quantity"]: row for row in json.loads(file.read_text())["measured"]}["dimensions"]
    assert (dimensions["toys"], dimensions["smollm2"]) == (2, 576)
    assert "3 toys of" in done.output
    assert "after 30 steps, held-out loss 0." in done.output
    assert "smollm2" in done.output
    assert "Welch" in (tmp_path / "page" / "index.html").read_text()


@pytest.mark.real_weights
def test_compare_takes_toys_with_as_many_features_as_dimensions(tmp_path):
    given = ["-n", 4, "-m", 4, "-p", 0.5, "--lr", 0.01, "--seeds", 2, "--steps", 500, "--batch-size", 64]
    assert invoke("train", tmp_path / "run", *given).exit_code == 0
    done = invoke("compare", tmp_path / "run", "--model", "smollm2", "--out", tmp_path / "page")
    assert done.exit_code == 0, done.output
    assert "none (none)" in done.output


def test_compare_without_a_run_says_what_writes_one(tmp_path):
    done = invoke("compare", tmp_path / "nothing", "--model", "tiny")
    assert done.exit_code == 2
    assert "tms train" in re.sub(r"[\s│]+", " ", done.output)
