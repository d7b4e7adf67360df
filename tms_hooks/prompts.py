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


def _by_length(texts: Sequence[tuple[Tensor, Tensor]]) -> list[Prompts]:
    """Texts of equal length in one batch each, their pairs numbered by example."""
    batches = []
    for length in sorted({len(tokens) for tokens, _ in texts}):
        same = [(tokens, pairs) for tokens, pairs in texts if len(tokens) == length]
        numbered = [torch.nn.functional.pad(pairs, (1, 0), value=i) for i, (_, pairs) in enumerate(same)]
        batches.append(Prompts(torch.stack([tokens for tokens, _ in same]), torch.cat(numbered)))
    return batches
