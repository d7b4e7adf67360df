"""The commands of `tms`: each parses its options, calls the library and prints what came out."""

import logging
import os
import sys
import warnings
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from tms_hooks.cli.options import (
    COUNT,
    Activation,
    FirstSeed,
    Json,
    Model,
    OptimizerName,
    Out,
    Quick,
    Schedule,
    Verbose,
    check_extras,
    check_page,
    check_places,
    folder_of,
    number,
    print_version,
    usage_errors,
)
from tms_hooks.cli.printing import (
    Aside,
    aside,
    console,
    nothing_lost,
    print_table,
    records,
    say,
    show,
    tell,
    write_json,
)

if TYPE_CHECKING:
    from tms_hooks.claims.registry import Claim
    from tms_hooks.run import Run
    from tms_hooks.training.recipe import Recipe

CALLED = {"--epochs": "--steps", "--learning-rate": "--lr", "--sparsity": "--feature-probability"}
"""What an option is called elsewhere, and here."""


class Commands(TyperGroup):
    """The commands; an option that none has is answered with the one that was meant."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Exception as raised:
            error: Any = raised  # its class has moved between versions of typer
            name = getattr(error, "option_name", "") if getattr(error, "ctx", None) else ""  # none: it lacks a value
            known = {opt for param in error.ctx.command.params for opt in param.opts} if name else set()
            if name not in known and (meant := CALLED.get(name, name[1:])) in known:  # -p, of --p
                error.message, error.possibilities = f"No such option: {name}; did you mean {meant}?", None
            raise


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # its boxes cut the names of options at 80 columns
    pretty_exceptions_enable=False,  # what is not a user's mistake is a bug: its traceback as Python prints it
    help="Toy models of superposition: train them, name their geometry, set them beside a real transformer.\n\n"
    "Start with `tms demo`. Every command's `--help` has an example.",
    epilog="Exit codes: 0, done; 1, something failed: a claim, or a result that could not be written; 2, a wrong "
    "option or input, told before any work; 130, stopped by Ctrl-C. Results go to standard output, progress to "
    "standard error: plain lines where it is no terminal, no color where NO_COLOR is set.\n\n"
    "Folders that are missing are made, and the command says which. A run is replaced only with --overwrite; a page is "
    "made anew over an earlier page of these commands, and over no other file; the file that --json names, or --out of "
    "a picture, is replaced.",
)


@app.callback()
def configure(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Set up logging for every command."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[Aside()])


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    model: Model = "smollm2",
    n_models: Annotated[
        int, typer.Option(help="Toy models to train for the first section.", **number(whole=True, least=20))
    ] = 400,
    json_file: Json = None,
) -> None:
    """Toys beside a real transformer, on one page: the main job.

    Trains a few hundred toys and names their geometries; trains toys with a pseudo-attention head and aligns its
    singular vectors with the feature directions; splits the attention scores of a real transformer's heads into
    singular slices; sets the embed -> unembed bottlenecks of both beside each other. Takes under three minutes.

    Example: `tms demo --model gpt2 --out gpt2-report`
    """
    check_places(out, folder_of(json_file))
    check_page(out / "index.html")
    check_extras(plotly="plots")
    from tms_hooks.pages.demo import run_demo

    with nothing_lost(), usage_errors(ValueError, ImportError, ConnectionError, option="--model"):
        page, table = run_demo(out, model, n_models, say)
    print_table(table, "What the demo measured")
    write_json(records(table.rename_axis("measured")), json_file)
    tell(f"\nOpen {page} in a browser: figures, attention, and what each number means.")


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="Run directory to write.")],
    n_features: Annotated[int, typer.Option("--n-features", "-n", help="Number of features.", **number(**COUNT))] = 6,
    d_hidden: Annotated[int, typer.Option("--d-hidden", "-m", help="Hidden dimensions.", **number(**COUNT))] = 2,
    data: Annotated[
        Literal["SparseUniform", "OneHot"], typer.Option(case_sensitive=False, help="What the samples are.")
    ] = "SparseUniform",
    feature_probability: Annotated[
        float | None,
        typer.Option(
            "--feature-probability",
            "-p",
            help="Of SparseUniform; sparsity is 1 - p. [default: 0.057]",
            **number(such_as="0.1"),
        ),
    ] = None,
    tied: Annotated[bool, typer.Option(help="W_U is the transpose of W_E.")] = True,
    output_bias: Annotated[bool, typer.Option(help="Add a bias before the output activation.")] = True,
    output_act: Annotated[Activation, typer.Option(case_sensitive=False, help="Output activation.")] = "relu",
    seeds: Annotated[
        int, typer.Option(help="How many models to train, each with a seed of its own.", **number(**COUNT))
    ] = 100,
    seed: FirstSeed = 0,
    steps: Annotated[int, typer.Option(help="Updates.", **number(**COUNT))] = 10_000,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Samples per step; default 1024, or all of one-hot data.", **number(**COUNT)),
    ] = None,
    optimizer: Annotated[OptimizerName, typer.Option(case_sensitive=False, help="Optimizer.")] = "Adam",
    lr: Annotated[float, typer.Option(help="Peak learning rate.", **number(such_as="0.001"))] = 1e-3,
    schedule: Annotated[Schedule, typer.Option(case_sensitive=False, help="Learning-rate schedule.")] = "constant",
    final_lr: Annotated[float, typer.Option(help="Where the schedule ends.", **number(least=0))] = 0.0,
    importance_decay: Annotated[
        float, typer.Option(help="Importance of feature i is this to the power i.", **number(least=0, such_as="0.9"))
    ] = 1.0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints: what was stopped goes on from there, to the same bits.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
    verbose: Verbose = False,
    json_file: Json = None,
) -> None:
    """Train many toy models at once and write a run directory.

    The options are the arguments of `ToyConfig`, the data, the optimizer and `tms_hooks.train`, by name; only
    `--importance-decay` is short for a list: `importance=[decay**i for i in range(n_features)]`.

    Example: `tms train runs/hexagon --seeds 1000` trains the pentagon/hexagon study. Read it back with
    `tms_hooks.load("runs/hexagon")`. Ctrl-C saves what there is; with `--checkpoint`, the same command goes on.
    """
    from tms_hooks.config import ToyConfig
    from tms_hooks.data import OneHot, SparseUniform
    from tms_hooks.geometry import name_polytope
    from tms_hooks.stats import census
    from tms_hooks.train import train as train_models
    from tms_hooks.training.optimizers import OPTIMIZERS
    from tms_hooks.training.recipe import Recipe

    check_places(out.parent, checkpoint, folder_of(json_file))
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
            "seeds": range(seed, seed + seeds),
            "steps": steps,
            "batch_size": batch_size,
            "optimizer": OPTIMIZERS[optimizer](lr=lr, schedule=schedule, final_lr=final_lr),
            "importance": [importance_decay**i for i in range(n_features)],
        }
        check_run(out, Recipe.of(**settings), overwrite)
        run = train_models(**settings, checkpoint=checkpoint, progress=True)
    with nothing_lost():
        run.save(out)
    tell(f"Saved to {out}.")
    if not run.stopped:
        table = census([name_polytope(W) for W in run.W_E], run.final_loss.numpy(), "held-out loss")
        print_table(table, f"{seeds:,} models after {run.completed_steps:,} steps, {run.provenance['seconds']:.1f} s")
    if json_file is not None:  # naming what models make takes seconds, which Ctrl-C need not wait for
        write_json(about(run, out), json_file)
    if run.stopped:
        tell(f"Stopped at step {run.completed_steps:,} of {run.recipe.total_steps:,}.")
        raise typer.Exit(130)


def about(run: "Run", path: Path) -> dict[str, Any]:
    """A run for programs: where it is, how far it came, and a row per model."""
    return {
        "run": str(path),
        "completed_steps": run.completed_steps,
        "stopped": run.stopped,
        "seconds": run.provenance["seconds"],
        "models": records(run.table),
    }


def check_run(out: Path, recipe: "Recipe", overwrite: bool) -> None:
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
    model: Model = "smollm2",
    out: Annotated[Path, typer.Option(help="Folder for the page.")] = Path("comparison"),
    json_file: Json = None,
) -> None:
    """A run's bottleneck beside a real transformer's.

    From embedding to unembedding: norms, and overlaps against the least possible.

    Example: `tms train runs/hexagon`, then `tms compare runs/hexagon --model gpt2`
    """
    check_places(out, folder_of(json_file))
    check_page(out / "index.html")
    check_extras(plotly="plots")
    import probes
    from tms_hooks.pages import report
    from tms_hooks.pages.demo import bottlenecks
    from tms_hooks.run import load

    with usage_errors(ValueError, LookupError, FileNotFoundError, ImportError, ConnectionError):
        trained = load(run)
        say(f"loading {model}")
        real = probes.load_transformer(model)
        section, table = bottlenecks(trained.models, real, model)
    loss = trained.final_loss
    how_far = (
        f"{len(loss):,} toy{'s' * (len(loss) > 1)} of {run}, after {trained.completed_steps:,} steps, held-out loss "
        f"{loss.min():.4g} to {loss.max():.4g}"
    )
    print_table(table, f"{run.name} beside {model}")
    tell(f"{how_far}.")
    measured = records(section.table.rename_axis("quantity")) if section.table is not None else []
    reached = {"completed_steps": trained.completed_steps, "final_loss": loss.tolist()}
    write_json(reached | {"measured": measured}, json_file)
    lead = f"{how_far}, and {model}: measured by the same calls."
    with nothing_lost():
        page = report.write(out / "index.html", "Toys beside a transformer", lead, [section], "tms compare")
    tell(f"Open {page} in a browser.")


@app.command()
def sweep(
    grid: Annotated[Path, typer.Argument(help="TOML file.", exists=True, dir_okay=False)],
    store: Annotated[Path, typer.Option(help="Folder of finished runs; what it has is not trained again.")],
    backend: Annotated[Literal["loky", "dask", "ray"], typer.Option(help="Processes here, or a cluster.")] = "loky",
    n_jobs: Annotated[
        int,
        typer.Option(help="Runs at a time; -1: as many as the backend has workers.", **number(whole=True, least=-1)),
    ] = -1,
    address: Annotated[str | None, typer.Option(help="Scheduler of the cluster.")] = None,
    json_file: Json = None,
    verbose: Verbose = False,
) -> None:
    """Train every combination of a grid, here or on a cluster. Stop and start it as you like.

    The file has a table `[base]` of settings that all runs share, a table `[grid]` of lists, and `seeds`, a count or a
    list. Settings are those of ToyConfig, the data, the optimizer and train, by name:

    \b
        seeds = 10
        [base]
        n_features = 6
        d_hidden = 2
        [grid]
        feature_probability = [0.02, 0.057, 0.2]
        tied = [true, false]

    Example: `tms sweep grid.toml --store runs --json results.json`
    """
    check_places(store, folder_of(json_file))
    from tms_hooks.sweep import sweep_toml

    where = {"backend": backend, "n_jobs": n_jobs, "address": address}
    try:
        with usage_errors(ValueError, OSError, ImportError):
            found = sweep_toml(grid.read_text(), store=store, **where, progress=True)
    except KeyboardInterrupt:
        tell(
            f"Stopped. Finished shards are in {store}, and the same command goes on with the others; what those that "
            "were in training had reached is not kept."
        )
        raise typer.Exit(130) from None
    found = found if found["shard"].dims else found.expand_dims(grid=["base"])  # without an axis there is one row
    loss = found["final_loss"]
    table = found[["shard"]].assign({"mean loss": loss.mean("seed"), "least": loss.min("seed")}).to_dataframe()
    print_table(table[["mean loss", "least", "shard"]], f"Held-out loss over {loss.sizes['seed']} seeds")
    tell(f"Every shard is a run in {store}; read one with tms_hooks.load.")
    write_json(records(table), json_file)


@app.command()
def reproduce(
    names: Annotated[list[str], typer.Argument(metavar="CLAIM...", help="Names of claims, or all; see `tms list`.")],
    quick: Quick = False,
    json_file: Json = None,
    out: Out = Path("reproduction"),
    n_jobs: Annotated[
        int,
        typer.Option(
            "--n-jobs",
            "-j",
            help="Claims at a time, each on one thread; no result changes.",
            show_default="one per core",
            **number(**COUNT),
        ),
    ] = os.cpu_count() or 1,
    seed: FirstSeed = 0,
) -> None:
    """Measure claims: what stands, what falls, what is open.

    A claim is a statement of one of the source documents; it is decided over many models.

    Each finished claim is stored in the output folder and not measured again until the code, the size or the seeds
    change: stop it with Ctrl-C, and the same command goes on where it stopped. `tms list CLAIM` prints what a claim
    says and how it is decided.

    Example: `tms reproduce all --quick` takes one to two minutes on two cores; `tms reproduce hexagon-norms`
    is one claim in full; with `--seed 100000 --out again` on other models.
    """
    from rich.progress import track

    check_extras(plotly="plots")
    from tms_hooks.claims import present
    from tms_hooks.claims import reproduce as runner
    from tms_hooks.pages import claims_page

    chosen = _claims(names)
    check_places(out, folder_of(json_file))
    check_page(out / "index.html")
    results: dict[str, runner.Result] = {}
    work = closing(runner.reproduce(chosen, out, quick, n_jobs, seed, lambda claim: say(f"measuring {claim.name}")))
    try:
        with work as finished:
            for result in track(finished, "claims", len(chosen), console=aside, transient=True):
                results[result.claim.name] = result
                console.print(f"{present.SYMBOLS[result.outcome]} {result.claim.name}: {result.outcome}")
    except KeyboardInterrupt:
        tell(f"Stopped. {len(results)} of {len(chosen)} claims are stored in {out}; the same command goes on.")
        raise typer.Exit(130) from None
    ordered = [results[claim.name] for claim in chosen]
    show(present.verdicts(ordered))
    console.print(f"{present.counts(ordered)}.")
    console.print(f"Parts: {present.part_counts(ordered)}. {present.chance(ordered)}".rstrip())
    for result in ordered:
        if result.failed or not result.verdict:
            console.print(f"\n[bold]{result.claim.name}[/bold]", end=" ")
            console.print(result.failed or result.summary, markup=False)
    with nothing_lost():
        claims_page.write_markdown(ordered, out, quick)
        page = claims_page.write_page(ordered, out, quick)
    tell(f"Open {page} in a browser: figures and controls.")
    write_json(present.records(ordered), json_file)
    if any(result.failed for result in ordered):
        raise typer.Exit(1)


@app.command()
def figure(
    name: Annotated[str, typer.Argument(metavar="CLAIM", help="Name of a claim; see `tms list`.")],
    out: Annotated[Path | None, typer.Option(help="File to write: .html, .svg, .png or .pdf. [CLAIM.html]")] = None,
    index: Annotated[
        int | None,
        typer.Option(
            help="Which of the claim's figures. [default: the first to turn, or the first]", **number(**COUNT)
        ),
    ] = None,
    store: Annotated[Path, typer.Option(help="Folder of the finished claims.")] = Path("reproduction"),
    quick: Quick = False,
) -> None:
    """One figure of a claim, to turn or to print.

    It has the claim for its title, and its caption below.

    It is drawn from the stored verdict; a claim without one is measured first. Pictures need the package kaleido
    (in the extra `report`) and Chrome or Chromium; HTML needs neither.

    Example: `tms figure nine-in-three-d --out nine.html`
    """
    check_extras(plotly="plots")
    from tms_hooks.claims.reproduce import last
    from tms_hooks.claims.reproduce import reproduce as measure
    from tms_hooks.pages import report

    claim, *others = _claims([name])
    if others:
        raise typer.BadParameter("all: their figures are on the page that `tms reproduce all` writes; name one claim")
    out = out or Path(f"{name}.html")
    check_places(out.parent, store)
    if out.suffix.lower() == ".html":
        check_page(out)
    found = last(claim, store)
    if found:
        verdict = found.verdict
    else:
        with aside.status(f"measuring {name}"):
            [result] = measure([claim], store, quick)
        if result.verdict is None:
            console.print(result.failed or result.summary, markup=False)
            raise typer.Exit(1)
        verdict = result.verdict
    captions = [f"{i}: {caption}" for i, (caption, _) in enumerate(verdict.pictures, start=1)]
    if index is None:
        index = next((i for i, (_, drawn) in enumerate(verdict.pictures, start=1) if report.turns(drawn)), 1)
    if index > len(captions):
        raise typer.BadParameter(f"--index {index}: {name} has {len(captions)}: {' '.join(captions)}")
    caption, drawn = verdict.pictures[index - 1]
    with nothing_lost(), usage_errors(ValueError, RuntimeError, option="--out"):
        path = report.write_figure(out, drawn, claim.statement, caption)
    for caption in captions:
        tell(caption, "bold" if caption == captions[index - 1] else "dim")
    tell(f"Figure {index} is in {path}.")


@app.command(name="list")
def list_claims(
    names: Annotated[list[str] | None, typer.Argument(metavar="[CLAIM...]", help="Print these in full.")] = None,
    out: Out = Path("reproduction"),
    json_file: Json = None,
) -> None:
    """All claims by source, with their last verdict.

    Of those named, how each is decided and what came out.

    Example: `tms list`, then `tms list hexagon-norms`
    """
    from tms_hooks.claims.present import COLORS, SYMBOLS
    from tms_hooks.claims.registry import SOURCES
    from tms_hooks.claims.reproduce import last

    check_places(folder_of(json_file))
    chosen = _claims(names or ["all"])
    stored = {claim.name: last(claim, out) for claim in chosen}
    last_verdict = {name: found.verdict.verdict if found else None for name, found in stored.items()}
    rows = [
        {"claim": c.name, "source": c.source, "statement": c.statement, "last_verdict": last_verdict[c.name]}
        | ({"design": c.design} if names else {})
        for c in chosen
    ]
    write_json(rows, json_file)
    if names:
        for claim in chosen:
            found = stored[claim.name]
            console.print(f"[bold]{claim.name}[/bold] ({claim.source}: {SOURCES.get(claim.source, claim.source)})")
            console.print(claim.design, markup=False)
            outcome = found.verdict.paragraph if found else f"Not measured yet: tms reproduce {claim.name}"
            console.print(f"\n{outcome}\n", markup=False)
        return
    for i, source in enumerate(dict.fromkeys(claim.source for claim in chosen)):
        console.print("\n" * bool(i) + f"[bold]{source}[/bold]: {SOURCES.get(source, source)}")
        shown = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
        shown.add_column(width=1)
        shown.add_column(no_wrap=True, min_width=max(len(claim.name) for claim in chosen))
        shown.add_column(no_wrap=True, overflow="ellipsis")
        for claim in (claim for claim in chosen if claim.source == source):
            marked = last_verdict[claim.name]
            mark = f"[{COLORS.get(marked, 'yellow')}]{SYMBOLS[marked]}[/]" if marked else " "
            shown.add_row(mark, claim.name, escape(claim.statement))
        show(shown)
    there = [f"{SYMBOLS[outcome]} {outcome}" for outcome in SYMBOLS if outcome in last_verdict.values()]
    legend = ", ".join([*there, f"no mark: not measured in {out}"])
    tell(f"\n{len(chosen)} claims; {legend}. tms list CLAIM prints one in full.")


def _claims(names: Iterable[str]) -> "list[Claim]":
    from tms_hooks.claims import find

    with usage_errors(KeyError):
        return find(names)


@app.command()
def theory(
    out: Annotated[Path | None, typer.Option(help="Folder for a page with figures.")] = None,
    json_file: Json = None,
) -> None:
    """Which polygon theory expects in two dimensions. Nothing is trained.

    The first table holds each F-gon in the limit of one active feature: its change of loss per unit of feature
    probability (gain: the lower, the better), best norm and bias; the textbook argument has unit norms and nearest
    neighbors only. The second holds the corners of the best polygon for n features at feature probability p, from
    exact sums over all patterns of activity.

    Example: `tms theory --out paper` adds a page with the figures, and with the loss landscapes around a pentagon and a
    hexagon. Takes under a minute.
    """
    check_places(out, folder_of(json_file))
    if out is not None:
        check_page(out / "index.html")
        check_extras(plotly="plots")
    from tms_hooks import progress
    from tms_hooks.theory import best_polygon_table, polygon_table

    polygons = polygon_table()
    print_table(polygons, "One active feature: gain, norm and bias of the best F-gon")
    best = best_polygon_table(progress.each(range(4, 11), "summing all patterns of 4 to 10 features"))
    print_table(best, "Corners of the best polygon: n features (rows), feature probability p (columns)")
    corners = {
        str(n): dict(zip(map(str, best.columns), row, strict=True))
        for n, row in zip(best.index, best.to_numpy().tolist(), strict=True)
    }
    write_json({"polygons": records(polygons), "best_corners": corners}, json_file)
    if out is not None:
        from tms_hooks.pages.theory_page import write_page

        with nothing_lost():
            page = write_page(out, polygons, best, say=say)
        tell(f"\nOpen {page} in a browser.")


QUIET = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
"""What the libraries below are told, unless they are told otherwise: their progress bars and notes are not ours."""


def main() -> None:
    """Entry point of the `tms` command."""
    os.environ.update(QUIET | os.environ)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    app()
