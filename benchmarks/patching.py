"""`patch_sweep` beside TransformerLens's `generic_activation_patch`: same patches, same numbers, how much faster?

On a random model of GPT-2 small's shape; processor time of one thread, in one process, in alternation, medians.
`work` is the ratio of floating-point operations: what the ratio of times would be at equal operations per second. A run
of one short prompt does few of them a second (each weight is fetched for 15 tokens), stacked sites many; with more
prompts both do, and the ratio falls toward `work`.
Run: `python benchmarks/patching.py`; `--layers 1 4 7 10` patches four blocks, which on average lie in the middle too.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformer_lens import patching

from probes import Site, patch_sweep


def gpt2_small_shape(width: int) -> Any:
    """GPT-2 small with random weights, or a narrower one with a vocabulary in proportion; nothing is downloaded."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        hf = GPT2LMHeadModel(
            GPT2Config(n_embd=width, vocab_size=50257 * width // 768, attn_implementation="eager")
        ).eval()
    return build_bridge_from_module(hf, "GPT2LMHeadModel", hf_config=hf.config).eval()


def metric(logits: torch.Tensor) -> torch.Tensor:
    """A logit difference, one number per prompt."""
    return logits[:, -1, 0] - logits[:, -1, 1]


def theirs(model: Any, clean: torch.Tensor, corrupted: torch.Tensor, by: str, layers: list[int]) -> torch.Tensor:
    """One run a site, as `generic_activation_patch` does it."""
    swept = {
        "head": partial(
            patching.generic_activation_patch,
            patch_setter=patching.layer_head_vector_patch_setter,
            activation_name="z",
        ),
        "position": partial(
            patching.generic_activation_patch,
            patch_setter=patching.layer_pos_patch_setter,
            activation_name="resid_pre",
        ),
        "attention": partial(
            patching.generic_activation_patch,
            patch_setter=patching.layer_pos_patch_setter,
            activation_name="attn_out",
        ),
        "mlp": partial(
            patching.generic_activation_patch,
            patch_setter=patching.layer_pos_patch_setter,
            activation_name="mlp_out",
        ),
    }
    sweeps = [swept[part] for part in ("position", "attention", "mlp")] if by == "every" else [swept[by]]
    column, n = ("head", model.cfg.n_heads) if by == "head" else ("pos", clean.shape[1])
    index = pd.DataFrame([(layer, i) for layer in layers for i in range(n)], columns=["layer", column])
    patching.tqdm = lambda rows: rows  # no progress bars
    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
        found = [
            sweep(model, corrupted, cache, lambda logits: metric(logits).mean(), index_df=index).flatten()
            for sweep in sweeps
        ]
    return torch.cat(found)


def ours(model: Any, clean: torch.Tensor, corrupted: torch.Tensor, by: str, layers: list[int]) -> torch.Tensor:
    """The same patches by `patch_sweep`."""
    if by == "head":
        sites = [Site(hook=f"blocks.{i}.attn.hook_z", head="each") for i in layers]
    else:
        hooks = {"position": "hook_resid_pre", "attention": "hook_attn_out", "mlp": "hook_mlp_out"}
        asked = list(hooks.values()) if by == "every" else [hooks[by]]
        sites = [Site(hook=f"blocks.{i}.{part}", pos="each") for part in asked for i in layers]
    return torch.tensor(patch_sweep(model, clean, corrupted, metric, sites).metric.to_numpy())


def count_operations(sweep: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of the matrix products."""
    with FlopCounterMode(display=False) as counter:
        sweep(*args)
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", type=int, nargs="+", default=list(range(12)))
    parser.add_argument("--width", type=int, default=768, help="of the model; `work` hardly depends on it")
    parser.add_argument("--by", nargs="+", default=["head", "position", "every"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = gpt2_small_shape(args.width)
    generator = torch.Generator().manual_seed(0)
    for n_prompts in args.prompts:
        clean = torch.randint(0, model.cfg.d_vocab, (n_prompts, args.tokens), generator=generator)
        corrupted = torch.randint(0, model.cfg.d_vocab, (n_prompts, args.tokens), generator=generator)
        for by in args.by:
            sweeps = {"theirs": theirs, "ours": ours}
            seconds: dict[str, list[float]] = {name: [] for name in sweeps}
            asked = (model, clean, corrupted, by, args.layers)
            operations = {name: count_operations(sweep, *asked) for name, sweep in sweeps.items()}
            for _ in range(args.repeats):
                results = []
                for name, sweep in sweeps.items():
                    began = time.process_time()
                    results.append(sweep(*asked))
                    seconds[name].append(time.process_time() - began)
            torch.testing.assert_close(results[0].double(), results[1], atol=1e-4, rtol=1e-4)
            a, b = (statistics.median(seconds[name]) for name in sweeps)
            work = operations["theirs"] / operations["ours"]
            print(
                f"{n_prompts} prompts, by {by}: {len(results[0])} sites; "
                f"theirs {a:.2f} s, ours {b:.2f} s: {a / b:.1f}x (work {work:.1f}x)",
                flush=True,
            )


if __name__ == "__main__":
    main()
