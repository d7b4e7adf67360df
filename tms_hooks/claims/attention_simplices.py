"""A claim about attended features that are not orthogonal: how do singular vectors arrange themselves between them?

Six features in four dimensions, p = 0.05, trained from starts near a product of two triangles (features 0 to 2, and 3
to 5); only models that are such a product in the end count.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, plots, stats
from tms_hooks.claims.heads import (
    SPARSE as P,
)
from tms_hooks.claims.heads import (
    Heads,
    are_triangles,
    best_heads,
    each,
    explained,
    largest_angle,
    matched_cosines,
    mean,
    representation,
    singular_ratio,
    singular_vectors,
    train_heads,
    untrained,
)
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import UNKNOWN, Verdict, above
from tms_hooks.data import SparseUniform
from tms_hooks.linalg import random_rotations, unit
from tms_hooks.losses import Pair

WITHIN: list[Pair] = [(0, 1), (1, 2)]
"""Two pairs in one triangle."""
CLOSE = 10.0
"""Degrees."""
Omegas = Float[Tensor, "model hidden hidden"]
Stacked = Float[Tensor, "model feature hidden"]


@claim("qk-same-subspace", "A", quick=20, full=100, needs=above(0.5))
def qk_same_subspace(n_models: int) -> Verdict:
    """Attending to features that are not orthogonal, singular vectors are their sum and difference, not the features.

    Statistic: share of models whose two leading singular vectors on either side are within 10 degrees of the sum and
    the difference of the two attended unit features (matched); pairs (0, 1) and (1, 2), of equal weight, in one
    triangle, r = 4.
    Threshold: above 1/2.
    Size: 20 models (quick), 100 (full).
    Controls: the optimal heads; untrained heads; random rotations within the triangle's plane; the same within 5 and 20
    degrees; mean |cosine| of the features themselves with the singular vectors matched to them; the angle between the
    span of the two leading left singular vectors and the triangle's plane; pentagons (n = 5, m = 2, pairs (0, 0) and
    (1, 1)); what share of the score's mean square the best head explains, and how much of it if the two query features
    are an antipodal pair.
    """
    toys = representation(6, 4, P, n_models, start="two triangles")
    pentagons = representation(5, 2, P, n_models)
    pairs: list[Pair] = [(0, 0), (1, 1)]
    data, W = toys.recipe.data, toys.W_E
    assert isinstance(data, SparseUniform)
    digon = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    square = SparseUniform(n_features=4, feature_probability=P)
    return judge_sum_and_difference(
        W,
        train_heads(toys, [WITHIN], 4)[0],
        best_heads(W, data, WITHIN),
        untrained(toys, 1, 4)[0],
        pentagons=Heads(train_heads(pentagons, [pairs], 2)[0], pentagons.W_E),
        shares={
            "share explained, two of a triangle": np.array([explained(w, data, WITHIN, 4) for w in W]),
            "share explained, one of each triangle": np.array([explained(w, data, [(0, 1), (3, 4)], 4) for w in W]),
            "share explained, an antipodal pair": np.array([explained(digon, square, [(0, 2), (1, 2)], 2)]),
            "share explained, one of that antipodal pair": np.array([explained(digon, square, [(0, 2)], 2)]),
        },
    )


def judge_sum_and_difference(
    W_E: Stacked,
    trained: Omegas,
    best: Omegas,
    start: Omegas,
    pentagons: Heads,
    shares: Mapping[str, np.ndarray],
) -> Verdict:
    """Are the leading singular vectors the sum and the difference of two features of one triangle?"""
    kept = are_triangles(W_E)
    W = W_E[kept]

    def within(omegas: Omegas, degrees: float = CLOSE) -> list[bool]:
        return [sum_angle(o, w, (0, 1), (1, 2)) < degrees for o, w in each(omegas[kept], W)]

    held = within(trained)
    angles = {
        name: np.array([sum_angle(o, w, (0, 1), (1, 2)) for o, w in each(omega[kept], W)])
        for name, omega in (("trained", trained), ("optimal", best), ("in the plane, at random", _in_plane(W_E)))
    }
    measurable = len(W) > 1
    controls = {
        "optimal heads": mean(within(best)),
        "untrained": mean(within(start)),
        "random rotations in the plane": mean(angles["in the plane, at random"] < CLOSE),
        **{f"within {degrees:g} degrees": mean(within(trained, degrees)) for degrees in (5.0, 20.0)},
        "mean |cosine| of the features themselves": mean(
            matched_cosines(o, w[[0, 1]], w[[1, 2]]).mean() for o, w in each(trained[kept], W)
        ),
        "angle between the leading two and the triangle's plane (degrees)": mean(
            largest_angle(singular_vectors(o)[0][:2], w[:2]) for o, w in each(trained[kept], W)
        ),
        "second singular value over first": mean(singular_ratio(o) for o in trained[kept]),
        "pentagons": mean(
            sum_angle(o, w, (0, 1), (0, 1)) < CLOSE
            for o, w in each(*pentagons)
            if geometry.name_polytope(w) == "pentagon"
        ),
        **{name: float(values.mean()) for name, values in shares.items()},
        "models that count": float(kept.sum()),
    }
    return Verdict(
        measured="The share of models whose singular vectors are sum and difference",
        statistic=float(np.mean(held)) if measurable else float("nan"),
        interval=stats.wilson(sum(held), len(held)) if measurable else UNKNOWN,
        n_models=len(W),
        controls={name: float(value) for name, value in controls.items()},
        theory=mean(within(best)) if measurable else None,
        detail=f"The largest of the four angles is {np.median(angles['trained']):.1f} degrees in the median model."
        if measurable
        else "",
        figures=[
            (
                "The largest angle between the two leading singular vectors, left and right, and the sum and "
                "difference of the attended features.",
                plots.distributions(
                    angles,
                    "degrees",
                    dict(zip(angles, (plots.TOY, plots.PALETTE[1], plots.NULL), strict=True)),
                ),
            )
        ]
        if measurable
        else (),
    )


def sum_angle(
    omega: Float[Tensor, "hidden hidden"],
    W_E: Float[Tensor, "feature hidden"],
    query: tuple[int, int],
    key: tuple[int, int],
) -> float:
    """The largest angle, of both sides, between the two leading singular vectors and sum and difference, in degrees."""

    def sides(i: int, j: int) -> Tensor:
        a, b = unit(W_E[i]), unit(W_E[j])
        return torch.stack([a + b, a - b])

    U, S, V = singular_vectors(omega)
    leading = (U[:2].mT * S[:2]) @ V[:2]
    cosine = matched_cosines(leading, sides(*query), sides(*key)).min()
    return float(np.degrees(np.arccos(min(cosine, 1.0))))


def _in_plane(W_E: Stacked) -> Omegas:
    """Random singular vectors within the plane of the first triangle."""
    left, right = random_rotations(2, 2 * len(W_E)).chunk(2)
    basis = torch.linalg.svd(W_E[:, :3].double())[2][:, :2]
    values = torch.tensor([2.0, 1.0], dtype=torch.float64)
    return basis.mT @ (left * values) @ right.mT @ basis
