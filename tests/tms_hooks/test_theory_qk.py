"""The optimal head against least squares on samples, gradient descent at low rank, and a case worked by hand."""

import pytest
import torch

from tms_hooks import AnticorrelatedGroups, CorrelatedGroups, KHot, OneHot, SparseUniform, theory

F64 = torch.float64
PAIRS = [(0, 1), (2, 2), (3, 0)]


def weights(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def rotation(d: int) -> torch.Tensor:
    return torch.linalg.qr(weights(d, d, seed=9)).Q


def score(x: torch.Tensor, y: torch.Tensor, pairs: list[tuple[int, int]]) -> torch.Tensor:
    return sum(((x[:, i] > 0) & (y[:, j] > 0)).double() for i, j in pairs)  # type: ignore[return-value]


def test_one_pair_by_hand() -> None:
    # Identity weights, p = 1/2: C = E x x^T is 1/6 on the diagonal and 1/16 off it; E[1(x_0 > 0) x] = (1/4, 1/8).
    C = torch.tensor([[1 / 6, 1 / 16], [1 / 16, 1 / 6]], dtype=F64)
    left, right = torch.tensor([1 / 4, 1 / 8], dtype=F64), torch.tensor([1 / 8, 1 / 4], dtype=F64)
    expected = torch.outer(torch.linalg.solve(C, left), torch.linalg.solve(C, right))
    data = SparseUniform(n_features=2, feature_probability=0.5)
    torch.testing.assert_close(theory.qk_optimum(torch.eye(2), data, [(0, 1)], rank=2), expected)


@pytest.mark.parametrize(
    "data",
    [
        SparseUniform(n_features=4, feature_probability=(0.2, 0.5, 0.4, 0.9)),
        CorrelatedGroups(n_features=4, feature_probability=0.4),
        AnticorrelatedGroups(n_features=4, feature_probability=0.4),
    ],
)
def test_full_rank_is_least_squares_on_samples(data) -> None:
    """The regression of s on h g^T over samples; its coefficients' standard errors are the yardstick."""
    W, n = weights(4, 3), 100_000
    x, y = data.sample(n, seed=1, dtype=F64), data.sample(n, seed=2, dtype=F64)
    design = torch.einsum("bi,bj->bij", x @ W, y @ W).flatten(1)
    s = score(x, y, PAIRS)
    fitted = torch.linalg.lstsq(design, s[:, None]).solution[:, 0]
    residual = s - design @ fitted
    bread = torch.linalg.inv(design.mT @ design)
    covariance = bread @ (design * residual[:, None].square()).mT @ design @ bread
    deviation = theory.qk_optimum(W, data, PAIRS, rank=3).flatten() - fitted
    mahalanobis = deviation @ torch.linalg.solve(covariance, deviation)
    assert mahalanobis < 9 + 3 * 18**0.5  # chi-squared with nine degrees of freedom: mean + 3 sd


@pytest.mark.parametrize("rank", [1, 2])
def test_low_rank_is_the_best_that_many_starts_find(rank: int) -> None:
    W, data = weights(5, 3), SparseUniform(n_features=5, feature_probability=0.3)
    optimum = theory.qk_optimum(W, data, PAIRS, rank)
    assert torch.linalg.matrix_rank(optimum, rtol=1e-9) == rank
    least = theory.qk_excess_loss(optimum, W, data, PAIRS)
    found = []
    for seed in range(5):
        factors = [weights(3, rank, seed=10 * seed + i).requires_grad_() for i in (1, 2)]
        solver = torch.optim.LBFGS(factors, max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

        def closure(factors=factors, solver=solver) -> torch.Tensor:
            solver.zero_grad()
            loss = theory.qk_excess_loss(factors[0] @ factors[1].mT, W, data, PAIRS)
            loss.backward()
            return loss

        solver.step(closure)
        found.append(float(closure().detach()))
    assert min(found) == pytest.approx(float(least), abs=1e-6)


def test_biases_leave_the_features_where_features_are_orthogonal() -> None:
    """Independent features: the covariance is diagonal, so each reader is its feature, at every p; by hand at p = 1/2.

    Cov(x_i, 1(x_i > 0)) = 1/4 - 1/8, Var x_i = 1/6 - 1/16: the reader is (1/8) / (5/48) = 1.2 e_i on either side.
    """
    for p in (0.1, 0.5, 0.9):
        omega = theory.qk_optimum(torch.eye(3), SparseUniform(3, p), [(0, 1)], biases=True)
        reader = (p / 2) * (1 - p) / (p / 3 - p**2 / 4)
        assert float(omega[0, 1]) == pytest.approx(reader**2)
        assert float(omega.abs().sum()) == pytest.approx(reader**2)
    half = theory.qk_optimum(torch.eye(3), SparseUniform(3, 0.5), {(0, 1): 2.0}, biases=True)
    assert float(half[0, 1]) == pytest.approx(2 * 1.2**2)


@pytest.mark.parametrize("data", [SparseUniform(4, (0.2, 0.5, 0.4, 0.9)), CorrelatedGroups(4, 0.4)])
def test_with_biases_it_is_least_squares_with_a_constant(data) -> None:
    W, n = weights(4, 3), 200_000
    x, y = data.sample(n, seed=1, dtype=F64), data.sample(n, seed=2, dtype=F64)
    h, g = (torch.nn.functional.pad(tokens @ W, (0, 1), value=1.0) for tokens in (x, y))
    fitted = torch.linalg.lstsq(torch.einsum("bi,bj->bij", h, g).flatten(1), score(x, y, PAIRS)[:, None]).solution
    found = theory.qk_optimum(W, data, PAIRS, biases=True)
    assert (found - fitted.view(4, 4)[:3, :3]).norm() < 0.02 * found.norm()
    assert (theory.qk_optimum(W, data, PAIRS) - fitted.view(4, 4)[:3, :3]).norm() > 0.2 * found.norm()


def test_a_low_rank_head_with_biases_is_what_training_finds() -> None:
    """Least squares over the factors of the augmented form, over all pairs of tokens of a finite data set."""
    W, data = weights(4, 2), KHot(n_features=4, k=2)
    tokens = data.dataset(F64)
    assert tokens is not None
    x, y = tokens.repeat_interleave(len(tokens), 0), tokens.repeat(len(tokens), 1)
    h, g = (torch.nn.functional.pad(both @ W, (0, 1), value=1.0) for both in (x, y))
    s, best = score(x, y, PAIRS), None
    for seed in range(4):
        factors = [(0.3 * weights(3, 1, seed=20 * seed + i)).requires_grad_() for i in (1, 2)]
        solver = torch.optim.LBFGS(factors, max_iter=200, line_search_fn="strong_wolfe")

        def closure(factors=factors, solver=solver) -> torch.Tensor:
            solver.zero_grad()
            loss = (s - (h @ factors[0] * (g @ factors[1])).sum(-1)).square().mean()
            loss.backward()
            return loss

        solver.step(closure)
        loss = float(closure().detach())
        if best is None or loss < best[0]:
            best = loss, (factors[0] @ factors[1].mT).detach()[:2, :2]
    found = theory.qk_optimum(W, data, PAIRS, rank=1, biases=True)
    torch.testing.assert_close(found, best[1], rtol=0, atol=1e-4)


def test_weights_are_repetitions() -> None:
    W, data = weights(4, 3), SparseUniform(n_features=4, feature_probability=0.3)
    wanted = theory.qk_optimum(W, data, [(0, 1), (0, 1), (2, 3)])
    for weighed in ({(0, 1): 2.0, (2, 3): 1.0}, [(0, 1, 2.0), (2, 3)]):
        torch.testing.assert_close(theory.qk_optimum(W, data, weighed), wanted)


def test_excess_loss_is_the_difference_of_losses() -> None:
    """On a finite data set the expectation is a mean over all pairs of tokens."""
    data, W = KHot(n_features=4, k=2), weights(4, 2)
    tokens = data.dataset(F64)
    assert tokens is not None
    x, y = tokens.repeat_interleave(len(tokens), 0), tokens.repeat(len(tokens), 1)

    def loss(omega: torch.Tensor) -> torch.Tensor:
        return (score(x, y, PAIRS) - ((x @ W @ omega) * (y @ W)).sum(1)).square().mean()

    optimum, other = theory.qk_optimum(W, data, PAIRS, rank=2), weights(2, 2, seed=5)
    torch.testing.assert_close(loss(other) - loss(optimum), theory.qk_excess_loss(other, W, data, PAIRS))


def test_rotating_the_hidden_space_rotates_omega() -> None:
    W, R, data = weights(5, 3), rotation(3), SparseUniform(n_features=5, feature_probability=0.3)
    rotated = theory.qk_optimum(W @ R, data, PAIRS, rank=2)
    torch.testing.assert_close(rotated, R.mT @ theory.qk_optimum(W, data, PAIRS, rank=2) @ R)


def test_isotropic_features_are_the_singular_vectors() -> None:
    W = rotation(4)
    omega = theory.qk_optimum(W, OneHot(n_features=4), [(0, 1)], rank=4)
    U, S, Vh = torch.linalg.svd(omega)
    torch.testing.assert_close((W[0] @ U[:, 0]).abs(), torch.tensor(1.0, dtype=F64))
    torch.testing.assert_close((W[1] @ Vh[0]).abs(), torch.tensor(1.0, dtype=F64))
    assert S[1] < 1e-12


def test_an_unused_dimension_stays_unused() -> None:
    W = torch.nn.functional.pad(weights(4, 2), (0, 1))
    omega = theory.qk_optimum(W, SparseUniform(n_features=4, feature_probability=0.3), PAIRS)
    assert omega.isfinite().all()
    assert omega[2].abs().max() < 1e-9


def test_bad_input() -> None:
    data = OneHot(n_features=3)
    with pytest.raises(ValueError, match="rank=0"):
        theory.qk_optimum(torch.eye(3), data, [(0, 1)], rank=0)
    with pytest.raises(ValueError, match="no pairs"):
        theory.qk_optimum(torch.eye(3), data, [])
    with pytest.raises(ValueError, match=r"pair \(0, 3\)"):
        theory.qk_optimum(torch.eye(3), data, [(0, 3)])
    with pytest.raises(ValueError, match="3 features and W_E has 4"):
        theory.qk_optimum(torch.eye(4), data, [(0, 1)])
    with pytest.raises(ValueError, match="nan"):
        theory.qk_optimum(torch.full((3, 2), torch.nan), data, [(0, 1)])


# The closed form for orthonormal features


def first_vectors(omega: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    U, _, Vh = torch.linalg.svd(omega)
    return U[:, 0], Vh[0]


def test_the_orthonormal_cosine_by_hand() -> None:
    # p = 1/2, two orthonormal features: rho = 0.5 / (0.5 (4 + 3 * 0.5)) = 1 / 5.5; e_0 + rho (1, 1) = (6.5, 1) / 5.5,
    # whose cosine with e_0 is 6.5 / sqrt(6.5^2 + 1) = 0.98837.
    assert theory.qk_orthonormal_cosine(0.5, 2) == pytest.approx(0.98837, abs=1e-5)


@pytest.mark.parametrize("d", [1, 2, 5, 20])
@pytest.mark.parametrize("p", [0.01, 0.5, 0.99])
def test_the_orthonormal_cosine_is_that_of_the_optimum(p: float, d: int) -> None:
    omega = theory.qk_optimum(rotation(d), SparseUniform(n_features=d, feature_probability=p), [(0, d - 1)])
    query, key = first_vectors(omega)
    for vector, feature in ((query, 0), (key, d - 1)):
        assert float((vector @ rotation(d)[feature]).abs()) == pytest.approx(theory.qk_orthonormal_cosine(p, d))


def test_limits_and_bad_input_of_the_orthonormal_cosine() -> None:
    assert theory.qk_orthonormal_cosine(1.0, 4) == pytest.approx(0.5)
    assert theory.qk_orthonormal_cosine(0.3, 1) == 1  # in one dimension there is one direction
    for p, d in ((0.0, 4), (1.5, 4), (0.5, 0)):
        with pytest.raises(ValueError, match=f"p={p}, d_hidden={d}: needs 0 < p <= 1 and at least 1 dimension"):
            theory.qk_orthonormal_cosine(p, d)
