"""Tasks, and parts of the user's own: tried before training, the same alone and in a crowd, loaded only if given."""

import re
from dataclasses import dataclass

import pytest
import torch
from torch.testing import assert_close

import tms_hooks as tms
from tms_hooks import losses, own, rng, tasks, theory
from tms_hooks.training.recipe import Recipe

CFG = tms.ToyConfig(n_features=2, d_hidden=2)
DATA = tms.OneHot(n_features=2)
SIGNED = tms.SparseUniform(n_features=3, feature_probability=0.5, low=-1.0)
OPEN = {"n_features": 3, "d_hidden": 2, "tied": False, "output_act": "identity"}


class Signed(tms.OneHot):
    """One feature at a time, 1 or -1."""

    def dataset(self, dtype=torch.float32):
        return torch.cat([torch.eye(self.n_features), -torch.eye(self.n_features)]).to(dtype)


class Cube(tms.Task):
    def target(self, x):
        return x**3


@dataclass(frozen=True, kw_only=True)
class Uneven(tms.Distribution):
    """A distribution with one method."""

    rate: float = 0.5

    def _draw(self, keys, batch):
        u = rng.uniforms(keys, batch, self.n_features)
        return torch.where(u < self.rate, u - self.rate / 2, 0.0)


def mix(x):
    """Two sums: a product whose bits depend on what is multiplied beside it."""
    return x @ torch.linspace(-1, 1, 2 * x.shape[-1], dtype=x.dtype).view(-1, 2)


def bent_pair(x):
    return torch.sigmoid(3 * x)[..., :2]


def huber(out, target):
    return torch.nn.functional.huber_loss(out, target, reduction="none")


def worst(out, target):
    return (out - target).abs().amax(-1)


def bent(x):
    """Torch rounds a sigmoid by where in memory it stands, so a stack must be taken apart."""
    return torch.sigmoid(x) + 0.1 * x


# What is asked


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        (tms.Reconstruct(), [[1.0, -2.0, 0.0]]),
        (tms.Absolute(), [[1.0, 2.0, 0.0]]),
        (tms.And([(0, 1), (1, 2)]), [[1.0, 0.0]]),
        (tms.Project([[1, 1, 5], [0, 2, 0]]), [[-1.0, -4.0]]),
        (tms.LinearThenReLU([[1, 1, 5], [0, -2, 0]]), [[0.0, 4.0]]),
        (tms.LinearThenReLU(torch.tensor([[1, 1, 5], [0, -2, 0]]), v=torch.tensor([1.5, -1])), [[0.5, 3.0]]),
        (tms.Residual(), [[2.0, -2.0, 0.0]]),
        (tasks.TaskFunction(mix), [[-1.0 + 0.2 * 2, -0.6 - 0.2 * 2]]),
    ],
    ids=repr,
)
def test_targets_by_hand(task, wanted):
    x = torch.tensor([[1.0, -2.0, 0.0]], dtype=torch.float64)
    assert_close(task.target(x), torch.tensor(wanted, dtype=torch.float64))
    assert task.d_out(3) == len(wanted[0])


def test_residual_noise_is_one_fixed_mixture_of_standard_normal_entries():
    x = torch.randn(5, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clean, noisy, twice = (tms.Residual(noise).target(x) - x - x.relu() for noise in (0.0, 0.1, 0.2))
    assert clean.abs().max() < 1e-12
    assert_close(twice, 2 * noisy)
    G = tms.Residual(0.1).mixture(60)
    assert_close(noisy, x @ G.mT)
    assert abs(G.std() / 0.1 - 1) < 5 / (2 * 3600) ** 0.5  # five standard errors
    assert not tms.Residual(0.1, matrix_seed=1).mixture(60).equal(G)


def test_a_row_of_ones_with_a_threshold_is_the_and_of_binary_features():
    x = tms.SparseUniform(n_features=3, feature_probability=0.5, low=1.0).sample(50, seed=0)
    pairs = [(0, 1), (2, 0)]
    A = [[1, 1, 0], [1, 0, 1]]
    assert tms.LinearThenReLU(A, v=[-1, -1]).target(x).equal(tms.And(pairs).target(x))


# The absolute value


def test_two_relu_units_per_feature_compute_the_absolute_value_and_trained_toys_find_it():
    n, data = 2, tms.SparseUniform(n_features=2, feature_probability=0.5, low=-1.0)
    cfg = tms.ToyConfig(n_features=n, d_hidden=2 * n, tied=False, hidden_act="relu", output_act="identity")
    eye = torch.eye(n)
    by_hand = tms.ToyModel.from_weights(
        cfg, {"W_E": torch.cat([eye, -eye], 1), "W_U": torch.cat([eye, eye]), "b_U": torch.zeros(n)}
    )
    x = data.sample(500, seed=0)
    assert by_hand(x).equal(x.abs())
    assert theory.absolute_value_loss(n, 2 * n, 0.5) == 0
    settings = {"task": tms.Absolute(), "seeds": range(8), "steps": 2_000}
    optimizer = tms.Adam(lr=0.02, schedule="cosine")
    run = tms.train(cfg, data, optimizer=optimizer, **settings)
    assert run.provenance["engine"] == "fused"
    assert run.final_loss.min() < 1e-6
    narrow = tms.ToyConfig(n_features=n, d_hidden=2, tied=False, hidden_act="relu", output_act="identity")
    below = tms.train(narrow, data, optimizer=optimizer, **settings).final_loss
    known = theory.absolute_value_loss(n, 2, 0.5)
    assert known == pytest.approx(0.5 / 3 - 0.25 / 4)
    assert float(below.min()) == pytest.approx(known, rel=0.02)  # of one feature it knows the mean only


# Outputs that fit


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            tms.Project([[1, 0, 0]]),
            r"asks for 1 outputs, the model has 3: must be equal; use ToyConfig\(d_out=1,",
        ),
        (tms.Project([[1, 0]]), "Project: A has 2 columns for 3 features: give one per feature"),
        (tms.And([(0, 3)]), "pair with feature 3: features are numbered 0 to 2"),
        (Cube, "is no task: give an object such as Reconstruct"),
        (lambda x: x[..., :1], "<lambda> asks for 1 outputs, the model has 3"),
        (lambda x: x.log(), "<lambda>.* has a NaN or an infinity: must be finite for every sample"),
        (lambda x: x - x.mean(0), "<lambda> gives a sample something else alone than among others"),
        (lambda x: x > 0, "has dtype torch.bool"),
    ],
)
def test_tasks_that_do_not_fit_are_refused_before_training(task, message):
    with pytest.raises(ValueError, match=message):
        Recipe.of(tms.ToyConfig(**OPEN), SIGNED, task=task)


def test_a_target_that_is_undefined_for_rare_inputs_is_refused_when_they_come():
    def fragile(x):
        return torch.where(x > 0.999, torch.nan, x)

    with pytest.raises(ValueError, match=r"fragile: target of \[.*\] has a NaN or an infinity: must be finite"):
        tms.train(tms.ToyConfig(**OPEN), SIGNED, task=fragile, steps=20)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tms.And([]), "pairs is empty"),
        (lambda: tms.And([(1, 1)]), r"pair \(1, 1\): must be two different features"),
        (lambda: tms.Project([1.0, 2.0]), r"A of shape \(2,\): must have one row per output"),
        (lambda: tms.Project([[float("nan")]]), "A has a NaN or an infinity"),
        (lambda: tms.LinearThenReLU([[1.0]], v=[1, 2]), "v has 2 entries for 1 rows of A"),
        (lambda: tms.Residual(noise=-1.0), "noise=-1.0: must be finite and not negative"),
        (lambda: losses.Lp(0.5), "p=0.5: must be at least 1 and finite"),
    ],
)
def test_impossible_values_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# Losses and activations of one's own


def test_lp_by_hand_and_training_takes_its_gradient():
    out, target = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, -2.0]])
    assert losses.Lp(3).cost(out, target).tolist() == [[8.0, 0.0]]
    cfg = tms.ToyConfig(**OPEN)
    by_mse, by_lp = (tms.train(cfg, SIGNED, steps=5, loss=loss, engine="torch") for loss in ("mse", losses.Lp(2)))
    assert_close(by_lp.W_E, by_mse.W_E, rtol=0, atol=1e-5)
    assert_close(by_lp.final_feature_loss, by_mse.final_feature_loss, rtol=1e-4, atol=1e-6)


def test_one_cost_per_sample_is_shared_by_the_outputs():
    run = tms.train(tms.ToyConfig(**OPEN), SIGNED, steps=2, loss=worst)
    x = Recipe.of(run.recipe.cfg, SIGNED).data.sample(2**16, seed=2**63 - 1)
    assert_close(run.final_loss[0], worst(run.models[0](x), x).mean().detach())
    assert len(set(run.final_feature_loss[0].tolist())) == 1


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda out, target: 1.0, "<lambda> of .* gives float: must be a tensor"),
        (lambda out, target: (out - target).mean(0), r"has shape \(3,\): must be \(8, 3\) or \(8,\)"),
        (lambda out, target: target, "has no gradient: must be made of the outputs"),
        (lambda out, target: (out - target).log(), "has a NaN or an infinity"),
        (worst, "one cost per sample, which importance=.* cannot weigh"),
    ],
)
def test_losses_that_do_not_fit_are_refused_before_training(loss, message):
    with pytest.raises(ValueError, match=message):
        Recipe.of(tms.ToyConfig(**OPEN), SIGNED, loss=loss, importance=(1.0, 2.0, 3.0))


def test_activations_that_do_not_fit_are_refused():
    for act, message in (
        (lambda x: x.sum(-1), r"hidden_act=<lambda> of \(8, 2\) has shape \(8,\): must be \(8, 2\)"),
        (torch.log, "hidden_act=log .* has a NaN or an infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe.of(tms.ToyConfig(**OPEN, hidden_act=act), SIGNED)
    with pytest.raises(ValueError, match="has no name that a saved run could find it by"):
        tms.ToyConfig(**OPEN, hidden_act=torch.nn.Tanh())


def test_an_activation_of_ones_own_is_that_of_the_library():
    def clipped(x):
        return x.clamp(min=0)

    ours, theirs = (tms.ToyConfig(n_features=3, d_hidden=2, output_act=act) for act in ("relu", clipped))
    runs = [tms.train(cfg, SIGNED, steps=5, engine="torch") for cfg in (ours, theirs)]
    assert_close(runs[0].W_E, runs[1].W_E)
    assert_close(runs[1].models[0](torch.eye(3)), runs[0].models[0](torch.eye(3)))


# On which engine, and in a crowd


def test_the_compiled_engine_names_the_part_that_it_cannot_compile():
    given = {"cfg": tms.ToyConfig(**OPEN, hidden_act=bent), "data": SIGNED, "steps": 1}
    with pytest.raises(ValueError, match="engine='fused' cannot run this: hidden_act=bent, a function"):
        tms.train(**given, engine="fused")
    assert tms.train(**given).provenance["engine"] == "torch"


@pytest.mark.parametrize("part", [{"task": Cube()}, {"data": Uneven(n_features=3)}])
def test_tasks_and_data_of_ones_own_are_given_to_the_compiled_engine(part):
    given = {"cfg": tms.ToyConfig(**OPEN), "data": SIGNED, "seeds": 2, "steps": 20} | part
    runs = [tms.train(**given), tms.train(**given, engine="torch")]
    assert [run.provenance["engine"] for run in runs] == ["fused", "torch"]
    assert_close(runs[0].W_E, runs[1].W_E)
    assert_close(runs[0].final_loss, runs[1].final_loss)


EACH = [
    {"task": tms.Residual(0.1)},
    {"task": tms.Project([[0.3, 0.7, -1.1], [1.9, 0.1, 0.3]])},
    {"task": tms.LinearThenReLU([[0.3, 0.7, -1.1], [1.9, 0.1, 0.3]])},
    {"task": tms.And([(0, 1), (1, 2)])},
    {"task": mix, "loss": losses.Lp(2.5)},
    {"task": bent_pair},
    {"loss": huber, "hidden_act": bent, "data": Uneven(n_features=3)},
    {"data": tms.Copula(n_features=3, feature_probability=0.3, rho=[[1, 0.2, 0.3], [0.2, 1, 0.1], [0.3, 0.1, 1]])},
    {"data": tms.OnManifold(n_features=3, manifold="sphere")},
    {"data": tms.Tree(n_features=3, feature_probability=0.5)},
    {"data": tms.SparseGaussian(n_features=3, feature_probability=0.3)},
]


@pytest.mark.parametrize("parts", EACH, ids=lambda parts: re.sub(" at 0x[0-9a-f]+", "", repr(parts)))
def test_a_model_alone_is_the_model_in_a_crowd_to_the_bit(parts):
    settings = dict(parts)
    task = settings.get("task", tms.Reconstruct())
    outputs = task.d_out(3) if isinstance(task, tms.Task) else 2
    cfg = tms.ToyConfig(**OPEN, d_out=outputs, hidden_act=settings.pop("hidden_act", "identity"))
    data = settings.pop("data", SIGNED)
    crowd, alone = (
        tms.train(cfg, data, seeds=seeds, steps=40, batch_size=7, engine="torch", **settings)
        for seeds in ((7, 5, 6), (7,))
    )
    for name, w in alone.weights.items():
        assert w[0].equal(crowd.weights[name][0]), name
    assert alone.final_loss[0] == crowd.final_loss[0]


def test_a_function_sees_each_model_as_if_it_were_alone():
    generator = torch.Generator().manual_seed(0)
    for rows in (1, 7, 33, 77, 300):
        x = torch.randn(3, rows, 3, generator=generator)
        for function in (torch.sigmoid, lambda x: x.abs() ** 2.5, mix):
            stacked = own.model_by_model(function, x)
            assert all(stacked[i].equal(function(x[i].clone())) for i in range(3))


# Saved and loaded


def test_a_run_with_own_parts_is_loaded_with_them_and_never_without(tmp_path):
    cfg = tms.ToyConfig(**(OPEN | {"output_act": bent}))
    run = tms.train(cfg, Uneven(n_features=3, rate=0.4), task=Cube(), loss=huber, steps=2)
    path = run.save(tmp_path / "run")
    every = [bent, Uneven, Cube, huber]
    with pytest.raises(LookupError, match=r"used bent, Uneven, Cube, huber, .*using=\[bent, Uneven, Cube, huber\]"):
        tms.load(path)
    with pytest.raises(LookupError, match="this run used Cube, which tms_hooks does not have"):
        tms.load(path, using=[bent, Uneven, huber])
    with pytest.raises(ValueError, match="two parts named 'Cube'"):
        tms.load(path, using=[*every, type("Cube", (tms.Task,), {})])
    again = tms.load(path, using=every)
    assert again.recipe == run.recipe
    assert again.models[0](torch.eye(3)).equal(run.models[0](torch.eye(3)))


def test_an_own_class_under_a_name_of_the_library_is_not_taken_for_the_library_s(tmp_path):
    class Absolute(tms.Task):
        def target(self, x):
            return -x.abs()

    path = tms.train(tms.ToyConfig(**OPEN), SIGNED, task=Absolute(), steps=1).save(tmp_path / "run")
    with pytest.raises(LookupError, match="this run used Absolute"):
        tms.load(path)
    assert type(tms.load(path, using=[Absolute]).recipe.task) is Absolute


@pytest.mark.parametrize("task", [tms.And([(0, 1), (1, 2)]), tms.LinearThenReLU(torch.eye(3), v=[0.5, 0, -1]), mix])
def test_tasks_survive_being_saved(task, tmp_path):
    outputs = 2 if task is mix else task.d_out(3)
    run = tms.train(tms.ToyConfig(**OPEN, d_out=outputs), SIGNED, task=task, steps=1)
    assert tms.load(run.save(tmp_path / "run"), using=[mix]).recipe == run.recipe


def test_settings_that_no_field_holds_are_refused_before_training():
    class Hidden(tms.Task):
        def __init__(self, power):
            object.__setattr__(self, "power", power)

        def target(self, x):
            return x**self.power

    with pytest.raises(ValueError, match=r"cannot be made again from its fields.*a frozen dataclass"):
        Recipe.of(tms.ToyConfig(**OPEN), SIGNED, task=Hidden(3))


def test_a_sweep_refuses_what_its_shards_could_not_be_read_with(tmp_path):
    base = {"n_features": 3, "d_hidden": 2, "feature_probability": 0.1, "steps": 2}
    with pytest.raises(ValueError, match="huber is the user's own, and any process may read a shard"):
        tms.sweep(base, {"loss": ["mse", huber]}, store=tmp_path)
    assert not list(tmp_path.iterdir())


# Distributions of one's own


def test_one_method_makes_a_distribution_and_what_needs_moments_refuses_it():
    data = Uneven(n_features=3)
    assert data.second_moment() is data.active_moment() is data.active_probability() is None
    assert "Uneven has no `_pair_moments`" in data.no_moments
    assert SIGNED.no_moments is None
    with pytest.raises(ValueError, match=r"Uneven has no exact moments: .*estimate them: x = data.sample"):
        theory.qk_optimum(torch.eye(3), data, [(0, 1)])
    run = tms.train(tms.ToyConfig(**OPEN), data, seeds=range(2), steps=300, optimizer=tms.Adam(lr=0.02))
    x = data.sample(2_000, seed=5)
    assert (run.final_loss < 0.6 * x.square().sum(-1).mean()).all()  # two of three features fit


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda self, keys, batch: torch.zeros(batch, self.n_features), r"gives \(4, 3\) for 2 keys and batch=4"),
        (lambda self, keys, batch: torch.full((len(keys), batch, 3), torch.nan), "gives a NaN or an infinity"),
        (lambda self, keys, batch: torch.rand(len(keys), batch, 3), "gives one key other rows alone"),
    ],
)
def test_draws_that_training_cannot_rely_on_are_refused(draw, message):
    Broken = type("Broken", (tms.Distribution,), {"_draw": draw})
    with pytest.raises(ValueError, match=f"Broken._draw {message}"):
        Recipe.of(tms.ToyConfig(**OPEN), Broken(n_features=3))


# As before


def test_gradients_are_of_the_distance_from_the_target():
    plain = tms.ToyModel(CFG, seed=0)
    x = Signed(n_features=2).dataset()
    (plain(x) - x.abs()).square().mean(0).sum().backward()
    for engine in ("torch", "fused"):
        run = tms.train(
            CFG, Signed(n_features=2), task=tms.Absolute(), steps=1, optimizer=tms.SGD(lr=1.0), engine=engine
        )
        assert_close(run.W_E[0], (plain.W_E - plain.W_E.grad).detach())


def test_a_task_is_written_down_by_its_name_and_its_settings():
    recipe = Recipe.of(CFG, DATA)
    assert recipe.to_dict()["task"] == {"kind": "Reconstruct"}
    assert Recipe.from_dict(recipe.to_dict()).task == tms.Reconstruct()
    misspelled = recipe.to_dict() | {"task": {"kind": "Reconstuct"}}
    with pytest.raises(ValueError, match="task='Reconstuct' is not known; did you mean 'Reconstruct'"):
        Recipe.from_dict(misspelled)
