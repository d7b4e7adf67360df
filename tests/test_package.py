"""What `pyproject.toml` promises: every library that is imported is declared, and nothing else."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Ray is in no extra: it has no wheel for every Python that this package supports. Triton comes with torch for CUDA.
ON_REQUEST = {"ray", "triton"}
# Declared and never imported by name here: other libraries load them when they are asked to.
BY_NAME = {"circuitsvis", "dask", "gguf", "kaleido"}
TOOLS = ("notebooks", "docs", "dev", "all")


def imported(sources: dict[str, str]) -> dict[str, set[str]]:
    """Top-level modules that are not Python's own or ours -> the files that import them."""
    found: dict[str, set[str]] = {}
    for file, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"tms_hooks", "probes"}:
                found.setdefault(top, set()).add(file)
    return found


def declared() -> set[str]:
    """Names of all requirements of the package and of the extras that its code needs."""
    extras = [line for name, lines in PROJECT["optional-dependencies"].items() if name not in TOOLS for line in lines]
    return {re.split(r"[<>=\[; ]", line)[0].lower() for line in [*PROJECT["dependencies"], *extras]}


def undeclared(sources: dict[str, str]) -> dict[str, set[str]]:
    """Imported modules of which no distribution is declared."""
    distributions = packages_distributions()
    known = declared() | ON_REQUEST
    return {
        module: files
        for module, files in imported(sources).items()
        if not {name.lower().replace("_", "-") for name in distributions.get(module, [module])} & known
    }


def our_sources() -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text()
        for package in ("tms_hooks", "probes")
        for path in (ROOT / package).rglob("*.py")
    }


def test_every_imported_library_is_declared():
    assert undeclared(our_sources()) == {}


def test_an_undeclared_library_is_found():
    assert undeclared({"x.py": "def f():\n    import yaml, torch\n    from jinja2 import Template"}) == {
        "yaml": {"x.py"}
    }


def test_every_declared_library_is_imported():
    distributions = packages_distributions()
    used = {name.lower().replace("_", "-") for m in imported(our_sources()) for name in distributions.get(m, [m])}
    assert declared() - used - BY_NAME == set()
