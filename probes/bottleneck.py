"""The linear bottleneck between two points of a model: the directions written at one, those read at the other.

More features than dimensions must share directions, in a toy's hidden layer as in a transformer's residual stream.
What comes of it is seen in the weights alone: feature i is written along its row of the weights in front of the
bottleneck and read along its column of those behind it, and the product of one feature's write with another's read is
what it spills there. Both kinds of model give the same table, so the one can be held against the other.
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probes.architectures import block, fold_norm_into, gained
from probes.calls import brief
from probes.circuits import Circuit, factored_svd
from probes.hooked import HookedModel, blocks
from probes.names import ends_of
from probes.verification import Observed, multiplier, observe

_PARTS = ("hook_attn_out", "hook_mlp_out", "hook_mixer_out")
"""What a block adds to the residual stream."""

_TOO_FEW = ", or the inputs are too few, or too much alike, to tell it from a bias"

CHUNK = 512
"""Features whose products with all reads are in memory at once."""


@dataclass(frozen=True, repr=False)
class Bottleneck:
    """Directions as rows. Writing feature i with strength 1 is read as `write[i] . read[j]` at feature j."""

    path: str
    write: Float[Tensor, "feature hidden"]
    read: Float[Tensor, "read_feature hidden"]

    def __repr__(self) -> str:
        return brief(self)

    @property
    def paired(self) -> bool:
        """Whether read j is meant for write j, as an unembedding is for its token; not if outputs are others."""
        return self.path == "embed->unembed" and len(self.write) == len(self.read)

    @property
    def circuit(self) -> Circuit:
        """The map from what is written to what is read, `write @ read.T`: its singular vectors are over features."""
        write, read = self.write.double(), self.read.double()
        return Circuit(write, read, *factored_svd(write, read))

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


def bottleneck(model: HookedModel, path: str, *, fold_norm: bool = False, inputs: Any = None) -> Bottleneck:
    """Write and read directions of a path, such as "embed->unembed".

    >>> from probes.transformers import load_transformer
    >>> directions = bottleneck(load_transformer("tiny"), "blocks.0.mlp.out->blocks.1.mlp.in")
    >>> directions.write.shape, directions.read.shape
    (torch.Size([256, 64]), torch.Size([256, 64]))

    A path is "embed->unembed" (on a toy `W_E` and `W_U.T`), "embed->blocks.j.mlp.in", "blocks.i.mlp.out->unembed" or
    "blocks.i.mlp.out->blocks.j.mlp.in". A gated MLP reads with `W_in`; its gate has directions of its own.

    Both ends are verified on a few inputs: what arrives in the residual stream must be the weights' rows, and what the
    reads make of what enters them the model's own. A multiplier on the way (Gemma's and Granite's embedding, Cohere's
    logits) is part of the directions; the output's nonlinearity (a toy's ReLU, Gemma 2's cap of the logits) is not, nor
    is a scale behind it.

    Args:
        model: anything with `W_E`, `W_U` or `blocks[i].mlp.W_in`, `.W_out`.
        path: which two points.
        fold_norm: fold the gain of the norm in front of the reads into them (and center them for a LayerNorm).
        inputs: what to verify on; random tokens or features if not given.

    Raises:
        ValueError: another path, one that runs backwards, a model without such weights or without that norm; or one
            with a norm or a nonlinearity behind the writes.
        IndexError: no such layer.
    """
    writes, reads = ends_of(path)
    write = weight_of(model, "W_E") if writes is None else weight_of(block(model, writes), "mlp.W_out")
    read = weight_of(model, "W_U") if reads is None else weight_of(block(model, reads), "mlp.W_in")
    norm = getattr(model, "ln_final", None) if reads is None else getattr(block(model, reads), "ln2", None)
    if fold_norm:
        read, _ = fold_norm_into(model, norm, read, read.new_zeros(read.shape[-1]))
    run = observe(model, _watched(model, writes, reads), inputs)
    entering, read_factor = _entering(run, read, reads, len(blocks(model)) - 1, norm, fold_norm)
    write_factor = _multiplier_of_writes(run, write, writes, entering)
    for layer in range(0 if writes is None else writes + 1, len(blocks(model)) if reads is None else reads):
        _require_stream(run, layer)
    write = write if write_factor == 1 else write_factor * write
    read = read if read_factor == 1 else read_factor * read
    return Bottleneck(path, write, read.mT)


def end_of(model: HookedModel, end: Literal["embed", "unembed"], inputs: Any = None) -> Float[Tensor, "token d_model"]:
    """What tokens write into the residual stream, or what they are read along there: verified as a bottleneck's ends.

    Reads are those of the normalized stream, before the gain of the final norm, where there is one.

    Raises:
        ValueError: no such weights, or something else stands between them and the stream.
    """
    weights, norm = weight_of(model, "W_E" if end == "embed" else "W_U"), getattr(model, "ln_final", None)
    if not hasattr(norm, "hook_normalized"):  # a bridge without norms has a part that does nothing
        norm = None
    run = observe(model, _watched(model, None, None), inputs)
    if end == "embed":
        hidden = "hook_hidden" if "hook_hidden" in run.at else "hook_embed"
        return _multiplier_of_writes(run, weights, None, hidden) * weights
    try:
        if norm is not None:
            weights, _ = fold_norm_into(model, norm, weights, weights.new_zeros(weights.shape[-1]))
        _, factor = _entering(run, weights, None, len(blocks(model)) - 1, norm, norm is not None)
    except ValueError as error:
        raise ValueError(
            "W_U does not read the residual stream: a layer of the head's own (BERT's) or something else that is no "
            f"norm stands between{_TOO_FEW}"
        ) from error
    return (factor * weights).mT


def _watched(model: HookedModel, writes: int | None, reads: int | None) -> list[str]:
    """Hooks on the way of a path; a model has some of them."""
    names = ["hook_hidden", "hook_embed", "hook_unembed", "unembed.hook_in", "ln_final.hook_normalized"]
    first, last = writes or 0, len(blocks(model)) if reads is None else reads + 1
    stream = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", *_PARTS)
    names += [f"blocks.{layer}.{part}" for layer in range(first, last) for part in stream]
    names += [] if writes is None else [f"blocks.{writes}.mlp.hook_post"]
    reading = ("mlp.hook_in", "ln2.hook_normalized", "mlp.in.hook_out", "mlp.hook_pre_linear", "mlp.hook_pre")
    return names + [f"blocks.{reads}.{part}" for part in reading if reads is not None]


def _entering(
    run: Observed, read: Tensor, reads: int | None, last: int, norm: Any, fold_norm: bool
) -> tuple[str, float]:
    """The hook of what the reads multiply, and what their products are multiplied by; `last` is the last block."""
    at, inside = run.at, "" if reads is None else f"blocks.{reads}."
    normalized = "ln_final.hook_normalized" if reads is None else f"{inside}ln2.hook_normalized"
    hook = "unembed.hook_in" if reads is None else f"{inside}mlp.hook_in"
    entering = {hook: at[hook]} if hook in at else {}
    if not entering and normalized in at:  # a HookedTransformer
        entering = {normalized: gained(norm, at[normalized])}
    if not entering:  # a toy
        stream = f"{inside}hook_resid_pre" if inside else f"blocks.{last}.hook_resid_post"
        entering = {name: at[name] for name in (stream, "hook_hidden", "hook_embed") if name in at}
    if fold_norm:
        entering = {normalized: at[normalized]} if normalized in at else {}
    leaving = [at.get(f"{inside}mlp.{part}") for part in ("in.hook_out", "hook_pre_linear", "hook_pre")]
    if reads is None:
        leaving = [run.out, at.get("hook_unembed")]  # before the output's nonlinearity, if there is one
    for name, x in entering.items():
        for own in leaving:
            if own is None or x.shape[-1] != len(read) or own.shape[-1] != read.shape[-1]:
                continue
            made, own = (x @ read.double()).flatten(0, -2), own.flatten(0, -2)
            if len(made) == len(own) and (factor := multiplier(made, own, run.precision)) is not None:
                return name, factor
    if fold_norm:
        raise ValueError("fold_norm=True: the norm does not stand in front of these weights; use fold_norm=False")
    raise ValueError(
        f"what these weights read is not what the model makes of it: something else stands between{_TOO_FEW}"
    )


def _multiplier_of_writes(run: Observed, write: Tensor, writes: int | None, entering: str) -> float:
    """What the written directions are multiplied by on their way into the residual stream, or a toy's hidden layer."""
    at = run.at
    if writes is None:
        if not isinstance(run.inputs, Tensor):
            raise ValueError(
                "inputs= must be a tensor of tokens (or of features) where the path begins at the embedding"
            )
        made = (write[run.inputs] if not run.inputs.is_floating_point() else run.inputs.to(write) @ write).double()
        stream = at.get("blocks.0.hook_resid_pre", at.get(entering))
        arriving = [] if stream is None else [stream]
    else:
        inside = f"blocks.{writes}."
        made = at[f"{inside}mlp.hook_post"] @ write.double()
        after = at.get(f"blocks.{writes + 1}.hook_resid_pre", at.get(f"{inside}hook_resid_post"))
        before, middle = (at.get(inside + part) for part in ("hook_resid_pre", "hook_resid_mid"))
        heads, arriving = at.get(f"{inside}hook_attn_out"), []
        if after is None:  # a toy
            arriving = [at[entering]]
        elif middle is not None:
            arriving.append(after - middle)
        if after is not None and before is not None:  # attention and MLP side by side, or no attention that writes
            arriving.append(after - before - (0 if heads is None else heads))
    for own in arriving:
        if own.shape[-1] != made.shape[-1] or own.numel() != made.numel():
            continue
        # an embedding of the position is the same in all examples
        here, there = made.reshape(own.shape), own
        if here.ndim == 3 and (here != here[0]).any():
            here, there = here - here.mean(0), there - there.mean(0)
        here, there = here.flatten(0, -2), there.flatten(0, -2)
        if (factor := multiplier(here, there, run.precision)) is not None:
            return factor
    what = "W_E" if writes is None else f"block {writes}'s W_out"
    raise ValueError(
        f"what arrives in the residual stream is no multiple of {what}: a norm, a nonlinearity or another part of the "
        f"model stands between{_TOO_FEW}"
    )


def _require_stream(run: Observed, layer: int) -> None:
    """A block adds to the residual stream: a norm in the stream itself would scale what was written before."""
    inside = f"blocks.{layer}."
    before, after = run.at.get(f"{inside}hook_resid_pre"), run.at.get(f"{inside}hook_resid_post")
    parts = [run.at[inside + part] for part in _PARTS if inside + part in run.at]
    if before is None and after is None:  # a toy
        return
    if before is not None and after is not None:
        left = after - before - sum(part.reshape(before.shape) for part in parts)
        if left.norm() <= run.precision * after.norm():
            return
    raise ValueError(
        f"block {layer} does more to the residual stream than to add what its attention and MLP give: a norm stands in "
        "the stream itself, or something else writes there"
    )


def weight_of(module: Any, name: str) -> Tensor:
    """A weight by its name, in float32 at least; ValueError if there is none."""
    try:
        weight = attrgetter(name)(module).detach()
    except AttributeError as error:
        raise ValueError(f"no {name} here: this model has no such end of a bottleneck") from error
    return weight if weight.dtype in (torch.float32, torch.float64) else weight.float()  # bfloat16 knows no tables
