"""Prompts on which heads of real transformers are known to fire, with the pairs of tokens on which they do.

Each begins with a start token, on which a head rests that finds nothing: without one it would rest on the first word.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

STORIES = (
    "When {other} and {giver} went to the store, {giver} gave a drink to",
    "While {other} and {giver} were at the beach, {giver} threw a ball to",
    "After {other} and {giver} sat down in the garden, {giver} passed a plate to",
    "Then {other} and {giver} had a long argument, and {giver} said sorry to",
)
NAMES = (("Mary", "John"), ("Anna", "Tom"), ("Sarah", "Paul"), ("Kate", "Mark"), ("Emma", "James"))
"""The indirect object, who is to be named next, and the giver, who is named twice."""
REPEATED = (
    " red fish seven moon table green river stone",
    " window paper cloud eight horse yellow bread lamp",
    " music four garden silver train apple winter door",
)
FRAMES = (
    "Yesterday {a} met {b} at the {place}, and then {b} gave {a} a {thing}.",
    "The {thing} belongs to {a}, but {b} took the {thing} to the {place}.",
    "Is the {thing} in the {place}? No, {a} says the {thing} is lost.",
    "{a} and {b} like the {place}; {a} and {b} go to the {place} often.",
    '"Where is my {thing}?" asked {a}. "In the {place}," said {b}.',
    "First {a} cleaned the {place}, next {b} painted the {place}.",
    "If {a} sells the {thing}, {b} will buy the {thing} at once.",
    "Nobody in the {place} knew that {a} had hidden a {thing} there.",
    "A {thing} and a {place} are what {a} dreams of, {b} thinks.",
    "Because {b} was late, {a} left the {place} without the {thing}.",
    "Dear {a}, thank you for the {thing}. Yours, {b}.",
    "In the {place} there was a {thing}, and on the {thing} sat {a}.",
    "{b}: I saw {a} near the {place}. {a}: I saw {b} there too.",
    "To do: call {a}, clean the {place}, call {b}, fix the {thing}.",
    "After the rain {a} walked from the {place} to the other {place} alone.",
    "The old {place} was empty when {a}, who loved {b}, arrived.",
    "Every {thing} has a price, and this {thing} costs {a} too much.",
    "My friend {a} has two sisters; one of them, {b}, owns a {place}.",
    "When the {thing} broke, {b} told {a} that the {place} was closed.",
    "No {thing}, no {place}, no {a}: that was a sad day for {b}.",
    "def {a}(): return the {thing} of {b} or the {place}",
    "Chapter one. {a} finds a {thing}. Chapter two. {b} finds a {thing}.",
    "Both {a} and {b} were born in 1980 and left the {place} in 2003.",
    "What {a} wants is a {thing}, what {b} wants is a {place}.",
    "Later that week {b} showed {a} the {place} where the {thing} was made.",
    "Can {a} carry the {thing} alone, or should {b} help {a}?",
    "The {place} opens at nine, so {a} waits with {b} outside the {place}.",
    "Once upon a time {a} lived in a {place} with a golden {thing}.",
    "{a} paid for the {thing}; {b} paid for nothing.",
    "Do not tell {b}, but {a} has sold the {place} and the {thing}.",
    "Red {thing}, blue {thing}, green {thing}: {a} counts them all.",
    "She saw {a} in the {place}, he saw {b} in the {place}, I saw no one.",
    "From: {a}. To: {b}. Subject: the {thing} you left in my {place}.",
    "It was {a}, not {b}, who found the {thing} under the {place}.",
    "As soon as {a} reached the {place}, the {thing} fell on {b}.",
    "The keys to the {place} are with {b}, and {b} is with {a}.",
    "Why would {a} steal a {thing} from {b}, of all people?",
    "One {thing} for {a}, one {thing} for {b}, and none for me.",
    "Although {a} hates the {place}, {a} took {b} to the {place} again.",
    "News: {thing} found in {place}. {a} and {b} deny everything.",
)
"""Sentences of many kinds, so that heads of many kinds fire on some of their words and not on others."""
PEOPLE = (
    *("Mary", "John", "Anna", "Tom", "Sarah", "Paul", "Kate", "Mark", "Emma", "James", "Lisa", "David"),
    *("Alice", "Peter", "Laura", "Simon", "Jane", "Robert", "Helen", "Frank", "Susan", "Daniel", "Maria", "George"),
)
THINGS = ("book", "lamp", "horse", "guitar", "cake", "knife", "radio", "shirt", "ring", "chair", "map", "coat")
PLACES = (
    *("garden", "kitchen", "library", "school", "hotel", "station"),
    *("museum", "church", "market", "castle", "forest", "harbor"),
)


class Prompts(NamedTuple):
    """Texts of one length as tokens, with the pairs of positions on which a head of their kind would fire."""

    tokens: Int[Tensor, "example pos"]
    pairs: Int[Tensor, "pair 3"]
    """Example, query position, key position."""


def indirect_object_prompts(model: Any) -> list[Prompts]:
    """Last token -> the indirect object's name (Wang et al. 2022, "Interpretability in the Wild")."""
    texts = []
    for story, (other, giver) in product(STORIES, NAMES):
        tokens = model.to_tokens(story.format(other=other, giver=giver), prepend_bos=True)[0]
        [position] = (tokens == model.to_tokens(f" {other}", prepend_bos=False)[0, 0]).nonzero()
        texts.append((tokens, torch.tensor([[len(tokens) - 1, int(position)]])))
    return _by_length(texts)


def repeated_prompts(model: Any) -> list[Prompts]:
    """Each token of a sequence's second run -> the token after its first occurrence (Olsson et al. 2022, induction)."""
    texts = []
    for text in REPEATED:
        once = model.to_tokens(text, prepend_bos=False)[0]
        tokens = torch.cat([model.to_tokens(text, prepend_bos=True)[0], once])
        second = torch.arange(len(tokens) - len(once), len(tokens) - 1)
        texts.append((tokens, torch.stack([second, second - len(once) + 1], dim=1)))
    return _by_length(texts)


class Sentences(NamedTuple):
    """Sentences of one length as tokens, and the frame that each fills."""

    tokens: Int[Tensor, "example pos"]
    frame: Int[Tensor, " example"]


def framed_sentences(model: Any, frames: range, per_frame: int, words: int) -> list[Sentences]:
    """Some of `FRAMES`, each filled so many times with words drawn from one half of each list: the first, 0, or 1.

    Sentences of other frames and of the other half share no name, no noun of the lists, and no wording.
    """
    generator = torch.Generator().manual_seed(words)
    halves = [list_of[words * len(list_of) // 2 :][: len(list_of) // 2] for list_of in (PEOPLE, THINGS, PLACES)]
    found = []
    for frame, _ in product(frames, range(per_frame)):
        people, things, places = ([half[i] for i in torch.randperm(len(half), generator=generator)] for half in halves)
        text = FRAMES[frame].format(a=people[0], b=people[1], thing=things[0], place=places[0])
        found.append((model.to_tokens(text, prepend_bos=True)[0], frame))
    lengths = sorted({len(tokens) for tokens, _ in found})
    same = [[(tokens, frame) for tokens, frame in found if len(tokens) == length] for length in lengths]
    return [Sentences(torch.stack([t for t, _ in each]), torch.tensor([frame for _, frame in each])) for each in same]


def _by_length(texts: Sequence[tuple[Tensor, Tensor]]) -> list[Prompts]:
    """Texts of equal length in one batch each, their pairs numbered by example."""
    batches = []
    for length in sorted({len(tokens) for tokens, _ in texts}):
        same = [(tokens, pairs) for tokens, pairs in texts if len(tokens) == length]
        numbered = [torch.nn.functional.pad(pairs, (1, 0), value=i) for i, (_, pairs) in enumerate(same)]
        batches.append(Prompts(torch.stack([tokens for tokens, _ in same]), torch.cat(numbered)))
    return batches
