"""Claims of the pseudo-attention document: do singular vectors of a head recover the features that it attends to?"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import probes
from tms_hooks import plots, stats, theory
from tms_hooks.claims.heads import (
    Head,
    best_heads,
    is_orthogonal,
    relative_difference,
    representation,
    train_heads,
    untrained,
)
from tms_hooks.claims.registry import claim
from tms_hooks.claims.verdict import UNKNOWN, Verdict, above
from tms_hooks.data import Distribution, SparseUniform
from tms_hooks.linalg import unit
from tms_hooks.run import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

PAIR, OTHERS = (0, 1), (2, 3)
N, M, P = 10, 5, 0.5
PROBABILITIES, WIDTHS = (0.05, 0.1, 0.2, 0.3, 0.7, 0.8, 0.9), (2, 8)


class Study(NamedTuple):
    """Toys of one feature probability and one width, each with a head."""

    p: float
    heads: Sequence[Head]
    softmax: Sequence[Head] = ()
    """Heads trained on attention as a softmax over keys."""


@claim("qk-recovers-features", "A", quick=4, full=40, needs=above(0.9))
def qk_recovers_features(n_models: int) -> Verdict:
    """The first singular vectors of Omega recover the attended pair of features when features are orthogonal.

    Statistic: mean over models of the smaller |cosine| of the two: first left singular vector with the query feature,
    first right one with the key feature; n = 10, m = 5, importance 0.8^i, p = 0.5, pair (0, 1). Only models whose
    attended features are within 5.7 degrees of orthogonal to every other learned one count (|cosine| < 0.1).
    Threshold: above 0.9.
    Size: 4 models (quick), 40 (full); a quarter of them at each other p (0.05 to 0.9) and m (2, 8; n = 2m).
    Controls: the optimal head by the closed form (whitened feature directions); untrained heads; features that are not
    attended to, (2, 3); random directions in five dimensions; how many models count; the |cosine| with the closed
    form's directions in place of the features; the relative difference between trained and optimal head; at each p and
    m all models, trained and optimal, the closed form for orthonormal features, and the |cosine| with the features in
    whitened coordinates; heads trained on attention as a softmax over keys, query and key side apart, at p = 0.5 and
    0.9.
    """
    quarter = max(n_models // 4, 1)
    toys = _toys(n_models, P, M)
    trained = train_heads(toys, [[PAIR]])[0]
    by_p = {p: _study(_toys(quarter, p, M), softmax=p == PROBABILITIES[-1]) for p in PROBABILITIES}
    by_p[P] = Study(P, _heads(trained, toys.W_E), _softmax(toys, quarter))
    by_m = {m: _study(_toys(quarter, P, m)) for m in WIDTHS} | {M: by_p[P]}
    return judge_heads(
        by_p[P].heads,
        _heads(best_heads(toys.W_E, toys.recipe.data, [PAIR]), toys.W_E),
        _heads(untrained(toys)[0], toys.W_E),
        dict(sorted(by_p.items())),
        dict(sorted(by_m.items())),
    )


def judge_heads(
    trained: Sequence[Head],
    optimal: Sequence[Head],
    untrained: Sequence[Head],
    by_p: Mapping[float, Study] | None = None,
    by_m: Mapping[int, Study] | None = None,
) -> Verdict:
    """How near do first singular vectors come to the attended features?"""
    counts = np.array([is_orthogonal(head.W_E) for head in trained])
    found = recovery(trained)[counts]
    measurable = len(found) > 1
    controls = {
        "optimal head": recovery(optimal)[counts],
        "untrained heads": recovery(untrained)[counts],
        "features not attended to": recovery(trained, OTHERS)[counts],
    }
    means = {name: float(values.mean()) if len(values) else float("nan") for name, values in controls.items()}
    best = means["optimal head"]
    whitened = np.array([agreement(head, other) for head, other in zip(trained, optimal, strict=True)])[counts]
    difference = relative_difference(*(torch.stack([head.omega for head in heads]) for heads in (trained, optimal)))
    return Verdict(
        measured="The mean of the smaller |cosine| with the attended pair",
        statistic=float(found.mean()) if measurable else float("nan"),
        interval=stats.bootstrap(lambda m: float(m.mean()), found) if measurable else UNKNOWN,
        n_models=len(found),
        controls=means
        | {
            "random directions": theory.sphere_mean_overlap(trained[0].W_E.shape[-1]),
            "models that count": float(counts.sum()),
            "all models, orthogonal or not": float(recovery(trained).mean()),
            "with the closed form's directions": float(whitened.mean()) if measurable else float("nan"),
            "relative difference of Omega from the optimum": difference,
            **_grid_controls("p", by_p or {}),
            **_grid_controls("m", by_m or {}),
        },
        theory=best if np.isfinite(best) else None,
        detail=f"{counts.sum()} of {len(counts)} models have orthogonal attended features. The best possible head has "
        f"{best:.3g}.",
        figures=[
            (
                "The smaller |cosine| of the first singular pair with the attended features.",
                plots.distributions(
                    {"trained": found} | controls,
                    "|cosine|",
                    dict(zip(("trained", *controls), plots.PALETTE, strict=False)),
                ),
            ),
            *_grid_figures(by_p or {}, by_m or {}),
        ]
        if measurable
        else (),
    )


def recovery(heads: Sequence[Head], pair: tuple[int, int] = PAIR) -> np.ndarray:
    """The smaller |cosine| of each head's first singular vectors with a pair of features."""
    return np.array([min(sides(head.omega, *head.W_E[list(pair)])) for head in heads])


def sides(
    omega: Float[Tensor, "hidden hidden"], query: Float[Tensor, " hidden"], key: Float[Tensor, " hidden"]
) -> tuple[float, float]:
    """|Cosine| of the first left singular vector with one direction, and of the first right one with another."""
    U, _, Vh = torch.linalg.svd(omega.double())
    return float((U[:, 0] @ unit(query)).abs()), float((Vh[0] @ unit(key)).abs())


def agreement(head: Head, other: Head) -> float:
    """The smaller |cosine| of the first singular vectors of two heads."""
    U, _, Vh = torch.linalg.svd(other.omega.double())
    return min(sides(head.omega, U[:, 0], Vh[0]))


def whitened(head: Head, data: Distribution) -> float:
    """The smaller |cosine| of the first singular pair with the attended features, all in whitened coordinates."""
    W = head.W_E.double()
    query, key = (W[i : i + 1] for i in PAIR)
    found = probes.align(head.omega, query, key, n_null=1, covariance=W.mT @ data.second_moment() @ W)
    return float(torch.minimum(found.left_cosines[0].abs(), found.right_cosines[0].abs()))


def _toys(n_models: int, p: float, m: int) -> Run:
    return representation(2 * m, m, p, n_models, decay=0.8)


def _heads(omegas: Float[Tensor, "model hidden hidden"], W_E: Float[Tensor, "model feature hidden"]) -> list[Head]:
    return [Head(omega, w) for omega, w in zip(omegas, W_E, strict=True)]


def _study(toys: Run, softmax: bool = False) -> Study:
    p = float(toys.recipe.data.active_probability()[0])
    heads = _heads(train_heads(toys, [[PAIR]])[0], toys.W_E)
    return Study(p, heads, _softmax(toys, len(heads)) if softmax else ())


def _softmax(toys: Run, n_models: int) -> list[Head]:
    return _heads(
        train_heads(toys, [[PAIR]], head_objective="pattern", steps=400, n_models=n_models)[0], toys.W_E[:n_models]
    )


def _grid(study: Study) -> dict[str, float]:
    """Mean |cosines| of all models of one setting."""
    W_E = [head.W_E for head in study.heads]
    n, m = W_E[0].shape
    data = SparseUniform(n_features=n, feature_probability=study.p)
    best = [Head(theory.qk_optimum(w, data, [PAIR]), w) for w in W_E]
    found = {
        "trained": float(recovery(study.heads).mean()),
        "optimal": float(recovery(best).mean()),
        "orthonormal features, closed form": theory.qk_orthonormal_cosine(study.p, m),
        "with the closed form's directions": float(
            np.mean([agreement(a, b) for a, b in zip(study.heads, best, strict=True)])
        ),
        "whitened coordinates": float(np.mean([whitened(head, data) for head in study.heads])),
        "features not attended to": float(recovery(study.heads, OTHERS).mean()),
    }
    if study.softmax:
        query, key = zip(*(sides(head.omega, *head.W_E[list(PAIR)]) for head in study.softmax), strict=True)
        found |= {"softmax target, query": float(np.mean(query)), "softmax target, key": float(np.mean(key))}
    return found


def _grid_controls(letter: str, studies: Mapping[float, Study] | Mapping[int, Study]) -> dict[str, float]:
    return {
        f"{letter} = {value:g}: {name}": mean for value, study in studies.items() for name, mean in _grid(study).items()
    }


def _grid_figures(by_p: Mapping[float, Study], by_m: Mapping[int, Study]) -> "list[tuple[str, go.Figure]]":
    found = []
    for letter, meaning, studies in (("p", "feature probability p", by_p), ("m", "hidden dimensions m", by_m)):
        grid = {float(value): _grid(study) for value, study in studies.items()}
        names = dict.fromkeys(chain.from_iterable(grid.values()))
        lines = {
            name: (
                np.array([value for value in grid if name in grid[value]]),
                np.array([numbers[name] for numbers in grid.values() if name in numbers]),
            )
            for name in names
        }
        if lines:
            caption = (
                f"The smaller |cosine| of the first singular pair with the attended features against {letter}: trained "
                "heads, the best head for the same W, and the closed form for orthonormal features. With the closed "
                "form's directions in place of the features the |cosine| is 1 where the formula explains all; whitened "
                "coordinates alone do not make features of singular vectors."
            )
            found.append((caption, plots.curves(lines, meaning, "|cosine|")))
    return found
