"""Claims of `tms_hooks.claims.untied`, each part in a world where it holds and in one where it is false."""

from math import pi

import numpy as np
import torch
from worlds import MODELS, UNDECIDED, outcomes_of, random_directions, ring

from tms_hooks import theory
from tms_hooks.claims.untied import Directions, judge_pairing, judge_readouts, judge_untied, the_five_feature_algorithm


def turned(degrees: float, models: int = MODELS) -> Directions:
    """Pentagons read this much further round than they are written, so that every feature's own logit is 1."""
    write = ring(5, 5, models=models)
    turn = torch.tensor(degrees * pi / 180)
    rotation = torch.stack([torch.stack([turn.cos(), turn.sin()]), torch.stack([-turn.sin(), turn.cos()])])
    return Directions(write, write @ rotation / turn.cos())


def squeezed() -> torch.Tensor:
    """Pentagons, each turned another way, flattened to half their height."""
    return ring(5, 5) * torch.tensor([1.0, 0.5])


def by_hand() -> Directions:
    return Directions(*(side.expand(MODELS, -1, -1) for side in the_five_feature_algorithm()))


def test_untied_is_better():
    outcomes = outcomes_of("untied-is-better")
    tied = np.linspace(0.16, 0.17, MODELS)
    start = Directions(random_directions(ring(5, 5)), ring(5, 5))

    def judge(untied: float, writes: float = 1.0, sparse: float | None = None, arrangement: Directions | None = None):
        forty = {"tied": 0.895 + 0 * tied, "untied": 0.895 - 0.1 * (1 - untied) + 0 * tied}
        one_hot = {"tied": tied, "untied": untied * tied, "unit-norm writes": writes * tied, "unit-norm reads": tied}
        other = {"tied": tied, "untied": (untied if sparse is None else sparse) * tied}
        models = {"tied": turned(0), "untied": arrangement or by_hand()}
        return judge_untied({"n = 40": forty, "five": one_hot, "sparse": other}, models, start, turned(0))

    found = judge(0.1)
    assert set(outcomes(found).values()) == {"supported"}
    np.testing.assert_allclose(found.controls["median loss, tied = 1: five, untied"], 0.1)
    no_better = outcomes(judge(1.0))
    assert [no_better[part] for part in ("better", "five features", "sparse")] == ["refuted"] * 3
    assert no_better["not with unit norm"] == "does not distinguish"  # nothing is better anyway
    assert outcomes(judge(0.1, writes=0.5))["not with unit norm"] == "refuted"
    assert outcomes(judge(0.1, sparse=1.0))["sparse"] == "refuted"
    assert outcomes(judge(0.1, arrangement=turned(0)))["opposite quadrants"] == "refuted"  # a pentagon has no two lines


def test_write_is_not_read():
    outcomes = outcomes_of("write-is-not-read")

    def judge(models: Directions):
        both = {"2-D": models, "3-D": models}
        return judge_pairing(both, {name: turned(0) for name in both}, {"untrained": both})

    found = judge(turned(50))  # nearer to the next corner's, 72 degrees on
    assert outcomes(found)["5 in 2-D"] == outcomes(found)["9 in 3-D"] == "supported"
    assert outcomes(found)["one to one"] == "refuted"  # all turned together: the wrong pairing has the larger sum
    assert outcomes(judge(turned(30)))["5 in 2-D"] == "refuted"  # turned, but nearer to its own
    assert outcomes(judge(turned(36)))["5 in 2-D"] == "refuted"  # halfway: a tie is no mistake
    half = Directions(*(torch.cat([a[:10], b[:10]]) for a, b in zip(turned(50), turned(0), strict=True)))
    assert outcomes(judge(half))["5 in 2-D"] in UNDECIDED
    dead = turned(50)._replace(read=0.4 * turned(50).read)  # reconstructs 0.4 of each: nothing is learned
    assert outcomes(judge(dead))["5 in 2-D"] == "refuted"
    assert judge(dead).controls["2-D, learned > 0.3"] == 1
    arranged = judge(by_hand())  # each short one's reader is nearest to the writer opposite its neighbor
    assert arranged.parts["one to one"].statistic == 0


def test_readout_is_a_measurement():
    outcomes = outcomes_of("readout-is-a-measurement")
    write = squeezed()

    def judge(read: torch.Tensor, write: torch.Tensor = write):
        models = {"2-D": Directions(write, read), "3-D": Directions(write, read)}
        return judge_readouts(models, {"linear output": {"2-D": Directions(ring(5, 5), ring(5, 5))}})

    dual = judge(2 * theory.dual_frame(write))  # twice: so that more than half of each feature is reconstructed
    assert outcomes(dual)["dual frame"] == "supported"
    np.testing.assert_allclose(dual.controls["dual frame, 2-D"], 1, rtol=1e-5)
    for other in (lambda write: write, theory.pretty_good_measurement):
        assert outcomes(judge(2 * other(write)))["dual frame"] == "refuted"
    assert outcomes(judge(write))["perpendicular"] == "refuted"
    best = judge(theory.one_sided_dual_frame(write))
    assert outcomes(best)["depends on the others"] == "supported"
    pair = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).expand(MODELS, -1, -1)  # two neighbors, told apart by the dual frame
    noise = 1 + 1e-3 * torch.randn(MODELS, 1, 1, generator=torch.Generator().manual_seed(0))
    apart = judge(theory.dual_frame(pair) * noise, pair * noise)
    assert outcomes(apart)["perpendicular"] == "supported"


def test_unlearned_features_do_not_count_as_readouts():
    nothing = {"2-D": Directions(ring(5, 5), 0 * ring(5, 5))}
    found = judge_readouts(nothing, {"linear output": {"2-D": Directions(ring(5, 5), ring(5, 5))}})
    assert outcomes_of("readout-is-a-measurement")(found)["perpendicular"] == "not measurable"
