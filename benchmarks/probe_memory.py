"""Peak memory of every tool that is asked about prompts of 1,024 tokens of SmolLM2, each in a process of its own.

What counts is the largest resident set of that process, with the interpreter, torch and the model in it: what the
machine must have. Run: `python -m benchmarks.probe_memory`, or some of it: `--tools tangent_space patch_sweep`. What
takes longer than `--limit` seconds is stopped: the peak is then that of so far, which tools that go a part at a time
reach with their first part.
"""

import argparse
import contextlib
import multiprocessing
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import probes
from probes import Site

LATE = "blocks.29.hook_resid_post"


def prompts(n: int, tokens: int, seed: int = 0) -> Tensor:
    """Random tokens, none of them special."""
    return torch.randint(100, 49_000, (n, tokens), generator=torch.Generator().manual_seed(seed))


def pair(tokens: int) -> tuple[Tensor, Tensor]:
    """Two prompts that differ in one token."""
    clean = prompts(1, tokens)
    corrupted = clean.clone()
    corrupted[:, tokens // 2] += 1
    return clean, corrupted


def metric(logits: Tensor) -> Tensor:
    """A logit difference, one number per prompt."""
    return logits[:, -1, 260] - logits[:, -1, 261]


def every_block(model: Any, part: str) -> list[str]:
    return [f"blocks.{i}.{part}" for i in range(model.cfg.n_layers)]


TOOLS: dict[str, Callable[[Any, int], Any]] = {
    "a run of the model": torch.no_grad()(lambda model, n: model(prompts(1, n)).shape),
    "run_with_cache, all hooks": torch.no_grad()(lambda model, n: len(model.run_with_cache(prompts(1, n))[1])),
    "audit_hooks": lambda model, n: len(probes.audit_hooks(model, prompts(1, n))),
    "collect_activations, 30 hooks, 8 prompts": lambda model, n: len(
        probes.collect_activations(model, prompts(8, n), every_block(model, "hook_resid_post"))
    ),
    "stream_activations, 32 prompts": lambda model, n: sum(
        len(batch[LATE]) for batch in probes.stream_activations(model, prompts(32, n), LATE)
    ),
    "linear_probe, 8 prompts, each position": lambda model, n: (
        probes.linear_probe(
            model, prompts(8, n), prompts(8, n) > 24_000, ["blocks.9.hook_resid_post", LATE], pos="each"
        ).score.shape
    ),
    "patch_sweep, 9 heads": lambda model, n: len(
        probes.patch_sweep(model, *pair(n), metric, Site("blocks.9.attn.hook_z", head="each"))
    ),
    "patch_sweep, 16 positions": lambda model, n: len(
        probes.patch_sweep(
            model, *pair(n), metric, [Site("blocks.9.hook_resid_pre", pos=p) for p in range(n // 2, n, n // 32)]
        )
    ),
    "path_patch, 9 heads": lambda model, n: len(
        probes.path_patch(
            model, *pair(n), metric, Site("blocks.9.attn.hook_z", head="each"), Site("blocks.18.attn.hook_q", head=0)
        )
    ),
    "attribution_sweep, 90 hooks": lambda model, n: len(
        probes.attribution_sweep(
            model,
            *pair(n),
            metric,
            [part for name in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out") for part in every_block(model, name)],
        )
    ),
    "attribution_sweep, 4 steps": lambda model, n: len(
        probes.attribution_sweep(model, *pair(n), metric, every_block(model, "hook_mlp_out"), steps=4)
    ),
    "attribution_sweep, both of AtP*": lambda model, n: len(
        probes.attribution_sweep(
            model,
            *pair(n),
            metric,
            [Site(f"blocks.{i}.attn.hook_q", head="each") for i in range(30)],
            recompute_softmax=True,
            drop_gradients=True,
        )
    ),
    "attribution_sweep, edges": lambda model, n: len(
        probes.attribution_sweep(
            model,
            *pair(n),
            metric,
            [Site(f"blocks.{i}.attn.hook_z", head="each") for i in (0, 9)],
            [Site("blocks.18.attn.hook_q", head="each")],
        )
    ),
    "qk_circuit": lambda model, n: probes.qk_circuit(model, 9, 0, offset=3, inputs=prompts(1, n)).S.shape,
    "ov_circuit": lambda model, n: probes.ov_circuit(model, 9, 0, inputs=prompts(1, n)).S.shape,
    "bottleneck": lambda model, n: probes.bottleneck(model, "embed->unembed", inputs=prompts(1, n)).write.shape,
    "align, a head": lambda model, n: len(
        probes.align(probes.ov_circuit(model, 9, 0, inputs=prompts(1, n)), model.W_E[:100], n_null=100).table()
    ),
    "nearest_tokens": lambda model, n: len(probes.nearest_tokens(model, model.W_E[:4], inputs=prompts(1, n))),
    "attention_slices, 4 rotations": lambda model, n: (
        probes.attention_slices(model, prompts(1, n), 9, 0, n_null=4).slices.shape
    ),
    "attention_slices, 4 rotations, relative": lambda model, n: (
        probes.attention_slices(model, prompts(1, n), 9, 0, relative=True, n_null=4).slices.shape
    ),
    "ablate_slices": lambda model, n: len(probes.ablate_slices(model, prompts(1, n), metric, 9, 0, [0, 1], n_random=4)),
    "tangent_space, from block 20 to 29": lambda model, n: (
        probes.tangent_space(model, prompts(1, n), "blocks.20.hook_resid_pre", LATE).jacobian.shape
    ),
    "tangent_space, from the embedding": lambda model, n: (
        probes.tangent_space(model, prompts(1, n), "blocks.0.hook_resid_pre", LATE).jacobian.shape
    ),
}


def measured(name: str, tokens: int, limit: int) -> tuple[float, float]:
    """Largest resident set of this process in GB, and seconds, when a tool has run in it or was stopped."""
    torch.set_num_threads(1)
    model = probes.load_transformer("smollm2")
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(limit)
    began = time.perf_counter()
    with contextlib.suppress(TimeoutError):
        TOOLS[name](model, tokens)
    signal.alarm(0)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return kilobytes / 1e6 * 1.024, time.perf_counter() - began


def _stop(*_: Any) -> None:
    raise TimeoutError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--tools", nargs="+", default=[""], help="those whose name begins like one of these")
    parser.add_argument("--limit", type=int, default=0, help="seconds for each tool; 0: as long as it takes")
    args = parser.parse_args()
    print("| tool | peak, GB | seconds |\n|---|---|---|")
    for name in TOOLS:
        if name.startswith(tuple(args.tools)):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peak, seconds = pool.apply(measured, (name, args.tokens, args.limit))
            stopped = ", stopped" if 0 < args.limit <= seconds else ""
            print(f"| {name} | {peak:.1f}{stopped} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
