"""A first run outside the checkout, on whatever is installed: `make build` runs it on the bare wheel.

It uses no extra. What needs one must name the line that installs it.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory


def refusal(call: Callable[[], object]) -> str:
    """The message of the error that the call ends in; empty if it ends well."""
    try:
        call()
    except (ImportError, ValueError) as error:
        return str(error)
    return ""


def command(*words: str) -> str:
    """What `tms` prints, which must be results, or an error of the user's, and no traceback."""
    from typer.testing import CliRunner

    from tms_hooks.cli import app

    done = CliRunner().invoke(app, words)
    assert done.exit_code in (0, 2), done.output
    return " ".join(done.output.split())


def main() -> None:
    """Train, save, read, hook and probe a toy; ask for the extras that a newcomer meets first."""
    before = "torch" in sys.modules  # by what is imported first, beside SAELens
    import tms_hooks as tms

    assert "tms-hooks" in command("--version") and ("torch" in sys.modules) == before
    import torch

    import probes

    cfg = tms.ToyConfig(n_features=6, d_hidden=2)
    data = tms.SparseUniform(n_features=6, feature_probability=0.057)
    with TemporaryDirectory() as folder:
        run = tms.train(cfg, data, seeds=range(2), steps=200, optimizer=tms.Adam(lr=0.01), progress=False)
        run.save(Path(folder) / "run")
        assert torch.equal(tms.load(Path(folder) / "run").W_E, run.W_E)
        run.models[1].save_pretrained(Path(folder) / "toy")
        assert torch.equal(tms.ToyModel.from_pretrained(Path(folder) / "toy").W_E, run.W_E[1])
    toy, x = run.models[0], data.sample(8, seed=1)
    _, cache = toy.run_with_cache(x)
    assert torch.equal(cache["hook_hidden"], x @ toy.W_E)
    assert probes.audit_hooks(toy, x).live.any()
    assert tuple(probes.bottleneck(toy, "embed->unembed").write.shape) == (6, 2)
    print(f"{tms.__file__}: a toy trained on the {run.provenance['engine']} engine, saved, read, hooked and probed")
    for library, extra, call in (
        ("numba", "fast", lambda: tms.train(cfg, data, steps=2, engine="fused", progress=False)),
        ("plotly", "plots", lambda: tms.plots),
    ):
        said = refusal(call)
        print(f"with {library}" if not said else f"without {library}: {said}")
        assert bool(said) == (find_spec(library) is None), library
        assert not said or f"pip install 'tms-hooks[{extra}]'" in said, said
    if find_spec("plotly") is None:
        assert "pip install 'tms-hooks[plots]'" in command("demo")
    if find_spec("joblib") is None or find_spec("distributed") is None:
        with TemporaryDirectory() as folder:
            grid = Path(folder) / "grid.toml"
            grid.write_text("[base]\nn_features = 4\nd_hidden = 2\nfeature_probability = 0.1\nsteps = 2\n")
            said = command("sweep", str(grid), "--store", folder, "--backend", "dask")
            assert "pip install 'tms-hooks[sweep]'" in said, said


if __name__ == "__main__":
    main()
