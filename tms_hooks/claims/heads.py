"""What the claims about pseudo-attention share: toys, heads trained on them, and how a head's slices lie to features.

A head scores a query and a key by query^T Omega key. The singular value decomposition of Omega is a sum of slices, each
of which reads one direction of the query (its left singular vector) and one of the key (its right one): the claims ask
whether these are directions of attended features.

A toy is trained first, by the usual recipe for 6,000 steps. Heads are then trained on its frozen hidden states: Adam at
0.02 with cosine decay, 3,000 steps, batch 256. Several heads of one toy are trained side by side; they do not meet.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import pi
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.linalg import subspace_angles
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tms_hooks import geometry, theory
from tms_hooks.claims import lab, seeds
from tms_hooks.claims.lab import Stacked
from tms_hooks.config import ToyConfig
from tms_hooks.data import Distribution, SparseUniform
from tms_hooks.linalg import overlaps, random_rotations, unit
from tms_hooks.losses import Pair, Pairs
from tms_hooks.models import forward
from tms_hooks.run import Run
from tms_hooks.training.optimizers import Adam

ALIGNED = 0.9
"""|Cosine| above which a singular vector counts as aligned with a feature: 26 degrees."""
SPARSE = 0.05
"""Feature probability at which features are in superposition."""
TRIANGLES = [[0, 1, 2], [3, 4, 5]]
Omega = Float[Tensor, "hidden hidden"]
Omegas = Float[Tensor, "model hidden hidden"]
Directions = Float[Tensor, "feature hidden"]


class Heads(NamedTuple):
    """One head each of several toys."""

    omega: Omegas
    W_E: Stacked


# Toys and heads


class Toys(NamedTuple):
    """Toys without heads, for which heads are trained."""

    cfg: ToyConfig
    data: Distribution
    weights: Mapping[str, Tensor]

    @property
    def W_E(self) -> Stacked:
        """Their features' directions."""
        return self.weights["W_E"]


def of_run(run: Run) -> Toys:
    """The toys of a run, of one setting."""
    return Toys(run.recipe.cfg, run.recipe.setting.data, run.weights)


def representation(n_features: int, d_hidden: int, p: float, n_models: int, decay: float = 1.0) -> Toys:
    """Toys without heads; feature i has importance decay^i."""
    return of_run(lab.train_sparse(n_features, d_hidden, p, n_models, steps=6_000, decay=decay))


def triangles(n_models: int) -> Toys:
    """Toys of six features in four dimensions that are put near a product of two triangles, and not trained.

    Random starts seldom reach such a product, and those that start near it leave it: after 2,000 steps at a rate of
    0.003 93 of 100 are still there, after 6,000 3. What a head does where features lie so can be asked all the same.
    """
    cfg = ToyConfig(n_features=6, d_hidden=4)
    weights = lab.untrained(cfg, n_models)
    exact = two_triangles() @ random_rotations(4, n_models, seeds.first()).float()
    return Toys(
        cfg,
        SparseUniform(n_features=6, feature_probability=SPARSE),
        weights | {"W_E": exact + 0.05 * weights["W_E"]},
    )


def train(
    toys: Toys,
    pairs: Sequence[Pairs],
    d_head: int | None = None,
    n_models: int | None = None,
    steps: int = 3_000,
    biases: bool = False,
    **settings: Any,
) -> Float[Tensor, "head model hidden hidden"]:
    """Omega of heads on the frozen hidden states of the first `n_models` toys; `pairs` has those of each head."""
    cfg = replace(toys.cfg, n_heads=len(pairs), d_head=d_head, head_bias=biases)
    starts = [
        forward.init_weights(cfg, seed) | {name: w[i] for name, w in toys.weights.items()}
        for i, seed in enumerate(seeds.of(n_models or len(toys.W_E)))
    ]
    run = lab.train_from(
        cfg,
        toys.data,
        starts,
        steps=steps,
        optimizer=Adam(lr=2e-2, schedule="cosine"),
        batch_size=256,
        stages=("heads",),
        qk_pairs=pairs,
        **settings,
    )
    return omegas(run.weights).transpose(0, 1)


def omegas(weights: forward.Weights) -> Float[Tensor, "model head hidden hidden"]:
    """Omega of every head."""
    return weights[forward.W_Q] @ weights[forward.W_K].mT


def untrained(W_E: Stacked, d_head: int | None = None) -> Omegas:
    """Omega of the heads that `train` starts from, for toys of these directions."""
    n_models, n, m = W_E.shape
    return omegas(lab.untrained(ToyConfig(n_features=n, d_hidden=m, n_heads=1, d_head=d_head), n_models))[:, 0]


def optimal(W_E: Stacked, data: Distribution, pairs: Pairs, rank: int | None = None, biases: bool = False) -> Omegas:
    """The closed form's head for each toy."""
    return torch.stack([theory.qk_optimum(W, data, pairs, rank, biases) for W in W_E])


def at_random(models: int, d: int, rank: int) -> Omegas:
    """Random singular vectors, with singular values from 2 to 1 that tell them apart."""
    left, right = random_rotations(d, 2 * models, seed=seeds.first() + rank).chunk(2)
    return (left[..., :rank] * torch.linspace(2, 1, rank, dtype=torch.float64)) @ right[..., :rank].mT


def explained(W_E: Directions, data: SparseUniform, pairs: Sequence[Pair], rank: int) -> float:
    """Share of E s^2 that the best head of a rank gets right: 1 - E (s - score)^2 / E s^2."""
    p = data.active_probability()
    together = torch.outer(p, p) + torch.diag(p * (1 - p))
    query, key = torch.tensor(pairs).T
    power = (together[query][:, query] * together[key][:, key]).sum()
    nothing = theory.qk_excess_loss(torch.zeros(W_E.shape[-1], W_E.shape[-1]), W_E, data, pairs)
    best = theory.qk_optimum(W_E, data, pairs, rank)
    return float((nothing - theory.qk_excess_loss(best, W_E, data, pairs)) / power)


# Which models count, and measures of them


def is_orthogonal(W_E: Directions, features: Sequence[int] = (0, 1)) -> bool:
    """Whether the features are learned, and orthogonal to every other learned one."""
    alive = geometry.represented(W_E).nonzero()[:, 0].tolist()
    if not set(features) <= set(alive):
        return False
    return bool((overlaps(W_E[alive].double())[[alive.index(i) for i in features]] < geometry.ORTHOGONAL).all())


def two_triangles() -> Directions:
    """A product of two triangles of unit features, each in a plane of its own: `TRIANGLES`."""
    angles = 2 * pi / 3 * torch.arange(3)
    triangle = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.block_diag(triangle, triangle)


def are_triangles(W_E: Stacked) -> Bool[Tensor, " model"]:
    """Models that are the product of the two triangles that they were put near."""
    return torch.tensor([geometry.tegum_factors(w) == TRIANGLES for w in W_E])


def measuring(W_E: Stacked, counts: Bool[Tensor, " model"]) -> Callable[[Callable[[Tensor, Tensor], Any], Omegas], Any]:
    """A function (measure, heads) -> array of measure(Omega, W_E) of the models that count."""

    def each(measure: Callable[[Tensor, Tensor], Any], omegas: Omegas) -> np.ndarray:
        return np.array([measure(o, w) for o, w in zip(omegas[counts], W_E[counts], strict=True)])

    return each


# Singular vectors and directions


def singular_vectors(omega: Omega) -> tuple[Float[Tensor, "k hidden"], Float[Tensor, " k"], Float[Tensor, "k hidden"]]:
    """Left singular vectors as rows, singular values, right singular vectors as rows: those above rounding."""
    U, S, Vh = torch.linalg.svd(omega.detach().double())
    kept = 1e-5 * S[0] < S  # of a head trained in single precision
    return U.mT[kept], S[kept], Vh[kept]


def singular_ratio(omega: Omega) -> float:
    """Second singular value over the first: near 1, only the span of the two vectors means anything."""
    S = singular_vectors(omega)[1]
    return float(S[1] / S[0])


def matched_cosines(
    omega: Omega, left: Float[Tensor, "pair hidden"], right: Float[Tensor, "pair hidden"]
) -> Float[np.ndarray, " pair"]:
    """For each pair of directions the |cosine| of its singular pair, the smaller of the two sides; 0 if none is left.

    Singular pairs and pairs of directions are matched so that the sum is largest (Hungarian).
    """
    U, _, V = singular_vectors(omega)
    cosines = torch.minimum((U @ unit(left).mT).abs(), (V @ unit(right).mT).abs()).numpy()
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    found = np.zeros(len(left))
    found[columns] = cosines[rows, columns]
    return found


def largest_angle(vectors: Float[Tensor, "k hidden"], directions: Float[Tensor, "pair hidden"]) -> float:
    """Largest principal angle between two spans of rows, in degrees."""
    return float(np.degrees(subspace_angles(vectors.double().mT.numpy(), directions.double().mT.numpy())[0]))


def query_angle(omega: Omega, W_E: Directions) -> float:
    """Angle between the span of the two leading left singular vectors and that of features 0 and 1, in degrees."""
    return largest_angle(singular_vectors(omega)[0][:2], W_E[:2])
