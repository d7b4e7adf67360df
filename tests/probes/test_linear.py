"""Probes: equal to scikit-learn, on planted targets, with controls that score nothing, and loud about bad input."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import SparseCoder
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, cross_val_predict, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from probes.activations import collect_activations
from probes.linear import linear_probe, probe_activations
from probes.logistic import LogisticTargets
from probes.modules import hook_modules
from tms_hooks.config import ToyConfig
from tms_hooks.data import KHot
from tms_hooks.models.toy import ToyModel


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
    table = linear_probe(model, inputs, y, hooks[0], control=False, pos="each")
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
    table = linear_probe(model, inputs, y, hooks[0], pos="each")
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
        (torch.arange(60) % 2, {"cv": 7, "groups": torch.arange(60) % 6}, "cv=7 with 6 groups"),
        (torch.arange(60) % 2, {"groups": torch.arange(59)}, "59 groups for 60 inputs"),
        (torch.arange(60) % 2, {"cv": GroupKFold(3)}, "GroupKFold splits groups: give groups="),
        (torch.arange(60) % 2, {"cv": [([0, 1, 2], [2, 3])]}, "fold 0 of 1: example 2 is fitted and tested"),
        (torch.arange(60) % 2, {"cv": [([0, 1, 2], [60])]}, "examples outside 0 to 59"),
        (torch.arange(60) % 2, {"cv": [([0, 2, 4], [1, 3])]}, "fold 0 of 1 is fitted to one class, 0"),
        (torch.arange(60) == 3, {}, "class True has 1 example"),
        (torch.arange(60) % 2, {"pos": 7}, "pos=7 at hook"),
        (torch.arange(60) % 2, {"mask": torch.ones(60, 2, dtype=torch.bool)}, r"mask of torch.bool, \(60, 2\)"),
        ([[0, 1]] * 59 + [[0]], {}, "give one for each"),
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


def prompts_of(inputs: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Prompts of one to all positions, in no order, and where they are in the inputs."""
    lengths = 1 + torch.arange(60) % inputs.shape[1]
    return [row[:n] for row, n in zip(inputs, lengths, strict=True)], torch.arange(inputs.shape[1]) < lengths[:, None]


def test_prompts_of_several_lengths_are_read_at_their_own_positions(case: Any) -> None:
    model, inputs, hooks = case
    prompts, mask = prompts_of(inputs)
    alone = [at(model, prompt[None], hooks[1])[0] for prompt in prompts]
    reads = {-1: torch.stack([one[-1] for one in alone]), "mean": torch.stack([one.mean(0) for one in alone])}
    padded = torch.where(mask.view(*mask.shape, *[1] * (inputs.ndim - 2)), inputs, inputs[:1, :1])
    left = torch.stack([row.roll(int((~real).sum()), 0) for row, real in zip(padded, mask, strict=True)])
    for pos, x in reads.items():
        y = x[:, 0] + noise(60)
        predicted = cross_val_predict(Ridge(), x.numpy(), y.numpy(), cv=KFold(5, shuffle=True, random_state=0))
        for given, options in ((prompts, {}), (padded, {"mask": mask}), (left, {"mask": mask.flip(1)})):
            table = linear_probe(model, given, y, hooks[1], Ridge(), pos=pos, control=False, **options)
            assert table.score[hooks[1]] == pytest.approx(r2_score(y.numpy(), predicted), abs=1e-5)
    x = torch.cat(alone)
    y = x[:, 0] / x[:, 0].std() + 0.3 * noise(len(x))
    by_prompt = list(y.split([len(prompt) for prompt in prompts]))
    by_place = torch.full(mask.shape, torch.nan, dtype=torch.float64).masked_scatter(mask, y)
    of = np.repeat(np.arange(60), mask.sum(1))
    folds = [tuple(np.flatnonzero(np.isin(of, part)) for part in split) for split in SPLITS]
    expected = r2_score(y.numpy(), cross_val_predict(Ridge(0.01), x.numpy(), y.numpy(), cv=folds))
    for given, target, options in ((prompts, by_prompt, {}), (padded, by_place, {"mask": mask, "pos": "each"})):
        row = linear_probe(model, given, target, hooks[1], Ridge(0.01), **options).loc[hooks[1]]
        assert row.score == pytest.approx(expected, abs=1e-5)
        assert row.control < 0.2 < row.score


SPLITS = list(KFold(5, shuffle=True, random_state=0).split(np.empty((60, 1))))


def test_only_tested_examples_count_and_splits_may_be_a_list(case: Any) -> None:
    model, inputs, hooks = case
    x = at(model, inputs, hooks[0])[:, -1].numpy()
    y = x[:, 0] > np.median(x[:, 0])
    estimator = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    for cv in (ShuffleSplit(1, test_size=0.2, random_state=0), ShuffleSplit(4, test_size=0.2, random_state=0)):
        table = linear_probe(model, inputs, y, hooks[0], cv=cv)
        found = [cross_val_score(method, x, y, cv=cv).mean() for method in (estimator, DummyClassifier())]
        assert [table.score[hooks[0]], table.baseline[hooks[0]]] == pytest.approx(found)
    real = x[:, 0] + noise(60).numpy()
    [[_, test]] = splits = list(ShuffleSplit(1, test_size=0.2, random_state=0).split(x))
    predicted = Ridge().fit(x[splits[0][0]], real[splits[0][0]]).predict(x[test])
    table = linear_probe(model, inputs, real, hooks[0], Ridge(), cv=splits)
    assert table.score[hooks[0]] == pytest.approx(r2_score(real[test], predicted), abs=1e-6)


def test_held_out_combinations_of_features(case: Any) -> None:
    """A probe that remembers what it saw knows every combination of two labels but a held-out one.

    Of that it says what holds of the nearest of the three others.
    """
    model, inputs, hooks = case
    labels = torch.stack([torch.arange(60) % 2, torch.arange(60) // 2 % 2], 1)
    inputs = inputs[torch.arange(60) % 4]  # one input for each combination
    parity = labels.sum(1) % 2
    usual, held_out = (
        linear_probe(model, inputs, parity, hooks[1], KNeighborsClassifier(1), cv=4, groups=groups, control=False)
        for groups in (None, labels)
    )
    assert usual.score[hooks[1]] == 1
    far = torch.cdist(*2 * [at(model, inputs[:4], hooks[1])[:, -1]]).fill_diagonal_(torch.inf)
    right = (parity[:4][far.argmin(1)] == parity[:4]).double().mean()
    assert held_out.score[hooks[1]] == pytest.approx(float(right))
    assert right < 1
    y = noise(60) + at(model, inputs, hooks[0])[:, -1, 0]
    table = linear_probe(model, inputs, y, hooks[0], Ridge(), cv=GroupKFold(4), groups=labels, control=False)
    x, of = at(model, inputs, hooks[0])[:, -1].numpy(), (labels @ torch.tensor([2, 1])).numpy()
    predicted = cross_val_predict(Ridge(), x, y.numpy(), cv=GroupKFold(4), groups=of)
    assert table.score[hooks[0]] == pytest.approx(r2_score(y.numpy(), predicted), abs=1e-6)


def test_sparse_coding_reads_more_features_than_there_are_dimensions() -> None:
    toy = ToyModel(ToyConfig(n_features=24, d_hidden=10), seed=0)
    directions = torch.nn.functional.normalize(toy.W_E.detach(), dim=1).double().numpy()
    x = KHot(n_features=24, k=2, values="uniform").sample(300, seed=1)
    coder = SparseCoder(dictionary=directions, transform_algorithm="omp", transform_n_nonzero_coefs=2)
    linear, sparse = (linear_probe(toy, x, x, "hook_hidden", estimator) for estimator in (None, coder))
    assert linear.score["hook_hidden"] < 0.5  # ten dimensions of 24
    assert sparse.score["hook_hidden"] > 0.9
    assert sparse.control["hook_hidden"] < 0.1
    assert sparse.directions["hook_hidden"] is None
    active = linear_probe(toy, x, x > 0, "hook_hidden", coder)
    misses = 1 - active[["score", "baseline"]].loc["hook_hidden"]
    assert misses.score < 0.5 * misses.baseline


def test_as_many_targets_as_positions_are_asked_about(case: Any) -> None:
    model, inputs, hooks = case
    value = at(model, inputs, hooks[0])[..., 0]
    y = value > value.median(0).values  # of each position, half of the examples
    with pytest.raises(ValueError, match=r"one for each position, or \d for each example\? give pos='each'"):
        linear_probe(model, inputs, y, hooks[0])
    several = linear_probe(model, inputs, y, hooks[0], pos=-1)
    assert len(several.scores[hooks[0]]) == inputs.shape[1]
    assert several.directions[hooks[0]].shape[0] == inputs.shape[1]
    assert len(linear_probe(model, inputs, y, hooks[0], pos="each").scores[hooks[0]]) == 1


def test_activations_that_say_nothing_are_an_honest_row_or_an_error(case: Any) -> None:
    model, inputs, hooks = case
    same = inputs[:1].expand(60, *inputs.shape[1:])
    rows = linear_probe(model, same, torch.arange(60) % 3 == 0, hooks[0])
    assert [rows.score[hooks[0]], rows.baseline[hooks[0]]] == pytest.approx([2 / 3] * 2)
    assert linear_probe(model, same, noise(60), hooks[0]).score[hooks[0]] < 0.01
    assert linear_probe(model, inputs[:2], [0.0, 1.0], hooks[0], Ridge(), cv=2).score[hooks[0]] <= 1
    with pytest.raises(ValueError, match="a fold fits 1 row, too few to choose the penalty by"):
        linear_probe(model, inputs[:2], [0.0, 1.0], hooks[0], cv=2)
    with pytest.raises(ValueError, match="1 example: a probe is scored on examples that it was not fitted to"):
        linear_probe(model, inputs[:1], [[0, 1, 1][: inputs.shape[1]] + [0] * (inputs.shape[1] - 3)], hooks[0])
    with torch.no_grad():
        model.W_E[:] = torch.nan
    with pytest.raises(
        ValueError, match=f"hook '{hooks[1]}' is NaN or infinite in 60 of the 60 examples, first in example 0"
    ):
        linear_probe(model, inputs, noise(60), hooks[1])


def test_half_precision_is_read_as_it_is(tiny: Any) -> None:
    inputs, y = tiny.draw(60, 1), noise(60) > 0
    halves = linear_probe(tiny.make(0).to(torch.bfloat16), inputs, y, tiny.early).score[tiny.early]
    assert halves == pytest.approx(linear_probe(tiny.model, inputs, y, tiny.early).score[tiny.early], abs=0.1)
    linear_probe(tiny.model, inputs, noise(60).bfloat16(), tiny.early)


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


@pytest.mark.parametrize("kind", ["real", "classes"])
def test_one_target_in_a_row_is_that_target(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    y = x[:, 0] + rng.normal(size=40)
    y = y if kind == "real" else y > 0
    split = KFold(4)
    one, row = (probe_activations({"x": x}, targets, cv=split) for targets in (y, y[:, None]))
    for column in ("score", "baseline", "control"):
        assert row[column].item() == pytest.approx(one[column].item(), abs=1e-3)


def test_targets_of_pandas_and_what_is_no_target():
    x, words = np.random.default_rng(0).normal(size=(20, 3)), ["odd", "even"] * 10
    given = [words, pd.Series(words), pd.Series(words).astype("category"), np.array(words, dtype=object)]
    scores = [probe_activations({"x": x}, y).score.item() for y in given]
    assert scores == scores[:1] * 4
    with pytest.raises(ValueError, match="targets are object, such as None: give numbers, booleans or strings"):
        probe_activations({"x": x}, [None, 1] * 10)
    constant = np.stack([x[:, 0], np.ones(20)], 1)
    with pytest.raises(ValueError, match=r"target 1 is the same in all rows that are tested: .*; drop it"):
        probe_activations({"x": x}, constant)


def test_default_hooks_are_of_the_examples():
    """A table of positions has as many rows as a prompt has tokens."""

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.place = nn.Embedding(9, 4), nn.Embedding(9, 4)

        def forward(self, tokens):
            return self.embed(tokens) + self.place(torch.arange(tokens.shape[1]))

    model = hook_modules(Counted().eval())
    tokens = torch.randint(0, 9, (12, 5), generator=torch.Generator().manual_seed(0))
    assert linear_probe(model, tokens, torch.arange(12.0), cv=3).index.tolist() == ["embed.hook_out"]
