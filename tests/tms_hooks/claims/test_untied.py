"""Claims of `tms_hooks.claims.untied`, each in a world where it holds and in one where it is false."""

from math import pi

import numpy as np
import torch
from worlds import MODELS, UNDECIDED, outcome_of, ring

from tms_hooks import theory
from tms_hooks.claims.untied import Directions, judge_pairing, judge_readouts, judge_untied


def turned(degrees: float, models: int = MODELS) -> Directions:
    """Pentagons read this much further round than they are written, so that every feature's own logit is 1."""
    write = ring(5, 5, models=models)
    turn = torch.tensor(degrees * pi / 180)
    rotation = torch.stack([torch.stack([turn.cos(), turn.sin()]), torch.stack([-turn.sin(), turn.cos()])])
    return Directions(write, write @ rotation / turn.cos())


def squeezed() -> torch.Tensor:
    """Pentagons, each turned another way, flattened to half their height."""
    return ring(5, 5) * torch.tensor([1.0, 0.5])


def test_untied_is_better():
    outcome = outcome_of("untied-is-better")
    tied = np.linspace(1.0, 1.1, MODELS)
    pictures = {"untied": turned(0)}

    def judge(untied: float, writes: float = 1.0, reads: float = 1.0, sparse: float | None = None):
        arms = {
            "tied": tied,
            "untied": untied * tied,
            "unit-norm writes": writes * tied,
            "unit-norm reads": reads * tied,
        }
        other = arms | ({} if sparse is None else {"untied": sparse * tied})
        return judge_untied({"one-hot": arms, "sparse": other}, pictures)

    found = judge(0.5)
    assert (outcome(found), found.statistic) == ("supported", 1.0)
    np.testing.assert_allclose(found.controls["median loss, tied = 1: one-hot, untied"], 0.5)
    assert outcome(judge(1.0)) == "refuted"  # no better
    assert outcome(judge(0.97)) == "refuted"  # not by 5 %
    assert outcome(judge(0.5, writes=0.5)) == "refuted"  # better even with unit-norm writes
    assert outcome(judge(0.5, reads=0.5)) == "refuted"
    assert outcome(judge(0.5, sparse=1.0)) == "refuted"  # one kind of data is enough


def test_write_is_not_read():
    outcome = outcome_of("write-is-not-read")

    def judge(models: Directions, other: Directions | None = None):
        return judge_pairing({"2-D": models, "3-D": other or models}, {"tied": {"2-D": turned(0)}})

    found = judge(turned(50))  # nearer to the next corner's, 72 degrees on
    assert (outcome(found), found.statistic) == ("supported", 1.0)
    assert found.controls["tied"] == 0
    assert outcome(judge(turned(30))) == "refuted"  # turned, but nearer to its own
    assert outcome(judge(turned(36))) == "refuted"  # halfway: a tie is no mistake
    assert outcome(judge(turned(50), turned(0))) == "refuted"  # one setting is enough
    half = Directions(*(torch.cat([a[:10], b[:10]]) for a, b in zip(turned(50), turned(0), strict=True)))
    assert outcome(judge(half)) in UNDECIDED
    dead = turned(50)._replace(read=0.4 * turned(50).read)  # reconstructs 0.4 of each: nothing is learned
    assert outcome(judge(dead)) == "refuted"
    assert judge(dead).controls["learned > 0.3"] == 1


def test_readout_is_a_measurement():
    outcome = outcome_of("readout-is-a-measurement")
    write = squeezed()

    def judge(read: torch.Tensor):
        models = {"2-D": Directions(write, read), "3-D": Directions(write, read)}
        return judge_readouts(models, {"untrained": models})

    found = judge(2 * theory.dual_frame(write))  # twice: so that more than half of each feature is reconstructed
    assert (outcome(found), found.statistic) == ("supported", 1.0)
    np.testing.assert_allclose(found.controls["dual frame, 2-D"], 1, rtol=1e-5)
    for other in (lambda write: write, theory.pretty_good_measurement):
        assert outcome(judge(2 * other(write))) == "refuted"
    assert judge(theory.one_sided_dual_frame(write)).controls["one-sided dual frame, 2-D"] > 0.999
    pentagon = ring(5, 5)  # a tight frame: all measurements are one
    assert outcome(judge_readouts({"2-D": Directions(pentagon, pentagon)}, {})) == "refuted"


def test_unlearned_features_do_not_count_as_readouts():
    found = judge_readouts({"2-D": Directions(ring(5, 5), 0 * ring(5, 5))}, {})
    assert found.statistic == 0
