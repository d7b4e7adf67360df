"""An optimizer and a distribution are added in one file each, and both engines train with them."""

import pytest

pytest.importorskip("numba", reason="the fused engine is the optional extra 'fast'")

LION = '''
from dataclasses import dataclass

import torch

from tms_hooks.training.optimizers import OPTIMIZERS, Optimizer


@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms"."""

    betas: tuple[float, float] = (0.9, 0.99)

    def scalars(self, count, lr):
        return *self.betas, lr

    @staticmethod
    def rule(w, gradient, first, second, beta1, beta2, rate):
        mixed = first * beta1 + gradient * (1 - beta1)
        return w - torch.sign(mixed) * rate, first * beta2 + gradient * (1 - beta2), second


OPTIMIZERS["Lion"] = Lion
'''

CHAIN = '''
from dataclasses import dataclass

import torch

from tms_hooks import rng
from tms_hooks.data import DISTRIBUTIONS, Distribution

PER_ROW = 2


@dataclass(frozen=True, kw_only=True)
class Neighbors(Distribution):
    """One feature, anywhere on a ring, and the next: the first is uniform on [0, 1], the second 1."""

    @property
    def numbers(self):
        return [self.n_features]

    def active_probability(self):
        return torch.full((self.n_features,), 2 / self.n_features, dtype=torch.float64)

    def _draw(self, keys, batch):
        u = rng.uniforms(keys, batch, PER_ROW)
        at = (u[..., :1] * self.n_features).long()
        x = torch.zeros(*u.shape[:2], self.n_features, dtype=torch.float64)
        return x.scatter_(2, at, u[..., 1:]).scatter_(2, (at + 1) % self.n_features, 1.0)

    @staticmethod
    def fill(x, numbers, key, first, rows, batch, room):
        n = int(numbers[0])
        for r in range(rows):
            at = int(rng.in_unit(rng.entry(key, (first + r) * PER_ROW)) * n)
            x[at, r] = rng.in_unit(rng.entry(key, (first + r) * PER_ROW + 1))
            x[(at + 1) % n, r] = 1.0

    def _pair_moments(self):
        same = torch.eye(self.n_features, dtype=torch.float64)
        following = same.roll(1, 1)
        second = 4 / 3 * same + (following + following.T) / 2
        return second / self.n_features, (3 / 2 * same + following + following.T / 2) / self.n_features


DISTRIBUTIONS["Neighbors"] = Neighbors
'''

TRAIN = """
import sys

sys.path.insert(0, {folder!r})
import torch
from chain import Neighbors
from lion import Lion

import tms_hooks as tms

data = Neighbors(n_features=5)
x = data.sample(2**16, seed=0, dtype=torch.float64)
torch.testing.assert_close(x.T @ x / len(x), data.second_moment(), rtol=0, atol=0.01)


def train(engine, optimizer):
    cfg = tms.ToyConfig(n_features=5, d_hidden=2)
    settings = dict(steps=30, batch_size=300, dtype="float64", record_every=7, progress=False)
    return tms.train(cfg, data, seeds=range(2), optimizer=optimizer, engine=engine, **settings)


for optimizer in (Lion(lr=1e-2, schedule="cosine"), tms.Adam(lr=1e-2)):
    ours, theirs = train("fused", optimizer), train("torch", optimizer)
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-5, atol=1e-5)
    assert (theirs.history.loss[-1].sum() < 0.9 * theirs.history.loss[0].sum()).item(), "it learns"


class Later(Lion):
    pass


try:
    train("fused", Later())
except ValueError as error:
    print(error)
"""


def test_a_new_optimizer_and_a_new_distribution_run_on_both_engines(tmp_path, run_python):
    (tmp_path / "lion.py").write_text(LION)
    (tmp_path / "chain.py").write_text(CHAIN)
    assert "updates by Later" in run_python(TRAIN.format(folder=str(tmp_path)))
