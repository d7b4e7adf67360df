"""How hook points are called: the one file that knows TransformerLens's names.

A name says where a point is and what passes there: `blocks.3.attn.hook_q` holds the queries of block 3's attention
heads. A toy uses the same names for the parts that it has. Everything that the tools read out of a name is here: its
block, the axes of the activation, the points that a sweep or a probe takes by default, where a head reads and scores,
and the ends of a bottleneck.
"""

import re
from collections.abc import Iterable

from probes.hooked import HookedModel, blocks, check_hooks

AFTER_BLOCKS = ("hook_resid_post",)  # what a linear probe reads by default
BEFORE_GAIN = "ln1.hook_normalized"  # how a name ends where the norm's gain and shift are still to come
PARTS_OF_BLOCKS = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")  # what a sweep patches by default
_PATH = re.compile(r"(?:embed|blocks\.(\d+)\.mlp\.out)->(?:unembed|blocks\.(\d+)\.mlp\.in)")


def block_of(hook: str) -> int | None:
    """Number of the block that a hook is in.

    >>> block_of("blocks.3.attn.hook_q"), block_of("hook_embed")
    (3, None)
    """
    match = re.match(r"blocks\.(\d+)\.", hook)
    return int(match[1]) if match else None


def in_every_block(model: HookedModel, parts: Iterable[str]) -> list[str]:
    """Names of these parts of each block; none if the model lacks any of them."""
    names = [f"blocks.{i}.{part}" for i in range(len(blocks(model))) for part in parts]
    return names if all(name in model.hook_dict for name in names) else []


def axes(hook: str, ndim: int, model: HookedModel | None = None) -> tuple[str, ...]:
    """Names of an activation's axes; some points of a bridge have their positions elsewhere, and say so.

    >>> axes("blocks.0.attn.hook_q", 4), axes("blocks.0.attn.hook_pattern", 4)
    (('batch', 'pos', 'head', 'unit'), ('batch', 'head', 'pos', 'unit'))
    """
    pos = getattr(model.hook_dict[hook], "pos_dim", None) if model is not None and hook in model.hook_dict else None
    if pos == 2 and ndim == 3:
        return ("batch", "unit", "pos")
    if ndim == 4 and (pos == 2 or hook.endswith(("hook_attn_scores", "hook_pattern"))):
        return ("batch", "head", "pos", "unit")
    known = {2: ("batch", "unit"), 3: ("batch", "pos", "unit"), 4: ("batch", "pos", "head", "unit")}
    return known.get(ndim, ("batch",) + ("",) * (ndim - 1))


def embedded_at(model: HookedModel) -> str:
    """The hook of the embedded inputs."""
    for name in ("hook_embed", "embed.hook_out"):
        if name in model.hook_dict:
            return name
    raise ValueError("cannot tell where the model embeds its inputs: it has no hook_embed")


def scored_by(hook: str) -> tuple[str, str] | None:
    """Whether queries "q" or keys "k" pass at a hook, if they do, and the hook of the pattern that they make.

    >>> scored_by("blocks.3.attn.hook_k")
    ('k', 'blocks.3.attn.hook_pattern')
    """
    match = re.fullmatch(r"(blocks\.\d+\.attn\.)(?:hook_(?:rot_)?([qk])|([qk])\.hook_out)", hook)
    return (match[2] or match[3], f"{match[1]}hook_pattern") if match else None


def heads_read_at(model: HookedModel, layer: int, before_gain: bool) -> str:
    """The hook of what a layer's heads read, after the gain of the norm in front or before it.

    A `HookedTransformer` has only the latter, and a toy neither: its heads read the hidden layer.
    """
    normalized = f"blocks.{layer}.{BEFORE_GAIN}"
    after_gain = (f"blocks.{layer}.attn.q.hook_in", f"blocks.{layer}.attn.hook_in", normalized, "hook_hidden")
    for name in (normalized,) if before_gain else after_gain:
        if name in model.hook_dict:
            return name
    raise ValueError(f"cannot tell where layer {layer}'s heads read: give its hook, for example hook='hook_hidden'")


def heads_score_at(model: HookedModel, layer: int) -> tuple[str, bool]:
    """The hook of a layer's scores, and whether it holds the pattern instead, which is their softmax.

    It is the pattern where there is one: on BERT and native bridges `hook_attn_scores` does not hold the scores.
    """
    pattern, scores = f"blocks.{layer}.attn.hook_pattern", f"blocks.{layer}.attn.hook_attn_scores"
    return (pattern, True) if pattern in model.hook_dict else (check_hooks(model, scores)[0], False)


def ends_of(path: str) -> tuple[int | None, int | None]:
    """Blocks of the MLPs that a bottleneck's path joins; None for the embedding and the unembedding.

    >>> ends_of("blocks.0.mlp.out->unembed")
    (0, None)
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise ValueError(
            f"no bottleneck {path!r}; choose 'embed->unembed', 'embed->blocks.j.mlp.in', "
            "'blocks.i.mlp.out->blocks.j.mlp.in' or 'blocks.i.mlp.out->unembed'"
        )
    writes, reads = (None if number is None else int(number) for number in match.groups())
    if writes is not None and reads is not None and writes >= reads:
        raise ValueError(f"{path!r} runs backwards: block {writes}'s MLP writes after block {reads}'s has read")
    return writes, reads
