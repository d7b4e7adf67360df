"""Counter-based random numbers: every draw is a pure function of its key and its index.

The generator is SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") used as a
hash: number `e` of the stream with key `k` is `mix(k + (e + 1) * GAMMA)`, whose halves are two entries of 32 bits.
Nothing is remembered between draws, so a model sees the same data alone or in a crowd, a resumed run continues the same
stream, and any engine that implements these few integer operations sees the same batch on any device.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB


def key(seed: int, step: int) -> int:
    """64-bit key of one batch. Seeds and steps that differ in any bit give unrelated streams.

    >>> key(0, 0) != key(0, 1) != key(1, 0)
    True
    """
    return _mix(_mix(_mix(seed) + step))


def keys(seeds: Sequence[int], step: int, device: torch.device | str = "cpu") -> Int64[Tensor, " model"]:
    """Keys of one step for many seeds."""
    return torch.tensor([_signed(key(seed, step)) for seed in seeds], dtype=torch.int64, device=device)


def streams(seeds: Sequence[int], device: torch.device | str = "cpu") -> Int64[Tensor, " model"]:
    """What the keys of all steps of each seed are made of, by `keys_at`."""
    return torch.tensor([_signed(_mix(seed)) for seed in seeds], dtype=torch.int64, device=device)


def keys_at(streams: Int64[Tensor, " model"], step: Int64[Tensor, ""]) -> Int64[Tensor, " model"]:
    """`keys` of a step that is a tensor, which is asked for nothing.

    >>> keys_at(streams([0, 7]), torch.tensor(17)).equal(keys([0, 7], 17))
    True
    """
    return _mixed(_mixed(streams + step + _signed(GAMMA)) + _signed(GAMMA))


def uniform_bits(keys: Int64[Tensor, " model"], count: int) -> Int64[Tensor, "model {count}"]:
    """`count` uniform integers in [0, 2^32) for each key, two from every 64-bit hash (low half first)."""
    pairs = torch.arange(1, (count + 1) // 2 + 1, dtype=torch.int64, device=keys.device)
    z = _mixed(keys[:, None] + pairs * _signed(GAMMA))
    return z.view(torch.uint32).to(torch.int64)[:, :count]  # the low half first: little-endian


def uniforms(keys: Int64[Tensor, " model"], *shape: int) -> Float[Tensor, "model ..."]:
    """Uniform float64 draws, strictly inside (0, 1), of shape (model, *shape)."""
    count = int(torch.Size(shape).numel())
    return in_unit(uniform_bits(keys, count).to(torch.float64)).unflatten(1, shape)


def entry(key: int, at: int) -> int:
    """Entry number `at` of a key's `uniform_bits`, for loops over single numbers, compiled or not.

    >>> [entry(key(0, 3), at) for at in range(3)] == uniform_bits(keys([0], 3), 3)[0].tolist()
    True
    """
    z = _mix((key + at // 2 * GAMMA) % 2**64)
    return z >> 32 if at % 2 else z & 0xFFFFFFFF


def in_unit(bits: Any) -> Any:
    """32 bits, as a float64 tensor or a single number, become numbers strictly inside (0, 1)."""
    return (bits + 0.5) * 2.0**-32


def to_normal(u: np.ndarray) -> None:
    """Numbers inside (0, 1), of float64, become standard normal ones, their quantiles, in place; for loops too.

    >>> u = np.array([0.5, 0.975])
    >>> to_normal(u); u.round(2).tolist()
    [0.0, 1.96]
    """
    u[:] = torch.special.ndtri(torch.from_numpy(u)).numpy()


def _mix(z: int) -> int:
    """One step of the generator: it adds `GAMMA` itself and then mixes."""
    z = (z + GAMMA) % 2**64
    z = ((z ^ (z >> 30)) * MIX_1) % 2**64
    z = ((z ^ (z >> 27)) * MIX_2) % 2**64
    return z ^ (z >> 31)


def _mixed(z: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """What `_mix` does behind its sum, in place: a fresh tensor for every operation takes twice as long."""
    z.bitwise_xor_(_shift(z, 30)).mul_(_signed(MIX_1))
    z.bitwise_xor_(_shift(z, 27)).mul_(_signed(MIX_2))
    return z.bitwise_xor_(_shift(z, 31))


def _signed(z: int) -> int:
    return z - 2**64 if z >= 2**63 else z


def _shift(z: Int64[Tensor, "*shape"], bits: int) -> Int64[Tensor, "*shape"]:
    """Logical right shift: torch's `>>` on int64 copies the sign bit."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)
