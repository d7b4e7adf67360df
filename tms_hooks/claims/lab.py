"""What claims share: toys trained by the usual recipe, the same untrained, the cut-offs at which "learned" is tried.

The usual recipe is Adam at 0.01 with cosine decay, batches of 1,024, seeds from 0; a claim states where it departs
from it. `train_toys` remembers what it has trained, so claims about the same models share them. A feature counts as
learned above a norm of 0.5, or of 0.1 where n one-hot features share few directions: there only the sum of their
squared norms on each direction is fixed, and single norms fall with n.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from functools import cache
from itertools import combinations, product
from math import comb
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.quasirandom import SobolEngine

from tms_hooks import geometry, plots
from tms_hooks.claims import convergence, seeds
from tms_hooks.config import Activation, ToyConfig
from tms_hooks.data import AnticorrelatedGroups, CorrelatedGroups, Distribution, SparseUniform
from tms_hooks.landscape.exact import exact_loss, no_exact_loss
from tms_hooks.linalg import cosines, overlaps
from tms_hooks.models import forward
from tms_hooks.models.forward import Weights, init_weights
from tms_hooks.run import Run
from tms_hooks.train import train
from tms_hooks.training.optimizers import Adam
from tms_hooks.training.state import Init

if TYPE_CHECKING:
    import plotly.graph_objects as go

USUAL = Adam(lr=1e-2, schedule="cosine")
LEARNED, CUTS = 0.5, (0.3, 0.7)
"""Norm from which a feature counts as learned, and the norms at which that is tried as well."""
ONE_HOT_LEARNED, ONE_HOT_CUTS = 0.1, (0.05, 0.2)
"""The same for one-hot features that share directions."""
Stacked = Float[Tensor, "_ _ _"]
"""Directions of many models, "model feature hidden"; all three sizes may differ within one claim."""
ByDensity = Mapping[float, Stacked]
"""The same at several feature probabilities."""


def train_toys(cfg: ToyConfig, data: Distribution, models: int | range, *, steps: int, **settings: Any) -> Run:
    """Toys, trained; recorded at the start and the end, unless told otherwise.

    A model is trained the same alone and in a crowd: of what was trained before, the first models are not trained
    again.

    Args:
        cfg, data: architecture and distribution.
        models: how many, or their seeds, were the first one's 0.
        steps, settings: as `tms_hooks.train` takes them, sequences as tuples: a call is remembered by them.
    """
    asked = range(models) if isinstance(models, int) else models
    known = _trained_before(cfg, data, asked.start, asked.step, steps=steps, **settings)
    if not known or len(known[0].recipe.seeds) < len(asked):
        known[:] = [train(cfg, data, seeds=seeds.of(asked), **_usual(convergence.steps(steps), settings))]
    return known[0] if len(known[0].recipe.seeds) == len(asked) else first_of(known[0], len(asked))


@convergence.remembered
def _trained_before(*call: Any, **settings: Any) -> list[Run]:
    """Of one call of `train_toys`, but for how many: a list for the run of the most models."""
    return []


def first_of(run: Run, count: int) -> Run:
    """The first models of a run, as if they had been trained without the others."""
    kept = range(count)
    return replace(
        run,
        recipe=run.recipe.alone(*kept),
        weights={name: w[:count] for name, w in run.weights.items()},
        state=run.state.of(kept),
        history=run.history.isel(model=slice(count)),
        final_feature_loss=run.final_feature_loss[:count],
        final_head_loss=run.final_head_loss[:count],
        diverged={model: step for model, step in run.diverged.items() if model < count},
    )


def train_from(cfg: ToyConfig, data: Distribution, starts: Sequence[Init], *, steps: int, **settings: Any) -> Run:
    """Toys trained from given models or weights; their seeds, the usual ones unless given, decide the batches."""
    return train(
        cfg, data, init=starts, **{"seeds": seeds.of(len(starts))} | _usual(convergence.steps(steps), settings)
    )


def _usual(steps: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"steps": steps, "optimizer": USUAL, "record_every": steps, "progress": False} | dict(settings)


def untrained(cfg: ToyConfig, n_models: int) -> dict[str, Tensor]:
    """The weights that the models of seeds 0, 1, ... start from, stacked."""
    return stack([init_weights(cfg, seed) for seed in seeds.of(n_models)])


def untrained_directions(n_features: int, d_hidden: int, n_models: int) -> Stacked:
    """W_E of the same; where it starts depends on nothing but these sizes, unless norms are held at 1."""
    return untrained(ToyConfig(n_features=n_features, d_hidden=d_hidden), n_models)["W_E"]


def decaying(decay: float, n_features: int) -> tuple[float, ...]:
    """Importance decay^i of feature i."""
    return tuple(decay**i for i in range(n_features))


def at_cuts(statistic: Callable[[float], Any], cuts: Iterable[float] = CUTS, prefix: str = "") -> dict[str, float]:
    """A statistic at other cut-offs for "learned", or the share of models that it holds for, as controls.

    >>> at_cuts(lambda cut: 2 * cut)
    {'learned > 0.3': 0.6, 'learned > 0.7': 1.4}
    """
    return {f"{prefix}learned > {cut}": float(np.mean(statistic(cut))) for cut in cuts}


@cache
def transformer(name: str) -> Any:
    """`probes.load_transformer`, once in each process."""
    from probes import load_transformer

    return load_transformer(name)


def mean(values: Iterable[Any]) -> float:
    """The mean; NaN of nothing."""
    array = np.asarray(list(values), dtype=float)
    return float(array.mean()) if len(array) else float("nan")


def total(*groups: Mapping[Any, Sized]) -> int:
    """How many models there are in all groups together."""
    return sum(len(models) for group in groups for models in group.values())


def tally(values: "np.ndarray | Tensor") -> str:
    """How often each whole number occurs, in words.

    >>> tally(np.array([5, 5, 6, 5]))
    '75% 5, 25% 6'
    """
    shares = np.bincount(np.asarray(values)) / len(values)
    return ", ".join(f"{share:.0%} {number}" for number, share in enumerate(shares) if share)


def seed_names(W: Sized) -> list[str]:
    """Titles of the panels of a figure that shows one model per seed."""
    return [f"seed {seed}" for seed in seeds.of(len(W))]


def curves(by_name: Mapping[str, Mapping[Any, Any]], xlabel: str, ylabel: str, log_x: bool = False) -> "go.Figure":
    """`plots.curves` from name -> x -> y."""
    lines = {
        name: (np.array(list(line)), np.array([float(y) for y in line.values()])) for name, line in by_name.items()
    }
    return plots.curves(lines, xlabel, ylabel, log_x)


def stack(each: Sequence[Weights]) -> dict[str, Tensor]:
    """The weights of several models, with a leading model axis."""
    return {name: torch.stack([weights[name] for weights in each]) for name in each[0]}


def each(stacked: Weights) -> list[dict[str, Tensor]]:
    """The weights of each model, of stacked ones.

    >>> each(stack([{"scale": torch.tensor(1.0)}, {"scale": torch.tensor(2.0)}]))[1]
    {'scale': tensor(2.)}
    """
    count = len(next(iter(stacked.values())))
    return [{name: W[i] for name, W in stacked.items()} for i in range(count)]


def own_is_largest(outputs: Float[Tensor, "*model feature feature"]) -> Bool[Tensor, "*model feature"]:
    """Whether each feature, alone in the input, has the largest output of all; of outputs or logits, one row per input.

    >>> own_is_largest(torch.tensor([[1.0, 0.5], [2.0, 2.0]]))
    tensor([ True, False])
    """
    itself = torch.eye(outputs.shape[-1], dtype=torch.bool)
    return outputs.diagonal(dim1=-2, dim2=-1) > outputs.masked_fill(itself, -torch.inf).amax(-1)


def shares(parts: Mapping[str, np.ndarray], where: str = "") -> dict[str, float]:
    """The share of models that each part holds for; for controls.

    >>> shares({"square": np.array([True, False])}, ", untrained")
    {'square, untrained': 0.5}
    """
    return {f"{part}{where}": float(held.mean()) for part, held in parts.items()}


def pair_overlaps(V: Float[Tensor, "row hidden"]) -> Float[Tensor, " pair"]:
    """|Cosine| of every two rows, each pair once.

    >>> pair_overlaps(torch.tensor([[2.0, 0.0], [-3.0, 0.0], [0.0, 1.0]]))
    tensor([1., 0., 0.])
    """
    rows, columns = torch.triu_indices(len(V), len(V), 1)
    return overlaps(V)[rows, columns]


def fresh_samples(run: Run, count: int) -> Float[Tensor, "batch feature"]:
    """Samples of a run's distribution to measure its models on, of a seed that none of them trains with."""
    return run.recipe.setting.data.sample(count, seed=2**62 + seeds.first())


def colors(names: Iterable[str]) -> dict[str, str]:
    """One color of the palette per name, as `plots.distributions` takes them."""
    return dict(zip(names, plots.PALETTE, strict=False))


def densities(count: int) -> list[float]:
    """So many feature probabilities from 1 to 0.05, evenly spaced on a log scale."""
    return [float(p) for p in 20 ** -np.linspace(0, 1, count)]


def train_sparse(
    n_features: int,
    d_hidden: int,
    p: float | tuple[float, ...],
    models: int | range,
    *,
    steps: int,
    hidden_act: Activation = "identity",
    output_act: Activation = "relu",
    output_bias: bool = True,
    decay: float = 1.0,
    **settings: Any,
) -> Run:
    """`train_toys` on sparse uniform features, tied, with an output bias: the setting of Elhage et al. 2022.

    Feature i has importance decay^i, unless `importance` is given.
    """
    cfg = ToyConfig(
        n_features=n_features, d_hidden=d_hidden, hidden_act=hidden_act, output_act=output_act, output_bias=output_bias
    )
    data = SparseUniform(n_features=n_features, feature_probability=p)
    return train_toys(cfg, data, models, steps=steps, **{"importance": decaying(decay, n_features)} | settings)


def listing(what: str, values: Mapping[Any, Any], form: str = "") -> str:
    """Values by name, in this format, as a sentence for `Verdict.detail`.

    >>> listing("Directions", {"n = 5": "75% 5, 25% 6", "n = 8": 5})
    'Directions: n = 5: 75% 5, 25% 6; n = 8: 5.'
    >>> listing("Shares", {"SGD": 0.25}, ".0%")
    'Shares: SGD: 25%.'
    """
    return f"{what}: " + "; ".join(f"{name}: {value:{form}}" for name, value in values.items()) + "."


def log_slope(values: Mapping[int, float]) -> float:
    """The power of x that y grows with: the slope of the least-squares line through (log x, log y).

    >>> round(log_slope({1: 3.0, 2: 12.0, 4: 48.0}), 6)
    2.0
    """
    return float(np.polyfit(np.log(list(values)), np.log(list(values.values())), 1)[0])


def arrows(models: Mapping[str, Float[Tensor, "_ 2"]]) -> "go.Figure":
    """`plots.feature_arrows` of one model per title; they may have different numbers of features."""
    W = torch.nn.utils.rnn.pad_sequence(list(models.values()), batch_first=True)
    return plots.feature_arrows(W.numpy(), list(models))


def grams(models: Mapping[str, Float[Tensor, "feature hidden"]]) -> "go.Figure":
    """Gram matrices side by side, of one model per title."""
    return plots.matrices(np.stack([geometry.gram(W).numpy() for W in models.values()]), list(models))


def settled(holds: Bool[np.ndarray, "record model"], steps: Sequence[int] | np.ndarray) -> Float[np.ndarray, " model"]:
    """Step of the first record from which on it holds until the end; infinite if it does not hold there.

    >>> settled(np.array([[True, True], [False, True], [True, False]]), steps=[0, 10, 20])
    array([20., inf])
    """
    after_last_failure = np.where(holds.all(0), 0, len(holds) - holds[::-1].argmin(0))
    return np.append(steps, np.inf)[after_last_failure]


def lowest(loss: Float[np.ndarray, " model"]) -> int:
    """Which model has the lowest loss; one that diverged has not, and if all did it is the first.

    >>> lowest(np.array([np.nan, 0.5, 0.25])), lowest(np.array([np.nan]))
    (2, 0)
    """
    return int(np.where(np.isnan(loss), np.inf, loss).argmin())


class Trained(NamedTuple):
    """Written directions of trained models, and their losses, which are exact where the data set is finite."""

    W: Stacked
    loss: Float[np.ndarray, " model"]

    @classmethod
    def of(cls, run: Run) -> "Trained":
        """Of a run."""
        return cls(run.W_E, run.final_loss.numpy())

    def best(self, values: np.ndarray) -> float:
        """The value of the model of lowest loss."""
        return float(values[lowest(self.loss)])


def mean_of_known(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN of nothing.

    >>> mean_of_known(np.array([1.0, np.nan, 3.0]))
    2.0
    """
    return mean(values[~np.isnan(values)])


def expected_losses(run: Run) -> Float[np.ndarray, " model"]:
    """Expected loss of each model, to choose the best by: exact where that is known, else `stratified_losses`."""
    recipe = run.recipe
    if no_exact_loss(recipe.cfg, recipe.setting.data):
        return stratified_losses(run)
    importance = torch.tensor(recipe.setting.importance, dtype=torch.float64)
    each = [{name: w[i].double() for name, w in run.weights.items()} for i in range(len(run.W_E))]
    return np.array([float(exact_loss(one, recipe.cfg, recipe.setting.data, importance)) for one in each])


def stratified_losses(run: Run, rows: int = 4_096) -> Float[np.ndarray, " model"]:
    """Loss of each model on the same inputs with 0, 1, 2, ... active features, weighted by how often these occur.

    Rare pairs are seen as well as frequent ones, where a plain sample at p = 0.01 holds few of any. For sparse uniform
    features, and for groups of them, of which then 0, 1, 2, ... are active.
    """
    recipe = run.recipe
    importance = torch.tensor(recipe.setting.importance)
    total = np.zeros(len(run.W_E))
    for weight, x in by_active_count(recipe.setting.data, rows):
        x = x.expand(len(run.W_E), *x.shape)
        out = forward.reconstruct(run.weights, x, recipe.cfg).out
        total += weight * (importance * (out - recipe.task.target(x)).square()).sum(-1).double().mean(-1).numpy()
    return total


def by_active_count(data: Distribution, rows: int) -> list[tuple[float, Float[Tensor, "row feature"]]]:
    """Inputs with k active features (or groups) and the probability of so many, for each k that occurs.

    Every set of k is there where they are few enough, with the same evenly spread values. `Independent.strata`,
    by which training judges, knows none, one and several: it is for any number of features, and for every seed.
    """
    assert isinstance(data, SparseUniform | CorrelatedGroups | AnticorrelatedGroups)
    if len(set(data.active_probability().tolist())) > 1:
        return _patterns(data, rows)
    n, size, apart = data.n_features, getattr(data, "group_size", 1), isinstance(data, AnticorrelatedGroups)
    p = data.active_probability()[0].item()
    groups, q = n // size, p * size if apart else p
    low, high = (data.low, data.high) if isinstance(data, SparseUniform) else (0.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    found = [((1 - q) ** groups, torch.zeros(1, n))]
    for k in range(1, groups + 1):
        if (weight := comb(groups, k) * q**k * (1 - q) ** (groups - k)) < 1e-9:
            continue
        if (sets := comb(groups, k)) <= rows // 32:
            active = torch.zeros(sets, groups, dtype=torch.bool)
            active.scatter_(1, torch.tensor(list(combinations(range(groups), k))), True)
        else:
            active = torch.rand(rows, groups, generator=generator).argsort(1) < k
        each = max(rows // len(active), 1)
        active = active.repeat_interleave(each, dim=0).repeat_interleave(size, dim=1)
        if apart:
            chosen = torch.rand(len(active), groups, generator=generator).mul(size).long()
            active = active & (chosen.repeat_interleave(size, dim=1) == torch.arange(n) % size)
        value = low + (high - low) * SobolEngine(n, scramble=True, seed=0).draw(each if sets <= rows // 32 else rows)
        found.append((weight, active * (value.repeat(sets, 1) if sets <= rows // 32 else value)))
    return found


def _patterns(data: Distribution, rows: int) -> list[tuple[float, Float[Tensor, "row feature"]]]:
    """The same for features of different probabilities: all sets of active ones, and the probability of each."""
    p = data.active_probability()
    assert p is not None, "asked of data that know it"
    value = SobolEngine(data.n_features, scramble=True, seed=0).draw(max(rows >> data.n_features, 64))
    active = [torch.tensor(each) for each in product((False, True), repeat=data.n_features)]
    return [(float(torch.where(on, p, 1 - p).prod()), on * value) for on in active]


def shape_names(W: Stacked, learned: float = LEARNED) -> np.ndarray:
    """The polytope of each model."""
    return np.array([geometry.name_polytope(w, min_norm=learned) for w in W])


def pair_cosines(V: Float[Tensor, "row hidden"]) -> Float[Tensor, " pair"]:
    """Cosine of every two rows, each pair once.

    >>> pair_cosines(torch.tensor([[2.0, 0.0], [-3.0, 0.0], [0.0, 1.0]]))
    tensor([-1.,  0.,  0.])
    """
    rows, columns = torch.triu_indices(len(V), len(V), 1)
    return cosines(V)[rows, columns]


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation; 0 if either is constant.

    >>> rank_correlation(np.array([1, 2, 3]), np.array([1, 10, 100]))
    1.0
    """
    from scipy.stats import rankdata

    if len(first) < 2:
        return 0.0
    ranks = rankdata([first, second], axis=1)
    return float(np.corrcoef(ranks)[0, 1]) if ranks.std(axis=1).all() else 0.0
