"""Tangent spaces: which directions at one hook move the activation at a later one, around given inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.hooked import HookedModel, HookFn, check_hooks, require_live, temporary_hooks


@dataclass(frozen=True)
class TangentSpace:
    """Jacobian of a later activation with respect to an earlier one, and its singular value decomposition.

    Attributes:
        jacobian: d out / d in at each example.
        singular_values: in descending order.
        in_directions: rows; right singular vectors, the directions at the earlier hook that matter, most first.
        out_directions: rows; left singular vectors, what they do at the later one.
    """

    jacobian: Float[Tensor, "batch d_out d_in"]
    singular_values: Float[Tensor, "batch k"]
    in_directions: Float[Tensor, "batch k d_in"]
    out_directions: Float[Tensor, "batch k d_out"]

    def angles(self, directions: Float[Tensor, "direction d_in"], k: int) -> Float[Tensor, "batch direction"]:
        """Angle in radians between each direction and the span of the first `k` `in_directions`: 0 inside, pi/2 orthogonal.

        Raises:
            ValueError: `k` larger than the rank at some example, or directions of another width or of norm 0.
        """
        scale = self.singular_values[:, :1] * torch.finfo(self.singular_values.dtype).eps * max(self.jacobian.shape[1:])
        rank = int((self.singular_values > scale).sum(1).min())
        if not 1 <= k <= rank:
            raise ValueError(f"k={k}: the Jacobian has rank {rank}; choose k from 1 to that")
        if directions.shape[1] != self.jacobian.shape[2] or not directions.norm(dim=1).all():
            shape = tuple(directions.shape)
            raise ValueError(f"directions {shape}: give rows of width {self.jacobian.shape[2]}, none of them zero")
        unit = torch.nn.functional.normalize(directions.to(self.in_directions), dim=1)
        inside = torch.einsum("bki,di->bdk", self.in_directions[:, :k], unit)
        outside = unit - torch.einsum("bdk,bki->bdi", inside, self.in_directions[:, :k])
        # by both parts: the arc cosine alone loses half the digits near 0
        return torch.atan2(outside.norm(dim=2), inside.norm(dim=2))


def tangent_space(
    model: HookedModel, inputs: Any, hook: str, out_hook: str, *, pos: int = -1, out_pos: int = -1, batch_size: int = 64
) -> TangentSpace:
    """The Jacobian of the activation at `out_hook` with respect to that at `hook`, at each example.

    >>> from probes.models import load_transformer
    >>> space = tangent_space(load_transformer("tiny"), torch.tensor([[1, 2, 3]]), "hook_embed", "blocks.1.hook_resid_post")
    >>> space.jacobian.shape
    torch.Size([1, 64, 64])

    Local where a linear probe is global: a probe fits one direction to all inputs, this is the linear map around each. By
    vectorised reverse-mode differentiation: `torch.func` does not work through hooks of a bridge.

    Args:
        model: any hooked model, in eval mode.
        inputs: examples; the model must treat them independently.
        hook, out_hook: the earlier and the later hook, "batch unit", "batch pos unit" or "batch pos head unit" (heads are
            concatenated).
        pos, out_pos: the positions to differentiate at, where there are any.
        batch_size: output units differentiated at once; lower it if memory is short.

    Raises:
        KeyError: an unknown hook.
        ValueError: a dead or silent `hook`; an `out_hook` that does not depend on it at these positions.
    """
