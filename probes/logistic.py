"""Logistic regression of many yes/no targets on the same inputs, all fitted at once.

Newton's method solves a linear system per target and step, with the target's own Hessian X^T D X as its matrix.
Conjugate gradients solve them together: each step is one product of matrices for all targets, and one factorization, of
the mean of all Hessians, makes few steps enough. A target that is done leaves.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor
from torch.nn.functional import softplus

CHUNK = 256
"""Targets fitted side by side: memory is a few times rows x CHUNK."""
CONJUGATE_STEPS = 30
"""At most, per Newton step; an inexact step only costs another one."""


class LogisticTargets(ClassifierMixin, BaseEstimator):
    """One `LogisticRegression` for every column of the targets, fitted together, each to the same solution.

    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> LogisticTargets().fit(x, x[:, :2] > 0).coef_.shape
    (2, 3)

    Minimizes |w|^2 / 2 + C sum log(1 + exp(-s (x . w + b))), s = +-1, for each target.

    Args:
        C: inverse strength of the penalty, as in scikit-learn.
        tol: largest entry of the gradient at which a target is done; coefficients are then off by about as much.
        max_iter: Newton steps.

    Attributes:
        coef_, intercept_: "target d_in" and " target".
    """

    def __init__(self, C: float = 1.0, tol: float = 1e-7, max_iter: int = 100) -> None:
        self.C, self.tol, self.max_iter = C, tol, max_iter

    def fit(self, X: Float[np.ndarray, "row d_in"], y: Bool[np.ndarray, "row target"]) -> "LogisticTargets":
        """Fit all targets.

        Raises:
            ValueError: a target that is the same in all rows.
            RuntimeError: a target that is not done after `max_iter` steps.
        """
        positive = y.sum(0)
        if (alike := np.flatnonzero((positive == 0) | (positive == len(y)))).size:
            raise ValueError(
                f"target {alike[0]} has one class in these {len(y)} rows, as have {alike.size - 1} others: drop "
                "targets with few examples of a class, or take fewer folds"
            )
        design = torch.from_numpy(np.column_stack([X, np.ones(len(X))]))
        penalty = torch.ones(design.shape[1], 1, dtype=design.dtype)
        penalty[-1] = 0.0  # the intercept
        targets = torch.from_numpy(y).to(design.dtype)
        weights = torch.cat([self._fit(design, penalty, part) for part in targets.split(CHUNK, dim=1)], dim=1)
        self.coef_, self.intercept_ = weights[:-1].mT.numpy().copy(), weights[-1].numpy().copy()
        return self

    def predict(self, X: Float[np.ndarray, "row d_in"]) -> Bool[np.ndarray, "row target"]:
        """The likelier answers: where the log odds of yes are above 0."""
        return X @ self.coef_.T + self.intercept_ > 0

    def _fit(self, design: Tensor, penalty: Tensor, y: Tensor) -> Tensor:
        done = design.new_zeros(design.shape[1], y.shape[1])
        left = torch.arange(y.shape[1])
        weights, logits = done.clone(), design.new_zeros(y.shape)

        def losses(logits: Tensor, weights: Tensor) -> Tensor:
            return self.C * softplus((1 - 2 * y) * logits).sum(0) + (penalty * weights**2).sum(0) / 2

        for _ in range(self.max_iter):
            p = logits.sigmoid()
            gradient = self.C * design.mT @ (p - y) + penalty * weights
            going = gradient.abs().amax(0) > self.tol
            if not going.all():
                done[:, left[~going]] = weights[:, ~going]
                left, y, p, gradient = left[going], y[:, going], p[:, going], gradient[:, going]
                weights, logits = weights[:, going], logits[:, going]
            if not len(left):
                return done
            step = _newton_step(design, self.C * p * (1 - p), penalty, gradient)
            along = design @ step
            # near the minimum the loss cannot tell the step from rounding
            before = losses(logits, weights) * (1 + 1e-12)
            descent, size = (gradient * step).sum(0), torch.ones(len(left)).double()
            for _ in range(30):
                worse = losses(logits + size * along, weights + size * step) > before + 1e-4 * size * descent
                if not worse.any():
                    break
                size = torch.where(worse, size / 2, size)
            weights, logits = weights + size * step, logits + size * along
        raise RuntimeError(f"{len(left)} targets are not done after {self.max_iter} steps: lower C, or raise max_iter")


def _newton_step(design: Tensor, D: Tensor, penalty: Tensor, gradient: Tensor) -> Tensor:
    """Each target's inverse Hessian times minus its gradient, to a tolerance that shrinks as the gradient does."""
    shared = torch.linalg.cholesky(design.mT @ (D.mean(1, keepdim=True) * design) + penalty[:, 0].diag())
    step, residual = torch.zeros_like(gradient), -gradient
    direction = torch.cholesky_solve(residual, shared)
    size = first = (residual * direction).sum(0)
    for _ in range(CONJUGATE_STEPS):
        curved = design.mT @ (D * (design @ direction)) + penalty * direction
        along = size / (direction * curved).sum(0).clamp_min(1e-300)
        step, residual = step + along * direction, residual - along * curved
        solved = torch.cholesky_solve(residual, shared)
        size, last = (residual * solved).sum(0), size
        if (size <= first * first.clamp_max(0.01)).all():
            break
        direction = solved + size / last.clamp_min(1e-300) * direction
    return step
