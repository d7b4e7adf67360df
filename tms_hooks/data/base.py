"""What a distribution is: seeded samples, exact moments, and for a finite one the whole data set."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks import rng
from tms_hooks.errors import check_at_least_one, check_whole, make_plain

MAX_DATASET_ROWS = 100_000


@dataclass(frozen=True)
class Distribution(ABC):
    """Base of all distributions over feature vectors with entries in [0, 1].

    A subclass gives `_draw`, `active_probability` and `_pair_moments`; a finite one also `dataset`. One whose batches
    the compiled engine draws itself gives `fill` too, and in `numbers` what its `fill` must know.
    """

    n_features: int

    fill: ClassVar[Callable[..., None] | None] = None
    """`_draw` as a loop for the compiled engine: a static method `fill(x, numbers, key, first, rows, batch, room)`.

    It puts rows `first`, `first + 1`, ... of a batch of `batch` rows into `x[feature, :rows]`, which is 0 before, and
    gives them the bits that `_draw` of the same class gives. `room[:n_features + 1, :rows]` is scratch space for whole
    numbers. It may use only numbers, arrays, `rng.entry` and `rng.in_unit`.
    """

    def __post_init__(self) -> None:
        """Validate."""
        make_plain(self)
        check_whole(n_features=self.n_features)
        check_at_least_one(n_features=self.n_features)

    @classmethod
    def loop(cls) -> Callable[..., None] | None:
        """`fill`, unless a subclass of the class that has it draws in another way."""
        own = next(vars(c) for c in cls.__mro__ if "_draw" in vars(c))
        return cls.fill if "fill" in own else None

    @property
    def numbers(self) -> Sequence[float | int]:
        """What `fill` must know of this distribution."""
        return ()

    def sample(
        self,
        batch: int,
        *,
        seed: int | Sequence[int],
        step: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "*model batch feature"]:
        """Draw a batch for one seed ("batch feature") or for a sequence of seeds ("model batch feature").

        The same arguments give the same tensor, on any machine and device; model `i` of the second form has what
        the first form gives for the seed `seed[i]`.

        >>> from tms_hooks.data import OneHot
        >>> data = OneHot(n_features=3)
        >>> data.sample(2, seed=0, step=5).equal(data.sample(2, seed=0, step=5))
        True
        """
        check_at_least_one(batch=batch)
        return for_seeds(lambda keys: self._draw(keys, batch), seed, step, dtype, device)

    def dataset(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch feature"] | None:
        """Every vector of a finite, equally weighted distribution; None for a continuous one."""
        return None

    @abstractmethod
    def active_probability(self) -> Float[Tensor, " feature"]:
        """P(x_i > 0), float64."""

    def second_moment(self) -> Float[Tensor, "feature feature"]:
        """E[x_i x_j], uncentered, float64."""
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


@dataclass(frozen=True)
class WithProbability(Distribution):
    """A distribution with a feature probability: one number, or one per feature.

    The field keeps what was given; `active_probability` is one per feature.
    """

    feature_probability: float | tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.feature_probability, float | int):
            object.__setattr__(self, "feature_probability", tuple(float(p) for p in self.feature_probability))
        given = torch.tensor(self.feature_probability, dtype=torch.float64)
        if given.ndim and len(given) != self.n_features:
            raise ValueError(
                f"feature_probability has {len(given)} entries for n_features={self.n_features}; "
                "give one number, or one per feature"
            )
        for p in given.flatten().tolist():
            if not 0 < p <= 1:
                raise ValueError(f"feature_probability={p}: must be in (0, 1]; sparsity S is 1 - feature_probability")

    @property
    def sparsity(self) -> float | tuple[float, ...]:
        """S = 1 - p, one number or one per feature, as p was given."""
        p = self.feature_probability
        return tuple(1 - q for q in p) if isinstance(p, tuple) else 1 - p

    def active_probability(self) -> Float[Tensor, " feature"]:
        """The feature probabilities, float64."""
        return torch.tensor(self.feature_probability, dtype=torch.float64).expand(self.n_features).clone()


def for_seeds(
    draw: Callable[[Tensor], Tensor],
    seed: int | Sequence[int],
    step: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """What `draw` makes of the keys of these seeds at a step; for a single seed without the model axis."""
    seeds = [seed] if isinstance(seed, int) else list(seed)
    if not seeds:
        raise ValueError("seed is an empty sequence: give at least one, one per model")
    x = draw(rng.keys(seeds, step, device)).to(dtype)
    return x[0] if isinstance(seed, int) else x


def moments(
    p: Float[Tensor, " feature"], both: Float[Tensor, "feature feature"], uniform: bool
) -> tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]:
    """E[x x^T] and E[1(x > 0) x^T] from P(both active), for active values that are 1, or independent and uniform."""
    mean, square = (1 / 2, 1 / 3) if uniform else (1.0, 1.0)
    eye = torch.eye(len(p), dtype=torch.bool)
    return torch.where(eye, p * square, both * mean**2), torch.where(eye, p * mean, both * mean)
