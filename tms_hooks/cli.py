"""`tms`: the command line. Thin: it parses, calls the library and prints tables."""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pandas as pd
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from tms_hooks.config import Activation, ToyConfig
from tms_hooks.data import OneHot, SparseUniform
from tms_hooks.training.optimizers import OPTIMIZERS, Schedule
from tms_hooks.training.recipe import Recipe

if TYPE_CHECKING:
    from tms_hooks.claims.registry import Claim

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Toy models of superposition: train them, name their geometry, set them beside a real transformer.\n\n"
    "Start with `tms demo`.",
)
console = Console()

OptimizerName = Literal["Adam", "AdamW", "SGD", "RMSprop"]


@app.callback()
def configure(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say which engine is used and why.")] = False,
) -> None:
    """Set up logging for every command."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", handlers=[RichHandler(console=Console(stderr=True))])


def tell(text: str, style: str | None = None) -> None:
    """A line as it is: what stands in it, such as a path, may look like markup or an emoji, or be long."""
    console.print(text, style=style, markup=False, emoji=False, soft_wrap=True)


def check_places(*folders: Path | None, size: int = 0) -> None:
    """Refuse, before any work, folders in which nothing could be written."""
    from tms_hooks.files import check_writable

    with usage_errors(OSError):
        for folder in folders:
            if folder is not None:
                check_writable(folder, size)


@contextmanager
def nothing_lost() -> Iterator[None]:
    """A result that could not be written where it should is elsewhere: one line says where, no traceback."""
    try:
        yield
    except OSError as error:
        tell(str(error))
        raise typer.Exit(1) from error


@contextmanager
def usage_errors(*kinds: type[Exception], option: str | None = None) -> Iterator[None]:
    """Errors of these kinds are the user's: one line and exit code 2, no traceback."""
    try:
        yield
    except kinds as error:
        plain = error.args[0] if isinstance(error, KeyError) else error  # the text of a KeyError has quotes around it
        raise typer.BadParameter(str(plain), param_hint=option) from error


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    model: Annotated[str, typer.Option(help="Real transformer: smollm2, gpt2 or a local folder.")] = "smollm2",
    n_models: Annotated[int, typer.Option(min=20, help="Toy models to train for the first section.")] = 400,
) -> None:
    """The main job: what superposition looks like on toys and in a real transformer, on one page.

    Trains a few hundred toys and names their geometries; trains toys with a pseudo-attention head and aligns its
    singular vectors with the feature directions; splits the attention scores of a real transformer's heads into
    singular slices; sets the embed -> unembed bottlenecks of both beside each other. Takes under three minutes.
    """
    from tms_hooks.pages.demo import run_demo

    check_places(out)
    with nothing_lost(), usage_errors(ValueError, ModuleNotFoundError, ConnectionError, option="--model"):
        page, table = run_demo(out, model, n_models, say)
    print_table(table, "What the demo measured")
    tell(f"\nOpen {page} in a browser: figures, attention, and what each number means.")


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="Run directory to write.")],
    n_features: Annotated[int, typer.Option("--n-features", "-n", help="Number of features.")] = 6,
    d_hidden: Annotated[int, typer.Option("--d-hidden", "-m", help="Hidden dimensions.")] = 2,
    data: Annotated[Literal["SparseUniform", "OneHot"], typer.Option(help="What the samples are.")] = "SparseUniform",
    feature_probability: Annotated[
        float | None,
        typer.Option("--feature-probability", "-p", help="Of SparseUniform; sparsity is 1 - p. [default: 0.057]"),
    ] = None,
    tied: Annotated[bool, typer.Option(help="W_U is the transpose of W_E.")] = True,
    output_bias: Annotated[bool, typer.Option(help="Add a bias before the output activation.")] = True,
    output_act: Annotated[Activation, typer.Option(help="Output activation.")] = "relu",
    seeds: Annotated[int, typer.Option(min=1, help="How many models to train, with the seeds 0, 1, 2, ...")] = 100,
    steps: Annotated[int, typer.Option(help="Updates.")] = 10_000,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples per step; default 1024, or all of one-hot data.")
    ] = None,
    optimizer: Annotated[OptimizerName, typer.Option(help="Optimizer.")] = "Adam",
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    schedule: Annotated[Schedule, typer.Option(help="Learning-rate schedule.")] = "constant",
    final_lr: Annotated[float, typer.Option(help="Where the schedule ends.")] = 0.0,
    importance_decay: Annotated[float, typer.Option(help="Importance of feature i is this to the power i.")] = 1.0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints: what was stopped goes on from there, to the same bits.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
) -> None:
    """Train many toy models at once and write a run directory.

    The options are the arguments of `ToyConfig`, the data, the optimizer and `tms_hooks.train`, by name; only
    `--importance-decay` is short for a list: `importance=[decay**i for i in range(n_features)]`.

    Example: `tms train runs/hexagon --seeds 1000` trains the pentagon/hexagon study. Read it back with
    `tms_hooks.load("runs/hexagon")`. Ctrl-C saves what there is; with `--checkpoint`, the same command goes on.
    """
    from tms_hooks.geometry import name_polytope
    from tms_hooks.stats import census
    from tms_hooks.train import train as train_models

    if data == "OneHot" and feature_probability is not None:
        raise typer.BadParameter("--feature-probability: one-hot data has none; leave it out")
    p = 0.057 if feature_probability is None else feature_probability
    with usage_errors(ValueError, OSError):
        settings: dict[str, Any] = {
            "cfg": ToyConfig(
                n_features=n_features, d_hidden=d_hidden, tied=tied, output_bias=output_bias, output_act=output_act
            ),
            "data": OneHot(n_features=n_features)
            if data == "OneHot"
            else SparseUniform(n_features=n_features, feature_probability=p),
            "seeds": range(seeds),
            "steps": steps,
            "batch_size": batch_size,
            "optimizer": OPTIMIZERS[optimizer](lr=lr, schedule=schedule, final_lr=final_lr),
            "importance": [importance_decay**i for i in range(n_features)],
        }
        check_run(out, Recipe.of(**settings), overwrite)
        run = train_models(**settings, checkpoint=checkpoint, progress=console.is_terminal)
    with nothing_lost():
        run.save(out)
    if not run.stopped:
        table = census([name_polytope(W) for W in run.W_E], run.final_loss.numpy(), "held-out loss")
        print_table(table, f"{seeds:,} models after {run.completed_steps:,} steps, {run.provenance['seconds']:.1f} s")
    tell(f"Saved to {out}.")
    if run.stopped:
        tell(f"Stopped at step {run.completed_steps:,} of {run.recipe.total_steps:,}.")
        raise typer.Exit(130)


def check_run(out: Path, recipe: Recipe, overwrite: bool) -> None:
    """Refuse, before training, a place where its run could not be saved, or where another run is.

    Raises:
        OSError: what is wrong with the place.
    """
    from tms_hooks import files
    from tms_hooks import run as runs

    files.check_writable(out, runs.size(recipe))
    runs.check_replaceable(out)
    if overwrite or not (out / runs.RECIPE_FILE).exists():
        return
    there = runs.load(out)
    if there.recipe == recipe and there.stopped:
        return  # this very run, stopped
    raise FileExistsError(
        f"{out} holds {len(there.recipe.seeds):,} models of {there.completed_steps:,} steps: "
        "choose another path, or replace them with --overwrite"
    )


@app.command()
def compare(
    run: Annotated[Path, typer.Argument(help="Run directory, such as `tms train` writes.")],
    model: Annotated[str, typer.Option(help="Real transformer: smollm2, gpt2 or a local folder.")] = "smollm2",
    out: Annotated[Path, typer.Option(help="Folder for the page.")] = Path("comparison"),
) -> None:
    """Set the embed -> unembed bottleneck of trained toys beside a real transformer's: norms and overlaps."""
    import probes
    from tms_hooks.pages import report
    from tms_hooks.pages.demo import bottlenecks
    from tms_hooks.run import load

    check_places(out)
    with usage_errors(ValueError, LookupError, FileNotFoundError, ModuleNotFoundError, ConnectionError):
        toys, real = load(run).models, probes.load_transformer(model)
        section, table = bottlenecks(toys, real, model)
    print_table(table, f"{run.name} beside {model}")
    lead = f"{len(toys):,} toys of {run} and {model}, measured by the same calls."
    with nothing_lost():
        page = report.write(out / "index.html", "Toys beside a transformer", lead, [section], "tms compare")
    tell(f"Open {page} in a browser.")


@app.command()
def sweep(
    grid: Annotated[Path, typer.Argument(help="TOML file.", exists=True, dir_okay=False)],
    store: Annotated[Path, typer.Option(help="Folder of finished runs; what it has is not trained again.")],
    backend: Annotated[Literal["loky", "dask", "ray"], typer.Option(help="Processes here, or a cluster.")] = "loky",
    n_jobs: Annotated[int, typer.Option(help="Runs at a time; -1: as many as the backend has workers.")] = -1,
    address: Annotated[str | None, typer.Option(help="Scheduler of the cluster.")] = None,
) -> None:
    """Train every combination of a grid, on this machine or a cluster. Stop and start it as you like.

    The file has a table `[base]` of settings that all runs share, a table `[grid]` of lists, and `seeds`, a count or a
    list. Settings are those of ToyConfig, the data, the optimizer and train, by name:

        seeds = 10

        [base]
        n_features = 6
        d_hidden = 2

        [grid]
        feature_probability = [0.02, 0.057, 0.2]
        tied = [true, false]
    """
    from tms_hooks.sweep import sweep_toml

    try:
        with usage_errors(ValueError, OSError, ModuleNotFoundError):
            found = sweep_toml(grid.read_text(), store=store, backend=backend, n_jobs=n_jobs, address=address)
    except KeyboardInterrupt:
        tell(f"Stopped. What is finished is in {store}; the same command goes on.")
        raise typer.Exit(130) from None
    loss = found["final_loss"]
    table = pd.DataFrame({"mean loss": loss.mean("seed").to_series(), "least": loss.min("seed").to_series()})
    print_table(table, f"Held-out loss over {loss.sizes['seed']} seeds")
    tell(f"Every run is in {store}; read one with tms_hooks.load.")


Out = Annotated[Path, typer.Option(help="Folder of the finished claims and the page.")]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer models, wider intervals, the same code.")]


@app.command()
def reproduce(
    names: Annotated[list[str], typer.Argument(metavar="CLAIM...", help="Names of claims, or all; see `tms list`.")],
    quick: Quick = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the verdicts to this file.")] = None,
    out: Out = Path("reproduction"),
    n_jobs: Annotated[
        int, typer.Option("--n-jobs", "-j", min=1, help="Claims at a time, each on one thread; changes no result.")
    ] = os.cpu_count() or 1,
) -> None:
    """Measure claims of the source documents over many models: what stands, what falls, what is open.

    Each finished claim is stored in the output folder and not measured again until the code or the size changes: stop
    it with Ctrl-C, and the same command goes on where it stopped. `tms list CLAIM` prints what a claim says and how it
    is decided.

    Example: `tms reproduce all --quick` takes one to two minutes on two cores; `tms reproduce hexagon-norms`
    is one claim in full.
    """
    from rich.progress import track

    from tms_hooks.claims import present
    from tms_hooks.claims import reproduce as runner
    from tms_hooks.pages import claims_page

    chosen = _claims(names)
    check_places(out, json_file and json_file.parent)
    results: dict[str, runner.Result] = {}
    work = closing(runner.reproduce(chosen, out, quick, n_jobs, lambda claim: say(f"measuring {claim.name}")))
    try:
        with work as finished:
            for result in track(finished, "claims", len(chosen), console=console, transient=True):
                results[result.claim.name] = result
                console.print(f"{present.SYMBOLS[result.outcome]} {result.claim.name}: {result.outcome}")
    except KeyboardInterrupt:
        tell(f"Stopped. {len(results)} of {len(chosen)} claims are stored in {out}; the same command goes on.")
        raise typer.Exit(130) from None
    ordered = [results[claim.name] for claim in chosen]
    console.print(present.verdicts(ordered), f"{present.counts(ordered)}.")
    console.print(f"Parts: {present.part_counts(ordered)}. {present.chance(ordered)}")
    for result in ordered:
        if result.failed or not result.verdict:
            console.print(f"\n[bold]{result.claim.name}[/bold]", end=" ")
            console.print(result.failed or result.summary, markup=False)
    with nothing_lost():
        if json_file:
            present.write_json(ordered, json_file)
        claims_page.write_markdown(ordered, out, quick)
        page = claims_page.write_page(ordered, out, quick)
    tell(f"Open {page} in a browser: figures and controls.")
    if any(result.failed for result in ordered):
        raise typer.Exit(1)


@app.command()
def figure(
    name: Annotated[str, typer.Argument(metavar="CLAIM", help="Name of a claim; see `tms list`.")],
    out: Annotated[Path | None, typer.Option(help="File to write: .html, .svg, .png or .pdf. [CLAIM.html]")] = None,
    index: Annotated[int, typer.Option(min=1, help="Which of the claim's figures.")] = 1,
    store: Annotated[Path, typer.Option(help="Folder of the finished claims.")] = Path("reproduction"),
    quick: Quick = False,
) -> None:
    """One figure of a claim alone: a page that can be turned and read, or a picture for a paper.

    It is drawn from the stored verdict; a claim without one is measured first. Pictures need the package kaleido
    (in the extra `report`) and Chrome or Chromium; HTML needs neither.

    Example: `tms figure nine-in-three-d --index 3 --out nine.html`
    """
    from tms_hooks.claims.reproduce import last
    from tms_hooks.claims.reproduce import reproduce as measure
    from tms_hooks.pages import report

    claim, *others = _claims([name])
    if others:
        raise typer.BadParameter("all: their figures are on the page that `tms reproduce all` writes; name one claim")
    out = out or Path(f"{name}.html")
    check_places(out.parent, store)
    found = last(claim, store)
    if found:
        verdict = found.verdict
    else:
        with console.status(f"measuring {name}"):
            [result] = measure([claim], store, quick)
        if result.verdict is None:
            console.print(result.failed or result.summary, markup=False)
            raise typer.Exit(1)
        verdict = result.verdict
    captions = [f"{i}: {caption}" for i, (caption, _) in enumerate(verdict.figures, start=1)]
    if index > len(captions):
        raise typer.BadParameter(f"--index {index}: {name} has {len(captions)}: {' '.join(captions)}")
    with nothing_lost(), usage_errors(ValueError, RuntimeError, option="--out"):
        path = report.write_figure(out, verdict.figures[index - 1][1])
    for caption in captions:
        console.print(caption, style="bold" if caption == captions[index - 1] else "dim", markup=False)
    tell(f"Figure {index} is in {path}.")


@app.command(name="list")
def list_claims(
    names: Annotated[list[str] | None, typer.Argument(metavar="[CLAIM...]", help="Print these in full.")] = None,
    out: Out = Path("reproduction"),
) -> None:
    """All claims, with their source and last verdict; of those named, how each is decided and what came out."""
    from tms_hooks.claims.reproduce import last

    chosen = _claims(names or ["all"])
    stored = {claim.name: last(claim, out) for claim in chosen}
    if names:
        for claim in chosen:
            found = stored[claim.name]
            console.print(f"[bold]{claim.name}[/bold] ({claim.source})")
            console.print(claim.design, markup=False)
            outcome = found.verdict.paragraph if found else f"Not measured yet: tms reproduce {claim.name}"
            console.print(f"\n{outcome}\n", markup=False)
        return
    rows = [(c.source, c.statement, found.verdict.verdict if (found := stored[c.name]) else "") for c in chosen]
    index = pd.Index(stored, name="claim")
    print_table(pd.DataFrame(rows, columns=["source", "statement", "last verdict"], index=index), f"{len(rows)} claims")


def _claims(names: "Iterable[str]") -> "list[Claim]":
    from tms_hooks.claims import find

    with usage_errors(KeyError):
        return find(names)


@app.command()
def theory(
    out: Annotated[Path | None, typer.Option(help="Folder for a page with figures.")] = None,
) -> None:
    """Which polygon theory expects in two dimensions, on paper: nothing is trained.

    The first table holds each F-gon in the limit of one active feature: its change of loss per unit of feature
    probability (gain: the lower, the better), best norm and bias; the textbook argument has unit norms and nearest
    neighbors only. The second holds the corners of the best polygon for n features at feature probability p, from
    exact sums over all patterns of activity.

    Example: `tms theory --out paper` adds a page with the figures, and with the loss landscapes around a pentagon and a
    hexagon. Takes under a minute.
    """
    from rich.progress import track

    from tms_hooks.theory import best_polygon_table, polygon_table

    check_places(out)
    polygons = polygon_table()
    print_table(polygons, "One active feature: gain, norm and bias of the best F-gon")
    features = track(range(4, 11), "summing all patterns", console=Console(stderr=True), transient=True)
    best = best_polygon_table(features)
    print_table(best, "Corners of the best polygon: n features (rows), feature probability p (columns)")
    if out is not None:
        from tms_hooks.pages.theory_page import write_page

        with nothing_lost():
            page = write_page(out, polygons, best, say=say)
        tell(f"\nOpen {page} in a browser.")


def say(what: str) -> None:
    """What is done next."""
    tell(what, style="dim")


def print_table(table: pd.DataFrame, title: str) -> None:
    """A DataFrame as a table on the terminal."""
    from tms_hooks.pages import report

    shown = Table(title=escape(title), title_justify="left")
    shown.add_column(escape(str(table.index.name or "")), no_wrap=True)
    for column in table.columns:
        shown.add_column(
            escape(str(column)), justify="right" if pd.api.types.is_numeric_dtype(table[column]) else "left"
        )
    for name, row in table.iterrows():
        cells = (report.number(v, ".4g") if isinstance(v, float) else str(v) for v in row)
        shown.add_row(*map(escape, (str(name), *cells)))
    console.print(shown)


def main() -> None:
    """Entry point of the `tms` command."""
    app()
