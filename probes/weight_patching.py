"""Weight patching: what does a slice of the parameters do, and does it matter where training began?

`patch_weights` puts slices of one model's parameters into another for as long as a context lasts, `patched_copy` into
a copy. `init_patching` does it before training: if a slice of the initial weights decides what is learned, then models
that share this slice learn the same, more often than models that share another slice of the same norm.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import update_wrapper
from operator import attrgetter
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.given import as_tensor
from probes.hooked import nearest

M = TypeVar("M", bound=nn.Module)
CONTROLS = ("self", "redraw", "rerun")
STACKED = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O", "W_in", "W_gate", "W_out", "b_in", "b_out")
"""What a bridge copies out of its layers when it is asked for all of them at once."""
Slices = Mapping[str, Any]
"""Parameter name -> its index, as in brackets: `{"W_E": 3, "blocks.0.mlp.W_in": (..., 5)}`; `...` is all of it."""


@contextmanager
def patch_weights(model: M, source: nn.Module | Mapping[str, Any], slices: Slices) -> Iterator[M]:
    """Put slices of the source's parameters into the model, in place, until the context ends, however it ends.

    >>> from probes.transformers import load_transformer
    >>> model, donor = load_transformer("tiny", seed=0), load_transformer("tiny", seed=1)
    >>> with patch_weights(model, donor, {"W_E": 3, "blocks.0.mlp.W_out": slice(2)}):
    ...     bool((model.W_E[3] == donor.W_E[3]).all())
    True

    Tied weights are one parameter: to patch a row of a tied `W_E` is to patch that column of `W_U`.

    Args:
        model: any module, toy or bridge.
        source: a model with the same parameters, or whole parameters by name.
        slices: which part of which parameter, by its name as an attribute of the model, TransformerLens's or its own.

    Raises:
        AttributeError: an unknown parameter.
        ValueError: no slices; a source of another shape; a name that gives a copy (a bridge's stacked `W_Q`).
        IndexError: a slice outside the parameter.
    """
    if not slices:
        raise ValueError('slices is empty: name at least one, such as {"W_E": 3}')
    parts = [(name, _weight(model, name), index) for name, index in slices.items()]
    values = [_donated(source, name, weight, index) for name, weight, index in parts]
    saved = [_part(name, weight, index).clone() for name, weight, index in parts]
    try:
        with torch.no_grad():
            for (_, weight, index), value in zip(parts, values, strict=True):
                weight[index] = value
        yield model
    finally:
        with torch.no_grad():
            # in reverse: slices may overlap, as those of tied weights do
            for (_, weight, index), before in reversed(list(zip(parts, saved, strict=True))):
                weight[index] = before


def patched_copy(model: M, source: nn.Module | Mapping[str, Any], slices: Slices) -> M:
    """A copy of the model with slices of the source's parameters: the pure form of `patch_weights`."""
    copy = _copy(model)
    with patch_weights(copy, source, slices):
        return _copy(copy)


def init_patching(
    initial: M,
    donor: nn.Module | Sequence[nn.Module],
    slices: Slices,
    retrain: Callable[[list[M], list[int]], Sequence[Any]],
    compare: Callable[[Any], float],
    controls: str | Sequence[str] = CONTROLS,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Does a part of the initial weights decide what is learned? Patch it, train again, compare.

    Args:
        initial: the recipient as it was before training.
        donor: initial model or models that give their slices, each to a recipient of its own.
        slices: as in `patch_weights`.
        retrain: (initial models, seeds of their data) -> trained models. It may train these copies in place. For toys
            `lambda models, seeds: tms.train(cfg, data, init=models, seeds=seeds)`, whose run has `models`.
        compare: trained model -> the number of interest (1 if it is a hexagon, else 0; the loss; ...).
        controls:
            "self": the recipient is its own donor; must change nothing, or training is not reproducible.
            "redraw": in place of each donor's slice a random one of the same norm: is it the donor, or just a new draw?
            "rerun": the recipient as it was, trained on other data, once per donor: would it have changed anyway?
        seed: of the data of all but "rerun", and of the redraws.

    Returns:
        One row per trained model: `condition` ("unpatched", "patched", or a control), `donor` (its number, or NA), the
        data's `seed`, `outcome`, and `effect`, the outcome less that of the unpatched recipient.

    Raises:
        ValueError: an unknown control, no donors, another number of trained models, a "self" that differs from
            "unpatched"; and what `patch_weights` raises.
    """
    donors = [donor] if isinstance(donor, nn.Module) else list(donor)
    if not donors:
        raise ValueError("donor is empty: give at least one initial model")
    controls = (controls,) if isinstance(controls, str) else controls
    for control in controls:
        if control not in CONTROLS:
            raise ValueError(f"control {control!r}: {nearest(control, CONTROLS)}")
    rows: list[tuple[str, int | None, int, M]] = [("unpatched", None, seed, _copy(initial))]
    if "self" in controls:
        rows.append(("self", None, seed, patched_copy(initial, initial, slices)))
    for i, one in enumerate(donors):
        rows.append(("patched", i, seed, patched_copy(initial, one, slices)))
        if "redraw" in controls:
            rows.append(("redraw", i, seed, patched_copy(initial, _redrawn(initial, one, slices, seed + i), slices)))
        if "rerun" in controls:
            rows.append(("rerun", i, seed + 1 + i, _copy(initial)))
    trained = retrain([row[3] for row in rows], [row[2] for row in rows])
    trained = getattr(trained, "models", trained)
    if not hasattr(trained, "__len__"):
        raise TypeError(f"retrain returned {type(trained).__name__}: return the trained models, in order, or their run")
    if len(trained) != len(rows):
        raise ValueError(f"retrain returned {len(trained)} models for {len(rows)}: return one for each, in order")
    table = pd.DataFrame([row[:3] for row in rows], columns=["condition", "donor", "seed"]).astype({"donor": "Int64"})
    table["outcome"] = [float(compare(model)) for model in trained]
    table["effect"] = table.outcome - table.outcome[0]
    if (table.effect[table.condition == "self"] != 0).any():
        raise ValueError(
            f"the self control differs from the unpatched model by {float(table.effect[1]):.3g}: retrain gives two "
            "results for one model and one seed; make it a function of those alone"
        )
    return table


class _Detaching(TorchFunctionMode):
    """Within it, a deep copy copies also what torch refuses: what a run has left behind and has a gradient.

    Bridges of GPT-2, GPT-NeoX and Bloom keep their last attention pattern.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Copy a tensor that is no leaf without its history; `args` are the tensor and the copies made so far."""
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, copies = args
            return copies.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def _copy(model: M) -> M:
    made: dict[int, Any] = {}
    with _Detaching():
        copy = deepcopy(model, made)
        made |= {id(part): part for part in copy.modules()}
        for part in copy.modules():
            vars(part).update({name: _rebound(value, made) for name, value in vars(part).items() if callable(value)})
    return copy


def _rebound(value: Any, made: dict[int, Any]) -> Any:
    """A function with copies of the modules that it closes over; deepcopy leaves functions as they are.

    A bridge of Falcon wraps the forward of its layers so: the layers of a copy would run the original's.
    """
    if isinstance(value, MethodType):
        return MethodType(_rebound(value.__func__, made), _rebound(value.__self__, made))
    if isinstance(value, nn.Module):
        return deepcopy(value, made)
    if not isinstance(value, FunctionType) or not value.__closure__:
        return value
    if id(value) not in made:
        cells = tuple(CellType() for _ in value.__closure__)
        new = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        new.__kwdefaults__ = value.__kwdefaults__
        made[id(value)] = update_wrapper(new, value)
        for cell, old in zip(cells, value.__closure__, strict=True):
            cell.cell_contents = _rebound(old.cell_contents, made)
    return made[id(value)]


def _weight(model: nn.Module, name: str) -> Tensor:
    """The parameter, or the view of one, that the model has under this name."""
    try:
        weight = attrgetter(name)(model)
    except (AttributeError, NotImplementedError) as error:  # a bridge whose heads have no such matrix raises the latter
        known = [n for n, _ in model.named_parameters()] + ["W_E", "W_U", "W_Q", "W_K", "W_in", "W_out"]
        known = [one for one in known if one != name]
        raise AttributeError(f"no parameter {name!r}; {nearest(name, known)}") from error
    if not isinstance(weight, Tensor):
        raise AttributeError(f"{name!r} is {type(weight).__name__}, not a parameter; name a tensor such as 'W_E'")
    storages = {p.untyped_storage().data_ptr() for p in model.parameters()}
    if weight.untyped_storage().data_ptr() not in storages:
        layers = f"one layer's own, such as 'blocks.0.attn.{name}' or 'blocks.0.mlp.{name}'"
        instead = layers if name in STACKED else "one of model.named_parameters()"
        raise ValueError(f"{name!r} of this model is a copy, not its parameter: writing there is lost; name {instead}")
    return weight


def _donated(source: nn.Module | Mapping[str, Any], name: str, weight: Tensor, index: Any) -> Tensor:
    if isinstance(source, Mapping) and name not in source:
        raise KeyError(f"the source has no {name!r}; {nearest(name, source)}")
    whole = as_tensor(source[name]) if isinstance(source, Mapping) else attrgetter(name)(source)
    if whole.shape != weight.shape:
        raise ValueError(
            f"{name}: the source has shape {tuple(whole.shape)}, the model {tuple(weight.shape)}; use a like model"
        )
    return _part(name, whole, index).detach().to(weight, copy=True)


def _part(name: str, weight: Tensor, index: Any) -> Tensor:
    try:
        part = weight[index]
    except IndexError as error:
        raise IndexError(f"{name}[{index}]: {error}; its shape is {tuple(weight.shape)}") from error
    if not part.numel():
        raise ValueError(f"{name}[{index}] is empty: its shape is {tuple(weight.shape)}")
    return part


def _redrawn(initial: nn.Module, donor: nn.Module, slices: Slices, seed: int) -> dict[str, Tensor]:
    """Parameters of the recipient with Gaussian slices of the norm of the donor's."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, index in slices.items():
        weight = _weight(initial, name)
        donated = _donated(donor, name, weight, index)
        noise = torch.randn(donated.shape, generator=generator, dtype=torch.float64).to(donated)
        drawn[name] = weight.detach().clone()
        drawn[name][index] = noise * donated.norm() / noise.norm()
    return drawn
