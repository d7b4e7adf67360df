"""The fast engine: whole training steps in compiled code, each model in cache, models shared out over threads.

It draws the batches of `torch_engine` from the same stream of random bits, differentiates by hand, and updates with the
same rounded operations; only the order of the sums over a batch differs. Where data or a task have no loop, torch makes
their rows and targets and the kernel is given them, a few steps at once; penalties, and costs without a loop, are those
of torch, step by step. It needs numba, the extra "fast".
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import numba
import numpy as np
import torch
from jaxtyping import Float
from numba.core import event
from torch import Tensor

from tms_hooks import losses, tasks
from tms_hooks.config import ToyConfig
from tms_hooks.data import Distribution, SparseUniform
from tms_hooks.fused import kernels
from tms_hooks.fused.codes import ACTIVATIONS, MLP_PLACES
from tms_hooks.losses import pair_weight
from tms_hooks.models import forward
from tms_hooks.models.forward import B_K, B_Q, W_IN, W_K, W_OUT, W_Q, Weights, in_block
from tms_hooks.own import name_of
from tms_hooks.tasks import Reconstruct
from tms_hooks.training import batches, by_hand, torch_engine
from tms_hooks.training.optimizers import Optimizer
from tms_hooks.training.penalties import with_gradients
from tms_hooks.training.recipe import Recipe, Stage
from tms_hooks.training.state import Measurement, State
from tms_hooks.training.torch_engine import measurement, one_thread, trained_names

Value = TypeVar("Value")
log = logging.getLogger(__name__)
MOMENTS = "first.", "second."
ORDER = ("W_E", "W_U", "b_U", "b_hidden", "scale", W_Q, W_K, B_Q, B_K)

MOST_GIVEN = 2**17
"""Entries of data that are drawn in torch at once, if one step of one model has no more: they stay in cache."""
MOST_KEPT = 2**15
"""Entries of a block in a room that is kept from call to call; making a larger one takes no time beside its work."""
WORTH_THREADS = 4_000_000
"""Entries of drawn data, about two milliseconds of work, below which starting threads takes longer than they save."""

WIDE, FEW = 2**17, 1 / 64
"""Weights of a toy that is wide, and the share of active features up to which its entries are looked up one by one."""


def obstacle(recipe: Recipe, device: str = "cpu") -> str | None:
    """Why this engine cannot run a recipe, or None if it can."""
    return next((reason for _, part in recipe.parts if (reason := _obstacle(part, device))), None)


def _obstacle(recipe: Recipe, device: str) -> str | None:
    cfg, optimizer = recipe.cfg, recipe.setting.optimizer
    if device != "cpu":
        return f"device={device!r}: it runs on the CPU only"
    if recipe.batch_size == "exact":
        return "batch_size='exact': it draws its batches"
    if callable(cfg.hidden_act):
        return f"hidden_act={name_of(cfg.hidden_act)}, a function"
    if cfg.d_mlp is not None and cfg.n_heads:
        return f"d_mlp={cfg.d_mlp} with n_heads={cfg.n_heads}: it has MLPs, or heads"
    if cfg.scale == "after":
        return "scale='after': its scale stands before the output bias"
    if type(optimizer) not in kernels.UPDATED:
        return f"updates by {type(optimizer).__name__}, which OPTIMIZERS did not hold when it was first used"
    return None


class _Compiling(event.Listener):
    """Tells a person why the first training of its kind takes seconds."""

    def on_start(self, event: event.Event) -> None:
        """Called at the start of whatever numba compiles and does not find in its cache."""
        if event.data.get("dispatcher") is kernels.advance:
            log.warning(
                "compiling the training loop for toys of this kind: five to thirty seconds, once; it is kept in %s",
                Path(kernels.advance.stats.cache_path).parent,
            )

    def on_end(self, event: event.Event) -> None:
        """Nothing to say."""


event.register("numba:compile", _Compiling())


class _Packed(NamedTuple):
    """What training goes on from: parameters and moments as the kernel has them, and the views on these in a state."""

    weights: np.ndarray
    moments: list[np.ndarray]
    named: dict[str, Tensor]


def advance(recipe: Recipe, state: State, start: int, stop: int) -> Measurement:
    """Run updates `start` to `stop - 1` in place, within one stage, and measure on the batch of step `start`.

    With `start == stop` it only measures.
    """
    stage, count, _ = recipe.stage_at(start)
    if count == 0:
        state.moments = {}
    with torch.no_grad(), one_thread(torch.device("cpu")):
        layout = _layout(recipe.cfg)
        weights, *moments = _packed(state, layout)
        diverged_at = state.diverged_at.numpy().copy()
        recipes, plans = [part for _, part in recipe.parts], _plans(recipe, stage, weights.dtype)
        loss, head_loss, gradient = _run(recipes, plans, weights, moments, diverged_at, start, stop)
        trained = trained_names(layout, stage)
        if stop > start:
            state.weights = state.weights | _views(weights, layout)
            for prefix, flat in zip(MOMENTS, moments, strict=True):
                state.moments |= {prefix + name: view for name, view in _views(flat, layout, trained).items()}
            state.diverged_at = torch.from_numpy(diverged_at)
            state.made = _Packed(weights, moments, state.weights | state.moments)
        losses = torch.from_numpy(loss), torch.from_numpy(head_loss)
        gradients = {name: g.contiguous() for name, g in _views(gradient, layout, trained).items()}
        return measurement(recipe, losses, gradients)


def _packed(state: State, layout: "Layout") -> list[np.ndarray]:
    """Copies of a state's parameters and its two moments, as the kernel has them."""
    now, made = state.weights | state.moments, state.made
    if isinstance(made, _Packed) and now.keys() == made.named.keys() and all(now[n] is made.named[n] for n in now):
        return [flat.copy() for flat in (made.weights, *made.moments)]
    weights = _pack(state.weights, layout)
    return [weights, *(_pack(state.moments, layout, prefix, weights) for prefix in MOMENTS)]


def evaluate(
    recipe: Recipe, weights: Weights, x: Float[Tensor, "batch *pos feature"]
) -> tuple[Float[Tensor, "model output"], Float[Tensor, "model head"]]:
    """Losses of stacked models of one setting, all on the same batch."""
    if _has_own_costs(recipe):
        return torch_engine.evaluate(recipe, weights, x)
    with torch.no_grad(), one_thread(torch.device("cpu")):
        flat = _pack(weights, _layout(recipe.cfg))
        k = len(flat)
        every = replace(recipe, seeds=(0,) * k)  # these may be fewer models than the recipe's, and draw nothing
        plan = _planned(range(k), every, x, every.stages[0], flat.dtype)
        loss, head_loss, _ = _run([every], [plan], flat, [flat, flat], np.full(k, -1), 0, 0)
    return torch.from_numpy(loss), torch.from_numpy(head_loss)


class _Job(NamedTuple):
    """What the kernel is to do for the models of one setting."""

    work: Callable[[slice], None]
    """Does it for a slice of these models."""
    models: int
    entries: int
    """Entries of data: by how many the work grows; 0 if torch has a part in it, which is not for several threads."""


class _Plan(NamedTuple):
    """What the kernel must know of the models of one setting that is the same for all steps of a stage."""

    models: slice | list[int]
    """Where they are; a slice, of which arrays have views, if they are side by side."""
    seeds: np.ndarray
    whole: bool
    """Whether the batch is a whole data set, which the plan has."""
    toy: kernels.Toy
    batch: kernels.Batch
    drawn: kernels.Drawn | None
    asked: kernels.Asked | None
    narrow: tuple[int, ...] | None
    general: kernels.General | None
    mlps: kernels.Mlps | None
    optimizer: int
    """Its number in `kernels.UPDATED`."""
    trained: tuple[int, int]
    """The first parameter that is trained, and the one after the last."""
    shrinking: tuple[str, ...]
    """Names of the parameters that shrink before an update,"""
    shrunk: np.ndarray
    """and where they are: `Updates.parts`."""
    rooms: list[kernels.Room]
    """In which nobody works at the moment, if they are small; plans of one size share them."""


def _run(
    recipes: Sequence[Recipe],
    plans: Sequence[_Plan],
    weights: np.ndarray,
    moments: Sequence[np.ndarray],
    diverged_at: np.ndarray,
    start: int,
    stop: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Call the kernel for all settings at once: the recipe and the plan of each.

    It changes the arrays in place and returns losses (model, feature), (model, head) and gradients at `start`.
    """
    cfg, k, dtype = recipes[0].cfg, len(weights), weights.dtype
    out = np.empty((k, cfg.n_outputs), dtype), np.empty((k, cfg.n_heads), dtype), np.empty_like(weights)
    arrays, jobs, apart = (weights, *moments, diverged_at, *out), [], []
    for recipe, plan in zip(recipes, plans, strict=True):
        own = [array[plan.models] for array in arrays]
        if isinstance(plan.models, list):
            apart.append((plan.models, own))
        jobs.append(_job(recipe, plan, own, start, stop))
    for job in jobs:
        if not job.entries:
            job.work(slice(None))
    _share_out([job for job in jobs if job.entries])
    for models, own in apart:
        for array, changed in zip(arrays, own, strict=True):
            array[models] = changed
    return out


def _job(recipe: Recipe, plan: _Plan, arrays: Sequence[np.ndarray], start: int, stop: int) -> _Job:
    """Train models: weights, two moments and steps of divergence, changed in place; losses and gradients at `start`."""
    weights, batch, cfg, optimizer = arrays[0], plan.batch, recipe.cfg, recipe.setting.optimizer
    dtype = weights.dtype
    stage, count, steps = recipe.stage_at(start)
    scalars, kept = _numbers(optimizer, plan.shrinking, range(count, count + max(stop - start, 1)), steps, dtype)
    updates = kernels.Updates(start, stop, plan.optimizer, scalars, plan.shrunk, kept, *plan.trained)

    costly, penalty = _has_own_costs(recipe), recipe.setting.penalty
    none = np.empty((1, 0, 0), dtype)
    nothing = kernels.Outside(none, none, False, none.reshape(-1), none[0])

    def call(
        models: slice,
        batch: kernels.Batch,
        updates: kernels.Updates,
        out: Sequence[np.ndarray],
        outside: kernels.Outside = nothing,
    ) -> None:
        before, after = ([array[models] for array in several] for several in (arrays[:4], out))
        toy, more, kinds = plan.toy, (plan.drawn, plan.asked), (plan.narrow, plan.general, plan.mlps)
        with _room(plan, weights[0], cfg.n_heads) as room:
            kernels.advance(*before, plan.seeds[models], toy, batch, *more, updates, *kinds, outside, *after, room)

    def work(models: slice) -> None:
        call(models, batch, updates, arrays[4:])

    def work_on_given(models: slice) -> None:
        unseen = [np.empty_like(array) for array in arrays[4:]]  # only the first step is measured
        for some, steps in _pieces(recipe, batch.rows, start, max(stop, start + 1)):
            each = [_given(recipe, batches.batch(recipe, recipe.seeds[some], step)) for step in steps]
            now = slice(steps.start - start, steps.stop - start)
            own = updates._replace(start=steps.start, stop=min(steps.stop, stop), scalars=scalars[now], kept=kept[now])
            call(some, batch._replace(given=np.stack(each, axis=1)), own, unseen if now.start else arrays[4:])

    def work_with_torch(models: slice) -> None:
        unseen = [np.empty_like(array) for array in arrays[4:]]
        layout = _layout(cfg)
        count, fed = batch.rows * batches.tokens(recipe) + batch.occupied, batch.fed and not plan.whole
        empty, share = (batch.rows, batches.rows(recipe)[1]) if batch.occupied else (None, 1.0)
        for some, steps in _pieces(recipe, batch.rows, start, max(stop, start + 1)):
            now = weights[some]
            outs = np.zeros((len(now), cfg.n_outputs, count + kernels.LANES) if costly else (1, 0, 0), dtype)
            slopes = np.zeros_like(now if penalty is not None else now[:0])
            outside = kernels.Outside(outs, np.zeros_like(outs), False, np.zeros(len(now), dtype), slopes)
            logits, targets = (torch.from_numpy(a)[..., :count] for a in outside[:2])
            costs = torch.from_numpy(outside.costs)
            named, slopes_of = _views(now, layout), _views(slopes, layout) if penalty is not None else {}
            given = [_given(recipe, batches.batch(recipe, recipe.seeds[some], step)) for step in steps] if fed else []
            for at, step in enumerate(steps):
                one = slice(step - start, step - start + 1)
                own = updates._replace(start=step, stop=min(step + 1, stop), scalars=scalars[one], kept=kept[one])
                rows = batch._replace(given=given[at][:, None]) if fed else batch
                costs.zero_()
                if costly and (step == start or stage != "heads"):
                    call(some, rows, own, unseen, outside._replace(forward=True))
                    loss, g = by_hand.costs_of_logits(recipe, logits, targets, empty, share, step == start)
                    logits.copy_(g)
                    if loss is not None:
                        costs += loss.sum(-1)
                if penalty is not None:
                    cost, found = with_gradients(penalty, named)
                    costs += cost
                    for name, slope in found.items():
                        slopes_of[name].copy_(slope)
                call(some, rows, own, arrays[4:] if step == start else unseen, outside)
                if costly and step == start:
                    assert loss is not None  # it is asked for
                    arrays[4][some] = loss.numpy()

    if costly or penalty is not None:
        return _Job(torch.enable_grad()(work_with_torch), len(weights), 0)
    if batch.fed and not plan.whole:
        return _Job(work_on_given, len(weights), 0)
    entries = len(weights) * max(stop - start, 1) * batch.rows * recipe.cfg.n_features
    return _Job(work, len(weights), entries)


_PLANS: WeakKeyDictionary[Recipe, dict[tuple[Stage, np.dtype], list[_Plan]]] = WeakKeyDictionary()
"""A run calls the engine for each record, with the same plans. They go with the recipe, whose data may be large."""


def _plans(recipe: Recipe, stage: Stage, dtype: np.dtype) -> list[_Plan]:
    """The plans of a stage for each of a recipe's parts, made once."""
    made, asked = _PLANS.setdefault(recipe, {}), (stage, dtype)
    if asked not in made:
        made[asked] = []
        rooms: dict[tuple[int, bool, bool], list[kernels.Room]] = {}
        for models, part in recipe.parts:
            plan = _planned(models, part, batches.whole_dataset(part), stage, dtype)
            alike = plan.batch.rows, plan.batch.sparse, plan.drawn is None  # settings differ in no other size
            made[asked].append(plan._replace(rooms=rooms.setdefault(alike, plan.rooms)))
    return made[asked]


def _planned(models: Sequence[int], recipe: Recipe, dataset: Tensor | None, stage: Stage, dtype: np.dtype) -> _Plan:
    """The plan of a stage for models of one setting. With heads a row is a query token, then its key tokens."""
    cfg, optimizer = recipe.cfg, recipe.setting.optimizer
    behind, width = cfg.bottleneck == "embed->mlp.in", cfg.d_mlp or 0
    batch = _batch(recipe, None if dataset is None else len(dataset), dtype)
    if dataset is not None:
        batch = batch._replace(given=_given(recipe, dataset[None])[:, None])
    side_by_side = list(models) == list(range(models[0], models[-1] + 1))
    general = _general(recipe, stage, batch.rows, dtype)
    toy = kernels.Toy(
        n=cfg.n_features,
        m=cfg.d_hidden,
        o=cfg.n_outputs,
        tied=cfg.tied and not behind,
        biased=cfg.output_bias,
        hidden_biased=cfg.hidden_bias,
        scaled=bool(cfg.unit_norm),
        units=cfg.n_heads * (cfg.d_head or 0),
        head_biased=cfg.head_bias,
        act=ACTIVATIONS["identity" if callable(cfg.output_act) else cfg.output_act],
        read=width if behind else cfg.d_hidden,
        mlp_in=cfg.n_mlps * width,
        mlp_out=0 if behind else cfg.n_mlps * width,
    )
    layout, transposed = _layout(cfg), _transposed(cfg)
    end = _size(layout)
    heads = end - 2 * toy.units * (toy.m + toy.head_biased)  # the parameters of the heads are the last
    first, last = heads if stage == "heads" else 0, heads if stage == "representation" else end
    shrunk = {}
    for name, (at, shape, _) in layout.items():
        if first <= at < last and optimizer.kept(name, 1.0)[0] != 1:
            wide = shape[-2] if name in transposed else shape[-1] if shape else 1
            shrunk[name] = at - first, math.prod(shape) // wide, wide
    return _Plan(
        slice(models[0], models[-1] + 1) if side_by_side else list(models),
        np.array(recipe.seeds),
        dataset is not None,
        toy,
        batch,
        drawn=None if batch.fed else _loop(recipe.setting.data),
        asked=_asked(recipe),
        narrow=kernels.narrow(toy.m, toy.o, toy.n, toy.act) if general is None else None,
        general=general,
        mlps=kernels.Mlps(MLP_PLACES[cfg.bottleneck], cfg.n_mlps, width) if width else None,
        optimizer=kernels.UPDATED.index(type(optimizer)),
        trained=(first, last),
        shrinking=tuple(shrunk),
        shrunk=np.array(list(shrunk.values()), np.int64).reshape(-1, 3),
        rooms=[],
    )


@contextmanager
def _room(plan: _Plan, like: np.ndarray, heads: int) -> Iterator[kernels.Room]:
    """What the kernel writes over at each step, for models like this one: a room that no other thread is in.

    Making one takes a tenth of the call that trains small toys to their next record.
    """
    try:
        room = plan.rooms.pop()
    except IndexError:
        kinds = plan.drawn, plan.asked, plan.narrow, plan.general, plan.mlps
        room = kernels.make_room(like, heads, plan.trained[1] - plan.trained[0], plan.toy, plan.batch, *kinds)
    yield room
    if room.x.size <= MOST_KEPT:
        plan.rooms.append(room)


def _pieces(recipe: Recipe, rows: int, start: int, stop: int) -> Iterator[tuple[slice, range]]:
    """Models and steps that are given their batches together: as many as `MOST_GIVEN` lets."""
    each = rows * batches.tokens(recipe) * recipe.cfg.n_features
    group = min(max(MOST_GIVEN // each, 1), len(recipe.seeds))
    few = max(MOST_GIVEN // (each * group), 1)
    for i in range(0, len(recipe.seeds), group):
        for step in range(start, stop, few):
            yield slice(i, i + group), range(step, min(step + few, stop))


def _given(recipe: Recipe, x: Float[Tensor, "model batch *pos feature"]) -> np.ndarray:
    """Rows as the kernel takes them, "model feature batch"; below them their targets, where it has no loop for them."""
    parts = [x.flatten(2)]
    if type(recipe.task) not in kernels.ASKED:
        y = tasks.targets(recipe.task, x.flatten(1, 2) if recipe.cfg.n_heads else x)
        parts.append(y.to(x.dtype).unflatten(1, (x.shape[1], -1)).flatten(2))
    return torch.cat(parts, dim=2).mT.contiguous().numpy()


def _has_own_costs(recipe: Recipe) -> bool:
    """Whether what outputs cost is asked in torch: a loss or an output activation without a loop here."""
    return isinstance(recipe.loss, losses.Loss) or callable(recipe.cfg.output_act)


def _asked(recipe: Recipe) -> kernels.Asked | None:
    """What the kernel must know of the task; None where the targets are the inputs."""
    task, n = recipe.task, recipe.cfg.n_features
    if type(task) is Reconstruct:
        return None
    if type(task) in kernels.ASKED:
        told = np.array(task.numbers(n), np.float64)
        return kernels.Asked(kernels.ASKED.index(type(task)), told)
    empty = np.zeros(recipe.cfg.n_outputs)
    if recipe.empty_rows == "exact":
        empty = tasks.targets(task, torch.zeros(1, 1, n, dtype=recipe.torch_dtype))[0, 0].double().numpy()
    return kernels.Asked(-1, empty)


def _loop(data: Distribution) -> kernels.Drawn | None:
    """Which loop draws the batches; None for `SparseUniform`, which has vectors of its own."""
    if isinstance(data, SparseUniform):
        return None
    return kernels.Drawn(kernels.DRAWN.index(type(data)), np.array(data.numbers, np.float64))


def _batch(recipe: Recipe, dataset: int | None, dtype: np.dtype) -> kernels.Batch:
    """What the kernel must know of its batches: drawn ones, or a data set of so many rows or others, given later."""
    rows, share = batches.rows(recipe) if dataset is None else (dataset, 1.0)
    importance, thresholds = np.array(recipe.setting.importance), np.ones((2, recipe.cfg.n_features))
    low, high, data = 0.0, 1.0, recipe.setting.data
    has_loop = type(data) in (SparseUniform, *kernels.DRAWN) and not (data.fill_is_single and dtype == np.float64)
    has_loops = has_loop and type(recipe.task) in kernels.ASKED
    fed = dataset is not None or not has_loops
    occupied = dataset is None and recipe.empty_rows == "exact"
    sparse = fed or occupied
    if isinstance(data, SparseUniform):
        thresholds, low, high = data.thresholds.numpy(), data.low, data.high
        sparse |= recipe.cfg.n_features * recipe.cfg.d_hidden >= WIDE and thresholds[1].mean() <= FEW * 2**32
    return kernels.Batch(
        rows=rows,
        weight=(importance * share / (rows * batches.tokens(recipe))).astype(dtype),
        empty_weight=(importance * (1 - share)).astype(dtype),
        fed=fed,
        given=np.empty((1, 1, 0, 0), dtype),
        largest=(thresholds - 1).astype(np.uint32),
        scale=(1 / thresholds).astype(dtype),
        span=dtype.type(high - low),
        low=dtype.type(low),
        occupied=occupied,
        sparse=bool(sparse),
    )


def _general(recipe: Recipe, stage: Stage, rows: int, dtype: np.dtype) -> kernels.General | None:
    """What the kernel must know of a toy that is more than a plain one; None for a plain one."""
    cfg = recipe.cfg
    if not (
        cfg.n_heads
        or _has_own_costs(recipe)
        or cfg.d_mlp
        or cfg.hidden_bias
        or cfg.unit_norm
        or cfg.hidden_act != "identity"
        or cfg.output_act == "softmax"
    ):
        return None
    pairs = [(head, pair) for head, pairs in enumerate(recipe.qk_pairs) for pair in pairs]
    weight = {"joint": recipe.setting.qk_weight, "heads": 1.0, "representation": 0.0}[stage]
    return kernels.General(
        positions=batches.tokens(recipe),
        hidden_act=ACTIVATIONS[cfg.hidden_act],
        cross_entropy=recipe.loss == "cross_entropy",
        unit_write=cfg.unit_norm in (True, "write"),
        unit_read=cfg.unit_norm in (True, "read") and cfg.bottleneck != "embed->mlp.in",
        pairs=np.array([(head, *pair[:2]) for head, pair in pairs], np.int64).reshape(-1, 3),
        pair_weights=np.array([pair_weight(pair) for _, pair in pairs], dtype),
        loss_weight=dtype.type(1 / rows),
        objective_weight=dtype.type(weight / rows),
        attention=recipe.head_objective == "pattern",
        reconstructs=stage != "heads",
        attends=stage != "representation" and cfg.n_heads > 0,
    )


def _share_out(jobs: Sequence[_Job]) -> None:
    """Do all jobs, in slices of models, on as many threads as numba may use if there are enough entries of data.

    The kernel lets go of Python's global lock, so plain threads do: unlike numba's own pool they may be entered from
    several threads at once, survive a fork, and cost nothing when there is one model.
    """
    parts, entries = min(_threads(), sum(job.models for job in jobs)), sum(job.entries for job in jobs)
    if parts == 1 or entries < WORTH_THREADS:
        for job in jobs:
            job.work(slice(None))
        return
    slices = []
    for job in sorted(jobs, key=lambda job: -job.entries):
        # A few slices per thread, so that a thread that was held up leaves its share to the others.
        count = min(math.ceil(4 * parts * job.entries / entries), job.models)
        edges = np.linspace(0, job.models, count + 1).astype(int)
        slices += [(job.work, slice(a, b)) for a, b in pairwise(edges)]
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(lambda piece: piece[0](piece[1]), slices))


def _threads() -> int:
    """How many threads numba may use. Being asked it starts its own, and says to torch's how many: that is undone.

    Every training asks: a process in which somebody else asked first would have several threads, and hang in a fork.
    """
    before = torch.get_num_threads()
    count = numba.get_num_threads()
    torch.set_num_threads(before)
    return count


@lru_cache(maxsize=2)  # models of different settings mostly share an optimizer
def _numbers(
    optimizer: Optimizer, shrinking: tuple[str, ...], updates: range, steps: int, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """What each of these updates, of so many steps, is told of its optimizer: `scalars` and `kept` of `Updates`."""
    counts = np.array(updates)
    if optimizer.schedule == "constant" and not optimizer.warmup:
        rates = np.full(len(counts), optimizer.lr)
    else:
        rates = np.array([optimizer.learning_rate(count, steps) for count in updates])
    told = optimizer.scalars(counts, rates)
    scalars = np.empty((len(counts), len(told)), dtype)
    for i, values in enumerate(told):
        scalars[:, i] = values
    kept = np.empty((len(counts), len(shrinking), 2), dtype)
    for i, name in enumerate(shrinking):
        kept[:, i, 0], kept[:, i, 1] = optimizer.kept(name, rates)
    return scalars, kept


def _ordered(cfg: ToyConfig, named: Mapping[str, Value]) -> dict[str, Value]:
    """Weights in the kernel's order: the representation, then the heads, so that what a stage trains lies together.

    Behind them are the MLPs, which are not beside heads; a `W_out` that is the unembed stands in its place.
    """
    order = [W_OUT if cfg.bottleneck == "embed->mlp.in" and name == "W_U" else name for name in ORDER]
    order += [in_block(layer, name) for name in (W_IN, W_OUT) for layer in range(cfg.n_mlps)]
    return {name: named[name] for name in dict.fromkeys(order) if name in named}


def _transposed(cfg: ToyConfig) -> set[str]:
    """The parameters that the kernel keeps with their last axis first."""
    behind = {W_OUT} if cfg.bottleneck == "embed->mlp.in" else set()
    return {"W_U", W_Q, W_K} | {in_block(layer, W_IN) for layer in range(cfg.n_mlps)} | behind


class _Place(NamedTuple):
    """Where a parameter stands in the flat ones of a model."""

    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In entries."""


Layout = Mapping[str, _Place]


@lru_cache
def _layout(cfg: ToyConfig) -> Layout:
    """Of every parameter, in the order of `_ordered`."""
    places, at, transposed = {}, 0, _transposed(cfg)
    for name, shape in _ordered(cfg, forward.weight_shapes(cfg)).items():
        strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        if name in transposed:
            strides[-2:] = 1, shape[-2]
        places[name] = _Place(at, shape, tuple(strides))
        at += math.prod(shape)
    return places


def _size(layout: Layout) -> int:
    """Parameters of a model."""
    return sum(math.prod(place.shape) for place in layout.values())


def _pack(tensors: Weights, layout: Layout, prefix: str = "", like: np.ndarray | None = None) -> np.ndarray:
    """All parameters of a model in one row, or their moments, with the hidden axis last; 0 where there are none yet."""
    if like is None:
        some = next(iter(tensors.values()))
        like = np.empty((len(some), _size(layout)), some.numpy().dtype)
    flat = np.zeros_like(like)
    for name, view in _views(flat, layout).items():
        if (tensor := tensors.get(prefix + name)) is not None:
            view.copy_(tensor)
    return flat


def _views(flat: np.ndarray, layout: Layout, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Views on parameters of models that lie in one row each, all by default."""
    whole, size = torch.from_numpy(flat), flat.shape[1]
    places = {name: layout[name] for name in (layout if names is None else names)}
    return {
        name: whole.as_strided((len(flat), *shape), (size, *strides), start)
        for name, (start, shape, strides) in places.items()
    }
