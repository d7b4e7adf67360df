"""Do a matrix's singular vectors point at given directions, more than at random ones?

A head's Omega says which directions it compares, but a matrix has singular vectors whatever it was trained for. So
they are matched one to one with directions of interest, such as a toy's features, and the cosines are compared with
those of randomly turned directions. Vectors of nearly equal singular values may be turned into each other without any
change of the matrix: they are judged together, as a block.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.linalg import subspace_angles
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from probes.circuits import Circuit

EQUAL = 0.01
"""Singular values within this share of the largest of their block count as equal."""


@dataclass(frozen=True)
class Alignment:
    """How the singular vectors of one matrix lie to two sets of directions. `k` is the numerical rank.

    Inside a block of two or more the single vectors, their cosines and their order mean nothing: read the block's
    angles and the matched features instead.
    """

    S: Float[Tensor, " k"]
    left_cosines: Float[Tensor, "k left_feature"]
    right_cosines: Float[Tensor, "k right_feature"]
    blocks: tuple[tuple[int, int], ...]
    """First and one past the last singular vector of each block."""
    left_features: Int[Tensor, " k"]
    """Best matching (Hungarian) of vectors to features by the cosine of feature and block; -1: none left."""
    right_features: Int[Tensor, " k"]
    left_angles: tuple[Float[Tensor, "_"], ...]
    """Principal angles (radians, largest first) between each block and the span of the features matched to it."""
    right_angles: tuple[Float[Tensor, "_"], ...]
    left_pvalues: Float[Tensor, " k"]
    """Corrected for all blocks of both sides; the vectors of a block share one."""
    right_pvalues: Float[Tensor, " k"]

    @property
    def pvalues(self) -> Float[Tensor, " k"]:
        """That both sides of a singular pair are aligned: the larger of the two (an intersection-union test)."""
        return torch.maximum(self.left_pvalues, self.right_pvalues)

    def table(self) -> pd.DataFrame:
        """One row per singular vector: value, block, and for each side feature, largest block angle and p-value."""
        sizes = [stop - start for start, stop in self.blocks]
        table = pd.DataFrame({"singular_value": self.S.numpy(), "block": np.repeat(range(len(sizes)), sizes)})
        for side in ("left", "right"):
            angles = [float(block[0]) if len(block) else np.pi / 2 for block in getattr(self, f"{side}_angles")]
            table[f"{side}_feature"] = getattr(self, f"{side}_features").numpy()
            table[f"{side}_angle"] = np.repeat(angles, sizes)
            table[f"{side}_pvalue"] = getattr(self, f"{side}_pvalues").numpy()
        return table.rename_axis("singular_vector")


def align(
    omega: Float[Tensor, "d_left d_right"] | Circuit,
    left: Float[Tensor, "left_feature width"],
    right: Float[Tensor, "right_feature right_width"],
    null: Literal["rotation"] = "rotation",
    n_null: int = 1000,
    seed: int = 0,
    *,
    covariance: Tensor | tuple[Tensor, Tensor] | None = None,
) -> Alignment:
    """Compare the singular vectors of `omega` with directions such as a toy's `W_E`: left for queries, right for keys.

    >>> W_E = torch.eye(3, 8)
    >>> omega = 2.0 * torch.outer(W_E[0], W_E[1]) + torch.outer(W_E[2], W_E[0])
    >>> found = align(omega, W_E, W_E)
    >>> found.left_features, found.right_features
    (tensor([0, 2]), tensor([1, 0]))
    >>> bool((found.pvalues < 0.01).all())
    True

    The statistic of a block is the mean cosine between it and its matched features. The null turns each set of
    directions at random (or rather puts random orthonormal frames in the place of the singular vectors) and matches
    anew. P-values are corrected by the distribution of the largest statistic of all blocks of both sides, each
    standardized by its null (maxT, Westfall & Young 1993): a thousand rotations do for any number of blocks.

    Args:
        omega: the matrix, or a circuit with its decomposition.
        left, right: directions as rows, of any length but zero. More of them than dimensions is fine.
        null, n_null, seed: "rotation"; how many; of their draw. The smallest p-value is 1 / (n_null + 1).
        covariance: of the inputs (uncentered), "d d", one for both sides or (left, right). Both are then compared in
            whitened coordinates: C^(1/2) Omega C^(1/2) against C^(-1/2) direction, on the support of C. There the
            optimum of a single attended pair is C^(-1/2) E[1(x_i > 0) h]: the feature direction if features are sparse,
            but not if they are dense and their mean is far from 0.

    Raises:
        ValueError: shapes that do not fit, a zero or non-finite direction, a zero matrix, an unknown null.
    """
    if null != "rotation":
        raise ValueError(f"null={null!r} is not known: use 'rotation', or pass other directions as left and right")
    matrix = (omega.matrix if isinstance(omega, Circuit) else omega).detach().double()
    left, right = _unit_rows(left, matrix.shape[0], "left"), _unit_rows(right, matrix.shape[1], "right")
    if covariance is not None:
        C_left, C_right = covariance if isinstance(covariance, tuple) else (covariance, covariance)
        (root_left, left), (root_right, right) = _whiten(C_left, left, "left"), _whiten(C_right, right, "right")
        U, S, Vh = torch.linalg.svd(root_left @ matrix @ root_right, full_matrices=False)
    elif isinstance(omega, Circuit):
        U, S, Vh = (part.double() for part in (omega.U, omega.S, omega.Vh))
    else:
        U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((S[0] * max(matrix.shape) * torch.finfo(torch.float32).eps < S).sum())
    if rank == 0:
        raise ValueError("omega is zero: it has no singular directions to align")
    U, S, Vh = U[:, :rank], S[:rank], Vh[:rank]
    blocks = equal_blocks(S, EQUAL)
    left_side, right_side = _Side(U.mT, left, blocks), _Side(Vh, right, blocks)
    left_pvalues, right_pvalues = _pvalues([left_side, right_side], n_null, seed)
    return Alignment(
        S=S,
        left_cosines=left_side.cosines,
        right_cosines=right_side.cosines,
        blocks=blocks,
        left_features=torch.tensor(left_side.features),
        right_features=torch.tensor(right_side.features),
        left_angles=left_side.angles(),
        right_angles=right_side.angles(),
        left_pvalues=left_pvalues,
        right_pvalues=right_pvalues,
    )


def equal_blocks(S: Float[Tensor, " k"], tol: float) -> tuple[tuple[int, int], ...]:
    """Runs of a descending sequence that stay within `tol` (relative) of their first value: (start, stop) of each."""
    starts = [0]
    for i in range(1, len(S)):
        if S[i] < (1 - tol) * S[starts[-1]]:
            starts.append(i)
    return tuple(zip(starts, [*starts[1:], len(S)], strict=True))


class _Side:
    """One side's singular vectors (rows) and unit directions (rows), matched."""

    def __init__(self, vectors: Tensor, directions: Tensor, blocks: tuple[tuple[int, int], ...]) -> None:
        self.vectors, self.directions, self.blocks = vectors, directions, blocks
        self.cosines = vectors @ directions.mT
        self.features, self.statistic = _match(self.cosines.numpy(), blocks)

    def angles(self) -> tuple[Tensor, ...]:
        found = []
        for start, stop in self.blocks:
            features = [f for f in self.features[start:stop] if f >= 0]
            block, matched = self.vectors[start:stop].mT.numpy(), self.directions[features].mT.numpy()
            found.append(torch.from_numpy(subspace_angles(block, matched) if features else np.empty(0)))
        return tuple(found)

    def null_statistics(self, generator: torch.Generator) -> np.ndarray:
        shape = self.vectors.mT.shape
        frame, R = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))
        frame = frame * R.diagonal().sign()  # without the signs LAPACK's choice would show: not uniform
        return _match((frame.mT @ self.directions.mT).numpy(), self.blocks)[1]


def _match(cosines: np.ndarray, blocks: tuple[tuple[int, int], ...]) -> tuple[list[int], np.ndarray]:
    """Feature of each singular vector, and each block's mean cosine with its features.

    A vector is as near to a feature as its whole block is, so that turning the vectors inside a block changes nothing.
    """
    nearness = np.concatenate(
        [np.repeat(np.linalg.norm(cosines[a:b], axis=0, keepdims=True), b - a, axis=0) for a, b in blocks]
    )
    rows, columns = linear_sum_assignment(nearness, maximize=True)
    features = np.full(len(cosines), -1)
    features[rows] = columns
    matched = np.zeros(len(cosines))
    matched[rows] = nearness[rows, columns]
    return features.tolist(), np.array([matched[a:b].mean() for a, b in blocks])


def _pvalues(sides: list[_Side], n_null: int, seed: int) -> tuple[Tensor, Tensor]:
    """Corrected p-value of every vector, per side. The observed statistics count as one draw from the null."""
    generator = torch.Generator().manual_seed(seed)
    observed = np.concatenate([side.statistic for side in sides])
    draws = [np.concatenate([side.null_statistics(generator) for side in sides]) for _ in range(n_null)]
    # a block that fills the space has cosine 1 under any rotation: rounding must not tell the draws apart
    statistics = np.round(np.stack([observed, *draws]), 9)
    kinds = np.array([(number, b - a) for number, side in enumerate(sides) for a, b in side.blocks])
    for kind in np.unique(kinds, axis=0):
        alike = (kinds == kind).all(axis=1)  # blocks of one side and size have one null
        pool = statistics[:, alike]
        statistics[:, alike] = (pool - pool.mean()) / (pool.std() or 1)
    corrected = (statistics.max(axis=1)[:, None] >= statistics[0]).mean(axis=0)
    left, right = np.repeat(corrected, kinds[:, 1]).reshape(2, -1)
    return torch.from_numpy(left), torch.from_numpy(right)


def _unit_rows(directions: Tensor, width: int, name: str) -> Tensor:
    if directions.shape[-1] != width:
        raise ValueError(
            f"{name} has shape {tuple(directions.shape)}: directions are rows, of omega's width {width} on that side"
        )
    directions = directions.detach().double()
    norms = directions.norm(dim=-1, keepdim=True)
    bad = ~(norms[:, 0].isfinite() & (norms[:, 0] > 0))
    if bad.any():
        rows = bad.nonzero()[:, 0].tolist()
        raise ValueError(f"{name} has no direction in row(s) {rows}: zero or non-finite; leave them out")
    return directions / norms


def _whiten(C: Tensor, directions: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """C^(1/2), and unit directions in whitened coordinates."""
    C = C.detach().double()
    values, vectors = torch.linalg.eigh(C)
    if C.shape[0] != directions.shape[1] or not torch.allclose(C, C.mT) or values[0] < -1e-6 * values[-1]:
        raise ValueError(
            f"{name} covariance of shape {tuple(C.shape)} must be symmetric, non-negative and as wide as omega"
        )
    support = values > 1e-10 * values[-1]
    values, vectors = values[support], vectors[:, support]
    root = (vectors * values.sqrt()) @ vectors.mT
    whitened = directions @ (vectors / values.sqrt()) @ vectors.mT
    return root, _unit_rows(whitened, len(C), f"whitened {name}")
