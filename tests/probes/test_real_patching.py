"""Patching and probing on real weights: SmolLM2's indirect objects, MiniLM's grammatical number."""

from typing import Any

import pytest
import torch

from probes.activation_patching import patch_sweep
from probes.linear import linear_probe
from probes.models import load_transformer
from probes.sites import Site

pytestmark = pytest.mark.real_weights

NAMES = ["Mary", "John", "Tom", "Anna", "James", "Sarah"]
TEMPLATE = "When {a} and {b} went to the store, {c} gave a drink to"


@pytest.fixture(scope="module")
def smollm2() -> Any:
    return load_transformer("smollm2")


@pytest.fixture(scope="module")
def objects(smollm2: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Six pairs of prompts, token by token alike, and the logit of the clean answer less that of the corrupted one."""
    pairs = [(NAMES[i], NAMES[(i + 1) % len(NAMES)]) for i in range(len(NAMES))]
    clean = torch.cat([smollm2.to_tokens(TEMPLATE.format(a=a, b=b, c=b)) for a, b in pairs])
    corrupted = torch.cat([smollm2.to_tokens(TEMPLATE.format(a=a, b=b, c=a)) for a, b in pairs])
    first, second = (torch.tensor([smollm2.to_single_token(f" {pair[i]}") for pair in pairs]) for i in (0, 1))
    rows = torch.arange(len(pairs))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, -1][rows, first] - logits[:, -1][rows, second]

    return clean, corrupted, metric


def test_the_residual_stream_moves_from_the_second_subject_to_the_end(smollm2: Any, objects: Any) -> None:
    clean, corrupted, metric = objects
    layers = [0, 15, 29]
    sites = [Site(hook=f"blocks.{i}.hook_resid_pre", pos="each") for i in layers]
    table = patch_sweep(smollm2, clean, corrupted, metric, sites)
    assert table.attrs["clean"] > 0 > table.attrs["corrupted"]
    recovered = table.recovered.to_numpy().reshape(len(layers), -1)
    subject = int((clean != corrupted).any(0).nonzero().item())
    end = clean.shape[1] - 1
    assert recovered[0].argmax() == subject
    assert recovered[0, subject] == pytest.approx(1.0, abs=1e-3)
    assert recovered[-1].argmax() == end
    assert recovered[-1, end] > 0.9


def test_a_few_heads_carry_it(smollm2: Any, objects: Any) -> None:
    clean, corrupted, metric = objects
    layers = range(20, 30)
    sites = [Site(hook=f"blocks.{i}.attn.hook_z", pos=-1, head="each") for i in layers]
    table = patch_sweep(smollm2, clean, corrupted, metric, sites)
    top = table.recovered.abs().sort_values(ascending=False)
    best = table.loc[top.index[0]]
    assert best.low > 0 or best.high < 0
    assert top.iloc[0] > 20 * top.median()


def test_minilm_knows_grammatical_number() -> None:
    nouns = ["dog", "car", "tree", "house", "book", "king", "river", "road", "hand", "boat", "bird", "door"]
    nouns += ["cat", "girl", "boy", "cow", "ship", "horse", "stone", "ball", "cup", "bed", "song", "wall"]
    sentences = [f"the {noun}{ending} in the garden" for noun in nouns for ending in ("", "s")]
    model = load_transformer("minilm")
    assert model.to_tokens(sentences).shape[1] == 7
    plural = torch.arange(len(sentences)) % 2
    hooks = [f"blocks.{i}.hook_out" for i in range(6)]
    table = linear_probe(model, model.to_tokens(sentences), plural, hooks, pos=2)
    assert (table.score.iloc[:3] > 0.9).all()  # later layers, which make one vector of the sentence, keep less of it
    assert (table.low > table.baseline).all()
    assert (table.selectivity > 0).all()
    assert (table.baseline <= 0.5).all()
