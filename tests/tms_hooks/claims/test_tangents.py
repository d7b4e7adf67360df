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

    def judge(toys: float, real: float, chance: float = 0.0):
        each = [[world(gap, seed, chance) for seed in range(9)] for gap in (toys, real)]
        return outcomes(tangents.judge_agreement(*each, []))

    assert judge(0.5, 0.3) == {"toys": "supported", "MiniLM": "supported"}
    assert judge(0.5, 0.0) == {"toys": "supported", "MiniLM": "refuted"}
    assert judge(0.0, 0.3) == {"toys": "refuted", "MiniLM": "supported"}
    assert set(judge(0.3, 0.3, chance=0.3).values()) == {"does not distinguish"}  # so do shuffled targets
    nothing = Agreement(*[np.full(10, np.nan)] * 6)
    assert outcomes(tangents.judge_agreement([nothing] * 9, [nothing] * 9, []))["MiniLM"] == "not measurable"


def test_a_toy_whose_tangent_space_is_known():
    # orthogonal features, one active: only its output is on, and its row is the one direction that moves anything
    toy = ToyModel(ToyConfig(n_features=5, d_hidden=5, output_bias=False))
    with torch.no_grad():
        toy.W_E.copy_(torch.eye(5))
    x = torch.cat([torch.eye(5)] * 8)
    found = tangents.agreement(toy, x, x > 0, torch.arange(10), "hook_hidden", "hook_out")
    # the probe of one of five exclusive features is (4, -1, -1, -1, -1): it tells that one from the others
    np.testing.assert_allclose(found.present, 16 / 20, rtol=1e-5)
    np.testing.assert_allclose(found.absent, 1 / 20, rtol=1e-5)
