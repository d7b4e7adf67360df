"""Small linear algebra that several rooms need; directions are rows everywhere.

Claims and shapes are read off in double precision, so `unit` converts. `cosines` keeps the precision it is given.
"""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from tms_hooks.errors import explained

Function = TypeVar("Function", bound=Callable[..., Any])


def as_tensor(value: Any) -> Any:
    """An array of numpy or xarray as a tensor (whole numbers in double precision); anything else as it is.

    >>> as_tensor(np.eye(2))
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    if not isinstance(value, np.ndarray) and not hasattr(value, "to_numpy"):
        return value
    tensor = torch.tensor(np.asarray(value))
    return tensor if tensor.is_floating_point() else tensor.double()


def takes_arrays(function: Function) -> Function:
    """A decorator: the function, which is one of tensors, takes arrays of numpy and xarray in their place."""

    checked = explained()(function)

    @wraps(function)
    def outer(*args: Any, **named: Any) -> Any:
        for value in (*args, *named.values()):
            if hasattr(value, "W_E"):
                kind = type(value).__name__
                raise TypeError(
                    f"{function.__name__} takes W, a tensor (..., feature, hidden): that of this {kind}, .W_E"
                )
        return checked(*map(as_tensor, args), **{name: as_tensor(value) for name, value in named.items()})

    return cast(Function, outer)


_COPIES = WeakTensorKeyDictionary()
"""By tensor: its copies, by device."""


def placed(constant: Tensor, device: torch.device) -> Tensor:
    """A tensor that never changes where it is needed: copied there once, for a step on a device is to copy nothing."""
    if constant.device == device:
        return constant
    copies: dict[torch.device, Tensor] = _COPIES.setdefault(constant, {})
    if device not in copies:
        copies[device] = constant.to(device)
    return copies[device]


def scale_of(V: Float[Tensor, "*axis"], dim: int | tuple[int, ...] = -1) -> Float[Tensor, "*one"]:
    """The power of two at or below the largest |entry| along `dim`, which is kept; 1 where all are zero.

    `V / scale_of(V)` is exact, and its squares neither overflow nor vanish, however large or small `V` is.

    >>> scale_of(torch.tensor([[3.0, -5.0], [0.0, 0.0], [0.0, 0.4]]))
    tensor([[4.0000],
            [1.0000],
            [0.2500]])
    """
    largest = V.detach().abs().amax(dim, keepdim=True)
    return torch.where(largest > 0, largest / (2 * torch.frexp(largest).mantissa), 1)


def unit(V: Float[Tensor, "*row hidden"]) -> Float[Tensor, "*row hidden"]:
    """Rows at length 1 (a row of zeros stays), in double precision, on the CPU and without gradient.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]], dtype=torch.float64)
    """
    V = V.detach().double().cpu()
    return torch.nn.functional.normalize(V / scale_of(V), dim=-1)


def cosines(
    A: Float[Tensor, "*model a hidden"], B: Float[Tensor, "*model b hidden"] | None = None
) -> Float[Tensor, "*model a b"]:
    """Cosine of every row of `A` with every row of `B`, or of `A` itself.

    >>> cosines(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0], [-1.0, 0.0]]))
    tensor([[ 0.6000, -1.0000]])
    """
    a = torch.nn.functional.normalize(A / scale_of(A), dim=-1)
    return a @ (a if B is None else torch.nn.functional.normalize(B / scale_of(B), dim=-1)).mT


def overlaps(V: Float[Tensor, "*model row hidden"]) -> Float[Tensor, "*model row row"]:
    """|Cosine| of every row with every other row; 0 on the diagonal.

    >>> overlaps(torch.tensor([[2.0, 0.0], [-3.0, 0.0], [0.0, 1.0]]))
    tensor([[0., 1., 0.],
            [1., 0., 0.],
            [0., 0., 0.]])
    """
    itself = torch.eye(V.shape[-2], dtype=torch.bool, device=V.device)
    return cosines(V).abs().masked_fill(itself, 0)


def inverse_root(C: Float[Tensor, "*model k k"]) -> Float[Tensor, "*model k k"]:
    """C^(-1/2) of a symmetric positive semidefinite matrix; zero on the null space of C.

    >>> inverse_root(torch.tensor([[4.0, 0.0], [0.0, 0.0]]))
    tensor([[0.5000, 0.0000],
            [0.0000, 0.0000]])
    """
    values, vectors = torch.linalg.eigh(C)
    cutoff = values.amax(-1, keepdim=True) * C.shape[-1] * torch.finfo(C.dtype).eps
    scale = torch.where(values > cutoff, values.clamp(min=cutoff), torch.inf).rsqrt()
    return (vectors * scale[..., None, :]) @ vectors.mT


def random_rotations(d: int, count: int, seed: int = 0) -> Float[Tensor, "count d d"]:
    """Orthogonal matrices, uniformly distributed (Haar measure; reflections included), in double precision.

    The Q of a Gaussian matrix's QR decomposition is uniform only once the signs of R's diagonal, which the algorithm
    chooses, are moved into it (Mezzadri 2007).

    >>> R = random_rotations(3, count=2)
    >>> torch.allclose(R @ R.mT, torch.eye(3, dtype=R.dtype).expand(2, 3, 3))
    True
    """
    noise = torch.randn(count, d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    Q, R = torch.linalg.qr(noise)
    return Q * R.diagonal(dim1=-2, dim2=-1).sign()[:, None]


def random_directions(W: Float[Tensor, "*row hidden"], seed: int = 0) -> Float[Tensor, "*row hidden"]:
    """The norms of `W` in random directions: features that do not know of each other would look like this.

    >>> random_directions(torch.tensor([[3.0], [-2.0]])).abs()  # on a line there are two directions
    tensor([[3.],
            [2.]])
    """
    noise = torch.randn(W.shape, generator=torch.Generator().manual_seed(seed), dtype=W.dtype)
    return W.norm(dim=-1, keepdim=True) * torch.nn.functional.normalize(noise, dim=-1)


class _StackedMatmul(torch.autograd.Function):
    """Matrix products model by model on the CPU, each on operands and results of the same alignment.

    BLAS rounds differently with the alignment of its operands and with the size of a batch of products: this way a
    model's bits do not depend on who is stacked beside it.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return product_of_each(a, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (g,), (a, b), (left, right) = gradients, ctx.saved_tensors, ctx.needs_input_grad
        return product_of_each(g, b.mT) if left else None, product_of_each(a.mT, g) if right else None


def product_of_each(
    a: Float[Tensor, "*model rows inner"], b: Float[Tensor, "*model inner columns"]
) -> Float[Tensor, "*model rows columns"]:
    """The product of a stack, model by model, or of one model; of operands that are copied to the same alignment."""
    if a.ndim == 2:
        return torch.mm(aligned(a), aligned(b))
    if len(a) == 1:
        return torch.mm(aligned(a[0]), aligned(b[0]))[None]
    return _stack_of(apart(a), apart(b))


def outer_of_each(
    a: Float[Tensor, "*model rows inner"], b: Float[Tensor, "*model columns inner"]
) -> Float[Tensor, "*model rows columns"]:
    """The same of `a` and the transpose of `b`, which is read as it lies."""
    if a.ndim == 2:
        return torch.mm(aligned(a), aligned(b).T)
    return _stack_of(apart(a), [part.T for part in apart(b)])


def layer_of_each(
    W: Float[Tensor, "*model inner out"], x: Float[Tensor, "*model inner row"]
) -> tuple[Float[Tensor, "*model out row"], Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """`W^T x` as `product_of_each`, and what takes the gradient in it to those in `W` and in `x`."""
    if W.ndim == 2:
        return product_of_each(W.mT, x), lambda g: (outer_of_each(x, g), product_of_each(W, g))
    rows = apart(x)

    def back(g: Tensor) -> tuple[Tensor, Tensor]:
        parts = apart(g)
        return _stack_of(rows, [part.T for part in parts]), _stack_of(apart(W), parts)

    return _stack_of(apart(W.mT), rows), back


def _stack_of(left: Sequence[Tensor], right: Sequence[Tensor]) -> Float[Tensor, "model rows columns"]:
    """Products, put where they are to stand if each stands at the start of a line there."""
    rows, columns = len(left[0]), right[0].shape[1]
    if rows * columns % LINE:
        return torch.stack(list(map(torch.mm, left, right)))
    out = left[0].new_empty(len(left), rows, columns)
    for a, b, product in zip(left, right, out.unbind(), strict=True):
        torch.mm(a, b, out=product)
    return out


LINE = 16
"""A multiple of so many entries fills whole lines of the cache."""


def apart(stack: Float[Tensor, "model *axis"]) -> tuple[Tensor, ...]:
    """The models of a stack, each `aligned`."""
    return spaced(stack).unbind()


def spaced(stack: Float[Tensor, "model *axis"]) -> Float[Tensor, "model *axis"]:
    """A stack whose models are all `aligned`; they are copied at once, which takes less than a copy of each."""
    count, *shape = stack.shape
    size, line = math.prod(shape), 64 // stack.element_size()
    if count == 1 or size % line == 0:
        return aligned(stack)
    padded = stack.new_empty(count, -(-size // line) * line)
    return padded[:, :size].view(stack.shape).copy_(stack)


def aligned(x: Tensor) -> Tensor:
    """A tensor where BLAS rounds as it does anywhere else, copied if need be."""
    x = x.contiguous()
    return x.clone() if x.device.type == "cpu" and x.data_ptr() % 64 else x  # torch allocates at multiples of 64 bytes


def stacked_matmul(
    x: Float[Tensor, "*batch rows"], W: Float[Tensor, "*model rows columns"]
) -> Float[Tensor, "*batch columns"]:
    """`x @ W` for one model, with any batch axes, or for a stack of them: "model batch in" @ "model in out"."""
    product: Tensor = x @ W if W.ndim == 2 or W.device.type != "cpu" else _StackedMatmul.apply(x, W)
    return product
