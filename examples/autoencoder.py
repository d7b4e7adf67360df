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
# # A sparse autoencoder on a toy, where the right answer is known
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tms-hooks/tms-hooks/blob/main/examples/autoencoder.ipynb)
#
# Twenty features in eight dimensions. An autoencoder sees the hidden layer alone, and is to find the directions that
# were put there. On a real model nobody can check that. Here W_E has the answer.

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
from scipy.optimize import linear_sum_assignment

import tms_hooks as tms
from tms_hooks import plots

quick = "TMS_QUICK" in os.environ
STEPS = 500 if quick else 3_000
unit = torch.nn.functional.normalize

# %%
data = tms.SparseUniform(20, 0.05)
how = {"steps": STEPS, "optimizer": tms.Adam(lr=1e-2, schedule="cosine"), "progress": False}
toy = tms.train(tms.ToyConfig(20, 8), data, **how).models[0]
_, cache = toy.run_with_cache(data.sample(2**16, seed=1))
hidden = cache["hook_hidden"].detach()
represented = tms.geometry.represented(toy.W_E)
true = unit(toy.W_E, dim=-1).detach()[represented]
f"{len(true)} of 20 features are represented, in 8 dimensions"

# %% [markdown]
# ## Thirty lines of torch
# A latent's strength is what it writes, so that long directions do not make it free.


# %%
class SparseAutoencoder(torch.nn.Module):
    def __init__(self, d_hidden, n_latents, generator):
        super().__init__()
        self.W_dec = torch.nn.Parameter(
            torch.randn(n_latents, d_hidden, generator=generator) / d_hidden**0.5
        )
        self.W_enc = torch.nn.Parameter(self.W_dec.detach().T.clone())
        self.b = torch.nn.Parameter(torch.zeros(n_latents))

    def forward(self, h):
        latents = (h @ self.W_enc + self.b).relu()
        return latents @ self.W_dec, latents


def train(hidden, n_latents, penalty, steps=STEPS):
    generator = torch.Generator().manual_seed(0)
    sae = SparseAutoencoder(hidden.shape[-1], n_latents, generator)
    adam = torch.optim.Adam(sae.parameters(), lr=3e-3)
    for _ in range(steps):
        h = hidden[torch.randint(len(hidden), (1024,), generator=generator)]
        again, latents = sae(h)
        strength = (latents * sae.W_dec.norm(dim=-1)).sum(-1)
        adam.zero_grad()
        ((again - h).square().sum(-1) + penalty * strength).mean().backward()
        adam.step()
    return sae.requires_grad_(False)


sae = train(hidden, n_latents=40, penalty=0.05)

# %% [markdown]
# ## Which latent is which feature?
# The matching, one latent per feature, whose cosines are largest in sum.


# %%
def matched(found):
    """Cosine of every represented feature with the latent matched with it, and which that is."""
    cosines = true @ unit(found, dim=-1).T
    feature, latent = linear_sum_assignment(-cosines)
    return cosines[feature, latent], latent


cosine, latent = matched(sae.W_dec)
figure = plots.signed_heatmap(
    true @ unit(sae.W_dec, dim=-1)[latent].T, "latent, matched", "feature", "cosine"
)
figure.update_layout(title="Directions of the autoencoder beside those of W_E")

# %% [markdown]
# ## Three controls
# With 40 latents in eight dimensions something will always lie near a feature. Random directions say how near; so does
# an autoencoder of the same size on an untrained toy's hidden layer, matched with the trained toy's features; and the
# principal components show that this is no matter of variance.

# %%
generator = torch.Generator().manual_seed(1)
_, cache = tms.ToyModel(tms.ToyConfig(20, 8), seed=99).run_with_cache(data.sample(2**14, seed=1))
untrained = train(cache["hook_hidden"].detach(), 40, 0.05, steps=STEPS // 3)
components = torch.linalg.svd(hidden - hidden.mean(0), full_matrices=False).Vh
found = {
    "autoencoder": cosine,
    "of an untrained toy": matched(untrained.W_dec)[0],
    "random directions": matched(torch.randn(40, 8, generator=generator))[0],
    "principal components": matched(torch.cat([components, -components]))[0],
}
plots.strips(found, "cosine with its feature").update_layout(title="Are these the features?")

# %% [markdown]
# ## How sparse should it be?
# Too small a penalty, and latents mix; too large, and features are lost. On a real model one sees two columns of this
# table, the loss and the active latents. The third is what one wants to know.

# %%
rows = {}
penalties = [0.005, 0.1, 2.0] if quick else [0.002, 0.01, 0.05, 0.2, 0.5, 1.0, 2.0]
for penalty in penalties:
    one = train(hidden, 40, penalty, steps=STEPS // 2)
    again, latents = one(hidden[:8192])
    missed = ((again - hidden[:8192]).square().sum() / hidden[:8192].square().sum()).item()
    active = (latents > 1e-3).sum(-1).double().mean().item()
    rows[penalty] = missed, active, (matched(one.W_dec)[0] > 0.9).double().mean().item()
missed, active, recovered = map(np.array, zip(*rows.values(), strict=True))
x = np.array(penalties)
lines = {
    "features recovered (cosine > 0.9)": (x, recovered),
    "variance missed": (x, missed),
}
plots.curves(lines, "penalty", "share", log_x=True)

# %%
dict(
    zip(penalties, active.round(2).tolist(), strict=True)
)  # latents active per sample; features: 20 x 0.05 = 1

# %% [markdown]
# ## With SAELens
# SAELens needs another release of TransformerLens, so it lives in an environment of its own, which
# `make test-compat COMPAT=sae-lens` makes. What its autoencoders find is judged by the same
# `matched`; and `probes.probe_activations` takes their latents.

# %%
if find_spec("sae_lens"):
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.synthetic import FeatureDictionary, train_toy_sae

    dictionary, step = FeatureDictionary(20, 8, initializer=None), iter(range(10**9))
    dictionary.feature_vectors.data = toy.W_E.detach().clone()  # gives what the toy has at hook_hidden
    lens = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=8, d_sae=40, l1_coefficient=0.1))
    draw = lambda n: data.sample(n, seed=7, step=next(step))  # noqa: E731
    train_toy_sae(lens, dictionary, draw, training_samples=1024 * STEPS, batch_size=1024, lr=3e-3)
    print(matched(lens.W_dec.detach())[0].sort().values)
else:
    print("SAELens is not here: make test-compat COMPAT=sae-lens")
