"""Runs that go on, to the same bits, from memory, disk and checkpoints; and models that are no plain toys."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import xarray as xr
from torch.testing import assert_close

import tms_hooks as tms
from tms_hooks.sweep import _train as train_shard

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
CFG = tms.ToyConfig(4, 2)
UNIT = tms.ToyConfig(4, 2, unit_norm=True, tied=False, hidden_bias=True)
HEADS = tms.ToyConfig(4, 2, n_heads=1)
STAGES = {"qk_pairs": [(0, 1)], "stages": ("representation", "heads")}
DATA = tms.SparseUniform(4, 0.3)


def train(cfg=CFG, **settings):
    usual = {"seeds": range(3), "steps": 40, "batch_size": 32, "record_every": 10, "progress": False}
    return tms.train(cfg, DATA, **usual | settings)


def assert_same(got, wanted):
    assert got.recipe == wanted.recipe
    for name, w in wanted.weights.items():
        assert got.weights[name].equal(w), name
    xr.testing.assert_identical(got.history, wanted.history)
    assert got.final_loss.equal(wanted.final_loss)
    assert got.completed_steps == wanted.completed_steps
    state, expected = got.state.tensors(), wanted.state.tensors()
    assert state.keys() == expected.keys()
    assert all(state[name].equal(expected[name]) for name in state)


def engine_or_skip(engine):
    if engine == "fused":
        pytest.importorskip("numba", reason="the fused engine is the optional extra 'fast'")
    return engine


# To the bit


@pytest.mark.parametrize("engine", ["torch", "fused"])
@pytest.mark.parametrize("cfg", [CFG, UNIT], ids=["plain", "unit norm"])
@pytest.mark.parametrize("at", [20, 25])  # a step that the longer run records, and one that it does not
def test_a_run_that_goes_on_is_the_one_trained_in_one_go(engine, cfg, at, tmp_path):
    wanted = train(cfg, engine=engine_or_skip(engine))
    part = train(cfg, engine=engine, steps=at)
    assert_same(part.resume(40 - at), wanted)
    assert_same(tms.load(part.save(tmp_path / "run")).resume(40 - at), wanted)
    assert_same(part.resume(5).resume(35 - at), wanted)


def test_the_last_of_several_stages_goes_on():
    wanted = train(HEADS, steps=(20, 30), **STAGES)
    assert_same(train(HEADS, steps=(20, 10), **STAGES).resume(20), wanted)


def test_a_diverged_model_stays_where_it_is():
    wild = {"optimizer": tms.SGD(lr=1e18)}
    wanted, got = train(**wild), train(steps=20, **wild).resume(20)
    assert got.diverged == wanted.diverged != {}
    for name, w in wanted.weights.items():
        assert_close(got.weights[name], w, rtol=0, atol=0, equal_nan=True)


def test_a_finished_checkpoint_is_a_run_that_goes_on(tmp_path):
    wanted = train(engine="torch", checkpoint=tmp_path)
    run = tms.load(tmp_path)
    assert_same(run, wanted)
    assert_same(run.resume(10), train(engine="torch", steps=50))


def test_a_run_that_goes_on_has_checkpoints_of_its_own(tmp_path):
    part, wanted = train(steps=20), train()
    for _ in range(2):
        assert_same(part.resume(20, checkpoint=tmp_path, checkpoint_every=0.0), wanted)
        newest = sorted(tmp_path.glob("*.json"))[-1]
        newest.unlink()
    with pytest.raises(ValueError, match=r"another run: .*initial_weights="):
        train(steps=20, seeds=range(3), init=part.models).resume(20, checkpoint=tmp_path)


def test_a_schedule_is_restated_and_says_so():
    cosine = {"optimizer": tms.Adam(lr=0.03, schedule="cosine")}
    run = train(steps=20, **cosine).resume(20).resume(5)
    assert run.provenance["schedule_restated_at"] == [20, 40]
    assert run.recipe.total_steps == run.completed_steps == 45
    assert "schedule_restated_at" not in train(steps=20).resume(20).provenance
    # The first update after 20 has the learning rate of update 20 of 40, far from the 0 that update 20 of 20 had.
    before, after = (torch.tensor(run.history.W_E.sel(step=step).values) for step in (20, 30))
    assert (after - before).abs().max() > 0.03


def test_ctrl_c_while_a_finished_run_is_judged_is_not_swallowed(tmp_path):
    """Its losses may be of fewer rows: to a sweep it is no finished run, and `resume` judges it on all."""
    presses = iter([True])

    def target(x):
        if len(x) > 32 and next(presses, False):  # no batch of training is as large
            signal.raise_signal(signal.SIGINT)
        return x

    settings = {"seeds": (0,), "steps": 5, "batch_size": 32, "engine": "torch", "task": target}
    run = train(**settings)
    assert (run.completed_steps, run.stopped, run.provenance["interrupted_at"]) == (5, True, 5)
    wanted = train(**settings)
    assert not wanted.stopped
    assert_same(run.resume(), wanted)
    presses = iter([True])
    with pytest.raises(KeyboardInterrupt):
        train_shard({"cfg": CFG, "data": DATA, **settings}, tmp_path / "shard")
    assert not (tmp_path / "shard").exists()


def test_a_process_that_ignores_ctrl_c_ignores_it_while_it_trains():
    """As the workers of `tms reproduce` do, whose claims would else be judged by models that were stopped."""

    def target(x):
        signal.raise_signal(signal.SIGINT)
        return x

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = train(seeds=(0,), steps=5, engine="torch", task=target)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not run.stopped


def test_ctrl_c_while_a_run_is_saved_is_heard_once_it_is_whole(tmp_path, monkeypatch):
    run, push = train(steps=5), os.fsync

    def press(descriptor):
        monkeypatch.setattr(os, "fsync", push)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "fsync", press)
    with pytest.raises(KeyboardInterrupt):
        run.save(tmp_path / "run")
    assert_same(tms.load(tmp_path / "run"), run)


def test_ctrl_c_at_the_last_step_is_not_swallowed():
    presses = iter([False] * 5 + [True])

    def target(x):
        if len(x) == 32 and next(presses, False):  # five steps, and what the sixth batch says of the state after them
            signal.raise_signal(signal.SIGINT)
        return x

    run = train(seeds=(0,), steps=5, engine="torch", task=target, record_every=5)
    assert next(presses, None) is None
    assert (run.completed_steps, run.stopped) == (5, True)


INTERRUPTED = """
import os, signal, sys
import tms_hooks as tms
from tms_hooks.training import torch_engine

advance = torch_engine.advance

def pressing(recipe, state, start, stop):
    if start == 20:
        os.kill(os.getpid(), signal.SIGINT)
    return advance(recipe, state, start, stop)

torch_engine.advance = pressing
settings = dict(seeds=range(3), steps=40, batch_size=32, record_every=10, engine="torch")
settings |= dict(checkpoint=sys.argv[2], checkpoint_every=0.0)
run = tms.train(tms.ToyConfig(4, 2), tms.SparseUniform(4, 0.3), **settings)
torch_engine.advance = advance
print(run.completed_steps, run.history.step.values.tolist())
run.save(sys.argv[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to a process there")
def test_ctrl_c_returns_the_next_record_and_the_run_goes_on(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "run"), str(tmp_path / "saved")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "30 [0, 10, 20, 30]\n"  # pressed between 20 and 30
    assert "interrupted at step 30 of 40" in done.stderr
    stopped, wanted = tms.load(tmp_path / "run"), train(engine="torch")
    assert_close(torch.tensor(stopped.history.W_E.values[-1]), stopped.W_E, rtol=0, atol=0)
    for run, step in ((stopped, 30), (tms.load(tmp_path / "saved"), 20)):  # checkpoints are written at records
        assert run.completed_steps == step
        assert_same(run.resume(), wanted)
        assert_same(run.resume(40 - step), wanted)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (None, r"finished at step 40: say how many steps more, run.resume\(steps=...\)"),
        (0, "steps=0: must be at least 1"),
    ],
)
def test_steps_that_make_no_sense(steps, message):
    with pytest.raises(ValueError, match=message):
        train(steps=40).resume(steps)


# History


def test_the_history_keeps_every_parameter():
    cfg = tms.ToyConfig(4, 2, tied=False, hidden_bias=True, unit_norm="write", n_heads=2)
    run = train(cfg, qk_pairs=[(0, 1)], record_every=20)
    assert set(run.recipe.record) == set(run.weights)
    for name, w in run.weights.items():
        assert_close(torch.tensor(run.history[name].values[-1]), w, rtol=0, atol=0)
    assert run.history.W_U.dims == ("step", "model", "hidden", "feature")
    assert run.history["blocks.0.attn.W_Q"].dims == ("step", "model", "head", "hidden", "d_head")
    mlp = train(tms.ToyConfig(4, 2, d_mlp=5), engine="torch", steps=1)
    assert mlp.history["blocks.0.mlp.W_out"].shape == (2, 3, 5, 4)


def test_a_loss_is_computed_again_from_a_record(tmp_path):
    cfg = tms.ToyConfig(4, 2, tied=False, hidden_bias=True)
    run = tms.load(train(cfg, steps=25).save(tmp_path / "run"))
    for step in (0, 20, 25):
        for i, model in enumerate(run.models_at(step)):
            x = DATA.sample(32, seed=i, step=step)
            again = (model(x) - x).square().mean(0).detach()
            assert_close(again, torch.tensor(run.history.loss.sel(step=step).values[i]))
    with pytest.raises(ValueError, match="step=13: the history has no record of it; the nearest is 10"):
        run.models_at(13)


def test_record_chooses_parameters():
    run = train(HEADS, qk_pairs=[(0, 1)], record=("W_Q", "b_U"))
    assert run.recipe.record == ("blocks.0.attn.W_Q", "b_U")
    assert "W_E" not in run.history
    with pytest.raises(ValueError, match=r"the history has no W_E, blocks\.0\.attn\.W_K: leave record= out"):
        run.models_at(0)
    with pytest.raises(ValueError, match="record='W_u' is not known; did you mean 'W_U'"):
        train(tms.ToyConfig(4, 2, tied=False), record=["W_u"])
    assert train(record="W_E").W_E.equal(train().W_E)


# Models that are no plain toys


class Tanh(tms.ToyModel):
    def forward(self, x):
        return super().forward(x).tanh()


class Named(tms.ToyModel):
    """Computes what any toy does."""


def hooked():
    model = tms.ToyModel(CFG)
    model.add_hook("hook_hidden", lambda value, hook: 2 * value)
    return model


def patched():
    model = tms.ToyModel(CFG)
    model.forward = lambda x: x
    return model


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Tanh(CFG), "Tanh has a forward pass of its own"),
        (lambda: torch.nn.Linear(4, 2), "Linear has a forward pass of its own"),
        (patched, "ToyModel has a forward pass of its own"),
        (hooked, "ToyModel has hooks on it"),
    ],
)
def test_a_model_of_another_forward_pass_is_never_trained_as_a_plain_toy(make, what):
    with pytest.raises(ValueError, match=f"init: {what}, which training would leave out"):
        train(init=[make()], seeds=(0,))


def test_a_subclass_that_changes_nothing_and_bare_weights_are_trained():
    wanted = train(init=[tms.ToyModel(CFG, seed=7)], seeds=(0,))
    assert train(init=[Named(CFG, seed=7)], seeds=(0,)).W_E.equal(wanted.W_E)
    assert train(init=Tanh(CFG, seed=7).state_dict(), seeds=(0,)).W_E.equal(wanted.W_E)


def test_the_page_about_training_is_run(run_python, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    elsewhere = f"import os; os.chdir({str(tmp_path)!r})"  # it saves a toy
    assert "torch.Size([256, 2])" in run_python("\n".join([elsewhere, *blocks]))
