"""Claims about when a head learns: before or after the features settle, and together with them or later."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tms_hooks import geometry, linalg, plots
from tms_hooks.claims import Verdict, claim, heads, lab, seeds, share, statistic
from tms_hooks.claims.heads import ALIGNED, Omegas
from tms_hooks.config import ToyConfig
from tms_hooks.data import Distribution, SparseUniform
from tms_hooks.geometry import ORTHOGONAL
from tms_hooks.linalg import unit
from tms_hooks.models.forward import init_weights
from tms_hooks.training.optimizers import Adam

if TYPE_CHECKING:
    import plotly.graph_objects as go

PAIR, OTHERS = (0, 1), (2, 3)
M = 5
SAME_ANGLE = (float(np.cos(np.radians(18))), float(np.sin(np.radians(18))))
LAMBDAS = (0.01, 0.1, 1.0, 10.0, 100.0)
Curve = Float[np.ndarray, "step model"]


class History(NamedTuple):
    """Snapshots of training."""

    steps: np.ndarray
    W_E: Float[Tensor, "step model feature hidden"]
    omega: Float[Tensor, "step model hidden hidden"]


@claim("qk-when", "A", quick=12, full=100)
def qk_when(n_models: int) -> Verdict:
    """Trained together, singular vectors align with the attended features only after the columns of W are orthogonal.

    Aligned: the first singular pair has |cosine| > 0.9 with query and key feature; orthogonal: all pairs of the first m
    columns of W have |cosine| < 0.1; each from the first record after which it stays so until the end. n = 10, m = 5,
    importance 0.8^i, p = 0.5, pair (0, 1), lambda = 1, Adam at a constant 0.003, batch 256, 1,500 steps, a record every
    25. A model in which neither happens does not count; one in which only one does, counts the other as later; a tie is
    not later.

    Part "later": "At what point during training do SVs show alignment? Before or after W columns become orthogonal?".
    Statistic: the share of models in which alignment comes later than orthogonality.
    Threshold: above 1/2.
    Null: none, since either could come first.

    Beyond the source "with biases":
    Statistic: the same share, of heads with b_Q and b_K.
    Threshold: above 1/2.
    Null: none, since either could come first.

    Size: 12 models (quick), 100 (full).
    Controls: lambda = 0.1 and 10; both within 18 degrees; orthogonality of the two attended features alone, to each
    other and to the rest of the first m; the best head for W as it is at each record (closed form); features that are
    not attended to, (2, 3); the median steps of both; the best head's |cosine| before training; ties.
    """
    data = SparseUniform(n_features=10, feature_probability=0.5)

    def history(weight: float, biases: bool = False) -> History:
        found = lab.train_toys(
            ToyConfig(n_features=10, d_hidden=M, n_heads=1, head_bias=biases),
            data,
            n_models,
            steps=1_500,
            optimizer=Adam(lr=3e-3),
            batch_size=256,
            importance=lab.decaying(0.8, 10),
            qk_pairs=(PAIR,),
            qk_weight=weight,
            record_every=25,
        ).history
        return History(found.step.values, torch.tensor(found.W_E.values), torch.tensor(found.omega.values[:, :, 0]))

    return judge_when({weight: history(weight) for weight in (0.1, 1.0, 10.0)}, history(1.0, biases=True), data)


def judge_when(histories: Mapping[float, History], biased: History, data: Distribution) -> Verdict:
    """Do singular vectors align after the columns of W become orthogonal? The claim is about lambda = 1."""
    steps, W, omega = histories[1.0]
    by_weight = {f"lambda = {weight:g}": alignments(h.omega, h.W_E) for weight, h in histories.items()}
    aligned, overlap, attended = by_weight["lambda = 1"], largest_overlaps(W), largest_overlaps(W, PAIR)
    best = alignments(torch.stack([heads.optimal(w, data, [PAIR]) for w in W]), W)
    when_orthogonal, when_aligned = lab.settled(overlap < ORTHOGONAL, steps), lab.settled(aligned > ALIGNED, steps)
    median_orthogonal, median_aligned = _median(when_orthogonal), _median(when_aligned)

    def later(aligned: Curve, overlap: Curve, cuts: tuple[float, float] = (ALIGNED, ORTHOGONAL)) -> np.ndarray:
        """Of every model in which one of the two comes, whether alignment is the later one; in a tie it is not."""
        first, second = lab.settled(overlap < cuts[1], steps), lab.settled(aligned > cuts[0], steps)
        return np.asarray((second > first)[np.isfinite(np.minimum(first, second))])

    found = later(aligned, overlap)
    best_later = lab.mean(later(best, overlap))

    def medians(curves: Mapping[str, Curve]) -> "go.Figure":
        return plots.curves({name: (steps, np.median(c, axis=1)) for name, c in curves.items()}, "step", "|cosine|")

    curves = {"trained head": aligned, "best head": best, "columns": overlap, "columns, attended": attended}
    what = "The share of models that align after their columns are orthogonal"
    drawn = {
        "During joint training at lambda = 1, medians of the models: the smaller |cosine| of the first singular pair "
        "with the attended features, that of the best head for the same W, and the largest |cosine| of two of the "
        "first m columns.": medians(curves),
        "Alignment during joint training for three weights lambda of the head's loss (medians).": medians(by_weight),
    }
    return Verdict(
        parts={
            "later": share(what, found),
            "with biases": share(what, later(alignments(biased.omega, biased.W_E), largest_overlaps(biased.W_E))),
        },
        n_models=len(found),
        controls={
            **{
                f"lambda = {weight:g}": lab.mean(later(by_weight[f"lambda = {weight:g}"], largest_overlaps(other.W_E)))
                for weight, other in histories.items()
                if weight != 1.0
            },
            "both within 18 degrees": lab.mean(later(aligned, overlap, SAME_ANGLE)),
            "orthogonality of the two attended features alone": lab.mean(later(aligned, attended)),
            "best head for W at each record": best_later,
            "median step of orthogonality": median_orthogonal,
            "median step of alignment": median_aligned,
            "median step at which the best head would be aligned": _median(lab.settled(best > ALIGNED, steps)),
            "models that become orthogonal": np.isfinite(when_orthogonal).sum(),
            "models that become aligned": np.isfinite(when_aligned).sum(),
            "models aligned with features not attended to": (alignments(omega, W, OTHERS)[-1] > ALIGNED).sum(),
            "ties": (np.isfinite(when_aligned) & (when_orthogonal == when_aligned)).sum(),
            "|cosine| of the best head before training": best[0].mean(),
            "|cosine| at the end": aligned[-1].mean(),
            "|cosine| of the best head at the end": best[-1].mean(),
        },
        theory=best_later,
        detail=f"In the median model columns are orthogonal from step {median_orthogonal:.0f} on and singular vectors "
        f"aligned from step {median_aligned:.0f} on."
        if len(found)
        else "",
        figures=drawn if len(found) else (),
    )


def largest_overlaps(W_E: Float[Tensor, "step model feature hidden"], features: Sequence[int] = range(M)) -> Curve:
    """Largest |cosine| of one of these features with another of the first m."""
    found = linalg.overlaps(W_E[..., :M, :].double())[..., list(features), :]
    return np.asarray(found.amax((-2, -1)))


def alignments(
    omega: Float[Tensor, "*step model hidden hidden"],
    W_E: Float[Tensor, "*step model feature hidden"],
    pair: tuple[int, int] = PAIR,
) -> Float[np.ndarray, "*step model"]:
    """The smaller |cosine| of the first singular vectors with a pair of features."""
    U, _, Vh = torch.linalg.svd(omega.double())
    query = (U[..., 0] * unit(W_E[..., pair[0], :])).sum(-1).abs()
    key = (Vh[..., 0, :] * unit(W_E[..., pair[1], :])).sum(-1).abs()
    return np.asarray(torch.minimum(query, key))


def _median(steps: np.ndarray) -> float:
    """Median of the steps that are finite."""
    finite = steps[np.isfinite(steps)]
    return float(np.median(finite)) if len(finite) else float("nan")


class Outcome(NamedTuple):
    """Models trained in one way."""

    W_E: lab.Stacked
    omega: Omegas
    representation_loss: Float[Tensor, " model"]
    head_loss: Float[Tensor, " model"]


@claim("qk-joint-or-staged", "A", quick=12, full=60)
def qk_joint_or_staged(n_models: int) -> Verdict:
    """Training W and the head together disturbs the geometry that features take when W is trained first.

    n = 6, m = 3, importance 1, p = 0.1, pair (0, 1), Adam at 0.01 with cosine decay, batch 256, 3,000 steps (joint),
    3,000 and 3,000 (first W, then the head).

    Part "disturbs": "depend on getting features to self-organize in a particular way. This may be hard when also
    training the pseudo-head.".
    Statistic: mean over models of the mean |difference| in dimensionality D_i, over features, between W trained
    jointly at lambda = 1 and W trained first, from the same initial weights on the same batches; minus the same
    between W trained first and again on other batches.
    Threshold: above 0.05, a tenth of the dimensionality of a feature in an antipodal pair.
    Null: none, since what other batches do is taken off.

    Beyond the source "lambda = 100":
    Statistic: the same at lambda = 100.
    Threshold: above 0.05.
    Null: none, since what other batches do is taken off.

    Size: 12 models (quick), 60 (full), of each kind.
    Controls: lambda = 0.01, 0.1, 10 and 100; the re-run alone; D_i of the attended features, of the others, the
    |cosine| of singular vectors and features, and both losses, jointly and in stages; the optimal head on W.
    """
    cfg = ToyConfig(n_features=6, d_hidden=3, n_heads=1)
    starts = [init_weights(cfg, seed) for seed in seeds.of(n_models)]
    data = SparseUniform(n_features=6, feature_probability=0.1)

    def outcome(weight: float = 1.0, staged: bool = False, first_seed: int = 0) -> Outcome:
        """The models of seeds 0, 1, ..., on batches of the seeds from `first_seed` on."""
        run = lab.train_from(
            cfg,
            data,
            starts,
            steps=3_000,
            seeds=seeds.of(range(first_seed, first_seed + n_models)),
            batch_size=256,
            stages=("representation", "heads") if staged else ("joint",),
            qk_pairs=(PAIR,),
            qk_weight=weight,
        )
        omega = heads.omegas(run.weights)[:, 0]
        return Outcome(run.W_E, omega, run.final_feature_loss.sum(-1), run.final_head_loss.sum(-1))

    return judge_joint(
        {w: outcome(w) for w in LAMBDAS}, outcome(staged=True), outcome(staged=True, first_seed=n_models), data
    )


def judge_joint(joint: Mapping[float, Outcome], staged: Outcome, again: Outcome, data: Distribution) -> Verdict:
    """Does joint training move dimensionalities by more than other batches do? The claim is about lambda = 1."""

    def moved(outcome: Outcome) -> np.ndarray:
        difference = geometry.dimensionality(outcome.W_E) - geometry.dimensionality(staged.W_E)
        return np.asarray(difference.abs().mean(-1).double())

    excess = {weight: moved(joint[weight]) - moved(again) for weight in (1.0, 100.0)}
    kinds = {f"lambda = {weight:g}": outcome for weight, outcome in joint.items()} | {"staged": staged}
    numbers = {name: _summary(outcome, data) for name, outcome in kinds.items()}

    def against_lambda(ylabel: str, *names: str) -> "go.Figure":
        joined = {name: {weight: numbers[f"lambda = {weight:g}"][name] for weight in joint} for name in names}
        ends = min(joint), max(joint)
        levels = {f"{name}, staged": dict.fromkeys(ends, numbers["staged"][name]) for name in names}
        return lab.curves(joined | levels, "lambda", ylabel, log_x=True)

    what = "The mean change of D_i under joint training, beyond that under other batches,"
    return Verdict(
        parts={
            "disturbs": statistic(what, np.mean, excess[1.0]),
            "lambda = 100": statistic(what, np.mean, excess[100.0]),
        },
        n_models=len(excess[1.0]),
        controls={
            "other batches": moved(again).mean(),
            **{f"lambda = {w:g}: change of D_i": moved(outcome).mean() for w, outcome in joint.items()},
            **{f"{kind}: {name}": value for kind, all_of in numbers.items() for name, value in all_of.items()},
        },
        detail="At lambda = 1 the attended features have D_i = {:.3g} and the head's loss is {:.3g}; in stages {:.3g} "
        "and {:.3g}.".format(
            *(numbers[kind][name] for kind in ("lambda = 1", "staged") for name in ("D_i, attended", "head loss"))
        ),
        figures={
            "Dimensionality of the attended features and of the others against lambda; level lines: W first.": (
                against_lambda("D_i", "D_i, attended", "D_i, others")
            ),
            "The smaller |cosine| of the first singular pair with the attended features, and that of the optimal head "
            "on the same W, against lambda.": against_lambda("|cosine|", "|cosine|", "|cosine|, optimal head"),
            "Both losses on held-out data against lambda.": against_lambda("loss", "representation loss", "head loss"),
        },
    )


def _summary(outcome: Outcome, data: Distribution) -> dict[str, float]:
    D = geometry.dimensionality(outcome.W_E)
    best = heads.optimal(outcome.W_E, data, [PAIR])
    return {
        "D_i, attended": float(D[:, list(PAIR)].mean()),
        "D_i, others": float(D[:, len(PAIR) :].mean()),
        "norm, attended": float(outcome.W_E[:, list(PAIR)].norm(dim=-1).mean()),
        "|cosine|": float(alignments(outcome.omega, outcome.W_E).mean()),
        "|cosine|, optimal head": float(alignments(best, outcome.W_E).mean()),
        "representation loss": float(outcome.representation_loss.mean()),
        "head loss": float(outcome.head_loss.mean()),
    }
