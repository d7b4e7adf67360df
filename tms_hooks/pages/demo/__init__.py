"""`tms demo`: the main job. Toys beside a real transformer, through the same calls, on one page."""

import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

import probes
from tms_hooks.pages import report
from tms_hooks.pages.demo import real, toys


def run_demo(
    out: Path, real_model: str = "smollm2", n_models: int = 400, say: Callable[[str], None] = lambda what: None
) -> tuple[Path, pd.DataFrame]:
    """Do all of it; returns the page and the short table.

    Args:
        out: folder for `index.html`.
        real_model: what `probes.load_transformer` takes.
        n_models: toys in the first section.
        say: told what is being done.
    """
    began = time.perf_counter()
    say(f"loading {real_model}")
    transformer = probes.load_transformer(real_model)
    say(f"training {n_models} toys of 6 features in 2 dimensions, naming their geometries")
    run = toys.train_toys(n_models)
    parts = [toys.geometries(run)]
    say(f"training {toys.HEAD_TOYS} toys with a pseudo-attention head, aligning singular vectors with features")
    head_run = toys.train_head_toys()
    parts.append(toys.alignment(head_run))
    say("splitting attention scores into singular slices")
    parts.append(real.slices(head_run, transformer, real_model))
    say("measuring the embed -> unembed bottlenecks")
    parts.append(real.bottlenecks(run, transformer, real_model))
    page = report.write(
        out / "index.html",
        "Superposition, measured",
        "How a network stores more features than it has dimensions: on toys, and in a real transformer.",
        [section for section, _ in parts],
        f"tms demo: {n_models} + {toys.HEAD_TOYS} toys and {real_model} in {time.perf_counter() - began:.0f} s; "
        f"seeds from 0; tms-hooks {run.provenance['tms_hooks']}, torch {run.provenance['torch']}, "
        f"{run.provenance['engine']} engine.",
        probes.render.bundle(),
    )
    return page, pd.concat([rows for _, rows in parts])
