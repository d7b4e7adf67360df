"""What tools of `probes` give on toys and on modules that are no transformers, held against edits of the running model.

As `judges`, for the other half of the zoo.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probes import render
from probes.activation_patching import patch_sweep, path_patch
from probes.activations import collect_activations
from probes.alignment import align, nearest_tokens
from probes.attribution import attribution_sweep
from probes.bottleneck import bottleneck
from probes.circuits import ov_circuit, qk_circuit
from probes.linear import linear_probe
from probes.liveness import audit_hooks
from probes.sites import Site
from probes.slices import ablate_slices, attention_slices
from probes.tangent import tangent_space
from probes.weight_patching import init_patching, patch_weights
from tests.probes import zoo
from tests.probes.judges import LIMIT, metric, products_of, relative_error, spectrum_error, step, with_one


def toy_form(name: str, *, fold_norm: bool) -> float:
    model, x = zoo.other(name), zoo.features(name)
    worst = 0.0
    for head in (0, 2):
        omega = qk_circuit(model, 0, head, bias=True, fold_norm=fold_norm)
        out, cache = model.run_with_cache(x)
        hidden = with_one(cache["hook_hidden"])
        worst = max(worst, relative_error(hidden @ omega.matrix @ hidden.mT, out.attn_scores[:, head].double()))
    return worst


def toy_slices(name: str) -> float:
    model, x = zoo.other(name), zoo.features(name)
    split = attention_slices(model, x, 0, 1, n_null=1)
    return relative_error(split.slices.sum(-1), model(x).attn_scores[:, 1][tuple(split.pairs.T)].double())


def toy_bottleneck(name: str, path: str, *, fold_norm: bool) -> float:
    """One unit more where it is written: what changes where it is read, or before the output's nonlinearity.

    MLPs of a residual stream that would read it on the way are silenced.
    """
    model, x = zoo.other(name), zoo.features(name)
    directions = bottleneck(model, path, fold_norm=fold_norm)
    made = (directions.write @ directions.read.mT).double()
    see = "hook_unembed" if "hook_unembed" in model.hook_dict else None
    see = "blocks.1.mlp.hook_pre" if path.endswith("mlp.in") else see
    between = [name for name in model.hook_dict if name.endswith("hook_mlp_out")][path.startswith("blocks") :]
    quiet = [(name, lambda value, hook: torch.zeros_like(value)) for name in between]
    changes = []
    for unit in range(len(directions.write)):
        found = []
        for more in (0.0, 1.0):
            added = x.clone()
            edits: list[Any] = list(quiet)
            if path.startswith("embed"):
                added[..., unit] += more
            else:

                def write(post: Tensor, hook: Any, unit: int = unit, more: float = more) -> Tensor:
                    return post + more * torch.eye(post.shape[-1])[unit]

                edits.append(("blocks.0.mlp.hook_post", write))
            if see:
                edits.append((see, lambda value, hook, found=found: found.append(value.double())))
                model.run_with_hooks(added, fwd_hooks=edits)
            else:
                found.append(model(added).double())
        changes.append(found[1] - found[0])
    return max(relative_error(row.expand_as(change), change) for row, change in zip(made, changes, strict=True))


def toy_audit(name: str) -> float:
    model, x = zoo.other(name), zoo.features(name)
    table = audit_hooks(model, x)
    wrong = 0
    for hook in model.hook_dict:
        out, usual = (
            model.run_with_hooks(x, fwd_hooks=[(hook, lambda value, hook, more=more: value + more)])
            for more in (1 + torch.rand(6, generator=torch.Generator().manual_seed(2))[:1], 0.0)
        )
        live = any(not torch.equal(a, b) for a, b in zip(tensors_of(out), tensors_of(usual), strict=True))
        wrong += not table.loc[hook, "fires"] or live != table.loc[hook, "live"]
    return float(wrong)


def tensors_of(out: Any) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)


def passing(model: Any, x: Tensor, hook: str, edit: Callable[[Tensor], Tensor | None] = lambda v: None) -> Any:
    """The output, and what passes at a point, while `edit` acts there: by a plain torch hook, not by the model's."""
    seen: list[Tensor] = []

    def act(point: nn.Module, args: Any, value: Tensor) -> Tensor | None:
        seen.append(value.detach().clone())
        return edit(value)

    handle = model.hook_dict[hook].register_forward_hook(act)
    try:
        return tensors_of(model(x))[0], seen[0]
    finally:
        handle.remove()


def last(value: Tensor) -> Tensor:
    return value[:, -1] if value.ndim == 3 else value


def toy_collect(name: str) -> float:
    model, x, hook = zoo.other(name), zoo.features(name), zoo.POINTS[name].late
    return relative_error(collect_activations(model, x, hook, batch_size=2)[hook], passing(model, x, hook)[1])


def toy_probe(name: str) -> float:
    """Targets are a linear function of what passes at the last position: R^2 is 1."""
    model, x, hook = zoo.other(name), zoo.features(name, 60), zoo.POINTS[name].early
    value = last(passing(model, x, hook)[1]).double()
    targets = value @ torch.randn(value.shape[1], generator=torch.Generator().manual_seed(3)).double()
    return abs(1 - linear_probe(model, x, targets, hook, control=False).score.item())


def toy_tangent(name: str) -> float:
    model, x, hook = zoo.other(name), zoo.features(name), zoo.POINTS[name].early
    nudge = torch.zeros_like(passing(model, x, hook)[1], requires_grad=True)
    out = last(passing(model, x, hook, lambda value: value + nudge)[0])
    rows = [last(torch.autograd.grad(column.sum(), nudge, retain_graph=True)[0]) for column in out.unbind(1)]
    return relative_error(tangent_space(model, x, hook).jacobian, torch.stack(rows, 1))


def toy_sweep(name: str) -> float:
    """Each unit, then all of them."""
    model, hook, (clean, corrupted) = zoo.other(name), zoo.POINTS[name].early, zoo.features(name, 4).split(2)
    table = patch_sweep(model, clean, corrupted, metric, [Site(hook=hook, unit="each"), Site(hook=hook)])
    source, expected = passing(model, clean, hook)[1], []
    for units in [*([unit] for unit in range(source.shape[-1])), slice(None)]:

        def patch(value: Tensor, units: Any = units) -> Tensor:
            value = value.clone()
            value[..., units] = source[..., units]
            return value

        expected.append(metric(passing(model, corrupted, hook, patch)[0]).mean().detach())
    assert table.recovered.iloc[-1] == pytest.approx(1, abs=LIMIT)
    return relative_error(torch.tensor(table.metric.to_numpy()), torch.stack(expected).double())


def toy_path(name: str) -> float:
    """All that the first does to the output goes through the second."""
    model, points, (clean, corrupted) = zoo.other(name), zoo.POINTS[name], zoo.features(name, 4).split(2)
    table = path_patch(model, clean, corrupted, metric, points.early, points.late)
    return abs(1 - table.recovered.item())


def toy_weights(name: str) -> float:
    model, x, weight = zoo.other(name), zoo.features(name), zoo.POINTS[name].weight
    [full] = (full for full, _ in model.named_parameters() if full.endswith(weight))
    other = model.get_parameter(full).detach().clone()
    other[1] = torch.randn(other.shape[1], generator=torch.Generator().manual_seed(4))
    expected = tensors_of(torch.func.functional_call(model, {full: other}, (x,)))[0]
    with patch_weights(model, {weight: other}, {weight: 1}):
        patched = tensors_of(model(x))[0]
    assert relative_error(patched, tensors_of(model(x))[0]) > LIMIT
    return relative_error(patched, expected)


STREAM = ("blocks.1.hook_resid_post", "blocks.0.hook_resid_post")


def toy_map(name: str) -> tuple[Tensor, Tensor]:
    """What each feature writes into the hidden layer, and what each unit there is read as.

    MLPs of a residual stream that would read it on the way are silenced.
    """
    model, x, points = zoo.other(name), zoo.features(name)[:1], zoo.POINTS[name]
    quiet = [(hook, lambda value, hook: torch.zeros_like(value)) for hook in model.hook_dict if "hook_mlp_out" in hook]

    def seen(x: Tensor, nudge: Tensor | float, see: str | None) -> Tensor:
        found: list[Tensor] = []
        edits = [*quiet, (hidden, lambda value, hook: value + nudge)]
        edits += [(see, lambda value, hook: found.append(value.double()))] if see else []
        out = tensors_of(model.run_with_hooks(x, fwd_hooks=edits))[0]
        return last(found[0] if see else out.double())[0]

    def of_feature(i: int) -> Tensor:
        more = x.clone()
        more[..., i] += 1
        return seen(more, 0.0, points.early) - seen(x, 0.0, points.early)

    see = "hook_unembed" if "hook_unembed" in model.hook_dict else None
    hidden = next(hook for hook in (*STREAM, "hook_hidden") if hook in model.hook_dict)
    write = torch.stack([of_feature(i) for i in range(x.shape[-1])])
    read = [seen(x, unit, see) - seen(x, 0.0, see) for unit in torch.eye(write.shape[1])]
    return write, torch.stack(read, 1)


def toy_align(name: str) -> float:
    directions = torch.randn(4, 3, generator=torch.Generator().manual_seed(5)).double()
    found = align(bottleneck(zoo.other(name), "embed->unembed"), directions, n_null=1)
    write, read = toy_map(name)
    patterns = (directions @ torch.linalg.pinv(end) for end in (write, read))
    return spectrum_error(found, *patterns, write @ read.mT)


def toy_align_scores(name: str) -> float:
    model, x = zoo.other(name), zoo.features(name)
    circuit = qk_circuit(model, 0, 1, bias=True)
    out, cache = model.run_with_cache(x)
    hidden = with_one(cache["hook_hidden"]).flatten(0, 1)
    found = align(circuit, hidden, n_null=1)
    lengths = hidden.norm(dim=-1)
    form = lengths[:, None] * (found.left_cosines.mT @ (found.S[:, None] * found.right_cosines)) * lengths
    scores = [block[:, i] for i, block in enumerate(form.unflatten(1, (len(x), -1)).split(x.shape[1]))]
    return relative_error(torch.stack(scores), out.attn_scores[:, 1].double())


def toy_nearest(name: str, by: Any) -> float:
    model = zoo.other(name)
    n = getattr(model, "W_U", torch.eye(1)).shape[-1] if by == "unembed" else 6
    found = products_of(nearest_tokens(model, torch.eye(3), n, by=by))
    return relative_error(found, toy_map(name)[by == "unembed"])


def toy_attribution(name: str, *, edges: bool) -> float:
    """A difference, unit by unit, times the gradient; of the edges to the output layer, which hears all of it."""
    model, points, (clean, corrupted) = zoo.other(name), zoo.POINTS[name], zoo.features(name, 24).split(12)
    receivers = Site(points.late) if edges else None
    table = attribution_sweep(model, clean, corrupted, metric, Site(points.early, unit="each"), receivers)
    start, end = (passing(model, x, points.early)[1] for x in (corrupted, clean))
    nudge = torch.zeros_like(start, requires_grad=True)
    value = metric(passing(model, corrupted, points.early, lambda x: x + nudge)[0])
    [gradient] = torch.autograd.grad(value.sum(), nudge)
    changes = torch.tensor(table.metric.to_numpy()) - value.mean().detach().double()
    return relative_error(changes, ((end - start) * gradient).reshape(12, -1, start.shape[-1]).sum(1).mean(0).double())


def toy_ablation(name: str) -> float:
    """Scores, less what the slices of a matrix that is formed in full give."""
    model, x = zoo.other(name), zoo.features(name)
    table = ablate_slices(model, x, lambda out: out.attn_scores[:, 1, 0, 2], 0, 1, [1], n_random=1)
    hidden = with_one(passing(model, x, "hook_hidden")[1])
    omega = qk_circuit(model, 0, 1, bias=True).matrix
    U, changes = torch.linalg.svd(omega).U, []
    for directions in (U[:, [1]], U[:, :2]):
        lost = torch.einsum("bi,ij,bj->b", hidden[:, 0] @ directions @ directions.mT, omega, hidden[:, 2])
        changes.append(-lost.mean())
    return relative_error(torch.tensor(table["change"][["slices", "head"]].to_numpy()), torch.stack(changes))


def toy_init(name: str) -> float:
    initial, weight = zoo.other(name), zoo.POINTS[name].weight
    full = next(full for full, _ in initial.named_parameters() if full.endswith(weight))
    donor = zoo.other(name)
    with torch.no_grad():
        donor.get_parameter(full).neg_()

    def retrain(models: list[Any], seeds: list[int]) -> list[Any]:
        for model, seed in zip(models, seeds, strict=True):
            step(model, model, zoo.features(name, 12 - seed))
        return models

    def outcome(model: Any) -> float:
        return float(metric(model(zoo.features(name))).mean().detach())

    table = init_patching(initial, donor, {weight: 1}, retrain, outcome, ("self", "rerun"))
    expected = []
    for sign, seed in ((1, 0), (-1, 0), (1, 1)):
        model = zoo.other(name)
        with torch.no_grad():
            model.get_parameter(full)[1] *= sign
        expected += [outcome(retrain([model], [seed])[0])]
    made = table.set_index("condition").outcome[["unpatched", "patched", "rerun"]]
    assert made.nunique() == 3
    return relative_error(torch.tensor(made.to_numpy()), torch.tensor(expected).double())


def toy_render(name: str) -> float:
    """What stands in the pictures: activations, a sweep and, where there are heads, their scores."""
    model, x, hook = zoo.other(name), zoo.features(name), zoo.POINTS[name].early
    value, words = last(collect_activations(model, x, hook)[hook]), [str(i) for i in range(len(x))]
    clean, corrupted = zoo.features(name, 4).split(2)
    figure = render.sweep_figure(patch_sweep(model, clean, corrupted, metric, Site(hook)))
    shown = [
        (render.token_values(words, value).props["values"], last(passing(model, x, hook)[1])),
        (list(figure.data[0].z[0]), torch.ones(1)),
    ]
    if "with heads" in name:
        scores = attention_slices(model, x[:1], 0, 1, n_null=1).scores.reshape(1, x.shape[1], x.shape[1])
        positions = [str(i) for i in range(x.shape[1])]
        shown.append((render.attention(positions, scores).props["attention"], model(x[:1]).attn_scores[0, 1]))
    return max(relative_error(torch.tensor(found).double(), own.double()) for found, own in shown)


OF_TOYS: dict[str, Callable[[str], float]] = {
    "qk_circuit": partial(toy_form, fold_norm=False),
    "qk_circuit, folded": partial(toy_form, fold_norm=True),
    "attention_slices": toy_slices,
    "ov_circuit": lambda name: float(len(ov_circuit(zoo.other(name), 0, 0))),
    "ov_circuit, folded": lambda name: float(len(ov_circuit(zoo.other(name), 0, 0, fold_norm=True))),
    "embed->unembed": partial(toy_bottleneck, path="embed->unembed", fold_norm=False),
    "embed->unembed, folded": partial(toy_bottleneck, path="embed->unembed", fold_norm=True),
    "mlp.out->unembed": partial(toy_bottleneck, path="blocks.0.mlp.out->unembed", fold_norm=False),
    "mlp.out->mlp.in": partial(toy_bottleneck, path="blocks.0.mlp.out->blocks.1.mlp.in", fold_norm=False),
    "mlp.out->mlp.in, folded": partial(toy_bottleneck, path="blocks.0.mlp.out->blocks.1.mlp.in", fold_norm=True),
    "align, embed->unembed": toy_align,
    "align, qk": toy_align_scores,
    "nearest_tokens": partial(toy_nearest, by="unembed"),
    "nearest_tokens, embed": partial(toy_nearest, by="embed"),
    "audit_hooks": toy_audit,
    "collect_activations": toy_collect,
    "linear_probe": toy_probe,
    "tangent_space": toy_tangent,
    "patch_sweep": toy_sweep,
    "path_patch": toy_path,
    "attribution_sweep": partial(toy_attribution, edges=False),
    "attribution_sweep, edges": partial(toy_attribution, edges=True),
    "ablate_slices": toy_ablation,
    "patch_weights": toy_weights,
    "init_patching": toy_init,
    "render": toy_render,
}
"""The same for toys, whose circuits have no values: those must be refused."""
