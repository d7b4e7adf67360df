"""Hooks and caches of a toy: what TransformerLens's tests ask of its own models, and that a cache is a bridge's."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformer_lens import ActivationCache
from transformer_lens.hook_points import HookPoint

import probes
import tms_hooks as tms
from tms_hooks.models.hooks import HookedRootModule

HEADS = tms.ToyConfig(n_features=4, d_hidden=3, n_heads=2, d_head=2, d_mlp=5, bottleneck="mlp.out->unembed")
PLAIN = tms.ToyConfig(n_features=4, d_hidden=3)


@pytest.fixture(params=[PLAIN, HEADS], ids=["plain", "heads"])
def toy(request: pytest.FixtureRequest) -> tms.ToyModel:
    return tms.ToyModel(request.param, seed=1)


def inputs(toy: tms.ToyModel, n: int = 2) -> Tensor:
    shape = (n, 5, 4) if toy.cfg.n_heads else (n, 4)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def flat(out: Any) -> Tensor:
    return torch.cat([part.flatten() for part in (out if isinstance(out, tuple) else (out,))])


class Counting:
    """A hook that counts its calls and leaves the activation."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, value: Tensor, hook: Any) -> None:
        self.calls += 1


def fail(value: Tensor, hook: Any) -> None:
    raise ArithmeticError("inside a hook")


def functions(toy: tms.ToyModel) -> int:
    """How many functions are hooked anywhere, by TransformerLens's count and by torch's, which must agree."""
    points = toy.hook_dict.values()
    ours = sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in points)
    assert ours == sum(len(point._forward_hooks) + len(point._backward_hooks) for point in points)
    return ours


# Contexts


def test_a_function_acts_while_its_context_lasts(toy):
    outer, inner = Counting(), Counting()
    with toy.hooks(fwd_hooks=[("hook_embed", outer)]) as same:
        assert same is toy
        toy(inputs(toy))
        with toy.hooks(fwd_hooks=[("hook_embed", inner)]):
            assert functions(toy) == 2
            toy(inputs(toy))
        assert functions(toy) == 1
        toy.run_with_hooks(inputs(toy), fwd_hooks=[("hook_embed", inner)])
        assert functions(toy) == 1
        toy.run_with_cache(inputs(toy))
        assert functions(toy) == 1
    toy(inputs(toy))
    assert (outer.calls, inner.calls, functions(toy), toy.context_level) == (4, 2, 0, 0)


@pytest.mark.parametrize("inner", ["hook", "name", "filter"])
def test_a_failing_context_takes_only_its_own_with_it(toy, inner):
    outer = Counting()
    bad: tuple[Any, Any] = {
        "hook": ("hook_embed", fail),
        "name": ("hook_embd", outer),
        "filter": (lambda name: False, outer),
    }[inner]
    with toy.hooks(fwd_hooks=[("hook_embed", outer)]):
        with pytest.raises((ArithmeticError, KeyError, ValueError)):
            toy.run_with_hooks(inputs(toy), fwd_hooks=[("hook_out", outer), bad])
        assert (functions(toy), toy.context_level) == (1, 1)
        toy(inputs(toy))
    assert (outer.calls, functions(toy), toy.context_level) == (1 + (inner == "hook"), 0, 0)


def test_what_is_kept_outlives_later_contexts(toy):
    """Both contexts have level 1; the second must not take the first one's function with it."""
    kept = Counting()
    toy.run_with_hooks(inputs(toy), fwd_hooks=[("hook_embed", kept)], reset_hooks_end=False)
    toy.run_with_hooks(inputs(toy), fwd_hooks=[("hook_embed", Counting())])
    assert (kept.calls, functions(toy)) == (2, 1)
    toy.reset_hooks()
    assert functions(toy) == 0


def test_hooks_are_reset_within_a_context_and_by_level_and_direction(toy):
    with toy.hooks(fwd_hooks=[("hook_embed", Counting())]):
        toy.reset_hooks()
        assert functions(toy) == 0
    assert toy.context_level == 0
    first, second = ([(name, Counting())] for name in ("hook_embed", "hook_out"))
    with toy.hooks(first, first), toy.hooks(second, second):
        toy.remove_all_hook_fns("bwd")
        assert functions(toy) == 2
        toy.remove_all_hook_fns(level=2)
        assert len(toy.hook_embed.fwd_hooks) == functions(toy) == 1
    assert functions(toy) == 0


def test_permanent_hooks_stay_until_they_are_named(toy):
    always = Counting()
    toy.add_perma_hook("hook_embed", always)
    with toy.hooks(fwd_hooks=[("hook_embed", Counting())]):
        toy(inputs(toy))
    toy.reset_hooks()
    assert (always.calls, functions(toy)) == (1, 1)
    toy.reset_hooks(including_permanent=True)
    toy(inputs(toy))
    assert (always.calls, functions(toy)) == (1, 0)


@pytest.mark.parametrize("prepend", [False, True])
def test_prepended_functions_come_first(toy, prepend):
    toy.add_hook("hook_out", lambda value, hook: torch.zeros_like(value))
    toy.add_hook("hook_out", lambda value, hook: value + 1, prepend=prepend)
    out = toy(inputs(toy))
    assert (getattr(out, "reconstruction", out) == (0 if prepend else 1)).all()


def test_contexts_of_points_are_forgotten_when_asked(toy):
    def note(value: Tensor, hook: HookPoint) -> None:
        hook.ctx["seen"] = value

    for clear in (False, True):
        toy.run_with_hooks(inputs(toy), fwd_hooks=[("hook_embed", note)], clear_contexts=clear)
        assert ("seen" in toy.hook_embed.ctx) != clear


# Names


def calls(toy: tms.ToyModel, names: Any) -> dict[str, Callable[[], Any]]:
    x = inputs(toy)
    return {
        "run_with_hooks": lambda: toy.run_with_hooks(x, fwd_hooks=[(names, Counting())]),
        "backward": lambda: toy.run_with_hooks(x, bwd_hooks=[(names, Counting())], reset_hooks_end=False),
        "add_hook": lambda: toy.add_hook(names, Counting()),
        "add_perma_hook": lambda: toy.add_perma_hook(names, Counting()),
        "run_with_cache": lambda: toy.run_with_cache(x, names_filter=names),
        "add_caching_hooks": lambda: toy.add_caching_hooks(names),
    }


@pytest.mark.parametrize("call", list(calls(tms.ToyModel(PLAIN), "hook_out")))
def test_a_name_that_is_no_hooks_is_refused_everywhere(toy, call):
    for names in ("hook_hiden", ["hook_out", "hook_hiden"]):
        with pytest.raises(KeyError, match="no hook 'hook_hiden'; did you mean 'hook_hidden'"):
            calls(toy, names)[call]()
    with pytest.raises(ValueError, match="the names match no hook: choose from hook_embed, hook_hidden"):
        calls(toy, lambda name: name.endswith("pattern"))[call]()
    assert functions(toy) == 0


def test_names_filters_pick_what_is_cached(toy):
    for names in ("hook_out", ["hook_embed", "hook_out"], lambda name: name.startswith("hook_"), None):
        _, cache = toy.run_with_cache(inputs(toy), names_filter=names)
        picked = [n for n in toy.hook_dict if names is None or (names(n) if callable(names) else n in names)]
        assert sorted(cache.keys()) == sorted(picked if names != "hook_out" else ["hook_out"])


# Caches


def test_a_cache_has_short_names():
    toy = tms.ToyModel(HEADS, seed=1)
    out, cache = toy.run_with_cache(inputs(toy))
    assert isinstance(cache, ActivationCache)
    for short, name in {
        ("q", 0): "blocks.0.attn.hook_q",
        ("k", -1): "blocks.0.attn.hook_k",
        ("attn_scores", 0): "blocks.0.attn.hook_attn_scores",
        "post0": "blocks.0.mlp.hook_post",
        "hidden": "hook_hidden",
        "embed": "hook_embed",
    }.items():
        assert cache[short] is cache[name]
    assert_close(cache["out"], out.reconstruction.detach())
    assert not any(value.requires_grad for value in cache.values())
    with pytest.raises(KeyError):
        cache["q", 1]
    assert isinstance(toy.run_with_cache(inputs(toy), return_cache_object=False)[1], dict)
    assert {value.device.type for value in toy.run_with_cache(inputs(toy), device="meta")[1].values()} == {"meta"}


@pytest.mark.parametrize("pos", [-1, (1, 3), [0, 2], (None, None, 2)])
def test_positions_are_sliced_where_they_are(pos):
    toy = tms.ToyModel(HEADS, seed=1)
    index = slice(*pos) if isinstance(pos, tuple) else [pos] if pos == -1 else pos  # a number keeps its axis
    for incl_bwd in (False, True):
        options: dict[str, Any] = {"incl_bwd": incl_bwd, "return_type": "loss"}
        _, whole = toy.run_with_cache(inputs(toy), **options)
        _, part = toy.run_with_cache(inputs(toy), pos_slice=pos, **options)
        assert set(part) == set(whole)
        for name, value in whole.items():
            queries = "attn_scores" in name
            assert_close(part[name], value[:, :, index] if queries else value[:, index], rtol=0, atol=0)
    toy = tms.ToyModel(PLAIN)
    with pytest.raises(ValueError, match=r"'hook_embed' of shape \(2, 3\) has no positions"):
        toy.run_with_cache(inputs(toy), pos_slice=pos)
    assert functions(toy) == 0


def test_the_axis_of_one_example_is_dropped(toy):
    _, whole = toy.run_with_cache(inputs(toy, 1))
    _, one = toy.run_with_cache(inputs(toy, 1), remove_batch_dim=True)
    assert not one.has_batch_dim
    assert all(torch.equal(one[name], whole[name][0]) for name in toy.hook_dict)
    with pytest.raises(ValueError, match="remove_batch_dim=True with 2 examples"):
        toy.run_with_cache(inputs(toy), remove_batch_dim=True)


def test_what_others_hooked_is_in_the_cache(toy):
    with toy.hooks(fwd_hooks=[("hook_hidden", lambda value, hook: torch.zeros_like(value))]):
        _, cache = toy.run_with_cache(inputs(toy))
    assert not cache["hook_hidden"].any()


def test_hooks_that_cache_stay_until_reset(toy):
    cache = toy.add_caching_hooks("hook_out", incl_bwd=True)
    flat(toy(inputs(toy))).sum().backward()
    assert set(cache) == {"hook_out", "hook_out_grad"}
    toy.reset_hooks()
    assert functions(toy) == 0


# Gradients


@pytest.mark.parametrize("answer", ["none", "tensor", "tuple"])
def test_a_backward_hook_may_replace_the_gradient(toy, answer):
    seen = []

    def double(gradient: Tensor, hook: Any) -> Any:
        seen.append(gradient.clone())
        return {"none": None, "tensor": 2 * gradient, "tuple": (2 * gradient,)}[answer]

    x = inputs(toy)
    toy(x, return_type="loss").backward()
    usual = toy.W_E.grad.clone()
    toy.zero_grad()
    with toy.hooks(bwd_hooks=[("hook_out", double)]):
        loss = toy(x, return_type="loss")
        assert not seen
        loss.backward()
    assert len(seen) == 1 and functions(toy) == 0
    assert_close(toy.W_E.grad, usual * (1 if answer == "none" else 2))


def test_gradients_are_cached_of_a_loss_or_of_any_number(toy):
    x = inputs(toy)
    loss, cache = toy.run_with_cache(x, incl_bwd=True, return_type="loss")
    out = toy(x)
    made = getattr(out, "reconstruction", out)
    assert_close(loss, (made - x).square().sum(-1).mean())
    assert_close(cache["hook_out_grad"], 2 * (made - x).detach() / x.shape[:-1].numel())
    _, cache = toy.run_with_cache(x, incl_bwd=True, return_type=lambda out: 3 * flat(out).sum())
    assert (cache["hook_out_grad"] == 3).all()
    assert set(cache) == {f"{name}{end}" for name in toy.hook_dict for end in ("", "_grad")}
    with pytest.raises(ValueError, match="gradients are those of one number; use return_type='loss'"):
        toy.run_with_cache(x, incl_bwd=True)
    with torch.no_grad(), pytest.raises(ValueError, match="gradients are off"):
        toy.run_with_cache(x, incl_bwd=True, return_type="loss")
    assert functions(toy) == 0


def test_return_types(toy):
    x = inputs(toy)
    usual = toy(x)
    assert toy(x, return_type=None) is None
    out, loss = toy(x, return_type="both")
    assert torch.equal(flat(out), flat(usual)) and torch.equal(loss, toy(x, return_type="loss"))
    assert torch.equal(toy.run_with_hooks(x, fwd_hooks=[], return_type="loss"), loss)
    assert torch.equal(flat(toy.run_with_cache(x, return_type="logits")[0]), flat(usual))
    with pytest.raises(ValueError, match="return_type='los' is not known; did you mean 'loss'"):
        toy(x, return_type="los")


# Where a toy may be


class Holder(HookedRootModule):
    """A model of somebody else that holds a toy and names its points anew."""

    def __init__(self, toy: tms.ToyModel) -> None:
        super().__init__()
        self.toy, self.hook_twice = toy, HookPoint()
        self.setup()

    def forward(self, x: Tensor) -> Tensor:
        out = self.toy(x)
        return self.hook_twice(2 * getattr(out, "reconstruction", out))


def test_a_toy_works_inside_another_model(toy):
    x = inputs(toy)
    free = copy.deepcopy(toy)
    holder = Holder(toy)
    assert toy.hook_hidden.name == "toy.hook_hidden"
    for model, prefix in ((toy, ""), (holder, "toy.")):
        name = f"{prefix}hook_hidden"
        assert probes.audit_hooks(model, x).loc[name, "live"]
        assert_close(
            probes.collect_activations(model, x, name)[name], free.run_with_cache(x)[1]["hook_hidden"], rtol=0, atol=0
        )
        _, cache = model.run_with_cache(x)
        assert {f"{prefix}{each}" for each in toy.hook_dict} <= set(cache.keys())
        swept = probes.patch_sweep(model, x, x.flip(0) / 2, lambda out: flat(out).view(2, -1).norm(dim=1), name)
        assert abs(swept.recovered[0]) > 0.1
    assert_close(
        probes.tangent_space(toy, x, "hook_hidden").jacobian, probes.tangent_space(free, x, "hook_hidden").jacobian
    )
    toy.run_with_hooks(x, fwd_hooks=[("hook_hidden", Counting())])
    assert functions(toy) == 0
    with pytest.raises(KeyError, match="did you mean 'hook_hidden'"):
        toy.run_with_hooks(x, fwd_hooks=[("hook_hiden", Counting())])


def test_a_toy_works_in_inference_mode_and_so_do_tools_that_need_no_gradient(toy):
    x = inputs(toy)
    _, usual = toy.run_with_cache(x)
    audit = probes.audit_hooks(toy, x)
    with torch.inference_mode():
        _, cache = toy.run_with_cache(x)
        assert probes.audit_hooks(toy, x).equals(audit)
        with pytest.raises(ValueError, match=r"leave torch.no_grad\(\) or torch.inference_mode\(\)"):
            toy.run_with_cache(x, incl_bwd=True, return_type="loss")
        with pytest.raises(RuntimeError, match=r"tangent_space differentiates.*torch.inference_mode\(\)"):
            probes.tangent_space(toy, x, "hook_hidden")
        with pytest.raises(RuntimeError, match="attribution_sweep differentiates"):
            probes.attribution_sweep(toy, x, x.flip(0), lambda out: flat(out).view(2, -1).sum(1), "hook_hidden")
    assert all(torch.equal(cache[name], usual[name]) for name in toy.hook_dict)


def test_a_toy_is_copied_after_use(toy):
    x, counting = inputs(toy), Counting()
    toy.add_hook("hook_embed", lambda value, hook: hook.ctx.update(seen=value))
    toy.run_with_cache(x, incl_bwd=True, return_type="loss")
    toy.reset_hooks()
    twin = copy.deepcopy(toy)
    twin.add_hook("hook_embed", counting)
    assert torch.equal(flat(twin(x)), flat(toy(x)))
    assert (counting.calls, functions(toy), functions(twin)) == (1, 0, 1)
    assert twin.hook_dict["hook_embed"] is twin.hook_embed is not toy.hook_embed


def test_the_config_says_where_the_weights_are(toy):
    cfg = toy.cfg
    assert cfg.device == "cpu"
    toy.to("meta")
    assert (toy.cfg.device, cfg.device, tms.ToyModel(cfg).cfg.device) == ("meta", "cpu", "cpu")
    assert toy.cfg == cfg and hash(toy.cfg) == hash(cfg)
    assert Holder(toy).to_empty(device="cpu").toy.cfg.device == "cpu"
