"""Many logistic probes at once beside a loop of scikit-learn's: processor time of one thread, in alternation, medians.

The loop runs with each solver that might be the fastest for the case: "lbfgs" (the default) and "newton-cholesky", made
for many more rows than columns. Beside the times stands how far each is off, at most, from coefficients at the optimum
(newton-cholesky at a tolerance of 1e-12). Run: `python benchmarks/probing.py`.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from probes.logistic import LogisticTargets

LOOPED = 8
"""Targets that the loop does; its time is scaled up to all of them."""


def problem(rows: int, width: int, targets: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated, standardized activations; targets that are half signal, half noise, of all frequencies."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, width)) @ rng.normal(size=(width, width))
    x = (x - x.mean(0)) / x.std(0)
    signal = x @ rng.normal(size=(width, targets)) / width**0.5
    return x, signal + rng.normal(size=signal.shape) > rng.normal(size=targets)


def loop(x: np.ndarray, y: np.ndarray, solver: str, tol: float) -> np.ndarray:
    """Coefficients of the first targets, one after the other."""
    fit = LogisticRegression(solver=solver, tol=tol, max_iter=20_000).fit
    return np.stack([fit(x, y[:, target]).coef_[0] for target in range(LOOPED)])


def ours(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients of all targets."""
    return LogisticTargets().fit(x, y).coef_


def timed(work: Callable[..., np.ndarray], *args: object) -> tuple[float, np.ndarray]:
    """Seconds, and the result."""
    began = time.process_time()
    result = work(*args)
    return time.process_time() - began, result


SOLVERS = (("lbfgs", 1e-4), ("lbfgs", 1e-8), ("newton-cholesky", 1e-4), ("newton-cholesky", 1e-8))
SHAPES = ((2000, 64), (2000, 256), (1000, 384))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shapes", type=int, nargs="+", default=range(len(SHAPES)), help="numbers, from 0 to 2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| rows, width | ours | " + " | ".join(f"{solver}, {tol:g}" for solver, tol in SOLVERS) + " |")
    for rows, width in (SHAPES[i] for i in args.shapes):
        x, y = problem(rows, width, args.targets)
        exact = loop(x, y, "newton-cholesky", 1e-12)
        times: dict[str, list[float]] = {}
        off: dict[str, float] = {}
        for _ in range(args.repeats):
            runs: list[tuple[str, Callable[..., np.ndarray], tuple[object, ...]]] = [("ours", ours, ())]
            runs += [(f"{solver}, {tol:g}", loop, (solver, tol)) for solver, tol in SOLVERS]
            for name, work, how in runs:
                spent, found = timed(work, x, y, *how)
                times.setdefault(name, []).append(spent * (1 if name == "ours" else args.targets / LOOPED))
                off[name] = float(np.abs(found[:LOOPED] - exact).max())
        own = statistics.median(times["ours"])
        cells = [f"{(s := statistics.median(times[name])):.1f} s, {s / own:.1f}x, {off[name]:.0e}" for name in times]
        print(f"| {rows:,}, {width} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
