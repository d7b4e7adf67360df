"""`Run`: saved and loaded whole, or not at all; every kind of damage is named with its file."""

import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save
from torch.testing import assert_close

import tms_hooks as tms
from tms_hooks import files
from tms_hooks.data import DISTRIBUTIONS
from tms_hooks.run import HISTORY_FILE, RECIPE_FILE, STATE_FILE, WEIGHTS_FILE, Run
from tms_hooks.training.optimizers import OPTIMIZERS
from tms_hooks.training.recipe import Recipe

DATA = [
    tms.SparseUniform(n_features=4, feature_probability=0.3),
    tms.SparseUniform(n_features=4, feature_probability=(0.1, 0.2, 0.3, 1.0)),
    tms.OneHot(n_features=4),
    tms.KHot(n_features=4, k=2, values="uniform"),
    tms.RandomPoints(n_features=4, n_points=3, k=2, points_seed=1),
    tms.Samples([[0.1, 0.0, 1.0, 2.0], [0.0, 0.3, 0.0, 0.0]]),
    tms.SparseGaussian(n_features=4, feature_probability=0.3, mean=0.3),
    tms.OnManifold(n_features=4),
    tms.Tree(n_features=4, feature_probability=0.6),
    tms.CorrelatedGroups(n_features=4, feature_probability=0.2),
    tms.AnticorrelatedGroups(n_features=4, feature_probability=0.2, group_size=4),
    tms.Copula(n_features=4, feature_probability=0.1, rho=-0.2),
    tms.Copula(n_features=4, feature_probability=0.1, rho=(0.7 * np.eye(4) + 0.3)),
    tms.SparseGaussian(n_features=4, feature_probability=(0.1, 0.2, 0.3, 0.4), mean=0.5),
    tms.OnManifold(n_features=4, manifold="sphere", a=3.0),
    tms.Tree(n_features=4, feature_probability=0.5, parents=(-1, 0, 0, -1)),
]
OPTIMIZER = [
    tms.Adam(lr=0.01, betas=(0.8, 0.99)),
    tms.AdamW(decay={"W_E": 0.2, "b_U": 0.1}, pull=0.3, schedule="cosine"),
    tms.SGD(lr=0.1, momentum=0.9, schedule="exponential", warmup=0.05, initial_lr=0.01, final_lr=0.001),
    tms.RMSprop(alpha=0.9),
]


def train(data=DATA[0], n_heads=0, **settings):
    cfg = tms.ToyConfig(n_features=4, d_hidden=2, n_heads=n_heads)
    if n_heads:
        settings |= {"qk_pairs": [(0, 1)]}
    return tms.train(cfg, data, **{"seeds": (3, 5), "steps": 5, "record_every": 2, "batch_size": 16} | settings)


def assert_same(a: Run, b: Run):
    assert a.recipe == b.recipe
    assert a.weights.keys() == b.weights.keys()
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)
    xr.testing.assert_identical(a.history, b.history)
    for name in ("final_feature_loss", "final_head_loss", "final_loss"):
        assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0, equal_nan=True)  # NaN where one diverged
    assert (a.diverged, a.completed_steps, a.provenance) == (b.diverged, b.completed_steps, b.provenance)


@pytest.fixture
def run():
    return train()


@pytest.fixture(autouse=True)
def rescued(tmp_path_factory, monkeypatch):
    """The system's temporary folder, where runs go that cannot be saved where they should."""
    folder = tmp_path_factory.mktemp("system")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def saved(run, tmp_path):
    return run.save(tmp_path / "run")


# Round trips


def test_every_distribution_and_optimizer_is_tried():
    assert {type(data) for data in DATA} == set(DISTRIBUTIONS.values())
    assert {type(optimizer) for optimizer in OPTIMIZER} == set(OPTIMIZERS.values())


@pytest.mark.parametrize("data", DATA, ids=repr)
def test_recipes_of_every_distribution_survive_json(data):
    recipe = train(data, n_heads=2, steps=(1, 1), stages=("representation", "heads")).recipe
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize("optimizer", OPTIMIZER, ids=repr)
def test_recipes_of_every_optimizer_survive_json(optimizer):
    recipe = train(optimizer=optimizer, importance=(1.0, 0.5, 0.1, 0.0), batch_size=None).recipe
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    "settings", [{}, {"n_heads": 2}, {"dtype": "float64"}, {"optimizer": tms.SGD(lr=1e30)}], ids=str
)
def test_save_and_load(settings, tmp_path):
    run = train(**settings)
    loaded = tms.load(run.save(tmp_path / "run"))
    assert_same(loaded, run)
    x = DATA[0].sample(8, seed=0, dtype=run.W_E.dtype)
    x = x.unflatten(0, (4, 2)) if "n_heads" in settings else x
    before, after = run.models[1](x), loaded.models[1](x)
    assert_close(after, before, rtol=0, atol=0, equal_nan=True)  # outputs of a model that diverged may overflow


def test_a_directory_holds_safetensors_and_json_and_nothing_that_runs(saved):
    assert {file.name for file in saved.iterdir()} == {WEIGHTS_FILE, STATE_FILE, HISTORY_FILE, RECIPE_FILE}
    json.loads((saved / RECIPE_FILE).read_text())
    load_file(saved / WEIGHTS_FILE)
    load_file(saved / HISTORY_FILE)


def test_no_source_file_unpickles():
    import ast

    for path in (Path(__file__).parents[2] / "tms_hooks").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "dill", "cloudpickle"}, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save"), ("np", "load")}, path


def test_numpy_numbers_in_a_recipe_can_be_saved(run_python, tmp_path):
    script = f"""
import numpy as np, tms_hooks as tms
cfg = tms.ToyConfig(n_features=np.int64(4), d_hidden=np.int32(2))
data = tms.KHot(n_features=np.int64(4), k=np.int64(2))
run = tms.train(cfg, data, seeds=np.arange(2), steps=np.int64(3), optimizer=tms.Adam(lr=np.float32(0.5)))
again = tms.load(run.save({str(tmp_path / "run")!r}))
print(again.recipe == run.recipe, again.recipe.cfg.n_features, again.recipe.optimizer.lr, again.recipe.steps)
"""
    assert run_python(script) == "True 4 0.5 (3,)\n"


def test_models_of_a_run(run):
    assert len(run.models) == 2
    assert torch.equal(run.models[1].W_E, run.W_E[1])
    assert torch.equal(run.models[-1].W_E, run.W_E[1])
    assert [torch.equal(m.W_E, w) for m, w in zip(run.models, run.W_E, strict=True)] == [True, True]
    assert [torch.equal(m.W_E, w) for m, w in zip(run.models[::-1], run.W_E.flip(0), strict=True)] == [True, True]
    with pytest.raises(IndexError, match="model 2 of a run with 2 models: they are numbered 0 to 1"):
        run.models[2]
    with torch.no_grad():  # a model is a copy: editing it leaves the run as it was
        run.models[0].W_E.zero_()
    assert run.W_E[0].any()


# Overwriting


def test_save_replaces_an_earlier_run_and_makes_parents(run, tmp_path):
    path = tmp_path / "a" / "b" / "run"
    other = train(seeds=(8,))
    other.save(path)
    assert run.save(str(path)) == path
    assert_same(tms.load(path), run)
    assert [file.name for file in path.parent.iterdir()] == ["run"]  # no scratch is left


def test_save_fills_an_empty_directory(run, tmp_path):
    (tmp_path / "run").mkdir()
    assert_same(tms.load(run.save(tmp_path / "run")), run)


def test_save_through_a_link_replaces_what_it_points_to(run, saved, tmp_path):
    link = tmp_path / "latest"
    link.symlink_to(saved)
    other = train(seeds=(8,))
    other.save(link)
    assert link.is_symlink()
    assert_same(tms.load(saved), other)


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ({"notes.txt": "mine"}, "is no run directory .it has no run.json.; choose another path"),
        ({RECIPE_FILE: "{}"}, "run.json has format None, not 'tms-hooks run, version 3'.*choose another path"),
        ({WEIGHTS_FILE: "mine"}, "is no run directory .it has no run.json.; choose another path"),
    ],
)
def test_save_never_replaces_what_is_no_run(run, tmp_path, there, message):
    path = tmp_path / "thesis"
    path.mkdir()
    for name, text in there.items():
        (path / name).write_text(text)
    with pytest.raises(FileExistsError, match=message):
        run.save(path)
    assert {file.name: file.read_text() for file in path.iterdir()} == there
    assert list(tmp_path.iterdir()) == [path]


def test_save_never_replaces_a_file(run, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(FileExistsError, match="is no run directory"):
        run.save(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_save_never_deletes_what_was_put_beside_a_run(run, saved):
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"also holds notes.txt, which no run wrote"):
        train(seeds=(8,)).save(saved)
    assert_same(tms.load(saved), run)


def test_a_failure_in_the_middle_of_writing_leaves_the_old_run(run, saved, tmp_path):
    broken = train(seeds=(8,))
    broken.provenance["machine"] = object()  # cannot be JSON: the last of three files fails
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        broken.save(saved)
    assert_same(tms.load(saved), run)
    assert list(tmp_path.iterdir()) == [saved]


@pytest.mark.parametrize("last", [WEIGHTS_FILE, STATE_FILE, HISTORY_FILE, RECIPE_FILE])
def test_a_failure_of_any_rename_leaves_the_old_run(run, saved, tmp_path, monkeypatch, last):
    rename = os.replace

    def fail(source, target):
        if Path(target).name.split(".")[0] == last.split(".")[0] and Path(target).parent == saved:
            raise OSError("disk full")
        return rename(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        train(seeds=(8,)).save(saved)
    monkeypatch.undo()
    assert_same(tms.load(saved), run)
    assert {file.name for file in saved.iterdir()} == {WEIGHTS_FILE, STATE_FILE, HISTORY_FILE, RECIPE_FILE}


def test_what_cannot_be_saved_is_in_the_temporary_folder_and_the_error_says_where(run, tmp_path, rescued):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"could not be written .*; the result is in .* instead") as caught:
        run.save(tmp_path / "file" / "run")
    where = Path(str(caught.value).split("the result is in ")[1].removesuffix(" instead"))
    assert where.is_relative_to(rescued)
    assert_same(tms.load(where), run)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_killed_first_save_leaves_no_run_and_the_next_one_sweeps_up(run, tmp_path):
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import tms_hooks as tms
run = tms.train(tms.ToyConfig(n_features=4, d_hidden=2), tms.OneHot(n_features=4), steps=2, engine="torch")
rename = os.replace
os.replace = lambda a, b: os.kill(os.getpid(), signal.SIGKILL) if str(b).endswith("run.json") else rename(a, b)
run.save({str(tmp_path / "run")!r})
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    left = [file.name for file in (tmp_path / "run").iterdir()]
    assert WEIGHTS_FILE in left
    assert sum(name.startswith(files.SCRATCH) for name in left) == 2  # the unfinished file and the lock
    with pytest.raises(FileNotFoundError):
        tms.load(tmp_path / "run")
    run.save(tmp_path / "run")
    assert_same(tms.load(tmp_path / "run"), run)
    assert len(list((tmp_path / "run").iterdir())) == 4


def test_the_current_folder_is_refused(run, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    for path in (".", tmp_path, tmp_path / "a"):
        with pytest.raises(FileExistsError, match="is the current folder, or one above it; give"):
            run.save(path)
    assert not list((tmp_path / "a").iterdir())


def test_others_may_read_what_they_may_read_of_any_new_file(saved, tmp_path):
    (tmp_path / "plain").write_text("")
    (tmp_path / "folder").mkdir()
    modes = {stat.S_IMODE(file.stat().st_mode) for file in saved.iterdir()}
    assert modes == {stat.S_IMODE((tmp_path / "plain").stat().st_mode)}
    assert saved.stat().st_mode == (tmp_path / "folder").stat().st_mode


def test_a_reader_beside_two_writers_sees_one_run_or_the_other(tmp_path):
    runs = [train(seeds=(seed, seed + 1)) for seed in (0, 10)]
    path, done, failed = tmp_path / "run", threading.Event(), []
    runs[0].save(path)

    def write(run):
        try:
            while not done.is_set():
                run.save(path)
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(run,)) for run in runs]
    for writer in writers:
        writer.start()
    try:
        seen = [tms.load(path) for _ in range(40)]
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert not failed
    wanted = {run.recipe.seeds: run.W_E for run in runs}
    assert all(read.W_E.equal(wanted[read.recipe.seeds]) for read in seen)
    assert {file.name.split(".")[0] for file in path.iterdir()} == {"weights", "state", "history", "run"}
    assert len(list(path.iterdir())) == 4


# Damage


def reseal(path, about):
    """As if the library itself had written it: what is left is the check of what it says."""
    (path / RECIPE_FILE).write_text(files._seal(about | {"sha256": files.BLANK}))


def edit(path, **changes):
    about = json.loads((path / RECIPE_FILE).read_text())
    for name, value in changes.items():
        home = about["recipe"] if name in about["recipe"] else about
        if value is None:
            del home[name]
        else:
            home[name] = value
    reseal(path, about)


def truncate(path, name):
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: len(data) // 2])


def retensor(path, name, change):
    tensors = load_file(path / name)
    changed = change(tensors)
    data = save(tensors if not isinstance(changed, dict) else changed)
    (path / name).write_bytes(data)
    about = json.loads((path / RECIPE_FILE).read_text())
    about["files"][Path(name).stem] |= {"size": len(data), "sha256": files.fingerprint(data)}
    reseal(path, about)


def replace(path, put):
    path.unlink()
    put(path)


def linked(path):
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def headed(path, length):
    """A safetensors file that says its header has so many bytes."""
    data = length.to_bytes(8, "little") + (path / WEIGHTS_FILE).read_bytes()[8:]
    (path / WEIGHTS_FILE).write_bytes(data)
    relist(path, sha256=files.fingerprint(data))


def relist(path, **changes):
    about = json.loads((path / RECIPE_FILE).read_text())
    about["files"]["weights"] |= changes
    reseal(path, about)


def deepened(path):
    text = files._seal(json.loads((path / RECIPE_FILE).read_text()) | {"sha256": files.BLANK, "provenance": "deep"})
    text = re.sub('(?<="sha256": ")[0-9a-f]{64}', files.BLANK, text, count=1)
    text = text.replace('"deep"', "[" * 100_000 + "]" * 100_000)
    (path / RECIPE_FILE).write_text(text.replace(files.BLANK, files.fingerprint(text), 1))


DAMAGE = {
    "weights missing": (lambda p: (p / WEIGHTS_FILE).unlink(), "weights.safetensors is missing from .*damaged"),
    "history missing": (lambda p: (p / HISTORY_FILE).unlink(), "history.safetensors is missing from .*damaged"),
    "weights torn": (lambda p: truncate(p, WEIGHTS_FILE), "weights.safetensors has .* bytes and not the"),
    "history torn": (lambda p: truncate(p, HISTORY_FILE), "history.safetensors has .* bytes and not the"),
    "a huge file": (lambda p: os.truncate(p / WEIGHTS_FILE, 2**40), "weights.safetensors has .* bytes and not the"),
    "a huge recipe": (lambda p: os.truncate(p / RECIPE_FILE, 2**40), "run.json has .* bytes and not the"),
    "a link": (lambda p: linked(p / WEIGHTS_FILE), "weights.safetensors is a link"),
    "a linked recipe": (lambda p: linked(p / RECIPE_FILE), "run.json is a link"),
    "a pipe": (lambda p: replace(p / WEIGHTS_FILE, os.mkfifo), "weights.safetensors is a folder, a pipe or a device"),
    "recipe a pipe": (lambda p: replace(p / RECIPE_FILE, os.mkfifo), "run.json is a folder, a pipe or a device"),
    "recipe a folder": (lambda p: replace(p / RECIPE_FILE, os.mkdir), "run.json is a folder, a pipe or a device"),
    "recipe torn": (lambda p: truncate(p, RECIPE_FILE), "run.json is not what was written: its checksum"),
    "recipe binary": (lambda p: (p / RECIPE_FILE).write_bytes(b"\xff\xfe\x80"), "run.json has format None"),
    "recipe empty": (lambda p: (p / RECIPE_FILE).write_text(""), "run.json has format None"),
    "deep": (deepened, "run.json lists no files: RecursionError"),
    "a header of 4 GB": (
        lambda p: headed(p, 2**32),
        "weights.safetensors is no safetensors file",
    ),
    "listed outside": (lambda p: relist(p, file="../x"), "run.json lists files outside"),
    "listed without a size": (lambda p: relist(p, size=None), "run.json lists no files"),
    "foreign": (lambda p: (p / RECIPE_FILE).write_text('{"format": "other"}'), "run.json has format 'other', not"),
    "a list": (lambda p: (p / RECIPE_FILE).write_text("[]"), "run.json has format None, not"),
    "older": (lambda p: edit(p, format="tms-hooks run, version 2"), "run.json has format .*version 2', not"),
    "key missing": (lambda p: edit(p, seeds=None), "run.json describes no run: .*recipe key 'seeds' is missing"),
    "part missing": (lambda p: edit(p, diverged_at=None), "run.json describes no run: KeyError: 'diverged_at'"),
    "no such data": (lambda p: edit(p, data={"kind": "Gaussian"}), "run.json describes no run: .*Gaussian"),
    "no such optimizer": (lambda p: edit(p, optimizer={"kind": "Adamm", "lr": 1.0}), "run.json describes .*Adamm"),
    "bad optimizer": (lambda p: edit(p, optimizer={"kind": "Adam", "lr": -1.0}), "run.json describes .*lr=-1.0"),
    "unknown option": (lambda p: edit(p, optimizer={"kind": "Adam", "rl": 1.0}), "run.json describes no run.*rl"),
    "recipe a string": (lambda p: edit(p, recipe="lost"), "run.json describes no run"),
    "other seeds": (lambda p: edit(p, seeds=[1, 2, 3]), "run.json describes no run: .*diverged_at=.*one per model"),
    "other steps": (lambda p: edit(p, history_steps=[0]), "history.safetensors holds .*they are not of one run"),
    "other type": (
        lambda p: retensor(p, WEIGHTS_FILE, lambda t: {name: w.double() for name, w in t.items()}),
        "weights.safetensors holds .*float64.*asks for float32",
    ),
    "more steps than there are": (
        lambda p: edit(p, completed_steps=6),
        "completed_steps=6: must be a step from 0",
    ),
    "half a step": (lambda p: edit(p, completed_steps=2.5), "completed_steps=2.5: must be a step"),
    "steps out of order": (lambda p: edit(p, history_steps=[2, 0, 4, 5]), "history_steps=.*one after another"),
    "a stranger diverged": (
        lambda p: edit(p, diverged_at=[-1, 1, 1]),
        "diverged_at=.*must be -1 or a step",
    ),
    "diverged before": (lambda p: edit(p, diverged_at=[-1, 6]), "diverged_at=.*must be -1 or a step"),
    "a weight lost": (lambda p: retensor(p, WEIGHTS_FILE, lambda t: t.pop("b_U")), "weights.safetensors holds"),
    "losses lost": (
        lambda p: retensor(p, WEIGHTS_FILE, lambda t: t.pop("final.feature_loss")),
        "weights.safetensors holds",
    ),
    "state torn": (lambda p: truncate(p, STATE_FILE), "state.safetensors has .* bytes and not the"),
    "a moment of another shape": (
        lambda p: retensor(p, STATE_FILE, lambda t: t.update({"moments.first.b_U": t["weights.W_E"].clone()})),
        "state.safetensors holds .*they are not of one run",
    ),
    "a state without its end": (
        lambda p: retensor(p, STATE_FILE, lambda t: t.pop("diverged_at")),
        "run.json describes no run: KeyError: 'diverged_at'",
    ),
    "an array lost": (lambda p: retensor(p, HISTORY_FILE, lambda t: t.pop("loss")), "history.safetensors holds"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_an_error_that_names_the_file(saved, damage, message):
    damage(saved)
    with pytest.raises(tms.DamagedRun, match=message):
        tms.load(saved)


def test_no_bit_can_be_flipped_anywhere(saved):
    chance = random.Random(0)
    for name in (RECIPE_FILE, WEIGHTS_FILE, STATE_FILE, HISTORY_FILE):
        data = (saved / name).read_bytes()
        for place in chance.sample(range(8 * len(data)), 40):
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << place % 8
            (saved / name).write_bytes(flipped)
            with pytest.raises(tms.DamagedRun, match=name):
                tms.load(saved)
        (saved / name).write_bytes(data)
    tms.load(saved)


def test_a_file_that_changes_after_loading_changes_nothing_in_memory(saved, run):
    loaded = tms.load(saved)
    for name in (WEIGHTS_FILE, HISTORY_FILE):
        with open(saved / name, "r+b") as file:
            file.write(b"\0" * 2_000)
        os.truncate(saved / name, 0)
    assert_same(loaded, run)


def test_recipe_key_that_no_version_knows(saved):
    about = json.loads((saved / RECIPE_FILE).read_text())
    about["recipe"]["batchsize"] = 3
    reseal(saved, about)
    with pytest.raises(ValueError, match="recipe key 'batchsize' is unknown; did you mean 'batch_size'"):
        tms.load(saved)


def test_a_mixture_of_two_runs_is_refused(saved, tmp_path):
    other = train(seeds=(1, 2), n_heads=1).save(tmp_path / "other")
    shutil.copy(other / WEIGHTS_FILE, saved / WEIGHTS_FILE)
    with pytest.raises(ValueError, match=r"weights.safetensors (has|is not what)"):
        tms.load(saved)


@pytest.mark.parametrize("there", [True, False])
def test_no_run_directory(tmp_path, there):
    path = tmp_path / "missing"
    if there:
        path.mkdir()
    with pytest.raises(FileNotFoundError, match=r"is no run directory: it has no run.json; `Run.save` and `tms train`"):
        tms.load(path)


def test_history_dtypes_survive(saved, run):
    loaded = tms.load(saved)
    assert loaded.history.loss.dtype == np.float32
    assert loaded.history.step.dtype == run.history.step.dtype
