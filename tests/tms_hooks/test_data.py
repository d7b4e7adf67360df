"""Distributions: exact marginals and moments, purity of `sample`, whole data sets.

Statistical tests draw N = 2^18 rows and allow 5 standard errors. For an average of terms t that is 5 sd(t) / sqrt(N),
with sd(t) <= 1/2 for any t in [0, 1]. Seeds are fixed, so that nothing fails by chance.
"""

import dataclasses
import math
from itertools import combinations

import numpy
import pytest
import torch
from scipy.integrate import quad
from scipy.special import expit, ndtri
from scipy.stats import kstest

import tms_hooks as tms
from tms_hooks.data import DISTRIBUTIONS

N = 2**18

EVERY = [
    tms.SparseUniform(n_features=4, feature_probability=0.3),
    tms.SparseUniform(n_features=3, feature_probability=(1.0, 0.057, 0.4)),
    tms.OneHot(n_features=5),
    tms.KHot(n_features=5, k=2),
    tms.KHot(n_features=5, k=3, values="uniform"),
    tms.KHot(n_features=3, k=3),
    tms.RandomPoints(n_features=4, n_points=7, k=2),
    tms.RandomPoints(n_features=3, n_points=2, k=3, points_seed=5),
    tms.Samples([[0.5, 0.0, 1.0], [0.0, 0.25, 1.0], [0.0, 0.75, 0.0]]),
    tms.CorrelatedGroups(n_features=6, feature_probability=0.2, group_size=3),
    tms.AnticorrelatedGroups(n_features=6, feature_probability=0.3, group_size=3),
    tms.AnticorrelatedGroups(n_features=4, feature_probability=0.5),
    tms.Copula(n_features=3, feature_probability=0.3, rho=0.6),
    tms.Copula(n_features=4, feature_probability=(0.2, 0.5, 1.0, 0.2), rho=-0.3),
    tms.Copula(n_features=3, feature_probability=0.25, rho=-0.5),
    tms.Copula(
        n_features=3, feature_probability=(0.3, 0.2, 0.5), rho=[[1.0, 0.8, -0.3], [0.8, 1.0, 0.0], [-0.3, 0.0, 1.0]]
    ),
    tms.SparseUniform.power_law(4, 1.5, total=0.9),
    tms.SparseUniform(n_features=3, feature_probability=(1.0, 0.1, 0.4), low=-1.0, high=0.5),
    tms.SparseUniform(n_features=3, feature_probability=0.2, low=1.0),
    tms.SparseGaussian(n_features=3, feature_probability=(0.2, 0.5, 1.0), mean=0.3, std=0.5),
    tms.OnManifold(n_features=5),
    tms.OnManifold(n_features=4, manifold="figure eight", a=4.0, b=3.0),
    tms.OnManifold(n_features=6, manifold="sphere", a=3.0, b=2.0),
    tms.Tree(n_features=7, feature_probability=0.6),
    tms.Tree(n_features=4, feature_probability=(0.5, 0.9, 0.3, 0.4), parents=(-1, 0, -1, 1)),
]
SIGNED = [data for data in EVERY if getattr(data, "low", 0) < 0 or isinstance(data, tms.SparseGaussian)]
BINARY = [data for data in EVERY if getattr(data, "low", 0) == 1]
FINITE = (tms.OneHot, tms.RandomPoints, tms.Samples)
CONTINUOUS = [data for data in EVERY if not isinstance(data, FINITE) and getattr(data, "values", "") != "binary"]
UNIFORM = [data for data in CONTINUOUS if data not in SIGNED + BINARY]


@pytest.fixture(params=EVERY, ids=repr)
def data(request):
    return request.param


def assert_within_standard_errors(found, expected, spread, n=N):
    torch.testing.assert_close(found, expected, rtol=0, atol=5 * spread / n**0.5)


# What is promised of every distribution


def test_every_kind_is_tested():
    assert {type(data) for data in EVERY} == set(DISTRIBUTIONS.values())


def test_entries_lie_in_the_unit_interval_where_data_have_one_sign(data):
    x = data.sample(4096, seed=1)
    assert x.shape == (4096, data.n_features)
    assert x.dtype == torch.float32
    assert (x.min() < 0) == (data in SIGNED)
    assert x.max() <= 1 or isinstance(data, tms.SparseGaussian)


def test_sample_is_a_pure_function_of_its_arguments(data):
    state = torch.get_rng_state()
    x = data.sample(64, seed=3, step=17)
    assert torch.equal(x, data.sample(64, seed=3, step=17))
    assert torch.equal(x, dataclasses.replace(data).sample(64, seed=3, step=17))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sequence_of_seeds_gives_each_seed_its_own_rows(data):
    together = data.sample(32, seed=[5, 2, 5], step=9)
    for row, seed in zip(together, [5, 2, 5], strict=True):
        assert torch.equal(row, data.sample(32, seed=seed, step=9))
    assert torch.equal(data.sample(32, seed=range(3), step=9)[2], together[1])


def test_dtype_only_rounds(data):
    x = data.sample(64, seed=0, dtype=torch.float64)
    assert torch.equal(x.float(), data.sample(64, seed=0))


@pytest.mark.parametrize("other", [{"seed": 1, "step": 0}, {"seed": 0, "step": 1}])
def test_steps_and_seeds_are_independent(data, other):
    """Two batches share each entry no more than chance allows: their covariance is 0 within 5 standard errors."""
    a, b = data.sample(N, seed=0, step=0, dtype=torch.float64), data.sample(N, **other, dtype=torch.float64)
    a, b = a - a.mean(0), b - b.mean(0)
    assert_within_standard_errors((a * b).mean(0), torch.zeros_like(a[0]), 0.5)


def test_active_probability(data):
    active = (data.sample(N, seed=11) != 0).double()
    p = data.active_probability()
    assert_within_standard_errors(active.mean(0), p, (p * (1 - p)).max().sqrt().item() + 1e-12)


def test_second_and_active_moments_agree_with_samples(data):
    x = data.sample(N, seed=12, dtype=torch.float64)
    assert_within_standard_errors(x.T @ x / N, data.second_moment(), 0.5)
    assert_within_standard_errors((x != 0).double().T @ x / N, data.active_moment(), 0.5)


def test_moments_agree_with_the_whole_data_set(data):
    x = data.dataset(torch.float64)
    if x is None:
        assert data in CONTINUOUS
        return
    torch.testing.assert_close(data.second_moment(), x.T @ x / len(x))
    torch.testing.assert_close(data.active_moment(), (x > 0).double().T @ x / len(x))
    torch.testing.assert_close(data.active_probability(), (x > 0).double().mean(0))


@pytest.mark.parametrize("data", UNIFORM, ids=repr)
def test_active_values_are_uniform(data):
    """Kolmogorov-Smirnov on the active values of each feature; p > 1e-5 at fixed seeds."""
    x = data.sample(2**15, seed=13, dtype=torch.float64)
    for column in x.T:
        active = column[column > 0]
        assert kstest(active.numpy(), "uniform").pvalue > 1e-5


# One by one


def test_sparse_uniform_by_hand():
    data = tms.SparseUniform(n_features=2, feature_probability=(0.5, 0.25))
    # Diagonal p/3, p/2; off it p_i p_j / 4 and p_i p_j / 2.
    torch.testing.assert_close(data.second_moment(), torch.tensor([[1 / 6, 1 / 32], [1 / 32, 1 / 12]]).double())
    torch.testing.assert_close(data.active_moment(), torch.tensor([[1 / 4, 1 / 16], [1 / 16, 1 / 8]]).double())
    assert data.sparsity == (0.5, 0.75)
    assert tms.SparseUniform(n_features=2, feature_probability=0.25).sparsity == 0.75


def test_sparse_uniform_at_probability_one_is_never_zero():
    assert tms.SparseUniform(n_features=8, feature_probability=1.0).sample(4096, seed=0).min() > 0


def test_features_may_differ_in_probability_given_as_any_sequence():
    data = tms.SparseUniform(n_features=2, feature_probability=(0.1, 0.2))
    assert data.feature_probability == (0.1, 0.2)
    torch.testing.assert_close(data.active_probability(), torch.tensor([0.1, 0.2], dtype=torch.float64))


def test_one_hot_rows_are_unit_vectors_of_every_feature():
    data = tms.OneHot(n_features=5)
    assert torch.equal(data.dataset(), torch.eye(5))
    x = data.sample(1000, seed=0)
    assert torch.equal(x.sum(-1), torch.ones(1000))
    assert torch.equal(x.max(-1).values, torch.ones(1000))


@pytest.mark.parametrize(("n", "k"), [(5, 2), (4, 1), (3, 3), (6, 4)])
def test_k_hot_data_set_is_every_subset_once(n, k):
    rows = tms.KHot(n_features=n, k=k).dataset()
    assert len(rows) == math.comb(n, k)
    found = [tuple(row.nonzero().flatten().tolist()) for row in rows]
    assert found == list(combinations(range(n), k))
    assert set(rows.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("values", ["binary", "uniform"])
def test_k_hot_draws_every_subset_equally_often(values):
    active = tms.KHot(n_features=5, k=2, values=values).sample(N, seed=4) > 0
    assert torch.equal(active.sum(-1), torch.full((N,), 2))
    codes = (active * 2 ** torch.arange(5)).sum(-1)
    counts = torch.bincount(codes, minlength=32)
    share = counts[counts > 0].double() / N
    assert len(share) == 10
    assert_within_standard_errors(share, torch.full((10,), 0.1, dtype=torch.float64), (0.1 * 0.9) ** 0.5)


def test_k_hot_with_k_1_is_one_hot():
    k_hot, one_hot = tms.KHot(n_features=4, k=1), tms.OneHot(n_features=4)
    assert torch.equal(k_hot.dataset(), one_hot.dataset())
    assert torch.equal(k_hot.second_moment(), one_hot.second_moment())


def test_correlated_features_are_active_together_or_not_at_all():
    x = tms.CorrelatedGroups(n_features=6, feature_probability=0.3, group_size=3).sample(N, seed=5)
    active = (x > 0).unflatten(1, (2, 3))
    assert torch.equal(active.any(-1), active.all(-1))
    both = active.any(-1).all(-1).double().mean()
    assert_within_standard_errors(both, torch.tensor(0.09).double(), (0.09 * 0.91) ** 0.5)  # groups are independent
    values = x[active[:, 0, 0]].double()
    assert abs(torch.corrcoef(values[:, :3].T)[0, 1]) < 5 / len(values) ** 0.5  # values are, too


def test_anticorrelated_features_are_never_active_together():
    x = tms.AnticorrelatedGroups(n_features=6, feature_probability=0.2, group_size=3).sample(N, seed=6)
    active = (x > 0).unflatten(1, (2, 3))
    assert active.sum(-1).max() == 1
    assert_within_standard_errors(active.any(-1).double().mean(0), torch.full((2,), 0.6).double(), (0.6 * 0.4) ** 0.5)


def test_a_group_that_is_always_active():
    x = tms.AnticorrelatedGroups(n_features=4, feature_probability=0.5).sample(4096, seed=0)
    assert torch.equal((x > 0).unflatten(1, (2, 2)).sum(-1), torch.ones(4096, 2, dtype=torch.int64))


def test_copula_without_correlation_has_the_moments_of_independent_features():
    p = (0.3, 0.057, 1.0)
    copula = tms.Copula(n_features=3, feature_probability=p, rho=0.0)
    independent = tms.SparseUniform(n_features=3, feature_probability=p)
    torch.testing.assert_close(copula.second_moment(), independent.second_moment(), rtol=0, atol=1e-9)
    torch.testing.assert_close(copula.active_moment(), independent.active_moment(), rtol=0, atol=1e-9)


def bivariate_moments(p, q, rho, nodes=400):
    """E[xy] and E[1(x>0) y] by Gauss-Legendre over the bivariate normal density: no copula formula, no nesting."""
    points, weights = (torch.tensor(a) for a in numpy.polynomial.legendre.leggauss(nodes))

    def axis(top):
        low, high = -8.5, min(float(ndtri(top)), 8.5)
        return low + (high - low) * (points + 1) / 2, weights * (high - low) / 2

    (z, wz), (y, wy) = axis(p), axis(q)
    z, y = z[:, None], y[None, :]
    density = torch.exp(-(z**2 - 2 * rho * z * y + y**2) / (2 * (1 - rho**2))) / (2 * math.pi * (1 - rho**2) ** 0.5)
    mass = density * wz[:, None] * wy[None, :]
    u, v = torch.special.ndtr(z) / p, torch.special.ndtr(y) / q
    return float((mass * u * v).sum()), float((mass * v).sum())


@pytest.mark.parametrize("rho", [-0.45, -0.2, 0.3, 0.9])
def test_copula_moments_agree_with_the_bivariate_normal(rho):
    p = (0.2, 0.057, 1.0)
    data = tms.Copula(n_features=3, feature_probability=p, rho=rho)
    second, active = data.second_moment(), data.active_moment()
    for i, j in [(0, 1), (1, 0), (0, 2), (2, 1)]:
        xy, ay = bivariate_moments(p[i], p[j], rho)
        assert float(second[i, j]) == pytest.approx(xy, rel=1e-7)
        assert float(active[i, j]) == pytest.approx(ay, rel=1e-7)
    torch.testing.assert_close(second.diagonal(), torch.tensor(p).double() / 3, rtol=0, atol=1e-7)


def test_copula_correlation_orders_joint_activity():
    p_both = []
    for rho in (-0.4, 0.0, 0.4, 0.8):
        x = tms.Copula(n_features=3, feature_probability=0.3, rho=rho).sample(N, seed=7)
        p_both.append(float((x[:, 0] * x[:, 1] > 0).double().mean()))
    assert p_both == sorted(p_both)
    assert abs(p_both[1] - 0.09) < 5 * (0.09 * 0.91 / N) ** 0.5


def test_any_correlation_matrix_gives_each_pair_its_own_moments():
    rho = torch.tensor([[1.0, 0.8, -0.3], [0.8, 1.0, 0.0], [-0.3, 0.0, 1.0]])
    data = tms.Copula(n_features=3, feature_probability=(0.3, 0.2, 0.5), rho=rho.numpy())
    for i, j in ((0, 1), (0, 2), (1, 2)):
        pair = tms.Copula(n_features=2, feature_probability=[(0.3, 0.2, 0.5)[k] for k in (i, j)], rho=float(rho[i, j]))
        assert data.second_moment()[i, j] == pytest.approx(float(pair.second_moment()[0, 1]), rel=1e-6)
    equal = torch.full((3, 3), 0.4).fill_diagonal_(1.0)
    one, many = (tms.Copula(n_features=3, feature_probability=0.3, rho=rho) for rho in (float(equal[0, 1]), equal))
    torch.testing.assert_close(many.sample(500, seed=0), one.sample(500, seed=0), rtol=0, atol=1e-5)


def test_power_law_probabilities():
    data = tms.SparseUniform.power_law(4, 2.0, total=0.5, low=-1.0)
    p = data.active_probability()
    torch.testing.assert_close(p, 0.5 * torch.tensor([1, 1 / 4, 1 / 9, 1 / 16]).double() / (1 + 1 / 4 + 1 / 9 + 1 / 16))
    assert data.low == -1
    assert tms.SparseUniform.power_law(3, 0.0, total=3.0).feature_probability == (1.0, 1.0, 1.0)
    assert isinstance(tms.SparseGaussian.power_law(3, 1.0), tms.SparseGaussian)


def test_values_between_low_and_high_by_hand():
    data = tms.SparseUniform(n_features=2, feature_probability=(0.5, 0.25), low=-1.0, high=3.0)
    # E[v] = 1, E[v^2] = (1 - 3 + 9) / 3 = 7/3
    torch.testing.assert_close(data.second_moment(), torch.tensor([[7 / 6, 1 / 8], [1 / 8, 7 / 12]]).double())
    torch.testing.assert_close(data.active_moment(), torch.tensor([[1 / 2, 1 / 8], [1 / 8, 1 / 4]]).double())
    x = data.sample(4096, seed=0, dtype=torch.float64)
    unit = tms.SparseUniform(n_features=2, feature_probability=(0.5, 0.25)).sample(4096, seed=0, dtype=torch.float64)
    torch.testing.assert_close(x, torch.where(unit > 0, 4 * unit - 1, 0.0))
    binary = tms.SparseUniform(n_features=2, feature_probability=(0.5, 0.25), low=1.0).sample(4096, seed=0)
    assert binary.equal((unit > 0).float())


def test_gaussian_values_have_that_distribution():
    x = tms.SparseGaussian(n_features=1, feature_probability=0.5, mean=0.3, std=2.0).sample(2**15, seed=0)[:, 0]
    assert kstest(((x[x != 0] - 0.3) / 2).numpy(), "norm").pvalue > 1e-5


def test_features_on_a_manifold_are_active_near_the_latent_point():
    """Marginals are integrals that quadrature knows; what is active together lies together."""
    a, b = 4.0, 3.0

    def share(weight, top):
        return quad(lambda t: float(expit(a * weight(t) - b)), 0, top)[0] / top

    circle = tms.OnManifold(n_features=5, a=a, b=b)
    torch.testing.assert_close(circle.active_probability(), torch.full((5,), share(math.cos, 2 * math.pi)).double())
    sphere = tms.OnManifold(n_features=9, manifold="sphere", a=a, b=b)
    assert sphere.active_probability().tolist() == pytest.approx([share(lambda c: 1 - c, 2)] * 9, rel=2e-3)
    eight = tms.OnManifold(n_features=8, manifold="figure eight", a=40.0, b=38.0)  # 2 and 6 sit at the crossing
    torch.testing.assert_close(eight.places[2], eight.places[6], rtol=0, atol=1e-12)
    together = eight.second_moment()
    assert together[2, 6] > 100 * together[0, 4]
    near, far = circle.second_moment()[0, 1], circle.second_moment()[0, 2]
    assert near > 2 * far


def test_a_child_is_active_only_with_its_parent():
    data = tms.Tree(n_features=7, feature_probability=0.6)
    active = data.sample(N, seed=0) > 0
    for child in range(1, 7):
        assert not (active[:, child] & ~active[:, (child - 1) // 2]).any()
    # 5 and 6 share 2 and 0: 0.6^4; 3 and 6 share 0: 0.6^5
    torch.testing.assert_close(data.second_moment()[5, 6], torch.tensor(0.6**4 / 4).double())
    torch.testing.assert_close(data.second_moment()[3, 6], torch.tensor(0.6**5 / 4).double())
    assert tms.Tree(n_features=2, feature_probability=0.6, parents=[-1, -1]).active_probability().tolist() == [0.6] * 2


def test_numbers_of_any_kind_are_probabilities():
    for p in (numpy.float64(0.25), numpy.array(0.25), torch.tensor(0.25)):
        assert tms.SparseUniform(n_features=2, feature_probability=p).feature_probability == 0.25
    for p in (numpy.array([0.25, 0.5]), torch.tensor([0.25, 0.5]), [0.25, 0.5]):
        assert tms.SparseUniform(n_features=2, feature_probability=p).feature_probability == (0.25, 0.5)


def test_random_points_have_unit_norm_and_k_active_features():
    points = tms.RandomPoints(n_features=20, n_points=5_000, k=3).dataset(torch.float64)
    torch.testing.assert_close(points.norm(dim=-1), torch.ones(5_000, dtype=torch.float64))
    assert (points > 0).sum(-1).eq(3).all()
    assert_within_standard_errors((points > 0).double().mean(0), torch.full((20,), 0.15).double(), 0.5, n=5_000)


def test_sets_of_random_points_grow_and_differ():
    small, large, other = (
        tms.RandomPoints(n_features=6, n_points=n, k=2, points_seed=seed) for n, seed in ((4, 0), (9, 0), (4, 1))
    )
    assert torch.equal(large.dataset()[:4], small.dataset())
    assert not torch.equal(other.dataset(), small.dataset())
    drawn = small.sample(1_000, seed=0).unique(dim=0)
    assert torch.equal(drawn, small.dataset().unique(dim=0))  # nothing else, and every one


# Bad input


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tms.OneHot(n_features=0), "n_features=0: must be at least 1"),
        (lambda: tms.SparseUniform(n_features=2, feature_probability=0.0), r"feature_probability=0.0: .*\(0, 1\]"),
        (lambda: tms.SparseUniform(n_features=2, feature_probability=1.5), r"=1.5: must be in \(0, 1\]; sparsity"),
        (lambda: tms.SparseUniform(n_features=2, feature_probability=math.nan), r"=nan: must be in \(0, 1\]"),
        (lambda: tms.SparseUniform(n_features=2, feature_probability=(0.5, -0.1)), r"=-0.1: must be in \(0, 1\]"),
        (lambda: tms.SparseUniform(n_features=2, feature_probability=(0.5,)), "has 1 entries for n_features=2"),
        (lambda: tms.KHot(n_features=3, k=4), "k=4: must be between 1 and n_features=3"),
        (lambda: tms.KHot(n_features=3, k=0), "k=0: must be between 1"),
        (lambda: tms.KHot(n_features=60, k=6).dataset(), "50,063,860 vectors, more than 100,000; give a batch_size"),
        (lambda: tms.RandomPoints(n_features=3, n_points=0, k=1), "n_points=0: must be between 1"),
        (lambda: tms.RandomPoints(n_features=3, n_points=2, k=4), "k=4: must be between 1 and n_features=3"),
        (lambda: tms.CorrelatedGroups(n_features=5, feature_probability=0.1), "group_size=2: must divide n_features=5"),
        (
            lambda: tms.CorrelatedGroups(n_features=4, feature_probability=0.1, group_size=0),
            "group_size=0: must divide",
        ),
        (
            lambda: tms.CorrelatedGroups(n_features=2, feature_probability=(0.1, 0.2)),
            "must be one number: the members of a group share it",
        ),
        (
            lambda: tms.AnticorrelatedGroups(n_features=4, feature_probability=0.6),
            "feature_probability=0.6: must be at most 1/group_size = 0.5",
        ),
        (lambda: tms.Copula(n_features=3, feature_probability=0.1, rho=-0.6), r"rho=-0.6: must be in \[-0.5, 1\)"),
        (lambda: tms.Copula(n_features=3, feature_probability=0.1, rho=1.0), r"rho=1.0: must be in"),
        (lambda: tms.Copula(n_features=2, feature_probability=0.1, rho=-1.0), r"rho=-1.0: .*above -1"),
        (lambda: tms.Copula(n_features=2, feature_probability=0.1, rho=math.nan), "rho=nan"),
        (
            lambda: tms.Copula(n_features=2, feature_probability=0.1, rho=[[1.0, 0.5], [0.4, 1.0]]),
            "rho must be a correlation matrix: symmetric",
        ),
        (
            lambda: tms.Copula(n_features=2, feature_probability=0.1, rho=[[1.0, 1.0], [1.0, 1.0]]),
            "between -1 and 1 beside it; .* are CorrelatedGroups",
        ),
        (lambda: tms.Copula(n_features=3, feature_probability=0.1, rho=[[1.0]]), r"rho of shape \(1, 1\): must be one"),
        (
            lambda: tms.Copula(n_features=3, feature_probability=0.1, rho=(1.9 * torch.eye(3) - 0.9)),
            r"rho has the eigenvalue -0.8: no normal has such correlations",
        ),
        (lambda: tms.SparseUniform(n_features=2, feature_probability=0.1, low=2.0), "low=2.0, high=1.0: low must be"),
        (
            lambda: tms.SparseUniform(n_features=2, feature_probability=0.1, high=0.0),
            "low must be at most high",
        ),
        (lambda: tms.SparseUniform(n_features=2, feature_probability=0.1, low=-math.inf), "low=-inf: must be finite"),
        (lambda: tms.SparseGaussian(n_features=2, feature_probability=0.1, std=0.0), "std=0.0: must be positive"),
        (lambda: tms.SparseUniform.power_law(4, 1.0, total=3.0), "the first feature's probability would be 1.44"),
        (lambda: tms.SparseUniform.power_law(4, -1.0), "alpha must not be negative"),
        (lambda: tms.OnManifold(n_features=4, a=math.nan), "a=nan: must be finite"),
        (lambda: tms.Tree(n_features=3, feature_probability=0.5, parents=(-1, 0)), "parents has 2 entries"),
        (
            lambda: tms.Tree(n_features=2, feature_probability=0.5, parents=(-1, 1)),
            r"parents\[1\]=1: must be",
        ),
        (lambda: tms.OneHot(n_features=2).sample(0, seed=0), "batch=0: must be at least 1"),
        (lambda: tms.OneHot(n_features=2).sample(1, seed=[]), "seed is an empty sequence"),
    ],
)
def test_impossible_values_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
