"""Independent features: the data of the toy-models paper, and draws of only those rows that are not empty."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks import rng
from tms_hooks.data.base import Distribution, PairMoments, WithProbability, for_seeds, moments
from tms_hooks.errors import check_finite
from tms_hooks.linalg import placed

Kind = TypeVar("Kind", bound="Independent")

STRIP = 16
"""Rows whose random bits lie together in the stream."""


@dataclass(frozen=True, kw_only=True)
class Independent(WithProbability):
    """Independent features: 0 with probability 1 - p, else a value. A subclass says how values are distributed."""

    @abstractmethod
    def value(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """What uniform numbers in (0, 1) become: the inverse of the distribution function of active values."""

    @abstractmethod
    def value_moments(self) -> tuple[float | int, float | int]:
        """Mean and mean square of an active value."""

    @classmethod
    def power_law(
        cls: type[Kind], n_features: int, alpha: float | int, total: float | int = 1.0, **values: Any
    ) -> Kind:
        """Probabilities that fall with a feature's rank as rank^-alpha; on average `total` features are active.

        >>> SparseUniform.power_law(3, 1.0, total=1.1).active_probability()
        tensor([0.6000, 0.3000, 0.2000], dtype=torch.float64)

        Raises:
            ValueError: `alpha` is negative, `total` not positive, or the first probability would be above 1.
        """
        check_finite(alpha=alpha, total=total)
        if alpha < 0 or total <= 0:
            raise ValueError(f"alpha={alpha}, total={total}: alpha must not be negative, total must be positive")
        weight = [rank**-alpha for rank in range(1, n_features + 1)]
        if total > sum(weight):
            raise ValueError(
                f"total={total} with alpha={alpha}, n_features={n_features}: the first feature's probability would be "
                f"{total / sum(weight):.4g}; total must be at most {sum(weight):.4g}"
            )
        p = tuple(min(total * w / sum(weight), 1.0) for w in weight)
        return cls(n_features=n_features, feature_probability=p, **values)

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        return self._values_below(self._bits(keys, batch), placed(self.thresholds, keys.device)[1])

    def _bits(self, keys: Int64[Tensor, " model"], rows: int) -> Int64[Tensor, "model batch feature"]:
        """32 random bits per entry, feature by feature in strips of `STRIP` rows: vectors to compiled code."""
        strips = -(-rows // STRIP)
        bits = rng.uniform_bits(keys, strips * self.n_features * STRIP)
        return bits.unflatten(1, (strips, self.n_features, STRIP)).mT.flatten(1, 2)[:, :rows]

    def _values_below(
        self, bits: Int64[Tensor, "*batch feature"], threshold: Int64[Tensor, "*#batch feature"]
    ) -> Float[Tensor, "*batch feature"]:
        """Turn 32 uniform bits into activity and value at once: active with probability threshold / 2^32.

        Below the threshold the bits are uniform themselves, so one draw serves both.
        """
        u = (bits.to(torch.float64) + 0.5) * threshold.double().reciprocal()
        return torch.where(bits < threshold, self.value(u), 0.0)

    def _pair_moments(self) -> PairMoments:
        p = self.active_probability()
        return moments(p, torch.outer(p, p), *self.value_moments())

    @cached_property
    def empty_probability(self) -> float:
        """P(all features are 0)."""
        return float((1 - self.active_probability()).prod())

    def sample_occupied(self, rows: int, **how: Any) -> Float[Tensor, "*model batch feature"]:
        """Draw rows given that each has an active feature: what is left of a batch when its empty rows are known.

        Feature by feature: as long as none of a row's features is active, the next one is likelier to be. The
        keywords are those of `sample`.

        >>> SparseUniform(n_features=3, feature_probability=0.01).sample_occupied(4, seed=0).count_nonzero(dim=-1)
        tensor([1, 1, 1, 1])
        """
        return for_seeds(lambda keys: self.draw_occupied(keys, rows), **how)

    def draw_occupied(self, keys: Int64[Tensor, " model"], rows: int) -> Float[Tensor, "model batch feature"]:
        """`sample_occupied` of keys."""
        bits = self._bits(keys, rows)
        alone, after = placed(self.thresholds, keys.device)
        hits = bits < alone
        return self._values_below(bits, torch.where(hits.cumsum(-1) > hits.long(), after, alone))

    def strata(self, rows: int, **how: Any) -> list[tuple[float, Float[Tensor, "batch feature"]]]:
        """Samples by how many features are active: none, one, several; each part beside its share of all rows.

        A mean over all rows is the sum of the parts' means, times their shares. The first part, one row, is exact. The
        second is not random: `rows` values, evenly spaced over all that a row with one active feature can be. So a loss
        is known to a few digits however rare features are, for rows of the third part, of which `rows` are drawn, are
        rarer still. The keywords are those of `sample`, for one seed.

        >>> parts = SparseUniform(n_features=3, feature_probability=1e-4).strata(4, seed=0)
        >>> [f"{share:.1e}" for share, _ in parts], [x.count_nonzero(dim=-1).unique().tolist() for _, x in parts]
        (['1.0e+00', '3.0e-04', '3.0e-08'], [[0], [1], [2]])
        """
        p, (none, one, several) = self.active_probability(), self._active_from_here
        shares = [float(chance[0]) for chance in (none, one, several)]

        def single(keys: Int64[Tensor, " model"]) -> Float[Tensor, "model batch feature"]:
            row, odds = torch.arange(rows), p / (1 - p)  # each feature has its odds of all
            share = odds / odds.sum()
            ends, at = share.cumsum(0), (row + 0.5) / rows
            feature = torch.searchsorted(ends, at.double(), right=True).clamp(max=len(p) - 1)
            x = torch.zeros(1, rows, len(p), dtype=torch.float64)
            x[0, row, feature] = self.value(1 - ((ends[feature] - at) / share[feature]).clamp(0, 1))
            return x.to(keys.device)

        def crowded(keys: Int64[Tensor, " model"]) -> Float[Tensor, "model batch feature"]:
            # Of features that are active: the first has several from its place on, the second at least one.
            chances = p * (one + several)[1:] / several[:-1], p / (one + several)[:-1], p
            first, second, other = (
                (chance.nan_to_num(0.0) * 2.0**32).round().to(keys.device, torch.int64) for chance in chances
            )
            bits = self._bits(keys, rows)
            hits = bits < first
            past_first = hits.cumsum(-1) > hits.long()
            hits = past_first & (bits < second)
            past_second = hits.cumsum(-1) > hits.long()
            threshold = torch.where(past_second, other, torch.where(past_first, second, first))
            return self._values_below(bits, threshold.clamp(min=1))

        def empty(keys: Int64[Tensor, " model"]) -> Float[Tensor, "model batch feature"]:
            return torch.zeros(1, 1, len(p), device=keys.device)

        parts = zip(shares, (empty, single, crowded), strict=True)
        return [(share, for_seeds(draw, **how)) for share, draw in parts if share > 0]

    @cached_property
    def _active_from_here(self) -> list[Float[Tensor, " place"]]:
        """P(none, one, several of the features from each place on are active); the last place is behind them all."""
        chances = [(1.0, 0.0, 0.0)]
        for q in reversed(self.active_probability().tolist()):
            none, one, several = chances[-1]
            chances.append(((1 - q) * none, (1 - q) * one + q * none, several + q * one))
        return list(torch.tensor(chances[::-1], dtype=torch.float64).unbind(1))

    @cached_property
    def thresholds(self) -> Int64[Tensor, "2 feature"]:
        """2^32 P(feature i of an occupied row is active): first, if none before i is active; second, if one is.

        If none before is active, one from here on must be: p_i / (1 - prod_{j >= i} (1 - p_j)), which ends with 1.
        """
        p = self.active_probability()
        some_from_here = -torch.expm1(torch.log1p(-p).flip(0).cumsum(0).flip(0))
        return (torch.stack([p / some_from_here, p]) * 2.0**32).round().clamp(min=1).to(torch.int64)


def draw_together(
    data: Sequence[Distribution],
) -> Callable[[Int64[Tensor, " model"], int], Float[Tensor, "model batch feature"]] | None:
    """The draws of models that each have independent features of their own, if these differ in probabilities alone."""
    first = data[0]
    if not isinstance(first, Independent) or type(first)._draw is not Independent._draw:
        return None
    if any(
        type(d) is not type(first) or replace(d, feature_probability=1.0) != replace(first, feature_probability=1.0)
        for d in data
    ):
        return None
    thresholds = torch.stack([d.thresholds[1] for d in data if isinstance(d, Independent)])[:, None]
    return lambda keys, batch: first._values_below(first._bits(keys, batch), placed(thresholds, keys.device))


@dataclass(frozen=True, kw_only=True)
class SparseUniform(Independent):
    """Independent features: 0 with probability 1 - p, else uniform on [low, high] (Elhage et al. 2022: on [0, 1]).

    `low=-1` gives values of both signs, `low=1` binary ones, which are 1 where they are active.

    >>> SparseUniform(n_features=2, feature_probability=0.25).second_moment()
    tensor([[0.0833, 0.0156],
            [0.0156, 0.0833]], dtype=torch.float64)

    Raises:
        ValueError: `low` above `high`, both 0, or one that is not finite.
    """

    low: float | int = 0.0
    high: float | int = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(low=self.low, high=self.high)
        if self.low > self.high or self.low == self.high == 0:
            raise ValueError(f"low={self.low}, high={self.high}: low must be at most high, and one of them not 0")

    def value(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """low + (high - low) u."""
        return u if (self.low, self.high) == (0, 1) else u * (self.high - self.low) + self.low

    def value_moments(self) -> tuple[float | int, float | int]:
        """(low + high) / 2, and (low^2 + low high + high^2) / 3."""
        return (self.low + self.high) / 2, (self.low**2 + self.low * self.high + self.high**2) / 3


@dataclass(frozen=True, kw_only=True)
class SparseGaussian(Independent):
    """Independent features: 0 with probability 1 - p, else normal with this mean and standard deviation.

    >>> SparseGaussian(n_features=1, feature_probability=0.5, mean=1.0, std=2.0).second_moment()
    tensor([[2.5000]], dtype=torch.float64)
    """

    mean: float | int = 0.0
    std: float | int = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite(mean=self.mean, std=self.std)
        if self.std <= 0:
            raise ValueError(f"std={self.std}: must be positive; for values that are all the same use SparseUniform")

    def value(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """mean + std Phi^-1(u)."""
        return self.mean + self.std * torch.special.ndtri(u)

    def value_moments(self) -> tuple[float | int, float | int]:
        """The mean, and mean^2 + std^2."""
        return self.mean, self.mean**2 + self.std**2
