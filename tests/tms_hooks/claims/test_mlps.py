"""The claim about MLPs beside a bottleneck, each part in a world where it holds and in one where it is false."""

import numpy as np
import torch
from worlds import MODELS, outcomes_of

from tms_hooks.claims import mlps

F = 2
N = mlps.CROWD * F


def world(share: float, alarms: int = 0) -> torch.Tensor:
    """Outputs of models that get this share of the features through, and that fire for so many others."""
    own = torch.diag((torch.arange(N) < share * N).float())
    false = sum((torch.diag(torch.full((N - k,), 0.1), k) for k in range(1, alarms + 1)), torch.zeros(N, N))
    return (own + false).expand(MODELS, N, N).clone()


def noisy(outputs: torch.Tensor) -> torch.Tensor:
    """Another feature of each model is lost."""
    changed = outputs.clone()
    for i in range(MODELS):
        changed[i, i % N, i % N] = 0
    return changed


def test_mlp_bottlenecks():
    outcomes = outcomes_of("mlp-bottlenecks")
    nothing = world(0)

    def judge(trained, start, written=1.0, mlp=1.0, linear=0.5):
        softmax = {
            "as written": world(written),
            "as written, untrained": nothing,
            "ReLU on the neurons": world(mlp),
            "no MLP": world(linear),
        }
        return mlps.judge_bottlenecks({"n": trained}, {"n": start}, softmax)

    good, poor = noisy(world(1.0)), noisy(world(0.25, alarms=4))
    found = judge(good, poor)
    assert set(outcomes(found).values()) == {"supported"}
    assert set(outcomes(judge(poor, poor)).values()) >= {"refuted"}
    assert outcomes(judge(poor, poor))["learned by the MLP"] == "refuted"
    assert outcomes(judge(good, good))["more than 4 f"] == "does not distinguish"
    assert outcomes(judge(good, poor, written=0.9))["before the unembed"] == "refuted"
    assert outcomes(judge(good, poor, linear=1.0))["ReLU on the neurons"] == "does not distinguish"


def test_learned_needs_the_own_output_high_and_highest():
    outputs = torch.tensor([[[0.6, 0.7, 0.0], [0.0, 0.4, 0.1], [0.3, 0.2, 0.8]]])
    assert mlps.learned(outputs).tolist() == [[False, False, True]]
    assert mlps.learned(outputs, 0.3).tolist() == [[False, True, True]]


def test_the_best_linear_readout_is_a_projection():
    cfg = mlps.embed_to_mlp(2, 8)
    P = mlps.best_linear_readout(cfg, 3)
    torch.testing.assert_close(P @ P, P)
    assert ((P.diagonal(dim1=-2, dim2=-1).sum(-1) - P.diagonal(dim1=-2, dim2=-1).sum(-1).round()).abs() < 1e-6).all()
    wide = mlps.best_linear_readout(mlps.embed_to_mlp(2, 4), 3)  # fewer features than neurons: usually all come back
    assert np.mean(mlps.learned(wide).numpy()) >= np.mean(mlps.learned(P).numpy())
