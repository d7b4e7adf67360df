"""What notebooks and courses in this field run, in our own words: stacked weights, einsum, autograd, Adam."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.models.forward import W_IN, W_K, W_OUT, W_Q


class PlainToys:
    """`k` tied toys trained side by side, each with its own feature probability."""

    def __init__(
        self,
        n: int,
        m: int,
        p: Float[Tensor, " model"],
        batch_size: int = 1024,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        k = len(p)
        W = torch.randn(k, n, m, generator=self.generator, device=device) * (2 / (n + m)) ** 0.5
        self.W, self.b = W.requires_grad_(), torch.zeros(k, n, requires_grad=True, device=device)
        self.p, self.batch_size = p.to(device), batch_size
        self.optimizer = torch.optim.Adam([self.W, self.b], lr=1e-3)
        self.last_loss = float("nan")

    def batch(self) -> Float[Tensor, "batch model feature"]:
        k, n, _ = self.W.shape
        how: dict[str, Any] = {"generator": self.generator, "device": self.W.device}
        values = torch.rand(self.batch_size, k, n, **how)
        active = torch.rand(self.batch_size, k, n, **how) < self.p[:, None]
        return torch.where(active, values, 0.0)

    def target(self, x: Float[Tensor, "batch model feature"]) -> Float[Tensor, "batch model feature"]:
        return x

    def hidden(self, x: Float[Tensor, "batch model feature"]) -> Float[Tensor, "batch model hidden"]:
        return torch.einsum("bkn,knm->bkm", x, self.W)

    def loss(self, x: Float[Tensor, "batch model feature"]) -> Float[Tensor, " model"]:
        out = self.out(torch.einsum("bkm,knm->bkn", self.hidden(x), self.W) + self.b)
        return self.cost(out - self.target(x)).mean(0).sum(-1)

    def out(self, logits: Float[Tensor, "batch model feature"]) -> Float[Tensor, "batch model feature"]:
        return torch.relu(logits)

    def cost(self, error: Float[Tensor, "batch model feature"]) -> Float[Tensor, "batch model feature"]:
        return error.square()

    def train(self, steps: int) -> None:
        for step in range(steps):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.objective()
            loss.backward()
            self.optimizer.step()
            if step % 100 == 0:
                self.last_loss = loss.item()

    def objective(self) -> Float[Tensor, ""]:
        return self.loss(self.batch()).sum()

    def weights(self) -> dict[str, Tensor]:
        """In the library's names and shapes, a row per model."""
        return {"W_E": self.W.detach(), "b_U": self.b.detach()}


class PlainOneHot(PlainToys):
    """The same on the identity matrix as a fixed batch."""

    def batch(self) -> Float[Tensor, "batch model feature"]:
        k, n, _ = self.W.shape
        return torch.eye(n)[:, None].expand(n, k, n)


class PlainHeads(PlainToys):
    """The same with a pseudo-attention head on pairs of tokens: L1 + L2 of the logit `h0 W_Q W_K^T h1`."""

    def __init__(self, n: int, m: int, p: Float[Tensor, " model"], r: int, pairs: list[tuple[int, int]]) -> None:
        super().__init__(n, m, p)
        std = (2 / (m + r)) ** 0.5
        self.Q, self.K = (
            (torch.randn(len(p), m, r, generator=self.generator) * std).requires_grad_() for _ in range(2)
        )
        self.query, self.key = (torch.tensor(side) for side in zip(*pairs, strict=True))
        self.optimizer.add_param_group({"params": [self.Q, self.K]})

    def objective(self) -> Float[Tensor, ""]:
        x, y = self.batch(), self.batch()
        queries = torch.einsum("bkn,knm,kmr->bkr", x, self.W, self.Q)
        keys = torch.einsum("bkn,knm,kmr->bkr", y, self.W, self.K)
        target = ((x[..., self.query] > 0) & (y[..., self.key] > 0)).sum(-1).float()
        attention = ((queries * keys).sum(-1) - target).square().mean(0)
        return ((self.loss(x) + self.loss(y)) / 2 + attention).sum()

    def weights(self) -> dict[str, Tensor]:
        heads = {W_Q: self.Q.detach()[:, None], W_K: self.K.detach()[:, None]}
        return super().weights() | heads


class PlainOutputs(PlainHeads):
    """Another number of outputs beside a head: the first of its features, by an unembed of its own."""

    OUTPUTS = 3

    def __init__(self, n: int, m: int, p: Float[Tensor, " model"], r: int, pairs: list[tuple[int, int]]) -> None:
        super().__init__(n, m, p, r, pairs)
        std = (2 / (m + self.OUTPUTS)) ** 0.5
        self.U = (torch.randn(len(p), m, self.OUTPUTS, generator=self.generator) * std).requires_grad_()
        self.c = torch.zeros(len(p), self.OUTPUTS, requires_grad=True)
        params = [self.W, self.Q, self.K, self.U, self.c]
        self.optimizer = torch.optim.Adam(params, lr=1e-3)

    def loss(self, x: Float[Tensor, "batch model feature"]) -> Float[Tensor, " model"]:
        out = self.out(torch.einsum("bkm,kmo->bko", self.hidden(x), self.U) + self.c)
        return self.cost(out - x[..., : self.OUTPUTS]).mean(0).sum(-1)

    def weights(self) -> dict[str, Tensor]:
        return super().weights() | {"W_U": self.U.detach(), "b_U": self.c.detach()}


class PlainSquares(PlainToys):
    """A task of one's own."""

    def target(self, x: Float[Tensor, "batch model feature"]) -> Float[Tensor, "batch model feature"]:
        return x.square()


class PlainGaussian(PlainToys):
    """Values that are normal."""

    def batch(self) -> Float[Tensor, "batch model feature"]:
        k, n, _ = self.W.shape
        values = torch.randn(self.batch_size, k, n, generator=self.generator)
        active = torch.rand(self.batch_size, k, n, generator=self.generator) < self.p[:, None]
        return torch.where(active, values, 0.0)


class PlainCopula(PlainToys):
    """Features that a Gaussian copula of correlation `RHO` ties."""

    RHO = 0.2

    def batch(self) -> Float[Tensor, "batch model feature"]:
        k, n, _ = self.W.shape
        root = torch.linalg.cholesky(torch.full((n, n), self.RHO).fill_diagonal_(1.0))
        u = torch.special.ndtr(torch.randn(self.batch_size, k, n, generator=self.generator) @ root.mT)
        return torch.where(u < self.p[:, None], u / self.p[:, None], 0.0)


class PlainResidual(PlainToys):
    """An MLP of `WIDTH` units that adds to the hidden layer."""

    WIDTH = 16

    def __init__(self, n: int, m: int, p: Float[Tensor, " model"], *heads: Any) -> None:
        super().__init__(n, m, p, *heads)
        std = (2 / (m + self.WIDTH)) ** 0.5
        shapes = ((len(p), m, self.WIDTH), (len(p), self.WIDTH, m))
        self.W_in, self.W_out = ((torch.randn(s, generator=self.generator) * std).requires_grad_() for s in shapes)
        self.optimizer.add_param_group({"params": [self.W_in, self.W_out]})

    def hidden(self, x: Float[Tensor, "batch model feature"]) -> Float[Tensor, "batch model hidden"]:
        stream = super().hidden(x)
        post = torch.relu(torch.einsum("bkm,kmu->bku", stream, self.W_in))
        return stream + torch.einsum("bku,kum->bkm", post, self.W_out)

    def weights(self) -> dict[str, Tensor]:
        return super().weights() | {W_IN: self.W_in.detach(), W_OUT: self.W_out.detach()}


class PlainResidualHeads(PlainResidual, PlainHeads):
    """The MLP beside a pseudo-attention head, which reads the stream in front of it."""


class PlainPower(PlainToys):
    """The fourth power of the error."""

    def cost(self, error: Float[Tensor, "batch model feature"]) -> Float[Tensor, "batch model feature"]:
        return error.abs() ** 4


class PlainSwish(PlainToys):
    """Another activation."""

    def out(self, logits: Float[Tensor, "batch model feature"]) -> Float[Tensor, "batch model feature"]:
        return torch.nn.functional.silu(logits)


class PlainHiddenSwish(PlainToys):
    """Another activation of the hidden layer."""

    def hidden(self, x: Float[Tensor, "batch model feature"]) -> Float[Tensor, "batch model hidden"]:
        return torch.nn.functional.silu(super().hidden(x))


class PlainGelu(PlainToys):
    """GELU outputs."""

    def out(self, logits: Float[Tensor, "batch model feature"]) -> Float[Tensor, "batch model feature"]:
        return torch.nn.functional.gelu(logits)


class PlainLasso(PlainToys):
    """With the sum of absolute weights."""

    STRENGTH = 0.01

    def objective(self) -> Float[Tensor, ""]:
        return super().objective() + self.STRENGTH * self.W.abs().sum()


class PlainRidge(PlainToys):
    """With the sum of squared weights."""

    STRENGTH = 0.01

    def objective(self) -> Float[Tensor, ""]:
        return super().objective() + self.STRENGTH * self.W.square().sum()


class PlainScaled(PlainToys):
    """Directions of norm 1, and a scale behind the activation."""

    def __init__(self, n: int, m: int, p: Float[Tensor, " model"]) -> None:
        super().__init__(n, m, p)
        self.scale = torch.ones(len(p), requires_grad=True)
        self.optimizer.add_param_group({"params": [self.scale]})

    def loss(self, x: Float[Tensor, "batch model feature"]) -> Float[Tensor, " model"]:
        W = self.W / self.W.norm(dim=-1, keepdim=True)
        logits = torch.einsum("bkm,knm->bkn", torch.einsum("bkn,knm->bkm", x, W), W) + self.b
        return (self.scale[:, None] * self.out(logits) - x).square().mean(0).sum(-1)

    def weights(self) -> dict[str, Tensor]:
        return super().weights() | {"scale": self.scale.detach()}


class SignDescent(torch.optim.Optimizer):
    """Another optimizer: a step along the gradient's signs."""

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure
        for group in self.param_groups:
            for w in group["params"]:
                w -= group["lr"] * w.grad.sign()


class PlainSigns(PlainToys):
    """Trained by another optimizer."""

    def __init__(self, n: int, m: int, p: Float[Tensor, " model"]) -> None:
        super().__init__(n, m, p)
        self.optimizer = SignDescent([self.W, self.b], lr=1e-3)
