"""One fixture for every tool: a toy and a real architecture, so that what passes on one is tried on the other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from probes.sites import Site
from probes.transformers import load_transformer
from tms_hooks.config import ToyConfig
from tms_hooks.models.toy import ToyModel


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is about bridges alone where the tiny model is a `HookedTransformer`: beside TransformerLens 3.2."""
    if _tiny_is_a_bridge():
        return
    for item in items:
        if item.get_closest_marker("bridge"):
            item.add_marker(pytest.mark.skip(reason="about names and planted weights of a bridge"))


def _tiny_is_a_bridge() -> bool:
    try:
        from transformer_lens.model_bridge.sources import boot_native  # noqa: F401
    except ImportError:
        return False
    return True


class Subject(NamedTuple):
    """A hooked model and what a test needs to know of it."""

    model: Any
    inputs: Tensor
    """Five examples, no two alike, with a position axis."""
    early: str
    """A live hook "batch pos d_early" before the heads; all that it does to the output goes through `waist`."""
    late: str
    """A live hook "batch pos d_late" after `early`, no linear function of it."""
    waist: str
    """A hook between the two."""
    metric: Callable[[Any], Tensor]
    """Output -> one number per example."""
    sites: list[Site]
    """Of many kinds, in no order; directions are float64."""
    slices: dict[str, Any]
    """Parts of parameters that the output on `inputs` depends on."""
    draw: Callable[[int, int], Tensor]
    """Examples like the inputs: `draw(number, seed)`."""
    make: Callable[[int], Any]
    """The model of a seed; no parameter of one equals another's."""


def directions(width: int) -> Tensor:
    return torch.randn(2, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def make_toy() -> Subject:
    cfg = ToyConfig(n_features=6, d_hidden=4, n_heads=2, d_head=3, d_mlp=8, bottleneck="mlp.out->unembed")

    def make(seed: int) -> ToyModel:
        model = ToyModel(cfg, seed=seed)
        with torch.no_grad():
            model.b_U += 0.1 * seed  # biases start at zero in every model
        return model

    def draw(n: int, seed: int) -> Tensor:
        return torch.rand(n, 3, 6, generator=torch.Generator().manual_seed(seed))

    def metric(out: Any) -> Tensor:
        return out.reconstruction[:, 1, 2] + out.reconstruction[:, 0].sum(-1) + out.attn_scores[:, :, 0, 2].sum(1)

    sites = [
        Site(hook="hook_hidden", pos="each", unit="each"),
        Site(hook="hook_hidden", directions=directions(4)),
        Site(hook="hook_unembed"),
        Site(hook="blocks.0.attn.hook_q", pos=-1, head="each"),
        Site(hook="blocks.0.attn.hook_attn_scores", head=1, pos=0, unit=2),
        Site(hook="hook_embed", pos=1),
        Site(hook="blocks.0.mlp.hook_post", unit=3),
    ]
    slices = {"W_E": 3, "b_U": slice(1, 3), "blocks.0.attn.W_Q": 1, "blocks.0.mlp.W_in": (..., slice(0, 3))}
    return Subject(make(0), draw(5, 1), "hook_embed", "hook_unembed", "hook_hidden", metric, sites, slices, draw, make)


def make_tiny() -> Subject:
    def draw(n: int, seed: int) -> Tensor:
        return torch.randint(0, 101, (n, 7), generator=torch.Generator().manual_seed(seed))

    def make(seed: int) -> Any:
        return load_transformer("tiny", seed=seed)

    sites = [
        Site(hook="blocks.1.attn.hook_z", pos="each", head="each"),
        Site(hook="blocks.0.hook_resid_pre", pos="each"),
        Site(hook="blocks.1.mlp.hook_post", pos=-1, unit=7),
        Site(hook="blocks.0.hook_mlp_out", directions=directions(64)),
        Site(hook="blocks.0.attn.hook_pattern", head=2, pos=3, unit=0),
        Site(hook="ln_final.hook_normalized", pos=6),
        Site(hook="unembed.hook_out", pos=6, unit=3),
        Site(hook="hook_embed", pos=0),
    ]
    inputs = draw(5, 1)
    slices = {
        "W_E": inputs[0, :2].tolist(),
        "blocks.0.attn.W_Q": 2,
        "blocks.1.mlp.W_out": slice(4, 9),
        "blocks.1.mlp.W_in": (..., 7),
    }
    early, late, waist = "blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.1.hook_resid_pre"
    return Subject(
        make(0), inputs, early, late, waist, lambda out: out[:, -1, 3] - out[:, -1, 4], sites, slices, draw, make
    )


@pytest.fixture(params=[make_toy, make_tiny], ids=["toy", "tiny"])
def subject(request: pytest.FixtureRequest) -> Subject:
    return request.param()


@pytest.fixture
def toy() -> Subject:
    return make_toy()


@pytest.fixture
def tiny() -> Subject:
    return make_tiny()


@pytest.fixture
def make_bridge() -> Callable[[str], tuple[Any, Tensor]]:
    """Small random transformers of families that differ in how a head scores."""
    return bridge_of


@pytest.fixture
def as_bridge() -> Callable[[Any], Any]:
    """Hugging Face model -> bridge; skips the test where TransformerLens cannot."""
    return _bridge


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
                if not _tiny_is_a_bridge():
                    pytest.skip("the tiny model is no bridge here")
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
    try:
        from transformer_lens.model_bridge.sources import build_bridge_from_module
    except ImportError:
        pytest.skip("TransformerLens 3.2 makes no bridge of a Hugging Face model in memory")
    model.eval().set_attn_implementation("eager")
    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config)
