"""Feature distributions: frozen descriptions whose samples are pure functions of (batch, seed, step).

`sample` takes one seed ("batch feature") or a sequence of them, one a model ("model batch feature"); row `i` of the
second is the first with seed `i`. Every distribution also gives its exact moments, which `tms_hooks.theory` builds on.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import comb
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks import rng
from tms_hooks.errors import choice_error

MAX_DATASET_ROWS = 100_000
STRIP = 16
"""Rows whose random bits lie together in the stream."""


@dataclass(frozen=True, kw_only=True)
class Distribution(ABC):
    """Base of all distributions over feature vectors with entries in [0, 1].

    Subclasses are final: they give `_draw`, `active_probability` and `_pair_moments`; finite ones also `dataset`.
    """

    n_features: int

    def __post_init__(self) -> None:
        """Validate."""
        if self.n_features < 1:
            raise ValueError(f"n_features={self.n_features}: must be at least 1")

    def sample(
        self,
        batch: int,
        *,
        seed: int | Sequence[int],
        step: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "*model batch feature"]:
        """Draw a batch: the same arguments give the same tensor, on any machine and device.

        >>> data = OneHot(n_features=3)
        >>> data.sample(2, seed=0, step=5).equal(data.sample(2, seed=0, step=5))
        True
        """
        if batch < 1:
            raise ValueError(f"batch={batch}: must be at least 1")
        seeds = [seed] if isinstance(seed, int) else list(seed)
        if not seeds:
            raise ValueError("seed is an empty sequence: give at least one, one a model")
        x = self._draw(rng.keys(seeds, step, device), batch).to(dtype)
        return x[0] if isinstance(seed, int) else x

    def dataset(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch feature"] | None:
        """Every vector of a finite, equally weighted distribution; None for a continuous one."""
        return None

    @abstractmethod
    def active_probability(self) -> Float[Tensor, " feature"]:
        """P(x_i > 0), float64."""

    def second_moment(self) -> Float[Tensor, "feature feature"]:
        """E[x_i x_j], uncentred, float64."""
        return self._pair_moments()[0]

    def active_moment(self) -> Float[Tensor, "feature feature"]:
        """E[1(x_i > 0) x_j], float64."""
        return self._pair_moments()[1]

    @abstractmethod
    def _pair_moments(self) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
        """E[x x^T] and E[1(x > 0) x^T]."""

    @abstractmethod
    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        """One batch for every key, float64."""


@dataclass(frozen=True, kw_only=True)
class _WithProbability(Distribution):
    """A distribution with a feature probability: one number, or one a feature."""

    feature_probability: float | tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.feature_probability, float | int):
            object.__setattr__(self, "feature_probability", tuple(float(p) for p in self.feature_probability))
        given = self.feature_probability
        if isinstance(given, tuple) and len(given) != self.n_features:
            raise ValueError(
                f"feature_probability has {len(given)} entries for n_features={self.n_features}; "
                "give one number, or one a feature"
            )
        for p in given if isinstance(given, tuple) else (given,):
            if not 0 < p <= 1:
                raise ValueError(f"feature_probability={p}: must be in (0, 1]; sparsity S is 1 - feature_probability")

    @property
    def sparsity(self) -> float | tuple[float, ...]:
        """S = 1 - p."""
        p = self.feature_probability
        return tuple(1 - q for q in p) if isinstance(p, tuple) else 1 - p

    def active_probability(self) -> Float[Tensor, " feature"]:
        """The feature probabilities, float64."""
        p = torch.tensor(self.feature_probability, dtype=torch.float64)
        return p.expand(self.n_features).clone()


@dataclass(frozen=True, kw_only=True)
class SparseUniform(_WithProbability):
    """Independent features: 0 with probability 1 - p, else uniform on [0, 1] (Elhage et al. 2022).

    >>> SparseUniform(n_features=2, feature_probability=0.25).second_moment()
    tensor([[0.0833, 0.0156],
            [0.0156, 0.0833]], dtype=torch.float64)
    """

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        return values_below(self._bits(keys, batch), self.thresholds[1].to(keys.device))

    def _bits(self, keys: Int64[Tensor, " model"], rows: int) -> Int64[Tensor, "model batch feature"]:
        """32 random bits an entry, feature by feature in strips of `STRIP` rows: what vectors in compiled code like."""
        strips = -(-rows // STRIP)
        bits = rng.uniform_bits(keys, strips * self.n_features * STRIP)
        return bits.unflatten(1, (strips, self.n_features, STRIP)).mT.flatten(1, 2)[:, :rows]

    def _pair_moments(self) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
        p = self.active_probability()
        return _moments(p, torch.outer(p, p), uniform=True)

    @cached_property
    def empty_probability(self) -> float:
        """P(all features are 0)."""
        return float((1 - self.active_probability()).prod())

    def sample_occupied(
        self,
        rows: int,
        *,
        seed: int | Sequence[int],
        step: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "*model batch feature"]:
        """Draw rows given that each has an active feature: what is left of a batch when its empty rows are known.

        Feature by feature: as long as none of a row's features is active, the next one is likelier to be.

        >>> SparseUniform(n_features=3, feature_probability=0.01).sample_occupied(4, seed=0).count_nonzero(dim=-1)
        tensor([1, 1, 1, 1])
        """
        keys = rng.keys([seed] if isinstance(seed, int) else list(seed), step, device)
        bits = self._bits(keys, rows)
        alone, after = self.thresholds.to(device)
        hits = bits < alone
        x = values_below(bits, torch.where(hits.cumsum(-1) > hits.long(), after, alone)).to(dtype)
        return x[0] if isinstance(seed, int) else x

    @cached_property
    def thresholds(self) -> Int64[Tensor, "2 feature"]:
        """2^32 P(a feature of a row that is not empty is active) if none before it is (first row), or one (second).

        If none before is active, one from here on must be: p_i / (1 - prod_{j >= i} (1 - p_j)), which ends with 1.
        """
        p = self.active_probability()
        some_from_here = -torch.expm1(torch.log1p(-p).flip(0).cumsum(0).flip(0))
        return (torch.stack([p / some_from_here, p]) * 2.0**32).round().clamp(min=1).to(torch.int64)


@dataclass(frozen=True, kw_only=True)
class Copula(_WithProbability):
    """Sparse uniform features whose activity is tied by a Gaussian copula with equal correlation `rho`.

    `x_i = U_i / p_i` if `U_i < p_i`, else 0, with `U_i = Phi(z_i)` and `z` normal with correlation `rho` between any
    two. The marginals are those of `SparseUniform` for any `rho`; with `rho > 0`, a feature that is active together
    with others tends to be small.

    Raises:
        ValueError: `rho` outside [-1/(n-1), 1), where no such normal exists, or not above -1, where pairs degenerate.
    """

    rho: float

    def __post_init__(self) -> None:
        super().__post_init__()
        lowest = -1 / (self.n_features - 1) if self.n_features > 1 else -1.0
        if not (lowest <= self.rho and abs(self.rho) < 1):
            raise ValueError(
                f"rho={self.rho}: must be in [{lowest:.4g}, 1) and above -1 "
                f"for {self.n_features} equally correlated features"
            )

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        z = torch.special.ndtri(rng.uniforms(keys, batch, self.n_features))
        # The symmetric square root of (1 - rho) I + rho 1 1^T: two eigenvalues, so one scale and one sum.
        rest = (1 - self.rho) ** 0.5
        along_ones = max(1 + (self.n_features - 1) * self.rho, 0.0) ** 0.5
        u = torch.special.ndtr(rest * z + (along_ones - rest) * z.mean(-1, keepdim=True))
        p = self.active_probability().to(u.device)
        return torch.where(u < p, u / p, 0.0)

    def _pair_moments(self) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
        p = self.active_probability()
        pairs = torch.stack([p.repeat_interleave(self.n_features), p.repeat(self.n_features)], dim=1)
        distinct, where = torch.unique(pairs, dim=0, return_inverse=True)
        table = torch.tensor([_copula_moments(float(a), float(b), self.rho) for a, b in distinct], dtype=torch.float64)
        xx, ax = table[where].T.unflatten(1, (self.n_features, self.n_features))
        eye = torch.eye(self.n_features, dtype=torch.bool)
        return torch.where(eye, p / 3, xx), torch.where(eye, p / 2, ax)


@dataclass(frozen=True, kw_only=True)
class _Groups(_WithProbability):
    """Consecutive features in groups, independent between groups."""

    group_size: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size < 1 or self.n_features % self.group_size:
            raise ValueError(f"group_size={self.group_size}: must divide n_features={self.n_features}")
        if isinstance(self.feature_probability, tuple):
            raise ValueError("feature_probability must be one number: the members of a group share it")

    @property
    def _p(self) -> float:
        assert not isinstance(self.feature_probability, tuple)  # refused above
        return self.feature_probability

    def _same_group(self) -> Float[Tensor, "feature feature"]:
        group = torch.arange(self.n_features) // self.group_size
        return (group[:, None] == group).to(torch.float64)


@dataclass(frozen=True, kw_only=True)
class CorrelatedGroups(_Groups):
    """Groups of `group_size` features that are active all together or not at all, with independent uniform values."""

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        n, groups = self.n_features, self.n_features // self.group_size
        u = rng.uniforms(keys, batch, n + groups)
        active = u[..., n:] < self._p
        return u[..., :n] * active.repeat_interleave(self.group_size, dim=-1)

    def _pair_moments(self) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
        p, same = self.active_probability(), self._same_group()
        return _moments(p, same * p + (1 - same) * torch.outer(p, p), uniform=True)


@dataclass(frozen=True, kw_only=True)
class AnticorrelatedGroups(_Groups):
    """Groups of `group_size` features of which at most one is active, each with probability `feature_probability`.

    Raises:
        ValueError: `group_size * feature_probability` above 1: a group cannot be active more often than always.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size * self._p > 1:
            raise ValueError(f"feature_probability={self._p}: must be at most 1/group_size = {1 / self.group_size:.4g}")

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        n, groups = self.n_features, self.n_features // self.group_size
        u = rng.uniforms(keys, batch, n + groups)
        member = (u[..., n:] / self._p).floor().repeat_interleave(self.group_size, dim=-1)
        return u[..., :n] * (member == torch.arange(n, device=u.device) % self.group_size)

    def _pair_moments(self) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
        p = self.active_probability()
        return _moments(p, (1 - self._same_group()) * torch.outer(p, p), uniform=True)


@dataclass(frozen=True, kw_only=True)
class KHot(Distribution):
    """Exactly `k` active features, every subset equally likely: binary ones are 1, uniform ones uniform on [0, 1]."""

    k: int
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

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        n = self.n_features
        u = rng.uniforms(keys, 2, batch, n)
        order = (u[:, 0] * 2.0**33).long() * n + torch.arange(
            n, device=u.device
        )  # no ties, which topk may break anyhow
        active = order.topk(self.k, dim=-1, largest=False).indices
        value = u[:, 1].gather(-1, active) if self.values == "uniform" else torch.ones_like(active, dtype=u.dtype)
        return torch.zeros_like(u[:, 0]).scatter_(-1, active, value)

    def _pair_moments(self) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
        p, n = self.active_probability(), self.n_features
        pair = self.k * (self.k - 1) / (n * (n - 1)) if n > 1 else 0.0
        return _moments(p, torch.full((n, n), pair, dtype=torch.float64), uniform=self.values == "uniform")


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
        return torch.nn.functional.one_hot(index, self.n_features).to(torch.float64)

    def _pair_moments(self) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
        p = self.active_probability()
        return _moments(p, torch.zeros(self.n_features, self.n_features, dtype=torch.float64), uniform=False)


@dataclass(frozen=True, kw_only=True)
class RandomPoints(Distribution):
    """A fixed set of random points, to be memorised: unit norm, `k` active features each, all equally likely.

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

    def active_probability(self) -> Float[Tensor, " feature"]:
        """Share of the points in which each feature is active, float64."""
        return (self.dataset(torch.float64) > 0).to(torch.float64).mean(0)

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        index = (rng.uniform_bits(keys, batch) * self.n_points) >> 32
        return self.dataset(torch.float64).to(keys.device)[index]

    def _pair_moments(self) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
        x = self.dataset(torch.float64)
        return x.mT @ x / self.n_points, (x > 0).to(x.dtype).mT @ x / self.n_points


DISTRIBUTIONS: dict[str, type[Distribution]] = {
    cls.__name__: cls
    for cls in (SparseUniform, OneHot, KHot, RandomPoints, CorrelatedGroups, AnticorrelatedGroups, Copula)
}


def values_below(
    bits: Int64[Tensor, "*batch feature"], threshold: Int64[Tensor, "*#batch feature"]
) -> Float[Tensor, "*batch feature"]:
    """Turn 32 uniform bits into activity and value at once: uniform with probability threshold / 2^32, else 0.

    Below the threshold the bits are uniform themselves, so one draw serves both.
    """
    return torch.where(bits < threshold, (bits.to(torch.float64) + 0.5) * threshold.double().reciprocal(), 0.0)


def _moments(
    p: Float[Tensor, " feature"], both: Float[Tensor, "feature feature"], uniform: bool
) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
    """E[x x^T] and E[1(x > 0) x^T] from P(both active), for active values that are 1, or independent and uniform."""
    mean, square = (1 / 2, 1 / 3) if uniform else (1.0, 1.0)
    eye = torch.eye(len(p), dtype=torch.bool)
    return torch.where(eye, p * square, both * mean**2), torch.where(eye, p * mean, both * mean)


def _copula_moments(p: float, q: float, rho: float) -> tuple[float, float]:
    """E[x y] and E[1(x > 0) y] of two features tied by a Gaussian copula, by quadrature over both."""
    from scipy.integrate import quad
    from scipy.special import ndtr, ndtri

    spread = (1 - rho**2) ** 0.5
    top = float(ndtri(q)) if q < 1 else float("inf")

    def mean_y(u: float) -> float:
        """E[y | U_x = u] = integral_0^q v dP(V < v | u) / q, by parts."""
        centre = rho * float(ndtri(u))
        below, _ = quad(lambda v: float(ndtr((ndtri(v) - centre) / spread)), 0, q)
        return float((q * ndtr((top - centre) / spread) - below) / q)

    xy, _ = quad(lambda u: u * mean_y(u) / p, 0, p)
    ay, _ = quad(mean_y, 0, p)
    return xy, ay
