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
# # The pseudo-attention study: Omega, and what its singular vectors see
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tms-hooks/tms-hooks/blob/main/examples/pseudo_attention.ipynb)
#
# A pseudo-attention head scores pairs of tokens with Omega = W_Q W_K^T. It is asked for one pair of features: 1 where
# the query holds feature 0 and the key feature 1. With Omega = U S V^T, the rows of W_E times U, and times V, say which
# features each singular vector sees. When do these find the two features?

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
from tms_hooks import plots

quick = "TMS_QUICK" in os.environ
N, M = 10, 5
probabilities = [0.02, 0.1, 0.3, 0.8]

# %% [markdown]
# ## One model per feature probability, features first, then the head
# In stages: first the representation, then the head, which sees hidden states only.

# %%
HOW = {
    "optimizer": tms.Adam(lr=1e-2, schedule="cosine"),
    "batch_size": 256,
    "progress": False,
}
HOW |= {"importance": [0.8**i for i in range(N)], "qk_pairs": [(0, 1)]}
run = tms.train(
    tms.ToyConfig(N, M, n_heads=1),
    [tms.SparseUniform(N, p) for p in probabilities],
    seeds=len(probabilities),
    steps=(300, 300) if quick else (2_000, 1_000),
    stages=("representation", "heads"),
    **HOW,
)
run.table.round(4)

# %% [markdown]
# ## The features
# Dense features are orthogonal, and the last five are left out. Sparse ones share dimensions.

# %%
titles = [f"p = {p}" for p in probabilities]
plots.matrices(tms.geometry.gram(run.W_E), titles)


# %% [markdown]
# ## W U and W V
# Each column is a singular pair, largest first; each row a feature. The cosines are of W_i with the singular vector.


# %%
def cosines(W, omega):
    """(sides, feature, singular pair): with left (query) and right (key) singular vectors."""
    U, _, Vh = torch.linalg.svd(omega)
    unit = torch.nn.functional.normalize(W, dim=-1)
    sign = torch.sign((unit @ U)[..., :1, :])  # U and V may turn together; feature 0 is shown positive
    return torch.stack([unit @ U * sign, unit @ Vh.mT * sign])


omega = torch.stack([(toy.W_Q[0, 0] @ toy.W_K[0, 0].T).detach() for toy in run.models])
WU, WV = cosines(run.W_E, omega)
plots.matrices(WU, titles, "singular pair", "feature", "cosine").update_layout(
    title="W U: what queries are read for"
)

# %%
plots.matrices(WV, titles, "singular pair", "feature", "cosine").update_layout(
    title="W V: what keys are read for"
)

# %% [markdown]
# Only a singular pair with a large singular value matters. The first has nearly all of it, and its vectors lie along
# feature 0 (queries) and feature 1 (keys).

# %%
values = torch.linalg.svdvals(omega)
share = {
    f"p = {p}": (np.arange(1, M + 1), (s / s.sum()).numpy())
    for p, s in zip(probabilities, values, strict=True)
}
plots.curves(share, "singular pair", "share of the singular values")

# %%
{
    title: [round(float(side[i, f, 0].abs()), 2) for side, f in ((WU, 0), (WV, 1))]
    for i, title in enumerate(titles)
}

# %% [markdown]
# ## Is that the best head?
# The head of least expected squared error has a closed form, given the features. Theory and training see the same.

# %%
kinds = zip(run.W_E, probabilities, strict=True)
best = torch.stack([tms.theory.qk_optimum(W, tms.SparseUniform(N, p), [(0, 1)], rank=M) for W, p in kinds])
found = {"trained": omega, "best": best.float()}
lines = {}
for name, each in found.items():
    WU, WV = cosines(run.W_E, each)
    lines[name] = (
        np.array(probabilities),
        torch.minimum(WU[:, 0, 0].abs(), WV[:, 1, 0].abs()).numpy(),
    )
plots.curves(lines, "feature probability p", "smaller |cosine| with its feature", log_x=True)

# %% [markdown]
# ## Through training, both at once
# Now features and head are trained together. The history has W_E and Omega of every record: when do the singular
# vectors find their features, and when do these become orthogonal?

# %%
joint = tms.train(
    tms.ToyConfig(N, M, n_heads=1),
    tms.SparseUniform(N, 0.5),
    seeds=4 if quick else 20,
    steps=300 if quick else 1_500,
    record_every=25,
    **HOW | {"optimizer": tms.Adam(lr=3e-3)},
).history
step, W, omegas = (
    joint.step.values,
    torch.tensor(joint.W_E.values),
    torch.tensor(joint.omega.values[:, :, 0]),
)

# %%
WU, WV = cosines(W, omegas)
aligned = torch.minimum(WU[..., 0, 0].abs(), WV[..., 1, 0].abs())
first = torch.nn.functional.normalize(W[..., :M, :], dim=-1)
overlap = (first @ first.mT - torch.eye(M)).abs().amax((-1, -2))
lines = {
    "singular pair with its features": aligned,
    "largest overlap of two features": overlap,
}
plots.curves(
    {name: (step, each.median(1).values.numpy()) for name, each in lines.items()},
    "step",
    "|cosine|, median",
)

# %% [markdown]
# The same in one model: W U at four steps.

# %%
at = [0, len(step) // 8, len(step) // 3, len(step) - 1]
plots.matrices(WU[at, 0], [f"step {step[i]}" for i in at], "singular pair", "feature", "cosine")
