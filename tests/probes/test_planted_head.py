"""A head planted by hand in a random transformer: SVD, slices, patching, probing and weight patching all point at it,
and at nothing where nothing is planted. (A fact planted at a neuron is in `test_planted.py`.)
"""

from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import probes
from probes import Site

pytestmark = pytest.mark.bridge

LAYER, HEAD = 0, 2
QUERIES, KEYS = (7, 17, 27), (9, 19, 29)
"""Tokens whose embeddings are the planted features: the head looks from each query token for its key token."""
FEATURES = ((4, 2), (0, 7), (6, 6))
"""Which directions those are: a row of `left`, a row of `right`, in the order of the singular values."""
STRENGTHS = (0.5, 0.4, 0.3)
ANSWER = 42
ATTENTION = f"blocks.{LAYER}.attn"


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def directions(seed: int) -> Tensor:
    """Eight orthonormal rows without a mean, which the layer norm would take away."""
    noise = randn(64, 8, seed=seed)
    return torch.linalg.qr(noise - noise.mean(0))[0].mT


LEFT, RIGHT = directions(1), directions(2)


@pytest.fixture(scope="module")
def without() -> Any:
    """Random weights, and embeddings that carry the features: the head is as random as the others."""
    model = probes.load_transformer("tiny", seed=0)
    with torch.no_grad():
        for query, key, (left, right) in zip(QUERIES, KEYS, FEATURES, strict=True):
            model.W_E[query], model.W_E[key] = 5 * LEFT[left], 5 * RIGHT[right]
    return model


@pytest.fixture(scope="module")
def planted(without: Any) -> Any:
    """The head attends from each query token to its key token, and says the answer where it found the first key."""
    W_Q, W_K = 0.02 * randn(64, 16, seed=3), 0.02 * randn(64, 16, seed=4)
    for i, (strength, (left, right)) in enumerate(zip(STRENGTHS, FEATURES, strict=True)):
        W_Q[:, i] += strength**0.5 * LEFT[left]
        W_K[:, i] += strength**0.5 * RIGHT[right]
    W_V, W_O = torch.zeros(64, 16), torch.zeros(16, 64)
    W_V[:, 0] = RIGHT[FEATURES[0][1]]
    W_O[0] = 5 * torch.nn.functional.normalize(without.W_U[:, ANSWER], dim=0)
    values = {name: getattr(without.blocks[LAYER].attn, name).detach().clone() for name in ("W_Q", "W_K", "W_V", "W_O")}
    for name, value in (("W_Q", W_Q), ("W_K", W_K), ("W_V", W_V), ("W_O", W_O)):
        values[name][HEAD] = value
    source = {f"{ATTENTION}.{name}": value for name, value in values.items()}
    return probes.patched_copy(without, source, dict.fromkeys(source, HEAD))


def prompts(n: int, key: int | None, seed: int) -> Tensor:
    """Random tokens that end in the first query token; with a key at position 2, or none."""
    tokens = torch.randint(50, 100, (n, 6), generator=torch.Generator().manual_seed(seed))
    tokens[:, -1] = QUERIES[0]
    if key is not None:
        tokens[:, 2] = key
    return tokens


def answer(logits: Tensor) -> Tensor:
    return logits[:, -1, ANSWER] - logits[:, -1, :10].mean(-1)


def test_svd_finds_the_directions_in_that_head_alone(planted: Any, without: Any) -> None:
    found = probes.align(probes.qk_circuit(planted, LAYER, HEAD), LEFT, RIGHT, n_null=200)
    assert list(zip(found.left_features.tolist()[:3], found.right_features.tolist()[:3], strict=True)) == list(FEATURES)
    assert (found.pvalues[:3] < 0.01).all()
    assert found.pvalues[3:].min() > 0.05
    elsewhere = [(planted, i, h) for i in range(2) for h in range(4) if (i, h) != (LAYER, HEAD)]
    for model, layer, head in [*elsewhere, (without, LAYER, HEAD)]:
        omega = probes.qk_circuit(model, layer, head)
        assert probes.align(omega, LEFT, RIGHT, n_null=200).pvalues.min() > 0.05


def test_each_planted_pair_is_one_slice(planted: Any, without: Any) -> None:
    tokens = torch.tensor([[50, 60, key, 70, 80, query] for query, key in zip(QUERIES, KEYS, strict=True)])
    pairs = torch.tensor([[i, 5, 2] for i in range(3)])
    split = probes.attention_slices(planted, tokens, LAYER, HEAD, pairs=pairs, n_null=50)
    assert split.slices.argmax(1).tolist() == [0, 1, 2]
    assert (split.slices.amax(1) > 0.75 * split.scores).all()
    assert (split.needed < split.null_needed.double().quantile(0.05, dim=0)).all()
    random = probes.attention_slices(without, tokens, LAYER, HEAD, pairs=pairs, n_null=50)
    assert random.scores.abs().max() < 0.2 * split.scores.min()


def test_patching_finds_the_head_and_the_place_it_looks_at(planted: Any) -> None:
    clean, corrupted = prompts(8, KEYS[0], seed=5), prompts(8, None, seed=5)
    heads = [Site(hook=f"blocks.{i}.attn.hook_z", pos=-1, head="each") for i in range(2)]
    table = probes.patch_sweep(planted, clean, corrupted, answer, heads)
    best = table.loc[table.recovered.idxmax()]
    assert (best.hook, best["head"]) == (f"{ATTENTION}.hook_z", HEAD)
    assert best.low > 0.9
    assert table.recovered.drop(best.name).abs().max() < 0.1
    places = probes.patch_sweep(planted, clean, corrupted, answer, Site(hook="hook_embed", pos="each"))
    assert places.recovered.idxmax() == 2
    # what the head reads there is the planted direction: one dimension of 64 does it all
    reads = Site(hook=f"{ATTENTION}.hook_in", pos=2, directions=RIGHT[[FEATURES[0][1]]])
    other = Site(hook=f"{ATTENTION}.hook_in", pos=2, directions=RIGHT[[FEATURES[1][1]]])
    subspaces = probes.patch_sweep(planted, clean, corrupted, answer, [reads, other])
    assert subspaces.low[0] > 0.8
    assert abs(subspaces.recovered[1]) < 0.1
    # and through nothing but this head's output
    path = probes.path_patch(
        planted, clean, corrupted, answer, reads, Site(hook=f"{ATTENTION}.hook_z", pos=-1, head=HEAD)
    )
    assert path.recovered[0] == pytest.approx(subspaces.recovered[0], abs=0.1)


def test_where_nothing_is_planted_patching_moves_next_to_nothing(planted: Any, without: Any) -> None:
    clean, corrupted = prompts(8, KEYS[0], seed=5), prompts(8, None, seed=5)
    head = Site(hook=f"{ATTENTION}.hook_z", pos=-1, head=HEAD)
    moved = [
        float(table.metric[0] - table.attrs["corrupted"])
        for table in (probes.patch_sweep(model, clean, corrupted, answer, head) for model in (planted, without))
    ]
    assert abs(moved[1]) < 0.05 * moved[0]


def test_probing_finds_the_head(planted: Any, without: Any) -> None:
    """Which key was there? Any head's output tells, but a probe on all of them relies on the planted one."""
    tokens = torch.cat([prompts(60, KEYS[0], seed=6), prompts(60, KEYS[1], seed=6)])
    target = torch.arange(120) < 60
    hook = f"{ATTENTION}.hook_z"

    def shares(model: Any) -> Tensor:
        row = probes.linear_probe(model, tokens, target, hook, LogisticRegression(max_iter=2000)).loc[hook]
        assert row.low > row.control
        activations = probes.collect_activations(model, tokens, hook)[hook][:, -1]
        used = (row.directions[0].view(4, 16) * activations.std(0)).norm(dim=1)
        return used / used.sum()

    assert shares(planted)[HEAD] > 0.9
    assert shares(without).max() < 0.5


def test_weight_patching_finds_the_head(planted: Any, without: Any) -> None:
    tokens = prompts(8, KEYS[0], seed=7)
    gains = {}
    with torch.no_grad():
        before = answer(without(tokens)).mean()
        for layer in range(2):
            for head in range(4):
                slices = {f"blocks.{layer}.attn.{name}": head for name in ("W_Q", "W_K", "W_V", "W_O")}
                with probes.patch_weights(without, planted, slices):
                    gains[layer, head] = float(answer(without(tokens)).mean() - before)
        assert torch.equal(answer(without(tokens)).mean(), before)
        whole = float(answer(planted(tokens)).mean() - before)
    assert max(gains, key=gains.__getitem__) == (LAYER, HEAD)
    assert gains.pop((LAYER, HEAD)) == pytest.approx(whole, rel=1e-5)
    assert set(gains.values()) == {0.0}
