"""One fixture for every tool: a toy and a real architecture, so that what passes on one is tried on the other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module

from probes.models import load_transformer
from tms_hooks.config import ToyConfig
from tms_hooks.models.toy import ToyModel


class Subject(NamedTuple):
    """A hooked model and what a test needs to know of it."""

    model: Any
    inputs: Tensor
    """Five examples, no two alike, with a position axis."""
    early: str
    """A live hook "batch pos d_early" before the heads."""
    late: str
    """A live hook "batch pos d_late" after `early`."""


def make_toy() -> Subject:
    cfg = ToyConfig(n_features=6, d_hidden=4, n_heads=2, d_head=3)
    x = torch.rand(5, 3, 6, generator=torch.Generator().manual_seed(1))
    return Subject(ToyModel(cfg, seed=0), x, "hook_hidden", "hook_unembed")


def make_tiny() -> Subject:
    tokens = torch.randint(0, 101, (5, 7), generator=torch.Generator().manual_seed(1))
    return Subject(load_transformer("tiny", seed=0), tokens, "blocks.0.hook_resid_pre", "blocks.1.hook_resid_post")


@pytest.fixture(params=[make_toy, make_tiny], ids=["toy", "tiny"])
def subject(request: pytest.FixtureRequest) -> Subject:
    return request.param()


@pytest.fixture
def toy() -> Subject:
    return make_toy()


@pytest.fixture
def make_bridge() -> Callable[[str], tuple[Any, Tensor]]:
    """Small random transformers of families that differ in how a head scores."""
    return bridge_of


def bridge_of(name: str) -> tuple[Any, Tensor]:
    """A bridge with two layers of four heads, no parameter (gains, biases) at its default; and tokens."""
    import transformers as hf

    sizes = {
        "vocab_size": 50,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    grouped = sizes | {"num_key_value_heads": 2, "head_dim": 8}
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():  # transformers draws its weights from the global generator; below they are drawn anew
        match name:
            case "tiny":
                model = load_transformer("tiny")
            case "gpt2":
                config = hf.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=16)
                model = _bridge(hf.GPT2LMHeadModel(config))
            case "llama":
                model = _bridge(hf.LlamaForCausalLM(hf.LlamaConfig(**grouped)))
            case "gemma":
                model = _bridge(hf.GemmaForCausalLM(hf.GemmaConfig(**grouped)))
            case "neox":
                model = _bridge(hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**sizes)))
            case "bert":
                model = _bridge(hf.BertForMaskedLM(hf.BertConfig(**sizes)))
            case "qwen3":
                model = _bridge(hf.Qwen3ForCausalLM(hf.Qwen3Config(**grouped)))
            case "bloom":
                model = _bridge(hf.BloomForCausalLM(hf.BloomConfig(vocab_size=50, hidden_size=32, n_layer=2, n_head=4)))
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            # gains stay near 1, everything else is drawn anew
            parameter.copy_(1 + 0.2 * noise if (parameter == 1).all() else 0.3 * noise)
    return model, torch.randint(0, 50, (2, 6), generator=generator)


def _bridge(model: Any) -> Any:
    model.eval().set_attn_implementation("eager")
    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
