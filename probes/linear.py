"""Linear probes: what can be read off the activations at a hook, beside what chance and a control task would give."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probes.activations import collect_activations
from probes.hooked import HookedModel, audit_hooks

Array = np.ndarray[Any, Any]


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

    >>> from probes.models import load_transformer
    >>> tokens = torch.randint(0, 101, (40, 8), generator=torch.Generator().manual_seed(0))
    >>> table = linear_probe(load_transformer("tiny"), tokens, tokens < 50, hooks="hook_embed")
    >>> bool(table.score["hook_embed"] > 0.85), table.directions["hook_embed"].shape
    (True, torch.Size([1, 64]))

    Scores are of predictions for examples held out: accuracy for classes, R^2 (1 - squared error / variance) for real
    targets, the mean of it over several targets. The control task has the targets of another example, at random; selectivity
    is the score less the control's (Hewitt and Liang 2019, "Designing and Interpreting Probes with Control Tasks").

    Args:
        model: any hooked model.
        inputs: what it takes, a tensor or a list of prompts of one length.
        targets: one an example, "batch", or one a position, "batch pos"; with a last axis for several real targets at once,
            all fitted with one factorisation. Integers, booleans and strings are classes, floats are real.
        hooks: names; by default the residual stream after every block, or every hook that fires where there is none.
        estimator: any scikit-learn classifier or regressor. Default: `RidgeCV` (its penalty chosen by leave-one-out, for each
            target) for real targets, standardised logistic regression for classes.
        cv: number of folds (shuffled; stratified for one class an example), or a scikit-learn splitter. Positions of one example
            share a fold.
        control: run the control task too.
        pos: with one target an example, the position to read, or "mean" over positions. Heads are concatenated.
        seed: of folds, control and intervals.

    Returns:
        Indexed by hook: `score`, its 95 % interval `low`, `high` (percentile bootstrap over examples, 1,000 draws), `baseline`
        (the majority class, or the mean: 0), `control` and `selectivity` (if asked for), `scores` (" target"), and `directions`
        "target d_in", rows fitted to all data in units of the activations, one for two classes, None if the estimator has none.

    Raises:
        KeyError: an unknown hook.
        ValueError: targets with NaN, of one class, constant, or of another number of examples or positions; a hook that
            does not fire, or whose shape changes with the prompt.
    """
    names = _default_hooks(model, inputs) if hooks is None else hooks
    activations = collect_activations(model, inputs, names)
    y = _targets(targets)
    rng = np.random.default_rng(seed)
    shuffled = y[rng.permutation(len(y))]
    rows = {}
    for name, value in activations.items():
        x, rows_y, example = _rows(name, value, y, pos)
        probe = _Probe(estimator, cv, rows_y, example, seed)
        row = probe.scores(x, rows_y)
        if control:
            _, control_y, _ = _rows(name, value, shuffled, pos)
            row["control"] = probe.scores(x, control_y)["score"]
            row["selectivity"] = row["score"] - row["control"]
        rows[name] = row | {"directions": probe.directions(x, rows_y)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("hook")


class _Probe:
    """An estimator and its folds."""

    def __init__(self, estimator: Any, cv: Any, y: Array, example: Array, seed: int) -> None:
        from sklearn.base import clone, is_classifier
        from sklearn.linear_model import LogisticRegression, RidgeCV
        from sklearn.model_selection import GroupKFold, StratifiedKFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        real = y.dtype.kind == "f"
        if estimator is None and real:
            estimator = RidgeCV(alphas=np.logspace(-4, 4, 9), alpha_per_target=y.ndim > 1)
        elif estimator is None:
            estimator = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        self.estimator, self.classify, self.example, self.seed = clone(estimator), is_classifier(estimator), example, seed
        if self.classify == real:
            kind = "classes" if self.classify else "real targets"
            raise ValueError(f"{type(estimator).__name__} predicts {kind}, the targets are {y.dtype}: convert them")
        if not isinstance(cv, int):
            self.folds = list(cv.split(np.empty((len(y), 1)), y, example))
        elif self.classify and len(np.unique(example)) == len(y):
            self.folds = list(StratifiedKFold(cv, shuffle=True, random_state=seed).split(np.empty((len(y), 1)), y))
        else:
            self.folds = list(GroupKFold(cv, shuffle=True, random_state=seed).split(np.empty((len(y), 1)), y, example))

    def scores(self, x: Array, y: Array) -> dict[str, Any]:
        """Score of out-of-fold predictions, its interval and the baseline."""
        from sklearn.base import clone

        predicted, guessed = np.empty_like(y), np.empty_like(y)
        for train, test in self.folds:
            predicted[test] = clone(self.estimator).fit(x[train], y[train]).predict(x[test])
            guessed[test] = _mode(y[train]) if self.classify else y[train].mean(0)
        if self.classify:
            error, scale = 1.0 - (predicted == y), np.ones(y.shape)
            baseline = float((guessed == y).mean())
        else:
            error, scale, baseline = (predicted - y) ** 2, (y - y.mean(0)) ** 2, 0.0
        error, scale = self._by_example(error), self._by_example(scale)
        n = len(error)
        weights = np.random.default_rng(self.seed).multinomial(n, np.full(n, 1 / n), size=1000)
        weights = weights[((weights @ scale) > 0).all(1)]  # a draw in which a target is constant has no R^2
        draws = (1 - (weights @ error) / (weights @ scale)).mean(1)
        low, high = np.percentile(draws, [2.5, 97.5])
        scores = 1 - error.sum(0) / scale.sum(0)
        return {"score": float(scores.mean()), "low": low, "high": high, "baseline": baseline, "scores": scores}
