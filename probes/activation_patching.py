"""Activation patching: how much of a metric comes with a part of one run's activations put into another run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probes.activations import collect_activations
from probes.hooked import HookedModel, HookFn, audit_hooks, output_tensors, require_live
from probes.sites import Patch, Site, check_patch, expand_sites, replace_part, replacement
from probes.stacking import BaseRun, map_tensors

Metric = Callable[[Any], Tensor]
"""The model's output on the examples -> one number an example, such as a difference of two logits."""

Sites = Iterable[Site | str] | Site | str | None


def patch_sweep(
    model: HookedModel,
    clean: Any,
    corrupted: Any,
    metric: Metric,
    sites: Sites = None,
    *,
    patch: Patch = "clean->corrupted",
    batch_size: int = 128,
    seed: int = 0,
) -> pd.DataFrame:
    """Patch each site in a run of its own, and tell how much of the metric that recovers.

    >>> from probes.models import load_transformer
    >>> clean, corrupted = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[7, 2, 3], [8, 5, 6]])
    >>> table = patch_sweep(load_transformer("tiny"), clean, corrupted, lambda logits: logits[:, -1, 0],
    ...                     Site(hook="blocks.0.hook_resid_pre", pos="each"))
    >>> table.recovered.round(4).tolist()
    [1.0, 0.0, 0.0]

    `recovered = (m - m_corrupted) / (m_clean - m_corrupted)`, of means over the examples (Heimersheim and Nanda 2024,
    "How to use and interpret activation patching"). For every kind of patch 1 is the clean run and 0 the corrupted
    one; values outside mean that the patch overshoots.

    Args:
        model: any hooked model, in eval mode.
        clean, corrupted: inputs of one shape, paired example by example.
        metric: output on those examples -> one number an example, shape (batch,).
        sites: `Site`s, or hook names for whole activations. By default residual stream, attention output and MLP output
            of every block at each position; in a model without such names, every live hook.
        patch: "clean->corrupted" puts clean activations into the corrupted run (what suffices?), "corrupted->clean" the
            other way (what is needed?). Ablations, in the clean run: "zero"; "mean" over the corrupted examples;
            "resample", another corrupted example's activation.
        batch_size: rows a run, in which as many sites are stacked as fit.
        seed: of the resampling and of the intervals.

    Returns:
        One row a site: `site` (its name), `hook`, `pos`, `head`, `unit`, mean `metric` after the patch, `recovered`, and
        with two or more examples its 95 % interval `low`, `high` (percentile bootstrap over examples, 1,000 draws).
        `.attrs` has the mean metrics `clean` and `corrupted`, and the `patch`.

    Raises:
        KeyError: an unknown hook.
        ValueError: a dead or silent hook (the message names live ones around it); an index outside its axis;
            activations whose shapes differ between the runs; a metric that is not one finite number an example, or the
            same in both runs.
    """
    pair = _Pair(model, clean, corrupted, metric, patch, seed)
    base, source, expanded = pair.prepare(sites)
    metrics = torch.empty(len(expanded), base.n_examples, dtype=torch.float64)
    for start, stack in _stacks(base, [site.hook for site in expanded], batch_size):
        hooks = _patching([expanded[i] for i in stack], source, base.n_examples)
        metrics[stack] = _metrics(metric, base.rerun(len(stack), hooks, start), base.n_examples)
    return pair.table(base, expanded, metrics)


def path_patch(
    model: HookedModel,
    clean: Any,
    corrupted: Any,
    metric: Metric,
    senders: Sites,
    receiver: Site | str,
    *,
    frozen: Iterable[str] = (),
    patch: Patch = "clean->corrupted",
    batch_size: int = 128,
    seed: int = 0,
) -> pd.DataFrame:
    """Patch each sender, but let only the receiver notice: the effect that goes through both.

    A first run patches the sender and reads the receiver; a second one puts that, and nothing else, at the receiver (Wang
    et al. 2022, "Interpretability in the Wild", section 3.1).

    Args:
        model, clean, corrupted, metric, patch, batch_size, seed: as in `patch_sweep`.
        senders: sites as in `patch_sweep`, each in runs of its own.
        receiver: one site, later in the model than each sender.
        frozen: hooks held at their unpatched values in the first run, to close the ways through them. With all attention and
            MLP outputs in between frozen, what is left is the direct path.

    Returns:
        The table of `patch_sweep`, one row a sender; `.attrs` also has the `receiver`.

    Raises:
        ValueError: as `patch_sweep`; a sender that does not come before the receiver; a frozen receiver.
    """
    frozen = [frozen] if isinstance(frozen, str) else list(frozen)
    target = Site(hook=receiver) if isinstance(receiver, str) else receiver
    if target.hook in frozen:
        raise ValueError(f"frozen has the receiver's hook {target.hook!r}: then nothing reaches it; leave it out")
    pair = _Pair(model, clean, corrupted, metric, patch, seed)
    base, source, expanded = pair.prepare(senders, also=[target.hook, *frozen])
    targets = list(expand_sites([target], base.shapes))
    if len(targets) != 1:
        raise ValueError(f"receiver {target.name} is {len(targets)} sites: give one index instead of 'each'")
    target = targets[0]
    order = list(base.shapes)
    for site in expanded:
        if order.index(site.hook) >= order.index(target.hook):
            raise ValueError(f"sender {site.name} does not come before the receiver {target.name}: swap them")
    unpatched = collect_activations(model, pair.base_inputs, frozen, batch_size=base.n_examples) if frozen else {}

    metrics = torch.empty(len(expanded), base.n_examples, dtype=torch.float64)
    for start, stack in _stacks(base, [site.hook for site in expanded], batch_size):
        received: list[Tensor] = []
        hooks = [(name, _writing(unpatched[name], len(stack))) for name in frozen]
        hooks += _patching([expanded[i] for i in stack], source, base.n_examples)
        base.rerun(len(stack), [*hooks, (target.hook, _keeping(received))], start)
        at_receiver = [(target.hook, _writing(received[0], 1, target))]
        output = base.rerun(len(stack), at_receiver, base.start(target.hook))
        metrics[stack] = _metrics(metric, output, base.n_examples)
    table = pair.table(base, expanded, metrics)
    table.attrs["receiver"] = target.name
    return table


def attribution_sweep(
    model: HookedModel, clean: Any, corrupted: Any, metric: Metric, sites: Sites = None, *, seed: int = 0
) -> pd.DataFrame:
    """First-order estimate of `patch_sweep`, for all sites at the price of two runs and one gradient.

    The metric moves by about (a_clean - a_corrupted) . d metric / d a, with the gradient at the corrupted run (Nanda 2023, "Attribution
    patching"). Compare: `attribution_sweep(...).recovered.corr(patch_sweep(...).recovered)`. Gradients come from TransformerLens's
    `cache_activation_and_gradient` (4.x), on any hooked model.

    Args:
        model, clean, corrupted, metric, sites, seed: as in `patch_sweep`.

    Returns:
        The table of `patch_sweep`, with estimates in `metric` and `recovered`.
    """
    from transformer_lens.tools.analysis.attribution_patching import cache_activation_and_gradient

    pair = _Pair(model, clean, corrupted, metric, "clean->corrupted", seed)
    base, source, expanded = pair.prepare(sites)
    with torch.enable_grad():
        cache = cache_activation_and_gradient(model, corrupted, lambda out: metric(out).sum(), list(source))
    metrics = torch.empty(len(expanded), base.n_examples, dtype=torch.float64)
    here = _metrics(metric, base.output, base.n_examples)[0]
    for row, site in enumerate(expanded):
        value, gradient = cache.activations[site.hook], cache.gradients[site.hook]
        assert gradient is not None  # every site is live
        patched = value.clone()
        replace_part(patched, source[site.hook], site)
        metrics[row] = here + ((patched - value) * gradient).flatten(1).sum(1)
    return pair.table(base, expanded, metrics)


@dataclass(frozen=True)
class _Pair:
    """A clean and a corrupted run, and which of them is patched from which."""

    model: HookedModel
    clean: Any
    corrupted: Any
    metric: Metric
    patch: Patch
    seed: int

    @property
    def base_inputs(self) -> Any:
        """Of the run that is patched."""
        return self.corrupted if self.patch == "clean->corrupted" else self.clean

    @property
    def source_inputs(self) -> Any:
        """Of the run that values are taken from."""
        return self.clean if self.patch == "clean->corrupted" else self.corrupted

    def prepare(self, sites: Sites, also: Sequence[str] = ()) -> tuple[BaseRun, dict[str, Tensor], list[Site]]:
        """The run to patch (which also knows the hooks `also`), what to write at each hook, and the sites one by one."""
        check_patch(self.patch)
        asked = _as_sites(self.model, self.base_inputs, sites)
        hooks = list(dict.fromkeys(site.hook for site in asked))
        require_live(self.model, self.base_inputs, [*hooks, *also])
        base = BaseRun(self.model, self.base_inputs, [*hooks, *also])
        source = collect_activations(self.model, self.source_inputs, hooks, batch_size=base.n_examples)
        for hook, value in source.items():
            if tuple(value.shape) != base.shapes[hook]:
                raise ValueError(
                    f"hook {hook!r}: shape {base.shapes[hook]} in the patched run, {tuple(value.shape)} in the other; "
                    "give clean and corrupted inputs of one shape (as many examples, as many tokens)"
                )
        written = {hook: replacement(self.patch, value, self.seed) for hook, value in source.items()}
        return base, written, list(expand_sites(asked, base.shapes))

    def table(self, base: BaseRun, sites: list[Site], metrics: Float[Tensor, "site batch"]) -> pd.DataFrame:
        """Metrics after each patch, on the scale from corrupted to clean."""
        with torch.no_grad():
            there = _metrics(self.metric, self.model(self.source_inputs), base.n_examples)[0]
        here = _metrics(self.metric, base.output, base.n_examples)[0]
        clean, corrupted = (there, here) if self.patch == "clean->corrupted" else (here, there)
        if (clean - corrupted).mean() == 0:
            raise ValueError(
                f"the metric is {float(clean.mean()):.6g} in both runs: nothing to recover; choose inputs that it tells apart"
            )
        columns = {axis: pd.array([getattr(s, axis) for s in sites], dtype="Int64") for axis in ("pos", "head", "unit")}
        table = pd.DataFrame({"site": [s.name for s in sites], "hook": [s.hook for s in sites], **columns})
        table["metric"] = metrics.mean(1).numpy()
        table = table.assign(**recovered_fraction(metrics.numpy(), clean.numpy(), corrupted.numpy(), self.seed))
        table.attrs = {"clean": float(clean.mean()), "corrupted": float(corrupted.mean()), "patch": self.patch}
        return table


def recovered_fraction(
    patched: Float[np.ndarray, "site batch"],
    clean: Float[np.ndarray, " batch"],
    corrupted: Float[np.ndarray, " batch"],
    seed: int = 0,
) -> dict[str, Float[np.ndarray, " site"]]:
    """`recovered`: mean(patched - corrupted) / mean(clean - corrupted); with several examples its 95 % interval `low`, `high`.

    >>> {k: v.tolist() for k, v in recovered_fraction(np.array([[1.0], [3.0]]), np.array([4.0]), np.array([0.0])).items()}
    {'recovered': [0.25, 0.75]}
    """
    gain, gap = patched - corrupted, clean - corrupted
    recovered = {"recovered": gain.mean(1) / gap.mean()}
    n = len(gap)
    if n > 1:
        weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=1000)
        weights = weights[weights @ gap != 0]  # a draw without any gap has no fraction
        draws = gain @ weights.T / (weights @ gap)
        recovered["low"], recovered["high"] = np.percentile(draws, [2.5, 97.5], axis=1)
    return recovered


def _as_sites(model: HookedModel, inputs: Any, sites: Sites) -> list[Site]:
    if sites is not None:
        asked = [sites] if isinstance(sites, Site | str) else sites
        return [Site(hook=site) if isinstance(site, str) else site for site in asked]
    names = [
        f"blocks.{i}.{name}"
        for i in range(len(getattr(model, "blocks", ())))
        for name in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")
    ]
    if names and all(name in model.hook_dict for name in names):
        return [Site(hook=name, pos="each") for name in names]
    audit = audit_hooks(model, inputs)
    return [Site(hook=str(name)) for name in audit.index[audit.live]]


def _stacks(base: BaseRun, hooks: list[str], batch_size: int) -> Iterator[tuple[int, list[int]]]:
    """Interventions at these hooks, as numbers of blocks to skip and indices of those to stack in a run."""
    starts = [base.start(hook) for hook in hooks]
    size = max(1, batch_size // base.n_examples)
    for start, group in groupby(sorted(range(len(hooks)), key=starts.__getitem__), key=starts.__getitem__):
        members = list(group)
        for first in range(0, len(members), size):
            yield start, members[first : first + size]


def _patching(stack: list[Site], source: dict[str, Tensor], n_examples: int) -> list[tuple[str, HookFn]]:
    """Hooks that patch the i-th site in the i-th copy of the examples."""

    def patch_at(hook_name: str) -> HookFn:
        def hook_fn(value: Tensor, hook: Any) -> Tensor:
            value = value.clone()
            for copy, site in enumerate(stack):
                if site.hook == hook_name:
                    replace_part(value[copy * n_examples : (copy + 1) * n_examples], source[hook_name], site)
            return value

        return hook_fn

    return [(name, patch_at(name)) for name in dict.fromkeys(site.hook for site in stack)]


def _metrics(metric: Metric, output: Any, n_examples: int) -> Float[Tensor, "copy batch"]:
    """The metric of each copy of the examples, called on one copy at a time."""
    copies = len(output_tensors(output)[0]) // n_examples
    rows = []
    for copy in range(copies):
        of_copy = slice(copy * n_examples, (copy + 1) * n_examples)
        value = metric(map_tensors(lambda t, rows=of_copy: t[rows], output))
        if tuple(value.shape) != (n_examples,):
            raise ValueError(
                f"the metric has shape {tuple(value.shape)}, not ({n_examples},): return one number an example, "
                "without a mean over them"
            )
        if not value.isfinite().all():
            raise ValueError(f"the metric is not finite: {value.tolist()}")
        rows.append(value.detach().cpu().double())
    return torch.stack(rows)


def _writing(values: Tensor, copies: int, site: Site | None = None) -> HookFn:
    """A hook that writes `values`, repeated, at a site or everywhere."""

    def hook_fn(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        replace_part(value, values.repeat(copies, *[1] * (values.ndim - 1)), site or Site(hook=""))
        return value

    return hook_fn


def _keeping(store: list[Tensor]) -> HookFn:
    def hook_fn(value: Tensor, hook: Any) -> None:
        store.append(value.detach().clone())

    return hook_fn
