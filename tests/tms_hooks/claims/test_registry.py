"""The registry: what a claim must state, in which order claims are listed, and claims of one's own."""

import importlib
import re
import sys

import planned
import pytest

from tms_hooks.claims import Verdict, above, below, claim, claims, find, registry
from tms_hooks.claims import reproduce as runner

PARTS = {"Statistic": "a share.", "Threshold": "above 1/2.", "Size": "1.", "Controls": "none."}


def measure_with(**parts: str):
    """A function whose docstring states these parts."""

    def measure(n_models: int) -> Verdict:
        raise AssertionError("nobody runs it")

    measure.__doc__ = "All is well.\n\n" + "\n".join(f"{part}: {text}" for part, text in parts.items())
    return measure


@pytest.fixture
def register(monkeypatch):
    """`claim` on a registry that is forgotten afterwards."""
    monkeypatch.setattr(registry, "_claims", dict(claims()))
    return lambda measure, name="new", needs=planned.HALF: claim(name, "H", quick=1, full=1, needs=needs)(measure)


def test_every_claim_states_its_size_and_design_first():
    for name, made in claims().items():
        size = made.design.split("Size:")[1].split("Controls:")[0]
        assert re.search(rf"\b{made.quick} .*\(quick\), {made.full} .*\(full\)", " ".join(size.split())), name
        assert made.statement.endswith("."), name


def test_the_threshold_that_decides_is_the_one_that_is_stated():
    assert {name: registry.stated_needs(made.design) for name, made in claims().items()} == {
        name: made.needs for name, made in claims().items()
    }


@pytest.mark.parametrize(
    ("stated", "needs"),
    [
        ("above 1/2", above(0.4)),  # another threshold
        ("above 1/2", below(0.5)),  # another side
        ("below 0.05", above(0.05)),
        ("above 0.05", above(0.5)),
        ("above -1", above(1.0)),
        ("half of them", above(0.5)),  # not to be read
        ("at least above 1/2", above(0.5)),
    ],
)
def test_a_threshold_that_is_not_the_one_that_is_stated_is_refused(register, stated, needs):
    with pytest.raises(ValueError, match=r"'new' needs its statistic .* docstring states is .*: make them one"):
        register(measure_with(**PARTS | {"Threshold": stated}), needs=needs)
    assert "new" not in claims()


@pytest.mark.parametrize(
    ("stated", "needs"),
    [("above 1/2, for each.", above(0.5)), ("below\n    -0.05.", below(-0.05)), ("above 2/3", above(2 / 3))],
)
def test_a_threshold_that_is_the_one_that_is_stated_is_taken(register, stated, needs):
    register(measure_with(**PARTS | {"Threshold": stated}), needs=needs)
    assert claims()["new"].needs == needs


@pytest.mark.parametrize("part", PARTS)
def test_a_claim_that_leaves_out_a_part_is_refused(register, part):
    with pytest.raises(ValueError, match=f"lacks {part}:"):
        register(measure_with(**{name: text for name, text in PARTS.items() if name != part}))


def test_a_name_is_taken_once(register):
    with pytest.raises(ValueError, match="registered twice"):
        register(measure_with(**PARTS), name="hexagon-norms")


def test_a_cell_that_is_run_again_takes_its_own_place(register):
    first, again = (measure_with(**PARTS) for _ in range(2))
    register(first)
    register(again)
    assert claims()["new"].measure is again


def test_claims_are_listed_by_family_whatever_was_imported_first(monkeypatch):
    monkeypatch.setattr(registry, "_claims", dict(reversed(claims().items())))
    families = dict.fromkeys(made.measure.__module__.split(".")[-1] for made in claims().values())
    assert tuple(families) == registry.FAMILIES


def test_finding_claims():
    assert [found.name for found in find(["stuck-feature", "hexagon-norms"])] == ["hexagon-norms", "stuck-feature"]
    assert len(find(["all", "hexagon-norms"])) == len(claims())
    with pytest.raises(KeyError, match="did you mean 'hexagon-norms'"):
        find(["hexagon-norm"])


def test_a_run_is_decided_and_timed():
    found = planned.planned(planned.one_thread, "threads").run(quick=True)
    assert (found.claim, found.threshold, found.side) == ("threads", 0.5, "above")
    assert found.seconds > 0


OWN = '''
"""A claim of one's own."""

from tms_hooks import OneHot, ToyConfig, geometry
from tms_hooks.claims import Verdict, above, claim, lab


@claim("own-feature", "a notebook of mine", quick=8, full=20, needs=above(0.5))
def own_feature(n_models: int) -> Verdict:
    """A feature that has a dimension to itself is learned.

    Statistic: share of models whose only feature, in one dimension, has a norm above 0.5.
    Threshold: above 1/2.
    Size: 8 models (quick), 20 (full).
    Controls: untrained weights.
    """
    cfg = ToyConfig(n_features=1, d_hidden=1)
    start = lab.untrained(cfg, n_models)["W_E"]
    return judge(lab.train_toys(cfg, OneHot(n_features=1), n_models, steps=300).W_E, start)


def judge(W: lab.Stacked, start: lab.Stacked) -> Verdict:
    learned, before = (geometry.represented(w).all(-1).numpy() for w in (W, start))
    return Verdict.of_shares(
        "The share", {"": learned}, n_models=len(W), controls={"untrained": lab.mean(before)}, detail=""
    )
'''


@pytest.mark.usefixtures("register")
def test_a_claim_of_ones_own(tmp_path, monkeypatch, request):
    (tmp_path / "own_claims.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    request.addfinalizer(lambda: sys.modules.pop("own_claims"))
    importlib.import_module("own_claims")
    assert list(claims())[-1] == "own-feature"
    [found] = find(["own-feature"])
    verdict = found.run(quick=True)
    assert (verdict.verdict, verdict.statistic, verdict.n_models) == ("supported", 1.0, 8)
    [result] = runner.reproduce([found], tmp_path, quick=True)  # in another process
    assert result.verdict.record() | {"seconds": 0} == verdict.record() | {"seconds": 0}
