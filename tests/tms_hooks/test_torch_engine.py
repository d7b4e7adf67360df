"""The reference engine: the same bits alone and in a crowd, true gradients, stages, divergence."""

import dataclasses
from copy import deepcopy

import pytest
import torch
from torch.testing import assert_close

import tms_hooks as tms
from tms_hooks.training import batches, torch_engine
from tms_hooks.training.recipe import Recipe
from tms_hooks.training.state import State

SPARSE = tms.SparseUniform(n_features=5, feature_probability=0.4)


class Halves(tms.Task):
    """Two outputs: the sum of the first two features, and that of the rest."""

    def d_out(self, n_features):
        return 2

    def target(self, x):
        return torch.stack([x[..., :2].sum(-1), x[..., 2:].sum(-1)], -1)


def recipe(seeds=range(3), data=SPARSE, **changes):
    names = {field.name for field in dataclasses.fields(Recipe)}
    cfg = {"n_features": data.n_features, "d_hidden": 2} | {k: v for k, v in changes.items() if k not in names}
    cfg = tms.ToyConfig(**cfg)
    given = {name: value for name, value in changes.items() if name in names}
    defaults = {
        "batch_size": None if data.dataset() is not None else 32,
        "qk_pairs": (((0, 1),),) * cfg.n_heads,
        "optimizer": tms.Adam(lr=0.02),
        "empty_rows": "drawn",
        "steps": (10,),
    }
    return Recipe.of(cfg, data, seeds=seeds, **defaults | given)


def train(recipe, start=0, stop=None):
    state = State.initial(recipe, None, "cpu")
    measured = torch_engine.advance(recipe, state, start, stop or recipe.total_steps)
    return state, measured


WEIGHED = {(0, 1): 1.0, (4, 3): 2.0, (1, 0): 0.3}
GRID = {
    "relu": {},
    "identity": {"output_act": "identity"},
    "gelu": {"output_act": "gelu"},
    "softmax": {"output_act": "softmax", "loss": "cross_entropy", "data": tms.OneHot(n_features=5)},
    "hidden": {"hidden_act": "relu", "hidden_bias": True, "tied": False},
    "finite": {"data": tms.OneHot(n_features=5), "output_bias": False},
    "two active": {"data": tms.KHot(n_features=5, k=2, values="uniform"), "optimizer": tms.RMSprop(lr=0.01)},
    "copula": {"data": tms.Copula(n_features=5, feature_probability=0.3, rho=0.2), "optimizer": tms.AdamW()},
    "unit norm": {"unit_norm": True, "optimizer": tms.SGD(lr=0.1, momentum=0.9)},
    "heads": {"n_heads": 2, "d_head": 1},
    "heads, softmax": {
        "n_heads": 2,
        "d_head": 1,
        "head_objective": "pattern",
        "qk_pairs": (((0, 1),), ((2, 3), (3, 0))),
    },
    "heads, biases and weights": {"n_heads": 2, "head_bias": True, "init": "linear", "qk_pairs": WEIGHED},
    "heads, softmax and weights": {
        "n_heads": 2,
        "head_bias": True,
        "init": "linear",
        "head_objective": "pattern",
        "qk_pairs": [WEIGHED, {(2, 3): 0.25}],
    },
    "heads, finite": {"n_heads": 1, "data": tms.OneHot(n_features=5)},
    "mlp in": {"d_mlp": 7},
    "mlp out": {"d_mlp": 7, "bottleneck": "mlp.out->unembed", "tied": False},
    "residual": {"d_mlp": 7, "n_mlps": 2, "bottleneck": "residual", "hidden_act": "gelu"},
    "residual, heads": {"d_mlp": 7, "bottleneck": "residual", "n_heads": 1, "init": "normal", "init_std": 0.3},
    "scale": {"unit_norm": True, "scale": "after"},
    "outputs": {"d_out": 2, "tied": False, "task": Halves()},
    "float64": {"dtype": "float64", "tied": False},
    "importance": {"importance": (1.0, 0.5, 0.25, 0.1, 0.0)},
    "wide": {"data": tms.SparseUniform(n_features=33, feature_probability=0.1), "d_hidden": 9},
}


@pytest.mark.parametrize("settings", GRID.values(), ids=GRID)
def test_a_model_has_the_same_bits_alone_and_in_any_crowd(settings):
    """Weights, moments and measurements of the model with seed 4, alone, in a pair and among nine."""
    alone, seen_alone = train(recipe([4], **settings))
    for seeds in ([4, 0], [0, 4], [7, 5, 4], range(9)):
        crowd, seen = train(recipe(seeds, **settings))
        i = list(seeds).index(4)
        for name, w in alone.weights.items():
            assert torch.equal(w[0], crowd.weights[name][i]), (name, seeds)
        for name, m in alone.moments.items():
            assert torch.equal(m[0], crowd.moments[name][i]), (name, seeds)
        for mine, theirs in zip(seen_alone, seen, strict=True):
            assert torch.equal(mine[0], theirs[i]), seeds


def test_bits_hold_when_torch_multiplied_before_the_import(run_python):
    """MKL fixes its mode at its first product, before `tms_hooks` could ask for another: it must not need to."""
    script = """
import torch
torch.ones(3, 100, 50) @ torch.ones(3, 50, 100)
import tms_hooks as tms
cfg = tms.ToyConfig(n_features=33, d_hidden=9)
data = tms.SparseUniform(n_features=33, feature_probability=0.1)
train = lambda seeds: tms.train(cfg, data, seeds=seeds, steps=10, batch_size=77, engine="torch").W_E
alone = train([4])[0]
print([torch.equal(train(seeds)[i], alone) for seeds, i in (([4, 0], 0), ([7, 5, 4], 2), (range(9), 4))])
"""
    assert run_python(script) == "[True, True, True]\n"


def test_advancing_in_pieces_equals_advancing_at_once():
    at_once, _ = train(recipe())
    pieces = State.initial(recipe(), None, "cpu")
    for start, stop in [(0, 1), (1, 7), (7, 10)]:
        torch_engine.advance(recipe(), pieces, start, stop)
    assert all(torch.equal(pieces.weights[name], w) for name, w in at_once.weights.items())


def test_advance_leaves_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(recipe())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def weighed(pairs):
    """((query feature, key feature), weight) of each pair."""
    return [(pair[:2], pair[2] if pair[2:] else 1.0) for pair in pairs]


def plain_loss(plan, weights, x):
    """The loss of one model, written out: a ToyModel, its output, the definition."""
    model = tms.ToyModel.from_weights(plan.cfg, weights)
    loss = torch.zeros((), dtype=x.dtype)
    out = model(x)
    scores = out.attn_scores if plan.cfg.n_heads else None
    out = out.reconstruction if plan.cfg.n_heads else out
    target = plan.task.target(x)
    for i in range(plan.cfg.n_outputs):
        if plan.loss == "mse":
            loss = loss + plan.importance[i] * ((target[..., i] - out[..., i]) ** 2).mean()
        else:
            loss = loss - plan.importance[i] * (target[..., i] * out[..., i].log()).mean()
    for head in range(plan.cfg.n_heads):
        if plan.head_objective == "pattern":
            active, keys = x > 0, x.shape[1] - 1
            count = sum(
                weight * active[:, 0, i, None] * active[:, 1:, j].to(x.dtype)
                for (i, j), weight in weighed(plan.qk_pairs[head])
            )
            target = (count / count.sum(1, keepdim=True)).nan_to_num(1 / keys)
            loss = loss - plan.qk_weight * (target * scores[:, head, 0, 1:].softmax(-1).log()).sum(1).mean()
            continue
        asked = torch.zeros(len(x), dtype=x.dtype)
        for (i, j), weight in weighed(plan.qk_pairs[head]):
            asked = asked + weight * ((x[:, 0, i] > 0) & (x[:, 1, j] > 0))
        loss = loss + plan.qk_weight * ((scores[:, head, 0, 1] - asked) ** 2).mean()
    return loss


SLOW = ("wide", "residual, heads", "heads, softmax and weights")
GRADIENT_GRID = {name: settings for name, settings in GRID.items() if name not in SLOW}


@pytest.mark.parametrize("settings", GRADIENT_GRID.values(), ids=GRADIENT_GRID)
def test_losses_are_the_definition_and_gradients_its_finite_differences(settings):
    """Central differences of an independently written loss, float64, h = 1e-6: error about h^2 + eps / h = 1e-10."""
    plan = recipe(**settings | {"dtype": "float64", "qk_weight": 0.3})
    state = State.initial(plan, None, "cpu")
    for name, w in state.weights.items():  # biases start at 0, where ReLU units of inactive features sit on their kink
        if name.startswith("b_"):
            w += torch.linspace(0.05, 0.2, w[0].numel(), dtype=w.dtype).view_as(w[0])
    x = batches.batch(plan, plan.seeds, 3)
    parts, _, gradients = torch_engine._gradients(plan, state.weights, 3, "joint", x, None)
    for model in range(2):
        weights = {name: w[model].clone() for name, w in state.weights.items()}
        total = torch_engine.objective(plan, parts)[model]
        with torch.no_grad():
            assert_close(plain_loss(plan, weights, x[model]), total)
            for name, gradient in gradients.items():
                flat = weights[name].view(-1)
                for entry in range(0, flat.numel(), max(1, flat.numel() // 4)):
                    value = float(flat[entry])
                    losses = []
                    for h in (1e-6, -1e-6):
                        flat[entry] = value + h
                        losses.append(plain_loss(plan, weights, x[model]))
                    flat[entry] = value
                    difference = (losses[0] - losses[1]) / 2e-6
                    assert_close(gradient[model].flatten()[entry], difference, rtol=1e-6, atol=1e-8)


def gradients_at_0(plan, state):
    return torch_engine._gradients(plan, state.weights, 0, "joint", batches.batch(plan, plan.seeds, 0), None)


def test_grad_norm_is_of_the_features_own_directions():
    plan = recipe(tied=False, dtype="float64")
    state = State.initial(plan, None, "cpu")
    measured = torch_engine.advance(plan, deepcopy(state), 0, 0)
    *_, gradients = gradients_at_0(plan, state)
    by_hand = (gradients["W_E"].square().sum(-1) + gradients["W_U"].square().sum(-2)).sqrt()
    assert_close(measured.grad_norm, by_hand)
    tied = recipe(dtype="float64")
    state = State.initial(tied, None, "cpu")
    *_, gradients = gradients_at_0(tied, state)
    assert_close(torch_engine.advance(tied, state, 0, 0).grad_norm, gradients["W_E"].norm(dim=-1))


def test_measuring_changes_nothing():
    plan = recipe()
    state = State.initial(plan, None, "cpu")
    before = deepcopy(state)
    torch_engine.advance(plan, state, 4, 4)
    assert all(torch.equal(state.weights[name], w) for name, w in before.weights.items())


# Stages


@pytest.mark.parametrize(
    ("stage", "frozen"),
    [("representation", {"blocks.0.attn.W_Q", "blocks.0.attn.W_K"}), ("heads", {"W_E", "b_U"}), ("joint", set())],
)
def test_a_stage_moves_only_its_own_parameters(stage, frozen):
    plan = recipe(n_heads=1, stages=(stage,), optimizer=tms.AdamW(lr=0.02))
    start = State.initial(plan, None, "cpu")
    end, _ = train(plan)
    still = {name for name in start.weights if torch.equal(start.weights[name], end.weights[name])}
    assert still == frozen
    assert {name.split(".", 1)[1] for name in end.moments} == set(start.weights) - frozen


def test_the_representation_stage_is_training_without_heads():
    """Same seeds, data and optimizer: with W frozen-in heads absent or present, W_E goes the same way."""
    heads, _ = train(recipe(n_heads=1, stages=("representation",), dtype="float64", steps=(30,)))
    other, _ = train(recipe(n_heads=1, qk_weight=0.0, dtype="float64", steps=(30,)))
    assert_close(heads.weights["W_E"], other.weights["W_E"])


def test_each_stage_starts_its_moments_and_its_schedule_anew():
    adam = tms.Adam(lr=0.02, schedule="linear")
    both = recipe(n_heads=1, steps=(6, 8), stages=("representation", "heads"), optimizer=adam)
    state = State.initial(both, None, "cpu")
    torch_engine.advance(both, state, 0, 6)
    assert both.stage_at(5) == ("representation", 5, 6)
    assert both.stage_at(6) == ("heads", 0, 8)
    assert both.stage_at(13) == ("heads", 7, 8)
    before = state.weights["blocks.0.attn.W_Q"].clone()
    torch_engine.advance(both, state, 6, 7)
    # Adam's first step is its learning rate, in sign: the schedule is back at its peak and the moments are empty.
    step = (state.weights["blocks.0.attn.W_Q"] - before).abs()
    assert_close(step, torch.full_like(step, 0.02), rtol=1e-3, atol=0)
    assert set(state.moments) == {f"{m}.blocks.0.attn.W_{x}" for m in ("first", "second") for x in "QK"}


# Divergence


def test_a_model_that_diverges_stops_where_it_was_and_leaves_its_neighbors_alone():
    """One model of three starts so large that SGD throws it to infinity; the others must not notice, to the bit."""
    plan = recipe([0, 1, 2], optimizer=tms.SGD(lr=0.1, momentum=0.9), steps=(40,), output_act="identity")
    sound, _ = train(plan)
    assert (sound.diverged_at == -1).all()
    state = State.initial(plan, None, "cpu")
    state.weights["W_E"][1] *= 1e4
    torch_engine.advance(plan, state, 0, 40)
    stopped = int(state.diverged_at[1])
    assert 0 < stopped < 10
    assert state.diverged_at.tolist() == [-1, stopped, -1]
    for name, w in state.weights.items():
        assert w.isfinite().all()
        for i in (0, 2):
            assert torch.equal(w[i], sound.weights[name][i])
    for name, m in state.moments.items():
        assert m.isfinite().all()
        for i in (0, 2):
            assert torch.equal(m[i], sound.moments[name][i])
    # It stands at its last finite weights: those after `stopped` updates.
    again = State.initial(plan, None, "cpu")
    again.weights["W_E"][1] *= 1e4
    torch_engine.advance(plan, again, 0, stopped)
    assert (again.diverged_at == -1).all()
    assert torch.equal(again.weights["W_E"][1], state.weights["W_E"][1])


def test_a_model_that_starts_at_nan_stops_at_step_0():
    plan = recipe([0, 1])
    state = State.initial(plan, None, "cpu")
    state.weights["W_E"][0, 0, 0] = torch.nan
    torch_engine.advance(plan, state, 0, 10)
    assert state.diverged_at.tolist() == [0, -1]
    assert torch.equal(state.weights["W_E"][1], train(recipe([1]))[0].weights["W_E"][0])


def test_a_stopped_model_never_moves_again():
    plan = recipe([0, 1])
    state = State.initial(plan, None, "cpu")
    state.diverged_at[1] = 0
    before = deepcopy(state)
    torch_engine.advance(plan, state, 1, 10)
    assert state.diverged_at.tolist() == [-1, 0]
    assert torch.equal(state.weights["W_E"][1], before.weights["W_E"][1])
    assert not torch.equal(state.weights["W_E"][0], before.weights["W_E"][0])
