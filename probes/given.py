"""What people give the tools, made uniform: arrays, lists of tokens and text as the tensors that a model takes."""

from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probes.hooked import HookedModel


def as_tensor(values: Any) -> Tensor:
    """A tensor as it is; an array, a DataArray or nested lists as a tensor.

    >>> as_tensor([[1.0, 0.0]]).shape
    torch.Size([1, 2])
    """
    return values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))


def whole(name: str, value: Any, least: int | None = None) -> int:
    """A count or a number of something, of whichever integer type.

    >>> whole("steps", np.int64(3))
    3
    >>> whole("steps", 2.5, least=0)
    Traceback (most recent call last):
    ValueError: steps=2.5: must be a whole number, at least 0
    """
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:  # of text, a fraction, a tensor that holds several numbers
        number = None
    if number is None or (least is not None and number < least):
        raise ValueError(f"{name}={value!r}: must be a whole number{'' if least is None else f', at least {least}'}")
    return number


def as_prompts(model: HookedModel, inputs: Any) -> Any:
    """Examples as one tensor, or a list of prompts, each a tensor of the tokens that the model's own tokenizer makes.

    Arrays and lists become tensors, floats of the type of the model's weights; what else a model may take stays.
    """
    if isinstance(inputs, str | int | np.integer):
        inputs = [inputs]
    if hasattr(inputs, "__array__") and not isinstance(inputs, Tensor):
        inputs = np.asarray(inputs)
        inputs = inputs.tolist() if inputs.dtype.kind in "US" else _of_model(model, torch.as_tensor(inputs))
    if isinstance(inputs, list | tuple) and len(inputs):
        if any(isinstance(prompt, str) for prompt in inputs):
            return _tokenized(model, inputs)
        if not isinstance(inputs[0], int | np.integer):
            return [_of_model(model, as_tensor(prompt)) for prompt in inputs]
        inputs = torch.as_tensor(inputs)
    one = isinstance(inputs, Tensor) and inputs.ndim == 1 and not inputs.is_floating_point()
    return inputs[None] if one and hasattr(model, "to_tokens") else inputs


def as_batch(model: HookedModel, inputs: Any) -> Any:
    """Examples as one tensor; ValueError if they are prompts that differ in length."""
    prompts = as_prompts(model, inputs)
    if not are_tensors(prompts):
        return prompts
    if len(lengths := {len(prompt) for prompt in prompts}) > 1:
        raise ValueError(
            f"prompts of {min(lengths)} to {max(lengths)} tokens: a position must mean the same in all of them; give "
            "prompts of one length"
        )
    return torch.stack(list(prompts))


def are_tensors(prompts: Any) -> bool:
    """Whether these are a list of tensors, one for each example."""
    return isinstance(prompts, list | tuple) and len(prompts) > 0 and isinstance(prompts[0], Tensor)


def _tokenized(model: Any, prompts: Sequence[str]) -> Any:
    to_tokens = getattr(model, "to_tokens", None)
    if to_tokens is None:
        return prompts
    if getattr(model, "tokenizer", None) is None:
        raise ValueError(f"{prompts[0]!r}: this {type(model).__name__} has no tokenizer; give tokens, batch x pos")
    return [to_tokens(prompt)[0] for prompt in prompts]


def _of_model(model: Any, values: Tensor) -> Tensor:
    """Where the model is and, of floats, of the type of its weights."""
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if weight is None or values.is_floating_point() != weight.is_floating_point():
        return values if weight is None else values.to(weight.device)
    return values.to(weight)
