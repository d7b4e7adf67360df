"""Linear algebra that rooms share: each against a definition written out, and what must not change it."""

import math

import numpy as np
import torch
from scipy.linalg import sqrtm

from tms_hooks import linalg

F64 = torch.float64


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_cosines_and_overlaps_are_those_of_a_loop() -> None:
    A, B = noise(2, 4, 3), noise(2, 5, 3, seed=1)
    for i in range(4):
        for j in range(5):
            expected = torch.stack([a[i] @ b[j] / (a[i].norm() * b[j].norm()) for a, b in zip(A, B, strict=True)])
            torch.testing.assert_close(linalg.cosines(A, B)[:, i, j], expected)
    off = linalg.cosines(A).abs() - torch.eye(4, dtype=F64)
    torch.testing.assert_close(linalg.overlaps(3 * A), off)
    assert not linalg.overlaps(A).diagonal(dim1=-2, dim2=-1).any()


def test_unit_is_double_and_has_no_gradient() -> None:
    found = linalg.unit((noise(4, 3).float()).requires_grad_())
    assert found.dtype == F64
    assert not found.requires_grad
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4, dtype=F64))


def test_inverse_root_on_and_off_the_null_space() -> None:
    A = noise(3, 4)
    full = A @ A.mT
    torch.testing.assert_close(linalg.inverse_root(full), torch.from_numpy(np.linalg.inv(sqrtm(full.numpy()))))
    flat = A.mT @ A  # rank 3 of 4
    root = linalg.inverse_root(flat)
    torch.testing.assert_close(root @ flat @ root, torch.linalg.pinv(A) @ A)  # the projection on its range
    torch.testing.assert_close(linalg.inverse_root(torch.stack([full, 4 * full]))[1], linalg.inverse_root(full) / 2)


def test_random_rotations_are_orthogonal_and_uniform() -> None:
    """Each column is uniform on the sphere: mean 0, which unsigned QR misses, and squares of mean 1/d."""
    d, count = 3, 4000
    R = linalg.random_rotations(d, count)
    torch.testing.assert_close(R @ R.mT, torch.eye(d, dtype=F64).expand(count, d, d))
    assert R.mean(0).abs().max() < 4 * (1 / d / count) ** 0.5  # nine entries within four standard errors
    error = math.sqrt((3 / (d * (d + 2)) - 1 / d**2) / count)  # E x^4 = 3 / (d (d + 2)) on the sphere
    assert (R.square().mean(0) - 1 / d).abs().max() < 4 * error
    assert torch.equal(linalg.random_rotations(d, 2, seed=5), linalg.random_rotations(d, 2, seed=5))
    assert not torch.equal(linalg.random_rotations(d, 2, seed=5), R[:2])


def test_random_directions_keep_norms_and_forget_directions() -> None:
    W = noise(400, 3, seed=2)
    found = linalg.random_directions(W)
    torch.testing.assert_close(found.norm(dim=1), W.norm(dim=1))
    along = torch.cosine_similarity(found, W, dim=1)
    assert abs(float(along.mean())) < 4 * math.sqrt(1 / 3 / 400)
