"""Attention scores as sums over the singular slices of a head's Omega.

Before the softmax a head scores two positions by x_query Omega x_key. With the singular value decomposition
Omega = sum_k s_k u_k v_k^T each score is a sum of slices s_k (x_query . u_k)(v_k . x_key), and a head whose scores need
few of them compares positions along few directions (Franco & Crovella 2024). How few is few? A random rotation of the
factors splits the same scores along other directions of the same rank: the null says how many slices those need.
`ablate_slices` takes slices away, to see whether the model needs them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.architectures import Rotation, block, gained
from probes.calls import brief
from probes.circuits import Circuit, observed_scores, omega, qk_circuit, read_by, scoring
from probes.given import as_batch, as_tensor, whole
from probes.hooked import HookedModel, check_hooks, temporary_hooks
from probes.names import BEFORE_GAIN, heads_read_at
from probes.verification import fit_scores, precision

CHUNK = 2**16
"""Pairs that are sorted at once: a prompt of 1,024 tokens has half a million."""


class AttentionSlices(NamedTuple):
    """Scores of one head on pairs of positions, each split into the slices `s_k (x_query . u_k)(v_k . x_key)`."""

    pairs: Int[Tensor, "pair 3"]
    """Example, query position, key position."""
    scores: Float[Tensor, " pair"]
    """As the model scores the pair before a soft cap, a position bias and the softmax (minus the query's mean, if
    relative): the sum of its slices."""
    slices: Float[Tensor, "pair k"]
    """In the order of the singular values."""
    needed: Int[Tensor, " pair"]
    """How many slices, largest contribution first, reach the score."""
    null_needed: Int[Tensor, "null pair"]
    """The same count after random rotations of the head's factors: other exact splits of the same scores."""
    scale: float
    """What the model multiplies x_query Omega x_key by: 1/sqrt(d_head) in most transformers, 1 in a toy."""
    position_bias: Float[Tensor, " pair"]
    """What the model adds for the two positions alone (ALiBi), minus each query's mean; 0 in most transformers."""
    cap: float | None
    """The softmax feels cap * tanh(score / cap) of each score, as in Gemma 2; None in most transformers."""

    def __repr__(self) -> str:
        return brief(self)


def attention_slices(
    model: HookedModel,
    inputs: Any,
    layer: int,
    head: int,
    *,
    pairs: Any = None,
    fold_norm: bool = False,
    relative: bool = False,
    hook: str | None = None,
    n_null: int = 100,
    seed: int = 0,
) -> AttentionSlices:
    """Split each attention score of a head into the contributions of Omega's singular pairs.

    >>> from probes.transformers import load_transformer
    >>> split = attention_slices(load_transformer("tiny"), torch.tensor([[1, 2, 3]]), layer=1, head=0)
    >>> split.pairs[-1], split.slices.shape
    (tensor([0, 2, 2]), torch.Size([6, 16]))

    Biases are part of Omega (an input of constant 1), grouped queries and rotary positions are handled: in a rotary
    model Omega, and so the slices, depend on query position minus key position. The scores are checked against the
    model's own pattern (or its scores, if it has no pattern); what depends on the positions alone is told apart.

    Args:
        model, layer, head: as in `qk_circuit`.
        inputs: what the model takes.
        pairs: which (example, query, key) to split, "pair 3", or a single one; all that the mask allows if not given.
        fold_norm: slices of the normalized input, with the norm's gain folded into Omega, as in the paper.
        relative: split each score minus the query's mean over the keys it sees, which is what a softmax feels.
        hook: the one whose activation the head reads; not needed for a bridge, a `HookedTransformer` or a toy.
        n_null, seed: number of random rotations, and the seed of their draw.

    Raises:
        IndexError: no such layer, head or position.
        ValueError: a masked pair; or scores that are not a bilinear form of the inputs times a constant (clipped or
            normalized queries; position biases, if the inputs are a single example); `relative` with a soft cap.
    """
    n_null = whole("n_null", n_null, least=0)
    read_by(model, layer, head, fold_norm)  # an unknown layer or head first
    x, judged, is_pattern, precision = observed_scores(model, layer, head, fold_norm, inputs, hook)
    how = scoring(model, layer, head, fold_norm, x, judged, is_pattern, precision)
    if relative and how.cap:
        raise ValueError(f"relative=True: a softmax feels these scores through a soft cap of {how.cap:g}")
    visible = how.seen.nonzero()
    reader = _Head(model, layer, head, fold_norm, x, how.rotation)
    queries, keys = reader.coordinates(visible)
    form = torch.zeros_like(judged)
    form[tuple(visible.T)] = (queries * keys).sum(-1)
    fit = fit_scores(form, judged, how.seen, is_pattern, how.cap, bool(how.fit.bias.any()))
    if math.isnan(fit.scale):
        raise ValueError("every score is the same: give inputs of at least two positions that differ")
    if not fit.error <= precision:
        raise ValueError(f"the slices do not sum to the model's scores (relative error {fit.error:.1e})")
    scale = fit.scale
    if pairs is not None:
        pairs = torch.atleast_2d(as_tensor(pairs))
        inside = ((pairs >= 0) & (pairs < torch.tensor(how.seen.shape))).all(1)
        inside[inside.clone()] = how.seen[tuple(pairs[inside].T)]
        if not inside.all():
            raise ValueError(
                f"(example, query, key) {tuple(pairs[~inside][0].tolist())} is masked or outside the inputs"
            )
        rows = torch.empty(how.seen.shape, dtype=torch.long)
        rows[how.seen] = torch.arange(len(visible))
        chosen = rows[tuple(pairs.T)]
        visible, queries, keys = visible[chosen], queries[chosen], keys[chosen]
    if relative:
        keys = keys - reader.mean_keys(visible, how.seen)
    slices = scale * queries * keys
    generator = torch.Generator().manual_seed(seed)
    null = torch.empty(n_null, len(slices), dtype=torch.long)
    for i in range(n_null):
        turn, _ = torch.linalg.qr(torch.randn(2 * slices.shape[-1:], generator=generator, dtype=torch.float64))
        parts = zip(queries.split(CHUNK), keys.split(CHUNK), strict=True)
        null[i] = torch.cat([slices_needed(scale * (q @ turn) * (k @ turn)) for q, k in parts])
    bias = fit.bias[tuple(visible.T[1:])]
    return AttentionSlices(visible, slices.sum(-1), slices, slices_needed(slices), null, scale, bias, how.cap)


def slices_needed(slices: Float[Tensor, "pair k"] | Float[np.ndarray, "pair k"]) -> Int[Tensor, " pair"]:
    """How many slices, largest contribution in the score's direction first, reach the score that all of them sum to.

    >>> slices_needed(torch.tensor([[1.0, 5.0, -2.0], [1.0, 2.0, 3.0], [-4.0, 1.0, 0.0]]))
    tensor([1, 3, 1])
    """
    return torch.cat([_needed(part) for part in as_tensor(slices).split(CHUNK)])


def _needed(slices: Float[Tensor, "pair k"]) -> Int[Tensor, " pair"]:
    total = slices.sum(-1, keepdim=True)
    direction = torch.where(total < 0, -1.0, 1.0)
    prefix = (direction * slices).sort(dim=-1, descending=True).values.cumsum(-1)
    # the last of the slices reaches the score only up to rounding
    slack = 1e-9 * slices.abs().sum(-1, keepdim=True)
    return (prefix < direction * total - slack).sum(-1) + 1


def ablate_slices(
    model: HookedModel,
    inputs: Any,
    metric: Callable[[Any], Tensor],
    layer: int,
    head: int,
    slices: int | Sequence[int] | Int[np.ndarray, " slice"],
    *,
    offset: int = 0,
    n_random: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """What becomes of a metric if a head can no longer compare positions along some of its singular slices?

    >>> from probes.transformers import load_transformer
    >>> tokens = torch.randint(0, 101, (4, 6), generator=torch.Generator().manual_seed(0))
    >>> table = ablate_slices(load_transformer("tiny"), tokens, lambda out: out[:, -1, 3], 1, 0, [0, 1], n_random=2)
    >>> table.index.tolist()
    ['nothing', 'slices', 'head', 'random', 'random']

    The head's queries lose what comes of the component of x_query (and the constant 1 of the biases) along the u_k of
    these slices. Of each score exactly these slices are gone, in a rotary model at this `offset`; at other distances
    whatever else is compared along the same query directions goes too. Other heads read on as before.

    Args:
        model, layer, head, offset: as in `qk_circuit`.
        inputs: what the model takes.
        metric: output -> one number per example.
        slices: which (one or several), 0 for that of the largest singular value.
        n_random: controls that lose as many slices along random directions of the same left singular space.
        seed: of their draw.

    Returns:
        Rows "nothing" (the model as it is), "slices", "head" (all slices: a head without scores attends everywhere
        alike) and "random", one per draw. `metric` is the mean over the examples, `change` what it is more than that
        of "nothing", `share` the change as a part of the head's (NaN if the head changes nothing).

    Raises:
        IndexError: no such layer, head or slice.
        ValueError: no slices or one twice; what `qk_circuit` refuses; queries that are not what the weights make.
    """
    inputs = as_batch(model, inputs)
    circuit = qk_circuit(model, layer, head, bias=True, offset=offset, inputs=inputs)
    n_random = whole("n_random", n_random, least=0)
    several = [slices] if isinstance(slices, int | np.integer) else slices
    chosen, k = [whole("slices", i) for i in several], len(circuit.S)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"slices={chosen}: name at least one, each once")
    if outside := [i for i in chosen if not 0 <= i < k]:
        raise IndexError(f"slice {outside[0]}: head {head} of layer {layer} has slices 0 to {k - 1}")
    generator = torch.Generator().manual_seed(seed)
    taken = [("nothing", circuit.U[:, :0]), ("slices", circuit.U[:, chosen]), ("head", circuit.U)]
    for _ in range(n_random):
        turn, _ = torch.linalg.qr(torch.randn(k, len(chosen), generator=generator, dtype=torch.float64))
        taken.append(("random", circuit.U @ turn))
    weight, bias = read_by(model, layer, head, False)[0]
    queries = torch.cat([weight, bias[None]])
    rows = []
    with torch.no_grad():
        for name, directions in taken:
            with temporary_hooks(model, _without(model, layer, head, directions, queries)):
                value = metric(model(inputs))
            if not value.isfinite().all():
                raise ValueError(f"the metric is not finite: {value.tolist()}")
            rows.append((name, float(value.double().mean())))
    table = pd.DataFrame(rows, columns=["taken", "metric"]).set_index("taken")
    table["change"] = table["metric"] - table.loc["nothing", "metric"]
    of_head = table.loc["head", "change"]
    table["share"] = table["change"] / of_head if of_head else math.nan
    return table


def _without(
    model: HookedModel, layer: int, head: int, directions: Float[Tensor, "d k"], queries: Float[Tensor, "d d_head"]
) -> list[tuple[str, Any]]:
    """Hooks by which one head's queries lose what their input has along the directions; both end in the biases."""
    reads, made = check_hooks(model, [heads_read_at(model, layer, before_gain=False), f"blocks.{layer}.attn.hook_q"])
    along = directions @ (directions.mT @ queries)
    read = {}

    def keep(value: Tensor, hook: Any) -> None:
        x = value.detach().double()
        x = gained(block(model, layer).ln1, x) if reads.endswith(BEFORE_GAIN) else x
        read["x"] = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)

    def edit(value: Tensor, hook: Any) -> Tensor:
        heads = value.clone()
        own = heads[:, :, head].double()
        expected = read["x"] @ queries.to(read["x"])
        if not (own - expected).norm() <= precision(value) * expected.norm():
            raise ValueError(f"layer {layer}, head {head}: hook_q does not hold what W_Q makes of {reads!r}")
        heads[:, :, head] = (own - read["x"] @ along.to(read["x"])).to(value)
        return heads

    return [(reads, keep), (made, edit)]


class _Head:
    """One head, and the inputs that it reads, ending in a constant 1 for the biases."""

    def __init__(
        self, model: HookedModel, layer: int, head: int, fold_norm: bool, x: Tensor, rotation: Rotation | None
    ) -> None:
        self.rotation = rotation
        self.x = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
        self.omega = partial(omega, model, layer, head, bias=True, fold_norm=fold_norm, rotation=rotation)

    def by_offset(self, pairs: Tensor) -> Iterator[tuple[Circuit, Tensor]]:
        """Each Omega with the pairs that it scores: one per distance in a rotary model, else one for all pairs."""
        offsets = pairs[:, 1] - pairs[:, 2] if self.rotation else torch.zeros_like(pairs[:, 1])
        for offset in offsets.unique().tolist():
            yield self.omega(offset=offset), (offsets == offset).nonzero()[:, 0]

    def coordinates(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Query and key of each pair along the singular directions, each times the root of the singular value."""
        queries = self.x.new_empty(len(pairs), len(self.omega(offset=0).S))
        keys = torch.empty_like(queries)
        for circuit, members in self.by_offset(pairs):
            example, query, key = pairs[members].T
            queries[members] = (self.x[example, query] @ circuit.U) * circuit.S.sqrt()
            keys[members] = (self.x[example, key] @ circuit.Vh.mT) * circuit.S.sqrt()
        return queries, keys

    def mean_keys(self, pairs: Tensor, seen: Tensor) -> Tensor:
        """Mean over the keys that each pair's query sees, in the coordinates of the pair's own key."""
        right = self.omega(offset=0).right
        keys = self.x @ right
        example, query, key = pairs.T
        if self.rotation:
            keys = self.rotation.turn(keys, torch.arange(keys.shape[1]))
        mean = ((seen.double() @ keys) / seen.sum(-1, keepdim=True).clamp_min(1))[example, query]
        if self.rotation:
            mean = self.rotation.turn(mean, -key)  # as seen from the pair's own key
        coordinates = mean.new_empty(len(pairs), min(right.shape))
        for circuit, members in self.by_offset(pairs):
            coordinates[members] = (mean[members] @ torch.linalg.pinv(right) @ circuit.Vh.mT) * circuit.S.sqrt()
        return coordinates
