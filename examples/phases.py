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
# # The phase diagram of one extra feature
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tms-hooks/tms-hooks/blob/main/examples/phases.ipynb)
#
# Two features, one dimension. The first has importance 1, the second another. Is the second ignored, does it get the
# dimension to itself, or do both share it, on opposite sides? It depends on how dense the features are and on the
# importance, and the closed forms say where the borders are.

# %%
from importlib.util import find_spec

# On Colab; where the library is installed this cell does nothing.
if find_spec("tms_hooks") is None:
    source = "git+https://github.com/tms-hooks/tms-hooks"
    get_ipython().run_line_magic("pip", f"install -q 'tms-hooks[fast,plots] @ {source}'")

# %%
import os

import numpy as np

import tms_hooks as tms
from tms_hooks import geometry, plots, theory

quick = "TMS_QUICK" in os.environ
SIDE, TRIES = (7, 2) if quick else (15, 4)
p, importance = np.geomspace(0.01, 1, SIDE), np.geomspace(0.1, 10, SIDE)

# %% [markdown]
# ## A model per point of the diagram
# One call trains them all: `data` and `importance` have an entry per model.

# %%
points = [(i, d) for i in importance for d in p for _ in range(TRIES)]
run = tms.train(
    tms.ToyConfig(2, 1),
    [tms.SparseUniform(2, float(d)) for _, d in points],
    importance=[[1.0, float(i)] for i, _ in points],
    seeds=len(points),
    steps=500 if quick else 1_000,
    optimizer=tms.Adam(lr=1e-2, schedule="cosine"),
    progress=False,
)
run


# %% [markdown]
# ## Which arrangement is it?
# `theory.phase_losses` names the arrangements; here they are read from the weights of the best of the tries.


# %%
def arrangement(W):
    first, extra = (geometry.feature_norms(W) > 0.5).tolist()
    if first and extra:
        return "antipodal" if W[0] * W[1] < 0 else "neither"
    return "extra ignored" if first else "first ignored" if extra else "neither"


# %%
best = run.final_loss.view(SIDE, SIDE, TRIES).argmin(-1).flatten()
W = run.W_E.view(SIDE**2, TRIES, 2, 1)[range(SIDE**2), best]
trained = np.array([arrangement(each) for each in W]).reshape(SIDE, SIDE)

# %% [markdown]
# ## Beside the closed form
# Squares are trained models; the lines are where the cheapest arrangement changes on paper. No parameter is fitted.

# %%
fine_p, fine_importance = np.geomspace(0.01, 1, 80), np.geomspace(0.1, 10, 80)
costs = theory.phase_losses(*np.meshgrid(fine_p, fine_importance), n=2)
names = [*costs, "neither"]
plots.phase_map(
    np.vectorize(names.index)(trained),
    np.stack(list(costs.values())),
    (p, fine_p),
    (importance, fine_importance),
    names,
    "feature probability p",
    "relative importance of the second feature",
)

# %%
paper = theory.phase_losses(*np.meshgrid(p, importance), n=2)
names = np.array(list(paper))
cost = np.stack(list(paper.values()))
cheapest, second = np.sort(cost, axis=0)[:2]
clear = second > 1.1 * cheapest  # elsewhere two arrangements cost nearly the same
agree = trained == names[cost.argmin(0)]
(
    f"{agree[clear].mean():.0%} of {clear.sum()} points away from the borders, "
    f"{agree.mean():.0%} of all {agree.size}"
)

# %% [markdown]
# ## Along one line of it
# At equal importance, from dense to sparse: what each arrangement costs on paper, and what the best trained model
# costs. Training follows the lower envelope, and the crossing is a first-order change: norms jump there.

# %%
middle = int(np.abs(np.log(importance)).argmin())
line = theory.phase_losses(fine_p, importance[middle], n=2)
lines = {name: (fine_p, cost / fine_p) for name, cost in line.items() if name != "first ignored"}
loss = run.final_loss.view(SIDE, SIDE, TRIES).amin(-1)[middle].numpy()
figure = plots.curves(lines | {"trained": (p, loss / p)}, "feature probability p", "loss / p", log_x=True)
figure.update_traces(mode="lines").update_traces(mode="markers", selector={"name": "trained"})
