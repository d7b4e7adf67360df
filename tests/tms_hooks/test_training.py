"""`train`: from arguments to a run, against a plain loop and a closed form, with Ctrl-C and divergence."""

import dataclasses
import inspect
import json
import math
import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import tms_hooks as tms
from tms_hooks import errors, landscape
from tms_hooks.training import batches
from tms_hooks.training.batches import HELD_OUT_TOKENS
from tms_hooks.training.recipe import HELD_OUT_SEED, Recipe

ROOT = Path(__file__).parents[2]
SPARSE = tms.SparseUniform(n_features=4, feature_probability=0.3)
CFG = tms.ToyConfig(n_features=4, d_hidden=2)
HEADS = tms.ToyConfig(n_features=4, d_hidden=2, n_heads=2)
SCALED = tms.ToyConfig(n_features=4, d_hidden=2, unit_norm=True, scale="after")
PAIRS = ((0, 1), (2, 3))


def train(cfg=CFG, data=SPARSE, **settings):
    return tms.train(cfg, data, **{"steps": 20, "batch_size": 64, "seeds": (0, 1), "progress": False} | settings)


def plain_loop(cfg, data, seed, steps, batch_size, lr):
    """What anyone would write: a ToyModel, torch.optim.Adam, the mean squared error."""
    model = tms.ToyModel(cfg, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        x = data.sample(batch_size, seed=seed, step=step)
        optimizer.zero_grad()
        (model(x) - x).square().mean(0).sum().backward()
        optimizer.step()
    return model


def test_training_is_the_plain_loop():
    """Rounding differs between the two, and Adam amplifies it a little: 1e-4 after 100 steps of 0.01."""
    run = train(steps=100, optimizer=tms.Adam(lr=0.01))
    for i in (0, 1):
        model = plain_loop(CFG, SPARSE, i, 100, 64, 0.01)
        assert_close(run.W_E[i], model.W_E.detach(), rtol=0, atol=1e-4)
        x = SPARSE.sample(8, seed=99)
        assert_close(run.models[i](x), model(x), rtol=0, atol=1e-3)


def test_one_hot_identity_reaches_the_closed_form():
    """n = 6 one-hot features, m = 2, tied, ReLU, no bias: 5 directions (closed form 2 of the project's science notes).

    n x loss = 2 (n - d / sum_{|r| <= d/4} cos^2(2 pi r / d)) / 2 with d = 5: |r| <= 1.
    """
    n, d = 6, 5
    captured = sum(math.cos(2 * math.pi * r / d) ** 2 for r in (-1, 0, 1))
    closed_form = n - d / captured
    cfg = tms.ToyConfig(n_features=n, d_hidden=2, output_bias=False)
    optimizer = tms.Adam(lr=0.03, schedule="cosine")
    run = tms.train(cfg, tms.OneHot(n_features=n), seeds=range(30), steps=1500, optimizer=optimizer, progress=False)
    assert abs(n * float(run.final_loss.min()) - closed_form) < 1e-3
    assert (n * run.final_loss > closed_form - 1e-6).all()  # nothing beats an optimum


def test_a_run_is_the_same_whoever_trains_beside_it():
    crowd = train(seeds=[3, 1, 4, 1, 5])
    for i, seed in enumerate([3, 1, 4, 1, 5]):
        alone = train(seeds=[seed])
        assert torch.equal(crowd.W_E[i], alone.W_E[0])
        assert torch.equal(crowd.final_loss[i], alone.final_loss[0])
        assert (crowd.history.loss.values[:, i] == alone.history.loss.values[:, 0]).all()
    assert torch.equal(crowd.W_E[1], crowd.W_E[3])


def test_no_global_state_is_touched():
    state = torch.get_rng_state()
    train()
    assert torch.equal(torch.get_rng_state(), state)


# Batches


@pytest.mark.parametrize("heads", [0, 1])
def test_a_finite_data_set_is_built_once_in_a_training(heads, monkeypatch):
    built, dataset = [], tms.OneHot.dataset

    def count(self, dtype):
        built.append(dtype)
        return dataset(self, dtype)

    monkeypatch.setattr(tms.OneHot, "dataset", count)
    cfg = tms.ToyConfig(n_features=7, d_hidden=2, n_heads=heads)
    more = {"engine": "torch", "qk_pairs": PAIRS if heads else (), "record_every": 3}
    train(cfg, tms.OneHot(n_features=7), batch_size=None, **more)
    assert len(built) == 1


def test_whoever_writes_to_a_batch_leaves_the_data_set_as_it_was():
    recipe = Recipe.of(CFG, tms.OneHot(n_features=4))
    for _ in range(2):
        for x in (batches.batch(recipe, (0,), 0)[0], batches.held_out(recipe)):
            assert torch.equal(x, torch.eye(4))
            x.zero_()


# History


def test_history_is_labeled_and_measures_before_each_update():
    run = train(steps=25, record_every=10)
    history = run.history
    assert history.step.values.tolist() == [0, 10, 20, 25]
    assert history.seed.values.tolist() == [0, 1]
    assert dict(history.sizes) == {"step": 4, "model": 2, "feature": 4, "head": 0, "hidden": 2, "key_hidden": 2}
    assert set(history.data_vars) == {"loss", "grad_norm", "feature_norm", "head_loss", "omega", "W_E", "b_U"}
    first = tms.ToyModel(CFG, seed=1).W_E.detach()
    assert_close(torch.tensor(history.W_E.sel(step=0).values[1]), first)
    assert_close(torch.tensor(history.feature_norm.sel(step=0).values[1]), first.norm(dim=-1))
    assert_close(torch.tensor(history.W_E.sel(step=25).values), run.W_E)
    x = SPARSE.sample(64, seed=1, step=10)
    at_10 = train(steps=10).models[1]
    assert_close(torch.tensor(history.loss.sel(step=10).values[1]), (at_10(x) - x).square().mean(0).detach())


def test_recording_more_often_changes_nothing():
    often, seldom = train(record_every=1), train(record_every=1000)
    assert torch.equal(often.W_E, seldom.W_E)
    assert often.history.step.values.tolist() == list(range(21))
    assert seldom.history.step.values.tolist() == [0, 20]


def test_every_stage_is_recorded_at_its_start():
    run = train(HEADS, qk_pairs=PAIRS, steps=(7, 9), stages=("representation", "heads"), record_every=5)
    assert run.history.step.values.tolist() == [0, 5, 7, 10, 15, 16]
    frozen = run.history.W_E.sel(step=[7, 10, 15, 16]).values
    assert (frozen == frozen[0]).all()
    assert (run.history.grad_norm.sel(step=[7, 10, 15]).values == 0).all()  # the heads' stage has no gradient there
    assert run.history.sizes["head"] == 2


# Evaluation


def test_final_loss_is_on_held_out_data():
    run = train(importance=(1.0, 0.5, 0.25, 0.0))
    x = SPARSE.sample(HELD_OUT_TOKENS, seed=HELD_OUT_SEED)
    for i, model in enumerate(run.models):
        per_feature = torch.tensor([1, 0.5, 0.25, 0]) * (model(x) - x).square().mean(0).detach()
        assert_close(run.final_feature_loss[i], per_feature)
        assert_close(run.final_loss[i], per_feature.sum())
    with pytest.raises(ValueError, match=r"must be in \[0, 2\^63 - 1\)"):
        train(seeds=[HELD_OUT_SEED])


@pytest.mark.parametrize("p", [1e-6, 1e-4, 1e-2, (1e-5, 0.01, 1e-4, 1e-3, 0.02)])
def test_final_loss_is_exact_however_rare_features_are(p):
    data = tms.SparseUniform(5, p)
    run = tms.train(tms.ToyConfig(5, 2), data, seeds=2, steps=200, optimizer=tms.Adam(lr=0.02), dtype="float64")
    for i, found in enumerate(run.final_loss):
        wanted = landscape.exact_loss({name: w[i] for name, w in run.weights.items()}, run.recipe.cfg, data)
        assert_close(found, wanted, rtol=0.02 if p == 1e-2 or isinstance(p, tuple) else 5e-4, atol=0)
    assert (run.final_loss > 0).all()


@pytest.mark.parametrize("data", [tms.SparseUniform(4, (0.3, 0.001, 0.1, 0.02), low=-1), tms.SparseGaussian(3, 0.01)])
def test_parts_by_how_many_features_are_active_make_up_the_data(data):
    parts, p = data.strata(50_000, seed=3, dtype=torch.float64), data.active_probability()
    assert_close(sum(share for share, _ in parts), 1.0)
    for counts, (_, x) in zip(({0}, {1}, {2, 3, 4}), parts, strict=True):
        assert set(x.count_nonzero(-1).tolist()) <= counts
    second = sum(share * x.mT @ x / len(x) for share, x in parts)
    assert_close(second, data.second_moment(), rtol=0, atol=0.01 * float(data.second_moment().max()))
    share, several = parts[-1]
    for pattern in product((0.0, 1.0), repeat=data.n_features):
        active = torch.tensor(pattern, dtype=torch.float64)
        if active.sum() > 1:
            wanted = float((p * active + (1 - p) * (1 - active)).prod()) / share
            seen = float(((several != 0) == active.bool()).all(-1).double().mean())
            assert abs(seen - wanted) < 4.5 * (wanted * (1 - wanted) / 50_000) ** 0.5 + 1e-6


def test_a_final_loss_of_hardly_any_rows_says_so(caplog):
    for data in (tms.CorrelatedGroups(4, 1e-5), tms.Tree(4, 1e-5), tms.SparseUniform(4, 0.1)):
        errors.say_once.cache_clear()
        caplog.clear()
        with caplog.at_level("WARNING"):
            tms.train(CFG, data, steps=1, progress=False)
        said = "held-out rows have an active feature, too few" in caplog.text
        assert said == (not isinstance(data, tms.SparseUniform))


def test_held_out_rows_are_fewer_where_they_are_wide():
    for n, rows in ((4, 2**16), (256, 2**16), (5000, 2**24 // 5000)):
        recipe = tms.training.recipe.Recipe.of(tms.ToyConfig(n, 2), tms.SparseUniform(n, 0.5))
        ((share, x),) = batches.judges(recipe)
        assert (share, x.shape) == (1.0, (rows, n))


def test_ctrl_c_while_the_final_loss_is_found_keeps_the_whole_run():
    pressed = []

    def pressing(x):
        if len(x) > 10_000 and not pressed:  # held-out rows
            pressed.append(signal.raise_signal(signal.SIGINT))
        return x

    settings = {"seeds": range(3), "steps": 20, "progress": False}
    stopped = tms.train(CFG, SPARSE, task=pressing, **settings)
    whole = tms.train(CFG, SPARSE, **settings)
    assert pressed
    assert stopped.completed_steps == 20
    assert_close(stopped.W_E, whole.W_E, rtol=0, atol=1e-5)
    assert_close(stopped.final_loss, whole.final_loss, rtol=0.05, atol=0)


def test_final_loss_of_full_batch_training_is_on_the_data_set():
    run = train(data=tms.OneHot(n_features=4), batch_size=None)
    x = torch.eye(4)
    assert_close(run.final_loss[0], (run.models[0](x) - x).square().mean(0).sum().detach())


def test_final_loss_with_heads_adds_lambda_l2():
    run = train(HEADS, qk_pairs=PAIRS, qk_weight=0.25)
    assert run.final_head_loss.shape == (2, 2)
    assert_close(run.final_loss, run.final_feature_loss.sum(-1) + 0.25 * run.final_head_loss.sum(-1))
    tokens = torch.stack([SPARSE.sample(HELD_OUT_TOKENS, seed=HELD_OUT_SEED, step=i) for i in range(2)], dim=1)
    out = run.models[0](tokens)
    target = sum((tokens[:, 0, i] > 0) & (tokens[:, 1, j] > 0).float().bool() for i, j in PAIRS[:1]).float()
    target = target + ((tokens[:, 0, 2] > 0) & (tokens[:, 1, 3] > 0)).float()
    by_hand = (out.attn_scores[:, :, 0, 1] - target[:, None]).square().mean(0).detach()
    assert_close(run.final_head_loss[0], by_hand)


def test_softmax_heads_choose_among_their_keys():
    run = train(HEADS, qk_pairs=PAIRS, head_objective="pattern")
    rows = HELD_OUT_TOKENS // 8
    tokens = torch.stack([SPARSE.sample(rows, seed=HELD_OUT_SEED, step=position) for position in range(9)], dim=1)
    query, keys = tokens[:, 0] > 0, tokens[:, 1:] > 0
    count = sum(query[:, i, None].float() * keys[..., j] for i, j in PAIRS)
    target = (count / count.sum(1, keepdim=True)).nan_to_num(1 / 8)
    attention = run.models[0](tokens).attn_scores[:, :, 0, 1:].softmax(-1)
    by_hand = -(target[:, None] * attention.log()).sum(-1).mean(0).detach()
    assert_close(run.final_head_loss[0], by_hand)


def test_the_history_has_the_heads():
    run = train(HEADS, qk_pairs=PAIRS, record_every=10)
    assert run.history.omega.dims == ("step", "model", "head", "hidden", "key_hidden")
    for omega, circuit in zip(
        run.history.omega.sel(step=20).values[1],
        run.weights["blocks.0.attn.W_Q"][1] @ run.weights["blocks.0.attn.W_K"][1].mT,
        strict=True,
    ):
        assert_close(torch.tensor(omega), circuit)
    assert train().history.sizes["head"] == 0


# Arguments


def test_train_and_recipes_have_the_same_arguments_and_defaults():
    names = {field.name for field in dataclasses.fields(Recipe)}
    parameters = inspect.signature(tms.train).parameters
    defaults = {name: parameters[name].default for name in names - {"cfg", "data"}}
    assert Recipe.of(CFG, SPARSE, **defaults) == Recipe.of(CFG, SPARSE)


def test_one_list_of_pairs_is_for_every_head():
    assert train(HEADS, qk_pairs=PAIRS).recipe.qk_pairs == (PAIRS, PAIRS)
    assert train(HEADS, qk_pairs=[[(0, 1)], [(2, 3), (3, 2)]]).recipe.qk_pairs == (((0, 1),), ((2, 3), (3, 2)))


def test_a_mapping_of_pairs_says_their_weights():
    kept = ((0, 1), (2, 3, 2.0))
    assert train(HEADS, qk_pairs={(0, 1): 1.0, (2, 3): 2}).recipe.qk_pairs == (kept, kept)
    run = train(HEADS, qk_pairs=[{(0, 1): 0.5}, [(3, 3)]])
    assert run.recipe.qk_pairs == (((0, 1, 0.5),), ((3, 3),))
    assert train(HEADS, qk_pairs=run.recipe.qk_pairs).recipe == run.recipe
    plain = json.loads(json.dumps(run.recipe.to_dict()))
    assert Recipe.from_dict(plain) == run.recipe


def test_weights_are_what_trained_scores_become():
    """Four features in four dimensions: pairs do not interfere, and the scores of a binary pair are its weight."""
    cfg = tms.ToyConfig(n_features=4, d_hidden=4, n_heads=1)
    given = {"stages": ("representation", "heads"), "steps": 1500, "optimizer": tms.Adam(lr=0.01), "batch_size": None}
    run = tms.train(cfg, tms.OneHot(n_features=4), qk_pairs={(0, 1): 1.0, (2, 3): 2.0}, seeds=(0,), **given)
    every_pair = torch.eye(4)[torch.tensor([[i, j] for i in range(4) for j in range(4)])]
    scores = run.models[0](every_pair).attn_scores[:, 0, 0, 1].detach().view(4, 4)
    wanted = torch.zeros(4, 4)
    wanted[0, 1], wanted[2, 3] = 1.0, 2.0
    torch.testing.assert_close(scores, wanted, rtol=0, atol=0.02)
    assert float(run.final_head_loss) < 1e-3


@pytest.mark.parametrize("pairs", [{(2, 4): 1.0, (5, 8): 1.0}, {(2, 4): 1.0, (5, 8): 2.0}], ids=["equal", "unequal"])
def test_heads_with_biases_reach_a_lower_head_loss(pairs):
    """On the same representation: without biases a score has no constant part, and features that are on have a mean."""
    data = tms.SparseUniform(n_features=9, feature_probability=0.5)
    given = {"qk_pairs": pairs, "stages": ("representation", "heads"), "steps": 600, "batch_size": 256}
    loss = {}
    for biased in (False, True):
        cfg = tms.ToyConfig(n_features=9, d_hidden=9, n_heads=1, head_bias=biased)
        run = tms.train(cfg, data, seeds=range(4), optimizer=tms.Adam(lr=0.01), **given)
        loss[biased] = run.final_head_loss[:, 0]
    assert (loss[True] < 0.95 * loss[False]).all()


def test_importance_as_number_sequence_or_tensor():
    assert train(importance=0.5).recipe.importance == (0.5,) * 4
    assert train(importance=[1.0, 0.5, 0.25, 0.0]).recipe.importance == (1.0, 0.5, 0.25, 0.0)
    assert train(importance=0.5 ** torch.arange(4)).recipe.importance == (1.0, 0.5, 0.25, 0.125)
    assert train().recipe.importance == (1.0,) * 4


def test_importance_decides_what_is_learned():
    run = train(
        data=tms.SparseUniform(n_features=4, feature_probability=1.0), importance=(1.0, 1.0, 0.0, 0.0), steps=300
    )
    gradient = run.history.grad_norm.sel(step=0).values
    assert (run.final_feature_loss[:, 2:] == 0).all()
    assert (gradient[:, :2] > 0).all()


def test_init_replaces_the_initial_weights_and_leaves_the_batches_to_the_seeds():
    donors = [tms.ToyModel(CFG, seed=seed) for seed in (8, 9)]
    run = train(seeds=(8, 9), init=donors)
    assert torch.equal(run.W_E, train(seeds=(8, 9)).W_E)
    swapped = train(seeds=(8, 9), init=donors[::-1])
    assert_close(torch.tensor(swapped.history.W_E.sel(step=0).values[0]), donors[1].W_E.detach())
    assert not torch.equal(swapped.W_E[1], run.W_E[0])
    assert torch.equal(donors[0].W_E, tms.ToyModel(CFG, seed=8).W_E)  # donors are left as they were
    assert torch.equal(train(seeds=(8, 9), init=[model.state_dict() for model in donors]).W_E, run.W_E)
    continued = train(seeds=(8, 9), init=run.models)
    assert_close(torch.tensor(continued.history.W_E.sel(step=0).values), run.W_E)


def test_unit_norm_runs_return_unit_directions():
    cfg = tms.ToyConfig(n_features=4, d_hidden=2, unit_norm=True)
    run = train(cfg)
    assert_close(run.W_E.norm(dim=-1), torch.ones(2, 4))
    assert (run.weights["scale"] != 1).all()
    assert_close(torch.tensor(run.history.feature_norm.values), torch.ones(2, 2, 4))


def test_float64_and_cross_entropy():
    cfg = tms.ToyConfig(n_features=4, d_hidden=2, output_act="softmax", tied=False)
    run = train(
        cfg,
        tms.OneHot(n_features=4),
        loss="cross_entropy",
        batch_size=None,
        dtype="float64",
        steps=400,
        optimizer=tms.Adam(lr=0.05),
    )
    assert run.W_E.dtype == run.final_loss.dtype == torch.float64
    assert float(run.final_loss.max()) < 0.05  # against log 4 = 1.39 before training, and 0 at best


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": (-1,)}, r"seeds from -1 to -1: must be in \[0, 2\^63 - 1\)"),
        ({"steps": 0}, r"steps=0: every stage needs at least 1"),
        ({"steps": ()}, r"steps=\(\): every stage needs at least 1"),
        ({"steps": (5, 5)}, r"2 entries in steps for 1 stages"),
        ({"stages": ()}, "stages is empty: give at least one of joint, representation, heads"),
        ({"record_every": 0}, "record_every=0: must be at least 1"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1, or None"),
        ({"data": tms.OneHot(n_features=5)}, "data has n_features=5, the model 4: they must be equal"),
        ({"batch_size": True}, "batch_size=True: must be at least 1"),
        ({"importance": (1.0, 1.0)}, "importance has 2 entries for 4 features"),
        ({"importance": math.nan}, "importance=nan: must be finite and not negative"),
        ({"importance": math.inf}, "importance=inf: must be finite"),
        ({"importance": -1.0}, "importance=-1.0: must be finite and not negative"),
        ({"loss": "cross_entropy"}, "loss='cross_entropy' with output_act='relu': it needs output_act='softmax'"),
        ({"qk_pairs": PAIRS}, "n_heads=0: only a model with heads has them"),
        ({"stages": ("heads",)}, "n_heads=0: only a model with heads has them"),
        ({"qk_weight": math.nan}, "qk_weight=nan: must be finite"),
        ({"head_objective": "pattern"}, "head_objective='pattern' with n_heads=0"),
        (
            {"cfg": tms.ToyConfig(4, 2, unit_norm=True, scale="after"), "engine": "fused"},
            "engine='fused' cannot run this: scale='after'",
        ),
        (
            {
                "cfg": HEADS,
                "qk_pairs": PAIRS,
                "head_objective": "pattern",
                "data": tms.OneHot(n_features=4),
                "batch_size": None,
            },
            "give n_heads and a batch_size",
        ),
        ({"cfg": HEADS}, r"qk_pairs=\(\) for n_heads=2: every head needs at least one"),
        ({"cfg": HEADS, "qk_pairs": [[]]}, r"for n_heads=2: every head needs at least one"),
        ({"cfg": HEADS, "qk_pairs": [[(0, 1)]]}, "for n_heads=2: every head needs at least one"),
        ({"cfg": HEADS, "qk_pairs": [(0, 4)]}, r"qk pair \(0, 4\): features are numbered 0 to 3"),
        ({"cfg": HEADS, "qk_pairs": {(0, 4): 2.0}}, r"qk pair \(0, 4\): features are numbered 0 to 3"),
        ({"cfg": HEADS, "qk_pairs": {(0, 1): 0.0}}, r"qk pair \(0, 1\) has weight 0.0: must be finite and above 0"),
        (
            {"cfg": HEADS, "qk_pairs": {(0, 1): math.inf}},
            r"qk pair \(0, 1\) has weight inf: must be finite and above 0",
        ),
        ({"cfg": HEADS, "qk_pairs": {(0, 1): math.nan}}, r"qk pair \(0, 1\) has weight nan"),
        ({"cfg": HEADS, "qk_pairs": [{(0, 1): 2.0}]}, "for n_heads=2: every head needs at least one"),
        (
            {"loss": "cross_entropy", "cfg": dataclasses.replace(SCALED, output_act="softmax")},
            "loss='cross_entropy' with scale='after': .*use scale='before'",
        ),
        ({"cfg": HEADS, "qk_pairs": PAIRS, "qk_weight": -0.5}, "qk_weight=-0.5: must be finite and not negative"),
        (
            {"cfg": HEADS, "qk_pairs": PAIRS, "stages": ("representation", "heads"), "steps": (1, 2, 3)},
            "3 entries in steps for 2 stages",
        ),
        ({"init": [tms.ToyModel(CFG)]}, "init has 1 models for 2 seeds: give one per seed"),
        (
            {"init": [tms.ToyModel(tms.ToyConfig(n_features=4, d_hidden=3))] * 2},
            r"an init model has weights .*the config asks for",
        ),
        ({"device": "cuda:7"}, "device='cuda:7' is not on this machine .*; use device='cpu'"),
    ],
)
def test_impossible_values_are_refused(settings, message):
    if "device" in settings and torch.cuda.is_available():
        settings = {"device": f"cuda:{torch.cuda.device_count()}"}
    with pytest.raises(ValueError, match=message):
        train(**settings)


def test_too_many_pairs_of_vectors_are_refused():
    data = tms.KHot(n_features=30, k=3)
    cfg = tms.ToyConfig(n_features=30, d_hidden=2, n_heads=1)
    with pytest.raises(ValueError, match=r"4,060 vectors make 16,483,600 ordered pairs.*give a batch_size"):
        train(cfg, data, batch_size=None, qk_pairs=[(0, 1)])


# Divergence and interruption


def test_a_diverged_model_is_reported_and_the_others_go_on(caplog):
    cfg = tms.ToyConfig(n_features=4, d_hidden=2, output_act="identity")
    wild = tms.ToyModel(cfg, seed=1)
    with torch.no_grad():
        wild.W_E.mul_(1e4)
    settings = {"optimizer": tms.SGD(lr=0.1), "steps": 50, "seeds": (0, 7, 2)}
    run = train(cfg, init=[tms.ToyModel(cfg, seed=0), wild, tms.ToyModel(cfg, seed=2)], **settings)
    assert list(run.diverged) == [1]
    step = run.diverged[1]
    assert 0 <= step < 50
    assert f"model 1, of seed 7, stopped at step {step}" in caplog.text
    assert run.W_E.isfinite().all()
    assert run.completed_steps == 50
    sound = train(cfg, **settings | {"seeds": (0, 2)})
    assert sound.diverged == {}
    assert torch.equal(run.W_E[[0, 2]], sound.W_E)


def test_every_model_may_diverge(caplog):
    run = train(optimizer=tms.SGD(lr=1e30))
    assert set(run.diverged) == {0, 1}
    assert run.W_E.isfinite().all()


INTERRUPTED = """
import sys, time, torch, tms_hooks as tms
cfg = tms.ToyConfig(n_features=4, d_hidden=2)
data = tms.SparseUniform(n_features=4, feature_probability=0.3)
tms.train(cfg, data, seeds=range(2), steps=1, batch_size=64)  # a first call compiles, with nothing to save yet
print("ready", flush=True)
run = tms.train(cfg, data, seeds=range(2), steps=10**6, batch_size=64, record_every=10)
run.save(sys.argv[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to a process there")
def test_ctrl_c_in_a_real_process_saves_what_there_is(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "run")],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.8)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "interrupted at step" in errors
    run = tms.load(tmp_path / "run")
    done = run.completed_steps
    assert 0 < done < 10**6
    assert run.history.step.values.tolist() == list(range(0, done + 1, 10))
    assert_close(torch.tensor(run.history.W_E.values[-1]), run.W_E, rtol=0, atol=0)
    assert torch.equal(run.W_E, train(steps=done).W_E)  # it is the run of that many steps


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to a process there")
def test_ctrl_c_is_heard_between_two_records_that_are_far_apart(tmp_path):
    far = INTERRUPTED.replace("steps=10**6", "steps=10**8").replace("record_every=10)", "record_every=10**8)")
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", far, str(tmp_path / "run")]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.8)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    assert 0 < tms.load(tmp_path / "run").completed_steps < 10**8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks there")
def test_a_forked_process_trains_after_its_parent_did(run_python):
    script = """
import warnings, torch, tms_hooks as tms
from multiprocessing import get_context
warnings.simplefilter("ignore")  # newer Pythons warn of any fork of a process with threads
torch.set_num_threads(2)
def total(seed):
    cfg, data = tms.ToyConfig(n_features=6, d_hidden=2), tms.SparseUniform(n_features=6, feature_probability=0.1)
    return tms.train(cfg, data, seeds=range(seed, seed + 40), steps=50, progress=False).final_loss.sum().item()
first = total(0)
with get_context("fork").Pool(2) as pool:
    print(pool.map_async(total, [0, 7]).get(90)[0] == first)
"""
    assert run_python(script) == "True\n"


def test_progress_bar_shows_a_rate_and_an_end(capsys):
    train(progress=True)
    shown = capsys.readouterr().err
    assert "training 2 models" in shown
    assert "step 20 of 20" in shown
    assert "model steps/s" in shown
    train(progress=False)
    assert capsys.readouterr().err == ""
