"""The notebooks run, their halves are paired, and the README's example is true."""

import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import jupytext
import pytest

ROOT = Path(__file__).parents[2]
spec = spec_from_file_location("notebooks_run", ROOT / "examples" / "run.py")
run = module_from_spec(spec)
spec.loader.exec_module(run)
NOTEBOOKS = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "run.py")


@pytest.mark.slow
@pytest.mark.real_weights
def test_every_notebook_runs_in_quick_mode():
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "run.py", "--check"], capture_output=True, text=True, timeout=900, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(re.findall(r"cells ran", done.stdout)) == len(NOTEBOOKS) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_saved_notebook_is_the_script_with_its_outputs(path):
    script, saved = jupytext.read(path), jupytext.read(path.with_suffix(".ipynb"))
    assert [cell.source for cell in saved.cells] == [cell.source for cell in script.cells]
    code = [cell for cell in saved.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert sum(bool(cell.outputs) for cell in code) >= len(code) / 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_saved_notebook_is_small_and_shows_everything_without_scripts(path):
    saved = path.with_suffix(".ipynb")
    data = [out.data for cell in jupytext.read(saved).cells for out in cell.get("outputs", []) if "data" in out]
    assert run.COMPILING not in saved.read_text(encoding="utf-8")
    assert [html[:80] for each in data if "<script" in (html := each.get("text/html", ""))] == []
    assert any("image/png" in each for each in data)
    assert saved.stat().st_size < 1_000_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_in_colab_and_installs_itself_there(path):
    cells = jupytext.read(path).cells
    [badge] = re.findall(
        r"\(https://colab.research.google.com/github/([\w-]+/[\w-]+)/blob/main/(\S+)\)", cells[0].source
    )
    assert badge == (run.repository(), f"examples/{path.stem}.ipynb")
    first = next(cell.source for cell in cells if cell.cell_type == "code")
    assert f"git+https://github.com/{badge[0]}" in first  # from where it was opened
    called = []
    magic = SimpleNamespace(run_line_magic=lambda *call: called.append(call))
    space = {"get_ipython": lambda: magic}
    exec(first, space)
    assert called == []  # installed
    exec(first.replace("from importlib.util import find_spec", "find_spec = lambda name: None"), space)
    assert [call[0] for call in called] == ["pip"] * len(called) != []
    assert "tms-hooks[" in called[0][1]


def test_the_address_of_the_repository_is_written_into_notebooks():
    text = NOTEBOOKS[0].read_text(encoding="utf-8")
    moved = run.addressed(text, "other-owner/other.name")
    assert "github/other-owner/other.name/blob/main/examples/" in moved
    assert 'source = "git+https://github.com/other-owner/other.name"' in moved
    assert run.repository() not in moved
    assert run.addressed(moved, run.repository()) == text


@pytest.mark.parametrize("name", ["arena", "your_own"])
def test_a_cell_has_at_most_ten_lines(name):
    cells = jupytext.read(ROOT / "examples" / f"{name}.py").cells
    sizes = [len(list(filter(str.strip, cell.source.splitlines()))) for cell in cells if cell.cell_type == "code"]
    assert len(sizes) > 10
    assert max(sizes) <= 10


def test_the_readme_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert "hook_hidden" in capsys.readouterr().out
