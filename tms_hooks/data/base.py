"""What a distribution is: seeded samples, exact moments, and for a finite one the whole data set."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tms_hooks import rng
from tms_hooks.errors import check_at_least_one, check_whole, make_plain, plain

MAX_DATASET_ROWS = 100_000
PairMoments = tuple[Float[Tensor, "feature feature"], Float[Tensor, "feature feature"]]


@dataclass(frozen=True)
class Distribution(ABC):
    """Base of all distributions over feature vectors. A feature is active where its entry is not 0.

    A subclass gives `_draw`, and that is enough to train on it. If its moments are known it gives them too, in
    `active_probability` and `_pair_moments`; a finite one also `dataset`. One whose batches the compiled engine draws
    itself gives `fill`, and in `numbers` what its `fill` must know.
    """

    n_features: int

    fill: ClassVar[Callable[..., None] | None] = None
    """`_draw` as a loop for the compiled engine: a static method `fill(x, numbers, key, first, rows, batch, room)`.

    It puts rows `first`, `first + 1`, ... of a batch of `batch` rows into `x[feature, :rows]`, which is 0 before, and
    gives them the bits that `_draw` of the same class gives. `room[:n_features + 1, :rows]` is scratch space for whole
    numbers. It may use only numbers, arrays, `rng.entry`, `rng.in_unit` and `rng.to_normal`.
    """
    fill_is_single: ClassVar[bool] = False
    """Whether `fill` gives what `_draw` gives only once both are rounded to float32; torch draws float64 rows then."""

    def __post_init__(self) -> None:
        """Validate."""
        make_plain(self)
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

        Raises:
            ValueError: a batch, seed or step that is no whole number, or outside of its range.
        """
        batch, seed, step = plain(batch), plain(seed), plain(step)
        check_whole(batch=batch, step=step)
        check_at_least_one(batch=batch)
        for each in seed if isinstance(seed, Iterable) else (seed,):
            check_whole(seed=each)
            if not 0 <= min(each, step) <= max(each, step) < 2**63:
                raise ValueError(f"seed={each}, step={step}: must be in [0, 2^63)")
        return for_seeds(lambda keys: self._draw(keys, batch), seed, step, dtype, device)

    def dataset(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch feature"] | None:
        """Every vector of a finite, equally weighted distribution; None for a continuous one."""
        return None

    def active_probability(self) -> Float[Tensor, " feature"] | None:
        """P(x_i != 0), float64; None where `no_moments` says why."""
        return None

    def second_moment(self) -> Float[Tensor, "feature feature"] | None:
        """E[x_i x_j], uncentered, float64; None where `no_moments` says why."""
        found = self._pair_moments()
        return found and found[0]

    def active_moment(self) -> Float[Tensor, "feature feature"] | None:
        """E[1(x_i != 0) x_j], float64; None where `no_moments` says why."""
        found = self._pair_moments()
        return found and found[1]

    @property
    def no_moments(self) -> str | None:
        """Why this distribution has no exact moments; None if it has them."""
        if type(self)._pair_moments is Distribution._pair_moments:
            return f"{type(self).__name__} has no `_pair_moments`, which would give them"
        return None

    def _pair_moments(self) -> PairMoments | None:
        """E[x x^T] and E[1(x != 0) x^T]; None if they are not known."""
        return None

    @abstractmethod
    def _draw(self, keys: Int64[Tensor, " model"], batch: int) -> Float[Tensor, "model batch feature"]:
        """One batch for every key: a pure function of that key, such as one of `rng.uniforms(keys, batch, n)`."""


@dataclass(frozen=True)
class WithProbability(Distribution):
    """A distribution with a feature probability: one number, or one per feature.

    The field keeps what was given; `active_probability` is one per feature.
    """

    feature_probability: float | Sequence[Any] | np.ndarray | Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        p = self.feature_probability
        for each in p if isinstance(p, tuple) else (p,):
            if isinstance(each, bool | str | None):
                raise ValueError(f"feature_probability={each!r}: must be a number, or one per feature")
        given = torch.as_tensor(self.feature_probability, dtype=torch.float64)
        if not isinstance(self.feature_probability, float | int):
            plain = given.tolist()
            object.__setattr__(self, "feature_probability", tuple(plain) if given.ndim else plain)
        if given.ndim and given.shape != (self.n_features,):
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
        return 1 - p if isinstance(p, float | int) else tuple(1 - float(q) for q in p)

    def active_probability(self) -> Float[Tensor, " feature"]:
        """The feature probabilities, float64."""
        return self._p.clone()

    @cached_property
    def _p(self) -> Float[Tensor, " feature"]:
        """What was given, one per feature, float64."""
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
    p: Float[Tensor, " feature"],
    both: Float[Tensor, "feature feature"],
    mean: float | int = 1 / 2,
    square: float | int = 1 / 3,
) -> PairMoments:
    """E[x x^T] and E[1(x != 0) x^T] from P(both active), for active values that are independent.

    They have these first two moments: by default those of values that are uniform on [0, 1].
    """
    eye = torch.eye(len(p), dtype=torch.bool)
    return torch.where(eye, p * square, both * mean**2), torch.where(eye, p * mean, both * mean)


def known_moments(data: Distribution) -> PairMoments:
    """`second_moment` and `active_moment` of data that have them.

    Raises:
        ValueError: they are not known; the message says why, and how to estimate them.
    """
    found = data._pair_moments()
    if found is None:
        raise ValueError(
            f"{type(data).__name__} has no exact moments: {data.no_moments}; estimate them: "
            "x = data.sample(100_000, seed=0), x.mT @ x / len(x)"
        )
    return found


def check_draw(data: Distribution) -> None:
    """Hold a distribution of the user's own to what training relies on: shape, finite values, one key one batch.

    Raises:
        ValueError: it breaks one of these; the message says which.
    """
    name, keys = f"{type(data).__name__}._draw", rng.keys([0, 1], 0)
    both, alone = data._draw(keys, 4), data._draw(keys[1:], 4)
    if not isinstance(both, Tensor) or both.shape != (2, 4, data.n_features):
        shape = tuple(both.shape) if isinstance(both, Tensor) else type(both).__name__
        raise ValueError(f"{name} gives {shape} for 2 keys and batch=4: must be (2, 4, {data.n_features})")
    if not both.isfinite().all():
        raise ValueError(f"{name} gives a NaN or an infinity: its entries must be finite")
    if not alone[0].equal(both[1]):
        raise ValueError(
            f"{name} gives one key other rows alone than beside another key: must depend on the key alone; "
            "draw with tms_hooks.rng.uniforms(keys, batch, ...)"
        )
