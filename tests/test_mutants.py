"""A mutant is the changed code wherever the old was imported, and what is listed as equivalent is a mutant."""

import sys
from types import ModuleType

import pytest

from tests.mutants import ROOT, equivalent, graft, mutants

SOURCE = """
from functools import cache
LIMIT = 2
class Box:
    size = 1.5
    def double(self, by=2):
        return self.size * by
    @property
    def half(self):
        return self.size / 2
    @staticmethod
    def three():
        return 3
def below(x):
    return x < LIMIT
@cache
def nine():
    return 9
TABLE = {"twice": lambda x: 2 * x}
"""


@pytest.fixture
def rooms():
    """A module, and one that has imported everything of it."""
    first, second = ModuleType("probes.first"), ModuleType("probes.second")
    first.__file__ = "first.py"
    sys.modules |= {"probes.first": first, "probes.second": second}
    exec(SOURCE, first.__dict__)
    exec("from probes.first import *", second.__dict__)
    yield first, second
    del sys.modules["probes.first"], sys.modules["probes.second"]


@pytest.mark.parametrize(
    ("function", "change", "asked", "before", "after"),
    [
        ("below", "x < LIMIT -> x <= LIMIT", "below(2)", False, True),
        ("module", "2 -> 3", "below(2), LIMIT", (False, 2), (True, 3)),
        ("double", "2 -> 3", "Box().double()", 3.0, 4.5),
        ("double", "self.size * by -> self.size / by", "Box().double()", 3.0, 0.75),
        ("half", "2 -> 3", "Box().half", 0.75, 0.5),
        ("three", "3 -> 4", "Box.three()", 3, 4),
        ("nine", "9 -> 10", "nine()", 9, 10),
        ("module", "1.5 -> 3.0", "Box().size", 1.5, 3.0),
        ("module", "2 * x -> 2 / x", "TABLE['twice'](4)", 8, 0.5),
    ],
)
def test_whoever_imported_a_name_has_the_changed_code(rooms, function, change, asked, before, after):
    first, second = rooms
    [mutant] = [m for m in mutants("first.py", SOURCE) if (m.function, m.change) == (function, change)]
    graft(first, SOURCE)
    assert eval(asked, second.__dict__) == before
    graft(first, mutant.source)
    assert eval(asked, second.__dict__) == after
    graft(first, SOURCE)
    assert eval(asked, second.__dict__) == before


def test_what_is_listed_as_equivalent_is_a_mutant():
    listed = equivalent()
    for module in {line.split(" | ")[0] for line in listed}:
        made = {str(mutant) for mutant in mutants(module, (ROOT / module).read_text(encoding="utf-8"))}
        stale = {line for line in listed if line.startswith(f"{module} | ")} - made
        assert not stale, f"there is no such mutant any more: {stale}"
