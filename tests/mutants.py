"""Do the tests bite? `make mutants` breaks the numeric core in one place at a time and runs the tests of that module.

A mutant is one changed operator, comparison, number or call. One that no test notices is a survivor: a test is missing,
or the change makes no difference, and then `equivalent_mutants.txt` says why. The sample is drawn anew for each seed.

The tests of a module are collected once; each mutant is a fork of that process in which the module's functions get the
code of the changed source, and the tests run, quickest first, until one fails. So a mutant costs what its tests do and
no start, and no file is touched. Libraries for this (mutmut, cosmic-ray) try every mutant of a package, a process each.

    python -m tests.mutants --count 60 --seed 0 tms_hooks/theory
"""

import argparse
import ast
import copy
import inspect
import math
import os
import random
import resource
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

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
    "probes/circuits.py": ("circuits", "slices"),
    "probes/slices.py": ("slices",),
    "probes/tangent.py": ("tangent", "long_prompts"),
    "probes/activation_patching.py": ("activation_patching", "long_prompts"),
}
"""Each module of the numeric core -> the test files of its room that are about it; its doctests run as well."""
PATIENCE = 4
"""A mutant counts as noticed if its tests take this many times the processor time that they take without it, and ten
seconds: it hangs."""
PLAIN = ("-q", "-p", "no:cacheprovider", "-m", "not browser and not real_weights", "--doctest-modules")
"""How the tests run: without the type checks, which cost as much again, so what those alone would notice survives."""
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
    """What became what; the second such place of a function has " (2)" after it."""
    source: str
    line: int

    def __str__(self) -> str:
        return f"{self.module} | {self.function} | {self.change}"


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Every change of one operator, comparison, number or call; texts, annotations and messages stay."""
    tree, seen = ast.parse(source), Counter[tuple[str, str]]()
    for function, parent, field, index, node in _sites(tree, "module"):
        for changed in _changes(node):
            old, line = _place(parent, field, index), getattr(node, "lineno", 0)
            _put(parent, field, index, changed)
            try:
                new = ast.unparse(tree)
            finally:
                _put(parent, field, index, old)
            change = f"{ast.unparse(node)} -> {ast.unparse(changed)}"
            seen[function, change] += 1
            count = seen[function, change]
            yield Mutant(module, function, change if count == 1 else f"{change} ({count})", new, line)


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


def graft(module: ModuleType, source: str) -> None:
    """Give what others have imported from a module already the code and the constants of a changed source."""
    fresh = ModuleType(module.__name__)
    fresh.__dict__.update(__file__=module.__file__, __package__=module.__package__)
    exec(compile(source, str(module.__file__), "exec"), fresh.__dict__)
    rooms = [room for name, room in list(sys.modules.items()) if name.split(".")[0] in ("tms_hooks", "probes")]
    for name, new in list(vars(fresh).items()):
        old = vars(module).get(name)
        number = isinstance(new, int | float | str | tuple | list) or hasattr(new, "shape")
        if name.startswith("__") or _take(old, new) or not number:
            continue
        for room in rooms:
            if vars(room).get(name) is old:
                setattr(room, name, new)
    for remembers in (value for room in rooms for value in vars(room).values() if hasattr(value, "cache_clear")):
        remembers.cache_clear()


def _take(old: Any, new: Any) -> bool:
    """Code of a function, of a class's methods or of a table's functions: whether there was any to take."""
    old, new = (inspect.unwrap(each) if callable(each) else each for each in (old, new))
    if old is new:
        return True
    match old, new:
        case FunctionType(), FunctionType():
            old.__code__, old.__defaults__, old.__kwdefaults__ = new.__code__, new.__defaults__, new.__kwdefaults__
        case ((classmethod() | staticmethod()), (classmethod() | staticmethod())):
            _take(old.__func__, new.__func__)
        case property(), property():
            _take(old.fget, new.fget)
        case type(), type() if new.__module__.startswith(("tms_hooks", "probes")):
            for name, value in list(vars(new).items()):
                if name.startswith("__") and not callable(value):
                    continue
                if not _take(vars(old).get(name), value) and isinstance(value, int | float | str | tuple):
                    setattr(old, name, value)
        case dict(), dict():
            taken = [_take(old.get(key), value) for key, value in new.items()]
            return all(taken)
        case _:
            return False
    return True


class Forks:
    """A plugin of pytest: what was collected runs in a fork, once as it is and once for every mutant."""

    def __init__(self, name: str, chosen: list[Mutant], answers: Any) -> None:
        self.name, self.chosen, self.answers = name, chosen, answers
        self.failed, self.seconds = False, Counter[str]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Whether any failed, and how long each took."""
        self.failed |= report.failed
        self.seconds[report.nodeid] += report.duration

    def pytest_runtestloop(self, session: Any) -> bool:
        """In the place of pytest's own loop."""
        reading, writing = os.pipe()
        spent = os.times()
        plain = inspect.getsource(sys.modules[self.name])
        if not self.survives(session, self.chosen[0]._replace(source=plain), 3600, writing):
            self.answers.send(None)
            return True
        now, limit = os.times(), PATIENCE * 1.0
        limit *= now.children_user + now.children_system - spent.children_user - spent.children_system
        with os.fdopen(reading) as lines:
            order = {name: place for place, name in enumerate(lines.readline().split("\t"))}
        session.items.sort(key=lambda item: order.get(item.nodeid, 0))
        for mutant in self.chosen:
            self.answers.send((mutant, self.survives(session, mutant, 10 + limit)))
        return True

    def survives(self, session: Any, mutant: Mutant, seconds: float, to: int | None = None) -> bool:
        """Whether all tests pass, in a fork that has so many seconds of processor time."""
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1] == 0
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))
        signal.alarm(3600)  # it waits for something that never comes
        try:
            graft(sys.modules[self.name], mutant.source)
            for item, after in zip(session.items, [*session.items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
                if self.failed:
                    os._exit(1)
        except BaseException:
            os._exit(1)
        if to is not None:
            os.write(to, "\t".join(name for name, _ in self.seconds.most_common()[::-1]).encode() + b"\n")
        os._exit(0)


def _run(module: str, chosen: list[Mutant], answers: Any) -> None:
    import pytest

    os.chdir(ROOT)
    sys.dont_write_bytecode = True
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    name = module.removesuffix(".py").replace("/", ".")
    options = ["-o", "addopts=--import-mode=importlib", *PLAIN]
    pytest.main([*options, *tests_of(module)], plugins=[Forks(name, chosen, answers)])


def sample(modules: list[str], count: int, seed: int) -> list[Mutant]:
    """That many mutants, as even over the modules as can be; a module's draw does not depend on the others."""
    piles = []
    for module in modules:
        pile = list(mutants(module, (ROOT / module).read_text(encoding="utf-8")))
        random.Random(f"{seed} {module}").shuffle(pile)
        piles.append(pile)
    rounds = [pile[depth] for depth in range(max(map(len, piles))) for pile in piles if depth < len(pile)]
    return rounds[:count]


def equivalent() -> set[str]:
    """The mutants that are known to make no difference."""
    lines = EQUIVALENT.read_text(encoding="utf-8").splitlines()
    return {line.rsplit(" | ", 1)[0] for line in lines if line and not line.startswith("#")}


def measure(module: str, chosen: list[Mutant]) -> Iterator[tuple[Mutant, bool]]:
    """Each mutant of a module, and whether it survived the tests of that module."""
    there, here = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_run, args=(module, chosen, here))
    process.start()
    here.close()
    for _ in chosen:
        try:
            answer = there.recv()
        except EOFError:
            answer = None
        if answer is None:
            raise SystemExit(f"{module}: its tests fail without any change, or none was collected")
        yield answer
    process.join()


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
    chosen, same = sample(modules, asked.count, asked.seed), equivalent()
    tried = [mutant for mutant in chosen if str(mutant) not in same]
    survivors = 0
    for module in modules:
        share = [mutant for mutant in tried if mutant.module == module]
        for mutant, survived in measure(module, share) if share else ():
            survivors += survived
            if survived:
                print(f"survived: {mutant}   (line {mutant.line})", flush=True)
        print(f"{module}: {len(share)} tried, {survivors} survived so far", flush=True)
    killed, alike = len(tried) - survivors, len(chosen) - len(tried)
    print(f"{killed} of {len(tried)} mutants killed ({killed / max(len(tried), 1):.0%}); {alike} more are equivalent")
    sys.exit(survivors > (1 - asked.least) * len(tried))


if __name__ == "__main__":
    main()
