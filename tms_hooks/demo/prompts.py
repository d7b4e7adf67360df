"""Prompts on which real heads are known to fire, and the heads that do."""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
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
FIRES = 0.5
"""A head fires on a pair of tokens if its pattern is at least this (Franco & Crovella 2024)."""


class Prompt(NamedTuple):
    """A text as tokens, with the pairs of positions on which a head of its kind would fire."""

    tokens: Int[Tensor, " pos"]
    pairs: Int[Tensor, "pair 2"]
    """Query position, key position."""


def indirect_object_prompts(model: Any) -> list[Prompt]:
    """Last token -> the indirect object's name (Wang et al. 2022, "Interpretability in the Wild")."""
    prompts = []
    for story, (other, giver) in product(STORIES, NAMES):
        tokens = model.to_tokens(story.format(other=other, giver=giver))[0]
        [position] = (tokens == model.to_tokens(f" {other}", prepend_bos=False)[0, 0]).nonzero()
        prompts.append(Prompt(tokens, torch.tensor([[len(tokens) - 1, int(position)]])))
    return prompts


def repeated_prompts(model: Any) -> list[Prompt]:
    """Each token of a sequence's second run -> the token after its first occurrence (Olsson et al. 2022, induction)."""
    prompts = []
    for text in REPEATED:
        once = model.to_tokens(text, prepend_bos=False)[0]
        tokens = torch.cat([model.to_tokens(text)[0], once])
        second = torch.arange(len(tokens) - len(once), len(tokens) - 1)
        prompts.append(Prompt(tokens, torch.stack([second, second - len(once) + 1], dim=1)))
    return prompts


def patterns(model: Any, tokens: Int[Tensor, " pos"]) -> Float[Tensor, "layer head query_pos key_pos"]:
    """Attention of every head on one prompt."""
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens[None], names_filter=lambda name: name.endswith("attn.hook_pattern"))
    return torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"][0] for layer in range(model.cfg.n_layers)])


def firing(model: Any, prompts: Sequence[Prompt]) -> pd.DataFrame:
    """Every (head, prompt, pair) whose pattern is at least 0.5: layer, head, prompt, query, key, pattern."""
    found = []
    for number, prompt in enumerate(prompts):
        at_pairs = patterns(model, prompt.tokens)[:, :, prompt.pairs[:, 0], prompt.pairs[:, 1]]
        for layer, head, pair in (at_pairs >= FIRES).nonzero().tolist():
            query, key = prompt.pairs[pair].tolist()
            found.append((layer, head, number, query, key, float(at_pairs[layer, head, pair])))
    return pd.DataFrame(found, columns=["layer", "head", "prompt", "query", "key", "pattern"])
