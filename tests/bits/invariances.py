"""What must hold to the bit on any processor, tried on random configurations: those of `runs.draw`, with edges.

A model trained in a crowd is the one trained alone; one thread gives what two give; a run that goes on is the run that
never stopped. The engines see the same gradient, up to the order of its sums.

    python -m tests.bits.invariances [COUNT] [FIRST]
"""

import logging
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numba
import torch

import tms_hooks as tms
from tests.bits import runs
from tms_hooks.fused import engine as fused
from tms_hooks.training import batches

SEEDS = (3, 2**40 + 1, 11)
APART = {"float32": 1e-4, "float64": 1e-11}
"""Largest difference of the engines' gradients, relative to the largest gradient of the model."""


READ_OFF = 1e-3
"""A gradient is read off weights of about 1, so it has only the digits that are left of theirs."""


def draw(number: int) -> dict[str, Any]:
    """The arguments of `train` for one configuration; most have something at its edge."""
    settings = runs.draw(number)
    cfg, choose = settings["cfg"], random.Random(f"edge {number}")
    match choose.choice(("", "", "batch", "rate", "narrow", "wide", "one feature")):
        case "batch":
            settings["batch_size"] = choose.choice((1, 2, 17, 257))
        case "rate":  # models diverge
            settings["optimizer"] = replace(settings["optimizer"], lr=choose.choice((3.0, 1e3)))
        case "narrow":
            settings["cfg"] = replace(cfg, d_hidden=1, d_head=1 if cfg.n_heads else None)
        case "wide":  # batches are transposed
            settings["cfg"] = replace(cfg, d_hidden=choose.choice((16, 17, 33)))
        case "one feature" if not cfg.n_heads:
            settings["cfg"] = replace(cfg, n_features=1)
            settings["data"] = tms.SparseUniform(n_features=1, feature_probability=choose.choice((1e-3, 0.5, 1.0)))
            settings["importance"] = None
            settings["batch_size"] = settings["batch_size"] or 33
    if not isinstance(settings["data"], tms.OneHot):
        settings.pop("loss", None)  # cross-entropy is for targets that sum to 1
    return settings | {"seeds": SEEDS}


def broken(number: int) -> Iterator[str]:
    """The invariances that a configuration breaks."""
    settings, gradients = draw(number), {}
    for name in ("torch", "fused"):
        how = {"engine": name, "progress": False}
        try:
            crowd = tms.train(**settings, **how)
        except ValueError as error:
            if name == "torch" or "cannot run this" not in str(error):
                raise
            continue
        i = number % len(SEEDS)
        if different(crowd, i, tms.train(**settings | {"seeds": [SEEDS[i]]}, **how), 0):
            yield f"{name}: the model of seed {SEEDS[i]} is another one alone"
        with threads(2):
            many = tms.train(**settings, **how)
        if any(different(crowd, i, many, i) for i in range(len(SEEDS))):
            yield f"{name}: two threads give other bits than one"
        if "stages" not in settings and settings["optimizer"].schedule == "constant" and settings["steps"] > 1:
            half = tms.train(**settings | {"steps": settings["steps"] // 2}, **how)
            whole = half.resume(steps=settings["steps"] - settings["steps"] // 2, progress=False)
            if any(different(crowd, i, whole, i, history=False) for i in range(len(SEEDS))):
                yield f"{name}: resumed is not uninterrupted"
        gradients[name] = gradient(settings | how)
    for key, g in gradients.get("torch", {}).items() if len(gradients) == 2 else ():
        largest = max(float(each.abs().max()) for each in gradients["torch"].values())
        apart = float((g - gradients["fused"][key]).abs().max())
        if not apart <= APART[settings["dtype"]] * (largest + READ_OFF):
            yield f"the engines' gradients of {key} differ by {apart:.1e}, where the largest is {largest:.1e}"


def different(one: tms.Run, i: int, other: tms.Run, j: int, history: bool = True) -> bool:
    """Whether models i and j of two runs differ in a bit of weights, losses or history."""
    pairs = [(one.weights[name][i], other.weights[name][j]) for name in one.weights]
    pairs += [(getattr(one, name)[i], getattr(other, name)[j]) for name in ("final_feature_loss", "final_head_loss")]
    if history:
        pairs += [
            (torch.as_tensor(v.values[:, i]), torch.as_tensor(other.history[name].values[:, j]))
            for name, v in one.history.data_vars.items()
        ]
    return any(runs.checksum(a.numpy()) != runs.checksum(b.numpy()) for a, b in pairs)


def gradient(settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The first gradient of every parameter: what a step of size 1 along it takes away, in one stage."""
    one = settings | {"optimizer": tms.SGD(lr=1.0), "steps": 1, "stages": ("joint",), "record_every": 1}
    run = tms.train(**one)
    start = {name: torch.stack([tms.ToyModel(run.recipe.cfg, seed=seed).state_dict()[name] for seed in SEEDS])
             for name in run.weights}  # fmt: skip
    return {name: start[name].to(w.dtype) - w for name, w in run.weights.items()}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Both engines with this many threads, however small the work."""
    before = torch.get_num_threads(), numba.get_num_threads(), fused.WORTH_THREADS
    torch.set_num_threads(count)
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    fused.WORTH_THREADS = 1
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
        fused.WORTH_THREADS = before[2]


def main(count: int = 300, first: int = 0) -> int:
    """Try configurations; 1 if one breaks anything."""
    logging.getLogger("tms_hooks").setLevel(logging.ERROR)  # that models diverge is meant
    batches.HELD_OUT_TOKENS = 2**12  # judging models takes longer than training them here
    found: list[str] = []
    with threads(1):
        for number in range(first, first + count):
            found += [f"{number}: {what}" for what in broken(number)]
            print(f"\r{number + 1 - first} of {count}, {len(found)} broken", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(*found, sep="\n")
    whole = count - len({each.split(":")[0] for each in found})
    print(f"{whole} of {count} configurations hold, on {torch.backends.cpu.get_cpu_capability()}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
