"""The fast engine: whole training steps in compiled code, each model in cache, models shared out over threads.

It draws the batches of `torch_engine` from the same stream of random bits, differentiates by hand, and updates with the
same rounded operations; only the order of the sums over a batch differs. It needs numba, the extra "fast".
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.data import Distribution, SparseUniform
from tms_hooks.fused import kernels
from tms_hooks.fused.codes import ACTIVATIONS
from tms_hooks.models.forward import W_K, W_Q, Weights
from tms_hooks.tasks import Reconstruct
from tms_hooks.training import batches
from tms_hooks.training.optimizers import Optimizer
from tms_hooks.training.recipe import Recipe, Stage
from tms_hooks.training.state import Measurement, State
from tms_hooks.training.torch_engine import measurement, trained_names

ORDER = ("W_E", "W_U", "b_U", "b_hidden", "scale", W_Q, W_K)
TRANSPOSED = ("W_U", W_Q, W_K)

WORTH_THREADS = 1_000_000
"""Entries of drawn data, about a millisecond of work, below which starting threads takes longer than they save."""


def obstacle(recipe: Recipe, device: str = "cpu") -> str | None:
    """Why this engine cannot run a recipe, or None if it can."""
    cfg = recipe.cfg
    if device != "cpu":
        return f"device={device!r}: it runs on the CPU only"
    if type(recipe.task) is not Reconstruct:
        return f"task={recipe.task}"
    if cfg.n_outputs != cfg.n_features:
        return f"d_out={cfg.d_out}: its outputs are the features"
    if cfg.d_mlp is not None:
        return f"d_mlp={cfg.d_mlp}: it has no MLP"
    if batches.whole_dataset(recipe) is None and type(recipe.data) not in (SparseUniform, *kernels.DRAWN):
        return f"batches drawn from {type(recipe.data).__name__}"
    if type(recipe.optimizer) not in kernels.UPDATED:
        return f"updates by {type(recipe.optimizer).__name__}, which OPTIMIZERS did not hold when it was first used"
    return None


def advance(recipe: Recipe, state: State, start: int, stop: int) -> Measurement:
    """Run updates `start` to `stop - 1` in place, within one stage, and measure on the batch of step `start`.

    With `start == stop` it only measures.
    """
    stage, count, _ = recipe.stage_at(start)
    if count == 0:
        state.moments = {}
    ordered = _ordered(state.weights)
    weights = _pack(ordered, ordered)
    moments = [_pack(state.moments, ordered, prefix) for prefix in ("first.", "second.")]
    diverged_at = state.diverged_at.numpy().copy()
    seeds = np.array(recipe.seeds)
    loss, head_loss, gradient = _run(
        recipe, seeds, weights, moments, diverged_at, start, stop, batches.whole_dataset(recipe)
    )
    trained = trained_names(ordered, stage)
    if stop > start:
        for prefix, flat in zip(("first.", "second."), moments, strict=True):
            unpacked = _unpack(flat, ordered)
            state.moments |= {prefix + name: unpacked[name] for name in trained}
        state.weights |= _unpack(weights, ordered)
        state.diverged_at = torch.from_numpy(diverged_at)
    gradients = {name: g for name, g in _unpack(gradient, ordered).items() if name in trained}
    return measurement(recipe, (torch.from_numpy(loss), torch.from_numpy(head_loss)), gradients)


def evaluate(
    recipe: Recipe, weights: Weights, x: Float[Tensor, "batch *pos feature"]
) -> tuple[Float[Tensor, "model feature"], Float[Tensor, "model head"]]:
    """Losses of stacked models, all on the same batch."""
    ordered = _ordered(weights)
    flat = _pack(ordered, ordered)
    none_yet = np.full(len(flat), -1)
    loss, head_loss, _ = _run(recipe, none_yet, flat, [flat, flat], none_yet, 0, 0, x)
    return torch.from_numpy(loss), torch.from_numpy(head_loss)


def _run(
    recipe: Recipe,
    seeds: np.ndarray,
    weights: np.ndarray,
    moments: Sequence[np.ndarray],
    diverged_at: np.ndarray,
    start: int,
    stop: int,
    dataset: Tensor | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Call the kernel, which changes the arrays in place; losses (model, feature), (model, head), gradients at `start`.

    Rows are those of the data; with heads a row is a query token, then its key tokens, feature by feature.
    """
    cfg, dtype = recipe.cfg, weights.dtype
    stage, count, steps = recipe.stage_at(start)
    toy = kernels.Toy(
        n=cfg.n_features,
        m=cfg.d_hidden,
        tied=cfg.tied,
        biased=cfg.output_bias,
        hidden_biased=cfg.hidden_bias,
        scaled=bool(cfg.unit_norm),
        units=cfg.n_heads * (cfg.d_head or 0),
        act=ACTIVATIONS[cfg.output_act],
    )
    batch, drawn = _batch(recipe, dataset, dtype), _loop(recipe.data) if dataset is None else None
    scalars = _scalars(recipe.optimizer, np.arange(count, count + max(stop - start, 1)), steps).astype(dtype)
    optimizer = kernels.UPDATED.index(type(recipe.optimizer))
    end = weights.shape[1]
    heads = end - 2 * toy.units * toy.m  # the parameters of the heads are the last
    first, last = heads if stage == "heads" else 0, heads if stage == "representation" else end
    updates = kernels.Updates(start, stop, optimizer, scalars, first, last)
    general = _general(recipe, stage, batch.rows, dtype)
    loss, gradient = np.empty((len(weights), cfg.n_features), dtype), np.empty_like(weights)
    head_loss = np.empty((len(weights), cfg.n_heads), dtype)

    def work(part: slice) -> None:
        own = (array[part] for array in (weights, *moments, diverged_at, seeds))
        kernels.advance(*own, toy, batch, drawn, updates, general, loss[part], head_loss[part], gradient[part])

    _share_out(work, len(weights), entries=len(weights) * max(stop - start, 1) * batch.rows * cfg.n_features)
    return loss, head_loss, gradient


def _loop(data: Distribution) -> kernels.Drawn | None:
    """Which loop draws the batches; None for `SparseUniform`, which has vectors of its own."""
    if isinstance(data, SparseUniform):
        return None
    return kernels.Drawn(kernels.DRAWN.index(type(data)), np.array(data.numbers, np.float64))


def _batch(recipe: Recipe, dataset: Tensor | None, dtype: np.dtype) -> kernels.Batch:
    """What the kernel must know of its batches: drawn ones, or a whole data set."""
    rows, share = batches.rows(recipe) if dataset is None else (len(dataset), 1.0)
    importance, thresholds = np.array(recipe.importance), np.ones((2, recipe.cfg.n_features))
    if isinstance(recipe.data, SparseUniform):
        thresholds = recipe.data.thresholds.numpy()
    return kernels.Batch(
        rows=rows,
        weight=(importance * share / (rows * batches.tokens(recipe))).astype(dtype),
        empty_weight=(importance * (1 - share)).astype(dtype),
        whole=dataset is not None,
        dataset=np.empty((0, 0), dtype) if dataset is None else dataset.flatten(1).T.contiguous().numpy(),
        largest=(thresholds - 1).astype(np.uint32),
        scale=(1 / thresholds).astype(dtype),
        occupied=dataset is None and recipe.empty_rows == "exact",
    )


def _general(recipe: Recipe, stage: Stage, rows: int, dtype: np.dtype) -> kernels.General | None:
    """What the kernel must know of a toy that is more than a plain one; None for a plain one."""
    cfg = recipe.cfg
    if not (
        cfg.n_heads or cfg.hidden_bias or cfg.unit_norm or cfg.hidden_act != "identity" or cfg.output_act == "softmax"
    ):
        return None
    pairs = [(head, *pair) for head, pairs in enumerate(recipe.qk_pairs) for pair in pairs]
    weight = {"joint": recipe.qk_weight, "heads": 1.0, "representation": 0.0}[stage]
    return kernels.General(
        positions=batches.tokens(recipe),
        hidden_act=ACTIVATIONS[cfg.hidden_act],
        cross_entropy=recipe.loss == "cross_entropy",
        unit_write=cfg.unit_norm in (True, "write"),
        unit_read=cfg.unit_norm in (True, "read"),
        pairs=np.array(pairs, np.int64).reshape(-1, 3),
        loss_weight=dtype.type(1 / rows),
        objective_weight=dtype.type(weight / rows),
        attention=recipe.head_objective == "pattern",
        reconstructs=stage != "heads",
        attends=stage != "representation" and cfg.n_heads > 0,
    )


def _share_out(work: Callable[[slice], None], models: int, entries: int) -> None:
    """Call `work` on slices of the models, on as many threads as numba may use if there are enough entries of data.

    The kernel lets go of Python's global lock, so plain threads do: unlike numba's own pool they may be entered from
    several threads at once, survive a fork, and cost nothing when there is one model.
    """
    parts = min(numba.get_num_threads(), models)
    if parts == 1 or entries < WORTH_THREADS:
        return work(slice(None))
    # A few slices per thread, so that a thread that was held up leaves its share to the others.
    edges = np.linspace(0, models, min(4 * parts, models) + 1).astype(int)
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(work, (slice(a, b) for a, b in pairwise(edges))))
    return None


def _scalars(optimizer: Optimizer, counts: np.ndarray, steps: int) -> np.ndarray:
    """The scalars of the optimizer's rule, a row per update, in double precision."""
    varies = optimizer.schedule != "constant" or optimizer.warmup
    lr = np.array([optimizer.learning_rate(count, steps) for count in counts.tolist()]) if varies else optimizer.lr
    row = optimizer.scalars(counts, lr)
    return np.stack(np.broadcast_arrays(counts, *row)[1:], axis=1)


def _ordered(weights: Weights) -> dict[str, Tensor]:
    """Weights in the kernel's order: the representation, then the heads, so that what a stage trains lies together."""
    return {name: weights[name] for name in ORDER if name in weights}


def _pack(tensors: Weights, like: Weights, prefix: str = "") -> np.ndarray:
    """All parameters of a model in one row, or their moments, with the hidden axis last; 0 where there are none yet."""
    parts = []
    for name, w in like.items():
        part = tensors.get(prefix + name, torch.zeros_like(w))
        parts.append((part.mT if name in TRANSPOSED else part).reshape(len(w), -1))
    return torch.cat(parts, dim=1).numpy()


def _unpack(flat: np.ndarray, like: Weights) -> dict[str, Tensor]:
    """Inverse of `_pack`; of a single model they are views."""
    parts = torch.from_numpy(flat).split([w[0].numel() for w in like.values()], dim=1)
    return {
        name: (part.reshape(w.mT.shape).mT if name in TRANSPOSED else part.reshape(w.shape)).contiguous()
        for part, (name, w) in zip(parts, like.items(), strict=True)
    }
