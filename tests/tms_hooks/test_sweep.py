"""Sweeps: every point is the run it would be alone, on any backend, killed or not."""

import dataclasses
import json
import logging
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest

import tms_hooks as tms
from tms_hooks.sweep import _seeds, sweep, sweep_toml

pytest.importorskip("joblib", reason="sweeps are the optional extra 'sweep'")

BASE = {"n_features": 4, "d_hidden": 2, "steps": 20, "batch_size": 64, "engine": "torch"}
GRID = {"feature_probability": [0.1, 0.5], "lr": [0.01, 0.1]}


def run(tmp_path, base=BASE, grid=GRID, **how):
    return sweep(base, grid, **{"seeds": range(2), "store": tmp_path / "store", "n_jobs": 1} | how)


def test_a_point_is_the_run_that_train_gives(tmp_path):
    found = run(tmp_path)
    assert found.final_loss.sizes == {"feature_probability": 2, "lr": 2, "seed": 2}
    alone = tms.train(
        tms.ToyConfig(n_features=4, d_hidden=2),
        tms.SparseUniform(n_features=4, feature_probability=0.5),
        seeds=[1],
        steps=20,
        batch_size=64,
        optimizer=tms.Adam(lr=0.1),
        engine="torch",
    )
    point = found.sel(feature_probability=0.5, lr=0.1, seed=1)
    shard = tms.load(tmp_path / "store" / point.shard.item())
    assert shard.recipe.alone(1) == alone.recipe
    shared = json.loads(found.attrs["recipe"])
    assert shared["cfg"]["n_features"] == 4
    assert "feature_probability" not in shared["data"]
    assert "lr" not in shared["optimizer"]
    assert float(point.final_loss) == float(alone.final_loss[0])
    assert np.array_equal(point.W_E, alone.W_E[0])
    assert int(point.diverged_at) == -1


def test_axes_may_be_of_config_data_optimizer_and_training_and_shapes_are_filled_up(tmp_path):
    base = {"feature_probability": 0.5, "d_hidden": 2, "steps": 2, "batch_size": 8, "engine": "torch"}
    grid = {"n_features": [3, 5], "optimizer": ["Adam", "SGD"], "output_bias": [True, False], "importance": [1.0, 2.0]}
    found = run(tmp_path, base, grid)
    assert found.W_E.shape == (2, 2, 2, 2, 2, 5, 2)
    assert np.isnan(found.W_E.sel(n_features=3)[..., 3:, :]).all()
    assert not np.isnan(found.W_E.sel(n_features=5)).any()
    assert found.optimizer.values.tolist() == ["Adam", "SGD"]


def test_a_second_sweep_trains_only_what_is_new(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        first = run(tmp_path)
        assert run(tmp_path).identical(first)
        wider = run(tmp_path, grid=GRID | {"lr": [0.1, 0.01, 0.3]})
    said = [record.message for record in caplog.records if "shards to train" in record.message]
    assert said == ["4 of 4 shards to train", "0 of 4 shards to train", "2 of 6 shards to train"]
    assert wider.sel(lr=first.lr).identical(first)


def torn(shard, other):
    (shard / "weights.safetensors").write_bytes(b"torn")


def emptied(shard, other):
    (shard / "run.json").write_bytes(b"")


def swapped(shard, other):
    shard.rename(shard.with_name("shard"))
    other.rename(shard)
    shard.with_name("shard").rename(other)


def foreign(shard, other):
    (shard / "weights.safetensors").write_bytes((other / "weights.safetensors").read_bytes())


def a_file(shard, other):
    shutil.rmtree(shard)
    shard.write_text("mine")


def unfinished(shard, other):
    whole = tms.load(shard)
    dataclasses.replace(whole, completed_steps=1).save(shard)


@pytest.mark.parametrize("damage", [torn, emptied, swapped, foreign, a_file, unfinished])
def test_a_damaged_shard_is_trained_again_and_said_so(tmp_path, caplog, damage):
    grid = {"feature_probability": [0.1, 0.5]}
    first = run(tmp_path, grid=grid)
    damage(*sorted((tmp_path / "store").iterdir()))
    assert run(tmp_path, grid=grid).identical(first)
    assert "is set aside and trained again" in caplog.text
    caplog.clear()
    assert run(tmp_path, grid=grid).identical(first)
    assert "again" not in caplog.text
    aside = 2 if damage is swapped else 1
    assert len(list((tmp_path / "store").glob("*.damaged-*"))) == aside  # nothing is thrown away
    assert len(list((tmp_path / "store").iterdir())) == 2 + aside


@pytest.mark.slow
def test_loky_gives_the_same_bits_and_goes_on_after_a_worker_was_killed(tmp_path):
    psutil = pytest.importorskip("psutil")
    base, grid = BASE | {"steps": 100}, {"feature_probability": [0.1, 0.5], "lr": [0.01 * i for i in range(1, 9)]}
    wanted = run(tmp_path, base, grid)
    other = tmp_path / "other"

    def kill_one():
        deadline = time.monotonic() + 240
        while not list(other.glob("store/*/run.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        children = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
        workers = [p for p in children if "popen_loky_posix" in " ".join(p.cmdline())]
        workers[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(RuntimeError, match="worker"):  # joblib's TerminatedWorkerError
        run(other, base, grid, n_jobs=2)
    killer.join()
    assert 1 <= len(list(other.glob("store/*/run.json"))) < 16
    assert run(other, base, grid, n_jobs=2).identical(wanted)


@pytest.mark.slow
def test_a_dask_cluster_that_loses_a_worker_gives_the_same_bits(tmp_path):
    distributed = pytest.importorskip("distributed")
    base = BASE | {"steps": 300}
    wanted = run(tmp_path, base)
    other = tmp_path / "other"
    killed = []
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=logging.CRITICAL
    ) as cluster:

        def kill_one():
            deadline = time.monotonic() + 240
            while not list(other.glob("store/*/run.json")) and time.monotonic() < deadline:
                time.sleep(0.01)
            with distributed.Client(cluster.scheduler_address) as client:
                pid = next(iter(client.run(os.getpid).values()))
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

        killer = threading.Thread(target=kill_one)
        killer.start()
        found = run(other, base, backend="dask", address=cluster.scheduler_address, n_jobs=-1)
        killer.join()
    assert killed
    assert found.identical(wanted)


@pytest.mark.parametrize(
    ("base", "grid", "message"),
    [
        (BASE, {"lern_rate": [1], "feature_probability": [0.1]}, r"'lern_rate' is not known"),
        (BASE, GRID | {"lr": []}, r"axis 'lr' is empty"),
        (BASE, GRID | {"steps": [1, 2]}, r"axis 'steps' is set in base too \(20\)"),
        (BASE, GRID | {"lr": 0.1}, r"axis 'lr' is 0\.1: give a list"),
        (BASE, GRID | {"lr": [0.1, 0.1]}, r"axis 'lr' has a value twice"),
        (BASE, GRID | {"seeds": [1]}, r"give them as seeds="),
        (BASE, GRID | {"optimizer": ["Adagrad"]}, r"optimizer='Adagrad' is not known; choose from Adam"),
        (BASE, {"lr": [0.1]}, r"feature_probability"),
        (BASE, GRID | {"lr": [-1.0]}, r"lr=-1\.0: must be positive"),
        (BASE, GRID | {"loss": ["mse", "cross_entropy"]}, r"loss='cross_entropy' with output_act='relu'"),
        (BASE, GRID | {"qk_pairs": [[(0, 1)]]}, r"only a model with heads has them"),
        (BASE | {"steps": 2.5}, GRID, r"steps=2\.5: must be a whole number or a list"),
        (BASE | {"steps": True}, GRID, r"steps=True: must be a whole number or a list"),
        (BASE, {"feature_probability": ["0.1"]}, r"feature_probability='0\.1': must be a number or a list"),
        (BASE | {"tied": 1}, GRID, r"tied=1: must be true or false"),
        (BASE | {"tied": "false"}, GRID, r"tied='false': must be true or false"),
        (BASE | {"n_features": 4.0}, GRID, r"n_features=4\.0: must be a whole number"),
        (BASE | {"importance": [1.0, 1.0, 1.0, "0"]}, GRID, r"importance=.*: must be a number or a list"),
        (BASE | {"output_act": 3}, GRID, r"output_act=3: must be 'identity' or 'relu'"),
        (BASE | {"record_every": None}, GRID, r"record_every=None: must be a whole number"),
        (BASE, GRID | {"lr": [1, 1.0]}, r"axis 'lr' has a value twice"),
        (
            BASE | {"engine": "fused", "unit_norm": True},
            GRID | {"scale": ["before", "after"]},
            r"engine='fused' cannot run",
        ),
    ],
)
def test_a_bad_grid_says_which_key_before_any_work(base, grid, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, base, grid)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([0.5], r"seeds has 0\.5: must be whole numbers"),
        ([1, 1], r"seeds=\[1, 1\] has a seed twice"),
        ([True], r"seeds has True: must be whole numbers"),
        (["1"], r"seeds has '1': must be whole numbers"),
        (0, "seeds=0: must be at least 1"),
        (2.5, "seeds=2.5: must be a count, or a list of whole numbers"),
        ("12", r"seeds='12': must be a count, or a list of whole numbers, such as range\(10\)"),
    ],
)
def test_seeds_are_whole_numbers_each_once(seeds, message):
    with pytest.raises(ValueError, match=message):
        _seeds(seeds)


def test_numbers_of_numpy_are_numbers(tmp_path):
    assert _seeds(np.arange(2)) == _seeds(2) == _seeds(np.int64(2)) == (0, 1)
    grid = {"feature_probability": [np.float64(0.1), 0.5], "lr": [np.float64(0.01), np.float64(0.1)]}
    assert run(tmp_path, grid=grid).identical(run(tmp_path))


def test_a_store_that_cannot_be_written_is_told_before_any_work(tmp_path, caplog):
    (tmp_path / "store").write_text("mine")
    with pytest.raises(NotADirectoryError, match="store is no folder"), caplog.at_level(logging.INFO):
        run(tmp_path)


def test_defaults_written_out_are_the_same_shard(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        first = run(tmp_path)
        again = run(tmp_path, BASE | {"optimizer": "Adam", "loss": "mse", "tied": True})
    assert again.identical(first)
    assert "0 of 4 shards to train" in caplog.text


@pytest.mark.slow
def test_ray_gives_the_same_bits(tmp_path):
    ray = pytest.importorskip("ray", reason="ray is not installed; its backend was tried with 2.60")
    with pytest.raises(ConnectionError, match=r"no ray cluster answers at 127\.0\.0\.1:9"):
        run(tmp_path, backend="ray", address="127.0.0.1:9")
    wanted = run(tmp_path)
    assert sweep(BASE, GRID, seeds=range(2), store=tmp_path / "ray", backend="ray", n_jobs=2).identical(wanted)
    assert not ray.is_initialized()


def test_a_backend_that_cannot_be_reached_fails_before_any_work(tmp_path):
    pytest.importorskip("distributed")
    with pytest.raises(ConnectionError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"):
        run(tmp_path, backend="dask", address="tcp://127.0.0.1:9")
    with pytest.raises(ValueError, match="backend='slurm' is not known"):
        run(tmp_path, backend="slurm")
    with pytest.raises(ValueError, match="only a dask or ray cluster has one"):
        run(tmp_path, address="tcp://127.0.0.1:9")
    assert not list((tmp_path / "store").glob("*"))


def test_toml(tmp_path):
    text = """
seeds = 2
[base]
n_features = 4
d_hidden = 2
steps = 20
batch_size = 64
engine = "torch"
[grid]
feature_probability = [0.1, 0.5]
lr = [0.01, 0.1]
"""
    assert sweep_toml(text, store=tmp_path / "toml", n_jobs=1).identical(run(tmp_path))
    with pytest.raises(ValueError, match="key 'gird' of the grid file is not known; did you mean 'grid'"):
        sweep_toml("[gird]\nlr = [1]", store=tmp_path)
    with pytest.raises(ValueError, match="is not TOML"):
        sweep_toml("seeds = = 2", store=tmp_path)
    with pytest.raises(ValueError, match=r"base=\[1\] in the grid file: must be a table, \[base\]"):
        sweep_toml("base = [1]", store=tmp_path)
