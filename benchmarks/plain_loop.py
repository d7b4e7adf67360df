"""What notebooks and courses in this field run, in our own words: stacked weights, einsum, autograd, Adam."""

import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks.models.forward import W_IN, W_K, W_OUT, W_Q


class PlainToys:
    """`k` tied toys trained side by side, each with its own feature probability."""

    def __init__(self, n: int, m: int, p: Float[Tensor, " model"], batch_size: int = 1024, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        k = len(p)
        W = torch.randn(k, n, m, generator=self.generator) * (2 / (n + m)) ** 0.5
        self.W, self.b = W.requires_grad_(), torch.zeros(k, n, requires_grad=True)
        self.p, self.batch_size = p, batch_size
        self.optimizer = torch.optim.Adam([self.W, self.b], lr=1e-3)
        self.last_loss = float("nan")

    def batch(self) -> Float[Tensor, "batch model feature"]:
        k, n, _ = self.W.shape
        values = torch.rand(self.batch_size, k, n, generator=self.generator)
        active = torch.rand(self.batch_size, k, n, generator=self.generator) < self.p[:, None]
        return torch.where(active, values, 0.0)

    def target(self, x: Float[Tensor, "batch model feature"]) -> Float[Tensor, "batch model feature"]:
        return x

    def hidden(self, x: Float[Tensor, "batch model feature"]) -> Float[Tensor, "batch model hidden"]:
        return torch.einsum("bkn,knm->bkm", x, self.W)

    def loss(self, x: Float[Tensor, "batch model feature"]) -> Float[Tensor, " model"]:
        out = torch.relu(torch.einsum("bkm,knm->bkn", self.hidden(x), self.W) + self.b)
        return (out - self.target(x)).square().mean(0).sum(-1)

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

    def __init__(self, n: int, m: int, r: int, p: Float[Tensor, " model"], pairs: list[tuple[int, int]]) -> None:
        super().__init__(n, m, p)
        std = (2 / (m + r)) ** 0.5
        self.Q, self.K = (
            (torch.randn(len(p), m, r, generator=self.generator) * std).requires_grad_() for _ in range(2)
        )
        self.query, self.key = (torch.tensor(side) for side in zip(*pairs, strict=True))
        self.optimizer = torch.optim.Adam([self.W, self.b, self.Q, self.K], lr=1e-3)

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

    def __init__(self, n: int, m: int, p: Float[Tensor, " model"]) -> None:
        super().__init__(n, m, p)
        std = (2 / (m + self.WIDTH)) ** 0.5
        shapes = ((len(p), m, self.WIDTH), (len(p), self.WIDTH, m))
        self.W_in, self.W_out = ((torch.randn(s, generator=self.generator) * std).requires_grad_() for s in shapes)
        self.optimizer = torch.optim.Adam([self.W, self.b, self.W_in, self.W_out], lr=1e-3)

    def hidden(self, x: Float[Tensor, "batch model feature"]) -> Float[Tensor, "batch model hidden"]:
        stream = super().hidden(x)
        post = torch.relu(torch.einsum("bkm,kmu->bku", stream, self.W_in))
        return stream + torch.einsum("bku,kum->bkm", post, self.W_out)

    def weights(self) -> dict[str, Tensor]:
        return super().weights() | {W_IN: self.W_in.detach(), W_OUT: self.W_out.detach()}
