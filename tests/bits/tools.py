"""What every tool of `probes` returns on toys, the tiny bridge and SmolLM2: checksums of its numbers and names."""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import probes
import tms_hooks as tms
from probes import Site
from tests.bits.runs import checksum

RENAMED = {"spill": "interference", "hook_hidden[directions=2]": "a plane"}
"""Column, field or site of a result -> the name that it had when the record was made, which its entry keeps."""


def checksums() -> dict[str, str]:
    """Name of every number or array -> checksum."""
    torch.set_num_threads(1)
    found = {}
    for make in (_toy_with_heads, _plain_toy, _tiny, _smollm2, _pure):
        for tool, result in make():
            found |= dict(_entries(f"{make.__name__[1:]}.{tool}", result))
    return found


Results = Iterator[tuple[str, Any]]


def _toy_with_heads() -> Results:
    cfg = tms.ToyConfig(n_features=6, d_hidden=4, n_heads=2, d_head=3, d_mlp=8, bottleneck="mlp.out->unembed")
    model, donor = (tms.ToyModel(cfg, seed=seed) for seed in (0, 1))
    clean, corrupted = _uniform(12, 3, 6).split([6, 6])
    sites = [
        Site(hook="hook_hidden", pos="each", unit="each"),
        Site(hook="hook_hidden", directions=_normal(2, 4)),
        Site(hook="blocks.0.attn.hook_q", pos=-1, head="each"),
        Site(hook="blocks.0.attn.hook_attn_scores", head=1, pos=0, unit=2),
        Site(hook="blocks.0.mlp.hook_post", unit=3),
    ]

    def metric(out: Any) -> Tensor:
        return out.reconstruction[:, 1, 2] + out.attn_scores[:, :, 0, 2].sum(1)

    def heads(out: Any) -> Tensor:
        return out.attn_scores[:, 0, 0, 1]

    late = ("hook_embed", "blocks.0.mlp.hook_post", "hook_unembed")
    yield from _activations(model, clean, list(model.hook_dict))
    yield from _probing(model, _uniform(30, 3, 6, seed=2), "hook_hidden")
    yield from _patching(model, clean, corrupted, metric, sites, late, frozen=("blocks.0.mlp.hook_pre",))
    yield from _weights(model, donor, clean, {"W_E": 3, "blocks.0.mlp.W_in": (..., slice(0, 3))})
    yield from _circuits(model, model.W_E.detach(), {"bias": {"bias": True}}, layer=0)
    yield from _bottlenecks(model, ["blocks.0.mlp.out->unembed"])
    for name, options in _SLICES.items():
        yield f"attention_slices.{name}", probes.attention_slices(model, clean, 0, 1, n_null=3, **options)
    yield "patch_sweep.head", probes.patch_sweep(model, clean, corrupted, heads, "blocks.0.attn.hook_k")
    yield "tangent_space", _tangents(model, clean, "hook_hidden", "hook_unembed", _normal(3, 4), k=2)


def _plain_toy() -> Results:
    for tied in (True, False):
        cfg = tms.ToyConfig(n_features=6, d_hidden=3, tied=tied)
        model, donor = (tms.ToyModel(cfg, seed=seed) for seed in (0, 1))
        clean, corrupted = _uniform(8, 6).split([4, 4])
        name = "tied" if tied else "untied"
        for part in (
            _activations(model, clean, list(model.hook_dict)),
            _probing(model, _uniform(40, 6, seed=2), None),
            _patching(model, clean, corrupted, lambda out: out[:, 2], None, ("hook_embed", "hook_hidden", "hook_out")),
            _weights(model, donor, clean, {"W_E": 3}),
            _bottlenecks(model, ["embed->unembed"]),
        ):
            yield from ((f"{name}.{tool}", result) for tool, result in part)
        yield f"{name}.tangent_space", _tangents(model, clean, "hook_embed", None, _normal(2, 3), k=1)


def _tiny() -> Results:
    model, donor = (probes.load_transformer("tiny", seed=seed) for seed in (0, 1))
    clean, corrupted = _tokens(8, 7).split([4, 4])
    sites = [
        Site(hook="blocks.1.attn.hook_z", pos="each", head="each"),
        Site(hook="blocks.0.hook_resid_pre", pos="each"),
        Site(hook="blocks.1.mlp.hook_post", pos=-1, unit=7),
        Site(hook="blocks.0.hook_mlp_out", directions=_normal(2, 64)),
        Site(hook="blocks.0.attn.hook_pattern", head=2, pos=3, unit=0),
        Site(hook="unembed.hook_out", pos=6, unit=3),
        Site(hook="hook_embed", pos=0),
    ]
    shown = ["hook_embed", "blocks.1.attn.hook_pattern", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    path = ("blocks.0.hook_mlp_out", "blocks.1.hook_attn_out", "blocks.1.hook_resid_post")
    directions = model.W_E.detach()[:10]
    yield "audit_hooks.all", probes.audit_hooks(model, clean)
    yield from _activations(model, clean, shown)
    yield from _probing(model, _tokens(24, 5), None)
    yield from _patching(model, clean, corrupted, _last_logits, sites, path, frozen=("blocks.1.hook_mlp_out",))
    yield "patch_sweep.default", probes.patch_sweep(model, clean, corrupted, _last_logits)
    yield from _weights(model, donor, clean, {"W_E": clean[0, :2].tolist(), "blocks.0.attn.W_Q": 2})
    yield from _circuits(model, directions, _CIRCUITS, layer=1)
    yield from _bottlenecks(model, ["embed->unembed", "embed->blocks.1.mlp.in", "blocks.0.mlp.out->blocks.1.mlp.in"])
    yield "bottleneck.folded", probes.bottleneck(model, "blocks.0.mlp.out->unembed", fold_norm=True)
    for name, options in _SLICES.items():
        yield f"attention_slices.{name}", probes.attention_slices(model, clean, 1, 3, n_null=3, **options)
    space = _tangents(model, clean, "hook_embed", "blocks.1.hook_resid_post", directions, k=2)
    yield "tangent_space", space
    yield "require_live.around", _live_around(model, clean, "blocks.0.attn.hook_attn_scores")


def _smollm2() -> Results:
    model = probes.load_transformer("smollm2")
    clean = model.to_tokens("When Mary and John went to the store, John gave a drink to", prepend_bos=True)
    corrupted = model.to_tokens("When Anna and John went to the store, John gave a drink to", prepend_bos=True)
    mary, anna = (model.to_single_token(name) for name in (" Mary", " Anna"))
    mover = "blocks.23.attn.hook_z"

    def metric(logits: Tensor) -> Tensor:
        return logits[:, -1, mary] - logits[:, -1, anna]

    sites = [Site(hook=mover, pos=-1, head="each"), Site(hook="blocks.20.hook_resid_pre", pos=2)]
    path = ("blocks.10.hook_mlp_out", mover, "blocks.25.hook_resid_post")
    yield from _activations(model, clean, ["blocks.3.hook_resid_post", mover, "blocks.0.attn.hook_attn_scores"])
    yield from _probing(model, _tokens(16, 4), ["blocks.4.hook_resid_post"])
    yield "linear_probe.default", probes.linear_probe(model, _tokens(12, 3), np.arange(12) % 2, control=False, cv=2)
    yield from _patching(model, clean, corrupted, metric, sites, path, frozen=())
    yield "attribution_sweep.default", probes.attribution_sweep(model, clean, corrupted, metric)
    yield from _circuits(model, model.W_E.detach()[:6], _CIRCUITS | {"offset": {"offset": 12}}, layer=23)
    for path in ("embed->unembed", "blocks.0.mlp.out->unembed"):
        part = probes.bottleneck(model, path)
        yield f"bottleneck.{path}.summary", part.unit().summary(sample=40)
        yield f"bottleneck.{path}.few", (part.write[:5], part.read[:5])
    for name, options in _SLICES.items():
        split = probes.attention_slices(model, clean, 23, 0, pairs=torch.tensor([[0, 14, 2]]), n_null=2, **options)
        yield f"attention_slices.{name}", split
    space = _tangents(model, clean, "blocks.29.hook_resid_pre", "blocks.29.hook_resid_post", _normal(2, 576), k=3)
    yield "tangent_space", space


def _pure() -> Results:
    """Tools that need no model, and what render makes."""
    render, tokens = probes.render, ["a", "<b>"]
    left, right = _normal(2, 7, 3), _normal(2, 5, 3, seed=1)
    W = _normal(6, 4).double()
    yield "factored_svd", probes.factored_svd(left, right)
    yield "slices_needed", probes.slices_needed(_normal(9, 5))
    for name, covariance in (("plain", None), ("one", W.T @ W), ("two", (W.T @ W, W[:5].T @ W[:5]))):
        found = probes.align(_normal(4, 4, seed=2), W, W[:3], n_null=20, covariance=covariance)
        yield f"align.{name}", (found, found.pvalues, found.table())
    blocks = torch.diag(torch.tensor([2.0, 2.0, 1.0, 0.5]))
    yield "align.equal singular values", probes.align(blocks, W, W[:1], n_null=5, seed=3)
    table = pd.DataFrame({"hook": ["a", "b"] * 2, "pos": [0, 0, 1, 1], "head": 1, "unit": pd.NA})
    shown = {
        "attention": render.attention(tokens, _normal(1, 2, 2)).props,
        "attention of heads": render.attention(tokens, _normal(3, 2, 2), heads=["x", "y", "z"]).props,
        "token_values": render.token_values(tokens, _normal(2, 3)).props,
        "bundle": render.bundle(),
        "cosine_figure": render.cosine_figure(_normal(3, 4), title="t").to_plotly_json(),
        "spectrum_figure": render.spectrum_figure({"S": torch.tensor([2.0, 1.0, 0.0])}).to_plotly_json(),
        "slices_figure": render.slices_figure({"head": torch.tensor([2.0, 1.0, -0.5])}).to_plotly_json(),
        "sweep_figure": render.sweep_figure(table.assign(recovered=[0.0, 0.5, 1.5, -1.0])).to_plotly_json(),
    }
    yield from ((f"render.{name}", json.dumps(value, default=str, sort_keys=True)) for name, value in shown.items())


_CIRCUITS: dict[str, dict[str, Any]] = {"bias": {"bias": True}, "folded": {"fold_norm": True, "bias": True}}
_SLICES: dict[str, dict[str, Any]] = {"absolute": {}, "relative": {"relative": True, "seed": 1}}


def _activations(model: Any, inputs: Tensor, hooks: list[str]) -> Results:
    yield "audit_hooks", probes.audit_hooks(model, inputs, hooks)
    yield "collect_activations", probes.collect_activations(model, inputs, hooks, batch_size=3)
    yield "stream_activations", list(probes.stream_activations(model, iter([inputs, inputs[:1]]), hooks))
    with tempfile.TemporaryDirectory() as folder:
        mapped = probes.collect_activations(model, inputs, hooks[0], directory=folder)
        yield "collect_activations.in a file", {name: value.clone() for name, value in mapped.items()}


def _probing(model: Any, inputs: Tensor, hooks: Any) -> Results:
    n, by_position = len(inputs), inputs.ndim == 3 or not inputs.is_floating_point()
    real = _normal(n, seed=7)
    targets = {
        "regression": real,
        "several real targets": torch.stack([real, real**2 + inputs.flatten(1)[:, 0]], 1),
        "classes": np.arange(n) % 3,
        "two classes": real > 0,
        "several yes or no": torch.stack([real > 0, real > 0.2], 1),
    }
    if by_position:
        targets["one per position"] = _normal(*inputs.shape[:2], seed=8)
    for name, target in targets.items():
        pos = {"pos": "each"} if name == "one per position" else {}
        yield f"linear_probe.{name}", probes.linear_probe(model, inputs, target, hooks, cv=3, seed=1, **pos)
    if by_position:
        yield "linear_probe.mean", probes.linear_probe(model, inputs, real, hooks, cv=3, control=False, pos="mean")


def _patching(
    model: Any,
    clean: Tensor,
    corrupted: Tensor,
    metric: Callable[[Any], Tensor],
    sites: Any,
    path: tuple[str, str, str],
    frozen: tuple[str, ...] = (),
) -> Results:
    kinds = ["clean->corrupted", "corrupted->clean", "zero", *(["mean", "resample"] if len(clean) > 1 else [])]
    for kind in kinds:
        yield f"patch_sweep.{kind}", probes.patch_sweep(model, clean, corrupted, metric, sites, patch=kind, seed=2)
    yield "patch_sweep.small runs", probes.patch_sweep(model, clean, corrupted, metric, sites, batch_size=1)
    yield "attribution_sweep", probes.attribution_sweep(model, clean, corrupted, metric, sites)
    sender, between, receiver = path
    for held in {(), frozen}:
        table = probes.path_patch(model, clean, corrupted, metric, [sender, between], receiver, frozen=held)
        yield f"path_patch.{'frozen' if held else 'open'}", table


def _weights(model: Any, donor: Any, inputs: Tensor, slices: dict[str, Any]) -> Results:
    with torch.no_grad(), probes.patch_weights(model, donor, slices):
        yield "patch_weights", model(inputs)
    copy = probes.patched_copy(model, donor, slices)
    yield "patched_copy", {name: value.detach().clone() for name, value in copy.named_parameters()}

    def retrain(models: list[Any], seeds: list[int]) -> list[Any]:
        for one, seed in zip(models, seeds, strict=True):
            weight = one.W_E
            with torch.no_grad():
                weight += (
                    0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)).sign() * weight
                )
        return models

    table = probes.init_patching(model, [donor, donor], slices, retrain, lambda m: float(m.W_E.detach().norm()), seed=5)
    yield "init_patching", table


def _circuits(model: Any, directions: Tensor, options: dict[str, dict[str, Any]], layer: int) -> Results:
    for name, option in {"plain": {}, **options}.items():
        omega = probes.qk_circuit(model, layer, 1, **option)
        yield f"qk_circuit.{name}", (*omega, omega.matrix)
        if hasattr(model.blocks[layer].attn, "W_V") and "offset" not in option:
            yield f"ov_circuit.{name}", tuple(probes.ov_circuit(model, layer, 1, **option))
    omega = probes.qk_circuit(model, layer, 0)
    covariance = directions.double().T @ directions.double() + torch.eye(directions.shape[1])
    for name, option in {"plain": {}, "whitened": {"covariance": covariance}}.items():
        found = probes.align(omega, directions, directions[:3], n_null=5, **option)
        yield f"align.{name}", (found, found.pvalues, found.table())


def _bottlenecks(model: Any, paths: list[str]) -> Results:
    for path in paths:
        part = probes.bottleneck(model, path)
        yield f"bottleneck.{path}", (part.write, part.read)
        yield f"bottleneck.{path}.summary", part.summary()
        yield f"bottleneck.{path}.unit.summary", part.unit().summary(sample=4, seed=1)


def _tangents(model: Any, inputs: Tensor, hook: str, out_hook: str | None, directions: Tensor, k: int) -> Any:
    space = probes.tangent_space(model, inputs[:2], hook, out_hook)
    return space, space.angles(directions, k)


def _live_around(model: Any, inputs: Tensor, dead: str) -> str:
    try:
        probes.require_live(model, inputs, dead)
    except ValueError as error:
        return str(error).rsplit(": ", 1)[1]
    raise AssertionError(f"{dead} is live")


def _last_logits(logits: Tensor) -> Tensor:
    return logits[:, -1, 3] - logits[:, -1, 4]


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _tokens(*shape: int) -> Tensor:
    return torch.randint(0, 101, shape, generator=torch.Generator().manual_seed(4))


YOUNGER = {"error", "in_axes", "out_axes"}
"""Columns and fields that came after the record."""


def _entries(name: str, result: Any) -> Iterator[tuple[str, str]]:
    """One entry per column, field or part of a result."""
    if isinstance(result, pd.DataFrame):
        parts = {"index": result.index.tolist(), **result.to_dict("list"), **result.attrs}
        if "site" in parts:
            parts["site"] = [RENAMED.get(site, site) for site in parts["site"]]
    elif dataclasses.is_dataclass(result):
        parts = vars(result)
    elif hasattr(result, "_asdict"):
        parts = result._asdict()
    elif isinstance(result, dict):
        parts = result
    elif isinstance(result, tuple | list) and any(_has_parts(part) for part in result):
        parts = dict(enumerate(result))
    else:
        yield name, _bits(result)
        return
    for key, part in parts.items():
        if key not in YOUNGER:
            yield from _entries(f"{name}.{RENAMED.get(key, key)}", part)


def _has_parts(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray | pd.DataFrame | dict | tuple) or dataclasses.is_dataclass(value)


def _bits(value: Any) -> str:
    if isinstance(value, Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return checksum(value)
    # repr gives the shortest text that reads back as the same number
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
