"""The linear bottleneck between two points of a model: the directions written at one, those read at the other.

More features than dimensions must share directions, in a toy's hidden layer as in a transformer's residual stream.
What comes of it is seen in the weights alone: feature i is written along its row of the weights in front of the
bottleneck and read along its column of those behind it, and the product of one feature's write with another's read is
what it spills there. Both kinds of model give the same table, so the one can be held against the other.
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probes.architectures import block, fold_norm_into
from probes.hooked import HookedModel
from probes.names import ends_of

CHUNK = 512
"""Features whose products with all reads are in memory at once."""


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
        """The same directions at length 1: products become cosines, the overlaps of one feature with another."""
        normalize = torch.nn.functional.normalize
        return Bottleneck(self.path, normalize(self.write, dim=-1), normalize(self.read, dim=-1))

    def interference(self) -> Float[Tensor, " feature"]:
        """Of each feature, the sum over the others of (write_i/|write_i| . read_j)^2; 0 for one that is not written.

        On a toy with tied weights this is `tms_hooks.geometry.interference(W_E)`.

        >>> square = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> Bottleneck("embed->unembed", square, square).interference()
        tensor([1., 1., 4., 1.])
        """
        table = self.summary()
        spill, norm = (torch.tensor(table[name].to_numpy()) for name in ("spill", "write_norm"))
        return (spill / norm.clamp_min(torch.finfo(norm.dtype).tiny)) ** 2

    def summary(self, sample: int | None = None, seed: int = 0) -> pd.DataFrame:
        """One row per written feature: its norms, its gain, and what it spills on the others.

        >>> square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> Bottleneck("embed->unembed", square, square).summary()
                 write_norm  read_norm  gain  spill  largest  largest_with
        feature
        0               1.0        1.0   1.0    1.0     -1.0             2
        1               1.0        1.0   1.0    1.0     -1.0             3
        2               1.0        1.0   1.0    1.0     -1.0             0
        3               1.0        1.0   1.0    1.0     -1.0             1

        `gain` is write_i . read_i and `read_norm` |read_i|, where reads are paired with writes (otherwise there are no
        such columns). `spill` is the root of the sum of (write_i . read_j)^2 over the other j: of unit directions, the
        rms overlap times the root of their number. `largest` is the largest of these products in size, signed, with
        its j. `sample` features are drawn without replacement, or all taken (two minutes on one core for a vocabulary
        of 49,152 and 576 dimensions).

        Raises:
            ValueError: `sample` below 1 or above the number of features.
        """
        n = len(self.write)
        if sample is not None and not 1 <= sample <= n:
            raise ValueError(f"sample={sample}: {self.path!r} writes {n} features; draw 1 to {n} of them")
        features = torch.arange(n)
        if sample is not None:
            features = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:sample].sort().values
        parts = [self._summary_of(part) for part in features.split(CHUNK)]
        return pd.concat(parts).rename_axis("feature")

    def _summary_of(self, features: Tensor) -> pd.DataFrame:
        products = self.write[features] @ self.read.mT  # in full this would be a vocabulary squared
        columns: dict[str, Tensor] = {"write_norm": self.write[features].norm(dim=-1)}
        if self.paired:
            columns["read_norm"] = self.read[features].norm(dim=-1)
            columns["gain"] = products.gather(1, features[:, None])[:, 0]
            products.scatter_(1, features[:, None], 0.0)
        largest = products.abs().argmax(dim=-1)
        columns["spill"] = products.norm(dim=-1)
        columns["largest"] = products.gather(1, largest[:, None])[:, 0]
        columns["largest_with"] = largest
        return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()}, index=features.numpy())


def bottleneck(model: HookedModel, path: str, *, fold_norm: bool = False) -> Bottleneck:
    """Write and read directions of a path, such as "embed->unembed".

    >>> from probes.transformers import load_transformer
    >>> directions = bottleneck(load_transformer("tiny"), "blocks.0.mlp.out->blocks.1.mlp.in")
    >>> directions.write.shape, directions.read.shape
    (torch.Size([256, 64]), torch.Size([256, 64]))

    A path is "embed->unembed" (on a toy `W_E` and `W_U.T`), "embed->blocks.j.mlp.in", "blocks.i.mlp.out->unembed" or
    "blocks.i.mlp.out->blocks.j.mlp.in". A gated MLP reads with `W_in`; its gate has directions of its own.

    Args:
        model: anything with `W_E`, `W_U` or `blocks[i].mlp.W_in`, `.W_out`.
        path: which two points.
        fold_norm: fold the gain of the norm in front of the reads into them (and center them for a LayerNorm).

    Raises:
        ValueError: another path, one that runs backwards, a model without such weights or without that norm.
        IndexError: no such layer.
    """
    writes, reads = ends_of(path)
    write = _weight(model, "W_E") if writes is None else _weight(block(model, writes), "mlp.W_out")
    read = _weight(model, "W_U") if reads is None else _weight(block(model, reads), "mlp.W_in")
    if fold_norm:
        norm = getattr(model, "ln_final", None) if reads is None else getattr(block(model, reads), "ln2", None)
        read, _ = fold_norm_into(model, norm, read, read.new_zeros(read.shape[-1]))
    return Bottleneck(path, write, read.mT)


def _weight(module: Any, name: str) -> Tensor:
    try:
        return attrgetter(name)(module).detach()
    except AttributeError as error:
        raise ValueError(f"no {name} here: this model has no such end of a bottleneck") from error
