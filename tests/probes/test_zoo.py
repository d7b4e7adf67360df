"""Every tool on every architecture of the zoo: checked against an independent computation, or refused with a reason.

Nothing else is allowed: a number that is wrong without a word is the worst that a tool can give. The judge is the
Hugging Face model (its attentions, hidden states and logits) or an intervention on the bridge, never the weights that
the tools read. `docs/architectures.md` is the table of these cells; `python -m tests.probes.test_zoo` writes it anew.
"""

import re
import traceback
import warnings
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from probes.activation_patching import patch_sweep, path_patch
from probes.activations import collect_activations
from probes.bottleneck import bottleneck
from probes.circuits import ov_circuit, qk_circuit
from probes.linear import linear_probe
from probes.liveness import audit_hooks
from probes.sites import Site
from probes.slices import attention_slices
from probes.tangent import tangent_space
from probes.weight_patching import patch_weights
from tests.probes import zoo

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architectures.md"
LIMIT = 1e-4
"""Largest error, relative to what is compared."""
HEADS = ((0, 2), (1, 1), (1, 2))
"""Layers and heads that are tried; of grouped queries heads 1 and 2 share no key head."""

pytestmark = pytest.mark.bridge


class Subject(NamedTuple):
    name: str
    bridge: Any
    tokens: Tensor
    logits: Tensor
    patterns: list[Tensor]
    """Attention of each block, from the Hugging Face model."""
    at: Any
    """The bridge's activations."""
    original: nn.Module

    @property
    def second(self) -> tuple[str, str]:
        """Hooks of what enters the first block and the second one; of T5, those of its encoder."""
        blocks = "encoder_blocks" if self.name == "t5" else "blocks"
        return f"{blocks}.0.hook_in", f"{blocks}.1.hook_in"

    @torch.enable_grad()
    def of_original(self, tokens: Tensor, edit: Callable[[Tensor], Tensor | None] = lambda x: None) -> Tensor:
        """Logits of the original while `edit` acts on what enters its second block, found by a plain torch hook."""
        layers = next(part for part in self.original.modules() if isinstance(part, nn.ModuleList) and len(part) == 2)

        def act(layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
            x = args[0] if args else options["hidden_states"]
            new = edit(x)
            x = x if new is None else new
            return ((x, *args[1:]), options) if args else (args, options | {"hidden_states": x})

        handle = layers[1].register_forward_pre_hook(act, with_kwargs=True)
        more = {"decoder_input_ids": self.original._shift_right(tokens)} if self.name == "t5" else {}
        try:
            out = self.original(tokens, **more)
        finally:
            handle.remove()
        return getattr(out, "logits", out)

    def entering(self, tokens: Tensor) -> Tensor:
        """What enters the original's second block."""
        seen: list[Tensor] = []
        self.of_original(tokens, lambda x: seen.append(x.detach().clone()))
        return seen[0]

    @property
    def facts(self) -> zoo.Facts:
        return zoo.FACTS[self.name]

    def run(self, hook: str, edit: Callable[[Tensor], Tensor], *others: tuple[str, Any], see: str | None) -> Tensor:
        """What the bridge has at `see` (its logits, if None) while `edit` acts at `hook`."""
        found = {}

        def record(value: Tensor, hook: Any) -> None:
            found["value"] = value.detach().clone()

        edits = [(hook, lambda value, hook: edit(value.clone())), *others]
        with torch.no_grad():
            out = self.bridge.run_with_hooks(self.tokens, fwd_hooks=edits + ([(see, record)] if see else []))
        if see is None and self.facts.logit_cap:
            out = self.facts.logit_cap * (out / self.facts.logit_cap).atanh()  # directions end before the cap
        return (found["value"] if see else out).double()


@cache
def subject(name: str) -> Subject:
    tokens = zoo.tokens()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        bridge, original = zoo.build(name), zoo.original(name)
        options = {"decoder_input_ids": tokens} if name == "t5" else {}
        out = original(tokens, output_attentions=name != "mamba", **options)
        patterns = getattr(out, "attentions", None) or ()
        _, at = bridge.run_with_cache(tokens)
    return Subject(name, bridge, tokens, out.logits.double(), list(patterns), at, original)


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert expected.norm() > 0
    return float(((found - expected).norm() / expected.norm()).detach())


def with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[..., :1])], -1).double()


def reads(s: Subject, layer: int, fold_norm: bool) -> Tensor:
    name = f"blocks.{layer}.ln1.hook_normalized" if fold_norm else f"blocks.{layer}.attn.hook_in"
    return with_one(s.at[name])


def score_error(s: Subject, layer: int, head: int, form: Tensor) -> float:
    """Between `form` (bilinear: batch, query, key), scaled as the model scales, and the pattern of the original."""
    pattern = s.patterns[layer][:, head].double()
    seen = pattern > 1e-30
    score = s.facts.scale * form
    if s.facts.cap:
        score = s.facts.cap * (score / s.facts.cap).tanh()

    def felt(values: Tensor) -> Tensor:
        """What the softmax feels of scores: differences between the keys of a query."""
        values = torch.where(seen, values, 0.0)
        felt = torch.where(seen, values - values.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True), 0.0)
        return felt - felt.mean(0) if s.facts.biased else felt  # a bias of the positions is the same in all examples

    return relative_error(felt(score), felt(pattern.clamp_min(1e-30).log()))


def qk_error(s: Subject, *, fold_norm: bool) -> float:
    worst = 0.0
    for layer, head in HEADS:
        turns = s.facts.turns[layer]
        n = s.tokens.shape[1]
        omegas = {
            offset: qk_circuit(s.bridge, layer, head, bias=True, fold_norm=fold_norm, offset=offset).matrix
            for offset in (range(n) if turns else (0,))
        }
        x = reads(s, layer, fold_norm)
        form = torch.zeros(len(x), n, n, dtype=torch.float64)
        for q in range(n):
            for k in range(q + 1 if turns else n):  # all rotary models here are causal
                omega = omegas[q - k if turns else 0]
                form[:, q, k] = torch.einsum("bi,ij,bj->b", x[:, q], omega, x[:, k])
        worst = max(worst, score_error(s, layer, head, form))
    return worst


def slices_error(s: Subject, *, fold_norm: bool) -> float:
    worst = 0.0
    for layer, head in HEADS:
        split = attention_slices(s.bridge, s.tokens, layer, head, fold_norm=fold_norm, n_null=1)
        assert split.scale == pytest.approx(s.facts.scale, rel=1e-4)
        form = torch.zeros(s.patterns[layer][:, head].shape, dtype=torch.float64)
        form[tuple(split.pairs.T)] = split.slices.sum(-1) / s.facts.scale
        worst = max(worst, score_error(s, layer, head, form))
    return worst


def ov_error(s: Subject, *, fold_norm: bool) -> float:
    """What is gone from the residual stream when a head is silenced, and the MLP that would read it too."""
    worst = 0.0
    for layer, head in HEADS:
        circuit = ov_circuit(s.bridge, layer, head, bias=True, fold_norm=fold_norm)
        made = s.patterns[layer][:, head].double() @ reads(s, layer, fold_norm) @ circuit.matrix
        quiet = (f"blocks.{layer}.hook_mlp_out", lambda value, hook: torch.zeros_like(value))
        # where the norm stands behind, the stream is what enters it
        behind = s.name in ("openai-gpt", "bert", "roberta")
        see = f"blocks.{layer}.ln1.hook_in" if behind else f"blocks.{layer}.hook_out"

        def silence(z: Tensor, head: int = head, factor: float = 1.0) -> Tensor:
            z.unflatten(-1, (zoo.HEADS, -1))[:, :, head] *= factor if z.ndim == 3 else 1
            if z.ndim == 4:
                z[:, :, head] *= factor
            return z

        z = f"blocks.{layer}.attn.hook_z"
        with_head, without = (s.run(z, partial(silence, factor=f), quiet, see=see) for f in (1.0, 0.0))
        worst = max(worst, relative_error(made, with_head - without))
    return worst


def write_error_of_embedding(s: Subject, write: Tensor) -> float:
    """Another token at one position: what changes where block 0 reads."""
    other = s.tokens.clone()
    other[:, 2] = (other[:, 2] + 7) % 40 + 5
    with torch.no_grad():
        _, changed = s.bridge.run_with_cache(other)
    name = "blocks.0.hook_in"
    change = (changed[name] - s.at[name]).double()[:, 2]
    return relative_error((write[other[:, 2]] - write[s.tokens[:, 2]]).double(), change)


def write_error_of_mlp(s: Subject, write: Tensor) -> float:
    """One unit more of a neuron of block 0: what changes where block 1 reads."""
    worst = 0.0
    for unit in (0, 5):

        def more(post: Tensor, unit: int = unit) -> Tensor:
            post[..., unit] += 1
            return post

        hook, see = "blocks.0.mlp.hook_post", "blocks.1.hook_in"
        change = s.run(hook, more, see=see) - s.run(hook, lambda post: post, see=see)
        worst = max(worst, relative_error(write[unit].double().expand_as(change), change))
    return worst


def read_error(s: Subject, read: Tensor, before: str, normalized: str, after: str | None, fold_norm: bool) -> float:
    """What enters the weights, times the directions: what leaves them, up to a constant."""
    if fold_norm:
        own = s.at[after] if after else s.logits
        if after is None and s.facts.logit_cap:
            own = s.facts.logit_cap * (own / s.facts.logit_cap).atanh()
        made, own = (m.double().flatten(0, -2) for m in (s.at[normalized] @ read.mT, own))
        return relative_error(made - made.mean(0), own - own.mean(0))
    nudge = torch.randn(s.bridge.cfg.d_model, generator=torch.Generator().manual_seed(1))
    change = s.run(before, lambda x: x + nudge, see=after) - s.run(before, lambda x: x, see=after)
    return relative_error((nudge @ read.mT).double().expand_as(change), change)


def bottleneck_error(s: Subject, path: str, *, fold_norm: bool) -> float:
    directions = bottleneck(s.bridge, path, fold_norm=fold_norm)
    writes, ends = path.split("->")
    of = write_error_of_embedding if writes == "embed" else write_error_of_mlp
    reading = {
        "unembed": ("unembed.hook_in", "ln_final.hook_normalized", None),
        "blocks.1.mlp.in": ("blocks.1.mlp.hook_in", "blocks.1.ln2.hook_normalized", "blocks.1.mlp.in.hook_out"),
    }[ends]
    return max(of(s, directions.write), read_error(s, directions.read, *reading, fold_norm))


USUAL = ["hook_resid_pre", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_attn_scores", "attn.hook_pattern"]
USUAL += ["attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out"]
USUAL += ["hook_resid_post", "ln1.hook_normalized"]


def audit_error(s: Subject) -> float:
    """Hook points in whose row `fires`, `live` or `error` is not what an edit there does."""
    block = s.second[0].removesuffix(".hook_in")
    hooks = [f"{block}.{part}" for part in USUAL if f"{block}.{part}" in s.bridge.hook_dict]
    table = audit_hooks(s.bridge, s.tokens, hooks)
    wrong = 0
    for name in hooks:
        called = []

        def disturb(value: Tensor, called: list[bool] = called) -> Tensor:
            called.append(True)
            return value + 1 + torch.rand(value.shape, generator=torch.Generator().manual_seed(2))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the bridge says which edits it discards
            try:
                out = s.run(name, disturb, see=None)
            except AttributeError:  # a bridge of OLMo looks for the weight of a norm that has none
                wrong += table.loc[name, "error"] is None or table.loc[name, "live"]
                continue
        live = not torch.equal(out, s.run("embed.hook_out", lambda x: x, see=None))
        wrong += bool(called) != table.loc[name, "fires"] or live != table.loc[name, "live"]
    return float(wrong)


def metric(out: Any) -> Tensor:
    """One number per example."""
    out = out[0] if isinstance(out, tuple) else out
    out = out if out.ndim == 3 else out[:, None]
    return out[:, -1] @ torch.linspace(-1, 2, out.shape[-1])


def collect_error(s: Subject) -> float:
    hook = s.second[1]
    return relative_error(collect_activations(s.bridge, s.tokens, hook, batch_size=2)[hook], s.entering(s.tokens))


def probe_error(s: Subject) -> float:
    """Targets are a linear function of what enters the original's second block at the last token: R^2 is 1."""
    tokens = zoo.tokens(60)
    x = s.entering(tokens)[:, -1].double()
    targets = x @ torch.randn(x.shape[1], generator=torch.Generator().manual_seed(3)).double()
    return abs(1 - linear_probe(s.bridge, tokens, targets, s.second[1], control=False).score.item())


def tangent_error(s: Subject) -> float:
    """Against the original's own gradients, of some outputs."""
    space = tangent_space(s.bridge, s.tokens, s.second[1])
    nudge = torch.zeros_like(s.entering(s.tokens), requires_grad=True)
    logits, units = s.of_original(s.tokens, lambda x: x + nudge)[:, -1], (4, 9, 30)
    [*rows] = (torch.autograd.grad(logits[:, unit].sum(), nudge, retain_graph=True)[0][:, -1] for unit in units)
    assert (space.in_axes, space.out_axes) == ({"unit": zoo.WIDTH}, {"unit": zoo.VOCABULARY})
    return relative_error(space.jacobian[:, units], torch.stack(rows, 1))


def patched_metric(s: Subject, pos: slice) -> float:
    """The original's metric if what enters its second block at these positions is that of the clean run."""
    clean = s.entering(CLEAN)

    def patch(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, pos] = clean[:, pos]
        return x

    return float(metric(s.of_original(CORRUPTED, patch)).mean().detach())


def sweep_error(s: Subject) -> float:
    """Each position, then all of them: where these are the clean run's, so is the answer."""
    hook = s.second[1]
    table = patch_sweep(s.bridge, CLEAN, CORRUPTED, metric, [Site(hook=hook, pos="each"), Site(hook=hook)])
    expected = [patched_metric(s, slice(pos, pos + 1)) for pos in range(CLEAN.shape[1])] + [
        patched_metric(s, slice(None))
    ]
    if s.name != "t5":  # whose decoder reads the tokens too
        assert table.recovered.iloc[-1] == pytest.approx(1, abs=LIMIT)
    return relative_error(torch.tensor(table.metric.to_numpy()), torch.tensor(expected).double())


def path_error(s: Subject) -> float:
    early, late = s.second
    table = path_patch(s.bridge, CLEAN, CORRUPTED, metric, early, late)
    return relative_error(
        torch.tensor(table.metric.to_numpy()), torch.tensor([patched_metric(s, slice(None))]).double()
    )


def weights_error(s: Subject) -> float:
    """Two other rows of the embedding, in the bridge by the tool, in the original by hand; then the old ones again."""
    rows, new = s.tokens[0, :2], torch.randn(2, zoo.WIDTH, generator=torch.Generator().manual_seed(4)) / 3
    other = s.bridge.W_E.detach().clone()
    other[rows] = new
    with patch_weights(s.bridge, {"W_E": other}, {"W_E": rows}), torch.no_grad():
        patched = s.bridge(s.tokens)
    embedding = s.original.get_input_embeddings().weight
    before = embedding.detach().clone()
    with torch.no_grad():
        embedding[rows] = new
        expected = s.of_original(s.tokens)
        embedding.copy_(before)
        restored = relative_error(s.bridge(s.tokens), s.of_original(s.tokens))
    assert relative_error(patched, s.of_original(s.tokens)) > LIMIT
    return max(relative_error(patched, expected), restored)


CLEAN, CORRUPTED = zoo.tokens(2, seed=1), zoo.tokens(2, seed=2)
WEIGHTS: dict[str, Callable[[Subject], float]] = {
    "qk_circuit": partial(qk_error, fold_norm=False),
    "qk_circuit, folded": partial(qk_error, fold_norm=True),
    "attention_slices": partial(slices_error, fold_norm=False),
    "ov_circuit": partial(ov_error, fold_norm=False),
    "ov_circuit, folded": partial(ov_error, fold_norm=True),
    "embed->unembed": partial(bottleneck_error, path="embed->unembed", fold_norm=False),
    "embed->unembed, folded": partial(bottleneck_error, path="embed->unembed", fold_norm=True),
    "mlp.out->unembed": partial(bottleneck_error, path="blocks.0.mlp.out->unembed", fold_norm=False),
    "mlp.out->mlp.in": partial(bottleneck_error, path="blocks.0.mlp.out->blocks.1.mlp.in", fold_norm=False),
    "mlp.out->mlp.in, folded": partial(bottleneck_error, path="blocks.0.mlp.out->blocks.1.mlp.in", fold_norm=True),
}
RUNS: dict[str, Callable[[Subject], float]] = {
    "audit_hooks": audit_error,
    "collect_activations": collect_error,
    "linear_probe": probe_error,
    "tangent_space": tangent_error,
    "patch_sweep": sweep_error,
    "path_patch": path_error,
    "patch_weights": weights_error,
}
TOOLS = WEIGHTS | RUNS
"""Those that read weights and those that run the model. Each gives the largest relative error, or raises what the tool
raised."""


def toy_form(name: str, *, fold_norm: bool) -> float:
    model, x = zoo.other(name), zoo.features(name)
    worst = 0.0
    for head in (0, 2):
        omega = qk_circuit(model, 0, head, bias=True, fold_norm=fold_norm)
        out, cache = model.run_with_cache(x)
        hidden = with_one(cache["hook_hidden"])
        worst = max(worst, relative_error(hidden @ omega.matrix @ hidden.mT, out.attn_scores[:, head].double()))
    return worst


def toy_slices(name: str) -> float:
    model, x = zoo.other(name), zoo.features(name)
    split = attention_slices(model, x, 0, 1, n_null=1)
    return relative_error(split.slices.sum(-1), model(x).attn_scores[:, 1][tuple(split.pairs.T)].double())


def toy_bottleneck(name: str, path: str, *, fold_norm: bool) -> float:
    """One unit more where it is written: what changes where it is read, or before the output's nonlinearity.

    MLPs of a residual stream that would read it on the way are silenced.
    """
    model, x = zoo.other(name), zoo.features(name)
    directions = bottleneck(model, path, fold_norm=fold_norm)
    made = (directions.write @ directions.read.mT).double()
    see = "hook_unembed" if "hook_unembed" in model.hook_dict else None
    see = "blocks.1.mlp.hook_pre" if path.endswith("mlp.in") else see
    between = [name for name in model.hook_dict if name.endswith("hook_mlp_out")][path.startswith("blocks") :]
    quiet = [(name, lambda value, hook: torch.zeros_like(value)) for name in between]
    changes = []
    for unit in range(len(directions.write)):
        found = []
        for more in (0.0, 1.0):
            added = x.clone()
            edits: list[Any] = list(quiet)
            if path.startswith("embed"):
                added[..., unit] += more
            else:

                def write(post: Tensor, hook: Any, unit: int = unit, more: float = more) -> Tensor:
                    return post + more * torch.eye(post.shape[-1])[unit]

                edits.append(("blocks.0.mlp.hook_post", write))
            if see:
                edits.append((see, lambda value, hook, found=found: found.append(value.double())))
                model.run_with_hooks(added, fwd_hooks=edits)
            else:
                found.append(model(added).double())
        changes.append(found[1] - found[0])
    return max(relative_error(row.expand_as(change), change) for row, change in zip(made, changes, strict=True))


def toy_audit(name: str) -> float:
    model, x = zoo.other(name), zoo.features(name)
    table = audit_hooks(model, x)
    wrong = 0
    for hook in model.hook_dict:
        out, usual = (
            model.run_with_hooks(x, fwd_hooks=[(hook, lambda value, hook, more=more: value + more)])
            for more in (1 + torch.rand(6, generator=torch.Generator().manual_seed(2))[:1], 0.0)
        )
        live = any(not torch.equal(a, b) for a, b in zip(tensors_of(out), tensors_of(usual), strict=True))
        wrong += not table.loc[hook, "fires"] or live != table.loc[hook, "live"]
    return float(wrong)


def tensors_of(out: Any) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)


def passing(model: Any, x: Tensor, hook: str, edit: Callable[[Tensor], Tensor | None] = lambda v: None) -> Any:
    """The output, and what passes at a point, while `edit` acts there: by a plain torch hook, not by the model's."""
    seen: list[Tensor] = []

    def act(point: nn.Module, args: Any, value: Tensor) -> Tensor | None:
        seen.append(value.detach().clone())
        return edit(value)

    handle = model.hook_dict[hook].register_forward_hook(act)
    try:
        return tensors_of(model(x))[0], seen[0]
    finally:
        handle.remove()


def last(value: Tensor) -> Tensor:
    return value[:, -1] if value.ndim == 3 else value


def toy_collect(name: str) -> float:
    model, x, hook = zoo.other(name), zoo.features(name), zoo.POINTS[name].late
    return relative_error(collect_activations(model, x, hook, batch_size=2)[hook], passing(model, x, hook)[1])


def toy_probe(name: str) -> float:
    """Targets are a linear function of what passes at the last position: R^2 is 1."""
    model, x, hook = zoo.other(name), zoo.features(name, 60), zoo.POINTS[name].early
    value = last(passing(model, x, hook)[1]).double()
    targets = value @ torch.randn(value.shape[1], generator=torch.Generator().manual_seed(3)).double()
    return abs(1 - linear_probe(model, x, targets, hook, control=False).score.item())


def toy_tangent(name: str) -> float:
    model, x, hook = zoo.other(name), zoo.features(name), zoo.POINTS[name].early
    nudge = torch.zeros_like(passing(model, x, hook)[1], requires_grad=True)
    out = last(passing(model, x, hook, lambda value: value + nudge)[0])
    rows = [last(torch.autograd.grad(column.sum(), nudge, retain_graph=True)[0]) for column in out.unbind(1)]
    return relative_error(tangent_space(model, x, hook).jacobian, torch.stack(rows, 1))


def toy_sweep(name: str) -> float:
    """Each unit, then all of them."""
    model, hook, (clean, corrupted) = zoo.other(name), zoo.POINTS[name].early, zoo.features(name, 4).split(2)
    table = patch_sweep(model, clean, corrupted, metric, [Site(hook=hook, unit="each"), Site(hook=hook)])
    source, expected = passing(model, clean, hook)[1], []
    for units in [*([unit] for unit in range(source.shape[-1])), slice(None)]:

        def patch(value: Tensor, units: Any = units) -> Tensor:
            value = value.clone()
            value[..., units] = source[..., units]
            return value

        expected.append(metric(passing(model, corrupted, hook, patch)[0]).mean().detach())
    assert table.recovered.iloc[-1] == pytest.approx(1, abs=LIMIT)
    return relative_error(torch.tensor(table.metric.to_numpy()), torch.stack(expected).double())


def toy_path(name: str) -> float:
    """All that the first does to the output goes through the second."""
    model, points, (clean, corrupted) = zoo.other(name), zoo.POINTS[name], zoo.features(name, 4).split(2)
    table = path_patch(model, clean, corrupted, metric, points.early, points.late)
    return abs(1 - table.recovered.item())


def toy_weights(name: str) -> float:
    model, x, weight = zoo.other(name), zoo.features(name), zoo.POINTS[name].weight
    [full] = (full for full, _ in model.named_parameters() if full.endswith(weight))
    other = model.get_parameter(full).detach().clone()
    other[1] = torch.randn(other.shape[1], generator=torch.Generator().manual_seed(4))
    expected = tensors_of(torch.func.functional_call(model, {full: other}, (x,)))[0]
    with patch_weights(model, {weight: other}, {weight: 1}):
        patched = tensors_of(model(x))[0]
    assert relative_error(patched, tensors_of(model(x))[0]) > LIMIT
    return relative_error(patched, expected)


OF_TOYS: dict[str, Callable[[str], float]] = {
    "qk_circuit": partial(toy_form, fold_norm=False),
    "qk_circuit, folded": partial(toy_form, fold_norm=True),
    "attention_slices": toy_slices,
    "ov_circuit": lambda name: float(len(ov_circuit(zoo.other(name), 0, 0))),
    "ov_circuit, folded": lambda name: float(len(ov_circuit(zoo.other(name), 0, 0, fold_norm=True))),
    "embed->unembed": partial(toy_bottleneck, path="embed->unembed", fold_norm=False),
    "embed->unembed, folded": partial(toy_bottleneck, path="embed->unembed", fold_norm=True),
    "mlp.out->unembed": partial(toy_bottleneck, path="blocks.0.mlp.out->unembed", fold_norm=False),
    "mlp.out->mlp.in": partial(toy_bottleneck, path="blocks.0.mlp.out->blocks.1.mlp.in", fold_norm=False),
    "mlp.out->mlp.in, folded": partial(toy_bottleneck, path="blocks.0.mlp.out->blocks.1.mlp.in", fold_norm=True),
    "audit_hooks": toy_audit,
    "collect_activations": toy_collect,
    "linear_probe": toy_probe,
    "tangent_space": toy_tangent,
    "patch_sweep": toy_sweep,
    "path_patch": toy_path,
    "patch_weights": toy_weights,
}
"""The same for toys, whose circuits have no values: those must be refused."""


class Cell(NamedTuple):
    error: float | None
    """None where the tool refused."""
    reason: str = ""


@cache
def cell(name: str, tool: str) -> Cell:
    if name in zoo.OTHERS:
        return judged(partial(OF_TOYS[tool], name))
    try:
        made = subject(name)
    except ValueError as error:
        if "Unsupported architecture" in str(error):
            return Cell(None, NO_BRIDGE)
        raise
    return judged(partial(TOOLS[tool], made))


def judged(error_of: Callable[[], float]) -> Cell:
    """The error, or the reason, if the tool itself refused."""
    try:
        return Cell(error_of())
    except (ValueError, IndexError, TypeError) as error:
        file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if file.is_relative_to(ROOT / "probes"):
            return Cell(None, str(error))
        raise


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", zoo.ARCHITECTURES + zoo.OTHERS)
def test_checked_or_refused(name, tool):
    found = cell(name, tool)
    if found.error is None:
        assert len(found.reason) > 10
    else:
        assert found.error < LIMIT


@pytest.mark.parametrize("name", [name for name in zoo.ARCHITECTURES if name not in ("modernbert", "t5")])
def test_the_bridge_computes_what_the_original_does(name):
    with torch.no_grad():
        assert relative_error(subject(name).bridge(zoo.tokens()).double(), subject(name).logits) < LIMIT


def test_the_document_is_of_this_run():
    assert DOCUMENT.read_text() == document()


def document() -> str:
    """`docs/architectures.md`, from the cells."""
    reasons: dict[str, int] = {}
    tables = [_table(tools, reasons) for tools in (WEIGHTS, RUNS)]
    why = "\n".join(f"{number}. {reason}" for reason, number in reasons.items())
    titles = ("## Tools that read weights", "## Tools that run the model")
    parts = [f"{title}\n\n{table}" for title, table in zip(titles, tables, strict=True)]
    return "\n\n".join([INTRODUCTION.strip(), *parts, f"## Why a tool refuses\n\n{why}\n"])


def _table(tools: Iterable[str], reasons: dict[str, int]) -> str:
    rows = []
    for name in zoo.ARCHITECTURES + zoo.OTHERS:
        row = []
        for tool in tools:
            found = cell(name, tool)
            if found.error is not None:
                row.append("checked" if found.error < LIMIT else "**wrong**")
            else:
                reason = re.sub(r" \(relative error [^)]*\)", "", found.reason)
                reason = re.sub(r"\blayer \d(, head \d)?\b", "a layer", reason).replace("block 0", "a block")
                reason = re.sub(r"\bthis [A-Z]\w+", "this model", reason)
                row.append(f"refused {reasons.setdefault(reason, len(reasons) + 1)}")
        rows.append([name, *row])
    head = ["architecture", *tools]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


NO_BRIDGE = "TransformerLens makes no bridge of it"
INTRODUCTION = """# Architectures

Tools tried on small random models of many architectures (two layers, 32 dimensions, no gain or bias at its default) as
bridges of TransformerLens, on a transformer written from scratch in such a bridge, on toys, on a `HookedRootModule`
and, by `probes.hook_modules`, on a plain torch module. *Checked* means that the tool's result agrees, to 1e-4, with a
computation that uses neither the tool nor, where the tool reads weights, the weights: the original's attention, logits,
gradients and residual stream, or an edit of the running model by a plain torch hook. *Refused* means that the tool
raises an error with the reason that has this number below. The tables are written by `python -m tests.probes.test_zoo`,
and `make test` fails if they are not those of the code.

*Folded* is `fold_norm=True`. In the columns of bottlenecks, `mlp.out` is block 0's and `mlp.in` block 1's. Bloom, MPT
and Falcon with ALiBi add a bias of the positions to the scores, and Gemma 2 caps them: both are told apart, and Omega
is that of the bilinear part. Of T5 the bridge has an encoder and a decoder, and no `blocks`.
"""


if __name__ == "__main__":
    DOCUMENT.write_text(document())
