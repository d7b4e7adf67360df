import numpy as np
import pytest
import torch

from probes.alignment import align, equal_blocks, nearest_tokens
from probes.bottleneck import Bottleneck, bottleneck
from probes.circuits import Circuit, factored_svd, ov_circuit, qk_circuit
from tms_hooks.config import ToyConfig
from tms_hooks.models.toy import ToyModel


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


def test_singular_values_of_rounding_alone_are_no_rank():
    """As for any matrix: below its longer side times the precision of the weights, here 300 x 2^-23."""
    omega = torch.zeros(2, 300)
    omega[0, 0], omega[1, 1] = 1.0, 100 * torch.finfo(torch.float32).eps
    assert align(omega, torch.eye(2), torch.eye(3, 300), n_null=5).S.tolist() == [1.0]
    omega[1, 1] *= 4
    assert len(align(omega, torch.eye(2), torch.eye(3, 300), n_null=5).S) == 2


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


def test_one_direction_asks_which_singular_vectors_lie_along_it():
    left, right = orthonormal(4, 30), orthonormal(4, 30, seed=1)
    omega = planted([4.0, 3.0, 2.0, 1.0], left, right, [(0, 0), (1, 1), (2, 2), (3, 3)])
    direction = 0.8 * left[1] + 0.6 * left[2]
    found = align(omega, direction.numpy(), right[3], n_null=20).directions(n=3)
    left_rows = found.loc[("left", 0)]
    assert left_rows["singular_vector"].tolist()[:2] == [1, 2]
    np.testing.assert_allclose(left_rows["cosine"][:2], [0.8, 0.6])
    np.testing.assert_allclose(left_rows["singular_value"][:2], [3.0, 2.0])
    np.testing.assert_allclose(left_rows["angle"][:2], np.arccos([0.8, 0.6]))
    assert left_rows["pvalue"].iloc[0] < 1e-5 < 0.05 < left_rows["pvalue"].iloc[2]
    assert found.loc[("right", 0)]["singular_vector"].iloc[0] == 3


def test_pvalues_of_directions_by_hand_and_by_drawing():
    """In three dimensions the |cosine| of two random directions is uniform: p = 1 - |cosine|, times the comparisons."""
    omega = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    row = align(omega, torch.tensor([0.02, 0.0, 1.0]), n_null=1).directions().loc[("left", 0)]
    np.testing.assert_allclose(row["pvalue"], 6 * (1 - row["cosine"]))
    np.testing.assert_allclose(row["threshold"], 1 - 0.05 / 6)
    # a block of two in seven dimensions: the share of random directions that come as near
    S = torch.tensor([2.0, 2.0, 1.0, 0.5, 0.4, 0.3, 0.2])
    found = align(torch.diag(S), randn(1, 7), n_null=1).directions(n=6).loc[("left", 0)]
    [block] = found[found["size"] == 2].itertuples()
    drawn = torch.nn.functional.normalize(randn(200_000, 7, seed=5), dim=1)[:, :2].norm(dim=1).numpy()
    assert (drawn >= block.threshold).mean() == pytest.approx(0.05 / 12, rel=0.1)  # 830 of them: standard error 3 %


def test_random_directions_are_rarely_found():
    """Both kinds of p-value reject a true null in a twentieth of the trials at most: standard errors .02 and .0126."""
    by_vector = by_direction = 0
    for trial in range(300):
        few = trial < 120
        found = align(randn(8, 8, seed=2 * trial), randn(2, 8, seed=2 * trial + 1), n_null=19 if few else 1, seed=trial)
        by_vector += few and bool(torch.minimum(found.left_pvalues, found.right_pvalues).min() <= 0.05)
        by_direction += bool(found.directions()["pvalue"].min() <= 0.05)
    assert 0 < by_vector / 120 <= 0.11
    assert 0 < by_direction / 300 <= 0.09


def test_the_threshold_of_one_direction_by_hand():
    """Of three axes one is within |cosine| c > 1/sqrt 2 of a random direction with probability 3 (1 - c); two sides.

    1 - (1 - 3 (1 - c))^2 = 0.05 at c = 0.99156. Of 4,000 draws it has a standard error of .002, most of it that of the
    spread by which each side is divided.
    """
    found = align(torch.diag(torch.tensor([3.0, 2.0, 1.0])), randn(1, 3), n_null=4000)
    np.testing.assert_allclose(found.left_thresholds, 0.99156, atol=0.006)


def test_without_room_nothing_can_be_significant():
    """Six directions in two dimensions: every rotation aligns, and the threshold says so, even at cosine .9998."""
    angles = torch.arange(6) * torch.pi / 6 + 0.02
    features = torch.stack([angles.cos(), angles.sin()], 1)
    table = align(torch.diag(torch.tensor([2.0, 1.0])), features, n_null=200).table()
    np.testing.assert_allclose(table["left_cosine"], np.cos(0.02))
    assert (table["left_pvalue"] > 0.05).all()
    assert (table["left_threshold"] > np.cos(0.02)).all()
    roomy = align(torch.diag(torch.linspace(40, 1, 40)), torch.eye(40)[:3], n_null=200)
    assert roomy.left_thresholds.max() < 0.8
    # a block that fills the space holds every direction
    full = align(torch.eye(3), torch.eye(3)[:1], n_null=10)
    assert full.left_thresholds.isinf().all()
    assert full.directions()["pvalue"].tolist() == [1.0, 1.0]
    assert np.isinf(full.directions()["threshold"]).all()
    # nor can five rotations show anything at this level
    assert align(torch.diag(torch.tensor([2.0, 1.0])), features, n_null=5).left_thresholds.isinf().all()


def test_the_threshold_is_where_the_pvalue_is_a_twentieth():
    for seed in range(8):
        found = align(randn(9, 4, seed=seed) @ randn(4, 9, seed=seed + 50), randn(5, 9, seed=seed + 100), n_null=99)
        table = found.table()
        for side in ("left", "right"):
            below = table[f"{side}_cosine"] < table[f"{side}_threshold"] - 1e-8
            assert (table[f"{side}_pvalue"][below] > 0.05).all()
            above = table[f"{side}_cosine"] > table[f"{side}_threshold"] + 1e-8
            assert (table[f"{side}_pvalue"][above] <= 0.05).all()


def test_a_table_of_few_directions_has_no_empty_rows():
    found = align(torch.diag(torch.arange(20.0, 0, -1)), torch.eye(20)[[4]], torch.eye(20)[[4, 7]], n_null=50)
    table = found.table()
    assert table.index.tolist() == [4, 7]
    assert table["left_feature"].isna().tolist() == [False, True]
    assert table.loc[7, ["left_cosine", "left_angle", "left_threshold", "left_pvalue"]].isna().all()
    assert table["right_feature"].tolist() == [0, 1]
    np.testing.assert_allclose(table["right_cosine"], 1)


def test_a_null_stays_where_the_inputs_are():
    """Inputs that fill 3 of 40 dimensions: a random frame may not leave them, or any alignment would look rare."""
    basis = orthonormal(3, 40)
    C = basis.mT @ torch.diag(torch.tensor([1.0, 2.0, 3.0]).double()) @ basis
    found = align(randn(40, 40), randn(30, 3, seed=1) @ basis, n_null=100, covariance=C)
    assert found.dimensions == (3, 3)
    assert found.left_thresholds.min() > 0.95  # thirty directions in three dimensions
    assert found.pvalues.min() > 0.05


@pytest.mark.parametrize("n_features", [9, 3])
def test_a_bottleneck_is_aligned_with_directions_of_its_hidden_layer(n_features):
    """Independent reference: singular vectors over features, from the dense SVD of write @ read.T.

    There direction d is the smallest pattern of features that writes it, the pseudo-inverse's.
    """
    model = ToyModel(ToyConfig(n_features=n_features, d_hidden=4, tied=False), seed=0)
    way = bottleneck(model, "embed->unembed")
    directions = randn(5, 4, seed=3)
    found = align(way, directions, n_null=20)
    write, read = way.write.double(), way.read.double()
    U, S, Vh = torch.linalg.svd(write @ read.mT)
    k = min(n_features, 4)
    torch.testing.assert_close(found.S, S[:k])
    for own, vectors, side in ((found.left_cosines, U.mT, write), (found.right_cosines, Vh, read)):
        patterns = torch.nn.functional.normalize(directions @ torch.linalg.pinv(side), dim=1)
        torch.testing.assert_close(own.abs(), (vectors[:k] @ patterns.mT).abs(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(way.circuit.S[:k], S[:k])
    torch.testing.assert_close(way.circuit.matrix, write @ read.mT)


def test_a_planted_channel_is_found_by_the_same_call_in_every_map(subject):
    """Query and key, what is written and what is read: each time the directions with which the map was made."""
    width = subject.model.blocks[0].attn.W_Q.shape[1]
    a, b = orthonormal(2, width)
    omega = Circuit(5 * a[:, None], b[:, None], *factored_svd(5 * a[:, None], b[:, None]))
    noise = 0.01 * randn(2 * width, width)
    way = Bottleneck("embed->unembed", torch.cat([3 * a[None], noise]).float(), torch.cat([2 * a[None], noise]).float())
    for given in (omega, way):
        right = b if given is omega else a
        row = align(given, a, right, n_null=20).directions().loc[("left", 0)]
        assert (row["singular_vector"], round(row["cosine"], 2)) == (0, 1.0)
        assert row["pvalue"] < 0.05 or width < 10
    if not hasattr(subject.model, "W"):
        for made in (ov_circuit(subject.model, 0, 1), bottleneck(subject.model, "blocks.0.mlp.out->blocks.1.mlp.in")):
            found = align(made, a, b, n_null=2)
            assert found.left_cosines.shape == (len(found.S), 1)


@pytest.mark.parametrize("kind", ["rank one", "not square", "repeated", "more directions than dimensions"])
def test_degenerate_matrices_are_right(kind):
    """Every one against the dense SVD: what the found vectors make up of a direction does not depend on their basis."""
    omega = {
        "rank one": torch.outer(randn(6), randn(9, seed=1)),
        "not square": randn(6, 9),
        "repeated": orthonormal(6, 9, seed=2),
        "more directions than dimensions": randn(6, 6) @ randn(6, 9, seed=4),
    }[kind]
    left, right = randn(11, 6, seed=5), randn(2, 9, seed=6)
    found = align(omega, left, right, n_null=10)
    U, S, _ = torch.linalg.svd(omega, full_matrices=False)
    k = int((S > 1e-9).sum())
    torch.testing.assert_close(found.S, S[:k])
    inside = torch.nn.functional.normalize(left, dim=1) @ U[:, :k]
    torch.testing.assert_close(found.left_cosines.norm(dim=0), inside.norm(dim=1))
    assert all(np.isfinite(found.directions()[["cosine", "angle", "pvalue"]]).all())
    if kind == "repeated":
        assert found.blocks == ((0, 6),)
        assert found.left_pvalues.min() == 1  # that block is the whole left space


def test_tokens_that_a_direction_stands_for(subject):
    model = subject.model
    if not hasattr(model, "W"):
        assert not model.ln_final.w.std().any()  # gain 1: only centering stands between, and a token's own row wins
    written_by = model
    if hasattr(model, "W"):
        with pytest.raises(ValueError, match="no multiple of W_E"):  # its MLP writes the hidden layer
            nearest_tokens(model, model.W_E[0], by="embed")
        written_by = ToyModel(ToyConfig(6, 4), seed=0)
    W_E = written_by.W_E.detach().double()
    table = nearest_tokens(written_by, W_E[[2, 0]], n=2, by="embed")
    expected = torch.nn.functional.normalize(W_E[[2, 0]], dim=1) @ W_E.mT
    for row in table.itertuples():
        assert row.product == pytest.approx(expected[row.direction, row.token].item())
    assert (table[table.sign == -1]["product"].iloc[0]) == pytest.approx(expected[0].min().item())
    written = nearest_tokens(model, torch.eye(model.W_E.shape[1])[0], n=1)
    weights = model.W_U.detach().double() - (0 if hasattr(model, "W") else model.W_U.detach().double().mean(0))
    assert written["token"].tolist() == [int(weights[0].argmax()), int(weights[0].argmin())]
    with pytest.raises(ValueError, match=r"n=0: must be 1 to \d+, the number of tokens"):
        nearest_tokens(model, model.W_E[0], n=0)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"omega": torch.zeros(4, 4)}, "omega is zero"),
        ({"left": torch.ones(2, 5)}, r"left has shape \(2, 5\): directions are rows, of omega's width 4"),
        ({"right": torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]])}, r"right has no direction in row\(s\) \[1\]"),
        ({"left": torch.full((1, 4), torch.nan)}, r"left has no direction in row\(s\) \[0\]"),
        ({"covariance": -torch.eye(4)}, "left covariance of shape"),
        ({"omega": torch.full((4, 4), torch.nan)}, "omega is not finite"),
        ({"left": torch.empty(0, 4)}, "left is empty"),
        ({"omega": torch.ones(4, 3), "right": None}, "right is missing: omega is 4 x 3"),
        (
            {"omega": Bottleneck("embed->unembed", torch.eye(4), torch.eye(4)), "covariance": torch.eye(4)},
            "covariance with a bottleneck",
        ),
        ({"n_null": 0}, "n_null=0: must be a whole number, at least 1"),
    ],
)
def test_bad_input(change, error):
    given = {"omega": torch.eye(4), "left": torch.eye(4), "right": torch.eye(4), "n_null": 1} | change
    with pytest.raises(ValueError, match=error):
        align(**given)


def test_a_covariance_with_one_negative_direction_is_none_however_small():
    turn = orthonormal(4, 4)
    for lowest, message in ((-1e-3, "must be symmetric, non-negative"), (-1e-9, None)):
        C = turn.mT @ torch.diag(torch.tensor([1.0, 1.0, 1.0, lowest], dtype=torch.float64)) @ turn
        if message:
            with pytest.raises(ValueError, match=message):
                align(randn(4, 4), torch.eye(4), n_null=5, covariance=C)
        else:  # zero up to rounding: its support has one dimension less
            assert len(align(randn(4, 4), torch.eye(4), n_null=5, covariance=C).S) == 3


def test_a_thousand_rotations_are_the_default_and_the_smallest_pvalue_says_so():
    features = orthonormal(3, 40)
    found = align(torch.outer(features[0], features[1]), features)
    assert found.pvalues.tolist() == [1 / 1001]


def test_blocks_of_one_side_and_size_have_one_threshold():
    omega = torch.diag(torch.tensor([5.0, 4.0, 3.0, 3.0, 2.0, 1.0, 1.0]))
    found = align(omega, randn(4, 7), randn(9, 7, seed=1), n_null=60)
    assert found.blocks == ((0, 1), (1, 2), (2, 4), (4, 5), (5, 7))
    for thresholds in (found.left_thresholds, found.right_thresholds):
        single, double = thresholds[[0, 1, 4]], thresholds[[2, 3, 5, 6]]
        assert single.unique().numel() == double.unique().numel() == 1 and single[0] != double[0]


@pytest.mark.parametrize("n_null", [19, 39, 99])
def test_a_cosine_that_passes_the_threshold_has_a_pvalue_of_a_twentieth(n_null):
    """By bisection: the cosine at which p comes down to 0.05, beside the threshold that is said there."""
    omega, right = torch.outer(torch.eye(9)[0], torch.eye(9)[1]), randn(1, 9)

    def at(cosine: float):
        left = torch.zeros(1, 9)
        left[0, 0], left[0, 2] = cosine, (1 - cosine**2) ** 0.5
        return align(omega, left, right, n_null=n_null, seed=3)

    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle).left_pvalues.item() <= 0.05 else (middle, high)
    assert at(high).left_thresholds.item() == pytest.approx(high, abs=1e-6)


def test_vectors_that_are_as_significant_come_in_the_order_of_their_cosines():
    """In three dimensions, with six comparisons, p is 1 below a cosine of 5/6."""
    found = align(torch.diag(torch.tensor([3.0, 2.0, 1.0])), torch.tensor([0.48, 0.6, 0.64]), n_null=1).directions(n=3)
    left = found.loc[("left", 0)]
    assert left["pvalue"].tolist() == [1, 1, 1]
    assert left["singular_vector"].tolist() == [2, 1, 0]


def test_directions_that_are_the_singular_vectors_have_an_angle_of_zero_in_spite_of_rounding():
    for seed in range(20):
        basis = orthonormal(6, 6, seed=seed)
        omega = basis.mT @ torch.diag(torch.tensor([4.0, 4, 3, 3, 2, 2]).double()) @ basis
        np.testing.assert_allclose(align(omega, basis, n_null=1).directions()["angle"], 0, atol=1e-6)


def test_equal_values_are_one_block_at_any_tolerance():
    assert equal_blocks(torch.tensor([2.0, 2.0, 1.0]), 0.0) == ((0, 2), (2, 3))
    assert equal_blocks(torch.tensor([4.0, 3.0, 2.9]), 0.25) == ((0, 2), (2, 3))  # 3 is not below 3/4 of 4


@pytest.mark.parametrize(("lowest", "dimensions"), [(-1.5e-6, None), (-0.7e-6, 3), (0.7e-10, 3), (1.5e-10, 4)])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_what_a_covariance_has_along_a_direction_counts_beside_its_most(lowest, dimensions, unit):
    C = unit * torch.diag(torch.tensor([1.0, 1.0, 0.5, lowest], dtype=torch.float64))
    if dimensions is None:
        with pytest.raises(ValueError, match="must be symmetric, non-negative"):
            align(torch.eye(4), torch.ones(1, 4), n_null=5, covariance=C)
    else:
        assert align(torch.eye(4), torch.ones(1, 4), n_null=5, covariance=C).dimensions == (dimensions, dimensions)


def test_eight_tokens_of_each_sign_are_the_default():
    table = nearest_tokens(ToyModel(ToyConfig(20, 3), seed=0), torch.eye(3)[0])
    assert table.groupby("sign").size().to_dict() == {-1: 8, 1: 8}
