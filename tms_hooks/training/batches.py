"""What a recipe draws: the batches that its models are trained on, and the held-out samples that they are judged by.

A batch is a pure function of a setting, a seed and a step: nothing is remembered from one to the next, so a model sees
the same batches alone and in a crowd, and a resumed run sees those that an uninterrupted one would have seen. A batch
is all of a finite data set if no batch size is given; else it is drawn, with its empty rows or without them.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import groupby, repeat

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks import rng
from tms_hooks.data import MAX_DATASET_ROWS, Distribution, Independent
from tms_hooks.data.independent import draw_together
from tms_hooks.errors import say_once
from tms_hooks.training.recipe import HELD_OUT_SEED, Recipe, mostly_empty

DEFAULT_BATCH = 1024
QK_KEYS = 8
"""Key tokens that a query chooses from under `head_objective="pattern"`."""
HELD_OUT_TOKENS = 2**16
"""Held-out rows, or key tokens where a row has several,"""
HELD_OUT_ENTRIES = 2**24
"""unless that makes more entries than this: so many toys of 256 features have."""
FEW_ROWS = 100
"""Rows with an active feature, below which a mean over them is off by a tenth or more."""
MOST_AHEAD = 2**18
"""Entries of data that are drawn at once, unless one step has more: they stay in cache."""
RARE = 1 / 16
"""Of so few rows that are not empty, a loss is not taken from samples of all rows, which would hold too few of them."""


def batch(
    recipe: Recipe, seeds: tuple[int, ...], step: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "model batch *pos feature"]:
    """The training batch of each seed at a step; with heads, independent query and key tokens.

    Like all functions here it is for models of one setting, such as a part of a recipe.
    """
    whole = whole_dataset(recipe, device)
    if whole is not None:
        return whole.repeat(len(seeds), *[1] * whole.ndim)
    count, _ = rows(recipe)
    data = recipe.setting.data
    if recipe.empty_rows == "exact":
        assert isinstance(data, Independent)  # Recipe sees to it
        return data.sample_occupied(count, seed=seeds, step=step, dtype=recipe.torch_dtype, device=device)
    return _draw(recipe, count, seeds, step, device)


def at_steps(
    recipe: Recipe, device: torch.device
) -> Callable[[Int64[Tensor, ""]], Float[Tensor, "model batch *pos feature"]]:
    """`batch` of all models as a function of a step that is a tensor on the device, where nothing is asked or copied.

    The data of the models may differ, if all rows are drawn.
    """
    if not recipe.varying and whole_dataset(recipe, device) is not None:
        x = batch(recipe, recipe.seeds, 0, device)
        return lambda step: x
    (count, _), each = rows(recipe), tokens(recipe)
    draw, streams = _drawer(recipe), rng.streams(recipe.seeds, device)

    def at(step: Int64[Tensor, ""]) -> Float[Tensor, "model batch *pos feature"]:
        keys = [rng.keys_at(streams, step * each + position) for position in range(each)]
        positions = [draw(key, count).to(recipe.torch_dtype) for key in keys]
        return torch.stack(positions, dim=2) if recipe.cfg.n_heads else positions[0]

    return at


def _drawer(recipe: Recipe) -> Callable[[Int64[Tensor, " model"], int], Float[Tensor, "model batch feature"]]:
    """How the rows of all models are drawn: at once where that can be, else of each data by themselves."""
    data = [setting.data for setting in recipe.settings]
    if recipe.empty_rows == "exact":
        assert isinstance(data[0], Independent)  # Recipe sees to it
        return data[0].draw_occupied
    if len(set(data)) == 1:
        return data[0]._draw
    each = [(own, len(list(same))) for own, same in groupby(data)]

    def side_by_side(keys: Int64[Tensor, " model"], count: int) -> Float[Tensor, "model batch feature"]:
        split = keys.split([models for _, models in each])
        return torch.cat([own._draw(some, count) for (own, _), some in zip(each, split, strict=True)])

    return draw_together(data) or side_by_side


def ahead(
    recipe: Recipe, start: int, stop: int, device: torch.device | str = "cpu"
) -> Iterator[Float[Tensor, "model batch *pos feature"]]:
    """`batch` of steps `start` to `stop - 1`, to the bit; compiled code draws several of them at once if it can."""
    each, seeds = tokens(recipe), recipe.seeds
    if whole_dataset(recipe, device) is not None:
        yield from repeat(batch(recipe, seeds, start, device), stop - start)
        return
    count, _ = rows(recipe)
    few = max(MOST_AHEAD // (count * each * recipe.cfg.n_features * len(seeds)), 1)
    for first in range(start, stop, few):
        steps = range(first, min(first + few, stop))
        on_cpu = torch.device(device).type == "cpu"
        drawn = _compiled(recipe, count, range(each * first, each * steps.stop)) if on_cpu else None
        if drawn is None:
            yield from (batch(recipe, seeds, step, device) for step in steps)
        elif recipe.cfg.n_heads:
            yield from (x.permute(1, 2, 0, 3) for x in drawn.split(each))
        else:
            yield from drawn


def _compiled(recipe: Recipe, count: int, steps: range) -> Float[Tensor, "step model batch feature"] | None:
    """Samples drawn in compiled code; None where that is not installed, or cannot draw them."""
    try:
        from tms_hooks.fused import rows as compiled  # an annex: it may be missing
    except ImportError:
        return None
    exact = recipe.empty_rows == "exact"
    return compiled.draw(recipe.setting.data, count, recipe.seeds, steps, exact, recipe.torch_dtype)


def held_out(recipe: Recipe) -> Float[Tensor, "batch *pos feature"]:
    """What models are judged by: samples of a seed that no model has, or the data set that they trained on."""
    whole = whole_dataset(recipe)
    return whole.clone() if whole is not None else _held_out(recipe, HELD_OUT_ENTRIES)


def judges(recipe: Recipe, entries: int = HELD_OUT_ENTRIES) -> list[tuple[float, Float[Tensor, "batch *pos feature"]]]:
    """`held_out` in parts, each with its share of a model's loss, and of no more entries than about so many.

    It is one part, unless active features are rare: then `Independent.strata`.
    """
    data, whole = recipe.setting.data, whole_dataset(recipe)
    if whole is not None:
        return [(1.0, whole)]
    if mostly_empty(data, recipe.cfg) and data.empty_probability > 1 - RARE and recipe.batch_size != "exact":
        rows = max(_held_out_rows(recipe, entries) // 2, 1)
        return data.strata(rows, seed=HELD_OUT_SEED, dtype=recipe.torch_dtype)
    return [(1.0, _held_out(recipe, entries))]


def _held_out(recipe: Recipe, entries: int) -> Float[Tensor, "batch *pos feature"]:
    x = _draw(recipe, _held_out_rows(recipe, entries), (HELD_OUT_SEED,), 0, "cpu")[0]
    if (occupied := int(x.flatten(1).any(-1).sum())) < min(FEW_ROWS, len(x)):
        say_once(
            f"final_loss: only {occupied} of {len(x):,} held-out rows have an active feature, too few for a mean; "
            "make features more probable, or independent and without heads: then it is known in closed form"
        )
    return x


def _held_out_rows(recipe: Recipe, entries: int) -> int:
    """As many as `HELD_OUT_TOKENS` and a number of entries let."""
    keys = 1 if recipe.head_objective == "scores" else QK_KEYS
    return max(min(HELD_OUT_TOKENS // keys, entries // (recipe.cfg.n_features * tokens(recipe))), 1)


def rows(recipe: Recipe) -> tuple[int, float]:
    """How many rows are drawn per step, and the share of the distribution that they stand for."""
    size = recipe.batch_size if isinstance(recipe.batch_size, int) else DEFAULT_BATCH
    if recipe.empty_rows == "drawn":
        return size, 1.0
    data = recipe.setting.data
    assert isinstance(data, Independent)  # Recipe sees to it
    share = 1 - data.empty_probability
    return max(round(size * share), 1), share


def tokens(recipe: Recipe) -> int:
    """Tokens per row: with heads a query and its keys, of which only an attention pattern needs several."""
    if not recipe.cfg.n_heads:
        return 1
    return 2 if recipe.head_objective == "scores" else 1 + QK_KEYS


def whole_dataset(recipe: Recipe, device: torch.device | str = "cpu") -> Float[Tensor, "batch *pos feature"] | None:
    """Every vector of a finite distribution (with heads: every ordered pair), unless a batch size is given.

    It is built once per training and then shared: read it, never write to it.
    """
    if recipe.batch_size is not None:
        return None
    return _whole(recipe.setting.data, recipe.torch_dtype, recipe.cfg.n_heads > 0, str(device))


@lru_cache(maxsize=8)  # models of a run may have a data set each
def _whole(data: Distribution, dtype: torch.dtype, pairs: bool, device: str) -> Tensor | None:
    vectors = data.dataset(dtype)
    if vectors is None or not pairs:
        return vectors if vectors is None else vectors.to(device)
    count = len(vectors)
    if count**2 > MAX_DATASET_ROWS:
        raise ValueError(
            f"{count:,} vectors make {count**2:,} ordered pairs, more than {MAX_DATASET_ROWS:,}; "
            "give a batch_size to sample them"
        )
    return torch.stack([vectors.repeat_interleave(count, 0), vectors.repeat(count, 1)], dim=1).to(device)


def _draw(recipe: Recipe, count: int, seeds: tuple[int, ...], step: int, device: torch.device | str) -> Tensor:
    """Samples of each seed; with heads, each token of a row is a sample of its own."""
    each, data = tokens(recipe), recipe.setting.data
    positions = [
        data.sample(count, seed=seeds, step=each * step + position, dtype=recipe.torch_dtype, device=device)
        for position in range(each)
    ]
    return torch.stack(positions, dim=2) if recipe.cfg.n_heads else positions[0]
