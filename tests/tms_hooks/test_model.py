"""`ToyModel`: numbers worked by hand, every hook point of the contract, and the module's manners."""

import copy
from itertools import product

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import tms_hooks as tms
from tms_hooks.models import forward

PLAIN = {"hook_embed", "hook_hidden", "hook_unembed", "hook_out"}
ATTENTION = {"blocks.0.attn.hook_q", "blocks.0.attn.hook_k", "blocks.0.attn.hook_attn_scores"}
MLP = {"blocks.0.mlp.hook_pre", "blocks.0.mlp.hook_post"}
STREAM = {"blocks.0.hook_resid_pre", "blocks.0.hook_mlp_out", "blocks.0.hook_resid_post"}

SHAPES = [  # every combination of heads, MLP and tying that a config allows
    {"tied": tied, "n_heads": heads, "d_mlp": d_mlp, "bottleneck": bottleneck}
    for tied, heads, (d_mlp, bottleneck) in product(
        (True, False),
        (0, 2),
        ((None, "embed->unembed"), (5, "embed->mlp.in"), (5, "mlp.out->unembed"), (5, "residual")),
    )
]
SWITCHES = [
    {"output_bias": False},
    {"hidden_bias": True},
    {"hidden_act": "relu", "hidden_bias": True},
    {"hidden_act": "softmax", "output_act": "identity"},
    {"output_act": "gelu"},
    {"output_act": "softmax"},
    {"unit_norm": True},
    {"unit_norm": True, "tied": False},
    {"unit_norm": "write", "tied": False},
    {"unit_norm": "read", "tied": False},
    {"unit_norm": True, "scale": "after"},
    {"unit_norm": "read", "scale": "after", "tied": False, "output_act": "softmax"},
    {"n_heads": 2, "head_bias": True, "d_head": 3},
    {"n_heads": 2, "head_bias": True, "d_mlp": 5, "bottleneck": "residual", "hidden_act": "relu"},
    {"d_mlp": 5, "n_mlps": 2, "bottleneck": "residual", "hidden_bias": True},
    {"init": "linear", "tied": False, "hidden_bias": True},
    {"d_out": 2, "tied": False},
    {"d_out": 7, "d_mlp": 5},
    {"d_out": 7, "tied": False, "unit_norm": True, "n_heads": 1},
]


def toy(seed=0, **changes):
    """A toy in float64 whose biases and scale are not at their neutral values."""
    model = tms.ToyModel(tms.ToyConfig(**{"n_features": 4, "d_hidden": 3, **changes}), seed=seed).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2].startswith("b_"):
                parameter.copy_(torch.linspace(0.1, 0.3, parameter.numel()).view(parameter.shape))
            if name == "scale":
                parameter.fill_(1.5)
    return model


def inputs(model, batch=6, pos=3, seed=1):
    data = tms.SparseUniform(n_features=model.cfg.n_features, feature_probability=0.7)
    x = data.sample(batch * pos, seed=seed, dtype=torch.float64)
    return x.unflatten(0, (batch, pos)) if model.cfg.n_heads else x


def flat(out):
    return torch.cat([part.flatten() for part in (out if isinstance(out, tuple) else (out,))])


every_shape = pytest.mark.parametrize("changes", SHAPES + SWITCHES, ids=str)


# Numbers by hand


def test_plain_tied_model_by_hand():
    model = tms.ToyModel(tms.ToyConfig(n_features=3, d_hidden=2))
    with torch.no_grad():
        model.W_E.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]))
        model.b_U.copy_(torch.tensor([0.0, 0.5, 0.25]))
    out, cache = model.run_with_cache(torch.tensor([[1.0, 0.5, 0.0]]))
    assert_close(cache["hook_hidden"], torch.tensor([[1.0, 1.0]]))  # 1 (1, 0) + 0.5 (0, 2)
    assert_close(cache["hook_unembed"], torch.tensor([[1.0, 2.5, -0.75]]))  # dot products + bias
    assert_close(out, torch.tensor([[1.0, 2.5, 0.0]]))


def test_untied_model_with_hidden_bias_by_hand():
    model = tms.ToyModel(
        tms.ToyConfig(n_features=2, d_hidden=1, tied=False, hidden_bias=True, hidden_act="relu", output_act="identity")
    )
    with torch.no_grad():
        model.W_E.copy_(torch.tensor([[2.0], [-1.0]]))
        model.W_U.copy_(torch.tensor([[3.0, -1.0]]))
        model.b_hidden.copy_(torch.tensor([-0.5]))
        model.b_U.copy_(torch.tensor([0.0, 10.0]))
    out, cache = model.run_with_cache(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert_close(cache["hook_embed"], torch.tensor([[2.0], [-1.0]]))
    assert_close(cache["hook_hidden"], torch.tensor([[1.5], [0.0]]))
    assert_close(out, torch.tensor([[4.5, 8.5], [0.0, 10.0]]))


def test_attention_score_is_the_formula_by_hand():
    """The logit of the pair (0, 1) is h_0 W_Q W_K^T h_1, for each head, with no scale, mask or softmax."""
    model = toy(n_heads=2, d_head=2)
    x = inputs(model)
    out, cache = model.run_with_cache(x)
    for head in range(2):
        omega = model.W_Q[0, head] @ model.W_K[0, head].T
        for b, i, j in product(range(2), range(3), range(3)):
            h = cache["hook_hidden"][b]
            assert_close(out.attn_scores[b, head, i, j], h[i] @ omega @ h[j])


def test_attention_score_with_biases_is_the_formula_by_hand():
    """(h_0 W_Q + b_Q) . (h_1 W_K + b_K): one head of one dimension, h_0 = 1, h_1 = 2."""
    model = tms.ToyModel(tms.ToyConfig(n_features=2, d_hidden=1, n_heads=1, head_bias=True))
    with torch.no_grad():
        for name, value in {"W_E": [[1.0], [2.0]], "b_Q": [[[0.5]]], "b_K": [[[-4.0]]]}.items():
            getattr(model, name).copy_(torch.tensor(value))
        model.W_Q[:], model.W_K[:] = 3.0, 5.0
    out = model(torch.eye(2)[None])
    assert_close(out.attn_scores[0, 0], torch.tensor([[3.5 * 1, 3.5 * 6], [6.5 * 1, 6.5 * 6]]))


def test_a_residual_stream_by_hand():
    """Two features in one dimension: a neuron reads 1 or -2, and the next block's reads what that has become."""
    cfg = tms.ToyConfig(
        n_features=2, d_hidden=1, d_mlp=1, n_mlps=2, bottleneck="residual", output_act="identity", output_bias=False
    )
    model = tms.ToyModel(cfg)
    with torch.no_grad():
        model.W_E.copy_(torch.tensor([[1.0], [-2.0]]))
        for block, read, write in zip(model.blocks, (3.0, -1.0), (0.5, 10.0), strict=True):
            block.mlp.W_in.fill_(read)
            block.mlp.W_out.fill_(write)
    out, cache = model.run_with_cache(torch.eye(2))
    # 1 -> 1 + 0.5 relu(3) = 2.5 -> 2.5 + 10 relu(-2.5) = 2.5; -2 -> -2 + 0 -> -2 + 10 relu(2) = 18
    assert_close(cache["blocks.0.hook_mlp_out"], torch.tensor([[1.5], [0.0]]))
    assert_close(cache["blocks.1.hook_resid_pre"], torch.tensor([[2.5], [-2.0]]))
    assert_close(cache["blocks.1.hook_resid_post"], torch.tensor([[2.5], [18.0]]))
    assert_close(out, torch.tensor([[2.5, -5.0], [18.0, -36.0]]))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("identity", [-1.0, 0.0, 2.0]),
        ("relu", [0.0, 0.0, 2.0]),
        ("gelu", [-0.15865525, 0.0, 1.95449974]),  # x Phi(x): -Phi(-1), 0, 2 Phi(2)
        ("softmax", [0.04201007, 0.11419520, 0.84379473]),  # e^-1, 1, e^2 over their sum
    ],
)
def test_activations_by_hand(kind, expected):
    found = forward.activation(torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64), kind)
    assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)


def test_mlp_before_the_bottleneck_and_after_it():
    for bottleneck, tied in product(("embed->mlp.in", "mlp.out->unembed"), (True, False)):
        model = toy(d_mlp=5, bottleneck=bottleneck, tied=tied, output_act="identity")
        x = inputs(model)
        mlp = (x @ model.W_E @ model.W_in[0]).relu() @ model.W_out[0]
        expected = mlp if bottleneck == "embed->mlp.in" else mlp @ model.W_U
        assert_close(model(x), expected + model.b_U)


# Hook points


@every_shape
def test_hook_points_of_the_contract(changes):
    model = toy(**changes)
    expected = PLAIN | (ATTENTION if model.cfg.n_heads else set()) | (MLP if model.cfg.d_mlp else set())
    if model.cfg.bottleneck == "residual":
        expected |= STREAM
    if model.cfg.n_mlps > 1:
        expected |= {name.replace("blocks.0", "blocks.1") for name in MLP | STREAM}
    assert set(model.hook_dict) == expected
    out, cache = model.run_with_cache(inputs(model))
    assert set(cache) == expected
    assert_close(flat(out), flat(model(inputs(model))))


@every_shape
def test_no_hook_point_is_dead(changes):
    """Patching any activation changes the output and leaves every activation upstream of it as it was."""
    model = toy(**changes)
    x = inputs(model)
    clean, clean_cache = model.run_with_cache(x)
    for name in model.hook_dict:

        def patch(value, hook):
            return value + torch.linspace(0.5, 1.0, value.shape[-1], dtype=value.dtype)

        patched = model.run_with_hooks(x, fwd_hooks=[(name, patch)])
        assert (flat(patched) - flat(clean)).abs().max() > 1e-3, name
        with model.hooks(fwd_hooks=[(name, patch)]):
            _, cache = model.run_with_cache(x)
        moved = {other for other in model.hook_dict if not torch.equal(cache[other], clean_cache[other])}
        assert name in moved
        assert "hook_embed" not in moved or name == "hook_embed"
        if name == "hook_embed":
            assert {"hook_hidden", "hook_unembed", "hook_out"} <= moved
        if name in ATTENTION:
            assert not moved & PLAIN
        if name == "blocks.0.hook_resid_pre" and model.cfg.n_heads:
            assert moved >= ATTENTION  # the heads read the stream where it is


def test_shapes_of_activations():
    model = toy(n_heads=2, d_head=1, d_mlp=5)
    _, cache = model.run_with_cache(inputs(model, batch=6, pos=7))
    assert {name: tuple(value.shape) for name, value in cache.items()} == {
        "hook_embed": (6, 7, 3),
        "hook_hidden": (6, 7, 3),
        "blocks.0.mlp.hook_pre": (6, 7, 5),
        "blocks.0.mlp.hook_post": (6, 7, 5),
        "hook_unembed": (6, 7, 4),
        "hook_out": (6, 7, 4),
        "blocks.0.attn.hook_q": (6, 7, 2, 1),
        "blocks.0.attn.hook_k": (6, 7, 2, 1),
        "blocks.0.attn.hook_attn_scores": (6, 2, 7, 7),
    }


def test_hooks_are_gone_after_use_also_on_an_exception():
    model = toy()
    x = inputs(model)
    clean = model(x)

    def fail(value, hook):
        raise RuntimeError("from a hook")

    with pytest.raises(RuntimeError, match="from a hook"):
        model.run_with_hooks(x, fwd_hooks=[("hook_hidden", fail)])
    with pytest.raises(RuntimeError, match="from a hook"), model.hooks(fwd_hooks=[("hook_out", fail)]):
        model(x)
    assert torch.equal(model(x), clean)
    assert not any(point.has_hooks() for point in model.hook_points())


def test_backward_hooks_see_the_gradient():
    model = toy(tied=False)
    x, seen = inputs(model), {}

    def keep(gradient, hook):
        seen[hook.name] = gradient.clone()

    with model.hooks(bwd_hooks=[(name, keep) for name in PLAIN]):
        out = model(x)
        out.square().sum().backward()
    assert set(seen) == PLAIN
    assert_close(seen["hook_out"], 2 * out.detach())
    through_relu = 2 * out.detach() * (out.detach() > 0)
    assert_close(seen["hook_unembed"], through_relu)
    assert_close(seen["hook_hidden"], through_relu @ model.W_U.detach().T)


def test_cache_of_gradients():
    model = toy(n_heads=1)

    class Loss(nn.Module):
        def forward(self, x):
            return flat(model(x)).square().sum()

    cache, forward_hooks, backward_hooks = model.get_caching_hooks(incl_bwd=True)
    with model.hooks(fwd_hooks=forward_hooks, bwd_hooks=backward_hooks):
        Loss()(inputs(model)).backward()
    assert set(cache) == set(model.hook_dict) | {f"{name}_grad" for name in model.hook_dict}


# Weights


@every_shape
def test_weights_have_the_names_and_shapes_of_the_contract(changes):
    model = toy(**changes)
    n, m, cfg = 4, 3, model.cfg
    assert model.W_E.shape == (n, m)
    assert (model.b_U is not None) == cfg.output_bias
    assert (model.b_hidden is not None) == cfg.hidden_bias
    if cfg.bottleneck == "embed->mlp.in":
        assert not hasattr(model, "W_U")
        assert model.W_out.shape == (1, 5, cfg.n_outputs)
    else:
        assert model.W_U.shape == (m, cfg.n_outputs)
    if cfg.n_heads:
        assert model.W_Q.shape == model.W_K.shape == (1, cfg.n_heads, m, m)
    if cfg.head_bias:
        assert model.b_Q.shape == model.b_K.shape == (1, cfg.n_heads, m)
    if cfg.d_mlp:
        assert model.W_in.shape == (cfg.n_mlps, m, 5)
        assert model.W_out.shape[0] == cfg.n_layers == cfg.n_mlps
    assert dict(model.named_parameters()).keys() == forward.weight_shapes(cfg).keys()


def test_missing_weights_say_which_switch_is_off():
    with pytest.raises(AttributeError, match="this toy has no W_Q: n_heads=0"):
        toy().W_Q
    with pytest.raises(AttributeError, match="this toy has no W_in: d_mlp=None"):
        toy().W_in
    with pytest.raises(AttributeError, match="this toy has no b_Q: head_bias=False"):
        toy(n_heads=1).b_Q
    with pytest.raises(AttributeError, match="W_V"):
        toy(n_heads=1).W_V


def test_W_has_features_in_columns_as_in_the_paper():
    model = toy()
    assert torch.equal(model.W, model.W_E.T)
    x = inputs(model)[0]
    assert_close(model.run_with_cache(x[None])[1]["hook_hidden"][0], model.W @ x)


def test_tied_means_one_parameter_and_one_optimizer_step():
    model = toy(output_bias=False)
    assert [name for name, _ in model.named_parameters()] == ["W_E"]
    before = model.W_E.detach().clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model(inputs(model)).square().sum().backward()
    optimizer.step()
    assert_close((model.W_E.detach() - before).abs(), torch.full_like(before, 0.01), rtol=1e-5, atol=0)
    assert torch.equal(model.W_U, model.W_E.T)


def test_tied_gradient_is_the_sum_of_both_uses():
    tied, untied = toy(), toy(tied=False)
    with torch.no_grad():
        untied.W_E.copy_(tied.W_E)
        untied.W_U.copy_(tied.W_U)
        untied.b_U.copy_(tied.b_U)
    for model in (tied, untied):
        model(inputs(model)).square().sum().backward()
    assert_close(tied.W_E.grad, untied.W_E.grad + untied.W_U.grad.T)


def test_views_write_through():
    model = toy(n_heads=1, d_mlp=5, bottleneck="mlp.out->unembed")
    with torch.no_grad():
        model.W_U[0, 1] = 7.0
        model.W_Q[0, 0, 0, 0] = 8.0
        model.W_out[0, 2, 1] = 9.0
    assert model.W_E[1, 0] == 7
    assert model.state_dict()["blocks.0.attn.W_Q"][0, 0, 0] == 8
    assert model.state_dict()["blocks.0.mlp.W_out"][2, 1] == 9


@pytest.mark.parametrize("name", ["W_U", "W_Q", "W_in"])
def test_a_view_cannot_be_replaced_behind_the_models_back(name):
    """The forward pass would not see a Parameter put over a view, so assignment is refused."""
    model = toy(n_heads=1, d_mlp=5, bottleneck="mlp.out->unembed")
    for value in (torch.zeros(1), nn.Parameter(torch.zeros(1))):
        with pytest.raises(AttributeError, match=f"{name} is a view.*in place"):
            setattr(model, name, value)


@every_shape
def test_deepcopy_state_dict_and_from_weights_give_the_same_function(changes):
    model = toy(seed=3, **changes)
    x = inputs(model)
    twin = copy.deepcopy(model)
    fresh = tms.ToyModel(model.cfg, seed=4).double()
    assert not torch.equal(flat(fresh(x)), flat(model(x)))
    fresh.load_state_dict(model.state_dict())
    from_weights = tms.ToyModel.from_weights(model.cfg, model.state_dict())
    for other in (twin, fresh, from_weights):
        assert torch.equal(flat(other(x)), flat(model(x)))
        assert other.W_E is not model.W_E
    with torch.no_grad():
        twin.W_E.mul_(2)  # the copy is still tied to itself, and no longer to the model
    assert torch.equal(model.W_E, from_weights.W_E)
    if model.cfg.tied and hasattr(model, "W_U"):
        assert torch.equal(twin.W_U, twin.W_E.T)


def test_dtype_and_functional_call():
    model = toy(n_heads=1).float()
    x = inputs(model)
    assert model(x.float()).reconstruction.dtype == torch.float32
    doubled = {name: 2 * w.double() for name, w in model.state_dict().items()}
    called = torch.func.functional_call(model, doubled, (x,))
    assert_close(called, tms.ToyModel.from_weights(model.cfg, doubled)(x))


def test_the_seed_decides_the_weights_and_touches_no_global_state():
    state = torch.get_rng_state()
    a, b, c = toy(seed=1), toy(seed=1), toy(seed=2)
    assert torch.equal(a.W_E, b.W_E)
    assert not torch.equal(a.W_E, c.W_E)
    assert torch.equal(torch.get_rng_state(), state)


def test_initial_weights_are_xavier_of_each_matrix():
    """Standard deviation sqrt(2 / (fan_in + fan_out)), within 5 standard errors sd / sqrt(2 N)."""
    cfg = tms.ToyConfig(n_features=300, d_hidden=100, tied=False, n_heads=40, d_head=50, hidden_bias=True)
    weights = forward.init_weights(cfg, seed=0)
    for name, fans in {"W_E": 400, "W_U": 400, forward.W_Q: 150, forward.W_K: 150}.items():
        std, count = (2 / fans) ** 0.5, weights[name].numel()
        assert abs(float(weights[name].std()) - std) < 5 * std / (2 * count) ** 0.5
    assert not weights["b_hidden"].any()
    assert not weights["b_U"].any()


def test_initial_weights_of_nn_linear():
    """Uniform within 1 / sqrt(fan-in), biases too: the largest of N values is within 20 / N of the bound."""
    toys = {
        "plain": ({"tied": False, "hidden_bias": True}, {"W_E": 300, "W_U": 100, "b_hidden": 300, "b_U": 100}),
        "heads": ({"n_heads": 9, "d_head": 20, "head_bias": True}, dict.fromkeys(forward.HEADS, 100)),
        "mlp in": ({"d_mlp": 70}, {"W_E": 300, forward.W_IN: 100, forward.W_OUT: 70, "b_U": 70}),
        "mlp out": ({"d_mlp": 70, "bottleneck": "mlp.out->unembed", "hidden_bias": True}, {"b_hidden": 70, "b_U": 100}),
    }
    for changes, fans in toys.values():
        weights = forward.init_weights(tms.ToyConfig(n_features=300, d_hidden=100, init="linear", **changes), seed=0)
        for name, fan in fans.items():
            values = weights[name].flatten() * fan**0.5
            assert 1 - 20 / len(values) < values.abs().max() <= 1
            assert abs(float(values.square().mean()) - 1 / 3) < 5 * (4 / 45 / len(values)) ** 0.5
    linear = nn.Linear(300, 100)
    assert_close(linear.weight.abs().max(), torch.tensor(300**-0.5), rtol=1e-3, atol=0)  # as torch does it


def test_initial_weights_of_a_given_size():
    changes = {"n_features": 300, "d_hidden": 100, "n_heads": 2, "head_bias": True}
    weights = forward.init_weights(tms.ToyConfig(**changes, init="normal", init_std=0.02), seed=0)
    xavier = forward.init_weights(tms.ToyConfig(**changes), seed=0)
    for name, w in weights.items():
        if name.rpartition(".")[2].startswith("b_"):
            assert not w.any()
        else:
            assert_close(w / 0.02, xavier[name] / (2 / sum(w.shape[-2:])) ** 0.5)  # the same draw


def test_initial_weights_do_not_depend_on_the_default_type():
    cfg = tms.ToyConfig(n_features=3, d_hidden=2, unit_norm=True)
    usual = forward.init_weights(cfg, seed=0)
    torch.set_default_dtype(torch.float64)
    try:
        found = forward.init_weights(cfg, seed=0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(usual[name], w) for name, w in found.items())


# Unit norm


def test_a_scale_behind_the_activation_multiplies_what_it_gives():
    changes = {"unit_norm": True, "output_act": "relu"}
    before, after = toy(**changes), toy(**changes, scale="after")
    x = inputs(before)
    W = nn.functional.normalize(before.W_E, dim=-1)
    assert_close(before(x), (1.5 * x @ W @ W.T + before.b_U).relu())
    assert_close(after(x), 1.5 * (x @ W @ W.T + after.b_U).relu())


def test_unit_norm_ignores_the_length_of_directions_and_uses_the_scale():
    model = toy(unit_norm=True, output_act="identity", output_bias=False)
    x = inputs(model)
    directions = nn.functional.normalize(model.W_E, dim=-1)
    assert_close(model(x), 1.5 * x @ directions @ directions.T)
    before = model(x)
    with torch.no_grad():
        model.W_E.mul_(torch.tensor([[2.0], [3.0], [0.5], [1.0]]))
    assert_close(model(x), before)


@pytest.mark.parametrize(("which", "free"), [("write", "W_U"), ("read", "W_E")])
def test_unit_norm_of_one_side(which, free):
    model = toy(unit_norm=which, tied=False, output_act="identity", output_bias=False)
    x, fixed = inputs(model), {"W_U": "W_E", "W_E": "W_U"}[free]
    before = model(x)
    with torch.no_grad():
        getattr(model, fixed).mul_(3)
    assert_close(model(x), before)
    with torch.no_grad():
        getattr(model, free).mul_(3)
    assert_close(model(x), 3 * before)
    normalized = forward.normalize_weights(model.state_dict(), model.cfg)
    assert_close(normalized[fixed].norm(dim=-1 if fixed == "W_E" else -2), torch.ones(4).double())


# One mathematics for one model and a stack of them


@every_shape
def test_model_equals_forward_on_stacked_weights(changes):
    models = [toy(seed=seed, **changes) for seed in range(3)]
    cfg = models[0].cfg
    stacked = {name: torch.stack([m.state_dict()[name] for m in models]) for name in models[0].state_dict()}
    x = torch.stack([inputs(model, seed=seed) for seed, model in enumerate(models)])
    rows = x.flatten(1, 2) if cfg.n_heads else x
    hidden, _, out = forward.reconstruct(stacked, rows, cfg)
    if cfg.n_heads:
        scores = forward.attention_scores(stacked, hidden.unflatten(1, x.shape[1:3]))
    for i, model in enumerate(models):
        alone = model(x[i])
        assert_close(out[i].view(*x[i].shape[:-1], -1), alone.reconstruction if cfg.n_heads else alone)
        if cfg.n_heads:
            assert_close(scores[i], alone.attn_scores)


# Bad input


@pytest.mark.parametrize(
    ("changes", "shape"),
    [({}, (6, 5)), ({}, (4,)), ({}, (2, 3, 4)), ({"n_heads": 1}, (6, 4)), ({"n_heads": 1}, (6, 2, 5))],
)
def test_wrong_shapes_are_refused(changes, shape):
    axes = "'batch', 'pos', 'feature'" if changes else "'batch', 'feature'"
    with pytest.raises(ValueError, match=rf"input of shape .*this model takes \({axes}\) with 4 features"):
        toy(**changes)(torch.zeros(shape, dtype=torch.float64))


def test_unknown_hook_is_refused():
    with pytest.raises((KeyError, AttributeError, ValueError, AssertionError), match="hook_hiden"):
        toy().run_with_hooks(torch.eye(4).double(), fwd_hooks=[("hook_hiden", lambda value, hook: value)])
