"""The recipes of CONTRIBUTING.md, as they stand there: each file is written, then the lines under it are run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = {
    title: re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for title, section in re.findall(r"^### (.*?)\n(.*?)(?=^##)", TEXT, re.DOTALL | re.MULTILINE)
}


def test_there_is_a_recipe_for_each_thing_one_adds():
    assert list(RECIPES) == ["An optimizer", "A distribution", "A task", "A probe tool", "A claim"]
    assert {len(blocks) for blocks in RECIPES.values()} == {2}


@pytest.mark.parametrize("title", RECIPES)
def test_recipe(title, tmp_path):
    file, use = RECIPES[title]
    name = re.match(r"# (\w+\.py)\n", file)
    assert name
    (tmp_path / name[1]).write_text(file, encoding="utf-8")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", use], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
