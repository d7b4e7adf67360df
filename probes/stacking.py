"""Many interventions in one batch, each started at the block where it acts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from probes.hooked import HookedModel, HookFn, output_tensors, temporary_hooks


class BaseRun:
    """One run without interventions, remembered so that others need not repeat what comes before theirs.

    Blocks that lie before an intervention are not run again: they return what they did in this run. That is
    exact wherever later blocks see the earlier ones only through the residual stream. Whether they do is tested
    by such a run without intervention; if its output differs, every run is a full one. (A bridge's own
    `start_at_layer` gives the same numbers but runs the earlier blocks and throws their output away.)

    Attributes:
        output: of the model.
        n_examples: length of the first axis of the output.
        shapes: of the activation at each hook.
    """

    @torch.no_grad()
    def __init__(self, model: HookedModel, inputs: Any, hooks: Iterable[str]) -> None:
        self.model, self.inputs = model, inputs
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._starts: dict[str, int] = {}
        self._blocks = _blocks(model)
        self._block_outputs: list[Any] = []
        handles = [b.register_forward_hook(lambda *run: self._block_outputs.append(run[-1])) for b in self._blocks]
        try:
            with temporary_hooks(model, [(name, self._observe(name)) for name in hooks]):
                self.output = model(inputs)
        finally:
            for handle in handles:
                handle.remove()
        self.n_examples = len(output_tensors(self.output)[0])
        for name, shape in self.shapes.items():
            if shape[0] != self.n_examples:
                raise ValueError(f"hook {name!r} holds shape {shape}: no axis of the {self.n_examples} examples to patch along")
        self._can_start = {start: self._reproduces(start) for start in set(self._starts.values())}

    def start(self, hook: str) -> int:
        """How many blocks a run that intervenes at this hook may skip."""
        return self._starts[hook] if self._can_start[self._starts[hook]] else 0

    @torch.no_grad()
    def rerun(self, copies: int, fwd_hooks: Iterable[tuple[str, HookFn]], start: int = 0) -> Any:
        """Output of the model on `copies` of the examples, one copy after the other, with hooks; skips `start` blocks."""
        fwd_hooks = list(fwd_hooks)
        hooked = temporary_hooks(self.model, fwd_hooks) if fwd_hooks else nullcontext()
        value = map_tensors(lambda t: _repeat(t, copies), self._block_outputs[start - 1]) if start else None
        with _returning(self._blocks[:start], value), hooked:
            return self.model(_repeat(self.inputs, copies))

    def _observe(self, name: str) -> HookFn:
        def hook_fn(value: Tensor, hook: Any) -> None:
            self.shapes.setdefault(name, tuple(value.shape))
            self._starts.setdefault(name, len(self._block_outputs))

        return hook_fn

    def _reproduces(self, start: int) -> bool:
        if len(self._block_outputs) != len(self._blocks):
            return False
        pairs = zip(output_tensors(self.rerun(1, (), start)), output_tensors(self.output), strict=True)
        return all(torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()), equal_nan=True) for a, b in pairs)


def map_tensors(fn: Callable[[Tensor], Any], output: Any) -> Any:
    """The same structure of tuples and mappings with `fn` applied to every tensor in it."""
    if isinstance(output, Tensor):
        return fn(output)
    if isinstance(output, Mapping):
        return type(output)(**{key: map_tensors(fn, part) for key, part in output.items()})
    if isinstance(output, tuple | list):
        parts = [map_tensors(fn, part) for part in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    return output


def _blocks(model: Any) -> list[nn.Module]:
    blocks = getattr(model, "blocks", None)
    return list(blocks) if isinstance(blocks, nn.ModuleList) else []


def _repeat(inputs: Any, copies: int) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.repeat(copies, *[1] * (inputs.ndim - 1))
    return [inputs] * copies if isinstance(inputs, str) else list(inputs) * copies


@contextmanager
def _returning(blocks: list[nn.Module], value: Any) -> Iterator[None]:
    """Make the blocks return `value` without computing anything."""
    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            vars(block)["forward"] = lambda *args, **kwargs: value
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            if forward is None:
                vars(block).pop("forward", None)
            else:
                vars(block)["forward"] = forward
