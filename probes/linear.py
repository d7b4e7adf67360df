"""Linear probes: what can be read off the activations at a hook, beside what chance and a control task would give.

A probe is a linear map fitted from activations to targets and scored on examples that it was not fitted to. A high
score alone says little, since enough dimensions fit anything: so every probe is also fitted to a control task, the same
targets handed out to other examples at random. The difference of the two scores, the selectivity, is what the
activations hold. That a probe reads something off does not show that the model uses it: patching does.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from probes.activations import collect_activations, stream_activations
from probes.given import as_batch, as_prompts, as_tensor
from probes.hooked import HookedModel, bootstrap_draws
from probes.liveness import audit_hooks
from probes.names import AFTER_BLOCKS, axes, in_every_block

Array = Shaped[np.ndarray, "..."]
Position = int | Literal["mean", "each"] | None
Split = tuple[Int[np.ndarray, " fitted"], Int[np.ndarray, " tested"]]


def linear_probe(
    model: HookedModel,
    inputs: Any,
    targets: Any,
    hooks: str | Iterable[str] | None = None,
    estimator: Any = None,
    cv: Any = 5,
    control: bool = True,
    *,
    pos: Position = None,
    mask: Any = None,
    groups: Any = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Predict targets from the activations at each hook, cross-validated, with a control task and a baseline.

    >>> from probes.transformers import load_transformer
    >>> tokens = torch.randint(0, 101, (40, 8), generator=torch.Generator().manual_seed(0))
    >>> table = linear_probe(load_transformer("tiny"), tokens, tokens < 50, hooks="hook_embed", pos="each")
    >>> bool(table.score["hook_embed"] > 0.85), table.directions["hook_embed"].shape
    (True, torch.Size([1, 64]))

    The score is the accuracy for classes and R^2 (1 - squared error / variance) for real targets, or the mean over
    several targets; selectivity is Hewitt and Liang's (2019, "Designing and Interpreting Probes with Control Tasks").

    Args:
        model: any hooked model.
        inputs: what it takes, a tensor or a list of prompts (strings, or the tokens of each), also of several lengths.
        targets: one per example, "batch", or one per position, "batch pos" (of prompts of several lengths a list with
            an array for each). Integers, booleans and strings are classes, floats are real. Floats and booleans may
            have a last axis "target", thousands long: all are fitted at once.
        hooks: names; by default the residual stream after every block, or every hook that fires where there is none.
        estimator: any scikit-learn classifier or regressor. Default: `RidgeCV` for real targets (penalty chosen by
            leave-one-out, target by target), logistic regression on standardized activations for classes
            (scikit-learn's; with a target axis `probes.logistic.LogisticTargets`, to the same solution). A transformer,
            such as `SparseCoder` with given directions, makes what the default then reads.
        cv: number of folds (shuffled; stratified for one class per example), a scikit-learn splitter, or a list of
            (fitted, tested) example numbers. Positions of one example share a fold; examples that no fold tests are
            not scored.
        control: run the control task too.
        pos: the position to read (negative: from the end of each prompt), "mean" over its positions, or "each", with
            one target per position. By default what the targets' shape says: "each", or -1 with one target per example.
        mask: of a tensor of padded prompts, where its tokens are real: booleans "batch pos", or ones and zeros as
            tokenizers give them. Padding is neither run nor read nor counted.
        groups: a label for each example, or a row of labels whose combination counts, "batch" or "batch label":
            examples of one group share a fold. With the features of each example a probe is scored on combinations of
            features that it was not fitted to.
        seed: of folds, control and intervals.

    Returns:
        Indexed by hook: `score`, its 95 % interval `low`, `high` (percentile bootstrap over examples, 1,000 draws),
        `baseline` (the score of always guessing the majority class, or the mean: 0 for real targets), `scores` (one per
        target), `control` and `selectivity`, and `directions`, rows "target d_in" or "class d_in" (one row for two
        classes) fitted to all data; None if the estimator has no weights on the activations.

    Raises:
        KeyError: an unknown hook.
        ValueError: targets with NaN, of one class, constant, of another number of examples or positions, or that could
            be one per position as well as several per example; activations with NaN; folds that cannot be made, or that
            fit and test one example; a hook that does not fire.
    """
    mask = None if mask is None else as_tensor(mask)
    examples = _examples(model, inputs, mask)
    activations = _activations(model, examples, _default_hooks(model, examples) if hooks is None else hooks)
    y = _targets(targets, len(examples), mask, pos)
    return _table(model, activations, y, estimator, cv, control, pos, groups, seed)


def probe_activations(
    activations: Mapping[str, Any],
    targets: Any,
    estimator: Any = None,
    cv: Any = 5,
    control: bool = True,
    *,
    pos: Position = None,
    groups: Any = None,
    seed: int = 0,
) -> pd.DataFrame:
    """`linear_probe` without a model, on activations that were saved, by whichever tool.

    >>> x = np.random.default_rng(0).normal(size=(40, 8))
    >>> bool(probe_activations({"resid": x}, x[:, 3] > 0).score["resid"] > 0.8)
    True

    Args:
        activations: by name, tensors or arrays "batch d_in", "batch pos d_in" or "batch pos head d_head", such as
            `safetensors.torch.load_file(path)` or `{"resid": numpy.load(path)}`.
        targets, estimator, cv, control, pos, groups, seed: as in `linear_probe`, which also says what is returned.

    Raises:
        ValueError: no activations, or some of another number of examples than targets; what `linear_probe` refuses.
    """
    if not activations:
        raise ValueError("activations is empty: give at least one array by its name")
    kept = {name: as_tensor(value) for name, value in activations.items()}
    for value in kept.values():
        y = _targets(targets, len(value), None, pos)
    return _table(None, kept, y, estimator, cv, control, pos, groups, seed)


def _table(
    model: HookedModel | None,
    activations: Mapping[str, Any],
    y: Array | list[Array],
    estimator: Any,
    cv: Any,
    control: bool,
    pos: Position,
    groups: Any,
    seed: int,
) -> pd.DataFrame:
    """The table of `linear_probe`; the model, if there is one, says which axes its activations have."""
    shuffled = _shuffled(y, seed)
    labels = None if groups is None else _labels(groups, len(y))
    rows = []
    for name, value in activations.items():
        of_axes = axes(name, value[0].ndim + 1, model)
        x, of_row, example = _rows(name, of_axes, value, y, pos)
        probe = _Probe(estimator, cv, of_row, example, labels, seed)
        row = probe.scores(x, of_row)
        if control:
            row["control"] = probe.scores(x, _rows(name, of_axes, value, shuffled, pos)[1])["score"]
            row["selectivity"] = row["score"] - row["control"]
        rows.append(row | {"directions": probe.directions(x, of_row)})
    return pd.DataFrame(rows, index=pd.Index(activations, name="hook"))


class _Probe:
    """An estimator and its folds."""

    def __init__(self, estimator: Any, cv: Any, y: Array, example: Array, groups: Array | None, seed: int) -> None:
        from sklearn.base import clone, is_classifier
        from sklearn.linear_model import LogisticRegression, RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        from probes.logistic import LogisticTargets

        real = y.dtype.kind == "f"
        default: Any = RidgeCV(alphas=np.logspace(-4, 4, 9), alpha_per_target=y.ndim > 1)
        if not real:
            logistic = LogisticTargets() if y.ndim > 1 else LogisticRegression(max_iter=2000)
            default = make_pipeline(StandardScaler(), logistic)
        if estimator is None:
            estimator = default
        elif not hasattr(estimator, "predict"):
            estimator = make_pipeline(estimator, default)
        self.fit = lambda x, y: clone(estimator).fit(x, y)
        self.classify, self.example, self.seed = is_classifier(estimator), example, seed
        if self.classify == real:
            kind = "classes (integers, booleans, strings)" if self.classify else "real targets (floats)"
            raise ValueError(f"{type(estimator).__name__} predicts {kind}, the targets are {y.dtype}: convert them")
        n = int(example.max()) + 1
        of_example = y if n == len(y) else None
        self.folds = [
            (np.flatnonzero(np.isin(example, fit)), np.flatnonzero(np.isin(example, test)))
            for fit, test in _splits(cv, n, of_example, groups, self.classify, seed)
        ]
        if isinstance(estimator, RidgeCV) and min(len(fit) for fit, _ in self.folds) < 2:
            raise ValueError("a fold fits 1 row, too few to choose the penalty by: give more examples, or an estimator")

    def scores(self, x: Float[np.ndarray, "row d_in"], y: Array) -> dict[str, Any]:
        """Score of out-of-fold predictions, its interval, and the baseline's."""
        from sklearn.dummy import DummyClassifier

        tested = np.sort(np.concatenate([test for _, test in self.folds]))
        mean = None if self.classify else y[tested].mean(0)
        error, scale, baseline = np.zeros(y.shape), np.zeros(y.shape), 0.0
        for number, (train, test) in enumerate(self.folds):
            if self.classify and y.ndim == 1 and len(seen := np.unique(y[train])) == 1:
                raise ValueError(
                    f"fold {number} of {len(self.folds)} is fitted to one class, {seen.item()!r}: give more examples "
                    "of the others, or other folds"
                )
            shape = y[test].shape  # of one target in a row scikit-learn predicts no row
            predicted = self.fit(x[train], y[train]).predict(x[test]).reshape(shape)
            error[test] += 1.0 - (predicted == y[test]) if self.classify else (predicted - y[test]) ** 2
            scale[test] += 1.0 if self.classify else (y[test] - mean) ** 2
            if self.classify:
                usual = DummyClassifier(strategy="most_frequent").fit(x[train], y[train])
                guess = usual.predict(x[test]).reshape(shape)
                baseline += float((y[test] == guess).sum()) / y[tested].size
        examples = np.unique(self.example[tested])
        error, scale = self._by_example(error)[examples], self._by_example(scale)[examples]
        if (same := scale.sum(0) == 0).any():
            raise ValueError(
                f"target {int(same.argmax())} is the same in all rows that are tested: it has no R^2; drop it, or take "
                "other folds"
            )
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


def _splits(cv: Any, n: int, y: Array | None, groups: Array | None, classify: bool, seed: int) -> list[Split]:
    """Examples to fit and examples to predict; `y` has one target, or several, per example."""
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold, check_cv

    if n < 2:
        raise ValueError("1 example: a probe is scored on examples that it was not fitted to; give at least 2")
    if isinstance(cv, int):
        kind, most = ("examples", n) if groups is None else ("groups", len(np.unique(groups)))
        if not 2 <= cv <= most:
            raise ValueError(f"cv={cv} with {most} {kind}: must be from 2 to the number of {kind}")
        stratify = classify and y is not None and y.ndim == 1
        if stratify:
            values, counts = np.unique(np.asarray(y), return_counts=True)
            if counts.min() < 2:
                raise ValueError(f"class {values[counts.argmin()].item()!r} has 1 example, to fit or to test: drop it")
            stratify = bool(counts.min() >= cv)
        if groups is None:
            cv = (StratifiedKFold if stratify else KFold)(cv, shuffle=True, random_state=seed)
        else:
            cv = (StratifiedGroupKFold if stratify else GroupKFold)(cv, shuffle=True, random_state=seed)
    elif not hasattr(cv, "split"):
        cv = check_cv(cv)  # a list of splits
    try:
        parts = [[np.asarray(part) for part in split] for split in cv.split(np.empty((n, 1)), y, groups)]
    except ValueError as error:
        if groups is None and "groups" in str(error):
            raise ValueError(f"{type(cv).__name__} splits groups: give groups=, a label for each example") from error
        raise
    splits = []
    for number, (fit, test) in enumerate(
        [np.flatnonzero(p) if p.dtype == bool else p for p in split] for split in parts
    ):
        if len(both := np.intersect1d(fit, test)) or not (len(fit) and len(test)):
            what = f"example {both[0]} is fitted and tested" if len(both) else "it fits or tests no example"
            raise ValueError(f"fold {number} of {len(parts)}: {what}; give it two parts without an overlap")
        if not 0 <= min(fit.min(), test.min()) <= max(fit.max(), test.max()) < n:
            raise ValueError(f"fold {number} of {len(parts)} names examples outside 0 to {n - 1}: give those there are")
        splits.append((fit, test))
    return splits


def _examples(model: HookedModel, inputs: Any, mask: Tensor | None) -> Any:
    """The inputs, or a list with the real tokens of each, where these differ in number."""
    prompts = as_prompts(model, inputs)
    if mask is None:
        return prompts
    ones = (mask == 0) | (mask == 1)
    if not isinstance(prompts, Tensor) or not ones.all() or mask.shape != prompts.shape[:2]:
        raise ValueError(
            f"mask of {mask.dtype}, {tuple(mask.shape)}: must be boolean (or 0 and 1), batch x pos, for inputs that "
            "are a tensor; prompts in a list are not padded, so leave it out"
        )
    mask = mask.bool()
    if not mask.any(1).all():
        raise ValueError(f"mask leaves nothing of example {int(mask.any(1).int().argmin())}: drop it")
    return [prompt[real] for prompt, real in zip(prompts, mask, strict=True)]


def _activations(model: HookedModel, examples: Any, hooks: str | Iterable[str]) -> dict[str, Any]:
    """Activations at each hook: a tensor, or where the prompts differ in length a list with one for each."""
    prompts = isinstance(examples, list) and all(isinstance(prompt, Tensor) for prompt in examples)
    if not prompts or len({len(prompt) for prompt in examples}) < 2:
        return dict(collect_activations(model, examples, hooks))
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]))
    found: dict[str, list[Tensor]] = {}
    for batch in stream_activations(model, [examples[i] for i in order], hooks):
        for name, value in batch.items():
            found.setdefault(name, []).extend(value)
    return {
        name: [value for _, value in sorted(zip(order, found[name], strict=True), key=lambda of: of[0])]
        for name in found
    }


def _targets(targets: Any, n_examples: int, mask: Tensor | None, pos: Position) -> Array | list[Array]:
    """Targets as an array, or one array per prompt where these differ in length."""
    if len(targets) != n_examples:
        raise ValueError(f"{len(targets)} targets for {n_examples} inputs: give one, or one row, for each")
    if isinstance(targets, Sequence) and len({np.shape(row)[:1] for row in targets}) > 1:
        rows = [_as_array(row) for row in targets]
        _check_targets(np.concatenate(rows))
        return rows
    y = _as_array(targets)
    if mask is not None and _by_position(y, mask.shape[1], pos):
        rows = [row[real.bool().numpy()] for row, real in zip(y, mask, strict=True)]
        _check_targets(np.concatenate(rows))
        return rows
    _check_targets(y)
    return y


def _as_array(targets: Any) -> Array:
    if isinstance(targets, Tensor):
        targets = targets.detach().cpu()
        return (targets.double() if targets.is_floating_point() else targets).numpy()
    y = np.asarray(targets)
    if y.dtype.kind == "O":  # as pandas has them
        y = np.array(y.tolist())
    if y.dtype.kind not in "biufUS":
        raise ValueError(f"targets are {y.dtype}, such as {y.flat[0]!r}: give numbers, booleans or strings")
    return y.astype(np.float64) if y.dtype.kind == "f" else y


def _check_targets(y: Array) -> None:
    if y.dtype.kind == "f":
        if not np.isfinite(y).all():
            raise ValueError(f"{int((~np.isfinite(y)).sum())} targets are NaN or infinite: drop those examples")
        if (np.ptp(y.reshape(-1, y.shape[-1]) if y.ndim > 2 else y.reshape(-1), axis=0) == 0).any():
            raise ValueError("a target is the same everywhere: there is nothing to predict; drop it")
    elif len(np.unique(y)) == 1:
        raise ValueError(f"targets have one class, {np.unique(y).item()!r}: give at least two")


def _shuffled(y: Any, seed: int) -> Any:
    """The targets of other examples; of prompts that differ in length, those of other positions."""
    rng = np.random.default_rng(seed)
    if not isinstance(y, list):
        return y[rng.permutation(len(y))]
    rows = np.concatenate(y)
    return np.split(rows[rng.permutation(len(rows))], np.cumsum([len(row) for row in y])[:-1])


def _labels(groups: Any, n_examples: int) -> Int[np.ndarray, " batch"]:
    """A number for each label, or combination of labels."""
    labels = _as_array(groups)
    if len(labels) != n_examples:
        raise ValueError(
            f"{len(labels)} groups for {n_examples} inputs: give one label, or one row of labels, for each"
        )
    return np.unique(labels.reshape(len(labels), -1), axis=0, return_inverse=True)[1].reshape(-1)


def _by_position(y: Array, n_positions: int, pos: Position) -> bool:
    """Whether the targets are one per position."""
    if pos is not None:
        return pos == "each"
    fits = y.ndim > 1 and y.shape[1] == n_positions
    if fits and y.ndim == 2 and y.dtype.kind in "fb":
        raise ValueError(
            f"targets {y.shape} for {n_positions} positions: one for each position, or {n_positions} for each example? "
            "give pos='each' for the former, pos=-1 (or another, or 'mean') for the latter"
        )
    return fits


def _rows(name: str, names: tuple[str, ...], value: Any, y: Any, pos: Position) -> tuple[Array, Array, Array]:
    """Activations "row d_in", whose axes have these names, targets of the rows, and the example that each row is of."""
    shape = (len(value), *value[0].shape)
    if names[-1] != "unit" or names[1] == "head":
        raise ValueError(f"hook {name!r} has shape {shape}: probe one that is batch (pos) (head) unit")
    positions = [len(one) for one in value] if names[1] == "pos" else None
    example = np.arange(len(value))
    listed = isinstance(y, list)
    if positions is None:
        if listed or pos == "each":
            raise ValueError(f"hook {name!r} has no positions, the targets are one for each: give one per example")
        x = value
    elif listed or _by_position(y, positions[0], pos):
        given = [len(row) for row in y] if listed or y.ndim > 1 else [1] * len(y)
        if given != positions:
            raise ValueError(
                f"targets for {given} positions at {name!r}, which has {positions}, example by example: give one for "
                "each (of prompts of several lengths a list with an array for each)"
            )
        x = value.flatten(0, 1) if isinstance(value, Tensor) else torch.cat(value)
        example = np.repeat(example, positions)
        y = np.concatenate(list(y))
    elif pos == "mean":
        x = value.mean(1) if isinstance(value, Tensor) else torch.stack([one.mean(0) for one in value])
    else:
        at = -1 if pos is None else int(pos)
        if not -min(positions) <= at < min(positions):
            raise ValueError(
                f"pos={at} at hook {name!r}: must be within the {min(positions)} positions of every prompt"
            )
        x = value[:, at] if isinstance(value, Tensor) else torch.stack([one[at] for one in value])
    if y.ndim > 2 or (y.ndim == 2 and y.dtype.kind not in "fb"):
        raise ValueError(
            f"targets {y.shape} of {y.dtype} at {name!r}, {shape}: give one per position, if it has positions, or one "
            "per example, or several per example that are floats or booleans"
        )
    if not (finite := x.flatten(1).isfinite().all(1)).all():
        bad = example[~finite.numpy()]
        raise ValueError(
            f"hook {name!r} is NaN or infinite in {len(np.unique(bad))} of the {len(value)} examples, first in example "
            f"{bad[0]}: drop those"
        )
    return x.flatten(1).double().numpy(), y, example


def _default_hooks(model: HookedModel, inputs: Any) -> list[str]:
    """The residual stream after every block, or whatever fires and is batch (pos) (head) unit."""
    if names := in_every_block(model, AFTER_BLOCKS):
        return names
    some = as_batch(model, inputs[:2] if isinstance(inputs, Tensor) else inputs[:1])
    audit = audit_hooks(model, some)
    shapes = {str(name): shape for name, shape in audit["shape"][audit["fires"]].dropna().items()}
    return [
        name
        for name, shape in shapes.items()
        if shape[:1] == (len(some),) and axes(name, len(shape), model)[1:2] in (("unit",), ("pos",))
    ]
