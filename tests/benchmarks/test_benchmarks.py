"""What the benchmarks compare is the same task on both sides."""

import json
import re
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import gpu, phases
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
    rate = r"[\d.]+ "
    assert re.search(rf"per nanosecond: {rate}hashes, {rate}numbers, {rate}multiply-adds, {rate}errors", printed)


def test_the_comparison_on_a_device_has_all_its_rows():
    """On the CPU in the place of a device, with a few small toys: how far it goes without one."""
    small = [replace(s, n=6, m=2, models=2) for s in gpu.SETTINGS_HERE[1:3]]
    rows = [gpu.compare(setting, torch.device("cpu"), repeats=1) for setting in small]
    assert min(row[f"{what}_us"] for row in rows for what in ("plain", "ours", "cpu")) > 0
    table = gpu.readable(rows)
    assert list(table["setting"]) == ["d6", "a20"]
    assert {"d6", "a100", "c400", "w4096"} < {setting.name for setting in gpu.SETTINGS_HERE}
    assert set(table["CUDA graph"]) == {"no"}
    assert gpu.readable([rows[0] | {"ours_us": None}])["ours, device"].tolist() == ["out of memory"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_compared(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu"])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert "device='cuda' is not on this machine" in capsys.readouterr().err
