"""The fused engine against the torch engine on the same batches, and a model alone against itself in a crowd."""

import gc
import logging
import os
import platform
import subprocess
import sys
import weakref
from dataclasses import replace
from itertools import pairwise, product
from typing import get_args

import numpy as np
import pytest
import torch

import tms_hooks as tms
from tms_hooks import losses
from tms_hooks.config import Activation
from tms_hooks.fused import engine as fused_engine
from tms_hooks.models.forward import W_Q
from tms_hooks.tasks import TASKS, TaskFunction
from tms_hooks.training import torch_engine
from tms_hooks.training.batches import held_out
from tms_hooks.training.recipe import Recipe, Stage
from tms_hooks.training.state import State

pytest.importorskip("numba", reason="the fused engine is the optional extra 'fast'")

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
IMPORTANCE = (1.0, 0.5, 0.0, 2.0, 1.0)
OPTIMIZERS = [
    tms.Adam(lr=0.02, betas=(0.8, 0.95), eps=1e-6, schedule="cosine", warmup=0.2),
    tms.AdamW(lr=0.02, decay=0.1, pull={"W_E": 0.5}, schedule="linear", final_lr=1e-3),
    tms.SGD(lr=0.3, momentum=0.9, schedule="exponential", final_lr=1e-2),
    tms.RMSprop(lr=0.01, alpha=0.9),
]


def make(cfg=None, data=None, *, seeds=range(3), optimizer=None, steps=(50,), batch_size=300, dtype="float64", **more):
    """A recipe with a little of everything: an odd number of features, a batch that is no multiple of a block."""
    cfg = cfg or tms.ToyConfig(n_features=5, d_hidden=2)
    n = cfg.n_features
    settings = {"stages": ("joint",), "qk_pairs": (), "qk_weight": 1.0, "loss": "mse", "importance": IMPORTANCE[:n]}
    settings["record"] = ("W_E",)
    return tms.training.recipe.Recipe(
        cfg=cfg,
        data=data or tms.SparseUniform(n_features=n, feature_probability=0.3),
        seeds=tuple(seeds),
        steps=steps,
        optimizer=optimizer or tms.Adam(lr=0.01),
        batch_size=batch_size,
        record_every=10,
        dtype=dtype,
        **settings | more,
    )


def start(recipe, scale=1.0):
    """Fresh weights, with biases that are not zero so that every gradient matters."""
    state = State.initial(recipe, None, "cpu")
    for w in state.weights.values():
        if w.ndim == 2:
            w += torch.linspace(-0.1, 0.1, w.shape[1], dtype=w.dtype)
        w *= scale
    return state


def gradients(engine, recipe, step=3):
    """What one step of plain SGD at rate 1 takes away."""
    recipe = replace(recipe, optimizer=tms.SGD(lr=1.0))
    state = start(recipe)
    before = dict(state.weights)
    engine.advance(recipe, state, step, step + 1)
    return {name: before[name] - w for name, w in state.weights.items()}


def assert_close(got, wanted, tolerance):
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("probability", [1.0, 0.2, (0.9, 0.5, 1.0, 0.1, 0.01)])
@pytest.mark.parametrize("output_bias", [True, False])
@pytest.mark.parametrize("output_act", ["identity", "relu", "gelu"])
@pytest.mark.parametrize("tied", [True, False])
def test_losses_and_gradients_agree_with_torch(tied, output_act, output_bias, probability, dtype):
    cfg = tms.ToyConfig(n_features=5, d_hidden=3, tied=tied, output_act=output_act, output_bias=output_bias)
    recipe = make(cfg, tms.SparseUniform(n_features=5, feature_probability=probability), dtype=dtype)
    got, wanted = (engine.advance(recipe, start(recipe), 7, 7) for engine in (fused_engine, torch_engine))
    assert_close(got, wanted, TOLERANCE[dtype])
    assert_close(gradients(fused_engine, recipe), gradients(torch_engine, recipe), TOLERANCE[dtype])


SHARES = tms.Samples(tms.SparseUniform(5, 0.5).sample(9, seed=7).softmax(-1))
HEADS = {"qk_pairs": (((0, 1), (2, 2)), ((4, 3),)), "qk_weight": 0.7}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("stage", "head_objective"),
    [(None, "scores"), *product(("joint", "representation", "heads"), ("scores", "pattern"))],
)
@pytest.mark.parametrize(
    ("tied", "unit_norm"),
    [(True, False), (True, True), (False, False), (False, True), (False, "write"), (False, "read")],
)
def test_every_combination_of_switches_agrees_with_torch(tied, unit_norm, stage, head_objective, dtype):
    outputs = [(act, "mse") for act in get_args(Activation)] + [("softmax", "cross_entropy")]
    sparse = tms.SparseUniform(n_features=5, feature_probability=0.1)
    switches = product(outputs, (True, False), get_args(Activation), (True, False), ("drawn", "exact"))
    for (output_act, loss), output_bias, hidden_act, hidden_bias, empty_rows in switches:
        if stage and empty_rows == "exact":
            continue  # heads have no closed form
        if loss == "cross_entropy" and empty_rows == "exact":
            continue  # empty rows are no shares
        cfg = tms.ToyConfig(
            n_features=5,
            d_hidden=3,
            tied=tied,
            unit_norm=unit_norm,
            output_act=output_act,
            output_bias=output_bias,
            hidden_act=hidden_act,
            hidden_bias=hidden_bias,
            n_heads=2 if stage else 0,
            d_head=2 if stage else None,
        )
        more = HEADS | {"stages": (stage,), "head_objective": head_objective} if stage else {}
        data = sparse if empty_rows == "exact" else SHARES if loss == "cross_entropy" else None
        recipe = make(cfg, data, seeds=(4,), loss=loss, empty_rows=empty_rows, batch_size=75, dtype=dtype, **more)
        assert_same_step(recipe)


def assert_same_step(recipe, step=3):
    """Losses of a batch, and what one update of plain SGD at rate 1 makes of the weights."""
    recipe, found = replace(recipe, optimizer=tms.SGD(lr=1.0)), []
    for engine in (fused_engine, torch_engine):
        state = start(recipe)
        found.append((engine.advance(recipe, state, step, step + 1), state.weights))
    tolerance = TOLERANCE[recipe.dtype]
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance, msg=lambda text: f"{recipe}\n{text}")


MLPS = {
    "behind": {"bottleneck": "embed->mlp.in"},
    "before": {"bottleneck": "mlp.out->unembed"},
    "one block": {"bottleneck": "residual"},
    "blocks": {"bottleneck": "residual", "n_mlps": 3},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("unit_norm", [False, True, "write", "read"])
@pytest.mark.parametrize("place", MLPS)
def test_mlps_agree_with_torch(place, unit_norm, dtype):
    sparse = tms.SparseUniform(n_features=5, feature_probability=0.1)
    outputs = [(act, "mse") for act in get_args(Activation)] + [("softmax", "cross_entropy")]
    if (place, unit_norm) == ("behind", "read"):
        return  # there is no W_U
    for (output_act, loss), hidden_act, tied in product(outputs, get_args(Activation), (True, False)):
        if tied and unit_norm in ("write", "read"):
            continue
        bias, data = hidden_act != "relu", SHARES if loss == "cross_entropy" else sparse
        more = {"hidden_act": hidden_act, "output_act": output_act, "hidden_bias": bias, "output_bias": bias}
        cfg = tms.ToyConfig(5, 3, d_mlp=7, tied=tied, unit_norm=unit_norm, **more, **MLPS[place])
        rows = "exact" if data is sparse else "drawn"
        assert_same_step(make(cfg, data, seeds=(4,), loss=loss, empty_rows=rows, batch_size=700, dtype=dtype))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: type(optimizer).__name__)
@pytest.mark.parametrize("place", MLPS)
def test_mlps_of_other_outputs_follow_torch_with_every_optimizer(place, optimizer):
    cfg = tms.ToyConfig(5, 3, d_mlp=17, d_out=2, tied=False, **MLPS[place])
    shrinking = replace(optimizer, decay={"W_in": 0.3, "W_out": 0.1})
    recipe = make(cfg, task=TaskFunction(product_and_sum), importance=(1.0, 0.5), optimizer=shrinking)
    ours, theirs = start(recipe), start(recipe)
    for begin, end in ((0, 20), (20, 50)):
        got = fused_engine.advance(recipe, ours, begin, end)
        assert_close(got, torch_engine.advance(recipe, theirs, begin, end), 1e-9)
    assert_close((ours.weights, ours.moments), (theirs.weights, theirs.moments), 1e-9)


@pytest.mark.parametrize(
    ("cfg", "data"),
    [
        *((tms.ToyConfig(5, 3, d_mlp=7, **switches), tms.SparseUniform(5, 0.1)) for switches in MLPS.values()),
        (None, tms.Copula(5, 0.3, rho=0.2)),
    ],
    ids=[*MLPS, "tied features"],
)
def test_what_is_compiled_is_the_same_in_a_crowd_and_on_several_threads_to_the_bit(cfg, data, monkeypatch):
    import numba

    crowd = make(cfg, data, seeds=range(6), dtype="float32")
    own, states, before = replace(crowd, seeds=(4,)), [], numba.get_num_threads()
    monkeypatch.setattr(fused_engine, "WORTH_THREADS", 1)
    for recipe, threads, marks in ((crowd, 1, (0, 30)), (crowd, 2, (0, 30)), (own, 1, (0, 7, 30))):
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        states.append(start(recipe))
        for begin, end in pairwise(marks):
            fused_engine.advance(recipe, states[-1], begin, end)
    numba.set_num_threads(before)
    for name, w in states[0].weights.items():
        assert w.equal(states[1].weights[name])
        assert w[4].equal(states[2].weights[name][0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("probability", [1.0, (0.9, 0.5, 1.0, 0.1, 0.01)])
@pytest.mark.parametrize(("n_heads", "d_head"), [(1, 3), (1, 5), (2, 1), (3, 2)])
@pytest.mark.parametrize("d_hidden", [1, 4, 7])
def test_heads_of_every_shape_agree_with_torch(d_hidden, n_heads, d_head, probability, dtype):
    cfg = tms.ToyConfig(n_features=5, d_hidden=d_hidden, n_heads=n_heads, d_head=d_head)
    data = tms.SparseUniform(n_features=5, feature_probability=probability)
    pairs = (((0, 1), (2, 2)), ((4, 3),), ((1, 0), (1, 0)))[:n_heads]
    for batch_size in (1, 16, 300):
        assert_same_step(make(cfg, data, dtype=dtype, batch_size=batch_size, qk_pairs=pairs, qk_weight=0.7))


def heads(**more):
    """A toy with pseudo-attention, and what its recipe needs besides."""
    return tms.ToyConfig(n_features=5, d_hidden=3, n_heads=2, d_head=2, **more), HEADS


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("switches", [{"n_heads": 2, "d_head": 2}, {"n_heads": 1, "d_head": 5, "unit_norm": True}])
@pytest.mark.parametrize("stage", ["joint", "representation", "heads"])
@pytest.mark.parametrize("head_objective", ["scores", "pattern"])
def test_heads_with_biases_and_weights_agree_with_torch(head_objective, stage, switches, dtype):
    cfg = tms.ToyConfig(n_features=5, d_hidden=3, head_bias=True, hidden_bias=True, init="linear", **switches)
    pairs = (((0, 1, 2.0), (2, 2), (4, 3, 0.25)), ((4, 3, 0.25),))[: cfg.n_heads]
    more = {"qk_pairs": pairs, "qk_weight": 0.7, "stages": (stage,), "head_objective": head_objective}
    assert_same_step(make(cfg, batch_size=700, dtype=dtype, **more))


def called(function):
    """A compiled function that has no way in from Python, by way of one that has."""
    import numba

    @numba.njit
    def call(*arguments):
        return function(*arguments)

    return call


PATTERNS = [
    tms.OneHot(n_features=5),
    tms.KHot(n_features=5, k=2),
    tms.KHot(n_features=5, k=4, values="uniform"),
    tms.CorrelatedGroups(n_features=6, feature_probability=0.3, group_size=2),
    tms.AnticorrelatedGroups(n_features=6, feature_probability=0.2, group_size=3),
    tms.OnManifold(n_features=5, manifold="figure eight", a=4.0, b=3.0),
    tms.Tree(n_features=6, feature_probability=(0.9, 0.5, 0.3, 0.7, 0.2, 0.9)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("data", PATTERNS, ids=lambda data: type(data).__name__)
def test_drawn_patterns_are_those_of_the_data_to_the_bit(data, dtype):
    from tms_hooks.fused.kernels.draws import batch_key
    from tms_hooks.fused.kernels.rules import draw

    n, rows, key, fill = data.n_features, 1000, called(batch_key)(7, 11), called(draw)
    x, room = np.ones((n, rows + 1), dtype), np.empty((n + 1, rows), np.int64)
    for first, count in ((0, 600), (600, 400)):
        fill(x[:, first:], fused_engine._loop(data), key, first, count, rows, room)
    assert (x[:, rows] == 1).all(), "it writes no row beyond those asked for"
    wanted = data.sample(rows, seed=7, step=11, dtype=getattr(torch, dtype))
    assert torch.from_numpy(x[:, :rows].T).equal(wanted)


MATRIX = torch.tensor([[1.0, 0.5, 0.2, 0.0], [0.5, 1.0, -0.3, 0.1], [0.2, -0.3, 1.0, 0.0], [0.0, 0.1, 0.0, 1.0]])


@pytest.mark.parametrize(
    "data",
    [tms.Copula(5, (0.1, 0.9, 1.0, 0.3, 0.02), rho=-0.2), tms.Copula(4, 0.3, rho=MATRIX), tms.Copula(1, 0.5, rho=0.0)],
)
def test_tied_features_are_drawn_as_torch_draws_them(data):
    from tms_hooks.fused.kernels.draws import batch_key
    from tms_hooks.fused.kernels.rules import draw

    n, rows, key, fill = data.n_features, 20_000, called(batch_key)(7, 11), called(draw)
    for dtype, tolerance in ((torch.float32, 0), (torch.float64, 1e-14)):
        x, room = np.ones((n, rows), str(dtype)[6:]), np.empty((n + 1, rows), np.int64)
        fill(x, fused_engine._loop(data), key, 0, rows, rows, room)
        got, wanted = torch.from_numpy(x.T), data.sample(rows, seed=7, step=11, dtype=dtype)
        assert (got != 0).equal(wanted != 0)
        assert_close(got, wanted, tolerance)


def test_normal_quantiles_are_those_of_scipy_in_the_last_tail():
    from scipy.special import ndtri

    from tms_hooks.fused.kernels import draws

    bits = np.r_[np.arange(2**10), np.arange(0, 2**32, 2**18 + 1), 2**32 - 1 - np.arange(2**10)]
    u = (bits + 0.5) / 2**32
    wanted = ndtri(u)
    called(draws.to_normal)(u)
    np.testing.assert_allclose(u, wanted, rtol=2e-15, atol=2e-16)


@pytest.mark.parametrize("data", PATTERNS, ids=lambda data: type(data).__name__)
@pytest.mark.parametrize("n_heads", [0, 2])
def test_training_on_patterns_agrees_with_torch(n_heads, data):
    n = data.n_features
    cfg = tms.ToyConfig(n_features=n, d_hidden=2, n_heads=n_heads)
    assert_same_step(make(cfg, data, importance=(1.0,) * n, batch_size=3000, **(HEADS if n_heads else {})))


def affine(outputs):
    A = torch.randn(outputs, 5, generator=torch.Generator().manual_seed(outputs))
    return tms.LinearThenReLU(A, v=torch.linspace(-1, 1, outputs))


ASKED = [
    tms.Reconstruct(),
    tms.Absolute(),
    affine(3),
    affine(5),
    affine(8),
    tms.Project(affine(5).A),
    tms.And([(0, 1), (4, 2)]),
    tms.Residual(),
    tms.Residual(0.3),
]


def test_every_task_of_the_library_is_compiled():
    assert {type(task) for task in ASKED} == {kind for kind in TASKS.values() if kind is not TaskFunction}


@pytest.mark.parametrize("task", ASKED, ids=repr)
def test_tasks_on_signed_and_binary_data_agree_with_torch(task):
    each = [
        tms.SparseUniform(n_features=5, feature_probability=0.3, low=-1.0, high=0.5),
        tms.SparseUniform(n_features=5, feature_probability=0.03, low=-1.0),  # with empty rows in closed form
        tms.SparseUniform(n_features=5, feature_probability=0.3, low=1.0),
        tms.OneHot(n_features=5),
    ]
    wide, hidden = {"d_hidden": 9}, {"d_hidden": 3, "hidden_act": "relu", "hidden_bias": True}
    outputs = [{"output_act": act} for act in ("identity", "gelu", "softmax")]
    o = task.d_out(5)
    for data, switches in product(each, ({}, wide, hidden, *outputs)):
        cfg = tms.ToyConfig(**{"n_features": 5, "d_hidden": 2, "tied": False, "d_out": o} | switches)
        rare = data.n_features == 5 and getattr(data, "feature_probability", 1) == 0.03
        more = {"empty_rows": "exact"} if rare else {"batch_size": None} if isinstance(data, tms.OneHot) else {}
        importance = tuple(0.5 + i for i in range(o))
        assert_same_step(make(cfg, data, task=task, importance=importance, **more))
    if o == 5:  # tied toys and heads
        assert_same_step(make(tms.ToyConfig(n_features=5, d_hidden=2), each[0], task=task))
        cfg, more = heads()
        assert_same_step(make(cfg, each[0], task=task, **more))


def squares(x):
    return x.square()


def product_and_sum(x):
    return torch.stack([x[..., 0] * x[..., 1], 1 + x.sum(-1)], -1)


GAUSSIAN = tms.SparseGaussian(n_features=5, feature_probability=0.03, mean=0.5)
COPULA = tms.Copula(n_features=5, feature_probability=0.3, rho=0.2)
GIVEN = {
    "rows that are not empty": {"data": GAUSSIAN, "empty_rows": "exact"},
    "correlated": {"data": COPULA, "batch_size": 2000},
    "targets": {"task": TaskFunction(squares)},
    "targets of an empty row": {
        "cfg": tms.ToyConfig(n_features=5, d_hidden=2, tied=False, d_out=2),
        "data": GAUSSIAN,
        "task": TaskFunction(product_and_sum),
        "importance": (1.0, 0.5),
        "empty_rows": "exact",
    },
    "targets of a data set": {"data": tms.OneHot(n_features=5), "task": TaskFunction(squares), "batch_size": None},
    "heads": {"cfg": heads()[0], "task": TaskFunction(squares), "batch_size": 700} | HEADS,
    "keys of heads": {"cfg": heads()[0], "data": COPULA} | HEADS | {"head_objective": "pattern"},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("settings", GIVEN.values(), ids=GIVEN)
def test_on_rows_and_targets_that_torch_makes_it_agrees_with_torch(settings, dtype):
    recipe = make(dtype=dtype, **settings)
    assert_same_step(recipe)
    x, weights = held_out(recipe)[:5000], start(recipe).weights
    both = (engine.evaluate(recipe, weights, x) for engine in (fused_engine, torch_engine))
    assert_close(*both, TOLERANCE[dtype])


@pytest.mark.parametrize("settings", GIVEN.values(), ids=GIVEN)
def test_rows_are_given_in_pieces_of_any_size(settings, monkeypatch):
    recipe, found = make(seeds=range(5), **settings), []
    for most in (1, 2**10, 2**18):
        monkeypatch.setattr(fused_engine, "MOST_GIVEN", most)
        state = start(recipe)
        found.append((state, fused_engine.advance(recipe, state, 2, 25)))
    alone = replace(recipe, seeds=recipe.seeds[3:4])
    found.append((state := start(alone), fused_engine.advance(alone, state, 2, 25)))
    for i, (state, measured) in zip((3, 3, 3, 0), found, strict=True):
        assert all(w[i].equal(found[0][0].weights[name][3]) for name, w in state.weights.items())
        assert all(m[i].equal(found[0][0].moments[name][3]) for name, m in state.moments.items())
        assert all(seen[i].equal(first[3]) for seen, first in zip(measured, found[0][1], strict=True))


@pytest.mark.parametrize("stages", [("joint",), ("representation", "heads"), ("heads", "joint", "representation")])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: type(optimizer).__name__)
def test_stages_follow_torch_with_every_optimizer(optimizer, stages):
    cfg, more = heads()
    steps = (20, 10, 15)[: len(stages)]
    recipe = make(cfg, optimizer=optimizer, stages=stages, steps=steps, **more)
    ours, theirs = start(recipe), start(recipe)
    marks = [*recipe.record_steps(), recipe.total_steps]
    for begin, end in pairwise(marks):
        got = fused_engine.advance(recipe, ours, begin, end)
        assert_close(got, torch_engine.advance(recipe, theirs, begin, end), 1e-9)
        assert ours.moments.keys() == theirs.moments.keys()
    assert_close((ours.weights, ours.moments), (theirs.weights, theirs.moments), 1e-9)


@pytest.mark.parametrize("data", [None, *PATTERNS[2:3]])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"head_bias": True, "init": "linear"},
        {"hidden_act": "gelu", "output_act": "softmax"},
        {"unit_norm": True, "hidden_bias": True},
    ],
)
def test_heads_alone_are_the_heads_in_a_crowd_to_the_bit(switches, dtype, data):
    cfg, more = heads(**switches)
    crowd = make(cfg, data, seeds=range(6), stages=("representation", "heads"), steps=(10, 20), dtype=dtype, **more)
    own = replace(crowd, seeds=(4,))
    together, alone = start(crowd), start(own)
    for begin, end in ((0, 10), (10, 30)):
        fused_engine.advance(crowd, together, begin, end)
    for begin, end in ((0, 5), (5, 10), (10, 25), (25, 30)):
        fused_engine.advance(own, alone, begin, end)
    for name, w in alone.weights.items():
        assert w[0].equal(together.weights[name][4])


def test_all_pairs_of_a_finite_data_set_agree_with_torch():
    cfg, more = heads()
    recipe = make(cfg, tms.KHot(n_features=5, k=2), batch_size=None, **more)
    assert_close(gradients(fused_engine, recipe), gradients(torch_engine, recipe), 1e-10)


@pytest.mark.parametrize(
    "data", [tms.OneHot(n_features=4), tms.KHot(n_features=4, k=2)], ids=lambda data: type(data).__name__
)
def test_full_batches_agree_with_torch(data):
    recipe = make(tms.ToyConfig(n_features=4, d_hidden=2), data, batch_size=None)
    assert_close(gradients(fused_engine, recipe), gradients(torch_engine, recipe), 1e-10)


@pytest.mark.parametrize("n_features", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("batch_size", [1, 2, 255, 256, 257, 1024])
def test_batches_of_every_shape_agree_with_torch(n_features, batch_size):
    recipe = make(
        tms.ToyConfig(n_features=n_features, d_hidden=2), batch_size=batch_size, importance=(1.0,) * n_features
    )
    got, wanted = (engine.advance(recipe, start(recipe), 2, 2) for engine in (fused_engine, torch_engine))
    assert_close(got, wanted, 1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: type(optimizer).__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_optimizer_and_schedule_follows_torch(optimizer, dtype):
    recipe = make(optimizer=optimizer, dtype=dtype)
    ours, theirs = start(recipe), start(recipe)
    for begin, end in ((0, 20), (20, 50)):
        fused_engine.advance(recipe, ours, begin, end)
        torch_engine.advance(recipe, theirs, begin, end)
    # Fifty steps carry the rounding of the batch sums along.
    assert_close((ours.weights, ours.moments), (theirs.weights, theirs.moments), 10 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [tms.Adam(), tms.AdamW(), tms.SGD(momentum=0.9), tms.RMSprop()])
def test_an_update_is_torch_s_to_the_last_bit(optimizer, dtype):
    kernels = pytest.importorskip("tms_hooks.fused.kernels.rules")
    generator = torch.Generator().manual_seed(0)
    w, g, first, second = (torch.randn(1000, generator=generator).to(getattr(torch, dtype)) for _ in range(4))
    second = second.square()
    wanted = optimizer.rule(w, g, first, second, *optimizer.scalars(41, optimizer.learning_rate(41, 100)))
    scalars = np.array(optimizer.scalars(41, optimizer.learning_rate(41, 100)), dtype)
    arrays = [t.numpy().copy() for t in (w, g, first, second)]
    assert called(kernels.update)(kernels.UPDATED.index(type(optimizer)), *arrays, scalars)
    for got, want in zip((arrays[0], arrays[2], arrays[3]), wanted, strict=True):
        # MKL, behind torch.sqrt, rounds some square roots the other way: a last bit of a step of size 0.01.
        eps = torch.finfo(w.dtype).eps
        torch.testing.assert_close(torch.from_numpy(got), want, rtol=eps, atol=0.01 * eps)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("probability", [0.01, (0.3, 0.001, 0.02, 0.1, 0.05)])
@pytest.mark.parametrize("output_act", ["identity", "relu", "gelu"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("d_hidden", [1, 2, 3, 4, 5, 6, 9, 14])
def test_with_empty_rows_in_closed_form_the_engines_agree_at_every_width(
    d_hidden, tied, output_act, probability, dtype
):
    cfg = tms.ToyConfig(n_features=5, d_hidden=d_hidden, tied=tied, output_act=output_act)
    data = tms.SparseUniform(n_features=5, feature_probability=probability)
    recipe = make(cfg, data, dtype=dtype, empty_rows="exact", batch_size=1500)
    got, wanted = (engine.advance(recipe, start(recipe), 7, 7) for engine in (fused_engine, torch_engine))
    assert_close(got, wanted, TOLERANCE[dtype])
    assert_close(gradients(fused_engine, recipe), gradients(torch_engine, recipe), TOLERANCE[dtype])


@pytest.mark.parametrize("probability", [0.3, 0.01, 0.002])  # of which entries are looked up none, many, few per row
@pytest.mark.parametrize("tied", [True, False])
def test_wide_toys_agree_with_torch(tied, probability):
    n, m = 1_027, 130  # more outputs than are worked on at once, and a last tile that reaches back
    assert n * m >= fused_engine.WIDE
    cfg = tms.ToyConfig(n, m, tied=tied)
    recipe = Recipe.of(cfg, tms.SparseUniform(n, probability), seeds=range(2), batch_size=300)
    got, wanted = (engine.advance(recipe, start(recipe), 7, 7) for engine in (fused_engine, torch_engine))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)  # sums of a thousand terms
    assert_close(gradients(fused_engine, recipe), gradients(torch_engine, recipe), TOLERANCE["float32"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"output_act": "softmax"},
        {"hidden_act": "gelu"},
        {"n_heads": 1, "d_head": 3},
        MLPS["behind"],
        MLPS["blocks"],
    ],
    ids=["plain", "softmax", "gelu", "heads", "behind an MLP", "MLPs"],
)
def test_toys_with_more_units_than_a_vector_agree_with_torch(more, tied, dtype):
    """Their batches are transposed, for gradients without a sum over lanes."""
    more = more | ({"d_mlp": 19} if "bottleneck" in more else {"unit_norm": not tied})
    cfg = tms.ToyConfig(19, 17, tied=tied, **more)
    other = {"importance": (1.0,) * 19} | ({"qk_pairs": (((0, 1), (2, 2)),)} if cfg.n_heads else {})
    for probability, rows in ((0.02, "drawn" if cfg.n_heads else "exact"), (0.3, "drawn")):
        data = tms.SparseUniform(19, probability)
        assert_same_step(make(cfg, data, seeds=(4,), empty_rows=rows, batch_size=700, dtype=dtype, **other))


def test_weights_put_in_the_place_of_those_of_a_state_are_what_is_trained():
    """What the engine packed for the last call is used again only if it is what the state has."""
    recipe, other = make(), {name: w.clone() for name, w in start(make(), scale=0.5).weights.items()}
    state, fresh = start(recipe), start(recipe)
    fused_engine.advance(recipe, state, 0, 5)
    fused_engine.advance(recipe, fresh, 0, 5)
    state.weights["W_E"] = other["W_E"]
    fresh.weights["W_E"].copy_(other["W_E"])
    fresh = State.of_tensors({name: tensor.clone() for name, tensor in fresh.tensors().items()})
    for each in (state, fresh):
        fused_engine.advance(recipe, each, 5, 9)
    assert all(w.equal(fresh.weights[name]) for name, w in state.weights.items())
    assert all(moment.equal(fresh.moments[name]) for name, moment in state.moments.items())


@pytest.mark.parametrize("empty_rows", ["drawn", "exact"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_alone_is_the_model_in_a_crowd_to_the_bit(dtype, empty_rows):
    import numba

    data = tms.SparseUniform(n_features=5, feature_probability=0.1)
    crowd = make(None, data, seeds=range(20), dtype=dtype, empty_rows=empty_rows)
    together = start(crowd)
    fused_engine.advance(crowd, together, 0, 30)
    threads = numba.get_num_threads()
    for index, workers in ((0, 1), (13, threads)):
        alone = replace(crowd, seeds=(index,))
        state = start(alone)
        numba.set_num_threads(workers)
        try:
            for begin in range(0, 30, 10):
                fused_engine.advance(alone, state, begin, begin + 10)
        finally:
            numba.set_num_threads(threads)
        for name, w in state.weights.items():
            assert w[0].equal(together.weights[name][index])


@pytest.mark.parametrize("broken", ["W_E", W_Q])
def test_divergence_stops_the_model_where_torch_stops_it_and_no_other(broken):
    cfg, more = heads() if broken == W_Q else (None, {})
    recipe = make(cfg, optimizer=tms.SGD(lr=0.01), seeds=range(3), **more)
    finals = []
    for engine in (fused_engine, torch_engine):
        state = start(recipe)
        state.weights[broken][1] *= 1e60
        engine.advance(recipe, state, 0, 50)
        finals.append(state)
        quiet = start(recipe)
        engine.advance(recipe, quiet, 0, 50)
        for name, w in state.weights.items():
            assert w.isfinite().all()
            assert w[[0, 2]].equal(quiet.weights[name][[0, 2]])
    ours, theirs = finals
    assert ours.diverged_at.equal(theirs.diverged_at)
    assert ours.diverged_at[1] >= 0
    assert_close(ours.moments, theirs.moments, 1e-10)


# Costs and penalties that torch computes, step by step


def bent(out, target):
    """Rounds by where in memory an entry stands, as vectors of exponentials do."""
    return torch.exp((out - target).abs()) - 1


def per_sample(out, target):
    return (1 + (out - target).square().sum(-1)).sqrt()


def leaky(x):
    return torch.nn.functional.silu(x)


def gram(weights):
    """A product, whose sums the alignment of its operands decides."""
    return 0.01 * (weights["W_E"] @ weights["W_E"].mT).square().sum() + weights["b_U"].exp().sum()


RARE = tms.SparseUniform(n_features=5, feature_probability=0.1)
TWO_OUTPUTS = HEADS | {"task": TaskFunction(lambda x: x[..., :2] * x[..., 2:4]), "importance": (1.0, 0.5)}
ONE, EACH = (losses.LossFunction(function) for function in (bent, per_sample))
WITH_TORCH = {
    "loss": ({}, {"loss": ONE, "data": RARE, "empty_rows": "exact"}),
    "loss per sample": ({"tied": False, "output_bias": False}, {"loss": EACH, "importance": (2.0,) * 5}),
    "power": ({"output_act": "identity"}, {"loss": losses.Lp(2.5), "data": RARE, "empty_rows": "exact"}),
    "activation": ({"output_act": leaky, "unit_norm": True}, {}),
    "loss of an activation": ({"output_act": leaky, "hidden_act": "gelu"}, {"loss": ONE, "batch_size": 700}),
    "gelu": ({"output_act": "gelu"}, {"loss": ONE}),
    "whole data set": ({"output_act": "softmax"}, {"loss": ONE, "data": tms.OneHot(5), "batch_size": None}),
    "given rows": ({}, {"loss": ONE, "penalty": gram, "data": tms.SparseGaussian(5, 0.3)}),
    "penalty": ({}, {"penalty": gram}),
    "lasso": ({"tied": False, "unit_norm": "read"}, {"penalty": tms.Lasso({"W_U": 0.1, "b_U": 0.2})}),
    "both": ({"tied": False, "hidden_bias": True}, {"penalty": gram, "loss": losses.Lp(1)}),
    "behind": ({"d_mlp": 7, **MLPS["behind"], "d_out": 2, "tied": False}, TWO_OUTPUTS | {"loss": ONE, "qk_pairs": ()}),
    "before": ({"d_mlp": 7, **MLPS["before"], "hidden_act": "gelu"}, {"loss": ONE, "penalty": tms.Lasso(0.01)}),
    "blocks": ({"d_mlp": 7, **MLPS["blocks"]}, {"loss": ONE, "penalty": gram, "data": RARE, "empty_rows": "exact"}),
    "heads": ({"n_heads": 2, "d_head": 3, "head_bias": True}, HEADS | {"loss": ONE, "penalty": gram}),
    "outputs beside heads": ({"n_heads": 2, "d_out": 2, "tied": False}, TWO_OUTPUTS),
    "outputs beside patterns": (
        {"n_heads": 2, "d_out": 2, "tied": False},
        TWO_OUTPUTS | {"loss": ONE, "head_objective": "pattern"},
    ),
}
SOME_STAGES = [(name, stage) for name in WITH_TORCH for stage in get_args(Stage)[: 3 if "heads" in name else 1]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "stage"), SOME_STAGES)
def test_costs_and_penalties_that_torch_computes_agree_with_torch(name, stage, dtype):
    switches, more = WITH_TORCH[name]
    recipe = make(tms.ToyConfig(5, 3, **switches), dtype=dtype, **more | {"stages": (stage,)})
    assert fused_engine.obstacle(recipe) is None
    assert_same_step(recipe)
    assert_same_step(replace(recipe, seeds=(4,)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", WITH_TORCH)
def test_what_torch_computes_is_the_same_in_a_crowd_and_in_pieces_to_the_bit(name, dtype, monkeypatch):
    switches, more = WITH_TORCH[name]
    crowd = make(tms.ToyConfig(5, 3, **switches), seeds=range(6), dtype=dtype, **more)
    together = start(crowd)
    fused_engine.advance(crowd, together, 0, 12)
    monkeypatch.setattr(fused_engine, "MOST_GIVEN", 9_000)  # a few models or steps at once
    for index, marks in ((4, (0, 1, 5, 12)), (1, (0, 12))):
        own, state = replace(crowd, seeds=(index,)), start(replace(crowd, seeds=(index,)))
        for begin, end in pairwise(marks):
            fused_engine.advance(own, state, begin, end)
        for kind in ("weights", "moments"):
            for name, w in getattr(state, kind).items():
                assert w[0].equal(getattr(together, kind)[name][index]), name


def test_a_penalty_per_model_is_that_of_the_model_alone():
    penalties = (None, gram, tms.Lasso(0.1))
    runs = [tms.train(tms.ToyConfig(5, 2), RARE, seeds=3, steps=7, penalty=penalties, engine="fused")]
    runs += [tms.train(tms.ToyConfig(5, 2), RARE, seeds=[i], steps=7, penalty=penalties[i]) for i in range(3)]
    for i, alone in enumerate(runs[1:]):
        assert alone.W_E[0].equal(runs[0].W_E[i])
        assert (alone.history.loss.values[:, 0] == runs[0].history.loss.values[:, i]).all()


def test_a_cost_that_overflows_stops_its_model_where_torch_stops_it():
    recipe = make(loss=ONE, optimizer=tms.SGD(lr=0.01), penalty=gram, dtype="float32")
    stopped = []
    for engine in (fused_engine, torch_engine):
        state = start(recipe)
        state.weights["b_U"][1] += 100  # whose exponential is infinite, and the weights behind it are not
        engine.advance(recipe, state, 0, 5)
        stopped.append(state.diverged_at.tolist())
    assert stopped == [[-1, 0, -1]] * 2


@pytest.mark.parametrize("with_heads", [False, True])
def test_held_out_losses_agree_with_torch(with_heads):
    cfg, more = heads() if with_heads else (None, {})
    recipe = make(cfg, dtype="float32", **more)
    x, weights = held_out(recipe), start(recipe).weights
    assert_close(fused_engine.evaluate(recipe, weights, x), torch_engine.evaluate(recipe, weights, x), 1e-6)


def test_an_optimizer_outside_the_table_is_an_obstacle_that_is_named():
    class Halved(tms.SGD):
        pass

    assert "updates by Halved" in fused_engine.obstacle(make(optimizer=Halved()))


@pytest.mark.parametrize(
    ("switches", "part"),
    [
        ({"d_mlp": 4, "n_heads": 1}, "d_mlp=4 with n_heads=1: it has MLPs, or heads"),
        ({"unit_norm": True, "scale": "after"}, "scale='after': its scale stands before the output bias"),
    ],
)
def test_a_part_that_is_not_compiled_is_an_obstacle_that_is_named(switches, part):
    cfg = tms.ToyConfig(n_features=5, d_hidden=2, **switches)
    recipe = make(cfg, qk_pairs=HEADS["qk_pairs"][: cfg.n_heads])
    assert fused_engine.obstacle(recipe) == part


def test_a_subclass_that_draws_in_another_way_does_not_inherit_the_loop():
    class Doubled(tms.KHot):
        def _draw(self, keys, batch):
            return 2 * super()._draw(keys, batch)

    class Renamed(tms.KHot):
        pass

    assert tms.KHot.loop() is Renamed.loop() is tms.KHot.fill
    assert Doubled.loop() is None


def test_auto_takes_the_fused_engine_where_it_applies_and_says_when_not(caplog):
    data = tms.SparseUniform(n_features=3, feature_probability=0.5)
    cfg = tms.ToyConfig(n_features=3, d_hidden=2)
    assert tms.train(cfg, data, steps=1).provenance["engine"] == "fused"
    with caplog.at_level(logging.INFO):
        run = tms.train(other := tms.ToyConfig(3, 2, hidden_act=torch.tanh), data, steps=1)
    assert run.provenance["engine"] == "torch"
    assert "hidden_act=tanh" in caplog.text
    with pytest.raises(ValueError, match=r"engine='fused' cannot run this: hidden_act=tanh.*engine='auto'"):
        tms.train(other, data, engine="fused")


def test_everything_works_on_torch_without_numba(run_python):
    code = """
import sys
sys.modules["numba"] = None
import tms_hooks as tms
run = tms.train(tms.ToyConfig(n_features=3, d_hidden=2), tms.OneHot(n_features=3), steps=2)
assert run.provenance["engine"] == "torch"
"""
    run_python(code)


TRAINS = """
import hashlib, tms_hooks as tms
from tms_hooks.fused.kernels import lanes
for n, m, p in ((6, 2, 0.3), (6, 2, 0.02), (6, 2, 0.9), (50, 9, 0.3)):
    data = tms.SparseUniform(n, p)
    run = tms.train(tms.ToyConfig(n, m), data, steps=20, batch_size=300, engine="fused")
    print(hashlib.sha256(run.W_E.numpy().tobytes() + run.weights["b_U"].numpy().tobytes()).hexdigest())
print(lanes.REGISTERS, lanes.PART)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="on other processors there is but one kind of registers")
def test_plain_toys_have_the_same_bits_whatever_the_registers(run_python, monkeypatch):
    own = run_python(TRAINS).splitlines()
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "")
    narrow = run_python(TRAINS).splitlines()
    assert narrow[-1] == "16 8"
    assert narrow[:-1] == own[:-1]


def test_what_is_compiled_is_said_once(run_python, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    script = """
import logging, sys
logging.basicConfig(stream=sys.stdout)
import tms_hooks as tms
for steps in (1, 2):
    tms.train(tms.ToyConfig(6, 2), tms.SparseUniform(6, 0.1), steps=steps)
"""
    assert run_python(script).count("compiling the training loop") == 1
    assert "compiling" not in run_python(script), "it is kept"


def test_numbas_threads_leave_torchs_as_they_were():
    """They start when numba is first asked for their number, so in a fresh process."""
    script = """
import torch
from tms_hooks.fused import engine
torch.set_num_threads(1)
print(engine._threads(), torch.get_num_threads())
"""
    env = os.environ | {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "1"], done.stderr


def test_numba_asked_after_a_training_leaves_torchs_threads_too():
    """A process whose torch has several threads hangs when it is forked and computes."""
    script = """
import numba, torch
import tms_hooks as tms
tms.train(tms.ToyConfig(3, 2), tms.SparseUniform(3, 0.5), steps=2, batch_size=8, engine="fused")
print(numba.get_num_threads(), torch.get_num_threads())
"""
    env = os.environ | {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "1"], done.stderr


@pytest.mark.parametrize(
    "more", [{}, {"n_heads": 1, "d_head": 2}, {"d_mlp": 3, "bottleneck": "residual"}], ids=["plain", "heads", "mlp"]
)
def test_a_room_hands_nothing_on_from_one_call_to_the_next(more):
    recipe = make(tms.ToyConfig(5, 2, **more), qk_pairs=(((0, 1),),) if "n_heads" in more else ())
    states = [start(recipe), start(recipe, scale=float("nan")), start(recipe)]
    for state in states:
        fused_engine.advance(recipe, state, 0, 5)
    fresh, ill, again = states
    assert (ill.diverged_at == 0).all(), "its room is full of what is not a number"
    assert all(again.weights[name].equal(w) for name, w in fresh.weights.items())
    ((plan,),) = fused_engine._PLANS[recipe].values()
    assert len(plan.rooms) == 1, "all three were in it"


def test_settings_of_one_size_share_a_room():
    """A call for a thousand settings would keep a thousand."""
    data = tuple(tms.SparseUniform(n_features=5, feature_probability=p) for p in (0.6, 0.7, 0.8))
    recipe = make(data=data, importance=(1.0,) * 5, empty_rows="drawn")
    fused_engine.advance(recipe, start(recipe), 0, 5)
    (plans,) = fused_engine._PLANS[recipe].values()
    assert len(plans) == 3
    assert len({id(room) for plan in plans for room in plan.rooms}) == 1


def test_models_apart_from_one_another_are_put_back_where_they_were():
    sparse, dense = (tms.SparseUniform(n_features=5, feature_probability=p) for p in (0.1, 0.6))
    crowd = make(data=(sparse, dense, sparse), importance=(1.0,) * 5, empty_rows="drawn")
    together = start(crowd)
    fused_engine.advance(crowd, together, 0, 20)
    for i in range(3):
        alone = start(crowd.alone(i))
        fused_engine.advance(crowd.alone(i), alone, 0, 20)
        for kept, own in ((together.weights, alone.weights), (together.moments, alone.moments)):
            assert all(w[0].equal(kept[name][i]) for name, w in own.items())


def test_no_recipe_is_kept_once_its_run_is_gone():
    """Its data may be large."""
    recipe = make(steps=(77,))
    state = start(recipe)
    fused_engine.advance(recipe, state, 0, 3)
    plans, gone = len(fused_engine._PLANS), weakref.ref(recipe)
    assert plans > 0
    del recipe
    gc.collect()
    assert gone() is None
    assert len(fused_engine._PLANS) < plans
