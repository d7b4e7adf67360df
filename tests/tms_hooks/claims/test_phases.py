"""Claims of `tms_hooks.claims.phases`, each in a world where it holds and in one where it is false."""

import numpy as np
import torch
from worlds import MODELS, outcomes_of, random_directions

from tms_hooks.claims import phases


def axes(learned: int, features: int = 6, hidden: int = 2) -> torch.Tensor:
    """The first features on axes of their own, further ones along them the other way."""
    W = torch.zeros(MODELS, features, hidden)
    for i in range(learned):
        W[:, i, i % hidden] = 1 if i < hidden else -1
    return W


def test_superposition_wide():
    outcomes = outcomes_of("superposition-wide")
    right = {1.0: axes(2), 0.1: axes(3), 0.01: axes(4)}
    linear = dict.fromkeys(right, axes(2))

    def judge(relu, linear=linear):
        return outcomes(phases.judge_rise(relu, dict.fromkeys(relu, 0), linear, 0.1 * axes(2).roll(1, dims=1)))

    assert set(judge(right).values()) == {"supported"}
    assert judge(linear) == {  # the ReLU models do as linear ones
        "linear": "supported",
        "dense": "supported",
        "superposition": "at the threshold",
        "sparser, more": "at the threshold",
    }
    assert judge(right | {0.01: axes(2)})["sparser, more"] == "refuted"  # up and down again
    assert judge(right, right)["linear"] in ("refuted", "too few models")  # linear models superpose
    assert judge(right, {p: W.roll(1, dims=1) for p, W in linear.items()})["linear"] == "refuted"  # not the first two
    assert judge(right, {p: random_directions(W) for p, W in linear.items()})["linear"] == "refuted"  # not orthogonal


def test_important_and_orthogonal():
    outcomes = outcomes_of("important-and-orthogonal")
    right = torch.zeros(MODELS, 6, 3)
    for i, angle in enumerate((0.0, 1.571, 2.0, 2.4, 2.7)):
        right[:, i] = torch.tensor([0.0, np.cos(angle), np.sin(angle)]) if i else torch.tensor([1.0, 0.0, 0.0])
    right = right * (1 + 0.01 * torch.rand(MODELS, 6, 1, generator=torch.Generator().manual_seed(0)))

    def judge(W):
        trained = dict.fromkeys((0.3, 0.1, 0.03, 0.01), W)
        return outcomes(phases.judge_importance(trained, dict.fromkeys(trained, 0)))

    assert set(judge(right).values()) == {"supported"}
    assert judge(right.flip(1))["more orthogonal"] == "refuted"  # the unimportant are
    assert judge(right[:, torch.tensor([4, 3, 2, 1, 0, 5])])["it starts with the others"] == "refuted"
    nobody = judge(0 * right)  # nothing learned: no feature to compare
    assert nobody["it starts with the others"] == "not measurable"


def test_phase_change():
    outcomes = outcomes_of("phase-change")
    density, importance = np.geomspace(0.01, 1, 7), np.geomspace(0.1, 10, 7)
    rows = {
        2: {"extra ignored": [[1.0], [0]], "first ignored": [[0.0], [1]], "antipodal": [[1.0], [-1]]},
        3: {
            "extra ignored": [[1.0, 0], [0, 1], [0, 0]],
            "first ignored": [[0.0, 0], [1, 0], [0, 1]],
            "antipodal": [[1.0, 0], [0, 1], [0, -1]],
            "others antipodal": [[1.0, 0], [-1, 0], [0, 1]],
        },
    }

    def world(n: int, change=lambda names: names) -> phases.Diagrams:
        names = change(phases.theory_diagram(n, density, importance)[0])
        W = torch.tensor([rows[n][name] for name in names.ravel()]).reshape(7, 7, n, n - 1)
        losses = np.ones((8, 2, 7, 7))
        losses[:, 1] = 0.5
        wrong = torch.full_like(W, 0.4)  # the other fit, which costs more, and so does not count
        return losses, torch.stack([wrong, W]).expand(8, 2, *W.shape)

    def judge(two, three):
        return phases.judge_phases({2: two, 3: three}, world(2), density, importance)

    found = judge(world(2), world(3))
    assert set(outcomes(found).values()) == {"supported"}
    assert (found.parts["where theory says"].statistic, found.theory) == (1.0, 1.0)
    assert found.parts["where theory says"].null < 0.7
    assert found.controls["n = 3, single models"] == 0
    rng = np.random.default_rng(0)
    shuffled = judge(*(world(n, lambda names: rng.permutation(names.ravel()).reshape(7, 7)) for n in (2, 3)))
    assert outcomes(shuffled)["where theory says"] == "refuted"
    assert outcomes(judge(world(2), world(3, lambda names: names[::-1])))["where theory says"] == "refuted"
    losses, W = world(2)
    assert outcomes(judge((-losses, W), world(3)))["sharp"] == "refuted"  # norms of 0.4 win


def test_arrangements_have_the_names_of_theory():
    def named(rows):
        return phases.arrangement(torch.tensor(rows))

    assert named([[1.0], [-1.0]]) == "antipodal"
    assert named([[1.0], [0.1]]) == "extra ignored"
    assert named([[0.1], [1.0]]) == "first ignored"
    assert named([[0.1], [0.1]]) == "neither"
    assert named([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]) == "others antipodal"
    assert named([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) == "antipodal"
