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
# # The classic exercises on superposition, a few lines each
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tms-hooks/tms-hooks/blob/main/examples/arena.ipynb)
#
# Those of Elhage et al. 2022, [Toy Models of Superposition](https://transformer-circuits.pub/2022/toy_model/index.html),
# in the order in which courses set them. Models that are compared are trained in one call, and each is what it would be
# alone.

# %%
from importlib.util import find_spec

# On Colab; where the library is installed this cell does nothing.
if find_spec("tms_hooks") is None:
    source = "git+https://github.com/tms-hooks/tms-hooks"
    get_ipython().run_line_magic("pip", f"install -q 'tms-hooks[fast,plots] @ {source}'")

# %%
import os

import numpy as np
import torch

import tms_hooks as tms
from tms_hooks import geometry, plots

STEPS = 500 if "TMS_QUICK" in os.environ else 2_000
HOW = {"steps": STEPS, "optimizer": tms.Adam(lr=1e-2, schedule="cosine"), "progress": False}

# %% [markdown]
# ## Superposition as features become sparse
# Five features of falling importance in two dimensions. `data` has one distribution per seed: one model per sparsity.
# The dense model keeps two features; then come antipodal pairs, and at last a pentagon.

# %%
probabilities = [1.0, 0.55, 0.3, 0.16, 0.09, 0.05, 0.03, 0.02]
run = tms.train(
    tms.ToyConfig(n_features=5, d_hidden=2),
    [tms.SparseUniform(n_features=5, feature_probability=p) for p in probabilities],
    importance=[0.9**i for i in range(5)],
    seeds=len(probabilities),
    **HOW,
)
plots.feature_arrows(run)

# %%
run.table

# %% [markdown]
# Wider models, as everyone draws them: a bar per feature, as high as its norm, colored by interference. What is dark
# has its direction for itself.

# %%
sparser = (1.0, 0.1, 0.03, 0.01)
data = [tms.SparseUniform(n_features=20, feature_probability=p) for p in sparser]
falling = [0.85**i for i in range(20)]
bars = tms.train(tms.ToyConfig(n_features=20, d_hidden=5), data, importance=falling, seeds=4, **HOW)
norms, interference = geometry.feature_norms(bars.W_E), geometry.interference(bars.W_E)
plots.norm_bars(norms, interference, [f"p = {p:g}" for p in sparser])

# %% [markdown]
# ## Dimensionality: 100 features in 20 dimensions
# Dimensions per feature, D* = m / |W|^2, lingers near 1/2, where features lie in antipodal pairs, before it falls.

# %%
p = np.geomspace(1, 0.01, 12)
wide = tms.train(
    tms.ToyConfig(n_features=100, d_hidden=20),
    [tms.SparseUniform(n_features=100, feature_probability=float(each)) for each in p],
    seeds=len(p),
    **HOW,
)
D = geometry.dimensions_per_feature(wide.W_E)
lines = {"D*": (1 / p, D), "1/2": (1 / p, np.full(len(p), 0.5))}
plots.curves(lines, "1 / p", "D*", log_x=True).update_layout(title="Dimensions per feature")

# %% [markdown]
# One feature at a time: the dimensionality D_i of Elhage et al. gathers at the values of regular shapes.

# %%
D_i = geometry.dimensionality(wide.W_E)
levels = {"3/4": 3 / 4, "2/3": 2 / 3, "1/2": 1 / 2, "2/5": 2 / 5}
figure = plots.strips(
    {f"{1 / each:.3g}": d for each, d in zip(p, D_i, strict=True)}, "D_i", "1 / p", levels
)
figure.update_layout(title="The room that each of 100 features has")

# %% [markdown]
# ## Correlated and anticorrelated features
# Features (0, 1) and (2, 3) are active together, or never together. What is active together is made orthogonal; what is
# never active together may share a line, on opposite sides.

# %%
groups = {"together": tms.CorrelatedGroups, "never together": tms.AnticorrelatedGroups}
names, kinds = zip(*[(name, kind) for name, kind in groups.items() for _ in range(4)], strict=True)
data = [kind(n_features=4, feature_probability=0.1, group_size=2) for kind in kinds]
paired = tms.train(tms.ToyConfig(n_features=4, d_hidden=2), data, seeds=8, **HOW)
plots.feature_arrows(paired.W_E, names)

# %%
unit = torch.nn.functional.normalize(paired.W_E, dim=-1)
cosine = (unit[:, [0, 2]] * unit[:, [1, 3]]).sum(-1)  # of partners
{name: cosine[[n == name for n in names]].mean().item() for name in groups}

# %% [markdown]
# ## A privileged basis
# A linear hidden layer may be turned at will, so its neurons mean nothing. With a ReLU there, some features get a
# neuron of their own: of each feature, the share of its squared norm in its largest neuron.

# %%
share = {}
for act in ("identity", "relu"):
    cfg = tms.ToyConfig(n_features=10, d_hidden=5, hidden_act=act)
    data = tms.SparseUniform(n_features=10, feature_probability=0.3)
    W = tms.train(cfg, data, importance=[0.8**i for i in range(10)], seeds=8, **HOW).W_E
    size = W.square().sum(-1)
    share[act] = (W.square().amax(-1) / size)[size > 0.25]
plots.strips(share, "share of the largest neuron", "hidden activation").update_layout(
    title="Whose basis is it?"
)

# %% [markdown]
# ## Computation in superposition: the absolute value
# |x| = relu(x) + relu(-x): two neurons per feature compute it exactly (`d_hidden=16` for 8 features: no loss at all).
# With fewer neurons features share them. The best of four seeds; 1 is what the best constant answer loses.

# %%
p, lost = np.array([1.0, 0.3, 0.1]), {}
constant = 8 * (p / 3 - p**2 / 4)  # the variance of |x_i| is p / 3 - p^2 / 4
each_four = np.repeat(p, 4).tolist()
signed = [tms.SparseUniform(n_features=8, feature_probability=one, low=-1.0) for one in each_four]
for m in (4, 8, 12, 16):
    cfg = tms.ToyConfig(n_features=8, d_hidden=m, tied=False, hidden_act="relu")
    absolute = tms.train(cfg, signed, task=tms.Absolute(), seeds=len(signed), **HOW)
    lost[f"d_hidden = {m}"] = (1 / p, absolute.final_loss.view(3, 4).amin(1).numpy() / constant)
figure = plots.curves(lost, "1 / p", "loss, of the best constant's", log_x=True)
figure.update_layout(title="Fewer neurons suffice where features are sparse")

# %% [markdown]
# What the neurons of a model with two per feature read.

# %%
best = int(absolute.final_loss.argmin())
figure = plots.signed_heatmap(absolute.W_E[best], "neuron", "feature", "W_E")
figure.update_layout(title="Each feature has a neuron for either sign")

# %% [markdown]
# ## A sparse autoencoder that finds the features
# It has a notebook of its own, with its controls: [a sparse autoencoder on a toy](autoencoder.ipynb).
