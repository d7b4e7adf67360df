"""Claims about real embeddings, each part in a world where it holds and in one where it is false."""

import numpy as np
import pytest
import torch
from worlds import outcomes_of

from tms_hooks.claims import vocabularies
from tms_hooks.claims.vocabularies import REMOVED, SETS, counted, from_spectrum, judge_rarer, judge_spectrum

RNG = np.random.default_rng(0)


def test_rarer_tokens_are_shorter():
    outcomes = outcomes_of("rarer-tokens-are-shorter")
    counts = RNG.poisson(np.geomspace(0.5, 50, 200), size=(30, 200))
    p = np.logspace(-1, -3, 20)
    falling = torch.from_numpy(p).sqrt().expand(8, -1)
    random = torch.rand(8, 20, generator=torch.Generator().manual_seed(0))

    def judge(sign: float, toys=falling):
        length = torch.from_numpy(np.geomspace(0.5, 50, 200) ** sign)
        tokens = counted(counts, length[:, None] * torch.tensor([[0.6, 0.8]]).double())
        return judge_rarer({"smollm2": tokens, "minilm": tokens}, p, toys, random)

    assert set(outcomes(judge(0.1)).values()) == {"supported"}
    assert set(outcomes(judge(-0.1, falling.flip(1))).values()) == {"refuted"}


def test_only_tokens_that_were_seen_count():
    tokens = counted(np.array([[4, 9, 0], [0, 1, 2]]), torch.tensor([[1.0], [2.0], [3.0]]))
    assert tokens.norms.tolist() == [2.0]


def test_interference_from_the_spectrum():
    outcomes = outcomes_of("interference-from-the-spectrum")
    predicted = np.linspace(0.2, 0.1, len(REMOVED))
    exact = predicted * (1 + 0.01 * RNG.standard_normal((SETS, len(REMOVED))))

    def judge(measured):
        return judge_spectrum(dict.fromkeys(("smollm2", "minilm"), (measured, predicted)))

    assert set(outcomes(judge(exact)).values()) == {"supported"}
    assert set(outcomes(judge(1.3 * exact)).values()) == {"refuted"}


def test_the_spectrum_of_normal_tokens_is_right():
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(0.2, 2, 120)
    W = torch.randn(4_000, 120, generator=generator) * scale + 3
    measured, predicted = vocabularies.overlaps_of_sets(W)
    assert measured.shape == (SETS, len(REMOVED))
    np.testing.assert_allclose(measured.mean(0)[:6], predicted[:6], rtol=0.05)
    lengths = torch.exp(torch.randn(4_000, 1, generator=generator))  # long tokens weigh on the spectrum, not on cosines
    same, _ = vocabularies.overlaps_of_sets((W - W.mean(0)) * lengths)
    np.testing.assert_allclose(same.mean(0)[0], measured.mean(0)[0], rtol=0.05)
    np.testing.assert_allclose(from_spectrum(np.array([3.0, 0.0])), 1.0)


def test_exclusive_tokens_are_opposite():
    outcomes = outcomes_of("exclusive-tokens-are-opposite")
    kind = np.arange(36) % 3
    windows = (RNG.random((240, 36)) < 0.7) & (np.arange(240)[:, None] % 3 == kind)
    pages = np.column_stack([windows, np.ones(240)]).reshape(20, 12, 37)
    same = kind[:, None] == kind

    def judge(within: float, across: float):
        tokens = vocabularies.Seen(pages.transpose(0, 2, 1) @ pages, np.where(same, within, across))
        return vocabularies.judge_exclusive({"smollm2": tokens, "minilm": tokens})

    assert [*outcomes(judge(0.0, -0.3)).values()] == ["supported"] * 4
    assert [*outcomes(judge(0.0, 0.3)).values()] == ["refuted"] * 2 + ["supported"] * 2
    found = judge(0.5, 0.1)
    assert [*outcomes(found).values()] == ["supported"] * 2 + ["refuted"] * 2
    assert found.controls["pairs, exclusive, minilm"] == 3 * 12 * 12
    assert found.controls["mean cosine, together, minilm"] == pytest.approx(0.5)


def test_the_tokens_that_are_in_most_windows_but_half_are_seen(monkeypatch):
    monkeypatch.setattr(vocabularies, "COMMON", 2)
    monkeypatch.setattr(vocabularies, "WINDOW", 3)
    pages = [np.array([0, 1, 0, 0, 1, 2]), np.array([0, 0, 0, 3, 0])]  # windows 010, 012 and 000, 30
    W_E = torch.tensor([[9.0, 0.0], [3.0, 1.0], [1.0, 1.0], [0.0, 7.0]])
    found = vocabularies.seen(pages, W_E)
    # tokens 1 and 2, and the one that is everywhere; token 0 is in all windows
    assert found.shared.tolist() == [[[2, 1, 2], [1, 1, 1], [2, 1, 2]], [[0, 0, 0], [0, 0, 0], [0, 0, 2]]]
    np.testing.assert_allclose(found.cosines, [[1, -1], [-1, 1]])  # about the mean of the two
