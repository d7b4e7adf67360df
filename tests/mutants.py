"""Do the tests bite? `make mutants` breaks the numeric core in one place at a time and runs the tests of that module.

A mutant is one changed operator, comparison, number or call. One that no test notices is a survivor: a test is missing,
or the change makes no difference, and then `equivalent_mutants.txt` says why. The sample is drawn anew for each seed.
Libraries for this (mutmut, cosmic-ray) try every mutant of a package in place, with one command for all of them; here a
checkout stays as it is, a sample is enough, and each module has its own tests.

    python -m tests.mutants --count 60 --seed 0 tms_hooks/theory
"""

import argparse
import ast
import copy
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
"""Lines of `module | function | change | why it makes no difference`."""
CORE = {
    "tms_hooks/geometry/measures.py": ("geometry", "edges"),
    "tms_hooks/geometry/polytopes.py": ("polytopes",),
    "tms_hooks/theory/circles.py": ("theory_small",),
    "tms_hooks/theory/expected.py": ("theory_expected",),
    "tms_hooks/theory/packing.py": ("theory_small",),
    "tms_hooks/theory/phases.py": ("theory_small",),
    "tms_hooks/theory/polygons.py": ("theory_polygons",),
    "tms_hooks/theory/qk.py": ("theory_qk",),
    "tms_hooks/theory/readouts.py": ("theory_small", "edges"),
    "tms_hooks/landscape/critical.py": ("landscape",),
    "tms_hooks/landscape/exact.py": ("landscape",),
    "tms_hooks/losses.py": ("losses",),
    "tms_hooks/stats.py": ("stats",),
    "tms_hooks/claims/verdict.py": ("claims/verdict",),
    "probes/alignment.py": ("alignment",),
    "probes/bottleneck.py": ("bottleneck",),
    "probes/circuits.py": ("circuits",),
    "probes/slices.py": ("slices",),
    "probes/tangent.py": ("tangent",),
    "probes/activation_patching.py": ("activation_patching",),
}
"""Each module of the numeric core -> the test files of its room that are about it; its doctests run as well."""
PATIENCE = 4
"""A mutant counts as noticed if its tests take this many times as long as without it, and half a minute: it hangs."""
LIMITS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.Pow: (ast.Mult,),
    ast.And: (ast.Or,), ast.Or: (ast.And,),
}  # fmt: skip
OTHER = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "argmin": "argmax", "argmax": "argmin"}


class Mutant(NamedTuple):
    """One change of one module."""

    module: str
    function: str
    change: str
    source: str
    line: int

    def __str__(self) -> str:
        return f"{self.module} | {self.function} | {self.change}"


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Every change of one operator, comparison, number or call; texts, annotations and messages stay."""
    tree = ast.parse(source)
    for function, parent, field, index, node in _sites(tree, "module"):
        for changed in _changes(node):
            old, line = _place(parent, field, index), getattr(node, "lineno", 0)
            _put(parent, field, index, changed)
            try:
                new = ast.unparse(tree)
            finally:
                _put(parent, field, index, old)
            yield Mutant(module, function, f"{ast.unparse(node)} -> {ast.unparse(changed)}", new, line)


def _sites(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST, str, int | None, ast.AST]]:
    if isinstance(node, ast.FunctionDef):
        function = node.name
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list") or isinstance(value, ast.JoinedStr):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.Raise | ast.JoinedStr | ast.Assert):
                yield function, node, field, index, child
                yield from _sites(child, function)


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[op]) | ast.BinOp(op=op) | ast.BoolOp(op=op):
            for other in LIMITS.get(type(op), ()):
                changed = copy.deepcopy(node)
                if isinstance(changed, ast.Compare):
                    changed.ops = [other()]
                else:
                    changed.op = other()
                yield changed
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(2 * value if value else 1.0)
        case ast.Call(func=ast.Attribute(value=owner, attr="abs"), args=[]):
            yield owner
        case ast.Call(func=ast.Name(id=name)) if name in OTHER:
            changed = copy.deepcopy(node)
            changed.func = ast.Name(OTHER[name])
            yield changed
        case ast.Call(func=ast.Attribute(attr=name)) if name in OTHER:
            changed = copy.deepcopy(node)
            changed.func.attr = OTHER[name]
            yield changed


def _place(parent: ast.AST, field: str, index: int | None) -> ast.AST:
    return getattr(parent, field) if index is None else getattr(parent, field)[index]


def _put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def tests_of(module: str) -> list[str]:
    """The files whose tests are to notice a change of a module."""
    room = "tests/probes" if module.startswith("probes") else "tests/tms_hooks"
    names = [Path(room, name) for name in CORE[module]]
    return [*(str(name.with_name(f"test_{name.name}.py")) for name in names), module]


def passes(house: Path, files: list[str], seconds: float | None = None) -> bool:
    """Whether the tests pass in a checkout, and within that time; in a process that has torch already."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch", "pandas", "scipy.optimize", "scipy.cluster.hierarchy"])
    process = context.Process(target=_run, args=(str(house), files))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    return process.exitcode == 0


def _run(house: str, files: list[str]) -> None:
    import pytest

    os.chdir(house)
    sys.path[:] = [house, *(place for place in sys.path if place not in ("", str(ROOT)))]
    sys.dont_write_bytecode = True
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    plain = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not browser and not real_weights"]
    os._exit(int(pytest.main([*plain, *files])))


def sample(modules: list[str], count: int, seed: int) -> list[Mutant]:
    """That many mutants, as even over the modules as can be."""
    draw = random.Random(seed)
    piles = []
    for module in modules:
        pile = list(mutants(module, (ROOT / module).read_text(encoding="utf-8")))
        draw.shuffle(pile)
        piles.append(pile)
    rounds = [pile[depth] for depth in range(max(map(len, piles))) for pile in piles if depth < len(pile)]
    return rounds[:count]


def equivalent() -> set[str]:
    """The mutants that are known to make no difference."""
    lines = EQUIVALENT.read_text(encoding="utf-8").splitlines()
    return {line.rsplit(" | ", 1)[0] for line in lines if line and not line.startswith("#")}


def measure(chosen: list[Mutant], say: Callable[[str], None] = print) -> list[Mutant]:
    """The survivors among some mutants, in a copy of the checkout."""
    survivors, killed, same = [], 0, equivalent()
    with tempfile.TemporaryDirectory() as scratch:
        house = Path(scratch) / "house"
        for part in ("tms_hooks", "probes", "tests"):
            shutil.copytree(ROOT / part, house / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", house)
        for module in sorted({mutant.module for mutant in chosen}):
            began = time.monotonic()
            if not passes(house, tests_of(module)):
                raise SystemExit(f"{module}: its tests fail without any change")
            seconds = 30 + PATIENCE * (time.monotonic() - began)
            plain = (house / module).read_text(encoding="utf-8")
            for mutant in (mutant for mutant in chosen if mutant.module == module):
                if str(mutant) in same:
                    continue
                (house / module).write_text(mutant.source, encoding="utf-8")
                if passes(house, tests_of(module), seconds):
                    survivors.append(mutant)
                    say(f"survived: {mutant}   (line {mutant.line})")
                else:
                    killed += 1
            (house / module).write_text(plain, encoding="utf-8")
            say(f"{module}: so far {killed} killed, {len(survivors)} survived")
    tried = killed + len(survivors)
    say(f"{killed} of {tried} mutants killed ({killed / max(tried, 1):.0%}); {len(chosen) - tried} more are equivalent")
    return survivors


def main() -> None:
    """Draw a sample, print its score and its survivors; exit 1 below the wanted share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", default=[""], help="paths, or the folders that they are in")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=0.95, help="share to be killed")
    asked = parser.parse_args()
    modules = [module for module in CORE if module.startswith(tuple(asked.modules))]
    if not modules:
        raise SystemExit(f"{asked.modules}: none is in the numeric core; these are: {', '.join(CORE)}")
    chosen = sample(modules, asked.count, asked.seed)
    tried = [mutant for mutant in chosen if str(mutant) not in equivalent()]
    survivors = measure(chosen)
    sys.exit(len(survivors) > (1 - asked.least) * len(tried))


if __name__ == "__main__":
    main()
