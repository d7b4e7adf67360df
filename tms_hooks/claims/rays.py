"""What "Superposition and bottlenecks" asks to derive about shared directions, and what it says of measurements' sums.

One-hot features in two dimensions, tied, without bias, all losses exact; "learned" means a norm above 0.1.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, landscape, plots
from tms_hooks.claims import Verdict, claim, lab, seeds, share, statistic
from tms_hooks.claims.bottlenecks import LEARNED, STEPS, train_documented, train_onehot
from tms_hooks.claims.lab import Stacked
from tms_hooks.config import Activation, ToyConfig
from tms_hooks.data import OneHot

FLAT = 1e-3
"""A curvature below this share of the largest is none: trained models are in single precision."""
TIGHT = 0.02
"""Relative distance of sum_i W_i W_i^T from a multiple of the identity below which a frame counts as tight."""


def exact_loss(W: Float[Tensor, "feature hidden"], output_act: Activation) -> Float[Tensor, ""]:
    """Of one model."""
    cfg = ToyConfig(n_features=len(W), d_hidden=W.shape[1], output_bias=False, output_act=output_act)
    return landscape.exact_loss({"W_E": W}, cfg, OneHot(n_features=len(W)))


def exchange_curvature(W: Float[Tensor, "feature hidden"], output_act: Activation, pair: tuple[int, int]) -> float:
    """Curvature of the exact loss where two features on one ray exchange length, relative to the largest curvature.

    Behind a ReLU it is 0, in three lines. Let features i and j have lengths a and b on a ray r, s^2 = a^2 + b^2. The
    inputs i and j cost (1 - a^2)^2 + (ab)^2 + (1 - b^2)^2 + (ab)^2 = 2 - 2 s^2 + s^4 on i and j, and s^2 sum_k relu(r .
    W_k)^2 on the others k. The inputs k cost s^2 relu(r . W_k)^2 on i and j. So only s matters, and along the exchange
    (-b, a), which keeps it, a trained model has neither slope nor curvature. Of a GELU none of the three holds.
    """
    W = W.double()

    def loss(theta: Tensor) -> Tensor:
        return exact_loss(theta.reshape(W.shape), output_act)

    hessian = torch.autograd.functional.hessian(loss, W.flatten(), vectorize=True)
    i, j = pair
    exchange = torch.zeros_like(W)
    exchange[i] = -W[j].norm() * W[i] / W[i].norm()
    exchange[j] = W[i].norm() * W[j] / W[j].norm()
    exchange = (exchange / exchange.norm()).flatten()
    return float(exchange @ hessian @ exchange / torch.linalg.eigvalsh(hessian).abs().max())


def takeover(W: Float[Tensor, "feature hidden"], output_act: Activation, pair: tuple[int, int]) -> float:
    """What the exact loss gains if one of two features on a ray has all their length, over equal parts; summed over n.

    >>> two = torch.tensor([[0.7, 0.0], [0.7, 0.0], [-1.0, 0.0]])
    >>> round(takeover(two, "relu", (0, 1)), 9) + 0.0, takeover(two, "gelu", (0, 1)) < 0
    (0.0, True)
    """
    W = W.double()
    i, j = pair
    ray, size = W[i] / W[i].norm(), torch.hypot(W[i].norm(), W[j].norm())
    losses = []
    for a, b in ((1.0, 0.0), (0.5**0.5, 0.5**0.5)):
        changed = W.clone()
        changed[i], changed[j] = a * size * ray, b * size * ray
        losses.append(float(exact_loss(changed, output_act)))
    return len(W) * (losses[0] - losses[1])


def shared_pairs(W: Float[Tensor, "feature hidden"]) -> list[tuple[int, int]]:
    """One pair of learned features for each direction that has two or more."""
    return [(group[0], group[1]) for group in geometry.directions(W, LEARNED) if len(group) > 1]


@claim("shared-ray-is-flat", "B", quick=8, full=24)
def shared_ray_is_flat(n_models: int) -> Verdict:
    """Behind a ReLU nothing pulls apart two features on one ray; behind a GELU they do not stay there.

    Part "no gradient": "Derivation of no gradient along the feature direction in relu case."
    Statistic: the share of ReLU models of ten features all of whose pairs on one direction exchange length at no cost:
    at the trained weights the exact curvature along the exchange is below 0.001 of the largest of the Hessian.
    Threshold: above 1/2.
    Null: the same weights behind a GELU.

    Part "GELU": "Is there anything to say here about why gradients are better in the GELU case?"
    Statistic: the mean over the same models of the change in the exact loss, summed over inputs, behind a GELU, if one
    of the first pair on a direction has all their length instead of both an equal part.
    Threshold: below 0.
    Null: behind the ReLU.

    Beyond the source "trained on":
    Statistic: the mean number of directions that two features share after the same models were trained on behind a
    GELU, less that before.
    Threshold: below -1.
    Null: none, since the statistic is a difference.

    Size: 8 models (quick), 24 (full), by the document's schedule.
    Controls: the largest and the smallest curvature of each; features that share a direction after ReLU models are
    trained on behind a GELU; pairs looked at.
    """
    relu = train_documented(10, 2, n_models)
    cfg = ToyConfig(n_features=10, d_hidden=2, output_bias=False, output_act="gelu")
    further = lab.train_from(cfg, OneHot(n_features=10), lab.each(relu.weights), steps=STEPS)
    return judge_rays(relu.W_E, further.W_E)


def judge_rays(relu: Stacked, further: Stacked) -> Verdict:
    """Do exchanges cost nothing behind a ReLU, and does one feature take a direction over behind a GELU?

    Args:
        relu: trained behind a ReLU.
        further: the same, trained on behind a GELU.
    """
    pairs = [shared_pairs(w) for w in relu]
    found: dict[str, list[list[float]]] = {
        act: [[exchange_curvature(w, act, pair) for pair in some] for w, some in zip(relu, pairs, strict=True) if some]
        for act in ("relu", "gelu")
    }

    def flat(act: str) -> np.ndarray:
        return np.array([max(map(abs, model)) < FLAT for model in found[act]], dtype=bool)

    def gains(act: Activation) -> np.ndarray:
        return np.array([takeover(w, act, some[0]) for w, some in zip(relu, pairs, strict=True) if some])

    everything = {act: np.concatenate([np.zeros(0), *map(np.array, models)]) for act, models in found.items()}
    stay = [len(shared_pairs(w)) for w in further]
    return Verdict(
        parts={
            "no gradient": share("The share of models whose exchanges cost nothing", flat("relu"), null=flat("gelu")),
            "GELU": statistic(
                "The change in loss if one feature takes the direction over, behind a GELU,",
                lab.mean,
                gains("gelu"),
                null=(gains("relu"),),
            ),
            "trained on": statistic(
                "The change in shared directions behind a GELU",
                lab.mean,
                np.array(stay) - np.array(list(map(len, pairs))),
            ),
        },
        n_models=len(relu),
        controls={
            f"{name} curvature, {act}": float(choose(values)) if len(values) else np.nan
            for act, values in everything.items()
            for name, choose in (("largest", np.max), ("smallest", np.min))
        }
        | {"pairs": sum(map(len, pairs)), "shared directions after training on behind a GELU": lab.mean(stay)},
        detail=f"Directions shared by two: {lab.mean(map(len, pairs)):.3g} of five behind a ReLU, {lab.mean(stay):.3g} "
        "after training on behind a GELU.",
        figures={
            "Curvature of every exchange, relative to the largest of the model.": plots.strips(
                dict(everything), "relative curvature"
            ),
            "Seed 0 behind a ReLU, and trained on behind a GELU.": plots.feature_arrows(
                torch.stack([relu[0], further[0]]).numpy(), ["ReLU", "then GELU"]
            ),
        },
    )


def tightness(W: Stacked) -> np.ndarray:
    """Each model's relative distance of sum_i W_i W_i^T from c times the identity, the nearest c; 1 of no weights.

    >>> tightness(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]])).round(3)
    array([0.   , 0.707])
    """
    S = (W.mT @ W).double()
    c = S.diagonal(dim1=-2, dim2=-1).mean(-1)
    off = S - c[:, None, None] * torch.eye(S.shape[-1])
    size = S.flatten(1).norm(dim=-1)
    return torch.where(size > 0, off.flatten(1).norm(dim=-1) / size, 1.0).numpy()


@claim("tight-frames", "B", quick=8, full=40)
def tight_frames(n_models: int) -> Verdict:
    """Learned directions resolve the identity as a measurement's operators must: sum_i W_i W_i^T = c 1.

    Part "sum to the identity": "The POVMs must sum to the identity. Unclear what this would mean in ML".
    Statistic: the share of tied ReLU models of 40 one-hot features in two dimensions, by the document's schedule, whose
    sum_i W_i W_i^T is within 2 % of a multiple of the identity (Frobenius).
    Threshold: above 1/2.
    Null: as many random directions of the same norms.

    Beyond the source "in more dimensions":
    Statistic: the same share, m = 3 and 5 by the usual recipe.
    Threshold: above 1/2.
    Null: as many random directions of the same norms.

    Beyond the source "sparse": features as in Toy Models of Superposition, n = 20, m = 5, p = 0.01.
    Statistic: the share of models within 5 % of a multiple of the identity.
    Threshold: above 1/2.
    Null: as many random directions of the same norms.

    Size: 8 models for each (quick), 40 (full).
    Controls: the median distance of each and of random directions; the dense end, p = 0.3; c.
    """
    return judge_frames(
        train_documented(40, 2, n_models).W_E,
        {m: train_onehot(20 * m - 20, m, n_models, "relu").W_E for m in (3, 5)},
        {p: lab.train_sparse(20, 5, p, n_models, steps=3_000).W_E for p in (0.01, 0.3)},
    )


def turned_at_random(W: Stacked) -> Stacked:
    """Each feature in a random direction, at its norm."""
    generator = seeds.generator()
    drawn = torch.randn(W.shape, generator=generator, dtype=W.dtype)
    return drawn / drawn.norm(dim=-1, keepdim=True) * W.norm(dim=-1, keepdim=True)


def judge_frames(plane: Stacked, more: Mapping[int, Stacked], sparse: Mapping[float, Stacked]) -> Verdict:
    """Are learned directions tight frames?

    Args:
        plane: one-hot models in two dimensions.
        more: one-hot models by hidden dimension.
        sparse: models of sparse features by feature probability; the least decides.
    """
    sparsest = min(sparse)

    def tight(groups: "list[Stacked]", cut: float = TIGHT) -> np.ndarray:
        return np.concatenate([tightness(W) < cut for W in groups])

    def null(groups: "list[Stacked]", cut: float = TIGHT) -> np.ndarray:
        return tight([turned_at_random(W) for W in groups], cut)

    named = (
        {"one-hot, m = 2": plane}
        | {f"one-hot, m = {m}": W for m, W in more.items()}
        | {f"p = {p}": W for p, W in sparse.items()}
    )
    distances = {name: tightness(W) for name, W in named.items()}
    several = list(more.values())
    return Verdict(
        parts={
            "sum to the identity": share("The share of tight frames, m = 2,", tight([plane]), null=null([plane])),
            "in more dimensions": share("The share of tight frames, m = 3 and 5,", tight(several), null=null(several)),
            "sparse": share(
                f"The share of tight frames, p = {sparsest},",
                tight([sparse[sparsest]], 0.05),
                null=null([sparse[sparsest]], 0.05),
            ),
        },
        n_models=len(plane),
        controls={f"median distance, {name}": float(np.median(values)) for name, values in distances.items()}
        | {
            f"median distance, {name}, random": float(np.median(tightness(turned_at_random(W))))
            for name, W in named.items()
        }
        | {f"c, {name}": float(W.square().sum((-2, -1)).mean()) / W.shape[-1] for name, W in named.items()},
        detail=lab.listing(
            "Median distance from a multiple of the identity",
            {name: float(np.median(values)) for name, values in distances.items()},
            ".3g",
        ),
        figures={
            "Distance of sum W_i W_i^T from a multiple of the identity, every model.": plots.strips(
                distances, "relative distance"
            )
        },
    )
