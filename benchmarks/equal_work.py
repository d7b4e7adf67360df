"""Equal work: seconds per model step of the plain loop and of our engine, timed in alternation in one process."""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import ModuleType
from typing import Any

import torch

from benchmarks.settings import Setting
from tms_hooks.fused import engine as fused_engine
from tms_hooks.training import torch_engine
from tms_hooks.training.recipe import Recipe
from tms_hooks.training.state import State


def compare(setting: Setting, threads: int, repeats: int) -> dict[str, Any]:
    """Seconds per model step of both, timed in alternation; the ratio is the median over pairs."""
    use_threads(threads)
    plain, (engine, advance, ours_steps) = setting.plain(), engine_of([setting.together()], threads)
    steps = setting.plain_steps
    plain.train(1)
    advance(1)
    # Enough of our steps for a tenth of a second, so that the clock does not decide.
    count = max(int(0.1 / (seconds(lambda: advance(ours_steps)) / ours_steps)), 1)
    pairs = []
    for _ in range(repeats):
        slow = seconds(lambda: plain.train(steps)) / steps
        fast = seconds(lambda: advance(count)) / count
        pairs.append((slow, fast))
    ratios = [slow / fast for slow, fast in pairs]
    return {
        "setting": setting.name,
        "engine": engine,
        "threads": threads,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "target": setting.target,
        "plain_us": statistics.median(slow for slow, _ in pairs) / setting.models * 1e6,
        "ours_us": statistics.median(fast for _, fast in pairs) / setting.models * 1e6,
        "repeats": repeats,
    }


def compare_one_call(setting: Setting, threads: int, repeats: int) -> dict[str, Any]:
    """Seconds per model step of all models in one call, and in a call for each setting, timed in alternation."""
    use_threads(threads)
    _, each, steps = engine_of(setting.recipes(), threads)
    _, together, _ = engine_of([setting.together()], threads)
    each(1)
    together(1)
    count = max(int(0.2 / (seconds(lambda: each(steps)) / steps)) // 100, 1) * 100
    pairs = [(seconds(lambda: each(count)), seconds(lambda: together(count))) for _ in range(repeats)]
    ratios = [apart / one for apart, one in pairs]
    return {
        "setting": setting.name,
        "threads": threads,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "apart_us": statistics.median(apart for apart, _ in pairs) / count / setting.models * 1e6,
        "together_us": statistics.median(one for _, one in pairs) / count / setting.models * 1e6,
        "repeats": repeats,
    }


def engine_of(recipes: Sequence[Recipe], threads: int) -> tuple[str, Callable[[int], None], int]:
    """Name of the engine that "auto" picks, a function that makes so many more steps, and a first number of steps."""
    engine = engine_for(recipes[0])
    states = [State.initial(recipe, None, "cpu") for recipe in recipes]
    done = 0

    def advance(steps: int) -> None:
        nonlocal done

        def one(recipe: Recipe, state: State) -> None:
            for begin in range(done, done + steps, 100):  # the plain loop too stops every 100 steps to look at its loss
                engine.advance(recipe, state, begin, min(begin + 100, done + steps))

        if threads == 1 or len(recipes) == 1:
            list(map(one, recipes, states))
        else:  # runs of different settings are shared out over threads, as `sweep` does over processes
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(one, recipes, states))
        done += steps

    return engine.__name__.removeprefix("tms_hooks."), advance, 100 if engine is fused_engine else 2


def engine_for(recipe: Recipe) -> ModuleType:
    """What `engine="auto"` picks."""
    return fused_engine if fused_engine.obstacle(recipe) is None else torch_engine


def use_threads(threads: int) -> None:
    """For numba, then for torch: numba's threads start when they are first asked, and change the number of torch's."""
    with suppress(ImportError):
        import numba

        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(threads)


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes: on one thread CPU time, which others on the machine change less than the time on the wall."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    work()
    return clock() - began
