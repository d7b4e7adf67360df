"""What Triton's kernels do of training on a GPU: all of plain toys, and the rows of others."""

import math
from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch
import triton
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks import rng
from tms_hooks.data.independent import STRIP, SparseUniform
from tms_hooks.device import kernels
from tms_hooks.device.graphs import captured
from tms_hooks.device.updates import RowsAt, Updates
from tms_hooks.tasks import Reconstruct
from tms_hooks.training import batches
from tms_hooks.training.optimizers import OPTIMIZERS
from tms_hooks.training.recipe import Recipe, Stage
from tms_hooks.training.state import Measurement, State

AT_ONCE = 32
"""Updates of small toys in one CUDA graph: replaying a graph costs the host as much as such an update takes."""
WRITTEN_OUT = 64
"""Parameters of a toy up to which its sums are written out, number by number: they have to fit into registers."""
PAIRS = 32
"""Pairs of rows that a program has at once: one per lane of a warp."""
BLOCK = 256
"""Entries that a program works on where each is for itself."""
MOST_NUMBERED = 2**31
"""Weights of all models, or entries of a batch of one, that the kernels can number."""
MOST_FEATURES = 2**13
"""Features of rows of which none is empty, which a program has to see at once."""


def updates(recipe: Recipe, stage: Stage, state: State) -> Updates:
    """Updates of a stack, in kernels as far as they go."""
    if obstacle(recipe) is None:
        size = sum(w[0].numel() for w in state.weights.values())
        return (SmallToys if size <= WRITTEN_OUT else LargeToys)(recipe, stage, state)
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
        "seeds": len(recipe.seeds) * cfg.n_features * (2 * cfg.d_hidden + 1) < MOST_NUMBERED,
    }
    return next((part for part, plain in fits.items() if not plain), None)


def rows_drawn(recipe: Recipe, device: torch.device) -> RowsAt | None:
    """`batches.at_steps` in one kernel, with torch's bits; None for rows that the kernel does not know."""
    n, exact, each = recipe.cfg.n_features, recipe.empty_rows == "exact", batches.tokens(recipe)
    data = [s.data for s in recipe.settings if type(s.data) is SparseUniform]
    alike = len(data) == len(recipe.seeds) and len({(one.low, one.high) for one in data}) == 1
    count, _ = batches.rows(recipe)
    if not alike or count * n >= MOST_NUMBERED or (exact and n > MOST_FEATURES):
        return None
    of_rows = _of_rows(recipe, device)
    N = _up(n) if exact else min(_up(n), 128)
    pairs = max(1024 // N, 1)
    down, across = triton.cdiv(_pairs(count), pairs), triton.cdiv(n, N)

    def draw(step: Int64[Tensor, ""]) -> Float[Tensor, "model batch feature"]:
        x = torch.empty(len(data), count, n, dtype=recipe.torch_dtype, device=device)
        streams, *rest = of_rows
        kernels.draw[len(data) * down * across,](
            x, streams, step, *rest, count, n, down, across, OCCUPIED=exact, PAIRS=pairs, N=N, enable_fp_fusion=False
        )
        return x

    def draw_tokens(step: Int64[Tensor, ""]) -> Float[Tensor, "model batch pos feature"]:
        return torch.stack([draw(step * each + position) for position in range(each)], dim=2)

    return draw_tokens if recipe.cfg.n_heads else draw


class PlainUpdates(Updates):
    """Updates of plain toys in kernels: a subclass finds `gradients`.

    These do not ask whether the next weights of a model are finite, for that is to be known of all of them before any
    is changed. They go on and tell at the end; then all steps since the state was loaded are made again, as others are.
    """

    def __init__(self, recipe: Recipe, stage: Stage, state: State) -> None:
        device = state.diverged_at.device
        super().__init__(recipe, stage, state, rows_drawn(recipe, device))
        self.shrinking = dict.fromkeys(self.training.trained, False)  # all of them, in the order of the line
        self.table = self.table.new_zeros(len(self.table), self.numbers(range(1)).shape[1])
        self.bad = torch.zeros(len(recipe.seeds), dtype=torch.int32, device=device)
        importance = [setting.importance for setting in recipe.settings]
        self.importance = torch.tensor(importance, dtype=torch.float32, device=device)
        self.rows, self.relu = batches.rows(recipe), recipe.cfg.output_act == "relu"
        self.usual: Updates | None = None
        self.found = self.training.line[None]
        """Gradients as they are found, in parts that are to be added; each is laid out as the line of weights."""

    @abstractmethod
    def gradients(self) -> None:
        """Put the gradients of a step into `found`, and move the row of the table on."""

    def update(self) -> None:
        """One update of every model that has not diverged."""
        self.gradients()
        w, line, (first, second) = self.training.trained, self.training.line, self.training.moments
        kernels.apply[triton.cdiv(len(line), BLOCK),](
            line, first, second, self.found, self.table, self.counters, self.training.diverged_at, self.bad,
            len(line), *w["W_E"].shape, len(self.found),
            RULE=kernels.rule(type(self.optimizer)), SCALARS=self.table.shape[1] - 2 * len(w),
            MATRICES=len(w) - ("b_U" in w), PARAMETERS=len(w), BLOCK=BLOCK,
        )  # fmt: skip

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


class SmallToys(PlainUpdates):
    """All but the rule of an update in one kernel: no batch is ever in the device's memory."""

    def __init__(self, recipe: Recipe, stage: Stage, state: State) -> None:
        super().__init__(recipe, stage, state)
        models, (rows, _), device = len(recipe.seeds), self.rows, self.step.device
        splits = max(min(triton.cdiv(_pairs(rows), PAIRS), 16 * _processors(device) // models), 1)
        self.found = self.training.line.new_empty(splits, len(self.training.line))
        self.of_rows = *_of_rows(recipe, device), self.importance

    def gradients(self) -> None:
        """As `PlainUpdates.gradients`."""
        w, (models, n, m), (rows, share) = self.training.trained, self.training.trained["W_E"].shape, self.rows
        splits, total = self.found.shape
        kernels.gradients[models, splits](
            w["W_E"], w.get("W_U", self.bad), w.get("b_U", self.bad), self.found, total, self.counters, *self.of_rows,
            self.training.diverged_at, self.bad, rows, share, splits, n=n, m=m, TIED="W_U" not in w,
            BIAS="b_U" in w, RELU=self.relu, OCCUPIED=self.recipe.empty_rows == "exact", PAIRS=PAIRS, num_warps=1,
        )  # fmt: skip

    def _repeated(self) -> Callable[[int], None]:
        def several() -> None:
            for _ in range(AT_ONCE):
                self.update()

        once, many = super()._repeated(), captured(several, self.step.device)

        def repeat(steps: int) -> None:
            for _ in range(steps // AT_ONCE):
                many()
            once(steps % AT_ONCE)

        return repeat


class LargeToys(PlainUpdates):
    """Products by torch, each of all models at once; all else of an update in kernels."""

    def __init__(self, recipe: Recipe, stage: Stage, state: State) -> None:
        super().__init__(recipe, stage, state)
        w = self.training.trained
        (models, n, m), (rows, _) = w["W_E"].shape, self.rows
        self.U = w.get("W_U", w["W_E"].mT)
        self.b = w.get("b_U", self.importance.new_zeros(self.importance.shape))
        few = models * triton.cdiv(n, 32) * triton.cdiv(m, 32) < 4 * _processors(self.step.device)
        self.parts = math.gcd(rows, 16) if few else 1
        """Parts of the rows whose sums are made side by side, where there are too few products to fill the device."""
        self.found = torch.empty_like(self.training.line)[None]
        self.places = self.training.views(self.found[0])

    def gradients(self) -> None:
        """As `PlainUpdates.gradients`."""
        self.row.add_(1)
        (rows, share), x = self.rows, self.draw(self.step)
        h = x @ self.training.trained["W_E"]
        d = torch.baddbmm(self.b[:, None], h, self.U)
        models, _, n = x.shape
        blocks = triton.cdiv(rows * n, BLOCK)
        kernels.errors[models * blocks,](
            d, x, self.importance, self.training.diverged_at, self.bad, rows * n, n, share / rows, blocks,
            RELU=self.relu, BLOCK=BLOCK,
        )  # fmt: skip
        into_E, into_U = self._over_rows(x, d @ self.U.mT), self._over_rows(h, d)
        if "W_U" in self.places:
            self.places["W_U"].copy_(into_U)
            self.places["W_E"].copy_(into_E)
        else:
            torch.add(into_E, into_U.mT, out=self.places["W_E"])
        if "b_U" in self.places:
            empty = self.b.relu() if self.relu else self.b
            torch.add(d.sum(1), 2 * (1 - share) * self.importance * empty, out=self.places["b_U"])

    def _over_rows(
        self, a: Float[Tensor, "model batch left"], b: Float[Tensor, "model batch right"]
    ) -> Float[Tensor, "model left right"]:
        """a^T b."""
        if self.parts == 1:
            return a.mT @ b
        a, b = (side.unflatten(1, (self.parts, -1)) for side in (a, b))
        return (a.mT @ b).sum(1)


def _of_rows(recipe: Recipe, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What kernels know of the rows of each model: streams, thresholds, where values begin and how far they go."""
    data = [setting.data for setting in recipe.settings if isinstance(setting.data, SparseUniform)]
    thresholds = torch.stack([each.thresholds for each in data]).to(device)
    interval = torch.tensor([data[0].low, data[0].high - data[0].low], dtype=torch.float64, device=device)
    return rng.streams(recipe.seeds, device), thresholds, interval


def _pairs(rows: int) -> int:
    """Pairs of rows in whole strips."""
    return -(-rows // STRIP) * STRIP // 2


def _up(size: int) -> int:
    return int(triton.next_power_of_2(size))


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 4  # of the interpreter
    return torch.cuda.get_device_properties(device).multi_processor_count
