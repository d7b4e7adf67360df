"""Sparse uniform features whose activities depend on one another: in groups, or through a Gaussian copula."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, no_type_check

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks import rng
from tms_hooks.data.base import WithProbability, moments


@dataclass(frozen=True, kw_only=True)
class _Groups(WithProbability):
    """Consecutive features in groups, independent between groups. One random number per group says who is active."""

    group_size: int = 2
    apart: ClassVar[bool]
    """Whether the members of a group are active at different values of its number, or all below the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size < 1 or self.n_features % self.group_size:
            raise ValueError(f"group_size={self.group_size}: must divide n_features={self.n_features}")
        if not isinstance(self.feature_probability, float | int):
            raise ValueError("feature_probability must be one number: the members of a group share it")

    @property
    def numbers(self) -> Sequence[float | int]:
        """Group size, feature probability, and whether members are active apart."""
        return self.group_size, float(self.active_probability()[0]), self.apart

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        n, size = self.n_features, self.group_size
        u = rng.uniforms(keys, batch, n + n // size)
        drawn = (u[..., n:] / self.numbers[1]).floor().repeat_interleave(size, dim=-1)
        return u[..., :n] * (drawn == torch.arange(n, device=u.device) % size * self.apart)

    @staticmethod
    @no_type_check
    def fill(x, numbers, key, first, rows, batch, room):
        """`_draw` as a loop."""
        n, size, p, apart = len(x), int(numbers[0]), numbers[1], int(numbers[2])
        columns = n + n // size
        for i in range(n):
            if i % size == 0:
                for r in range(rows):
                    room[n, r] = rng.entry(key, (first + r) * columns + n + i // size)
            member = i % size * apart
            for r in range(rows):
                active = member <= rng.in_unit(room[n, r]) / p < member + 1
                x[i, r] = rng.in_unit(rng.entry(key, (first + r) * columns + i)) if active else 0.0

    def _pair_moments(self) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
        p, group = self.active_probability(), torch.arange(self.n_features) // self.group_size
        together = torch.where(group[:, None] == group, 0.0 if self.apart else p, torch.outer(p, p))
        return moments(p, together, uniform=True)


@dataclass(frozen=True, kw_only=True)
class CorrelatedGroups(_Groups):
    """Groups of `group_size` features that are active all together or not at all, with independent uniform values."""

    apart = False


@dataclass(frozen=True, kw_only=True)
class AnticorrelatedGroups(_Groups):
    """Groups of `group_size` features of which at most one is active, each with probability `feature_probability`.

    Raises:
        ValueError: `group_size * feature_probability` above 1: a group cannot be active more often than always.
    """

    apart = True

    def __post_init__(self) -> None:
        super().__post_init__()
        p = self.active_probability()[0].item()
        if self.group_size * p > 1:
            raise ValueError(f"feature_probability={p}: must be at most 1/group_size = {1 / self.group_size:.4g}")


@dataclass(frozen=True)
class Copula(WithProbability):
    """Sparse uniform features whose activity is tied by a Gaussian copula with equal correlation `rho`.

    `x_i = U_i / p_i` if `U_i < p_i`, else 0, with `U_i = Phi(z_i)` and `z` normal with correlation `rho` between any
    two. The marginals are those of `SparseUniform` for any `rho`; with `rho > 0`, a feature that is active together
    with others tends to be small.

    Raises:
        ValueError: `rho` outside [-1/(n-1), 1), where no such normal exists, or -1, where pairs degenerate.
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
        # The symmetric square root of (1 - rho) I + rho 1 1^T has two eigenvalues, so it takes one scale and one sum.
        rest = (1 - self.rho) ** 0.5
        along_ones = max(1 + (self.n_features - 1) * self.rho, 0.0) ** 0.5
        u = torch.special.ndtr(rest * z + (along_ones - rest) * z.mean(-1, keepdim=True))
        p = self.active_probability().to(u.device)
        return torch.where(u < p, u / p, 0.0)

    def _pair_moments(self) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
        p = self.active_probability()
        table = [[_copula_moments(a, b, self.rho) for b in p.tolist()] for a in p.tolist()]
        xx, ax = torch.tensor(table, dtype=torch.float64).unbind(-1)
        eye = torch.eye(self.n_features, dtype=torch.bool)
        return torch.where(eye, p / 3, xx), torch.where(eye, p / 2, ax)


@lru_cache
def _copula_moments(p: float, q: float, rho: float) -> tuple[float, float]:
    """E[x y] and E[1(x > 0) y] of two features tied by a Gaussian copula, by quadrature over both."""
    from scipy.integrate import quad
    from scipy.special import ndtr, ndtri

    spread = (1 - rho**2) ** 0.5
    top = float(ndtri(q)) if q < 1 else float("inf")

    def mean_y(u: float) -> float:
        """E[y | U_x = u] = integral_0^q v dP(V < v | u) / q, by parts."""
        center = rho * float(ndtri(u))
        below, _ = quad(lambda v: float(ndtr((ndtri(v) - center) / spread)), 0, q)
        return float((q * ndtr((top - center) / spread) - below) / q)

    xy, _ = quad(lambda u: u * mean_y(u) / p, 0, p)
    ay, _ = quad(mean_y, 0, p)
    return xy, ay
