"""A fact planted at one neuron of a random transformer is found by probing, patching and weight patching alike."""

from typing import Any

import pytest
import torch

from probes.activation_patching import patch_sweep
from probes.activations import collect_activations
from probes.attribution import attribution_sweep
from probes.linear import linear_probe
from probes.sites import Site
from probes.transformers import load_transformer
from probes.weight_patching import patch_weights

pytestmark = pytest.mark.bridge

LAYER, NEURON, SUBJECT, ANSWER = 1, 137, 17, 42
MLP = f"blocks.{LAYER}.mlp"


def prompts(n: int, last: int | None = None, seed: int = 0) -> torch.Tensor:
    """Random tokens without the subject, which comes last if asked for."""
    tokens = torch.randint(0, 100, (n, 6), generator=torch.Generator().manual_seed(seed))
    tokens[tokens == SUBJECT] = 100
    if last is not None:
        tokens[:, -1] = last
    return tokens


def at_last(model: Any, tokens: torch.Tensor, hook: str) -> torch.Tensor:
    return collect_activations(model, tokens, hook)[hook][:, -1]


def answer(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, ANSWER] - logits[:, -1, :10].mean(-1)


@pytest.fixture(scope="module")
def planted() -> Any:
    """The neuron fires on the subject alone and writes the answer."""
    model = load_transformer("tiny", seed=0)
    subject, others = (at_last(model, prompts(64, last), f"{MLP}.hook_in") for last in (SUBJECT, None))
    direction = subject.mean(0) - others.mean(0)
    high, low = (subject @ direction).mean(), (others @ direction).mean()
    mlp = model.blocks[LAYER].mlp
    with torch.no_grad():
        gain = 8 / (high - low)
        mlp.W_in[:, NEURON] = gain * direction
        mlp.b_in[NEURON] = -gain * (high + low) / 2
        mlp.W_out[NEURON] = model.W_U[:, ANSWER] / model.W_U[:, ANSWER].norm() * 3
    return model


def test_it_does_what_was_planted(planted: Any) -> None:
    fires = at_last(planted, prompts(32, SUBJECT, seed=1), f"{MLP}.hook_post")[:, NEURON]
    rests = at_last(planted, prompts(32, seed=1), f"{MLP}.hook_post")[:, NEURON]
    assert fires.quantile(0.1) > 1.5
    assert rests.quantile(0.9) < 0.5
    assert (planted(prompts(8, SUBJECT, seed=1))[:, -1].argmax(-1) == ANSWER).all()


def test_probing_finds_the_neuron(planted: Any) -> None:
    tokens = torch.cat([prompts(60, SUBJECT, seed=2), prompts(60, seed=2)])
    table = linear_probe(planted, tokens, torch.arange(120) < 60, f"{MLP}.hook_post")
    row = table.loc[f"{MLP}.hook_post"]
    assert row.low > 0.9
    assert row.control < 0.7
    spread = at_last(planted, tokens, f"{MLP}.hook_post").std(0)
    assert (row.directions[0] * spread).argmax() == NEURON


def test_patching_finds_the_neuron_both_ways(planted: Any) -> None:
    clean, corrupted = prompts(8, SUBJECT, seed=3), prompts(8, seed=3)
    sites = Site(hook=f"{MLP}.hook_post", pos=-1, unit="each")
    there = patch_sweep(planted, clean, corrupted, answer, sites)
    assert there.recovered.idxmax() == NEURON
    assert there.low[NEURON] > 0.5
    assert there.recovered.drop(NEURON).abs().max() < 0.1
    back = patch_sweep(planted, clean, corrupted, answer, sites, patch="corrupted->clean")
    assert back.recovered.idxmin() == NEURON
    ablated = patch_sweep(planted, clean, corrupted, answer, sites, patch="zero")
    assert ablated.recovered.idxmin() == NEURON
    assert attribution_sweep(planted, clean, corrupted, answer, sites).recovered.idxmax() == NEURON


def test_patching_finds_the_place(planted: Any) -> None:
    table = patch_sweep(planted, prompts(8, SUBJECT, seed=3), prompts(8, seed=3), answer)
    mlps = table[table.hook.str.endswith("hook_mlp_out")]
    best = mlps.loc[mlps.recovered.idxmax()]
    assert (best.hook, best.pos) == (f"blocks.{LAYER}.hook_mlp_out", 5)


def test_weight_patching_finds_the_neuron(planted: Any) -> None:
    recipient, tokens = load_transformer("tiny", seed=0), prompts(8, SUBJECT, seed=3)
    gains = []
    for neuron in range(256):
        slices = {f"{MLP}.W_in": (..., neuron), f"{MLP}.b_in": neuron, f"{MLP}.W_out": neuron}
        with torch.no_grad(), patch_weights(recipient, planted, slices):
            gains.append(answer(recipient(tokens)).mean())
    gain = torch.stack(gains) - answer(recipient(tokens)).mean().detach()
    assert gain.argmax() == NEURON
    assert (gain != 0).nonzero().flatten().tolist() == [NEURON]  # all else is as it was
