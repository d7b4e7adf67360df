"""Time to equal held-out loss: how long until our engine is where the plain loop is after so many steps?

The plain loop is left as people run it, Adam at a constant 1e-3. Ours takes the schedule that we recommend, Adam at
1e-2 with cosine decay, and the first of a ladder of lengths that reaches the loss. Much of the gain is the schedule,
which any loop could adopt: that is why this number is no part of the ratio at equal work.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import tms_hooks as tms
from benchmarks.equal_work import engine_for, use_threads
from benchmarks.settings import Setting
from tms_hooks.training import torch_engine
from tms_hooks.training.batches import held_out
from tms_hooks.training.recipe import Recipe
from tms_hooks.training.state import State

LADDER = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Lengths that are tried, in steps of the plain loop."""


def compare_at_equal_loss(setting: Setting, threads: int) -> dict[str, Any]:
    """Seconds of both, steps of both, and the losses: mean over models, on rows that nobody trained on."""
    use_threads(threads)
    setting = setting.fewer(setting.loss_models)
    plain, recipes = setting.plain(), setting.recipes()
    plain.train(1)
    began = time.perf_counter()
    plain.train(setting.loss_steps)
    plain_seconds = time.perf_counter() - began
    weights = {name: w.split([len(recipe.seeds) for recipe in recipes]) for name, w in plain.weights().items()}
    wanted = loss_of(recipes, [{name: parts[i] for name, parts in weights.items()} for i in range(len(recipes))])
    engine = engine_for(recipes[0])
    for recipe in recipes:  # compile
        engine.advance(recipe, State.initial(recipe, None, "cpu"), 0, 1)
    steps, ours_seconds, reached = 0, float("nan"), float("nan")
    for rung in LADDER:
        steps = max(round(rung * setting.loss_steps), 1)
        optimizer = tms.Adam(lr=1e-2, schedule="cosine")
        shorter = [replace(recipe, steps=(steps,), optimizer=optimizer) for recipe in recipes]
        states = [State.initial(recipe, None, "cpu") for recipe in shorter]
        began = time.perf_counter()
        for recipe, state in zip(shorter, states, strict=True):
            engine.advance(recipe, state, 0, steps)
        ours_seconds = time.perf_counter() - began
        reached = loss_of(shorter, [state.weights for state in states])
        if reached <= wanted:
            break
    return {
        "setting": setting.name,
        "threads": threads,
        "models": setting.models,
        "plain_steps": setting.loss_steps,
        "ours_steps": steps,
        "plain_loss": wanted,
        "ours_loss": reached,
        "reached": reached <= wanted,
        "plain_seconds": plain_seconds,
        "ours_seconds": ours_seconds,
        "ratio": plain_seconds / ours_seconds,
    }


def loss_of(recipes: Sequence[Recipe], weights: Sequence[dict[str, Tensor]]) -> float:
    """Mean over models of the held-out loss, heads included."""
    losses = []
    for recipe, own in zip(recipes, weights, strict=True):
        feature_loss, head_loss = torch_engine.evaluate(recipe, own, held_out(recipe))
        losses.append(feature_loss.sum(1) + recipe.setting.qk_weight * head_loss.sum(1))
    return float(torch.cat(losses).mean())
