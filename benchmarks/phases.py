"""`python -m benchmarks.phases`: CPU microseconds of each part of a compiled model step, one thread, beside the limits.

The limits are measured on this machine, in loops that keep to registers: of a draw its hashes alone, and these made
numbers of `SparseUniform`; of a gradient its fused multiply-adds alone, and these with the errors of the outputs.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, no_type_check

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.settings import SETTINGS, Setting
from tms_hooks.data import SparseUniform
from tms_hooks.fused import engine as fused_engine
from tms_hooks.fused.kernels import draws, lanes, loop, plain, rules
from tms_hooks.fused.kernels.products import transpose
from tms_hooks.training.recipe import Recipe
from tms_hooks.training.state import State

NAMES = ("b5", "s5", "d6", "a20", "a100", "s100", "c400")


def main(names: Sequence[str] = NAMES) -> None:
    """Print the table of some settings: their models that are least and most sparse."""
    from numba import njit

    @njit
    @no_type_check
    def hashes(times, count, out):
        z, seen = lanes.counters(np.uint64(0)), lanes.splat(np.uint32(0))
        for _ in range(times * count // 8):
            z = lanes.following(z)
            seen = lanes.either(seen, lanes.random_bits(z))
        lanes.store(out, 0, 0, lanes.real(seen, np.float32(0)))

    @njit
    @no_type_check
    def products(times, count, out):
        one = lanes.splat_part(np.float32(0.5))
        a = b = c = d = e = f = g = h = one
        for _ in range(times * count // (8 * lanes.PART)):
            a, b, c, d = lanes.fma(a, one, one), lanes.fma(b, one, one), lanes.fma(c, one, one), lanes.fma(d, one, one)
            e, f, g, h = lanes.fma(e, one, one), lanes.fma(f, one, one), lanes.fma(g, one, one), lanes.fma(h, one, one)
        a, b, c, d = lanes.add(a, b), lanes.add(c, d), lanes.add(e, f), lanes.add(g, h)
        lanes.store(out, 0, 0, lanes.add(lanes.add(a, b), lanes.add(c, d)))

    @njit
    @no_type_check
    def numbers(times, count, out):
        z, sums, low, most = lanes.counters(np.uint64(0)), lanes.splat(np.float32(0)), np.float32(0), np.uint32(2**30)
        half, scale, zero = lanes.splat(np.float32(0.5)), lanes.splat(np.float32(2.0**-30)), lanes.splat(np.float32(0))
        for _ in range(times * count // 16):
            bits = lanes.random_bits(z)
            z = lanes.following(z)
            value = lanes.fma(lanes.mul(lanes.add(lanes.real_31(bits, low), half), scale), scale, zero)
            sums = lanes.add(sums, lanes.where(lanes.at_most(bits, lanes.splat(most)), value, zero))
        lanes.store(out, 0, 0, sums)

    @njit
    @no_type_check
    def errors(times, count, out):
        zero, one = lanes.splat_part(np.float32(0)), lanes.splat_part(np.float32(0.5))
        a = b = c = d = squares_1 = squares_2 = sums_1 = sums_2 = zero
        for _ in range(times * count // (2 * lanes.PART)):
            a, b = lanes.add(a, one), lanes.sub(b, one)
            clipped, also = lanes.at_most(a, zero), lanes.at_most(b, zero)
            c, d = lanes.sub(lanes.where(clipped, zero, a), one), lanes.sub(lanes.where(also, zero, b), one)
            squares_1, squares_2 = lanes.fma(c, c, squares_1), lanes.fma(d, d, squares_2)
            sums_1 = lanes.add(sums_1, lanes.where(clipped, zero, lanes.mul(c, one)))
            sums_2 = lanes.add(sums_2, lanes.where(also, zero, lanes.mul(d, one)))
        lanes.store(out, 0, 0, lanes.add(lanes.add(squares_1, squares_2), lanes.add(sums_1, sums_2)))

    @njit
    @no_type_check
    def draw(times, x, block, batch):
        for t in range(times):
            for top in range(0, batch.rows, block):
                draws.draw_sparse_uniform(
                    x, np.uint64(t), top, min(block, batch.rows - top),
                    batch.largest, batch.scale, batch.span, batch.low, batch.occupied,
                )  # fmt: skip

    @njit(_nrt=False)  # as in training; a view that such a function returns is not to be released by another
    @no_type_check
    def gradient(times, x, block, rows, w, g, loss, weight, toy, narrow, space):
        own, gradients = plain.views(w, toy, w[:0], w[:0]), plain.views(g, toy, g[:0], g[:0])
        transpose(space.w_e_t, own.w_e)
        for _ in range(times):
            for top in range(0, rows, block):
                count = min(block, rows - top)
                plain.forward_backward(x, x, count, own, gradients, loss, weight, toy, narrow, space)

    @njit
    @no_type_check
    def update(times, optimizer, w, g, first, second, scalars):
        for _ in range(times):
            rules.update(optimizer, w, g, first, second, scalars)

    out = np.zeros((1, 16), np.float32)
    hash_us = cpu(lambda k: hashes(k, 8000, out), 100) / 8000
    fma_us = cpu(lambda k: products(k, 160_000, out), 100) / 160_000
    number_us = cpu(lambda k: numbers(k, 16_000, out), 100) / 16_000
    error_us = cpu(lambda k: errors(k, 160_000, out), 100) / 160_000
    limits = hash_us, number_us, fma_us, error_us
    table = Table(title="CPU microseconds per model step, float32, one thread (limits)")
    for name in ("setting", "p", "rows drawn", "draw", "gradient", "update", "whole step"):
        table.add_column(name, justify="left" if name == "setting" else "right")
    for setting in SETTINGS:
        if setting.name in names:
            recipes = setting.recipes()
            for recipe in recipes[:1] if len(recipes) == 1 else (recipes[0], recipes[-1]):
                table.add_row(*row(setting, recipe, draw, gradient, update, *limits))
    console = Console(width=130)
    console.print(table)
    per_ns = {"hashes": hash_us, "numbers": number_us, "multiply-adds": fma_us, "errors": error_us}
    console.print("per nanosecond: " + ", ".join(f"{1e-3 / us:.2f} {name}" for name, us in per_ns.items()))


def row(
    setting: Setting, recipe: Recipe, draw: Any, gradient: Any, update: Any,
    hash_us: float, number_us: float, fma_us: float, error_us: float,
) -> list[str]:  # fmt: skip
    """A line of the table."""
    assert isinstance(recipe.setting.data, SparseUniform)
    n, m, like = setting.n, setting.m, np.zeros(1, np.float32)
    (plan,) = fused_engine._plans(recipe, "joint", like.dtype)
    batch, rows = plan.batch, plan.batch.rows
    block = -(-min(max(loop.SMALL // n, loop.BLOCK), rows) // 64) * 64
    x, loss = plain.aligned(n, block + 16, like), np.zeros(n, np.float32)
    w, g = plain.aligned(2, n * m + n, like)
    w[: n * m] = np.random.default_rng(0).normal(size=n * m) * 0.3
    times = max(int(20_000 / (hash_us * rows * n + fma_us * 5 * rows * n * m) / 10), 3)
    draw_us = cpu(lambda k: draw(k, x, block, batch), times)
    space = plain.make_plain_space(w, plan.toy, block, batch.sparse)
    model = (w, g, loss, batch.weight, plan.toy, plan.narrow, space)
    gradient_us = cpu(lambda k: gradient(k, x, block, rows, *model), times)
    scalars = np.array(recipe.setting.optimizer.scalars(np.array(0), np.array(1e-3)), np.float32)
    update_us = cpu(lambda k: update(k, plan.optimizer, w, w * 0, w * 0, w * 0 + 1, scalars), 1000)
    state = State.initial(recipe, None, "cpu")
    steps = max(times // len(recipe.seeds), 20)
    whole = cpu(lambda k: fused_engine.advance(recipe, state, 0, k), steps) / len(recipe.seeds)
    p, products_us = recipe.setting.data.feature_probability, fma_us * 5 * rows * n * m
    return [
        setting.name,
        f"{p:.3g}",
        f"{rows}",
        f"{draw_us:.2f} ({hash_us * rows * n / 2:.2f}, {number_us * rows * n:.2f})",
        f"{gradient_us:.2f} ({products_us:.2f}, {products_us + error_us * rows * n:.2f})",
        f"{update_us:.2f}",
        f"{whole:.2f}",
    ]


def cpu(work: Callable[[int], object], times: int) -> float:
    """Least CPU microseconds, of five tries, of one of so many repetitions."""
    work(times)
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        work(times)
        best = min(best, time.process_time() - began)
    return best / times * 1e6


if __name__ == "__main__":
    main(sys.argv[1:] or NAMES)
