"""Attribution patching: estimates of activation patching, for all sites or edges at the price of a few gradients.

To first order, a patch moves the metric by (a_clean - a_corrupted) . d metric / d a. That misses what bends on the way:
the gradient of one run is not that of the next (`steps` takes the mean over the way from corrupted to clean), a softmax
that is saturated has none (`recompute_softmax`), and two ways that cancel hide each other (`drop_gradients`).
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probes.activation_patching import Pair, Sites, as_sites, hold, in_parts
from probes.base_run import Metric
from probes.given import as_batch, whole
from probes.hooked import HookedModel, HookFn, adding_zeros, blocks, require_gradients, temporary_hooks
from probes.names import PARTS_OF_BLOCKS, block_of, embedded_at, in_every_block, scored_by
from probes.sites import Site, expand_sites, with_part

Gradients = dict[str, Tensor]
"""Hook -> gradient of the metric there; a hook without any is left out."""
ENTRIES_KEPT = 2**26
"""Of attention patterns that patches make, kept for the next gradient; of long prompts those of one run."""
Way = Sequence[tuple[Any, list[tuple[str, HookFn]]]]
"""Inputs and hooks of runs on the way from the corrupted run to the clean one."""


def attribution_sweep(
    model: HookedModel,
    clean: Any,
    corrupted: Any,
    metric: Metric,
    sites: Sites = None,
    receivers: Sites = None,
    *,
    steps: int = 0,
    recompute_softmax: bool = False,
    drop_gradients: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Estimate `patch_sweep` at all sites, or with `receivers` `path_patch` along all edges, from gradients.

    >>> from probes.transformers import load_transformer
    >>> clean, corrupted = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[7, 2, 3], [8, 5, 6]])
    >>> table = attribution_sweep(load_transformer("tiny"), clean, corrupted, lambda logits: logits[:, -1, 0],
    ...                           Site("blocks.0.hook_resid_pre", pos="each"), steps=8)
    >>> (table.recovered > 0.9).tolist()
    [True, False, False]

    By default it costs two runs and one gradient, that of the corrupted run (Nanda 2023, "Attribution patching"): it is
    TransformerLens's `attribution_patch` for any site of any hooked model. How good an estimate is, `patch_sweep` tells
    on some of the sites.

    Args:
        model, clean, corrupted, metric, sites, seed: as in `patch_sweep`; the metric must be differentiable.
        receivers: sites as well. Then each row is an edge: what the sender, a site, does to the receiver past all other
            senders (edge attribution patching, Syed et al. 2023, for any graph). It estimates
            `path_patch(..., sender, receiver, frozen=)` with the hooks of all other senders frozen. Each receiver costs
            one more gradient, which passes only through what lies between it and the senders.
        steps: number of gradients to average, taken in the middle of as many equal parts of the straight way from the
            corrupted inputs to the clean ones, or from embedding to embedding (integrated gradients, EAP-IG, Hanna et
            al. 2024, "Have Faith in Faithfulness", who take the parts' ends); 0: that of the corrupted run alone.
        recompute_softmax: at sites that are queries or keys, compute the attention patterns that the patch makes, and
            use gradients only behind them (AtP*, Kramar et al. 2024, section 3.1). It costs one run for queries, one
            per position for keys, and as many again for each choice of units or directions.
        drop_gradients: mean size of the estimates with one block's attention and MLP closed to gradients at a time, sum
            over blocks / (number of blocks - 1), which ways that cancel cannot hide (GradDrop, Kramar et al. 2024,
            section 3.2). `recovered` is then a size, without a sign. It costs one gradient per block.

    Returns:
        The table of `patch_sweep`, with estimates in `metric` and `recovered`, and of edges the column `receiver`.

    Raises:
        ValueError: as `patch_sweep`; a metric without a gradient, or with one that is not finite; a correction that
            this model or these receivers do not allow.
    """
    require_gradients("attribution_sweep")
    steps = whole("steps", steps, least=0)
    if receivers is not None and (recompute_softmax or drop_gradients):
        raise ValueError("recompute_softmax and drop_gradients are corrections at sites: leave them out with receivers")
    clean, corrupted = (as_batch(model, run) for run in (clean, corrupted))
    asked = as_sites(model, corrupted, sites)
    targets = [] if receivers is None else as_sites(model, corrupted, receivers)
    if recompute_softmax and not any(scored_by(site.hook) for site in asked):
        raise ValueError("recompute_softmax=True without a site at hook_q or hook_k: add one, or leave it out")
    between = [embedded_at(model)] if steps and not _floating(corrupted) else []
    heard = dict.fromkeys(site.hook for site in targets)

    def pattern_of(hook: str) -> str:
        found = scored_by(hook) if recompute_softmax else None
        return found[1] if found else hook

    def of(some: list[Site]) -> pd.DataFrame:
        patterns = dict.fromkeys(pattern_of(site.hook) for site in some)
        pair = Pair(model, (clean, corrupted), metric, some, "clean->corrupted", seed, *patterns, *heard, *between)
        if not pair.base.gradients:
            raise ValueError(
                "the metric has no gradient: give one that is differentiable, as a difference of logits is"
            )
        if receivers is not None:
            ends = expand_sites(targets, pair.base.activations, pair.base.n_examples)
            return _edges(pair, list(ends), _way(pair, steps))
        return _estimates(pair, _way(pair, steps), [*patterns], recompute_softmax, drop_gradients)

    # the senders of an edge go past all the others, so that these belong together
    return of(asked) if receivers is not None else in_parts(of, model, corrupted, asked, pattern_of)


def _estimates(pair: Pair, way: Way, patterns: list[str], recompute: bool, drop: bool) -> pd.DataFrame:
    """The table of sites, without receivers."""
    hooks = list(dict.fromkeys([*(site.hook for site in pair.sites), *patterns]))
    softmax = _Softmax(pair) if recompute and any(scored_by(site.hook) for site in pair.sites) else None
    changes: dict[int, Tensor] = {}  # "site batch" with each block closed to gradients
    for closed, gradients in _gradients(pair, hooks, way, drop):
        changes[closed] = changes.get(closed, 0) + _changes(pair, pair.sites, gradients, softmax) / len(way)
    change = changes[0]
    if drop:
        sizes = torch.stack([change.abs() for change in changes.values()])
        change = (pair.clean - pair.corrupted).mean().sign() * sizes.sum(0) / (len(changes) - 1)
    return pair.table(pair.sites, pair.base.metrics + change)


def _changes(
    pair: Pair, sites: Sequence[Site], gradients: Gradients, softmax: "_Softmax | None" = None
) -> Float[Tensor, "site batch"]:
    """What each patch changes in the metric, to first order: of all entries at a hook at once, if none is turned."""
    changes = torch.zeros(len(sites), pair.base.n_examples, dtype=torch.float64)
    scored = [row for row, site in enumerate(sites) if softmax and scored_by(site.hook)]
    if softmax and scored:
        changes[scored] = softmax.changes([sites[row] for row in scored], gradients)
    plain = sorted(set(range(len(sites))) - set(scored))
    for hook, members in groupby(plain, key=lambda row: sites[row].hook):
        if hook not in gradients:
            continue
        value, gradient, source = pair.base.activations[hook], _single(gradients[hook]), pair.source[hook]
        moves = _single(source.to(value) - value) * gradient
        for row in members:
            moved = moves[sites[row].index(value.ndim)]
            if sites[row].directions is not None:
                moved = _single(with_part(value, source, sites[row]) - value) * gradient
            changes[row] = moved.reshape(len(value), -1).sum(1)
    return changes


def _way(pair: Pair, steps: int) -> Way:
    """Runs whose mean gradient is taken: in the middle of each of as many steps, or the corrupted run itself."""
    base, clean = pair.base, pair.other_inputs
    shares = [(step + 0.5) / steps for step in range(steps)]
    if not steps:
        return [(base.inputs, [])]
    if _floating(base.inputs):
        return [(torch.lerp(base.inputs, clean, share), []) for share in shares]
    hook = embedded_at(base.model)
    start, end = base.activations[hook], base.compare(clean, [hook])[1][hook]
    reached = _rerun(pair, [(hook, partial(hold, end))])
    if not _same(reached, pair.clean, pair):
        raise ValueError(
            f"steps={steps}: with the clean run's {hook!r} the corrupted run's metric is {float(reached.mean()):.6g}, "
            f"not {float(pair.clean.mean()):.6g}: its inputs also act elsewhere; take steps=0"
        )
    return [(base.inputs, [(hook, partial(hold, torch.lerp(start, end, share)))]) for share in shares]


def _gradients(pair: Pair, hooks: Sequence[str], way: Way, drop: bool) -> Iterator[tuple[int, Gradients]]:
    """Gradients at each hook of each run on the way; with `drop` one for each block that none passes through.

    One after the other: of long prompts those of all are more than fits.
    """
    model, reached = pair.base.model, set[str]()
    for inputs, edits in way:
        known = inputs is pair.base.inputs and not edits and not drop
        for closed, found in enumerate(
            [pair.base.gradients] if known else _with_gradients(model, pair.base.metric, hooks, inputs, edits, drop)
        ):
            if infinite := [name for name in hooks if name in found and not found[name].isfinite().all()]:
                raise ValueError(f"the metric's gradient at hook {infinite[0]!r} is not finite: use patch_sweep there")
            reached |= found.keys()
            yield closed, found
    for name in hooks:
        if pair.base.live(name) and name not in reached:
            raise ValueError(f"hook {name!r} lies before the embedding, from where the steps are taken: take steps=0")


def _with_gradients(
    model: HookedModel,
    metric: Metric,
    hooks: Sequence[str],
    inputs: Any,
    edits: list[tuple[str, HookFn]],
    drop: bool,
) -> Iterator[Gradients]:
    """Gradients of one run; with `drop` one after the other with each block's attention and MLP closed to them."""
    closed = list[int]()

    def gate(name: str, value: Tensor, hook: Any) -> Tensor:
        passed = value.view_as(value)
        if passed.requires_grad:
            passed.register_hook(lambda gradient: torch.zeros_like(gradient) if block_of(name) in closed else gradient)
        return passed

    gates = in_every_block(model, PARTS_OF_BLOCKS[1:]) if drop else []
    if (drop and len(blocks(model)) < 2) or (drop and not gates):
        raise ValueError(
            f"drop_gradients=True: {type(model).__name__} has {len(blocks(model))} blocks; it takes two or more, each "
            f"with {' and '.join(PARTS_OF_BLOCKS[1:])}; leave it out"
        )
    with ExitStack() as stack:
        stack.enter_context(temporary_hooks(model, edits))
        zeros = stack.enter_context(adding_zeros(model, hooks))
        stack.enter_context(temporary_hooks(model, [(name, partial(gate, name)) for name in gates]))
        with torch.enable_grad():
            total = metric(model(inputs)).sum()
    for block in range(len(blocks(model))) if drop else [None]:
        closed[:] = [] if block is None else [block]
        found = torch.autograd.grad(total, list(zeros.values()), allow_unused=True, retain_graph=drop)
        yield {name: g for name, g in zip(zeros, found, strict=True) if g is not None}


class _Softmax:
    """Attention patterns as patches of queries or keys make them, and what those change in the metric."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        size = sum(value.numel() for name, value in pair.base.activations.items() if name.endswith("hook_pattern"))
        self._patterns = lru_cache(max(1, ENTRIES_KEPT // size))(self._patterns_with)

    def changes(self, sites: Sequence[Site], gradients: Gradients) -> Float[Tensor, "site batch"]:
        """To first order behind the pattern, and exact up to it."""
        changes = torch.zeros(len(sites), self.pair.base.n_examples, dtype=torch.float64)
        # one run serves all blocks and heads, and of queries all positions: none feels what another is patched with
        runs: dict[tuple[Any, ...], list[tuple[int, str, str]]] = {}
        for row, site in enumerate(sites):
            found = scored_by(site.hook)
            assert found is not None
            kind, pattern = found
            pos = site.pos if kind == "k" else None
            run = (re.sub(r"^blocks\.\d+", "", site.hook), pos, site.unit, site.directions)
            if pattern in gradients:
                runs.setdefault(run, []).append((row, kind, pattern))
        for run, members in runs.items():
            patterns = self._patterns(*run)
            for row, kind, pattern in members:
                changes[row] = self._change(sites[row], kind, pattern, patterns[pattern], gradients[pattern])
        return changes

    def _change(self, site: Site, kind: str, pattern: str, new: Tensor, gradient: Tensor) -> Float[Tensor, " batch"]:
        moved = _single(new - self.pair.base.activations[pattern]) * _single(gradient)  # batch head query key
        if site.head is not None:
            group = moved.shape[1] // self.pair.base.activations[site.hook].shape[2]  # heads that share a key
            moved = moved[:, site.head * group : (site.head + 1) * group]
        if kind == "q" and site.pos is not None:
            moved = moved[:, :, site.pos]
        return moved.flatten(1).sum(1).double()

    def _patterns_with(self, part: str, pos: int | None, unit: int | None, directions: Tensor | None) -> Gradients:
        """Every block's pattern, while each block hands on the pattern that it had."""
        pair, found = self.pair, dict[str, Tensor]()

        def patch(site: Site, value: Tensor, hook: Any) -> Tensor:
            return with_part(value, pair.source[site.hook], site)

        def note(name: str, value: Tensor, hook: Any) -> Tensor:
            found[name] = value.detach().clone()
            return pair.base.activations[name]

        edits: list[tuple[str, HookFn]] = []
        for hook in dict.fromkeys(site.hook for site in pair.sites if site.hook.endswith(part)):
            scored = scored_by(hook)
            assert scored is not None
            edits.append((hook, partial(patch, Site(hook, pos=pos, unit=unit, directions=directions))))
            edits.append((scored[1], partial(note, scored[1])))
        if not _same(_rerun(pair, edits), pair.base.metrics, pair):
            raise ValueError(
                f"recompute_softmax=True: {part[1:]} acts past the attention pattern in this model; leave it out"
            )
        return found


def _edges(pair: Pair, targets: Sequence[Site], way: Way) -> pd.DataFrame:
    """A row for each sender and each receiver behind it."""
    pairs = [(sender, target) for target in targets for sender in pair.sites if pair.before(sender, target)]
    if not pairs:
        raise ValueError("no receiver lies behind a sender: name receivers that come later in the model")
    receiving, sending = ([*dict.fromkeys(site.hook for site in ends)] for ends in (targets, pair.sites))
    changes = torch.zeros(len(pairs), pair.base.n_examples, dtype=torch.float64)
    for run in way:
        [(_, pulls)] = _gradients(pair, receiving, [run], False)
        zeros, heard = _past_senders(pair, sending, receiving, *run)
        for target in targets:
            if target.hook not in pulls or not heard[target.hook].requires_grad:
                continue
            pull = with_part(torch.zeros_like(pulls[target.hook]), pulls[target.hook], target)
            found = torch.autograd.grad(
                heard[target.hook], list(zeros.values()), pull, allow_unused=True, retain_graph=True
            )
            gradients = {name: g for name, g in zip(zeros, found, strict=True) if g is not None}
            rows = [row for row, (_, to) in enumerate(pairs) if to is target]
            changes[rows] += _changes(pair, [pairs[row][0] for row in rows], gradients) / len(way)
    table = pair.table([sender for sender, _ in pairs], pair.base.metrics + changes)
    table.insert(1, "receiver", [target.name for _, target in pairs])
    return table


def _past_senders(
    pair: Pair, sending: Sequence[str], receiving: Sequence[str], inputs: Any, edits: list[tuple[str, HookFn]]
) -> tuple[Gradients, dict[str, Tensor]]:
    """A run in which gradients end at every sender: zeros that are added there, and what the receivers hear."""
    heard: dict[str, Tensor] = {}

    def hear(name: str, value: Tensor, hook: Any) -> None:
        heard[name] = value

    def end(value: Tensor, hook: Any) -> Tensor:
        return value.detach()

    hooks: list[tuple[str, HookFn]] = [
        *edits,
        *((name, partial(hear, name)) for name in receiving),
        *((name, end) for name in sending),
    ]
    with temporary_hooks(pair.base.model, hooks), adding_zeros(pair.base.model, sending) as zeros, torch.enable_grad():
        pair.base.model(inputs)
    return zeros, heard


def _rerun(pair: Pair, edits: list[tuple[str, HookFn]]) -> Float[Tensor, " batch"]:
    """Metrics of the corrupted run with these hooks."""
    with torch.no_grad(), temporary_hooks(pair.base.model, edits):
        return pair.base.metric(pair.base.model(pair.base.inputs)).double().cpu()


def _same(a: Tensor, b: Tensor, pair: Pair) -> bool:
    """Whether two metrics differ by no more than rounding, beside the difference that is to be explained."""
    return bool((a - b).abs().max() <= 1e-3 * (pair.clean - pair.corrupted).abs().max())


def _single(value: Tensor) -> Tensor:
    """Half precision as single."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _floating(inputs: Any) -> bool:
    return isinstance(inputs, Tensor) and inputs.is_floating_point()
