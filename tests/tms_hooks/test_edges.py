"""Edges of numbers: the smallest and largest of everything, weights of no rank and of any size; right, or refused."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tms_hooks import SGD, Adam, SparseUniform, ToyConfig, geometry, linalg, theory, train
from tms_hooks.training import batches

F64 = torch.float64


def some(n: int = 5, d: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=F64).to(dtype)


SCALES = [(2.0**100, torch.float32), (2.0**-100, torch.float32), (2.0**700, F64), (2.0**-700, F64)]


@pytest.mark.parametrize(("scale", "dtype"), SCALES)
def test_what_has_no_scale_is_the_same_to_the_bit_however_large_or_small_the_weights(scale, dtype) -> None:
    W, R = some(dtype=dtype), some(dtype=dtype).flip(0)
    same = torch.testing.assert_close
    for f in (geometry.dimensionality, theory.pretty_good_measurement, linalg.unit, linalg.cosines, linalg.overlaps):
        assert f(scale * W).equal(f(W)), f
    assert geometry.rotate_onto(scale * W, scale * R).equal(scale * geometry.rotate_onto(W, R))
    assert geometry.directions(scale * W, scale / 2) == geometry.directions(W, 0.5)
    assert geometry.tegum_factors(scale * W, scale / 2) == geometry.tegum_factors(W, 0.5)
    assert geometry.polytopes(scale * W, scale / 2) == geometry.polytopes(W, 0.5)
    for (name, found), wanted in zip(
        theory.readout_cosines(scale * W, scale * W.mT).items(), theory.readout_cosines(W, W.mT).values(), strict=True
    ):
        same(found, wanted, msg=name)


@pytest.mark.parametrize(("scale", "dtype"), SCALES)
def test_what_has_a_scale_takes_it_exactly(scale, dtype) -> None:
    W = some(dtype=dtype)
    assert geometry.feature_norms(scale * W).equal(scale * geometry.feature_norms(W))
    assert theory.dual_frame(scale * W).equal(theory.dual_frame(W) / scale)


def test_an_antipodal_pair_has_half_a_dimension_each_up_to_the_largest_number() -> None:
    pair = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    for size in (1e20, 3e38, 1e-20, 1e-42):
        torch.testing.assert_close(geometry.dimensionality(size * pair), torch.tensor([0.5, 0.5]))


def test_numbers_that_do_not_fit_are_refused_or_infinite_and_never_nan() -> None:
    W = 1e20 * some()
    with pytest.raises(ValueError, match=r"largest weight .*e\+20: its square overflows torch.float32; divide W"):
        geometry.gram(W)
    assert geometry.interference(W).equal(torch.full((5,), torch.inf))
    for readers in (theory.dual_frame, theory.one_sided_dual_frame):
        with pytest.raises(ValueError, match=r"its inverse overflows torch.float32; use V.double\(\)"):
            readers(1e-42 * some())
        assert readers(1e-42 * some().double()).isfinite().all()
    with pytest.raises(ValueError, match=r"its square overflows; divide W_E by it"):
        theory.qk_optimum(1e200 * some().double(), SparseUniform(n_features=5, feature_probability=0.5), [(0, 1)])
    for shape in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="at least one of each"):
            geometry.dimensionality(torch.zeros(shape))


def test_nothing_learned_and_copies_of_one_direction() -> None:
    zeros, copies = torch.zeros(4, 3), torch.ones(4, 3)
    assert geometry.name_polytope(zeros) == "empty" and geometry.name_polytope(copies) == "point"
    assert geometry.dimensionality(zeros).equal(zeros[:, 0])
    torch.testing.assert_close(geometry.dimensionality(copies), torch.full((4,), 0.25))
    assert geometry.dimensions_per_feature(zeros) == torch.inf
    assert geometry.interference(zeros).equal(zeros[:, 0])
    torch.testing.assert_close(geometry.interference(copies), torch.full((4,), 9.0))
    assert geometry.rotate_onto(zeros, copies).equal(zeros)
    for readers in (theory.dual_frame, theory.one_sided_dual_frame, theory.pretty_good_measurement):
        assert readers(zeros).equal(zeros)  # of all least-squares readers the shortest
    # u = pinv(V)^T: each copy is read at 1/4, and together they read 1
    torch.testing.assert_close(theory.dual_frame(copies), torch.full((4, 3), 1 / 12))
    assert all(c.equal(zeros[:, 0]) for c in theory.readout_cosines(zeros, zeros.mT).values())
    data = SparseUniform(n_features=4, feature_probability=0.5)
    assert theory.qk_optimum(zeros, data, [(0, 1)], rank=2).equal(torch.zeros(3, 3, dtype=F64))
    assert torch.linalg.matrix_rank(theory.qk_optimum(copies, data, [(0, 1)])) == 1


@pytest.mark.parametrize(
    ("n", "d", "changes"),
    [
        (1, 1, {}),
        (1, 3, {}),  # more dimensions than features
        (2, 5, {"batch_size": 1}),
        (6, 2, {"importance": torch.tensor([0.0, 1, 1, 1, 1, 1])}),
        (6, 2, {"importance": torch.zeros(6)}),
        (6, 2, {"p": 1e-6}),
        (6, 2, {"seeds": [2**63 - 2, 0, 0]}),
    ],
)
def test_the_smallest_toys_train_to_the_same_on_both_engines(n: int, d: int, changes: dict) -> None:
    setting = dict(changes)
    data = SparseUniform(n_features=n, feature_probability=setting.pop("p", 0.3))
    cfg = ToyConfig(n_features=n, d_hidden=d)
    runs = [train(cfg, data, steps=20, engine=engine, progress=False, **setting) for engine in ("torch", "fused")]
    assert runs[0].final_loss.isfinite().all()
    torch.testing.assert_close(runs[0].W_E, runs[1].W_E, rtol=0, atol=1e-5)
    torch.testing.assert_close(runs[0].final_loss, runs[1].final_loss, rtol=1e-5, atol=1e-7)
    if "seeds" in setting:  # a seed given twice is one model twice
        assert runs[0].W_E[1].equal(runs[0].W_E[2]) and not runs[0].W_E[0].equal(runs[0].W_E[1])


@pytest.mark.parametrize("changes", [{"seeds": [-1]}, {"seeds": [2**63 - 1]}, {"steps": 0}, {"batch_size": 0}])
def test_what_is_no_seed_step_or_batch_is_refused(changes: dict) -> None:
    cfg, data = ToyConfig(n_features=2, d_hidden=1), SparseUniform(n_features=2, feature_probability=0.5)
    with pytest.raises(ValueError, match=r"must be|at least 1"):
        train(cfg, data, **{"steps": 1} | changes)


@pytest.mark.parametrize("optimizer", [SGD(lr=1e6), Adam(lr=1e30)])
@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_a_learning_rate_that_diverges_is_said_and_the_weights_stay_finite(optimizer, engine, caplog) -> None:
    data = SparseUniform(n_features=6, feature_probability=0.1)
    cfg = ToyConfig(n_features=6, d_hidden=2)
    run = train(cfg, data, steps=20, optimizer=optimizer, engine=engine, progress=False)
    assert run.table["diverged_at"].notna().all() and run.W_E.isfinite().all()
    assert not run.final_loss.isfinite().any()
    assert "its loss or next weights were not finite" in caplog.text


class Largest(TorchDispatchMode):
    """The most numbers in any tensor that torch makes meanwhile."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return made


def test_memory_of_many_features_grows_with_the_weights_and_the_batch(monkeypatch) -> None:
    monkeypatch.setattr(batches, "HELD_OUT_TOKENS", 64)  # of 65,536, which are most of the time
    n, most = 5_000, Largest()
    data, cfg = SparseUniform(n_features=n, feature_probability=0.001), ToyConfig(n_features=n, d_hidden=8)
    with most:
        run = train(cfg, data, steps=2, batch_size=16, record_every=2, engine="torch", progress=False)
        loss = run.final_loss
    assert run.W_E.shape == (1, n, 8) and loss.isfinite().all()
    assert most.numbers <= 8 * 64 * n  # no table of all pairs of features; a power of a batch in double precision
