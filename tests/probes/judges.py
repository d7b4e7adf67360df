"""What tools of `probes` give on a transformer of the zoo, held against the original or an edit of the running model.

The judge is the Hugging Face model (its attentions, hidden states, gradients and logits) or an intervention on the
bridge, never the weights that the tools read. Each judge gives the largest relative error, or raises what the tool
raised. `judges_of_toys` has the same for models that are no transformers, `test_zoo` the table of both.
"""

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from probes import render
from probes.activation_patching import patch_sweep, path_patch
from probes.activations import collect_activations
from probes.alignment import Alignment, align, nearest_tokens
from probes.attribution import attribution_sweep
from probes.bottleneck import bottleneck
from probes.circuits import ov_circuit, qk_circuit
from probes.linear import linear_probe
from probes.liveness import audit_hooks
from probes.sites import Site
from probes.slices import ablate_slices, attention_slices
from probes.tangent import tangent_space
from probes.weight_patching import init_patching, patch_weights
from tests.probes import zoo

LIMIT = 1e-4
"""Largest error, relative to what is compared."""
HEADS = ((0, 2), (1, 1), (1, 2))
"""Layers and heads that are tried; of grouped queries heads 1 and 2 share no key head."""
Edit = Callable[[Tensor], Tensor | None]
"""What takes the place of an activation; None leaves it."""


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
        blocks, part = "encoder_blocks" if self.name == "t5" else "blocks", LEGACY["hook_in"] if LEGACY else "hook_in"
        return f"{blocks}.0.{part}", f"{blocks}.1.{part}"

    @torch.enable_grad()
    def of_original(self, tokens: Tensor, edit: Edit = lambda x: None, before: Edit = lambda x: None) -> Tensor:
        """Logits of the original while `edit` acts on what enters its second block, and `before` on the first's.

        Both are found by plain torch hooks.
        """
        layers = next(part for part in self.original.modules() if isinstance(part, nn.ModuleList) and len(part) == 2)

        def act(edit: Edit, layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
            x = args[0] if args else options["hidden_states"]
            new = edit(x)
            x = x if new is None else new
            return ((x, *args[1:]), options) if args else (args, options | {"hidden_states": x})

        edits = zip(layers, (before, edit), strict=True)
        handles = [layer.register_forward_pre_hook(partial(act, edit), with_kwargs=True) for layer, edit in edits]
        more = {"decoder_input_ids": self.original._shift_right(tokens)} if self.name == "t5" else {}
        try:
            out = self.original(tokens, **more)
        finally:
            for handle in handles:
                handle.remove()
        return getattr(out, "logits", out)

    def entering(self, tokens: Tensor, block: int = 1) -> Tensor:
        """What enters a block of the original, its second one if no other is named."""
        seen: list[Tensor] = []

        def note(x: Tensor) -> None:
            seen.append(x.detach().clone())

        self.of_original(tokens, **{"edit" if block else "before": note})
        return seen[0]

    @property
    def facts(self) -> zoo.Facts:
        return zoo.FACTS[self.name]

    def run(
        self,
        hook: str,
        edit: Callable[[Tensor], Tensor],
        *others: tuple[str, Any],
        see: str | None,
        tokens: Tensor | None = None,
        capped: bool = False,
    ) -> Tensor:
        """What the bridge has at `see` (its logits, if None) while `edit` acts at `hook`.

        Directions end before a cap of the logits: unless `capped`, it is undone.
        """
        found = {}
        (hook, edit), see = legacy(self.bridge, hook, edit), legacy(self.bridge, see)[0] if see else None

        def record(value: Tensor, hook: Any) -> None:
            found["value"] = value.detach().clone()

        edits = [(hook, lambda value, hook: edit(value.clone())), *others]
        with torch.no_grad():
            tokens = self.tokens if tokens is None else tokens
            out = self.bridge.run_with_hooks(tokens, fwd_hooks=edits + ([(see, record)] if see else []))
        if see is None and self.facts.logit_cap and not capped:
            out = self.facts.logit_cap * (out / self.facts.logit_cap).atanh()
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
        if not zoo.HAS_BRIDGES:
            at = At(bridge, at)
    return Subject(name, bridge, tokens, out.logits.double(), list(patterns), at, original)


LEGACY = (
    {}
    if zoo.HAS_BRIDGES
    else {
        "hook_in": "hook_resid_pre",
        "hook_out": "hook_resid_post",
        "embed.hook_out": "hook_embed",
        "mlp.in.hook_out": "mlp.hook_pre",
    }
)
"""How a `HookedTransformer` calls what has these names on a bridge."""
NORMED = {"attn.hook_in": "ln1", "mlp.hook_in": "ln2", "unembed.hook_in": "ln_final"}
"""Points that it does not have: what leaves a norm, whose point stands before its gain."""


def legacy(model: Any, hook: str, edit: Callable[[Tensor], Tensor] = lambda x: x) -> tuple[str, Any]:
    """A bridge's hook and an edit there, as a `HookedTransformer` has them."""
    block, name = hook[: hook.find(".", 7) + 1] if hook.startswith("blocks.") else "", hook
    name = hook.removeprefix(block)
    if zoo.HAS_BRIDGES or name not in NORMED:
        return block + LEGACY.get(name, name), edit
    norm = model.get_submodule(block + NORMED[name])
    return f"{block}{NORMED[name]}.hook_normalized", lambda x: (edit(x * norm.w + norm.b) - norm.b) / norm.w


class At:
    """Activations of a `HookedTransformer` under a bridge's names."""

    def __init__(self, model: Any, cache: Any) -> None:
        self.model, self.cache = model, cache

    def __getitem__(self, hook: str) -> Tensor:
        own, _ = legacy(self.model, hook)
        value = self.cache[own]
        if own.endswith("hook_normalized") and own != hook:
            norm = self.model.get_submodule(own.removesuffix(".hook_normalized"))
            value = value * norm.w + norm.b
        return value.detach()

    def __contains__(self, hook: str) -> bool:
        return legacy(self.model, hook)[0] in self.cache


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
    change = (changed[legacy(s.bridge, name)[0]] - s.at[name]).double()[:, 2]
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


def written(s: Subject) -> Tensor:
    """What each token of the vocabulary adds where block 0 reads: with its embedding, less without."""
    tokens = torch.arange(zoo.VOCABULARY).reshape(10, 5)
    with_it, without = (
        s.run("embed.hook_out", lambda x, f=f: f * x, see="blocks.0.hook_in", tokens=tokens) for f in (1.0, 0.0)
    )
    return (with_it - without).flatten(0, 1)


def read_at_the_end(s: Subject) -> Tensor:
    """What each unit that enters the unembedding adds to each logit: "token unit"."""
    tokens, units = s.tokens[:1, :1].expand(zoo.WIDTH, 1), torch.eye(zoo.WIDTH)[:, None]
    more, usual = (s.run("unembed.hook_in", lambda x, f=f: x + f * units, see=None, tokens=tokens) for f in (1, 0))
    return (more - usual)[:, 0].mT


def spectrum_error(found: Alignment, left: Tensor, right: Tensor, matrix: Tensor) -> float:
    """Between singular values and cosines, and forms of the matrix that need none: its own, and with its transpose."""
    left, right = (nn.functional.normalize(rows.double(), dim=-1) for rows in (left, right))
    U, S, V = found.left_cosines.mT, found.S.diag(), found.right_cosines.mT
    return max(
        relative_error(found.S, torch.linalg.svdvals(matrix)[: len(S)]),
        relative_error(U @ S @ V.mT, left @ matrix @ right.mT),
        relative_error(U @ S @ S @ U.mT, left @ matrix @ matrix.mT @ left.mT),
        relative_error(V @ S @ S @ V.mT, right @ matrix.mT @ matrix @ right.mT),
    )


def align_error(s: Subject) -> float:
    """Directions of the residual stream, as the smallest patterns that write and read them."""
    directions = torch.randn(6, zoo.WIDTH, generator=torch.Generator().manual_seed(5)).double()
    found = align(bottleneck(s.bridge, "embed->unembed"), directions, n_null=1)
    write, read = written(s), read_at_the_end(s)
    return spectrum_error(
        found, directions @ torch.linalg.pinv(write), directions @ torch.linalg.pinv(read), write @ read.mT
    )


def align_scores_error(s: Subject) -> float:
    """What the queries' and the keys' cosines with the singular vectors of Omega make of a score."""
    worst = 0.0
    for layer, head in HEADS[:2]:
        turns, n = s.facts.turns[layer], s.tokens.shape[1]
        circuits = [qk_circuit(s.bridge, layer, head, bias=True, offset=offset) for offset in range(n if turns else 1)]
        x = reads(s, layer, False)
        form = torch.zeros(len(x), n, n, dtype=torch.float64)
        for offset, circuit in enumerate(circuits):
            near = torch.ones(n, n).tril(-offset).triu(-offset) if turns else torch.ones(n, n)
            q, k = near.nonzero().T
            left, right = x[:, q].flatten(0, 1), x[:, k].flatten(0, 1)
            found = align(circuit, left, right, n_null=1)
            scores = torch.einsum("kp,k,kp->p", found.left_cosines, found.S, found.right_cosines)
            form[:, q, k] = (scores * left.norm(dim=-1) * right.norm(dim=-1)).unflatten(0, (len(x), -1))
        worst = max(worst, score_error(s, layer, head, form))
    return worst


def ablation_error(s: Subject) -> float:
    """The original's pattern, less these slices' part of the scores, put into the bridge: what the metric changes by.

    The slices are those of a matrix that is formed in full, and taken away from the scores, not from the queries.
    """
    layer, head, taken = 0, 2, [0, 2]
    table = ablate_slices(s.bridge, s.tokens, metric, layer, head, taken, n_random=1)
    turns, n, x = s.facts.turns[layer], s.tokens.shape[1], reads(s, layer, False)
    omegas = {o: qk_circuit(s.bridge, layer, head, bias=True, offset=o).matrix for o in range(n if turns else 1)}
    U = torch.linalg.svd(omegas[0]).U
    pattern, changes = s.patterns[layer][:, head].double(), []
    visible = (s.patterns[layer] > 0).any(0).any(0)
    for directions in (U[:, taken], U[:, : zoo.WIDTH // zoo.HEADS]):
        form, lost = (torch.zeros(len(x), n, n, dtype=torch.float64) for _ in range(2))
        for q in range(n):
            for k in range(q + 1 if turns else n):
                omega = omegas[q - k if turns else 0] @ x[:, k, :, None]
                form[:, q, k] = (x[:, q, None] @ omega)[:, 0, 0]
                lost[:, q, k] = (x[:, q, None] @ directions @ directions.mT @ omega)[:, 0, 0]
        before, after = s.facts.scale * form, s.facts.scale * (form - lost)
        if s.facts.cap:
            before, after = (s.facts.cap * (score / s.facts.cap).tanh() for score in (before, after))
        full = before.masked_fill(~visible, -torch.inf).softmax(-1)
        weighed = torch.where(pattern > 1e-30, pattern, full) * (after - before).exp()
        sink = 1 - pattern.sum(-1, keepdim=True)
        new = weighed / (torch.where(sink > 1e-5, sink, 0.0) + weighed.sum(-1, keepdim=True))

        def put(z: Tensor, more: Tensor = new - pattern) -> Tensor:
            heads = z if z.ndim == 4 else z.unflatten(-1, (zoo.HEADS, -1))
            v = s.at[f"blocks.{layer}.attn.hook_v"]
            v = v if v.ndim == 4 else v.unflatten(-1, (-1, heads.shape[-1]))
            heads[:, :, head] += (more @ v[:, :, head * v.shape[2] // zoo.HEADS].double()).to(heads)
            return heads.reshape(z.shape)

        z = f"blocks.{layer}.attn.hook_z"
        out, usual = (s.run(z, edit, see=None, capped=True) for edit in (put, lambda value: value))
        changes.append((metric(out) - metric(usual)).mean())
    return relative_error(torch.tensor(table["change"][["slices", "head"]].to_numpy()), torch.stack(changes).double())


def nearest_read_error(s: Subject) -> float:
    """Products of every token with each unit that enters the unembedding, or its norm's gain."""
    read = products_of(nearest_tokens(s.bridge, torch.eye(zoo.WIDTH), zoo.VOCABULARY)).float()
    normalized = "ln_final.hook_normalized"
    return read_error(s, read, "unembed.hook_in", normalized, None, normalized in s.at)


def nearest_written_error(s: Subject) -> float:
    """Products of every token with each unit that block 0 reads."""
    write = products_of(nearest_tokens(s.bridge, torch.eye(zoo.WIDTH), zoo.VOCABULARY, by="embed"))
    return relative_error(write, written(s))


def products_of(table: pd.DataFrame) -> Tensor:
    """Of a table with all tokens of every direction: "token direction"."""
    grid = table[table.sign == 1].pivot(index="token", columns="direction", values="product")
    return torch.tensor(grid.to_numpy())


USUAL = ["hook_resid_pre", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_attn_scores", "attn.hook_pattern"]
USUAL += ["attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out"]
USUAL += ["hook_resid_post", "ln1.hook_normalized"]


def audit_error(s: Subject) -> float:
    """Hook points in whose row `fires`, `live` or `error` is not what an edit there does."""
    block = s.second[0].rpartition(".")[0]
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
    last = out[:, -1] if out.ndim == 3 else out
    return last @ torch.linspace(-1, 2, last.shape[-1]).to(last)


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


def attribution_error(s: Subject) -> float:
    """Each position's difference, times the original's own gradient."""
    table = attribution_sweep(s.bridge, CLEAN, CORRUPTED, metric, Site(s.second[1], pos="each"))
    start, end = (s.entering(tokens) for tokens in (CORRUPTED, CLEAN))
    nudge = torch.zeros_like(start, requires_grad=True)
    value = metric(s.of_original(CORRUPTED, lambda x: x + nudge))
    [gradient] = torch.autograd.grad(value.sum(), nudge)
    changes = torch.tensor(table.metric.to_numpy()) - value.mean().detach().double()
    return relative_error(changes, ((end - start) * gradient).sum(-1).mean(0).double())


def edges_error(s: Subject) -> float:
    """From each position of the first block to the last one of the second: the original's gradient, in two pieces."""
    first, second = s.second
    table = attribution_sweep(s.bridge, CLEAN, CORRUPTED, metric, Site(first, pos="each"), Site(second, pos=-1))
    start, end = (s.entering(tokens, block=0) for tokens in (CORRUPTED, CLEAN))
    nudge, heard = torch.zeros_like(start, requires_grad=True), list[Tensor]()
    value = metric(s.of_original(CORRUPTED, heard.append, before=lambda x: x + nudge))
    [pull] = torch.autograd.grad(value.sum(), heard[0], retain_graph=True)
    [gradient] = torch.autograd.grad(heard[0][:, -1], nudge, pull[:, -1])
    changes = torch.tensor(table.metric.to_numpy()) - value.mean().detach().double()
    return relative_error(changes, ((end - start) * gradient).sum(-1).mean(0).double())


class Donor(nn.Module):
    """Nothing but a weight to give."""

    def __init__(self, name: str, weight: Tensor) -> None:
        super().__init__()
        self.register_parameter(name, nn.Parameter(weight))


def step(module: nn.Module, run: Callable[[Any], Any], inputs: Any) -> None:
    """Training, of one step."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        loss = metric(run(inputs)).square().mean()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= 1e-4 * gradient


def init_error(s: Subject) -> float:
    """Two rows of the embedding from a donor, a step of training, the metric: by the tool, and by hand."""
    rows = s.tokens[0, :2]
    weight = torch.randn(s.bridge.W_E.shape, generator=torch.Generator().manual_seed(4)) / 3

    def retrain(models: list[Any], seeds: list[int]) -> list[Any]:
        for model, seed in zip(models, seeds, strict=True):
            step(model, model, zoo.tokens(seed=seed))
        return models

    def outcome(run: Callable[[Any], Any]) -> float:
        with torch.no_grad():
            return float(metric(run(s.tokens)).mean())

    table = init_patching(s.bridge, Donor("W_E", weight), {"W_E": rows}, retrain, outcome, ("self", "rerun"))
    expected = []
    for given, seed in ((None, 0), (weight, 0), (None, 1)):
        own = s._replace(original=zoo.original(s.name))
        if given is not None:
            with torch.no_grad():
                own.original.get_input_embeddings().weight[rows] = given[rows]
        step(own.original, own.of_original, zoo.tokens(seed=seed))
        expected.append(outcome(own.of_original))
    made = table.set_index("condition").outcome[["unpatched", "patched", "rerun"]]
    assert made.nunique() == 3
    return relative_error(torch.tensor(made.to_numpy()), torch.tensor(expected).double())


def render_error(s: Subject) -> float:
    """What stands in the pictures: activations, a sweep and, where there are heads, their attention."""
    hook, words = s.second[1], [str(token) for token in s.tokens[0].tolist()]
    value = collect_activations(s.bridge, s.tokens, hook)[hook][0]
    sites = Site(hook, pos="each")
    figure = render.sweep_figure(patch_sweep(s.bridge, CLEAN, CORRUPTED, metric, sites))
    metrics = torch.tensor([patched_metric(s, slice(pos, pos + 1)) for pos in range(len(words))]).double()
    clean, corrupted = (metric(s.of_original(tokens)).mean().detach().double() for tokens in (CLEAN, CORRUPTED))
    shown = [
        (render.token_values(words, value).props["values"], s.entering(s.tokens)[0]),
        (list(figure.data[0].z[0]), (metrics - corrupted) / (clean - corrupted)),
    ]
    pattern = "blocks.1.attn.hook_pattern"
    if len(s.patterns) > 1 and pattern in s.bridge.hook_dict:
        scores = collect_activations(s.bridge, s.tokens, pattern)[pattern][0]
        shown.append((render.attention(words, scores).props["attention"], s.patterns[1][0]))
    return max(relative_error(torch.tensor(found).double(), own.double()) for found, own in shown)


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
    "align, embed->unembed": align_error,
    "align, qk": align_scores_error,
    "nearest_tokens": nearest_read_error,
    "nearest_tokens, embed": nearest_written_error,
}
RUNS: dict[str, Callable[[Subject], float]] = {
    "audit_hooks": audit_error,
    "collect_activations": collect_error,
    "linear_probe": probe_error,
    "tangent_space": tangent_error,
    "patch_sweep": sweep_error,
    "path_patch": path_error,
    "attribution_sweep": attribution_error,
    "attribution_sweep, edges": edges_error,
    "ablate_slices": ablation_error,
    "patch_weights": weights_error,
    "init_patching": init_error,
    "render": render_error,
}
TOOLS = WEIGHTS | RUNS
"""Those that read weights and those that run the model. Each gives the largest relative error, or raises what the tool
raised."""
