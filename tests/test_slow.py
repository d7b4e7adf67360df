"""The list of slow tests names tests that there are, and `slow` is what they are marked."""

import ast
from collections import Counter

from tests import slow
from tests.conftest import ROOT

TIMES = """<testsuites><testsuite>
<testcase file="tests/test_a.py" name="test_x[1]" time="2.0"/>
<testcase file="tests/test_a.py" name="test_x[2]" time="2.5"/>
<testcase file="tests/test_a.py" name="test_y" time="3.0"/><testcase file="tests/test_b.py" name="test_x" time="4.0"/>
<testcase file="tests/test_b.py" name="test_z" time="0.1"/>
</testsuite></testsuites>"""


def test_the_slowest_quarter_by_hand(tmp_path):
    (tmp_path / "times.xml").write_text(TIMES)
    seconds = slow.times([tmp_path / "times.xml"])
    assert seconds == {
        "tests/test_a.py::test_x": 4.5, "tests/test_a.py::test_y": 3.0,
        "tests/test_b.py::test_x": 4.0, "tests/test_b.py::test_z": 0.1,
    }  # fmt: skip
    assert slow.slowest(seconds) == ["tests/test_a.py::test_x"]


def test_a_long_test_that_is_not_on_the_list_is_named():
    took = Counter({"test_long.py::test_long": 61.0, "test_short.py::test_short": 0.2})
    assert slow.unlisted(took) == ["61 s  test_long.py::test_long"]
    assert slow.unlisted(Counter({"test_short.py::test_short": 0.2})) == []


def test_every_name_on_the_list_is_a_test():
    functions: dict[str, set[str]] = {}
    for name in slow.LIST.read_text(encoding="utf-8").splitlines():
        file, test = name.split("::", 1)
        if file not in functions:
            nodes = ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
            functions[file] = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        known = functions[file]
        assert test.split(".")[-1].split("::")[-1] in known, f"{name}: there is no such test; run `make slow`"


def test_what_is_on_the_list_is_marked(request):
    listed = set(slow.LIST.read_text(encoding="utf-8").splitlines())
    for item in request.session.items:
        assert (item.nodeid.split("[")[0] not in listed) or item.get_closest_marker("slow")
