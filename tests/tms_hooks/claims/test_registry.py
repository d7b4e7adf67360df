"""The registry: what a claim must state, in which order claims are listed, and claims of one's own."""

import importlib
import re
import sys
from pathlib import Path

import planned
import pytest
import torch

from tms_hooks import OneHot, ToyConfig
from tms_hooks.claims import Verdict, claim, claims, convergence, find, lab, registry, seeds
from tms_hooks.claims import reproduce as runner
from tms_hooks.models.forward import init_weights

DESIGN = "All is well. Statistic: a share. Threshold: above 1/2. Null: untrained. Size: 1. Controls: none."


def measure_with(design: str = DESIGN):
    """A function of this docstring."""

    def measure(n_models: int) -> Verdict:
        raise AssertionError("nobody runs it")

    measure.__doc__ = design
    return measure


@pytest.fixture
def register(monkeypatch):
    """`claim` on a registry that is forgotten afterwards."""
    monkeypatch.setattr(registry, "_claims", dict(claims()))
    return lambda measure, name="new": claim(name, "H", quick=1, full=1)(measure)


def test_every_claim_states_its_size_and_design_first():
    for name, made in claims().items():
        size = made.design.split("Size:")[1].split("Controls:")[0]
        assert re.search(rf"\b{made.quick} .*\(quick\), {made.full} .*\(full\)", " ".join(size.split())), name
        assert made.statement.endswith("."), name


def test_a_claim_that_leaves_something_out_is_refused(register):
    with pytest.raises(ValueError, match=r"claim 'new': the docstring lacks .Controls:.; state that"):
        register(measure_with(DESIGN.replace("Controls", "Checks")))
    assert "new" not in claims()


def test_a_name_is_taken_once(register):
    with pytest.raises(ValueError, match="registered twice"):
        register(measure_with(), name="hexagon-norms")


def test_a_cell_that_is_run_again_takes_its_own_place(register):
    first, again = (measure_with() for _ in range(2))
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
    assert (found.claim, found.sole.needs) == ("threads", ("above", 0.5))
    assert found.seconds > 0


OWN = '''
"""A claim of one's own."""

from tms_hooks import OneHot, ToyConfig, geometry
from tms_hooks.claims import Verdict, claim, lab, share


@claim("own-feature", "a notebook of mine", quick=8, full=20)
def own_feature(n_models: int) -> Verdict:
    """A feature that has a dimension to itself is learned.

    Statistic: share of models whose only feature, in one dimension, has a norm above 0.9.
    Threshold: above 1/2.
    Null: untrained models.
    Size: 8 models (quick), 20 (full).
    Controls: untrained weights.
    """
    cfg = ToyConfig(n_features=1, d_hidden=1, output_bias=False)
    start = lab.untrained(cfg, n_models)["W_E"]
    return judge(lab.train_toys(cfg, OneHot(n_features=1), n_models, steps=300).W_E, start)


def judge(W: lab.Stacked, start: lab.Stacked) -> Verdict:
    learned, before = (geometry.represented(w, 0.9).all(-1).numpy() for w in (W, start))
    return Verdict(parts={"all": share("The share", learned, null=before)}, n_models=len(W), controls={}, detail="")
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
    assert (verdict.verdict, verdict.sole.statistic, verdict.n_models) == ("supported", 1.0, 8)
    [result] = runner.reproduce([found], tmp_path, quick=True)  # in another process
    apart = {"seconds": 0, "commit": ""}
    assert result.verdict.record() | apart == verdict.record() | apart


def test_what_claims_draw_moves_with_the_seed():
    alone = {"seeds.py", "lab.py"}  # whose one generator spreads points of numerical integration
    folder = Path(seeds.__file__).parent
    fixed = re.compile(
        r"manual_seed\(|default_rng\((?!seeds\.)|random_(rotations|directions)\((?!.*seeds\.)|Generator\(\)"
    )
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted(folder.glob("*.py"))
        if path.name not in alone
        for line in path.read_text().splitlines()
        if fixed.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("first", [0, 40])
def test_what_claims_train_moves_with_the_seed(first):
    cfg, data = ToyConfig(n_features=3, d_hidden=2), OneHot(n_features=3)
    with seeds.starting_at(first):
        run = lab.train_toys(cfg, data, 2, steps=3)
        again = lab.train_from(cfg, data, list(run.models), steps=3)
        start = lab.untrained(cfg, 2)["W_E"]
    assert run.recipe.seeds == again.recipe.seeds == (first, first + 1)
    assert torch.equal(start, torch.stack([init_weights(cfg, seed)["W_E"] for seed in (first, first + 1)]))
    assert seeds.first() == 0


def test_what_is_measured_without_training_is_measured_once_for_each_seed():
    measured = []

    @seeds.remembered
    def measure(n: int) -> int:
        measured.append((seeds.first(), n))
        return n + seeds.first()

    with convergence.longer(3):
        assert measure(2) == measure(2) == 2
    with seeds.starting_at(40):
        assert (measure(2), measure(3)) == (42, 43)
    assert measure(2) == 2
    assert measured == [(0, 2), (40, 2), (40, 3)]
