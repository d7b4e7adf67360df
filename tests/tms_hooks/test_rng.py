"""The counter-based generator against Python integers, published vectors and its own promises."""

import pytest
import torch

from tms_hooks import rng

# First outputs of SplitMix64 for two seeds, as published with the reference implementation (splitmix64.c,
# https://prng.di.unimi.it) and on Rosetta Code.
PUBLISHED = {
    1234567: [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ],
    0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC],
}


def splitmix64(state: int, count: int) -> list[int]:
    """The textbook generator: advance a state, hash it."""
    outputs = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & (2**64 - 1)
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        outputs.append(z ^ (z >> 31))
    return outputs


def as_int64(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


@pytest.mark.parametrize("state", PUBLISHED)
def test_published_vectors(state):
    words = PUBLISHED[state]
    assert splitmix64(state, len(words)) == words
    bits = rng.uniform_bits(torch.tensor([state]), 2 * len(words))[0].tolist()
    assert bits == [half for word in words for half in (word & 0xFFFFFFFF, word >> 32)]


@pytest.mark.parametrize("state", [1, 2**31, 2**63, 2**64 - 1, 0xDEADBEEFCAFEF00D])
def test_bits_equal_python_integers_whatever_the_sign_bit(state):
    bits = rng.uniform_bits(torch.tensor([as_int64(state)]), 199)[0].tolist()
    assert bits == [half for word in splitmix64(state, 100) for half in (word & 0xFFFFFFFF, word >> 32)][:199]


def test_key_is_three_nested_hashes():
    def hash_of(z):
        return splitmix64(z % 2**64, 1)[0]

    for seed, step in [(0, 0), (3, 17), (2**63 - 1, 10**6)]:
        assert rng.key(seed, step) == hash_of(hash_of(hash_of(seed) + step))
    assert rng.keys([0, 3], 17).tolist() == [as_int64(rng.key(0, 17)), as_int64(rng.key(3, 17))]


def test_keys_do_not_collide():
    seen = {rng.key(seed, step) for seed in range(100) for step in range(100)}
    assert len(seen) == 100 * 100


def test_a_stream_does_not_depend_on_its_neighbors_or_its_length():
    keys = rng.keys(range(5), 2)
    together = rng.uniform_bits(keys, 100)
    for i in range(5):
        assert torch.equal(rng.uniform_bits(keys[i : i + 1], 100)[0], together[i])
    assert torch.equal(rng.uniform_bits(keys, 37), together[:, :37])


def test_uniforms_are_strictly_inside_the_unit_interval_and_shaped_as_asked():
    u = rng.uniforms(rng.keys([1, 2], 0), 3, 5)
    assert u.shape == (2, 3, 5)
    assert u.dtype == torch.float64
    words = splitmix64(rng.key(1, 0), 8)
    halves = [half for word in words for half in (word & 0xFFFFFFFF, word >> 32)][:15]
    assert u[0].flatten().tolist() == [(half + 0.5) / 2**32 for half in halves]  # exact: 33 bits fit in a float64
    lowest, highest = 0.5 * 2.0**-32, (2**32 - 0.5) * 2.0**-32
    assert 0 < lowest <= u.min() <= u.max() <= highest < 1


def test_bits_are_uniform():
    """Chi-square over 256 bins and the mean of every single bit, n = 2^20 draws."""
    n = 2**20
    bits = rng.uniform_bits(rng.keys([5], 0), n)[0]
    counts = torch.bincount(bits >> 24, minlength=256).double()
    chi2 = float(((counts - n / 256) ** 2 / (n / 256)).sum())
    assert abs(chi2 - 255) < 5 * (2 * 255) ** 0.5  # chi-square: mean 255, variance 510
    for bit in range(32):
        mean = float(((bits >> bit) & 1).double().mean())
        assert abs(mean - 0.5) < 5 * 0.5 / n**0.5  # standard error of a fair coin: 0.5 / sqrt(n)


@pytest.mark.parametrize("other", [(0, 1), (1, 0), (2**62, 0)])
def test_streams_are_uncorrelated(other):
    """Lag-0 correlation of two streams and lag-1 of one: standard error 1 / sqrt(n)."""
    n = 2**18
    u = rng.uniforms(torch.cat([rng.keys([0], 0), rng.keys([other[0]], other[1])]), n) - 0.5
    assert abs(float((u[0] * u[1]).mean() * 12)) < 5 / n**0.5
    assert abs(float((u[0, 1:] * u[0, :-1]).mean() * 12)) < 5 / n**0.5
