"""Claims of `tms_hooks.claims.dimensionality`, each in a world where it holds and in one where it is false."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch
from worlds import UNDECIDED, outcome_of, random_directions

from tms_hooks import ToyConfig, geometry
from tms_hooks.claims import dimensionality
from tms_hooks.claims.dimensionality import judge_sticky, judge_vulnerability
from tms_hooks.data import SparseUniform
from tms_hooks.geometry.polytopes import ideal_polytopes
from tms_hooks.train import train


def tegum(*names: str) -> torch.Tensor:
    """One model: these polytopes, each in dimensions of its own."""
    shapes = {name: V for k in range(1, 10) for name, V in ideal_polytopes(k).items()}
    return torch.block_diag(*(shapes[name].float() for name in names))


def pad(W: torch.Tensor, features: int = 27, hidden: int = 13) -> torch.Tensor:
    return torch.nn.functional.pad(W, (0, hidden - W.shape[1], 0, features - W.shape[0]))[None]


def test_sticky_dimensionality():
    # D_i of 3/4, 2/3, 2/5 twice, 3/8 and 1/2; D* near 1/2
    outcome = outcome_of("sticky-dimensionality")
    all_values = ("tetrahedron", "triangle", "pentagon", "pentagon", "square antiprism", "digon")
    dense, half = pad(torch.eye(13)), pad(tegum(*["digon"] * 13))
    right = [pad(tegum(*all_values))] * 20 + [dense] * 20 + [half] * 20

    def judge(models):
        return judge_sticky({1 / (1 + i): W for i, W in enumerate(models)})

    found = judge(right)
    assert (outcome(found), found.statistic) == ("supported", 1.0)
    assert outcome(judge([random_directions(W, i) for i, W in enumerate(right)])) in UNDECIDED
    drifting = [W * s for W in (dense, half) for s in torch.linspace(0.955, 1.05, 30)]
    assert outcome(judge(right[:20] + drifting)) in UNDECIDED  # D* only passes by 1 and 1/2
    assert outcome(judge(right[:40])) == "supported"
    assert outcome(judge(right[20:])) in UNDECIDED  # no D_i near 3/4 at all
    for wrong in set(all_values) - {"digon"}:
        off = pad(tegum(*(name for name in all_values if name != wrong)))
        assert outcome(judge([off] * 20 + right[20:])) in UNDECIDED
    beside = pad(tegum(*(name for name in all_values if name != "tetrahedron")))
    beside[0, -2:, -1] = torch.tensor([1.0, 0.6236])  # a lopsided digon: D_i of 0.72, near 3/4 and not at it
    assert outcome(judge([beside] * 20 + right[20:])) == "refuted"


def test_windows_are_apart():
    levels = [(float(Fraction(name)), width) for name, width in dimensionality.WIDTHS.items()]
    spans = sorted((v - 2 * w, v + 2 * w) for v, w in levels)
    assert all(high <= low for (_, high), (low, _) in pairwise(spans))


def test_adversarial_vulnerability():
    outcome = outcome_of("adversarial-vulnerability")
    sizes = torch.linspace(1, 3, 30)
    W = sizes[:, None, None] * torch.eye(4).repeat(2, 1)
    load = (1 / geometry.dimensions_per_feature(W)).numpy()
    rng = np.random.default_rng(0)

    def judge(rise):
        return judge_vulnerability(W, rise, {"random perturbation": rise, "all models on the same inputs": rise})

    assert outcome(judge(load**2)) == "supported"
    assert outcome(judge(rng.permutation(load))) == "refuted"
    assert outcome(judge(-load)) == "refuted"
    assert outcome(judge(np.ones(30))) in UNDECIDED  # nothing to rank
    assert outcome(judge(load + rng.normal(scale=0.45 * load.std(), size=30))) in UNDECIDED


def test_the_attack_finds_the_worst_direction_of_a_linear_region():
    # Far inside the linear region of its ReLU a model that reconstructs is best attacked along W's largest direction.
    cfg = ToyConfig(n_features=3, d_hidden=3)
    data = SparseUniform(n_features=3, feature_probability=1.0)
    run = train(cfg, data, seeds=[0], steps=1, record_every=1)
    run.weights["W_E"][:] = torch.diag(torch.tensor([1.0, 1.0, 1.2]))
    run.weights["b_U"][:] = torch.tensor([0.0, 0.0, -0.44 * 0.5])
    x = torch.full((64, 3), 0.5)
    most = (0.1 * 1.44) ** 2
    assert 0.9 * most < dimensionality.attack(run, x, 0.1) < 1.0001 * most
    assert dimensionality.attack(run, x, 0.1, steps=0) < 0.8 * most  # a random perturbation does less
