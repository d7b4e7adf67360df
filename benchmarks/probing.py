"""Many logistic probes at once beside a loop of scikit-learn's: processor time of one thread, in alternation, medians.

At scikit-learn's default tolerance (1e-4) its coefficients are off in the second decimal; at 1e-8, in the fifth; ours
in the eighth. Run: `python benchmarks/probing.py`.
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


def loop(x: np.ndarray, y: np.ndarray, tol: float) -> None:
    for target in range(LOOPED):
        LogisticRegression(tol=tol, max_iter=20_000).fit(x, y[:, target])


def seconds(work: Callable[..., object], *args: object) -> float:
    began = time.process_time()
    work(*args)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for rows, width in ((2000, 64), (2000, 256), (1000, 384)):
        x, y = problem(rows, width, args.targets)
        times: dict[str, list[float]] = {"ours": [], "tol 1e-4": [], "tol 1e-8": []}
        for _ in range(args.repeats):
            times["ours"].append(seconds(LogisticTargets().fit, x, y))
            for tol in ("1e-4", "1e-8"):
                times[f"tol {tol}"].append(seconds(loop, x, y, float(tol)) * args.targets / LOOPED)
        ours, rough, fine = (statistics.median(times[name]) for name in times)
        print(
            f"{rows} rows, {width} wide, {args.targets} targets: ours {ours:.2f} s; a loop at its default tolerance "
            f"{rough:.1f} s: {rough / ours:.0f}x; at 1e-8 {fine:.1f} s: {fine / ours:.0f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
