"""The tools on real weights: names that move, an induction head, a subject's number; each beside its control.

Every statistic and threshold is stated where it is used. They were fixed on other names, sequences and sentences than
those that the tests judge by.
"""

from itertools import product
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from torch import Tensor

import probes
from probes import Site

pytestmark = [pytest.mark.real_weights, pytest.mark.slow]


@pytest.fixture(scope="module")
def smollm2() -> Any:
    return probes.load_transformer("smollm2")


# the indirect object ------------------------------------------------------------------------------------------------

STORE = "When {io} and {giver} went to the store, {giver} gave a drink to"
BEACH = "While {io} and {giver} were at the beach, {giver} threw a ball to"
IO = 2
"""Position of the indirect object's name in both, after a start token."""
FINDING = (("Mary", "Anna", "John"), ("Sarah", "Kate", "Tom"), ("David", "Paul", "Emma"), ("Mark", "Peter", "Susan"))
CONFIRMING = (
    ("Laura", "Alice", "Robert"),
    ("Emma", "Lucy", "David"),
    ("Henry", "Jack", "Sarah"),
    ("James", "Tom", "Mary"),
)


class Story(NamedTuple):
    """Prompts that differ in the indirect object's name only, and which of the two names the model goes on with."""

    clean: Tensor
    corrupted: Tensor
    difference: Any
    """Logit of the clean prompt's name minus that of the corrupted one's, at the last position."""


def tell(model: Any, story: str, names: tuple[tuple[str, str, str], ...]) -> Story:
    clean, corrupted = (
        torch.cat([model.to_tokens(story.format(io=row[which], giver=row[2]), prepend_bos=True) for row in names])
        for which in (0, 1)
    )
    row = torch.arange(len(names))

    def difference(logits: Tensor) -> Tensor:
        return logits[:, -1][row, clean[:, IO]] - logits[:, -1][row, corrupted[:, IO]]

    return Story(clean, corrupted, difference)


def layer_of(table: pd.DataFrame) -> pd.Series:
    return table.hook.str.extract(r"blocks\.(\d+)\.", expand=False).astype(int)


def test_indirect_object_sweep_finds_the_positions_and_heads_that_move_the_name(smollm2: Any) -> None:
    """Find on one story, confirm on another with other names.

    Positions: before some layer the name's position recovers > 0.8, from the next on the last position does > 0.5;
    no third position ever > 0.2. Head: of that layer, the one of largest recovered fraction at the last position; on
    the other story its interval lies above 0.1 and above every one of nine random heads', and of all positions but the
    first (where idle heads look) it attends to the name most.
    """
    found = tell(smollm2, STORE, FINDING)
    sites = [Site(hook=f"blocks.{layer}.hook_resid_pre", pos="each") for layer in range(18, 28)]
    table = probes.patch_sweep(smollm2, *found, sites)
    recovered = table.pivot_table("recovered", layer_of(table), "pos")
    last = recovered.columns[-1]
    layer = int(recovered.index[recovered[IO] > 0.8].max())
    assert recovered[IO].loc[:layer].min() > 0.8
    assert recovered[last].loc[layer + 1 :].min() > 0.5
    assert recovered[last].loc[layer] < 0.2
    assert recovered.drop(columns=[IO, last]).abs().max(axis=None) < 0.2

    here = Site(hook=f"blocks.{layer}.attn.hook_z", pos=-1, head="each")
    mover = int(probes.patch_sweep(smollm2, *found, here).recovered.idxmax())
    other = tell(smollm2, BEACH, CONFIRMING)
    generator = torch.Generator().manual_seed(0)
    elsewhere = [i for i in range(18, 30) if i != layer]
    random = [
        Site(hook=f"blocks.{elsewhere[i]}.attn.hook_z", pos=-1, head=h)
        for i, h in torch.stack([torch.randint(n, (9,), generator=generator) for n in (len(elsewhere), 9)], 1).tolist()
    ]
    judged = probes.patch_sweep(smollm2, *other, [Site(hook=here.hook, pos=-1, head=mover), *random])
    assert judged.low[0] > max(0.1, judged.high[1:].max())

    pattern = probes.collect_activations(smollm2, other.clean, f"blocks.{layer}.attn.hook_pattern")
    attended = pattern[f"blocks.{layer}.attn.hook_pattern"][:, mover, -1].mean(0)
    assert attended[1:].argmax() == IO - 1


# induction ----------------------------------------------------------------------------------------------------------

HALF = 20
QUERIES = torch.arange(HALF + 1, 2 * HALF)
KEYS = QUERIES - HALF + 1
"""What followed the query's token last time: all pairs are equally far apart, so one rotary Omega scores them all."""
KEPT = 4


def sequences(model: Any, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random tokens said twice; and the same second halves after other first halves."""
    first, second = torch.randint(1_000, 30_000, (2, n, HALF), generator=torch.Generator().manual_seed(seed))
    start = torch.full((n, 1), model.tokenizer.bos_token_id)
    return torch.cat([start, second, second], 1), torch.cat([start, first, second], 1)


def contrast(slices: Tensor) -> float:
    """How much more four slices score repeated pairs than others; chosen on half the sequences, judged on the rest.

    `slices` is "repeated_or_not sequence pair k".
    """
    difference = (slices[0] - slices[1]).mean(1)
    half = len(difference) // 2
    chosen = difference[:half].mean(0).topk(KEPT).indices
    return float(difference[half:].mean(0)[chosen].sum())


def test_an_induction_head_is_found_by_attention_and_slices_and_confirmed_by_patching(smollm2: Any) -> None:
    """Found on some sequences, confirmed on others, beside the other heads of its layer.

    Attention: the head of the largest mean pattern from repeated tokens to what followed them; at least 0.5.
    Slices: four of 64, chosen on half the sequences, score repeated pairs by more than 2 (e^2: sevenfold odds) above
    unrepeated ones on the other half. That is more than any of 50 rotations of the head's factors gives, and twice
    what any idle head (pattern there below 0.1) of another key head does in that layer. Idle heads that share its key
    head are no control here: they may look for the same keys. How *many* slices a score needs tells nothing by itself
    (idle heads need fewest), but scores less the query's mean do beside their null: the head needs less than 3/4 of
    the slices that random rotations do, each of three of those idle heads more than 0.85 of them.
    Patching: with the head's output from the unrepeated sequences the log-probability of repeated tokens falls by more
    than a tenth of what repetition gives, and three times as far as with any idle head's, whichever key head it has.
    """
    scan, _ = sequences(smollm2, 4, seed=20)
    hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(30)]
    patterns = torch.stack(list(probes.collect_activations(smollm2, scan, hooks).values()))
    strength = patterns[..., QUERIES, KEYS].mean((1, 3))
    layer, head = divmod(int(strength.argmax()), 9)
    assert strength[layer, head] > 0.5
    idle = (strength[layer] < 0.1).nonzero()[:, 0].tolist()
    assert len(idle) >= 3

    repeated, unrepeated = sequences(smollm2, 8, seed=21)
    reads = f"blocks.{layer}.attn.hook_in"
    x = probes.collect_activations(smollm2, torch.cat([repeated, unrepeated]), reads)[reads].double()
    x = torch.cat([x, torch.ones_like(x[..., :1])], -1).unflatten(0, (2, 8))

    def coordinates(head: int) -> tuple[Tensor, Tensor]:
        omega = probes.qk_circuit(smollm2, layer, head, bias=True, offset=HALF - 1)
        scale = (omega.S / 8).sqrt()  # 8 = sqrt(d_head)
        return x[:, :, QUERIES] @ omega.U * scale, x[:, :, KEYS] @ omega.Vh.mT * scale

    queries, keys = coordinates(head)
    pairs = torch.tensor([[0, q, k] for q, k in zip(QUERIES.tolist(), KEYS.tolist(), strict=True)])
    split = probes.attention_slices(smollm2, repeated[:1], layer, head, pairs=pairs, n_null=1)
    torch.testing.assert_close((queries * keys)[0, 0], split.slices, rtol=1e-4, atol=1e-4)
    carried = contrast(queries * keys)
    generator = torch.Generator().manual_seed(0)
    turns = [torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=x.dtype))[0] for _ in range(50)]
    assert carried > max(2, *(contrast((queries @ turn) * (keys @ turn)) for turn in turns))
    strangers = [h for h in idle if h // 3 != head // 3]  # nine query heads, three key heads
    assert len(strangers) >= 3
    assert carried > 2 * max(contrast(q * k) for q, k in map(coordinates, strangers))

    repeated, unrepeated = sequences(smollm2, 4, seed=22)
    pairs = torch.tensor([[i, q, k] for i in range(4) for q, k in zip(QUERIES.tolist(), KEYS.tolist(), strict=True)])
    needs = []
    for h in (head, *strangers[:3]):
        split = probes.attention_slices(smollm2, repeated, layer, h, pairs=pairs, relative=True, n_null=20)
        needs.append(float(split.needed.double().mean() / split.null_needed.double().mean()))
    assert needs[0] < 0.75
    assert min(needs[1:]) > 0.85

    def repeated_tokens(logits: Tensor) -> Tensor:
        scores = logits[:, HALF:-1].log_softmax(-1)
        return scores.gather(-1, repeated[:, HALF + 1 :, None])[..., 0].mean(-1)

    sites = [Site(hook=f"blocks.{layer}.attn.hook_z", head=h) for h in (head, *idle)]
    table = probes.patch_sweep(
        smollm2, repeated, unrepeated, repeated_tokens, sites, patch="corrupted->clean", batch_size=4
    )
    lost = 1 - table.recovered
    assert 1 - table.high[0] > 0.1
    assert lost[0] > 3 * lost[1:].abs().max()


# a subject's number -------------------------------------------------------------------------------------------------

NOUNS = {
    "dog": "dogs",
    "cat": "cats",
    "child": "children",
    "teacher": "teachers",
    "king": "kings",
    "writer": "writers",
    "river": "rivers",
    "woman": "women",
    "bird": "birds",
    "student": "students",
}
VERBS = ("slept", "waited", "fell", "disappeared")
"""Past tenses: they do not agree."""
NOUN, VERB = 2, 6


def test_a_probe_finds_the_subjects_number_where_the_encoder_has_moved_it() -> None:
    """At the noun the word itself tells its number; at the verb only the layers can have brought it there.

    Nouns of the test fold are in no training sentence, and a second noun between has a number of its own. At the verb
    the embedding's interval holds chance, 0.5, and at some layer that of score minus control task lies above 0.
    """
    from sklearn.model_selection import PredefinedSplit

    model = probes.load_transformer("minilm")
    rows = [
        (f"the {noun} near the {other} {verb}", number, i)
        for i, (noun, number) in enumerate((n, k) for pair in NOUNS.items() for k, n in enumerate(pair))
        for other, verb in product(("garden", "gardens", "table", "tables"), VERBS)
    ]
    texts, numbers, words = zip(*rows, strict=True)
    tokens = model.to_tokens(list(texts))
    assert tokens.shape == (320, 8)  # [CLS] ... [SEP], one token a word: positions mean the same everywhere
    folds = PredefinedSplit([(word // 2) % 5 for word in words])
    layers = [f"blocks.{i}.hook_out" for i in range(6)]
    target = torch.tensor(numbers)

    at_verb = probes.linear_probe(model, tokens, target, ["embed.hook_out", *layers], cv=folds, pos=VERB)
    assert at_verb.low["embed.hook_out"] <= 0.5 <= at_verb.high["embed.hook_out"]
    assert (at_verb.low - at_verb.control)[layers].max() > 0
    assert at_verb.selectivity[layers].max() > at_verb.selectivity["embed.hook_out"] + 0.2

    at_noun = probes.linear_probe(model, tokens, target, "embed.hook_out", cv=folds, pos=NOUN)
    assert (at_noun.low > at_noun.control).all()


def test_prompts_of_several_lengths_are_read_at_their_last_word_however_they_are_given(smollm2: Any) -> None:
    """Beside longer prompts the tokenizer would pad them, and the last position would hold padding."""
    hook, texts = (
        "blocks.4.hook_resid_post",
        ["The cat", "The cat sat on the mat", "A dog", "A dog ran over the old bridge"],
    )
    alone = torch.cat([probes.collect_activations(smollm2, text, hook)[hook][:, -1] for text in texts])
    assert probes.collect_activations(smollm2, texts[0], hook)[hook].shape[0] == 1  # one prompt, not its letters
    streamed = [row[-1] for batch in probes.stream_activations(smollm2, texts, hook) for row in batch[hook]]
    torch.testing.assert_close(torch.stack(streamed), alone)
    y = alone @ torch.randn(alone.shape[1], generator=torch.Generator().manual_seed(0))
    y = y.tolist()
    read = probes.linear_probe(smollm2, texts, y, hook, cv=2, control=False).directions[hook]
    tokens = smollm2.to_tokens(texts)
    lengths = torch.tensor([smollm2.to_tokens(text).shape[1] for text in texts])
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    masked = probes.linear_probe(smollm2, tokens, y, hook, cv=2, control=False, mask=mask).directions[hook]
    torch.testing.assert_close(read, masked, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="give prompts of one length"):
        probes.patch_sweep(smollm2, texts[:2], texts[2:], lambda logits: logits[:, -1, 0])
