"""Tasks: what is asked decides what is learned; a task of one's own trains on the reference engine, or is refused."""

import pytest
import torch
from torch.testing import assert_close

import tms_hooks as tms
from tms_hooks.training.history import shapes
from tms_hooks.training.recipe import Recipe

CFG = tms.ToyConfig(n_features=2, d_hidden=2)
DATA = tms.OneHot(n_features=2)


class Signed(tms.OneHot):
    """One feature at a time, 1 or -1."""

    def dataset(self, dtype=torch.float32):
        return torch.cat([torch.eye(self.n_features), -torch.eye(self.n_features)]).to(dtype)


class Absolute(tms.Task):
    """The absolute value of every feature."""

    def target(self, x):
        return x.abs()


class FirstOnly(tms.Task):
    def target(self, x):
        return x[..., :1]


def test_a_toy_learns_the_absolute_value_where_another_learns_the_identity():
    # |x| = relu(x) + relu(-x), so an MLP of two neurons per feature computes it exactly.
    cfg = tms.ToyConfig(n_features=2, d_hidden=2, d_mlp=8, tied=False, output_act="identity")
    x = Signed(n_features=2).dataset()
    found = {}
    for task in (Absolute(), tms.Reconstruct()):
        optimizer = tms.Adam(lr=0.03, schedule="cosine")
        run = tms.train(cfg, Signed(n_features=2), task=task, seeds=range(3), steps=600, optimizer=optimizer)
        best = run.models[int(run.final_loss.argmin())]
        assert_close(run.final_loss.min(), (best(x) - task.target(x)).square().mean(0).sum().detach())
        found[type(task)] = best(x).detach()
    assert_close(found[Absolute], x.abs(), rtol=0, atol=0.02)
    assert_close(found[tms.Reconstruct], x, rtol=0, atol=0.02)


def test_gradients_are_of_the_distance_from_the_target():
    plain = tms.ToyModel(CFG, seed=0)
    x = Signed(n_features=2).dataset()
    (plain(x) - x.abs()).square().mean(0).sum().backward()
    run = tms.train(CFG, Signed(n_features=2), task=Absolute(), steps=1, optimizer=tms.SGD(lr=1.0))
    assert_close(run.W_E[0], (plain.W_E - plain.W_E.grad).detach())


def test_the_compiled_engine_refuses_a_task_that_it_does_not_know(caplog):
    with pytest.raises(ValueError, match=r"engine='fused' cannot run this: task=Absolute\(\)"):
        tms.train(CFG, DATA, task=Absolute(), steps=1, engine="fused")
    with caplog.at_level("INFO"):
        assert tms.train(CFG, DATA, task=Absolute(), steps=1).provenance["engine"] == "torch"
    assert "task=Absolute()" in caplog.text


def test_a_task_is_written_down_by_its_name_and_its_settings():
    recipe = Recipe.of(CFG, DATA)
    assert recipe.to_dict()["task"] == {"kind": "Reconstruct"}
    assert Recipe.from_dict(recipe.to_dict()).task == tms.Reconstruct()
    own = recipe.to_dict() | {"task": {"kind": "Reconstuct"}}
    with pytest.raises(ValueError, match="task='Reconstuct' is not known; did you mean 'Reconstruct'"):
        Recipe.from_dict(own)


def test_targets_that_do_not_fit_the_outputs_are_refused():
    with pytest.raises(ValueError, match=r"FirstOnly\(\): target of shape \(1, 2, 1\) for outputs of \(1, 2, 2\)"):
        tms.train(CFG, DATA, task=FirstOnly(), steps=1)


def test_outputs_of_another_number_than_features_are_trained_and_recorded():
    cfg = tms.ToyConfig(n_features=2, d_hidden=2, d_out=1, tied=False, output_act="identity")
    given = {"task": FirstOnly(), "steps": 300, "optimizer": tms.Adam(lr=0.03), "importance": [2.0]}
    run = tms.train(cfg, DATA, seeds=range(2), **given)
    assert run.history.loss.dims == ("step", "model", "output")
    assert run.history.grad_norm.dims == ("step", "model", "feature")
    assert run.final_feature_loss.shape == (2, 1)
    assert_close(run.models[1](torch.eye(2)), torch.tensor([[1.0], [0.0]]), rtol=0, atol=0.02)
    kept = {name: run.history[name].shape for name in run.history.data_vars}
    assert shapes(run.recipe, run.history.sizes["step"]) == kept  # what a saved run is read by
    with pytest.raises(ValueError, match="importance has 2 entries for 1 outputs: give one per output"):
        tms.train(cfg, DATA, **given | {"importance": [1.0, 1.0]})
    with pytest.raises(ValueError, match=r"engine='fused' cannot run this: (task=FirstOnly|d_out=1)"):
        tms.train(cfg, DATA, engine="fused", **given)
    with pytest.raises(ValueError, match=r"Reconstruct\(\): target of shape \(1, 2, 2\) for outputs of \(1, 2, 1\)"):
        tms.train(cfg, DATA, steps=1)
