"""`train`: from a recipe to a run, record by record.

A recipe says what is to be computed; an engine, reference or compiled, advances the models from one recorded step to
the next; between two records the history grows, a checkpoint is written if it is due, and training ends after Ctrl-C.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from tms_hooks import losses
from tms_hooks.config import ToyConfig
from tms_hooks.data import Distribution, SparseUniform
from tms_hooks.errors import check_at_least_one, check_whole, choice_error, explained, plain, say_once
from tms_hooks.losses import Pairs
from tms_hooks.progress import Pace, bar, interrupts
from tms_hooks.run import INTERRUPTED, Models, Run, assemble, provenance
from tms_hooks.tasks import Task
from tms_hooks.training import torch_engine
from tms_hooks.training.batches import HELD_OUT_ENTRIES, judges
from tms_hooks.training.checkpoint import Checkpoints, newest, reached, records
from tms_hooks.training.history import Recorder
from tms_hooks.training.optimizers import Adam, Optimizer
from tms_hooks.training.penalties import PenaltyLike
from tms_hooks.training.recipe import Dtype, HeadObjective, LossName, Recipe, Stage
from tms_hooks.training.state import Engine, Init, Losses, State

log = logging.getLogger(__name__)

IMPORTED_BY = os.getpid()
"""Another process than this one in one that was forked since."""
EngineName = Literal["auto", "fused", "torch"]
HASTY_PRODUCTS = 2**29
"""Entries of held-out rows, times models, times the width of what reads them, after Ctrl-C: a fraction of a second."""
ELSEWHERE = {
    field.name: place.format(field.name)
    for part, place in (
        (Adam, "optimizer=tms.Adam({}=...)"),
        (SparseUniform, "data=tms.SparseUniform(n_features, {}=...)"),
        (ToyConfig, "cfg=tms.ToyConfig(n_features, d_hidden, {}=...)"),
    )
    for field in fields(part)
} | {
    "learning_rate": "optimizer=tms.Adam(lr=...)",
    "weight_decay": "optimizer=tms.AdamW(decay=...)",
    "epochs": "steps=...",
    "p": "data=tms.SparseUniform(n_features, feature_probability=...)",
    "sparsity": "data=tms.SparseUniform(n_features, feature_probability=1 - sparsity)",
}
"""What people look for among the arguments of `train`, and where it is."""


@explained(**ELSEWHERE)
def train(
    cfg: ToyConfig,
    data: Distribution | Sequence[Distribution] | Any,
    *,
    seeds: int | Iterable[int] = (0,),
    steps: int | Sequence[int] = 10_000,
    batch_size: int | Literal["exact"] | None = None,
    task: Task | Callable[[Tensor], Tensor] | None = None,
    optimizer: Optimizer | str | Sequence[Optimizer] | None = None,
    importance: float | Sequence[float] | Sequence[Sequence[float]] | np.ndarray | Tensor | None = None,
    loss: LossName | losses.Loss | Callable[[Tensor, Tensor], Tensor] = "mse",
    qk_pairs: Pairs | Sequence[Pairs] = (),
    qk_weight: float | Sequence[float] | np.ndarray | Tensor = 1.0,
    head_objective: HeadObjective = "scores",
    stages: Stage | Sequence[Stage] = ("joint",),
    penalty: PenaltyLike | Sequence[PenaltyLike | None] | None = None,
    record_every: int = 100,
    record: Sequence[str] | None = None,
    init: Init | Sequence[Init] | Run | None = None,
    engine: EngineName = "auto",
    device: str | torch.device = "cpu",
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

    A seed decides a model's initial weights and its batches. `data`, `importance`, `optimizer`, `qk_weight` and
    `penalty` may be one for all models or a sequence of one per seed: a figure that compares settings is one call.

    Ctrl-C returns the run as of the step that it strikes at; `Run.resume` goes on from there.

    Args:
        cfg: architecture of every model.
        data: distribution of the features, or one per model, of any classes; or a tensor or array (sample, feature),
            for `Samples` of it.
        seeds: one per model; models whose settings differ may have the same one. A number n stands for 0, ..., n - 1.
        steps: updates; with several stages each has that many, or one number per stage.
        batch_size: samples per step. Default: the whole data set of a finite distribution, else 1,024. "exact": none,
            each step goes down the expected loss itself, without noise, where `landscape.exact_loss` knows it (up to
            eight features; slow).
        task: what the output is to be: the input (`Reconstruct()`), what another task of `tms_hooks.tasks` asks for,
            or your own: a function of a batch of inputs, or a `Task`.
        optimizer: `Adam(lr=1e-3)` by default; each stage runs its schedule anew. Or one per model. A name such as
            "adam" is that one with its own defaults.
        importance: weight of each feature's loss, finite and not negative; 1 by default. Or one row per model, "model
            feature".
        loss: "mse", "cross_entropy" for a softmax output, `losses.Lp(p)`, or your own: a function of (out, target),
            both "batch output", that gives the cost of every output of every sample or one cost per sample.
        qk_pairs: with heads, the (query feature, key feature) pairs that a head attends to: one list for all heads, or
            one list per head; or mappings such as {(2, 4): 1.0, (5, 8): 2.0}, to each pair's weight, else 1.
        qk_weight: lambda in `L1 + lambda L2`, or one per model.
        head_objective: what L2 asks of a head. "scores": a small squared error of its score for one query and one key,
            which is to be the sum of the weights of the pairs that these form. "pattern": a small cross-entropy of its
            attention, a softmax over eight key tokens, which are to share it in proportion to that sum.
        stages: with heads, any of "representation" (all but the heads, on L1), "heads" (on L2), "joint", in turn.
        penalty: added to what is minimized: `Lasso(0.01)`, a `Penalty` of your own or any function from a model's named
            weights to one number; or one per model. Losses of the run are those of the data alone.
        record_every: steps between two records of the history.
        record: names of the parameters of which the history keeps snapshots, such as ("W_E", "b_U"); by default all,
            from which `Run.models_at` makes the models of a recorded step.
        init: initial models, their weights, or a run, in place of each seed's own; the seeds then decide the batches
            only. Weights are all that is taken: the optimizer begins anew, with the batches of step 0. To go on with a
            run as if it had not stopped, use `Run.resume`.
        engine: "torch" is the reference; "fused" is compiled and many times faster, on the CPU and for all but models
            with an MLP beside heads, the scale behind the activation, a hidden activation or optimizer of your own, and
            for the exact loss; "auto" picks it where it applies to all models of the run.
        device: where the torch engine computes, such as "cuda".
        dtype: "float32" or "float64".
        empty_rows: with sparse data most rows of a batch are empty. "exact" draws only the others, `1 - P(empty)` times
            as many, and adds the empty rows' loss in closed form: the same expectation, a variance no larger. "drawn"
            draws all. "auto" is "exact" without heads on `SparseUniform` data of which half the rows or more are empty,
            for each model by its own data.
        checkpoint: a folder to write checkpoints to, and to go on from if it holds some of this run: the result is, bit
            for bit, that of a run that was never stopped.
        checkpoint_every: least seconds between two checkpoints; they are written when the history is.
        progress: show a progress bar; by default if standard error is a terminal.

    Raises:
        ValueError: a setting out of range, two that clash, or a checkpoint of other settings; the message names value,
            rule and fix.
    """
    _end_threads_after_a_fork()
    given, device = locals(), str(device)  # all arguments: those that a recipe has are handed on as they are
    recipe = Recipe.of(**{field.name: given[field.name] for field in fields(Recipe)})
    name, module = choose_engine(engine, recipe, device)
    if isinstance(init, Run | Models):
        say_once(
            "init: of a run only the weights are taken; the optimizer begins anew, with the batches of step 0. "
            "run.resume(steps=...) goes on exactly"
        )
        init = init.models if isinstance(init, Run) else init
    state = State.initial(recipe, [init] if isinstance(init, Module | Mapping) else init, device)
    saved = None if checkpoint is None else Checkpoints(checkpoint, recipe, name, state, checkpoint_every)
    return _finish(recipe, name, module, state, Recorder(recipe), 0, saved, progress)


@explained()
def resume(
    run: Run,
    steps: int | None = None,
    *,
    engine: EngineName | None = None,
    device: str | torch.device = "cpu",
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 30.0,
    progress: bool | None = None,
) -> Run:
    """As `Run.resume`."""
    recipe, done, origin, device = run.recipe, run.completed_steps, {}, str(device)
    if steps is None and not run.stopped:
        raise ValueError(f"the run is finished at step {done}: say how many steps more, run.resume(steps=...)")
    if steps is not None:
        check_whole(steps=plain(steps))
        check_at_least_one(steps=steps)
        *before, last = recipe.steps
        if done < sum(before):
            raise ValueError(
                f"steps={steps}: the run stopped at step {done}, before its last stage {recipe.stages[-1]!r}; "
                "finish it with run.resume(), then give steps"
            )
        longer = done + plain(steps) - sum(before)
        varies = any(s.optimizer.schedule != "constant" or s.optimizer.warmup for s in recipe.settings)
        if longer != last and varies:
            origin = {"schedule_restated_at": [*run.provenance.get("schedule_restated_at", []), done]}
        recipe = replace(recipe, steps=(*before, longer))
    name, module = choose_engine(engine or run.provenance["engine"], recipe, device)
    state = State.of_tensors(run.state.tensors(), device)
    saved = None if checkpoint is None else Checkpoints(checkpoint, recipe, name, state, checkpoint_every)
    return _finish(recipe, name, module, state, Recorder(recipe, run.history), done, saved, progress, origin)


def _final_losses(
    recipe: Recipe, weights: dict[str, Tensor], engine: Engine, interrupted: Callable[[], bool] = lambda: False
) -> Losses:
    """Losses of every model on held-out samples of its own data; once Ctrl-C was pressed, on fewer."""
    cfg, models = recipe.cfg, len(recipe.seeds)
    few = HASTY_PRODUCTS // (models * max(cfg.d_hidden, cfg.d_mlp or 0))
    for entries in (few,) if interrupted() else (HELD_OUT_ENTRIES, few):
        found = weights["W_E"].new_zeros(models, cfg.n_outputs), weights["W_E"].new_zeros(models, cfg.n_heads)
        for some, part, share, x in _pieces(recipe, entries):
            losses = engine.evaluate(part, {name: w[some] for name, w in weights.items()}, x)
            for sums, loss in zip(found, losses, strict=True):
                sums[some] += share * loss
            if interrupted() and entries > few:
                break
        else:
            break
    return found


def _pieces(recipe: Recipe, entries: int) -> Iterator[tuple[list[int], Recipe, float, Tensor]]:
    """What is evaluated together: some models of one setting, its recipe, and a part of its samples with its share."""
    pace = Pace()
    for models, part in recipe.parts:
        for share, x in judges(part, entries):
            for start, stop in pace.cut(0, len(models)):
                yield models[start:stop], part, share, x


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
            engine = _engine(name, recipe, device)
            reason = engine.obstacle(recipe, device)
        except ImportError as error:
            reason = f"it is not installed ({error}); pip install 'tms-hooks[fast]'"
            if wanted == "auto":
                say_once(f"engine='auto' takes the torch engine, which is many times slower than {name}: {reason}")
        if reason is None:
            why = {"fused": ": compiled", "torch": ": the reference"}[name]
            log.info("the %s engine trains this%s", name, f"{why}, as was asked for" if wanted != "auto" else why)
            return name, engine
        log.info("the %s engine cannot run this: %s", name, reason)
    raise ValueError(f"engine={wanted!r} cannot run this: {reason}" + "; use engine='auto'" * (wanted == "fused"))


def _engine(name: str, recipe: Recipe, device: str) -> Engine:
    if name == "fused":
        from tms_hooks.fused import engine  # an annex: it may be missing

        return engine
    if recipe.batch_size == "exact":
        from tms_hooks.landscape import descent

        return descent
    if device != "cpu":
        from tms_hooks.device import engine as on_device

        return on_device
    return torch_engine


def load_checkpoint(folder: Path, using: Iterable[Any] = ()) -> Run | None:
    """The newest checkpoint of a folder as a run; None without one."""
    if (found := newest(folder)) is None:
        return None
    about, tensors = found
    written = dict(about["run"])
    name, _ = written.pop("engine"), written.pop("initial_weights")
    recipe = Recipe.from_dict(written, using)
    _, engine = choose_engine("auto" if name == "fused" else name, recipe, "cpu")
    recorder, state, step = Recorder(recipe), State.of_tensors(tensors), reached(about, recipe)
    recorder.records, before = records(about, tensors, recipe), state.snapshot(recipe.cfg)
    if step > about["steps"][-1]:
        recorder.add(step, before, engine.advance(recipe, state.as_it_is(), step, step))
    final = _final_losses(recipe, before.weights, engine)
    return assemble(recipe, state, step, recorder.dataset(), final, provenance(name, "cpu", 0.0))


def _finish(
    recipe: Recipe,
    name: str,
    engine: Engine,
    state: State,
    recorder: Recorder,
    step: int,
    saved: Checkpoints | None,
    progress: bool | None,
    origin: Mapping[str, Any] | None = None,
) -> Run:
    """Train from `step` to the end, or from the newest checkpoint, and evaluate."""
    began = time.perf_counter()
    show = sys.stderr.isatty() if progress is None else progress
    with interrupts() as interrupted:
        with saved.held() if saved else nullcontext():
            completed, end = _advance(recipe, state, engine, recorder, step, saved, show, interrupted)
        weights = {name: w.cpu() for name, w in end.snapshot(recipe.cfg).weights.items()}
        final = _final_losses(recipe, weights, engine, interrupted)
        where = provenance(name, str(state.diverged_at.device), time.perf_counter() - began) | dict(origin or {})
        if interrupted():
            where[INTERRUPTED] = completed
            log.warning("interrupted at step %d of %d", completed, recipe.total_steps)
    run = assemble(recipe, end, completed, recorder.dataset(), final, where)
    for i, stopped in run.diverged.items():
        log.warning(
            "model %d, of seed %d, stopped at step %d: its loss or next weights were not finite",
            i, recipe.seeds[i], stopped,
        )  # fmt: skip
    return run


def _advance(
    recipe: Recipe,
    state: State,
    engine: Engine,
    recorder: Recorder,
    step: int,
    saved: Checkpoints | None,
    show: bool,
    interrupted: Callable[[], bool],
) -> tuple[int, State]:
    """Advance from record to record; return the last recorded step and the state at it, before its update."""
    if saved and (found := saved.resume(state, recorder)) is not None:
        step = found
    recorder.records = [record for record in recorder.records if record[0] < step]
    marks, pace = recipe.record_steps(), Pace()
    edges = [step, *(mark for mark in marks if mark > step)]
    last = None
    try:
        with bar(len(recipe.seeds), recipe.total_steps, show) as move:
            for start, stop in zip(edges, [*edges[1:], edges[-1]], strict=True):
                before = state.as_it_is()
                for begin, end in pace.cut(start, stop):
                    measured = engine.advance(recipe, state, begin, end)
                    if begin == start and start in marks:
                        recorder.add(start, before.snapshot(recipe.cfg), measured)
                        last = start, before
                    if interrupted():
                        stop = end
                        break
                else:
                    if saved and start in marks:
                        saved.save(state, recorder, last=start == marks[-1])
                move(stop)
                if interrupted() and start < stop:
                    before = state.as_it_is()
                    recorder.add(stop, before.snapshot(recipe.cfg), engine.advance(recipe, state, stop, stop))
                    last = stop, before
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if last is None:
            raise
    assert last is not None  # the last step is always recorded
    return last
