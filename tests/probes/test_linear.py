"""Probes: equal to scikit-learn, on planted targets, with controls that score nothing, and loud about bad input."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.activations import collect_activations
from probes.linear import linear_probe, probe_activations
from probes.logistic import LogisticTargets


@pytest.fixture
def case(subject: Any) -> tuple[Any, Any, list[str]]:
    """Sixty examples."""
    return subject.model, subject.draw(60, 1), [subject.early, subject.late]


def at(model: Any, inputs: Any, hook: str) -> Any:
    return collect_activations(model, inputs, hook)[hook].double()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def test_real_targets_equal_scikit_learn(case: Any) -> None:
    model, inputs, hooks = case
    y = at(model, inputs, hooks[0])[:, -1, :2] + 0.1 * noise(60, 2)
    cv = KFold(4, shuffle=True, random_state=3)
    table = linear_probe(model, inputs, y, hooks, Ridge(alpha=0.3), cv=cv, control=False)
    assert list(table.index) == hooks
    for hook in hooks:
        x = at(model, inputs, hook)[:, -1].numpy()
        predicted = cross_val_predict(Ridge(alpha=0.3), x, y.numpy(), cv=cv)
        expected = r2_score(y.numpy(), predicted, multioutput="raw_values")
        np.testing.assert_allclose(table.scores[hook], expected, atol=1e-6)
        assert table.score[hook] == pytest.approx(expected.mean(), abs=1e-6)
        np.testing.assert_allclose(table.directions[hook], Ridge(alpha=0.3).fit(x, y).coef_, atol=1e-6)


def test_classes_a_position_equal_scikit_learn_with_positions_kept_together(case: Any) -> None:
    model, inputs, hooks = case
    value = at(model, inputs, hooks[0])
    y = value[..., 0] > value[..., 0].median()
    table = linear_probe(model, inputs, y, hooks[0], control=False)
    x, labels = value.flatten(0, 1).numpy(), y.flatten().numpy()
    example = np.repeat(np.arange(60), inputs.shape[1])
    folds = [
        (np.flatnonzero(~np.isin(example, test)), np.flatnonzero(np.isin(example, test)))
        for _, test in KFold(5, shuffle=True, random_state=0).split(np.empty((60, 1)))
    ]
    estimator = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    expected = accuracy_score(labels, cross_val_predict(estimator, x, labels, cv=folds))
    assert table.score[hooks[0]] == pytest.approx(expected, abs=1e-6)
    fitted = estimator.fit(x, labels)
    margin = fitted.decision_function(x)
    direction = table.directions[hooks[0]].numpy()[0]
    projected = x @ direction
    np.testing.assert_allclose(projected - projected.mean(), margin - margin.mean(), atol=1e-6)


def test_baseline_always_guesses_the_majority(case: Any) -> None:
    model, inputs, hooks = case
    y = np.where(np.arange(60) % 3 == 0, "rare", "common")
    table = linear_probe(model, inputs, y, hooks[0], cv=6)
    assert table.baseline[hooks[0]] == pytest.approx(2 / 3)


def test_planted_direction_is_found_and_the_control_is_not(case: Any) -> None:
    model, inputs, hooks = case
    value = at(model, inputs, hooks[0])
    direction = noise(value.shape[-1])
    y = value @ direction
    table = linear_probe(model, inputs, y, hooks[0])
    row = table.loc[hooks[0]]
    assert row.score > 0.999
    # shuffled examples keep their positions, and the bridge's position embeddings tell something: no more than that
    assert row.control < y.mean(0).var() / y.var() + 0.05
    assert row.selectivity == row.score - row.control
    assert row.low <= row.score <= row.high
    found = row.directions[0]
    cosine = torch.nn.functional.cosine_similarity(found, direction, dim=0)
    # 60 last positions span the toy's four directions, all 420 positions the bridge's 64
    assert cosine > 0.999


def test_a_thousand_targets_are_a_thousand_probes(case: Any) -> None:
    model, inputs, hooks = case
    x = at(model, inputs, hooks[0])[:, -1]
    y = x @ noise(x.shape[1], 1000) + noise(60, 1000)
    table = linear_probe(model, inputs, y, hooks[0], control=False)
    assert table.scores[hooks[0]].shape == (1000,)
    assert table.directions[hooks[0]].shape == (1000, x.shape[1])
    for target in (0, 999):
        alone = linear_probe(model, inputs, y[:, target], hooks[0], control=False)
        np.testing.assert_allclose(alone.scores[hooks[0]], table.scores[hooks[0]][[target]], atol=1e-6)
        np.testing.assert_allclose(alone.directions[hooks[0]], table.directions[hooks[0]][[target]], atol=1e-6)


def test_many_yes_or_no_targets_are_scikit_learns_logistic_regressions(case: Any) -> None:
    model, inputs, hooks = case
    x = at(model, inputs, hooks[0])[:, -1]
    y = (x - x.mean(0)) / x.std(0) @ noise(x.shape[1], 300) / x.shape[1] ** 0.5 + noise(60, 300) > 0.3
    cv = KFold(5, shuffle=True, random_state=0)
    table = linear_probe(model, inputs, y, hooks[0], cv=cv, control=False)
    assert table.scores[hooks[0]].shape == (300,)
    assert table.directions[hooks[0]].shape == (300, x.shape[1])
    estimator = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-10, max_iter=1000, solver="newton-cholesky"))
    dummy = DummyClassifier(strategy="most_frequent")
    baselines = [cross_val_predict(dummy, x.numpy(), y[:, t].numpy(), cv=cv) for t in range(300)]
    assert table.baseline[hooks[0]] == pytest.approx((y.numpy() == np.array(baselines).T).mean())
    for target in (0, 255, 256, 299):
        labels = y[:, target].numpy()
        predicted = cross_val_predict(estimator, x.numpy(), labels, cv=cv)
        assert table.scores[hooks[0]][target] == pytest.approx((predicted == labels).mean(), abs=1e-9)
        scaler, fitted = (step for _, step in estimator.fit(x.numpy(), labels).steps)
        np.testing.assert_allclose(
            table.directions[hooks[0]][target].numpy() * scaler.scale_, fitted.coef_[0], atol=1e-6, rtol=1e-6
        )


@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3])
def test_logistic_targets_on_hard_designs(C: float) -> None:
    # columns that repeat each other and differ in scale, a target with 3 of 200, one that is separable
    x = noise(200, 12).numpy() * np.logspace(-2, 2, 12)
    x[:, 5] = x[:, 4] + 1e-3 * x[:, 5]
    y = np.stack([x[:, 0] > np.sort(x[:, 0])[-4], x[:, 3] > 0, noise(201).numpy()[:200] > 0], axis=1)
    fitted = LogisticTargets(C=C).fit(x, y)
    log_odds = x @ fitted.coef_.T + fitted.intercept_
    for target in range(3):
        s = np.where(y[:, target], -1.0, 1.0)
        slope = C * s / (1 + np.exp(-s * log_odds[:, target]))
        assert np.abs(slope @ x + fitted.coef_[target]).max() < 1e-7  # by hand: the gradient is zero, and convex it is
        assert abs(slope.sum()) < 1e-7
    assert (fitted.predict(x) == (log_odds > 0)).all()
    with pytest.raises(ValueError, match="target 1 has one class in these 200 rows, as have 0 others"):
        LogisticTargets().fit(x, np.stack([y[:, 0], y[:, 0] < 2], axis=1))
    with pytest.raises(RuntimeError, match="3 targets are not done after 1 steps"):
        LogisticTargets(max_iter=1).fit(x, y)


def test_mean_over_positions_and_an_early_position(case: Any) -> None:
    model, inputs, hooks = case
    value = at(model, inputs, hooks[0])
    for pos, x in (("mean", value.mean(1)), (1, value[:, 1])):
        y = x[:, 0] + noise(60)
        table = linear_probe(model, inputs, y, hooks[0], Ridge(), pos=pos, control=False)
        predicted = cross_val_predict(Ridge(), x.numpy(), y.numpy(), cv=KFold(5, shuffle=True, random_state=0))
        assert table.score[hooks[0]] == pytest.approx(r2_score(y.numpy(), predicted), abs=1e-6)


def test_any_estimator_without_weights_has_no_directions(case: Any) -> None:
    model, inputs, hooks = case
    value = at(model, inputs, hooks[0])[:, -1, 0]
    y = value > value.median()
    table = linear_probe(model, inputs, y, hooks, KNeighborsClassifier(3))
    assert table.directions.isna().all()
    assert table.score[hooks[0]] > table.control[hooks[0]]


def test_default_hooks(case: Any) -> None:
    model, inputs, hooks = case
    table = linear_probe(model, inputs, noise(60), control=False)
    if inputs.is_floating_point():
        assert set(hooks) < set(table.index)
        assert "blocks.0.attn.hook_attn_scores" not in table.index
    else:
        assert list(table.index) == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert (table.score < 0.2).all()  # noise is not predicted


@pytest.mark.parametrize(
    ("targets", "options", "match"),
    [
        (torch.ones(60, dtype=torch.int64), {}, "one class, 1"),
        (torch.full((60,), torch.nan), {}, "60 targets are NaN"),
        (torch.ones(60), {}, "same everywhere"),
        (torch.arange(59) % 2, {}, "59 targets for 60 inputs"),
        (torch.arange(60 * 4).reshape(60, 4) % 2, {}, r"targets \(60, 4\) of int64 at"),
        (torch.arange(60) % 2, {"cv": 61}, "cv=61 with 60 examples"),
        (torch.arange(60) % 2, {"estimator": Ridge()}, "Ridge predicts real targets"),
        (torch.arange(60).float(), {"estimator": LogisticRegression()}, "predicts classes"),
    ],
)
def test_bad_targets(case: Any, targets: torch.Tensor, options: dict[str, Any], match: str) -> None:
    model, inputs, hooks = case
    with pytest.raises(ValueError, match=match):
        linear_probe(model, inputs, targets, hooks, **options)


def test_unknown_hook_and_attention_scores(case: Any) -> None:
    model, inputs, _ = case
    with pytest.raises(KeyError, match="hook_embd"):
        linear_probe(model, inputs, torch.arange(60) % 2, "hook_embd")
    with pytest.raises(ValueError, match="probe one that is batch"):
        linear_probe(model, inputs, torch.arange(60) % 2, "blocks.0.attn.hook_attn_scores")


def test_saved_activations_are_probed_as_the_models_own(subject, tmp_path):
    """By numpy and by safetensors, the table is that of `linear_probe` on the model."""
    from safetensors.torch import load_file, save_file

    inputs, hooks = subject.draw(30, 3), [subject.early, subject.late]
    targets = torch.arange(30) % 2 == 0
    expected = linear_probe(subject.model, inputs, targets, hooks, cv=3)
    kept = collect_activations(subject.model, inputs, hooks)
    save_file({name: value.contiguous() for name, value in kept.items()}, tmp_path / "kept.safetensors")
    arrays = {name: value.numpy() for name, value in kept.items()}
    for activations in (load_file(tmp_path / "kept.safetensors"), arrays):
        found = probe_activations(activations, targets, cv=3).loc[hooks]
        pd.testing.assert_frame_equal(found.drop(columns="directions"), expected.drop(columns="directions"))
    with pytest.raises(ValueError, match="activations is empty"):
        probe_activations({}, targets)
    with pytest.raises(ValueError, match="30 targets for 29 inputs"):
        probe_activations({"short": torch.ones(29, 4)}, targets)
