"""Sparse uniform features whose activities depend on one another: in groups, or through a Gaussian copula."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks import rng
from tms_hooks.data.base import PairMoments, WithProbability, moments
from tms_hooks.linalg import placed, stacked_matmul

ROOT_HALF = math.sqrt(0.5)
ROUNDING = 1e-9
"""How far below 0 an eigenvalue may lie by rounding."""


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
        assert isinstance(self.feature_probability, float | int)  # it is one number for all
        return self.group_size, float(self.feature_probability), self.apart

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

    def _pair_moments(self) -> PairMoments:
        p, group = self.active_probability(), torch.arange(self.n_features) // self.group_size
        together = torch.where(group[:, None] == group, 0.0 if self.apart else p, torch.outer(p, p))
        return moments(p, together)


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
    """Sparse uniform features whose activity is tied by a Gaussian copula.

    `x_i = U_i / p_i` if `U_i < p_i`, else 0, with `U_i = Phi(z_i)` and `z` normal. `rho` is the correlation of z: one
    number for any two features, or a whole matrix "feature feature". The marginals are those of `SparseUniform`
    whatever `rho` is; with positive correlation, a feature that is active together with others tends to be small.

    Raises:
        ValueError: a number outside [-1/(n-1), 1), where no such normal exists, or -1, where pairs degenerate; a matrix
            that is not symmetric with ones on its diagonal, has 1 or -1 beside it, or a negative eigenvalue.
    """

    rho: float | Sequence[Sequence[Any]] | np.ndarray | Tensor

    fill_is_single = True

    def __post_init__(self) -> None:
        super().__post_init__()
        given = torch.as_tensor(self.rho, dtype=torch.float64)
        if given.ndim:
            self._check_matrix(given)
            object.__setattr__(self, "rho", tuple(tuple(row) for row in given.tolist()))
            return
        object.__setattr__(self, "rho", float(given))
        lowest = -1 / (self.n_features - 1) if self.n_features > 1 else -1.0
        if not (lowest <= given and abs(given) < 1):
            raise ValueError(
                f"rho={self.rho}: must be in [{lowest:.4g}, 1) and above -1 "
                f"for {self.n_features} equally correlated features"
            )

    def _check_matrix(self, given: Tensor) -> None:
        n = self.n_features
        if given.shape != (n, n):
            raise ValueError(f"rho of shape {tuple(given.shape)}: must be one number, or of shape ({n}, {n})")
        apart = ~torch.eye(n, dtype=torch.bool)
        if not given.equal(given.mT) or not (given.diagonal() == 1).all() or not (given[apart].abs() < 1).all():
            raise ValueError(
                "rho must be a correlation matrix: symmetric, 1 on its diagonal, and between -1 and 1 beside it; "
                "features that are always active together are CorrelatedGroups"
            )
        if (least := float(torch.linalg.eigvalsh(given)[0])) < -ROUNDING:
            raise ValueError(
                f"rho has the eigenvalue {least:.4g}: no normal has such correlations; they must be positive "
                "semidefinite"
            )

    @cached_property
    def root(self) -> Float[Tensor, "feature feature"]:
        """The symmetric square root of a whole correlation matrix, float64."""
        values, vectors = torch.linalg.eigh(torch.tensor(self.rho, dtype=torch.float64))
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT

    def _two_eigenvalues(self) -> tuple[float, float]:
        """Of the symmetric square root of (1 - rho) I + rho 1 1^T, which takes one scale and one sum: the one of the
        vector of ones is the second."""
        assert isinstance(self.rho, float)
        return (1 - self.rho) ** 0.5, max(1 + (self.n_features - 1) * self.rho, 0.0) ** 0.5

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        z = torch.special.ndtri(rng.uniforms(keys, batch, self.n_features))
        if isinstance(self.rho, float):
            rest, along_ones = self._two_eigenvalues()
            z = rest * z + (along_ones - rest) * z.mean(-1, keepdim=True)
        else:
            z = stacked_matmul(z, placed(self.root, z.device).expand(len(z), -1, -1))
        u = torch.special.ndtr(z)
        p = placed(self._p, u.device)
        return torch.where(u < p, u / p, 0.0)

    @property
    def numbers(self) -> Sequence[float | int]:
        """Probabilities, the z at which they are reached, then the root: its two numbers, or all of a matrix."""
        p = self.active_probability()
        root = self._two_eigenvalues() if isinstance(self.rho, float) else self.root.flatten().tolist()
        return *p.tolist(), *torch.special.ndtri(p).tolist(), *root

    @staticmethod
    @no_type_check
    def fill(x, numbers, key, first, rows, batch, room):
        """`_draw` as a loop; torch's normal quantiles may differ from these in their sixteenth digit."""
        n, z = len(x), room.view(np.float64)
        for i in range(n):
            for r in range(rows):
                z[i, r] = rng.in_unit(rng.entry(key, (first + r) * n + i))
            rng.to_normal(z[i, :rows])
        alike = len(numbers) == 2 * n + 2
        for j in range(n):
            if (alike and j == 0) or not alike:
                for r in range(rows):
                    z[n, r] = 0.0
                for i in range(n):
                    weight = (numbers[2 * n + 1] - numbers[2 * n]) / n if alike else numbers[2 * n + i * n + j]
                    for r in range(rows):
                        z[n, r] += weight * z[i, r]
            own = numbers[2 * n] if alike else 0.0
            p, top = numbers[j], numbers[n + j] + 1e-9  # which is a little more than where `u` reaches `p`
            for r in range(rows):
                tied = own * z[j, r] + z[n, r]
                if tied < top:
                    u = (1 + math.erf(tied * ROOT_HALF)) / 2
                    x[j, r] = u / p if u < p else 0.0

    def _pair_moments(self) -> PairMoments:
        p, n = self.active_probability(), self.n_features
        rho = torch.tensor(self.rho, dtype=torch.float64).expand(n, n).tolist()
        pairs = [
            [_copula_moments(a, b, rho[i][j]) if i != j else (a / 3, a / 2) for j, b in enumerate(p.tolist())]
            for i, a in enumerate(p.tolist())
        ]
        xx, ax = torch.tensor(pairs, dtype=torch.float64).unbind(-1)
        return xx, ax


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
