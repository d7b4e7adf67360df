"""Small random models of many architectures: what passes on one is tried on all of them.

A tool that reads weights rests on what it believes of an architecture: where a norm stands, how positions turn a query,
what is multiplied on the way. Models of two layers and 32 dimensions are enough to show a wrong belief, if no parameter
is at the value that it begins with: a gain of 1 or a bias of 0 hides that nobody multiplied or added it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers as hf
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from probes.hooked_module import HookedRootModule
from probes.modules import hook_modules
from tms_hooks.config import ToyConfig
from tms_hooks.models.toy import ToyModel

VOCABULARY, WIDTH, HEADS, KEY_HEADS, MLP, LONGEST = 50, 32, 4, 2, 48, 32

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": MLP,
    "max_position_embeddings": LONGEST,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = _SIZES | {"num_key_value_heads": KEY_HEADS}
_HEAD_DIM = _GROUPED | {"head_dim": 8}
_GPT = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 2, "n_head": HEADS, "n_positions": LONGEST}
_NEO = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_layers": 2,
    "num_heads": HEADS,
    "max_position_embeddings": LONGEST,
}
_EAGER = {"attn_implementation": "eager"}  # Falcon heeds it only when it is made
_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}


def _llama(**rope: Any) -> Any:
    parameters = {"rope_theta": 10_000.0} | rope
    return hf.LlamaForCausalLM(hf.LlamaConfig(**_GROUPED | {"rope_parameters": parameters}))


_OF_TRANSFORMERS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**_GPT)),
    "openai-gpt": lambda: hf.OpenAIGPTLMHeadModel(hf.OpenAIGPTConfig(**_GPT)),
    "gptj": lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**_GPT, rotary_dim=4)),
    "gpt_neo": lambda: hf.GPTNeoForCausalLM(hf.GPTNeoConfig(**_NEO, attention_types=[[["global", "local"], 1]])),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**_SIZES)),
    "gpt_bigcode": lambda: hf.GPTBigCodeForCausalLM(hf.GPTBigCodeConfig(**_GPT)),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(**_SIZES | {"ffn_dim": MLP, "word_embed_proj_dim": WIDTH, "do_layer_norm_before": True})
    ),
    "bloom": lambda: hf.BloomForCausalLM(
        hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=2, n_head=HEADS)
    ),
    "mpt": lambda: hf.MptForCausalLM(
        hf.MptConfig(vocab_size=VOCABULARY, d_model=WIDTH, n_layers=2, n_heads=HEADS, max_seq_len=LONGEST)
    ),
    "falcon": lambda: hf.FalconForCausalLM(hf.FalconConfig(**_SIZES, multi_query=True, **_EAGER)),
    "falcon, ALiBi": lambda: hf.FalconForCausalLM(hf.FalconConfig(**_SIZES, multi_query=False, alibi=True, **_EAGER)),
    "llama": _llama,
    "llama, linear rotary": lambda: _llama(rope_type="linear", factor=2.0),
    "llama, dynamic rotary": lambda: _llama(rope_type="dynamic", factor=2.0),
    "llama, yarn rotary": lambda: _llama(rope_type="yarn", factor=4.0, original_max_position_embeddings=8),
    "llama, llama3 rotary": lambda: _llama(
        rope_type="llama3",
        factor=4.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8,
    ),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**_HEAD_DIM, sliding_window=4)),
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**_GROUPED, **_EXPERTS)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**_GROUPED)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**_HEAD_DIM)),
    "gemma": lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**_HEAD_DIM)),
    # caps low enough to be felt
    "gemma2": lambda: hf.Gemma2ForCausalLM(
        hf.Gemma2Config(**_HEAD_DIM, attn_logit_softcapping=2.0, final_logit_softcapping=5.0, query_pre_attn_scalar=16)
    ),
    "gemma3": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**_HEAD_DIM, layer_types=["sliding_attention", "full_attention"])
    ),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**_SIZES)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**_GROUPED)),
    "phi3, long rotary": lambda: hf.Phi3ForCausalLM(
        hf.Phi3Config(
            **_GROUPED,
            original_max_position_embeddings=16,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 1.0,
                "short_factor": [1.0, 1.5, 2.0, 2.5],
                "long_factor": [2.0, 3.0, 4.0, 5.0],
            },
        )
    ),
    "stablelm": lambda: hf.StableLmForCausalLM(hf.StableLmConfig(**_GROUPED)),
    "starcoder2": lambda: hf.Starcoder2ForCausalLM(hf.Starcoder2Config(**_GROUPED)),
    "olmo": lambda: hf.OlmoForCausalLM(hf.OlmoConfig(**_GROUPED)),
    "olmo, clipped": lambda: hf.OlmoForCausalLM(hf.OlmoConfig(**_GROUPED, clip_qkv=0.5)),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**_GROUPED)),
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**_GROUPED, logit_scale=0.25)),
    "cohere2": lambda: hf.Cohere2ForCausalLM(hf.Cohere2Config(**_HEAD_DIM, sliding_window=4, logit_scale=0.25)),
    "granite": lambda: hf.GraniteForCausalLM(
        hf.GraniteConfig(
            **_GROUPED,
            embedding_multiplier=3.0,
            residual_multiplier=0.3,
            attention_multiplier=0.2,
            logits_scaling=4.0,
        )
    ),
    "granitemoe": lambda: hf.GraniteMoeForCausalLM(
        hf.GraniteMoeConfig(
            **_GROUPED,
            **_EXPERTS,
            embedding_multiplier=3.0,
            residual_multiplier=0.3,
            attention_multiplier=0.2,
            logits_scaling=4.0,
        )
    ),
    "glm": lambda: hf.GlmForCausalLM(hf.GlmConfig(**_HEAD_DIM)),
    "glm4": lambda: hf.Glm4ForCausalLM(hf.Glm4Config(**_HEAD_DIM)),
    "smollm3": lambda: hf.SmolLM3ForCausalLM(hf.SmolLM3Config(**_GROUPED, no_rope_layers=[1, 0])),
    "exaone4": lambda: hf.Exaone4ForCausalLM(hf.Exaone4Config(**_HEAD_DIM, sliding_window=4)),
    "nemotron": lambda: hf.NemotronForCausalLM(hf.NemotronConfig(**_HEAD_DIM)),
    "ernie4.5": lambda: hf.Ernie4_5ForCausalLM(hf.Ernie4_5Config(**_HEAD_DIM)),
    "deepseek-v2": lambda: hf.DeepseekV2ForCausalLM(
        hf.DeepseekV2Config(
            **_SIZES,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_rope_head_dim=4,
            qk_nope_head_dim=4,
            v_head_dim=8,
            n_routed_experts=2,
            n_shared_experts=1,
            moe_intermediate_size=16,
            num_experts_per_tok=1,
            n_group=1,
            topk_group=1,
        )
    ),
    "gpt-oss": lambda: hf.GptOssForCausalLM(hf.GptOssConfig(**_HEAD_DIM, **_EXPERTS, sliding_window=4)),
    "mamba": lambda: hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, state_size=4)
    ),
    # an attention layer behind a convolution; two of attention among what would be recurrent ones
    "lfm2": lambda: hf.Lfm2ForCausalLM(hf.Lfm2Config(**_GROUPED, full_attn_idxs=[1])),
    "recurrent gemma": lambda: hf.RecurrentGemmaForCausalLM(
        hf.RecurrentGemmaConfig(
            **_SIZES | {"num_key_value_heads": 1},
            lru_width=WIDTH,
            attention_window_size=8,
            block_types=["recurrent", "attention"],
        )
    ),
    "xglm": lambda: hf.XGLMForCausalLM(
        hf.XGLMConfig(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            num_layers=2,
            attention_heads=HEADS,
            ffn_dim=MLP,
            max_position_embeddings=LONGEST,
        )
    ),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**_SIZES)),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**_SIZES)),
    "modernbert": lambda: hf.ModernBertForMaskedLM(hf.ModernBertConfig(**_SIZES, cls_token_id=1, sep_token_id=2)),
    "t5": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            d_kv=8,
            d_ff=MLP,
            num_layers=2,
            num_heads=HEADS,
            decoder_start_token_id=0,
        )
    ),
}


class OwnOutput(NamedTuple):
    logits: Tensor
    attentions: list[Tensor]
    hidden_states: list[Tensor]


class OwnTransformer(nn.Module):
    """A transformer written from scratch, its parts named as TransformerLens's native adapter looks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.tok_embed, self.pos = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.layers = nn.ModuleList(_OwnBlock() for _ in range(2))
        self.ln_out, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.tok_embed

    def forward(self, input_ids: Tensor, output_attentions: bool = False, **_: Any) -> Tensor | OwnOutput:
        stream = [self.tok_embed(input_ids) + self.pos(torch.arange(input_ids.shape[1]))]
        patterns = []
        for layer in self.layers:
            stream += layer(stream[-1])
            patterns.append(layer.attn.pattern.detach())
        logits = self.head(self.ln_out(stream[-1]))
        return OwnOutput(logits, patterns, stream) if output_attentions else logits


class _OwnBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.ln2, self.attn = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), _OwnAttention()
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc_in", nn.Linear(WIDTH, MLP))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc_out", nn.Linear(MLP, WIDTH))

    def forward(self, x: Tensor, **_: Any) -> tuple[Tensor]:
        x = x + self.attn(self.ln1(x))[0]
        return (x + self.mlp(self.ln2(x)),)


class _OwnAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        self.pattern = scores.masked_fill(ahead, -torch.inf).softmax(-1)
        return self.o((self.pattern @ v).transpose(1, 2).flatten(2)), self.pattern


try:
    from transformer_lens.model_bridge.sources import build_bridge_from_module
except ImportError:
    HAS_BRIDGES = False  # TransformerLens 3.2, which has `HookedTransformer` instead
else:
    HAS_BRIDGES = True

OWN_IN_A_BRIDGE, HOOKED_TRANSFORMER = "your own transformer in a bridge", "HookedTransformer"
ARCHITECTURES = [*_OF_TRANSFORMERS, OWN_IN_A_BRIDGE] if HAS_BRIDGES else [HOOKED_TRANSFORMER]


class OwnModel(HookedRootModule):
    """A model as somebody may write it, with hooks and weights under the usual names, and no blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.W_E, self.W_U = (torch.nn.Parameter(torch.empty(shape)) for shape in ((6, 3), (3, 6)))
        self.hook_hidden = HookPoint()
        self.setup()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.hook_hidden(x @ self.W_E) @ self.W_U


class PlainModule(nn.Module):
    """A torch module without hook points, and with weights under names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.act, self.decoder = nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.act(self.encoder(x)))


_TOY = {"n_features": 6, "d_hidden": 3}
_OTHERS: dict[str, Callable[[], Any]] = {
    "toy": lambda: ToyModel(ToyConfig(**_TOY)),
    "toy, untied": lambda: ToyModel(ToyConfig(**_TOY, tied=False)),
    "toy, unit norm": lambda: ToyModel(ToyConfig(**_TOY, unit_norm=True)),
    "toy, ReLU in the hidden layer": lambda: ToyModel(ToyConfig(**_TOY, hidden_act="relu")),
    "toy, fewer outputs": lambda: ToyModel(ToyConfig(**_TOY, tied=False, d_out=4)),
    "toy, scale behind the activation": lambda: ToyModel(ToyConfig(**_TOY, unit_norm=True, scale="after")),
    "toy with heads": lambda: ToyModel(ToyConfig(**_TOY, n_heads=3, d_head=2)),
    "toy with heads, biased": lambda: ToyModel(ToyConfig(**_TOY, n_heads=3, d_head=2, head_bias=True)),
    "toy, embed->mlp.in": lambda: ToyModel(ToyConfig(**_TOY, tied=False, d_mlp=5, bottleneck="embed->mlp.in")),
    "toy, mlp.out->unembed": lambda: ToyModel(ToyConfig(**_TOY, tied=False, d_mlp=5, bottleneck="mlp.out->unembed")),
    "toy, residual": lambda: ToyModel(ToyConfig(**_TOY, tied=False, d_mlp=5, n_mlps=2, bottleneck="residual")),
    "toy with heads, residual": lambda: ToyModel(
        ToyConfig(**_TOY, d_mlp=5, bottleneck="residual", n_heads=3, d_head=2, hidden_act="relu")
    ),
    "your own HookedRootModule": OwnModel,
    "a plain torch.nn.Module": lambda: hook_modules(PlainModule()),
}
OTHERS = list(_OTHERS)


class Points(NamedTuple):
    """Where the tools that run a model are tried on one that is no transformer."""

    early: str
    late: str
    weight: str


_OF_TOYS = Points("hook_embed", "hook_unembed", "W_E")
POINTS = dict.fromkeys(OTHERS, _OF_TOYS) | {
    "your own HookedRootModule": Points("hook_hidden", "hook_hidden", "W_E"),
    "a plain torch.nn.Module": Points("encoder.hook_out", "decoder.hook_out", "encoder.weight"),
}


class Facts(NamedTuple):
    """What an architecture does with a head's scores, as its paper or config says."""

    scale: float = 8**-0.5
    cap: float | None = None
    turns: tuple[bool, bool] = (True, True)
    """Whether each layer has rotary positions."""
    biased: bool = False
    """Whether a position bias is added."""
    logit_cap: float | None = None


_STILL = (False, False)
_UNTURNED = (HOOKED_TRANSFORMER, "gpt2", "openai-gpt", "gpt_bigcode", "opt", "xglm", "bert", "roberta", OWN_IN_A_BRIDGE)
FACTS = (
    {name: Facts() for name in ARCHITECTURES}
    | {name: Facts(turns=_STILL) for name in _UNTURNED}
    | {name: Facts(turns=_STILL, biased=True) for name in ("bloom", "mpt", "falcon, ALiBi")}
    | {
        "gpt_neo": Facts(scale=1.0, turns=_STILL),
        "gemma2": Facts(scale=16**-0.5, cap=2.0, logit_cap=5.0),
        "gemma3": Facts(scale=256**-0.5),
        "granite": Facts(scale=0.2),
        "granitemoe": Facts(scale=0.2),
        "phi3, long rotary": Facts(scale=8**-0.5 * (1 + math.log(2) / math.log(16))),
        "recurrent gemma": Facts(logit_cap=30.0),
        "llama, yarn rotary": Facts(scale=8**-0.5 * (0.1 * math.log(4.0) + 1) ** 2),
        "smollm3": Facts(turns=(True, False)),
        "gpt-oss": Facts(scale=8**-0.5 * (0.1 * math.log(32.0) + 1) ** 2),
    }
)


_MADE = _OF_TRANSFORMERS | {
    OWN_IN_A_BRIDGE: OwnTransformer,
    HOOKED_TRANSFORMER: lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**_GPT, tie_word_embeddings=False)),
}


def original(name: str) -> Any:
    """The Hugging Face model of an architecture, every parameter drawn anew: the same at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # weights are drawn from the global generator, and those that are biases stay near it
        model = _MADE[name]()
    draw_anew(model.eval())
    if name != OWN_IN_A_BRIDGE:
        model.set_attn_implementation("eager")
    return model


def build(name: str) -> Any:
    """The bridge of an architecture.

    Raises:
        ValueError: TransformerLens makes no bridge of this architecture.
    """
    model = original(name)
    if name == HOOKED_TRANSFORMER:
        return _hooked_transformer(model)
    if name == OWN_IN_A_BRIDGE:
        from transformer_lens.config import TransformerBridgeConfig

        sizes = {"d_model": WIDTH, "d_head": WIDTH // HEADS, "n_heads": HEADS, "n_layers": 2, "n_ctx": LONGEST}
        cfg = TransformerBridgeConfig(
            **sizes, d_vocab=VOCABULARY, d_mlp=MLP, act_fn="gelu", normalization_type="LN", architecture=None
        )
        return build_bridge_from_module(model, "TransformerLensNative", tl_config=cfg)
    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config)


def _hooked_transformer(model: Any) -> Any:
    """TransformerLens's own transformer, before 4.0, with the weights of a GPT-2."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    sizes = {"d_model": WIDTH, "d_head": WIDTH // HEADS, "n_heads": HEADS, "n_layers": 2, "n_ctx": LONGEST}
    cfg = HookedTransformerConfig(
        **sizes, d_vocab=VOCABULARY, d_mlp=4 * WIDTH, act_fn="gelu_new", normalization_type="LN"
    )
    made = HookedTransformer(cfg, move_to_device=False).eval()
    missing, unexpected = made.load_state_dict(convert_gpt2_weights(model, cfg), strict=False)
    made.unembed.b_U.requires_grad_(False)  # GPT-2 has none to train
    assert not unexpected and all(name.endswith(("mask", "IGNORE", "b_U")) for name in missing)
    return made


def stretching(kind: str) -> Any:
    """A bridge whose rotary frequencies depend on the length of what it reads: beyond 32 positions they stretch."""
    if kind == "dynamic":
        return build("llama, dynamic rotary")
    factors = {"short_factor": [1.0, 1.2, 1.4, 1.6], "long_factor": [2.0, 3.0, 4.0, 5.0]}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": LONGEST} | factors
    sizes = _GROUPED | {"max_position_embeddings": 4 * LONGEST, "original_max_position_embeddings": LONGEST}
    with torch.random.fork_rng():
        model = hf.Phi3ForCausalLM(hf.Phi3Config(**sizes, rope_parameters=rope))
    draw_anew(model)
    model.eval().set_attn_implementation("eager")
    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config)


def other(name: str) -> Any:
    """A toy, or a module that is no transformer, every parameter drawn anew."""
    with torch.random.fork_rng():
        torch.manual_seed(0)  # linear layers draw their biases from the global generator
        model = _OTHERS[name]().eval()
    draw_anew(model)
    if name in ("toy, unit norm", "toy, scale behind the activation"):
        with torch.no_grad():  # as training leaves it
            model.W_E /= model.W_E.norm(dim=-1, keepdim=True)
    return model


def features(name: str, n: int | None = None) -> torch.Tensor:
    """Random features for `other(name)`."""
    shape = (n or 3, 4, 6) if name.startswith("toy with heads") else (n or 12, 6)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def draw_anew(model: torch.nn.Module) -> None:
    """Gains near what they were, weights and biases large enough that scores differ: nothing at its default."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(parameter + 0.3 * noise if parameter.ndim == 1 else 0.3 * noise)


def tokens(n: int = 3, length: int = 5, seed: int = 0) -> torch.Tensor:
    """Random tokens, none of them one that an architecture keeps for padding."""
    return torch.randint(3, VOCABULARY, (n, length), generator=torch.Generator().manual_seed(seed))
