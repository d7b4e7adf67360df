"""Plain torch modules as hooked models: the points are where the outputs are, and every tool works on them."""

from functools import partial
from inspect import unwrap
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import probes
from probes.hooked import hook_points


class Net(nn.Module):
    """Of everything that returns something else: a recurrent layer and attention return tuples; one part never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(20, 6), nn.GRU(6, 6, batch_first=True)
        self.attention, self.out = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3))
        self.unused, self.W_E = nn.Linear(2, 2), self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x, _ = self.gru(self.embed(tokens))
        x = x + self.attention(x, x, x)[0]
        for block in self.blocks:
            x = x + block(x)
        return self.out(x)


@pytest.fixture
def net() -> Net:
    net = Net().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return net


TOKENS = torch.randint(0, 20, (40, 4), generator=torch.Generator().manual_seed(0))
PARTS = ["embed", "gru", "attention", "blocks.0", "blocks.1", "blocks.2", "out"]


def metric(out: Tensor) -> Tensor:
    return out[:, -1, 0] - out[:, -1, 1]


def test_points_hold_the_outputs_and_a_hook_replaces_them(net):
    model = probes.hook_modules(net, PARTS)
    seen: dict[str, Tensor] = {}

    def note(part: str, module: nn.Module, args: Any, out: Any) -> None:
        seen[part] = out[0] if isinstance(out, tuple) else out

    handles = [net.get_submodule(part).register_forward_hook(partial(note, part)) for part in PARTS]
    out, cache = model.run_with_cache(TOKENS)
    for handle in handles:
        handle.remove()
    assert list(cache) == [f"{part}.hook_out" for part in PARTS]
    for part in PARTS:
        assert torch.equal(cache[f"{part}.hook_out"], seen[part])
    assert torch.equal(out, net(TOKENS))
    edits = [("attention.hook_out", lambda value, hook: 0 * value), ("blocks.2.hook_out", lambda value, hook: -value)]
    x = net.gru(net.embed(TOKENS))[0]
    for i, block in enumerate(net.blocks):
        x = x + block(x) * (-1 if i == 2 else 1)
    assert_close(model.run_with_hooks(TOKENS, fwd_hooks=edits), net.out(x))


def test_the_module_stays_as_it_was(net):
    keys, hooked = list(net.state_dict()), probes.hook_modules(net, PARTS)
    calls: list[str] = []
    with hooked.hooks(fwd_hooks=[(lambda name: True, lambda value, hook: calls.append(hook.name))]):
        net(TOKENS)
        assert not calls
        hooked(TOKENS)
    assert calls == [f"{part}.hook_out" for part in PARTS]
    with pytest.raises(RuntimeError), hooked.hooks(fwd_hooks=[("embed.hook_out", lambda value, hook: value[..., :2])]):
        hooked(TOKENS)
    assert not any(part._forward_hooks for part in net.modules())
    assert list(net.state_dict()) == keys and hooked.W_E is net.W_E and hooked.gru is net.gru
    assert not any(point.training for point in hooked.hook_dict.values())


def test_every_tool_works_on_it(net):
    model = probes.hook_modules(net)
    audit = probes.audit_hooks(model, TOKENS)
    silent = {"blocks.hook_out", "unused.hook_out", "attention.out_proj.hook_out"}  # containers; read, never called
    assert set(audit.index[~audit.fires]) == silent
    assert audit.live[audit.fires].all()
    rows = probes.collect_activations(model, TOKENS, "embed.hook_out")["embed.hook_out"]
    assert torch.equal(rows, net.embed(TOKENS))
    assert probes.linear_probe(model, TOKENS, TOKENS[:, -1] < 10, "embed.hook_out").score.iloc[0] > 0.7
    clean, corrupted = TOKENS[:2], TOKENS[2:4]
    sites = [probes.Site(hook=f"{part}.hook_out", pos="each") for part in ("embed", "blocks.0", "blocks.1", "out")]
    sweep = probes.patch_sweep(model, clean, corrupted, metric, sites)
    one_by_one = []
    for hook, pos in zip(sweep["hook"], sweep["pos"], strict=True):
        source = probes.collect_activations(model, clean, hook)[hook]

        def patch(value: Tensor, hook: Any, source: Tensor = source, pos: int = pos) -> Tensor:
            return torch.cat([value[:, :pos], source[:, pos : pos + 1], value[:, pos + 1 :]], 1)

        one_by_one.append(metric(model.run_with_hooks(corrupted, fwd_hooks=[(hook, patch)])).mean().item())
    assert sweep.metric.to_numpy() == pytest.approx(one_by_one, rel=1e-5, abs=1e-6)
    assert_close(sweep.recovered[sweep["hook"] == "out.hook_out"].iloc[-1], 1.0)
    assert len(probes.attribution_sweep(model, clean, corrupted, metric, sites)) == len(sites) * 4
    path = probes.path_patch(model, clean, corrupted, metric, "embed.hook_out", "out.hook_out")
    assert path.recovered[0] == pytest.approx(1)
    space = probes.tangent_space(model, clean, "blocks.2.hook_out", None)
    assert_close(space.jacobian, net.out.weight.expand(2, -1, -1))


def test_its_weights_are_patched_and_copied(net):
    model, donor = probes.hook_modules(net, PARTS), probes.hook_modules(Net().eval(), PARTS)
    before = net.out.weight[0].clone()
    with probes.patch_weights(model, donor, {"out.weight": 0}):
        assert torch.equal(net.out.weight[0], donor.out.weight[0])
    assert torch.equal(net.out.weight[0], before)
    twin = probes.patched_copy(model, {"out.weight": torch.zeros(3, 6)}, {"out.weight": 0})
    assert twin.out.weight is not net.out.weight
    assert (twin(TOKENS)[..., 0] == net.out.bias[0]).all()
    acted: list[str] = []
    with twin.hooks(fwd_hooks=[("gru.hook_out", lambda value, hook: acted.append(hook.name))]):
        model(TOKENS)
        assert not acted
        twin(TOKENS)
    assert acted == ["gru.hook_out"]


def test_names(net):
    assert list(probes.hook_modules(net, "gru").hook_dict) == ["gru.hook_out"]
    model = probes.hook_modules(net, {"blocks.0": "hook_hidden", "": "hook_out"})
    _, cache = model.run_with_cache(TOKENS)
    assert list(cache) == ["hook_hidden", "hook_out"]
    assert torch.equal(cache["hook_out"], net(TOKENS))


def test_bad_input(net):
    with pytest.raises(TypeError, match=r"Net has no hook points: take probes\.hook_modules\(model, names\)"):
        unwrap(hook_points)(net)  # a user has no type checker in front of it
    with pytest.raises(KeyError, match="no submodule 'gruu'; did you mean 'gru'"):
        probes.hook_modules(net, ["gruu"])
    with pytest.raises(ValueError, match="no submodules to hook in Linear: name some, or ''"):
        probes.hook_modules(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="2 submodules are to have the hook 'x'"):
        probes.hook_modules(net, {"gru": "x", "out": "x"})
    model = probes.hook_modules(net, PARTS)
    with pytest.raises(TypeError, match="HookedModule has hook points already"):
        probes.hook_modules(model, PARTS)
    for call in (
        lambda: model.run_with_cache(TOKENS, names_filter="gru.hook_ot"),
        lambda: model.run_with_hooks(TOKENS, fwd_hooks=[("gru.hook_ot", metric)]),
    ):
        with pytest.raises(KeyError, match=r"no hook 'gru.hook_ot'; did you mean 'gru.hook_out'"):
            call()

    class Wordy(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": x}

    with pytest.raises(TypeError, match="submodule '0' returned dict: hook those that return a tensor"):
        probes.hook_modules(nn.Sequential(Wordy()), ["0"])(TOKENS)


class Twice(nn.Module):
    """One layer, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(x)))


@pytest.mark.parametrize(
    "tool",
    [
        lambda m, x: probes.collect_activations(m, x, "layer.hook_out"),
        lambda m, x: probes.patch_sweep(m, x, x + 1, lambda out: out.sum(-1), probes.Site("layer.hook_out", unit=0)),
        lambda m, x: probes.attribution_sweep(m, x, x + 1, lambda out: out.sum(-1), "layer.hook_out"),
        lambda m, x: probes.tangent_space(m, x, "layer.hook_out"),
    ],
    ids=["collect", "sweep", "attribution", "tangent"],
)
def test_a_layer_that_is_used_twice_has_no_one_activation(tool: Any) -> None:
    model, x = probes.hook_modules(Twice().eval()), torch.rand(3, 4)
    with pytest.raises(ValueError, match="fires more than once in a run, as in a layer that is used again"):
        tool(model, x)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


class Mixing(nn.Module):
    """Every output is minus the mean over the batch, as of a batch norm that keeps no statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        self.norm = nn.BatchNorm1d(5, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


def test_patches_do_not_meet_in_a_model_that_mixes_examples() -> None:
    model = probes.hook_modules(Mixing().eval())
    clean, corrupted = torch.rand(2, 6, 4, generator=torch.Generator().manual_seed(0))
    metric = lambda out: out[:, 0] ** 3  # noqa: E731
    table = probes.patch_sweep(model, clean, corrupted, metric, probes.Site("first.hook_out", unit="each"))
    own = [probes.patch_sweep(model, clean, corrupted, metric, probes.Site("first.hook_out", unit=i)) for i in range(5)]
    assert table.metric.tolist() == pytest.approx(pd.concat(own).metric.tolist(), abs=1e-6)
    with pytest.raises(ValueError, match=r"mixes the examples of a batch: .* give one example at a time"):
        probes.tangent_space(model, clean, "first.hook_out")


def test_a_sweep_of_noise_is_refused() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand(x.shape)

    model = probes.hook_modules(nn.Sequential(Noisy(3, 3), nn.Linear(3, 3)).eval())
    x, y = torch.rand(2, 4, 3)
    with pytest.raises(ValueError, match="two runs on the same inputs differ"):
        probes.patch_sweep(model, x, y, lambda out: out[:, 0], probes.Site("0.hook_out", unit="each"))
