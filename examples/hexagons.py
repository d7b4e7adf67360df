# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Pentagon or hexagon: do the first weights decide?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tms-hooks/tms-hooks/blob/main/examples/hexagons.ipynb)
#
# Six equally important features in two dimensions end as a pentagon, with one feature given up, or as a hexagon. Some
# say that the initial weights of that one feature decide. *Init patching* asks: put them into another model's start,
# train again, and compare with what would have happened anyway.

# %%
from importlib.util import find_spec

# On Colab; where the library is installed this cell does nothing.
if find_spec("tms_hooks") is None:
    source = "git+https://github.com/tms-hooks/tms-hooks"
    get_ipython().run_line_magic("pip", f"install -q 'tms-hooks[fast,plots] @ {source}'")

# %%
import os

import numpy as np
import pandas as pd

import probes
import tms_hooks as tms
from tms_hooks import plots, stats

quick = "TMS_QUICK" in os.environ  # continuous integration trains fewer models
cfg, data = tms.ToyConfig(6, 2), tms.SparseUniform(6, 0.057)
HOW = {"steps": 1_000, "optimizer": tms.Adam(lr=1e-2, schedule="cosine"), "progress": False}

# %% [markdown]
# ## What is reached, and what it costs

# %%
run = tms.train(cfg, data, seeds=40 if quick else 400, **HOW)
shapes = [tms.geometry.name_polytope(W) for W in run.W_E]
stats.census(shapes, run.final_loss.numpy(), "held-out loss").round(4)

# %%
typical = plots.typical(run.W_E.numpy(), shapes)
plots.feature_arrows(np.stack(list(typical.values())), list(typical))

# %% [markdown]
# The hexagon costs less, and theory agrees: sparser than p = 0.07 six corners are better than five. So pentagons are
# not where the loss is lowest; they are where training ends.

# %%
(
    {F: round(tms.theory.polygon_loss(6, 0.057, F), 4) for F in (4, 5, 6)},
    tms.theory.polygon_crossing(6, 5, 6),
)

# %% [markdown]
# ## Patch the start
# Recipients are models that ended as a pentagon with one feature given up. Donors ended as a hexagon. What is patched
# is the initial weight row of the feature that the recipient gave up.

# %%
norms = tms.geometry.feature_norms(run.W_E)
given_up = {i: int(norms[i].argmin()) for i, shape in enumerate(shapes) if shape == "pentagon"}
donors = [tms.ToyModel(cfg, seed=i) for i, shape in enumerate(shapes) if shape == "hexagon"][:6]
len(given_up), len(donors)


# %%
def retrain(models, seeds):
    return tms.train(cfg, data, init=models, seeds=seeds, **HOW).models


def is_hexagon(model):
    return tms.geometry.name_polytope(model.W_E) == "hexagon"


# %% [markdown]
# Three controls come with it. *Self*: a model gets its own weights back, which must change nothing. *Redraw*: random
# weights of the donor's norm, in place of the donor's. *Rerun*: the recipient as it was, on other data.

# %%
recipients = list(given_up.items())[: 2 if quick else 12]
tables = [
    probes.init_patching(tms.ToyModel(cfg, seed=i), donors, {"W_E": feature}, retrain, is_hexagon, seed=i)
    for i, feature in recipients
]
found = pd.concat(tables, keys=[i for i, _ in recipients], names=["recipient", None])
found.groupby("condition", sort=False).outcome.agg(["mean", "count"]).round(3)

# %% [markdown]
# Only what stands above both *redraw* and *rerun* is the donor's doing.

# %%
shown = found[found.condition.isin(["patched", "redraw", "rerun"])].groupby("condition", sort=False).outcome
share = shown.mean()
low, high = zip(
    *[stats.wilson(int(k), n) for k, n in zip(shown.sum(), shown.count(), strict=True)],
    strict=True,
)
figure = plots.shares(list(share.index), share.to_numpy(), np.array(low), np.array(high))
figure.update_layout(title="Recipients that became a hexagon", yaxis_range=[0, 1])

# %% [markdown]
# ## Patch everything
# A tool that finds nothing should be shown to find something where there is something. Patch all of `W_E`, and keep the
# recipient's data: if the whole start decided, each would become the donor's hexagon.

# %%
i, feature = recipients[0]
whole = probes.init_patching(tms.ToyModel(cfg, seed=i), donors, {"W_E": ...}, retrain, is_hexagon, seed=i)
whole.groupby("condition", sort=False).outcome.agg(["mean", "count"]).round(3)

# %% [markdown]
# What is measured over more models, and what else was claimed of pentagons and hexagons, is in
# `docs/findings/hexagons.md`.
