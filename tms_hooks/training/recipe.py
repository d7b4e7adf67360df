"""`Recipe`: everything that decides what a training run computes, and nothing else."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.config import ToyConfig
from tms_hooks.data import DISTRIBUTIONS, MAX_DATASET_ROWS, Distribution, SparseUniform
from tms_hooks.errors import choice_error, did_you_mean
from tms_hooks.losses import Pair
from tms_hooks.training.optimizers import OPTIMIZERS, Optimizer

Loss = Literal["mse", "cross_entropy"]
HeadObjective = Literal["scores", "pattern"]
Stage = Literal["joint", "representation", "heads"]
Dtype = Literal["float32", "float64"]
EmptyRows = Literal["drawn", "exact"]

DEFAULT_BATCH = 1024
QK_KEYS = 8
"""Key tokens that a query chooses from under `head_objective="pattern"`."""
HELD_OUT_SEED = 2**63 - 1
"""The seed that no model may have: its samples are for evaluation."""


def mostly_empty(data: Distribution, cfg: ToyConfig) -> bool:
    """Whether empty rows, more than half of all, can be left to their closed form."""
    return isinstance(data, SparseUniform) and data.empty_probability >= 0.5 and not cfg.n_heads


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A validated, serialisable description of a run: two equal recipes give the same bits on the same engine.

    The arguments are those of `tms_hooks.train`, made uniform: `steps` one entry a stage, `qk_pairs` one list a head.
    """

    cfg: ToyConfig
    data: Distribution
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    stages: tuple[Stage, ...]
    optimizer: Optimizer
    batch_size: int | None
    importance: tuple[float, ...]
    loss: Loss
    qk_pairs: tuple[tuple[Pair, ...], ...]
    qk_weight: float
    record_every: int
    dtype: Dtype
    empty_rows: EmptyRows = "drawn"
    head_objective: HeadObjective = "scores"

    def __post_init__(self) -> None:
        """Validate what the parts cannot see by themselves."""
        self._check_seeds_and_steps()
        self._check_data_and_loss()
        self._check_empty_rows()
        self._check_heads()

    def _check_seeds_and_steps(self) -> None:
        if not self.seeds:
            raise ValueError("seeds is empty: give at least one seed, one model each")
        if min(self.seeds) < 0 or max(self.seeds) >= HELD_OUT_SEED:
            raise ValueError(f"seeds from {min(self.seeds)} to {max(self.seeds)}: must be in [0, 2^63 - 1)")
        if not self.stages:
            raise ValueError("stages is empty: give at least one of " + ", ".join(get_args(Stage)))
        if min(self.steps, default=0) < 1:
            raise ValueError(f"steps={self.steps}: every stage needs at least 1")
        if self.record_every < 1:
            raise ValueError(f"record_every={self.record_every}: must be at least 1")
        if self.dtype not in get_args(Dtype):
            raise choice_error("dtype", self.dtype, get_args(Dtype))

    def _check_data_and_loss(self) -> None:
        n = self.cfg.n_features
        if self.data.n_features != n:
            raise ValueError(f"data has n_features={self.data.n_features}, the model {n}: they must be equal")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: must be at least 1, or None for the default")
        if len(self.importance) != n:
            raise ValueError(f"importance has {len(self.importance)} entries for {n} features: give one a feature")
        for value in self.importance:
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"importance={value}: must be finite and not negative")
        if self.loss not in get_args(Loss):
            raise choice_error("loss", self.loss, get_args(Loss))
        if self.loss == "cross_entropy" and self.cfg.output_act != "softmax":
            raise ValueError(
                f"loss='cross_entropy' with output_act={self.cfg.output_act!r}: it needs output_act='softmax'"
            )

    def _check_empty_rows(self) -> None:
        if self.empty_rows not in get_args(EmptyRows):
            raise choice_error("empty_rows", self.empty_rows, get_args(EmptyRows))
        if self.empty_rows == "exact" and not mostly_empty(self.data, self.cfg):
            raise ValueError(
                "empty_rows='exact' is for SparseUniform data of which at least half the rows are empty, and no heads; "
                "use empty_rows='drawn'"
            )

    def _check_heads(self) -> None:
        heads = self.cfg.n_heads
        if self.head_objective not in get_args(HeadObjective):
            raise choice_error("head_objective", self.head_objective, get_args(HeadObjective))
        sampled = self.batch_size is not None or self.data.dataset() is None
        if self.head_objective != "scores" and not (heads and sampled):
            raise ValueError(
                f"head_objective={self.head_objective!r} with n_heads={heads}, batch_size={self.batch_size}: it needs "
                "heads, and sampled batches; give n_heads and a batch_size, or use head_objective='scores'"
            )
        if not (math.isfinite(self.qk_weight) and self.qk_weight >= 0):
            raise ValueError(f"qk_weight={self.qk_weight}: must be finite and not negative")
        for stage in self.stages:
            if stage not in get_args(Stage):
                raise choice_error("stage", stage, get_args(Stage))
        if len(self.stages) != len(self.steps):
            raise ValueError(
                f"{len(self.steps)} entries in steps for {len(self.stages)} stages {self.stages}: "
                "give one number, or one a stage"
            )
        if heads == 0:
            if self.qk_pairs or self.stages != ("joint",):
                raise ValueError(
                    f"qk_pairs={self.qk_pairs}, stages={self.stages} with n_heads=0: only a model with heads has them"
                )
            return
        if len(self.qk_pairs) != heads or not all(self.qk_pairs):
            raise ValueError(
                f"qk_pairs={self.qk_pairs} for n_heads={heads}: "
                "every head needs at least one (query feature, key feature) pair"
            )
        for i, j in (pair for head in self.qk_pairs for pair in head):
            if not (0 <= i < self.cfg.n_features and 0 <= j < self.cfg.n_features):
                raise ValueError(f"qk pair {(i, j)}: features are numbered 0 to {self.cfg.n_features - 1}")

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
        """Steps at which the history looks: every `record_every`, each stage's first, and the end."""
        starts = [sum(self.steps[:i]) for i in range(len(self.steps))]
        return sorted({*range(0, self.total_steps, self.record_every), *starts, self.total_steps})

    def batch(
        self, seeds: tuple[int, ...], step: int, device: torch.device | str
    ) -> Float[Tensor, "model batch *pos feature"]:
        """The training batch of each seed at a step; with heads, independent query and key tokens."""
        whole = self.whole_dataset(device)
        if whole is not None:
            return whole.expand(len(seeds), *whole.shape).contiguous()
        rows, _ = self.rows()
        if self.empty_rows == "exact":
            assert isinstance(self.data, SparseUniform)  # _check_empty_rows
            return self.data.sample_occupied(rows, seed=seeds, step=step, dtype=self.torch_dtype, device=device)
        if not self.cfg.n_heads:
            return self.data.sample(rows, seed=seeds, step=step, dtype=self.torch_dtype, device=device)
        tokens = [
            self.data.sample(
                rows, seed=seeds, step=self.tokens * step + position, dtype=self.torch_dtype, device=device
            )
            for position in range(self.tokens)
        ]
        return torch.stack(tokens, dim=2)

    @property
    def tokens(self) -> int:
        """Tokens in a row of a batch: with heads a query and its keys, of which only attention needs several."""
        if not self.cfg.n_heads:
            return 1
        return 2 if self.head_objective == "scores" else 1 + QK_KEYS

    def rows(self) -> tuple[int, float]:
        """How many rows are drawn a step, and the share of the distribution that they stand for."""
        batch = self.batch_size or DEFAULT_BATCH
        if self.empty_rows == "drawn":
            return batch, 1.0
        assert isinstance(self.data, SparseUniform)  # _check_empty_rows
        share = 1 - self.data.empty_probability
        return max(round(batch * share), 1), share

    def whole_dataset(self, device: torch.device | str) -> Float[Tensor, "batch *pos feature"] | None:
        """Every vector of a finite distribution (with heads: every ordered pair), unless a batch size is given."""
        rows = self.data.dataset(self.torch_dtype) if self.batch_size is None else None
        if rows is None or not self.cfg.n_heads:
            return rows if rows is None else rows.to(device)
        count = len(rows)
        if count**2 > MAX_DATASET_ROWS:
            raise ValueError(
                f"{count:,} vectors make {count**2:,} ordered pairs, more than {MAX_DATASET_ROWS:,}; "
                "give a batch_size to sample them"
            )
        return torch.stack([rows.repeat_interleave(count, 0), rows.repeat(count, 1)], dim=1).to(device)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what a run directory stores."""
        plain = asdict(self)
        for name in ("data", "optimizer"):
            plain[name] = {"kind": type(getattr(self, name)).__name__} | plain[name]
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Recipe":
        """Inverse of `to_dict`.

        Raises:
            ValueError: a key that this version does not know, or lacks.
        """
        known = {f.name for f in fields(cls)}
        for name in plain.keys() ^ known:
            raise ValueError(
                f"recipe key {name!r} is {'missing' if name in known else f'unknown; {did_you_mean(name, known)}'}"
            )
        plain = _tuples(plain)
        data, optimizer = plain["data"], plain["optimizer"]
        parts = {
            "cfg": ToyConfig(**plain["cfg"]),
            "data": DISTRIBUTIONS[data.pop("kind")](**data),
            "optimizer": OPTIMIZERS[optimizer.pop("kind")](**optimizer),
        }
        return cls(**plain | parts)


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    if isinstance(value, dict):
        return {key: _tuples(entry) for key, entry in value.items()}
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
