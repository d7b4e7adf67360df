"""What people type first: it works, or the error says what to type."""

import importlib
import inspect
import logging
import pickle
from importlib.metadata import version

import numpy as np
import pytest
import torch
import xarray as xr
from torch.testing import assert_close

import probes
import tms_hooks as tms
from tms_hooks import errors

CFG = tms.ToyConfig(4, 2)
DATA = tms.SparseUniform(4, 0.3)


def train(cfg=CFG, data=DATA, **settings):
    return tms.train(cfg, data, **{"steps": 5, "batch_size": 16, "progress": False} | settings)


@pytest.fixture
def hints(caplog):
    """What is said once, as if it had not been said."""
    errors.say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        yield caplog


# Without names


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (tms.SparseUniform(6, 0.057), tms.SparseUniform(n_features=6, feature_probability=0.057)),
        (tms.OneHot(6), tms.OneHot(n_features=6)),
        (tms.KHot(6, 2), tms.KHot(n_features=6, k=2)),
        (tms.CorrelatedGroups(6, 0.1), tms.CorrelatedGroups(n_features=6, feature_probability=0.1)),
        (tms.Copula(6, 0.1, 0.2), tms.Copula(n_features=6, feature_probability=0.1, rho=0.2)),
        (tms.Adam(0.01), tms.Adam(lr=0.01)),
        (tms.SGD(0.01, momentum=0.9), tms.SGD(lr=0.01, momentum=0.9)),
        (tms.ToyConfig(6, 2), tms.ToyConfig(n_features=6, d_hidden=2)),
        (probes.Site("hook_hidden").name, probes.Site(hook="hook_hidden").name),
    ],
)
def test_what_has_one_meaning_needs_no_name(short, long):
    assert short == long


MISTAKES = """
import numpy as np, torch, tms_hooks as tms
cfg, data = tms.ToyConfig(4, 2), tms.SparseUniform(4, 0.3)
for line in LINES:
    try:
        eval(line)
        print("nothing was said")
    except (AttributeError, TypeError, ValueError) as error:
        print(type(error).__name__, error)
"""
SAID = {
    "tms.ToyConfig(n_feat=5, d_hidden=2)": "TypeError ToyConfig has no argument 'n_feat'; did you mean 'n_features'?",
    "tms.ToyConfig(5, 2, False)": "TypeError ToyConfig takes 2 arguments without a name (n_features, d_hidden), and "
    "3 were given; name the others: tied, ",
    "tms.SparseUniform(5, p=0.1)": "TypeError SparseUniform has no argument 'p'; use feature_probability=...",
    "tms.AdamW(weight_decay=0.1)": "TypeError AdamW has no argument 'weight_decay'; use decay=...",
    "tms.train(cfg, data, weight_decay=0.1)": "TypeError train has no argument 'weight_decay'; use optimizer=tms.Adam",
    "tms.train(cfg, data, epochs=3)": "TypeError train has no argument 'epochs'; use steps=...",
    "tms.ToyModel(cfg, sed=1)": "TypeError ToyModel has no argument 'sed'; did you mean 'seed'?",
    "tms.losses.Lp(q=4)": "TypeError Lp has no argument 'q'; choose from p",
    "tms.load('run', usng=[])": "TypeError load has no argument 'usng'; did you mean 'using'?",
    "tms.sweep({}, {}, stor='x')": "TypeError sweep has no argument 'stor'; did you mean 'store'?",
    "tms.geometry.name_polytope(np.eye(2), norm=1)": "TypeError name_polytope has no argument 'norm'; did you mean 'm",
    "tms.plots.feature_arrows(np.eye(2), titels=[])": "TypeError feature_arrows has no argument 'titels'; did you mea",
    "tms.Adam(lr=(0.1, 0.2))": "ValueError lr=(0.1, 0.2): must be one number; for one per model use optimizer=[Adam(l",
    "tms.train(cfg, data, task=[tms.Absolute()] * 2)": "ValueError task=(Absolute(), Absolute()): all models of a run",
    "tms.train(cfg, data, task=lambda x: None)": "ValueError task=<lambda> of (1, 4) gives NoneType: must be a tensor",
    "tms.train(cfg, data, task=lambda x: x.sum(-1))": "ValueError task=<lambda> of (1, 4) gives shape (1,): must be a",
    "tms.ToyConfig(4, 2, hidden_act=torch.nn.GELU)": "ValueError hidden_act=<class 'torch.nn.modules.activation.GELU'",
    "tms.train(cfg, data, init='runs/hexagon')": "ValueError init of type str: must be a ToyModel, its state_dict(),",
    "tms.train(cfg, data, init=torch.zeros(4, 2))": "ValueError init of type Tensor: must be a ToyModel, its state_di",
    "tms.train(cfg, data, penalty=lambda w: w['b'].sum(), steps=1)": "ValueError penalty=<lambda>: this model has no "
    "weights 'b'; choose from W_E, b_U",
    "tms.train(cfg, data, penalty=lambda w: w['b_U'], steps=1)": "ValueError penalty=<lambda> gave a tensor of shape",
    "tms.train(cfg, data, task=tms.Absolute(), batch_size='exact')": "ValueError engine='auto' cannot run this: "
    "loss='mse', task=Absolute() with batch_size='exact': exact sums are known for the squared error of Reconstruct();",
    "tms.load('run', using=tms.Task)": "TypeError using=<class 'tms_hooks.tasks.Task'>: must be a list; use using=[Ta",
    "tms.load('run', using=['Task'])": "TypeError using= has 'Task': must be the class or the function itself, such as",
    "tms.load('run', using=[tms.Absolute()])": "TypeError using= has Absolute(): must be the class or the function "
    "itself, such as using=[Absolute]",
    "tms.train(cfg, data, steps='20')": "ValueError steps='20': must be a number, or a list of them, and no text",
    "tms.train(cfg, data, seeds='12')": "ValueError seeds='12': must be a number",
    "tms.train(cfg, data, importance='high')": "ValueError importance='high': must be a number",
    "tms.train(cfg, data, steps=-5)": "ValueError steps=-5: every stage needs at least 1",
    "tms.train(cfg, data, stages='jiont')": "ValueError stage='jiont' is not known; did you mean 'joint'?",
    "tms.train(cfg, data, device='mps')": "ValueError engine='auto' cannot run this: device='mps' is not on this mach",
    "tms.Adam(0.01, 'cosine')": "TypeError Adam takes 1 arguments without a name (lr), and 2 were given",
    "tms.train(cfg, data, steps=1).cfg": "AttributeError a run has no attribute 'cfg'; use run.recipe.cfg",
    "tms.train(cfg, data, steps=1).W": "AttributeError a run has no attribute 'W'; use run.W_E, whose rows are",
    "tms.train(cfg, data, steps=1).loss": "AttributeError a run has no attribute 'loss'; use run.final_loss",
    "tms.train(cfg, data, steps=1).tabel": "AttributeError a run has no attribute 'tabel'; did you mean 'table'?",
    "tms.ToyModel(cfg)(torch.eye(4).double())": "ValueError input of torch.float64: this model's weights are float32;",
    "tms.Adam(learning_rate=0.1)": "TypeError Adam has no argument 'learning_rate'; use lr=...",
    "tms.train(cfg, data, learning_rate=0.1)": "TypeError train has no argument 'learning_rate'; use optimizer=tms.Ad",
    "tms.Copula(4, 0.1, correlation=0.2)": "TypeError Copula has no argument 'correlation'; use rho=...",
    "tms.train(cfg, data, optimizer=torch.optim.AdamW([torch.ones(1)]))": "TypeError optimizer=AdamW(...): "
    "models are updated by rules of this library; give tms.AdamW(lr=...)",
    "tms.Adam(lrate=0.1)": "TypeError Adam has no argument 'lrate'; ",
    "tms.train(cfg, data, lr=1e-2)": "TypeError train has no argument 'lr'; use optimizer=tms.Adam(lr=...)",
    "tms.train(cfg, data, step=5)": "TypeError train has no argument 'step'; did you mean 'steps'?",
    "tms.train(cfg, data, tied=False)": "TypeError train has no argument 'tied'; use cfg=tms.ToyConfig(n_features, ",
    "tms.train(cfg, data, feature_probability=0.1)": "TypeError train has no argument 'feature_probability'; use data=",
    "tms.train(cfg, data, optimizer='adan')": "ValueError optimizer='adan' is not known; did you mean 'adam'?",
    "tms.train(cfg, data, optimizer=torch.optim.SGD)": "TypeError optimizer=<class 'torch.optim.sgd.SGD'>: models are "
    "updated by rules of this library; give tms.SGD(lr=...)",
    "tms.train(cfg, tms.SparseUniform)": "TypeError data=<class 'tms_hooks.data.independent.SparseUniform'> is no ",
    "tms.train(cfg, lambda n: torch.rand(n, 4))": "TypeError data=<function <lambda> at",
    "tms.ToyConfg(4, 2)": "AttributeError module 'tms_hooks' has no attribute 'ToyConfg'; did you mean 'ToyConfig'?",
    "tms.sweep({'n_features': 4, 'd_hidden': 2}, {'lr': [0.1]}, store='x')": "ValueError settings {'n_features': 4, "
    "'d_hidden': 2, 'lr': 0.1}: SparseUniform needs feature_probability; add it to base, or as an axis",
    "tms.train(cfg, [1, 2])": "TypeError data=1 is no distribution: give an object such as tms.SparseU",
    "tms.train(cfg, data, seeds=[0.5])": "ValueError seeds=0.5: must be a whole number",
    "tms.train(cfg, data, seeds=True)": "ValueError seeds=True: must be a whole number",
    "tms.train(cfg, data, steps=np.float64(2.5))": "ValueError steps=2.5: must be a whole number",
    "tms.OneHot(2.5)": "ValueError n_features=2.5: must be a whole number",
    "tms.ToyConfig(True, 2)": "ValueError n_features=True: must be a whole number",
    "tms.ToyConfig(4, 2, n_heads=None)": "ValueError n_heads=None: must be a whole number",
    "tms.KHot(4, k=2.5)": "ValueError k=2.5: must be a whole number",
    "tms.SparseUniform(4, '0.3')": "ValueError feature_probability='0.3': must be a number, or one per feature",
    "tms.SparseUniform(4, True)": "ValueError feature_probability=True: must be a number, or one per feature",
    "tms.SparseUniform(4, [0.1, 'x'])": "ValueError feature_probability='x': must be a number, or one per feature",
    "tms.SparseUniform(4, 0.3, low=False)": "ValueError low=False: must be a number",
    "tms.Adam(lr='0.1')": "ValueError lr='0.1': must be a number",
    "data.sample(2.5, seed=0)": "ValueError batch=2.5: must be a whole number",
    "data.sample(2, seed=0.5)": "ValueError seed=0.5: must be a whole number",
    "data.sample(2, seed=[0, True])": "ValueError seed=True: must be a whole number",
    "data.sample(2, seed=-1)": "ValueError seed=-1, step=0: must be in [0, 2^63)",
    "data.sample(2, seed=2**64)": "ValueError seed=18446744073709551616, step=0: must be in [0, 2^63)",
    "data.sample(2, seed=0, step=-1)": "ValueError seed=0, step=-1: must be in [0, 2^63)",
    "tms.Samples([[1.0, 2.0], [3.0]])": "ValueError samples must be a table of numbers (sample, feature)",
    "tms.Samples(torch.tensor([[1.0, torch.nan]]))": "ValueError sample 0 is not finite; leave it out",
    "tms.train(cfg, data, init=tms.train(cfg, data, seeds=2, steps=1))": "ValueError init has 2 models for 1 seeds: "
    "give one per seed, seeds=2",
}


def test_mistakes_are_answered_with_what_to_type(run_python):
    said = run_python(MISTAKES.replace("LINES", repr(list(SAID)))).splitlines()
    assert len(said) == len(SAID)
    for (line, wanted), answer in zip(SAID.items(), said, strict=True):
        assert answer.startswith(wanted), line


def test_signatures_are_as_written_and_functions_can_be_pickled():
    import inspect
    import pickle

    assert list(inspect.signature(tms.ToyConfig).parameters)[:3] == ["n_features", "d_hidden", "tied"]
    assert list(inspect.signature(tms.train).parameters)[:3] == ["cfg", "data", "seeds"]
    for function in (tms.train, tms.geometry.name_polytope, tms.SparseUniform):
        assert pickle.loads(pickle.dumps(function)) is function
    assert pickle.loads(pickle.dumps(DATA)) == DATA


# Numbers, seeds, optimizers, init


def test_the_version_is_the_package_s():
    assert tms.__version__ == version("tms-hooks")


def test_a_folder_of_a_single_toy_names_its_loader(tmp_path):
    toy = tms.ToyModel(CFG)
    toy.save_pretrained(tmp_path / "toy")
    with pytest.raises(FileNotFoundError, match=r"a single toy's is read by `ToyModel.from_pretrained`"):
        tms.load(tmp_path / "toy")
    with pytest.raises(ValueError, match=r"holds a toy: tms_hooks.ToyModel.from_pretrained reads it"):
        probes.load_transformer(tmp_path / "toy")
    train().save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"the run of many toys, which tms_hooks.load reads"):
        probes.load_transformer(tmp_path / "run")


def test_one_stage_needs_no_list():
    assert train(stages="joint").recipe == train(stages=["joint"]).recipe


def test_seeds_may_be_counted_and_optimizers_named():
    assert train(seeds=3).recipe == train(seeds=range(3)).recipe
    assert train(optimizer="adam").recipe.optimizer == tms.Adam()
    assert train(optimizer="RMSprop").recipe.optimizer == tms.RMSprop()


def test_numbers_of_any_library_are_plain_before_training(run_python, tmp_path):
    script = f"""
import numpy as np, torch, tms_hooks as tms
cfg = tms.ToyConfig(np.int64(4), torch.tensor(2))
data = tms.SparseUniform(torch.tensor(4), np.full(4, 0.5, dtype=np.float32))
optimizer = tms.SGD(lr=torch.tensor(0.25), momentum=np.float32(0.5))
run = tms.train(cfg, data, seeds=torch.arange(2), steps=torch.tensor(3), batch_size=np.int32(8), optimizer=optimizer,
                importance=np.ones(4), record_every=np.int16(2), checkpoint={str(tmp_path / "checkpoints")!r})
assert tms.load(run.save({str(tmp_path / "run")!r})).recipe == run.recipe
recipe = run.recipe
values = [recipe.seeds, recipe.steps, recipe.batch_size, recipe.record_every, recipe.data, optimizer.lr]
print(*values, tms.Copula(3, np.float64(0.5), torch.tensor(0.25)).rho)
"""
    data = "SparseUniform(n_features=4, feature_probability=(0.5, 0.5, 0.5, 0.5), low=0.0, high=1.0)"
    assert run_python(script) == f"(0, 1) (3,) 8 2 {data} 0.25 0.25\n"


def test_numbers_and_pairs_of_any_library_are_plain_in_every_description(run_python):
    script = """
import numpy as np, torch, tms_hooks as tms
cfg, data, half = tms.ToyConfig(4, 2, n_heads=1), tms.SparseUniform(4, 0.3), torch.tensor(0.5)
print(tms.losses.Lp(torch.tensor(4)), tms.Lasso(half), tms.Residual(half, matrix_seed=np.int64(1)))
sample = data.sample(torch.tensor(3), seed=torch.tensor(1), step=np.int64(2))
print(sample.equal(data.sample(3, seed=1, step=2)))
print(tms.ToyModel(cfg, seed=torch.tensor(1)).W_E.equal(tms.ToyModel(cfg, seed=1).W_E))
for pairs in ((2, 3), np.array([[2, 3]]), torch.tensor([[2, 3]]), torch.tensor([[[2, 3]]])):
    run = tms.train(cfg, data, qk_pairs=pairs, steps=1, batch_size=4, device=torch.device("cpu"))
    print(run.recipe.qk_pairs, run.provenance["device"])
"""
    assert run_python(script).splitlines() == [
        "Lp(p=4) Lasso(strength=0.5) Residual(noise=0.5, matrix_seed=1)",
        *["True"] * 2,
        *["(((2, 3),),) cpu"] * 4,
    ]


def test_one_models_directions_are_drawn_and_models_are_numbered():
    W = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
    one, both = tms.plots.feature_arrows(W[0]), tms.plots.feature_arrows(W.bfloat16())
    assert len(both.data) == 2 * len(one.data)
    assert [title.text for title in both.layout.annotations] == ["model 0", "model 1"]


def test_a_run_to_begin_with_gives_its_weights_and_says_so_once(hints):
    run = train(seeds=2)
    wanted = train(seeds=2, init=[model.state_dict() for model in run.models])
    assert not hints.messages
    assert train(seeds=2, init=run).W_E.equal(wanted.W_E)
    assert train(seeds=2, init=run.models).W_E.equal(wanted.W_E)
    [hint] = hints.messages
    assert "only the weights are taken" in hint
    assert "run.resume(steps=...) goes on exactly" in hint


# Samples of your own


@pytest.mark.parametrize("make", [lambda x: x, lambda x: x.numpy(), lambda x: xr.DataArray(x.numpy())])
def test_a_table_is_data(make):
    x = DATA.sample(50, seed=1)
    recipe = train(data=make(x)).recipe
    assert recipe.data == tms.Samples(x)
    assert recipe.data.dataset().equal(x)
    whole = train(data=make(x), batch_size=None, steps=1)
    untrained = tms.ToyModel(CFG)
    assert_close(whole.history.loss.values[0, 0], (untrained(x) - x).square().mean(0).detach().numpy())


def test_samples_are_drawn_alike_by_both_engines_and_have_exact_moments():
    pytest.importorskip("numba", reason="the fused engine is the optional extra 'fast'")
    x = DATA.sample(7, seed=1, dtype=torch.float64)
    runs = [train(data=x, batch_size=33, seeds=3, steps=40, engine=engine) for engine in ("torch", "fused")]
    assert_close(runs[0].W_E, runs[1].W_E, rtol=0, atol=1e-5)
    data = tms.Samples(x)
    drawn = data.sample(100_000, seed=0, dtype=torch.float64)
    assert {tuple(row) for row in drawn.tolist()} == {tuple(row) for row in x.tolist()}
    assert_close(drawn.mT @ drawn / len(drawn), data.second_moment(), rtol=0, atol=0.01)
    assert_close((drawn != 0).double().mean(0), data.active_probability(), rtol=0, atol=0.01)
    assert_close(data.active_moment(), (x != 0).double().mT @ x / 7)
    assert hash(data) == hash(tms.Samples(x.numpy()))
    assert repr(data) == "Samples(n_features=4)"


# Cross-entropy


def test_cross_entropy_asks_for_targets_that_sum_to_one():
    softmax = tms.ToyConfig(4, 2, output_act="softmax")
    for data in (DATA, tms.KHot(4, 2), tms.KHot(4, 1, values="uniform")):
        with pytest.raises(ValueError, match=r"targets sum to .*: they must be shares that sum to 1; use OneHot data"):
            train(softmax, data, loss="cross_entropy")
    shares = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.25, 0.25, 0.5]])
    for data in (tms.OneHot(4), tms.KHot(4, 1), shares):
        assert train(softmax, data, loss="cross_entropy", batch_size=None).completed_steps == 5


# What is seen


def test_a_run_shows_what_it_is_and_not_its_weights():
    run = train(tms.ToyConfig(4, 2, tied=False), tms.SparseUniform(4, 0.25), seeds=7)
    assert repr(run).startswith("<Run: 7 toys, 4 features in 2 dimensions, step 5 of 5, final loss 0.")
    card = run._repr_html_()
    assert "tied=False" in card
    assert "SparseUniform(n_features=4, feature_probability=0.25" in card
    assert "&lt;Run: 7 toys" in card
    assert card.count("<tr>") < 7
    assert len(card) < 2_000


def test_the_face_lists_what_one_needs():
    assert {"ToyModel", "plots", "losses", "Distribution", "Optimizer", "Samples", "train", "geometry"} <= set(dir(tms))
    assert not {"Any", "TYPE_CHECKING", "import_module"} & set(dir(tms))


# Arrays of any library


@pytest.mark.parametrize(
    "make", [torch.Tensor.numpy, lambda W: xr.DataArray(W.numpy()), lambda W: W.clone().requires_grad_()]
)
def test_geometry_and_plots_take_any_arrays(make):
    W = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert tms.geometry.name_polytope(make(W)) == "square"
    assert_close(tms.geometry.dimensionality(make(W)).detach(), torch.full((4,), 0.5))
    assert_close(tms.geometry.rotate_onto(make(W), reference=make(W)).detach(), W)
    pytest.importorskip("plotly", reason="figures are the optional extra 'plots'")
    drawn = tms.plots.feature_arrows(make(W[None]), ["square"])
    assert drawn == tms.plots.feature_arrows(W[None].numpy(), ["square"])
    lines = {"loss": (make(W[0]), make(W[1]))}
    assert tms.plots.curves(lines, "x", "y") == tms.plots.curves({"loss": (W[0].numpy(), W[1].numpy())}, "x", "y")


def test_whole_numbers_are_weights_too():
    assert tms.geometry.name_polytope(np.array([[1, 0], [-1, 0]])) == "digon"


def test_weights_in_columns_are_pointed_out_once(hints):
    W = tms.geometry.ideal_polytopes(6)["hexagon"]
    assert tms.geometry.name_polytope(W) == "hexagon"
    assert not hints.messages
    for _ in range(2):
        tms.geometry.name_polytope(W.mT)
        tms.geometry.dimensionality(W.mT)
    [hint] = hints.messages
    assert "W of shape (2, 6) is read as 2 features in 6 hidden dimensions, a row each" in hint
    assert "W.mT" in hint


# Torch's default type, and the engine that is missing


def test_the_default_type_of_torch_changes_nothing(run_python):
    script = """
import torch, tms_hooks as tms
cfg = tms.ToyConfig(4, 2, tied=False, hidden_bias=True, unit_norm=True)
def bits():
    runs = [tms.train(cfg, tms.SparseUniform(4, 0.3), steps=5, engine=engine) for engine in ("auto", "torch")]
    trained = [tensor for run in runs for tensor in (*run.weights.values(), run.final_loss)]
    return trained + list(tms.ToyModel(cfg, seed=3).parameters())
before = bits()
torch.set_default_dtype(torch.float64)
print(all(a.dtype == b.dtype and a.equal(b) for a, b in zip(before, bits(), strict=True)))
"""
    assert run_python(script) == "True\n"


def test_without_numba_auto_says_once_that_it_is_slow(run_python):
    script = """
import logging, sys
sys.modules["numba"] = None
logging.basicConfig(stream=sys.stdout, format="%(message)s")
import tms_hooks as tms
for _ in range(2):
    print(tms.train(tms.ToyConfig(3, 2), tms.OneHot(3), steps=1).provenance["engine"])
"""
    said, *engines = run_python(script).splitlines()
    assert said.startswith("engine='auto' takes the torch engine, which is many times slower than fused: it is not")
    assert "pip install 'tms-hooks[fast]'" in said
    assert engines == ["torch", "torch"]


# Arguments that are not there


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: probes.linear_probe(None, None, None, hook="hook_hidden"), "linear_probe .* did you mean 'hooks'"),
        (lambda: probes.patch_sweep(None, None, None, None, site=[]), "patch_sweep .* did you mean 'sites'"),
        (lambda: probes.qk_circuit(None, 0, 0, ofset=1), "qk_circuit .* did you mean 'offset'"),
        (lambda: tms.theory.polygon(5, biased=True), "polygon has no argument 'biased'; did you mean 'bias'"),
        (lambda: tms.theory.best_polygon(6, prob=0.1), "best_polygon has no argument 'prob'; choose from|did you mean"),
        (lambda: tms.landscape.exact_loss({}, CFG, DATA, importances=1), "exact_loss .* did you mean 'importance'"),
        (lambda: tms.landscape.critical_point(None, dat=DATA), "critical_point .* did you mean 'data'"),
    ],
)
def test_an_argument_that_is_not_there_is_answered_with_the_nearest(call, said):
    with pytest.raises(TypeError, match=said):
        call()


@pytest.mark.parametrize("package", ["probes", "tms_hooks.theory", "tms_hooks.landscape"])
def test_every_function_on_offer_explains_its_arguments_and_can_be_pickled(package):
    face = importlib.import_module(package)
    each = (getattr(face, name) for name in face.__all__)
    functions = [function for function in each if callable(function) and not isinstance(function, type)]
    assert len(functions) > 4
    for function in functions:
        assert pickle.loads(pickle.dumps(function)) is function
        kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            with pytest.raises(TypeError, match=f"{function.__name__} has no argument 'nonsense_'; "):
                function(nonsense_=1)


def test_what_has_the_name_of_a_module_stays_what_one_calls(run_python):
    code = """
import tms_hooks as tms
import tms_hooks.train, tms_hooks.sweep, tms_hooks.training.recipe
from tms_hooks.train import choose_engine
for name in ("plots", "theory", "landscape", "geometry"):
    assert getattr(tms, name).__name__ == f"tms_hooks.{name}", name
    assert name in dir(tms)
for name in ("train", "sweep", "load", "sweep_toml"):
    assert callable(getattr(tms, name)) and name in dir(tms), name
assert set(dir(tms)) == set(tms.__all__)
tms.train(tms.ToyConfig(3, 2), tms.OneHot(3), steps=1, progress=False)
"""
    run_python(code)


def test_a_named_tuple_that_was_asked_for_by_name_is_still_made():
    out = tms.ToyOutput(torch.ones(1, 2, 3), torch.zeros(1, 1, 2, 2))
    assert out._fields == ("reconstruction", "attn_scores")
    assert isinstance(tms.ToyModel(tms.ToyConfig(3, 2, n_heads=1))(torch.ones(1, 2, 3)), tms.ToyOutput)
