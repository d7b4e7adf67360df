"""TransformerLens's own tools on a toy: each does what it says, and `docs/transformerlens.md` says which cannot."""

import doctest
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.testing import assert_close
from transformer_lens import FactoredMatrix, SVDInterpreter, patching
from transformer_lens.tools.analysis import (
    SubspaceInterchange,
    attention_head_subspace_affinity,
    collect_activations,
    fit_das,
    fit_sparse_probe,
    orthonormal_subspace,
    run_with_intervention,
    sweep_sparse_probe,
)
from transformer_lens.tools.analysis.projection_kernel import projection_kernel
from transformer_lens.utilities import composition_scores

import tms_hooks as tms

N, M = 6, 3


def toy(seed=0, **changes):
    return tms.ToyModel(tms.ToyConfig(**{"n_features": N, "d_hidden": M, **changes}), seed=seed)


@pytest.fixture
def model():
    return toy(n_heads=2, d_head=2, d_mlp=8, bottleneck="mlp.out->unembed")


@pytest.fixture
def tokens():
    """Clean and corrupted pairs of tokens, "batch pos feature"."""
    data = tms.SparseUniform(n_features=N, feature_probability=0.5)
    return data.sample(2 * 5, seed=[0, 1]).unflatten(1, (5, 2))


def score(out):
    return out.attn_scores[:, 0, 0, 1].mean()


def test_the_examples_of_the_docs_run():
    page = Path(__file__).parents[2] / "docs" / "transformerlens.md"
    failed, tried = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert (failed, tried) == (0, 12)


def test_generic_activation_patch_over_heads(model, tokens):
    clean, corrupted = tokens
    _, cache = model.run_with_cache(clean)
    found = patching.generic_activation_patch(
        model, corrupted, cache, score, patching.layer_head_vector_patch_setter, "q", ["layer", "head"]
    )
    for head in range(2):

        def replace(q, hook, head=head):
            q = q.clone()
            q[:, :, head] = cache[hook.name][:, :, head]
            return q

        by_hand = score(model.run_with_hooks(corrupted, fwd_hooks=[("blocks.0.attn.hook_q", replace)]))
        assert_close(found[0, head], by_hand)
    unpatched = score(model(corrupted))
    assert_close(found[0, 1], unpatched)  # the metric reads head 0
    assert not torch.isclose(found[0, 0], unpatched)


@pytest.mark.parametrize("name", ["q", "k"])
def test_generic_activation_patch_over_positions_needs_index_df(model, tokens, name):
    """The logit of the pair (0, 1) takes its query from position 0 and its key from position 1."""
    clean, corrupted = tokens
    _, cache = model.run_with_cache(clean)
    index = pd.DataFrame([(0, pos, 0) for pos in range(2)], columns=["layer", "pos", "head"])
    setter = patching.layer_pos_head_vector_patch_setter
    found = patching.generic_activation_patch(model, corrupted, cache, score, setter, name, index_df=index)
    moved = (found - score(model(corrupted))).abs() > 1e-6
    assert moved.tolist() == [name == "q", name == "k"]
    # Left to itself it takes the number of features for the number of positions.
    with pytest.raises(IndexError):
        patching.generic_activation_patch(model, corrupted, cache, score, setter, name, ["layer", "pos", "head"])


def test_generic_activation_patch_of_scores_recovers_the_clean_metric(model, tokens):
    clean, corrupted = tokens
    _, cache = model.run_with_cache(clean)
    found = patching.generic_activation_patch(
        model, corrupted, cache, score, patching.layer_head_pattern_patch_setter, "attn_scores", ["layer", "head"]
    )
    assert_close(found[0], torch.stack([score(model(clean)), score(model(corrupted))]))


@pytest.mark.parametrize("name", ["pre", "post"])
def test_generic_activation_patch_of_the_mlp(model, tokens, name):
    clean, corrupted = tokens
    _, cache = model.run_with_cache(clean)

    def all_of_it(_, index, clean_activation):
        return clean_activation

    found = patching.generic_activation_patch(model, corrupted, cache, score, all_of_it, name, ["layer"])
    assert_close(found, score(model(clean))[None])  # nothing bypasses the MLP


@pytest.mark.parametrize("name", ["resid_pre", "mlp_out", "resid_post"])
def test_generic_activation_patch_of_a_residual_stream(tokens, name):
    model = toy(d_mlp=8, bottleneck="residual")
    clean, corrupted = (x[:, 0] for x in tokens)
    _, cache = model.run_with_cache(clean)

    def all_of_it(_, index, clean_activation):
        return clean_activation

    def metric(out):
        return out[:, 0].sum()

    found = patching.generic_activation_patch(model, corrupted, cache, metric, all_of_it, name, ["layer"])
    recovered = torch.isclose(found[0], metric(model(clean)))
    assert recovered == (name != "mlp_out")  # the skip goes around the MLP
    assert not torch.isclose(found[0], metric(model(corrupted)))


def test_head_sweeps(model, tokens):
    clean, corrupted = tokens
    _, cache = model.run_with_cache(clean)
    for sweep in (patching.get_act_patch_attn_head_q_all_pos, patching.get_act_patch_attn_head_k_all_pos):
        assert sweep(model, corrupted, cache, score).shape == (1, 2)


def test_factored_matrix_is_omega(model):
    omega = FactoredMatrix(model.W_Q, model.W_K.mT)
    assert omega.shape == (1, 2, M, M)
    full = model.W_Q @ model.W_K.mT
    assert_close(omega.AB, full)
    assert_close(omega.S, torch.linalg.svdvals(full)[..., :2])
    assert_close(omega.U @ torch.diag_embed(omega.S) @ omega.V.mT, full)  # every SVD is verified by reconstruction
    assert_close(FactoredMatrix(model.W_E, model.W_U).AB, model.W_E @ model.W_E.T)


def test_svd_interpreter_reads_the_mlp_through_the_unembed(model):
    found = SVDInterpreter(model).get_singular_vectors("w_out", layer_index=0, num_vectors=2)
    assert found.shape == (N, 1, 2)
    _, _, Vh = torch.linalg.svd(model.W_out[0])
    assert_close(found[:, 0].abs(), (Vh[:2] @ model.W_U).T.abs())
    found = SVDInterpreter(model).get_singular_vectors("w_in", layer_index=0, num_vectors=M)
    _, _, Vh = torch.linalg.svd(model.W_in[0].T)
    assert_close(found[:, 0].abs(), (Vh @ model.W_U).T.abs())


def test_composition_scores(model):
    mlp, omega = FactoredMatrix(model.W_in, model.W_out), FactoredMatrix(model.W_Q, model.W_K.mT)
    found = composition_scores(mlp, omega)
    assert found.shape == (1, 1, 2)
    left, right = model.W_in[0] @ model.W_out[0], model.W_Q[0] @ model.W_K[0].mT
    for head in range(2):
        assert_close(found[0, 0, head], (left @ right[head]).norm() / left.norm() / right[head].norm())


def test_projection_kernel_of_groups_of_features():
    """Two antipodal pairs and a right angle between them: overlap 1 within a pair's line, 0 between."""
    model = toy()
    with torch.no_grad():
        model.W_E.copy_(torch.tensor([[2.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -3, 0], [1, 1, 0], [0, 0, 1]]))
    lines = [orthonormal_subspace(model.W_E[i : i + 2].detach().T, rank=1) for i in (0, 2)]
    assert [line.measured_rank for line in lines] == [1, 1]
    assert_close(projection_kernel(lines[0], lines[0]).score, torch.tensor(1.0))
    assert_close(projection_kernel(*lines).score, torch.tensor(0.0))
    diagonal = orthonormal_subspace(model.W_E[4:5].detach().T)
    assert_close(projection_kernel(lines[0], diagonal).angles, torch.tensor([torch.pi / 4]))


def test_sparse_probes_find_the_coordinate_of_a_feature():
    model = toy(n_features=3)
    with torch.no_grad():
        model.W_E.copy_(torch.eye(3))
    x = tms.SparseUniform(n_features=3, feature_probability=0.5).sample(400, seed=0)
    _, cache = model.run_with_cache(x)
    probe = fit_sparse_probe(cache["hook_hidden"].detach(), x[:, 1] > 0, k=1)
    assert probe.selected_features.tolist() == [1]
    assert probe.metrics.roc_auc == 1
    sweep = sweep_sparse_probe(cache["hook_hidden"].detach(), x[:, 1] > 0, ks=(1, 2))
    assert [1 in result.selected_features for result in sweep.results] == [True, True]


def test_subspace_interchange_moves_one_feature():
    model = toy(n_features=3, output_bias=False)
    with torch.no_grad():
        model.W_E.copy_(torch.eye(3))
    base, source = tms.SparseUniform(n_features=3, feature_probability=0.5).sample(2 * 8, seed=3).chunk(2)
    there = collect_activations(model, "hook_hidden", source, model)
    swap = SubspaceInterchange(model.W_E[1:2].detach().T)
    found = run_with_intervention(model, "hook_hidden", swap, base, there, model)
    expected = base.clone()
    expected[:, 1] = source[:, 1]
    assert_close(found, expected)


def test_das_runs_on_a_toy_with_positions():
    """With heads, one position an example; the task is which of features 0 and 1 the first token holds more of."""
    model = toy(n_heads=1)
    base, source = tms.SparseUniform(n_features=N, feature_probability=0.5).sample(4 * 16, seed=4).view(2, 16, 2, N)
    first = torch.zeros(16, dtype=torch.int64)
    found = fit_das(
        model,
        "hook_hidden",
        base,
        source,
        (source[:, 0, 0] > source[:, 0, 1]).long(),
        lambda x: model(x).reconstruction[:, 0, :2],
        rank=1,
        base_positions=first,
        source_positions=first,
        epochs=2,
    )
    assert found.basis.shape == (M, 1)
    assert_close(found.basis.norm().detach(), torch.tensor(1.0))


# What cannot work says so


@pytest.mark.parametrize("name", ["resid_pre", "resid_mid", "attn_out", "mlp_out", "attn_head_out_all_pos"])
def test_sweeps_of_what_a_toy_does_not_have_fail_loudly(model, tokens, name):
    _, cache = model.run_with_cache(tokens[0])
    with pytest.raises(KeyError, match=r"blocks\.0\."):
        getattr(patching, f"get_act_patch_{name}")(model, tokens[1], cache, score)


def test_svd_interpreter_needs_values_and_an_unembed(model):
    with pytest.raises(KeyError, match="W_V"):
        SVDInterpreter(model).get_singular_vectors("OV", layer_index=0, head_index=0)
    with pytest.raises(KeyError, match=r"unembed\.W_U"):
        SVDInterpreter(toy(d_mlp=8)).get_singular_vectors("w_out", layer_index=0, num_vectors=2)


def test_head_affinity_needs_a_bridge(model):
    with pytest.raises(ValueError, match="TransformerBridge"):
        attention_head_subspace_affinity(model, target_role="Q")


def test_points_outside_the_blocks_are_out_of_reach_of_generic_activation_patch(tokens):
    model = toy(n_heads=1)
    _, cache = model.run_with_cache(tokens[0])
    with pytest.raises(KeyError, match=r"blocks\.0\.hook_hidden"):
        patching.generic_activation_patch(model, tokens[1], cache, score, None, "hidden", ["layer"])
