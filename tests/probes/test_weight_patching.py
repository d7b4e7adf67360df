"""Weights: patched slices act, come from the donor, and go away; initial states are patched with their controls."""

from copy import deepcopy
from typing import Any

import pytest
import torch

import tms_hooks as tms
from probes.hooked import output_tensors
from probes.transformers import load_transformer
from probes.weight_patching import init_patching, patch_weights, patched_copy
from tests.probes import zoo

CFG = tms.ToyConfig(n_features=6, d_hidden=2)


def toy(seed: int) -> Any:
    model = tms.ToyModel(CFG, seed=seed)
    with torch.no_grad():
        model.b_U += seed  # biases start at zero in every model
    return model


def tiny(seed: int) -> Any:
    return load_transformer("tiny", seed=seed)


@pytest.fixture
def case(subject: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Recipient, donor, inputs, slices."""
    return subject.model, subject.make(1), subject.inputs, subject.slices


def outputs(model: Any, inputs: Any) -> list[torch.Tensor]:
    return [out.detach() for out in output_tensors(model(inputs))]


def snapshot(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_patch_acts_and_is_undone(case: Any) -> None:
    model, donor, inputs, slices = case
    before, output = snapshot(model), outputs(model, inputs)
    with patch_weights(model, donor, slices) as patched:
        assert patched is model
        assert not any(torch.allclose(a, b) for a, b in zip(outputs(model, inputs), output, strict=True))
        inside = snapshot(model)
    assert same(snapshot(model), before)
    torch.testing.assert_close(outputs(model, inputs), output, rtol=0, atol=0)
    changed = sum(int((inside[name] != before[name]).sum()) for name in before)
    toy_count, tiny_count = 4 + 2 + 4 * 3 + 4 * 3, 2 * 64 + 64 * 16 + 5 * 64 + 64
    assert changed == (toy_count if "b_U" in slices else tiny_count)


def test_each_slice_acts(case: Any) -> None:
    model, donor, inputs, slices = case
    output = outputs(model, inputs)
    for name, part in slices.items():
        with patch_weights(model, donor, {name: part}):
            assert not all(torch.equal(a, b) for a, b in zip(outputs(model, inputs), output, strict=True)), name


def test_undone_after_an_error(case: Any) -> None:
    model, donor, _, slices = case
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="inside"), patch_weights(model, donor, slices):
        raise RuntimeError("inside")
    assert same(snapshot(model), before)


def test_pure_form_is_the_context(case: Any) -> None:
    model, donor, inputs, slices = case
    before = snapshot(model)
    copy = patched_copy(model, donor, slices)
    assert same(snapshot(model), before)
    with patch_weights(model, donor, slices):
        torch.testing.assert_close(outputs(copy, inputs), outputs(model, inputs), rtol=0, atol=0)


def test_everything_patched_is_the_donor(case: Any) -> None:
    model, donor, inputs, _ = case
    everything = {name: ... for name, _ in donor.named_parameters()}
    copy = patched_copy(model, donor, everything)
    torch.testing.assert_close(outputs(copy, inputs), outputs(donor, inputs), rtol=0, atol=0)


def test_overlapping_slices_of_tied_weights_are_restored() -> None:
    model, donor = toy(0), toy(1)
    before = snapshot(model)
    with patch_weights(model, donor, {"W_E": slice(0, 4), "W_U": (..., slice(2, 6))}):
        torch.testing.assert_close(model.W_E, donor.W_E, rtol=0, atol=0)
        torch.testing.assert_close(model.W_U, donor.W_U, rtol=0, atol=0)
    assert same(snapshot(model), before)


def test_gpt2_bridge_shares_its_tied_embedding(as_bridge: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    def gpt2(seed: int) -> Any:
        with torch.random.fork_rng():
            torch.random.manual_seed(seed)
            hf = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=20, n_positions=8))
        return as_bridge(hf).eval()

    model, donor, tokens = gpt2(0), gpt2(1), torch.tensor([[3, 4, 5]])
    before, output = snapshot(model), model(tokens).detach()
    for slices in ({"W_E": 7}, {"blocks.0.attn.W_V": 1}, {"blocks.0.attn.W_Q": 0}, {"blocks.0.mlp.W_in": (..., 2)}):
        with patch_weights(model, donor, slices):
            assert not torch.equal(model(tokens), output), slices
        assert same(snapshot(model), before)
    with patch_weights(model, donor, {"W_E": 7}):
        changed = (model(tokens) != output).any(0).any(0).nonzero().flatten().tolist()
        assert changed == [7]  # not among the prompt's tokens: only its logit moves


@pytest.mark.parametrize(
    ("slices", "error", "match"),
    [
        ({}, ValueError, "slices is empty"),
        ({"W_EE": 0}, AttributeError, "did you mean 'W_E'"),
        ({"W_E": 200}, IndexError, r"W_E\[200\]"),
        ({"W_E": slice(3, 3)}, ValueError, "empty"),
        ({"W_Q": 0}, ValueError, "is a copy.*blocks.0.attn.W_Q"),
        pytest.param({"b_U": 0}, ValueError, "is a copy.*name one of model.named_parameters", marks=pytest.mark.bridge),
        ({"blocks": 0}, AttributeError, "not a parameter"),
    ],
)
def test_bad_slices(slices: dict[str, Any], error: type[Exception], match: str) -> None:
    model = tiny(0)
    with pytest.raises(error, match=match), patch_weights(model, tiny(1), slices):
        pass


def test_donor_of_another_shape_or_without_the_name() -> None:
    model = toy(0)
    other = tms.ToyModel(tms.ToyConfig(n_features=7, d_hidden=2))
    with pytest.raises(ValueError, match=r"\(7, 2\).*\(6, 2\)"), patch_weights(model, other, {"W_E": 0}):
        pass
    with pytest.raises(KeyError, match="W_E"), patch_weights(model, {"W_U": torch.zeros(1)}, {"W_E": 0}):
        pass


def train_toys(models: list[Any], seeds: list[int]) -> Any:
    data = tms.SparseUniform(n_features=6, feature_probability=0.3)
    return tms.train(CFG, data, init=models, seeds=seeds, steps=30, batch_size=64, optimizer=tms.Adam(lr=0.01)).models


def test_init_patching_of_a_toys_feature_row() -> None:
    initial, donors = toy(0), [toy(1), toy(2)]
    before = snapshot(initial)
    table = init_patching(initial, donors, {"W_E": 3}, train_toys, lambda m: m.W_E[3, 0].item())
    assert table.condition.tolist() == ["unpatched", "self", *["patched", "redraw", "rerun"] * 2]
    assert table.seed.tolist() == [0, 0, 0, 0, 1, 0, 0, 2]
    effect = table.groupby("condition").effect.apply(lambda e: e.abs().min())
    assert effect["self"] == 0
    assert (effect[["patched", "redraw", "rerun"]] > 0).all()
    assert same(snapshot(initial), before)
    by_hand = deepcopy(initial)
    with torch.no_grad():
        by_hand.W_E[3] = donors[1].W_E[3]
    expected = train_toys([by_hand], [0])[0].W_E[3, 0].item()
    assert table.outcome[(table.condition == "patched") & (table.donor == 1)].item() == expected


def test_redraw_has_the_donors_norm_and_no_other_direction_in_common() -> None:
    initial, donor = toy(0), toy(1)
    table = init_patching(initial, donor, {"W_E": 3}, lambda models, seeds: models, lambda m: m.W_E[3].norm().item())
    outcome = table.set_index("condition").outcome
    assert outcome["redraw"] == pytest.approx(outcome["patched"], rel=1e-6)
    table = init_patching(initial, donor, {"W_E": 3}, lambda models, seeds: models, lambda m: m.W_E[3, 0].item())
    outcome = table.set_index("condition").outcome
    assert outcome["patched"] == donor.W_E[3, 0].item() != outcome["redraw"]


def train_bridges(models: list[Any], seeds: list[int]) -> list[Any]:
    """A few steps of next-token prediction on random tokens."""
    for model, seed in zip(models, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(3):
            tokens = torch.randint(0, 101, (4, 8), generator=generator)
            loss = torch.nn.functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return models


@pytest.mark.parametrize(
    "slices",
    [{"W_E": 3}, {"blocks.0.attn.W_Q": 1, "blocks.0.attn.W_K": 1}, {"blocks.1.mlp.W_in": (..., 5)}],
    ids=["embedding", "head", "neuron"],
)
def test_init_patching_of_a_bridge_that_is_then_trained(slices: dict[str, Any]) -> None:
    initial = tiny(0)
    before = snapshot(initial)
    tokens = torch.randint(0, 101, (4, 8), generator=torch.Generator().manual_seed(9))
    tokens[:, 0] = 3
    table = init_patching(initial, tiny(1), slices, train_bridges, lambda m: m(tokens)[0, 5, 7].item())
    effect = table.set_index("condition").effect
    assert effect["self"] == 0
    assert (effect[["patched", "redraw", "rerun"]] != 0).all()
    assert same(snapshot(initial), before)


def test_a_retrain_that_is_not_reproducible_is_found_out() -> None:
    state = torch.Generator().manual_seed(0)

    def noisy(models: list[Any], seeds: list[int]) -> list[Any]:
        with torch.no_grad():
            for model in models:
                model.W_E += torch.rand(6, 2, generator=state)
        return models

    with pytest.raises(ValueError, match="self control differs"):
        init_patching(toy(0), toy(1), {"W_E": 3}, noisy, lambda m: m.W_E.sum().item())


@pytest.mark.parametrize(
    ("donor", "controls", "match"), [([], ("self",), "donor is empty"), (None, ("rerum",), "did you mean 'rerun'")]
)
def test_bad_experiments(donor: Any, controls: Any, match: str) -> None:
    donor = toy(1) if donor is None else donor
    with pytest.raises(ValueError, match=match):
        init_patching(toy(0), donor, {"W_E": 3}, train_toys, float, controls)


@pytest.mark.bridge
@pytest.mark.parametrize("name", ["gpt2", "neox", "bloom"])
def test_bridges_are_copied_after_a_run_that_had_gradients(make_bridge, name):
    """They keep their last pattern, with its history, which torch refuses to copy."""
    model, tokens = make_bridge(name)
    before = model(tokens)
    rows = {"W_E": torch.zeros_like(model.W_E)}
    copy = patched_copy(model, rows, {"W_E": tokens[0]})
    assert not torch.allclose(copy(tokens), before)
    with patch_weights(model, rows, {"W_E": tokens[0]}):
        torch.testing.assert_close(copy(tokens), model(tokens))
    with torch.no_grad():
        copy.W_E.zero_()
    torch.testing.assert_close(model(tokens), before, rtol=0, atol=0)

    def compare(trained):
        return trained(tokens).norm().item()

    table = init_patching(model, make_bridge(name)[0], {"W_E": 3}, lambda m, seeds: m, compare)
    assert table.effect.tolist()[:3] == [0, 0, 0]  # unpatched, its own donor, a donor of the same weights


@pytest.mark.bridge
def test_a_head_without_such_a_matrix():
    model = zoo.build("deepseek-v2")
    with pytest.raises(AttributeError, match=r"no parameter 'blocks\.0\.attn\.W_Q'"):
        patched_copy(model, model, {"blocks.0.attn.W_Q": 0})


@pytest.mark.bridge
@pytest.mark.parametrize("name", ["falcon", "gpt2", "llama"])
def test_a_copy_runs_on_its_own_weights(name: str) -> None:
    """Falcon's layers wrap their forward in a function, which a plain copy shares with the original."""
    model = zoo.build(name)
    copy = patched_copy(model, model, {"W_E": 3})

    def reached(model: Any) -> list[bool]:
        loss = model(zoo.tokens()).square().sum()
        return [g is not None for g in torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)]

    assert reached(copy) == reached(model)
    before = outputs(model, zoo.tokens())
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter += 1
    torch.testing.assert_close(outputs(model, zoo.tokens()), before, rtol=0, atol=0)


def test_a_retrain_may_return_a_run_and_what_it_may_not_is_told() -> None:
    cfg, data = tms.ToyConfig(4, 2), tms.OneHot(4)
    initial, donor = tms.ToyModel(cfg, seed=0), tms.ToyModel(cfg, seed=1)

    def run(models: list[tms.ToyModel], seeds: list[int]) -> tms.Run:
        return tms.train(cfg, data, init=models, seeds=seeds, steps=3, engine="torch", progress=False)

    def norm(model: tms.ToyModel) -> float:
        return float(model.W_E.detach().norm())

    whole = init_patching(initial, donor, {"W_E": 0}, run, norm)
    models = init_patching(initial, donor, {"W_E": 0}, lambda *given: run(*given).models, norm)
    assert whole.equals(models)
    alone = init_patching(initial, donor, {"W_E": 0}, run, norm, controls="self")
    assert set(alone.condition) == {"unpatched", "self", "patched"}
    with pytest.raises(TypeError, match="retrain returned NoneType: return the trained models"):
        init_patching(initial, donor, {"W_E": 0}, lambda *given: None, norm)
