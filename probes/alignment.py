"""Do a matrix's singular vectors point at given directions, more than at random ones?

A head's Omega says which directions it compares, but a matrix has singular vectors whatever it was trained for. So
they are matched one to one with directions of interest, such as a toy's features, and the cosines are compared with
those of randomly turned directions. Vectors of nearly equal singular values may be turned into each other without any
change of the matrix: they are judged together, as a block.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.linalg import subspace_angles
from scipy.optimize import linear_sum_assignment
from scipy.stats import beta
from torch import Tensor

from probes.bottleneck import Bottleneck, end_of
from probes.calls import brief
from probes.circuits import Circuit
from probes.given import as_tensor, whole

EQUAL = 0.01
"""Singular values within this share of the largest of their block count as equal."""
LEVEL = 0.05
"""A threshold is the cosine at which the p-value comes down to this."""


@dataclass(frozen=True, repr=False)
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
    left_thresholds: Float[Tensor, " k"]
    """The block's mean cosine at which its p-value comes down to 0.05. Near 1 there is little room: in so few
    dimensions random rotations align that many directions as well. Above 1 nothing can be significant."""
    right_thresholds: Float[Tensor, " k"]
    dimensions: tuple[int, int]
    """In how many the left and the right directions may turn."""

    def __repr__(self) -> str:
        return brief(self)

    @property
    def pvalues(self) -> Float[Tensor, " k"]:
        """For both sides of a singular pair to be aligned: the larger of the two (an intersection-union test)."""
        return torch.maximum(self.left_pvalues, self.right_pvalues)

    def table(self) -> pd.DataFrame:
        """One row per singular vector that has a direction on either side: value, block, and what lies there.

        Of each side: feature, the block's mean cosine with its features (0 for a vector without one), its largest angle
        in radians, threshold and p-value; missing where no direction was left for that side.
        """
        sizes = [stop - start for start, stop in self.blocks]
        table = pd.DataFrame({"singular_value": self.S.numpy(), "block": np.repeat(range(len(sizes)), sizes)})
        for side in ("left", "right"):
            features = pd.Series(getattr(self, f"{side}_features").numpy(), dtype="Int64")
            matched = features >= 0
            angles = [float(block[0]) if len(block) else np.nan for block in getattr(self, f"{side}_angles")]
            columns = {
                "cosine": np.repeat(_match(getattr(self, f"{side}_cosines").numpy(), self.blocks)[1], sizes),
                "angle": np.repeat(angles, sizes),
                "threshold": getattr(self, f"{side}_thresholds").numpy(),
                "pvalue": getattr(self, f"{side}_pvalues").numpy(),
            }
            table[f"{side}_feature"] = features.where(matched)
            for name, column in columns.items():
                table[f"{side}_{name}"] = pd.Series(column).where(matched)
        some = table[["left_feature", "right_feature"]].notna().any(axis=1)
        return table[some].rename_axis("singular_vector")

    def directions(self, n: int = 1) -> pd.DataFrame:
        """Which singular vectors lie along each direction? The `n` nearest blocks of each, nearest first.

        >>> found = align(torch.diag(torch.tensor([3.0, 2.0, 1.0])), torch.tensor([0.0, 0.6, 0.8]))
        >>> found.directions()[["singular_vector", "cosine", "threshold"]].round(3)
                         singular_vector  cosine  threshold
        side  direction
        left  0                        2     0.8      0.992
        right 0                        2     0.8      0.992

        Here the directions are not matched one to one: several may lie along one vector.

        Returns:
            Indexed by side and direction: `singular_vector` (the block's first), `size` of the block,
            `singular_value`, `cosine` of the direction with the vector (or the block), `angle` in radians, `threshold`
            (the cosine at which p would be 0.05) and `pvalue`. Under a random rotation cos^2 with a block of size s
            has the distribution Beta(s/2, (d - s)/2), so nothing need be drawn; corrected for all blocks and
            directions of both sides (Bonferroni).

        Raises:
            ValueError: `n` below 1 or above the number of blocks.
        """
        if not 1 <= n <= len(self.blocks):
            raise ValueError(f"n={n}: must be 1 to {len(self.blocks)}, the number of blocks")
        starts, stops = np.array(self.blocks).T
        sizes = stops - starts
        comparisons = len(starts) * (self.left_cosines.shape[1] + self.right_cosines.shape[1])
        parts = []
        for side, d in zip(("left", "right"), self.dimensions, strict=True):
            near = _nearness(getattr(self, f"{side}_cosines").numpy(), self.blocks)[starts].clip(max=1.0)
            law = beta(sizes / 2, np.where(sizes < d, d - sizes, 1) / 2)
            pvalues = np.where(sizes < d, comparisons * law.sf(near.T**2), 1.0).clip(max=1.0)
            thresholds = np.where(sizes < d, np.sqrt(law.isf(LEVEL / comparisons)), np.inf)
            order = np.lexsort((-near.T, pvalues))[:, :n]
            for direction, blocks in enumerate(order):
                columns = {
                    "singular_vector": starts[blocks],
                    "size": sizes[blocks],
                    "singular_value": self.S.numpy()[starts[blocks]],
                    "cosine": near[blocks, direction],
                    "angle": np.arccos(near[blocks, direction]),
                    "threshold": thresholds[blocks],
                    "pvalue": pvalues[direction, blocks],
                }
                parts.append(pd.DataFrame({"side": side, "direction": direction, **columns}))
        return pd.concat(parts).set_index(["side", "direction"])


def align(
    omega: Float[Tensor, "d_left d_right"] | Float[np.ndarray, "d_left d_right"] | Circuit | Bottleneck,
    left: Float[Tensor, "*left_feature width"] | Float[np.ndarray, "*left_feature width"],
    right: Float[Tensor, "*right_feature right_width"] | Float[np.ndarray, "*right_feature right_width"] | None = None,
    null: Literal["rotation"] = "rotation",
    n_null: int = 1000,
    seed: int = 0,
    *,
    covariance: Tensor | tuple[Tensor, Tensor] | None = None,
) -> Alignment:
    """Compare the singular vectors of `omega` with directions such as a toy's `W_E`: left for queries, right for keys.

    >>> W_E = torch.eye(3, 8)
    >>> omega = 2.0 * torch.outer(W_E[0], W_E[1]) + torch.outer(W_E[2], W_E[0])
    >>> found = align(omega, W_E)
    >>> found.left_features, found.right_features
    (tensor([0, 2]), tensor([1, 0]))
    >>> bool((found.pvalues < 0.01).all())
    True

    The statistic of a block is the mean cosine between it and its matched features. The null turns each set of
    directions at random (or rather puts random orthonormal frames in the place of the singular vectors) and matches
    anew. P-values are corrected by the distribution of the largest statistic of all blocks of both sides, each
    standardized by its null (maxT, Westfall & Young 1993): a thousand rotations do for any number of blocks.

    The singular vectors of a bottleneck, write @ read.T, are patterns of what is written and of what is read. A
    direction of the hidden layer (or residual stream) is compared as the smallest pattern that writes it, on the right
    that reads along it: its part on what can be written and read. `write[i]` is feature i.

    Args:
        omega: the matrix, or what `qk_circuit`, `ov_circuit` or `bottleneck` gives: left is the query, what a head
            reads, or what is written; right is the key, what the head writes, or what is read.
        left, right: directions as rows (or a single one), of any length but zero: features, decoder directions of a
            sparse autoencoder, a probe's. More of them than dimensions is fine. Without `right` those of the left.
        null, n_null, seed: "rotation", how many, and the seed of their draw. The smallest p-value is 1 / (n_null + 1).
        covariance: of the inputs (uncentered), "d d", one for both sides or (left, right). Both are then compared in
            whitened coordinates: C^(1/2) Omega C^(1/2) against C^(-1/2) direction, on the support of C. There the
            optimum of a single attended pair is C^(-1/2) E[1(x_i > 0) h]: the feature direction if features are sparse,
            but not if they are dense and their mean is far from 0.

    Raises:
        ValueError: shapes that do not fit, a zero or non-finite direction, a zero or non-finite matrix, an unknown
            null, `n_null` below 1, a covariance for a bottleneck.
    """
    if null != "rotation":
        raise ValueError(f"null={null!r} is not known: use 'rotation', or pass other directions as left and right")
    n_null = whole("n_null", n_null, least=1)
    if isinstance(omega, Bottleneck):
        if covariance is not None:
            raise ValueError("covariance with a bottleneck: what it writes and reads is its own; leave it out")
        # C^(1/2) C'^(1/2) has the singular values of write @ read.T, and C^(-1/2) d is the smallest pattern that
        # writes d, both in coordinates of the hidden layer
        write, read = omega.write.detach().double(), omega.read.detach().double()
        covariance = (write.mT @ write, read.mT @ read)
        matrix = torch.eye(write.shape[1], dtype=torch.float64)
    else:
        matrix = (omega.matrix if isinstance(omega, Circuit) else as_tensor(omega)).detach().double().cpu()
    if not matrix.isfinite().all():
        raise ValueError("omega is not finite: it has no singular directions; are the weights?")
    left = _unit_rows(left, matrix.shape[0], "left")
    right = left if right is None and matrix.shape[1] == matrix.shape[0] else right
    if right is None:
        raise ValueError(f"right is missing: omega is {matrix.shape[0]} x {matrix.shape[1]}, give directions for both")
    right = _unit_rows(right, matrix.shape[1], "right")
    if covariance is not None:
        C_left, C_right = covariance if isinstance(covariance, tuple) else (covariance, covariance)
        root_left, left, support_left = _whiten(C_left, left, "left")
        root_right, right, support_right = _whiten(C_right, right, "right")
        U, S, Vh = torch.linalg.svd(root_left @ matrix @ root_right, full_matrices=False)
        U = U if support_left is None else support_left.mT @ U
        Vh = Vh if support_right is None else Vh @ support_right
    elif isinstance(omega, Circuit):
        U, S, Vh = (part.double().cpu() for part in (omega.U, omega.S, omega.Vh))
    else:
        U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((S[0] * max(matrix.shape) * torch.finfo(torch.float32).eps < S).sum())
    if rank == 0:
        raise ValueError("omega is zero: it has no singular directions to align")
    U, S, Vh = U[:, :rank], S[:rank], Vh[:rank]
    blocks = equal_blocks(S, EQUAL)
    sides = [_Side(U.mT, left, blocks), _Side(Vh, right, blocks)]
    pvalues, thresholds = _pvalues(sides, n_null, seed)
    return Alignment(
        S=S,
        left_cosines=sides[0].cosines,
        right_cosines=sides[1].cosines,
        blocks=blocks,
        left_features=torch.tensor(sides[0].features),
        right_features=torch.tensor(sides[1].features),
        left_angles=sides[0].angles(),
        right_angles=sides[1].angles(),
        left_pvalues=pvalues[0],
        right_pvalues=pvalues[1],
        left_thresholds=thresholds[0],
        right_thresholds=thresholds[1],
        dimensions=(len(U), Vh.shape[1]),
    )


def nearest_tokens(
    model: Any,
    directions: Float[Tensor, "*direction d_model"] | Float[np.ndarray, "*direction d_model"],
    n: int = 8,
    *,
    by: Literal["unembed", "embed"] = "unembed",
    inputs: Any = None,
) -> pd.DataFrame:
    """Which tokens does a direction of the residual stream stand for? Singular vectors too: `nearest_tokens(m, ov.Vh)`.

    >>> from probes.transformers import load_transformer
    >>> model = load_transformer("tiny")
    >>> table = nearest_tokens(model, model.W_E[[7, 3]], n=1, by="embed")
    >>> table.columns.tolist(), table[table.sign == 1].token.tolist()
    (['direction', 'sign', 'token', 'text', 'product'], [7, 3])

    Args:
        model: a transformer, or a toy, whose features are its tokens.
        directions: as rows (or a single one).
        n: tokens of each direction and sign; a singular vector's sign is that of its pair and means nothing alone.
        by: the unembedding, for what is written (with the gain of the final norm, if there is one: what the direction
            adds to the logits, up to the norm's scale), or the embedding, for what is read.
        inputs: what to verify these weights on, as `bottleneck` does; random tokens or features if not given.

    Returns:
        One row per direction, sign and token, largest first: `text` (None without a tokenizer) and the signed `product`
        of the direction, at length 1, and the token's weights.

    Raises:
        ValueError: directions that do not fit, a model without this end or with more between it and the residual stream
            (BERT's head), `n` that it has not tokens for, unknown `by`.
    """
    if by not in ("unembed", "embed"):
        raise ValueError(f"by={by!r} is not known; choose 'unembed' or 'embed'")
    weights = end_of(model, by, inputs).double().cpu().mT
    if not 1 <= n <= weights.shape[1]:
        raise ValueError(f"n={n}: must be 1 to {weights.shape[1]}, the number of tokens")
    products = _unit_rows(directions, len(weights), "directions") @ weights
    tokenizer = getattr(model, "tokenizer", None)
    rows = []
    for direction, row in enumerate(products):
        for sign in (1, -1):
            for value, token in zip(*(t.tolist() for t in (sign * row).topk(n)), strict=True):
                text = tokenizer.decode([token]) if tokenizer else None
                rows.append((direction, sign, token, text, sign * value))
    return pd.DataFrame(rows, columns=["direction", "sign", "token", "text", "product"])


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
        # fewer directions than vectors are turned in their stead: their triangle R, after random frames
        self.few = torch.linalg.qr(directions.mT).R if len(directions) < len(vectors) else None

    def angles(self) -> tuple[Tensor, ...]:
        found = []
        for start, stop in self.blocks:
            features = [f for f in self.features[start:stop] if f >= 0]
            block, matched = self.vectors[start:stop].mT.numpy(), self.directions[features].mT.numpy()
            found.append(torch.from_numpy(subspace_angles(block, matched) if features else np.empty(0)))
        return tuple(found)

    def null_statistics(self, generator: torch.Generator) -> np.ndarray:
        """Statistics of the blocks with the directions turned at random."""
        if self.few is None:
            cosines = _random_frame(self.vectors.mT.shape, generator).mT @ self.directions.mT
        else:
            frame = _random_frame(self.directions.mT.shape, generator)
            cosines = frame[: len(self.vectors)] @ self.few
        return _match(cosines.numpy(), self.blocks)[1]


def _random_frame(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    frame, R = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))
    return frame * R.diagonal().sign()  # without the signs LAPACK's choice would show: not uniform


def _nearness(cosines: np.ndarray, blocks: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Cosine of each feature with each vector's whole block: turning the vectors inside a block changes nothing."""
    starts, stops = np.array(blocks).T
    return np.repeat(np.sqrt(np.add.reduceat(cosines**2, starts, axis=0)), stops - starts, axis=0)


def _match(cosines: np.ndarray, blocks: tuple[tuple[int, int], ...]) -> tuple[list[int], np.ndarray]:
    """Feature of each singular vector, and each block's mean cosine with its features."""
    nearness = _nearness(cosines, blocks)
    rows, columns = linear_sum_assignment(nearness, maximize=True)
    features = np.full(len(cosines), -1)
    features[rows] = columns
    matched = np.zeros(len(cosines))
    matched[rows] = nearness[rows, columns]
    return features.tolist(), np.array([matched[a:b].mean() for a, b in blocks])


def _pvalues(sides: list[_Side], n_null: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Corrected p-value and threshold of every vector, per side. What is observed counts as one draw from the null."""
    generator = torch.Generator().manual_seed(seed)
    observed = np.concatenate([side.statistic for side in sides])
    draws = [np.concatenate([side.null_statistics(generator) for side in sides]) for _ in _shown(n_null)]
    # a block that fills the space has cosine 1 under any rotation: rounding must not tell the draws apart
    statistics = np.round(np.stack([observed, *draws]), 9)
    kinds = np.array([(number, b - a) for number, side in enumerate(sides) for a, b in side.blocks])
    center, spread = np.zeros(len(kinds)), np.zeros(len(kinds))
    for kind in np.unique(kinds, axis=0):
        alike = (kinds == kind).all(axis=1)  # blocks of one side and size have one null
        pool = statistics[:, alike]
        center[alike], spread[alike] = pool.mean(), pool.std()
        statistics[:, alike] = (pool - pool.mean()) / (pool.std() or 1)
    largest = statistics.max(axis=1)
    corrected = (largest[:, None] >= statistics[0]).mean(axis=0)
    beaten = int(LEVEL * len(largest))  # so many draws, the observed one among them, may reach it
    reach = np.sort(largest[1:])[-beaten] if beaten else np.inf
    threshold = np.where(spread > 0, center + np.where(spread > 0, spread, 1) * reach, np.inf)
    pvalues, thresholds = (np.repeat(each, kinds[:, 1]).reshape(2, -1) for each in (corrected, threshold))
    return list(torch.from_numpy(pvalues)), list(torch.from_numpy(thresholds))


def _shown(n: int) -> Any:
    """Numbers to `n`, with a bar where somebody watches."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(range(n), "rotations", console=console, transient=True, disable=not console.is_terminal)


def _unit_rows(directions: Any, width: int, name: str) -> Tensor:
    rows = torch.atleast_2d(as_tensor(directions).detach().double().cpu())
    if rows.ndim != 2 or rows.shape[-1] != width:
        shape = tuple(rows.shape)
        raise ValueError(f"{name} has shape {shape}: directions are rows, of omega's width {width} on that side")
    if not len(rows):
        raise ValueError(f"{name} is empty: give at least one direction, a row")
    norms = rows.norm(dim=-1, keepdim=True)
    bad = ~(norms[:, 0].isfinite() & (norms[:, 0] > 0))
    if bad.any():
        numbers = bad.nonzero()[:, 0].tolist()
        raise ValueError(f"{name} has no direction in row(s) {numbers}: zero or non-finite; leave them out")
    return rows / norms


def _whiten(C: Tensor, directions: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """C^(1/2), unit directions in whitened coordinates, and a basis for these where they do not fill the space."""
    C = as_tensor(C).detach().double().cpu()
    values, vectors = torch.linalg.eigh(C)
    if C.shape[0] != directions.shape[1] or not torch.allclose(C, C.mT) or values[0] < -1e-6 * values[-1]:
        raise ValueError(
            f"{name} covariance of shape {tuple(C.shape)} must be symmetric, non-negative and as wide as omega"
        )
    support = values > 1e-10 * values[-1]
    values, vectors = values[support], vectors[:, support]
    root = (vectors * values.sqrt()) @ vectors.mT
    whitened = directions @ (vectors / values.sqrt()) @ vectors.mT
    if support.all():
        return root, _unit_rows(whitened, len(C), f"whitened {name}"), None
    # in coordinates of the support, or the null would turn the directions out of it
    return root, _unit_rows(whitened @ vectors, len(values), f"whitened {name}"), vectors
