"""Activation patching: which parts of a model carry the difference between two runs?

Run the model on a clean and on a corrupted input whose outputs differ in a metric. Put a part of one run's activations
into the other, and see how far the metric moves: a part that moves it all the way carries all of the difference.
`patch_sweep` does this for one part (`Site`) after the other, and `path_patch` only for what passes through a later
part; `attribution` estimates both from gradients. The runs themselves are made by `base_run`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probes.activations import rows_per_run
from probes.base_run import BaseRun, Metric, behind, repeat
from probes.given import as_batch, whole
from probes.hooked import HookedModel, HookFn, bootstrap_draws, check_hooks, nearest, output_tensors, recording
from probes.liveness import audit_hooks, require_live, require_repeatable
from probes.names import PARTS_OF_BLOCKS, axes, in_every_block
from probes.sites import INDEXED, PATCHES, Site, expand_sites, replacement, with_part

TOKENS_WORTH_A_RUN = 128
"""With fewer, a run of a small transformer spends its time on fetching its weights."""
ENTRIES_AT_ONCE = 2**26
"""Of attention patterns and scores at whose hooks one sweep has sites: it holds several times as many."""
Sites = Iterable[Site | str] | Site | str | None


def patch_sweep(
    model: HookedModel,
    clean: Any,
    corrupted: Any,
    metric: Metric,
    sites: Sites = None,
    *,
    patch: str = "clean->corrupted",
    batch_size: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Patch each site in a run of its own, and measure how much of the metric that recovers.

    >>> from probes.transformers import load_transformer
    >>> clean, corrupted = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[7, 2, 3], [8, 5, 6]])
    >>> table = patch_sweep(load_transformer("tiny"), clean, corrupted, lambda logits: logits[:, -1, 0],
    ...                     Site(hook="blocks.0.hook_resid_pre", pos="each"))
    >>> (table.recovered > 0.99).tolist()
    [True, False, False]

    `recovered = (m - m_corrupted) / (m_clean - m_corrupted)`, of means over the examples (Heimersheim and Nanda 2024,
    "How to use and interpret activation patching"). For every kind of patch 1 is the clean run and 0 the corrupted
    one; values outside mean that the patch overshoots.

    Args:
        model: any hooked model, in eval mode.
        clean, corrupted: inputs of one shape, paired example by example; prompts have one length.
        metric: output on those examples -> one number per example, shape (batch,).
        sites: `Site`s, or hook names for whole activations. By default residual stream, attention output and MLP output
            of every block at each position; in a model without such names, every live hook.
        patch: "clean->corrupted" puts clean activations into the corrupted run (what suffices?), "corrupted->clean" the
            other way (what is needed?). Ablations, in the clean run: "zero"; "mean" over the corrupted examples;
            "resample", another corrupted example's activation.
        batch_size: rows per run, which as many sites share as fit; by default 64, or as many as have 8,192 tokens.
        seed: of the resampling and of the intervals.

    Returns:
        One row per site: `site` (its name), `hook`, `pos`, `head`, `unit`, mean `metric` after the patch, `recovered`,
        and with two or more examples its 95 % interval `low`, `high` (percentile bootstrap over them, 1,000 draws).
        `.attrs` has the mean metrics `clean` and `corrupted`, and the `patch`.

    Raises:
        KeyError: an unknown hook.
        ValueError: a dead or silent hook (the message names live ones around it); an index outside its axis;
            activations whose shapes differ between the runs; a metric that is not one finite number per example, or the
            same in both runs.
    """

    def of(some: list[Site]) -> pd.DataFrame:
        return _sweep(Pair(model, (clean, corrupted), metric, some, patch, seed), batch_size)

    return in_parts(of, model, corrupted, as_sites(model, corrupted, sites))


def _sweep(pair: "Pair", batch_size: int | None) -> pd.DataFrame:
    cuts = [pair.base.cut(site.hook, site.pos) for site in pair.sites]

    def patched(chosen: list[int]) -> Tensor:
        cut = min(cuts[i] for i in chosen)
        return pair.base.rerun(len(chosen), pair.patching(chosen, cut), cut=cut)

    return pair.table_of(patched, batch_size, cuts)


def path_patch(
    model: HookedModel,
    clean: Any,
    corrupted: Any,
    metric: Metric,
    senders: Sites,
    receiver: Site | str,
    *,
    frozen: Iterable[str] = (),
    patch: str = "clean->corrupted",
    batch_size: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Patch each sender, but let only the receiver notice: the effect that goes through both.

    A first run patches the sender and records the receiver; a second one writes that, and nothing else, at the receiver
    (Wang et al. 2022, "Interpretability in the Wild", section 3.1).

    Args:
        model, clean, corrupted, metric, patch, batch_size, seed: as in `patch_sweep`, as is the table.
        senders: sites as in `patch_sweep`, each in runs of its own.
        receiver: one site, later in the model than each sender.
        frozen: hooks held at their unpatched values in the first run, to close the ways through them. With all
            attention and MLP outputs in between frozen, what is left is the direct path.

    Raises:
        ValueError: as `patch_sweep`; a sender that does not come before the receiver; a frozen receiver.
    """
    frozen = [frozen] if isinstance(frozen, str) else list(frozen)
    target = Site(receiver) if isinstance(receiver, str) else receiver
    if target.hook in frozen:
        raise ValueError(f"frozen has the receiver's hook {target.hook!r}: then nothing reaches it; leave it out")
    pair = Pair(model, (clean, corrupted), metric, senders, patch, seed, target.hook, *frozen)
    base = pair.base
    targets = list(expand_sites([target], base.activations, base.n_examples))
    if len(targets) != 1:
        raise ValueError(f"receiver {target.name} is {len(targets)} sites: give one index instead of 'each'")
    for site in pair.sites:
        if not pair.before(site, target):
            raise ValueError(f"sender {site.name} does not come before the receiver {target.name}: swap them")

    def through_receiver(chosen: list[int]) -> Tensor:
        held = [(name, partial(hold, repeat(base.activations[name], len(chosen)))) for name in frozen]
        with recording(model, [target.hook]) as received:
            base.rerun(len(chosen), [*held, *pair.patching(chosen)], reading=[target.hook])
        source = received[target.hook]
        return base.rerun(len(chosen), [(target.hook, lambda value, hook: with_part(value, source, targets[0]))])

    table = pair.table_of(through_receiver, batch_size)
    table.attrs["receiver"] = targets[0].name
    return table


class Pair:
    """A clean and a corrupted run: which of them is patched, where, and with what."""

    def __init__(
        self, model: HookedModel, runs: tuple[Any, Any], metric: Metric, sites: Sites, patch: str, seed: int, *also: str
    ) -> None:
        """Run clean and corrupted; `also` names hooks, besides those of the sites, that the base run is to know."""
        if patch not in PATCHES:
            raise ValueError(f"patch={patch!r}: {nearest(patch, PATCHES)}")
        denoise = patch == "clean->corrupted"
        base_inputs, self.other_inputs = (as_batch(model, run) for run in (reversed(runs) if denoise else runs))
        asked = as_sites(model, base_inputs, sites)
        hooks = check_hooks(model, dict.fromkeys(site.hook for site in asked))
        names = check_hooks(model, dict.fromkeys([*hooks, *also]))
        require_repeatable(model, base_inputs)
        try:
            self.base = BaseRun(model, base_inputs, names, metric)
        except ValueError:
            # a bridge refuses hooks that are switched off; this says which are on
            require_live(model, base_inputs, names)
            raise
        if unproven := [name for name in names if not self.base.live(name)]:
            require_live(model, base_inputs, unproven)
        for site in asked:
            ndim = self.base.activations[site.hook].ndim
            if axes(site.hook, ndim) != (here := axes(site.hook, ndim, model)) and site.name != site.hook:
                raise ValueError(f"{site.name}: this model has the axes {here} there; patch the whole activation")
        self.sites = list(expand_sites(asked, self.base.activations, self.base.n_examples))
        other, activations = self.base.compare(self.other_inputs, hooks)
        self.source = {name: replacement(patch, value, seed) for name, value in activations.items()}
        self.clean, self.corrupted = (other, self.base.metrics) if denoise else (self.base.metrics, other)
        self.patch, self.seed = patch, seed
        rounding = torch.finfo(torch.promote_types(output_tensors(self.base.output)[0].dtype, torch.float32)).eps
        if (self.clean - self.corrupted).mean().abs() <= rounding * torch.cat([self.clean, self.corrupted]).abs().max():
            raise ValueError(
                f"the metric is {self.clean.mean():.6g} in both runs: nothing to recover; give runs that it tells apart"
            )

    def before(self, sender: Site, receiver: Site) -> bool:
        """Whether the sender's hook fires before the receiver's."""
        order = list(self.base.activations)
        return order.index(sender.hook) < order.index(receiver.hook)

    def patching(self, chosen: list[int], cut: int = 0) -> list[tuple[str, HookFn]]:
        """Hooks for one run: each copy of the examples is patched at one of these sites, which are given by number.

        The run computes positions from the cut on.
        """
        sites, n = [self.sites[i] for i in chosen], self.base.n_examples

        def patch_at(name: str, value: Tensor, hook: Any) -> Tensor:
            value, source = value.clone(), behind(name, self.source[name], cut)
            for copy, site in enumerate(sites):
                if site.hook == name:
                    part = slice(copy * n, (copy + 1) * n)
                    here = replace(site, pos=site.pos - cut) if cut else site
                    value[part] = with_part(value[part], source, here)
            return value

        return [(name, partial(patch_at, name)) for name in dict.fromkeys(site.hook for site in sites)]

    def table_of(
        self, run: Callable[[list[int]], Tensor], batch_size: int | None, cuts: Sequence[int] | None = None
    ) -> pd.DataFrame:
        """The table of what `run` measures; sites that skip equally many blocks share a run, as many as fit.

        Where later sites need fewer positions (`cuts`), they share another as soon as a run is large enough to be worth
        fetching the weights for.
        """
        metrics = torch.empty(len(self.sites), self.base.n_examples, dtype=torch.float64)
        starts, cuts = [self.base.start(site.hook) for site in self.sites], cuts or [0] * len(self.sites)
        rows = rows_per_run(self.base.inputs, 64) if batch_size is None else whole("batch_size", batch_size, least=1)
        size = max(1, rows // self.base.n_examples)
        if size > 1 and len(self.sites) > 1 and not self.base.alone(self.other_inputs):
            size = 1  # what one copy is patched with would change the others
        sharing: list[list[int]] = []
        for i in sorted(range(len(starts)), key=lambda i: (starts[i], cuts[i])):
            last = sharing[-1] if sharing else []
            full = len(last) == size or not last or starts[i] != starts[last[0]]
            if full or (cuts[i] > cuts[last[0]] and self._tokens(len(last), cuts[last[0]]) >= TOKENS_WORTH_A_RUN):
                sharing.append([])
            sharing[-1].append(i)
        for chosen in sharing:
            metrics[chosen] = run(chosen)
        return self.table(self.sites, metrics)

    def _tokens(self, copies: int, cut: int) -> int:
        """In a run on so many copies, from the cut on, which only prompts have."""
        return copies * self.base.n_examples * (self.base.inputs.shape[1] - cut)

    def table(self, sites: Sequence[Site], metrics: Float[Tensor, "site batch"]) -> pd.DataFrame:
        """Metrics after each patch, on the scale from corrupted to clean."""
        table = pd.DataFrame({"site": [site.name for site in sites], "hook": [site.hook for site in sites]})
        for axis in INDEXED:
            table[axis] = pd.array([getattr(site, axis) for site in sites], dtype="Int64")
        fractions = recovered_fraction(metrics.numpy(), self.clean.numpy(), self.corrupted.numpy(), self.seed)
        table = table.assign(metric=metrics.mean(1).numpy(), **fractions)
        table.attrs = {
            "clean": float(self.clean.mean()),
            "corrupted": float(self.corrupted.mean()),
            "patch": self.patch,
        }
        return table


def recovered_fraction(
    patched: Float[np.ndarray, "site batch"],
    clean: Float[np.ndarray, " batch"],
    corrupted: Float[np.ndarray, " batch"],
    seed: int = 0,
) -> dict[str, Float[np.ndarray, " site"]]:
    """`recovered` = mean(patched - corrupted) / mean(clean - corrupted), and its 95 % interval `low`, `high`."""
    moved, gap = patched - corrupted, clean - corrupted
    recovered = {"recovered": moved.mean(1) / gap.mean()}
    if (n := len(gap)) > 1:
        draws = bootstrap_draws(n, seed)
        draws = draws[draws @ gap != 0]  # a draw without any gap has no fraction
        recovered["low"], recovered["high"] = np.percentile(moved @ draws.T / (draws @ gap), [2.5, 97.5], axis=1)
    return recovered


def in_parts(
    sweep: Callable[[list[Site]], pd.DataFrame],
    model: HookedModel,
    inputs: Any,
    sites: list[Site],
    held: Callable[[str], str] = str,
) -> pd.DataFrame:
    """One sweep of consecutive sites after the other, of as many as fit, if they hold attention patterns or scores.

    For a prompt of 1,024 tokens each of these is some 40 MB, several times. `held` names what a site's hook asks for.
    """
    prompts, heads = as_batch(model, inputs), getattr(getattr(model, "cfg", None), "n_heads", None) or 1
    tokens = isinstance(prompts, Tensor) and prompts.ndim == 2 and not prompts.is_floating_point()
    most = max(1, ENTRIES_AT_ONCE // max(1, len(prompts) * prompts.shape[1] ** 2 * heads)) if tokens else len(sites)
    parts, large = [list[Site]()], set[str]()
    for site in sites:
        large |= {hook for hook in (site.hook, held(site.hook)) if axes(hook, 4)[1] == "head"}
        if len(large) > most and parts[-1]:
            parts.append([])
            large = {hook for hook in (site.hook, held(site.hook)) if axes(hook, 4)[1] == "head"}
        parts[-1].append(site)
    tables = [sweep(part) for part in parts]
    whole = pd.concat(tables, ignore_index=True)
    whole.attrs = tables[0].attrs
    return whole


def hold(value: Tensor, now: Tensor, hook: Any) -> Tensor:
    """With the first argument given, a hook that writes it."""
    return value


def as_sites(model: HookedModel, inputs: Any, sites: Sites) -> list[Site]:
    """Sites as asked for, or those that a sweep takes by default."""
    if sites is not None:
        asked = [sites] if isinstance(sites, Site | str) else sites
        return [Site(site) if isinstance(site, str) else site for site in asked]
    if names := in_every_block(model, PARTS_OF_BLOCKS):
        return [Site(name, pos="each") for name in names]
    audit = audit_hooks(model, inputs)
    return [Site(str(name)) for name in audit.index[audit.live]]
