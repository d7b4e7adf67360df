"""How many of the sites that matter most do estimates find, at the cost at which the exact sweep finds them?

Judge: `patch_sweep`, whose largest `recovered`, in size, are the true top k. "Alone": the share of them among the k
largest of the estimate. At a budget: what a method's own cost leaves of it, in operations of matrix products, buys
exact patches of the sites that it ranks highest, and a site of the top k counts as found if it was patched exactly; "at
random" patches as many sites as the budget allows. Random toys (two heads, an MLP, 8 seeds), the tiny random bridge (4
seeds) and SmolLM2 (every fifth block, 6 pairs of prompts; sites are queries, keys and outputs of heads, and the MLP's
outputs at each position). Edges likewise: `path_patch`, with the hooks of all other senders frozen, is the judge. With
each mean over cases stands Student's 95 % interval; "less one gradient" is the mean of paired differences.
Run: `python -m benchmarks.attribution`, or some of its models: `--models toys tiny`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import sem, t
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import probes
import tms_hooks as tms
from probes import Site
from probes.sites import expand_sites

METHODS: dict[str, dict[str, Any]] = {
    "one gradient": {},
    "4 steps": {"steps": 4},
    "8 steps": {"steps": 8},
    "softmax recomputed": {"recompute_softmax": True},
    "gradients dropped": {"drop_gradients": True},
    "both (AtP*)": {"recompute_softmax": True, "drop_gradients": True},
    "4 steps, softmax recomputed": {"steps": 4, "recompute_softmax": True},
}
CORRECTIONS = set(METHODS) - {"one gradient"}


class Case(NamedTuple):
    model: Any
    clean: Any
    corrupted: Any
    metric: Callable[[Any], Tensor]
    sites: list[Site]
    receivers: list[Site] | None = None


def toys() -> Iterator[Case]:
    """Random weights; the metric is a sum of squares of one position, and a score."""
    cfg = tms.ToyConfig(n_features=12, d_hidden=6, n_heads=2, d_mlp=16, bottleneck="mlp.out->unembed")
    generator = torch.Generator().manual_seed(0)
    hooks = ("hook_embed", "hook_hidden", "blocks.0.attn.hook_q", "blocks.0.attn.hook_k", "blocks.0.mlp.hook_post")
    for seed in range(8):
        clean, corrupted = torch.rand(2, 4, 3, 12, generator=generator)
        sites = [Site(hook, pos="each", unit="each") for hook in hooks if ".attn." not in hook]
        sites += [Site(hook, pos="each", head="each", unit="each") for hook in hooks if ".attn." in hook]
        yield Case(
            tms.ToyModel(cfg, seed=seed),
            clean,
            corrupted,
            lambda out: out.reconstruction[:, 1].square().sum(-1) + out.attn_scores[:, :, 0, 1].sum(-1),
            sites,
        )


def of_blocks(blocks: range) -> list[Site]:
    """Heads' queries, keys and outputs, and MLPs' outputs position by position."""
    heads = [Site(f"blocks.{i}.attn.hook_{part}", head="each") for i in blocks for part in "qkz"]
    return heads + [Site(f"blocks.{i}.hook_mlp_out", pos="each") for i in blocks]


def tiny() -> Iterator[Case]:
    """Random weights, random tokens, two of eight exchanged."""
    generator = torch.Generator().manual_seed(0)
    for seed in range(4):
        clean = torch.randint(0, 101, (4, 8), generator=generator)
        corrupted = clean.clone()
        corrupted[:, [2, 5]] = torch.randint(0, 101, (4, 2), generator=generator)
        sites = [Site(f"blocks.{i}.attn.hook_{part}", head="each", pos="each") for i in range(2) for part in "qkz"] + [
            Site(f"blocks.{i}.hook_mlp_out", pos="each") for i in range(2)
        ]
        model = probes.load_transformer("tiny", seed=seed)
        yield Case(model, clean, corrupted, lambda logits: logits[:, -1, 3] - logits[:, -1, 4], sites)


STORIES = (
    "When {} and {two} went to the store, {two} gave a drink to",
    "Yesterday {} and {two} sat in the garden, and {two} handed the keys to",
)
NAMES = (("Mary", "John", "Anna"), ("James", "Anna", "Mark"), ("Paul", "Sarah", "Peter"))


def smollm2() -> Iterator[Case]:
    """Who is given the thing: a name is exchanged."""
    model = probes.load_transformer("smollm2")
    for story, (one, two, other) in product(STORIES, NAMES):
        clean, corrupted = (model.to_tokens(story.format(name, two=two)) for name in (one, other))
        right, wrong = (model.to_single_token(f" {name}") for name in (one, other))
        yield Case(
            model,
            clean,
            corrupted,
            lambda logits, right=right, wrong=wrong: logits[:, -1, right] - logits[:, -1, wrong],
            of_blocks(range(0, 30, 5)),
        )


def toy_edges() -> Iterator[Case]:
    """From each unit of the stream and each neuron of the first MLP to each neuron of the second, past the others."""
    cfg = tms.ToyConfig(n_features=12, d_hidden=6, tied=False, d_mlp=16, n_mlps=2, bottleneck="residual")
    generator = torch.Generator().manual_seed(0)
    for seed in range(8):
        clean, corrupted = torch.rand(2, 4, 12, generator=generator)
        senders = [Site("blocks.0.hook_resid_pre", unit="each"), Site("blocks.0.mlp.hook_post", unit="each")]
        receivers = [Site("blocks.1.mlp.hook_post", unit="each")]
        yield Case(
            tms.ToyModel(cfg, seed=seed),
            clean,
            corrupted,
            lambda out: out[:, :6].square().sum(-1),
            senders,
            receivers,
        )


def tiny_edges() -> Iterator[Case]:
    """From each head and MLP of block 0, position by position, to the queries, keys and values of block 1's heads."""
    for case in tiny():
        senders = [Site("blocks.0.attn.hook_z", head="each", pos="each"), Site("blocks.0.hook_mlp_out", pos="each")]
        receivers = [Site(f"blocks.1.attn.hook_{part}", head="each") for part in "qkv"]
        yield case._replace(sites=senders, receivers=receivers)


def smollm2_edges() -> Iterator[Case]:
    """From each head and MLP of blocks 0, 5, 10 and 15 to each head's queries, keys and values of block 20."""
    for case in smollm2():
        blocks = range(0, 20, 5)
        senders = [Site(f"blocks.{i}.attn.hook_z", head="each") for i in blocks]
        senders += [Site(f"blocks.{i}.hook_mlp_out") for i in blocks]
        receivers = [Site(f"blocks.20.attn.hook_{part}", head="each") for part in "qkv"]
        yield case._replace(sites=senders, receivers=receivers)


def exact_edges(case: Case) -> pd.DataFrame:
    """`path_patch` of every edge, in the order of `attribution_sweep`."""
    model, clean, corrupted, metric, sites, receivers = case
    hooks = list(dict.fromkeys(site.hook for site in sites))
    with torch.no_grad():
        _, cache = model.run_with_cache(corrupted)
    assert receivers is not None
    tables = []
    for receiver in expand_sites(receivers, {site.hook: cache[site.hook] for site in receivers}, len(corrupted)):
        for hook in hooks:
            senders = [site for site in sites if site.hook == hook]
            frozen = [other for other in hooks if other != hook]
            table = probes.path_patch(model, clean, corrupted, metric, senders, receiver, frozen=frozen)
            tables.append(table.assign(receiver=receiver.name))
    return pd.concat(tables, ignore_index=True)


def operations(run: Callable[[], Any]) -> tuple[Any, int]:
    """The result, and the operations of its matrix products."""
    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, counter.get_total_flops()


def found(case: Case, k: int, budgets: list[float]) -> dict[str, list[float]]:
    """Method -> its cost in runs of the model, and the share of the top k that it finds alone, and with each budget."""
    model, clean, corrupted, metric, sites, receivers = case
    exact, everything = operations(
        lambda: probes.patch_sweep(model, clean, corrupted, metric, sites) if receivers is None else exact_edges(case)
    )
    with torch.no_grad():
        _, one_run = operations(lambda: model(corrupted))
    true = np.argsort(-exact.recovered.abs().to_numpy())
    each = everything / len(exact)
    shares = {
        "the whole sweep": [everything / one_run, 1.0, *(np.nan for _ in budgets)],
        "at random": [0.0, k / len(exact), *budgets],
    }
    for name, options in METHODS.items():
        try:
            table, cost = operations(
                partial(probes.attribution_sweep, model, clean, corrupted, metric, sites, receivers, **options)
            )
        except (ValueError, KeyError):  # a toy has neither a softmax nor two blocks, and edges have no corrections
            continue
        assert receivers is None or (table[["site", "receiver"]] == exact[["site", "receiver"]]).all(axis=None)
        ranked = np.argsort(-table.recovered.abs().to_numpy())
        allowed = [k, *(max(0, int((budget * everything - cost) / each)) for budget in budgets)]
        shares[name] = [cost / one_run, *(len(np.intersect1d(true[:k], ranked[:n])) / k for n in allowed)]
    return shares


def interval(values: Sequence[float], low: float, high: float) -> str:
    """Their mean, and Student's 95 % interval as far as it lies between two values."""
    mean = float(np.mean(values))
    if np.isnan(mean):
        return ""
    half = 0.0 if np.ptp(values) == 0 else t.ppf(0.975, len(values) - 1) * sem(values)
    return f"{mean:.2f} ({max(low, mean - half):.2f} to {min(high, mean + half):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.1, 0.25, 0.5], help="shares of the sweep's cost")
    parser.add_argument("--models", nargs="+", default=list(CASES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.models:
        cases = [found(case, args.k, args.budgets) for case in CASES[name]()]
        print(f"\n{name}, {len(cases)} cases, top {args.k}\n")
        head = ["method", "cost in runs", "alone", "less one gradient", *(f"{budget:.0%}" for budget in args.budgets)]
        print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
        for method in cases[0]:
            costs, alone, *at = zip(*(case[method] for case in cases), strict=True)
            paired = [case[method][1] - case["one gradient"][1] for case in cases]
            cells = [interval(alone, 0, 1), interval(paired, -1, 1) if method in CORRECTIONS else ""]
            cells += [interval(found, 0, 1) for found in at]
            print(f"| {method} | {np.mean(costs):.1f} | {' | '.join(cells)} |", flush=True)


CASES = {
    "toys": toys,
    "tiny": tiny,
    "smollm2": smollm2,
    "toys, edges": toy_edges,
    "tiny, edges": tiny_edges,
    "smollm2, edges": smollm2_edges,
}


if __name__ == "__main__":
    main()
