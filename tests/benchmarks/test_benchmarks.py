"""What the benchmarks compare is the same task on both sides."""

import json
import re
import sys

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import phases
from benchmarks.equal_loss import loss_of
from benchmarks.settings import SETTINGS
from tms_hooks.training.batches import held_out
from tms_hooks.training.penalties import stacked


@pytest.mark.parametrize(
    "setting", [s for s in SETTINGS if s.n < 100 and not (s.part and s.models > 8)], ids=lambda setting: setting.name
)
def test_the_plain_loop_and_ours_have_the_same_loss(setting):
    few = setting.fewer(2)
    plain, recipes = few.plain(), few.recipes()
    plain.train(3)
    x = held_out(recipes[0])
    if few.rank:  # a batch of query and key tokens
        tokens = iter([x[:, 0, None].expand(-1, few.models, -1), x[:, 1, None].expand(-1, few.models, -1)])
        plain.batch = lambda: next(tokens)
    else:
        plain.batch = lambda: x[:, None].expand(-1, few.models, -1)
    wanted = float(plain.objective().detach()) / few.models
    weights = plain.weights()
    alone = [{name: w[[i]] for name, w in weights.items()} for i in range(few.models)]
    own = [weights] if len(recipes) == 1 else alone
    recipes = [recipes[0]] * len(recipes)  # all on the same held-out rows
    found = loss_of(recipes, own)
    if penalty := recipes[0].setting.penalty:  # losses are those of the data
        found += float(stacked(penalty, weights).mean())
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


def test_the_command_writes_its_tables(tmp_path, monkeypatch, capsys):
    given = ["one-hot", "--threads", "1", "--repeats", "1", "--only", "equal_work", "memory", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *given])
    command.main()
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["equal_work"][0]["ratio"] > 0
    assert found["memory"][0]["setting"] == "one-hot"
    assert "| one-hot |" in (tmp_path / "bench.md").read_text()
    assert "plain" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["benchmarks", "d7"])
    with pytest.raises(SystemExit):
        command.main()
    assert "no setting ['d7']" in capsys.readouterr().err


def test_models_in_one_call_are_those_of_a_call_each():
    few = next(s for s in SETTINGS if s.name == "b5").fewer(3)
    together = few.together()
    assert [together.alone(i) for i in range(3)] == few.recipes()
    assert len(together.parts) == 3


def test_the_parts_of_a_step_are_timed(capsys):
    phases.main(["s5"])
    printed = capsys.readouterr().out
    assert re.search(r"s5 .* 0\.01 .* 50 ", printed)
    assert "multiply-adds per nanosecond" in printed
