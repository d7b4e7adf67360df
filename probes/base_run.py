"""The run that patches change, and how a patched run repeats as little of it as it can.

A sweep runs the model hundreds of times, and each run differs from one base run at one place only. So
- many patches share a run: its batch holds one whole copy of the examples per patch;
- the blocks before a patch are not computed: each returns what it returned in the base run;
- nor are the positions before a patch, where none hears of a later one: their keys and values are kept;
- the unembedding and the last block's MLP are computed only at the positions that the metric reads.
The first asks that the model treats examples independently. The others are tried out on the base run itself, before the
first patched run: where they do not reproduce it, the model is run as a whole.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import deepcopy
from functools import cached_property, partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from probes.architectures import turns_by_length
from probes.hooked import (
    HookedModel,
    HookFn,
    adding_zeros,
    blocks,
    fires_again,
    output_tensors,
    recording,
    temporary_hooks,
)
from probes.liveness import NOT_REPEATABLE, apart
from probes.names import axes

Metric = Callable[[Any], Tensor]
"""The model's output on the examples -> one number per example, such as a difference of two logits."""


class Savings(NamedTuple):
    """What a patched run may leave out, as tried out on the base run."""

    blocks: int = sys.maxsize
    """At least so many, or none."""
    read: list[int] | None = None
    """The only positions to unembed; None for all."""
    trim: bool = False
    """Whether the last block's MLP may be computed at those positions alone."""


class BaseRun:
    """One run without patches, remembered for the runs with some.

    Skipping blocks is exact if they hear of each other only through the residual stream. (A bridge's `start_at_layer`
    gives the same numbers, but computes the earlier blocks and throws their output away.)

    Attributes:
        metrics: of this run, one number per example.
        n_examples: their number.
        activations: at each hook that fired, in the order of firing.
        gradients: of the metric with respect to the activation at each hook, where there is one.
    """

    def __init__(self, model: HookedModel, inputs: Any, hooks: Iterable[str], metric: Metric) -> None:
        self.model, self.inputs, self.metric = model, inputs, metric
        self.activations: dict[str, Tensor] = {}
        self._done: dict[str, int] = {}  # at each hook: blocks that are done, and one more if the unembedding has begun
        self._blocks, self._block_outputs = blocks(model), list[Any]()
        unembed = getattr(model, "unembed", None)
        self._unembed = unembed if isinstance(unembed, nn.Module) else None
        self._keys_and_values: Any = None
        self.gradients = self._record(hooks)
        self.n_examples = len(output_tensors(self.output)[0])
        self.metrics = self._metrics(self.output, 1)[0]

    def start(self, hook: str) -> int:
        """How many blocks a run that is patched at this hook skips."""
        return min(self._done[hook], len(self._blocks)) if self._done[hook] >= self._savings.blocks else 0

    def cut(self, hook: str, pos: int | None) -> int:
        """The first position that a run which is patched there must compute: of those before it all stays as it was."""
        if not pos or hook not in self._cuttable:
            return 0
        read = self._savings.read
        return pos if read is None else min(pos, max(read))

    def rerun(
        self, copies: int, fwd_hooks: Sequence[tuple[str, HookFn]], reading: Sequence[str] = (), cut: int = 0
    ) -> Float[Tensor, "copy batch"]:
        """Metrics of a run on `copies` of the examples, one whole copy after the other, with the hooks that patch it.

        `reading` names hooks whose whole activations are recorded meanwhile. From a `cut` on, hooks see these positions
        alone (`behind`).
        """
        names = [*(name for name, _ in fwd_hooks), *reading]
        read = self._savings.read if all(self._done[name] <= len(self._blocks) for name in names) else None
        inside = set(self._mlp.modules()) if self._mlp else set()
        trim = self._savings.trim and read is not None
        trim = trim and not any(self.model.hook_dict[name] in inside for name in names)
        with temporary_hooks(self.model, fwd_hooks):
            output = self._run(copies, range(min(map(self.start, names))), read, cut, trim)
            return self._metrics(output, copies, read, cut)

    @torch.no_grad()
    def compare(self, inputs: Any, hooks: Sequence[str]) -> tuple[Float[Tensor, " batch"], dict[str, Tensor]]:
        """Metrics and activations of a run without patches on other inputs of the same shape."""
        with recording(self.model, hooks) as found:
            output = self.model(inputs)
        for name in hooks:
            shape, own = (tuple(run[name].shape) if name in run else None for run in (found, self.activations))
            if shape != own:
                raise ValueError(
                    f"hook {name!r}: shape {own} in the patched run, {shape} in the other; "
                    "give clean and corrupted inputs of one shape (as many examples, as many tokens)"
                )
        return self._metrics(output, 1)[0], found

    @torch.no_grad()
    def alone(self, others: Any) -> bool:
        """Whether the examples come out as they did if others are in the batch with them."""
        if not isinstance(self.inputs, Tensor | list | tuple):
            return False
        both = torch.cat([self.inputs, others]) if isinstance(self.inputs, Tensor) else [*self.inputs, *others]
        if not apart(self.model(both), self.output):
            return True
        if apart(self.model(self.inputs), self.output):
            raise ValueError(NOT_REPEATABLE)
        return False

    def live(self, hook: str) -> bool:
        """Whether the metric has a gradient other than zero there; if not, the hook may still be live."""
        gradient = self.gradients.get(hook)
        return gradient is not None and bool(gradient.isfinite().all() and gradient.any())

    def _record(self, hooks: Iterable[str]) -> dict[str, Tensor]:
        """Make the run, and return the gradients of its metric."""
        begun: list[bool] = []

        def note(name: str, value: Tensor, hook: Any) -> None:
            if name in self.activations:
                raise fires_again(name)
            self.activations[name] = value.detach().clone()
            self._done.setdefault(name, len(self._block_outputs) + len(begun))

        with ExitStack() as stack:
            for block in self._blocks:
                stack.enter_context(_collecting(block, self._block_outputs))
            if self._unembed is not None:
                stack.enter_context(self._unembed.register_forward_pre_hook(lambda *call: begun.append(True)))
            stack.enter_context(temporary_hooks(self.model, [(name, partial(note, name)) for name in hooks]))
            zeros = stack.enter_context(adding_zeros(self.model, hooks))
            with torch.enable_grad():
                output = self.model(self.inputs)
                total = self.metric(output).sum()
        self.output = tree_map_only(Tensor, Tensor.detach, output)
        self._unembed = self._unembed if begun else None
        if not (total.requires_grad and zeros):
            return {}
        gradients = torch.autograd.grad(total, list(zeros.values()), allow_unused=True)
        return {name: g for name, g in zip(zeros, gradients, strict=True) if g is not None}

    @cached_property
    def _savings(self) -> Savings:
        """What may be left out so that this run still comes out."""
        n = len(self._blocks)
        if not n or len(self._block_outputs) != n:
            return Savings()
        read = self._positions_read()
        if not self._reproduces(None, read):
            read = None
            if not self._reproduces(None, read):
                return Savings()
        used = min((done for done in self._done.values() if done), default=n)
        backwards = range(n - 1, used - 1, -1)
        least = next((block + 1 for block in backwards if not self._reproduces(block, read)), used)
        return Savings(least, read, self._trims(read))

    def _reproduces(self, block: int | None, read: list[int] | None) -> bool:
        """Whether this block returns what it did while all others are skipped; for None, whether the model does."""
        others = [i for i in range(len(self._blocks)) if i != block]
        if block is None:
            again, before = self._run(1, others, read), self.output if read is None else self.output[:, read]
        else:
            again, before = [], self._block_outputs[block]
            with _collecting(self._blocks[block], again):
                self._run(1, others, read)
        return all(_alike(a, b) for a, b in zip(output_tensors(again), output_tensors(before), strict=True))

    @cached_property
    def _cuttable(self) -> frozenset[str]:
        """Hooks at which a run from the middle on has what this run has there; none if positions hear of later ones."""
        inputs = self.inputs
        tokens = isinstance(inputs, Tensor) and inputs.ndim == 2 and not inputs.is_floating_point()
        parameters = inspect.signature(getattr(self.model, "forward", self.model)).parameters
        if not tokens or inputs.shape[1] < 2 or "past_key_values" not in parameters or self._savings == Savings():
            return frozenset()
        if turns_by_length(self.model):  # a shorter run would also change what the longer ones give
            return frozenset()
        last = inputs.shape[1] - 1
        same = {name for name, value in self.activations.items() if "pos" in axes(name, value.ndim)}
        try:
            with torch.no_grad():
                options = {"return_type": "logits_and_cache", "use_cache": True}
                again, self._keys_and_values = self.model(inputs[:, :-1], **options)
            if not _alike(again, self.output[:, :-1]):
                return frozenset()
            for cut in {(last + 1) // 2, last}:
                with recording(self.model, self.activations) as found:
                    output = self._run(1, (), None, cut)
                if not _alike(output, self.output[:, cut:]):
                    return frozenset()
                same = {n for n in same if _alike(found[n], behind(n, self.activations[n], cut))}
        except Exception:  # whatever a model raises that cannot go on from keys and values, or whose cannot be cut
            return frozenset()
        return frozenset(same)

    def _past(self, cut: int, copies: int) -> dict[str, Any]:
        """Options with which a model goes on at the cut, from keys and values of all positions before it."""
        if not cut:
            return {}
        past = deepcopy(self._keys_and_values)  # to which the run adds its own
        if (fewer := self.inputs.shape[1] - 1 - cut) > 0:
            past.crop(-fewer)
        past.batch_select_indices(torch.arange(len(self.inputs)).repeat(copies))
        return {"past_key_values": past}

    @property
    def _mlp(self) -> nn.Module | None:
        """Of the last block."""
        found = getattr(self._blocks[-1], "mlp", None) if self._blocks else None
        return found if isinstance(found, nn.Module) else None

    def _trims(self, read: list[int] | None) -> bool:
        """Whether this run comes out if the last block's MLP is computed only at the positions to read."""
        if read is None or self._mlp is None:
            return False
        try:
            again = self._run(1, range(len(self._blocks) - 1), read, trim=True)
        except Exception:  # whatever is raised by a block whose MLP is called in another way
            return False
        return _alike(again, self.output[:, read])

    @torch.no_grad()
    def _run(self, copies: int, skip: Iterable[int], read: list[int] | None, cut: int = 0, trim: bool = False) -> Any:
        """Output on copies of the examples, skipping blocks, at the positions to read (None: all) from the cut on."""
        past = self._past(cut, copies)
        inputs = repeat(self.inputs[:, cut:] if cut else self.inputs, copies)

        def again(tensor: Tensor) -> Tensor:
            return repeat(tensor[:, cut:] if cut else tensor, copies)

        with ExitStack() as stack:
            kept = {self._blocks[i]: tree_map_only(Tensor, again, self._block_outputs[i]) for i in skip}
            stack.enter_context(_returning(kept))
            if read is not None and self._unembed is not None:
                here = [position - cut for position in read if position >= cut]
                stack.enter_context(
                    self._unembed.register_forward_pre_hook(lambda _, args: (args[0][:, here], *args[1:]))
                )
                if trim and self._mlp is not None and self._blocks[-1] not in kept:
                    stack.enter_context(_only_at(self._mlp, here))
            return self.model(inputs, **past)

    def _metrics(
        self, output: Any, copies: int, read: list[int] | None = None, cut: int = 0
    ) -> Float[Tensor, "copy batch"]:
        """The metric, called on one copy of the examples at a time, of an output at the positions to read."""
        full, there = None, list[int]()
        if read is not None or cut:
            full = self.output.clone()
            there = [position for position in read or range(full.shape[1]) if position >= cut]
        rows = []
        for copy in range(copies):
            examples = slice(copy * self.n_examples, (copy + 1) * self.n_examples)
            part = tree_map_only(Tensor, itemgetter(examples), output)
            if full is not None:
                full[:, there] = part
                part = full
            with torch.no_grad():
                value = self.metric(part)
            if tuple(value.shape) != (self.n_examples,):
                raise ValueError(
                    f"the metric has shape {tuple(value.shape)}, not ({self.n_examples},): return one number per "
                    "example, without a mean over them"
                )
            if not value.isfinite().all():
                raise ValueError(f"the metric is not finite: {value.tolist()}")
            rows.append(value.to("cpu", torch.float64, copy=True))
        return torch.stack(rows)

    def _positions_read(self) -> list[int] | None:
        """Positions at which the metric reads the output; None if that is all of them, or is not known."""
        output = self.output
        if not isinstance(output, Tensor) or output.ndim != 3 or self._unembed is None:
            return None
        watched = output.as_subclass(_Watched)
        watched.positions = set()
        self.metric(watched)
        return sorted(watched.positions) if 0 < len(watched.positions) < output.shape[1] else None


class _Watched(Tensor):
    """An output "batch pos vocab" that notes at which positions it is indexed; any other use reads all of them."""

    positions: set[int]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note what is read, and return plain tensors."""
        with torch._C.DisableTorchFunctionSubclass():
            for watched in output_tensors((args, kwargs or {})):
                if isinstance(watched, _Watched) and func not in _ABOUT_SHAPE:
                    everywhere = torch.arange(watched.shape[1], device=watched.device)[None, :, None]
                    indexed = func is Tensor.__getitem__ and args[0] is watched
                    read = everywhere.expand(watched.shape)[args[1]] if indexed else everywhere
                    watched.positions.update(read.unique().tolist())
            return func(*args, **(kwargs or {}))


# the property getters and methods that read no entry
_ABOUT_SHAPE = {getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device")}
_ABOUT_SHAPE |= {Tensor.size, Tensor.dim, Tensor.__len__}


def repeat(inputs: Any, copies: int) -> Any:
    """As many copies of the examples, a tensor or a list of prompts, one after the other."""
    if isinstance(inputs, Tensor):
        return inputs.repeat(copies, *[1] * (inputs.ndim - 1))
    return [inputs] * copies if isinstance(inputs, str) else list(inputs) * copies


def behind(hook: str, value: Tensor, cut: int) -> Tensor:
    """An activation's positions from the cut on."""
    axis = axes(hook, value.ndim).index("pos") if cut else 0
    return value.narrow(axis, cut, value.shape[axis] - cut)


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(
        a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()) if b.numel() else 0.0, equal_nan=True
    )


@contextmanager
def _only_at(module: nn.Module, positions: list[int]) -> Iterator[None]:
    """Make it compute these positions alone; its output is 0 elsewhere, where nobody may read it."""
    usual, before = module.forward, vars(module).get("forward")

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        found = usual(x[:, positions], *args, **kwargs)
        out = found.new_zeros(*x.shape[:2], *found.shape[2:])
        out[:, positions] = found
        return out

    try:
        vars(module)["forward"] = forward
        yield
    finally:
        vars(module).pop("forward", None)
        if before is not None:
            vars(module)["forward"] = before


def _collecting(module: nn.Module, store: list[Any]) -> AbstractContextManager[Any]:
    return module.register_forward_hook(lambda *run: store.append(tree_map_only(Tensor, Tensor.detach, run[-1])))


@contextmanager
def _returning(values: Mapping[nn.Module, Any]) -> Iterator[None]:
    """Make each of these modules return its value, without computing anything."""
    before = {module: vars(module).get("forward") for module in values}
    try:
        for module, value in values.items():
            vars(module)["forward"] = lambda *args, value=value, **kwargs: value
        yield
    finally:
        for module, forward in before.items():
            vars(module).pop("forward", None)
            if forward is not None:
                vars(module)["forward"] = forward
