"""Settings per model, decay and pull, penalties, the exact loss: each model is what it is alone, updates by hand."""

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import tms_hooks as tms
from tms_hooks import errors, landscape, plots
from tms_hooks.fused import engine as fused_engine
from tms_hooks.training.penalties import Lasso
from tms_hooks.training.recipe import Recipe

CFG = tms.ToyConfig(n_features=4, d_hidden=2)
SPARSE = [tms.SparseUniform(n_features=4, feature_probability=p) for p in (0.9, 0.01, 0.3, 0.01)]
MIXED = [SPARSE[1], tms.KHot(n_features=4, k=2, values="uniform"), tms.OneHot(n_features=4), SPARSE[0], SPARSE[1]]
ADAM, SGD = tms.Adam(lr=0.01), tms.SGD(lr=0.1, momentum=0.5)
OPTIMIZERS = [ADAM, tms.AdamW(lr=0.02, pull=0.3), SGD, tms.RMSprop(), ADAM]
IMPORTANCE = [[1.0, 0.5, 0.2, 0.1], [1.0] * 4, [1.0] * 4, [0.0, 1.0, 2.0, 3.0], [1.0, 0.5, 0.2, 0.1]]
ENGINES = ("torch", "fused")


def train(data=SPARSE[2], cfg=CFG, **settings):
    return tms.train(cfg, data, **{"seeds": (3,), "steps": 20, "record_every": 7, "progress": False} | settings)


def assert_each_is_alone(run, **settings):
    """Every model of a run, against a run of its own."""
    for i, seed in enumerate(run.recipe.seeds):
        alone = run.recipe.alone(i)
        own = {name: getattr(alone, name) for name in run.recipe.varying if name not in ("data", "empty_rows")}
        lone = train(alone.data, run.recipe.cfg, seeds=[seed], **settings | own)
        assert lone.recipe == alone
        assert all(torch.equal(w[0], run.weights[name][i]) for name, w in lone.weights.items()), i
        assert lone.history.isel(model=0).equals(run.history.isel(model=i)), i
        for name in ("final_loss", "final_feature_loss", "final_head_loss"):
            assert torch.equal(getattr(lone, name)[0], getattr(run, name)[i]), (name, i)


@pytest.mark.parametrize("engine", ENGINES)
def test_models_of_any_settings_are_what_they_are_alone(engine):
    how = {"engine": engine}
    run = train(MIXED, seeds=(3, 3, 8, 0, 5), optimizer=OPTIMIZERS, importance=np.array(IMPORTANCE), **how)
    assert run.recipe.empty_rows == ("exact", "drawn", "drawn", "drawn", "exact")  # each as it is alone
    assert len(run.recipe.parts) == 4
    assert_each_is_alone(run, **how)


@pytest.mark.parametrize("engine", ENGINES)
def test_heads_with_a_weight_each_are_what_they_are_alone(engine):
    cfg = tms.ToyConfig(n_features=4, d_hidden=2, n_heads=1)
    how = {"engine": engine, "qk_pairs": [(0, 1)], "batch_size": 40}
    run = train(SPARSE[2], cfg, seeds=(1, 2, 1), qk_weight=torch.tensor([1.0, 0.0, 5.0], dtype=torch.float64), **how)
    assert run.recipe.differences == {"qk_weight": [1.0, 0.0, 5.0]}
    assert_each_is_alone(run, **how)


def test_threads_share_out_models_of_all_settings_and_change_nothing(monkeypatch):
    how = {"seeds": range(5), "optimizer": OPTIMIZERS, "engine": "fused"}
    one = train(MIXED, **how)
    monkeypatch.setattr(fused_engine, "WORTH_THREADS", 0)
    monkeypatch.setattr(fused_engine.numba, "get_num_threads", lambda: 2)
    two = train(MIXED, **how)
    assert torch.equal(one.W_E, two.W_E)
    assert one.history.equals(two.history)


def test_the_engines_agree_on_settings_per_model():
    how = {"seeds": range(5), "optimizer": OPTIMIZERS, "importance": IMPORTANCE, "dtype": "float64"}
    torch_run, fused_run = (train(MIXED, engine=engine, **how) for engine in ENGINES)
    assert_close(torch_run.W_E, fused_run.W_E, rtol=0, atol=1e-10)


def test_what_is_the_same_for_all_is_no_setting_per_model():
    per_model = train([SPARSE[0]] * 2, seeds=range(2), optimizer=[tms.Adam()] * 2, importance=[[1.0] * 4] * 2)
    shared = train(SPARSE[0], seeds=range(2))
    assert per_model.recipe == shared.recipe
    assert shared.recipe.varying == []
    assert shared.recipe.alone(1, 0).seeds == (1, 0)


def test_settings_per_model_are_saved_and_go_on_from_checkpoints(tmp_path):
    how = {"seeds": (0, 0, 1, 2, 2), "optimizer": OPTIMIZERS, "importance": IMPORTANCE}
    penalty = [None, Lasso(0.1), Lasso({"W_E": 0.2}), None, None]
    whole = train(MIXED, penalty=penalty, **how)
    assert Recipe.from_dict(json.loads(json.dumps(whole.recipe.to_dict()))) == whole.recipe
    again = tms.load(whole.save(tmp_path / "run"))
    assert again.recipe == whole.recipe
    assert torch.equal(again.final_loss, whole.final_loss)
    how |= {"penalty": penalty, "checkpoint": tmp_path / "checkpoints", "checkpoint_every": 0.0}
    train(MIXED, **how)
    newest = max((tmp_path / "checkpoints").glob("*.json"))
    newest.unlink()  # as if stopped before the last record
    resumed = train(MIXED, **how)
    assert torch.equal(resumed.W_E, whole.W_E)
    with pytest.raises(ValueError, match="checkpoints of another run: importance="):
        train(MIXED, **how | {"importance": IMPORTANCE[::-1]})


def test_one_model_may_diverge_among_those_that_share_its_seed():
    run = train(seeds=(0, 0, 0), optimizer=[tms.SGD(lr=0.1), tms.SGD(lr=1e30), tms.SGD(lr=0.2)])
    assert list(run.diverged) == [1]
    assert run.table.diverged_at.tolist() == [-1, run.diverged[1], -1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": SPARSE}, r"data: 4 for 1 model, whose seeds are \(3,\): .*seeds=range\(4\), or seeds=\[3\] \* 4"),
        ({"data": SPARSE, "seeds": range(9)}, r"data: 4 for 9 models, whose seeds are \(0, 1, ..., 8\)"),
        ({"importance": IMPORTANCE, "seeds": range(2)}, "importance rows: 5 for 2 models"),
        ({"importance": [[1.0] * 3] * 2, "seeds": range(2)}, "importance has 3 entries for 4 features"),
        ({"optimizer": OPTIMIZERS, "seeds": range(2)}, "optimizer: 5 for 2 models"),
        ({"data": [SPARSE[0], tms.OneHot(n_features=5)], "seeds": range(2)}, "data has n_features=5, the model 4"),
        ({"qk_weight": [1.0, 2.0]}, "qk_weight: 2 for 1 model"),
        ({"qk_weight": [1.0, -2.0], "seeds": range(2)}, "qk_weight=-2.0: must be finite and not negative"),
        ({"penalty": Lasso}, r"penalty=<class .*give an object such as Lasso\(0.01\), or a function of weights"),
        ({"penalty": lambda weights: weights["W_E"]}, r"gave a tensor of shape \(4, 2\): it must give one number"),
        ({"penalty": lambda weights: 1.0}, "gave 1.0: it must give one number as a tensor"),
        ({"penalty": lambda weights: weights["W_E"].sum() / 0 * 0}, "gave NaN for finite weights"),
        ({"penalty": Lasso({"W_e": 1.0})}, "strength={'W_e': 1.0}: this model has no 'W_e' .*did you mean 'W_E'"),
        ({"optimizer": tms.Adam(decay={"W_U": 1.0})}, "decay={'W_U': 1.0}: this model has no 'W_U'"),
        ({"optimizer": tms.Adam(pull={"b_U": 1.0})}, "pull={'b_U': 1.0}: this model has no 'b_U' that it could act on"),
        ({"batch_size": "exact", "engine": "fused"}, "cannot run this: batch_size='exact': it draws its batches"),
        ({"batch_size": "exact", "loss": "cross_entropy"}, "cross_entropy' with output_act='relu'"),
        ({"batch_size": "exact", "cfg": tms.ToyConfig(n_features=4, d_hidden=2, output_act="gelu")}, "need a linear"),
        ({"batch_size": "exact", "device": "cuda"}, "device='cuda' with batch_size='exact': .*use device='cpu'"),
    ],
)
def test_settings_that_fit_no_run_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        train(**settings)


def test_a_recipe_of_several_settings_has_none_of_its_own():
    recipe = train(SPARSE, seeds=[0] * 4, steps=1).recipe
    with pytest.raises(
        ValueError, match=r"data and empty_rows of these 4 models differ: .*`recipe.alone\(i\).setting`"
    ):
        _ = recipe.setting
    assert recipe.alone(1).setting.data == SPARSE[1]


# Decay and pull, where no loss moves anything: importance 0, one step of SGD at rate 0.1


def step(weights, cfg=CFG, engine="torch", **optimizer):
    """Weights after the step."""
    how = {"importance": 0.0, "init": [weights], "steps": 1, "dtype": "float64", "engine": engine}
    return {name: w[0] for name, w in train(cfg=cfg, optimizer=tms.SGD(lr=0.1, **optimizer), **how).weights.items()}


@pytest.mark.parametrize("engine", ENGINES)
def test_decay_and_pull_by_hand(engine):
    W = torch.tensor([[3.0, 4.0], [0.6, 0.8], [0.0, -0.5], [0.0, 0.0]], dtype=torch.float64)
    weights = {"W_E": W, "b_U": torch.tensor([1.0, 2.0, -1.0, 0.0], dtype=torch.float64)}
    after = step(weights, decay=2.0, engine=engine)
    assert_close(after, {"W_E": 0.8 * W, "b_U": weights["b_U"]})
    after = step(weights, decay={"W_E": 1.0, "b_U": 5.0}, engine=engine)
    assert_close(after, {"W_E": 0.9 * W, "b_U": 0.5 * weights["b_U"]})
    # 1 - 0.1 * 2 (1 - 1 / norm): norm 5 loses 0.16 of itself, norm 1 nothing, norm 1/2 gains 0.2, norm 0 stays
    wanted = W * torch.tensor([[0.84], [1.0], [1.2], [1.0]], dtype=torch.float64)
    assert_close(step(weights, pull=2.0, engine=engine), weights | {"W_E": wanted})
    assert_close(step(weights, pull=2.0, decay=1.0, engine=engine)["W_E"], wanted - 0.1 * W)


@pytest.mark.parametrize("engine", ENGINES)
def test_directions_of_an_untied_unembed_are_its_columns(engine):
    cfg = tms.ToyConfig(n_features=4, d_hidden=2, tied=False)
    W_U = torch.tensor([[3.0, 0.6, 0.0, 0.0], [4.0, 0.8, -0.5, 0.0]], dtype=torch.float64)
    weights = {"W_E": W_U.mT.contiguous(), "W_U": W_U, "b_U": torch.ones(4, dtype=torch.float64)}
    after = step(weights, cfg, pull={"W_U": 2.0}, engine=engine)
    assert_close(after, weights | {"W_U": W_U * torch.tensor([0.84, 1.0, 1.2, 1.0], dtype=torch.float64)})


@pytest.mark.parametrize("stage", ["joint", "representation", "heads"])
def test_only_what_a_stage_trains_decays_and_both_engines_agree(stage):
    cfg = tms.ToyConfig(n_features=4, d_hidden=3, n_heads=2, d_head=2, tied=False, hidden_bias=True, unit_norm="read")
    decay = {"W_Q": 3.0, "blocks.0.attn.W_K": 1.0, "W_E": 2.0, "b_hidden": 1.0, "scale": 0.5}
    how = {"cfg": cfg, "qk_pairs": [(0, 1)], "stages": (stage,), "dtype": "float64", "steps": 1, "importance": 0.0}
    how |= {"qk_weight": 0.0, "optimizer": tms.SGD(lr=0.1, decay=decay, pull={"W_E": 1.0})}
    first, second = (train(engine=engine, **how) for engine in ENGINES)
    assert_close(first.weights, second.weights, rtol=0, atol=1e-12)
    before = train(engine="torch", **how | {"optimizer": tms.SGD(lr=0.1)}).weights
    moved = {name.rpartition(".")[2] for name, w in first.weights.items() if not torch.equal(w, before[name])}
    assert (
        moved
        == {"joint": {"W_E", "W_Q", "W_K", "scale"}, "representation": {"W_E", "scale"}, "heads": {"W_Q", "W_K"}}[stage]
    )


def test_a_pull_brings_norms_to_one():
    norms = {pull: train(steps=300, optimizer=tms.Adam(lr=0.01, pull=pull)).W_E.norm(dim=-1) for pull in (0.0, 100.0)}
    assert (norms[100.0] - 1).abs().max() < 0.02 < (norms[0.0] - 1).abs().max()


# Penalties and the exact loss


def ridge(weights):
    """A penalty of one's own."""
    return 0.5 * weights["W_E"].square().sum()


def test_a_penalty_is_descended_by_hand_and_saved_by_its_name(tmp_path):
    W = torch.tensor([[3.0, -4.0], [0.5, 0.0], [1.0, 1.0], [-2.0, 0.1]], dtype=torch.float64)
    weights = {"W_E": W, "b_U": torch.tensor([1.0, 2.0, -1.0, 0.0], dtype=torch.float64)}
    how = {"importance": 0.0, "init": [weights] * 4, "seeds": range(4), "steps": 1, "dtype": "float64"}
    penalty = [None, Lasso(0.3), Lasso({"b_U": 1.0}), ridge]
    run = train(optimizer=tms.SGD(lr=0.1), penalty=penalty, **how)
    assert_close(run.W_E, torch.stack([W, W - 0.03 * W.sign(), W, 0.9 * W]))
    assert_close(run.weights["b_U"][2], weights["b_U"] - 0.1 * weights["b_U"].sign())
    assert run.table.strength.fillna(0).tolist() == [0, 0.3, {"b_U": 1.0}, 0]
    assert run.table.penalty.tolist()[1:] == ["Lasso", "Lasso", "ridge"]
    assert (run.final_loss == 0).all()  # losses are those of the data
    with pytest.raises(LookupError, match="ridge"):
        tms.load(run.save(tmp_path / "run"))
    assert tms.load(tmp_path / "run", using=[ridge]).recipe == run.recipe


def test_models_with_a_penalty_are_what_they_are_alone():
    penalty, how = [None, ridge, Lasso(0.1), ridge], {"engine": "torch"}  # alone, None would be compiled
    assert_each_is_alone(train(SPARSE, seeds=(0, 1, 1, 0), penalty=penalty, **how), **how)


def test_the_exact_loss_adds_a_penalty():
    weights = {"W_E": torch.ones(4, 2, dtype=torch.float64), "b_U": torch.zeros(4, dtype=torch.float64)}
    plain, more = (landscape.exact_loss(weights, CFG, SPARSE[0], penalty=given) for given in (None, ridge))
    assert_close(more - plain, torch.tensor(4.0, dtype=torch.float64))


def test_the_exact_loss_is_descended_without_noise():
    cfg, how = tms.ToyConfig(n_features=3, d_hidden=2), {"batch_size": "exact", "steps": 6, "record_every": 1}
    data = [tms.SparseUniform(n_features=3, feature_probability=p) for p in (0.1, 0.5)]
    data.append(tms.OneHot(n_features=3))
    start = [tms.ToyModel(cfg, seed=0)] * 3
    run = train(data, cfg, seeds=(0, 1, 2), init=start, optimizer=tms.SGD(lr=0.05), **how)
    assert (np.diff(run.history.loss.sum("feature").values, axis=0) < 0).all()
    for i, record in ((0, 0), (1, 3), (2, 6)):
        at = run.history.isel(model=i, step=record)
        weights = {"W_E": torch.tensor(at.W_E.values), "b_U": torch.zeros(3)} if not record else None
        if weights:
            assert_close(float(at.loss.sum()), float(landscape.exact_loss(weights, cfg, data[i])), rtol=1e-5, atol=0)
    wanted = [landscape.exact_loss({n: w[i].double() for n, w in run.weights.items()}, cfg, data[i]) for i in range(3)]
    assert_close(run.final_loss.double(), torch.stack(wanted), rtol=1e-5, atol=0)
    other = train(data[1], cfg, seeds=(9,), init=start[:1], optimizer=tms.SGD(lr=0.05), **how)
    assert torch.equal(other.W_E[0], run.W_E[1])  # nothing is drawn: the seed does not matter
    whole = train(
        data[2], cfg, init=start[:1], optimizer=tms.SGD(lr=0.05), **how | {"batch_size": None, "engine": "torch"}
    )
    assert_close(whole.W_E[0], run.W_E[2])  # a finite data set is its own expectation


# What is shown of them


def test_the_table_says_what_differs_and_the_figure_is_labelled_with_it():
    probabilities = [0.9, 0.5, 0.3, 0.1, 0.05, 0.02]
    data = [tms.SparseUniform(n_features=4, feature_probability=p) for p in probabilities]
    run = train(data, seeds=[3] * 6, steps=2, optimizer=[tms.Adam(lr=0.1)] * 5 + [tms.SGD(lr=0.1)])
    table = run.table
    assert table.seed.tolist() == [3] * 6
    assert table.feature_probability.tolist() == probabilities
    assert table.optimizer.tolist() == ["Adam"] * 5 + ["SGD"]
    assert "lr" not in table
    assert "empty_rows" not in table
    assert_close(torch.tensor(table.final_loss.tolist()), run.final_loss)
    assert table.represented.tolist() == tms.geometry.represented(run.W_E).sum(-1).tolist()
    assert table.polytope[2] == tms.geometry.name_polytope(run.W_E[2])
    assert list(train(seeds=(4, 5), steps=1).table)[:2] == ["seed", "final_loss"]
    assert plots.feature_arrows(run.W_E, run.labels) == plots.feature_arrows(run)
    figure = plots.feature_arrows(run)
    titles = [a.text for a in figure.layout.annotations]
    assert run.labels[5].startswith("feature_probability=0.02, optimizer=SGD")
    assert titles[5].startswith("feature_probability<br>= 0.02<br>optimizer=SGD")  # what a narrow panel has room for
    last = [trace for trace in figure.data if trace.xaxis == "x6" and trace.name]
    np.testing.assert_allclose([(t.x[1], t.y[1]) for t in last], run.W_E[5])
    assert figure.layout.xaxis6.domain == figure.layout.xaxis2.domain  # four in a row, then the next row
    assert figure.layout.yaxis6.domain[1] < figure.layout.yaxis.domain[0]


def test_labels_are_short_and_say_nothing_of_fields_that_a_model_does_not_have():
    two = {"seeds": 2, "steps": 1}
    groups, sparse = tms.CorrelatedGroups(4, 0.1, group_size=2), tms.SparseUniform(4, 0.1)
    assert train([groups, sparse], **two).labels == [
        "data=CorrelatedGroups, group_size=2",
        "data=SparseUniform, low=0, high=1",
    ]
    assert train([torch.rand(9, 4), torch.rand(8, 4)], **two).labels == ["rows=9 x 4", "rows=8 x 4"]
    assert train(sparse, importance=[[1.0, 0.9, 0.8, 0.7], [1.0] * 4], **two).labels == [
        "importance=(1, 0.9, 0.8, 0.7)",
        "importance=(1, 1, 1, 1)",
    ]
    wide = [tms.SparseUniform(6, [0.1, 0.2, 0.3, 0.4, 0.5, p]) for p in (0.6, 0.7)]
    assert train(wide, cfg=tms.ToyConfig(6, 2), **two).labels[1] == "feature_probability=(0.1, 0.2, ..., 0.7)"
    penalized = train(sparse, penalty=[None, tms.Lasso(0.1)], **two)
    assert penalized.labels == ["penalty=None", "penalty=Lasso, strength=0.1"]
    decayed = train(sparse, optimizer=[tms.Adam(decay={"W_E": 1.0}), tms.Adam(decay=0.5)], **two)
    assert decayed.labels == ["decay=W_E: 1", "decay=0.5"]
    assert decayed.table.decay.tolist() == [{"W_E": 1.0}, 0.5]


def test_the_table_of_a_run_gives_no_hint_about_rows_and_columns(caplog):
    wide = train(tms.SparseUniform(4, 0.1), cfg=tms.ToyConfig(4, 8), steps=1)
    errors.say_once.cache_clear()
    caplog.clear()  # training may have said that it compiles
    with caplog.at_level("WARNING"):
        assert len(wide.table) == 1
        assert not caplog.messages
        tms.geometry.name_polytope(wide.W_E[0])
    assert "a row each" in caplog.text


def test_the_card_of_a_run_whose_models_differ_shows_one_of_them():
    run = train([tms.SparseUniform(4, p) for p in (0.1, 0.2)], seeds=2, steps=1)
    assert "feature_probability=0.1, low=0.0, high=1.0), ..., one per model" in run._repr_html_()


@pytest.mark.parametrize(
    ("W", "titles", "message"),
    [
        (np.zeros((2, 4, 3)), ["a", "b"], "directions in 3 dimensions: arrows are drawn in 2; `polyhedra` draws 3"),
        (np.zeros((2, 4, 2)), ["a"], r"titles=\['a'\] for 2 models: give a list of one per model"),
        (np.zeros((99, 4, 2)), ["a"] * 99, "99 models: a figure shows 1 to 40; give some of them, such as"),
    ],
)
def test_arrows_that_no_figure_can_show_are_refused(W, titles, message):
    with pytest.raises(ValueError, match=message):
        plots.feature_arrows(W, titles)
