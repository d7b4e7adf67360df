"""`tms`: the command line. Thin: it parses, calls the library and prints tables."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from tms_hooks.config import Activation, ToyConfig
from tms_hooks.data import OneHot, SparseUniform
from tms_hooks.training.optimizers import OPTIMIZERS, Schedule

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Toy models of superposition: train them, name their geometry, set them beside a real transformer.\n\n"
    "Start with `tms demo`.",
)
console = Console()

Seeds = Annotated[int, typer.Option("--models", min=1, help="How many models to train, with seeds 0, 1, 2, ...")]


OptimizerName = Literal["Adam", "AdamW", "SGD", "RMSprop"]


@app.callback()
def configure(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say which engine is used and why.")] = False,
) -> None:
    """Set up logging for every command."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", handlers=[RichHandler(console=Console(stderr=True))])


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    model: Annotated[str, typer.Option(help="Real transformer: smollm2, gpt2 or a local folder.")] = "smollm2",
    models: Annotated[int, typer.Option(min=20, help="Toy models to train for the first section.")] = 400,
) -> None:
    """The main job: what superposition looks like on toys and in a real transformer, on one page.

    Trains a few hundred toys and names their geometries; trains toys with a pseudo-attention head and aligns its
    singular vectors with the feature directions; splits the attention scores of a real transformer's heads into
    singular slices; sets the embed -> unembed bottlenecks of both beside each other. Takes under three minutes.
    """
    from tms_hooks.demo import run_demo

    try:
        page, table = run_demo(out, model, models, say=lambda what: console.print(f"[dim]{what}[/dim]"))
    except (ValueError, ModuleNotFoundError, ConnectionError) as error:
        raise typer.BadParameter(str(error), param_hint="--model") from error
    print_table(table, "What the demo measured")
    console.print(f"\nOpen [bold]{page}[/bold] in a browser: figures, attention, and what each number means.")


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="Run directory to write.")],
    features: Annotated[int, typer.Option("-n", "--features", help="Number of features.")] = 6,
    hidden: Annotated[int, typer.Option("-m", "--hidden", help="Hidden dimensions.")] = 2,
    probability: Annotated[
        float,
        typer.Option("-p", "--probability", help="Feature probability; sparsity is 1 - p. Give 0 for one-hot data."),
    ] = 0.057,
    tied: Annotated[bool, typer.Option(help="W_U is the transpose of W_E.")] = True,
    output_bias: Annotated[bool, typer.Option(help="Add a bias before the output activation.")] = True,
    output_act: Annotated[Activation, typer.Option(help="Output activation.")] = "relu",
    models: Seeds = 100,
    steps: Annotated[int, typer.Option(help="Updates.")] = 10_000,
    batch: Annotated[int | None, typer.Option(help="Samples a step; default 1024, or all of one-hot data.")] = None,
    optimizer: Annotated[OptimizerName, typer.Option(help="Optimizer.")] = "Adam",
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    schedule: Annotated[Schedule, typer.Option(help="Learning-rate schedule.")] = "constant",
    final_lr: Annotated[float, typer.Option(help="Where the schedule ends.")] = 0.0,
    importance_decay: Annotated[float, typer.Option(help="Importance of feature i is this to the power i.")] = 1.0,
) -> None:
    """Train many toy models at once and write a run directory.

    Example: `tms train runs/hexagon --models 1000` trains the pentagon/hexagon study. Read it back with
    `tms_hooks.load("runs/hexagon")`. Ctrl-C saves what there is.
    """
    from tms_hooks.geometry import name_polytope
    from tms_hooks.stats import census
    from tms_hooks.training.loop import train as train_models

    try:
        run = train_models(
            ToyConfig(
                n_features=features,
                d_hidden=hidden,
                tied=tied,
                output_bias=output_bias,
                output_act=output_act,
            ),
            SparseUniform(n_features=features, feature_probability=probability)
            if probability
            else OneHot(n_features=features),
            seeds=range(models),
            steps=steps,
            batch_size=batch,
            optimizer=OPTIMIZERS[optimizer](lr=lr, schedule=schedule, final_lr=final_lr),
            importance=[importance_decay**i for i in range(features)],
            progress=console.is_terminal,
        )
        run.save(out)
    except (ValueError, FileExistsError) as error:
        raise typer.BadParameter(str(error)) from error
    table = census([name_polytope(W) for W in run.W_E], run.final_loss.numpy(), "held-out loss")
    print_table(table, f"{models:,} models after {run.completed_steps:,} steps, {run.provenance['seconds']:.1f} s")
    console.print(f"Saved to [bold]{out}[/bold].")


@app.command()
def theory(
    out: Annotated[Path | None, typer.Option(help="Folder for a page with figures.")] = None,
) -> None:
    """Which polygon theory expects in two dimensions, on paper: nothing is trained.

    The first table holds each F-gon in the limit of one active feature: its change of loss per unit of feature
    probability (gain: the lower, the better), best norm and bias; the textbook argument has unit norms and nearest
    neighbours only. The second holds the corners of the best polygon for n features at feature probability p, from
    exact sums over all patterns of activity.

    Example: `tms theory --out paper` adds a page with the figures, and with the loss landscapes around a pentagon and a
    hexagon. Takes under a minute.
    """
    from rich.progress import track

    from tms_hooks.theory import best_polygon_table, polygon_table

    polygons = polygon_table()
    print_table(polygons, "One active feature: gain, norm and bias of the best F-gon")
    features = track(range(4, 11), "summing all patterns", console=Console(stderr=True), transient=True)
    best = best_polygon_table(features)
    print_table(best, "Corners of the best polygon: n features (rows), feature probability p (columns)")
    if out is not None:
        from tms_hooks.theory_page import write_page

        page = write_page(out, polygons, best, say=lambda what: console.print(f"[dim]{what}[/dim]"))
        console.print(f"\nOpen [bold]{page}[/bold] in a browser.")


def print_table(table: pd.DataFrame, title: str) -> None:
    """A DataFrame as a table on the terminal."""
    shown = Table(title=title, title_justify="left")
    shown.add_column(str(table.index.name or ""))
    for column in table.columns:
        shown.add_column(str(column), justify="right" if pd.api.types.is_numeric_dtype(table[column]) else "left")
    for name, row in table.iterrows():
        shown.add_row(str(name), *(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row))
    console.print(shown)


def main() -> None:
    """Entry point of the `tms` command."""
    app()
