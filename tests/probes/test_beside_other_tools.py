"""Beside SAELens and nnsight: `make test-compat COMPAT=sae-lens` runs this with both, skipped elsewhere.

Sparse autoencoders are trained by SAELens's own trainer: on a toy of 20 features in 8 dimensions, and on what an MLP of
SmolLM2 writes while it reads this project's README.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

import probes
import tms_hooks as tms

DATA = tms.SparseUniform(n_features=20, feature_probability=0.03)


@pytest.fixture(scope="module")
def toy() -> tms.ToyModel:
    cfg = tms.ToyConfig(n_features=20, d_hidden=8)
    adam = tms.Adam(lr=0.01, schedule="cosine")
    return tms.train(cfg, DATA, seeds=[0], steps=1500, batch_size=256, optimizer=adam, progress=False).models[0]


def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    unit = torch.nn.functional.normalize
    return unit(a.detach(), dim=1) @ unit(b.detach(), dim=1).mT


def dictionary_of(toy: tms.ToyModel) -> Any:
    synthetic = pytest.importorskip("sae_lens.synthetic")
    dictionary = synthetic.FeatureDictionary(toy.cfg.n_features, toy.cfg.d_hidden, initializer=None)
    dictionary.feature_vectors.data = toy.W_E.detach().clone()
    return dictionary


@pytest.fixture(scope="module")
def saved(toy: tms.ToyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an autoencoder that SAELens has trained on what the toy has at `hook_hidden`, and written."""
    sae_lens = pytest.importorskip("sae_lens")
    from sae_lens.synthetic import train_toy_sae

    batches = iter(range(10**9))
    with torch.random.fork_rng():
        torch.manual_seed(0)  # SAELens draws from the global generator
        cfg = sae_lens.StandardTrainingSAEConfig(d_in=8, d_sae=20, l1_coefficient=0.1)
        sae = sae_lens.StandardTrainingSAE(cfg)
        draw = lambda n: DATA.sample(n, seed=7, step=next(batches))  # noqa: E731
        train_toy_sae(sae, dictionary_of(toy), draw, training_samples=1_000_000, batch_size=1024, lr=3e-3)
    folder = tmp_path_factory.mktemp("sae")
    sae.save_model(folder)
    return folder


def test_a_feature_dictionary_of_the_embedding_is_the_hidden_layer(toy):
    x = DATA.sample(256, seed=1, step=0)
    hidden = probes.collect_activations(toy, x, "hook_hidden")["hook_hidden"]
    torch.testing.assert_close(dictionary_of(toy)(x).detach(), hidden, rtol=0, atol=0)


def test_decoder_directions_go_to_align_and_bottleneck(toy, saved):
    from sae_lens import SAE
    from safetensors.torch import load_file

    decoder = load_file(saved / "sae_weights.safetensors")["W_dec"]
    torch.testing.assert_close(SAE.load_from_disk(saved).W_dec.detach(), decoder, rtol=0, atol=0)
    # many features have a latent, no feature has one of as many random directions
    nearest = cosines(toy.W_E, decoder).max(1)
    random = cosines(toy.W_E, torch.randn(20, 8, generator=torch.Generator().manual_seed(0))).max(1).values
    assert (nearest.values > 0.98).sum() >= 6
    assert not (random > 0.98).any()
    # a head that compares feature 0 with feature 5 compares their latents
    first, second = (int(nearest.indices[nearest.values.argsort(descending=True)[i]]) for i in (0, 1))
    query, key = (int(nearest.values.argsort(descending=True)[i]) for i in (0, 1))
    found = probes.align(torch.outer(toy.W_E[query], toy.W_E[key]).detach(), decoder, n_null=200)
    assert (found.left_features.item(), found.right_features.item()) == (first, second)
    assert found.pvalues.item() < 0.05
    # what a latent adds to the hidden layer is read at its feature
    way = probes.Bottleneck("latents->unembed", decoder, toy.W_U.detach().mT)
    assert way.summary()["largest_with"][first] == query
    whole = probes.align(probes.bottleneck(toy, "embed->unembed"), decoder, n_null=20)
    assert whole.left_cosines.shape == (8, 20)


def test_latents_that_were_saved_are_probed_without_the_model(toy, saved, tmp_path):
    from sae_lens import SAE
    from safetensors.torch import load_file, save_file

    x = DATA.sample(400, seed=2, step=0)
    sae = SAE.load_from_disk(saved)
    hidden = probes.collect_activations(toy, x, "hook_hidden")["hook_hidden"]
    with torch.no_grad():
        save_file({"hidden": hidden, "latents": sae.encode(hidden)}, tmp_path / "activations.safetensors")
    table = probes.probe_activations(load_file(tmp_path / "activations.safetensors"), x[:, 0])
    assert table.index.tolist() == ["hidden", "latents"]
    assert (table["score"] > 0.5).all()


LAYER = 3
"""Of SmolLM2, whose MLP's outputs an autoencoder is trained on."""


@pytest.fixture(scope="module")
def smollm2() -> Any:
    pytest.importorskip("sae_lens")
    return probes.load_transformer("smollm2")


@pytest.fixture(scope="module")
def written(smollm2: Any) -> torch.Tensor:
    """What the MLP writes at every token of a text but the first of each 128, on which heads rest."""
    text = Path(__file__, "../../../README.md").resolve().read_text(encoding="utf-8")
    tokens = smollm2.to_tokens(text)[0]
    tokens = tokens[: len(tokens) // 128 * 128].reshape(-1, 128)
    hook = f"blocks.{LAYER}.hook_mlp_out"
    return probes.collect_activations(smollm2, tokens, hook)[hook][:, 1:].flatten(0, 1)


@pytest.fixture(scope="module")
def saved_of_smollm2(written: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import sae_lens
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    generator, batch, steps = torch.Generator().manual_seed(0), 512, 200
    data = (written[torch.randint(len(written), (batch,), generator=generator)] for _ in iter(int, 1))
    constant = {"lr_scheduler_name": "constant", "lr_end": 1e-3, "lr_warm_up_steps": 0, "lr_decay_steps": 0}
    beside = {"n_checkpoints": 0, "checkpoint_path": None, "save_final_checkpoint": False, "autocast": False}
    windows = {"n_restart_cycles": 1, "dead_feature_window": 1000, "feature_sampling_window": 2000}
    trainer_cfg = SAETrainerConfig(
        total_training_samples=batch * steps, train_batch_size_samples=batch, lr=1e-3, device="cpu",
        adam_beta1=0.9, adam_beta2=0.999, n_batches_for_norm_estimate=10,
        logger=LoggingConfig(log_to_wandb=False), **constant, **beside, **windows,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)  # SAELens draws from the global generator
        cfg = sae_lens.TopKTrainingSAEConfig(d_in=576, d_sae=512, k=32, normalize_activations="none")
        sae = sae_lens.TopKTrainingSAE(cfg)
        SAETrainer(cfg=trainer_cfg, sae=sae, data_provider=data).fit()
    folder = tmp_path_factory.mktemp("sae")
    sae.save_model(folder)
    return folder


@pytest.mark.real_weights
def test_an_autoencoder_of_smollm2_goes_to_align_and_bottleneck(smollm2, written, saved_of_smollm2):
    from sae_lens import SAE
    from safetensors.torch import load_file

    decoder = load_file(saved_of_smollm2 / "sae_weights.safetensors")["W_dec"]
    sae = SAE.load_from_disk(saved_of_smollm2)
    torch.testing.assert_close(sae.W_dec.detach(), decoder, rtol=0, atol=0)
    with torch.no_grad():
        latents = sae.encode(written)
        missed = (sae.decode(latents) - written).square().sum() / (written - written.mean(0)).square().sum()
    assert missed < 0.5  # of the variance, with 32 of 512 latents
    often = (latents > 0).sum(0).argsort(descending=True)[:8]
    directions = decoder[often]
    # where latents stand among what the MLP can write, and what they are read as
    path = f"blocks.{LAYER}.mlp.out->unembed"
    found = probes.align(probes.bottleneck(smollm2, path), directions, n_null=20)
    assert found.left_cosines.shape == (576, 8)
    assert found.directions().loc["left"].cosine.between(0, 1).all()
    read = probes.Bottleneck("latents->unembed", directions, smollm2.W_U.detach().mT).summary()
    tokens = probes.nearest_tokens(smollm2, directions, n=1)
    assert len(read) == 8
    assert len(tokens) == 16
    # a patch along the directions of latents does what the same patch does through the autoencoder's own arithmetic
    clean, corrupted = (smollm2.to_tokens(f"The {word} is") for word in ("sky", "sea"))
    metric = lambda logits: logits[:, -1, 0] - logits[:, -1, 9]  # noqa: E731
    hook = f"blocks.{LAYER}.hook_mlp_out"
    table = probes.patch_sweep(smollm2, clean, corrupted, metric, probes.Site(hook, directions=directions))
    source = probes.collect_activations(smollm2, clean, hook)[hook]
    onto = torch.linalg.pinv(directions) @ directions
    with torch.no_grad():
        edit = lambda value, hook: value + (source - value) @ onto  # noqa: E731
        expected = metric(smollm2.run_with_hooks(corrupted, fwd_hooks=[(hook, edit)]))
    assert table.metric.item() == pytest.approx(float(expected), abs=1e-3)
    # and which of them does a later head compare?
    omega = probes.qk_circuit(smollm2, LAYER + 1, 0, offset=1)
    assert probes.align(omega, directions, n_null=20).pvalues.isfinite().all()


def test_edits_of_nnsight_are_those_of_hooks():
    """On an untrained toy: nnsight wraps any module, and its edit at a hook point is a hook's."""
    nnsight = pytest.importorskip("nnsight")
    toy, x = tms.ToyModel(tms.ToyConfig(n_features=20, d_hidden=8), seed=0), DATA.sample(16, seed=3, step=0)
    wrapped = nnsight.NNsight(toy)
    with wrapped.trace(x):
        hidden = wrapped.hook_hidden.output.save()
        wrapped.hook_hidden.output = wrapped.hook_hidden.output / 2
        edited = wrapped.output.save()
    torch.testing.assert_close(hidden, probes.collect_activations(toy, x, "hook_hidden")["hook_hidden"], rtol=0, atol=0)
    hooked = toy.run_with_hooks(x, fwd_hooks=[("hook_hidden", lambda value, hook: value / 2)])
    torch.testing.assert_close(edited, hooked, rtol=0, atol=0)
    assert not torch.allclose(edited, toy(x))
