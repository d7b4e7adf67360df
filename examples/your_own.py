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
# # Your own question: data, task, activation, loss, module
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tms-hooks/tms-hooks/blob/main/examples/your_own.ipynb)
#
# The library asks the field's questions. The next one is yours, and it needs a part that nobody has written. Each part
# below is a function, or a class with one method; training, saving, plots and probes then work as with any other part.

# %%
from importlib.util import find_spec

# On Colab; where the library is installed this cell does nothing.
if find_spec("tms_hooks") is None:
    source = "git+https://github.com/tms-hooks/tms-hooks"
    get_ipython().run_line_magic("pip", f"install -q 'tms-hooks[fast,plots] @ {source}'")

# %%
import os
import tempfile

import torch

import probes
import tms_hooks as tms
from tms_hooks import plots, rng

STEPS = 500 if "TMS_QUICK" in os.environ else 3_000
HOW = {"steps": STEPS, "optimizer": tms.Adam(lr=1e-2, schedule="cosine"), "progress": False}

# %% [markdown]
# ## Your own data
# Say that features come in bursts: at a random place on a circle of features, a random number of neighbors is active.
# A distribution is one method, `_draw`. It takes a key per model and gives "model batch feature". All its numbers come
# from the keys, which is why a model sees the same rows alone and in a crowd, and after a pause.


# %%
class Bursts(tms.Distribution):
    def _draw(self, keys, batch):
        u = rng.uniforms(keys, batch, self.n_features + 2)  # "model batch number", in [0, 1)
        start, length = (u[..., i, None] * self.n_features for i in (-2, -1))
        place = (torch.arange(self.n_features, device=keys.device) - start) % self.n_features
        return torch.where(place < length / 3, u[..., :-2], 0.0)  # up to a third of the circle


bursts = Bursts(n_features=12)
plots.signed_heatmap(bursts.sample(12, seed=0), "feature", "sample", "value").update_layout(
    title="Twelve samples"
)

# %% [markdown]
# Eight toys of it in one call, and `run.table` with a row per model. A burst is at most four features long, so features
# that are four or more places apart never meet, and may share a line on opposite sides. Neighbors may not.

# %%
run = tms.train(tms.ToyConfig(12, 6), bursts, seeds=8, **HOW)
gram = tms.geometry.gram(run.W_E[run.final_loss.argmin()])
plots.signed_heatmap(gram, "feature", "feature", "W_i . W_j").update_layout(title="The best of eight toys")

# %%
run.table

# %% [markdown]
# ## Your own task
# A task is a function of the inputs, "batch feature" to "batch output". This one asks for the contrast of every feature
# with its neighbor, |x_i - x_(i+1)|. A toy needs a hidden ReLU for that, and an unembedding of its own (`tied=False`).


# %%
def contrast(x):
    return (x - x.roll(-1, dims=-1)).abs()


cfg = tms.ToyConfig(12, 24, tied=False, hidden_act="relu")
asked = tms.train(cfg, bursts, task=contrast, seeds=4, **HOW)
best = int(asked.final_loss.argmin())
figure = plots.signed_heatmap(asked.W_E[best].T, "feature", "neuron", "W_E")
figure.update_layout(title="What each neuron reads: one feature against its neighbor")

# %% [markdown]
# A part is tried on a few samples before anything is trained. What it may not do is said, with the way out:

# %%
try:
    tms.train(cfg, bursts, task=lambda x: x.sum(-1), **HOW)
except ValueError as error:
    print(error)

# %% [markdown]
# ## Your own loss, your own activation
# A loss is a function of (output, target) that gives the cost of every output. An activation is a function too. Own
# parts run on the torch engine; `engine="fused"` would name the first that it cannot compile.


# %%
def careful(out, target):
    error = out - target
    return torch.where(error > 0, 20.0, 1.0) * error.square()  # false alarms are dear


def softplus(h):
    return torch.nn.functional.softplus(4 * h) / 4


# %%
cfg = tms.ToyConfig(12, 4, output_act=softplus)
wary = tms.train(cfg, bursts, loss=careful, seeds=4, **HOW | {"steps": STEPS // 3})
usual = tms.train(cfg, bursts, seeds=4, **HOW | {"steps": STEPS // 3})
x = bursts.sample(4096, seed=99)
runs = {"20 times above": wary, "the same": usual}
heard = {name: run.models[0](x)[x == 0][:400] for name, run in runs.items()}
figure = plots.strips(heard, "output of a silent feature", "cost")
figure.update_layout(title="What is heard of features that are silent")

# %% [markdown]
# A saved run knows its parts by name. It never imports one: you give them back, and a lacking one is named.

# %%
with tempfile.TemporaryDirectory() as folder:
    wary.save(f"{folder}/wary")
    try:
        tms.load(f"{folder}/wary", using=[Bursts])
    except LookupError as error:
        print(error)
    again = tms.load(f"{folder}/wary", using=[Bursts, careful, softplus])
print(again.resume(steps=10))

# %% [markdown]
# ## Your own module
# Any torch module can be looked into by the tools that take toys and transformers: `probes.hook_modules` gives hook
# points to the outputs of the submodules that you name. Here it is a network that adds two numbers in one-hot form.

# %%
generator, drawn = (torch.Generator().manual_seed(0) for _ in range(2))
net = torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.ReLU(), torch.nn.Linear(32, 19))
for layer in (net[0], net[2]):  # torch's own way, with a generator of our own
    for parameter in layer.parameters():
        torch.nn.init.uniform_(
            parameter, -(layer.in_features**-0.5), layer.in_features**-0.5, generator=drawn
        )
a, b = torch.cartesian_prod(torch.arange(10), torch.arange(10)).T
x = torch.cat([torch.eye(10)[a], torch.eye(10)[b]], dim=1)

# %%
adam = torch.optim.Adam(net.parameters(), lr=1e-2)
for _ in range(300):
    adam.zero_grad()
    torch.nn.functional.cross_entropy(net(x), a + b).backward()
    adam.step()
hooked = probes.hook_modules(net, ["0", "1", "2"])
probes.audit_hooks(hooked, x)

# %% [markdown]
# Where can it be read off whether the sum is even? A linear probe at each point, beside shuffled targets as a control.
# Before the ReLU it is worse than a coin: the sum is linear there, and the neighbors of a held-out sum have the other
# parity.

# %%
table = probes.linear_probe(hooked, x, (a + b) % 2 == 0, cv=5)
table[["score", "baseline", "selectivity"]]

# %% [markdown]
# And which neurons carry the difference between 2 + 3 and 7 + 3? Patch one at a time: its value in the first run goes
# into the second. Several neurons carry a part each; that is what a distributed code looks like from here.

# %%
clean, corrupted = x[(a == 2) & (b == 3)], x[(a == 7) & (b == 3)]
sites = [probes.Site("1.hook_out", unit=i) for i in range(32)]
swept = probes.patch_sweep(hooked, clean, corrupted, metric=lambda out: out[:, 5] - out[:, 10], sites=sites)
swept.nlargest(5, "recovered")[["site", "recovered"]]

# %% [markdown]
# ## Your own claim
# That features in bursts are arranged by their place on the circle is so far a picture. What makes it a measured
# statement has a notebook of its own: [your own claim](your_claim.ipynb).
