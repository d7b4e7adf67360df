"""The fast engine: whole training steps in compiled code, each model in cache, models shared out over threads.

It draws the batches of `torch_engine` from the same stream of random bits, differentiates by hand, and updates with the
same rounded operations; only the order of the sums over a batch differs.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.data import SparseUniform
from tms_hooks.models.forward import Weights
from tms_hooks.training.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from tms_hooks.training.recipe import Recipe
from tms_hooks.training.state import Measurement, State

ACTIVATIONS = {"identity": 0, "relu": 1, "gelu": 2}


def obstacle(recipe: Recipe, device: str = "cpu") -> str | None:
    """Why this engine cannot run a recipe, or None if it can."""
    cfg = recipe.cfg
    if device != "cpu":
        return f"device={device!r}: it runs on the CPU only"
    for name, value, supported in (
        ("loss", recipe.loss, ("mse",)),
        ("hidden_act", cfg.hidden_act, ("identity",)),
        ("output_act", cfg.output_act, tuple(ACTIVATIONS)),
        ("hidden_bias", cfg.hidden_bias, (False,)),
        ("unit_norm", cfg.unit_norm, (False,)),
        ("d_mlp", cfg.d_mlp, (None,)),
        ("n_heads", cfg.n_heads, (0,)),
    ):
        if value not in supported:
            return f"{name}={value!r}"
    if recipe.whole_dataset("cpu") is None and type(recipe.data) is not SparseUniform:
        return f"batches drawn from {type(recipe.data).__name__}"
    try:
        import numba  # noqa: F401
    except ImportError:
        return "anything without numba; pip install 'tms-hooks[fast]'"
    return None


def advance(recipe: Recipe, state: State, start: int, stop: int) -> Measurement:
    """Run updates `start` to `stop - 1` in place, within one stage, and measure on the batch of step `start`.

    With `start == stop` it only measures.
    """
    if recipe.stage_at(start)[1] == 0:
        state.moments = {}
    zeros = {name: torch.zeros_like(w) for name, w in state.weights.items()}
    weights, *moments = (
        _pack({name: source.get(prefix + name, zero) for name, zero in zeros.items()})
        for source, prefix in ((state.weights, ""), (state.moments, "first."), (state.moments, "second."))
    )
    diverged_at = state.diverged_at.numpy().copy()
    seeds = np.array(recipe.seeds)
    loss, gradient = _run(recipe, seeds, weights, moments, diverged_at, start, stop, recipe.whole_dataset("cpu"))
    if stop > start:
        for prefix, flat in zip(("first.", "second."), moments, strict=True):
            state.moments |= {prefix + name: m for name, m in _unpack(flat, state.weights).items()}
        state.weights |= _unpack(weights, state.weights)
        state.diverged_at = torch.from_numpy(diverged_at)
    gradients = _unpack(gradient, state.weights)
    square = gradients["W_E"].square().sum(-1)
    if "W_U" in gradients:
        square = square + gradients["W_U"].square().sum(-2)
    return Measurement(torch.from_numpy(loss), square.sqrt(), square.new_zeros(len(loss), 0))


def evaluate(
    recipe: Recipe, weights: Weights, x: Float[Tensor, "batch feature"]
) -> tuple[Float[Tensor, "model feature"], Float[Tensor, "model head"]]:
    """Losses of stacked models, all on the same batch."""
    flat = _pack(weights)
    none_yet = np.full(len(flat), -1)
    loss, _ = _run(recipe, none_yet, flat, [flat, flat], none_yet, 0, 0, x)
    return torch.from_numpy(loss), torch.zeros(len(loss), 0, dtype=x.dtype)


def _run(
    recipe: Recipe,
    seeds: np.ndarray,
    weights: np.ndarray,
    moments: Sequence[np.ndarray],
    diverged_at: np.ndarray,
    start: int,
    stop: int,
    dataset: Tensor | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Call the kernel, which changes the arrays in place; losses (model, feature) and flat gradients at `start`."""
    from tms_hooks.training import kernels

    cfg, dtype = recipe.cfg, weights.dtype
    _, count, steps = recipe.stage_at(start)
    constants = _constants(recipe.optimizer, np.arange(count, count + max(stop - start, 1)), steps)
    rows, share = recipe.rows() if dataset is None else (len(dataset), 1.0)
    importance = np.array(recipe.importance)
    thresholds = np.ones((1, cfg.n_features))
    if dataset is None:
        assert isinstance(recipe.data, SparseUniform)  # `obstacle` sees to it
        thresholds = recipe.data.thresholds.numpy()[0 if recipe.empty_rows == "exact" else 1 :]
    loss, gradient = np.empty((len(weights), cfg.n_features), dtype), np.empty_like(weights)
    settings = (
        cfg.n_features,
        cfg.d_hidden,
        cfg.tied,
        cfg.output_bias,
        ACTIVATIONS[cfg.output_act],
        start,
        stop,
        _kind(recipe.optimizer),
        constants.astype(dtype),
        (importance * share / rows).astype(dtype),
        (importance * (1 - share)).astype(dtype),
        rows,
        np.empty((cfg.n_features, 0), dtype) if dataset is None else dataset.T.contiguous().numpy(),
        (thresholds - 1).astype(np.uint32),
        (1 / thresholds).astype(dtype),
    )

    def work(part: slice) -> None:
        own = (array[part] for array in (weights, *moments, diverged_at, seeds))
        kernels.advance(*own, *settings, loss[part], gradient[part])

    _share_out(work, len(weights))
    return loss, gradient


def _share_out(work: Callable[[slice], None], models: int) -> None:
    """Call `work` on slices of the models, on as many threads as numba may use.

    The kernel lets go of Python's global lock, so plain threads do: unlike numba's own pool they may be entered from
    several threads at once, survive a fork, and cost nothing when there is one model.
    """
    import numba

    parts = min(numba.get_num_threads(), models)
    if parts == 1:
        return work(slice(None))
    # A few slices a thread, so that a thread that was held up leaves its share to the others.
    edges = np.linspace(0, models, min(4 * parts, models) + 1).astype(int)
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(work, (slice(a, b) for a, b in pairwise(edges))))
    return None


def _constants(optimizer: Optimizer, counts: np.ndarray, steps: int) -> np.ndarray:
    """The scalars of these updates, a row each, in double precision, as `torch_engine.update` makes them."""
    varies = optimizer.schedule != "constant" or optimizer.warmup
    lr = np.array([optimizer.learning_rate(count, steps) for count in counts.tolist()]) if varies else optimizer.lr
    row: tuple[Any, ...]
    match optimizer:
        case Adam():  # and AdamW
            beta1, beta2 = optimizer.betas
            decay = 1 - lr * optimizer.weight_decay if isinstance(optimizer, AdamW) else 1.0
            correction, rate = (1 - beta2 ** (counts + 1)) ** 0.5, lr / (1 - beta1 ** (counts + 1))
            row = (decay, beta1, 1 - beta1, beta2, 1 - beta2, correction, optimizer.eps, rate)
        case SGD():
            row = (1.0, optimizer.momentum, 1.0, 0.0, 0.0, 1.0, 0.0, lr)
        case RMSprop():
            row = (1.0, 0.0, 0.0, optimizer.alpha, 1 - optimizer.alpha, 1.0, optimizer.eps, lr)
        case _:
            raise TypeError(f"{type(optimizer).__name__} is not an optimizer this engine knows")
    table = np.empty((len(counts), len(row)))
    for column, value in enumerate(row):
        table[:, column] = value
    return table


def _kind(optimizer: Optimizer) -> int:
    return 2 if isinstance(optimizer, Adam) else 0 if isinstance(optimizer, SGD) else 1


def _pack(weights: Weights) -> np.ndarray:
    """All parameters of a model in one row, `W_U` transposed so that a feature's direction lies together."""
    flat = [(w.mT if name == "W_U" else w).flatten(1) for name, w in weights.items()]
    return torch.cat(flat, dim=1).numpy()


def _unpack(flat: np.ndarray, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `_pack`."""
    ends = list(accumulate(w[0].numel() for w in like.values()))
    out = {}
    for (name, w), end in zip(like.items(), ends, strict=True):
        part = torch.from_numpy(flat[:, end - w[0].numel() : end])
        out[name] = (part.reshape(w.mT.shape).mT if name == "W_U" else part.reshape(w.shape)).contiguous()
    return out
