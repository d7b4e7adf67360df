"""CUDA graphs: a function that changes tensors in place, captured once and replayed, and what keeps one out of a graph.

A graph repeats what was done on the device, on the same places in memory. So a captured function may not ask the device
for a number, make a shape that depends on numbers, or copy anything from the host; and what it reads has to stay.
"""

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tms_hooks.errors import say_once

WARM_UP = 3
"""Calls before the capture, in which libraries make what they need."""
MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor)
"""Functions that make a tensor of the host's numbers."""
NO_PART = ("site-packages", "<@beartype")
"""Where code stands that nobody here wrote, such as torch and checks of types."""


def captured(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A CUDA graph of a function, or the function itself: off CUDA, or where it cannot be captured, which is said.

    It is called some times before, so whatever it changes is to be put back.
    """
    if device.type != "cuda":
        return function
    with torch.cuda.device(device):
        side, graph, held = torch.cuda.Stream(), torch.cuda.CUDAGraph(), list[Tensor]()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            why = hindrance(function, held)
            for _ in range(WARM_UP if why is None else 0):
                function()
        torch.cuda.current_stream().wait_stream(side)
        if why is None:
            try:  # the outer context gives the stream back, which the inner one keeps if the capture fails
                with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, stream=side):
                    function()
                return partial(_replay, graph, held)
            except RuntimeError as error:
                why = str(error).splitlines()[0]
    say_once(f"device={str(device)!r}: steps run one by one, which takes many times as long as a CUDA graph: {why}")
    return function


def hindrance(function: Callable[[], None], held: list[Tensor] | None = None) -> str | None:
    """Call a function and say which part of it keeps it out of a CUDA graph; None if it does nothing that does.

    `held` gets all tensors that it reads and has not made itself.
    """
    try:
        with _Numbers(), _Answers([] if held is None else held):
            function()
    except _CannotCapture as told:
        frames = traceback.extract_tb(told.__traceback__)
        part = [f for f in frames if f.filename != __file__ and not any(name in f.filename for name in NO_PART)][-1]
        return f"{part.name} ({Path(part.filename).name}, line {part.lineno}) {told}"
    return None


def _replay(graph: torch.cuda.CUDAGraph, held: list[Tensor]) -> None:
    """Replay a graph while all that it reads is held, for it knows nothing but addresses."""
    graph.replay()


class _CannotCapture(Exception):
    """What a function does that no graph can hold."""


class _Answers(TorchDispatchMode):
    """Refuses operations that the host and the device cannot do without each other."""

    def __init__(self, held: list[Tensor]) -> None:
        super().__init__()
        self.held, self.made = held, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.data_dependent_output in func.tags:
            raise _CannotCapture(f"asks for a number ({func}); it has to go on with the tensor")
        if torch.Tag.dynamic_output_shape in func.tags and not _picks_by_number(func, args):
            raise _CannotCapture(f"makes a shape that depends on numbers ({func}); use torch.where")
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.held += [x for x in read if x.untyped_storage()._cdata not in self.made]
        out = func(*args, **(kwargs or {}))
        written = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        self.made |= {x.untyped_storage()._cdata for x in written}
        if len({x.device for x in (*read, *written)}) > 1:
            raise _CannotCapture(f"copies between devices ({func}); make what it needs once, before training")
        return out


class _Numbers(TorchFunctionMode):
    """Refuses tensors that are made of the host's numbers: these would be copied at every call."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = args[1] if func in (Tensor.__getitem__, Tensor.__setitem__) else ()
        listed = any(isinstance(i, list | np.ndarray) for i in (indices if isinstance(indices, tuple) else (indices,)))
        if func in MAKERS or listed:
            raise _CannotCapture(f"makes a tensor of numbers ({func.__name__}); make it once, before training")
        return func(*args, **(kwargs or {}))


def _picks_by_number(func: Any, args: Any) -> bool:
    """Whether an operation is indexing without masks, whose shape is known."""
    masks = (torch.bool, torch.uint8)
    return func is torch.ops.aten.index.Tensor and all(i is None or i.dtype not in masks for i in args[1])
