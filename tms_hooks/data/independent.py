"""Independent features: the data of the toy-models paper, and draws of only those rows that are not empty."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks import rng
from tms_hooks.data.base import WithProbability, for_seeds, moments

STRIP = 16
"""Rows whose random bits lie together in the stream."""


@dataclass(frozen=True, kw_only=True)
class SparseUniform(WithProbability):
    """Independent features: 0 with probability 1 - p, else uniform on [0, 1] (Elhage et al. 2022).

    >>> SparseUniform(n_features=2, feature_probability=0.25).second_moment()
    tensor([[0.0833, 0.0156],
            [0.0156, 0.0833]], dtype=torch.float64)
    """

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        return values_below(self._bits(keys, batch), self.thresholds[1].to(keys.device))

    def _bits(self, keys: Int64[Tensor, " model"], rows: int) -> Int64[Tensor, "model batch feature"]:
        """32 random bits per entry, feature by feature in strips of `STRIP` rows: vectors to compiled code."""
        strips = -(-rows // STRIP)
        bits = rng.uniform_bits(keys, strips * self.n_features * STRIP)
        return bits.unflatten(1, (strips, self.n_features, STRIP)).mT.flatten(1, 2)[:, :rows]

    def _pair_moments(self) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
        p = self.active_probability()
        return moments(p, torch.outer(p, p), uniform=True)

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

        def draw(keys: Int64[Tensor, " model"]) -> Float[Tensor, "model batch feature"]:
            bits = self._bits(keys, rows)
            alone, after = self.thresholds.to(keys.device)
            hits = bits < alone
            return values_below(bits, torch.where(hits.cumsum(-1) > hits.long(), after, alone))

        return for_seeds(draw, **how)

    @cached_property
    def thresholds(self) -> Int64[Tensor, "2 feature"]:
        """2^32 P(feature i of an occupied row is active): first, if none before i is active; second, if one is.

        If none before is active, one from here on must be: p_i / (1 - prod_{j >= i} (1 - p_j)), which ends with 1.
        """
        p = self.active_probability()
        some_from_here = -torch.expm1(torch.log1p(-p).flip(0).cumsum(0).flip(0))
        return (torch.stack([p / some_from_here, p]) * 2.0**32).round().clamp(min=1).to(torch.int64)


def values_below(
    bits: Int64[Tensor, "*batch feature"], threshold: Int64[Tensor, "*#batch feature"]
) -> Float[Tensor, "*batch feature"]:
    """Turn 32 uniform bits into activity and value at once: uniform with probability threshold / 2^32, else 0.

    Below the threshold the bits are uniform themselves, so one draw serves both.
    """
    return torch.where(bits < threshold, (bits.to(torch.float64) + 0.5) * threshold.double().reciprocal(), 0.0)
