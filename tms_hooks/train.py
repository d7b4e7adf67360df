"""`train`: from a recipe to a run, record by record.

A recipe says what is to be computed; an engine, reference or compiled, advances the models from one recorded step to
the next; between two records the history grows, a checkpoint is written if it is due, and training ends after Ctrl-C.
"""

import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from tms_hooks.config import ToyConfig
from tms_hooks.data import Distribution
from tms_hooks.errors import choice_error
from tms_hooks.losses import Pair
from tms_hooks.progress import Pace, bar, interrupts
from tms_hooks.run import Run, provenance
from tms_hooks.tasks import Task
from tms_hooks.training import torch_engine
from tms_hooks.training.batches import held_out
from tms_hooks.training.checkpoint import Checkpoints
from tms_hooks.training.history import Recorder
from tms_hooks.training.optimizers import Optimizer
from tms_hooks.training.recipe import Dtype, HeadObjective, Loss, Recipe, Stage
from tms_hooks.training.state import Engine, Init, State

log = logging.getLogger(__name__)

IMPORTED_BY = os.getpid()
"""Another process than this one in one that was forked since."""
EngineName = Literal["auto", "fused", "torch"]


def train(
    cfg: ToyConfig,
    data: Distribution,
    *,
    seeds: Iterable[int] = (0,),
    steps: int | Sequence[int] = 10_000,
    batch_size: int | None = None,
    task: Task | None = None,
    optimizer: Optimizer | None = None,
    importance: float | Sequence[float] | Float[Tensor, " feature"] | None = None,
    loss: Loss = "mse",
    qk_pairs: Sequence[Pair] | Sequence[Sequence[Pair]] = (),
    qk_weight: float = 1.0,
    head_objective: HeadObjective = "scores",
    stages: Sequence[Stage] = ("joint",),
    record_every: int = 100,
    init: Sequence[Init] | None = None,
    engine: EngineName = "auto",
    device: str = "cpu",
    dtype: Dtype = "float32",
    empty_rows: Literal["auto", "drawn", "exact"] = "auto",
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 30.0,
    progress: bool | None = None,
) -> Run:
    """Train one toy model per seed, all at once; each is what it would be if trained alone.

    >>> from tms_hooks import Adam, OneHot
    >>> cfg = ToyConfig(n_features=3, d_hidden=2)
    >>> run = train(cfg, OneHot(n_features=3), seeds=range(4), steps=200, optimizer=Adam(lr=0.03))
    >>> run.W_E.shape, run.history.sizes["step"]
    (torch.Size([4, 3, 2]), 3)

    A seed decides a model's initial weights and its batches. Ctrl-C returns the run as of its last record.

    Args:
        cfg: architecture of every model.
        data: distribution of the features.
        seeds: one per model.
        steps: updates; with several stages each has that many, or one number per stage.
        batch_size: samples per step. Default: the whole data set of a finite distribution, else 1,024.
        task: what the output is to be: the input (`Reconstruct()`), or what a `Task` of your own asks for.
        optimizer: `Adam(lr=1e-3)` by default; each stage runs its schedule anew.
        importance: weight of each feature's loss, finite and not negative; 1 by default.
        loss: "mse", or "cross_entropy" for a softmax output.
        qk_pairs: with heads, the (query feature, key feature) pairs that a head attends to: one list for all heads, or
            one list per head.
        qk_weight: lambda in `L1 + lambda L2`.
        head_objective: what L2 asks of a head. "scores": a small squared error of its score for one query and one key.
            "pattern": a small cross-entropy of its attention, a softmax over eight key tokens, of which those that form
            attended pairs are to share it equally.
        stages: with heads, any of "representation" (all but the heads, on L1), "heads" (on L2), "joint", in turn.
        record_every: steps between two records of the history.
        init: initial models, or their weights, in place of each seed's own; the seeds then decide the batches only.
        engine: "torch" is the reference; "fused" is compiled and many times faster, on the CPU and for all but models
            with an MLP, tasks of your own, and batches drawn from `Copula`; "auto" picks it where it applies.
        device: where the torch engine computes, such as "cuda".
        dtype: "float32" or "float64".
        empty_rows: with sparse data most rows of a batch are empty. "exact" draws only the others, `1 - P(empty)` times
            as many, and adds the empty rows' loss in closed form: the same expectation, a variance no larger. "drawn"
            draws all. "auto" is "exact" without heads on `SparseUniform` data of which half the rows or more are empty.
        checkpoint: a folder to write checkpoints to, and to go on from if it holds some of this run: the result is, bit
            for bit, that of a run that was never stopped.
        checkpoint_every: least seconds between two checkpoints; they are written when the history is.
        progress: show a progress bar; by default if standard error is a terminal.

    Raises:
        ValueError: a setting out of range, two that clash, or a checkpoint of other settings; the message names value,
            rule and fix.
    """
    _end_threads_after_a_fork()
    given = locals()  # all arguments: those that a recipe has are handed on as they are
    recipe = Recipe.of(**{field.name: given[field.name] for field in fields(Recipe)})
    name, module = choose_engine(engine, recipe, device)
    state = State.initial(recipe, init, device)
    saved = None if checkpoint is None else Checkpoints(checkpoint, recipe, name, state, checkpoint_every)
    began = time.perf_counter()
    show = sys.stderr.isatty() if progress is None else progress
    with saved.held() if saved else nullcontext():
        completed, end, history = _advance(recipe, state, module, saved, show)
    diverged = {recipe.seeds[i]: step for i, step in enumerate(end.diverged_at.tolist()) if step >= 0}
    for seed, step in diverged.items():
        log.warning("the model of seed %d stopped at step %d: its loss or next weights were not finite", seed, step)
    weights = {name: w.cpu() for name, w in end.weights.items()}
    feature_loss, head_loss = module.evaluate(recipe, weights, held_out(recipe))
    return Run(
        recipe=recipe,
        weights=weights,
        history=history,
        final_feature_loss=feature_loss,
        final_head_loss=head_loss,
        diverged=diverged,
        completed_steps=completed,
        provenance=provenance(name, str(state.diverged_at.device), time.perf_counter() - began),
    )


def _end_threads_after_a_fork() -> None:
    """Compute in one thread in a forked process: torch's other threads were not copied, and it would wait for them."""
    if os.getpid() != IMPORTED_BY and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def choose_engine(wanted: EngineName, recipe: Recipe, device: str) -> tuple[str, Engine]:
    """Name and module of the engine to use. The choice never depends on how many models there are.

    Raises:
        ValueError: an unknown engine, or one that cannot train this.
    """
    if wanted not in get_args(EngineName):
        raise choice_error("engine", wanted, get_args(EngineName))
    reason: str | None = None
    for name in ("fused", "torch") if wanted == "auto" else (wanted,):
        try:
            engine = _engine(name)
            reason = engine.obstacle(recipe, device)
        except ImportError as error:
            reason = f"anything: it is not installed ({error}); pip install 'tms-hooks[fast]'"
        if reason is None:
            return name, engine
        log.info("the %s engine cannot run %s", name, reason)
    raise ValueError(f"engine={wanted!r} cannot run this: {reason}" + "; use engine='auto'" * (wanted == "fused"))


def _engine(name: str) -> Engine:
    if name == "torch":
        return torch_engine
    from tms_hooks.fused import engine  # an annex: it may be missing

    return engine


def _advance(
    recipe: Recipe, state: State, engine: Engine, saved: Checkpoints | None, show: bool
) -> tuple[int, State, xr.Dataset]:
    """Advance from record to record; return the last recorded step, the models at it, and the history up to it."""
    recorder, marks, pace = Recorder(recipe), recipe.record_steps(), Pace()
    done = saved.resume(state, recorder) if saved else 0
    reached = (marks[min(done, len(marks) - 1)], state.snapshot(recipe.cfg)) if done else None
    try:
        with bar(len(recipe.seeds), recipe.total_steps, show) as move, interrupts() as interrupted:
            for start, stop in list(zip(marks, [*marks[1:], marks[-1]], strict=True))[done:]:
                before = state.snapshot(recipe.cfg)
                for step, end in pace.cut(start, stop):
                    measured = engine.advance(recipe, state, step, end)
                    if step == start:
                        recorder.add(start, before, measured)
                        reached = start, before
                    if end < stop and interrupted():
                        raise KeyboardInterrupt
                if saved:
                    saved.save(state, recorder, last=start == marks[-1])
                move(stop)
                if interrupted():
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if reached is None:
            raise
        log.warning("interrupted: returning the run as of step %d of %d", reached[0], recipe.total_steps)
    assert reached is not None  # the last step is always recorded
    return *reached, recorder.dataset(reached[0])
