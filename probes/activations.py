"""Activations at named hooks: what a model computes on the way, copied out batch by batch.

`collect_activations` gives one tensor per hook for all inputs, in memory or in a file. `stream_activations` gives
one batch after the other, for a running fit on more inputs than memory holds, or for prompts of several lengths.
Padding is never run: prompts of different lengths go into different batches, so that every activation is of a token
that is there, whatever the model does with padding.
"""

import inspect
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes.given import are_tensors, as_prompts, whole
from probes.hooked import HookedModel, check_hooks, recording
from probes.liveness import require_repeatable
from probes.names import block_of

TOKENS_PER_RUN = 8192
"""Of a batch, where no batch size is given: what attention keeps of 8 prompts of 1,024 tokens is a few gigabytes."""


def rows_per_run(inputs: Any, most: int) -> int:
    """How many examples to run at once: fewer than `most` where they are long."""
    tokens = isinstance(inputs, Tensor) and inputs.ndim == 2 and not inputs.is_floating_point()
    return max(1, min(most, TOKENS_PER_RUN // inputs.shape[1])) if tokens and inputs.shape[1] else most


def _batches(prompts: Any, batch_size: int | None) -> Iterator[Any]:
    """Consecutive examples of one length together, as many as fit."""
    groups: Iterable[Any] = [prompts]
    if are_tensors(prompts):
        groups = (torch.stack(list(alike)) for _, alike in groupby(prompts, key=lambda prompt: prompt.shape))
    for group in groups:
        size = rows_per_run(group, 256) if batch_size is None else whole("batch_size", batch_size, least=1)
        yield from (group[i : i + size] for i in range(0, len(group), size))


def stream_activations(
    model: HookedModel, inputs: Any, hooks: str | Iterable[str], *, batch_size: int | None = None
) -> Iterator[dict[str, Tensor]]:
    """Activations at the named hooks, one dictionary of copies on the CPU per batch.

    Inputs are a tensor or a list of prompts (strings, or the tokens of each), cut into batches along its first axis and
    wherever the length of the prompts changes: sort long lists by length. They may also be an iterator of such inputs.
    Without a `batch_size`, a batch has 256 examples, or as many as have 8,192 tokens. A bridge runs no further than the
    last block named.

    Raises:
        KeyError: an unknown hook.
        ValueError: a hook that does not fire, or fires more than once in a run; no inputs, or a model in train mode
            whose runs differ.
    """
    return (activations for _, activations in _runs(model, inputs, check_hooks(model, hooks), batch_size))


def _runs(model: HookedModel, inputs: Any, names: list[str], batch_size: int | None) -> Iterator[tuple[int, Any]]:
    """Number of examples in each batch, and their activations."""
    parts, empty = inputs if isinstance(inputs, Iterator) else [inputs], True
    for batch in (batch for part in parts for batch in _batches(as_prompts(model, part), batch_size)):
        if empty:
            require_repeatable(model, batch)
        empty = False
        read = recording(model, names, keep=lambda value: value.detach().to("cpu", copy=True), once=True)
        with torch.no_grad(), read as found:
            model(batch, **stop_after(model, names))
        for name in names:
            if name not in found:
                raise ValueError(f"hook {name!r} does not fire on these inputs; probes.audit_hooks tells which do")
        yield len(batch), {name: found[name] for name in names}
    if empty:
        raise ValueError("inputs is empty: give at least one example")


def collect_activations(
    model: HookedModel,
    inputs: Any,
    hooks: str | Iterable[str],
    *,
    batch_size: int | None = None,
    directory: Path | str | None = None,
) -> dict[str, Tensor]:
    """Activations at the named hooks on all inputs: `{name: "example ..."}`, copies on the CPU.

    With a `directory` each hook is written to `<name>.npy` there, batch by batch, and the tensors returned are
    maps of those files: memory stays that of one batch (bfloat16 is stored as float32).

    Raises:
        KeyError: an unknown hook.
        TypeError: inputs of unknown length.
        ValueError: as `stream_activations`, or a shape that changes from batch to batch.
    """
    if isinstance(inputs, Iterator):
        raise TypeError("inputs is an iterator of unknown length: give a tensor or a list, or use stream_activations")
    inputs = as_prompts(model, inputs)
    rows: dict[str, Tensor] = {}
    start = 0
    for n, activations in _runs(model, inputs, check_hooks(model, hooks), batch_size):
        stop = start + n
        for name, value in activations.items():
            if name not in rows:
                file = None if directory is None else Path(directory, f"{name}.npy.partial")
                rows[name] = _room(value, len(inputs), file)
            expected = (n, *rows[name].shape[1:])
            if tuple(value.shape) != expected:
                raise ValueError(
                    f"hook {name!r}: shape {tuple(value.shape)} for examples {start} to {stop - 1}, not {expected}; "
                    "give inputs of one length, or take batch by batch with stream_activations"
                )
            rows[name][start:stop] = value
        start = stop
    if directory is not None:
        for name in rows:  # a file gets its name once it is complete
            Path(directory, f"{name}.npy.partial").replace(Path(directory, f"{name}.npy"))
    return rows


def _room(like: Tensor, n_rows: int, file: Path | None) -> Tensor:
    """Room for rows like these, in memory or mapped from a file."""
    shape = (n_rows, *like.shape[1:])
    if file is None:
        return like.new_empty(shape)
    file.parent.mkdir(parents=True, exist_ok=True)
    dtype = str(like.dtype).removeprefix("torch.").replace("bfloat16", "float32")
    return torch.from_numpy(np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape))


def stop_after(model: Any, names: list[str]) -> dict[str, int]:
    """The option to run no further than the last of these blocks, of a model that has one."""
    last = [block for name in names if (block := block_of(name)) is not None]
    if len(last) < len(names) or "stop_at_layer" not in inspect.signature(model.forward).parameters:
        return {}
    return {"stop_at_layer": 1 + max(last)}
