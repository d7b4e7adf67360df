"""The rooms of the house in order, and the path through them, which `python -m tests.house` prints.

A room is a module or a package. It may import the rooms that stand before it and no others; `test_house.py` holds
every import against that. The path is what explains the library. An annex is a room that nobody must enter to
understand it: no room of `tms_hooks` on the path imports one (only the package itself offers `sweep` by name), so toys
train without them. The annexes of `probes` are another matter: its path imports them.
"""

from pathlib import Path

ROOT = Path(__file__).parents[1]

PATH = (
    "errors",
    "progress",
    "files",
    "rng",
    "linalg",
    "own",
    "geometry",
    "config",
    "data",
    "tasks",
    "losses",
    "models",
    "training.optimizers",
    "training",
    "run",
    "train",
)
"""In the order of imports, from the ground up."""
READING = (
    "config",
    "rng",
    "data",
    "tasks",
    "losses",
    "models",
    "training.optimizers",
    "training",
    "train",
    "progress",
    "run",
    "files",
    "errors",
    "own",
    "linalg",
    "geometry",
)
"""The same rooms in the order in which data flow through them."""
ANNEXES = (
    "stats",
    "clusters",
    "sweep",
    "fused",
    "device",
    "theory",
    "landscape",
    "plots",
    "prompts",
    "side_by_side",
    "pages.report",
    "claims",
    "pages",
    "cli",
)
PROBES = (
    "hooked",
    "names",
    "given",
    "liveness",
    "activations",
    "linear",
    "sites",
    "base_run",
    "activation_patching",
    "weight_patching",
    "verification",
    "circuits",
    "bottleneck",
    "alignment",
    "slices",
    "tangent",
)
PROBES_ANNEXES = (
    "calls",
    "transformers",
    "architectures",
    "attribution",
    "logistic",
    "modules",
    "hooked_module",
    "style",
    "render",
)


def files(room: str) -> list[Path]:
    """Source files of a room such as "tms_hooks.data"; those of rooms inside it are not among them."""
    place = ROOT.joinpath(*room.split("."))
    if place.with_suffix(".py").is_file():
        return [place.with_suffix(".py")]
    inner = {ROOT.joinpath(*f"tms_hooks.{name}".split(".")).with_suffix(".py") for name in (*PATH, *ANNEXES)}
    return sorted(set(place.rglob("*.py")) - inner)


def path() -> list[Path]:
    """The files of the path in the order in which to read them."""
    rooms = [*(f"tms_hooks.{name}" for name in READING), *(f"probes.{name}" for name in PROBES)]
    faces = [ROOT / "tms_hooks" / "__init__.py", ROOT / "probes" / "__init__.py"]
    return [*(file for room in rooms for file in files(room)), *faces]


def length(paths: list[Path]) -> int:
    """Lines in these files together."""
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in paths)


if __name__ == "__main__":
    for file in path():
        first = file.read_text(encoding="utf-8").splitlines()[0].strip('"')
        print(f"{length([file]):5}  {file.relative_to(ROOT)!s:42} {first}")
    everything = [file for package in ("tms_hooks", "probes") for file in (ROOT / package).rglob("*.py")]
    print(f"{length(path()):5}  lines in the {len(path())} files of the path; {length(everything):,} in both packages")
