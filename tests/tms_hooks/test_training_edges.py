"""Edges of numbers in training: the smallest and the largest toys, seeds, probabilities and learning rates."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tms_hooks import SGD, Adam, SparseUniform, ToyConfig, train
from tms_hooks.training import batches


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
