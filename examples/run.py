"""Execute every notebook of this folder from its .py half and keep the outputs in its .ipynb half.

`python examples/run.py [NAME ...]` writes the notebooks; with `--check` it runs them in quick mode and writes nothing.
Their badges and first cells have the repository's address from `pyproject.toml`, the one place to change it.
What is kept shows everywhere, without scripts and without a network: figures as pictures (by kaleido), and a picture of
what is HTML with a script (by a browser). Run in Jupyter, the notebooks have plotly's own figures.
"""

import argparse
import base64
import os
import re
import shutil
import tomllib
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
COMPILING = "compiling the training loop"
NOTEBOOKS = sorted(path for path in HERE.glob("*.py") if path.name != "run.py")


def addressed(text: str, repository: str) -> str:
    """A notebook's text that opens in Colab, and installs there, from this repository, such as "owner/name"."""
    badge = re.sub(r"(colab[.\w]+/github)/[\w.-]+/[\w.-]+/blob/", rf"\1/{repository}/blob/", text)
    return re.sub(
        r"git\+https://github\.com/[\w.-]+/[\w.-]+", f"git+https://github.com/{repository}", badge
    )


def repository() -> str:
    """Owner and name of the repository, as `pyproject.toml` has them."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix("https://github.com/")


def execute(path: Path, quick: bool) -> NotebookNode:
    """Run one notebook in a kernel of its own; an exception in any cell is raised."""
    notebook = jupytext.read(path)
    env = os.environ | ({"TMS_QUICK": "1"} if quick else {"PLOTLY_RENDERER": "png"})
    where = {"metadata": {"path": str(HERE)}}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where)
    return client.execute(env=env)


def quiet(notebook: NotebookNode) -> None:
    """Leave out what one machine says once: that it compiles."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if COMPILING not in out.get("text", "")]


def photograph(notebook: NotebookNode) -> None:
    """Put a picture in the place of every output that needs scripts."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as browsers:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = browsers.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 760, "height": 100}, device_scale_factor=1.5)
        for data in (
            out.data for cell in notebook.cells for out in cell.get("outputs", []) if "data" in out
        ):
            if "<script" in data.get("text/html", ""):
                page.set_content(data.pop("text/html"), wait_until="load")
                page.wait_for_timeout(1_000)  # its script draws after the load
                data["image/png"] = base64.b64encode(page.screenshot(full_page=True)).decode()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="such as arena; by default all")
    parser.add_argument("--check", action="store_true", help="quick mode, write nothing")
    asked = parser.parse_args()
    for path in NOTEBOOKS:
        if asked.names and path.stem not in asked.names:
            continue
        if not asked.check:
            for half in (path, path.with_suffix(".ipynb")):
                half.write_text(addressed(half.read_text("utf-8"), repository()), "utf-8")
        notebook = execute(path, asked.check)
        if not asked.check:
            quiet(notebook)
            photograph(notebook)
            jupytext.write(notebook, path.with_suffix(".ipynb"))
        print(
            f"{path.name}: {sum(c.cell_type == 'code' for c in notebook.cells)} cells ran",
            flush=True,
        )


if __name__ == "__main__":
    main()
