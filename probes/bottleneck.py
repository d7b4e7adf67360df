"""The linear bottleneck between two points of a model: the directions written at one, those read at the other."""

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.circuits import fold_norm_into
from probes.hooked import HookedModel

_PATH = re.compile(r"(?P<write>embed|blocks\.(\d+)\.mlp\.out)->(?P<read>unembed|blocks\.(\d+)\.mlp\.in)")


@dataclass(frozen=True)
class Bottleneck:
    """Directions as rows. Writing feature i with strength 1 is read as `write[i] . read[j]` at feature j."""

    path: str
    write: Float[Tensor, "feature hidden"]
    read: Float[Tensor, "read_feature hidden"]

    @property
    def paired(self) -> bool:
        """Whether read j is meant for write j, as an unembedding is for its token."""
        return self.path == "embed->unembed"

    def unit(self) -> "Bottleneck":
        """The same directions at length 1: interference becomes cosines."""
        normalize = torch.nn.functional.normalize
        return Bottleneck(self.path, normalize(self.write, dim=-1), normalize(self.read, dim=-1))

    def interference(self, features: Int[Tensor, " chosen"]) -> Float[Tensor, "chosen read_feature"]:
        """Rows of `write @ read.T`, which in full would be a vocabulary squared; a feature's own gain is among them."""
        return self.write[features] @ self.read.mT

    def summary(self, sample: int | None = None, seed: int = 0, chunk: int = 512) -> pd.DataFrame:
        """One row a written feature: norms, its own gain, and what it spills on the others.

        >>> square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> Bottleneck("embed->unembed", square, square).summary()
                 write_norm  read_norm  gain  interference  largest  largest_with
        feature
        0               1.0        1.0   1.0           1.0     -1.0             2
        1               1.0        1.0   1.0           1.0     -1.0             3
        2               1.0        1.0   1.0           1.0     -1.0             0
        3               1.0        1.0   1.0           1.0     -1.0             1

        `gain` is write_i . read_i and `read_norm` that of read_i, where reads are paired with writes (otherwise there
        are no such columns); `interference` is the root of the sum over the other j of (write_i . read_j)^2;
        `largest` is the largest of these in size, signed, with its j.

        Args:
            sample: how many features to draw, without replacement; all if not given (a vocabulary of 49,152 and 576
                dimensions takes two minutes on one core).
            seed: of the draw.
            chunk: features at once: memory is chunk x reads.

        Raises:
            ValueError: `sample` below 1 or above the number of features.
        """
        n = len(self.write)
        if sample is not None and not 1 <= sample <= n:
            raise ValueError(f"sample={sample}: {self.path!r} writes {n} features; draw 1 to {n} of them")
        features = torch.arange(n)
        if sample is not None:
            features = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:sample].sort().values
        parts = [self._summary_of(part) for part in features.split(chunk)]
        return pd.concat(parts).rename_axis("feature")

    def _summary_of(self, features: Tensor) -> pd.DataFrame:
        products = self.interference(features)
        columns: dict[str, Tensor] = {"write_norm": self.write[features].norm(dim=-1)}
        if self.paired:
            columns["read_norm"] = self.read[features].norm(dim=-1)
            columns["gain"] = products.gather(1, features[:, None])[:, 0]
            products.scatter_(1, features[:, None], 0.0)
        largest = products.abs().argmax(dim=-1)
        columns["interference"] = products.norm(dim=-1)
        columns["largest"] = products.gather(1, largest[:, None])[:, 0]
        columns["largest_with"] = largest
        return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()}, index=features.numpy())


def bottleneck(model: HookedModel, path: str, *, fold_norm: bool = False) -> Bottleneck:
    """Write and read directions of "embed->unembed", "embed->blocks.j.mlp.in", "blocks.i.mlp.out->blocks.j.mlp.in" or
    "blocks.i.mlp.out->unembed".

    >>> from probes.transformers import load_transformer
    >>> directions = bottleneck(load_transformer("tiny"), "blocks.0.mlp.out->blocks.1.mlp.in")
    >>> directions.write.shape, directions.read.shape
    (torch.Size([256, 64]), torch.Size([256, 64]))

    On a toy "embed->unembed" is `W_E` and `W_U.T`. A gated MLP reads with `W_in`; its gate has directions of its own.

    Args:
        model: anything with `W_E`, `W_U` or `blocks[i].mlp.W_in`, `.W_out`.
        path: which two points.
        fold_norm: fold the gain of the norm in front of the reads into them (and centre them for a LayerNorm).

    Raises:
        ValueError: another path, one that runs backwards, a model without such weights or without that norm.
        IndexError: no such layer.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise ValueError(
            f"no bottleneck {path!r}; choose 'embed->unembed', 'embed->blocks.j.mlp.in', "
            "'blocks.i.mlp.out->blocks.j.mlp.in' or 'blocks.i.mlp.out->unembed'"
        )
    written, read_at = match[2], match[4]
    if written is not None and read_at is not None and int(written) >= int(read_at):
        raise ValueError(f"{path!r} runs backwards: block {written}'s MLP writes after block {read_at}'s has read")
    write = _weight(model, "W_E") if written is None else _weight(_mlp(model, int(written)), "W_out")
    read = _weight(model, "W_U") if read_at is None else _weight(_mlp(model, int(read_at)), "W_in")
    if fold_norm:
        holder: Any = model if read_at is None else model.blocks[int(read_at)]  # type: ignore[attr-defined]
        norm = getattr(holder, "ln_final" if read_at is None else "ln2", None)
        read, _ = fold_norm_into(model, norm, read, read.new_zeros(read.shape[-1]))
    return Bottleneck(path, write, read.mT)


def _mlp(model: Any, layer: int) -> Any:
    blocks = getattr(model, "blocks", [])
    if layer >= len(blocks):
        has = f"layers 0 to {len(blocks) - 1}" if len(blocks) else "no layers"
        raise IndexError(f"layer {layer}: this {type(model).__name__} has {has}")
    return getattr(blocks[layer], "mlp", None)


def _weight(module: Any, name: str) -> Tensor:
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"no {name} here: this model has no such end of a bottleneck")
    return weight.detach()
