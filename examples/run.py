"""Execute every notebook of this folder from its .py half and keep the outputs in its .ipynb half.

`python examples/run.py` writes the notebooks; with `--check` it runs them in quick mode and writes nothing.
"""

import argparse
import os
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
NOTEBOOKS = sorted(path for path in HERE.glob("*.py") if path.name != "run.py")


def execute(path: Path, quick: bool) -> NotebookNode:
    """Run one notebook in a kernel of its own; an exception in any cell is raised."""
    notebook = jupytext.read(path)
    env = os.environ | ({"TMS_QUICK": "1"} if quick else {})
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(HERE)}})
    return client.execute(env=env)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="quick mode, write nothing")
    quick = parser.parse_args().check
    for path in NOTEBOOKS:
        notebook = execute(path, quick)
        if not quick:
            jupytext.write(notebook, path.with_suffix(".ipynb"))
        print(f"{path.name}: {sum(c.cell_type == 'code' for c in notebook.cells)} cells ran")


if __name__ == "__main__":
    main()
