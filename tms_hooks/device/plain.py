"""What Triton's kernels do of training on a GPU: all of plain toys, and the rows of others."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks import rng
from tms_hooks.data.independent import STRIP, SparseUniform
from tms_hooks.device import kernels
from tms_hooks.device.graphs import captured
from tms_hooks.device.updates import Updates
from tms_hooks.tasks import Reconstruct
from tms_hooks.training import batches
from tms_hooks.training.optimizers import OPTIMIZERS
from tms_hooks.training.recipe import Recipe, Stage
from tms_hooks.training.state import Measurement, State

AT_ONCE = 32
"""Updates in one CUDA graph: replaying one costs the host more than an update of small toys costs the GPU."""
MOST_ENTRIES = 2**14
"""Entries of a weight matrix, n and m rounded up: what one program can have at hand."""
WRITTEN_OUT = 64
"""Entries up to which products are written out; tensor cores multiply tiles of 16 by 16."""
BLOCK = 1024
"""Weights that one program updates."""
MOST_FEATURES = 2**13
"""Features of rows of which none is empty, which a program has to see at once."""


def updates(recipe: Recipe, stage: Stage, state: State) -> Updates:
    """Updates of a stack, in kernels as far as they go."""
    if obstacle(recipe) is None:
        return PlainUpdates(recipe, stage, state)
    return Updates(recipe, stage, state, rows_drawn(recipe, state.diverged_at.device))


def obstacle(recipe: Recipe) -> str | None:
    """Which part of a recipe is not that of a plain toy; None if kernels make its updates."""
    cfg, optimizer = recipe.cfg, recipe.settings[0].optimizer
    data = rows_drawn(recipe, torch.device("cpu"))
    fits = {
        "n_heads": not cfg.n_heads,
        "d_mlp": not cfg.d_mlp,
        "hidden_bias": not cfg.hidden_bias,
        "hidden_act": cfg.hidden_act == "identity",
        "output_act": cfg.output_act in ("relu", "identity"),
        "unit_norm": not cfg.unit_norm,
        "task": type(recipe.task) is Reconstruct,
        "loss": recipe.loss == "mse",
        "penalty": all(setting.penalty is None for setting in recipe.settings),
        "dtype": recipe.dtype == "float32",
        "data": data is not None,
        "optimizer": type(optimizer) in OPTIMIZERS.values() and not optimizer.pull,
        "n_features": max(_up(cfg.n_features), 16) * max(_up(cfg.d_hidden), 16) <= MOST_ENTRIES,
    }
    return next((part for part, plain in fits.items() if not plain), None)


def rows_drawn(recipe: Recipe, device: torch.device) -> batches.Draw | None:
    """Draws of all models in one kernel, with torch's bits; None for rows that the kernel does not know."""
    data, exact = [setting.data for setting in recipe.settings], recipe.empty_rows == "exact"
    n = recipe.cfg.n_features
    if {type(each) for each in data} != {SparseUniform} or len({_interval(each) for each in data}) > 1:
        return None
    if exact and n > MOST_FEATURES:
        return None
    thresholds, interval = _rows_of(recipe, device)
    N = _up(n) if exact else min(_up(n), 128)
    pairs = max(1024 // N, 1)

    def draw(keys: Int64[Tensor, " model"], count: int) -> Float[Tensor, "model batch feature"]:
        x = torch.empty(len(keys), count, n, dtype=recipe.torch_dtype, device=device)
        grid = len(keys), triton.cdiv(_pairs(count), pairs), triton.cdiv(n, N)
        kernels.draw[grid](
            x, keys, thresholds, interval, count, n, OCCUPIED=exact, PAIRS=pairs, N=N, enable_fp_fusion=False
        )
        return x

    return draw


class Tiles(NamedTuple):
    """What a program of `kernels.gradients` works on at once."""

    dot: bool
    """Whether products are made by tensor cores."""
    pairs: int
    """Pairs of rows."""
    N: int
    M: int
    warps: int

    @classmethod
    def of(cls, n: int, m: int) -> "Tiles":
        """Tiles for toys of n features and m hidden units."""
        N, M = _up(n), _up(m)
        if N * M <= WRITTEN_OUT:
            return cls(False, min(8192 // (N * M), 128), N, M, 4)
        N, M = max(N, 16), max(M, 16)
        return cls(True, min(max(4096 // N, 16), 128), N, M, 4 if N * M <= 2048 else 8)


class PlainUpdates(Updates):
    """Updates of plain toys, each in two kernels.

    These do not ask whether the next weights of a model are finite, for that is to be known of all of them before any
    is changed. They go on and tell at the end; then all steps since the state was loaded are made again, as others are.
    """

    def __init__(self, recipe: Recipe, stage: Stage, state: State) -> None:
        device = state.diverged_at.device
        super().__init__(recipe, stage, state, rows_drawn(recipe, device))
        self.shrinking = dict.fromkeys(self.training.trained, False)  # all of them, in the order of the line
        self.table = self.table.new_zeros(len(self.table), self.numbers(range(1)).shape[1])
        self.bad = torch.zeros(len(recipe.seeds), dtype=torch.int32, device=device)
        self.usual: Updates | None = None
        self.launches = self._launches(device)

    def update(self) -> None:
        """One update of every model that has not diverged."""
        for launch in self.launches:
            launch()

    def advance(self, state: State, start: int, stop: int) -> Measurement:
        """As `Engine.advance`."""
        before = state.as_it_is()
        measured = super().advance(state, start, stop)
        if start == stop or not self.bad.any():
            return measured
        state.weights, state.moments, state.diverged_at = before.weights, before.moments, before.diverged_at
        self.usual = self.usual or Updates(self.recipe, self.stage, state, rows_drawn(self.recipe, self.step.device))
        return self.usual.advance(state, start, stop)

    def numbers(self, steps: range) -> Float[Tensor, "step number"]:
        """As `Updates.numbers`, of all steps at once: rounded to single precision they are the same."""
        _, count, total = self.recipe.stage_at(steps.start)
        counts = np.arange(count, count + len(steps), dtype=np.float64)
        rates = np.array([self.optimizer.learning_rate(each, total) for each in range(count, count + len(steps))])
        kept = [number for name in self.shrinking for number in self.optimizer.kept(name, rates)]
        columns = np.broadcast_arrays(*kept, *self.optimizer.scalars(counts, rates), counts)[:-1]
        return torch.from_numpy(np.stack(columns, axis=1))

    def _load(self, state: State, step: int) -> None:
        super()._load(state, step)
        self.bad.zero_()

    def _launches(self, device: torch.device) -> tuple[Callable[[], Any], ...]:
        recipe, w, (first, second) = self.recipe, self.training.trained, self.training.moments
        models, n, m = w["W_E"].shape
        rows, share = batches.rows(recipe)
        tiles = Tiles.of(n, m)
        splits = max(min(triton.cdiv(_pairs(rows), tiles.pairs), 2 * _processors(device) // models), 1)
        line = self.training.line
        found = line.new_empty(splits, len(line))
        state = self.training.diverged_at, self.bad
        importance = torch.tensor([setting.importance for setting in recipe.settings], device=device)
        of_rows = (rng.streams(recipe.seeds, device), *_rows_of(recipe, device), importance)
        return (
            partial(
                kernels.gradients[models, splits],
                w["W_E"], w.get("W_U", line), w.get("b_U", line), found, len(line), self.counters, *of_rows, *state,
                n, m, rows, share, splits,
                TIED="W_U" not in w, BIAS="b_U" in w, RELU=recipe.cfg.output_act == "relu",
                OCCUPIED=recipe.empty_rows == "exact", DOT=tiles.dot, PAIRS=tiles.pairs, N=tiles.N, M=tiles.M,
                num_warps=tiles.warps,
            ),
            partial(
                kernels.apply[triton.cdiv(len(line), BLOCK),],
                line, first, second, found, self.table, self.counters, *state, len(line), models, n, m, splits,
                RULE=kernels.rule(type(self.optimizer)), SCALARS=self.table.shape[1] - 2 * len(w),
                MATRICES=len(w) - ("b_U" in w), PARAMETERS=len(w), BLOCK=BLOCK,
            ),
        )  # fmt: skip

    def _repeated(self) -> Callable[[int], None]:
        def several() -> None:
            for _ in range(AT_ONCE):
                self.update()

        once, many = (captured(function, self.step.device) for function in (self.update, several))
        self.captured = once != self.update

        def repeat(steps: int) -> None:
            for _ in range(steps // AT_ONCE):
                many()
            for _ in range(steps % AT_ONCE):
                once()

        return repeat


def _rows_of(recipe: Recipe, device: torch.device) -> tuple[Int64[Tensor, "model 2 feature"], Float[Tensor, "2"]]:
    """What the kernels know of the rows of each model: thresholds, and the interval of values."""
    data = [setting.data for setting in recipe.settings if isinstance(setting.data, SparseUniform)]
    thresholds = torch.stack([each.thresholds for each in data])
    return thresholds.to(device), torch.tensor(_interval(data[0]), dtype=torch.float64, device=device)


def _interval(data: SparseUniform) -> tuple[float, float]:
    return float(data.low), float(data.high)


def _pairs(rows: int) -> int:
    """Pairs of rows in whole strips."""
    return -(-rows // STRIP) * STRIP // 2


def _up(size: int) -> int:
    return int(triton.next_power_of_2(size))


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 4  # of the interpreter
    return torch.cuda.get_device_properties(device).multi_processor_count
