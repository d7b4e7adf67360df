"""`Recipe`: everything that decides what a training run computes, and nothing else.

It describes and does not act: `training.batches` draws what it says, an engine trains it, a run directory keeps it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeGuard, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import losses, own, tasks
from tms_hooks.config import ToyConfig
from tms_hooks.data import DISTRIBUTIONS, Distribution, Independent, check_draw
from tms_hooks.errors import check_at_least_one, check_not_negative, check_whole, choice_error, did_you_mean, plain
from tms_hooks.losses import Pairs, WeighedPair, pair_weight
from tms_hooks.models import forward
from tms_hooks.tasks import TASKS, Reconstruct, Task
from tms_hooks.training import given
from tms_hooks.training.optimizers import OPTIMIZERS, Adam, Optimizer
from tms_hooks.training.penalties import PENALTIES, PenaltyLike

LossName = Literal["mse", "cross_entropy"]
HeadObjective = Literal["scores", "pattern"]
Stage = Literal["joint", "representation", "heads"]
Dtype = Literal["float32", "float64"]
EmptyRows = Literal["drawn", "exact"]

CHOICES = {"loss": LossName, "head_objective": HeadObjective, "dtype": Dtype, "empty_rows": EmptyRows}
KINDS: dict[str, dict[str, Any]] = {"data": DISTRIBUTIONS, "task": TASKS, "optimizer": OPTIMIZERS, "penalty": PENALTIES}
"""The parts of a recipe that are one of several classes, written down as the name of the class and its fields."""
WRITTEN = KINDS | {"loss": losses.LOSSES}
"""So is a loss, unless it is a word."""
HELD_OUT_SEED = 2**63 - 1
"""The seed that no model may have: its samples are for evaluation."""


def mostly_empty(data: Distribution, cfg: ToyConfig) -> TypeGuard[Independent]:
    """Whether at least half of all rows are empty, and their loss can be added in closed form."""
    return isinstance(data, Independent) and data.empty_probability >= 0.5 and not cfg.n_heads


class Setting(NamedTuple):
    """What each model of a run may have for itself."""

    data: Distribution
    importance: tuple[float, ...]
    optimizer: Optimizer
    qk_weight: float
    penalty: PenaltyLike | None
    empty_rows: EmptyRows


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A validated, serializable description of a run: two equal recipes give the same bits on the same engine.

    The fields are arguments of `tms_hooks.train`, made uniform: `steps` has one entry per stage, `importance` one per
    feature or output, `qk_pairs` one per head: (query feature, key feature), and the weight if that is not 1; `record`
    names parameters as `ToyModel.state_dict()` does. A field of `Setting` has one value for all models or, if they
    differ, a tuple of one per model. Model i of a run is, bit for bit, the one that `recipe.alone(i)` trains.
    """

    cfg: ToyConfig
    data: Distribution | tuple[Distribution, ...]
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    stages: tuple[Stage, ...]
    importance: tuple[float, ...] | tuple[tuple[float, ...], ...]
    qk_pairs: tuple[tuple[WeighedPair, ...], ...]
    record: tuple[str, ...]
    batch_size: int | Literal["exact"] | None = None
    task: Task = field(default_factory=Reconstruct)
    optimizer: Optimizer | tuple[Optimizer, ...] = field(default_factory=Adam)
    loss: LossName | losses.Loss = "mse"
    qk_weight: float | tuple[float, ...] = 1.0
    head_objective: HeadObjective = "scores"
    record_every: int = 100
    dtype: Dtype = "float32"
    penalty: PenaltyLike | tuple[PenaltyLike | None, ...] | None = None
    empty_rows: EmptyRows | tuple[EmptyRows, ...] = "drawn"

    @classmethod
    def of(
        cls,
        cfg: ToyConfig,
        data: Any,
        *,
        seeds: int | Iterable[int] = (0,),
        steps: int | Sequence[int] = 10_000,
        stages: Stage | Sequence[Stage] = ("joint",),
        importance: float | Sequence[float] | Sequence[Sequence[float]] | np.ndarray | Tensor | None = None,
        qk_pairs: Pairs | Sequence[Pairs] = (),
        qk_weight: float | Sequence[float] | np.ndarray | Tensor = 1.0,
        record: Sequence[str] | None = None,
        optimizer: Any = None,
        empty_rows: Literal["auto", "drawn", "exact"] = "auto",
        **settings: Any,
    ) -> "Recipe":
        """The recipe of these arguments of `train`: what has several forms is made uniform, and None is the default."""
        given.check_no_text(seeds=seeds, steps=steps, importance=importance, qk_weight=qk_weight, qk_pairs=qk_pairs)
        stages = (stages,) if isinstance(stages, str) else stages
        data, seeds, steps = given.as_data(data), plain(seeds), plain(steps)
        importance, qk_weight = plain(importance), plain(qk_weight)
        if importance is None:
            importance = 1.0
        if isinstance(importance, int | float):
            importance = [importance] * cfg.n_outputs
        rows: EmptyRows | tuple[EmptyRows, ...]
        if empty_rows != "auto":
            rows = empty_rows
        elif isinstance(data, Sequence):
            rows = tuple("exact" if mostly_empty(each, cfg) else "drawn" for each in data)
        else:
            rows = "exact" if mostly_empty(data, cfg) else "drawn"
        others = {name: given.tuples(value) for name, value in settings.items() if value is not None}
        if not isinstance(task := others.get("task", Reconstruct()), Task):
            others["task"] = given.of_function("task", task, tasks.TaskFunction, "Reconstruct()")
        if not isinstance(loss := others.get("loss", "mse"), str | losses.Loss):
            others["loss"] = given.of_function("loss", loss, losses.LossFunction, "losses.Lp(4)")
        return cls(
            cfg=cfg,
            data=data,
            seeds=tuple(seeds) if isinstance(seeds, Iterable) else given.first(seeds),
            steps=tuple(steps) if isinstance(steps, Sequence) else (steps,) * len(stages),
            stages=tuple(stages),
            importance=given.floats(importance),
            qk_pairs=tuple(given.weighed(head) for head in given.each_head(qk_pairs, cfg.n_heads)),
            qk_weight=qk_weight if isinstance(qk_weight, int | float) else given.floats(qk_weight),
            record=given.recorded(record, cfg),
            optimizer=given.as_optimizer(optimizer),
            empty_rows=rows,
            **others,
        )

    def __post_init__(self) -> None:
        """Validate what the parts cannot see by themselves."""
        for name in ("seeds", "steps", "batch_size", "qk_weight", "record_every"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        self._check_seeds_and_steps()
        self._check_lengths()
        for name, choices in CHOICES.items():
            for value in self._each(name) if name in Setting._fields else (getattr(self, name),):
                if value not in get_args(choices) and not isinstance(value, losses.Loss):
                    raise choice_error(name, value, get_args(choices))
        self._check_what_is_learned()
        self._check_heads()
        self._check_own_parts()

    def _each(self, name: str) -> tuple[Any, ...]:
        """The value of a field of `Setting`, one per model."""
        value = getattr(self, name)
        return value if name in self.varying else (value,) * len(self.seeds)

    def _check_lengths(self) -> None:
        """One value per model where they differ; where all are the same, that one is kept."""
        k = len(self.seeds)
        for name in self.varying:
            values = getattr(self, name)
            if len(values) != k:
                count, shown = len(values), "importance rows" if name == "importance" else name
                raise ValueError(
                    f"{shown}: {count} for {k} model{'s' * (k > 1)}, whose seeds are {_few(self.seeds)}: give one per "
                    f"seed, such as seeds=range({count}), or seeds=[{self.seeds[0]}] * {count} for models that differ "
                    "in nothing else"
                )
            if all(value == values[0] for value in values):
                object.__setattr__(self, name, values[0])

    def _check_seeds_and_steps(self) -> None:
        for name in ("seeds", "steps"):
            for value in getattr(self, name):
                check_whole(**{name: value})
        if not self.seeds:
            raise ValueError("seeds is empty: give at least one seed, one model each")
        if min(self.seeds) < 0 or max(self.seeds) >= HELD_OUT_SEED:
            raise ValueError(f"seeds from {min(self.seeds)} to {max(self.seeds)}: must be in [0, 2^63 - 1)")
        if not self.stages:
            raise ValueError("stages is empty: give at least one of " + ", ".join(get_args(Stage)))
        for stage in self.stages:
            if stage not in get_args(Stage):
                raise choice_error("stage", stage, get_args(Stage))
        if min(self.steps, default=0) < 1:
            shown = self.steps[0] if len(self.steps) == 1 else self.steps
            raise ValueError(f"steps={shown}: every stage needs at least 1")
        if len(self.stages) != len(self.steps):
            raise ValueError(
                f"{len(self.steps)} entries in steps for {len(self.stages)} stages {self.stages}: "
                "give one number, or one per stage"
            )
        check_whole(record_every=self.record_every)
        check_at_least_one(record_every=self.record_every)

    def _check_what_is_learned(self) -> None:
        if (asked := self.task.d_out(self.cfg.n_features)) != self.cfg.n_outputs:
            raise ValueError(
                f"task={self.task} asks for {asked} outputs, the model has {self.cfg.n_outputs}: must be equal; "
                f"use ToyConfig(d_out={asked}, tied=False)"
            )
        size = 1 if self.batch_size in (None, "exact") else self.batch_size
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(
                f"batch_size={self.batch_size!r}: must be at least 1, or None for the default, or 'exact' for the "
                "expectation"
            )
        for setting in dict.fromkeys(self.settings):
            self._check_setting(setting)
        if self.loss == "cross_entropy" and self.cfg.output_act != "softmax":
            raise ValueError(
                f"loss='cross_entropy' with output_act={self.cfg.output_act!r}: it needs output_act='softmax'"
            )
        if self.loss == "cross_entropy" and self.cfg.scale == "after":
            raise ValueError(
                "loss='cross_entropy' with scale='after': a softmax times a scale is no probability; use scale='before'"
            )
        for data in dict.fromkeys(self._each("data")) if self.loss == "cross_entropy" else ():
            total = self.task.target(data.sample(256, seed=HELD_OUT_SEED)).sum(-1)
            if (worst := total[(total - 1).abs().argmax()]) > 1 + 1e-4 or worst < 1 - 1e-4:
                raise ValueError(
                    f"loss='cross_entropy' with data whose targets sum to {worst:.3g}: they must be shares that sum to "
                    "1; use OneHot data, samples of your own that do, or loss='mse'"
                )

    def _check_setting(self, setting: Setting) -> None:
        n = self.cfg.n_features
        for name, kind in (("data", Distribution), ("optimizer", Optimizer)):
            if not isinstance(value := getattr(setting, name), kind):
                raise ValueError(
                    f"{name}={value!r} is no {kind.__name__}: give an object such as "
                    f"{next(iter(KINDS[name]))}(...), or one per model"
                )
        if setting.data.n_features != n:
            raise ValueError(f"data has n_features={setting.data.n_features}, the model {n}: they must be equal")
        if len(setting.importance) != self.cfg.n_outputs:
            what = self.cfg.loss_axis
            raise ValueError(
                f"importance has {len(setting.importance)} entries for {self.cfg.n_outputs} {what}s: "
                f"give one per {what}"
            )
        for value in setting.importance:
            check_not_negative(importance=value)
        check_not_negative(qk_weight=setting.qk_weight)
        setting.optimizer.check_parameters(forward.weight_shapes(self.cfg))
        if setting.penalty is not None and (isinstance(setting.penalty, type) or not callable(setting.penalty)):
            raise ValueError(
                f"penalty={setting.penalty!r}: give an object such as Lasso(0.01), or a function of weights"
            )
        if setting.empty_rows == "exact" and not mostly_empty(setting.data, self.cfg):
            raise ValueError(
                "empty_rows='exact' is for independent features (SparseUniform, ...) of which at least half the rows "
                "are empty, and no heads; use empty_rows='drawn'"
            )

    def _check_heads(self) -> None:
        heads, n = self.cfg.n_heads, self.cfg.n_features
        if self.head_objective == "pattern" and not (
            heads and (self.batch_size or all(setting.data.dataset() is None for setting in self.settings))
        ):
            raise ValueError(
                f"head_objective='pattern' with n_heads={heads}, batch_size={self.batch_size}: it needs heads, and "
                "sampled batches; give n_heads and a batch_size, or use head_objective='scores'"
            )
        if not heads and (self.qk_pairs or self.stages != ("joint",)):
            raise ValueError(
                f"qk_pairs={self.qk_pairs}, stages={self.stages} with n_heads=0: only a model with heads has them"
            )
        if len(self.qk_pairs) != heads or not all(self.qk_pairs):
            raise ValueError(
                f"qk_pairs={self.qk_pairs} for n_heads={heads}: "
                "every head needs at least one (query feature, key feature) pair"
            )
        for pair in (pair for head in self.qk_pairs for pair in head):
            if not all(0 <= feature < n for feature in pair[:2]):
                raise ValueError(f"qk pair {pair[:2]}: features are numbered 0 to {n - 1}")
            if not 0 < pair_weight(pair) < math.inf:
                raise ValueError(
                    f"qk pair {pair[:2]} has weight {pair_weight(pair)}: must be finite and above 0; "
                    "leave out what a head is not to attend to"
                )

    def _check_own_parts(self) -> None:
        """Try out what the library does not know, and that it can be written down."""
        for data in dict.fromkeys(setting.data for setting in self.settings):
            if _is_own("data", data):
                _check_fields("data", data)
                check_draw(data)
            if tasks.is_own(self.task) or isinstance(self.loss, losses.Loss):
                self._try_task_and_loss(data.sample(8, seed=0, dtype=self.torch_dtype))
        for name, width in (("hidden_act", self.cfg.d_hidden), ("output_act", self.cfg.n_outputs)):
            if callable(act := getattr(self.cfg, name)):
                x = torch.linspace(-3, 3, 8 * width, dtype=self.torch_dtype).view(8, width)
                own.try_out(f"{name}={own.name_of(act)}", act, (x,), [(8, width)])

    def _try_task_and_loss(self, x: Float[Tensor, "batch feature"]) -> None:
        if tasks.is_own(self.task):
            _check_fields("task", self.task)
            own.try_out(f"target of {self.task}", self.task.target, (x,), [(len(x), self.cfg.n_outputs)])
        if isinstance(self.loss, losses.Loss):
            _check_fields("loss", self.loss)
            for importance in dict.fromkeys(setting.importance for setting in self.settings):
                losses.try_loss(self.loss, self.task.target(x), importance)

    @property
    def varying(self) -> list[str]:
        """Fields of `Setting` that have a value per model."""
        rows = bool(self.importance) and isinstance(self.importance[0], tuple)
        return [
            name
            for name in Setting._fields
            if (rows if name == "importance" else isinstance(getattr(self, name), tuple))
        ]

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The setting of every model."""
        return tuple(Setting(*values) for values in zip(*map(self._each, Setting._fields), strict=True))

    @cached_property
    def setting(self) -> Setting:
        """The setting that all models share.

        Raises:
            ValueError: they differ.
        """
        if self.varying:
            raise ValueError(
                f"{' and '.join(self.varying)} of these {len(self.seeds)} models differ: ask for one model's setting, "
                "`recipe.alone(i).setting`"
            )
        return Setting(*(getattr(self, name) for name in Setting._fields))

    def alone(self, *models: int) -> "Recipe":
        """The recipe of some of the models, by their numbers; of one it is what trains it alone.

        >>> from tms_hooks import OneHot
        >>> Recipe.of(ToyConfig(n_features=3, d_hidden=2), OneHot(n_features=3), seeds=(7, 8)).alone(1).seeds
        (8,)
        """
        names = ("seeds", *self.varying)
        own: dict[str, Any] = {name: tuple(getattr(self, name)[i] for i in models) for name in names}
        return replace(self, **own)

    @cached_property
    def parts(self) -> list[tuple[list[int], "Recipe"]]:
        """Numbers and recipe of the models of each setting: engines train these side by side."""
        if not self.varying:
            return [(list(range(len(self.seeds))), self)]
        parts: dict[Setting, list[int]] = {}
        for i, setting in enumerate(self.settings):
            parts.setdefault(setting, []).append(i)
        return [(models, self.alone(*models)) for models in parts.values()]

    @property
    def differences(self) -> dict[str, list[Any]]:
        """What differs between the models, one value per model, by the names that it has where it is given.

        Of data, optimizers and penalties these are the fields that differ, and their class if that does. What follows
        from the data, `empty_rows`, is left out.

        >>> from tms_hooks import SGD, OneHot
        >>> cfg, data = ToyConfig(n_features=3, d_hidden=2), OneHot(n_features=3)
        >>> Recipe.of(cfg, data, seeds=(7, 8), optimizer=[SGD(lr=0.1), SGD(lr=0.2)]).differences
        {'lr': [0.1, 0.2]}
        """
        found: dict[str, list[Any]] = {}
        for name in self.varying:
            values = self._each(name)
            if name in KINDS:
                kinds = [
                    getattr(value, "__name__", type(value).__name__) if value is not None else None for value in values
                ]
                plain = [{f.name: getattr(v, f.name) for f in (fields(v) if is_dataclass(v) else ())} for v in values]
                columns = {name: kinds} | {key: [each.get(key) for each in plain] for each in plain for key in each}
                found |= {key: column for key, column in columns.items() if any(v != column[0] for v in column)}
            elif name != "empty_rows":
                found[name] = list(values)
        return found

    @property
    def total_steps(self) -> int:
        """Updates in all stages together."""
        return sum(self.steps)

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch names it."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def stage_at(self, step: int) -> tuple[Stage, int, int]:
        """Stage of an update, the update's number within it, and the stage's number of updates."""
        for stage, steps in zip(self.stages, self.steps, strict=True):
            if step < steps:
                return stage, step, steps
            step -= steps
        return self.stages[-1], self.steps[-1], self.steps[-1]

    def record_steps(self) -> list[int]:
        """Steps that the history records: every `record_every`, each stage's first, and the end."""
        starts = [sum(self.steps[:i]) for i in range(len(self.steps))]
        return sorted({*range(0, self.total_steps, self.record_every), *starts, self.total_steps})

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what a run directory stores."""
        plain: dict[str, Any] = own.plain(asdict(self))
        return plain | {name: _with_kind(name, getattr(self, name), plain[name]) for name in WRITTEN}

    @classmethod
    def from_dict(cls, plain: dict[str, Any], using: Iterable[Any] = ()) -> "Recipe":
        """Inverse of `to_dict`, with the user's own classes and functions that the recipe used.

        Raises:
            ValueError: a key that this version does not know, or lacks, or a kind that it does not know.
            LookupError: `using` lacks a part of the user's own.
        """
        known = {f.name for f in fields(cls)}
        for name in plain.keys() ^ known:
            raise ValueError(
                f"recipe key {name!r} is {'missing' if name in known else f'unknown; {did_you_mean(name, known)}'}"
            )
        own_parts = own.by_name(using)
        own.check_given(own.names_in(plain), own_parts)
        parts = own.with_functions(given.tuples(plain), own_parts)
        parts["cfg"] = ToyConfig(**parts["cfg"])
        for name in WRITTEN:
            parts[name] = _of_kind(name, parts[name], own_parts)
        return cls(**parts)


def kind_of(part: str, name: str) -> Any:
    """The class of this name, for the part of a recipe that is one of several classes.

    >>> kind_of("optimizer", "SGD")(lr=0.1).momentum
    0.0
    """
    if name not in WRITTEN[part]:
        raise choice_error(part, name, WRITTEN[part])
    return WRITTEN[part][name]


def _is_own(name: str, part: Any) -> bool:
    """Whether a part is of a class that its table does not hold."""
    return WRITTEN[name].get(type(part).__name__) is not type(part)


def _check_fields(name: str, part: Any) -> None:
    """Raise ValueError for a part that its fields, written down, would not make again."""
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    own.plain(values)
    try:
        type(part)(**values)
    except TypeError as error:
        raise ValueError(
            f"{name}={part}: cannot be made again from its fields {list(values)} ({error}); "
            "must be a frozen dataclass with a field per setting"
        ) from error


def _with_kind(name: str, part: Any, plain: Any) -> Any:
    """The plain data of a part, or of one per model, with the name of its class and whether that is the user's own."""
    if isinstance(part, tuple):
        return tuple(_with_kind(name, *both) for both in zip(part, plain, strict=True))
    if not is_dataclass(part):  # None, a word, or a function
        return plain
    return {"kind": type(part).__name__} | ({"own": True} if _is_own(name, part) else {}) | plain


def _of_kind(name: str, plain: Any, using: Mapping[str, Any]) -> Any:
    """Inverse of `_with_kind`."""
    if isinstance(plain, tuple):
        return tuple(_of_kind(name, each, using) for each in plain)
    if not isinstance(plain, dict):
        return plain
    kind = using[plain["kind"]] if plain.get("own") else kind_of(name, plain["kind"])
    return kind(**{key: value for key, value in plain.items() if key not in ("kind", "own")})


def _few(values: tuple[int, ...]) -> str:
    """A tuple as it is written, its middle left out if it is long."""
    return str(values) if len(values) <= 6 else f"({values[0]}, {values[1]}, ..., {values[-1]})"
