"""The pages of docs/: their code runs, and what they say of hook points is what models have."""

import doctest
import json
import re
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

import probes
import tms_hooks as tms
from tms_hooks.claims import registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
KINDS = DOCS / "kinds"
RUN = [DOCS / "index.md", DOCS / "tasks.md", DOCS / "sweeps.md"]
RUN += [page for folder in ("kinds", "concepts", "guides") for page in sorted((DOCS / folder).glob("*.md"))]
SILENT = "## Points that do not fire"


def of_the_site(name):
    """A module of docs/_site, which is no package; loaded once, or doctest would find its functions elsewhere."""
    if name not in sys.modules:
        spec = spec_from_file_location(name, DOCS / "_site" / f"{name}.py")
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


drawings = of_the_site("drawings")


# Code


def run(page: Path, folder: Path, monkeypatch) -> dict[str, object]:
    """Write the files that a page shows, and run its code from top to bottom in a folder of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(registry, "_claims", dict(registry.claims()))  # a page's own are forgotten
    text = page.read_text(encoding="utf-8")
    space: dict[str, object] = {"__name__": "page"}
    for kind, block in re.findall(r"^```(python|toml)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if kind == "toml":
            Path("grid.toml").write_text(block)
        else:
            exec(compile(block, str(page.relative_to(ROOT)), "exec"), space)
    return space


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_and_prints_whole_tables(page, tmp_path, monkeypatch, capsys):
    assert len(run(page, tmp_path, monkeypatch)) > 3
    hidden = re.compile(r"^.*[a-z].* \.\.\. .*$", re.MULTILINE)  # columns that pandas leaves out; rows it may
    assert hidden.findall(capsys.readouterr().out) == []


def test_every_page_with_code_is_run_by_some_test():
    elsewhere = {"training", "models", "probes", "beside_other_tools", "transformerlens"}  # each by a test of its own
    with_code = {p for p in DOCS.rglob("*.md") if re.search(r"^```python$", p.read_text("utf-8"), re.MULTILINE)}
    assert {page.stem for page in with_code - set(RUN)} <= elsewhere


# Pictures and the gallery


def test_concepts_show_every_picture_that_is_drawn():
    pictures = of_the_site("pictures")
    shown = {
        name for page in (DOCS / "concepts").glob("*.md") for name in re.findall(r"pictures/(\w+)", page.read_text())
    }
    drawn = {make.__name__: make() for make in pictures.FIGURES}
    there = {path.stem: path.read_text(encoding="utf-8")[:300] for path in pictures.OUT.glob("*.svg")}
    assert shown == drawn.keys()
    assert there.keys() == {name + kind for name in shown for kind in ("", "-narrow")}
    assert {float(re.search(r' width="(\d+)"', svg)[1]) for name, svg in there.items() if "-" in name} == {358}
    assert all(len(figure.data) > 0 for figure in drawn.values())
    assert pictures.layout.WRAP == 4
    assert max(path.stat().st_size for path in pictures.OUT.glob("*.svg")) < 100_000


PAGE = """# Claims

| claim | source | statement | outcome | models |
| --- | --- | --- | --- | --- |
| [one](#one) | N | It <holds>. | too few models | 3 |
| [two](#two) | B | It fails. | refuted | 3 |

## one

Of one.

## two

Of two.
"""


def test_the_gallery_has_a_card_for_each_claim_and_its_figures_below(tmp_path, monkeypatch):
    gallery = of_the_site("gallery")
    monkeypatch.setattr(gallery, "INDEX", tmp_path / "figures.json")
    gallery.INDEX.write_text('{"one": [["A < b.", "one-0.webp"]]}')
    made = gallery.gallery(PAGE)
    one, two = re.findall(r'<a href="#(?:one|two)".*?</a>', made)
    assert 'data-outcome="too few models"' in one
    assert 'class="outcome too-few-models"' in one
    assert "It &lt;holds&gt;." in one
    assert 'src="gallery/one-0.webp" alt="one: A &lt; b."' in one
    assert '<span class="name">one</span>' in one
    assert "<img" not in two
    assert '<span class="no-picture"></span>' in two
    measured = PAGE.replace("| models |", "| parts |").replace(
        "| refuted | 3 |", "| refuted | b: refuted, 0.1 [0, 0.2] |"
    )
    assert '<span class="no-picture"><b>0.1</b> [0, 0.2]<br>b</span>' in gallery.gallery(measured)
    assert re.search(r"## one\n\nOf one\.\n\n<figure>.*A &lt; b\..*</figure>\n\n## two\n\nOf two\.\n$", made, re.DOTALL)
    with pytest.raises(ValueError, match="lacks the column statement"):
        gallery.gallery(PAGE.replace("statement", "sentence"))


def test_the_figures_of_the_gallery_are_those_of_claims():
    gallery = of_the_site("gallery")
    names = {claim["name"] for claim in gallery.rows((DOCS / "claims.md").read_text(encoding="utf-8"))}
    kept = json.loads(gallery.INDEX.read_text())
    assert len(names & kept.keys()) > 40
    assert {file for drawn in kept.values() for _, file in drawn} == {p.name for p in gallery.PLACE.glob("*.webp")}


@pytest.mark.parametrize("name", ["docstrings", "drawings", "formulas", "gallery", "offline"])
def test_the_examples_in_the_modules_of_the_site(name):
    result = doctest.testmod(of_the_site(name))
    assert result.attempted > 0
    assert result.failed == 0


# The command line, and installing


def test_the_page_of_the_command_line_has_every_command_with_an_example_and_every_option():
    commands, text = of_the_site("commands"), (DOCS / "command_line.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## tms (\w+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    assert sections.keys() == commands.commands().keys()
    for name, section in sections.items():
        assert f"\ntms {name}" in section
        shown = commands.with_options(section)
        for option in commands.commands()[name].params:
            assert all(f"<code>{written}</code>" in shown for written in option.opts if written.startswith("-"))
            assert len(option.help) > 5
    assert "One of <code>constant</code>" in commands.table("train")
    assert "one per core" in commands.table("reproduce")  # not the cores of whoever built the site
    with pytest.raises(ValueError, match="there is no command 'trian'"):
        commands.with_options("```options\ntrian\n```")


def test_the_page_about_installing_names_every_extra_and_every_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (DOCS / "install.md").read_text(encoding="utf-8")
    brought = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", text, re.MULTILINE))
    extras = project["optional-dependencies"]
    assert brought.keys() == extras.keys()
    for name in ("fast", "plots", "report", "sweep", "smollm2"):
        for library in brought[name].split(", "):
            assert any(each.startswith(library) for each in extras[name]), library
    pythons = re.findall(r":: (3\.\d+)", " ".join(project["classifiers"]))
    assert all(each in text for each in pythons)
    assert all(pin in (ROOT / "Makefile").read_text() for pin in re.findall(r"[\w-]+==[\d.]+", text))


# Hook points


def rows(text: str) -> list[tuple[list[str], list[str]]]:
    """(Names, axes) of every row of a page's tables of hook points."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) >= 3 and re.match(r"`[\w.{}]*hook_", cells[0]):
            names = [name for cell in cells[:-2] for name in re.findall(r"`([^`]+)`", cell)]
            found.append((names, cells[-2].split()))
    return found


def shapes(text: str, sizes: dict[str, int], n_blocks: int) -> dict[str, tuple[int, ...]]:
    """What a page's tables say: the shape of every hook point of a model of so many blocks."""
    return {
        name.replace("{l}", str(block)): tuple(sizes[axis] for axis in axes)
        for names, axes in rows(text)
        for name in names
        for block in range(n_blocks)
    }


def test_the_tables_of_toys_name_every_hook_point_and_its_shape(tmp_path, monkeypatch):
    for page in ("toy", "pseudo_attention", "mlp"):
        space, text = run(KINDS / f"{page}.md", tmp_path, monkeypatch), (KINDS / f"{page}.md").read_text()
        parts = dict(zip(("model", "before"), text.split("## The other places"), strict=False))
        for name, part in parts.items():
            model, x = space[name], space["inputs"]
            cfg = model.cfg
            sizes = {"batch": len(x), "pos": x.shape[1], "query_pos": x.shape[1], "key_pos": x.shape[1]}
            sizes |= {"feature": cfg.n_features, "hidden": cfg.d_hidden, "mlp": cfg.d_mlp}
            sizes |= {"head": cfg.n_heads, "d_head": cfg.d_head}
            assert len(set(sizes.values())) >= 5
            said = shapes(part, sizes, cfg.n_mlps)
            _, cache = model.run_with_cache(x)
            assert {hook: tuple(cache[hook].shape) for hook in model.hook_dict} == said
            audit = probes.audit_hooks(model, x)
            assert audit.live.all()


def test_all_places_of_an_mlp_have_the_hook_points_that_are_said_of_both():
    text = (KINDS / "mlp.md").read_text().split("## The other places")[1]
    for place in ("embed->mlp.in", "mlp.out->unembed"):
        cfg = tms.ToyConfig(n_features=7, d_hidden=3, d_mlp=11, bottleneck=place)
        assert set(tms.ToyModel(cfg).hook_dict) == {name for names, _ in rows(text) for name in names}


@pytest.mark.parametrize("name", ["tiny", pytest.param("smollm2", marks=pytest.mark.real_weights)])
def test_the_table_of_a_transformer_names_every_hook_point_and_its_shape(name):
    text = (KINDS / "transformer.md").read_text()
    fires, silent = text.split(SILENT)
    silent = set(re.findall(r"`([\w.{}]*hook_\w+)`", silent))
    model = probes.load_transformer(name)
    cfg = model.cfg
    n_keys = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
    sizes = {"batch": 2, "pos": 5, "query_pos": 5, "key_pos": 5, "one": 1, "head": cfg.n_heads, "kv_head": n_keys}
    sizes |= {"d_model": cfg.d_model, "d_head": cfg.d_head, "d_mlp": cfg.d_mlp, "d_vocab": cfg.d_vocab}
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.arange(10).view(2, 5))
    there = {hook for hook in model.hook_dict if not re.match(r"blocks\.[^0]", hook)}
    said = {hook: shape for hook, shape in shapes(fires, sizes, 1).items() if hook in there}
    named = {each.replace("{l}", "0") for each in silent}
    firing = {hook for hook in there if hook in cache}
    assert there - firing <= named
    assert firing - said.keys() <= ({"hook_pos_embed"} if name == "tiny" else set())
    assert {hook: tuple(cache[hook].shape) for hook in said} == said
    for names, _ in rows(fires):
        same = {id(model.hook_dict[each.replace("{l}", "0")]) for each in names if each.replace("{l}", "0") in there}
        assert len(same) <= 1, f"{names} are not one point"


@pytest.mark.parametrize("page", sorted(KINDS.glob("*.md")), ids=lambda page: page.stem)
def test_a_drawing_shows_hook_points_of_the_table(page):
    text = page.read_text()
    [drawn] = drawings.hook_names(text)
    table = {name.replace("{l}", "0") for names, _ in rows(text) for name in names}
    assert len(drawn) >= 4
    assert set(drawn) <= table
    if page.stem != "transformer":  # whose drawing leaves out what a norm or a copy adds
        first = {name for names, _ in rows(text.split("## The other")[0]) for name in names}
        assert set(drawn) == {name.replace("{l}", "0") for name in first}


def test_a_wrong_table_and_a_wrong_drawing_are_found():
    text = "| `hook_embed` | batch hidden | x |\n| `blocks.{l}.hook_in` | `blocks.{l}.x.hook_y` | batch | z |"
    assert shapes(text, {"batch": 3, "hidden": 2}, 2) == {
        "hook_embed": (3, 2),
        "blocks.0.hook_in": (3,),
        "blocks.1.hook_in": (3,),
        "blocks.0.x.hook_y": (3,),
        "blocks.1.x.hook_y": (3,),
    }
    with pytest.raises(ValueError, match="adds nothing"):
        drawings.svg("[a]\n+")
