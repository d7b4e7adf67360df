"""Data in which a given number of features are active: one, `k` of them, or `k` in each point of a fixed set.

And samples of your own, which are what they are.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from itertools import combinations
from math import comb
from typing import Any, Literal, no_type_check

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks import rng
from tms_hooks.data.base import MAX_DATASET_ROWS, Distribution, PairMoments, moments
from tms_hooks.errors import choice_error, plain
from tms_hooks.linalg import placed

TAKEN = 2**63 - 1
"""Above every random number."""


@dataclass(frozen=True)
class KHot(Distribution):
    """Exactly `k` features are active, every subset equally likely; their values are 1, or uniform on [0, 1]."""

    k: int
    _: KW_ONLY
    values: Literal["binary", "uniform"] = "binary"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.k <= self.n_features:
            raise ValueError(f"k={self.k}: must be between 1 and n_features={self.n_features}")
        if self.values not in ("binary", "uniform"):
            raise choice_error("values", self.values, ("binary", "uniform"))

    def dataset(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch feature"] | None:
        """All `n choose k` binary vectors in lexicographic order of their active features.

        Raises:
            ValueError: more than 100,000 of them: sample instead.
        """
        if self.values == "uniform":
            return None
        rows = comb(self.n_features, self.k)
        if rows > MAX_DATASET_ROWS:
            raise ValueError(
                f"{self.n_features} choose {self.k} is {rows:,} vectors, more than {MAX_DATASET_ROWS:,}; "
                "give a batch_size to sample them"
            )
        active = torch.tensor(list(combinations(range(self.n_features), self.k)))
        return torch.zeros(rows, self.n_features, dtype=dtype).scatter_(1, active, 1)

    def active_probability(self) -> Float[Tensor, " feature"]:
        """k / n for every feature, float64."""
        return torch.full((self.n_features,), self.k / self.n_features, dtype=torch.float64)

    @property
    def numbers(self) -> Sequence[float | int]:
        """`k`, and whether values are uniform."""
        return self.k, self.values == "uniform"

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        n = self.n_features
        u = rng.uniforms(keys, 2, batch, n)
        # Of equal random numbers the first feature's comes first; topk alone would choose any.
        order = (u[:, 0] * 2.0**33).long() * n + torch.arange(n, device=u.device)
        active = order.topk(self.k, dim=-1, largest=False).indices
        value = u[:, 1].gather(-1, active) if self.values == "uniform" else torch.ones_like(active, dtype=u.dtype)
        return torch.zeros_like(u[:, 0]).scatter_(-1, active, value)

    @staticmethod
    @no_type_check
    def fill(x, numbers, key, first, rows, batch, room):
        """`_draw` as a loop: `k` times, the feature of lowest random number in each row, the first of equals."""
        n, k, uniform = len(x), int(numbers[0]), numbers[1] > 0
        for i in range(n):
            for r in range(rows):
                room[i, r] = rng.entry(key, (first + r) * n + i) * n + i
        for _ in range(k):
            for r in range(rows):
                room[n, r] = room[0, r]
            for i in range(1, n):
                for r in range(rows):
                    room[n, r] = min(room[n, r], room[i, r])
            for r in range(rows):
                i = room[n, r] % n
                room[i, r] = TAKEN
                x[i, r] = rng.in_unit(rng.entry(key, (batch + first + r) * n + i)) if uniform else 1.0

    def _pair_moments(self) -> PairMoments:
        p, n = self.active_probability(), self.n_features
        pair = self.k * (self.k - 1) / (n * (n - 1)) if n > 1 else 0.0
        both = torch.full((n, n), pair, dtype=torch.float64)
        return moments(p, both) if self.values == "uniform" else moments(p, both, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class OneHot(Distribution):
    """One active feature, equal to 1: the data set is the identity matrix.

    >>> OneHot(n_features=2).dataset()
    tensor([[1., 0.],
            [0., 1.]])
    """

    def dataset(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch feature"] | None:
        """The identity matrix."""
        return torch.eye(self.n_features, dtype=dtype)

    def active_probability(self) -> Float[Tensor, " feature"]:
        """1 / n for every feature, float64."""
        return torch.full((self.n_features,), 1 / self.n_features, dtype=torch.float64)

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        index = (rng.uniform_bits(keys, batch) * self.n_features) >> 32
        return (index[..., None] == torch.arange(self.n_features, device=keys.device)).to(torch.float64)

    @staticmethod
    @no_type_check
    def fill(x, numbers, key, first, rows, batch, room):
        """`_draw` as a loop."""
        for r in range(rows):
            x[rng.entry(key, first + r) * len(x) >> 32, r] = 1.0

    def _pair_moments(self) -> PairMoments:
        p = self.active_probability()
        return moments(p, torch.zeros(self.n_features, self.n_features, dtype=torch.float64), 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class RandomPoints(Distribution):
    """A fixed set of random points, to be memorized: unit norm, `k` active features each, all equally likely.

    A larger set begins with the points of a smaller one of the same `points_seed`. The active features are a random
    subset, their values uniform before the norm is made 1. (After the data sets of Henighan et al. 2023,
    "Superposition, Memorization, and Double Descent".)

    >>> RandomPoints(n_features=6, n_points=3, k=2).dataset().square().sum(-1)
    tensor([1., 1., 1.])
    """

    n_points: int
    k: int
    points_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.n_points <= MAX_DATASET_ROWS:
            raise ValueError(f"n_points={self.n_points}: must be between 1 and {MAX_DATASET_ROWS:,}")
        if not 1 <= self.k <= self.n_features:
            raise ValueError(f"k={self.k}: must be between 1 and n_features={self.n_features}")

    def dataset(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch feature"]:
        """The points."""
        u = rng.uniforms(rng.keys([self.points_seed], 0), self.n_points, 2 * self.n_features)[0]
        order, value = u.tensor_split(2, dim=-1)
        active = order.topk(self.k, dim=-1, largest=False).indices
        points = torch.zeros_like(order).scatter_(-1, active, value.gather(-1, active))
        return torch.nn.functional.normalize(points, dim=-1).to(dtype)

    @cached_property
    def _points(self) -> Float[Tensor, "batch feature"]:
        return self.dataset(torch.float64)

    def active_probability(self) -> Float[Tensor, " feature"]:
        """Share of the points in which each feature is active, float64."""
        return (self.dataset(torch.float64) > 0).to(torch.float64).mean(0)

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        index = (rng.uniform_bits(keys, batch) * self.n_points) >> 32
        return placed(self._points, keys.device)[index]

    def _pair_moments(self) -> PairMoments:
        x = self.dataset(torch.float64)
        return x.mT @ x / self.n_points, (x > 0).to(x.dtype).mT @ x / self.n_points


@dataclass(frozen=True)
class Samples(Distribution):
    """Samples of your own, all equally likely: a tensor or an array, with a row per sample and a column per feature.

    They are kept, and saved with a run, as plain numbers.

    >>> Samples(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).active_probability()
    tensor([1.0000, 0.5000], dtype=torch.float64)

    Raises:
        ValueError: no such table, more than 100,000 samples, or a value that is not finite.
    """

    rows: Any = field(repr=False)
    n_features: int = field(default=0, kw_only=True)
    """The number of columns: it need not be given."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", plain(self.rows))
        sizes = {len(row) if isinstance(row, tuple) else 0 for row in self.rows} if isinstance(self.rows, tuple) else ()
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError("samples must be a table of numbers (sample, feature), with as many entries in every row")
        if len(self.rows) > MAX_DATASET_ROWS:
            raise ValueError(
                f"{len(self.rows):,} samples, more than {MAX_DATASET_ROWS:,}; subclass `Distribution` to draw from them"
            )
        if not self._table.isfinite().all():
            raise ValueError(f"sample {int((~self._table.isfinite()).nonzero()[0, 0])} is not finite; leave it out")
        if self.n_features not in (0, *sizes):
            raise ValueError(f"n_features={self.n_features}: the samples have {sizes.pop()} columns; leave it out")
        object.__setattr__(self, "n_features", sizes.pop())
        super().__post_init__()

    def __hash__(self) -> int:
        return self._hash  # made once, because a training asks for its data at every step

    @cached_property
    def _hash(self) -> int:
        return hash(self.rows)

    @cached_property
    def _table(self) -> Float[Tensor, "batch feature"]:
        return torch.tensor(self.rows, dtype=torch.float64)

    def dataset(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch feature"]:
        """The samples."""
        return self._table.to(dtype, copy=True)

    def active_probability(self) -> Float[Tensor, " feature"]:
        """Share of the samples in which each feature is not 0, float64."""
        return (self._table != 0).double().mean(0)

    @property
    def numbers(self) -> Sequence[float | int]:
        """All samples, one after another."""
        return self._table.flatten().tolist()

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        index = (rng.uniform_bits(keys, batch) * len(self.rows)) >> 32
        return placed(self._table, keys.device)[index]

    @staticmethod
    @no_type_check
    def fill(x, numbers, key, first, rows, batch, room):
        """`_draw` as a loop."""
        n = len(x)
        for r in range(rows):
            at = (rng.entry(key, first + r) * (len(numbers) // n) >> 32) * n
            for i in range(n):
                x[i, r] = numbers[at + i]

    def _pair_moments(self) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
        x = self._table
        return x.mT @ x / len(x), (x != 0).double().mT @ x / len(x)
