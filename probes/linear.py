"""Linear probes: what can be read off the activations at a hook, beside what chance and a control task would give.

A probe is a linear map fitted from activations to targets and scored on examples that it was not fitted to. A high
score alone says little, since enough dimensions fit anything: so every probe is also fitted to a control task, the same
targets handed out to other examples at random. The difference of the two scores, the selectivity, is what the
activations hold. That a probe reads something off does not show that the model uses it: patching does.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from probes.activations import collect_activations
from probes.hooked import HookedModel, bootstrap_draws
from probes.liveness import audit_hooks
from probes.names import AFTER_BLOCKS, axes, in_every_block

Array = Shaped[np.ndarray, "..."]


def linear_probe(
    model: HookedModel,
    inputs: Any,
    targets: Any,
    hooks: str | Iterable[str] | None = None,
    estimator: Any = None,
    cv: Any = 5,
    control: bool = True,
    *,
    pos: int | Literal["mean"] = -1,
    seed: int = 0,
) -> pd.DataFrame:
    """Predict targets from the activations at each hook, cross-validated, with a control task and a baseline.

    >>> from probes.transformers import load_transformer
    >>> tokens = torch.randint(0, 101, (40, 8), generator=torch.Generator().manual_seed(0))
    >>> table = linear_probe(load_transformer("tiny"), tokens, tokens < 50, hooks="hook_embed")
    >>> bool(table.score["hook_embed"] > 0.85), table.directions["hook_embed"].shape
    (True, torch.Size([1, 64]))

    The score is the accuracy for classes and R^2 (1 - squared error / variance) for real targets, or the mean over
    several targets; selectivity is Hewitt and Liang's (2019, "Designing and Interpreting Probes with Control Tasks").

    Args:
        model: any hooked model.
        inputs: what it takes, a tensor or a list of prompts of one length.
        targets: one per example, "batch", or one per position, "batch pos". Integers, booleans and strings are classes,
            floats are real. Floats and booleans may have a last axis "target", thousands long: all are fitted at once.
        hooks: names; by default the residual stream after every block, or every hook that fires where there is none.
        estimator: any scikit-learn classifier or regressor. Default: `RidgeCV` for real targets (penalty chosen by
            leave-one-out, target by target), logistic regression on standardized activations for classes
            (scikit-learn's; with a target axis `probes.logistic.LogisticTargets`, to the same solution).
        cv: number of folds (shuffled; stratified for one class per example), or a scikit-learn splitter. Positions of
            one example share a fold.
        control: run the control task too.
        pos: with one target per example, the position to read, or "mean" over positions. Heads are concatenated.
        seed: of folds, control and intervals.

    Returns:
        Indexed by hook: `score`, its 95 % interval `low`, `high` (percentile bootstrap over examples, 1,000 draws),
        `baseline` (the score of always guessing the majority class, or the mean: 0 for real targets), `scores` (one per
        target), `control` and `selectivity`, and `directions`, rows "target d_in" or "class d_in" (one row for two
        classes) fitted to all data; None if the estimator has no `coef_`.

    Raises:
        KeyError: an unknown hook.
        ValueError: targets with NaN, of one class, constant, or of another number of examples or positions; a hook that
            does not fire, or whose shape changes with the prompt.
    """
    activations = collect_activations(model, inputs, _default_hooks(model, inputs) if hooks is None else hooks)
    return _table(model, activations, targets, estimator, cv, control, pos, seed)


def probe_activations(
    activations: Mapping[str, Any],
    targets: Any,
    estimator: Any = None,
    cv: Any = 5,
    control: bool = True,
    *,
    pos: int | Literal["mean"] = -1,
    seed: int = 0,
) -> pd.DataFrame:
    """`linear_probe` without a model, on activations that were saved, by whichever tool.

    >>> x = np.random.default_rng(0).normal(size=(40, 8))
    >>> bool(probe_activations({"resid": x}, x[:, 3] > 0).score["resid"] > 0.8)
    True

    Args:
        activations: by name, tensors or arrays "batch d_in", "batch pos d_in" or "batch pos head d_head", such as
            `safetensors.torch.load_file(path)` or `{"resid": numpy.load(path)}`.
        targets, estimator, cv, control, pos, seed: as in `linear_probe`, which also says what is returned.

    Raises:
        ValueError: no activations, or some of another number of examples than targets; what `linear_probe` refuses.
    """
    if not activations:
        raise ValueError("activations is empty: give at least one array by its name")
    kept = {n: v if isinstance(v, Tensor) else torch.from_numpy(np.asarray(v)) for n, v in activations.items()}
    return _table(None, kept, targets, estimator, cv, control, pos, seed)


def _table(
    model: HookedModel | None,
    activations: Mapping[str, Tensor],
    targets: Any,
    estimator: Any,
    cv: Any,
    control: bool,
    pos: int | Literal["mean"],
    seed: int,
) -> pd.DataFrame:
    """The table of `linear_probe`; the model, if there is one, says which axes its activations have."""
    rows = []
    for name, value in activations.items():
        y = _targets(targets, len(value))
        shuffled = y[np.random.default_rng(seed).permutation(len(y))]
        of_axes = axes(name, value.ndim, model)
        x, of_row, example = _rows(name, of_axes, value, y, pos)
        probe = _Probe(estimator, cv, of_row, example, seed)
        row = probe.scores(x, of_row)
        if control:
            row["control"] = probe.scores(x, _rows(name, of_axes, value, shuffled, pos)[1])["score"]
            row["selectivity"] = row["score"] - row["control"]
        rows.append(row | {"directions": probe.directions(x, of_row)})
    return pd.DataFrame(rows, index=pd.Index(activations, name="hook"))


class _Probe:
    """An estimator and its folds."""

    def __init__(self, estimator: Any, cv: Any, y: Array, example: Array, seed: int) -> None:
        from sklearn.base import clone, is_classifier
        from sklearn.linear_model import LogisticRegression, RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        from probes.logistic import LogisticTargets

        real = y.dtype.kind == "f"
        if estimator is None and real:
            estimator = RidgeCV(alphas=np.logspace(-4, 4, 9), alpha_per_target=y.ndim > 1)
        elif estimator is None:
            logistic = LogisticTargets() if y.ndim > 1 else LogisticRegression(max_iter=2000)
            estimator = make_pipeline(StandardScaler(), logistic)
        self.fit = lambda x, y: clone(estimator).fit(x, y)
        self.classify, self.example, self.seed = is_classifier(estimator), example, seed
        if self.classify == real:
            kind = "classes (integers, booleans, strings)" if self.classify else "real targets (floats)"
            raise ValueError(f"{type(estimator).__name__} predicts {kind}, the targets are {y.dtype}: convert them")
        self.folds = list(_folds(cv, y, example, self.classify, seed))

    def scores(self, x: Float[np.ndarray, "row d_in"], y: Array) -> dict[str, Any]:
        """Score of out-of-fold predictions, its interval, and the baseline's."""
        from sklearn.dummy import DummyClassifier

        predicted, baseline = np.empty_like(y), 0.0
        for train, test in self.folds:
            predicted[test] = self.fit(x[train], y[train]).predict(x[test])
            if self.classify:
                guess = DummyClassifier(strategy="most_frequent").fit(x[train], y[train]).predict(x[test])
                baseline += float((y[test] == guess).sum()) / y.size
        error = 1.0 - (predicted == y) if self.classify else (predicted - y) ** 2
        scale = np.ones(y.shape) if self.classify else (y - y.mean(0)) ** 2
        error, scale = self._by_example(error), self._by_example(scale)
        scores = 1 - error.sum(0) / scale.sum(0)
        draws = bootstrap_draws(len(error), self.seed)
        draws = draws[((draws @ scale) > 0).all(1)]  # where a target is constant it has no R^2
        low, high = np.percentile((1 - (draws @ error) / (draws @ scale)).mean(1), [2.5, 97.5])
        return {"score": scores.mean(), "low": low, "high": high, "baseline": baseline, "scores": scores}

    def directions(self, x: Float[np.ndarray, "row d_in"], y: Array) -> Float[Tensor, "k d_in"] | None:
        """Rows of weights on the activations, fitted to all data; None if the estimator has none."""
        fitted = self.fit(x, y)
        *scalers, last = (step for _, step in getattr(fitted, "steps", [("", fitted)]))
        rows = getattr(last, "coef_", None)
        for step in scalers:
            rows = rows / step.scale_ if rows is not None and getattr(step, "scale_", None) is not None else None
        return None if rows is None else torch.from_numpy(np.atleast_2d(rows))

    def _by_example(self, values: Array) -> Float[np.ndarray, "batch target"]:
        """Sums over the rows of each example, whose positions are not independent: they are drawn together."""
        values = values.reshape(len(values), -1)
        sums = np.zeros((self.example.max() + 1, values.shape[1]))
        np.add.at(sums, self.example, values)
        return sums


def _folds(cv: Any, y: Array, example: Array, classify: bool, seed: int) -> Iterator[tuple[Array, Array]]:
    """Rows to fit and rows to predict; the rows of one example are on one side."""
    from sklearn.model_selection import KFold, StratifiedKFold

    n = int(example.max()) + 1
    if not isinstance(cv, int):
        yield from cv.split(np.empty((len(y), 1)), y, None if n == len(y) else example)
        return
    if not 2 <= cv <= n:
        raise ValueError(f"cv={cv} with {n} examples: must be from 2 to the number of examples")
    stratify = classify and y.ndim == 1 and n == len(y)
    splitter = (StratifiedKFold if stratify else KFold)(cv, shuffle=True, random_state=seed)
    for _, test in splitter.split(np.empty((n, 1)), y if stratify else None):
        held_out = np.isin(example, test)
        yield np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _targets(targets: Any, n_examples: int) -> Array:
    y = targets.detach().cpu().numpy() if isinstance(targets, Tensor) else np.asarray(targets)
    if len(y) != n_examples:
        raise ValueError(f"{len(y)} targets for {n_examples} inputs: give one, or one row, for each")
    if y.dtype.kind == "f":
        y = y.astype(np.float64)
        if not np.isfinite(y).all():
            raise ValueError(f"{int((~np.isfinite(y)).sum())} targets are NaN or infinite: drop those examples")
        if (np.ptp(y.reshape(-1, y.shape[-1]) if y.ndim > 2 else y.reshape(-1), axis=0) == 0).any():
            raise ValueError("a target is the same everywhere: there is nothing to predict; drop it")
    elif len(np.unique(y)) == 1:
        raise ValueError(f"targets have one class, {np.unique(y).item()!r}: give at least two")
    return y


def _rows(name: str, names: tuple[str, ...], value: Tensor, y: Array, pos: int | str) -> tuple[Array, Array, Array]:
    """Activations "row d_in", whose axes have these names, targets of the rows, and the example that each row is of."""
    if names[-1] != "unit" or names[1] == "head":
        raise ValueError(f"hook {name!r} has shape {tuple(value.shape)}: probe one that is batch (pos) (head) unit")
    value, n = value.flatten(2) if value.ndim > 2 else value, len(value)
    if value.ndim == 3 and y.ndim > 1 and y.shape[1] == value.shape[1]:
        x = value.flatten(0, 1).double().numpy()
        return x, y.reshape(len(x), *y.shape[2:]), np.repeat(np.arange(n), value.shape[1])
    if y.ndim > 2 or (y.ndim == 2 and y.dtype.kind not in "fb"):
        raise ValueError(
            f"targets {y.shape} of {y.dtype} at {name!r}, {tuple(value.shape)}: give one per position, if it has "
            "positions, or one per example, or several per example that are floats or booleans"
        )
    if value.ndim == 3:
        value = value.mean(1) if pos == "mean" else value[:, int(pos)]
    return value.double().numpy(), y, np.arange(n)


def _default_hooks(model: HookedModel, inputs: Any) -> list[str]:
    """The residual stream after every block, or whatever fires and is batch (pos) (head) unit."""
    if names := in_every_block(model, AFTER_BLOCKS):
        return names
    audit = audit_hooks(model, inputs[:2])
    shapes = audit["shape"][audit["fires"]].dropna()
    return [
        str(name) for name, shape in shapes.items() if axes(str(name), len(shape), model)[1:2] in (("unit",), ("pos",))
    ]
