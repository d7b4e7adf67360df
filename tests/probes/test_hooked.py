import warnings

import pytest
import torch
from torch import nn
from transformer_lens.hook_points import HookPoint

from probes.hooked import check_hooks, output_tensors, temporary_hooks
from probes.liveness import audit_hooks, require_live
from probes.transformers import load_transformer
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
