"""Checkpoints: killed, torn and full disks, and the same bits as a run that nothing happened to."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import tms_hooks as tms
from tms_hooks import files

ROOT = Path(__file__).parents[2]
CFG = tms.ToyConfig(n_features=4, d_hidden=2)
DATA = tms.SparseUniform(n_features=4, feature_probability=0.3)

SCRIPT = """
import sys
import tms_hooks as tms
engine, folder, out = sys.argv[1:]
cfg = tms.ToyConfig(n_features=4, d_hidden=2)
data = tms.SparseUniform(n_features=4, feature_probability=0.3)
print("ready", flush=True)
run = tms.train(cfg, data, seeds=range(3), steps=200, batch_size=64, record_every=1, engine=engine,
                checkpoint=folder, checkpoint_every=0.0)
run.save(out)
"""


def train(folder=None, *, steps=30, engine="torch", every=0.0, **more):
    settings = {"seeds": range(3), "batch_size": 32, "record_every": 5}
    return tms.train(
        CFG, DATA, steps=steps, engine=engine, checkpoint=folder, checkpoint_every=every, **settings | more
    )


def assert_same(got, wanted):
    for name, w in wanted.weights.items():
        assert got.weights[name].equal(w), name
    assert got.history.identical(wanted.history)
    assert got.final_feature_loss.equal(wanted.final_feature_loss)
    assert got.completed_steps == wanted.completed_steps


def drop_last(folder, count):
    """Go back in time: forget the newest checkpoints."""
    for path in sorted(folder.glob("*.json"))[-count:]:
        path.unlink()
        path.with_suffix(".safetensors").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_killed_at_random_moments_a_run_ends_with_the_bits_of_an_uninterrupted_one(engine, tmp_path):
    if engine == "fused":
        pytest.importorskip("numba", reason="the fused engine is the optional extra 'fast'")
    wanted = tms.train(CFG, DATA, seeds=range(3), steps=200, batch_size=64, record_every=1, engine=engine)
    chance = random.Random(engine)
    kills = 0
    while True:
        command = [sys.executable, "-c", SCRIPT, engine, str(tmp_path / "saved"), str(tmp_path / "run")]
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            if kills < 3:
                before = len(list((tmp_path / "saved").glob("*"))) if kills else 0
                deadline = time.monotonic() + 60
                while not before and not list((tmp_path / "saved").glob("*.json")) and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(chance.uniform(0.0, 0.3))
                process.send_signal(signal.SIGKILL)
                kills += 1
            code = process.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert kills == 3
    assert_same(tms.load(tmp_path / "run"), wanted)


@pytest.mark.parametrize("more", [{}, {"optimizer": tms.SGD(lr=0.1, momentum=0.9, schedule="cosine")}])
def test_a_resumed_run_is_the_uninterrupted_one(more, tmp_path, caplog):
    wanted = train(**more)
    train(tmp_path, **more)
    drop_last(tmp_path, 1)
    with caplog.at_level("INFO"):
        assert_same(train(tmp_path, **more), wanted)
    assert "resuming from" in caplog.text
    assert_same(train(tmp_path, **more), wanted)  # a finished run is only read again


def test_two_checkpoints_are_kept_and_no_scratch_file(tmp_path):
    train(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    train(tmp_path / "rarely", every=3600.0)
    assert len(list((tmp_path / "rarely").iterdir())) == 2


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", ["shortened", "emptied", "flipped", "missing"])
def test_a_torn_checkpoint_is_noticed_and_the_one_before_it_used(suffix, damage, tmp_path, caplog):
    wanted = train()
    train(tmp_path)
    newest = sorted(tmp_path.glob(f"*{suffix}"))[-1]
    data = newest.read_bytes()
    match damage:
        case "shortened":
            newest.write_bytes(data[: len(data) // 2])
        case "emptied":
            newest.write_bytes(b"")
        case "flipped":
            newest.write_bytes(data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
        case "missing":
            newest.unlink()
    assert_same(train(tmp_path), wanted)
    if (suffix, damage) != (".json", "missing"):
        assert "is damaged" in caplog.text


def test_with_every_checkpoint_torn_a_run_starts_anew(tmp_path):
    train(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"torn")
    assert_same(train(tmp_path), train())


def test_other_settings_are_refused_with_the_difference(tmp_path):
    train(tmp_path)
    with pytest.raises(ValueError, match=r"another run: optimizer\.lr=0\.001 there, 0\.5 here"):
        train(tmp_path, optimizer=tms.Adam(lr=0.5))
    with pytest.raises(ValueError, match=r"steps=\[30\] there, \[40\] here"):
        train(tmp_path, steps=40)
    init = [tms.ToyModel(CFG, seed=seed) for seed in (7, 8, 9)]
    with pytest.raises(ValueError, match="initial_weights="):
        train(tmp_path, init=init)


def test_a_full_disk_stops_the_run_and_spares_the_checkpoints(tmp_path):
    wanted = train(tmp_path / "whole")
    room = max(path.stat().st_size for path in (tmp_path / "whole").iterdir()) - 1
    script = """
import resource, sys
import tms_hooks as tms
cfg = tms.ToyConfig(n_features=4, d_hidden=2)
data = tms.SparseUniform(n_features=4, feature_probability=0.3)
room = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
tms.train(cfg, data, seeds=range(3), steps=30, batch_size=32, record_every=5, engine="torch",
          checkpoint=sys.argv[1], checkpoint_every=0.0)
"""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-B", "-c", script, str(tmp_path / "saved"), str(room)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert "File too large" in done.stderr
    left = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert left
    assert all(not name.startswith(".") for name in left)
    assert_same(train(tmp_path / "saved"), wanted)


def test_two_trainings_with_one_folder_are_told_who_has_it(tmp_path):
    with (
        files.lock(tmp_path / "checkpoints"),
        pytest.raises(TimeoutError, match=f"is in use by process {os.getpid()} on"),
    ):
        train(tmp_path)
    assert_same(train(tmp_path), train())


def test_what_a_killed_training_left_is_swept_up(tmp_path):
    train(tmp_path)
    scratch = files._scratch(tmp_path / "00000003.json")
    for left in (f"{scratch}-01234567", f"{scratch}.lock", "00000003.safetensors", "00000004.01234567.safetensors"):
        (tmp_path / left).write_text("half a check")
    train(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_divergence_is_resumed_too(tmp_path):
    more = {"optimizer": tms.SGD(lr=1e18)}
    wanted = train(**more)
    assert wanted.diverged
    train(tmp_path, **more)
    drop_last(tmp_path, 1)
    got = train(tmp_path, **more)
    assert got.diverged == wanted.diverged
    for name, w in wanted.weights.items():
        torch.testing.assert_close(got.weights[name], w, rtol=0, atol=0, equal_nan=True)
