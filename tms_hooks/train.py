"""`train`: from a recipe to a run, record by record."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.config import ToyConfig
from tms_hooks.data import Distribution
from tms_hooks.errors import choice_error
from tms_hooks.fused import engine as fused_engine
from tms_hooks.losses import Pair
from tms_hooks.models import forward
from tms_hooks.run import Run, provenance
from tms_hooks.training import torch_engine
from tms_hooks.training.checkpoint import Checkpoints
from tms_hooks.training.history import Recorder
from tms_hooks.training.optimizers import Adam, Optimizer
from tms_hooks.training.recipe import HELD_OUT_SEED, QK_KEYS, Dtype, HeadObjective, Loss, Recipe, Stage, mostly_empty
from tms_hooks.training.state import State

log = logging.getLogger(__name__)

HELD_OUT_ROWS = 2**16

EngineName = Literal["auto", "torch", "fused"]


def train(
    cfg: ToyConfig,
    data: Distribution,
    *,
    seeds: Iterable[int] = (0,),
    steps: int | Sequence[int] = 10_000,
    batch_size: int | None = None,
    optimizer: Optimizer | None = None,
    importance: float | Sequence[float] | Float[Tensor, " feature"] | None = None,
    loss: Loss = "mse",
    qk_pairs: Sequence[Pair] | Sequence[Sequence[Pair]] = (),
    qk_weight: float = 1.0,
    head_objective: HeadObjective = "scores",
    stages: Sequence[Stage] = ("joint",),
    record_every: int = 100,
    init: "Sequence[torch.nn.Module] | None" = None,
    engine: EngineName = "auto",
    device: str = "cpu",
    dtype: Dtype = "float32",
    empty_rows: Literal["auto", "drawn", "exact"] = "auto",
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 30.0,
    progress: bool | None = None,
) -> Run:
    """Train one toy model a seed, all at once; each is what it would be if trained alone.

    >>> from tms_hooks import OneHot
    >>> cfg = ToyConfig(n_features=3, d_hidden=2)
    >>> run = train(cfg, OneHot(n_features=3), seeds=range(4), steps=200, optimizer=Adam(lr=0.03))
    >>> run.W_E.shape, run.history.sizes["step"]
    (torch.Size([4, 3, 2]), 3)

    A seed decides a model's initial weights and its batches. Ctrl-C returns the run as of its last record;
    pressed twice, at once.

    Args:
        cfg: architecture of every model.
        data: distribution of the features.
        seeds: one a model.
        steps: updates; with several stages each has that many, or one number a stage.
        batch_size: samples a step. Default: the whole data set of a finite distribution, else 1,024.
        optimizer: `Adam(lr=1e-3)` by default; each stage runs its schedule anew.
        importance: weight of each feature's loss, finite and not negative; 1 by default.
        loss: "mse", or "cross_entropy" for a softmax output.
        qk_pairs: with heads, the (query feature, key feature) pairs that a head attends to: one list for all heads, or
            one list a head.
        qk_weight: lambda in `L1 + lambda L2`.
        head_objective: what L2 asks of heads: "scores", the squared error of its score for one query and one key token;
            "pattern", the cross-entropy of its attention, a softmax over eight key tokens, of which those that form
            attended pairs share it equally.
        stages: with heads, any of "representation" (all but the heads, on L1), "heads" (on L2), "joint", in turn.
        record_every: steps between two records of the history.
        init: initial models in place of each seed's own; the seeds then decide the batches only.
        engine: "torch" is the reference; "fused" is compiled and many times faster, on the CPU and for all but models
            with an MLP and batches drawn from `Copula`; "auto" picks it where it applies.
        device: where the torch engine computes, such as "cuda".
        dtype: "float32" or "float64".
        checkpoint: a folder to write checkpoints to, and to go on from if it holds some of this run: the result is, bit
            for bit, that of a run that was never stopped.
        checkpoint_every: least seconds between two checkpoints; they are written when the history is.
        empty_rows: with sparse data most rows of a batch are empty. "exact" draws only the others, `1 - P(empty)` times
            as many, and adds the empty rows' loss in closed form: the same expectation, a variance no larger. "drawn"
            draws all. "auto" is "exact" for `SparseUniform` data of which at least half the rows are empty.
        progress: show a progress bar; by default if standard error is a terminal.

    Raises:
        ValueError: a setting out of range, two that clash, or a checkpoint of other settings; the message names value,
            rule and fix.
    """
    recipe = make_recipe(
        cfg,
        data,
        seeds=seeds,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        importance=importance,
        loss=loss,
        qk_pairs=qk_pairs,
        qk_weight=qk_weight,
        head_objective=head_objective,
        stages=stages,
        record_every=record_every,
        dtype=dtype,
        empty_rows=empty_rows,
    )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}: torch sees no CUDA device here; use device='cpu'")
    chosen = choose_engine(engine, recipe, device)
    state = State.initial(recipe, None if init is None else _stack(recipe, init), device)
    saved = None if checkpoint is None else Checkpoints(checkpoint, recipe, chosen, state, checkpoint_every)
    return _run(recipe, state, chosen, saved, sys.stderr.isatty() if progress is None else progress)


def make_recipe(
    cfg: ToyConfig,
    data: Distribution,
    *,
    seeds: Iterable[int],
    steps: int | Sequence[int],
    optimizer: Optimizer | None,
    importance: float | Sequence[float] | Float[Tensor, " feature"] | None,
    qk_pairs: Sequence[Pair] | Sequence[Sequence[Pair]],
    stages: Sequence[Stage],
    empty_rows: Literal["auto", "drawn", "exact"],
    **same: Any,
) -> Recipe:
    """What `train` would compute with these arguments, validated; nothing is trained."""
    return Recipe(
        cfg=cfg,
        data=data,
        seeds=tuple(int(seed) for seed in seeds),
        steps=tuple(steps) if isinstance(steps, Sequence) else (steps,) * len(stages),
        stages=tuple(stages),
        optimizer=optimizer or Adam(),
        importance=_one_a_feature(importance, cfg.n_features),
        qk_pairs=_one_list_a_head(qk_pairs, cfg.n_heads),
        empty_rows=empty_rows if empty_rows != "auto" else "exact" if mostly_empty(data, cfg) else "drawn",
        **same,
    )


def choose_engine(name: EngineName, recipe: Recipe, device: str) -> Literal["torch", "fused"]:
    """The engine to use. The choice never depends on how many models there are."""
    if name not in get_args(EngineName):
        raise choice_error("engine", name, get_args(EngineName))
    if name == "torch":
        return "torch"
    reason = fused_engine.obstacle(recipe, device)
    if reason is None:
        return "fused"
    if name == "fused":
        raise ValueError(f"engine='fused' cannot run this: {reason}; use engine='auto' or engine='torch'")
    log.info("training with the torch engine: the fused one cannot run %s", reason)
    return "torch"


def _run(
    recipe: Recipe, state: State, engine: Literal["torch", "fused"], saved: Checkpoints | None, progress: bool
) -> Run:
    """Advance from record to record, then evaluate."""
    advance, evaluate = {
        "torch": (torch_engine.advance, torch_engine.evaluate),
        "fused": (fused_engine.advance, fused_engine.evaluate),
    }[engine]
    began = time.perf_counter()
    recorder = Recorder(recipe)
    marks = recipe.record_steps()
    done = saved.resume(state, recorder) if saved else 0
    recorded = (marks[min(done, len(marks) - 1)], state.copy()) if done else None
    try:
        with _bar(recipe, progress) as move, _interrupts() as interrupted:
            for start, stop in list(zip(marks, [*marks[1:], marks[-1]], strict=True))[done:]:
                before = state.copy()
                measured = advance(recipe, state, start, stop)
                recorder.add(start, before, measured)
                recorded = start, before
                if saved:
                    saved.save(state, recorder, last=start == marks[-1])
                move(stop)
                if interrupted():
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if recorded is None:
            raise
        completed, state = recorded
        log.warning("interrupted: returning the run as of step %d of %d", completed, recipe.total_steps)
    else:
        completed = recipe.total_steps
    stopped = {recipe.seeds[i]: int(step) for i, step in enumerate(state.diverged_at.tolist()) if step >= 0}
    for seed, step in stopped.items():
        log.warning("the model of seed %d stopped at step %d: its loss or next weights were not finite", seed, step)
    weights = {name: w.detach().cpu() for name, w in forward.normalize_weights(state.weights, recipe.cfg).items()}
    feature_loss, head_loss = evaluate(recipe, weights, held_out(recipe))
    return Run(
        recipe=recipe,
        weights=weights,
        history=recorder.dataset(completed),
        final_feature_loss=feature_loss,
        final_head_loss=head_loss,
        diverged=stopped,
        completed_steps=completed,
        provenance=provenance(engine, str(state.diverged_at.device), time.perf_counter() - began),
    )


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, asked between records: raised anywhere, a thread pool can lose it. Twice raises."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals go to the main thread
        return
    pressed: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def held_out(recipe: Recipe) -> Float[Tensor, "batch *pos feature"]:
    """What all models are evaluated on: 65,536 rows or keys that no batch shares, or the data set they trained on."""
    x = recipe.whole_dataset("cpu")
    if x is None:
        rows = HELD_OUT_ROWS if recipe.head_objective == "scores" else HELD_OUT_ROWS // QK_KEYS
        x = replace(recipe, batch_size=rows, empty_rows="drawn").batch((HELD_OUT_SEED,), 0, "cpu")[0]
    return x


def _one_a_feature(importance: float | Sequence[float] | Tensor | None, n_features: int) -> tuple[float, ...]:
    if importance is None:
        return (1.0,) * n_features
    if isinstance(importance, int | float):
        return (float(importance),) * n_features
    return tuple(float(value) for value in importance)


def _one_list_a_head(pairs: Sequence[Any], n_heads: int) -> tuple[tuple[Pair, ...], ...]:
    """Pairs as given for all heads, or for each, as one list a head."""
    if pairs and len(pairs[0]) and not isinstance(pairs[0][0], Sequence):
        pairs = [pairs] * max(n_heads, 1)
    return tuple(tuple((int(i), int(j)) for i, j in head) for head in pairs)


def _stack(recipe: Recipe, models: Sequence[torch.nn.Module]) -> dict[str, Tensor]:
    if len(models) != len(recipe.seeds):
        raise ValueError(f"init has {len(models)} models for {len(recipe.seeds)} seeds: give one a seed")
    shapes = forward.weight_shapes(recipe.cfg)
    for model in models:
        found = {name: tuple(w.shape) for name, w in model.state_dict().items()}
        if found != shapes:
            raise ValueError(f"an init model has weights {found}, the config asks for {shapes}")
    return {name: torch.stack([model.state_dict()[name] for model in models]) for name in shapes}


@contextmanager
def _bar(recipe: Recipe, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar with a rate and an end time, moved by giving the step that was reached."""
    if not show:
        yield lambda step: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    models, began = len(recipe.seeds), time.perf_counter()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"training {models:,} model{'s' * (models > 1)}", total=recipe.total_steps, rate="")

        def move(step: int) -> None:
            rate = models * step / max(time.perf_counter() - began, 1e-9)
            bar.update(task, completed=step, rate=f"{rate:,.0f} model steps/s")

        yield move
