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
# # Quickstart: train toys, look inside one, patch it, see its geometry
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tms-hooks/tms-hooks/blob/main/examples/quickstart.ipynb)
#
# Six features are squeezed through two dimensions and read back with a ReLU. Each is active with probability 0.057.
# What do the directions look like that training finds, and does it always find the same?

# %%
from importlib.util import find_spec

# On Colab; where the library is installed this cell does nothing.
if find_spec("tms_hooks") is None:
    source = "git+https://github.com/tms-hooks/tms-hooks"
    get_ipython().run_line_magic("pip", f"install -q 'tms-hooks[fast,plots] @ {source}'")

# %%
import os

import torch

import probes
import tms_hooks as tms
from tms_hooks import plots, stats

quick = "TMS_QUICK" in os.environ  # continuous integration trains fewer models

# %% [markdown]
# ## Train many models at once
# A seed decides a model's initial weights and its data. Each model is, to the bit, what it would be if trained alone.

# %%
cfg = tms.ToyConfig(n_features=6, d_hidden=2)
data = tms.SparseUniform(n_features=6, feature_probability=0.057)
run = tms.train(
    cfg,
    data,
    seeds=range(20 if quick else 200),
    steps=1_000,
    optimizer=tms.Adam(lr=1e-2, schedule="cosine"),
    progress=False,
)

# %% [markdown]
# The history, an xarray dataset, has a record of every 100 steps: which axes each quantity has, and how long they are.

# %%
for name, values in run.history.items():
    if values.size:  # nothing of heads, which this toy does not have
        print(f"{name:14}{dict(values.sizes)}")

# %% [markdown]
# ## Which geometries are reached?
# `name_polytope` reads the weights alone. One seed would have shown one of these rows.

# %%
names = [tms.geometry.name_polytope(W) for W in run.W_E]
table = stats.census(names, run.final_loss.numpy(), "held-out loss")
table

# %%
best = [
    min((i for i, n in enumerate(names) if n == name), key=lambda i: run.final_loss[i])
    for name in table.index[:4]
]
plots.feature_arrows(run.W_E[best].numpy(), [f"{names[i]}, loss {run.final_loss[i]:.4f}" for i in best])

# %% [markdown]
# ## Look inside one, as in TransformerLens
# A toy is a `HookedRootModule`; a feature is a token of a tiny vocabulary, and `W_E[feature]` its embedding.

# %%
toy = run.models[best[0]]
one_of_each = torch.eye(6)
out, cache = toy.run_with_cache(one_of_each)
{name: tuple(value.shape) for name, value in cache.items()}

# %% [markdown]
# Every hook point is live: changing it changes the output. That is not always so on real models, hence the audit.

# %%
probes.audit_hooks(toy, one_of_each)

# %% [markdown]
# ## Patch it
# Replace the hidden state of feature 0 by that of feature 1, and the model reports feature 1.


# %%
def swap(hidden, hook):
    hidden = hidden.clone()  # an in-place edit would reach the caller's tensors
    hidden[0] = hidden[1]
    return hidden


patched = toy.run_with_hooks(one_of_each, fwd_hooks=[("hook_hidden", swap)])
out[0].round(decimals=2), patched[0].round(decimals=2)

# %% [markdown]
# ## How features overlap
# The Gram matrix of the feature directions: what reading one feature hears of another, before the ReLU.

# %%
gram = tms.geometry.gram(toy.W_E).detach()
plots.signed_heatmap(gram.numpy(), "feature read", "feature written", "W_i . W_j")

# %% [markdown]
# The same as a circuitsvis render, which works when this notebook is opened without a network.

# %%
probes.render.attention([f"f{i}" for i in range(6)], gram[None])

# %% [markdown]
# ## Keep it

# %%
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    run.save(Path(folder) / "hexagon")
    print(sorted(p.name for p in (Path(folder) / "hexagon").iterdir()))
    again = tms.load(Path(folder) / "hexagon")
again.W_E.equal(run.W_E)
