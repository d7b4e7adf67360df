import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformer_lens.hook_points import HookPoint

import probes
from probes.hooked import check_hooks, output_tensors, temporary_hooks
from probes.liveness import audit_hooks, require_live
from probes.transformers import load_transformer
from tests.probes import zoo
from tms_hooks.models.hooks import HookedRootModule

TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6]])


class Odd(HookedRootModule):
    """One hook point of each kind: live, fired in vain, never called, live without a gradient, live only elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_in, self.hook_vain, self.hook_unused = HookPoint(), HookPoint(), HookPoint()
        self.hook_index, self.hook_mask, self.hook_rounded, self.hook_shut = (HookPoint() for _ in range(4))
        self.table = nn.Parameter(torch.arange(5.0))
        self.setup()

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        x = self.hook_in(x)
        self.hook_vain(2 * x)
        index = self.hook_index(torch.full_like(x, 3, dtype=torch.long))
        mask = self.hook_mask(x > 0)
        rounded = self.hook_rounded(x).round()
        shut = self.hook_shut(x) * (x > 5)
        return {"answer": (self.table[index] + mask + rounded, shut + x), "note": "no tensor"}


def test_unknown_hook_names_the_nearest(subject):
    misspelt = subject.early.replace("hook_", "hok_")
    with pytest.raises(KeyError, match=f"no hook '{misspelt}'; did you mean '{subject.early}'"):
        check_hooks(subject.model, [subject.late, misspelt])


def test_no_hook_asked_for(subject):
    with pytest.raises(ValueError, match="hooks is empty"):
        check_hooks(subject.model, [])


def test_a_model_without_hook_points():
    class Bare(HookedRootModule):
        def __init__(self) -> None:
            super().__init__()
            self.setup()

    with pytest.raises(TypeError, match=r"Bare has no hook points.*self\.setup\(\)"):
        check_hooks(Bare(), "hook_in")


def test_audit_says_fires_and_live(subject):
    audit = audit_hooks(subject.model, subject.inputs)
    assert list(audit.index) == list(subject.model.hook_dict)
    for hook in (subject.early, subject.late):
        assert audit.loc[hook, ["fires", "live"]].all()
    _, cache = subject.model.run_with_cache(subject.inputs)
    assert set(audit.index[audit["fires"]]) == set(cache)
    assert {name: tuple(value.shape) for name, value in cache.items()} == dict(audit["shape"].dropna())


def test_every_hook_of_a_toy_is_live(subject):
    if not hasattr(subject.model, "W"):
        return  # a bridge has dead ones: the next test
    assert audit_hooks(subject.model, subject.inputs)["live"].all()


@pytest.mark.bridge
def test_scores_of_a_native_bridge_are_dead_and_their_patch_silent():
    model = load_transformer("tiny")
    dead = "blocks.0.attn.hook_attn_scores"
    audit = audit_hooks(model, TOKENS)
    assert audit.loc[dead].to_list() == [True, False, (2, 4, 3, 3), None]
    assert audit.loc["blocks.0.attn.hook_pattern", "live"]
    assert not audit.loc["blocks.0.attn.hook_result", "fires"]
    # what the audit guards against: the patch goes through and nothing happens
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patched = model.run_with_hooks(TOKENS, fwd_hooks=[(dead, lambda value, hook: torch.zeros_like(value))])
        assert torch.equal(patched, model(TOKENS))
    with pytest.raises(ValueError, match=r"hook_attn_scores' fires in vain.*blocks\.0\.attn\.hook_pattern"):
        require_live(model, TOKENS, dead)
    with pytest.raises(ValueError, match=r"hook_result' does not fire.*live hooks around it: blocks\.1\."):
        require_live(model, TOKENS, ["blocks.1.hook_mlp_out", "blocks.1.attn.hook_result"])


def test_audit_of_points_without_gradient():
    audit = audit_hooks(Odd(), torch.tensor([0.3, -0.7]))
    assert list(audit.index[~audit["fires"]]) == ["hook_unused"]
    assert list(audit.index[audit["fires"] & ~audit["live"]]) == ["hook_vain", "hook_shut"]
    assert audit_hooks(Odd(), torch.tensor([0.3, 7.0])).loc["hook_shut", "live"]  # an input that opens its gate


def test_audit_agrees_with_brute_force(subject):
    """Independent reference: add one everywhere, one run a hook."""
    model, inputs = subject.model, subject.inputs
    audit = audit_hooks(model, inputs)
    reference = output_tensors(model(inputs))
    for name in audit.index[audit["fires"]]:
        if name.endswith(("embed.hook_in", "hook_scale")):
            continue  # indices; and a scale plus one hardly shows in float32
        with warnings.catch_warnings(), model.hooks(fwd_hooks=[(name, lambda v, hook: v + torch.randn_like(v))]):
            warnings.simplefilter("ignore")
            changed = output_tensors(model(inputs))
        assert audit.loc[name, "live"] == any(not torch.equal(a, b) for a, b in zip(reference, changed, strict=True)), (
            name
        )


def test_audit_leaves_no_trace(subject):
    subject.model.requires_grad_(True)
    audit_hooks(subject.model, subject.inputs)
    assert all(not point.fwd_hooks and not point._forward_hooks for point in subject.model.hook_dict.values())
    assert all(p.grad is None for p in subject.model.parameters())


def test_audit_needs_a_deterministic_model():
    class Dropping(HookedRootModule):
        def __init__(self) -> None:
            super().__init__()
            self.hook_in, self.dropout = HookPoint(), nn.Dropout(0.5)
            self.setup()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.dropout(self.hook_in(x))

    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        audit_hooks(Dropping(), torch.ones(100))
    assert audit_hooks(Dropping().eval(), torch.ones(100))["live"].all()


MEASURED: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "patch_sweep": lambda model, x: probes.patch_sweep(model, x, x.flip(1), first, EARLY),
    "attribution_sweep": lambda model, x: probes.attribution_sweep(model, x, x.flip(1), first, EARLY),
    "path_patch": lambda model, x: probes.path_patch(model, x, x.flip(1), first, EARLY, "blocks.1.hook_resid_post"),
    "collect_activations": lambda model, x: probes.collect_activations(model, x, EARLY),
    "linear_probe": lambda model, x: probes.linear_probe(model, x, x[:, -1] < 25, EARLY, cv=2),
    "tangent_space": lambda model, x: probes.tangent_space(model, x, EARLY),
    "audit_hooks": probes.audit_hooks,
    "attention_slices": lambda model, x: probes.attention_slices(model, x, 0, 0, n_null=1),
    "ablate_slices": lambda model, x: probes.ablate_slices(model, x, first, 0, 0, [0], n_random=1),
    "qk_circuit": lambda model, x: probes.qk_circuit(model, 0, 0),
    "ov_circuit": lambda model, x: probes.ov_circuit(model, 0, 0),
    "bottleneck": lambda model, x: probes.bottleneck(model, "embed->unembed"),
    "nearest_tokens": lambda model, x: probes.nearest_tokens(model, torch.eye(32)[0]),
}
EARLY = "blocks.1.hook_resid_pre"


def first(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 0]


@pytest.mark.bridge
@pytest.mark.parametrize("tool", MEASURED)
def test_no_tool_measures_the_noise_of_dropout(tool):
    model, tokens = zoo.build("gpt2"), zoo.tokens(8)
    MEASURED[tool](model, tokens)
    model.train()
    with pytest.raises(ValueError, match=r"two runs on the same inputs differ.*call model\.eval\(\)"):
        MEASURED[tool](model, tokens)


def test_train_mode_matters_only_where_it_does():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).train()
    model, x = probes.hook_modules(net, ["0"]), torch.arange(12.0).view(4, 3)
    with pytest.raises(
        ValueError, match=r"BatchNorm1d in train mode mixes the examples of a batch: call model\.eval\(\)"
    ):
        probes.patch_sweep(model, x, x.flip(0), lambda out: out[:, 0], "0.hook_out")
    assert not net[1].running_mean.any()
    net[1] = nn.Identity()  # a model that nobody has put into eval mode, and that needs not be
    assert probes.collect_activations(model.train(), x, "0.hook_out")["0.hook_out"].shape == (4, 3)


def test_audit_says_where_the_output_becomes_nan(subject):
    hooks = [subject.early, subject.late]
    with subject.model.hooks(fwd_hooks=[(subject.late, lambda value, hook: value / 0 * 0)]):
        with pytest.raises(ValueError, match=rf"outputs are NaN, at hooks {subject.late}: "):
            audit_hooks(subject.model, subject.inputs, hooks)
        with pytest.raises(ValueError, match="outputs are NaN, at no hook: "):
            audit_hooks(subject.model, subject.inputs, [subject.early])


@pytest.mark.bridge
def test_audit_marks_hooks_that_break_the_model_and_goes_on():
    """OLMo's norms have no weight, which TransformerLens's bridge reads as soon as one of their points is hooked."""
    model, tokens = zoo.build("olmo"), zoo.tokens()
    audit = audit_hooks(model, tokens)
    broken = audit.index[audit.error.notna() & audit.fires]
    assert set(broken) == {name for name in audit.index if name.endswith(("hook_normalized", "hook_scale"))}
    assert (
        audit.error["ln_final.hook_scale"] == "AttributeError: 'NormalizationBridge' object has no attribute 'weight'"
    )
    assert "Call set_use_attn_result(True) first" in audit.error["blocks.0.attn.hook_result"]
    assert audit.live["blocks.0.attn.hook_q"] and audit.live["blocks.1.hook_resid_post"]
    with pytest.raises(
        ValueError, match=r"hook 'ln_final.hook_scale' breaks the model if hooked \(AttributeError: .*live hooks around"
    ):
        require_live(model, tokens, "ln_final.hook_scale")
    assert not any(point.fwd_hooks or point._forward_hooks for point in model.hook_dict.values())


@pytest.mark.bridge
def test_axes_are_those_of_the_model():
    """DeepSeek-V2's queries have the head axis in front; a probe of "the last position" would read the last head."""
    model, tokens, hook = zoo.build("deepseek-v2"), zoo.tokens(8), "blocks.0.attn.hook_q"
    assert probes.collect_activations(model, tokens, hook)[hook].shape == (8, 4, 5, 8)
    with pytest.raises(ValueError, match=r"probe one that is batch \(pos\) \(head\) unit"):
        probes.linear_probe(model, tokens, tokens[:, -1] < 25, hook, cv=2)
    with pytest.raises(
        ValueError, match=r"hook_q\[pos=-1\]: this model has the axes \('batch', 'head', 'pos', 'unit'\)"
    ):
        probes.patch_sweep(model, tokens, tokens.flip(1), first, probes.Site(hook=hook, pos=-1))
    assert probes.patch_sweep(model, tokens, tokens.flip(1), first, hook).recovered.notna().all()


def test_temporary_hooks_are_removed_after_an_exception(subject):
    def fail(value, hook):
        raise RuntimeError("inside a hook")

    before = output_tensors(subject.model(subject.inputs))[0]
    with pytest.raises(RuntimeError, match="inside a hook"), temporary_hooks(subject.model, [(subject.early, fail)]):
        subject.model(subject.inputs)
    torch.testing.assert_close(output_tensors(subject.model(subject.inputs))[0], before, rtol=0, atol=0)


@pytest.mark.bridge
def test_temporary_hook_under_an_alias_is_called_once():
    model = load_transformer("tiny")
    model.enable_compatibility_mode(no_processing=True)
    calls = []
    with temporary_hooks(model, [("blocks.0.hook_resid_pre", lambda value, hook: calls.append(1))]):
        model(TOKENS)
    assert calls == [1]


def test_output_tensors():
    a, b = torch.ones(1), torch.zeros(2)
    assert [t.shape for t in output_tensors({"x": (a, [b]), "y": None})] == [(1,), (2,)]
    with pytest.raises(TypeError, match="NoneType without a tensor"):
        output_tensors(None)


STANDARD = [
    *("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out"),
    *("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", "attn.hook_attn_scores", "attn.hook_pattern"),
    *("mlp.hook_pre", "mlp.hook_post", "ln1.hook_normalized", "ln2.hook_normalized"),
]


@pytest.mark.parametrize(
    ("name", "dead"),
    [
        ("gpt2", []),
        ("llama", []),
        ("gemma", []),
        ("tiny", ["attn.hook_attn_scores"]),
        ("bert", ["attn.hook_attn_scores", "attn.hook_pattern"]),
    ],
)
def test_dead_hooks_of_each_family(make_bridge, name, dead):
    model, tokens = make_bridge(name)
    audit = audit_hooks(model, tokens, [f"blocks.0.{hook}" for hook in STANDARD])
    assert audit["fires"].all()
    assert list(audit.index[~audit["live"]]) == [f"blocks.0.{hook}" for hook in STANDARD if hook in dead]
