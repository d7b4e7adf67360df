"""Feature distributions: frozen descriptions whose samples are pure functions of (batch, seed, step).

`base` says what a distribution is; the other modules hold one family each. A distribution of your own is one class with
`_draw`, if you know them its moments and, for the compiled engine, `fill`; a line in `DISTRIBUTIONS` lets saved runs,
sweeps and the compiled engine find it.
"""

from tms_hooks.data.base import MAX_DATASET_ROWS, Distribution, check_draw, known_moments
from tms_hooks.data.dependent import AnticorrelatedGroups, Copula, CorrelatedGroups
from tms_hooks.data.finite import KHot, OneHot, RandomPoints, Samples
from tms_hooks.data.independent import Independent, SparseGaussian, SparseUniform
from tms_hooks.data.structured import OnManifold, Tree

_FINITE = (OneHot, KHot, RandomPoints, Samples)
_KINDS = (SparseUniform, SparseGaussian, *_FINITE, CorrelatedGroups, AnticorrelatedGroups, Copula, OnManifold, Tree)
DISTRIBUTIONS: dict[str, type[Distribution]] = {cls.__name__: cls for cls in _KINDS}

__all__ = [
    "DISTRIBUTIONS", "MAX_DATASET_ROWS", "AnticorrelatedGroups", "Copula", "CorrelatedGroups", "Distribution",
    "Independent", "KHot", "OnManifold", "OneHot", "RandomPoints", "Samples", "SparseGaussian", "SparseUniform", "Tree",
    "check_draw", "known_moments",
]  # fmt: skip
