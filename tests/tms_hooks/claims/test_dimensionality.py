"""Claims of `tms_hooks.claims.dimensionality`, each in a world where it holds and in one where it is false."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch
from worlds import outcomes_of, random_directions

from tms_hooks.claims import dimensionality
from tms_hooks.claims.dimensionality import judge_sticky, judge_vulnerability
from tms_hooks.geometry.polytopes import ideal_polytopes

SEEDS = 12


def tegum(*names: str) -> torch.Tensor:
    """One model: these polytopes, each in dimensions of its own."""
    shapes = {name: V for k in range(1, 10) for name, V in ideal_polytopes(k).items()}
    return torch.block_diag(*(shapes[name].float() for name in names))


def pad(W: torch.Tensor, features: int = 27, hidden: int = 13) -> torch.Tensor:
    return torch.nn.functional.pad(W, (0, hidden - W.shape[1], 0, features - W.shape[0]))


def test_sticky_dimensionality():
    # D_i of 3/4, 2/3, 2/5 twice, 3/8 and 1/2; D* near 1/2
    outcomes = outcomes_of("sticky-dimensionality")
    all_values = ("tetrahedron", "triangle", "pentagon", "pentagon", "square antiprism", "digon")
    dense, half, many = pad(torch.eye(13)), pad(tegum(*["digon"] * 13)), pad(tegum(*all_values))
    between = 1.15 * dense  # D* of 3/4
    densities = np.geomspace(1, 0.05, 8)
    right = [dense, dense, dense, between, half, half, many, many]

    def judge(models):
        return outcomes(judge_sticky(densities, torch.stack(models).expand(SEEDS, -1, -1, -1)))

    assert set(judge(right).values()) == {"supported"}
    at_random = judge([random_directions(W, i) for i, W in enumerate(right)])
    assert {at_random[f"D_i at {name}"] for name in dimensionality.WIDTHS} == {"refuted"}
    drifting = [(1 - i / 12) ** -0.5 * dense for i in range(8)]  # D* passes by 1 and 1/2 at the same pace
    passing = judge_sticky(densities, torch.stack(drifting).expand(SEEDS, -1, -1, -1)).parts["D* at 1/2"]
    np.testing.assert_allclose(passing.statistic, 0.5, atol=0.05)
    for wrong in set(all_values) - {"digon"}:
        off = pad(tegum(*(name for name in all_values if name != wrong)))
        value = {"tetrahedron": "3/4", "triangle": "2/3", "pentagon": "2/5", "square antiprism": "3/8"}[wrong]
        assert judge([*right[:6], off, off])[f"D_i at {value}"] == "refuted"  # absent, and no cluster
    beside = pad(tegum(*(name for name in all_values if name != "tetrahedron")))
    beside[-2:, -1] = torch.tensor([1.0, 0.6236])  # a lopsided digon: D_i of 0.72, near 3/4 and not at it
    assert judge([*right[:6], beside, beside])["D_i at 3/4"] == "refuted"


def test_windows_are_apart():
    levels = [(float(Fraction(name)), width) for name, width in dimensionality.WIDTHS.items()]
    spans = sorted((v - 2 * w, v + 2 * w) for v, w in levels)
    assert all(high <= low for (_, high), (low, _) in pairwise(spans))


def test_adversarial_vulnerability():
    outcomes = outcomes_of("adversarial-vulnerability")
    rng = np.random.default_rng(0)
    load = np.linspace(1, 3, 10) * rng.uniform(0.99, 1.01, (SEEDS, 10))
    flat = np.ones((SEEDS, 10)) + 0.01 * rng.normal(size=(SEEDS, 10))

    def judge(own, same, null=flat):
        densities = np.geomspace(1, 0.05, 10)
        each = [{"worst": worst, "random": null} for worst in (own, same)]
        return outcomes(judge_vulnerability(densities, load, *each, flat))

    assert set(judge(2 * load, 2 * load).values()) == {"supported"}
    assert judge(2 * load, flat)["on the same inputs"] == "refuted"  # it was the inputs
    wrong = judge(3 - load, 2 * load)
    assert (wrong["tracks"], wrong["more than three times"]) == ("refuted", "refuted")
    assert judge(2 * load, 2 * load, null=load)["tracks"] == "does not distinguish"


def test_the_attack_on_a_model_without_superposition_is_the_square_of_its_norm():
    x = torch.rand(32, 4, generator=torch.Generator().manual_seed(0))
    dedicated = torch.eye(4)[:, :3]
    np.testing.assert_allclose(dimensionality.attack(dedicated, torch.zeros(4), x), 1, rtol=1e-4)
    longer = torch.diag(torch.tensor([1.0, 1.0, 1.2, 0.0]))  # its own square is 1.44
    assert dimensionality.attack(longer, torch.zeros(4), x) > 2
    assert dimensionality.attack(longer, torch.zeros(4), x, "random") < 1
