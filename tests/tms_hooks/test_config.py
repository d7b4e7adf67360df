"""Configs: every switch is accepted, every impossible one is refused by value, rule and fix."""

import dataclasses
import json

import pytest

import tms_hooks as tms
from tms_hooks.errors import choice_error, did_you_mean


def config(**changes):
    return tms.ToyConfig(**{"n_features": 6, "d_hidden": 2, **changes})


# pytest runs with beartype on, which refuses a name outside a Literal before our own check can: those values are
# tested in `test_unknown_names_without_a_type_checker`.
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_features": 0}, r"n_features=0: must be at least 1"),
        ({"d_hidden": 0}, r"d_hidden=0: must be at least 1"),
        ({"d_hidden": -3}, r"d_hidden=-3: must be at least 1"),
        ({"n_heads": -1}, r"n_heads=-1: must be 0 \(no pseudo-attention\) or more"),
        ({"d_head": 2}, r"d_head=2 with n_heads=0: .*needs n_heads >= 1"),
        ({"n_heads": 1, "d_head": 0}, r"d_head=0 with n_heads=1: d_head must be at least 1"),
        ({"d_mlp": 0}, r"d_mlp=0: must be at least 1, or None"),
        ({"bottleneck": "embed->mlp.in"}, r"bottleneck='embed->mlp.in' with d_mlp=None: an MLP needs d_mlp"),
        ({"bottleneck": "embed->unembed", "d_mlp": 3}, r"bottleneck='embed->unembed' with d_mlp=3"),
        ({"head_bias": True}, r"head_bias=True with n_heads=0: .*give n_heads"),
        ({"bottleneck": "residual"}, r"bottleneck='residual' with d_mlp=None: an MLP needs d_mlp"),
        ({"d_mlp": 3, "n_mlps": 2}, r"n_mlps=2 with bottleneck='embed->mlp.in'.*bottleneck='residual'"),
        ({"d_mlp": 3, "n_mlps": 2, "bottleneck": "residual", "n_heads": 1}, r"n_mlps=2 .*n_heads=1: .*no heads"),
        ({"d_mlp": 3, "n_mlps": 0, "bottleneck": "residual"}, r"n_mlps=0 .* must be 1, or more"),
        ({"scale": "after"}, r"scale='after' with unit_norm=False: .*use unit_norm=True"),
        ({"init": "normal"}, r"init_std=None with init='normal': .*init_std=0.02"),
        ({"init_std": 0.1}, r"init_std=0.1 with init='xavier'"),
        ({"init": "normal", "init_std": -1.0}, r"init_std=-1.0: must be finite and not negative"),
        ({"d_out": 0}, r"d_out=0: must be at least 1"),
        ({"d_out": 4}, r"d_out=4 with tied=True: the transpose of W_E has 6 outputs; use tied=False"),
        ({"unit_norm": "read"}, r"unit_norm='read' with tied=True: .*use unit_norm=True or tied=False"),
        ({"unit_norm": "write"}, r"unit_norm='write' with tied=True"),
        ({"unit_norm": "read", "tied": False, "d_mlp": 3}, r"unit_norm='read' with bottleneck='embed->mlp.in'.*W_U"),
    ],
)
def test_impossible_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


UNKNOWN_NAMES = """
import tms_hooks as tms
for changes in ({"output_act": "rellu"}, {"hidden_act": "tanh"}, {"bottleneck": "embed->mlp", "d_mlp": 2},
                {"unit_norm": "writes", "tied": False}, {"d_mlp": 2.5}, {"init": "xavir"}, {"scale": "behind"}):
    try:
        tms.ToyConfig(n_features=6, d_hidden=2, **changes)
    except ValueError as error:
        print(error)
for build in (lambda: tms.KHot(n_features=3, k=1, values="binry"), lambda: tms.Adam(schedule="cosin"),
              lambda: tms.train(tms.ToyConfig(n_features=3, d_hidden=1), tms.OneHot(n_features=3), loss="ms"),
              lambda: tms.train(tms.ToyConfig(n_features=3, d_hidden=1), tms.OneHot(n_features=3), task=tms.Task),
              lambda: tms.train(tms.ToyConfig(n_features=3, d_hidden=1), tms.OneHot(n_features=3), optimizer=0.1),
              lambda: tms.train(tms.ToyConfig(n_features=3, d_hidden=1), [tms.OneHot(n_features=3), 0.5], seeds=[0, 0]),
              lambda: tms.train(tms.ToyConfig(n_features=3, d_hidden=1), tms.OneHot(n_features=3), batch_size="exat"),
              lambda: tms.train(tms.ToyConfig(n_features=3, d_hidden=1), tms.OneHot(n_features=3), engine="torchh"),
              lambda: tms.train(tms.ToyConfig(n_features=3, d_hidden=1), tms.OneHot(n_features=3), dtype="flot32"),
              lambda: tms.train(tms.ToyConfig(n_features=3, d_hidden=1), tms.OneHot(n_features=3), stages=["head"])):
    try:
        build()
    except (TypeError, ValueError) as error:
        print(error)
"""


def test_unknown_names_without_a_type_checker(run_python):
    assert run_python(UNKNOWN_NAMES).splitlines() == [
        "output_act='rellu' is not known; did you mean 'relu'?",
        "hidden_act='tanh' is not known; choose from identity, relu, gelu, softmax",
        "bottleneck='embed->mlp' is not known; did you mean 'embed->mlp.in'?",
        "unit_norm='writes' is not known; did you mean 'write'?",
        "d_mlp=2.5: must be a whole number",
        "init='xavir' is not known; did you mean 'xavier'?",
        "scale='behind' is not known; choose from before, after",
        "values='binry' is not known; did you mean 'binary'?",
        "schedule='cosin' is not known; did you mean 'cosine'?",
        "loss='ms' is not known; did you mean 'mse'?",
        "task=<class 'tms_hooks.tasks.Task'> is no task: give an object such as Reconstruct(), not its class, or a "
        "function",
        "optimizer=0.1: models are updated by rules of this library; give tms.Adam(lr=...)",
        "data=0.5 is no distribution: give an object such as tms.SparseUniform(6, 0.057), a tensor (sample, feature), "
        "or one of your own: a class(tms.Distribution) with the method _draw(keys, batch)",
        "batch_size='exat': must be at least 1, or None for the default, or 'exact' for the expectation",
        "engine='torchh' is not known; did you mean 'torch'?",
        "dtype='flot32' is not known; did you mean 'float32'?",
        "stage='head' is not known; did you mean 'heads'?",
    ]


def test_defaults_are_filled_in():
    assert config().bottleneck == "embed->unembed"
    assert config(d_mlp=5).bottleneck == "embed->mlp.in"
    assert config(n_heads=2).d_head == 2
    assert config(n_heads=2, d_head=1).d_head == 1
    assert config().d_head is None
    wider = dataclasses.replace(config(n_heads=1), d_hidden=5, d_mlp=3, d_head=None, bottleneck=None)
    assert (wider.d_head, wider.bottleneck) == (5, "embed->mlp.in")


def test_a_config_is_frozen_hashable_and_survives_json():
    cfg = config(
        n_heads=1, head_bias=True, d_mlp=4, bottleneck="residual", unit_norm=True, scale="after", init="linear"
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.d_hidden = 3
    assert hash(cfg) == hash(dataclasses.replace(cfg))
    assert tms.ToyConfig(**json.loads(json.dumps(dataclasses.asdict(cfg)))) == cfg


@pytest.mark.parametrize(
    ("changes", "layers"),
    [({}, 0), ({"n_heads": 1}, 1), ({"d_mlp": 3}, 1), ({"d_mlp": 3, "n_mlps": 4, "bottleneck": "residual"}, 4)],
)
def test_what_transformerlens_asks_of_a_config(changes, layers):
    cfg = config(**changes)
    assert (cfg.n_layers, cfg.d_model, cfg.d_vocab, cfg.n_key_value_heads, cfg.device) == (layers, 2, 6, None, "cpu")


def test_suggestions():
    assert did_you_mean("hook_hiden", ["hook_hidden", "hook_out"]) == "did you mean 'hook_hidden'?"
    assert did_you_mean("zzz", ["a", "b"]) == "choose from a, b"
    assert str(choice_error("loss", "mze", ["mse"])) == "loss='mze' is not known; did you mean 'mse'?"
