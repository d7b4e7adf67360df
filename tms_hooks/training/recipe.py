"""`Recipe`: everything that decides what a training run computes, and nothing else.

It describes and does not act: `training.batches` draws what it says, an engine trains it, a run directory keeps it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tms_hooks.config import ToyConfig
from tms_hooks.data import DISTRIBUTIONS, Distribution, SparseUniform
from tms_hooks.errors import check_at_least_one, check_not_negative, choice_error, did_you_mean
from tms_hooks.losses import Pair
from tms_hooks.tasks import TASKS, Reconstruct, Task
from tms_hooks.training.optimizers import OPTIMIZERS, Adam, Optimizer

Loss = Literal["mse", "cross_entropy"]
HeadObjective = Literal["scores", "pattern"]
Stage = Literal["joint", "representation", "heads"]
Dtype = Literal["float32", "float64"]
EmptyRows = Literal["drawn", "exact"]

CHOICES = {"loss": Loss, "head_objective": HeadObjective, "dtype": Dtype, "empty_rows": EmptyRows}
KINDS: dict[str, dict[str, Any]] = {"data": DISTRIBUTIONS, "task": TASKS, "optimizer": OPTIMIZERS}
"""The parts of a recipe that are one of several classes, written down as the name of the class and its fields."""
HELD_OUT_SEED = 2**63 - 1
"""The seed that no model may have: its samples are for evaluation."""


def mostly_empty(data: Distribution, cfg: ToyConfig) -> bool:
    """Whether at least half of all rows are empty, and their loss can be added in closed form."""
    return isinstance(data, SparseUniform) and data.empty_probability >= 0.5 and not cfg.n_heads


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A validated, serializable description of a run: two equal recipes give the same bits on the same engine.

    The fields are arguments of `tms_hooks.train`, made uniform: `steps` has one entry per stage, `importance` one per
    feature, `qk_pairs` one per head.
    """

    cfg: ToyConfig
    data: Distribution
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    stages: tuple[Stage, ...]
    importance: tuple[float, ...]
    qk_pairs: tuple[tuple[Pair, ...], ...]
    batch_size: int | None = None
    task: Task = field(default_factory=Reconstruct)
    optimizer: Optimizer = field(default_factory=Adam)
    loss: Loss = "mse"
    qk_weight: float = 1.0
    head_objective: HeadObjective = "scores"
    record_every: int = 100
    dtype: Dtype = "float32"
    empty_rows: EmptyRows = "drawn"

    @classmethod
    def of(
        cls,
        cfg: ToyConfig,
        data: Distribution,
        *,
        seeds: Iterable[int] = (0,),
        steps: int | Sequence[int] = 10_000,
        stages: Sequence[Stage] = ("joint",),
        importance: float | Sequence[float] | Tensor | None = None,
        qk_pairs: Sequence[Any] = (),
        empty_rows: Literal["auto", "drawn", "exact"] = "auto",
        **settings: Any,
    ) -> "Recipe":
        """The recipe of these arguments of `train`: what has several forms is made uniform, and None is the default."""
        if importance is None:
            importance = 1.0
        if isinstance(importance, int | float):
            importance = [importance] * cfg.n_outputs
        if qk_pairs and len(qk_pairs[0]) and not isinstance(qk_pairs[0][0], Sequence):
            qk_pairs = [qk_pairs] * max(cfg.n_heads, 1)
        return cls(
            cfg=cfg,
            data=data,
            seeds=tuple(int(seed) for seed in seeds),
            steps=tuple(steps) if isinstance(steps, Sequence) else (steps,) * len(stages),
            stages=tuple(stages),
            importance=tuple(float(value) for value in importance),
            qk_pairs=tuple(tuple((int(i), int(j)) for i, j in head) for head in qk_pairs),
            empty_rows=empty_rows if empty_rows != "auto" else "exact" if mostly_empty(data, cfg) else "drawn",
            **{name: value for name, value in settings.items() if value is not None},
        )

    def __post_init__(self) -> None:
        """Validate what the parts cannot see by themselves."""
        for name, choices in CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise choice_error(name, getattr(self, name), get_args(choices))
        self._check_seeds_and_steps()
        self._check_what_is_learned()
        self._check_heads()

    def _check_seeds_and_steps(self) -> None:
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
            raise ValueError(f"steps={self.steps}: every stage needs at least 1")
        if len(self.stages) != len(self.steps):
            raise ValueError(
                f"{len(self.steps)} entries in steps for {len(self.stages)} stages {self.stages}: "
                "give one number, or one per stage"
            )
        check_at_least_one(record_every=self.record_every)

    def _check_what_is_learned(self) -> None:
        n = self.cfg.n_features
        if self.data.n_features != n:
            raise ValueError(f"data has n_features={self.data.n_features}, the model {n}: they must be equal")
        if not isinstance(self.task, Task):
            raise ValueError(f"task={self.task!r} is no task: give an object such as Reconstruct(), not its class")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: must be at least 1, or None for the default")
        if len(self.importance) != self.cfg.n_outputs:
            what = self.cfg.loss_axis
            raise ValueError(
                f"importance has {len(self.importance)} entries for {self.cfg.n_outputs} {what}s: give one per {what}"
            )
        for value in self.importance:
            check_not_negative(importance=value)
        if self.loss == "cross_entropy" and self.cfg.output_act != "softmax":
            raise ValueError(
                f"loss='cross_entropy' with output_act={self.cfg.output_act!r}: it needs output_act='softmax'"
            )
        if self.empty_rows == "exact" and not mostly_empty(self.data, self.cfg):
            raise ValueError(
                "empty_rows='exact' is for SparseUniform data of which at least half the rows are empty, and no heads; "
                "use empty_rows='drawn'"
            )

    def _check_heads(self) -> None:
        heads, n = self.cfg.n_heads, self.cfg.n_features
        check_not_negative(qk_weight=self.qk_weight)
        if self.head_objective == "pattern" and not (heads and (self.batch_size or self.data.dataset() is None)):
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
            if not all(0 <= feature < n for feature in pair):
                raise ValueError(f"qk pair {pair}: features are numbered 0 to {n - 1}")

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
        plain = asdict(self)
        return plain | {name: {"kind": type(getattr(self, name)).__name__} | plain[name] for name in KINDS}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Recipe":
        """Inverse of `to_dict`.

        Raises:
            ValueError: a key that this version does not know, or lacks, or a kind that it does not know.
        """
        known = {f.name for f in fields(cls)}
        for name in plain.keys() ^ known:
            raise ValueError(
                f"recipe key {name!r} is {'missing' if name in known else f'unknown; {did_you_mean(name, known)}'}"
            )
        parts = _tuples(plain)
        parts["cfg"] = ToyConfig(**parts["cfg"])
        for name in KINDS:
            parts[name] = kind_of(name, parts[name].pop("kind"))(**parts[name])
        return cls(**parts)


def kind_of(part: str, name: str) -> Any:
    """The class of this name, for the part of a recipe that is one of several classes.

    >>> kind_of("optimizer", "SGD")(lr=0.1).momentum
    0.0
    """
    if name not in KINDS[part]:
        raise choice_error(part, name, KINDS[part])
    return KINDS[part][name]


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    if isinstance(value, dict):
        return {key: _tuples(entry) for key, entry in value.items()}
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
