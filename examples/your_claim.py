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
# # Your own claim, measured as the library measures those of others
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tms-hooks/tms-hooks/blob/main/examples/your_claim.ipynb)
#
# A claim states its statistic, threshold, null, size and controls before it is measured; the verdict comes out of the
# numbers alone. Say that you have read: *features that are never active together end up opposite each other.*

# %%
from importlib.util import find_spec

# On Colab; where the library is installed this cell does nothing.
if find_spec("tms_hooks") is None:
    source = "git+https://github.com/tms-hooks/tms-hooks"
    get_ipython().run_line_magic("pip", f"install -q 'tms-hooks[fast,plots] @ {source}'")

# %%
import os

import torch

import tms_hooks as tms
from tms_hooks import plots
from tms_hooks.claims import Verdict, claim, find, lab, share

quick = "TMS_QUICK" in os.environ

# %% [markdown]
# ## Look at a few models first
# Of three pairs of features, the two of a pair are never active together.

# %%
apart = tms.AnticorrelatedGroups(n_features=6, feature_probability=0.2, group_size=2)
run = tms.train(
    tms.ToyConfig(6, 3),
    apart,
    seeds=4,
    steps=500,
    optimizer=tms.Adam(lr=1e-2, schedule="cosine"),
    progress=False,
)
plots.matrices(tms.geometry.gram(run.W_E), [f"seed {i}" for i in range(4)])

# %% [markdown]
# ## Say what would decide it
# One number per model: how many of its three pairs are antipodal. And what would be found if nothing were so: the same
# number on independent features of the same probability.


# %%
def pairs_opposite(W):
    """Whether each pair of partners, "model pair", is represented and nearly opposite: 18 degrees."""
    unit = torch.nn.functional.normalize(W, dim=-1)
    cosine = (unit[:, 0::2] * unit[:, 1::2]).sum(-1)
    alive = tms.geometry.represented(W)
    return (cosine < -0.95) & alive[:, 0::2] & alive[:, 1::2]


pairs_opposite(run.W_E)

# %% [markdown]
# ## The claim
# Its docstring is the promise, and it is what decides: statistic, threshold and null are read from it. One that leaves
# something out is refused.


# %%
@claim("strangers-are-opposite", "my own", quick=12, full=60)
def strangers_are_opposite(n_models):
    """Features that are never active together end up opposite each other.

    Statistic: share of models, n = 6, m = 3, p = 0.2, in which all three pairs are
    antipodal (cosine below -0.95).
    Threshold: above 0.5.
    Null: models on independent features of the same probability.
    Size: 12 models (quick), 60 (full). The usual recipe, 500 steps.
    Controls: the same share of untrained models.
    """
    cfg, independent = tms.ToyConfig(6, 3), tms.SparseUniform(6, 0.2)
    apart_W, independent_W = (
        lab.train_toys(cfg, data, n_models, steps=500).W_E for data in (apart, independent)
    )
    return judge(apart_W, independent_W, lab.untrained(cfg, n_models)["W_E"])


# %% [markdown]
# The judge turns weights into a verdict. It is a function by itself, so that it can be tried on worlds whose answer is
# known.


# %%
def judge(apart_W, independent_W, untrained_W):
    held, null, untrained = (
        pairs_opposite(W).all(-1).numpy() for W in (apart_W, independent_W, untrained_W)
    )
    return Verdict(
        parts={"all": share("The share of models with all three pairs antipodal", held, null=null)},
        n_models=len(held),
        controls={"untrained": untrained.mean()},
        detail=f"{pairs_opposite(apart_W).double().mean():.0%} of single pairs are antipodal.",
    )


# %% [markdown]
# ## Before measuring: can it come out either way?
# A world where it holds, one where it does not, one where the null holds as well, and one with too few models to tell.

# %%
[mine] = find(["strangers-are-opposite"])
three = torch.eye(3).repeat_interleave(2, dim=0) * torch.tensor([1.0, -1.0]).repeat(3)[:, None]
opposite, noise = (
    three.expand(40, 6, 3),
    torch.randn(40, 6, 3, generator=torch.Generator().manual_seed(0)),
)
worlds = {
    "opposite": (opposite, noise),
    "noise": (noise, noise),
    "anyway": (opposite, opposite),
}
worlds["two models"] = opposite[:2], noise
{name: mine.decide(judge(W, null, noise)).verdict for name, (W, null) in worlds.items()}

# %% [markdown]
# ## Measure
# The same function at either size. At full size it is also asked whether training for longer would change the answer.

# %%
result = mine.run(quick=quick)
print(result.paragraph)

# %%
result.controls

# %% [markdown]
# A null that reaches the threshold too would say that the cause is another one. The claim joins the library's as a
# file of `tms_hooks/claims/`, with these worlds as its test: [how](../CONTRIBUTING.md#a-claim). From a file of yours
# that is imported, `claims()["strangers-are-opposite"].run()` measures it, beside all others.
