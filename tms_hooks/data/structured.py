"""Features with a common cause: a latent point on a curve or a sphere, or a parent in a tree of features."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args, no_type_check

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks import rng
from tms_hooks.data.base import Distribution, PairMoments, WithProbability, moments
from tms_hooks.errors import check_finite, choice_error
from tms_hooks.linalg import placed

Manifold = Literal["circle", "figure eight", "sphere"]
LATENTS = {"circle": 1024, "figure eight": 1024, "sphere": 4096}
"""Latent points of each manifold, all equally likely."""


@dataclass(frozen=True, kw_only=True)
class OnManifold(Distribution):
    """Features that sit on a manifold and are active near a latent point of it, with values uniform on [0, 1].

    The latent point is z, feature i sits at z_i, evenly spaced. Given z, features are independent, and active with
    probability sigmoid(a s - b) at similarity s = 1 - |z - z_i|^2 / 2. On the "circle", of radius 1, that is s =
    cos(t - t_i), on the "sphere" the cosine of the angle; the "figure eight" is the curve (cos t, sin t cos t), which
    crosses itself. Latents lie on a grid: 1,024 points of a curve, 4,096 of the sphere (a Fibonacci spiral), so moments
    are exact sums.

    >>> OnManifold(n_features=4, a=2.0, b=1.0).active_probability()
    tensor([0.3356, 0.3356, 0.3356, 0.3356], dtype=torch.float64)
    """

    manifold: Manifold = "circle"
    a: float | int = 10.0
    b: float | int = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.manifold not in get_args(Manifold):
            raise choice_error("manifold", self.manifold, get_args(Manifold))
        check_finite(a=self.a, b=self.b)

    @cached_property
    def places(self) -> Float[Tensor, "feature coordinate"]:
        """Where the features sit, float64."""
        return _evenly(self.manifold, self.n_features)

    @cached_property
    def probabilities(self) -> Float[Tensor, "latent feature"]:
        """P(feature is active | latent point), float64: read it, never write to it."""
        latents = _evenly(self.manifold, LATENTS[self.manifold])
        similarity = 1 - torch.cdist(latents, self.places, compute_mode="donot_use_mm_for_euclid_dist").square() / 2
        return torch.sigmoid(self.a * similarity - self.b)

    def active_probability(self) -> Float[Tensor, " feature"]:
        """Mean over the latent points, float64."""
        return self.probabilities.mean(0)

    @property
    def numbers(self) -> Sequence[float | int]:
        """Number of latent points, then the probabilities of each."""
        return len(self.probabilities), *self.probabilities.flatten().tolist()

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        bits = rng.uniform_bits(keys, batch * (self.n_features + 1)).unflatten(1, (batch, self.n_features + 1))
        p = placed(self.probabilities, keys.device)[(bits[..., -1] * len(self.probabilities)) >> 32]
        u = rng.in_unit(bits[..., :-1].to(torch.float64))
        return torch.where(u < p, u / p, 0.0)

    @staticmethod
    @no_type_check
    def fill(x, numbers, key, first, rows, batch, room):
        """`_draw` as a loop."""
        n, latents = len(x), int(numbers[0])
        for r in range(rows):
            room[n, r] = 1 + (rng.entry(key, (first + r) * (n + 1) + n) * latents >> 32) * n
        for i in range(n):
            for r in range(rows):
                u, p = rng.in_unit(rng.entry(key, (first + r) * (n + 1) + i)), numbers[room[n, r] + i]
                x[i, r] = u / p if u < p else 0.0

    def _pair_moments(self) -> PairMoments:
        p = self.probabilities
        return moments(p.mean(0), p.mT @ p / len(p))


@dataclass(frozen=True, kw_only=True)
class Tree(WithProbability):
    """Features that are active only if their parents are, with values uniform on [0, 1].

    `feature_probability` is that of a feature given that its parent is active, or, for a root, always. `parents[i]` is
    the number of feature i's parent, lower than i, or -1 for a root. Default: a binary tree with feature 0 at its root.

    >>> Tree(n_features=3, feature_probability=0.5).active_probability()
    tensor([0.5000, 0.2500, 0.2500], dtype=torch.float64)
    """

    parents: Sequence[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [(i - 1) // 2 for i in range(self.n_features)] if self.parents is None else self.parents
        object.__setattr__(self, "parents", tuple(int(parent) for parent in given))
        if len(self.lineage) != self.n_features:
            raise ValueError(f"parents has {len(self.lineage)} entries for n_features={self.n_features}: give each one")
        for i, parent in enumerate(self.lineage):
            if not -1 <= parent < i:
                raise ValueError(f"parents[{i}]={parent}: must be a feature before {i}, or -1 for a root")

    @property
    def lineage(self) -> tuple[int, ...]:
        """`parents`, filled in."""
        assert isinstance(self.parents, tuple)
        return self.parents

    @cached_property
    def _needs(self) -> Float[Tensor, "feature ancestor"]:
        """Which features must be active for each to be: itself and all above it, as 1; float64."""
        needs = torch.eye(self.n_features, dtype=torch.float64)
        for i, parent in enumerate(self.lineage):
            if parent >= 0:
                needs[i] += needs[parent]
        return needs

    @property
    def given_parent(self) -> Float[Tensor, " feature"]:
        """P(active | parent active), float64."""
        return self._p.clone()

    def active_probability(self) -> Float[Tensor, " feature"]:
        """The product of the probabilities down from the root, float64."""
        return torch.exp(self._needs @ self.given_parent.log())

    @property
    def numbers(self) -> Sequence[float | int]:
        """Probabilities given the parent, then the parents."""
        return *self.given_parent.tolist(), *self.lineage

    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        u, p = rng.uniforms(keys, batch, self.n_features), placed(self._p, keys.device)
        active = u < p
        for i, parent in enumerate(self.lineage):
            if parent >= 0:
                active[..., i] &= active[..., parent]
        return torch.where(active, u / p, 0.0)

    @staticmethod
    @no_type_check
    def fill(x, numbers, key, first, rows, batch, room):
        """`_draw` as a loop."""
        n = len(x)
        for i in range(n):
            p, parent = numbers[i], int(numbers[n + i])
            for r in range(rows):
                u = rng.in_unit(rng.entry(key, (first + r) * n + i))
                x[i, r] = u / p if u < p and (parent < 0 or x[parent, r] > 0) else 0.0

    def _pair_moments(self) -> PairMoments:
        either = torch.maximum(self._needs[:, None], self._needs[None])  # all that both need
        return moments(self.active_probability(), torch.exp(either @ self.given_parent.log()))


def _evenly(manifold: Manifold, count: int) -> Float[Tensor, "point coordinate"]:
    """So many points of a manifold, evenly spaced in its parameter; on the sphere a Fibonacci spiral."""
    at = torch.arange(count, dtype=torch.float64)
    if manifold == "sphere":
        height, turn = 1 - (2 * at + 1) / count, at * (math.pi * (3 - math.sqrt(5)))
        around = (1 - height.square()).sqrt()
        return torch.stack([around * turn.cos(), around * turn.sin(), height], dim=-1)
    t = 2 * math.pi * at / count
    return torch.stack([t.cos(), t.sin() if manifold == "circle" else t.sin() * t.cos()], dim=-1)
