"""Bits that depend on nothing but the recipe: on some random configurations, and on those that once broke it.

`make bits` tries 300 configurations; `tests/bits/invariances.py` says what is held.
"""

import pytest
import torch

import tms_hooks as tms
from tests.bits import invariances, runs


@pytest.mark.parametrize("number", range(300, 306))
def test_invariances_hold(number):
    with invariances.threads(1):
        assert list(invariances.broken(number)) == []


@pytest.mark.parametrize("batch_size", [251, 253, 255, 257, 259])
def test_a_head_of_rank_one_and_an_odd_batch(batch_size):
    """A column askew in memory was copied with other strides in a crowd than alone, and BLAS rounds by them."""
    cfg = tms.ToyConfig(n_features=12, d_hidden=10, n_heads=1, d_head=1)
    data = tms.SparseUniform(n_features=12, feature_probability=0.2)
    settings = {"steps": 3, "batch_size": batch_size, "qk_pairs": [(0, 1)], "engine": "torch", "progress": False}
    crowd = tms.train(cfg, data, seeds=range(3), **settings)
    for i in range(3):
        assert not invariances.different(crowd, i, tms.train(cfg, data, seeds=[i], **settings), 0)


def test_held_out_losses_do_not_depend_on_threads():
    """Means over 65,536 rows are summed in as many parts as there are threads, unless one is asked for."""
    settings = invariances.draw(0) | {"engine": "torch", "progress": False}
    with invariances.threads(1):
        one = tms.train(**settings)
    with invariances.threads(2):
        two = tms.train(**settings)
    assert torch.equal(one.final_feature_loss, two.final_feature_loss)


def test_what_differs_is_found():
    settings = runs.draw(1) | {"progress": False}
    run = tms.train(**settings)
    assert not invariances.different(run, 0, run, 0)
    run.weights["W_E"][0].view(-1)[0] += 1e-6
    assert invariances.different(run, 0, tms.train(**settings), 0)
