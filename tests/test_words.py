"""The words of docs/words.md: every name of their column "in code" is one of the code."""

import inspect
import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

import probes
import tms_hooks as tms

PAGE = Path(__file__).parents[1] / "docs" / "words.md"
PROBES = (probes.linear_probe, probes.attention_slices, probes.patch_sweep, probes.bottleneck)
CALLS = (tms.train, tms.sweep, tms.ToyConfig, *PROBES)


def names(page: str) -> list[tuple[str, str]]:
    """(Word, name) of every name in the column "in code" of every table."""
    found, column = [], 0
    for line in page.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if "in code" in cells:
            column = cells.index("in code")
        elif cells:
            found += [(cells[0], name) for name in re.findall("`([^`]+)`", cells[column])]
    return found


def exists(name: str, things: list[object]) -> bool:
    """Whether a name is an argument, something that `things` have, or stands in a module of one of the packages."""
    if any(name in inspect.signature(call).parameters for call in CALLS) or any(has(thing, name) for thing in things):
        return True
    owner, _, last = (name if name.startswith("probes.") else f"tms_hooks.{name}").rpartition(".")
    try:
        return has(resolve_name(owner), last)
    except (ImportError, AttributeError):
        return False


def has(thing: object, name: str) -> bool:
    """Whether a thing has an attribute, or an attribute's attribute; fields of a class are such without a value too."""
    first, _, rest = name.partition(".")
    if not hasattr(thing, first):
        return not rest and first in getattr(thing, "__dataclass_fields__", {})
    return not rest or has(getattr(thing, first), rest)


@pytest.fixture(scope="module")
def things() -> list[object]:
    """What has the names without a dot: a run with its recipe, its data and a model of all parts, and the library."""
    cfg = tms.ToyConfig(n_features=3, d_hidden=2, tied=False, hidden_bias=True, unit_norm=True, n_heads=1)
    data = tms.SparseUniform(n_features=3, feature_probability=0.5)
    run = tms.train(cfg, data, steps=1, qk_pairs=[[(0, 1)]], progress=False)
    return [tms, run, run.recipe, data, run.models[0]]


def test_every_name_is_one_of_the_code(things):
    found = names(PAGE.read_text(encoding="utf-8"))
    assert len(found) > 60
    assert [(word, name) for word, name in found if not exists(name, things)] == []


WRONG = ["d_hiden", "qk_loss", "geometry.interferences", "no_module.name", "probes.Bottleneck.reads", "history.los"]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_name_is_found(wrong, things):
    assert names(f"| term | in code |\n|---|---|\n| word | `{wrong}` |") == [("word", wrong)]
    assert not exists(wrong, things)
