"""Every tool on every architecture of the zoo: checked against an independent computation, or refused with a reason.

Nothing else is allowed: a number that is wrong without a word is the worst that a tool can give. The judge is the
Hugging Face model (its attentions, hidden states and logits) or an intervention on the bridge, never the weights that
the tools read. `docs/architectures.md` is the table of these cells; `python -m tests.probes.test_zoo` writes it anew.
"""

import re
import traceback
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from probes.bottleneck import bottleneck
from probes.circuits import ov_circuit, qk_circuit
from probes.liveness import audit_hooks
from probes.slices import attention_slices
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
        bridge = zoo.build(name)
        options = {"decoder_input_ids": tokens} if name == "t5" else {}
        out = zoo.original(name)(tokens, output_attentions=name != "mamba", **options)
        patterns = getattr(out, "attentions", None) or ()
        _, at = bridge.run_with_cache(tokens)
    return Subject(name, bridge, tokens, out.logits.double(), list(patterns), at)


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
USUAL += ["hook_resid_post"]


def audit_error(s: Subject) -> float:
    """Hook points in whose row `fires` or `live` is not what an edit there does."""
    hooks = [f"blocks.0.{part}" for part in USUAL if f"blocks.0.{part}" in s.bridge.hook_dict]
    table = audit_hooks(s.bridge, s.tokens, hooks)
    wrong = 0
    for name in hooks:
        called = []

        def disturb(value: Tensor, called: list[bool] = called) -> Tensor:
            called.append(True)
            return value + 1 + torch.rand(value.shape, generator=torch.Generator().manual_seed(2))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the bridge says which edits it discards
            out = s.run(name, disturb, see=None)
        live = not torch.equal(out, s.run("embed.hook_out", lambda x: x, see=None))
        wrong += bool(called) != table.loc[name, "fires"] or live != table.loc[name, "live"]
    return float(wrong)


TOOLS: dict[str, Callable[[Subject], float]] = {
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
    "audit_hooks": audit_error,
}
"""Each gives the largest relative error, or raises what the tool raised."""


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
    rows = []
    for name in zoo.ARCHITECTURES + zoo.OTHERS:
        row = []
        for tool in TOOLS:
            found = cell(name, tool)
            if found.error is not None:
                row.append("checked" if found.error < LIMIT else "**wrong**")
            else:
                reason = re.sub(r" \(relative error [^)]*\)", "", found.reason)
                reason = re.sub(r"\blayer \d(, head \d)?\b", "a layer", reason).replace("block 0", "a block")
                reason = re.sub(r"\bthis [A-Z]\w+", "this model", reason)
                row.append(f"refused {reasons.setdefault(reason, len(reasons) + 1)}")
        rows.append([name, *row])
    head = ["architecture", *TOOLS]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])
    why = "\n".join(f"{number}. {reason}" for reason, number in reasons.items())
    return f"{INTRODUCTION}\n{table}\n\n## Why a tool refuses\n\n{why}\n"


NO_BRIDGE = "TransformerLens makes no bridge of it"
INTRODUCTION = """# Architectures

Every tool that reads weights, tried on small random models of many architectures (two layers, 32 dimensions, no gain or
bias at its default) as bridges of TransformerLens, and on toys. *Checked* means that the tool's result agrees, to 1e-4,
with a computation that does not read the weights: the original's attention, logits and residual stream, or an edit of
the running model. *Refused* means that the tool raises an error with the reason that has this number below. The table
is written by `python -m tests.probes.test_zoo`, and `make test` fails if it is not that of the code.

*Folded* is `fold_norm=True`. In the columns of bottlenecks, `mlp.out` is block 0's and `mlp.in` block 1's. Bloom, MPT
and Falcon with ALiBi add a bias of the positions to the scores, and Gemma 2 caps them: both are told apart, and Omega
is that of the bilinear part. Of T5 the bridge has an encoder and a decoder, and no `blocks`.
"""


if __name__ == "__main__":
    DOCUMENT.write_text(document())
