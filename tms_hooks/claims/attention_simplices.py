"""A claim about attended features that are not orthogonal: how do singular vectors arrange themselves between them?

Features are put near a product of two triangles (`heads.triangles`), and heads trained on them.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tms_hooks import geometry, plots
from tms_hooks.claims import Verdict, claim, heads, lab, seeds, share
from tms_hooks.claims.heads import Directions, Heads, Omega, Omegas
from tms_hooks.data import SparseUniform
from tms_hooks.linalg import random_rotations, unit
from tms_hooks.losses import Pair

WITHIN: list[Pair] = [(0, 1), (1, 2)]
"""Two pairs in one triangle."""
UNEQUAL = {(0, 1): 2.0, (1, 2): 1.0}
CLOSE = 10.0
"""Degrees."""


class Beyond(NamedTuple):
    """Arms that the document does not have."""

    unequal: Omegas
    """Heads of pairs worth 2 and 1."""
    biased: Omegas
    """Heads with b_Q and b_K."""


@claim("qk-same-subspace", "A", quick=20, full=100)
def qk_same_subspace(n_models: int) -> Verdict:
    """Attending to features that are not orthogonal, singular vectors are their sum and difference, not the features.

    Pairs (0, 1) and (1, 2) in one triangle, r = 4. Models that are two triangles count.

    Part "sum and difference": "When the head attends to features in the same subspace (ie non-orthogonal features), how
    do SVs organize?".
    Statistic: the share of models whose two leading singular vectors on either side are within 10 degrees of the sum
    and the difference of the two attended unit features (matched), pairs of equal weight.
    Threshold: above 1/2.
    Null: random rotations within the triangle's plane.

    Beyond the source "unequal weights":
    Statistic: the same share, of pairs worth 2 and 1.
    Threshold: above 1/2.
    Null: random rotations within the triangle's plane.

    Beyond the source "with biases":
    Statistic: the same share, of pairs of equal weight and heads with b_Q and b_K.
    Threshold: above 1/2.
    Null: random rotations within the triangle's plane.

    Size: 20 models (quick), 100 (full).
    Controls: the optimal heads; untrained heads; the same within 5 and 20 degrees; mean |cosine| of the features
    themselves with the singular vectors matched to them; the angle between the span of the two leading left singular
    vectors and the triangle's plane; pentagons (n = 5, m = 2, pairs (0, 0) and (1, 1)); what share of the score's mean
    square the best head explains, and how much of it if the two query features are an antipodal pair.
    """
    toys = heads.triangles(n_models)
    pentagons = heads.representation(5, 2, heads.SPARSE, n_models)
    equal, unequal = heads.train(toys, [WITHIN, UNEQUAL], 4)
    return judge_sum_and_difference(
        Heads(equal, toys.W_E),
        heads.untrained(toys.W_E, 4),
        Heads(heads.train(pentagons, [[(0, 0), (1, 1)]], 2)[0], pentagons.W_E),
        Beyond(unequal, heads.train(toys, [WITHIN], 4, biases=True)[0]),
    )


def judge_sum_and_difference(trained: Heads, untrained: Omegas, pentagons: Heads, beyond: Beyond) -> Verdict:
    """Are the leading singular vectors the sum and the difference of two features of one triangle?"""
    omega, W_E = trained
    data, square = (SparseUniform(n_features=n, feature_probability=heads.SPARSE) for n in (6, 4))
    digons = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    counts = heads.are_triangles(W_E)
    each = heads.measuring(W_E, counts)
    of_pentagons = heads.measuring(
        pentagons.W_E, torch.tensor([geometry.name_polytope(w) == "pentagon" for w in pentagons.W_E])
    )
    angles = {
        "trained": each(sum_angle, omega),
        "optimal": each(sum_angle, heads.optimal(W_E, data, WITHIN)),
        "in the plane, at random": each(sum_angle, in_plane(W_E)),
    }
    what = "The share of models whose singular vectors are sum and difference"
    chance = angles["in the plane, at random"] < CLOSE

    def close(omega: Omegas) -> np.ndarray:
        return np.asarray(each(sum_angle, omega) < CLOSE)

    return Verdict(
        parts={
            "sum and difference": share(
                what, angles["trained"] < CLOSE, null=chance, best=lab.mean(angles["optimal"] < CLOSE)
            ),
            "unequal weights": share(
                what, close(beyond.unequal), null=chance, best=lab.mean(close(heads.optimal(W_E, data, UNEQUAL)))
            ),
            "with biases": share(
                what,
                close(beyond.biased),
                null=chance,
                best=lab.mean(close(heads.optimal(W_E, data, WITHIN, biases=True))),
            ),
        },
        n_models=int(counts.sum()),
        controls={
            "untrained": lab.mean(each(sum_angle, untrained) < CLOSE),
            **{f"within {degrees} degrees": lab.mean(angles["trained"] < degrees) for degrees in (5, 20)},
            "mean |cosine| of the features themselves": lab.mean(
                each(lambda o, w: heads.matched_cosines(o, w[[0, 1]], w[[1, 2]]).mean(), omega)
            ),
            "angle between the leading two and the triangle's plane (degrees)": lab.mean(
                each(heads.query_angle, omega)
            ),
            "second singular value over first": lab.mean(map(heads.singular_ratio, omega[counts])),
            "pentagons": lab.mean(of_pentagons(partial(sum_angle, key=(0, 1)), pentagons.omega) < CLOSE),
            **{
                f"share explained, {name}": lab.mean(heads.explained(w, data, pairs, 4) for w in W_E)
                for name, pairs in (("two of a triangle", WITHIN), ("one of each triangle", [(0, 1), (3, 4)]))
            },
            "share explained, an antipodal pair": heads.explained(digons, square, [(0, 2), (1, 2)], 2),
            "share explained, one of that antipodal pair": heads.explained(digons, square, [(0, 2)], 2),
            "models that count": counts.sum(),
        },
        detail=f"The largest of the four angles is {np.median(angles['trained']):.1f} degrees in the median model."
        if counts.any()
        else "",
        figures={
            "The largest angle between the two leading singular vectors, left and right, and the sum and difference of "
            "the attended features.": plots.distributions(
                angles, "degrees", dict(zip(angles, (plots.TOY, plots.PALETTE[1], plots.NULL), strict=True))
            ),
        }
        if counts.any()
        else (),
    )


def sum_angle(omega: Omega, W_E: Directions, query: Pair = (0, 1), key: Pair = (1, 2)) -> float:
    """The largest angle, of both sides, between the two leading singular vectors and sum and difference, in degrees."""

    def sides(i: int, j: int) -> Tensor:
        a, b = unit(W_E[i]), unit(W_E[j])
        return torch.stack([a + b, a - b])

    U, S, V = heads.singular_vectors(omega)
    leading = (U[:2].mT * S[:2]) @ V[:2]
    cosine = heads.matched_cosines(leading, sides(*query), sides(*key)).min()
    return float(np.degrees(np.arccos(min(cosine, 1.0))))


def in_plane(W_E: lab.Stacked) -> Omegas:
    """Random singular vectors within the plane of the first triangle."""
    left, right = random_rotations(2, 2 * len(W_E), seeds.first()).chunk(2)
    basis = torch.linalg.svd(W_E[:, :3].double())[2][:, :2]
    values = torch.tensor([2.0, 1.0], dtype=torch.float64)
    return basis.mT @ (left * values) @ right.mT @ basis
