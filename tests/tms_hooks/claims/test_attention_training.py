"""Claims of `tms_hooks.claims.attention_training`, each in a world where it holds and in some where it is false."""

import numpy as np
import torch
from worlds import MODELS, UNDECIDED, outcomes_of

from tms_hooks import SparseUniform
from tms_hooks.claims import attention_training
from tms_hooks.claims.attention_training import History, Outcome
from tms_hooks.linalg import random_rotations

DATA = SparseUniform(n_features=5, feature_probability=0.5)
RECORDS = 12


def history(orthogonal_from: int, aligned_from: int, W_end: torch.Tensor | None = None) -> History:
    """Columns are orthogonal, and the head's singular vectors the attended features, from these records on."""
    end = torch.eye(5, dtype=torch.float64) if W_end is None else W_end
    start = end + 0.5  # all features in one half of the space
    W = torch.stack([start if record < orthogonal_from else end for record in range(RECORDS)])
    turned = random_rotations(5, 1)[0]
    head = [
        turned * torch.linspace(2, 1, 5) if record < aligned_from else torch.outer(w[0], w[1])
        for record, w in enumerate(W)
    ]
    spread = torch.stack(head)[:, None].expand(RECORDS, MODELS, 5, 5)
    return History(np.arange(RECORDS) * 10, W[:, None].expand(RECORDS, MODELS, 5, 5), spread)


def test_qk_when():
    outcomes = outcomes_of("qk-when")

    def outcome(found):
        return outcomes(found)["later"]

    def judge(*when, **changes):
        same = history(*when, **changes)
        return attention_training.judge_when(dict.fromkeys((0.1, 1.0, 10.0), same), same, DATA)

    after = judge(4, 8)
    assert (outcome(after), after.parts["later"].statistic, after.n_models) == ("supported", 1.0, MODELS)
    assert outcomes(after)["with biases"] == "supported"
    assert after.controls["median step of orthogonality"] == 40
    assert after.controls["median step of alignment"] == 80
    assert after.controls["models aligned with features not attended to"] == 0
    assert outcome(judge(8, 4)) == "refuted"
    together = judge(6, 6)
    assert (outcome(together), together.controls["ties"]) == ("refuted", MODELS)
    assert outcome(judge(4, RECORDS)) == "supported"  # never aligned: later
    assert outcome(judge(RECORDS, 4)) == "refuted"  # never orthogonal
    never = judge(RECORDS, RECORDS)
    assert (outcome(never), never.n_models, never.figures) == ("not measurable", 0, ())
    early, late = history(4, 8), history(8, 4)
    mixed = [torch.cat([a[:, :10], b[:, 10:]], dim=1) for a, b in ((early.W_E, late.W_E), (early.omega, late.omega))]
    half = dict.fromkeys((0.1, 1.0, 10.0), History(early.steps, *mixed))
    assert outcome(attention_training.judge_when(half, half[1.0], DATA)) in UNDECIDED


def test_qk_joint_or_staged():
    outcomes = outcomes_of("qk-joint-or-staged")

    def outcome(found):
        return outcomes(found)["disturbs"]

    octahedron = torch.cat([torch.eye(3), -torch.eye(3)]).double().expand(MODELS, 6, 3)
    data = SparseUniform(n_features=6, feature_probability=0.1)
    dedicated = octahedron.clone()
    dedicated[:, [3, 4]] = 0  # the attended features' partners are given up

    def ended(W_E: torch.Tensor) -> Outcome:
        noise = torch.randn(W_E.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return Outcome(W_E + 1e-3 * noise, W_E[:, 0, :, None] * W_E[:, 1, None], torch.ones(MODELS), torch.ones(MODELS))

    def judge(at_one: torch.Tensor, again: torch.Tensor = octahedron):
        joint = {weight: ended(at_one if weight == 1 else octahedron) for weight in attention_training.LAMBDAS}
        return attention_training.judge_joint(joint, ended(octahedron), ended(again), data)

    moved = judge(dedicated)
    assert outcome(moved) == "supported"
    assert moved.controls["lambda = 1: D_i, attended"] > 0.99
    assert moved.controls["staged: D_i, attended"] < 0.51
    assert outcomes(moved)["lambda = 100"] == "refuted"  # the others are where stages lead
    np.testing.assert_allclose(
        moved.parts["disturbs"].statistic, 4 * 0.5 / 6, atol=1e-2
    )  # four of six features change by 1/2
    assert outcome(judge(octahedron)) == "refuted"
    turned = octahedron @ random_rotations(3, 1)[0]
    assert outcome(judge(turned)) == "refuted"  # a rotation is no other geometry
    assert outcome(judge(dedicated, again=dedicated)) == "refuted"  # other batches do as much
    few = octahedron.clone()
    few[:3] = dedicated[:3]  # 3 of 20: the mean is at the threshold
    assert outcome(judge(few)) in UNDECIDED
