"""The claim on probes and tangent spaces, in worlds where it holds and in worlds where it is false."""

import numpy as np
import torch
from worlds import outcomes_of

from tms_hooks import ToyConfig
from tms_hooks.claims import tangents
from tms_hooks.claims.tangents import Agreement
from tms_hooks.models.toy import ToyModel


def test_probes_and_tangents():
    outcomes = outcomes_of("probes-and-tangents")

    def world(gap: float, seed: int, chance: float = 0.0) -> Agreement:
        absent = np.random.default_rng(seed).uniform(0.15, 0.25, size=10)
        return Agreement(absent + gap, absent, absent + chance, absent, absent, absent)

    def judge(toys: float, real: float, added: float, chance: float = 0.0):
        each = [[world(gap, seed, chance) for seed in range(9)] for gap in (toys, real, added)]
        return [*outcomes(tangents.judge_agreement(*each, [])).values()]

    assert judge(0.5, 0.3, 0.0) == ["supported", "supported", "refuted"]
    assert judge(0.5, 0.0, 0.3) == ["supported", "refuted", "supported"]
    assert judge(0.0, 0.3, 0.3) == ["refuted", "supported", "supported"]
    assert set(judge(0.3, 0.3, 0.3, chance=0.3)) == {"does not distinguish"}  # so do shuffled targets
    nothing = Agreement(*[np.full(10, np.nan)] * 6)
    assert outcomes(tangents.judge_agreement(*[[nothing] * 9] * 3, []))["MiniLM"] == "not measurable"


def test_a_toy_whose_tangent_space_is_known():
    # orthogonal features, one active: only its output is on, and its row is the one direction that moves anything
    toy = ToyModel(ToyConfig(n_features=5, d_hidden=5, output_bias=False))
    with torch.no_grad():
        toy.W_E.copy_(torch.eye(5))
    x = torch.cat([torch.eye(5)] * 8)
    [found] = tangents.agreements(toy, x, x > 0, torch.arange(10), "hook_hidden", "hook_out")
    # of the output less the input: nothing is left of what is on, and the others are taken away
    _, less = tangents.agreements(toy, x, x > 0, torch.arange(10), "hook_hidden", "hook_out", added=True)
    np.testing.assert_allclose(less.present, 1 / 20, rtol=1e-5)
    # the probe of one of five exclusive features is (4, -1, -1, -1, -1): it tells that one from the others
    np.testing.assert_allclose(found.present, 16 / 20, rtol=1e-5)
    np.testing.assert_allclose(found.absent, 1 / 20, rtol=1e-5)
