"""What toys and transformers are measured by: crowded bottlenecks, heads that fire, the prompts on which they do."""

import math

import pytest
import torch

import probes
from tms_hooks import prompts, side_by_side


@pytest.fixture(scope="module")
def smollm2():
    return probes.load_transformer("smollm2")


def tied(W):
    return probes.Bottleneck("embed->unembed", W, W)


def frame(n):
    """n directions at equal angles in the plane."""
    angles = torch.arange(n) * 2 * torch.pi / n
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_a_tight_frame_overlaps_by_the_welch_bound():
    found = side_by_side.crowding(tied(frame(5)), sample=5)
    assert found.overlaps.rms == pytest.approx(found.welch_bound, abs=1e-6)
    assert found.centered.rms == pytest.approx(found.welch_bound, abs=1e-6)
    assert found.overlaps.relative == pytest.approx(found.welch_bound * 2**0.5, abs=1e-6)
    assert found.overlaps.largest == pytest.approx([math.cos(0.8 * math.pi)] * 5, abs=1e-6)
    assert found.spread() == pytest.approx(0, abs=1e-6)


def test_what_all_features_share_is_removed():
    found = side_by_side.crowding(tied(frame(5) + 100), sample=5)
    assert found.overlaps.rms > 0.99
    assert found.centered.rms == pytest.approx(found.welch_bound, abs=1e-4)


def test_the_spread_of_norms_by_hand():
    found = side_by_side.crowding(tied(torch.tensor([[1.0, 0.0], [0.0, 3.0]])), sample=2)
    assert found.spread() == pytest.approx(2**0.5 / 2)
    assert found.spread(correction=0) == pytest.approx(1 / 2)


def test_unpaired_reads_are_all_others():
    part = probes.Bottleneck("embed->blocks.0.mlp.in", torch.eye(2), torch.tensor([[1.0, 0.0]]))
    assert side_by_side.overlaps(part, sample=2).rms == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("n", [0, 1])
def test_without_another_feature_there_is_no_overlap(n):
    found = side_by_side.crowding(tied(torch.ones(n, 2)), sample=10)
    assert found.features == n
    assert math.isnan(found.overlaps.rms)
    assert math.isnan(found.centered.relative)
    assert len(found.overlaps.largest) == 0
    assert math.isnan(found.spread())
    assert math.isnan(found.welch_bound)


def test_norms_of_zero_have_no_spread():
    assert math.isnan(side_by_side.crowding(tied(torch.zeros(3, 2)), sample=3).spread())


def test_represented_are_those_with_longer_writes():
    part = side_by_side.represented(tied(torch.tensor([[1.0, 0.0], [0.5, 0.0]])), least_norm=0.5)
    assert part.write.tolist() == [[1.0, 0.0]]


def test_toy_slices_add_up_to_the_scores():
    run = side_by_side.train_head_toys(1, steps=(2, 2))
    split = side_by_side.toy_slices(run, run.models[0], seed=0, n_null=3)
    torch.testing.assert_close(split.slices.sum(-1), split.scores)
    assert 0 < side_by_side.needed_fraction([split]) < 2


@pytest.mark.real_weights
def test_prompts_point_at_the_names_and_repetitions(smollm2):
    for batch in prompts.indirect_object_prompts(smollm2):
        for example, query, key in batch.pairs.tolist():
            words = smollm2.to_str_tokens(batch.tokens[example])
            assert query == len(words) - 1
            assert words.count(words[key]) == 1  # the indirect object is named once, the giver twice
    for batch in prompts.repeated_prompts(smollm2):
        example, query, key = batch.pairs.T
        assert batch.tokens[example, query].equal(batch.tokens[example, key - 1])


@pytest.mark.real_weights
def test_indirect_objects_are_what_the_model_says_next(smollm2):
    right, asked = 0, 0
    for batch in prompts.indirect_object_prompts(smollm2):
        example, query, key = batch.pairs.T
        with torch.no_grad():
            said = smollm2(batch.tokens)[example, query].argmax(-1)
        right, asked = right + int((said == batch.tokens[example, key]).sum()), asked + len(said)
    assert asked == 20
    assert right / asked > 0.5  # chance is one in 49,152


@pytest.mark.real_weights
def test_heads_fire_where_their_pattern_says(smollm2):
    batches = prompts.repeated_prompts(smollm2)
    heads = side_by_side.firing_heads(smollm2, batches)
    assert [head.share for head in heads] == sorted((head.share for head in heads), reverse=True)
    for fired in (heads[0], heads[-1]):
        number, pair = fired.fires_on.iloc[0]
        example, query, key = batches[number].pairs[pair].tolist()
        _, cache = smollm2.run_with_cache(batches[number].tokens[example : example + 1])
        pattern = cache[f"blocks.{fired.layer}.attn.hook_pattern"][0, :, query, key]
        assert pattern[fired.head] >= 0.5
        assert (pattern[fired.silent] < 0.5).all()
    assert sum(len(batch.pairs) for batch in batches) * heads[0].share == len(heads[0].fires_on)


@pytest.mark.real_weights
def test_sentences_of_other_frames_and_words_share_neither(smollm2):
    lists = (prompts.PEOPLE, prompts.THINGS, prompts.PLACES)
    halves = [{w for ws in lists for w in ws[half * len(ws) // 2 :][: len(ws) // 2]} for half in (0, 1)]
    assert len(halves[0] | halves[1]) == sum(map(len, lists))  # no word stands twice
    for half, frames in enumerate((range(24), range(24, 40))):
        found = prompts.framed_sentences(smollm2, frames, 2, half)
        assert sorted(int(frame) for each in found for frame in each.frame) == sorted([*frames, *frames])
        text = "".join(smollm2.tokenizer.decode(tokens) for each in found for tokens in each.tokens[:, 1:])
        assert sum(word in text for word in halves[half]) > len(halves[half]) / 2
        assert not any(word in text for word in halves[1 - half])
    assert len(set(prompts.FRAMES)) == len(prompts.FRAMES) == 40
