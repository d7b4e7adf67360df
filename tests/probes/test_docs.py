"""What docs/probes.md and docs/beside_other_tools.md show is what happens."""

import doctest
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "probes.md"


def test_the_page_on_other_tools_is_true(tmp_path: Path) -> None:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    page = str(DOCS.with_name("beside_other_tools.md"))
    result = doctest.testfile(page, module_relative=False, optionflags=flags, extraglobs={"folder": tmp_path})
    assert result.attempted > 10
    assert result.failed == 0


@pytest.mark.real_weights
@pytest.mark.slow
def test_the_page_on_probes_is_true() -> None:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testfile(str(DOCS), module_relative=False, optionflags=flags)
    assert result.attempted > 25
    assert result.failed == 0
