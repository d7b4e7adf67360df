"""Worlds that claims are tried in: trained models as they would be if a claim were true, or false."""

from collections.abc import Callable
from math import pi

import torch

from tms_hooks.claims import Verdict, claims
from tms_hooks.linalg import random_directions as random_directions

MODELS = 20
"""How many models a world has."""


def ring(corners: int, features: int, norm: float = 1.0, models: int = MODELS) -> torch.Tensor:
    """A regular polygon, each model turned another way; features beyond the corners are zero."""
    turns = torch.arange(models)[:, None] + 2 * pi / corners * torch.arange(corners)
    W = torch.zeros(models, features, 2)
    W[:, :corners] = norm * torch.stack([turns.cos(), turns.sin()], dim=-1)
    return W


def outcome_of(name: str) -> Callable[[Verdict], str]:
    """Judge's verdict -> what the claim of this name makes of it."""
    return lambda verdict: claims()[name].decide(verdict).verdict


UNDECIDED = ("too few models", "at the threshold", "not measurable", "does not distinguish")
"""Outcomes that neither support nor refute."""


def outcomes_of(name: str) -> Callable[[Verdict], dict[str, str]]:
    """Judge's verdict -> what each part of the claim of this name comes to."""
    return lambda verdict: {part: found.outcome for part, found in claims()[name].decide(verdict).parts.items()}
