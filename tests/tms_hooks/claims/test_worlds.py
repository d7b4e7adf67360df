"""Every claim has a test here that tries it in a world where it holds and in one where it is false."""

import ast
from pathlib import Path

from tms_hooks.claims import Claim, claims, registry

HERE = Path(__file__).parent


def without_worlds(known: dict[str, Claim]) -> list[str]:
    """Where a claim's test should be and is not: the verdict of each must be able to come out both ways."""
    missing = []
    for name, made in known.items():
        file = HERE / f"test_{made.measure.__module__.split('.')[-1]}.py"
        tree = ast.parse(file.read_text()) if file.is_file() else ast.Module([], [])
        test = f"test_{name.replace('-', '_')}"
        if not any(isinstance(node, ast.FunctionDef) and node.name == test for node in tree.body):
            missing.append(f"{file.name} has no {test}")
    return missing


def test_every_claim_has_its_worlds():
    assert without_worlds(claims()) == []


def test_a_claim_without_worlds_is_found():
    named = claims()["hexagon-norms"]
    assert without_worlds({"heptagon-norms": named}) == ["test_hexagons.py has no test_heptagon_norms"]


def test_every_module_that_registers_claims_is_in_a_family():
    modules = Path(registry.__file__).parent.glob("*.py")
    assert {module.stem for module in modules if "\n@claim(" in module.read_text()} == set(registry.FAMILIES)
