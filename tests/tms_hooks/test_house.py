"""The house rules that a program can check: one-way rooms, light imports, no global seeding."""

import ast
import shutil
from collections.abc import Iterator, Mapping

import pytest

from tests.house import ANNEXES, PATH, PROBES_ANNEXES, READING, ROOT, length, path

ROOMS = ("tms_hooks", "probes", *(f"tms_hooks.{room}" for room in (*PATH, *ANNEXES)))
# Doors to annexes: `train` asks for the compiled engine, another device or the exact loss when it trains; so does the
# torch engine for batches that are drawn in compiled code. And the one door upwards: a run is asked to go on, and
# `train` goes on with it.
DOORS = {
    ("tms_hooks.train", "tms_hooks.fused"),
    ("tms_hooks.training", "tms_hooks.fused"),
    ("tms_hooks.train", "tms_hooks.device"),
    ("tms_hooks.train", "tms_hooks.landscape"),
    ("tms_hooks.run", "tms_hooks.train"),
}
SEE_BOTH_PACKAGES = (
    "tms_hooks.side_by_side",
    "tms_hooks.claims",
    "tms_hooks.plots",
    "tms_hooks.pages",
    "tms_hooks.cli",
)
MAY_IMPORT_TRANSFORMERS = ("tms_hooks.models", "probes.transformers", "probes.hooked_module")
HEAVY = {"transformer_lens", "transformers", "plotly", "circuitsvis", "sklearn", "numba", "dask", "joblib"}


def room_of(module: str) -> str:
    rooms = [room for room in ROOMS if module == room or module.startswith(f"{room}.")]
    room = max(rooms, key=len, default="")
    is_new = room == "tms_hooks" and module != "tms_hooks"
    return "" if is_new else room


def imports(module: str, source: str, is_package: bool, modules: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Every module that `source` imports, wherever the statement stands, and whether it runs at import time."""
    tree = ast.parse(source)
    in_functions = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        at_import = id(node) not in in_functions
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, at_import
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield (name if name in modules else base), at_import


def may_import(room: str, other: str, at_import: bool) -> bool:
    """Whether a room may import from another: itself, one above it in `PATH`; an annex also those before it."""
    if room in ("tms_hooks", other) or ((room, other) in DOORS and not at_import):
        return True
    if room == "probes" or other == "tms_hooks":
        return False
    order = [f"tms_hooks.{name}" for name in (*PATH, *ANNEXES)]
    return order.index(other) < order.index(room)


def violations(modules: Mapping[str, str]) -> list[str]:
    """Imports against the rules, of sources by module name (packages end in `.__init__`)."""
    sources = {name.removesuffix(".__init__"): source for name, source in modules.items()}
    packages = {name.removesuffix(".__init__") for name in modules if name.endswith(".__init__")}
    found = []
    for module, source in sources.items():
        room = room_of(module)
        if not room:
            found.append(f"{module} is in no room: add it to ROOMS with what it may import")
            continue
        for target, at_import in imports(module, source, module in packages, sources):
            top = target.split(".")[0]
            slow = top in ("transformer_lens", "transformers") and (at_import or room != "probes")
            if slow and not module.startswith(MAY_IMPORT_TRANSFORMERS):
                found.append(f"{module} imports {target}: only {' and '.join(MAY_IMPORT_TRANSFORMERS)} may")
            if top == "probes" and room != "probes" and not module.startswith(SEE_BOTH_PACKAGES):
                found.append(f"{module} imports {target}: only {', '.join(SEE_BOTH_PACKAGES)} see both packages")
            if top == "tms_hooks" and not may_import(room, room_of(target), at_import):
                found.append(f"{module} imports {target}: {room} may not")
    return found


def our_modules() -> dict[str, str]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text()
        for package in ("tms_hooks", "probes")
        for path in (ROOT / package).rglob("*.py")
    }


MOST_FILES, MOST_LINES = 54, 11_410
"""An evening's reading. The rebuilt house stood at 45 and 5,500; since then came, in lines:

- in probes, `verification` (150) and what it let circuits, slices and bottlenecks check (240); an audit that goes on
  behind a hook that breaks the model, and axes by name (120); prompts of several lengths, groups, masks, any splits and
  refusals of linear probes, sites by any index (270); alignment of bottlenecks, of single directions and with tokens,
  slices that are taken away, what others have saved (370); modules of one's own (170);
- in probes again: positions before a patch that are not computed, copies with what their functions close over, ends
  that `nearest_tokens` verifies, refusals of inputs and weights without numbers (230);
- in toys, `models.hooks`: caches like a bridge's (230); biased heads, weighed pairs, a residual stream, other outputs
  than features (200);
- in training, `own`, `data.structured`, six tasks, losses and values for questions of one's own (900); settings per
  model, decay and pull, `training.penalties`, `run.table` (450); runs that go on, histories of every parameter, samples
  as data and answers to what people type (560);
- gradients by hand of `Lp`, of scores and of layers, costs for the compiled engine (65);
- single toys as folders of Hugging Face's kind (110), progress in plain lines (40);
- in files, seals and locks, and runs, checkpoints and Ctrl-C that rest on them (300); numbers of the wrong type or
  size, which are named everywhere (50); tokens, devices and folders that are, and hints of a run (90);
- in data and training, losses of rare features by strata, and in proportion (110); `given`, which `recipe` held before;
  `by_hand`, and rows that are drawn ahead, for losses of one's own (330); gradients by hand of MLPs, heads, GELU and
  penalties (150);
- in probes, `given`: arrays, lists and counts of any kind, and parts that fit where prompts are long (150); layers that
  are used twice, models that mix examples or turn by a prompt's length, heads verified by too few numbers (70);
- in data and training, draws of a step that is a tensor, and constants that are on a device once (170).

Whoever raises these says here what for."""


def test_the_path_is_read_whole():
    assert set(READING) == set(PATH)
    read, there = path(), {ROOT.joinpath(*name.split(".")) for name in our_modules() if room_of(name) != ""}
    assert len(read) == len(set(read)) <= MOST_FILES
    assert length(read) <= MOST_LINES
    annexes = {f"tms_hooks.{name}" for name in ANNEXES} | {f"probes.{n}" for n in PROBES_ANNEXES}
    left = {file.relative_to(ROOT).with_suffix("") for file in read}
    for module in there:
        name = ".".join(module.relative_to(ROOT).parts)
        in_annex = any(name == annex or name.startswith(f"{annex}.") for annex in annexes)
        assert in_annex or module.relative_to(ROOT) in left, f"{name} is neither on the path nor in an annex"


def test_dependencies_between_rooms_run_one_way():
    assert violations(our_modules()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tms_hooks.geometry", "from tms_hooks.config import ToyConfig"),
        ("tms_hooks.geometry.polytopes", "def f():\n    from tms_hooks import data"),
        ("tms_hooks.losses", "import tms_hooks.models.forward"),
        ("tms_hooks.data", "from ..tasks import Task"),
        ("tms_hooks.config", "from tms_hooks import ToyModel"),
        ("tms_hooks.train", "from tms_hooks.fused import engine"),
        ("tms_hooks.run", "def f():\n    from tms_hooks.fused import engine"),
        ("tms_hooks.geometry", "from tms_hooks import theory"),
        ("tms_hooks.models.toy", "from ..training import recipe"),
        ("tms_hooks.models.__init__", "from ..training import recipe"),
        ("tms_hooks.training.recipe", "from tms_hooks.run import Run"),
        ("tms_hooks.training.optimizers", "from tms_hooks.training.recipe import Recipe"),
        ("tms_hooks.plots", "from tms_hooks.claims import registry"),
        ("tms_hooks.train", "import probes"),
        ("tms_hooks.geometry", "from probes.alignment import align"),
        ("probes.hooked", "from tms_hooks.errors import did_you_mean"),
        ("probes.transformers", "import tms_hooks"),
        ("probes.hooked", "import transformer_lens"),
        ("tms_hooks.run", "def f():\n    from transformer_lens.hook_points import HookPoint"),
        ("tms_hooks.cli", "from transformers import AutoModel"),
        ("tms_hooks.attic", ""),
    ],
)
def test_the_rule_can_be_broken(module, source):
    modules = our_modules()
    modules[module] = source
    assert len(violations(modules)) == 1
    assert violations(modules)[0].startswith(module.removesuffix(".__init__"))


def test_what_the_rule_allows():
    assert violations(our_modules() | {"tms_hooks.claims.x": "import probes\nfrom tms_hooks.train import train"}) == []
    assert violations(our_modules() | {"probes.linear": "from probes.hooked import HookedModel\nimport sklearn"}) == []
    # TransformerLens's own tools, when they are asked for.
    assert violations(our_modules() | {"probes.x": "def f():\n    from transformer_lens import FactoredMatrix"}) == []


PUBLIC = {"sweep", "clusters"}  # annexes for the reader that the public face offers by name


def test_without_annexes_every_room_of_the_path_is_there_and_trains(run_python, tmp_path):
    gone = {room.split(".")[0] for room in ANNEXES} - PUBLIC
    ignored = shutil.ignore_patterns("__pycache__", *gone, *(f"{room}.py" for room in gone))
    for package in ("tms_hooks", "probes"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    assert {"fused", "theory", "claims"} <= gone
    assert not (tmp_path / "tms_hooks" / "fused").exists()
    rooms = sorted(name.removesuffix(".__init__") for name in our_modules() if room_of(name)[10:] in PATH)
    script = f"""
import {", ".join(rooms)}
import tms_hooks as tms
cfg, data = tms.ToyConfig(n_features=3, d_hidden=2), tms.OneHot(n_features=3)
print(tms.__file__, tms.train(cfg, data, steps=2).provenance["engine"])
try:
    tms.train(cfg, data, steps=2, engine="fused")
except ValueError as error:
    print(error)
"""
    lines = run_python(script, tmp_path).splitlines()
    assert lines[0] == f"{tmp_path / 'tms_hooks' / '__init__.py'} torch"
    assert "engine='fused' cannot run this: it is not installed" in lines[1]


# Imports that a user waits for

WHAT_IS_LOADED = "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"


def test_imports_are_light(run_python):
    loaded = set(run_python(f"import tms_hooks, probes, tms_hooks.cli{WHAT_IS_LOADED}").split())
    assert not loaded & HEAVY


def test_the_check_of_light_imports_can_fail(run_python):
    loaded = set(run_python(f"import tms_hooks, sklearn; tms_hooks.ToyModel{WHAT_IS_LOADED}").split())
    assert {"transformer_lens", "sklearn"} <= loaded & HEAVY


# Randomness

DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}
IN_PLACE = {"normal_", "uniform_", "bernoulli_", "random_", "exponential_"}
NUMPY_LOCAL = {"default_rng", "Generator", "SeedSequence", "Philox", "PCG64", "BitGenerator"}


def global_randomness(source: str) -> list[str]:
    """Calls that seed or draw from a generator that everybody shares."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        text, name = ast.unparse(node.func), node.func.attr
        given = {keyword.arg for keyword in node.keywords}
        seeds = text in ("torch.manual_seed", "torch.seed", "random.seed", "np.random.seed", "numpy.random.seed")
        seeds = seeds or text.startswith(("torch.cuda.manual_seed", "torch.random.manual_seed"))
        draws = (text == f"torch.{name}" and name in DRAWS) or name in IN_PLACE
        legacy = text in (f"np.random.{name}", f"numpy.random.{name}") and name not in NUMPY_LOCAL
        if seeds or legacy or (draws and "generator" not in given) or text.startswith("random."):
            found.append(text)
    return found


def test_no_global_seeding_and_no_global_draws():
    assert {name: found for name, source in our_modules().items() if (found := global_randomness(source))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "torch.manual_seed(0)",
        "np.random.seed(0)",
        "numpy.random.rand(3)",
        "random.seed(1)",
        "torch.cuda.manual_seed_all(0)",
        "torch.randn(3)",
        "torch.empty(3).normal_()",
        "random.random()",
    ],
)
def test_the_check_of_randomness_can_fail(source):
    assert len(global_randomness(source)) == 1


@pytest.mark.parametrize(
    "source",
    ["torch.Generator().manual_seed(0)", "torch.randn(3, generator=g)", "np.random.default_rng(0).normal(size=3)"],
)
def test_local_randomness_is_fine(source):
    assert global_randomness(source) == []
