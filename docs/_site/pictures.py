"""The pictures of docs/concepts, made by the library's own plots: `python docs/_site/pictures.py [NAME ...]`.

They are small SVGs without a background, drawn for white; the dark page gives them a sheet of their own. Each is there
a second time for narrow screens, with two panels in a row.
"""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch

import probes
import tms_hooks as tms
from probes import style
from tms_hooks import geometry, plots
from tms_hooks.plots import layout
from tms_hooks.plots.layout import row_of_panels

OUT = Path(__file__).parents[1] / "pictures"
WIDTH, NARROW = 640, 358
"""Pixels: of a page's column, and of one on a telephone."""
DENSITIES = (1.0, 0.3, 0.1, 0.03)
HOW = {"steps": 2_000, "optimizer": tms.Adam(lr=0.01, schedule="cosine"), "progress": False}


@cache
def sparser() -> tms.Run:
    """Five features of falling importance in two dimensions, one model per density."""
    data = [tms.SparseUniform(5, p) for p in DENSITIES]
    return tms.train(tms.ToyConfig(5, 2), data, seeds=len(data), importance=[0.9**i for i in range(5)], **HOW)


@cache
def with_a_head() -> tms.Run:
    """Ten features in five dimensions, then a head for the pair (0, 1)."""
    return tms.train(
        tms.ToyConfig(10, 5, n_heads=1),
        tms.SparseUniform(10, 0.1),
        stages=("representation", "heads"),
        batch_size=256,
        importance=[0.8**i for i in range(10)],
        qk_pairs=[(0, 1)],
        **HOW,
    )


def superposition() -> go.Figure:
    """The same toy on dense and on sparse features."""
    return plots.feature_arrows(sparser().W_E, [f"p = {p:g}" for p in DENSITIES])


def interference() -> go.Figure:
    """Their Gram matrices."""
    return plots.matrices(geometry.gram(sparser().W_E), [f"p = {p:g}" for p in DENSITIES])


def dimensionality() -> go.Figure:
    """D_i of forty features in ten dimensions, at three densities."""
    p = (0.4, 0.3, 0.1)
    run = tms.train(tms.ToyConfig(40, 10), [tms.SparseUniform(40, each) for each in p], seeds=len(p), **HOW)
    values = dict(zip(map(str, p), geometry.dimensionality(run.W_E), strict=True))
    return plots.strips(values, "D_i", "p", {"1": 1.0, "1/2": 0.5, "1/4": 0.25})


def tegum_factors() -> go.Figure:
    """A Gram matrix as it is, and with the features of each tegum factor side by side."""
    W = with_a_head().W_E[0]
    W = W[geometry.represented(W)]
    order = [i for factor in geometry.tegum_factors(W) for i in factor]
    both = torch.stack([geometry.gram(W), geometry.gram(W[order])])
    return plots.matrices(both, ["by number", "by tegum factor"])


def omega() -> go.Figure:
    """Omega between hidden dimensions, and between features, where it says what it is for."""
    toy = with_a_head().models[0]
    between_hidden = (toy.W_Q[0, 0] @ toy.W_K[0, 0].T).detach()
    W = torch.nn.functional.normalize(toy.W_E.detach(), dim=-1)
    between = {"hidden dimensions": between_hidden, "features": W @ between_hidden @ W.T}
    figure = row_of_panels(list(between), "key", "query", spacing=0.1)
    limit = float(between_hidden.abs().max())
    for col, matrix in enumerate(between.values(), start=1):
        figure.add_heatmap(z=matrix.numpy(), coloraxis="coloraxis", row=1, col=col)
    scale = {"autocolorscale": True, "cmin": -limit, "cmax": limit}
    return figure.update_yaxes(autorange="reversed").update_layout(coloraxis=scale)


def slices() -> go.Figure:
    """How much of a score the largest singular slices carry: of the head, and of random rotations of it."""
    run = with_a_head()
    x = run.recipe.data.sample(2_000, seed=0, step=run.completed_steps).unflatten(0, (1_000, 2))
    x = x[(x[:, 0, 0] > 0) & (x[:, 1, 1] > 0)]
    split = probes.attention_slices(run.models[0], x, 0, 0, pairs=torch.tensor([[i, 0, 1] for i in range(len(x))]))
    needed = {"the head": split.needed, "rotated at random": split.null_needed.flatten()}
    share = {name: np.array([(n <= k).double().mean().item() for k in range(1, 6)]) for name, n in needed.items()}
    colors = dict(zip(needed, (plots.TOY, plots.NULL), strict=True))
    figure = plots.cumulative(share, colors, "share of the scores that k slices carry", "slices k")
    return figure.update_xaxes(type="linear", tickvals=[1, 2, 3, 4, 5])


def bottleneck() -> go.Figure:
    """An untied toy: where each feature is written (solid), and where it is read (dotted)."""
    run = tms.train(tms.ToyConfig(5, 2, tied=False), tms.SparseUniform(5, 0.05), seeds=3, **HOW)
    write, read = run.W_E.numpy(), run.weights["W_U"].mT.numpy()
    return plots.write_and_read(write, read, [f"seed {seed}" for seed in range(3)])


FIGURES = {  # heights in pixels, wide and narrow
    superposition: (230, 430),
    interference: (220, 370),
    dimensionality: (300, 250),
    tegum_factors: (260, 220),
    omega: (280, 250),
    slices: (300, 380),
    bottleneck: (270, 460),
}


def narrow(make: Callable[[], go.Figure]) -> go.Figure:
    """A figure with two panels in a row, and its legend below."""
    wrap, layout.WRAP = layout.WRAP, 2
    try:
        legend = {"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top", "font": {"size": 11}}
        return make().update_layout(legend=legend).update_xaxes(nticks=5, tickangle=0)
    finally:
        layout.WRAP = wrap


def save(figure: go.Figure, path: Path, width: int = WIDTH) -> Path:
    """A figure as a picture without a background, of the kind that its suffix says."""
    clear = {"template": style.template(), "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
    shown = go.Figure(figure).update_layout(**clear, margin={"l": 50, "r": 20, "t": 50, "b": 45})
    path.parent.mkdir(parents=True, exist_ok=True)
    shown.write_image(path, width=width, scale=1 if path.suffix == ".svg" else 1.25)
    return path


if __name__ == "__main__":
    for make, (high, high_if_narrow) in FIGURES.items():
        if make.__name__ in sys.argv[1:] or not sys.argv[1:]:
            print(save(make().update_layout(height=high), OUT / f"{make.__name__}.svg"))
            save(narrow(make).update_layout(height=high_if_narrow), OUT / f"{make.__name__}-narrow.svg", NARROW)
