import numpy as np
import pytest
import torch

from probes.alignment import align, equal_blocks
from probes.circuits import qk_circuit


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """n orthonormal rows of length d."""
    return torch.linalg.qr(randn(d, n, seed=seed))[0].mT


def planted(strengths, left, right, pairs) -> torch.Tensor:
    return sum(s * torch.outer(left[i], right[j]) for s, (i, j) in zip(strengths, pairs, strict=True))


def test_planted_features_are_recovered():
    left, right = orthonormal(8, 20), orthonormal(8, 20, seed=1)
    omega = planted([3.0, 2.0, 1.0], left, right, [(4, 2), (0, 7), (6, 6)])
    found = align(omega, left, right, n_null=200)
    torch.testing.assert_close(found.S, torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    assert found.left_features.tolist() == [4, 0, 6]
    assert found.right_features.tolist() == [2, 7, 6]
    assert found.blocks == ((0, 1), (1, 2), (2, 3))
    torch.testing.assert_close(found.left_cosines.abs().amax(1), torch.ones(3, dtype=torch.float64))
    assert torch.cat(found.left_angles + found.right_angles).abs().max() < 1e-7
    torch.testing.assert_close(found.pvalues, torch.full((3,), 1 / 201, dtype=torch.float64))


def test_cosines_by_hand():
    # Omega = e_0 (e_0 + e_1)^T / sqrt 2: right cosines 1/sqrt 2 with each of the first two axes
    omega = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    found = align(omega, torch.eye(2), 5 * torch.eye(2), n_null=10)
    torch.testing.assert_close(found.left_cosines.abs(), torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(found.right_cosines.abs(), torch.full((1, 2), 0.5**0.5, dtype=torch.float64))


def test_equal_singular_values_leave_only_the_subspace():
    left, right = orthonormal(6, 12), orthonormal(6, 12, seed=1)
    omega = planted([2.0, 2.0, 1.0], left, right, [(0, 1), (3, 2), (5, 5)])
    # the same matrix by another route: LAPACK may return any basis of the block, here it is turned by hand
    turn = torch.linalg.qr(randn(2, 2, seed=5))[0]
    U = torch.cat([(turn @ left[[0, 3]]), left[[5]]]).mT
    Vh = torch.cat([turn @ right[[1, 2]], right[[5]]])
    torch.testing.assert_close((U * torch.tensor([2.0, 2.0, 1.0])) @ Vh, omega)
    from probes.circuits import Circuit

    turned = Circuit(U * torch.tensor([2.0, 2.0, 1.0]), Vh.mT, U, torch.tensor([2.0, 2.0, 1.0]).double(), Vh)
    for matrix in (omega, turned):
        found = align(matrix, left, right, n_null=100)
        assert found.blocks == ((0, 2), (2, 3))
        assert sorted(found.left_features[:2].tolist()) == [0, 3]
        assert sorted(found.right_features[:2].tolist()) == [1, 2]
        assert found.left_angles[0].shape == (2,)
        assert torch.cat(found.left_angles + found.right_angles).abs().max() < 1e-7
        assert found.pvalues.max() < 0.02
    # the trap: single cosines inside the block are not one
    assert align(turned, left, right, n_null=1).left_cosines[:2].abs().max() < 0.99


def test_rank_deficient_omega_shows_only_its_rank():
    left = orthonormal(5, 10)
    found = align(planted([1.0, 0.5], left, left, [(0, 1), (1, 0)]), left, left, n_null=50)
    assert len(found.S) == 2
    assert found.left_cosines.shape == (2, 5)


def test_superposed_features():
    """More directions than dimensions: a planted pair among 40 in 12 is still found, and p knows how lucky that is."""
    features = torch.nn.functional.normalize(randn(40, 12), dim=-1)
    found = align(torch.outer(features[17], features[33]), features, features, n_null=500)
    assert (found.left_features.tolist(), found.right_features.tolist()) == ([17], [33])
    assert found.pvalues.item() < 0.01
    # a random direction's best cosine among 40 is large, and the null says so
    lucky = align(torch.outer(randn(12, seed=8), randn(12, seed=9)), features, features, n_null=500)
    assert lucky.left_cosines.abs().max() > 0.5
    assert lucky.pvalues.item() > 0.05


def test_anisotropic_inputs_need_whitening():
    """The optimum for one attended pair is C_h^-1 f g^T C_g^-1: feature directions show in whitened coordinates."""
    left, right = randn(5, 5), randn(5, 5, seed=1)  # features far from orthogonal
    C_left, C_right = left.mT @ left, right.mT @ right  # second moments of independent unit-variance features
    omega = torch.outer(torch.linalg.solve(C_left, left[2]), torch.linalg.solve(C_right, right[4]))
    plain = align(omega, left, right, n_null=200)
    white = align(omega, left, right, n_null=200, covariance=(C_left, C_right))
    assert (white.left_features.item(), white.right_features.item()) == (2, 4)
    torch.testing.assert_close(white.left_cosines.abs()[0, 2].item(), 1.0)
    # in whitened coordinates those features are orthogonal
    torch.testing.assert_close(white.left_cosines.abs()[0], torch.eye(5, dtype=torch.float64)[2], rtol=0, atol=1e-6)
    assert plain.left_cosines.abs()[0, 2] < 0.9
    # for isotropic inputs whitening changes nothing
    same = align(omega, left, right, n_null=5, covariance=3 * torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(same.left_cosines.abs(), plain.left_cosines.abs())


def test_singular_covariance_is_handled_on_its_support():
    left = orthonormal(3, 6)
    omega = torch.outer(left[0], left[1])
    found = align(omega, left, left, n_null=20, covariance=left.mT @ left)
    torch.testing.assert_close(found.left_cosines.abs()[0], torch.eye(3, dtype=torch.float64)[0], rtol=0, atol=1e-6)


def test_pvalues_are_uniform_under_the_null():
    """Random directions: a level-alpha test rejects alpha of the time, corrected over all blocks and both sides.

    400 trials at alpha = .1: standard error .015, so .1 + 3 s.e. = .145; exact, so not far below either.
    """
    rejected = 0
    for trial in range(400):
        omega = randn(6, 2, seed=3 * trial) @ randn(2, 6, seed=3 * trial + 1)
        features = orthonormal(4, 6, seed=3 * trial + 2)
        found = align(omega, features, features, n_null=39, seed=trial)
        rejected += bool(torch.minimum(found.left_pvalues, found.right_pvalues).min() <= 0.1)
    assert 0.04 <= rejected / 400 <= 0.145


def test_a_planted_pair_among_many_singular_vectors_is_significant():
    """As many as a real head has: 128 chances to be lucky, and fewer rotations are enough to correct for them."""
    left, right = orthonormal(64, 80), orthonormal(64, 80, seed=1)
    noise = randn(80, 63, seed=2) @ randn(63, 80, seed=3) / 800
    found = align(5 * torch.outer(left[3], right[9]) + noise, left[:8], right[:12], n_null=100)
    assert len(found.S) == 64
    assert (found.left_features[0], found.right_features[0]) == (3, 9)
    assert found.pvalues[0] < 0.05
    assert found.pvalues[1:].min() > 0.05


def test_invariance():
    """Rotating everything changes nothing, nor do signs and lengths of directions; order of features permutes."""
    left, right, omega = randn(7, 5), randn(7, 5, seed=1), randn(5, 5, seed=2)
    base = align(omega, left, right, n_null=20)
    Q, R = orthonormal(5, 5, seed=3), orthonormal(5, 5, seed=4)
    turned = align(Q.mT @ omega @ R, left @ Q, right @ R, n_null=20)
    torch.testing.assert_close(turned.left_cosines.abs(), base.left_cosines.abs())
    signs = torch.tensor([2.0, -1, -3, 1, 1, -1, 0.5])[:, None]
    flipped = align(omega, signs * left, right, n_null=20)
    torch.testing.assert_close(flipped.left_cosines.abs(), base.left_cosines.abs())
    torch.testing.assert_close(flipped.pvalues, base.pvalues)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    shuffled = align(omega, left[order], right, n_null=20)
    assert torch.equal(order[shuffled.left_features], base.left_features)
    torch.testing.assert_close(align(omega, left, right, n_null=20).pvalues, base.pvalues, rtol=0, atol=0)


def test_fewer_features_than_singular_vectors():
    found = align(torch.diag(torch.tensor([3.0, 2.0, 1.0])), torch.eye(3)[[1]], torch.eye(3)[[0, 2]], n_null=10)
    assert found.left_features.tolist() == [-1, 0, -1]
    assert found.right_features.tolist() == [0, -1, 1]
    assert [len(a) for a in found.left_angles] == [0, 1, 0]
    assert found.left_pvalues[0] == 1


def test_table_has_a_row_a_vector():
    table = align(torch.diag(torch.tensor([2.0, 2.0, 1.0])), torch.eye(3), torch.eye(3), n_null=10).table()
    assert table["block"].tolist() == [0, 0, 1]
    assert table["singular_value"].tolist() == [2.0, 2.0, 1.0]
    np.testing.assert_allclose(table["left_angle"], 0, atol=1e-7)


def test_equal_blocks_do_not_chain():
    S = torch.tensor([1.0, 0.994, 0.988, 0.5])
    assert equal_blocks(S, 0.01) == ((0, 2), (2, 3), (3, 4))
    assert equal_blocks(S, 0.0) == ((0, 1), (1, 2), (2, 3), (3, 4))


def test_a_head_of_any_model(subject):
    """Plant Omega = first direction -> second into head 1 of a toy and of a bridge; the same call finds it in both."""
    attention = subject.model.blocks[0].attn
    width = attention.W_Q.shape[1]
    directions = orthonormal(3, width).float()
    with torch.no_grad():
        attention.W_Q[1] = 0
        attention.W_K[1] = 0
        attention.W_Q[1, :, 0] = 3 * directions[0]
        attention.W_K[1, :, 0] = directions[1]
    omega = qk_circuit(subject.model, 0, 1)
    torch.testing.assert_close(omega.S[0].item(), 3.0)
    found = align(omega, directions, directions, n_null=500)
    assert (found.left_features.tolist(), found.right_features.tolist()) == ([0], [1])
    torch.testing.assert_close(found.left_cosines.abs().max().item(), 1.0)
    if width > 10:  # in a toy's four dimensions three directions are too many for a surprise
        assert found.pvalues.item() < 0.01


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"omega": torch.zeros(4, 4)}, "omega is zero"),
        ({"left": torch.ones(2, 5)}, r"left has shape \(2, 5\): directions are rows, of omega's width 4"),
        ({"right": torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]])}, r"right has no direction in row\(s\) \[1\]"),
        ({"left": torch.full((1, 4), torch.nan)}, r"left has no direction in row\(s\) \[0\]"),
        ({"covariance": -torch.eye(4)}, "left covariance of shape"),
    ],
)
def test_bad_input(change, error):
    given = {"omega": torch.eye(4), "left": torch.eye(4), "right": torch.eye(4)} | change
    with pytest.raises(ValueError, match=error):
        align(**given, n_null=1)
