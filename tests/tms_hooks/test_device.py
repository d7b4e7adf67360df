"""Training on a device, shown without one: its updates on the CPU, where their numbers can be compared, and on "meta".

A tensor on torch's device "meta" has a shape and a place but no numbers: what asks for one, or mixes it with a tensor
of the CPU, fails there. The last test alone asks for a GPU.
"""

import dataclasses
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

import tms_hooks as tms
from tests.tms_hooks.test_torch_engine import Halves, recipe
from tms_hooks import rng
from tms_hooks.device import engine as on_device
from tms_hooks.device import graphs
from tms_hooks.device import updates as stacks_of
from tms_hooks.device.updates import Updates
from tms_hooks.training import batches, torch_engine
from tms_hooks.training.state import State


def cubed(out, target):
    return (out - target).abs() ** 3


def per_sample(out, target):
    return (out - target).square().sum(-1)


def swish(x):
    return torch.nn.functional.silu(x)


def ridge(weights):
    return 0.01 * weights["W_E"].square().sum()


def squares(x):
    return x.square()


RARE = tms.SparseUniform(n_features=5, feature_probability=0.05)
HEADS = {"n_heads": 2, "d_head": 1, "qk_pairs": [[(0, 1)], [(1, 0), (4, 3)]]}
ZOO = {
    "plain": {},
    "identity, no bias": {"output_act": "identity", "output_bias": False},
    "untied": {"tied": False, "hidden_bias": True, "hidden_act": "relu"},
    "gelu": {"output_act": "gelu", "hidden_act": "gelu"},
    "softmax": {"output_act": "softmax", "loss": "cross_entropy", "data": tms.OneHot(n_features=5)},
    "one-hot, sampled": {"data": tms.OneHot(n_features=5), "batch_size": 16},
    "empty rows": {"data": RARE, "empty_rows": "exact"},
    "unit norm": {"unit_norm": True, "tied": False},
    "scale": {"unit_norm": True, "scale": "after"},
    "mlp": {"d_mlp": 4},
    "mlp reads": {"d_mlp": 4, "tied": False, "bottleneck": "embed->mlp.in"},
    "residual": {"d_mlp": 4, "n_mlps": 2, "bottleneck": "residual"},
    "heads": HEADS | {"head_bias": True, "qk_weight": 0.5},
    "pattern": HEADS | {"head_objective": "pattern", "d_mlp": 4, "bottleneck": "residual"},
    "stages": HEADS | {"stages": ("representation", "heads"), "steps": (4, 5)},
    "task": {"task": Halves(), "d_out": 2, "tied": False},
    "own task": {"task": squares},
    "and": {"task": tms.And([(0, 1), (2, 4)]), "d_out": 2, "tied": False},
    "matrix": {"task": tms.LinearThenReLU(torch.eye(5)[:3] - 0.1), "d_out": 3, "tied": False},
    "mixture": {"task": tms.Residual(noise=0.1)},
    "absolute": {"task": tms.Absolute(), "data": tms.SparseUniform(5, 0.4, low=-1.0)},
    "own loss": {"loss": cubed, "importance": (1.0, 0.5, 0.2, 0.1, 0.0)},
    "loss per sample": {"loss": per_sample},
    "power": {"loss": tms.losses.Lp(4), "data": RARE, "empty_rows": "exact"},
    "own activation": {"output_act": swish},
    "lasso": {"penalty": tms.Lasso(0.01)},
    "own penalty": {"penalty": ridge, "n_heads": 1, "d_head": 1},
    "adamw, cosine": {"optimizer": tms.AdamW(lr=0.02, schedule="cosine", warmup=0.3, decay={"W_E": 0.1, "b_U": 1.0})},
    "pull, linear": {"optimizer": tms.Adam(lr=0.02, schedule="linear", pull=0.5), "tied": False},
    "momentum": {"optimizer": tms.SGD(lr=0.1, momentum=0.9, schedule="exponential", final_lr=0.01)},
    "rmsprop": {"optimizer": tms.RMSprop(lr=0.01)},
    "double": {"dtype": "float64"},
    "diverges": {"optimizer": tms.SGD(lr=1e30), "steps": (4,)},
    "gaussian": {"data": tms.SparseGaussian(n_features=5, feature_probability=0.4)},
    "k-hot": {"data": tms.KHot(n_features=5, k=2, values="uniform")},
    "groups": {"data": tms.CorrelatedGroups(n_features=6, feature_probability=0.3)},
    "apart": {"data": tms.AnticorrelatedGroups(n_features=6, feature_probability=0.3)},
    "copula": {"data": tms.Copula(n_features=5, feature_probability=0.3, rho=0.2)},
    "matrix copula": {"data": tms.Copula(n_features=2, feature_probability=0.3, rho=[[1, 0.4], [0.4, 1]])},
    "points": {"data": tms.RandomPoints(n_features=5, n_points=7, k=2), "batch_size": 16},
    "samples": {"data": tms.Samples(torch.eye(5)[:3] + 0.1), "batch_size": 16},
    "manifold": {"data": tms.OnManifold(n_features=5)},
    "tree": {"data": tms.Tree(n_features=5, feature_probability=0.5)},
}
"""Every kind of model, data, task, loss, penalty and optimizer that the torch engine trains."""


def updates(plan, device, step=0):
    """The updates of all models of a recipe, ready to make the one of this step."""
    state = State.initial(plan, None, device)
    made = Updates(plan, plan.stage_at(step)[0], state.of(range(len(plan.seeds))))
    made.advance(state, step, step)
    made.table[0] = made.numbers(range(step, step + 1))[0]
    made.row.fill_(-1)
    return made


@pytest.mark.parametrize("name", ZOO)
def test_an_update_asks_for_no_number_and_copies_none(name):
    """On a device without numbers; in each stage."""
    plan = recipe(seeds=range(2), **ZOO[name])
    for step in range(len(plan.stages)):
        assert graphs.hindrance(updates(plan, "meta", sum(plan.steps[:step])).update) is None


def trained(plan, advance, edges=None):
    """State and last measurement after the steps between edges, on the CPU."""
    state, edges = State.initial(plan, None, "cpu"), edges or [0, *torch.tensor(plan.steps).cumsum(0).tolist()]
    for start, stop in pairwise(edges):
        measured = advance(plan, state, start, stop)
    return state, measured


def usual(plan, state, start, stop, by_hand=True):
    """The usual updates, which ask each time; also with the gradients of autograd."""
    stage, count, _ = plan.stage_at(start)
    if count == 0:
        state.moments = {}
    training = torch_engine.Training(state, torch_engine.trained_names(state.weights, stage))
    for step in range(start, stop):
        x, weights = batches.batch(plan, plan.seeds, step), training.weights
        if by_hand:
            _, loss, gradients = torch_engine._gradients(plan, weights, step, stage, x)
        else:
            parts, _, gradients = torch_engine.by_autograd(
                plan, weights, stage, lambda leaves, x=x: torch_engine.sampled_losses(plan, leaves, x)
            )
            _, loss, gradients = torch_engine.penalized(plan, weights, stage, parts, gradients)
        training.update(plan, gradients, loss, step)
    training.keep_in(state)


@pytest.mark.parametrize("name", ZOO)
def test_updates_are_the_usual_ones(name):
    """To the bit with the same gradients; to rounding with those by hand, which are added in another order."""
    plan = recipe(**ZOO[name])
    ours, _ = trained(plan, on_device.advance)
    same, _ = trained(plan, partial(usual, by_hand=False))
    near, _ = trained(plan, usual)
    assert ours.diverged_at.tolist() == same.diverged_at.tolist() == near.diverged_at.tolist()
    for kind in ("weights", "moments"):
        assert {n: w.tolist() for n, w in getattr(ours, kind).items()} == {
            n: w.tolist() for n, w in getattr(same, kind).items()
        }
    if name != "diverges":  # whose weights are as large as numbers get
        assert_close(ours.weights, near.weights, rtol=1e-5, atol=2e-5)


def test_what_is_measured():
    plan = recipe(tied=False, **HEADS)
    for edges in ([0, 3, 3], [0, 3, 4]):
        (_, ours), (_, wanted) = trained(plan, on_device.advance, edges), trained(plan, torch_engine.advance, edges)
        assert_close(ours._asdict(), wanted._asdict(), rtol=1e-5, atol=1e-6)


def test_what_diverges_stays_and_the_others_go_on():
    plan = recipe(seeds=range(3), optimizer=[tms.SGD(lr=0.1), tms.SGD(lr=1e30), tms.SGD(lr=0.1)], steps=(6,))
    ours, _ = trained(plan, on_device.advance)
    wanted, _ = trained(plan, torch_engine.advance)
    assert ours.diverged_at.tolist() == wanted.diverged_at.tolist()
    assert ours.diverged_at[1] >= 0 > ours.diverged_at[0]
    assert ours.weights["W_E"].isfinite().all()
    assert_close(ours.weights["W_E"][::2], wanted.weights["W_E"][::2], rtol=1e-5, atol=1e-5)


def test_spans_and_edges_change_no_bit(monkeypatch):
    plan = recipe(optimizer=tms.Adam(lr=0.02, schedule="cosine"))
    whole, _ = trained(plan, on_device.advance)
    monkeypatch.setattr(stacks_of, "SPAN", 3)
    for edges in ([0, 10], [0, 4, 5, 10]):
        pieces, _ = trained(plan, on_device.advance, edges)
        assert pieces.weights["W_E"].equal(whole.weights["W_E"])


VARIED = {
    "probability": {"data": [tms.SparseUniform(5, p) for p in (0.6, 0.3, 0.6, 0.4)]},
    "class": {"data": [tms.SparseUniform(5, 0.6), tms.SparseGaussian(5, 0.6), tms.Copula(5, 0.6, 0.2), RARE]},
    "importance": {"importance": [[1.0] * 5, [1.0, 0.5, 0.2, 0.1, 0.0], [1.0] * 5, [0.3] * 5]},
    "weight of heads": HEADS | {"qk_weight": [1.0, 0.1, 1.0, 0.0]},
    "optimizer": {"optimizer": [tms.Adam(lr=0.1), tms.SGD(lr=0.1), tms.Adam(lr=0.1), tms.Adam(lr=0.01)]},
    "all": {
        "data": [tms.SparseUniform(5, p) for p in (0.9, 0.05, 0.4, 0.05)],
        "empty_rows": "auto",
        "penalty": [None, None, tms.Lasso(0.1), None],
    },
}


@pytest.mark.parametrize(("name", "stacks"), [*zip(VARIED, (1, 1, 1, 1, 3, 3), strict=True)])
def test_models_of_several_settings_are_one_product(name, stacks):
    """Each is what it is alone, to the bit, as products on the CPU are made one by one."""
    given = {"data": tms.SparseUniform(5, 0.4)} | VARIED[name]
    data = given.pop("data")
    defaults = {"optimizer": tms.Adam(lr=0.02), "empty_rows": "drawn", "batch_size": 32, "steps": 5}
    cfg = tms.ToyConfig(5, 2, **{k: given.pop(k) for k in ("n_heads", "d_head") if k in given})
    plan = on_device.Recipe.of(cfg, data, seeds=(3, 1, 4, 5), **defaults | given)
    assert len(on_device.stacks(plan)) == stacks
    together, measured = trained(plan, on_device.advance)
    for model in range(4):
        alone, own = trained(plan.alone(model), on_device.advance)
        for weight, w in alone.weights.items():
            assert w[0].equal(together.weights[weight][model])
        assert own.loss[0].equal(measured.loss[model])


def test_keys_of_a_step_that_is_a_tensor():
    seeds = (0, 1, 2**40 + 3, 2**63 - 1)
    for step in (0, 1, 12_345, 2**40, 2**63 - 1):
        assert rng.keys_at(rng.streams(seeds), torch.tensor(step)).equal(rng.keys(seeds, step))


def asks(out, target):
    error = out - target
    return error.square() if error.sum().item() > -1e9 else error


def picks(x):
    return x[(x > 0).any(-1)].sum(0) * 0 + x


def counts(weights):
    return weights["W_E"].square().sum() * torch.tensor(0.1)


def begins_with_numbers(x):
    return x + x.new_tensor([0.1, 0.0, 0.0, 0.0, 0.0])


def picks_columns(x):
    return x[..., [1, 0, 2, 3, 4]]


@dataclasses.dataclass(frozen=True)
class FromTheHost(tms.Distribution):
    """Rows that the CPU keeps."""

    def _draw(self, keys, batch):
        bits = rng.uniform_bits(keys, batch)
        return torch.eye(self.n_features, dtype=torch.float64).to(keys.device)[bits * self.n_features >> 32]


@pytest.mark.parametrize(
    ("settings", "part", "why", "device"),
    [
        ({"loss": asks}, "asks", "asks for a number", "cpu"),
        ({"task": picks}, "picks", "shape that depends", "cpu"),
        ({"task": picks_columns}, "picks_columns", "tensor of numbers", "cpu"),
        ({"task": begins_with_numbers}, "begins_with_numbers", "tensor of numbers", "cpu"),
        ({"penalty": counts}, "counts", "tensor of numbers", "meta"),
        ({"data": FromTheHost(n_features=5)}, "_draw", "copies between devices", "meta"),
    ],
)
def test_what_cannot_be_captured_is_named(settings, part, why, device):
    found = graphs.hindrance(updates(recipe(**settings), device).update)
    assert found.startswith(f"{part} (test_device.py, line ")
    assert why in found


def odd(out, target):
    """Costs that are no number once weights have moved."""
    return torch.where(out.abs() > 0.8, torch.nan, (out - target).square())


def test_a_function_that_gives_no_number_is_told_though_it_is_not_asked():
    """In training it is not asked; afterwards the CPU makes that step again."""
    plan = recipe(loss=odd, output_act="identity", optimizer=tms.SGD(lr=0.5))
    with pytest.raises(ValueError, match="loss=odd gives NaN for finite outputs"):
        trained(plan, on_device.advance)


def test_all_that_a_graph_reads_is_held():
    """A graph has the places in memory alone, so what is read there must live as long."""
    plan = recipe(data=tms.SparseUniform(5, (0.9, 0.8, 0.7, 0.6, 0.5)), importance=(1.0, 0.5, 0.2, 0.1, 0.05))
    made, held = updates(plan, "cpu"), []
    assert graphs.hindrance(made.update, held) is None
    places = {x.untyped_storage().data_ptr() for x in held}
    stay = (made.table, made.row, made.step, made.training.line, made.training.diverged_at, plan.data.thresholds)
    importance = torch_engine._constant(plan.importance, torch.float32, torch.device("cpu"))
    for x in (*stay, *made.training.moments, importance):
        assert x.untyped_storage().data_ptr() in places
    assert sum(x.numel() for x in held) < 10 * sum(x.numel() for x in stay)  # not what the update makes on its way


@pytest.fixture(scope="module")
def plain():
    """Triton's kernels: on a GPU if there is one, else in Triton's interpreter, on the CPU (tests/conftest.py)."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from tms_hooks.device import plain

    return plain


GPU = torch.cuda.is_available()
HERE = torch.device("cuda" if GPU else "cpu")
PLAIN = {
    "usual": {},
    "no bias": {"output_act": "identity", "output_bias": False},
    "untied": {"tied": False, "importance": (1.0, 0.5, 0.2, 0.1, 0.0)},
    "occupied": {"data": RARE},
    "signs": {"data": [tms.SparseUniform(5, p, low=-1.0, high=0.5) for p in (0.9, 0.6)]},
    "one unit": {"d_hidden": 1, "batch_size": 1},
    "wide": {"n_features": 20, "d_hidden": 4, "batch_size": 100, "output_bias": False},
    "wide, untied": {"n_features": 3, "d_hidden": 30, "tied": False, "output_act": "identity"},
    "wide, occupied": {"n_features": 30, "d_hidden": 2, "data": tms.SparseUniform(30, 0.01)},
    "rms": {"optimizer": tms.RMSprop(lr=0.01)},
    "momentum": {"optimizer": tms.SGD(lr=0.1, momentum=0.9)},
    "decay": {"optimizer": tms.AdamW(lr=0.02, schedule="cosine", decay={"W_E": 0.1, "b_U": 1.0})},
}


def plain_recipe(n_features=5, d_hidden=2, data=None, **settings):
    own = {name: settings.pop(name) for name in ("output_act", "output_bias", "tied") if name in settings}
    defaults = {"optimizer": tms.Adam(lr=0.02), "batch_size": 70, "steps": 5, "seeds": range(2)}
    data = data or tms.SparseUniform(n_features, 0.4)
    return on_device.Recipe.of(tms.ToyConfig(n_features, d_hidden, **own), data, **defaults | settings)


@pytest.mark.parametrize("name", PLAIN)
def test_kernels_make_the_usual_updates_of_plain_toys(plain, name):
    plan = plain_recipe(**PLAIN[name])
    assert plain.obstacle(plan) is None
    state = State.initial(plan, None, HERE)
    made = plain.updates(plan, "joint", state)
    assert type(made).__name__ == ("LargeToys" if "wide" in name else "SmallToys")
    made.advance(state, 0, 5)
    wanted, _ = trained(plan, torch_engine.advance)
    for kind in ("weights", "moments"):
        assert_close({n: w.cpu() for n, w in getattr(state, kind).items()}, getattr(wanted, kind), rtol=1e-4, atol=1e-5)
    assert state.diverged_at.tolist() == [-1, -1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "data",
    [
        tms.SparseUniform(5, (0.9, 0.8, 0.7, 0.6, 1.0)),
        tms.SparseUniform(150, 0.3, low=-0.1, high=0.7),
        tms.SparseUniform(37, 0.01),
    ],
)
def test_the_kernel_s_rows_have_the_bits_of_torch_s(plain, data, dtype):
    plan = plain_recipe(data.n_features, data=data, dtype=dtype, seeds=(3, 2**40), batch_size=70)
    drawn = plain.rows_drawn(plan, HERE)(torch.tensor(2**33, device=HERE))
    assert drawn.cpu().equal(batches.batch(plan, plan.seeds, 2**33))


def test_the_kernel_s_tokens_have_the_bits_of_torch_s(plain):
    plan = recipe(data=tms.SparseUniform(5, 0.3), **HEADS)
    drawn = plain.rows_drawn(plan, HERE)(torch.tensor(7, device=HERE))
    assert drawn.cpu().equal(batches.batch(plan, plan.seeds, 7))


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")  # of the interpreter
@pytest.mark.parametrize("n_features", [5, 30])
def test_kernels_make_steps_again_in_which_a_model_diverges(plain, n_features):
    plan = plain_recipe(n_features, optimizer=tms.SGD(lr=1e30), seeds=[3])
    state, (wanted, _) = State.initial(plan, None, HERE), trained(plan, usual)
    made = plain.updates(plan, "joint", state)
    made.advance(state, 0, 5)
    assert state.diverged_at.tolist() == wanted.diverged_at.tolist() == [1]
    assert_close(state.weights["W_E"].cpu(), wanted.weights["W_E"], rtol=1e-4, atol=0)  # it is as large as its gradient
    stays = state.weights["W_E"]
    made.advance(state, 5, 8)  # has nothing to make again
    assert state.weights["W_E"].equal(stays)
    assert made.bad.tolist() == [0]


NOT_PLAIN = (
    "gelu",
    "softmax",
    "unit norm",
    "mlp",
    "heads",
    "task",
    "own loss",
    "lasso",
    "double",
    "gaussian",
    "pull, linear",
)


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_kernels_leave_other_toys_alone(plain, name):
    assert plain.obstacle(recipe(**ZOO[name])) is not None


@pytest.mark.skipif(not GPU, reason="no GPU")
@pytest.mark.parametrize("name", ZOO)
def test_on_a_gpu(name):
    plan = recipe(**ZOO[name])
    state = State.initial(plan, None, "cuda")
    for start, stop in pairwise([0, *torch.tensor(plan.steps).cumsum(0).tolist()]):
        on_device.advance(plan, state, start, stop)
        assert all(own.captured for _, own in state.made[1])
    usual_state, _ = trained(plan, usual)
    assert state.diverged_at.tolist() == usual_state.diverged_at.tolist()
    if name != "diverges":
        assert_close({n: w.cpu() for n, w in state.weights.items()}, usual_state.weights, rtol=1e-3, atol=1e-4)
