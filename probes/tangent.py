"""Tangent spaces: which directions at one hook move the activation at a later one, around given inputs.

Near one input a model is a linear map: the Jacobian of the later activation with respect to the earlier one. Its
right singular vectors with singular values above zero span the directions that matter there, the tangent space; all
others move nothing, to first order. It is local where a linear probe is global: a probe fits one direction to all
inputs. So the angle between a probe's direction and the tangent space says whether the model uses what the probe reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.calls import brief
from probes.given import as_batch, as_tensor, whole
from probes.hooked import HookedModel, adding_zeros, check_hooks, output_tensors, recording, require_gradients
from probes.liveness import apart, require_live
from probes.names import axes

ATTENDED_AT_ONCE = 2**23
"""Pairs of positions, per head, whose gradients for one output unit after another are in memory together."""


@dataclass(frozen=True, repr=False)
class TangentSpace:
    """Jacobian of a later activation with respect to an earlier one, and its singular value decomposition.

    Attributes:
        jacobian: d out / d in at each example.
        singular_values: in descending order.
        in_directions: rows; right singular vectors, the directions at the earlier hook that matter, most first.
        out_directions: rows; left singular vectors, what they do at the later one.
        in_axes, out_axes: name and size of the axes that `d_in` and `d_out` are made of, in order, such as
            `{"head": 4, "unit": 16}`: `in_directions.unflatten(-1, tuple(in_axes.values()))` has them apart.
    """

    jacobian: Float[Tensor, "batch d_out d_in"]
    singular_values: Float[Tensor, "batch k"]
    in_directions: Float[Tensor, "batch k d_in"]
    out_directions: Float[Tensor, "batch k d_out"]
    in_axes: Mapping[str, int]
    out_axes: Mapping[str, int]

    def __repr__(self) -> str:
        return brief(self)

    @staticmethod
    def of(
        jacobian: Float[Tensor, "batch d_out d_in"] | Float[np.ndarray, "batch d_out d_in"],
        in_axes: Mapping[str, int] | None = None,
        out_axes: Mapping[str, int] | None = None,
    ) -> "TangentSpace":
        """The tangent space of Jacobians that are known already, as of a model that another tool runs.

        >>> TangentSpace.of(torch.tensor([[[0.0, 2.0], [0.0, 0.0]]])).in_directions[0, 0].abs()
        tensor([0., 1.])

        Raises:
            ValueError: a Jacobian that is not finite.
        """
        jacobian = as_tensor(jacobian)
        if not jacobian.isfinite().all():
            raise ValueError("the Jacobian is not finite: it has no tangent space; leave those examples out")
        jacobian = jacobian.to(torch.promote_types(jacobian.dtype, torch.float32))  # torch decomposes no smaller ones
        u, s, vh = torch.linalg.svd(jacobian, full_matrices=False)
        _, d_out, d_in = jacobian.shape
        return TangentSpace(jacobian, s, vh, u.mT, in_axes or {"unit": d_in}, out_axes or {"unit": d_out})

    def angles(
        self, directions: Float[Tensor, "*direction d_in"] | Float[np.ndarray, "*direction d_in"], k: int
    ) -> Float[Tensor, "batch _"]:
        """Angle in radians between each direction and the span of the first `k` `in_directions`: 0 inside it.

        Raises:
            ValueError: `k` larger than the rank at some example, or directions of another width or of norm 0.
        """
        rows = torch.atleast_2d(as_tensor(directions))
        scale = self.singular_values[:, :1] * torch.finfo(self.singular_values.dtype).eps * max(self.jacobian.shape[1:])
        rank = int((self.singular_values > scale).sum(1).min())
        if not 1 <= k <= rank:
            raise ValueError(f"k={k}: the Jacobian has rank {rank}; choose k from 1 to that")
        if rows.shape[1] != self.jacobian.shape[2] or not rows.norm(dim=1).all():
            shape = tuple(rows.shape)
            raise ValueError(f"directions {shape}: give rows of width {self.jacobian.shape[2]}, none of them zero")
        unit = torch.nn.functional.normalize(rows.to(self.in_directions), dim=1)
        inside = torch.einsum("bki,di->bdk", self.in_directions[:, :k], unit)
        outside = unit - torch.einsum("bdk,bki->bdi", inside, self.in_directions[:, :k])
        # by both parts: the arc cosine alone loses half the digits near 0
        return torch.atan2(outside.norm(dim=2), inside.norm(dim=2))


def tangent_space(
    model: HookedModel,
    inputs: Any,
    hook: str,
    out_hook: str | None = None,
    *,
    pos: int = -1,
    out_pos: int = -1,
    batch_size: int | None = None,
) -> TangentSpace:
    """The Jacobian of one activation with respect to an earlier one, at each example.

    >>> from probes.transformers import load_transformer
    >>> model, tokens = load_transformer("tiny"), torch.tensor([[1, 2, 3]])
    >>> space = tangent_space(model, tokens, "hook_embed", "blocks.1.hook_resid_post")
    >>> space.jacobian.shape
    torch.Size([1, 64, 64])

    By vectorized reverse-mode differentiation: one row per output unit. A model in half precision is differentiated
    in it, and decomposed in single precision.

    Args:
        model: any hooked model, in eval mode.
        inputs: examples; the model must treat them independently.
        hook: the earlier hook, "batch unit", "batch pos unit" or "batch pos head unit" (heads are concatenated);
            attention scores and patterns are "batch head pos unit", where pos is the query's and unit the key's.
        out_hook: the later one, likewise; None is the output (its first tensor).
        pos, out_pos: the positions to differentiate at, where there are any.
        batch_size: output units differentiated at once; by default 64, or fewer for long inputs (8 at 1,024 tokens), as
            each takes what attention takes, in proportion to examples times positions squared.

    Raises:
        KeyError: an unknown hook.
        IndexError: a position that is not there.
        RuntimeError: under `torch.inference_mode()`.
        ValueError: a dead or silent `hook`; a model that mixes the examples of a batch; an `out_hook` that does not
            depend on `hook` at these positions; activations whose axes have no names.
    """
    check_hooks(model, [hook] if out_hook is None else [hook, out_hook])
    if hook == out_hook:
        raise ValueError(f"hook and out_hook are both {hook!r}: name two points, the earlier one first")
    require_gradients("tangent_space")
    pos, out_pos, inputs = whole("pos", pos), whole("out_pos", out_pos), as_batch(model, inputs)
    size = None if batch_size is None else whole("batch_size", batch_size, least=1)
    require_live(model, inputs, [hook])
    with torch.no_grad():
        mixing = isinstance(inputs, Tensor) and len(inputs) > 1
        if mixing and apart(model(torch.cat([inputs, inputs[:1]])), model(inputs)):
            raise ValueError(
                f"this {type(model).__name__} mixes the examples of a batch: with one more they give other outputs; "
                "give one example at a time"
            )
    at, out_at = _Part(model, hook, pos), _Part(model, out_hook, out_pos)
    later = recording(model, [] if out_hook is None else [out_hook], keep=out_at.rows, once=True)
    earlier = recording(model, [hook], keep=lambda value: None, once=True)
    with torch.enable_grad(), adding_zeros(model, [hook]) as zeros, earlier, later as found:
        output = model(inputs)
        if out_hook is not None and out_hook not in found:
            raise ValueError(f"hook {out_hook!r} does not fire on these inputs; probes.audit_hooks tells which do")
        # summed over examples: each output depends on its own example's activation only
        total = (out_at.rows(output_tensors(output)[0]) if out_hook is None else found[out_hook]).sum(0)
    basis = torch.eye(len(total), dtype=total.dtype, device=total.device)
    options = {"retain_graph": True, "is_grads_batched": True, "allow_unused": True, "materialize_grads": True}
    rows: list[Tensor] = []
    for units in basis.split(size or _units_at_once(at, zeros[hook])) if total.requires_grad and hook in zeros else ():
        [gradients] = torch.autograd.grad(total, zeros[hook], units, **options)
        rows += [at.rows(gradient).clone() for gradient in gradients]  # a view would hold every position
    if not any(row.any() for row in rows):
        raise ValueError(
            f"{out_hook or 'the output'!r} at position {out_pos} does not depend on {hook!r} at position {pos}: name "
            "the earlier hook first, then the later; a causal model looks back only, so choose out_pos >= pos"
        )
    jacobian = torch.stack(rows, dim=1)
    if len(jacobian) != out_at.n_examples:
        raise ValueError(
            f"hook {hook!r} has {len(jacobian)} rows, {out_hook or 'the output'!r} has {out_at.n_examples}: one of "
            "them does not keep the examples apart; name another"
        )
    return TangentSpace.of(jacobian, at.axes, out_at.axes)


def _units_at_once(at: "_Part", zeros: Tensor) -> int:
    """How many output units to differentiate in one pass, if attention is as large as examples x positions squared."""
    sizes = dict(zip(axes(at.hook or "", zeros.ndim, at.model), zeros.shape, strict=True))
    return max(1, min(64, ATTENDED_AT_ONCE // (len(zeros) * sizes.get("pos", 1) ** 2)))


class _Part:
    """What of an activation is differentiated: everything at one position, its other axes concatenated.

    Attributes:
        axes: name and size of those axes, once an activation has been seen.
        n_examples: of that activation.
    """

    def __init__(self, model: HookedModel, hook: str | None, pos: int) -> None:
        self.model, self.hook, self.pos, self.axes = model, hook, pos, dict[str, int]()
        self.n_examples = 0

    def rows(self, value: Tensor) -> Float[Tensor, "batch d"]:
        """One row per example."""
        names = axes(self.hook or "", value.ndim, self.model)
        if names[1:2] not in (("unit",), ("pos",), ("head",)) or (self.hook is None and value.ndim > 3):
            what = "the output" if self.hook is None else f"hook {self.hook!r}"
            shape = tuple(value.shape)
            raise ValueError(f"{what} has shape {shape}: name hooks that are batch (pos) (head) unit")
        if "pos" in names:
            size = value.shape[names.index("pos")]
            if not -size <= self.pos < size:
                raise IndexError(f"position {self.pos} of {self.hook or 'the output'!r}: must be from 0 to {size - 1}")
            value = value.select(names.index("pos"), self.pos)
        self.n_examples = len(value)
        self.axes = dict(zip([name for name in names[1:] if name != "pos"], value.shape[1:], strict=True))
        return value.flatten(1)
