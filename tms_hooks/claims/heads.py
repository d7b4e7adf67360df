"""What the claims about pseudo-attention share: toys, heads trained on them, and how singular vectors lie to features.

Toys are trained first: Adam at 0.01 with cosine decay, 2,000 steps, batch 1,024. Then heads, on frozen hidden states:
Adam at 0.02 with cosine decay, 1,000 steps, batch 256. Several heads of one toy are trained side by side; they do not
meet.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from math import pi
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tms_hooks import geometry, theory
from tms_hooks.config import ToyConfig
from tms_hooks.data import Distribution, SparseUniform
from tms_hooks.linalg import overlaps, random_rotations, unit
from tms_hooks.losses import Pair
from tms_hooks.models import forward
from tms_hooks.run import Run
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam
from tms_hooks.training.recipe import HeadObjective

ALIGNED = 0.9
"""|Cosine| above which a singular vector counts as aligned with a feature: 26 degrees."""
ORTHOGONAL = 0.1
"""|Cosine| below which two features count as orthogonal, as in `geometry.tegum_factors`."""

SPARSE = 0.05
"""Feature probability at which two triangles are stable."""
TRIANGLES = [[0, 1, 2], [3, 4, 5]]


class Head(NamedTuple):
    """One toy's head."""

    omega: Float[Tensor, "hidden hidden"]
    W_E: Float[Tensor, "feature hidden"]


class Heads(NamedTuple):
    """One head each of several toys."""

    omega: Float[Tensor, "model hidden hidden"]
    W_E: Float[Tensor, "model feature hidden"]


@cache
def representation(
    n_features: int,
    d_hidden: int,
    p: float,
    n_models: int,
    decay: float = 1.0,
    start: Literal["random", "two triangles"] = "random",
) -> Run:
    """Toys without heads; feature i has importance decay^i. Kept: several claims look at the same ones.

    "two triangles" starts six features in four dimensions near a product of two triangles, which random starts seldom
    reach, and trains at 0.003 so that they settle there.
    """
    from tms_hooks.models.toy import ToyModel

    cfg = ToyConfig(n_features=n_features, d_hidden=d_hidden)
    init, lr = None, 1e-2
    if start == "two triangles":
        lr, W = 3e-3, torch.block_diag(triangle(), triangle())
        starts = [forward.init_weights(cfg, seed) for seed in range(n_models)]
        init = [ToyModel.from_weights(cfg, w | {"W_E": W + 0.1 * w["W_E"]}) for w in starts]
    return train(
        cfg,
        SparseUniform(n_features=n_features, feature_probability=p),
        seeds=range(n_models),
        steps=2_000,
        optimizer=Adam(lr=lr, schedule="cosine"),
        importance=[decay**i for i in range(n_features)],
        record_every=2_000,
        init=init,
    )


def train_heads(
    toys: Run,
    pairs: Sequence[Sequence[Pair]],
    d_head: int | None = None,
    head_objective: HeadObjective = "scores",
    steps: int = 1_000,
    n_models: int | None = None,
) -> Float[Tensor, "head model hidden hidden"]:
    """Omega of heads trained on the frozen hidden states of the first `n_models` toys: one list of pairs a head."""
    from tms_hooks.models.toy import ToyModel

    n, m = toys.W_E.shape[1:]
    seeds = toys.recipe.seeds[:n_models]
    cfg = ToyConfig(n_features=n, d_hidden=m, n_heads=len(pairs), d_head=d_head)
    frozen = [{name: w[i] for name, w in toys.weights.items()} for i in range(len(seeds))]
    run = train(
        cfg,
        toys.recipe.data,
        seeds=seeds,
        steps=steps,
        stages=("heads",),
        batch_size=256,
        optimizer=Adam(lr=2e-2, schedule="cosine"),
        qk_pairs=pairs,
        head_objective=head_objective,
        init=[
            ToyModel.from_weights(cfg, forward.init_weights(cfg, seed) | w)
            for seed, w in zip(seeds, frozen, strict=True)
        ],
        record_every=steps,
    )
    return omegas(run.weights).transpose(0, 1)


def omegas(weights: forward.Weights) -> Float[Tensor, "model head hidden hidden"]:
    """Omega of every head."""
    return (weights[forward.W_Q] @ weights[forward.W_K].mT).detach()


def untrained(toys: Run, n_heads: int = 1, d_head: int | None = None) -> Float[Tensor, "head model hidden hidden"]:
    """Omega of the heads that `train_heads` starts from."""
    n, m = toys.W_E.shape[1:]
    cfg = ToyConfig(n_features=n, d_hidden=m, n_heads=n_heads, d_head=d_head)
    starts = [forward.init_weights(cfg, seed) for seed in toys.recipe.seeds]
    return omegas({name: torch.stack([start[name] for start in starts]) for name in starts[0]}).transpose(0, 1)


def best_heads(
    W_E: Float[Tensor, "model feature hidden"], data: Distribution, pairs: Sequence[Pair], rank: int | None = None
) -> Float[Tensor, "model hidden hidden"]:
    """The closed form's head for each toy."""
    return torch.stack([theory.qk_optimum(W, data, pairs, rank) for W in W_E])


def relative_difference(
    found: Float[Tensor, "*model hidden hidden"], best: Float[Tensor, "*model hidden hidden"]
) -> float:
    """||Omega - Omega*|| / ||Omega*||, mean over models."""
    return float(((found.double() - best).norm(dim=(-2, -1)) / best.norm(dim=(-2, -1))).mean())


# Singular vectors and directions


def singular_vectors(
    omega: Float[Tensor, "hidden hidden"],
) -> tuple[Float[Tensor, "k hidden"], Float[Tensor, " k"], Float[Tensor, "k hidden"]]:
    """Left singular vectors as rows, singular values, right singular vectors as rows: those above rounding."""
    U, S, Vh = torch.linalg.svd(omega.detach().double())
    kept = 1e-5 * S[0] < S  # of a head trained in single precision
    return U.mT[kept], S[kept], Vh[kept]


def matched_cosines(
    omega: Float[Tensor, "hidden hidden"],
    left: Float[Tensor, "pair hidden"],
    right: Float[Tensor, "pair hidden"],
) -> np.ndarray:
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
    from scipy.linalg import subspace_angles

    return float(np.degrees(subspace_angles(vectors.double().mT.numpy(), directions.double().mT.numpy())[0]))


def explained(W_E: Float[Tensor, "feature hidden"], data: SparseUniform, pairs: Sequence[Pair], rank: int) -> float:
    """Share of E s^2 that the best head of a rank gets right: 1 - E (s - score)^2 / E s^2."""
    p = data.active_probability()
    together = torch.outer(p, p) + torch.diag(p * (1 - p))
    query, key = torch.tensor(pairs).T
    power = (together[query][:, query] * together[key][:, key]).sum()
    nothing = theory.qk_excess_loss(torch.zeros(W_E.shape[-1], W_E.shape[-1]), W_E, data, pairs)
    best = theory.qk_optimum(W_E, data, pairs, rank)
    return float((nothing - theory.qk_excess_loss(best, W_E, data, pairs)) / power)


def is_orthogonal(W_E: Float[Tensor, "feature hidden"], features: Sequence[int] = (0, 1)) -> bool:
    """Whether the features are learned, and orthogonal to every other learned one."""
    alive = geometry.represented(W_E).nonzero()[:, 0].tolist()
    if not set(features) <= set(alive):
        return False
    return bool((overlaps(W_E[alive].double())[[alive.index(i) for i in features]] < ORTHOGONAL).all())


def random_heads(models: int, d: int, rank: int) -> Float[Tensor, "model d d"]:
    """Random singular vectors, with singular values from 2 to 1 that tell them apart."""
    left, right = random_rotations(d, 2 * models, seed=rank).chunk(2)
    return (left[..., :rank] * torch.linspace(2, 1, rank, dtype=torch.float64)) @ right[..., :rank].mT


def singular_ratio(omega: Float[Tensor, "hidden hidden"]) -> float:
    """Second singular value over the first: near 1, only the span of the two vectors means anything."""
    S = singular_vectors(omega)[1]
    return float(S[1] / S[0])


def are_triangles(W_E: Float[Tensor, "model feature hidden"]) -> Bool[Tensor, " model"]:
    """Models that are the product of the two triangles that they started near."""
    return torch.tensor([geometry.tegum_factors(w) == TRIANGLES for w in W_E])


def each(omegas: Tensor, W_E: Tensor) -> "zip[tuple[Tensor, Tensor]]":
    """Omega and directions, model by model."""
    return zip(omegas, W_E, strict=True)


def mean(values: Iterable[Any]) -> float:
    """The mean; NaN of nothing."""
    array = np.array(list(values), dtype=float)
    return float(array.mean()) if len(array) else float("nan")


def triangle() -> Float[Tensor, "feature hidden"]:
    """Three unit features in a plane."""
    angles = 2 * pi / 3 * torch.arange(3)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)
