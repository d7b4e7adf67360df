"""Sites: which part of which activation a patch replaces, and with what.

A site names a hook and, where less than its whole activation is meant, a position, a head, a unit or a subspace of
directions. `expand_sites` writes out "each", `replacement` makes the values of each kind of patch from another run's
activations, and `with_part` writes the site's part of them into the run.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from itertools import product
from operator import index as whole_number
from typing import Any, Literal

import torch
from torch import Tensor

from probes.given import as_tensor
from probes.names import axes

Index = int | Literal["each"] | None
INDEXED = ("pos", "head", "unit")
PATCHES = ("clean->corrupted", "corrupted->clean", "zero", "mean", "resample")


@dataclass(frozen=True, eq=False)
class Site:
    """A part of the activation at one hook; an axis left None is taken whole, "each" makes one site of every entry.

    >>> Site("blocks.0.attn.hook_z", head=3).name
    'blocks.0.attn.hook_z[head=3]'

    An activation is read as (batch, unit), (batch, pos, unit) or (batch, pos, head, unit); attention scores and
    patterns as (batch, head, pos, unit), where pos is the query's position and unit the key's.

    Args:
        hook: name of a hook point.
        pos, head, unit: an index (negative: from the end; numpy's integers and tensors of one are indices too),
            "each", or None.
        directions: rows that span the subspace to replace, "k unit", or one vector; the rest of the activation stays.

    Raises:
        TypeError: an index that is no whole number.
        ValueError: directions together with a unit, not finite, or linearly dependent (then k exceeds their rank).
    """

    hook: str
    _: KW_ONLY
    # whatever is an index, or an array: they become int | Literal["each"] | None, and Float[Tensor, "k d_in"] | None
    pos: Any = None
    head: Any = None
    unit: Any = None
    directions: Any = None

    def __post_init__(self) -> None:
        for axis in INDEXED:
            object.__setattr__(self, axis, _as_index(axis, getattr(self, axis)))
        if self.directions is None:
            return
        if self.unit is not None:
            raise ValueError(f"unit={self.unit!r} with directions: a site is units or a subspace; drop one of them")
        rows = torch.atleast_2d(_at_least_single(as_tensor(self.directions)))
        object.__setattr__(self, "directions", rows)
        if not rows.isfinite().all():
            raise ValueError(
                f"{int((~rows.isfinite()).sum())} entries of directions are NaN or infinite: drop those rows"
            )
        k, rank = len(rows), int(torch.linalg.matrix_rank(rows))
        if not 0 < k == rank:
            raise ValueError(f"{k} directions of rank {rank}: rows must be linearly independent; drop {k - rank}")

    def __repr__(self) -> str:
        return f"Site({self.name!r})"

    @property
    def name(self) -> str:
        """The hook with its indices."""
        at = [f"{axis}={i}" for axis in INDEXED if (i := getattr(self, axis)) is not None]
        at += [] if self.directions is None else [f"directions={len(self.directions)}"]
        return f"{self.hook}[{', '.join(at)}]" if at else self.hook

    def index(self, ndim: int) -> tuple[int | slice, ...]:
        """Where it lies in an activation of that many axes."""
        chosen = [getattr(self, axis, None) for axis in axes(self.hook, ndim)]
        return tuple(i if isinstance(i, int) else slice(None) for i in chosen)


def expand_sites(sites: Iterable[Site], activations: Mapping[str, Tensor], n_examples: int) -> Iterator[Site]:
    """Sites with every "each" written out and negative indices counted from the front."""
    for site in sites:
        shape = tuple(activations[site.hook].shape)
        if not shape or shape[0] != n_examples:
            raise ValueError(f"{site.name} has shape {shape}: no axis of the {n_examples} examples to patch along")
        sizes = dict(zip(axes(site.hook, len(shape)), shape, strict=True))
        if site.directions is not None and site.directions.shape[1] != shape[-1]:
            raise ValueError(f"{site.name}: directions have width {site.directions.shape[1]}, not {shape[-1]}")
        for pos, head, unit in product(*(_choices(site, axis, sizes) for axis in INDEXED)):
            yield replace(site, pos=pos, head=head, unit=unit)


def with_part(value: Tensor, source: Tensor, site: Site) -> Tensor:
    """A copy of `value` whose part at the site is that of `source`; of a subspace, only the component in it."""
    value, index = value.clone(), site.index(value.ndim)
    new = source[index].to(value)
    if site.directions is not None:
        old, new = _at_least_single(value[index]), _at_least_single(new)
        directions = site.directions.to(old)
        new = old + (new - old) @ torch.linalg.pinv(directions) @ directions
    value[index] = new
    return value


def replacement(patch: str, reference: Tensor, seed: int) -> Tensor:
    """What `patch` writes, given the activations of the run that it takes values from, "batch ..."."""
    if patch == "zero":
        return torch.zeros_like(reference)
    if patch == "mean":
        return reference.mean(0, keepdim=True).expand_as(reference)
    if patch != "resample":
        return reference
    if len(reference) < 2:
        raise ValueError("patch='resample' with 1 example: it takes another example's activation; give at least 2")
    order = torch.randperm(len(reference), generator=torch.Generator().manual_seed(seed))
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)  # each example's successor on a random ring: never itself
    return reference[partner]


def _as_index(axis: str, value: Any) -> Index:
    if value is None:
        return None
    if isinstance(value, str) and value == "each":
        return "each"
    try:
        if not isinstance(value, bool):
            return whole_number(value)
    except TypeError:  # also of a tensor that holds several numbers, or a fraction
        pass
    raise TypeError(f"{axis}={value!r}: must be a whole number, 'each' or None; for several entries give several sites")


def _at_least_single(value: Tensor) -> Tensor:
    """Half precision as single: linear algebra has none of it."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _choices(site: Site, axis: str, sizes: Mapping[str, int]) -> list[Any]:
    index: Index = getattr(site, axis)
    if index is None:
        return [None]
    if axis not in sizes:
        raise ValueError(f"{site.name}: the activation has no {axis} axis, only {', '.join(a for a in sizes if a)}")
    if index == "each":
        return list(range(sizes[axis]))
    if not -sizes[axis] <= index < sizes[axis]:
        raise ValueError(f"{site.name}: {axis}={index} is outside 0 to {sizes[axis] - 1}")
    return [index % sizes[axis]]
