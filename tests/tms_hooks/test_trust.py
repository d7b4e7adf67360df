"""The table of docs/trust.md: its kinds end well, and a reader that does not verify is found out."""

import random
import sys

import pytest
from safetensors.torch import load_file

from tests import trust

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it forks, kills and limits processes")


@pytest.mark.parametrize("kind", [trust.of_runs, trust.of_claims, trust.full_disks], ids=lambda kind: kind.__name__)
def test_nothing_is_lost_and_nothing_is_silent(kind, tmp_path):
    found = list(kind(tmp_path, random.Random(1), 2))
    assert all(row.tried > 0 for row in found)
    assert [row for row in found if row.lost or row.silent or row.crashed] == []


def test_a_reader_that_does_not_verify_is_found_out(tmp_path):
    saved, other = trust.train(0).save(tmp_path / "run"), trust.train(7).save(tmp_path / "other-run")

    def careless(path):
        weights = load_file(path / "weights.safetensors")
        return [weights[name].numpy().tobytes() for name in sorted(weights)]

    found = {row.what: row for row in trust.damaged("run", saved, other, careless, random.Random(1), 2)}
    assert found["run: swapped with another's"].silent == 2
    assert found["run: missing, a link, a pipe"].silent == 0


def test_the_page_has_the_table_of_this_script():
    page = trust.PAGE.read_text(encoding="utf-8")
    assert trust.markdown([trust.Row("x", 1)]).splitlines()[0] in page
    for damage in trust.DAMAGE:
        assert f"| run: {damage} |" in page
