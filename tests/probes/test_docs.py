"""What docs/probes.md shows is what happens."""

import doctest
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "probes.md"


@pytest.mark.real_weights
@pytest.mark.slow
def test_the_page_on_probes_is_true() -> None:
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testfile(str(DOCS), module_relative=False, optionflags=flags)
    assert result.attempted > 25
    assert result.failed == 0
